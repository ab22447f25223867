//! The rules of all attachments, as their comments tell, and the removal of some of them. Whose attachment still lives is not
//! known here.

use std::collections::BTreeSet;

use super::message::{Batch, Family};
use super::socket::Socket;
use super::{Owner, Rules, forward, hash, lift, masquerade, ports, spoof};
use crate::error::Error;
use crate::netlink::Failure;

/// Rules removed in one transaction: about a hundred kilobytes.
const REMOVED_AT_ONCE: usize = 1000;

/// What rules are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Masquerade,
    SpoofCheck,
    Ports,
    /// As the reference plugin makes them.
    CompatiblePorts,
    Firewall,
}

/// The rules of one attachment, as their comment names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Noted {
    /// The network's name; empty in rules that check hardware addresses and in the reference plugin's for mapped ports, which
    /// do not tell it.
    pub network: String,
    /// The container id, or its beginning where the comment was too long and cut.
    pub sandbox: String,
    /// The interface in the pod; empty in the reference plugin's rules for mapped ports.
    pub ifname: String,
    /// The comment itself.
    pub comment: String,
    purpose: Purpose,
}

impl Noted {
    /// Whether they can be rules of this container.
    #[must_use]
    pub fn can_be_of(&self, sandbox: &str) -> bool {
        match self.purpose {
            // The id may have a dash, and so may the interface: who begins like the owner may be it.
            Purpose::SpoofCheck => {
                let whose = self.comment.strip_prefix(spoof::COMMENT).unwrap_or_default();
                whose.strip_prefix(sandbox).is_some_and(|rest| rest.starts_with('-'))
            }
            Purpose::Masquerade | Purpose::Firewall => {
                self.can_begin(masquerade::is_cut(plain(&self.comment)), sandbox)
            }
            Purpose::Ports => self.can_begin(ports::holder(&self.comment).is_some_and(|holder| holder.3), sandbox),
            Purpose::CompatiblePorts => sandbox == self.sandbox,
        }
    }

    fn can_begin(&self, is_cut: bool, sandbox: &str) -> bool {
        sandbox == self.sandbox || is_cut && sandbox.starts_with(&self.sandbox)
    }

    /// Where the rules are, for a person.
    #[must_use]
    pub fn place(&self) -> &'static str {
        match self.purpose {
            Purpose::Masquerade => masquerade::PLACE,
            Purpose::SpoofCheck => spoof::PLACE,
            Purpose::Ports => ports::PLACE,
            Purpose::CompatiblePorts => ports::COMPATIBLE_PLACE,
            Purpose::Firewall => forward::PLACE,
        }
    }
}

/// All masquerade rules, checks of hardware addresses, mapped ports, and rules of the firewall that name an owner: one entry an
/// attachment and purpose, sorted.
///
/// # Errors
/// [`crate::ErrorKind::Io`] or [`crate::ErrorKind::Refused`] if the kernel cannot be asked. One without nftables has none.
pub fn noted() -> Result<Vec<Noted>, Error> {
    let failed = |e| Error::kernel("list the nftables rules of", "all attachments", e);
    let Some(mut socket) = Socket::open_if_any().map_err(failed)? else { return Ok(Vec::new()) };
    let mut all = masquerade::comments(&mut socket).map_err(failed)?;
    all.extend(spoof::comments(&mut socket).map_err(failed)?);
    all.extend(forward::names(&mut socket).map_err(failed)?);
    let mut noted: Vec<Noted> = all.into_iter().filter_map(parse).collect();
    noted.extend(ports::comments(&mut socket).map_err(failed)?.into_iter().filter_map(parse_ports));
    noted.extend(ports::containers(&mut socket).map_err(failed)?.into_iter().map(|sandbox| Noted {
        network: String::new(),
        ifname: String::new(),
        comment: sandbox.clone(),
        sandbox,
        purpose: Purpose::CompatiblePorts,
    }));
    noted.sort();
    noted.dedup();
    Ok(noted)
}

/// Nothing where nobody says whose it is.
fn parse(comment: String) -> Option<Noted> {
    if let Some(whose) = comment.strip_prefix(spoof::COMMENT) {
        let (sandbox, ifname) = whose.rsplit_once('-')?;
        let (sandbox, ifname) = (sandbox.to_owned(), ifname.to_owned());
        return Some(Noted { network: String::new(), sandbox, ifname, comment, purpose: Purpose::SpoofCheck });
    }
    let plain = plain(&comment);
    let (_, told) = plain.split_once(", net: ")?;
    let (network, told) = told.split_once(", if: ")?;
    let (ifname, sandbox) = told.split_once(", id: ")?;
    let owner = Owner { network, sandbox, ifname };
    let is_ours = !sandbox.is_empty() && masquerade::is_ours(plain, &owner);
    let [network, ifname, sandbox] = [network, ifname, sandbox].map(str::to_owned);
    let purpose = if plain.len() == comment.len() { Purpose::Masquerade } else { Purpose::Firewall };
    is_ours.then_some(Noted { network, sandbox, ifname, comment, purpose })
}

/// What a comment says of its owner, whatever its rules are for.
fn plain(comment: &str) -> &str {
    comment.strip_prefix(forward::NAMED).unwrap_or(comment)
}

/// The same of all elements of an attachment.
fn parse_ports(comment: String) -> Option<Noted> {
    let (network, ifname, sandbox, _) = ports::holder(&comment)?;
    let is_ours = !sandbox.is_empty() && comment.starts_with(&format!("{}-", hash(network, 16)));
    let [network, ifname, sandbox] = [network, ifname, sandbox].map(str::to_owned);
    is_ours.then_some(Noted { network, sandbox, ifname, comment, purpose: Purpose::Ports })
}

/// Removes them; what is gone already is no error.
///
/// # Errors
/// As [`noted`].
pub fn remove_noted(noted: &[Noted]) -> Result<(), Error> {
    let failed = |e| Error::kernel("remove nftables rules of", "attachments that have ended", e);
    let Some(mut socket) = Socket::open_if_any().map_err(failed)? else { return Ok(()) };
    noted
        .chunks(REMOVED_AT_ONCE)
        .try_for_each(|some| {
            socket.change(|socket, batch| fill(socket, batch, some))?;
            if let Some((_, failure)) = lift::remove(&mut socket, &checks_of(some)).into_iter().next() {
                return Err(failure);
            }
            let comments = comments_of(some, Purpose::Ports);
            match comments.is_empty() {
                true => Ok(()),
                false => ports::remove_where(&mut socket, |element| {
                    comments.contains(ports::without_prefix(&element.comment).as_str())
                }),
            }
        })
        .map_err(failed)
}

fn comments_of(noted: &[Noted], purpose: Purpose) -> BTreeSet<&str> {
    noted.iter().filter(|noted| noted.purpose == purpose).map(|noted| noted.comment.as_str()).collect()
}

/// Whose hardware addresses are checked: the network is not in the names of their rules.
fn checks_of(noted: &[Noted]) -> Vec<(Rules, Owner<'_>)> {
    let checks = noted.iter().filter(|noted| noted.purpose == Purpose::SpoofCheck);
    let rules = Rules { spoof_check: true, ..Rules::default() };
    checks.map(|Noted { sandbox, ifname, .. }| (rules, Owner { network: "", sandbox, ifname })).collect()
}

fn fill(socket: &mut Socket, batch: &mut Batch, noted: &[Noted]) -> Result<(), Failure> {
    let comments = comments_of(noted, Purpose::Masquerade);
    for rule in socket.rules(Family::Inet, masquerade::TABLE, masquerade::CHECKS)? {
        if comments.contains(rule.comment.as_str()) {
            batch.delete_rule(Family::Inet, [masquerade::TABLE, masquerade::CHECKS], rule.handle);
        }
    }
    let named = comments_of(noted, Purpose::Firewall);
    if !named.is_empty() {
        forward::remove_named(socket, batch, &named.into_iter().collect::<Vec<_>>())?;
    }
    let containers: Vec<&str> = comments_of(noted, Purpose::CompatiblePorts).into_iter().collect();
    if !containers.is_empty() {
        ports::remove_containers(socket, batch, &containers)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::hash;
    use super::*;

    #[test]
    fn a_comment_tells_whose_its_rule_is() {
        let whole = parse("bd5920332d2f73b7-f4d01f2ef4b92245, net: lab, if: eth0, id: c1".to_owned()).unwrap();
        assert_eq!((whole.network.as_str(), whole.ifname.as_str(), whole.sandbox.as_str()), ("lab", "eth0", "c1"));
        assert!(whole.can_be_of("c1") && !whole.can_be_of("c12") && !whole.can_be_of("c"));
        let id = "0123456789abcdef".repeat(4);
        let mut long =
            format!("{}-{}, net: {}, if: eth0, id: {id}", hash(&"n".repeat(20), 16), "x".repeat(16), "n".repeat(20));
        long.truncate(128);
        let cut = parse(long).unwrap();
        assert!(cut.can_be_of(&id) && !cut.can_be_of("ff") && cut.sandbox.len() < id.len());
        assert_eq!(parse(format!("{}, net: {}", "x".repeat(33), "n".repeat(90))), None);
        assert_eq!(parse("somebody's".to_owned()), None);
        assert_eq!(parse("hello, net: lab, if: eth0, id: c1".to_owned()), None, "somebody else's in our words");
    }

    #[test]
    fn a_check_of_hardware_addresses_is_of_whoever_it_begins_with() {
        let noted = parse("macspoofchk-my-pod-eth0".to_owned()).unwrap();
        assert_eq!((noted.sandbox.as_str(), noted.ifname.as_str()), ("my-pod", "eth0"));
        assert!(noted.can_be_of("my-pod") && noted.can_be_of("my") && !noted.can_be_of("pod"));
    }
}
