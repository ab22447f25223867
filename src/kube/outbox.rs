//! What requests have told and the API server has not got yet: in order for each pod, several pods at once, and bounded. Statuses
//! are noted on disk besides (`unwritten`). It does not know what is said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use super::limit::{End, Limit};
use super::status::{Told, Word};
use super::unwritten;
use super::wire::Wire;

/// Pods of which something waits to be told. What does not fit is on disk, and is written from there.
const WORDS_MAX: usize = 1024;
/// Told at the same time.
const AT_ONCE: usize = 8;
/// How often what is only on disk is looked for: left by a daemon that was killed, or not to be told in its time.
const NOTES_EVERY: Duration = Duration::from_secs(30);
/// How many of these are written then, and how long that may take.
const NOTES_MAX: usize = 64;
const NOTES_TIME: Duration = Duration::from_secs(20);

/// See the module.
pub(super) struct Outbox {
    state_dir: PathBuf,
    /// How long telling one may take.
    deadline: Limit,
    waiting: Mutex<Waiting>,
    /// There may be something to tell.
    more: Notify,
    /// There may be nothing left.
    less: Notify,
    pub(super) written: AtomicU64,
    pub(super) failed: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    words: BTreeMap<String, Queued>,
    order: VecDeque<String>,
    /// Pods of which something is being told.
    busy: BTreeSet<String>,
}

struct Queued {
    word: Word,
    /// Who waits for it.
    done: Vec<SyncSender<()>>,
}

/// Nobody else tells anything of this pod while this lives.
struct Claim<'a> {
    outbox: &'a Outbox,
    uid: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.outbox.waiting().busy.remove(&self.uid);
        self.outbox.more.notify_one();
        self.outbox.less.notify_waiters();
    }
}

impl Outbox {
    pub(super) fn new(state_dir: PathBuf, deadline: Limit) -> Outbox {
        let (written, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let (more, less) = (Notify::new(), Notify::new());
        Outbox { state_dir, deadline, waiting: Mutex::default(), more, less, written, failed }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is to be told, from the next [`Outbox::nudge`] on; `done` is sent to when it has been. What there is no room for is
    /// said, and stays on disk.
    pub(super) fn put(&self, word: Word, done: Option<SyncSender<()>>) {
        let uid = word.key();
        let mut waiting = self.waiting();
        let (word, mut all) = match waiting.words.remove(&uid) {
            Some(earlier) => (word.after(earlier.word), earlier.done),
            None if waiting.order.len() >= WORDS_MAX => {
                drop(waiting);
                self.failed.fetch_add(1, Ordering::Relaxed);
                return word.keep(&format!("{WORDS_MAX} others wait for the API server"));
            }
            None => {
                waiting.order.push_back(uid.clone());
                (word, Vec::new())
            }
        };
        all.extend(done);
        waiting.words.insert(uid, Queued { word, done: all });
    }

    /// Wakes whoever tells, where there is something to tell.
    pub(super) fn nudge(&self) {
        if !self.is_empty_for_now() {
            self.more.notify_one();
        }
    }

    /// Of how many pods something waits or is being told.
    pub(super) fn len(&self) -> usize {
        let waiting = self.waiting();
        waiting.order.len() + waiting.busy.len()
    }

    /// The one that has waited longest of those whose pod is not being told of.
    fn take(&self) -> Option<(Queued, Claim<'_>)> {
        let mut waiting = self.waiting();
        let Waiting { words, order, busy } = &mut *waiting;
        let position = order.iter().position(|uid| !busy.contains(uid))?;
        let uid = order.remove(position)?;
        let queued = words.remove(&uid)?;
        busy.insert(uid.clone());
        Some((queued, Claim { outbox: self, uid }))
    }

    /// For a note on disk, whose word is not here.
    fn claim(&self, uid: &str) -> Option<Claim<'_>> {
        let mut waiting = self.waiting();
        if waiting.words.contains_key(uid) || !waiting.busy.insert(uid.to_owned()) {
            return None;
        }
        Some(Claim { outbox: self, uid: uid.to_owned() })
    }

    /// Tells what comes, until it is dropped.
    pub(super) async fn run(self: &Arc<Self>, wire: &Arc<Wire>) {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            while self.is_empty_for_now() {
                self.more.notified().await;
            }
            let (outbox, wire) = (Arc::clone(self), Arc::clone(wire));
            tokio::spawn(async move {
                let _slot = slot;
                if let Some((queued, _claim)) = outbox.take() {
                    outbox.tell(&queued.word, &wire).await;
                    for done in &queued.done {
                        let _ = done.try_send(()); // who waited may have gone
                    }
                }
            });
            // It takes its own before the next one looks.
            tokio::task::yield_now().await;
        }
    }

    fn is_empty_for_now(&self) -> bool {
        let waiting = self.waiting();
        waiting.order.iter().all(|uid| waiting.busy.contains(uid))
    }

    async fn tell(&self, word: &Word, wire: &Wire) {
        let told = match wire.calls(End::after(self.deadline)).await {
            Ok(calls) => word.send(&calls).await,
            Err(failure) => {
                word.keep(&failure.to_string());
                Told::Unwritten
            }
        };
        match told {
            Told::Written => drop(self.written.fetch_add(1, Ordering::Relaxed)),
            Told::Events => {}
            Told::Unwritten => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                wire.renew().await;
            }
        }
    }

    /// Writes what is on disk, now and from time to time, until it is dropped.
    pub(super) async fn write_notes(&self, wire: &Wire) {
        loop {
            if let Ok(calls) = wire.calls(End::after(Limit::own(NOTES_TIME))).await {
                let written = unwritten::write_listed(&calls, &self.state_dir, NOTES_MAX, |uid| self.claim(uid));
                let _ = tokio::time::timeout(NOTES_TIME, written).await; // what is left is for the next time
            }
            tokio::time::sleep(NOTES_EVERY).await;
        }
    }

    /// Ends when there is nothing to tell any more.
    pub(super) async fn emptied(&self) {
        loop {
            let mut less = std::pin::pin!(self.less.notified());
            less.as_mut().enable();
            if self.is_empty() {
                return;
            }
            less.await;
        }
    }

    fn is_empty(&self) -> bool {
        let waiting = self.waiting();
        waiting.order.is_empty() && waiting.busy.is_empty()
    }
}
