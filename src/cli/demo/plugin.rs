//! plexus as the runtime executes it: this very program as `plexus oneshot`, the request in its environment and input.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::namespace::Namespace;
use super::world::{self, NAMESPACE, PLUGINS};
use crate::cli::failure::Failure;

/// A request takes milliseconds; after this it will not end by itself.
const DEADLINE: Duration = Duration::from_secs(5);
/// More than any result or error is long.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// Which command of CNI.
#[derive(Clone, Copy)]
pub(super) enum Verb {
    /// Attaches.
    Add,
    /// Detaches.
    Del,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
        }
    }
}

/// Executes plexus for one pod, and says how long that took from start to exit.
///
/// # Errors
/// It cannot be executed, does not end in time, or refuses: then with its own words.
pub(super) fn call(verb: Verb, pod: &Namespace, configuration: &Value) -> Result<Duration, Failure> {
    let failure = |why: String| Failure::Plugin { command: verb.word(), pod: pod.name().to_owned(), why };
    let start = Instant::now();
    let child = spawn(verb, pod).map_err(Failure::system("executing plexus oneshot"))?;
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let (tell, done) = mpsc::channel();
    let input = configuration.to_string();
    thread::spawn(move || drop(tell.send((converse(child, &input), start.elapsed())))); // nobody listens after the deadline
    let Ok((spoken, took)) = done.recv_timeout(DEADLINE) else {
        let _ = kill(pid, Signal::SIGKILL); // it may just have ended
        return Err(failure(format!("no answer after {} s", DEADLINE.as_secs())));
    };
    let spoken = spoken.map_err(Failure::system("talking to plexus oneshot"))?;
    if spoken.succeeded { Ok(took) } else { Err(failure(spoken.refusal())) }
}

fn spawn(verb: Verb, pod: &Namespace) -> std::io::Result<Child> {
    let name = pod.name();
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={name};K8S_POD_UID={};K8S_POD_INFRA_CONTAINER_ID={}",
        world::uid(name),
        world::sandbox(name)
    );
    Command::new("/proc/self/exe")
        .arg0("plexus")
        .arg("oneshot")
        .env_clear()
        .env("CNI_COMMAND", verb.word())
        .env("CNI_CONTAINERID", world::sandbox(name))
        .env("CNI_NETNS", pod.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", args)
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// What the plugin said.
struct Spoken {
    succeeded: bool,
    output: String,
    complaint: String,
}

impl Spoken {
    /// `msg` and `details` of the error it printed (CNI specification, section 5), or else its standard error.
    fn refusal(&self) -> String {
        let error: Value = serde_json::from_str(&self.output).unwrap_or_default();
        let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
        match (text("msg"), text("details")) {
            ("", _) => self.complaint.lines().last().unwrap_or("it failed without a word").to_owned(),
            (msg, "") => msg.to_owned(),
            (msg, details) => format!("{msg}: {details}"),
        }
    }
}

/// Writes the configuration, reads the answer, waits for the end.
fn converse(mut child: Child, input: &str) -> std::io::Result<Spoken> {
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => return Err(e),
            _ => {} // it refused before it read: its answer says why
        }
    }
    let (mut output, mut complaint) = (String::new(), String::new());
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT_BYTES_MAX).read_to_string(&mut output)?;
    }
    if let Some(stderr) = child.stderr.take() {
        stderr.take(OUTPUT_BYTES_MAX).read_to_string(&mut complaint)?;
    }
    Ok(Spoken { succeeded: child.wait()?.success(), output, complaint })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(output: &str, complaint: &str) -> Spoken {
        Spoken { succeeded: false, output: output.to_owned(), complaint: complaint.to_owned() }
    }

    #[test]
    fn a_refusal_is_told_in_the_plugins_words() {
        let error = r#"{"cniVersion":"1.0.0","code":7,"msg":"no such network","details":"lan"}"#;
        assert_eq!(spoken(error, "x").refusal(), "no such network: lan");
        assert_eq!(spoken(r#"{"msg":"m"}"#, "").refusal(), "m");
        assert_eq!(spoken("", "first\nlast\n").refusal(), "last");
        assert_eq!(spoken("not JSON", "").refusal(), "it failed without a word");
    }
}
