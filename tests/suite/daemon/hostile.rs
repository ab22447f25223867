//! What may come on the socket: each is refused by itself, and the daemon serves on with the descriptors it had.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::park_timeout;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use super::frame::{Said, answer, ask, connect, head, of_pod, of_pod_with, request, send};
use super::{Calls, DIR, Daemon, hide_pods, left, node, pods};
use crate::case::Case;
use crate::meta::Node;
use crate::need::Need;

pub(super) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    let case = |name: &str, what: fn(&Node)| Case::new(format!("daemon::hostile_{name}"), mac, move || survives(what));
    vec![
        case("frames_that_are_none", no_frames),
        case("frames_of_strange_requests", strange_requests),
        case("descriptors_of_other_things", other_descriptors),
        case("more_descriptors_than_one", many_descriptors),
        case("a_frame_in_a_million_writes", small_writes),
        case("connections_that_never_send", idle),
        Case::new("daemon::hostile_large_requests_together", &[], large),
        Case::new("daemon::hostile_a_crowd_and_few_descriptors", &[], few_descriptors),
    ]
}

/// More than the daemon reads from at once.
const IDLE: usize = AT_ONCE + 44;
/// Pods at once: each has two descriptors of the daemon's while it waits.
const CROWD: usize = 150;
/// From how many it does.
const AT_ONCE: usize = 256;
/// The largest request that is taken, in bytes.
const REQUEST_BYTES_MAX: u32 = 9 << 20;

/// The daemon serves before, between and after; what was opened is closed.
fn survives(what: fn(&Node)) {
    let node = node("fail");
    let daemon = Daemon::start();
    serves(&node);
    let before = daemon.descriptors();
    what(&node);
    serves(&node);
    daemon.awaits_descriptors(before);
    daemon.stop();
}

/// One pod comes and goes.
fn serves(node: &Node) {
    node.add("good", "blue");
    node.call("DEL", "good").run().ok();
    assert_eq!(left(node), Vec::<String>::new());
}

/// The namespace of a pod that nothing is attached to.
fn pod(node: &Node) -> File {
    node.pod("a", &[]);
    File::open(node.bed.netns("a")).unwrap()
}

fn no_frames(node: &Node) {
    let netns = pod(node);
    let good = of_pod(node, "ADD", "a");
    let body = &good[8..];
    let with = |length: u32| [head(b"plx1", length), body.to_vec()].concat();
    let length = u32::try_from(body.len()).unwrap();
    let whole = |body: &[u8]| [head(b"plx1", u32::try_from(body.len()).unwrap()), body.to_vec()].concat();
    let frames = [
        ("nothing", vec![]),
        ("half a head", good[..5].to_vec()),
        ("a head alone", good[..8].to_vec()),
        ("cut short", good[..good.len() - 1].to_vec()),
        ("another magic", [b"plx2", &good[4..]].concat()),
        ("an answer", [b"pla1", &good[4..]].concat()),
        ("HTTP", b"GET /healthz HTTP/1.1\r\nHost: plexus\r\n\r\n".to_vec()),
        ("longer than is taken", with(REQUEST_BYTES_MAX + 1)),
        ("as long as can be said", with(u32::MAX)),
        ("longer than it says", with(length - 1)),
        ("shorter than it says", with(length + 1)),
        ("two at once", [good.as_slice(), &good].concat()),
        ("empty", head(b"plx1", 0)),
        ("a text that leads beyond the end", whole(&[200, 0, 0, 0, b'x'])),
        ("a text of the greatest length", whole(&[0xff, 0xff, 0xff, 0xff])),
        ("more variables than are taken", whole(&[0; 4 * (2 * 32 + 2)])),
        ("a name without a value", whole(&[0; 4 * 2])),
        ("a length cut short", whole(&[0, 0, 0, 0, 0])),
    ];
    for (what, bytes) in frames {
        for descriptors in [&[][..], &[netns.as_fd()]] {
            let mut stream = connect();
            send(&mut stream, &bytes, descriptors);
            stream.shutdown(Shutdown::Write).ok();
            assert_eq!(answer(&mut stream), Said::Closed, "{what}");
        }
    }
    assert_eq!(ask(&good, &[]), Said::Closed, "no descriptor");
    assert_eq!(node.bed.links("a"), ["lo"]);
}

fn strange_requests(node: &Node) {
    let netns = pod(node);
    let said = |bytes: &[u8]| ask(bytes, &[netns.as_fd()]);
    let with_stdin = |stdin: &[u8]| said(&of_pod_with(node, "ADD", "a", stdin));
    let mut newest = node.conf.clone();
    newest["cniVersion"] = json!("1.1.0");
    for command in ["CHECK", "VERSION", "GC"] {
        let said = said(&of_pod_with(node, command, "a", newest.to_string().as_bytes()));
        assert_eq!(said, Said::Yours, "{command}");
    }
    let status = said(&of_pod_with(node, "STATUS", "a", newest.to_string().as_bytes()));
    assert!(matches!(status, Said::Result(_)), "STATUS is answered: {status:?}");
    assert_eq!(said(&request(&[], b"{}")), Said::Yours, "no command: that is for a person to read");
    assert_eq!(said(&of_pod(node, "ATTACH", "a")).code(), Some(4));
    assert_eq!(said(&request(&[("CNI_COMMAND", b"ADD")], node.conf.to_string().as_bytes())).code(), Some(4));
    let strange = [
        ("CNI_COMMAND", b"ADD".as_slice()),
        ("CNI_CONTAINERID", b"\xff/../\0"),
        ("CNI_IFNAME", b"eth0"),
        ("CNI_NETNS", b"x"),
        ("CNI_PATH", b""),
    ];
    assert_eq!(said(&request(&strange, node.conf.to_string().as_bytes())).code(), Some(4));
    assert_eq!(with_stdin(b"").code(), Some(6));
    assert_eq!(with_stdin(b"{").code(), Some(6));
    assert_eq!(with_stdin(&[0xff; 1000]).code(), Some(6));
    assert_eq!(with_stdin("[".repeat(8 << 20).as_bytes()).code(), Some(6));
    let deep = format!(
        "{{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"type\":\"plexus-cni\",\"x\":{}",
        "[{\"a\":".repeat(1 << 20)
    );
    assert_eq!(with_stdin(deep.as_bytes()).code(), Some(6));
    let mut other = node.conf.clone();
    other["type"] = json!("host-local");
    assert!(
        with_stdin(other.to_string().as_bytes()).code().is_some(),
        "another plugin's request is refused, or served as one"
    );
    assert_eq!(node.bed.links("a"), ["lo"]);
}

fn other_descriptors(node: &Node) {
    let pod = pod(node);
    let add = of_pod(node, "ADD", "a");
    let (pipe, _) = std::io::pipe().unwrap();
    let (socket, _) = UnixStream::pair().unwrap();
    let file = File::open(node.bed.file("some", "text")).unwrap();
    let opened = [
        "/proc/self/ns/mnt",
        "/proc/self/ns/uts",
        "/proc/self/ns/user",
        "/proc/self/ns/pid",
        "/proc/self/status",
        "/dev/null",
        "/",
    ];
    let opened = opened.map(|path| (path, File::open(path).unwrap()));
    let mut all: Vec<(&str, BorrowedFd)> = opened.iter().map(|(path, file)| (*path, file.as_fd())).collect();
    all.extend([("a pipe", pipe.as_fd()), ("a socket", socket.as_fd()), ("a file", file.as_fd())]);
    for (what, descriptor) in all {
        let said = ask(&add, &[descriptor]);
        assert!(said.code().is_some(), "{what}: {said:?}");
        assert_eq!(left(node), Vec::<String>::new(), "{what}");
    }
    // The daemon's own: a pod in the host's network is attached to nothing.
    let own = File::open("/proc/thread-self/ns/net").unwrap();
    let before = node.bed.links("");
    let said = ask(&add, &[own.as_fd()]);
    assert_eq!(said.code(), Some(8), "{said:?}");
    assert_eq!(node.bed.links(""), before);
    drop(pod);
}

fn many_descriptors(node: &Node) {
    let netns = pod(node);
    let add = of_pod(node, "ADD", "a");
    let file = File::open("/dev/null").unwrap();
    for number in [2, 3, 5, 250] {
        // The first is the one, whatever comes with it.
        let mut descriptors = vec![file.as_fd(); number];
        let said = ask(&add, &descriptors);
        assert!(matches!(said, Said::Error(_) | Said::Closed), "{number} files: {said:?}");
        descriptors[0] = netns.as_fd();
        let said = ask(&add, &descriptors);
        assert!(matches!(said, Said::Result(_) | Said::Closed), "{number}: {said:?}");
        node.call("DEL", "a").run().ok();
    }
    let mut stream = connect();
    for byte in add.chunks(1) {
        send(&mut stream, byte, &[netns.as_fd()]);
    }
    assert!(matches!(answer(&mut stream), Said::Result(_) | Said::Closed));
    node.call("DEL", "a").run().ok();
}

fn small_writes(node: &Node) {
    let netns = pod(node);
    let stdin = format!("{}{}", node.conf, " ".repeat(1 << 20));
    let add = of_pod_with(node, "ADD", "a", stdin.as_bytes());
    let mut stream = connect();
    send(&mut stream, &add[..1], &[netns.as_fd()]);
    for (number, byte) in add.chunks(1).enumerate().skip(1) {
        if stream.write_all(byte).is_err() {
            break; // it took longer than a frame may: on a busy machine
        }
        if number == add.len() / 2 {
            serves(node);
        }
    }
    let said = answer(&mut stream);
    assert!(matches!(said, Said::Result(_) | Said::Closed), "{said:?}");
    node.call("DEL", "a").run().ok();
}

fn idle(node: &Node) {
    let netns = pod(node);
    let mut held: Vec<UnixStream> = (0..IDLE).map(|_| connect()).collect();
    // Some have begun, with a descriptor.
    for stream in held.iter_mut().take(50) {
        send(stream, b"plx1", &[netns.as_fd()]);
    }
    serves(node);
    // As many as are in the way have gone, the oldest first, and nobody waited until the time of all was over.
    let last = &mut held[AT_ONCE - 1];
    last.set_nonblocking(true).unwrap();
    assert_eq!(last.read(&mut [0]).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock), "it has its time");
    last.set_nonblocking(false).unwrap();
    for mut stream in held {
        assert_eq!(answer(&mut stream), Said::Closed, "nobody is waited for without end");
    }
}

/// Its hard limit of descriptors is low: each of the crowd has its turn.
fn few_descriptors() {
    let node = node("fail");
    let mut command = Command::new("/usr/bin/prlimit");
    command.args(["--nofile=256:256", env!("CARGO_BIN_EXE_plexus"), "daemon", "--socket-dir", DIR]).env_clear();
    let daemon = Daemon::launch(command, hide_pods);
    let names = pods(&node, CROWD, "green,six");
    for command in ["ADD", "DEL"] {
        // All have come before the first is served.
        kill(daemon.pid(), Signal::SIGSTOP).unwrap();
        let calls = Calls::start(&node, command, &names);
        kill(daemon.pid(), Signal::SIGCONT).unwrap();
        calls.ok(&node);
    }
    assert_eq!(left(&node), Vec::<String>::new());
    assert!(!daemon.said().contains("Too many open files"), "{}", daemon.said());
    daemon.stop();
}

/// Each is as large as may be, and never whole: together they get no more than their room.
fn large() {
    let node = node("fail");
    let daemon = Daemon::start();
    node.add("a", "");
    let before = daemon.memory();
    let mut held: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    let part = vec![b'x'; 1 << 20];
    for stream in &mut held {
        stream.set_nonblocking(true).unwrap();
        stream.write_all(&[b"plx1".as_slice(), &REQUEST_BYTES_MAX.to_le_bytes()].concat()).unwrap();
    }
    let mut sent = vec![0; held.len()];
    let mut idle = 0;
    // What the daemon does not read stays in the socket's buffer.
    while idle < 20 {
        let mut any = false;
        for (stream, sent) in held.iter_mut().zip(&mut sent) {
            let most = (REQUEST_BYTES_MAX as usize - 10 - *sent).min(part.len());
            if let Ok(written @ 1..) = stream.write(&part[..most]) {
                *sent += written;
                any = true;
            }
        }
        idle = if any { 0 } else { idle + 1 };
        park_timeout(Duration::from_millis(10));
    }
    let grown = daemon.memory().saturating_sub(before);
    assert!(grown < 200 << 10, "{grown} KiB for {} MiB", sent.iter().sum::<usize>() >> 20);
    // Who asks for something small meanwhile is served.
    node.add("b", "");
    drop(held);
    for pod in ["a", "b"] {
        node.call("DEL", pod).run().ok();
    }
    assert_eq!(left(&node), Vec::<String>::new());
    daemon.stop();
}
