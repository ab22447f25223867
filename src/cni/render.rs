//! How each version's result is written, to the byte as the Go library writes it. Knows no parsing.

use serde::Serialize;
use serde_json::{Map, Value};

use super::address;
use super::error::CniError;
use super::goprint::{self, Layout};
use super::result::{CniResult, Dns, Interface, Ip, Route};
use super::version::{Group, Version};

impl CniResult {
    /// The result as text in the form of `version`, as it goes to standard output.
    ///
    /// # Errors
    /// As `print_check`.
    pub fn print(&self, version: Version) -> Result<Vec<u8>, CniError> {
        Ok(match version.group() {
            Group::Legacy => goprint::print(&self.legacy(version)?, Layout::Indented),
            Group::Listed => goprint::print(&self.listed(version), Layout::Indented),
            // The Go library prints these through a map.
            Group::Current => goprint::to_string_go(&self.to_value(version)?, Layout::Indented).into_bytes(),
        })
    }

    /// Whether `print` will succeed, so that the answer is known before the kernel is touched.
    ///
    /// # Errors
    /// `cannot convert: no valid IP addresses` (999): versions 0.1.0 and 0.2.0 cannot say that there is no address.
    pub fn print_check(&self, version: Version) -> Result<(), CniError> {
        self.legacy(version).map(drop).or_else(|error| match version.group() {
            Group::Legacy => Err(error),
            Group::Listed | Group::Current => Ok(()),
        })
    }

    /// The result as a value in the form of `version`, to be injected as a `prevResult`.
    ///
    /// # Errors
    /// As `print_check`.
    pub fn to_value(&self, version: Version) -> Result<Value, CniError> {
        let value = match version.group() {
            Group::Legacy => serde_json::to_value(self.legacy(version)?),
            Group::Listed => serde_json::to_value(self.listed(version)),
            Group::Current => serde_json::to_value(self.current(version)),
        };
        value.map_err(|error| CniError::generic(error.to_string()))
    }

    fn current(&self, version: Version) -> Listed<'_> {
        Listed {
            cni_version: version.as_str(),
            interfaces: self.interfaces.iter().map(WireInterface::of).collect(),
            ips: self.ips.iter().map(WireIp::of).collect(),
            routes: self.routes.iter().map(WireRoute::of).collect(),
            dns: Some(&self.dns).filter(|dns| !dns.is_empty()),
            extra: &self.extra,
        }
    }

    fn listed(&self, version: Version) -> Listed<'_> {
        let mut listed = Listed { dns: Some(&self.dns), ..self.current(version) };
        for interface in &mut listed.interfaces {
            *interface = WireInterface { mtu: 0, socket_path: "", pci_id: "", ..*interface };
        }
        for (wire, ip) in listed.ips.iter_mut().zip(&self.ips) {
            wire.version = if address::canonical(ip.address).is_ipv4() { "4" } else { "6" };
        }
        listed
    }

    /// The first address of each family, with the family's routes reduced to destination and next hop.
    fn legacy(&self, version: Version) -> Result<Legacy<'_>, CniError> {
        let family = |wanted_v4: bool| {
            let mut ips = self.ips.iter().map(|ip| (address::canonical(ip.address), ip));
            let (network, ip) = ips.find(|(network, _)| network.is_ipv4() == wanted_v4)?;
            let routes = self.routes.iter().filter(|route| address::canonical(route.dst).is_ipv4() == wanted_v4);
            let routes = routes.map(|route| WireRoute::of(&Route::new(route.dst, route.gw))).collect();
            Some(LegacyIp { ip: network.to_string(), gateway: text_of(ip.gateway), routes })
        };
        let (ip4, ip6) = (family(true), family(false));
        if ip4.is_none() && ip6.is_none() {
            return Err(CniError::generic("cannot convert: no valid IP addresses"));
        }
        Ok(Legacy { cni_version: version.as_str(), ip4, ip6, dns: &self.dns })
    }
}

fn text_of(address: Option<std::net::IpAddr>) -> Option<String> {
    address.map(|address| address.to_canonical().to_string())
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[derive(Serialize)]
struct Listed<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<WireInterface<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<WireIp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<WireRoute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<&'a Dns>,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct WireInterface<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    mac: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    mtu: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    sandbox: &'a str,
    #[serde(rename = "socketPath", skip_serializing_if = "str::is_empty")]
    socket_path: &'a str,
    #[serde(rename = "pciID", skip_serializing_if = "str::is_empty")]
    pci_id: &'a str,
}

impl WireInterface<'_> {
    fn of(interface: &Interface) -> WireInterface<'_> {
        let Interface { name, mac, mtu, sandbox, socket_path, pci_id } = interface;
        WireInterface { name, mac, mtu: *mtu, sandbox, socket_path, pci_id }
    }
}

#[derive(Serialize)]
struct WireIp {
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<usize>,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
}

impl WireIp {
    fn of(ip: &Ip) -> WireIp {
        let address = address::canonical(ip.address).to_string();
        WireIp { version: "", interface: ip.interface, address, gateway: text_of(ip.gateway) }
    }
}

#[derive(Serialize)]
struct WireRoute {
    dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    mtu: i64,
    #[serde(skip_serializing_if = "is_zero")]
    advmss: i64,
    #[serde(skip_serializing_if = "is_zero")]
    priority: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<i64>,
}

impl WireRoute {
    fn of(route: &Route) -> WireRoute {
        let Route { dst, gw, mtu, advmss, priority, table, scope } = *route;
        WireRoute { dst: address::canonical(dst).to_string(), gw: text_of(gw), mtu, advmss, priority, table, scope }
    }
}

#[derive(Serialize)]
struct Legacy<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<LegacyIp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<LegacyIp>,
    dns: &'a Dns,
}

#[derive(Serialize)]
struct LegacyIp {
    ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<WireRoute>,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::gojson;
    use super::super::version::SUPPORTED;
    use super::*;

    fn golden(name: &str) -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn every_version_prints_what_the_go_library_prints() {
        for case in ["full", "layer2", "empty", "legacy", "six", "mapped"] {
            let (result, _) = CniResult::parse_output(&golden(&format!("{case}.in.json")), Version::V0_1_0).unwrap();
            for version in SUPPORTED {
                let printed = result.print(version).unwrap_or_else(|error| error.msg.into_bytes());
                let expected = golden(&format!("{case}.{version}.json"));
                assert_eq!(
                    String::from_utf8_lossy(&printed),
                    String::from_utf8_lossy(&expected),
                    "{case} as {version}"
                );
                assert_eq!(result.print_check(version).is_ok(), result.print(version).is_ok());
            }
        }
    }

    #[test]
    fn the_old_versions_need_an_address() {
        let error = CniResult::default().print_check(Version::V0_2_0).unwrap_err();
        assert_eq!((error.code.number(), error.msg.as_str()), (999, "cannot convert: no valid IP addresses"));
        assert_eq!(CniResult::default().print_check(Version::V0_3_0), Ok(()));
    }

    #[test]
    fn unknown_keys_of_a_delegate_survive() {
        let value = json!({"cniVersion": "1.0.0", "sandboxes": [{"id": "x"}], "a": 1});
        let (result, version) = CniResult::parse(&value, Version::V1_0_0).unwrap();
        let text = String::from_utf8(result.print(version).unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(text.find("\"a\"") < text.find("cniVersion"));
        let listed = String::from_utf8(result.print(Version::V0_4_0).unwrap()).unwrap();
        assert!(listed.find("\"dns\"") < listed.find("\"a\""));
    }

    fn addresses() -> impl Strategy<Value = ipnetwork::IpNetwork> {
        let v4 =
            (any::<u32>(), 0..=32u8).prop_map(|(bits, prefix)| (std::net::IpAddr::from(bits.to_be_bytes()), prefix));
        let v6 =
            (any::<u128>(), 0..=128u8).prop_map(|(bits, prefix)| (std::net::IpAddr::from(bits.to_be_bytes()), prefix));
        prop_oneof![v4, v6]
            .prop_map(|(address, prefix)| address::canonical(ipnetwork::IpNetwork::new(address, prefix).unwrap()))
    }

    fn gateways() -> impl Strategy<Value = Option<std::net::IpAddr>> {
        proptest::option::of(addresses().prop_map(|network| network.ip()))
    }

    prop_compose! {
        fn results()(
            names in proptest::collection::vec(("[a-z]{1,15}", "\\PC{0,8}", 0..=65535i64, "\\PC{0,8}"), 0..4),
            ips in proptest::collection::vec((addresses(), gateways(), proptest::option::of(0..9usize)), 0..4),
            routes in proptest::collection::vec((addresses(), gateways(), any::<[i32; 3]>(), any::<[Option<i32>; 2]>()), 0..4),
            nameservers in proptest::collection::vec("\\PC{0,8}", 0..3),
            domain in "\\PC{0,8}",
        ) -> CniResult {
            CniResult {
                interfaces: names.into_iter().map(|(name, mac, mtu, pci_id)| {
                    Interface { name, mac, mtu, pci_id, ..Interface::default() }
                }).collect(),
                ips: ips.into_iter().map(|(address, gateway, interface)| Ip { address, gateway, interface }).collect(),
                routes: routes.into_iter().map(|(dst, gw, [mtu, advmss, priority], [table, scope])| Route {
                    dst, gw, mtu: mtu.into(), advmss: advmss.into(), priority: priority.into(),
                    table: table.map(i64::from), scope: scope.map(i64::from),
                }).collect(),
                dns: Dns { nameservers, domain, ..Dns::default() },
                extra: Map::new(),
            }
        }
    }

    proptest! {
        #[test]
        fn the_newest_form_loses_nothing(result in results()) {
            for version in [Version::V1_0_0, Version::V1_1_0] {
                let printed = result.print(version).unwrap();
                let (read, of) = CniResult::parse_output(&printed, Version::V0_1_0).unwrap();
                prop_assert_eq!((&read, of), (&result, version));
            }
        }

        #[test]
        fn what_any_version_says_it_says_again(result in results()) {
            for version in SUPPORTED {
                prop_assert_eq!(result.print_check(version).is_ok(), result.print(version).is_ok());
                let Ok(printed) = result.print(version) else { continue };
                let (read, of) = CniResult::parse_output(&printed, Version::V1_1_0).unwrap();
                prop_assert_eq!(of, version);
                prop_assert_eq!(String::from_utf8(read.print(version).unwrap()), String::from_utf8(printed.clone()));
                let value = gojson::parse(&printed).unwrap();
                prop_assert_eq!(&value, &result.to_value(version).unwrap());
                CniResult::parse_prev(&value, version).unwrap();
            }
        }

        #[test]
        fn no_text_breaks_the_parser(text in "\\PC*", bytes in any::<Vec<u8>>()) {
            let _any = CniResult::parse_output(text.as_bytes(), Version::V1_1_0);
            let _any = CniResult::parse_output(&bytes, Version::V0_2_0);
        }
    }
}
