//! What is read of the API's objects, and where they are. Nothing else of them is kept.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::NamespaceResourceScope;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

use super::call::Failure;
use super::dra::{PodClaims, PodSpec, PodStatus};
use crate::cluster::Name;
use crate::sources::{Definition, Pod};

/// Kubernetes' bound of a name (DNS-1123 subdomain).
const NAME_BYTES_MAX: usize = 253;

/// A network that pods may name (network CRD standard 3).
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct NetworkAttachmentDefinition {
    /// Its name, namespace and annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it is.
    #[serde(default)]
    pub spec: Spec,
}

/// See [`NetworkAttachmentDefinition`].
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Spec {
    /// A CNI configuration as text; empty: a file in confDir has it.
    #[serde(default)]
    pub config: String,
}

impl Resource for NetworkAttachmentDefinition {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "NetworkAttachmentDefinition".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "k8s.cni.cncf.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "network-attachment-definitions".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl From<NetworkAttachmentDefinition> for Definition {
    fn from(object: NetworkAttachmentDefinition) -> Definition {
        Definition { annotations: object.metadata.annotations.unwrap_or_default(), config: object.spec.config }
    }
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<T> {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default = "Vec::new")]
    pub(super) items: Vec<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default, rename = "continue")]
    next: String,
    #[serde(default)]
    resource_version: String,
}

impl<T> Page<T> {
    /// Whether it is a list of this kind: whatever is JSON reads as an empty one.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }

    /// From where on the list can be watched.
    pub(super) fn version(&self) -> Option<&str> {
        Some(self.metadata.resource_version.as_str()).filter(|version| is_version(version))
    }

    /// Where the next page is; none: this was the last one.
    pub(super) fn next(&self) -> Option<&str> {
        // A token is of base64's alphabet for addresses: whatever else is no token.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=' | b'.');
        Some(self.metadata.next.as_str()).filter(|next| !next.is_empty() && next.bytes().all(is_token))
    }
}

/// Whether it may be part of a path: versions are opaque, and yet of this alphabet wherever they come from.
pub(super) fn is_version(version: &str) -> bool {
    !version.is_empty() && version.len() <= NAME_BYTES_MAX && version.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What every object has.
#[derive(Default, Deserialize)]
pub(super) struct Named {
    #[serde(default)]
    pub(super) metadata: Meta,
}

/// What is read of a `Status`.
#[derive(Default, Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) message: String,
}

/// What is read of an object that is watched, beside its own parts.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

impl Meta {
    fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name && !self.uid.is_empty()
    }
}

/// A definition without what only those read who list them all.
#[derive(Debug, Default, Deserialize)]
pub(super) struct DefinitionObject {
    #[serde(default)]
    pub(super) metadata: Meta,
    #[serde(default)]
    pub(super) spec: Spec,
}

/// What is read of a pod.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PodObject {
    #[serde(default)]
    pub(super) metadata: Meta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

/// What is read of a node.
#[derive(Debug, Default, Deserialize)]
pub(super) struct NodeObject {
    #[serde(default)]
    pub(super) metadata: Meta,
}

/// Which object an answer is: a proxy's page is JSON, too.
pub(super) trait Identity {
    /// Whether it is the one of this namespace and name, and an object at all.
    fn is(&self, namespace: &str, name: &str) -> bool;
}

impl Identity for PodObject {
    fn is(&self, namespace: &str, name: &str) -> bool {
        self.metadata.is(namespace, name)
    }
}

impl Identity for NodeObject {
    fn is(&self, namespace: &str, name: &str) -> bool {
        self.metadata.is(namespace, name)
    }
}

impl Identity for NetworkAttachmentDefinition {
    fn is(&self, namespace: &str, name: &str) -> bool {
        let ObjectMeta { namespace: of, name: called, uid, .. } = &self.metadata;
        of.as_deref() == Some(namespace) && called.as_deref() == Some(name) && uid.is_some()
    }
}

impl PodObject {
    /// Whether a node has been chosen for it.
    pub(super) fn is_bound(&self) -> bool {
        self.spec.is_bound()
    }

    /// Whether it is surely the one that the kubelet knows by this UID: that of a static pod is its manifest's, which the API's object notes.
    pub(super) fn is_of(&self, uid: &str) -> bool {
        let Meta { uid: own, annotations, .. } = &self.metadata;
        let of_manifest = annotations.as_ref().and_then(|all| all.get("kubernetes.io/config.hash"));
        own == uid || of_manifest.is_some_and(|hash| hash == uid)
    }

    pub(super) fn into_pod(self, namespace: &str, name: &str) -> (Pod, PodClaims) {
        let Meta { uid, annotations, .. } = self.metadata;
        let annotations = annotations.unwrap_or_default();
        let pod = Pod { namespace: namespace.to_owned(), name: name.to_owned(), uid, annotations };
        (pod, PodClaims::of(self.spec, self.status))
    }
}

/// The pod that something is told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// Empty where nobody knows.
    pub(super) uid: &'a str,
}

/// Names come from annotations and from the runtime: only what is one may be part of a path.
pub(super) fn checked<'a>(what: &str, name: &'a str) -> Result<&'a str, Failure> {
    let is_name_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if bytes.len() <= NAME_BYTES_MAX && ends(bytes.first()) && ends(bytes.last()) && name.bytes().all(is_name_byte) {
        return Ok(name);
    }
    Err(Failure::Lasting(format!(
        "{what} {name:?} is no name of an object: lower-case letters, digits, '-' and '.' are"
    )))
}

/// Where a pod is.
pub(super) fn pod_path(namespace: &str, name: &str) -> Result<String, Failure> {
    Ok(format!("/api/v1/namespaces/{}/pods/{}", checked("namespace", namespace)?, checked("pod", name)?))
}

/// Where a pod's status is.
pub(super) fn pod_status_path(pod: &About) -> Result<String, Failure> {
    Ok(pod_path(pod.namespace, pod.name)? + "/status")
}

/// Where a node is.
pub(super) fn node_path(name: &str) -> Result<String, Failure> {
    Ok(format!("/api/v1/nodes/{}", checked("node", name)?))
}

/// Where a namespace's events are.
pub(super) fn events_path(namespace: &str) -> Result<String, Failure> {
    Ok(format!("/api/v1/namespaces/{}/events", checked("namespace", namespace)?))
}

/// Where a resource claim is.
pub(super) fn claim_path(namespace: &str, name: &str) -> Result<String, Failure> {
    let (namespace, name) = (checked("namespace", namespace)?, checked("resource claim", name)?);
    Ok(format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}"))
}

/// Where the slices are that a driver of devices has on a node.
pub(super) fn slices_path(node: &str, driver: &str) -> Result<String, Failure> {
    let (node, driver) = (checked("node", node)?, checked("driver", driver)?);
    Ok(format!("/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName%3D{node}%2Cspec.driver%3D{driver}"))
}

/// Definitions of one page.
const PAGE_ITEMS: usize = 500;

/// Where everything is that is watched, for parameters to follow: the pods of a node.
pub(super) fn pods_of(node: &str) -> Result<String, Failure> {
    Ok(format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", checked("node", node)?))
}

/// The same: all definitions. Every parameter follows another.
pub(super) const ALL_DEFINITIONS: &str = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions?pretty=false";

/// Where all definitions are, a page after the other.
pub(super) fn definitions_path(next: Option<&str>) -> String {
    let next = next.map(|next| format!("&continue={next}")).unwrap_or_default();
    format!("/apis/k8s.cni.cncf.io/v1/network-attachment-definitions?limit={PAGE_ITEMS}{next}")
}

/// Where a definition is.
pub(super) fn definition_path((namespace, name): &Name) -> Result<String, Failure> {
    let (namespace, name) = (checked("namespace", namespace)?, checked("network", name)?);
    Ok(format!("/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions/{name}"))
}
