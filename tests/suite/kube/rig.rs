//! That the rig does what cases rely on, with `kubectl` as a client that nobody here wrote.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::cluster::definitions;
use super::login::{ADMIN, NEXT_TOKEN, NOBODY, TOKEN};
use super::{Cluster, Door, Fault, Login, server};
use crate::case::Case;
use crate::need::Need;
use crate::process::{self, Ended};
use crate::testbed::Testbed;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let server = &[Need::ApiServer];
    vec![
        Case::new("kube::rig::objects_are_made_and_read", server, objects),
        Case::new("kube::rig::every_way_to_log_in_works", server, logins),
        Case::new("kube::rig::what_a_user_may_not_do_is_refused", server, rights),
        Case::new("kube::rig::a_door_is_refused_or_silent_or_expired", server, doors),
        Case::new("kube::rig::requests_fail_as_often_as_they_should", server, statuses),
        Case::new("kube::rig::answers_are_late_or_cut_or_lost", server, answers),
        Case::new("kube::rig::a_token_is_rotated", server, rotation),
        Case::new("kube::rig::something_happens_before_a_request", server, before),
        Case::new("kube::rig::requests_are_counted", server, counts),
        Case::new("kube::rig::cases_do_not_see_each_other", server, apart),
    ]
}

/// How long kubectl may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A bed, the server, and kubectl as a client of it.
struct Client {
    bed: Testbed,
    cluster: Arc<Cluster>,
}

impl Client {
    fn new() -> Self {
        let bed = Testbed::new();
        let cluster = Cluster::of(&bed);
        Self { bed, cluster }
    }

    fn kubectl(&self, login: &Login, words: &[&str]) -> Ended {
        let mut command = Command::new(server::programs().unwrap().join("kubectl"));
        command.env_clear().env("HOME", "/run/scratch");
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig(&self.bed, login)).args(words);
        process::run(&mut command, &[], LIMIT)
    }

    /// Reads a path: the object, or what kubectl complains of.
    fn read(&self, login: &Login, path: &str) -> Result<Value, String> {
        self.read_within(login, path, "10s")
    }

    /// As [`Client::read`], by a client with this much patience.
    fn read_within(&self, login: &Login, path: &str, limit: &str) -> Result<Value, String> {
        let ended = self.kubectl(login, &["get", "--raw", path, "--request-timeout", limit]);
        if ended.status.success() { Ok(serde_json::from_str(&ended.stdout).unwrap()) } else { Err(ended.stderr) }
    }

    /// The path of the case's definitions.
    fn path(&self) -> String {
        definitions(self.cluster.namespace(), "")
    }

    fn usual(&self) -> Result<Value, String> {
        self.read(&Login::usual(), &self.path())
    }
}

#[track_caller]
fn complains(answer: &Result<Value, String>, part: &str) {
    assert!(answer.as_ref().is_err_and(|text| text.contains(part)), "expected {part:?}: {answer:?}");
}

fn objects() {
    let client = Client::new();
    let cluster = &client.cluster;
    let config = json!({"cniVersion": "1.0.0", "type": "bridge"});
    cluster.definition("blue", &config);
    let read = client.read(&Login::usual(), &definitions(cluster.namespace(), "blue")).unwrap();
    assert_eq!(read["spec"]["config"].as_str().unwrap(), config.to_string());
    let uid = cluster.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue")]);
    let path = format!("/api/v1/namespaces/{}/pods/a", cluster.namespace());
    let read = client.read(&Login::usual(), &path).unwrap();
    assert_eq!((read["metadata"]["uid"].as_str(), &read["spec"]["nodeName"]), (Some(uid.as_str()), &json!("node")));
    assert_eq!(cluster.network_status("a"), Value::Null);
    cluster.annotate("a", &json!({"k8s.v1.cni.cncf.io/network-status": "[{\"name\": \"blue\"}]"}));
    assert_eq!(cluster.network_status("a")[0]["name"], "blue");
    cluster.delete_definition("blue");
    cluster.delete_pod("a");
    assert_eq!((cluster.get_pod("a"), cluster.events().len()), (Value::Null, 0));
    complains(&client.read(&Login::usual(), &path), "not found");
}

fn logins() {
    let client = Client::new();
    let file = |name: &str| client.cluster.file(name);
    let token = client.bed.file("token", TOKEN);
    for login in [
        Login::usual(),
        Login::TokenFile(token),
        Login::Files(file("client.crt"), file("client.key")),
        Login::Inline(file("client-next.crt"), file("client-next.key")),
    ] {
        assert!(client.read(&login, &client.path()).is_ok(), "{login:?}");
    }
    let expired = Login::Files(file("client-expired.crt"), file("client-expired.key"));
    complains(&client.read(&expired, &client.path()), "must be logged in");
    let [(_, host), (_, port)] = client.cluster.service_account(TOKEN);
    assert_eq!(format!("https://{host}:{port}"), client.cluster.address());
    assert_eq!(std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/token").unwrap(), TOKEN);
}

fn rights() {
    let client = Client::new();
    let secrets = format!("/api/v1/namespaces/{}/secrets", client.cluster.namespace());
    complains(&client.read(&Login::usual(), &secrets), "forbidden");
    assert!(client.read(&Login::Token(ADMIN.to_owned()), &secrets).is_ok());
    complains(&client.read(&Login::Token(NOBODY.to_owned()), &client.path()), "forbidden");
    complains(&client.read(&Login::Token("unknown".to_owned()), &client.path()), "Unauthorized");
}

fn doors() {
    let client = Client::new();
    for (door, limit, complaint) in [
        (Door::Refused, "10s", "was refused"),
        (Door::Silent, "1s", "exceeded"),
        (Door::Expired, "10s", "certificate has expired"),
    ] {
        client.cluster.door(door);
        complains(&client.read_within(&Login::usual(), &client.path(), limit), complaint);
        client.cluster.door(Door::Open);
        assert!(client.usual().is_ok(), "after {door:?}");
    }
}

fn statuses() {
    let client = Client::new();
    for (code, complaint) in [(403, "Forbidden"), (409, "Conflict"), (410, "Expired"), (500, "InternalError")] {
        client.cluster.fail("GET", "network-attachment-definitions", 2, Fault::Status(code));
        client.cluster.fail("DELETE", "", 1, Fault::Status(code));
        for _ in 0..2 {
            let answer = client.usual();
            complains(&answer, complaint);
        }
        assert!(client.usual().is_ok(), "after {code} twice");
        client.cluster.heal();
    }
}

fn answers() {
    let client = Client::new();
    let within = |limit: &str| client.read_within(&Login::usual(), &client.path(), limit);
    client.cluster.fail("GET", "", usize::MAX, Fault::Slow(Duration::from_millis(700)));
    complains(&within("500ms"), "exceeded");
    assert!(within("30s").is_ok());
    client.cluster.heal();
    client.cluster.fail("GET", "", usize::MAX, Fault::Hang);
    complains(&within("1s"), "exceeded");
    client.cluster.heal();
    client.cluster.fail("GET", "", usize::MAX, Fault::Cut);
    complains(&client.usual(), "unexpected EOF");
    client.cluster.heal();
    client.cluster.fail("GET", "", usize::MAX, Fault::Lost);
    complains(&client.usual(), "EOF");
    client.cluster.heal();
    assert!(client.usual().is_ok());
}

fn rotation() {
    let client = Client::new();
    client.cluster.revoke(TOKEN);
    complains(&client.usual(), "must be logged in");
    assert!(client.read(&Login::Token(NEXT_TOKEN.to_owned()), &client.path()).is_ok());
}

fn before() {
    let client = Client::new();
    let cluster = Arc::clone(&client.cluster);
    client.cluster.before("GET", "/late", 1, move || drop(cluster.definition("late", &json!({"type": "bridge"}))));
    let path = definitions(client.cluster.namespace(), "late");
    assert_eq!(client.cluster.get(&path), Value::Null);
    assert!(client.read(&Login::usual(), &path).is_ok(), "it appears as somebody asks for it");
    let cluster = Arc::clone(&client.cluster);
    client.cluster.before("GET", "/late", 1, move || cluster.delete_definition("late"));
    complains(&client.read(&Login::usual(), &path), "not found");
}

fn counts() {
    let client = Client::new();
    client.cluster.definition("blue", &json!({"type": "bridge"}));
    assert_eq!(client.cluster.seen(), [], "what the case itself asks is not counted");
    client.cluster.fail("GET", "", 1, Fault::Status(500));
    complains(&client.usual(), "InternalError");
    client.usual().unwrap();
    complains(&client.read(&Login::usual(), "/api/v1/namespaces"), "forbidden");
    assert_eq!(
        (client.cluster.count("GET", &client.path()), client.cluster.count("GET", "/api/v1/namespaces")),
        (2, 1)
    );
    assert_eq!((client.cluster.count("PATCH", ""), client.cluster.count("", "")), (0, 3));
    let seen = client.cluster.seen();
    assert_eq!(
        (seen.len(), seen[0].method.as_str(), &seen[0].path),
        (3, "GET", &format!("{}?timeout=10s", client.path()))
    );
    assert_eq!(client.cluster.count("", ""), 0);
}

fn apart() {
    let client = Client::new();
    let other = client.cluster.another_namespace();
    client.cluster.definition("blue", &json!({"type": "bridge"}));
    client.cluster.definition_in(&other, "green", "", &[("k8s.v1.cni.cncf.io/resourceName", "a.b/c")]);
    let names = |namespace: &str| {
        let list = client.cluster.get(&definitions(namespace, ""));
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((names(client.cluster.namespace()), names(&other)), (vec!["blue".to_owned()], vec!["green".to_owned()]));
    assert_eq!(client.cluster.get(&definitions(&other, "green"))["spec"], json!({}));
}
