//! Threads that wait for the kernel while a DEL has long been answered: what a detached child does for `plexus-cni`.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use backends::{Deleter, Deletion};

use crate::deleter::{self, Deletes};

/// More waste the kernel's time: 16 threads remove 401 pods a second, 32 remove 535, and more no more (a machine of two processors).
const DELETERS: usize = 24;
/// Deletions that wait for a deleter; beyond, whoever deletes waits by itself.
const WAITING_MAX: usize = 1024;
/// Stack of one, in bytes: it sends and receives one message.
const STACK_BYTES: usize = 64 << 10;

/// One message that the kernel takes long for.
struct Work {
    deletion: Deletion,
    /// Closes when the kernel has answered.
    kept: Option<OwnedFd>,
    ended: Arc<AtomicBool>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Deleters {
    queue: SyncSender<Work>,
}

impl Deleters {
    pub(super) fn start() -> io::Result<Deleters> {
        let (queue, works) = mpsc::sync_channel(WAITING_MAX);
        let works = Arc::new(Mutex::new(works));
        for number in 0..DELETERS {
            let works = Arc::clone(&works);
            let named = thread::Builder::new().name(format!("deleter-{number}")).stack_size(STACK_BYTES);
            named.spawn(move || work(&works))?;
        }
        Ok(Deleters { queue })
    }
}

fn work(works: &Mutex<Receiver<Work>>) {
    loop {
        let next = works.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Work { deletion, kept, ended }) = next else { return };
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
        self.queue.try_send(work).map_err(|_| io::Error::other("all deleters are at work"))?;
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
