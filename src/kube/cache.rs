//! What is kept of the objects that are watched: what requests read of them, and nothing else. It does not know where they come
//! from.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::dra::PodClaims;
use super::objects::{DefinitionObject, Meta, PodObject};
use crate::cluster::Name;
use crate::sources::{Definition, Pod};

/// Annotations of these are read, of a pod or of a definition.
const PREFIXES: [&str; 2] = ["k8s.v1.cni.cncf.io/", "v1.multus-cni.io/"];
/// What is written and never read, and is long.
const WRITTEN: [&str; 2] = ["k8s.v1.cni.cncf.io/network-status", "k8s.v1.cni.cncf.io/networks-status"];
/// Where a pod comes from that is not the API's: the kubelet's own, which the API has only an image of.
const SOURCE: &str = "kubernetes.io/config.source";
/// The UID that the kubelet and the runtime call such a pod by (kubelet `pkg/kubelet/types`).
const HASH: &str = "kubernetes.io/config.hash";

/// All that one table holds, in bytes: a cluster's definitions are as many as its tenants like, and the daemon stays small. What
/// has no room is asked for where it is needed.
const TABLE_BYTES_MAX: usize = 32 << 20;
/// What an object costs beside its texts, about.
const OBJECT_BYTES: usize = 256;

/// A kind of objects that is watched.
pub(super) trait Kept: Clone + PartialEq + DeserializeOwned + Serialize + Send + Sync + 'static {
    /// What is read of the API's object.
    type Object: DeserializeOwned + Send;
    /// Its plural, for people, and its directory.
    const KIND: &'static str;
    /// What the API calls a list of them.
    const LIST: &'static str;

    /// How an object is called.
    fn meta(object: &Self::Object) -> &Meta;
    /// What is kept of it.
    fn trimmed(object: Self::Object) -> Self;
    /// What it takes, in bytes, about.
    fn bytes(&self) -> usize;
}

/// A pod. Who has its name and namespace looks it up by them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptPod {
    uid: String,
    annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claims: Option<Box<PodClaims>>,
}

impl KeptPod {
    /// Whether it is the pod that the runtime calls by this UID. Without one nobody can say so.
    pub(super) fn is(&self, uid: &str) -> bool {
        !uid.is_empty() && (self.uid == uid || self.annotations.get(HASH).is_some_and(|hash| hash == uid))
    }

    /// As a request reads it.
    pub(super) fn into_pod(self, (namespace, name): Name) -> (Pod, PodClaims) {
        let KeptPod { uid, annotations, claims } = self;
        (Pod { namespace, name, uid, annotations }, claims.map(|claims| *claims).unwrap_or_default())
    }
}

impl Kept for KeptPod {
    type Object = PodObject;
    const KIND: &'static str = "pods";
    const LIST: &'static str = "PodList";

    fn meta(object: &PodObject) -> &Meta {
        &object.metadata
    }

    fn trimmed(object: PodObject) -> KeptPod {
        let (pod, claims) = object.into_pod("", "");
        let claims = (!claims.is_empty()).then(|| Box::new(claims));
        KeptPod { uid: pod.uid, annotations: read_of(pod.annotations), claims }
    }

    fn bytes(&self) -> usize {
        self.uid.len() + texts(&self.annotations) + self.claims.as_ref().map_or(0, |claims| claims.names.len() * 64)
    }
}

/// A definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptDefinition {
    annotations: BTreeMap<String, String>,
    config: String,
}

impl From<KeptDefinition> for Definition {
    fn from(KeptDefinition { annotations, config }: KeptDefinition) -> Definition {
        Definition { annotations, config }
    }
}

impl Kept for KeptDefinition {
    type Object = DefinitionObject;
    const KIND: &'static str = "definitions";
    const LIST: &'static str = "NetworkAttachmentDefinitionList";

    fn meta(object: &DefinitionObject) -> &Meta {
        &object.metadata
    }

    fn trimmed(object: DefinitionObject) -> KeptDefinition {
        let annotations = read_of(object.metadata.annotations.unwrap_or_default());
        let mut config = object.spec.config;
        config.shrink_to_fit();
        KeptDefinition { annotations, config }
    }

    fn bytes(&self) -> usize {
        self.config.len() + texts(&self.annotations)
    }
}

fn texts(annotations: &BTreeMap<String, String>) -> usize {
    annotations.iter().map(|(key, value)| key.len() + value.len()).sum()
}

fn read_of(mut annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
    annotations.retain(|key, _| {
        let is_read = PREFIXES.iter().any(|prefix| key.starts_with(prefix)) && !WRITTEN.contains(&key.as_str());
        is_read || key == SOURCE || key == HASH
    });
    annotations
}

/// What became of an object that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It was there, and nothing that is read has changed.
    Same,
    /// It is new, or other than before.
    New,
    /// There is no room for it; it is not there now.
    NoRoom,
}

/// Objects of one kind by their names.
#[derive(Debug)]
pub(super) struct Table<T> {
    items: BTreeMap<Name, T>,
    bytes: usize,
    /// Some had no room.
    has_gaps: bool,
}

impl<T: Kept> Table<T> {
    pub(super) fn new() -> Table<T> {
        Table { items: BTreeMap::new(), bytes: 0, has_gaps: false }
    }

    pub(super) fn get(&self, name: &Name) -> Option<&T> {
        self.items.get(name)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &T)> {
        self.items.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether there are others that had no room.
    pub(super) fn has_gaps(&self) -> bool {
        self.has_gaps
    }

    pub(super) fn put(&mut self, name: Name, item: T) -> Change {
        if self.items.get(&name).is_some_and(|known| *known == item) {
            return Change::Same;
        }
        self.remove(&name);
        let bytes = cost(&name, &item);
        if self.bytes.saturating_add(bytes) > TABLE_BYTES_MAX {
            self.has_gaps = true;
            return Change::NoRoom;
        }
        self.bytes += bytes;
        self.items.insert(name, item);
        Change::New
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, name: &Name) -> bool {
        let removed = self.items.remove(name);
        if let Some(item) = &removed {
            self.bytes = self.bytes.saturating_sub(cost(name, item));
        }
        removed.is_some()
    }

    /// Those that a list does not have.
    pub(super) fn absent_from(&self, list: &BTreeSet<Name>) -> Vec<Name> {
        self.items.keys().filter(|name| !list.contains(name)).cloned().collect()
    }

    /// A new list begins: what had no room may have some.
    pub(super) fn forget_gaps(&mut self) {
        self.has_gaps = false;
    }
}

fn cost<T: Kept>((namespace, name): &Name, item: &T) -> usize {
    OBJECT_BYTES + namespace.len() + name.len() + item.bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(name: &str) -> Name {
        ("default".to_owned(), name.to_owned())
    }

    #[test]
    fn nothing_is_kept_but_what_is_read() {
        let object = json!({"metadata": {"name": "a", "namespace": "default", "uid": "u", "resourceVersion": "7",
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {"k8s.v1.cni.cncf.io/networks": "blue", "v1.multus-cni.io/default-network": "d",
                "k8s.v1.cni.cncf.io/network-status": "[]", "theirs": "x", SOURCE: "file", HASH: "h"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}], "resourceClaims": [{"name": "r", "resourceClaimName": "claim"}]}});
        let kept = KeptPod::trimmed(serde_json::from_value(object).unwrap());
        let keys: Vec<&str> = kept.annotations.keys().map(String::as_str).collect();
        let read = ["k8s.v1.cni.cncf.io/networks", HASH, SOURCE, "v1.multus-cni.io/default-network"];
        assert_eq!(keys, read);
        assert!(kept.is("u") && kept.is("h") && !kept.is("") && !kept.is("other"));
        let (pod, claims) = kept.into_pod(name("a"));
        assert_eq!((pod.name.as_str(), pod.uid.as_str(), claims.node.as_str()), ("a", "u", "n"));
        assert!(claims.names.contains("claim"));
    }

    #[test]
    fn a_table_says_what_has_changed_and_has_an_end() {
        let mut table = Table::new();
        let of = |bytes: usize| KeptDefinition { config: "x".repeat(bytes), ..KeptDefinition::default() };
        assert_eq!(table.put(name("a"), of(5)), Change::New);
        assert_eq!(table.put(name("a"), of(5)), Change::Same);
        assert_eq!(table.put(name("a"), of(6)), Change::New);
        assert_eq!(table.put(name("b"), of(TABLE_BYTES_MAX)), Change::NoRoom);
        assert!(table.has_gaps() && table.get(&name("b")).is_none());
        assert_eq!(table.put(name("a"), of(TABLE_BYTES_MAX)), Change::NoRoom, "an old one is not kept in its place");
        assert!(table.get(&name("a")).is_none());
        assert_eq!(table.bytes, 0);
        assert_eq!(table.put(name("c"), of(TABLE_BYTES_MAX / 2)), Change::New);
        assert_eq!(table.absent_from(&[name("d")].into()), [name("c")]);
        assert!(table.remove(&name("c")) && !table.remove(&name("c")));
        assert_eq!(table.bytes, 0);
    }
}
