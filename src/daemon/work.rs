//! Workers: each serves one request after the other, from its frame to its answer on the wire.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use tokio::sync::mpsc::Sender;

use super::Event;
use super::seat::{Seat, Shared};
use crate::cni::error::{CniError, Code};
use crate::cni::request::{Command, Invocation, Request};
use crate::cni::version::Version;
use crate::engine;
use crate::kube::Cancel;
use crate::log::warn;
use crate::wire::{Answer, Frame};

/// Under this name the engine serves whatever the configuration says.
const NAME: &str = "plexus-cni";
/// Stack of a worker, in bytes: plans and results are deep JSON.
const STACK_BYTES: usize = 1 << 20;

/// A request that came, and the way back.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) frame: Frame,
    pub(super) netns: OwnedFd,
    pub(super) stream: UnixStream,
    pub(super) arrived: Instant,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    /// Too many wait.
    TooMany,
    /// It has waited too long.
    Deadline,
    /// What it would attach is to be detached.
    Cancelled,
}

impl Refusal {
    fn text(self) -> &'static str {
        match self {
            Refusal::TooMany => "the daemon has as many requests waiting as it takes: try again later",
            Refusal::Deadline => "the daemon did not come to this request in time: try again later",
            Refusal::Cancelled => "the DEL of this sandbox came while its ADD waited",
        }
    }
}

impl Call {
    fn variable(&self, name: &str) -> Option<&[u8]> {
        self.frame.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_bytes())
    }

    pub(super) fn is_del(&self) -> bool {
        self.variable("CNI_COMMAND") == Some(Command::Del.as_str().as_bytes())
    }

    pub(super) fn sandbox(&self) -> String {
        String::from_utf8_lossy(self.variable("CNI_CONTAINERID").unwrap_or_default()).into_owned()
    }

    /// A DEL ends whatever the daemon does: its caller carries it out.
    pub(super) fn refuse(self, refusal: Refusal) {
        let error = || CniError::new(Code::TryAgainLater, refusal.text()).to_json(Version::CURRENT);
        let said = if self.is_del() { Answer::Yours } else { Answer::Error(error()) };
        let _ = answer(&self.stream, &said); // who has gone needs none
    }
}

fn answer(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    stream.write_all(&answer.to_bytes())
}

struct Work {
    sandbox: String,
    call: Box<Call>,
    cancel: Cancel,
}

/// See the module.
pub(super) struct Workers {
    queue: SyncSender<Work>,
}

impl Workers {
    /// Starts so many.
    pub(super) fn start(number: usize, shared: &Arc<Shared>, events: &Sender<Event>) -> io::Result<Workers> {
        let (queue, works) = mpsc::sync_channel(number);
        let works = Arc::new(Mutex::new(works));
        for index in 0..number {
            let (works, shared, events) = (Arc::clone(&works), Arc::clone(shared), events.clone());
            let named = thread::Builder::new().name(format!("worker-{index}")).stack_size(STACK_BYTES);
            named.spawn(move || work(&works, &shared, &events))?;
        }
        Ok(Workers { queue })
    }

    /// Has a request served; what is returned ends it early. There is a worker for each that the line lets through.
    pub(super) fn give(&self, sandbox: String, call: Box<Call>) -> Cancel {
        let cancel = Cancel::default();
        if let Err(mpsc::TrySendError::Full(work) | mpsc::TrySendError::Disconnected(work)) =
            self.queue.try_send(Work { sandbox, call, cancel: cancel.clone() })
        {
            work.call.refuse(Refusal::TooMany);
        }
        cancel
    }
}

fn work(works: &Mutex<Receiver<Work>>, shared: &Shared, events: &Sender<Event>) {
    loop {
        let next = works.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Work { sandbox, call, cancel }) = next else { return };
        serve(*call, shared, cancel);
        if events.blocking_send(Event::Ended(sandbox)).is_err() {
            return;
        }
    }
}

/// One request. What it attached and could tell nobody of is detached again.
fn serve(call: Call, shared: &Shared, cancel: Cancel) {
    let Call { frame, netns, stream, .. } = call;
    let error = |error: CniError, version| Answer::Error(error.to_json(version));
    let request = match Request::from_env(frame.pairs.into_iter(), &*frame.stdin) {
        Ok(Invocation::Call(request)) if matches!(request.command, Command::Add | Command::Del) => request,
        Ok(_) => return drop(answer(&stream, &Answer::Yours)),
        Err(refused) => return drop(answer(&stream, &error(refused, Version::CURRENT))),
    };
    let seat = Seat::new(shared, netns, cancel);
    let served = panic::catch_unwind(AssertUnwindSafe(|| engine::serve(NAME, &request, &seat)));
    let said = match served {
        Ok(_) if seat.has_given_back() => Answer::Yours,
        Ok(Ok(result)) => Answer::Result(result.unwrap_or_default()),
        Ok(Err(refused)) => error(refused, request.version),
        Err(_) => error(engine::panicked(), request.version),
    };
    let attached = request.command == Command::Add && matches!(said, Answer::Result(_));
    if let Err(gone) = answer(&stream, &said) {
        warn(&format!("{} {}: the caller has gone: {gone}", request.command.as_str(), request.container_id));
        if attached {
            engine::undo_unheard(NAME, *request, &seat);
        }
    }
}
