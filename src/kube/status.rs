//! What came of a request, told to the cluster: one PATCH of pods/status, and events beside it on the same connection.
//!
//! The pod is attached by then and does not fail any more. A status that cannot be written is noted on disk, and the next
//! request that reaches the server writes it.

use std::path::Path;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::call::{Calls, Failure};
use super::events::{self, Event};
use super::objects::{About, Identity, PodObject, pod_path, pod_status_path};
use crate::cluster::News;
use crate::journal::PodName;
use crate::log::{self, warn};
use crate::trace::TraceId;
use crate::unwritten::{Note, Unwritten};

/// The annotation (network CRD standard 5).
const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// How often somebody else may write a pod while its status is written.
const TRIES_MAX: u32 = 5;

/// More events than one word has: attachments of a pod, and what comes before it is told.
const EVENTS_MAX: usize = 256;

/// What came of a request, with nothing borrowed: it may be told when the request has been answered.
#[derive(Debug)]
pub(super) struct Word {
    namespace: String,
    name: String,
    uid: String,
    status: Option<String>,
    noted: Option<Unwritten>,
    events: Vec<Event>,
    /// The last request's.
    trace: Option<TraceId>,
}

/// What came of telling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The status is written.
    Written,
    /// It is not.
    Unwritten,
    /// There was none: events only.
    Events,
}

impl Word {
    /// Notes the status on disk. `uid`: the API object's, where it is known to be another than the runtime's.
    pub(super) fn of(state_dir: &Path, pod: &PodName, uid: Option<&str>, news: &News) -> Word {
        let PodName { namespace, name, .. } = pod;
        let uid = uid.unwrap_or(&pod.uid);
        let (status, events): (_, Vec<Event>) = match news {
            News::Attached { status, arrivals } => (Some(*status), arrivals.iter().map(Event::added).collect()),
            News::Failed { error } => (None, vec![Event::failed(error)]),
            News::Stuck { error } => (None, vec![Event::stuck(error)]),
        };
        let trace = log::trace();
        let mut word = Word {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.to_owned(),
            status: status.map(str::to_owned),
            noted: None,
            events: events.into_iter().map(|event| event.of(trace)).collect(),
            trace,
        };
        let meant = PodName { uid: word.uid.clone(), ..pod.clone() };
        let note = |status| Unwritten::note(state_dir, &meant, status).inspect_err(|e| warn(e)).ok();
        word.noted = status.and_then(note);
        word
    }

    fn pod(&self) -> About<'_> {
        About { namespace: &self.namespace, name: &self.name, uid: &self.uid }
    }

    /// Whose it is: what is said of one pod is said in order.
    pub(super) fn key(&self) -> String {
        if self.uid.is_empty() { format!("{}/{}", self.namespace, self.name) } else { self.uid.clone() }
    }

    /// What has not been told of the same pod is told with it.
    pub(super) fn after(mut self, earlier: Word) -> Word {
        if self.status.is_none() {
            (self.status, self.noted) = (earlier.status, earlier.noted);
        }
        let later = std::mem::replace(&mut self.events, earlier.events);
        self.events.extend(later);
        self.events.truncate(EVENTS_MAX);
        self
    }

    /// Tells all of it; what fails is said, noted, and no more.
    pub(super) async fn send(&self, calls: &Calls) -> Told {
        let pod = self.pod();
        let Some(status) = &self.status else {
            events::post_all(calls, &pod, &self.events).await;
            return Told::Events;
        };
        let (written, ()) = tokio::join!(write(calls, &pod, status), events::post_all(calls, &pod, &self.events));
        match written {
            Ok(()) => {
                self.noted.iter().for_each(Unwritten::forget);
                Told::Written
            }
            Err(failure) => {
                keep(calls, &pod, &failure, self.noted.as_ref(), self.trace).await;
                Told::Unwritten
            }
        }
    }

    /// Says that it could not be told, where the server was not even asked.
    pub(super) fn keep(&self, why: &str) {
        if self.status.is_some() {
            let About { namespace, name, .. } = self.pod();
            let later = if self.noted.is_some() { "it is written as soon as it can be" } else { "and will not be" };
            warn(&format!("the network-status of pod {namespace}/{name} is not written, {later}: {why}"));
        }
    }
}

/// Only this key of the annotations is named, so no other writer's is lost; the pod of another UID is another pod, and refuses.
pub(super) async fn write(calls: &Calls, pod: &About<'_>, status: &str) -> Result<(), Failure> {
    let mut metadata = json!({ "annotations": { STATUS: status } });
    if let (false, Some(object)) = (pod.uid.is_empty(), metadata.as_object_mut()) {
        object.insert("uid".to_owned(), pod.uid.into());
    }
    let body = json!({ "metadata": metadata }).to_string();
    if calls.patch_is_refused() {
        match put(calls, pod, status).await {
            // Somebody has changed the role: it may be the other way round now.
            Err(Failure::Forbidden(_)) => {}
            done => return done,
        }
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match calls.merge::<PodObject>(&pod_status_path(pod)?, body.as_bytes()).await {
            Ok(object) if !object.is(pod.namespace, pod.name) => return Err(calls.foreign()),
            Err(Failure::Forbidden(_)) => {
                return put(calls, pod, status).await.inspect(|()| calls.note_patch_is_refused());
            }
            Err(Failure::Conflict(why) | Failure::Lasting(why)) if is_another(&why) => return Err(Failure::Missing),
            Err(Failure::Conflict(_)) if tries < TRIES_MAX => {}
            done => return done.map(|_| ()),
        }
    }
}

/// Whether a refusal is one of identity: another pod has the name. The server says so as a conflict of preconditions (409), or as a
/// change of what is immutable (422, apimachinery `ValidateObjectMetaUpdate`).
fn is_another(why: &str) -> bool {
    why.contains("UID in precondition") || why.contains("metadata.uid")
}

/// Writes what is noted in a file, by another request or an earlier process, unless something newer has been told since: the pod is looked at
/// first and the note then, so that a note which is older than the pod's status is not there any more, and the server refuses what was
/// changed after that look, however late it comes. What is there by now counts.
pub(super) async fn write_noted(calls: &Calls, file: &Path) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        let Some(Note { pod, .. }) = Unwritten::at(file.to_owned()).read() else { return Ok(()) };
        let pod = About { namespace: &pod.namespace, name: &pod.name, uid: &pod.uid };
        let mut object = look(calls, &pod).await?;
        let noted = Unwritten::at(file.to_owned());
        let Some(note) = noted.read() else { return Ok(()) };
        let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
        let metadata = json!({"annotations": {STATUS: note.status}, "uid": pod.uid, "resourceVersion": version});
        let body = json!({ "metadata": metadata }).to_string();
        annotate(&mut object, &note.status)?;
        tries += 1;
        let path = pod_status_path(&pod)?;
        let patched = match calls.patch_is_refused() {
            true => Err(Failure::Forbidden(String::new())),
            false => calls.merge::<PodObject>(&path, body.as_bytes()).await,
        };
        let done = match patched {
            Ok(patched) if !patched.is(pod.namespace, pod.name) => return Err(calls.foreign()),
            Err(Failure::Forbidden(_)) => calls.replace(&path, object.to_string().as_bytes()).await,
            patched => patched.map(|_| ()),
        };
        match done {
            Err(Failure::Conflict(why) | Failure::Lasting(why)) if is_another(&why) => return Err(Failure::Missing),
            Err(Failure::Conflict(_)) if tries < TRIES_MAX => {}
            done => return done.inspect(|()| noted.forget()),
        }
    }
}

/// The role that Multus' manifests ship allows no patch, but to read a pod and to write the whole of it back. The server refuses
/// what was changed meanwhile, so no other writer's annotation is lost this way either.
async fn put(calls: &Calls, pod: &About<'_>, status: &str) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        let mut object = look(calls, pod).await?;
        annotate(&mut object, status)?;
        tries += 1;
        match calls.replace(&pod_status_path(pod)?, object.to_string().as_bytes()).await {
            Err(Failure::Conflict(_)) if tries < TRIES_MAX => {}
            done => return done,
        }
    }
}

/// The whole of a pod, and no other of its name.
async fn look(calls: &Calls, pod: &About<'_>) -> Result<Value, Failure> {
    let object: Value = calls.get(&pod_path(pod.namespace, pod.name)?).await?;
    if !PodObject::deserialize(&object).is_ok_and(|object| object.is(pod.namespace, pod.name)) {
        return Err(calls.foreign());
    }
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    if !pod.uid.is_empty() && uid != pod.uid {
        return Err(Failure::Missing);
    }
    Ok(object)
}

fn annotate(object: &mut Value, status: &str) -> Result<(), Failure> {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err(Failure::Lasting("the API server answered a pod without metadata".to_owned()));
    };
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(STATUS.to_owned(), status.into());
    }
    Ok(())
}

/// The pod runs; its status says less than it has. That is said where people look: in the log and at the pod.
async fn keep(calls: &Calls, pod: &About<'_>, failure: &Failure, noted: Option<&Unwritten>, trace: Option<TraceId>) {
    let About { namespace, name, .. } = pod;
    // Deleted meanwhile, or replaced by another of its name: nobody will read it. Or the server will never take it.
    if matches!(failure, Failure::Missing | Failure::Lasting(_)) {
        noted.into_iter().for_each(Unwritten::forget);
    }
    let later = match (failure, noted) {
        (Failure::Missing, _) => return,
        (Failure::Lasting(_), _) => "and will not be",
        (_, Some(_)) => "it is written as soon as it can be",
        (_, None) => "and could not be noted for later",
    };
    let text = format!("the network-status of pod {namespace}/{name} is not written, {later}: {failure}");
    warn(&text);
    events::post_all(calls, pod, &[Event::status_unwritten(&text).of(trace)]).await;
}
