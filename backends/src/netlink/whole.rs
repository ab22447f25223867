//! Routes and addresses as the kernel lists them, whole: every attribute is kept as it came, also those nobody here knows, so
//! that one can be copied to another table or put back as it was. Knows no interface name and no reason.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, Nla};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeader, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::error::Failure;
use super::socket::Request;

/// The header of a route (`struct rtmsg`), in bytes.
const ROUTE_HEADER_LEN: usize = 12;
/// The header of an address (`struct ifaddrmsg`), in bytes.
const ADDRESS_HEADER_LEN: usize = 8;
/// The header of a next hop (`struct rtnexthop`: length, flags, weight, index), in bytes.
const HOP_HEADER_LEN: usize = 8;
/// Attributes of a route (include/uapi/linux/rtnetlink.h).
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_CACHEINFO: u16 = 12;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_ENCAP_TYPE: u16 = 21;
const RTA_ENCAP: u16 = 22;
const RTA_EXPIRES: u16 = 23;
const RTA_NH_ID: u16 = 30;
/// What a next hop object says by itself: the kernel refuses both.
const SAID_BY_NEXT_HOP_OBJECT: [u16; 6] = [RTA_OIF, RTA_GATEWAY, RTA_VIA, RTA_MULTIPATH, RTA_ENCAP_TYPE, RTA_ENCAP];
/// Bits of an attribute's kind that say how it is encoded.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// `RTNH_F_ONLINK`, the only flag of a next hop that is a wish; the others are the kernel's findings.
const ON_LINK: u8 = 4;
/// Where the time left is in `struct rta_cacheinfo`, and its unit in parts of a second (`USER_HZ`).
const EXPIRES_AT: usize = 8;
const TICKS_PER_S: i32 = 100;
/// Attributes and flags of an address (include/uapi/linux/if_addr.h).
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_OPTIMISTIC: u32 = 0x04;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
/// Flags that are wishes beside those of duplicate address detection: home address, its temporary addresses are the kernel's to
/// make, no route to its network, its groups are joined.
const IFA_F_WISHES: u32 = 0x10 | 0x100 | 0x200 | 0x400;

/// One way of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The interface it leaves by.
    pub(crate) index: u32,
    pub(crate) gateway: Option<IpAddr>,
}

/// A unicast route in any table. As text it is the kernel's message in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Route {
    payload: Vec<u8>,
    pub(crate) dst: IpNetwork,
    pub(crate) table: u32,
    pub(crate) scope: u8,
    tos: u8,
    /// 0 where none is said.
    pub(crate) priority: u32,
    pub(crate) source: Option<IpAddr>,
    pub(crate) hops: Vec<Hop>,
}

/// Where a route goes among those with the same destination and priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// IPv4: it becomes the first. IPv6: a next hop more.
    First,
    /// IPv4: it becomes the last. IPv6: a next hop more.
    Last,
    /// In the place of the first of them.
    Instead,
}

impl Route {
    /// Reads one route. `None`: it is not unicast (local, multicast, blackhole), or of a family this crate does not know.
    pub(crate) fn parse(payload: &[u8]) -> Result<Option<Self>, Failure> {
        let header = RouteHeader::parse(payload).map_err(|e| Failure::Malformed(e.to_string()))?;
        let any: IpAddr = match header.address_family {
            AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
            _ => return Ok(None),
        };
        if header.kind != RouteType::Unicast {
            return Ok(None);
        }
        let mut dst = any;
        let mut route = Self {
            payload: payload.to_vec(),
            dst: any.into(),
            table: header.table.into(),
            scope: header.scope.into(),
            tos: header.tos,
            priority: 0,
            source: None,
            hops: Vec::new(),
        };
        let mut hop = Hop { index: 0, gateway: None };
        for (kind, value) in attributes(payload, ROUTE_HEADER_LEN)? {
            match kind {
                RTA_DST => dst = address(value).unwrap_or(any),
                RTA_TABLE => route.table = number(value).unwrap_or_default(),
                RTA_PRIORITY => route.priority = number(value).unwrap_or_default(),
                RTA_PREFSRC => route.source = address(value),
                RTA_OIF => hop.index = number(value).unwrap_or_default(),
                RTA_GATEWAY => hop.gateway = address(value),
                RTA_VIA => hop.gateway = via(value),
                RTA_MULTIPATH => route.hops = hops(value).into_iter().map(|hop| hop.0).collect(),
                _ => {}
            }
        }
        if route.hops.is_empty() {
            route.hops.push(hop);
        }
        let prefix = header.destination_prefix_length;
        route.dst = IpNetwork::new(dst, prefix).map_err(|e| Failure::Malformed(e.to_string()))?;
        Ok(Some(route))
    }

    /// Whether any way leaves by this interface.
    pub(crate) fn uses(&self, index: u32) -> bool {
        self.hops.iter().any(|hop| hop.index == index)
    }

    /// Whether all ways leave by this interface.
    pub(crate) fn is_of(&self, index: u32) -> bool {
        self.hops.iter().all(|hop| hop.index == index)
    }

    /// Whether both say the same, whatever time is left.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let index = self.hops.first().map_or(0, |hop| hop.index);
        let said = |route: &Self| {
            let mut message = route.message(route.table, index);
            message.attributes.retain(|attribute| Nla::kind(attribute) != RTA_EXPIRES);
            message
        };
        self.dst == other.dst && self.table == other.table && self.hops == other.hops && said(self) == said(other)
    }

    /// Whether the kernel takes both for one in its order: same destination, type of service and priority.
    pub(crate) fn rivals(&self, other: &Self) -> bool {
        self.table == other.table && self.same_place(other.dst, other.priority) && self.tos == other.tos
    }

    /// Whether a plain route to this destination of this priority would take its place.
    pub(crate) fn same_place(&self, dst: IpNetwork, priority: u32) -> bool {
        self.dst == dst && self.priority == priority
    }

    /// Whether it has a gateway, which other routes must lead to.
    pub(crate) fn has_gateway(&self) -> bool {
        self.hops.iter().any(|hop| hop.gateway.is_some())
    }

    /// Adds it to a table, by those of its ways that leave by the interface `index`.
    pub(crate) fn add(&self, table: u32, index: u32, place: Place) -> Request {
        let flags = match place {
            Place::First => NLM_F_CREATE,
            Place::Last => NLM_F_CREATE | NLM_F_APPEND,
            Place::Instead => NLM_F_CREATE | NLM_F_REPLACE,
        };
        Request::new(RouteNetlinkMessage::NewRoute(self.message(table, index)), flags)
    }

    /// Removes it from the table it was in, by its ways that leave by the interface `index`.
    pub(crate) fn delete(&self, index: u32) -> Request {
        Request::new(RouteNetlinkMessage::DelRoute(self.message(self.table, index)), 0)
    }

    fn message(&self, table: u32, index: u32) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader::parse(&self.payload).unwrap_or_default();
        message.header.flags &= RouteFlags::from_bits_retain(ON_LINK.into());
        message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        let all: Vec<_> = attributes(&self.payload, ROUTE_HEADER_LEN).unwrap_or_default();
        let by_object = all.iter().any(|(kind, _)| *kind == RTA_NH_ID);
        let mut push = |kind, value| message.attributes.push(RouteAttribute::Other(DefaultNla::new(kind, value)));
        for (kind, value) in all {
            match kind {
                RTA_TABLE | RTA_EXPIRES => {}
                kind if by_object && SAID_BY_NEXT_HOP_OBJECT.contains(&kind) => {}
                RTA_CACHEINFO => {
                    if let Some(left) = seconds_left(value) {
                        push(RTA_EXPIRES, left.to_ne_bytes().to_vec());
                    }
                }
                RTA_MULTIPATH => push(RTA_MULTIPATH, ways_by(value, index)),
                _ => push(kind, value.to_vec()),
            }
        }
        if u8::try_from(table).is_err() {
            push(RTA_TABLE, table.to_ne_bytes().to_vec());
        }
        message
    }
}

/// An address, with its lifetimes and how it behaves. As text as [`Route`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Address {
    payload: Vec<u8>,
    pub(crate) index: u32,
    pub(crate) address: IpNetwork,
    /// The kernel made it, and makes another one, from an address of its own choice (RFC 8981).
    pub(crate) temporary: bool,
    flags: u32,
}

impl Address {
    /// Reads one IPv6 address. `None`: of another family.
    pub(crate) fn parse(payload: &[u8]) -> Result<Option<Self>, Failure> {
        let header = AddressHeader::parse(payload).map_err(|e| Failure::Malformed(e.to_string()))?;
        if header.family != AddressFamily::Inet6 {
            return Ok(None);
        }
        let (mut local, mut other, mut flags) = (None, None, u32::from(header.flags.bits()));
        for (kind, value) in attributes(payload, ADDRESS_HEADER_LEN)? {
            match kind {
                IFA_LOCAL => local = address(value),
                IFA_ADDRESS => other = address(value),
                IFA_FLAGS => flags = number(value).unwrap_or(flags),
                _ => {}
            }
        }
        let network = local.or(other).and_then(|ip| IpNetwork::new(ip, header.prefix_len).ok());
        let temporary = flags & IFA_F_TEMPORARY != 0;
        Ok(network.map(|address| Self { payload: payload.to_vec(), index: header.index, address, temporary, flags }))
    }

    /// Whether it is good for its link only.
    pub(crate) fn is_link_local(&self) -> bool {
        matches!(self.address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
    }

    /// Adds it again; refused if it is there. One whose examination is over is not examined again; one under examination is
    /// usable meanwhile.
    pub(crate) fn add(&self) -> Request {
        let examined = self.flags & (IFA_F_TENTATIVE | IFA_F_OPTIMISTIC | IFA_F_DADFAILED) == 0;
        let detection = if examined || self.flags & IFA_F_NODAD != 0 { IFA_F_NODAD } else { IFA_F_OPTIMISTIC };
        let mut message = self.message();
        let flags = self.flags & IFA_F_WISHES | detection;
        let flags = DefaultNla::new(IFA_FLAGS, flags.to_ne_bytes().to_vec());
        message.attributes.push(AddressAttribute::Other(flags));
        Request::new(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE)
    }

    /// Removes it.
    pub(crate) fn delete(&self) -> Request {
        Request::new(RouteNetlinkMessage::DelAddress(self.message()), 0)
    }

    fn message(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.prefix_len = self.address.prefix();
        message.header.index = self.index;
        message.header.flags = AddressHeaderFlags::empty();
        message.header.scope = AddressScope::Universe;
        let all = attributes(&self.payload, ADDRESS_HEADER_LEN).unwrap_or_default();
        let kept = all.into_iter().filter(|(kind, _)| *kind != IFA_FLAGS);
        let attribute = |(kind, value): (u16, &[u8])| AddressAttribute::Other(DefaultNla::new(kind, value.to_vec()));
        message.attributes.extend(kept.map(attribute));
        message
    }
}

/// The attributes behind a header of this many bytes.
fn attributes(payload: &[u8], header: usize) -> Result<Vec<(u16, &[u8])>, Failure> {
    let mut found = Vec::new();
    let mut rest = payload.get(header..).unwrap_or_default();
    while !rest.is_empty() {
        let malformed = || Failure::Malformed("attribute that does not fit".to_owned());
        let [a, b, c, d, ..] = *rest else { return Err(malformed()) };
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length).ok_or_else(malformed)?;
        found.push((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, value));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

/// The next hops of a route with several, each with its bytes.
fn hops(value: &[u8]) -> Vec<(Hop, &[u8])> {
    let mut found = Vec::new();
    let mut rest = value;
    while let [a, b, _, _, i, j, k, l, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(bytes) = rest.get(..length).filter(|bytes| bytes.len() >= HOP_HEADER_LEN) else { break };
        let mut hop = Hop { index: u32::from_ne_bytes([i, j, k, l]), gateway: None };
        for (kind, value) in attributes(bytes, HOP_HEADER_LEN).unwrap_or_default() {
            match kind {
                RTA_GATEWAY => hop.gateway = address(value),
                RTA_VIA => hop.gateway = via(value),
                _ => {}
            }
        }
        found.push((hop, bytes));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The bytes of those next hops that leave by this interface, without what the kernel found out about them.
fn ways_by(value: &[u8], index: u32) -> Vec<u8> {
    let mut kept = Vec::new();
    for (_, bytes) in hops(value).into_iter().filter(|(hop, _)| hop.index == index) {
        let flags = |(at, byte): (usize, &u8)| if at == 2 { byte & ON_LINK } else { *byte };
        kept.extend(bytes.iter().enumerate().map(flags));
        kept.resize(kept.len().next_multiple_of(4), 0);
    }
    kept
}

/// How long a route lives on, in seconds; `None`: for ever.
fn seconds_left(value: &[u8]) -> Option<u32> {
    let bytes = value.get(EXPIRES_AT..)?.first_chunk::<4>()?;
    u32::try_from(i32::from_ne_bytes(*bytes).div_euclid(TICKS_PER_S)).ok().filter(|seconds| *seconds > 0)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

/// A gateway of the other family: the number of its family is before it (RFC 5549).
fn via(value: &[u8]) -> Option<IpAddr> {
    address(value.get(2..)?)
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn digits(payload: &[u8]) -> String {
    payload.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(digits: &str) -> Result<Vec<u8>, Failure> {
    let wrong = || Failure::Malformed("message that is not in hexadecimal digits".to_owned());
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    };
    digits.as_bytes().chunks(2).map(pair).collect::<Option<_>>().ok_or_else(wrong)
}

impl From<Route> for String {
    fn from(route: Route) -> Self {
        digits(&route.payload)
    }
}

impl TryFrom<String> for Route {
    type Error = Failure;

    fn try_from(text: String) -> Result<Self, Failure> {
        Self::parse(&bytes(&text)?)?.ok_or_else(|| Failure::Malformed("message that is no unicast route".to_owned()))
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        digits(&address.payload)
    }
}

impl TryFrom<String> for Address {
    type Error = Failure;

    fn try_from(text: String) -> Result<Self, Failure> {
        Self::parse(&bytes(&text)?)?.ok_or_else(|| Failure::Malformed("message that is no IPv6 address".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn hop(flags: u8, index: u32, gateway: [u8; 4]) -> Vec<u8> {
        let gateway = attribute(RTA_GATEWAY, &gateway);
        let length = u16::try_from(gateway.len() + HOP_HEADER_LEN).unwrap();
        [&length.to_ne_bytes()[..], &[flags, 2], &index.to_ne_bytes(), &gateway].concat()
    }

    /// rtmsg (AF_INET, dst_len, src_len, tos, table, protocol, scope, RTN_UNICAST, flags), then attributes.
    fn route(attributes: &[Vec<u8>]) -> Vec<u8> {
        [&[2, 24, 0, 0, 254, 3, 0, 1, 0x10, 0, 0, 0][..], &attributes.concat()].concat()
    }

    fn several() -> Vec<u8> {
        route(&[
            attribute(RTA_TABLE, &254_u32.to_ne_bytes()),
            attribute(RTA_DST, &[192, 0, 2, 0]),
            attribute(RTA_MULTIPATH, &[hop(0x14, 3, [10, 0, 0, 1]), hop(0, 4, [10, 1, 0, 1])].concat()),
            attribute(99, b"unknown"),
            attribute(RTA_CACHEINFO, &[vec![0; 8], 4_250_i32.to_ne_bytes().to_vec(), vec![0; 20]].concat()),
        ])
    }

    fn sent(request: Request) -> (RouteHeader, Vec<u8>) {
        let (RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message)) = request.into_message()
        else {
            panic!()
        };
        let mut bytes = vec![0; message.attributes.as_slice().buffer_len()];
        message.attributes.as_slice().emit(&mut bytes);
        (message.header, bytes)
    }

    #[test]
    fn a_copy_has_every_attribute_and_only_the_interface_s_hops() {
        let read = Route::parse(&several()).unwrap().unwrap();
        assert_eq!((read.uses(4), read.is_of(3), read.has_gateway()), (true, false, true));
        let (header, bytes) = sent(read.add(1000, 3, Place::Last));
        // RTNH_F_LINKDOWN (0x10) is the kernel's finding, RTNH_F_ONLINK (4) a wish.
        assert_eq!((header.flags.bits(), header.table), (0, 0));
        let expected = [
            attribute(RTA_DST, &[192, 0, 2, 0]),
            attribute(RTA_MULTIPATH, &hop(4, 3, [10, 0, 0, 1])),
            attribute(99, b"unknown"),
            attribute(RTA_EXPIRES, &42_u32.to_ne_bytes()),
            attribute(RTA_TABLE, &1000_u32.to_ne_bytes()),
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn a_next_hop_object_says_the_rest_itself() {
        let id = attribute(RTA_NH_ID, &7_u32.to_ne_bytes());
        let by_object = [attribute(RTA_OIF, &3_u32.to_ne_bytes()), id.clone(), attribute(RTA_GATEWAY, &[10, 0, 0, 1])];
        let read = Route::parse(&route(&by_object)).unwrap().unwrap();
        assert!(read.is_of(3));
        assert_eq!(sent(read.delete(3)).1, id);
    }

    #[test]
    fn a_record_gives_the_same_route_and_its_age_is_no_difference() {
        let read = Route::parse(&several()).unwrap().unwrap();
        let text = String::from(read.clone());
        assert_eq!(Route::try_from(text.clone()).unwrap(), read);
        let mut older = several();
        let at = older.len() - 24;
        older[at..at + 4].copy_from_slice(&900_i32.to_ne_bytes());
        let older = Route::parse(&older).unwrap().unwrap();
        assert!(older != read && older.is_same(&read));
        for wrong in ["", "0", "zz", "\u{e4}", &text[..30], "0a1800000000000000000000"] {
            assert!(Route::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_is_examined_again_only_if_it_was_under_examination() {
        // ifaddrmsg (AF_INET6, /64, flags, scope, index 5), IFA_ADDRESS, IFA_FLAGS.
        let address = |flags: u32| {
            let ip = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
            let parts = [attribute(IFA_ADDRESS, &ip), attribute(IFA_FLAGS, &flags.to_ne_bytes())];
            let payload = [&[10, 64, 0x80, 0, 5, 0, 0, 0][..], &parts.concat()].concat();
            Address::parse(&payload).unwrap().unwrap()
        };
        for (flags, again) in [(0x80, 0x02), (0x282, 0x202), (0x44, 0x04), (0xc0, 0x04), (0xc2, 0x02)] {
            let RouteNetlinkMessage::NewAddress(message) = address(flags).add().into_message() else { panic!() };
            let mut bytes = vec![0; message.attributes.as_slice().buffer_len()];
            message.attributes.as_slice().emit(&mut bytes);
            assert!(bytes.ends_with(&attribute(IFA_FLAGS, &u32::to_ne_bytes(again))), "{flags:x}: {bytes:?}");
            assert_eq!((message.header.index, message.header.prefix_len), (5, 64));
        }
        assert!(address(0x81).temporary && !address(0x80).is_link_local());
    }

    #[test]
    fn no_answer_makes_the_readers_panic() {
        let whole = several();
        for length in 0..whole.len() {
            drop(Route::parse(&whole[..length]));
            drop(Address::parse(&whole[..length]));
            for byte in [0, 1, 3, 10, 255] {
                let mut wrong = whole.clone();
                wrong[length] = byte;
                if let Ok(Some(route)) = Route::parse(&wrong) {
                    drop(route.add(1, 3, Place::Instead));
                }
                wrong[0] = 10;
                drop(Address::parse(&wrong).map(|address| address.map(|address| address.add())));
            }
        }
    }
}
