//! `deployments/startup-taint` on the real API server: the node's daemon takes the one taint off its own node when pods can be attached, and
//! its token can do nothing else to a node.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::case::Case;
use crate::kube::Cluster;
use crate::need::Need;
use crate::own_node::{ASKS_MAX, applied, token};
use crate::testbed::Testbed;

const FILES: [&str; 3] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/base/rbac.yaml"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/startup-taint/role.yaml"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/startup-taint/own-taint.yaml"),
];
const KEY: &str = "plexus/not-ready";
const NET_D: &str = "/run/scratch/net.d";
const CONFIG: &str = "/run/scratch/daemon-config.json";
const LOG: &str = "/run/scratch/daemon.log";
/// Whatever is awaited comes at once, or something is very wrong.
const LIMIT: Duration = Duration::from_secs(60);

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let server = &[Need::ApiServer];
    vec![
        Case::new("deploy::taint::it_goes_when_pods_can_be_attached", server, goes),
        Case::new("deploy::taint::it_goes_when_the_server_lets_it_go", server, insists),
        Case::new("deploy::taint::nothing_else_of_a_node_is_written", server, nothing_else),
        Case::new("deploy::taint::who_does_not_know_its_node_does_not_begin", &[], nameless),
    ]
}

/// A cluster with role and policy, and two nodes of the case's own.
struct Guarded {
    _bed: Testbed,
    cluster: Arc<Cluster>,
    node: String,
    other: String,
}

fn taints() -> Value {
    json!([{"key": "kept/first", "effect": "NoSchedule"}, {"key": KEY, "effect": "NoSchedule"},
        {"key": KEY, "effect": "NoExecute", "value": "x"}, {"key": "kept/last", "value": "y", "effect": "PreferNoSchedule"}])
}

fn kept() -> Value {
    let mut kept = taints();
    kept.as_array_mut().unwrap().retain(|taint| taint["key"] != KEY);
    kept
}

fn path(node: &str) -> String {
    format!("/api/v1/nodes/{node}")
}

impl Guarded {
    fn new() -> Guarded {
        let bed = Testbed::new();
        let cluster = Cluster::of(&bed);
        applied(&cluster, &FILES);
        let [node, other] = ["here", "there"].map(|name| format!("{name}-{}", cluster.namespace()));
        for name in [&node, &other] {
            let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kept": "as-it-is"}},
                "spec": {"taints": taints(), "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}});
            cluster.create("/api/v1/nodes", &object);
        }
        let guarded = Guarded { _bed: bed, cluster, node, other };
        // In force when somebody without a node is refused; until then it is written to a node of nobody's.
        let probe = format!("probe-{}", guarded.cluster.namespace());
        guarded.cluster.create("/api/v1/nodes", &json!({"metadata": {"name": probe}}));
        let nobody = token(&guarded.cluster, None);
        let refused = || guarded.write(&nobody, &probe, &json!({"metadata": {"labels": {"x": "y"}}})).1;
        assert!((0..ASKS_MAX).any(|_| refused().contains("own node")), "the policy is never in force: {}", refused());
        guarded
    }

    /// A patch of a node; the code, and what the server says.
    fn write(&self, token: &str, node: &str, change: &Value) -> (u16, String) {
        let change = Some(("application/merge-patch+json", change));
        let (code, answer) = self.cluster.ask_as(token, "PATCH", &path(node), change);
        (code, answer["message"].as_str().unwrap_or_default().to_owned())
    }

    fn taints(&self, node: &str) -> Value {
        self.cluster.get(&path(node))["spec"]["taints"].clone()
    }

    /// The daemon as the pod of the DaemonSet has it on this node.
    fn daemon(&self) -> Daemon {
        fs::create_dir_all(NET_D).unwrap();
        fs::write(CONFIG, json!({"cniConfigDir": NET_D, "logToStderr": true}).to_string()).unwrap();
        let account = self.cluster.service_account(&token(&self.cluster, Some(&self.node)));
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        command.args(["daemon", "--socket-dir=/run/plexus", "--config", CONFIG, &format!("--startup-taint={KEY}")]);
        command.env_clear().env("NODE_NAME", &self.node).envs(account);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(LOG).unwrap());
        Daemon(command.spawn().unwrap())
    }
}

/// Ends with the case.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn said() -> String {
    fs::read_to_string(LOG).unwrap()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}: {}", said());
        std::thread::yield_now();
    }
}

fn primary() {
    let list = json!({"cniVersion": "1.0.0", "name": "cluster", "plugins": [{"type": "bridge", "bridge": "cni0"}]});
    fs::write(Path::new(NET_D).join("10-primary.conflist"), list.to_string()).unwrap();
}

fn goes() {
    let guarded = Guarded::new();
    let _daemon = guarded.daemon();
    until("the daemon waits for the default network", || said().contains("is not written yet"));
    until("it is ready but for that", || said().contains("no network"));
    assert_eq!(guarded.taints(&guarded.node), taints(), "no pod can be attached yet");
    primary();
    until("the taint is gone", || guarded.taints(&guarded.node) == kept());
    assert!(Path::new(NET_D).join("00-0-plexus.conflist").exists());
    assert_eq!(guarded.taints(&guarded.other), taints(), "another node's daemon takes that one's off");
    let node = guarded.cluster.get(&path(&guarded.node));
    assert_eq!(
        (&node["metadata"]["labels"]["kept"], &node["spec"]["podCIDR"]),
        (&json!("as-it-is"), &json!("10.244.1.0/24"))
    );
    until("it is told", || said().contains(&format!("the taint {KEY} is taken off the node {}", guarded.node)));
}

/// Refused, changed by others meanwhile, away: it is tried again, and the log says so once.
fn insists() {
    use crate::kube::Fault;
    let guarded = Guarded::new();
    primary_after_folder();
    let (cluster, node) = (Arc::clone(&guarded.cluster), guarded.node.clone());
    // Somebody else's change comes between reading and writing.
    let more = json!({"metadata": {"labels": {"more": "yes"}}});
    guarded.cluster.before("PATCH", "/nodes/", 1, move || {
        cluster.patch(&path(&node), &more);
    });
    guarded.cluster.fail("GET", "/nodes/", 1, Fault::Status(403));
    let _daemon = guarded.daemon();
    until("the refusal is told", || said().contains("it is tried again"));
    until("the taint is gone", || guarded.taints(&guarded.node) == kept());
    let labels = guarded.cluster.get(&path(&guarded.node))["metadata"]["labels"].clone();
    assert_eq!(labels["more"], "yes", "what somebody else changed is not lost");
    assert_eq!(guarded.cluster.count("PATCH", "/api/v1/nodes/"), 2, "the first of them met a change");
}

fn primary_after_folder() {
    fs::create_dir_all(NET_D).unwrap();
    primary();
}

fn nothing_else() {
    let guarded = Guarded::new();
    let (node, other) = (&guarded.node, &guarded.other);
    let own = token(&guarded.cluster, Some(node));
    let gone = json!({"spec": {"taints": kept()}});
    let (code, said) = guarded.write(&own, other, &gone);
    assert!(
        code == 403 && said.contains(&format!("is {other}")) && said.contains(&format!("the node {node}")),
        "{code}: {said}"
    );
    let more = json!([{"key": KEY, "effect": "NoSchedule"}, {"key": "x", "effect": "NoExecute"}]);
    for (change, told) in [
        (json!({"spec": {"taints": []}}), "no other"),
        (json!({"spec": {"taints": more}}), "no other"),
        (json!({"spec": {"taints": kept(), "unschedulable": true}}), "nothing else"),
        (json!({"spec": {"taints": kept(), "providerID": "cloud:///x"}}), "nothing else"),
        (json!({"spec": {"taints": kept()}, "metadata": {"labels": {"kept": null}}}), "no labels"),
        (json!({"spec": {"taints": kept()}, "metadata": {"annotations": {"x": "y"}}}), "no labels"),
        (json!({"spec": {"taints": kept()}, "metadata": {"finalizers": ["example.org/x"]}}), "no labels"),
    ] {
        let (code, said) = guarded.write(&own, node, &change);
        assert!(code == 403 && said.contains(told), "{change}: {code}: {said}");
    }
    // The role has nothing for the node's status, nor for making and removing one.
    for (method, place) in
        [("PATCH", format!("{}/status", path(node))), ("DELETE", path(node)), ("GET", "/api/v1/nodes".to_owned())]
    {
        let body = json!({"metadata": {"labels": {"x": "y"}}});
        let body = (method == "PATCH").then_some(("application/merge-patch+json", &body));
        let (code, answer) = guarded.cluster.ask_as(&own, method, &place, body);
        assert!(code == 403 && answer["message"].as_str().unwrap().contains("cannot"), "{method} {place}: {answer}");
    }
    assert_eq!(guarded.taints(node), taints());
    assert_eq!(guarded.write(&own, node, &gone), (200, String::new()));
    assert_eq!(guarded.taints(node), kept());
    // Others are not looked at.
    guarded.cluster.patch(&path(node), &json!({"metadata": {"labels": {"kept": "changed"}}}));
}

fn nameless() {
    let _bed = Testbed::new();
    fs::create_dir_all(NET_D).unwrap();
    fs::write(CONFIG, json!({"cniConfigDir": NET_D}).to_string()).unwrap();
    let told = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_plexus")).arg("daemon").args(words).env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(if words.contains(&"plexus/not-ready") { 1 } else { 2 }));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = told(&["--config", CONFIG, "--startup-taint", "plexus/not-ready"]);
    assert!(said.contains("set NODE_NAME"), "{said}");
    let said = told(&["--config", CONFIG, "--startup-taint", "plexus/not-ready=:NoSchedule"]);
    assert!(said.contains("no key of a taint"), "{said}");
}
