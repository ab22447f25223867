//! Leases that are released while the kernel still removes other links: those of attachments that are links with leases and
//! nothing else.

use std::collections::BTreeSet;

use backends::chained::Chained;

use super::{Departure, rules_of};
use crate::cni::error::CniError;
use crate::journal::Step;

/// What is released while the kernel removes other links.
pub(super) struct Early<'d, 'a> {
    departure: &'d Departure<'a>,
    /// Attachments of which nothing is left to do.
    pub(super) released: BTreeSet<usize>,
    /// What could not be released.
    pub(super) failures: Vec<CniError>,
}

impl<'d, 'a> Early<'d, 'a> {
    /// Nothing yet.
    pub(super) fn new(departure: &'d Departure<'a>) -> Self {
        Self { departure, released: BTreeSet::new(), failures: Vec::new() }
    }

    /// A link of this name is gone: so is what its attachment leased, where it was nothing but a link with leases.
    pub(super) fn release(&mut self, name: &str) {
        let departure = self.departure;
        for (index, attachment) in departure.attachments.iter().enumerate() {
            let has_rules = |step: &Step| Chained::of(&step.plugin).is_some() || !rules_of(step).is_empty();
            let is_plain = |step: &Step| step.native && step.ipam_delegate.is_none() && !has_rules(step);
            if attachment.ifname == name && attachment.steps.iter().all(is_plain) && self.released.insert(index) {
                let steps = attachment.steps.iter().rev();
                self.failures.extend(steps.filter_map(|step| departure.release(attachment, step, None).err()));
            }
        }
    }
}
