//! What the daemon's own container keeps from it although it may have it. It does not know what is written there.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::log::{verbose, warn};

/// Forwarding, and what a kind sets of an interface.
const PARAMETERS: &str = "/proc/sys/net";

/// A container that is not privileged has `/proc/sys` read-only. Of that the part that is written gets a mount of its own, in the
/// container's mount namespace: SYS_ADMIN is enough, and the rest stays as it is. Called before there is another thread.
pub(super) fn prepare() {
    match open_parameters(Path::new(PARAMETERS)) {
        Ok(true) => verbose(|| format!("{PARAMETERS} was read-only, and is not any more")),
        Ok(false) => {}
        Err(errno) => warn(&format!(
            "{PARAMETERS} is read-only, and stays so: {}; a container needs the capability SYS_ADMIN, and no AppArmor profile that forbids mounts",
            errno.desc().to_lowercase()
        )),
    }
}

/// Whether anything was to be done.
fn open_parameters(tree: &Path) -> Result<bool, Errno> {
    let flags = statvfs(tree)?.flags();
    if !flags.contains(FsFlags::ST_RDONLY) {
        return Ok(false);
    }
    let none = None::<&str>;
    mount(Some(tree), tree, none, MsFlags::MS_BIND, none)?;
    let kept = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ];
    let kept = kept.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, flag)| flag);
    let writable = kept.fold(MsFlags::MS_BIND | MsFlags::MS_REMOUNT, |all, flag| all | flag);
    mount(none, tree, none, writable, none)?;
    Ok(true)
}
