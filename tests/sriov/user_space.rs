//! A function that a program of user space has: its port is set up, and nothing is in the pod.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::Case;
use crate::card::{Card, ip, ip_json, names, netns, until};

pub(crate) const CASES: &[Case] =
    &[("user_space::its_port_is_set_up_and_comes_back", its_port_is_set_up_and_comes_back)];

/// Binds a function to another driver; an empty one is its own.
fn bind(pci: &str, driver: &str) {
    let device = Path::new("/sys/bus/pci/devices").join(pci);
    fs::write(device.join("driver/unbind"), pci).unwrap();
    fs::write(device.join("driver_override"), format!("{driver}\n")).unwrap();
    fs::write("/sys/bus/pci/drivers_probe", pci).unwrap();
}

fn its_port_is_set_up_and_comes_back(card: &Card) {
    let pci = &card.functions[1].pci;
    bind(pci, "vfio-pci");
    let before = card.state();
    ip("netns add one");
    let conf = card.conf(1, json!({"vlan": 100, "mac": "02:00:00:00:00:07", "trust": "on"}));
    let result = card.add("one", &conf);
    let expected = json!({"name": "net1", "mac": "02:00:00:00:00:07", "sandbox": netns("one")});
    assert_eq!(result["interfaces"], json!([expected]));
    assert!(result["ips"][0]["address"].as_str().unwrap().starts_with("10.1.0."));
    assert_eq!(card.port(1)["vlan_list"][0]["vlan"], 100);
    assert_eq!(ip_json("-n one link").as_array().unwrap().len(), 1, "lo alone");
    let checked = card.check("one", &conf, &result);
    assert!(checked.success, "{}", checked.json);
    card.del("one", &netns("one"), &conf);
    card.assert_state(&before, "after DEL");
    // And without the namespace.
    card.add("one", &conf);
    ip("netns del one");
    card.del("one", "", &conf);
    card.assert_state(&before, "after DEL without the namespace");
    bind(pci, "");
    until("the interface", || names(&Path::new("/sys/bus/pci/devices").join(pci).join("net")).into_iter().next());
}
