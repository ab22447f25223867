//! `plexus oneshot`: one CNI request, served by the engine, exactly as `plexus-cni` serves it; it asks the Kubernetes API, where
//! one is configured.

use std::process::ExitCode;

use plexus::cluster::{self, Cluster};
use plexus::cni::{CniError, Request};
use plexus::config::Config;

/// Serves the request in the environment and on standard input.
pub(super) fn run() -> ExitCode {
    plexus::engine::serve_as("plexus-cni", reach)
}

fn reach(config: &Config, request: &Request) -> Result<Box<dyn Cluster>, CniError> {
    if cluster::is_needed(config, request) { open(config) } else { local(config, request) }
}

/// The manifests.
///
/// # Errors
/// They cannot be read.
pub(super) fn local(config: &Config, _request: &Request) -> Result<Box<dyn Cluster>, CniError> {
    of_files(config)
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
