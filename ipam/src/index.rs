//! An index of one pool's directory, so that no call lists it. It may be lost, stale, damaged or impossible to write
//! at any moment: then the directory is listed once. It knows the directory only as a [`Seen`].
//!
//! # Why a trusted index is right
//!
//! Everything happens under the directory's own `flock`, which Go's host-local takes as well. The header says what the
//! directory was when plexus left it: boot, device, inode, modification time, change time. An index is trusted only
//! while all five are still so. A call that changes the directory goes through these steps:
//!
//! 1. leases are created and unlinked: the kernel gives the directory a new modification time;
//! 2. the changed blocks are written into the index (or a whole new index into a temporary file);
//! 3. the directory's modification time is set to a value never used before (a second ago, the nanoseconds random),
//!    and read back together with the change time that the kernel set;
//! 4. the header is written with both (and the temporary file renamed over the index).
//!
//! - Killed after 1 or 2: the header still has the old modification time. The directory has one from the kernel, which
//!   is later than the old one: the old one lay a second in the past when it was set. Not trusted.
//! - Killed after 3: the directory has the new value, the header an older one, and no value is used twice. Not trusted.
//! - Killed inside 4: the header has a checksum. A torn one is none.
//! - Go changes the directory between two calls: its modification time comes from the kernel's clock, whose grain is
//!   up to 4 ms before Linux 6.13, but step 3 left a value that the clock does not give any more. Not trusted.
//! - Somebody changes it and sets the modification time back (a restored backup): the change time tells. Not trusted,
//!   except when all of it happens inside the clock tick of step 3.
//! - Power is lost: nothing is synced, but the boot is another one. Not trusted.
//! - A file system that cannot hold the value of step 3 (no nanoseconds), or a directory whose times may not be set:
//!   the value read back is another one, step 4 does not happen. No index, every call lists.
//! - A call that changes nothing writes nothing.
//!
//! And a trusted index that is wrong all the same (somebody changed a file's content, or a block is damaged) decides
//! nothing: an address is given out by an exclusive create, a lease is found by its file's content, a damaged block is
//! known by its checksum. Each such surprise, and a pool that looks full, lead to one listing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

mod layout;
mod tables;

pub(crate) use layout::{Seen, Time, content_hash};
pub(crate) use tables::{Broken, MAX_LEASES, Tables, random};

use crate::fault;
use layout::{HEADER_BYTES, Header};
use tables::Blocks;

/// How much of a network's name is in the name of its index, in bytes: for people only.
const MAX_NAME_BYTES: usize = 64;

/// The boot's identity; `None` where the kernel does not tell, and then there is no index.
pub(crate) fn boot() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
}

/// The place of a pool's index.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    folder: PathBuf,
    name: String,
}

impl Index {
    /// The index of the directory at `pool`. The name is made of 128 bits of hash: it says nothing that could leave the
    /// folder, and should two pools ever meet in one name, their headers tell them apart.
    pub(crate) fn of(state_dir: &Path, pool: &Path) -> Self {
        let path = pool.as_os_str().as_encoded_bytes();
        let reversed: Vec<u8> = path.iter().rev().copied().collect();
        let network = pool.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let safe: String = network.chars().filter(char::is_ascii_alphanumeric).take(MAX_NAME_BYTES).collect();
        let name = format!("{safe}-{:016x}{:016x}", content_hash(path), content_hash(&reversed));
        Self { folder: state_dir.join("index"), name }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// The tables, if the directory is exactly what plexus left.
    pub(crate) fn open(&self, seen: &Seen) -> Option<Tables> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
        let file = options.open(self.path()).ok()?;
        let metadata = file.metadata().ok()?;
        // Nobody else's file may say what is free.
        if !metadata.is_file() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return None;
        }
        let mut bytes = [0; 128];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let header = Header::decode(&bytes).filter(|header| header.seen == *seen)?;
        Tables::open(file, metadata.len(), header.geometry)
    }

    /// Steps 3 and 4 (see above). `stamp` sets the directory's time and says what the directory is then.
    ///
    /// A failure leaves an index that is not trusted, so there is none to report.
    pub(crate) fn commit(&self, tables: &Tables, stamp: impl FnOnce() -> Option<Seen>) {
        match &tables.blocks {
            Blocks::File(file) => _ = write_header(file, tables, stamp),
            Blocks::Memory(memory) => _ = self.replace(memory, tables, stamp),
        }
    }

    fn replace(&self, memory: &[u8], tables: &Tables, stamp: impl FnOnce() -> Option<Seen>) -> Option<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).ok()?;
        let temporary = self.folder.join(format!("{}.new", self.name));
        // A left-over of a killed call.
        _ = std::fs::remove_file(&temporary);
        let written = || {
            fault::step("index file").ok()?;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).ok()?;
            file.write_all_at(memory, 0).ok()?;
            write_header(&file, tables, stamp)?;
            fault::step("index rename").ok()?;
            std::fs::rename(&temporary, self.path()).ok()
        };
        let done = written();
        if done.is_none() {
            // Half an index takes the space that may be missing.
            _ = std::fs::remove_file(&temporary);
        }
        done
    }
}

fn write_header(file: &File, tables: &Tables, stamp: impl FnOnce() -> Option<Seen>) -> Option<()> {
    fault::step("directory time").ok()?;
    let seen = stamp()?;
    let header = Header { seen, geometry: tables.geometry }.encode();
    debug_assert_eq!(u64::try_from(header.len()), Ok(HEADER_BYTES));
    fault::step("index header").ok()?;
    file.write_all_at(&header, 0).ok()
}

/// Makes an index trusted for a directory as it is, right or wrong.
#[cfg(test)]
pub(crate) fn trust_for_test(file: &File, seen: Seen) {
    let mut bytes = [0; 128];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let header = Header { seen, ..Header::decode(&bytes).unwrap() };
    file.write_all_at(&header.encode(), 0).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_folder() {
        let one = Index::of(Path::new("/s"), Path::new("/d/../../x y.z"));
        assert_eq!(one.path().parent(), Some(Path::new("/s/index")));
        assert!(one.name.starts_with("xyz-") && !one.name.contains(['.', '/']), "{}", one.name);
        let long = Index::of(Path::new("/s"), &Path::new("/d").join("n".repeat(255)));
        assert!(long.name.len() < 128);
        assert_ne!(
            Index::of(Path::new("/s"), Path::new("/a/n")).name,
            Index::of(Path::new("/s"), Path::new("/b/n")).name
        );
    }

    #[test]
    fn the_boot_has_an_identity() {
        assert!(boot().is_some_and(|boot| boot != 0));
    }
}
