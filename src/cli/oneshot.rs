//! `plexus oneshot`: one CNI request, served by the engine, exactly as `plexus-cni` serves it; it asks the Kubernetes API, where
//! one is configured.

use std::process::ExitCode;

use plexus::cluster::{self, Cluster};
use plexus::cni::{CniError, Request};
use plexus::config::Config;
use plexus::phase::Executed;
use plexus::place::{OfFiles, Place};
use plexus::refer::Lease;

/// Serves the request in the environment and on standard input.
pub(super) fn run() -> ExitCode {
    plexus::engine::serve_as("plexus-cni", &Oneshot::default())
}

#[derive(Debug, Default)]
struct Oneshot {
    lease: Lease,
}

impl Place for Oneshot {
    fn reach<'a>(&'a self, config: &Config, request: &Request) -> Result<Box<dyn Cluster + 'a>, CniError> {
        if cluster::is_needed(config, request) { open(config) } else { OfFiles.reach(config, request) }
    }

    fn allow_execution(&self, request: &Request, why: Executed) -> Result<(), CniError> {
        self.lease.take(request, why)
    }
}

fn of_files(config: &Config) -> Result<Box<dyn Cluster>, CniError> {
    cluster::manifests(config).map(|local| Box::new(local) as Box<dyn Cluster>)
}

/// The API server, where one is configured; else the manifests.
///
/// # Errors
/// What says where it is cannot be read.
#[cfg(feature = "api")]
pub(super) fn open(config: &Config) -> Result<Box<dyn Cluster>, CniError> {
    if !cluster::has_api(config) {
        return of_files(config);
    }
    plexus::kube::Live::new(config).map(|live| Box::new(live) as Box<dyn Cluster>).map_err(cluster::refuse)
}

/// The manifests: this build does not speak to the API.
///
/// # Errors
/// They cannot be read.
#[cfg(not(feature = "api"))]
pub(super) fn open(config: &Config) -> Result<Box<dyn Cluster>, CniError> {
    of_files(config)
}
