//! CHECK: what somebody changed behind an attachment's back is told, and what other plugins of its chain may do is not.

use serde_json::{Value, json};

use crate::call::Side;
use crate::case::Case;
use crate::meta::{Node, definition, node};
use crate::need::Need;
use crate::testbed::Testbed;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("check::each_change_is_told", &[Need::Macvlan], each_change),
        Case::new("check::another_lower_device::macvlan", &[Need::Macvlan], || another_lower_device("macvlan")),
        Case::new("check::another_lower_device::vlan", &[Need::Vlan], || another_lower_device("vlan")),
        Case::new("check::each_lease_and_each_masqueraded_address_counts", &[Need::Nft], leases_and_rules),
        Case::new("check::another_namespace_in_its_place_is_told", &[], another_namespace),
        Case::new("check::routes_may_move_to_another_table", &[Need::Macvlan], moved_routes),
        Case::new("check::a_later_plugin_may_change_mtu_and_address", &[], later_plugin),
        Case::new("check::a_kind_by_its_own_name_knows_its_record", &[], directly),
        Case::new("check::the_vlans_of_a_port_are_compared", &[Need::VlanFiltering], vlans),
        Case::new("check::an_ipvlan_on_what_the_plugin_before_it_names", &[Need::Ipvlan], named_by_another),
    ]
}

/// Another link has the name of the master by now; the pod's link is still on the one it was made on.
fn another_lower_device(kind: &str) {
    let bed = Testbed::new();
    bed.parent("up0");
    bed.parent("up1");
    bed.pod("a");
    let mut conf = json!({"cniVersion": "1.1.0", "name": "net1", "type": kind, "master": "up0", "vlanId": 5,
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}});
    if kind == "macvlan" {
        conf.as_object_mut().unwrap().remove("vlanId");
    }
    conf["prevResult"] = bed.call(Side::Plexus, kind).command("ADD").pod("a").conf(&conf).run().ok();
    let check = || bed.call(Side::Plexus, kind).command("CHECK").pod("a").conf(&conf).run();
    check().ok();
    for words in [
        "link set up0 down",
        "link set up0 name up2",
        "link set up1 down",
        "link set up1 name up0",
        "link set up0 up",
        "link set up2 up",
    ] {
        bed.ip(words);
    }
    check().fails(999, "up0");
}

/// The port on the host of a pod's interface in a bridge.
fn port(node: &Node, bridge: &str) -> String {
    let shown: Value = serde_json::from_str(&node.bed.ip(&format!("-j link show master {bridge}"))).unwrap();
    assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
    shown[0]["ifname"].as_str().unwrap().to_owned()
}

/// A node whose default network's ports are in hairpin mode and isolated.
fn strict_node() -> Node {
    let mut node = node();
    node.conf["delegates"][0]["hairpinMode"] = json!(true);
    node.conf["delegates"][0]["portIsolation"] = json!(true);
    node
}

fn each_change() {
    let node = strict_node();
    node.add("a", "blue");
    node.call("CHECK", "a").run().ok();
    let port = port(&node, "cni0");
    for (change, back, told) in [
        ("-n a link set net1 mtu 1400", "-n a link set net1 mtu 1500", "interface net1 has MTU 1400, expected 1500"),
        ("-n a link set net1 down", "", "interface net1 is down"),
        ("link set PORT type bridge_slave hairpin off", "link set PORT type bridge_slave hairpin on", "hairpin mode"),
        ("link set PORT type bridge_slave isolated off", "link set PORT type bridge_slave isolated on", "isolated"),
    ] {
        node.bed.ip(&change.replace("PORT", &port));
        node.call("CHECK", "a").run().fails(999, told);
        if !back.is_empty() {
            node.bed.ip(&back.replace("PORT", &port));
        }
    }
    // Down and up again took its routes: it is made anew, as somebody would who wants to help.
    let shown: Value = serde_json::from_str(&node.bed.ip("-n a -j link show dev net1")).unwrap();
    node.bed.ip("-n a link del net1");
    let mac = shown[0]["address"].as_str().unwrap();
    node.bed.ip(&format!("link add net1 link up0 netns a address {mac} type macvlan mode bridge"));
    node.call("CHECK", "a").run().fails(999, "interface net1 is not the one that was attached");
    for (change, back, told) in [
        ("link set PORT down", "link set PORT up", "interface PORT is down"),
        (
            "addr del 10.1.0.1/24 dev cni0",
            "addr add 10.1.0.1/24 dev cni0",
            "cni0 has not the gateway's address 10.1.0.1",
        ),
        ("link set cni0 down", "link set cni0 up", "interface cni0 is down"),
    ] {
        node.bed.ip(&change.replace("PORT", &port));
        node.call("CHECK", "a").run().fails(999, &told.replace("PORT", &port));
        node.bed.ip(&back.replace("PORT", &port));
    }
    node.bed.ip(&format!("link set {port} nomaster"));
    node.call("CHECK", "a").run().fails(999, &format!("interface {port} is not a port of bridge cni0"));
    node.call("DEL", "a").run().ok();
    assert_eq!(node.bed.links("a"), ["lo", "net1"], "what somebody else made is somebody else's");
    node.bed.ip("-n a link del net1");
    node.assert_clean();
}

fn leases_and_rules() {
    let mut node = node();
    node.conf["delegates"][0]["ipMasq"] = json!(true);
    node.add("a", "");
    node.call("CHECK", "a").run().ok();
    let lease = std::path::Path::new(crate::testbed::LEASES).join("cluster/fd00:1::2");
    let holder = std::fs::read(&lease).unwrap();
    std::fs::remove_file(&lease).unwrap();
    node.call("CHECK", "a").run().fails(999, "the lease of fd00:1::2 is not this container's");
    std::fs::write(&lease, holder).unwrap();
    node.call("CHECK", "a").run().ok();
    // A rule with the right comment about another address.
    let listed =
        node.bed.tool("nft", &["-a", "list", "chain", "inet", "cni_plugins_masquerade", "masq_checks"], "").unwrap();
    let rule = listed.lines().find(|line| line.contains("ip saddr 10.1.0.2")).unwrap();
    let handle = rule.rsplit(' ').next().unwrap();
    let other = rule.split(" # ").next().unwrap().trim().replace("10.1.0.2", "10.1.0.99");
    let replace = format!("replace rule inet cni_plugins_masquerade masq_checks handle {handle} {other}");
    node.bed.tool("nft", &["-f", "-"], &replace).unwrap();
    node.call("CHECK", "a").run().fails(999, "1 of 2 masquerade rules for eth0");
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

fn another_namespace() {
    let node = node();
    node.add("a", "");
    node.bed.lose_pod("a");
    node.call("CHECK", "a").run().fails(999, "failed to open netns \"/run/netns/a\"");
    node.bed.pod("a");
    // Numbers of namespaces are given out again: then it is the link that is missed.
    let told = node.call("CHECK", "a").run();
    let missed = told.stdout.contains("is not the one that was attached")
        || told.stdout.contains("Cannot find container link eth0");
    assert!(!told.succeeded() && missed, "{}", told.stdout);
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// As source based routing does it.
fn moved_routes() {
    let node = node();
    let conf = json!({"cniVersion": "1.0.0", "name": "routed", "type": "macvlan", "master": "up0",
        "ipam": {"type": "host-local", "subnet": "10.8.0.0/24", "gateway": "10.8.0.1", "routes": [{"dst": "192.0.2.0/24"}]}});
    definition(&node.bed, "default", "routed", &conf.to_string());
    node.add("a", "routed");
    for route in ["10.8.0.0/24 dev net1", "192.0.2.0/24 via 10.8.0.1 dev net1"] {
        node.bed.ip(&format!("-n a route add {route} table 100"));
    }
    node.bed.ip("-n a route del 192.0.2.0/24");
    node.bed.ip("-n a route del 10.8.0.0/24");
    node.call("CHECK", "a").run().ok();
    node.bed.ip("-n a route del 192.0.2.0/24 table 100");
    node.call("CHECK", "a").run().fails(999, "192.0.2.0");
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// As tuning does it: the result tells the new address, and nothing tells the MTU.
fn later_plugin() {
    let node = node();
    node.script(
        "tunes",
        r#"conf=$(cat); [ "$CNI_COMMAND" = ADD ] || exit 0
ip -n "${CNI_NETNS##*/}" link set "$CNI_IFNAME" address 02:00:00:00:00:99 mtu 1280
printf '%s' "$conf" | jq --arg i "$CNI_IFNAME" '.prevResult | (.interfaces[] | select(.name == $i)).mac = "02:00:00:00:00:99"'"#,
    );
    let range = json!({"type": "host-local", "subnet": "10.5.0.0/24"});
    let conf = json!({"cniVersion": "1.0.0", "name": "tuned", "plugins": [
        {"type": "bridge", "bridge": "green0", "ipam": range}, {"type": "tunes"}]});
    definition(&node.bed, "default", "tuned", &conf.to_string());
    node.add("a", "tuned");
    assert!(node.bed.ip("-n a link show dev net1").contains("mtu 1280"), "it tuned");
    node.call("CHECK", "a").run().ok();
    node.bed.ip("-n a link set net1 address 02:00:00:00:00:98");
    node.call("CHECK", "a").run().fails(999, "02:00:00:00:00:99");
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

fn directly() {
    let bed = Testbed::new();
    bed.pod("a");
    let mut conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "cni0",
        "ipam": {"type": "host-local", "subnet": "10.5.0.0/24"}});
    let call =
        |command: &str, conf: &Value| bed.call(Side::Plexus, "bridge").command(command).pod("a").conf(conf).run();
    let result = call("ADD", &conf).ok();
    conf["prevResult"] = result.clone();
    call("CHECK", &conf).ok();
    // The runtime may have executed others after it.
    bed.ip("-n a link set eth0 mtu 1400");
    call("CHECK", &conf).ok();
    let host = result["interfaces"][1]["name"].as_str().unwrap();
    let host_mac = result["interfaces"][1]["mac"].as_str().unwrap();
    let mac = result["interfaces"][2]["mac"].as_str().unwrap();
    bed.ip("-n a link del eth0");
    bed.ip(&format!(
        "link add {host} address {host_mac} up master cni0 type veth peer name eth0 netns a address {mac}"
    ));
    bed.ip("-n a addr add 10.5.0.2/24 dev eth0");
    bed.ip("-n a link set eth0 up");
    call("CHECK", &conf).fails(999, "interface eth0 is not the one that was attached");
    call("DEL", &conf).ok();
    assert_eq!(bed.links("a"), ["lo", "eth0"], "what somebody else made is somebody else's");
    bed.ip("-n a link del eth0");
    assert_eq!(bed.leftovers(), ["link cni0"]);
}

fn vlans() {
    let node = node();
    let conf = json!({"cniVersion": "1.0.0", "name": "tagged", "type": "bridge", "bridge": "green0", "vlan": 100,
        "vlanTrunk": [{"minID": 200, "maxID": 202}]});
    definition(&node.bed, "default", "tagged", &conf.to_string());
    node.add("a", "tagged");
    node.call("CHECK", "a").run().ok();
    let port = port(&node, "green0");
    let vlan = |words: &str| {
        let done = std::process::Command::new("bridge").args(words.split(' ')).status().unwrap();
        assert!(done.success(), "{words}");
    };
    vlan(&format!("vlan add dev {port} vid 300"));
    node.call("CHECK", "a").run().fails(999, "is in VLAN 300 too");
    vlan(&format!("vlan del dev {port} vid 300"));
    vlan(&format!("vlan del dev {port} vid 201"));
    node.call("CHECK", "a").run().fails(999, "is not in VLAN 201");
    vlan(&format!("vlan add dev {port} vid 201"));
    vlan(&format!("vlan add dev {port} vid 100"));
    node.call("CHECK", "a").run().fails(999, "has VLAN 100 with a tag");
    vlan(&format!("vlan add dev {port} vid 100 pvid untagged"));
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// The first plugin of the chain is executed: what it makes is known only after it.
fn named_by_another() {
    let node = node();
    let result = r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "up0"}]}"#;
    node.script("names", &format!(r#"cat >/dev/null; [ "$CNI_COMMAND" != ADD ] || echo '{result}'"#));
    let conf = json!({"cniVersion": "1.0.0", "name": "shared", "plugins": [{"type": "names"},
        {"type": "ipvlan", "ipam": {"type": "host-local", "subnet": "10.8.0.0/24"}}]});
    definition(&node.bed, "default", "shared", &conf.to_string());
    node.add("a", "shared");
    let shown: Value = serde_json::from_str(&node.bed.ip("-n a -j -d link show dev net1")).unwrap();
    assert_eq!(shown[0]["linkinfo"]["info_kind"], "ipvlan");
    node.call("CHECK", "a").run().ok();
    node.bed.ip("-n a link del net1");
    node.bed.parent("up1");
    node.bed.ip("link add net1 link up1 netns a type ipvlan mode l2");
    node.bed.ip("-n a addr add 10.8.0.2/24 dev net1");
    node.bed.ip("-n a link set net1 up");
    node.call("CHECK", "a").run().fails(999, "net1");
    node.call("DEL", "a").run().ok();
    node.bed.ip("-n a link del net1");
    node.assert_clean();
}
