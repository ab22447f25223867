//! Quoted text whose further lines are indented less than YAML asks for. kubectl and the API server take it (go-yaml), and much of
//! what is written about networks of pods looks like that:
//!
//! ```yaml
//! annotations:
//!     k8s.v1.cni.cncf.io/networks: '[
//!         {"name": "lan"}
//!     ]'
//! ```
//!
//! Blanks at the beginning of such a line mean nothing, so more of them are put there.

use std::borrow::Cow;

/// Deeper than whatever a quoted text stands in.
const BLANKS: &str = "                                                                                                                                ";
/// Quoted texts of one file that are looked after; each is found by reading the file once more.
const MENDS_MAX: usize = 256;

/// A text with more blanks in it.
#[derive(Debug)]
pub(super) struct Indented<'a> {
    pub(super) text: Cow<'a, str>,
    /// The lines that got them: their beginning in the text as it was, and in this one. Sorted.
    lines: Vec<(usize, usize)>,
    mends: usize,
}

impl<'a> Indented<'a> {
    pub(super) fn new(text: &'a str) -> Indented<'a> {
        Indented { text: Cow::Borrowed(text), lines: Vec::new(), mends: 0 }
    }

    /// The byte of the text as it was.
    pub(super) fn original(&self, at: usize) -> usize {
        // Of so many lines the blanks begin before it.
        let count = self.lines.partition_point(|(_, moved)| *moved < at);
        match count.checked_sub(1).and_then(|last| self.lines.get(last)) {
            Some((line, _)) => at.saturating_sub(count * BLANKS.len()).max(*line),
            None => at,
        }
    }

    /// Indents the further lines of the quoted text around the byte `at`; what begins before `after` was read without complaint.
    /// Whether there is one that was not indented before.
    pub(super) fn mend(&mut self, after: usize, at: usize) -> bool {
        self.mends += 1;
        let Some((start, end)) = quoted(&self.text, after, at).filter(|_| self.mends <= MENDS_MAX) else {
            return false;
        };
        let body = self.text.get(start..end).unwrap_or_default();
        let found: Vec<usize> = body.match_indices('\n').map(|(line, _)| start + line + 1).collect();
        let lines: Vec<usize> = found.iter().map(|line| self.original(*line)).collect();
        let is_known = |line: &usize| self.lines.binary_search_by_key(line, |(line, _)| *line).is_ok();
        if found.is_empty() || lines.iter().any(is_known) {
            return false;
        }
        let mut text = String::with_capacity(self.text.len() + found.len() * BLANKS.len());
        let mut copied = 0;
        for line in found {
            text.push_str(self.text.get(copied..line).unwrap_or_default());
            text.push_str(BLANKS);
            copied = line;
        }
        text.push_str(self.text.get(copied..).unwrap_or_default());
        self.text = Cow::Owned(text);
        let mut all: Vec<usize> = self.lines.iter().map(|(line, _)| *line).chain(lines).collect();
        all.sort_unstable();
        self.lines = all.into_iter().enumerate().map(|(index, line)| (line, line + index * BLANKS.len())).collect();
        true
    }
}

/// The quoted text around a byte: from its quote to its last one.
fn quoted(text: &str, after: usize, at: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut here = after;
    let mut before = b' ';
    while here < at {
        let byte = *bytes.get(here)?;
        let begins = matches!(before, b' ' | b'\t' | b'\n' | b'[' | b'{' | b',' | b':');
        match byte {
            b'#' if matches!(before, b' ' | b'\t' | b'\n') => {
                here += bytes.get(here..)?.iter().position(|byte| *byte == b'\n')?;
                before = b'\n';
            }
            b'\'' | b'"' if begins => {
                let end = closing(bytes, here, byte)?;
                if end >= at {
                    return Some((here, end));
                }
                (here, before) = (end, byte);
            }
            other => before = other,
        }
        here += 1;
    }
    None
}

/// Where a quoted text ends that begins at `start`: its last quote.
fn closing(bytes: &[u8], start: usize, quote: u8) -> Option<usize> {
    let mut here = start + 1;
    loop {
        match *bytes.get(here)? {
            b'\\' if quote == b'"' => here += 1,
            byte if byte == quote && quote == b'\'' && bytes.get(here + 1) == Some(&quote) => here += 1,
            byte if byte == quote => return Some(here),
            _ => {}
        }
        here += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{documents, places};
    use crate::marks::{Inner, Lines, Path};

    /// As Multus' pages have it.
    const PAGE: &str = "metadata:\n  annotations:\n    # it's one\n    a: \"b\"\n    k: '[\n        { \"name\" : \"it''s\" },\n    { \"x\": 1 }\n]'\n    l: 'p\n  q'\nspec: \"a\n b\\\nc\" # d\n";

    #[test]
    fn what_the_api_server_takes_is_taken() {
        let value = &documents(PAGE).unwrap()[0];
        assert_eq!(value["metadata"]["annotations"]["k"], "[ { \"name\" : \"it's\" }, { \"x\": 1 } ]");
        assert_eq!((&value["metadata"]["annotations"]["l"], &value["spec"]), (&"p q".into(), &"a bc".into()));
    }

    #[test]
    fn places_are_those_of_the_file() {
        let (value, mark) = (&documents(PAGE).unwrap()[0], &places(PAGE).unwrap()[0]);
        let lines = Lines::of(PAGE);
        let of = |path: &str, part: &str| {
            let mark = mark.at(&Path::of(path)).unwrap();
            let text = path.split('.').fold(value, |value, key| &value[key]).as_str().unwrap();
            lines.place(Inner::of(PAGE, mark.spot, text).outer(text.find(part).unwrap()))
        };
        assert_eq!([of("metadata.annotations.k", "\"name"), of("metadata.annotations.k", "\"x\"")], [(6, 11), (7, 7)]);
        assert_eq!([of("metadata.annotations.l", "q"), of("spec", "c")], [(10, 3), (13, 1)]);
        assert_eq!(lines.place(mark.nearest(&Path::of("spec")).0.start), (11, 1));
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        for text in
            ["a:\n  b: 'x\n c\n", "a: 'x\ny: 'z'", "a:\n  b: \"\n c\" d\n", "- 'a\nb': c\n'd", "a: ''''\n  b: ''\nc'"]
        {
            let (values, places) = (documents(text), places(text));
            assert_eq!(values.is_err(), places.is_err(), "{text}");
        }
        let many: String = (0..300).map(|i| format!("- - 'a\nb{i}'\n")).collect();
        assert!(
            documents(&many).unwrap_err().contains("indentation"),
            "the file is not read as often as anybody wants"
        );
    }
}
