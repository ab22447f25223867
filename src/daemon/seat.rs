//! The daemon as a place where a request is served: what it has that a process of one request has not.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backends::NetNs;

use super::deleters::Deleters;
use crate::cluster::{self, Cluster};
use crate::cni::error::CniError;
use crate::cni::request::Request;
use crate::config::Config;
use crate::deleter::Deletes;
use crate::kube::Live;
use crate::place::{self, OfFiles, Opening, Place};

/// What all requests share.
#[derive(Debug)]
pub(super) struct Shared {
    deleters: Deleters,
    lane: Mutex<()>,
}

impl Shared {
    pub(super) fn new() -> io::Result<Shared> {
        Ok(Shared { deleters: Deleters::start()?, lane: Mutex::new(()) })
    }
}

/// The place of one request.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    shared: &'a Shared,
    /// CNI_NETNS, as the caller opened it.
    netns: Arc<OwnedFd>,
    given_back: AtomicBool,
}

impl<'a> Seat<'a> {
    pub(super) fn new(shared: &'a Shared, netns: OwnedFd) -> Seat<'a> {
        Seat { shared, netns: Arc::new(netns), given_back: AtomicBool::new(false) }
    }

    /// Whether the caller has to serve it.
    pub(super) fn has_given_back(&self) -> bool {
        self.given_back.load(Ordering::Relaxed)
    }
}

impl Place for Seat<'_> {
    fn reach<'a>(&'a self, config: &Config, request: &Request) -> Result<Box<dyn Cluster + 'a>, CniError> {
        if !cluster::is_needed(config, request) {
            return OfFiles.reach(config, request);
        }
        Live::new(config).map(|live| Box::new(live) as Box<dyn Cluster>).map_err(cluster::refuse)
    }

    fn is_daemon(&self) -> bool {
        true
    }

    fn opening(&self, request: &Request) -> Opening {
        let netns = Arc::clone(&self.netns);
        let path = request.netns.clone().unwrap_or_default();
        Box::new(move || NetNs::of_descriptor(&netns, &path))
    }

    fn deletes(&self) -> &dyn Deletes {
        &self.shared.deleters
    }

    fn lane(&self) -> Option<MutexGuard<'_, ()>> {
        Some(self.shared.lane.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn allow_execution(&self) -> Result<(), CniError> {
        self.given_back.store(true, Ordering::Relaxed);
        Err(place::given_back())
    }
}
