//! The node's daemon: its process, in a mount namespace of its own where no pod's namespace has a path, and what the cases around
//! it share. It knows the socket's folder and /proc, and nothing of how the daemon works.

mod approver;
mod away;
mod certificate;
mod change;
mod compat;
mod crash;
mod delegate;
mod frame;
mod handed;
mod hostile;
mod keeps;
mod lease;
mod long;
mod order;
mod rotation;
mod same;
mod supply;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::call::Answer;
use crate::case::Case;
use crate::meta::{self, Node};
use crate::testbed::{LEASES, RECORDS, files_below};
pub(crate) use keeps::mount_account;

/// `daemonSocketDir` of every case.
const DIR: &str = "/run/plexus";
/// The socket in there.
const SOCKET: &str = "/run/plexus/plexus.sock";
/// How long an event may take that nothing else tells of, on a busy machine.
const EVENT_LIMIT: Duration = Duration::from_secs(60);
/// The default network's pool: who holds its lock makes every ADD wait in its middle.
const POOL: &str = "cluster";

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let parts = [
        same::cases(),
        away::cases(),
        approver::cases(),
        certificate::cases(),
        hostile::cases(),
        keeps::cases(),
        lease::cases(),
        handed::cases(),
        crash::cases(),
        change::cases(),
        order::cases(),
        long::cases(),
        compat::cases(),
        delegate::cases(),
        supply::cases(),
        rotation::cases(),
    ];
    parts.into_iter().flatten().collect()
}

/// A node whose plexus-cni asks the daemon.
fn node(fallback: &str) -> Node {
    let mut node = meta::node();
    node.conf["daemonSocketDir"] = json!(DIR);
    node.conf["fallback"] = json!(fallback);
    node
}

/// A daemon that listens. It is killed when it is dropped; a failed case shows what it wrote.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts one, and waits until the socket is its.
    fn start() -> Daemon {
        Daemon::start_with(Path::new(env!("CARGO_BIN_EXE_plexus")), None)
    }

    /// One that keeps the node's configuration as a daemon-config.json says.
    fn start_keeping(config: &Path) -> Daemon {
        let config = config.to_str().unwrap();
        Daemon::start_as(Path::new(env!("CARGO_BIN_EXE_plexus")), None, &["--config", config])
    }

    /// The same from another path, as another user.
    fn start_with(program: &Path, user: Option<u32>) -> Daemon {
        Daemon::start_as(program, user, &[])
    }

    fn start_as(program: &Path, user: Option<u32>, more: &[&str]) -> Daemon {
        Daemon::start_where(program, user, more, hide_pods)
    }

    /// `place`: what is done in the thread that starts it.
    fn start_where(program: &Path, user: Option<u32>, more: &[&str], place: fn()) -> Daemon {
        let mut command = Command::new(program);
        command.args(["daemon", "--socket-dir", DIR]).args(more).env_clear();
        if let Some(user) = user {
            command.uid(user);
        }
        Daemon::launch(command, place)
    }

    /// One whose pod tells it the node's name, as Multus' manifest does.
    fn start_on(node: &str, more: &[&str]) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        command.args(["daemon", "--socket-dir", DIR]).args(more).env_clear().env("MULTUS_NODE_NAME", node);
        Daemon::launch(command, hide_pods)
    }

    fn launch(mut command: Command, place: fn()) -> Daemon {
        let before = socket_id();
        let number = fs::read_dir("/run/scratch").map_or(0, Iterator::count);
        let log = PathBuf::from(format!("/run/scratch/daemon-{number}.log"));
        let stderr = File::create_new(&log).unwrap();
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // The thread's namespace becomes the child's.
        let child = thread::scope(|scope| {
            let started = scope.spawn(|| {
                place();
                command.spawn().unwrap()
            });
            started.join().unwrap()
        });
        let mut daemon = Daemon { child, log };
        until("the daemon has its socket", || {
            assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon has ended: {}", daemon.said());
            let id = socket_id();
            id.is_some() && id != before
        });
        // Who is stopped while it has it keeps every other daemon waiting.
        until("the daemon has let go of the socket's lock", || {
            let lock = File::open(Path::new(SOCKET).with_extension("lock")).unwrap();
            Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok()
        });
        daemon
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Its open descriptors, without the files that it makes ahead: those have no name (open(2), O_TMPFILE).
    fn descriptors(&self) -> usize {
        let targets = self.open().filter_map(|path| fs::read_link(path).ok());
        targets.filter(|target| !target.to_string_lossy().contains("/#")).count()
    }

    /// Whether it has this file, by its inode.
    fn holds(&self, inode: u64) -> bool {
        self.open().any(|path| fs::metadata(path).is_ok_and(|file| file.ino() == inode))
    }

    /// Its descriptors, each a link (proc(5), /proc/pid/fd).
    fn open(&self) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten().map(|entry| entry.path())
    }

    /// Waits until it has no more of them than `before`: who ends does so after its answer.
    fn awaits_descriptors(&self, before: usize) {
        until("the daemon has closed what it opened", || self.descriptors() <= before);
    }

    /// Its memory, in kB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// What it wrote on standard error.
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn terminate(&self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
    }

    /// How it ended by itself.
    fn ended(mut self) -> ExitStatus {
        let mut status = None;
        until("the daemon ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// SIGTERM, and its end, which is a good one.
    fn stop(self) {
        self.terminate();
        let log = self.log.clone();
        let status = self.ended();
        assert!(status.success(), "{status}: {}", fs::read_to_string(log).unwrap());
    }

    /// SIGKILL after `delay`.
    fn kill_after(mut self, delay: Duration) {
        let (_open, never) = mpsc::channel::<()>();
        never.recv_timeout(delay).unwrap_err();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            eprintln!("---- the daemon wrote\n{}", self.said());
        }
    }
}

/// The calling thread, which ends afterwards, sees /run/netns empty: a pod is what came as a descriptor, or nothing.
fn hide_pods() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    for entry in fs::read_dir("/run/netns").unwrap() {
        // A namespace that is mounted here lives on when the test removes it.
        umount2(&entry.unwrap().path(), MntFlags::MNT_DETACH).ok();
    }
    mount(Some("tmpfs"), "/run/netns", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

/// Which file the socket is; none where there is none.
fn socket_id() -> Option<u64> {
    fs::symlink_metadata(SOCKET).ok().map(|file| file.ino())
}

/// Looks until it is so. For what no descriptor tells of.
fn until(what: &str, is_so: impl FnMut() -> bool) {
    until_within(what, EVENT_LIMIT, is_so);
}

/// The same for so long.
fn until_within(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so within {limit:?}: {what}");
        thread::yield_now();
    }
}

/// Held: every ADD waits in its middle, for ten seconds at most.
fn hold_pool() -> Flock<File> {
    hold_pool_of(POOL)
}

/// The same of another network.
fn hold_pool_of(network: &str) -> Flock<File> {
    let folder = Path::new(LEASES).join(network);
    fs::create_dir_all(&folder).unwrap();
    let file = File::options().create(true).truncate(false).read(true).write(true).open(folder.join("lock")).unwrap();
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap()
}

/// Records that say something: of ADDs that have begun.
fn records() -> usize {
    let files = files_below(&Path::new(RECORDS).join("journal"));
    files.iter().filter(|(path, bytes)| path.extension().is_some_and(|end| end == "jsonl") && !bytes.is_empty()).count()
}

/// What is left over but for bridges, which stay.
fn left(node: &Node) -> Vec<String> {
    let stays = ["link cni0", "link green0", "link six0"];
    node.bed.leftovers().into_iter().filter(|what| !stays.contains(&what.as_str())).collect()
}

/// Calls that are under way.
struct Calls(Vec<Child>);

impl Calls {
    /// One for each pod, all at once.
    fn start(node: &Node, command: &str, pods: &[String]) -> Calls {
        Calls(pods.iter().map(|pod| node.call(command, pod).start()).collect())
    }

    /// What they were answered, in the order of their start.
    fn answers(self) -> Vec<Answer> {
        let one = |child: Child| {
            let output = child.wait_with_output().unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Answer { rc: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
        };
        self.0.into_iter().map(one).collect()
    }

    /// All must succeed.
    fn ok(self, node: &Node) {
        for answer in self.answers() {
            node.bed.note(&format!("{answer:?}\n"));
            answer.ok();
        }
    }
}

/// Pods of a name each, with their namespaces and `networks`.
fn pods(node: &Node, number: usize, networks: &str) -> Vec<String> {
    let names: Vec<String> = (0..number).map(|index| format!("p{index}")).collect();
    for name in &names {
        node.pod(name, &[("k8s.v1.cni.cncf.io/networks", networks)]);
    }
    names
}
