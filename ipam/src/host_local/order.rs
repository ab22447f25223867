//! One owner's ADD against the locked pool: an address of every set, or of none. Knows the Go plugin's refusals.

use super::leases::{Contents, Leases};
use crate::number::{Number, address};
use crate::range::{Range, RangeSet};
use crate::{Address, Error, ErrorKind, Owner};

/// Who wants addresses, and of which network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order<'a> {
    pub(super) network: &'a str,
    pub(super) owner: &'a Owner<'a>,
    pub(super) contents: &'a Contents,
}

impl Order<'_> {
    /// Takes one address of every set, the requested one where there is one. After a failure everything taken here is
    /// given back, and nothing that the owner held before.
    pub(super) fn serve(
        &self,
        leases: &mut Leases,
        sets: &[RangeSet],
        requests: &[Option<Number>],
    ) -> Result<Vec<Address>, Error> {
        let held = leases.held_in_any_form(self.contents)?;
        let mut taken = Vec::new();
        let mut addresses = Vec::new();
        for (index, (set, request)) in sets.iter().zip(requests).enumerate() {
            match self.serve_set(leases, (index, set), *request, &held, &mut taken) {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    let undo = taken.iter().rev().map(|at| leases.give_back(*at, self.contents));
                    // Every one is tried, the first failure reported.
                    let undone = undo.fold(None, |first, undone| first.or(undone.err()));
                    return Err(error.within(&format!("failed to allocate for range {index}")).and_undo(undone));
                }
            }
        }
        Ok(addresses)
    }

    fn serve_set(
        &self,
        leases: &mut Leases,
        (index, set): (usize, &RangeSet),
        request: Option<Number>,
        held: &[Number],
        taken: &mut Vec<Number>,
    ) -> Result<Address, Error> {
        let hint = leases.hint(index);
        let (range, at) = match request {
            Some(at) => (self.take_requested(leases, set, at, held)?, at),
            None => {
                self.refuse_duplicate(set, held)?;
                self.take_next(leases, set, hint.at)?
            }
        };
        taken.push(at);
        leases.set_hint(index, hint, at)?;
        Ok(range.lease(at))
    }

    fn take_requested<'s>(
        &self,
        leases: &mut Leases,
        set: &'s RangeSet,
        at: Number,
        held: &[Number],
    ) -> Result<&'s Range, Error> {
        let ip = address(at);
        let refuse = |text| Err(self.refused(ErrorKind::Unavailable(ip), text));
        let unavailable = format!("requested IP address {ip} is not available in range set {set}");
        let Some(range) = set.range_of(at) else { return refuse(unavailable) };
        if at == range.gateway() {
            return refuse(format!("requested ip {ip} is subnet's gateway"));
        }
        // Asking again for what the owner has is refused in the same words as asking for what another has.
        if !held.contains(&at) {
            self.refuse_duplicate(set, held)?;
            if leases.take(at, self.contents)? {
                return Ok(range);
            }
        }
        refuse(unavailable)
    }

    fn take_next<'s>(
        &self,
        leases: &mut Leases,
        set: &'s RangeSet,
        last_reserved: Option<Number>,
    ) -> Result<(&'s Range, Number), Error> {
        let at = leases.take_first(&set.order(last_reserved), self.contents)?;
        at.and_then(|at| Some((set.range_of(at)?, at)))
            .ok_or_else(|| self.refused(ErrorKind::Exhausted, format!("no IP addresses available in range set: {set}")))
    }

    /// An owner holds one address of a set at most, in either form of a lease.
    fn refuse_duplicate(&self, set: &RangeSet, held: &[Number]) -> Result<(), Error> {
        match held.iter().find(|at| set.range_of(**at).is_some()) {
            Some(at) => {
                let (ip, owner) = (address(*at), self.owner.sandbox);
                let text = format!("{ip} has been allocated to {owner}, duplicate allocation is not allowed");
                Err(self.refused(ErrorKind::Duplicate, text))
            }
            None => Ok(()),
        }
    }

    fn refused(&self, kind: ErrorKind, text: String) -> Error {
        Error::refused(kind, "allocating from", self.network, text)
    }
}
