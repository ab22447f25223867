//! ipvlan: every key, as a chained plugin too, what is refused.
//! Most rows are in the newest version only, because they run in an emulated machine: the plain one, and each whose key
//! changes the result, are in all.

use serde_json::{Value, json};

use super::macvlan::parent_in_pod;
use super::{ADD, CHECK, DEL, Row, Step, dual_stack, one_subnet};
use crate::need::Need;
use crate::testbed::Testbed;

fn parents(bed: &Testbed) {
    bed.parent("up0");
    bed.parent("up1");
}

fn default_route(bed: &Testbed) {
    parents(bed);
    bed.ip("addr add 172.20.0.2/24 dev up1");
    bed.ip("route add default via 172.20.0.1");
}

fn row(name: &str, more: Value) -> Row {
    let mut conf = json!({"master": "up0", "ipam": one_subnet()});
    super::merge(&mut conf, &more);
    Row::new("ipvlan", name, conf).needs(Need::Ipvlan).prepare(parents)
}

/// The result of an earlier plugin: `interfaces` named, one address, one route.
fn after(interfaces: &[&str]) -> Value {
    let interfaces: Vec<Value> = interfaces.iter().map(|name| json!({"name": name})).collect();
    json!({"cniVersion": "1.1.0", "interfaces": interfaces, "ips": [{"address": "10.3.0.5/24", "gateway": "10.3.0.1", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}]})
}

pub(crate) fn rows() -> Vec<Row> {
    let change = |name: &str, words: &'static str| row(&format!("changed_{name}"), json!({})).changed(words);
    let mut rows = vec![
        row("plain", json!({})),
        row("l2_mode", json!({"mode": "l2"})).latest(),
        row("l3_mode", json!({"mode": "l3"})),
        row("l3s_mode", json!({"mode": "l3s"})).latest(),
        row("mtu", json!({"mtu": 1300})),
        row("mtu_above_parent", json!({"mtu": 9000})).latest(),
        row("dual_stack", json!({"ipam": dual_stack()})),
        row("dual_stack_l3", json!({"mode": "l3", "ipam": dual_stack()})).latest(),
        row("dns", json!({"dns": {"nameservers": ["10.1.0.1"]}})),
        row("default_master", json!({"master": null})).prepare(default_route),
        row("after_another", json!({"master": null, "ipam": null, "prevResult": after(&["up1"])})).latest(),
        row("after_another_checked", json!({"master": null, "ipam": null, "prevResult": after(&["up1"])}))
            .script([ADD, Step::Conf(json!({"prevResult": null})), CHECK, DEL])
            .latest(),
        row("after_another_own_addresses", json!({"prevResult": after(&["up1"])})).latest(),
        row("in_container", json!({"linkInContainer": true})).prepare(parent_in_pod).latest(),
        row("in_container_default_master", json!({"linkInContainer": true, "master": null}))
            .prepare(parent_in_pod)
            .latest(),
        row("second_add", json!({})).script([ADD, ADD, DEL]).latest(),
        row("never_added", json!({})).script([DEL]).latest(),
        row("netns_lost", json!({})).script([ADD, Step::LosePod, DEL, DEL]).latest(),
        row("netns_not_given", json!({})).script([ADD, Step::Env("CNI_NETNS", Some("")), DEL]).latest(),
        row("two_interfaces", json!({}))
            .script([ADD, Step::As("c1", "net1"), ADD, CHECK, DEL, Step::As("c1", "eth0"), DEL])
            .latest(),
        row("default_route_lost", json!({"master": null}))
            .prepare(default_route)
            .script([ADD, Step::Ip("route del default"), DEL])
            .latest(),
        row("changed_configuration", json!({})).script([ADD, Step::Conf(json!({"mode": "l3"})), CHECK, DEL]).latest(),
        change("address", "-n a addr del 10.1.0.2/24 dev eth0"),
        change("link", "-n a link del eth0"),
        change("mode", "-n a link set eth0 type ipvlan mode l3"),
        change("parent", "link del up0"),
    ];
    rows.extend(refusals());
    rows
}

fn refusals() -> Vec<Row> {
    let refused = |name: &str, more: Value| row(&format!("refused_{name}"), more).refused();
    vec![
        refused("mode", json!({"mode": "l4"})),
        refused("mode_is_number", json!({"mode": 5})),
        refused("master_missing", json!({"master": "nowhere0"})),
        refused("in_container_master_missing", json!({"linkInContainer": true})),
        refused("no_default_route", json!({"master": null})),
        refused("no_ipam", json!({"ipam": null})),
        refused("ipam_refuses", json!({"ipam": {"type": "host-local"}})),
        refused("after_two_interfaces", json!({"master": null, "ipam": null, "prevResult": after(&["up0", "up1"])})),
        refused("mtu_too_large", json!({"mtu": 70000})),
        refused("in_container_master_missing", json!({"linkInContainer": true})),
        refused("in_container_mtu_too_large", json!({"linkInContainer": true, "mtu": 70000})).prepare(parent_in_pod),
        refused("name_taken_in_pod", json!({})).prepare(|bed| {
            parents(bed);
            bed.ip("-n a link add eth0 type bridge");
        }),
    ]
}
