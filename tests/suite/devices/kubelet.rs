//! A kubelet's socket for pod resources, as far as its clients see it: gRPC over HTTP/2 with messages made by hand from the .proto
//! (k8s.io/kubelet pkg/apis/podresources/v1), in whatever state a kubelet can be. It knows no client.

use std::convert::Infallible;
use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};

/// gRPC's status codes (doc/statuscodes.md of grpc).
pub(super) const UNKNOWN: u32 = 2;
pub(super) const UNIMPLEMENTED: u32 = 12;
pub(super) const UNAVAILABLE: u32 = 14;

/// A field that is longer than all there is.
const GARBAGE: [u8; 7] = [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x01];

/// How it is today.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// Both calls are served.
    Well,
    /// Only List is; this is said of Get.
    OnlyList(u32, &'static str),
    /// Both are answered with this failure.
    Failing(u32, &'static str),
    /// Calls are taken and never answered.
    Hanging,
    /// Answers are no messages.
    Garbage,
    /// Only List is; other pods before ours have so many bytes of devices in all.
    Crowded(usize),
    /// Only List is; another pod before ours has so many bytes of containers that have nothing, two bytes each.
    Hollow(usize),
    /// Get is answered with what is said to be compressed, and List is not served.
    OddGet,
}

/// A pod with its devices: name, and pairs of resource and ids.
pub(super) type Pod<'a> = (&'a str, &'a [(&'a str, &'a [&'a str])]);

/// See the module.
pub(super) struct Kubelet {
    seen: Arc<Mutex<Vec<String>>>,
}

struct Answers {
    state: State,
    namespace: String,
    /// One message each.
    pods: Vec<(String, Vec<u8>)>,
}

impl Kubelet {
    /// Serves below the kubelet's directory, until the case ends.
    pub(super) fn serve(directory: &Path, state: State, namespace: &str, pods: &[Pod]) -> Self {
        let socket = directory.join("pod-resources/kubelet.sock");
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        drop(std::fs::remove_file(&socket));
        let pods = pods.iter().map(|pod| (pod.0.to_owned(), message_of(namespace, pod))).collect();
        let answers = Arc::new(Answers { state, namespace: namespace.to_owned(), pods });
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let (log, (tell, told)) = (Arc::clone(&seen), mpsc::channel());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::bind(socket).unwrap();
                tell.send(()).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(converse(stream, Arc::clone(&answers), Arc::clone(&log)));
                }
            });
        });
        told.recv().unwrap();
        Self { seen }
    }

    /// Takes the calls since the last time.
    pub(super) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn converse(stream: UnixStream, answers: Arc<Answers>, log: Arc<Mutex<Vec<String>>>) {
    let service = service_fn(|request: Request<Incoming>| {
        let (answers, log) = (Arc::clone(&answers), Arc::clone(&log));
        async move {
            let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
            assert_eq!(request.uri().path(), format!("/v1.PodResourcesLister/{method}"));
            assert_eq!(request.uri().authority().unwrap().as_str(), "localhost", "what the kubelet's server expects");
            log.lock().unwrap().push(method.clone());
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            // Five bytes before a message: not compressed, and its length.
            Ok::<_, Infallible>(answers.answer(&method, asked.get(5..).unwrap()).await)
        }
    });
    // The end of a connection is the client's business.
    drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
}

impl Answers {
    async fn answer(&self, method: &str, asked: &[u8]) -> Response<BoxBody<Bytes, Infallible>> {
        match (&self.state, method) {
            (State::Hanging, _) => pending().await,
            (State::Failing(code, text), _) | (State::OnlyList(code, text), "Get") => failure(*code, text),
            (State::Garbage, _) => success(&GARBAGE),
            (State::OddGet, "Get") => framed(1, &[]),
            (State::OddGet, _) => failure(UNIMPLEMENTED, "Method not found"),
            (State::Crowded(_) | State::Hollow(_), "Get") => failure(UNIMPLEMENTED, "unknown method"),
            (_, "Get") => match self.pods.iter().find(|(name, _)| *asked == request_for(name, &self.namespace)) {
                Some((_, pod)) => success(&field(1, pod)),
                None => failure(UNKNOWN, "pod not found"),
            },
            (state, _) => {
                let mut list = Vec::new();
                if let State::Crowded(bytes) = state {
                    let id = "x".repeat(200);
                    let ids: Vec<&str> = (0..100).map(|_| id.as_str()).collect();
                    let pod = field(1, &message_of("others", &("crowd", &[("a/vf", &ids)])));
                    list = pod.repeat(bytes / pod.len() + 1);
                }
                if let State::Hollow(bytes) = state {
                    let containers = field(3, &[]).repeat(bytes / 2);
                    list = field(1, &[message_of("others", &("crowd", &[])), containers].concat());
                }
                list.extend(self.pods.iter().flat_map(|(_, pod)| field(1, pod)));
                success(&list)
            }
        }
    }
}

/// GetPodResourcesRequest.
fn request_for(name: &str, namespace: &str) -> Vec<u8> {
    [field(1, name.as_bytes()), field(2, namespace.as_bytes())].concat()
}

fn message_of(namespace: &str, (name, devices): &Pod) -> Vec<u8> {
    let one = |(resource, ids): &(&str, &[&str])| {
        let ids = ids.iter().flat_map(|id| field(2, id.as_bytes()));
        let devices: Vec<u8> = field(1, resource.as_bytes()).into_iter().chain(ids).collect();
        field(2, &devices)
    };
    // Field 3, processors, is in every answer, and read by nobody here.
    let processors = field(3, &[0, 1, 2]);
    let container: Vec<u8> =
        [field(1, b"main"), processors].concat().into_iter().chain(devices.iter().flat_map(one)).collect();
    [field(1, name.as_bytes()), field(2, namespace.as_bytes()), field(3, &container)].concat()
}

/// A field of bytes (Protocol Buffers, "Encoding": wire type 2).
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = vec![number << 3 | 2];
    let mut left = bytes.len();
    while left >= 0x80 {
        encoded.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
        left >>= 7;
    }
    encoded.push(u8::try_from(left).unwrap());
    encoded.extend(bytes);
    encoded
}

/// One message, and trailers (gRPC over HTTP/2).
fn success(message: &[u8]) -> Response<BoxBody<Bytes, Infallible>> {
    framed(0, message)
}

fn framed(compression: u8, message: &[u8]) -> Response<BoxBody<Bytes, Infallible>> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed: Vec<u8> = [&[compression], length.as_slice(), message].concat();
    let body = Full::new(Bytes::from(framed)).with_trailers(async { Some(Ok(status(0, ""))) });
    with_type(Response::new(body.boxed()))
}

fn failure(code: u32, text: &str) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = with_type(Response::new(Full::new(Bytes::new()).boxed()));
    response.headers_mut().extend(status(code, text));
    response
}

fn status(code: u32, text: &str) -> HeaderMap {
    let value = |text: &str| HeaderValue::from_str(text).unwrap();
    HeaderMap::from_iter([
        ("grpc-status".parse().unwrap(), value(&code.to_string())),
        ("grpc-message".parse().unwrap(), value(text)),
    ])
}

fn with_type(mut response: Response<BoxBody<Bytes, Infallible>>) -> Response<BoxBody<Bytes, Infallible>> {
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
