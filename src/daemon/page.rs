//! What the daemon says of itself to those who ask over HTTP or by STATUS: counts of requests, of the cluster that is watched, of
//! journal and pools; what has ended, what is not ready. It does not know HTTP, nor how a request is served.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use backends::Before;
use tokio::task::JoinHandle;

use super::http::{self, BindErrorKind, Listen, Page};
use super::mark::{Mark, Standing};
use super::metrics::{ApiOutcome, ApiVerb, Cache, Fill, Metrics};
use super::number;
use super::seat::Shared;
use super::work::Call;
use crate::cni::version::Version;
use crate::heartbeat::{HEARTBEAT_AGE_MAX, Heartbeat};
use crate::journal::{self, Attachment, Journal, Step};
use crate::kube::{Counts, Known};
use crate::log::warn;
use crate::native::{self, Around};
use crate::readiness;

/// Files of the journal that are counted: more than any node has.
const FILES_MAX: usize = 100_000;
/// How long a page waits for what is counted on disk.
const COUNT_TIME: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Board {
    /// The loop's.
    pub(super) heartbeat: Heartbeat,
    shared: Arc<Shared>,
    /// What the metrics have of what the cluster counted; held while they are brought up to date.
    told: Mutex<Counts>,
    /// Where it can be reached; none: it cannot yet, or not any more.
    sockets: Mutex<Option<Vec<Mark>>>,
    /// Somebody counts what is on disk.
    counting: Arc<AtomicBool>,
}

/// A range set of a pool: its directory, its network, its ranges.
type Set = (PathBuf, String, String);

impl Board {
    pub(super) fn new(shared: Arc<Shared>) -> Board {
        Board {
            heartbeat: Heartbeat::new(),
            shared,
            told: Mutex::default(),
            sockets: Mutex::default(),
            counting: Arc::default(),
        }
    }

    /// From now on it is told where a socket of the daemon is not there any more.
    pub(super) fn watch_sockets(&self, sockets: Vec<Mark>) {
        *self.sockets() = Some(sockets);
    }

    /// The daemon is to end: its sockets are whoever's comes.
    pub(super) fn leave(&self) {
        *self.sockets() = None;
    }

    fn sockets(&self) -> MutexGuard<'_, Option<Vec<Mark>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this daemon is who serves: no newer one has its sockets, and it is not to end.
    pub(super) fn serves(&self) -> bool {
        let sockets = self.sockets().clone();
        sockets.is_some_and(|all| all.iter().all(|mark| mark.standing() != Standing::Anothers))
    }

    /// One that is another's by now is not lost: a newer daemon serves there.
    fn lost_sockets(&self) -> Vec<String> {
        let lost = |mark: &&Mark| mark.standing() == Standing::Lost;
        let told = |mark: &Mark| {
            format!("nobody listens on the daemon's socket {}: it is about to be made again", mark.path().display())
        };
        self.sockets().clone().unwrap_or_default().iter().filter(lost).map(told).collect()
    }

    /// The cluster that is watched, once one is.
    pub(super) fn known(&self) -> Option<Known> {
        self.shared.known()
    }

    /// Answers a STATUS. It looks at files.
    pub(super) fn answer(&self, call: Call) {
        call.answer_status(&self.unready(), &self.shared.metrics);
    }

    fn count_cluster(&self, known: &Known) {
        let metrics = &self.shared.metrics;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = known.counts();
        add_cluster(metrics, &told, &now);
        *told = now;
        let (pods, definitions, statuses) = known.held();
        metrics.known(Cache::Pod, number(pods));
        metrics.known(Cache::Definition, number(definitions));
        metrics.statuses_waiting(number(statuses));
    }

    /// Counts what is on disk. Where that takes longer than anybody waits for a page (a pool is locked by somebody else), the page shows
    /// what was counted last.
    fn count_disk(&self) {
        if self.counting.swap(true, Ordering::AcqRel) {
            return;
        }
        let (shared, counting) = (Arc::clone(&self.shared), Arc::clone(&self.counting));
        let (done, counted) = sync_channel(1);
        let count = move || {
            count_files(&shared);
            counting.store(false, Ordering::Release);
            let _ = done.try_send(()); // who waited may have gone
        };
        match thread::Builder::new().name("counting".to_owned()).spawn(count) {
            Ok(_) => _ = counted.recv_timeout(COUNT_TIME),
            Err(_) => self.counting.store(false, Ordering::Release), // the next page counts it
        }
    }
}

/// What is on disk: nobody else knows what plexus-cni wrote.
fn count_files(shared: &Shared) {
    let state_dir = shared.state_dir();
    let (files, bytes) = size(&state_dir.join(journal::RECORDS));
    shared.metrics.journal(files, bytes);
    let Ok(listing) = Journal::new(&state_dir).all() else { return };
    let (mut sets, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for attachment in listing.records.iter().flat_map(|record| &record.intent.attachments) {
        for step in attachment.steps.iter().filter(|step| step.pool.is_some()) {
            note_pool((&mut sets, &mut seen), attachment, step, &state_dir);
        }
    }
    let fills = sets.iter().map(|((_, network, _), (held, free))| Fill { network, held: *held, free: *free });
    shared.metrics.pools(fills);
}

/// What was counted between two moments.
fn add_cluster(metrics: &Metrics, before: &Counts, now: &Counts) {
    let since = |of: fn(&Counts) -> u64| of(now).saturating_sub(of(before));
    let (pod_hits, pod_misses) = (since(|all| all.pods.0), since(|all| all.pods.1));
    metrics.cache_asked(Cache::Pod, pod_hits, pod_misses);
    let (hits, misses) = (since(|all| all.hits), since(|all| all.misses));
    metrics.cache_asked(Cache::Definition, hits.saturating_sub(pod_hits), misses.saturating_sub(pod_misses));
    let failures = since(|all| all.failures);
    metrics.api_calls(ApiVerb::Get, ApiOutcome::Done, since(|all| all.gets).saturating_sub(failures));
    metrics.api_calls(ApiVerb::Get, ApiOutcome::Failed, failures);
    let broken = since(|all| all.broken);
    metrics.api_calls(ApiVerb::Watch, ApiOutcome::Done, since(|all| all.restarts).saturating_sub(broken));
    metrics.api_calls(ApiVerb::Watch, ApiOutcome::Failed, broken);
    metrics.api_calls(ApiVerb::Patch, ApiOutcome::Done, since(|all| all.statuses));
    let unwritten = since(|all| all.unwritten);
    metrics.api_calls(ApiVerb::Patch, ApiOutcome::Failed, unwritten);
    metrics.statuses_failed(unwritten);
}

/// Records and their bytes.
fn size(records: &Path) -> (u64, u64) {
    let entries = fs::read_dir(records).into_iter().flatten().take(FILES_MAX).flatten();
    let is_record = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().ends_with(journal::SUFFIX.as_bytes());
    let lengths = entries.filter(is_record).filter_map(|entry| entry.metadata().ok()).map(|found| found.len());
    lengths.fold((0, 0), |(files, bytes), length| (files + 1, bytes + length))
}

/// How full the pool of a step is, each range set once. One that cannot be read is left out: it is not this page that mends it.
fn note_pool(
    (sets, seen): (&mut BTreeMap<Set, (u128, u128)>, &mut BTreeSet<Set>),
    attachment: &Attachment,
    step: &Step,
    state_dir: &Path,
) {
    let around = Around {
        network: &attachment.cni_name,
        version: Version::parse(&attachment.cni_version).unwrap_or(Version::CURRENT),
        args: "",
        ifname: &attachment.ifname,
        state_dir,
        before: Before::Awaited,
    };
    let Ok((pool, _)) = native::host_local(&step.conf, &around) else { return };
    let (directory, network) = (pool.directory().to_owned(), attachment.cni_name.clone());
    if !seen.insert((directory.clone(), network.clone(), pool.ranges())) {
        return;
    }
    for set in pool.usage().into_iter().flat_map(|usage| usage.sets) {
        let free = set.total.saturating_sub(set.used);
        sets.insert((directory.clone(), network.clone(), set.ranges), (set.used, free));
    }
}

impl Page for Board {
    fn metrics(&self) -> Option<String> {
        if let Some(known) = self.shared.known() {
            self.count_cluster(&known);
        }
        self.count_disk();
        self.shared.metrics.text().ok()
    }

    fn heartbeat_age(&self) -> Duration {
        self.heartbeat.age()
    }

    fn ended(&self) -> Option<String> {
        match self.shared.known()?.heartbeat_age() {
            None => Some("the thread that asks the API server has ended".to_owned()),
            Some(age) if age > HEARTBEAT_AGE_MAX => {
                Some(format!("the thread that asks the API server turned last {} s ago", age.as_secs()))
            }
            Some(_) => None,
        }
    }

    fn unready(&self) -> Vec<String> {
        let state_dir = self.shared.state_dir();
        let unwritable = readiness::writable("the state directory", &state_dir).err().map(|error| error.msg);
        let mut unready: Vec<String> = self.ended().into_iter().chain(unwritable).chain(self.lost_sockets()).collect();
        if let Some(known) = self.shared.known() {
            if known.rests() {
                unready.push("the thread that asks the API server panicked, and begins again".to_owned());
            }
            // What was known goes on to be served, as it is by a kubelet without its server.
            if !known.is_synced() {
                unready.extend(away(&known));
            }
        }
        unready
    }

    fn doubts(&self) -> Vec<String> {
        let away = self.shared.known().filter(Known::is_synced).map(|known| away(&known));
        let away = away.into_iter().flatten().map(|why| format!("{why}; pods are attached by what was known last"));
        away.chain(crate::log::unwritable()).collect()
    }
}

/// Why the API server is not to be relied on, each reason once.
fn away(known: &Known) -> Vec<String> {
    let state = known.state();
    let mut reasons: Vec<String> =
        [state.pods, state.definitions].into_iter().flatten().map(|trouble| trouble.why).collect();
    reasons.dedup();
    if reasons.is_empty() && !state.is_synced {
        reasons.push("it has not answered yet".to_owned());
    }
    reasons.into_iter().map(|why| format!("API server: {why}")).collect()
}

/// Where the page is shown.
pub(super) struct Window {
    place: Option<Listen>,
    serving: Option<JoinHandle<()>>,
    /// It was said why nobody can look through it.
    has_told: bool,
}

impl Window {
    pub(super) fn new(place: Option<Listen>) -> Window {
        Window { place, serving: None, has_told: false }
    }

    /// Shows the page, if it is not shown yet. While another daemon is at that place, it ends soon: called again and again.
    pub(super) fn open(&mut self, board: &Arc<Board>) {
        let Some(place) = self.place.clone() else { return };
        if self.serving.is_some() && !place.is_there() {
            self.close();
        }
        if self.serving.is_some() {
            return;
        }
        match place.bind() {
            Ok(bound) => {
                let page: Arc<dyn Page> = Arc::clone(board) as Arc<dyn Page>;
                self.serving = Some(tokio::spawn(async move { match http::serve(bound, page).await {} }));
            }
            Err(error) if error.kind == BindErrorKind::Taken || self.has_told => {}
            Err(error) => {
                let why = error.source.as_ref().map(|source| format!(": {source}")).unwrap_or_default();
                warn(&format!("nobody can read the metrics: {error}{why}; it is tried again"));
                self.has_told = true;
            }
        }
    }

    /// Leaves the place to the next one.
    pub(super) fn close(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cluster_counted_is_added_once() {
        let metrics = Metrics::new();
        let first = Counts {
            hits: 5,
            misses: 3,
            pods: (1, 2),
            gets: 4,
            failures: 1,
            unwritten: 1,
            restarts: 5,
            broken: 2,
            ..Counts::default()
        };
        let second = Counts { hits: 7, statuses: 2, ..first };
        add_cluster(&metrics, &Counts::default(), &first);
        add_cluster(&metrics, &first, &second);
        let text = metrics.text().unwrap();
        for line in [
            r#"plexus_cache_hits_total{cache="pod"} 1"#,
            r#"plexus_cache_hits_total{cache="definition"} 6"#,
            r#"plexus_cache_misses_total{cache="pod"} 2"#,
            r#"plexus_cache_misses_total{cache="definition"} 1"#,
            r#"plexus_api_calls_total{verb="get",outcome="done"} 3"#,
            r#"plexus_api_calls_total{verb="get",outcome="failed"} 1"#,
            r#"plexus_api_calls_total{verb="watch",outcome="done"} 3"#,
            r#"plexus_api_calls_total{verb="watch",outcome="failed"} 2"#,
            r#"plexus_api_calls_total{verb="patch",outcome="done"} 2"#,
            "plexus_status_writes_failed_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
