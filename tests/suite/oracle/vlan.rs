//! vlan: every key, masters of the host and of the pod, what is refused.
//! Most rows are in the newest version only, because they run in an emulated machine: the plain one, and each whose key
//! changes the result, are in all.

use serde_json::{Value, json};

use super::{ADD, CHECK, DEL, Row, Step, dual_stack, one_subnet};
use crate::need::Need;
use crate::testbed::Testbed;

fn masters(bed: &Testbed) {
    bed.parent("up0");
    bed.parent("up1");
}

/// A master inside the pod, and one of the same name on the host.
fn master_in_pod(bed: &Testbed) {
    masters(bed);
    crate::world::make_netns(&bed.netns("wire2"));
    bed.ip("-n a link add up0 address 02:00:00:00:02:01 type veth peer name up0 address 02:00:00:00:02:02 netns wire2");
    bed.ip("-n wire2 link set up0 up");
    bed.ip("-n a link set up0 up");
}

fn row(name: &str, more: Value) -> Row {
    let mut conf = json!({"master": "up0", "vlanId": 5, "ipam": one_subnet()});
    super::merge(&mut conf, &more);
    Row::new("vlan", name, conf).needs(Need::Vlan).prepare(masters)
}

pub(crate) fn rows() -> Vec<Row> {
    let statically = json!({"type": "static", "addresses": [{"address": "10.5.0.9/16", "gateway": "10.5.0.1"}], "dns": {"nameservers": ["9.9.9.9"]}});
    let mut rows = vec![
        row("plain", json!({})),
        row("no_vlan_id", json!({"vlanId": null})).latest(),
        row("last_vlan_id", json!({"vlanId": 4094})).latest(),
        row("mtu", json!({"mtu": 1300})),
        row("keys_in_any_case", json!({"vlanId": null, "VLANID": 7, "MTU": 1300})).latest(),
        row("dual_stack", json!({"ipam": dual_stack()})),
        row("static", json!({"ipam": statically})).latest(),
        row("dns", json!({"ipam": statically, "dns": {"nameservers": ["10.1.0.1"]}})),
        row("in_container", json!({"linkInContainer": true})).prepare(master_in_pod),
        row("in_container_mtu", json!({"linkInContainer": true, "mtu": 1300})).prepare(master_in_pod).latest(),
        row("small_master", json!({}))
            .prepare(|bed| {
                masters(bed);
                bed.ip("link set up0 mtu 1400");
            })
            .latest(),
    ];
    rows.extend(scripts());
    rows.extend(refusals());
    rows
}

fn scripts() -> Vec<Row> {
    let script = |name: &str, script: Vec<Step>| row(name, json!({})).script(script).latest();
    let change = |name: &str, words: &'static str| row(&format!("changed_{name}"), json!({})).changed(words);
    vec![
        script(
            "two_interfaces",
            vec![
                ADD,
                Step::As("c1", "net1"),
                Step::Conf(json!({"vlanId": 6})),
                ADD,
                CHECK,
                DEL,
                Step::As("c1", "eth0"),
                DEL,
            ],
        ),
        script("second_add", vec![ADD, ADD, DEL]),
        script("never_added", vec![DEL]),
        script("netns_lost", vec![ADD, Step::LosePod, DEL, DEL]),
        script("netns_not_given", vec![ADD, Step::Env("CNI_NETNS", Some("")), DEL]),
        script("add_netns_missing", vec![Step::LosePod, ADD, DEL]),
        script("master_lost", vec![ADD, Step::Ip("link del up0"), DEL]),
        change("address", "-n a addr del 10.1.0.2/24 dev eth0"),
        change("link", "-n a link del eth0"),
        change("mac", "-n a link set eth0 address 02:00:00:00:aa:aa"),
        change("master", "link del up0"),
        row("changed_mtu", json!({"mtu": 1300})).changed("-n a link set eth0 mtu 1400"),
        row("changed_configuration", json!({})).script([ADD, Step::Conf(json!({"vlanId": 6})), CHECK, DEL]).latest(),
    ]
}

fn refusals() -> Vec<Row> {
    let refused = |name: &str, more: Value| row(&format!("refused_{name}"), more).refused();
    vec![
        refused("no_master", json!({"master": null})),
        refused("vlan_id_4095", json!({"vlanId": 4095})),
        refused("vlan_id_negative", json!({"vlanId": -1})),
        refused("vlan_id_is_text", json!({"vlanId": "5"})),
        refused("mtu_above_master", json!({"mtu": 1501})),
        refused("mtu_negative", json!({"mtu": -1})),
        refused("master_missing", json!({"master": "nowhere0"})),
        refused("in_container_master_missing", json!({"linkInContainer": true})),
        refused("no_ipam", json!({"ipam": null})),
        refused("ipam_unknown", json!({"ipam": {"type": "no-such-plugin"}})),
        refused("ipam_refuses", json!({"ipam": {"type": "host-local"}})),
        refused("no_addresses", json!({"ipam": {"type": "static"}})),
        refused("name_taken_in_pod", json!({})).prepare(|bed| {
            masters(bed);
            bed.ip("-n a link add eth0 type bridge");
        }),
        refused("master_down", json!({})).prepare(|bed| {
            masters(bed);
            bed.ip("link set up0 down");
        }),
        refused("same_id_twice", json!({})).script([
            ADD,
            Step::As("c2", "net1"),
            ADD,
            DEL,
            Step::As("c1", "eth0"),
            DEL,
        ]),
    ]
}
