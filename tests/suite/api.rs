//! Pods and definitions from a real API server, through a front that counts requests and fails them. It knows what a client may
//! ask, not how plexus asks.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::call::{Answer, Call, Side};
use crate::case::Case;
use crate::kube::login::{NEXT_TOKEN, NOBODY, TOKEN};
use crate::kube::{Cluster, Door, Fault, Login};
use crate::meta::{Node, node};
use crate::need::Need;

mod faults;
mod kubeconfigs;
mod outcome;
mod plain;
mod reasons;
mod rights;
mod strange;

/// The annotation.
pub(crate) const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// Multus' annotation of the default network.
pub(crate) const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

/// A node whose pods and definitions are in the API.
pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) cluster: Arc<Cluster>,
}

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    let mut cases = vec![
        Case::new("api::each_object_is_asked_for_once", needs, calls),
        Case::new("api::a_definition_that_is_named_twice_is_asked_for_once", needs, twice),
        Case::new("api::a_pod_without_annotations_is_one_request", needs, plain),
        Case::new("api::d21_every_way_to_log_in_and_a_rotated_token", needs, logins),
        Case::new("api::default_networks_are_definitions", needs, cluster_network),
        Case::new("api::an_empty_definition_is_a_file_of_confdir", needs, empty_definition),
        Case::new("api::the_watch_cache_is_enough_where_it_surely_has_the_pod", needs, watch_cache),
        Case::new("api::what_appears_late_is_waited_for", needs, late),
        Case::new("api::a_pod_of_another_uid_is_another_pod", needs, uid),
        Case::new("api::a_runtime_that_tells_no_uid_means_the_pod_that_is_there", needs, no_uid),
        Case::new("api::a_static_pods_uid_is_not_compared", needs, static_pod),
        Case::new("api::d02_isolation_holds_for_every_reference", needs, isolation),
        Case::new("api::dotted_names_are_names", needs, dotted),
        Case::new("api::d23_a_pod_that_is_gone_is_no_success", needs, gone),
        Case::new("api::d26_a_pod_of_a_system_namespaces_name_has_its_status", needs, named_like_a_namespace),
        Case::new("api::what_would_be_the_default_network_alone_is_an_error", needs, not_alone),
        Case::new("api::no_plexus_beside_plexus_cni", needs, alone),
    ];
    cases.extend(faults::cases());
    cases.extend(kubeconfigs::cases());
    cases.extend(outcome::cases());
    cases.extend(plain::cases());
    cases.extend(reasons::cases());
    cases.extend(rights::cases());
    cases.extend(strange::cases());
    cases
}

impl Member {
    pub(crate) fn new() -> Self {
        let mut node = node();
        let cluster = Cluster::of(&node.bed);
        for (name, config) in [
            (
                "blue",
                json!({"cniVersion": "1.0.0", "name": "blue", "type": "macvlan", "master": "up0",
                "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.2.0.0/24"}]]}}),
            ),
            (
                "green",
                json!({"cniVersion": "1.0.0", "type": "bridge", "bridge": "green0", "isGateway": true,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.3.0.0/24"}]]}}),
            ),
        ] {
            cluster.definition(name, &config);
        }
        let conf = node.conf.as_object_mut().unwrap();
        conf.remove("manifests");
        conf.insert("kubeconfig".to_owned(), json!(cluster.kubeconfig(&node.bed, &Login::usual())));
        conf.insert("apiCallTimeoutMs".to_owned(), json!(3000));
        conf.insert("apiDeadlineMs".to_owned(), json!(6000));
        conf.insert("appearWaitMs".to_owned(), json!(300));
        Self { node, cluster }
    }

    /// Makes a pod in the API and its namespace on the node; its UID.
    pub(crate) fn pod(&self, name: &str, annotations: &[(&str, &str)]) -> String {
        if !self.node.bed.netns(name).exists() {
            self.node.bed.pod(name);
        }
        self.cluster.pod(name, annotations)
    }

    pub(crate) fn call(&self, command: &str, pod: &str, uid: &str) -> Call<'_> {
        let bed = &self.node.bed;
        let call = bed.call(Side::Plexus, "plexus-cni").command(command).container(&format!("id-{pod}")).pod(pod);
        call.kubernetes(self.cluster.namespace(), pod, uid).conf(&self.node.conf)
    }

    /// Makes a pod and attaches it.
    pub(crate) fn add(&self, pod: &str, networks: &str) -> (String, Answer) {
        let uid = self.pod(pod, &[(NETWORKS, networks)]);
        let answer = self.call("ADD", pod, &uid).run();
        (uid, answer)
    }

    pub(crate) fn del(&self, pod: &str, uid: &str) {
        self.call("DEL", pod, uid).run().ok();
    }

    /// Requests of a method that the server saw from plexus, as the last two parts of their paths.
    pub(crate) fn asked(&self, method: &str) -> Vec<String> {
        let short = |path: &str| {
            let mut parts: Vec<&str> = path.split('/').rev().take(2).collect();
            parts.reverse();
            parts.join("/")
        };
        self.cluster.seen().iter().filter(|seen| seen.method == method).map(|seen| short(&seen.path)).collect()
    }

    /// Nothing of any pod is left on the node.
    pub(crate) fn assert_clean(&self) {
        self.node.assert_clean();
    }
}

fn calls() {
    let member = Member::new();
    let (uid, answer) = member.add("a", "blue,green");
    answer.ok();
    let seen = member.cluster.seen();
    let of = |method: &str| seen.iter().filter(|seen| seen.method == method).count();
    assert_eq!((of("GET"), of("PATCH"), of("PUT")), (3, 1, 0), "{seen:?}");
    assert_eq!(of("POST"), 3, "an event for each attachment: {seen:?}");
    assert_eq!(member.node.addresses("a", "net1"), ["10.2.0.2/24"]);
    assert_eq!(member.node.addresses("a", "net2"), ["10.3.0.2/24"]);
    member.del("a", &uid);
    assert_eq!(member.cluster.seen(), [], "DEL asks nobody");
    member.assert_clean();
}

fn twice() {
    let member = Member::new();
    member.add("a", "blue,blue,green").1.ok();
    assert_eq!(member.asked("GET").len(), 3);
    assert_eq!(member.node.addresses("a", "net2"), ["10.2.0.3/24"]);
}

fn plain() {
    let member = Member::new();
    let uid = member.pod("a", &[]);
    member.call("ADD", "a", &uid).run().ok();
    assert_eq!(member.asked("GET"), ["pods/a?resourceVersion=0"]);
    assert_eq!(member.cluster.network_status("a")[0]["default"], true, "the default network is always there");
}

fn logins() {
    let mut member = Member::new();
    let token = member.node.bed.file("token", TOKEN);
    let file = |name: &str| member.cluster.file(name);
    let all = [
        Login::TokenFile(token.clone()),
        Login::Files(file("client.crt"), file("client.key")),
        Login::Inline(file("client-next.crt"), file("client-next.key")),
    ];
    for (index, login) in all.iter().enumerate() {
        member.node.conf["kubeconfig"] = json!(member.cluster.kubeconfig(&member.node.bed, login));
        member.add(&format!("a{index}"), "blue").1.ok();
    }
    // As `kubectl create token >FILE` writes it.
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    for (pod, login) in [("t0", Login::TokenFile(token.clone())), ("t1", Login::Token(format!("{TOKEN}\n")))] {
        member.node.conf["kubeconfig"] = json!(member.cluster.kubeconfig(&member.node.bed, &login));
        member.add(pod, "blue").1.ok();
    }
    fs::write(&token, "\n").unwrap();
    member.node.conf["kubeconfig"] =
        json!(member.cluster.kubeconfig(&member.node.bed, &Login::TokenFile(token.clone())));
    let (_, answer) = member.add("t2", "blue");
    assert!(!answer.succeeded() && answer.stdout.contains("is empty"), "{}", answer.stdout);
    fs::write(&token, TOKEN).unwrap();
    // A token is rotated by whoever writes its file: each request reads it.
    member.cluster.kubeconfig(&member.node.bed, &Login::TokenFile(token.clone()));
    member.cluster.revoke(TOKEN);
    let (uid, answer) = member.add("b", "blue");
    assert!(!answer.succeeded() && answer.stdout.contains("401"), "{}", answer.stdout);
    fs::write(&token, NEXT_TOKEN).unwrap();
    member.call("ADD", "b", &uid).run().ok();
    // In a pod of the cluster nothing is configured.
    member.node.conf.as_object_mut().unwrap().remove("kubeconfig");
    let uid = member.pod("c", &[(NETWORKS, "blue")]);
    let [(host, host_value), (port, port_value)] = member.cluster.service_account(NEXT_TOKEN);
    member.call("ADD", "c", &uid).env(host, host_value).env(port, port_value).run().ok();
    assert!(member.node.bed.links("c").contains(&"net1".to_owned()));
}

fn cluster_network() {
    let mut member = Member::new();
    let conf = member.node.conf.as_object_mut().unwrap();
    conf.remove("delegates");
    conf.insert("cniVersion".to_owned(), json!("1.1.0"));
    conf.insert("clusterNetwork".to_owned(), json!("green"));
    conf.insert("defaultNetworks".to_owned(), json!(["blue"]));
    conf.insert("multusNamespace".to_owned(), json!(member.cluster.namespace()));
    let (uid, answer) = member.add("a", "");
    answer.ok();
    assert_eq!(member.node.addresses("a", "eth0"), ["10.3.0.2/24"]);
    assert_eq!(member.node.addresses("a", "net1"), ["10.2.0.2/24"]);
    member.call("STATUS", "a", &uid).run().ok();
    let mut conf = member.node.conf.clone();
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "id-a", "ifname": "eth0"}]);
    member.call("GC", "a", &uid).conf(&conf).run().ok();
    member.call("CHECK", "a", &uid).run().ok();
    member.cluster.door(Door::Refused);
    member.call("STATUS", "a", &uid).run().fails(11, "green");
    member.del("a", &uid);
    member.assert_clean();
}

fn empty_definition() {
    let mut member = Member::new();
    member.cluster.definition_in(member.cluster.namespace(), "filed", "", &[]);
    member.node.conf["confDir"] = json!("/run/scratch/conf");
    let green = json!({"cniVersion": "1.0.0", "name": "filed", "type": "bridge", "bridge": "green0",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.7.0.0/24"}]]}});
    member.node.bed.file("conf/00-torn.conf", "{ torn");
    member.node.bed.file("conf/10-filed.conf", &green.to_string());
    let (uid, answer) = member.add("a", "filed");
    answer.ok();
    assert_eq!(member.node.addresses("a", "net1"), ["10.7.0.2/24"]);
    member.del("a", &uid);
}

fn late() {
    let mut member = Member::new();
    member.node.conf["appearWaitMs"] = json!(5000);
    let cluster = Arc::clone(&member.cluster);
    let green = json!({"cniVersion": "1.0.0", "name": "late", "type": "bridge", "bridge": "green0"});
    let created = Arc::new(std::sync::Once::new());
    // The third look finds it.
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let made = Arc::clone(&asked);
    member.cluster.before("GET", "/late", usize::MAX, move || {
        if made.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 2 {
            created.call_once(|| drop(cluster.definition("late", &green)));
        }
    });
    member.add("a", "late").1.ok();
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 3);
    member.cluster.heal();
    let cluster = Arc::clone(&member.cluster);
    let uid = "1b5d3f0e-6a51-4c5a-9d5c-2d5d0f2f3a11";
    member.node.bed.pod("b");
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    member.cluster.before("GET", "/pods/b", usize::MAX, move || {
        if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 2 {
            cluster.pod("b", &[("kubernetes.io/config.source", "file"), (NETWORKS, "blue")]);
        }
    });
    member.call("ADD", "b", uid).run().ok();
    assert!(member.node.bed.links("b").contains(&"net1".to_owned()));
}

fn uid() {
    let member = Member::new();
    let uid = member.pod("a", &[(NETWORKS, "blue")]);
    let other = "1b5d3f0e-6a51-4c5a-9d5c-2d5d0f2f3a11";
    let answer = member.call("ADD", "a", other).run();
    assert!(!answer.succeeded() && answer.stdout.contains("expected pod UID"), "{}", answer.stdout);
    assert_eq!(member.node.bed.links("a"), ["lo"]);
    member.call("ADD", "a", &uid).run().ok();
}

/// The server's watch cache may be older than what was said to the kubelet: of another pod of this name, or of this one before it was bound.
fn watch_cache() {
    let member = Member::new();
    let asked = |pod: &str, uid: &str| {
        let succeeded = member.call("ADD", pod, uid).run().succeeded();
        (succeeded, member.asked("GET"))
    };
    let annotated = |name: &str, key: &str, value: &str| json!({"name": name, "annotations": {key: value}});
    for name in ["bound", "unbound", "mirror"] {
        member.node.bed.pod(name);
    }
    let uid = member.cluster.create_pod(&json!({"metadata": annotated("bound", NETWORKS, "blue")}));
    let definition = "network-attachment-definitions/blue?resourceVersion=0".to_owned();
    assert_eq!(asked("bound", &uid), (true, vec!["pods/bound?resourceVersion=0".to_owned(), definition]));
    let other = "1b5d3f0e-6a51-4c5a-9d5c-2d5d0f2f3a11";
    let twice = |name: &str| vec![format!("pods/{name}?resourceVersion=0"), format!("pods/{name}")];
    assert_eq!(asked("bound", other), (false, twice("bound")));
    let uid = member.cluster.create_pod(&json!({"metadata": {"name": "unbound"}, "spec": {"nodeName": ""}}));
    assert_eq!(asked("unbound", &uid), (true, twice("unbound")));
    member.cluster.create_pod(&json!({"metadata": annotated("mirror", "kubernetes.io/config.hash", other)}));
    assert_eq!(asked("mirror", other).1, ["pods/mirror?resourceVersion=0"]);
    member.cluster.fail("GET", "resourceVersion=0", 1, Fault::Status(403));
    member.add("h", "blue").1.fails(7, "forbids it (403)");
    // Something before the server may not know the question: the other one is as good.
    for (pod, code) in [("e", 400), ("f", 410), ("g", 504)] {
        // Of the pod, of both definitions together, and of each.
        member.cluster.fail("GET", "resourceVersion=0", 5, Fault::Status(code));
        member.add(pod, "blue,green").1.ok();
    }
}

/// Older runtimes tell none: it is the pod that is there, and its status and events are that one's.
fn no_uid() {
    let member = Member::new();
    let uid = member.pod("a", &[(NETWORKS, "blue")]);
    let call = |command: &str| member.call(command, "a", "").run();
    call("ADD").ok();
    assert_eq!(member.cluster.network_status("a")[1]["interface"], "net1");
    let list = member.cluster.get(&format!("/api/v1/namespaces/{}/events", member.cluster.namespace()));
    let events = list["items"].as_array().unwrap();
    assert!(events.len() == 2 && events.iter().all(|event| event["involvedObject"]["uid"] == uid), "{events:?}");
    call("CHECK").ok();
    call("DEL").ok();
    let without = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME=a", member.cluster.namespace());
    member.call("ADD", "a", "").args(&without).run().ok();
    assert_eq!(member.node.addresses("a", "net1"), ["10.2.0.3/24"]);
    call("DEL").ok();
    member.assert_clean();
}

fn static_pod() {
    let member = Member::new();
    member.pod("a", &[("kubernetes.io/config.source", "file"), (NETWORKS, "blue")]);
    member.call("ADD", "a", "8c6f3b1c0d5e4f6a8c6f3b1c0d5e4f6a").run().ok();
    assert_eq!(member.cluster.network_status("a")[1]["interface"], "net1", "the mirror pod has its status");
}

fn isolation() {
    let mut member = Member::new();
    let other = member.cluster.another_namespace();
    let green = json!({"cniVersion": "1.0.0", "name": "o", "type": "bridge", "bridge": "green0"}).to_string();
    member.cluster.definition_in(&other, "theirs", &green, &[]);
    member.node.conf["namespaceIsolation"] = json!(true);
    let reference = format!("{other}/theirs");
    let as_json = json!([{"name": "theirs", "namespace": other}]).to_string();
    for (pod, key, text) in [("a", NETWORKS, &reference), ("b", NETWORKS, &as_json), ("c", DEFAULT_NETWORK, &reference)]
    {
        let uid = member.pod(pod, &[(key, text)]);
        member.call("ADD", pod, &uid).run().fails(7, "namespace isolation enabled");
        assert_eq!(member.node.bed.links(pod), ["lo"]);
    }
    assert_eq!(
        member.cluster.count("GET", "/apis/k8s.cni.cncf.io"),
        0,
        "a pod that may not name it learns nothing of it"
    );
    member.node.conf["globalNamespaces"] = json!(other);
    member.add("d", &reference).1.ok();
    member.node.conf["globalNamespaces"] = json!("none");
    member.node.conf["multusNamespace"] = json!(other);
    let uid = member.pod("e", &[(DEFAULT_NETWORK, "theirs")]);
    member.call("ADD", "e", &uid).run().ok();
    // What holds default networks is no namespace of everybody's.
    member.add("f", &reference).1.fails(7, "namespace isolation enabled");
    member.node.conf["globalNamespaces"] = json!(other);
    member.node.conf["multusNamespace"] = json!("none");
    let uid = member.pod("g", &[(DEFAULT_NETWORK, &reference)]);
    member.call("ADD", "g", &uid).run().ok();
}

fn dotted() {
    let member = Member::new();
    member.cluster.definition("blue.v2", &json!({"cniVersion": "1.0.0", "type": "bridge", "bridge": "green0"}));
    member.add("a", "blue.v2@lan").1.ok();
    assert!(member.node.bed.links("a").contains(&"lan".to_owned()));
    for hostile in ["../blue", "blue/../../x/y", "blue%2f..", "BLUE", "a b", "x/y/z"] {
        let answer = member.add(&format!("h{}", hostile.len()), hostile).1;
        assert!(!answer.succeeded(), "{hostile}");
        member.cluster.delete_pod(&format!("h{}", hostile.len()));
    }
}

fn gone() {
    let member = Member::new();
    member.node.bed.pod("a");
    let uid = "1b5d3f0e-6a51-4c5a-9d5c-2d5d0f2f3a11";
    member.call("ADD", "a", uid).run().fails(11, "is not in the cluster");
    assert_eq!(member.node.bed.links("a"), ["lo"]);
    // Deleted while it is being attached: what is attached goes with the DEL that follows.
    let cluster = Arc::clone(&member.cluster);
    member.cluster.before("GET", "network-attachment-definitions", 1, move || cluster.delete_pod("b"));
    let (uid, answer) = member.add("b", "blue");
    answer.ok();
    member.del("b", &uid);
    assert!(!std::path::Path::new("/var/lib/cni/plexus/unwritten").join(&uid).exists(), "nobody will read its status");
    member.assert_clean();
}

fn named_like_a_namespace() {
    let member = Member::new();
    let uid = member.pod("kube-system", &[]);
    member.call("ADD", "kube-system", &uid).run().ok();
    assert_eq!(member.cluster.network_status("kube-system")[0]["interface"], "eth0");
}

/// A pod that wants more must not start with less because of how it is called.
fn not_alone() {
    let mut member = Member::new();
    let uid = member.pod("a", &[(NETWORKS, "blue")]);
    for broken in [";", ";A=b=c", ";A"] {
        let args = format!("K8S_POD_NAMESPACE={};K8S_POD_NAME=a;K8S_POD_UID={uid}{broken}", member.cluster.namespace());
        member.call("ADD", "a", &uid).args(&args).run().fails(4, "ARGS: invalid pair");
    }
    let conf = member.node.conf.as_object_mut().unwrap();
    conf.remove("kubeconfig");
    conf.insert("type".to_owned(), json!("multus-shim"));
    member.call("ADD", "a", &uid).run().fails(7, "--kubeconfig");
    assert_eq!(member.node.bed.links("a"), ["lo"]);
}

fn alone() {
    let member = Member::new();
    let uid = member.pod("a", &[(NETWORKS, "blue")]);
    let own = crate::call::executable(Side::Plexus, "plexus-cni");
    let copy = std::path::Path::new("/run/scratch/plexus-cni");
    fs::copy(own, copy).unwrap();
    member.node.bed.install(Side::Plexus, "lonely", copy);
    let bed = &member.node.bed;
    let call = bed.call(Side::Plexus, "lonely").command("ADD").container("id-a").pod("a");
    let answer = call.kubernetes(member.cluster.namespace(), "a", &uid).conf(&member.node.conf).run();
    answer.fails(4, "install it beside plexus-cni");
    // plexus-cni under the name of the other program is no other program.
    fs::copy(copy, "/run/scratch/plexus").unwrap();
    let call = bed.call(Side::Plexus, "lonely").command("ADD").container("id-a").pod("a");
    let answer = call.kubernetes(member.cluster.namespace(), "a", &uid).conf(&member.node.conf).run();
    answer.fails(4, "is plexus-cni again");
}

/// So long that a hanging server is told from a slow one.
const SLOW: Duration = Duration::from_millis(700);

/// The words of an answer that failed, with a code.
fn refused(answer: &Answer, code: u64) -> String {
    assert!(!answer.succeeded(), "{}", answer.stdout);
    let value: Value = answer.json();
    assert_eq!(value["code"], code, "{value}");
    value["msg"].as_str().unwrap().to_owned()
}
