//! What an ADD sets up, what CHECK compares, and what an ADD that fails leaves: nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use crate::Case;
use crate::card::{Card, ip, link_of, names, netns, until};

pub(crate) const CASES: &[Case] = &[
    ("attach::every_attribute_is_set_and_comes_back", every_attribute_is_set_and_comes_back),
    ("attach::a_plain_function_keeps_what_it_has", a_plain_function_keeps_what_it_has),
    ("attach::s8_check_finds_what_was_changed", s8_check_finds_what_was_changed),
    ("attach::s8_status_names_what_is_missing", s8_status_names_what_is_missing),
    ("attach::s7_a_mac_needs_no_trust", s7_a_mac_needs_no_trust),
    ("attach::a_requested_mac_wins", a_requested_mac_wins),
    ("attach::s2_what_the_card_refuses_undoes_all", s2_what_the_card_refuses_undoes_all),
    ("attach::what_is_optional_may_be_refused", what_is_optional_may_be_refused),
    (
        "attach::what_another_changed_meanwhile_is_not_taken_for_its_own",
        what_another_changed_meanwhile_is_not_taken_for_its_own,
    ),
    ("attach::s4_a_taken_name_is_nobodys_to_touch", s4_a_taken_name_is_nobodys_to_touch),
];

fn everything() -> Value {
    json!({"vlan": 100, "vlanQoS": 3, "mac": "02:00:00:00:00:07", "spoofchk": "off", "trust": "on", "max_tx_rate": 200, "mtu": 1400})
}

fn every_attribute_is_set_and_comes_back(card: &Card) {
    let before = card.state();
    ip("netns add one");
    let conf = card.conf(0, everything());
    let result = card.add("one", &conf);
    let expected = json!({"name": "net1", "mac": "02:00:00:00:00:07", "mtu": 1400, "sandbox": netns("one")});
    assert_eq!(result["interfaces"], json!([expected]));
    assert_eq!(result["ips"][0]["interface"], 0);
    let port = card.port(0);
    assert_eq!(port["address"], "02:00:00:00:00:07");
    assert_eq!((&port["vlan_list"][0]["vlan"], &port["vlan_list"][0]["qos"]), (&json!(100), &json!(3)), "{port}");
    assert_eq!((&port["spoofchk"], &port["trust"]), (&json!(false), &json!(true)), "{port}");
    assert_eq!(port["rate"]["max_tx"], 200, "{port}");
    let link = link_of("one", "net1");
    assert_eq!((&link["address"], &link["mtu"]), (&json!("02:00:00:00:00:07"), &json!(1400)));
    assert_eq!((&link["parentdev"], &link["altnames"]), (&json!(card.functions[0].pci), &json!(["vf-of-a-card"])));
    assert!(link["flags"].as_array().unwrap().contains(&json!("UP")), "{link}");
    assert!(
        link["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .any(|address| address["local"].as_str().unwrap().starts_with("10.1.0."))
    );
    let checked = card.check("one", &conf, &result);
    assert!(checked.success, "{}", checked.json);
    card.del("one", &netns("one"), &conf);
    card.assert_state(&before, "after DEL");
    card.del("one", &netns("one"), &conf);
    ip("netns del one");
}

fn a_plain_function_keeps_what_it_has(card: &Card) {
    let before = card.state();
    ip("netns add one");
    let conf = card.conf(1, json!({"ipam": {}, "pf": card.name}));
    let result = card.add("one", &conf);
    assert_eq!(card.state()["ports"], before["ports"]);
    assert_eq!(result["interfaces"][0]["mac"], before["links"][1][1]);
    card.del("one", &netns("one"), &conf);
    ip("netns del one");
}

fn s8_check_finds_what_was_changed(card: &Card) {
    ip("netns add one");
    let conf = card.conf(0, everything());
    let result = card.add("one", &conf);
    let changes = [
        ("vf 0 vlan 200", "vf 0 vlan 100 qos 3", "vlan 200"),
        ("vf 0 trust off", "vf 0 trust on", "trust off, expected on"),
        ("vf 0 spoofchk on", "vf 0 spoofchk off", "spoofchk on, expected off"),
        ("vf 0 max_tx_rate 9", "vf 0 max_tx_rate 200", "rates 0 to 9 Mbit/s"),
        (
            "vf 0 mac 02:00:00:00:00:08",
            "vf 0 mac 02:00:00:00:00:07",
            "mac 02:00:00:00:00:08, expected 02:00:00:00:00:07",
        ),
    ];
    for (change, back, said) in changes {
        ip(&format!("link set {} {change}", card.name));
        let checked = card.check("one", &conf, &result);
        assert!(!checked.success && checked.json["msg"].as_str().unwrap().contains(said), "{change}: {}", checked.json);
        ip(&format!("link set {} {back}", card.name));
    }
    let differs = |said: &str| {
        let checked = card.check("one", &conf, &result);
        assert!(!checked.success && checked.json["msg"].as_str().unwrap().contains(said), "{said}: {}", checked.json);
    };
    // A pod that is trusted may do so, and its card follows.
    ip("-n one link set net1 address 02:00:00:00:00:09");
    differs("has mac 02:00:00:00:00:09, expected 02:00:00:00:00:07");
    ip(&format!("link set {} vf 0 mac 02:00:00:00:00:07", card.name));
    differs("interface net1 has MAC 02:00:00:00:00:09, expected 02:00:00:00:00:07");
    ip("-n one link set net1 address 02:00:00:00:00:07");
    ip("-n one link set net1 mtu 1300");
    differs("MTU 1300");
    ip("-n one link set net1 mtu 1400");
    let checked = card.check("one", &conf, &result);
    assert!(checked.success, "all is as it was: {}", checked.json);
    ip("netns add two");
    ip("-n one link set net1 netns two");
    differs("Cannot find container link net1");
    ip("-n two link set net1 netns one");
    // Its driver goes, and comes back with another interface, on the host.
    let pci = &card.functions[0].pci;
    fs::write(Path::new("/sys/bus/pci/devices").join(pci).join("driver/unbind"), pci).unwrap();
    differs("is bound to no driver, expected igbvf");
    fs::write("/sys/bus/pci/drivers_probe", pci).unwrap();
    differs("Cannot find container link net1");
    card.del("one", &netns("one"), &conf);
    for pod in ["one", "two"] {
        ip(&format!("netns del {pod}"));
    }
}

fn s8_status_names_what_is_missing(card: &Card) {
    let status = |more: Value| card.call_in("STATUS", "", "", &card.conf(0, more));
    let ready = status(json!({"pf": card.name}));
    assert!(ready.success, "{}", ready.json);
    let no_card = status(json!({"pf": "eth77"}));
    assert!(no_card.json["code"] == 51 && no_card.json["msg"].as_str().unwrap().contains("eth77"), "{}", no_card.json);
    let one = json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.9"}]]}});
    assert!(status(one.clone()).success);
    ip("netns add one");
    card.add("one", &card.conf(0, one.clone()));
    let full = status(one.clone());
    assert!(full.json["code"] == 50 && full.json["msg"].as_str().unwrap().contains("no IP addresses"), "{}", full.json);
    card.del("one", &netns("one"), &card.conf(0, one));
    ip("netns del one");
}

fn s7_a_mac_needs_no_trust(card: &Card) {
    ip("netns add one");
    let conf = card.conf(0, json!({"mac": "02:00:00:00:00:07"}));
    let result = card.add("one", &conf);
    let (port, link) = (card.port(0), link_of("one", "net1"));
    assert_eq!((&port["trust"], &port["address"]), (&json!(false), &json!("02:00:00:00:00:07")));
    assert_eq!((&link["address"], &result["interfaces"][0]["mac"]), (&port["address"], &port["address"]));
    card.del("one", &netns("one"), &conf);
    ip("netns del one");
}

fn a_requested_mac_wins(card: &Card) {
    ip("netns add one");
    // What is not used may be whatever it is.
    for own in ["02:00:00:00:00:07", "{{mac}}"] {
        let conf = card.conf(0, json!({"mac": own, "runtimeConfig": {"mac": "02:00:00:00:00:09"}}));
        let result = card.add("one", &conf);
        assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:09");
        assert_eq!(card.port(0)["address"], "02:00:00:00:00:09");
        assert_eq!(link_of("one", "net1")["address"], "02:00:00:00:00:09");
        card.del("one", &netns("one"), &conf);
    }
    ip("netns del one");
}

fn s2_what_the_card_refuses_undoes_all(card: &Card) {
    let before = card.state();
    ip("netns add one");
    ip(&format!("link set {} up", card.functions[0].name));
    let refused = [
        (json!({"link_state": "disable"}), "set link_state of vf 0"),
        (json!({"min_tx_rate": 10, "max_tx_rate": 200}), "set min_tx_rate and max_tx_rate of vf 0"),
        (json!({"vlanProto": "802.1ad"}), "set vlan of vf 0"),
        (json!({"pf": "eth77"}), "not of pf eth77"),
        (json!({"mtu": 60000}), "set mtu of"),
        (
            json!({"ipam": {"type": "static", "addresses": [{"address": "10.1.0.5/24"}], "routes": [{"dst": "10.9.0.0/16", "gw": "10.8.0.1"}]}}),
            "failed to add route",
        ),
    ];
    for (more, said) in refused {
        let mut all = everything();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = card.call("ADD", "one", &card.conf(0, all));
        assert!(!answer.success && answer.json["msg"].as_str().unwrap().contains(said), "{more}: {}", answer.json);
        assert!(!answer.json["msg"].as_str().unwrap().contains("undoing"), "{}", answer.json);
        card.assert_state(&before, &format!("after a refused ADD: {more}"));
        assert_eq!(card.left(), Vec::<String>::new());
        let up = ip(&format!("link show {}", card.functions[0].name)).contains(",UP");
        assert!(up, "it was up before");
    }
    ip(&format!("link set {} down", card.functions[0].name));
    ip("netns del one");
}

fn what_is_optional_may_be_refused(card: &Card) {
    ip("netns add one");
    let conf = card.conf(
        0,
        json!({"link_state": "disable", "min_tx_rate": 5, "vlan": 7, "optional": ["link_state", "min_tx_rate"]}),
    );
    let answer = card.call("ADD", "one", &conf);
    assert!(answer.success, "{}", answer.json);
    for key in ["link_state", "min_tx_rate"] {
        assert!(answer.log.contains(&format!("{key} is left as it is")), "{}", answer.log);
    }
    assert_eq!(card.port(0)["vlan_list"][0]["vlan"], 7);
    let checked = card.check("one", &conf, &answer.json);
    assert!(checked.success, "{}", checked.json);
    card.del("one", &netns("one"), &conf);
    ip("netns del one");
}

/// An ADD has looked at the function, and waits for its record; meanwhile the function changes.
fn what_another_changed_meanwhile_is_not_taken_for_its_own(card: &Card) {
    ip("netns add one");
    let conf = card.conf(0, json!({"vlan": 100}));
    card.add("one", &conf);
    let record = card.left().into_iter().find(|path| path.contains(".jsonl")).unwrap();
    card.del("one", &netns("one"), &conf);
    let before = card.state();
    let held = Flock::lock(File::create(&record).unwrap(), FlockArg::LockExclusive).unwrap();
    let child = card.begin("ADD", "one", &conf);
    let files = PathBuf::from(format!("/proc/{}/fd", child.id()));
    let is_open =
        || names(&files).iter().any(|fd| fs::read_link(files.join(fd)).is_ok_and(|file| file == Path::new(&record)));
    until("the record", || is_open().then_some(()));
    ip(&format!("link set {} vf 0 vlan 300", card.name));
    drop(held);
    let output = child.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said["code"] == 11 && said["msg"].as_str().unwrap().contains("was changed by somebody else"), "{said}");
    assert_eq!(card.port(0)["vlan_list"][0]["vlan"], 300, "nothing was done to it");
    assert_eq!(card.left().iter().filter(|path| path.contains("/devices/")).count(), 0);
    ip(&format!("link set {} vf 0 vlan 0", card.name));
    card.del("one", &netns("one"), &conf);
    card.assert_state(&before, "after all");
    ip("netns del one");
}

fn s4_a_taken_name_is_nobodys_to_touch(card: &Card) {
    let before = card.state();
    ip("netns add one");
    ip("-n one link add net1 type dummy");
    let conf = card.conf(0, everything());
    let answer = card.call("ADD", "one", &conf);
    assert!(!answer.success && answer.json["msg"].as_str().unwrap().contains("net1"), "{}", answer.json);
    card.assert_state(&before, "after a refused ADD");
    card.del("one", &netns("one"), &conf);
    assert_eq!(link_of("one", "net1")["linkinfo"]["info_kind"], "dummy");
    ip("netns del one");
}
