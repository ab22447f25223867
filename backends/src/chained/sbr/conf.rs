//! What the configuration of source based routing says. Looks nothing up.

use std::net::IpAddr;

use serde::Deserialize;

use crate::error::Error;
use crate::layer3::Address;

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "PluginConf", default)]
pub struct Conf {
    /// Only rules are made, and they lead to this table, whatever is in it.
    pub table: Option<i64>,
    /// Default gateways in the place of the addresses' own, one of each family at most.
    pub gateways: Option<Vec<String>>,
    /// The interface's networks stay in the main table, with the address to send from.
    #[serde(rename = "addSourceHints")]
    pub add_source_hints: bool,
}

/// A configuration that can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    way: Way,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// To this table; 0: IPv4 takes an empty one (`fib4_rule_configure` in net/ipv4/fib_rules.c), IPv6 refuses.
    Table(u32),
    /// To tables of its own.
    Own(Own),
}

/// How tables of its own are filled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) v4: Option<IpAddr>,
    pub(super) v6: Option<IpAddr>,
    pub(super) hints: bool,
}

impl Own {
    /// The configured gateway of this family.
    pub(super) fn configured(&self, v6: bool) -> Option<IpAddr> {
        if v6 { self.v6 } else { self.v4 }
    }

    /// The default gateway for this address.
    pub(super) fn gateway(&self, address: &Address) -> Option<IpAddr> {
        self.configured(address.address.is_ipv6()).or(address.gateway)
    }
}

impl Conf {
    /// Parses the configuration.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the reference plugin's texts. Where there is a table it does not read the gateways.
    pub fn validate(self) -> Result<Spec, Error> {
        let way = match self.table {
            Some(table) => Way::Table(number(table)?),
            None => {
                let (v4, v6) = gateways(&self.gateways.unwrap_or_default())?;
                Way::Own(Own { v4, v6, hints: self.add_source_hints })
            }
        };
        Ok(Spec { way })
    }
}

impl Spec {
    /// The configured table.
    pub(crate) fn table(&self) -> Option<i64> {
        match self.way {
            Way::Table(table) => Some(i64::from(table)),
            Way::Own(_) => None,
        }
    }

    pub(super) const fn way(&self) -> &Way {
        &self.way
    }
}

/// The kernel's number of a table: the reference plugin sends none where it is negative, which is the kernel's zero.
pub(super) fn number(table: i64) -> Result<u32, Error> {
    u32::try_from(table.max(0)).map_err(|_| Error::invalid(format!("routing table {table} is beyond {}", u32::MAX)))
}

fn gateways(texts: &[String]) -> Result<(Option<IpAddr>, Option<IpAddr>), Error> {
    const ONE_EACH: usize = 2;
    if texts.len() > ONE_EACH {
        return Err(Error::invalid("gateways list cannot contain more than 2 entries (one IPv4, one IPv6)"));
    }
    let (mut v4, mut v6) = (None, None);
    for text in texts {
        let parsed = text.parse::<IpAddr>();
        let gateway = parsed.map_err(|_| Error::invalid(format!("invalid static gateway IP address: {text}")))?;
        // An IPv4 address in IPv6's clothes is one of IPv4.
        let gateway = gateway.to_canonical();
        let (slot, family) = if gateway.is_ipv4() { (&mut v4, "IPv4") } else { (&mut v6, "IPv6") };
        if let Some(first) = slot.replace(gateway) {
            let text = format!("gateways list contains multiple {family} addresses: {first} and {text}");
            return Err(Error::invalid(text));
        }
    }
    Ok((v4, v6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(gateways: &[&str]) -> Result<Spec, Error> {
        let gateways = Some(gateways.iter().map(|&text| text.to_owned()).collect());
        Conf { gateways, ..Conf::default() }.validate()
    }

    #[test]
    fn wrong_gateways_are_refused_in_the_reference_plugin_s_words() {
        for (gateways, text) in [
            (
                &["10.0.0.1", "fd00::1", "10.0.0.2"][..],
                "gateways list cannot contain more than 2 entries (one IPv4, one IPv6)",
            ),
            (&["zz"], "invalid static gateway IP address: zz"),
            (&[""], "invalid static gateway IP address: "),
            (&["10.0.0.1", "10.0.0.2"], "gateways list contains multiple IPv4 addresses: 10.0.0.1 and 10.0.0.2"),
            (&["fd00::1", "fd00:0::2"], "gateways list contains multiple IPv6 addresses: fd00::1 and fd00:0::2"),
        ] {
            assert_eq!(with(gateways).unwrap_err().chain(), text);
        }
    }

    #[test]
    fn one_gateway_of_each_family_in_any_order() {
        let spec = with(&["fd00::1", "::ffff:10.0.0.1"]).unwrap();
        let Way::Own(own) = spec.way() else { panic!() };
        assert_eq!(own.configured(false), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(own.configured(true), Some("fd00::1".parse().unwrap()));
    }

    #[test]
    fn with_a_table_nothing_else_is_read() {
        let conf = Conf { table: Some(5000), gateways: Some(vec!["zz".to_owned()]), add_source_hints: true };
        assert_eq!(conf.validate().unwrap().way(), &Way::Table(5000));
        assert_eq!(Conf { table: Some(-1), ..Conf::default() }.validate().unwrap().way(), &Way::Table(0));
        assert!(Conf { table: Some(1 << 32), ..Conf::default() }.validate().is_err());
    }
}
