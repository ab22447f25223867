//! What sriov-cni attached, brought back by what it kept: files as that writes them, and a pod as that leaves it.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::Case;
use crate::card::{Card, ip, ip_json, link_of, netns};

pub(crate) const CASES: &[Case] = &[
    ("peer::what_it_attached_comes_back", what_it_attached_comes_back),
    ("peer::without_its_namespace_too", without_its_namespace_too),
    ("peer::what_another_pod_has_by_now_stays", what_another_pod_has_by_now_stays),
    ("peer::what_its_pod_has_is_not_given_away", what_its_pod_has_is_not_given_away),
];

const PLACE: &str = "/var/lib/cni/sriov";

/// A pod with the first function, as sriov-cni attaches one: `container` is what the runtime calls it.
fn attached(card: &Card, container: &str) {
    let function = &card.functions[0];
    let before = card.state();
    let (port, link) = (&before["ports"][0], &before["links"][0]);
    let kept = json!({"cniVersion": "1.0.0", "name": "sriov-test", "type": "sriov", "deviceID": function.pci, "Master": card.name, "VFID": 0,
        "MAC": "02:00:00:00:00:07", "MTU": link[2], "vlan": 300, "vlanQoS": 0, "vlanProto": "802.1q", "min_tx_rate": null, "max_tx_rate": null,
        "OrigVfState": {"HostIFName": function.name, "SpoofChk": true, "Trust": false, "AdminMAC": port["address"],
            "EffectiveMAC": link[1], "Vlan": 0, "VlanQoS": 0, "VlanProto": 0x8100, "MinTxRate": 0, "MaxTxRate": 0, "LinkState": 0, "MTU": link[2]}});
    fs::create_dir_all(format!("{PLACE}/pci")).unwrap();
    fs::write(format!("{PLACE}/{container}-net1"), kept.to_string()).unwrap();
    fs::write(format!("{PLACE}/pci/{}", function.pci), netns(container)).unwrap();
    ip(&format!("netns add {container}"));
    for words in ["vlan 300", "mac 02:00:00:00:00:07", "trust on"] {
        ip(&format!("link set {} vf 0 {words}", card.name));
    }
    ip(&format!("link set {} netns {container} name net1", function.name));
    ip(&format!("-n {container} link set net1 address 02:00:00:00:00:07 mtu 1400 up"));
}

fn is_forgotten(card: &Card) -> bool {
    !Path::new(PLACE).join("one-net1").exists() && !Path::new(PLACE).join("pci").join(&card.functions[0].pci).exists()
}

fn what_it_attached_comes_back(card: &Card) {
    let before = card.state();
    attached(card, "one");
    card.del("one", &netns("one"), &card.conf(0, json!({"vlan": 300})));
    card.assert_state(&before, "after DEL");
    assert!(is_forgotten(card));
    card.del("one", &netns("one"), &card.conf(0, json!({"vlan": 300})));
    ip("netns del one");
}

fn without_its_namespace_too(card: &Card) {
    let before = card.state();
    attached(card, "one");
    card.del("one", "", &card.conf(0, json!({"vlan": 300})));
    card.assert_state(&before, "after a DEL that names no namespace");
    assert!(is_forgotten(card));
    ip("netns del one");
    attached(card, "one");
    ip("netns del one");
    card.del("one", "", &card.conf(0, json!({"vlan": 300})));
    assert!(is_forgotten(card));
}

fn what_another_pod_has_by_now_stays(card: &Card) {
    attached(card, "one");
    ip("netns del one");
    ip("netns add two");
    let conf = card.conf(0, json!({"vlan": 200}));
    let home = || ip_json("-d link").as_array().unwrap().iter().any(|link| link["parentdev"] == card.functions[0].pci);
    crate::card::until("the function", || home().then_some(()));
    for words in ["vlan 0", "mac 02:00:00:00:01:00", "trust off"] {
        ip(&format!("link set {} vf 0 {words}", card.name));
    }
    ip("link set net1 mtu 1500");
    ip(&format!("link set net1 name {}", card.functions[0].name));
    ip(&format!("link set {} up", card.functions[0].name));
    ip(&format!("link set {} down", card.functions[0].name));
    card.add("two", &conf);
    let port = card.port(0);
    card.del("one", "", &card.conf(0, json!({"vlan": 300})));
    assert_eq!(card.port(0), port);
    assert_eq!(link_of("two", "net1")["parentdev"], card.functions[0].pci);
    card.del("two", &netns("two"), &conf);
    drop(fs::remove_file(Path::new(PLACE).join("pci").join(&card.functions[0].pci)));
    assert!(is_forgotten(card));
    ip("netns del two");
}

fn what_its_pod_has_is_not_given_away(card: &Card) {
    attached(card, "one");
    ip("netns add two");
    let answer = card.call("ADD", "two", &card.conf(0, json!({})));
    let said = answer.json["msg"].as_str().unwrap();
    assert!(answer.json["code"] == 11 && said.contains("/run/netns/one, from sriov-cni"), "{}", answer.json);
    card.del("one", &netns("one"), &card.conf(0, json!({})));
    ip("netns del one");
    ip("netns del two");
}
