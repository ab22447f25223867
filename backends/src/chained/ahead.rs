//! What of a chained plugin needs nothing of the link that it comes after, only the addresses that this will have: it may be done
//! while the link is made. Knows neither plan nor record.

use super::{Gain, Looked, Original, Previous, Spec, firewall, portmap};
use crate::error::Error;
use crate::nft::{Filter, Owner};
use crate::pod::Host;

impl Spec {
    /// What is about to be done, where addresses alone decide it. Changes nothing. `addresses`: a result with nothing else.
    #[must_use]
    pub fn look_ahead(&self, addresses: &Previous) -> Option<Looked<'_>> {
        match self {
            Self::Portmap(spec) if !spec.is_idle() => Some(Looked::Portmap(spec)),
            // A policy is about the bridge.
            Self::Firewall(spec) if !spec.isolates() => spec.resolve(addresses).ok().map(Looked::Firewall),
            _ => None,
        }
    }

    /// What is left of it once the link is there.
    ///
    /// # Errors
    /// Those of the kernel; what was done ahead stays.
    pub fn complete(&self, host: &mut Host, owner: &Owner<'_>, previous: &Previous) -> Result<(), Error> {
        match self {
            Self::Portmap(spec) => portmap::complete(host, spec, owner, previous),
            _ => Ok(()),
        }
    }
}

impl Looked<'_> {
    /// Does what [`Spec::look_ahead`] found.
    ///
    /// # Errors
    /// Those of the kernel; then nothing of it stays.
    pub fn carry_out_ahead(self, filter: &mut Filter, owner: &Owner<'_>, addresses: &Previous) -> Result<Gain, Error> {
        let mut gain = Gain::default();
        match self {
            Self::Portmap(spec) => portmap::add_ahead(filter, spec, owner, addresses)?,
            Self::Firewall(resolved) => {
                let handles = firewall::add(filter, owner, &resolved)?;
                gain.original = Some(Original::Firewall(resolved, Some(handles)));
            }
            Self::Tuning(..) | Self::Bandwidth(..) | Self::Sbr(_) | Self::Vrf(_) | Self::Passthru => {}
        }
        Ok(gain)
    }
}
