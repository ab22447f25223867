//! The two rules for each address, in the chain that all attachments share. Ours name their owner; those of the reference plugin
//! name nobody and are known by their address only.

use std::net::IpAddr;

use super::place::{At, named_in};
use super::words::{OWN, TABLE, of_address};
use serde::{Deserialize, Serialize};

use crate::netlink::Failure;
use crate::nft::message::{Batch, Family};
use crate::nft::rule::{Expressions, expressions, handle};
use crate::nft::socket::Socket;
use crate::nft::{Owner, masquerade};

/// How the text begins that names an owner; the rest is as in the comments of masquerade rules.
pub(in crate::nft) const NAMED: &str = "firewall-";
/// Where the rules are, for a person.
pub(in crate::nft) const PLACE: &str = "tables ip filter and ip6 filter, chain CNI-FORWARD";

/// The text that names an owner.
pub(super) fn name(owner: &Owner<'_>) -> String {
    format!("{NAMED}{}", masquerade::comment(owner))
}

/// The addresses of one family.
pub(super) fn of_family(addresses: &[IpAddr], family: Family) -> impl Iterator<Item = IpAddr> {
    addresses.iter().copied().filter(move |ip| ip.is_ipv4() == (family == Family::Ipv4))
}

pub(super) fn add(batch: &mut Batch, family: Family, owner: &Owner<'_>, addresses: &[IpAddr]) {
    let name = name(owner);
    for ip in of_family(addresses, family) {
        for rule in of_address(ip) {
            batch.put(family, OWN, At::Last, &rule, Some(&name));
        }
    }
}

/// The kernel's numbers of an owner's rules, by which they are found at once: a listing of the chain takes as long as the node
/// has pods. A number may be another rule's by now, where a table was made anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handles {
    /// In the table of IPv4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ipv4: Vec<u64>,
    /// In the table of IPv6.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ipv6: Vec<u64>,
}

impl Handles {
    /// Notes a rule that the kernel tells it has added.
    pub(super) fn hear(&mut self, family: u8, rule: &[u8]) {
        let numbers = if family == Family::Ipv4 as u8 { &mut self.ipv4 } else { &mut self.ipv6 };
        numbers.extend(handle(rule));
    }

    fn each(&self) -> impl Iterator<Item = (Family, u64)> {
        let of = |family| move |handle: &u64| (family, *handle);
        self.ipv4.iter().map(of(Family::Ipv4)).chain(self.ipv6.iter().map(of(Family::Ipv6)))
    }
}

/// As [`remove`], of just these rules: whether each of them is there and the owner's. Otherwise nothing is removed.
pub(super) fn remove_numbered(
    socket: &mut Socket,
    batch: &mut Batch,
    owner: &Owner<'_>,
    handles: &Handles,
) -> Result<bool, Failure> {
    let name = name(owner);
    for (family, handle) in handles.each() {
        let is_own = |rule: &[u8]| named_in(rule).map(|named| named == name.as_bytes());
        if socket.rule(family, [TABLE, OWN], handle, is_own)? != Some(true) {
            return Ok(false);
        }
    }
    for (family, handle) in handles.each() {
        batch.delete_rule(family, [TABLE, OWN], handle);
    }
    Ok(handles.each().next().is_some())
}

/// Removes an owner's rules. Where there are none in either family, what was attached was so by the reference plugin, or
/// somebody restored a saved table, which names no owners: then those of the addresses, if nobody is named in them.
pub(super) fn remove(
    socket: &mut Socket,
    batch: &mut Batch,
    owner: &Owner<'_>,
    addresses: &[IpAddr],
) -> Result<(), Failure> {
    let name = name(owner);
    let mut all = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let wanted: Vec<Expressions> = of_family(addresses, family).flat_map(of_address).collect();
        let pick = |rule: &[u8]| match named_in(rule) {
            Some(named) => (named == name.as_bytes()).then_some((handle(rule)?, true)),
            None => wanted.iter().any(|wanted| wanted.are(expressions(rule))).then_some((handle(rule)?, false)),
        };
        let listed = socket.picked(family, [TABLE, OWN], pick, |(handle, _)| *handle)?;
        all.extend(listed.into_iter().map(|(handle, is_own)| (family, handle, is_own)));
    }
    let any_own = all.iter().any(|(.., is_own)| *is_own);
    for (family, handle, _) in all.into_iter().filter(|(.., is_own)| *is_own == any_own) {
        batch.delete_rule(family, [TABLE, OWN], handle);
    }
    Ok(())
}

/// Removes the rules whose owner's text is one of these, at most `limit` of them.
pub(super) fn remove_named(
    socket: &mut Socket,
    batch: &mut Batch,
    limit: usize,
    is_one: impl Fn(&str) -> bool,
) -> Result<(), Failure> {
    let mut all = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let pick = |rule: &[u8]| {
            let named = std::str::from_utf8(named_in(rule)?).ok()?;
            is_one(named).then_some(handle(rule)?)
        };
        let listed = socket.picked(family, [TABLE, OWN], pick, |handle| *handle)?;
        all.extend(listed.into_iter().map(|handle| (family, handle)));
    }
    for (family, handle) in all.into_iter().take(limit) {
        batch.delete_rule(family, [TABLE, OWN], handle);
    }
    Ok(())
}

/// The texts that name the owners of all rules.
pub(in crate::nft) fn names(socket: &mut Socket) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let pick = |rule: &[u8]| Some((handle(rule)?, String::from_utf8_lossy(named_in(rule)?).into_owned()));
        let listed = socket.picked(family, [TABLE, OWN], pick, |(handle, _)| *handle)?;
        names.extend(listed.into_iter().map(|(_, name)| name));
    }
    Ok(names)
}
