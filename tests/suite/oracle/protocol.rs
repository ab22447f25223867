//! What every plugin does alike: environment, standard input, versions, commands.

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
    NATIVE.into_iter().flat_map(of_kind).filter(|row| is_of_interest(row.kind, &row.name)).collect()
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
    let row = |name: &str, script: Vec<Step>| {
        let row = Row::new(kind, &format!("protocol_{name}"), conf(kind))
            .prepare(|bed| bed.parent("up0"))
            .latest()
            .script(script);
        Need::of_kind(kind).into_iter().fold(row, Row::needs)
    };
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
