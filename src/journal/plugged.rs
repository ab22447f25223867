//! Interfaces that a pod got while it ran: where the records of these are, by the pod's sandbox, so that its DEL finds them without
//! looking through the journal. A folder for each such sandbox, and in it for each interface a symbolic link that is read and never
//! followed: the name of a record. One that leads nowhere means nothing.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{Error, HOLD_WAIT_MAX, Held, Journal, Key, Record, SUFFIX, at, file_name, line_of};

/// The directory of these, below `stateDir`.
pub const PLUGGED: &str = "plugged";
/// [`Key::plugin`] of such a record: no plugin has this name, for it would be one that plexus is executed as.
pub const HOT: &str = "delegate";
/// How often a DEL of the same sandbox may remove its folder between its making and the link in it.
const TRIES_MAX: u32 = 16;

impl Key {
    /// Whether it is of an interface that its pod got while it ran: then its network is that of the pod's own request.
    pub fn is_hot(&self) -> bool {
        self.plugin == HOT
    }
}

/// A line of a record: this interface was removed while the pod ran.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unplugged {
    /// Its name.
    pub(super) unplugged: String,
}

impl Record {
    fn index_of(&self, ifname: &str) -> Option<usize> {
        self.intent.attachments.iter().position(|attachment| attachment.ifname == ifname)
    }

    /// What it says of one interface, where it has it.
    pub fn only(&self, ifname: &str) -> Option<Record> {
        let at = self.index_of(ifname)?;
        let mut one = self.clone();
        // Its links leave by their names: the others of the group stay.
        one.intent.group = None;
        one.intent.attachments = self.intent.attachments.get(at..=at)?.to_vec();
        one.progress.retain(|progress| progress.attachment == at);
        one.progress.iter_mut().for_each(|progress| progress.attachment = 0);
        if let Some(done) = &mut one.commitment {
            done.outcomes = done.outcomes.get(at..=at)?.to_vec();
        }
        Some(one)
    }

    /// As if it never had this interface.
    pub(super) fn forget(&mut self, ifname: &str) {
        let Some(at) = self.index_of(ifname) else { return };
        self.intent.attachments.remove(at);
        self.progress.retain(|progress| progress.attachment != at);
        for progress in self.progress.iter_mut().filter(|progress| progress.attachment > at) {
            progress.attachment -= 1;
        }
        if let Some(done) = self.commitment.as_mut().filter(|done| at < done.outcomes.len()) {
            done.outcomes.remove(at);
        }
    }
}

impl Held {
    /// Appends that an interface was removed.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn unplugged(&mut self, ifname: &str) -> Result<(), Error> {
        self.append(line_of(&Unplugged { unplugged: ifname.to_owned() }, &self.path)?)
    }
}

impl Journal {
    fn plugs(&self, sandbox: &str) -> PathBuf {
        self.dir.with_file_name(PLUGGED).join(sandbox)
    }

    /// Notes where the record of an interface will be: before anything is done, so that whatever happens then is found.
    ///
    /// # Errors
    /// It cannot be written; the interface has a record of another name.
    pub fn plug(&self, key: &Key) -> Result<(), Error> {
        let (dir, name) = (self.plugs(&key.sandbox), file_name(key));
        let path = dir.join(&key.ifname);
        let failed = |e| at("noting the record", &path)(e);
        for _ in 0..TRIES_MAX {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
            match symlink(&name, &path) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists => match target(&path).map_err(failed)? {
                    Some(known) if known == name => return Ok(()),
                    Some(known) if fs::symlink_metadata(self.dir.join(&known)).is_ok() => {
                        let why = format!("the interface is attached already, by {known}");
                        return Err(failed(io::Error::new(ErrorKind::AlreadyExists, why)));
                    }
                    _ => remove(&path).map_err(failed)?,
                },
                noted => return noted.map_err(failed),
            }
        }
        Err(failed(super::busy()))
    }

    /// Takes hold of the record of such an interface; none where it has none.
    ///
    /// # Errors
    /// As [`Journal::hold`].
    pub fn hold_plugged(&self, sandbox: &str, ifname: &str) -> Result<Option<Held>, Error> {
        let path = self.plugs(sandbox).join(ifname);
        match target(&path).map_err(at("finding the record", &path))? {
            Some(name) => self.hold_at(self.dir.join(name), false, HOLD_WAIT_MAX),
            None => Ok(None),
        }
    }

    /// Such interfaces of a sandbox, by name. Nearly always there are none, and that costs one system call.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn plugged(&self, sandbox: &str) -> Result<Vec<String>, Error> {
        let dir = self.plugs(sandbox);
        let listed = fs::read_dir(&dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut names = match listed {
            Ok(entries) => entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
            // A sandbox with so long a name has none.
            Err(e) if is_absent(&e) => Vec::new(),
            Err(e) => return Err(at("listing the interfaces", &dir)(e)),
        };
        names.sort();
        Ok(names)
    }

    /// Forgets where the record of an interface was, after the record.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn unplug(&self, sandbox: &str, ifname: &str) -> Result<(), Error> {
        let dir = self.plugs(sandbox);
        let path = dir.join(ifname);
        remove(&path).map_err(at("forgetting the record", &path))?;
        match fs::remove_dir(&dir) {
            Err(e) if !is_absent(&e) && e.kind() != ErrorKind::DirectoryNotEmpty => {
                Err(at("forgetting the sandbox", &dir)(e))
            }
            _ => Ok(()),
        }
    }

    /// What the pod's own request attached, in one sandbox; none where plexus did not attach it. Reads the whole journal.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn own_record(&self, sandbox: &str) -> Result<Option<Record>, Error> {
        let records = self.all()?.records.into_iter().rev();
        Ok({ records }.find(|record| record.intent.key.sandbox == sandbox && record.intent.key.plugin.is_empty()))
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENAMETOOLONG as i32)
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|e| if is_absent(&e) { Ok(()) } else { Err(e) })
}

/// The record's name; none where there is no link, or one that names no record.
fn target(path: &Path) -> io::Result<Option<String>> {
    match fs::read_link(path) {
        Ok(target) => {
            let name = target.into_os_string().into_string().ok();
            Ok(name.filter(|name| name.ends_with(SUFFIX) && !name.contains('/')))
        }
        Err(e) if is_absent(&e) => Ok(None),
        // Something else lies there.
        Err(e) if e.kind() == ErrorKind::InvalidInput => Ok(None),
        Err(e) => Err(e),
    }
}
