//! Rules in the kernel's packet filter, as `nft` lists them.

use std::process::Command;

use backends::nft::{Filter, Listed, Owner, Rules, Subject, add, remove, retain};
use backends::{Error, ErrorKind, Mac};
use ipnetwork::IpNetwork;

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("nft::rules_are_added_found_and_removed", rules_are_added_found_and_removed),
    ("nft::only_the_owners_rules_go", only_the_owners_rules_go),
    ("nft::what_all_share_is_written_only_where_it_differs", what_all_share_is_written_only_where_it_differs),
    ("nft::without_rules_nothing_is_made", without_rules_nothing_is_made),
    ("nft::what_is_removed_underneath_is_missed", what_is_removed_underneath_is_missed),
    ("nft::a_table_of_somebody_else_is_named", a_table_of_somebody_else_is_named),
    ("nft::collection_keeps_the_valid_and_the_untold", collection_keeps_the_valid_and_the_untold),
    ("nft::rules_for_something_else_are_missed", rules_for_something_else_are_missed),
    ("nft::chains_of_iptables_go_too", chains_of_iptables_go_too),
    ("nft::what_all_share_is_looked_at_again_after_somebody", what_all_share_is_looked_at_again_after_somebody),
    ("nft::many_owners_rules_go_in_one_transaction", many_owners_rules_go_in_one_transaction),
    ("nft::one_chain_in_use_keeps_no_others", one_chain_in_use_keeps_no_others),
    ("nft::many_at_once", many_at_once),
    ("nft::removals_at_once_from_a_long_chain", removals_at_once_from_a_long_chain),
    ("nft::a_long_chain_is_listed_whole", a_long_chain_is_listed_whole),
];

const BOTH: Rules = Rules { masquerade: true, spoof_check: true };
const ONE: Owner<'_> = Owner { network: "lab", sandbox: "c1", ifname: "eth0" };
const MAC: Mac = Mac::new([2, 0, 0, 0, 0, 5]);

/// CHECK of one owner.
fn check(rules: Rules, owner: &Owner<'_>, subject: &Subject<'_>) -> Result<(), Error> {
    Listed::default().check(rules, owner, subject)
}

/// Runs `nft` in the calling thread's namespace.
fn nft(arguments: &str) -> String {
    let output = Command::new("nft").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "nft {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn addresses(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn subject(addresses: &[IpNetwork]) -> Subject<'_> {
    Subject { addresses, port: "veth1", mac: Some(MAC) }
}

/// The lines of the ruleset with this word.
fn lines(word: &str) -> Vec<String> {
    nft("list ruleset").lines().filter(|line| line.contains(word)).map(|line| line.trim().to_owned()).collect()
}

fn rules_are_added_found_and_removed(_: &mut World) {
    let addresses = addresses(&["10.1.0.2/24", "fd00:1::2/60", "10.2.0.9/17", "10.3.0.1/0"]);
    let subject = subject(&addresses);
    assert_eq!(check(BOTH, &ONE, &subject).unwrap_err().kind(), ErrorKind::Mismatch);
    add(BOTH, &ONE, &subject).unwrap();
    check(BOTH, &ONE, &subject).unwrap();
    let whose = r#"comment "bd5920332d2f73b7-f4d01f2ef4b92245, net: lab, if: eth0, id: c1""#;
    assert_eq!(
        lines("masquerade comment"),
        [
            format!("ip saddr 10.1.0.2 ip daddr != 10.1.0.0/24 masquerade {whose}"),
            format!("ip6 saddr fd00:1::2 ip6 daddr != fd00:1::/60 masquerade {whose}"),
            format!("ip saddr 10.2.0.9 ip daddr != 10.2.0.0/17 masquerade {whose}"),
        ]
    );
    assert_eq!(
        nft("list table bridge nat").lines().map(str::trim).collect::<Vec<_>>(),
        [
            "table bridge nat {",
            "chain PREROUTING {",
            "type filter hook prerouting priority dstnat; policy accept;",
            r#"iifname "veth1" jump cni-br-iface-c1-eth0 comment "macspoofchk-c1-eth0""#,
            "}",
            "",
            "chain cni-br-iface-c1-eth0 {",
            r#"jump cni-br-iface-c1-eth0-mac comment "macspoofchk-c1-eth0""#,
            "}",
            "",
            "chain cni-br-iface-c1-eth0-mac {",
            r#"ether saddr 02:00:00:00:00:05 return comment "macspoofchk-c1-eth0""#,
            r#"drop comment "macspoofchk-c1-eth0""#,
            "}",
            "}",
        ]
    );
    for _ in 0..2 {
        remove(BOTH, &ONE).unwrap();
        assert_eq!((lines("c1"), lines("10.1.0.2")), (vec![], vec![]));
    }
}

fn only_the_owners_rules_go(_: &mut World) {
    let addresses = addresses(&["10.1.0.2/24"]);
    let others = [
        Owner { ifname: "net1", ..ONE },
        Owner { sandbox: "c2", ..ONE },
        Owner { network: "other", sandbox: "c3", ..ONE },
    ];
    for owner in others.iter().chain([&ONE]) {
        add(BOTH, owner, &subject(&addresses)).unwrap();
    }
    remove(BOTH, &ONE).unwrap();
    assert_eq!(check(BOTH, &ONE, &subject(&addresses)).unwrap_err().kind(), ErrorKind::Mismatch);
    for owner in &others {
        check(BOTH, owner, &subject(&addresses)).unwrap();
    }
    assert_eq!(lines("goto").len(), 1, "the base chain is not added to");
}

fn what_all_share_is_written_only_where_it_differs(_: &mut World) {
    // As `nft` writes it for the reference plugins.
    let shared = "inet cni_plugins_masquerade postrouting";
    nft("add table inet cni_plugins_masquerade");
    nft("add chain inet cni_plugins_masquerade masq_checks");
    nft(&format!("add chain {shared} {{ type nat hook postrouting priority 100 ; }}"));
    for rule in ["ip daddr 224.0.0.0/4 return", "ip6 daddr ff00::/8 return", "goto masq_checks"] {
        nft(&format!("add rule {shared} {rule}"));
    }
    let addresses = addresses(&["10.1.0.2/24", "fd00:1::2/64"]);
    let subject = subject(&addresses);
    let [with_handles, text] = ["-a list chain", "list chain"].map(|list| nft(&format!("{list} {shared}")));
    add(BOTH, &ONE, &subject).unwrap();
    add(BOTH, &Owner { sandbox: "c2", ..ONE }, &subject).unwrap();
    assert_eq!(nft(&format!("-a list chain {shared}")), with_handles, "the same rules, not new ones");

    for (number, change) in [
        format!("flush chain {shared}"),
        format!("insert rule {shared} ip daddr 10.0.0.0/8 return"),
        format!("add rule {shared} counter"),
        format!("insert rule {shared} ip daddr 224.0.0.0/4 drop"),
        "delete table inet cni_plugins_masquerade".to_owned(),
        "flush ruleset".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        nft(&change);
        let sandbox = format!("d{number}");
        let owner = Owner { sandbox: &sandbox, ..ONE };
        add(BOTH, &owner, &subject).unwrap();
        assert_eq!(nft(&format!("list chain {shared}")), text, "after {change}");
        check(BOTH, &owner, &subject).unwrap();
    }
}

fn what_all_share_is_looked_at_again_after_somebody(_: &mut World) {
    let shared = "inet cni_plugins_masquerade postrouting";
    let addresses = addresses(&["10.1.0.2/24"]);
    let interfaces = interfaces(64);
    let owners = owners(&interfaces);
    let mut filter = Filter::open().unwrap();
    let (changed, same) = owners.split_at(32);
    for (number, (rules, owner)) in changed.iter().enumerate() {
        match number % 8 {
            3 => drop(nft(&format!("flush chain {shared}"))),
            5 => drop(nft("delete table bridge nat")),
            7 => drop(nft("flush ruleset")),
            _ => {}
        }
        filter.add(*rules, owner, &subject(&addresses)).unwrap();
        check(*rules, owner, &subject(&addresses)).unwrap();
        assert_eq!(lines("goto").len(), 1);
    }
    let (before, text) = (generation(), nft(&format!("-a list chain {shared}")));
    for (rules, owner) in same {
        filter.add(*rules, owner, &subject(&addresses)).unwrap();
    }
    assert_eq!(generation(), before + 32);
    assert_eq!(nft(&format!("-a list chain {shared}")), text, "the same rules, not new ones");
}

fn without_rules_nothing_is_made(_: &mut World) {
    let addresses = addresses(&["10.1.0.2/24"]);
    let no_mac = Subject { mac: None, ..subject(&addresses) };
    add(Rules::default(), &ONE, &subject(&addresses)).unwrap();
    add(Rules { spoof_check: true, ..Rules::default() }, &ONE, &no_mac).unwrap();
    add(Rules { masquerade: true, ..Rules::default() }, &ONE, &subject(&[])).unwrap();
    remove(Rules::default(), &ONE).unwrap();
    remove(BOTH, &ONE).unwrap();
    assert_eq!(nft("list ruleset"), "");
}

fn what_is_removed_underneath_is_missed(_: &mut World) {
    let addresses = addresses(&["10.1.0.2/24", "fd00:1::2/64"]);
    let subject = subject(&addresses);
    for (words, text) in [
        (
            "flush chain inet cni_plugins_masquerade masq_checks",
            "0 of 2 masquerade rules for eth0 are in table inet cni_plugins_masquerade, chain masq_checks",
        ),
        (
            "flush chain bridge nat PREROUTING",
            "the rules that check the hardware address of eth0 are not in table bridge nat",
        ),
        (
            "flush chain inet cni_plugins_masquerade postrouting",
            "nothing leads to the masquerade rules in table inet cni_plugins_masquerade, chain masq_checks",
        ),
        (
            "insert rule bridge nat cni-br-iface-c1-eth0-mac accept",
            "the rules that check the hardware address of eth0 are not in table bridge nat",
        ),
        (
            "flush chain bridge nat cni-br-iface-c1-eth0-mac",
            "the rules that check the hardware address of eth0 are not in table bridge nat",
        ),
        (
            "flush ruleset",
            "0 of 2 masquerade rules for eth0 are in table inet cni_plugins_masquerade, chain masq_checks",
        ),
    ] {
        add(BOTH, &ONE, &subject).unwrap();
        check(BOTH, &ONE, &subject).unwrap();
        nft(words);
        assert_eq!(check(BOTH, &ONE, &subject).unwrap_err().chain(), text, "{words}");
        remove(BOTH, &ONE).unwrap();
        assert_eq!(lines("c1"), Vec::<String>::new(), "{words}");
    }
}

fn a_table_of_somebody_else_is_named(_: &mut World) {
    let addresses = addresses(&["10.1.0.2/24"]);
    nft("add table inet cni_plugins_masquerade");
    nft("add chain inet cni_plugins_masquerade postrouting { type nat hook postrouting priority 90 ; }");
    let before = nft("list ruleset");
    let error = add(BOTH, &ONE, &subject(&addresses)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let (begin, end) = (
        "add nftables rules for eth0 of c1 in network \"lab\": ",
        "table inet cni_plugins_masquerade, chain postrouting",
    );
    assert!(error.chain().starts_with(begin) && error.chain().ends_with(end), "{}", error.chain());
    assert_eq!(nft("list ruleset"), before, "all or nothing");
    remove(BOTH, &ONE).unwrap();
}

fn collection_keeps_the_valid_and_the_untold(_: &mut World) {
    let addresses = addresses(&["10.1.0.2/24"]);
    let long = "n".repeat(100);
    for (network, sandbox, ifname) in [
        ("lab", "valid", "eth0"),
        ("lab", "valid", "net7"),
        ("lab", "stale", "eth0"),
        ("other", "stale", "eth0"),
        (&long, "valid", "net7"),
        (&long, "stale", "net7"),
    ] {
        add(BOTH, &Owner { network, sandbox, ifname }, &subject(&addresses)).unwrap();
    }
    nft("add rule inet cni_plugins_masquerade masq_checks accept");
    let left = || lines("masquerade comment").len();
    let valid = [("valid", "eth0")];
    for (network, by_ifname, expected, why) in [
        (long.as_str(), false, 6, "the comment is cut before the interface: nobody knows whose the rules are"),
        ("lab", false, 5, "the container id decides"),
        ("lab", true, 4, "and the interface"),
        (&long, true, 2, "which needs no comment"),
    ] {
        for _ in 0..2 {
            retain(BOTH, network, &valid, by_ifname).unwrap();
            assert_eq!(left(), expected, "{why}");
        }
    }
    assert_eq!(lines("net: lab, if: eth0, id: valid").len() + lines("net: other").len(), 2);
    assert_eq!(lines("accept").iter().filter(|line| *line == "accept").count(), 1, "somebody's rule stays");
}

/// The port or the address is another one by now.
fn rules_for_something_else_are_missed(_: &mut World) {
    let addresses = addresses(&["10.1.0.2/24"]);
    add(BOTH, &ONE, &subject(&addresses)).unwrap();
    for other in [
        Subject { port: "veth2", ..subject(&addresses) },
        Subject { mac: Some(Mac::new([2; 6])), ..subject(&addresses) },
    ] {
        let error = check(BOTH, &ONE, &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{other:?}");
    }
    check(BOTH, &ONE, &subject(&addresses)).unwrap();
}

/// What iptables' nft backend makes of the reference plugins' commands, in nft's words.
fn chains_of_iptables_go_too(_: &mut World) {
    const CHAIN: &str = "CNI-7938659e68193485ee23da4c";
    for family in ["ip", "ip6"] {
        nft(&format!("add table {family} nat"));
        nft(&format!("add chain {family} nat POSTROUTING {{ type nat hook postrouting priority 100 ; }}"));
        nft(&format!("add chain {family} nat {CHAIN}"));
        nft(&format!("add chain {family} nat CNI-other"));
        nft(&format!("add rule {family} nat {CHAIN} counter masquerade"));
        nft(&format!("add rule {family} nat POSTROUTING counter jump CNI-other"));
        nft(&format!("add rule {family} nat POSTROUTING counter jump {CHAIN}"));
    }
    remove(BOTH, &ONE).unwrap();
    assert_eq!(lines(CHAIN), Vec::<String>::new());
    assert_eq!(lines("jump CNI-other").len(), 2);
}

/// How many transactions the namespace has had (`NFT_MSG_GETGEN`).
fn generation() -> u32 {
    let mut socket = netlink_sys::Socket::new(12).unwrap();
    socket.bind_auto().unwrap();
    socket.send(&[&[20, 0, 0, 0, 16, 10, 1, 0][..], &[0; 12]].concat(), 0).unwrap();
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0).unwrap();
    u32::from_be_bytes(answer[24..28].try_into().unwrap())
}

/// The interfaces of one sandbox, in one network each.
fn interfaces(number: usize) -> Vec<String> {
    (0..number).map(|number| format!("net{number}")).collect()
}

fn owners(interfaces: &[String]) -> Vec<(Rules, Owner<'_>)> {
    interfaces.iter().map(|ifname| (BOTH, Owner { network: ifname, ifname, ..ONE })).collect()
}

fn many_owners_rules_go_in_one_transaction(_: &mut World) {
    let addresses = addresses(&["10.1.0.2/24", "fd00:1::2/64"]);
    let interfaces = interfaces(64);
    let owners = owners(&interfaces);
    for (rules, owner) in &owners {
        add(*rules, owner, &subject(&addresses)).unwrap();
    }
    let other = Owner { sandbox: "c2", ..ONE };
    add(BOTH, &other, &subject(&addresses)).unwrap();
    let mut filter = Filter::open().unwrap();
    let before = generation();
    assert!(filter.remove_all(&owners).is_empty());
    assert_eq!(generation(), before + 1);
    assert_eq!((lines("id: c1"), lines("c1-net")), (vec![], vec![]));
    check(BOTH, &other, &subject(&addresses)).unwrap();
    assert!(filter.remove_all(&owners).is_empty());
    assert_eq!(generation(), before + 1, "nothing was there to change");
}

fn one_chain_in_use_keeps_no_others(_: &mut World) {
    let addresses = addresses(&["10.1.0.2/24"]);
    let interfaces = interfaces(3);
    let owners = owners(&interfaces);
    for (rules, owner) in &owners {
        add(*rules, owner, &subject(&addresses)).unwrap();
    }
    nft("add chain bridge nat somebodys");
    nft("add rule bridge nat somebodys jump cni-br-iface-c1-net1");
    assert!(Filter::open().unwrap().remove_all(&owners).is_empty());
    assert_eq!(
        lines("cni-br-iface-c1"),
        ["chain cni-br-iface-c1-net1 {", "chain cni-br-iface-c1-net1-mac {", "jump cni-br-iface-c1-net1"]
    );
    assert_eq!(lines("masquerade comment"), Vec::<String>::new());
}

/// Pods that come and go at once: nobody's batch may fail for another's.
fn many_at_once(_: &mut World) {
    let rounds = |number: usize| {
        let (sandbox, address) = (format!("c{number}"), format!("10.1.0.{}/24", number + 2));
        let (owner, addresses) = (Owner { sandbox: &sandbox, ..ONE }, addresses(&[&address]));
        for _ in 0..20 {
            add(BOTH, &owner, &subject(&addresses)).unwrap();
            check(BOTH, &owner, &subject(&addresses)).unwrap();
            remove(BOTH, &owner).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || rounds(number));
        }
    });
    assert_eq!((lines("masquerade comment"), lines("jump")), (vec![], vec![]));
}

/// Every listing takes several datagrams, and others change the chain while it is read.
fn removals_at_once_from_a_long_chain(_: &mut World) {
    let many: Vec<IpNetwork> =
        (0..1000).map(|n| format!("10.1.{}.{}/16", n / 250, n % 250 + 2).parse().unwrap()).collect();
    for part in many.chunks(250) {
        add(BOTH, &ONE, &subject(part)).unwrap();
    }
    let rounds = |number: usize| {
        let (sandbox, addresses) = (format!("d{number}"), addresses(&["10.2.0.2/16", "fd00::2/64"]));
        let owner = Owner { sandbox: &sandbox, ..ONE };
        for _ in 0..2 {
            add(BOTH, &owner, &subject(&addresses)).unwrap();
            remove(BOTH, &owner).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for number in 0..16 {
            scope.spawn(move || rounds(number));
        }
    });
    assert_eq!(lines("masquerade comment").len(), 1000);
}

/// More than one datagram of the kernel.
fn a_long_chain_is_listed_whole(_: &mut World) {
    let addresses: Vec<IpNetwork> =
        (0..300).map(|n| format!("10.1.{}.{}/16", n / 250, n % 250 + 2).parse().unwrap()).collect();
    for sandbox in ["c1", "c2"] {
        add(BOTH, &Owner { sandbox, ..ONE }, &subject(&addresses)).unwrap();
    }
    check(BOTH, &ONE, &subject(&addresses)).unwrap();
    remove(BOTH, &ONE).unwrap();
    assert_eq!(lines("masquerade comment").len(), 300);
    check(BOTH, &Owner { sandbox: "c2", ..ONE }, &subject(&addresses)).unwrap();
}
