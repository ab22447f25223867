//! Tells when a folder of configurations changes. It may miss a folder that is made anew: whoever waits has a timer, too, and each
//! look makes up for it.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Reads of the kernel's queue in one go: each takes some hundred events, and what is left wakes the waiter again.
const READS_MAX: usize = 64;

/// The watched folders.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<Inotify>,
    folders: Vec<Folder>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Which folder had the path when it was watched: device and inode.
    watched: Option<((u64, u64), WatchDescriptor)>,
}

impl Watch {
    /// Of these folders, whether they are there or not.
    pub(super) fn new(paths: &[&Path]) -> nix::Result<Watch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut folders: Vec<Folder> = Vec::new();
        for path in paths {
            if !folders.iter().any(|folder| folder.path == **path) {
                folders.push(Folder { path: path.to_path_buf(), watched: None });
            }
        }
        let mut watch = Watch { inotify: Some(inotify), folders };
        watch.renew();
        Ok(watch)
    }

    /// Of nothing: the timer alone tells.
    pub(super) fn none() -> Watch {
        Watch { inotify: None, folders: Vec::new() }
    }

    /// Readable when something changed; until [`Watch::renew`].
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Forgets what was told, and watches folders that were made anew. To be called before a look: what comes after is told again.
    pub(super) fn renew(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        for _ in 0..READS_MAX {
            let Ok(events) = inotify.read_events() else { break }; // nothing is left
            for event in events.iter().filter(|event| event.mask.contains(AddWatchFlags::IN_IGNORED)) {
                // It was deleted: one that is made anew may have its inode.
                let of_event = |folder: &&mut Folder| folder.watched.is_some_and(|(_, watch)| watch == event.wd);
                self.folders.iter_mut().filter(of_event).for_each(|folder| folder.watched = None);
            }
        }
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for folder in &mut self.folders {
            let now = fs::metadata(&folder.path).map(|meta| (meta.dev(), meta.ino())).ok();
            if now.is_some() && folder.watched.map(|(known, _)| known) == now {
                continue;
            }
            if let Some((_, old)) = folder.watched.take() {
                let _ = inotify.rm_watch(old); // the kernel has done it for one that was deleted
            }
            folder.watched = now.and_then(|now| Some((now, inotify.add_watch(&folder.path, flags).ok()?)));
        }
    }
}
