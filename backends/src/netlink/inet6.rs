//! What a link's answer says of IPv6 on it, so that nobody needs to open the files of the same parameters.

use netlink_packet_core::NlasIterator;

const AF_INET6: u16 = 10;
/// Inside `IFLA_AF_SPEC`/`AF_INET6` (include/uapi/linux/if_link.h).
const IFLA_INET6_CONF: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// Positions in `IFLA_INET6_CONF`, numbers of 32 bits (include/uapi/linux/ipv6.h).
const DEVCONF_ACCEPT_RA: usize = 3;
const DEVCONF_DISABLE_IPV6: usize = 26;
/// The kernel makes a link-local address of the hardware address (`IN6_ADDR_GEN_MODE_EUI64`).
const BY_HARDWARE_ADDRESS: u8 = 0;

/// Parameters of IPv6 on one link, as they were when the kernel answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inet6 {
    /// Whether it listens to routers: 0 is no.
    pub(crate) accept_ra: u32,
    /// IPv6 is switched off.
    pub(crate) disabled: bool,
    /// Its link-local address is made of its hardware address.
    pub(crate) by_hardware_address: bool,
}

impl Inet6 {
    /// From the value of `IFLA_AF_SPEC`. `None`: the link, or the kernel, has no IPv6.
    pub(super) fn parse(families: &[u8]) -> Option<Self> {
        let find = |attributes, kind: u16| {
            NlasIterator::new(attributes).map_while(Result::ok).find(|attribute| attribute.kind() == kind)
        };
        let family = find(families, AF_INET6)?;
        let parameters = find(family.value(), IFLA_INET6_CONF)?;
        let mut values = parameters.value().chunks_exact(4).filter_map(|bytes| bytes.try_into().ok());
        let accept_ra = values.nth(DEVCONF_ACCEPT_RA).map(u32::from_ne_bytes)?;
        let disabled = values.nth(DEVCONF_DISABLE_IPV6 - DEVCONF_ACCEPT_RA - 1).map(u32::from_ne_bytes)?;
        let mode = find(family.value(), IFLA_INET6_ADDR_GEN_MODE)?;
        let by_hardware_address = mode.value() == [BY_HARDWARE_ADDRESS];
        Some(Self { accept_ra, disabled: disabled != 0, by_hardware_address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn parameters_are_found_by_their_positions() {
        let mut numbers = [7_u32; 60];
        (numbers[3], numbers[26]) = (0, 1);
        let parameters: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let family = [attribute(2, &parameters), attribute(8, &[0])].concat();
        let families = [attribute(2, &[1, 2, 3]), attribute(10, &family)].concat();
        let expected = Inet6 { accept_ra: 0, disabled: true, by_hardware_address: true };
        assert_eq!(Inet6::parse(&families), Some(expected));
        for cut in 0..families.len() {
            // Whatever is missing: no panic, and nothing made up.
            assert!(Inet6::parse(&families[..cut]).is_none_or(|found| found == expected), "{cut}");
        }
        assert_eq!(Inet6::parse(&attribute(2, &[1, 2, 3])), None, "a link without IPv6");
    }
}
