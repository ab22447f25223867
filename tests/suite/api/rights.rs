//! `deployments/base/rbac.yaml` on a real API server: who has it can do all that plexus asks, and nothing else. It knows the file, not
//! who is given it.

use super::*;

const ROLES: &str = include_str!("../../../deployments/base/rbac.yaml");
const GROUP: &str = "/apis/rbac.authorization.k8s.io/v1";

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("api::rights::the_role_is_enough_for_a_pod_with_status_and_events", needs, enough),
        Case::new("api::rights::the_role_is_no_more_than_that", needs, no_more),
    ]
}

/// The objects of the file under names of this case, in its namespace; the service account's name.
fn create(cluster: &Cluster) -> String {
    let namespace = cluster.namespace();
    let mut account = String::new();
    for mut object in plexus::yaml::documents(ROLES).unwrap() {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let own = format!("{name}-{namespace}");
        match object["kind"].as_str().unwrap() {
            "ServiceAccount" => {
                account.clone_from(&name);
                object["metadata"]["namespace"] = json!(namespace);
                cluster.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &object);
            }
            "ClusterRole" => {
                object["metadata"]["name"] = json!(own);
                cluster.create(&format!("{GROUP}/clusterroles"), &object);
            }
            "ClusterRoleBinding" => {
                object["metadata"]["name"] = json!(own);
                object["roleRef"]["name"] = json!(own);
                assert_eq!(object["subjects"][0]["kind"], "ServiceAccount");
                object["subjects"][0]["namespace"] = json!(namespace);
                cluster.create(&format!("{GROUP}/clusterrolebindings"), &object);
            }
            other => panic!("a {other} in deployments/base/rbac.yaml"),
        }
    }
    account
}

fn may(cluster: &Cluster, account: &str, verb: &str, group: &str, resource: &str) -> bool {
    let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": format!("system:serviceaccount:{}:{account}", cluster.namespace()),
        "resourceAttributes": {"verb": verb, "group": group, "resource": resource, "subresource": part,
            "namespace": cluster.namespace()}}});
    cluster.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review)["status"]["allowed"] == true
}

/// The server's authorizer learns of a role a moment after it is made.
fn await_rights(cluster: &Cluster, account: &str) {
    let ready = || may(cluster, account, "get", "", "pods") && may(cluster, account, "create", "", "events");
    assert!((0..10_000).any(|_| ready()), "the role never counts");
}

fn enough() {
    let mut member = Member::new();
    let account = create(&member.cluster);
    await_rights(&member.cluster, &account);
    let namespace = member.cluster.namespace();
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made =
        member.cluster.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"), &request);
    let login = Login::Token(made["status"]["token"].as_str().unwrap().to_owned());
    member.node.conf["kubeconfig"] = json!(member.cluster.kubeconfig(&member.node.bed, &login));
    let (uid, answer) = member.add("a", "blue,green");
    answer.ok();
    assert!(!answer.stderr.contains("forbid"), "{}", answer.stderr);
    assert_eq!(member.cluster.network_status("a").as_array().unwrap().len(), 3);
    assert_eq!(member.asked("PATCH"), ["a/status"], "the status is patched, and not put");
    assert_eq!(member.cluster.events().iter().filter(|(reason, _)| reason == "AddedInterface").count(), 3);
    member.del("a", &uid);
    // A failure that is told again is counted.
    let (uid, answer) = member.add("b", "nowhere");
    refused(&answer, 7);
    refused(&member.call("ADD", "b", &uid).run(), 7);
    let list = member.cluster.get(&format!("/api/v1/namespaces/{}/events", member.cluster.namespace()));
    let counts: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|event| event["count"].as_i64().unwrap()).collect();
    assert_eq!((counts.iter().max(), counts.len()), (Some(&2), 4), "{list}");
    member.assert_clean();
}

fn no_more() {
    let member = Member::new();
    let account = create(&member.cluster);
    await_rights(&member.cluster, &account);
    let all = [
        ("", "pods", "get list watch"),
        ("", "pods/status", "patch"),
        ("", "events", "create patch"),
        ("k8s.cni.cncf.io", "network-attachment-definitions", "get list watch"),
        ("resource.k8s.io", "resourceclaims", "get"),
        ("resource.k8s.io", "resourceslices", "list"),
        ("", "secrets", ""),
        ("", "configmaps", ""),
        ("", "nodes", ""),
        ("", "pods/exec", ""),
        ("", "serviceaccounts/token", ""),
        ("rbac.authorization.k8s.io", "clusterroles", ""),
    ];
    for (group, resource, verbs) in all {
        let verbs: Vec<&str> = verbs.split_whitespace().collect();
        for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"] {
            let is_allowed = may(&member.cluster, &account, verb, group, resource);
            assert_eq!(is_allowed, verbs.contains(&verb), "{verb} {group}/{resource}");
        }
    }
}
