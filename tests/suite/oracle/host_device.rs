//! host-device: every key, the way into the pod and back, what is refused.

use serde_json::{Value, json};

use super::{ADD, CHECK, DEL, Row, Step, dual_stack, one_subnet};
use crate::testbed::Testbed;

/// Two devices that are up.
fn devices(bed: &Testbed) {
    bed.parent("dev0");
    bed.parent("dev1");
}

fn row(name: &str, more: Value) -> Row {
    let mut conf = json!({"device": "dev0", "ipam": one_subnet()});
    super::merge(&mut conf, &more);
    Row::new("host-device", name, conf).prepare(devices).script([ADD, CHECK, DEL])
}

pub(crate) fn rows() -> Vec<Row> {
    let statically = json!({"type": "static", "addresses": [{"address": "10.5.0.9/16", "gateway": "10.5.0.1"}], "dns": {"nameservers": ["9.9.9.9"]}});
    let dns = json!({"nameservers": ["10.1.0.1"]});
    let mut rows = vec![
        row("plain", json!({})),
        row("layer_2", json!({"ipam": null})),
        row("dual_stack", json!({"ipam": dual_stack()})),
        row("static", json!({"ipam": statically})),
        row("dns", json!({"ipam": statically, "dns": dns})),
        row("dns_without_ipam", json!({"ipam": null, "dns": dns})),
        row("by_hardware_address", json!({"device": null, "hwaddr": "02:00:00:00:00:02"})),
        row("by_name_before_address", json!({"hwaddr": "02:00:00:00:00:02"})),
        // The first of its `net` directory: dev0 comes before the others of the bed.
        row("by_kernel_path", json!({"device": null, "kernelpath": "/sys/devices/virtual"})),
        row("keys_in_any_case", json!({"device": null, "HWaddr": "0200.0000.0002"})),
        row("user_space", json!({"DPDKMode": true})),
        row("user_space_layer_2", json!({"DPDKMode": true, "ipam": null})),
        row("device_down", json!({})).prepare(|bed| {
            devices(bed);
            bed.ip("link set dev0 down");
        }),
        row("had_an_address", json!({})).prepare(|bed| {
            devices(bed);
            bed.ip("addr add 192.0.2.1/24 dev dev0");
        }),
        row("had_an_alias", json!({})).prepare(|bed| {
            devices(bed);
            bed.ip("link set dev0 alias uplink");
        }),
        row("its_name_is_taken_in_pod", json!({})).prepare(|bed| {
            devices(bed);
            bed.ip("-n a link add dev0 type bridge");
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
        script(
            "two_interfaces",
            vec![
                ADD,
                Step::As("c1", "net1"),
                Step::Conf(json!({"device": "dev1"})),
                ADD,
                CHECK,
                DEL,
                Step::As("c1", "eth0"),
                CHECK,
                DEL,
            ],
        ),
        script("under_its_own_name", vec![Step::As("c1", "dev0"), ADD, CHECK, DEL]),
        script("second_add", vec![ADD, ADD, DEL]),
        script("again", vec![ADD, DEL, ADD, CHECK, DEL]),
        script("never_added", vec![DEL]),
        script("deleted_again", vec![ADD, DEL, DEL]),
        script("netns_lost", vec![ADD, Step::LosePod, DEL, DEL]),
        script("netns_not_given", vec![ADD, Step::Env("CNI_NETNS", Some("")), DEL]),
        script("add_netns_missing", vec![Step::LosePod, ADD, DEL]),
        script(
            "its_name_is_taken_on_host",
            vec![ADD, Step::Ip("link add dev0 type bridge"), DEL, CHECK, Step::Ip("link del dev0"), DEL],
        ),
        change("address", "-n a addr del 10.1.0.2/24 dev eth0"),
        change("link", "-n a link del eth0"),
        change("mac", "-n a link set eth0 address 02:00:00:00:aa:aa"),
        change("link_down", "-n a link set eth0 down"),
        row("changed_route", json!({"ipam": dual_stack()})).changed("-n a route del 192.168.0.0/16"),
    ]
}

fn refusals() -> Vec<Row> {
    let refused = |name: &str, more: Value| row(&format!("refused_{name}"), more).refused();
    let other = |name: &str, key: &str, value: &str| refused(name, json!({"device": null, key: value}));
    let asked = |id: &str| json!({"runtimeConfig": {"deviceID": id}});
    vec![
        refused("no_device", json!({"device": null})),
        refused("device_missing", json!({"device": "nowhere0"})),
        refused("device_is_number", json!({"device": 5})),
        refused("device_cannot_move", json!({"device": "lo"})),
        other("hardware_address", "hwaddr", "zz"),
        other("hardware_address_missing", "hwaddr", "02:00:00:00:77:77"),
        other("kernel_path_elsewhere", "kernelpath", "/sys/class/net/dev0"),
        other("kernel_path_missing", "kernelpath", "/sys/devices/no-such-device"),
        other("kernel_path_without_interface", "kernelpath", "/sys/devices/system"),
        other("pci_missing", "pciBusID", "ffff:ff:1f.7"),
        refused("pci_missing_beside_device", json!({"pciBusID": "ffff:ff:1f.7"})),
        refused("device_id_missing", asked("ffff:ff:1f.7")),
        refused("ipam_unknown", json!({"ipam": {"type": "no-such-plugin"}})),
        refused("ipam_refuses", json!({"ipam": {"type": "host-local"}})),
        refused("no_addresses", json!({"ipam": {"type": "static"}})),
        refused(
            "route_unreachable_gateway",
            json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "routes": [{"dst": "10.9.0.0/16", "gw": "172.16.0.1"}]}}),
        ),
        refused("name_taken_in_pod", json!({})).prepare(|bed| {
            devices(bed);
            bed.ip("-n a link add eth0 type bridge");
        }),
    ]
}
