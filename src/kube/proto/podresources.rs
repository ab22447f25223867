//! The kubelet's interface `v1.PodResourcesLister` (k8s.io/kubelet pkg/apis/podresources/v1/api.proto): the messages of which plexus
//! sends and reads something, with the fields that it reads. What else a kubelet says is skipped when a message is decoded.
//!
//! Written by hand from the .proto: seven messages of three fields need no compiler at build time.

/// `/v1.PodResourcesLister/List`: all pods of the node.
pub(in crate::kube) const LIST: &str = "/v1.PodResourcesLister/List";
/// `/v1.PodResourcesLister/Get`: one pod (behind the feature gate KubeletPodResourcesGet).
pub(in crate::kube) const GET: &str = "/v1.PodResourcesLister/Get";

/// Asks for all pods.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct ListRequest {}

/// All pods.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct ListResponse {
    /// In no order.
    #[prost(message, repeated, tag = "1")]
    pub(in crate::kube) pods: Vec<PodResources>,
}

/// Asks for one pod.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct GetRequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub(in crate::kube) name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub(in crate::kube) namespace: String,
}

/// One pod.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct GetResponse {
    /// The pod.
    #[prost(message, optional, tag = "1")]
    pub(in crate::kube) pod: Option<PodResources>,
}

/// What a pod has.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct PodResources {
    /// Its name.
    #[prost(string, tag = "1")]
    pub(in crate::kube) name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub(in crate::kube) namespace: String,
    /// Its containers.
    #[prost(message, repeated, tag = "3")]
    pub(in crate::kube) containers: Vec<ContainerResources>,
}

/// What a container has.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct ContainerResources {
    /// Its devices; a resource stands here once for each NUMA node.
    #[prost(message, repeated, tag = "2")]
    pub(in crate::kube) devices: Vec<ContainerDevices>,
}

/// Devices of one resource.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct ContainerDevices {
    /// The resource.
    #[prost(string, tag = "1")]
    pub(in crate::kube) resource: String,
    /// As the device plugin calls them.
    #[prost(string, repeated, tag = "2")]
    pub(in crate::kube) ids: Vec<String>,
}
