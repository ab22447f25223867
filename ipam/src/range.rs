//! Ranges and sets of ranges: their canonical form, its validation, and the order in which their addresses are given
//! out. Arithmetic on 128-bit numbers, never iteration. Knows nothing of what is held.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::Address;
use crate::gotext::{Cidr, optional_ip};
use crate::number::{Number, V4_FIRST, V4_LAST, address, is_v4, number};

/// The most ranges in one configuration: comparing each with each stays cheap.
const MAX_RANGES: usize = 1024;

/// A range as the configuration gives it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "allocator.Range", rename_all = "camelCase", default)]
pub struct RangeSection {
    /// The network; the only value that must be there.
    pub subnet: Option<Cidr>,
    /// The first address that may be given out.
    #[serde(deserialize_with = "optional_ip")]
    pub range_start: Option<IpAddr>,
    /// The last address that may be given out.
    #[serde(deserialize_with = "optional_ip")]
    pub range_end: Option<IpAddr>,
    /// The gateway, which is never given out; it need not be in the subnet.
    #[serde(deserialize_with = "optional_ip")]
    pub gateway: Option<IpAddr>,
}

/// A validated range: first and last are in the subnet, in order and of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    subnet: IpNetwork,
    first: Number,
    last: Number,
    gateway: Number,
}

impl Range {
    /// Validates a range and fills in what it leaves open, as the Go plugin does, with its texts.
    ///
    /// One thing is refused that the plugin lets through: a start behind the default end (`.255` of a /24), with which
    /// it walks out of the subnet.
    fn new(section: &RangeSection) -> Result<Self, String> {
        let cidr = section.subnet.ok_or("IP <nil> not v4 nor v6")?;
        let subnet = cidr.network();
        if cidr.prefix > Cidr::bits(cidr.ip) - 2 {
            return Err(format!("Network {subnet} too small to allocate from"));
        }
        if cidr.is_mapped() {
            return Err("IPNet IP and Mask version mismatch".to_owned());
        }
        if subnet.ip() != subnet.network() {
            return Err(format!(
                "Network has host bits set. For a subnet mask of length {} the network address is {}",
                subnet.prefix(),
                subnet.network()
            ));
        }
        let base = number(subnet.network());
        let top = number(subnet.broadcast());
        let within = |at: Number| (base..=top).contains(&at) && is_v4(at) == subnet.is_ipv4();

        let last_given = section.range_end.map(number);
        let first = section.range_start.map_or(base.saturating_add(1), number);
        if section.range_start.is_some() {
            let behind = last_given.is_some_and(|last| is_v4(last) == is_v4(first) && first > last);
            if !within(first) || behind {
                return Err(format!("RangeStart {} not in network {subnet}", address(first)));
            }
        }
        // The last address of an IPv4 subnet is its broadcast address.
        let last = last_given.unwrap_or(if subnet.is_ipv4() { top.saturating_sub(1) } else { top });
        if !within(last) || last < first {
            return Err(format!("RangeEnd {} not in network {subnet}", address(last)));
        }
        let gateway = section.gateway.map_or(base.saturating_add(1), number);
        Ok(Self { subnet, first, last, gateway })
    }

    /// Whether the address may be given out from here (or is the gateway).
    pub(crate) fn contains(&self, at: Number) -> bool {
        (self.first..=self.last).contains(&at) && is_v4(at) == self.subnet.is_ipv4()
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.subnet.is_ipv4() == other.subnet.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    /// The gateway's place.
    pub(crate) fn gateway(&self) -> Number {
        self.gateway
    }

    /// How many addresses can be given out. The IPv4 block is never among them, so the sum stays below 2^128.
    pub(crate) fn size(&self) -> u128 {
        self.stretches().iter().map(|(low, high)| high - low + 1).sum()
    }

    /// The stretches in `first..=last` that can be given out: what is around the gateway and around the IPv4 block.
    pub(crate) fn stretches(&self) -> Vec<(Number, Number)> {
        self.usable(self.first, self.last)
    }

    /// As [`Range::stretches`], of a part of the range.
    fn usable(&self, low: Number, high: Number) -> Vec<(Number, Number)> {
        let mut parts = vec![(low, high)];
        if self.subnet.is_ipv6() {
            parts = without(&parts, V4_FIRST, V4_LAST);
        }
        if is_v4(self.gateway) == self.subnet.is_ipv4() {
            parts = without(&parts, self.gateway, self.gateway);
        }
        parts
    }

    /// The address at a place of this range, as the interface gets it.
    pub(crate) fn lease(&self, at: Number) -> Address {
        let ip = address(at);
        let address = IpNetwork::new(ip, self.subnet.prefix()).unwrap_or_else(|_| IpNetwork::from(ip));
        Address { address, gateway: Some(crate::number::address(self.gateway)) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", address(self.first), address(self.last))
    }
}

/// Cuts `from..=to` out of stretches.
fn without(parts: &[(Number, Number)], from: Number, to: Number) -> Vec<(Number, Number)> {
    let mut kept = Vec::new();
    for &(low, high) in parts {
        if to < low || high < from {
            kept.push((low, high));
            continue;
        }
        if low < from {
            kept.push((low, from - 1));
        }
        if to < high {
            kept.push((to + 1, high));
        }
    }
    kept
}

/// The ranges from which one address is given out. Never empty, of one family, without overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeSet {
    ranges: Vec<Range>,
}

impl RangeSet {
    fn new(sections: &[RangeSection]) -> Result<Self, String> {
        let mut ranges: Vec<Range> = Vec::new();
        for section in sections {
            let range = Range::new(section)?;
            if ranges.first().is_some_and(|first| first.subnet.is_ipv4() != range.subnet.is_ipv4()) {
                return Err("mixed address families".to_owned());
            }
            ranges.push(range);
        }
        if ranges.is_empty() {
            return Err("empty range set".to_owned());
        }
        for (at, one) in ranges.iter().enumerate() {
            if let Some(other) = ranges.iter().skip(at + 1).find(|other| one.overlaps(other)) {
                return Err(format!("subnets {one} and {other} overlap"));
            }
        }
        Ok(Self { ranges })
    }

    fn is_v4(&self) -> bool {
        self.ranges.iter().any(|range| range.subnet.is_ipv4())
    }

    /// The range that an address belongs to.
    pub(crate) fn range_of(&self, at: Number) -> Option<&Range> {
        self.ranges.iter().find(|range| range.contains(at))
    }

    /// The ranges, in order.
    pub(crate) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.ranges.iter().any(|one| other.ranges.iter().any(|two| one.overlaps(two)))
    }

    /// The stretches of addresses in the order in which they are tried: round robin from behind the last reserved
    /// address, through the ranges in order, so that the last reserved one is tried last.
    pub(crate) fn order(&self, last_reserved: Option<Number>) -> Vec<(Number, Number)> {
        let place = last_reserved.and_then(|at| Some((self.ranges.iter().position(|range| range.contains(at))?, at)));
        let (begin, split) = match place {
            None => (0, None),
            Some((index, at)) if self.ranges.get(index).is_some_and(|range| at < range.last) => (index, Some(at)),
            Some((index, _)) => ((index + 1) % self.ranges.len().max(1), None),
        };
        let turn = self.ranges.iter().skip(begin).chain(self.ranges.iter().take(begin));
        let mut stretches = Vec::new();
        for (nth, range) in turn.enumerate() {
            match split {
                Some(at) if nth == 0 => stretches.extend(range.usable(at + 1, range.last)),
                _ => stretches.extend(range.stretches()),
            }
        }
        if let (Some(at), Some(range)) = (split, self.ranges.get(begin)) {
            stretches.extend(range.usable(range.first, at));
        }
        stretches
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, range) in self.ranges.iter().enumerate() {
            write!(f, "{}{range}", if nth == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Validates all range sets of a configuration together.
///
/// `one_per_family` is the configuration's version where that allows only one address of each family (below 0.3.0).
///
/// # Errors
/// The Go plugin's text.
pub(crate) fn range_sets(
    sections: &[Vec<RangeSection>],
    one_per_family: Option<&str>,
) -> Result<Vec<RangeSet>, String> {
    if sections.is_empty() {
        return Err("no IP ranges specified".to_owned());
    }
    if sections.iter().map(Vec::len).sum::<usize>() > MAX_RANGES || sections.len() > MAX_RANGES {
        return Err(format!("more than {MAX_RANGES} IP ranges specified"));
    }
    let mut sets = Vec::new();
    for (index, section) in sections.iter().enumerate() {
        sets.push(RangeSet::new(section).map_err(|text| format!("invalid range set {index}: {text}"))?);
    }
    let v4 = sets.iter().filter(|set| set.is_v4()).count();
    if let Some(version) = one_per_family.filter(|_| v4 > 1 || sets.len() - v4 > 1) {
        return Err(format!("CNI version {version} does not support more than 1 address per family"));
    }
    for (at, one) in sets.iter().enumerate() {
        if let Some(other) = sets.iter().skip(at + 1).position(|other| one.overlaps(other)) {
            return Err(format!("range set {at} overlaps with {}", at + 1 + other));
        }
    }
    Ok(sets)
}

#[cfg(test)]
mod tests;
