//! The plugins that come after others in a chain: every key, what is refused, what is changed under them. What they change the
//! Go bridge makes, on both sides.

use serde_json::{Value, json};

use super::{ADD, CHECK, DEL, Row, Step, dual_stack, one_subnet};
use crate::need::Need;

/// A row after a bridge with one IPv4 address.
fn row(kind: &'static str, name: &str, conf: Value) -> Row {
    Row::new(kind, name, conf).after("bridge", json!({"bridge": "br0", "isGateway": true, "ipam": one_subnet()}))
}

/// A row after a bridge with an address of each family.
fn dual(kind: &'static str, name: &str, conf: Value) -> Row {
    Row::new(kind, name, conf).after("bridge", json!({"bridge": "br0", "isGateway": true, "ipam": dual_stack()}))
}

/// What nobody attached cannot be changed.
fn alone(kind: &'static str, conf: Value) -> [Row; 2] {
    [
        Row::new(kind, "refused_without_prev_result", conf.clone()).refused(),
        Row::new(kind, "check_without_prev_result", conf).script([CHECK]).latest(),
    ]
}

const ARP_IGNORE: &str = "net.ipv4.conf.IFNAME.arp_ignore";

pub(super) fn tuning() -> Vec<Row> {
    let tuning = |name: &str, conf: Value| row("tuning", name, conf);
    let all = json!({"mac": "02:00:00:00:05:01", "mtu": 1300, "promisc": true, "allmulti": true, "txQLen": 500,
        "sysctl": {ARP_IGNORE: "1", "net.ipv4.conf.all.log_martians": "1"}});
    let mut rows = vec![
        tuning("nothing", json!({})),
        tuning("mtu", json!({"mtu": 1300})),
        tuning("mac", json!({"mac": "02:00:00:00:05:01"})),
        tuning("promisc", json!({"promisc": true})),
        tuning("allmulti", json!({"allmulti": true})),
        tuning("allmulti_off", json!({"allmulti": false})),
        tuning("txqlen", json!({"txQLen": 500})),
        tuning("txqlen_zero", json!({"txQLen": 0})),
        tuning("sysctl", json!({"sysctl": {ARP_IGNORE: "1"}})),
        tuning("everything", all.clone()),
        tuning("mac_by_args", json!({})).first(Step::Args("IgnoreUnknown=1;MAC=02:00:00:00:05:02")),
        tuning("mac_by_runtime", json!({"runtimeConfig": {"mac": "02:00:00:00:05:03"}}))
            .first(Step::Args("IgnoreUnknown=1;MAC=02:00:00:00:05:02")),
        tuning(
            "everything_by_args",
            json!({"mtu": 1200, "sysctl": {}, "args": {"cni": {"mac": "02:00:00:00:05:04", "mtu": 1400,
                "promisc": true, "allmulti": true, "txQLen": 300, "sysctl": {ARP_IGNORE: "2"}}}}),
        )
        .latest(),
        tuning("sysctl_by_args_alone", json!({"args": {"cni": {"sysctl": {ARP_IGNORE: "2"}}}})).latest(),
        tuning("refused_sysctl_elsewhere", json!({"sysctl": {"kernel.shmmax": "1"}})).refused(),
        tuning("refused_sysctl_twice", json!({})).refused().first(Step::Tail(
            br#","sysctl":{"net.ipv4.conf.all.log_martians":"1","net.ipv4.conf.all.log_martians":"0"}"#,
        )),
        tuning("refused_sysctl_upwards", json!({"sysctl": {"net/../kernel/shmmax": "1"}})).refused(),
        tuning("refused_sysctl_unknown", json!({"sysctl": {"net.ipv4.conf.IFNAME.nothing": "1"}})).refused(),
        tuning("refused_mac", json!({"mac": "zz"})).refused(),
        tuning("refused_mtu", json!({"mtu": 7})).refused(),
        tuning("refused_prev_result_of_nobody", json!({"mtu": 1300}))
            .first(Step::Conf(json!({"prevResult": 5})))
            .refused(),
        tuning("changed_mtu", json!({"mtu": 1300})).changed("-n a link set eth0 mtu 1290"),
        tuning("changed_mac", json!({"mac": "02:00:00:00:05:01"}))
            .changed("-n a link set eth0 address 02:00:00:00:05:09"),
        tuning("changed_promisc", json!({"mtu": 1300})).changed("-n a link set eth0 promisc on"),
        tuning("changed_txqlen", json!({"txQLen": 500})).changed("-n a link set eth0 txqueuelen 7"),
        tuning("lost_pod", all.clone()).script([ADD, Step::LosePod, DEL, DEL]).latest(),
        tuning("lost_link", all.clone()).script([ADD, Step::Ip("-n a link del eth0"), DEL, DEL]).latest(),
        tuning("twice", all).script([ADD, ADD, CHECK, DEL, DEL]).latest(),
    ];
    rows.extend(alone("tuning", json!({"mtu": 1300})));
    rows
}

/// `layout: compatible`: the Go plugin's tables, which then can be compared.
fn mapped(name: &str, more: Value, mappings: Value) -> Row {
    let mut conf = json!({"backend": "nftables", "layout": "compatible", "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": mappings}});
    super::merge(&mut conf, &more);
    dual("portmap", name, conf).needs(Need::Nft)
}

pub(super) fn portmap() -> Vec<Row> {
    let tcp = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let two = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp"}]);
    let at = |ip: &str| json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ip}]);
    let both = |name: &str, more: Value, mappings: &Value| {
        let mut maps = more.clone();
        super::merge(&mut maps, &json!({"layout": "maps"}));
        [mapped(name, more, mappings.clone()), mapped(&format!("maps_{name}"), maps, mappings.clone()).latest()]
    };
    let refused = |name: &str, mappings: Value| mapped(name, json!({}), mappings).refused();
    let mut rows = vec![
        row("portmap", "nothing", json!({"capabilities": {"portMappings": true}})),
        refused("refused_host_port_zero", json!([{"hostPort": 0, "containerPort": 80, "protocol": "tcp"}])),
        refused("refused_container_port_zero", json!([{"hostPort": 80, "containerPort": 0, "protocol": "tcp"}])),
        refused("refused_backend", tcp.clone()).first(Step::Conf(json!({"backend": "zz"}))),
        refused("refused_mark_bit", tcp.clone()).first(Step::Conf(json!({"backend": null, "markMasqBit": 32}))),
        mapped("lost_pod", json!({}), two.clone()).script([ADD, Step::LosePod, DEL, DEL]).latest(),
        mapped("twice", json!({}), two.clone()).script([ADD, ADD, CHECK, DEL, DEL]).latest(),
    ];
    for (name, more, mappings) in [
        ("one", json!({}), &tcp),
        ("two", json!({}), &two),
        ("snat_off", json!({"snat": false}), &two),
        ("masq_all", json!({"masqAll": true}), &two),
        ("host_ip", json!({}), &at("192.0.2.1")),
        ("host_ip_6", json!({}), &at("2001:db8::1")),
        ("any_host_ip", json!({}), &at("0.0.0.0")),
        ("any_host_ip_6", json!({}), &at("::")),
    ] {
        rows.extend(both(name, more, mappings));
    }
    rows.extend(alone("portmap", json!({"runtimeConfig": {"portMappings": tcp}})));
    rows
}

pub(super) fn bandwidth() -> Vec<Row> {
    // The Go plugin knows no older version, which has no interfaces.
    let limited = |name: &str, conf: Value| row("bandwidth", name, conf).since("0.3.0");
    let ingress = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000});
    let egress = json!({"egressRate": 8_000_000, "egressBurst": 800_000});
    let mut both = ingress.clone();
    super::merge(&mut both, &egress);
    let mut rows = vec![
        limited("nothing", json!({})),
        limited("ingress", ingress.clone()),
        limited("egress", egress.clone()),
        limited("both", both.clone()),
        limited("lost_pod_both", both).script([ADD, Step::LosePod, DEL, DEL]).latest(),
        limited("ingress_by_runtime", json!({"runtimeConfig": {"bandwidth": ingress.clone()}})),
        limited("refused_burst_alone", json!({"ingressBurst": 800_000})).refused(),
        limited("refused_rate_alone", json!({"ingressRate": 8_000_000})).refused(),
        limited("refused_huge_burst", json!({"ingressRate": 8_000_000, "ingressBurst": 34_359_738_361_u64})).refused(),
        limited("lost_pod", ingress.clone()).script([ADD, Step::LosePod, DEL, DEL]).latest(),
        limited("twice", ingress.clone()).script([ADD, ADD, CHECK, DEL, DEL]).latest(),
        limited("changed", ingress.clone())
            .script([ADD, Step::Conf(json!({"ingressRate": 9_000_000})), CHECK, DEL])
            .latest(),
    ];
    rows.extend(alone("bandwidth", ingress));
    rows
}

pub(super) fn firewall() -> Vec<Row> {
    // The Go plugin knows no older version.
    let filtered =
        |name: &str, conf: Value| dual("firewall", name, conf).needs(Need::Iptables).needs(Need::Nft).since("0.4.0");
    let mut rows = vec![
        dual("firewall", "old_version", json!({"backend": "iptables", "cniVersion": "0.3.1"}))
            .needs(Need::Iptables)
            .needs(Need::Nft)
            .latest(),
        filtered("default", json!({"backend": "iptables"})),
        filtered("any_backend", json!({})),
        filtered("admin_chain", json!({"backend": "iptables", "iptablesAdminChainName": "MINE"})).latest(),
        filtered("open", json!({"backend": "iptables", "ingressPolicy": "open"})).latest(),
        filtered("same_bridge", json!({"backend": "iptables", "ingressPolicy": "same-bridge"})),
        filtered("isolated", json!({"backend": "iptables", "ingressPolicy": "isolated"})).latest(),
        filtered("refused_policy", json!({"backend": "iptables", "ingressPolicy": "zz"})).refused(),
        filtered("lost_pod", json!({"backend": "iptables"})).script([ADD, Step::LosePod, DEL, DEL]).latest(),
        filtered("twice", json!({"backend": "iptables"})).script([ADD, ADD, CHECK, DEL, DEL]).latest(),
    ];
    rows.extend(alone("firewall", json!({"backend": "iptables"})).map(|row| row.needs(Need::Iptables)));
    rows
}

pub(super) fn sbr() -> Vec<Row> {
    // `gateways` and `addSourceHints` are newer than the release that is compared with.
    let routed = |name: &str, conf: Value| dual("sbr", name, conf);
    let mut rows = vec![
        routed("default", json!({})),
        row("sbr", "one_family", json!({})),
        routed("table", json!({"table": 777})).latest(),
        routed("taken_table", json!({})).first(Step::Ip("-n a rule add from 10.9.0.1 lookup 100")).latest(),
        routed("lost_link", json!({})).script([ADD, Step::Ip("-n a link del eth0"), DEL, DEL]).latest(),
        routed("lost_pod", json!({})).script([ADD, Step::LosePod, DEL, DEL]).latest(),
    ];
    rows.extend(alone("sbr", json!({})));
    rows
}

pub(super) fn vrf() -> Vec<Row> {
    let domain = |name: &str, conf: Value| dual("vrf", name, conf).needs(Need::Vrf).since("0.3.1");
    let mut rows = vec![
        domain("first_free_table", json!({"vrfname": "blue"})),
        domain("table", json!({"vrfname": "blue", "table": 1001})).latest(),
        domain("refused_name", json!({})).refused(),
        domain("lost_link", json!({"vrfname": "blue"}))
            .script([ADD, Step::Ip("-n a link del eth0"), DEL, DEL])
            .latest(),
        domain("lost_pod", json!({"vrfname": "blue"})).script([ADD, Step::LosePod, DEL, DEL]).latest(),
    ];
    rows.extend(alone("vrf", json!({"vrfname": "blue"})).map(|row| row.needs(Need::Vrf)));
    rows
}
