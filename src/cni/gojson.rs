//! JSON read the way Go's `encoding/json` reads it into structs, because configurations in the field rely on it: keys
//! match without regard to case, `null` means "not given", unknown keys are ignored (here: ignored and reported), a
//! missing field is its default, and a wrong type is refused in Go's words. Knows no field of any configuration.
//!
//! A type derives `Deserialize` as usual. Three things are read from the derive:
//! - the struct's serde name stands in Go's texts (`#[serde(rename = "NetConf")]`); a name with a dot is taken as the full
//!   Go type (`types.DNS`), another gets `main.` in front;
//! - a newtype struct whose name has a dot names its Go type instead of the inner one (`net.IP`);
//! - a struct whose name begins with `_` has its own `UnmarshalJSON` in Go: the texts name the struct around it; what
//!   follows is its Go type;
//! - a `*` before the type says that Go's lists of it are lists of pointers;
//! - `#[serde(default)]` is needed for every field that is not an `Option`, and `#[serde(flatten)]` must not be used:
//!   serde hides the field names from the decoder then.

use std::fmt::Display;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::godecode::{self, Node};
pub use super::goprint::{Layout, quote, to_string_go};

/// A value, and what of its source it did not take.
#[derive(Debug)]
pub struct Decoded<T> {
    /// The value.
    pub value: T,
    /// Paths of the keys no struct knows, such as `ipam.rangez` or `ranges[0].x`, in the order they were met.
    pub unknown: Vec<String>,
}

/// Why a JSON value is not the Go struct it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not JSON at all.
    #[error("{0}")]
    Syntax(String),
    /// A value of the wrong JSON type, or a number out of range.
    #[error("json: cannot unmarshal {found} into Go {place} of type {wanted}")]
    Type {
        /// What stands there: `string`, `number -1`, `object` ...
        found: String,
        /// Where: `value`, or `struct field NetConf.mtu`.
        place: String,
        /// The Go type it should have.
        wanted: String,
    },
    /// What a field's own parser said, unchanged.
    #[error("{0}")]
    Custom(String),
    /// Nested deeper than 128 levels.
    #[error("exceeded max depth")]
    Depth,
}

impl serde::de::Error for DecodeError {
    fn custom<T: Display>(message: T) -> Self {
        DecodeError::Custom(message.to_string())
    }
}

/// Parses JSON text. The last of duplicate keys wins, as in Go.
///
/// # Errors
/// `Syntax`, in Go's words.
pub fn parse(bytes: &[u8]) -> Result<Value, DecodeError> {
    read(bytes).map_err(|error| super::gosyntax::explain(bytes, &error))
}

/// JSON text of a type that needs none of Go's other rules. As [`parse`] does, it reads U+FFFD where a text is no Unicode.
///
/// # Errors
/// The parser's, of the text as it stands.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    // Nearly all text is Unicode: what is not is only looked for where it was refused.
    serde_json::from_slice(bytes).or_else(|error| serde_json::from_slice(&mended(bytes)).map_err(|_| error))
}

/// JSON text with U+FFFD in the place of what is no Unicode (Go, encoding/json, unquoteBytes): each byte that is no UTF-8,
/// and each escape that is one half of a surrogate pair.
pub(super) fn mended(bytes: &[u8]) -> Vec<u8> {
    const ESCAPE: usize = r"\u0000".len();
    let mut text = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.extend_from_slice(chunk.valid().as_bytes());
        text.extend("\u{fffd}".repeat(chunk.invalid().len()).bytes());
    }
    let unit = |at: usize| {
        let digits = text.get(at..at + ESCAPE)?.strip_prefix(br"\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut whole, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = text.get(at) {
        let (taken, is_half) = match (byte, unit(at)) {
            (b'\\', Some(0xd800..=0xdbff)) if matches!(unit(at + ESCAPE), Some(0xdc00..=0xdfff)) => (2 * ESCAPE, false),
            (b'\\', Some(0xd800..=0xdfff)) => (ESCAPE, true),
            (b'\\', _) => (2, false),
            _ => (1, false),
        };
        let end = (at + taken).min(text.len());
        whole.extend_from_slice(if is_half { "\u{fffd}".as_bytes() } else { text.get(at..end).unwrap_or_default() });
        at = end;
    }
    whole
}

/// The byte at which [`parse`] found that `bytes` are no JSON, or the one behind the last that says something; none where they are.
pub fn place_of_error(bytes: &[u8]) -> Option<usize> {
    let error = read::<Value>(bytes).err()?;
    let line_start = || {
        let before = |(_, byte): &(usize, &u8)| **byte == b'\n';
        let mut lines = bytes.iter().enumerate().filter(before).map(|(at, _)| at + 1);
        error.line().checked_sub(2).map_or(Some(0), |line| lines.nth(line)).unwrap_or_default()
    };
    let own = || (line_start() + error.column().saturating_sub(1)).min(bytes.len());
    Some(super::gosyntax::place(bytes).unwrap_or_else(own).min(bytes.trim_ascii_end().len()))
}

/// Parses JSON text that must be an object or `null` (which Go takes for an empty one). `go_type` stands in the refusal
/// of anything else.
///
/// # Errors
/// `Syntax`, or `Type` when it is another kind of value.
pub fn parse_object(bytes: &[u8], go_type: &str) -> Result<Map<String, Value>, DecodeError> {
    match parse(bytes)? {
        Value::Object(object) => Ok(object),
        Value::Null => Ok(Map::new()),
        other => Err(mismatch(&other, "value", go_type)),
    }
}

/// The refusal of a value that is not of Go type `wanted`, for code that looks at a value by hand.
pub(crate) fn mismatch(value: &Value, place: &str, wanted: &str) -> DecodeError {
    let found = Node::of(value).kind().to_string();
    DecodeError::Type { found, place: place.to_string(), wanted: wanted.to_string() }
}

/// The value of the key that Go would take for the field `name`: the exact key if it is there, else one that differs in
/// case only; `null` is no value.
pub fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let given = |value: &&Value| !value.is_null();
    let folded = || object.iter().rfind(|(key, value)| folds_to(key, name) && !value.is_null());
    object.get(name).filter(given).or_else(|| folded().map(|(_, value)| value))
}

/// Decodes an object into a struct.
///
/// # Errors
/// The first mismatch, in Go's words.
pub fn decode<T: DeserializeOwned>(object: &Map<String, Value>) -> Result<Decoded<T>, DecodeError> {
    godecode::run(Node::Object(object))
}

/// Decodes any value.
///
/// # Errors
/// The first mismatch, in Go's words.
pub fn decode_value<T: DeserializeOwned>(value: &Value) -> Result<Decoded<T>, DecodeError> {
    godecode::run(Node::of(value))
}

/// Whether Go's case folding makes both names one. Field names are ASCII; two signs beyond ASCII fold into it.
pub(crate) fn folds_to(key: &str, name: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.len() >= name.len() && key.chars().map(fold).eq(name.chars().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct R {
        a: i64,
        t: Option<i64>,
        ip: Option<GoIp>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename = "net.IP")]
    struct GoIp(#[serde(deserialize_with = "go_ip")] Option<IpAddr>);

    fn go_ip<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<IpAddr>, D::Error> {
        let text = String::deserialize(source)?;
        super::super::address::parse_ip(&text).map_err(serde::de::Error::custom)
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct NetConf {
        mtu: i64,
        b: u32,
        r: R,
        l: Vec<R>,
        s: Vec<String>,
        m: BTreeMap<String, bool>,
        ll: Vec<Vec<R>>,
        f: f64,
        mm: BTreeMap<String, Value>,
        tb: bool,
        #[serde(rename = "types.DNS")]
        dns: Option<Dns>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename = "types.DNS")]
    struct Dns {
        #[expect(dead_code, reason = "only its decoding is tested")]
        nameservers: Option<Vec<String>>,
    }

    fn decoded(value: Value) -> Result<Decoded<NetConf>, DecodeError> {
        decode(value.as_object().unwrap())
    }

    #[test]
    fn mismatches_are_refused_in_go_s_words() {
        // Each text was printed by Go for the same document and the same struct.
        let cases = [
            (json!({"mtu": "x"}), "json: cannot unmarshal string into Go struct field NetConf.mtu of type int"),
            (json!({"b": -1}), "json: cannot unmarshal number -1 into Go struct field NetConf.b of type uint32"),
            (json!({"b": 1.5}), "json: cannot unmarshal number 1.5 into Go struct field NetConf.b of type uint32"),
            (
                json!({"b": 4294967296u64}),
                "json: cannot unmarshal number 4294967296 into Go struct field NetConf.b of type uint32",
            ),
            (json!({"r": {"a": "x"}}), "json: cannot unmarshal string into Go struct field R.r.a of type int"),
            (json!({"r": {"t": "x"}}), "json: cannot unmarshal string into Go struct field R.r.t of type int"),
            (json!({"r": {"ip": "x"}}), "invalid IP address: x"),
            (json!({"r": {"ip": 3}}), "json: cannot unmarshal number into Go struct field R.r.ip of type net.IP"),
            (json!({"r": []}), "json: cannot unmarshal array into Go struct field NetConf.r of type main.R"),
            (json!({"l": "x"}), "json: cannot unmarshal string into Go struct field NetConf.l of type []main.R"),
            (json!({"l": [{"a": true}]}), "json: cannot unmarshal bool into Go struct field R.l.a of type int"),
            (json!({"l": ["x"]}), "json: cannot unmarshal string into Go struct field NetConf.l of type main.R"),
            (json!({"s": [1]}), "json: cannot unmarshal number into Go struct field NetConf.s of type string"),
            (json!({"s": {"a": 1}}), "json: cannot unmarshal object into Go struct field NetConf.s of type []string"),
            (json!({"m": {"k": "v"}}), "json: cannot unmarshal string into Go struct field NetConf.m of type bool"),
            (json!({"m": []}), "json: cannot unmarshal array into Go struct field NetConf.m of type map[string]bool"),
            (json!({"ll": [[{"a": []}]]}), "json: cannot unmarshal array into Go struct field R.ll.a of type int"),
            (json!({"ll": [{}]}), "json: cannot unmarshal object into Go struct field NetConf.ll of type []main.R"),
            (json!({"f": "x"}), "json: cannot unmarshal string into Go struct field NetConf.f of type float64"),
            (
                json!({"mm": [1]}),
                "json: cannot unmarshal array into Go struct field NetConf.mm of type map[string]interface {}",
            ),
            (json!({"tb": "true"}), "json: cannot unmarshal string into Go struct field NetConf.tb of type bool"),
        ];
        for (document, expected) in cases {
            assert_eq!(decoded(document.clone()).unwrap_err().to_string(), expected, "{document}");
        }
        let error = decode_value::<NetConf>(&json!([])).unwrap_err();
        assert_eq!(error.to_string(), "json: cannot unmarshal array into Go value of type main.NetConf");
        let error = decode_value::<NetConf>(&json!({"types.DNS": 3})).unwrap_err();
        assert!(error.to_string().ends_with("of type types.DNS"));
        let error = decode_value::<NetConf>(&json!({"types.DNS": {"nameservers": [1]}})).unwrap_err();
        assert!(error.to_string().contains("Go struct field DNS.types.DNS.nameservers of type string"), "{error}");
    }

    #[test]
    fn keys_match_without_case_and_the_exact_one_wins() {
        assert_eq!(decoded(json!({"MTU": 5})).unwrap().value.mtu, 5);
        assert_eq!(decoded(json!({"MTU": 5, "mtu": 6, "mTu": 7})).unwrap().value.mtu, 6);
        assert_eq!(decoded(json!({"MTU": 5, "mtu": null})).unwrap().value.mtu, 5);
        assert_eq!(decoded(json!({"\u{17f}": ["x"]})).unwrap().value.s, ["x"]);
        let object = json!({"NAME": "a", "name": null, "Name": "b"});
        assert_eq!(field(object.as_object().unwrap(), "name"), Some(&json!("b")));
        assert_eq!(field(object.as_object().unwrap(), "type"), None);
    }

    #[test]
    fn null_is_unset_and_a_null_element_is_zero() {
        let value = decoded(json!({"mtu": null, "r": null, "s": [null], "m": {"k": null}, "l": [null]})).unwrap().value;
        assert_eq!((value.mtu, value.r, value.s), (0, R::default(), vec![String::new()]));
        assert_eq!((value.m.get("k"), value.l), (Some(&false), vec![R::default()]));
    }

    #[test]
    fn unknown_keys_are_reported_with_their_path() {
        let document = json!({"mtu": 1, "x": 1, "r": {"y": {}}, "l": [{}, {"z": 1}], "mm": {"free": {"a": 1}}});
        assert_eq!(decoded(document).unwrap().unknown, ["x", "l[1].z", "r.y"]);
    }

    #[test]
    fn an_error_of_syntax_has_its_place() {
        let cases = [
            ("{\"a\": 1,}", Some(8)),
            ("{\"a\"\n 1}", Some(6)),
            ("{} x", Some(3)),
            ("{\"a\": [1, 2 \n", Some(11)),
            ("", Some(0)),
            ("[1]", None),
            ("[\n\"\\ud800\"]", None),
            ("[\n\"\\ud800\",]", Some(11)),
        ];
        for (text, place) in cases {
            assert_eq!(place_of_error(text.as_bytes()), place, "{text}");
            assert_eq!(parse(text.as_bytes()).is_err(), place.is_some(), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_unicode_is_read_as_go_reads_it() {
        // Each value was printed by Go for the same bytes.
        let cases: [(&[u8], &str); 14] = [
            (br#""\ud800""#, "\u{fffd}"),
            (br#""\udc00\ud800z""#, "\u{fffd}\u{fffd}z"),
            (br#""a\uD83D\uDE00b""#, "a\u{1f600}b"),
            (br#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (br#""\ud800\u0041""#, "\u{fffd}A"),
            (br#""\ud800\n""#, "\u{fffd}\n"),
            (br#""\\ud800\udfff""#, "\\ud800\u{fffd}"),
            (br#""\ud800\\udc00""#, "\u{fffd}\\udc00"),
            (br#""\"\ud800\"""#, "\"\u{fffd}\""),
            (b"\"\xff\xfe\"", "\u{fffd}\u{fffd}"),
            (b"\"\xe2\x82A\"", "\u{fffd}\u{fffd}A"),
            (b"\"\xed\xa0\x80\"", "\u{fffd}\u{fffd}\u{fffd}"),
            (b"\"\xc3\xbc\xff\\udfff\"", "\u{fc}\u{fffd}\u{fffd}"),
            (b"\"\xf0\x9f\x98\"", "\u{fffd}\u{fffd}\u{fffd}"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap(), json!(expected), "{}", text.escape_ascii());
        }
        assert_eq!(parse(br#"{"\ud800": 1}"#).unwrap(), json!({"\u{fffd}": 1}), "keys too");
        for broken in
            [&b"\xff"[..], b"[\"\xff\",]", br#""\ud80""#, br#""\ud80g""#, br#""\ud800"#, b"{\xff:1}", b"\"\\\xff\""]
        {
            let words = parse(broken).unwrap_err().to_string();
            assert!(words.starts_with("invalid character") || words.starts_with("unexpected end"), "{words}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        struct Nest {
            n: Option<Box<Nest>>,
        }
        let mut value = json!({});
        for _ in 0..200 {
            value = json!({"n": value});
        }
        assert_eq!(decode_value::<Nest>(&value).unwrap_err(), DecodeError::Depth);
    }
}
