//! The page "how to use" of Multus, its sections beside the forms of the annotation: the node's file, the role, what a pod shows
//! afterwards, the default route, what its installer writes, and devices of claims.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{Lab, lab};
use crate::api::{Member, NETWORKS};
use crate::case::Case;
use crate::kube::Login;
use crate::need::Need;

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("examples::how_to_use_set_up_conf_file", needs, conf_file),
        Case::new("examples::how_to_use_service_account_role_and_kubeconfig", needs, role),
        Case::new("examples::how_to_use_verifying_pod_network", needs, verifying),
        Case::new("examples::how_to_use_default_route_for_one_attachment", needs, default_route),
        Case::new("examples::how_to_use_entrypoint_parameters", needs, entrypoint),
        Case::new("examples::how_to_use_dynamic_resource_allocation", needs, claims),
    ]
}

/// Whatever is awaited comes at once, or something is very wrong.
const LIMIT: Duration = Duration::from_secs(60);

/// What flannel does: it asks its own daemon's file for the subnet, and has a bridge made of its `delegate`.
const FLANNEL: &str = r#"conf=$(cat)
printf '%s' "$conf" >"/run/scratch/flannel-$CNI_COMMAND"
. /run/flannel/subnet.env
printf '%s' "$conf" | jq --arg subnet "$FLANNEL_SUBNET" '{cniVersion: "0.3.1", name, type: "bridge", bridge: "cni0",
  ipam: {type: "host-local", subnet: $subnet, routes: [{dst: "10.244.0.0/16"}]}} + .delegate' |
  CNI_PATH=/run/cni/plexus /run/cni/plexus/bridge"#;

/// `00-multus.conf` with flannel among the delegates, and flannel's own file as the sign that it is ready.
fn conf_file() {
    let mut member = Member::new();
    let kubeconfig = member.node.conf["kubeconfig"].clone();
    member.node.script("flannel", FLANNEL);
    member.node.conf = json!({"name": "multus-cni-network", "type": "multus", "binDir": "/run/cni/plexus",
        "readinessindicatorfile": "/run/flannel/subnet.env", "readinessWaitMs": 0,
        "delegates": [{"NOTE1": "a remark", "NOTE2": "another one", "type": "flannel", "name": "flannel.1",
            "delegate": {"isDefaultGateway": true}}],
        "kubeconfig": kubeconfig});
    let (uid, answer) = member.add("pod", "green");
    answer.fails(11, "still waiting for readinessindicatorfile @ /run/flannel/subnet.env");
    assert_eq!(member.node.bed.links("pod"), ["lo"]);
    fs::create_dir_all("/run/flannel").unwrap();
    fs::write("/run/flannel/subnet.env", "FLANNEL_SUBNET=10.244.2.0/24\n").unwrap();
    member.call("ADD", "pod", &uid).run().ok();
    assert_eq!(member.node.addresses("pod", "eth0"), ["10.244.2.2/24"]);
    let routes = member.node.bed.ip("-n pod route show");
    assert!(routes.contains("default via 10.244.2.1 dev eth0"), "{routes}");
    let sent: Value = serde_json::from_str(&fs::read_to_string("/run/scratch/flannel-ADD").unwrap()).unwrap();
    assert_eq!((&sent["NOTE1"], &sent["delegate"]), (&json!("a remark"), &json!({"isDefaultGateway": true})));
    let status = member.cluster.network_status("pod");
    let of = |index: usize| {
        (status[index]["name"].clone(), status[index]["interface"].clone(), status[index]["ips"].clone())
    };
    assert_eq!(
        of(0),
        (json!("flannel.1"), json!("eth0"), json!(["10.244.2.2"])),
        "the first delegate is the pod's address"
    );
    assert_eq!(of(1).1, "net1");
    member.del("pod", &uid);
    assert!(Path::new("/run/scratch/flannel-DEL").exists());
    member.assert_clean();
}

/// The page's role as objects of this case: all of the definitions' group, and to read and put pods and their status.
fn grant(member: &Member) -> Login {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let cluster = &member.cluster;
    let (namespace, role) = (cluster.namespace(), format!("multus-{}", cluster.namespace()));
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    cluster.create(&accounts, &json!({"metadata": {"name": "multus"}}));
    let rules = json!([{"apiGroups": ["k8s.cni.cncf.io"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["get", "update"]}]);
    cluster.create(&format!("{rbac}/clusterroles"), &json!({"metadata": {"name": role}, "rules": rules}));
    cluster.create(
        &format!("{rbac}/clusterrolebindings"),
        &json!({"metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "multus", "namespace": namespace}]}),
    );
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = cluster.create(&format!("{accounts}/multus/token"), &request);
    let token = made["status"]["token"].as_str().unwrap().to_owned();
    let user = format!("system:serviceaccount:{namespace}:multus");
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": user,
        "resourceAttributes": {"verb": "update", "resource": "pods", "subresource": "status", "namespace": namespace}}});
    // The server's authorizer learns of a role a moment after it is made.
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let may = || cluster.create(path, &review)["status"]["allowed"] == true;
    assert!((0..10_000).any(|_| may()), "the role never counts");
    Login::Token(token)
}

/// Who was given Multus' role may neither patch a status nor make events: the pod is attached, and has its status.
fn role() {
    let mut member = Member::new();
    let login = grant(&member);
    member.node.conf["kubeconfig"] = json!(member.cluster.kubeconfig(&member.node.bed, &login));
    let (uid, answer) = member.add("pod", "blue");
    answer.ok();
    let seen = member.cluster.seen();
    let of =
        |method: &str, part: &str| seen.iter().filter(|one| one.method == method && one.path.contains(part)).count();
    assert_eq!(
        (of("GET", "/network-attachment-definitions/"), of("PATCH", "/status"), of("PUT", "/status")),
        (1, 1, 1),
        "{seen:?}"
    );
    assert_eq!(of("GET", "/pods/pod"), 2, "once to be attached, once to be put: {seen:?}");
    assert_eq!(member.node.addresses("pod", "net1"), ["10.2.0.2/24"]);
    let status = member.cluster.network_status("pod");
    assert_eq!((&status[1]["interface"], &status[1]["ips"]), (&json!("net1"), &json!(["10.2.0.2"])));
    assert_eq!(member.cluster.events(), []);
    member.del("pod", &uid);
    assert_eq!(member.cluster.seen(), [], "DEL asks nobody");
    member.assert_clean();
}

/// What `ip -d address` shows in the last of the page's pods.
fn verifying() {
    let lab = lab();
    let (member, bed) = (&lab.member, &lab.member.node.bed);
    let networks = json!([{"name": "macvlan-conf-1", "interface": "macvlan1"}, {"name": "macvlan-conf-2"}]);
    let (uid, answer) = member.add("pod-case-06", &networks.to_string());
    answer.ok();
    let shown: Value = serde_json::from_str(&bed.ip("-n pod-case-06 -d -j addr show")).unwrap();
    let names: Vec<&str> = shown.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap()).collect();
    assert_eq!(names, ["lo", "eth0", "macvlan1", "net2"]);
    let parent: Value = serde_json::from_str(&bed.ip("-j link show dev eth1")).unwrap();
    let status = member.cluster.network_status("pod-case-06");
    for (index, address) in [(2, "10.10.1.20"), (3, "11.10.1.20")] {
        let link = &shown[index];
        let flags: Vec<&str> = link["flags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(["BROADCAST", "MULTICAST", "UP"].iter().all(|flag| flags.contains(flag)), "{link}");
        assert_eq!((&link["link_index"], &link["mtu"]), (&parent[0]["ifindex"], &parent[0]["mtu"]));
        assert_eq!(
            (&link["linkinfo"]["info_kind"], &link["linkinfo"]["info_data"]["mode"]),
            (&json!("macvlan"), &json!("bridge"))
        );
        let four = link["addr_info"].as_array().unwrap().iter().find(|one| one["family"] == "inet").unwrap();
        assert_eq!(
            (&four["local"], &four["prefixlen"], &four["scope"]),
            (&json!(address), &json!(16), &json!("global"))
        );
        let told = &status[index - 1];
        assert_eq!(
            (&told["interface"], &told["mac"]),
            (&link["ifname"], &link["address"]),
            "the status is the kernel's truth"
        );
        assert_eq!(told["ips"], json!([address]));
    }
    member.del("pod-case-06", &uid);
    member.assert_clean();
}

/// The pod's way out is the network that it names, and what the default network reaches it still reaches there.
fn default_route() {
    let mut member = Member::new();
    member.node.bed.parent("host0");
    let ipam = json!({"type": "host-local", "subnet": "10.244.0.0/24", "routes": [{"dst": "10.244.0.0/16"}]});
    member.node.conf["delegates"] = json!([{"cniVersion": "0.3.1", "name": "cluster", "type": "bridge", "bridge": "cni0",
        "isDefaultGateway": true, "ipam": ipam}]);
    let subnet = |rest: &str| format!("192.168.2.{rest}");
    member.cluster.definition(
        "macvlan-conf",
        &json!({"cniVersion": "0.3.0", "type": "macvlan", "master": "host0", "mode": "bridge", "ipam": {"type": "host-local",
            "subnet": subnet("0/24"), "rangeStart": subnet("200"), "rangeEnd": subnet("216"),
            "routes": [{"dst": "0.0.0.0/0"}], "gateway": subnet("1")}}),
    );
    let (uid, answer) = member.add("samplepod", r#"[{"name": "macvlan-conf", "default-route": ["192.168.2.1"]}]"#);
    answer.ok();
    let shown = member.node.bed.ip("-n samplepod route show");
    let routes: Vec<&str> = shown.lines().map(str::trim).collect();
    let begins = |what: &str| routes.iter().filter(|route| route.starts_with(what)).count();
    assert_eq!(begins("default"), 1, "{shown}");
    assert_eq!(begins("default via 192.168.2.1 dev net1"), 1, "{shown}");
    assert_eq!(begins("10.244.0.0/24 dev eth0"), 1, "{shown}");
    assert_eq!(begins("10.244.0.0/16 via 10.244.0.1 dev eth0"), 1, "{shown}");
    let status = member.cluster.network_status("samplepod");
    assert_eq!(status[1]["default-route"], json!(["192.168.2.1"]));
    member.del("samplepod", &uid);
    member.assert_clean();
}

/// The configuration that `thin_entrypoint` makes of these words, in a pod whose service account has Multus' role.
fn made_of(lab: &Lab, words: &[&str]) -> Value {
    let Login::Token(token) = grant(&lab.member) else { panic!("it is a token") };
    let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
    command.arg("thin-entrypoint").args(words).envs(lab.member.cluster.service_account(&token));
    let mut child = command.spawn().unwrap();
    let file = Path::new("/run/scratch/net.d/00-0-plexus.conflist");
    let begin = Instant::now();
    while !file.exists() {
        let is_there = child.try_wait().unwrap().is_none() && begin.elapsed() < LIMIT;
        assert!(is_there, "no configuration comes");
        std::thread::yield_now();
    }
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    let mut list: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let mut conf = list["plugins"][0].take();
    for key in ["cniVersion", "name"] {
        conf[key] = list[key].take();
    }
    conf
}

/// The entrypoint's parameters, as a DaemonSet of Multus gives them: the node's network whole among the delegates, its kubeconfig the pod's.
fn entrypoint() {
    let mut lab = lab();
    let namespace = lab.member.cluster.namespace().to_owned();
    let mut primary = lab.member.node.conf["delegates"][0].clone();
    primary["cniVersion"] = json!("1.0.0");
    lab.member.node.bed.file("net.d/10-cluster.conf", &primary.to_string());
    let global = format!("--global-namespaces=default,{},bar", lab.other);
    let words = [
        "--cni-conf-dir=/run/scratch/net.d",
        "--cni-version=1.0.0",
        "--multus-conf-file=auto",
        "--skip-multus-binary-copy=true",
        "--multus-cni-conf-dir=/host/run/scratch/conf",
        "--multus-kubeconfig-file-host=/run/scratch/net.d/multus.d/multus.kubeconfig",
        "--multus-master-cni-file-name=10-cluster.conf",
        "--multus-autoconfig-dir=/run/scratch/net.d",
        "--namespace-isolation=true",
        &global,
        "--multus-log-to-stderr=false",
        "--multus-log-level=verbose",
        "--multus-log-file=/run/scratch/log/multus.log",
        "--readiness-indicator-file=/run/scratch/ready",
        "--additional-bin-dir=/run/cni/plexus",
    ];
    lab.member.node.conf = made_of(&lab, &words);
    lab.member.node.bed.file("ready", "");
    lab.shows(
        &format!("macvlan-conf-2,{}/macvlan-conf-3", lab.other),
        &[("net1", "11.10.1.20/16"), ("net2", "12.10.1.20/16")],
    );
    let third = lab.member.cluster.another_namespace();
    let (_, answer) = lab.member.add("pod", &format!("{third}/macvlan-conf-3"));
    answer.fails(7, "namespace isolation enabled");
    let log = fs::read_to_string("/run/scratch/log/multus.log").unwrap();
    assert!(log.contains(&format!("{namespace}:pod:")) && log.contains("[verbose] Del: "), "{log}");
}

/// A claim made of a template, the device that a driver published, and a definition of the resource's name.
fn claims() {
    let mut member = Member::new();
    let cluster = &member.cluster;
    let driver = format!("sriov.{}.example", cluster.namespace());
    let resource = "intel.com/sriov_vf";
    member.node.script(
        "ib-sriov",
        r#"cat >"/run/scratch/sriov-$CNI_COMMAND"
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.0.0", "interfaces": [], "ips": [{"address": "10.0.2.9/24"}]}'"#,
    );
    let conf = json!({"cniVersion": "1.0.0", "name": "sriov-net", "type": "ib-sriov", "vlan": 0, "spoofchk": "on", "trust": "on",
        "vlanQoS": 0, "logLevel": "info", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.2.0/24"}]]}});
    let annotation = [("k8s.v1.cni.cncf.io/resourceName", resource)];
    cluster.definition_in(cluster.namespace(), "sriov-net", &conf.to_string(), &annotation);
    let api = "/apis/resource.k8s.io/v1";
    let namespaced = format!("{api}/namespaces/{}", cluster.namespace());
    let requests = json!({"devices": {"requests": [{"name": "vf", "exactly": {"deviceClassName": driver}}]}});
    cluster.create(
        &format!("{api}/deviceclasses"),
        &json!({"metadata": {"name": driver}, "spec": {"selectors": [{"cel": {"expression": format!("device.driver == '{driver}'")}}]}}),
    );
    cluster.create(
        &format!("{namespaced}/resourceclaimtemplates"),
        &json!({"metadata": {"name": "sriov-template"}, "spec": {"spec": requests}}),
    );
    let attributes = json!({"k8s.cni.cncf.io/deviceID": {"string": "0000:08:00.3"}, "k8s.cni.cncf.io/resourceName": {"string": resource}});
    cluster.create(
        &format!("{api}/resourceslices"),
        &json!({"metadata": {"name": driver}, "spec": {"driver": driver, "nodeName": "node",
            "pool": {"name": "node", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "vf3", "attributes": attributes}]}}),
    );
    // What the server's controllers do: a claim of the template, a device for it, its name in the pod's status.
    cluster.create(
        &format!("{namespaced}/resourceclaims"),
        &json!({"metadata": {"name": "sriov-pod-sriov-x7"}, "spec": requests}),
    );
    let results = json!([{"request": "vf", "driver": driver, "pool": "node", "device": "vf3"}]);
    cluster.patch(
        &format!("{namespaced}/resourceclaims/sriov-pod-sriov-x7/status"),
        &json!({"status": {"allocation": {"devices": {"results": results}}}}),
    );
    member.node.bed.pod("sriov-pod");
    let uid = cluster.create_pod(&json!({"metadata": {"name": "sriov-pod", "annotations": {NETWORKS: "sriov-net"}},
        "spec": {"resourceClaims": [{"name": "sriov", "resourceClaimTemplateName": "sriov-template"}],
            "containers": [{"name": "with-resource", "image": "none", "resources": {"claims": [{"name": "sriov"}]}}]}}));
    let claimed =
        json!({"status": {"resourceClaimStatuses": [{"name": "sriov", "resourceClaimName": "sriov-pod-sriov-x7"}]}});
    cluster.patch(&format!("/api/v1/namespaces/{}/pods/sriov-pod/status", cluster.namespace()), &claimed);
    member.node.conf["kubeletDir"] = json!("/run/scratch/kubelet");
    member.call("ADD", "sriov-pod", &uid).run().ok();
    let sent: Value = serde_json::from_str(&fs::read_to_string("/run/scratch/sriov-ADD").unwrap()).unwrap();
    assert_eq!((&sent["deviceID"], &sent["pciBusID"]), (&json!("0000:08:00.3"), &json!("0000:08:00.3")));
    assert_eq!((&sent["spoofchk"], &sent["trust"]), (&json!("on"), &json!("on")));
    assert_eq!(
        member.cluster.network_status("sriov-pod")[1]["name"],
        format!("{}/sriov-net", member.cluster.namespace())
    );
    member.del("sriov-pod", &uid);
    let sent: Value = serde_json::from_str(&fs::read_to_string("/run/scratch/sriov-DEL").unwrap()).unwrap();
    assert_eq!(sent["deviceID"], "0000:08:00.3");
    member.assert_clean();
}
