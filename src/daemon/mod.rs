//! `plexus daemon`: the requests of a node's `plexus-cni`, served by one process. One closed [`Event`] and one loop decide who is
//! served next; workers serve, each a request from its frame to its answer.
//!
//! It does not know how a pod is attached: that is the engine's.

pub mod compat;
mod crew;
mod deleters;
mod devices;
mod ground;
pub mod http;
mod keeping;
mod leases;
mod line;
mod listen;
mod mark;
pub mod metrics;
mod node;
mod page;
mod reconcile;
mod running;
mod seat;
#[cfg(feature = "otel")]
mod spans;
pub mod taint;
mod turns;
mod work;

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipam::spare;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::cni::request::Command;
use crate::config::devices::Devices;
use crate::config::{self, LogConf};
use crate::keep::Keep;
use crate::kube::{Enrolment, Wanted};
use crate::log::warn;
use crate::native;
use crate::wire::{ADD_TIME, DEL_TIME, LEASE_TIME};
use crate::{cluster, confdir};
use compat::Compat;
use http::Listen;
use leases::Leases;
use line::{Line, Place, Verb, Width};
pub use listen::OpenError;
use listen::{Door, Ears, Tongue};
use mark::{Mark, Standing};
use page::{Board, Window};
use running::Running;
use seat::Shared;
use taint::Taint;
use work::{Call, Refusal, Workers};

/// Events that wait for the loop: each connection has at most two.
const EVENTS_MAX: usize = 4096;
/// ADDs at once: in the kernel they stand in one lane, outside it is little to wait for.
const ADDS_MAX: usize = 12;
/// DELs at once: each waits for an announcement, not for the kernel's grace periods.
const DELS_MAX: usize = 24;
/// Which part of the descriptors files made ahead may have at most.
const SPARES_SHARE: usize = 16;
/// Which part requests that are served may have, and descriptors of one.
const SERVED_SHARE: (usize, usize) = (3, 8);
const SERVED_DESCRIPTORS: usize = 10;
/// Which part callers may have that wait until they may execute plugins.
const LEASES_SHARE: usize = 8;
/// How often the loop looks at its own clock.
const TICK: Duration = Duration::from_millis(250);
/// How long an ADD may wait and be served, where nobody says otherwise: what it began is undone in what is left of [`ADD_TIME`].
pub const REQUEST_TIME: Duration = Duration::from_secs(120);
/// The longest that it may be told.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(170);
/// For how many pods plugins may be executed at once, where nobody says otherwise: each is a process or more, of 10 MB and more.
pub const EXECUTIONS: u16 = 16;
/// How long a DEL may: after that its caller carries it out.
const REMOVAL_TIME: Duration = Duration::from_secs(25);

const _: () = assert!(REQUEST_TIME_MAX.as_secs() < ADD_TIME.as_secs() && REMOVAL_TIME.as_secs() < DEL_TIME.as_secs());

/// How long requests under way may take once the daemon is to end.
const DRAIN_TIME: Duration = Duration::from_secs(60);
/// Threads that look at files for those who ask how the daemon is; they end when nobody asks.
const LOOKERS_MAX: usize = 4;
/// STATUS calls that are being answered or wait for that.
const STATUSES_MAX: usize = 64;

/// Everything that happens to the daemon.
#[derive(Debug)]
enum Event {
    /// A request came whole.
    Arrived(Box<Call>),
    /// A request of this sandbox is answered.
    Ended(String),
    /// One who executed plugins for this sandbox is done with that, or has gone.
    Returned(String),
    /// Somebody wants the daemon to end.
    Stop(&'static str),
    /// Nobody who connected to one of its sockets before it was to end has still to send a request.
    Silent,
    /// Time goes by.
    Tick,
}

/// What the daemon is told when it is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its socket.
    pub socket: PathBuf,
    /// The socket on which it speaks as Multus' daemon does, and what holds there over what is sent.
    pub compat: Option<Compat>,
    /// How it reaches the API server, where requests' configurations are not to say it.
    pub kubeconfig: Option<PathBuf>,
    /// A client certificate of the node's own, where it is to have one.
    pub certificate: Option<Wanted>,
    /// Where its metrics and its health are told, if anywhere.
    pub metrics: Option<Listen>,
    /// The node's CNI configuration, where the daemon is to keep it.
    pub keep: Option<Keep>,
    /// What is taken off the node once pods can be attached by that.
    pub startup_taint: Option<Taint>,
    /// What of the node's cards is offered to its kubelet.
    pub devices: Option<Devices>,
    /// What a person should know of how it was started.
    pub notes: Vec<String>,
    /// What is written down, and where: requests' configurations have no say in it.
    pub log: LogConf,
    /// How long an ADD may wait and be served; see [`REQUEST_TIME`].
    pub request_time: Duration,
    /// For how many pods plugins may be executed at once; see [`EXECUTIONS`].
    pub executions: usize,
}

/// Serves until it is told to end.
///
/// # Errors
/// The socket cannot be made, or another daemon has it that is not to be replaced; threads cannot be started.
pub fn run(options: &Options) -> Result<(), OpenError> {
    let descriptors = raise_descriptor_limit();
    spare::keep(descriptors / SPARES_SHARE);
    crate::log::frees_output();
    crate::log::begin(&options.log);
    ground::prepare();
    options.notes.iter().for_each(|note| warn(note));
    crate::log::unwritable().iter().for_each(|why| warn(why));
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(LOOKERS_MAX).build();
    let runtime = runtime.map_err(OpenError::system("start a runtime"))?;
    let served = runtime.block_on(serve(options, descriptors));
    // Whatever a disk still keeps from answering is nobody's any more.
    runtime.shutdown_background();
    served
}

/// A request that waits has two descriptors, one that is served ten: more than 1024 (the usual soft limit) in a crowd. Where the hard
/// limit is no higher, or cannot be asked for, a crowd is served more slowly ([`width`], [`listen::narrow`]): who connects waits. Returns what it
/// is then.
fn raise_descriptor_limit() -> usize {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(errno) = raised {
        warn(&format!("raising the limit of descriptors: {errno}"));
    }
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// How many are served at once by a process that may have so many descriptors.
fn width(descriptors: usize) -> Width {
    let most = descriptors / SERVED_SHARE.1 * SERVED_SHARE.0 / SERVED_DESCRIPTORS;
    let share = |number: usize| (most.min(ADDS_MAX + DELS_MAX) * number / (ADDS_MAX + DELS_MAX)).max(1);
    Width { adds: share(ADDS_MAX), dels: share(DELS_MAX) }
}

async fn serve(options: &Options, descriptors: usize) -> Result<(), OpenError> {
    let (events, heard) = mpsc::channel(EVENTS_MAX);
    let conf_dir = options.keep.as_ref().map_or(Path::new(confdir::DIRECTORY), |keep| &keep.dir);
    let node = node::config(options.keep.as_ref(), conf_dir);
    let state_dir = node.as_ref().map_or(Path::new(config::STATE_DIR), |node| &node.state_dir);
    let untold = options.keep.is_none().then(|| conf_dir.to_owned());
    let shared = Shared::new(options.kubeconfig.clone(), untold, state_dir);
    let shared = Arc::new(shared.map_err(OpenError::system("start the deleters"))?);
    let is_told = |keep: &Keep| keep.config().is_some_and(|config| config.kubeconfig.is_some());
    if let Some(node) = &node
        && (options.kubeconfig.is_some() || cluster::is_in_cluster() || options.keep.as_ref().is_some_and(is_told))
    {
        shared.watch_ahead(node);
    }
    let enrolment = options.certificate.clone().map(Enrolment::start).transpose();
    let _enrolment = enrolment.map_err(OpenError::system("keep a certificate"))?;
    let board = Arc::new(Board::new(Arc::clone(&shared)));
    let workers =
        Workers::start(ADDS_MAX + DELS_MAX, &shared, &board, &events).map_err(OpenError::system("start a worker"))?;
    reconcile::start(&shared, conf_dir).map_err(OpenError::system("start reconciling"))?;
    watch_signals(&events).map_err(OpenError::system("listen for signals"))?;
    // Last: whoever finds the socket is served.
    let (metrics, places) = (Arc::clone(&shared.metrics), listen::narrow(descriptors));
    let ears = Ears { events: events.clone(), metrics, tongue: Tongue::Frames, places };
    let mut doors = vec![Door::open(&options.socket, ears.clone())?];
    if let Some(compat) = &options.compat {
        let tongue = Tongue::Shim(Arc::new(compat.overlay(options.kubeconfig.as_deref())));
        doors.push(Door::open(&compat.socket, Ears { tongue, ..ears })?);
    }
    board.watch_sockets(marks(&doors));
    if let Some(keep) = options.keep.clone() {
        keeping::start(keep, options.startup_taint.clone(), Arc::clone(&board))
            .map_err(OpenError::system("watch the node's configuration"))?;
    }
    if let Some(wanted) = options.devices.clone() {
        shared.metrics.device_faults(wanted.faults.len());
        devices::start(wanted).map_err(OpenError::system("offer devices"))?;
    }
    tokio::spawn(tick(events.clone()));
    crate::log::verbose(|| format!("the daemon listens on {}", options.socket.display()));
    let mut daemon = Daemon {
        line: Line::new(width(descriptors)),
        running: Running::default(),
        leases: Leases::new(options.executions, descriptors / LEASES_SHARE),
        events: events.clone(),
        request_time: options.request_time,
        workers,
        open: doors.len(),
        cannot_reopen: false,
        doors,
        stopping: None,
        window: Window::new(options.metrics.clone()),
        board,
        statuses: Arc::new(Semaphore::new(STATUSES_MAX)),
        shared: Arc::clone(&shared),
    };
    daemon.turn(heard).await;
    shared.drain();
    #[cfg(feature = "otel")]
    if let Some(spans) = &shared.spans {
        spans.end().await;
    }
    Ok(())
}

/// What the loop keeps.
struct Daemon {
    line: Line<Box<Call>>,
    running: Running,
    leases: Leases<Box<Call>>,
    events: Sender<Event>,
    request_time: Duration,
    workers: Workers,
    /// Its sockets, until it is to end.
    doors: Vec<Door>,
    /// On how many of them a request may still come.
    open: usize,
    /// It was said that one of them cannot be made again.
    cannot_reopen: bool,
    /// When it ends, whoever is still at work.
    stopping: Option<Instant>,
    window: Window,
    board: Arc<Board>,
    statuses: Arc<Semaphore>,
    shared: Arc<Shared>,
}

impl Daemon {
    async fn turn(&mut self, mut heard: Receiver<Event>) {
        while let Some(event) = heard.recv().await {
            match event {
                Event::Arrived(call) => self.admit(call),
                Event::Ended(sandbox) => {
                    self.running.end(&sandbox);
                    self.line.ended(&sandbox);
                }
                Event::Returned(sandbox) => self.leases.returned(&sandbox),
                Event::Stop(why) => self.stop(why),
                Event::Silent => self.open = self.open.saturating_sub(1),
                Event::Tick => {
                    self.board.heartbeat.beat();
                    self.look_at_doors();
                    self.shared.nudge_late();
                    if spare::are_idle() {
                        drop(tokio::task::spawn_blocking(spare::let_go));
                    }
                    self.expire(Instant::now());
                }
            }
            self.start_next();
            self.lease_next();
            self.shared.metrics.requests(number(self.line.serving()), number(self.line.waiting()));
            self.shared.metrics.executions(number(self.leases.held()), number(self.leases.waiting()));
            let is_idle = self.open == 0 && self.line.is_empty() && self.leases.waiting() == 0;
            if self.stopping.is_some_and(|until| is_idle || Instant::now() >= until) && heard.is_empty() {
                return;
            }
        }
    }

    fn admit(&mut self, call: Box<Call>) {
        let metrics = &self.shared.metrics;
        if let Some(sandbox) = call.lease() {
            let deadline = call.arrived + LEASE_TIME;
            let refused = self.leases.ask((&call.tenant(), sandbox), deadline, call).err();
            return refused.into_iter().for_each(|call| call.refuse(Refusal::TooMany, metrics));
        }
        let verb = match call.command() {
            Some(Command::Status) if call.is_own() => {
                let (board, place) = (Arc::clone(&self.board), Arc::clone(&self.statuses).try_acquire_owned());
                let Ok(place) = place else { return call.refuse(Refusal::TooMany, metrics) };
                tokio::task::spawn_blocking(move || {
                    board.answer(*call);
                    drop(place);
                });
                return;
            }
            // One of a single interface ends no other call of its pod.
            Some(Command::Del) if !call.is_plug() => Verb::Del,
            _ => Verb::Add,
        };
        let (sandbox, tenant) = (call.sandbox(), call.tenant());
        let (arrived, deadline) = (call.arrived, call.arrived + self.time(verb));
        match self.line.admit(Place { sandbox: sandbox.clone(), tenant, verb, arrived, deadline, call }) {
            Ok(admitted) => {
                admitted.cancelled.into_iter().for_each(|call| call.refuse(Refusal::Cancelled, metrics));
                if admitted.cancels_running {
                    self.running.cancel(&sandbox);
                }
            }
            Err(call) => call.refuse(Refusal::TooMany, metrics),
        }
    }

    /// A socket that somebody has removed, or that whoever had it has left by being killed, is made again: nobody else would. Where
    /// another daemon has it, that one has its page and the node's configuration, too.
    fn look_at_doors(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let mut is_superseded = false;
        for door in &mut self.doors {
            match door.mark().standing() {
                Standing::Own => {}
                Standing::Anothers => is_superseded = true,
                Standing::Lost => match door.again() {
                    Ok(new) => {
                        warn(&format!("nobody listens on the socket {}: it is made again", door.path().display()));
                        self.open += 1;
                        mem::replace(door, new).close();
                        self.cannot_reopen = false;
                    }
                    Err(error) if !mem::replace(&mut self.cannot_reopen, true) => warn(&format!(
                        "nobody listens on the socket {}, and it cannot be made again: {}; it is tried again",
                        door.path().display(),
                        native::chain(&error)
                    )),
                    Err(_) => {}
                },
            }
        }
        self.board.watch_sockets(marks(&self.doors));
        if is_superseded {
            self.window.close();
        } else {
            self.window.open(&self.board);
        }
    }

    /// Who may execute plugins now does so until its connection ends, however it ends.
    fn lease_next(&mut self) {
        while let Some((sandbox, call)) = self.leases.next() {
            let Ok(stream) = call.answer_lease().and_then(UnixStream::from_std) else {
                self.leases.returned(&sandbox); // it has gone
                continue;
            };
            let events = self.events.clone();
            tokio::spawn(async move {
                // Nothing is sent on it any more: what can be read is its end.
                let _ = stream.readable().await;
                drop(stream);
                let _ = events.send(Event::Returned(sandbox)).await; // the loop may have ended
            });
        }
    }

    fn time(&self, verb: Verb) -> Duration {
        match verb {
            Verb::Add => self.request_time,
            Verb::Del => REMOVAL_TIME,
        }
    }

    /// Who has waited too long is told so, and who is being served is to end.
    fn expire(&mut self, now: Instant) {
        for late in self.line.expired(now) {
            late.refuse(Refusal::Deadline, &self.shared.metrics);
        }
        for late in self.leases.expired(now) {
            late.refuse(Refusal::Unleased, &self.shared.metrics);
        }
        for sandbox in self.running.expire(now) {
            warn(&format!("container {sandbox}: its request has had its time, and is told to end"));
            self.shared.metrics.refused(Refusal::Deadline.counted());
        }
    }

    fn start_next(&mut self) {
        while let Some(Place { sandbox, call, deadline, .. }) = self.line.next(Instant::now()) {
            match self.workers.give(sandbox.clone(), call, deadline) {
                Some(cancel) => self.running.begin(sandbox, cancel, deadline),
                None => self.line.ended(&sandbox),
            }
        }
    }

    /// No new request is taken; those that have come are served.
    fn stop(&mut self, why: &str) {
        if self.stopping.is_none() {
            crate::log::verbose(|| format!("the daemon ends: {why}"));
            self.board.leave();
            self.doors.drain(..).for_each(Door::close);
            self.window.close();
        }
        self.stopping.get_or_insert_with(|| Instant::now() + DRAIN_TIME);
    }
}

fn marks(doors: &[Door]) -> Vec<Mark> {
    doors.iter().map(|door| door.mark().clone()).collect()
}

fn number(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}

async fn tick(events: Sender<Event>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if events.send(Event::Tick).await.is_err() {
            return;
        }
    }
}

fn watch_signals(events: &Sender<Event>) -> std::io::Result<()> {
    for (kind, name) in [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")] {
        let (mut stream, events) = (signal(kind)?, events.clone());
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if events.send(Event::Stop(name)).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}
