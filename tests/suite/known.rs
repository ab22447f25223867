//! What a daemon knows of its cluster, as its requests ask it: through the library, against a real API server whose requests are
//! counted and failed. It does not know how pods are attached.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use plexus::cluster::{Cluster as _, News};
use plexus::config::Config;
use plexus::journal::PodName;
use plexus::kube::{Cancel, Inquiry, Known};
use plexus::log;
use plexus::sources::{Definition, Pod, SourceError};
use serde_json::{Value, json};

use crate::api::NETWORKS;
use crate::case::Case;
use crate::kube::{Cluster, Door, Fault, Login};
use crate::need::Need;
use crate::testbed::Testbed;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let server = &[Need::ApiServer];
    vec![
        Case::new("known::what_is_known_is_not_asked_for", server, hits),
        Case::new("known::what_is_not_known_is_one_request", server, misses),
        Case::new("known::d30_the_pods_of_one_node_and_of_them_what_is_read", server, of_one_node),
        Case::new("known::changes_are_seen", server, changes),
        Case::new("known::without_the_nodes_name_pods_are_asked_for", server, no_node),
        Case::new("known::the_last_known_serve_while_the_server_is_away", server, away),
        Case::new("known::calls_without_an_answer_show_that_the_server_stopped", server, stopped),
        Case::new("known::a_slow_call_alone_says_nothing_of_the_server", server, slow),
        Case::new("known::an_expired_watch_begins_anew", server, expired),
        Case::new("known::a_server_that_streams_no_lists", server, pages),
        Case::new("known::a_cluster_that_does_not_know_definitions_yet", server, unknown),
        Case::new("known::credentials_are_read_again", server, rotated),
        Case::new("known::a_renewed_client_certificate_is_read", server, renewed),
        Case::new("known::a_cancelled_request_ends_at_once", server, cancelled),
        Case::new("known::the_status_is_told_after_the_answer", server, after),
        Case::new("known::a_role_without_patch_costs_two_requests", server, no_patch),
        Case::new("known::statuses_of_a_killed_daemon_are_written", server, notes),
    ]
}

/// How long something may take that is bound to happen.
const LIMIT: Duration = Duration::from_secs(60);
const STATE: &str = "/run/scratch/state";
const LOG: &str = "/run/scratch/log";

/// A node and its server.
struct Node {
    bed: Testbed,
    cluster: Arc<Cluster>,
    config: Config,
}

#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    until_or(|| what.to_owned(), &mut is_so);
}

#[track_caller]
fn until_or(what: impl Fn() -> String, is_so: &mut dyn FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        let log = || fs::read_to_string(LOG).unwrap_or_default();
        assert!(Instant::now() < end, "it never came: {}\n{}", what(), log());
        std::thread::yield_now();
    }
}

impl Node {
    fn new() -> Self {
        let bed = Testbed::new();
        let cluster = Cluster::of(&bed);
        let conf = json!({"cniVersion": "1.0.0", "name": "node", "type": "plexus-cni", "delegates": [{"type": "bridge"}],
            "kubeconfig": cluster.kubeconfig(&bed, &Login::usual()), "stateDir": STATE, "logFile": LOG, "logLevel": "error",
            "apiCallTimeoutMs": 3000, "apiDeadlineMs": 6000, "appearWaitMs": 300});
        let config = Config::parse(conf.as_object().unwrap()).unwrap();
        log::begin(&config.log);
        Self { bed, cluster, config }
    }

    /// The name of a node that no other case has pods on.
    fn name(&self) -> &str {
        self.cluster.namespace()
    }

    /// Starts, and does not wait.
    fn start(&self) -> Known {
        Known::start(&self.config, Some(self.name())).unwrap()
    }

    fn synced(&self) -> Known {
        let known = self.start();
        let seen = || format!("both lists: {:?} {:?} {:?}", known.state(), known.counts(), self.cluster.seen());
        until_or(seen, &mut || known.is_synced());
        known
    }

    /// A pod on a node; as its runtime calls it.
    fn pod_on(&self, node: &str, name: &str, annotations: &Value) -> PodName {
        let pod = json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"nodeName": node}});
        self.called(name, &self.cluster.create_pod(&pod))
    }

    fn pod(&self, name: &str, annotations: &Value) -> PodName {
        self.pod_on(self.name(), name, annotations)
    }

    fn called(&self, name: &str, uid: &str) -> PodName {
        PodName { namespace: self.cluster.namespace().to_owned(), name: name.to_owned(), uid: uid.to_owned() }
    }

    fn definition(&self, known: &Known, name: &str) -> Result<Definition, SourceError> {
        ask(known).definition(self.cluster.namespace(), name, false)
    }

    /// GETs of one object each since the last time.
    fn asked(&self) -> Vec<String> {
        let is_one = |path: &str| path.contains("/namespaces/");
        let seen = self.cluster.seen().into_iter().filter(|seen| seen.method == "GET" && is_one(&seen.path));
        seen.map(|seen| seen.path.rsplit('/').next().unwrap().to_owned()).collect()
    }

    fn last_known(&self, name: &str) -> PathBuf {
        PathBuf::from(STATE).join("definitions").join(self.cluster.namespace()).join(name)
    }
}

fn ask(known: &Known) -> Inquiry {
    known.cluster(Cancel::default(), false)
}

fn pod(known: &Known, name: &PodName) -> Result<Pod, SourceError> {
    ask(known).pod(name).map(Option::unwrap)
}

/// Pods come a little later than the one that made them knows it.
fn until_known(known: &Known, name: &PodName) {
    until("the pod", || {
        let before = known.counts().hits;
        pod(known, name).is_ok() && known.counts().hits > before
    });
}

fn hits() {
    let node = Node::new();
    node.cluster.definition("blue", &json!({"type": "bridge"}));
    let resource = [("k8s.v1.cni.cncf.io/resourceName", "a.b/c"), ("theirs", "x")];
    node.cluster.definition_in(node.cluster.namespace(), "green", "{}", &resource);
    let first = node.pod("a", &json!({NETWORKS: "blue", "theirs": "x"}));
    let known = node.synced();
    let second = node.pod("b", &json!({}));
    let mirror = json!({"kubernetes.io/config.source": "file", "kubernetes.io/config.hash": "h1"});
    node.pod("c", &mirror);
    until_known(&known, &second);
    until_known(&known, &node.called("c", "h1"));
    node.cluster.seen();
    let mut inquiry = ask(&known);
    let found = inquiry.pod(&first).unwrap().unwrap();
    assert_eq!((found.uid, found.annotations.len()), (first.uid.clone(), 1), "what nobody reads is not kept");
    assert_eq!(found.annotations[NETWORKS], "blue");
    let names = ["blue", "green"].map(|name| (node.cluster.namespace().to_owned(), name.to_owned()));
    inquiry.expect(&names);
    assert_eq!(inquiry.definition(node.cluster.namespace(), "blue", true).unwrap().config, r#"{"type":"bridge"}"#);
    let green = inquiry.definition(node.cluster.namespace(), "green", true).unwrap();
    assert_eq!(green.annotations.into_keys().collect::<Vec<_>>(), ["k8s.v1.cni.cncf.io/resourceName"]);
    assert_eq!(pod(&known, &second).unwrap().annotations.len(), 0);
    let all = inquiry.definitions().unwrap();
    assert!(names.iter().all(|name| all.iter().any(|(known, _)| known == name)), "{all:?}");
    assert_eq!(node.cluster.seen(), [], "nothing is asked for");
    assert_eq!((known.state().pods, known.state().definitions), (None, None));
    // The mirror of a static pod that is another by now is not it.
    assert_eq!(pod(&known, &node.called("c", "h2")).unwrap().annotations["kubernetes.io/config.hash"], "h1");
    assert_eq!(node.asked(), ["c"], "the server is asked, and what it says is taken as ever");
}

fn misses() {
    let node = Node::new();
    let known = node.synced();
    let here = node.pod("a", &json!({}));
    let elsewhere = node.pod_on("elsewhere", "b", &json!({NETWORKS: "x"}));
    until_known(&known, &here);
    node.cluster.seen();
    for _ in 0..2 {
        assert_eq!(pod(&known, &elsewhere).unwrap().annotations[NETWORKS], "x");
        assert_eq!(node.asked(), ["b"], "pods of other nodes are not kept");
    }
    let other = node.called("a", "1b5d3f0e-6a51-4c5a-9d5c-2d5d0f2f3a11");
    assert!(matches!(pod(&known, &other), Err(SourceError::Uid { .. })));
    assert_eq!(node.asked(), ["a"]);
    assert!(matches!(node.definition(&known, "none"), Err(SourceError::NoDefinition { .. })));
    assert_eq!(node.asked(), ["none"]);
    // What is about to come is waited for, as by those who ask live.
    let cluster = Arc::clone(&node.cluster);
    node.cluster.fail("GET", "/late", 1, Fault::Status(404));
    node.cluster.before("GET", "/late", 1, move || drop(cluster.definition("late", &json!({"type": "bridge"}))));
    assert!(ask(&known).definition(node.cluster.namespace(), "late", true).is_ok());
    assert_eq!(node.asked(), ["late", "late"]);
    assert!(known.counts().misses >= 5 && known.counts().failures == 0, "{:?}", known.counts());
}

/// The server is asked for this node's pods only, and what nobody reads of them is let go at once.
fn of_one_node() {
    let node = Node::new();
    let own = node.pod("own", &json!({NETWORKS: "blue", "theirs": "x".repeat(10_000)}));
    let other = node.pod_on("another-node", "other", &json!({NETWORKS: "blue"}));
    let known = node.synced();
    until_known(&known, &own);
    let lists: Vec<String> =
        node.cluster.seen().into_iter().map(|seen| seen.path).filter(|path| path.starts_with("/api/v1/pods")).collect();
    let of_node = format!("fieldSelector=spec.nodeName%3D{}", node.name());
    assert!(!lists.is_empty() && lists.iter().all(|path| path.contains(&of_node)), "{lists:?}");
    assert_eq!(known.held().0, 1, "the other node's pod is not known");
    assert_eq!(pod(&known, &own).unwrap().annotations.into_keys().collect::<Vec<_>>(), [NETWORKS]);
    let before = known.counts().misses;
    assert!(pod(&known, &other).is_ok(), "who is asked for is found");
    assert_eq!(known.counts().misses, before + 1);
}

fn changes() {
    let node = Node::new();
    node.cluster.definition("blue", &json!({"type": "bridge"}));
    let known = node.synced();
    let text = |name: &str| node.definition(&known, name).map(|found| found.config).unwrap_or_default();
    assert_eq!(text("blue"), r#"{"type":"bridge"}"#);
    let path = crate::kube::cluster::definitions(node.cluster.namespace(), "blue");
    node.cluster.patch(&path, &json!({"spec": {"config": "{\"type\":\"ptp\"}"}}));
    until("the change", || text("blue") == r#"{"type":"ptp"}"#);
    until("the change on disk", || fs::read_to_string(node.last_known("blue")).is_ok_and(|file| file.contains("ptp")));
    node.cluster.delete_definition("blue");
    until("the end", || matches!(node.definition(&known, "blue"), Err(SourceError::NoDefinition { .. })));
    until("its end on disk", || !node.last_known("blue").exists());
    let name = node.pod("a", &json!({}));
    until_known(&known, &name);
    node.cluster.annotate("a", &json!({NETWORKS: "blue"}));
    until("the annotation", || pod(&known, &name).unwrap().annotations.contains_key(NETWORKS));
    node.cluster.delete_pod("a");
    until("the pod's end", || matches!(pod(&known, &name), Err(SourceError::NoPod { .. })));
}

fn no_node() {
    let node = Node::new();
    let known = Known::start(&node.config, None).unwrap();
    until("the definitions", || known.is_synced());
    let name = node.pod("a", &json!({}));
    node.cluster.seen();
    assert!(pod(&known, &name).is_ok() && pod(&known, &name).is_ok());
    assert_eq!(node.asked(), ["a", "a"]);
    assert!(Known::start(&node.config, Some("no/name")).is_err());
}

fn away() {
    let node = Node::new();
    node.cluster.definition("blue", &json!({"type": "bridge"}));
    let name = node.pod("a", &json!({NETWORKS: "blue"}));
    let known = node.synced();
    until_known(&known, &name);
    let said = || fs::read_to_string(LOG).unwrap_or_default();
    assert!(!said().contains("last known"), "{}", said());
    node.cluster.door(Door::Refused);
    until("the server's absence", || known.state().definitions.is_some_and(|trouble| trouble.is_away));
    assert!(node.definition(&known, "blue").is_ok() && pod(&known, &name).is_ok());
    assert!(said().contains("/blue is from the last known ones, "), "{}", said());
    // A daemon that has never seen the server.
    drop(known);
    fs::remove_file(LOG).unwrap();
    let known = node.start();
    assert_eq!(node.definition(&known, "blue").unwrap().config, r#"{"type":"bridge"}"#);
    assert_eq!(pod(&known, &name).unwrap().annotations[NETWORKS], "blue");
    assert!(said().contains(" s old: the API server does not answer"), "{}", said());
    let error = node.definition(&known, "green").unwrap_err();
    assert!(error.is_transient() && !known.is_synced(), "{error}");
    let other = node.called("a", "1b5d3f0e-6a51-4c5a-9d5c-2d5d0f2f3a11");
    assert!(pod(&known, &other).unwrap_err().is_transient(), "the last known pod of the name is another");
    // It comes back, and what was deleted meanwhile is gone.
    node.cluster.delete_definition("blue");
    node.cluster.door(Door::Open);
    until("the server's return", || known.is_synced());
    assert!(matches!(node.definition(&known, "blue"), Err(SourceError::NoDefinition { .. })));
    assert!(!node.last_known("blue").exists());
    until("no trouble", || known.state().pods.is_none() && known.state().definitions.is_none());
}

/// Its connections stay, and nobody answers on them any more: a watch on which nothing comes shows nothing.
fn stopped() {
    let node = Node::new();
    let known = node.synced();
    node.cluster.fail("", "", usize::MAX, Fault::Hang);
    let name = node.called("a", "u");
    until("why the definitions are doubtful", || {
        let _ = pod(&known, &name).unwrap_err();
        known.state().definitions.is_some_and(|trouble| trouble.is_away)
    });
    node.cluster.heal();
    until("no trouble", || known.state().pods.is_none() && known.state().definitions.is_none());
}

fn slow() {
    let node = Node::new();
    let known = node.synced();
    let name = node.pod("a", &json!({}));
    until_known(&known, &name);
    node.cluster.fail("GET", "/pods/b", usize::MAX, Fault::Hang);
    node.cluster.seen();
    let restarts = known.counts().restarts;
    assert!(pod(&known, &node.called("b", "u")).unwrap_err().is_transient());
    until("both watches are begun again", || {
        let state = known.state();
        assert_eq!((state.is_synced, state.pods, state.definitions), (true, None, None));
        known.counts().restarts >= restarts + 2
    });
    assert!(pod(&known, &name).is_ok() && known.state().pods.is_none());
}

fn expired() {
    let node = Node::new();
    for name in ["blue", "green"] {
        node.cluster.definition(name, &json!({"type": "bridge"}));
    }
    let known = node.synced();
    node.cluster.door(Door::Refused);
    node.cluster.delete_definition("blue");
    node.cluster.fail("GET", "&resourceVersion=", usize::MAX, Fault::Status(410));
    node.cluster.door(Door::Open);
    until("a new list", || matches!(node.definition(&known, "blue"), Err(SourceError::NoDefinition { .. })));
    assert!(node.definition(&known, "green").is_ok());
    until("no trouble", || known.state().pods.is_none() && known.state().definitions.is_none());
    assert!(known.counts().restarts > 0);
}

fn pages() {
    let node = Node::new();
    node.cluster.definition("blue", &json!({"type": "bridge"}));
    node.cluster.fail("GET", "sendInitialEvents", usize::MAX, Fault::Status(422));
    // Somebody else's list is not taken for an empty one.
    let none =
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}).to_string();
    node.cluster.fail("GET", "&limit=", 2, Fault::Answer(200, none));
    let known = node.synced();
    let name = node.pod("a", &json!({}));
    until_known(&known, &name);
    node.cluster.seen();
    assert!(node.definition(&known, "blue").is_ok());
    assert_eq!(node.asked(), [""; 0]);
    node.cluster.definition("green", &json!({"type": "bridge"}));
    until("the watch", || node.last_known("green").exists());
}

/// An overlay is applied where nothing has brought the definitions' own definition: what is missing is said, and it may come later.
fn unknown() {
    let node = Node::new();
    node.cluster.fail("GET", "network-attachment-definitions", usize::MAX, Fault::Status(404));
    let known = node.start();
    let is_told = || known.state().definitions.is_some_and(|trouble| trouble.why.contains("deployments/crd"));
    until("what is missing is told", is_told);
    assert!(!known.is_synced());
    node.cluster.heal();
    until("it has come", || known.is_synced() && known.state().definitions.is_none());
}

fn rotated() {
    let node = Node::new();
    let known = node.synced();
    node.cluster.revoke(crate::kube::login::TOKEN);
    let name = node.pod_on("elsewhere", "a", &json!({}));
    assert!(pod(&known, &name).unwrap_err().to_string().contains("401"));
    node.cluster.kubeconfig(&node.bed, &Login::Token(crate::kube::login::NEXT_TOKEN.to_owned()));
    until("the new token", || pod(&known, &name).is_ok());
}

/// The kubeconfig stays as it is: what it names is another.
fn renewed() {
    let mut node = Node::new();
    let copy = |name: &str| {
        for ending in ["crt", "key"] {
            fs::copy(node.cluster.file(&format!("{name}.{ending}")), format!("/run/scratch/own.{ending}")).unwrap();
        }
    };
    copy("client-expired");
    let login = Login::Files("/run/scratch/own.crt".into(), "/run/scratch/own.key".into());
    node.config.kubeconfig = Some(node.cluster.kubeconfig(&node.bed, &login));
    let known = node.start();
    let name = node.pod("a", &json!({}));
    let error = pod(&known, &name).unwrap_err().to_string();
    assert!(error.contains("401") && error.contains("certificate expired: that of /run/scratch/own.crt"), "{error}");
    until("why nothing is known", || known.state().definitions.is_some_and(|trouble| trouble.why.contains("expired")));
    copy("client-next");
    until("the new certificate", || pod(&known, &name).is_ok());
    until("what is watched", || known.is_synced());
}

fn cancelled() {
    let node = Node::new();
    let known = node.synced();
    node.cluster.fail("GET", "/pods/a", usize::MAX, Fault::Hang);
    node.cluster.seen();
    let cancel = Cancel::default();
    let (mut inquiry, name) = (known.cluster(cancel.clone(), false), node.called("a", "u"));
    let waiting = std::thread::spawn(move || (inquiry.pod(&name), inquiry));
    until("the request", || node.cluster.count("GET", "/api/v1/namespaces") > 0);
    cancel.cancel();
    let (answer, mut inquiry) = waiting.join().unwrap();
    let error = answer.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("cancelled: its DEL came"), "{error}");
    assert!(inquiry.definition("default", "blue", true).is_err(), "and asks nothing more");
    assert_eq!(node.asked(), ["a"]);
}

fn attached<'a>(status: &'a str) -> News<'a> {
    News::Attached { status, arrivals: Vec::new() }
}

fn after() {
    let node = Node::new();
    let known = node.synced();
    let name = node.pod("a", &json!({}));
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    node.cluster.before("PATCH", "/status", 1, move || released.lock().unwrap().recv().unwrap());
    let note = PathBuf::from(STATE).join("unwritten").join(&name.uid);
    ask(&known).tell(&name, &attached(r#"[{"name": "first"}]"#));
    assert!(note.exists(), "noted before the answer");
    until("the request", || node.cluster.count("PATCH", "") == 1);
    // What comes meanwhile is told after it: the last one stays.
    ask(&known).tell(&name, &attached(r#"[{"name": "second"}]"#));
    ask(&known).tell(&name, &attached(r#"[{"name": "third"}]"#));
    assert_eq!(node.cluster.network_status("a"), Value::Null);
    release.send(()).unwrap();
    assert!(known.drain(LIMIT));
    assert_eq!(node.cluster.network_status("a")[0]["name"], "third");
    assert!(!note.exists());
    assert_eq!(known.counts().statuses, 2, "what was overtaken is not told");
    known.cluster(Cancel::default(), true).tell(&name, &attached(r#"[{"name": "fourth"}]"#));
    assert_eq!(node.cluster.network_status("a")[0]["name"], "fourth", "before the answer, where that is wanted");
    // What cannot be told stays noted.
    node.cluster.fail("", "/status", usize::MAX, Fault::Status(403));
    ask(&known).tell(&name, &attached("[]"));
    assert!(known.drain(LIMIT));
    assert!(note.exists() && known.counts().unwritten == 1);
}

/// Only the first status is tried to be patched.
fn no_patch() {
    let node = Node::new();
    let known = node.synced();
    let name = node.pod("a", &json!({}));
    node.cluster.fail("PATCH", "/status", usize::MAX, Fault::Status(403));
    let told = |text: &str| {
        node.cluster.seen();
        known.cluster(Cancel::default(), true).tell(&name, &attached(&json!([{ "name": text }]).to_string()));
        assert_eq!(node.cluster.network_status("a")[0]["name"], text);
        let seen = node.cluster.seen().into_iter().filter(|seen| seen.path.contains("/pods/"));
        seen.map(|seen| seen.method).collect::<Vec<_>>()
    };
    assert_eq!(told("first"), ["PATCH", "GET", "PUT"]);
    assert_eq!(told("second"), ["GET", "PUT"]);
    // The role is another now.
    node.cluster.heal();
    node.cluster.fail("PUT", "/status", usize::MAX, Fault::Status(403));
    assert_eq!(told("third"), ["GET", "PUT", "PATCH"]);
}

fn notes() {
    let node = Node::new();
    let name = node.pod("a", &json!({}));
    let folder = PathBuf::from(STATE).join("unwritten");
    fs::create_dir_all(&folder).unwrap();
    let note = json!({"namespace": name.namespace, "name": "a", "uid": name.uid, "status": r#"[{"name": "noted"}]"#});
    fs::write(folder.join(&name.uid), note.to_string()).unwrap();
    let _known = node.start();
    until("the status", || node.cluster.network_status("a")[0]["name"] == "noted");
    until("the note's end", || !folder.join(&name.uid).exists());
}
