//! The daemon's reconciling, in a thread of its own: at the start, in intervals, and when links or rules of the host change. What it finds
//! goes to the log. It does not know what is reconciled.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::metrics::{self, Finding, Metrics};
use super::seat::Shared;
use crate::alive::CACHE_DIRS;
use crate::detach::DATA_DIR;
use crate::log::{verbose, warn};
use crate::reconcile::{Became, Cause, Definitions, Reconciler, Report, Watch, watch_host};
use crate::survey::Places;
use crate::takeover;

/// From one whole round to the next.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// The same where a round had not room for all that is dead.
const INTERVAL_OF_MANY: Duration = Duration::from_secs(1);
/// Changes within this time are one.
const QUIET: Duration = Duration::from_millis(500);
/// A round over changes that took long is not repeated before so many times that long: a twentieth of a processor at most.
const QUIET_SHARE: u32 = 20;
/// But no longer than this: who waits for a plugin waits for one.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// How long a round waits for requests to end.
const REST_WAIT: Duration = Duration::from_secs(10);
/// Longer than a kubelet waits for a pod's networks: a lease that is younger may be of an ADD under way.
const MIN_AGE: Duration = Duration::from_secs(600);
/// Stack of the thread, in bytes: records are deep JSON.
const STACK_BYTES: usize = 1 << 20;

/// Starts it. It ends with the process: a round that is killed is the next one's to finish.
///
/// # Errors
/// No thread.
pub(super) fn start(shared: &Arc<Shared>, conf_dir: &Path) -> io::Result<()> {
    let named = thread::Builder::new().name("reconcile".to_owned()).stack_size(STACK_BYTES);
    let (shared, conf_dir) = (Arc::clone(shared), conf_dir.to_owned());
    named.spawn(move || run(&shared, &conf_dir)).map(drop)
}

fn run(shared: &Shared, conf_dir: &Path) {
    let mut reconcilers = BTreeMap::new();
    // First: what changes during a round is told after it.
    let mut watch = watch();
    let mut cause = Cause::Start;
    let mut whole = Instant::now();
    loop {
        let begun = Instant::now();
        let cache_dirs = cache_dirs(conf_dir);
        let mut has_more = false;
        for state_dir in shared.state_dirs() {
            let places = places(state_dir.clone(), cache_dirs.clone());
            // A folder that was not known before is looked at as a whole.
            let is_new = !reconcilers.contains_key(&state_dir);
            let reconciler = reconcilers.entry(state_dir).or_insert_with(Reconciler::default);
            let known = shared.known();
            let definitions = |namespace: &str, name: &str| known.as_ref()?.definition(namespace, name);
            let report = round(reconciler, &places, if is_new { &Cause::Start } else { &cause }, &definitions);
            tell(&report, &shared.metrics);
            has_more |= report.has_more;
        }
        if has_more || !matches!(cause, Cause::Changed { .. }) {
            whole = Instant::now() + if has_more { INTERVAL_OF_MANY } else { INTERVAL };
        }
        cause = next(&mut watch, whole, (begun.elapsed() * QUIET_SHARE).clamp(QUIET, QUIET_MAX));
        // Pods that come and go change many links; who attaches them is not to wait for this.
        shared.await_rest(REST_WAIT);
    }
}

fn round(reconciler: &mut Reconciler, places: &Places, cause: &Cause, definitions: &Definitions) -> Report {
    let round = panic::catch_unwind(AssertUnwindSafe(|| reconciler.round(places, cause, definitions)));
    round.unwrap_or_else(|_| {
        warn("reconcile: a round panicked");
        *reconciler = Reconciler::default();
        Report::default()
    })
}

fn watch() -> Option<Watch> {
    watch_host()
        .inspect_err(|e| warn(&format!("changes of links and rules are seen only in intervals: {}", e.msg)))
        .ok()
}

/// Waits for what comes first.
fn next(watch: &mut Option<Watch>, whole: Instant, quiet: Duration) -> Cause {
    let heard = watch.as_mut().map(|watch| watch.wait(whole, quiet)).transpose().map(Option::flatten);
    match heard {
        Ok(Some(cause)) => return cause,
        Ok(None) => {}
        Err(e) => {
            warn(&format!("changes of links and rules are not seen until the next whole round: {}", e.msg));
            *watch = None;
        }
    }
    // Without a watch; whoever wakes this thread earlier has a round earlier.
    thread::park_timeout(whole.saturating_duration_since(Instant::now()));
    if watch.is_none() {
        *watch = self::watch();
    }
    Cause::Timer
}

fn tell(report: &Report, metrics: &Metrics) {
    for found in report.fresh() {
        if let Some(what) = Finding::ALL.iter().find(|finding| finding.word() == found.what.word()) {
            metrics.finding(*what, counted(found.became));
        }
    }
    report.news().for_each(|line| warn(&format!("reconcile: {line}")));
    verbose(|| {
        let counts: Vec<String> = report.counts().map(|(what, count)| format!("{} {count}", what.word())).collect();
        format!("reconcile: {} collected; found: {}", report.collected, counts.join(", "))
    });
}

fn counted(became: Became) -> metrics::Became {
    match became {
        Became::Reported => metrics::Became::Reported,
        Became::Repaired => metrics::Became::Repaired,
        Became::Collected => metrics::Became::Collected,
    }
}

/// The runtimes' caches, and where the node's own configuration has Multus'.
fn cache_dirs(conf_dir: &Path) -> Vec<PathBuf> {
    let mut cache_dirs: Vec<PathBuf> = CACHE_DIRS.iter().map(PathBuf::from).collect();
    let configured = takeover::configured(conf_dir).into_iter();
    cache_dirs.extend(configured.filter(|dir| !CACHE_DIRS.iter().any(|known| dir == Path::new(known))));
    cache_dirs
}

/// As `plexus gc` without arguments.
fn places(state_dir: PathBuf, cache_dirs: Vec<PathBuf>) -> Places {
    Places {
        state_dir,
        cache_dirs,
        data_dirs: [PathBuf::from(DATA_DIR)].into(),
        bridges: BTreeSet::new(),
        on_node: false,
        min_age: MIN_AGE,
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Finding;
    use crate::reconcile::What;

    #[test]
    fn what_is_found_can_be_counted() {
        let counted: Vec<&str> = Finding::ALL.iter().map(|finding| finding.word()).collect();
        assert_eq!(counted, What::ALL.map(What::word));
    }
}
