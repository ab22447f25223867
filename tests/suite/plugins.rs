//! Plugins of other people (`tests/plugins`): each works by itself, and with the plugins of both sides. That plexus
//! executes them as delegates is for the cases of the meta-plugin.

use std::path::Path;

use serde_json::json;

use crate::call::Side;
use crate::case::Case;
use crate::meta::{definition, node};
use crate::need::Need;
use crate::testbed::Testbed;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("plugins::newcomer", &[], newcomer),
        Case::new("plugins::newcomer_refuses", &[], newcomer_refuses),
        Case::new("plugins::newcomer_as_a_delegate", &[Need::Macvlan], newcomer_as_a_delegate),
        Case::new("plugins::flannel_like_as_a_delegate", &[], || flannel_as_a_delegate("flannel")),
        Case::new("plugins::flannel_like_under_its_caller_s_name", &[], || flannel_as_a_delegate("node")),
        Case::new("plugins::requests_reach_who_declares_them", &[Need::Macvlan], requests),
        Case::new("plugins::flannel_like_with_go", &[Need::Peers], || flannel_like(Side::Go)),
        Case::new("plugins::flannel_like_with_plexus", &[], || flannel_like(Side::Plexus)),
    ]
}

/// Puts a plugin of `tests/plugins` among those of `side`.
pub(crate) fn install(bed: &Testbed, side: Side, name: &str) {
    bed.install(side, name, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugins").join(name));
}

fn newcomer() {
    let bed = Testbed::new();
    bed.pod("a");
    install(&bed, Side::Plexus, "newcomer");
    let conf = json!({"cniVersion": "1.0.0", "name": "new", "type": "newcomer", "address": "10.20.0.5/24"});
    let call = |command| bed.call(Side::Plexus, "newcomer").command(command).pod("a").conf(&conf).run();
    let result = call("ADD").ok();
    assert_eq!(result["ips"][0]["address"], "10.20.0.5/24");
    assert_eq!(result["interfaces"][0]["sandbox"], "/run/netns/a");
    call("CHECK").ok();
    call("DEL").ok();
    call("DEL").ok();
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

fn newcomer_refuses() {
    let bed = Testbed::new();
    bed.pod("a");
    install(&bed, Side::Plexus, "newcomer");
    let conf = json!({"cniVersion": "1.0.0", "name": "new", "type": "newcomer"});
    bed.call(Side::Plexus, "newcomer").command("ADD").pod("a").conf(&conf).run().fails(7, "address is missing");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

fn flannel_like(side: Side) {
    let bed = Testbed::new();
    bed.pod("a");
    install(&bed, side, "flannel-like");
    let conf = json!({"cniVersion": "1.0.0", "name": "flannel", "type": "flannel-like", "subnet": "10.42.3.0/24"});
    let call = |command| bed.call(side, "flannel-like").command(command).pod("a").conf(&conf).run();
    let result = call("ADD").ok();
    assert_eq!(result["ips"][0]["address"], "10.42.3.2/24");
    assert!(bed.ip("-n a route show").contains("10.42.0.0/16 via 10.42.3.1 dev eth0"));
    assert!(bed.ip("link show flannel0").contains("mtu 1450"));
    call("DEL").ok();
    call("DEL").ok();
    assert_eq!(bed.leftovers(), ["link flannel0"]);
}

fn newcomer_as_a_delegate() {
    let node = node();
    install(&node.bed, Side::Plexus, "newcomer");
    let conf = json!({"cniVersion": "1.1.0", "name": "new", "type": "newcomer", "address": "10.20.0.5/24"});
    definition(&node.bed, "default", "new", &conf.to_string());
    node.add("a", "new");
    assert!(node.bed.ip("-n a addr show dev net1").contains("10.20.0.5/24"));
    node.call("CHECK", "a").run().ok();
    node.bed.ip("-n a addr del 10.20.0.5/24 dev net1");
    node.call("CHECK", "a").run().fails(101, "the address is gone");
    node.call("DEL", "a").run().ok();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// The delegate calls `bridge` by CNI_PATH, which is plexus again; `inner` is the network's name that it uses.
fn flannel_as_a_delegate(inner: &str) {
    let mut node = node();
    install(&node.bed, Side::Plexus, "flannel-like");
    node.conf["delegates"] =
        json!([{"cniVersion": "1.0.0", "name": inner, "type": "flannel-like", "subnet": "10.42.3.0/24"}]);
    let result = node.add("a", "");
    assert_eq!(result["ips"][0]["address"], "10.42.3.2/24");
    assert!(node.bed.ip("-n a route show").contains("10.42.0.0/16 via 10.42.3.1 dev eth0"));
    node.add("b", "");
    node.bed.lose_pod("b");
    for pod in ["a", "b", "b"] {
        node.call("DEL", pod).run().ok();
    }
    assert_eq!(node.bed.leftovers(), ["link flannel0"]);
}

fn requests() {
    let node = node();
    node.script(
        "told",
        r#"conf=$(cat); [ "$CNI_COMMAND" = ADD ] || exit 0
printf '%s' "$conf" | jq -c .runtimeConfig >/run/scratch/told-$CNI_IFNAME; printf '%s' "$conf" | jq .prevResult"#,
    );
    for (name, capabilities) in
        [("all", json!({"portMappings": true, "bandwidth": true, "infinibandGUID": true})), ("none", json!({}))]
    {
        let macvlan =
            json!({"type": "macvlan", "master": "up0", "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}});
        let told = json!({"type": "told", "capabilities": capabilities});
        let conf = json!({"cniVersion": "1.0.0", "name": name, "plugins": [macvlan, told]});
        definition(&node.bed, "default", name, &conf.to_string());
    }
    let wanted = json!([{"name": "all", "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000}, "infiniband-guid": "c2:11:22:33:44:55:66:77"},
        {"name": "none"}]);
    node.add("a", &wanted.to_string());
    let told = |interface: &str| {
        let text = std::fs::read_to_string(format!("/run/scratch/told-{interface}")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert_eq!(told("net1")["portMappings"][0]["hostPort"], 8080);
    assert_eq!(told("net1")["bandwidth"]["ingressRate"], 1000);
    assert_eq!(told("net1")["infinibandGUID"], "c2:11:22:33:44:55:66:77");
    assert!(told("net2").as_object().is_none_or(serde_json::Map::is_empty), "{}", told("net2"));
}
