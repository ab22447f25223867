//! The network-status annotation, in the form that readers of Multus' know, with what the standard asks for beside it.
//! Pure.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::cni::gojson::{Layout, to_string_go};
use crate::cni::result::{CniResult, Interface};

/// One attachment's contribution.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// `namespace/name`, or the configuration's name.
    pub network: &'a str,
    /// Its interface, for a result that names none.
    pub ifname: &'a str,
    /// The default network.
    pub default: bool,
    /// The gateways its `default-route` asked for.
    pub default_route: Option<&'a [IpAddr]>,
    /// The identifier that its InfiniBand interface was given.
    pub guid: Option<&'a str>,
    /// What is known of its device (device information specification).
    pub device: Option<&'a Map<String, Value>>,
    /// What its chain answered.
    pub result: &'a CniResult,
}

/// The annotation's value: entries in Multus' indented form.
pub fn render(entries: &[Entry]) -> String {
    let texts: Vec<String> = entries.iter().flat_map(of_attachment).collect();
    format!("[{}]", texts.join(","))
}

/// One entry for each interface in the pod; one where the result names none.
fn of_attachment(entry: &Entry) -> Vec<String> {
    let inside: Vec<(usize, &Interface)> =
        entry.result.interfaces.iter().enumerate().filter(|(_, interface)| !interface.sandbox.is_empty()).collect();
    match inside.as_slice() {
        [] => vec![text(entry, entry.ifname, "", 0, |_| true, entry.default)],
        [(_, one)] => vec![text(entry, &one.name, &one.mac, one.mtu, |_| true, entry.default)],
        [.., last] => {
            let first_with_gateway =
                entry.result.ips.iter().find(|ip| ip.gateway.is_some()).and_then(|ip| ip.interface);
            let holder = first_with_gateway.unwrap_or_else(|| inside.first().map_or(0, |(index, _)| *index));
            let one = |(index, interface): &(usize, &Interface)| {
                let mine = |ip: Option<usize>| ip == Some(*index) || ip.is_none() && *index == last.0;
                text(entry, &interface.name, &interface.mac, interface.mtu, mine, entry.default && *index == holder)
            };
            inside.iter().map(one).collect()
        }
    }
}

fn text(
    entry: &Entry,
    interface: &str,
    mac: &str,
    mtu: i64,
    mine: impl Fn(Option<usize>) -> bool,
    default: bool,
) -> String {
    let result = entry.result;
    let texts = |list: Vec<String>| if list.is_empty() { Value::Null } else { Value::from(list) };
    let word = |word: &str| if word.is_empty() { Value::Null } else { Value::from(word) };
    let ips = result.ips.iter().filter(|ip| mine(ip.interface)).map(|ip| ip.address.ip().to_string()).collect();
    let gateways = result.routes.iter().filter(|route| route.dst.prefix() == 0).filter_map(|route| route.gw);
    let wanted = entry.default_route.unwrap_or_default().iter();
    indented(&[
        ("name", entry.network.into()),
        ("interface", word(interface)),
        ("ips", texts(ips)),
        ("mac", word(mac)),
        ("infiniband-guid", word(entry.guid.unwrap_or_default())),
        ("mtu", if mtu == 0 { Value::Null } else { mtu.into() }),
        ("default", default.into()),
        ("dns", serde_json::to_value(&result.dns).unwrap_or_else(|_| Value::Object(Map::new()))),
        ("device-info", entry.device.map_or(Value::Null, |device| Value::Object(device.clone()))),
        ("gateway", texts(gateways.map(|gateway| gateway.to_string()).collect())),
        ("default-route", texts(wanted.map(ToString::to_string).collect())),
    ])
}

/// Go's MarshalIndent in this order; what is not there is left out.
fn indented(fields: &[(&str, Value)]) -> String {
    let line = |(key, value): &(&str, Value)| {
        format!("    \"{key}\": {}", to_string_go(value, Layout::Indented).replace('\n', "\n    "))
    };
    let lines: Vec<String> = fields.iter().filter(|(_, value)| !value.is_null()).map(line).collect();
    format!("{{\n{}\n}}", lines.join(",\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cni::version::Version;

    fn result(value: &Value) -> CniResult {
        CniResult::parse(value, Version::V1_0_0).unwrap().0
    }

    #[test]
    fn the_form_is_the_one_that_readers_of_multus_know() {
        let result = result(&json!({"cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/a"}],
            "ips": [{"address": "10.2.0.2/24", "interface": 1}, {"address": "fd00::2/64"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.2.0.1"}]}));
        let entry = Entry {
            network: "default/blue",
            ifname: "net1",
            default: false,
            default_route: None,
            guid: None,
            device: None,
            result: &result,
        };
        let expected = "[{\n    \"name\": \"default/blue\",\n    \"interface\": \"net1\",\n    \"ips\": [\n        \
                        \"10.2.0.2\",\n        \"fd00::2\"\n    ],\n    \"mac\": \"02:00:00:00:00:01\",\n    \
                        \"default\": false,\n    \"dns\": {},\n    \"gateway\": [\n        \"10.2.0.1\"\n    ]\n}]";
        assert_eq!(render(&[entry]), expected);
    }

    #[test]
    fn a_result_that_says_nothing_has_an_entry_all_the_same() {
        let empty = CniResult::default();
        let gateway: IpAddr = "10.0.0.1".parse().unwrap();
        let entry = Entry {
            network: "n",
            ifname: "net7",
            default: true,
            default_route: Some(&[gateway]),
            guid: None,
            device: None,
            result: &empty,
        };
        let status: Value = serde_json::from_str(&render(&[entry])).unwrap();
        let expected =
            json!([{"name": "n", "interface": "net7", "default": true, "dns": {}, "default-route": ["10.0.0.1"]}]);
        assert_eq!(status, expected);
    }

    #[test]
    fn a_guid_is_told_beside_the_hardware_address() {
        let result = result(&json!({"cniVersion": "1.0.0",
            "interfaces": [{"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/n"}]}));
        let guid = "c2:11:22:33:44:55:66:77";
        let entry = Entry {
            network: "n",
            ifname: "net1",
            default: false,
            default_route: None,
            guid: Some(guid),
            device: None,
            result: &result,
        };
        let status: Value = serde_json::from_str(&render(&[entry])).unwrap();
        let expected = json!([{"name": "n", "interface": "net1", "mac": "02:00:00:00:00:01", "infiniband-guid": guid,
            "default": false, "dns": {}}]);
        assert_eq!(status, expected);
    }

    #[test]
    fn several_interfaces_share_the_addresses_by_index() {
        let result = result(&json!({"cniVersion": "1.0.0",
            "interfaces": [{"name": "a", "sandbox": "/n"}, {"name": "b", "sandbox": "/n"}],
            "ips": [{"address": "10.0.0.1/24", "interface": 1, "gateway": "10.0.0.254"}, {"address": "10.0.0.2/24", "interface": 0}]}));
        let entry = Entry {
            network: "n",
            ifname: "a",
            default: true,
            default_route: None,
            guid: None,
            device: None,
            result: &result,
        };
        let status: Value = serde_json::from_str(&render(&[entry])).unwrap();
        assert_eq!((&status[0]["ips"], &status[1]["ips"]), (&json!(["10.0.0.2"]), &json!(["10.0.0.1"])));
        assert_eq!((&status[0]["default"], &status[1]["default"]), (&json!(false), &json!(true)));
    }
}
