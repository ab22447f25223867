//! A 64-bit identifier of an InfiniBand node or port and its text form. Knows no interface.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A GUID (EUI-64), as `c2:11:22:33:44:55:66:77`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guid(u64);

/// A text that is no such identifier, or one that no node may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no GUID, as \"c2:11:22:33:44:55:66:77\"")]
pub struct GuidParseError(String);

impl Guid {
    /// As the kernel numbers it: the first octet is the most significant one.
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f, g, h] = self.0.to_be_bytes();
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}:{g:02x}:{h:02x}")
    }
}

impl FromStr for Guid {
    type Err = GuidParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let octet = |part: &str| match part.as_bytes() {
            [a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => u8::from_str_radix(part, 16).ok(),
            _ => None,
        };
        let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
        let number = octets.and_then(|octets| Some(u64::from_be_bytes(octets.try_into().ok()?)));
        // Neither is anybody's: InfiniBand architecture, volume 1, 4.1.1.
        let number = number.filter(|number| !matches!(*number, 0 | u64::MAX));
        number.map(Self).ok_or_else(|| GuidParseError(text.chars().take(64).collect()))
    }
}

impl Serialize for Guid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Guid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_octets_that_are_somebodys() {
        let guid: Guid = "C2:11:22:33:44:55:66:77".parse().unwrap();
        assert_eq!((guid.number(), guid.to_string().as_str()), (0xc211_2233_4455_6677, "c2:11:22:33:44:55:66:77"));
        assert_eq!(serde_json::from_str::<Guid>(&serde_json::to_string(&guid).unwrap()).unwrap(), guid);
        let wrong =
            ["", "02:00:00:00:00:01", "00:00:00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff:ff:ff", "c2:11:22:33:44:55:66:+7"];
        for text in wrong {
            assert!(text.parse::<Guid>().is_err(), "{text}");
        }
    }
}
