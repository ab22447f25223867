//! Threads that wait for the kernel while a DEL has long been answered: what a detached child does for `plexus-cni`.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backends::{Deleter, Deletion};

use super::crew::{Crew, Kind, Post};
use crate::deleter::{self, Deletes};

/// More waste the kernel's time: 16 threads remove 401 pods a second, 32 remove 535, and more no more (a machine of two processors).
const DELETERS: usize = 24;
/// Deletions that wait for a deleter; beyond, whoever deletes waits by itself.
const WAITING_MAX: usize = 1024;
/// Stack of one, in bytes: it sends and receives one message.
const STACK_BYTES: usize = 64 << 10;

/// One message that the kernel takes long for.
#[derive(Debug)]
struct Work {
    deletion: Deletion,
    /// Closes when the kernel has answered.
    kept: Option<OwnedFd>,
    ended: Arc<AtomicBool>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Deleters(Crew<Work>);

impl Deleters {
    pub(super) fn start() -> io::Result<Deleters> {
        let kind = Kind { name: "deleter", number: DELETERS, stack: STACK_BYTES, waiting: WAITING_MAX };
        Crew::start(kind, work).map(Deleters)
    }
}

fn work(post: &Post<Work>) {
    while let Some(Work { deletion, kept, ended }) = post.next() {
        // Whoever gave it looks for itself at what became of it.
        let _ = deleter::carry_out(&deletion.socket, &deletion.message);
        drop((deletion, kept));
        ended.store(true, Ordering::Release);
    }
}

impl Deletes for Deleters {
    fn start(&self, deletion: Deletion, kept: Option<OwnedFd>) -> io::Result<Box<dyn Deleter>> {
        let ended = Arc::new(AtomicBool::new(false));
        let work = Work { deletion, kept, ended: Arc::clone(&ended) };
        self.0.give(work).map_err(|_| io::Error::other("all deleters are at work"))?;
        Ok(Box::new(Under(ended)))
    }
}

/// A deletion under way.
struct Under(Arc<AtomicBool>);

impl Deleter for Under {
    fn ended(&mut self) -> io::Result<bool> {
        Ok(self.0.load(Ordering::Acquire))
    }
}
