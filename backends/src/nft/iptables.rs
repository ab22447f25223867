//! What the reference plugins leave with iptables' nft backend: a chain for each attachment in the tables `nat` of IPv4 and
//! IPv6, and jumps to it. Removed here, never made. Rules of legacy x_tables are invisible to netlink.

use super::message::{Batch, Family};
use super::socket::Socket;
use super::{Owner, hash};
use crate::netlink::Failure;

const TABLE: &str = "nat";
const POSTROUTING: &str = "POSTROUTING";
/// Where packets jump to the chains of mapped ports; the second was an older release's.
const MAPPED: &str = "CNI-HOSTPORT-DNAT";
const MAPPED_SOURCES: &str = "CNI-HOSTPORT-SNAT";
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// The chain of this kind, of `digits` hexadecimal digits. The interface is not in it: two attachments of a sandbox to one
/// network share it.
fn chain(owner: &Owner<'_>, kind: &str, digits: usize) -> String {
    format!("CNI-{kind}{}", hash(&format!("{}{}", owner.network, owner.sandbox), digits))
}

/// The chain of masquerade, and where packets jump to it.
fn masquerade(owner: &Owner<'_>) -> (String, &'static str) {
    (chain(owner, "", 24), POSTROUTING)
}

/// The chains of mapped ports.
fn ports(owner: &Owner<'_>) -> [(String, &'static str); 2] {
    [(chain(owner, "DN-", 21), MAPPED), (chain(owner, "SN-", 21), MAPPED_SOURCES)]
}

/// Removes the rules of masquerade.
pub(super) fn remove(socket: &mut Socket, batch: &mut Batch, owner: &Owner<'_>) -> Result<(), Failure> {
    remove_chains(socket, batch, &[masquerade(owner)])
}

/// Removes the rules of mapped ports.
pub(super) fn remove_ports(socket: &mut Socket, batch: &mut Batch, owner: &Owner<'_>) -> Result<(), Failure> {
    remove_chains(socket, batch, &ports(owner))
}

fn remove_chains(socket: &mut Socket, batch: &mut Batch, chains: &[(String, &str)]) -> Result<(), Failure> {
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
