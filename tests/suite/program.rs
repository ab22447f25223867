//! `plexus`, what a person runs: what it prints for what is really there, and its exit codes.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::case::Case;
use crate::meta::{Node, node};
use crate::need::Need;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    vec![
        Case::new("program::demo_shows_what_it_promises", &[Need::Macvlan, Need::Ping], demo),
        Case::new("program::list_is_what_is_attached", mac, list),
        Case::new("program::explain_is_the_plan_and_touches_nothing", mac, explain),
        Case::new("program::explain_names_every_refusal", mac, refusals),
        Case::new("program::wrong_usage_is_told_apart", &[], usage),
    ]
}

pub(crate) fn plexus(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_plexus")).args(words).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json_of(words: &[&str]) -> Value {
    let output = plexus(words);
    assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn demo() {
    let output = plexus(&["demo"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}\n{}", text(&output.stderr));
    assert!(shown.ends_with("left: 0\n"), "{shown}");
    let report = json_of(&["demo", "-o", "json"]);
    let count = |key: &str| report[key].as_array().map_or(0, Vec::len);
    assert_eq!((count("attachments"), count("requests")), (12, 3), "three pods with four interfaces each: {report}");
    assert!(count("pings") >= 12);
}

fn list() {
    let node = node();
    assert_eq!(json_of(&["list", "-o", "json"]), json!([]));
    node.add("a", r#"[{"name": "blue", "mac": "02:00:00:aa:bb:cc"}]"#);
    let rows = json_of(&["list", "-o", "json"]);
    let row = rows.as_array().unwrap().iter().find(|row| row["interface"] == "net1").unwrap();
    for (key, value) in [
        ("namespace", json!("default")),
        ("pod", json!("a")),
        ("sandbox", json!("id-a")),
        ("network", json!("default/blue")),
        ("kind", json!("macvlan")),
        ("native", json!(true)),
        ("mac", json!("02:00:00:aa:bb:cc")),
        ("ips", json!(["10.2.0.2/24"])),
    ] {
        assert_eq!(row[key], value, "{key}");
    }
    let status: Value = serde_json::from_str(row["networkStatus"].as_str().unwrap()).unwrap();
    assert_eq!(status[1]["mac"], "02:00:00:aa:bb:cc");
    let shown = text(&plexus(&["list"]).stdout);
    assert!(shown.lines().count() == 3 && shown.contains("default/blue"), "{shown}");
}

/// The paths of a pod's manifest and of the configuration, as files.
fn files(node: &Node, networks: &str) -> [String; 2] {
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", networks)]);
    let conf = node.bed.file("node.conf", &node.conf.to_string());
    ["/run/scratch/manifests/pod-a.yaml".to_owned(), conf.display().to_string()]
}

fn explain() {
    let node = node();
    node.script("noted", "exit 1");
    let [pod, conf] = files(&node, r#"[{"name":"six","default-route":["10.4.0.1"]},{"name":"chained"}]"#);
    let rows = json_of(&["explain", &pod, "--config", &conf, "-o", "json"]);
    let column = |key: &str| rows.as_array().unwrap().iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(column("interface"), ["eth0", "net1", "net2"]);
    assert_eq!(column("network"), ["cluster", "default/six", "default/chained"]);
    assert_eq!(column("parent"), ["cni0", "six0", "green0"]);
    assert_eq!(column("defaultRoute"), [json!([]), json!(["10.4.0.1"]), json!([])]);
    assert_eq!(column("chain"), [json!([]), json!([]), json!(["noted"])]);
    assert_eq!(node.bed.links("a"), ["lo"]);
    assert_eq!(node.bed.leftovers(), Vec::<String>::new());
}

fn refusals() {
    let node = node();
    let [pod, conf] = files(&node, "broken,failing");
    let output = plexus(&["explain", &pod, "--config", &conf]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("sideways") && told.contains("fails"), "{told}");
    let output = plexus(&["explain", "/run/scratch/none.yaml", "--config", &conf]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("none.yaml"));
}

fn usage() {
    assert_eq!(plexus(&["list", "--colour"]).status.code(), Some(2));
    assert_eq!(plexus(&["completions", "bash"]).status.code(), Some(0));
    assert_eq!(plexus(&["--help"]).status.code(), Some(0));
}
