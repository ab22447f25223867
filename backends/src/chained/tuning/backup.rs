//! The reference plugin's backup of an attachment: `<dataDir>/<sandbox>_<ifname>.json`. Either plugin's DEL finds the other's.
//! A file is whole or not there, no link in its place is followed, and what is in it is believed by nobody but its reader.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::original::Original;
use crate::error::{Error, ErrorKind};
use crate::nft::Owner;

/// The largest backup, in bytes: more than all parameters that anybody sets.
const FILE_BYTES_MAX: u64 = 4 << 20;
const FILE_MODE: u32 = 0o600;
/// The reference plugin makes it without the right to enter, which only root does without.
const DIRECTORY_MODE: u32 = 0o700;
pub(super) const SUFFIX: &str = ".json";
/// How a file that is being written is called. No container id begins so.
pub(super) const UNFINISHED: &str = ".unfinished-";
/// The longest name of a file (NAME_MAX, include/uapi/linux/limits.h).
const NAME_BYTES_MAX: usize = 255;

/// Where the backup of an owner is.
pub(super) fn path_of(directory: &Path, owner: &Owner<'_>) -> Result<PathBuf, Error> {
    let name = format!("{}_{}{SUFFIX}", owner.sandbox, owner.ifname);
    // Both were checked by who read them from the environment. A name that is a path would leave the directory.
    if name.contains(['/', '\0']) {
        return Err(Error::invalid(format!("{name:?} is no file's name")));
    }
    Ok(directory.join(name))
}

/// The file's bytes; `None` if there is none.
pub(super) fn bytes(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |error: io::Error| Error::at(ErrorKind::Io, "read", path.display().to_string()).because(error);
    let wrong =
        |words: &'static str| Error::at(ErrorKind::Invalid, "read", path.display().to_string()).because_of(words);
    // A pipe in its place must not make the opening wait for a writer.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(wrong("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong("larger than any backup"));
    }
    Ok(Some(bytes))
}

/// What the bytes say.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Original, Error> {
    let wrong = || Error::at(ErrorKind::Invalid, "read", path.display().to_string());
    // A list would be taken for the values of all keys.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(wrong().because_of("not a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|error| wrong().because(error))
}

/// The text of a backup: the reference plugin's, byte for byte, and one key more.
pub(super) fn text(original: &Original) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let written = original.serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b" ")));
    written.map_err(|error| Error::at(ErrorKind::Io, "write", "the backup").because(error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let words = format!("the backup would have {} bytes, more than {FILE_BYTES_MAX}", bytes.len());
        return Err(Error::invalid(words));
    }
    Ok(bytes)
}

/// Puts a file in place of whatever file or link is there. The directory is made if it is missing.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let unfinished = unfinished(path);
    // Whoever was killed in the middle of it left one; nobody else works for the same owner.
    drop(fs::remove_file(&unfinished));
    let create = || OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&unfinished);
    let created = match create() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory);
            made.map_err(|error| {
                Error::at(ErrorKind::Io, "failed to create backup directory", directory.display().to_string())
                    .because(error)
            })?;
            create()
        }
        other => other,
    };
    let failed = |error| Error::at(ErrorKind::Io, "failed to save file", path.display().to_string()).because(error);
    let mut file: File = created.map_err(failed)?;
    file.write_all(bytes).and_then(|()| fs::rename(&unfinished, path)).map_err(|error| {
        drop(fs::remove_file(&unfinished));
        failed(error)
    })
}

/// Where it is written before it has its name: known of its owner, so that whoever removes the backup finds what a kill left of it.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    // A name has 255 bytes.
    let name = name.get(..NAME_BYTES_MAX - UNFINISHED.len()).unwrap_or(name);
    path.with_file_name(OsStr::from_bytes(&[UNFINISHED.as_bytes(), name].concat()))
}

/// Removes it, whatever it says; a link in its place, not what that leads to. And what a kill left of one that was written.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    drop(fs::remove_file(unfinished(path)));
    match fs::remove_file(path) {
        // Where the directory should be is something else: no backup either.
        Err(error) if ![io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
            Err(Error::at(ErrorKind::Io, "remove", path.display().to_string()).because(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const OWNER: Owner<'static> = Owner { network: "n", sandbox: "c1", ifname: "eth0" };

    /// A directory of one test, which does not exist yet.
    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("backup-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        path
    }

    #[test]
    fn the_text_is_the_reference_plugin_s() {
        let compact = r#"{"mac":"02:00:00:00:00:01","promisc":false,"mtu":1500,"allmulti":true,"txQLen":4294967295}"#;
        let original: Original = serde_json::from_str(compact).unwrap();
        let expected = "{\n \"mac\": \"02:00:00:00:00:01\",\n \"promisc\": false,\n \"mtu\": 1500,\n \"allmulti\": true,\n \
                        \"txQLen\": 4294967295\n}";
        assert_eq!(String::from_utf8(text(&original).unwrap()).unwrap(), expected);
        assert_eq!(text(&Original::default()).unwrap(), b"{}");
    }

    #[test]
    fn a_file_is_put_in_place_of_whatever_is_there() {
        let directory = directory("put");
        let path = path_of(&directory.join("deeper"), &OWNER).unwrap();
        assert_eq!(bytes(&path).unwrap(), None);
        put(&path, b"1").unwrap();
        put(&path, b"22").unwrap();
        assert_eq!(bytes(&path).unwrap().unwrap(), b"22");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let elsewhere = directory.join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(bytes(&path).is_err());
        put(&path, b"3").unwrap();
        assert_eq!((bytes(&path).unwrap().unwrap(), fs::read(&elsewhere).unwrap()), (b"3".to_vec(), b"mine".to_vec()));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing unfinished");
        remove(&path).unwrap();
        remove(&path).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_a_kill_left_goes_with_the_next_or_with_the_backup() {
        let directory = directory("unfinished");
        fs::create_dir_all(&directory).unwrap();
        let long = format!("{}_eth0.json", "x".repeat(240));
        for name in ["c1_eth0.json", &long] {
            let path = directory.join(name);
            let left = || fs::read_dir(&directory).unwrap().count();
            fs::write(unfinished(&path), "half").unwrap();
            put(&path, b"whole").unwrap();
            assert_eq!((left(), fs::read(&path).unwrap()), (1, b"whole".to_vec()));
            fs::write(unfinished(&path), "half").unwrap();
            remove(&path).unwrap();
            assert_eq!(left(), 0);
        }
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_is_in_the_way_is_an_error() {
        let directory = directory("way");
        fs::create_dir(&directory).unwrap();
        let file = directory.join("file");
        fs::write(&file, "").unwrap();
        let path = path_of(&file, &OWNER).unwrap();
        assert_eq!(put(&path, b"1").unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(bytes(&path).unwrap_err().kind(), ErrorKind::Io);
        remove(&path).unwrap();
        let path = path_of(&directory, &OWNER).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(put(&path, b"1").is_err() && bytes(&path).is_err() && remove(&path).is_err());
        fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(bytes(&path).unwrap_err().chain().ends_with("not a regular file"));
        remove(&path).unwrap();
        fs::remove_dir_all(directory).unwrap();
        for (sandbox, ifname) in [("../c", "eth0"), ("c", "a/b"), ("c\0", "eth0")] {
            assert!(path_of(Path::new("/d"), &Owner { network: "n", sandbox, ifname }).is_err());
        }
    }

    #[test]
    fn anything_else_is_no_backup() {
        let path = Path::new("x");
        for text in ["", "{", "[]", "3", r#"{"mtu":"x"}"#, r#"{"mtu":-1}"#, r#"{"mac":"zz"}"#, r#"{"plexus":{}}"#] {
            assert_eq!(parse(path, text.as_bytes()).unwrap_err().kind(), ErrorKind::Invalid, "{text}");
        }
        assert!(parse(path, "[".repeat(100_000).as_bytes()).is_err());
    }
}
