//! How a DaemonSet brings plexus' programs to a node and takes them off it: `plexus install --only-programs`, `plexus uninstall
//! --until-done`. It does not know a cluster.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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
