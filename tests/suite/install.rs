//! `plexus install` and `plexus uninstall` on a node: what they write, what they keep, what they refuse, and pods that are attached
//! before and deleted after, both ways. It knows Multus' files, not how plexus makes its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::call::{Side, multus};
use crate::case::Case;
use crate::need::Need;
use crate::program::{plexus, text};
use crate::takeover::KEPT;
use crate::testbed::{RECORDS, Testbed, files_below};

const CONF_DIR: &str = "/run/scratch/net.d";
const BIN_DIR: &str = "/run/scratch/opt/bin";
const OURS: &str = "00-0-plexus";

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let both = &[Need::Multus, Need::Peers, Need::Macvlan];
    let rules = &[Need::Multus, Need::Peers, Need::Macvlan, Need::Iptables, Need::Nft];
    vec![
        Case::new("install::beside_a_network", &[], beside),
        Case::new("install::over_a_running_program", &[], busy),
        Case::new("install::d14_half_a_network_is_refused", &[], refused),
        Case::new("install::in_multus_place", &[], in_multus_place),
        Case::new("install::of_multus_daemon", &[], of_daemon),
        Case::new("install::what_would_not_work_is_refused", &[], would_not_work),
        Case::new("install::twice_is_once", &[], twice),
        Case::new("install::d07_killed_at_any_instant_there_is_a_configuration", &[], killed),
        Case::new("install::uninstall_killed_and_repeated_leaves_nothing", &[], uninstall_killed),
        Case::new("install::pods_of_multus_are_deleted_after_it", both, there),
        Case::new("install::pods_of_plexus_are_deleted_by_multus", rules, back),
        Case::new("install::what_multus_deleted_in_between_does_not_come_back", rules, deleted_in_between),
        Case::new("install::a_record_that_is_cut_short_keeps_the_node", both, cut_short),
        Case::new("install::what_failed_says_no_next_step", &[], failed_step),
        Case::new("install::there_and_back_again", both, there_and_back),
        Case::new("install::uninstall_leaves_what_pods_need", &[], uninstall),
        Case::new("install::uninstall_gives_multus_back", both, uninstall_to_multus),
    ]
}

fn run(words: &[&str]) -> (i32, Value, String) {
    let places = ["--conf-dir", CONF_DIR, "--bin-dir", BIN_DIR, "-o", "json"];
    let is_told = words[0] != "install" || words.contains(&"--programs");
    let programs: &[&str] = if !is_told { &["--programs", programs()] } else { &[] };
    let output = plexus(&[words, &places, programs].concat());
    let shown = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), shown, text(&output.stderr))
}

/// The programs that are installed: plexus-cni as it is tested, and in the place of plexus, whose debugging build has 200 MB, a
/// small one.
fn programs() -> &'static str {
    let folder = Path::new("/run/programs");
    if !folder.exists() {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("plexus"), "#!/bin/sh\n").unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_plexus-cni"), folder.join("plexus-cni")).unwrap();
    }
    "/run/programs"
}

fn ok(words: &[&str]) -> Value {
    let (code, shown, told) = run(words);
    assert_eq!(code, 0, "{words:?}: {told} {shown}");
    shown
}

fn states(shown: &Value) -> Vec<&str> {
    shown["steps"].as_array().unwrap().iter().map(|step| step["state"].as_str().unwrap()).collect()
}

/// Files of the configurations' directory, with what they say.
fn configurations() -> Vec<(String, String)> {
    let files = files_below(Path::new(CONF_DIR)).into_iter();
    files.map(|(path, bytes)| (path.display().to_string(), text(&bytes))).collect()
}

fn names() -> Vec<String> {
    configurations().into_iter().map(|(name, _)| name).collect()
}

fn ours(ending: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(format!("{CONF_DIR}/{OURS}.{ending}")).unwrap()).unwrap()
}

fn meaning<'a>(shown: &'a Value, key: &str) -> &'a str {
    let keys = shown["keys"].as_array().unwrap();
    keys.iter().find(|row| row["key"] == key).map_or("", |row| row["meaning"].as_str().unwrap())
}

fn network() -> Value {
    json!({"cniVersion": "1.0.0", "name": "cluster", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]})
}

/// A thin Multus' configuration: the default network inside it.
fn thin(bin: &Path) -> Value {
    json!({"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus", "logLevel": "error", "binDir": bin,
        "capabilities": {"portMappings": true}, "namespaceIsolation": true, "delegates": [network()]})
}

/// A bed with Multus' file, and its program where it is built.
fn multus_node(conf: &Value) -> Testbed {
    let bed = Testbed::new();
    bed.parent("up0");
    bed.file("net.d/00-multus.conf", &conf.to_string());
    bed.file("net.d/10-cluster.conflist", &network().to_string());
    bed.file("net.d/200-loopback.conf", r#"{"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}"#);
    if let Ok(program) = multus() {
        fs::create_dir_all(BIN_DIR).unwrap();
        std::os::unix::fs::symlink(program, format!("{BIN_DIR}/multus")).unwrap();
    }
    bed
}

fn beside() {
    let bed = Testbed::new();
    bed.file("net.d/10-cluster.conflist", &network().to_string());
    let planned = ok(&["install", "--dry-run", "--kubeconfig", "/etc/kubeconfig"]);
    assert_eq!((states(&planned), names().len()), (vec!["pending"; 3], 1), "{planned}");
    let done = ok(&["install", "--kubeconfig", "/etc/kubeconfig"]);
    assert_eq!(states(&done), ["done"; 3]);
    let own = ours("conflist");
    assert_eq!((&own["cniVersion"], &own["plugins"][0]["type"]), (&json!("1.0.0"), &json!("plexus-cni")));
    assert_eq!(own["plugins"][0]["clusterNetwork"], json!(format!("{CONF_DIR}/10-cluster.conflist")));
    assert_eq!(own["plugins"][0]["capabilities"], json!({"portMappings": true}));
    assert_eq!(own["plugins"][0]["kubeconfig"], "/etc/kubeconfig");
    for name in ["plexus", "plexus-cni"] {
        let meta = fs::metadata(format!("{BIN_DIR}/{name}")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o755, "{name}");
    }
    // What a person made of it stays.
    let changed = own.to_string().replace("/etc/kubeconfig", "/etc/other");
    bed.file(&format!("net.d/{OURS}.conflist"), &changed);
    assert_eq!(states(&ok(&["install"])), ["already"; 3]);
    assert_eq!(ours("conflist")["plugins"][0]["kubeconfig"], "/etc/other");
    // Unless it can no longer work: the network has moved.
    fs::rename(format!("{CONF_DIR}/10-cluster.conflist"), format!("{CONF_DIR}/20-cluster.conflist")).unwrap();
    assert_eq!(states(&ok(&["install"])), ["already", "already", "done"]);
    assert_eq!(ours("conflist")["plugins"][0]["clusterNetwork"], json!(format!("{CONF_DIR}/20-cluster.conflist")));
    let table = plexus(&["install", "--conf-dir", CONF_DIR, "--bin-dir", BIN_DIR]);
    assert!(text(&table.stdout).contains("already so"), "{}", text(&table.stdout));
}

/// A runtime executes the old one all the time.
fn busy() {
    let bed = Testbed::new();
    bed.file("net.d/10-cluster.conflist", &network().to_string());
    fs::create_dir_all(BIN_DIR).unwrap();
    let program = format!("{BIN_DIR}/plexus-cni");
    fs::copy("/bin/cat", &program).unwrap();
    let mut running = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    ok(&["install"]);
    assert!(fs::read(&program).unwrap() == fs::read(env!("CARGO_BIN_EXE_plexus-cni")).unwrap());
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
    assert_eq!(files_below(Path::new(BIN_DIR)).len(), 2, "nothing unfinished is left");
}

fn refused() {
    let bed = Testbed::new();
    let refuses = |words: &[&str], part: &str| {
        let before = files_below(Path::new("/run/scratch"));
        let (code, shown, told) = run(words);
        assert_eq!((code, shown), (1, Value::Null), "{told}");
        assert!(
            told.contains(part) && told.contains("nothing was changed") && told.lines().count() == 1,
            "{part}: {told}"
        );
        assert!(files_below(Path::new("/run/scratch")) == before, "{part}");
    };
    refuses(&["install"], "No such file");
    bed.file("net.d/readme.txt", "");
    refuses(&["install"], "no network is in");
    refuses(&["install", "--from-multus"], "no configuration of Multus");
    refuses(&["install", "--to-multus"], "nothing to go back to");
    let whole = network().to_string();
    for half in ["", "{", &whole[..whole.len() / 2], "{}", r#"{"cniVersion": "1.0.0", "name": "n", "plugins": []}"#] {
        bed.file("net.d/10-cluster.conflist", half);
        refuses(&["install"], "half written");
        bed.file("net.d/20-other.conflist", &whole);
        refuses(&["install"], "half written");
        fs::remove_file(format!("{CONF_DIR}/20-other.conflist")).unwrap();
    }
    bed.file("net.d/10-cluster.conflist", &whole);
    let own = thin(Path::new(BIN_DIR)).to_string();
    for half in ["", &own[..own.len() / 2]] {
        bed.file("net.d/00-multus.conf", half);
        refuses(&["install", "--from-multus"], "half written");
    }
    bed.file("net.d/00-multus.conf", &own);
    refuses(&["install"], "--from-multus");
    refuses(&["install", "--to-multus"], "is not there: install Multus' program first");
}

fn in_multus_place() {
    let mut conf = thin(Path::new("/opt/cni/bin"));
    conf["kubeconfig"] = json!("/host/etc/nowhere.kubeconfig");
    conf["cniConf"] = json!("/host/etc/cni/multus/net.d");
    conf["readinessindicatorfile"] = json!("/run/ready");
    conf["somebodys"] = json!(1);
    let _bed = multus_node(&conf);
    let before = configurations();
    let planned = ok(&["install", "--from-multus", "--dry-run"]);
    assert_eq!(configurations(), before);
    let done = ok(&["install", "--from-multus"]);
    assert_eq!(planned["keys"], done["keys"]);
    let saved = "00-multus.conf.before-plexus";
    assert_eq!(names(), [&format!("{OURS}.conf"), saved, "10-cluster.conflist", "200-loopback.conf"]);
    let own = ours("conf");
    assert_eq!((&own["type"], &own["name"]), (&json!("plexus-cni"), &conf["name"]));
    for same in ["cniVersion", "delegates", "capabilities", "namespaceIsolation", "logLevel", "binDir", "somebodys"] {
        assert_eq!(own[same], conf[same], "{same}");
    }
    assert_eq!((&own["confDir"], &own["cniConf"]), (&json!("/etc/cni/multus/net.d"), &Value::Null));
    assert_eq!(own["kubeconfig"], "/etc/nowhere.kubeconfig");
    for (key, part) in [
        ("type", "was multus"),
        ("kubeconfig", "which Multus sees as /host/etc"),
        ("namespaceIsolation", "default-network annotation"),
        ("readinessindicatorfile", "STATUS does not"),
        ("cniConf", "confDir"),
        ("somebodys", "ignored"),
    ] {
        assert!(meaning(&done, key).contains(part), "{key}: {done}");
    }
    assert_eq!(fs::read_to_string(format!("{CONF_DIR}/{saved}")).unwrap(), conf.to_string());
}

/// The thick one: half of it is in the daemon's file, and paths are as the daemon's container sees them.
fn of_daemon() {
    let conf = json!({"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus-shim", "capabilities": {"portMappings": true},
        "clusterNetwork": "/host/etc/cni/net.d/10-cluster.conflist", "daemonSocketDir": "/run/multus/", "logToStderr": true});
    let bed = multus_node(&conf);
    let daemon = json!({"chrootDir": "/hostroot", "cniVersion": "0.3.1", "logLevel": "verbose", "cniConfigDir": "/host/etc/cni/net.d",
        "multusAutoconfigDir": "/host/etc/cni/net.d", "multusConfigFile": "auto", "socketDir": "/host/run/multus/",
        "globalNamespaces": "default,shared", "metricsPort": 9091, "odd": true});
    let file = bed.file("daemon-config.json", &daemon.to_string()).display().to_string();
    // The daemon knows the API server by its service account: here somebody must say how it is reached.
    let (code, _, told) = run(&["install", "--from-multus", "--daemon-config", &file]);
    assert!(code != 0 && told.contains("--kubeconfig"), "{told}");
    let done = ok(&["install", "--from-multus", "--daemon-config", &file, "--kubeconfig", "/run/scratch/kubeconfig"]);
    let own = ours("conf");
    assert_eq!(own["clusterNetwork"], json!(format!("{CONF_DIR}/10-cluster.conflist")));
    assert_eq!((&own["globalNamespaces"], &own["logLevel"]), (&json!("default,shared"), &json!("verbose")));
    assert_eq!(
        (&own["daemonSocketDir"], &own["chrootDir"], &own["cniVersion"]),
        (&Value::Null, &Value::Null, &json!("1.0.0"))
    );
    for (key, part) in [
        ("clusterNetwork", "which Multus has as /host/etc"),
        ("globalNamespaces", "held over the network's"),
        ("chrootDir", "on the node itself"),
        ("metricsPort", "no daemon"),
        ("daemonSocketDir", "left out"),
        ("odd", "unknown"),
    ] {
        assert!(meaning(&done, key).contains(part), "{key}: {done}");
    }
    // And it attaches.
    bed.pod("a");
    let call = |command: &str| bed.call(Side::Plexus, "plexus-cni").command(command).pod("a").conf(&own);
    let attached = call("ADD").run().ok();
    assert_eq!(attached["ips"][0]["address"], "10.1.0.2/24");
    call("DEL").run().ok();
}

fn would_not_work() {
    for (change, part) in [
        (json!({"delegates": []}), "at least one delegate/clusterNetwork"),
        (json!({"clusterNetwork": "/nowhere/10-a.conflist"}), "is not on this node"),
        (json!({"delegates": [], "clusterNetwork": "nowhere"}), "and no kubeconfig says where definitions are"),
        (json!({"delegates": [{"type": "bridge"}]}), "missing network name"),
        (json!({"delegates": [{"name": "n", "type": "multus"}]}), "is none itself"),
        (json!({"cniDir": "relative"}), "no absolute path"),
    ] {
        let mut conf = thin(Path::new("/opt/cni/bin"));
        conf.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let _bed = multus_node(&conf);
        let before = files_below(Path::new("/run/scratch"));
        let (code, _, told) = run(&["install", "--from-multus"]);
        assert!(code == 1 && told.contains(part) && told.contains("nothing was changed"), "{part}: {told}");
        assert!(files_below(Path::new("/run/scratch")) == before, "{part}");
    }
    // A folder would have plexus' own file in it: the network's is named.
    let mut conf = thin(Path::new("/opt/cni/bin"));
    conf["clusterNetwork"] = json!(CONF_DIR);
    let _bed = multus_node(&conf);
    ok(&["install", "--from-multus"]);
    assert_eq!(ours("conf")["clusterNetwork"], json!(format!("{CONF_DIR}/10-cluster.conflist")));
}

fn twice() {
    let bed = multus_node(&thin(Path::new("/opt/cni/bin")));
    fs::remove_file(format!("{BIN_DIR}/multus")).ok();
    bed.file("opt/bin/multus", "the old program");
    let words = ["install", "--from-multus", "--multus-names"];
    ok(&words);
    let (first, programs) = (configurations(), files_below(Path::new(BIN_DIR)));
    assert!(states(&ok(&words)).iter().all(|state| *state == "already"));
    assert!((configurations(), files_below(Path::new(BIN_DIR))) == (first.clone(), programs), "nothing has changed");
    for name in ["multus", "multus-shim"] {
        assert_eq!(fs::read_link(format!("{BIN_DIR}/{name}")).unwrap(), PathBuf::from("plexus-cni"));
    }
    // Multus' DaemonSet still runs: what it writes again is not read first, and the next time it is put aside.
    let again =
        json!({"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus", "delegates": [network()]});
    bed.file("net.d/00-multus.conf", &again.to_string());
    assert_eq!(names()[0], format!("{OURS}.conf"));
    ok(&words);
    assert_eq!(names().len(), first.len());
    ok(&["install", "--to-multus"]);
    assert_eq!(fs::read_to_string(format!("{BIN_DIR}/multus")).unwrap(), "the old program");
    assert!(!Path::new(BIN_DIR).join("multus-shim").exists());
    assert_eq!(names(), ["00-multus.conf", "10-cluster.conflist", "200-loopback.conf"]);
    assert_eq!(fs::read_to_string(format!("{CONF_DIR}/00-multus.conf")).unwrap(), again.to_string());
}

/// How often each way is interrupted.
const KILLS: u32 = 40;

fn killed() {
    let bed = multus_node(&thin(Path::new("/opt/cni/bin")));
    fs::remove_file(format!("{BIN_DIR}/multus")).ok();
    bed.file("opt/bin/multus", "the old program");
    // By name and twice: a listing takes its time, and both may have changed places behind it.
    let looks = || {
        let read = |name: &str| fs::read_to_string(Path::new(CONF_DIR).join(name)).ok();
        let ours = format!("{OURS}.conf");
        let found = [ours.as_str(), "00-multus.conf", ours.as_str(), "00-multus.conf"].into_iter().find_map(read);
        let found = found.unwrap_or_else(|| panic!("neither the old nor the new: {:?}", configurations()));
        serde_json::from_str::<Value>(&found).unwrap_or_else(|e| panic!("half of one: {e}: {found}"));
    };
    bed.file("small/plexus", "#!/bin/sh");
    bed.file("small/plexus-cni", &"x".repeat(1 << 20));
    let mut interrupted = 0;
    for number in 0..KILLS * 2 {
        let way = if number % 2 == 0 { "--from-multus" } else { "--to-multus" };
        let words = ["install", way, "--conf-dir", CONF_DIR, "--bin-dir", BIN_DIR, "--programs", "/run/scratch/small"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        let mut child = command.args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Some instants later in each round, told by looks at the directory and not by a clock.
        for _ in 0..number * 15 {
            looks();
        }
        child.kill().unwrap();
        interrupted += u32::from(!child.wait().unwrap().success());
        looks();
        // Whatever it came to, the next one brings it to its end.
        ok(&["install", way, "--programs", "/run/scratch/small"]);
        looks();
    }
    assert!(interrupted > 0, "none was killed at work");
    assert_eq!(names(), ["00-multus.conf", "10-cluster.conflist", "200-loopback.conf"]);
    let left: Vec<PathBuf> = files_below(Path::new(BIN_DIR)).into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, [PathBuf::from("multus"), PathBuf::from("plexus"), PathBuf::from("plexus-cni")]);
}

fn uninstall_killed() {
    let bed = multus_node(&thin(Path::new("/opt/cni/bin")));
    fs::remove_file(format!("{BIN_DIR}/multus")).ok();
    bed.file("opt/bin/multus", "the old program");
    bed.file("small/plexus", "#!/bin/sh");
    bed.file("small/plexus-cni", &"x".repeat(1 << 20));
    let before = configurations();
    let mut interrupted = 0;
    for number in 0..KILLS {
        ok(&["install", "--from-multus", "--programs", "/run/scratch/small"]);
        assert_ne!(configurations(), before);
        let words = ["uninstall", "--conf-dir", CONF_DIR, "--bin-dir", BIN_DIR];
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        let mut child = command.args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Some instants later in each round, told by looks at the directory and not by a clock.
        for _ in 0..number * 15 {
            files_below(Path::new(CONF_DIR));
        }
        child.kill().unwrap();
        interrupted += u32::from(!child.wait().unwrap().success());
        ok(&["uninstall"]);
        assert_eq!(configurations(), before, "round {number}");
        let left: Vec<PathBuf> = files_below(Path::new(BIN_DIR)).into_iter().map(|(path, _)| path).collect();
        assert_eq!(left, [PathBuf::from("multus")], "round {number}");
        assert!(states(&ok(&["uninstall"])).iter().all(|state| *state == "already"), "round {number}");
    }
    assert!(interrupted > 0, "none was killed at work");
}

/// Node with pods of both sides.
struct Pods {
    bed: Testbed,
}

impl Pods {
    fn new() -> Pods {
        let mut conf = thin(Path::new("/run/cni/go"));
        let blue = json!({"cniVersion": "1.0.0", "name": "blue", "type": "macvlan", "master": "up0",
            "ipam": {"type": "host-local", "subnet": "10.2.0.0/24"}});
        conf["delegates"].as_array_mut().unwrap().push(blue);
        Pods { bed: multus_node(&conf) }
    }

    /// As a runtime does: the first file, its type's program.
    fn call(&self, command: &str, pod: &str) -> Value {
        let read = configurations().into_iter().find(|(name, _)| name.ends_with(".conf")).unwrap();
        let mut conf: Value = serde_json::from_str(&read.1).unwrap();
        conf["runtimeConfig"] = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
        let program = Path::new(BIN_DIR).join(conf["type"].as_str().unwrap());
        let call = crate::call::Call::new(&self.bed, program, Path::new("/run/cni/go"));
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID=uid-{pod}");
        call.command(command).container(&format!("id{pod}")).pod(pod).args(&args).conf(&conf).run().ok()
    }

    fn left(&self) -> Vec<String> {
        let kept = files_below(Path::new(KEPT)).into_iter().map(|(path, _)| format!("kept {}", path.display()));
        let is_shared =
            |left: &String| left == "link cni0" || (left.contains("CNI-HOSTPORT-") && !left.contains("CNI-DN-"));
        // Tables and base chains of Go's portmap stay, too.
        let is_empty = |left: &String| left.contains("cni_hostport") && !left.contains("dport");
        kept.chain(self.bed.leftovers()).filter(|left| !is_shared(left) && !is_empty(left)).collect()
    }
}

fn there() {
    let node = Pods::new();
    node.bed.pod("a");
    node.call("ADD", "a");
    ok(&["install", "--from-multus"]);
    node.call("DEL", "a");
    assert_eq!(node.left(), Vec::<String>::new());
}

fn back() {
    let node = Pods::new();
    ok(&["install", "--from-multus"]);
    for pod in ["a", "b"] {
        node.bed.pod(pod);
    }
    node.call("ADD", "a");
    let record = fs::read(Path::new(RECORDS).join("journal/multus-cni-network:ida:eth0.jsonl")).unwrap();
    let line: Value = serde_json::from_slice(record.split(|byte| *byte == b'\n').nth(1).unwrap()).unwrap();
    let note = Path::new(RECORDS).join("unwritten/uid-a");
    fs::create_dir_all(note.parent().unwrap()).unwrap();
    fs::write(
        &note,
        json!({"namespace": "default", "name": "a", "uid": "uid-a", "status": line["status"]}).to_string(),
    )
    .unwrap();
    let done = ok(&["install", "--to-multus"]);
    assert!(!note.exists(), "it would be written over what Multus wrote since");
    assert!(done["notes"].to_string().contains("port mappings of 1 pods"), "{done}");
    assert!(!node.left().iter().any(|left| left.starts_with("record")), "{:?}", node.left());
    let rules = node.bed.tool("nft", &["list", "ruleset"], "").unwrap();
    assert!(rules.contains("tcp dport 8080"), "as the Go plugin has them: {rules}");
    node.call("DEL", "a");
    assert_eq!(node.left(), Vec::<String>::new());
    // And when nothing is attached there is nothing to hand over.
    ok(&["install", "--from-multus"]);
    let done = ok(&["install", "--to-multus"]);
    assert!(states(&done).contains(&"already"), "{done}");
    node.call("ADD", "b");
    node.call("DEL", "b");
    assert_eq!(node.left(), Vec::<String>::new());
}

/// Killed when Multus serves and plexus has not forgotten yet: pods go before it is repeated.
fn deleted_in_between() {
    let node = Pods::new();
    ok(&["install", "--from-multus"]);
    node.bed.pod("a");
    node.call("ADD", "a");
    let ours = Path::new(CONF_DIR).join(names().into_iter().find(|name| name.starts_with(OURS)).unwrap());
    let leaving = PathBuf::from(format!("{}.before-multus", ours.display()));
    // Where the renaming fails is where it is killed.
    fs::create_dir_all(leaving.join("x")).unwrap();
    assert_eq!(run(&["install", "--to-multus"]).0, 1);
    fs::remove_dir_all(&leaving).unwrap();
    fs::rename(&ours, &leaving).unwrap();
    node.call("DEL", "a");
    ok(&["install", "--to-multus"]);
    assert_eq!(node.left(), Vec::<String>::new());
    let rules = node.bed.tool("nft", &["list", "ruleset"], "").unwrap();
    assert!(!rules.contains("8080"), "a host port leads to an address that another pod gets: {rules}");
}

/// What it says of its pod cannot be written for Multus, which would never delete it.
fn cut_short() {
    let node = Pods::new();
    ok(&["install", "--from-multus"]);
    for pod in ["a", "b"] {
        node.bed.pod(pod);
    }
    let record = |pod: &str| Path::new(RECORDS).join(format!("journal/multus-cni-network:id{pod}:eth0.jsonl"));
    let cut = |pod: &str, at: &dyn Fn(&[u8]) -> usize| {
        node.call("ADD", pod);
        let whole = fs::read(record(pod)).unwrap();
        fs::write(record(pod), &whole[..at(&whole)]).unwrap();
    };
    let first = |whole: &[u8]| whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for at in [&|whole: &[u8]| first(whole) / 2, &|whole: &[u8]| whole.len() - 20] as [&dyn Fn(&[u8]) -> usize; 2] {
        cut("a", at);
        let before = (configurations(), fs::read(record("a")).unwrap());
        let (code, _, told) = run(&["install", "--to-multus"]);
        let is_told = told.contains(record("a").to_str().unwrap()) && told.contains("plexus gc");
        assert!(code == 1 && is_told, "{code}: {told}");
        assert_eq!((configurations(), fs::read(record("a")).unwrap()), before, "plexus serves as before");
        node.call("DEL", "a");
        assert_eq!(node.left(), Vec::<String>::new());
    }
    // Of an ADD that was killed before its end, what Multus' plugins would not find goes now.
    cut("b", &first);
    ok(&["install", "--to-multus"]);
    assert!(!node.left().iter().any(|left| left.starts_with("record")), "{:?}", node.left());
    node.call("DEL", "b");
    assert_eq!(node.left(), Vec::<String>::new());
}

fn failed_step() {
    let bed = multus_node(&thin(Path::new("/opt/cni/bin")));
    bed.file("opt/bin/plexus-cni/in-its-place", "");
    let words = ["install", "--from-multus", "--conf-dir", CONF_DIR, "--bin-dir", BIN_DIR, "--programs", programs()];
    let failed = plexus(&words);
    let told = text(&failed.stderr);
    assert!(failed.status.code() == Some(1) && !told.contains("DaemonSet"), "{told}");
    fs::remove_dir_all(format!("{BIN_DIR}/plexus-cni")).unwrap();
    let done = plexus(&words);
    let told = text(&done.stderr);
    assert!(done.status.success() && told.contains("delete Multus' DaemonSet now"), "{told}");
}

fn there_and_back() {
    let node = Pods::new();
    for pod in ["old", "new", "lost"] {
        node.bed.pod(pod);
    }
    node.call("ADD", "old");
    ok(&["install", "--from-multus"]);
    ok(&["install", "--to-multus"]);
    ok(&["install", "--from-multus"]);
    let conf = ours("conf");
    let own = |command: &str, pod: &str| {
        let call = node.bed.call(Side::Plexus, "plexus-cni").command(command).container(&format!("id{pod}")).pod(pod);
        call.conf(&conf).run().ok()
    };
    own("ADD", "new");
    own("ADD", "lost");
    ok(&["install", "--to-multus"]);
    ok(&["install", "--from-multus"]);
    // Each is in one place: nothing is deleted twice.
    assert_eq!(node.left().iter().filter(|left| left.starts_with("record")).count(), 0);
    node.bed.lose_pod("lost");
    for pod in ["old", "new", "lost"] {
        own("DEL", pod);
    }
    assert_eq!(node.left(), Vec::<String>::new());
}

fn uninstall() {
    let bed = Testbed::new();
    bed.file("net.d/10-cluster.conflist", &network().to_string());
    ok(&["install"]);
    let list = ours("conflist");
    let mut conf = list["plugins"][0].clone();
    conf["name"] = list["name"].clone();
    conf["cniVersion"] = list["cniVersion"].clone();
    bed.pod("a");
    let call = |command: &str| bed.call(Side::Plexus, "plexus-cni").command(command).pod("a").conf(&conf);
    call("ADD").run().ok();
    assert!(!files_below(&Path::new(RECORDS).join("journal")).is_empty());
    let planned = ok(&["uninstall", "--dry-run"]);
    assert!(planned.to_string().contains("pods are attached"), "{planned}");
    let done = ok(&["uninstall"]);
    let kept: Vec<&Value> = done["steps"].as_array().unwrap().iter().filter(|step| step["what"] == "stays").collect();
    assert_eq!(kept.len(), 2, "{done}");
    assert_eq!(names(), ["10-cluster.conflist"], "the runtime reads what was there before");
    assert!(Path::new(BIN_DIR).join("plexus-cni").exists());
    call("DEL").run().ok();
    assert!(states(&ok(&["uninstall"])).contains(&"done"));
    assert!(files_below(Path::new(BIN_DIR)).is_empty());
    assert!(states(&ok(&["uninstall"])).iter().all(|state| *state == "already"), "and again");
}

fn uninstall_to_multus() {
    let node = Pods::new();
    ok(&["install", "--from-multus"]);
    node.bed.pod("a");
    node.call("ADD", "a");
    let done = ok(&["uninstall"]);
    assert_eq!(names(), ["00-multus.conf", "10-cluster.conflist", "200-loopback.conf"], "{done}");
    assert!(!Path::new(BIN_DIR).join("plexus-cni").exists(), "nobody needs it: the pods are Multus'");
    node.call("DEL", "a");
    assert_eq!(node.left(), Vec::<String>::new());
}
