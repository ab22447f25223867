//! host-local and static, executed directly: results and the directory's files, byte for byte, over sequences.

use std::path::Path;

use serde_json::{Value, json};

use super::{ADD, CHECK, DEL, Row, Step, VERSIONS, dual_stack};
use crate::testbed::{LEASES, Testbed};

const C1: Step = Step::As("c1", "eth0");
const C2: Step = Step::As("c2", "eth0");
const C3: Step = Step::As("c3", "eth0");

/// A host-local configuration with `ipam`'s keys.
fn local(name: &str, ipam: Value) -> Row {
    let mut ipam = ipam;
    ipam["type"] = json!("host-local");
    Row::new("host-local", name, json!({"type": "bridge", "ipam": ipam}))
}

/// A host-local configuration with one range, `more` in it.
fn subnet(name: &str, more: Value) -> Row {
    let mut range = json!({"subnet": "10.1.0.0/24"});
    super::merge(&mut range, &more);
    local(name, json!({"ranges": [[range]]}))
}

fn seed(bed: &Testbed, file: &str, text: &str) {
    let path = Path::new(LEASES).join("net1").join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    bed.note(&format!("{file} holds {text:?}\n"));
}

pub(crate) fn host_local() -> Vec<Row> {
    let mut rows = shapes();
    rows.extend(sequences());
    rows.extend(requested());
    rows.extend(directories());
    rows.extend(local_refusals());
    rows
}

fn shapes() -> Vec<Row> {
    let two_ranges = json!({"ranges": [[{"subnet": "10.1.0.0/30"}, {"subnet": "10.2.0.0/30"}]]});
    let old_and_new = json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.20", "gateway": "10.1.0.254",
        "ranges": [[{"subnet": "fd00:1::/64"}]]});
    let routes = json!({"subnet": "10.1.0.0/24", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"},
        {"dst": "10.9.0.0/16", "gw": "10.1.0.7", "mtu": 1200, "advmss": 1000, "priority": 50, "table": 100, "scope": 253}]});
    vec![
        local("old_style", json!({"subnet": "10.1.0.0/24"})),
        local("dual_stack", dual_stack()),
        local("old_and_new", old_and_new),
        local("routes", routes),
        local("two_ranges", two_ranges),
        local(
            "six",
            json!({"ranges": [[{"subnet": "fd00:1::/64", "rangeStart": "fd00:1::10", "rangeEnd": "fd00:1::20"}]]}),
        ),
        local("keys_in_any_case", json!({"Subnet": "10.1.0.0/24", "RANGESTART": "10.1.0.9"})),
        local("six_written_long", json!({"ranges": [[{"subnet": "FD00:0001:0:0::/64"}]]})),
        local("mapped_six", json!({"ranges": [[{"subnet": "::ffff:10.1.0.0/120"}]]})),
        local(
            "host_bits_range",
            json!({"ranges": [[{"subnet": "10.1.0.0/29", "rangeStart": "10.1.0.0", "rangeEnd": "10.1.0.7"}]]}),
        ),
        local("six_126", json!({"ranges": [[{"subnet": "fd00:1::/126"}]]})),
        local("huge_six", json!({"ranges": [[{"subnet": "fd00::/8"}]]})),
        local("whole_four", json!({"ranges": [[{"subnet": "0.0.0.0/0"}]]})),
        subnet("gateway_outside", json!({"gateway": "10.9.9.9"})),
        subnet("gateway_in_middle", json!({"rangeStart": "10.1.0.4", "rangeEnd": "10.1.0.6", "gateway": "10.1.0.5"})),
        local("null_routes", json!({"subnet": "10.1.0.0/24", "routes": Value::Null})),
        local("empty_routes", json!({"subnet": "10.1.0.0/24", "routes": []})),
    ]
}

fn sequences() -> Vec<Row> {
    let small = || json!({"ranges": [[{"subnet": "10.1.0.0/29"}]]});
    let three = [C1, ADD, C2, ADD, C3, ADD];
    let script = |name: &str, ipam: Value, script: Vec<Step>| local(name, ipam).script(script).latest();
    vec![
        script("three", small(), [&three[..], &[C2, DEL, ADD, CHECK, C1, DEL, C3, DEL]].concat()),
        script("round_robin", small(), [&three[..], &[C1, DEL, C2, DEL, C3, DEL, C1, ADD, C2, ADD, C3, ADD]].concat()),
        script("full", json!({"ranges": [[{"subnet": "10.1.0.0/30"}]]}), vec![C1, ADD, C2, ADD, C1, DEL, C2, ADD]),
        script(
            "full_two_ranges",
            json!({"ranges": [[{"subnet": "10.1.0.0/30"}, {"subnet": "10.2.0.0/30"}]]}),
            vec![C1, ADD, C2, ADD, C3, ADD],
        ),
        script(
            "second_set_full",
            json!({"ranges": [[{"subnet": "10.1.0.0/29"}], [{"subnet": "10.2.0.0/30"}]]}),
            vec![C1, ADD, C2, ADD, C2, DEL],
        ),
        script("same_twice", small(), vec![C1, ADD, ADD, DEL]),
        script(
            "two_interfaces",
            small(),
            vec![C1, ADD, Step::As("c1", "net1"), ADD, C1, DEL, CHECK, Step::As("c1", "net1"), CHECK, DEL],
        ),
        script("never_added", small(), vec![C1, DEL, CHECK]),
        script(
            "one_address_is_gateway",
            json!({"ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.1", "rangeEnd": "10.1.0.1"}]]}),
            vec![C1, ADD],
        ),
        script(
            "other_directory",
            json!({"subnet": "10.1.0.0/24", "dataDir": "/var/lib/cni/networks/deep/er"}),
            vec![C1, ADD, C2, ADD, C1, DEL],
        ),
        script(
            "pool_shrinks",
            small(),
            [
                &three[..],
                &[Step::Conf(json!({"ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}})), C1, DEL, ADD, C2, DEL],
            ]
            .concat(),
        ),
        script("two_networks", small(), vec![C1, ADD, Step::Conf(json!({"name": "net2"})), ADD, DEL]),
    ]
}

fn requested() -> Vec<Row> {
    let asked = |name: &str, change: Value| subnet(&format!("asked_{name}"), json!({})).first(Step::Conf(change));
    let runtime = |ips: &[&str]| json!({"runtimeConfig": {"ips": ips}});
    let ranges = json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.8.0.0/24"}]]}});
    vec![
        asked("by_runtime", runtime(&["10.1.0.50"])),
        asked("with_prefix", runtime(&["10.1.0.50/16"])),
        asked("by_args_cni", json!({"args": {"cni": {"ips": ["10.1.0.51"]}}})),
        subnet("asked_by_cni_args", json!({})).first(Step::Args("IP=10.1.0.52")),
        subnet("asked_by_cni_args_list", json!({})).first(Step::Args("IP=10.1.0.52,10.1.0.53")),
        subnet("asked_by_cni_args_prefix", json!({})).first(Step::Args("IP=10.1.0.52/24")),
        asked("gateway", runtime(&["10.1.0.1"])),
        asked("outside", runtime(&["10.2.0.1"])),
        asked("broadcast", runtime(&["10.1.0.255"])),
        asked("invalid", runtime(&["10.1.0.300"])),
        asked("empty", runtime(&[""])),
        asked("taken", runtime(&["10.1.0.50"])).script([Step::Conf(runtime(&["10.1.0.50"])), C1, ADD, C2, ADD]),
        asked("again_by_owner", runtime(&["10.1.0.50"])).script([
            C1,
            ADD,
            Step::Conf(runtime(&["10.1.0.50"])),
            ADD,
            DEL,
        ]),
        subnet("asked_before_start", json!({"rangeStart": "10.1.0.10"})).first(Step::Conf(runtime(&["10.1.0.5"]))),
        local("asked_both_families", dual_stack()).first(Step::Conf(runtime(&["fd00:1::77", "10.1.0.77"]))),
        local("asked_one_of_two", dual_stack()).first(Step::Conf(runtime(&["fd00:1::77"]))),
        asked("ranges", ranges.clone()),
        local("ranges_all_three", json!({"subnet": "10.1.0.0/24", "ranges": [[{"subnet": "fd00:1::/64"}]]}))
            .first(Step::Conf(ranges)),
    ]
}

fn directories() -> Vec<Row> {
    let row = |name: &str| local(&format!("directory_{name}"), json!({"ranges": [[{"subnet": "10.1.0.0/29"}]]}));
    vec![
        row("old_format").prepare(|bed| seed(bed, "10.1.0.4", "c1")).script([C1, CHECK, ADD, DEL, C2, ADD]),
        row("other_line_ends").prepare(|bed| seed(bed, "10.1.0.4", " c1\r\neth0\n\n")).script([C1, CHECK, DEL]),
        row("unix_line_end").prepare(|bed| seed(bed, "10.1.0.4", "c1\neth0")).script([C1, CHECK, DEL]),
        row("empty_lease").prepare(|bed| seed(bed, "10.1.0.2", "")).script([C1, ADD, C2, ADD]),
        row("last_outside").prepare(|bed| seed(bed, "last_reserved_ip.0", "192.168.1.1")).script([C1, ADD]),
        row("last_nonsense").prepare(|bed| seed(bed, "last_reserved_ip.0", "what?")).script([C1, ADD]),
        row("last_is_end").prepare(|bed| seed(bed, "last_reserved_ip.0", "10.1.0.6")).script([C1, ADD, C2, ADD]),
        row("last_with_newline").prepare(|bed| seed(bed, "last_reserved_ip.0", "10.1.0.4\n")).script([C1, ADD]),
        row("other_files").prepare(|bed| seed(bed, "notes.txt", "c9\r\neth0")).script([C1, ADD, DEL, Step::As("c9", "eth0"), DEL]),
        row("sub_directory").prepare(|bed| seed(bed, "sub/10.1.0.3", "c1\r\neth0")).script([C1, ADD, DEL]),
        row("lease_of_other_pool").prepare(|bed| seed(bed, "10.99.0.3", "c1\r\neth0")).script([C1, ADD, DEL]),
        local("resolv_conf", json!({"subnet": "10.1.0.0/24", "resolvConf": "/run/scratch/resolv.conf"})).prepare(|bed| {
            let text = "# a\n; b\nnameserver 9.9.9.9 extra\nnameserver 2620:fe::fe\ndomain old.org\ndomain new.org\nsearch a b\nsearch c\noptions ndots:5 rotate\nsearch\n";
            bed.file("resolv.conf", text);
        }),
        local("resolv_conf_missing", json!({"subnet": "10.1.0.0/24", "resolvConf": "/run/scratch/none"})).refused(),
        local("directory_not_possible", json!({"subnet": "10.1.0.0/24", "dataDir": "/proc/nowhere"})).refused(),
    ]
}

fn local_refusals() -> Vec<Row> {
    let range = |name: &str, range: Value| local(&format!("refused_{name}"), json!({"ranges": [[range]]})).refused();
    let sets = |name: &str, ranges: Value| local(&format!("refused_{name}"), json!({"ranges": ranges})).refused();
    let mut rows = vec![
        sets("no_ranges", json!([])),
        sets("empty_set", json!([[]])),
        sets("overlap_in_set", json!([[{"subnet": "10.1.0.0/24"}, {"subnet": "10.1.0.0/25"}]])),
        sets("overlap_of_sets", json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/25"}]])),
        sets("mixed_families", json!([[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]])),
        range("too_small_31", json!({"subnet": "10.1.0.0/31"})),
        range("too_small_32", json!({"subnet": "10.1.0.0/32"})),
        range("too_small_127", json!({"subnet": "fd00::/127"})),
        range("host_bits", json!({"subnet": "10.1.0.5/24"})),
        range("host_bits_6", json!({"subnet": "fd00::5/64"})),
        range("no_subnet", json!({"rangeStart": "10.1.0.5"})),
        range("start_outside", json!({"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.5"})),
        range("end_outside", json!({"subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.5"})),
        range("start_after_end", json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.5"})),
        range("start_invalid", json!({"subnet": "10.1.0.0/24", "rangeStart": "x"})),
        range("start_other_family", json!({"subnet": "10.1.0.0/24", "rangeStart": "fd00::1"})),
        range("gateway_invalid", json!({"subnet": "10.1.0.0/24", "gateway": "10.1.0"})),
        range("subnet_invalid", json!({"subnet": "10.1.0.0"})),
        range("subnet_number", json!({"subnet": 10})),
        range("subnet_leading_zero", json!({"subnet": "10.01.0.0/24"})),
        Row::new("host-local", "refused_no_ipam", json!({"type": "bridge"})).refused(),
        local("refused_route", json!({"subnet": "10.1.0.0/24", "routes": [{"dst": "nowhere"}]})).refused(),
        local("refused_route_gateway", json!({"subnet": "10.1.0.0/24", "routes": [{"dst": "0.0.0.0/0", "gw": "x"}]}))
            .refused(),
        local("refused_args", json!({"subnet": "10.1.0.0/24"})).first(Step::Args("IP=zz")).refused(),
    ];
    let mut old =
        local("refused_two_of_a_family", json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]}));
    old.versions = &VERSIONS;
    rows.push(old);
    rows
}

pub(crate) fn r#static() -> Vec<Row> {
    let row = |name: &str, ipam: Value| {
        let mut ipam = ipam;
        ipam["type"] = json!("static");
        Row::new("static", name, json!({"type": "bridge", "ipam": ipam}))
    };
    let one = || json!({"addresses": [{"address": "10.5.0.9/16", "gateway": "10.5.0.1"}]});
    let refused = |name: &str, ipam: Value| row(&format!("refused_{name}"), ipam).refused();
    let change = |name: &str, change: Value| row(name, one()).first(Step::Conf(change));
    vec![
        row("one", one()),
        row("no_addresses", json!({})),
        row(
            "both_families",
            json!({"addresses": [{"address": "10.5.0.9/16"}, {"address": "fd05::9/64", "gateway": "fd05::1"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}),
        ),
        row("two_of_a_family", json!({"addresses": [{"address": "10.5.0.9/16"}, {"address": "10.6.0.9/16"}]})),
        row(
            "dns",
            json!({"addresses": [{"address": "10.5.0.9/16"}], "dns": {"nameservers": ["9.9.9.9"], "domain": "<a&b>", "search": ["x"], "options": ["y"]}}),
        ),
        row(
            "two_routes_to_one_place",
            json!({"addresses": [{"address": "10.5.0.9/16"}],
            "routes": [{"dst": "10.9.0.0/16", "gw": "10.5.0.1"}, {"dst": "10.9.0.0/16", "gw": "10.5.0.2"}]}),
        ),
        row("long_six", json!({"addresses": [{"address": "FD05:0:0::0009/64"}]})),
        row("by_cni_args", one()).first(Step::Args("IP=10.7.0.3/24,fd07::3/64;GATEWAY=10.7.0.1,fd07::1")),
        row("by_cni_args_spaces", one()).first(Step::Args("IP=10.7.0.3/24, 10.7.0.4/24")),
        row("gateway_elsewhere", one()).first(Step::Args("IP=10.7.0.3/24;GATEWAY=10.8.0.1")),
        change("by_args", json!({"args": {"cni": {"ips": ["10.7.0.4/24", "fd07::4/64"]}}})),
        change("by_runtime", json!({"runtimeConfig": {"ips": ["10.7.0.5/24"]}})),
        change(
            "by_both",
            json!({"args": {"cni": {"ips": ["10.7.0.4/24"]}}, "runtimeConfig": {"ips": ["10.7.0.5/24"]}}),
        ),
        row("checked_changed", one()).script([
            ADD,
            Step::Conf(
                json!({"ipam": {"type": "static", "addresses": [{"address": "10.5.0.9/16", "gateway": "10.5.0.2"}]}}),
            ),
            CHECK,
            DEL,
        ]),
        row("checked_other_address", one()).script([
            ADD,
            Step::Conf(json!({"ipam": {"type": "static", "addresses": [{"address": "10.5.0.10/16"}]}})),
            CHECK,
        ]),
        refused("no_prefix", json!({"addresses": [{"address": "10.5.0.9"}]})),
        refused("gateway", json!({"addresses": [{"address": "10.5.0.9/16", "gateway": "x"}]})),
        refused("address_number", json!({"addresses": [{"address": 5}]})),
        refused("route", json!({"addresses": [{"address": "10.5.0.9/16"}], "routes": [{"dst": "x"}]})),
        refused("cni_args_ip", one()).first(Step::Args("IP=10.7.0.3")),
        refused("cni_args_gateway", one()).first(Step::Args("IP=10.7.0.3/24;GATEWAY=x")),
        refused("args_ips", one()).first(Step::Conf(json!({"args": {"cni": {"ips": ["10.7.0.4"]}}}))),
        refused("runtime_ips", one()).first(Step::Conf(json!({"runtimeConfig": {"ips": ["10.7.0.4"]}}))),
        Row::new("static", "refused_no_ipam", json!({"type": "bridge"})).refused(),
        Row::new("static", "no_ipam_but_runtime", json!({"type": "bridge", "runtimeConfig": {"ips": ["10.7.0.5/24"]}}))
            .refused(),
    ]
}
