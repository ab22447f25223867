//! Executing a program to its end, within a limit. It does not know what the program is.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a program left.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The limit passed first, and the program was killed.
    pub(crate) killed: bool,
}

/// Runs `command` with `stdin` until it ended **and** closed its output, as a runtime waits for a plugin; kills it
/// (SIGKILL) when `limit` passes before.
pub(crate) fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot execute {command:?}: {error}"));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut input = child.stdin.take().unwrap();
    let bytes = stdin.to_vec();
    // A plugin may end without reading its input (VERSION): the broken pipe is no failure.
    let writer = std::thread::spawn(move || drop(input.write_all(&bytes)));
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let status = child.wait().unwrap();
        let texts = (stdout.join().unwrap(), stderr.join().unwrap());
        // The receiver is gone only after it killed the child and gave up.
        drop(ended.send((status, texts)));
    });
    let (killed, (status, (stdout, stderr))) = match end.recv_timeout(limit) {
        Ok(all) => (false, all),
        Err(_) => {
            // It may have ended in this instant.
            kill(pid, Signal::SIGKILL).ok();
            let all = end
                .recv_timeout(AFTER_KILL)
                .unwrap_or_else(|_| panic!("{command:?}: a killed program's output stays open"));
            (true, all)
        }
    };
    writer.join().unwrap();
    Ended { status, stdout, stderr, killed }
}

/// How long the output of a killed program may stay open (a child of it may hold it).
const AFTER_KILL: Duration = Duration::from_secs(10);

/// Reads a stream to its end in a thread.
fn collect(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
