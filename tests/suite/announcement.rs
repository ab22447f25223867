//! What a frame announces to everybody. Knows no socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
const PROTOCOL_ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// RFC 4861, 4.4: O, and neither R nor S; in a pod that does not forward.
const OVERRIDE_ALONE: u8 = 0x20;
/// The option with the target's hardware address, one unit of eight bytes.
const TARGET_HARDWARE_ADDRESS: [u8; 2] = [2, 1];

/// The address that a frame announces to everybody, and the hardware address that has it: a gratuitous ARP (RFC 5227, 3), or an
/// unsolicited neighbour advertisement that overrides what others know (RFC 4861, 7.2.6).
pub(crate) fn announcement(frame: &[u8]) -> Option<(IpAddr, String)> {
    let (kind, payload) = match frame.get(12..)? {
        [a, b, _, _, c, d, payload @ ..] if [*a, *b] == ETHERTYPE_VLAN => ([*c, *d], payload),
        [a, b, payload @ ..] => ([*a, *b], payload),
        _ => return None,
    };
    if kind == ETHERTYPE_ARP {
        let sender = Ipv4Addr::from(*payload.get(14..)?.first_chunk::<4>()?);
        let target = Ipv4Addr::from(*payload.get(24..)?.first_chunk::<4>()?);
        return (sender == target).then_some((sender.into(), text(payload.get(8..14)?)));
    }
    if kind != ETHERTYPE_IPV6 || *payload.get(6)? != PROTOCOL_ICMPV6 {
        return None;
    }
    let message = payload.get(40..)?;
    let option = message.get(24..32)?;
    let overrides = message.starts_with(&[NEIGHBOUR_ADVERTISEMENT]) && message.get(4)? & 0x60 == OVERRIDE_ALONE;
    let target = Ipv6Addr::from(*message.get(8..)?.first_chunk::<16>()?);
    (overrides && option.starts_with(&TARGET_HARDWARE_ADDRESS)).then_some((target.into(), text(&option[2..])))
}

fn text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
