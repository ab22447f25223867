//! Executes a plugin as a binary: found, started, and its end put into the Go library's words. `process` does the talking.
//! Knows no configuration and no result: bytes in, bytes out.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::poll;
use nix::sys::signal::Signal;

use super::error::{CniError, Code};
use super::gojson;
use super::goprint::quote;
use super::process::Running;
pub use super::process::{Ended, STDERR_BYTES_MAX, STDOUT_BYTES_MAX, Stop};
use super::request::Command;

/// How long a delegate may take where the caller has no reason for another time, in seconds: half the kubelet's runtime
/// request time-out (2 min), so that the undo still fits into the same request.
pub const DELEGATE_DEADLINE_S: u64 = 60;

/// The longest deadline that is kept, in seconds: no runtime waits for a call that long.
pub const DELEGATE_DEADLINE_S_MAX: u64 = 3600;

/// How much of a failed plugin's own text is passed on, in bytes: an error is one line for a person.
pub const FAILURE_TEXT_BYTES_MAX: usize = 4096;

/// Tries and pause while the binary is being written (ETXTBSY): 5 s together, as long as the Go library tries.
const BUSY_TRIES_MAX: u32 = 500;
const BUSY_PAUSE_MS: u16 = 10;

/// The variables of the protocol for one delegate.
#[derive(Clone, Debug)]
pub struct CallEnv<'a> {
    /// CNI_COMMAND.
    pub command: Command,
    /// CNI_CONTAINERID.
    pub container_id: &'a str,
    /// CNI_NETNS; none is the empty text.
    pub netns: Option<&'a Path>,
    /// CNI_IFNAME.
    pub ifname: &'a str,
    /// CNI_ARGS.
    pub args: &'a str,
    /// CNI_PATH.
    pub path: &'a [PathBuf],
}

impl CallEnv<'_> {
    /// All six, also where empty: an inherited one would be another call's.
    pub fn to_vars(&self) -> Vec<(OsString, OsString)> {
        let mut path = OsString::new();
        for dir in self.path {
            if !path.is_empty() {
                path.push(":");
            }
            path.push(dir);
        }
        vec![
            ("CNI_COMMAND".into(), self.command.as_str().into()),
            ("CNI_CONTAINERID".into(), self.container_id.into()),
            ("CNI_NETNS".into(), self.netns.map(OsString::from).unwrap_or_default()),
            ("CNI_IFNAME".into(), self.ifname.into()),
            ("CNI_ARGS".into(), self.args.into()),
            ("CNI_PATH".into(), path),
        ]
    }
}

/// One execution.
#[derive(Clone, Debug)]
pub struct Delegate {
    /// The binary.
    pub path: PathBuf,
    /// Variables set over the inherited environment.
    pub env: Vec<(OsString, OsString)>,
    /// Standard input.
    pub stdin: Vec<u8>,
    /// How long it may take.
    pub deadline: Duration,
}

/// What a plugin that succeeded printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// The end of standard error.
    pub stderr: Vec<u8>,
}

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// `find` was given a name or directories it cannot use, or found nothing.
    #[error("{0}")]
    Find(String),
    /// The process did not start.
    #[error("netplugin failed with no error message: fork/exec {}: {why}", path.display())]
    Start {
        /// The binary.
        path: PathBuf,
        /// The system's reason.
        why: String,
    },
    /// Talking to the process failed; it was killed.
    #[error("exchange with plugin {}", path.display())]
    Exchange {
        /// The binary.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It did not end in time; its process group was killed.
    #[error("plugin {} did not end within {} ms and was killed", path.display(), deadline.as_millis())]
    Deadline {
        /// The binary.
        path: PathBuf,
        /// The time it had.
        deadline: Duration,
    },
    /// It printed too much; its process group was killed.
    #[error("plugin {} printed more than {STDOUT_BYTES_MAX} bytes and was killed", path.display())]
    TooLarge {
        /// The binary.
        path: PathBuf,
    },
    /// It failed: the error it printed, or the Go library's words where it printed none.
    #[error("{0}")]
    Failed(CniError),
}

impl From<ExecError> for CniError {
    fn from(error: ExecError) -> CniError {
        match error {
            ExecError::Failed(error) => error,
            ExecError::Exchange { ref source, .. } => CniError::new(Code::Io, format!("{error}: {source}")),
            ExecError::Find(_) | ExecError::Start { .. } | ExecError::Deadline { .. } | ExecError::TooLarge { .. } => {
                CniError::generic(error.to_string())
            }
        }
    }
}

/// The first regular file of this name in `paths`.
///
/// # Errors
/// `Find`, with the Go library's texts.
pub fn find(plugin: &str, paths: &[PathBuf]) -> Result<PathBuf, ExecError> {
    if plugin.is_empty() {
        return Err(ExecError::Find("no plugin name provided".to_string()));
    }
    if plugin.contains('/') {
        return Err(ExecError::Find(format!("invalid plugin name: {plugin}")));
    }
    if paths.is_empty() {
        return Err(ExecError::Find("no paths provided".to_string()));
    }
    let is_file = |path: &PathBuf| path.metadata().is_ok_and(|found| found.is_file());
    paths.iter().map(|dir| dir.join(plugin)).find(is_file).ok_or_else(|| {
        let dirs: Vec<_> = paths.iter().map(|dir| dir.to_string_lossy()).collect();
        ExecError::Find(format!("failed to find plugin {} in path [{}]", quote(plugin), dirs.join(" ")))
    })
}

impl Delegate {
    /// Runs the plugin to its end.
    ///
    /// What it started and left behind is neither waited for nor, where it succeeded, killed: the answer is complete when
    /// the plugin itself has ended.
    ///
    /// # Errors
    /// Every kind but `Find`. No process is left behind by a failure, but for one stuck in the kernel.
    pub fn run(&self) -> Result<Output, ExecError> {
        let until = Instant::now() + self.deadline.min(Duration::from_secs(DELEGATE_DEADLINE_S_MAX));
        let mut command = std::process::Command::new(&self.path);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let child = spawn(&mut command, until);
        let child = child.map_err(|error| ExecError::Start { path: self.path.clone(), why: reason(&error) })?;
        let mut running = Running::start(child).map_err(|source| self.exchange_error(source))?;
        let ended = match running.exchange(&self.stdin, STDOUT_BYTES_MAX, until) {
            Ok(ended) => ended,
            Err(stop) => {
                running.kill();
                return Err(match stop {
                    Stop::Deadline => ExecError::Deadline { path: self.path.clone(), deadline: self.deadline },
                    Stop::TooLarge => ExecError::TooLarge { path: self.path.clone() },
                    Stop::Io(source) => self.exchange_error(source),
                });
            }
        };
        let output = Output { stdout: ended.stdout, stderr: ended.stderr };
        if ended.status.success() { Ok(output) } else { Err(ExecError::Failed(plugin_error(ended.status, &output))) }
    }

    fn exchange_error(&self, source: io::Error) -> ExecError {
        ExecError::Exchange { path: self.path.clone(), source }
    }
}

/// Runs a program that is no plugin, without input, to its end.
///
/// # Errors
/// It did not start, did not end in time or printed too much: its process group was killed.
pub fn run_program(
    command: &mut std::process::Command,
    stdout_bytes_max: usize,
    until: Instant,
) -> Result<Ended, Stop> {
    let mut running = Running::start(spawn(command, until)?)?;
    running.exchange(&[], stdout_bytes_max, until).inspect_err(|_| running.kill())
}

/// Starts a process in a group of its own, again while its binary is open for writing.
fn spawn(command: &mut std::process::Command, until: Instant) -> io::Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut tries = 0;
    loop {
        let error = match command.spawn() {
            Ok(child) => return Ok(child),
            Err(error) => error,
        };
        tries += 1;
        let busy = error.kind() == ErrorKind::ExecutableFileBusy;
        if !busy || tries >= BUSY_TRIES_MAX || Instant::now() >= until {
            return Err(error);
        }
        // Nothing announces that the last writer of a file is gone: ask again after a pause.
        poll(&mut [], BUSY_PAUSE_MS)?;
    }
}

/// Go's words for a system error: strerror in lower case.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// What a failed plugin said, in the Go library's words where it said nothing that is an error.
fn plugin_error(status: ExitStatus, told: &Output) -> CniError {
    let unknown = |msg: String| CniError::new(Code::Unknown, msg);
    if told.stdout.is_empty() {
        let stderr = end_of(&told.stderr);
        return unknown(match told.stderr.is_empty() {
            true => format!("netplugin failed with no error message: {}", how_it_ended(status)),
            false => format!("netplugin failed: {}", quote(&stderr)),
        });
    }
    let printed = gojson::parse_object(&told.stdout, "types.Error").and_then(|object| CniError::from_object(&object));
    match printed {
        Ok(CniError { code, msg, details }) => {
            CniError { code, msg: beginning_of(msg), details: beginning_of(details) }
        }
        Err(error) => {
            let stdout = quote(&beginning_of(String::from_utf8_lossy(&told.stdout).into_owned()));
            unknown(format!("netplugin failed but error parsing its diagnostic message {stdout}: {error}"))
        }
    }
}

/// A text cut to what is passed on, at a character's border.
fn beginning_of(mut text: String) -> String {
    if text.len() > FAILURE_TEXT_BYTES_MAX {
        let border = (0..=FAILURE_TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(border.unwrap_or_default());
        text.push_str("...");
    }
    text
}

/// The end of an output: what a program says last is why it failed.
fn end_of(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(FAILURE_TEXT_BYTES_MAX);
    let cut = if from > 0 { "..." } else { "" };
    format!("{cut}{}", String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()))
}

/// Go's words for an exit status.
fn how_it_ended(status: ExitStatus) -> String {
    let core = if status.core_dumped() { " (core dumped)" } else { "" };
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(number)) => format!("signal: {}{core}", signal_name(number)),
        (None, None) => "unknown".to_string(),
    }
}

/// Go's name of a signal.
fn signal_name(number: i32) -> String {
    let name = match Signal::try_from(number) {
        Ok(Signal::SIGHUP) => "hangup",
        Ok(Signal::SIGINT) => "interrupt",
        Ok(Signal::SIGQUIT) => "quit",
        Ok(Signal::SIGILL) => "illegal instruction",
        Ok(Signal::SIGTRAP) => "trace/breakpoint trap",
        Ok(Signal::SIGABRT) => "aborted",
        Ok(Signal::SIGBUS) => "bus error",
        Ok(Signal::SIGFPE) => "floating point exception",
        Ok(Signal::SIGKILL) => "killed",
        Ok(Signal::SIGSEGV) => "segmentation fault",
        Ok(Signal::SIGPIPE) => "broken pipe",
        Ok(Signal::SIGALRM) => "alarm clock",
        Ok(Signal::SIGTERM) => "terminated",
        _ => return format!("signal {number}"),
    };
    name.to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::sys::signal::kill;
    use nix::unistd::Pid;

    use super::*;

    /// A directory of its own for one test, removed at its end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(test: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("plexus-exec-{}-{test}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Dir(path)
        }

        fn script(&self, name: &str, body: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// Long enough for every script that ends by itself, on the slowest machine.
    const ENOUGH: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(200);

    fn run(path: PathBuf, stdin: &[u8], deadline: Duration) -> Result<Output, ExecError> {
        Delegate { path, env: Vec::new(), stdin: stdin.to_vec(), deadline }.run()
    }

    fn failure(path: PathBuf) -> CniError {
        run(path, b"", ENOUGH).unwrap_err().into()
    }

    #[test]
    fn a_plugin_is_found_in_go_s_words() {
        let dir = Dir::new("find");
        fs::create_dir(dir.0.join("dir")).unwrap();
        let plugin = dir.script("bridge", "");
        let paths = [PathBuf::from("/nonexistent"), dir.0.clone()];
        assert_eq!(find("bridge", &paths).unwrap(), plugin);
        let listed = format!("in path [/nonexistent {}]", dir.0.display());
        let cases = [
            ("", "no plugin name provided".to_string()),
            ("../x", "invalid plugin name: ../x".to_string()),
            ("x", format!("failed to find plugin \"x\" {listed}")),
            ("dir", format!("failed to find plugin \"dir\" {listed}")),
            ("..", format!("failed to find plugin \"..\" {listed}")),
            ("a\0b", format!("failed to find plugin \"a\\x00b\" {listed}")),
        ];
        for (name, expected) in cases {
            assert_eq!(find(name, &paths).unwrap_err().to_string(), expected);
        }
        assert_eq!(find("x", &[]).unwrap_err().to_string(), "no paths provided");
    }

    #[test]
    fn input_environment_and_output_pass_through() {
        let dir = Dir::new("pass");
        let path = dir.script("p", r#"cat; echo "$CNI_COMMAND|$CNI_NETNS|$CNI_PATH|$CNI_ARGS|$HOME" >&2"#);
        let paths = [PathBuf::from("/a"), PathBuf::from("/b")];
        let call = CallEnv {
            command: Command::Add,
            container_id: "c",
            netns: None,
            ifname: "eth0",
            args: "K=V",
            path: &paths,
        };
        let env = call.to_vars();
        let output = Delegate { path, env, stdin: b"in".to_vec(), deadline: ENOUGH }.run().unwrap();
        let home = std::env::var("HOME").unwrap_or_default();
        assert_eq!(output.stdout, b"in");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("ADD||/a:/b|K=V|{home}\n"));
    }

    #[test]
    fn a_chatty_plugin_does_not_block_on_a_long_input() {
        let dir = Dir::new("chatty");
        let path = dir.script("p", "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; cat");
        let input = vec![b'x'; 1 << 20];
        let output = run(path, &input, ENOUGH).unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (1_000_000 + (1 << 20), STDERR_BYTES_MAX));
    }

    #[test]
    fn input_need_not_be_read() {
        let dir = Dir::new("unread");
        let path = dir.script("p", "exec <&-; echo ok");
        assert_eq!(run(path, &vec![b'x'; 1 << 20], ENOUGH).unwrap().stdout, b"ok\n");
    }

    #[test]
    fn failures_are_told_in_go_s_words() {
        let dir = Dir::new("fail");
        let cases = [
            ("exit 3", 0, "netplugin failed with no error message: exit status 3"),
            ("kill -9 $$", 0, "netplugin failed with no error message: signal: killed"),
            ("kill -TERM $$", 0, "netplugin failed with no error message: signal: terminated"),
            ("echo 'no \"way\"' >&2; exit 1", 0, r#"netplugin failed: "no \"way\"\n""#),
            (r#"echo '{"code":11,"msg":"later","details":"d"}'; echo log >&2; exit 1"#, 11, "later; d"),
            (r#"echo '{"Code":107,"MSG":"mine"}'; exit 1"#, 107, "mine"),
            (
                "printf 'x'; exit 1",
                0,
                r#"netplugin failed but error parsing its diagnostic message "x": invalid character 'x' looking for beginning of value"#,
            ),
        ];
        for (index, (body, code, text)) in cases.into_iter().enumerate() {
            let error = failure(dir.script(&format!("p{index}"), body));
            assert_eq!((error.code.number(), error.to_string().as_str()), (code, text));
        }
    }

    #[test]
    fn what_cannot_start_says_so() {
        let dir = Dir::new("start");
        let plain = dir.0.join("plain");
        fs::write(&plain, "x").unwrap();
        let words = |path: &Path, why: &str| {
            format!("netplugin failed with no error message: fork/exec {}: {why}", path.display())
        };
        assert_eq!(failure(plain.clone()).msg, words(&plain, "permission denied"));
        let gone = dir.0.join("gone");
        assert_eq!(failure(gone.clone()).msg, words(&gone, "no such file or directory"));
    }

    /// Whether the process is gone, or dead and only waiting for its new parent to notice.
    fn is_dead(id: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        kill(Pid::from_raw(id), None).is_err() || matches!(state, None | Some('Z' | 'X'))
    }

    fn fifo(dir: &Dir) -> PathBuf {
        let path = dir.0.join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    }

    /// Runs a script that outlives its deadline, and gives the process ids it and its child wrote: two, unless the
    /// machine was too slow to start them in time.
    fn killed_at(deadline: Duration) -> Vec<i32> {
        let dir = Dir::new(&format!("deadline-{}", deadline.as_millis()));
        let fifo = fifo(&dir);
        let mut reader = fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&fifo).unwrap();
        // Both processes hold the fifo, and both hold the output.
        let body = format!("exec 9>{}; echo $$ >&9; (exec sleep 1000) & echo $! >&9; wait", fifo.display());
        let path = dir.script("p", &body);
        let error = run(path.clone(), b"", deadline).unwrap_err();
        assert!(matches!(error, ExecError::Deadline { .. }), "{error}");
        let text = format!("plugin {} did not end within {} ms and was killed", path.display(), deadline.as_millis());
        assert_eq!(error.to_string(), text);
        // Blocks until every process that holds the fifo is gone.
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let mut ids = String::new();
        reader.read_to_string(&mut ids).unwrap();
        ids.lines().map(|id| id.parse().unwrap()).collect()
    }

    #[test]
    fn the_deadline_kills_the_whole_group_and_leaves_no_zombie() {
        let ids = [200, 1000, 5000, 25_000]
            .map(Duration::from_millis)
            .into_iter()
            .map(killed_at)
            .find(|ids| ids.len() == 2)
            .expect("25 s start two processes");
        assert!(ids.iter().all(|id| is_dead(*id)), "{ids:?}");
        // The plugin itself was reaped: its id names nothing.
        assert_eq!(kill(Pid::from_raw(ids[0]), None), Err(Errno::ESRCH));
    }

    #[test]
    fn a_grandchild_that_keeps_the_output_open_is_not_waited_for() {
        let dir = Dir::new("grandchild");
        let fifo = fifo(&dir);
        let body = format!("(read line <{}) & echo result", fifo.display());
        let output = run(dir.script("p", &body), b"", ENOUGH).unwrap();
        assert_eq!(output.stdout, b"result\n");
        // It still lives, and ends when it is told to.
        fs::write(fifo, "go\n").unwrap();
    }

    #[test]
    fn too_much_output_is_cut_off() {
        let dir = Dir::new("large");
        let error = run(dir.script("p", "exec cat /dev/zero"), b"", ENOUGH).unwrap_err();
        assert!(matches!(error, ExecError::TooLarge { .. }), "{error}");
        let fits = run(dir.script("q", &format!("head -c {STDOUT_BYTES_MAX} /dev/zero")), b"", ENOUGH).unwrap();
        assert_eq!(fits.stdout.len(), STDOUT_BYTES_MAX);
    }

    #[test]
    fn a_binary_being_written_is_tried_again() {
        let dir = Dir::new("busy");
        let path = dir.0.join("p");
        fs::copy("/bin/cat", &path).unwrap();
        let writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let error = run(path.clone(), b"", SHORT).unwrap_err();
        assert!(error.to_string().ends_with(": text file busy"), "{error}");
        let running = std::thread::spawn(move || run(path, b"in", ENOUGH));
        drop(writer);
        assert_eq!(running.join().unwrap().unwrap().stdout, b"in");
    }
}
