//! What a request asks of a cluster, and what it tells it. Who answers (manifests in a directory, the API server) is behind one
//! trait: the engine knows no client.

use std::path::Path;

use ipnetwork::IpNetwork;

use crate::cni::args::Args;
use crate::cni::error::{CniError, Code};
use crate::cni::request::{Command, Request};
use crate::config::Config;
use crate::devices::{Devices, RESOURCE_NAME, checkpoint};
use crate::journal::PodName;
use crate::native;
use crate::sources::{Definition, Manifests, Pod, SourceError};

/// A definition's namespace and name.
pub type Name = (String, String);

/// What came of a request, for those who look at the pod and not at the node.
#[derive(Debug)]
pub enum News<'a> {
    /// All of it is attached.
    Attached {
        /// The network-status annotation.
        status: &'a str,
        /// In the order of ADD; those that say nothing of themselves left out.
        arrivals: Vec<Arrival<'a>>,
    },
    /// Nothing is.
    Failed {
        /// What the runtime was told.
        error: &'a CniError,
    },
    /// Something of it is not removed.
    Stuck {
        /// What the runtime was told.
        error: &'a CniError,
    },
}

/// One attachment that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// `namespace/name` of the definition, or the configuration's name.
    pub network: &'a str,
    /// The interface in the pod.
    pub ifname: &'a str,
    /// Its addresses.
    pub addresses: Vec<IpNetwork>,
}

/// Who knows pods and definitions.
pub trait Cluster {
    /// The pod that the runtime names; none where nobody can know it.
    ///
    /// # Errors
    /// It cannot be asked for, is another of the same name, or has gone.
    fn pod(&mut self, name: &PodName) -> Result<Option<Pod>, SourceError>;

    /// These will be asked for: whoever can fetches them together.
    fn expect(&mut self, _definitions: &[Name]) {}

    /// A definition. `awaited`: a pod names it, so one that is not there yet may be about to come.
    ///
    /// # Errors
    /// It cannot be asked for, or there is none.
    fn definition(&mut self, namespace: &str, name: &str, awaited: bool) -> Result<Definition, SourceError>;

    /// The devices that the kubelet allocated to a pod, asked for at most once a request. `kubelet`: its directory.
    ///
    /// # Errors
    /// Nobody can say which.
    fn devices(&mut self, pod: &PodName, kubelet: &Path) -> Result<Devices, SourceError> {
        checkpoint::devices(kubelet, &pod.uid)
    }

    /// Every definition there is; none where nobody can list them.
    ///
    /// # Errors
    /// They cannot be asked for.
    fn definitions(&mut self) -> Result<Vec<(Name, Definition)>, SourceError> {
        Ok(Vec::new())
    }

    /// What came of the request. It is too late for it to fail: what cannot be told is retried, and said.
    fn tell(&mut self, _pod: &PodName, _news: &News) {}
}

impl Cluster for Manifests {
    fn pod(&mut self, name: &PodName) -> Result<Option<Pod>, SourceError> {
        Manifests::pod(self, &name.namespace, &name.name, &name.uid).map(<Option<&Pod>>::cloned)
    }

    fn definition(&mut self, namespace: &str, name: &str, _awaited: bool) -> Result<Definition, SourceError> {
        Manifests::definition(self, namespace, name).cloned()
    }

    fn definitions(&mut self) -> Result<Vec<(Name, Definition)>, SourceError> {
        Ok(Manifests::definitions(self).map(|(name, definition)| (name.clone(), definition.clone())).collect())
    }
}

/// A cluster of which is told what would be, away from the node: a pod that no kubelet knows has the devices that its definitions
/// name.
pub struct Supposed<'a> {
    known: &'a mut dyn Cluster,
    resources: Vec<String>,
}

impl<'a> Supposed<'a> {
    /// `known`: everything else.
    pub fn new(known: &'a mut dyn Cluster) -> Supposed<'a> {
        Supposed { known, resources: Vec::new() }
    }
}

impl Cluster for Supposed<'_> {
    fn pod(&mut self, name: &PodName) -> Result<Option<Pod>, SourceError> {
        self.known.pod(name)
    }

    fn definition(&mut self, namespace: &str, name: &str, awaited: bool) -> Result<Definition, SourceError> {
        let found = self.known.definition(namespace, name, awaited)?;
        self.resources.extend(found.annotations.get(RESOURCE_NAME).cloned());
        Ok(found)
    }

    fn devices(&mut self, pod: &PodName, kubelet: &Path) -> Result<Devices, SourceError> {
        let known = self.known.devices(pod, kubelet).unwrap_or_default();
        if !known.is_empty() {
            return Ok(known);
        }
        let mut supposed = Devices::default();
        for (number, resource) in self.resources.iter().enumerate() {
            // What can be no resource has no devices.
            let _ = supposed.add(resource, &format!("<device {number} of {resource}>"));
        }
        Ok(supposed)
    }
}

/// Whether the API server is asked for pods and definitions: a kubeconfig is configured, or this process runs in a pod of the
/// cluster, and no directory of manifests is in its place.
pub fn has_api(config: &Config) -> bool {
    config.manifests.is_none() && (config.kubeconfig.is_some() || is_in_cluster())
}

/// Whether this process runs in a pod of the cluster.
pub fn is_in_cluster() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_set("KUBERNETES_SERVICE_HOST") && is_set("KUBERNETES_SERVICE_PORT")
}

/// What the configuration's directory of manifests says; nothing where it names none.
///
/// # Errors
/// The directory cannot be read, or contradicts itself.
pub fn manifests(config: &Config) -> Result<Manifests, CniError> {
    config.manifests.as_deref().map_or_else(|| Ok(Manifests::default()), Manifests::load).map_err(refuse)
}

/// A failure to know, in the protocol's words: what another attempt may find is one to try again.
pub fn refuse(error: SourceError) -> CniError {
    let code = if error.is_transient() { Code::TryAgainLater } else { Code::InvalidConfig };
    CniError::new(code, native::chain(&error))
}

/// The pod that a request names.
pub fn pod_name(args: &str) -> Option<PodName> {
    // What is no pair is passed on to the plugins as it is: they say so in their own words.
    let args = Args::parse(args).unwrap_or_default();
    args.pod_name().filter(|name| !name.is_empty()).map(|name| PodName {
        namespace: args.pod_namespace().filter(|ns| !ns.is_empty()).unwrap_or("default").to_owned(),
        name: name.to_owned(),
        uid: args.pod_uid().unwrap_or_default().to_owned(),
    })
}

/// Whether a request cannot be served without its cluster: its pod is named, or its default networks can be definitions.
pub fn is_needed(config: &Config, request: &Request) -> bool {
    let names_pod = request.command == Command::Add && pod_name(&request.args).is_some();
    has_api(config) && (names_pod || config.names_definitions())
}
