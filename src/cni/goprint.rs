//! Values as Go prints them: JSON as `encoding/json` writes it, and strings as `%q` does. Only output; reading is
//! `gojson`.

use std::io;

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use serde_json::{Map, Value};

/// How JSON is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Four spaces a level, as every CNI plugin prints.
    Indented,
    /// One line.
    Compact,
}

/// `value` as Go's `json.Marshal` or `json.MarshalIndent` of a map prints it: keys sorted at every level, `<`, `>`, `&`,
/// U+2028 and U+2029 escaped, floats in Go's form, no newline at the end.
pub fn to_string_go(value: &Value, layout: Layout) -> String {
    String::from_utf8_lossy(&print(&Sorted(value), layout)).into_owned()
}

/// An object in the same form.
pub fn object_to_string_go(object: &Map<String, Value>, layout: Layout) -> String {
    String::from_utf8_lossy(&print(&SortedObject(object), layout)).into_owned()
}

/// `value` in the same form, with the keys of its structs in their declared order.
pub(crate) fn print<T: Serialize>(value: &T, layout: Layout) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let written = match layout {
        Layout::Indented => {
            let go = Go(PrettyFormatter::with_indent(b"    "));
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, go))
        }
        Layout::Compact => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Go(CompactFormatter))),
    };
    #[expect(clippy::expect_used, reason = "a Vec takes every byte, and the types printed here have string keys only")]
    written.expect("printing to memory");
    out
}

/// Sorts keys whatever the map's own order is, so that no dependency's feature can change what is printed.
struct Sorted<'a>(&'a Value);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(object) => SortedObject(object).serialize(serializer),
            Value::Array(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(&Sorted(item))?;
                }
                seq.end()
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

struct SortedObject<'a>(&'a Map<String, Value>);

impl Serialize for SortedObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entries: Vec<_> = self.0.iter().collect();
        entries.sort_by_key(|(key, _)| key.as_str());
        let mut map = serializer.serialize_map(Some(entries.len()))?;
        for (key, value) in entries {
            map.serialize_entry(key, &Sorted(value))?;
        }
        map.end()
    }
}

/// A formatter with Go's escapes and floats, and another's layout.
struct Go<F>(F);

macro_rules! layout_of_inner {
    ($($method:ident($($arg:ident: $type:ty),*);)*) => {$(
        fn $method<W: ?Sized + io::Write>(&mut self, writer: &mut W $(, $arg: $type)*) -> io::Result<()> {
            self.0.$method(writer $(, $arg)*)
        }
    )*};
}

impl<F: Formatter> Formatter for Go<F> {
    layout_of_inner! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((before, found, after)) = split_at_escape(rest) {
            writer.write_all(before.as_bytes())?;
            write!(writer, "\\u{:04x}", u32::from(found))?;
            rest = after;
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Splits at the first character that Go escapes and serde_json does not.
fn split_at_escape(text: &str) -> Option<(&str, char, &str)> {
    let (at, found) = text.char_indices().find(|(_, c)| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}'))?;
    let (before, from) = text.split_at_checked(at)?;
    Some((before, found, from.get(found.len_utf8()..)?))
}

/// Go's float: plain digits between 1e-6 and 1e21, an exponent without leading zeros outside.
fn float(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        // -0 is a number Go prints as it is.
        return format!("{value}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

/// Go's `%q` of a string.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\0'..='\x1f' | '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            ' '..='~' => out.push(c),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Whether `%q` prints a character beyond ASCII as it is: letters, marks, numbers, punctuation and symbols, no spaces.
/// The standard library's Debug knows the same classes, and escapes a combining mark only where it stands first.
fn is_printable(c: char) -> bool {
    String::from_iter(['a', c]).escape_debug().count() == 2
}

/// Go's `%q` of a list of strings: `["a" "b"]`.
pub fn quote_list<T: AsRef<str>>(items: &[T]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quote(item.as_ref())).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_and_escapes_are_go_s() {
        // The expected text was printed by Go's encoding/json.
        let value = json!({
            "a": 1.5, "b": 1e21, "c": 1e20, "d": 1e-7, "e": 0.000001, "f": 100.0, "g": 0,
            "h": "<>&\u{2028}\u{7f}\u{8}\u{c}\u{1}\u{a0}é\"\\/", "i": f64::MAX, "j": 5e-324, "k": 123456789.125,
        });
        let expected = "{\"a\":1.5,\"b\":1e+21,\"c\":100000000000000000000,\"d\":1e-7,\"e\":0.000001,\"f\":100,\"g\":0,\"h\":\"\\u003c\\u003e\\u0026\\u2028\u{7f}\\b\\f\\u0001\u{a0}é\\\"\\\\/\",\"i\":1.7976931348623157e+308,\"j\":5e-324,\"k\":123456789.125}";
        assert_eq!(to_string_go(&value, Layout::Compact), expected);
    }

    #[test]
    fn the_indented_form_sorts_keys_and_ends_without_a_newline() {
        let value = json!({"b": [], "a": {"y": {}, "x": [1, {"k": null}]}});
        let expected = "{\n    \"a\": {\n        \"x\": [\n            1,\n            {\n                \"k\": null\n            }\n        ],\n        \"y\": {}\n    },\n    \"b\": []\n}";
        assert_eq!(to_string_go(&value, Layout::Indented), expected);
    }

    #[test]
    fn quoting_is_go_s() {
        let text = "a\0\u{1}\u{7}\u{8}\u{c}\n\r\t\u{b}\u{7f}\u{a0}\u{ad}\u{200b}\u{feff}\u{1F600}é\"'\\\u{301}";
        let expected =
            "\"a\\x00\\x01\\a\\b\\f\\n\\r\\t\\v\\x7f\\u00a0\\u00ad\\u200b\\ufeff\u{1F600}é\\\"'\\\\\u{301}\"";
        assert_eq!(quote(text), expected);
        assert_eq!(quote_list(&["a b", "c"]), "[\"a b\" \"c\"]");
    }
}
