//! All files of the journal: what they say, which say nothing, which cannot be read. Knows no single request.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Error, Held, Journal, Key, Record, SUFFIX, at, file_name, parse, read_bounded};

/// How many files that cannot be read are told by name.
const TOLD_MAX: usize = 3;

/// What is in the journal.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those of one file stand behind each other.
    pub records: Vec<Record>,
    /// Files that say nothing: an ADD that was killed before it had written what it would do. It did nothing.
    pub torn: Vec<PathBuf>,
    /// Files that end within a line, whether or not they say something before it: an ADD that was killed at that very instant, or what was
    /// damaged later.
    pub cut_short: Vec<PathBuf>,
    /// What could not be read, and why: an attachment that nobody knows of.
    pub unreadable: Vec<Error>,
}

impl Listing {
    /// What could not be read, in one line; none where all could.
    pub fn failure(&self) -> Option<String> {
        let told = |error: &Error| format!("{error}: {}", error.source);
        let told: Vec<String> = self.unreadable.iter().take(TOLD_MAX).map(told).collect();
        let more = self.unreadable.len().saturating_sub(TOLD_MAX);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        (!told.is_empty()).then(|| format!("{}{more}", told.join("; ")))
    }

    fn put(&mut self, path: PathBuf, bytes: &[u8]) {
        if bytes.last().is_some_and(|byte| *byte != b'\n') {
            self.cut_short.push(path.clone());
        }
        if is_torn(bytes) {
            return self.torn.push(path);
        }
        let odd = |why| at("reading the record", &path)(io::Error::new(ErrorKind::InvalidData, why));
        match parse(bytes) {
            // Its own commands would look for it elsewhere: what it names is not this file's to remove.
            records if records.iter().any(|record| !is_named_by(&path, &record.intent.key)) => {
                self.unreadable.push(odd("it is another request's, by what it says"));
            }
            records if records.is_empty() => self.unreadable.push(odd("it says nothing that this plexus knows")),
            records => self.records.extend(records),
        }
    }
}

impl Journal {
    /// Every file, by its name. For GC, `list` and the first call after a boot.
    ///
    /// # Errors
    /// The directory cannot be listed; one that is not there is empty.
    pub fn all(&self) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(listing),
            other => other.map_err(at("listing the journal", &self.dir))?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(at("listing the journal", &self.dir))?.path();
            if path.as_os_str().as_encoded_bytes().ends_with(SUFFIX.as_bytes()) {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            match self.open(&path, false).and_then(|file| read_bounded(&file)) {
                Err(e) if e.kind() == ErrorKind::NotFound => {} // a DEL came between
                Err(e) => listing.unreadable.push(at("reading the record", &path)(e)), // one odd entry hides no other
                Ok(bytes) => listing.put(path, &bytes),
            }
        }
        Ok(listing)
    }

    /// Removes a file that says nothing, unless a command is at work on it or it says something by now. Says whether it is gone.
    ///
    /// # Errors
    /// It cannot be opened or removed.
    pub fn sweep(&self, torn: &Path) -> Result<bool, Error> {
        let file = match self.open(torn, false) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(true),
            other => other.map_err(at("opening the record", torn))?,
        };
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(false),
            Err((_, errno)) => return Err(at("taking hold of the record", torn)(errno.into())),
        };
        if !is_torn(&read_bounded(&file).map_err(at("reading the record", torn))?) {
            return Ok(false);
        }
        Held { file, path: torn.to_owned() }.forget().map(|()| true)
    }
}

fn is_named_by(path: &Path, key: &Key) -> bool {
    path.file_name().is_some_and(|name| name == file_name(key).as_str())
}

/// No line of it is whole.
fn is_torn(bytes: &[u8]) -> bool {
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
    !lines.any(|line| line.ends_with(b"\n") && line != b"\n")
}
