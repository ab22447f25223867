//! Go's words for text that is not JSON: `invalid character 'x' after top-level value`. serde_json decides whether text is
//! JSON; only once it said no does this scanner look for the place where Go would have stopped.

use super::gojson::DecodeError;

/// Why `bytes` is not JSON. Where Go would have taken it (deeper nesting, numbers beyond all), serde_json's reason stands.
pub(super) fn explain(bytes: &[u8], error: &serde_json::Error) -> DecodeError {
    let mut scanner = Scanner { rest: bytes };
    let text = match scanner.document() {
        Err(stop) => stop.text(),
        Ok(()) => error.to_string(),
    };
    DecodeError::Syntax(text)
}

/// The byte of `bytes` that Go names when it is not JSON; behind the last one where the text ends early. None: it is JSON for Go.
pub(super) fn place(bytes: &[u8]) -> Option<usize> {
    let mut scanner = Scanner { rest: bytes };
    let read = |scanner: &Scanner| bytes.len() - scanner.rest.len();
    match scanner.document() {
        Ok(()) => None,
        Err(Stop::End) => Some(bytes.len()),
        // What follows the text is looked at and not taken.
        Err(Stop::Character(_, AFTER)) => Some(read(&scanner)),
        Err(Stop::Character(..) | Stop::Depth) => Some(read(&scanner).saturating_sub(1)),
    }
}

/// Go's name of the place behind a whole value.
const AFTER: &str = "after top-level value";

/// Where the scanner stopped.
enum Stop {
    /// The text ended early.
    End,
    /// A character that cannot stand there, and Go's name of the place.
    Character(u8, &'static str),
    /// Nested deeper than anything Go or serde_json would take.
    Depth,
}

impl Stop {
    fn text(&self) -> String {
        match self {
            Stop::End => "unexpected end of JSON input".to_string(),
            Stop::Depth => "exceeded max depth".to_string(),
            Stop::Character(byte, place) => {
                // Go quotes the byte as if it were a character of Latin-1.
                let c = char::from(*byte);
                let quoted = match c {
                    '\'' => "'\\''".to_string(),
                    '"' => "'\"'".to_string(),
                    other => super::goprint::quote(other.encode_utf8(&mut [0; 4])).replace('"', "'"),
                };
                format!("invalid character {quoted} {place}")
            }
        }
    }
}

/// Levels of nesting the scanner follows: serde_json has refused deeper text before.
const SCAN_LEVELS_MAX: u32 = 256;

struct Scanner<'a> {
    rest: &'a [u8],
}

impl Scanner<'_> {
    fn next(&mut self) -> Result<u8, Stop> {
        let (&first, rest) = self.rest.split_first().ok_or(Stop::End)?;
        self.rest = rest;
        Ok(first)
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.rest = self.rest.get(1..).unwrap_or_default();
        }
    }

    fn document(&mut self) -> Result<(), Stop> {
        self.value(0)?;
        self.blanks();
        self.peek().map_or(Ok(()), |byte| Err(Stop::Character(byte, AFTER)))
    }

    fn value(&mut self, depth: u32) -> Result<(), Stop> {
        self.blanks();
        if depth > SCAN_LEVELS_MAX {
            return Err(Stop::Depth);
        }
        match self.next()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b'-' => match self.next()? {
                digit @ b'0'..=b'9' => self.number(digit),
                other => Err(Stop::Character(other, "in numeric literal")),
            },
            digit @ b'0'..=b'9' => self.number(digit),
            b't' => self.literal(&TRUE),
            b'f' => self.literal(&FALSE),
            b'n' => self.literal(&NULL),
            other => Err(Stop::Character(other, "looking for beginning of value")),
        }
    }

    fn object(&mut self, depth: u32) -> Result<(), Stop> {
        self.blanks();
        if self.peek() == Some(b'}') {
            return self.next().map(drop);
        }
        loop {
            self.blanks();
            match self.next()? {
                b'"' => self.string()?,
                other => return Err(Stop::Character(other, "looking for beginning of object key string")),
            }
            self.blanks();
            match self.next()? {
                b':' => self.value(depth + 1)?,
                other => return Err(Stop::Character(other, "after object key")),
            }
            self.blanks();
            match self.next()? {
                b',' => {}
                b'}' => return Ok(()),
                other => return Err(Stop::Character(other, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self, depth: u32) -> Result<(), Stop> {
        self.blanks();
        if self.peek() == Some(b']') {
            return self.next().map(drop);
        }
        loop {
            self.value(depth + 1)?;
            self.blanks();
            match self.next()? {
                b',' => {}
                b']' => return Ok(()),
                other => return Err(Stop::Character(other, "after array element")),
            }
        }
    }

    fn string(&mut self) -> Result<(), Stop> {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let digit = self.next()?;
                            if !digit.is_ascii_hexdigit() {
                                return Err(Stop::Character(digit, "in \\u hexadecimal character escape"));
                            }
                        }
                    }
                    other => return Err(Stop::Character(other, "in string escape code")),
                },
                control @ 0..0x20 => return Err(Stop::Character(control, "in string literal")),
                _ => {}
            }
        }
    }

    fn number(&mut self, first: u8) -> Result<(), Stop> {
        if first != b'0' {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.next()?;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.next()?;
            if let Some(b'+' | b'-') = self.peek() {
                self.next()?;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn some_digits(&mut self, place: &'static str) -> Result<(), Stop> {
        let first = self.next()?;
        if !first.is_ascii_digit() {
            return Err(Stop::Character(first, place));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.rest = self.rest.get(1..).unwrap_or_default();
        }
    }

    fn literal(&mut self, rest: &[(u8, &'static str)]) -> Result<(), Stop> {
        for (expected, place) in rest {
            let byte = self.next()?;
            if byte != *expected {
                return Err(Stop::Character(byte, place));
            }
        }
        Ok(())
    }
}

const TRUE: [(u8, &str); 3] = [
    (b'r', "in literal true (expecting 'r')"),
    (b'u', "in literal true (expecting 'u')"),
    (b'e', "in literal true (expecting 'e')"),
];
const FALSE: [(u8, &str); 4] = [
    (b'a', "in literal false (expecting 'a')"),
    (b'l', "in literal false (expecting 'l')"),
    (b's', "in literal false (expecting 's')"),
    (b'e', "in literal false (expecting 'e')"),
];
const NULL: [(u8, &str); 3] = [
    (b'u', "in literal null (expecting 'u')"),
    (b'l', "in literal null (expecting 'l')"),
    (b'l', "in literal null (expecting 'l')"),
];

#[cfg(test)]
mod tests {
    use super::super::gojson;

    #[test]
    fn the_reasons_are_go_s() {
        // Each text was printed by Go for the same bytes.
        let cases = [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{\"mtu\": tru}", "invalid character '}' in literal true (expecting 'e')"),
            ("{\"a\":1}x", "invalid character 'x' after top-level value"),
            ("hello", "invalid character 'h' looking for beginning of value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{\"a\":1 \"b\":2}", "invalid character '\"' after object key:value pair"),
            ("[1.x]", "invalid character 'x' after decimal point in numeric literal"),
            ("[1ex]", "invalid character 'x' in exponent of numeric literal"),
            ("[-x]", "invalid character 'x' in numeric literal"),
            ("[01]", "invalid character '1' after array element"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u00g0\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("\u{feff}{}", "invalid character 'ï' looking for beginning of value"),
        ];
        for (text, expected) in cases {
            assert_eq!(gojson::parse(text.as_bytes()).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_go_would_take_keeps_the_parser_s_reason() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(gojson::parse(deep.as_bytes()).unwrap_err().to_string().starts_with("recursion limit exceeded"));
    }
}
