//! What the reference plugins leave with iptables' nft backend: a chain for each attachment in the tables `nat` of IPv4 and
//! IPv6, and jumps to it. Removed here, never made. Rules of legacy x_tables are invisible to netlink.

use super::message::{Batch, Family, each, find};
use super::rule::{compared, expressions, handle, jump, text};
use super::socket::Socket;
use super::{Owner, hash};
use crate::netlink::Failure;

pub(super) const TABLE: &str = "nat";
pub(super) const POSTROUTING: &str = "POSTROUTING";
/// Where packets jump to the chains of mapped ports; the second was an older release's.
const MAPPED: &str = "CNI-HOSTPORT-DNAT";
const MAPPED_SOURCES: &str = "CNI-HOSTPORT-SNAT";
/// `XT_MULTI_PORTS`.
const MULTIPORT_MAX: usize = 15;
pub(super) const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// The chain of this kind, of `digits` hexadecimal digits. The interface is not in it: two attachments of a sandbox to one
/// network share it.
fn chain(owner: &Owner<'_>, kind: &str, digits: usize) -> String {
    format!("CNI-{kind}{}", hash(&format!("{}{}", owner.network, owner.sandbox), digits))
}

/// The chain of masquerade, and where packets jump to it.
pub(super) fn masquerade(owner: &Owner<'_>) -> (String, &'static str) {
    (chain(owner, "", 24), POSTROUTING)
}

/// The chains of mapped ports.
fn ports(owner: &Owner<'_>) -> [(String, &'static str); 2] {
    [(chain(owner, "DN-", 21), MAPPED), (chain(owner, "SN-", 21), MAPPED_SOURCES)]
}

/// Removes the rules of mapped ports.
pub(super) fn remove_ports(socket: &mut Socket, batch: &mut Batch, owner: &Owner<'_>) -> Result<(), Failure> {
    let chains = ports(owner);
    let all: Vec<(Family, &str, &str)> = FAMILIES
        .iter()
        .flat_map(|family| chains.iter().map(|(chain, from)| (*family, chain.as_str(), *from)))
        .collect();
    let asked: Vec<(Family, &str, &str)> = all.iter().map(|(family, chain, _)| (*family, TABLE, *chain)).collect();
    let there = socket.have_chains(&asked)?;
    for ((family, chain, from), _) in all.into_iter().zip(there).filter(|(_, there)| *there) {
        for rule in socket.rules(family, TABLE, from)? {
            if rule.jumps_to == chain {
                batch.delete_rule(family, [TABLE, from], rule.handle);
            }
        }
        batch.flush(family, TABLE, chain);
        batch.delete_chain(family, TABLE, chain);
    }
    Ok(())
}

/// Whether there is a chain of the owner's masquerade.
pub(super) fn is_there(socket: &mut Socket, owner: &Owner<'_>) -> Result<bool, Failure> {
    let (chain, _) = masquerade(owner);
    let asked: Vec<(Family, &str, &str)> = FAMILIES.iter().map(|family| (*family, TABLE, chain.as_str())).collect();
    Ok(socket.have_chains(&asked)?.contains(&true))
}

/// Whether packets come by a chain of the owner's mapped ports.
pub(super) fn has_ports(socket: &mut Socket, owner: &Owner<'_>, family: Family) -> Result<bool, Failure> {
    let [(chain, from), _] = ports(owner);
    Ok(socket.rules(family, TABLE, from)?.iter().any(|rule| rule.jumps_to == chain))
}

/// What leads to a container's mapped ports: one rule for each protocol, and for up to fifteen ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The container's chain.
    pub(super) chain: String,
    /// The protocol's number; none: not told.
    pub(super) protocol: Option<u8>,
    pub(super) ports: Vec<u16>,
    /// Network and container in quotation marks, as the reference plugin notes them; it cuts it.
    pub(super) comment: String,
}

/// The entries of all containers but this owner's.
pub(super) fn entries(socket: &mut Socket, owner: &Owner<'_>, family: Family) -> Result<Vec<Entry>, Failure> {
    let [(own, from), _] = ports(owner);
    let mut entries = socket.picked(family, [TABLE, from], |rule| Some((handle(rule)?, entry(rule)?)), |(n, _)| *n)?;
    entries.retain(|(_, entry)| entry.chain != own);
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

/// Whether an entry's chain leads this port elsewhere at every address of the host: which addresses, only that chain tells.
pub(super) fn is_everywhere(socket: &mut Socket, family: Family, entry: &Entry, port: u16) -> Result<bool, Failure> {
    let values = |rule: &[u8]| {
        let list = expressions(rule);
        let redirects = each(list).any(|(_, element)| find(element, 1).is_some_and(|kind| text(kind) == "target"));
        Some((handle(rule)?, compared(list), redirects && jump(list).is_none()))
    };
    let rules = socket.picked(family, [TABLE, &entry.chain], values, |(number, ..)| *number)?;
    let wanted = port.to_be_bytes();
    let is_it = |values: &[Vec<u8>]| {
        let is_address = |value: &Vec<u8>| value.len() == 4 || value.len() == 16;
        let mut ports = values.iter().filter(|value| value.len() == wanted.len()).peekable();
        // An older iptables compares ports by an extension, of which nothing is known here.
        let is_port = ports.peek().is_none() || ports.any(|value| value[..] == wanted);
        is_port && !values.iter().any(is_address)
    };
    Ok(rules.iter().any(|(_, values, redirects)| *redirects && is_it(values)))
}

fn entry(rule: &[u8]) -> Option<Entry> {
    let list = expressions(rule);
    let chain = jump(list)?;
    // `struct xt_multiport_v1` in include/uapi/linux/netfilter/xt_multiport.h: flags, count, ports in the host's order.
    let of_ports = extension(list, "multiport")?;
    let count = usize::from(*of_ports.get(1)?).min(MULTIPORT_MAX);
    let ports = of_ports.get(2..)?.chunks_exact(2).take(count);
    let ports = ports.filter_map(|port| port.first_chunk()).map(|port| u16::from_ne_bytes(*port)).collect();
    let protocol = compared(list).into_iter().find_map(|value| if let [one] = value[..] { Some(one) } else { None });
    Some(Entry { chain, protocol, ports, comment: extension(list, "comment").map(text).unwrap_or_default() })
}

/// The data of an extension of iptables.
fn extension<'a>(list: &'a [u8], name: &str) -> Option<&'a [u8]> {
    each(list).find_map(|(_, element)| {
        let data = find(element, 2).filter(|_| find(element, 1).is_some_and(|kind| text(kind) == "match"))?;
        find(data, 3).filter(|_| find(data, 1).is_some_and(|found| text(found) == name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_have_the_reference_plugins_names() {
        let owner = Owner { network: "lab", sandbox: "c1", ifname: "eth0" };
        assert_eq!(masquerade(&owner).0, "CNI-7938659e68193485ee23da4c");
        assert_eq!(
            ports(&owner).map(|(chain, _)| chain),
            ["CNI-DN-7938659e68193485ee23d", "CNI-SN-7938659e68193485ee23d"]
        );
    }
}
