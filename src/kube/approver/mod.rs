//! Approves the requests of nodes for a certificate of their own (`perNodeCertificate`, plexus' and Multus'), and denies what only looks
//! like one. Whatever else of this signer is asked for is left to whoever decides about it. It keeps nothing: what was decided the API server
//! has, so several of it, and one that was killed, do no harm.

mod rules;
mod subject;

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::call::{Calls, Failure, of_status};
use super::limit::{End, Limit};
use super::lines::Lines;
use super::objects::{Meta, Named, Page, Refusal, is_version};
use super::signing::{COLLECTION, SIGNER};
use super::watch::varied;
use super::wire::Wire;
use crate::config::LogConf;
use crate::log::{self, verbose, warn};

pub use rules::{Verdict, judge};
pub use subject::Unreadable;

const KIND: &str = "CertificateSigningRequest";
const LIST: &str = "CertificateSigningRequestList";
/// The reason of an approval; that of a denial is the rule's.
const APPROVED: &str = "NodeCertificate";

/// How often a decision is sent: others may write the same request.
const TRIES_MAX: u32 = 5;
/// The first pause before another attempt; it doubles.
const TRY_PAUSE: Duration = Duration::from_millis(250);
/// How often all requests are looked at, whatever the watch says; and sooner where a decision could not be written.
const RESYNC: Duration = Duration::from_secs(3600);
const RESYNC_AFTER_FAILURE: Duration = Duration::from_secs(60);
/// When the server ends a watch, in seconds; and when it should have.
const WATCH_SECONDS: u64 = 300;
const WATCH_IDLE: Duration = Duration::from_secs(WATCH_SECONDS + 30);
/// The first pause before the server is asked anew after a failure; it doubles up to the other.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A round that lasted as long was none that fails.
const LASTED: Duration = Duration::from_secs(5);
/// How long one call may take, and reading a kubeconfig with what it names; and a list, and the beginning of a watch.
const CALL_TIME: Limit = Limit::own(Duration::from_secs(10));
const OPEN_TIME: Limit = Limit::own(Duration::from_secs(30));
/// Requests of a page, and pages of a list.
const PAGE_ITEMS: usize = 100;
const PAGES_MAX: usize = 500;
/// Name servers, above all.
const BLOCKING_THREADS_MAX: usize = 4;

/// Decides until SIGTERM or SIGINT. `kubeconfig`: how the API server is reached; none: by the service account of its pod.
///
/// # Errors
/// It cannot be started.
pub fn run(kubeconfig: Option<PathBuf>, conf: &LogConf) -> io::Result<()> {
    log::frees_output();
    log::begin(conf);
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()?;
    let ended = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let approver = Approver { wire: Wire::new(kubeconfig, CALL_TIME, CALL_TIME) };
        tokio::select! {
            () = approver.decide_all() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    });
    // Without waiting for what hangs in it.
    runtime.shutdown_background();
    ended
}

struct Approver {
    wire: Wire,
}

/// One event of a watch.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    object: Value,
}

/// One look at all requests, and those that come afterwards.
struct Round {
    /// When it ends.
    due: Instant,
}

impl Round {
    fn new() -> Round {
        Round { due: Instant::now() + RESYNC }
    }

    fn ends_soon(&mut self) {
        self.due = self.due.min(Instant::now() + RESYNC_AFTER_FAILURE);
    }
}

impl Approver {
    /// Without an end.
    async fn decide_all(&self) {
        let (mut pause, mut said) = (PAUSE_MIN, None);
        loop {
            let began = Instant::now();
            let ended = self.round().await;
            if began.elapsed() >= LASTED {
                pause = PAUSE_MIN;
            }
            match ended {
                Ok(()) => said = None,
                // What is too old is read anew: the server does answer.
                Err(Failure::Expired(_)) => {}
                Err(failure) => {
                    let why = failure.to_string();
                    if said.as_ref() != Some(&why) {
                        warn(&format!("certificate signing requests are not watched for the moment: {why}"));
                    }
                    said = Some(why);
                    self.wire.renew().await;
                }
            }
            tokio::time::sleep(varied(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn calls(&self, limit: Limit) -> Result<Calls, Failure> {
        self.wire.calls(End::after(limit)).await
    }

    async fn round(&self) -> Result<(), Failure> {
        let mut round = Round::new();
        let mut version = self.list(&mut round).await?;
        while Instant::now() < round.due {
            let selected = selected();
            let path = format!(
                "{selected}&watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}"
            );
            let opened = Instant::now();
            let mut lines = self.calls(OPEN_TIME).await?.follow(&path).await?;
            while let Some(line) = next(&mut lines, round.due).await? {
                if let Some(newer) = self.read(&line, &mut round).await? {
                    version = newer;
                }
            }
            // A server that ends each at once is not asked without a pause.
            if opened.elapsed() < LASTED {
                break;
            }
        }
        Ok(())
    }

    /// All requests, a page after the other; from where on they can be watched.
    async fn list(&self, round: &mut Round) -> Result<String, Failure> {
        let mut next = String::new();
        for _ in 0..PAGES_MAX {
            let calls = self.calls(OPEN_TIME).await?;
            let path = format!("{}&limit={PAGE_ITEMS}{next}", selected());
            let page: Page<Value> = calls.list(&path).await?;
            if !page.is(LIST) {
                return Err(calls.foreign());
            }
            let more = page.next().map(|next| format!("&continue={next}"));
            let version = page.version().map(str::to_owned);
            for object in page.items {
                self.decide(object, round).await?;
            }
            match (more, version) {
                (Some(more), _) => next = more,
                (None, Some(version)) => return Ok(version),
                (None, None) => break,
            }
        }
        Err(Failure::Lasting("a list of requests that has no end, or no version".to_owned()))
    }

    /// One event; from where on to watch after it.
    async fn read(&self, line: &[u8], round: &mut Round) -> Result<Option<String>, Failure> {
        let odd = |e: serde_json::Error| Failure::Lasting(format!("an event that is none: {e}"));
        let Event { kind, object } = serde_json::from_slice(line).map_err(odd)?;
        if kind == "ERROR" {
            let Refusal { code, message } = Refusal::deserialize(&object).unwrap_or_default();
            return Err(of_status(code, &message));
        }
        let Named { metadata } = Named::deserialize(&object).map_err(odd)?;
        if kind == "ADDED" || kind == "MODIFIED" {
            self.decide(object, round).await?;
        }
        Ok(Some(metadata.resource_version).filter(|version| is_version(version)))
    }

    /// Decides about one request, where it is ours to decide; one that cannot be written keeps no other waiting for longer than its tries.
    ///
    /// # Errors
    /// Our login is not accepted: nothing else would be, either.
    async fn decide(&self, found: Value, round: &mut Round) -> Result<(), Failure> {
        let Named { metadata: Meta { name, .. } } = Named::deserialize(&found).unwrap_or_default();
        match self.write(&name, found).await {
            Ok(()) => Ok(()),
            Err(failure @ Failure::Login(_)) => Err(failure),
            Err(failure) => {
                round.ends_soon();
                warn(&format!("the request {name:?} is not decided: {failure}; it is looked at again"));
                Ok(())
            }
        }
    }

    /// Writes what is decided, about the request as it is then.
    async fn write(&self, name: &str, mut found: Value) -> Result<(), Failure> {
        let path = format!("{COLLECTION}/{}", segment(name));
        let (mut tries, mut pause) = (0, TRY_PAUSE);
        loop {
            let verdict = judge(&found);
            let Some(condition) = condition(&verdict) else {
                tell(name, &verdict);
                return Ok(());
            };
            let body = decided(&found, &condition).to_string();
            let calls = self.calls(CALL_TIME).await?;
            tries += 1;
            match calls.replace_once(&format!("{path}/approval"), body.as_bytes()).await {
                Ok(()) => {
                    tell(name, &verdict);
                    return Ok(());
                }
                // Nobody waits for it any more.
                Err(Failure::Missing) => return Ok(()),
                Err(Failure::Conflict(_)) if tries < TRIES_MAX => {}
                Err(failure) if failure.is_passing() && tries < TRIES_MAX => {
                    tokio::time::sleep(varied(pause)).await;
                    pause *= 2;
                }
                Err(failure) => return Err(failure),
            }
            // It may have come, and its answer has not; or another has decided.
            let calls = self.calls(CALL_TIME).await?;
            match calls.get_once::<Value>(&path).await {
                Ok(read) if Named::deserialize(&read).is_ok_and(|read| read.metadata.name == name) => found = read,
                Ok(_) => return Err(calls.foreign()),
                Err(Failure::Missing) => return Ok(()),
                Err(failure) if failure.is_passing() => {}
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// Those of our signer.
fn selected() -> String {
    format!("{COLLECTION}?fieldSelector=spec.signerName%3D{}", segment(SIGNER))
}

/// The next line, until the round is over.
async fn next(lines: &mut Lines, due: Instant) -> Result<Option<Vec<u8>>, Failure> {
    tokio::time::timeout_at(due.into(), lines.next(WATCH_IDLE)).await.unwrap_or(Ok(None))
}

/// What is written down of a verdict; none: nothing is.
fn condition(verdict: &Verdict) -> Option<Value> {
    let (kind, reason, message) = match verdict {
        Verdict::Leave | Verdict::LeaveUnread(_) => return None,
        Verdict::Approve(node) => {
            ("Approved", APPROVED, format!("plexus cert-approver: the node {node} asks for its own"))
        }
        Verdict::Deny(rule, why) => ("Denied", *rule, format!("plexus cert-approver: {why}")),
    };
    Some(json!({"type": kind, "status": "True", "reason": reason, "message": message}))
}

/// The request with a condition: whoever has written it since then makes that a conflict.
fn decided(object: &Value, condition: &Value) -> Value {
    let part = |key: &str| object.get(key).cloned().unwrap_or_default();
    // Objects of a list do not say what they are; and what has a condition already is not decided about.
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": KIND, "metadata": part("metadata"), "spec": part("spec"),
        "status": {"conditions": [condition]}})
}

fn tell(name: &str, verdict: &Verdict) {
    match verdict {
        Verdict::Leave => {}
        Verdict::LeaveUnread(why) => verbose(|| format!("the request {name:?} is left alone: {why}")),
        Verdict::Approve(node) => verbose(|| format!("approved the request {name:?} of the node {node}")),
        Verdict::Deny(rule, why) => verbose(|| format!("denied the request {name:?} ({rule}): {why}")),
    }
}

/// A name as a part of a path: a request may be called by nearly everything.
fn segment(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && name.len() > 2) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}"); // into memory
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_request_leads_elsewhere() {
        for (name, path) in [
            ("csr-7", "csr-7"),
            ("a.b", "a.b"),
            ("..", "%2E%2E"),
            (".", "%2E"),
            ("../x", "..%2Fx"),
            ("system:node:a?x#y z", "system%3Anode%3Aa%3Fx%23y%20z"),
            ("\u{e9}%", "%C3%A9%25"),
        ] {
            assert_eq!(segment(name), path);
        }
    }

    #[test]
    fn a_decision_keeps_what_the_request_is() {
        let object =
            json!({"metadata": {"name": "x", "resourceVersion": "7"}, "spec": {"extra": {"k": ["v"]}}, "status": {}});
        let condition = condition(&Verdict::Deny("Groups", "why".to_owned())).unwrap();
        let whole = decided(&object, &condition);
        assert_eq!(
            (&whole["metadata"], &whole["spec"], &whole["kind"]),
            (&object["metadata"], &object["spec"], &json!(KIND))
        );
        let expected =
            json!([{"type": "Denied", "status": "True", "reason": "Groups", "message": "plexus cert-approver: why"}]);
        assert_eq!(whole["status"]["conditions"], expected);
        assert_eq!(super::condition(&Verdict::Leave), None);
    }
}
