//! Whose turn it is among the threads of this process that want one pool. The pool's own lock knows processes alone, and waiting for
//! it takes a thread each time: what a daemon has many of at once waits here first. Knows paths only.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Those that somebody has.
static TAKEN: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
/// One of them is free again.
static FREED: Condvar = Condvar::new();

/// The turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(PathBuf);

impl Turn {
    /// Waits for it, `patience` long at most; none then.
    pub(crate) fn wait(path: &Path, patience: Duration) -> Option<Self> {
        let all = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let is_taken = |all: &mut Option<HashSet<PathBuf>>| all.as_ref().is_some_and(|all| all.contains(path));
        let waited = FREED.wait_timeout_while(all, patience, is_taken).unwrap_or_else(PoisonError::into_inner);
        let (mut all, time) = waited;
        if time.timed_out() {
            return None;
        }
        all.get_or_insert_default().insert(path.to_owned());
        Some(Self(path.to_owned()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(all) = &mut *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) {
            all.remove(&self.0);
        }
        FREED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn one_at_a_time_has_it_and_others_wait_for_no_other() {
        let (one, other) = (Path::new("/turn/one"), Path::new("/turn/other"));
        let first = Turn::wait(one, Duration::ZERO).unwrap();
        assert!(Turn::wait(one, Duration::from_millis(1)).is_none(), "it is taken");
        let second = Turn::wait(other, Duration::ZERO).unwrap();
        let waiting = thread::spawn(move || Turn::wait(one, Duration::from_secs(60)).is_some());
        drop(first);
        assert!(waiting.join().unwrap());
        drop(second);
        assert!(Turn::wait(one, Duration::ZERO).is_some(), "whoever had it has gone");
    }
}
