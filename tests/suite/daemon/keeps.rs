//! A daemon that keeps the node's CNI configuration: there once it serves, put back, and left when it ends.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{DIR, Daemon, node, until};
use crate::case::Case;

/// The runtime's configurations.
const NET_D: &str = "/run/scratch/net.d";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("daemon::d15_keeps_the_configuration_of_its_node", &[], keeps),
        Case::new("daemon::d13_serves_with_a_configuration_that_a_person_wrote", &[], written),
    ]
}

/// The file that a runtime takes: the first by name.
fn first() -> Option<(PathBuf, Value)> {
    let files = fs::read_dir(NET_D).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "conflist")).collect();
    files.sort();
    let path = files.into_iter().next()?;
    let value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    Some((path, value))
}

/// Whether the runtime would ask plexus, for this default network, and plexus its daemon.
fn is_ours(network: &str) -> bool {
    let Some((_, value)) = first() else { return false };
    let plugin = &value["plugins"][0];
    plugin["type"] == "plexus-cni"
        && plugin["daemonSocketDir"] == DIR
        && plugin["delegates"][0]["name"].as_str().is_some_and(|name| name == network)
}

fn write_primary(name: &str) {
    let list = json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "bridge", "bridge": "cni0"}]});
    fs::write(Path::new(NET_D).join("10-primary.conflist"), list.to_string()).unwrap();
}

fn keeps() {
    let _node = node("fail");
    fs::create_dir_all(NET_D).unwrap();
    let config = Path::new("/run/scratch/daemon-config.json");
    fs::write(config, json!({"cniConfigDir": NET_D, "socketDir": DIR}).to_string()).unwrap();
    write_primary("one");
    let daemon = Daemon::start_keeping(config);
    until("the configuration is there", || is_ours("one"));
    let (ours, _) = first().unwrap();
    fs::remove_file(&ours).unwrap();
    until("it is back", || is_ours("one"));
    write_primary("two");
    until("it follows the default network", || is_ours("two"));
    daemon.stop();
    assert!(is_ours("two"), "it stays when the daemon ends");
}

/// Another `multusConfigFile` than `auto`: it goes where the runtime looks, and the daemon serves what it says.
fn written() {
    let mut node = node("fail");
    fs::create_dir_all(NET_D).unwrap();
    let file = "/run/scratch/mine.conf";
    let text = |level: &str| {
        let mut conf = node.conf.clone();
        conf["logLevel"] = json!(level);
        conf["logFile"] = json!("/run/scratch/mine.log");
        conf["type"] = json!("multus-shim");
        conf["delegates"][0]["name"] = json!("mine");
        fs::write(file, conf.to_string()).unwrap();
    };
    text("error");
    let config = Path::new("/run/scratch/daemon-config.json");
    let told = json!({"cniConfigDir": NET_D, "socketDir": DIR, "multusConfigFile": file});
    fs::write(config, told.to_string()).unwrap();
    let daemon = Daemon::start_keeping(config);
    // One plugin's, as it was written: no list.
    let kept = || -> Value {
        let text = fs::read(Path::new(NET_D).join("00-0-plexus.conf")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    };
    let is_kept = |level: &str| {
        let conf = kept();
        conf["type"] == "plexus-cni" && conf["delegates"][0]["name"] == "mine" && conf["logLevel"] == level
    };
    until("the configuration is there", || is_kept("error"));
    text("verbose");
    until("a change of it is followed", || is_kept("verbose"));
    node.conf = kept();
    node.add("a", "blue");
    assert_eq!(node.addresses("a", "net1"), ["10.2.0.2/24"]);
    node.call("DEL", "a").run().ok();
    daemon.stop();
    assert!(is_kept("verbose"), "it stays when the daemon ends");
}
