//! The defects that Multus is known for, each with the case that shows plexus right, as far as they can be seen without an API
//! server. `DEFECTS.md` beside this file has all of them. It knows the peer's behaviour from the outside only.

use std::fs;

use serde_json::{Value, json};

use crate::case::Case;
use crate::meta::{Node, definition, node};
use crate::need::Need;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    vec![
        Case::new("defects::d08_the_runtimes_ports_are_the_default_networks", &[], runtime_ports),
        Case::new("defects::d11_one_pool_but_records_of_their_own", mac, one_pool),
        Case::new("defects::d12_nothing_that_a_tenant_writes_ends_in_a_panic", mac, no_panic),
        Case::new("defects::d18_check_looks_at_every_attachment", mac, check),
        Case::new("defects::d24_path_and_arguments_of_the_runtime_reach_delegates", &[], passed_on),
        Case::new("defects::d27_a_default_route_of_one_family_leaves_the_other", mac, one_family),
        Case::new("defects::d33_a_failed_add_leaves_no_file", mac, no_file),
        Case::new("policy::only_listed_types_are_executed_for_pods", &[], allowed),
        Case::new("policy::strict_capabilities_are_the_standards_letter", mac, strict),
    ]
}

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

/// Keeps what it is sent, with its environment, and passes on the result it got.
const KEEPS: &str = r#"mkdir -p /run/scratch/sent; conf=$(cat)
printf '%s' "$conf" >"/run/scratch/sent/${0##*/}-$CNI_COMMAND"
env | grep ^CNI_ >"/run/scratch/sent/${0##*/}-$CNI_COMMAND.env"
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq '.prevResult // {"cniVersion": .cniVersion}'"#;

fn sent(name: &str) -> String {
    fs::read_to_string(format!("/run/scratch/sent/{name}")).unwrap()
}

fn keeping(capabilities: &Value) -> Node {
    let node = node();
    for name in ["keeps", "keepstoo"] {
        node.script(name, KEEPS);
        let conf = json!({"cniVersion": "1.0.0", "name": name, "type": name, "capabilities": capabilities});
        definition(&node.bed, "default", name, &conf.to_string());
    }
    node
}

fn runtime_ports() {
    let mut node = keeping(&json!({"portMappings": true}));
    node.conf["capabilities"] = json!({"portMappings": true});
    node.conf["runtimeConfig"] = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    node.conf["delegates"] = json!([{"cniVersion": "1.0.0", "name": "first", "type": "keepstoo",
        "capabilities": {"portMappings": true}}]);
    node.add("a", "keeps");
    let conf: Value = serde_json::from_str(&sent("keepstoo-ADD")).unwrap();
    assert_eq!(conf["runtimeConfig"]["portMappings"][0]["hostPort"], 8080, "the default network has them");
    let conf: Value = serde_json::from_str(&sent("keeps-ADD")).unwrap();
    assert_eq!(conf.get("runtimeConfig"), None, "no other network has");
}

fn one_pool() {
    let node = node();
    let blue = json!({"cniVersion": "1.0.0", "name": "shared", "type": "macvlan", "master": "up0",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/29"}]]}});
    for namespace in ["default", "other"] {
        definition(&node.bed, namespace, "copy", &blue.to_string());
    }
    node.add("a", "copy,other/copy");
    node.add("b", "other/copy");
    assert_eq!(node.addresses("a", "net1"), ["10.9.0.2/29"]);
    assert_eq!(node.addresses("a", "net2"), ["10.9.0.3/29"], "copies of one definition share a segment, and a pool");
    assert_eq!(node.addresses("b", "net1"), ["10.9.0.4/29"]);
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "b").run().ok();
    node.call("CHECK", "a").run().ok();
    assert_eq!(node.addresses("a", "net2"), ["10.9.0.3/29"], "the other's DEL took nothing of this one");
    let valid = json!([{"containerID": "id-a", "ifname": "eth0"}]);
    let mut conf = node.conf.clone();
    conf["cniVersion"] = json!("1.1.0");
    conf["cni.dev/valid-attachments"] = valid;
    node.bed.call(crate::call::Side::Plexus, "plexus-cni").command("GC").conf(&conf).run().ok();
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

fn no_panic() {
    let node = node();
    for (name, config) in [
        ("plugins", json!({"cniVersion": "1.0.0", "name": "x", "plugins": []})),
        ("args", json!({"cniVersion": "1.0.0", "name": "x", "type": "macvlan", "master": "up0", "args": "text"})),
        ("cni", json!({"cniVersion": "1.0.0", "name": "x", "type": "macvlan", "master": "up0", "args": {"cni": 1}})),
    ] {
        definition(&node.bed, "default", name, &config.to_string());
        node.pod(name, &[(NETWORKS, &json!([{"name": name, "cni-args": {"a": "b"}}]).to_string())]);
        let answer = node.call("ADD", name).run();
        assert_eq!((answer.rc, answer.json()["code"].clone()), (Some(1), json!(7)), "{name}: {}", answer.stdout);
        assert_eq!(node.bed.links(name), ["lo"], "{name}");
    }
    node.assert_clean();
}

fn check() {
    let node = node();
    node.add("a", "blue,green");
    node.call("CHECK", "a").run().ok();
    node.bed.ip("-n a addr del 10.3.0.2/24 dev net2");
    let answer = node.call("CHECK", "a").run();
    assert!(!answer.succeeded() && answer.stdout.contains("net2"), "{}", answer.stdout);
}

fn passed_on() {
    let mut node = keeping(&json!({}));
    // Only the runtime's path leads to the plugin.
    node.conf["binDir"] = json!("/run/scratch/none");
    node.pod("a", &[(NETWORKS, "keeps")]);
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;K8S_POD_UID=uid-a;COLOUR=blue";
    node.call("ADD", "a").args(args).run().ok();
    let env = sent("keeps-ADD.env");
    let line = |key: &str| env.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(line("CNI_ARGS=").contains(";COLOUR=blue"), "{env}");
    assert!(line("CNI_PATH=").contains("/run/cni/plexus"), "{env}");
    assert_eq!(line("CNI_ARGS=").matches("K8S_POD_NAME=").count(), 1, "{env}");
}

fn one_family() {
    let node = node();
    node.add("a", r#"[{"name": "six", "default-route": ["10.4.0.1"]}]"#);
    let default = |family: &str| node.bed.ip(&format!("-n a {family} route show default"));
    assert!(default("-4").starts_with("default via 10.4.0.1 dev net1"), "{}", default("-4"));
    assert!(default("-6").starts_with("default via fd00:1::1 dev eth0"), "{}", default("-6"));
    let status = &crate::meta::statuses()[0];
    assert_eq!(status[1]["default-route"], json!(["10.4.0.1"]));
}

fn no_file() {
    let node = node();
    node.pod("a", &[(NETWORKS, "blue,broken")]);
    assert!(!node.call("ADD", "a").run().succeeded());
    node.script("fails", "cat >/dev/null; [ $CNI_COMMAND = DEL ]");
    node.pod("b", &[(NETWORKS, "blue,failing")]);
    assert!(!node.call("ADD", "b").run().succeeded());
    node.assert_clean();
}

fn allowed() {
    let mut node = keeping(&json!({}));
    node.conf["allowedDelegates"] = json!(["keeps"]);
    node.add("a", "keeps,green");
    node.pod("b", &[(NETWORKS, "keepstoo")]);
    node.call("ADD", "b").run().fails(7, "allowedDelegates does not list it");
    assert_eq!(node.bed.links("b"), ["lo"], "before anything is attached");
    let odd = json!({"cniVersion": "1.0.0", "name": "odd", "type": "bridge", "bridge": "green0", "ipam": {"type": "keepstoo"}});
    definition(&node.bed, "default", "odd", &odd.to_string());
    node.pod("c", &[(NETWORKS, "odd")]);
    node.call("ADD", "c").run().fails(7, "\"keepstoo\" may not be executed");
    // Nor by a plugin that is executed and executes what its configuration names, in whatever case Go reads it.
    for (index, keys) in [r#""ipam": {"type": "keepstoo"}"#, r#""IPAM": {"Type": "keepstoo"}"#].into_iter().enumerate()
    {
        let name = format!("way{index}");
        definition(&node.bed, "default", &name, &format!(r#"{{"cniVersion": "1.0.0", "type": "keeps", {keys}}}"#));
        node.pod(&name, &[(NETWORKS, &name)]);
        node.call("ADD", &name).run().fails(7, "\"keepstoo\" may not be executed");
    }
    // Nor by one that executes others, as flannel does, however deep.
    for (index, below) in [
        r#""delegate": {"type": "keepstoo"}"#,
        r#""Delegate": {"TYPE": "keepstoo"}"#,
        r#""delegate": {"type": "bridge", "ipam": {"type": "keepstoo"}}"#,
        r#""delegate": {"type": "keeps", "delegate": {"type": "keepstoo"}}"#,
        r#""delegates": [{"type": "bridge"}, {"type": "keepstoo"}]"#,
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("below{index}");
        definition(&node.bed, "default", &name, &format!(r#"{{"cniVersion": "1.0.0", "type": "keeps", {below}}}"#));
        node.pod(&name, &[(NETWORKS, &name)]);
        node.call("ADD", &name).run().fails(7, "\"keepstoo\" may not be executed");
    }
    let own =
        r#"{"cniVersion": "1.0.0", "type": "keeps", "delegate": {"type": "bridge", "ipam": {"type": "host-local"}}}"#;
    definition(&node.bed, "default", "own", own);
    node.add("e", "own");
    node.call("DEL", "e").run().ok();
    // What the node's own configuration names is not restricted.
    node.conf["delegates"] = json!([{"cniVersion": "1.0.0", "name": "first", "type": "keepstoo"}]);
    node.add("d", "green");
    for pod in ["a", "d"] {
        node.call("DEL", pod).run().ok();
    }
}

fn strict() {
    let mut node = node();
    let wish = json!([{"name": "blue", "mac": "02:00:00:00:00:77"}]).to_string();
    node.pod("a", &[(NETWORKS, &wish)]);
    node.call("ADD", "a").run().ok();
    assert!(node.bed.ip("-n a -br link show dev net1").contains("02:00:00:00:00:77"), "as under Multus");
    node.conf["strictCapabilities"] = json!(true);
    node.pod("b", &[(NETWORKS, &wish)]);
    node.call("ADD", "b").run().fails(7, "no plugin of it has the capability \"mac\"");
    node.add("c", r#"[{"name": "fixed", "ips": ["10.8.0.7/24"]}]"#);
    assert_eq!(node.addresses("c", "net1"), ["10.8.0.7/24"], "a declared capability is honoured");
}
