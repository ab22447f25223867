//! What a person should know of a call: on standard error, where runtimes keep what plugins say, and in a file of the node's own.
//! Nothing here can fail a call or make it wait: what cannot be written is not written.
//!
//! Lines hold results, names and errors, and never a configuration, which may hold secrets. It does not know what is said.

mod clock;
mod file;
mod once;

use std::borrow::Cow;
use std::cell::Cell;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Once, OnceLock};
use std::time::SystemTime;

use nix::errno::Errno;

use crate::config::{Level, LogConf};
use crate::trace::TraceId;

pub use once::is_first;

/// The longest line in bytes: a result with hundreds of routes.
const LINE_BYTES_MAX: usize = 64 << 10;

thread_local! {
    /// What this thread is at work on.
    static TRACE: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// One process, one log: that of the first configuration it serves, or what the daemon was told when it was started.
static LOG: OnceLock<LogConf> = OnceLock::new();

/// Set by a process that answers nobody on standard output.
static OUTPUT: OnceLock<file::Output> = OnceLock::new();

/// Said once by a process: the log would be in the answer.
static MISDIRECTED: Once = Once::new();

/// From now on the configuration says what is written down. A second one of the same process changes nothing.
pub fn begin(conf: &LogConf) {
    LOG.get_or_init(|| conf.clone());
}

/// Standard output is nobody's answer in this process: a log may go there.
pub fn frees_output() {
    OUTPUT.get_or_init(|| file::Output::Free);
}

/// Why nothing can be written to the file that is written to, where there is one.
pub fn unwritable() -> Option<String> {
    let path = LOG.get()?.file.as_deref()?;
    let why = file::try_open(path).err()?;
    Some(format!("the log file {} cannot be written: {why}", path.display()))
}

/// Whether a file can be written to, or will be without anybody doing something about its path.
///
/// # Errors
/// It is a folder, a disk, or in a place where no file can be.
pub fn try_file(path: &Path) -> io::Result<()> {
    match file::try_open(path) {
        // Nobody reads the FIFO yet (open(2)).
        Err(why) if why.raw_os_error() == Some(Errno::ENXIO as i32) => Ok(()),
        tried => tried,
    }
}

/// While this lives, lines of its thread say which request they are of.
#[derive(Debug)]
#[must_use]
pub struct Traced {
    /// What the thread was at work on before.
    before: Option<TraceId>,
}

/// From now on this thread is at work on a request that is found under `trace`; none: nobody gave a name to it.
pub fn traced(trace: Option<TraceId>) -> Traced {
    Traced { before: TRACE.replace(trace) }
}

impl Drop for Traced {
    fn drop(&mut self) {
        TRACE.set(self.before);
    }
}

/// What this thread is at work on, where that has a name.
pub fn trace() -> Option<TraceId> {
    TRACE.get()
}

/// With which a line begins.
fn mark() -> String {
    TRACE.get().map(|trace| format!("trace={trace} ")).unwrap_or_default()
}

/// Whether lines of this level are written down at all.
pub fn writes(level: Level) -> bool {
    LOG.get().is_some_and(|conf| level <= conf.level && (conf.to_stderr || conf.file.is_some()))
}

/// What a person should know although nothing fails. It goes to standard error at every level, unless the node's configuration
/// wants nothing there and its file has the line.
pub fn warn(line: &str) {
    let conf = LOG.get();
    let noted = conf.is_some_and(|conf| note(conf, Level::Error, &format!("warning: {line}")));
    if !noted || conf.is_some_and(|conf| conf.to_stderr) {
        let _ = writeln!(io::stderr(), "plexus: warning: {}{}", mark(), one_line(line)); // nobody to tell
    }
}

/// What made a call fail.
pub fn error(line: &str) {
    say(Level::Error, || line.to_owned());
}

/// What was done; the line is made only where it is wanted.
pub fn verbose(line: impl FnOnce() -> String) {
    say(Level::Verbose, line);
}

/// What helps to find a mistake.
pub fn debug(line: impl FnOnce() -> String) {
    say(Level::Debug, line);
}

fn say(level: Level, line: impl FnOnce() -> String) {
    let Some(conf) = LOG.get().filter(|_| writes(level)) else { return };
    let line = line();
    note(conf, level, &line);
    if conf.to_stderr {
        let _ = io::stderr().write_all(&formed(level, &line)); // nobody to tell
    }
}

/// Whether the file has the line now.
fn note(conf: &LogConf, level: Level, line: &str) -> bool {
    let Some(path) = conf.file.as_deref().filter(|_| level <= conf.level) else { return false };
    let done = file::append(path, conf, *OUTPUT.get_or_init(|| file::Output::Answer), &formed(level, line));
    let is_answer = |e: &io::Error| e.get_ref().is_some_and(|e| e.is::<file::OfAnswer>());
    if done.as_ref().is_err_and(is_answer) {
        MISDIRECTED.call_once(|| {
            let path = path.display();
            let _ =
                writeln!(io::stderr(), "plexus: warning: nothing is written to the logFile {path}: {}", file::OfAnswer);
        });
    }
    done.is_ok()
}

/// `time [level] line` (Multus): always one line, whatever is in it.
fn formed(level: Level, line: &str) -> Vec<u8> {
    let time = clock::rfc3339(SystemTime::now());
    let mut text = format!("{time} [{}] {}{}", level.name(), mark(), one_line(line)).into_bytes();
    if text.len() >= LINE_BYTES_MAX {
        text.truncate(LINE_BYTES_MAX - 4);
        text.extend_from_slice(b"...");
    }
    text.push(b'\n');
    text
}

/// Control characters as Rust writes them: nobody else's text can begin a line or colour a terminal.
fn one_line(line: &str) -> Cow<'_, str> {
    if !line.contains(char::is_control) {
        return Cow::Borrowed(line);
    }
    let of = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(line.chars().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_has_an_end() {
        let text = String::from_utf8(formed(Level::Verbose, "a\nb\u{1b}[31m\u{e4}")).unwrap();
        assert!(text.ends_with(" [verbose] a\\nb\\u{1b}[31m\u{e4}\n"), "{text}");
        assert_eq!(text.matches('\n').count(), 1);
        let id = TraceId::random();
        let traced = traced(Some(id));
        let text = String::from_utf8(formed(Level::Error, "a")).unwrap();
        assert!(text.ends_with(&format!(" [error] trace={id} a\n")), "{text}");
        let other = std::thread::spawn(|| formed(Level::Error, "b")).join().unwrap();
        drop(traced);
        for line in [other, formed(Level::Error, "b")] {
            assert!(line.ends_with(b" [error] b\n"), "of another request, or of none");
        }
        let text = formed(Level::Error, &"x".repeat(1 << 20));
        assert_eq!(text.len(), LINE_BYTES_MAX);
        assert!(text.ends_with(b"...\n"));
    }
}
