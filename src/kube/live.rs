//! The cluster, live: a process that serves one request asks for each object that it needs.
//!
//! One connection a request, HTTP/2 where the server speaks it, so that several definitions cost one round trip. Every call has
//! a deadline, all calls of a request together have one; what can pass is tried again until then. Credentials that are refused, of which
//! others may have been written meanwhile, are read again once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::ask;
use super::call::Calls;
use super::connect;
use super::dra::PodClaims;
use super::limit::{self, End};
use super::status::{Told, Word};
use super::unwritten;
use crate::cluster::{Cluster, Name, News};
use crate::config::Config;
use crate::devices::Devices;
use crate::journal::PodName;
use crate::sources::{Definition, Pod, SourceError};

/// How long a pod that is attached waits for its status to be written: it is noted, and the next request writes it.
const TELL_TIME: Duration = Duration::from_secs(5);

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
        let end = End::after(limit::of_all(config));
        let refuse = |why| SourceError::Api { act: "preparing to ask the API server".to_owned(), why, transient: true };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| refuse(e.to_string()))?;
        let runtime = Running(Some(runtime));
        let connected = runtime.block_on(connect::within(config.kubeconfig.clone(), limit::of_all(config)))?;
        Ok(Live {
            runtime,
            calls: Calls::new(connected, limit::of_one(config), end).renewing(config.kubeconfig.clone()),
            appear_wait: config.appear_wait,
            state_dir: config.state_dir.clone(),
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
        let asked = self.runtime.block_on(ask::pod_by_cache(&self.calls, name, self.appear_wait));
        let (pod, claims) = asked.map_err(|failure| ask::no_pod(name, failure))?;
        self.claims = claims;
        pod.check_uid(&name.uid)?;
        self.uid = Some(pod.uid.clone()).filter(|uid| !uid.is_empty());
        Ok(Some(pod))
    }

    fn expect(&mut self, definitions: &[Name]) {
        let distinct: BTreeSet<Name> = definitions.iter().cloned().collect();
        // A single one is as quick when it is asked for.
        if distinct.len() > 1 {
            self.definitions.extend(self.runtime.block_on(ask::several(&self.calls, distinct)));
        }
    }

    fn definition(&mut self, namespace: &str, name: &str, awaited: bool) -> Result<Definition, SourceError> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(known) = self.definitions.get(&key) {
            return Ok(known.clone());
        }
        let wait = if awaited { self.appear_wait } else { Duration::ZERO };
        let asked = self.runtime.block_on(ask::definition_by_cache(&self.calls, &key, wait));
        let found = asked.map_err(|failure| ask::no_definition(&key, failure))?;
        self.definitions.insert(key, found.clone());
        Ok(found)
    }

    fn definitions(&mut self) -> Result<Vec<(Name, Definition)>, SourceError> {
        self.runtime.block_on(ask::definitions(&self.calls)).map_err(ask::no_list)
    }

    fn devices(&mut self, pod: &PodName, kubelet: &Path) -> Result<Devices, SourceError> {
        self.runtime.block_on(ask::devices(&self.calls, pod, kubelet, &self.claims))
    }

    fn tell(&mut self, pod: &PodName, news: &News) {
        let word = Word::of(&self.state_dir, pod, self.uid.as_deref(), news);
        self.runtime.block_on(async {
            if word.send(&self.calls.within(TELL_TIME)).await == Told::Written {
                unwritten::write_others(&self.calls, &self.state_dir).await;
            }
        });
    }
}
