//! One call of the API: its deadline, what is tried again, and what came of it in plain words.

use std::borrow::Cow;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, Request, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::OnceCell;
use tokio::sync::watch::Sender;

use super::certificate::Term;
use super::connect::{self, Connected};
use super::limit::{End, Limit, Turn};
use super::lines::Lines;
use crate::sources::SourceError;

/// The first pause before another attempt; it doubles up to the other.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// More than any object: etcd's own bound is 1.5 MiB, and JSON can say it in twice as much.
const OBJECT_BYTES_MAX: usize = 4 << 20;
/// More than any list that is read here.
const LIST_BYTES_MAX: usize = 64 << 20;

/// Of what somebody else says, in bytes: it becomes a part of an error that the runtime shows, and of a line of the log.
const TOLD_BYTES_MAX: usize = 4 << 10;

/// What is read of a `Status`.
#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
}

/// Why a call gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such object.
    Missing,
    /// There is another one, or it has changed.
    Conflict(String),
    /// Our role does not allow it.
    Forbidden(String),
    /// Our credentials are not accepted, or we do not accept the server's: others may have been written since they were read.
    Login(String),
    /// What was read is too old to go on from.
    Expired(String),
    /// The server will say the same again, until somebody changes something.
    Lasting(String),
    /// Who answers is not the API server, or not of this cluster.
    Foreign(String),
    /// The server, or the way to it, was not able to answer.
    Passing(String),
}

impl Failure {
    /// As an error of what was being done.
    pub(super) fn told(self, act: String) -> SourceError {
        SourceError::Api { act, why: self.to_string(), transient: self.is_passing() }
    }

    /// Whether another attempt may succeed without anybody changing anything.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Failure::Passing(_) | Failure::Expired(_))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Failure::Missing => f.write_str("there is no such object"),
            Failure::Conflict(why)
            | Failure::Forbidden(why)
            | Failure::Login(why)
            | Failure::Expired(why)
            | Failure::Lasting(why)
            | Failure::Foreign(why)
            | Failure::Passing(why) => f.write_str(why),
        }
    }
}

const JSON: &str = "application/json";

/// What is asked in one attempt or several.
struct Asked<'a> {
    method: Method,
    path: &'a str,
    /// The type of what is sent.
    content: &'static str,
    body: &'a [u8],
    /// How long the answer may be, in bytes.
    most: usize,
}

/// How the server is called.
#[derive(Clone)]
pub(super) struct Calls {
    client: Client,
    /// Its address, for people.
    server: String,
    /// Until when how we log in is valid.
    term: Option<Term>,
    /// Which login it is.
    login: Option<u128>,
    /// What of how we log in is kept from the server.
    withheld: Option<String>,
    /// How long one attempt may take.
    per_call: Limit,
    /// When every attempt has ended.
    end: End,
    patch_is_refused: Arc<AtomicBool>,
    /// None: whoever makes these calls sees to it.
    renewal: Option<Arc<Renewal>>,
    /// Who wants to know when the server gives no answer.
    doubts: Option<Sender<()>>,
}

/// Credentials that were written since they were read: the same file, read once more.
struct Renewal {
    kubeconfig: Option<PathBuf>,
    renewed: OnceCell<Connected>,
}

impl Calls {
    pub(super) fn new(connected: Connected, per_call: Limit, end: End) -> Calls {
        let Connected { client, server, term, patch_is_refused, login, withheld } = connected;
        Calls { client, server, term, login, withheld, per_call, end, patch_is_refused, renewal: None, doubts: None }
    }

    /// Each attempt that the server does not answer at all is told there.
    pub(super) fn telling(self, doubts: Sender<()>) -> Calls {
        Calls { doubts: Some(doubts), ..self }
    }

    fn doubt(&self) {
        self.doubts.iter().for_each(|doubts| doubts.send_replace(()));
    }

    /// Credentials that are not accepted are read again, once for all these calls.
    pub(super) fn renewing(self, kubeconfig: Option<PathBuf>) -> Calls {
        let renewal = Renewal { kubeconfig, renewed: OnceCell::new() };
        Calls { renewal: Some(Arc::new(renewal)), ..self }
    }

    /// The same with credentials that are read now, or have been since these were refused; none where they are the same still.
    async fn renewed(&self) -> Option<Calls> {
        let Renewal { kubeconfig, renewed } = &**self.renewal.as_ref()?;
        let left = Limit::own(self.end.left());
        let read = || async {
            let read = connect::within(kubeconfig.clone(), left).await.map_err(drop)?;
            if read.login.is_some() && read.login == self.login { Err(()) } else { Ok(read) }
        };
        let connected = renewed.get_or_try_init(read).await.ok()?;
        let renewed = Calls::new(connected.clone(), self.per_call, self.end);
        Some(Calls { doubts: self.doubts.clone(), ..renewed })
    }

    /// Whether our role allows no patch of a pod's status, as far as was seen since the credentials were read.
    pub(super) fn patch_is_refused(&self) -> bool {
        self.patch_is_refused.load(Ordering::Relaxed)
    }

    /// It does not, but allows to replace it.
    pub(super) fn note_patch_is_refused(&self) {
        self.patch_is_refused.store(true, Ordering::Relaxed);
    }

    /// How long an attempt that begins now may take.
    pub(super) fn turn(&self) -> Turn {
        Turn::now(self.per_call, self.end)
    }

    /// An object.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.again(&Asked { method: Method::GET, path, content: JSON, body: &[], most: OBJECT_BYTES_MAX }).await
    }

    /// An object, in one attempt: who does not get it asks otherwise.
    pub(super) async fn get_once<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.once(&Asked { method: Method::GET, path, content: JSON, body: &[], most: OBJECT_BYTES_MAX }).await
    }

    /// A list, or a page of it.
    pub(super) async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.again(&Asked { method: Method::GET, path, content: JSON, body: &[], most: LIST_BYTES_MAX }).await
    }

    /// What was answered is not what was asked for.
    pub(super) fn foreign(&self) -> Failure {
        self.no_object("")
    }

    fn no_object(&self, why: &str) -> Failure {
        let (server, why) = (&self.server, bounded(why, TOLD_BYTES_MAX));
        Failure::Foreign(format!(
            "the answer is not the object that was asked for{why}: is something else than the API server at {server}?"
        ))
    }

    /// Changes an object by what is in `body` (RFC 7386): what it does not name stays as it is.
    /// What is read of the answer is up to the caller.
    pub(super) async fn merge<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, Failure> {
        let content = "application/merge-patch+json";
        self.again(&Asked { method: Method::PATCH, path, content, body, most: OBJECT_BYTES_MAX }).await
    }

    /// Replaces an object by what was read of it and changed; a conflict where it has changed since.
    pub(super) async fn replace(&self, path: &str, body: &[u8]) -> Result<(), Failure> {
        let asked = Asked { method: Method::PUT, path, content: JSON, body, most: OBJECT_BYTES_MAX };
        self.again::<IgnoredAny>(&asked).await.map(|_| ())
    }

    /// The same in one attempt: who is not heard looks first.
    pub(super) async fn replace_once(&self, path: &str, body: &[u8]) -> Result<(), Failure> {
        let asked = Asked { method: Method::PUT, path, content: JSON, body, most: OBJECT_BYTES_MAX };
        self.once::<IgnoredAny>(&asked).await.map(|_| ())
    }

    /// Makes an object, in one attempt: who does not get the answer does not know whether it was made.
    pub(super) async fn create(&self, path: &str, body: &[u8]) -> Result<(), Failure> {
        let asked = Asked { method: Method::POST, path, content: JSON, body, most: OBJECT_BYTES_MAX };
        self.once::<IgnoredAny>(&asked).await.map(|_| ())
    }

    /// Until it is answered, or the time is over.
    async fn again<T: DeserializeOwned>(&self, asked: &Asked<'_>) -> Result<T, Failure> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.once(asked).await {
                Err(failure) if failure.is_passing() && !self.end.is_within(pause) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                answer => return answer,
            }
        }
    }

    async fn once<T: DeserializeOwned>(&self, asked: &Asked<'_>) -> Result<T, Failure> {
        // What was refused is not tried once more.
        let is_renewed = self.renewal.as_ref().is_some_and(|renewal| renewal.renewed.initialized());
        if is_renewed && let Some(renewed) = self.renewed().await {
            return renewed.attempt(asked).await;
        }
        match self.attempt(asked).await {
            Err(Failure::Login(why)) => match self.renewed().await {
                Some(renewed) => renewed.attempt(asked).await,
                None => Err(Failure::Login(why)),
            },
            answer => answer,
        }
    }

    async fn attempt<T: DeserializeOwned>(&self, asked: &Asked<'_>) -> Result<T, Failure> {
        let Asked { method, path, content, body, most } = asked;
        let request = Request::builder().method(method).uri(*path).header(header::CONTENT_TYPE, *content);
        let request = request.body(body.to_vec()).map_err(|e| Failure::Lasting(e.to_string()))?;
        let turn = self.turn();
        if turn.is_over() {
            return Err(self.late(turn));
        }
        tokio::time::timeout(turn.time(), self.answer(request, *most)).await.unwrap_or_else(|_| {
            self.doubt();
            Err(self.late(turn))
        })
    }

    async fn answer<T: DeserializeOwned>(&self, request: Request<Vec<u8>>, most: usize) -> Result<T, Failure> {
        let body = self.body(request).await?;
        let body = self.whole(body, most).await?;
        serde_json::from_slice(body.as_ref()).map_err(|e| self.no_object(&format!(" ({e})")))
    }

    /// The body of an answer that is no refusal.
    async fn body(&self, request: Request<Vec<u8>>) -> Result<Body, Failure> {
        let response = self.client.send(request.map(Body::from)).await.map_err(|e| self.failure(&e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = self.whole(response.into_body(), OBJECT_BYTES_MAX).await?;
        let told: Refusal = serde_json::from_slice(body.as_ref()).unwrap_or_default();
        Err(match of_status(status.as_u16(), &told.message) {
            Failure::Login(why) => Failure::Login(self.doubted(why)),
            other => other,
        })
    }

    async fn whole(&self, body: Body, most: usize) -> Result<impl AsRef<[u8]> + use<>, Failure> {
        match Limited::new(body, most).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(e) if e.is::<LengthLimitError>() => Err(self.no_object(&format!(" (beyond {most} bytes)"))),
            Err(e) => Err(Failure::Passing(format!("{}: reading its answer: {e}", self.server))),
        }
    }

    /// An answer that has no end: a watch. One attempt, and the deadline is that of its beginning.
    pub(super) async fn follow(&self, path: &str) -> Result<Lines, Failure> {
        let request = Request::builder().uri(path).header(header::ACCEPT, "application/json");
        // Servers that compress each event for itself (Kubernetes 1.37) do so for who takes it.
        let request = request.header(header::ACCEPT_ENCODING, "identity");
        let request = request.body(Vec::new()).map_err(|e| Failure::Lasting(e.to_string()))?;
        let turn = self.turn();
        let body = tokio::time::timeout(turn.time(), self.body(request)).await.map_err(|_| self.late(turn))??;
        Ok(Lines::new(body, self.server.clone()))
    }

    fn late(&self, turn: Turn) -> Failure {
        Failure::Passing(turn.late(&format!("{} did not answer", self.server)))
    }

    fn failure(&self, error: &kube::Error) -> Failure {
        let why = chain(error);
        // rustls writes both `certificate` and, of what the other side says, `CertificateExpired`.
        let lasts = matches!(error, kube::Error::Auth(_)) || why.to_ascii_lowercase().contains("certificate");
        if !lasts {
            self.doubt();
        }
        let why = format!("{}: {}", self.server, bounded(&why, TOLD_BYTES_MAX));
        if lasts { Failure::Login(self.doubted(why)) } else { Failure::Passing(why) }
    }

    /// With what may be wrong with how we log in.
    fn doubted(&self, why: String) -> String {
        let expired = self.term.as_ref().and_then(|term| term.expired(Timestamp::now()));
        expired.iter().chain(&self.withheld).fold(why, |why, doubt| format!("{why}; {doubt}"))
    }

    /// The same calls with another end.
    pub(super) fn within(&self, time: Duration) -> Calls {
        Calls { end: End::after(Limit::own(time)), ..self.clone() }
    }
}

/// What the server says (Kubernetes API conventions, "HTTP Status codes").
pub(super) fn of_status(code: u16, message: &str) -> Failure {
    let message = bounded(message, TOLD_BYTES_MAX);
    match code {
        404 => Failure::Missing,
        409 => Failure::Conflict(message.into_owned()),
        401 => Failure::Login(format!("the API server does not accept our credentials (401 {message})")),
        403 => Failure::Forbidden(format!("the API server forbids it (403): {message}")),
        410 => Failure::Expired(format!("the API server answered 410: {message}")),
        408 | 429 | 500..=599 => Failure::Passing(format!("the API server answered {code}: {message}")),
        // It redirects nobody.
        300..=399 => Failure::Foreign(format!("{code} is answered, which an API server does not do: see its address")),
        _ => Failure::Lasting(format!("the API server answered {code}: {message}")),
    }
}

/// As much of a text as is told of it, in bytes.
pub(super) fn bounded(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let end = (0..=most.saturating_sub(3)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    Cow::Owned(format!("{}...", text.get(..end).unwrap_or_default()))
}

/// An error with its sources, each said once.
fn chain(error: &kube::Error) -> String {
    let mut text = match error {
        kube::Error::Service(_) | kube::Error::HyperError(_) => String::new(),
        other => other.to_string(),
    };
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = if text.is_empty() { more } else { format!("{text}: {more}") };
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_message_the_beginning_is_told() {
        let long = format!("x{}", "\u{e9}".repeat(3 << 20));
        for code in [400, 401, 403, 409, 410, 422, 503] {
            let told = of_status(code, &long).to_string();
            assert!(told.len() < TOLD_BYTES_MAX + 200 && told.contains("..."), "{code}: {}", told.len());
            let short = of_status(code, "the quota is used up").to_string();
            assert!(short.contains("the quota is used up") && !short.contains("..."), "{short}");
        }
        assert_eq!(bounded(&"x".repeat(TOLD_BYTES_MAX), TOLD_BYTES_MAX).len(), TOLD_BYTES_MAX);
    }

    #[test]
    fn what_the_server_says_decides_whether_it_is_asked_again() {
        assert_eq!(of_status(404, "x"), Failure::Missing);
        for code in [429, 500, 503, 504] {
            assert!(matches!(of_status(code, "x"), Failure::Passing(_)), "{code}");
        }
        assert!(matches!(of_status(302, "x"), Failure::Foreign(_)));
        for code in [400, 422] {
            assert!(matches!(of_status(code, "x"), Failure::Lasting(_)), "{code}");
        }
        assert!(matches!(of_status(409, "x"), Failure::Conflict(_)));
        assert!(matches!(of_status(403, "x"), Failure::Forbidden(_)));
        assert!(matches!(of_status(401, "x"), Failure::Login(_)) && !of_status(401, "x").is_passing());
        assert!(matches!(of_status(410, "x"), Failure::Expired(_)) && of_status(410, "x").is_passing());
    }
}
