//! Spans of the daemon's requests, as a collector gets them: a server that reads OTLP's protobuf by the numbers of its fields. It knows
//! nothing of what sends them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message;
use serde_json::json;

use crate::case::Case;
use crate::meta::{Node, node};
use crate::need::Need;
use crate::observe::{self, Daemon};

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::Otel];
    vec![
        Case::new("traces::a_request_is_a_span_with_its_phases", needs, spans),
        Case::new("traces::what_no_collector_takes_is_counted", needs, dropped),
    ]
}

const DIR: &str = "/run/plexus";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const LIMIT: Duration = Duration::from_secs(30);

/// What is read of opentelemetry/proto/trace/v1/trace.proto and its neighbours.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Text>,
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn texts(attributes: &[Attribute]) -> BTreeSet<String> {
    let text = |one: &Attribute| format!("{}={}", one.key, one.value.clone().unwrap_or_default().text);
    attributes.iter().map(text).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector, which answers everything with `status`.
struct Collector {
    address: String,
    got: Arc<Mutex<Vec<Export>>>,
}

impl Collector {
    fn listen(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let got = Arc::<Mutex<Vec<Export>>>::default();
        let kept = Arc::clone(&got);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || answer_all(stream.unwrap(), status, &kept));
            }
        });
        Self { address, got }
    }

    fn spans(&self) -> Vec<Span> {
        let got = self.got.lock().unwrap();
        let scopes = got.iter().flat_map(|export| &export.resource_spans).flat_map(|all| &all.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// The spans of requests of a command, once there are so many.
    fn requests(&self, command: &str, number: usize) -> Vec<Span> {
        let begin = Instant::now();
        loop {
            let found: Vec<Span> = self.spans().into_iter().filter(|span| span.name == command).collect();
            if found.len() >= number {
                return found;
            }
            assert!(begin.elapsed() < LIMIT, "{} of {number} {command}: {:?}", found.len(), self.spans());
            std::thread::yield_now();
        }
    }
}

fn answer_all(mut stream: TcpStream, status: &str, kept: &Mutex<Vec<Export>>) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk).unwrap_or(0);
        if read == 0 {
            return;
        }
        bytes.extend(&chunk[..read]);
        let Some(head_end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let end = head_end + 4 + length.parse::<usize>().unwrap();
        if bytes.len() < end {
            continue;
        }
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf"), "{head}");
        kept.lock().unwrap().push(Export::decode(&bytes[head_end + 4..end]).unwrap());
        bytes.drain(..end);
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
    }
}

/// A daemon that exports there; it ends with the case.
fn exporting(address: &str) -> Daemon {
    let endpoint = format!("http://{address}");
    Daemon::start_with(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("NODE_NAME", "node-1")])
}

fn asking() -> Node {
    let mut node = node();
    node.bed.ip("link set lo up");
    node.conf["daemonSocketDir"] = json!(DIR);
    node.conf["fallback"] = json!("fail");
    node
}

fn spans() {
    let node = asking();
    let collector = Collector::listen("200 OK");
    let mut daemon = exporting(&collector.address);
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue,green")]);
    let call = |command: &str, flags: &str| {
        let traceparent = format!("00-{TRACE}-{PARENT}-{flags}");
        node.call(command, "a").env("TRACEPARENT", traceparent).run().ok();
    };
    call("ADD", "01");
    let added = collector.requests("ADD", 1).remove(0);
    assert_eq!((hex(&added.trace), hex(&added.parent)), (TRACE.to_owned(), PARENT.to_owned()));
    let told = texts(&added.attributes);
    for text in ["plexus.outcome=done", "container.id=id-a", "k8s.namespace.name=default", "k8s.pod.name=a"] {
        assert!(told.contains(text), "{text}: {told:?}");
    }
    let parts: Vec<Span> = collector.spans().into_iter().filter(|span| span.parent == added.id).collect();
    let names: BTreeSet<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["queue", "pod", "plan", "journal", "lease", "link", "address", "status"]));
    assert!(parts.iter().filter(|part| part.name == "link").count() >= 3, "one of each attachment: {parts:?}");
    assert!(parts.iter().all(|part| part.trace == added.trace && part.start <= part.end && part.end <= added.end));
    let ids: BTreeSet<&Vec<u8>> = parts.iter().map(|part| &part.id).chain([&added.id]).collect();
    assert_eq!(ids.len(), parts.len() + 1, "each has its own id");
    let resource = collector.got.lock().unwrap()[0].resource_spans[0].resource.clone().unwrap();
    let told = texts(&resource.attributes);
    assert!(told.contains("service.name=plexus") && told.contains("k8s.node.name=node-1"), "{told:?}");
    // Nobody keeps this one.
    call("DEL", "00");
    // And these are of nobody's trace; the last one is exported by a daemon that ends.
    node.call("ADD", "a").run().ok();
    node.call("DEL", "a").run().ok();
    daemon.end();
    let deleted = collector.requests("DEL", 1);
    assert_eq!(deleted.len(), 1, "the one that somebody keeps");
    assert!(hex(&deleted[0].trace) != TRACE && deleted[0].parent.is_empty(), "{deleted:?}");
    assert_eq!(collector.requests("ADD", 2).len(), 2);
}

fn dropped() {
    let node = asking();
    let collector = Collector::listen("400 Bad Request");
    let _daemon = exporting(&collector.address);
    observe::has("plexus_spans_dropped_total 0");
    node.add("a", "");
    collector.requests("ADD", 1);
    observe::has(&format!("plexus_spans_dropped_total {}", collector.spans().len()));
}
