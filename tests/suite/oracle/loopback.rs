//! loopback: it has no keys. Rows in the newest version only have a `prevResult` of that version, or look at the kernel alone.

use serde_json::json;

use super::{ADD, CHECK, DEL, Row, Step};

pub(crate) fn rows() -> Vec<Row> {
    let row = |name: &str| Row::new("loopback", name, json!({}));
    let earlier = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:09", "sandbox": "/x", "mtu": 1400}],
        "ips": [{"address": "10.3.0.5/24", "interface": 0}], "routes": [{"dst": "0.0.0.0/0", "mtu": 1300}], "dns": {"domain": "x"}});
    vec![
        row("plain"),
        row("any_interface_name").first(Step::As("c1", "whatever")),
        row("after_another").script([Step::Conf(json!({"prevResult": earlier})), ADD, CHECK, DEL]).latest(),
        row("other_address").prepare(|bed| drop(bed.ip("-n a addr add 10.0.0.1/32 dev lo"))),
        row("second_add").script([ADD, ADD, DEL]),
        row("netns_lost").script([ADD, Step::LosePod, DEL]),
        row("netns_not_given").script([ADD, Step::Env("CNI_NETNS", Some("")), DEL]),
        row("add_netns_missing").script([Step::LosePod, ADD]),
        row("changed_down").changed("-n a link set lo down"),
    ]
}
