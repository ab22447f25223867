//! Files without a name, made before they are needed: whoever wants a new file writes one of these and gives it a name.
//!
//! ext4 gives no inode out again for a minute or more after it was freed, and looks at each of those first
//! (`recently_deleted`, fs/ext4/ialloc.c): where pods come and go, a new file takes 0.2 to 0.5 ms instead of 0.02. A process that
//! lives on makes them while nobody waits, as many as were wanted at once: a crowd of pods wants hundreds. Nobody else sees them, and
//! the kernel frees them when the process ends. Knows nothing of what they become.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::linkat;

/// How many are kept for a directory at first: as many as a pod's next attachments want of one.
const KEPT: usize = 2;
/// How many at most: each time that none was left twice as many are kept, until a crowd of pods finds one each.
const KEPT_MAX: usize = 128;
/// For how many directories at most: those wanted last.
const DIRECTORIES_MAX: usize = 24;
/// A directory that none was wanted for that long keeps none: who has a file open keeps its file system from being unmounted. Not
/// sooner than ext4 forgets freed inodes (RECENTCY_MIN, fs/ext4/ialloc.c), as closing these frees them.
const IDLE: Duration = Duration::from_secs(60);
/// As the files that they become: root's own.
const MODE: u32 = 0o600;

/// The process keeps none where this is not set.
static SPARES: OnceLock<Spares> = OnceLock::new();

/// From now on this process keeps some for each directory that one was wanted for, `most` in all.
pub fn keep(most: usize) {
    SPARES.get_or_init(|| Spares::new(most));
}

/// An empty file that can get a name in `directory`, open for reading and appending; none where none is kept.
pub fn take(directory: &Path) -> Option<File> {
    SPARES.get()?.take(directory)
}

/// Makes what is missing, for as long as `goes_on` says so before each. Where a directory has gone, or its file system has no files
/// without a name (NFS; open(2), O_TMPFILE), none is kept for it until it is wanted again.
pub fn refill(goes_on: impl Fn() -> bool) {
    SPARES.get().into_iter().for_each(|spares| spares.refill(&goes_on));
}

/// Whether there is something that [`let_go`] would close.
pub fn are_idle() -> bool {
    SPARES.get().is_some_and(|spares| spares.all().values().any(Spares::is_idle))
}

/// Closes what was not wanted for a while. Closing one writes to its file system.
pub fn let_go() {
    SPARES.get().into_iter().for_each(Spares::let_go);
}

/// Of one directory.
#[derive(Debug)]
struct Kept {
    files: Vec<File>,
    /// How many are to be kept.
    most: usize,
    wanted: Instant,
}

#[derive(Debug)]
struct Spares {
    /// Of all directories.
    most: usize,
    all: Mutex<HashMap<PathBuf, Kept>>,
    /// Whoever makes some: one at a time.
    maker: Mutex<()>,
}

impl Spares {
    fn new(most: usize) -> Self {
        Self { most, all: Mutex::default(), maker: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<PathBuf, Kept>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(kept: &Kept) -> bool {
        kept.wanted.elapsed() > IDLE
    }

    fn let_go(&self) {
        let idle: HashMap<PathBuf, Kept> = self.all().extract_if(|_, kept| Self::is_idle(kept)).collect();
        drop(idle); // outside the lock: nobody waits for a file system
    }

    fn take(&self, directory: &Path) -> Option<File> {
        let mut all = self.all();
        let wanted = Instant::now();
        let room = self.most.saturating_sub(all.values().map(|kept| kept.most).sum());
        if let Some(kept) = all.get_mut(directory) {
            kept.wanted = wanted;
            let taken = kept.files.pop();
            if taken.is_none() {
                kept.most += kept.most.min(KEPT_MAX - kept.most).min(room);
            }
            return taken;
        }
        if all.len() < DIRECTORIES_MAX && room >= KEPT {
            all.insert(directory.to_owned(), Kept { files: Vec::new(), most: KEPT, wanted });
        }
        None
    }

    /// Whoever wants one meanwhile gets it, and does not wait for the others. Who comes while somebody makes some leaves it to that one, who
    /// therefore looks once more after letting go.
    fn refill(&self, goes_on: &dyn Fn() -> bool) {
        while goes_on() && self.lacking().is_some() {
            let _maker = match self.maker.try_lock() {
                Err(TryLockError::WouldBlock) => return,
                Err(TryLockError::Poisoned(maker)) => maker.into_inner(),
                Ok(maker) => maker,
            };
            while goes_on()
                && let Some(directory) = self.lacking()
            {
                self.add(&directory);
            }
        }
    }

    fn add(&self, directory: &Path) {
        let made = make(directory);
        let mut all = self.all();
        match (made, all.get_mut(directory)) {
            (Ok(file), Some(kept)) => kept.files.push(file),
            (Ok(_), None) => {} // let go meanwhile
            (Err(_), _) => drop(all.remove(directory)),
        }
    }

    /// Where the most are missing.
    fn lacking(&self) -> Option<PathBuf> {
        let all = self.all();
        let missing = |kept: &Kept| kept.most.saturating_sub(kept.files.len());
        let (directory, kept) = all.iter().max_by_key(|(_, kept)| missing(kept))?;
        (missing(kept) > 0).then(|| directory.clone())
    }
}

fn make(directory: &Path) -> io::Result<File> {
    let flags = OFlag::O_TMPFILE.bits();
    OpenOptions::new().read(true).append(true).mode(MODE).custom_flags(flags).open(directory)
}

/// Gives a file its name, where nothing has that.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`]; [`io::ErrorKind::CrossesDevices`] where another file system lies at that path by now.
pub fn name(file: &File, path: &Path) -> io::Result<()> {
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn one_that_was_made_ahead_becomes_a_file_once() {
        let directory = std::env::temp_dir().join(format!("spare-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("a");
        let spares = Spares::new(2 * KEPT);
        let refill = || spares.refill(&|| true);
        assert!(spares.take(&directory).is_none(), "none is made yet");
        refill();
        refill();
        let mut file = spares.take(&directory).expect("one is made");
        file.write_all(b"x").unwrap();
        name(&file, &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
        let other = spares.take(&directory).expect("another one is made");
        assert_eq!(name(&other, &path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(spares.take(&directory).is_none(), "no more are kept");
        assert!(spares.take(Path::new("/other")).is_none() && spares.take(Path::new("/third")).is_none());
        assert!(!spares.all().contains_key(Path::new("/third")), "so many directories and no more");
        refill();
        spares.let_go();
        assert_eq!(spares.all().len(), 1, "what is wanted stays; where nothing can be made nothing is kept");
        spares.all().values_mut().for_each(|kept| kept.wanted = Instant::now() - 2 * IDLE);
        spares.let_go();
        assert!(spares.all().is_empty());
        assert!(spares.take(&directory).is_none());
        fs::remove_dir_all(&directory).unwrap();
        refill();
        assert!(spares.take(&directory).is_none(), "nothing is made where nothing is");
    }

    #[test]
    fn a_crowd_finds_as_many_as_the_one_before_it_wanted() {
        let directory = std::env::temp_dir().join(format!("spares-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let kept_after = |most: usize, wanted: usize| {
            let spares = Spares::new(most);
            (0..wanted).for_each(|_| drop(spares.take(&directory)));
            spares.refill(&|| true);
            spares.all().values().map(|kept| kept.files.len()).sum::<usize>()
        };
        assert_eq!([1, 2, 3, 4, 100].map(|wanted| kept_after(1000, wanted)), [2, 4, 8, 16, KEPT_MAX]);
        assert_eq!(kept_after(50, 100), 50, "no more than the process may have");
        assert_eq!(kept_after(1, 100), 0);
        let spares = Spares::new(1000);
        (0..5).for_each(|_| drop(spares.take(&directory)));
        // Asked once before it begins.
        let left = std::cell::Cell::new(1 + 3);
        spares.refill(&|| left.replace(left.get() - 1) > 0);
        assert_eq!(spares.all().values().map(|kept| kept.files.len()).sum::<usize>(), 3, "somebody waits");
        fs::remove_dir_all(&directory).unwrap();
    }
}
