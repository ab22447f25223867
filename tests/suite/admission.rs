//! The policies of `deployments/admission` on a real API server: what is admitted, what is refused, and in which words. Each case
//! has policies of its own, which see its Kubernetes namespace only.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::case::Case;
use crate::kube::{Cluster, cluster};
use crate::need::Need;
use crate::program::{plexus, text};
use crate::testbed::Testbed;

/// The files of the folder.
const FILES: [&str; 4] = [
    include_str!("../../deployments/admission/parameters.yaml"),
    include_str!("../../deployments/admission/definitions.yaml"),
    include_str!("../../deployments/admission/pods.yaml"),
    include_str!("../../deployments/admission/default-network.yaml"),
];
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";
/// The server hears of a new policy within a second or two; each question takes milliseconds.
const ASKS_MAX: usize = 5000;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let needs = &[Need::ApiServer];
    vec![
        Case::new("admission::definitions_are_admitted_or_refused_in_words", needs, definitions),
        Case::new("admission::annotations_are_admitted_or_refused_in_words", needs, annotations),
        Case::new("admission::the_verdict_is_that_of_add", needs, verdict),
        Case::new("admission::the_largest_annotation_costs_no_more_than_allowed", needs, cost),
        Case::new("admission::templates_of_pods_are_looked_at", needs, templates),
        Case::new("admission::what_is_there_can_be_changed", needs, there_already),
        Case::new("admission::parameters_say_what_is_allowed", needs, parameters),
        Case::new("admission::json_is_what_a_parser_takes", needs, grammar),
    ]
}

/// A cluster with the policies, for one of its namespaces.
struct Guarded {
    bed: Testbed,
    cluster: Arc<Cluster>,
}

/// What came of an attempt: empty, or the refusal.
type Answer = String;

impl Guarded {
    /// With these parameters in the place of those of the file.
    fn new(parameters: &[(&str, &str)]) -> Self {
        let bed = Testbed::new();
        let cluster = Cluster::of(&bed);
        let namespace = cluster.namespace().to_owned();
        let documents = FILES.iter().flat_map(|file| plexus::yaml::documents(file).unwrap());
        for mut object in documents {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let own = format!("{name}-{namespace}");
            match object["kind"].as_str().unwrap() {
                "ConfigMap" => {
                    object["metadata"]["namespace"] = json!(namespace);
                    for (key, value) in parameters {
                        object["data"][key] = json!(value);
                    }
                    cluster.create(&format!("/api/v1/namespaces/{namespace}/configmaps"), &object);
                }
                "ValidatingAdmissionPolicy" => {
                    object["metadata"]["name"] = json!(own);
                    cluster.create(&format!("{GROUP}/validatingadmissionpolicies"), &object);
                }
                "ValidatingAdmissionPolicyBinding" => {
                    object["metadata"]["name"] = json!(own);
                    object["spec"]["policyName"] = json!(own);
                    object["spec"]["paramRef"]["namespace"] = json!(namespace);
                    object["spec"]["matchResources"] =
                        json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}});
                    cluster.create(&format!("{GROUP}/validatingadmissionpolicybindings"), &object);
                }
                other => panic!("a {other} in deployments/admission"),
            }
        }
        let guarded = Self { bed, cluster };
        guarded.await_policies();
        guarded
    }

    /// Until each policy refuses in its own words.
    fn await_policies(&self) {
        let asks: [(&dyn Fn() -> Answer, &str); 3] = [
            (&|| self.define("{"), "spec.config is no JSON"),
            (&|| self.run(NETWORKS, "{"), "networks is no JSON"),
            (&|| self.run(DEFAULT_NETWORK, "{"), "default-network is no JSON"),
        ];
        for (ask, words) in asks {
            let mut last = String::new();
            let is_there = (0..ASKS_MAX).any(|_| {
                last = ask();
                last.contains(words)
            });
            assert!(is_there, "{words}: {last}");
        }
    }

    fn ask(&self, method: &str, path: &str, object: &Value) -> Answer {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        match self.cluster.ask(method, path, Some((kind, object))) {
            (200 | 201, _) => String::new(),
            (422, refusal) => {
                let text = refusal["message"].as_str().unwrap();
                text.split_once("denied request: ").map_or(text, |(_, words)| words).to_owned()
            }
            (code, answer) => panic!("{method} {path}: {code} {answer}"),
        }
    }

    /// A definition that is not kept.
    fn define(&self, config: &str) -> Answer {
        let path = cluster::definitions(self.cluster.namespace(), "") + "?dryRun=All";
        self.ask("POST", &path, &nad(config))
    }

    /// A pod that is not kept.
    fn run(&self, key: &str, value: &str) -> Answer {
        let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", self.cluster.namespace());
        self.ask("POST", &path, &pod(key, value))
    }

    /// What `plexus validate` finds of an object: its errors.
    fn validated(&self, object: &Value) -> String {
        let file = self.bed.file("validate.json", &object.to_string()).display().to_string();
        let output = plexus(&["validate", "-o", "json", &file]);
        let found: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        let errors = found.as_array().unwrap().iter().filter(|finding| finding["level"] == "error");
        errors.map(|finding| finding["what"].to_string()).collect()
    }
}

fn nad(config: &str) -> Value {
    json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": {"name": "x"},
        "spec": {"config": config}})
}

fn pod(key: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "annotations": {key: value}},
        "spec": {"nodeName": "node", "containers": [{"name": "main", "image": "none"}]}})
}

fn definitions() {
    let guarded = Guarded::new(&[]);
    for config in [
        r#"{"type": "macvlan"}"#,
        " {\n\t\"type\" : \"macvlan\"\n}\r\n",
        r#"{"cniVersion": "0.3.0", "type": "macvlan", "master": "eth1", "mode": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.10.0.0/16", "rangeStart": "10.10.1.20", "rangeEnd": "10.10.3.50", "gateway": "10.10.0.254"}]]}}"#,
        r#"{"cniVersion": "0.3.0", "type": "macvlan", "ipam": {"type": "host-local", "subnet": "192.168.2.0/24", "rangeStart": "192.168.2.200", "rangeEnd": "192.168.2.216", "routes": [{"dst": "0.0.0.0/0"}], "gateway": "192.168.2.1"}}"#,
        r#"{"cniVersion": "0.3.1", "plugins": [{"type": "bridge", "bridge": "b\"type\": \"evil\"", "vlan": 100, "mtu": 9000, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.2.0.0/24"}], [{"subnet": "fd00::/64", "rangeEnd": "fd00::9"}]]}}, {"type": "tuning", "capabilities": {"mac": true}, "sysctl": {"net.core.somaxconn": "500"}}]}"#,
        "",
        "  \n",
    ] {
        assert_eq!(guarded.define(config), "", "{config}");
    }
    let refused = [
        (r#"{"type": "macvlan",}"#, "a comma, a colon or a bracket is missing, or one too many"),
        (r#"{'type': "macvlan"}"#, "from character 2 on it cannot be read: 'type'"),
        (r#"{"type": "macvlan", "a": tru}"#, "from character 26 on it cannot be read: tru}"),
        (r#"{"type": "macvlan"}, {}"#, "a comma, a colon or a bracket is missing, or one too many"),
        ("[]", r#"spec.config is no JSON object; write {"cniVersion": "1.0.0", "type": ...}"#),
        (r#"{"type": 5}"#, r#"no plugin has a type; write "type":"#),
        (r#"{"plugins": []}"#, r#"no plugin has a type; write "type":"#),
        (r#"{"type": "evil"}"#, r#"type "evil" is not allowed in this cluster; write one of: bridge, ptp,"#),
        (r#"{"type": "dummy", "ipam": {"TyPe" : "evil"}}"#, r#"type "evil" is not allowed"#),
        (r#"{"type": "dummy", "\u0074ype": "evil"}"#, "a key has a backslash; write its characters themselves"),
        (r#"{"cniVersion": "9.0.0", "type": "dummy"}"#, r#"cniVersion 9.0.0 is not known; write "1.0.0""#),
        (
            r#"{"type": "macvlan", "ipam": {"type": "host-local", "subnet": "10.1.0.5/24"}}"#,
            "subnet 10.1.0.5/24 is no network; write it as \"10.1.0.0/16\"",
        ),
        (r#"{"type": "macvlan", "ipam": {"type": "host-local", "subnet": "ten"}}"#, "subnet ten is no network"),
        (
            r#"{"type": "macvlan", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "rangeStart": "10.2.0.5"}}"#,
            "rangeStart is not in the subnet",
        ),
        (
            r#"{"type": "macvlan", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.5", "routes": []}}"#,
            "10.2.0.5 is not in the subnet 10.1.0.0/24; write an address that is",
        ),
        (
            r#"{"type": "macvlan", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.5"}], [{"subnet": "10.2.0.0/24"}]]}}"#,
            "rangeEnd is not in the subnet of its range",
        ),
        (
            r#"{"type": "macvlan", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "gateway": "ten"}}"#,
            "ten is no address; rangeStart, rangeEnd and gateway are",
        ),
        (r#"{"type": "macvlan", "mtu": 70000}"#, "an mtu is none; write a number from 68 to 65535"),
        (r#"{"type": "bridge", "vlan": 5000}"#, "a vlan is none; write a number from 1 to 4094"),
    ];
    for (config, words) in refused {
        let answer = guarded.define(config);
        assert!(answer.contains(words), "{config}: {answer:?}");
        let is_policy = words.contains("evil") || words.contains("backslash") || config.contains("TyPe");
        assert!(
            is_policy || !guarded.validated(&nad(config)).is_empty(),
            "`plexus validate` does not see it: {config}"
        );
    }
    let large = format!(r#"{{"type": "dummy", "x": "{}"}}"#, "x".repeat(33_000));
    assert!(guarded.define(&large).contains("more than 32768 bytes"));
    let deep = format!(r#"{{"type": "dummy", "x": {}{}}}"#, "[".repeat(40), "]".repeat(40));
    assert!(guarded.define(&deep).contains("nested deeper"));
    let many: Vec<String> =
        (0..250).map(|i| format!(r#"[{{"subnet": "10.1.{i}.0/24", "rangeStart": "10.1.{i}.5"}}]"#)).collect();
    let wide = format!(r#"{{"type": "macvlan", "ipam": {{"type": "host-local", "ranges": [{}]}}}}"#, many.join(","));
    assert_eq!(guarded.define(&wide), "", "what is large costs no more than the server allows");
}

fn annotations() {
    let guarded = Guarded::new(&[]);
    for networks in [
        "",
        "a",
        "a, other/b.c@lan0 ,d @ x",
        "[]",
        r#"[{"name": "a"}, {"name": "a"}]"#,
        r#"[{"name": "a", "namespace": "o", "ips": ["10.0.0.1/24", "fd00::1"], "mac": "02-00-00-00-00-01", "interface": "x", "default-route": ["10.0.0.1"], "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "TCP"}], "bandwidth": {"ingressRate": 1, "ingressBurst": 1}, "cni-args": {"k": "\"deviceID\": \"x\""}}]"#,
    ] {
        assert_eq!(guarded.run(NETWORKS, networks), "", "{networks}");
    }
    for (networks, words) in [
        (
            "a,",
            r#"the annotation k8s.v1.cni.cncf.io/networks has ""; write [NAMESPACE/]NETWORK[@INTERFACE], by commas"#,
        ),
        ("A b", r#"has "A b"; write"#),
        ("a@sixteen-bytes-xx", r#"has "a@sixteen-bytes-xx""#),
        ("a@x@y", r#"has "a@x@y""#),
        ("a@x, b@x", "two networks want one interface; write another name for one of them"),
        (r#"{"name": "a"}"#, r#"is no list; write [{"name": "NETWORK"}], or NETWORK"#),
        (r#"[{"name": "a"},]"#, "a comma, a colon or a bracket is missing, or one too many"),
        (r#"[{"name": "a", "deviceID": "0000:00:00.1"}]"#, "a pod cannot name a device; leave deviceID out"),
        (r#"[{"name": "a", "DeviceId": "0000:00:00.1"}]"#, "a pod cannot name a device"),
        (r#"[{"name": "a", "device\u0049D": "0000:00:00.1"}]"#, "a key has a backslash"),
        (r#"[{"name": "a", "ips": ["10.0.0.1", "ten"]}]"#, "ten is no address; write it as"),
        (r#"[{"name": "a", "default-route": ["10.0.0.300"]}]"#, "10.0.0.300 is no address"),
        (r#"[{"name": "a", "mac": "01:00:00:00:00:01"}]"#, "a mac is not the address of one host; write six bytes"),
        (r#"[{"name": "a", "mac": "02:00"}]"#, "a mac is not the address of one host"),
        (r#"[{"name": "a", "interface": "a/b"}]"#, "an interface has no name that the kernel takes"),
        (r#"[{"name": "a", "interface": "x"}, {"name": "b", "interface": "x"}]"#, "two networks want one interface"),
        (
            r#"[{"name": "a", "portMappings": [{"hostPort": 99999, "containerPort": 1}]}]"#,
            "a port is none; write a number from 1 to 65535",
        ),
    ] {
        let answer = guarded.run(NETWORKS, networks);
        assert!(answer.contains(words), "{networks}: {answer:?}");
        let is_policy = words.contains("backslash");
        assert!(is_policy || !guarded.validated(&pod(NETWORKS, networks)).is_empty(), "`plexus validate`: {networks}");
    }
    for (default, words) in [
        ("a", ""),
        (r#"[{"name": "a", "namespace": "o"}]"#, ""),
        ("a,b", "names not exactly one network; write one, or leave the annotation out"),
        ("", "names not exactly one network"),
        ("[]", "names not exactly one network"),
        ("A", r#"the annotation v1.multus-cni.io/default-network has "A""#),
    ] {
        let answer = guarded.run(DEFAULT_NETWORK, default);
        assert!(answer.contains(words) && answer.is_empty() == words.is_empty(), "{default}: {answer:?}");
    }
}

/// What is a value of an address plugin here.
fn pool(key: &str) -> String {
    format!(r#"{{"type": "macvlan", "ipam": {{"type": "host-local", "subnet": "10.1.0.0/24", {key}}}}}"#)
}

/// Definitions, and whether they are taken.
fn judged() -> Vec<(String, bool)> {
    vec![
        (pool(r#""gateway": """#), true),
        (pool(r#""rangeStart": "", "rangeEnd": """#), true),
        (pool(r#""rangeStart": null"#), true),
        (pool(r#""gateway": "10.1.0.1/24""#), false),
        (r#"{"cniVersion": "", "type": "macvlan"}"#.to_owned(), true),
        (r#"{"type": "macvlan", "plugins": null}"#.to_owned(), true),
        (r#"{"type": "macvlan", "plugins": []}"#.to_owned(), true),
        (r#"{"Type": "macvlan"}"#.to_owned(), true),
        (r#"{"plugins": [{"Type": "macvlan"}]}"#.to_owned(), true),
        (r#"{"plugins": null, "x": {"type": "macvlan"}}"#.to_owned(), false),
        (r#"{"Plugins": [{"type": "macvlan"}]}"#.to_owned(), false),
        (r#"{"plugins": [null, {"type": "macvlan"}]}"#.to_owned(), false),
        (r#"{"type": "", "x": {"type": "macvlan"}}"#.to_owned(), false),
        (r#"{"type": "macvlan", "mtu": null}"#.to_owned(), true),
        (r#"{"type": "macvlan", "mtu": "1500"}"#.to_owned(), false),
        (r#"{"type": "macvlan", "mtu": 1500.5}"#.to_owned(), false),
        (r#"{"type": "macvlan", "mtu": 15e2}"#.to_owned(), false),
        ("{\"type\": \"bridge\", \"vlan\" :\t4094}".to_owned(), true),
        (r#"{"type": "bridge", "vlan": 4094.5}"#.to_owned(), false),
        (r#"{"type": "bridge", "vlan": "5"}"#.to_owned(), false),
    ]
}

/// Whether it is taken, said here; `plexus validate`, which asks the parsers of ADD, and the server agree.
fn verdict() {
    let guarded = Guarded::new(&[]);
    for (config, is_taken) in &judged() {
        let (answer, found) = (guarded.define(config), guarded.validated(&nad(config)));
        assert_eq!((answer.is_empty(), found.is_empty()), (*is_taken, *is_taken), "{config}: {answer:?}, {found:?}");
    }
    let answer = guarded.define(r#"{"type": "evil\"bridge"}"#);
    assert!(answer.contains("is not allowed in this cluster"), "a name that ends like an allowed one: {answer:?}");
    let annotations = [
        (r#"[{"name": "a", "mac": "0200.0000.0001"}]"#, true),
        (r#"[{"name": "a", "mac": "02-00-00-00-00-0A"}]"#, true),
        (r#"[{"name": "a", "mac": "", "ips": null, "interface": "", "deviceID": ""}]"#, true),
        (r#"[{"name": "a", "mac": "0000.0000.0000"}]"#, false),
        (r#"[{"name": "a", "mac": "0100.0000.0001"}]"#, false),
        (r#"[{"name": "a", "mac": "02-00:00:00:00:01"}]"#, false),
        (r#"[{"name": "a", "mac": "02:00:00:00:00:00:00:01"}]"#, false),
        (r#"[{"name": "a", "interface": "x", "interfaceRequest": "x"}]"#, true),
        (r#"[{"name": "a", "interface": "x", "interfaceRequest": "z"}, {"name": "b", "interfaceRequest": "z"}]"#, true),
        (r#"[{"name": "a", "interface": "x"}, {"name": "b", "interfaceRequest": "x"}]"#, false),
        (
            r#"[{"name": "a", "cni-args": {"mac": "x", "ips": ["x"], "deviceID": "x", "interface": "x"}}, {"name": "b", "interface": "x"}]"#,
            true,
        ),
        ("[{\"name\": \"a\", \"ips\": [\n", false),
        ("[{\"name\": \"a\", \"ips\": [\n\"ten\"]}]", false),
        ("[{\"name\": \"a\", \"ips\": [\n\"10.0.0.1\",\n\"fd00::1\"]}]\n", true),
        (r#"[{"name": "a", "ips": []}]"#, false),
        (r#"[{"name": "a", "default-route": []}]"#, true),
        (r#"[{"name": "a", "default-route": ["10.0.0.1/24"]}]"#, false),
        (r#"[{"name": "a", "portMappings": [{"hostPort": 8e9, "containerPort": 1}]}]"#, false),
        (r#"[{"name": "a", "portMappings": [{"hostPort": "80", "containerPort": 1}]}]"#, false),
        (r#"[{"name": "a", "portMappings": [{"hostPort": 80.5, "containerPort": 1}]}]"#, false),
        (r#"[{"name": "a", "interface": "x%d"}]"#, false),
        (r#"[{"name": "a", "interface": "a\u001b[2J"}]"#, false),
        ("[{\"name\": \"a\", \"interface\": \"a\u{7f}\"}]", false),
        ("a@x%d", false),
        (r#"[{"NAME": "a", "Namespace": "o"}]"#, true),
        (r#"[{"name": "A"}]"#, false),
        (r#"[{"name": "a", "namespace": "B"}]"#, false),
        (r#"[{"cni-args": {"name": "a"}}]"#, false),
        ("[5]", false),
        ("[[]]", false),
        (r#""a""#, false),
    ];
    for (networks, is_taken) in annotations {
        let (answer, found) = (guarded.run(NETWORKS, networks), guarded.validated(&pod(NETWORKS, networks)));
        assert_eq!((answer.is_empty(), found.is_empty()), (is_taken, is_taken), "{networks}: {answer:?}, {found:?}");
    }
}

/// As many bytes as the policies look at, with a network that is refused in the end.
fn cost() {
    let guarded = Guarded::new(&[]);
    let network = |i: usize, mac: &str| {
        let arguments = r#"{"k": [{"l": {"m": [1, 2, {"n": "o"}]}}], "p": "qrstuvwxyz qrstuvwxyz qrstuvwxyz qrstuvwxyz qrstuvwxyz qrstuvwxyz qrstuvwxyz qrstuvwxyz"}"#;
        format!(
            r#"{{"name": "a{i}", "interface": "if{i}", "mac": "{mac}", "ips": ["10.0.{i}.1/24", "fd00::{i}"], "cni-args": {arguments}}}"#
        )
    };
    let list = |mac: &str| {
        let all: Vec<String> = (0..128).map(|i| network(i, if i == 127 { mac } else { "02:00:00:00:00:01" })).collect();
        format!("[{}]", all.join(", "))
    };
    for key in [NETWORKS, DEFAULT_NETWORK] {
        let (good, bad) = (list("02:00:00:00:00:02"), list("01:00:00:00:00:02"));
        assert!((30_000..=32_768).contains(&good.len()), "{}", good.len());
        let answer = guarded.run(key, &good);
        let words = if key == NETWORKS { "" } else { "names not exactly one network" };
        assert!(answer.contains(words) && answer.is_empty() == words.is_empty(), "{answer}");
        assert!(guarded.run(key, &bad).contains("a mac is not the address of one host"));
        let answer = guarded.run(
            key,
            &list("02:00:00:00:00:02").replacen('{', r#"{"namespace": "x", "#, 1).replacen("if5\"", "if4\"", 1),
        );
        assert!(answer.contains("two networks want one interface"), "{answer}");
    }
}

fn templates() {
    let guarded = Guarded::new(&[]);
    let namespace = guarded.cluster.namespace().to_owned();
    let metadata = |networks: &str| json!({"labels": {"a": "b"}, "annotations": {NETWORKS: networks}});
    let containers = json!([{"name": "main", "image": "none"}]);
    let workload = |spec: Value| json!({"metadata": {"name": "x"}, "spec": spec});
    let deployment = |networks: &str| {
        workload(json!({"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": metadata(networks), "spec": {"containers": containers}}}))
    };
    let cron_job = |networks: &str| {
        workload(json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"metadata": metadata(networks),
            "spec": {"restartPolicy": "Never", "containers": containers}}}}}))
    };
    for (collection, object) in
        [("/apis/apps/v1", Box::new(deployment) as Box<dyn Fn(&str) -> Value>), ("/apis/batch/v1", Box::new(cron_job))]
    {
        let plural = if collection.contains("apps") { "deployments" } else { "cronjobs" };
        let path = format!("{collection}/namespaces/{namespace}/{plural}?dryRun=All");
        assert_eq!(guarded.ask("POST", &path, &object("lan")), "", "{plural}");
        assert!(guarded.ask("POST", &path, &object("Lan")).contains(r#"has "Lan""#), "{plural}");
    }
}

fn there_already() {
    let guarded = Guarded::new(&[("allowedTypes", "*")]);
    let namespace = guarded.cluster.namespace().to_owned();
    let definition = cluster::definitions(&namespace, "kept");
    // Not of the name that attempts have: until the server has read its parameters again, it says that one is there already.
    guarded.cluster.definition_in(&namespace, "kept", r#"{"type": "evil"}"#, &[]);
    guarded.cluster.pod("a", &[(NETWORKS, "lan@x")]);
    let narrower = json!({"data": {"allowedTypes": "dummy"}});
    guarded.cluster.patch(&format!("/api/v1/namespaces/{namespace}/configmaps/plexus-admission"), &narrower);
    assert!(
        (0..ASKS_MAX).any(|_| guarded.define(r#"{"type": "evil"}"#).contains("evil")),
        "the parameters are read again"
    );
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(guarded.ask("PATCH", &definition, &label), "");
    let change = |config: &str| json!({"spec": {"config": config}});
    assert!(guarded.ask("PATCH", &definition, &change(r#"{"type": "evil", "mtu": 1400}"#)).contains("evil"));
    assert_eq!(guarded.ask("PATCH", &definition, &change(r#"{"type": "dummy"}"#)), "");
    let pod = format!("/api/v1/namespaces/{namespace}/pods/a");
    assert_eq!(guarded.ask("PATCH", &pod, &label), "");
    let networks = |text: &str| json!({"metadata": {"annotations": {NETWORKS: text}}});
    assert!(guarded.ask("PATCH", &pod, &networks("lan@x,lan@x")).contains("two networks want one interface"));
    assert_eq!(guarded.ask("PATCH", &pod, &networks("lan@y")), "");
    guarded.cluster.delete_definition("kept");
}

fn parameters() {
    let guarded = Guarded::new(&[
        ("allowedTypes", "evil, dummy"),
        ("namespaceIsolation", "true"),
        ("globalNamespaces", "shared,open"),
        ("multusNamespace", "networks"),
        ("allowDeviceID", "true"),
    ]);
    let own = guarded.cluster.namespace().to_owned();
    assert_eq!(guarded.define(r#"{"type": "evil", "ipam": {"type": "dummy"}}"#), "");
    let answer = guarded.define(r#"{"type": "macvlan"}"#);
    assert!(
        answer.contains("write one of: evil, dummy, or have it added to allowedTypes of the ConfigMap"),
        "{answer}"
    );
    assert_eq!(guarded.run(NETWORKS, r#"[{"name": "a", "deviceID": "x"}]"#), "");
    for (networks, is_open) in [
        ("a".to_owned(), true),
        (format!("{own}/a, shared/b"), true),
        (r#"[{"name": "a", "namespace": "open"}, {"name": "b"}]"#.to_owned(), true),
        ("a, other/b".to_owned(), false),
        (r#"[{"name": "a"}, {"name": "b", "namespace": "other"}]"#.to_owned(), false),
        ("networks/a".to_owned(), false),
    ] {
        let answer = guarded.run(NETWORKS, &networks);
        assert_eq!(answer.is_empty(), is_open, "{networks}: {answer}");
        assert!(
            is_open || answer.contains(&format!("may not be used from {own}; write a network of this namespace")),
            "{answer}"
        );
    }
    assert_eq!(
        guarded.run(DEFAULT_NETWORK, "networks/a"),
        "",
        "what is the administrator's may be the default network"
    );
    assert!(guarded.run(DEFAULT_NETWORK, "other/a").contains("networks of namespace other may not be used"));
}

/// Texts that are changed in one or two places: the server refuses exactly those that serde_json refuses.
fn grammar() {
    let guarded = Guarded::new(&[("allowedTypes", "*")]);
    let whole = r#"{"type":"a","b":[1,-2.5e3,"x\"y",{},[]],"c":{"d":null,"e":[[{"f":true}]]}}"#;
    let parts = ["", ",", ":", "{", "}", "[", "]", "\"", "1", " ", "\"s\"", "{}", "\\", "tru", "0"];
    let mut refused = 0;
    for number in 0..400_usize {
        // Each place and each part comes; the second change wanders over both.
        let at = |step: usize| (number * step) % whole.len();
        let mut changed = whole.to_owned();
        changed.replace_range(at(7)..at(7) + (number % 2), parts[number % parts.len()]);
        if number % 3 == 0 {
            let place = at(11).min(changed.len() - 1);
            changed.replace_range(place..place, parts[(number / 3) % parts.len()]);
        }
        let is_json = serde_json::from_str::<Value>(&changed).is_ok();
        let answer = guarded.define(&changed);
        let is_taken = !answer.contains("is no JSON") && !answer.contains("nested deeper");
        assert_eq!(is_taken, is_json, "{changed}: {answer:?}");
        refused += usize::from(!is_json);
    }
    assert!((100..400).contains(&refused), "{refused}");
}
