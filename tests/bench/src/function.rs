//! The floor of a virtual function: what its port on the card is told, its reset, its move, its address, and back. The messages that
//! plexus sends for the same, and nothing that it looks up.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use nix::net::if_::if_nametoindex;

use super::{GROUP_LINK, Outcome, Route, address, enter};

// include/uapi/linux/if_link.h
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const NLA_F_NESTED: u16 = 1 << 15;

pub(super) fn add(netns: &str, words: &[&str]) -> Outcome<()> {
    let [pf, vf, device, ifname, mac, vlan, ip] = *words else { return Err("vf-add: seven words".into()) };
    let (namespace, mac, vf) = (File::open(netns)?, octets(mac)?, vf.parse()?);
    let (pf, index) = (if_nametoindex(pf)?, if_nametoindex(device)?);
    let mut host = Route::open()?;
    port(&mut host, pf, vf, &mac, vlan.parse()?)?;
    reset(&mut host, index)?;
    relocate(&mut host, index, &namespace, ifname)?;
    enter(&namespace)?;
    for (tree, key) in [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")] {
        fs::write(format!("/proc/sys/net/{tree}/conf/{ifname}/{key}"), "1")?;
    }
    let (index, mut pod, mut listener) = (if_nametoindex(ifname)?, Route::open()?, Route::open()?);
    listener.raw.add_membership(GROUP_LINK)?;
    let (ip, prefix) = ip.split_once('/').ok_or("an address needs a prefix length")?;
    let ip: IpAddr = ip.parse()?;
    pod.request(address(index, ip, prefix.parse()?, false), NLM_F_CREATE | NLM_F_EXCL)?;
    set_up(&mut pod, index, true)?;
    while fs::read_to_string(format!("/sys/class/net/{ifname}/carrier")).is_ok_and(|carrier| carrier.trim() != "1") {
        listener.receive()?;
    }
    // Once more the address that it has: announces all others.
    change(&mut pod, index, vec![LinkAttribute::Address(mac.to_vec())])
}

pub(super) fn del(netns: &str, words: &[&str]) -> Outcome<()> {
    let [pf, vf, device, ifname, mac] = *words else { return Err("vf-del: five words".into()) };
    let (namespace, home, mac) = (File::open(netns)?, File::open("/proc/self/ns/net")?, octets(mac)?);
    let (pf, vf, mut host) = (if_nametoindex(pf)?, vf.parse()?, Route::open()?);
    enter(&namespace)?;
    let (index, mut pod) = (if_nametoindex(ifname)?, Route::open()?);
    set_up(&mut pod, index, false)?;
    change(&mut pod, index, vec![LinkAttribute::IfName(device.to_owned())])?;
    relocate(&mut pod, index, &home, device)?;
    enter(&home)?;
    port(&mut host, pf, vf, &mac, 0)?;
    reset(&mut host, if_nametoindex(device)?)
}

/// The settings of the port.
fn port(host: &mut Route, pf: u32, vf: u32, mac: &[u8; 6], vlan: u32) -> Outcome<()> {
    let mut address = vf.to_ne_bytes().to_vec();
    address.extend(mac);
    address.resize(36, 0);
    let tag: Vec<u8> = [vf, vlan, 0].iter().flat_map(|number| number.to_ne_bytes()).collect();
    for (kind, value) in [(IFLA_VF_VLAN, tag), (IFLA_VF_MAC, address)] {
        let info = attribute(IFLA_VF_INFO | NLA_F_NESTED, &attribute(kind, &value)?)?;
        change(host, pf, vec![LinkAttribute::Other(DefaultNla::new(IFLA_VFINFO_LIST | NLA_F_NESTED, info))])?;
    }
    Ok(())
}

fn attribute(kind: u16, value: &[u8]) -> Outcome<Vec<u8>> {
    let length = u16::try_from(value.len() + 4)?;
    Ok([&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat())
}

/// It takes the address of its port.
fn reset(host: &mut Route, index: u32) -> Outcome<()> {
    set_up(host, index, true)?;
    set_up(host, index, false)
}

fn relocate(side: &mut Route, index: u32, to: &File, name: &str) -> Outcome<()> {
    let name = LinkAttribute::IfName(name.to_owned());
    change(side, index, vec![LinkAttribute::NetNsFd(to.as_raw_fd()), name])
}

fn change(side: &mut Route, index: u32, attributes: Vec<LinkAttribute>) -> Outcome<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    side.request(RouteNetlinkMessage::SetLink(message), 0)
}

fn set_up(side: &mut Route, index: u32, up: bool) -> Outcome<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    side.request(RouteNetlinkMessage::SetLink(message), 0)
}

fn octets(text: &str) -> Outcome<[u8; 6]> {
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<Vec<_>, _>>()?;
    octets.try_into().map_err(|_| format!("{text} is no hardware address").into())
}
