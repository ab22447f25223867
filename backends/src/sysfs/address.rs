//! An address on the PCI bus, as the kernel writes it. Knows no file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Domain, bus, device and function, as `0000:01:10.0`: lower case, a domain of four digits or more (drivers/pci/probe.c).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress(String);

/// A text that is no address on the PCI bus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no PCI address, as \"0000:01:10.0\"")]
pub struct PciAddressError(String);

impl PciAddress {
    /// The text, which is a file name in sysfs.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        if is_address(&lower) { Ok(Self(lower)) } else { Err(PciAddressError(text.chars().take(64).collect())) }
    }
}

fn is_address(text: &str) -> bool {
    let hex = |part: &str, least: usize, most: usize| {
        (least..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let Some((slot, function)) = text.split_once('.') else { return false };
    let parts: Vec<&str> = slot.split(':').collect();
    let [domain, bus, device] = parts.as_slice() else { return false };
    hex(domain, 4, 8) && hex(bus, 2, 2) && hex(device, 2, 2) && matches!(function.as_bytes(), [b'0'..=b'7'])
}

impl Serialize for PciAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PciAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_file_name_and_nothing_else() {
        for (text, address) in
            [("0000:01:10.0", "0000:01:10.0"), ("0000:AF:1F.7", "0000:af:1f.7"), ("10000:00:02.0", "10000:00:02.0")]
        {
            assert_eq!(text.parse::<PciAddress>().unwrap().as_str(), address);
        }
        let wrong = [
            "",
            "..",
            "01:10.0",
            "0000:01:10",
            "0000:01:10.8",
            "0000:01:10.0/..",
            "0000:01:10.0.0",
            "../0000:01:10.0",
            "0000:1:10.0",
            "0000:01:10.00",
            "000000000:01:10.0",
            "0000:01:1g.0",
            "0000:01:10.0\n",
        ];
        for text in wrong {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?}");
        }
        assert!("é".repeat(500).parse::<PciAddress>().unwrap_err().to_string().len() < 200);
    }
}
