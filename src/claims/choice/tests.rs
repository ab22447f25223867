//! Who gets which function of a card, by a tree of sysfs and a journal of a test's own.

use std::fs;
use std::os::unix::fs::symlink;

use backends::sriov::Conf;

use super::*;
use crate::devices::fixture::Node;

impl Node {
    fn stock(&self) -> Stock {
        Stock { sysfs: Sysfs::at(&self.0.join("sys")), peer_dir: self.0.join("sriov") }
    }

    fn chosen(&self, name: &str) -> Chosen {
        let held = Journal::new(&self.0).hold_named(name).unwrap().unwrap();
        Chosen { claims: Claims::new(&self.0, held.name()), held }
    }

    /// A request that chooses one function.
    fn one(&self, name: &str) -> (Chosen, Result<String, CniError>) {
        self.one_of(name, r#""eth0""#, &[])
    }

    /// One of these cards, for a pod with these processors.
    fn one_of(&self, name: &str, cards: &str, processors: &[u32]) -> (Chosen, Result<String, CniError>) {
        let mut spec = serde_json::from_str::<Conf>(&format!(r#"{{"pf":{cards}}}"#)).unwrap().validate().unwrap();
        spec.prefer(&processors.iter().copied().collect());
        let mut chosen = self.chosen(name);
        let device = chosen.one((&spec, "net1"), &Journal::new(&self.0), &self.0, &self.stock());
        (chosen, device.map(|device| device.id))
    }
}

#[test]
fn functions_are_given_out_in_the_order_of_their_numbers_until_none_is_free() {
    let node = Node::new("order", 7);
    fs::remove_dir_all(node.device("0000:01:10.1").join("net")).unwrap();
    let all: Vec<_> = (0..7).map(|n| node.one(&format!("n:c{n}:e.jsonl"))).collect();
    let ids: Vec<_> = all.iter().filter_map(|(_, device)| device.as_deref().ok()).collect();
    assert_eq!(ids, ["0", "2", "3", "4", "5", "6"].map(|n| format!("0000:01:10.{n}")), "1 is in another namespace");
    let refused = all[6].1.as_ref().unwrap_err();
    assert_eq!(refused.code, Code::TryAgainLater);
    let begin = "no virtual function of eth0 is free: of 7, 6 are held: device 0000:01:10.0 is held by the attachment of record n:c0:e.jsonl";
    assert!(refused.msg.starts_with(begin), "{}", refused.msg);
    let end =
        "; 1 are bound to another driver, in a network namespace that no record names, or used by the node itself";
    assert!(refused.msg.ends_with(end), "{}", refused.msg);
}

#[test]
fn what_the_node_uses_is_not_chosen() {
    let node = Node::new("own", 2);
    // A port of a bridge.
    fs::create_dir(node.device("0000:01:10.0").join("net/eth1/upper_br0")).unwrap();
    let (_held, device) = node.one("n:a:e.jsonl");
    assert_eq!(device.unwrap(), "0000:01:10.1");
    let refused = node.one("n:b:e.jsonl").1.unwrap_err();
    assert!(refused.msg.ends_with("or used by the node itself"), "{}", refused.msg);
}

/// Two cards: eth0 near NUMA node 1, with the processors 4 to 7, and eth9 (0000:02:00.0) near node 0, with the others.
fn with_two_cards(name: &str) -> Node {
    let node = Node::new(name, 2);
    let pf = node.device("0000:02:00.0");
    fs::create_dir_all(pf.join("net/eth9")).unwrap();
    fs::write(pf.join("sriov_totalvfs"), "7\n").unwrap();
    for index in 0..2 {
        fs::write(node.device(&format!("0000:01:10.{index}")).join("numa_node"), "1\n").unwrap();
        let address = format!("0000:02:10.{index}");
        let vf = node.device(&address);
        symlink("../0000:02:00.0", vf.join("physfn")).unwrap();
        symlink(format!("../{address}"), pf.join(format!("virtfn{index}"))).unwrap();
        symlink("/x/drivers/igbvf", vf.join("driver")).unwrap();
        fs::create_dir_all(vf.join(format!("net/vf{index}"))).unwrap();
        fs::write(vf.join("numa_node"), "0\n").unwrap();
    }
    for (number, list) in [(0, "0-3\n"), (1, "4-7\n")] {
        let path = node.0.join(format!("sys/devices/system/node/node{number}"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("cpulist"), list).unwrap();
    }
    node
}

#[test]
fn of_several_cards_the_one_near_the_pods_processors_comes_first() {
    let both = r#"["eth0","eth9"]"#;
    let (first, second) = (["0000:01:10.0", "0000:01:10.1"], ["0000:02:10.0", "0000:02:10.1"]);
    for (processors, expected) in [
        (&[][..], [first, second].concat()),
        (&[5], [first, second].concat()),
        (&[2, 3], [second, first].concat()),
        (&[2, 5], [first, second].concat()),
        (&[99], [first, second].concat()),
    ] {
        let node = with_two_cards("near");
        let all: Vec<_> = (0..5).map(|n| node.one_of(&format!("n:c{n}:e.jsonl"), both, processors)).collect();
        let ids: Vec<&str> = all.iter().filter_map(|(_, device)| device.as_deref().ok()).collect();
        assert_eq!(ids, expected, "{processors:?}");
        let refused = all[4].1.as_ref().unwrap_err();
        let begin = "no virtual function of eth0, eth9 is free: of 4, 4 are held: ";
        assert!(refused.code == Code::TryAgainLater && refused.msg.starts_with(begin), "{}", refused.msg);
    }
}

#[test]
fn a_card_that_is_down_comes_last_and_one_whose_interface_is_elsewhere_is_left_out() {
    let node = with_two_cards("down");
    let flags = |flags: &str| fs::write(node.device("0000:01:00.0").join("net/eth0/flags"), flags).unwrap();
    let first = |name: &str| node.one_of(name, r#"["0000:01:00.0","0000:02:00.0"]"#, &[5]);
    flags("0x1003\n");
    let (_up, device) = first("n:a:e.jsonl");
    assert_eq!(device.unwrap(), "0000:01:10.0");
    flags("0x1002\n");
    let (_down, device) = first("n:b:e.jsonl");
    assert_eq!(device.unwrap(), "0000:02:10.0", "near it, and down");
    fs::remove_dir_all(node.device("0000:01:00.0").join("net")).unwrap();
    let all: Vec<_> = ["n:c:e.jsonl", "n:d:e.jsonl"].map(first).into();
    assert_eq!(all[0].1.as_deref(), Ok("0000:02:10.1"));
    assert!(all[1].1.as_ref().unwrap_err().msg.contains("of 2, 2 are held"));
}

#[test]
fn a_card_that_is_not_here_is_left_out_and_one_that_is_named_twice_counts_once() {
    let node = with_two_cards("here");
    let refused = node.one_of("n:a:e.jsonl", r#"["ens1","ens2"]"#, &[]).1.unwrap_err();
    let said = "pf ens1 is no card with virtual functions (SR-IOV) here; pf ens2 is no card with virtual functions (SR-IOV) here";
    assert!(refused.msg.contains(said), "{}", refused.msg);
    let cards = r#"["ens1","eth9","0000:02:00.0"]"#;
    let all: Vec<_> = (0..3).map(|n| node.one_of(&format!("n:c{n}:e.jsonl"), cards, &[5])).collect();
    let ids: Vec<&str> = all.iter().filter_map(|(_, device)| device.as_deref().ok()).collect();
    assert_eq!(ids, ["0000:02:10.0", "0000:02:10.1"]);
    assert!(all[2].1.as_ref().unwrap_err().msg.contains("of 2, 2 are held"));
}

#[test]
fn what_is_given_back_and_what_a_killed_request_claimed_is_free() {
    let node = Node::new("back", 7);
    let (first, device) = node.one("n:a:e.jsonl");
    assert_eq!(device.unwrap(), "0000:01:10.0");
    assert_eq!(first.give_back(CniError::generic("no")).msg, "no");
    assert!(!node.0.join("journal/n:a:e.jsonl").exists(), "a request of which nothing comes has no record");
    let all: Vec<_> = (0..7).map(|n| node.one(&format!("n:c{n}:e.jsonl"))).collect();
    assert!(all.iter().all(|(_, device)| device.is_ok()));
    // Nobody holds these any more, and their records say nothing.
    drop(all);
    assert_eq!(node.one("n:b:e.jsonl").1.unwrap(), "0000:01:10.0");
}

#[test]
fn two_at_once_never_get_the_same() {
    let node = Node::new("race", 7);
    let all: Vec<_> = std::thread::scope(|scope| {
        let one = |n: usize| node.one(&format!("n:c{n}:e.jsonl"));
        let all: Vec<_> = (0..7).map(|n| scope.spawn(move || one(n))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut ids: Vec<_> = all.iter().map(|(_, device)| device.as_ref().unwrap().clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 7);
}

#[test]
fn what_sriov_cni_has_is_not_chosen() {
    let node = Node::new("peer", 7);
    fs::create_dir_all(node.0.join("sriov/pci")).unwrap();
    fs::write(node.0.join("sriov/pci/0000:01:10.0"), "/proc/self/ns/net").unwrap();
    fs::write(node.0.join("sriov/pci/0000:01:10.1"), "/run/netns/gone").unwrap();
    assert_eq!(node.one("n:a:e.jsonl").1.unwrap(), "0000:01:10.1", "a namespace that has gone holds nothing");
}

#[test]
fn what_is_no_claim_keeps_one_function_from_pods_and_no_other() {
    let node = Node::new("odd", 7);
    let devices = node.0.join("devices");
    fs::create_dir_all(devices.join("0000:01:10.0")).unwrap();
    fs::write(devices.join("0000:01:10.1"), "x").unwrap();
    symlink("/etc/passwd", devices.join("0000:01:10.2")).unwrap();
    let all: Vec<_> = (0..5).map(|n| node.one(&format!("n:c{n}:e.jsonl"))).collect();
    let ids: Vec<_> = all.iter().filter_map(|(_, device)| device.as_deref().ok()).collect();
    assert_eq!(ids, ["3", "4", "5", "6"].map(|n| format!("0000:01:10.{n}")));
    let refused = &all[4].1.as_ref().unwrap_err().msg;
    let begin = "no virtual function of eth0 is free: of 7, 7 are held: device 0000:01:10.0 is held by nobody knows whom: reading a claim: ";
    assert!(refused.starts_with(begin) && refused.contains("it leads to no record: remove it"), "{refused}");
}

#[test]
fn of_many_that_hold_a_card_some_are_named() {
    let node = Node::new("many", 7);
    let all: Vec<_> = (0..8).map(|n| node.one(&format!("n:c{n}:e.jsonl"))).collect();
    let refused = &all[7].1.as_ref().unwrap_err().msg;
    let (begin, end) = ("of 7, 7 are held: device 0000:01:10.0", "; and 3 more");
    assert!(refused.contains(begin) && refused.ends_with(end) && !refused.contains("c4:"), "{refused}");
}
