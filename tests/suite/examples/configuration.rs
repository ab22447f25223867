//! The page "configuration" of Multus, option by option, where the annotation's forms do not show it already.

use std::fs;

use serde_json::{Value, json};

use super::{Lab, lab, macvlan};
use crate::api::{DEFAULT_NETWORK, Member, NETWORKS};
use crate::case::Case;
use crate::kube::login::TOKEN;
use crate::need::Need;
use crate::world;

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("examples::configuration_all_options_at_once", needs, everything),
        Case::new("examples::configuration_kubeconfig_of_the_page", needs, kubeconfig),
        Case::new("examples::configuration_readiness_indicator", needs, readiness),
        Case::new("examples::configuration_logging_to_stderr_and_file", needs, logging),
        Case::new("examples::configuration_logging_levels", needs, levels),
        Case::new("examples::configuration_logging_options", needs, options),
        Case::new("examples::configuration_isolation_lets_default_be_shared", needs, shared_default),
        Case::new("examples::configuration_isolation_usage", needs, isolation),
        Case::new("examples::configuration_namespaces_of_the_nodes_networks", needs, namespaces),
        Case::new("examples::configuration_default_network_in_pod_annotations", needs, pods_own),
        Case::new("examples::configuration_auxiliary_chain_of_tuning", needs, tuned),
        Case::new("examples::configuration_capabilities_of_the_runtime", needs, capabilities),
    ]
}

const LOG: &str = "/run/scratch/log/multus.log";

fn set(lab: &mut Lab, keys: Value) {
    let Value::Object(keys) = keys else { panic!("keys are an object") };
    lab.member.node.conf.as_object_mut().unwrap().extend(keys);
}

fn unset(lab: &mut Lab, key: &str) {
    lab.member.node.conf.as_object_mut().unwrap().remove(key);
}

/// The cluster's network as a file, with addresses of 10.20.0.0/24.
fn cluster_file(lab: &mut Lab, name: &str) -> String {
    let conf = json!({"cniVersion": "0.3.1", "name": "main", "type": "bridge", "bridge": "green0", "isDefaultGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.20.0.0/24"}});
    unset(lab, "delegates");
    lab.member.node.bed.file(name, &conf.to_string()).display().to_string()
}

fn logged() -> Vec<String> {
    fs::read_to_string(LOG).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Attaches a pod without a network of its own, and detaches it; what was said on standard error.
fn come_and_go(lab: &Lab, pod: &str) -> String {
    let uid = lab.member.pod(pod, &[]);
    let answer = lab.member.call("ADD", pod, &uid).run();
    answer.ok();
    lab.member.del(pod, &uid);
    answer.stderr
}

/// The page's first example, with the slip of its last key's name.
fn everything() {
    let mut lab = lab();
    let namespace = lab.member.cluster.namespace().to_owned();
    let path = cluster_file(&mut lab, "net.d/99-flannel.conf");
    lab.member.node.bed.file(
        "net.d/cni-chain-config/10-tuning.conf",
        r#"{"name": "mytuning", "type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}"#,
    );
    lab.member.cluster.definition("sidecar-crd", &macvlan(None, "13.10.0.0/16"));
    lab.member.cluster.definition("example-network", &macvlan(None, "14.10.0.0/16"));
    set(
        &mut lab,
        json!({"cniVersion": "0.3.1", "name": "node-cni-network", "type": "multus", "cniDir": "/var/lib/cni/multus",
            "logFile": LOG, "logLevel": "debug", "logOptions": {"maxAge": 5, "maxSize": 100, "maxBackups": 5, "compress": true},
            "capabilities": {"portMappings": true}, "namespaceIsolation": false, "clusterNetwork": path,
            "defaultNetworks": ["sidecar-crd", "example-network"], "systemNamespaces": ["kube-system", "admin"],
            "multusNamespace": namespace, "auxiliaryCNIChainName": "cni-chain-config", "allowTryDeleteOnErr": false}),
    );
    let (uid, answer) = lab.member.add("pod", "macvlan-conf-1");
    assert_eq!(answer.ok()["cniVersion"], "0.3.1");
    let bed = &lab.member.node.bed;
    assert_eq!(bed.links("pod"), ["lo", "eth0", "net1", "net2", "net3"]);
    for (ifname, address) in
        [("eth0", "10.20.0.2/24"), ("net1", "13.10.1.20/16"), ("net2", "14.10.1.20/16"), ("net3", "10.10.1.20/16")]
    {
        assert_eq!(lab.member.node.addresses("pod", ifname), [address], "{ifname}");
    }
    let filter = || fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/arp_filter").unwrap();
    assert_eq!(world::inside(&bed.netns("pod"), filter).trim(), "1");
    let status = lab.member.cluster.network_status("pod");
    let names: Vec<&str> = status.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    let own = |name: &str| format!("{namespace}/{name}");
    assert_eq!(names, ["main", &own("sidecar-crd"), &own("example-network"), &own("macvlan-conf-1")]);
    assert!(logged().iter().any(|line| line.contains("[verbose] Add: ")), "{:#?}", logged());
    lab.member.del("pod", &uid);
    lab.member.assert_clean();
}

/// A server that is trusted without a look; a name and a password are no login any more, and the server says so.
fn kubeconfig() {
    let mut lab = lab();
    let path = "/run/scratch/node-kubeconfig.yaml";
    let text = |user: &str| {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: local\n  cluster:\n    insecure-skip-tls-verify: true\n    \
             server: {}\ncontexts:\n- context:\n    cluster: local\n    user: admin\n  name: kubelet-context\n\
             current-context: kubelet-context\nusers:\n- name: admin\n  user:\n{user}",
            lab.member.cluster.address()
        )
    };
    let password = text("    password: admin\n    username: admin\n");
    let token = text(&format!("    token: {TOKEN}\n"));
    set(&mut lab, json!({"kubeconfig": path}));
    fs::write(path, password).unwrap();
    let (uid, answer) = lab.member.add("pod", "macvlan-conf-1");
    assert!(!answer.succeeded() && answer.stdout.contains("system:anonymous"), "{}", answer.stdout);
    assert_eq!(lab.member.node.bed.links("pod"), ["lo"]);
    fs::write(path, token).unwrap();
    lab.member.call("ADD", "pod", &uid).run().ok();
    assert_eq!(lab.member.node.addresses("pod", "net1"), ["10.10.1.20/16"]);
    lab.member.del("pod", &uid);
    lab.member.assert_clean();
}

/// An empty string is none; a file that is not there holds ADD up and nobody else; that it is there is all that matters.
fn readiness() {
    let mut lab = lab();
    set(&mut lab, json!({"readinessindicatorfile": ""}));
    come_and_go(&lab, "a");
    set(&mut lab, json!({"readinessindicatorfile": "/run/scratch/10-flannel.conflist", "readinessWaitMs": 0}));
    let (uid, answer) = lab.member.add("pod", "macvlan-conf-1");
    answer.fails(11, "still waiting for readinessindicatorfile @ /run/scratch/10-flannel.conflist");
    assert_eq!(lab.member.node.bed.links("pod"), ["lo"]);
    lab.member.cluster.seen();
    lab.member.del("pod", &uid);
    lab.member.node.bed.file("10-flannel.conflist", "");
    lab.member.call("ADD", "pod", &uid).run().ok();
    assert_eq!(lab.member.node.addresses("pod", "net1"), ["10.10.1.20/16"]);
    fs::remove_file("/run/scratch/10-flannel.conflist").unwrap();
    lab.member.del("pod", &uid);
    lab.member.assert_clean();
}

/// Standard error by default, as a line for each interface; not with `logToStderr: false`; a file beside either.
fn logging() {
    let mut lab = lab();
    let namespace = lab.member.cluster.namespace().to_owned();
    let added = format!("[verbose] Add: {namespace}:");
    set(&mut lab, json!({"logLevel": "verbose"}));
    assert!(come_and_go(&lab, "a").contains(&added));
    assert!(!fs::exists(LOG).unwrap());
    set(&mut lab, json!({"logFile": LOG}));
    assert!(come_and_go(&lab, "b").contains(&added));
    assert_eq!(logged().iter().filter(|line| line.contains(&added)).count(), 1, "{:#?}", logged());
    set(&mut lab, json!({"logToStderr": false}));
    assert_eq!(come_and_go(&lab, "c"), "");
    assert_eq!(logged().iter().filter(|line| line.contains(&added)).count(), 2, "{:#?}", logged());
    // What the page shows of a pod that names what it may not.
    set(&mut lab, json!({"namespaceIsolation": true, "logLevel": "error"}));
    let (_, answer) = lab.member.add("d", &format!("{}/macvlan-conf-3", lab.other));
    assert!(!answer.succeeded());
    let refusal = format!(
        "annotation violates permission, pod is in namespace {namespace} but refers to target namespace {}",
        lab.other
    );
    let line = logged().into_iter().find(|line| line.contains(&refusal)).unwrap_or_else(|| panic!("{:#?}", logged()));
    assert!(line.split_once(' ').unwrap().1.starts_with("[error] "), "{line}");
}

/// From the most to the least, and the least where nothing is said.
fn levels() {
    let mut lab = lab();
    set(&mut lab, json!({"logFile": LOG, "logToStderr": false}));
    let mut counts = Vec::new();
    for level in ["debug", "verbose", "error", "panic"] {
        set(&mut lab, json!({"logLevel": level}));
        drop(fs::remove_file(LOG));
        come_and_go(&lab, level);
        let (_, failed) = lab.member.add(&format!("{level}-2"), "nowhere");
        assert!(!failed.succeeded());
        let of = |name: &str| logged().iter().filter(|line| line.contains(name)).count();
        counts.push((of("[debug]") > 0, of("[verbose]") > 0, of("[error]") > 0));
    }
    let [debug, verbose, error, panic] = counts[..] else { panic!("four levels") };
    assert_eq!((debug, verbose), ((true, true, true), (false, true, true)));
    assert_eq!((error, panic), ((false, false, true), (false, false, false)));
    unset(&mut lab, "logLevel");
    come_and_go(&lab, "last");
    assert_eq!(logged(), Vec::<String>::new(), "panic is the default");
}

/// A full file is put aside, packed, and so many are kept.
fn options() {
    let mut lab = lab();
    let options = json!({"maxAge": 5, "maxSize": 1, "maxBackups": 2, "compress": false});
    set(&mut lab, json!({"logFile": LOG, "logLevel": "verbose", "logToStderr": false, "logOptions": options}));
    fs::create_dir_all("/run/scratch/log").unwrap();
    for pod in ["a", "b", "c", "d"] {
        fs::write(LOG, "x".repeat((1 << 20) - 10)).unwrap();
        let uid = lab.member.pod(pod, &[]);
        lab.member.call("ADD", pod, &uid).run().ok();
        assert_eq!(logged().len(), 1, "the full file was put aside before the line");
    }
    let names =
        fs::read_dir("/run/scratch/log").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("multus-") && name.ends_with(".log")).count(), 2);
}

/// Under isolation a definition of `default` is everybody's, unless the list of shared namespaces leaves it out.
fn shared_default() {
    let mut lab = lab();
    // Other cases use this namespace too.
    let name = format!("shared-{}", lab.member.cluster.namespace());
    lab.member.cluster.definition_in("default", &name, &macvlan(None, "15.10.0.0/16").to_string(), &[]);
    set(&mut lab, json!({"namespaceIsolation": true}));
    lab.shows(&format!("default/{name}"), &[("net1", "15.10.1.20/16")]);
    set(&mut lab, json!({"globalNamespaces": "namespace-a,namespace-b"}));
    let (_, answer) = lab.member.add("pod", &format!("default/{name}"));
    answer.fails(7, "namespace isolation enabled");
    lab.member.cluster.delete_pod("pod");
    set(&mut lab, json!({"globalNamespaces": "default,namespace-a,namespace-b"}));
    lab.shows(&format!("default/{name}"), &[("net1", "15.10.1.21/16")]);
}

/// One definition in two namespaces: another's is refused before it is even asked for, one's own is attached.
fn isolation() {
    let mut lab = lab();
    let subnet = |rest: &str| format!("192.168.1.{rest}");
    let conf = json!({"cniVersion": "0.3.0", "type": "macvlan", "master": "eth1", "mode": "bridge", "ipam": {
        "type": "host-local", "subnet": subnet("0/24"), "rangeStart": subnet("200"), "rangeEnd": subnet("216"),
        "routes": [{"dst": "192.0.2.0/24"}], "gateway": subnet("1")}})
    .to_string();
    let cluster = &lab.member.cluster;
    cluster.definition_in(&lab.other, "macvlan-conf", &conf, &[]);
    set(&mut lab, json!({"namespaceIsolation": true}));
    let (_, answer) = lab.member.add("samplepod", &format!("{}/macvlan-conf", lab.other));
    answer.fails(7, "namespace isolation enabled");
    assert_eq!(lab.member.node.bed.links("samplepod"), ["lo"]);
    assert_eq!(lab.member.cluster.network_status("samplepod"), Value::Null);
    assert_eq!(lab.member.cluster.count("GET", "/apis/k8s.cni.cncf.io"), 0);
    lab.member.cluster.delete_pod("samplepod");
    let own = lab.member.cluster.namespace().to_owned();
    lab.member.cluster.definition_in(&own, "macvlan-conf", &conf, &[]);
    lab.member.add("positive", "macvlan-conf").1.ok();
    assert_eq!(lab.member.node.addresses("positive", "net1"), ["192.168.1.200/24"]);
    let routes = lab.member.node.bed.ip("-n positive route show");
    assert!(routes.contains("192.0.2.0/24 via 192.168.1.1 dev net1"), "{routes}");
    lab.member.add("same", &format!("{own}/macvlan-conf")).1.ok();
    assert_eq!(lab.member.node.addresses("same", "net1"), ["192.168.1.201/24"]);
}

/// Networks that the node names are in `kube-system` unless it says where; isolation is not for what the node names; what a pod
/// of a system's namespace names itself it still gets.
fn namespaces() {
    let mut lab = lab();
    let path = cluster_file(&mut lab, "main.conf");
    let always = format!("always-{}", lab.member.cluster.namespace());
    lab.member.cluster.definition_in("kube-system", &always, &macvlan(None, "16.10.0.0/16").to_string(), &[]);
    lab.member.cluster.definition_in(&lab.other, &always, &macvlan(None, "17.10.0.0/16").to_string(), &[]);
    set(&mut lab, json!({"clusterNetwork": path, "defaultNetworks": [always], "namespaceIsolation": true}));
    lab.shows("macvlan-conf-1", &[("net1", "16.10.1.20/16"), ("net2", "10.10.1.20/16")]);
    let other = lab.other.clone();
    set(&mut lab, json!({"multusNamespace": other}));
    lab.shows("macvlan-conf-1", &[("net1", "17.10.1.20/16"), ("net2", "10.10.1.21/16")]);
    let own = lab.member.cluster.namespace().to_owned();
    set(&mut lab, json!({"systemNamespaces": ["kube-system", own]}));
    lab.shows("macvlan-conf-1", &[("net1", "10.10.1.22/16")]);
}

/// Who says nothing keeps the node's network; who names one gets that in its place, as eth0, and in its status.
fn pods_own() {
    let mut lab = lab();
    let own = lab.member.cluster.namespace().to_owned();
    let calico = json!({"cniVersion": "0.3.1", "name": "calico", "type": "bridge", "bridge": "green0", "isDefaultGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.30.0.0/24"}});
    lab.member.cluster.definition("calico-conf", &calico);
    set(&mut lab, json!({"multusNamespace": own, "namespaceIsolation": true}));
    let plain = lab.member.pod("plain", &[]);
    lab.member.call("ADD", "plain", &plain).run().ok();
    assert_eq!(lab.member.node.addresses("plain", "eth0")[0], "10.1.0.2/24");
    let uid = lab.member.pod("pod-example", &[(DEFAULT_NETWORK, "calico-conf"), (NETWORKS, "macvlan-conf-2")]);
    lab.member.call("ADD", "pod-example", &uid).run().ok();
    assert_eq!(lab.member.node.bed.links("pod-example"), ["lo", "eth0", "net1"]);
    assert_eq!(lab.member.node.addresses("pod-example", "eth0"), ["10.30.0.2/24"]);
    let routes = lab.member.node.bed.ip("-n pod-example route show default");
    assert!(routes.starts_with("default via 10.30.0.1 dev eth0") && routes.lines().count() == 1, "{routes}");
    let status = lab.member.cluster.network_status("pod-example");
    let first = (&status[0]["name"], &status[0]["interface"], &status[0]["default"]);
    assert_eq!(first, (&json!(format!("{own}/calico-conf")), &json!("eth0"), &json!(true)));
    assert_eq!((&status[1]["interface"], &status[1]["default"]), (&json!("net1"), &json!(false)));
    lab.member.del("pod-example", &uid);
    lab.member.del("plain", &plain);
    lab.member.assert_clean();
}

/// The chain of the page is one of `tuning` alone. It has no interface of its own: IFNAME is nothing in it, as under Multus, and
/// whoever means the pod's first interface names that.
fn tuned() {
    let mut lab = lab();
    let path = cluster_file(&mut lab, "net.d/10-main.conf");
    set(&mut lab, json!({"clusterNetwork": path, "auxiliaryCNIChainName": "cni-chain-config"}));
    let file = |ifname: &str| {
        let sysctl = json!({format!("net.ipv4.conf.{ifname}.arp_filter"): "1"});
        let conf = json!({"name": "mytuning", "type": "tuning", "sysctl": sysctl});
        lab.member.node.bed.file("net.d/cni-chain-config/mytuning.conf", &conf.to_string());
    };
    file("IFNAME");
    let uid = lab.member.pod("pod", &[]);
    let answer = lab.member.call("ADD", "pod", &uid).run();
    assert!(!answer.succeeded() && answer.stdout.contains("net1"), "{}", answer.stdout);
    assert_eq!(lab.member.node.bed.links("pod"), ["lo"]);
    file("eth0");
    lab.member.call("ADD", "pod", &uid).run().ok();
    let filter = || fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/arp_filter").unwrap();
    assert_eq!(world::inside(&lab.member.node.bed.netns("pod"), filter).trim(), "1");
    assert_eq!(lab.member.cluster.network_status("pod").as_array().unwrap().len(), 1);
    lab.member.del("pod", &uid);
    lab.member.assert_clean();
}

/// What the runtime sends reaches the cluster's network where that takes it, and no other network.
fn capabilities() {
    let mut member = Member::new();
    member.node.script(
        "ports",
        r#"conf=$(cat); printf '%s' "$conf" >"/run/scratch/ports-$CNI_COMMAND-$CNI_IFNAME"
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#,
    );
    let chain = |name: &str, subnet: &str| {
        json!({"cniVersion": "1.0.0", "name": name, "plugins": [
            {"type": "bridge", "bridge": "green0", "ipam": {"type": "host-local", "subnet": subnet}},
            {"type": "ports", "capabilities": {"portMappings": true, "bandwidth": true}}]})
    };
    let asked = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 2_000_000, "egressRate": 0, "egressBurst": 0}});
    member.node.conf["delegates"] = json!([chain("cluster", "10.20.0.0/24")]);
    member.node.conf["capabilities"] = json!({"portMappings": true, "bandwidth": true});
    member.node.conf["runtimeConfig"] = asked.clone();
    member.cluster.definition("second", &chain("second", "10.21.0.0/24"));
    let (uid, answer) = member.add("pod", "second");
    answer.ok();
    let sent = |call: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(format!("/run/scratch/ports-{call}")).unwrap()).unwrap()
    };
    assert_eq!(sent("ADD-eth0")["runtimeConfig"], asked);
    assert_eq!(sent("ADD-net1")["runtimeConfig"], Value::Null);
    member.del("pod", &uid);
    assert_eq!(sent("DEL-eth0")["runtimeConfig"], asked, "DEL has what ADD had");
    member.assert_clean();
}
