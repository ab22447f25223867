//! Who else is at work on the node: another installation, which is kept out, and a daemon, which is seen. It does not know a plan.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Places, Wish};

/// The locks of both folders, where both are changed. Of two that bring programs at once one would give the name to what the other has
/// half written.
///
/// # Errors
/// As [`hold`].
pub(super) fn hold_all(wish: &Wish, places: &Places) -> Result<Vec<Flock<File>>, String> {
    let (conf_dir, bin_dir) = (&places.conf_dir, &places.bin_dir);
    if *wish == Wish::Programs {
        // Whoever brings programs alone may not see the configurations.
        return hold(bin_dir).map(|held| vec![held]);
    }
    let mut held = vec![hold(conf_dir)?];
    let id = |folder: &Path| fs::metadata(folder).map(|found| (found.dev(), found.ino())).ok();
    // One that is not there has nothing in it, and one lock is not had twice.
    if id(bin_dir).is_some_and(|bin_dir| id(conf_dir) != Some(bin_dir)) {
        held.push(hold(bin_dir)?);
    }
    Ok(held)
}

/// The one lock of whoever changes the node's configurations, until it is dropped. It is not waited for.
///
/// # Errors
/// A sentence: another one is at work, or the folder cannot be opened.
pub fn hold(conf_dir: &Path) -> Result<Flock<File>, String> {
    let refused = |why: String| format!("{}: {why}", conf_dir.display());
    let folder = File::open(conf_dir).map_err(|e| refused(e.to_string()))?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => "another installation is at work".to_owned(),
        errno => refused(errno.to_string()),
    })
}

/// Whether anybody listens there. The question reaches nobody, for it is of another kind of socket than the one that listens (unix(7):
/// EPROTOTYPE).
pub(super) fn is_listened_on(path: &Path) -> bool {
    let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    asked.is_err_and(|error| error.raw_os_error() == Some(Errno::EPROTOTYPE as i32))
}
