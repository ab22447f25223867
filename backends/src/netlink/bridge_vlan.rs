//! Messages about the VLANs of a bridge's port. Knows no configuration.

use netlink_packet_core::NlasIterator;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkHeader, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::Failure;
use super::link::HEADER_LEN;
use super::socket::Request;

/// VLANs of a port, from the first id to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vlans {
    pub(crate) first: u16,
    pub(crate) last: u16,
    /// Frames without a tag belong to it, and its frames leave without one (`PVID` and `UNTAGGED`). One VLAN only.
    pub(crate) native: bool,
}

/// Adds VLANs to a port, in this order: where one comes twice the last one says whether it is native.
pub(crate) fn add(port: u32, vlans: &[Vlans]) -> Request {
    Request::new(RouteNetlinkMessage::SetLink(message(port, vlans)), 0)
}

/// Removes VLANs from a port. The kernel passes over what is not there (net/bridge/br_netlink.c, br_vlan_info).
pub(crate) fn remove(port: u32, vlans: &[Vlans]) -> Request {
    Request::new(RouteNetlinkMessage::DelLink(message(port, vlans)), 0)
}

/// Asks for the VLANs of all ports: the kernel does not answer for one alone (net/core/rtnetlink.c, rtnl_bridge_getlink).
pub(crate) fn all() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan]));
    RouteNetlinkMessage::GetLink(message)
}

/// A VLAN that a port is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: u16,
    /// Frames without a tag belong to it.
    pub(crate) native: bool,
}

/// `IFLA_AF_SPEC` of a link, and in it `IFLA_BRIDGE_VLAN_INFO` { flags, id } (include/uapi/linux/if_bridge.h).
const IFLA_AF_SPEC: u16 = 26;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;

/// One port and its VLANs.
pub(crate) fn parse(payload: &[u8]) -> Result<Option<(u32, Vec<Member>)>, Failure> {
    let malformed = |e: &dyn std::fmt::Display| Failure::Malformed(e.to_string());
    let header = LinkHeader::parse(payload).map_err(|e| malformed(&e))?;
    let mut members = Vec::new();
    for attribute in NlasIterator::new(payload.get(HEADER_LEN..).unwrap_or_default()) {
        let attribute = attribute.map_err(|e| malformed(&e))?;
        if attribute.kind() != IFLA_AF_SPEC {
            continue;
        }
        for entry in NlasIterator::new(attribute.value()) {
            let entry = entry.map_err(|e| malformed(&e))?;
            if let (IFLA_BRIDGE_VLAN_INFO, &[a, b, c, d]) = (entry.kind(), entry.value()) {
                let flags = u16::from_ne_bytes([a, b]);
                members.push(Member { id: u16::from_ne_bytes([c, d]), native: flags & BRIDGE_VLAN_INFO_PVID != 0 });
            }
        }
    }
    Ok(Some((header.index, members)))
}

fn message(port: u32, vlans: &[Vlans]) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = port;
    let entry = |vid, flags| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid });
    let entries = |vlans: &Vlans| {
        let own = if vlans.native {
            BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged
        } else {
            BridgeVlanInfoFlags::empty()
        };
        if vlans.first == vlans.last {
            return vec![entry(vlans.first, own)];
        }
        vec![
            entry(vlans.first, own | BridgeVlanInfoFlags::RangeBegin),
            entry(vlans.last, own | BridgeVlanInfoFlags::RangeEnd),
        ]
    };
    message.attributes.push(LinkAttribute::AfSpecBridge(vlans.iter().flat_map(entries).collect()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;

    #[test]
    fn a_range_has_two_entries_and_a_native_vlan_its_flags() {
        let vlans = [Vlans { first: 100, last: 100, native: true }, Vlans { first: 300, last: 302, native: false }];
        let message = message(7, &vlans);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        // ifinfomsg of AF_BRIDGE, then IFLA_AF_SPEC { three IFLA_BRIDGE_VLAN_INFO { flags, vid } }.
        let expected: &[&[u8]] = &[
            &[7, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[28, 0, 26, 0],
            &[8, 0, 2, 0, 6, 0, 100, 0],
            &[8, 0, 2, 0, 8, 0, 44, 1],
            &[8, 0, 2, 0, 16, 0, 46, 1],
        ];
        assert_eq!(bytes, expected.concat());
        // The kernel lists a port's VLANs in the same form, unless it is asked for ranges.
        let member = |id, native| Member { id, native };
        let listed = [member(100, true), member(300, false), member(302, false)];
        assert_eq!(parse(&bytes).unwrap(), Some((7, listed.to_vec())));
        for length in 0..bytes.len() {
            drop(parse(&bytes[..length]));
        }
    }
}
