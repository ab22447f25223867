//! The isolation of a bridge (`ingressPolicy`): two chains, in which a bridge has two or three rules. They are of the bridge
//! and not of a pod. Knows no links.

use super::place::{At, Listed};
use super::words::{ENTERING, LEAVING, TABLE, back, enters, leaves, stays};
use crate::netlink::Failure;
use crate::nft::message::{Batch, Family, each, find};
use crate::nft::rule::{Expressions, expressions, handle, text};
use crate::nft::socket::Socket;

/// What a bridge's pods may be reached from: the word of the configuration and of the rules' comments.
pub(super) const SAME_BRIDGE: &str = "same-bridge";
pub(super) const ISOLATED: &str = "isolated";

/// What is there of a bridge in one family, and what is to be there.
#[derive(Debug)]
pub(super) struct Isolation<'a> {
    family: Family,
    bridge: &'a str,
    is_strict: bool,
    leaving: Vec<Listed>,
    entering: Vec<Listed>,
}

impl<'a> Isolation<'a> {
    /// `is_strict`: nothing stays on the bridge either.
    pub(super) fn look(socket: &mut Socket, family: Family, bridge: &'a str, is_strict: bool) -> Result<Self, Failure> {
        let mut listed = |chain| socket.picked(family, [TABLE, chain], Listed::parse, |rule| rule.handle);
        Ok(Self { family, bridge, is_strict, leaving: listed(LEAVING)?, entering: listed(ENTERING)? })
    }

    /// In the order in which they stand in [`LEAVING`].
    fn wanted(&self) -> Vec<Expressions> {
        if self.is_strict {
            vec![stays(self.bridge, ISOLATED), leaves(self.bridge, ISOLATED)]
        } else {
            vec![leaves(self.bridge, SAME_BRIDGE)]
        }
    }

    /// Adds what is missing, and removes what another policy left.
    pub(super) fn fill(&self, batch: &mut Batch) {
        let wanted = self.wanted();
        for chain in [LEAVING, ENTERING] {
            batch.chain(self.family, TABLE, chain, |_| {});
        }
        for rule in of_bridge(&self.leaving, self.bridge) {
            if !wanted.iter().any(|wanted| rule.is(wanted)) {
                batch.delete_rule(self.family, [TABLE, LEAVING], rule.handle);
            }
        }
        for wanted in wanted.iter().rev().filter(|wanted| !self.leaving.iter().any(|rule| rule.is(wanted))) {
            batch.put(self.family, LEAVING, At::First, wanted, None);
        }
        if !self.entering.iter().any(|rule| rule.is(&enters(self.bridge))) {
            batch.put(self.family, ENTERING, At::First, &enters(self.bridge), None);
        }
        for (chain, listed) in [(LEAVING, &self.leaving), (ENTERING, &self.entering)] {
            if !listed.iter().any(|rule| rule.is(&back())) {
                batch.put(self.family, chain, At::Last, &back(), None);
            }
        }
    }

    /// Whether the bridge is isolated, by either policy: the last pod that was attached decides which.
    pub(super) fn is_there(&self) -> bool {
        let leaves = [leaves(self.bridge, SAME_BRIDGE), leaves(self.bridge, ISOLATED)];
        self.leaving.iter().any(|rule| leaves.iter().any(|wanted| rule.is(wanted)))
            && self.entering.iter().any(|rule| rule.is(&enters(self.bridge)))
    }
}

/// The rules of a bridge, whichever policy wrote them.
fn of_bridge<'a>(leaving: &'a [Listed], bridge: &str) -> impl Iterator<Item = &'a Listed> {
    let all = [leaves(bridge, SAME_BRIDGE), leaves(bridge, ISOLATED), stays(bridge, ISOLATED)];
    leaving.iter().filter(move |rule| all.iter().any(|wanted| rule.is(wanted)))
}

/// The bridges that are isolated in a family.
pub(super) fn bridges(socket: &mut Socket, family: Family) -> Result<Vec<String>, Failure> {
    let named = |rule: &[u8]| Some((handle(rule)?, first_value(rule)?));
    let listed = socket.picked(family, [TABLE, LEAVING], named, |(handle, _)| *handle)?;
    let mut bridges: Vec<String> = listed.into_iter().map(|(_, name)| name).collect();
    bridges.sort();
    bridges.dedup();
    Ok(bridges)
}

/// The name that a rule compares with first.
fn first_value(rule: &[u8]) -> Option<String> {
    each(expressions(rule)).find_map(|(_, element)| {
        let is_compare = find(element, 1).is_some_and(|name| text(name) == "cmp");
        find(find(find(element, 2).filter(|_| is_compare)?, 3)?, 1).map(text)
    })
}

/// Removes the rules of bridges. The chains stay, as the reference plugin leaves them.
pub(super) fn remove(
    socket: &mut Socket,
    batch: &mut Batch,
    family: Family,
    bridges: &[String],
) -> Result<(), Failure> {
    if bridges.is_empty() {
        return Ok(());
    }
    let mut listed = |chain| socket.picked(family, [TABLE, chain], Listed::parse, |rule| rule.handle);
    let (leaving, entering) = (listed(LEAVING)?, listed(ENTERING)?);
    for bridge in bridges {
        for rule in of_bridge(&leaving, bridge) {
            batch.delete_rule(family, [TABLE, LEAVING], rule.handle);
        }
        for rule in entering.iter().filter(|rule| rule.is(&enters(bridge))) {
            batch.delete_rule(family, [TABLE, ENTERING], rule.handle);
        }
    }
    Ok(())
}
