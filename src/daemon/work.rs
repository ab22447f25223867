//! Workers: each serves one request after the other, from its frame to its answer on the wire.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::Sender;

use super::Event;
use super::compat;
use super::crew::{Crew, Kind, Post};
use super::http::Page;
use super::listen::{Room, Seated};
use super::metrics::{self, Metrics, Outcome};
use super::page::Board;
use super::seat::{Seat, Shared};
use crate::cluster;
use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::cni::request::{Command, Invocation, Request};
use crate::cni::version::Version;
use crate::config::Config;
use crate::engine::{self, Plug};
use crate::handed::Tidings;
use crate::kube::Cancel;
use crate::log::{self, warn};
use crate::phase::Phase;
use crate::place::{Place, Served};
use crate::trace::{Caller, TRACEPARENT, TraceId};
use crate::wire::{Answer, Frame, LEASE, NEWS, PID_NS};

/// Under this name the engine serves whatever the configuration says.
const NAME: &str = "plexus-cni";
/// What an ADD is told that was served when its time was over.
const LATE: &str = "the daemon was not done with this request in time, and has undone it: try again later";
/// Stack of a worker, in bytes: plans and results are deep JSON.
const STACK_BYTES: usize = 1 << 20;

/// The way back to who asked.
#[derive(Debug)]
pub(super) enum Back {
    /// `plexus-cni`.
    Frame(UnixStream),
    /// Multus' shim, or who speaks as it does.
    Shim(compat::Reply),
}

impl Back {
    fn answer(self, answer: &Answer) -> io::Result<()> {
        match self {
            Back::Frame(mut stream) => stream.write_all(&answer.to_bytes()),
            Back::Shim(reply) => reply.answer(answer),
        }
    }

    /// For the loop's thread, which waits for nobody.
    fn refuse(self, answer: &Answer) {
        match self {
            Back::Frame(mut stream) => _ = stream.write_all(&answer.to_bytes()), // who has gone needs none
            Back::Shim(reply) => reply.tell(answer),
        }
    }
}

/// What a request is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A runtime's, from `plexus-cni`, which serves itself what the daemon does not.
    Own,
    /// A runtime's, all of which is served here.
    Runtime,
    /// One interface more in a pod that runs, or one less.
    Plug(Box<Plug>),
    /// What a defect of plexus would be.
    #[cfg(test)]
    Broken,
}

impl Purpose {
    /// With what a request does not bring along.
    fn completed(self, shared: &Shared, request: &Request) -> Purpose {
        match self {
            Purpose::Plug(plug) => Purpose::Plug(Box::new(shared.completed(&plug, &request.container_id))),
            other => other,
        }
    }

    fn serve(&self, request: &Request, seat: &Seat, board: &Board) -> Served {
        match self {
            Purpose::Own => engine::serve(NAME, request, seat),
            Purpose::Runtime => {
                let is_status = request.command == Command::Status;
                let refused = is_status.then(|| not_ready(&board.unready())).flatten();
                refused.map_or_else(|| engine::serve(NAME, request, seat), Err)
            }
            Purpose::Plug(plug) => engine::serve_plug(request, plug, seat),
            #[cfg(test)]
            Purpose::Broken => panic!("a defect"),
        }
    }

    /// What an ADD attached that nobody heard of.
    fn undo(&self, request: Request, seat: &Seat) {
        match self {
            Purpose::Own | Purpose::Runtime => engine::undo_unheard(NAME, request, seat),
            Purpose::Plug(plug) => engine::undo_plug(request, plug, seat),
            #[cfg(test)]
            Purpose::Broken => {}
        }
    }
}

/// A request that came, and the way back.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) frame: Frame,
    /// CNI_NETNS; ADD and DEL of `plexus-cni` do not come without.
    pub(super) netns: Option<OwnedFd>,
    pub(super) back: Back,
    pub(super) arrived: Instant,
    pub(super) purpose: Purpose,
    /// What it has of the memory of all large ones.
    pub(super) room: Room,
    /// Its place among all requests.
    pub(super) seated: Seated,
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

    /// Whether it came from `plexus-cni`.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.purpose, Purpose::Own)
    }

    /// Whether it is of one interface, and not of its pod.
    pub(super) fn is_plug(&self) -> bool {
        matches!(self.purpose, Purpose::Plug(_))
    }

    /// Whose calls are served one after the other: a sandbox's, and those that name none. No sandbox has a colon in its name.
    pub(super) fn sandbox(&self) -> String {
        match self.command() {
            Some(command @ (Command::Gc | Command::Status)) => format!(":{}", command.as_str()),
            _ => String::from_utf8_lossy(self.frame.variable("CNI_CONTAINERID").unwrap_or_default()).into_owned(),
        }
    }

    /// The namespace of its pod, as its runtime says it; nothing where there is none: all such calls are one tenant's.
    pub(super) fn tenant(&self) -> String {
        tenant_of(self.frame.variable("CNI_ARGS").unwrap_or_default())
    }

    /// Whether it is what came of a request that its caller served.
    fn is_news(&self) -> bool {
        self.frame.variable(NEWS).is_some()
    }

    /// The container that its caller is about to execute plugins for, where it asks whether it may.
    pub(super) fn lease(&self) -> Option<String> {
        self.frame.variable(LEASE).map(|sandbox| String::from_utf8_lossy(sandbox).into_owned())
    }

    /// It may. What is returned is readable when its connection ends.
    pub(super) fn answer_lease(self) -> io::Result<UnixStream> {
        let Back::Frame(mut stream) = self.back else { return Err(io::ErrorKind::InvalidInput.into()) };
        stream.write_all(&yours().to_bytes())?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Answers STATUS, with what is not ready.
    pub(super) fn answer_status(self, unready: &[String], metrics: &Metrics) {
        let (said, outcome) = match not_ready(unready) {
            None => (Answer::Result(Vec::new()), Outcome::Done),
            Some(error) => (Answer::Error(error.to_json(Version::CURRENT)), Outcome::Failed),
        };
        let _ = self.back.answer(&said); // who has gone needs none
        metrics.request(Command::Status, outcome, self.arrived.elapsed());
    }

    /// A DEL ends whatever the daemon does: `plexus-cni` carries it out.
    pub(super) fn refuse(self, refusal: Refusal, metrics: &Metrics) {
        metrics.refused(refusal.counted());
        let error = || CniError::new(Code::TryAgainLater, refusal.text()).to_json(Version::CURRENT);
        let is_given_back = self.command() == Some(Command::Del) && self.is_own();
        let said = if is_given_back { yours() } else { Answer::Error(error()) };
        self.back.refuse(&said);
    }
}

fn tenant_of(args: &[u8]) -> String {
    let named = args.split(|byte| *byte == b';').find_map(|pair| pair.strip_prefix(b"K8S_POD_NAMESPACE="));
    String::from_utf8_lossy(named.unwrap_or_default()).into_owned()
}

/// What STATUS is refused with, where something is not ready.
fn not_ready(unready: &[String]) -> Option<CniError> {
    let msg = || format!("the daemon is not ready: {}", unready.join("; "));
    (!unready.is_empty()).then(|| CniError::new(Code::NotAvailable, msg()))
}

struct Work {
    sandbox: String,
    call: Box<Call>,
    cancel: Cancel,
    deadline: Instant,
}

/// See the module.
pub(super) struct Workers {
    crew: Crew<Work>,
    metrics: Arc<Metrics>,
}

impl Workers {
    /// Starts so many.
    pub(super) fn start(
        number: usize,
        shared: &Arc<Shared>,
        board: &Arc<Board>,
        events: &Sender<Event>,
    ) -> io::Result<Workers> {
        let (shared, board, events) = (Arc::clone(shared), Arc::clone(board), events.clone());
        let metrics = Arc::clone(&shared.metrics);
        let kind = Kind { name: "worker", number, stack: STACK_BYTES, waiting: number };
        let crew = Crew::start(kind, move |post| work(post, &shared, &board, &events))?;
        Ok(Workers { crew, metrics })
    }

    /// Has a request served; what is returned ends it early. There is a worker for each that the line lets through; where there is none,
    /// it is refused.
    pub(super) fn give(&self, sandbox: String, call: Box<Call>, deadline: Instant) -> Option<Cancel> {
        let cancel = Cancel::default();
        if let Err(work) = self.crew.give(Work { sandbox, call, cancel: cancel.clone(), deadline }) {
            work.call.refuse(Refusal::TooMany, &self.metrics);
            return None;
        }
        Some(cancel)
    }
}

fn work(post: &Post<Work>, shared: &Shared, board: &Board, events: &Sender<Event>) {
    while let Some(Work { sandbox, call, cancel, deadline }) = post.next() {
        // Also outside the engine a panic costs one request, and not its worker, nor its sandbox for ever.
        let act = || match call.is_news() {
            true => tell(*call, shared, &cancel),
            false => serve(*call, shared, board, (cancel, deadline)),
        };
        if panic::catch_unwind(AssertUnwindSafe(act)).is_err() {
            shared.metrics.refused(metrics::Refusal::Panic);
        }
        if panic::catch_unwind(AssertUnwindSafe(|| shared.nudge())).is_err() {
            shared.metrics.refused(metrics::Refusal::Panic);
        }
        if events.blocking_send(Event::Ended(sandbox)).is_err() {
            return;
        }
        shared.make_ahead();
    }
}

/// Whose trace it is a part of, where that one says so.
fn caller_of(frame: &Frame) -> Option<Caller> {
    let text = frame.variable(TRACEPARENT).and_then(|text| str::from_utf8(text).ok())?;
    Caller::parse(text).ok()
}

fn outcome_of(said: &Answer) -> Outcome {
    match said {
        Answer::Result(_) => Outcome::Done,
        Answer::Error(_) => Outcome::Failed,
        Answer::Yours(_) => Outcome::GivenBack,
    }
}

/// Nothing is known of it that would be worth handing over.
fn yours() -> Answer {
    Answer::Yours(Vec::new())
}

/// What came of a request that its caller served is told as if it had been served here.
fn tell(call: Call, shared: &Shared, cancel: &Cancel) {
    let Call { frame, back, room: _room, seated: _seated, .. } = call;
    let _traced = log::traced(Some(caller_of(&frame).map_or_else(TraceId::random, |caller| caller.trace)));
    let invalid = |why: &str| CniError::new(Code::Decode, format!("what is to be told is none: {why}"));
    let told = || -> Result<(), CniError> {
        let tidings = serde_json::from_slice(frame.variable(NEWS).unwrap_or_default());
        let tidings: Tidings = tidings.map_err(|e| invalid(&e.to_string()))?;
        let keys = gojson::parse_object(&frame.stdin, "NetConf").map_err(|e| invalid(&e.to_string()))?;
        let told = shared.tell(&Config::parse(&keys)?, &tidings, cancel).map_err(cluster::refuse)?;
        if told { Ok(()) } else { Err(invalid("it says nothing")) }
    };
    let said = match told() {
        Ok(()) => Answer::Result(Vec::new()),
        Err(error) => {
            shared.metrics.refused(metrics::Refusal::Frame);
            Answer::Error(error.to_json(Version::CURRENT))
        }
    };
    let _ = back.answer(&said); // who has gone has said it
}

/// One request. What it attached and could tell nobody of is detached again.
fn serve(call: Call, shared: &Shared, board: &Board, (cancel, deadline): (Cancel, Instant)) {
    let waited = call.arrived.elapsed();
    let Call { frame, netns, back, arrived, purpose, room: _room, seated: _seated } = call;
    let caller = caller_of(&frame);
    let trace = caller.map_or_else(TraceId::random, |caller| caller.trace);
    let _traced = log::traced(Some(trace));
    let command = frame.command();
    let pid_ns = frame.variable(PID_NS).and_then(|inode| str::from_utf8(inode).ok()?.parse().ok());
    let served = |said: &Answer| {
        let told = back.answer(said);
        // One without a command is as good as no frame.
        match command {
            Some(command) => shared.metrics.request(command, outcome_of(said), arrived.elapsed()),
            None => shared.metrics.refused(metrics::Refusal::Frame),
        }
        told
    };
    let error = |error: CniError, version| Answer::Error(error.to_json(version));
    let is_own = matches!(purpose, Purpose::Own);
    let mut request = match Request::from_env(frame.pairs.into_iter(), &*frame.stdin) {
        Ok(Invocation::Call(request)) if !is_own || matches!(request.command, Command::Add | Command::Del) => request,
        Ok(_) if is_own => return drop(served(&yours())),
        Ok(_) => return drop(served(&error(compat::no_command(), Version::CURRENT))),
        Err(refused) => return drop(served(&error(refused, Version::CURRENT))),
    };
    let seat = match (netns, &purpose) {
        (Some(netns), _) => Seat::new(shared, netns, cancel, trace).called_from(pid_ns),
        (None, Purpose::Own) => return drop(served(&yours())),
        (None, _) => Seat::of_path(shared, cancel, trace),
    };
    seat.phase(Phase::Queue, waited);
    let purpose = purpose.completed(shared, &request);
    if !is_own && request.command == Command::Add {
        // Whoever asked makes its own version of it.
        request.version = Version::CURRENT;
    }
    let done = panic::catch_unwind(AssertUnwindSafe(|| purpose.serve(&request, &seat, board)));
    let handed = seat.handed();
    let said = match done {
        Ok(_) if handed.is_some() => Answer::Yours(handed.unwrap_or_default()),
        Ok(Ok(_)) if request.command == Command::Add && deadline <= Instant::now() => {
            purpose.undo((*request).clone(), &seat);
            error(CniError::new(Code::TryAgainLater, LATE), request.version)
        }
        Ok(Ok(result)) => Answer::Result(result.unwrap_or_default()),
        // What the daemon lacks (descriptors, above all) its caller may have: that one tries once more, and says why it fails.
        Ok(Err(refused)) if is_own && request.command == Command::Del && refused.code != Code::TryAgainLater => {
            warn(&format!("DEL {}: {}; plexus-cni tries it", request.container_id, refused.msg));
            yours()
        }
        Ok(Err(refused)) => error(refused, request.version),
        Err(_) => {
            shared.metrics.refused(metrics::Refusal::Panic);
            error(engine::panicked(), request.version)
        }
    };
    let attached = request.command == Command::Add && matches!(said, Answer::Result(_));
    let told = served(&said);
    seat.phases().for_each(|(phase, taken)| shared.metrics.phase(request.command, phase, taken));
    #[cfg(feature = "otel")]
    seat.export(&request, caller, arrived, outcome_of(&said));
    if let Err(gone) = told {
        warn(&format!("{} {}: the caller has gone: {gone}", request.command.as_str(), request.container_id));
        if attached {
            purpose.undo(*request, &seat);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::Read;
    use std::time::Duration;

    use super::*;

    fn frame() -> Frame {
        let pairs = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", "/run/netns/c"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        let pairs = pairs.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let stdin = br#"{"cniVersion": "1.1.0", "name": "n", "type": "plexus-cni"}"#.to_vec();
        Frame { pairs: pairs.into(), stdin }
    }

    #[test]
    fn a_panic_is_the_end_of_one_request() {
        let state = std::env::temp_dir().join(format!("plexus-work-{}", std::process::id()));
        let shared = Arc::new(Shared::new(None, None, &state).unwrap());
        let board = Arc::new(Board::new(Arc::clone(&shared)));
        let (events, mut heard) = tokio::sync::mpsc::channel(4);
        let workers = Workers::start(1, &shared, &board, &events).unwrap();
        // The second finds the one worker that there is.
        for sandbox in ["first", "second"] {
            let (back, mut caller) = UnixStream::pair().unwrap();
            let (back, arrived) = (Back::Frame(back), Instant::now());
            let call =
                Call { frame: frame(), netns: None, back, arrived, purpose: Purpose::Broken, room: None, seated: None };
            assert!(workers.give(sandbox.to_owned(), Box::new(call), arrived + Duration::from_secs(60)).is_some());
            assert!(matches!(heard.blocking_recv(), Some(Event::Ended(ended)) if ended == sandbox));
            let mut said = Vec::new();
            caller.read_to_end(&mut said).unwrap();
            assert!(String::from_utf8_lossy(&said).contains("plexus failed in a way it should not"), "{said:?}");
        }
        assert!(shared.metrics.text().unwrap().contains("reason=\"panic\"} 2"));
        drop(std::fs::remove_dir_all(&state));
    }

    #[test]
    fn a_tenant_is_the_namespace_of_the_pod() {
        let args = b"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u";
        assert_eq!(tenant_of(args), "shop");
        for none in [&b""[..], b"K8S_POD_NAME=web-0", b";;=", b"K8S_POD_NAMESPACE"] {
            assert_eq!(tenant_of(none), "");
        }
    }
}
