//! `plexus check`, `plexus gc` and `plexus doctor` on a node with pods: what they tell, what they remove, their exit codes.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::call::Side;
use crate::case::Case;
use crate::meta::node;
use crate::need::Need;
use crate::program::{plexus, text};
use crate::testbed::{LEASES, RECORDS, Testbed};

/// Where runtimes note what they attached.
pub(crate) const CACHE: &str = "/var/lib/cni/results";

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("tools::check_tells_each_attachment", &[Need::Macvlan], check),
        Case::new("tools::gc_removes_what_a_lost_pod_held", &[Need::Macvlan], lost_pod),
        Case::new("tools::gc_asks_the_runtimes_for_what_has_no_record", &[Need::Peers], without_record),
        Case::new("tools::gc_lets_be_whose_namespace_a_process_is_in", &[], inhabited),
        Case::new("tools::gc_lets_be_whose_file_has_a_living_record", &[], made_anew),
        Case::new("tools::gc_takes_nothing_of_an_add_under_way", &[Need::Nft], under_way),
        Case::new("tools::gc_is_not_stopped_by_odd_things", &[Need::Nft], odd_things),
        Case::new("tools::gc_removes_rules_without_a_record", &[Need::Nft], rules),
        Case::new("tools::doctor_tells_which_file_is_used", &[], files),
        Case::new("tools::doctor_tells_full_pools_and_leaks", &[], leaks),
        Case::new("tools::doctor_asks_whether_what_is_used_could_serve", &[Need::Macvlan], unready),
        Case::new("tools::doctor_fits_a_screen_whatever_leaks", &[], many_leaks),
        Case::new("tools::gc_in_a_container_sees_no_end", &[], in_a_container),
        Case::new("tools::doctor_changes_nothing", &[], nothing_changed),
    ]
}

/// A case's own namespaces may not look at all processes of the machine.
pub(crate) fn on_node<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    words.iter().chain(&["--on-node"]).chain(more).copied().collect()
}

/// Runs it with `-o json`: the exit code and what it printed.
pub(crate) fn told(words: &[&str]) -> (i32, Value) {
    let output = plexus(&on_node(words, &["-o", "json"]));
    let shown = serde_json::from_slice(&output.stdout);
    (output.status.code().unwrap(), shown.unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr))))
}

pub(crate) fn rows<'a>(shown: &'a Value, key: &str, value: &str) -> Vec<&'a Value> {
    shown.as_array().unwrap().iter().filter(|row| row[key] == value).collect()
}

/// How many rows say yes.
pub(crate) fn rows_that(shown: &Value, key: &str) -> usize {
    shown.as_array().unwrap().iter().filter(|row| row[key] == true).count()
}

fn check() {
    let node = node();
    let (code, shown) = told(&["check"]);
    assert_eq!((code, shown), (0, json!([])));
    node.add("a", "blue");
    node.add("b", "");
    let (code, shown) = told(&["check"]);
    assert_eq!((code, rows(&shown, "state", "ok").len()), (0, 3), "{shown}");
    node.bed.ip("-n a link set net1 mtu 1400");
    let (code, shown) = told(&["check", "default/a"]);
    assert_eq!((code, shown.as_array().unwrap().len()), (5, 2), "{shown}");
    let differs = rows(&shown, "state", "differs");
    assert_eq!((&differs[0]["interface"], differs.len()), (&json!("net1"), 1));
    assert_eq!(differs[0]["detail"], "interface net1 has MTU 1400, expected 1500");
    assert_eq!((told(&["check", "b"]).0, told(&["check", "id-b"]).0), (0, 0), "by name, and by id");
    assert_eq!(plexus(&["check", "nobody"]).status.code(), Some(1));
    node.bed.lose_pod("b");
    let (code, shown) = told(&["check", "b"]);
    assert_eq!((code, &shown[0]["state"]), (5, &json!("gone")));
    let table = plexus(&on_node(&["check"], &[]));
    assert!(text(&table.stdout).contains("differs   interface net1"), "{}", text(&table.stdout));
    assert!(text(&table.stderr).contains("2 of 3 attachments"), "{}", text(&table.stderr));
    node.call("DEL", "a").run().ok();
    node.call("DEL", "b").run().ok();
}

/// A runtime that was killed may never send the DEL.
fn lost_pod() {
    let node = node();
    node.add("a", "blue");
    node.add("b", "blue");
    node.bed.lose_pod("a");
    let before = node.bed.leftovers();
    let (code, shown) = told(&["gc", "--dry-run", "--min-age=0"]);
    assert_eq!((code, rows(&shown, "what", "attachment").len(), shown.as_array().unwrap().len()), (0, 2, 2), "{shown}");
    assert_eq!(node.bed.leftovers(), before, "nothing was removed");
    let done = told(&["gc", "--min-age=0"]).1;
    assert_eq!((rows_that(&shown, "removed"), rows_that(&done, "removed")), (0, 2), "{done}");
    assert!(node.bed.leftovers().iter().all(|left| !left.contains("id-a")), "{:?}", node.bed.leftovers());
    assert_eq!(node.bed.leftovers().iter().filter(|left| left.starts_with("lease")).count(), 3, "b's are left");
    assert_eq!(told(&["gc", "--min-age=0"]).1, json!([]));
    node.call("CHECK", "b").run().ok();
    node.call("DEL", "a").run().ok();
    node.call("DEL", "b").run().ok();
    node.assert_clean();
}

fn lease(bed: &Testbed, side: Side, id: &str) {
    let conf = json!({"cniVersion": "1.0.0", "name": "n", "ipam": {"type": "host-local", "subnet": "10.6.0.0/24"}});
    bed.call(side, "host-local")
        .command("ADD")
        .container(id)
        .env("CNI_NETNS", "/run/netns/none")
        .conf(&conf)
        .run()
        .ok();
}

/// A lease of the Go plugin has no record: who holds it, the runtimes' cache says.
fn without_record() {
    let bed = Testbed::new();
    for id in ["kept", "noted", "gone", "ended"] {
        lease(&bed, Side::Go, id);
    }
    let count = || bed.leftovers().len();
    assert_eq!(
        (told(&["gc", "--unrecorded", "--min-age=0"]).1, count()),
        (json!([]), 4),
        "without a cache nobody knows"
    );
    fs::create_dir_all(CACHE).unwrap();
    let entry = |id: &str, netns: &str| json!({"kind": "cniCacheV1", "containerId": id, "netns": netns}).to_string();
    fs::write(format!("{CACHE}/n-kept-eth0"), entry("kept", "")).unwrap();
    fs::write(format!("{CACHE}/n-noted-eth0"), "an older form").unwrap();
    fs::write(format!("{CACHE}/n-ended-eth0"), entry("ended", "/run/netns/ended")).unwrap();
    let (code, shown) = told(&["gc", "-n", "--unrecorded", "--min-age=0"]);
    let holders: Vec<&str> = rows(&shown, "what", "lease").iter().map(|row| row["sandbox"].as_str().unwrap()).collect();
    assert_eq!((code, count()), (0, 4));
    assert!(holders.len() == 2 && holders.contains(&"gone") && holders.contains(&"ended"), "{shown}");
    assert_eq!(
        told(&["gc", "--unrecorded"]).1,
        json!([]),
        "an ADD may be under way, of which the runtime will note something after it"
    );
    assert_eq!(count(), 4);
    told(&["gc", "--unrecorded", "--min-age=0"]);
    let text = |address: &str| fs::read_to_string(format!("{LEASES}/n/{address}")).unwrap_or_default();
    assert_eq!(count(), 2);
    assert!(text("10.6.0.2").starts_with("kept") && text("10.6.0.3").starts_with("noted"));
}

/// A process in a pod's namespace.
pub(crate) fn inside(pod: &str) -> Inhabitant {
    let netns = format!("--net=/run/netns/{pod}");
    let mut nsenter = std::process::Command::new("nsenter");
    let quiet = std::process::Stdio::null;
    let process =
        nsenter.args([&netns, "sleep", "600"]).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().unwrap();
    // It is in there once it executes `sleep`.
    let is_in = || fs::read_to_string(format!("/proc/{}/comm", process.id())).is_ok_and(|name| name.trim() == "sleep");
    while !is_in() {
        std::thread::yield_now();
    }
    Inhabitant(process)
}

/// Ends with the case.
pub(crate) struct Inhabitant(pub(crate) std::process::Child);

impl Drop for Inhabitant {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The path is gone, and the pod is not: a runtime's namespaces may be mounted elsewhere.
fn inhabited() {
    let node = node();
    node.add("a", "");
    let process = inside("a");
    assert!(std::process::Command::new("umount").arg("/run/netns/a").status().unwrap().success());
    assert_eq!(told(&["gc", "--min-age=0"]).1, json!([]));
    assert!(node.bed.links("").iter().any(|link| link.starts_with("veth")));
    drop(process);
    fs::remove_file("/run/netns/a").unwrap();
    // The other end of the pair goes with the namespace, on the kernel's own time: until then it speaks for the pod.
    while node.bed.links("").iter().any(|link| link.starts_with("veth")) {
        std::thread::yield_now();
    }
    assert_eq!(told(&["gc", "--min-age=0"]).1.as_array().unwrap().len(), 1);
    assert_eq!(told(&["gc", "--min-age=0"]).1, json!([]));
}

/// An ADD was killed, and another one of the same id came after its namespace was lost: one file, two records.
fn made_anew() {
    let node = node();
    node.add("a", "");
    let folder = format!("{RECORDS}/journal");
    let mut files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.extension().is_some_and(|ending| ending == "jsonl")).unwrap();
    let living = fs::read_to_string(&file).unwrap();
    let mut killed: Value = serde_json::from_str(living.lines().next().unwrap()).unwrap();
    killed["netns"] = json!("/run/netns/earlier");
    killed["netnsId"] = json!([4, 7]);
    fs::write(&file, format!("{killed}\n{living}")).unwrap();
    let before = node.bed.leftovers();
    assert_eq!(told(&["gc", "--unrecorded", "--min-age=0"]).1, json!([]));
    assert_eq!(node.bed.leftovers(), before);
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// gc runs again and again while pods come and go: whoever has been attached is attached.
fn under_way() {
    const ROUNDS: usize = 30;
    let bed = Testbed::new();
    fs::create_dir_all(CACHE).unwrap();
    let conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "cni0", "ipMasq": true,
        "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.6.0.0/24"}});
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let output = plexus(&on_node(&["gc", "--unrecorded", "--min-age=0"], &["-o", "json"]));
                assert_eq!(text(&output.stdout).trim(), "[]", "{}", text(&output.stderr));
            }
        });
        for round in 0..ROUNDS {
            let id = format!("pod{round}");
            bed.pod(&id);
            let call = |command: &str, conf: &Value| {
                bed.call(Side::Plexus, "bridge").command(command).container(&id).pod(&id).conf(conf).run()
            };
            let mut checked = conf.clone();
            checked["prevResult"] = call("ADD", &conf).ok();
            call("CHECK", &checked).ok();
            call("DEL", &conf).ok();
        }
        over.store(true, Ordering::Relaxed);
        collector.join().unwrap();
    });
    assert_eq!(bed.leftovers(), ["link cni0"]);
}

/// Files that nobody expects, in places that others write to.
fn odd_things() {
    let bed = Testbed::new();
    lease(&bed, Side::Plexus, "gone");
    for dir in [CACHE, "/var/lib/cni/networks/lost+found"] {
        fs::create_dir_all(dir).unwrap();
    }
    assert!(std::process::Command::new("mkfifo").arg(format!("{CACHE}/n-pipe-eth0")).status().unwrap().success());
    // Somebody else's rules, in our words.
    let rules = "table inet cni_plugins_masquerade { chain masq_checks { counter comment \"hello, net: n, if: eth0, id: dead\"; }; }
        table bridge nat { chain PREROUTING { counter comment \"macspoofchk-my own-x\"; }; }";
    bed.tool("nft", &["-f", "-"], rules).unwrap();
    let (code, shown) = told(&["gc", "--unrecorded", "--min-age=0"]);
    assert_eq!((code, shown.as_array().unwrap().len(), &shown[0]["sandbox"]), (0, 1, &json!("gone")), "{shown}");
    let listed = bed.tool("nft", &["list", "ruleset"], "").unwrap();
    assert!(listed.contains("hello") && listed.contains("my own"), "{listed}");
    let told = text(&plexus(&["gc"]).stderr);
    assert!(told.contains("lost+found"), "{told}");
}

/// The record is lost, and the pod with it: what is left says whose it was.
fn rules() {
    let bed = Testbed::new();
    let conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "cni0", "ipMasq": true, "macspoofchk": true,
        "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.6.0.0/24"}});
    for id in ["one", "two"] {
        bed.pod(id);
        bed.call(Side::Plexus, "bridge").command("ADD").container(id).pod(id).conf(&conf).run().ok();
    }
    fs::remove_dir_all(format!("{RECORDS}/journal")).unwrap();
    fs::create_dir_all(CACHE).unwrap();
    let entry = json!({"kind": "cniCacheV1", "containerId": "two", "netns": ""});
    fs::write(format!("{CACHE}/n-two-eth0"), entry.to_string()).unwrap();
    bed.lose_pod("one");
    let (_, shown) = told(&["gc", "-n", "--unrecorded", "--min-age=0"]);
    assert_eq!((rows(&shown, "what", "lease").len(), rows(&shown, "what", "rules").len()), (1, 2), "{shown}");
    told(&["gc", "--unrecorded", "--min-age=0"]);
    let left = bed.leftovers();
    assert!(left.iter().all(|left| !left.contains("one")), "{left:?}");
    assert!(left.iter().any(|left| left.contains("two")), "{left:?}");
    assert_eq!(told(&["gc", "--unrecorded", "--min-age=0"]).1, json!([]));
    bed.call(Side::Plexus, "bridge").command("DEL").container("two").pod("two").conf(&conf).run().ok();
    assert_eq!(bed.leftovers(), ["link cni0"]);
}

/// With a directory of configurations of this case.
pub(crate) fn doctor() -> (i32, Value) {
    told(&["doctor", "--conf-dir", "/run/scratch/net.d", "--bin-dir", "/run/cni/plexus", "--min-age=0"])
}

fn files() {
    let bed = Testbed::new();
    let (code, shown) = doctor();
    assert_eq!((code, &rows(&shown, "area", "net.d")[0]["state"]), (5, &json!("wrong")), "there is no such directory");
    bed.file("net.d/10-first.conflist", r#"{"cniVersion": "1.0.0", "name": "first", "plugins": [{"type": "bridge"}]}"#);
    bed.file("net.d/20-second.conf", r#"{"cniVersion": "1.0.0", "name": "second", "type": "ptp"}"#);
    bed.file("net.d/30-broken.conf", "{");
    let (code, shown) = doctor();
    let states = |shown: &Value| -> Vec<String> {
        rows(shown, "area", "net.d")
            .iter()
            .map(|row| format!("{} {}", row["what"], row["state"]).replace('"', ""))
            .collect()
    };
    assert_eq!(states(&shown), ["10-first.conflist ok", "20-second.conf note", "30-broken.conf note"]);
    assert_eq!(code, 0, "{shown}");
    // containerd gives up at the first that does not load.
    bed.file("net.d/05-broken.conf", "{");
    let (code, shown) = doctor();
    assert_eq!((code, states(&shown)[0].as_str()), (5, "05-broken.conf wrong"));
    let mends = rows(&shown, "state", "wrong")[0]["remedy"].as_str().unwrap();
    assert!(mends.ends_with("/net.d/05-broken.conf"), "{mends}");
    fs::remove_file("/run/scratch/net.d/05-broken.conf").unwrap();
    bed.file("net.d/00-other.conf", r#"{"cniVersion": "1.0.0", "name": "other", "type": "nowhere"}"#);
    let (code, shown) = doctor();
    assert_eq!((code, states(&shown)[0].as_str()), (5, "00-other.conf wrong"), "its plugin is missing");
    for number in 40..80 {
        bed.file(&format!("net.d/{number}-more.conf"), "{");
    }
    let (_, shown) = doctor();
    assert_eq!((states(&shown).len(), states(&shown)[10].as_str()), (11, "and 34 more note"), "{shown}");
}

fn leaks() {
    let mut node = node();
    node.conf["cniVersion"] = json!("1.1.0");
    node.conf["delegates"][0]["ipam"] = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.5", "rangeEnd": "10.1.0.6"}]]});
    node.bed.file("net.d/00-plexus.conf", &node.conf.to_string());
    fs::create_dir_all(CACHE).unwrap();
    node.add("a", "");
    let pool = |shown: &Value| {
        let all = rows(shown, "area", "pool");
        assert_eq!(all.len(), 1, "{shown}");
        (all[0]["state"].as_str().unwrap().to_owned(), all[0]["detail"].as_str().unwrap().to_owned())
    };
    let (code, shown) = doctor();
    assert_eq!((code, pool(&shown)), (0, ("ok".into(), "1 of 2 addresses are held".into())), "{shown}");
    node.add("b", "");
    let (code, shown) = doctor();
    assert_eq!((code, pool(&shown).0.as_str()), (5, "wrong"));
    node.call("DEL", "b").run().ok();
    // A record that is lost: the lease is nobody's, and so is the port.
    fs::remove_dir_all(format!("{RECORDS}/journal")).unwrap();
    let (code, shown) = doctor();
    let all = rows(&shown, "area", "leak");
    let remedies: Vec<&str> = all.iter().map(|row| row["remedy"].as_str().unwrap()).collect();
    assert_eq!((code, all.len(), remedies[0]), (5, 2, "plexus gc --unrecorded"), "{shown}");
    let remove = remedies[1].strip_prefix("ip ").unwrap();
    node.bed.ip(remove);
    told(&["gc", "--unrecorded", "--min-age=0"]);
    let (code, shown) = doctor();
    assert_eq!((code, rows(&shown, "area", "leak").len()), (0, 0), "{shown}");
    assert_eq!(node.bed.leftovers(), ["link cni0"]);
}

fn unready() {
    let mut node = node();
    let mut told = |delegates: Value| {
        node.conf["delegates"] = delegates;
        node.bed.file("net.d/00-plexus.conf", &node.conf.to_string());
        let (code, shown) = doctor();
        let wrong: Vec<String> = rows(&shown, "state", "wrong").iter().map(|row| row["detail"].to_string()).collect();
        assert_eq!((code, wrong.len()), (if wrong.is_empty() { 0 } else { 5 }, wrong.len().min(1)), "{shown}");
        wrong.into_iter().next().unwrap_or_default()
    };
    let lan = |master: &str| json!([{"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": master}]);
    assert_eq!(told(lan("up0")), "");
    assert!(told(lan("up7")).contains("failed to lookup master"));
    assert!(told(json!([{"cniVersion": "1.0.0", "name": "n", "type": "bridge", "vlan": 9999}])).contains("9999"));
    assert!(
        told(json!([{"cniVersion": "1.0.0", "name": "n", "type": "nowhere"}]))
            .contains("there is no plugin of that name")
    );
    assert!(
        told(json!([{"cniVersion": "1.0.0", "name": "n", "type": "bridge", "ipam": {"type": "nowhere"}}]))
            .contains("nowhere")
    );
    assert!(told(json!("x")).contains("delegates"));
    assert!(told(Value::Null).contains("delegate"));
    // Executed, whatever plexus could build: looked for where the configuration says.
    node.conf["delegates"] = lan("up0");
    node.conf["native"] = json!("off");
    // What is plexus itself under that name executes nothing.
    node.bed.file("full/macvlan", "");
    for (dir, code) in [("/run/scratch/full", 0), ("/run/cni/plexus", 5), ("/run/scratch/empty", 5)] {
        node.conf["binDir"] = json!(dir);
        node.bed.file("net.d/00-plexus.conf", &node.conf.to_string());
        let bin_dir = if code == 0 { "/run/cni/plexus" } else { dir };
        node.bed.file("empty/plexus-cni", "");
        let (found, shown) =
            crate::tools::told(&["doctor", "--conf-dir", "/run/scratch/net.d", "--bin-dir", bin_dir, "--min-age=0"]);
        assert_eq!((found, rows(&shown, "state", "wrong").len()), (code, usize::from(code > 0)), "{shown}");
    }
}

fn many_leaks() {
    const LINES_MAX: usize = 50;
    let bed = Testbed::new();
    bed.file("net.d/10-first.conflist", r#"{"cniVersion": "1.0.0", "name": "first", "plugins": [{"type": "bridge"}]}"#);
    fs::create_dir_all(CACHE).unwrap();
    fs::create_dir_all(format!("{LEASES}/n")).unwrap();
    for number in 1..=200 {
        fs::write(format!("{LEASES}/n/10.6.0.{number}"), format!("gone{number}\r\neth0")).unwrap();
    }
    let words = ["doctor", "--conf-dir", "/run/scratch/net.d", "--bin-dir", "/run/cni/plexus", "--min-age=0"];
    let table = text(&plexus(&words).stdout);
    assert!(table.lines().count() < LINES_MAX && table.contains("195 more of: lease"), "{table}");
}

/// A container has another network namespace and sees no path of the host's: no pod has ended for that.
fn in_a_container() {
    let node = node();
    node.add("a", "");
    node.bed.pod("inside");
    let mut gc = std::process::Command::new("nsenter");
    gc.args(["--net=/run/netns/inside", "unshare", "-m", "sh", "-c", "umount /run/netns/a && exec \"$0\" gc -o json"]);
    let output = gc.arg(env!("CARGO_BIN_EXE_plexus")).output().unwrap();
    assert_eq!(text(&output.stdout).trim(), "[]", "{}", text(&output.stderr));
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// Not even a directory; and the table says the same as JSON.
fn nothing_changed() {
    let bed = Testbed::new();
    bed.file("net.d/10-first.conflist", r#"{"cniVersion": "1.0.0", "name": "first", "plugins": [{"type": "bridge"}]}"#);
    let (_, shown) = doctor();
    assert_eq!(bed.links(""), ["lo"]);
    assert!(!fs::exists(RECORDS).unwrap() && !fs::exists(LEASES).unwrap());
    let table = text(
        &plexus(&["doctor", "--conf-dir", "/run/scratch/net.d", "--bin-dir", "/run/cni/plexus", "--min-age=0"]).stdout,
    );
    assert_eq!(table.lines().count(), shown.as_array().unwrap().len() + 1, "{table}");
    assert!(table.lines().all(|line| line.chars().count() < 200), "{table}");
}
