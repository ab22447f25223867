//! A request that executes plugins is served by plexus-cni with what the daemon knows: it asks no API server, and what it has to
//! tell the daemon tells.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::frame::{Said, answer, connect, request, send};
use super::{DIR, Daemon, left, until};
use crate::api::{Member, NETWORKS};
use crate::case::Case;
use crate::kube::{Door, Fault};
use crate::need::Need;

pub(super) fn cases() -> Vec<Case> {
    let api = &[Need::ApiServer];
    vec![
        Case::new("daemon::handed_over_the_daemon_alone_asks_and_tells", api, told),
        Case::new("daemon::handed_over_what_fails_is_one_event", api, failed),
        Case::new("daemon::handed_over_what_a_del_left_is_one_event", api, stuck),
        Case::new("daemon::handed_over_while_the_server_is_away", api, away),
        Case::new("daemon::handed_over_by_a_daemon_that_is_killed_then", api, killed),
        Case::new("daemon::handed_over_before_answer_is_waited_for", api, before_answer),
        Case::new("daemon::handed_over_strange_tidings_are_refused", api, strange),
        Case::new("daemon::handed_over_where_the_daemon_alone_knows_the_server", api, own_login),
        Case::new("daemon::told_while_another_request_waits", api, beside),
    ]
}

/// Says who executed it, and passes on what it got.
const NOTED: &str = r#"conf=$(cat); echo "$CNI_COMMAND $(cat /proc/$PPID/comm)" >>/run/scratch/noted
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#;

fn member() -> Member {
    let mut member = Member::new();
    member.node.conf["daemonSocketDir"] = json!(DIR);
    member.node.conf["fallback"] = json!("fail");
    member.node.script("noted", NOTED);
    let chain = json!({"cniVersion": "1.0.0", "name": "chain", "plugins": [
        {"type": "bridge", "bridge": "green0", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.4.0.0/24"}]]}},
        {"type": "noted"}]});
    member.cluster.definition("chain", &chain);
    member
}

/// The node's configuration says nothing of an API server, and the daemon was told: of what it attaches, and of what it gives back.
fn own_login() {
    let mut member = member();
    let kubeconfig = member.node.conf.as_object_mut().unwrap().remove("kubeconfig").unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_plexus"));
    let daemon = Daemon::start_as(program, None, &["--kubeconfig", kubeconfig.as_str().unwrap()]);
    for (pod, kind, networks) in [
        ("first", "plexus-cni", "green"),
        ("a", "plexus-cni", "green"),
        ("b", "multus-shim", "green"),
        ("c", "plexus-cni", "chain"),
    ] {
        member.node.conf["type"] = json!(kind);
        let (uid, answer) = member.add(pod, networks);
        answer.ok();
        assert_eq!(member.node.addresses(pod, "net1").len(), 1, "{pod}");
        until("its status is written", || member.cluster.get_pod(pod).to_string().contains("network-status"));
        assert_eq!(names(&member.cluster.network_status(pod)).len(), 2, "{pod}");
        member.del(pod, &uid);
    }
    assert_clean(&member);
    daemon.stop();
}

fn names(status: &Value) -> Vec<String> {
    status.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

/// What the daemon knew last of everybody's definitions stays.
fn assert_clean(member: &Member) {
    let left: Vec<String> =
        left(&member.node).into_iter().filter(|what| !what.starts_with("record definitions/")).collect();
    assert_eq!(left, Vec::<String>::new());
}

fn notes() -> Vec<PathBuf> {
    let entries = fs::read_dir("/var/lib/cni/plexus/unwritten").into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn told() {
    let member = member();
    let daemon = Daemon::start();
    // The first request has it ask for what it does not watch yet.
    for pod in ["first", "a"] {
        let (uid, answer) = member.add(pod, "chain,green");
        answer.ok();
        assert_eq!((member.node.addresses(pod, "net1").len(), member.node.addresses(pod, "net2").len()), (1, 1));
        until("the daemon has told it", || member.cluster.get_pod(pod).to_string().contains("network-status"));
        let namespace = member.cluster.namespace();
        let expected = ["pod-network", &format!("{namespace}/chain"), &format!("{namespace}/green")];
        assert_eq!(names(&member.cluster.network_status(pod))[1..], expected[1..]);
        until("its events, too", || {
            member.cluster.events().iter().filter(|(reason, _)| reason == "AddedInterface").count() >= 3
        });
        until("nothing is noted as unwritten", || notes().is_empty());
        member.del(pod, &uid);
    }
    let events = member.cluster.events();
    assert!(events.iter().all(|(reason, _)| reason == "AddedInterface"), "{events:?}");
    let noted = fs::read_to_string("/run/scratch/noted").unwrap();
    assert_eq!(noted, "ADD plexus-cni\nDEL plexus-cni\n".repeat(2), "not by `plexus oneshot`");
    assert_clean(&member);
    daemon.stop();
}

fn failed() {
    let member = member();
    let daemon = Daemon::start();
    member.node.script(
        "noted",
        r#"cat >/dev/null; [ "$CNI_COMMAND" != ADD ] || { echo '{"code": 100, "msg": "no"}'; exit 1; }"#,
    );
    let (uid, answer) = member.add("a", "chain");
    answer.fails(100, "no");
    until("it is told", || !member.cluster.events().is_empty());
    let events = member.cluster.events();
    assert!(
        matches!(events.as_slice(), [(reason, text)] if reason == "FailedAddingInterface" && text.contains("no")),
        "{events:?}"
    );
    member.del("a", &uid);
    assert_clean(&member);
    daemon.stop();
}

/// A DEL that fails, whoever served it: by the daemon, which cannot read a record, or by plexus-cni, whose plugin refuses.
fn stuck() {
    let member = member();
    let daemon = Daemon::start();
    let refusing = format!(
        "if [ \"$CNI_COMMAND\" = DEL ] && [ -e /run/scratch/stubborn ]; then echo '{}'; exit 1; fi\n{NOTED}",
        r#"{"cniVersion": "1.0.0", "code": 11, "msg": "the switch does not answer"}"#
    );
    member.node.script("noted", &refusing);
    let (uid, answer) = member.add("a", "chain");
    answer.ok();
    member.node.bed.file("stubborn", "");
    for _ in 0..3 {
        assert_eq!(member.call("DEL", "a", &uid).run().rc, Some(1));
    }
    let of_del = || -> Vec<String> {
        let events = member.cluster.events().into_iter();
        events.filter(|(reason, _)| reason == "FailedRemovingInterface").map(|(_, text)| text).collect()
    };
    until("it is told", || !of_del().is_empty());
    let told = of_del();
    assert!(
        told.len() == 1 && told[0].contains("the switch does not answer") && told[0].contains("plexus gc"),
        "{told:?}"
    );
    fs::remove_file("/run/scratch/stubborn").unwrap();
    member.del("a", &uid);
    assert_clean(&member);
    daemon.stop();
}

fn away() {
    let member = member();
    let daemon = Daemon::start();
    let (_, answer) = member.add("a", "chain");
    answer.ok();
    let uid = member.pod("b", &[(NETWORKS, "chain")]);
    // Pods are watched where the node's name is known: here each is asked for.
    member.cluster.fail("PATCH", "/pods/b", usize::MAX, Fault::Status(503));
    member.call("ADD", "b", &uid).run().ok();
    until("it is noted", || notes().iter().any(|note| note.ends_with(&uid)));
    member.cluster.heal();
    until("it is written", || member.cluster.get_pod("b").to_string().contains("network-status"));
    member.cluster.door(Door::Refused);
    member.del("b", &uid);
    daemon.stop();
}

fn killed() {
    let member = member();
    let daemon = Daemon::start();
    let kills = format!("kill -9 {}\n{NOTED}", daemon.pid());
    member.node.script("noted", &kills);
    let (uid, answer) = member.add("a", "chain");
    answer.ok();
    assert!(answer.stderr.contains("its status is written later"), "{}", answer.stderr);
    assert!(notes().iter().any(|note| note.ends_with(&uid)));
    drop(daemon);
    member.node.script("noted", NOTED);
    let daemon = Daemon::start();
    let (other, answer) = member.add("b", "chain");
    answer.ok();
    until("the next daemon writes it", || member.cluster.get_pod("a").to_string().contains("network-status"));
    member.del("a", &uid);
    member.del("b", &other);
    assert_clean(&member);
    daemon.stop();
}

fn before_answer() {
    let mut member = member();
    member.node.conf["statusBeforeAnswer"] = json!(true);
    let daemon = Daemon::start();
    let (uid, answer) = member.add("a", "chain");
    answer.ok();
    assert_eq!(names(&member.cluster.network_status("a")).len(), 2);
    member.del("a", &uid);
    daemon.stop();
}

/// A request that waits for something keeps nobody else's status for as long as it waits, also where no other request comes.
fn beside() {
    let mut member = member();
    member.node.conf["appearWaitMs"] = json!(60_000);
    member.node.conf["apiDeadlineMs"] = json!(120_000);
    let daemon = Daemon::start();
    let late = member.pod("late", &[(NETWORKS, "absent")]);
    let mut waiting = member.call("ADD", "late", &late).start();
    until("it waits", || member.cluster.seen().iter().any(|seen| seen.path.ends_with("/absent")));
    let (uid, answer) = member.add("a", "green");
    answer.ok();
    until("the other one's status is written", || {
        assert!(waiting.try_wait().unwrap().is_none(), "it waits still");
        member.cluster.get_pod("a").to_string().contains("network-status")
    });
    member.del("late", &late);
    assert_eq!(waiting.wait().unwrap().code(), Some(1), "its DEL has ended it");
    member.del("a", &uid);
    assert_clean(&member);
    daemon.stop();
}

fn strange() {
    let member = member();
    let daemon = Daemon::start();
    let (uid, attached) = member.add("a", "chain");
    attached.ok();
    until("all is told", || notes().is_empty() && member.cluster.get_pod("a").to_string().contains("network-status"));
    member.del("a", &uid);
    let before = daemon.descriptors();
    drop(member.cluster.seen());
    let conf = serde_json::to_vec(&member.node.conf).unwrap();
    let empty = r#"{"pod": {"namespace": "a", "name": "b"}, "status": null, "arrivals": [], "error": null}"#;
    let deep = "[".repeat(100_000);
    for (news, conf) in [("", &*conf), ("{}", &conf), (empty, &conf), (&deep, &conf), (empty, b"{"), (empty, b"")] {
        let mut stream = connect();
        let pairs = [("PLEXUS_NEWS", news.as_bytes()), ("CNI_CONTAINERID", b"a")];
        send(&mut stream, &request(&pairs, conf), &[]);
        assert!(matches!(answer(&mut stream), Said::Error(_)), "{news:.80}");
    }
    daemon.awaits_descriptors(before);
    assert_eq!((notes(), member.cluster.seen().len()), (vec![], 0));
    assert!(Path::new("/proc").join(daemon.pid().to_string()).exists());
    daemon.stop();
}
