//! Messages about addresses. Knows no gateway and no route.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::Failure;
use super::socket::Request;

/// Prefixes from this length on have no broadcast address (RFC 3021).
const V4_PREFIX_WITHOUT_BROADCAST: u8 = 31;

/// How an address behaves beyond the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    /// IPv6: usable at once, never examined (`IFA_F_NODAD`).
    pub(crate) without_dad: bool,
    /// IPv6: usable at once, examined meanwhile (`IFA_F_OPTIMISTIC`, RFC 4429).
    pub(crate) optimistic: bool,
    /// No route to the address's network appears by itself (`IFA_F_NOPREFIXROUTE`).
    pub(crate) without_route: bool,
}

/// An address that is on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) index: u32,
    pub(crate) address: IpNetwork,
    /// Another host has it (`IFA_F_DADFAILED`).
    pub(crate) duplicate: bool,
    /// Only addresses of this scope are of interest outside of their link.
    pub(crate) global: bool,
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn message(index: u32, address: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip());
    message.header.prefix_len = address.prefix();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address.ip()));
    message.attributes.push(AddressAttribute::Address(address.ip()));
    message
}

/// Adds an address.
pub(crate) fn add(index: u32, address: IpNetwork, manner: Manner) -> Request {
    let mut message = message(index, address);
    if let IpNetwork::V4(v4) = address
        && v4.prefix() < V4_PREFIX_WITHOUT_BROADCAST
    {
        message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
    }
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Nodad, manner.without_dad && address.is_ipv6());
    flags.set(AddressFlags::Optimistic, manner.optimistic && address.is_ipv6());
    flags.set(AddressFlags::Noprefixroute, manner.without_route);
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    Request::new(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Removes an address.
pub(crate) fn delete(index: u32, address: IpNetwork) -> Request {
    Request::new(RouteNetlinkMessage::DelAddress(message(index, address)), 0)
}

/// Asks for the addresses of one link, of both families.
pub(crate) fn of_link(index: u32) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    RouteNetlinkMessage::GetAddress(message)
}

/// Reads one address. `None`: of a family this crate does not know.
pub(crate) fn parse(payload: &[u8]) -> Result<Option<Present>, Failure> {
    let message = AddressMessage::parse(payload).map_err(|e| Failure::Malformed(e.to_string()))?;
    let (mut local, mut address, mut flags) =
        (None, None, AddressFlags::from_bits_retain(message.header.flags.bits().into()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // IFA_ADDRESS is the other end on a point-to-point link; IPv6 without a peer sends nothing else.
    let network = local.or(address).and_then(|ip| IpNetwork::new(ip, message.header.prefix_len).ok());
    Ok(network.map(|address| Present {
        index: message.header.index,
        address,
        duplicate: flags.contains(AddressFlags::Dadfailed),
        global: message.header.scope == AddressScope::Universe,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(address: &str, manner: Manner) -> Vec<AddressAttribute> {
        let request = add(7, address.parse().unwrap(), manner);
        match request.into_message() {
            RouteNetlinkMessage::NewAddress(message) => message.attributes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn broadcast_only_where_there_is_one() {
        let broadcast = AddressAttribute::Broadcast("10.0.0.255".parse().unwrap());
        assert!(built("10.0.0.1/24", Manner::default()).contains(&broadcast));
        for address in ["10.0.0.1/31", "10.0.0.1/32", "fd00::1/64"] {
            let attributes = built(address, Manner::default());
            assert!(!attributes.iter().any(|a| matches!(a, AddressAttribute::Broadcast(_))), "{address}");
        }
    }

    #[test]
    fn duplicate_detection_is_a_matter_of_ipv6_only() {
        let manner = Manner { without_dad: true, ..Manner::default() };
        assert!(built("fd00::1/64", manner).contains(&AddressAttribute::Flags(AddressFlags::Nodad)));
        assert!(!built("10.0.0.1/24", manner).iter().any(|a| matches!(a, AddressAttribute::Flags(_))));
    }
}
