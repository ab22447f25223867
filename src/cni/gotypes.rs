//! Go's name of a Rust type, for the texts of `gojson`: the visitor of a sequence or map is asked for its element type by
//! offering it one element, and refusing whatever it asks for.

use std::cell::RefCell;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::gojson::DecodeError;

/// `[]string` and the like.
pub(super) fn of_sequence<'de, V: Visitor<'de>>(visitor: V) -> String {
    let element = RefCell::new(ANY.to_string());
    // The visitor fails by construction; what it asked for is in `element`.
    let _refused = visitor.visit_seq(Probe { found: &element });
    format!("[]{}", element.into_inner())
}

/// `map[string]bool` and the like. Keys are strings in every configuration.
pub(super) fn of_map<'de, V: Visitor<'de>>(visitor: V) -> String {
    let element = RefCell::new(ANY.to_string());
    let _refused = visitor.visit_map(Probe { found: &element });
    format!("map[string]{}", element.into_inner())
}

/// The struct's Go type: its serde name, in package main unless it names its package.
pub(super) fn of_struct(name: &str) -> String {
    of_element(name).trim_start_matches('*').to_string()
}

/// The same as a list's element, which may be a pointer.
fn of_element(name: &str) -> String {
    let name = name.trim_start_matches('_');
    if name.contains('.') { name.to_string() } else { format!("main.{name}") }
}

/// Whether Go decodes the struct by a method of its own.
pub(super) fn has_own_method(name: &str) -> bool {
    name.starts_with('_')
}

/// Go's type for a value of any kind.
const ANY: &str = "interface {}";

/// Offers one element and notes the type it is asked for.
struct Probe<'a> {
    found: &'a RefCell<String>,
}

impl Probe<'_> {
    fn note<T>(&self, name: impl Into<String>) -> Result<T, DecodeError> {
        *self.found.borrow_mut() = name.into();
        Err(DecodeError::custom("only the type was asked for"))
    }
}

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        seed.deserialize(Probe { found: self.found }).map(Some)
    }
}

impl<'de> MapAccess<'de> for Probe<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        seed.deserialize(serde::de::value::StrDeserializer::new("")).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        seed.deserialize(Probe { found: self.found })
    }
}

macro_rules! names {
    ($($method:ident $go:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
            self.note($go)
        }
    )*};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = DecodeError;

    names! {
        deserialize_any ANY;
        deserialize_bool "bool";
        deserialize_i8 "int8";
        deserialize_i16 "int16";
        deserialize_i32 "int";
        deserialize_i64 "int";
        deserialize_i128 "int";
        deserialize_u8 "uint8";
        deserialize_u16 "uint16";
        deserialize_u32 "uint32";
        deserialize_u64 "uint64";
        deserialize_u128 "uint64";
        deserialize_f32 "float64";
        deserialize_f64 "float64";
        deserialize_char "string";
        deserialize_str "string";
        deserialize_string "string";
        deserialize_bytes "string";
        deserialize_byte_buf "string";
        deserialize_identifier "string";
        deserialize_unit ANY;
        deserialize_ignored_any ANY;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, _: V) -> Result<V::Value, DecodeError> {
        self.note(of_element(name))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name.contains('.') { self.note(name) } else { visitor.visit_newtype_struct(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.note(of_sequence(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.note(of_map(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, DecodeError> {
        self.note(of_element(name))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, DecodeError> {
        self.note("string")
    }
}
