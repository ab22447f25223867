//! ptp: every key, addresses of both families, what is refused.

use serde_json::{Value, json};

use super::{ADD, CHECK, DEL, Row, Step, dual_stack, one_subnet};
use crate::need::Need;

fn row(name: &str, more: Value) -> Row {
    let mut conf = json!({"ipam": one_subnet()});
    super::merge(&mut conf, &more);
    Row::new("ptp", name, conf)
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = keys();
    rows.extend(masquerade());
    rows.extend(changes());
    rows.extend(refusals());
    rows
}

fn keys() -> Vec<Row> {
    let routes = json!({"type": "host-local", "subnet": "10.1.0.0/24", "routes": [
        {"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "priority": 50}]});
    let two = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]});
    let statically = json!({"type": "static", "addresses": [{"address": "10.5.0.9/16", "gateway": "10.5.0.1"}], "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["9.9.9.9"]}});
    vec![
        row("plain", json!({})),
        row("mtu", json!({"mtu": 1300})),
        row("routes", json!({"ipam": routes})),
        row("dual_stack", json!({"ipam": dual_stack()})),
        row("two_ranges", json!({"ipam": two})),
        row("static", json!({"ipam": statically})),
        row("dns", json!({"ipam": statically, "dns": {"nameservers": ["10.1.0.1"], "search": ["a", "b"]}})),
        row("empty_dns", json!({"ipam": statically, "dns": {"search": []}})),
        row("requested_address", json!({"runtimeConfig": {"ips": ["10.1.0.77/24"]}})),
        row("mac_args_ignored", json!({})).first(Step::Args("IgnoreUnknown=1;MAC=02:ab:00:00:00:01")),
        row("two_interfaces", json!({})).script([
            ADD,
            Step::As("c1", "net1"),
            ADD,
            CHECK,
            DEL,
            Step::As("c1", "eth0"),
            CHECK,
            DEL,
        ]),
        row("two_pods_pool", json!({})).script([
            ADD,
            Step::As("c2", "net2"),
            ADD,
            DEL,
            DEL,
            Step::As("c1", "eth0"),
            DEL,
        ]),
        row("second_add", json!({})).script([ADD, ADD, DEL]),
        row("never_added", json!({})).script([DEL]),
        row("netns_lost", json!({})).script([ADD, Step::LosePod, DEL, DEL]),
        row("netns_not_given", json!({})).script([ADD, Step::Env("CNI_NETNS", Some("")), DEL]),
        row("add_netns_missing", json!({})).script([Step::LosePod, ADD, DEL]),
    ]
}

fn masquerade() -> Vec<Row> {
    let masqueraded = |name: &str, more: Value| {
        let mut row = row(name, json!({"ipMasq": true, "ipMasqBackend": "nftables"})).needs(Need::Nft);
        super::merge(&mut row.conf, &more);
        row
    };
    let ranges = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/21"}], [{"subnet": "fd00:1::/61"}]]});
    vec![
        masqueraded("masquerade", json!({})),
        masqueraded("masquerade_dual_stack", json!({"ipam": ranges})),
        masqueraded("masquerade_backend_not_given", json!({"ipMasqBackend": null})).needs(Need::Iptables),
        masqueraded("refused_masquerade_backend", json!({"ipMasqBackend": "zz"})).refused(),
        masqueraded("masquerade_netns_lost", json!({})).script([ADD, Step::LosePod, DEL, DEL]),
    ]
}

fn changes() -> Vec<Row> {
    let change = |name: &str, words: &'static str| {
        row(
            &format!("changed_{name}"),
            json!({"ipam": {
        "type": "host-local", "subnet": "10.1.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}}),
        )
        .changed(words)
    };
    vec![
        change("address", "-n a addr del 10.1.0.2/24 dev eth0"),
        change("route", "-n a route del default"),
        change("gateway_route", "-n a route del 10.1.0.0/24"),
        change("link", "-n a link del eth0"),
        change("mac", "-n a link set eth0 address 02:00:00:00:aa:aa"),
        change("link_down", "-n a link set eth0 down"),
    ]
}

fn refusals() -> Vec<Row> {
    let refused = |name: &str, more: Value| row(&format!("refused_{name}"), more).refused();
    let statically = |address: &str, gateway: Option<&str>| {
        let mut entry = json!({"address": address});
        if let Some(gateway) = gateway {
            entry["gateway"] = json!(gateway);
        }
        json!({"ipam": {"type": "static", "addresses": [entry]}})
    };
    vec![
        refused("no_ipam", json!({"ipam": null})),
        refused("mtu_is_text", json!({"mtu": "big"})),
        refused("mtu_too_small", json!({"mtu": 20})),
        refused("ipam_unknown", json!({"ipam": {"type": "no-such-plugin"}})),
        refused("no_addresses", json!({"ipam": {"type": "static"}})),
        refused("host_prefix", statically("10.5.0.9/32", Some("10.5.0.1"))),
        refused("no_gateway", statically("10.5.0.9/16", None)),
        refused("name_taken_in_pod", json!({})).prepare(|bed| drop(bed.ip("-n a link add eth0 type bridge"))),
    ]
}
