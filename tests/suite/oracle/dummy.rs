//! dummy: addresses that lead nowhere, what is refused.
//! Most rows are in the newest version only, because they run in an emulated machine: the plain one, and each whose key
//! changes the result, are in all.

use serde_json::{Value, json};

use super::{ADD, CHECK, DEL, Row, Step, dual_stack, one_subnet};
use crate::need::Need;

fn row(name: &str, more: Value) -> Row {
    let mut conf = json!({"ipam": one_subnet()});
    super::merge(&mut conf, &more);
    Row::new("dummy", name, conf).needs(Need::Dummy)
}

pub(crate) fn rows() -> Vec<Row> {
    let statically = json!({"type": "static", "addresses": [{"address": "10.5.0.9/16", "gateway": "10.5.0.1"}],
        "dns": {"nameservers": ["9.9.9.9"]}});
    let script = |name: &str, script: Vec<Step>| row(name, json!({})).script(script).latest();
    let change = |name: &str, words: &'static str| row(&format!("changed_{name}"), json!({})).changed(words);
    let refused = |name: &str, more: Value| row(&format!("refused_{name}"), more).refused();
    vec![
        row("plain", json!({})),
        row("dual_stack", json!({"ipam": dual_stack()})),
        row("static", json!({"ipam": statically})),
        row("dns_is_the_address_management_s", json!({"ipam": statically, "dns": {"nameservers": ["10.1.0.1"]}}))
            .latest(),
        row("name_taken_on_host", json!({})).prepare(|bed| bed.parent("eth0")).latest(),
        script("two_interfaces", vec![ADD, Step::As("c1", "net1"), ADD, CHECK, DEL, Step::As("c1", "eth0"), DEL]),
        script("second_add", vec![ADD, ADD, DEL]),
        script("never_added", vec![DEL]),
        script("netns_lost", vec![ADD, Step::LosePod, DEL, DEL]),
        script("netns_not_given", vec![ADD, Step::Env("CNI_NETNS", Some("")), DEL]),
        script("add_netns_missing", vec![Step::LosePod, ADD, DEL]),
        change("address", "-n a addr del 10.1.0.2/24 dev eth0"),
        change("link", "-n a link del eth0"),
        change("link_down", "-n a link set eth0 down"),
        change("mac", "-n a link set eth0 address 02:00:00:00:aa:aa"),
        row("routes_looked_for", json!({"ipam": dual_stack()})).changed("-n a route del 192.168.0.0/16"),
        refused("no_ipam", json!({"ipam": null})),
        refused("ipam_unknown", json!({"ipam": {"type": "no-such-plugin"}})),
        refused("ipam_refuses", json!({"ipam": {"type": "host-local"}})),
        refused("no_addresses", json!({"ipam": {"type": "static"}})),
        refused("name_taken_in_pod", json!({})).prepare(|bed| drop(bed.ip("-n a link add eth0 type bridge"))),
    ]
}
