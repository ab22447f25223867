//! Damaged caches of pods that live: what only leases lead to leaves their namespaces too, and what no plugin can be found for keeps
//! nobody from leaving.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Bed, KEPT, conf, keep, networks, single};
use crate::call::{Answer, Side};
use crate::case::Case;
use crate::need::Need;
use crate::testbed::files_below;
use crate::tools::{CACHE, told};

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    let multus = &[Need::Multus, Need::Peers, Need::Macvlan];
    vec![
        Case::new("takeover::living::gc_of_damaged_caches_empties_the_pod", multus, emptied),
        Case::new("takeover::living::a_damaged_plugin_name_keeps_nobody", multus, misnamed),
        Case::new("takeover::living::what_nobody_can_name_stays_and_is_told", multus, nobodys),
        Case::new("takeover::gc_lets_be_whom_multus_keeps", multus, alive),
    ]
}

/// GC with these containers alive.
fn collect(node: &Bed, valid: &[&str]) -> Answer {
    let mut own = conf(Side::Plexus, &node.networks);
    let valid: Vec<Value> = valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
    own["cni.dev/valid-attachments"] = json!(valid);
    let bare = node.bed.call(Side::Plexus, "multus").command("GC").conf(&own);
    bare.without("CNI_CONTAINERID").without("CNI_IFNAME").run()
}

fn list(pod: &str) -> PathBuf {
    Path::new(KEPT).join(format!("id{pod}"))
}

fn note(network: &str, pod: &str, ifname: &str) -> PathBuf {
    Path::new(KEPT).join(format!("results/{network}-id{pod}-{ifname}"))
}

/// Only the namespace is left to say what the pod has; another pod's is let be.
fn emptied() {
    let node = Bed::new(networks(false));
    node.multus_adds("stays");
    let kept = node.bed.ip("-n stays -4 addr");
    let damages: [&dyn Fn(&str); 3] = [
        // The default network's note says where the pod is.
        &|pod| {
            fs::write(list(pod), "null").unwrap();
            fs::write(note("blue", pod, "net1"), "{\"kind\"").unwrap();
        },
        // The list says what it had, and nothing says where.
        &|pod| {
            fs::write(note("cluster", pod, "eth0"), "null").unwrap();
            fs::write(note("blue", pod, "net1"), "null").unwrap();
        },
        // Nothing says either.
        &|pod| {
            for path in [list(pod), note("cluster", pod, "eth0"), note("blue", pod, "net1")] {
                fs::write(path, "{").unwrap();
            }
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        let pod = format!("p{number}");
        node.multus_adds(&pod);
        damage(&pod);
        collect(&node, &["idstays"]).ok();
        assert_eq!(node.bed.links(&pod), ["lo"], "{pod}: it lives, and its addresses are free again");
        assert_eq!(node.bed.ip("-n stays -4 addr"), kept, "{pod}");
    }
    node.call(Side::Plexus, "DEL", "stays").run().ok();
    node.assert_clean("at last");
}

/// A list in which the type of one network is damaged, and libcni's note of it says nothing: nobody has such a plugin.
fn misnamed() {
    let node = Bed::new(networks(false));
    for (number, (index, network, ifname, command)) in [
        (1, "blue", "net1", "DEL"),
        (0, "cluster", "eth0", "DEL"),
        (1, "blue", "net1", "GC"),
        (0, "cluster", "eth0", "GC"),
    ]
    .into_iter()
    .enumerate()
    {
        let pod = format!("p{number}");
        node.multus_adds(&pod);
        let mut delegates: Value = serde_json::from_str(&fs::read_to_string(list(&pod)).unwrap()).unwrap();
        let text = node.networks[index].to_string();
        let damaged = text.replace("\"type\":\"bridge\"", "\"type\":\"bricge\"");
        let damaged = damaged.replace("\"type\":\"macvlan\"", "\"type\":\"macvlam\"");
        assert_ne!(damaged, text);
        delegates[index]["Bytes"] = json!(node.base64(&serde_json::from_str(&damaged).unwrap()));
        fs::write(list(&pod), delegates.to_string()).unwrap();
        fs::write(note(network, &pod, ifname), "null").unwrap();
        let answer = if command == "GC" { collect(&node, &[]) } else { node.call(Side::Plexus, command, &pod).run() };
        answer.ok();
        let told = answer.stderr.contains("\"bricge\"") || answer.stderr.contains("\"macvlam\"");
        assert!(told && answer.stderr.contains("is nowhere"), "{}", answer.stderr);
        assert_eq!(node.bed.links(&pod), ["lo"], "{command} of {network}: {}", answer.stderr);
        node.assert_clean(&format!("{command} of {network}"));
    }
}

/// The same of a network without leases: its link may be a device of the host, which nobody may delete.
fn nobodys() {
    let node = Bed::new(Vec::new());
    node.bed.pod("a");
    let first = single("cluster", "bridge", "10.1.0.0/24");
    let result = node.attach("a", &first, "eth0");
    node.keep_note("a", &first, "eth0", &result);
    let bare = json!({"cniVersion": "1.0.0", "name": "bare", "type": "macvlan", "master": "up0"});
    node.attach("a", &bare, "net1");
    let mut damaged = bare;
    damaged["type"] = json!("macvlam");
    node.keep_list("a", &[first, damaged]);
    keep("results/bare-ida-net1", "null");
    let own = conf(Side::Plexus, &[single("other", "bridge", "10.9.0.0/24")]);
    let answer = node.with(Side::Plexus, "DEL", "a", &own).run();
    answer.ok();
    assert!(answer.stderr.contains("net1 of \"bare\" stays"), "{}", answer.stderr);
    assert_eq!(node.bed.links("a"), ["lo", "net1"]);
    assert!(files_below(Path::new(KEPT)).is_empty());
    node.bed.lose_pod("a");
    node.assert_clean("with its namespace");
}

/// `plexus gc` knows of pods by Multus' cache, wherever the node's configuration has it.
fn alive() {
    for (dir, conf_dir) in [(KEPT, "/run/scratch/none"), ("/var/lib/cni/elsewhere", "/run/scratch/net.d")] {
        let node = Bed::new(networks(false));
        fs::create_dir_all(CACHE).unwrap();
        let at = |side: Side| {
            let mut conf = conf(side, &node.networks);
            conf["cniDir"] = json!(dir);
            conf
        };
        node.bed.file("net.d/00-multus.conf", &at(Side::Plexus).to_string());
        node.bed.pod("a");
        node.with(Side::Go, "ADD", "a", &at(Side::Go)).run().ok();
        let leaks = || {
            let (code, shown) = told(&["gc", "--dry-run", "--unrecorded", "--min-age=0", "--conf-dir", conf_dir]);
            assert_eq!(code, 0);
            shown.as_array().unwrap().iter().filter(|row| row["what"] == "lease").count()
        };
        assert_eq!(leaks(), 0, "{dir}");
        // With libcni's notes damaged the list alone speaks for it.
        for (name, _) in files_below(&Path::new(dir).join("results")) {
            fs::remove_file(Path::new(dir).join("results").join(name)).unwrap();
        }
        assert_eq!(leaks(), 0, "{dir}");
        fs::remove_file(Path::new(dir).join("ida")).unwrap();
        assert_eq!(leaks(), 2, "{dir}");
        node.bed.ip("-n a link delete eth0");
    }
}
