//! The Kubernetes API as a source of pods and definitions, and as the place where a pod's status and events go.
//!
//! One connection a request, HTTP/2 where the server speaks it, so that several definitions cost one round trip. Every call has
//! a deadline, all calls of a request together have one; what can pass is tried again until then.
//! It does not know what a definition means, nor when it is asked.

mod call;
mod connect;
mod dra;
mod events;
mod kubelet;
mod objects;
mod proto;
mod status;
mod unwritten;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::runtime::{Builder, Runtime};

use crate::cluster::{Cluster, Name, News};
use crate::config::Config;
use crate::devices::{Devices, checkpoint};
use crate::journal::PodName;
use crate::sources::{Definition, Pod, SourceError};

use call::{Calls, Failure};
use dra::PodClaims;
pub use objects::NetworkAttachmentDefinition;
use objects::{DefinitionPage, Identity, PodObject};

/// The first pause before something that is not there yet is looked for again; it doubles.
const APPEAR_POLL: Duration = Duration::from_millis(100);

/// Pages of definitions: more than any cluster has.
const PAGES_MAX: usize = 20;

/// The cluster, live.
pub struct Live {
    runtime: Running,
    calls: Calls,
    /// How long something that is not there yet is waited for.
    appear_wait: Duration,
    /// Where statuses that could not be written are noted.
    state_dir: PathBuf,
    definitions: BTreeMap<Name, Definition>,
    /// What the pod says of its claims.
    claims: PodClaims,
    /// The API object's, which a static pod does not share with its runtime.
    uid: Option<String>,
}

impl Live {
    /// Reads the kubeconfig, or what a pod has of its cluster. Nothing is sent yet.
    ///
    /// # Errors
    /// It cannot be read, or says nothing that can be connected to.
    pub fn new(config: &Config) -> Result<Live, SourceError> {
        let until = Instant::now() + config.api_deadline;
        let refuse = |why| SourceError::Api { act: "preparing to ask the API server".to_owned(), why, transient: true };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| refuse(e.to_string()))?;
        // Files it names may be no files, and a program that it names may hang: nothing of that is waited for without an end.
        let kubeconfig = config.kubeconfig.clone();
        let handle = runtime.handle().clone();
        let connecting = runtime.spawn_blocking(move || handle.block_on(connect::client(kubeconfig.as_deref())));
        let connected = runtime.block_on(async { tokio::time::timeout(config.api_deadline, connecting).await });
        let (client, server) = match connected {
            Ok(Ok(connected)) => connected?,
            _ => {
                runtime.shutdown_background();
                return Err(refuse("the kubeconfig, or what it names, is not read within apiDeadlineMs".to_owned()));
            }
        };
        let calls = Calls::new(client, server, config.api_call_timeout, until);
        let (appear_wait, state_dir) = (config.appear_wait, config.state_dir.clone());
        Ok(Live {
            runtime: Running(Some(runtime)),
            calls,
            appear_wait,
            state_dir,
            definitions: BTreeMap::new(),
            claims: PodClaims::default(),
            uid: None,
        })
    }
}

/// A runtime that is left without waiting for what hangs in it (name servers, above all).
struct Running(Option<Runtime>);

impl Running {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        #[expect(clippy::expect_used, reason = "it is taken by drop alone")]
        let runtime = self.0.as_ref().expect("the runtime is there until it is dropped");
        runtime.block_on(future)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Cluster for Live {
    fn pod(&mut self, name: &PodName) -> Result<Option<Pod>, SourceError> {
        let PodName { namespace, name: pod_name, uid } = name;
        let act = || format!("asking the API server for pod {namespace}/{pod_name}");
        let path = objects::pod_path(namespace, pod_name).map_err(|e| e.told(act()))?;
        let asked = self.runtime.block_on(appearing::<PodObject>(&self.calls, &path, pod_name, self.appear_wait));
        let object = asked.map_err(|failure| match failure {
            Failure::Missing => SourceError::NoPod { namespace: namespace.clone(), name: pod_name.clone() },
            other => other.told(act()),
        })?;
        let (pod, claims) = object.into_pod(namespace, pod_name);
        self.claims = claims;
        pod.check_uid(uid)?;
        self.uid = Some(pod.uid.clone()).filter(|uid| !uid.is_empty());
        Ok(Some(pod))
    }

    fn expect(&mut self, definitions: &[Name]) {
        let distinct: BTreeSet<&Name> = definitions.iter().collect();
        // A single one is as quick when it is asked for.
        if distinct.len() < 2 {
            return;
        }
        let paths = distinct.into_iter().filter_map(|name| Some((name.clone(), objects::definition_path(name).ok()?)));
        let paths: Vec<(Name, String)> = paths.collect();
        let calls = &self.calls;
        let ask = async |(name, path): (Name, String)| (name, calls.get::<NetworkAttachmentDefinition>(&path).await);
        let found = self.runtime.block_on(join_all(paths.into_iter().map(ask)));
        // What failed is asked for again where it is needed, and its failure told there.
        let good =
            found.into_iter().filter_map(|(name, found)| Some((found.ok().filter(|one| one.is(&name.1))?, name)));
        self.definitions.extend(good.map(|(found, name)| (name, found.into())));
    }

    fn definition(&mut self, namespace: &str, name: &str, awaited: bool) -> Result<Definition, SourceError> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(known) = self.definitions.get(&key) {
            return Ok(known.clone());
        }
        let act = || format!("asking the API server for definition {namespace}/{name}");
        let path = objects::definition_path(&key).map_err(|e| e.told(act()))?;
        let wait = if awaited { self.appear_wait } else { Duration::ZERO };
        let asked = self.runtime.block_on(appearing::<NetworkAttachmentDefinition>(&self.calls, &path, name, wait));
        let found: Definition = asked.map(Definition::from).map_err(|failure| match failure {
            Failure::Missing => {
                SourceError::NoDefinition { namespace: key.0.clone(), name: key.1.clone(), hint: String::new() }
            }
            other => other.told(act()),
        })?;
        self.definitions.insert(key, found.clone());
        Ok(found)
    }

    fn definitions(&mut self) -> Result<Vec<(Name, Definition)>, SourceError> {
        let mut all = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let asked =
                self.runtime.block_on(self.calls.get::<DefinitionPage>(&objects::definitions_path(next.as_deref())));
            let page = asked.map_err(|e| e.told("asking the API server for all definitions".to_owned()))?;
            next = page.next().map(str::to_owned);
            all.extend(page.items.into_iter().map(|item| {
                let ObjectMeta { namespace, name, .. } = &item.metadata;
                ((namespace.clone().unwrap_or_default(), name.clone().unwrap_or_default()), item.into())
            }));
            if next.is_none() {
                break;
            }
        }
        Ok(all)
    }

    fn devices(&mut self, pod: &PodName, kubelet: &Path) -> Result<Devices, SourceError> {
        let asked = self.runtime.block_on(kubelet::devices(kubelet, pod, self.calls.time_of_one()))?;
        let mut devices = match asked {
            Some(devices) => devices,
            None => checkpoint::devices(kubelet, &pod.uid)?,
        };
        if !self.claims.is_empty() {
            let asked = dra::add(&self.calls, &pod.namespace, &self.claims, &mut devices);
            // Claims can be of anything: what is wrong with one matters where a device is lacking.
            devices.doubt = self.runtime.block_on(asked).err();
        }
        Ok(devices)
    }

    fn tell(&mut self, pod: &PodName, news: &News) {
        let uid = self.uid.as_deref().unwrap_or(&pod.uid);
        let pod = objects::Told { namespace: &pod.namespace, name: &pod.name, uid };
        self.runtime.block_on(status::tell(&self.calls, &self.state_dir, &pod, news));
    }
}

/// An object that may be about to come, and that is the one of this name.
async fn appearing<T>(calls: &Calls, path: &str, name: &str, wait: Duration) -> Result<T, Failure>
where
    T: serde::de::DeserializeOwned + Identity,
{
    let until = Instant::now() + wait;
    let mut pause = APPEAR_POLL;
    loop {
        match calls.get::<T>(path).await {
            Err(Failure::Missing) if Instant::now() + pause < until => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Ok(object) if !object.is(name) => {
                let why = "the answer is not the object that was asked for: is something else at the server's address?";
                return Err(Failure::Lasting(why.to_owned()));
            }
            other => return other,
        }
    }
}
