//! What can go wrong between a client and the server, as values. It does not know how it is brought about.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::endless::Endless;

/// How the front takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// As a healthy server.
    Open,
    /// The real server's own: it sees the clients' certificates, and nothing is seen or failed here.
    Through,
    /// Nobody listens: connections are refused.
    Refused,
    /// Connections are taken, and nothing is ever said on them.
    Silent,
    /// The server's certificate expired yesterday.
    Expired,
    /// The first request of each connection gets an answer without an end, over HTTP/2 or not.
    Endless(Endless, bool),
}

/// What becomes of one request.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The front answers with this status, in the words of an API server. The real server hears nothing.
    Status(u16),
    /// The front answers with this status and this text, whatever was asked. The real server hears nothing.
    Answer(u16, String),
    /// The request is passed on this much later.
    Slow(Duration),
    /// Nobody ever answers, and the real server hears nothing.
    Hang,
    /// The real server answers; half of the body arrives, and the connection ends.
    Cut,
    /// The real server answers; nothing of it arrives, and the connection ends.
    Lost,
    /// This is done first, in the middle of the caller's work. The request is passed on then.
    First(Arc<dyn Fn() + Send + Sync>),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "Status({code})"),
            Self::Answer(code, text) => write!(f, "Answer({code}, {text})"),
            Self::Slow(duration) => write!(f, "Slow({duration:?})"),
            Self::Hang => f.write_str("Hang"),
            Self::Cut => f.write_str("Cut"),
            Self::Lost => f.write_str("Lost"),
            Self::First(_) => f.write_str("First"),
        }
    }
}

/// Requests that meet a fault, and how many of them still do.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) method: String,
    /// Part of the path with its query.
    pub(crate) path: String,
    pub(crate) times: usize,
    pub(crate) fault: Fault,
}

impl Rule {
    pub(crate) fn meets(&self, seen: &Seen) -> bool {
        self.times > 0 && (self.method.is_empty() || self.method == seen.method) && seen.path.contains(&self.path)
    }
}

/// A request that reached the front.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
}

/// The reason that an API server gives with a status.
pub(crate) fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}
