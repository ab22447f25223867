//! The floor: the bare netlink messages for the state that a plugin leaves, in one process. It reads no configuration,
//! leases no address, checks nothing beyond the kernel's answers and prints nothing. What a plugin takes longer than this
//! is its own.
//!
//! ```text
//! floor empty                      ends at once: what an exec costs
//! floor add NETNS SPEC...          one interface per SPEC
//! floor del NETNS COUNT            removes what add made, ends when the kernel has announced COUNT removals
//! floor del-wait NETNS             what del executes: waits for the kernel's answer
//! floor lease DIR IP OWNER         lock, exclusive create, last_reserved_ip.0
//! floor release DIR IP             lock, remove
//! floor vf-add NETNS PF VF DEVICE IFNAME MAC VLAN IP/PREFIX     a virtual function: its port, its reset, its move, announced
//! floor vf-del NETNS PF VF DEVICE IFNAME MAC                    and back, with its old name and address
//! SPEC = macvlan|bridge|ptp,IFNAME,MASTER,V4,GW4[,V6,GW6]      an address is IP/PREFIX; GW "-": no default route
//! ```

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::fcntl::{Flock, FlockArg};
use nix::net::if_::if_nametoindex;
use nix::sched::CloneFlags;
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;

/// The device group of everything the floor makes: one message removes it.
const GROUP: u32 = 0x0f10;
/// Multicast group of link changes (`RTNLGRP_LINK`, include/uapi/linux/rtnetlink.h).
const GROUP_LINK: u32 = 1;
/// How long an answer or an announcement may take, in seconds.
const ANSWER_SECONDS_MAX: i64 = 10;
/// No answer to these messages is longer; a veth's announcement is about 1.5 kB.
const RECEIVE_BUFFER_BYTES: usize = 32 * 1024;

#[path = "../function.rs"]
mod function;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["empty"] => Ok(()),
        ["add", netns, specs @ ..] => add(netns, specs),
        ["del", netns, count] => count.parse().map_err(Into::into).and_then(|count| del(netns, count)),
        ["del-wait", netns] => del_wait(netns),
        ["lease", dir, ip, owner] => lease(Path::new(dir), ip, owner),
        ["release", dir, ip] => release(Path::new(dir), ip),
        ["vf-add", netns, rest @ ..] => function::add(netns, rest),
        ["vf-del", netns, rest @ ..] => function::del(netns, rest),
        _ => Err("empty | add NETNS SPEC... | del NETNS COUNT | lease DIR IP OWNER | release DIR IP | vf-add ... | vf-del ...".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Macvlan,
    Bridge,
    Ptp,
}

/// One interface to make.
struct Spec<'a> {
    kind: Kind,
    ifname: &'a str,
    master: &'a str,
    /// Address, prefix length, gateway.
    addresses: Vec<(IpAddr, u8, Option<IpAddr>)>,
}

impl<'a> Spec<'a> {
    fn parse(text: &'a str) -> Outcome<Self> {
        let mut fields = text.split(',');
        let mut field = || fields.next().ok_or_else(|| format!("{text} is too short"));
        let kind = match field()? {
            "macvlan" => Kind::Macvlan,
            "bridge" => Kind::Bridge,
            "ptp" => Kind::Ptp,
            other => return Err(format!("no kind {other}").into()),
        };
        let (ifname, master) = (field()?, field()?);
        let mut addresses = Vec::new();
        while let (Some(address), Some(gateway)) = (fields.next(), fields.next()) {
            let (ip, prefix) = address.split_once('/').ok_or("an address needs a prefix length")?;
            let gateway = if gateway == "-" { None } else { Some(gateway.parse()?) };
            addresses.push((ip.parse()?, prefix.parse()?, gateway));
        }
        Ok(Self { kind, ifname, master, addresses })
    }

    /// The message that makes it, with its final name in its final place, sent from the host's namespace.
    fn link(&self, netns: BorrowedFd<'_>) -> Outcome<LinkMessage> {
        let inside = LinkAttribute::NetNsFd(netns.as_raw_fd());
        let mut pod_end = link_message(self.ifname, self.kind == Kind::Macvlan);
        pod_end.attributes.extend([LinkAttribute::Group(GROUP), inside]);
        if self.kind == Kind::Macvlan {
            let mode = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
            pod_end.attributes.push(LinkAttribute::Link(if_nametoindex(self.master)?));
            pod_end
                .attributes
                .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::MacVlan), LinkInfo::Data(mode)]));
            return Ok(pod_end);
        }
        let mut host_end = link_message(&host_end_name(self.ifname), true);
        if self.kind == Kind::Bridge {
            host_end.attributes.push(LinkAttribute::Controller(if_nametoindex(self.master)?));
        }
        // IFLA_INFO_DATA of a veth is the other end, which cannot be made up (ENOTCONN): it gets a message of its own.
        let peer = InfoData::Veth(InfoVeth::Peer(pod_end));
        host_end.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(peer)]));
        Ok(host_end)
    }
}

/// The process id makes it unique among those that run at once; 15 characters are the kernel's limit.
fn host_end_name(ifname: &str) -> String {
    format!("f{}{ifname}", std::process::id())
}

fn link_message(name: &str, up: bool) -> LinkMessage {
    let mut message = LinkMessage::default();
    if up {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    }
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn add(netns: &str, specs: &[&str]) -> Outcome<()> {
    let specs = specs.iter().map(|text| Spec::parse(text)).collect::<Outcome<Vec<_>>>()?;
    let namespace = File::open(netns)?;
    let mut host = Route::open()?;
    for spec in &specs {
        host.request(RouteNetlinkMessage::NewLink(spec.link(namespace.as_fd())?), NLM_F_CREATE | NLM_F_EXCL)?;
        if spec.kind == Kind::Ptp {
            ptp_host(&mut host, spec)?;
        }
    }
    enter(&namespace)?;
    let mut pod = Route::open()?;
    for spec in &specs {
        let index = if_nametoindex(spec.ifname)?;
        if spec.kind != Kind::Macvlan {
            let mut up = link_message(spec.ifname, true);
            up.header.index = index;
            up.attributes.clear();
            pod.request(RouteNetlinkMessage::NewLink(up), 0)?;
        }
        for &(ip, prefix, gateway) in &spec.addresses {
            pod.request(address(index, ip, prefix, spec.kind == Kind::Ptp), NLM_F_CREATE | NLM_F_EXCL)?;
            if let (Kind::Ptp, Some(gateway)) = (spec.kind, gateway) {
                // ptp: everything, the own network too, goes through the host's end.
                pod.request(route(index, Some((gateway, bits(gateway))), None), NLM_F_CREATE | NLM_F_EXCL)?;
                pod.request(route(index, Some((network(ip, prefix), prefix)), Some(gateway)), NLM_F_CREATE)?;
            }
            if gateway.is_some() {
                pod.request(route(index, None, gateway), NLM_F_CREATE | NLM_F_EXCL)?;
            }
        }
    }
    Ok(())
}

/// ptp's host end has the gateway's address and a route to the pod.
fn ptp_host(host: &mut Route, spec: &Spec<'_>) -> Outcome<()> {
    let index = if_nametoindex(host_end_name(spec.ifname).as_str())?;
    for &(ip, _, gateway) in &spec.addresses {
        if let Some(gateway) = gateway {
            host.request(address(index, gateway, bits(gateway), false), NLM_F_CREATE | NLM_F_EXCL)?;
        }
        host.request(route(index, Some((ip, bits(ip))), None), NLM_F_CREATE)?;
    }
    Ok(())
}

fn del(netns: &str, count: usize) -> Outcome<()> {
    let namespace = File::open(netns)?;
    enter(&namespace)?;
    let mut pod = Route::open()?;
    pod.raw.add_membership(GROUP_LINK)?;
    let itself = Path::new("/proc/self/exe");
    let detached: [OsString; 2] = ["del-wait".into(), netns.into()];
    // Nobody waits for it: the process that called this one gets its answer at the announcement.
    Command::new(itself).args(detached).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut removed = 0;
    while removed < count {
        removed += pod.receive()?.iter().filter(|payload| is_removal(payload)).count();
    }
    Ok(())
}

fn is_removal(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    matches!(payload, NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(_)))
}

fn del_wait(netns: &str) -> Outcome<()> {
    enter(&File::open(netns)?)?;
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(GROUP));
    Route::open()?.request(RouteNetlinkMessage::DelLink(message), 0)
}

#[expect(clippy::disallowed_methods, reason = "one thread, which never returns: there is nothing to switch back")]
fn enter(namespace: &File) -> Outcome<()> {
    Ok(nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The address with its host bits cleared.
fn network(ip: IpAddr, prefix: u8) -> IpAddr {
    let host_bits = u32::from(bits(ip).saturating_sub(prefix));
    match ip {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(host_bits).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(host_bits).unwrap_or(0)).into()),
    }
}

fn address(index: u32, ip: IpAddr, prefix: u8, without_route: bool) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = prefix;
    message.header.index = index;
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Nodad, ip.is_ipv6());
    flags.set(AddressFlags::Noprefixroute, without_route);
    message.attributes.extend([AddressAttribute::Local(ip), AddressAttribute::Address(ip)]);
    message.attributes.push(AddressAttribute::Flags(flags));
    RouteNetlinkMessage::NewAddress(message)
}

/// A route to `dst` (`None`: the default route) through `gateway` (`None`: on the link itself).
fn route(index: u32, dst: Option<(IpAddr, u8)>, gateway: Option<IpAddr>) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    if let Some((ip, prefix)) = dst {
        message.header.address_family = family(ip);
        message.header.destination_prefix_length = prefix;
        message.attributes.push(RouteAttribute::Destination(ip.into()));
    }
    if let Some(gateway) = gateway {
        message.header.address_family = family(gateway);
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    message.attributes.push(RouteAttribute::Oif(index));
    RouteNetlinkMessage::NewRoute(message)
}

/// A routing socket in the namespace in which it was opened.
struct Route {
    raw: Socket,
    buffer: Vec<u8>,
}

impl Route {
    fn open() -> Outcome<Self> {
        let mut raw = Socket::new(NETLINK_ROUTE)?;
        raw.bind(&SocketAddr::new(0, 0))?;
        setsockopt(&raw, ReceiveTimeout, &TimeVal::new(ANSWER_SECONDS_MAX, 0))?;
        Ok(Self { raw, buffer: Vec::with_capacity(RECEIVE_BUFFER_BYTES) })
    }

    /// Sends one message and waits for the kernel's answer.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Outcome<()> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.header.sequence_number = 1;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.raw.send(&bytes, 0)?;
        for payload in self.receive()? {
            if let NetlinkPayload::Error(answer) = payload {
                return match answer.code {
                    None => Ok(()),
                    Some(_) => Err(answer.to_io().into()),
                };
            }
        }
        Err(io::Error::other("no answer from the kernel").into())
    }

    fn receive(&mut self) -> Outcome<Vec<NetlinkPayload<RouteNetlinkMessage>>> {
        self.buffer.clear();
        self.raw.recv(&mut self.buffer, 0)?;
        let mut rest = self.buffer.as_slice();
        let mut payloads = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
            let length = usize::try_from(message.header.length)?.next_multiple_of(4);
            payloads.push(message.payload);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(payloads)
    }
}

/// host-local's lock, as the Go plugin and plexus take it.
fn locked(dir: &Path) -> Outcome<Flock<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

fn lease(dir: &Path, ip: &str, owner: &str) -> Outcome<()> {
    let _lock = locked(dir)?;
    File::create_new(dir.join(ip))?.write_all(owner.as_bytes())?;
    Ok(fs::write(dir.join("last_reserved_ip.0"), ip)?)
}

fn release(dir: &Path, ip: &str) -> Outcome<()> {
    let _lock = locked(dir)?;
    Ok(fs::remove_file(dir.join(ip))?)
}
