//! YAML documents as JSON values: what a directory of Kubernetes manifests needs, bounded against hostile input.
//!
//! A parser of events, and a stack that builds values from them: no recursion, so depth costs no stack. Aliases are copies,
//! and copies count: a document that unfolds into more nodes than [`NODES_MAX`] is refused (the "billion laughs").
//! The whole serde layer over this parser would make plexus-cni twice as large. It knows nothing of manifests.

mod indent;
mod places;

use std::collections::BTreeMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use indent::Indented;
pub use places::{Misplaced, places};

/// Nodes of all documents of a file, copies by alias included.
const NODES_MAX: usize = 1_000_000;
/// Deeper than any manifest; serde_json's own bound.
const DEPTH_MAX: usize = 128;

/// A collection that is still open, and the anchor it was given.
enum Open {
    Sequence(Vec<Value>, usize),
    Mapping(Map<String, Value>, Option<String>, usize),
}

#[derive(Default)]
struct Builder {
    documents: Vec<Value>,
    open: Vec<Open>,
    /// By anchor: the value, and how many nodes it has.
    anchors: BTreeMap<usize, (Value, usize)>,
    nodes: usize,
}

/// The documents of a text; empty ones are left out.
///
/// # Errors
/// The parser's, with line and column; or the bound that was passed.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    let (builder, _) = read(text, Builder::take).map_err(|stop| stop.whole)?;
    Ok(builder.documents)
}

/// Where a text stops to be YAML.
struct Stop {
    at: usize,
    /// The parser's words, or the bound that was passed.
    why: String,
    /// The same with line and column.
    whole: String,
}

/// Goes through the events of a text, which may be indented in between.
fn read<'a, B: Default>(
    text: &'a str,
    take: fn(&mut B, Event, Span) -> Result<(), String>,
) -> Result<(B, Indented<'a>), Stop> {
    let mut indented = Indented::new(text);
    loop {
        let (mut builder, mut after, mut stopped) = (B::default(), 0, None);
        for next in Parser::new_from_str(&indented.text) {
            let place = |at: Option<usize>| indented.original(at.unwrap_or_default());
            match next {
                Ok((event, span)) => {
                    after = span.end.byte_offset().unwrap_or(after).max(after);
                    take(&mut builder, event, span).map_err(|why| {
                        let at = place(span.start.byte_offset());
                        Stop { at, why: why.clone(), whole: why }
                    })?;
                }
                Err(e) => {
                    stopped = Some(e);
                    break;
                }
            }
        }
        let Some(e) = stopped else { return Ok((builder, indented)) };
        let at = e.marker().byte_offset().unwrap_or_default();
        if *e.kind() != ErrorKind::InvalidQuotedScalarIndent || !indented.mend(after, at) {
            return Err(Stop { at: indented.original(at), why: e.kind().to_string(), whole: e.to_string() });
        }
    }
}

impl Builder {
    fn take(&mut self, event: Event, _: Span) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                self.value(if plain { scalar(&text) } else { Value::String(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.opened(Open::Sequence(Vec::new(), anchor)),
            Event::MappingStart(_, anchor, _) => self.opened(Open::Mapping(Map::new(), None, anchor)),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::Sequence(items, anchor)) => self.value(Value::Array(items), anchor),
                Some(Open::Mapping(map, _, anchor)) => self.value(Value::Object(map), anchor),
                None => Err("a collection ends that did not begin".to_owned()),
            },
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let (value, nodes) = known.ok_or("an alias to what is still being read")?;
                self.count(nodes)?;
                self.value(value, 0)
            }
            Event::DocumentStart(..) | Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX { Err(format!("more than {NODES_MAX} values")) } else { Ok(()) }
    }

    fn opened(&mut self, open: Open) -> Result<(), String> {
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("deeper than {DEPTH_MAX} levels"));
        }
        self.open.push(open);
        Ok(())
    }

    /// Puts a finished value where it belongs: into the innermost open collection, or it is the document.
    fn value(&mut self, value: Value, anchor: usize) -> Result<(), String> {
        self.count(1)?;
        if anchor != 0 {
            let nodes = size(&value);
            self.anchors.insert(anchor, (value.clone(), nodes));
        }
        match self.open.last_mut() {
            None => {
                if !value.is_null() {
                    self.documents.push(value);
                }
            }
            Some(Open::Sequence(items, _)) => items.push(value),
            Some(Open::Mapping(map, key, _)) => match key.take() {
                Some(key) => {
                    map.insert(key, value);
                }
                None => *key = Some(key_of(value)?),
            },
        }
        Ok(())
    }
}

/// JSON has only text as keys; numbers and truths are written as they were.
fn key_of(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Array(_) | Value::Object(_) => Err("a key that is no text".to_owned()),
        other => Ok(other.to_string()),
    }
}

/// How many nodes a value has; the depth is bounded, so this may recurse.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

/// A plain scalar by YAML 1.2's core schema (section 10.3.2), as far as JSON has the value.
fn scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+' || c == '.');
    let number = || {
        let whole = text.strip_prefix('+').unwrap_or(text);
        let radix = |digits: &str, radix| i64::from_str_radix(digits, radix).ok().map(Number::from);
        if let Some(digits) = whole.strip_prefix("0x") {
            return radix(digits, 16);
        }
        if let Some(digits) = whole.strip_prefix("0o") {
            return radix(digits, 8);
        }
        let signed = whole.parse::<i64>().ok().map(Number::from);
        signed
            .or_else(|| whole.parse::<u64>().ok().map(Number::from))
            .or_else(|| whole.parse().ok().and_then(Number::from_f64))
    };
    match number().filter(|_| numeric) {
        Some(number) => Value::Number(number),
        None => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_manifest_is_read_as_the_api_server_would() {
        let text = "a: 1\nb: [x, 'y', \"z\", ~, true, 0x10, 1.5, 10.1.0.0/24, -3]\n# note\nc:\n  d: |\n    {\n      \"k\": 1\n    }\n---\n---\n- e: &f {g: h}\n  i: *f\n8080: no\n";
        assert!(documents(text).is_err(), "a sequence and a mapping in one place");
        let text = text.replace("8080: no\n", "---\n8080: no\n'true': \"8080\"\n");
        let found = documents(&text).unwrap();
        assert_eq!(found[0]["b"], json!(["x", "y", "z", null, true, 16, 1.5, "10.1.0.0/24", -3]));
        assert_eq!(found[0]["c"]["d"], "{\n  \"k\": 1\n}\n");
        assert_eq!(found[1], json!([{"e": {"g": "h"}, "i": {"g": "h"}}]));
        assert_eq!(found[2], json!({"8080": "no", "true": "8080"}));
    }

    #[test]
    fn depth_and_copies_are_bounded() {
        let nested = "[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1);
        assert!(documents(&nested).unwrap_err().contains("deep") || documents(&nested).is_err());
        let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (name, before) in ('b'..='k').zip('a'..='j') {
            bomb += &format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(","));
        }
        assert!(documents(&bomb).unwrap_err().contains("more than"));
        assert!(documents("a: &x [*x]").is_err(), "a value inside itself");
        assert!(documents("? {a: b}\n: c").unwrap_err().contains("no text"));
    }
}
