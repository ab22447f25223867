//! The daemon's small HTTP server: `/metrics`, `/healthz`, `/readyz`, on a socket that only root may open or on a loopback address.
//! One request a connection; connections, their time and their headers are bounded. It does not know what is measured, nor what
//! makes the daemon ready.

mod listen;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::metrics::MEDIA_TYPE;
pub use listen::{BindError, BindErrorKind, Bound, Exposure, Listen, ListenError, SOCKET};

/// Connections that are served at once; further ones wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 16;
/// How long a client may take to send its headers.
pub const HEADERS_TIME_MAX: Duration = Duration::from_secs(3);
/// How long a connection may last: whoever reads slowly is cut off.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a request's head, which is hyper's least.
pub const HEAD_BYTES_MAX: usize = 8192;
/// Headers of a request.
pub const HEADERS_MAX: usize = 64;
/// The pause after a connection that could not be accepted, such as without a free descriptor.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How old the loop's heartbeat may be. The loop turns at least four times in this, whether or not anything happens.
pub const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(20);

/// What the server says, asked at each request on the runtime's thread: it answers from memory, and at once.
pub trait Page: Send + Sync + 'static {
    /// The metrics as OpenMetrics text; `None` where they cannot be written.
    fn metrics(&self) -> Option<String>;
    /// How long ago the daemon's loop turned last: [`Heartbeat::age`].
    fn heartbeat_age(&self) -> Duration;
    /// What is not ready, one line each; none when ADD can be served.
    fn unready(&self) -> Vec<String>;
}

/// When the daemon's loop turned last.
#[derive(Debug)]
pub struct Heartbeat {
    start: Instant,
    milliseconds: AtomicU64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}

impl Heartbeat {
    /// It beats now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now(), milliseconds: AtomicU64::new(0) }
    }

    /// The loop turned.
    pub fn beat(&self) {
        self.milliseconds.store(self.since_start(), Ordering::Relaxed);
    }

    /// How long ago that was, to the millisecond.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.since_start().saturating_sub(self.milliseconds.load(Ordering::Relaxed)))
    }

    fn since_start(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// How many connections, and how long.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    connections: usize,
    headers_time: Duration,
    connection_time: Duration,
}

const BOUNDS: Bounds =
    Bounds { connections: CONNECTIONS_MAX, headers_time: HEADERS_TIME_MAX, connection_time: CONNECTION_TIME_MAX };

/// Serves until it is dropped, and with it all connections.
pub async fn serve(bound: Bound, page: Arc<dyn Page>) -> Infallible {
    serve_within(BOUNDS, bound, page).await
}

async fn serve_within(bounds: Bounds, bound: Bound, page: Arc<dyn Page>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        // A connection that has ended is forgotten whenever one comes, and awaited where there is room for no more.
        while connections.try_join_next().is_some() {}
        if connections.len() >= bounds.connections {
            connections.join_next().await;
        }
        let accepted = match &bound {
            Bound::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                connections.spawn(connection(bounds, stream, Arc::clone(&page)));
            }),
            Bound::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                connections.spawn(connection(bounds, stream, Arc::clone(&page)));
            }),
        };
        if accepted.is_err() {
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// One connection: one request, or none in time.
async fn connection<S: AsyncRead + AsyncWrite + Unpin>(bounds: Bounds, stream: S, page: Arc<dyn Page>) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), page.as_ref());
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.headers_time)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong on a connection is its client's: it gets hyper's 400 or 431, or has gone, or was too slow.
    let _ = timeout(bounds.connection_time, served).await;
}

/// The answer to one request. hyper leaves the body away where HEAD was asked.
fn answer(method: &Method, path: &str, page: &dyn Page) -> Response<Full<Bytes>> {
    type Route = fn(&dyn Page) -> Response<Full<Bytes>>;
    let route: Route = match path {
        "/metrics" => metrics,
        "/healthz" => healthy,
        "/readyz" => ready,
        _ => return lines(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz"),
    };
    if method == Method::GET || method == Method::HEAD {
        return route(page);
    }
    let mut refusal = lines(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
    refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    refusal
}

fn metrics(page: &dyn Page) -> Response<Full<Bytes>> {
    let Some(text) = page.metrics() else {
        return lines(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written");
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

fn healthy(page: &dyn Page) -> Response<Full<Bytes>> {
    let age = page.heartbeat_age();
    if age <= HEARTBEAT_AGE_MAX {
        return lines(StatusCode::OK, "ok");
    }
    lines(StatusCode::SERVICE_UNAVAILABLE, &format!("the loop turned last {} s ago", age.as_secs()))
}

fn ready(page: &dyn Page) -> Response<Full<Bytes>> {
    let unready = page.unready();
    if unready.is_empty() {
        return lines(StatusCode::OK, "ok");
    }
    // One line each, whatever an error's text has in it.
    let unready: Vec<String> = unready.iter().map(|one| one.replace(['\r', '\n'], " ")).collect();
    lines(StatusCode::SERVICE_UNAVAILABLE, &unready.join("\n"))
}

/// Lines of plain text, which nobody may keep.
fn lines(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
