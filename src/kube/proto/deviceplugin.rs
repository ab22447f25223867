//! The kubelet's interface for device plugins (k8s.io/kubelet pkg/apis/deviceplugin/v1beta1/api.proto): who registers asks, and
//! then is asked.
//!
//! Written by hand from the .proto, as far as it is spoken.

use std::collections::BTreeMap;

/// `/v1beta1.Registration/Register`, of the kubelet.
pub(in crate::kube) const REGISTER: &str = "/v1beta1.Registration/Register";
/// What the kubelet calls.
pub(in crate::kube) const OPTIONS: &str = "/v1beta1.DevicePlugin/GetDevicePluginOptions";
pub(in crate::kube) const LIST_AND_WATCH: &str = "/v1beta1.DevicePlugin/ListAndWatch";
pub(in crate::kube) const ALLOCATE: &str = "/v1beta1.DevicePlugin/Allocate";
/// What it calls where the options say so, which they do not.
pub(in crate::kube) const PREFERRED: &str = "/v1beta1.DevicePlugin/GetPreferredAllocation";
pub(in crate::kube) const PRE_START: &str = "/v1beta1.DevicePlugin/PreStartContainer";
/// The version of both.
pub(in crate::kube) const VERSION: &str = "v1beta1";

/// How a device is.
pub(in crate::kube) const HEALTHY: &str = "Healthy";
pub(in crate::kube) const UNHEALTHY: &str = "Unhealthy";

/// A resource is offered at a socket beside the kubelet's. Of options there are none, which is an empty message.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct RegisterRequest {
    /// [`VERSION`].
    #[prost(string, tag = "1")]
    pub(in crate::kube) version: String,
    /// The socket's file name.
    #[prost(string, tag = "2")]
    pub(in crate::kube) endpoint: String,
    /// Its whole name.
    #[prost(string, tag = "3")]
    pub(in crate::kube) resource_name: String,
}

/// All devices of a resource.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct ListAndWatchResponse {
    /// Each once.
    #[prost(message, repeated, tag = "1")]
    pub(in crate::kube) devices: Vec<Device>,
}

/// A device.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct Device {
    /// Its id.
    #[prost(string, tag = "1")]
    pub(in crate::kube) id: String,
    /// [`HEALTHY`] or [`UNHEALTHY`].
    #[prost(string, tag = "2")]
    pub(in crate::kube) health: String,
    /// What it is near.
    #[prost(message, optional, tag = "3")]
    pub(in crate::kube) topology: Option<Topology>,
}

/// What a device is near.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct Topology {
    /// NUMA nodes.
    #[prost(message, repeated, tag = "1")]
    pub(in crate::kube) nodes: Vec<NumaNode>,
}

/// A NUMA node.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct NumaNode {
    /// Its number.
    #[prost(int64, tag = "1")]
    pub(in crate::kube) id: i64,
}

/// Devices are given to containers of a pod.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct AllocateRequest {
    /// One each.
    #[prost(message, repeated, tag = "1")]
    pub(in crate::kube) containers: Vec<ContainerRequest>,
}

/// Devices for a container.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct ContainerRequest {
    /// Their ids.
    #[prost(string, repeated, tag = "1")]
    pub(in crate::kube) ids: Vec<String>,
}

/// What the containers get.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct AllocateResponse {
    /// One each, in the order of the request.
    #[prost(message, repeated, tag = "1")]
    pub(in crate::kube) containers: Vec<ContainerResponse>,
}

/// What a container gets. Mounts (2) are none, and devices of the runtime (5) are named in annotations.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct ContainerResponse {
    /// Variables.
    #[prost(btree_map = "string, string", tag = "1")]
    pub(in crate::kube) envs: BTreeMap<String, String>,
    /// Device nodes.
    #[prost(message, repeated, tag = "3")]
    pub(in crate::kube) devices: Vec<DeviceSpec>,
    /// For the runtime.
    #[prost(btree_map = "string, string", tag = "4")]
    pub(in crate::kube) annotations: BTreeMap<String, String>,
}

/// A device node.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct DeviceSpec {
    /// Its path in the container.
    #[prost(string, tag = "1")]
    pub(in crate::kube) container_path: String,
    /// Its path on the host.
    #[prost(string, tag = "2")]
    pub(in crate::kube) host_path: String,
    /// For the container's devices cgroup.
    #[prost(string, tag = "3")]
    pub(in crate::kube) permissions: String,
}
