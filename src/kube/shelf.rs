//! The last known objects of a kind on disk, `<directory>/<namespace>/<name>`: one small file each, whole or not there, so that a
//! daemon that starts while the API server is away knows what the one before it knew.
//!
//! Nothing is synced: a file that a crash of the machine has damaged is no file. It does not know how old they are; when they were
//! last known to be right is one more file's time.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::cache::Kept;
use super::objects;
use crate::cluster::Name;
use crate::log::warn;
use crate::sources;

/// Files that are read, and directories: more than any cluster has definitions.
const FILES_MAX: usize = 20_000;
/// Of one file: the API server takes no larger object (etcd).
const FILE_BYTES_MAX: usize = 2 << 20;
/// Damaged files that are each told of.
const TOLD_MAX: usize = 5;
/// Its time is when all of them were known to be right. No namespace begins with a dot.
const CONFIRMED: &str = ".confirmed";

/// A directory of objects.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    directory: PathBuf,
    /// The last write failed: the disk is full for each of a thousand, which is told once.
    fails: AtomicBool,
    of: PhantomData<fn() -> T>,
}

impl<T: Kept> Shelf<T> {
    pub(super) fn new(state_dir: &Path) -> Shelf<T> {
        Shelf { directory: state_dir.join(T::KIND), fails: AtomicBool::new(false), of: PhantomData }
    }

    /// All that can be read. What is damaged, or none of ours, is told of and left out.
    pub(super) fn load(&self) -> Vec<(Name, T)> {
        let mut found = Vec::new();
        let mut wrong = Vec::new();
        for path in listed(&self.directory).iter().flat_map(|folder| listed(folder)).take(FILES_MAX) {
            match read(&path) {
                Ok(object) => found.push(object),
                Err(why) => wrong.push(format!("{}: {why}", path.display())),
            }
        }
        for line in wrong.iter().take(TOLD_MAX) {
            warn(&format!("a file of the last known {} is left out: {line}", T::KIND));
        }
        if let Some(more) = wrong.len().checked_sub(TOLD_MAX).filter(|more| *more > 0) {
            warn(&format!("{more} more files of the last known {} are left out", T::KIND));
        }
        found
    }

    /// Puts an object in the place of what has its name.
    pub(super) fn put(&self, name: &Name, object: &T) {
        let written = self.path(name).and_then(|path| {
            let bytes = serde_json::to_vec(object).map_err(io::Error::from)?;
            let folder = path.parent().unwrap_or(&self.directory);
            match replace(&path, &bytes) {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    make(folder)?;
                    replace(&path, &bytes)
                }
                done => done,
            }
        });
        self.told(written);
    }

    /// Takes an object away, and with the last of a namespace its directory.
    pub(super) fn remove(&self, name: &Name) {
        let removed = self.path(name).and_then(|path| {
            absent(fs::remove_file(&path))?;
            let _ = fs::remove_dir(path.with_file_name("")); // it is not the last
            Ok(())
        });
        self.told(removed);
    }

    /// All of them are right, now.
    pub(super) fn confirm(&self) {
        let path = self.directory.join(CONFIRMED);
        let confirmed = make(&self.directory)
            .and_then(|()| File::create(&path))
            .and_then(|file| file.set_modified(SystemTime::now()));
        self.told(confirmed);
    }

    /// When they were right for the last time; none: nobody knows.
    pub(super) fn confirmed(&self) -> Option<SystemTime> {
        fs::symlink_metadata(self.directory.join(CONFIRMED)).and_then(|meta| meta.modified()).ok()
    }

    fn path(&self, (namespace, name): &Name) -> io::Result<PathBuf> {
        let odd = |e: super::call::Failure| io::Error::other(e.to_string());
        let namespace = objects::checked("namespace", namespace).map_err(odd)?;
        Ok(self.directory.join(namespace).join(objects::checked("object", name).map_err(odd)?))
    }

    fn told(&self, done: io::Result<()>) {
        let before = self.fails.swap(done.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (done, before) {
            warn(&format!("keeping the last known {} in {}: {error}", T::KIND, self.directory.display()));
        }
    }
}

/// What definitions say may be nobody else's business.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// What is in a directory, but for what begins with a dot; nothing where there is none.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().take(FILES_MAX);
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| !path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b".")));
    paths.sort();
    paths
}

fn read<T: Kept>(path: &Path) -> Result<(Name, T), String> {
    let part = |path: Option<&Path>, what| {
        let name = path.and_then(Path::file_name).and_then(|name| name.to_str()).ok_or("a name that is no text")?;
        objects::checked(what, name).map(str::to_owned).map_err(|e| e.to_string())
    };
    let name = (part(path.parent(), "namespace")?, part(Some(path), "object")?);
    // What is a link was not put there by us.
    if !fs::symlink_metadata(path).map_err(|e| e.to_string())?.is_file() {
        return Err("not a regular file".to_owned());
    }
    let bytes = sources::read(path)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("{} bytes are more than {FILE_BYTES_MAX}", bytes.len()));
    }
    Ok((name, serde_json::from_slice(&bytes).map_err(|e| e.to_string())?))
}

/// Whole or not there. Another daemon that takes over may write the same at the same time: each has a name of its own for what is
/// not whole yet.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let begun = path.with_file_name(format!(".{}", std::process::id()));
    let written = fs::write(&begun, bytes).and_then(|()| fs::rename(&begun, path));
    if written.is_err() {
        let _ = fs::remove_file(&begun); // the first failure is the one to tell
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use serde_json::json;

    use super::*;
    use crate::kube::cache::KeptDefinition;

    fn state(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("plexus-shelf-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn name(name: &str) -> Name {
        ("default".to_owned(), name.to_owned())
    }

    fn object(config: &str) -> KeptDefinition {
        serde_json::from_value(json!({"annotations": {"k8s.v1.cni.cncf.io/resourceName": "a/b"}, "config": config}))
            .unwrap()
    }

    #[test]
    fn what_is_put_is_there_until_it_is_removed() {
        let dir = state("put");
        let shelf = Shelf::new(&dir);
        assert_eq!(shelf.load(), []);
        assert_eq!(shelf.confirmed(), None);
        let long = "x".repeat(253);
        for (key, config) in [(name("a"), "1"), (name("b.c"), "2"), (name(&long), "3"), (name("a"), "4")] {
            shelf.put(&key, &object(config));
        }
        shelf.confirm();
        assert!(shelf.confirmed().is_some());
        let all = [(name("a"), object("4")), (name("b.c"), object("2")), (name(&long), object("3"))];
        assert_eq!(Shelf::new(&dir).load(), all);
        for (key, _) in &all {
            shelf.remove(key);
            shelf.remove(key);
        }
        assert_eq!(shelf.load(), []);
        assert!(!dir.join("definitions/default").exists(), "no empty directory stays");
        shelf.put(&("..".to_owned(), "etc".to_owned()), &object(""));
        assert!(!dir.join("etc").exists(), "no name is a way out");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn hostile_files_are_left_out_and_hide_no_other() {
        let dir = state("hostile");
        let shelf = Shelf::<KeptDefinition>::new(&dir);
        shelf.put(&name("good"), &object("1"));
        let folder = dir.join("definitions/default");
        for (file, text) in [
            ("torn", r#"{"annotations":{},"con"#.to_owned()),
            ("empty", String::new()),
            ("strange", r#"{"annotations":{},"config":"","more":1}"#.to_owned()),
            ("typed", r#"{"annotations":{"a":1},"config":""}"#.to_owned()),
            ("twice", r#"{"config":"","annotations":{}}{}"#.to_owned()),
            ("deep", "[".repeat(100_000)),
            ("large", json!({"annotations": {}, "config": "x".repeat(FILE_BYTES_MAX)}).to_string()),
            ("UPPER", r#"{"annotations":{},"config":""}"#.to_owned()),
            (".hidden", r#"{"annotations":{},"config":""}"#.to_owned()),
        ] {
            fs::write(folder.join(file), text).unwrap();
        }
        fs::write(folder.join("bytes"), b"{\"config\":\"\xff\",\"annotations\":{}}").unwrap();
        fs::create_dir(folder.join("folder")).unwrap();
        symlink(folder.join("good"), folder.join("link")).unwrap();
        symlink("/dev/zero", folder.join("zero")).unwrap();
        nix::unistd::mkfifo(&folder.join("fifo"), Mode::S_IRWXU).unwrap();
        fs::write(dir.join("definitions/file"), "{}").unwrap();
        assert_eq!(shelf.load(), [(name("good"), object("1"))]);
        // What is in an object's place is replaced where it can be, and no more is lost than that one.
        shelf.put(&name("torn"), &object("2"));
        shelf.put(&name("folder"), &object("2"));
        shelf.put(&name("link"), &object("3"));
        assert_eq!(
            shelf.load(),
            [(name("good"), object("1")), (name("link"), object("3")), (name("torn"), object("2"))]
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
