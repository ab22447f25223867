//! Calls of one sandbox are served in the order in which they came, and what its DEL makes needless is not begun.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::{Signal, kill};

use super::frame::{Said, answer, connect, of_pod, send};
use super::{DIR, Daemon, hold_pool, left, node, pods, records, until};
use crate::case::Case;
use crate::meta::Node;
use crate::need::Need;

pub(super) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    vec![
        Case::new("daemon::order_add_and_del_at_once_leave_nothing", mac, at_once),
        Case::new("daemon::order_a_waiting_add_is_cancelled_by_its_del", mac, cancelled),
        Case::new("daemon::order_a_del_waits_for_the_add_before_it", mac, behind),
        Case::new("daemon::order_an_add_whose_time_is_over_is_undone", mac, late),
    ]
}

/// ADDs that the daemon serves at once.
pub(super) const ADDS_MAX: usize = 12;
const ROUNDS: usize = 40;
const NETWORKS: &str = "blue,green";

/// A call of which the answer is not waited for.
fn start(node: &Node, command: &str, pod: &str) -> UnixStream {
    let netns = File::open(node.bed.netns(pod)).unwrap();
    let mut stream = connect();
    send(&mut stream, &of_pod(node, command, pod), &[netns.as_fd()]);
    stream
}

fn at_once() {
    let node = node("fail");
    let daemon = Daemon::start();
    let names = pods(&node, 3, NETWORKS);
    for round in 0..ROUNDS {
        // In every second round all have come before the daemon sees the first.
        if round % 2 == 0 {
            kill(daemon.pid(), Signal::SIGSTOP).unwrap();
        }
        let calls = names.iter().map(|pod| ["ADD", "DEL"].map(|command| start(&node, command, pod)));
        let calls: Vec<[UnixStream; 2]> = calls.collect();
        kill(daemon.pid(), Signal::SIGCONT).unwrap();
        for mut call in calls {
            let [added, deleted] = call.each_mut().map(answer);
            let is_fine = match &added {
                Said::Result(_) => deleted == Said::Result(serde_json::Value::Null),
                // Cancelled while it waited, or on its way: the DEL may find nothing then.
                said => said.code() == Some(11) && matches!(deleted, Said::Result(_) | Said::Yours),
            };
            assert!(is_fine, "round {round}: {added:?}, {deleted:?}");
        }
        assert_eq!(left(&node), Vec::<String>::new(), "round {round}");
    }
    daemon.stop();
}

fn cancelled() {
    let node = node("fail");
    let daemon = Daemon::start();
    let names = pods(&node, ADDS_MAX + 1, NETWORKS);
    let (late, names) = names.split_last().unwrap();
    let held = hold_pool();
    let mut adds: Vec<UnixStream> = names.iter().map(|pod| start(&node, "ADD", pod)).collect();
    until("as many as can are in their middle", || records() == ADDS_MAX);
    let mut waits = start(&node, "ADD", late);
    let mut removes = start(&node, "DEL", late);
    let said = answer(&mut waits);
    assert_eq!(said.code(), Some(11), "{said:?}");
    assert_eq!(answer(&mut removes), Said::Yours, "nothing is recorded of it: plexus-cni looks for what others left");
    assert_eq!(records(), ADDS_MAX, "all others wait still");
    drop(held);
    for add in &mut adds {
        let said = answer(add);
        assert!(matches!(said, Said::Result(_)), "{said:?}");
    }
    for pod in names {
        node.call("DEL", pod).run().ok();
    }
    assert_eq!(left(&node), Vec::<String>::new());
    daemon.stop();
}

fn late() {
    let node = node("fail");
    let daemon = Daemon::start_as(Path::new(env!("CARGO_BIN_EXE_plexus")), None, &["--request-time", "1"]);
    let names = pods(&node, 1, NETWORKS);
    let held = hold_pool();
    let mut add = start(&node, "ADD", &names[0]);
    until("its time is over", || daemon.said().contains("has had its time"));
    assert_eq!(records(), 1, "it is in its middle");
    drop(held);
    let said = answer(&mut add);
    assert!(said.code() == Some(11) && format!("{said:?}").contains("has undone it"), "{said:?}");
    assert_eq!((left(&node), records()), (vec![], 0));
    assert!(page("/metrics").contains("plexus_requests_refused_total{reason=\"deadline\"} 1\n"));
    daemon.stop();
}

/// What the daemon shows there.
fn page(path: &str) -> String {
    let mut stream = UnixStream::connect(format!("{DIR}/metrics.sock")).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: plexus\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn behind() {
    let node = node("fail");
    let daemon = Daemon::start();
    let names = pods(&node, 2, NETWORKS);
    node.call("ADD", &names[1]).run().ok();
    let held = hold_pool();
    let mut add = start(&node, "ADD", &names[0]);
    until("it is in its middle", || records() == 2);
    let mut del = start(&node, "DEL", &names[0]);
    drop(held);
    let said = answer(&mut del);
    assert_eq!(said, Said::Result(serde_json::Value::Null), "what was attached before it is gone");
    let said = answer(&mut add);
    assert!(matches!(said, Said::Result(_)) || said.code() == Some(11), "{said:?}");
    assert_eq!((node.bed.links(&names[0]), records()), (vec!["lo".to_owned()], 1));
    node.call("DEL", &names[1]).run().ok();
    assert_eq!(left(&node), Vec::<String>::new());
    daemon.stop();
}
