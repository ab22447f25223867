//! Files with the trees of their documents, and texts that stand in them. It knows nothing of what they say.

use std::cell::OnceCell;

use serde_json::Value;

use super::{Finding, Level, Text};
use crate::marks::{self, Inner, Lines, Mark, Path, Spot};
use crate::sources;
use crate::yaml;

/// One file, read.
pub(super) struct File<'a> {
    pub(super) name: &'a str,
    text: &'a str,
    lines: Lines<'a>,
    /// The documents, each with its tree; or why there are none, and where.
    pub(super) documents: Result<Vec<(Value, Mark)>, (usize, String)>,
}

impl<'a> File<'a> {
    pub(super) fn read(text: &'a Text) -> File<'a> {
        File { name: &text.name, text: &text.text, lines: Lines::of(&text.text), documents: documents(&text.text) }
    }

    /// A finding about a byte of the file.
    pub(super) fn finding(&self, offset: usize, level: Level, what: impl Into<String>) -> Finding {
        let (line, column) = self.lines.place(offset);
        let (object, key, instead) = (String::new(), String::new(), String::new());
        Finding { file: self.name.to_owned(), line, column, level, object, key, what: what.into(), instead }
    }
}

/// As [`sources::parse_manifests`] reads them, with their places.
fn documents(text: &str) -> Result<Vec<(Value, Mark)>, (usize, String)> {
    let values = sources::parse_manifests(text).map_err(|why| match yaml::places(text) {
        Err(misplaced) => (misplaced.at, misplaced.why),
        Ok(_) => (0, why),
    })?;
    let whole = text.trim_start().starts_with('{').then(|| marks::json(text)).flatten();
    let trees = match whole {
        Some(mark) => vec![mark],
        None => yaml::places(text).map_err(|misplaced| (misplaced.at, misplaced.why))?,
    };
    Ok(values.into_iter().zip(trees).collect())
}

/// A text that stands in a file: a configuration, an annotation.
pub(super) struct Written<'a> {
    file: &'a File<'a>,
    spot: Spot,
    /// What it says.
    pub(super) text: &'a str,
    inner: OnceCell<Inner>,
    tree: OnceCell<Option<Mark>>,
}

impl<'a> Written<'a> {
    pub(super) fn of(file: &'a File<'a>, spot: Spot, text: &'a str) -> Written<'a> {
        Written { file, spot, text, inner: OnceCell::new(), tree: OnceCell::new() }
    }

    fn tree(&self) -> Option<&Mark> {
        self.tree.get_or_init(|| marks::json(self.text)).as_ref()
    }

    /// Line and column of a byte of it.
    pub(super) fn place_at(&self, offset: usize) -> (usize, usize) {
        let inner = self.inner.get_or_init(|| Inner::of(self.file.text, self.spot, self.text));
        self.file.lines.place(inner.outer(offset))
    }

    /// Line and column of a key in it, or of the nearest thing that is there, where it is JSON.
    pub(super) fn place_of(&self, path: &Path) -> (usize, usize) {
        let offset = self.tree().map(|tree| tree.nearest(path).0.start);
        // A missing key is missing from the object that begins here.
        self.place_at(offset.unwrap_or_else(|| self.text.len() - self.text.trim_start().len()))
    }

    /// Keys that are there twice.
    pub(super) fn repeated(&self) -> Vec<Path> {
        let mut repeated = Vec::new();
        if let Some(tree) = self.tree() {
            repeats(tree, &Path::default(), &mut repeated);
        }
        repeated
    }
}

fn repeats(mark: &Mark, path: &Path, into: &mut Vec<Path>) {
    let mut seen = std::collections::BTreeSet::new();
    for (step, _, below) in &mark.below {
        let here = path.join(step.clone());
        repeats(below, &here, into);
        if !seen.insert(step) {
            into.push(here);
        }
    }
}
