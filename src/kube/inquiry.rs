//! The cluster for one request of a daemon: from what is known, and where that is not enough, one call of the API server for
//! each object that is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::ask;
use super::cache::Kept;
use super::call::Failure;
use super::cancel::{CANCELLED, Cancel};
use super::dra::PodClaims;
use super::known::{Known, count};
use super::limit::{End, Limit};
use super::status::Word;
use super::watch::{Collection, Standing};
use crate::cluster::{Cluster, Name, News};
use crate::devices::Devices;
use crate::journal::PodName;
use crate::log::warn;
use crate::sources::{Definition, Pod, SourceError};

/// How long is asked for what is known from before, while it is not known whether the server is away.
const LAST_KNOWN_WAIT: Duration = Duration::from_secs(3);

/// See the module.
pub struct Inquiry {
    known: Known,
    cancel: Cancel,
    status_before_answer: bool,
    /// What it tells waits for somebody to say so.
    later: bool,
    /// When every call has ended.
    end: End,
    /// What was asked for this request, or is used by it: it sees one and the same thing from the beginning to the end.
    definitions: BTreeMap<Name, Definition>,
    /// What the pod says of its claims.
    claims: PodClaims,
    /// The API object's UID, which a static pod does not share with its runtime.
    uid: Option<String>,
}

/// What is known of an object.
enum Found<T> {
    /// It is so, as far as the server has said.
    Now(T),
    /// It was so, and the server is away, or has not been heard yet.
    Then(T, Standing),
    /// Nothing.
    Nothing,
}

impl Inquiry {
    pub(super) fn new(known: Known, cancel: Cancel, status_before_answer: bool) -> Inquiry {
        let end = End::after(known.shared().deadline);
        Inquiry {
            known,
            cancel,
            status_before_answer,
            later: false,
            end,
            definitions: BTreeMap::new(),
            claims: PodClaims::default(),
            uid: None,
        }
    }

    /// What it tells, and what is not waited for, is told from the next [`Known::nudge`] on: the thread that tells it works longer than
    /// the request that did, and the kernel may give it that one's processor.
    pub fn told_later(self) -> Inquiry {
        Inquiry { later: true, ..self }
    }

    /// From what is known, or else by `asked`; where that fails because nobody answers, from what was known last.
    fn find<T, U>(
        &self,
        known: Found<T>,
        (what, is_pod): (&str, bool),
        made: impl Fn(T) -> U,
        asked: impl FnOnce(&Inquiry, End) -> Result<U, Failure>,
    ) -> Result<U, Failure> {
        let counters = &self.known.shared().counters;
        let count_hit = || {
            count(&counters.hits);
            if is_pod {
                count(&counters.pod_hits);
            }
        };
        if self.cancel.is_cancelled() {
            return Err(Failure::Passing(CANCELLED.to_owned()));
        }
        let last = match known {
            Found::Now(item) => {
                count_hit();
                return Ok(made(item));
            }
            Found::Then(item, standing) if standing.is_away() => {
                count_hit();
                count(&counters.last_known);
                say(what, &standing);
                return Ok(made(item));
            }
            Found::Then(item, standing) => Some((item, standing)),
            Found::Nothing => None,
        };
        count(&counters.misses);
        if is_pod {
            count(&counters.pod_misses);
        }
        // Who has an answer from before does not wait as long as who has none.
        let wait = End::after(Limit::own(LAST_KNOWN_WAIT));
        let end = if last.is_some() { self.end.or_sooner(wait) } else { self.end };
        match (asked(self, end), last) {
            (Err(failure), Some((item, standing))) if failure.is_passing() && !self.cancel.is_cancelled() => {
                count(&counters.last_known);
                say(what, &standing);
                Ok(made(item))
            }
            (found, _) => found,
        }
    }

    fn forget_known(&mut self) {
        (self.claims, self.uid) = (PodClaims::default(), None);
    }
}

/// `is_meant`: it is the very object, and not another of its name.
fn look<T: Kept>(all: &Collection<T>, name: &Name, is_meant: impl Fn(&T) -> bool) -> Found<T> {
    let standing = all.standing().clone();
    let found = all.table().get(name).filter(|item| is_meant(item)).cloned();
    match found {
        Some(item) if standing.is_synced && !standing.is_away() => Found::Now(item),
        Some(item) => Found::Then(item, standing),
        None => Found::Nothing,
    }
}

/// Whoever looks for the reason of a network that is not as the API has it finds this.
fn say(what: &str, standing: &Standing) {
    let why = standing.trouble.as_ref().map_or("it has not answered yet", |trouble| &trouble.why);
    let age = standing.confirmed.and_then(|time| SystemTime::now().duration_since(time).ok());
    let age = age.map_or_else(|| "of unknown age".to_owned(), |age| format!("{} s old", age.as_secs()));
    warn(&format!("{what} is from the last known ones, {age}: the API server does not answer: {why}"));
}

impl Cluster for Inquiry {
    fn pod(&mut self, name: &PodName) -> Result<Option<Pod>, SourceError> {
        self.forget_known();
        let key = (name.namespace.clone(), name.name.clone());
        let pods = self.known.shared().pods.as_ref();
        let known = pods.map_or(Found::Nothing, |pods| look(pods, &key, |pod| pod.is(&name.uid)));
        let found = self.find(
            known,
            (&format!("pod {}/{}", key.0, key.1), true),
            |pod| pod.into_pod(key.clone()),
            |inquiry, end| {
                let (name, wait) = (name.clone(), inquiry.known.shared().appear_wait);
                inquiry.known.ask(end, &inquiry.cancel, move |calls| {
                    let name = name.clone();
                    async move { ask::pod(&calls, &name, wait).await }
                })
            },
        );
        let (pod, claims) = found.map_err(|failure| ask::no_pod(name, failure))?;
        self.claims = claims;
        pod.check_uid(&name.uid)?;
        self.uid = Some(pod.uid.clone()).filter(|uid| !uid.is_empty());
        Ok(Some(pod))
    }

    fn expect(&mut self, definitions: &[Name]) {
        let all = &self.known.shared().definitions;
        let is_unknown = |name: &&Name| matches!(look(all, name, |_| true), Found::Nothing);
        let unknown: BTreeSet<Name> = definitions.iter().filter(is_unknown).cloned().collect();
        // A single one is as quick when it is asked for; and where nobody answers, each is told there.
        if unknown.len() < 2 || all.standing().is_away() {
            return;
        }
        let asked = self.known.ask(self.end, &self.cancel, move |calls| {
            let unknown = unknown.clone();
            async move { Ok(ask::several(&calls, unknown).await) }
        });
        self.definitions.extend(asked.unwrap_or_default());
    }

    fn definition(&mut self, namespace: &str, name: &str, awaited: bool) -> Result<Definition, SourceError> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(known) = self.definitions.get(&key) {
            return Ok(known.clone());
        }
        let known = look(&self.known.shared().definitions, &key, |_| true);
        let wait = if awaited { self.known.shared().appear_wait } else { Duration::ZERO };
        let what = format!("definition {namespace}/{name}");
        let found = self.find(known, (&what, false), Definition::from, |inquiry, end| {
            let key = key.clone();
            inquiry.known.ask(end, &inquiry.cancel, move |calls| {
                let key = key.clone();
                async move { ask::definition(&calls, &key, wait).await }
            })
        });
        let found = found.map_err(|failure| ask::no_definition(&key, failure))?;
        self.definitions.insert(key, found.clone());
        Ok(found)
    }

    fn definitions(&mut self) -> Result<Vec<(Name, Definition)>, SourceError> {
        let all = &self.known.shared().definitions;
        let standing = all.standing().clone();
        let known = || all.table().iter().map(|(name, item)| (name.clone(), item.clone().into())).collect();
        let known = match (standing.is_synced && !all.table().has_gaps(), standing.is_away()) {
            (true, false) => Found::Now(known()),
            _ if all.table().is_empty() => Found::Nothing,
            _ => Found::Then(known(), standing),
        };
        let asked = |inquiry: &Inquiry, end| {
            let ask = |calls| async move { ask::definitions(&calls).await };
            inquiry.known.ask(end, &inquiry.cancel, ask)
        };
        self.find(known, ("every definition", false), |all| all, asked).map_err(ask::no_list)
    }

    fn devices(&mut self, pod: &PodName, kubelet: &Path) -> Result<Devices, SourceError> {
        let (asked, kubelet, claims) = (pod.clone(), kubelet.to_owned(), self.claims.clone());
        let found = self.known.ask(self.end, &self.cancel, move |calls| {
            let (pod, kubelet, claims) = (asked.clone(), kubelet.clone(), claims.clone());
            async move { Ok(ask::devices(&calls, &pod, &kubelet, &claims).await) }
        });
        let act = || format!("asking for the devices of pod {}/{}", pod.namespace, pod.name);
        found.unwrap_or_else(|failure| Err(failure.told(act())))
    }

    fn tell(&mut self, pod: &PodName, news: &News) {
        let word = Word::of(&self.known.shared().state_dir, pod, self.uid.as_deref(), news);
        self.known.tell(word, self.status_before_answer && matches!(news, News::Attached { .. }));
        if !self.later {
            self.known.nudge();
        }
    }
}
