//! What an ADD attached, in the one form all seven versions convert to and from, and how each version's text is read.
//! `render` writes it. Knows no kernel: an interface here is a name.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::address;
use super::error::CniError;
use super::gojson::{self, DecodeError};
use super::goprint::quote;
use super::version::{Group, Version};

/// The result of an ADD.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CniResult {
    /// The interfaces made, on the host and in the sandbox. Versions 0.1.0 and 0.2.0 have none.
    pub interfaces: Vec<Interface>,
    /// The addresses, in order.
    pub ips: Vec<Ip>,
    /// The routes, in order.
    pub routes: Vec<Route>,
    /// Name resolution.
    pub dns: Dns,
    /// Keys of a delegate's result that no version defines; printed again from 0.3.0 on (the Go library drops them).
    pub extra: Map<String, Value>,
}

/// One interface. Empty text and 0 mean "not given".
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "*types100.Interface", default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Its MTU in bytes; 1.x only.
    pub mtu: i64,
    /// The namespace's path or the hypervisor's id; empty on the host.
    pub sandbox: String,
    /// A socket that stands for the interface; 1.x only.
    #[serde(rename = "socketPath")]
    pub socket_path: String,
    /// The PCI device behind it; 1.x only.
    #[serde(rename = "pciID")]
    pub pci_id: String,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Address and prefix, host bits kept.
    pub address: IpNetwork,
    /// The gateway of its subnet.
    pub gateway: Option<IpAddr>,
    /// Index into `interfaces`.
    pub interface: Option<usize>,
}

/// One route. 0 means "not given".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub dst: IpNetwork,
    /// Next hop; none: the gateway of the family's first address.
    pub gw: Option<IpAddr>,
    /// Path MTU in bytes.
    pub mtu: i64,
    /// Maximal segment size in bytes.
    pub advmss: i64,
    /// Metric: the lowest wins.
    pub priority: i64,
    /// Routing table; none: main.
    pub table: Option<i64>,
    /// Scope as in rtnetlink(7): 0 global, 253 link, 254 host.
    pub scope: Option<i64>,
}

impl Route {
    /// A route with nothing but a destination and perhaps a next hop.
    pub fn new(dst: IpNetwork, gw: Option<IpAddr>) -> Route {
        Route { dst, gw, mtu: 0, advmss: 0, priority: 0, table: None, scope: None }
    }
}

/// Name resolution. Empty means "not given".
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename = "types.DNS", default)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is given.
    pub fn is_empty(&self) -> bool {
        *self == Dns::default()
    }
}

impl CniResult {
    /// The names of its interfaces, in order.
    pub fn interface_names(&self) -> Vec<String> {
        self.interfaces.iter().map(|interface| interface.name.clone()).collect()
    }

    /// Reads what a delegate printed; `config` is the version it was given, used where the result names none.
    ///
    /// # Errors
    /// Code 999 with the Go library's text.
    pub fn parse(value: &Value, config: Version) -> Result<(CniResult, Version), CniError> {
        let none = Map::new();
        let object = match value {
            Value::Object(object) => object,
            Value::Null => &none,
            other => {
                let why = gojson::mismatch(other, "value", "map[string]interface {}");
                return Err(CniError::generic(format!("failed to unmarshal raw result: {why}")));
            }
        };
        let version = match object.get("cniVersion") {
            Some(Value::String(name)) if !name.is_empty() => Version::parse(name)
                .ok_or_else(|| CniError::generic(format!("unsupported CNI result version {}", quote(name))))?,
            _ => config,
        };
        Ok((decode(object, version)?, version))
    }

    /// Reads a delegate's standard output.
    ///
    /// # Errors
    /// As `parse`; also where it is not JSON.
    pub fn parse_output(stdout: &[u8], config: Version) -> Result<(CniResult, Version), CniError> {
        let value = gojson::parse(stdout)
            .map_err(|error| CniError::generic(format!("failed to unmarshal raw result: {error}")))?;
        CniResult::parse(&value, config)
    }

    /// Reads a configuration's `prevResult`, which must be of the configuration's group of versions.
    ///
    /// # Errors
    /// Code 999, `could not parse prevResult: ...`.
    pub fn parse_prev(value: &Value, config: Version) -> Result<CniResult, CniError> {
        let refused = |why: String| CniError::generic(format!("could not parse prevResult: {why}"));
        let Value::Object(object) = value else {
            return Err(refused(gojson::mismatch(value, "value", "map[string]interface {}").to_string()));
        };
        let named = match gojson::field(object, "cniVersion") {
            None => config.as_str(),
            Some(Value::String(name)) => name,
            Some(other) => {
                return Err(refused(gojson::mismatch(other, "struct field Result.cniVersion", "string").to_string()));
            }
        };
        // An empty version is 0.1.0 where that exists, and no version elsewhere.
        let found = Version::parse(named).filter(|version| {
            version.group() == config.group() && (!named.is_empty() || config.group() == Group::Legacy)
        });
        let version = found.ok_or_else(|| {
            refused(format!(
                "result type supports {} but unmarshalled CNIVersion is {}",
                config.group().supported_text(),
                quote(named)
            ))
        })?;
        decode(object, version).map_err(|error| refused(error.msg))
    }
}

fn decode(object: &Map<String, Value>, version: Version) -> Result<CniResult, CniError> {
    let decoded = match version.group() {
        Group::Legacy => gojson::decode::<Legacy>(object).map(|legacy| legacy.value.into_result()),
        Group::Listed => gojson::decode::<Listed>(object).map(|listed| {
            let mut result = listed.value.into_result(object);
            for interface in &mut result.interfaces {
                // The Go types of these versions have no such keys.
                (interface.mtu, interface.socket_path, interface.pci_id) = (0, String::new(), String::new());
            }
            result
        }),
        Group::Current => gojson::decode::<Listed>(object).map(|listed| listed.value.into_result(object)),
    };
    decoded.map_err(|error: DecodeError| CniError::generic(error.to_string()))
}

/// The form since 0.3.0.
#[derive(Deserialize, Default)]
#[serde(rename = "Result", default)]
struct Listed {
    #[serde(rename = "cniVersion")]
    _cni_version: String,
    interfaces: Vec<Interface>,
    ips: Vec<ListedIp>,
    routes: Vec<ListedRoute>,
    dns: Dns,
}

/// The keys of `Listed`.
const LISTED_KEYS: [&str; 5] = ["cniVersion", "interfaces", "ips", "routes", "dns"];

impl Listed {
    fn into_result(self, object: &Map<String, Value>) -> CniResult {
        let unknown = |(key, _): &(&String, &Value)| !LISTED_KEYS.iter().any(|name| gojson::folds_to(key, name));
        CniResult {
            interfaces: self.interfaces,
            ips: self
                .ips
                .into_iter()
                .map(|ip| Ip {
                    address: ip.address.0,
                    gateway: ip.gateway.and_then(|it| it.0),
                    interface: ip.interface,
                })
                .collect(),
            routes: self.routes.into_iter().map(ListedRoute::into_route).collect(),
            dns: self.dns,
            extra: object.iter().filter(unknown).map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename = "_*types100.IPConfig")]
struct ListedIp {
    #[serde(rename = "version", default)]
    _version: String,
    #[serde(default, deserialize_with = "index")]
    interface: Option<usize>,
    address: GoIpNet,
    gateway: Option<GoIp>,
}

#[derive(Deserialize)]
#[serde(rename = "_*types.Route")]
struct ListedRoute {
    dst: GoIpNet,
    gw: Option<GoIp>,
    #[serde(default)]
    mtu: i64,
    #[serde(default)]
    advmss: i64,
    #[serde(default)]
    priority: i64,
    table: Option<i64>,
    scope: Option<i64>,
}

impl ListedRoute {
    fn into_route(self) -> Route {
        let Self { dst, gw, mtu, advmss, priority, table, scope } = self;
        Route { dst: dst.0, gw: gw.and_then(|it| it.0), mtu, advmss, priority, table, scope }
    }
}

/// The form of 0.1.0 and 0.2.0.
#[derive(Deserialize, Default)]
#[serde(rename = "Result", default)]
struct Legacy {
    #[serde(rename = "cniVersion")]
    _cni_version: String,
    ip4: Option<LegacyIp>,
    ip6: Option<LegacyIp>,
    dns: Dns,
}

#[derive(Deserialize)]
#[serde(rename = "_types020.IPConfig")]
struct LegacyIp {
    ip: GoIpNet,
    gateway: Option<GoIp>,
    #[serde(default)]
    routes: Vec<ListedRoute>,
}

impl Legacy {
    fn into_result(self) -> CniResult {
        let mut result = CniResult { dns: self.dns, ..CniResult::default() };
        for family in [self.ip4, self.ip6].into_iter().flatten() {
            let gateway = family.gateway.and_then(|it| it.0);
            result.ips.push(Ip { address: family.ip.0, gateway, interface: None });
            result.routes.extend(family.routes.into_iter().map(ListedRoute::into_route));
        }
        result
    }
}

/// An address as Go's net.IP reads it: empty text is none.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename = "net.IP")]
pub(crate) struct GoIp(#[serde(deserialize_with = "go_ip")] pub(crate) Option<IpAddr>);

fn go_ip<'de, D: Deserializer<'de>>(source: D) -> Result<Option<IpAddr>, D::Error> {
    address::parse_ip(&String::deserialize(source)?).map_err(serde::de::Error::custom)
}

/// A network as Go's types.IPNet reads it. A missing one is refused: Go prints `<nil>` for it later.
struct GoIpNet(IpNetwork);

impl<'de> Deserialize<'de> for GoIpNet {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        address::parse_cidr(&String::deserialize(source)?).map(GoIpNet).map_err(serde::de::Error::custom)
    }
}

fn index<'de, D: Deserializer<'de>>(source: D) -> Result<Option<usize>, D::Error> {
    let Some(number) = Option::<i64>::deserialize(source)? else { return Ok(None) };
    usize::try_from(number).map(Some).map_err(|_| serde::de::Error::custom(format!("invalid interface index {number}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prev_results_are_refused_in_go_s_words() {
        // Each text was printed by the Go plugin `tuning` for the same prevResult.
        let current = Version::V1_0_0;
        let old = Version::V0_2_0;
        let cases = [
            (
                current,
                json!({"cniVersion": "0.4.0"}),
                r#"result type supports [1.0.0 1.1.0] but unmarshalled CNIVersion is "0.4.0""#,
            ),
            (
                current,
                json!({"cniVersion": ""}),
                r#"result type supports [1.0.0 1.1.0] but unmarshalled CNIVersion is """#,
            ),
            (
                old,
                json!({"cniVersion": "1.0.0"}),
                r#"result type supports [ 0.1.0 0.2.0] but unmarshalled CNIVersion is "1.0.0""#,
            ),
            (
                current,
                json!({"ips": [{"address": 3}]}),
                "json: cannot unmarshal number into Go struct field Result.ips.address of type string",
            ),
            (current, json!({"ips": [{"address": "zz"}]}), "invalid CIDR address: zz"),
            (
                current,
                json!({"ips": [{"interface": "x"}]}),
                "json: cannot unmarshal string into Go struct field Result.ips.interface of type int",
            ),
            (
                current,
                json!({"ips": [{"gateway": 3}]}),
                "json: cannot unmarshal number into Go struct field Result.ips.gateway of type net.IP",
            ),
            (current, json!({"routes": [{"gw": "1.2"}]}), "invalid IP address: 1.2"),
            (
                current,
                json!({"interfaces": {}}),
                "json: cannot unmarshal object into Go struct field Result.interfaces of type []*types100.Interface",
            ),
            (
                current,
                json!({"interfaces": [{"name": 3}]}),
                "json: cannot unmarshal number into Go struct field Interface.interfaces.name of type string",
            ),
        ];
        check_refusals(&cases);
    }

    #[test]
    fn dns_and_older_prev_results_are_refused_in_go_s_words() {
        let (current, old) = (Version::V1_0_0, Version::V0_2_0);
        let cases = [
            (
                current,
                json!({"dns": {"nameservers": [3]}}),
                "json: cannot unmarshal number into Go struct field DNS.dns.nameservers of type string",
            ),
            (
                current,
                json!({"dns": {"nameservers": {}}}),
                "json: cannot unmarshal object into Go struct field DNS.dns.nameservers of type []string",
            ),
            (
                current,
                json!({"dns": []}),
                "json: cannot unmarshal array into Go struct field Result.dns of type types.DNS",
            ),
            (
                current,
                json!({"cniVersion": 3}),
                "json: cannot unmarshal number into Go struct field Result.cniVersion of type string",
            ),
            (
                current,
                json!({"ips": {}}),
                "json: cannot unmarshal object into Go struct field Result.ips of type []*types100.IPConfig",
            ),
            (
                Version::V0_4_0,
                json!({"ips": [{"version": 4}]}),
                "json: cannot unmarshal number into Go struct field Result.ips.version of type string",
            ),
            (
                old,
                json!({"ip4": {"ip": 7}}),
                "json: cannot unmarshal number into Go struct field Result.ip4.ip of type string",
            ),
            (
                old,
                json!({"ip4": {"routes": [{"mtu": "x"}]}}),
                "json: cannot unmarshal string into Go struct field Result.ip4.routes.mtu of type int",
            ),
        ];
        check_refusals(&cases);
    }

    fn check_refusals(cases: &[(Version, Value, &str)]) {
        for (version, value, expected) in cases {
            let error = CniResult::parse_prev(value, *version).unwrap_err();
            assert_eq!(error.msg, format!("could not parse prevResult: {expected}"), "{value}");
        }
    }

    #[test]
    fn a_prev_result_without_version_has_the_configuration_s() {
        for value in [json!({"zzz": 1, "IPS": []}), json!({"cniVersion": null}), json!({"CNIVersion": "1.1.0"})] {
            CniResult::parse_prev(&value, Version::V1_0_0).unwrap();
        }
        CniResult::parse_prev(&json!({"cniVersion": ""}), Version::V0_2_0).unwrap();
        CniResult::parse_prev(&json!({"cniVersion": "0.3.0"}), Version::V0_4_0).unwrap();
    }

    #[test]
    fn a_delegate_s_output_without_version_has_the_configuration_s() {
        let parse = |text: &str| CniResult::parse_output(text.as_bytes(), Version::V0_4_0);
        for text in ["null", "{}", r#"{"cniVersion": ""}"#, r#"{"cniVersion": null}"#] {
            assert_eq!(parse(text).unwrap(), (CniResult::default(), Version::V0_4_0));
        }
        assert_eq!(parse(r#"{"cniVersion": "1.0.0"}"#).unwrap().1, Version::V1_0_0);
        let cases = [
            (r#"{"cniVersion": "9.9.9"}"#, r#"unsupported CNI result version "9.9.9""#),
            ("", "failed to unmarshal raw result: unexpected end of JSON input"),
            (
                "[]",
                "failed to unmarshal raw result: json: cannot unmarshal array into Go value of type map[string]interface {}",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap_err().msg, expected);
        }
    }

    #[test]
    fn what_cannot_be_an_address_or_an_index_is_refused() {
        let parse = |value: Value| CniResult::parse(&value, Version::V1_0_0).unwrap_err().msg;
        assert_eq!(parse(json!({"ips": [{"address": "10.0.0.1/8", "interface": -1}]})), "invalid interface index -1");
        assert_eq!(parse(json!({"ips": [{}]})), "missing field `address`");
        assert_eq!(parse(json!({"routes": [{"dst": null}]})), "missing field `dst`");
    }
}
