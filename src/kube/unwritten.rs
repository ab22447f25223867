//! Statuses that the API server has not got yet, a file each: noted before they are sent, forgotten when they are written or when
//! nobody can read them any more.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::call::{Calls, Failure};
use super::objects::Told;
use super::status;
use crate::sources;

/// How many of others' a request writes beside its own: it is a pod's start that pays for it.
const OTHERS_MAX: usize = 4;
/// How many are looked at.
const LISTED_MAX: usize = 256;
/// A UID is 36 characters.
const UID_BYTES_MAX: usize = 64;

/// The note of one status.
#[derive(Debug)]
pub(super) struct Unwritten {
    path: PathBuf,
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
    pub(super) fn note(state_dir: &Path, pod: &Told, status: &str) -> Result<Unwritten, String> {
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
        let written = match fs::write(&path, &bytes) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(directory(state_dir)).and_then(|()| fs::write(&path, &bytes))
            }
            done => done,
        };
        written.map_err(|e| format!("noting a status in {}: {e}", path.display()))?;
        Ok(Unwritten { path })
    }

    /// It is written, or nobody waits for it.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(&self.path); // what stays is sent once more
    }
}

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("unwritten")
}

/// Writes what others could not; the first that cannot be written now ends it.
pub(super) async fn write_others(calls: &Calls, state_dir: &Path) {
    let Ok(entries) = fs::read_dir(directory(state_dir)) else { return };
    let paths: Vec<PathBuf> = entries.take(LISTED_MAX).filter_map(|entry| Some(entry.ok()?.path())).collect();
    for path in paths.into_iter().take(OTHERS_MAX) {
        let note = sources::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
        let noted = Unwritten { path };
        // A note that was cut short says nothing.
        let Some(note) = note else {
            noted.forget();
            continue;
        };
        let pod = Told { namespace: &note.namespace, name: &note.name, uid: &note.uid };
        match status::write(calls, &pod, &note.status).await {
            Ok(()) | Err(Failure::Missing) => noted.forget(),
            Err(Failure::Conflict(_) | Failure::Forbidden(_) | Failure::Lasting(_) | Failure::Passing(_)) => return,
        }
    }
}
