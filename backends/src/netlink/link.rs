//! Messages about links, and what the kernel says about one. Reads only the attributes this crate needs, by itself: a new
//! kernel's statistics can then never make an answer unreadable. Knows no namespace path and no configuration.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NlasIterator};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth,
    InfoVlan, InfoVrf, IpVlanMode, LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkInfo, LinkMessage,
    MacVlanMode,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::Failure;
use super::inet::Inet;
use super::inet6::Inet6;
use super::socket::Request;
use crate::mac::Mac;

/// Multicast group of link changes (`RTNLGRP_LINK`, include/uapi/linux/rtnetlink.h).
pub(crate) const GROUP_LINK: u32 = 1;
/// Message types, as they arrive.
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
pub(super) const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_LINK_NETNSID: u16 = 37;
pub(super) const IFLA_PROP_LIST: u16 = 52;
pub(super) const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_PERM_ADDRESS: u16 = 54;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// The kind of its controller, which comes before the data of the link as that one's port.
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
/// Of a bridge's port: hairpin mode, isolation (8 bits).
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
/// The mode is attribute 1 of both macvlan's (32 bits) and ipvlan's (16 bits) data, the id that of vlan's (16 bits), the table
/// that of vrf's (32 bits).
const IFLA_KIND_NUMBER: u16 = 1;
/// In a bridge's data.
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
pub(super) const NLA_F_NESTED: u16 = 1 << 15;
/// The header of a link message (`struct ifinfomsg`), in bytes.
pub(super) const HEADER_LEN: usize = 16;

/// What is created, beyond what all links have.
#[derive(Debug, Clone)]
pub(crate) enum Shape<'a> {
    /// Whether it forwards by VLAN (`IFLA_BR_VLAN_FILTERING`).
    Bridge {
        vlan_filtering: bool,
    },
    /// The other end, created in its own namespace at once.
    Veth(Box<NewLink<'a>>),
    /// `MACVLAN_MODE_*` and the length of the queue for broadcasts.
    Macvlan {
        mode: u32,
        bc_queue_len: Option<u32>,
    },
    /// `IPVLAN_MODE_*`
    Ipvlan(u16),
    /// The id of IEEE 802.1Q.
    Vlan(u16),
    Dummy,
    /// The table that its ports' routes are in.
    Vrf(u32),
    /// What is redirected to it comes back where it was, after its own discipline.
    Ifb,
    /// A veth's other end has no shape of its own.
    Peer,
}

/// A link to create with all its attributes in one message.
#[derive(Debug, Clone)]
pub(crate) struct NewLink<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: Shape<'a>,
    pub(crate) mtu: Option<u32>,
    pub(crate) mac: Option<Mac>,
    pub(crate) group: Option<u32>,
    /// How many packets the discipline of the kernel's choice lets wait (`IFLA_TXQLEN`).
    pub(crate) queue_len: Option<u32>,
    /// The lower device, in the namespace of the socket.
    pub(crate) parent: Option<u32>,
    /// The bridge or VRF it becomes a port of.
    pub(crate) controller: Option<u32>,
    /// The namespace it appears in. `None`: the socket's.
    pub(crate) netns: Option<BorrowedFd<'a>>,
    pub(crate) up: bool,
}

impl<'a> NewLink<'a> {
    pub(crate) fn new(name: &'a str, shape: Shape<'a>) -> Self {
        Self {
            name,
            shape,
            mtu: None,
            mac: None,
            group: None,
            queue_len: None,
            parent: None,
            controller: None,
            netns: None,
            up: false,
        }
    }

    /// The request: never touches an existing link.
    pub(crate) fn request(&self) -> Request {
        Request::new(RouteNetlinkMessage::NewLink(self.message()), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(crate) fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        if self.up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        let attributes = &mut message.attributes;
        attributes.push(LinkAttribute::IfName(self.name.to_owned()));
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
        attributes.extend(self.group.map(LinkAttribute::Group));
        attributes.extend(self.queue_len.map(LinkAttribute::TxQueueLen));
        attributes.extend(self.parent.map(LinkAttribute::Link));
        attributes.extend(self.controller.map(LinkAttribute::Controller));
        attributes.extend(self.netns.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
        attributes.extend(self.shape.info().map(LinkAttribute::LinkInfo));
        message
    }
}

impl Shape<'_> {
    fn info(&self) -> Option<Vec<LinkInfo>> {
        let (kind, data) = match self {
            Self::Peer => return None,
            Self::Bridge { vlan_filtering } => {
                let filtering = vlan_filtering.then(|| InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)]));
                (InfoKind::Bridge, filtering)
            }
            Self::Veth(peer) => (InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(peer.message())))),
            Self::Macvlan { mode, bc_queue_len } => {
                let mut data = vec![InfoMacVlan::Mode(MacVlanMode::from(*mode))];
                data.extend(bc_queue_len.map(InfoMacVlan::BcQueueLen));
                (InfoKind::MacVlan, Some(InfoData::MacVlan(data)))
            }
            Self::Vlan(id) => (InfoKind::Vlan, Some(InfoData::Vlan(vec![InfoVlan::Id(*id)]))),
            Self::Dummy => (InfoKind::Dummy, None),
            Self::Vrf(table) => (InfoKind::Vrf, Some(InfoData::Vrf(vec![InfoVrf::TableId(*table)]))),
            Self::Ifb => (InfoKind::Ifb, None),
            Self::Ipvlan(mode) => {
                (InfoKind::IpVlan, Some(InfoData::IpVlan(vec![InfoIpVlan::Mode(IpVlanMode::from(*mode))])))
            }
        };
        Some(std::iter::once(LinkInfo::Kind(kind)).chain(data.map(LinkInfo::Data)).collect())
    }
}

/// What this crate reads of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    /// The hardware address as text, of whatever length: an InfiniBand one has 20 bytes.
    pub(crate) address: String,
    /// The hardware address it was made with; physical devices and few others have one.
    pub(crate) permanent: Option<Mac>,
    /// What somebody wrote to it, 255 bytes at most.
    pub(crate) alias: String,
    /// Other names that it is found by (Linux 5.5).
    pub(crate) alt_names: Vec<String>,
    /// Those of them that are no UTF-8: the kernel takes any bytes.
    pub(crate) unreadable_names: Vec<Vec<u8>>,
    /// The device it belongs to, by its name on its bus: a PCI address (Linux 5.14).
    pub(crate) bus_device: String,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    /// RFC 2863 operational state; 6 is up (`IF_OPER_UP`).
    pub(crate) oper_state: u8,
    /// Set promiscuous by request.
    pub(crate) promiscuous: bool,
    /// How many have it promiscuous: whoever asked, and whoever captures packets.
    pub(crate) promiscuity: u32,
    /// Receives all multicast by request.
    pub(crate) all_multicast: bool,
    /// Length of the transmit queue, in packets.
    pub(crate) tx_queue: u32,
    pub(crate) group: u32,
    /// The kernel's kind: "bridge", "veth", "macvlan"; empty for a physical device.
    pub(crate) kind: String,
    /// The number in the kind's data: the mode of macvlan and ipvlan, the id of vlan, the table of vrf.
    pub(crate) mode: Option<u32>,
    /// The VLAN a bridge puts its new ports into; 0 is none. Not said by a kernel without VLAN filtering.
    pub(crate) default_vlan: Option<u16>,
    /// The lower device, or a veth's other end, in its own namespace's numbers.
    pub(crate) parent: Option<u32>,
    /// Whether `parent` is in another namespace.
    pub(crate) parent_elsewhere: bool,
    /// The bridge or VRF it is a port of.
    pub(crate) controller: Option<u32>,
    /// As a port it sends frames back where they came from.
    pub(crate) hairpin: bool,
    /// As a port it reaches no other isolated one.
    pub(crate) isolated: bool,
    /// IPv4 on it; none where it has none.
    pub(crate) inet: Option<Inet>,
    /// IPv6 on it; none where it has none.
    pub(crate) inet6: Option<Inet6>,
}

impl Link {
    /// RFC 2863 state "up".
    pub(crate) const OPER_UP: u8 = 6;

    /// The hardware address in the text form of results, "" where there is none.
    pub(crate) fn mac_text(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Failure> {
        let header = LinkHeader::parse(payload).map_err(|e| Failure::Malformed(e.to_string()))?;
        let mut link = Self {
            index: header.index,
            up: header.flags.contains(LinkFlags::Up),
            promiscuous: header.flags.contains(LinkFlags::Promisc),
            all_multicast: header.flags.contains(LinkFlags::Allmulti),
            loopback: header.flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in NlasIterator::new(payload.get(HEADER_LEN..).unwrap_or_default()) {
            let attribute = attribute.map_err(|e| Failure::Malformed(e.to_string()))?;
            let value = attribute.value();
            match attribute.kind() {
                IFLA_ADDRESS => {
                    link.mac = <[u8; 6]>::try_from(value).ok().map(Mac::new);
                    link.address = value.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
                }
                IFLA_PERM_ADDRESS => link.permanent = <[u8; 6]>::try_from(value).ok().map(Mac::new),
                IFLA_IFALIAS => link.alias = text(value),
                IFLA_IFNAME => link.name = text(value),
                IFLA_MTU => link.mtu = number(value)?,
                IFLA_LINK => link.parent = Some(number(value)?),
                IFLA_LINK_NETNSID => link.parent_elsewhere = true,
                IFLA_TXQLEN => link.tx_queue = number(value)?,
                IFLA_MASTER => link.controller = Some(number(value)?),
                IFLA_OPERSTATE => link.oper_state = value.first().copied().unwrap_or_default(),
                IFLA_GROUP => link.group = number(value)?,
                IFLA_PROMISCUITY => link.promiscuity = number(value)?,
                IFLA_LINKINFO => link.parse_info(value)?,
                IFLA_AF_SPEC => (link.inet, link.inet6) = (Inet::parse(value), Inet6::parse(value)),
                IFLA_PARENT_DEV_NAME => link.bus_device = text(value),
                IFLA_PROP_LIST => link.parse_names(value),
                _ => {}
            }
        }
        Ok(link)
    }

    fn parse_names(&mut self, list: &[u8]) {
        let names = NlasIterator::new(list).map_while(Result::ok).filter(|name| name.kind() == IFLA_ALT_IFNAME);
        for name in names {
            match std::str::from_utf8(without_end(name.value())) {
                Ok(name) => self.alt_names.push(name.to_owned()),
                Err(_) => self.unreadable_names.push(without_end(name.value()).to_owned()),
            }
        }
    }

    fn parse_info(&mut self, info: &[u8]) -> Result<(), Failure> {
        let mut is_bridge_port = false;
        for attribute in NlasIterator::new(info) {
            let attribute = attribute.map_err(|e| Failure::Malformed(e.to_string()))?;
            match attribute.kind() {
                IFLA_INFO_KIND => self.kind = text(attribute.value()),
                IFLA_INFO_DATA if ["macvlan", "ipvlan", "vlan", "vrf"].contains(&self.kind.as_str()) => {
                    self.mode = small_number(attribute.value(), IFLA_KIND_NUMBER);
                }
                IFLA_INFO_DATA if self.kind == "bridge" => {
                    let vlan = small_number(attribute.value(), IFLA_BR_VLAN_DEFAULT_PVID);
                    self.default_vlan = vlan.and_then(|vlan| vlan.try_into().ok());
                }
                IFLA_INFO_SLAVE_KIND => is_bridge_port = text(attribute.value()) == "bridge",
                IFLA_INFO_SLAVE_DATA if is_bridge_port => {
                    let is_set = |kind| flag(attribute.value(), kind);
                    self.hairpin = is_set(IFLA_BRPORT_MODE);
                    self.isolated = is_set(IFLA_BRPORT_ISOLATED);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A number of 16 or 32 bits among the attributes of a kind's data.
fn small_number(attributes: &[u8], kind: u16) -> Option<u32> {
    let attribute = NlasIterator::new(attributes).map_while(Result::ok).find(|attribute| attribute.kind() == kind)?;
    match *attribute.value() {
        [a, b] => Some(u32::from(u16::from_ne_bytes([a, b]))),
        [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d])),
        _ => None,
    }
}

/// An attribute of 8 bits that is there and not zero.
fn flag(attributes: &[u8], kind: u16) -> bool {
    let attribute = NlasIterator::new(attributes).map_while(Result::ok).find(|attribute| attribute.kind() == kind);
    attribute.is_some_and(|attribute| attribute.value().first().is_some_and(|value| *value != 0))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(without_end(value)).into_owned()
}

/// The bytes of a text, without the zero after them.
fn without_end(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).unwrap_or(value)
}

fn number(value: &[u8]) -> Result<u32, Failure> {
    let bytes = value.try_into().map_err(|_| Failure::Malformed(format!("number of {} bytes", value.len())))?;
    Ok(u32::from_ne_bytes(bytes))
}

/// The index in an announced removal. `None`: a bridge lost a port (family `AF_BRIDGE`), the link may live on. The same of an
/// announced link: `None`: a bridge's own view of its port.
pub(crate) fn gone(payload: &[u8]) -> Option<u32> {
    let header = LinkHeader::parse(payload).ok()?;
    (header.interface_family == AddressFamily::Unspec).then_some(header.index)
}

/// Statistics make most of an answer and nobody here reads them.
fn question(attribute: Option<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.extend(attribute);
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

/// The longest name of a link, in bytes (`IFNAMSIZ` with its end, include/uapi/linux/if.h).
pub(crate) const NAME_BYTES_MAX: usize = 15;

/// Asks for one link by its name or an alternative one: the kernel looks for either, and takes a longer one as the latter only.
pub(crate) fn by_name(name: &str) -> RouteNetlinkMessage {
    let attribute = if name.len() > NAME_BYTES_MAX {
        LinkAttribute::Other(DefaultNla::new(IFLA_ALT_IFNAME, [name.as_bytes(), &[0]].concat()))
    } else {
        LinkAttribute::IfName(name.to_owned())
    };
    RouteNetlinkMessage::GetLink(question(Some(attribute)))
}

/// Asks for one link by its index.
pub(crate) fn by_index(index: u32) -> RouteNetlinkMessage {
    let mut message = question(None);
    message.header.index = index;
    RouteNetlinkMessage::GetLink(message)
}

/// Asks for all links.
pub(crate) fn all() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(question(None))
}

/// Asks for the ports of a bridge.
pub(crate) fn ports_of(controller: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(question(Some(LinkAttribute::Controller(controller))))
}

/// Asks for all ifbs. A kernel before 4.20, or one that has no ifb yet, lists all links.
pub(crate) fn ifbs() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(question(Some(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]))))
}

/// A change of an existing link, found by its index.
pub(super) fn change(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Sets a link up or down.
pub(crate) fn set_up(index: u32, up: bool) -> Request {
    let mut message = change(index);
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Up;
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Sets a bridge up and, where wanted, promiscuous.
pub(crate) fn set_up_promiscuous(index: u32, promiscuous: bool) -> Request {
    let mut message = change(index);
    message.header.flags = if promiscuous { LinkFlags::Up | LinkFlags::Promisc } else { LinkFlags::Up };
    message.header.change_mask = message.header.flags;
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Sets the hardware address; a bridge keeps an address that was set, whatever ports come and go.
pub(crate) fn set_mac(index: u32, mac: Mac) -> Request {
    let mut message = change(index);
    message.attributes.push(LinkAttribute::Address(mac.octets().to_vec()));
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Renames a link, which is down.
pub(crate) fn rename(index: u32, name: &str) -> Request {
    let mut message = change(index);
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Writes a link's alias.
pub(crate) fn set_alias(index: u32, alias: &str) -> Request {
    let mut message = change(index);
    message.attributes.push(alias_attribute(alias));
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Without a final zero, as `ip` sends it: no bytes are no alias.
fn alias_attribute(alias: &str) -> LinkAttribute {
    LinkAttribute::Other(DefaultNla::new(IFLA_IFALIAS, alias.as_bytes().to_vec()))
}

/// Moves a link into another namespace, under another name and with another alias. The kernel sets it down first, and takes the
/// name and the alias when it is there already (net/core/rtnetlink.c, do_setlink): after a refusal it may be in either.
pub(crate) fn relocate(index: u32, netns: BorrowedFd<'_>, name: &str, alias: &str) -> Request {
    let mut message = change(index);
    message.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(alias_attribute(alias));
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Sets what a link could not be given when it was made.
pub(crate) fn set_properties(
    index: u32,
    mtu: Option<u32>,
    mac: Option<Mac>,
    group: Option<u32>,
    controller: Option<u32>,
) -> Request {
    let mut message = change(index);
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    message.attributes.extend(group.map(LinkAttribute::Group));
    message.attributes.extend(controller.map(LinkAttribute::Controller));
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Makes a link a port of a bridge or VRF; 0: of none any more.
pub(crate) fn set_controller(index: u32, controller: u32) -> Request {
    set_properties(index, None, None, None, Some(controller))
}

/// Puts a link into a device group.
pub(crate) fn set_group(index: u32, group: u32) -> Request {
    let mut message = change(index);
    message.attributes.push(LinkAttribute::Group(group));
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Sets what a bridge's port does beyond the default.
pub(crate) fn set_bridge_port(index: u32, hairpin: bool, isolated: bool) -> Request {
    let mut message = change(index);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::HairpinMode(hairpin),
            InfoBridgePort::Isolated(isolated),
        ])),
    ]));
    // Port data is read from NEWLINK only, and without NLM_F_CREATE that changes the link of this index.
    Request::new(RouteNetlinkMessage::NewLink(message), 0)
}

/// One attribute, filled up to a multiple of four bytes, which its length does not count.
pub(super) fn padded(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = plain(kind, value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// One attribute whose value is a multiple of four bytes long.
pub(super) fn plain(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes()[..], value].concat()
}

pub(super) fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    plain(kind | NLA_F_NESTED, value)
}

/// Deletes one link.
pub(crate) fn delete(index: u32) -> Request {
    Request::new(RouteNetlinkMessage::DelLink(change(index)), 0)
}

/// Deletes all links of a device group in the socket's namespace: index 0 and a group (rtnl_group_dellink, net/core/rtnetlink.c).
pub(crate) fn delete_group(group: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Unspec;
    message.attributes.push(LinkAttribute::Group(group));
    RouteNetlinkMessage::DelLink(message)
}

/// The creating message's payload, for tests by value.
#[cfg(test)]
pub(crate) fn created_bytes(link: &NewLink<'_>) -> Vec<u8> {
    use netlink_packet_core::Emitable;
    let message = link.message();
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A veth pair with everything a builder sets.
    fn pair(pod: BorrowedFd<'_>) -> Vec<u8> {
        let peer = NewLink {
            mtu: Some(1400),
            mac: Some(Mac::new([2, 0, 0, 0, 0, 1])),
            group: Some(7),
            netns: Some(pod),
            ..NewLink::new("eth0", Shape::Peer)
        };
        let host = NewLink { controller: Some(3), up: true, ..NewLink::new("veth0", Shape::Veth(Box::new(peer))) };
        created_bytes(&host)
    }

    #[test]
    fn a_pair_is_one_message_with_both_ends() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let pod = std::os::fd::AsFd::as_fd(&file);
        let fd = u8::try_from(pod.as_raw_fd()).unwrap();
        // ifinfomsg (IFF_UP, changed), IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO { kind, data { peer: ifinfomsg (not up,
        // for its other end is not there yet), IFLA_IFNAME, IFLA_MTU, IFLA_ADDRESS, IFLA_GROUP, IFLA_NET_NS_FD } }.
        let expected: &[&[u8]] = &[
            &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
            &[10, 0, 3, 0, b'v', b'e', b't', b'h', b'0', 0, 0, 0],
            &[8, 0, 10, 0, 3, 0, 0, 0],
            &[88, 0, 18, 0, 9, 0, 1, 0, b'v', b'e', b't', b'h', 0, 0, 0, 0],
            &[72, 0, 2, 0, 68, 0, 1, 0],
            &[0; 16],
            &[9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0],
            &[8, 0, 4, 0, 0x78, 5, 0, 0],
            &[10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0],
            &[8, 0, 27, 0, 7, 0, 0, 0],
            &[8, 0, 28, 0, fd, 0, 0, 0],
        ];
        assert_eq!(pair(pod), expected.concat());
    }

    #[test]
    fn no_answer_makes_the_reader_panic() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let whole = pair(std::os::fd::AsFd::as_fd(&file));
        assert_eq!(Link::parse(&whole).unwrap().kind, "veth");
        for length in 0..whole.len() {
            drop(Link::parse(&whole[..length]));
            for byte in [0, 1, 3, 255] {
                let mut wrong = whole.clone();
                wrong[length] = byte;
                drop(Link::parse(&wrong));
            }
        }
        assert!(matches!(Link::parse(&whole[..10]), Err(Failure::Malformed(_))));
    }
}
