//! Where a request is served: what differs between `plexus-cni`, `plexus oneshot` and the daemon, behind one trait.
//!
//! It does not know what is served.

use std::fmt::Debug;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use backends::{Host, Kind, NetNs, Pod};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::cluster::{self, Cluster};
use crate::cni::error::{CniError, Code};
use crate::cni::request::Request;
use crate::config::Config;
use crate::deleter::{Child, Deletes};
use crate::handed::Knowledge;
use crate::log::warn;
use crate::phase::{Executed, Phase};
use crate::sight;
use crate::trace::{TRACEPARENT, TraceId};

/// What a call is answered: a result's bytes, if there are any.
pub type Served = Result<Option<Vec<u8>>, CniError>;

/// Opens the namespace that a request is about, in whatever thread.
pub type Opening = Box<dyn FnOnce() -> Result<NetNs, backends::Error> + Send>;

/// See the module.
pub trait Place: Debug {
    /// The cluster, for one request.
    ///
    /// # Errors
    /// It cannot be reached; what says where it is cannot be read.
    fn reach<'a>(&'a self, config: &Config, request: &Request) -> Result<Box<dyn Cluster + 'a>, CniError>;

    /// Whether there is an API server to ask here.
    fn has_api(&self, config: &Config) -> bool {
        cluster::has_api(config)
    }

    /// Whether the node's daemon is asked first, where one is configured.
    fn asks_daemon(&self) -> bool {
        false
    }

    /// What the daemon knows of the request, which is served here.
    fn hand(&self, _knowledge: Knowledge) {}

    /// Whether plugins are executed here, and are to be found for that.
    fn executes(&self) -> bool {
        true
    }

    /// Whether the request has been refused here for its caller to serve, who tells what comes of it.
    fn is_given_back(&self) -> bool {
        false
    }

    /// Whether it is the daemon: it may see other files than its callers.
    fn is_daemon(&self) -> bool {
        false
    }

    /// Whether this process becomes another one for the request, which begins anew.
    fn is_left(&self, _config: &Config, _request: &Request) -> bool {
        false
    }

    /// Opens CNI_NETNS.
    fn opening(&self, request: &Request) -> Opening {
        let path = request.netns.clone().unwrap_or_default();
        Box::new(move || NetNs::open(&path))
    }

    /// Who waits for the kernel when links are deleted.
    fn deletes(&self) -> &dyn Deletes {
        &Child
    }

    /// Held while links are made or looked at, where several requests at once would only wait for each other in the kernel: those that
    /// wait there for its one lock turn in circles on a processor (mutex_spin_on_owner, kernel/locking/mutex.c).
    fn lane(&self) -> Option<MutexGuard<'_, ()>> {
        None
    }

    /// The host's side.
    ///
    /// # Errors
    /// As [`Host::open`].
    fn host(&self) -> Result<Host, backends::Error> {
        Ok(Host::open()?.telling(warn))
    }

    /// Takes what a request that went well needs no longer: the host's side may serve another one, and the pod's may be closed when
    /// nobody waits for that.
    fn take_back(&self, _host: Host, _pod: Pod) {}

    /// Whether another thread of this request may find a processor that has nothing to do.
    fn has_idle_processor(&self) -> bool {
        has_processors()
    }

    /// A phase of the request took so long. One that comes again is added to what it took before.
    fn phase(&self, _phase: Phase, _taken: Duration) {}

    /// An attachment was made, in so long: by a kind, or by an executed plugin where there is none.
    fn attached(&self, _kind: Option<Kind>, _taken: Duration) {}

    /// A link could not be made.
    fn link_failed(&self, _why: &backends::Error) {}

    /// Under what all that is said of the request is found: where one process serves one request, what its caller gave.
    fn trace(&self) -> Option<TraceId> {
        std::env::var(TRACEPARENT).ok().and_then(|text| TraceId::parse(&text).ok())
    }

    /// The pid namespace of whoever attaches a pod, by its inode, or 0 where nobody knows it: it has the node's processes, where this
    /// process may be in a container. Only who collects asks for it: an ADD that cannot know it is as good.
    fn pid_ns(&self) -> u64 {
        sight::own_pid_ns().unwrap_or_default()
    }

    /// Called before anything is changed by a request that executes a plugin. It may wait until others have done so.
    ///
    /// # Errors
    /// It is not done here, but by the caller; or not now.
    fn allow_execution(&self, _request: &Request, _why: Executed) -> Result<(), CniError> {
        Ok(())
    }
}

/// Does what is, or is a part of, one phase, and says how long it took, however it ends.
pub fn timed<T>(place: &dyn Place, phase: Phase, act: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = act();
    place.phase(phase, begin.elapsed());
    done
}

/// A place that knows manifests only, and asks nobody.
#[derive(Debug)]
pub struct OfFiles;

/// Whether this process may use more than one. (`available_parallelism` reads six files of cgroups besides.)
fn has_processors() -> bool {
    let may = |set: CpuSet| (0..CpuSet::count()).filter(|&one| set.is_set(one).unwrap_or_default()).nth(1).is_some();
    sched_getaffinity(Pid::from_raw(0)).is_ok_and(may)
}

impl Place for OfFiles {
    fn reach<'a>(&'a self, config: &Config, _request: &Request) -> Result<Box<dyn Cluster + 'a>, CniError> {
        cluster::manifests(config).map(|local| Box::new(local) as Box<dyn Cluster>)
    }
}

/// What a request is refused with that its caller has to serve itself. Nobody reads it but by mistake.
pub fn given_back() -> CniError {
    CniError::new(Code::TryAgainLater, "this request executes plugins: plexus-cni serves it itself")
}
