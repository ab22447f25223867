//! Waits for changes of the host's links, and puts those of a moment together. It does not know who uses a link.

use std::time::{Duration, Instant};

use backends::{LinkMonitor, Told};

use super::{Cause, Changed};
use crate::cni::error::CniError;
use crate::native;

/// Links of one event; more are as good as all.
const CHANGED_MAX: usize = 1000;

/// See [`watch_links`].
#[derive(Debug)]
pub struct Watch {
    monitor: LinkMonitor,
}

/// Listens to the links of the calling thread's namespace from now on.
///
/// # Errors
/// The kernel gives no socket, or does not list its links.
pub fn watch_links() -> Result<Watch, CniError> {
    Ok(Watch { monitor: LinkMonitor::open().map_err(native::from_backend)? })
}

impl Watch {
    /// Waits until `deadline` for a change, and from the first one on `quiet` long for others; none where nothing changed.
    ///
    /// # Errors
    /// What the kernel says; the watch is useless then.
    pub fn wait(&mut self, deadline: Instant, quiet: Duration) -> Result<Option<Cause>, CniError> {
        let (mut changes, mut until, mut is_lost) = (Vec::new(), deadline, false);
        loop {
            let before = changes.len();
            match self.monitor.wait(until, &mut changes).map_err(native::from_backend)? {
                Told::Nothing => break,
                told => {
                    let is_first = !is_lost && before == 0 && (told == Told::Lost || !changes.is_empty());
                    is_lost |= told == Told::Lost || changes.len() > CHANGED_MAX;
                    if is_first {
                        until = Instant::now() + quiet;
                    }
                    if is_lost {
                        changes.clear();
                    }
                }
            }
        }
        if is_lost {
            return Ok(Some(Cause::Lost));
        }
        let (names, indices) = changes.into_iter().map(|change| (change.name, change.index)).unzip();
        let changed = Changed { names, indices };
        Ok((!changed.indices.is_empty()).then_some(Cause::Links(changed)))
    }
}
