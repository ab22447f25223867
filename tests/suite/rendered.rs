//! What `deployments/` renders to, as kustomize and helm render it: the real API server takes every object as it is written, nothing asks
//! for more of a node than it must, the chart says what the overlays say, and what is plotted and alerted of is what the daemon counts.
//! It knows no cluster's nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::{Value, json};

use crate::case::Case;
use crate::kube::{Cluster, server};
use crate::need::Need;
use crate::testbed::Testbed;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deployments");
const OVERLAYS: [&str; 6] = ["daemon", "oneshot", "sriov", "from-multus", "monitored", "tainted"];
/// Each overlay as the chart has it.
const VALUES: [(&str, &str); 6] = [
    ("daemon", "mode=daemon"),
    ("oneshot", "mode=oneshot"),
    ("sriov", "sriov.enabled=true"),
    ("from-multus", "fromMultus.enabled=true"),
    ("monitored", "metrics.exposed=true,metrics.podMonitor=true,metrics.rules=true,metrics.dashboard=true"),
    ("tainted", "startupTaint.enabled=true"),
];
const CRD: &str = "network-attachment-definitions.k8s.cni.cncf.io";
const METRICS: &str = include_str!("../../docs/metrics.md");

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let (server, both) = (&[Need::ApiServer], &[Need::ApiServer, Need::Helm]);
    vec![
        Case::new("deploy::rendered::overlays_are_taken_by_the_server", server, overlays),
        Case::new("deploy::rendered::the_chart_is_taken_by_the_server", both, chart),
        Case::new("deploy::rendered::the_chart_says_what_the_overlays_say", both, equal),
        Case::new("deploy::rendered::no_overlay_takes_the_definitions_away", &[Need::ApiServer], definitions),
        Case::new("deploy::rendered::one_release_follows_another", both, followed),
        Case::new("deploy::rendered::mistakes_in_values_are_refused", &[Need::Helm], values),
        Case::new("deploy::rendered::no_pod_asks_for_more_than_it_needs", server, modest),
        Case::new("deploy::rendered::what_is_plotted_is_counted", &[Need::ApiServer, Need::Macvlan], plotted),
    ]
}

/// Documents that a tool prints, by kind and name.
type Objects = BTreeMap<(String, String), Value>;

fn printed(command: &mut Command) -> Result<Objects, String> {
    let output = command.output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    let documents = plexus::yaml::documents(&String::from_utf8(output.stdout).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let named = |object: Value| ((text(&object["kind"]), text(&object["metadata"]["name"])), object);
    Ok(documents.into_iter().filter(|object| !object.is_null()).map(named).collect())
}

fn overlay(name: &str) -> Objects {
    kustomized(&format!("overlays/{name}"))
}

fn kustomized(folder: &str) -> Objects {
    let mut command = Command::new(server::programs().unwrap().join("kubectl"));
    printed(command.arg("kustomize").arg(format!("{FOLDER}/{folder}"))).unwrap()
}

fn helm(namespace: &str, values: &str) -> Result<Objects, String> {
    let mut command = Command::new(server::helm().unwrap());
    let words = ["template", "plexus", "--kube-version", "1.35.4", "--namespace", namespace];
    printed(command.args(words).arg(format!("{FOLDER}/chart")).args(["--set", values]))
}

/// Where objects of a kind are.
fn path_of(object: &Value) -> String {
    let places = [
        ("ConfigMap", "configmaps"),
        ("ServiceAccount", "serviceaccounts"),
        ("DaemonSet", "daemonsets"),
        ("Deployment", "deployments"),
        ("ClusterRole", "clusterroles"),
        ("ClusterRoleBinding", "clusterrolebindings"),
        ("CustomResourceDefinition", "customresourcedefinitions"),
        ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
        ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
        ("PodMonitor", "podmonitors"),
        ("PrometheusRule", "prometheusrules"),
    ];
    let kind = object["kind"].as_str().unwrap();
    let (_, plural) = places.into_iter().find(|(known, _)| *known == kind).unwrap_or_else(|| panic!("a {kind}"));
    let version = object["apiVersion"].as_str().unwrap();
    let group = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let name = object["metadata"]["name"].as_str().unwrap();
    match object["metadata"].get("namespace") {
        Some(namespace) => format!("{group}/namespaces/{}/{plural}/{name}", namespace.as_str().unwrap()),
        None => format!("{group}/{plural}/{name}"),
    }
}

/// The Prometheus operator's kinds, as far as this server has to know them.
fn with_operator(cluster: &Cluster) {
    for (kind, plural) in [("PodMonitor", "podmonitors"), ("PrometheusRule", "prometheusrules")] {
        let group = "monitoring.coreos.com";
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {"group": group, "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": open}}]}});
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let (code, answer) = cluster.ask("POST", path, Some(("application/json", &definition)));
        // Another case may have made it.
        assert!(matches!(code, 201 | 409), "{answer}");
        let served = || cluster.ask("GET", &format!("/apis/{group}/v1/{plural}"), None).0 == 200;
        assert!((0..10_000).any(|_| served()), "{plural} are never served");
    }
}

/// The server takes each object, field by field, as it would if it were not asked to forget it.
fn taken(cluster: &Cluster, what: &str, objects: &Objects) {
    for object in objects.values() {
        let path = format!("{}?dryRun=All&fieldManager=tests&force=true&fieldValidation=Strict", path_of(object));
        let (code, answer) = cluster.ask("PATCH", &path, Some(("application/apply-patch+yaml", object)));
        assert!(matches!(code, 200 | 201), "{what}: {path}: {answer}");
    }
}

fn overlays() {
    let bed = Testbed::new();
    let cluster = Cluster::of(&bed);
    with_operator(&cluster);
    for name in OVERLAYS {
        taken(&cluster, name, &overlay(name));
    }
    taken(&cluster, "base", &kustomized("base"));
    for file in ["uninstall.yaml", "certificates.yaml", "cert-approver.yaml", "chart/crds/definitions.yaml"] {
        let text = std::fs::read_to_string(format!("{FOLDER}/{file}")).unwrap();
        let named = |object: Value| ((object["kind"].to_string(), object["metadata"]["name"].to_string()), object);
        taken(&cluster, file, &plexus::yaml::documents(&text).unwrap().into_iter().map(named).collect());
    }
    let mut wrong = overlay("daemon");
    let set = wrong.get_mut(&("DaemonSet".to_owned(), "plexus".to_owned())).unwrap();
    set["spec"]["template"]["spec"]["prioritiClassName"] = json!("x");
    let path = format!("{}?dryRun=All&fieldManager=tests&fieldValidation=Strict", path_of(set));
    let (code, answer) = cluster.ask("PATCH", &path, Some(("application/apply-patch+yaml", set)));
    assert_ne!(code, 200, "a key that nobody knows is refused: {answer}");
}

fn chart() {
    let bed = Testbed::new();
    let cluster = Cluster::of(&bed);
    with_operator(&cluster);
    for (name, values) in VALUES {
        taken(&cluster, name, &helm(cluster.namespace(), values).unwrap());
    }
    let linted =
        Command::new(server::helm().unwrap()).args(["lint", "--strict"]).arg(format!("{FOLDER}/chart")).output();
    let linted = linted.unwrap();
    assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stdout));
}

fn equal() {
    for (name, values) in VALUES {
        let (overlay, chart) = (overlay(name), helm("kube-system", values).unwrap());
        let (one, other): (Vec<_>, Vec<_>) = (overlay.keys().collect(), chart.keys().collect());
        assert_eq!(one, other, "{name}");
        for (key, object) in &overlay {
            let (mut one, mut other) = (object.clone(), chart[key].clone());
            if key.0 == "ConfigMap" {
                // The same keys, however they are written.
                for object in [&mut one, &mut other] {
                    object["data"] = texts(&object["data"]);
                }
                if name == "oneshot" {
                    one["data"]["daemon-config.json"]["fallback"] = json!("oneshot");
                }
            }
            if key.0 == "DaemonSet" {
                [&mut one, &mut other].into_iter().for_each(sort_mounts);
            }
            assert_eq!(one, other, "{name}: {key:?}");
        }
    }
    for (_, values) in VALUES {
        let elsewhere = helm("elsewhere", values).unwrap();
        assert!(!format!("{elsewhere:?}").contains("kube-system"), "the chart's namespace is the release's: {values}");
    }
    let named = helm("kube-system", "startupTaint.enabled=true,startupTaint.key=example.org/wait").unwrap();
    let named = format!("{named:?}");
    // What is text stays text.
    let values = "image.repository=example.org:5000/a/plexus,fromMultus.enabled=true";
    let mut command = Command::new(server::helm().unwrap());
    command.args(["template", "plexus", "--kube-version", "1.35.4", "--namespace", "kube-system", "--set", values]);
    command.args(["--set-string", "fromMultus.configMap=123,priorityClassName=1e3,image.tag=1"]);
    let texts = printed(command.arg(format!("{FOLDER}/chart"))).unwrap();
    let pod = &texts[&("DaemonSet".to_owned(), "plexus".to_owned())]["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"][0]["configMap"]["name"], "123");
    assert_eq!(pod["priorityClassName"], "1e3");
    assert_eq!(pod["containers"][0]["image"], "example.org:5000/a/plexus:1");
    // Of a node with either kind of address.
    let monitored = "metrics.exposed=true,metrics.podMonitor=true,metrics.port=9999";
    let monitored = format!("{:?}", helm("kube-system", monitored).unwrap());
    assert!(monitored.contains("$1:9999") && monitored.contains("[$1]:9999") && !monitored.contains("9396"));
    assert!(
        named.contains("--startup-taint=example.org/wait") && !named.contains("plexus/not-ready"),
        "in the policy, too"
    );
}

/// What `kubectl delete -k` deletes is what it would apply. The definitions' own definition comes by `base` alone, and by helm, which keeps it.
fn definitions() {
    let is_one = |(kind, _): &&(String, String)| kind == "CustomResourceDefinition";
    let only = |objects: Objects| objects.into_iter().filter(|(key, _)| is_one(&key)).collect::<Objects>();
    for name in OVERLAYS {
        assert!(only(overlay(name)).is_empty(), "{name}");
    }
    let crd = only(kustomized("crd"));
    assert_eq!(crd.keys().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), [CRD]);
    assert_eq!(crd, kustomized("crd"), "and nothing else");
    let (base, mut daemon) = (kustomized("base"), overlay("daemon"));
    daemon.extend(crd.clone());
    assert_eq!(base, daemon, "one command is enough on a fresh cluster");
    let text = std::fs::read_to_string(format!("{FOLDER}/chart/crds/definitions.yaml")).unwrap();
    assert_eq!(plexus::yaml::documents(&text).unwrap(), crd.into_values().collect::<Vec<_>>());
}

/// Each way to have plexus, after each other one, with the same objects: no field that cannot be changed is another, who applies again meets
/// no conflict, and the daemons begin anew where, and only where, their pods are others.
fn followed() {
    let bed = Testbed::new();
    let cluster = Cluster::of(&bed);
    let chart = |values: &str| helm(cluster.namespace(), values).unwrap();
    let kustomized = |name: &str| {
        let text = serde_json::to_string(&overlay(name).into_values().collect::<Vec<_>>()).unwrap();
        let all: Vec<Value> = serde_json::from_str(&text.replace("kube-system", cluster.namespace())).unwrap();
        let named = |object: Value| {
            ((object["kind"].as_str().unwrap().to_owned(), object["metadata"]["name"].to_string()), object)
        };
        all.into_iter().map(named).collect::<Objects>()
    };
    let mut pods = Value::Null;
    let mut generation = 0;
    let mut apply = |manager: &str, objects: &Objects, what: &str| {
        let here = objects.values().filter(|object| object["metadata"]["namespace"] == cluster.namespace());
        for object in
            here.filter(|object| !["PodMonitor", "PrometheusRule"].contains(&object["kind"].as_str().unwrap()))
        {
            let path = format!("{}?fieldManager={manager}&fieldValidation=Strict", path_of(object));
            let (code, answer) = cluster.ask("PATCH", &path, Some(("application/apply-patch+yaml", object)));
            assert!(matches!(code, 200 | 201), "{what} by {manager}: {path}: {answer}");
            if object["kind"] == "DaemonSet" {
                let is_new = answer["spec"]["template"] != pods;
                let now = answer["metadata"]["generation"].as_i64().unwrap();
                assert_eq!(now, generation + i64::from(is_new), "{what} by {manager}");
                (pods, generation) = (answer["spec"]["template"].clone(), now);
            }
        }
        generation
    };
    let ways: Vec<(&str, Objects)> = VALUES.iter().map(|(name, values)| (*name, chart(values))).collect();
    for (name, objects) in ways.iter().chain(ways.iter().rev()) {
        let once = apply("helm", objects, name);
        assert_eq!(apply("helm", objects, name), once, "{name}, once more");
    }
    // In another's hands what both say alike is no conflict.
    let daemon = kustomized("daemon");
    let once = apply("kubectl", &daemon, "daemon");
    assert_eq!(apply("kubectl", &daemon, "daemon"), once);
    // Values of a release that was made before a value was there (`helm upgrade --reuse-values`).
    assert_eq!(chart("startupTaint=null"), chart("mode=daemon"));
}

/// A patch puts what it adds elsewhere than the chart: their order says nothing.
fn sort_mounts(set: &mut Value) {
    let pod = &mut set["spec"]["template"]["spec"];
    let sort = |list: &mut Value| list.as_array_mut().unwrap().sort_by_key(Value::to_string);
    sort(&mut pod["volumes"]);
    sort(&mut pod["containers"][0]["volumeMounts"]);
}

fn texts(data: &Value) -> Value {
    let parsed = data
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, text)| (name.clone(), serde_json::from_str(text.as_str().unwrap()).unwrap()));
    Value::Object(parsed.collect())
}

fn values() {
    for (values, told) in [
        ("mode=thick", "/mode"),
        ("metrics.podMonitor=true", "/metrics/exposed"),
        ("sriov.enabled=yes", "/sriov/enabled"),
        ("fallback=wait", "fallback"),
        ("config.daemonSocketDir=/x", "/config"),
        ("metrics.port=0", "/metrics/port"),
        ("metrics.port=null", "/metrics"),
        ("image.repository=a: b", "/image/repository"),
        ("priorityClassName=high #er", "/priorityClassName"),
        ("fromMultus.configMap=a}", "/fromMultus/configMap"),
        ("startupTaint.key=not ready", "/startupTaint/key"),
    ] {
        let refused = helm("kube-system", values).unwrap_err();
        assert!(refused.contains(told), "{values}: {refused}");
    }
}

fn modest() {
    for name in OVERLAYS {
        let objects = overlay(name);
        let set = &objects[&("DaemonSet".to_owned(), "plexus".to_owned())];
        let pod = &set["spec"]["template"]["spec"];
        for refused in ["hostPID", "hostIPC", "shareProcessNamespace"] {
            assert!(pod.get(refused).is_none(), "{name}: {refused}");
        }
        assert_eq!(pod["priorityClassName"], "system-node-critical");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let root = |volume: &Value| {
            ["/", "/var", "/etc", "/run", "/proc", "/opt", "/usr"]
                .contains(&volume["hostPath"]["path"].as_str().unwrap_or_default())
        };
        assert!(!pod["volumes"].as_array().unwrap().iter().any(root), "{name}");
        let runs = pod["containers"].as_array().unwrap();
        let all = runs.iter().chain(pod["initContainers"].as_array().unwrap());
        for container in all {
            let security = &container["securityContext"];
            assert_ne!(security["privileged"], true, "{name}");
            for (key, value) in [("readOnlyRootFilesystem", true), ("allowPrivilegeEscalation", false)] {
                assert_eq!(security[key], value, "{name}: {key}");
            }
            assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
            let resources = &container["resources"];
            assert!(resources["requests"]["cpu"].is_string() && resources["limits"]["memory"].is_string(), "{name}");
            // A port of a pod in the node's network is the node's: two pods of an upgrade would not fit.
            assert!(container.get("ports").is_none(), "{name}");
        }
        let added: Vec<&Value> =
            runs.iter().map(|container| &container["securityContext"]["capabilities"]["add"]).collect();
        assert_eq!(added, [&json!(["NET_ADMIN", "SYS_ADMIN"])], "{name}: tests/container/run says what each is for");
        assert!(runs[0]["livenessProbe"].is_object() && runs[0]["readinessProbe"].is_object());
    }
}

/// A metric's label, and the values that it has.
type Labels = BTreeMap<(String, String), BTreeSet<String>>;

/// Names of metrics with their types, and their labels with values, of the tables of docs/metrics.md.
fn documented() -> (BTreeMap<String, String>, Labels) {
    let cells = |line: &'static str| -> Vec<String> {
        line.split('|').map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
    };
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = METRICS.lines().filter(|line| line.starts_with("| `")).map(cells).collect();
    let kinds = ["histogram", "counter", "gauge"];
    let names = rows.iter().filter(|row| kinds.contains(&row[1].as_str()));
    let names = names.map(|row| (quoted(&row[0])[0].clone(), row[1].clone())).collect();
    let labels = rows.iter().filter(|row| row.len() == 3 && !kinds.contains(&row[1].as_str()));
    let labels = labels
        .map(|row| ((quoted(&row[0])[0].clone(), quoted(&row[1])[0].clone()), quoted(&row[2]).into_iter().collect()));
    (names, labels.collect())
}

/// A query's series: each name with its matchers.
fn series(query: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(begin) = rest.find(is_word) {
        let word: String = rest[begin..].chars().take_while(|&c| is_word(c)).collect();
        rest = &rest[begin + word.len()..];
        if !["plexus_", "process_"].iter().any(|prefix| word.starts_with(prefix)) {
            continue;
        }
        let mut matchers = Vec::new();
        if let Some(inner) = rest.strip_prefix('{') {
            let (inside, after) = inner.split_once('}').unwrap();
            rest = after;
            for matcher in inside.split("\",").filter(|matcher| !matcher.is_empty()) {
                let (label, value) = matcher.split_once('=').unwrap();
                let value = value.trim_start_matches('~').trim_matches('"');
                matchers.push((label.trim().to_owned(), value.to_owned()));
            }
        }
        found.push((word, matchers));
    }
    found
}

fn queries() -> Vec<String> {
    let objects = overlay("monitored");
    let rules = &objects[&("PrometheusRule".to_owned(), "plexus".to_owned())]["spec"]["groups"][0]["rules"];
    let mut queries: Vec<String> =
        rules.as_array().unwrap().iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()).collect();
    let board = &objects[&("ConfigMap".to_owned(), "plexus-dashboard".to_owned())]["data"]["plexus.json"];
    let board: Value = serde_json::from_str(board.as_str().unwrap()).unwrap();
    for panel in board["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array().unwrap();
        queries.extend(targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()));
    }
    assert!(queries.len() > 30, "{}", queries.len());
    queries
}

/// Labels that are not the daemon's: Prometheus gives them to what it scrapes.
const SCRAPED: [&str; 2] = ["node", "job"];

/// What a daemon does not count while the kernel refuses nothing.
const UNSEEN: &str = "plexus_kernel_errors_total";

fn plotted() {
    let (names, labels) = documented();
    let page = crate::observe::page();
    for query in queries() {
        assert_eq!(query.matches('(').count(), query.matches(')').count(), "{query}");
        let used = series(&query);
        assert!(!used.is_empty() || query.starts_with("up{"), "{query}");
        for (name, matchers) in &used {
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let base = base.filter(|base| names.get(*base).is_some_and(|kind| kind == "histogram"));
            let documented = base.unwrap_or(name);
            assert!(names.contains_key(documented), "{documented} in {query}");
            assert!(base.is_some() || names[documented] != "histogram", "{documented} is a histogram: {query}");
            let line = format!("# TYPE {} ", documented.trim_end_matches("_total"));
            assert!(page.contains(&line) || documented == UNSEEN, "{documented} on the page");
            for (label, values) in matchers.iter().filter(|(label, _)| !SCRAPED.contains(&label.as_str())) {
                let known = labels.get(&(documented.to_owned(), label.clone()));
                let known = known.unwrap_or_else(|| panic!("{documented} has no label {label}: {query}"));
                assert!(values.split('|').all(|value| known.contains(value)), "{label}={values} in {query}: {known:?}");
            }
        }
        let grouped = query.split("by (").skip(1).map(|part| part.split_once(')').unwrap().0);
        for label in grouped.flat_map(|list| list.split(',').map(str::trim)) {
            let has =
                |name: &str| labels.keys().any(|(metric, known)| name.starts_with(metric.as_str()) && known == label);
            let is_known = label == "le" || SCRAPED.contains(&label) || used.iter().any(|(name, _)| has(name));
            assert!(is_known, "by ({label}) in {query}");
        }
    }
}
