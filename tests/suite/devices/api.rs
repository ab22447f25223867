//! Devices of pods of a real API server: by a kubelet's socket in every state, and by resource claims and slices that the server
//! has. It knows neither a device plugin nor a scheduler: what these write is written here.

use std::path::Path;

use serde_json::{Value, json};

use super::kubelet::{Kubelet, Pod, State, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN};
use super::{KEEPS, KUBELET, RESOURCE, allocate_uid, claims, device, sriov};
use crate::api::Member;
use crate::case::Case;
use crate::kube::Fault;
use crate::need::Need;

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("devices::the_kubelet_is_asked_for_one_pod_once", needs, one_pod),
        Case::new("devices::a_kubelet_that_serves_only_lists", needs, only_list),
        Case::new("devices::a_list_beyond_the_limits_of_others", needs, crowded),
        Case::new("devices::a_hollow_list_costs_its_own_bytes", needs, hollow),
        Case::new("devices::a_kubelet_that_does_not_answer_is_told", needs, silent),
        Case::new("devices::without_a_socket_the_checkpoint_answers", needs, checkpoint),
        Case::new("devices::a_claims_devices_are_the_pods", needs, claimed),
        Case::new("devices::an_extended_resource_of_a_claim_is_the_pods", needs, extended),
        Case::new("devices::a_claim_that_cannot_be_read_matters_to_who_needs_it", needs, doubtful),
        Case::new("devices::a_pool_that_is_being_published_is_waited_for", needs, half_published),
    ]
}

/// A node in a cluster with a definition `vf` of a resource.
fn rig() -> Member {
    let mut member = Member::new();
    member.node.conf["kubeletDir"] = json!(KUBELET);
    member.node.conf["apiCallTimeoutMs"] = json!(1500);
    member.node.script("ib-sriov", KEEPS);
    define(&member, "vf", &sriov());
    let bridge = json!({"cniVersion": "1.0.0", "name": "marked", "type": "bridge", "bridge": "green0"});
    define(&member, "marked", &bridge);
    member
}

fn define(member: &Member, name: &str, conf: &Value) {
    let annotations = [("k8s.v1.cni.cncf.io/resourceName", RESOURCE)];
    member.cluster.definition_in(member.cluster.namespace(), name, &conf.to_string(), &annotations);
}

fn serve(member: &Member, state: State, pods: &[Pod]) -> Kubelet {
    Kubelet::serve(Path::new(KUBELET), state, member.cluster.namespace(), pods)
}

const TWO: &[(&str, &[&str])] = &[(RESOURCE, &["v2"]), ("b/gpu", &["g1"]), (RESOURCE, &["v1"])];

fn one_pod() {
    let member = rig();
    let kubelet = serve(&member, State::Well, &[("b", &[(RESOURCE, &["w1"])]), ("a", TWO)]);
    let (uid, answer) = member.add("a", "vf,green,vf");
    answer.ok();
    assert_eq!([device("a", "net1"), device("a", "net3")], ["v1", "v2"]);
    assert_eq!(kubelet.seen(), ["Get"]);
    assert_eq!(member.asked("GET").len(), 3, "a pod and its two definitions: no claim was asked for");
    member.del("a", &uid);
    let (uid, answer) = member.add("b", "green");
    answer.ok();
    member.del("b", &uid);
    assert_eq!(kubelet.seen(), Vec::<String>::new(), "neither a DEL nor a pod without devices asks");
    assert_eq!(claims(), Vec::<String>::new());
    member.assert_clean();
}

fn only_list() {
    for (code, text) in [
        (UNIMPLEMENTED, "unknown method Get for service v1.PodResourcesLister"),
        (UNKNOWN, "PodResources API Get method disabled"),
    ] {
        let member = rig();
        let kubelet = serve(&member, State::OnlyList(code, text), &[("b", &[(RESOURCE, &["w1"])]), ("a", TWO)]);
        let (uid, answer) = member.add("a", "vf");
        answer.ok();
        assert_eq!((device("a", "net1"), kubelet.seen()), ("v1".to_owned(), vec!["Get".to_owned(), "List".to_owned()]));
        member.del("a", &uid);
        member.assert_clean();
    }
}

fn crowded() {
    let mut member = rig();
    member.node.conf["apiCallTimeoutMs"] = json!(60_000);
    member.node.conf["apiDeadlineMs"] = json!(60_000);
    let kubelet = serve(&member, State::Crowded(20 << 20), &[("a", TWO)]);
    let (uid, answer) = member.add("a", "vf");
    answer.ok();
    assert_eq!((device("a", "net1"), kubelet.seen()), ("v1".to_owned(), vec!["Get".to_owned(), "List".to_owned()]));
    member.del("a", &uid);
    member.assert_clean();
}

/// A tree of what is in it would have gigabytes.
fn hollow() {
    const BYTES: usize = 40 << 20;
    const KIB: u32 = 160 << 10;
    let mut member = rig();
    member.node.conf["apiCallTimeoutMs"] = json!(60_000);
    member.node.conf["apiDeadlineMs"] = json!(60_000);
    let kubelet = serve(&member, State::Hollow(BYTES), &[("a", TWO)]);
    let uid = member.pod("a", &[(crate::api::NETWORKS, "vf")]);
    member.call("ADD", "a", &uid).within_memory(KIB).run().ok();
    assert_eq!((device("a", "net1"), kubelet.seen()), ("v1".to_owned(), vec!["Get".to_owned(), "List".to_owned()]));
    member.del("a", &uid);
    // More than is read of any answer: that is told before it has come.
    let _kubelet = serve(&member, State::Hollow(65 << 20), &[("b", TWO)]);
    let uid = member.pod("b", &[(crate::api::NETWORKS, "vf")]);
    member.call("ADD", "b", &uid).within_memory(KIB).run().fails(11, "too large");
    member.del("b", &uid);
    member.assert_clean();
}

fn silent() {
    let mut member = rig();
    member.node.conf["apiCallTimeoutMs"] = json!(300);
    for (number, (state, part)) in [
        (State::Hanging, "no answer in time: one call has 300 ms (apiCallTimeoutMs)"),
        (State::Garbage, "its answer to Get is no message"),
        (State::OddGet, "Method not found; and of Get alone: protocol error: received message with compressed-flag"),
        (State::Failing(UNAVAILABLE, "shutting down"), "shutting down"),
        (State::Failing(UNKNOWN, "out of order"), "out of order"),
    ]
    .into_iter()
    .enumerate()
    {
        let _kubelet = serve(&member, state, &[]);
        let pod = format!("p{number}");
        let (uid, answer) = member.add(&pod, "vf");
        answer.fails(11, part);
        assert_eq!(member.node.bed.links(&pod), ["lo"]);
        member.del(&pod, &uid);
    }
    // Nobody listens any more.
    let socket = format!("{KUBELET}/pod-resources/kubelet.sock");
    std::fs::remove_file(&socket).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    member.add("gone", "vf").1.fails(11, "asking the kubelet");
    // A network that needs no device is attached, and it is said.
    let (uid, answer) = member.add("marked", "marked");
    assert!(answer.succeeded() && answer.stderr.contains("asking the kubelet"), "{}", answer.stderr);
    member.del("marked", &uid);
    member.assert_clean();
}

fn checkpoint() {
    let member = rig();
    let uid = member.pod("a", &[(crate::api::NETWORKS, "vf")]);
    allocate_uid(&member.node, &[(&uid, &["v7"])]);
    member.call("ADD", "a", &uid).run().ok();
    assert_eq!(device("a", "net1"), "v7");
    member.del("a", &uid);
    member.assert_clean();
}

/// A pod that names a claim, and that claim as a scheduler leaves it. `device`: of the slice.
fn claim(member: &Member, name: &str, device: &str) {
    let claims = format!("/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims", member.cluster.namespace());
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "vf.test"}}]);
    member.cluster.create(
        &claims,
        &json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": name}, "spec": {"devices": {"requests": requests}}}),
    );
    if !device.is_empty() {
        let results = json!([{"request": "r", "driver": driver(member), "pool": "node", "device": device}]);
        let status = json!({"status": {"allocation": {"devices": {"results": results}}}});
        member.cluster.patch(&format!("{claims}/{name}/status"), &status);
    }
}

/// Slices are the whole cluster's: each case has a driver of its own.
fn driver(member: &Member) -> String {
    format!("{}.test", member.cluster.namespace())
}

fn slice(member: &Member, devices: &[(&str, &str, &str)]) {
    slice_of(member, (1, 1), devices);
}

/// One of so many slices of its pool.
fn slice_of(member: &Member, (number, count): (u32, u32), devices: &[(&str, &str, &str)]) {
    let one = |(name, id, resource): &(&str, &str, &str)| {
        json!({"name": name, "attributes": {
            "k8s.cni.cncf.io/deviceID": {"string": id}, "k8s.cni.cncf.io/resourceName": {"string": resource}}})
    };
    let devices: Vec<Value> = devices.iter().map(one).collect();
    member.cluster.create("/apis/resource.k8s.io/v1/resourceslices", &json!({"apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice", "metadata": {"name": format!("node-{number}-{}", driver(member))}, "spec": {"driver": driver(member),
        "nodeName": "node", "pool": {"name": "node", "generation": 1, "resourceSliceCount": count}, "devices": devices}}));
}

/// A pod with these claims, of which `template` is one that a template made, and `made` its name; its UID.
fn claiming(member: &Member, name: &str, networks: &str, claims: &[&str], made: &str) -> String {
    member.node.bed.pod(name);
    let named = |claim: &&str| match *claim {
        "template" => json!({"name": claim, "resourceClaimTemplateName": "any"}),
        _ => json!({"name": claim, "resourceClaimName": claim}),
    };
    let claims: Vec<Value> = claims.iter().map(named).collect();
    let uid =
        member.cluster.create_pod(&json!({"metadata": {"name": name, "annotations": {crate::api::NETWORKS: networks}},
        "spec": {"resourceClaims": claims, "containers": [{"name": "main", "image": "none"}]}}));
    if !made.is_empty() {
        let status = json!({"resourceClaimStatuses": [{"name": "template", "resourceClaimName": made}]});
        let path = format!("/api/v1/namespaces/{}/pods/{name}/status", member.cluster.namespace());
        member.cluster.patch(&path, &json!({"status": status}));
    }
    uid
}

fn claimed() {
    let member = rig();
    let _kubelet = serve(&member, State::Well, &[("a", &[])]);
    slice(&member, &[("vf0", "0000:01:10.0", RESOURCE), ("vf1", "0000:01:10.2", RESOURCE), ("vf2", "x", "other/vf")]);
    claim(&member, "named", "vf1");
    claim(&member, "made", "vf0");
    claim(&member, "other", "vf2");
    // What a template made stands in the status.
    let uid = claiming(&member, "a", "vf,vf", &["named", "other", "template"], "made");
    member.call("ADD", "a", &uid).run().ok();
    assert_eq!([device("a", "net1"), device("a", "net2")], ["0000:01:10.0", "0000:01:10.2"]);
    let asked = member.asked("GET");
    assert_eq!(asked.len(), 6, "the pod, a definition, three claims, one driver's slices: {asked:?}");
    // The claim is shared, the device is not.
    let other = claiming(&member, "b", "vf", &["named"], "");
    member.call("ADD", "b", &other).run().fails(11, "is held by pod");
    member.del("a", &uid);
    member.call("ADD", "b", &other).run().ok();
    member.del("b", &other);
    member.assert_clean();
}

/// The scheduler makes a claim for an extended resource that a driver serves, and says in the pod's status which of its requests it is.
fn extended() {
    let member = rig();
    let _kubelet = serve(&member, State::Well, &[("a", &[]), ("b", &[]), ("c", &[])]);
    slice(&member, &[("vf0", "0000:01:10.0", RESOURCE), ("vf1", "0000:01:10.2", "b/gpu")]);
    claim(&member, "made", "vf0");
    claim(&member, "strange", "vf1");
    let pod = |name: &str, claim: &str, request: &str| {
        member.node.bed.pod(name);
        let container = json!({"name": "main", "image": "none", "resources": {"limits": {RESOURCE: "1"}}});
        let uid =
            member.cluster.create_pod(&json!({"metadata": {"name": name, "annotations": {crate::api::NETWORKS: "vf"}},
            "spec": {"containers": [container]}}));
        let mapping = json!({"containerName": "main", "resourceName": RESOURCE, "requestName": request});
        let status = json!({"extendedResourceClaimStatus": {"resourceClaimName": claim, "requestMappings": [mapping]}});
        let path = format!("/api/v1/namespaces/{}/pods/{name}/status", member.cluster.namespace());
        let kept = member.cluster.patch(&path, &json!({"status": status}));
        assert_eq!(kept["status"]["extendedResourceClaimStatus"]["resourceClaimName"], claim, "the server serves it");
        uid
    };
    let uid = pod("a", "made", "r");
    member.call("ADD", "a", &uid).run().ok();
    assert_eq!(device("a", "net1"), "0000:01:10.0");
    member.del("a", &uid);
    for (name, claim, request, told) in [
        ("b", "made", "other", "claim made has no request other"),
        ("c", "strange", "r", "device vf1 is of resource b/gpu, and not of"),
    ] {
        let uid = pod(name, claim, request);
        member.call("ADD", name, &uid).run().fails(11, told);
        member.del(name, &uid);
    }
    member.assert_clean();
}

/// A driver publishes the slices of a pool one after the other.
fn half_published() {
    let member = rig();
    let _kubelet = serve(&member, State::Well, &[("a", &[])]);
    slice_of(&member, (1, 2), &[("vf0", "0000:01:10.0", RESOURCE)]);
    claim(&member, "named", "vf1");
    let uid = claiming(&member, "a", "vf", &["named"], "");
    member.call("ADD", "a", &uid).run().fails(11, "1 of 2 resource slices are there");
    assert_eq!(member.node.bed.links("a"), ["lo"]);
    slice_of(&member, (2, 2), &[("vf1", "0000:01:10.2", RESOURCE)]);
    member.call("ADD", "a", &uid).run().ok();
    assert_eq!(device("a", "net1"), "0000:01:10.2");
    member.del("a", &uid);
    member.assert_clean();
}

fn doubtful() {
    let member = rig();
    let _kubelet = serve(&member, State::Well, &[("a", &[]), ("b", TWO), ("c", &[])]);
    claim(&member, "empty", "");
    let uid = claiming(&member, "a", "vf", &["empty"], "");
    member.call("ADD", "a", &uid).run().fails(11, "claim empty has no device allocation");
    assert_eq!(member.node.bed.links("a"), ["lo"]);
    // Who has its device does not care; neither does who needs none.
    let uid = claiming(&member, "b", "vf", &["empty"], "");
    member.call("ADD", "b", &uid).run().ok();
    member.del("b", &uid);
    member.cluster.fail("GET", "resourceclaims", 9, Fault::Status(403));
    let uid = claiming(&member, "c", "marked", &["empty"], "");
    let answer = member.call("ADD", "c", &uid).run();
    assert!(answer.succeeded() && answer.stderr.contains("forbids it (403)"), "{}", answer.stderr);
    member.del("c", &uid);
    member.assert_clean();
}
