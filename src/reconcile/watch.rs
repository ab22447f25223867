//! Waits for changes of the host's links and for what is taken from its packet filter, and puts those of a moment together. It does
//! not know who uses a link or a rule.

use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use backends::nft::{RuleMonitor, Taken};
use backends::{LinkMonitor, Told};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Cause, Changed};
use crate::cni::error::{CniError, Code};
use crate::native;

/// Links of one event; more are as good as all.
const CHANGED_MAX: usize = 1000;

/// How long nobody reads after something was announced of the packet filter; of links it is the monitor's matter.
const GATHER: Duration = Duration::from_millis(200);

/// See [`watch_host`].
#[derive(Debug)]
pub struct Watch {
    links: LinkMonitor,
    /// None: this kernel has no packet filter that could be listened to.
    rules: Option<RuleMonitor>,
}

/// Listens to links and packet filter of the calling thread's namespace from now on.
///
/// # Errors
/// The kernel gives no socket, or does not list its links.
pub fn watch_host() -> Result<Watch, CniError> {
    let rules = RuleMonitor::open().map_err(native::from_backend)?;
    Ok(Watch { links: LinkMonitor::open().map_err(native::from_backend)?, rules })
}

impl Watch {
    /// Waits until `deadline` for a change, and from the first one on `quiet` long for others; none where nothing changed.
    ///
    /// # Errors
    /// What the kernel says; the watch is useless then.
    pub fn wait(&mut self, deadline: Instant, quiet: Duration) -> Result<Option<Cause>, CniError> {
        let mut heard = Heard::default();
        let mut until = deadline;
        while Instant::now() < until {
            let was_nothing = heard.is_nothing();
            let (of_links, of_rules) = self.ready(until)?;
            if of_links {
                heard.links(&mut self.links)?;
            }
            if of_rules && !of_links {
                // Each attachment with rules is announced: who reads each announcement takes the processor from who attaches.
                thread::park_timeout(GATHER);
            }
            if let Some(rules) = self.rules.as_mut().filter(|_| of_rules) {
                heard.taken |= rules.taken().map_err(native::from_backend)?;
            }
            if was_nothing && !heard.is_nothing() {
                until = (Instant::now() + quiet).min(deadline);
            }
        }
        Ok(heard.cause())
    }

    /// Which of both have something to tell, before `until`.
    fn ready(&self, until: Instant) -> Result<(bool, bool), CniError> {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up: what is left of a millisecond would be waited for by asking again and again.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let fds = [Some(self.links.as_fd()), self.rules.as_ref().map(AsFd::as_fd)];
        let mut fds: Vec<PollFd> = fds.into_iter().flatten().map(wanted).collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => {
                return Err(CniError::new(Code::Io, format!("wait for the kernel to tell of changes: {errno}")));
            }
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
        Ok((ready.next().unwrap_or(false), ready.next().unwrap_or(false)))
    }
}

/// What came together.
#[derive(Debug, Default)]
struct Heard {
    changes: Vec<backends::LinkChange>,
    is_lost: bool,
    taken: Taken,
}

impl Heard {
    fn is_nothing(&self) -> bool {
        self.changes.is_empty() && !self.is_lost && self.taken == Taken::default()
    }

    fn links(&mut self, links: &mut LinkMonitor) -> Result<(), CniError> {
        let at_once = Instant::now() + Duration::from_millis(1);
        let told = links.wait(at_once, &mut self.changes).map_err(native::from_backend)?;
        self.is_lost |= told == Told::Lost || self.changes.len() > CHANGED_MAX;
        if self.is_lost {
            self.changes.clear();
        }
        Ok(())
    }

    fn cause(self) -> Option<Cause> {
        if self.is_lost {
            return Some(Cause::Lost { taken: self.taken });
        }
        let (names, indices) = self.changes.into_iter().map(|change| (change.name, change.index)).unzip();
        let links = Changed { names, indices };
        let is_something = self.taken != Taken::default() || !links.indices.is_empty();
        is_something.then_some(Cause::Changed { links, taken: self.taken })
    }
}
