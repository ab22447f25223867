//! The daemon as a place where a request is served: what it has that a process of one request has not.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use backends::{Host, Kind, NetNs, Pod};
use ipam::spare;
use serde_json::json;

use super::deleters::Deleters;
use super::metrics::Metrics;
#[cfg(feature = "otel")]
use super::metrics::Outcome;
use super::node;
#[cfg(feature = "otel")]
use super::spans::{Answered, PARTS_MAX, Part, Spans};
use crate::cluster::{self, Cluster};
use crate::cni::error::CniError;
use crate::cni::gojson;
use crate::cni::request::Request;
use crate::config::{self, Config};
use crate::deleter::Deletes;
use crate::engine::Plug;
use crate::handed::{Knowledge, Noting, Tidings};
use crate::journal::Journal;
use crate::kube::{Cancel, Known, Live};
use crate::log::warn;
use crate::phase::{Executed, Phase};
use crate::place::{self, OfFiles, Opening, Place};
use crate::sight;
use crate::sources::SourceError;
#[cfg(feature = "otel")]
use crate::trace::Caller;
use crate::trace::TraceId;

/// How long what is still to be told may take when the daemon ends; what is left is on disk.
const TELL_TIME: Duration = Duration::from_secs(5);

/// How long statuses and events wait while a request is served, always the same or always another.
const UNTOLD_TIME: Duration = Duration::from_secs(2);

/// Folders of journals that are remembered: more than one is of a node whose configuration changes.
const STATE_DIRS_MAX: usize = 8;

/// The key of a configuration.
const STATE_DIR: &str = "stateDir";

/// What all requests share.
pub(super) struct Shared {
    /// What is counted of them.
    pub(super) metrics: Arc<Metrics>,
    /// Where requests are told to a collector, if anywhere.
    #[cfg(feature = "otel")]
    pub(super) spans: Option<Spans>,
    deleters: Deleters,
    lane: Mutex<()>,
    /// In the place of what requests' configurations say.
    kubeconfig: Option<PathBuf>,
    /// The runtime's folder, where nobody told the daemon the node's configuration.
    conf_dir: Option<PathBuf>,
    /// Watched from the start, where the options say how, or from the first request on that names a pod.
    known: Mutex<Option<Watched>>,
    /// Where requests have their journals; the one that was named last is the last.
    state_dirs: Mutex<Vec<PathBuf>>,
    /// Opened, and with no request now: at most one for each that was ever served at once.
    hosts: Mutex<Vec<Host>>,
    /// Requests being served.
    serving: Mutex<usize>,
    /// There are none any more.
    rests: Condvar,
    processors: usize,
    /// Since when something that requests told waits to be told on.
    untold: Mutex<Option<Instant>>,
}

/// What a cluster is watched by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Terms {
    kubeconfig: Option<PathBuf>,
    state_dir: PathBuf,
    /// How long a call, all of them, and what is about to come may take.
    times: [Duration; 3],
}

/// A cluster that is watched.
struct Watched {
    terms: Terms,
    /// No request has said yet that it is this one.
    is_presumed: bool,
    known: Known,
}

impl Watched {
    fn start(config: &Config, terms: Terms) -> Result<Watched, SourceError> {
        let known = Known::start(&Config { kubeconfig: terms.kubeconfig.clone(), ..config.clone() }, None)?;
        Ok(Watched { terms, is_presumed: false, known })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Shared").field("kubeconfig", &self.kubeconfig).finish_non_exhaustive()
    }
}

impl Shared {
    /// `state_dir`: where requests will have their journal, as far as is known. `conf_dir`: where the node's configuration is looked for.
    pub(super) fn new(kubeconfig: Option<PathBuf>, conf_dir: Option<PathBuf>, state_dir: &Path) -> io::Result<Shared> {
        let metrics = Arc::new(Metrics::new());
        Ok(Shared {
            #[cfg(feature = "otel")]
            spans: Spans::start(&metrics)?,
            metrics,
            deleters: Deleters::start()?,
            lane: Mutex::new(()),
            kubeconfig,
            conf_dir,
            known: Mutex::new(None),
            state_dirs: Mutex::new(vec![state_dir.to_owned()]),
            hosts: Mutex::default(),
            serving: Mutex::new(0),
            rests: Condvar::new(),
            processors: thread::available_parallelism().map_or(1, usize::from),
            untold: Mutex::default(),
        })
    }

    /// The cluster that is watched, once one is.
    pub(super) fn known(&self) -> Option<Known> {
        let watched = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        watched.as_ref().map(|watched| watched.known.clone())
    }

    /// After an answer: what requests told is told on, unless others are being served, who would wait for the processor; but not
    /// for ever.
    pub(super) fn nudge(&self) {
        let Some(known) = self.known() else { return };
        let mut untold = self.untold();
        let since = *untold.get_or_insert_with(Instant::now);
        if self.serving() == 0 || since.elapsed() > UNTOLD_TIME {
            *untold = None;
            drop(untold);
            known.nudge();
        }
    }

    /// The same from time to time, for the loop's thread: who is being served may wait for something, and no other answer comes.
    pub(super) fn nudge_late(&self) {
        let watched = match self.known.try_lock() {
            // Somebody begins to watch a cluster: there is a next time.
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Poisoned(watched)) => watched.into_inner(),
            Ok(watched) => watched,
        };
        if let Some(watched) = &*watched
            && self.untold().take_if(|since| since.elapsed() > UNTOLD_TIME).is_some()
        {
            watched.known.nudge();
        }
    }

    fn untold(&self) -> MutexGuard<'_, Option<Instant>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no request is being served, `limit` long at most.
    pub(super) fn await_rest(&self, limit: Duration) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.rests.wait_timeout_while(serving, limit, |serving| *serving > 0));
    }

    fn serving(&self) -> usize {
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files for the next request, while nobody waits.
    pub(super) fn make_ahead(&self) {
        spare::refill(|| self.serving() == 0);
    }

    /// Where requests that attach have their journal.
    pub(super) fn state_dir(&self) -> PathBuf {
        self.state_dirs().pop().unwrap_or_else(|| PathBuf::from(config::STATE_DIR))
    }

    /// All places where requests have had it, the last one last.
    pub(super) fn state_dirs(&self) -> Vec<PathBuf> {
        self.state_dirs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A request of `/delegate`, which brings no configuration of the node: with the one of the runtime's folder, where the daemon was told
    /// none, and with its journal where the pod has its own record.
    pub(super) fn completed(&self, plug: &Plug, sandbox: &str) -> Plug {
        let mut own = self.conf_dir.as_deref().map(node::keys).unwrap_or_default();
        own.retain(|key, _| !plug.own.keys().any(|told| gojson::folds_to(key, told)));
        own.extend(plug.own.clone());
        let told = own.iter().find(|(key, _)| gojson::folds_to(key, STATE_DIR)).and_then(|(_, dir)| dir.as_str());
        let mut dirs: Vec<PathBuf> = told.map(PathBuf::from).into_iter().collect();
        dirs.extend(self.state_dirs().into_iter().rev().filter(|dir| told.is_none_or(|told| dir != Path::new(told))));
        let has_pod = |dir: &&PathBuf| matches!(Journal::new(dir).own_record(sandbox), Ok(Some(_)));
        // The whole journal is read for it: not where there is no other.
        let its = if dirs.len() > 1 { dirs.iter().find(has_pod) } else { None };
        if let Some(dir) = its.or(dirs.first()) {
            own.retain(|key, _| !gojson::folds_to(key, STATE_DIR));
            own.insert(STATE_DIR.to_owned(), json!(dir));
        }
        Plug { wish: plug.wish.clone(), own }
    }

    fn note_state_dir(&self, used: &Path) {
        let mut noted = self.state_dirs.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.last().is_none_or(|last| last != used) {
            noted.retain(|known| known != used);
            noted.push(used.to_owned());
            let forgotten = noted.len().saturating_sub(STATE_DIRS_MAX);
            noted.drain(..forgotten);
        }
    }

    fn terms(&self, config: &Config) -> Terms {
        let kubeconfig = match &self.kubeconfig {
            Some(own) => Some(own.clone()),
            // Whoever runs in a pod of the cluster sees that pod's files, and not those of the node.
            None if cluster::is_in_cluster() => None,
            None => config.kubeconfig.clone(),
        };
        let times = [config.api_call_timeout, config.api_deadline, config.appear_wait];
        Terms { kubeconfig, state_dir: config.state_dir.clone(), times }
    }

    /// A request's configuration, with the daemon's own way to the API server where it has one.
    fn with_login(&self, config: &Config) -> Config {
        Config { kubeconfig: self.kubeconfig.clone().or_else(|| config.kubeconfig.clone()), ..config.clone() }
    }

    /// Watches what requests will ask, as far as is known before the first of them.
    pub(super) fn watch_ahead(&self, config: &Config) {
        match Watched::start(config, self.terms(config)) {
            Ok(watched) => {
                let watched = Watched { is_presumed: true, ..watched };
                *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(watched);
            }
            Err(why) => warn(&format!("the cluster is not watched before a request asks for it: {why}")),
        }
    }

    /// The cluster of a configuration. The first one is watched; another is asked, each time.
    fn cluster(&self, config: &Config, cancel: &Cancel) -> Result<Box<dyn Cluster>, SourceError> {
        let terms = self.terms(config);
        let mut watched = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let first = match watched.take().filter(|first| !first.is_presumed || first.terms == terms) {
            Some(first) => Watched { is_presumed: false, ..first },
            None => Watched::start(config, terms.clone())?,
        };
        let first = watched.insert(first);
        if first.terms.kubeconfig == terms.kubeconfig && first.terms.state_dir == terms.state_dir {
            let inquiry = first.known.cluster(cancel.clone(), config.status_before_answer);
            return Ok(Box::new(inquiry.told_later()));
        }
        drop(watched);
        let own = Config { kubeconfig: terms.kubeconfig, ..config.clone() };
        Live::new(&own).map(|live| Box::new(live) as Box<dyn Cluster>)
    }

    /// Tells what came of a request that its caller served; whether that was anything.
    pub(super) fn tell(&self, config: &Config, tidings: &Tidings, cancel: &Cancel) -> Result<bool, SourceError> {
        self.note_state_dir(&config.state_dir);
        self.cluster(config, cancel).map(|mut cluster| tidings.tell(&mut *cluster))
    }

    /// Waits until everything is told that requests have told, or it takes too long.
    pub(super) fn drain(&self) {
        let watched = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = &*watched
            && !watched.known.drain(TELL_TIME)
        {
            warn("not every status is written: the next daemon, or the next request, writes them");
        }
    }
}

/// The place of one request.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    shared: &'a Shared,
    /// CNI_NETNS, as the caller opened it; none: it is opened here, by its path.
    netns: Option<Arc<OwnedFd>>,
    /// Nobody else can execute this request's plugins.
    executes: bool,
    /// The caller's, where it said so.
    pid_ns: Option<u64>,
    cancel: Cancel,
    trace: TraceId,
    given_back: Cell<bool>,
    /// What the cluster answered, for whoever it is given back to.
    knowledge: RefCell<Knowledge>,
    /// What each phase took so far, in their order.
    phases: [Cell<Duration>; Phase::ALL.len()],
    /// The same, each part by itself, where somebody collects them.
    #[cfg(feature = "otel")]
    parts: RefCell<Vec<Part>>,
    /// Closed with this, which is after the answer: the kernel takes a while for each.
    pod: RefCell<Option<Pod>>,
}

impl<'a> Seat<'a> {
    pub(super) fn new(shared: &'a Shared, netns: OwnedFd, cancel: Cancel, trace: TraceId) -> Seat<'a> {
        Seat::take(shared, Some(Arc::new(netns)), cancel, trace)
    }

    /// Of a caller who only names the namespace, and to whom nothing can be given back.
    pub(super) fn of_path(shared: &'a Shared, cancel: Cancel, trace: TraceId) -> Seat<'a> {
        Seat::take(shared, None, cancel, trace)
    }

    fn take(shared: &'a Shared, netns: Option<Arc<OwnedFd>>, cancel: Cancel, trace: TraceId) -> Seat<'a> {
        *shared.serving.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Seat {
            shared,
            executes: netns.is_none(),
            pid_ns: None,
            netns,
            cancel,
            trace,
            given_back: Cell::new(false),
            knowledge: RefCell::default(),
            phases: Default::default(),
            #[cfg(feature = "otel")]
            parts: RefCell::default(),
            pod: RefCell::default(),
        }
    }

    /// With the pid namespace of whoever called, where that is known.
    pub(super) fn called_from(mut self, pid_ns: Option<u64>) -> Seat<'a> {
        self.pid_ns = pid_ns;
        self
    }

    /// What each phase took that there was.
    pub(super) fn phases(&self) -> impl Iterator<Item = (Phase, Duration)> {
        let all = Phase::ALL.into_iter().zip(self.phases.iter().map(Cell::get));
        all.filter(|(_, taken)| !taken.is_zero())
    }

    /// The request is answered: a collector gets its spans, if anybody does.
    #[cfg(feature = "otel")]
    pub(super) fn export(&self, request: &Request, caller: Option<Caller>, began: Instant, outcome: Outcome) {
        let Some(spans) = &self.shared.spans else { return };
        spans.answered(Answered {
            trace: self.trace,
            caller,
            command: request.command,
            container: request.container_id.clone(),
            pod: cluster::pod_name(&request.args).map(|pod| (pod.namespace, pod.name)),
            began,
            ended: Instant::now(),
            outcome,
            parts: self.parts.take(),
        });
    }

    /// What the caller gets who has to serve it; none where it has not.
    pub(super) fn handed(&self) -> Option<Vec<u8>> {
        self.given_back.get().then(|| self.knowledge.borrow().to_bytes())
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut serving = self.shared.serving.lock().unwrap_or_else(PoisonError::into_inner);
        *serving -= 1;
        if *serving == 0 {
            self.shared.rests.notify_all();
        }
    }
}

impl Place for Seat<'_> {
    fn reach<'a>(&'a self, config: &Config, request: &Request) -> Result<Box<dyn Cluster + 'a>, CniError> {
        self.shared.note_state_dir(&config.state_dir);
        if !cluster::is_needed(&self.shared.with_login(config), request) {
            return OfFiles.reach(config, request);
        }
        let found = self.shared.cluster(config, &self.cancel).map_err(cluster::refuse)?;
        if self.executes {
            return Ok(found);
        }
        Ok(Box::new(Noting::new(found, &self.knowledge)))
    }

    fn has_api(&self, config: &Config) -> bool {
        cluster::has_api(&self.shared.with_login(config))
    }

    fn executes(&self) -> bool {
        self.executes
    }

    fn is_given_back(&self) -> bool {
        self.given_back.get()
    }

    fn is_daemon(&self) -> bool {
        true
    }

    fn opening(&self, request: &Request) -> Opening {
        let netns = self.netns.clone();
        let path = request.netns.clone().unwrap_or_default();
        Box::new(move || match netns {
            Some(netns) => NetNs::of_descriptor(&netns, &path),
            None => NetNs::open(&path),
        })
    }

    fn pid_ns(&self) -> u64 {
        self.pid_ns.or_else(sight::own_pid_ns).unwrap_or_default()
    }

    fn deletes(&self) -> &dyn Deletes {
        &self.shared.deleters
    }

    fn lane(&self) -> Option<MutexGuard<'_, ()>> {
        Some(self.shared.lane.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn host(&self) -> Result<Host, backends::Error> {
        let used = self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        used.map_or_else(|| Ok(Host::open()?.telling(warn)), Ok)
    }

    fn take_back(&self, host: Host, pod: Pod) {
        self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner).push(host);
        self.pod.replace(Some(pod));
    }

    fn has_idle_processor(&self) -> bool {
        self.shared.serving() < self.shared.processors
    }

    fn phase(&self, phase: Phase, taken: Duration) {
        if let Some((_, total)) = Phase::ALL.iter().zip(&self.phases).find(|(known, _)| **known == phase) {
            total.set(total.get() + taken);
        }
        #[cfg(feature = "otel")]
        if self.shared.spans.is_some() && self.parts.borrow().len() < PARTS_MAX {
            self.parts.borrow_mut().push((phase, Instant::now(), taken));
        }
    }

    fn attached(&self, kind: Option<Kind>, taken: Duration) {
        self.shared.metrics.attachment(kind, taken);
    }

    fn link_failed(&self, why: &backends::Error) {
        if let Some(errno) = why.errno() {
            self.shared.metrics.kernel_error(errno);
        }
    }

    fn trace(&self) -> Option<TraceId> {
        Some(self.trace)
    }

    fn allow_execution(&self, _request: &Request, why: Executed) -> Result<(), CniError> {
        if self.executes {
            return Ok(());
        }
        self.shared.metrics.given_back(why);
        self.given_back.set(true);
        Err(place::given_back())
    }
}
