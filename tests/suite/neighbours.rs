//! What the neighbours of a pod see: each address is announced on the wire, and an address that moves to another pod answers at
//! once those who knew the old one. It sees frames, and does not know how plexus makes the kernel send them.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, ReceiveTimeout};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::{Value, json};

use crate::announcement::announcement;
use crate::call::{NATIVE, Side};
use crate::case::Case;
use crate::need::Need;
use crate::nft::pings;
use crate::testbed::Testbed;
use crate::world;

/// How long an announcement may be on its way.
const ANNOUNCED_LIMIT: Duration = Duration::from_secs(10);
/// A wait between looks at that limit.
const FRAME_WAIT_MS: i64 = 200;
/// Room for the frames of a case, in bytes: nobody reads before the call has ended.
const CAPTURE_BYTES: usize = 1 << 20;

/// Kinds whose links lead to neighbours. A dummy leads nowhere, and what is behind a tap is a program of the pod.
const KINDS: [&str; 6] = ["bridge", "ptp", "macvlan", "ipvlan", "vlan", "host-device"];
/// Kinds of which several pods can be on one network.
const SHARED_KINDS: [&str; 5] = ["bridge", "ptp", "macvlan", "ipvlan", "vlan"];
const ADDRESSES: [&str; 4] = ["10.1.0.9/24", "10.2.0.9/24", "fd00:1::9/64", "fd00:2::9/64"];

pub(crate) fn cases() -> Vec<Case> {
    let needs =
        |kind: &str, more: &[Need]| Need::of_kind(kind).into_iter().chain(more.iter().copied()).collect::<Vec<_>>();
    let named = NATIVE.iter().filter(|kind| KINDS.contains(kind)).copied();
    let mut cases: Vec<Case> = named
        .map(|kind| Case::new(format!("neighbours::{kind}::announced"), &needs(kind, &[]), move || announced(kind)))
        .collect();
    let needs_of_two = needs("macvlan", &[Need::Ping]);
    cases.push(Case::new("neighbours::macvlan::a_duplicate_is_put_right", &needs_of_two, put_right));
    for kind in SHARED_KINDS {
        let needs = needs(kind, &[Need::Ping]);
        cases.push(Case::new(format!("neighbours::{kind}::moved"), &needs, move || moved(kind)));
    }
    cases
}

fn conf(kind: &str, addresses: &[&str]) -> Value {
    let gateway = |address: &str| address.rsplit_once(['.', ':']).map(|(network, _)| network.to_owned());
    let entry = |address: &&str| {
        let separator = if address.contains(':') { ':' } else { '.' };
        json!({"address": address, "gateway": gateway(address).map(|network| format!("{network}{separator}1"))})
    };
    let addresses: Vec<Value> = addresses.iter().map(entry).collect();
    let ipam = json!({"type": "static", "addresses": addresses});
    let mut conf = json!({"cniVersion": "1.1.0", "name": "net1", "type": kind, "ipam": ipam});
    match kind {
        "macvlan" | "ipvlan" => conf["master"] = json!("up0"),
        "host-device" => conf["device"] = json!("up0"),
        "vlan" => {
            conf["master"] = json!("up0");
            conf["vlanId"] = json!(5);
        }
        _ => {}
    }
    conf
}

fn add(bed: &Testbed, kind: &str, pod: &str, addresses: &[&str]) -> Value {
    bed.pod(pod);
    bed.call(Side::Plexus, kind).command("ADD").container(pod).pod(pod).conf(&conf(kind, addresses)).run().ok()
}

/// The hardware address of the pod's interface.
fn mac(result: &Value) -> String {
    let interfaces = result["interfaces"].as_array().unwrap();
    let inside = interfaces.iter().find(|interface| interface["sandbox"].is_string()).unwrap();
    inside["mac"].as_str().unwrap().to_owned()
}

/// Every frame of a namespace, from now on.
struct Capture(OwnedFd);

impl Capture {
    /// Of the calling thread's namespace. Not bound: of all links.
    fn here() -> Self {
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
        setsockopt(&fd, ReceiveTimeout, &TimeVal::milliseconds(FRAME_WAIT_MS)).unwrap();
        setsockopt(&fd, RcvBuf, &CAPTURE_BYTES).unwrap();
        Self(fd)
    }

    fn inside(namespace: &Path) -> Self {
        world::inside(namespace, Self::here)
    }

    /// The next frame; none where none came in a while.
    fn frame(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 2048];
        match recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Ok(length) => {
                bytes.truncate(length);
                Some(bytes)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => None,
            Err(errno) => panic!("no frames: {}", io::Error::from(errno)),
        }
    }

    /// Reads until each of these was announced, and says which were not.
    fn missing(&self, bed: &Testbed, mut announcements: BTreeSet<(IpAddr, String)>) -> BTreeSet<(IpAddr, String)> {
        let deadline = Instant::now() + ANNOUNCED_LIMIT;
        while !announcements.is_empty() && Instant::now() < deadline {
            let Some(frame) = self.frame() else { continue };
            bed.note(&format!("frame {frame:02x?}\n"));
            if let Some(announcement) = announcement(&frame) {
                announcements.remove(&announcement);
            }
        }
        announcements
    }
}

fn plain(address: &str) -> &str {
    address.split('/').next().unwrap()
}

fn announced(kind: &str) {
    let bed = Testbed::new();
    bed.parent("up0");
    let capture = match kind {
        "bridge" => {
            add(&bed, kind, "b", &["10.1.0.8/24"]);
            Capture::inside(&bed.netns("b"))
        }
        "ptp" => Capture::here(),
        _ => Capture::inside(&bed.netns("wire")),
    };
    let mac = mac(&add(&bed, kind, "a", &ADDRESSES));
    let expected = ADDRESSES.iter().map(|address| (plain(address).parse().unwrap(), mac.clone()));
    assert_eq!(capture.missing(&bed, expected.collect()), BTreeSet::new(), "not announced");
    for (tree, key) in [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")] {
        let path = format!("/proc/sys/net/{tree}/conf/eth0/{key}");
        let value = world::inside(&bed.netns("a"), || std::fs::read_to_string(path).unwrap());
        assert_eq!(value.trim(), "1", "{key}");
    }
}

/// A neighbour, `watch`: a pod on the same network, or of a VLAN, which a host has once, a link behind the wire.
fn watch(bed: &Testbed, kind: &str) {
    let addresses = ["10.1.0.8/24", "fd00:1::8/64"];
    if kind != "vlan" {
        add(bed, kind, "watch", &addresses);
        return;
    }
    bed.pod("watch");
    bed.ip("-n wire link add eth0 link up0 type vlan id 5");
    bed.ip("-n wire link set eth0 netns watch");
    for address in addresses {
        bed.ip(&format!("-n watch addr add {address} dev eth0{}", if address.contains(':') { " nodad" } else { "" }));
    }
    bed.ip("-n watch link set eth0 up");
}

fn moved(kind: &str) {
    let bed = Testbed::new();
    bed.parent("up0");
    let moving = ["10.1.0.9/24", "fd00:1::9/64"];
    watch(&bed, kind);
    let old = mac(&add(&bed, kind, "a", &moving));
    for address in moving {
        assert!(pings(&bed, "watch", plain(address)), "{address} is not reached where it was");
    }
    let neighbours = || bed.ip("-n watch neigh show dev eth0");
    let known = neighbours();
    bed.call(Side::Plexus, kind).command("DEL").container("a").pod("a").conf(&conf(kind, &moving)).run().ok();
    let new = mac(&add(&bed, kind, "b", &moving));
    for address in moving {
        let entry =
            |text: &str, mac: &str| text.lines().any(|line| line.starts_with(plain(address)) && line.contains(mac));
        // ipvlan and vlan have their master's hardware address, and a routed pod knows only its gateway's.
        if !["ipvlan", "vlan", "ptp"].contains(&kind) {
            assert!(old != new && entry(&known, &old), "{address} was not known by {old}: {known}");
        }
        assert!(pings(&bed, "watch", plain(address)), "{kind}: {address} does not answer at once: {}", neighbours());
    }
}

/// An address that another pod has is announced as well; that pod then answers its examination, and has it again.
fn put_right() {
    let bed = Testbed::new();
    bed.parent("up0");
    let address = "fd00:1::9/64";
    add(&bed, "macvlan", "watch", &["fd00:1::8/64"]);
    let owner = mac(&add(&bed, "macvlan", "a", &[address]));
    // Two that are examined at the same time would both lose it.
    until(&bed, "a", |text| !text.contains("optimistic"));
    assert!(pings(&bed, "watch", plain(address)));
    add(&bed, "macvlan", "b", &[address]);
    until(&bed, "b", |text| text.contains("dadfailed"));
    assert!(pings(&bed, "watch", plain(address)), "the owner is not reached any more");
    let known = bed.ip("-n watch neigh show dev eth0");
    assert!(known.lines().any(|line| line.starts_with(plain(address)) && line.contains(&owner)), "{known}");
}

/// Looks at a pod's global IPv6 addresses until they are as expected.
fn until(bed: &Testbed, pod: &str, is_expected: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + ANNOUNCED_LIMIT;
    while !is_expected(&bed.ip(&format!("-n {pod} -6 addr show dev eth0 scope global"))) {
        assert!(Instant::now() < deadline, "the addresses of {pod} stay as they are");
    }
}
