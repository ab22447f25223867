//! Addresses as numbers on one line of 128 bits, so that ranges are arithmetic and never iteration.
//!
//! An IPv4 address stands where its IPv4-mapped IPv6 address stands (`::ffff:0:0/96`, RFC 4291 2.5.5.2). The Go
//! plugins take the two for the same address, so no IPv6 range ever reaches into that block. Knows no ranges and no files.

use std::net::{IpAddr, Ipv6Addr};

/// An address on the line.
pub(crate) type Number = u128;

/// The first number of the IPv4 block.
pub(crate) const V4_FIRST: Number = 0xffff_0000_0000;
/// The last number of the IPv4 block.
pub(crate) const V4_LAST: Number = 0xffff_ffff_ffff;

/// The place of an address on the line.
pub(crate) fn number(address: IpAddr) -> Number {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address at a place, in its canonical form.
pub(crate) fn address(number: Number) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(number)).to_canonical()
}

/// Whether the place is that of an IPv4 address.
pub(crate) fn is_v4(number: Number) -> bool {
    (V4_FIRST..=V4_LAST).contains(&number)
}

/// The lease file's name: what Go's `net.IP.String()` gives.
pub(crate) fn file_name(number: Number) -> String {
    address(number).to_string()
}

/// The address that a file name stands for, if it is exactly a name that [`file_name`] gives.
///
/// `FD00::2` or `::ffff:10.0.0.1` parse as addresses, but no host-local ever wrote such a name.
pub(crate) fn from_file_name(name: &str) -> Option<Number> {
    let at = number(name.parse().ok()?);
    (file_name(at) == name).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_go() {
        for name in ["10.0.0.1", "fd00::2", "::", "::1", "1::", "2001:db8::1:0:0:1", "255.255.255.255"] {
            let at = from_file_name(name).unwrap();
            assert_eq!(file_name(at), name);
        }
        for name in
            ["FD00::2", "::ffff:10.0.0.1", "10.0.0.01", "lock", "10.0.0.1.bak", "last_reserved_ip.0", "", "1:0::"]
        {
            assert_eq!(from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn v4_is_its_mapped_form() {
        assert_eq!(number("10.0.0.1".parse().unwrap()), number("::ffff:10.0.0.1".parse().unwrap()));
        assert!(is_v4(number("255.255.255.255".parse().unwrap())));
        assert!(!is_v4(number("::fffe:ffff:ffff".parse().unwrap())));
        assert!(!is_v4(number("::1:0:0:0".parse().unwrap())));
    }
}
