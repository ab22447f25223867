//! Where things stand in a text: the tree of a YAML or JSON document by byte offsets, and text inside of text. It knows nothing of
//! what the document means; whether it is one at all was decided by those who parse it.

mod align;
mod json;

use std::fmt;

pub use align::Inner;
pub use json::json;

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// YAML without quotes; a collection, too.
    Plain,
    /// YAML, `'...'`.
    Single,
    /// YAML or JSON, `"..."`.
    Double,
    /// YAML, `|` or `>`.
    Block,
}

/// A stretch of a text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Its first byte; a block's is behind the line with its `|`.
    pub start: usize,
    /// Behind its last byte.
    pub end: usize,
    /// How it is written.
    pub style: Style,
}

/// One step down into a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// To a key of an object.
    Key(String),
    /// To an element of a list.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Step {
        Step::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Step {
        Step::Index(index)
    }
}

/// A way down into a document; shown as `plugins[0].ipam`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// The same, and one step more.
    #[must_use]
    pub fn join(&self, step: impl Into<Step>) -> Path {
        Path(self.0.iter().cloned().chain([step.into()]).collect())
    }

    /// This way, and from there the other one.
    #[must_use]
    pub fn then(&self, other: &Path) -> Path {
        Path(self.0.iter().chain(&other.0).cloned().collect())
    }

    /// The way that is shown as `text`: keys by dots, indexes in brackets.
    pub fn of(text: &str) -> Path {
        let parts = text.split(['.', '[', ']']).filter(|part| !part.is_empty());
        let step = |part: &str| part.parse().map_or_else(|_| Step::Key(part.to_owned()), Step::Index);
        Path(parts.map(step).collect())
    }

    /// The key that it ends with, where it ends with one.
    pub fn last_key(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|step| if let Step::Key(key) = step { Some(key.as_str()) } else { None })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if i == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// A value of a document, where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The value.
    pub spot: Spot,
    /// What is in it: the step, the spot of the key (for an element the value's), the value.
    pub below: Vec<(Step, Spot, Mark)>,
}

impl Mark {
    /// What is at the end of a way, or as far down as it can be gone; and the spot of its key.
    pub fn nearest(&self, path: &Path) -> (Spot, &Mark) {
        let (mut key, mut mark) = (self.spot, self);
        for step in &path.0 {
            // The last of keys that are there twice counts (Go), the exact one before one that differs in case.
            let exact = mark.below.iter().rfind(|(below, ..)| below == step);
            let folded = || mark.below.iter().rfind(|(below, ..)| is_folded(below, step));
            let Some((_, spot, next)) = exact.or_else(folded) else { break };
            (key, mark) = (*spot, next);
        }
        (key, mark)
    }

    /// What is at the end of a way.
    pub fn at(&self, path: &Path) -> Option<&Mark> {
        path.0
            .iter()
            .try_fold(self, |mark, step| mark.below.iter().rfind(|(below, ..)| below == step).map(|(_, _, mark)| mark))
    }
}

fn is_folded(a: &Step, b: &Step) -> bool {
    matches!((a, b), (Step::Key(a), Step::Key(b)) if a.eq_ignore_ascii_case(b))
}

/// In bytes: how much of a text is counted for one place in it. A file may be one line.
const BLOCK_BYTES: usize = 256;

/// Where the lines of a text begin.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
    /// Characters before each block.
    before: Vec<usize>,
}

fn characters(bytes: &[u8]) -> usize {
    let is_first_byte = |byte: &&u8| **byte & 0xC0 != 0x80;
    bytes.iter().filter(is_first_byte).count()
}

impl<'a> Lines<'a> {
    /// Reads the text once.
    pub fn of(text: &'a str) -> Lines<'a> {
        let after = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let blocks = text.as_bytes().chunks(BLOCK_BYTES).scan(0, |sum, block| {
            *sum += characters(block);
            Some(*sum)
        });
        Lines {
            text,
            starts: std::iter::once(0).chain(after).collect(),
            before: std::iter::once(0).chain(blocks).collect(),
        }
    }

    /// Line and column of a byte, both from 1; columns are characters.
    pub fn place(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        (line, self.characters_to(offset.min(self.text.len())) - self.characters_to(start) + 1)
    }

    /// How many characters begin before a byte; less than a block is counted for it.
    fn characters_to(&self, offset: usize) -> usize {
        let block = offset / BLOCK_BYTES;
        let rest = self.text.as_bytes().get(block * BLOCK_BYTES..offset).unwrap_or_default();
        self.before.get(block).copied().unwrap_or_default() + characters(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_shown_as_it_is_read() {
        for text in ["plugins[0].ipam.ranges[1][0].subnet", "name", ""] {
            assert_eq!(Path::of(text).to_string(), text);
        }
        assert_eq!(Path::of("a").join(3).join("b").last_key(), Some("b"));
        assert_eq!(Path::of("a[3]").last_key(), Some("a"));
    }

    #[test]
    fn a_line_of_many_blocks_is_counted_like_a_short_one() {
        let text = format!("a\n{}", "\u{e4}b\u{20ac}".repeat(BLOCK_BYTES));
        let lines = Lines::of(&text);
        for (index, (offset, _)) in text.char_indices().skip(2).enumerate() {
            assert_eq!(lines.place(offset), (2, index + 1), "{offset}");
        }
        assert_eq!(lines.place(text.len()), (2, 3 * BLOCK_BYTES + 1));
        // A place costs what it costs in a short line: no more than two blocks are looked at.
        assert_eq!(lines.before.len(), text.len().div_ceil(BLOCK_BYTES) + 1);
    }

    #[test]
    fn columns_are_characters() {
        let lines = Lines::of("ä: b\n\nxy");
        assert_eq!(
            [0, 2, 4, 6, 7, 8, 99].map(|at| lines.place(at)),
            [(1, 1), (1, 2), (1, 4), (2, 1), (3, 1), (3, 2), (3, 3)]
        );
    }
}
