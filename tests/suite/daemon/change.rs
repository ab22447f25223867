//! The daemon ends, or another takes its place: calls under way are answered, and no call is refused.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{Signal, kill};

use super::frame::{Said, answer, connect, of_pod, send};
use super::{Calls, DIR, Daemon, SOCKET, hold_pool, left, node, pods, records, socket_id, until};
use crate::case::Case;
use crate::need::Need;

pub(super) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    vec![
        Case::new("daemon::change_calls_under_way_are_answered_by_who_ends", mac, ends),
        Case::new("daemon::change_another_takes_over_and_no_call_fails", mac, taken_over),
        Case::new("daemon::change_under_continuous_calls", mac, continuous),
        Case::new("daemon::change_who_has_connected_is_heard", mac, connected),
        Case::new("daemon::change_a_frame_that_has_begun_is_read_to_its_end", mac, half_a_frame),
    ]
}

const NETWORKS: &str = "blue,green";
const PODS: usize = 6;
/// Daemons, one after the other, while calls go on.
const ROUNDS: usize = 15;

fn ends() {
    let node = node("fail");
    let daemon = Daemon::start();
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(DIR), mode(SOCKET)), (0o700, 0o600), "root's alone");
    let names = pods(&node, PODS, NETWORKS);
    let held = hold_pool();
    let calls = Calls::start(&node, "ADD", &names);
    until("all are under way", || records() == PODS);
    daemon.terminate();
    until("nobody new is heard", || socket_id().is_none());
    drop(held);
    calls.ok(&node);
    assert!(daemon.ended().success());
    Calls::start(&node, "CHECK", &names).ok(&node);
    Calls::start(&node, "DEL", &names).ok(&node);
    assert_eq!(left(&node), Vec::<String>::new());
}

fn taken_over() {
    let node = node("fail");
    let first = Daemon::start();
    let names = pods(&node, PODS, NETWORKS);
    let (early, late) = names.split_at(PODS / 2);
    let held = hold_pool();
    let with_first = Calls::start(&node, "ADD", early);
    until("the first daemon has half", || records() == early.len());
    let second = Daemon::start();
    let its_socket = socket_id();
    let with_second = Calls::start(&node, "ADD", late);
    until("the second has the others", || records() == PODS);
    first.terminate();
    drop(held);
    with_first.ok(&node);
    with_second.ok(&node);
    assert!(first.ended().success());
    assert_eq!(socket_id(), its_socket, "the first leaves what is not its own");
    Calls::start(&node, "DEL", &names).ok(&node);
    assert_eq!(left(&node), Vec::<String>::new());
    second.stop();
    assert_eq!(socket_id(), None);
}

/// ADDs fail where nobody answers: that they do not shows that somebody always did.
fn continuous() {
    let node = node("fail");
    let mut daemon = Daemon::start();
    let names = pods(&node, PODS, NETWORKS);
    for round in 0..ROUNDS {
        node.bed.note(&format!("round {round}\n"));
        let before = Calls::start(&node, "ADD", &names[..PODS / 3]);
        let next = Daemon::start();
        let meanwhile = Calls::start(&node, "ADD", &names[PODS / 3..2 * PODS / 3]);
        daemon.terminate();
        let after = Calls::start(&node, "ADD", &names[2 * PODS / 3..]);
        for calls in [before, meanwhile, after] {
            calls.ok(&node);
        }
        assert!(daemon.ended().success());
        daemon = next;
        Calls::start(&node, "DEL", &names).ok(&node);
        assert_eq!(left(&node), Vec::<String>::new(), "round {round}");
    }
    daemon.stop();
}

/// Calls that the daemon has not even accepted when it is told to end are its own, whether another one has its place by then or not.
fn connected() {
    let node = node("fail");
    let names = pods(&node, 2 * PODS, NETWORKS);
    let netns: Vec<File> = names.iter().map(|pod| File::open(node.bed.netns(pod)).unwrap()).collect();
    for is_replaced in [false, true] {
        let daemon = Daemon::start();
        kill(daemon.pid(), Signal::SIGSTOP).unwrap();
        let call = |(pod, netns): (&String, &File)| {
            let mut stream = connect();
            send(&mut stream, &of_pod(&node, "ADD", pod), &[netns.as_fd()]);
            stream
        };
        let calls: Vec<UnixStream> = names.iter().zip(&netns).map(call).collect();
        let next = is_replaced.then(Daemon::start);
        daemon.terminate();
        kill(daemon.pid(), Signal::SIGCONT).unwrap();
        for (mut call, pod) in calls.into_iter().zip(&names) {
            let said = answer(&mut call);
            assert!(matches!(said, Said::Result(_)), "{pod}, replaced: {is_replaced}: {said:?}");
        }
        assert!(daemon.ended().success());
        Calls::start(&node, "DEL", &names).ok(&node);
        assert_eq!(left(&node), Vec::<String>::new());
        drop(next);
    }
}

fn half_a_frame() {
    let node = node("fail");
    let daemon = Daemon::start();
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", NETWORKS)]);
    let netns = File::open(node.bed.netns("a")).unwrap();
    let frame = of_pod(&node, "ADD", "a");
    let (begin, end) = frame.split_at(frame.len() / 2);
    let inode = netns.metadata().unwrap().ino();
    let mut stream = connect();
    send(&mut stream, begin, &[netns.as_fd()]);
    until("it has the namespace", || daemon.holds(inode));
    daemon.terminate();
    until("nobody new is heard", || socket_id().is_none());
    send(&mut stream, end, &[]);
    let said = answer(&mut stream);
    assert!(matches!(said, Said::Result(_)), "{said:?}");
    assert!(daemon.ended().success());
    node.call("DEL", "a").run().ok();
    assert_eq!(left(&node), Vec::<String>::new());
}
