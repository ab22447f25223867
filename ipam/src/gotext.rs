//! Addresses in a configuration, read as Go's `net` package reads them and refused in its words.
//! Knows the texts, not what the addresses are for.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer};

/// An address with its prefix length, host bits kept, in the family in which it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The address as written.
    pub ip: IpAddr,
    /// The prefix length in bits.
    pub prefix: u8,
}

impl Cidr {
    /// Reads `address/prefix`; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (ip, prefix) = text.split_once('/')?;
        let ip: IpAddr = ip.parse().ok()?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= Self::bits(ip)).then_some(Self { ip, prefix })
    }

    /// The length of an address of this family in bits.
    #[must_use]
    pub fn bits(ip: IpAddr) -> u8 {
        if ip.is_ipv4() { 32 } else { 128 }
    }

    /// Whether an IPv4 address was written as an IPv6 one.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.ip.to_canonical() != self.ip
    }

    /// The same network with an IPv4-mapped address turned into the IPv4 address that it is.
    #[must_use]
    pub fn network(&self) -> IpNetwork {
        let (ip, prefix) = match self.ip.to_canonical() {
            v4 if self.is_mapped() => (v4, self.prefix.saturating_sub(96)),
            ip => (ip, self.prefix),
        };
        // The prefix was compared with the family's length when it was read, so this never falls back.
        IpNetwork::new(ip, prefix).unwrap_or_else(|_| IpNetwork::from(ip))
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Cidr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address in CIDR notation")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Cidr, E> {
                Cidr::parse(text).ok_or_else(|| E::custom(format_args!("invalid CIDR address: {text}")))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// An address that may be written as an empty string, which Go takes for "not set".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaybeIp(pub Option<IpAddr>);

impl<'de> Deserialize<'de> for MaybeIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = MaybeIp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an IP address")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MaybeIp, E> {
                if text.is_empty() {
                    return Ok(MaybeIp(None));
                }
                match text.parse() {
                    Ok(ip) => Ok(MaybeIp(Some(ip))),
                    Err(_) => Err(E::custom(format_args!("invalid IP address: {text}"))),
                }
            }
        }
        /// Go's name of the type.
        #[derive(Deserialize)]
        #[serde(rename = "net.IP")]
        struct Named(#[serde(deserialize_with = "text")] MaybeIp);
        fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MaybeIp, D::Error> {
            deserializer.deserialize_str(Text)
        }
        Ok(Named::deserialize(deserializer)?.0)
    }
}

/// For `#[serde(deserialize_with)]`: an optional address, empty text being none.
pub(crate) fn optional_ip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    Ok(MaybeIp::deserialize(deserializer)?.0)
}

/// For `#[serde(deserialize_with)]`: a network, host bits kept, as it was written.
pub(crate) fn network<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNetwork, D::Error> {
    let cidr = Cidr::deserialize(deserializer)?;
    IpNetwork::new(cidr.ip, cidr.prefix).map_err(D::Error::custom)
}

/// Reads an address that may carry a prefix, which is then ignored (Go: `ip.ParseIP`).
///
/// # Errors
/// The Go plugin's text.
pub(crate) fn ip_with_or_without_prefix(text: &str) -> Result<IpAddr, String> {
    if text.is_empty() {
        return Err("cannot understand ip: IP <nil> not v4 nor v6".to_owned());
    }
    let ip = if text.contains('/') { Cidr::parse(text).map(|cidr| cidr.ip) } else { text.parse().ok() };
    ip.map(|ip| ip.to_canonical()).ok_or_else(|| format!("invalid IP address {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_as_go_reads_it() {
        for good in ["10.0.0.1/24", "10.0.0.0/0", "fd00::/64", "10.0.0.0/024", "::ffff:10.0.0.0/120"] {
            assert!(Cidr::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1/",
            "10.0.0.1/33",
            "10.0.0.1/+4",
            "10.0.0/24",
            "fd00::/129",
            "fe80::1%1/64",
            "x/1",
        ] {
            assert!(Cidr::parse(bad).is_none(), "{bad}");
            let error = serde_json::from_value::<Cidr>(bad.into()).unwrap_err().to_string();
            assert_eq!(error, format!("invalid CIDR address: {bad}"));
        }
    }

    #[test]
    fn ip_as_go_reads_it() {
        assert_eq!(serde_json::from_value::<MaybeIp>("".into()).unwrap(), MaybeIp(None));
        assert_eq!(serde_json::from_value::<MaybeIp>("x".into()).unwrap_err().to_string(), "invalid IP address: x");
        assert_eq!(ip_with_or_without_prefix("10.0.0.2/8"), Ok("10.0.0.2".parse().unwrap()));
        assert_eq!(ip_with_or_without_prefix("::ffff:10.0.0.2"), Ok("10.0.0.2".parse().unwrap()));
        assert_eq!(ip_with_or_without_prefix("10.0.0.2,fd00::2"), Err("invalid IP address 10.0.0.2,fd00::2".into()));
        assert!(ip_with_or_without_prefix("").is_err());
    }

    #[test]
    fn a_mapped_network_is_the_v4_one() {
        assert_eq!(Cidr::parse("::ffff:10.0.0.1/120").unwrap().network().to_string(), "10.0.0.1/24");
        assert_eq!(Cidr::parse("::ffff:10.0.0.1/64").unwrap().network().to_string(), "10.0.0.1/0");
    }
}
