//! Network namespaces: opening one, and running something inside. The only place that enters one, by a thread that then
//! ends: there is no code to switch back, so nothing can forget it. Knows no link.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::statfs::{NSFS_MAGIC, PROC_SUPER_MAGIC, fstatfs};

use crate::error::{Error, ErrorKind};

/// The namespace of the calling thread, not of the process: other threads may be elsewhere.
const OWN: &str = "/proc/thread-self/ns/net";
/// Stack of a thread that enters a namespace, in bytes: it opens files and sockets and calls nothing deep.
pub(crate) const STACK_BYTES: usize = 256 * 1024;

/// An open network namespace: stays alive as long as this value, even if its path goes.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
    id: (u64, u64),
}

impl NetNs {
    /// Opens the namespace at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::NetnsMissing`] if the path does not exist (a file in the place of one of its folders included),
    /// [`ErrorKind::NotNetns`] if it is something else, both with the reference plugins' texts; [`ErrorKind::Io`] otherwise.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let act = || format!("failed to open netns \"{}\"", path.display());
        let failed = |errno: Errno| {
            let is_missing = matches!(errno, Errno::ENOENT | Errno::ENOTDIR);
            let kind = if is_missing { ErrorKind::NetnsMissing } else { ErrorKind::Io };
            let words = format!("failed to Statfs \"{}\": {}", path.display(), errno.desc().to_lowercase());
            Error::new(kind, act()).because_of(words)
        };
        let errno = |error: &std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
        // A FIFO in its place must not make the opening wait for a writer.
        let mut options = OpenOptions::new();
        let opened = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        Self::of_file(opened.map_err(|e| failed(errno(&e)))?, path)
    }

    /// The namespace that somebody else opened at `path`.
    ///
    /// # Errors
    /// As [`NetNs::open`], but for a path that does not exist.
    pub fn of_descriptor(descriptor: &impl AsFd, path: &Path) -> Result<Self, Error> {
        let act = || format!("failed to open netns \"{}\"", path.display());
        let own = descriptor.as_fd().try_clone_to_owned().map_err(|e| Error::new(ErrorKind::Io, act()).because(e))?;
        Self::of_file(File::from(own), path)
    }

    fn of_file(file: File, path: &Path) -> Result<Self, Error> {
        let act = || format!("failed to open netns \"{}\"", path.display());
        let failed = |errno: Errno| {
            let words = format!("failed to Statfs \"{}\": {}", path.display(), errno.desc().to_lowercase());
            Error::new(ErrorKind::Io, act()).because_of(words)
        };
        let errno = |error: &std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
        let magic = fstatfs(&file).map_err(failed)?.filesystem_type();
        // A kernel before 3.19 has its namespaces in procfs itself; entering one tells the rest.
        if magic != NSFS_MAGIC && magic != PROC_SUPER_MAGIC {
            let words = format!("unknown FS magic on \"{}\": {:x}", path.display(), magic.0);
            return Err(Error::new(ErrorKind::NotNetns, act()).because_of(words));
        }
        let metadata = file.metadata().map_err(|e| failed(errno(&e)))?;
        Ok(Self { file, path: path.to_owned(), id: (metadata.dev(), metadata.ino()) })
    }

    /// Opens the namespace of the calling thread.
    pub(crate) fn own() -> Result<Self, Error> {
        Self::open(Path::new(OWN))
    }

    /// Device and inode: equal for the same namespace, whatever its path.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Whether the calling thread is in this namespace.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if /proc cannot be read.
    pub fn is_current(&self) -> Result<bool, Error> {
        let own = std::fs::metadata(OWN)
            .map_err(|e| Error::at(ErrorKind::Io, "look up the own network namespace at", OWN).because(e))?;
        Ok(self.id == (own.dev(), own.ino()))
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` inside, in the calling thread, which has to end afterwards: it stays there.
    ///
    /// # Errors
    /// [`ErrorKind::NotNetns`] if it cannot be entered because it is another type of namespace, [`ErrorKind::Io`] otherwise.
    pub(crate) fn enter_for_good<T>(&self, f: impl FnOnce() -> T) -> Result<T, Error> {
        #[expect(clippy::disallowed_methods, reason = "the calling thread ends with what it was started for")]
        let entered = nix::sched::setns(&self.file, CloneFlags::CLONE_NEWNET);
        entered.map(|()| f()).map_err(|errno| self.not_entered(errno))
    }

    fn not_entered(&self, errno: Errno) -> Error {
        let kind = if errno == Errno::EINVAL { ErrorKind::NotNetns } else { ErrorKind::Io };
        let place = format!("\"{}\"", self.path.display());
        Error::at(kind, "enter network namespace", place).because_of(errno.desc().to_lowercase())
    }

    /// Runs `f` in a thread inside the namespace and waits for it. The thread then ends.
    ///
    /// # Errors
    /// [`ErrorKind::NotNetns`] if it cannot be entered because it is another type of namespace, [`ErrorKind::Panicked`] if
    /// `f` panics, [`ErrorKind::Io`] otherwise.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let place = || format!("\"{}\"", self.path.display());
        thread::scope(|scope| {
            let inside = move || self.enter_for_good(f);
            let thread = thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, inside)
                .map_err(|e| Error::at(ErrorKind::Io, "start a thread for network namespace", place()).because(e))?;
            match thread.join() {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(error),
                Err(panic) => {
                    let words = panic
                        .downcast_ref::<&str>()
                        .map(|text| (*text).to_owned())
                        .or_else(|| panic.downcast_ref::<String>().cloned())
                        .unwrap_or_default();
                    Err(Error::at(ErrorKind::Panicked, "panic inside network namespace", place()).because_of(words))
                }
            }
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_path_and_a_plain_file_are_told_apart() {
        let missing = NetNs::open(Path::new("/no/such/netns")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NetnsMissing);
        assert_eq!(
            missing.chain(),
            "failed to open netns \"/no/such/netns\": failed to Statfs \"/no/such/netns\": no such file or directory"
        );
        let below = NetNs::open(Path::new("/proc/version/netns")).unwrap_err();
        assert_eq!(below.kind(), ErrorKind::NetnsMissing, "{}", below.chain());
        let plain = NetNs::open(Path::new("/sys/kernel")).unwrap_err();
        assert_eq!(plain.kind(), ErrorKind::NotNetns);
        assert!(plain.chain().ends_with("unknown FS magic on \"/sys/kernel\": 62656572"), "{}", plain.chain());
    }

    #[test]
    fn another_type_of_namespace_is_not_entered() {
        let mount = NetNs::open(Path::new("/proc/self/ns/mnt")).unwrap();
        assert_eq!(mount.run(|| ()).unwrap_err().kind(), ErrorKind::NotNetns);
        assert!(!mount.is_current().unwrap());
        assert!(NetNs::own().unwrap().is_current().unwrap());
    }
}
