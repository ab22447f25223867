//! Plugins are executed for so many pods at once, by whoever was given the request back: a lease lasts as long as its connection.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::json;

use super::frame::{Said, answer_head, connect, request, send};
use super::{Calls, DIR, Daemon, left, node, pods, until};
use crate::api::{Member, NETWORKS};
use crate::case::Case;
use crate::need::Need;
use crate::observe::has;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("daemon::lease_plugins_are_executed_for_so_many_pods", &[], so_many),
        Case::new("daemon::lease_who_works_for_a_pod_that_has_one_does_not_wait", &[], nested),
        Case::new("daemon::lease_is_had_by_oneshot_too", &[Need::ApiServer], oneshot),
    ]
}

/// For how many pods.
const EXECUTIONS: usize = 2;
/// Says that it is at work, and is until it may end.
const BUSY: &str = r#"conf=$(cat); [ "$CNI_COMMAND" = ADD ] || exit 0
: >"/run/scratch/busy/$CNI_CONTAINERID"
while [ ! -e /run/scratch/go ]; do sleep 0.01; done
printf '%s' "$conf" | jq .prevResult"#;

fn daemon() -> Daemon {
    let number = EXECUTIONS.to_string();
    Daemon::start_as(Path::new(env!("CARGO_BIN_EXE_plexus")), None, &["--executions", &number])
}

fn busy() -> usize {
    fs::read_dir("/run/scratch/busy").unwrap().count()
}

fn so_many() {
    let node = node("fail");
    let daemon = daemon();
    node.script("noted", BUSY);
    fs::create_dir("/run/scratch/busy").unwrap();
    let names = pods(&node, 5, "chained");
    let mut calls = Calls::start(&node, "ADD", &names);
    has("plexus_executions_waiting 3");
    until("as many as may are at work", || busy() == EXECUTIONS);
    has("plexus_executions_under_way 2");
    // Whose runtime kills it makes room, whatever its plugin does.
    let killed =
        names.iter().position(|name| Path::new("/run/scratch/busy").join(format!("id-{name}")).exists()).unwrap();
    let mut child = calls.0.remove(killed);
    child.kill().unwrap();
    child.wait().unwrap();
    has("plexus_executions_waiting 2");
    until("the next one is at work", || busy() == EXECUTIONS + 1);
    has("plexus_executions_under_way 2");
    fs::write("/run/scratch/go", "").unwrap();
    calls.ok(&node);
    has("plexus_executions_under_way 0");
    // A DEL of what executed plugins is one of them.
    Calls::start(&node, "DEL", &names).ok(&node);
    assert_eq!(left(&node), Vec::<String>::new());
    daemon.stop();
}

/// A request that asks the API is served by another program in the place of plexus-cni.
fn oneshot() {
    let mut member = Member::new();
    member.node.conf["daemonSocketDir"] = json!(DIR);
    member.node.conf["fallback"] = json!("fail");
    let daemon = daemon();
    member.node.script("noted", BUSY);
    fs::create_dir("/run/scratch/busy").unwrap();
    let chain = json!({"cniVersion": "1.0.0", "name": "chain", "plugins": [{"type": "bridge", "bridge": "green0"}, {"type": "noted"}]});
    member.cluster.definition("chain", &chain);
    let uid = member.pod("a", &[(NETWORKS, "chain")]);
    let mut call = member.call("ADD", "a", &uid).start();
    until("its plugin is at work", || busy() == 1);
    has("plexus_executions_under_way 1");
    fs::write("/run/scratch/go", "").unwrap();
    assert!(call.wait().unwrap().success());
    has("plexus_executions_under_way 0");
    member.del("a", &uid);
    daemon.stop();
}

fn lease(sandbox: &str) -> UnixStream {
    let mut stream = connect();
    send(&mut stream, &request(&[("PLEXUS_LEASE", sandbox.as_bytes())], b""), &[]);
    stream
}

fn nested() {
    let _node = node("fail");
    let daemon = daemon();
    // Its page is open, which it is a moment after its socket.
    has("plexus_executions_waiting 0");
    let before = daemon.descriptors();
    let [mut first, mut second] = ["a", "b"].map(lease);
    assert_eq!([answer_head(&mut first), answer_head(&mut second)], [Said::Yours, Said::Yours]);
    let mut waits = lease("c");
    has("plexus_executions_waiting 1");
    let mut nested = lease("a");
    assert_eq!(answer_head(&mut nested), Said::Yours, "it would wait for itself");
    drop(nested);
    // Of somebody who has gone meanwhile.
    drop(lease("d"));
    has("plexus_executions_waiting 2");
    drop(second);
    assert_eq!(answer_head(&mut waits), Said::Yours);
    drop((first, waits));
    has("plexus_executions_under_way 0");
    has("plexus_executions_waiting 0");
    daemon.awaits_descriptors(before);
    daemon.stop();
}
