//! How a DaemonSet brings plexus' programs to a node and takes them off it: `plexus install --only-programs`, `plexus uninstall
//! --until-done`. It does not know a cluster.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::call::Side;
use crate::case::Case;
use crate::program::{plexus, text};
use crate::testbed::{RECORDS, Testbed, files_below};

const CONF_DIR: &str = "/run/scratch/net.d";
const BIN_DIR: &str = "/run/scratch/opt/bin";
const NAMESPACES: &str = "/run/netns";
const OURS: &str = "/run/scratch/net.d/00-0-plexus.conflist";
const PLACES: [&str; 4] = ["--conf-dir", CONF_DIR, "--bin-dir", BIN_DIR];
/// Whatever is awaited comes at once, or something is very wrong.
const LIMIT: Duration = Duration::from_secs(60);

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("install::programs_alone_need_no_network", &[], alone),
        Case::new("install::uninstall_until_done_ends_with_the_last_pod", &[], last_pod),
        Case::new("install::uninstall_until_done_collects_what_got_no_del", &[], collected),
        Case::new("install::uninstall_until_done_waits_for_no_del_that_nobody_sends", &[], noted),
        Case::new("install::no_uninstall_under_a_daemon_that_keeps_the_configuration", &[], kept),
        Case::new("install::uninstall_takes_what_a_killed_one_left", &[], remains),
        Case::new("install::paths_are_those_of_who_calls", &[], relative),
        Case::new("install::of_two_that_bring_programs_one_is_at_work", &[], one_at_a_time),
    ]
}

/// Small programs in the place of those of the debugging build.
fn programs(bed: &Testbed) -> &'static str {
    for name in ["plexus", "plexus-cni"] {
        bed.file(&format!("programs/{name}"), "#!/bin/sh\n");
    }
    "/run/scratch/programs"
}

fn alone() {
    let bed = Testbed::new();
    bed.file("opt/bin/bridge", "another's");
    let words = [&["install", "--only-programs", "--programs", programs(&bed)][..], &PLACES].concat();
    for _ in 0..2 {
        let output = plexus(&words);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let there: Vec<_> = files_below(Path::new(BIN_DIR)).into_iter().map(|(path, _)| path).collect();
        assert_eq!(there, ["bridge", "plexus", "plexus-cni"].map(Path::new));
    }
    assert!(!Path::new(CONF_DIR).exists(), "the runtime's configuration is the daemon's");
}

/// It ends with the case.
struct Leaving(Child);

impl Leaving {
    /// In a container that has `/run/netns` of the node, as it changes there (`HostToContainer`), and sees no process of it.
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        let said = fs::File::create("/run/scratch/said").unwrap();
        command.args(["uninstall", "--until-done"]).args(PLACES).stdin(Stdio::null()).stderr(said);
        // The thread's namespace becomes the child's.
        std::thread::scope(|scope| {
            let started = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                mount(None::<&str>, NAMESPACES, None::<&str>, MsFlags::MS_SLAVE, None::<&str>).unwrap();
                command.spawn().unwrap()
            });
            Self(started.join().unwrap())
        })
    }

    fn said() -> String {
        fs::read_to_string("/run/scratch/said").unwrap()
    }

    /// Has it said that all is done; and it ends when it is told to, well.
    fn end(mut self) {
        until("nothing is left", || Self::said().contains("nothing of plexus is left"));
        assert!(files_below(Path::new(BIN_DIR)).is_empty());
        assert!(self.0.try_wait().unwrap().is_none(), "it waits: a DaemonSet would start it anew");
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}; {}", Leaving::said());
        std::thread::yield_now();
    }
}

/// A node with one pod; what its runtime deletes by.
fn node() -> (Testbed, Value) {
    let bed = Testbed::new();
    // A folder of its own, whose mounts others may follow, as a node's are.
    mount(Some(NAMESPACES), NAMESPACES, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    mount(None::<&str>, NAMESPACES, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    fs::create_dir_all("/var/lib/cni/results").unwrap();
    let network = json!({"cniVersion": "1.0.0", "name": "cluster", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}]});
    bed.file("net.d/10-cluster.conflist", &network.to_string());
    let words = [&["install", "--programs", programs(&bed)][..], &PLACES].concat();
    let output = plexus(&words);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let list: Value = serde_json::from_slice(&fs::read(OURS).unwrap()).unwrap();
    let mut conf = list["plugins"][0].clone();
    for key in ["name", "cniVersion"] {
        conf[key] = list[key].clone();
    }
    bed.pod("a");
    bed.call(Side::Plexus, "plexus-cni").command("ADD").pod("a").conf(&conf).run().ok();
    (bed, conf)
}

fn last_pod() {
    let (bed, conf) = node();
    let leaving = Leaving::start();
    until("the runtime reads what was there before", || !Path::new(OURS).exists());
    until("it says what it waits for", || Leaving::said().contains("pods are attached by plexus"));
    assert!(Path::new(BIN_DIR).join("plexus-cni").exists(), "what deletes the pod");
    bed.call(Side::Plexus, "plexus-cni").command("DEL").pod("a").conf(&conf).run().ok();
    leaving.end();
}

/// The runtime reads another configuration by now, whose plugins know only their own network.
fn collected() {
    let (bed, _) = node();
    let leaving = Leaving::start();
    until("it says what it waits for", || Leaving::said().contains("pods are attached by plexus"));
    bed.lose_pod("a");
    leaving.end();
    assert!(files_below(&Path::new(RECORDS).join("journal")).iter().all(|(path, _)| path == Path::new("boot")));
}

/// containerd's note of a pod stays where its network is not configured any more; it sends no DEL of it.
fn noted() {
    let (bed, conf) = node();
    let netns = bed.netns("a");
    let note = json!({"kind": "cniCacheV1", "containerId": "c1", "netns": netns, "ifName": "eth0", "networkName": conf["name"]});
    let network = conf["name"].as_str().unwrap();
    fs::write(format!("/var/lib/cni/results/{network}-c1-eth0"), note.to_string()).unwrap();
    let leaving = Leaving::start();
    until("it says what it waits for", || Leaving::said().contains("pods are attached by plexus"));
    bed.lose_pod("a");
    until("it is let be at first", || Leaving::said().contains("its runtime has a note of it"));
    leaving.end();
    assert!(files_below(&Path::new(RECORDS).join("journal")).iter().all(|(path, _)| path == Path::new("boot")));
}

/// A node with a default network and the programs, and no pod.
fn ready() -> Testbed {
    let bed = Testbed::new();
    let network = json!({"cniVersion": "1.0.0", "name": "cluster", "plugins": [{"type": "bridge"}]});
    bed.file("net.d/10-cluster.conflist", &network.to_string());
    fs::create_dir_all(BIN_DIR).unwrap();
    ok(&["install", "--only-programs", "--programs", programs(&bed)]);
    bed
}

fn ok(words: &[&str]) {
    let output = plexus(&[words, &PLACES].concat());
    assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
}

fn is_refused(words: &[&str], part: &str) {
    let there = || [CONF_DIR, BIN_DIR].map(|folder| files_below(Path::new(folder)));
    let before = there();
    let output = plexus(&[words, &PLACES].concat());
    let said = text(&output.stderr);
    assert!(
        !output.status.success() && said.contains(part) && said.contains("nothing was changed"),
        "{words:?}: {said}"
    );
    assert!(there() == before, "{words:?}");
}

/// It would write its configuration again, and pods would be attached by programs that are gone.
fn kept() {
    let bed = ready();
    let folder = "/run/scratch/plexus";
    let config = json!({"cniConfigDir": CONF_DIR, "daemonSocketDir": folder});
    bed.file("daemon-config.json", &config.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
    command.args(["daemon", "--socket-dir", folder, "--config", "/run/scratch/daemon-config.json"]);
    let said = fs::File::create("/run/scratch/said").unwrap();
    let mut daemon = Leaving(command.stdin(Stdio::null()).stderr(said).spawn().unwrap());
    until("the daemon writes its configuration", || Path::new(OURS).exists());
    for words in [&["uninstall"][..], &["uninstall", "--dry-run"], &["install", "--to-multus"]] {
        is_refused(words, "the daemon at /run/scratch/plexus/plexus.sock");
    }
    kill(Pid::from_raw(i32::try_from(daemon.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(daemon.0.wait().unwrap().success());
    // Nobody listens there now, whether or not the file is there.
    drop(fs::remove_file(format!("{folder}/plexus.sock")));
    drop(UnixListener::bind(format!("{folder}/plexus.sock")).unwrap());
    ok(&["uninstall"]);
    assert!(!Path::new(OURS).exists() && files_below(Path::new(BIN_DIR)).is_empty());
}

/// And the token by which plexus-cni asked the API server.
fn remains() {
    let bed = ready();
    for file in [
        "net.d/.00-0-plexus.conflist.unfinished",
        "net.d/plexus.d/plexus.kubeconfig",
        "net.d/plexus.d/.plexus.kubeconfig.unfinished",
        "opt/bin/.plexus.unfinished",
        "opt/bin/.multus.before-plexus.unfinished",
    ] {
        bed.file(file, "half");
    }
    for (file, others) in [("net.d/.mine.unfinished", "a person's"), ("opt/bin/bridge", "another's")] {
        bed.file(file, others);
    }
    ok(&["uninstall"]);
    let left = |folder: &str| files_below(Path::new(folder)).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(left(CONF_DIR), [".mine.unfinished", "10-cluster.conflist"].map(Path::new));
    assert_eq!(left(BIN_DIR), ["bridge"].map(Path::new));
}

/// A runtime reads what is written in a folder of its own.
fn relative() {
    let bed = ready();
    bed.file("login", "{}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
    command.args(["install", "--conf-dir", "net.d", "--bin-dir", "opt/bin", "--programs", "programs"]);
    let output = command.args(["--kubeconfig", "login"]).current_dir("/run/scratch").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let list: Value = serde_json::from_slice(&fs::read(OURS).unwrap()).unwrap();
    assert_eq!(list["plugins"][0]["clusterNetwork"], "/run/scratch/net.d/10-cluster.conflist");
    assert_eq!(list["plugins"][0]["kubeconfig"], "/run/scratch/login");
}

/// The DaemonSet's and a person's: what one has half written must not get the name by the other.
fn one_at_a_time() {
    let bed = ready();
    for folder in [BIN_DIR, CONF_DIR] {
        let held = Flock::lock(fs::File::open(folder).unwrap(), FlockArg::LockExclusive).unwrap();
        is_refused(&["install", "--programs", programs(&bed)], "another installation is at work");
        is_refused(&["uninstall"], "another installation is at work");
        drop(held);
    }
    // One folder for both is one lock.
    ok(&["install", "--programs", programs(&bed)]);
    let words = ["uninstall", "--dry-run", "--conf-dir", CONF_DIR, "--bin-dir", CONF_DIR];
    assert!(plexus(&words).status.success());
    let words = ["uninstall", "--conf-dir", CONF_DIR, "--bin-dir", CONF_DIR];
    assert!(plexus(&words).status.success());
}
