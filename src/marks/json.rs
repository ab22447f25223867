//! The tree of a JSON text. For text that a parser has taken: what is no JSON gives no tree, and no reason.

use crate::cni::gojson;

use super::{Mark, Spot, Step, Style};

/// serde_json's own bound, and one for the value in it.
const DEPTH_MAX: usize = 129;

/// Where everything in a JSON text stands.
pub fn json(text: &str) -> Option<Mark> {
    let mut reader = Reader { text, at: 0 };
    let mark = reader.value(0)?;
    reader.blanks();
    (reader.at == text.len()).then_some(mark)
}

/// What is in a collection, one after the other; the last number is the index.
type One<'a> = fn(&mut Reader<'a>, usize, usize) -> Option<(Step, Spot, Mark)>;

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn takes(&mut self, byte: u8) -> bool {
        self.blanks();
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn value(&mut self, depth: usize) -> Option<Mark> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.blanks();
        let start = self.at;
        let (style, below) = match self.peek()? {
            b'{' => (Style::Plain, self.collection(depth, b'}', Self::member)?),
            b'[' => (Style::Plain, self.collection(depth, b']', Self::element)?),
            b'"' => {
                self.string()?;
                (Style::Double, Vec::new())
            }
            _ => {
                let is_end = |byte: u8| matches!(byte, b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\r' | b'\n');
                while self.peek().is_some_and(|byte| !is_end(byte)) {
                    self.at += 1;
                }
                (Style::Plain, Vec::new())
            }
        };
        (self.at > start).then_some(Mark { spot: Spot { start, end: self.at, style }, below })
    }

    fn collection(&mut self, depth: usize, end: u8, one: One<'a>) -> Option<Vec<(Step, Spot, Mark)>> {
        self.at += 1;
        let mut below = Vec::new();
        if self.takes(end) {
            return Some(below);
        }
        loop {
            below.push(one(self, depth, below.len())?);
            if self.takes(end) {
                return Some(below);
            }
            self.takes(b',').then_some(())?;
        }
    }

    fn member(&mut self, depth: usize, _: usize) -> Option<(Step, Spot, Mark)> {
        self.blanks();
        let start = self.at;
        self.string()?;
        let key = Spot { start, end: self.at, style: Style::Double };
        let name: String = gojson::read(self.text.get(start..self.at)?.as_bytes()).ok()?;
        self.takes(b':').then_some(())?;
        Some((Step::Key(name), key, self.value(depth + 1)?))
    }

    fn element(&mut self, depth: usize, index: usize) -> Option<(Step, Spot, Mark)> {
        let mark = self.value(depth + 1)?;
        Some((Step::Index(index), mark.spot, mark))
    }

    fn string(&mut self) -> Option<()> {
        self.takes(b'"').then_some(())?;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Path;
    use super::*;

    #[test]
    fn keys_and_values_are_found() {
        let text = r#" {"a": [1, {"b\"": "x"}], "A": {}, "n": null} "#;
        let mark = json(text).unwrap();
        let found = |path: &str| {
            let (key, mark) = mark.nearest(&Path::of(path));
            (&text[key.start..key.end], &text[mark.spot.start..mark.spot.end])
        };
        assert_eq!(found("a[1]"), (r#"{"b\"": "x"}"#, r#"{"b\"": "x"}"#));
        assert_eq!(found("a[1].b\""), (r#""b\"""#, r#""x""#));
        assert_eq!(found("a[0].none"), ("1", "1"));
        assert_eq!(found("A").0, r#""A""#);
        assert_eq!(found("N"), (r#""n""#, "null"));
    }

    #[test]
    fn what_is_no_json_has_no_tree() {
        for text in ["", "{", "[1,]", "{\"a\"}", "{\"a\":}", "\"\\", "[] x", &"[".repeat(200), "{1:2}"] {
            assert_eq!(json(text), None, "{text}");
        }
    }
}
