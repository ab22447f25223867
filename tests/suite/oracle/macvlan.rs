//! macvlan: every key, parents found in every way, what is refused.

use serde_json::{Value, json};

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

/// A parent inside the pod, and one of the same name on the host.
fn inside(bed: &Testbed) {
    parents(bed);
    bed.ip("-n a link add up0 address 02:00:00:00:02:01 type veth peer name up0 address 02:00:00:00:02:02 netns wire2");
}

/// As [`inside`], with the peer's namespace made first.
pub(super) fn parent_in_pod(bed: &Testbed) {
    crate::world::make_netns(&bed.netns("wire2"));
    inside(bed);
    bed.ip("-n wire2 link set up0 up");
    bed.ip("-n a link set up0 up");
    bed.ip("-n a addr add 172.21.0.2/24 dev up0");
    bed.ip("-n a route add default via 172.21.0.1");
}

fn row(name: &str, more: Value) -> Row {
    let mut conf = json!({"master": "up0", "ipam": one_subnet()});
    super::merge(&mut conf, &more);
    Row::new("macvlan", name, conf).needs(Need::Macvlan).prepare(parents)
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = keys();
    rows.extend(scripts());
    rows.extend(refusals());
    rows
}

fn keys() -> Vec<Row> {
    let routes = json!({"type": "host-local", "subnet": "10.1.0.0/24", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.9"}]});
    let statically = json!({"type": "static", "addresses": [{"address": "10.5.0.9/16", "gateway": "10.5.0.1"}], "dns": {"nameservers": ["9.9.9.9"]}});
    vec![
        row("plain", json!({})),
        row("layer_2", json!({"ipam": null})),
        row("empty_ipam", json!({"ipam": {}})),
        row("bridge_mode", json!({"mode": "bridge"})),
        row("private_mode", json!({"mode": "private"})),
        row("vepa_mode", json!({"mode": "vepa"})),
        row("passthru_mode", json!({"mode": "passthru"})),
        row("mtu", json!({"mtu": 1300})),
        row("mac", json!({"mac": "02:ab:00:00:00:01"})),
        row("mac_of_cni_args", json!({"mac": "02:ab:00:00:00:01"}))
            .first(Step::Args("IgnoreUnknown=1;MAC=02:ab:00:00:00:02")),
        row("mac_of_runtime", json!({"mac": "02:ab:00:00:00:01", "runtimeConfig": {"mac": "02:AB:00:00:00:03"}}))
            .first(Step::Args("IgnoreUnknown=true;X=1;MAC=02:ab:00:00:00:02")),
        row("broadcast_queue", json!({"bcqueuelen": 2000})),
        row("dual_stack", json!({"ipam": dual_stack()})),
        row("dual_stack_no_gateway", json!({"ipam": {"type": "static", "addresses": [{"address": "fd05::9/64"}]}})),
        row("routes", json!({"ipam": routes})),
        row("static", json!({"ipam": statically})),
        row("dns", json!({"ipam": statically, "dns": {"nameservers": ["10.1.0.1"]}})),
        row("default_master", json!({"master": null})).prepare(default_route),
        row("in_container", json!({"linkInContainer": true})).prepare(parent_in_pod),
        row("in_container_default_master", json!({"linkInContainer": true, "master": null})).prepare(parent_in_pod),
        row("in_container_layer_2", json!({"linkInContainer": true, "ipam": null})).prepare(parent_in_pod),
        row("small_parent", json!({})).prepare(|bed| {
            parents(bed);
            bed.ip("link set up0 mtu 1400");
        }),
        row("parent_down", json!({"ipam": null})).prepare(|bed| {
            parents(bed);
            bed.ip("link set up0 down");
        }),
    ]
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
                Step::Conf(json!({"master": "up1"})),
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
        script("parent_lost", vec![ADD, Step::Ip("link del up0"), DEL]),
        change("address", "-n a addr del 10.1.0.2/24 dev eth0"),
        change("link", "-n a link del eth0"),
        change("mac", "-n a link set eth0 address 02:00:00:00:aa:aa"),
        change("mode", "-n a link set eth0 type macvlan mode private"),
        change("link_down", "-n a link set eth0 down"),
        change("parent", "link del up0"),
        row("changed_configuration", json!({})).script([ADD, Step::Conf(json!({"mode": "vepa"})), CHECK, DEL]).latest(),
    ]
}

fn refusals() -> Vec<Row> {
    let refused = |name: &str, more: Value| row(&format!("refused_{name}"), more).refused();
    vec![
        refused("mode", json!({"mode": "sideways"})),
        refused("mtu_above_parent", json!({"mtu": 1501})),
        refused("mtu_negative", json!({"mtu": -1})),
        refused("mac", json!({"mac": "zz"})),
        refused("runtime_mac", json!({"runtimeConfig": {"mac": "zz"}})),
        refused("master_missing", json!({"master": "nowhere0"})),
        refused("no_default_route", json!({"master": null})),
        refused("in_container_master_missing", json!({"linkInContainer": true})),
        refused("mode_is_number", json!({"mode": 5})),
        refused("queue_negative", json!({"bcqueuelen": -1})),
        refused("ipam_unknown", json!({"ipam": {"type": "no-such-plugin"}})),
        refused("ipam_refuses", json!({"ipam": {"type": "host-local"}})),
        refused("no_addresses", json!({"ipam": {"type": "static"}})),
        refused("args_unknown", json!({})).first(Step::Args("FOO=1")),
        refused("name_taken_in_pod", json!({})).prepare(|bed| {
            parents(bed);
            bed.ip("-n a link add eth0 type bridge");
        }),
        refused("passthru_twice", json!({"mode": "passthru"})).script([
            ADD,
            Step::As("c2", "net1"),
            ADD,
            DEL,
            Step::As("c1", "eth0"),
            DEL,
        ]),
    ]
}
