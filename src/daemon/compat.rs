//! Multus' shim protocol: HTTP/1.1 on a Unix socket of root's, one request a connection, as `multus-shim` and
//! multus-dynamic-networks-controller send it (multus-cni 4.2.4, pkg/server/api). What arrives becomes a [`Call`] as any other.
//!
//! It does not know how a call is served.

mod request;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value};
use tokio::net::UnixStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};

use super::Event;
use super::listen::{self, ANSWER_TIME, Ears, FRAME_TIME, Room};
use super::metrics::{Refusal, ShimCode, ShimHandler, ShimMethod};
use super::work::{Back, Call};
use crate::cni::error::{CniError, Code};
use crate::log::warn;
use crate::wire::Answer;
pub(super) use request::{Asked, Overlay};

/// The socket's name, in the folder that a shim's `daemonSocketDir` names.
pub const SOCKET: &str = "multus.sock";
/// The largest request, in bytes: the largest standard input as base64, and an environment beside it.
pub const BODY_BYTES_MAX: usize = 12 << 20;
/// Bytes of a request's head, which is hyper's least.
const HEAD_BYTES_MAX: usize = 8192;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// After an answer is on its way, how long a worker waits to hear that it arrived: more than that takes.
const TOLD_TIME: Duration = ANSWER_TIME.saturating_mul(2);

/// Where it is, and what holds there.
#[derive(Clone, Debug)]
pub struct Compat {
    /// Its path.
    pub(super) socket: PathBuf,
    /// Keys of a network configuration that hold over those that are sent.
    own: Map<String, Value>,
}

impl Compat {
    /// In `dir`. `own`: the keys of the node's `daemon-config.json` that are a network configuration's.
    pub fn new(dir: &Path, own: Map<String, Value>) -> Compat {
        Compat { socket: dir.join(SOCKET), own }
    }

    /// `kubeconfig`: the daemon's, where it was told one.
    pub(super) fn overlay(&self, kubeconfig: Option<&Path>) -> Overlay {
        Overlay::new(self.own.clone(), kubeconfig)
    }
}

/// The way back to who asked.
#[derive(Debug)]
pub(super) struct Reply {
    said: oneshot::Sender<Said>,
    /// Whether it arrived; closed without a word where it did not.
    told: Receiver<()>,
}

type Said = Response<Full<Bytes>>;

impl Reply {
    /// Answers, and waits until that is written: not for the loop's thread, which writes it.
    ///
    /// # Errors
    /// Who asked has gone.
    pub(super) fn answer(self, answer: &Answer) -> io::Result<()> {
        self.said.send(said(answer)).map_err(|_| io::Error::from(ErrorKind::BrokenPipe))?;
        self.told.recv_timeout(TOLD_TIME).map_err(|_| ErrorKind::BrokenPipe.into())
    }

    /// Answers where nothing depends on whether it is heard.
    pub(super) fn tell(self, answer: &Answer) {
        let _ = self.said.send(said(answer)); // who has gone needs none
    }
}

/// What a frame without a command is answered with: here it is no person who asks.
pub(super) fn no_command() -> CniError {
    CniError::new(Code::InvalidEnvironment, "unexpected or missing CNI_COMMAND")
}

/// A result as the shim takes it: it is in the newest version, and the shim makes its caller's of it.
fn said(answer: &Answer) -> Said {
    match answer {
        Answer::Result(result) if result.is_empty() => Response::new(Full::default()),
        Answer::Result(result) => json(StatusCode::OK, [br#"{"Result":"#, result.as_slice(), b"}"].concat()),
        Answer::Error(error) => json(StatusCode::BAD_REQUEST, error.clone()),
        Answer::Yours(_) => {
            text(StatusCode::BAD_REQUEST, "this request was given back to somebody who cannot serve it")
        }
    }
}

fn json(status: StatusCode, bytes: Vec<u8>) -> Said {
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, text: &str) -> Said {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// What one connection has, each for its one request.
struct Turn {
    place: Option<OwnedSemaphorePermit>,
    /// Told when somebody who waits is to have the place; gone with it.
    gives_way: Option<oneshot::Receiver<()>>,
    told: Option<Receiver<()>>,
}

/// Until the place is to be another's.
async fn gives_way(turn: &Mutex<Turn>) {
    poll_fn(|context| {
        let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        match turn.gives_way.as_mut().map(|told| Pin::new(told).poll(context)) {
            Some(Poll::Ready(Ok(()))) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}

/// One connection, to its end. `place`: kept until its request is with the loop, or there will be none, or somebody else is to
/// have it.
pub(super) async fn converse(
    stream: UnixStream,
    ears: Ears,
    overlay: Arc<Overlay>,
    (place, silenced): (OwnedSemaphorePermit, oneshot::Receiver<()>),
) {
    if let Err(error) = listen::admit(&stream) {
        ears.metrics.refused(Refusal::Frame);
        warn(&format!("a connection without a request: {error}"));
        return;
    }
    let (tell, told) = sync_channel(1);
    let turn = Mutex::new(Turn { place: Some(place), gives_way: Some(silenced), told: Some(told) });
    let answered = Notify::new();
    let service = service_fn(|request: Request<Incoming>| {
        let (turn, answered, ears, overlay) = (&turn, &answered, &ears, &overlay);
        async move {
            let said = served(request, turn, ears, overlay).await;
            answered.notify_one();
            Ok::<_, Infallible>(said)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(FRAME_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let too_slow = async {
        answered.notified().await;
        sleep(ANSWER_TIME).await;
    };
    // What goes wrong on a connection is its client's: it gets hyper's 400 or 431, or has gone, or was too slow.
    let is_written = tokio::select! {
        ended = connection => ended.is_ok(),
        () = too_slow => false,
        () = gives_way(&turn) => false,
    };
    if is_written {
        let _ = tell.send(()); // nobody waits where no request came
    }
}

/// One request, and its answer counted as Multus' daemon counts it. What goes wrong before there is a request is no answer of ours.
async fn served(request: Request<Incoming>, turn: &Mutex<Turn>, ears: &Ears, overlay: &Overlay) -> Said {
    let (handler, method) = (handler(request.uri().path()), spelled(request.method()));
    let said = answer(handler, request, turn, ears, overlay).await;
    ears.metrics.shim(handler, code(said.status()), method);
    said
}

/// Whose request it is; that is all that a path becomes.
fn handler(path: &str) -> ShimHandler {
    let named = ShimHandler::ALL.iter().find(|handler| handler.word() == path);
    named.copied().unwrap_or(ShimHandler::NotFound)
}

/// Go's handlers write a method in lower case, and one that is none of theirs as one word.
fn spelled(method: &Method) -> ShimMethod {
    let named = ShimMethod::ALL.iter().find(|word| method.as_str().eq_ignore_ascii_case(word.word()));
    named.copied().unwrap_or(ShimMethod::Unknown)
}

fn code(status: StatusCode) -> ShimCode {
    let named = ShimCode::ALL.iter().find(|code| code.word() == status.as_str());
    named.copied().unwrap_or(ShimCode::BadRequest)
}

async fn answer(
    handler: ShimHandler,
    request: Request<Incoming>,
    turn: &Mutex<Turn>,
    ears: &Ears,
    overlay: &Overlay,
) -> Said {
    let arrived = Instant::now();
    let method = request.method().clone();
    let asked = match handler {
        // For as long as it takes requests: a shim that finds it otherwise waits for a minute.
        ShimHandler::Health | ShimHandler::Ready => {
            let is_known = [Method::GET, Method::HEAD, Method::POST].contains(&method);
            return if is_known { Response::new(Full::default()) } else { not_allowed("GET, HEAD, POST") };
        }
        ShimHandler::Cni => Asked::Runtime,
        ShimHandler::Delegate => Asked::Plug,
        ShimHandler::NotFound => return text(StatusCode::NOT_FOUND, "there are /cni, /delegate, /healthz and /readyz"),
    };
    if method != Method::POST {
        return not_allowed("POST");
    }
    let refused = |said| {
        ears.metrics.refused(Refusal::Frame);
        said
    };
    let (frame, purpose, room) = match whole(request.into_body()).await {
        Ok((body, room)) => match request::read(asked, &body, overlay) {
            Ok((frame, purpose)) => (frame, purpose, room),
            Err(why) => return refused(text(StatusCode::BAD_REQUEST, &why)),
        },
        Err(said) => return refused(said),
    };
    let (place, told) = {
        let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.gives_way = None;
        (turn.place.take(), turn.told.take())
    };
    // There is one request a connection.
    let Some(told) = told else { return text(StatusCode::BAD_REQUEST, "a second request on one connection") };
    let (answer, answered) = oneshot::channel();
    let (back, seated) = (Back::Shim(Reply { said: answer, told }), listen::seat().await);
    let call = Call { frame, netns: None, back, arrived, purpose, room, seated };
    let _ = ears.events.send(Event::Arrived(Box::new(call))).await; // where the loop has ended, nobody answers
    drop(place);
    answered.await.unwrap_or_else(|_| text(StatusCode::SERVICE_UNAVAILABLE, "the daemon ends"))
}

/// The body, with the room that it takes of all of them; or what its sender is told.
async fn whole(body: Incoming) -> Result<(Bytes, Room), Said> {
    let too_large = || text(StatusCode::PAYLOAD_TOO_LARGE, &format!("more than {BODY_BYTES_MAX} bytes"));
    if usize::try_from(body.size_hint().lower()).map_or(true, |length| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let length = body.size_hint().upper().and_then(|length| usize::try_from(length).ok()).unwrap_or(BODY_BYTES_MAX);
    let read = async {
        let room = listen::room(length.min(BODY_BYTES_MAX)).await;
        (Limited::new(body, BODY_BYTES_MAX).collect().await, room)
    };
    match timeout(FRAME_TIME, read).await {
        Ok((Ok(body), room)) => Ok((body.to_bytes(), room)),
        Ok((Err(error), _)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok((Err(error), _)) => Err(text(StatusCode::BAD_REQUEST, &error.to_string())),
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the request did not come whole in time")),
    }
}

fn not_allowed(allowed: &'static str) -> Said {
    let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
    refusal.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    refusal
}
