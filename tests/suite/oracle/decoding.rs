//! What Go's JSON decoder makes of every key of every plugin: values of another type, numbers in every spelling, null, keys
//! twice and in other case, and bytes that are no JSON.
//!
//! All of it in the newest version: the configuration is decoded before its version is looked at, and the version is
//! one of the keys here.

use serde_json::{Value, json};

use super::protocol::conf;
use super::{ADD, CHECK, DEL, Row, Step};
use crate::call::NATIVE;
use crate::need::Need;

/// What Go decodes a key into, and so which values are wrong.
#[derive(Debug, Clone, Copy)]
enum Type {
    Text,
    Int,
    Flag,
    List,
    Object,
}

impl Type {
    fn wrong(self) -> &'static [&'static str] {
        match self {
            Self::Text => &["5", "1e3", "true", "[]", "{}"],
            Self::Int => &["\"5\"", "true", "[]", "{}", "1.5", "9223372036854775808"],
            Self::Flag => &["\"true\"", "1", "0", "[]", "{}"],
            Self::List => &["\"x\"", "5", "true", "{}"],
            Self::Object => &["\"x\"", "5", "false", "[]"],
        }
    }
}

use Type::{Flag, Int, List, Object, Text};

/// No whole numbers for Go, whatever they are worth: it keeps their spelling.
const SPELLINGS: [&str; 4] = ["1.0", "1e3", "1E+2", "1e400"];

/// A key: its name in the row's name, where it stands (`@` is the value), its type.
type Key = (&'static str, &'static str, Type);

const OF_ALL: [Key; 11] = [
    ("name", r#""name":@"#, Text),
    ("type", r#""type":@"#, Text),
    ("version", r#""cniVersion":@"#, Text),
    ("capabilities", r#""capabilities":@"#, Object),
    ("capability", r#""capabilities":{"mac":@}"#, Flag),
    ("dns", r#""dns":@"#, Object),
    ("dns_nameservers", r#""dns":{"nameservers":@}"#, List),
    ("dns_nameserver", r#""dns":{"nameservers":[@]}"#, Text),
    ("dns_domain", r#""dns":{"domain":@}"#, Text),
    ("dns_search", r#""dns":{"search":@}"#, List),
    ("dns_options", r#""dns":{"options":@}"#, List),
];

/// Of the plugins that make an interface, and are not `lo`'s.
const OF_INTERFACES: [Key; 5] = [
    ("ipam", r#""ipam":@"#, Object),
    ("ipam_type", r#""ipam":{"type":@}"#, Text),
    ("prev_result", r#""prevResult":@"#, Object),
    ("prev_result_version", r#""prevResult":{"cniVersion":@}"#, Text),
    ("prev_result_ips", r#""prevResult":{"cniVersion":"1.1.0","ips":@}"#, List),
];

const BRIDGE: [Key; 24] = [
    ("bridge", r#""bridge":@"#, Text),
    ("is_gateway", r#""isGateway":@"#, Flag),
    ("is_default_gateway", r#""isDefaultGateway":@"#, Flag),
    ("force_address", r#""forceAddress":@"#, Flag),
    ("ip_masq", r#""ipMasq":@"#, Flag),
    ("ip_masq_backend", r#""ipMasqBackend":@"#, Text),
    ("mtu", r#""mtu":@"#, Int),
    ("hairpin", r#""hairpinMode":@"#, Flag),
    ("promiscuous", r#""promiscMode":@"#, Flag),
    ("vlan", r#""vlan":@"#, Int),
    ("trunk", r#""vlanTrunk":@"#, List),
    ("trunk_entry", r#""vlanTrunk":[@]"#, Object),
    ("trunk_min", r#""vlanTrunk":[{"minID":@}]"#, Int),
    ("trunk_max", r#""vlanTrunk":[{"maxID":@}]"#, Int),
    ("trunk_id", r#""vlanTrunk":[{"id":@}]"#, Int),
    ("preserve_default_vlan", r#""preserveDefaultVlan":@"#, Flag),
    ("mac_spoof_check", r#""macspoofchk":@"#, Flag),
    ("dad", r#""enabledad":@"#, Flag),
    ("isolated_port", r#""portIsolation":@"#, Flag),
    ("no_container_interface", r#""disableContainerInterface":@"#, Flag),
    ("args", r#""args":@"#, Object),
    ("args_mac", r#""args":{"cni":{"mac":@}}"#, Text),
    ("runtime", r#""runtimeConfig":@"#, Object),
    ("runtime_mac", r#""runtimeConfig":{"mac":@}"#, Text),
];

const PTP: [Key; 3] =
    [("ip_masq", r#""ipMasq":@"#, Flag), ("ip_masq_backend", r#""ipMasqBackend":@"#, Text), ("mtu", r#""mtu":@"#, Int)];

const MACVLAN: [Key; 8] = [
    ("master", r#""master":@"#, Text),
    ("mode", r#""mode":@"#, Text),
    ("mtu", r#""mtu":@"#, Int),
    ("mac", r#""mac":@"#, Text),
    ("in_container", r#""linkInContainer":@"#, Flag),
    ("broadcast_queue", r#""bcqueuelen":@"#, Int),
    ("runtime", r#""runtimeConfig":@"#, Object),
    ("runtime_mac", r#""runtimeConfig":{"mac":@}"#, Text),
];

const IPVLAN: [Key; 4] = [
    ("master", r#""master":@"#, Text),
    ("mode", r#""mode":@"#, Text),
    ("mtu", r#""mtu":@"#, Int),
    ("in_container", r#""linkInContainer":@"#, Flag),
];

const VLAN: [Key; 4] = [
    ("master", r#""master":@"#, Text),
    ("vlan_id", r#""vlanId":@"#, Int),
    ("mtu", r#""mtu":@"#, Int),
    ("in_container", r#""linkInContainer":@"#, Flag),
];

const HOST_DEVICE: [Key; 7] = [
    ("device", r#""device":@"#, Text),
    ("hardware_address", r#""hwaddr":@"#, Text),
    ("kernel_path", r#""kernelpath":@"#, Text),
    ("pci", r#""pciBusID":@"#, Text),
    ("user_space", r#""DPDKMode":@"#, Flag),
    ("runtime", r#""runtimeConfig":@"#, Object),
    ("device_id", r#""runtimeConfig":{"deviceID":@}"#, Text),
];

const TAP: [Key; 9] = [
    ("queues", r#""multiQueue":@"#, Flag),
    ("mtu", r#""mtu":@"#, Int),
    ("mac", r#""mac":@"#, Text),
    ("owner", r#""owner":@"#, Int),
    ("group", r#""group":@"#, Int),
    ("label", r#""selinuxContext":@"#, Text),
    ("bridge", r#""bridge":@"#, Text),
    ("runtime", r#""runtimeConfig":@"#, Object),
    ("runtime_mac", r#""runtimeConfig":{"mac":@}"#, Text),
];

/// host-local's and static's routes.
const ROUTES: [Key; 9] = [
    ("routes", r#""ipam":{"routes":@}"#, List),
    ("route", r#""ipam":{"routes":[@]}"#, Object),
    ("route_destination", r#""ipam":{"routes":[{"dst":@}]}"#, Text),
    ("route_gateway", r#""ipam":{"routes":[{"dst":"10.9.0.0/16","gw":@}]}"#, Text),
    ("route_mtu", r#""ipam":{"routes":[{"dst":"10.9.0.0/16","mtu":@}]}"#, Int),
    ("route_segment", r#""ipam":{"routes":[{"dst":"10.9.0.0/16","advmss":@}]}"#, Int),
    ("route_priority", r#""ipam":{"routes":[{"dst":"10.9.0.0/16","priority":@}]}"#, Int),
    ("route_table", r#""ipam":{"routes":[{"dst":"10.9.0.0/16","table":@}]}"#, Int),
    ("route_scope", r#""ipam":{"routes":[{"dst":"10.9.0.0/16","scope":@}]}"#, Int),
];

/// What both address plugins are asked for.
const ASKED: [Key; 6] = [
    ("args", r#""args":@"#, Object),
    ("args_cni", r#""args":{"cni":@}"#, Object),
    ("args_ips", r#""args":{"cni":{"ips":@}}"#, List),
    ("args_ip", r#""args":{"cni":{"ips":[@]}}"#, Text),
    ("runtime_ips", r#""runtimeConfig":{"ips":@}"#, List),
    ("runtime_ip", r#""runtimeConfig":{"ips":[@]}"#, Text),
];

const HOST_LOCAL: [Key; 12] = [
    ("subnet", r#""ipam":{"subnet":@}"#, Text),
    ("range_start", r#""ipam":{"subnet":"10.1.0.0/24","rangeStart":@}"#, Text),
    ("range_end", r#""ipam":{"subnet":"10.1.0.0/24","rangeEnd":@}"#, Text),
    ("gateway", r#""ipam":{"subnet":"10.1.0.0/24","gateway":@}"#, Text),
    ("ranges", r#""ipam":{"ranges":@}"#, List),
    ("range_set", r#""ipam":{"ranges":[@]}"#, List),
    ("range", r#""ipam":{"ranges":[[@]]}"#, Object),
    ("range_subnet", r#""ipam":{"ranges":[[{"subnet":@}]]}"#, Text),
    ("directory", r#""ipam":{"dataDir":@}"#, Text),
    ("resolv_conf", r#""ipam":{"resolvConf":@}"#, Text),
    ("runtime_ranges", r#""runtimeConfig":{"ipRanges":@}"#, List),
    ("runtime_range", r#""runtimeConfig":{"ipRanges":[[@]]}"#, Object),
];

const STATIC: [Key; 6] = [
    ("addresses", r#""ipam":{"addresses":@}"#, List),
    ("entry", r#""ipam":{"addresses":[@]}"#, Object),
    ("address", r#""ipam":{"addresses":[{"address":@}]}"#, Text),
    ("gateway", r#""ipam":{"addresses":[{"address":"10.5.0.9/16","gateway":@}]}"#, Text),
    ("ipam_dns", r#""ipam":{"dns":@}"#, Object),
    ("ipam_dns_nameservers", r#""ipam":{"dns":{"nameservers":@}}"#, List),
];

/// Every key of a plugin's configuration.
fn keys(kind: &str) -> Vec<Key> {
    let own: &[Key] = match kind {
        "bridge" => &BRIDGE,
        "ptp" => &PTP,
        "macvlan" => &MACVLAN,
        "ipvlan" => &IPVLAN,
        "vlan" => &VLAN,
        "host-device" => &HOST_DEVICE,
        "tap" => &TAP,
        "host-local" => &HOST_LOCAL,
        "static" => &STATIC,
        _ => &[],
    };
    let shared: &[&[Key]] = match kind {
        "loopback" => &[],
        "host-local" | "static" => &[&OF_INTERFACES[..2], &ROUTES, &ASKED],
        _ => &[&OF_INTERFACES],
    };
    [&OF_ALL[..], own].into_iter().chain(shared.iter().copied()).flatten().copied().collect()
}

pub(super) fn tail(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Tail(bytes.into().leak())
}

fn around(before: impl Into<Vec<u8>>, after: impl Into<Vec<u8>>) -> Step {
    Step::Around(before.into().leak(), after.into().leak())
}

/// A row of the plugin's configuration with one address.
fn row(kind: &'static str, name: &str, script: Vec<Step>) -> Row {
    let row = Row::new(kind, name, conf(kind)).prepare(|bed| bed.parent("up0")).latest().script(script);
    Need::of_kind(kind).into_iter().chain((kind == "tap").then_some(Need::Tap)).fold(row, Row::needs)
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = NATIVE.into_iter().flat_map(of_kind).collect();
    for kind in ["bridge", "loopback", "host-local", "static"] {
        rows.extend(texts(kind));
    }
    rows.extend(twice());
    rows
}

/// Rows of each key: every value of another type, refused one after the other, and null.
fn of_kind(kind: &'static str) -> Vec<Row> {
    keys(kind).into_iter().flat_map(|key| of_key(kind, key)).collect()
}

fn of_key(kind: &'static str, (name, place, value): Key) -> Vec<Row> {
    // The key stands once: what Go makes of two is a row of its own.
    let first = place.split('"').nth(1).unwrap();
    let without = Step::Conf(json!({first: null}));
    let with = |value: &str| tail(format!(",{}", place.replace('@', value)));
    let refused = |end: &str, values: &[&str]| {
        let mut script = vec![without.clone()];
        script.extend(values.iter().flat_map(|value| [with(value), ADD]));
        script.push(DEL);
        row(kind, &format!("refused_decoding_{name}{end}"), script)
    };
    let mut null = vec![without.clone(), with("null"), ADD, CHECK, DEL];
    // CHECK and DEL bring their own.
    if first == "prevResult" {
        null.insert(3, tail(""));
    }
    let null = row(kind, &format!("decoding_{name}_null"), null);
    let null = if place.contains("vlanTrunk\":[") { null.needs(Need::VlanFiltering) } else { null };
    let mut rows = vec![refused("", value.wrong()), null];
    if matches!(value, Int) {
        rows.push(refused("_spelling", &SPELLINGS));
    }
    rows
}

/// What is the same for every key: how the text is written.
fn texts(kind: &'static str) -> Vec<Row> {
    let fine = |name: &str, step: Step| row(kind, &format!("decoding_{name}"), vec![step, ADD, CHECK, DEL]);
    let refused = |name: &str, step: Step| row(kind, &format!("refused_decoding_{name}"), vec![step, ADD, DEL]);
    let nested = |levels: usize| tail(format!(",\"x\":{}{}", "[".repeat(levels), "]".repeat(levels)));
    vec![
        fine("white_space", around("\r\n\t ", " \n\n")),
        fine("unknown_keys", tail(r#","":1,"x":{"y":[null,1e99]},"ADDRESS":"x""#)),
        fine("number_beyond_all_in_unknown_key", tail(r#","x":1e999"#)),
        fine("bytes_in_unknown_value", tail(b",\"x\":\"\xff\xfe\"")),
        fine("bytes_in_unknown_key", tail(b",\"x\xff\":1")),
        fine("half_pair", tail(r#","x":"\ud800","y":"\udc00\ud800z""#)),
        fine("zero_character", tail(r#","x":"\u0000""#)),
        fine("escaped_key", tail(r#","n\u0061me":"other""#)),
        fine("escaped_slash", tail(r#","x":"\/\b\f""#)),
        fine("name_twice", tail(r#","name":"other""#)),
        fine("name_in_other_case", tail(r#","NAME":"other""#)),
        fine("version_in_other_case", tail(r#","CNIVERSION":"0.4.0""#)),
        fine("version_by_special_letter", tail(",\"cniVer\u{17f}ion\":\"0.4.0\"")),
        fine("nested_deep", nested(9_000)),
        refused("nested_too_deep", nested(10_001)),
        refused("byte_order_mark", around("\u{feff}", "")),
        refused("wide_characters", around(b"\xff\xfe", b"")),
        refused("text_behind", around("", "x")),
        refused("object_behind", around("", "{}")),
        refused("zero_byte_behind", around("", b"\0")),
        refused("zero_byte_before", around(b"\0", "")),
        refused("comma_behind_last", tail(",")),
        refused("comment", tail(" // no comment\n")),
        refused("leading_zero", tail(r#","x":01"#)),
        refused("leading_plus", tail(r#","x":+1"#)),
        refused("no_digit_behind_point", tail(r#","x":1."#)),
        refused("no_number", tail(r#","x":NaN"#)),
        refused("exponent_without_digits", tail(r#","x":1e"#)),
        refused("wrong_escape", tail(r#","x":"\q""#)),
        refused("short_escape", tail(r#","x":"\u12""#)),
        refused("control_character", tail(b",\"x\":\"\x01\"")),
        refused("line_end_in_text", tail(",\"x\":\"a\nb\"")),
        refused("single_quotes", tail(",'x':1")),
        refused("key_without_quotes", tail(",x:1")),
        refused("word_in_capitals", tail(r#","x":TRUE"#)),
        refused("name_with_bytes", tail(b",\"name\":\"a\xff\"")),
        refused("name_with_white_space", tail(r#","name":" net1""#)),
        refused("name_empty", tail(r#","name":"""#)),
        refused("name_with_end_of_line", tail(r#","name":"net1\n""#)),
    ]
}

/// Keys that stand twice, in the same case or in another: the last one counts, but an object's keys add up.
fn twice() -> Vec<Row> {
    let bridge = |name: &str, conf: Value, text: &str| {
        let script = vec![Step::Conf(conf), tail(text), ADD, CHECK, DEL];
        row("bridge", &format!("decoding_twice_{name}"), script)
    };
    let local = |name: &str, text: &str| {
        row("host-local", &format!("decoding_twice_{name}"), vec![tail(text), ADD, CHECK, DEL])
    };
    let fixed =
        |name: &str, text: &str| row("static", &format!("decoding_twice_{name}"), vec![tail(text), ADD, CHECK, DEL]);
    vec![
        bridge("text", json!({"bridge": "br0"}), r#","bridge":"br1""#),
        bridge("other_case_before", json!({"BRIDGE": "br1"}), r#","bridge":"br0""#),
        bridge("other_case_behind", json!({"bridge": "br0"}), r#","Bridge":"br1""#),
        bridge("null_behind", json!({"bridge": "br0", "mtu": 1300}), r#","bridge":null,"mtu":null"#),
        bridge("number", json!({"mtu": 1300}), r#","mtu":1400"#),
        bridge("flag", json!({"isGateway": true}), r#","isgateway":false"#),
        bridge("special_letter", json!({}), ",\"i\u{17f}Gateway\":true,\"\u{212a}\":1"),
        bridge(
            "name_servers",
            json!({"dns": {"nameservers": ["10.1.0.1", "10.1.0.2"]}}),
            r#","dns":{"nameservers":["10.1.0.3"]}"#,
        ),
        bridge("dns", json!({"dns": {"domain": "a.org"}}), r#","dns":{"search":["b.org"]}"#),
        bridge("dns_null_behind", json!({"dns": {"domain": "a.org"}}), r#","dns":null"#),
        bridge("runtime", json!({"runtimeConfig": {"mac": "02:ab:00:00:00:03"}}), r#","runtimeConfig":{"ips":[]}"#),
        bridge("args", json!({"args": {"cni": {"mac": "02:ab:00:00:00:02"}}}), r#","args":{"cni":{"x":1}}"#),
        bridge("args_null_behind", json!({"args": {"cni": {"mac": "02:ab:00:00:00:02"}}}), r#","args":null"#),
        bridge("ipam_type", json!({}), r#","ipam":{"type":"host-local"}"#),
        bridge("ipam_nothing", json!({}), r#","ipam":{}"#),
        bridge("ipam_null_behind", json!({}), r#","ipam":null"#),
        bridge("ipam_other", json!({}), r#","ipam":{"type":"static","addresses":[{"address":"10.5.0.9/16"}]}"#),
        local("ipam", r#","ipam":{"rangeStart":"10.1.0.9"}"#),
        local("ipam_other_case", r#","IPAM":{"SUBNET":"10.2.0.0/24"}"#),
        local("ipam_null_behind", r#","ipam":null"#),
        local("key_in_ipam", r#","ipam":{"gateway":"10.1.0.7","gateway":"10.1.0.8"}"#),
        local(
            "ranges",
            r#","ipam":{"ranges":[[{"subnet":"10.3.0.0/24"}],[{"subnet":"fd00::/64"}]],"ranges":[[{"rangeStart":"10.3.0.9"}]]}"#,
        ),
        local(
            "routes",
            r#","ipam":{"routes":[{"dst":"10.9.0.0/16","gw":"10.1.0.9"},{"dst":"10.8.0.0/16"}],"routes":[{"dst":"10.7.0.0/16"}]}"#,
        ),
        local("asked", r#","runtimeConfig":{"ips":["10.1.0.50"]},"runtimeConfig":{"ips":["10.1.0.51"]}"#),
        local(
            "asked_and_ranges",
            r#","runtimeConfig":{"ips":["10.1.0.50"]},"runtimeConfig":{"ipRanges":[[{"subnet":"10.8.0.0/24"}]]}"#,
        ),
        fixed("addresses", r#","ipam":{"addresses":[{"gateway":"10.5.0.1"}]}"#),
        fixed("more_addresses", r#","ipam":{"addresses":[{"address":"10.5.0.8/16"},{"address":"10.5.0.7/16"}]}"#),
        fixed("dns", r#","ipam":{"dns":{"domain":"a"},"dns":{"search":["b"]}}"#),
    ]
}
