//! The device side in the daemon: a thread looks at the node's cards, and what it finds is offered to the kubelet. Both end with the
//! process, and the kubelet sees that.

use std::io;
use std::thread;

use crate::config::devices::Devices;
use crate::kube::{Offer, Plugins};
use crate::supply::{self, Clerk, Lookout};

/// Starts it.
///
/// # Errors
/// No thread.
pub(super) fn start(wanted: Devices) -> io::Result<()> {
    let clerk = Clerk::new(wanted.cdi_dir.clone());
    let resources = wanted.resources.iter().map(|resource| resource.full_name()).collect();
    let plugins = Plugins::start(Offer { resources, dir: wanted.plugin_dir.clone(), clerk: clerk.clone() })?;
    let lookout = Lookout::new(wanted, clerk);
    let named = thread::Builder::new().name("cards".to_owned());
    named.spawn(move || supply::run(lookout, supply::LOOK_EVERY, |stock| plugins.publish(stock))).map(drop)
}
