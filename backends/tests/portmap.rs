//! Mapped ports as `nft` lists them: who has them, who gets them, what is left of them.

use std::process::Command;

use backends::chained::Previous;
use backends::chained::portmap::{Conf, Spec, add, check, look, remove, retain};
use backends::nft::{Filter, Owner, noted, remove_noted};
use backends::{Address, ErrorKind, Family, Interface};

use crate::Case;
use crate::world::{World, conf};

pub(crate) const CASES: &[Case] = &[
    ("nft::portmap_a_mapping_is_an_element", a_mapping_is_an_element),
    ("nft::portmap_the_tables_are_written_only_where_they_differ", the_tables_are_written_only_where_they_differ),
    ("nft::portmap_a_taken_port_is_refused_by_its_holder_s_name", a_taken_port_is_refused_by_its_holder_s_name),
    ("nft::portmap_one_family_is_removed_by_its_keys", one_family_is_removed_by_its_keys),
    (
        "nft::portmap_the_same_owner_is_given_the_same_and_another_target",
        the_same_owner_is_given_the_same_and_another_target,
    ),
    ("nft::portmap_only_the_owner_s_mappings_go", only_the_owner_s_mappings_go),
    ("nft::portmap_a_pod_s_address_of_somebody_who_has_ended", a_pod_s_address_of_somebody_who_has_ended),
    ("nft::portmap_hundreds_of_owners", hundreds_of_owners),
    ("nft::portmap_hundreds_of_ports", hundreds_of_ports),
    ("nft::portmap_many_at_once", many_at_once),
    ("nft::portmap_collection_keeps_the_valid", collection_keeps_the_valid),
    ("nft::portmap_leaks_are_noted_and_removed", leaks_are_noted_and_removed),
    ("nft::portmap_what_is_removed_underneath_is_missed", what_is_removed_underneath_is_missed),
];

const ONE: Owner<'_> = Owner { network: "lab", sandbox: "c1", ifname: "eth0" };
const TWO: Owner<'_> = Owner { sandbox: "c2", ..ONE };
const BOTH: [Family; 2] = [Family::V4, Family::V6];
pub(crate) const ADDRESSES: [&str; 2] = ["10.1.0.5/24", "fd00:1::5/64"];

/// Runs `nft` in the calling thread's namespace.
pub(crate) fn nft(arguments: &str) -> String {
    let output = Command::new("nft").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "nft {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A configuration with these mappings and more keys.
pub(crate) fn spec(mappings: &str, more: &str) -> Spec {
    conf::<Conf>(&format!(r#"{{"runtimeConfig":{{"portMappings":[{mappings}]}}{more}}}"#)).validate().unwrap()
}

/// One TCP mapping to port 80.
pub(crate) fn tcp(port: u16) -> Spec {
    spec(&format!(r#"{{"hostPort":{port},"containerPort":80,"protocol":"tcp"}}"#), "")
}

/// What a plugin before this one attached.
pub(crate) fn previous(addresses: &[&str]) -> Previous {
    let address = |text: &&str| (Address { address: text.parse().unwrap(), gateway: None }, Some(0));
    let interface = Interface { name: "eth0".to_owned(), in_pod: true, ..Interface::default() };
    Previous { interfaces: vec![interface], addresses: addresses.iter().map(address).collect(), routes: Vec::new() }
}

fn filter() -> Filter {
    Filter::open().unwrap()
}

/// The lines of the ruleset with this word.
fn lines(word: &str) -> Vec<String> {
    nft("list ruleset").lines().filter(|line| line.contains(word)).map(|line| line.trim().to_owned()).collect()
}

fn elements() -> usize {
    lines(", net: ").len()
}

fn a_mapping_is_an_element(world: &mut World) {
    let mut filter = filter();
    let spec = spec(
        r#"{"hostPort":8080,"containerPort":80,"protocol":"TCP"},
           {"hostPort":53,"containerPort":5353,"protocol":"udp","hostIP":"192.0.2.1"},
           {"hostPort":54,"containerPort":5353,"protocol":"sctp","hostIP":"::"}"#,
        "",
    );
    look(&mut filter, &spec, &ONE, &BOTH).unwrap();
    assert_eq!(nft("list ruleset"), "", "a look changes nothing");
    add(&mut world.host, &mut filter, &spec, &ONE, &previous(&ADDRESSES)).unwrap();
    let text = nft("list ruleset");
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let whose = r#"comment "bd5920332d2f73b7-f4d01f2ef4b92245, net: lab, if: eth0, id: c1""#;
    let whose_port = |prefix| whose.replace("245,", &format!("245/{prefix},"));
    for expected in [
        "table ip plexus_portmap { comment \"ports of this host that lead to pods\"",
        "map ports { type inet_proto . inet_service : ipv4_addr . inet_service",
        &format!("elements = {{ tcp . 8080 {} : 10.1.0.5 . 80 }}", whose_port(24)),
        &format!("elements = {{ 192.0.2.1 . udp . 53 {} : 10.1.0.5 . 5353 }}", whose_port(24)),
        &format!("10.1.0.0 . 10.1.0.5 . tcp . 8080 {whose}"),
        &format!("127.0.0.1 . 10.1.0.5 . tcp . 8080 {whose}"),
        "chain prerouting { type nat hook prerouting priority dstnat; policy accept; fib daddr type local goto to_pods }",
        "chain output { type nat hook output priority -100; policy accept; fib daddr type local goto to_pods }",
        "chain to_pods { dnat ip to ip daddr . meta l4proto . th dport map @address_ports \
         dnat ip to meta l4proto . th dport map @ports }",
        "chain postrouting { type nat hook postrouting priority srcnat; policy accept; \
         meta l4proto tcp ct status dnat ip saddr & 255.255.255.0 . ip daddr . meta l4proto . ct original proto-dst @near masquerade comment \"/24 tcp\" \
         meta l4proto udp ct",
        "meta l4proto udp ct status dnat ip saddr . ip daddr . meta l4proto . ct original proto-dst @near masquerade \
         comment \"/32 udp\" }",
        "table ip6 plexus_portmap {",
        &format!("fd00:1:: . fd00:1::5 . tcp . 8080 {whose}"),
        &format!("sctp . 54 {} : fd00:1::5 . 5353", whose_port(64)),
        "masquerade comment \"/64 tcp\"",
    ] {
        assert!(flat.contains(expected), "{expected}\nis not in\n{text}");
    }
    std::fs::write("/run/saved", &text).unwrap();
    nft("flush ruleset");
    nft("-f /run/saved");
    assert_eq!(nft("list ruleset"), text, "what is listed can be loaded");
    check(&mut filter, &spec, &ONE, &previous(&ADDRESSES)).unwrap();
    for known in [Some(&spec), None] {
        remove(&mut filter, known, &ONE).unwrap();
        assert_eq!((elements(), lines("masquerade").len()), (0, 6), "what all share stays");
    }
}

fn the_tables_are_written_only_where_they_differ(world: &mut World) {
    let mut filter = filter();
    let previous = previous(&ADDRESSES);
    let tables = || ["ip", "ip6"].map(|family| nft(&format!("-a list table {family} plexus_portmap")));
    add(&mut world.host, &mut filter, &tcp(1), &ONE, &previous).unwrap();
    remove(&mut filter, Some(&tcp(1)), &ONE).unwrap();
    let before = tables();
    add(&mut world.host, &mut filter, &tcp(2), &TWO, &previous).unwrap();
    remove(&mut filter, Some(&tcp(2)), &TWO).unwrap();
    assert_eq!(tables(), before, "the same rules, not new ones");
    let other = crate::portmap::previous(&["10.2.0.5/20"]);
    add(&mut world.host, &mut filter, &tcp(3), &TWO, &other).unwrap();
    assert_eq!((lines("/20 tcp\"").len(), lines("/24 tcp\"").len()), (1, 1), "a rule for another prefix length");
    let text = nft("list ruleset");
    for (number, change) in [
        "flush chain ip plexus_portmap postrouting",
        "flush chain ip plexus_portmap to_pods",
        "insert rule ip plexus_portmap prerouting accept",
        "add rule ip plexus_portmap postrouting counter",
        "add rule ip plexus_portmap postrouting masquerade comment \"/24 tcp\"",
        "delete table ip6 plexus_portmap",
    ]
    .into_iter()
    .enumerate()
    {
        nft(change);
        let (sandbox, spec) = (format!("d{number}"), tcp(100 + u16::try_from(number).unwrap()));
        let owner = Owner { sandbox: &sandbox, ..ONE };
        add(&mut world.host, &mut filter, &spec, &owner, &previous).unwrap();
        check(&mut filter, &spec, &owner, &previous).unwrap();
        check(&mut filter, &tcp(3), &TWO, &other).unwrap();
        remove(&mut filter, Some(&spec), &owner).unwrap();
        assert_eq!(lines("masquerade").len(), text.matches("masquerade").count(), "after {change}");
    }
}

fn a_taken_port_is_refused_by_its_holder_s_name(world: &mut World) {
    let mut filter = filter();
    let previous = previous(&ADDRESSES);
    let at =
        |ip: &str| spec(&format!(r#"{{"hostPort":8080,"containerPort":81,"protocol":"tcp","hostIP":"{ip}"}}"#), "");
    for first in [tcp(8080), at("192.0.2.1")] {
        add(&mut world.host, &mut filter, &first, &ONE, &previous).unwrap();
    }
    let before = nft("list ruleset");
    let place =
        |ip: &str| format!("host port 8080/tcp{ip} is taken: it leads to eth0 of container c1 in network \"lab\"; ");
    for (wanted, expected) in [(tcp(8080), place("")), (at("192.0.2.1"), place(" at 192.0.2.1"))] {
        let found = look(&mut filter, &wanted, &TWO, &BOTH).unwrap_err();
        let refused = add(&mut world.host, &mut filter, &wanted, &TWO, &previous).unwrap_err();
        for error in [found, refused] {
            assert_eq!(error.kind(), ErrorKind::PortTaken);
            let advice = "choose another host port or remove that container (\"plexus gc\" does if it has ended)";
            assert_eq!(error.chain(), format!("{expected}{advice}"));
        }
        look(&mut filter, &wanted, &ONE, &BOTH).unwrap();
    }
    assert_eq!(nft("list ruleset"), before, "all or nothing");
    for free in [at("192.0.2.2"), at("fd00:9::1"), spec(r#"{"hostPort":8080,"containerPort":80,"protocol":"udp"}"#, "")]
    {
        look(&mut filter, &free, &TWO, &BOTH).unwrap();
        add(&mut world.host, &mut filter, &free, &TWO, &previous).unwrap();
    }
    // Half of what is wanted is free: it is not kept.
    let count = elements();
    let half = spec(
        r#"{"hostPort":1,"containerPort":80,"protocol":"tcp"},{"hostPort":8080,"containerPort":80,"protocol":"tcp"}"#,
        "",
    );
    add(&mut world.host, &mut filter, &half, &TWO, &previous).unwrap_err();
    assert_eq!(elements(), count);
    nft("add element ip plexus_portmap ports { tcp . 7 : 10.9.9.9 . 7 }");
    let text = look(&mut filter, &tcp(7), &TWO, &BOTH).unwrap_err().chain();
    let compatible = spec(r#"{"hostPort":8,"containerPort":80,"protocol":"tcp"}"#, r#","layout":"compatible""#);
    add(&mut world.host, &mut filter, &compatible, &ONE, &previous).unwrap();
    let in_rules = look(&mut filter, &tcp(8), &TWO, &BOTH).unwrap_err();
    let expected =
        "host port 8/tcp is taken: it leads to container c1; choose another host port or remove that container";
    assert_eq!((in_rules.kind(), in_rules.chain().as_str()), (ErrorKind::PortTaken, expected));
    look(&mut filter, &tcp(8), &ONE, &BOTH).unwrap();
    assert_eq!(
        text,
        "host port 7/tcp is taken by somebody else's rule, whose comment is \"\"; choose another host port"
    );
    look(&mut filter, &tcp(7), &TWO, &[Family::V6]).unwrap();
}

/// A pod without IPv6 has no mapping in it, and is removed by its keys all the same: a listing would find what is left here.
fn one_family_is_removed_by_its_keys(world: &mut World) {
    let mut filter = filter();
    let v4 = previous(&ADDRESSES[..1]);
    add(&mut world.host, &mut filter, &tcp(1), &ONE, &v4).unwrap();
    add(&mut world.host, &mut filter, &tcp(2), &ONE, &v4).unwrap();
    check(&mut filter, &tcp(1), &ONE, &v4).unwrap();
    assert!(!nft("list ruleset").contains("ip6 plexus_portmap"));
    remove(&mut filter, Some(&tcp(1)), &ONE).unwrap();
    check(&mut filter, &tcp(2), &ONE, &v4).unwrap();
    remove(&mut filter, Some(&tcp(1)), &ONE).unwrap();
    assert_eq!(elements(), 0, "what is not there is looked for everywhere");
}

fn the_same_owner_is_given_the_same_and_another_target(world: &mut World) {
    let mut filter = filter();
    let add = |world: &mut World, filter: &mut Filter, addresses: &[&str]| {
        add(&mut world.host, filter, &tcp(8080), &ONE, &previous(addresses)).unwrap();
    };
    add(world, &mut filter, &ADDRESSES);
    let before = nft("-a list ruleset");
    add(world, &mut filter, &ADDRESSES);
    assert_eq!(nft("-a list ruleset"), before);
    add(world, &mut filter, &["10.1.0.7/24", "fd00:1::5/64"]);
    assert_eq!(lines(": 10.1.0.7 . 80").len() + lines(": fd00:1::5 . 80").len(), 2);
    check(&mut filter, &tcp(8080), &ONE, &previous(&["10.1.0.7/24", "fd00:1::5/64"])).unwrap();
    assert_eq!(lines(": 10.1.0.5 . 80"), Vec::<String>::new());
    assert_eq!(lines("10.1.0.5"), Vec::<String>::new(), "nor what belonged to it");
    remove(&mut filter, Some(&tcp(8080)), &ONE).unwrap();
    assert_eq!(elements(), 0);
}

fn only_the_owner_s_mappings_go(world: &mut World) {
    let mut filter = filter();
    let others = [Owner { ifname: "net1", ..ONE }, TWO, Owner { network: "other", ..ONE }];
    for (port, owner) in (1..).zip(others.iter().chain([&ONE])) {
        let addresses = [format!("10.1.0.{port}/24"), format!("fd00:1::{port}/64")];
        let previous = previous_of(owner, &addresses);
        add(&mut world.host, &mut filter, &tcp(port), owner, &previous).unwrap();
    }
    for (known, why) in [(Some(tcp(1)), "not his"), (Some(tcp(4)), "his"), (None, "again")] {
        remove(&mut filter, known.as_ref(), &ONE).unwrap();
        for (port, owner) in (1..).zip(&others) {
            let addresses = [format!("10.1.0.{port}/24"), format!("fd00:1::{port}/64")];
            check(&mut filter, &tcp(port), owner, &previous_of(owner, &addresses))
                .unwrap_or_else(|e| panic!("{why}: {}", e.chain()));
        }
        assert_eq!((lines("10.1.0.4"), lines("fd00:1::4")), (vec![], vec![]), "{why}: known wrongly, they are listed");
    }
}

fn previous_of(owner: &Owner<'_>, addresses: &[String; 2]) -> Previous {
    let mut previous = previous(&addresses.each_ref().map(String::as_str));
    previous.interfaces[0].name = owner.ifname.to_owned();
    previous
}

/// Its DEL never came, the address is somebody else's by now, and then the DEL comes.
fn a_pod_s_address_of_somebody_who_has_ended(world: &mut World) {
    let mut filter = filter();
    let previous = previous(&ADDRESSES);
    let at =
        |ip: &str| spec(&format!(r#"{{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"{ip}"}}"#), "");
    add(&mut world.host, &mut filter, &at("192.0.2.1"), &ONE, &previous).unwrap();
    add(&mut world.host, &mut filter, &at("192.0.2.2"), &TWO, &previous).unwrap();
    remove(&mut filter, Some(&at("192.0.2.1")), &ONE).unwrap();
    check(&mut filter, &at("192.0.2.2"), &TWO, &previous).unwrap();
    remove(&mut filter, Some(&at("192.0.2.2")), &TWO).unwrap();
    assert_eq!(elements(), 0);
}

fn hundreds_of_owners(world: &mut World) {
    let mut filter = filter();
    let of = |number: u16| {
        let spec = spec(
            &format!(
                r#"{{"hostPort":{},"containerPort":80,"protocol":"tcp"}},{{"hostPort":{},"containerPort":53,"protocol":"udp"}}"#,
                10_000 + number,
                20_000 + number
            ),
            "",
        );
        let addresses = [format!("10.1.0.{number}/16"), format!("fd00:1::{number:x}/64")];
        (format!("pod-{number}"), spec, addresses)
    };
    for number in 1..=200 {
        let (sandbox, spec, addresses) = of(number);
        let owner = Owner { sandbox: &sandbox, ..ONE };
        look(&mut filter, &spec, &owner, &BOTH).unwrap();
        add(&mut world.host, &mut filter, &spec, &owner, &previous_of(&owner, &addresses)).unwrap();
    }
    assert_eq!(elements(), 200 * 10);
    let (sandbox, spec, _) = of(77);
    remove(&mut filter, Some(&spec), &Owner { sandbox: &sandbox, ..ONE }).unwrap();
    assert_eq!((elements(), lines("pod-77\"")), (199 * 10, vec![]));
    let (sandbox, spec, addresses) = of(78);
    let owner = Owner { sandbox: &sandbox, ..ONE };
    check(&mut filter, &spec, &owner, &previous_of(&owner, &addresses)).unwrap();
    remove(&mut filter, None, &owner).unwrap();
    assert_eq!((elements(), lines("pod-78\"")), (198 * 10, vec![]));
    assert_eq!(lines("masquerade").len(), 6, "a rule for each prefix length and protocol");
}

/// More than one transaction takes; and the reference plugin's other backend takes fifteen a rule.
fn hundreds_of_ports(world: &mut World) {
    let mut filter = filter();
    let mappings: Vec<String> =
        (1..=300).map(|port| format!(r#"{{"hostPort":{port},"containerPort":{port},"protocol":"udp"}}"#)).collect();
    let id = "x".repeat(200);
    let owner = Owner { sandbox: &id, ..ONE };
    let previous = previous(&ADDRESSES);
    for more in ["", r#","layout":"compatible""#] {
        let spec = spec(&mappings.join(","), more);
        add(&mut world.host, &mut filter, &spec, &owner, &previous).unwrap();
        check(&mut filter, &spec, &owner, &previous).unwrap();
        remove(&mut filter, Some(&spec), &owner).unwrap();
        assert_eq!(lines("xxx"), Vec::<String>::new());
        add(&mut world.host, &mut filter, &spec, &owner, &previous).unwrap();
        remove(&mut filter, None, &owner).unwrap();
        assert_eq!(lines("xxx"), Vec::<String>::new());
    }
    // Whoever was killed between two transactions is called again, or his DEL comes.
    let all = spec(&mappings.join(","), "");
    add(&mut world.host, &mut filter, &spec(&mappings[..80].join(","), ""), &owner, &previous).unwrap();
    add(&mut world.host, &mut filter, &all, &owner, &previous).unwrap();
    check(&mut filter, &all, &owner, &previous).unwrap();
    remove(&mut filter, Some(&all), &owner).unwrap();
    add(&mut world.host, &mut filter, &spec(&mappings[..80].join(","), ""), &owner, &previous).unwrap();
    remove(&mut filter, Some(&all), &owner).unwrap();
    assert_eq!(lines("xxx"), Vec::<String>::new());
    // The last of them is somebody else's: none is kept.
    add(&mut world.host, &mut filter, &spec(&mappings[299], ""), &TWO, &previous).unwrap();
    let error = add(&mut world.host, &mut filter, &all, &owner, &previous).unwrap_err();
    assert_eq!((error.kind(), lines("xxx")), (ErrorKind::PortTaken, vec![]));
}

/// Pods that come and go at once, on tables that are not there yet: nobody's batch may fail for another's.
fn many_at_once(_: &mut World) {
    let rounds = |number: u16| {
        let mut host = backends::Host::open().unwrap();
        let mut filter = filter();
        let sandbox = format!("c{number}");
        let owner = Owner { sandbox: &sandbox, ..ONE };
        let previous = previous_of(
            &owner,
            &[format!("10.1.0.{}/24", number + 2), format!("fd00:1::{}/{}", number + 2, 60 + number)],
        );
        for round in 0..20 {
            let spec = tcp(1000 * (number + 1) + round);
            add(&mut host, &mut filter, &spec, &owner, &previous).unwrap();
            check(&mut filter, &spec, &owner, &previous).unwrap();
            remove(&mut filter, Some(&spec).filter(|_| round % 2 == 0), &owner).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || rounds(number));
        }
    });
    assert_eq!((elements(), lines("masquerade").len()), (0, 2 + 4), "no rule twice");
}

fn collection_keeps_the_valid(world: &mut World) {
    let mut filter = filter();
    let all =
        [("lab", "valid", "eth0"), ("lab", "valid", "net7"), ("lab", "stale", "eth0"), ("other", "stale", "eth0")];
    for (port, (network, sandbox, ifname)) in (1..).zip(all) {
        let owner = Owner { network, sandbox, ifname };
        let addresses = [format!("10.1.0.{port}/24"), format!("fd00:1::{port}/64")];
        add(&mut world.host, &mut filter, &tcp(port), &owner, &previous_of(&owner, &addresses)).unwrap();
    }
    for (by_ifname, expected) in [(false, 3), (true, 2)] {
        for _ in 0..2 {
            retain(&mut filter, "lab", &[("valid", "eth0")], by_ifname).unwrap();
            assert_eq!(elements(), expected * 5, "by interface: {by_ifname}");
        }
    }
    assert_eq!((lines("tcp . 1 ").len(), lines("tcp . 4 ").len()), (5, 5));
}

fn leaks_are_noted_and_removed(world: &mut World) {
    let mut filter = filter();
    let id = "0123456789abcdef".repeat(16);
    for (port, sandbox) in [(1, "c1"), (2, "c2"), (3, &id)] {
        let owner = Owner { sandbox, ..ONE };
        let addresses = [format!("10.1.0.{port}/24"), format!("fd00:1::{port}/64")];
        add(&mut world.host, &mut filter, &tcp(port), &owner, &previous_of(&owner, &addresses)).unwrap();
    }
    let compatible = spec(r#"{"hostPort":9,"containerPort":80,"protocol":"tcp"}"#, r#","layout":"compatible""#);
    let owner = Owner { sandbox: "c3", ..ONE };
    add(&mut world.host, &mut filter, &compatible, &owner, &previous(&ADDRESSES)).unwrap();
    let all = noted().unwrap();
    assert_eq!(all.len(), 4, "{all:?}");
    let of = |sandbox: &str| all.iter().filter(|noted| noted.can_be_of(sandbox)).cloned().collect::<Vec<_>>();
    assert_eq!([of("c1").len(), of("c2").len(), of("c3").len(), of(&id).len(), of("c").len()], [1, 1, 1, 1, 0]);
    let one = &of("c1")[0];
    assert_eq!(
        (one.network.as_str(), one.ifname.as_str(), one.place()),
        ("lab", "eth0", "tables ip and ip6 plexus_portmap")
    );
    assert_eq!(of("c3")[0].place(), "tables ip and ip6 cni_hostport");
    assert!(id.starts_with(&of(&id)[0].sandbox) && of(&id)[0].sandbox.len() < id.len());
    for (sandbox, left) in [("c1", 3), ("c3", 2), (&id, 1)] {
        remove_noted(&of(sandbox)).unwrap();
        assert_eq!(noted().unwrap().len(), left, "{sandbox}");
    }
    check(&mut filter, &tcp(2), &TWO, &previous(&["10.1.0.2/24", "fd00:1::2/64"])).unwrap();
    assert_eq!((elements(), lines("\"c3\"")), (5, vec![]));
}

fn what_is_removed_underneath_is_missed(world: &mut World) {
    let mut filter = filter();
    let previous = previous(&ADDRESSES);
    for (change, text) in [
        ("delete table ip plexus_portmap", "0 of 3 elements for mapped ports of eth0 are in table ip plexus_portmap"),
        (
            "flush set ip6 plexus_portmap near",
            "1 of 2 elements for mapped ports of eth0 are in table ip6 plexus_portmap",
        ),
        ("flush chain ip plexus_portmap output", "nothing leads to the mapped ports in table ip plexus_portmap"),
        ("flush chain ip6 plexus_portmap postrouting", "nothing leads to the mapped ports in table ip6 plexus_portmap"),
    ] {
        add(&mut world.host, &mut filter, &tcp(8080), &ONE, &previous).unwrap();
        check(&mut filter, &tcp(8080), &ONE, &previous).unwrap();
        nft(change);
        let error = check(&mut filter, &tcp(8080), &ONE, &previous).unwrap_err();
        assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::Mismatch, text), "{change}");
        remove(&mut filter, Some(&tcp(8080)), &ONE).unwrap();
        assert_eq!(elements(), 0, "{change}");
    }
}
