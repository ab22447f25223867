//! Files that are old or new at every instant, whoever looks and whatever is killed. Knows nothing of what is in them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// What a file is called until it is whole: hidden, and with an ending that neither a runtime nor a cache reads.
pub fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.unfinished"))
}

/// Puts a file with these bytes and permissions in the place of whatever has the name. A program that runs keeps its own.
///
/// # Errors
/// What the system says; then the old file is there as it was.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write(path, mode, &|file| file.write_all(bytes))
}

/// The same with the bytes of another file.
///
/// # Errors
/// As [`replace`].
pub fn copy(from: &Path, path: &Path, mode: u32) -> io::Result<()> {
    write(path, mode, &|file| io::copy(&mut File::open(from)?, file).map(|_| ()))
}

fn write(path: &Path, mode: u32, fill: &dyn Fn(&mut File) -> io::Result<()>) -> io::Result<()> {
    in_place(path, &|unfinished| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(unfinished)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?; // whatever the umask
        fill(&mut file)?;
        file.sync_all()
    })
}

/// Puts a symbolic link in the place of whatever has the name.
///
/// # Errors
/// As [`replace`].
pub fn point(path: &Path, to: &Path) -> io::Result<()> {
    in_place(path, &|unfinished| symlink(to, unfinished))
}

fn in_place(path: &Path, make: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let unfinished = unfinished(path);
    absent(fs::remove_file(&unfinished))?; // of one that was killed
    let made = make(&unfinished).and_then(|()| fs::rename(&unfinished, path));
    if made.is_err() {
        let _ = fs::remove_file(&unfinished); // the first failure is the one to tell
    }
    made.and_then(|()| sync_folder(path))
}

/// Gives a file another name in the place of whatever has that.
///
/// # Errors
/// What the system says.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(from)?;
    if from.parent() == to.parent() { Ok(()) } else { sync_folder(to) }
}

/// Removes a file; one that is gone is removed already.
///
/// # Errors
/// What the system says.
pub fn remove(path: &Path) -> io::Result<()> {
    absent(fs::remove_file(path))?;
    sync_folder(path)
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// A name is on the disk once its folder is (fsync(2)). A folder that cannot be opened has none.
fn sync_folder(path: &Path) -> io::Result<()> {
    match File::open(path.parent().unwrap_or(Path::new("/"))) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        folder => folder?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_there_is_replaced_whole() {
        let dir = std::env::temp_dir().join(format!("plexus-durable-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("file");
        fs::write(unfinished(&path), "of a killed one, and longer").unwrap();
        replace(&path, b"one", 0o755).unwrap();
        let reader = File::open(&path).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(io::read_to_string(reader).unwrap(), "one", "who has it open keeps it");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        copy(Path::new("/proc/self/cmdline"), &path, 0o700).unwrap();
        assert!(fs::read(&path).unwrap() == fs::read("/proc/self/cmdline").unwrap());
        point(&path, Path::new("elsewhere")).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("elsewhere"));
        rename(&path, &dir.join("other")).unwrap();
        remove(&dir.join("other")).unwrap();
        remove(&dir.join("other")).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"three", 0o600).is_err());
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(left, ["file"], "nothing unfinished stays");
    }
}
