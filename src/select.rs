//! The annotations of a pod -> what it asked for. Pure: text in, values or a refusal out.
//!
//! Both grammars of `k8s.v1.cni.cncf.io/networks` (network CRD standard 4.1.1, 4.1.2) and Multus'
//! `v1.multus-cni.io/default-network`. It does not know whether a definition exists.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use crate::cni::gojson;
use crate::cni::names;

/// The networks annotation (network CRD standard 4.1).
pub const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// Multus' annotation that replaces the default network.
pub const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

/// Larger annotations do not fit the API server's limit of all annotations of an object (256 KiB).
const ANNOTATION_BYTES_MAX: usize = 256 << 10;
/// More networks than any pod has.
const NETWORKS_MAX: usize = 128;
/// DNS-1123: a subdomain.
const NAME_BYTES_MAX: usize = 253;
/// No name in sysfs is longer.
const DEVICE_BYTES_MAX: usize = 255;

/// One network that a pod asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// The definition's namespace.
    pub namespace: String,
    /// The definition's name.
    pub name: String,
    /// The interface it wants.
    pub ifname: Option<String>,
    /// Addresses it wants, with or without prefix.
    pub ips: Vec<String>,
    /// The MAC it wants: six bytes.
    pub mac: Option<String>,
    /// The InfiniBand GUID it wants: eight bytes.
    pub infiniband_guid: Option<String>,
    /// Host ports, as the capability takes them.
    pub port_mappings: Vec<Value>,
    /// Rates, as the capability takes them.
    pub bandwidth: Option<Map<String, Value>>,
    /// Merged into `args.cni` of every plugin.
    pub cni_args: Option<Map<String, Value>>,
    /// Gateways of the pod's default routes; an empty list: what the network itself installs.
    pub default_route: Option<Vec<IpAddr>>,
    /// Names an IPAMClaim.
    pub ipam_claim: Option<String>,
    /// The device it wants: whether it may have that is not said here.
    pub device: Option<String>,
    /// Keys nobody knows.
    pub unknown: Vec<String>,
}

/// Why an annotation is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {why}")]
pub struct SelectError {
    annotation: &'static str,
    why: String,
}

type Refusal = String;

/// The networks annotation of a pod in `pod_namespace`; an empty one asks for nothing.
///
/// # Errors
/// Anything that is not what the standard allows, before anything is attached.
pub fn parse_networks(text: &str, pod_namespace: &str) -> Result<Vec<Selection>, SelectError> {
    parse(text, pod_namespace).map_err(|why| SelectError { annotation: NETWORKS, why })
}

/// What clients of Multus' `/delegate` wish for one interface: `ips`, `mac`, `cni-args`, as in the annotation. An empty one is none.
///
/// # Errors
/// As [`parse_networks`], in a sentence.
pub fn parse_attributes(object: &Map<String, Value>) -> Result<Selection, String> {
    let wants_none = gojson::field(object, "ips").and_then(Value::as_array).is_some_and(Vec::is_empty);
    Ok(Selection {
        ips: if wants_none { Vec::new() } else { ips(object)? },
        mac: hardware(object, "mac", 6, "failed to mac")?.map(of_one_host).transpose()?,
        cni_args: map(object, "cni-args")?,
        ..Selection::default()
    })
}

/// The default-network annotation: exactly one network, by default of `multus_namespace`.
///
/// # Errors
/// Not exactly one, or what [`parse_networks`] refuses.
pub fn parse_default_network(text: &str, multus_namespace: &str) -> Result<Selection, SelectError> {
    let refuse = |why| SelectError { annotation: DEFAULT_NETWORK, why };
    let mut all = parse(text, multus_namespace).map_err(refuse)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(refuse("no default network is specified".to_owned())),
        (Some(_), false) => Err(refuse(format!("more than one default network is specified: {text}"))),
    }
}

fn parse(text: &str, namespace: &str) -> Result<Vec<Selection>, Refusal> {
    if text.len() > ANNOTATION_BYTES_MAX {
        return Err(format!("{} bytes are more than {ANNOTATION_BYTES_MAX}", text.len()));
    }
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let selections: Vec<Selection> = if text.contains(['[', '{', '"']) {
        let list = gojson::parse(text.as_bytes()).map_err(|e| e.to_string())?;
        let list = list.as_array().ok_or("the JSON form is a list of objects")?;
        bounded(list.len())?;
        list.iter().map(|item| from_json(item, namespace)).collect::<Result<_, _>>()?
    } else {
        let items: Vec<&str> = text.split(',').map(str::trim).collect();
        bounded(items.len())?;
        items.into_iter().map(|item| from_text(item, namespace)).collect::<Result<_, _>>()?
    };
    for (i, a) in selections.iter().enumerate() {
        let twice = selections.iter().skip(i + 1).find(|b| a.ifname.is_some() && a.ifname == b.ifname);
        if let (Some(b), Some(ifname)) = (twice, &a.ifname) {
            return Err(format!("interface {ifname:?} is wanted by {} and {}", a.full_name(), b.full_name()));
        }
    }
    Ok(selections)
}

fn bounded(count: usize) -> Result<(), Refusal> {
    if count > NETWORKS_MAX { Err(format!("{count} networks are more than {NETWORKS_MAX}")) } else { Ok(()) }
}

impl Selection {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The request as `runtimeConfig`, by capability.
    pub fn runtime(&self) -> Map<String, Value> {
        let mut runtime = Map::new();
        if !self.ips.is_empty() {
            runtime.insert("ips".into(), self.ips.clone().into());
        }
        if let Some(mac) = &self.mac {
            runtime.insert("mac".into(), mac.clone().into());
        }
        if let Some(guid) = &self.infiniband_guid {
            runtime.insert("infinibandGUID".into(), guid.clone().into());
        }
        if !self.port_mappings.is_empty() {
            runtime.insert("portMappings".into(), self.port_mappings.clone().into());
        }
        if let Some(bandwidth) = &self.bandwidth {
            runtime.insert("bandwidth".into(), Value::Object(bandwidth.clone()));
        }
        runtime
    }
}

/// `[namespace/]name[@interface]`
fn from_text(item: &str, namespace: &str) -> Result<Selection, Refusal> {
    let (network, ifname) = match item.split_once('@') {
        Some((_, ifname)) if ifname.contains('@') => return Err(format!("{item:?} has more than one @")),
        Some((network, ifname)) => (network.trim(), Some(checked_ifname(ifname.trim())?)),
        None => (item, None),
    };
    let (namespace, name) = network.split_once('/').unwrap_or((namespace, network));
    Ok(Selection {
        namespace: checked_name(namespace.trim(), "namespace")?,
        name: checked_name(name.trim(), "network")?,
        ifname,
        ..Selection::default()
    })
}

/// DNS-1123, with dots: the API server accepts such names.
fn checked_name(name: &str, what: &str) -> Result<String, Refusal> {
    let label = |label: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends(label.chars().next())
            && ends(label.chars().last())
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if name.len() <= NAME_BYTES_MAX && name.split('.').all(label) {
        return Ok(name.to_owned());
    }
    Err(format!("{what} {name:?} is no name: lower-case letters, digits, '-' and '.' are"))
}

fn checked_ifname(name: &str) -> Result<String, Refusal> {
    names::validate_ifname(name).map(|()| name.to_owned()).map_err(|e| format!("interface {name:?}: {}", e.msg))
}

fn from_json(item: &Value, namespace: &str) -> Result<Selection, Refusal> {
    let object = item.as_object().ok_or("the JSON form is a list of objects")?;
    let name = text(object, "name")?.ok_or("a network without a name")?;
    let place = |why: Refusal| format!("network {name:?}: {why}");
    let selection = || -> Result<Selection, Refusal> {
        let ifname = text(object, "interface")?.or(text(object, "interfaceRequest")?);
        let selection = Selection {
            namespace: checked_name(&text(object, "namespace")?.unwrap_or_else(|| namespace.to_owned()), "namespace")?,
            name: checked_name(&name, "network")?,
            ifname: ifname.map(|name| checked_ifname(&name)).transpose()?,
            ips: ips(object)?,
            mac: hardware(object, "mac", 6, "failed to mac")?.map(of_one_host).transpose()?,
            infiniband_guid: hardware(object, "infiniband-guid", 8, "failed to validate infiniband GUID")?,
            port_mappings: port_mappings(object)?,
            bandwidth: bandwidth(object)?,
            cni_args: map(object, "cni-args")?,
            default_route: default_route(object)?,
            ipam_claim: text(object, "ipam-claim-reference")?,
            device: device(object)?,
            unknown: object.keys().filter(|key| !KEYS.iter().any(|k| k.eq_ignore_ascii_case(key))).cloned().collect(),
        };
        match &selection.ipam_claim {
            Some(_) if !selection.ips.is_empty() => Err("ips and ipam-claim-reference exclude each other".to_owned()),
            _ => Ok(selection),
        }
    };
    selection().map_err(place)
}

/// The keys of a network in the annotation's JSON form.
pub const KEYS: [&str; 13] = [
    "name",
    "namespace",
    "ips",
    "mac",
    "infiniband-guid",
    "interface",
    "interfaceRequest",
    "portMappings",
    "bandwidth",
    "cni-args",
    "default-route",
    "ipam-claim-reference",
    "deviceID",
];

fn text(object: &Map<String, Value>, key: &str) -> Result<Option<String>, Refusal> {
    match gojson::field(object, key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(format!("{key} must be a string")),
    }
}

fn texts(object: &Map<String, Value>, key: &str) -> Result<Option<Vec<String>>, Refusal> {
    let Some(value) = gojson::field(object, key) else { return Ok(None) };
    let list = value.as_array().ok_or_else(|| format!("{key} must be a list of strings"))?;
    let one = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(|| format!("{key} must be a list of strings"));
    list.iter().map(one).collect::<Result<_, _>>().map(Some)
}

fn map(object: &Map<String, Value>, key: &str) -> Result<Option<Map<String, Value>>, Refusal> {
    match gojson::field(object, key) {
        None => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map.clone())),
        Some(_) => Err(format!("{key} must be an object")),
    }
}

fn device(object: &Map<String, Value>) -> Result<Option<String>, Refusal> {
    let id = text(object, "deviceID")?;
    match id.filter(|id| id.len() > DEVICE_BYTES_MAX || id.chars().any(char::is_control)) {
        Some(_) => Err("deviceID: this is no name of a device".to_owned()),
        None => text(object, "deviceID"),
    }
}

fn ips(object: &Map<String, Value>) -> Result<Vec<String>, Refusal> {
    let Some(ips) = texts(object, "ips")? else { return Ok(Vec::new()) };
    if ips.is_empty() {
        return Err("ips: at least one address is needed".to_owned());
    }
    for ip in &ips {
        if ip.contains('/') {
            ip.parse::<IpNetwork>().map_err(|_| format!("failed to parse CIDR {ip:?}"))?;
        } else {
            ip.parse::<IpAddr>().map_err(|_| format!("failed to parse IP address {ip:?}"))?;
        }
    }
    Ok(ips)
}

/// `bytes` pairs of hexadecimal digits, by colons or dashes; or half as many groups of four, by dots.
fn hardware(object: &Map<String, Value>, key: &str, bytes: usize, act: &str) -> Result<Option<String>, Refusal> {
    let Some(address) = text(object, key)? else { return Ok(None) };
    let separator = if address.contains('-') { '-' } else { ':' };
    let pairs: Vec<&str> = address.split(separator).collect();
    let pair = |pair: &&str| pair.len() == 2 && pair.chars().all(|c| c.is_ascii_hexdigit());
    if pairs.len() == bytes && pairs.iter().all(pair) {
        return Ok(Some(address));
    }
    // Go's third form, `0200.5e00.5301`; nobody after this needs to know it.
    let quads: Vec<&str> = address.split('.').collect();
    let quad = |quad: &&str| quad.len() == 4 && quad.chars().all(|c| c.is_ascii_hexdigit());
    if quads.len() * 2 == bytes && quads.iter().all(quad) {
        let pairs: Vec<&str> = quads.iter().flat_map(|quad| [&quad[..2], &quad[2..]]).collect();
        return Ok(Some(pairs.join(":")));
    }
    Err(format!("{act}: {address:?} is no address of {bytes} bytes"))
}

/// The kernel refuses a link the address of a group, or none at all (EADDRNOTAVAIL, is_valid_ether_addr).
fn of_one_host(mac: String) -> Result<String, Refusal> {
    let first = mac.get(..2).and_then(|byte| u8::from_str_radix(byte, 16).ok()).unwrap_or_default();
    let is_zero = mac.chars().all(|c| matches!(c, '0' | ':' | '-'));
    if first & 1 == 1 || is_zero {
        return Err(format!("failed to mac: {mac:?} is not the address of one host"));
    }
    Ok(mac)
}

fn port(mapping: &Map<String, Value>, key: &str) -> Result<(), Refusal> {
    match gojson::field(mapping, key).and_then(Value::as_u64) {
        Some(1..=65535) => Ok(()),
        _ => Err(format!("portMappings: {key} must be a number from 1 to 65535")),
    }
}

fn port_mappings(object: &Map<String, Value>) -> Result<Vec<Value>, Refusal> {
    let Some(value) = gojson::field(object, "portMappings") else { return Ok(Vec::new()) };
    let list = value.as_array().ok_or("portMappings must be a list of objects")?;
    let one = |item: &Value| -> Result<Value, Refusal> {
        let mapping = item.as_object().ok_or("portMappings must be a list of objects")?;
        port(mapping, "hostPort")?;
        port(mapping, "containerPort")?;
        let protocol = text(mapping, "protocol")?.unwrap_or_else(|| "tcp".to_owned()).to_ascii_lowercase();
        if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
            return Err(format!("portMappings: protocol {protocol:?} is none of tcp, udp, sctp"));
        }
        if let Some(ip) = text(mapping, "hostIP")? {
            ip.parse::<IpAddr>().map_err(|_| format!("portMappings: hostIP {ip:?} is no address"))?;
        }
        let mut mapping = mapping.clone();
        mapping.insert("protocol".to_owned(), protocol.into());
        Ok(Value::Object(mapping))
    };
    list.iter().map(one).collect()
}

const RATES: [(&str, &str); 2] = [("ingressRate", "ingressBurst"), ("egressRate", "egressBurst")];

fn bandwidth(object: &Map<String, Value>) -> Result<Option<Map<String, Value>>, Refusal> {
    let Some(given) = map(object, "bandwidth")? else { return Ok(None) };
    let mut complete = Map::new();
    for (rate, burst) in RATES {
        let number = |key: &str| match gojson::field(&given, key) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| format!("bandwidth: {key} must be a number, not negative")),
        };
        let (rates, bursts) = (number(rate)?, number(burst)?);
        if bursts > 0 && rates == 0 {
            return Err("bandwidth: if burst is set, rate must also be set".to_owned());
        }
        complete.insert(rate.to_owned(), rates.into());
        complete.insert(burst.to_owned(), bursts.into());
    }
    Ok(Some(complete))
}

fn default_route(object: &Map<String, Value>) -> Result<Option<Vec<IpAddr>>, Refusal> {
    let Some(list) = texts(object, "default-route")? else { return Ok(None) };
    let parse = |text: &String| text.parse().map_err(|_| format!("default-route: {text:?} is no address"));
    let gateways: Vec<IpAddr> = list.iter().map(parse).collect::<Result<_, _>>()?;
    if gateways.iter().filter(|g| g.is_ipv4()).count() > 1 || gateways.iter().filter(|g| g.is_ipv6()).count() > 1 {
        return Err("default-route: one gateway of each family is possible".to_owned());
    }
    Ok(Some(gateways))
}

/// Only one attachment may hold the default route of a family.
///
/// # Errors
/// Names the two that both want it.
pub fn check_claims(selections: &[Selection]) -> Result<(), SelectError> {
    let wants = |s: &&Selection, v4: bool| s.default_route.iter().flatten().any(|gateway| gateway.is_ipv4() == v4);
    for v4 in [true, false] {
        let mut claims = selections.iter().filter(|s| wants(s, v4));
        if let (Some(a), Some(b)) = (claims.next(), claims.next()) {
            let family = if v4 { "IPv4" } else { "IPv6" };
            let why = format!(
                "default-route: {} and {} both want the {family} default route; ECMP is not supported",
                a.full_name(),
                b.full_name()
            );
            return Err(SelectError { annotation: NETWORKS, why });
        }
    }
    let mut ports = BTreeSet::new();
    for mapping in selections.iter().flat_map(|selection| &selection.port_mappings) {
        let port = ["hostIP", "protocol", "hostPort"].map(|key| mapping.get(key).map(Value::to_string));
        if !ports.insert(port) {
            let why = format!("portMappings: host port {} is asked for twice", mapping["hostPort"]);
            return Err(SelectError { annotation: NETWORKS, why });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn one(value: Value) -> Result<Selection, String> {
        let mut all = parse_networks(&json!([value]).to_string(), "ns").map_err(|e| e.to_string())?;
        Ok(all.remove(0))
    }

    #[test]
    fn text_form() {
        let all = parse_networks(" a , other/b.c@lan0,d@x", "ns").unwrap();
        let names: Vec<_> = all.iter().map(Selection::full_name).collect();
        assert_eq!(names, ["ns/a", "other/b.c", "ns/d"]);
        assert_eq!(all[1].ifname.as_deref(), Some("lan0"));
        assert!(parse_networks("", "ns").unwrap().is_empty());
        assert!(parse_networks("[]", "ns").unwrap().is_empty());
        for bad in ["a,", " ", "A", "a@", "a@sixteen-bytes-xx", "a@x/y", "../a", "a/b/c", "a@x,b@x", "a b", "a@x@y"] {
            assert!(parse_networks(bad, "ns").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_key_of_the_json_form() {
        let all = one(json!({"name": "a", "namespace": "b", "interface": "lan", "interfaceRequest": "old", "ips": ["10.0.0.1/24", "fd00::1"],
            "mac": "02:00:00:00:00:01", "infiniband-guid": "c2:11:22:33:44:55:66:77", "cni-args": {"x": 1},
            "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "TCP", "hostIP": "::1"}],
            "bandwidth": {"ingressRate": 5, "ingressBurst": 6}, "default-route": ["10.0.0.254", "fd00::fe"], "extra": true}))
        .unwrap();
        assert_eq!(all.ifname.as_deref(), Some("lan"));
        assert_eq!(all.port_mappings[0]["protocol"], "tcp");
        assert_eq!(all.default_route.as_ref().map(Vec::len), Some(2));
        assert_eq!(all.unknown, ["extra"]);
        let keys: Vec<String> = all.runtime().keys().cloned().collect();
        assert_eq!(keys, ["bandwidth", "infinibandGUID", "ips", "mac", "portMappings"]);
        assert_eq!(
            all.runtime()["bandwidth"],
            json!({"ingressRate": 5, "ingressBurst": 6, "egressRate": 0, "egressBurst": 0})
        );
        let half = parse_networks(r#"[{"name": "a", "cni-args": {"k": "\ud800"}}]"#, "ns").unwrap();
        assert_eq!(half[0].cni_args.as_ref().unwrap()["k"], "\u{fffd}", "as Go reads half of a pair");
        assert_eq!(one(json!({"name": "a", "interfaceRequest": "old"})).unwrap().ifname.as_deref(), Some("old"));
    }

    #[test]
    fn what_the_json_form_refuses() {
        for (extra, part) in [
            (json!({"ips": []}), "at least one address"),
            (json!({"ips": ["10.0.0.1/40"]}), "failed to parse CIDR \"10.0.0.1/40\""),
            (json!({"ips": ["ten"]}), "failed to parse IP address \"ten\""),
            (json!({"mac": "02:00:00:00:00"}), "failed to mac"),
            (json!({"mac": "02:00:00:00:00:01:02:03"}), "failed to mac"),
            (json!({"infiniband-guid": "02:00:00:00:00:01"}), "infiniband GUID"),
            (json!({"interface": "a/b"}), "interface"),
            (json!({"portMappings": [{"hostPort": 99999, "containerPort": 1}]}), "hostPort"),
            (json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]}), "icmp"),
            (json!({"bandwidth": {"ingressBurst": 5}}), "if burst is set, rate must also be set"),
            (json!({"bandwidth": {"egressRate": -5}}), "not negative"),
            (json!({"default-route": ["x"]}), "no address"),
            (json!({"default-route": ["10.0.0.1", "10.0.0.2"]}), "one gateway of each family"),
            (json!({"ips": ["10.0.0.1"], "ipam-claim-reference": "c"}), "exclude each other"),
            (json!({"deviceID": "0000:01\n"}), "no name of a device"),
            (json!({"namespace": "Upper"}), "no name"),
            (json!({"cni-args": []}), "must be an object"),
        ] {
            let mut network = json!({"name": "a"});
            network.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let text = one(network).unwrap_err();
            assert!(text.contains(part) && text.contains("network \"a\""), "{extra}: {text}");
        }
        assert!(parse_networks("[{}]", "ns").is_err() && parse_networks("{", "ns").is_err());
    }

    #[test]
    fn the_default_network_is_exactly_one() {
        let selection = parse_default_network("main@eth7", "kube-system").unwrap();
        assert_eq!((selection.full_name().as_str(), selection.ifname.as_deref()), ("kube-system/main", Some("eth7")));
        for (text, part) in [("", "no default network"), ("a,b", "more than one default network is specified: a,b")] {
            assert!(parse_default_network(text, "x").unwrap_err().to_string().contains(part));
        }
    }

    #[test]
    fn one_attachment_holds_the_default_route_of_a_family() {
        let with = |name: &str, gateway: &str| Selection {
            name: name.into(),
            default_route: Some(vec![gateway.parse().unwrap()]),
            ..Selection::default()
        };
        assert!(check_claims(&[with("a", "10.0.0.1"), with("b", "fd00::1")]).is_ok());
        let text = check_claims(&[with("a", "10.0.0.1"), with("b", "10.0.0.2")]).unwrap_err().to_string();
        assert!(text.contains("/a and /b") && text.contains("ECMP"), "{text}");
    }

    proptest! {
        #[test]
        fn no_annotation_panics(text in "\\PC{0,200}") {
            let _ = parse_networks(&text, "ns");
            let _ = parse_default_network(&text, "ns");
        }

        #[test]
        fn both_forms_mean_the_same(name in "[a-z0-9]{1,10}", namespace in "[a-z]{1,8}", ifname in "[a-z]{1,15}") {
            let text = parse_networks(&format!("{namespace}/{name}@{ifname}"), "ns").unwrap();
            let json = json!([{"name": name, "namespace": namespace, "interface": ifname}]).to_string();
            prop_assert_eq!(text, parse_networks(&json, "ns").unwrap());
        }
    }
}
