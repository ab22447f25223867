//! The turn of one plugin in a pod: whoever chooses a routing table must have put something there before the next one chooses.
//!
//! It is the lock of the reference plugin, taken on the namespace itself: whatever path a namespace is opened by, it is one inode
//! (fs/nsfs.c). The reference plugin opens the path so that a file is made where none is; here the namespace is open already.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, ErrorKind};
use crate::netns::{NetNs, STACK_BYTES};

/// How long another one may have its turn, in milliseconds: it needs less than one.
const TURN_MS: u64 = 10_000;
const ACT: &str = "lock network namespace";

/// Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: Flock<OwnedFd>,
}

impl Turn {
    /// Waits for the turn. Only where it is another one's does a thread wait, because the kernel knows no bound for this.
    pub(crate) fn take(netns: &NetNs) -> Result<Self, Error> {
        let place = || format!("\"{}\"", netns.path().display());
        let file = netns.as_fd().try_clone_to_owned();
        let file = file.map_err(|e| Error::at(ErrorKind::Io, ACT, place()).because(e))?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Self { _lock: lock }),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(Error::io(ACT, place(), errno)),
        };
        let (sender, receiver) = sync_channel(1);
        // Should it come too late, nobody receives the lock, and sending it drops it.
        let wait = move || drop(sender.send(Flock::lock(file, FlockArg::LockExclusive)));
        let spawned = thread::Builder::new().stack_size(STACK_BYTES).spawn(wait);
        spawned.map_err(|e| Error::at(ErrorKind::Io, ACT, place()).because(e))?;
        match receiver.recv_timeout(Duration::from_millis(TURN_MS)) {
            Ok(Ok(lock)) => Ok(Self { _lock: lock }),
            Ok(Err((_, errno))) => Err(Error::io(ACT, place(), errno)),
            Err(RecvTimeoutError::Timeout) => {
                let words = format!("another plugin has had it for {TURN_MS} ms");
                Err(Error::at(ErrorKind::Timeout, ACT, place()).because_of(words))
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error::at(ErrorKind::Panicked, ACT, place())),
        }
    }
}
