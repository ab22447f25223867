//! What sriov-cni attached, brought back by what it kept: files as that writes them, and a pod as that leaves it.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::Case;
use crate::card::{ALIAS, Card, ip, ip_json, kept_of, link_of, netns};

pub(crate) const CASES: &[Case] = &[
    ("peer::what_it_attached_comes_back", what_it_attached_comes_back),
    ("peer::s5_without_its_namespace_too", s5_without_its_namespace_too),
    ("peer::what_another_pod_has_by_now_stays", what_another_pod_has_by_now_stays),
    ("peer::what_its_pod_has_is_not_given_away", what_its_pod_has_is_not_given_away),
    ("peer::what_it_kept_before_this_boot_says_nothing", what_it_kept_before_this_boot_says_nothing),
    ("peer::a_pod_that_is_handed_to_it_is_as_its_own", a_pod_that_is_handed_to_it_is_as_its_own),
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

fn s5_without_its_namespace_too(card: &Card) {
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

fn what_it_kept_before_this_boot_says_nothing(card: &Card) {
    let before = card.state();
    attached(card, "one");
    // What has the function now is another pod, by whom it was attached nobody here knows.
    let files = [format!("{PLACE}/one-net1"), format!("{PLACE}/pci/{}", card.functions[0].pci)];
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    for file in &files {
        fs::OpenOptions::new().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    }
    let (port, link) = (card.port(0), kept_of("one", "net1"));
    card.del("one", &netns("one"), &card.conf(0, json!({"vlan": 300})));
    assert_eq!((card.port(0), kept_of("one", "net1")), (port, link), "nobody touched it");
    assert!(!Path::new(&files[0]).exists());
    // Of what holds it nothing is said either; here the pod that has it is in the way.
    let answer = card.call("ADD", "one", &card.conf(0, json!({})));
    assert!(!answer.json["msg"].as_str().unwrap().contains("sriov-cni"), "{}", answer.json);
    fs::remove_file(&files[1]).unwrap();
    ip("-n one link set net1 down");
    ip(&format!("-n one link set net1 netns 1 name {}", card.functions[0].name));
    for words in ["vlan 0", "mac 02:00:00:00:01:00", "trust off"] {
        ip(&format!("link set {} vf 0 {words}", card.name));
    }
    let name = &card.functions[0].name;
    ip(&format!("link set {name} mtu 1500 up"));
    ip(&format!("link set {name} down"));
    card.assert_state(&before, "put right by hand");
    ip("netns del one");
}

/// The node goes back to Multus with a pod attached, which sriov-cni is to delete.
fn a_pod_that_is_handed_to_it_is_as_its_own(card: &Card) {
    let before = card.state();
    let place = std::env::temp_dir().join(format!("plexus-sriov-handed-{}", std::process::id()));
    let multus = place.join("bin/multus");
    fs::create_dir_all(place.join("net.d")).unwrap();
    fs::create_dir_all(multus.parent().unwrap()).unwrap();
    fs::write(&multus, "").unwrap();
    ip("netns add one");
    let own = card.conf(0, json!({"vlan": 100, "mac": "02:00:00:00:00:07", "trust": "on", "mtu": 1400}));
    let mut node = json!({"cniVersion": "1.1.0", "name": "node", "type": "plexus-cni", "delegates": [own]});
    let answer = card.call_of("plexus-cni", "ADD", "one", &node);
    assert!(answer.success, "{} {}", answer.json, answer.log);
    node["type"] = json!("multus");
    node["cniDir"] = json!(place.join("cni"));
    fs::write(place.join("net.d/00-multus.conf"), node.to_string()).unwrap();
    let mut back = card.plexus();
    back.args(["install", "--to-multus", "--conf-dir"]).arg(place.join("net.d"));
    let done = back.arg("--bin-dir").arg(place.join("bin")).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(card.left().into_iter().filter(|path| !path.contains("/10.")).collect::<Vec<_>>(), Vec::<String>::new());
    let kept = fs::read_to_string(Path::new(PLACE).join("one-net1")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    let (port, link) = (&before["ports"][0], &before["links"][0]);
    let state = json!({"HostIFName": link[0], "SpoofChk": port["spoofchk"], "Trust": port["trust"], "AdminMAC": port["address"],
        "EffectiveMAC": link[1], "Vlan": 0, "VlanQoS": 0, "VlanProto": 0x8100, "MinTxRate": 0, "MaxTxRate": 0, "LinkState": 0, "MTU": link[2]});
    assert_eq!(kept["OrigVfState"], state);
    assert_eq!(
        (&kept["Master"], &kept["VFID"], &kept["deviceID"]),
        (&json!(card.name), &json!(0), &json!(card.functions[0].pci))
    );
    let holder = fs::read_to_string(Path::new(PLACE).join("pci").join(&card.functions[0].pci)).unwrap();
    assert_eq!(holder, netns("one"));
    // What reads sriov-cni's files brings it back: there is nothing else to read any more.
    card.del("one", &netns("one"), &own);
    // They have no place for the alias that it had, and plexus' own goes.
    assert_eq!(card.state()["links"][0][4], Value::Null);
    ip(&format!("link set {} alias {ALIAS}", card.functions[0].name));
    card.assert_state(&before, "after DEL");
    assert!(is_forgotten(card));
    ip("netns del one");
    fs::remove_dir_all(place).unwrap();
}
