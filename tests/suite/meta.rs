//! The meta-plugin: pods and definitions from files in, interfaces out. It knows the annotations' grammar and the kernel's
//! state, not how plexus gets from one to the other.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::call::{Call, Side};
use crate::case::Case;
use crate::need::Need;
use crate::testbed::{RECORDS, Testbed};

/// A bed with a parent link, definitions, and one pod.
pub(crate) struct Node {
    pub(crate) bed: Testbed,
    pub(crate) conf: Value,
}

/// Definitions every node has: name and configuration.
fn definitions() -> Vec<(&'static str, Value)> {
    let range = |subnet: &str| json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]});
    vec![
        (
            "blue",
            json!({"cniVersion": "1.0.0", "name": "blue", "type": "macvlan", "master": "up0", "ipam": range("10.2.0.0/24")}),
        ),
        (
            "green",
            json!({"cniVersion": "1.0.0", "name": "green", "type": "bridge", "bridge": "green0", "isGateway": true,
            "ipam": range("10.3.0.0/24")}),
        ),
        (
            "six",
            json!({"cniVersion": "1.0.0", "name": "six", "type": "bridge", "bridge": "six0", "isGateway": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.4.0.0/24"}], [{"subnet": "fd00:4::/64"}]]}}),
        ),
        (
            "fixed",
            json!({"cniVersion": "1.0.0", "name": "fixed", "type": "macvlan", "master": "up0", "capabilities": {"ips": true},
            "ipam": {"type": "static"}}),
        ),
        (
            "chained",
            json!({"cniVersion": "1.0.0", "name": "chained", "plugins": [
            {"type": "bridge", "bridge": "green0", "ipam": range("10.5.0.0/24")}, {"type": "noted"}]}),
        ),
        (
            "unchecked",
            json!({"cniVersion": "1.0.0", "name": "unchecked", "disableCheck": "true", "plugins": [
            {"type": "bridge", "bridge": "green0", "ipam": range("10.6.0.0/24")}]}),
        ),
        ("device", json!({"cniVersion": "1.0.0", "name": "device", "type": "host-device", "device": "dev0"})),
        ("failing", json!({"cniVersion": "1.0.0", "name": "failing", "type": "fails"})),
        (
            "broken",
            json!({"cniVersion": "1.0.0", "name": "broken", "type": "macvlan", "master": "up0", "mode": "sideways"}),
        ),
    ]
}

pub(crate) fn node() -> Node {
    let bed = Testbed::new();
    bed.parent("up0");
    for (name, conf) in definitions() {
        definition(&bed, "default", name, &conf.to_string());
    }
    let conf = json!({"cniVersion": "1.0.0", "name": "node", "type": "plexus-cni", "manifests": "/run/scratch/manifests",
        "binDir": "/run/cni/plexus",
        "delegates": [{"cniVersion": "1.0.0", "name": "cluster", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]}}]});
    Node { bed, conf }
}

pub(crate) fn definition(bed: &Testbed, namespace: &str, name: &str, config: &str) {
    let manifest = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"namespace": namespace, "name": name}, "spec": {"config": config}});
    bed.file(&format!("manifests/nad-{namespace}-{name}.json"), &manifest.to_string());
}

impl Node {
    /// Writes the pod's manifest, as YAML, and makes its namespace.
    pub(crate) fn pod(&self, name: &str, annotations: &[(&str, &str)]) {
        let mut text =
            format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: default\n  uid: uid-{name}\n");
        if !annotations.is_empty() {
            text.push_str("  annotations:\n");
        }
        for (key, value) in annotations {
            writeln!(text, "    {key}: '{value}'").unwrap();
        }
        self.bed.file(&format!("manifests/pod-{name}.yaml"), &text);
        if !self.bed.netns(name).exists() {
            self.bed.pod(name);
        }
    }

    pub(crate) fn call(&self, command: &str, pod: &str) -> Call<'_> {
        let call = self.bed.call(Side::Plexus, "plexus-cni").command(command).container(&format!("id-{pod}")).pod(pod);
        call.kubernetes("default", pod, &format!("uid-{pod}")).conf(&self.conf)
    }

    pub(crate) fn add(&self, pod: &str, networks: &str) -> Value {
        self.pod(pod, &[("k8s.v1.cni.cncf.io/networks", networks)]);
        self.call("ADD", pod).run().ok()
    }

    /// The link must be there; its addresses with prefix.
    pub(crate) fn addresses(&self, pod: &str, link: &str) -> Vec<String> {
        let shown: Value = serde_json::from_str(&self.bed.ip(&format!("-n {pod} -j addr show dev {link}"))).unwrap();
        let all = shown[0]["addr_info"].as_array().unwrap().iter().filter(|a| a["scope"] == "global");
        all.map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"])).collect()
    }

    fn default_routes(&self, pod: &str, family: &str) -> Vec<String> {
        let shown = self.bed.ip(&format!("-n {pod} {family} route show default"));
        let words = |line: &str| line.split_whitespace().take(5).collect::<Vec<_>>().join(" ");
        shown.lines().map(words).collect()
    }

    pub(crate) fn assert_clean(&self) {
        let bridges = ["cni0", "green0", "six0"]; // bridges stay, as the reference plugin leaves them
        let left = self.bed.leftovers();
        let left: Vec<_> = left.iter().filter(|what| !bridges.iter().any(|b| **what == format!("link {b}"))).collect();
        assert!(left.is_empty(), "left over: {left:?}");
    }

    /// A plugin as a shell script.
    pub(crate) fn script(&self, name: &str, body: &str) {
        let path = self.bed.file(&format!("bin/{name}"), &format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.bed.install(Side::Plexus, name, &path);
    }
}

/// The network-status of each record that has one.
pub(crate) fn statuses() -> Vec<Value> {
    let folder = format!("{RECORDS}/journal");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let record = files
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .map(|path| fs::read_to_string(path).unwrap());
    record
        .filter_map(|text| {
            let done: Value = serde_json::from_str(text.lines().last().expect("a commitment")).unwrap();
            done["status"].as_str().map(|status| serde_json::from_str(status).unwrap())
        })
        .collect()
}

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    vec![
        Case::new("meta::four_interfaces_come_and_go", mac, four_interfaces),
        Case::new("meta::network_files_of_every_ending", &[], network_files),
        Case::new("meta::both_grammars_mean_the_same", mac, both_grammars),
        Case::new("meta::every_key_of_the_annotation", mac, every_key),
        Case::new("meta::d01_default_route_takes_effect", mac, default_route),
        Case::new("meta::d02_isolation_holds_for_the_default_network_too", mac, isolation),
        Case::new("meta::default_network_is_replaced", mac, default_network),
        Case::new("meta::cluster_network_from_a_file", mac, cluster_network),
        Case::new("meta::a_failed_add_leaves_nothing", mac, failed_add),
        Case::new("meta::all_refusals_come_before_any_side_effect", mac, refusals),
        Case::new("meta::del_from_the_record_alone", mac, del_alone),
        Case::new("meta::what_an_older_boot_left_is_collected", mac, older_boot),
        Case::new("meta::gc_keeps_the_valid_and_only_them", mac, gc),
        Case::new("meta::check_sees_what_differs", mac, check),
        Case::new("meta::delegates_alone_and_in_a_chain", mac, delegates),
        Case::new("meta::hostile_definitions_are_errors", mac, hostile),
        Case::new("meta::a_device_of_the_host_outlives_its_pods_links", mac, device),
        Case::new("meta::a_pod_is_named_as_a_whole_or_not_at_all", &[], half_named),
        Case::new("meta::a_namespace_below_a_file_is_gone", mac, below_a_file),
    ]
}

fn four_interfaces() {
    let node = node();
    let result = node.add("a", "blue, green@data0, default/six");
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["ips"].as_array().unwrap().len(), 2);
    let mut links = node.bed.links("a");
    links.sort();
    assert_eq!(links, ["data0", "eth0", "lo", "net1", "net3"]);
    assert_eq!(node.addresses("a", "net1"), ["10.2.0.2/24"]);
    assert_eq!(node.addresses("a", "net3"), ["10.4.0.2/24", "fd00:4::2/64"]);
    let status = statuses();
    let names: Vec<_> = status[0].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cluster", "default/blue", "default/green", "default/six"]);
    assert_eq!(status[0][0]["default"], true);
    assert_eq!(status[0][3]["ips"], json!(["10.4.0.2", "fd00:4::2"]));
    node.call("DEL", "a").run().ok();
    node.assert_clean();
    node.call("DEL", "a").run().ok();
}

/// Its networks would be left out otherwise, and nobody would know.
fn half_named() {
    let node = node();
    node.pod("a", &[]);
    for half in ["K8S_POD_NAMESPACE=default;K8S_POD_NAME=", "K8S_POD_NAMESPACE=default", "K8S_POD_NAME=a"] {
        let args = format!("IgnoreUnknown=1;{half}");
        node.call("ADD", "a").args(&args).run().fails(4, "K8S_POD_NAME");
        node.call("DEL", "a").args(&args).run().ok();
    }
    node.assert_clean();
    node.call("ADD", "a").args("IgnoreUnknown=1;K8S_POD_NAMESPACE=;K8S_POD_NAME=").run().ok();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

fn below_a_file() {
    let node = node();
    let path = node.bed.file("file", "").join("netns").display().to_string();
    let call = |command: &str| node.call(command, "a").env("CNI_NETNS", &path).run();
    node.add("a", "blue");
    node.bed.lose_pod("a");
    call("DEL").ok();
    node.assert_clean();
    call("DEL").ok();
    assert!(!call("ADD").succeeded());
    node.assert_clean();
}

fn device() {
    let node = node();
    node.bed.parent("dev0");
    node.bed.ip("link set dev0 alias uplink");
    let home = || {
        let shown: Value = serde_json::from_str(&node.bed.ip("-j link show dev dev0")).unwrap();
        shown[0]["ifalias"].clone()
    };
    node.add("a", "blue, device, green");
    assert!(!node.bed.links("").contains(&"dev0".to_owned()));
    node.call("CHECK", "a").run().ok();
    // Links of one request leave as a group: the device is not one of them, even if somebody puts it there.
    let shown: Value = serde_json::from_str(&node.bed.ip("-n a -j link show")).unwrap();
    let group = |name: &str| {
        let link = shown.as_array().unwrap().iter().find(|link| link["ifname"] == name);
        link.unwrap()["group"].as_str().unwrap().to_owned()
    };
    assert_eq!(group("net2"), "default");
    node.bed.ip(&format!("-n a link set net2 group {}", group("net1")));
    node.call("DEL", "a").run().ok();
    assert_eq!((node.bed.links("a"), home()), (vec!["lo".to_owned()], json!("uplink")));
    // A failure after it moved gives it back, too.
    node.pod("b", &[("k8s.v1.cni.cncf.io/networks", "device, failing")]);
    node.script("fails", r#"[ "$CNI_COMMAND" = ADD ] || exit 0; echo '{"code": 100, "msg": "no"}'; exit 1"#);
    node.call("ADD", "b").run().fails(100, "no");
    assert_eq!((node.bed.links("b"), home()), (vec!["lo".to_owned()], json!("uplink")));
    node.assert_clean();
}

fn both_grammars() {
    let node = node();
    node.add("a", "blue,green@data0");
    node.add("b", r#"[{"name": "blue"}, {"name": "green", "interface": "data0"}]"#);
    let links = |pod| {
        let mut links = node.bed.links(pod);
        links.sort();
        links
    };
    assert_eq!(links("a"), links("b"));
    node.pod("none", &[("k8s.v1.cni.cncf.io/networks", "[]")]);
    node.call("ADD", "none").run().ok();
    assert_eq!(node.bed.links("none").len(), 2);
}

fn every_key() {
    let node = node();
    let wanted = json!([{"name": "fixed", "interface": "lan", "ips": ["10.9.0.7/24", "fd00:9::7/64"], "mac": "02:00:00:aa:bb:cc",
        "cni-args": {"note": "x"}}]);
    node.add("a", &wanted.to_string());
    assert_eq!(node.addresses("a", "lan"), ["10.9.0.7/24", "fd00:9::7/64"]);
    assert!(node.bed.ip("-n a link show dev lan").contains("02:00:00:aa:bb:cc"));
    for (key, value) in [
        ("portMappings", json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}])),
        ("bandwidth", json!({"ingressRate": 1000, "ingressBurst": 1000})),
        ("infiniband-guid", json!("c2:11:22:33:44:55:66:77")),
    ] {
        let pod = format!("b{}", key.len());
        node.pod(&pod, &[("k8s.v1.cni.cncf.io/networks", &json!([{"name": "blue", key: value}]).to_string())]);
        node.call("ADD", &pod).run().fails(7, "blue");
        assert_eq!(node.bed.links(&pod), ["lo"], "{key}");
    }
    let claim = json!([{"name": "blue", "ips": ["10.2.0.9"], "ipam-claim-reference": "mine"}]);
    node.pod("c", &[("k8s.v1.cni.cncf.io/networks", &claim.to_string())]);
    let answer = node.call("ADD", "c").run();
    assert!(!answer.succeeded() && answer.stdout.contains("ipam-claim-reference"), "{}", answer.stdout);
}

fn default_route() {
    let node = node();
    node.add("plain", "six");
    assert_eq!(node.default_routes("plain", "-4"), ["default via 10.1.0.1 dev eth0"]);
    let routed = |pod: &str, gateways: Value| {
        node.add(pod, &json!([{"name": "six", "default-route": gateways}]).to_string());
        (node.default_routes(pod, "-4"), node.default_routes(pod, "-6"))
    };
    let (four, six) = routed("four", json!(["10.4.0.1"]));
    assert_eq!(four, ["default via 10.4.0.1 dev net1"]);
    assert_eq!(six, ["default via fd00:1::1 dev eth0"]);
    let (four, six) = routed("six", json!(["fd00:4::1"]));
    assert_eq!(four, ["default via 10.1.0.1 dev eth0"]);
    assert_eq!(six, ["default via fd00:4::1 dev net1"]);
    let (four, six) = routed("both", json!(["10.4.0.1", "fd00:4::1"]));
    assert_eq!(
        (four, six),
        (vec!["default via 10.4.0.1 dev net1".into()], vec!["default via fd00:4::1 dev net1".into()])
    );
    // An empty list keeps what the network's own configuration installs; this one installs none.
    let (four, six) = routed("empty", json!([]));
    assert_eq!((four.len(), six.len()), (1, 1));
    let two = json!([{"name": "six", "default-route": ["10.4.0.1"]}, {"name": "green", "default-route": ["10.3.0.1"]}]);
    node.pod("two", &[("k8s.v1.cni.cncf.io/networks", &two.to_string())]);
    assert!(!node.call("ADD", "two").run().succeeded());
    assert_eq!(node.bed.links("two"), ["lo"]);
    let unreachable = json!([{"name": "six", "default-route": ["192.0.2.1"]}]);
    node.pod("far", &[("k8s.v1.cni.cncf.io/networks", &unreachable.to_string())]);
    assert!(!node.call("ADD", "far").run().succeeded());
    assert_eq!(node.bed.links("far"), ["lo"], "a failed default route undoes every attachment");
}

fn isolation() {
    let mut node = node();
    definition(&node.bed, "other", "blue", &definitions()[0].1.to_string());
    definition(&node.bed, "shared", "blue", &definitions()[0].1.to_string());
    node.add("open", "other/blue");
    node.conf["namespaceIsolation"] = json!(true);
    node.conf["globalNamespaces"] = json!("shared");
    node.add("shared", "shared/blue");
    for (pod, key) in [("x", "k8s.v1.cni.cncf.io/networks"), ("y", "v1.multus-cni.io/default-network")] {
        node.pod(pod, &[(key, "other/blue")]);
        node.call("ADD", pod).run().fails(7, "namespace isolation enabled");
        assert_eq!(node.bed.links(pod), ["lo"]);
    }
}

fn default_network() {
    let node = node();
    definition(&node.bed, "kube-system", "six", &definitions()[2].1.to_string());
    node.pod("a", &[("v1.multus-cni.io/default-network", "six"), ("k8s.v1.cni.cncf.io/networks", "blue")]);
    let result = node.call("ADD", "a").run().ok();
    assert_eq!(result["ips"][0]["address"], "10.4.0.2/24");
    assert_eq!(node.addresses("a", "eth0"), ["10.4.0.2/24", "fd00:4::2/64"]);
    assert!(node.bed.links("a").contains(&"net1".to_owned()));
    node.pod("b", &[("v1.multus-cni.io/default-network", "six,blue")]);
    assert!(node.call("ADD", "b").run().stdout.contains("more than one default network"));
}

fn cluster_network() {
    let mut node = node();
    let list = json!({"cniVersion": "1.0.0", "name": "main", "plugins": [definitions()[1].1]});
    node.bed.file("conf/50-main.conflist", &list.to_string());
    // None of these hides the one after it.
    for (file, text) in [
        ("00-torn.conf", "{ torn"),
        ("01-empty.conflist", r#"{"cniVersion": "1.0.0", "name": "main"}"#),
        ("02-none.conflist", r#"{"cniVersion": "1.0.0", "name": "main", "plugins": []}"#),
        ("03-odd.conf", r#"{"cniVersion": "1.0.0", "name": "main", "type": 7}"#),
        ("04-later.conf", r#"{"cniVersion": "9.0.0", "name": "main", "type": "bridge"}"#),
    ] {
        node.bed.file(&format!("conf/{file}"), text);
    }
    node.conf.as_object_mut().unwrap().remove("delegates");
    node.conf["confDir"] = json!("/run/scratch/conf");
    node.conf["clusterNetwork"] = json!("main");
    node.conf["multusNamespace"] = json!("default");
    node.conf["defaultNetworks"] = json!(["blue"]);
    node.add("a", "six");
    assert_eq!(node.addresses("a", "eth0"), ["10.3.0.2/24"]);
    assert_eq!(node.addresses("a", "net1"), ["10.2.0.2/24"]);
    assert_eq!(node.addresses("a", "net2"), ["10.4.0.2/24", "fd00:4::2/64"]);
    node.call("DEL", "a").run().ok();
    // As a folder whose first network is taken.
    node.conf["clusterNetwork"] = json!("/run/scratch/conf");
    node.add("b", "six");
    assert_eq!(node.addresses("b", "eth0"), ["10.3.0.3/24"]);
    node.call("DEL", "b").run().ok();
    node.assert_clean();
}

/// Definitions without a configuration: a list's file comes before a single one's (network CRD standard 3.4.1), whatever their
/// names; Multus' endings and the standard's.
fn network_files() {
    let mut node = node();
    node.conf["confDir"] = json!("/run/scratch/conf");
    definition(&node.bed, "default", "filed", "");
    for (i, ending) in ["json", "config", "conf", "configlist", "conflist"].iter().enumerate() {
        let plugin = json!({"type": "bridge", "bridge": "green0",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("10.{}.0.0/24", 20 + i)}]]}});
        let mut file = json!({"cniVersion": "1.0.0", "name": "filed", "plugins": [plugin]});
        if !ending.ends_with("list") {
            file = plugin;
            file["name"] = json!("filed");
        }
        // Each is found before those that were there.
        node.bed.file(&format!("conf/{}-filed.{ending}", 50 - i), &file.to_string());
        node.add("a", "filed");
        assert_eq!(node.addresses("a", "net1"), [format!("10.{}.0.2/24", 20 + i)], "{ending}");
        node.call("DEL", "a").run().ok();
    }
    fs::remove_file("/run/scratch/conf/46-filed.conflist").unwrap();
    node.bed.file("conf/00-filed.conf", r#"{"cniVersion": "1.0.0", "name": "filed", "type": "none"}"#);
    node.add("a", "filed");
    assert_eq!(
        node.addresses("a", "net1"),
        ["10.23.0.2/24"],
        "a single one with a smaller name does not hide the list"
    );
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

fn failed_add() {
    let node = node();
    node.script(
        "fails",
        r#"cat >/dev/null; echo '{"cniVersion":"1.0.0","code":117,"msg":"no luck today"}'; [ "$CNI_COMMAND" = DEL ]"#,
    );
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue,six,failing")]);
    node.call("ADD", "a").run().fails(117, "no luck today");
    node.assert_clean();
    node.call("DEL", "a").run().ok();
    node.bed.ip("-n a link add net2 type bridge");
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue,six")]);
    node.call("ADD", "a").run().fails(999, "net2 already exists");
    assert!(node.bed.links("a").contains(&"net2".to_owned()), "a link that is not ours stays");
}

fn refusals() {
    let node = node();
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "broken,blue@net9,missing")]);
    let answer = node.call("ADD", "a").run();
    assert!(!answer.succeeded() && answer.stdout.contains("missing"), "{}", answer.stdout);
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "broken,failing,blue")]);
    let answer = node.call("ADD", "a").run();
    assert!(answer.stdout.contains("sideways") && answer.stdout.contains("fails"), "both are named: {}", answer.stdout);
    for twice in ["blue@lan,green@lan", "blue@eth0", "blue@lo"] {
        node.pod("a", &[("k8s.v1.cni.cncf.io/networks", twice)]);
        assert!(!node.call("ADD", "a").run().succeeded(), "{twice}");
    }
    assert_eq!(node.bed.links("a"), ["lo"]);
    assert_eq!(node.bed.leftovers(), Vec::<String>::new());
}

fn del_alone() {
    let node = node();
    for (pod, how) in [("a", "manifests gone"), ("b", "namespace gone"), ("c", "empty netns"), ("d", "parent gone")] {
        node.add(pod, "blue,six");
        match how {
            "manifests gone" => fs::remove_file(format!("/run/scratch/manifests/pod-{pod}.yaml")).unwrap(),
            "namespace gone" => node.bed.lose_pod(pod),
            _ => {}
        }
        let del = node.call("DEL", pod);
        match how {
            "empty netns" => del.env("CNI_NETNS", "").run().ok(),
            _ => del.run().ok(),
        };
        node.call("DEL", pod).run().ok();
    }
    node.assert_clean();
    node.add("e", "blue");
    node.bed.ip("link del cni0");
    node.bed.ip("-n e link del net1");
    node.call("DEL", "e").run().ok();
    node.call("DEL", "never").env("CNI_NETNS", "").run().ok();
}

fn older_boot() {
    let node = node();
    node.script(
        "noted",
        r#"conf=$(cat); echo "$CNI_COMMAND" >>/run/scratch/noted
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#,
    );
    node.add("a", "blue,six");
    node.add("c", "chained,blue");
    let folder = format!("{RECORDS}/journal");
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        fs::write(&path, text.replace(boot.trim(), "0c5d7f3e-0000-0000-0000-000000000000")).unwrap();
    }
    ["a", "c"].iter().for_each(|pod| node.bed.lose_pod(pod)); // a reboot takes the namespaces along
    node.add("b", "");
    let leases: Vec<String> = node.bed.leftovers().into_iter().filter(|what| what.starts_with("lease")).collect();
    assert_eq!(leases.len(), 2, "only the new pod's two addresses are held: {leases:?}");
    node.call("DEL", "b").run().ok();
    assert_eq!(fs::read_to_string("/run/scratch/noted").unwrap(), "ADD\n", "what it left is its own to remove");
    node.call("DEL", "c").run().ok();
    assert_eq!(fs::read_to_string("/run/scratch/noted").unwrap(), "ADD\nDEL\n");
    node.assert_clean();
}

fn gc() {
    let mut node = node();
    for pod in ["a", "b", "c"] {
        node.add(pod, "blue,six");
    }
    node.bed.lose_pod("b");
    node.conf["cniVersion"] = json!("1.1.0");
    node.conf["cni.dev/valid-attachments"] = json!([{"containerID": "id-a", "ifname": "eth0"}]);
    node.call("GC", "a").run().ok();
    assert_eq!(node.bed.links("a").len(), 4);
    assert_eq!(node.bed.links("c"), ["lo"], "a sandbox that is not valid loses its links although its namespace lives");
    let leases = |node: &Node| node.bed.leftovers().iter().filter(|what| what.starts_with("lease")).count();
    assert_eq!(leases(&node), 5);
    node.conf["cni.dev/valid-attachments"] = json!([]);
    node.call("GC", "a").run().ok();
    node.assert_clean();
}

fn check() {
    let node = node();
    node.add("a", "blue,six");
    node.call("CHECK", "a").run().ok();
    node.bed.ip("-n a addr del 10.2.0.2/24 dev net1");
    node.call("CHECK", "a").run().fails(999, "net1");
    node.add("b", "unchecked");
    node.bed.ip("-n b addr del 10.6.0.2/24 dev net1");
    node.call("CHECK", "b").run().ok();
    node.call("CHECK", "never").pod("a").run().fails(3, "id-never");
}

fn delegates() {
    let node = node();
    // It passes on what it got, with its own name as a route's source nowhere: only that it ran is noted.
    node.script(
        "noted",
        r#"conf=$(cat); echo "$CNI_COMMAND $CNI_IFNAME" >>/run/scratch/noted
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#,
    );
    node.add("a", "chained");
    assert_eq!(node.addresses("a", "net1"), ["10.5.0.2/24"]);
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "a").run().ok();
    let noted = fs::read_to_string("/run/scratch/noted").unwrap();
    assert_eq!(noted, "ADD net1\nCHECK net1\nDEL net1\n");
    node.script("fails", "cat >/dev/null; echo nothing good >&2; exit 3");
    node.pod("b", &[("k8s.v1.cni.cncf.io/networks", "failing")]);
    node.call("ADD", "b").run().fails(999, "nothing good");
    node.assert_clean_but_records();
}

impl Node {
    /// As [`Node::assert_clean`], where a delegate refuses to be undone: its record stays for the next DEL.
    fn assert_clean_but_records(&self) {
        let left: Vec<String> = self.bed.leftovers();
        assert!(
            left.iter().all(|what| what.starts_with("record") || what.starts_with("link ") && !what.contains('/')),
            "{left:?}"
        );
    }
}

fn hostile() {
    let node = node();
    let deep = "[".repeat(5000);
    for (name, config) in [
        ("h1", "{"),
        ("h2", r#"{"cniVersion":"1.0.0","name":"x","plugins":[]}"#),
        ("h3", r#"{"cniVersion":"1.0.0","name":"../x","type":"macvlan","master":"up0"}"#),
        ("h4", r#"{"cniVersion":"1.0.0","name":"x","type":"../../bin/sh"}"#),
        ("h5", r#"{"cniVersion":"1.0.0","name":"x","type":"macvlan","master":"up0","args":[]}"#),
        ("h6", r#"{"cniVersion":"9.9.9","name":"x","type":"macvlan","master":"up0"}"#),
        ("h7", deep.as_str()),
        ("h8", r#"{"cniVersion":"1.0.0","name":"x","type":"macvlan","master":"a name too long for a link"}"#),
        ("h9", r#"[]"#),
    ] {
        definition(&node.bed, "default", name, config);
        node.pod(name, &[("k8s.v1.cni.cncf.io/networks", &json!([{"name": name, "cni-args": {"a": 1}}]).to_string())]);
        let answer = node.call("ADD", name).run();
        assert!(answer.rc == Some(1) && answer.json()["code"].is_u64(), "{name}: {:?} {}", answer.rc, answer.stdout);
        assert_eq!(node.bed.links(name), ["lo"], "{name}");
    }
    node.assert_clean();
}
