//! What a bridge's configuration says, before and after it is validated. Looks nothing up.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::vlan::{Membership, gateway_name};
use crate::error::Error;
use crate::layer3::{Layer3, Route, any_destination};
use crate::nft;

/// The name of the bridge if none is given.
const DEFAULT_NAME: &str = "cni0";
/// The largest VLAN id (IEEE 802.1Q: 4095 is reserved).
const VLAN_ID_MAX: i64 = 4094;
/// `IFNAMSIZ` (include/uapi/linux/if.h) without the final zero.
const LINK_NAME_BYTES_MAX: usize = 15;

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct Conf {
    /// The bridge's name; "cni0" if none.
    #[serde(rename = "bridge")]
    pub name: Option<String>,
    /// The bridge gets the gateway addresses.
    #[serde(rename = "isGateway")]
    pub is_gateway: bool,
    /// As `is_gateway`, and the pod gets default routes to them.
    #[serde(rename = "isDefaultGateway")]
    pub is_default_gateway: bool,
    /// An address of the bridge that is in the way is replaced.
    #[serde(rename = "forceAddress")]
    pub force_address: bool,
    /// Masquerade of the pod's addresses: [`crate::nft`].
    #[serde(rename = "ipMasq")]
    pub ip_masq: bool,
    /// Masquerade by "iptables" (not built here) or "nftables".
    #[serde(rename = "ipMasqBackend")]
    pub ip_masq_backend: Option<String>,
    /// Bytes. Zero: the kernel's default.
    pub mtu: i64,
    /// Frames go back out of the port they came from.
    #[serde(rename = "hairpinMode")]
    pub hairpin_mode: bool,
    /// The bridge is promiscuous.
    #[serde(rename = "promiscMode")]
    pub promisc_mode: bool,
    /// VLAN of the port's frames without a tag. Zero: none.
    pub vlan: i64,
    /// VLANs of the port's frames with a tag. An empty list says nothing but that the bridge forwards by VLAN.
    #[serde(rename = "vlanTrunk")]
    pub vlan_trunk: Option<Vec<Trunk>>,
    /// The port keeps VLAN 1 (matters only with VLANs).
    #[serde(rename = "preserveDefaultVlan")]
    pub preserve_default_vlan: bool,
    /// Frames must have the pod's hardware address: [`crate::nft`].
    #[serde(rename = "macspoofchk")]
    pub mac_spoof_check: bool,
    /// IPv6 addresses are examined for duplicates.
    #[serde(rename = "enabledad")]
    pub enable_dad: bool,
    /// Ports of this kind do not reach each other.
    #[serde(rename = "portIsolation")]
    pub port_isolation: bool,
    /// The pod's end stays down.
    #[serde(rename = "disableContainerInterface")]
    pub disable_container_interface: bool,
}

/// A range of VLANs, or one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "*main.VlanTrunk", default)]
pub struct Trunk {
    /// First of the range.
    #[serde(rename = "minID")]
    pub min_id: Option<i64>,
    /// Last of the range.
    #[serde(rename = "maxID")]
    pub max_id: Option<i64>,
    /// One VLAN.
    pub id: Option<i64>,
}

impl Trunk {
    /// Its VLANs: ranges from, to.
    fn ranges(&self) -> Result<Vec<(u16, u16)>, Error> {
        let id = |id: i64, text: &'static str| {
            u16::try_from(id).ok().filter(|_| (1..=VLAN_ID_MAX).contains(&id)).ok_or_else(|| Error::invalid(text))
        };
        let mut ranges = Vec::with_capacity(2);
        match (self.min_id, self.max_id) {
            (Some(min), Some(max)) => {
                let min = id(min, "incorrect trunk minID parameter")?;
                let max = id(max, "incorrect trunk maxID parameter")?;
                if max < min {
                    return Err(Error::invalid("minID is greater than maxID in trunk parameter"));
                }
                ranges.push((min, max));
            }
            (None, Some(_)) => {
                let text = "minID and maxID should be configured simultaneously, minID is missing";
                return Err(Error::invalid(text));
            }
            (Some(_), None) => {
                let text = "minID and maxID should be configured simultaneously, maxID is missing";
                return Err(Error::invalid(text));
            }
            (None, None) => {}
        }
        if let Some(one) = self.id {
            let one = id(one, "incorrect trunk id parameter")?;
            ranges.push((one, one));
        }
        Ok(ranges)
    }
}

/// The same VLANs as ascending ranges that neither meet nor overlap.
fn merged(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// A configuration that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub(super) name: String,
    pub(super) gateway: bool,
    default_gateway: bool,
    pub(super) force_address: bool,
    pub(super) mtu: Option<u32>,
    pub(super) hairpin: bool,
    pub(super) promiscuous: bool,
    pub(super) isolated: bool,
    pub(super) detect_duplicates: bool,
    pub(super) leave_down: bool,
    pub(super) vlan_filtering: bool,
    pub(super) vlans: Membership,
}

impl Conf {
    /// The first key whose effect this crate does not build: execute the plugin's binary then.
    #[must_use]
    pub fn unsupported(&self) -> Option<&'static str> {
        nft::unsupported(self.ip_masq, self.ip_masq_backend.as_deref())
    }

    /// Parses the configuration. `has_ipam`: it names an address management.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the reference plugin's texts.
    pub fn validate(self, has_ipam: bool) -> Result<Spec, Error> {
        if !(0..=VLAN_ID_MAX).contains(&self.vlan) {
            return Err(Error::invalid(format!("invalid VLAN ID {} (must be between 0 and {VLAN_ID_MAX})", self.vlan)));
        }
        let vlan_filtering = self.vlan != 0 || self.vlan_trunk.is_some();
        let mut trunk = Vec::new();
        for one in self.vlan_trunk.iter().flatten() {
            trunk.extend(one.ranges()?);
        }
        if self.hairpin_mode && self.promisc_mode {
            return Err(Error::invalid("cannot set hairpin mode and promiscuous mode at the same time"));
        }
        if self.disable_container_interface && has_ipam {
            return Err(Error::invalid("cannot use IPAM when DisableContainerInterface flag is set"));
        }
        nft::validate(self.ip_masq, self.ip_masq_backend.as_deref())?;
        // The reference plugin asks for an MTU only if it is positive; the kernel refuses what is too large.
        let mtu = u32::try_from(self.mtu.max(0))
            .map_err(|_| Error::invalid(format!("invalid MTU {}: more than any link has", self.mtu)))?;
        let name = self.name.filter(|name| !name.is_empty()).unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let gateway = self.is_gateway || self.is_default_gateway;
        let vlan = u16::try_from(self.vlan).ok().filter(|vlan| *vlan != 0);
        if let Some(own) = vlan.filter(|_| gateway && has_ipam).map(|vlan| gateway_name(&name, vlan))
            && own.len() > LINK_NAME_BYTES_MAX
        {
            let text = format!("failed to create vlan interface: its name \"{own}\" is longer than a link's can be");
            return Err(Error::invalid(text));
        }
        Ok(Spec {
            name,
            gateway,
            default_gateway: self.is_default_gateway,
            force_address: self.force_address,
            mtu: Some(mtu).filter(|mtu| *mtu > 0),
            hairpin: self.hairpin_mode,
            promiscuous: self.promisc_mode,
            isolated: self.port_isolation,
            detect_duplicates: self.enable_dad,
            leave_down: self.disable_container_interface,
            vlan_filtering,
            vlans: Membership { vlan, trunk: merged(trunk), keep_default: self.preserve_default_vlan },
        })
    }
}

impl Spec {
    /// Whether its bridge must forward by VLAN.
    pub(crate) fn filters_vlans(&self) -> bool {
        self.vlan_filtering
    }

    /// The bridge's name.
    #[must_use]
    pub fn bridge(&self) -> &str {
        &self.name
    }

    /// Fills in what the gateway rules say: an address without a gateway gets the first host of its network, and each family
    /// a default route unless it has one with a gateway. Doing it twice changes nothing.
    pub fn complete(&self, l3: &mut Layer3) {
        for position in 0..l3.addresses.len() {
            let Some(address) = l3.addresses.get_mut(position) else { break };
            if self.gateway && address.gateway.is_none() {
                address.gateway = first_host(address.address);
            }
            let address = *address;
            if self.default_gateway {
                let any = any_destination(address.address.is_ipv6());
                if !l3.routes.iter().any(|route| route.gw.is_some() && route.dst == any) {
                    l3.routes.push(Route::new(any, address.gateway));
                }
            }
        }
    }
}

/// The first address after the network's own. `None` only where the network is at the very end of all addresses.
fn first_host(address: IpNetwork) -> Option<IpAddr> {
    match address.network() {
        IpAddr::V4(network) => network.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(network) => network.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::layer3::Address;

    fn conf(text: &str) -> Conf {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn wrong_values_have_the_reference_texts() {
        for (text, expected) in [
            (r#"{"vlan":4095}"#, "invalid VLAN ID 4095 (must be between 0 and 4094)"),
            (r#"{"vlan":-1}"#, "invalid VLAN ID -1 (must be between 0 and 4094)"),
            (r#"{"vlanTrunk":[{"minID":0,"maxID":2}]}"#, "incorrect trunk minID parameter"),
            (r#"{"vlanTrunk":[{"minID":1,"maxID":4095}]}"#, "incorrect trunk maxID parameter"),
            (r#"{"vlanTrunk":[{"id":0}]}"#, "incorrect trunk id parameter"),
            (r#"{"vlanTrunk":[{"minID":3,"maxID":2}]}"#, "minID is greater than maxID in trunk parameter"),
            (r#"{"vlanTrunk":[{"minID":3}]}"#, "minID and maxID should be configured simultaneously, maxID is missing"),
            (r#"{"vlanTrunk":[{"maxID":3}]}"#, "minID and maxID should be configured simultaneously, minID is missing"),
            (
                r#"{"hairpinMode":true,"promiscMode":true}"#,
                "cannot set hairpin mode and promiscuous mode at the same time",
            ),
            (r#"{"ipMasq":true,"ipMasqBackend":"zz"}"#, "unknown ipmasq backend \"zz\""),
            (r#"{"disableContainerInterface":true}"#, "cannot use IPAM when DisableContainerInterface flag is set"),
        ] {
            let error = conf(text).validate(true).unwrap_err();
            assert_eq!((error.chain().as_str(), error.kind()), (expected, ErrorKind::Invalid));
        }
    }

    #[test]
    fn only_masquerade_by_iptables_is_left_to_the_binary() {
        for (text, expected) in [
            (r#"{"ipMasq":true,"ipMasqBackend":"iptables"}"#, Some("ipMasqBackend: iptables")),
            (r#"{"ipMasqBackend":"iptables"}"#, None),
            (r#"{"ipMasq":true,"macspoofchk":true}"#, None),
            (r#"{"vlan":100,"vlanTrunk":[{"id":1}]}"#, None),
            (r#"{"vlan":0,"vlanTrunk":[],"ipMasq":true,"ipMasqBackend":"nftables","preserveDefaultVlan":true}"#, None),
        ] {
            assert_eq!(conf(text).unsupported(), expected, "{text}");
            assert!(conf(text).validate(true).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_trunk_s_vlans_are_merged_and_an_empty_one_still_filters() {
        let spec = |text: &str| conf(text).validate(true).unwrap();
        let text = r#"{"vlanTrunk":[{"id":200},{"minID":300,"maxID":302,"id":4094},{"id":301},{"minID":199,"maxID":199},
            {"minID":303,"maxID":310}]}"#;
        assert_eq!(spec(text).vlans.trunk, [(199, 200), (300, 310), (4094, 4094)]);
        assert!(spec(r#"{"vlanTrunk":[]}"#).vlan_filtering);
        assert!(!spec(r#"{"vlanTrunk":null}"#).vlan_filtering);
    }

    #[test]
    fn the_gateway_of_a_vlan_needs_a_name() {
        let text = |gateway: bool| format!(r#"{{"bridge":"bridge-of-12","vlan":4094,"isGateway":{gateway}}}"#);
        let error = conf(&text(true)).validate(true).unwrap_err();
        assert!(error.chain().contains("\"bridge-of-12.4094\""), "{}", error.chain());
        for (gateway, has_ipam) in [(false, true), (true, false)] {
            assert_eq!(conf(&text(gateway)).validate(has_ipam).unwrap().vlans.vlan, Some(4094));
        }
    }

    #[test]
    fn gateways_and_default_routes_are_filled_in_once() {
        let spec = conf(r#"{"isDefaultGateway":true}"#).validate(true).unwrap();
        let address = |text: &str| Address { address: text.parse().unwrap(), gateway: None };
        let own = Route::new("::/0".parse().unwrap(), Some("fd00::9".parse().unwrap()));
        let mut l3 = Layer3 {
            addresses: vec![address("10.1.2.77/26"), address("10.9.0.5/24"), address("fd00::5/64")],
            routes: vec![own],
        };
        spec.complete(&mut l3);
        let gateways: Vec<_> = l3.addresses.iter().map(|a| a.gateway.unwrap().to_string()).collect();
        assert_eq!(gateways, ["10.1.2.65", "10.9.0.1", "fd00::1"]);
        let v4 = Route::new("0.0.0.0/0".parse().unwrap(), Some("10.1.2.65".parse().unwrap()));
        assert_eq!(l3.routes, [own, v4]);
        let once = l3.clone();
        spec.complete(&mut l3);
        assert_eq!(l3, once);
    }

    #[test]
    fn without_a_gateway_role_nothing_is_filled_in() {
        let spec = conf("{}").validate(true).unwrap();
        assert_eq!(spec.bridge(), "cni0");
        let mut l3 = Layer3 {
            addresses: vec![Address { address: "10.0.0.2/24".parse().unwrap(), gateway: None }],
            routes: vec![],
        };
        let before = l3.clone();
        spec.complete(&mut l3);
        assert_eq!(l3, before);
    }
}
