//! What a physical function is told about its virtual functions, and what it says of them. Reads and writes the attributes by
//! itself, like links. Knows no PCI address and no rule of what is told when.

use netlink_packet_core::{DefaultNla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask};
use serde::{Deserialize, Serialize};

use super::error::Failure;
use super::link::{HEADER_LEN, change};
use super::socket::Request;
use crate::guid::Guid;
use crate::mac::Mac;

/// Room for the answer about a physical function with 256 virtual ones, in bytes: 200 for each, 340 from a kernel that counts
/// their packets whatever it is asked (before Linux 6.6).
pub(crate) const ANSWER_BYTES_MAX: usize = 256 * 1024;

const IFLA_NUM_VF: u16 = 21;
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const IFLA_VF_SPOOFCHK: u16 = 4;
const IFLA_VF_LINK_STATE: u16 = 5;
const IFLA_VF_RATE: u16 = 6;
const IFLA_VF_TRUST: u16 = 9;
const IFLA_VF_IB_NODE_GUID: u16 = 10;
const IFLA_VF_IB_PORT_GUID: u16 = 11;
const IFLA_VF_VLAN_LIST: u16 = 12;
const IFLA_VF_VLAN_INFO: u16 = 1;
const NLA_F_NESTED: u16 = 1 << 15;
/// The length of a hardware address in `struct ifla_vf_mac`, in bytes.
const MAC_LEN: usize = 32;
/// The header of an attribute, in bytes.
const NLA_HEADER_LEN: usize = 4;
/// A customer's tag (`ETH_P_8021Q`).
pub(crate) const PROTO_8021Q: u16 = 0x8100;
/// What a driver that does not tell a setting leaves in its place.
const UNTOLD: u32 = u32::MAX;

/// How a physical function has one of its virtual functions set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The hardware address that its administrator gave it; zero where nobody did.
    pub mac: Mac,
    /// The VLAN that its frames are tagged with; 0 is none.
    pub vlan: u32,
    /// The priority in those tags.
    pub qos: u32,
    /// The protocol of those tags: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub proto: u16,
    /// The rate it is promised, in Mbit/s; 0 is none.
    pub min_rate: u32,
    /// The rate it is held to, in Mbit/s; 0 is none.
    pub max_rate: u32,
    /// Whether frames of a foreign source address are dropped; none where the driver does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoof_check: Option<bool>,
    /// Whether it may change what only its administrator may; none where the driver does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<bool>,
    /// `IFLA_VF_LINK_STATE_*`: 0 as the port, 1 always up, 2 always down.
    pub link_state: u32,
    /// Its GUIDs as a node and as a port of InfiniBand; none where the driver does not tell, or it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_guid: Option<Guid>,
    /// As above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_guid: Option<Guid>,
}

/// One thing to tell a physical function about a virtual one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Vlan { id: u32, qos: u32, proto: u16 },
    Mac(Mac),
    Rate { min: u32, max: u32 },
    SpoofCheck(bool),
    Trust(bool),
    LinkState(u32),
    NodeGuid(Guid),
    PortGuid(Guid),
}

impl Change {
    /// The attribute inside `IFLA_VF_INFO` (include/uapi/linux/if_link.h).
    fn attribute(self, vf: u32) -> Vec<u8> {
        match self {
            Self::Mac(mac) => {
                let mut address = [0; MAC_LEN];
                address.iter_mut().zip(mac.octets()).for_each(|(to, from)| *to = from);
                attribute(IFLA_VF_MAC, &[&vf.to_ne_bytes()[..], &address].concat())
            }
            // The older message, which every kernel knows, has no room for another protocol.
            Self::Vlan { id, qos, proto: PROTO_8021Q } => attribute(IFLA_VF_VLAN, &numbers(&[vf, id, qos])),
            Self::Vlan { id, qos, proto } => {
                let info = [&numbers(&[vf, id, qos])[..], &proto.to_be_bytes(), &[0; 2]].concat();
                attribute(IFLA_VF_VLAN_LIST | NLA_F_NESTED, &attribute(IFLA_VF_VLAN_INFO, &info))
            }
            Self::Rate { min, max } => attribute(IFLA_VF_RATE, &numbers(&[vf, min, max])),
            Self::SpoofCheck(on) => attribute(IFLA_VF_SPOOFCHK, &numbers(&[vf, u32::from(on)])),
            Self::Trust(on) => attribute(IFLA_VF_TRUST, &numbers(&[vf, u32::from(on)])),
            Self::LinkState(state) => attribute(IFLA_VF_LINK_STATE, &numbers(&[vf, state])),
            Self::NodeGuid(guid) => attribute(IFLA_VF_IB_NODE_GUID, &numbered(vf, guid)),
            Self::PortGuid(guid) => attribute(IFLA_VF_IB_PORT_GUID, &numbered(vf, guid)),
        }
    }

    /// The request to the physical function of this index.
    pub(crate) fn request(self, pf: u32, vf: u32) -> Request {
        let mut message = change(pf);
        let list = attribute(IFLA_VF_INFO | NLA_F_NESTED, &self.attribute(vf));
        message.attributes.push(LinkAttribute::Other(DefaultNla::new(IFLA_VFINFO_LIST | NLA_F_NESTED, list)));
        Request::new(RouteNetlinkMessage::SetLink(message), 0)
    }
}

/// `struct ifla_vf_guid`: the compiler fills the first number up to eight bytes.
fn numbered(vf: u32, guid: Guid) -> Vec<u8> {
    [&numbers(&[vf, 0])[..], &guid.number().to_ne_bytes()].concat()
}

fn numbers(all: &[u32]) -> Vec<u8> {
    all.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// One attribute. All values here are a multiple of four bytes long.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + NLA_HEADER_LEN).unwrap_or(u16::MAX);
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
}

/// Asks a physical function for its virtual functions. Their statistics make most of an answer that some kernels cut.
pub(crate) fn question(pf: u32) -> RouteNetlinkMessage {
    let mut message = change(pf);
    let mask = vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats];
    message.attributes.push(LinkAttribute::ExtMask(mask));
    RouteNetlinkMessage::GetLink(message)
}

/// The settings of one virtual function in the answer; none where the physical function has no such function.
pub(crate) fn parse(payload: &[u8], vf: u32) -> Result<Option<Settings>, Failure> {
    let mut rest = payload.get(HEADER_LEN..).unwrap_or_default();
    let mut count = 0;
    while let Some((kind, value, next)) = first(rest) {
        match kind {
            IFLA_NUM_VF => count = number(value, 0).unwrap_or_default(),
            // Its length has 16 bits and wraps where there are many: its entries are counted instead.
            IFLA_VFINFO_LIST => return of_list(rest.get(NLA_HEADER_LEN..).unwrap_or_default(), count, vf),
            _ => {}
        }
        rest = next;
    }
    Ok(None)
}

/// Kind and value of the first attribute, and what comes after it.
fn first(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let ([a, b, c, d], _) = bytes.split_first_chunk::<NLA_HEADER_LEN>()?;
    let length = usize::from(u16::from_ne_bytes([*a, *b]));
    let value = bytes.get(NLA_HEADER_LEN..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16::from_ne_bytes([*c, *d]) & !NLA_F_NESTED, value, next))
}

fn of_list(mut rest: &[u8], count: u32, vf: u32) -> Result<Option<Settings>, Failure> {
    for _ in 0..count {
        let Some((IFLA_VF_INFO, value, next)) = first(rest) else {
            return Err(Failure::Malformed("a list of virtual functions that ends early".to_owned()));
        };
        if let Some(settings) = of_entry(value, vf)? {
            return Ok(Some(settings));
        }
        rest = next;
    }
    Ok(None)
}

impl Settings {
    /// Those of a function that nobody has set up, as far as all drivers have them.
    pub(crate) fn unset() -> Self {
        Self {
            mac: Mac::new([0; 6]),
            vlan: 0,
            qos: 0,
            proto: PROTO_8021Q,
            min_rate: 0,
            max_rate: 0,
            spoof_check: None,
            trust: None,
            link_state: 0,
            node_guid: None,
            port_guid: None,
        }
    }
}

/// Every attribute begins with the number of its function.
fn of_entry(entry: &[u8], vf: u32) -> Result<Option<Settings>, Failure> {
    let mut settings = Settings::unset();
    let mut is_it = false;
    for attribute in NlasIterator::new(entry) {
        let attribute = attribute.map_err(|e| Failure::Malformed(e.to_string()))?;
        let value = attribute.value();
        let at = |place: usize| number(value, place);
        let told =
            |place: usize| at(place).map(|setting| Some(setting).filter(|set| *set != UNTOLD).map(|set| set != 0));
        match attribute.kind() {
            IFLA_VF_MAC => {
                is_it = at(0)? == vf;
                let octets = value.get(4..10).and_then(|octets| <[u8; 6]>::try_from(octets).ok());
                settings.mac = Mac::new(octets.ok_or_else(|| short(value))?);
            }
            IFLA_VF_VLAN => (settings.vlan, settings.qos) = (at(1)?, at(2)?),
            IFLA_VF_VLAN_LIST => settings.proto = proto(value).unwrap_or(PROTO_8021Q),
            IFLA_VF_RATE => (settings.min_rate, settings.max_rate) = (at(1)?, at(2)?),
            IFLA_VF_SPOOFCHK => settings.spoof_check = told(1)?,
            IFLA_VF_TRUST => settings.trust = told(1)?,
            IFLA_VF_LINK_STATE => settings.link_state = at(1)?,
            IFLA_VF_IB_NODE_GUID => settings.node_guid = guid(value),
            IFLA_VF_IB_PORT_GUID => settings.port_guid = guid(value),
            _ => {}
        }
        if !is_it {
            return Ok(None);
        }
    }
    Ok(Some(settings).filter(|_| is_it))
}

/// The protocol of the first VLAN (`struct ifla_vf_vlan_info`).
fn proto(list: &[u8]) -> Option<u16> {
    let (_, info, _) = first(list)?;
    let [a, b] = *info.get(12..14)? else { return None };
    Some(u16::from_be_bytes([a, b])).filter(|proto| *proto != 0)
}

/// A GUID that is somebody's: drivers write zero where there is none.
fn guid(value: &[u8]) -> Option<Guid> {
    let number = u64::from_ne_bytes(value.get(8..16)?.try_into().ok()?);
    Some(number).filter(|number| *number != 0).map(Guid::new)
}

/// The number at a place, counted in numbers.
fn number(value: &[u8], place: usize) -> Result<u32, Failure> {
    let bytes = value.get(place * 4..place * 4 + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    bytes.map(u32::from_ne_bytes).ok_or_else(|| short(value))
}

fn short(value: &[u8]) -> Failure {
    Failure::Malformed(format!("{} bytes about a virtual function", value.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(change: Change) -> Vec<u8> {
        let RouteNetlinkMessage::SetLink(message) = change.request(2, 3).into_message() else { panic!() };
        let mut bytes = vec![0; netlink_packet_core::Emitable::buffer_len(&message)];
        netlink_packet_core::Emitable::emit(&message, &mut bytes);
        let (header, rest) = bytes.split_at(HEADER_LEN);
        assert_eq!(header, [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        rest.to_vec()
    }

    #[test]
    fn each_change_is_one_attribute_of_one_function() {
        // IFLA_VFINFO_LIST { IFLA_VF_INFO { the attribute: its function, then its values } }.
        let guid = Guid::new(0xc211_2233_4455_6677);
        let guid_bytes = guid.number().to_ne_bytes();
        let cases: [(Change, &[&[u8]]); 10] = [
            (
                Change::Mac(Mac::new([2, 0, 0, 0, 0, 7])),
                &[&[48, 0, 22, 128, 44, 0, 1, 128, 40, 0, 1, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0, 7], &[0; 26]],
            ),
            (
                Change::Vlan { id: 100, qos: 5, proto: PROTO_8021Q },
                &[&[24, 0, 22, 128, 20, 0, 1, 128, 16, 0, 2, 0, 3, 0, 0, 0, 100, 0, 0, 0, 5, 0, 0, 0]],
            ),
            (
                Change::Vlan { id: 100, qos: 5, proto: 0x88a8 },
                &[
                    &[32, 0, 22, 128, 28, 0, 1, 128, 24, 0, 12, 128, 20, 0, 1, 0],
                    &[3, 0, 0, 0, 100, 0, 0, 0, 5, 0, 0, 0, 0x88, 0xa8, 0, 0],
                ],
            ),
            (
                Change::Rate { min: 1, max: 2 },
                &[&[24, 0, 22, 128, 20, 0, 1, 128, 16, 0, 6, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]],
            ),
            (Change::SpoofCheck(false), &[&[20, 0, 22, 128, 16, 0, 1, 128, 12, 0, 4, 0, 3, 0, 0, 0, 0, 0, 0, 0]]),
            (Change::SpoofCheck(true), &[&[20, 0, 22, 128, 16, 0, 1, 128, 12, 0, 4, 0, 3, 0, 0, 0, 1, 0, 0, 0]]),
            (Change::Trust(true), &[&[20, 0, 22, 128, 16, 0, 1, 128, 12, 0, 9, 0, 3, 0, 0, 0, 1, 0, 0, 0]]),
            (Change::LinkState(2), &[&[20, 0, 22, 128, 16, 0, 1, 128, 12, 0, 5, 0, 3, 0, 0, 0, 2, 0, 0, 0]]),
            (
                Change::NodeGuid(guid),
                &[&[28, 0, 22, 128, 24, 0, 1, 128, 20, 0, 10, 0, 3, 0, 0, 0, 0, 0, 0, 0], &guid_bytes],
            ),
            (
                Change::PortGuid(guid),
                &[&[28, 0, 22, 128, 24, 0, 1, 128, 20, 0, 11, 0, 3, 0, 0, 0, 0, 0, 0, 0], &guid_bytes],
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(bytes(change), expected.concat(), "{change:?}");
        }
    }

    fn entry(vf: u32, padding: usize) -> Vec<u8> {
        let number = |kind, value| attribute(kind, &numbers(&[vf, value]));
        let all = [
            Change::Mac(Mac::new([2, 0, 0, 0, 0, 7])).attribute(vf),
            attribute(IFLA_VF_VLAN, &numbers(&[vf, 100, 5])),
            attribute(IFLA_VF_RATE, &numbers(&[vf, 10, 20])),
            number(IFLA_VF_SPOOFCHK, 1),
            number(IFLA_VF_TRUST, UNTOLD),
            number(IFLA_VF_LINK_STATE, 2),
            attribute(IFLA_VF_IB_NODE_GUID, &numbered(vf, Guid::new(7))),
            attribute(IFLA_VF_IB_PORT_GUID, &[0; 16]),
            Change::Vlan { id: 100, qos: 5, proto: 0x88a8 }.attribute(vf),
            attribute(8, &vec![0; padding]),
        ];
        attribute(IFLA_VF_INFO, &all.concat())
    }

    /// An answer about so many functions, each with statistics of so many bytes, as the kernel writes it: lengths wrap.
    fn answer(count: u32, padding: usize) -> Vec<u8> {
        let list: Vec<u8> = (0..count).flat_map(|vf| entry(vf, padding)).collect();
        let wrapped = u16::try_from((list.len() + 4) % 65536).unwrap();
        let head = [&wrapped.to_ne_bytes()[..], &IFLA_VFINFO_LIST.to_ne_bytes()].concat();
        let number = attribute(IFLA_NUM_VF, &count.to_ne_bytes());
        [&[0; HEADER_LEN][..], &number, &head, &list, &attribute(99, &[0; 8])].concat()
    }

    #[test]
    fn every_one_of_256_functions_is_found_even_where_the_length_has_wrapped() {
        let expected = Settings {
            mac: Mac::new([2, 0, 0, 0, 0, 7]),
            vlan: 100,
            qos: 5,
            proto: 0x88a8,
            min_rate: 10,
            max_rate: 20,
            spoof_check: Some(true),
            trust: None,
            link_state: 2,
            node_guid: Some(Guid::new(7)),
            port_guid: None,
        };
        for padding in [0, 128] {
            let all = answer(256, padding);
            assert!(all.len() < ANSWER_BYTES_MAX);
            for vf in [0, 199, 255] {
                assert_eq!(parse(&all, vf).unwrap().as_ref(), Some(&expected), "{vf}, {padding}");
            }
            assert_eq!(parse(&all, 256).unwrap(), None);
        }
        assert_eq!(parse(&[0; HEADER_LEN], 0).unwrap(), None);
    }

    #[test]
    fn no_answer_makes_the_reader_panic() {
        let whole = answer(2, 4);
        for length in 0..whole.len() {
            drop(parse(&whole[..length], 1));
            for byte in [0, 1, 3, 255] {
                let mut wrong = whole.clone();
                wrong[length] = byte;
                drop(parse(&wrong, 1));
            }
        }
    }
}
