//! A virtual function for who names only cards: the first that nobody has is claimed, before anything of it is looked up. All functions of a
//! card are near the node of memory that the card is near: of several cards those near the pod's processors come first, where these are known.
//!
//! Two requests that want one at once both find it free, and one of them gets it: the other claims the next. The request is held
//! meanwhile, so that a claim leads to a record that somebody holds; after a kill -9 to one that says nothing, and is free.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use backends::NetNs;
use backends::sriov::Spec;
use backends::sysfs::{Sysfs, VirtualFunction};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::{Claims, free, refuse, unwritten};
use crate::cni::error::{CniError, Code};
use crate::devices::claim::{Error, Taken};
use crate::homecoming::peer;
use crate::journal::{Allotted, Held, Journal};
use crate::native;
use crate::plan::{How, Plan};

/// How many of those that hold a card's functions are named: a card may have 256, and the message is an event of its pod.
const HOLDERS_SHOWN: usize = 4;

/// Where functions are, and who may have them.
#[derive(Debug)]
pub struct Stock {
    /// The node's sysfs.
    pub sysfs: Sysfs,
    /// What sriov-cni keeps of its pods.
    pub peer_dir: PathBuf,
}

impl Default for Stock {
    fn default() -> Stock {
        Stock { sysfs: Sysfs::default(), peer_dir: PathBuf::from(peer::PLACE) }
    }
}

/// A request whose functions are claimed, and whose record does not say so yet.
#[derive(Debug)]
pub struct Chosen {
    /// Its record.
    pub held: Held,
    /// Its claims.
    pub claims: Claims,
}

impl Chosen {
    /// Holds the record of a plan; nothing is claimed yet.
    ///
    /// # Errors
    /// Another command of the same attachment is at work; the journal cannot be written.
    pub fn none(plan: &Plan, journal: &Journal) -> Result<Chosen, CniError> {
        let held = journal.hold(&plan.key, true).map_err(|e| unwritten(&e))?;
        let held = held.ok_or_else(|| CniError::generic("the journal did not make its record"))?;
        let claims = Claims::new(&plan.state_dir, held.name());
        Ok(Chosen { held, claims })
    }

    /// Nothing comes of the request, because of `failure`.
    pub fn give_back(self, mut failure: CniError) -> CniError {
        let empty = self.held.records().is_ok_and(|records| records.is_empty());
        let forgotten = if empty { self.held.forget().map_err(|e| unwritten(&e)).err() } else { None };
        for left in self.claims.give_back(&[]).err().into_iter().chain(forgotten) {
            failure.msg = format!("{}; {}", failure.msg, left.msg);
        }
        failure
    }
}

/// Of several cards, one near these processors is taken first.
pub fn prefer(plan: &mut Plan, processors: &BTreeSet<u32>) {
    for step in plan.attachments.iter_mut().flat_map(|attachment| &mut attachment.steps) {
        if let How::Native(native) = &mut step.how
            && let backends::Spec::Sriov(spec) = &mut native.spec
        {
            spec.prefer(processors);
        }
    }
}

/// Chooses a function for each attachment that names only cards; none where no attachment does.
///
/// # Errors
/// There is no such card; all of its functions are held, or none is fit: code 11, and who holds them.
pub fn choose(plan: &mut Plan, journal: &Journal, stock: &Stock) -> Result<Option<Chosen>, CniError> {
    if plan.attachments.iter().all(|attachment| attachment.choice().is_none()) {
        return Ok(None);
    }
    let mut chosen = Chosen::none(plan, journal)?;
    for attachment in &mut plan.attachments {
        let Some(spec) = attachment.choice() else { continue };
        match chosen.one((spec, &attachment.ifname), journal, &plan.state_dir, stock) {
            Ok(device) => attachment.choose(&device.id),
            Err(e) => return Err(chosen.give_back(super::named(attachment, e))),
        }
    }
    Ok(Some(chosen))
}

impl Chosen {
    fn one(
        &mut self,
        (spec, ifname): (&Spec, &str),
        journal: &Journal,
        state_dir: &Path,
        stock: &Stock,
    ) -> Result<Allotted, CniError> {
        let functions = spec.functions(&stock.sysfs).map_err(native::from_backend)?;
        let (mut taken, mut held) = (Vec::new(), Vec::new());
        for function in &functions {
            let device = Allotted { resource: String::new(), id: function.address.to_string() };
            match self.claims.ledger.holder(&device) {
                // What is wrong with one function is no reason to give out none of the others.
                Err(e) => held.push(odd(&device, &e)),
                Ok(Some(holder)) => taken.push((function, device, holder)),
                Ok(None) if !is_free(spec, stock, function) => {}
                Ok(None) if self.claim(ifname, &device)? => return Ok(device),
                Ok(None) => match self.claims.ledger.holder(&device) {
                    Err(e) => held.push(odd(&device, &e)),
                    Ok(holder) => taken.extend(holder.map(|holder| (function, device, holder))),
                },
            }
        }
        // Those whose holders have ended come last: it takes time to bring one back.
        for (function, device, holder) in taken {
            if holder == self.claims.record {
                held.push(format!("device {} is held by this attachment already", device.id));
                continue;
            }
            if let Err(e) = free(&self.claims.ledger, &device, &holder, journal, state_dir) {
                held.push(e.msg);
                continue;
            }
            // One that has gone meanwhile is nobody's, and others are there.
            let now = stock.sysfs.virtual_function(&function.address).ok();
            if now.is_some_and(|now| is_free(spec, stock, &now)) && self.claim(ifname, &device)? {
                return Ok(device);
            }
        }
        Err(none_free(&spec.cards().join(", "), functions.len(), &held))
    }

    fn claim(&mut self, ifname: &str, device: &Allotted) -> Result<bool, CniError> {
        let taken = self.claims.ledger.take(device, &self.claims.record).map_err(|e| refuse(&e))?;
        if taken == Taken::Now {
            self.claims.taken.push((ifname.to_owned(), device.clone()));
        }
        Ok(taken == Taken::Now)
    }
}

/// In the place of a function's claim is something that is none.
fn odd(device: &Allotted, error: &Error) -> String {
    format!("device {} is held by nobody knows whom: {}", device.id, native::chain(error))
}

/// Whether a function that no record claims is fit, and neither sriov-cni's nor the node's own.
fn is_free(spec: &Spec, stock: &Stock, function: &VirtualFunction) -> bool {
    let peers = peer::holder(&stock.peer_dir, function.address.as_str());
    let is_nobodys = peers.is_none_or(|netns| NetNs::open(&netns).is_err());
    is_nobodys && spec.fits(&stock.sysfs, function) && !stock.sysfs.is_below(function) && !has_address(function)
}

/// Whether the node itself can be reached by an interface of a function. What the kernel gives each that is up (fe80::) says nothing.
fn has_address(function: &VirtualFunction) -> bool {
    let is_given = |address: SockaddrStorage| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(_), _) => true,
        (_, Some(v6)) => !v6.ip().is_unicast_link_local(),
        _ => false,
    };
    let all = getifaddrs().into_iter().flatten();
    all.filter(|one| function.interfaces.contains(&one.interface_name)).filter_map(|one| one.address).any(is_given)
}

fn none_free(cards: &str, all: usize, held: &[String]) -> CniError {
    let unfit = match all - held.len().min(all) {
        0 => String::new(),
        unfit => format!(
            "; {unfit} are bound to another driver, in a network namespace that no record names, or used by the node itself"
        ),
    };
    let shown = held.iter().take(HOLDERS_SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = match held.len().saturating_sub(HOLDERS_SHOWN) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let by = if held.is_empty() { String::new() } else { format!(": {shown}{more}") };
    let msg = format!("no virtual function of {cards} is free: of {all}, {} are held{by}{unfit}", held.len());
    CniError::new(Code::TryAgainLater, msg)
}

#[cfg(test)]
mod tests;
