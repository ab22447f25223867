//! Events at the pod: what was attached, and what was not, with what to do. An event that is there already is counted up, so a
//! pod that fails a hundred times has one.

use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::advice;
use super::call::{Calls, Failure, bounded};
use super::objects::{About, events_path};
use crate::cluster::Arrival;
use crate::cni::error::CniError;
use crate::journal::fnv1a_128;
use crate::log::warn;
use crate::trace::TraceId;

/// Who says it.
const COMPONENT: &str = "plexus";
/// The annotation that has the request's trace: of an event that is counted up, the last one's.
const TRACE: &str = "plexus/trace";
/// The API's bound of an event's text (events.k8s.io/v1 `note`).
const MESSAGE_BYTES_MAX: usize = 1024;
/// An event's name begins with its pod's, which has up to 253 of the same 253 bytes.
const POD_NAME_BYTES_MAX: usize = 200;
/// So many hexadecimal digits and dashes are no number that means anything: Go plugins name a link by eight of them.
const RANDOM_BYTES_MIN: usize = 8;
/// Events never hold up a pod for longer.
const DEADLINE: Duration = Duration::from_secs(2);

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    kind: &'static str,
    reason: &'static str,
    message: String,
    /// The request's that it is of.
    trace: Option<TraceId>,
}

impl Event {
    /// An attachment was made, in Multus' words.
    pub(super) fn added(arrival: &Arrival) -> Event {
        let addresses: Vec<String> = arrival.addresses.iter().map(ToString::to_string).collect();
        let message = format!("Add {} [{}] from {}", arrival.ifname, addresses.join(" "), arrival.network);
        Event { kind: "Normal", reason: "AddedInterface", message, trace: None }
    }

    /// Nothing was attached: the cause, and what to do.
    pub(super) fn failed(error: &CniError) -> Event {
        let is_missing = error.msg.contains("cannot find a network-attachment-definition");
        let reason = if is_missing { "NoNetworkFound" } else { "FailedAddingInterface" };
        Event::warning(reason, error, advice::on(error))
    }

    /// Something stays of what was attached: the cause, and what to do.
    pub(super) fn stuck(error: &CniError) -> Event {
        let advice = "the runtime tries again, and plexus gc on the node removes what stays once the pod has gone";
        Event::warning("FailedRemovingInterface", error, advice)
    }

    /// However long the cause is: what to do is said.
    fn warning(reason: &'static str, error: &CniError, advice: &str) -> Event {
        let end = format!("; {advice}");
        let message = bounded(&error.msg, MESSAGE_BYTES_MAX.saturating_sub(end.len())).into_owned() + &end;
        Event { kind: "Warning", reason, message, trace: None }
    }

    /// What is attached is not in the pod's status.
    pub(super) fn status_unwritten(text: &str) -> Event {
        Event {
            kind: "Warning",
            reason: "NetworkStatusNotWritten",
            message: bounded(text, MESSAGE_BYTES_MAX).into_owned(),
            trace: None,
        }
    }

    /// It is of this request.
    pub(super) fn of(self, trace: Option<TraceId>) -> Event {
        Event { trace, ..self }
    }

    /// Under what the node's log and journal have its request.
    fn annotations(&self) -> Value {
        self.trace.map_or_else(|| json!({}), |trace| json!({ TRACE: trace.to_string() }))
    }
}

/// Tells all of them, together; a failure is one line of the log.
pub(super) async fn post_all(calls: &Calls, pod: &About<'_>, events: &[Event]) {
    // A time of their own: that the pod was not to be had in its time is worth telling.
    let calls = calls.within(DEADLINE);
    // At once: on one connection they cost one round trip.
    let told = join_all(events.iter().map(|event| post(&calls, pod, event))).await;
    // A namespace that is being deleted takes no event, and nobody misses it.
    let Some(why) = told.into_iter().filter_map(Result::err).find(|failure| *failure != Failure::Missing) else {
        return;
    };
    warn(&format!("an event of pod {}/{} is not told: {why}", pod.namespace, pod.name));
}

/// What is read of an event.
#[derive(Deserialize)]
struct Counted {
    #[serde(default)]
    count: Option<i64>,
}

async fn post(calls: &Calls, pod: &About<'_>, event: &Event) -> Result<(), Failure> {
    let path = events_path(pod.namespace)?;
    let now = now();
    let object = object(pod, event, &now);
    match calls.create(&path, object.to_string().as_bytes()).await {
        Err(Failure::Conflict(_)) => {
            let path = format!("{path}/{}", name(pod, event));
            // Who may tell events may not always read them: what a patch answers is the whole object.
            let seen = json!({ "lastTimestamp": now, "metadata": { "annotations": event.annotations() } }).to_string();
            let count = calls.merge::<Counted>(&path, seen.as_bytes()).await?.count.unwrap_or(1).saturating_add(1);
            calls.merge::<IgnoredAny>(&path, json!({ "count": count }).to_string().as_bytes()).await.map(|_| ())
        }
        done => done,
    }
}

/// Of what it says: the same said again is the same event.
fn name(pod: &About, event: &Event) -> String {
    let text = format!("{}\0{}\0{}", pod.uid, event.reason, lasting(&event.message));
    let begin: String = pod.name.chars().take(POD_NAME_BYTES_MAX).collect();
    format!("{begin}.{:032x}", fnv1a_128(text.as_bytes()))
}

/// A message without what is another in each sandbox: the runtime tries a pod again in a new one, and a plugin tells its container, its
/// namespace's path, or a link that it named at random.
fn lasting(message: &str) -> String {
    let is_number = |c: char| c.is_ascii_hexdigit() || c == '-';
    let words = message.split_inclusive(|c| !is_number(c));
    let keep = |word: &str| {
        let number = word.trim_end_matches(|c| !is_number(c));
        let is_random = number.len() >= RANDOM_BYTES_MIN && number.contains(|c: char| c.is_ascii_digit());
        if is_random { format!("#{}", &word[number.len()..]) } else { word.to_owned() }
    };
    words.map(keep).collect()
}

fn object(pod: &About, event: &Event, now: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": name(pod, event), "namespace": pod.namespace, "annotations": event.annotations() },
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
        },
        "type": event.kind,
        "reason": event.reason,
        "message": event.message,
        "source": { "component": COMPONENT, "host": host() },
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}

/// To the second, as the API takes it.
fn now() -> String {
    let seconds = Timestamp::now().as_second();
    Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::error::Code;

    #[test]
    fn what_was_added_is_said_in_the_words_that_people_know() {
        let addresses = vec!["10.1.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()];
        let event = Event::added(&Arrival { network: "default/blue", ifname: "net1", addresses });
        assert_eq!(event.message, "Add net1 [10.1.0.2/24 fd00::2/64] from default/blue");
        assert_eq!((event.kind, event.reason), ("Normal", "AddedInterface"));
    }

    #[test]
    fn a_failure_says_its_cause_and_what_to_do_within_its_bound() {
        let error = CniError::new(Code::InvalidConfig, format!("{}\u{fc}", "x".repeat(1019)));
        let event = Event::failed(&error);
        assert!(event.message.len() <= MESSAGE_BYTES_MAX, "{}", event.message.len());
        assert!(event.message.ends_with("...; correct the definition or the pod's annotation"), "{}", event.message);
        let missing = "cannot find a network-attachment-definition (a) in namespace (b)";
        let event = Event::failed(&CniError::new(Code::InvalidConfig, missing));
        assert_eq!(event.reason, "NoNetworkFound");
        assert!(event.message.starts_with(missing) && event.message.contains("create it"), "{}", event.message);
    }

    #[test]
    fn the_same_said_again_is_the_same_event() {
        let event = Event::status_unwritten("x");
        let pod = About { namespace: "n", name: "p", uid: "u" };
        assert_eq!(name(&pod, &event), name(&pod, &Event::status_unwritten("x")));
        assert_ne!(name(&pod, &event), name(&pod, &Event::status_unwritten("y")));
        assert_ne!(name(&pod, &event), name(&About { uid: "v", ..pod }, &event));
    }

    #[test]
    fn what_is_another_in_each_sandbox_makes_no_other_event() {
        let text =
            |id: &str, uuid: &str, link: &str| format!("netns /run/netns/cni-{uuid} of {id}: no {link}, no 10.9.0.9");
        let first = text(&"3f".repeat(32), "5d2c0e6a-77b1-4c5a-9d5c-2d5d0f2f3a11", "veth1a2b3c4d");
        let second = text(&"a7".repeat(32), "0b1e66aa-93c0-4f1d-8a55-e5c1a2b3c4d5", "veth00ffee11");
        assert_eq!(lasting(&first), lasting(&second));
        assert_eq!(lasting(&first), "netns /run/netns/c#/# of #: no veth#, no 10.9.0.9".replace("c#/#", "cni#"));
        for kept in [
            "10.9.0.9 of 10.9.0.0/24",
            "fd00:1234:5678::2",
            "0000:01:10.2",
            "02:00:5e:10:00:01",
            "a-bad-facade",
            "after 12000 ms",
        ] {
            assert_eq!(lasting(kept), kept);
        }
    }
}
