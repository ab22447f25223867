//! The token of the daemon's service account ends, and another takes its place in the pod's folder, as the kubelet has it: the daemon goes on,
//! and so does `plexus-cni` by the kubeconfig that the daemon leaves on the node. Tokens are the real API server's.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use super::{DIR, Daemon, hide_pods, left, until};
use crate::api::{Member, NETWORKS};
use crate::case::Case;
use crate::need::Need;
use crate::own_node::applied;
use crate::process::{self, Ended};

const FILES: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/base/rbac.yaml"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/base/own-node.yaml"),
];
const NET_D: &str = "/run/scratch/net.d";
const KUBECONFIG: &str = "/run/scratch/net.d/plexus.d/plexus.kubeconfig";
const TOKEN: &str = "/run/secrets/kubernetes.io/serviceaccount/token";
/// How long after its end the API server still takes a token (go-jose's leeway).
const LEEWAY: u64 = 60;
/// What is left of the token that ends by itself.
const LEFT: u64 = 15;

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("daemon::rotation_of_a_token_whose_pod_has_gone", needs, || rotated(Member::revoked)),
        Case::new("daemon::rotation_of_a_token_whose_time_is_over", needs, || rotated(Member::expiring)),
    ]
}

/// A token, and what ends it.
type Ending = (String, Box<dyn Fn()>);

impl Member {
    /// A pod on this node, as plexus' own is; its UID.
    fn plexus_pod(&self, name: &str) -> String {
        self.cluster.create_pod(&json!({"metadata": {"name": name}, "spec": {"serviceAccountName": "plexus"}}))
    }

    /// As the kubelet asks for it.
    fn token(&self, pod: &str) -> String {
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": self.plexus_pod(pod)});
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef": bound, "expirationSeconds": 600}});
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/plexus/token", self.cluster.namespace());
        self.cluster.create(&path, &request)["status"]["token"].as_str().unwrap().to_owned()
    }

    /// One that ends with its pod.
    fn revoked(&self) -> Ending {
        let cluster = std::sync::Arc::clone(&self.cluster);
        (self.token("one"), Box::new(move || cluster.delete_pod("one")))
    }

    /// One that ends by itself, soon: the API makes none for less than ten minutes, so it is signed here, by the server's own key.
    fn expiring(&self) -> Ending {
        let whole = self.token("one");
        let mut parts = whole.split('.');
        let header = parts.next().unwrap();
        let mut claims: Value = serde_json::from_slice(&BASE64.decode(parts.next().unwrap()).unwrap()).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        claims["exp"] = json!(now + LEFT - LEEWAY);
        for begin in ["iat", "nbf"] {
            claims[begin] = json!(now - 2 * LEEWAY);
        }
        let signed = format!("{header}.{}", BASE64.encode(claims.to_string()));
        fs::write("/run/scratch/signed", &signed).unwrap();
        let mut openssl = Command::new("openssl");
        let key = self.cluster.file("service.key");
        openssl
            .args(["dgst", "-sha256", "-out", "/run/scratch/signature", "-sign"])
            .arg(key)
            .arg("/run/scratch/signed");
        let Ended { status, stderr, .. } = process::run(&mut openssl, &[], super::EVENT_LIMIT);
        assert!(status.success(), "{stderr}");
        let signature = BASE64.encode(plain(&fs::read("/run/scratch/signature").unwrap()));
        (format!("{signed}.{signature}"), Box::new(|| {}))
    }

    fn has_status(&self, pod: &str) -> bool {
        self.cluster.network_status(pod)[1]["interface"] == "net1"
    }
}

/// A signature of ECDSA as JWS has it (RFC 7518, 3.4): both numbers, and not in DER.
fn plain(der: &[u8]) -> Vec<u8> {
    let number = |at: usize| {
        let length = usize::from(der[at + 1]);
        let digits = &der[at + 2..at + 2 + length];
        let digits = &digits[digits.iter().take_while(|digit| **digit == 0).count()..];
        ([vec![0; 32 - digits.len()], digits.to_vec()].concat(), at + 2 + length)
    };
    let (one, next) = number(2);
    [one, number(next).0].concat()
}

/// The kubelet writes a new file beside the old one, and renames it.
fn write_token(token: &str) {
    let new = Path::new(TOKEN).with_extension("new");
    fs::write(&new, token).unwrap();
    fs::rename(new, TOKEN).unwrap();
}

fn kept_token() -> String {
    let kept: Value = serde_json::from_slice(&fs::read(KUBECONFIG).unwrap_or_default()).unwrap_or_default();
    kept["users"][0]["user"]["token"].as_str().unwrap_or_default().to_owned()
}

fn rotated(first: fn(&Member) -> Ending) {
    let mut member = Member::new();
    applied(&member.cluster, &FILES);
    let (old, end) = first(&member);
    let new = member.token("two");
    fs::create_dir_all(NET_D).unwrap();
    let conf = member.node.conf.clone();
    let network = json!({"cniVersion": "1.0.0", "name": "cluster", "plugins": conf["delegates"]});
    fs::write(format!("{NET_D}/10-cluster.conflist"), network.to_string()).unwrap();
    let config = "/run/scratch/daemon-config.json";
    let told = json!({"cniConfigDir": NET_D, "logToStderr": true, "fallback": "oneshot", "binDir": conf["binDir"],
        "apiCallTimeoutMs": 3000, "apiDeadlineMs": 6000});
    fs::write(config, told.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
    command.args(["daemon", "--socket-dir", DIR, "--config", config]).env_clear().env("NODE_NAME", "node");
    command.envs(member.cluster.service_account(&old));
    let daemon = Daemon::launch(command, hide_pods);
    let ours = format!("{NET_D}/00-0-plexus.conflist");
    until("the configuration is there", || Path::new(&ours).exists());
    let list: Value = serde_json::from_slice(&fs::read(&ours).unwrap()).unwrap();
    member.node.conf = list["plugins"][0].clone();
    for key in ["name", "cniVersion"] {
        member.node.conf[key] = list[key].clone();
    }
    assert_eq!((member.node.conf["kubeconfig"].as_str(), kept_token()), (Some(KUBECONFIG), old.clone()));

    end();
    let pods = format!("/api/v1/namespaces/{}/pods", member.cluster.namespace());
    until("the old token is refused", || member.cluster.ask_as(&old, "GET", &pods, None).0 == 401);
    // A pod that the daemon knows is attached by what is known; who it is told to refuses.
    let late = member.pod("late", &[(NETWORKS, "green")]);
    until("the daemon is told that it may not ask", || {
        let answer = member.call("ADD", "late", &late).run();
        member.node.bed.note(&format!("{answer:?}\n"));
        let has_failed = answer.rc != Some(0);
        assert!(!has_failed || answer.stdout.contains("401"), "{answer:?}");
        member.del("late", &late);
        has_failed || daemon.said().contains("401")
    });
    write_token(&new);
    until("the node's kubeconfig has the new token", || kept_token() == new);
    let (uid, answer) = member.add("a", "green");
    answer.ok();
    until("its status is written by the new token", || member.has_status("a"));
    daemon.kill_after(std::time::Duration::ZERO);
    let (other, answer) = member.add("b", "green");
    answer.ok();
    assert!(member.has_status("b"), "by plexus-cni alone: {}", answer.stderr);
    member.del("a", &uid);
    member.del("b", &other);
    let mut left = left(&member.node);
    // What a daemon knows last stays.
    left.retain(|what| !what.contains("definitions/") && !what.contains("record pods/"));
    assert_eq!(left, Vec::<String>::new());
}
