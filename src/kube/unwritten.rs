//! Writes the statuses that are noted as not written yet, of whoever noted them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::call::{Calls, Failure};
use super::status;
use crate::unwritten::{Unwritten, directory};

/// How many of others' a request writes beside its own: it is a pod's start that pays for it.
const OTHERS_MAX: usize = 4;
/// How long they may take in all.
const OTHERS_TIME: Duration = Duration::from_secs(2);
/// A note that is not whole after this long never will be.
const BEGUN_AGE_MAX: Duration = Duration::from_secs(60);
/// How many are looked at.
const LISTED_MAX: usize = 256;

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
        let noted = Unwritten::at(path.clone());
        // A note that was cut short says nothing.
        if noted.read().is_none() {
            noted.forget();
            continue;
        }
        match status::write_noted(calls, &path).await {
            Ok(()) => {}
            // What the server will never take is nobody's.
            Err(Failure::Missing | Failure::Lasting(_)) => noted.forget(),
            Err(Failure::Passing(_) | Failure::Expired(_) | Failure::Login(_)) => return,
            Err(Failure::Conflict(_) | Failure::Forbidden(_) | Failure::Foreign(_)) => noted.put_off(),
        }
    }
}
