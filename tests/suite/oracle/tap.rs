//! tap: every key, as a port of a bridge of the pod, what is refused.

use serde_json::{Value, json};

use super::{ADD, CHECK, DEL, Row, Step, dual_stack, one_subnet};
use crate::need::Need;

fn row(name: &str, more: Value) -> Row {
    let mut conf = json!({"ipam": one_subnet()});
    super::merge(&mut conf, &more);
    Row::new("tap", name, conf).needs(Need::Tap)
}

pub(crate) fn rows() -> Vec<Row> {
    let statically = json!({"type": "static", "addresses": [{"address": "10.5.0.9/16", "gateway": "10.5.0.1"}], "dns": {"nameservers": ["9.9.9.9"]}});
    let mut rows = vec![
        row("plain", json!({})),
        row("layer_2", json!({"ipam": null})),
        row("dual_stack", json!({"ipam": dual_stack()})),
        row("static", json!({"ipam": statically})),
        row("dns", json!({"ipam": statically, "dns": {"nameservers": ["10.1.0.1"]}})),
        row("dns_without_ipam", json!({"ipam": null, "dns": {"nameservers": ["10.1.0.1"]}})),
        row("mtu", json!({"mtu": 1300})),
        row("mac", json!({"mac": "02:ab:00:00:00:01"})),
        row("mac_of_cni_args", json!({"mac": "02:ab:00:00:00:01"}))
            .first(Step::Args("IgnoreUnknown=1;MAC=02:ab:00:00:00:02")),
        row("mac_of_runtime", json!({"mac": "02:ab:00:00:00:01", "runtimeConfig": {"mac": "02:ab:00:00:00:03"}}))
            .first(Step::Args("IgnoreUnknown=true;X=1;MAC=02:ab:00:00:00:02")),
        row("owner", json!({"owner": 0})),
        row("group", json!({"group": 0, "multiQueue": true})),
        row("owner_and_group", json!({"owner": 0, "group": 0})),
        row("owner_and_group_queues", json!({"owner": 0, "group": 0, "multiQueue": true})),
        row("owner_and_group_mtu_and_mac", json!({"owner": 0, "group": 0, "mtu": 1300, "mac": "02:ab:00:00:00:01"})),
        row("queues", json!({"multiQueue": true})),
        row("args_ignored", json!({"args": {"cni": {"mac": "02:ab:00:00:00:09"}}})),
        row("port_of_bridge", json!({"bridge": "br0", "ipam": null})).prepare(|bed| {
            bed.ip("-n a link add br0 address 02:00:00:00:0b:01 type bridge");
            bed.ip("-n a link set br0 up");
            bed.ip("link add br0 type bridge");
        }),
    ];
    rows.extend(scripts());
    rows.extend(refusals());
    rows
}

fn scripts() -> Vec<Row> {
    let script = |name: &str, script: Vec<Step>| row(name, json!({})).script(script).latest();
    let change = |name: &str, words: &'static str| row(&format!("changed_{name}"), json!({})).changed(words);
    vec![
        script("two_interfaces", vec![ADD, Step::As("c1", "net1"), ADD, CHECK, DEL, Step::As("c1", "eth0"), DEL]),
        script("never_added", vec![DEL]),
        script("netns_lost", vec![ADD, Step::LosePod, DEL, DEL]),
        script("netns_not_given", vec![ADD, Step::Env("CNI_NETNS", Some("")), DEL]),
        script("add_netns_missing", vec![Step::LosePod, ADD, DEL]),
        script("second_add", vec![ADD, ADD, DEL]),
        change("address", "-n a addr del 10.1.0.2/24 dev eth0"),
        change("link", "-n a link del eth0"),
        change("mac", "-n a link set eth0 address 02:00:00:00:aa:aa"),
        change("link_down", "-n a link set eth0 down"),
    ]
}

fn refusals() -> Vec<Row> {
    let refused = |name: &str, more: Value| row(&format!("refused_{name}"), more).refused();
    vec![
        refused("bridge_missing", json!({"bridge": "nowhere0"})),
        refused("owner_is_text", json!({"owner": "root"})),
        refused("owner_negative", json!({"owner": -1})),
        refused("mtu_negative", json!({"mtu": -1})),
        refused("mtu_too_small", json!({"mtu": 20})),
        refused("mac", json!({"mac": "zz"})),
        refused("runtime_mac", json!({"runtimeConfig": {"mac": "zz"}})),
        refused("label", json!({"selinuxContext": "no_such:label:at:all"})),
        refused("ipam_unknown", json!({"ipam": {"type": "no-such-plugin"}})),
        refused("ipam_refuses", json!({"ipam": {"type": "host-local"}})),
        refused("no_addresses", json!({"ipam": {"type": "static"}})),
        refused("name_taken_in_pod", json!({})).prepare(|bed| drop(bed.ip("-n a link add eth0 type bridge"))),
    ]
}
