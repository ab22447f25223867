//! What the daemon hands over with a request that its caller serves because plugins are executed for it: the pod and the definitions as
//! they were asked for, so that the API server is not asked again; and what the caller has to tell of it, for the daemon to tell.
//!
//! It does not know how either travels.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cluster::{Arrival, Cluster, Name, News};
use crate::cni::error::CniError;
use crate::cni::version::Version;
use crate::devices::Devices;
use crate::journal::PodName;
use crate::sources::{Definition, Pod, SourceError};

/// What was asked of a cluster for one request, and answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knowledge {
    /// The pod, where one was asked for and found.
    pod: Option<Pod>,
    definitions: Vec<(Name, Definition)>,
    /// By resource.
    devices: Option<BTreeMap<String, Vec<String>>>,
    /// Those that are the pod's own.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    processors: BTreeSet<u32>,
    /// Something was asked that is not in here.
    #[serde(skip)]
    has_gaps: bool,
}

impl Knowledge {
    /// As it is handed over; nothing where it would not do.
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.has_gaps { Vec::new() } else { serde_json::to_vec(self).unwrap_or_default() }
    }

    /// What was handed over; none where it is nothing, or not of this version.
    pub fn parse(bytes: &[u8]) -> Option<Knowledge> {
        serde_json::from_slice(bytes).ok()
    }
}

/// A cluster, and a note of all that it answers to one request.
pub struct Noting<'a> {
    asked: Box<dyn Cluster + 'a>,
    noted: &'a RefCell<Knowledge>,
}

impl<'a> Noting<'a> {
    /// See the type.
    pub fn new(asked: Box<dyn Cluster + 'a>, noted: &'a RefCell<Knowledge>) -> Noting<'a> {
        Noting { asked, noted }
    }
}

impl Cluster for Noting<'_> {
    fn pod(&mut self, name: &PodName) -> Result<Option<Pod>, SourceError> {
        let found = self.asked.pod(name)?;
        self.noted.borrow_mut().pod.clone_from(&found);
        Ok(found)
    }

    fn expect(&mut self, definitions: &[Name]) {
        self.asked.expect(definitions);
    }

    fn definition(&mut self, namespace: &str, name: &str, awaited: bool) -> Result<Definition, SourceError> {
        let found = self.asked.definition(namespace, name, awaited)?;
        self.noted.borrow_mut().definitions.push(((namespace.to_owned(), name.to_owned()), found.clone()));
        Ok(found)
    }

    fn devices(&mut self, pod: &PodName, kubelet: &Path) -> Result<Devices, SourceError> {
        let found = self.asked.devices(pod, kubelet);
        let mut noted = self.noted.borrow_mut();
        match &found {
            Ok(devices) if devices.doubt.is_none() => {
                noted.devices = Some(devices.to_lists());
                noted.processors.clone_from(&devices.processors);
            }
            // What was not to be had may be told in other words than these.
            _ => noted.has_gaps = true,
        }
        found
    }

    fn definitions(&mut self) -> Result<Vec<(Name, Definition)>, SourceError> {
        self.noted.borrow_mut().has_gaps = true;
        self.asked.definitions()
    }

    fn tell(&mut self, pod: &PodName, news: &News) {
        self.asked.tell(pod, news);
    }
}

/// What came of a request, with nothing borrowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tidings {
    /// The API object's UID in it.
    pub pod: PodName,
    /// The network-status annotation, where all is attached.
    pub status: Option<String>,
    arrivals: Vec<Arrived>,
    /// Why nothing is.
    error: Option<Map<String, Value>>,
    /// It is why something is not removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_stuck: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arrived {
    network: String,
    ifname: String,
    addresses: Vec<String>,
}

impl Tidings {
    /// Of a request that failed before anybody was asked.
    pub fn of_failure(pod: PodName, error: &CniError) -> Tidings {
        Tidings::of(pod, &News::Failed { error })
    }

    /// Of one that could not remove all.
    pub fn of_stuck(pod: PodName, error: &CniError) -> Tidings {
        Tidings::of(pod, &News::Stuck { error })
    }

    fn of(pod: PodName, news: &News) -> Tidings {
        let (status, arrivals, error) = match news {
            News::Attached { status, arrivals } => (Some((*status).to_owned()), arrivals.as_slice(), None),
            News::Failed { error } | News::Stuck { error } => {
                (None, &[][..], serde_json::from_slice(&error.to_json(Version::CURRENT)).ok())
            }
        };
        let arrived = |arrival: &Arrival| Arrived {
            network: arrival.network.to_owned(),
            ifname: arrival.ifname.to_owned(),
            addresses: arrival.addresses.iter().map(ToString::to_string).collect(),
        };
        let is_stuck = matches!(news, News::Stuck { .. });
        Tidings { pod, status, arrivals: arrivals.iter().map(arrived).collect(), error, is_stuck }
    }

    /// Tells it; whether there was something to tell.
    pub fn tell(&self, cluster: &mut dyn Cluster) -> bool {
        let error = self.error.as_ref().and_then(|object| CniError::from_object(object).ok());
        let arrivals = self.arrivals.iter().map(|arrived| Arrival {
            network: &arrived.network,
            ifname: &arrived.ifname,
            addresses: arrived.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        });
        let news = match (&self.status, &error) {
            (Some(status), _) => News::Attached { status, arrivals: arrivals.collect() },
            (None, Some(error)) if self.is_stuck => News::Stuck { error },
            (None, Some(error)) => News::Failed { error },
            (None, None) => return false,
        };
        cluster.tell(&self.pod, &news);
        true
    }
}

impl Knowledge {
    /// Whether nothing was asked: where there is no API server, for one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pod.is_none() && self.definitions.is_empty()
    }
}

/// The cluster as it was handed over.
pub struct Handed<'a> {
    knowledge: Knowledge,
    tell: Box<dyn Fn(&Tidings) + 'a>,
}

impl<'a> Handed<'a> {
    /// `tell`: takes what is to be told.
    pub fn new(knowledge: Knowledge, tell: impl Fn(&Tidings) + 'a) -> Handed<'a> {
        Handed { knowledge, tell: Box::new(tell) }
    }
}

/// What this node's daemon saw otherwise than this process does.
fn missing(act: String) -> SourceError {
    SourceError::Api { act, why: "the node's daemon did not hand it over".to_owned(), transient: true }
}

impl Cluster for Handed<'_> {
    fn pod(&mut self, name: &PodName) -> Result<Option<Pod>, SourceError> {
        let is_meant = |pod: &&Pod| pod.namespace == name.namespace && pod.name == name.name;
        let found = self.knowledge.pod.as_ref().filter(is_meant);
        let pod = found.ok_or_else(|| missing(format!("looking for pod {}/{}", name.namespace, name.name)))?;
        pod.check_uid(&name.uid)?;
        Ok(Some(pod.clone()))
    }

    fn definition(&mut self, namespace: &str, name: &str, _awaited: bool) -> Result<Definition, SourceError> {
        let is_meant = |((ns, known), _): &&(Name, Definition)| ns == namespace && known == name;
        let found = self.knowledge.definitions.iter().find(is_meant);
        let found = found.ok_or_else(|| missing(format!("looking for definition {namespace}/{name}")))?;
        Ok(found.1.clone())
    }

    fn devices(&mut self, pod: &PodName, _kubelet: &Path) -> Result<Devices, SourceError> {
        let act = || format!("looking for the devices of pod {}/{}", pod.namespace, pod.name);
        let lists = self.knowledge.devices.as_ref().ok_or_else(|| missing(act()))?;
        let refuse = |why| SourceError::Api { act: act(), why, transient: false };
        let mut devices = Devices::of_lists(lists).map_err(refuse)?;
        devices.processors.clone_from(&self.knowledge.processors);
        Ok(devices)
    }

    fn tell(&mut self, pod: &PodName, news: &News) {
        let uid = self.knowledge.pod.as_ref().map(|known| known.uid.clone()).filter(|uid| !uid.is_empty());
        let uid = uid.unwrap_or_else(|| pod.uid.clone());
        (self.tell)(&Tidings::of(PodName { uid, ..pod.clone() }, news));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::error::Code;

    #[derive(Default)]
    struct Heard(Vec<String>);

    impl Cluster for Heard {
        fn pod(&mut self, name: &PodName) -> Result<Option<Pod>, SourceError> {
            let annotations = [("a".to_owned(), "b".to_owned())].into();
            Ok(Some(Pod {
                namespace: name.namespace.clone(),
                name: name.name.clone(),
                uid: "of-api".into(),
                annotations,
            }))
        }

        fn definition(&mut self, _: &str, name: &str, _: bool) -> Result<Definition, SourceError> {
            Ok(Definition { config: format!("{{\"name\":\"{name}\"}}"), ..Definition::default() })
        }

        fn devices(&mut self, _: &PodName, _: &Path) -> Result<Devices, SourceError> {
            let mut devices = Devices::default();
            devices.add("a/vf", "0000:01:10.0").unwrap();
            devices.processors.extend([2, 3]);
            Ok(devices)
        }

        fn tell(&mut self, pod: &PodName, news: &News) {
            self.0.push(format!("{} {news:?}", pod.uid));
        }
    }

    fn pod() -> PodName {
        PodName { namespace: "ns".into(), name: "p".into(), uid: String::new() }
    }

    #[test]
    fn what_was_answered_is_answered_again() {
        let noted = RefCell::default();
        let mut noting = Noting::new(Box::<Heard>::default(), &noted);
        let asked = |cluster: &mut dyn Cluster| {
            let found =
                (cluster.pod(&pod()), cluster.definition("ns", "d", true), cluster.devices(&pod(), Path::new("/")));
            (found.0.unwrap(), found.1.unwrap(), found.2.unwrap())
        };
        let first = asked(&mut noting);
        let bytes = noted.borrow().to_bytes();
        let mut handed = Handed::new(Knowledge::parse(&bytes).unwrap(), |_| ());
        assert_eq!(asked(&mut handed), first);
        assert!(
            handed.definition("ns", "e", true).is_err() && handed.pod(&PodName { name: "q".into(), ..pod() }).is_err()
        );
        assert!(handed.pod(&PodName { uid: "another".into(), ..pod() }).is_err());
        drop(noting.definitions());
        assert_eq!(noted.borrow().to_bytes(), b"", "not all of it is in there");
        assert_eq!([Knowledge::parse(b""), Knowledge::parse(b"{}"), Knowledge::parse(b"[1")], [None, None, None]);
    }

    #[test]
    fn what_is_told_arrives() {
        let told = RefCell::new(Vec::new());
        let knowledge = Knowledge { pod: Heard::default().pod(&pod()).unwrap(), ..Knowledge::default() };
        let mut handed = Handed::new(knowledge, |tidings| {
            told.borrow_mut().push(serde_json::from_slice::<Tidings>(&serde_json::to_vec(tidings).unwrap()).unwrap());
        });
        let error = CniError::new(Code::InvalidConfig, "no");
        let arrivals = vec![Arrival { network: "n", ifname: "eth0", addresses: vec!["10.0.0.2/24".parse().unwrap()] }];
        let all =
            [News::Attached { status: "[]", arrivals }, News::Failed { error: &error }, News::Stuck { error: &error }];
        all.iter().for_each(|news| handed.tell(&pod(), news));
        let mut heard = Heard::default();
        assert!(told.borrow().iter().all(|tidings| tidings.tell(&mut heard)));
        assert_eq!(heard.0, all.each_ref().map(|news| format!("of-api {news:?}")));
        let nothing = Tidings { error: None, ..told.borrow()[1].clone() };
        assert!(!nothing.tell(&mut heard), "it says nothing");
    }
}
