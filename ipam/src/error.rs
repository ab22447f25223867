//! The one error type of this crate: what was being done, where, of which kind, and why.
//! It does not know CNI's error codes: the caller chooses them from the kind.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use nix::errno::Errno;

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration or a request in it is wrong: the same call fails again until somebody changes it.
    InvalidConfig,
    /// The owner already holds an address of this range set.
    Duplicate,
    /// Every address of the range set is held.
    Exhausted,
    /// The requested address is held by another owner, or is a gateway.
    Unavailable(IpAddr),
    /// CHECK: the owner holds nothing here, or not what it should.
    Mismatch,
    /// Another process holds the pool's lock, and does not give it back.
    Busy,
    /// The pool's directory changes while its lock is held, or holds more than is ever looked at.
    Unstable,
    /// The file system is full or the quota used up; nothing half-written was left.
    NoSpace,
    /// Another failure of the file system.
    Io,
}

/// A failure of host-local or static.
///
/// Where the Go plugins have a text for it, `Display` is exactly that text.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    act: &'static str,
    place: String,
    kind: ErrorKind,
    text: Option<String>,
    source: Option<io::Error>,
    undo: Option<Box<Error>>,
}

impl Error {
    /// A refusal, in words that operators and tests know.
    pub(crate) fn refused(kind: ErrorKind, act: &'static str, place: impl Into<String>, text: String) -> Self {
        Self { act, place: place.into(), kind, text: Some(text), source: None, undo: None }
    }

    /// A failed operation on a file or directory.
    pub(crate) fn io(act: &'static str, place: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Self { act, place: place.display().to_string(), kind, text: None, source: Some(source), undo: None }
    }

    /// Puts words before the message: the range set in which it happened.
    pub(crate) fn within(mut self, prefix: &str) -> Self {
        self.text = Some(match &self.text {
            Some(text) => format!("{prefix}: {text}"),
            None => format!("{prefix}: {} {}", self.act, self.place),
        });
        self
    }

    /// Adds that undoing what the failed call had done failed as well.
    pub(crate) fn and_undo(mut self, undo: Option<Error>) -> Self {
        self.undo = undo.map(Box::new);
        self
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What was being done.
    #[must_use]
    pub fn act(&self) -> &str {
        self.act
    }

    /// The network, directory or file it was done to.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The failure of the undo, when there was one.
    #[must_use]
    pub fn undo(&self) -> Option<&Error> {
        self.undo.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text)?,
            None => write!(f, "{} {}", self.act, self.place)?,
        }
        match &self.undo {
            Some(undo) => write!(f, "; and undoing it failed: {undo}"),
            None => Ok(()),
        }
    }
}
