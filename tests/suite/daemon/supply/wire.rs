//! gRPC over Unix sockets as a kubelet speaks it: what it serves, and what it asks. Written from the protocol (gRPC over HTTP/2) and
//! from the kubelet's .proto files; it knows no plugin. The cases with a real card (tests/sriov) speak by it too.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Registration {
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    #[prost(string, tag = "2")]
    pub(crate) endpoint: String,
    #[prost(string, tag = "3")]
    pub(crate) resource: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Devices {
    #[prost(message, repeated, tag = "1")]
    pub(crate) devices: Vec<Device>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Device {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) health: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) topology: Option<Topology>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Topology {
    #[prost(message, repeated, tag = "1")]
    pub(crate) nodes: Vec<Numa>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Numa {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
}

/// AllocateRequest and the containers in it: each a list of ids.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Ask {
    #[prost(message, repeated, tag = "1")]
    pub(crate) containers: Vec<Ids>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Ids {
    #[prost(string, repeated, tag = "1")]
    pub(crate) ids: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Given {
    #[prost(message, repeated, tag = "1")]
    pub(crate) containers: Vec<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Container {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) envs: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) nodes: Vec<Node>,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Node {
    #[prost(string, tag = "1")]
    pub(crate) inside: String,
    #[prost(string, tag = "2")]
    pub(crate) host: String,
    #[prost(string, tag = "3")]
    pub(crate) permissions: String,
}

/// What is said to a call: its path and its message.
type Answers = Arc<dyn Fn(&str, &[u8]) -> Vec<u8> + Send + Sync>;

/// A server at a socket, for as long as this lives.
pub(crate) struct Server {
    alive: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn at(socket: &Path, answers: impl Fn(&str, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Server {
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        drop(std::fs::remove_file(socket));
        let (answers, socket): (Answers, _) = (Arc::new(answers), socket.to_owned());
        let ((tell, told), (alive, ended)) = (mpsc::channel(), oneshot::channel::<()>());
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let listener = UnixListener::bind(socket).unwrap();
                tell.send(()).unwrap();
                let serve = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        tokio::spawn(converse(stream, Arc::clone(&answers)));
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = ended => {}
                }
            });
        });
        told.recv().unwrap();
        Server { alive: Some(alive), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.alive.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn converse(stream: UnixStream, answers: Answers) {
    let service = service_fn(|request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        async move {
            assert_eq!(request.uri().authority().unwrap().as_str(), "localhost", "what the kubelet's server expects");
            let path = request.uri().path().to_owned();
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            let answer = answers(&path, asked.get(5..).unwrap());
            let ok = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
            let body = Full::new(framed(&answer)).with_trailers(async { Some(Ok::<_, Infallible>(ok)) });
            let mut response = Response::new(body);
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            Ok::<_, Infallible>(response)
        }
    });
    // The end of a connection is the client's business.
    drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
}

/// Five bytes before a message: not compressed, and its length.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), message].concat().into()
}

/// Who asks at a socket, as the kubelet does.
pub(crate) struct Client {
    runtime: Runtime,
    send: SendRequest<Full<Bytes>>,
}

impl Client {
    pub(crate) fn at(socket: &Path) -> Client {
        let runtime = runtime();
        let send = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await.unwrap();
            let (send, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            send
        });
        Client { runtime, send }
    }

    fn begin(&mut self, method: &str, message: &[u8]) -> Response<Incoming> {
        let request = Request::post(format!("http://localhost/v1beta1.DevicePlugin/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(framed(message)))
            .unwrap();
        let response = self.runtime.block_on(async { timeout(LIMIT, self.send.send_request(request)).await });
        response.unwrap().unwrap()
    }

    /// One answer, or gRPC's code with what is said to it.
    pub(crate) fn ask<T: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<T, (String, String)> {
        let response = self.begin(method, &message.encode_to_vec());
        let headers = response.headers().clone();
        let body =
            self.runtime.block_on(async { timeout(LIMIT, response.into_body().collect()).await }).unwrap().unwrap();
        let trailers = body.trailers().cloned().unwrap_or(headers);
        let said = |name: &str| trailers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        match said("grpc-status").as_str() {
            "0" => Ok(T::decode(body.to_bytes().slice(5..)).unwrap()),
            code => Err((code.to_owned(), said("grpc-message"))),
        }
    }

    /// What there is, and what becomes of it.
    pub(crate) fn watch(mut self) -> Watch {
        let response = self.begin("ListAndWatch", &[]);
        Watch { body: response.into_body(), buffer: Vec::new(), client: self }
    }
}

/// An answer without an end.
pub(crate) struct Watch {
    client: Client,
    body: Incoming,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next list; none: it has ended.
    pub(crate) fn next(&mut self) -> Option<Devices> {
        loop {
            if let Some(length) = self.buffer.get(1..5) {
                let end = 5 + usize::try_from(u32::from_be_bytes(length.try_into().unwrap())).unwrap();
                if let Some(message) = self.buffer.get(5..end) {
                    let devices = Devices::decode(message).unwrap();
                    self.buffer.drain(..end);
                    return Some(devices);
                }
            }
            let frame = self.client.runtime.block_on(async { timeout(LIMIT, self.body.frame()).await }).unwrap()?;
            let Ok(frame) = frame else { return None };
            self.buffer.extend(frame.into_data().unwrap_or_default());
        }
    }

    /// The next list whose devices are healthy as `healthy` says, in the order of their addresses.
    pub(crate) fn until_healthy(&mut self, healthy: &[bool]) {
        loop {
            let list = self.next().unwrap();
            let found: Vec<bool> = list.devices.iter().map(|device| device.health == "Healthy").collect();
            if found == healthy {
                return;
            }
        }
    }
}
