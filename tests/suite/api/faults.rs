//! What can go wrong between a node and its API server, one by one. What is asserted is the answer, what is left, and how often
//! the server was asked; never a time.

use std::path::Path;
use std::sync::{Mutex, mpsc};

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("api::faults::a_server_that_cannot_be_reached", needs, unreachable),
        Case::new("api::faults::d19_del_does_not_wait_for_the_server", needs, del),
        Case::new("api::faults::d22_del_without_a_kubeconfig", needs, no_kubeconfig),
        Case::new("api::faults::d19_a_slow_server_is_slow_and_no_more", needs, slow),
        Case::new("api::faults::what_passes_is_tried_again", needs, passing),
        Case::new("api::faults::what_lasts_is_told_at_once", needs, lasting),
        Case::new("api::faults::a_token_rotated_in_the_middle_of_a_request", needs, rotated),
        Case::new("api::faults::a_deadline_says_its_limit_and_its_key", needs, deadlines),
        Case::new("api::faults::a_definition_deleted_between_add_and_del", needs, deleted),
        Case::new("api::faults::a_definition_that_is_nowhere", needs, nowhere),
        Case::new("api::faults::add_waits_for_the_server_and_its_runtime_is_restarted", needs, restarted),
    ]
}

fn unreachable() {
    let mut member = Member::new();
    member.node.conf["apiDeadlineMs"] = json!(700);
    for (pod, door) in [("a", Door::Refused), ("b", Door::Silent), ("c", Door::Expired)] {
        let uid = member.pod(pod, &[(NETWORKS, "blue")]);
        member.cluster.door(door);
        let answer = member.call("ADD", pod, &uid).run();
        let msg = refused(&answer, if door == Door::Expired { 7 } else { 11 });
        assert!(msg.contains("asking the API server for pod") && msg.contains("https://127.0.0.1"), "{door:?}: {msg}");
        assert_eq!(member.node.bed.links(pod), ["lo"], "{door:?}");
        member.cluster.door(Door::Open);
        member.call("ADD", pod, &uid).run().ok();
        member.del(pod, &uid);
    }
    member.assert_clean();
}

fn del() {
    let member = Member::new();
    for (pod, door) in [("a", Door::Silent), ("b", Door::Refused)] {
        let (uid, answer) = member.add(pod, "blue,green");
        answer.ok();
        member.cluster.door(door);
        member.cluster.seen();
        member.del(pod, &uid);
        assert_eq!(member.cluster.seen(), []);
        assert_eq!(member.node.bed.links(pod), ["lo"]);
        member.cluster.door(Door::Open);
    }
    // Behind a closed door nothing is counted: here every request would be, and wait.
    let (uid, answer) = member.add("c", "blue,green");
    answer.ok();
    member.cluster.seen();
    member.cluster.fail("", "", usize::MAX, Fault::Hang);
    member.del("c", &uid);
    assert_eq!(member.cluster.seen(), []);
    member.assert_clean();
}

fn no_kubeconfig() {
    let member = Member::new();
    let (uid, answer) = member.add("a", "blue");
    answer.ok();
    fs::remove_file("/run/scratch/kubeconfig").unwrap();
    member.del("a", &uid);
    member.assert_clean();
    let uid = member.pod("b", &[(NETWORKS, "blue")]);
    let msg = refused(&member.call("ADD", "b", &uid).run(), 11);
    assert!(msg.contains("reading the kubeconfig /run/scratch/kubeconfig"), "{msg}");
    fs::write("/run/scratch/kubeconfig", "a: [}").unwrap();
    let msg = refused(&member.call("ADD", "b", &uid).run(), 11);
    assert!(msg.contains("kubeconfig"), "{msg}");
    member.del("b", &uid);
}

fn slow() {
    let mut member = Member::new();
    // With what holds where nothing is configured.
    member
        .node
        .conf
        .as_object_mut()
        .unwrap()
        .retain(|key, _| !["apiCallTimeoutMs", "apiDeadlineMs", "appearWaitMs"].contains(&key.as_str()));
    member.cluster.fail("", "", usize::MAX, Fault::Slow(SLOW));
    let (uid, answer) = member.add("a", "blue,green");
    answer.ok();
    assert_eq!(member.cluster.network_status("a").as_array().unwrap().len(), 3, "the status is written, too");
    member.del("a", &uid);
}

fn passing() {
    let member = Member::new();
    for (index, fault) in
        [Fault::Status(500), Fault::Status(503), Fault::Status(429), Fault::Status(410), Fault::Cut, Fault::Lost]
            .into_iter()
            .enumerate()
    {
        for path in ["/pods/", "network-attachment-definitions"] {
            member.cluster.fail("GET", path, 2, fault.clone());
        }
        member.cluster.fail("PATCH", "", 1, fault.clone());
        let pod = format!("a{index}");
        let (uid, answer) = member.add(&pod, "blue");
        assert!(answer.succeeded(), "{fault:?}: {}", answer.stdout);
        assert_eq!(member.cluster.network_status(&pod)[1]["interface"], "net1", "{fault:?}");
        member.cluster.heal();
        member.del(&pod, &uid);
    }
    member.assert_clean();
}

fn lasting() {
    let mut member = Member::new();
    member.cluster.fail("GET", "/pods/", usize::MAX, Fault::Status(403));
    let msg = refused(&member.add("a", "blue").1, 7);
    assert!(msg.contains("forbids it (403)"), "{msg}");
    assert_eq!(member.asked("GET").len(), 1, "it is not asked again");
    member.cluster.heal();
    member.node.conf["kubeconfig"] =
        json!(member.cluster.kubeconfig(&member.node.bed, &Login::Token(NOBODY.to_owned())));
    let msg = refused(&member.add("b", "blue").1, 7);
    assert!(msg.contains("403"), "{msg}");
    member.node.conf["kubeconfig"] =
        json!(member.cluster.kubeconfig(&member.node.bed, &Login::Token("nobody-knows-it".to_owned())));
    let msg = refused(&member.add("c", "blue").1, 7);
    assert!(msg.contains("401"), "{msg}");
    member.assert_clean();
}

/// The old token is refused from the second request on, or from the last one.
fn rotated() {
    let mut member = Member::new();
    for (pod, networks, path) in
        [("a", "blue", "/pods/"), ("b", "blue,green", "/pods/"), ("c", "blue", "network-attachment-definitions")]
    {
        let token = member.node.bed.file("token", TOKEN);
        member.node.conf["kubeconfig"] =
            json!(member.cluster.kubeconfig(&member.node.bed, &Login::TokenFile(token.clone())));
        let cluster = Arc::clone(&member.cluster);
        member.cluster.before("GET", path, 1, move || {
            cluster.revoke(TOKEN);
            fs::write(&token, NEXT_TOKEN).unwrap();
        });
        let (uid, answer) = member.add(pod, networks);
        answer.ok();
        assert_eq!(member.cluster.network_status(pod)[1]["interface"], "net1", "{pod}: {}", answer.stderr);
        member.cluster.heal();
        member.del(pod, &uid);
    }
    // What is not written anew is not tried again.
    let token = member.node.bed.file("token", TOKEN);
    member.node.conf["kubeconfig"] = json!(member.cluster.kubeconfig(&member.node.bed, &Login::TokenFile(token)));
    member.cluster.revoke(TOKEN);
    member.cluster.seen();
    let (_, answer) = member.add("d", "blue");
    assert!(refused(&answer, 7).contains("401"), "{}", answer.stdout);
    assert_eq!(member.asked("GET").len(), 1);
    member.assert_clean();
}

fn deadlines() {
    let mut member = Member::new();
    member.cluster.door(Door::Silent);
    for (pod, call, whole, part) in [
        (
            "a",
            300,
            350,
            "did not answer in time: one call has 300 ms (apiCallTimeoutMs), a request 350 ms (apiDeadlineMs)",
        ),
        (
            "b",
            3000,
            400,
            "did not answer in time: one call has 3000 ms (apiCallTimeoutMs), a request 400 ms (apiDeadlineMs)",
        ),
    ] {
        member.node.conf["apiCallTimeoutMs"] = json!(call);
        member.node.conf["apiDeadlineMs"] = json!(whole);
        let (_, answer) = member.add(pod, "blue");
        let msg = refused(&answer, 11);
        assert!(msg.contains(part) && !msg.contains(" 0 ms"), "{msg}");
    }
}

fn deleted() {
    let member = Member::new();
    let (uid, answer) = member.add("a", "blue,green");
    answer.ok();
    member.cluster.delete_definition("blue");
    member.cluster.delete_definition("green");
    member.cluster.delete_pod("a");
    member.call("CHECK", "a", &uid).run().ok();
    member.del("a", &uid);
    member.del("a", &uid);
    member.assert_clean();
}

fn nowhere() {
    let member = Member::new();
    let (_, answer) = member.add("a", "blue,nowhere");
    let msg = refused(&answer, 7);
    assert!(msg.contains("cannot find a network-attachment-definition (nowhere) in namespace"), "{msg}");
    assert_eq!(member.node.bed.links("a"), ["lo"]);
    let events = member.cluster.events();
    assert_eq!((events.len(), events[0].0.as_str()), (1, "NoNetworkFound"), "{events:?}");
    assert!(!Path::new("/var/lib/cni/plexus/journal").join("node:id-a:eth0.jsonl").exists());
}

/// The runtime that asked is killed, its successor sends DEL, which finds nothing; then the server answers who still waits for it.
fn restarted() {
    let member = Member::new();
    for (pod, asked) in [("a", "/pods/a"), ("b", "network-attachment-definitions")] {
        let uid = member.pod(pod, &[(NETWORKS, "blue,green")]);
        let ((reached, waits), (go, goes)) = (mpsc::channel(), mpsc::channel());
        let goes = Mutex::new(goes);
        member.cluster.before("GET", asked, 1, move || {
            reached.send(()).unwrap();
            goes.lock().unwrap().recv().unwrap();
        });
        let mut add = member.call("ADD", pod, &uid).start();
        waits.recv().unwrap();
        drop((add.stdout.take(), add.stderr.take()));
        member.del(pod, &uid);
        go.send(()).unwrap();
        assert_eq!(add.wait().unwrap().code(), Some(1), "nobody hears it");
        assert_eq!(member.node.bed.links(pod), ["lo"]);
    }
    member.assert_clean();
}
