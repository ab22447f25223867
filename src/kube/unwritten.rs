//! Statuses that the API server has not got yet, a file each: noted before they are sent, forgotten when they are written or when
//! nobody can read them any more.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipam::spare;
use serde::{Deserialize, Serialize};

use super::call::{Calls, Failure};
use super::objects::About;
use super::status;
use crate::sources;

/// How many of others' a request writes beside its own: it is a pod's start that pays for it.
const OTHERS_MAX: usize = 4;
/// How long they may take in all.
const OTHERS_TIME: Duration = Duration::from_secs(2);
/// A note that is not whole after this long never will be.
const BEGUN_AGE_MAX: Duration = Duration::from_secs(60);
/// How many are looked at.
const LISTED_MAX: usize = 256;
/// A UID is 36 characters.
const UID_BYTES_MAX: usize = 64;

/// The note of one status.
#[derive(Debug)]
pub(super) struct Unwritten {
    path: PathBuf,
    /// The file's inode: a note is never changed, but replaced.
    number: Option<u64>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Note {
    namespace: String,
    name: String,
    uid: String,
    status: String,
}

impl Unwritten {
    /// Notes a status that is about to be sent.
    pub(super) fn note(state_dir: &Path, pod: &About, status: &str) -> Result<Unwritten, String> {
        let is_uid = |uid: &str| {
            !uid.is_empty() && uid.len() <= UID_BYTES_MAX && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !is_uid(pod.uid) {
            return Err(format!("pod {}/{} has no UID by which its status could be noted", pod.namespace, pod.name));
        }
        let path = directory(state_dir).join(pod.uid);
        let note = Note {
            namespace: pod.namespace.to_owned(),
            name: pod.name.to_owned(),
            uid: pod.uid.to_owned(),
            status: status.to_owned(),
        };
        let bytes = serde_json::to_vec(&note).map_err(|e| e.to_string())?;
        if note_ahead(&path, &bytes).is_some() {
            return Ok(Unwritten::at(path));
        }
        let written = match replace(&path, &bytes) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(directory(state_dir)).and_then(|()| replace(&path, &bytes))
            }
            done => done,
        };
        written.map_err(|e| format!("noting a status in {}: {e}", path.display()))?;
        Ok(Unwritten::at(path))
    }

    fn at(path: PathBuf) -> Unwritten {
        let number = number(&path);
        Unwritten { path, number }
    }

    /// It is written, or nobody waits for it.
    pub(super) fn forget(&self) {
        // A newer one in its place is not this one.
        if number(&self.path) == self.number {
            let _ = fs::remove_file(&self.path); // what stays is sent once more
        }
    }

    /// Others come first the next time.
    fn put_off(&self) {
        let now = File::open(&self.path).and_then(|file| file.set_modified(SystemTime::now()));
        let _ = now; // it is only an order
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|meta| meta.ino())
}

/// In a file made ahead; none where there is none, or a note already.
fn note_ahead(path: &Path, bytes: &[u8]) -> Option<()> {
    let mut file = spare::take(path.parent()?)?;
    file.write_all(bytes).and_then(|()| spare::name(&file, path)).ok()
}

/// Whole or not there: others read it meanwhile. What is in its place is replaced and never opened. Not `durable`: nothing of it
/// is worth an fsync of a pod's start.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let begun = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = fs::write(&begun, bytes).and_then(|()| fs::rename(&begun, path));
    if written.is_err() {
        let _ = fs::remove_file(&begun); // the first failure is the one to tell
    }
    written
}

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("unwritten")
}

/// Writes what others could not, one attempt each and all within a time of their own.
pub(super) async fn write_others(calls: &Calls, state_dir: &Path) {
    let calls = calls.within(OTHERS_TIME);
    let written = write_listed(&calls, state_dir, OTHERS_MAX, |_| Some(()));
    let _ = tokio::time::timeout(OTHERS_TIME, written).await; // what is left is the next request's
}

/// Writes up to `most` of those that `claim` lets go by their UID, those that were tried longest ago first. What it returns is
/// held while one is written.
pub(super) async fn write_listed<G>(calls: &Calls, state_dir: &Path, most: usize, claim: impl Fn(&str) -> Option<G>) {
    let Ok(entries) = fs::read_dir(directory(state_dir)) else { return };
    let paths = entries.take(LISTED_MAX).filter_map(|entry| Some(entry.ok()?.path()));
    let dated = |path: PathBuf| {
        // What cannot be a note would be the first again and again.
        let meta = fs::symlink_metadata(&path).ok().filter(|meta| !meta.is_dir())?;
        Some((meta.modified().unwrap_or(UNIX_EPOCH), path))
    };
    let is_begun = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let (begun, mut notes): (Vec<_>, Vec<_>) = paths.filter_map(dated).partition(|(_, path)| is_begun(path));
    // Of one that was killed while it noted.
    for (_, path) in begun.iter().filter(|(time, _)| time.elapsed().is_ok_and(|age| age > BEGUN_AGE_MAX)) {
        let _ = fs::remove_file(path);
    }
    notes.sort();
    let uid = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for (_claimed, path) in notes.into_iter().filter_map(|(_, path)| Some((claim(&uid(&path))?, path))).take(most) {
        let noted = Unwritten::at(path);
        let note = sources::read(&noted.path).ok().and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
        // A note that was cut short says nothing.
        let Some(note) = note else {
            noted.forget();
            continue;
        };
        let pod = About { namespace: &note.namespace, name: &note.name, uid: &note.uid };
        match status::write(calls, &pod, &note.status).await {
            // What the server will never take is nobody's.
            Ok(()) | Err(Failure::Missing | Failure::Lasting(_)) => noted.forget(),
            Err(Failure::Passing(_) | Failure::Expired(_) | Failure::Login(_)) => return,
            Err(Failure::Conflict(_) | Failure::Forbidden(_) | Failure::Foreign(_)) => noted.put_off(),
        }
    }
}
