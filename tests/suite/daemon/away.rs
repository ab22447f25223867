//! The daemon is away, is not one, or is somebody else's: what the configuration says is done instead, and DEL always ends.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use super::{Calls, DIR, Daemon, SOCKET, left, node, pods};
use crate::case::Case;
use crate::meta::Node;
use crate::need::Need;
use crate::testbed::{LEASES, files_below};

pub(super) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    vec![
        Case::new("daemon::away_each_fallback_does_what_it_says", mac, nobody),
        Case::new("daemon::away_wait_ends_when_the_daemon_comes", mac, waits),
        Case::new("daemon::away_what_lies_at_its_path_is_no_daemon", mac, odd_files),
        Case::new("daemon::away_an_answer_that_is_none", mac, odd_answers),
        Case::new("daemon::away_of_another_user_gets_nothing", &[Need::Macvlan, Need::Users], another_user),
    ]
}

/// The pod `a`, not attached.
fn node_with_pod() -> Node {
    let node = node("fail");
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue,green")]);
    node
}

/// What each fallback does while nobody answers: refuses and changes nothing, or attaches by itself; and DEL removes it.
fn serves_itself(node: &mut Node, why: &str) {
    let fallbacks = [json!("fail"), json!("wait")];
    node.conf["daemonWaitMs"] = json!(1);
    for refuses in &fallbacks {
        node.conf["fallback"] = refuses.clone();
        let before = files_below(Path::new(LEASES));
        node.call("ADD", "a").run().fails(11, why);
        assert_eq!((left(node), node.bed.links("a")), (vec![], vec!["lo".to_owned()]));
        assert_eq!(files_below(Path::new(LEASES)), before);
    }
    for removes in fallbacks.iter().chain([&json!("oneshot")]) {
        node.conf["fallback"] = json!("oneshot");
        node.call("ADD", "a").run().ok();
        node.call("CHECK", "a").run().ok();
        assert_eq!(node.addresses("a", "net1").len(), 1);
        node.conf["fallback"] = removes.clone();
        node.call("DEL", "a").run().ok();
        assert_eq!(left(node), Vec::<String>::new(), "after DEL, fallback {removes}");
        // And once more, of nothing.
        node.call("DEL", "a").run().ok();
    }
}

fn nobody() {
    let mut node = node_with_pod();
    serves_itself(&mut node, "is away");
    // A pod that the daemon attached leaves without it, its namespace gone or not.
    node.conf["fallback"] = json!("fail");
    let names = pods(&node, 2, "blue,green");
    let daemon = Daemon::start();
    Calls::start(&node, "ADD", &names).ok(&node);
    daemon.stop();
    node.call("CHECK", "p0").run().ok();
    node.call("DEL", "p0").run().ok();
    node.bed.lose_pod("p1");
    node.call("DEL", "p1").run().ok();
    assert_eq!(left(&node), Vec::<String>::new());
}

fn waits() {
    let mut node = node_with_pod();
    node.conf["fallback"] = json!("wait");
    node.conf["daemonWaitMs"] = json!(60_000);
    fs::create_dir(DIR).unwrap();
    let early = UnixListener::bind(SOCKET).unwrap();
    let call = Calls::start(&node, "ADD", &["a".to_owned()]);
    // It asks, and is not answered: somebody else comes.
    drop(early.accept().unwrap());
    drop(early);
    let daemon = Daemon::start();
    call.ok(&node);
    assert_eq!(node.addresses("a", "net2").len(), 1);
    node.call("DEL", "a").run().ok();
    assert_eq!(left(&node), Vec::<String>::new());
    daemon.stop();
}

fn odd_files() {
    let mut node = node_with_pod();
    fs::create_dir(DIR).unwrap();
    let made: [(&str, fn()); 5] = [
        ("a socket that nobody listens on", || drop(UnixListener::bind(SOCKET).unwrap())),
        ("a file", || fs::write(SOCKET, "plexus").unwrap()),
        ("a FIFO", || mkfifo(SOCKET, Mode::S_IRWXU).unwrap()),
        ("a link to nowhere", || std::os::unix::fs::symlink("/run/nowhere", SOCKET).unwrap()),
        ("a folder", || fs::create_dir(SOCKET).unwrap()),
    ];
    for (what, make) in made {
        make();
        node.bed.note(&format!("---- {what}\n"));
        serves_itself(&mut node, "is away");
        if what != "a folder" {
            // A daemon takes the place of each but a folder, which is nobody's left-over.
            node.conf["fallback"] = json!("fail");
            let daemon = Daemon::start();
            node.call("ADD", "a").run().ok();
            node.call("DEL", "a").run().ok();
            daemon.stop();
            assert!(fs::symlink_metadata(SOCKET).is_err(), "{what}: the socket is removed");
        }
    }
}

/// Whoever listens there takes whole requests, and says something.
fn odd_answers() {
    let mut node = node_with_pod();
    fs::create_dir(DIR).unwrap();
    let listener = UnixListener::bind(SOCKET).unwrap();
    let answers: [(&str, &[u8]); 6] = [
        ("nothing", b""),
        ("a head cut short", b"pla1\0\x05"),
        ("another magic", b"pla2\0\0\0\0\0"),
        ("a body cut short", b"pla1\0\x09\0\0\0{}"),
        ("an unknown kind", b"pla1\x07\0\0\0\0"),
        ("more than anybody takes", b"pla1\0\xff\xff\xff\xff"),
    ];
    for (what, bytes) in answers {
        node.bed.note(&format!("---- {what}\n"));
        let said = thread::scope(|scope| {
            let served = scope.spawn(|| says(&listener, bytes));
            serves_itself(&mut node, "is away");
            // The last one: it tells the other side to end.
            node.conf["name"] = json!("last");
            node.call("DEL", "a").run().ok();
            node.conf["name"] = json!("node");
            served.join().unwrap()
        });
        assert!(said >= 8, "{what}: only {said} calls asked");
    }
    // An error that is none, and what only looks like a result: the first is an error all the same.
    thread::scope(|scope| {
        scope.spawn(|| answer_one(&listener, b"pla1\x01\x02\0\0\0[]"));
        node.conf["fallback"] = json!("fail");
        node.call("ADD", "a").run().fails(999, "no error");
    });
    assert_eq!(left(&node), Vec::<String>::new());
}

/// Answers each request so until one of the network "last" comes: how many there were.
fn says(listener: &UnixListener, bytes: &[u8]) -> usize {
    (1..).find(|_| answer_one(listener, bytes)["name"] == "last").unwrap()
}

/// Reads one request whole: its standard input.
fn answer_one(listener: &UnixListener, bytes: &[u8]) -> Value {
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = [0; 8];
    stream.read_exact(&mut head).unwrap();
    let mut body = vec![0; usize::try_from(u32::from_le_bytes(*head.last_chunk().unwrap())).unwrap()];
    stream.read_exact(&mut body).unwrap();
    stream.write_all(bytes).unwrap();
    let at = body.iter().position(|byte| *byte == b'{').unwrap();
    serde_json::from_slice(&body[at..]).unwrap()
}

/// Not root, and not who is in this namespace as root.
const OTHER: u32 = 1;

fn another_user() {
    let mut node = node_with_pod();
    fs::create_dir(DIR).unwrap();
    chown(DIR, Some(OTHER), Some(OTHER)).unwrap();
    // Where nobody's folders are on the way.
    let program = node.bed.file("plexus", "");
    mount(Some(env!("CARGO_BIN_EXE_plexus")), &program, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let daemon = Daemon::start_with(&program, Some(OTHER));
    let before = daemon.descriptors();
    serves_itself(&mut node, "whom nothing is entrusted to");
    daemon.awaits_descriptors(before);
}
