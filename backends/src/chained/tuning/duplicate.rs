//! Keys that stand twice in the text of a configuration. Whoever reads JSON into maps has lost them: this reads the text.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::Error;

const SECTION: &str = "sysctl";

/// Refuses a configuration whose `sysctl` has a key twice, as the reference plugin does. `configuration` is the whole text of the
/// plugin's object, as it arrived. What is no such object is no error here: whoever reads it says so better.
///
/// Each call begins anew. (The reference plugin remembers the keys of a process, which serves one call.)
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] with the reference plugin's text.
pub fn refuse_duplicates(configuration: &[u8]) -> Result<(), Error> {
    let mut decoder = serde_json::Deserializer::from_slice(configuration);
    match decoder.deserialize_map(Sections) {
        Ok(true) => Err(Error::invalid("duplicated sysctl keys are not allowed")),
        Ok(false) | Err(_) => Ok(()),
    }
}

/// Finds the sections, which may be several: Go takes a key in any case, and fills one map from all of them. The value is
/// whether any key of theirs stands there twice.
struct Sections;

impl<'de> Visitor<'de> for Sections {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let (mut seen, mut twice) = (HashSet::new(), false);
        while let Some(key) = map.next_key::<String>()? {
            if !is_section(&key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            for key in map.next_value::<Option<Keys>>()?.map(|keys| keys.0).unwrap_or_default() {
                twice |= !seen.insert(key);
            }
        }
        Ok(twice)
    }
}

/// Go folds one sign beyond ASCII into this name: U+017F is a small s.
fn is_section(key: &str) -> bool {
    let plain = key.chars().map(|sign| if sign == '\u{17f}' { 's' } else { sign.to_ascii_lowercase() });
    plain.eq(SECTION.chars())
}

/// The keys of an object, as often as they stand there.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfObject)
    }
}

struct OfObject;

impl<'de> Visitor<'de> for OfObject {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
        let mut keys = Vec::new();
        while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
            keys.push(key);
        }
        Ok(Keys(keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        for (text, refused) in [
            (r#"{"sysctl":{"net.a":"1","net.a":"1"}}"#, true),
            (r#"{"sysctl":{"net.a":"1","net.b":"1","net\u002ea":"2"},"mtu":3}"#, true),
            (r#"{"SysCtl":{"net.a":"1"},"x":[{}],"sysctl":{"net.a":"1"}}"#, true),
            (r#"{"ſysctl":{"a":"1","a":"1"}}"#, true),
            (r#"{"sysctl":{"net.a":"1","net.A":"1","net/a":"1"}}"#, false),
            (r#"{"sysctl":{"net.a":"1"},"args":{"cni":{"sysctl":{"net.a":"1"}}}}"#, false),
            (r#"{"args":{"cni":{"sysctl":{"net.a":"1","net.a":"1"}}}}"#, false),
            (r#"{"sysctl":null}"#, false),
            (r#"{"sysctl":3}"#, false),
            (r#"{"sysctl":{"a":{"b":1,"b":1}}}"#, false),
            ("[]", false),
            ("{", false),
            ("", false),
        ] {
            assert_eq!(refuse_duplicates(text.as_bytes()).is_err(), refused, "{text}");
        }
        let error = refuse_duplicates(br#"{"sysctl":{"a":"1","a":"1"}}"#).unwrap_err();
        assert_eq!(error.chain(), "duplicated sysctl keys are not allowed");
    }

    #[test]
    fn no_call_remembers_another() {
        for _ in 0..2 {
            refuse_duplicates(br#"{"sysctl":{"net.a":"1"}}"#).unwrap();
        }
    }
}
