//! The daemon's small HTTP server: `/metrics`, `/healthz`, `/readyz`, on a socket that only root may open or on a loopback address.
//! One request a connection; connections, their time and their headers are bounded. It does not know what is measured, nor what
//! makes the daemon ready.

mod listen;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::metrics::MEDIA_TYPE;
use crate::heartbeat::HEARTBEAT_AGE_MAX;
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
/// What the server says, asked at each request.
pub trait Page: Send + Sync + 'static {
    /// The metrics as OpenMetrics text; `None` where they cannot be written. It may look at files.
    fn metrics(&self) -> Option<String>;
    /// How long ago the daemon's loop turned last. Asked on the loop's own thread, as `ended` is: answered from memory, at once.
    fn heartbeat_age(&self) -> Duration;
    /// What of the daemon has ended, or hangs, and does not come back by itself.
    fn ended(&self) -> Option<String>;
    /// What is not ready, one line each; none when ADD can be served. It may look at files.
    fn unready(&self) -> Vec<String>;
    /// What does not keep ADD from being served, and is not as it should be, one line each.
    fn doubts(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Whether the daemon lives.
const HEALTH: &str = "/healthz";

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
        let page = Arc::clone(&page);
        async move { Ok::<_, Infallible>(served(&request, page).await) }
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

/// Who only reads what the loop has in memory is answered by its thread; who may wait for a disk waits elsewhere.
async fn served(request: &Request<Incoming>, page: Arc<dyn Page>) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if path == HEALTH {
        return answer(&method, &path, page.as_ref());
    }
    let answered = spawn_blocking(move || answer(&method, &path, page.as_ref())).await;
    answered.unwrap_or_else(|_| lines(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be made"))
}

/// The answer to one request. hyper leaves the body away where HEAD was asked.
fn answer(method: &Method, path: &str, page: &dyn Page) -> Response<Full<Bytes>> {
    type Route = fn(&dyn Page) -> Response<Full<Bytes>>;
    let route: Route = match path {
        "/metrics" => metrics,
        HEALTH => healthy,
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
    let hangs = (age > HEARTBEAT_AGE_MAX).then(|| format!("the loop turned last {} s ago", age.as_secs()));
    match hangs.or_else(|| page.ended()) {
        None => lines(StatusCode::OK, "ok"),
        Some(why) => lines(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

fn ready(page: &dyn Page) -> Response<Full<Bytes>> {
    let unready = page.unready();
    // One line each, whatever an error's text has in it.
    let text = |all: &[String]| all.iter().map(|one| one.replace(['\r', '\n'], " ")).collect::<Vec<_>>().join("\n");
    if !unready.is_empty() {
        return lines(StatusCode::SERVICE_UNAVAILABLE, &text(&unready));
    }
    let doubts = page.doubts();
    if doubts.is_empty() {
        lines(StatusCode::OK, "ok")
    } else {
        lines(StatusCode::OK, &format!("ok, but\n{}", text(&doubts)))
    }
}

/// Lines of plain text, which nobody may keep.
fn lines(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
