//! What an installation changes, one file a step: each is done at once or not at all, and known to be done when it is met again.
//! It does not know why.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::durable;

/// What a step is that leaves something where it is.
pub const STAYS: &str = "stays";
const PROGRAM_MODE: u32 = 0o755;
const FOLDER_MODE: u32 = 0o755;
/// As Multus writes it: it may name what not everybody has to know.
const CONFIGURATION_MODE: u32 = 0o600;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A program is copied.
    Place {
        /// Where it is.
        from: PathBuf,
        /// Where it will be.
        to: PathBuf,
    },
    /// A symbolic link is made.
    Point {
        /// Where.
        at: PathBuf,
        /// To what.
        to: PathBuf,
    },
    /// A configuration is written.
    Write {
        /// Where.
        path: PathBuf,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// A file gets another name.
    Move {
        /// Its name.
        from: PathBuf,
        /// Its new name.
        to: PathBuf,
    },
    /// A file is removed.
    Remove {
        /// Which.
        path: PathBuf,
    },
    /// A file stays, although it might be expected to go.
    Stay {
        /// Which.
        path: PathBuf,
    },
    /// What the journal says is written for Multus.
    Hand,
    /// Multus serves: the journal forgets.
    Retire,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was done now.
    Done,
    /// It was so already.
    Already,
    /// It is what would be done.
    Pending,
    /// It could not be done.
    Failed,
}

impl State {
    /// Its word in a table.
    pub fn word(self) -> &'static str {
        match self {
            State::Done => "done",
            State::Already => "already so",
            State::Pending => "would be done",
            State::Failed => "failed",
        }
    }
}

impl Act {
    /// The file it is about; none of the journal's.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Act::Place { to, .. } => Some(to),
            Act::Point { at, .. } => Some(at),
            Act::Move { from, .. } => Some(from),
            Act::Write { path, .. } | Act::Remove { path } | Act::Stay { path } => Some(path),
            Act::Hand | Act::Retire => None,
        }
    }

    /// What it is, in a word.
    pub fn what(&self) -> &'static str {
        match self {
            Act::Place { .. } => "program",
            Act::Point { .. } => "link",
            Act::Write { .. } => "write",
            Act::Move { .. } => "rename",
            Act::Remove { .. } => "remove",
            Act::Stay { .. } => STAYS,
            Act::Hand => "pods",
            Act::Retire => "journal",
        }
    }

    /// Whether nothing is to be done.
    pub fn is_done(&self) -> bool {
        let is_absent = |path: &Path| fs::symlink_metadata(path).is_err();
        match self {
            Act::Place { from, to } => is_copy(from, to),
            Act::Point { at, to } => fs::read_link(at).is_ok_and(|found| found == *to),
            Act::Write { path, bytes } => fs::read(path).is_ok_and(|found| found == *bytes),
            Act::Move { from, .. } => is_absent(from),
            Act::Remove { path } => is_absent(path),
            Act::Stay { .. } => true,
            Act::Hand | Act::Retire => false,
        }
    }

    /// Does it, where it is about a file.
    ///
    /// # Errors
    /// What the system says; then the file is as it was.
    pub fn run(&self) -> io::Result<()> {
        match self {
            Act::Place { from, to } => {
                let folder = to.parent().unwrap_or(Path::new("/"));
                DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
                durable::copy(from, to, PROGRAM_MODE)
            }
            Act::Point { at, to } => durable::point(at, to),
            Act::Write { path, bytes } => durable::replace(path, bytes, CONFIGURATION_MODE),
            Act::Move { from, to } => durable::rename(from, to),
            Act::Remove { path } => durable::remove(path),
            Act::Stay { .. } | Act::Hand | Act::Retire => Ok(()),
        }
    }
}

fn is_copy(from: &Path, to: &Path) -> bool {
    let (Ok(one), Ok(other)) = (fs::metadata(from), fs::symlink_metadata(to)) else { return false };
    let is_program = other.is_file() && other.permissions().mode() & 0o777 == PROGRAM_MODE;
    is_program && one.len() == other.len() && is_equal(from, to).unwrap_or(false)
}

fn is_equal(from: &Path, to: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (BufReader::new(File::open(from)?), BufReader::new(File::open(to)?));
    loop {
        let (a, b) = (one.fill_buf()?, other.fill_buf()?);
        let both = a.len().min(b.len());
        if both == 0 || a.get(..both) != b.get(..both) {
            return Ok(a.is_empty() && b.is_empty());
        }
        one.consume(both);
        other.consume(both);
    }
}
