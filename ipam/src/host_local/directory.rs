//! One pool's directory on disk, under its lock: lease files, the last reserved address, the lock itself. Byte for
//! byte what the Go plugin reads and writes. Knows no ranges and no index.
//!
//! Everything goes through the directory's descriptor and nothing through a symbolic link in it, so what is done here
//! stays here.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::index::{self, MAX_LEASES, Seen, Time};
use crate::number::{Number, file_name, from_file_name};
use crate::turn::Turn;
use crate::{Error, ErrorKind, fault, spare};

/// The longest content of a lease in bytes: container id, line break, interface. A longer one is nobody's.
pub(super) const MAX_LEASE_BYTES: u64 = 4096;
/// The longest content of a `last_reserved_ip` that is looked at, in bytes: longer than any address.
const MAX_HINT_BYTES: u64 = 64;
/// How often the lock is taken anew because its directory was removed meanwhile, or a signal came.
const MAX_LOCK_TRIES: u32 = 64;
/// How long another process may hold the lock. It is held for milliseconds, by the Go plugin for a second in a pool of 60,000;
/// the caller is told to try again, and a command that waits here keeps another one of its attachment waiting.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// Opened for reading without following, blocking on a FIFO or being inherited.
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

/// What to do about a directory that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    Create,
    Leave,
}

/// What is at an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lease {
    /// Nothing.
    Absent,
    /// An empty file. Whoever creates one fills it before giving the lock back, so it is what a killed call of the Go
    /// plugin left: free.
    Empty,
    /// A lease; its content without white space around it.
    Held(Vec<u8>),
    /// Something that no host-local made: not a file, or too long. Taken, but nobody's.
    Foreign,
}

/// The last reserved address of a range set, as it was when it was read.
#[derive(Debug, Default)]
pub(super) struct Hint {
    pub(super) at: Option<Number>,
    file: Option<(File, u64)>,
}

/// A pool's directory. Its lock is held until this is dropped, and nothing else is ever waited for meanwhile, so
/// neither plexus nor a Go plugin can be part of a deadlock.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    file: File,
    boot: Option<u128>,
    _lock: Flock<File>,
    /// After the lock: who is next finds that free.
    _turn: Turn,
}

impl Directory {
    /// Opens and locks. `None`: there is no such directory, and none was to be made.
    ///
    /// Waits while another process holds the lock, which is a few file operations, but not for ever; the kernel takes it
    /// from a process that dies.
    pub(super) fn open(path: &Path, absent: Absent) -> Result<Option<Self>, Error> {
        let turn = Turn::wait(path, LOCK_WAIT_MAX).ok_or_else(|| held_too_long(path))?;
        for _ in 0..MAX_LOCK_TRIES {
            // A symbolic link here is the operator's choice of a place, and followed as the Go plugin follows it.
            let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            let file = match nix::fcntl::open(path, flags, Mode::empty()) {
                Ok(fd) => File::from(fd),
                // A plain file in its place holds no leases.
                Err(Errno::ENOENT | Errno::ENOTDIR) if absent == Absent::Leave => return Ok(None),
                Err(Errno::ENOENT | Errno::ENOTDIR) => {
                    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
                    made.map_err(|error| Error::io("mkdir", path, error))?;
                    continue;
                }
                Err(errno) => return Err(Error::io("opening the pool's directory", path, errno)),
            };
            if let Some(lock) = lock(&file, path)? {
                static BOOT: OnceLock<Option<u128>> = OnceLock::new();
                let boot = *BOOT.get_or_init(index::boot);
                return Ok(Some(Self { path: path.to_owned(), file, boot, _lock: lock, _turn: turn }));
            }
        }
        let text = format!("the directory {} vanishes while it is being locked", path.display());
        Err(Error::refused(ErrorKind::Unstable, "locking the pool", path.display().to_string(), text))
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What the directory is now; `None` where the kernel has no boot id.
    pub(super) fn seen(&self) -> Option<Seen> {
        let stat = fstat(&self.file).ok()?;
        Some(Seen {
            boot: self.boot?,
            dev: stat.st_dev,
            ino: stat.st_ino,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    /// Gives the directory a modification time that no clock gives any more. `None`: it cannot have one.
    pub(super) fn stamp(&self) -> Option<Seen> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        let second = i64::try_from(now).ok()?.checked_sub(2)?;
        let nanosecond = i64::try_from(index::random() % 1_000_000_000).ok()?;
        let time: Time = (second, nanosecond);
        futimens(&self.file, &TimeSpec::UTIME_OMIT, &TimeSpec::new(second, nanosecond)).ok()?;
        self.seen().filter(|seen| seen.mtime == time)
    }

    /// What is at an address.
    pub(super) fn lease(&self, at: Number) -> Result<Lease, Error> {
        self.read_lease(&file_name(at))
    }

    fn read_lease(&self, name: &str) -> Result<Lease, Error> {
        let fail = |error: io::Error| Error::io("reading the lease", &self.path_of(name), error);
        let file = match openat(&self.file, name, READ, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(Lease::Absent),
            // A symbolic link; a socket or a device without a driver.
            Err(Errno::ELOOP | Errno::ENXIO | Errno::ENODEV) => return Ok(Lease::Foreign),
            Err(errno) => return Err(fail(errno.into())),
        };
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() || metadata.len() > MAX_LEASE_BYTES {
            return Ok(Lease::Foreign);
        }
        let mut content = Vec::with_capacity(128);
        file.take(MAX_LEASE_BYTES).read_to_end(&mut content).map_err(fail)?;
        if content.is_empty() {
            return Ok(Lease::Empty);
        }
        Ok(Lease::Held(trimmed(&content).to_vec()))
    }

    /// Creates a lease; `false`: something is there already. A lease that cannot be written is not left.
    ///
    /// It is written before it has a name, so that a call killed in between leaves nothing; the name is given exclusively.
    pub(super) fn create_lease(&self, at: Number, content: &[u8]) -> Result<bool, Error> {
        let name = file_name(at);
        let fail = |error: io::Error| Error::io("creating the lease", &self.path_of(&name), error);
        fault::step("create lease").map_err(fail)?;
        let fresh = || {
            let flags = OFlag::O_WRONLY | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
            openat(&self.file, ".", flags, Mode::from_bits_truncate(0o600)).map(File::from).ok()
        };
        // None: the file system has no files without a name (NFS; open(2), O_TMPFILE: EOPNOTSUPP, EISDIR).
        let Some(file) = spare::take(&self.path).or_else(fresh) else {
            return self.create_lease_in_place(at, content);
        };
        fault::step("write lease").and_then(|()| file.write_all_at(content, 0)).map_err(fail)?;
        fault::step("name lease").map_err(fail)?;
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        match linkat(AT_FDCWD, unnamed.as_str(), &self.file, name.as_str(), AtFlags::AT_SYMLINK_FOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            // No /proc, or a security module that lets nobody give names.
            Err(Errno::ENOENT | Errno::EPERM | Errno::EACCES | Errno::EXDEV) => self.create_lease_in_place(at, content),
            Err(errno) => Err(fail(errno.into())),
        }
    }

    /// The same in two steps, as the Go plugin does it: where a call is killed in between, an empty file stays.
    fn create_lease_in_place(&self, at: Number, content: &[u8]) -> Result<bool, Error> {
        let name = file_name(at);
        let fail = |error: io::Error| Error::io("creating the lease", &self.path_of(&name), error);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = match openat(&self.file, name.as_str(), flags, Mode::from_bits_truncate(0o600)) {
            Ok(fd) => File::from(fd),
            Err(Errno::EEXIST) => return Ok(false),
            Err(errno) => return Err(fail(errno.into())),
        };
        if let Err(error) = file.write_all_at(content, 0) {
            let undone = self.remove_lease(at).err();
            return Err(fail(error).and_undo(undone));
        }
        Ok(true)
    }

    /// Removes what is at an address; nothing there is fine.
    pub(super) fn remove_lease(&self, at: Number) -> Result<(), Error> {
        let name = file_name(at);
        let removed = fault::step("remove lease")
            .and_then(|()| unlinkat(&self.file, name.as_str(), UnlinkatFlags::NoRemoveDir).map_err(io::Error::from));
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("removing the lease", &self.path_of(&name), error))
            }
            _ => Ok(()),
        }
    }

    /// The last reserved address of a range set. Whatever is wrong with the file, the order only starts anew.
    pub(super) fn hint(&self, set: usize) -> Hint {
        let flags = READ.difference(OFlag::O_RDONLY) | OFlag::O_RDWR;
        let Ok(fd) = openat(&self.file, hint_name(set).as_str(), flags, Mode::empty()) else { return Hint::default() };
        let file = File::from(fd);
        let Some(metadata) = file.metadata().ok().filter(std::fs::Metadata::is_file) else { return Hint::default() };
        let mut text = String::new();
        let read = (&file).take(MAX_HINT_BYTES).read_to_string(&mut text);
        let address = text.trim().parse().ok().filter(|_| read.is_ok());
        Hint { at: address.map(crate::number::number), file: Some((file, metadata.len())) }
    }

    /// Writes down the last reserved address.
    ///
    /// The text is written over the old one and then cut: truncating to nothing first makes ext4 write the file out
    /// when it is closed. Killed in between, some other address or none is in it, and the order starts elsewhere once.
    pub(super) fn set_hint(&self, set: usize, hint: Hint, at: Number) -> Result<(), Error> {
        let name = hint_name(set);
        let fail = |error: io::Error| Error::io("writing the last reserved address", &self.path_of(&name), error);
        fault::step("hint").map_err(fail)?;
        let (file, length) = match hint.file {
            Some(open) => open,
            None => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let mode = Mode::from_bits_truncate(0o600);
                let fd = openat(&self.file, name.as_str(), flags, mode).map_err(|errno| fail(errno.into()))?;
                (File::from(fd), u64::MAX)
            }
        };
        let text = file_name(at);
        file.write_all_at(text.as_bytes(), 0).map_err(fail)?;
        let new_length = u64::try_from(text.len()).unwrap_or(length);
        if length > new_length {
            fault::step("hint length").map_err(fail)?;
            file.set_len(new_length).map_err(fail)?;
        }
        Ok(())
    }

    /// Reads every lease. This is what the index saves.
    pub(super) fn list(&self, mut each: impl FnMut(Number, Lease)) -> Result<(), Error> {
        #[cfg(test)]
        fault::note_listing();
        let fail = |errno: Errno| Error::io("listing the pool's directory", &self.path, errno);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = Dir::openat(&self.file, ".", flags, Mode::empty()).map_err(fail)?;
        let mut leases = 0;
        for entry in listing.iter() {
            let entry = entry.map_err(fail)?;
            let Some((name, at)) = entry.file_name().to_str().ok().and_then(|name| Some((name, from_file_name(name)?)))
            else {
                continue;
            };
            leases += 1;
            if leases > MAX_LEASES {
                return Err(self.unstable(&format!("{} holds more than {MAX_LEASES} leases", self.path.display())));
            }
            each(at, self.read_lease(name)?);
        }
        Ok(())
    }

    /// The directory does what it cannot do while its lock is held.
    pub(super) fn unstable(&self, text: &str) -> Error {
        let place = self.path.display().to_string();
        Error::refused(ErrorKind::Unstable, "reading the pool", place, text.to_owned())
    }
}

/// Go creates the lock with this mode, and never removes it.
fn lock(directory: &File, path: &Path) -> Result<Option<Flock<File>>, Error> {
    let fail = |errno: Errno| Error::io("locking the pool", &path.join("lock"), errno);
    let opened = match openat(directory, "lock", READ, Mode::empty()) {
        Err(Errno::ENOENT) => openat(directory, "lock", READ | OFlag::O_CREAT, Mode::from_bits_truncate(0o750)),
        other => other,
    };
    let file = match opened {
        Ok(fd) => File::from(fd),
        // The directory itself was removed.
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(fail(errno)),
    };
    let locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => locked,
        Err((file, Errno::EWOULDBLOCK)) => match wait_for_lock(file, LOCK_WAIT_MAX) {
            Ok(Some(locked)) => locked,
            Ok(None) => return Err(held_too_long(path)),
            Err(Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(fail(errno)),
        },
        Err((_, Errno::EINTR)) => return Ok(None),
        Err((_, errno)) => return Err(fail(errno)),
    };
    // Whoever removed the directory while this waited took the lock's name with it: the next one locks another file.
    let same = |one: FileStat, other: FileStat| (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino);
    match (fstat(&*locked), fstatat(directory, "lock", AtFlags::AT_SYMLINK_NOFOLLOW)) {
        (Ok(mine), Ok(named)) if same(mine, named) => Ok(Some(locked)),
        (Ok(_), Ok(_) | Err(Errno::ENOENT)) => Ok(None),
        (Err(errno), _) | (_, Err(errno)) => Err(fail(errno)),
    }
}

/// Queues for the lock in a thread: the kernel hands it on in order, and knows no deadline. A thread that still waits when the
/// time is over gives the lock back as soon as it gets it.
pub(super) fn wait_for_lock(file: File, patience: Duration) -> Result<Option<Flock<File>>, Errno> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let queue = move || _ = sender.send(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno));
    thread::Builder::new().spawn(queue).map_err(|e| e.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))?;
    receiver.recv_timeout(patience).ok().transpose()
}

fn held_too_long(path: &Path) -> Error {
    let lock = path.join("lock").display().to_string();
    let seconds = LOCK_WAIT_MAX.as_secs();
    let text = format!("{lock} has been held by another call for {seconds} s (`fuser {lock}` names it)");
    Error::refused(ErrorKind::Busy, "locking the pool", lock, text)
}

fn hint_name(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}

/// White space as Go's `strings.TrimSpace` sees it.
fn trimmed(content: &[u8]) -> &[u8] {
    std::str::from_utf8(content).map_or(content.trim_ascii(), |text| text.trim().as_bytes())
}
