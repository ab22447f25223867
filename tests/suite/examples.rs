//! What the pages of Multus show, in this project's own words, on a real API server: whoever follows them gets what they promise. Here
//! are the forms of the annotation and the node's networks; each page has a module for the rest of its sections.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::api::{Member, NETWORKS};
use crate::case::Case;
use crate::need::Need;

mod configuration;
mod how_to_use;
mod others;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    let mut cases = vec![
        Case::new("examples::text_annotation_and_a_definition_in_a_file", needs, text),
        Case::new("examples::text_annotation_names_another_namespace", needs, text_namespace),
        Case::new("examples::text_annotation_names_the_interface", needs, text_interface),
        Case::new("examples::json_annotation", needs, as_json),
        Case::new("examples::json_annotation_names_another_namespace", needs, json_namespace),
        Case::new("examples::json_annotation_names_the_interface", needs, json_interface),
        Case::new("examples::default_route", needs, default_route),
        Case::new("examples::cluster_network_in_its_four_forms", needs, cluster_network),
        Case::new("examples::default_networks_for_pods_outside_system_namespaces", needs, default_networks),
        Case::new("examples::delegates_several", needs, delegates),
        Case::new("examples::namespace_isolation", needs, isolation),
        Case::new("examples::global_namespaces", needs, global),
        Case::new("examples::default_network_by_annotation", needs, by_annotation),
        Case::new("examples::auxiliary_chain", needs, auxiliary),
    ];
    cases.extend(how_to_use::cases());
    cases.extend(configuration::cases());
    cases.extend(others::cases());
    cases
}

/// A macvlan with a range of its own, in the version that the pages use.
fn macvlan(name: Option<&str>, subnet: &str) -> Value {
    let part = |host: &str| subnet.replace("0.0/16", host);
    let mut conf = json!({"cniVersion": "0.3.0", "type": "macvlan", "master": "eth1", "mode": "bridge",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet, "rangeStart": part("1.20"), "rangeEnd": part("3.50")}]]}});
    if let Some(name) = name {
        conf["name"] = json!(name);
    }
    conf
}

/// The node of the pages: `eth1` leads out, one definition is an object, one is a file, one is in another namespace.
struct Lab {
    member: Member,
    other: String,
}

fn lab() -> Lab {
    let mut member = Member::new();
    let bed = &member.node.bed;
    bed.parent("eth1");
    member.cluster.definition("macvlan-conf-1", &macvlan(None, "10.10.0.0/16"));
    member.cluster.definition_in(member.cluster.namespace(), "macvlan-conf-2", "", &[]);
    bed.file("conf/macvlan2.conf", &macvlan(Some("macvlan-conf-2"), "11.10.0.0/16").to_string());
    let other = member.cluster.another_namespace();
    let third = macvlan(None, "12.10.0.0/16").to_string();
    member.cluster.definition_in(&other, "macvlan-conf-3", &third, &[]);
    member.node.conf["confDir"] = json!("/run/scratch/conf");
    Lab { member, other }
}

impl Lab {
    /// Attaches a pod; each interface must have this address. Then it goes, and nothing stays.
    fn shows(&self, networks: &str, interfaces: &[(&str, &str)]) {
        let (uid, answer) = self.member.add("pod", networks);
        answer.ok();
        for (interface, address) in interfaces {
            assert_eq!(self.member.node.addresses("pod", interface), [*address], "{networks}: {interface}");
        }
        assert_eq!(self.member.node.bed.links("pod").len(), interfaces.len() + 2, "{networks}: and lo and eth0");
        let status = self.member.cluster.network_status("pod");
        let named: Vec<&str> = status.as_array().unwrap().iter().filter_map(|one| one["interface"].as_str()).collect();
        let wanted: Vec<&str> = ["eth0"].into_iter().chain(interfaces.iter().map(|(name, _)| *name)).collect();
        assert_eq!(named, wanted, "{networks}");
        self.member.del("pod", &uid);
        self.member.cluster.delete_pod("pod");
        self.member.assert_clean();
    }
}

fn text() {
    lab().shows("macvlan-conf-1, macvlan-conf-2", &[("net1", "10.10.1.20/16"), ("net2", "11.10.1.20/16")]);
}

fn text_namespace() {
    let lab = lab();
    lab.shows(&format!("{}/macvlan-conf-3", lab.other), &[("net1", "12.10.1.20/16")]);
}

fn text_interface() {
    lab().shows("macvlan-conf-1@macvlan1", &[("macvlan1", "10.10.1.20/16")]);
}

fn as_json() {
    let networks = "[\n        { \"name\" : \"macvlan-conf-1\" },\n        { \"name\" : \"macvlan-conf-2\" }\n]";
    lab().shows(networks, &[("net1", "10.10.1.20/16"), ("net2", "11.10.1.20/16")]);
}

fn json_namespace() {
    let lab = lab();
    let networks = json!([{"name": "macvlan-conf-3", "namespace": lab.other}]).to_string();
    lab.shows(&networks, &[("net1", "12.10.1.20/16")]);
}

fn json_interface() {
    let networks = json!([{"name": "macvlan-conf-1", "interface": "macvlan1"}, {"name": "macvlan-conf-2"}]);
    lab().shows(&networks.to_string(), &[("macvlan1", "10.10.1.20/16"), ("net2", "11.10.1.20/16")]);
}

fn default_route() {
    let lab = lab();
    lab.member.cluster.definition(
        "routed",
        &json!({"cniVersion": "0.3.0", "type": "macvlan", "master": "eth1", "mode": "bridge", "ipam": {
            "type": "host-local", "subnet": "192.168.2.0/24", "rangeStart": "192.168.2.200", "rangeEnd": "192.168.2.216",
            "routes": [{"dst": "0.0.0.0/0"}], "gateway": "192.168.2.1"}}),
    );
    lab.member.add("pod", r#"[{"name": "routed", "default-route": ["192.168.2.1"]}]"#).1.ok();
    let routes = lab.member.node.bed.ip("-n pod route show default");
    assert_eq!(routes.split_whitespace().take(5).collect::<Vec<_>>().join(" "), "default via 192.168.2.1 dev net1");
    assert_eq!(routes.lines().count(), 1, "{routes}");
}

/// A name of a definition, of a file, a directory, a path.
fn cluster_network() {
    let mut lab = lab();
    let namespace = lab.member.cluster.namespace().to_owned();
    lab.member.cluster.definition(
        "main",
        &json!({"cniVersion": "0.3.1", "type": "bridge", "bridge": "green0",
        "ipam": {"type": "host-local", "subnet": "10.20.0.0/24"}}),
    );
    for (file, name, subnet) in [
        ("conf/50-test.conf", "test", "10.21.0.0/24"),
        ("dir/10-a.conf", "a", "10.22.0.0/24"),
        ("dir/20-b.conf", "b", "10.23.0.0/24"),
    ] {
        let conf = json!({"cniVersion": "0.3.1", "name": name, "type": "bridge", "bridge": "green0",
            "ipam": {"type": "host-local", "subnet": subnet}});
        lab.member.node.bed.file(file, &conf.to_string());
    }
    let conf = lab.member.node.conf.as_object_mut().unwrap();
    conf.remove("delegates");
    conf.insert("multusNamespace".to_owned(), json!(namespace));
    for (index, (value, address)) in [
        ("main", "10.20.0.2/24"),
        ("test", "10.21.0.2/24"),
        ("/run/scratch/dir", "10.22.0.2/24"),
        ("/run/scratch/dir/20-b.conf", "10.23.0.2/24"),
    ]
    .into_iter()
    .enumerate()
    {
        lab.member.node.conf["clusterNetwork"] = json!(value);
        let pod = format!("pod{index}");
        let uid = lab.member.pod(&pod, &[]);
        lab.member.call("ADD", &pod, &uid).run().ok();
        assert_eq!(lab.member.node.addresses(&pod, "eth0"), [address], "{value}");
        lab.member.del(&pod, &uid);
    }
    lab.member.node.conf["clusterNetwork"] = json!("nobody");
    let uid = lab.member.pod("pod", &[]);
    let answer = lab.member.call("ADD", "pod", &uid).run();
    assert!(!answer.succeeded() && answer.stdout.contains("nobody"), "{}", answer.stdout);
    lab.member.assert_clean();
}

fn default_networks() {
    let mut lab = lab();
    let namespace = lab.member.cluster.namespace().to_owned();
    lab.member.node.bed.file(
        "main.conf",
        &json!({"cniVersion": "0.3.1", "name": "main", "type": "bridge", "bridge": "green0",
            "ipam": {"type": "host-local", "subnet": "10.20.0.0/24"}})
        .to_string(),
    );
    let conf = lab.member.node.conf.as_object_mut().unwrap();
    conf.remove("delegates");
    conf.insert("clusterNetwork".to_owned(), json!("/run/scratch/main.conf"));
    conf.insert("defaultNetworks".to_owned(), json!(["macvlan-conf-1", "blue"]));
    conf.insert("multusNamespace".to_owned(), json!(namespace));
    lab.member.add("a", "macvlan-conf-2").1.ok();
    assert_eq!(lab.member.node.bed.links("a").len(), 5, "lo, eth0, two of the node's, one of its own");
    assert_eq!(lab.member.node.addresses("a", "net3"), ["11.10.1.20/16"]);
    lab.member.node.conf["systemNamespaces"] = json!(["kube-system", namespace]);
    lab.member.add("b", "macvlan-conf-2").1.ok();
    assert_eq!(lab.member.node.addresses("b", "net1"), ["11.10.1.21/16"], "a pod of the system has its own only");
}

fn delegates() {
    let mut lab = lab();
    let first = lab.member.node.conf["delegates"][0].clone();
    lab.member.node.conf["delegates"] = json!([first, macvlan(Some("second"), "13.10.0.0/16")]);
    let uid = lab.member.pod("pod", &[]);
    lab.member.call("ADD", "pod", &uid).run().ok();
    assert_eq!(lab.member.node.addresses("pod", "net1"), ["13.10.1.20/16"]);
    lab.member.del("pod", &uid);
    lab.member.assert_clean();
}

fn isolation() {
    let mut lab = lab();
    lab.member.node.conf["namespaceIsolation"] = json!(true);
    let (_, answer) = lab.member.add("pod", &format!("{}/macvlan-conf-3", lab.other));
    let expected = format!(
        "namespace isolation enabled, annotation violates permission, pod is in namespace {} but refers to target namespace {}",
        lab.member.cluster.namespace(),
        lab.other
    );
    answer.fails(7, &expected);
    lab.member.cluster.delete_pod("pod");
    lab.shows("macvlan-conf-1", &[("net1", "10.10.1.20/16")]);
}

fn global() {
    let mut lab = lab();
    lab.member.node.conf["namespaceIsolation"] = json!(true);
    lab.member.node.conf["globalNamespaces"] = json!(format!("default,{},namespace-b", lab.other));
    lab.shows(&format!("{}/macvlan-conf-3", lab.other), &[("net1", "12.10.1.20/16")]);
}

fn by_annotation() {
    let mut lab = lab();
    lab.member.node.conf["multusNamespace"] = json!(lab.member.cluster.namespace());
    let annotations = [("v1.multus-cni.io/default-network", "green"), (NETWORKS, "macvlan-conf-1")];
    let uid = lab.member.pod("pod", &annotations);
    let result = lab.member.call("ADD", "pod", &uid).run().ok();
    assert_eq!(result["ips"][0]["address"], "10.3.0.2/24", "the runtime gets the pod's own default network");
    assert_eq!(lab.member.node.addresses("pod", "net1"), ["10.10.1.20/16"]);
    lab.member.del("pod", &uid);
    lab.member.assert_clean();
}

/// One more chain for every pod, from files in a folder of its name.
fn auxiliary() {
    let mut lab = lab();
    lab.member.node.script(
        "notes",
        r#"conf=$(cat); echo "$CNI_COMMAND" >>/run/scratch/noted
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#,
    );
    lab.member.node.bed.file(
        "main.conf",
        &json!({"cniVersion": "0.3.1", "name": "main", "type": "bridge", "bridge": "green0",
            "ipam": {"type": "host-local", "subnet": "10.20.0.0/24"}})
        .to_string(),
    );
    lab.member.node.bed.file("cni-chain-config/10-notes.conf", r#"{"cniVersion": "0.3.1", "type": "notes"}"#);
    let conf = lab.member.node.conf.as_object_mut().unwrap();
    conf.remove("delegates");
    conf.insert("clusterNetwork".to_owned(), json!("/run/scratch/main.conf"));
    conf.insert("auxiliaryCNIChainName".to_owned(), json!("cni-chain-config"));
    let uid = lab.member.pod("pod", &[]);
    lab.member.call("ADD", "pod", &uid).run().ok();
    assert_eq!(lab.member.node.bed.links("pod"), ["lo", "eth0"], "it makes no interface");
    lab.member.del("pod", &uid);
    assert_eq!(fs::read_to_string("/run/scratch/noted").unwrap(), "ADD\nDEL\n");
    assert!(Path::new("/run/scratch/main.conf").exists());
    lab.member.assert_clean();
}
