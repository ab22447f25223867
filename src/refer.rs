//! `plexus-cni` asks the node's daemon: one frame, one answer. What the daemon does not answer, this process does by itself, as
//! far as the configuration lets it; DEL always.
//!
//! It does not know how a pod is attached.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use backends::NetNs;
use nix::poll::{PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, socket, sockopt::PeerCredentials,
};
use nix::unistd::geteuid;
use serde_json::{Map, Value};

use crate::cni::error::{CniError, Code};
use crate::cni::request::{Command, Request};
use crate::config::{Config, Fallback};
use crate::handed::{Knowledge, Tidings};
use crate::journal::PodName;
use crate::log::warn;
use crate::phase::Executed;
use crate::place::Served;
use crate::sight;
use crate::trace::TRACEPARENT;
use crate::unwritten::Unwritten;
use crate::wire::{ADD_TIME, Answer, DEL_TIME, Frame, LEASE, LEASE_TIME, NEWS, PID_NS, VARIABLES};

/// How long STATUS may take, which a runtime repeats all the time.
const STATUS_TIME: Duration = Duration::from_secs(2);
/// How long a DEL waits until it may execute plugins: then it does so, whoever else does.
const DEL_LEASE_TIME: Duration = Duration::from_secs(10);
/// How long the daemon may take to note what it is to tell.
const TELL_TIME: Duration = Duration::from_secs(5);
/// Beyond what the daemon takes to say that there is no lease.
const LEASE_SLACK: Duration = Duration::from_secs(5);
/// Between two attempts to find the daemon.
const RETRY_MS: u16 = 50;

/// What came of asking.
pub enum Asked {
    /// The daemon has served it.
    Served(Served),
    /// It is to be served here, with what the daemon knows of it.
    Here(Option<Knowledge>),
}

/// Why the daemon did not answer.
enum Silence {
    /// Nobody heard the request.
    Unheard(io::Error),
    /// Somebody may have.
    Broken(io::Error),
}

/// Asks the daemon at `socket`. `undo`: called for an ADD that a daemon may have begun before it was gone, so that whoever tries
/// it again finds the pod as it was.
pub fn ask(socket: &Path, config: &Config, request: &Request, undo: &dyn Fn()) -> Asked {
    // What is not there, or no namespace, is told in the engine's own words; a DEL of what has gone needs no daemon.
    let Some(netns) = request.netns.as_deref().and_then(|path| NetNs::open(path).ok()) else {
        return Asked::Here(None);
    };
    let is_add = request.command == Command::Add;
    let patience = if is_add && config.fallback == Fallback::Wait { config.daemon_wait } else { Duration::ZERO };
    let until = Instant::now() + patience;
    loop {
        let silence = match once(socket, &netns, request) {
            Ok(Answer::Result(bytes)) => return Asked::Served(Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))),
            Ok(Answer::Error(bytes)) => return Asked::Served(Err(error_of(&bytes))),
            Ok(Answer::Yours(bytes)) => return Asked::Here(Knowledge::parse(&bytes)),
            Err(Silence::Broken(e)) if is_time_out(&e) && is_add => {
                let msg = format!("the daemon at {} does not answer: {e}", socket.display());
                return Asked::Served(Err(CniError::new(Code::TryAgainLater, msg)));
            }
            Err(silence) => silence,
        };
        if matches!(silence, Silence::Broken(_)) && is_add {
            undo();
        }
        if !is_add || config.fallback == Fallback::Oneshot {
            return Asked::Here(None);
        }
        if Instant::now() < until {
            pause();
            continue;
        }
        let (Silence::Unheard(e) | Silence::Broken(e)) = silence;
        let msg = format!("the daemon at {} is away: {e}; see \"fallback\"", socket.display());
        return Asked::Served(Err(CniError::new(Code::TryAgainLater, msg)));
    }
}

/// Whether the daemon at `socket` could serve an ADD. Without one nobody waits: where ADD is served here instead, that is only said.
///
/// # Errors
/// Code 50: it is not there; it is not ready, in its own words.
pub fn ready(socket: &Path, fallback: Fallback, request: &Request) -> Result<(), CniError> {
    let asked = connect(socket, STATUS_TIME).and_then(|mut stream| {
        frame(request).send(&mut stream, None)?;
        Answer::receive(&mut stream)
    });
    let place = socket.display();
    match asked {
        Ok(Answer::Error(bytes)) => Err(error_of(&bytes)),
        Ok(Answer::Result(_) | Answer::Yours(_)) => Ok(()),
        Err(e) if fallback == Fallback::Oneshot => {
            warn(&format!("the daemon at {place} does not answer: {e}; until it does, plexus-cni attaches by itself"));
            Ok(())
        }
        Err(e) => {
            let msg = format!("the daemon at {place} does not answer: {e}");
            Err(CniError::new(Code::NotAvailable, msg))
        }
    }
}

fn once(socket: &Path, netns: &NetNs, request: &Request) -> Result<Answer, Silence> {
    let time = if request.command == Command::Del { DEL_TIME } else { ADD_TIME };
    let mut stream = connect(socket, time).map_err(Silence::Unheard)?;
    let sent = frame(request).send(&mut stream, Some(netns.as_fd()));
    sent.and_then(|()| Answer::receive(&mut stream)).map_err(Silence::Broken)
}

/// A namespace is entrusted to whoever listens there: that must be this user, or root. Where a daemon hangs and its queue is full,
/// connecting waits as long as writing may (`unix_stream_connect` in net/unix/af_unix.c).
fn connect(path: &Path, time: Duration) -> io::Result<UnixStream> {
    let unconnected = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = UnixStream::from(unconnected);
    stream.set_read_timeout(Some(time))?;
    stream.set_write_timeout(Some(time))?;
    socket::connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    let peer = getsockopt(&stream, PeerCredentials)?.uid();
    if peer != 0 && peer != geteuid().as_raw() {
        let why = format!("its daemon is of user {peer}, whom nothing is entrusted to");
        return Err(io::Error::new(ErrorKind::PermissionDenied, why));
    }
    Ok(stream)
}

/// Waits until this process may execute plugins for a request: there is a bound for the node, which the daemon keeps. The lease lasts
/// as long as what is returned; it is not passed on to other programs. Without a daemon there is none.
///
/// # Errors
/// Code 11, of an ADD: as many others execute plugins as may.
pub fn lease(socket: &Path, request: &Request) -> Result<Option<UnixStream>, CniError> {
    let time = if request.command == Command::Del { DEL_LEASE_TIME } else { LEASE_TIME + LEASE_SLACK };
    let asked = connect(socket, time).and_then(|mut stream| {
        let pairs =
            vec![(LEASE.into(), request.container_id.clone().into()), ("CNI_ARGS".into(), request.args.clone().into())];
        Frame { pairs, stdin: Vec::new() }.send(&mut stream, None)?;
        Answer::receive(&mut stream).map(|answer| (answer, stream))
    });
    match asked {
        Ok((Answer::Error(bytes), _)) if request.command != Command::Del => Err(error_of(&bytes)),
        // A DEL ends, whoever else is at work.
        Ok((Answer::Error(_), _)) => Ok(None),
        Ok((Answer::Result(_) | Answer::Yours(_), stream)) => Ok(Some(stream)),
        Err(e) => {
            warn(&format!("executing plugins without asking the daemon at {}: {e}", socket.display()));
            Ok(None)
        }
    }
}

/// As [`tell`], of a request that failed before the daemon was asked.
pub fn tell_failed(socket: &Path, config: &Config, request: &Request, pod: PodName, error: &CniError) {
    tell(socket, config, request, &Tidings::of_failure(pod, error));
}

/// The same of a DEL that left something: nobody but the daemon tells of it, as no DEL asks the API server.
pub fn tell_stuck(socket: &Path, config: &Config, request: &Request, pod: PodName, error: &CniError) {
    tell(socket, config, request, &Tidings::of_stuck(pod, error));
}

/// Gives the daemon at `socket` what came of a request to tell. Where it takes nothing, the status is noted for whoever reaches the API
/// server next.
pub fn tell(socket: &Path, config: &Config, request: &Request, tidings: &Tidings) {
    // Where a status is waited for, its answer comes after that.
    let is_awaited = config.status_before_answer && tidings.status.is_some();
    let time = if is_awaited { config.api_deadline + LEASE_SLACK } else { TELL_TIME };
    let told = serde_json::to_string(tidings).map_err(io::Error::from).and_then(|text| {
        let mut stream = connect(socket, time)?;
        let mut pairs = vec![
            (NEWS.into(), text.into()),
            ("CNI_CONTAINERID".into(), request.container_id.clone().into()),
            ("CNI_ARGS".into(), request.args.clone().into()),
        ];
        pairs.extend(std::env::var_os(TRACEPARENT).map(|trace| (TRACEPARENT.into(), trace)));
        Frame { pairs, stdin: request.stdin.clone() }.send(&mut stream, None)?;
        Answer::receive(&mut stream)
    });
    let why = match told {
        Ok(Answer::Result(_)) => return,
        Ok(Answer::Error(bytes)) => error_of(&bytes).msg,
        Ok(Answer::Yours(_)) => "it takes none".to_owned(),
        Err(e) => e.to_string(),
    };
    let PodName { namespace, name, .. } = &tidings.pod;
    let noted = tidings.status.as_ref().map(|status| Unwritten::note(&config.state_dir, &tidings.pod, status));
    let later = match &noted {
        None => "and will not be".to_owned(),
        Some(Ok(_)) => "its status is written later".to_owned(),
        Some(Err(why)) => format!("and its status cannot be noted: {why}"),
    };
    warn(&format!(
        "what came of pod {namespace}/{name} is not told by the daemon at {}, {later}: {why}",
        socket.display()
    ));
}

/// The lease of this process, once it has one.
#[derive(Debug, Default)]
pub struct Lease(OnceLock<UnixStream>);

impl Lease {
    /// Waits for it, where the node has a daemon and this process has none yet.
    ///
    /// # Errors
    /// As [`lease`].
    pub fn take(&self, request: &Request, why: Executed) -> Result<(), CniError> {
        // Of what nobody knows anything there is seldom anything to execute.
        if why == Executed::NoRecord {
            return Ok(());
        }
        let socket = Config::parse(&request.config).ok().and_then(|config| config.daemon_socket);
        if let Some(socket) = socket.filter(|_| self.0.get().is_none())
            && let Some(stream) = lease(&socket, request)?
        {
            self.0.get_or_init(|| stream);
        }
        Ok(())
    }
}

/// What the request was read from; its command is that of `request`, which may undo what the environment says.
fn frame(request: &Request) -> Frame {
    let known = std::env::vars_os().filter(|(name, _)| VARIABLES.iter().any(|known| name == known));
    let command = |(name, value): (OsString, OsString)| {
        let value = if name == "CNI_COMMAND" { request.command.as_str().into() } else { value };
        (name, value)
    };
    let own = sight::own_pid_ns().map(|inode| (PID_NS.into(), inode.to_string().into()));
    Frame { pairs: known.map(command).chain(own).collect(), stdin: request.stdin.clone() }
}

/// What the daemon refused it with.
fn error_of(bytes: &[u8]) -> CniError {
    let object: Option<Map<String, Value>> = serde_json::from_slice(bytes).ok();
    let error = object.and_then(|object| CniError::from_object(&object).ok());
    error.unwrap_or_else(|| CniError::generic("the daemon's answer is no error, and no result"))
}

fn is_time_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn pause() {
    if let Err(errno) = poll(&mut [], PollTimeout::from(RETRY_MS)) {
        warn(&format!("waiting for the daemon: {errno}"));
    }
}
