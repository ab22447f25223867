//! Damaged caches of pods that live: what only leases lead to leaves their namespaces too.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Bed, KEPT, conf, networks};
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
