//! Spans of requests, for a collector that speaks OTLP over HTTP (the feature `otel`): a request is a span, and so is each part of its
//! phases. What is measured for the metrics is all that is known; nothing is sent while a request waits for it.
//!
//! Who serves a request only puts it in a queue, which is bounded: what it has no room for, and what the collector does not take, is
//! counted. It does not know how a request is served.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, TraceId};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::runtime::Builder;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::metrics::{Metrics, Outcome};
use crate::cni::request::Command;
use crate::kube::node_name;
use crate::log::warn;
use crate::phase::Phase;
use crate::trace::{Caller, TraceId as OwnId};

/// Requests that wait to be exported: a burst of all pods of a node, twice.
const WAITING_MAX: usize = 1024;
/// Requests that go in one message: some hundred kilobytes.
const BATCH_MAX: usize = 256;
/// How long a request waits for others to go with it.
const BATCH_TIME: Duration = Duration::from_millis(500);
/// Parts of phases that are kept of one request: what is more is in none of its spans.
pub(super) const PARTS_MAX: usize = 512;
/// How long the collector may take for a message.
const EXPORT_TIME: Duration = Duration::from_secs(10);
/// How long what still waits may take when the daemon ends.
const END_TIME: Duration = Duration::from_secs(3);

/// Where the collector is (OpenTelemetry, "OTLP exporter configuration"): one for all signals, or one for traces.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const DISABLED: &str = "OTEL_SDK_DISABLED";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// A part of a phase: when it ended, and what it took.
pub(super) type Part = (Phase, Instant, Duration);

/// A request that is answered.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) trace: OwnId,
    /// Whose span it is a part of.
    pub(super) caller: Option<Caller>,
    pub(super) command: Command,
    pub(super) container: String,
    /// Namespace and name.
    pub(super) pod: Option<(String, String)>,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) outcome: Outcome,
    pub(super) parts: Vec<Part>,
}

enum Message {
    Answered(Box<Answered>),
    /// Nothing comes any more: whoever waits hears when all is exported.
    End(oneshot::Sender<()>),
}

/// See the module.
pub(super) struct Spans {
    queue: Sender<Message>,
    metrics: Arc<Metrics>,
}

impl Spans {
    /// Starts a thread that exports, where the environment names a collector.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(metrics: &Arc<Metrics>) -> io::Result<Option<Spans>> {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some((name, endpoint)) = ENDPOINTS.into_iter().find_map(|name| Some((name, given(name)?))) else {
            return Ok(None);
        };
        if given(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        if !endpoint.starts_with("http://") {
            warn(&format!(
                "{name}={endpoint}: no spans are exported: only http is spoken; name a collector of this node by http://"
            ));
            return Ok(None);
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let counted = Arc::clone(metrics);
        let has_name = given(SERVICE_NAME).is_some();
        let serve = move || runtime.block_on(export(waiting, &counted, has_name));
        thread::Builder::new().name("spans".to_owned()).spawn(serve)?;
        Ok(Some(Spans { queue, metrics: Arc::clone(metrics) }))
    }

    /// Has a request exported, soon. A caller that does not want its trace kept gets none (W3C Trace Context, flag `sampled`).
    pub(super) fn answered(&self, answered: Answered) {
        if answered.caller.is_some_and(|caller| !caller.is_sampled) {
            return;
        }
        let spans = number_of(&answered);
        if let Err(TrySendError::Full(_) | TrySendError::Closed(_)) =
            self.queue.try_send(Message::Answered(Box::new(answered)))
        {
            self.metrics.spans_dropped(spans);
        }
    }

    /// Waits until all is exported, for a while.
    pub(super) async fn end(&self) {
        let (done, ended) = oneshot::channel();
        let all = async {
            if self.queue.send(Message::End(done)).await.is_ok() {
                let _ = ended.await; // it has ended another way
            }
        };
        if timeout(END_TIME, all).await.is_err() {
            warn("not every span is exported: the collector does not take them");
        }
    }
}

fn number_of(answered: &Answered) -> u64 {
    u64::try_from(answered.parts.len()).unwrap_or(u64::MAX).saturating_add(1)
}

async fn export(mut waiting: Receiver<Message>, metrics: &Metrics, has_name: bool) {
    let client = HyperClient::with_default_connector(EXPORT_TIME, None);
    let exporter = SpanExporter::builder().with_http().with_http_client(client);
    let mut exporter = match exporter.with_protocol(Protocol::HttpBinary).with_timeout(EXPORT_TIME).build() {
        Ok(exporter) => exporter,
        // Its queue is closed with this: what comes is counted as dropped.
        Err(why) => return warn(&format!("no spans are exported: {why}; see the variables OTEL_EXPORTER_OTLP_*")),
    };
    exporter.set_resource(&resource(has_name));
    let mut has_failed = false;
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let is_over = next_batch(&mut waiting, &mut batch).await;
        let mut done = None;
        let mut spans = Vec::new();
        for message in batch.drain(..) {
            match message {
                Message::Answered(answered) => spans.extend(spans_of(&answered)),
                Message::End(end) => done = Some(end),
            }
        }
        let number = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        let failed = if spans.is_empty() { None } else { exporter.export(spans).await.err() };
        if let Some(why) = &failed {
            metrics.spans_dropped(number);
            if !has_failed {
                warn(&format!("spans are not exported: {why}; the collector is tried again with the next ones"));
            }
        }
        has_failed = if number == 0 { has_failed } else { failed.is_some() };
        drop(done);
        if is_over {
            return;
        }
    }
}

/// What waits, and what comes soon after the first of it; whether nothing will come any more.
async fn next_batch(waiting: &mut Receiver<Message>, batch: &mut Vec<Message>) -> bool {
    let Some(first) = waiting.recv().await else { return true };
    let mut is_end = matches!(first, Message::End(_));
    batch.push(first);
    let more = async {
        while batch.len() < BATCH_MAX && !is_end {
            let Some(next) = waiting.recv().await else { return };
            is_end = matches!(next, Message::End(_));
            batch.push(next);
        }
    };
    let _ = timeout(BATCH_TIME, more).await; // then it is enough
    false
}

fn resource(has_name: bool) -> Resource {
    let own = (!has_name).then(|| KeyValue::new("service.name", "plexus"));
    let node = node_name().map(|name| KeyValue::new("k8s.node.name", name));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    Resource::builder().with_attributes(own.into_iter().chain(node).chain([version])).build()
}

/// A span of the request, and one of each part of its phases.
fn spans_of(answered: &Answered) -> Vec<SpanData> {
    let (now, clock) = (Instant::now(), SystemTime::now());
    let at = |instant: Instant| clock - now.saturating_duration_since(instant);
    let trace = TraceId::from_bytes(answered.trace.bytes());
    let own = new_id();
    let scope = InstrumentationScope::builder("plexus").with_version(env!("CARGO_PKG_VERSION")).build();
    let span = |name: &'static str, id: SpanId, parent: SpanId, (start_time, end_time)| SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: parent,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time,
        end_time,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: scope.clone(),
    };
    let caller = answered.caller.map_or(SpanId::INVALID, |caller| SpanId::from_bytes(caller.span));
    let mut all = vec![SpanData {
        span_kind: SpanKind::Server,
        parent_span_is_remote: answered.caller.is_some(),
        attributes: attributes(answered),
        status: if answered.outcome == Outcome::Failed { Status::error("") } else { Status::Unset },
        ..span(answered.command.as_str(), own, caller, (at(answered.began), at(answered.ended)))
    }];
    all.extend(answered.parts.iter().map(|(phase, end, taken)| {
        let start = at(*end).checked_sub(*taken).unwrap_or(SystemTime::UNIX_EPOCH);
        span(phase.word(), new_id(), own, (start, at(*end)))
    }));
    all
}

fn attributes(answered: &Answered) -> Vec<KeyValue> {
    let mut all = vec![
        KeyValue::new("plexus.outcome", answered.outcome.word()),
        KeyValue::new("container.id", answered.container.clone()),
    ];
    if let Some((namespace, name)) = &answered.pod {
        all.push(KeyValue::new("k8s.namespace.name", namespace.clone()));
        all.push(KeyValue::new("k8s.pod.name", name.clone()));
    }
    all
}

fn new_id() -> SpanId {
    let [_, _, _, _, _, _, _, _, own @ ..] = OwnId::random().bytes();
    SpanId::from_bytes(own)
}
