//! The files of the repository: what git tracks, and what it would track. Knows no rule.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rust::blank;

/// One text file.
pub(crate) struct Entry {
    /// Relative to the repository's root.
    pub(crate) path: String,
    pub(crate) text: String,
    /// For a `.rs` file: the text with comments and the insides of literals replaced by blanks, line for line.
    pub(crate) code: String,
}

impl Entry {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(crate) fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.split('.').find(|part| !part.is_empty()).unwrap_or_default()
    }

    pub(crate) fn directory(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(directory, _)| directory)
    }
}

/// All text files, in the order of their paths.
pub(crate) struct Repository {
    pub(crate) root: PathBuf,
    pub(crate) entries: Vec<Entry>,
}

impl Repository {
    pub(crate) fn read() -> Result<Self, String> {
        // Cargo names the directory again when it runs the test: the checkout may have moved since it was built.
        let root =
            std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        // Files that are new, but not ignored, are judged before they are committed.
        let listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let output = Command::new("git").arg("-C").arg(&root).args(listing).output();
        let output = output.map_err(|error| format!("git: {error}"))?;
        if !output.status.success() {
            return Err(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let mut paths: Vec<String> =
            String::from_utf8_lossy(&output.stdout).split_terminator('\0').map(str::to_owned).collect();
        paths.sort();
        paths.dedup();
        // What is no text has no style; what git lists and is not there has just been removed.
        let read = |path: String| {
            let text = fs::read_to_string(root.join(&path)).ok()?;
            let code = if path.ends_with(".rs") { blank(&text) } else { String::new() };
            Some(Entry { path, text, code })
        };
        let entries = paths.into_iter().filter_map(read).collect();
        Ok(Self { root, entries })
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.is_rust())
    }

    pub(crate) fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path == path)
    }

    /// The packages' manifests.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.path.rsplit('/').next() == Some("Cargo.toml"))
    }

    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.root.join(path).exists()
    }
}
