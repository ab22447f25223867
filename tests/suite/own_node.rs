//! `deployments/base/own-node.yaml` on the real API server, with tokens as a pod's service account has them: a node's plexus writes what
//! came of its own node's pods, and nothing else of any pod.

use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::case::Case;
use crate::kube::Cluster;
use crate::need::Need;
use crate::testbed::Testbed;

const FILES: [&str; 3] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/base/rbac.yaml"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/base/own-node.yaml"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/certificates.yaml"),
];
const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
const RIGHTS: &str = "/apis/rbac.authorization.k8s.io/v1";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1";
/// The server hears of a new policy within a second or two; each question takes milliseconds.
pub(crate) const ASKS_MAX: usize = 5000;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("deploy::own_node::only_its_own_pods_statuses_are_written", &[Need::ApiServer], statuses),
        Case::new("deploy::own_node::nor_by_a_certificate_of_a_node", &[Need::ApiServer], certificates),
        Case::new("deploy::own_node::nothing_else_of_a_pod_is_written", &[Need::ApiServer], nothing_else),
    ]
}

/// Makes the objects of files, with the namespace in the place of kube-system, and under names of the case's own where they have no namespace.
/// Users of certificates have it in their names: others' are other cases'.
pub(crate) fn applied(cluster: &Cluster, files: &[&str]) {
    let namespace = cluster.namespace();
    let text = |file: &&str| fs::read_to_string(file).unwrap().replace("kube-system", namespace);
    let texts =
        files.iter().map(text).map(|text| text.replace("system:multus:", &format!("system:multus:{namespace}.")));
    for mut object in texts.flat_map(|text| plexus::yaml::documents(&text).unwrap()) {
        let own = |name: &Value| json!(format!("{}-{namespace}", name.as_str().unwrap()));
        let kind = object["kind"].as_str().unwrap().to_owned();
        if kind != "ServiceAccount" {
            object["metadata"]["name"] = own(&object["metadata"]["name"]);
        }
        let path = match kind.as_str() {
            "ServiceAccount" => format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
            "ClusterRole" => format!("{RIGHTS}/clusterroles"),
            "ClusterRoleBinding" => {
                object["roleRef"]["name"] = own(&object["roleRef"]["name"]);
                format!("{RIGHTS}/clusterrolebindings")
            }
            "ValidatingAdmissionPolicy" => format!("{POLICIES}/validatingadmissionpolicies"),
            "ValidatingAdmissionPolicyBinding" => {
                object["spec"]["policyName"] = own(&object["spec"]["policyName"]);
                format!("{POLICIES}/validatingadmissionpolicybindings")
            }
            // Nothing here would start its pods.
            "Deployment" => continue,
            other => panic!("a {other}"),
        };
        cluster.create(&path, &object);
    }
}

/// A token of the service account, as a pod of this node has it; or of no pod.
pub(crate) fn token(cluster: &Cluster, node: Option<&str>) -> String {
    token_of(cluster, "plexus", node)
}

/// The same of any account.
pub(crate) fn token_of(cluster: &Cluster, account: &str, node: Option<&str>) -> String {
    let namespace = cluster.namespace();
    let mut spec = json!({});
    if let Some(node) = node {
        let name = format!("plexus-of-{node}");
        let pod = json!({"metadata": {"name": name, "namespace": namespace}, "apiVersion": "v1", "kind": "Pod",
            "spec": {"nodeName": node, "serviceAccountName": account}});
        let uid = cluster.create_pod(&pod);
        spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    }
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    cluster.create(&path, &request)["status"]["token"].as_str().unwrap().to_owned()
}

/// A cluster with the role and the policy, under names of the case's own.
struct Guarded {
    _bed: Testbed,
    cluster: Arc<Cluster>,
}

impl Guarded {
    fn new() -> Self {
        let bed = Testbed::new();
        let cluster = Cluster::of(&bed);
        applied(&cluster, &FILES);
        let guarded = Self { _bed: bed, cluster };
        guarded.cluster.pod("probe", &[]);
        // In force when somebody without a node is refused.
        let token = token(&guarded.cluster, None);
        let refused = || guarded.write(&token, "probe", &json!({"metadata": {"annotations": {STATUS: "x"}}})).1;
        assert!((0..ASKS_MAX).any(|_| refused().contains("own node")), "the policy is never in force: {}", refused());
        guarded
    }

    /// A patch of a pod's status; the code, and what the server says.
    fn write(&self, token: &str, pod: &str, change: &Value) -> (u16, String) {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/status", self.cluster.namespace());
        let (code, answer) =
            self.cluster.ask_as(token, "PATCH", &path, Some(("application/strategic-merge-patch+json", change)));
        (code, answer["message"].as_str().unwrap_or_default().to_owned())
    }
}

fn statuses() {
    let guarded = Guarded::new();
    let status = json!({"metadata": {"annotations": {STATUS: "[]"}}});
    guarded.cluster.pod("here", &[("kept", "as it is")]);
    let elsewhere = json!({"metadata": {"name": "there", "namespace": guarded.cluster.namespace()}, "apiVersion": "v1", "kind": "Pod",
        "spec": {"nodeName": "other"}});
    guarded.cluster.create_pod(&elsewhere);
    let own = token(&guarded.cluster, Some("node"));
    assert_eq!(guarded.write(&own, "here", &status), (200, String::new()));
    let (code, said) = guarded.write(&own, "there", &status);
    assert!(code == 403 && said.contains("on the node other") && said.contains("of the node node"), "{code}: {said}");
    let (code, said) = guarded.write(&token(&guarded.cluster, Some("other")), "here", &status);
    assert!(code == 403 && said.contains("on the node node") && said.contains("of the node other"), "{code}: {said}");
    let (code, said) = guarded.write(&token(&guarded.cluster, None), "here", &status);
    assert!(code == 403 && said.contains("the token is of none"), "{code}: {said}");
    // Others are not looked at.
    guarded.cluster.patch(
        &format!("/api/v1/namespaces/{}/pods/there/status", guarded.cluster.namespace()),
        &json!({"status": {"message": "by the kubelet"}}),
    );
}

/// Whose name says the node.
fn certificates() {
    let guarded = Guarded::new();
    let cluster = &guarded.cluster;
    cluster.pod("here", &[("kept", "as it is")]);
    let path = format!("/api/v1/namespaces/{}/pods/here/status", cluster.namespace());
    let write = |node: &str, change: &Value| {
        let user = format!("system:multus:{}.{node}", cluster.namespace());
        let admin = format!("Bearer {}", crate::kube::login::ADMIN);
        let who =
            [("authorization", admin.as_str()), ("impersonate-user", &user), ("impersonate-group", "system:multus")];
        let (code, answer) = cluster.ask_by(&who, "PATCH", &path, Some(("application/merge-patch+json", change)));
        (code, answer["message"].as_str().unwrap_or_default().to_owned())
    };
    let status = json!({"metadata": {"annotations": {STATUS: "[]"}}});
    assert_eq!(write("node", &status), (200, String::new()));
    for node in ["other", "", "nod", "node1"] {
        let (code, said) = write(node, &status);
        assert!(
            code == 403 && said.contains("on the node node") && said.contains("the certificate is"),
            "{code}: {said}"
        );
    }
    let (code, said) = write("node", &json!({"status": {"podIPs": [{"ip": "10.0.0.1"}]}}));
    assert!(code == 403 && said.contains("nothing of the status"), "{code}: {said}");
}

fn nothing_else() {
    let guarded = Guarded::new();
    guarded.cluster.pod("a", &[("kept", "as it is")]);
    let own = token(&guarded.cluster, Some("node"));
    for (change, told) in [
        (json!({"metadata": {"annotations": {STATUS: "[]", "other": "x"}}}), "no other"),
        (json!({"metadata": {"annotations": {"kept": "changed"}}}), "no other"),
        (json!({"metadata": {"annotations": {"kept": null}}}), "no other"),
        (json!({"metadata": {"labels": {"app": "x"}}}), "labels"),
        (json!({"metadata": {"finalizers": ["example.org/x"]}}), "labels"),
        (json!({"status": {"phase": "Failed"}}), "nothing of the status"),
        (json!({"status": {"podIPs": [{"ip": "10.0.0.1"}]}}), "nothing of the status"),
    ] {
        let (code, said) = guarded.write(&own, "a", &change);
        assert!(code == 403 && said.contains(told), "{change}: {code}: {said}");
    }
    assert_eq!(guarded.write(&own, "a", &json!({"metadata": {"annotations": {STATUS: "[]"}}})).0, 200);
    assert_eq!(guarded.write(&own, "a", &json!({"metadata": {"annotations": {STATUS: null}}})).0, 200);
}
