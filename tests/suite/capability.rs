//! What of an annotation reaches an executed plugin: the capabilities it declares, and no other. It knows what such a
//! plugin is sent, not how plexus gets it there.

use std::fs;

use serde_json::{Map, Value, json};

use crate::case::Case;
use crate::meta::{Node, definition, node, statuses};

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("capability::each_plugin_gets_what_it_declares", &[], each_gets_its_own),
        Case::new("capability::an_executed_plugin_alone_gets_it_too", &[], alone),
        Case::new("capability::nobody_declares_it", &[], nobody),
        Case::new("capability::nothing_is_asked_for", &[], nothing_asked),
        Case::new("capability::what_only_the_arguments_tell_is_said", &[], by_arguments),
        Case::new("capability::an_identifier_by_arguments_is_in_the_status", &[], identifier_by_arguments),
    ]
}

/// Keeps what it is sent in `/run/scratch/sent`, and passes on the result it got.
const KEEPS: &str = r#"mkdir -p /run/scratch/sent; conf=$(cat)
printf '%s' "$conf" >"/run/scratch/sent/${0##*/}-$CNI_COMMAND"
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq '.prevResult // {"cniVersion": .cniVersion}'"#;

fn with_plugins(names: &[&str]) -> Node {
    let node = node();
    for name in names {
        node.script(name, KEEPS);
    }
    node
}

fn network(node: &Node, plugins: &Value) {
    let conf = json!({"cniVersion": "1.0.0", "name": "wide", "plugins": plugins});
    definition(&node.bed, "default", "wide", &conf.to_string());
}

fn bridge() -> Value {
    json!({"type": "bridge", "bridge": "green0", "ipam": {"type": "host-local", "subnet": "10.5.0.0/24"}})
}

/// The request for all three, as an annotation.
fn everything() -> Value {
    json!([{
        "name": "wide",
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000, "egressBurst": 4000},
        "infiniband-guid": "c2:11:22:33:44:55:66:77",
    }])
}

/// `runtimeConfig` that the plugin was sent; empty where there is none.
fn sent(plugin: &str, command: &str) -> Map<String, Value> {
    let text = fs::read_to_string(format!("/run/scratch/sent/{plugin}-{command}")).unwrap();
    let conf: Value = serde_json::from_str(&text).unwrap();
    conf["runtimeConfig"].as_object().cloned().unwrap_or_default()
}

fn each_gets_its_own() {
    let node = with_plugins(&["ports", "rates", "guid", "none"]);
    network(
        &node,
        &json!([bridge(),
            {"type": "ports", "capabilities": {"portMappings": true}},
            {"type": "rates", "capabilities": {"bandwidth": true, "portMappings": false}},
            {"type": "guid", "capabilities": {"infinibandGUID": true, "mac": true}},
            {"type": "none"}]),
    );
    node.add("a", &everything().to_string());
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "a").run().ok();
    let asked = everything();
    for command in ["ADD", "CHECK", "DEL"] {
        let runtime = |plugin| Value::Object(sent(plugin, command));
        assert_eq!(runtime("ports"), json!({"portMappings": asked[0]["portMappings"]}), "{command}");
        assert_eq!(runtime("rates"), json!({"bandwidth": asked[0]["bandwidth"]}), "{command}");
        assert_eq!(runtime("guid"), json!({"infinibandGUID": asked[0]["infiniband-guid"]}), "{command}");
        assert_eq!(runtime("none"), json!({}), "{command}");
    }
    node.assert_clean();
}

fn alone() {
    let node = with_plugins(&["all"]);
    let conf = json!({"cniVersion": "1.0.0", "name": "wide", "type": "all",
        "capabilities": {"portMappings": true, "bandwidth": true, "infinibandGUID": true}});
    definition(&node.bed, "default", "wide", &conf.to_string());
    node.add("a", &everything().to_string());
    let keys: Vec<String> = sent("all", "ADD").keys().cloned().collect();
    assert_eq!(keys, ["bandwidth", "infinibandGUID", "portMappings"]);
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// What was asked for and nobody does is refused before anything is done, by its name.
fn nobody() {
    let node = with_plugins(&["ports"]);
    network(&node, &json!([bridge(), {"type": "ports", "capabilities": {"portMappings": true}}]));
    for (key, capability) in [("bandwidth", "bandwidth"), ("infiniband-guid", "infinibandGUID")] {
        let asked = json!([{"name": "wide", key: everything()[0][key]}]);
        node.pod("a", &[("k8s.v1.cni.cncf.io/networks", &asked.to_string())]);
        node.call("ADD", "a").run().fails(7, capability);
        assert_eq!(node.bed.links("a"), ["lo"], "{key}");
    }
    assert!(!fs::exists("/run/scratch/sent").unwrap());
}

fn nothing_asked() {
    let node = with_plugins(&["ports"]);
    network(&node, &json!([bridge(), {"type": "ports", "capabilities": {"portMappings": true}}]));
    node.add("a", "wide");
    assert_eq!(sent("ports", "ADD"), Map::new());
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// A network whose plugins do not declare what is asked for, but may read it in CNI_ARGS: attached, and said; refused where the
/// standard's letter is wanted; nothing is said where it is declared.
fn by_arguments() {
    let mut node = with_plugins(&["all"]);
    let fixed = json!({"type": "bridge", "bridge": "green0", "ipam": {"type": "static"}});
    let chained = json!({"type": "tuning"});
    let (ips, mac) = (json!({"ips": ["10.5.0.77/24"]}), json!({"mac": "02:00:00:00:00:77"}));
    for (plugins, asked, capability) in [
        (vec![bridge()], &ips, "ips"),
        (vec![fixed], &ips, "ips"),
        (vec![bridge()], &mac, "mac"),
        (vec![bridge(), chained], &mac, "mac"),
        (vec![bridge(), json!({"type": "all"})], &mac, "mac"),
    ] {
        let mut request = json!([{"name": "wide"}]);
        request[0].as_object_mut().unwrap().extend(asked.as_object().unwrap().clone());
        node.pod("a", &[("k8s.v1.cni.cncf.io/networks", &request.to_string())]);
        network(&node, &json!(plugins));
        let said = format!(
            "network \"default/wide\": no plugin declares the capability {capability}; it is passed in CNI_ARGS. Better write \
             \"capabilities\": {{\"{capability}\": true}} into the definition"
        );
        node.conf["strictCapabilities"] = json!(true);
        let refusal = format!("no plugin of it has the capability \"{capability}\"");
        node.call("ADD", "a").run().fails(7, &refusal);
        assert_eq!(node.bed.links("a"), ["lo"], "{plugins:?}");
        node.conf["strictCapabilities"] = json!(false);
        let answer = node.call("ADD", "a").run();
        answer.ok();
        assert_eq!(answer.stderr.matches(&said).count(), 1, "{plugins:?}: {}", answer.stderr);
        let shown = node.bed.ip("-n a addr show dev net1");
        let value = asked.as_object().unwrap().values().next().unwrap();
        let value = value.as_str().or(value[0].as_str()).unwrap();
        assert!(shown.contains(value), "{plugins:?}: {shown}");
        node.call("DEL", "a").run().ok();
        let declared: Vec<Value> = plugins
            .into_iter()
            .map(|mut plugin| {
                plugin["capabilities"] = json!({capability: true});
                plugin
            })
            .collect();
        network(&node, &json!(declared));
        for is_strict in [false, true] {
            node.conf["strictCapabilities"] = json!(is_strict);
            let answer = node.call("ADD", "a").run();
            answer.ok();
            assert_eq!(answer.stderr, "", "{declared:?}");
            node.call("DEL", "a").run().ok();
        }
    }
    node.assert_clean();
}

/// `ib-sriov` takes it so; to another plugin an argument of that name may be anything.
fn identifier_by_arguments() {
    let guid = "c2:11:22:33:44:55:66:77";
    let node = with_plugins(&["ib-sriov", "other"]);
    for (plugin, told) in [("ib-sriov", json!(guid)), ("other", Value::Null)] {
        network(&node, &json!([bridge(), {"type": plugin, "deviceID": "0000:09:00.0"}]));
        node.add("a", &json!([{"name": "wide", "cni-args": {"guid": guid}}]).to_string());
        let status = statuses();
        assert_eq!((status.len(), &status[0][1]["name"]), (1, &json!("default/wide")));
        assert_eq!(status[0][1].get("infiniband-guid"), Some(&told).filter(|told| !told.is_null()), "{plugin}");
        node.call("DEL", "a").run().ok();
    }
    node.assert_clean();
}
