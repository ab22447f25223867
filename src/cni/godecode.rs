//! The serde decoder behind `gojson`: walks a JSON value for a derived `Deserialize` and answers as Go would. Knows where
//! it stands in the document, and nothing of what the document means.

use std::cell::RefCell;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Number, Value};

use super::gojson::{DecodeError, Decoded, folds_to};
use super::goprint::{Layout, to_string_go};
use super::gotypes;

/// Levels of nesting that are followed, whoever built the value. serde_json's parser stops at 128 by itself.
const DEPTH_LEVELS_MAX: u32 = 128;

/// Decodes one value and collects the keys that no struct knows.
pub(super) fn run<T: DeserializeOwned>(node: Node<'_>) -> Result<Decoded<T>, DecodeError> {
    let unknown = RefCell::new(Vec::new());
    let root = Place { parent: None, step: Step::Root, structure: None, depth: 0 };
    let value = T::deserialize(Source { node, place: &root, unknown: &unknown, go_type: None })?;
    Ok(Decoded { value, unknown: unknown.into_inner() })
}

/// A borrowed JSON value; a bare object is one too.
#[derive(Clone, Copy)]
pub(super) enum Node<'de> {
    Null,
    Bool(bool),
    Number(&'de Number),
    String(&'de str),
    Array(&'de [Value]),
    Object(&'de Map<String, Value>),
}

impl<'de> Node<'de> {
    pub(super) fn of(value: &'de Value) -> Node<'de> {
        match value {
            Value::Null => Node::Null,
            Value::Bool(value) => Node::Bool(*value),
            Value::Number(number) => Node::Number(number),
            Value::String(text) => Node::String(text),
            Value::Array(items) => Node::Array(items),
            Value::Object(object) => Node::Object(object),
        }
    }

    /// Go's name of the JSON type.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool(_) => "bool",
            Node::Number(_) => "number",
            Node::String(_) => "string",
            Node::Array(_) => "array",
            Node::Object(_) => "object",
        }
    }
}

/// Where in the document the decoder stands: a list of steps through the callers' stack frames.
struct Place<'p> {
    parent: Option<&'p Place<'p>>,
    step: Step<'p>,
    /// The innermost struct's serde name.
    structure: Option<&'static str>,
    depth: u32,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Field(&'static str),
    Key(&'p str),
    Index(usize),
}

impl<'p> Place<'p> {
    fn enter(&'p self, step: Step<'p>) -> Result<Place<'p>, DecodeError> {
        if self.depth >= DEPTH_LEVELS_MAX {
            return Err(DecodeError::Depth);
        }
        Ok(Place { parent: Some(self), step, structure: self.structure, depth: self.depth + 1 })
    }

    fn steps(&self) -> Vec<Step<'p>> {
        let mut steps = vec![self.step];
        let mut parent = self.parent;
        while let Some(place) = parent {
            steps.push(place.step);
            parent = place.parent;
        }
        steps.reverse();
        steps
    }

    /// Go names fields only, neither the keys of maps nor the indices of slices, after the innermost struct's name.
    fn go_text(&self) -> String {
        let name_of = |step| if let Step::Field(name) = step { Some(name) } else { None };
        let fields: Vec<&str> = self.steps().into_iter().filter_map(name_of).collect();
        if fields.is_empty() {
            return "value".to_string();
        }
        let structure = self.structure.map_or("", |name| name.rsplit('.').next().unwrap_or(name));
        format!("struct field {structure}.{}", fields.join("."))
    }

    /// The path of a key in this place, for people.
    fn path_of(&self, key: &str) -> String {
        let mut path = String::new();
        for step in self.steps().into_iter().chain([Step::Key(key)]) {
            match step {
                Step::Root => {}
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Field(name) | Step::Key(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) | Step::Key(name) => {
                    path.push('.');
                    path.push_str(name);
                }
            }
        }
        path
    }
}

/// One value about to be decoded, with its place.
struct Source<'de, 'p> {
    node: Node<'de>,
    place: &'p Place<'p>,
    unknown: &'p RefCell<Vec<String>>,
    /// The Go type to name, when a newtype struct gave one.
    go_type: Option<&'static str>,
}

impl Source<'_, '_> {
    fn mismatch(&self, wanted: &str) -> DecodeError {
        self.refuse(self.node.kind().to_string(), wanted)
    }

    fn refuse(&self, found: String, wanted: &str) -> DecodeError {
        let wanted = self.go_type.unwrap_or(wanted).to_string();
        DecodeError::Type { found, place: self.place.go_text(), wanted }
    }

    /// A whole number between the bounds of its type; `null` is 0.
    fn whole<T: Default>(&self, wanted: &str, convert: impl FnOnce(&Number) -> Option<T>) -> Result<T, DecodeError> {
        match self.node {
            Node::Null => Ok(T::default()),
            Node::Number(number) => convert(number).ok_or_else(|| {
                let text = to_string_go(&Value::Number(number.clone()), Layout::Compact);
                self.refuse(format!("number {text}"), wanted)
            }),
            _ => Err(self.mismatch(wanted)),
        }
    }
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $go:literal $read:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(self.whole($go, |number| number.$read()?.try_into().ok())?)
        }
    )*};
}

macro_rules! as_text {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            match self.node {
                Node::String(text) => visitor.visit_borrowed_str(text),
                Node::Null => visitor.visit_borrowed_str(""),
                _ => Err(self.mismatch("string")),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Source<'de, '_> {
    type Error = DecodeError;

    whole_numbers! {
        deserialize_i8 visit_i8 "int8" as_i64;
        deserialize_i16 visit_i16 "int16" as_i64;
        deserialize_i32 visit_i32 "int" as_i64;
        deserialize_i64 visit_i64 "int" as_i64;
        deserialize_i128 visit_i128 "int" as_i64;
        deserialize_u8 visit_u8 "uint8" as_u64;
        deserialize_u16 visit_u16 "uint16" as_u64;
        deserialize_u32 visit_u32 "uint32" as_u64;
        deserialize_u64 visit_u64 "uint64" as_u64;
        deserialize_u128 visit_u128 "uint64" as_u64;
    }

    as_text! {
        deserialize_str deserialize_string deserialize_char deserialize_bytes deserialize_byte_buf deserialize_identifier
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(value),
            Node::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => visitor.visit_u64(value),
                (None, Some(value)) => visitor.visit_i64(value),
                (None, None) => self.deserialize_f64(visitor),
            },
            Node::String(text) => visitor.visit_borrowed_str(text),
            Node::Array(_) => self.deserialize_seq(visitor),
            Node::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node {
            Node::Bool(value) => visitor.visit_bool(value),
            Node::Null => visitor.visit_bool(false),
            _ => Err(self.mismatch("bool")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node {
            Node::Number(number) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            Node::Null => visitor.visit_f64(0.0),
            _ => Err(self.mismatch("float64")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if let Node::Null = self.node { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.go_type = Some(name).filter(|name| name.contains('.'));
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let items = match self.node {
            Node::Array(items) => items,
            Node::Null => &[],
            _ => return Err(self.mismatch(&gotypes::of_sequence(visitor))),
        };
        visitor.visit_seq(Items { items: items.iter().enumerate(), place: self.place, unknown: self.unknown })
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
        let entries: Vec<(&'de str, &'de Value)> = match self.node {
            Node::Object(object) => object.iter().map(|(key, value)| (key.as_str(), value)).collect(),
            Node::Null => Vec::new(),
            _ => return Err(self.mismatch(&gotypes::of_map(visitor))),
        };
        let entries = entries.into_iter();
        visitor.visit_map(Entries { entries, pending: None, step: Step::Key, place: self.place, unknown: self.unknown })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let entries = match self.node {
            Node::Object(object) => match_fields(object, fields, self.place, self.unknown),
            Node::Null => Vec::new(),
            _ => return Err(self.mismatch(&gotypes::of_struct(name))),
        };
        let structure = if gotypes::has_own_method(name) { self.place.structure } else { Some(name) };
        let here = Place { structure, ..self.place.enter(Step::Root)? };
        let entries = entries.into_iter();
        visitor.visit_map(Entries { entries, pending: None, step: Step::Field, place: &here, unknown: self.unknown })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.node {
            Node::String(text) => visitor.visit_enum(into_str(text)),
            Node::Null => visitor.visit_enum(into_str("")),
            _ => Err(self.mismatch("string")),
        }
    }
}

fn into_str(text: &str) -> StrDeserializer<'_, DecodeError> {
    text.into_deserializer()
}

/// Pairs each field with the value Go would give it. Keys of no field are reported.
fn match_fields<'de>(
    object: &'de Map<String, Value>,
    fields: &'static [&'static str],
    place: &Place<'_>,
    unknown: &RefCell<Vec<String>>,
) -> Vec<(&'static str, &'de Value)> {
    let mut matched: Vec<(&'static str, &'de Value)> = Vec::with_capacity(fields.len());
    for (key, value) in object {
        let exact = fields.iter().find(|name| **name == key);
        let Some(&name) = exact.or_else(|| fields.iter().find(|name| folds_to(key, name))) else {
            unknown.borrow_mut().push(place.path_of(key));
            continue;
        };
        if value.is_null() || (exact.is_none() && object.get(name).is_some_and(|value| !value.is_null())) {
            continue;
        }
        match matched.iter_mut().find(|(taken, _)| *taken == name) {
            Some(entry) => entry.1 = value,
            None => matched.push((name, value)),
        }
    }
    matched
}

/// The entries of a map, or the matched fields of a struct: `step` says which, `K` is how long their names live.
struct Entries<'de, 'p, 'k> {
    entries: std::vec::IntoIter<(&'k str, &'de Value)>,
    pending: Option<(&'k str, &'de Value)>,
    step: fn(&'k str) -> Step<'k>,
    place: &'p Place<'p>,
    unknown: &'p RefCell<Vec<String>>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_, '_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        self.pending = self.entries.next();
        self.pending.map(|(name, _)| seed.deserialize(into_str(name))).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        let (name, value) = self.pending.take().ok_or_else(|| DecodeError::custom("value without key"))?;
        let place = self.place.enter((self.step)(name))?;
        seed.deserialize(Source { node: Node::of(value), place: &place, unknown: self.unknown, go_type: None })
    }
}

/// The elements of an array.
struct Items<'de, 'p> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
    place: &'p Place<'p>,
    unknown: &'p RefCell<Vec<String>>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        let place = self.place.enter(Step::Index(index))?;
        seed.deserialize(Source { node: Node::of(value), place: &place, unknown: self.unknown, go_type: None })
            .map(Some)
    }
}
