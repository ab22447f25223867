//! The backups in a directory, for whoever looks for those that nobody needs any more. Knows no container.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::backup::{self, SUFFIX, UNFINISHED};
use crate::error::{Error, ErrorKind};
use crate::nft::Owner;

/// More files than this are not looked at in one call: a node has some hundred pods.
const FILES_MAX: usize = 65_536;

/// A backup that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    path: PathBuf,
    /// `<sandbox>_<ifname>`; both may have the sign between them.
    stem: String,
    /// Network, sandbox and interface, where the backup says them.
    owner: Option<(String, String, String)>,
}

impl Backup {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is, where it says so: the reference plugin's does not.
    #[must_use]
    pub fn owner(&self) -> Option<Owner<'_>> {
        self.owner.as_ref().map(|(network, sandbox, ifname)| Owner { network, sandbox, ifname })
    }

    /// Whether it may be of this container.
    #[must_use]
    pub fn may_be_of(&self, sandbox: &str) -> bool {
        match &self.owner {
            Some((_, own, _)) => own == sandbox,
            None => self.stem.strip_prefix(sandbox).is_some_and(|rest| rest.starts_with('_')),
        }
    }

    /// Removes it. One that is gone is no error.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        backup::remove(&self.path)
    }
}

/// The backups of a directory, by name; those of a plugin that was killed while it wrote one, too. No directory: none.
///
/// # Errors
/// [`ErrorKind::Io`] if there is something that cannot be listed, [`ErrorKind::Invalid`] if it has more files than any node.
pub fn backups(directory: &Path) -> Result<Vec<Backup>, Error> {
    let place = || directory.display().to_string();
    let failed = |error: io::Error| Error::at(ErrorKind::Io, "list", place()).because(error);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for (position, entry) in entries.enumerate() {
        if position >= FILES_MAX {
            return Err(Error::at(ErrorKind::Invalid, "list", place()).because_of("more files than backups can be"));
        }
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with(UNFINISHED) {
            found.push(Backup { path: entry.path(), stem: name, owner: None });
        } else if let Some(stem) = name.strip_suffix(SUFFIX).filter(|stem| stem.contains('_')) {
            found.push(Backup { owner: owner_in(&entry.path()), path: entry.path(), stem: stem.to_owned() });
        }
    }
    found.sort_by(|a, b| a.stem.cmp(&b.stem));
    Ok(found)
}

/// The owner in a backup, if its file's name is that owner's: another's is not believed.
fn owner_in(path: &Path) -> Option<(String, String, String)> {
    let saved = backup::parse(path, &backup::bytes(path).ok()??).ok()?;
    let own = saved.beyond?;
    let owner = Owner { network: &own.network, sandbox: &own.sandbox, ifname: &own.ifname };
    let named = backup::path_of(path.parent()?, &owner).ok()?;
    (named == path).then_some((own.network, own.sandbox, own.ifname))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_are_listed_with_their_owners() {
        let directory = std::env::temp_dir().join(format!("listing-{}", std::process::id()));
        drop(fs::remove_dir_all(&directory));
        assert_eq!(backups(&directory).unwrap(), []);
        fs::create_dir(&directory).unwrap();
        let own = |sandbox: &str| {
            format!(r#"{{"plexus":{{"network":"n","sandbox":"{sandbox}","ifname":"b_c","netns":[1,2]}}}}"#)
        };
        for (name, text) in [
            ("a_b_c.json", own("a").as_str()),
            ("x_b_c.json", own("a").as_str()),
            ("go_eth0.json", r#"{"mtu":1500}"#),
            ("odd_eth0.json", "{"),
            ("other", ""),
            ("nothing.json", ""),
            (".unfinished-0123", ""),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
        let found = backups(&directory).unwrap();
        let stems: Vec<_> = found.iter().map(|one| one.stem.as_str()).collect();
        assert_eq!(stems, [".unfinished-0123", "a_b_c", "go_eth0", "odd_eth0", "x_b_c"]);
        let owners: Vec<_> = found.iter().filter_map(|one| one.owner().map(|owner| owner.ifname)).collect();
        assert_eq!(owners, ["b_c"], "a name that its text does not confirm says nothing");
        let of = |sandbox: &str| found.iter().filter(|one| one.may_be_of(sandbox)).count();
        assert_eq!((of("a"), of("a_b"), of("go"), of("g"), of("x")), (1, 0, 1, 0, 1));
        for one in &found {
            one.remove().unwrap();
            one.remove().unwrap();
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_is_no_directory_is_told() {
        assert_eq!(backups(Path::new("/proc/version")).unwrap_err().kind(), ErrorKind::Io);
    }
}
