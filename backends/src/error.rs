//! The error of this crate: the act, the place, a kind to decide by, the cause. Knows no CNI code.

use std::borrow::Cow;
use std::fmt;

use nix::errno::Errno;

use crate::netlink::{Failure, Refusal};

/// What went wrong, for callers that decide by it. Each has one meaning, whatever the text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration or the addresses given cannot be built by anybody.
    Invalid,
    /// The path of the namespace does not exist.
    NetnsMissing,
    /// The path is not a network namespace.
    NotNetns,
    /// A link that must be there is not.
    LinkMissing,
    /// The name is taken by another link.
    NameTaken,
    /// A port of the host leads to somebody else already.
    PortTaken,
    /// The bridge's port did not come up in time.
    PortState,
    /// Another host on the link has the address.
    Duplicate,
    /// Somebody has it now, and may not have it later.
    Busy,
    /// CHECK: the kernel's state is not the expected one.
    Mismatch,
    /// The kernel refused.
    Refused,
    /// The kernel could not be asked, or a file could not be read or written.
    Io,
    /// The kernel did not answer in time.
    Timeout,
    /// Code of this crate panicked in a thread; the request fails, the process lives.
    Panicked,
}

/// An error of this crate. The text says what was being done and where, in lower case; the cause is behind
/// [`std::error::Error::source`] and not repeated.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    act: Cow<'static, str>,
    place: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    undo: Option<Box<Self>>,
}

/// A cause that is only words: those of the reference plugins, or of a panic.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Words(Cow<'static, str>);

impl Error {
    /// An error whose whole text is `text`.
    pub(crate) fn new(kind: ErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, act: text.into(), place: String::new(), source: None, undo: None }
    }

    /// An error in the act `act` at `place`.
    pub(crate) fn at(kind: ErrorKind, act: &'static str, place: impl Into<String>) -> Self {
        Self { place: place.into(), ..Self::new(kind, act) }
    }

    /// The configuration is wrong: `text` is the reference plugins' where they have one.
    pub(crate) fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, text)
    }

    /// CHECK found another state than the expected one.
    pub(crate) fn mismatch(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Mismatch, text)
    }

    /// The kernel gave no good answer to the act `act` at `place`.
    pub(crate) fn kernel(act: &'static str, place: impl Into<String>, failure: Failure) -> Self {
        let kind = match &failure {
            Failure::Refused(_) => ErrorKind::Refused,
            Failure::Timeout { .. } => ErrorKind::Timeout,
            _ => ErrorKind::Io,
        };
        Self::at(kind, act, place).because(failure)
    }

    /// The kernel refused the act `act` at `place`.
    pub(crate) fn refused(act: &'static str, place: impl Into<String>, refusal: Refusal) -> Self {
        Self::kernel(act, place, refusal.into())
    }

    /// A system call failed in the act `act` at `place`.
    pub(crate) fn io(act: &'static str, place: impl Into<String>, errno: Errno) -> Self {
        Self::at(ErrorKind::Io, act, place).because(Refusal { errno, text: None })
    }

    /// Adds the cause.
    pub(crate) fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Adds a cause that is only words.
    pub(crate) fn because_of(self, words: impl Into<Cow<'static, str>>) -> Self {
        self.because(Words(words.into()))
    }

    /// Adds what became of the undo, if it failed too.
    pub(crate) fn after_undo(mut self, undo: Result<(), Self>) -> Self {
        self.undo = undo.err().map(Box::new);
        self
    }

    /// What went wrong, to decide by.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether it may be done all the same: the answer did not come, or could not be read.
    #[must_use]
    pub fn leaves_doubt(&self) -> bool {
        matches!(self.kind, ErrorKind::Io | ErrorKind::Timeout | ErrorKind::Panicked)
    }

    /// What the kernel said, where it is the cause.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            match (cause.downcast_ref(), cause.downcast_ref(), cause.downcast_ref::<Self>()) {
                (Some(Refusal { errno, .. }), ..) | (_, Some(Failure::Refused(Refusal { errno, .. })), _) => {
                    return Some(*errno);
                }
                (.., Some(cause)) => return cause.errno(),
                _ => source = cause.source(),
            }
        }
        None
    }

    /// Why the undo after this error failed too; `None` if it did not.
    #[must_use]
    pub fn undo_failure(&self) -> Option<&Self> {
        self.undo.as_deref()
    }

    /// The text with all causes, in one line: what a person reads.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            line.push_str(": ");
            line.push_str(&cause.to_string());
            source = cause.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.act)?;
        if !self.place.is_empty() {
            write!(f, " {}", self.place)?;
        }
        match &self.undo {
            Some(undo) => write!(f, " (and undoing it failed: {})", undo.chain()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_not_done_and_what_was_not_answered_may_be() {
        let refused = Failure::Refused(Refusal { errno: Errno::EEXIST, text: None });
        let lost = Failure::Socket(std::io::Error::from_raw_os_error(Errno::ENOBUFS as i32));
        let doubts =
            [refused, lost, Failure::Timeout { limit_ms: 1 }].map(|failure| Error::kernel("add", "x", failure));
        assert_eq!(doubts.map(|error| error.leaves_doubt()), [false, true, true]);
    }

    #[test]
    fn a_failure_and_the_failure_of_its_undo_are_both_said() {
        let refusal = |errno| Refusal { errno, text: Some("why".to_owned()) };
        let undo = Error::refused("delete link", "eth0", refusal(Errno::EPERM));
        let error = Error::refused("add address", "10.0.0.1/24 to eth0", refusal(Errno::EEXIST)).after_undo(Err(undo));
        assert_eq!(
            error.chain(),
            "add address 10.0.0.1/24 to eth0 (and undoing it failed: delete link eth0: operation not permitted: why): \
             file exists: why"
        );
        assert_eq!(error.undo_failure().unwrap().kind(), ErrorKind::Refused);
    }
}
