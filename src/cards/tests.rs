//! A tree of sysfs, a journal and claims of a test's own: who is shown to hold what, and what is told to be odd.

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::devices::fixture::Node;

impl Node {
    fn claim(&self, index: u32, record: &Record) {
        let device = Allotted { resource: String::new(), id: format!("0000:01:10.{index}") };
        Ledger::new(&self.0).take(&device, &journal::file_name(&record.intent.key)).unwrap();
    }

    fn odd(&self, records: &[Record], life: Life) -> Vec<String> {
        self.look(records, life).odd.into_iter().map(|odd| odd.what).collect()
    }

    fn look(&self, records: &[Record], life: Life) -> Card {
        let (sysfs, peer_dir) = (Sysfs::at(&self.0.join("sys")), self.0.join("sriov"));
        let users = Users::look_in(&self.0.join("vfio"), Path::new("/proc"));
        let books = Books { state_dir: &self.0, peer_dir: &peer_dir, records, users: &users };
        let mut cards = look(&sysfs, &books, &|_| life);
        assert_eq!(cards.len(), 1);
        cards.remove(0)
    }
}

/// The record of a pod that has the first function.
fn record(function: Value) -> Record {
    let line = json!({
        "key": {"network": "node", "sandbox": "c1", "ifname": "eth0"}, "bootId": "b", "netns": "/run/netns/a", "path": [],
        "pod": {"namespace": "demo", "name": "web"},
        "attachments": [{
            "network": "demo/vf", "cniName": "vf", "cniVersion": "1.0.0", "ifname": "net1", "args": "", "default": false,
            "device": {"resource": "", "id": "0000:01:10.0"},
            "steps": [{"type": "sriov", "native": true, "conf": {}, "function": function}]
        }]
    });
    journal::parse(format!("{line}\n").as_bytes()).remove(0)
}

#[test]
fn a_function_is_shown_with_who_has_it() {
    let node = Node::new("held", 3);
    let record = record(Value::Null);
    let free = node.look(std::slice::from_ref(&record), Life::Lives);
    assert!(free.functions.iter().all(|function| function.holder.is_none()), "what is not claimed is not held");
    node.claim(0, &record);
    let card = node.look(std::slice::from_ref(&record), Life::Lives);
    let expected = Holder {
        pod: "demo/web".into(),
        sandbox: "c1".into(),
        netns: "/run/netns/a".into(),
        interface: "net1".into(),
        by_peer: false,
    };
    assert_eq!(card.functions[0].holder, Some(expected));
    assert_eq!((card.functions[1].holder.as_ref(), card.functions[1].iommu_group), (None, Some(9)));
    assert_eq!((card.interface.as_deref(), card.is_up, card.odd.len()), (Some("eth0"), Some(true), 0));
}

#[test]
fn a_holder_that_is_gone_and_a_card_that_is_down_are_odd() {
    let node = Node::new("odd", 3);
    let record = record(Value::Null);
    node.claim(0, &record);
    fs::write(node.device("0000:01:00.0").join("net/eth0/flags"), "0x1002\n").unwrap();
    let expected = [
        "0000:01:10.0 is held for container c1, which is gone",
        "eth0 (0000:01:00.0) is down, and 1 of its functions are held",
    ];
    assert_eq!(node.odd(&[record], Life::Ended), expected);
    let nobody = node.look(&[], Life::Ended);
    assert_eq!((nobody.odd.len(), nobody.functions[0].holder.is_none()), (0, true), "a claim that leads nowhere");
}

#[test]
fn a_function_that_was_left_to_user_space_is_odd() {
    let node = Node::new("left", 3);
    let settings = json!({
        "mac": "02:00:00:00:00:01", "vlan": 0, "qos": 0, "proto": 33024, "minRate": 0, "maxRate": 0, "spoofCheck": true,
        "trust": false, "linkState": 0
    });
    let function = json!({
        "address": "0000:01:10.0", "pf": "0000:01:00.0", "index": 0, "driver": "igbvf", "rebound": "vfio-pci", "settings": settings,
        "interface": {"device": {"name": "eth1", "alias": ""}, "ifindex": 4, "mtu": 1500}
    });
    let record = record(function);
    node.bind(0, "vfio-pci");
    node.bind(1, "vfio-pci");
    let odd = node.odd(std::slice::from_ref(&record), Life::Lives);
    let said = "0000:01:10.0 is bound to vfio-pci and held by nobody, and had an interface when it was attached";
    assert_eq!(odd, [said], "of the other no record says so");
    node.claim(0, &record);
    assert_eq!(node.odd(&[record], Life::Lives), Vec::<String>::new());
}

#[test]
fn what_sriov_cni_attached_is_held() {
    let node = Node::new("peer", 3);
    fs::create_dir_all(node.0.join("sriov/pci")).unwrap();
    fs::write(node.0.join("sriov/pci/0000:01:10.2"), "/run/netns/b").unwrap();
    let holder = node.look(&[], Life::Lives).functions[2].holder.clone().unwrap();
    assert_eq!((holder.by_peer, holder.netns.as_str()), (true, "/run/netns/b"));
}

#[test]
fn one_that_a_program_has_is_held_and_nobody_is_told_to_unbind_it() {
    let node = Node::new("used", 3);
    let function = json!({
        "address": "0000:01:10.0", "pf": "0000:01:00.0", "index": 0, "driver": "igbvf", "rebound": "vfio-pci",
        "settings": {"mac": "02:00:00:00:00:01", "vlan": 0, "qos": 0, "proto": 33024, "minRate": 0, "maxRate": 0,
            "spoofCheck": true, "trust": false, "linkState": 0},
        "interface": {"device": {"name": "eth1", "alias": ""}, "ifindex": 4, "mtu": 1500}
    });
    let record = record(function);
    node.bind(0, "vfio-pci");
    fs::create_dir(node.0.join("vfio")).unwrap();
    fs::write(node.0.join("vfio/8"), "").unwrap();
    let open = fs::File::open(node.0.join("vfio/8")).unwrap();
    let card = node.look(std::slice::from_ref(&record), Life::Lives);
    let process = card.functions[0].user.clone().unwrap().process.unwrap();
    assert_eq!((process.id, card.functions[0].is_free(), card.odd), (std::process::id(), false, vec![]));
    drop(open);
    let card = node.look(&[record], Life::Lives);
    assert_eq!((card.functions[0].is_free(), card.odd.len()), (true, 1));
}

#[test]
fn of_a_claim_that_tells_nothing_nobody_says_that_it_is_free() {
    let node = Node::new("unclear", 4);
    let record = record(Value::Null);
    for index in [0, 1] {
        node.claim(index, &record);
    }
    fs::remove_file(node.0.join("devices/0000:01:10.1")).unwrap();
    fs::write(node.0.join("devices/0000:01:10.1"), "").unwrap();
    // There is a record, and it was not read.
    fs::create_dir_all(node.0.join(journal::RECORDS)).unwrap();
    fs::write(node.0.join(journal::RECORDS).join(journal::file_name(&record.intent.key)), "?").unwrap();
    fs::create_dir_all(node.0.join("sriov/pci/0000:01:10.2")).unwrap();
    let card = node.look(&[], Life::Lives);
    let unclear: Vec<&str> = card.functions.iter().filter_map(|function| function.unclear.as_deref()).collect();
    assert!(
        unclear[0].ends_with("cannot be read") && unclear[1].ends_with("it is no symbolic link: remove it"),
        "{unclear:?}"
    );
    assert!(unclear[2].starts_with("what sriov-cni noted of it cannot be read"), "{unclear:?}");
    assert_eq!((unclear.len(), card.odd.len()), (3, 3));
    assert_eq!([0, 1, 2, 3].map(|index: usize| card.functions[index].is_free()), [false, false, false, true]);
}

#[test]
fn what_a_record_has_claimed_and_not_named_yet_is_its_pods() {
    let node = Node::new("early", 3);
    let record = record(Value::Null);
    node.claim(2, &record);
    let holder = node.look(&[record], Life::Lives).functions[2].holder.clone().unwrap();
    assert_eq!((holder.pod.as_str(), holder.interface.as_str()), ("demo/web", ""));
}
