//! What the daemon counts, for Prometheus: a value, no globals. Recording formats nothing, and allocates only for a series' first
//! value. It does not know who reads it, nor where the numbers come from.

mod labels;
mod pools;
pub mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use backends::Kind;
use nix::errno::Errno;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::cni::request::Command;
use crate::phase::{Executed, Phase};

use labels::ErrnoName;
pub use labels::{
    ApiOutcome, ApiVerb, Became, Cache, Finding, OTHER, Outcome, Refusal, ShimCode, ShimHandler, ShimMethod,
};
use pools::Pools;
pub use pools::{Fill, NETWORK_BYTES_MAX, NETWORKS_MAX};
use table::Row;

/// Upper bounds of what a request or an attachment takes, in seconds: fine where the daemon works (1 to 3 ms), and up to the time
/// after which a runtime has given up.
pub const REQUEST_SECONDS_BUCKETS: [f64; 20] = [
    0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0,
    5.0, 10.0, 30.0,
];
/// The same of one phase, the shortest of which takes some microseconds.
pub const PHASE_SECONDS_BUCKETS: [f64; 16] =
    [0.00001, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// The `kind` of an attachment that an executed plugin made.
pub const DELEGATE: &str = "delegate";
/// The media type of [`Metrics::text`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The requests that are told apart.
const VERBS: [Command; 6] =
    [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status, Command::Version];
/// What the kernel says of this process.
const PROCESS_STATUS: &str = "/proc/self/status";
/// Bytes of it that are read: it has under 2,000.
const PROCESS_STATUS_BYTES_MAX: u64 = 16 * 1024;

type One = [(&'static str, &'static str); 1];
type Two = [(&'static str, &'static str); 2];
type Three = [(&'static str, &'static str); 3];
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Level = Gauge<u64, AtomicU64>;

/// All metrics. Shared by everything that counts: every method takes `&self`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Histograms<Two>,
    phases: Histograms<Two>,
    attachments: Histograms<One>,
    refused: Family<One, Counter>,
    under_way: Level,
    waiting: Level,
    delegates: Family<One, Counter>,
    executing: Level,
    executions_waiting: Level,
    kernel_errors: Family<[(&'static str, ErrnoName); 1], Counter>,
    hits: Family<One, Counter>,
    misses: Family<One, Counter>,
    known: Family<One, Level>,
    api: Family<Two, Counter>,
    statuses_waiting: Level,
    statuses_failed: Counter,
    pools: Arc<Pools>,
    journal_records: Level,
    journal_bytes: Level,
    device_faults: Level,
    findings: Family<Two, Counter>,
    spans_dropped: Counter,
    shim: Family<Three, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at nothing. What has labels appears with its first value.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let of_request: fn() -> Histogram = || Histogram::new(REQUEST_SECONDS_BUCKETS);
        let of_phase: fn() -> Histogram = || Histogram::new(PHASE_SECONDS_BUCKETS);
        let pools = Arc::new(Pools::default());
        let mut metrics = Self {
            requests: add(&mut registry, &table::REQUEST, Family::new_with_constructor(of_request)),
            phases: add(&mut registry, &table::PHASE, Family::new_with_constructor(of_phase)),
            attachments: add(&mut registry, &table::ATTACHMENT, Family::new_with_constructor(of_request)),
            refused: add(&mut registry, &table::REFUSED, Family::default()),
            under_way: add(&mut registry, &table::UNDER_WAY, Gauge::default()),
            waiting: add(&mut registry, &table::WAITING, Gauge::default()),
            delegates: add(&mut registry, &table::DELEGATES, Family::default()),
            executing: add(&mut registry, &table::EXECUTING, Gauge::default()),
            executions_waiting: add(&mut registry, &table::EXECUTIONS_WAITING, Gauge::default()),
            kernel_errors: add(&mut registry, &table::KERNEL_ERRORS, Family::default()),
            hits: add(&mut registry, &table::CACHE_HITS, Family::default()),
            misses: add(&mut registry, &table::CACHE_MISSES, Family::default()),
            known: add(&mut registry, &table::KNOWN, Family::default()),
            api: add(&mut registry, &table::API, Family::default()),
            statuses_waiting: add(&mut registry, &table::STATUS_WAITING, Gauge::default()),
            statuses_failed: add(&mut registry, &table::STATUS_FAILED, Counter::default()),
            journal_records: add(&mut registry, &table::JOURNAL_RECORDS, Gauge::default()),
            journal_bytes: add(&mut registry, &table::JOURNAL, Gauge::default()),
            device_faults: add(&mut registry, &table::DEVICE_FAULTS, Gauge::default()),
            findings: add(&mut registry, &table::FINDINGS, Family::default()),
            spans_dropped: add(&mut registry, &table::SPANS_DROPPED, Counter::default()),
            shim: add(&mut registry, &table::SHIM, Family::default()),
            pools: Arc::clone(&pools),
            registry,
        };
        metrics.registry.register_collector(Box::new(pools));
        metrics.registry.register_collector(Box::new(Memory));
        metrics
    }

    /// A request was served: from its first byte to its answer.
    pub fn request(&self, verb: Command, outcome: Outcome, taken: Duration) {
        let labels = [("verb", verb.as_str()), ("outcome", outcome.word())];
        self.requests.get_or_create(&labels).observe(taken.as_secs_f64());
    }

    /// What a request spent on a phase, all its attachments together.
    pub fn phase(&self, verb: Command, phase: Phase, taken: Duration) {
        let labels = [("verb", verb.as_str()), ("phase", phase.word())];
        self.phases.get_or_create(&labels).observe(taken.as_secs_f64());
    }

    /// An attachment of an ADD was made, by a kind, or by an executed plugin where there is none.
    pub fn attachment(&self, kind: Option<Kind>, taken: Duration) {
        let labels = [("kind", kind.map_or(DELEGATE, Kind::name))];
        self.attachments.get_or_create(&labels).observe(taken.as_secs_f64());
    }

    /// A request was not served, or not to its end.
    pub fn refused(&self, reason: Refusal) {
        self.refused.get_or_create(&[("reason", reason.word())]).inc();
    }

    /// How many requests are being served, and how many wait.
    pub fn requests(&self, under_way: u64, waiting: u64) {
        self.under_way.set(under_way);
        self.waiting.set(waiting);
    }

    /// A request was given back.
    pub fn given_back(&self, reason: Executed) {
        self.delegates.get_or_create(&[("reason", reason.word())]).inc();
    }

    /// For how many pods plugins are executed, and how many requests wait for that.
    pub fn executions(&self, under_way: u64, waiting: u64) {
        self.executing.set(under_way);
        self.executions_waiting.set(waiting);
    }

    /// The kernel refused a message.
    pub fn kernel_error(&self, errno: Errno) {
        self.kernel_errors.get_or_create(&[("errno", ErrnoName(errno))]).inc();
    }

    /// Of the objects that requests asked for, so many more were known, and so many were not.
    pub fn cache_asked(&self, cache: Cache, hits: u64, misses: u64) {
        let labels = [("cache", cache.word())];
        self.hits.get_or_create(&labels).inc_by(hits);
        self.misses.get_or_create(&labels).inc_by(misses);
    }

    /// How many objects are known.
    pub fn known(&self, cache: Cache, objects: u64) {
        self.known.get_or_create(&[("cache", cache.word())]).set(objects);
    }

    /// The API server was called so many times more.
    pub fn api_calls(&self, verb: ApiVerb, outcome: ApiOutcome, calls: u64) {
        self.api.get_or_create(&[("verb", verb.word()), ("outcome", outcome.word())]).inc_by(calls);
    }

    /// How much of what the configuration says of devices is not offered.
    pub fn device_faults(&self, faults: usize) {
        self.device_faults.set(u64::try_from(faults).unwrap_or(u64::MAX));
    }

    /// How many statuses the API server has not got yet.
    pub fn statuses_waiting(&self, statuses: u64) {
        self.statuses_waiting.set(statuses);
    }

    /// So many more statuses could not be written.
    pub fn statuses_failed(&self, statuses: u64) {
        self.statuses_failed.inc_by(statuses);
    }

    /// How full all pools are, in the place of what was known: meant to be asked just before [`Metrics::text`]. Pools of one network
    /// are added up; see [`NETWORKS_MAX`].
    pub fn pools<'a>(&self, fills: impl IntoIterator<Item = Fill<'a>>) {
        self.pools.replace(fills);
    }

    /// How many records the journal has, and their bytes.
    pub fn journal(&self, records: u64, bytes: u64) {
        self.journal_records.set(records);
        self.journal_bytes.set(bytes);
    }

    /// Reconciling found something.
    pub fn finding(&self, what: Finding, became: Became) {
        self.findings.get_or_create(&[("what", what.word()), ("became", became.word())]).inc();
    }

    /// So many spans more that no collector gets.
    pub fn spans_dropped(&self, spans: u64) {
        self.spans_dropped.inc_by(spans);
    }

    /// Somebody was answered on the socket of Multus' shim.
    pub fn shim(&self, handler: ShimHandler, code: ShimCode, method: ShimMethod) {
        let labels = [("handler", handler.word()), ("code", code.word()), ("method", method.word())];
        self.shim.get_or_create(&labels).inc();
    }

    /// Everything as OpenMetrics text ([`MEDIA_TYPE`]).
    ///
    /// # Errors
    /// What the encoder refuses: a metric that is not what its type says.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut written = String::new();
        text::encode(&mut written, &self.registry)?;
        Ok(written)
    }
}

/// Registers a metric as its row says.
fn add<M: Metric + Clone>(registry: &mut Registry, row: &Row, metric: M) -> M {
    match row.unit.clone() {
        Some(unit) => registry.register_with_unit(row.base, row.help, unit, metric.clone()),
        None => registry.register(row.base, row.help, metric.clone()),
    }
    metric
}

/// This process' memory, asked of the kernel when the text is.
#[derive(Debug)]
struct Memory;

impl Collector for Memory {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let row = &table::MEMORY;
        let Some(bytes) = resident_bytes() else { return Ok(()) };
        let metric = encoder.encode_descriptor(row.base, &row.sentence(), row.unit.as_ref(), MetricType::Gauge)?;
        ConstGauge::new(bytes).encode(metric)
    }
}

/// `VmRSS` (proc_pid_status(5)), in bytes: the same number as in `statm`, and in a unit that needs no page size.
fn resident_bytes() -> Option<u64> {
    let mut status = String::new();
    File::open(PROCESS_STATUS).ok()?.take(PROCESS_STATUS_BYTES_MAX).read_to_string(&mut status).ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.strip_suffix("kB")?;
    kilobytes.trim().parse::<u64>().ok()?.checked_mul(1024)
}
