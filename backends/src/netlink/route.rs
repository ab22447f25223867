//! Messages about routes, and what the kernel says about one. Knows no interface name.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};

use super::addr::family;
use super::error::Failure;
use super::socket::Request;

/// The table that routing decisions end in (`RT_TABLE_MAIN`).
pub(crate) const MAIN_TABLE: u32 = 254;

/// A route to add, in the kernel's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The interface it leaves by.
    pub(crate) index: u32,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) priority: Option<u32>,
    /// `None`: main.
    pub(crate) table: Option<u32>,
    pub(crate) scope: u8,
    /// The gateway is taken to be on the link, whatever the routes say (`RTNH_F_ONLINK`).
    pub(crate) on_link: bool,
    pub(crate) mtu: Option<u32>,
    pub(crate) advmss: Option<u32>,
}

impl Entry {
    /// Adds the route beside others to the same destination, as `ip route append` does not and the reference plugins do:
    /// IPv4 puts it before them, IPv6 makes one route with several next hops.
    pub(crate) fn add(&self, dst: IpNetwork) -> Request {
        Request::new(RouteNetlinkMessage::NewRoute(self.message(dst)), NLM_F_CREATE)
    }

    /// Adds the route behind others to the same destination.
    pub(crate) fn append(&self, dst: IpNetwork) -> Request {
        Request::new(RouteNetlinkMessage::NewRoute(self.message(dst)), NLM_F_CREATE | NLM_F_APPEND)
    }

    /// Adds the route in the place of the one with the same destination and priority, in one step.
    pub(crate) fn replace(&self, dst: IpNetwork) -> Request {
        Request::new(RouteNetlinkMessage::NewRoute(self.message(dst)), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes the route that has all these attributes.
    pub(crate) fn delete(&self, dst: IpNetwork) -> Request {
        let mut message = self.message(dst);
        // Whoever made it and however it was typed: these are filters in a deletion.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        Request::new(RouteNetlinkMessage::DelRoute(message), 0)
    }

    fn message(&self, dst: IpNetwork) -> RouteMessage {
        let mut message = RouteMessage::default();
        let table = self.table.unwrap_or(MAIN_TABLE);
        message.header.address_family = family(dst.ip());
        message.header.destination_prefix_length = dst.prefix();
        message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::from(self.scope);
        message.header.kind = RouteType::Unicast;
        if self.on_link {
            message.header.flags |= RouteFlags::Onlink;
        }
        let attributes = &mut message.attributes;
        // Host bits go to the kernel as they are: it has the words for them.
        if dst.prefix() != 0 || !dst.ip().is_unspecified() {
            attributes.push(RouteAttribute::Destination(dst.ip().into()));
        }
        attributes.extend(self.gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
        attributes.extend(self.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        attributes.push(RouteAttribute::Oif(self.index));
        attributes.extend(self.priority.map(RouteAttribute::Priority));
        if u8::try_from(table).is_err() {
            attributes.push(RouteAttribute::Table(table));
        }
        let metrics: Vec<_> =
            self.mtu.map(RouteMetric::Mtu).into_iter().chain(self.advmss.map(RouteMetric::Advmss)).collect();
        if !metrics.is_empty() {
            attributes.push(RouteAttribute::Metrics(metrics));
        }
        message
    }
}

/// A route that is in a table. A route with several next hops is several of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) dst: IpNetwork,
    pub(crate) index: u32,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) priority: Option<u32>,
    pub(crate) table: u32,
    pub(crate) scope: u8,
}

/// Asks for the routes of one family, of one table or (`None`) of all.
pub(crate) fn of_family(v6: bool, table: Option<u32>) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    let any: IpAddr = if v6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() };
    message.header.address_family = family(any);
    message.attributes.extend(table.map(RouteAttribute::Table));
    RouteNetlinkMessage::GetRoute(message)
}

/// Asks for the routes of all families and tables.
pub(crate) fn all() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetRoute(RouteMessage::default())
}

/// Asks how a packet to this address leaves.
pub(crate) fn to(ip: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ip);
    message.header.destination_prefix_length = if ip.is_ipv6() { 128 } else { 32 };
    message.attributes.push(RouteAttribute::Destination(ip.into()));
    RouteNetlinkMessage::GetRoute(message)
}

/// Reads the next hops of one unicast route; others (local, multicast, blackhole) give none.
pub(crate) fn parse(payload: &[u8]) -> Result<Vec<Present>, Failure> {
    let message = RouteMessage::parse(payload).map_err(|e| Failure::Malformed(e.to_string()))?;
    if message.header.kind != RouteType::Unicast {
        return Ok(Vec::new());
    }
    let v4 = message.header.address_family == family(std::net::Ipv4Addr::UNSPECIFIED.into());
    let any: IpAddr = if v4 { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let mut dst = any;
    let mut hop = Present {
        dst: any.into(),
        index: 0,
        gateway: None,
        priority: None,
        table: message.header.table.into(),
        scope: message.header.scope.into(),
    };
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => dst = plain(address).unwrap_or(any),
            RouteAttribute::Priority(priority) => hop.priority = Some(*priority),
            RouteAttribute::Table(table) => hop.table = *table,
            RouteAttribute::MultiPath(all) => hops.clone_from(all),
            other => hop_attribute(&mut hop, other),
        }
    }
    hop.dst =
        IpNetwork::new(dst, message.header.destination_prefix_length).map_err(|e| Failure::Malformed(e.to_string()))?;
    if hops.is_empty() {
        return Ok(vec![hop]);
    }
    let several = hops.iter().map(|next| {
        let mut hop = Present { index: next.interface_index, ..hop };
        next.attributes.iter().for_each(|attribute| hop_attribute(&mut hop, attribute));
        hop
    });
    Ok(several.collect())
}

fn hop_attribute(hop: &mut Present, attribute: &RouteAttribute) {
    match attribute {
        RouteAttribute::Oif(index) => hop.index = *index,
        RouteAttribute::Gateway(address) => hop.gateway = plain(address),
        // An IPv4 route over an IPv6 gateway (RFC 5549).
        RouteAttribute::Via(netlink_packet_route::route::RouteVia::Inet6(ip)) => hop.gateway = Some((*ip).into()),
        _ => {}
    }
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
