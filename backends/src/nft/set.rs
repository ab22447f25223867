//! Sets and maps as messages: their types, their elements, and what the kernel tells of one. Knows no table of ours.
//!
//! A key or a value of several fields has each of them padded to four bytes, and as its type six bits of each field's (nft's
//! numbers; `datatype_lookup_byid` and `concat_subtype_add` in nftables).

use std::net::IpAddr;

use super::message::{
    Attributes, Batch, DELSETELEM, Family, GETSETELEM, NEWSET, NEWSETELEM, NLA_F_NESTED, NLM_F_CREATE, NLM_F_DUMP,
    NLM_F_EXCL, each, find, question,
};
use super::rule::comment;

/// `NFT_SET_MAP`
const MAP: u32 = 8;
/// Elements in one message: an attribute has at most 64 kB, and an element with the longest comment half a kilobyte.
const ELEMENTS_IN_A_MESSAGE: usize = 100;

/// What a key or a value is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    V4,
    V6,
    Protocol,
    Port,
}

impl Field {
    /// nft's number, and its length in bytes with padding.
    const fn kind(self) -> (u32, u32) {
        match self {
            Self::V4 => (7, 4),
            Self::V6 => (8, 16),
            Self::Protocol => (12, 4),
            Self::Port => (13, 4),
        }
    }

    /// Type and length of several.
    fn concatenated(fields: &[Self]) -> (u32, u32) {
        fields.iter().fold((0, 0), |(kind, length), field| (kind << 6 | field.kind().0, length + field.kind().1))
    }
}

/// A set, or a map where it has values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Set<'a> {
    pub(super) name: &'a str,
    pub(super) key: &'a [Field],
    pub(super) value: Option<&'a [Field]>,
}

/// Fields one behind the other, as the kernel compares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Vec<u8>);

impl Fields {
    pub(super) fn address(mut self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.0.extend(ip.octets()),
            IpAddr::V6(ip) => self.0.extend(ip.octets()),
        }
        self
    }

    pub(super) fn protocol(mut self, number: u8) -> Self {
        self.0.extend([number, 0, 0, 0]);
        self
    }

    pub(super) fn port(mut self, port: u16) -> Self {
        self.0.extend(port.to_be_bytes());
        self.0.extend([0, 0]);
        self
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// An element's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) family: Family,
    pub(super) table: &'static str,
    pub(super) set: &'static str,
    pub(super) bytes: Vec<u8>,
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// Empty in a set.
    pub(super) value: Vec<u8>,
    /// Empty where there is none.
    pub(super) comment: String,
}

impl Element {
    fn fill(&self, element: &mut Attributes) {
        element.nest(1, |key| {
            key.raw(1, &self.key);
        });
        if !self.value.is_empty() {
            element.nest(2, |value| {
                value.raw(1, &self.value);
            });
        }
        if !self.comment.is_empty() {
            element.comment(6, &self.comment);
        }
    }

    /// Reads the elements that a message of the kernel tells.
    pub(super) fn parse(message: &[u8]) -> impl Iterator<Item = Self> {
        each(find(message, 3).unwrap_or_default()).filter_map(|(_, element)| {
            let value = |kind| find(find(element, kind)?, 1).map(<[u8]>::to_vec);
            let comment = find(element, 6).and_then(comment).unwrap_or_default();
            Some(Self { key: value(1)?, value: value(2).unwrap_or_default(), comment })
        })
    }
}

impl Batch {
    /// A set, unless it is there. `id`: another one for each set of the transaction.
    pub(super) fn set(&mut self, family: Family, table: &str, set: &Set<'_>, id: u32) {
        self.message(NEWSET, NLM_F_CREATE, family, [table, set.name], |message| {
            let (kind, length) = Field::concatenated(set.key);
            message.text(2, set.name).number(3, if set.value.is_some() { MAP } else { 0 });
            message.number(4, kind).number(5, length);
            if let Some(value) = set.value {
                let (kind, length) = Field::concatenated(value);
                message.number(6, kind).number(7, length);
            }
            message.number(10, id);
        });
    }

    /// New elements: one that is there already is refused, whatever its value.
    pub(super) fn add_elements(&mut self, family: Family, [table, set]: [&str; 2], elements: &[Element]) {
        let fill = |element: &Element, message: &mut Attributes| element.fill(message);
        self.elements((NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL), family, [table, set], elements, fill);
    }

    /// Removes elements: one that is not there is refused.
    pub(super) fn delete_elements(&mut self, family: Family, [table, set]: [&str; 2], keys: &[Vec<u8>]) {
        let fill = |key: &Vec<u8>, message: &mut Attributes| {
            message.nest(1, |nested| {
                nested.raw(1, key);
            });
        };
        self.elements((DELSETELEM, 0), family, [table, set], keys, fill);
    }

    fn elements<T>(
        &mut self,
        (number, flags): (u16, u16),
        family: Family,
        [table, set]: [&str; 2],
        elements: &[T],
        fill: impl Fn(&T, &mut Attributes),
    ) {
        for some in elements.chunks(ELEMENTS_IN_A_MESSAGE) {
            self.message(number, flags, family, [table, set], |message| {
                message.text(2, set).nest(3, |list| {
                    for element in some {
                        list.nest(1, |nested| fill(element, nested));
                    }
                });
            });
        }
    }
}

/// Asks for one element.
pub(super) fn element_of(sequence: u32, key: &Key) -> Vec<u8> {
    let mut inner = Attributes::default();
    inner.nest(1, |element| {
        element.nest(1, |nested| {
            nested.raw(1, &key.bytes);
        });
    });
    let mut attributes = Attributes::default();
    attributes.text(1, key.table).text(2, key.set).raw(3 | NLA_F_NESTED, &inner.bytes);
    question(GETSETELEM, 0, sequence, key.family, &attributes)
}

/// Asks for all elements of a set.
pub(super) fn elements_of(sequence: u32, family: Family, table: &str, set: &str) -> Vec<u8> {
    let mut attributes = Attributes::default();
    attributes.text(1, table).text(2, set);
    question(GETSETELEM, NLM_F_DUMP, sequence, family, &attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_lengths_of_several_fields_are_nft_s() {
        use Field::{Port, Protocol, V4, V6};
        for (fields, kind, length) in [
            (&[Protocol, Port][..], 0x30d, 8),
            (&[V4, Protocol, Port], 0x730d, 12),
            (&[V6, Protocol, Port], 0x830d, 24),
            (&[V4, Port], 0x1cd, 8),
            (&[V6, Port], 0x20d, 20),
        ] {
            assert_eq!(Field::concatenated(fields), (kind, length), "{fields:?}");
        }
    }

    #[test]
    fn fields_are_padded_to_four_bytes() {
        let key = Fields::default().protocol(6).port(8080).bytes();
        assert_eq!(key, [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        let value = Fields::default().address("10.88.0.2".parse().unwrap()).port(80).bytes();
        assert_eq!(value, [0x0a, 0x58, 0, 2, 0, 0x50, 0, 0]);
    }

    #[test]
    fn an_element_is_read_back_and_hostile_bytes_are_none() {
        let wanted = Element { key: vec![6, 0, 0, 0], value: vec![1, 2, 3, 4], comment: "whose".to_owned() };
        let bare = Element { key: vec![7], value: Vec::new(), comment: String::new() };
        let mut message = Attributes::default();
        message.text(1, "t").text(2, "s").nest(3, |list| {
            for element in [&wanted, &bare] {
                list.nest(1, |nested| element.fill(nested));
            }
        });
        assert_eq!(Element::parse(&message.bytes).collect::<Vec<_>>(), [wanted, bare]);
        for length in 0..message.bytes.len() {
            assert!(Element::parse(&message.bytes[..length]).count() <= 2);
        }
        for at in 0..message.bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = message.bytes.clone();
                bytes[at] = value;
                assert!(Element::parse(&bytes).count() <= bytes.len());
            }
        }
    }
}
