//! Addresses as Go's `net` package reads and prints them in CNI documents. Knows no interface and no kernel.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

/// Length in bits of the IPv4-mapped prefix of IPv6 (RFC 4291, 2.5.5.2).
const MAPPED_PREFIX_BITS: u8 = 96;

/// Reads `address/prefix`, host bits kept. An IPv4-mapped address becomes the IPv4 address that Go prints for it.
///
/// # Errors
/// Go's text: `invalid CIDR address: x`.
pub fn parse_cidr(text: &str) -> Result<IpNetwork, String> {
    let refused = || format!("invalid CIDR address: {text}");
    let (address, prefix) = text.split_once('/').ok_or_else(refused)?;
    let address: IpAddr = address.parse().map_err(|_| refused())?;
    // `parse` alone would take a sign.
    let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix: u8 = prefix.parse().ok().filter(|_| digits).ok_or_else(refused)?;
    IpNetwork::new(address, prefix).map(canonical).map_err(|_| refused())
}

/// Reads an address; empty text is no address.
///
/// # Errors
/// Go's text: `invalid IP address: x`.
pub fn parse_ip(text: &str) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse::<IpAddr>()
        .map(|address| Some(address.to_canonical()))
        .map_err(|_| format!("invalid IP address: {text}"))
}

/// The network with an IPv4-mapped address as IPv4: Go makes no difference between the two, and prints the shorter.
pub fn canonical(network: IpNetwork) -> IpNetwork {
    let Some(address) = mapped(network.ip()) else { return network };
    let prefix = network.prefix().saturating_sub(MAPPED_PREFIX_BITS);
    ipnetwork::Ipv4Network::new(address, prefix).map_or(network, IpNetwork::V4)
}

fn mapped(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs_read_and_print_as_in_go() {
        let cases = [
            ("::ffff:10.0.0.1/120", "10.0.0.1/24"),
            ("::ffff:10.0.0.1/64", "10.0.0.1/0"),
            ("10.0.0.1/024", "10.0.0.1/24"),
            ("1::/128", "1::/128"),
            ("10.1.2.3/8", "10.1.2.3/8"),
            ("::ffff:a00:1/128", "10.0.0.1/32"),
            ("::1.2.3.4/64", "::102:304/64"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_cidr(text).unwrap().to_string(), expected, "{text}");
        }
        for text in [
            "10.0.0.1/33",
            "10.0.0.1",
            "10.0.0.1/+4",
            "fe80::1%eth0/64",
            "010.0.0.1/8",
            "10.0.0.1/",
            " 10.0.0.1/8",
            "10.0.0.1/0x8",
            "",
            "/",
            "10.0.0.1/255.255.255.0",
            "10.0.0.1/256",
        ] {
            assert_eq!(parse_cidr(text), Err(format!("invalid CIDR address: {text}")));
        }
    }

    #[test]
    fn addresses_print_as_in_go() {
        let cases = [
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("::1.2.3.4", "::102:304"),
            ("1::0:0:2:0:0:3", "1::2:0:0:3"),
            ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
            ("::ffff:0:1.2.3.4", "::ffff:0:102:304"),
            ("1:0:0:2::", "1:0:0:2::"),
            ("1:2:3:4:5:6:0:8", "1:2:3:4:5:6:0:8"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_ip(text).unwrap().unwrap().to_string(), expected, "{text}");
        }
        assert_eq!(parse_ip(""), Ok(None));
        assert_eq!(parse_ip("zz"), Err("invalid IP address: zz".to_string()));
    }
}
