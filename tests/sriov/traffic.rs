//! Frames between functions of one card: they reach who is in the same VLAN, and nobody else.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::{Value, json};

use crate::Case;
use crate::announcement::announcement;
use crate::card::{Card, ip, link_of, netns, until};

pub(crate) const CASES: &[Case] = &[
    ("traffic::functions_reach_who_is_in_their_vlan", functions_reach_who_is_in_their_vlan),
    ("traffic::addresses_are_announced_on_the_wire", addresses_are_announced_on_the_wire),
];

/// How long an announcement may be on its way.
const ANNOUNCED_LIMIT: Duration = Duration::from_secs(5);
/// A wait between looks at that limit.
const FRAME_WAIT_MS: i64 = 200;

/// Attaches two functions with these VLANs, and says whether the second answers the first.
fn reaches(card: &Card, vlans: [Value; 2]) -> bool {
    let pods = ["one", "two"];
    let confs: Vec<Value> = vlans
        .into_iter()
        .enumerate()
        .map(|(index, vlan)| {
            let mut more = json!({"mac": format!("02:00:00:00:00:1{index}")});
            if !vlan.is_null() {
                more["vlan"] = vlan;
            }
            card.conf(index, more)
        })
        .collect();
    let mut addresses = Vec::new();
    for (pod, conf) in pods.iter().zip(&confs) {
        ip(&format!("netns add {pod}"));
        let result = card.add(pod, conf);
        addresses.push(result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned());
    }
    for pod in pods {
        until("the carrier", || (link_of(pod, "net1")["operstate"] == "UP").then_some(()));
    }
    let ping = ["netns", "exec", "one", "ping", "-c", "5", "-i", "0.3", "-W", "2", "-w", "5", &addresses[1]];
    let answered = Command::new("ip").args(ping).output().unwrap().status.success();
    for (pod, conf) in pods.iter().zip(&confs) {
        card.del(pod, &netns(pod), conf);
        ip(&format!("netns del {pod}"));
    }
    answered
}

fn functions_reach_who_is_in_their_vlan(card: &Card) {
    assert!(reaches(card, [Value::Null, Value::Null]), "no VLAN");
    assert!(reaches(card, [json!(100), json!(100)]), "one VLAN");
    assert!(!reaches(card, [json!(100), json!(200)]), "two VLANs");
    assert!(!reaches(card, [json!(100), json!(0)]), "a VLAN and none");
}

/// Every frame of the host's links, from now on.
fn capture() -> OwnedFd {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
    setsockopt(&fd, ReceiveTimeout, &TimeVal::milliseconds(FRAME_WAIT_MS)).unwrap();
    fd
}

/// Another function of the card, on the host, hears them.
fn addresses_are_announced_on_the_wire(card: &Card) {
    let watch = &card.functions[1].name;
    ip(&format!("link set {watch} up"));
    until("the carrier", || ip(&format!("link show {watch}")).contains("LOWER_UP").then_some(()));
    ip("netns add one");
    let addresses = ["10.1.0.9", "fd00:1::9"];
    let ipam = json!({"type": "static", "addresses": [{"address": "10.1.0.9/24"}, {"address": "fd00:1::9/64"}]});
    let mac = "02:00:00:00:00:07";
    let conf = card.conf(0, json!({"mac": mac, "ipam": ipam}));
    let frames = capture();
    card.add("one", &conf);
    let mut missing: BTreeSet<(IpAddr, String)> =
        addresses.iter().map(|address| (address.parse().unwrap(), mac.to_owned())).collect();
    let deadline = Instant::now() + ANNOUNCED_LIMIT;
    while !missing.is_empty() && Instant::now() < deadline {
        let mut frame = vec![0; 2048];
        let Ok(length) = recv(frames.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
        if let Some(announced) = announcement(&frame[..length]) {
            missing.remove(&announced);
        }
    }
    assert_eq!(missing, BTreeSet::new(), "not announced");
    card.del("one", &netns("one"), &conf);
    ip(&format!("link set {watch} down"));
    ip("netns del one");
}
