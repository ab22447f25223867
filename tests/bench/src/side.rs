//! The sides of a measurement, and how one program is executed and timed: as a container runtime does it, with
//! pipes, from before the spawn until it has ended and its output is read. Knows no network and no row.

use std::collections::HashMap;
use std::error::Error;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program that runs longer than this is killed, and its side has failed: Go's slowest call takes 2 s, and a hundred
/// at once wait for each other.
const CALL_SECONDS_MAX: u64 = 120;
/// How often that is looked at: far too seldom to disturb a measurement.
const WATCH_SECONDS: u64 = 1;
/// How much of a failed program's output is shown, in characters.
const SHOWN_CHARACTERS_MAX: usize = 400;

/// What can fail here is only shown to a person.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// The release build of plexus-cni, which does all by itself.
    Plexus,
    /// The same, which asks `plexus daemon`.
    Daemon,
    /// The same, which executes `plexus oneshot`.
    Oneshot,
    /// The Go reference plugins.
    Go,
    /// Multus with its daemon, over the Go reference plugins.
    Thick,
    /// Multus in one process for each call, over the Go reference plugins.
    Thin,
    /// The bare netlink messages.
    Floor,
}

impl Side {
    pub(crate) const ALL: [Self; 7] =
        [Self::Plexus, Self::Daemon, Self::Oneshot, Self::Go, Self::Thick, Self::Thin, Self::Floor];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plexus => "plexus",
            Self::Daemon => "daemon",
            Self::Oneshot => "oneshot",
            Self::Go => "go",
            Self::Thick => "thick",
            Self::Thin => "thin",
            Self::Floor => "floor",
        }
    }
}

/// Where the programs of each side are.
#[derive(Debug)]
pub(crate) struct Programs {
    /// A directory with a symlink to plexus-cni for each plugin.
    plexus: Option<PathBuf>,
    go: Option<PathBuf>,
    floor: PathBuf,
    /// The program `plexus`.
    daemon: Option<PathBuf>,
    /// The directory of Multus' programs.
    multus: Option<PathBuf>,
}

/// Where the programs are that only a node's rows need.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OfNodes<'a> {
    /// The program `plexus`.
    pub(crate) daemon: Option<&'a Path>,
    /// The directory of `tests/k8s/build`.
    pub(crate) multus: Option<&'a Path>,
}

/// The names under which plexus-cni is executed: a native kind, or its own for the meta-plugin.
const PLUGINS: [&str; 10] =
    ["bridge", "macvlan", "ptp", "vlan", "dummy", "host-device", "tap", "host-local", "portmap", "plexus-cni"];

impl Programs {
    /// Where programs find their tools.
    pub(crate) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

    /// `links` is a directory for the symlinks. A side whose programs do not answer VERSION is absent.
    pub(crate) fn find(plexus: &Path, peers: &Path, floor: &Path, links: &Path, nodes: OfNodes<'_>) -> Outcome<Self> {
        std::fs::create_dir_all(links)?;
        for name in PLUGINS {
            let link = links.join(name);
            match std::fs::remove_file(&link) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => std::os::unix::fs::symlink(plexus, &link)?,
            }
        }
        let go = [peers.to_owned(), peers.join("bin")];
        Ok(Self {
            plexus: answers_version(links).then(|| links.to_owned()),
            go: go.into_iter().find(|dir| answers_version(dir)),
            floor: floor.to_owned(),
            daemon: nodes.daemon.filter(|file| file.is_file()).map(Path::to_owned),
            multus: nodes.multus.map(Path::to_owned),
        })
    }

    pub(crate) fn has(&self, side: Side) -> bool {
        match side {
            Side::Plexus => self.plexus.is_some(),
            Side::Daemon | Side::Oneshot => self.plexus.is_some() && self.daemon.is_some(),
            Side::Go => self.go.is_some(),
            Side::Thick => self.go.is_some() && self.has_multus("multus-daemon") && self.has_multus("multus-shim"),
            Side::Thin => self.go.is_some() && self.has_multus("multus"),
            Side::Floor => true,
        }
    }

    fn has_multus(&self, name: &str) -> bool {
        self.multus.as_ref().is_some_and(|dir| dir.join(name).is_file())
    }

    /// The directory of a side's plugins: CNI_PATH.
    pub(crate) fn directory(&self, side: Side) -> Option<&Path> {
        match side {
            Side::Plexus | Side::Daemon | Side::Oneshot => self.plexus.as_deref(),
            Side::Go | Side::Thick | Side::Thin => self.go.as_deref(),
            Side::Floor => None,
        }
    }

    pub(crate) fn floor(&self) -> &Path {
        &self.floor
    }

    /// The program `plexus`.
    pub(crate) fn daemon(&self) -> Outcome<&Path> {
        Ok(self.daemon.as_deref().ok_or("no plexus: tests/bench/run --node")?)
    }
}

fn answers_version(dir: &Path) -> bool {
    let call = Call {
        program: dir.join("bridge"),
        arguments: Vec::new(),
        environment: vec![("CNI_COMMAND", "VERSION".into())],
        input: br#"{"cniVersion":"1.0.0"}"#.to_vec(),
    };
    let answer = call.run(&Watch::default());
    answer.is_ok_and(|output| String::from_utf8_lossy(&output).contains("supportedVersions"))
}

/// One execution of one program.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) input: Vec<u8>,
}

impl Call {
    /// Runs it to its end. The caller takes the time around this: everything here belongs to a runtime's call.
    ///
    /// # Errors
    /// When it cannot be executed, or does not end with status 0; with what it printed.
    pub(crate) fn run(&self, watch: &Watch) -> Outcome<Vec<u8>> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C goes to the terminal's group: a call that has begun must not get it.
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", self.program.display()))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        watch.started(pid);
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&self.input));
        let ended = child.wait_with_output();
        watch.ended(pid);
        let output = ended?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            let said: String = String::from_utf8_lossy(&said).chars().take(SHOWN_CHARACTERS_MAX).collect();
            return Err(format!("{} {}: {}", self.program.display(), output.status, said.trim()).into());
        }
        match written {
            // A program that needs no input ends before it is written.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(output.stdout),
        }
    }
}

/// Kills programs that do not end. Cloned values watch together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    running: Arc<(Mutex<HashMap<Pid, Instant>>, Condvar)>,
}

impl Watch {
    /// A watch with a thread that looks now and then, until this process ends.
    pub(crate) fn start() -> Self {
        let watch = Self::default();
        let watched = watch.clone();
        std::thread::spawn(move || watched.look_forever());
        watch
    }

    fn look_forever(&self) {
        let (running, changed) = &*self.running;
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // Nobody notifies: this only gives up the lock until the next look.
            let looked = changed.wait_timeout(running, Duration::from_secs(WATCH_SECONDS));
            running = looked.unwrap_or_else(PoisonError::into_inner).0;
            for (pid, _) in running.iter().filter(|(_, since)| since.elapsed().as_secs() > CALL_SECONDS_MAX) {
                eprintln!("\nbench: process {pid} is killed after {CALL_SECONDS_MAX} s");
                // It may have ended by itself just now.
                let _ = kill(*pid, Signal::SIGKILL);
            }
        }
    }

    fn started(&self, pid: Pid) {
        self.running.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, Instant::now());
    }

    fn ended(&self, pid: Pid) {
        self.running.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Call {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Call { program: "/bin/sh".into(), arguments, environment: Vec::new(), input: b"in".to_vec() }
    }

    #[test]
    fn output_comes_back() {
        assert_eq!(shell("cat; echo out").run(&Watch::default()).unwrap(), b"inout\n");
    }

    #[test]
    fn input_that_nobody_reads_is_no_failure() {
        assert_eq!(shell("exit 0").run(&Watch::default()).unwrap(), b"");
    }

    #[test]
    fn a_failing_program_is_a_failure_that_says_what_it_printed() {
        let failure = shell("echo no address; exit 3").run(&Watch::default()).unwrap_err().to_string();
        assert!(failure.contains("exit status: 3") && failure.contains("no address"), "{failure}");
    }
}
