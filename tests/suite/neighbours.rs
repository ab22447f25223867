//! What neighbours learn of a pod's addresses: the kernel tells them when the pod comes, so that an address that was another
//! pod's answers at once. Seen on the wire, by a packet socket in the host's namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use serde_json::{Value, json};

use crate::call::Side;
use crate::case::Case;
use crate::need::Need;
use crate::testbed::Testbed;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![Case::new("neighbours::an_address_that_moves_answers_at_once", &[Need::Ping], moved)];
    for (kind, needs) in [
        ("bridge", &[][..]),
        ("macvlan", &[Need::Macvlan]),
        ("ipvlan", &[Need::Ipvlan]),
        ("vlan", &[Need::Vlan]),
        ("host-device", &[]),
    ] {
        cases.push(Case::new(format!("neighbours::{kind}::each_address_is_announced"), needs, move || announced(kind)));
    }
    cases
}

/// How long the kernel may take: an optimistic IPv6 address is announced after a second and a random part of another.
const WIRE_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a frame that are read.
const FRAME_BYTES: usize = 256;
const ETHERTYPE_ARP: [u8; 2] = [8, 6];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Every frame of every link of the host's namespace.
struct Wire {
    socket: OwnedFd,
}

impl Wire {
    fn open() -> Self {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll);
        Self { socket: socket.expect("a packet socket in a namespace of our own") }
    }

    /// Reads until each address was announced, each from the hardware address `mac`.
    fn await_announcements(&self, addresses: &[IpAddr], mac: &str) {
        let mut missing = addresses.to_vec();
        let deadline = Instant::now() + WIRE_LIMIT;
        let mut frame = [0; FRAME_BYTES];
        while !missing.is_empty() {
            assert!(Instant::now() < deadline, "nobody announced {missing:?} as {mac}");
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::from(100_u8)).unwrap();
            match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Err(Errno::EAGAIN) => {}
                read => {
                    let announced = announcement(&frame[..read.unwrap()]);
                    missing.retain(|address| announced != Some((*address, mac.to_owned())));
                }
            }
        }
    }
}

/// The address that a frame announces, and the hardware address it does so for: a gratuitous ARP (RFC 5227, 3: sender and target
/// are the same), an unsolicited neighbour advertisement (RFC 4861, 7.2.6: to all nodes, flag S not set).
fn announcement(frame: &[u8]) -> Option<(IpAddr, String)> {
    let text = |mac: &[u8]| mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let kind = frame.get(12..14)?;
    if kind == ETHERTYPE_ARP {
        let (sender, target) = (frame.get(28..32)?, frame.get(38..42)?);
        let address = Ipv4Addr::from(<[u8; 4]>::try_from(sender).ok()?);
        return (sender == target).then(|| (address.into(), text(&frame[22..28])));
    }
    let payload = frame.get(14..).filter(|_| kind == ETHERTYPE_IPV6)?;
    let (next, icmp) = (*payload.get(6)?, payload.get(40..)?);
    if next != ICMPV6 || *icmp.first()? != NEIGHBOUR_ADVERTISEMENT || icmp.get(4)? & 0x40 != 0 {
        return None;
    }
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(icmp.get(8..24)?).ok()?);
    // Option 2: the target's link-layer address.
    let option = icmp.get(24..32).filter(|option| option[0] == 2)?;
    Some((address.into(), text(&option[2..8])))
}

fn configuration(kind: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": "n", "type": kind, "bridge": "cni0", "master": "up0", "device": "dev0", "vlanId": 5,
        "ipam": {"type": "static", "addresses": [{"address": "10.7.0.5/24"}, {"address": "10.7.0.6/24"},
            {"address": "fd00:7::5/64"}, {"address": "fd00:7::6/64"}]}})
}

fn announced(kind: &'static str) {
    let bed = Testbed::new();
    bed.parent("up0");
    bed.ip("link add dev0 type veth peer name dev1");
    bed.ip("link set dev1 up");
    bed.pod("a");
    let wire = Wire::open();
    let mut conf = configuration(kind);
    // Each kind is given its own keys: one that it does not know would have it executed.
    let known: &[&str] = match kind {
        "bridge" => &["bridge"],
        "macvlan" | "ipvlan" => &["master"],
        "vlan" => &["master", "vlanId"],
        _ => &["device"],
    };
    let all = ["bridge", "master", "device", "vlanId"].into_iter().filter(|key| !known.contains(key));
    all.for_each(|key| drop(conf.as_object_mut().unwrap().remove(key)));
    let result = bed.call(Side::Plexus, kind).command("ADD").pod("a").conf(&conf).run().ok();
    let interfaces = result["interfaces"].as_array().unwrap();
    let inside = interfaces.iter().find(|interface| interface["name"] == "eth0").unwrap();
    let addresses = ["10.7.0.5", "10.7.0.6", "fd00:7::5", "fd00:7::6"].map(|ip| ip.parse().unwrap());
    wire.await_announcements(&addresses, inside["mac"].as_str().unwrap());
    bed.call(Side::Plexus, kind).command("DEL").pod("a").conf(&conf).run().ok();
}

/// The hardware address under which a pod knows a neighbour.
fn known_as(bed: &Testbed, pod: &str, address: &str) -> Option<String> {
    let shown: Value = serde_json::from_str(&bed.ip(&format!("-n {pod} -j neigh show {address}"))).unwrap();
    shown[0]["lladdr"].as_str().map(str::to_owned)
}

/// A third pod has talked to the first owner, and talks to the next one without asking who that is.
fn moved() {
    let bed = Testbed::new();
    let conf = |addresses: [&str; 2]| {
        json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "cni0", "ipam": {"type": "static",
            "addresses": addresses.map(|address| json!({"address": address}))}})
    };
    let shared = conf(["10.7.0.5/24", "fd00:7::5/64"]);
    let call = |command: &str, pod: &str, conf: &Value| {
        bed.call(Side::Plexus, "bridge").command(command).container(pod).pod(pod).conf(conf).run().ok()
    };
    for pod in ["first", "next", "third"] {
        bed.pod(pod);
    }
    call("ADD", "third", &conf(["10.7.0.9/24", "fd00:7::9/64"]));
    let mac = |result: &Value| result["interfaces"][2]["mac"].as_str().unwrap().to_owned();
    let first = mac(&call("ADD", "first", &shared));
    let pings = |address: &str| {
        let words = ["netns", "exec", "third", "ping", "-c1", "-W5", address];
        let done = std::process::Command::new("ip").args(words).output().unwrap();
        assert!(done.status.success(), "{address}: {}", String::from_utf8_lossy(&done.stdout));
    };
    for address in ["10.7.0.5", "fd00:7::5"] {
        pings(address);
        assert_eq!(known_as(&bed, "third", address).as_deref(), Some(first.as_str()));
    }
    call("DEL", "first", &shared);
    let wire = Wire::open();
    let next = mac(&call("ADD", "next", &shared));
    assert_ne!(first, next);
    wire.await_announcements(&["10.7.0.5", "fd00:7::5"].map(|ip| ip.parse().unwrap()), &next);
    for address in ["10.7.0.5", "fd00:7::5"] {
        assert_eq!(known_as(&bed, "third", address).as_deref(), Some(next.as_str()), "before anything is sent to it");
        pings(address);
    }
}
