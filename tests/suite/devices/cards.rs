//! A network that names several cards: of which one a pod's function is taken. The cards are files of a test's own, with no interface behind
//! them: which function was chosen is told by the refusal.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use serde_json::json;

use super::{KEEPS, KUBELET, sent, try_add};
use crate::case::Case;
use crate::meta::{definition, node, statuses};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("devices::of_two_cards_the_one_near_the_pods_processors_is_taken", &[], near),
        Case::new("devices::what_the_node_is_reached_by_is_not_taken", &[], own),
        Case::new("devices::a_guid_that_a_plugin_takes_is_in_the_status", &[], guid),
    ]
}

/// A card with one function, near a NUMA node that has these processors.
fn card(bus: u32, node: u32, processors: &str) {
    let devices = Path::new("/sys/bus/pci/devices");
    let (card, function) = (format!("0000:0{bus}:00.0"), format!("0000:0{bus}:10.0"));
    let (pf, vf) = (devices.join(&card), devices.join(&function));
    fs::create_dir_all(pf.join(format!("net/card{bus}"))).unwrap();
    fs::create_dir_all(vf.join(format!("net/function{bus}"))).unwrap();
    fs::write(pf.join("sriov_totalvfs"), "7\n").unwrap();
    fs::write(vf.join("numa_node"), format!("{node}\n")).unwrap();
    symlink(format!("../{function}"), pf.join("virtfn0")).unwrap();
    symlink(format!("../{card}"), vf.join("physfn")).unwrap();
    symlink("/x/drivers/igbvf", vf.join("driver")).unwrap();
    let nodes = Path::new("/sys/devices/system/node").join(format!("node{node}"));
    fs::create_dir_all(&nodes).unwrap();
    fs::write(nodes.join("cpulist"), processors).unwrap();
}

fn near() {
    let mut node = node();
    node.conf["kubeletDir"] = json!(KUBELET);
    mount(Some("tmpfs"), "/sys", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    card(1, 0, "0-3\n");
    card(2, 1, "4-7\n");
    let conf = json!({"cniVersion": "1.0.0", "name": "vf", "type": "sriov", "pf": ["card1", "card2"]});
    definition(&node.bed, "default", "vf", &conf.to_string());
    let chosen = |function: &str| {
        let answer = try_add(&node, "a", "vf");
        answer.fails(999, &format!(" of {function} has no interface here"));
        answer.stderr
    };
    // Nobody has given the pod processors: the cards are taken as they are named.
    chosen("0000:01:10.0");
    for (processors, function) in [("5-6", "0000:02:10.0"), ("2", "0000:01:10.0")] {
        let state = json!({"policyName": "static", "defaultCpuSet": "0", "checksum": 7,
            "entries": {"uid-a": {"main": processors}, "uid-b": {"main": "7"}}});
        node.bed.file("kubelet/cpu_manager_state", &state.to_string());
        chosen(function);
    }
    let said = "cards are taken in the order of pf: which processors the pod has is not known: ";
    assert!(!chosen("0000:01:10.0").contains(said));
    node.bed.file("kubelet/cpu_manager_state", "no state");
    let told = chosen("0000:01:10.0");
    assert!(told.contains(said) && told.contains("cpu_manager_state"), "{told}");
}

/// What the node is reached by is not given to a pod; what the kernel gives every interface reaches nobody.
fn own() {
    let node = node();
    mount(Some("tmpfs"), "/sys", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    card(1, 0, "0-3\n");
    card(2, 1, "4-7\n");
    let conf = json!({"cniVersion": "1.0.0", "name": "vf", "type": "sriov", "pf": ["card1", "card2"]});
    definition(&node.bed, "default", "vf", &conf.to_string());
    node.bed.ip("link add function1 type bridge");
    for (address, function) in [
        ("fe80::9/64", "0000:01:10.0"),
        ("192.0.2.9/24", "0000:02:10.0"),
        ("2001:db8::9/64", "0000:02:10.0"),
        ("fe80::8/64", "0000:01:10.0"),
    ] {
        node.bed.ip(&format!("address add {address} dev function1"));
        try_add(&node, "a", "vf").fails(999, &format!(" of {function} has no interface here"));
        node.bed.ip(&format!("address del {address} dev function1"));
    }
}

fn guid() {
    let node = node();
    node.script("keeps", KEEPS);
    let conf = |name: &str, takes: bool| {
        let conf =
            json!({"cniVersion": "1.0.0", "name": name, "type": "keeps", "capabilities": {"infinibandGUID": takes}});
        definition(&node.bed, "default", name, &conf.to_string());
    };
    conf("ib", true);
    conf("plain", true);
    let guid = "c2:11:22:33:44:55:66:77";
    node.add("a", &json!([{"name": "ib", "infiniband-guid": guid}, {"name": "plain"}]).to_string());
    assert_eq!(sent("a", "net1", "ADD")["runtimeConfig"]["infinibandGUID"], guid);
    let status = statuses().remove(0);
    let of_network =
        |name: &str| status.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap().clone();
    assert_eq!(of_network("default/ib")["infiniband-guid"], guid);
    assert_eq!(of_network("default/plain").get("infiniband-guid"), None);
    conf("ib", false);
    let asked = json!([{"name": "ib", "infiniband-guid": guid}]).to_string();
    try_add(&node, "b", &asked).fails(7, "infinibandGUID");
}
