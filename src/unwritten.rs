//! Statuses that the API server has not got yet, a file each: noted before they are sent, forgotten when they are written or when
//! nobody can read them any more. It does not know who sends them.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipam::spare;
use serde::{Deserialize, Serialize};

use crate::journal::{PodName, Record};
use crate::sources;

/// A UID is 36 characters.
const UID_BYTES_MAX: usize = 64;

/// The note of one status.
#[derive(Debug)]
pub struct Unwritten {
    path: PathBuf,
    /// The file's inode: a note is never changed, but replaced.
    number: Option<u64>,
}

/// What it says.
#[derive(Debug, Deserialize, Serialize)]
pub struct Note {
    /// Whose status it is.
    #[serde(flatten)]
    pub pod: PodName,
    /// The annotation's value.
    pub status: String,
}

impl Unwritten {
    /// Notes a status that is about to be sent.
    ///
    /// # Errors
    /// The pod has no UID; the file cannot be written.
    pub fn note(state_dir: &Path, pod: &PodName, status: &str) -> Result<Unwritten, String> {
        let is_uid = |uid: &str| {
            !uid.is_empty() && uid.len() <= UID_BYTES_MAX && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !is_uid(&pod.uid) {
            return Err(format!("pod {}/{} has no UID by which its status could be noted", pod.namespace, pod.name));
        }
        let path = directory(state_dir).join(&pod.uid);
        let note = Note { pod: pod.clone(), status: status.to_owned() };
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

    /// What these records attached has gone, and nobody is to be told of it any more. The status of a later sandbox of the same pod stays.
    pub fn withdraw(state_dir: &Path, records: &[Record]) {
        for record in records {
            let status = record.commitment.as_ref().and_then(|done| done.status.as_ref());
            if let (Some(pod), Some(status)) = (&record.intent.pod, status) {
                Unwritten::withdraw_one(state_dir, pod, status);
            }
        }
    }

    fn withdraw_one(state_dir: &Path, pod: &PodName, status: &str) {
        if pod.uid.is_empty() || pod.uid.contains('/') {
            return;
        }
        let noted = Unwritten::at(directory(state_dir).join(&pod.uid));
        if noted.number.is_some() && noted.read().is_some_and(|note| note.status == status) {
            noted.forget();
        }
    }

    /// The note in a file.
    pub fn at(path: PathBuf) -> Unwritten {
        let number = number(&path);
        Unwritten { path, number }
    }

    /// What it says; none where it was cut short.
    pub fn read(&self) -> Option<Note> {
        let bytes = sources::read(&self.path).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// It is written, or nobody waits for it.
    pub fn forget(&self) {
        // A newer one in its place is not this one.
        if number(&self.path) == self.number {
            let _ = fs::remove_file(&self.path); // what stays is sent once more
        }
    }

    /// Others come first the next time.
    pub fn put_off(&self) {
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

/// Where notes are.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("unwritten")
}
