//! What a daemon knows of its cluster: this node's pods and all definitions, kept up to date by one thread that owns the client,
//! asks what is not known, and tells what requests have to tell. Requests ask from threads of their own and wait.
//!
//! It does not know what a definition means, nor when it is asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::again::{self, Rest};
use super::cache::{KeptDefinition, KeptPod};
use super::call::{Calls, Failure};
use super::cancel::{CANCELLED, Cancel};
use super::inquiry::Inquiry;
use super::limit::{self, End, Limit};
use super::objects;
use super::outbox::Outbox;
use super::status::Word;
use super::taint;
use super::watch::{Collection, Standing, Trouble};
use super::wire::Wire;
use crate::config::Config;
use crate::heartbeat::Heartbeat;
use crate::sources::{Definition, SourceError};

/// Where a pod learns its node's name, by the downward API.
const NODE_NAMES: [&str; 3] = ["NODE_NAME", "KUBERNETES_NODE_NAME", "MULTUS_NODE_NAME"];
/// Threads that look up names and read kubeconfigs: more only where these hang.
const BLOCKING_THREADS_MAX: usize = 16;
/// What an answer may take beyond the deadline of the calls that it is made of: events have a time of their own.
const SLACK: Duration = Duration::from_secs(3);

/// How often the thread says that it turns.
const BEAT: Duration = Duration::from_secs(4);

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods and definitions that were known when they were asked for.
    pub hits: u64,
    /// Those that were not.
    pub misses: u64,
    /// Of both, those that were pods.
    pub pods: (u64, u64),
    /// Of the hits, those from before the server went away.
    pub last_known: u64,
    /// Asked of the server for a request: a pod, a definition, several at once, devices.
    pub gets: u64,
    /// Of these, those without an answer.
    pub failures: u64,
    /// Watches that were begun again.
    pub restarts: u64,
    /// Of these, those of which the one before failed.
    pub broken: u64,
    /// Statuses that were written.
    pub statuses: u64,
    /// Statuses that were not written when they were told.
    pub unwritten: u64,
}

/// The name of this node, as the environment has it: `NODE_NAME`, `KUBERNETES_NODE_NAME`, or what Multus' daemon reads.
pub fn node_name() -> Option<String> {
    NODE_NAMES.iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()))
}

/// The same while it is counted.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) pod_hits: AtomicU64,
    pub(super) pod_misses: AtomicU64,
    pub(super) last_known: AtomicU64,
    gets: AtomicU64,
    failures: AtomicU64,
    restarts: AtomicU64,
    broken: AtomicU64,
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Whether what is known can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Pods (where the node's name is known) and definitions have come once, as a whole.
    pub is_synced: bool,
    /// Why this node's pods are not known to be as the server has them.
    pub pods: Option<Trouble>,
    /// The same of the definitions.
    pub definitions: Option<Trouble>,
}

/// The cluster as a daemon knows it. Clones are one and the same; with the last one its thread ends.
#[derive(Clone)]
pub struct Known {
    running: Arc<Running>,
}

struct Running {
    shared: Arc<Shared>,
    handle: Handle,
    thread: JoinHandle<()>,
    /// Dropped: the thread ends.
    _alive: oneshot::Sender<()>,
}

/// What the thread and the requests share.
pub(super) struct Shared {
    /// None without the node's name: each pod is asked for.
    pub(super) pods: Option<Collection<KeptPod>>,
    pub(super) definitions: Collection<KeptDefinition>,
    pub(super) counters: Counters,
    pub(super) state_dir: PathBuf,
    pub(super) appear_wait: Duration,
    pub(super) deadline: Limit,
    outbox: Arc<Outbox>,
    wire: Arc<Wire>,
    heartbeat: Heartbeat,
    /// The thread has panicked, and begins again soon.
    rests: AtomicBool,
}

impl Known {
    /// Reads what was known last, and starts the thread; it goes on by itself, whether or not the server answers. `node`: the name of
    /// this node; otherwise the environment has it ([`node_name`]), or pods are asked for each time.
    ///
    /// # Errors
    /// The thread cannot be started; the node's name is none.
    pub fn start(config: &Config, node: Option<&str>) -> Result<Known, SourceError> {
        let act = || "preparing to watch the API server".to_owned();
        let refuse = |why: String| SourceError::Api { act: act(), why, transient: false };
        let state_dir = config.state_dir.clone();
        let node = node.map(str::to_owned).or_else(node_name);
        let path = node.map(|node| objects::pods_of(&node)).transpose().map_err(|e| e.told(act()))?;
        let deadline = limit::of_all(config);
        let shared = Arc::new(Shared {
            pods: path.map(|path| Collection::new(path, &state_dir)),
            definitions: Collection::new(objects::ALL_DEFINITIONS.to_owned(), &state_dir),
            counters: Counters::default(),
            appear_wait: config.appear_wait,
            deadline,
            outbox: Arc::new(Outbox::new(state_dir.clone(), deadline)),
            wire: Arc::new(Wire::new(config.kubeconfig.clone(), limit::of_one(config), deadline)),
            heartbeat: Heartbeat::new(),
            rests: AtomicBool::new(false),
            state_dir,
        });
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build();
        let runtime = runtime.map_err(|e| refuse(e.to_string()))?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel();
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("api".to_owned()).spawn(move || {
            again::drive(&runtime, ended, Rest::USUAL, &served.rests, || served.serve());
            // Without waiting for what hangs in it (name servers, above all).
            runtime.shutdown_background();
        });
        let thread = thread.map_err(|e| refuse(e.to_string()))?;
        Ok(Known { running: Arc::new(Running { shared, handle, thread, _alive: alive }) })
    }

    /// The cluster for one request, which waits in the calling thread until it has an answer, its time is over, or `cancel` says that
    /// nobody waits any more. `status_before_answer`: what it tells is waited for, too.
    pub fn cluster(&self, cancel: Cancel, status_before_answer: bool) -> Inquiry {
        Inquiry::new(self.clone(), cancel, status_before_answer)
    }

    /// All that is watched has come once as a whole.
    pub fn is_synced(&self) -> bool {
        let Shared { pods, definitions, .. } = &*self.running.shared;
        definitions.standing().is_synced && pods.as_ref().is_none_or(|pods| pods.standing().is_synced)
    }

    /// Whether what is known can be relied on, and why not.
    pub fn state(&self) -> State {
        let Shared { pods, definitions, .. } = &*self.running.shared;
        let trouble = |standing: &Standing| standing.trouble.clone();
        State {
            is_synced: self.is_synced(),
            pods: pods.as_ref().and_then(|pods| trouble(&pods.standing())),
            definitions: trouble(&definitions.standing()),
        }
    }

    /// Whether nothing is watched for the moment, because the thread panicked.
    pub fn rests(&self) -> bool {
        self.running.shared.rests.load(Ordering::Relaxed)
    }

    /// How long ago the thread turned last; none where it has ended, which it does by many panics alone.
    pub fn heartbeat_age(&self) -> Option<Duration> {
        let Running { shared, thread, .. } = &*self.running;
        (!thread.is_finished()).then(|| shared.heartbeat.age())
    }

    /// A definition as it is now: `Some(None)`, there is none; none, nobody knows for the moment.
    pub fn definition(&self, namespace: &str, name: &str) -> Option<Option<Definition>> {
        let all = &self.running.shared.definitions;
        let is_sure = {
            let standing = all.standing();
            standing.is_synced && standing.trouble.is_none()
        };
        let table = all.table();
        let found = table.get(&(namespace.to_owned(), name.to_owned())).cloned().map(Definition::from);
        (is_sure && (found.is_some() || !table.has_gaps())).then_some(found)
    }

    /// How many pods and how many definitions are known, and how many statuses wait to be written.
    pub fn held(&self) -> (usize, usize, usize) {
        let Shared { pods, definitions, outbox, .. } = &*self.running.shared;
        let pods = pods.as_ref().map_or(0, |pods| pods.table().iter().count());
        (pods, definitions.table().iter().count(), outbox.len())
    }

    /// What was counted since the start.
    pub fn counts(&self) -> Counts {
        let Shared { counters, outbox, .. } = &*self.running.shared;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            hits: of(&counters.hits),
            misses: of(&counters.misses),
            pods: (of(&counters.pod_hits), of(&counters.pod_misses)),
            last_known: of(&counters.last_known),
            gets: of(&counters.gets),
            failures: of(&counters.failures),
            restarts: of(&counters.restarts),
            broken: of(&counters.broken),
            statuses: of(&outbox.written),
            unwritten: of(&outbox.failed),
        }
    }

    /// Waits until everything is told that requests have told; whether it is. What is not stays on disk.
    pub fn drain(&self, limit: Duration) -> bool {
        let outbox = Arc::clone(&self.running.shared.outbox);
        let (done, told) = sync_channel(1);
        outbox.nudge();
        self.running.handle.spawn(async move {
            outbox.emptied().await;
            let _ = done.try_send(()); // who waited may have gone
        });
        told.recv_timeout(limit).is_ok()
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.running.shared
    }

    /// Asks the server, through the thread, until `end`. Credentials that are not accepted are read again, once.
    pub(super) fn ask<T, F>(
        &self,
        end: End,
        cancel: &Cancel,
        act: impl Fn(Calls) -> F + Send + Sync + 'static,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let shared = &self.running.shared;
        count(&shared.counters.gets);
        let (wire, cancel) = (Arc::clone(&shared.wire), cancel.clone());
        let (answer, answered) = sync_channel(1);
        self.running.handle.spawn(async move {
            let asked = async {
                match act(wire.calls(end).await?).await {
                    Err(Failure::Login(_)) => {
                        wire.renew().await;
                        act(wire.calls(end).await?).await
                    }
                    answer => answer,
                }
            };
            let found = tokio::select! {
                found = asked => found,
                () = cancel.cancelled() => Err(Failure::Passing(CANCELLED.to_owned())),
            };
            drop(answer.try_send(found)); // who waited may have gone
        });
        let late = |_| Err(Failure::Passing(format!("the API server was not to be asked within {}", end.whole())));
        let found = answered.recv_timeout(end.left() + SLACK).unwrap_or_else(late);
        if found.as_ref().is_err_and(|failure| *failure != Failure::Missing) {
            count(&shared.counters.failures);
        }
        found
    }

    /// Takes every taint of this key off a node; whether there was one. Waits for the server.
    ///
    /// # Errors
    /// It does not answer, or refuses it.
    pub fn remove_taint(&self, node: &str, key: &str) -> Result<bool, SourceError> {
        let (of, taint) = (node.to_owned(), key.to_owned());
        let removed = self.ask(End::after(self.running.shared.deadline), &Cancel::default(), move |calls| {
            let (of, taint) = (of.clone(), taint.clone());
            async move { taint::remove(&calls, &of, &taint).await }
        });
        removed.map_err(|failure| failure.told(format!("taking the taint {key} off the node {node}")))
    }

    /// Has told what requests told later than at once ([`Inquiry::told_later`]).
    pub fn nudge(&self) {
        self.running.shared.outbox.nudge();
    }

    /// Gives to the thread what is to be told; it does so from the next [`Known::nudge`] on, or at once where that is awaited.
    pub(super) fn tell(&self, word: Word, is_awaited: bool) {
        let outbox = &self.running.shared.outbox;
        let (done, told): (_, Receiver<()>) = sync_channel(1);
        outbox.put(word, is_awaited.then_some(done));
        if is_awaited {
            outbox.nudge();
            // Too late, or without room: that is said where it is seen.
            let _ = told.recv_timeout(self.running.shared.deadline.time() + SLACK);
        }
    }
}

impl Shared {
    /// The thread's work, without an end.
    async fn serve(&self) {
        let restarted = |has_failed: bool| {
            count(&self.counters.restarts);
            if has_failed {
                count(&self.counters.broken);
            }
        };
        let pods = async {
            match &self.pods {
                Some(pods) => pods.follow(&self.wire, restarted).await,
                None => std::future::pending().await,
            }
        };
        let beats = async {
            loop {
                self.heartbeat.beat();
                tokio::time::sleep(BEAT).await;
            }
        };
        tokio::join!(
            beats,
            pods,
            self.definitions.follow(&self.wire, restarted),
            self.outbox.run(&self.wire),
            self.outbox.write_notes(&self.wire),
        );
    }
}
