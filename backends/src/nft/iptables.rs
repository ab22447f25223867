//! What the reference plugins leave with iptables' nft backend: a chain for each attachment in the tables `nat` of IPv4 and
//! IPv6, and jumps to it. Removed here, never made. Rules of legacy x_tables are invisible to netlink.

use super::message::{Batch, Family};
use super::socket::Socket;
use super::{Owner, hash};
use crate::netlink::Failure;

const TABLE: &str = "nat";
const POSTROUTING: &str = "POSTROUTING";

/// The interface is not in it: two attachments of a sandbox to one network share it.
fn chain(owner: &Owner<'_>) -> String {
    format!("CNI-{}", hash(&format!("{}{}", owner.network, owner.sandbox), 24))
}

pub(super) fn remove(socket: &mut Socket, batch: &mut Batch, owner: &Owner<'_>) -> Result<(), Failure> {
    let chain = chain(owner);
    for family in [Family::Ipv4, Family::Ipv6] {
        if !socket.has_chain(family, TABLE, &chain)? {
            continue;
        }
        for rule in socket.rules(family, TABLE, POSTROUTING)? {
            if rule.jumps_to == chain {
                batch.delete_rule(family, [TABLE, POSTROUTING], rule.handle);
            }
        }
        batch.flush(family, TABLE, &chain);
        batch.delete_chain(family, TABLE, &chain);
    }
    Ok(())
}

/// Whether there is a chain of the owner.
pub(super) fn is_there(socket: &mut Socket, owner: &Owner<'_>) -> Result<bool, Failure> {
    let chain = chain(owner);
    Ok(socket.has_chain(Family::Ipv4, TABLE, &chain)? || socket.has_chain(Family::Ipv6, TABLE, &chain)?)
}
