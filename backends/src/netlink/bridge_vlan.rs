//! Messages about the VLANs of a bridge's port. Knows no configuration.

use netlink_packet_route::link::{AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

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
    }
}
