//! Somebody is killed while the daemon serves: the daemon itself at any instant, or who asked it. Nothing stays that nobody knows.

use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::frame::{answer, connect, of_pod, send};
use super::order::ADDS_MAX;
use super::{Calls, Daemon, hold_pool, left, node, pods, records, until};
use crate::case::Case;
use crate::crash::{CYCLES_VARIABLE, Random, SEED_VARIABLE, variable};
use crate::meta::Node;
use crate::need::Need;

pub(super) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    vec![
        Case::new("daemon::killed_at_any_instant_nothing_is_lost", mac, cycles),
        Case::new("daemon::its_caller_is_killed_while_it_serves", mac, caller_killed),
        Case::new("daemon::its_caller_is_gone_before_it_serves", mac, caller_gone),
        Case::new("daemon::its_callers_answer_is_heard_by_nobody", mac, unheard),
        Case::new("daemon::killed_in_the_middle_the_next_one_does_it", mac, killed_in_the_middle),
    ]
}

/// How many cycles unless [`CYCLES_VARIABLE`] says another number; 500 is the long run.
const CYCLES: u64 = 50;
/// Pods at once.
const PODS: usize = 6;
const NETWORKS: &str = "blue,green";

fn cycles() {
    let mut node = node("oneshot");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = variable(SEED_VARIABLE).unwrap_or_else(|| u64::from(now));
    let mut random = Random(seed | 1);
    let mut daemon = Daemon::start();
    let names = pods(&node, PODS, NETWORKS);
    // Over an undisturbed wave, and a little more, the instants are spread.
    let usual = (0..2).map(|_| undisturbed(&node, &names)).max().unwrap().mul_f64(1.25);
    for number in 0..variable(CYCLES_VARIABLE).unwrap_or(CYCLES) {
        let fallback = if number % 2 == 0 { "oneshot" } else { "fail" };
        let delay = usual.mul_f64(random.share());
        node.bed.note(&format!("cycle {number}: {fallback}, killed after {delay:?} ({SEED_VARIABLE}={seed})\n"));
        node.conf["fallback"] = json!(fallback);
        daemon = one(&node, &names, daemon, delay);
        assert_eq!(left(&node), Vec::<String>::new(), "left over after cycle {number}, {SEED_VARIABLE}={seed}");
    }
    daemon.stop();
}

fn undisturbed(node: &Node, names: &[String]) -> Duration {
    let start = Instant::now();
    Calls::start(node, "ADD", names).ok(node);
    let took = start.elapsed();
    Calls::start(node, "DEL", names).ok(node);
    took
}

/// Half of the pods come and the other half goes while the daemon is killed; then all go. The daemon that came after.
fn one(node: &Node, names: &[String], daemon: Daemon, delay: Duration) -> Daemon {
    let (come, go) = names.split_at(names.len() / 2);
    Calls::start(node, "ADD", go).ok(node);
    let dels = Calls::start(node, "DEL", go);
    let adds = Calls::start(node, "ADD", come);
    daemon.kill_after(delay);
    dels.ok(node);
    let refused: Vec<String> = adds
        .answers()
        .into_iter()
        .zip(come)
        .filter_map(|(answer, pod)| {
            node.bed.note(&format!("{pod}: {answer:?}\n"));
            if answer.succeeded() {
                return None;
            }
            assert_eq!(node.conf["fallback"], "fail", "{answer:?}");
            answer.fails(11, "is away");
            Some(pod.clone())
        })
        .collect();
    // A runtime removes what failed before it tries again.
    Calls::start(node, "DEL", &refused).ok(node);
    let next = Daemon::start();
    Calls::start(node, "ADD", &refused).ok(node);
    Calls::start(node, "CHECK", come).ok(node);
    Calls::start(node, "DEL", names).ok(node);
    for pod in names {
        assert_eq!(node.bed.links(pod), ["lo"], "{pod}");
    }
    next
}

fn caller_killed() {
    let node = node("fail");
    let daemon = Daemon::start();
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", NETWORKS)]);
    let held = hold_pool();
    let mut calls = Calls::start(&node, "ADD", &["a".to_owned()]);
    until("the daemon is in the middle of it", || records() == 1);
    let mut caller = calls.0.pop().unwrap();
    kill(Pid::from_raw(i32::try_from(caller.id()).unwrap()), Signal::SIGKILL).unwrap();
    caller.wait().unwrap();
    assert_eq!(records(), 1);
    drop(held);
    until("the daemon has detached what nobody heard of", || left(&node).is_empty());
    assert_eq!(node.bed.links("a"), ["lo"]);
    assert!(daemon.said().contains("the caller has gone"), "{}", daemon.said());
    node.call("ADD", "a").run().ok();
    node.call("DEL", "a").run().ok();
    assert_eq!(left(&node), Vec::<String>::new());
    daemon.stop();
}

/// As many as are served at once wait in their middle; one more has not begun.
fn caller_gone() {
    let node = node("fail");
    let daemon = Daemon::start();
    let names = pods(&node, ADDS_MAX + 1, NETWORKS);
    let (late, names) = names.split_last().unwrap();
    let held = hold_pool();
    let calls = Calls::start(&node, "ADD", names);
    until("all are in the middle", || records() == ADDS_MAX);
    let netns = std::fs::File::open(node.bed.netns(late)).unwrap();
    let mut stream = connect();
    send(&mut stream, &of_pod(&node, "ADD", late), &[std::os::fd::AsFd::as_fd(&netns)]);
    drop(stream);
    drop(held);
    calls.ok(&node);
    // Behind it in its sandbox's line: when this is answered, it is over.
    let mut stream = connect();
    send(&mut stream, &of_pod(&node, "DEL", late), &[std::os::fd::AsFd::as_fd(&netns)]);
    answer(&mut stream);
    assert_eq!((node.bed.links(late), records()), (vec!["lo".to_owned()], ADDS_MAX));
    Calls::start(&node, "DEL", names).ok(&node);
    assert_eq!(left(&node), Vec::<String>::new());
    daemon.stop();
}

/// The daemon lives, plexus-cni lives, and the runtime has gone: what was attached is detached, through the daemon.
fn unheard() {
    let node = node("fail");
    let daemon = Daemon::start();
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", NETWORKS)]);
    assert_eq!(node.call("ADD", "a").run_unheard(), Some(1));
    assert_eq!((left(&node), node.bed.links("a")), (vec![], vec!["lo".to_owned()]));
    daemon.stop();
}

/// What a daemon had begun is undone, whatever the fallback; who may go on then does, and finds the pod as it was.
fn killed_in_the_middle() {
    let mut node = node("fail");
    node.conf["daemonWaitMs"] = json!(60_000);
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", NETWORKS)]);
    for fallback in ["fail", "oneshot", "wait"] {
        node.conf["fallback"] = json!(fallback);
        let daemon = Daemon::start();
        let held = hold_pool();
        let call = Calls::start(&node, "ADD", &["a".to_owned()]);
        until("it is in the middle", || records() == 1);
        daemon.kill_after(Duration::ZERO);
        drop(held);
        let next = (fallback == "wait").then(Daemon::start);
        let answer = call.answers().remove(0);
        if fallback == "fail" {
            answer.fails(11, "is away");
        } else {
            answer.ok();
            node.call("CHECK", "a").run().ok();
            node.call("DEL", "a").run().ok();
        }
        assert_eq!((left(&node), node.bed.links("a")), (vec![], vec!["lo".to_owned()]), "{fallback}");
        drop(next);
    }
}
