//! A function that a program of user space has: its port is set up, and nothing is in the pod.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::Case;
use crate::card::{Card, ip, ip_json, names, netns, until};

pub(crate) const CASES: &[Case] = &[
    ("user_space::s1_its_port_is_set_up_and_comes_back", s1_its_port_is_set_up_and_comes_back),
    ("user_space::s8_check_finds_what_was_changed", s8_check_finds_what_was_changed),
    ("user_space::its_pod_is_told_with_its_address_and_its_device", its_pod_is_told_with_its_address_and_its_device),
    ("user_space::an_mtu_that_nothing_has_is_told", an_mtu_that_nothing_has_is_told),
    ("user_space::it_is_bound_for_its_pod_and_bound_back", it_is_bound_for_its_pod_and_bound_back),
    ("user_space::one_that_is_in_use_is_not_bound_back_before", one_that_is_in_use_is_not_bound_back_before),
    ("user_space::a_pod_gets_an_interface_of_it", a_pod_gets_an_interface_of_it),
    ("user_space::one_without_a_driver_is_left_without", one_without_a_driver_is_left_without),
    ("user_space::a_driver_that_is_not_loaded_is_known_before", a_driver_that_is_not_loaded_is_known_before),
];

/// Binds a function to another driver; an empty one is its own.
pub(crate) fn bind(pci: &str, driver: &str) {
    let device = Path::new("/sys/bus/pci/devices").join(pci);
    fs::write(device.join("driver/unbind"), pci).unwrap();
    fs::write(device.join("driver_override"), format!("{driver}\n")).unwrap();
    fs::write("/sys/bus/pci/drivers_probe", pci).unwrap();
}

fn s1_its_port_is_set_up_and_comes_back(card: &Card) {
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

fn s8_check_finds_what_was_changed(card: &Card) {
    let pci = &card.functions[0].pci;
    ip("netns add one");
    let conf = card.conf(0, json!({"vlan": 100, "mac": "02:00:00:00:00:07", "driver": "vfio-pci"}));
    let result = card.add("one", &conf);
    let differs = |said: &str| {
        let checked = card.check("one", &conf, &result);
        assert!(!checked.success && checked.json["msg"].as_str().unwrap().contains(said), "{said}: {}", checked.json);
    };
    let same = || {
        let checked = card.check("one", &conf, &result);
        assert!(checked.success, "{}", checked.json);
    };
    same();
    for (change, back, said) in [
        ("vlan 200", "vlan 100", "vlan 200"),
        ("mac 02:00:00:00:00:08", "mac 02:00:00:00:00:07", "mac 02:00:00:00:00:08, expected 02:00:00:00:00:07"),
    ] {
        ip(&format!("link set {} vf 0 {change}", card.name));
        differs(said);
        ip(&format!("link set {} vf 0 {back}", card.name));
    }
    bind(pci, "");
    differs("is bound to igbvf, expected vfio-pci");
    bind(pci, "vfio-pci");
    same();
    // Another function has come in its place: by whose group the pod has it nobody can change without a reboot, but the record can.
    let record = card.left().into_iter().find(|path| path.contains(".jsonl")).unwrap();
    let text = fs::read_to_string(&record).unwrap();
    let group = group(pci);
    let (is, was) = (format!("\"group\":{group},\"settings\""), format!("\"group\":{},\"settings\"", group + 1000));
    assert!(text.contains(&is), "{text}");
    fs::write(&record, text.replace(&is, &was)).unwrap();
    differs(&format!("has IOMMU group {group}, expected {}", group + 1000));
    fs::write(&record, text).unwrap();
    same();
    ip("netns del one");
    ip("netns add one");
    differs("is not the one that was attached");
    card.del("one", "", &conf);
    ip("netns del one");
}

/// A pod that was given a function by a device plugin: what readers of its status see of it.
fn its_pod_is_told_with_its_address_and_its_device(card: &Card) {
    let (pci, mac) = (&card.functions[0].pci, "02:00:00:00:00:07");
    let place = std::env::temp_dir().join(format!("plexus-sriov-pod-{}", std::process::id()));
    let manifests = place.join("manifests");
    let checkpoint = place.join("kubelet/device-plugins");
    let described = Path::new("/var/run/k8s.cni.cncf.io/devinfo/dp");
    for folder in [&manifests, &checkpoint, &described.to_owned()] {
        fs::create_dir_all(folder).unwrap();
    }
    let mut own = card.conf(0, json!({"vlan": 100, "mac": mac, "driver": "vfio-pci"}));
    own.as_object_mut().unwrap().remove("deviceID");
    own["capabilities"] = json!({"deviceID": true, "CNIDeviceInfoFile": true});
    let definition = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"namespace": "default", "name": "fast", "annotations": {"k8s.v1.cni.cncf.io/resourceName": "a.test/vf"}},
        "spec": {"config": own.to_string()}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": "one", "uid": "uid-one",
        "annotations": {"k8s.v1.cni.cncf.io/networks": "fast"}}});
    fs::write(manifests.join("fast.json"), definition.to_string()).unwrap();
    fs::write(manifests.join("one.json"), pod.to_string()).unwrap();
    let allocated = json!({"Data": {"PodDeviceEntries": [{"PodUID": "uid-one", "ContainerName": "c", "ResourceName": "a.test/vf",
        "DeviceIDs": {"0": [pci]}, "AllocResp": ""}], "RegisteredDevices": {}}, "Checksum": 1});
    fs::write(checkpoint.join("kubelet_internal_checkpoint"), allocated.to_string()).unwrap();
    let device = json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": pci, "rdma-device": "mlx5_7"}});
    let description = described.join(format!("a.test-vf-{pci}-device.json"));
    fs::write(&description, device.to_string()).unwrap();
    let node = json!({"cniVersion": "1.1.0", "name": "node", "type": "plexus-cni", "manifests": manifests, "kubeletDir": place.join("kubelet"),
        "delegates": [{"cniVersion": "1.1.0", "name": "none", "type": "loopback"}]});
    ip("netns add one");
    let answer = card.call_for_pod("ADD", "one", &node);
    assert!(answer.success, "{} {}", answer.json, answer.log);
    let record = card.left().into_iter().find(|path| path.contains(".jsonl")).unwrap();
    let record = fs::read_to_string(record).unwrap();
    let committed: Value = serde_json::from_str(record.lines().last().unwrap()).unwrap();
    let status: Value = serde_json::from_str(committed["status"].as_str().unwrap()).unwrap();
    let lease = card.left().into_iter().find(|path| path.contains("/10.")).unwrap();
    let address = lease.rsplit('/').next().unwrap();
    let expected = json!({"name": "default/fast", "interface": "net1", "ips": [address], "mac": mac, "default": false, "dns": {},
        "device-info": device});
    assert_eq!((driver(pci).as_str(), &status[1]), ("vfio-pci", &expected));
    let answer = card.call_for_pod("DEL", "one", &node);
    assert!(answer.success, "{} {}", answer.json, answer.log);
    ip("netns del one");
    fs::remove_file(description).unwrap();
    fs::remove_dir_all(place).unwrap();
}

fn an_mtu_that_nothing_has_is_told(card: &Card) {
    ip("netns add one");
    let conf = card.conf(0, json!({"mtu": 9000, "driver": "vfio-pci"}));
    let answer = card.call("ADD", "one", &conf);
    assert!(answer.success && answer.log.contains("mtu 9000 is nobody's"), "{} {}", answer.json, answer.log);
    assert_eq!(answer.json["interfaces"][0]["mtu"], json!(null));
    let checked = card.check("one", &conf, &answer.json);
    assert!(checked.success, "{}", checked.json);
    card.del("one", &netns("one"), &conf);
    ip("netns del one");
}

/// The driver of a function; empty where it has none.
fn driver(pci: &str) -> String {
    let path = Path::new("/sys/bus/pci/devices").join(pci).join("driver");
    fs::read_link(path).map(|link| link.file_name().unwrap().to_str().unwrap().to_owned()).unwrap_or_default()
}

/// The IOMMU group of a function.
fn group(pci: &str) -> u32 {
    let link = fs::read_link(Path::new("/sys/bus/pci/devices").join(pci).join("iommu_group")).unwrap();
    link.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

fn it_is_bound_for_its_pod_and_bound_back(card: &Card) {
    let before = card.state();
    let pci = &card.functions[0].pci;
    ip("netns add one");
    let conf = card.conf(0, json!({"vlan": 100, "mac": "02:00:00:00:00:07", "driver": "vfio-pci"}));
    let result = card.add("one", &conf);
    assert_eq!((driver(pci).as_str(), &result["interfaces"][0]["mac"]), ("vfio-pci", &json!("02:00:00:00:00:07")));
    assert_eq!(card.port(0)["vlan_list"][0]["vlan"], 100);
    let checked = card.check("one", &conf, &result);
    assert!(checked.success, "{}", checked.json);
    card.del("one", &netns("one"), &conf);
    assert_eq!(driver(pci), "igbvf");
    card.assert_state(&before, "after DEL");
    // A card that refuses another thing.
    let refused =
        card.call("ADD", "one", &card.conf(0, json!({"vlan": 100, "driver": "vfio-pci", "link_state": "disable"})));
    assert!(!refused.success);
    assert_eq!(driver(pci), "igbvf");
    ip("netns del one");
}

fn one_that_is_in_use_is_not_bound_back_before(card: &Card) {
    let pci = &card.functions[0].pci;
    ip("netns add one");
    let conf = card.conf(0, json!({"vlan": 100, "driver": "vfio-pci"}));
    card.add("one", &conf);
    let group = Path::new("/dev/vfio").join(group(pci).to_string());
    let held = fs::OpenOptions::new().read(true).write(true).open(group).unwrap();
    let refused = card.call("DEL", "one", &conf);
    assert!(!refused.success && refused.json["msg"].as_str().unwrap().contains("is in use"), "{}", refused.json);
    assert_eq!((driver(pci).as_str(), &card.port(0)["vlan_list"][0]["vlan"]), ("vfio-pci", &json!(100)));
    drop(held);
    card.del("one", &netns("one"), &conf);
    assert_eq!(driver(pci), "igbvf");
    ip("netns del one");
}

fn a_pod_gets_an_interface_of_it(card: &Card) {
    let pci = &card.functions[1].pci;
    bind(pci, "vfio-pci");
    let before = card.state();
    let conf = card.conf(1, json!({"vlan": 100, "mac": "02:00:00:00:00:07", "driver": "netdev"}));
    for lost in [false, true] {
        ip("netns add one");
        let result = card.add("one", &conf);
        let link = crate::card::link_of("one", "net1");
        assert_eq!((&link["parentdev"], &link["address"]), (&json!(pci), &json!("02:00:00:00:00:07")));
        if !lost {
            let checked = card.check("one", &conf, &result);
            assert!(checked.success, "{}", checked.json);
            card.del("one", &netns("one"), &conf);
        }
        ip("netns del one");
        if lost {
            card.del("one", "", &conf);
        }
        assert_eq!(driver(pci), "vfio-pci");
        card.assert_state(&before, "after DEL");
    }
    bind(pci, "");
    until("the interface", || names(&Path::new("/sys/bus/pci/devices").join(pci).join("net")).into_iter().next());
}

fn one_without_a_driver_is_left_without(card: &Card) {
    let pci = &card.functions[1].pci;
    fs::write(Path::new("/sys/bus/pci/devices").join(pci).join("driver/unbind"), pci).unwrap();
    let before = card.state();
    ip("netns add one");
    let answer = card.call("ADD", "one", &card.conf(1, json!({})));
    assert!(!answer.success && answer.json["msg"].as_str().unwrap().contains("no driver"), "{}", answer.json);
    for wanted in ["vfio-pci", "netdev"] {
        let conf = card.conf(1, json!({"vlan": 100, "mac": "02:00:00:00:00:07", "driver": wanted}));
        let result = card.add("one", &conf);
        assert_eq!(driver(pci), if wanted == "netdev" { "igbvf" } else { wanted });
        let checked = card.check("one", &conf, &result);
        assert!(checked.success, "{}", checked.json);
        card.del("one", &netns("one"), &conf);
        assert_eq!(driver(pci), "");
        card.assert_state(&before, "after DEL");
    }
    ip("netns del one");
    fs::write("/sys/bus/pci/drivers_probe", pci).unwrap();
    until("the interface", || names(&Path::new("/sys/bus/pci/devices").join(pci).join("net")).into_iter().next());
}

fn a_driver_that_is_not_loaded_is_known_before(card: &Card) {
    let before = card.state();
    let unloaded = Command::new("modprobe").args(["-r", "vfio-pci"]).status().unwrap();
    assert!(unloaded.success() && !Path::new("/sys/bus/pci/drivers/vfio-pci").exists());
    ip("netns add one");
    let answer = card.call("ADD", "one", &card.conf(0, json!({"vlan": 100, "driver": "vfio-pci"})));
    drop(Command::new("modprobe").arg("vfio-pci").status());
    assert!(!answer.success && answer.json["msg"].as_str().unwrap().contains("modprobe vfio-pci"), "{}", answer.json);
    assert_eq!((driver(&card.functions[0].pci).as_str(), card.state()), ("igbvf", before));
    ip("netns del one");
}
