//! Masquerade: what leaves a pod for a place outside its own networks takes the node's address.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::message::{Base, Batch, Family};
use super::rule::{Expressions, Found, Verdict};
use super::socket::Socket;
use super::{Owner, hash};
use crate::netlink::Failure;

pub(super) const TABLE: &str = "cni_plugins_masquerade";
const TABLE_COMMENT: &str = "Masquerading for plugins from github.com/containernetworking/plugins";
pub(super) const CHECKS: &str = "masq_checks";
const CHECKS_COMMENT: &str = "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet";
const POSTROUTING: &str = "postrouting";
/// `NF_INET_POST_ROUTING`, and `NF_IP_PRI_NAT_SRC`.
const BASE: Base = Base { kind: "nat", hook: 4, priority: 100, policy: None };
/// Longest comment (nft's limit, which the reference plugins cut at).
const COMMENT_BYTES_MAX: usize = 128;
/// Rules that one collection removes at most: a transaction of a hundred kilobytes. The next collection takes the others.
const COLLECTED_MAX: usize = 1000;
/// Where the rules are, for a person.
pub(super) const PLACE: &str = "table inet cni_plugins_masquerade, chain masq_checks";

/// The comment begins with hashes of network and attachment, which is all that the reference plugins compare.
pub(super) fn comment(owner: &Owner<'_>) -> String {
    let Owner { network, sandbox, ifname } = owner;
    let mut text = format!("{}, net: {network}, if: {ifname}, id: {sandbox}", mark(owner));
    let border = (0..=COMMENT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(border.unwrap_or_default());
    text
}

/// Length of a [`mark`]: two hashes with a dash between them.
pub(super) const MARK_BYTES: usize = 33;

/// Hashes of the network, and of the attachment: how the comment of everything of theirs begins.
pub(super) fn mark(owner: &Owner<'_>) -> String {
    let attachment = format!("{}:{}", owner.ifname, owner.sandbox);
    format!("{}-{}", hash(owner.network, 16), hash(&attachment, 16))
}

/// What every packet comes by: multicast stays as it is, all else is looked at.
fn leading() -> Vec<Expressions> {
    let multicast = [multicast_v4(), multicast_v6()].into_iter().flatten();
    let mut rules: Vec<_> =
        multicast.map(|network| Expressions::default().to(network).verdict(Verdict::Return)).collect();
    rules.push(Expressions::default().verdict(Verdict::Goto(CHECKS)));
    rules
}

/// Whether what all attachments share is as [`add`] would leave it. The other chain is then there too: it is referred to.
pub(super) fn is_laid_out(socket: &mut Socket) -> Result<bool, Failure> {
    let postrouting = [TABLE, POSTROUTING];
    Ok(socket.has_base_chain(Family::Inet, postrouting, &BASE)?
        && socket.has_rules(Family::Inet, postrouting, &leading())?)
}

/// `laid_out`: what all attachments share is there.
pub(super) fn add(batch: &mut Batch, owner: &Owner<'_>, addresses: &[IpNetwork], laid_out: bool) {
    batch.table(Family::Inet, TABLE, Some(TABLE_COMMENT));
    if !laid_out {
        batch.chain(Family::Inet, TABLE, CHECKS, |chain| {
            chain.comment(12, CHECKS_COMMENT);
        });
        batch.base_chain(Family::Inet, TABLE, POSTROUTING, &BASE);
        batch.flush(Family::Inet, TABLE, POSTROUTING);
        for rule in leading() {
            batch.rule(Family::Inet, [TABLE, POSTROUTING], &rule, None);
        }
    }
    let comment = comment(owner);
    // Outside of everything is nothing: an address with prefix length 0 needs no rule.
    for address in addresses.iter().filter(|address| address.prefix() > 0) {
        let rule = Expressions::default().from(address.ip()).not_to(*address).masquerade();
        batch.rule(Family::Inet, [TABLE, CHECKS], &rule, Some(&comment));
    }
}

fn multicast_v4() -> Option<IpNetwork> {
    IpNetwork::new([224, 0, 0, 0].into(), 4).ok()
}

fn multicast_v6() -> Option<IpNetwork> {
    IpNetwork::new([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8).ok()
}

/// The rules of a network that are of none of the valid attachments: pairs of container id and interface name. Without
/// `by_ifname` the interface is the one that the comment names, and a rule whose comment was cut before it stays.
pub(super) fn remove_others(
    socket: &mut Socket,
    batch: &mut Batch,
    network: &str,
    valid: &[(&str, &str)],
    by_ifname: bool,
) -> Result<(), Failure> {
    let is_other = others(network, valid, by_ifname);
    for rule in list(socket)?.iter().filter(|rule| is_other(&rule.comment)).take(COLLECTED_MAX) {
        batch.delete_rule(Family::Inet, [TABLE, CHECKS], rule.handle);
    }
    Ok(())
}

/// Whether a comment is of a network's attachment that is none of the valid ones: as [`remove_others`].
pub(super) fn others(network: &str, valid: &[(&str, &str)], by_ifname: bool) -> impl Fn(&str) -> bool {
    let prefix = format!("{}-", hash(network, 16));
    let own = |ifname: &str, sandbox: &str| hash(&format!("{ifname}:{sandbox}"), 16);
    let named: Vec<String> = valid.iter().map(|(sandbox, ifname)| own(ifname, sandbox)).collect();
    move |comment: &str| {
        let Some(rest) = comment.strip_prefix(&prefix) else { return false };
        if by_ifname || named.iter().any(|mark| rest.starts_with(mark)) {
            return !named.iter().any(|mark| rest.starts_with(mark));
        }
        let told = rest.split_once(", if: ").and_then(|(_, tail)| tail.split_once(", id: "));
        told.is_some_and(|(ifname, _)| !valid.iter().any(|(sandbox, _)| rest.starts_with(&own(ifname, sandbox))))
    }
}

/// Whether a comment's beginning is made of the network's and the attachment's names that it tells: nobody else's rule is so.
pub(super) fn is_ours(comment: &str, owner: &Owner<'_>) -> bool {
    let network = format!("{}-", hash(owner.network, 16));
    if is_cut(comment) { comment.starts_with(&network) } else { comment.starts_with(&mark(owner)) }
}

/// The comments of all rules.
pub(super) fn comments(socket: &mut Socket) -> Result<Vec<String>, Failure> {
    Ok(list(socket)?.into_iter().map(|rule| rule.comment).collect())
}

/// Whether a comment is as long as one can be: what is missing nobody knows.
pub(super) fn is_cut(comment: &str) -> bool {
    comment.len() >= COMMENT_BYTES_MAX
}

/// All rules, of all owners.
pub(super) fn list(socket: &mut Socket) -> Result<Vec<Found>, Failure> {
    socket.rules(Family::Inet, TABLE, CHECKS)
}

/// How many of these addresses have one of `rules` that is the owner's and about them.
pub(super) fn count(rules: &[Found], owner: &Owner<'_>, addresses: &[IpNetwork]) -> usize {
    let mark = mark(owner);
    let own: Vec<_> = rules.iter().filter(|rule| rule.comment.starts_with(&mark)).collect();
    let octets = |address: &IpNetwork| match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let has_rule = |address: &&IpNetwork| own.iter().any(|rule| rule.compared.contains(&octets(address)));
    addresses.iter().filter(has_rule).count()
}

/// Whether packets come by the rules at all.
pub(super) fn is_led_to(socket: &mut Socket) -> Result<bool, Failure> {
    Ok(socket.rules(Family::Inet, TABLE, POSTROUTING)?.iter().any(|rule| rule.jumps_to == CHECKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comment_is_the_reference_plugins() {
        let owner = Owner { network: "lab", sandbox: "c1", ifname: "eth0" };
        assert_eq!(comment(&owner), "bd5920332d2f73b7-f4d01f2ef4b92245, net: lab, if: eth0, id: c1");
        let long = Owner { sandbox: &"x".repeat(200), ..owner };
        assert_eq!(comment(&long).len(), COMMENT_BYTES_MAX);
    }
}
