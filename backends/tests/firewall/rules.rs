//! The rules themselves, as `iptables` lists them.

use backends::chained::firewall::{Handles, add, remove, retain};
use backends::nft::{Filter, Noted, Owner, noted, remove_noted};

use super::{
    BOTH_FAMILIES, ONE, TWO, added, check, done, lines, mismatch, plain, previous, removed, resolved, run, saved,
};
use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    (
        "firewall::where_nothing_is_the_table_is_as_iptables_makes_it",
        where_nothing_is_the_table_is_as_iptables_makes_it,
    ),
    ("firewall::iptables_finds_and_deletes_each_rule", iptables_finds_and_deletes_each_rule),
    ("firewall::an_address_is_its_owners", an_address_is_its_owners),
    ("firewall::what_all_share_is_written_once", what_all_share_is_written_once),
    ("firewall::each_administrators_chain_is_jumped_to", each_administrators_chain_is_jumped_to),
    ("firewall::policies_and_other_rules_stay", policies_and_other_rules_stay),
    ("firewall::a_restored_table_names_nobody", a_restored_table_names_nobody),
    ("firewall::numbers_of_rules_are_not_trusted", numbers_of_rules_are_not_trusted),
    ("firewall::what_is_missing_is_told", what_is_missing_is_told),
    ("firewall::something_else_in_the_way_is_named", something_else_in_the_way_is_named),
    ("firewall::rules_are_listed_and_collected_by_owner", rules_are_listed_and_collected_by_owner),
    ("firewall::without_addresses_nothing_is_made", without_addresses_nothing_is_made),
];

const BASE: [&str; 4] = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"];

fn of_v4() -> Vec<&'static str> {
    vec![
        ":CNI-ADMIN - [0:0]",
        ":CNI-FORWARD - [0:0]",
        "-A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD",
        "-A CNI-FORWARD -m comment --comment \"CNI firewall plugin admin overrides\" -j CNI-ADMIN",
        "-A CNI-FORWARD -d 10.1.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A CNI-FORWARD -s 10.1.0.2/32 -j ACCEPT",
        "COMMIT",
    ]
}

fn where_nothing_is_the_table_is_as_iptables_makes_it(world: &mut World) {
    added(&ONE, &plain(BOTH_FAMILIES)).unwrap();
    let v4 = [&BASE[..], &of_v4()].concat();
    let v6 = v4.iter().map(|line| line.replace("10.1.0.2/32", "fd00:1::2/128")).collect::<Vec<_>>();
    assert_eq!(saved(), [v4.iter().map(|line| (*line).to_owned()).collect(), v6].concat());
    check(&ONE, &plain(BOTH_FAMILIES)).unwrap();
    for program in ["iptables", "ip6tables"] {
        done(program, "-P FORWARD DROP");
        assert!(done(program, "-S FORWARD").starts_with("-P FORWARD DROP\n"));
        done(program, "-N OTHER");
        done(program, "-A FORWARD -j OTHER");
    }
    for _ in 0..2 {
        removed(&mut world.host, &ONE, None);
        assert_eq!(lines("conntrack").len() + lines("-s ").len(), 0);
    }
    assert_eq!((lines("-j OTHER").len(), lines("FORWARD DROP").len(), lines("-j CNI-ADMIN").len()), (2, 2, 2));
}

fn iptables_finds_and_deletes_each_rule(_: &mut World) {
    const V4: [&str; 2] = [
        "CNI-FORWARD -d 10.1.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "CNI-FORWARD -s 10.1.0.2/32 -j ACCEPT",
    ];
    added(&ONE, &plain(BOTH_FAMILIES)).unwrap();
    for rule in V4 {
        for (program, rule) in
            [("iptables", rule.to_owned()), ("ip6tables", rule.replace("10.1.0.2/32", "fd00:1::2/128"))]
        {
            done(program, &format!("-C {rule}"));
            done(program, &format!("-D {rule}"));
            assert!(!run(program, &format!("-C {rule}")).0);
        }
    }
    assert_eq!(lines("-A CNI-FORWARD").len(), 2, "the administrator's");
}

/// The pod that had an address before is removed after the next one has it.
fn an_address_is_its_owners(world: &mut World) {
    let same = plain(BOTH_FAMILIES);
    added(&ONE, &same).unwrap();
    added(&TWO, &same).unwrap();
    assert_eq!(lines("-s 10.1.0.2/32").len(), 2);
    removed(&mut world.host, &ONE, Some(&same));
    assert_eq!(
        mismatch(&ONE, &same),
        "expected rule [-d 10.1.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT] not found"
    );
    check(&TWO, &same).unwrap();
    removed(&mut world.host, &ONE, Some(&same));
    check(&TWO, &same).unwrap();
    removed(&mut world.host, &TWO, None);
    assert_eq!(lines("-s ").len(), 0);
}

fn what_all_share_is_written_once(world: &mut World) {
    let shared = || [done("nft", "-a list chain ip filter FORWARD"), done("nft", "-a list chain ip6 filter FORWARD")];
    let strict = |n: u8| {
        let addresses = [format!("10.1.0.{n}/24"), format!("fd00:1::{n}/64")];
        let texts: Vec<&str> = addresses.iter().map(String::as_str).collect();
        resolved(r#"{"ingressPolicy":"isolated"}"#, &previous("br0", "veth0", &texts))
    };
    added(&ONE, &strict(2)).unwrap();
    let [forward, stages] =
        [shared(), [1, 2].map(|n| done("nft", &format!("-a list chain ip filter CNI-ISOLATION-STAGE-{n}")))];
    let first = saved();
    for n in 3..6 {
        added(&Owner { sandbox: &format!("d{n}"), ..ONE }, &strict(n)).unwrap();
    }
    let after = [shared(), [1, 2].map(|n| done("nft", &format!("-a list chain ip filter CNI-ISOLATION-STAGE-{n}")))];
    assert_eq!(after, [forward, stages], "the same rules, not new ones");
    for n in 3..6 {
        removed(&mut world.host, &Owner { sandbox: &format!("d{n}"), ..ONE }, None);
    }
    assert_eq!(saved(), first);
    // A repeated ADD of the same attachment: all of it goes at once.
    added(&ONE, &strict(2)).unwrap();
    removed(&mut world.host, &ONE, Some(&strict(2)));
    assert_eq!(lines("-s ").len() + lines("br0").len(), 0);
}

fn each_administrators_chain_is_jumped_to(world: &mut World) {
    done("iptables", "-N MINE");
    done("iptables", "-A MINE -s 192.0.2.1 -j DROP");
    let mine = resolved(r#"{"iptablesAdminChainName":"MINE"}"#, &previous("br0", "veth0", &["10.1.0.3/24"]));
    added(&ONE, &plain(BOTH_FAMILIES)).unwrap();
    added(&TWO, &mine).unwrap();
    added(&Owner { sandbox: "c3", ..ONE }, &plain(BOTH_FAMILIES)).unwrap();
    assert_eq!(
        lines("-j MINE"),
        ["-A CNI-FORWARD -m comment --comment \"CNI firewall plugin admin overrides\" -j MINE"]
    );
    assert_eq!((lines("-j CNI-ADMIN").len(), lines("-A MINE").len()), (2, 1));
    done("iptables", "-F CNI-FORWARD");
    added(&TWO, &mine).unwrap();
    let head: Vec<_> = lines("-A CNI-FORWARD").into_iter().take(3).collect();
    assert!(head[0].ends_with("-j MINE") && head[1].contains("-d 10.1.0.3/32"), "{head:?}");
    removed(&mut world.host, &TWO, Some(&mine));
}

fn policies_and_other_rules_stay(world: &mut World) {
    for program in ["iptables", "ip6tables"] {
        done(program, "-P FORWARD DROP");
        done(program, "-P INPUT DROP");
        done(program, "-A FORWARD -i lo -j ACCEPT");
    }
    let before = saved();
    added(&ONE, &plain(BOTH_FAMILIES)).unwrap();
    let order: Vec<_> = lines("-A FORWARD").into_iter().take(2).collect();
    assert!(order[0].ends_with("-j CNI-FORWARD") && order[1].ends_with("-i lo -j ACCEPT"), "{order:?}");
    removed(&mut world.host, &ONE, None);
    let own = |line: &String| !line.contains("CNI-");
    assert_eq!(saved().into_iter().filter(own).collect::<Vec<_>>(), before);
}

/// `iptables-restore` writes every rule anew, without what iptables does not know: then the address decides.
fn a_restored_table_names_nobody(world: &mut World) {
    added(&ONE, &plain(BOTH_FAMILIES)).unwrap();
    let before = saved();
    for program in ["iptables", "ip6tables"] {
        let text = done(&format!("{program}-save"), "-t filter");
        let file = format!("/run/{program}-{:?}", std::thread::current().id());
        std::fs::write(&file, text).unwrap();
        done(&format!("{program}-restore"), &file);
    }
    assert_eq!(saved(), before);
    check(&ONE, &plain(BOTH_FAMILIES)).unwrap();
    removed(&mut world.host, &ONE, None);
    assert_eq!(lines("-s ").len(), 2, "nobody is named");
    removed(&mut world.host, &ONE, Some(&plain(BOTH_FAMILIES)));
    assert_eq!(lines("-s ").len() + lines("conntrack").len(), 0);
}

fn numbers_of_rules_are_not_trusted(world: &mut World) {
    let (same, mut filter) = (plain(BOTH_FAMILIES), Filter::open().unwrap());
    let first = add(&mut filter, &ONE, &same).unwrap();
    let second = add(&mut filter, &TWO, &same).unwrap();
    let text = serde_json::to_string(&first).unwrap();
    assert_eq!(serde_json::from_str::<Handles>(&text).unwrap(), first, "{text}");
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(["ipv4", "ipv6"].map(|family| told[family].as_array().unwrap().len()), [2, 2], "{text}");
    let mut removed = |owner: &Owner<'_>, handles: &Handles| {
        remove(&mut world.host, &mut filter, owner, Some(&same), Some(handles)).unwrap();
        [lines("-s 10.1.0.2/32").len(), lines("-d fd00:1::2/128").len()]
    };
    assert_eq!(removed(&Owner { sandbox: "c3", ..ONE }, &first), [2, 2], "numbers of somebody else's");
    assert_eq!(removed(&ONE, &first), [1, 1]);
    assert_eq!(removed(&ONE, &first), [1, 1], "gone already");
    done("iptables", "-D CNI-FORWARD 2");
    assert_eq!(removed(&TWO, &second), [0, 0], "some of them gone: the others by their owner");
    assert_eq!(removed(&TWO, &Handles::default()), [0, 0]);
}

fn what_is_missing_is_told(world: &mut World) {
    let strict = resolved(r#"{"ingressPolicy":"isolated"}"#, &previous("br0", "veth0", BOTH_FAMILIES));
    assert_eq!(
        mismatch(&ONE, &strict),
        "expected FORWARD rule [-m comment --comment CNI firewall plugin rules -j CNI-FORWARD] not found"
    );
    for (words, text) in [
        ("-F FORWARD", "FORWARD rule [-m comment --comment CNI firewall plugin rules -j CNI-FORWARD]"),
        (
            "-D CNI-FORWARD 1",
            "CNI-FORWARD rule [-m comment --comment CNI firewall plugin admin overrides -j CNI-ADMIN]",
        ),
        ("-D CNI-FORWARD 2", "rule [-d 10.1.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT]"),
        ("-D CNI-FORWARD 3", "rule [-s 10.1.0.2/32 -j ACCEPT]"),
        ("-F CNI-ISOLATION-STAGE-1", "isolation of bridge \"br0\" before the rules of CNI-FORWARD"),
        ("-F CNI-ISOLATION-STAGE-2", "isolation of bridge \"br0\" before the rules of CNI-FORWARD"),
        ("-D FORWARD 1", "isolation of bridge \"br0\" before the rules of CNI-FORWARD"),
    ] {
        added(&ONE, &strict).unwrap();
        check(&ONE, &strict).unwrap();
        done("iptables", words);
        assert_eq!(mismatch(&ONE, &strict), format!("expected {text} not found"), "{words}");
        removed(&mut world.host, &ONE, Some(&strict));
        assert_eq!(lines("br0").len() + lines("-s ").len(), 0, "{words}");
    }
}

fn something_else_in_the_way_is_named(world: &mut World) {
    done("nft", "add table ip filter");
    done("nft", "add chain ip filter FORWARD { type filter hook forward priority 7 ; }");
    let before = done("nft", "list ruleset");
    let error = added(&ONE, &plain(&["10.1.0.2/24"])).unwrap_err().chain();
    let (begin, end) = ("add firewall rules for eth0 of c1 in network \"lab\": ", "table ip filter, chain FORWARD");
    assert!(error.starts_with(begin) && error.ends_with(end), "{error}");
    assert_eq!(done("nft", "list ruleset"), before, "all or nothing");
    removed(&mut world.host, &ONE, Some(&plain(BOTH_FAMILIES)));
}

fn rules_are_listed_and_collected_by_owner(world: &mut World) {
    let own = |noted: &Noted| (noted.network.clone(), noted.sandbox.clone(), noted.ifname.clone());
    let three = Owner { network: "other", sandbox: "c3", ifname: "net1" };
    for owner in [ONE, TWO, three] {
        added(&owner, &plain(BOTH_FAMILIES)).unwrap();
    }
    done("iptables", "-A CNI-FORWARD -s 192.0.2.1 -j ACCEPT");
    let all = noted().unwrap();
    let told = |network: &str, sandbox: &str, ifname: &str| (network.to_owned(), sandbox.to_owned(), ifname.to_owned());
    let mut names: Vec<_> = all.iter().map(own).collect();
    names.sort();
    assert_eq!(names, [told("lab", "c1", "eth0"), told("lab", "c2", "eth0"), told("other", "c3", "net1")]);
    assert!(all.iter().all(|noted| noted.place() == "tables ip filter and ip6 filter, chain CNI-FORWARD"));
    let first: Vec<Noted> = all.into_iter().filter(|noted| noted.can_be_of("c1")).collect();
    assert_eq!(first.len(), 1);
    remove_noted(&first).unwrap();
    assert_eq!((noted().unwrap().len(), lines("-s ").len()), (2, 5));
    let mut filter = Filter::open().unwrap();
    retain(&mut filter, "lab", &[("c9", "eth0")], true).unwrap();
    retain(&mut filter, "other", &[("c3", "net1")], true).unwrap();
    assert_eq!(noted().unwrap().iter().map(own).collect::<Vec<_>>(), [told("other", "c3", "net1")]);
    removed(&mut world.host, &three, None);
    assert_eq!(lines("-s "), ["-A CNI-FORWARD -s 192.0.2.1/32 -j ACCEPT"], "somebody's");
}

fn without_addresses_nothing_is_made(world: &mut World) {
    added(&ONE, &plain(&[])).unwrap();
    check(&ONE, &plain(&[])).unwrap();
    removed(&mut world.host, &ONE, Some(&plain(BOTH_FAMILIES)));
    removed(&mut world.host, &ONE, None);
    assert_eq!(done("nft", "list ruleset"), "");
    added(&ONE, &plain(&["fd00:1::2/64"])).unwrap();
    assert!(!done("nft", "list ruleset").contains("table ip filter"), "one family only");
}
