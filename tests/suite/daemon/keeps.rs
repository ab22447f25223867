//! A daemon that keeps the node's CNI configuration: there once it serves, put back, and left when it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use super::{DIR, Daemon, hide_pods, node, socket_id, until};
use crate::case::Case;

/// The runtime's configurations.
const NET_D: &str = "/run/scratch/net.d";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("daemon::d15_keeps_the_configuration_of_its_node", &[], keeps),
        Case::new("daemon::keeps_what_the_newer_daemon_says", &[], replaced),
        Case::new("daemon::keeps_the_newer_daemons_login", &[], login),
        Case::new("daemon::keeps_and_serves_again_when_the_newer_one_was_killed", &[], outlived),
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

/// A daemon-config.json of this level of isolation, as a cluster's administrator changes it between two daemons.
fn configured(isolation: bool) -> PathBuf {
    let path = PathBuf::from(format!("/run/scratch/daemon-config-{isolation}.json"));
    fs::create_dir_all(NET_D).unwrap();
    let text = json!({"cniConfigDir": NET_D, "socketDir": DIR, "logToStderr": true, "namespaceIsolation": isolation});
    fs::write(&path, text.to_string()).unwrap();
    path
}

fn isolates(isolation: bool) -> bool {
    first().is_some_and(|(_, list)| list["plugins"][0]["namespaceIsolation"] == isolation)
}

/// How often somebody else removes the file: who puts it back is who serves.
const REMOVALS: usize = 5;

/// While both are there, as in a rolling update, the older one keeps nothing any more.
fn replaced() {
    let _node = node("fail");
    write_primary_in_folder();
    let older = Daemon::start_keeping(&configured(false));
    until("the configuration is there", || isolates(false));
    let newer = Daemon::start_keeping(&configured(true));
    until("it is the newer daemon's", || isolates(true));
    for _ in 0..REMOVALS {
        fs::remove_file(first().unwrap().0).unwrap();
        until("it is back", || is_ours("one"));
        assert!(isolates(true), "{}", older.said());
    }
    assert!(!older.said().contains("put back"), "the older one has done nothing more: {}", older.said());
    older.stop();
    assert!(isolates(true));
    newer.stop();
}

/// The same of the node's kubeconfig: the older one's token ends with its pod, and who is asked by it would refuse everybody.
fn login() {
    let _node = node("fail");
    write_primary_in_folder();
    let start = |place: fn()| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        command.args(["daemon", "--socket-dir", DIR, "--config"]).arg(configured(false)).env_clear();
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", "1");
        Daemon::launch(command, place)
    };
    let file = Path::new(NET_D).join("plexus.d/plexus.kubeconfig");
    let has = |token: &str| fs::read_to_string(&file).is_ok_and(|text| text.contains(token));
    let older = start(|| account("token-of-the-older"));
    until("the kubeconfig is there", || has("token-of-the-older"));
    let lines = || older.said().matches("wrote ").count();
    until("and it is told", || lines() == 1);
    let newer = start(|| account("token-of-the-newer"));
    until("it is the newer daemon's", || has("token-of-the-newer"));
    for _ in 0..REMOVALS {
        fs::remove_file(&file).unwrap();
        until("it is back", || file.exists());
        assert!(has("token-of-the-newer"));
    }
    assert_eq!(lines(), 1, "the older one has done nothing more: {}", older.said());
    older.stop();
    newer.stop();
}

/// The calling thread sees no pod, and a service account of this token.
fn account(token: &str) {
    hide_pods();
    mount_account(token);
}

/// A service account of this token, where a pod has its own. The caller has its own mounts.
pub(crate) fn mount_account(token: &str) {
    let folder = Path::new("/run/secrets/kubernetes.io/serviceaccount");
    fs::create_dir_all("/run/secrets").unwrap();
    mount(Some("tmpfs"), "/run/secrets", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("token"), token).unwrap();
    fs::write(folder.join("ca.crt"), "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n").unwrap();
}

/// A newer daemon that is killed leaves its socket: who connects there finds nobody, and the older one takes it back.
fn outlived() {
    let mut node = node("fail");
    write_primary_in_folder();
    let older = Daemon::start_keeping(&configured(false));
    until("the configuration is there", || isolates(false));
    let newer = Daemon::start_keeping(&configured(true));
    until("it is the newer daemon's", || isolates(true));
    let left = socket_id();
    newer.kill_after(Duration::ZERO);
    until("the older one has the socket again", || socket_id() != left);
    until("the older one keeps it again", || isolates(false));
    let (_, list) = first().unwrap();
    node.conf["daemonSocketDir"] = list["plugins"][0]["daemonSocketDir"].clone();
    node.add("a", "green");
    node.call("DEL", "a").run().ok();
    older.stop();
}

fn write_primary_in_folder() {
    fs::create_dir_all(NET_D).unwrap();
    write_primary("one");
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
