//! Workers: each serves one request after the other, from its frame to its answer on the wire.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use tokio::sync::mpsc::Sender;

use super::Event;
use super::metrics::{self, Metrics, Outcome};
use super::seat::{Seat, Shared};
use crate::cni::error::{CniError, Code};
use crate::cni::request::{Command, Invocation, Request};
use crate::cni::version::Version;
use crate::engine;
use crate::kube::Cancel;
use crate::log::{self, warn};
use crate::phase::Phase;
use crate::place::Place;
use crate::trace::{TRACEPARENT, TraceId};
use crate::wire::{Answer, Frame, LEASE};

/// Under this name the engine serves whatever the configuration says.
const NAME: &str = "plexus-cni";
/// What an ADD is told that was served when its time was over.
const LATE: &str = "the daemon was not done with this request in time, and has undone it: try again later";
/// Stack of a worker, in bytes: plans and results are deep JSON.
const STACK_BYTES: usize = 1 << 20;

/// A request that came, and the way back.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) frame: Frame,
    /// CNI_NETNS; ADD and DEL do not come without.
    pub(super) netns: Option<OwnedFd>,
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
    /// Others executed plugins all the time.
    Unleased,
}

impl Refusal {
    /// Under what it is counted.
    pub(super) fn counted(self) -> metrics::Refusal {
        match self {
            Refusal::TooMany => metrics::Refusal::TooMany,
            Refusal::Deadline | Refusal::Unleased => metrics::Refusal::Deadline,
            Refusal::Cancelled => metrics::Refusal::Cancelled,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Refusal::TooMany => "the daemon has as many requests waiting as it takes: try again later",
            Refusal::Deadline => "the daemon did not come to this request in time: try again later",
            Refusal::Unleased => "as many pods as may have plugins executed for them: try again later",
            Refusal::Cancelled => "the DEL of this sandbox came while its ADD waited",
        }
    }
}

impl Call {
    /// What it asks for, where that is known.
    pub(super) fn command(&self) -> Option<Command> {
        self.frame.command()
    }

    pub(super) fn sandbox(&self) -> String {
        String::from_utf8_lossy(self.frame.variable("CNI_CONTAINERID").unwrap_or_default()).into_owned()
    }

    /// The container that its caller is about to execute plugins for, where it asks whether it may.
    pub(super) fn lease(&self) -> Option<String> {
        self.frame.variable(LEASE).map(|sandbox| String::from_utf8_lossy(sandbox).into_owned())
    }

    /// It may. What is returned is readable when its connection ends.
    pub(super) fn answer_lease(self) -> io::Result<UnixStream> {
        answer(&self.stream, &Answer::Yours)?;
        self.stream.set_nonblocking(true)?;
        Ok(self.stream)
    }

    /// Answers STATUS, with what is not ready.
    pub(super) fn answer_status(self, unready: &[String], metrics: &Metrics) {
        let (said, outcome) = if unready.is_empty() {
            (Answer::Result(Vec::new()), Outcome::Done)
        } else {
            let msg = format!("the daemon is not ready: {}", unready.join("; "));
            let error = CniError::new(Code::NotAvailable, msg);
            (Answer::Error(error.to_json(Version::CURRENT)), Outcome::Failed)
        };
        let _ = answer(&self.stream, &said); // who has gone needs none
        metrics.request(Command::Status, outcome, self.arrived.elapsed());
    }

    /// A DEL ends whatever the daemon does: its caller carries it out.
    pub(super) fn refuse(self, refusal: Refusal, metrics: &Metrics) {
        metrics.refused(refusal.counted());
        let error = || CniError::new(Code::TryAgainLater, refusal.text()).to_json(Version::CURRENT);
        let said = if self.command() == Some(Command::Del) { Answer::Yours } else { Answer::Error(error()) };
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
    deadline: Instant,
}

/// See the module.
pub(super) struct Workers {
    queue: SyncSender<Work>,
    metrics: Arc<Metrics>,
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
        Ok(Workers { queue, metrics: Arc::clone(&shared.metrics) })
    }

    /// Has a request served; what is returned ends it early. There is a worker for each that the line lets through.
    pub(super) fn give(&self, sandbox: String, call: Box<Call>, deadline: Instant) -> Cancel {
        let cancel = Cancel::default();
        if let Err(mpsc::TrySendError::Full(work) | mpsc::TrySendError::Disconnected(work)) =
            self.queue.try_send(Work { sandbox, call, cancel: cancel.clone(), deadline })
        {
            work.call.refuse(Refusal::TooMany, &self.metrics);
        }
        cancel
    }
}

fn work(works: &Mutex<Receiver<Work>>, shared: &Shared, events: &Sender<Event>) {
    loop {
        let next = works.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Work { sandbox, call, cancel, deadline }) = next else { return };
        // Also outside the engine a panic costs one request, and not its worker, nor its sandbox for ever.
        if panic::catch_unwind(AssertUnwindSafe(|| serve(*call, shared, cancel, deadline))).is_err() {
            shared.metrics.refused(metrics::Refusal::Panic);
        }
        shared.nudge();
        if events.blocking_send(Event::Ended(sandbox)).is_err() {
            return;
        }
    }
}

/// One request. What it attached and could tell nobody of is detached again.
fn serve(call: Call, shared: &Shared, cancel: Cancel, deadline: Instant) {
    let waited = call.arrived.elapsed();
    let Call { frame, netns, stream, arrived } = call;
    let trace = TraceId::of(frame.variable(TRACEPARENT).and_then(|text| str::from_utf8(text).ok()));
    let _traced = log::traced(Some(trace));
    let command = frame.command();
    let served = |said: &Answer| {
        let outcome = match said {
            Answer::Result(_) => Outcome::Done,
            Answer::Error(_) => Outcome::Failed,
            Answer::Yours => Outcome::GivenBack,
        };
        let told = answer(&stream, said);
        // One without a command is as good as no frame.
        match command {
            Some(command) => shared.metrics.request(command, outcome, arrived.elapsed()),
            None => shared.metrics.refused(metrics::Refusal::Frame),
        }
        told
    };
    let error = |error: CniError, version| Answer::Error(error.to_json(version));
    let request = match Request::from_env(frame.pairs.into_iter(), &*frame.stdin) {
        Ok(Invocation::Call(request)) if matches!(request.command, Command::Add | Command::Del) => request,
        Ok(_) => return drop(served(&Answer::Yours)),
        Err(refused) => return drop(served(&error(refused, Version::CURRENT))),
    };
    let Some(netns) = netns else { return drop(served(&Answer::Yours)) };
    let seat = Seat::new(shared, netns, cancel, trace);
    seat.phase(Phase::Queue, waited);
    let done = panic::catch_unwind(AssertUnwindSafe(|| engine::serve(NAME, &request, &seat)));
    let said = match done {
        Ok(_) if seat.has_given_back() => Answer::Yours,
        Ok(Ok(_)) if request.command == Command::Add && deadline <= Instant::now() => {
            engine::undo_unheard(NAME, (*request).clone(), &seat);
            error(CniError::new(Code::TryAgainLater, LATE), request.version)
        }
        Ok(Ok(result)) => Answer::Result(result.unwrap_or_default()),
        Ok(Err(refused)) => error(refused, request.version),
        Err(_) => {
            shared.metrics.refused(metrics::Refusal::Panic);
            error(engine::panicked(), request.version)
        }
    };
    let attached = request.command == Command::Add && matches!(said, Answer::Result(_));
    let told = served(&said);
    seat.phases().for_each(|(phase, taken)| shared.metrics.phase(request.command, phase, taken));
    if let Err(gone) = told {
        warn(&format!("{} {}: the caller has gone: {gone}", request.command.as_str(), request.container_id));
        if attached {
            engine::undo_unheard(NAME, *request, &seat);
        }
    }
}
