//! A 48-bit hardware address and its text forms. Knows no interface.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A 48-bit hardware address (EUI-48).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

/// A text that is no 48-bit hardware address. The message is the one of Go's `net.ParseMAC`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address {0}: invalid MAC address")]
pub struct MacParseError(String);

impl Mac {
    /// An address from its octets.
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The octets in transmission order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// A random address: locally administered, unicast (IEEE 802, bits 2 and 1 of the first octet), as the kernel makes them.
    #[must_use]
    pub fn random() -> Self {
        let [a, b, c, d, e, f, ..] = random_bytes();
        Self([(a | 0x02) & 0xfe, b, c, d, e, f])
    }

    /// 00:00:00:00:00:00, which a bridge without ports may have.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
}

/// Eight bytes nobody can foresee, without a system call after the first: the standard library keys its hash maps from the
/// kernel's random numbers and steps the key for each new map.
pub(crate) fn random_bytes() -> [u8; 8] {
    RandomState::new().hash_one(()).to_ne_bytes()
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacParseError;

    /// Reads the forms of Go's `net.ParseMAC` that have 48 bits: `02:00:5e:10:00:01`, `02-00-5e-10-00-01`, `0200.5e10.0001`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Self).ok_or_else(|| MacParseError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<[u8; 6]> {
    let (separator, digits) = match text.as_bytes() {
        [_, _, separator @ (b':' | b'-'), ..] => (char::from(*separator), 2),
        [_, _, _, _, b'.', ..] => ('.', 4),
        _ => return None,
    };
    let mut octets = Vec::with_capacity(6);
    for group in text.split(separator) {
        if group.len() != digits || octets.len() >= 6 {
            return None;
        }
        for pair in group.as_bytes().chunks_exact(2) {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let (high, low) = (digit(*pair.first()?)?, digit(*pair.last()?)?);
            octets.push(u8::try_from(high * 16 + low).ok()?);
        }
    }
    octets.try_into().ok()
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_one_address() {
        for text in ["02:00:5e:10:00:0A", "02-00-5e-10-00-0a", "0200.5e10.000a"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), "02:00:5e:10:00:0a", "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "02",
            "02:",
            "02:00:5e:10:00",
            "02:00:5e:10:00:0a:",
            "02:00:5e:10:00:0a:0b",
            "02:00-5e:10:00:0a",
            "2:00:5e:10:00:0a",
            "02:00:5e:10:00:0g",
            "0200.5e10",
            "02005e10000a",
            "+2:00:5e:10:00:0a",
            "02:00:5e:10:00:0a:00:01",
            "äö:00:5e:10:00:0a",
            "0200:5e10:000a",
        ] {
            assert_eq!(text.parse::<Mac>().unwrap_err().to_string(), format!("address {text}: invalid MAC address"));
        }
    }

    #[test]
    fn random_addresses_are_local_unicast_and_differ() {
        let (a, b) = (Mac::random(), Mac::random());
        assert_ne!(a, b);
        assert_eq!(a.octets()[0] & 0b11, 0b10);
    }
}
