//! The one way to standard output and standard error. A reader that went away (`plexus list | head -1`) is no failure.

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::time::Instant;

use clap::ValueEnum;
use serde::Serialize;

use super::failure::Failure;
use super::table::printable;

/// How a command writes what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for a person
    #[default]
    Table,
    /// JSON for a program
    Json,
}

/// Where results go.
pub(super) struct Out {
    sink: Box<dyn Write>,
}

impl Out {
    /// Standard output.
    pub(super) fn stdout() -> Out {
        Out { sink: Box::new(io::stdout()) }
    }

    /// Writes text as it is, at once.
    ///
    /// # Errors
    /// What the system says, a full disk for example; not that the reader has gone.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        match self.sink.write_all(text.as_bytes()).and_then(|()| self.sink.flush()) {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure::system("writing to standard output")(e)),
            _ => Ok(()),
        }
    }

    /// Writes a value as indented JSON and a newline.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub(super) fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(Failure::Json)?;
        self.text(&(text + "\n"))
    }
}

/// Prints a failure and its causes as one line on standard error.
pub(super) fn complain(failure: &Failure) {
    let mut line = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    // What is told may be in words of others.
    let _ = writeln!(io::stderr(), "plexus: {}", printable(&line)); // nobody to tell
}

/// What a long command is doing, a line a step, on standard error.
pub(super) struct Progress {
    start: Instant,
}

impl Progress {
    /// The clock starts now.
    pub(super) fn start() -> Progress {
        Progress { start: Instant::now() }
    }

    /// A step begins.
    pub(super) fn step(&self, what: &str) {
        let _ = writeln!(io::stderr(), "{:>5} ms  {what}", self.start.elapsed().as_millis()); // nobody to tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure_and_a_full_disk_is() {
        let mut gone = Out { sink: Box::new(Failing(ErrorKind::BrokenPipe)) };
        assert!(gone.text("x").is_ok());
        let mut full = Out { sink: Box::new(Failing(ErrorKind::StorageFull)) };
        assert!(full.text("x").is_err());
    }
}
