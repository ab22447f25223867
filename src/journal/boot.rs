//! Which boot it is, and which the journal has seen: nothing of an older one is attached any more.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;

use super::{Error, Journal, at, read_bounded};

const BOOT_FILE: &str = "boot";
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The running kernel's boot id.
///
/// # Errors
/// It cannot be read: then nobody knows which record is of an older boot, and none may be taken for one.
pub fn boot_id() -> Result<&'static str, Error> {
    static BOOT_ID: OnceLock<Result<String, i32>> = OnceLock::new();
    let read = || fs::read_to_string(BOOT_ID_FILE).map(|id| id.trim().to_owned());
    let once = || read().map_err(|e| e.raw_os_error().unwrap_or(Errno::EIO as i32));
    let unread = |errno: &i32| at("reading the boot id", Path::new(BOOT_ID_FILE))(io::Error::from_raw_os_error(*errno));
    BOOT_ID.get_or_init(once).as_deref().map_err(unread)
}

impl Journal {
    /// Whether records of an older boot may still be there: true once per boot, until [`Journal::settle`].
    pub fn is_of_older_boot(&self, boot_id: &str) -> bool {
        let seen = || -> io::Result<Vec<u8>> { read_bounded(&self.open(&self.dir.join(BOOT_FILE), false)?) };
        seen().map_or(self.dir.is_dir(), |seen| seen.trim_ascii() != boot_id.as_bytes())
    }

    /// Records that what an older boot left has been collected. Not being able to write that is no failure: the next call
    /// collects again.
    pub fn settle(&self, boot_id: &str) {
        let written = || -> io::Result<()> {
            let mut file = self.open(&self.dir.join(BOOT_FILE), true)?;
            file.set_len(0)?;
            file.write_all(boot_id.as_bytes())
        };
        let _ = written();
    }
}
