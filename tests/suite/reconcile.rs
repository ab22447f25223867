//! What a daemon's reconciling tells and collects: through the library, on a node with pods; and a daemon that hears of links. It
//! knows where plexus keeps its records, and not how a round is made.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use plexus::reconcile::{Cause, Reconciler, Report, What, watch_host};
use plexus::sources::Manifests;
use plexus::survey::Places;
use serde_json::json;

use crate::case::Case;
use crate::crash::kill_after;
use crate::meta::{Node, node};
use crate::need::Need;
use crate::testbed::{LEASES, RECORDS};
use crate::tools::CACHE;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    vec![
        Case::new("reconcile::collects_whom_no_runtime_knows_any_more", mac, collected),
        Case::new("reconcile::lets_be_what_it_cannot_prove", mac, unproven),
        Case::new("reconcile::lets_be_what_executed_plugins", &[], executed),
        Case::new("reconcile::collects_what_is_of_an_older_boot", mac, older_boot),
        Case::new("reconcile::lets_be_what_others_hold", mac, held),
        Case::new("reconcile::tells_links_that_vanished_or_changed", mac, links),
        Case::new("reconcile::tells_leases_that_are_missing_and_those_of_nobody", &[], leases),
        Case::new("reconcile::tells_definitions_that_were_changed", mac, definitions),
        Case::new("reconcile::hears_of_links_and_looks_at_their_pods", mac, heard),
        Case::new("reconcile::killed_at_any_instant_ends_when_repeated", mac, killed),
        Case::new("reconcile::a_daemon_tells_its_log", mac, daemon),
    ]
}

/// As the suite's own executable: one round, which somebody may kill.
pub(crate) fn round_here() -> std::process::ExitCode {
    drop(round(&Cause::Timer));
    std::process::ExitCode::SUCCESS
}

/// What ends something that is bound to happen.
const LIMIT: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(200);
/// How often a round is killed.
const KILLS: u32 = 40;

/// A case's own namespaces may not look at all processes of the machine: it says itself that it sees everything.
pub(crate) fn places() -> Places {
    Places {
        state_dir: RECORDS.into(),
        cache_dirs: vec![CACHE.into()],
        data_dirs: [PathBuf::from(LEASES)].into(),
        bridges: [].into(),
        on_node: true,
        min_age: Duration::ZERO,
    }
}

pub(crate) fn round(cause: &Cause) -> Report {
    Reconciler::default().round(&places(), cause, &|_, _| None)
}

pub(crate) fn found(report: &Report) -> Vec<(What, &str)> {
    report.found.iter().map(|found| (found.what, found.line.as_str())).collect()
}

/// What was attached from every kind of definition is as the definition has it, until somebody changes that.
fn definitions() {
    let node = node();
    node.script("noted", r#"conf=$(cat); [ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#);
    let wish = json!([{"name": "blue", "mac": "02:00:00:00:00:77", "cni-args": {"a": "b"}}, {"name": "green"},
        {"name": "six"}, {"name": "fixed", "ips": ["10.5.0.9/24"]}, {"name": "chained"}]);
    node.add("a", &wish.to_string());
    let told = || {
        let known = Manifests::load(Path::new("/run/scratch/manifests")).unwrap();
        let definitions = |namespace: &str, name: &str| Some(known.definition(namespace, name).ok().cloned());
        let report = Reconciler::default().round(&places(), &Cause::Timer, &definitions);
        let of = report.found.into_iter().filter(|found| found.what == What::Definition);
        of.map(|found| found.line).collect::<Vec<_>>()
    };
    assert_eq!(told(), Vec::<String>::new());
    let path = |name: &str| format!("/run/scratch/manifests/nad-default-{name}.json");
    let text = fs::read_to_string(path("blue")).unwrap();
    fs::write(path("blue"), text.replace("10.2.0.0/24", "10.22.0.0/24")).unwrap();
    fs::remove_file(path("six")).unwrap();
    let told = told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("net1 of network \"default/blue\"") && told[0].contains("was changed"), "{told:?}");
    assert!(told[1].contains("net3 of network \"default/six\"") && told[1].contains("no more"), "{told:?}");
    node.call("DEL", "a").run().ok();
}

/// Notes a pod as libcni does after its ADD.
fn note(id: &str) -> PathBuf {
    fs::create_dir_all(CACHE).unwrap();
    let path = Path::new(CACHE).join(format!("node-id-{id}-eth0"));
    let entry = json!({"kind": "cniCacheV1", "containerId": format!("id-{id}"), "netns": format!("/run/netns/{id}"),
        "ifName": "eth0", "networkName": "node"});
    fs::write(&path, entry.to_string()).unwrap();
    path
}

fn held_by(node: &Node, id: &str) -> usize {
    let part = format!("id-{id}");
    node.bed.leftovers().iter().filter(|left| left.contains(&part)).count()
}

fn collected() {
    let node = node();
    for id in ["gone", "noted", "alive"] {
        node.add(id, "blue,six");
        note(id);
    }
    node.bed.lose_pod("gone");
    node.bed.lose_pod("noted");
    let before = node.bed.leftovers();
    let report = round(&Cause::Start);
    assert_eq!(report.collected, 0, "both are noted: {report:?}");
    assert!(
        found(&report).iter().all(|(what, line)| *what == What::Ended && line.contains("note of it")),
        "{report:?}"
    );
    assert_eq!((report.found.len(), node.bed.leftovers()), (2, before));

    fs::remove_file(Path::new(CACHE).join("node-id-gone-eth0")).unwrap();
    let report = round(&Cause::Timer);
    assert_eq!((report.collected, &report.failures), (1, &vec![]), "{report:?}");
    let told = found(&report);
    assert!(told.iter().any(|(_, line)| line.contains("pod default/gone") && line.contains("collected")), "{told:?}");
    assert_eq!(held_by(&node, "gone"), 0, "{:?}", node.bed.leftovers());
    assert!(held_by(&node, "noted") > 0 && held_by(&node, "alive") > 0);
    node.call("CHECK", "alive").run().ok();
    for id in ["gone", "noted", "alive"] {
        node.call("DEL", id).run().ok();
    }
    node.assert_clean();
}

/// Neither who lives nor who may live, whatever the runtimes have forgotten; and nobody where no runtime's cache can be seen.
fn unproven() {
    let node = node();
    node.add("alive", "blue");
    node.add("gone", "blue");
    node.bed.lose_pod("gone");
    let before = node.bed.leftovers();
    let report = round(&Cause::Start);
    assert!(report.found.len() == 1 && report.found[0].line.contains("no runtime's cache"), "{report:?}");
    fs::create_dir_all(CACHE).unwrap();
    fs::write(format!("{CACHE}/of an older form id-gone"), "").unwrap();
    assert_eq!(round(&Cause::Timer).collected, 0, "an entry that cannot be read may be its own");
    assert_eq!(node.bed.leftovers(), before);
    fs::remove_file(format!("{CACHE}/of an older form id-gone")).unwrap();
    assert_eq!(round(&Cause::Timer).collected, 1);
    assert!(held_by(&node, "alive") > 0);
    assert_eq!(found(&round(&Cause::Timer)), []);
    node.call("DEL", "alive").run().ok();
    node.assert_clean();
}

/// What a plugin left is its own to know; and a daemon may not have it.
fn executed() {
    let node = node();
    node.script(
        "noted",
        r#"conf=$(cat); echo "$CNI_COMMAND" >>/run/scratch/noted
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#,
    );
    node.add("a", "chained");
    fs::create_dir_all(CACHE).unwrap();
    assert_eq!(found(&round(&Cause::Timer)), [], "nothing differs, and nothing is executed");
    node.bed.lose_pod("a");
    let report = round(&Cause::Timer);
    assert!(report.collected == 0 && report.found[0].line.contains("plexus gc"), "{report:?}");
    assert_eq!(fs::read_to_string("/run/scratch/noted").unwrap(), "ADD\n");
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// Nothing of an older boot lives, whatever the runtime has noted.
fn older_boot() {
    let node = node();
    node.add("a", "blue,six");
    note("a");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for entry in fs::read_dir(format!("{RECORDS}/journal")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(boot.trim(), "0c5d7f3e-0000-0000-0000-000000000000")).unwrap();
    }
    node.bed.lose_pod("a"); // a reboot takes the namespaces along
    let report = round(&Cause::Start);
    assert_eq!((report.collected, held_by(&node, "a")), (1, 0), "{report:?}");
    node.assert_clean();
}

/// An ADD or a DEL is at work: it is neither waited for nor disturbed.
fn held() {
    let node = node();
    for id in ["gone", "alive"] {
        node.add(id, "blue");
    }
    fs::create_dir_all(CACHE).unwrap();
    node.bed.lose_pod("gone");
    node.bed.ip("-n alive link del net1");
    let lock = |id: &str| {
        let path = format!("{RECORDS}/journal/node:id-{id}:eth0.jsonl");
        Flock::lock(fs::File::open(path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap()
    };
    let locks = ["gone", "alive"].map(lock);
    let before = node.bed.leftovers();
    let report = round(&Cause::Timer);
    assert_eq!((report.collected, found(&report), &report.failures), (0, vec![], &vec![]));
    assert_eq!(node.bed.leftovers(), before);
    drop(locks);
    let report = round(&Cause::Timer);
    assert_eq!((report.collected, report.found.len()), (1, 2), "{report:?}");
    node.call("DEL", "alive").run().ok();
    node.assert_clean();
}

fn links() {
    let node = node();
    for id in ["a", "b", "c", "d"] {
        node.add(id, "blue,six");
    }
    fs::create_dir_all(CACHE).unwrap();
    let mut reconciler = Reconciler::default();
    let mut round = || reconciler.round(&places(), &Cause::Timer, &|_, _| None);
    assert_eq!(found(&round()), []);
    node.bed.ip("-n a link del net1");
    node.bed.ip("-n b link set net1 address 02:00:00:00:77:77");
    let record = fs::read_to_string(format!("{RECORDS}/journal/node:id-c:eth0.jsonl")).unwrap();
    let ends: Vec<String> =
        node.bed.links("").into_iter().filter(|link| record.contains(&format!("\"{link}\""))).collect();
    let port = ends.iter().find(|link| link.starts_with("veth")).unwrap();
    node.bed.ip(&format!("link set {port} nomaster"));
    let report = round();
    let told = found(&report);
    let of = |pod: &str| -> Vec<(What, &str)> {
        told.iter().filter(|(_, line)| line.contains(&format!("pod default/{pod},"))).copied().collect()
    };
    let missing = of("a");
    assert_eq!((missing.len(), missing[0].0), (1, What::LinkMissing), "{told:?}");
    assert!(missing[0].1.contains("net1 of network \"default/blue\""), "{missing:?}");
    let changed = of("b");
    assert_eq!((changed.len(), changed[0].0), (1, What::LinkChanged), "{told:?}");
    assert!(changed[0].1.contains("has MAC 02:00:00:00:77:77"), "{changed:?}");
    let changed = of("c");
    assert_eq!((changed.len(), changed[0].0), (1, What::LinkChanged), "{told:?}");
    assert_eq!((of("d"), report.news().count(), report.collected), (vec![], 3, 0));
    let again = round();
    assert_eq!((again.found.len(), again.news().count()), (3, 0), "told once");
    for id in ["a", "b", "c", "d"] {
        node.call("DEL", id).run().ok();
    }
    assert_eq!(found(&round()), []);
    node.assert_clean();
}

fn leases() {
    let node = node();
    node.add("a", "");
    fs::create_dir_all(CACHE).unwrap();
    assert_eq!(found(&round(&Cause::Timer)), []);
    fs::remove_file(format!("{LEASES}/cluster/10.1.0.2")).unwrap();
    fs::write(format!("{LEASES}/cluster/10.1.0.9"), "nobody\r\neth0").unwrap();
    let report = round(&Cause::Timer);
    let told = found(&report);
    assert_eq!(told.iter().map(|(what, _)| *what).collect::<Vec<_>>(), [What::Lease, What::LeaseMissing], "{told:?}");
    assert!(told[0].1.contains("10.1.0.9") && told[1].1.contains("10.1.0.2"), "{told:?}");
    assert!(Path::new(LEASES).join("cluster/10.1.0.9").exists(), "who owned it nobody can prove");
    fs::remove_file(format!("{LEASES}/cluster/10.1.0.9")).unwrap();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// One event for what happens at once, and only the pods that it is about are looked into.
fn heard() {
    let node = node();
    for id in ["a", "b"] {
        node.add(id, "blue,six");
    }
    fs::create_dir_all(CACHE).unwrap();
    let mut watch = watch_host().unwrap();
    node.bed.ip("-n a link del net1"); // a macvlan: nothing on the host tells of it
    node.bed.ip("-n b link del net1");
    assert_eq!(watch.wait(Instant::now() + QUIET, QUIET).unwrap(), None);
    node.bed.ip("-n a link del net2");
    node.bed.ip("link add other0 type bridge");
    node.bed.ip("link del other0");
    let cause = watch.wait(Instant::now() + LIMIT, QUIET).unwrap().unwrap();
    let Cause::Changed { links: changed, .. } = &cause else { panic!("{cause:?}") };
    assert!(changed.names.iter().any(|name| name.starts_with("veth")), "{changed:?}");
    let report = round(&cause);
    let told = found(&report);
    assert_eq!(told.len(), 2, "both of a, none of b: {told:?}");
    assert!(told.iter().all(|(what, line)| *what == What::LinkMissing && line.contains("default/a")), "{told:?}");
    node.add("c", "six");
    node.call("DEL", "c").run().ok();
    if let Some(cause) = watch.wait(Instant::now() + LIMIT, QUIET).unwrap() {
        assert_eq!(found(&round(&cause)), [], "what a DEL deletes is nothing to tell");
    }
    node.bed.ip("link del six0");
    let cause = watch.wait(Instant::now() + LIMIT, QUIET).unwrap().unwrap();
    let report = round(&cause);
    assert!(
        found(&report).iter().any(|(what, line)| *what == What::LinkChanged && line.contains("default/b")),
        "{report:?}"
    );
    for id in ["a", "b"] {
        node.call("DEL", id).run().ok();
    }
    node.assert_clean();
}

/// Whatever a killed round has begun, the next one ends.
fn killed() {
    let node = node();
    fs::create_dir_all(CACHE).unwrap();
    let ids = ["a", "b", "c", "d"];
    let start = |how: Stdio| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--reconcile", "here"]).stderr(how).spawn().unwrap()
    };
    let began = Instant::now();
    assert!(start(Stdio::inherit()).wait().unwrap().success());
    let usual = began.elapsed() * 2;
    for number in 0..KILLS {
        for id in ids {
            node.add(id, "blue,six");
            node.bed.lose_pod(id);
        }
        kill_after(start(Stdio::null()), usual * number / KILLS);
        let report = round(&Cause::Timer);
        assert_eq!(report.failures, Vec::<String>::new());
        let left: Vec<String> = node.bed.leftovers().into_iter().filter(|left| !left.starts_with("link ")).collect();
        assert_eq!(left, Vec::<String>::new(), "after kill {number}, {report:?}");
    }
    node.assert_clean();
}

/// A daemon at work, and what it writes to its log.
pub(crate) fn started() -> (Child, Lines<BufReader<ChildStderr>>) {
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_plexus"))
        .args(["daemon", "--socket-dir", "/run/plexus"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
    let deadline = Instant::now() + LIMIT;
    while !Path::new("/run/plexus/plexus.sock").exists() {
        assert!(Instant::now() < deadline, "the daemon has no socket");
    }
    (daemon, lines)
}

/// A daemon hears it, and writes it down.
fn daemon() {
    let node = node();
    node.add("a", "six");
    fs::create_dir_all(CACHE).unwrap();
    let (mut daemon, mut lines) = started();
    node.bed.ip("-n a link del net1");
    let told = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("net1 of network"))).unwrap().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(told.contains("reconcile: pod default/a, container id-a: net1") && told.contains("is gone"), "{told}");
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}
