//! Whose a socket's path is, by the file that was put there. It does not know what is said on it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// A socket's file, as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    path: PathBuf,
    /// By device and inode.
    id: (u64, u64),
}

/// Whose a socket's path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// This daemon's.
    Own,
    /// Another daemon has taken it.
    Anothers,
    /// Nobody's: whoever connects finds nothing.
    Lost,
}

impl Mark {
    pub(super) fn new(path: &Path, file: &fs::Metadata) -> Mark {
        Mark { path: path.to_owned(), id: (file.dev(), file.ino()) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is the file.
    pub(super) fn is(&self, file: &fs::Metadata) -> bool {
        (file.dev(), file.ino()) == self.id
    }

    /// Whose the path is now.
    pub(super) fn standing(&self) -> Standing {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if self.is(&found) => Standing::Own,
            Ok(found) if found.file_type().is_socket() && !is_left(&self.path) => Standing::Anothers,
            Ok(_) => Standing::Lost,
            // What cannot be looked at is most likely there.
            Err(error) => {
                if error.kind() == ErrorKind::NotFound {
                    Standing::Lost
                } else {
                    Standing::Own
                }
            }
        }
    }
}

/// Whether nobody listens there any more: who was killed leaves the file. The question reaches nobody, for it is of another kind of
/// socket than the one that listens; the kernel looks for that one first (unix(7): ECONNREFUSED, EPROTOTYPE).
fn is_left(path: &Path) -> bool {
    let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    asked.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn who_listens_has_it_and_who_has_gone_has_not() {
        let path = std::env::temp_dir().join(format!("plexus-mark-{}", std::process::id()));
        drop(fs::remove_file(&path));
        let bind = || UnixListener::bind(&path).unwrap();
        let own = bind();
        let mark = Mark::new(&path, &fs::metadata(&path).unwrap());
        assert_eq!(mark.standing(), Standing::Own);
        // The inode's number is not given out again while somebody has it.
        let kept = path.with_extension("kept");
        fs::rename(&path, &kept).unwrap();
        assert_eq!(mark.standing(), Standing::Lost);
        let other = bind();
        other.set_nonblocking(true).unwrap();
        assert_eq!(mark.standing(), Standing::Anothers);
        assert_eq!(other.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "it was not disturbed");
        drop(other);
        assert_eq!(mark.standing(), Standing::Lost, "its file is there still");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(mark.standing(), Standing::Lost);
        fs::remove_file(&path).unwrap();
        fs::remove_file(&kept).unwrap();
        drop(own);
    }
}
