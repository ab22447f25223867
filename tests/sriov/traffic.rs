//! Frames between functions of one card, and between those and the card: they reach who is in the same VLAN, and nobody else.

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
    ("traffic::the_card_reaches_functions_in_its_vlan", the_card_reaches_functions_in_its_vlan),
    ("traffic::a_pod_that_is_trusted_can_have_more_addresses", a_pod_that_is_trusted_can_have_more_addresses),
    ("traffic::addresses_are_announced_on_the_wire", addresses_are_announced_on_the_wire),
];

/// How long an announcement may be on its way.
const ANNOUNCED_LIMIT: Duration = Duration::from_secs(5);
/// A wait between looks at that limit.
const FRAME_WAIT_MS: i64 = 200;

/// A pod with an attachment.
struct Attached<'a> {
    plugin: &'a str,
    pod: &'a str,
    conf: Value,
    address: String,
}

/// Attaches a pod, and says where it is reached.
fn attach<'a>(card: &Card, plugin: &'a str, pod: &'a str, conf: Value) -> Attached<'a> {
    ip(&format!("netns add {pod}"));
    let answer = card.call_of(plugin, "ADD", pod, &conf);
    assert!(answer.success, "ADD: {} {}", answer.json, answer.log);
    let address = answer.json["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    Attached { plugin, pod, conf, address }
}

/// The same for a function of this VLAN.
fn attach_function<'a>(card: &Card, index: usize, pod: &'a str, vlan: &Value) -> Attached<'a> {
    let mut more = json!({"mac": format!("02:00:00:00:00:1{index}")});
    if !vlan.is_null() {
        more["vlan"] = vlan.clone();
    }
    attach(card, "sriov", pod, card.conf(index, more))
}

fn await_carrier(pods: &[Attached]) {
    for Attached { pod, .. } in pods {
        until("the carrier", || (link_of(pod, "net1")["operstate"] == "UP").then_some(()));
    }
}

fn detach(card: &Card, pods: &[Attached]) {
    for Attached { plugin, pod, conf, .. } in pods {
        let answer = card.call_of(plugin, "DEL", pod, conf);
        assert!(answer.success, "DEL: {} {}", answer.json, answer.log);
        ip(&format!("netns del {pod}"));
    }
}

/// Whether an address answers a pod.
fn reaches(pod: &str, address: &str) -> bool {
    let ping = ["netns", "exec", pod, "ping", "-c", "5", "-i", "0.3", "-W", "2", "-w", "5", address];
    Command::new("ip").args(ping).output().unwrap().status.success()
}

fn functions_reach_who_is_in_their_vlan(card: &Card) {
    let tried = [(json!(null), json!(null), true), (json!(100), json!(100), true), (json!(100), json!(200), false)];
    for (first, second, expected) in tried.into_iter().chain([(json!(100), json!(0), false)]) {
        let pods = [attach_function(card, 0, "one", &first), attach_function(card, 1, "two", &second)];
        await_carrier(&pods);
        assert_eq!(reaches("one", &pods[1].address), expected, "VLAN {first} to VLAN {second}");
        detach(card, &pods);
    }
}

/// The card's own interface is in no VLAN; a pod of the kind vlan on top of it is in its own.
fn the_card_reaches_functions_in_its_vlan(card: &Card) {
    let own = "10.1.0.250";
    ip(&format!("addr add {own}/24 dev {}", card.name));
    let on_top = json!({"cniVersion": "1.1.0", "name": "sriov-test", "type": "vlan", "master": card.name, "vlanId": 100,
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}});
    let pods = [
        attach_function(card, 0, "none", &Value::Null),
        attach_function(card, 1, "hundred", &json!(100)),
        attach_function(card, 2, "other", &json!(200)),
        attach(card, "vlan", "top", on_top),
    ];
    await_carrier(&pods);
    let [none, hundred, _, top] = &pods;
    assert!(reaches("none", own), "no VLAN, to the card");
    assert!(!reaches("hundred", own), "VLAN 100, to the card");
    assert!(!reaches("other", own), "VLAN 200, to the card");
    assert!(reaches("hundred", &top.address), "VLAN 100, to the card's VLAN 100");
    assert!(reaches("top", &hundred.address), "the card's VLAN 100, to VLAN 100");
    assert!(!reaches("other", &top.address), "VLAN 200, to the card's VLAN 100");
    assert!(!reaches("none", &top.address), "no VLAN, to the card's VLAN 100");
    assert!(!reaches("top", &none.address), "the card's VLAN 100, to no VLAN");
    detach(card, &pods);
    ip(&format!("addr del {own}/24 dev {}", card.name));
}

/// What a pod makes on top of its function has an address that the card has not given it.
fn a_pod_that_is_trusted_can_have_more_addresses(card: &Card) {
    // In this order: igb takes no address back that it gave a function (it refuses to, as the address that this message lacks is none).
    for trust in ["off", "on"] {
        let more = json!({"mac": "02:00:00:00:00:10", "trust": trust});
        let pods = [attach(card, "sriov", "one", card.conf(0, more)), attach_function(card, 1, "two", &Value::Null)];
        await_carrier(&pods);
        ip("-n one link add link net1 name child address 02:00:00:00:00:20 type macvlan mode bridge");
        ip("netns add inner");
        ip("-n one link set child netns inner");
        ip("-n inner addr add 10.1.0.200/24 dev child");
        ip("-n inner link set child up");
        assert!(reaches("one", &pods[1].address), "the function itself, trust {trust}");
        assert_eq!(reaches("inner", &pods[1].address), trust == "on", "what is on top of it, trust {trust}");
        ip("netns del inner");
        detach(card, &pods);
    }
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
