//! The rules of all attachments, as their comments tell, and the removal of some of them. Whose attachment still lives is not
//! known here.

use super::message::{Batch, Family};
use super::socket::{InUse, Socket};
use super::{Owner, masquerade, spoof};
use crate::error::Error;
use crate::netlink::Failure;

/// Rules removed in one transaction: about a hundred kilobytes.
const REMOVED_AT_ONCE: usize = 1000;

/// The rules of one attachment, as their comment names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Noted {
    /// The network's name; empty in rules that check hardware addresses, which do not tell it.
    pub network: String,
    /// The container id, or its beginning where the comment was too long and cut.
    pub sandbox: String,
    /// The interface in the pod.
    pub ifname: String,
    /// The comment itself.
    pub comment: String,
}

impl Noted {
    /// Whether they can be rules of this container.
    #[must_use]
    pub fn can_be_of(&self, sandbox: &str) -> bool {
        if self.network.is_empty() {
            // The id may have a dash, and so may the interface: who begins like the owner may be it.
            let whose = self.comment.strip_prefix(spoof::COMMENT).unwrap_or_default();
            return whose.strip_prefix(sandbox).is_some_and(|rest| rest.starts_with('-'));
        }
        sandbox == self.sandbox || (masquerade::is_cut(&self.comment) && sandbox.starts_with(&self.sandbox))
    }

    /// Where the rules are, for a person.
    #[must_use]
    pub fn place(&self) -> &'static str {
        if self.network.is_empty() { spoof::PLACE } else { masquerade::PLACE }
    }
}

/// All masquerade rules and all checks of hardware addresses, one entry an attachment and table, sorted.
///
/// # Errors
/// [`crate::ErrorKind::Io`] or [`crate::ErrorKind::Refused`] if the kernel cannot be asked. One without nftables has none.
pub fn noted() -> Result<Vec<Noted>, Error> {
    let failed = |e| Error::kernel("list the nftables rules of", "all attachments", e);
    let Some(mut socket) = Socket::open_if_any().map_err(failed)? else { return Ok(Vec::new()) };
    let mut all = masquerade::comments(&mut socket).map_err(failed)?;
    all.extend(spoof::comments(&mut socket).map_err(failed)?);
    let mut noted: Vec<Noted> = all.into_iter().filter_map(parse).collect();
    noted.sort();
    noted.dedup();
    Ok(noted)
}

/// Nothing where nobody says whose it is.
fn parse(comment: String) -> Option<Noted> {
    if let Some(whose) = comment.strip_prefix(spoof::COMMENT) {
        let (sandbox, ifname) = whose.rsplit_once('-')?;
        let (sandbox, ifname) = (sandbox.to_owned(), ifname.to_owned());
        return Some(Noted { network: String::new(), sandbox, ifname, comment });
    }
    let (_, told) = comment.split_once(", net: ")?;
    let (network, told) = told.split_once(", if: ")?;
    let (ifname, sandbox) = told.split_once(", id: ")?;
    let owner = Owner { network, sandbox, ifname };
    let is_ours = !sandbox.is_empty() && masquerade::is_ours(&comment, &owner);
    let [network, ifname, sandbox] = [network, ifname, sandbox].map(str::to_owned);
    is_ours.then_some(Noted { network, sandbox, ifname, comment })
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
        .try_for_each(|some| socket.change(|socket, batch, in_use| fill(socket, batch, some, in_use)))
        .map_err(failed)
}

fn fill(socket: &mut Socket, batch: &mut Batch, noted: &[Noted], in_use: InUse) -> Result<(), Failure> {
    let comments: Vec<&str> = noted.iter().map(|noted| noted.comment.as_str()).collect();
    for rule in socket.rules(Family::Inet, masquerade::TABLE, masquerade::CHECKS)? {
        if comments.contains(&rule.comment.as_str()) {
            batch.delete_rule(Family::Inet, [masquerade::TABLE, masquerade::CHECKS], rule.handle);
        }
    }
    for Noted { sandbox, ifname, .. } in noted.iter().filter(|noted| noted.network.is_empty()) {
        spoof::remove(socket, batch, &Owner { network: "", sandbox, ifname }, in_use)?;
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
