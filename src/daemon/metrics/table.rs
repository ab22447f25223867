//! The table of all metrics: what they are registered by, and what the page `docs/metrics.md` is made of. It does not know who
//! counts.

use std::fmt::Write as _;

use prometheus_client::registry::Unit;

use super::labels::{
    ApiOutcome, ApiVerb, Became, Cache, Finding, OTHER, Outcome, Refusal, ShimCode, ShimHandler, ShimMethod,
};
use super::pools::NETWORKS_MAX;
use super::{DELEGATE, PHASE_SECONDS_BUCKETS, REQUEST_SECONDS_BUCKETS, VERBS};
use crate::phase::{Executed, Phase};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// How often, by upper bounds.
    Histogram,
    /// How often, since the daemon's start.
    Counter,
    /// How many, now.
    Gauge,
}

impl Shape {
    /// Its word in the text format.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Histogram => "histogram",
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// Which values a label has.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// These.
    Closed(fn() -> Vec<&'static str>),
    /// A bounded number, in a person's words.
    Bounded(&'static str),
}

/// One metric.
#[derive(Debug)]
pub struct Row {
    /// Its name without unit and without a counter's `_total`.
    pub base: &'static str,
    /// What it is.
    pub shape: Shape,
    /// Its unit, which is the end of its name.
    pub unit: Option<Unit>,
    /// Its labels, with what values they have.
    pub labels: &'static [(&'static str, Values)],
    /// What it counts, without the full stop that a registry adds.
    pub help: &'static str,
}

impl Row {
    /// Its name, as it is asked for.
    #[must_use]
    pub fn name(&self) -> String {
        let unit = self.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let total = if self.shape == Shape::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.base)
    }

    /// [`Row::help`] as a registry writes it, for a metric that is counted only when it is asked for.
    pub(super) fn sentence(&self) -> String {
        format!("{}.", self.help)
    }
}

const VERB: (&str, Values) = ("verb", Values::Closed(|| VERBS.map(|verb| verb.as_str()).to_vec()));
const CACHE: (&str, Values) = ("cache", Values::Closed(|| Cache::ALL.iter().map(|one| one.word()).collect()));
const NETWORK: (&str, Values) = ("network", Values::Bounded("a network's name"));

macro_rules! rows {
    ($($row:ident = $base:literal $shape:ident $unit:expr, [$($label:expr),*], $help:literal;)*) => {
        $(pub(super) static $row: Row = Row {
            base: $base, shape: Shape::$shape, unit: $unit, labels: &[$($label),*], help: $help,
        };)*
        /// All metrics, in the order of the page.
        pub static TABLE: &[&Row] = &[$(&$row),*];
    };
}

rows! {
    REQUEST = "plexus_request" Histogram Some(Unit::Seconds),
        [VERB, ("outcome", Values::Closed(|| Outcome::ALL.iter().map(|one| one.word()).collect()))],
        "From a request's first byte to its answer";
    PHASE = "plexus_phase" Histogram Some(Unit::Seconds),
        [VERB, ("phase", Values::Closed(|| Phase::ALL.map(Phase::word).to_vec()))],
        "What a request spent on one phase, all its attachments together. A link's own addresses are of its phase `link`; `address` is the default route, rules and chained steps";
    ATTACHMENT = "plexus_attachment" Histogram Some(Unit::Seconds),
        [("kind", Values::Closed(|| backends::Kind::ALL.map(backends::Kind::name).into_iter().chain([DELEGATE]).collect()))],
        "One attachment of an ADD, by what built its link; an executed plugin is a delegate";
    REFUSED = "plexus_requests_refused" Counter None,
        [("reason", Values::Closed(|| Refusal::ALL.iter().map(|one| one.word()).collect()))],
        "Requests that were not served, or not to their end";
    UNDER_WAY = "plexus_requests_under_way" Gauge None, [], "Requests that are being served";
    WAITING = "plexus_requests_waiting" Gauge None, [], "Requests that wait for their turn";
    DELEGATES = "plexus_requests_given_back" Counter None,
        [("reason", Values::Closed(|| Executed::ALL.iter().map(|one| one.word()).collect()))],
        "Requests that execute plugins, which plexus-cni then serves itself, by the first reason";
    EXECUTING = "plexus_executions_under_way" Gauge None, [], "Pods for which plexus-cni executes plugins now";
    EXECUTIONS_WAITING = "plexus_executions_waiting" Gauge None, [],
        "Requests that wait because plugins are executed for as many pods as may";
    KERNEL_ERRORS = "plexus_kernel_errors" Counter None, [("errno", Values::Bounded("an errno's name, such as `ENODEV`"))],
        "Links that the kernel refused to make, or to set up, at an ADD; what it refuses to remove is in the log";
    CACHE_HITS = "plexus_cache_hits" Counter None, [CACHE], "Objects that were known when a request asked for them";
    CACHE_MISSES = "plexus_cache_misses" Counter None, [CACHE], "Objects that were not known: each is one live call";
    KNOWN = "plexus_cache_objects" Gauge None, [CACHE], "Objects that are known";
    API = "plexus_api_calls" Counter None,
        [("verb", Values::Closed(|| ApiVerb::ALL.iter().map(|one| one.word()).collect())),
         ("outcome", Values::Closed(|| ApiOutcome::ALL.iter().map(|one| one.word()).collect()))],
        "Calls of the API server for objects and statuses, and watches that ended, each when it is begun again; a `get` may have been several attempts, and its failure is that of the last; events are not counted";
    STATUS_WAITING = "plexus_status_writes_waiting" Gauge None, [], "Pods' statuses that the API server has not got yet";
    STATUS_FAILED = "plexus_status_writes_failed" Counter None, [], "Attempts to write a pod's status that failed";
    LEASES_HELD = "plexus_leases_held" Gauge None, [NETWORK], "Addresses that are held in a network's pools on this node";
    LEASES_FREE = "plexus_leases_free" Gauge None, [NETWORK], "Addresses that a network's pools on this node still have";
    JOURNAL_RECORDS = "plexus_journal_records" Gauge None, [], "Records in the journal";
    JOURNAL = "plexus_journal" Gauge Some(Unit::Bytes), [], "What the journal's records are long, together";
    DEVICE_FAULTS = "plexus_device_faults" Gauge None, [],
        "Faults in what the daemon's configuration, or its `configFile`, says of devices: there are resources that are not offered, and the log says which";
    FINDINGS = "plexus_reconcile_findings" Counter None,
        [("what", Values::Closed(|| Finding::ALL.iter().map(|one| one.word()).collect())),
         ("became", Values::Closed(|| Became::ALL.iter().map(|one| one.word()).collect()))],
        "Where journal, kernel, leases and sandboxes did not agree";
    SPANS_DROPPED = "plexus_spans_dropped" Counter None, [],
        "Spans that no collector got: too many waited, or it did not take them. Without the feature `otel` there are none";
    SHIM = "multus_server_request" Counter None,
        [("handler", Values::Closed(|| ShimHandler::ALL.iter().map(|one| one.word()).collect())),
         ("code", Values::Closed(|| ShimCode::ALL.iter().map(|one| one.word()).collect())),
         ("method", Values::Closed(|| ShimMethod::ALL.iter().map(|one| one.word()).collect()))],
        "Answers on the socket of Multus' shim (`--compat-socket-dir`), under the name and labels of Multus' own daemon: a dashboard made for that shows them";
    MEMORY = "process_resident_memory" Gauge Some(Unit::Bytes), [], "The daemon's memory, as the kernel counts it";
}

const TOP: &str = "# The metrics of plexus

Made of the table in `src/daemon/metrics/table.rs`; a test fails when it is not what that says. To write it anew:

```sh
PLEXUS_WRITE_DOCS=1 cargo test --test tidy -- metrics
```

The daemon answers on a Unix socket that only root may open, or on an address of the loopback interface:

```sh
curl --unix-socket /run/plexus/metrics.sock http://plexus/metrics
```

`--metrics 127.0.0.1:9090` puts it there, `--metrics off` nowhere; an address that others can reach needs `--metrics-anywhere`.
`/metrics` is OpenMetrics text. `/healthz` is 200 while the daemon's loop and the thread that asks the API server turn. `/readyz` is
200 when ADD can be served, else 503 with one line for each thing that is not ready. While the API server is away after it has answered once, it
stays 200 and says so: pods are attached by what was known last, and STATUS succeeds, so that an outage of the server is none of the node's network.
";

/// The page.
#[must_use]
pub fn page() -> String {
    let mut page = TOP.to_owned();
    page.push_str("\n## Metrics\n\n| name | type | labels | what it counts |\n| --- | --- | --- | --- |\n");
    for row in TABLE {
        let labels: Vec<String> = row.labels.iter().map(|(name, _)| format!("`{name}`")).collect();
        let (name, shape) = (row.name(), row.shape.word());
        let _ = writeln!(page, "| `{name}` | {shape} | {} | {}. |", labels.join(", "), row.help); // a String takes everything
    }
    page.push_str("\n## Labels\n\nNo value comes from a request, except networks' names.\n\n");
    page.push_str("| metric | label | values |\n| --- | --- | --- |\n");
    for row in TABLE {
        for (label, values) in row.labels {
            let values = match values {
                Values::Closed(words) => words().iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" "),
                Values::Bounded(words) => (*words).to_owned(),
            };
            let _ = writeln!(page, "| `{}` | `{label}` | {values} |", row.name());
        }
    }
    let _ = write!(
        page,
        "\nThe first {NETWORKS_MAX} networks by name have series of their own; the others together are `{OTHER}`, and so are errors of the \
         kernel that have no name.\n\n## Buckets\n\nUpper bounds in seconds.\n\n- `{}`, `{}`: {}\n- `{}`: {}\n",
        REQUEST.name(),
        ATTACHMENT.name(),
        bounds(&REQUEST_SECONDS_BUCKETS),
        PHASE.name(),
        bounds(&PHASE_SECONDS_BUCKETS),
    );
    page
}

fn bounds(buckets: &[f64]) -> String {
    buckets.iter().map(f64::to_string).collect::<Vec<_>>().join(" ")
}
