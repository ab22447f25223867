//! A mapping as elements: where it is looked up, what it leads to, whose it is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

use super::super::masquerade::mark;
use super::super::message::Family;
use super::super::set::{Element, Fields, Key};
use super::layout::{ADDRESS_PORTS, NEAR, PORTS, TABLE};
use super::{Mapping, Ports, Protocol, Snat};
use crate::nft::Owner;

/// Longest comment: nft's limit, so that a listing of it can be loaded. (The kernel's is 251; it loses one of 253.)
const COMMENT_BYTES_MAX: usize = 128;
/// "/128"
const PREFIX_BYTES_MAX: usize = 4;

/// An element that is to be there, for a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) mapping: Mapping,
    pub(super) key: Key,
    pub(super) element: Element,
}

impl Wanted {
    fn new(mapping: &Mapping, key: Key, value: Vec<u8>, comment: &str) -> Self {
        let element = Element { key: key.bytes.clone(), value, comment: comment.to_owned() };
        Self { mapping: *mapping, key, element }
    }

    /// Whether it holds a port, which nobody else may have.
    pub(super) fn is_port(&self) -> bool {
        self.key.set != NEAR
    }
}

/// The family's number.
pub(super) fn family(v6: bool) -> Family {
    if v6 { Family::Ipv6 } else { Family::Ipv4 }
}

/// Where a mapping is looked up; none: not in this family.
pub(super) fn port_key(mapping: &Mapping, v6: bool) -> Option<Key> {
    let (set, fields) = match mapping.place.of(v6)? {
        Some(ip) => (ADDRESS_PORTS, Fields::default().address(ip)),
        None => (PORTS, Fields::default()),
    };
    let bytes = fields.protocol(mapping.protocol.number()).port(mapping.host_port).bytes();
    Some(Key { family: family(v6), table: TABLE, set, bytes })
}

/// Where it is looked up whether what comes from there gets the host's address.
fn near_key(mapping: &Mapping, from: IpAddr, pod: IpAddr) -> Key {
    let fields = Fields::default().address(from).address(pod);
    let bytes = fields.protocol(mapping.protocol.number()).port(mapping.host_port).bytes();
    Key { family: family(pod.is_ipv6()), table: TABLE, set: NEAR, bytes }
}

/// Length of the networks by which a pod's sources are looked up; none: by none.
pub(super) fn prefix(ports: &Ports<'_>, address: IpNetwork) -> Option<u8> {
    match ports.snat {
        Snat::Never => None,
        Snat::Near => Some(address.prefix()),
        Snat::All => Some(0),
    }
}

/// All elements of what is to be added, each key once.
pub(super) fn wanted(ports: &Ports<'_>, owner: &Owner<'_>) -> Vec<Wanted> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for address in ports.addresses {
        let prefix = prefix(ports, *address);
        let [port, near] = [comment(owner, prefix), comment(owner, None)];
        for mapping in ports.mappings {
            let Some(key) = port_key(mapping, address.is_ipv6()) else { continue };
            let value = Fields::default().address(address.ip()).port(mapping.container_port).bytes();
            let nears = near_keys(mapping, address.ip(), prefix).into_iter();
            let elements = nears.map(|key| Wanted::new(mapping, key, Vec::new(), &near));
            let elements = [Wanted::new(mapping, key, value, &port)].into_iter().chain(elements);
            all.extend(elements.filter(|wanted| seen.insert(wanted.key.clone())));
        }
    }
    all
}

/// What is looked up by its source on the way to the pod.
pub(super) fn near_keys(mapping: &Mapping, pod: IpAddr, prefix: Option<u8>) -> Vec<Key> {
    let Some(prefix) = prefix else { return Vec::new() };
    let network = IpNetwork::new(pod, prefix).map(|network| network.network());
    let loopback = (pod.is_ipv4() && prefix > 0).then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    network.into_iter().chain(loopback).map(|from| near_key(mapping, from, pod)).collect()
}

/// The pod's address in the value of a mapping.
pub(super) fn pod_of(element: &Element, v6: bool) -> Option<IpAddr> {
    match v6 {
        false => element.value.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        true => element.value.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
    }
}

/// The protocol in the key of a mapping.
pub(super) fn protocol_of(element: &Element, v6: bool, set: &str) -> Option<Protocol> {
    let at = if set == ADDRESS_PORTS { if v6 { 16 } else { 4 } } else { 0 };
    Protocol::ALL.into_iter().find(|protocol| element.key.get(at) == Some(&protocol.number()))
}

/// As that of a masquerade rule; behind the hashes stands the prefix length of the pod's network, so that whoever removes a
/// mapping finds what belongs to it.
fn comment(owner: &Owner<'_>, prefix: Option<u8>) -> String {
    let Owner { network, sandbox, ifname } = owner;
    let mut text = format!(", net: {network}, if: {ifname}, id: {sandbox}");
    let mark = mark(owner);
    let room = COMMENT_BYTES_MAX - PREFIX_BYTES_MAX - mark.len();
    let border = (0..=room).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(border.unwrap_or_default());
    let prefix = prefix.map_or_else(String::new, |prefix| format!("/{prefix}"));
    format!("{mark}{prefix}{text}")
}

/// What tells an owner's elements.
pub(super) fn of(owner: &Owner<'_>) -> impl Fn(&Element) -> bool {
    let mark = mark(owner);
    move |element| element.comment.starts_with(&mark)
}

/// The prefix length that a comment tells.
pub(super) fn prefix_of(comment: &str) -> Option<u8> {
    comment.split_once(", ")?.0.split_once('/')?.1.parse().ok()
}

/// The comment without the prefix length: the same in all elements of an owner.
pub(in crate::nft) fn without_prefix(comment: &str) -> String {
    match comment.split_once(", ").and_then(|(head, tail)| Some((head.split_once('/')?.0, tail))) {
        Some((head, tail)) => format!("{head}, {tail}"),
        None => comment.to_owned(),
    }
}

/// Network, interface and container id that a comment tells, and whether the last may be cut. None: it tells nobody.
pub(in crate::nft) fn holder(comment: &str) -> Option<(&str, &str, &str, bool)> {
    let (_, told) = comment.split_once(", net: ")?;
    let (network, told) = told.split_once(", if: ")?;
    let (ifname, sandbox) = told.split_once(", id: ")?;
    let is_cut = !comment.starts_with(&mark(&Owner { network, sandbox, ifname }));
    Some((network, ifname, sandbox, is_cut))
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;

    const OWNER: Owner<'_> = Owner { network: "lab", sandbox: "c1", ifname: "eth0" };

    fn mapping(place: Place) -> Mapping {
        Mapping { protocol: Protocol::Tcp, host_port: 8080, place, container_port: 80 }
    }

    fn keys(mappings: &[Mapping], snat: Snat, addresses: &[&str]) -> Vec<(Family, &'static str, Vec<u8>)> {
        let addresses: Vec<IpNetwork> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let ports = Ports { mappings, snat, compatible: false, addresses: &addresses };
        wanted(&ports, &OWNER).into_iter().map(|wanted| (wanted.key.family, wanted.key.set, wanted.key.bytes)).collect()
    }

    #[test]
    fn a_mapping_is_one_element_and_its_sources_are_others() {
        let port = vec![6, 0, 0, 0, 0x1f, 0x90, 0, 0];
        let near = |from: [u8; 4]| [&from[..], &[10, 1, 0, 5], &port].concat();
        let any = [mapping(Place::Any)];
        assert_eq!(keys(&any, Snat::Never, &["10.1.0.5/20"]), [(Family::Ipv4, PORTS, port.clone())]);
        assert_eq!(
            keys(&any, Snat::Near, &["10.1.0.5/20"])[1..],
            [(Family::Ipv4, NEAR, near([10, 1, 0, 0])), (Family::Ipv4, NEAR, near([127, 0, 0, 1]))]
        );
        assert_eq!(keys(&any, Snat::All, &["10.1.0.5/20"])[1..], [(Family::Ipv4, NEAR, near([0; 4]))]);
        assert_eq!(keys(&any, Snat::Near, &["10.1.0.5/20", "fd00::5/64"]).len(), 5);
    }

    #[test]
    fn a_host_s_address_of_the_other_family_maps_nothing() {
        let both = ["10.1.0.5/24", "fd00::5/64"];
        let at = |ip: &str| keys(&[mapping(Place::Address(ip.parse().unwrap()))], Snat::Never, &both);
        assert_eq!(at("192.0.2.1"), [(Family::Ipv4, ADDRESS_PORTS, vec![192, 0, 2, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0])]);
        assert_eq!(at("fd00:9::1").len(), 1);
        assert_eq!(keys(&[mapping(Place::AnyV6)], Snat::Never, &both)[0].0, Family::Ipv6);
        assert_eq!(keys(&[mapping(Place::AnyV4), mapping(Place::Any)], Snat::Never, &both).len(), 2, "each key once");
    }

    #[test]
    fn a_comment_tells_whose_and_how_to_find_the_rest() {
        let text = comment(&OWNER, Some(24));
        assert_eq!(text, "bd5920332d2f73b7-f4d01f2ef4b92245/24, net: lab, if: eth0, id: c1");
        assert_eq!((prefix_of(&text), prefix_of(&comment(&OWNER, None))), (Some(24), None));
        assert_eq!(without_prefix(&text), comment(&OWNER, None));
        assert_eq!(holder(&text), Some(("lab", "eth0", "c1", false)));
        let long = "x".repeat(250);
        let cut = comment(&Owner { sandbox: &long, ..OWNER }, Some(0));
        assert_eq!((cut.len(), holder(&cut).unwrap().3), (COMMENT_BYTES_MAX - 2, true));
        assert_eq!(without_prefix(&cut), comment(&Owner { sandbox: &long, ..OWNER }, None));
        assert_eq!(holder("somebody's"), None);
        let is_own = of(&OWNER);
        let of = |owner: &Owner<'_>| is_own(&Element { key: vec![], value: vec![], comment: comment(owner, None) });
        assert!(of(&OWNER) && !of(&Owner { ifname: "net1", ..OWNER }) && !of(&Owner { network: "lab2", ..OWNER }));
    }
}
