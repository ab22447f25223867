//! The front before the real server, in the network namespace of a case: it ends TLS, counts requests, and fails those that
//! it was told to. It knows HTTP and nothing of what is asked.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::socket::sockopt::ReuseAddr;
use nix::sys::socket::{
    self, AddressFamily, Backlog, Shutdown, SockFlag, SockProtocol, SockType, SockaddrIn, bind, getsockname,
    setsockopt, shutdown,
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::fault::{Door, Fault, Rule, Seen, reason};
use super::upstream::{Body, Upstream, provider};
use super::verify::Anybody;

/// What clients and the front call HTTP/2 when they agree on it.
const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// What the case tells the front, and what it wants to know of it.
#[derive(Default)]
pub(crate) struct Orders {
    pub(crate) rules: Vec<Rule>,
    pub(crate) revoked: BTreeSet<String>,
    pub(crate) seen: Vec<Seen>,
}

/// A front that runs in a thread of its own. It ends when this is dropped.
pub(crate) struct Front {
    doors: UnboundedSender<(Door, mpsc::Sender<SocketAddr>)>,
    /// Where it listens, whether or not anybody does at the moment.
    pub(crate) address: SocketAddr,
    pub(crate) orders: Arc<Mutex<Orders>>,
    /// For requests of the case's own.
    pub(crate) runtime: Handle,
}

impl Front {
    /// Listens in the network namespace of the calling thread.
    pub(crate) fn open(upstream: Upstream) -> Self {
        let (doors, incoming) = unbounded_channel();
        let (tell, told) = mpsc::channel();
        let orders = Arc::<Mutex<Orders>>::default();
        let shared = Arc::clone(&orders);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tell.send(runtime.handle().clone()).unwrap();
            runtime.block_on(keep_doors(incoming, upstream, shared));
        });
        let mut front = Self { doors, address: (Ipv4Addr::LOCALHOST, 0).into(), orders, runtime: told.recv().unwrap() };
        front.address = front.set(Door::Open);
        front
    }

    /// Changes how connections are taken, on the same port; those that are open end. It is so when this returns.
    pub(crate) fn set(&self, door: Door) -> SocketAddr {
        let (tell, told) = mpsc::channel();
        assert!(self.doors.send((door, tell)).is_ok(), "the front has ended");
        told.recv().expect("the front has ended")
    }
}

async fn keep_doors(
    mut doors: UnboundedReceiver<(Door, mpsc::Sender<SocketAddr>)>,
    upstream: Upstream,
    orders: Arc<Mutex<Orders>>,
) {
    let socket = held();
    let address = SocketAddr::from(getsockname::<SockaddrIn>(socket.as_raw_fd()).map(SocketAddrV4::from).unwrap());
    let mut listening: Option<tokio::task::JoinHandle<()>> = None;
    while let Some((door, told)) = doors.recv().await {
        if let Some(task) = listening.take() {
            task.abort();
            // With it go its connections.
            drop(task.await);
            shutdown(socket.as_raw_fd(), Shutdown::Read).unwrap();
        }
        if door != Door::Refused {
            socket::listen(&socket, Backlog::MAXALLOWABLE).unwrap();
            let listener = TcpListener::from_std(std::net::TcpListener::from(socket.try_clone().unwrap())).unwrap();
            let connection = Arc::new(Connections::new(door, upstream.clone(), Arc::clone(&orders)));
            listening = Some(tokio::spawn(listen(listener, connection)));
        }
        told.send(address).ok();
    }
}

/// A port that stays the front's, whether or not it listens. A listener that is closed is not gone where a program is being executed
/// at that moment: until it runs it has a copy, and nobody else may listen at its address. One that is shut down listens no more,
/// whoever has it, keeps its port where that was bound by number, and can listen again (Linux, `inet_shutdown`).
fn held() -> OwnedFd {
    let bound = |address: SockaddrIn| {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(AddressFamily::Inet, SockType::Stream, flags, SockProtocol::Tcp).unwrap();
        setsockopt(&socket, ReuseAddr, &true).unwrap();
        bind(socket.as_raw_fd(), &address).unwrap();
        socket
    };
    // It has a port that nobody has, until the other has it by its number.
    let first = bound(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into());
    bound(getsockname(first.as_raw_fd()).unwrap())
}

async fn listen(listener: TcpListener, connections: Arc<Connections>) {
    let mut open = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        open.spawn(Arc::clone(&connections).serve(stream));
        while open.try_join_next().is_some() {}
    }
}

/// What all connections through one door share.
struct Connections {
    door: Door,
    tls: TlsAcceptor,
    upstream: Upstream,
    orders: Arc<Mutex<Orders>>,
}

/// What belongs to one connection of a client.
#[derive(Default)]
struct Beyond {
    /// Connections to the real server, made by requests that find none free.
    connections: Mutex<Vec<SendRequest<Body>>>,
    /// The connection of the client ends at once.
    broken: Arc<Notify>,
}

impl Connections {
    fn new(door: Door, upstream: Upstream, orders: Arc<Mutex<Orders>>) -> Self {
        let (chain, key) = upstream.identity(if door == Door::Expired { "server-expired" } else { "server" });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(Arc::new(Anybody(provider())))
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = match door {
            Door::Endless(_, false) => vec![HTTP_1.to_vec()],
            _ => vec![HTTP_2.to_vec(), HTTP_1.to_vec()],
        };
        Self { door, tls: TlsAcceptor::from(Arc::new(config)), upstream, orders }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        if self.door == Door::Silent {
            pending::<Infallible>().await;
        }
        if self.door == Door::Through {
            return self.upstream.pass_through(stream).await;
        }
        // A client that refuses the certificate says so, and goes.
        let Ok(stream) = self.tls.accept(stream).await else { return };
        if let Door::Endless(what, is_http_2) = self.door {
            return what.answer(stream, is_http_2).await;
        }
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let client = shown.and_then(|certificate| self.upstream.name_of(certificate));
        let beyond = Arc::<Beyond>::default();
        let service = service_fn(|request| Arc::clone(&self).answer(request, client, Arc::clone(&beyond)));
        let is_http_2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
        let stream = TokioIo::new(stream);
        // The end of a connection is the client's business.
        let served = async {
            if is_http_2 {
                drop(http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await);
            } else {
                drop(http1::Builder::new().serve_connection(stream, service).await);
            }
        };
        tokio::select! {
            () = served => {}
            () = beyond.broken.notified() => {}
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Option<&'static str>,
        beyond: Arc<Beyond>,
    ) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
        let fault = self.meet(&request);
        match &fault {
            Some(Fault::Status(code)) => return Ok(status(*code)),
            Some(Fault::Answer(code, text)) => return Ok(said(*code, text.clone())),
            Some(Fault::Hang) => pending().await,
            Some(Fault::Slow(duration)) => tokio::time::sleep(*duration).await,
            // In another thread: what is done may ask the server, through this runtime.
            Some(Fault::First(act)) => {
                let act = Arc::clone(act);
                tokio::task::spawn_blocking(move || act()).await?;
            }
            Some(Fault::Cut | Fault::Lost) | None => {}
        }
        let response = self.pass_on(request, client, &beyond).await?;
        match fault {
            Some(Fault::Lost) => {
                beyond.broken.notify_one();
                pending().await
            }
            Some(Fault::Cut) => {
                let (head, body) = response.into_parts();
                let whole = body.collect().await?.to_bytes();
                Ok(Response::from_parts(head, Cut { whole, polled: 0, broken: Arc::clone(&beyond.broken) }.boxed()))
            }
            _ => Ok(response),
        }
    }

    /// Notes the request, and finds out what becomes of it.
    fn meet(&self, request: &Request<Incoming>) -> Option<Fault> {
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        let seen = Seen { method: request.method().to_string(), path: path.to_owned() };
        let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let mut orders = self.orders.lock().unwrap();
        orders.seen.push(seen.clone());
        if token.is_some_and(|token| orders.revoked.contains(token)) {
            return Some(Fault::Status(401));
        }
        let rule = orders.rules.iter_mut().find(|rule| rule.meets(&seen))?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    async fn pass_on(
        &self,
        request: Request<Incoming>,
        client: Option<&str>,
        beyond: &Beyond,
    ) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
        let free = beyond.connections.lock().unwrap().extract_if(.., |sender| sender.is_ready()).next();
        let mut sender = match free {
            Some(sender) => sender,
            None => self.upstream.connect(client).await?,
        };
        let (mut head, body) = request.into_parts();
        // Towards the server it is HTTP/1.1, which names the host in a header and not in the path.
        head.version = Version::HTTP_11;
        head.headers.insert(HOST, HeaderValue::from_static("localhost"));
        head.uri = head.uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
        let request = Request::from_parts(head, body.map_err(Into::into).boxed());
        let mut response = sender.send_request(request).await?;
        beyond.connections.lock().unwrap().push(sender);
        // Of one connection, not of the whole way: HTTP/2 has none of these.
        for name in [CONNECTION, TRANSFER_ENCODING] {
            response.headers_mut().remove(name);
        }
        *response.version_mut() = Version::default();
        Ok(response.map(|body| body.map_err(Into::into).boxed()))
    }
}

/// A failure in the words of an API server.
fn status(code: u16) -> Response<Body> {
    let text = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("the front says {code}"), "reason": reason(code), "code": code});
    said(code, text.to_string())
}

/// An answer that claims to be an object, whatever it is.
fn said(code: u16, text: String) -> Response<Body> {
    let body = Full::from(text).map_err(|never| match never {}).boxed();
    Response::builder().status(code).header(CONTENT_TYPE, "application/json").body(body).unwrap()
}

/// A body of which half arrives.
struct Cut {
    whole: Bytes,
    polled: u8,
    broken: Arc<Notify>,
}

impl hyper::body::Body for Cut {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        waker: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.polled += 1;
        match self.polled {
            1 => Poll::Ready(Some(Ok(Frame::data(self.whole.slice(..self.whole.len() / 2))))),
            // While hyper has nothing more to write, it sends what it has.
            2 => {
                waker.waker().wake_by_ref();
                Poll::Pending
            }
            _ => {
                self.broken.notify_one();
                Poll::Pending
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.whole.len().try_into().unwrap())
    }
}
