//! `plexus gc` and GC where not everything can be seen, read, written or had. It knows where plexus keeps its records.

use std::fs;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use crate::call::Side;
use crate::case::Case;
use crate::meta::{Node, node};
use crate::need::Need;
use crate::program::{plexus, text};
use crate::testbed::{LEASES, RECORDS, Testbed, files_below};
use crate::tools::{CACHE, doctor, inside, rows, rows_that, told};

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("gc::in_a_container_of_the_host_s_network_sees_no_end", &[Need::Macvlan], in_the_host_s_network),
        Case::new("gc::finds_a_namespace_wherever_it_is_mounted", &[Need::Macvlan], mounted_elsewhere),
        Case::new("gc::a_record_that_cannot_be_read_is_told_by_all", &[], unreadable),
        Case::new("gc::a_disk_that_is_read_only_is_read", &[], read_only),
        Case::new("gc::sweeps_records_that_say_nothing", &[], says_nothing),
        Case::new("gc::waits_last_for_what_others_hold", &[], held_by_others),
        Case::new("gc::that_cannot_look_removes_nothing", &[], poor),
    ]
}

/// It has the host's network, and processes and mounts of its own.
fn in_the_host_s_network() {
    let node = node();
    node.bed.pod("a");
    lan_of(&node, "a", "/run/netns/a");
    let before = node.bed.leftovers();
    let mut gc = std::process::Command::new("unshare");
    gc.args([
        "-m",
        "-p",
        "-f",
        "--mount-proc",
        "sh",
        "-c",
        "umount /run/netns/a && exec \"$0\" gc --min-age=0 -o json",
    ]);
    let output = gc.arg(env!("CARGO_BIN_EXE_plexus")).output().unwrap();
    assert_eq!(text(&output.stdout).trim(), "[]", "{}", text(&output.stderr));
    let told = text(&output.stderr);
    assert!(told.contains("is let be") && told.contains("pid namespace"), "{told}");
    assert_eq!(node.bed.leftovers(), before);
}

/// A macvlan without anything on the host: nothing but its namespace speaks for the pod.
fn lan_of(node: &Node, id: &str, netns: &str) {
    let conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "up0",
        "ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}});
    node.bed.call(Side::Plexus, "macvlan").command("ADD").container(id).env("CNI_NETNS", netns).conf(&conf).run().ok();
}

/// Known by a process that ended, and mounted under a name that nobody noted.
fn mounted_elsewhere() {
    let node = node();
    node.bed.pod("a");
    let process = inside("a");
    lan_of(&node, "a", &format!("/proc/{}/ns/net", process.0.id()));
    drop(process);
    let before = node.bed.leftovers();
    assert_eq!(told(&["gc", "--min-age=0"]), (0, json!([])));
    assert_eq!(node.bed.leftovers(), before);
    node.bed.lose_pod("a");
    assert_eq!(told(&["gc", "--min-age=0"]).1.as_array().unwrap().len(), 1);
    assert_eq!(node.bed.leftovers(), Vec::<String>::new());
}

/// A record that grew beyond all bounds: whose it is nobody knows, so nothing is anybody's to remove.
fn unreadable() {
    let bed = Testbed::new();
    let conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "bridge", "bridge": "cni0",
        "ipam": {"type": "host-local", "subnet": "10.6.0.0/24"}});
    bed.pod("a");
    let call =
        |command: &str, conf: &Value| bed.call(Side::Plexus, "bridge").command(command).pod("a").conf(conf).run();
    let mut checked = conf.clone();
    checked["prevResult"] = call("ADD", &conf).ok();
    fs::create_dir_all(CACHE).unwrap();
    let record = fs::read_dir(format!("{RECORDS}/journal")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&record).unwrap();
    fs::OpenOptions::new().write(true).open(&record).unwrap().set_len(17 << 20).unwrap();
    let before = bed.leftovers();
    call("DEL", &conf).fails(5, "at most");
    call("CHECK", &checked).fails(5, "at most");
    let mut nobody = conf.clone();
    nobody["cni.dev/valid-attachments"] = json!([]);
    call("GC", &nobody).fails(5, "at most");
    for words in [
        &["list"][..],
        &["check", "--on-node"],
        &["gc", "-n", "--on-node"],
        &["gc", "--unrecorded", "--on-node", "--min-age=0"],
    ] {
        let output = plexus(words);
        assert!(
            output.status.code() == Some(1) && text(&output.stderr).contains("at most"),
            "{words:?} {}",
            text(&output.stderr)
        );
    }
    let (code, shown) = doctor();
    assert!(code == 5 && shown.to_string().contains("make the journal readable again"), "{shown}");
    assert_eq!(bed.leftovers(), before);
    fs::write(&record, whole).unwrap();
    call("DEL", &conf).ok();
}

/// Whatever only looks needs to write nothing.
fn read_only() {
    let node = node();
    node.add("a", "");
    let remount = |how: &str| std::process::Command::new("mount").args(["-o", how, "/var/lib/cni"]).status().unwrap();
    // Where /var/lib is covered, that is what is mounted.
    if !remount("remount,ro").success() {
        assert!(std::process::Command::new("mount").args(["-o", "remount,ro", "/var/lib"]).status().unwrap().success());
    }
    assert!(fs::write(format!("{RECORDS}/x"), "").is_err());
    assert_eq!(plexus(&["list"]).status.code(), Some(0));
    assert_eq!((told(&["check"]).0, told(&["gc", "-n"])), (0, (0, json!([]))));
    node.call("CHECK", "a").run().ok();
}

/// An ADD was killed between making the file and writing to it.
fn says_nothing() {
    let node = node();
    node.add("a", "");
    let place = |name: &str| format!("{RECORDS}/journal/{name}.jsonl");
    let spoil = || {
        fs::write(place("node:dead:eth0"), "").unwrap();
        fs::write(place("node:cut:eth0"), "{\"key\":{\"netw").unwrap();
    };
    let is_record = |path: &Path| path.extension().is_some_and(|ending| ending == "jsonl");
    let count = || files_below(Path::new(RECORDS)).iter().filter(|(path, _)| is_record(path)).count();
    spoil();
    let (_, shown) = doctor();
    let row = rows(&shown, "state", "note").into_iter().find(|row| row["detail"].to_string().contains("say nothing"));
    assert!(row.is_some_and(|row| row["remedy"] == "plexus gc"), "{shown}");
    assert_eq!((told(&["gc"]), count()), ((0, json!([])), 1));
    spoil();
    let mut conf = node.conf.clone();
    conf["cniVersion"] = json!("1.1.0");
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "id-a", "ifname": "eth0"}]);
    node.call("GC", "a").conf(&conf).run().ok();
    assert_eq!(count(), 1);
    node.call("CHECK", "a").run().ok();
}

/// Others work on some attachments, for longer than anybody waits: the rest goes, and each row says what became of it.
fn held_by_others() {
    const HELD: usize = 7;
    let bed = Testbed::new();
    let conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "bridge", "bridge": "cni0",
        "ipam": {"type": "host-local", "subnet": "10.6.0.0/24"}});
    let call = |command: &str, id: &str| {
        bed.call(Side::Plexus, "bridge").command(command).container(id).pod(id).conf(&conf).run()
    };
    let add = |id: &str| {
        bed.pod(id);
        call("ADD", id).ok();
        bed.lose_pod(id);
    };
    let ids: Vec<String> = (0..HELD).map(|number| format!("a{number}")).collect();
    ids.iter().for_each(|id| add(id));
    add("free");
    let lock = |path: String| Flock::lock(fs::File::open(path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
    let held: Vec<_> = ids.iter().map(|id| lock(format!("{RECORDS}/journal/n:{id}:eth0:bridge.jsonl"))).collect();
    let (code, shown) = told(&["gc", "--min-age=0"]);
    assert_eq!((code, shown.as_array().unwrap().len(), rows_that(&shown, "removed")), (1, HELD + 1, 1), "{shown}");
    add("more");
    let mut nobody = conf.clone();
    nobody["cni.dev/valid-attachments"] = json!([]);
    bed.call(Side::Plexus, "bridge").command("GC").conf(&nobody).run().fails(11, "at work");
    assert!(bed.leftovers().iter().all(|left| !left.contains("more")), "{:?}", bed.leftovers());
    drop(held);
    let pool = lock(format!("{LEASES}/n/lock"));
    bed.pod("late");
    call("ADD", "late").fails(11, "held by another call");
    drop(pool);
    bed.call(Side::Plexus, "bridge").command("GC").conf(&nobody).run().ok();
    assert_eq!(bed.leftovers(), ["link cni0"]);
}

/// Whatever number of files it may open: what it did not see has not ended.
fn poor() {
    let node = node();
    node.add("a", "");
    let process = inside("a");
    assert!(std::process::Command::new("umount").arg("/run/netns/a").status().unwrap().success());
    let held = || [RECORDS, LEASES].map(|dir| files_below(Path::new(dir)).len());
    let before = held();
    for files in 3..16 {
        let script = format!("ulimit -n {files}; exec \"$0\" gc --on-node --min-age=0");
        let mut gc = std::process::Command::new("sh");
        drop(gc.args(["-c", &script, env!("CARGO_BIN_EXE_plexus")]).output().unwrap());
        assert_eq!(held(), before, "with {files} files");
    }
    drop(process);
    fs::remove_file("/run/netns/a").unwrap();
    node.bed.forget_pod("a");
}
