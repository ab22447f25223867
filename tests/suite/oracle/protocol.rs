//! What every plugin does alike: environment, standard input, versions, commands. In the newest version: all of it is
//! looked at before the version is, but for the commands that a version has not, which are in every one.

use serde_json::{Value, json};

use super::{ADD, CHECK, DEL, Row, Step, VERSIONS, one_subnet};
use crate::call::NATIVE;
use crate::need::Need;

/// A configuration that the plugin takes.
pub(super) fn conf(kind: &str) -> Value {
    match kind {
        "macvlan" | "ipvlan" => json!({"master": "up0", "ipam": one_subnet()}),
        "host-device" => json!({"device": "up0", "ipam": one_subnet()}),
        "vlan" => json!({"master": "up0", "vlanId": 5, "ipam": one_subnet()}),
        "static" => json!({"type": "bridge", "ipam": {"type": "static", "addresses": [{"address": "10.5.0.9/16"}]}}),
        "host-local" => json!({"type": "bridge", "ipam": one_subnet()}),
        "loopback" => json!({}),
        _ => json!({"ipam": one_subnet()}),
    }
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = NATIVE.into_iter().flat_map(of_kind).collect();
    rows.retain(|row| is_of_interest(row.kind, &row.name));
    for kind in ["bridge", "loopback", "host-local", "static"] {
        rows.extend(environments(kind));
    }
    for kind in ["bridge", "macvlan", "tap", "host-local", "static", "ptp", "host-device"] {
        rows.extend(arguments(kind));
    }
    rows
}

fn row(kind: &'static str, name: &str, script: Vec<Step>) -> Row {
    let row = Row::new(kind, &format!("protocol_{name}"), conf(kind))
        .prepare(|bed| bed.parent("up0"))
        .latest()
        .script(script);
    Need::of_kind(kind).into_iter().chain((kind == "tap").then_some(Need::Tap)).fold(row, Row::needs)
}

/// Each variable with values that a runtime should not send, and what it may leave out.
fn environments(kind: &'static str) -> Vec<Row> {
    let with = |name: &str, variable: &'static str, value: &'static str| {
        row(kind, &format!("environment_{name}"), vec![Step::Env(variable, Some(value)), ADD, DEL])
    };
    let long: &'static str = "c".repeat(200).leak();
    // Where the Go plugin makes such a link, `ip` prints no JSON of it.
    let control = (kind != "bridge").then(|| with("interface_control", "CNI_IFNAME", "a\u{1b}[2J"));
    let others = vec![
        row(kind, "environment_no_command", vec![Step::Env("CNI_COMMAND", None), Step::Call("")]),
        row(kind, "environment_command_empty", vec![Step::Call("")]),
        row(kind, "environment_command_in_small_letters", vec![Step::Call("add")]),
        row(kind, "environment_command_with_space", vec![Step::Call(" ADD")]),
        with("container_empty", "CNI_CONTAINERID", ""),
        with("container_long", "CNI_CONTAINERID", long),
        with("container_with_dots", "CNI_CONTAINERID", "a.b_c-d"),
        with("container_line_end", "CNI_CONTAINERID", "c1\n"),
        with("container_other_letters", "CNI_CONTAINERID", "c\u{e9}"),
        with("interface_empty", "CNI_IFNAME", ""),
        with("interface_dot", "CNI_IFNAME", "."),
        with("interface_longest", "CNI_IFNAME", "fifteen-letters"),
        with("interface_wide_space", "CNI_IFNAME", "a\u{a0}b"),
        with("interface_other_letters", "CNI_IFNAME", "\u{e9}0"),
        with("interface_percent", "CNI_IFNAME", "a%d"),
        with("netns_empty", "CNI_NETNS", ""),
        with("netns_directory", "CNI_NETNS", "/"),
        with("netns_relative", "CNI_NETNS", "run/netns/a"),
        with("netns_with_dots", "CNI_NETNS", "/run/netns/../netns/a"),
        with("netns_file_missing", "CNI_NETNS", "/run/netns/nowhere"),
        with("path_empty", "CNI_PATH", ""),
        with("path_missing", "CNI_PATH", "/no/such/folder"),
        with("path_only_colons", "CNI_PATH", "::"),
        with("path_with_empty_parts", "CNI_PATH", ":/no/such/folder::/run/cni/bin:"),
        row(
            kind,
            "environment_own_namespace_allowed",
            vec![
                Step::Env("CNI_NETNS_OVERRIDE", Some("1")),
                ADD,
                DEL,
                Step::Env("CNI_NETNS_OVERRIDE", Some("true")),
                ADD,
                DEL,
            ],
        ),
    ];
    others.into_iter().chain(control).collect()
}

/// CNI_ARGS of every shape, to plugins that read it and to some that do not.
fn arguments(kind: &'static str) -> Vec<Row> {
    let with = |name: &str, args: &'static str| {
        row(kind, &format!("arguments_{name}"), vec![Step::Args(args), ADD, CHECK, DEL])
    };
    vec![
        with("empty", ""),
        with("separator", ";"),
        with("equals", "="),
        with("no_value", "IgnoreUnknown=1;MAC="),
        with("no_key", "IgnoreUnknown=1;=x"),
        with("two_equals", "IgnoreUnknown=1;K=V=W"),
        with("trailing_separator", "IgnoreUnknown=1;"),
        with("space_before", "IgnoreUnknown=1; K=V"),
        with("unknown", "K=V;L=W"),
        with("unknown_ignored_behind", "K=V;IgnoreUnknown=true"),
        with("unknown_ignored_not", "IgnoreUnknown=0;K=V"),
        with("ignored_in_capitals", "IgnoreUnknown=TRUE;K=V"),
        with("ignored_nonsense", "IgnoreUnknown=x"),
        with("ignored_other_case", "ignoreunknown=1;K=V"),
        with("ignored_twice", "IgnoreUnknown=1;IgnoreUnknown=0;K=V"),
        with("small_letters", "IgnoreUnknown=1;mac=02:ab:00:00:00:01;ip=10.1.0.50"),
        with(
            "of_kubernetes",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u",
        ),
        with("mac_twice", "IgnoreUnknown=1;MAC=02:ab:00:00:00:01;MAC=02:ab:00:00:00:02"),
        with("mac_with_dashes", "IgnoreUnknown=1;MAC=02-ab-00-00-00-01"),
        with("mac_with_dots", "IgnoreUnknown=1;MAC=02ab.0000.0001"),
        with("mac_of_eight", "IgnoreUnknown=1;MAC=02:ab:00:00:00:01:02:03"),
        with("ip", "IgnoreUnknown=1;IP=10.1.0.50"),
        with("ip_with_prefix", "IgnoreUnknown=1;IP=10.1.0.51/24"),
        with("ip_nonsense", "IgnoreUnknown=1;IP=zz"),
        with("gateway_only", "IgnoreUnknown=1;GATEWAY=10.1.0.9"),
    ]
}

/// What is the same code for every kind is looked at in one plugin of each sort; what is not, in all.
fn is_of_interest(kind: &str, name: &str) -> bool {
    const OF_EVERY_KIND: [&str; 6] = [
        "protocol_version",
        "protocol_version_missing",
        "protocol_environment_empty",
        "protocol_check_without_result",
        "protocol_gc_and_status",
        "protocol_own_namespace",
    ];
    ["bridge", "loopback", "host-local"].contains(&kind) || OF_EVERY_KIND.contains(&name)
}

fn of_kind(kind: &'static str) -> Vec<Row> {
    let row = |name: &str, script: Vec<Step>| row(kind, name, script);
    let unset = |name: &'static str| Step::Env(name, None);
    let set = |name: &'static str, value: &'static str| Step::Env(name, Some(value));
    let every_version = |mut row: Row| {
        if kind == "bridge" {
            row.versions = &VERSIONS;
        }
        row
    };
    vec![
        row(
            "version",
            vec![
                Step::Call("VERSION"),
                Step::Stdin(""),
                Step::Call("VERSION"),
                Step::Stdin("{\"cniVersion\": \"0.3.1\"}"),
                Step::Call("VERSION"),
            ],
        ),
        row("command_unknown", vec![Step::Call("FOO")]),
        row(
            "environment_empty",
            vec![unset("CNI_CONTAINERID"), unset("CNI_NETNS"), unset("CNI_IFNAME"), unset("CNI_PATH"), ADD, CHECK, DEL],
        ),
        row("environment_no_netns", vec![unset("CNI_NETNS"), ADD, CHECK, DEL]),
        row("environment_no_path", vec![unset("CNI_PATH"), ADD, DEL, Step::Call("GC"), Step::Call("STATUS")]),
        row("container_invalid", vec![set("CNI_CONTAINERID", "../x"), ADD, DEL]),
        row("container_dash", vec![set("CNI_CONTAINERID", "-x"), ADD]),
        row("interface_too_long", vec![set("CNI_IFNAME", "sixteen-letters-"), ADD, DEL]),
        row("interface_slash", vec![set("CNI_IFNAME", "a/b"), ADD]),
        row("interface_colon", vec![set("CNI_IFNAME", "a:b"), ADD]),
        row("interface_space", vec![set("CNI_IFNAME", "a b"), ADD]),
        row("interface_dots", vec![set("CNI_IFNAME", ".."), ADD]),
        row("stdin_empty", vec![Step::Stdin(""), ADD]),
        row("stdin_no_json", vec![Step::Stdin("{nope"), ADD]),
        row("stdin_list", vec![Step::Stdin("[]"), ADD]),
        row("name_missing", vec![Step::Conf(json!({"name": null})), ADD]),
        row("name_invalid", vec![Step::Conf(json!({"name": "a/b"})), ADD]),
        row("name_number", vec![Step::Conf(json!({"name": 5})), ADD]),
        row("version_unknown", vec![Step::Conf(json!({"cniVersion": "9.9.9"})), ADD, DEL, CHECK]),
        row("version_nonsense", vec![Step::Conf(json!({"cniVersion": "x"})), ADD]),
        row("version_missing", vec![Step::Conf(json!({"cniVersion": null})), ADD, DEL]),
        row("check_without_result", vec![CHECK]),
        row("previous_result_nonsense", vec![Step::Conf(json!({"prevResult": {"cniVersion": "9.9.9"}})), CHECK]),
        every_version(row("gc_and_status", vec![Step::Call("GC"), Step::Call("STATUS")])),
        every_version(row("check_of_nothing", vec![CHECK])),
        row("own_namespace", vec![set("CNI_NETNS", "/proc/self/ns/net"), ADD]),
    ]
}
