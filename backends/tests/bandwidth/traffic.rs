//! What passes: datagrams as fast as the limit lets them, counted by who receives them.
//!
//! Nothing is slept for, and nothing is asserted of how long the machine takes: a slow one only repeats. Too much passing is wrong at
//! once. Too little can be the machine's fault, which lets tokens expire while it does something else: so the best of several
//! attempts counts.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backends::Pod;
use backends::chained::Previous;
use backends::chained::bandwidth::Spec;
use nix::sys::socket::{setsockopt, sockopt};

use super::{ETH0, added, inside, pair, spec};
use crate::Case;
use crate::world::{World, ip};

pub(crate) const CASES: &[Case] = &[
    ("bandwidth::traffic::towards_the_pod", towards_the_pod),
    ("bandwidth::traffic::redirected::from_the_pod", from_the_pod),
    ("bandwidth::traffic::what_a_macvlan_sends", what_a_macvlan_sends),
    ("bandwidth::traffic::redirected::what_a_macvlan_receives", what_a_macvlan_receives),
];

/// 8 Mbit/s; a burst of 40 ms, so that a processor that is away for less loses nothing.
const RATE_BITS: u64 = 8_000_000;
const TOWARDS: &str = r#"{"ingressRate":8000000,"ingressBurst":320000}"#;
const FROM: &str = r#"{"egressRate":8000000,"egressBurst":320000}"#;
const PAYLOAD_BYTES: usize = 1400;
/// UDP, IPv4 and Ethernet headers: the bucket counts them.
const HEADER_BYTES: usize = 8 + 20 + 14;
/// What is passed over: the burst, and what waits in queues, twice.
const WARM_UP_BYTES: usize = 200_000;
/// Two seconds.
const MEASURED_BYTES: usize = 2_000_000;
/// Less than the bucket lets wait, so that a sender waits for its own packets and uses no processor for those that would be dropped.
const SEND_BUFFER_BYTES: usize = 16 * 1024;
const ATTEMPTS: usize = 8;
const PERCENT: u64 = 10;
/// How long one datagram may take. Reached only when nothing passes.
const SILENCE_S: u64 = 20;

/// Bits a second that arrive while `send` sends all it can.
fn received(sender: &UdpSocket, receiver: &UdpSocket) -> u64 {
    receiver.set_read_timeout(Some(Duration::from_secs(SILENCE_S))).unwrap();
    setsockopt(sender, sockopt::SndBuf, &SEND_BUFFER_BYTES).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let payload = [0; PAYLOAD_BYTES];
            while !done.load(Ordering::Relaxed) {
                // A full queue is told, or not; what it drops is not counted.
                let _ = sender.send(&payload);
            }
        });
        let mut buffer = [0; 2 * PAYLOAD_BYTES];
        let mut receive = |bytes: usize| {
            let mut left = bytes;
            while left > 0 {
                let length = receiver.recv(&mut buffer).expect("nothing passes") + HEADER_BYTES;
                left = left.saturating_sub(length);
            }
        };
        receive(WARM_UP_BYTES);
        let begin = Instant::now();
        receive(MEASURED_BYTES);
        let elapsed = begin.elapsed();
        done.store(true, Ordering::Relaxed);
        u64::try_from(MEASURED_BYTES as u128 * 8_000_000 / elapsed.as_micros()).unwrap()
    })
}

/// `sender` reaches `receiver` by what is limited.
fn assert_rate(sender: &UdpSocket, receiver: &UdpSocket) {
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let rate = received(sender, receiver);
        assert!(rate <= RATE_BITS / 100 * (100 + PERCENT), "{rate} bit/s pass");
        if rate >= RATE_BITS / 100 * (100 - PERCENT) {
            return;
        }
        seen.push(rate);
    }
    panic!("only {seen:?} bit/s pass");
}

/// A socket in the namespace of the calling thread.
fn socket(address: &str) -> UdpSocket {
    UdpSocket::bind((address, 9)).unwrap()
}

fn socket_in(pod: &Pod, address: &str) -> UdpSocket {
    pod.netns().run(|| socket(address)).unwrap()
}

fn limited(world: &mut World, pod: &mut Pod, spec: &Spec, previous: &Previous) {
    added(world, pod, spec, &ETH0, previous).unwrap();
}

fn towards_the_pod(world: &mut World) {
    let mut pod = world.pod();
    let (_, previous) = pair(world, &mut pod, "eth0");
    limited(world, &mut pod, &spec(TOWARDS), &previous);
    let (host, inside) = (socket("10.9.0.1"), socket_in(&pod, "10.9.0.2"));
    host.connect("10.9.0.2:9").unwrap();
    assert_rate(&host, &inside);
}

fn from_the_pod(world: &mut World) {
    let mut pod = world.pod();
    let (_, previous) = pair(world, &mut pod, "eth0");
    limited(world, &mut pod, &spec(FROM), &previous);
    let (host, inside) = (socket("10.9.0.1"), socket_in(&pod, "10.9.0.2"));
    inside.connect("10.9.0.1:9").unwrap();
    assert_rate(&inside, &host);
}

/// A macvlan whose lower device leads to an address of the host.
fn macvlan(world: &mut World, pod: &mut Pod, spec: &Spec) -> (UdpSocket, UdpSocket) {
    let previous = inside::macvlan(world, pod, &["10.9.0.2/24"]);
    ip("addr add 10.9.0.1/24 dev ext0-far");
    limited(world, pod, spec, &previous);
    let (host, inside) = (socket("10.9.0.1"), socket_in(pod, "10.9.0.2"));
    host.connect("10.9.0.2:9").unwrap();
    inside.connect("10.9.0.1:9").unwrap();
    (host, inside)
}

fn what_a_macvlan_sends(world: &mut World) {
    let mut pod = world.pod();
    let (host, inside) = macvlan(world, &mut pod, &spec(FROM));
    assert_rate(&inside, &host);
}

fn what_a_macvlan_receives(world: &mut World) {
    let mut pod = world.pod();
    let (host, inside) = macvlan(world, &mut pod, &spec(TOWARDS));
    assert_rate(&host, &inside);
}
