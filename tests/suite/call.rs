//! One execution of a CNI plugin: environment and stdin in, exit status and two streams out. It does not know what
//! the plugin does, nor whose it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::process;
use crate::testbed::Testbed;

/// Whose plugin is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// The reference plugin, written in Go.
    Go,
    /// plexus, executed under the plugin's name.
    Plexus,
}

/// The names under which `plexus-cni` is a plugin itself.
pub(crate) const NATIVE: [&str; 11] =
    ["bridge", "macvlan", "ptp", "ipvlan", "vlan", "dummy", "host-device", "tap", "loopback", "host-local", "static"];

/// The same of plugins that come after others in a chain.
pub(crate) const CHAINED: [&str; 7] = ["tuning", "portmap", "bandwidth", "firewall", "sbr", "vrf", "passthru"];

/// A directory with other plugins to test in the place of plexus (the Go ones, to test the suite itself).
pub(crate) const UNDER_TEST: &str = "PLEXUS_UNDER_TEST";

/// A plugin may take this long; Go's waits five seconds for duplicate address detection at most.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// The directory that `tests/peers/build` fills.
///
/// # Errors
/// That it is not there, as a sentence.
pub(crate) fn peers() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let built = target.ancestors().map(|folder| folder.join("peers")).find(|folder| folder.join("bridge").is_file());
    built.ok_or_else(|| "the Go plugins are not built: run tests/peers/build".to_owned())
}

/// Multus, as `tests/k8s/build` leaves it.
///
/// # Errors
/// That it is not there, as a sentence.
pub(crate) fn multus() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let built = target.ancestors().map(|folder| folder.join("k8s/multus")).find(|program| program.is_file());
    built.ok_or_else(|| "Multus is not built: run tests/k8s/build multus".to_owned())
}

/// The executable that is the plugin `name` of `side`.
pub(crate) fn executable(side: Side, name: &str) -> PathBuf {
    match (side, std::env::var_os(UNDER_TEST)) {
        (Side::Go, _) => peers().unwrap_or_default().join(name),
        (Side::Plexus, Some(folder)) => Path::new(&folder).join(name),
        (Side::Plexus, None) => PathBuf::from(env!("CARGO_BIN_EXE_plexus-cni")),
    }
}

/// A plugin's call, not yet executed. The environment holds nothing but what is set here and a PATH.
pub(crate) struct Call<'bed> {
    bed: &'bed Testbed,
    program: PathBuf,
    env: BTreeMap<&'static str, String>,
    stdin: Vec<u8>,
    /// How much memory of its own it may have, in KiB.
    memory: Option<u32>,
}

impl<'bed> Call<'bed> {
    pub(crate) fn new(bed: &'bed Testbed, program: PathBuf, path: &Path) -> Self {
        let env = BTreeMap::from([
            ("CNI_CONTAINERID", "c1".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", path.display().to_string()),
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ]);
        Self { bed, program, env, stdin: Vec::new(), memory: None }
    }

    /// Sets one variable.
    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.insert(name, value.into());
        self
    }

    /// Leaves one variable out.
    pub(crate) fn without(mut self, name: &'static str) -> Self {
        self.env.remove(name);
        self
    }

    pub(crate) fn command(self, command: &str) -> Self {
        self.env("CNI_COMMAND", command)
    }

    pub(crate) fn container(self, id: &str) -> Self {
        self.env("CNI_CONTAINERID", id)
    }

    /// CNI_NETNS: the namespace of the test bed's pod `name`.
    pub(crate) fn pod(self, name: &str) -> Self {
        let path = self.bed.netns(name).display().to_string();
        self.env("CNI_NETNS", path)
    }

    pub(crate) fn ifname(self, name: &str) -> Self {
        self.env("CNI_IFNAME", name)
    }

    pub(crate) fn args(self, args: &str) -> Self {
        self.env("CNI_ARGS", args)
    }

    /// CNI_ARGS as a Kubernetes runtime sends them.
    pub(crate) fn kubernetes(self, namespace: &str, pod: &str, uid: &str) -> Self {
        let container = self.env.get("CNI_CONTAINERID").cloned().unwrap_or_default();
        let identity = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod}");
        self.args(&format!("IgnoreUnknown=1;{identity};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}"))
    }

    pub(crate) fn conf(self, conf: &Value) -> Self {
        self.stdin(conf.to_string())
    }

    /// The configuration as bytes of its own, for what is no JSON or whose order of keys matters.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The plugin, and whatever it becomes, has so many KiB of memory of its own and no more (RLIMIT_DATA).
    pub(crate) fn within_memory(mut self, kib: u32) -> Self {
        self.memory = Some(kib);
        self
    }

    fn prepared(&self) -> Command {
        let mut command = match self.memory {
            None => Command::new(&self.program),
            Some(kib) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", r#"ulimit -d "$1"; exec "$0""#]).arg(&self.program).arg(kib.to_string());
                shell
            }
        };
        command.env_clear().envs(&self.env).current_dir("/");
        command
    }

    /// Executes the plugin and waits for its end.
    pub(crate) fn run(self) -> Answer {
        let ended = process::run(&mut self.prepared(), &self.stdin, CALL_LIMIT);
        let answer = Answer { rc: ended.status.code(), stdout: ended.stdout, stderr: ended.stderr };
        let mut text = format!("{}\n", self.program.display());
        for (name, value) in self.env.iter().filter(|(name, _)| name.starts_with("CNI_")) {
            writeln!(text, "  {name}={value}").unwrap();
        }
        writeln!(
            text,
            "  stdin:  {}\n  ended:  {}\n  stdout: {}\n  stderr: {}",
            String::from_utf8_lossy(&self.stdin),
            ended.status,
            answer.stdout,
            answer.stderr
        )
        .unwrap();
        self.bed.note(&text);
        assert!(!ended.killed, "the plugin did not end within {CALL_LIMIT:?}, or a child holds its output open");
        answer
    }

    /// Executes the plugin for a caller that has gone: nobody reads its standard output. The exit code.
    pub(crate) fn run_unheard(self) -> Option<i32> {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        self.bed.note(&format!("{} {:?}, unheard\n", self.program.display(), self.env));
        let input = self.bed.file("stdin/unheard", &String::from_utf8_lossy(&self.stdin));
        let mut command = self.prepared();
        command.stdin(std::fs::File::open(input).unwrap()).stdout(writer).stderr(Stdio::null());
        command.status().unwrap().code()
    }

    /// Starts the plugin and leaves it running. Its input goes through a file: nobody needs to write while it runs.
    pub(crate) fn start(self) -> Child {
        self.bed.note(&format!("{} {:?} started\n", self.program.display(), self.env));
        let [container, command] =
            ["CNI_CONTAINERID", "CNI_COMMAND"].map(|name| self.env.get(name).cloned().unwrap_or_default());
        let input = self.bed.file(&format!("stdin/{container}-{command}"), &String::from_utf8_lossy(&self.stdin));
        let mut command = self.prepared();
        command.stdin(std::fs::File::open(input).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

/// What a plugin answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// None: ended by a signal.
    pub(crate) rc: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    /// Standard output as JSON; null when it is empty.
    pub(crate) fn json(&self) -> Value {
        if self.stdout.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("standard output is not JSON: {error}\n{}", self.stdout))
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.rc == Some(0)
    }

    /// The result of a call that must succeed.
    pub(crate) fn ok(&self) -> Value {
        assert!(self.succeeded(), "the call failed ({:?}): {}{}", self.rc, self.stdout, self.stderr);
        self.json()
    }

    /// Asserts a CNI error with this code, and a text that contains `part`.
    pub(crate) fn fails(&self, code: u64, part: &str) {
        assert!(self.rc.is_some_and(|rc| rc != 0), "the call did not fail by itself: {:?} {}", self.rc, self.stdout);
        let error = self.json();
        let text = format!("{} {}", error["msg"].as_str().unwrap_or(""), error["details"].as_str().unwrap_or(""));
        assert!(error["code"] == code && text.contains(part), "expected code {code} and {part:?}: {error}");
    }
}
