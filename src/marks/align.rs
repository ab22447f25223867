//! A text that stands in another one, quoted, indented or folded: which byte of the outer one each character came from.

use super::{Spot, Style};

/// A text by the bytes of the one that it stands in.
#[derive(Clone, Debug)]
pub struct Inner {
    /// By character: the byte in the inner text, and that in the outer one. Sorted.
    pairs: Vec<(usize, usize)>,
}

impl Inner {
    /// Goes along both: `value` is what a parser made of the scalar at `spot`. White space is where the two may differ (YAML
    /// folds and indents), besides escapes.
    pub fn of(outer: &str, spot: Spot, value: &str) -> Inner {
        let mut walk = Walk { rest: outer, at: spot.start, end: spot.end, style: spot.style };
        walk.begin();
        let mut pairs = Vec::with_capacity(value.len() + 1);
        for (at, c) in value.char_indices() {
            if !is_white(c) {
                walk.skip_white();
            }
            pairs.push((at, walk.at));
            if !is_white(c) || walk.peek().is_some_and(is_white) || walk.is_escape() {
                walk.character();
            }
        }
        pairs.push((value.len(), walk.at));
        Inner { pairs }
    }

    /// The byte in the outer text.
    pub fn outer(&self, inner: usize) -> usize {
        let after = self.pairs.partition_point(|(at, _)| *at <= inner);
        self.pairs.get(after.saturating_sub(1)).map_or(0, |(_, outer)| *outer)
    }
}

fn is_white(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

struct Walk<'a> {
    rest: &'a str,
    at: usize,
    end: usize,
    style: Style,
}

impl Walk<'_> {
    fn peek(&self) -> Option<char> {
        self.ahead(0)
    }

    fn ahead(&self, bytes: usize) -> Option<char> {
        let at = self.at + bytes;
        (at < self.end).then(|| self.rest.get(at..)?.chars().next()).flatten()
    }

    fn is_escape(&self) -> bool {
        self.style == Style::Double && self.peek() == Some('\\')
    }

    /// Over the quote.
    fn begin(&mut self) {
        self.at += usize::from(matches!(self.style, Style::Single | Style::Double));
    }

    fn skip_white(&mut self) {
        loop {
            let continues = self.is_escape() && matches!(self.ahead(1), Some('\n' | '\r'));
            match self.peek() {
                Some(c) if is_white(c) || continues => self.at += 1,
                _ => return,
            }
        }
    }

    fn character(&mut self) {
        let Some(c) = self.peek() else { return };
        if self.is_escape() {
            self.escape();
        } else if self.style == Style::Single && c == '\'' {
            self.at += 2;
        } else {
            self.at += c.len_utf8();
        }
    }

    fn escape(&mut self) {
        let digits = match self.ahead(1) {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            other => {
                self.at += 1 + other.map_or(0, char::len_utf8);
                return;
            }
        };
        let hex = |from: usize| self.rest.get(from..from + 4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        // JSON writes a character beyond 16 bits as two halves.
        let is_half = digits == 4 && hex(self.at + 2).is_some_and(|half| (0xD800..0xDC00).contains(&half));
        self.at += if is_half { 2 * (2 + digits) } else { 2 + digits };
        self.at = self.at.min(self.end);
    }
}
