//! bridge: every key, alone and in useful combinations.
//! VLANs and trunks beyond the first row are in the newest version only: they run in an emulated machine, and the result
//! has its fourth interface in that row. So is the packet filter, which no result shows.

use serde_json::{Value, json};

use super::{ADD, CHECK, DEL, Row, Step, dual_stack, one_subnet};
use crate::need::Need;
use crate::testbed::Testbed;

/// A gateway bridge with one subnet and `more`.
fn gateway(name: &str, more: Value) -> Row {
    let mut conf = json!({"bridge": "br0", "isGateway": true, "ipam": one_subnet()});
    super::merge(&mut conf, &more);
    Row::new("bridge", name, conf)
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = keys();
    rows.extend(addresses());
    rows.extend(macs());
    rows.extend(packet_filter());
    rows.extend(vlans());
    rows.extend(trunks());
    rows.extend(existing());
    rows.extend(changes());
    rows.extend(lost());
    rows.extend(refusals());
    rows
}

/// Both families and a route, but no default route: `isDefaultGateway` adds those.
fn no_default_route() -> Value {
    let mut ipam = dual_stack();
    ipam["routes"] = json!([{"dst": "192.168.0.0/16", "gw": "10.1.0.99"}]);
    ipam
}

fn keys() -> Vec<Row> {
    vec![
        Row::new("bridge", "all_defaults", json!({"ipam": one_subnet()})),
        Row::new("bridge", "layer_2", json!({"bridge": "br0"})),
        gateway("is_gateway", json!({})),
        gateway("is_default_gateway", json!({"isDefaultGateway": true, "isGateway": null})),
        gateway("force_address", json!({"forceAddress": true})),
        gateway("mtu", json!({"mtu": 1300})),
        gateway("hairpin", json!({"hairpinMode": true})),
        gateway("promiscuous", json!({"promiscMode": true})),
        gateway("isolated_port", json!({"portIsolation": true})),
        gateway("dad", json!({"enabledad": true, "ipam": dual_stack()})),
        gateway("keys_in_any_case", json!({"MTU": 1400, "HairPinMode": true})),
        gateway("null_is_unset", json!({"mtu": null, "vlan": Value::Null})),
        gateway(
            "dns",
            json!({"dns": {"nameservers": ["10.1.0.1"], "domain": "example.org", "search": ["a"], "options": ["ndots:5"]}}),
        ),
        gateway("empty_dns", json!({"dns": {"nameservers": []}})),
        gateway("other_bridge_name", json!({"bridge": "mybridge"})),
        Row::new("bridge", "no_container_interface", json!({"bridge": "br0", "disableContainerInterface": true})),
        Row::new(
            "bridge",
            "no_container_interface_mtu",
            json!({"bridge": "br0", "mtu": 1300, "disableContainerInterface": true}),
        ),
        gateway("unknown_key", json!({"whatever": {"a": [1, 2]}})),
    ]
}

fn addresses() -> Vec<Row> {
    let three = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}], [{"subnet": "fd00:1::/64"}]]});
    let gateway_elsewhere = json!({"type": "host-local", "subnet": "10.1.0.0/24", "gateway": "10.1.0.254"});
    let routes = json!({"type": "host-local", "subnet": "10.1.0.0/24", "routes": [
        {"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.7", "mtu": 1200, "advmss": 1000, "priority": 50, "table": 100},
        {"dst": "10.8.0.0/16"}]});
    let link_scope =
        json!({"type": "host-local", "subnet": "10.1.0.0/24", "routes": [{"dst": "10.8.0.0/16", "scope": 253}]});
    let same_dst = json!({"type": "host-local", "subnet": "10.1.0.0/24", "routes": [
        {"dst": "10.9.0.0/16", "gw": "10.1.0.7"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.8"}]});
    let statically = json!({"type": "static", "addresses": [{"address": "10.5.0.9/16", "gateway": "10.5.0.1"}, {"address": "fd05::9/64", "gateway": "fd05::1"}],
        "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["9.9.9.9"]}});
    vec![
        gateway("dual_stack", json!({"ipam": dual_stack()})),
        gateway("dual_stack_default_gateway", json!({"isDefaultGateway": true, "ipam": no_default_route()})),
        gateway("two_default_routes", json!({"isDefaultGateway": true, "ipam": dual_stack()})),
        gateway("refused_link_scope", json!({"ipam": link_scope})).refused(),
        Row::new("bridge", "dual_stack_no_gateway", json!({"bridge": "br0", "ipam": dual_stack()})),
        gateway("three_ranges", json!({"ipam": three})),
        gateway("three_ranges_forced", json!({"ipam": three, "forceAddress": true})),
        gateway("gateway_elsewhere", json!({"ipam": gateway_elsewhere})),
        gateway("routes", json!({"ipam": routes})),
        gateway("two_routes_to_one_place", json!({"ipam": same_dst})),
        gateway("static", json!({"ipam": statically})),
        gateway("static_dns_overridden", json!({"ipam": statically, "dns": {"domain": "x"}})),
        gateway("requested_address", json!({"ipam": one_subnet(), "runtimeConfig": {"ips": ["10.1.0.77"]}})),
        gateway("requested_by_args", json!({})).first(Step::Args("IgnoreUnknown=1;IP=10.1.0.78")),
        gateway("two_pods_interfaces", json!({"ipam": dual_stack()})).script([
            ADD,
            Step::As("c1", "net1"),
            ADD,
            CHECK,
            Step::As("c1", "eth0"),
            DEL,
            Step::As("c1", "net1"),
            CHECK,
            DEL,
        ]),
        gateway("second_add", json!({})).script([ADD, ADD, DEL]),
    ]
}

fn macs() -> Vec<Row> {
    let runtime = json!({"capabilities": {"mac": true}, "runtimeConfig": {"mac": "02:ab:00:00:00:03"}});
    let args = json!({"args": {"cni": {"mac": "02:ab:00:00:00:02"}}});
    let mut both = runtime.clone();
    super::merge(&mut both, &args);
    vec![
        gateway("mac_of_runtime", runtime),
        gateway("mac_of_args_cni", args.clone()),
        gateway("mac_of_cni_args", json!({})).first(Step::Args("IgnoreUnknown=1;MAC=02:AB:00:00:00:01")),
        gateway("mac_of_all_three", both).first(Step::Args("IgnoreUnknown=1;K8S_POD_NAME=x;MAC=02:ab:00:00:00:01")),
        gateway("mac_of_args_beats_cni_args", args).first(Step::Args("IgnoreUnknown=1;MAC=02:ab:00:00:00:01")),
    ]
}

fn packet_filter() -> Vec<Row> {
    let filtered = |name: &str, more: Value| {
        let mut row = gateway(name, json!({"ipMasqBackend": "nftables"})).needs(Need::Nft).latest();
        super::merge(&mut row.conf, &more);
        row
    };
    let both = json!({"ipMasq": true, "macspoofchk": true, "ipam": dual_stack()});
    let two =
        [ADD, Step::As("c1", "net1"), ADD, CHECK, Step::As("c1", "eth0"), DEL, Step::As("c1", "net1"), CHECK, DEL];
    let prefix = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/21"}], [{"subnet": "fd00:1::/61"}]]});
    vec![
        filtered("masquerade", json!({"ipMasq": true})),
        filtered("masquerade_dual_stack", json!({"ipMasq": true, "ipam": prefix})),
        filtered("masquerade_layer_2", json!({"ipMasq": true, "ipam": null, "isGateway": null})).script([ADD, DEL]),
        filtered("masquerade_not", json!({"ipMasq": false, "ipMasqBackend": "zz"})),
        filtered("masquerade_backend_not_given", json!({"ipMasq": true, "ipMasqBackend": null})).needs(Need::Iptables),
        filtered("masquerade_long_names", json!({"ipMasq": true, "macspoofchk": true})).first(Step::As(
            "a-container-whose-id-is-0123456789abcdef0123456789abcdef0123456789abcdef",
            "an-interface",
        )),
        filtered("refused_masquerade_backend", json!({"ipMasq": true, "ipMasqBackend": "zz"})).refused(),
        filtered("spoof_check", json!({"macspoofchk": true})),
        filtered("spoof_check_layer_2", json!({"macspoofchk": true, "ipam": null, "isGateway": null}))
            .script([ADD, DEL]),
        filtered("spoof_check_mac", json!({"macspoofchk": true, "runtimeConfig": {"mac": "02:ab:00:00:00:03"}})),
        filtered("filter_two_interfaces", both.clone()).script(two),
        filtered("filter_netns_lost", both).script([ADD, Step::LosePod, DEL, DEL]),
    ]
}

/// A gateway bridge that forwards by VLAN.
fn filtering(name: &str, more: Value) -> Row {
    gateway(name, more).needs(Need::VlanFiltering).macs_alike().latest()
}

/// Such a bridge that was there, with another default VLAN.
fn existing_filtering(bed: &Testbed) {
    bed.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 7");
}

fn vlans() -> Vec<Row> {
    let row = filtering;
    let mut every_version = row("vlan", json!({"vlan": 100}));
    every_version.versions = &super::VERSIONS;
    vec![
        every_version,
        row("vlan_layer_2", json!({"vlan": 100, "isGateway": null, "ipam": null})).script([ADD, DEL, DEL]),
        row("vlan_layer_2_gateway", json!({"vlan": 100, "ipam": null})).script([ADD, DEL]),
        row("vlan_no_gateway", json!({"vlan": 100, "isGateway": null})),
        row("vlan_dual_stack", json!({"vlan": 4094, "isDefaultGateway": true, "ipam": no_default_route()})),
        row("vlan_mtu", json!({"vlan": 100, "mtu": 1300})),
        row("vlan_keeping_default", json!({"vlan": 100, "preserveDefaultVlan": true})),
        row("vlan_default", json!({"vlan": 1})),
        row("vlan_hairpin", json!({"vlan": 100, "hairpinMode": true})),
        row("vlan_isolated", json!({"vlan": 100, "portIsolation": true})),
        row("vlan_two_pods_interfaces", json!({"vlan": 100})).script([
            ADD,
            Step::As("c1", "net1"),
            ADD,
            CHECK,
            Step::As("c1", "eth0"),
            DEL,
            Step::As("c1", "net1"),
            DEL,
        ]),
        row("vlan_two_vlans", json!({"vlan": 100})).script([
            ADD,
            Step::As("c1", "net1"),
            Step::Conf(json!({"vlan": 101, "ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}})),
            ADD,
            CHECK,
            DEL,
            Step::As("c1", "eth0"),
            DEL,
        ]),
        row("refused_vlan_gateway_has_other_address", json!({"vlan": 100})).script([
            ADD,
            Step::As("c1", "net1"),
            Step::Conf(json!({"ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}})),
            ADD,
            DEL,
        ]),
        row("vlan_gateway_forced", json!({"vlan": 100, "forceAddress": true})).script([
            ADD,
            Step::As("c1", "net1"),
            Step::Conf(json!({"ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}})),
            ADD,
            DEL,
            Step::As("c1", "eth0"),
            DEL,
        ]),
        row("vlan_existing_filtering", json!({"vlan": 100})).prepare(existing_filtering),
        row("vlan_existing_not_filtering", json!({"vlan": 100}))
            .prepare(|bed| drop(bed.ip("link add br0 type bridge"))),
        row("vlan_netns_lost", json!({"vlan": 100})).script([ADD, Step::LosePod, DEL]),
    ]
}

fn trunks() -> Vec<Row> {
    let row = filtering;
    let trunk = json!([{"id": 200}, {"minID": 300, "maxID": 302}, {"id": 301}, {"id": 303}]);
    let both = |more: Value| {
        let mut conf = json!({"vlan": 100, "vlanTrunk": trunk, "isGateway": null});
        super::merge(&mut conf, &more);
        conf
    };
    vec![
        row("trunk", json!({"vlanTrunk": trunk, "isGateway": null})),
        row("trunk_gateway", json!({"vlanTrunk": trunk})),
        row("trunk_keeping_default", json!({"vlanTrunk": trunk, "isGateway": null, "preserveDefaultVlan": true})),
        row("trunk_of_default_vlan", json!({"vlanTrunk": [{"minID": 1, "maxID": 4094}], "isGateway": null})),
        row("trunk_existing_filtering", json!({"vlanTrunk": trunk, "isGateway": null})).prepare(existing_filtering),
        row("trunk_and_vlan", both(json!({}))),
        row("trunk_and_vlan_keeping_default", both(json!({"preserveDefaultVlan": true}))),
        row("trunk_with_its_vlan", both(json!({"vlan": 301}))),
        row("trunk_layer_2", both(json!({"ipam": null}))).script([ADD, DEL]),
        row("trunk_empty", json!({"vlanTrunk": []})),
        row("trunk_says_nothing", json!({"vlanTrunk": [{}], "isGateway": null})),
    ]
}

fn existing() -> Vec<Row> {
    vec![
        gateway("existing_bridge", json!({"mtu": 1400})).prepare(|bed| drop(bed.ip("link add br0 type bridge"))),
        gateway("existing_other_address", json!({})).prepare(|bed| {
            bed.ip("link add br0 type bridge");
            bed.ip("addr add 10.77.0.1/24 dev br0");
        }),
        gateway("existing_other_address_forced", json!({"forceAddress": true})).prepare(|bed| {
            bed.ip("link add br0 type bridge");
            bed.ip("addr add 10.77.0.1/24 dev br0");
        }),
        gateway("existing_same_address", json!({})).prepare(|bed| {
            bed.ip("link add br0 type bridge");
            bed.ip("addr add 10.1.0.1/24 dev br0");
        }),
        gateway("existing_no_bridge", json!({})).prepare(|bed| bed.parent("br0")).refused(),
        gateway("name_taken_in_pod", json!({})).prepare(|bed| drop(bed.ip("-n a link add eth0 type bridge"))).refused(),
        gateway("dead_address_in_pool", json!({})).script([
            ADD,
            Step::As("c2", "net5"),
            ADD,
            DEL,
            Step::As("c1", "eth0"),
            DEL,
        ]),
    ]
}

fn changes() -> Vec<Row> {
    let routed = || gateway("", json!({"isDefaultGateway": true, "ipam": no_default_route()}));
    let row = |name: &str, words: &'static str| Row { name: format!("changed_{name}"), ..routed().changed(words) };
    vec![
        row("address", "-n a addr del 10.1.0.2/24 dev eth0"),
        row("address_6", "-n a addr del fd00:1::2/64 dev eth0"),
        row("route", "-n a route del default"),
        row("added_route", "-n a route del 192.168.0.0/16"),
        row("link", "-n a link del eth0"),
        row("mac", "-n a link set eth0 address 02:00:00:00:aa:aa"),
        row("link_down", "-n a link set eth0 down"),
        row("bridge_promisc", "link set br0 promisc on"),
        row("bridge_mac", "link set br0 address 02:00:00:00:aa:ab"),
        row("bridge", "link del br0"),
        row("mtu", "-n a link set eth0 mtu 1300"),
        gateway("checked_without_prev_result", json!({}))
            .script([ADD, Step::As("c1", "net9"), CHECK, Step::As("c1", "eth0"), DEL])
            .latest(),
    ]
}

fn lost() -> Vec<Row> {
    let row = |name: &str, script: Vec<Step>| gateway(name, json!({"ipam": dual_stack()})).script(script).latest();
    vec![
        row("never_added", vec![DEL, DEL]),
        row("netns_lost", vec![ADD, Step::LosePod, DEL, DEL]),
        row("netns_not_given", vec![ADD, Step::Env("CNI_NETNS", Some("")), DEL]),
        row("netns_no_namespace", vec![ADD, Step::Env("CNI_NETNS", Some("/run/scratch")), DEL]),
        row("add_netns_missing", vec![Step::LosePod, ADD, DEL]),
        row("add_netns_no_namespace", vec![Step::Env("CNI_NETNS", Some("/run/scratch")), ADD]),
        row("link_lost", vec![ADD, Step::Ip("-n a link del eth0"), DEL]),
        row("bridge_lost", vec![ADD, Step::Ip("link del br0"), DEL]),
    ]
}

fn refusals() -> Vec<Row> {
    let row = |name: &str, more: Value| gateway(&format!("refused_{name}"), more).refused();
    vec![
        row("hairpin_and_promisc", json!({"hairpinMode": true, "promiscMode": true})),
        row("vlan_4095", json!({"vlan": 4095})),
        row("vlan_negative", json!({"vlan": -1})),
        row("trunk_min_0", json!({"vlanTrunk": [{"minID": 0, "maxID": 3}]})),
        row("trunk_max_4095", json!({"vlanTrunk": [{"minID": 1, "maxID": 4095}]})),
        row("trunk_backwards", json!({"vlanTrunk": [{"minID": 9, "maxID": 3}]})),
        row("trunk_no_max", json!({"vlanTrunk": [{"minID": 9}]})),
        row("trunk_no_min", json!({"vlanTrunk": [{"maxID": 9}]})),
        row("trunk_no_max_wrong_min", json!({"vlanTrunk": [{"minID": 0}]})),
        row("trunk_id_after_range", json!({"vlanTrunk": [{"minID": 5, "maxID": 4, "id": 0}]})),
        row("trunk_id_0", json!({"vlanTrunk": [{"id": 0}]})),
        row("ipam_without_interface", json!({"disableContainerInterface": true})),
        row("mtu_is_text", json!({"mtu": "big"})),
        row("bridge_is_number", json!({"bridge": 5})),
        row("flag_is_text", json!({"isGateway": "yes"})),
        row("ipam_unknown", json!({"ipam": {"type": "no-such-plugin"}})),
        row("ipam_empty_type", json!({"ipam": {"type": "", "subnet": "10.1.0.0/24"}})),
        row("ipam_refuses", json!({"ipam": {"type": "host-local"}})),
        row("no_addresses", json!({"ipam": {"type": "static"}})),
        row("bridge_name_too_long", json!({"bridge": "bridge-name-too-long"})),
        row(
            "route_with_host_bits",
            json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "routes": [{"dst": "192.168.5.7/16"}]}}),
        ),
        row(
            "route_unreachable_gateway",
            json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "routes": [{"dst": "10.9.0.0/16", "gw": "172.16.0.1"}]}}),
        ),
        row(
            "same_route_twice",
            json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "routes": [{"dst": "10.9.0.0/16"}, {"dst": "10.9.0.0/16"}]}}),
        ),
        row("mac_invalid", json!({"runtimeConfig": {"mac": "zz"}})),
        row("args_pair", json!({})).first(Step::Args("MAC")),
        row("args_unknown", json!({})).first(Step::Args("FOO=1")),
        row("args_mac", json!({})).first(Step::Args("MAC=zz")),
        row("mtu_too_small", json!({"mtu": 20})),
        row("mtu_negative", json!({"mtu": -5})),
        row("mac_multicast", json!({"runtimeConfig": {"mac": "01:00:5e:00:00:01"}})),
        row("pool_full", json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/30"}})).script([
            ADD,
            Step::As("c2", "net1"),
            ADD,
            DEL,
        ]),
    ]
}
