//! The interface leaves its VRF, and gets back what it had before. Knows no configuration but the VRF's name.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::chained::lock::Turn;
use crate::chained::moved::{Moved, come_back, list_routes};
use crate::error::Error;
use crate::netlink::link::{self, Link};
use crate::netlink::whole::Address;
use crate::pod::{Pod, Side};

/// How it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// The interface.
    pub(super) ifindex: u32,
    /// There was no VRF.
    pub(super) made: bool,
    /// Its IPv6 addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) addresses: Vec<Address>,
    /// Its routes in all tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) routes: Vec<Moved>,
}

/// What is known of an attachment that leaves its VRF.
#[derive(Debug, Clone, Copy)]
pub struct Attached<'a> {
    /// The interface.
    pub ifname: &'a str,
    /// The VRF.
    pub vrf: &'a str,
    /// What [`super::look`] wrote down.
    pub original: Option<&'a Original>,
    /// The interface lives on: its addresses and routes come back.
    pub link_stays: bool,
}

/// The interface leaves the VRF, and the VRF goes with its last port, also where the reference plugin made it, and where half of
/// it or the interface is gone. `None`: the namespace is gone, and everything with it.
///
/// # Errors
/// [`crate::ErrorKind::Timeout`] if another plugin is at work in the pod for too long; those of the kernel.
pub fn remove(pod: Option<&mut Pod>, attached: &Attached<'_>) -> Result<(), Error> {
    let Some(pod) = pod else { return Ok(()) };
    let _turn = Turn::take(pod.netns())?;
    let side = &mut pod.side;
    let vrf = vrf_of(side, attached.vrf)?;
    let link = match attached.original {
        Some(original) => side.link_at(original.ifindex)?,
        None => side.link(attached.ifname)?,
    };
    let released = release(side, link.as_ref(), vrf.as_ref())?;
    if let (Some(_), Some(original), true) = (&link, attached.original, attached.link_stays) {
        restore(side, original, released)?;
    }
    // Only after leaving: of two that leave at once, the second one sees no port.
    vrf.map_or(Ok(()), |vrf| delete_if_empty(side, &vrf))
}

/// Undoes what failed: a VRF that was there stays.
pub(super) fn put_back(side: &mut Side, name: &str, original: &Original) -> Result<(), Error> {
    let vrf = vrf_of(side, name)?;
    let link = side.link_at(original.ifindex)?;
    let released = release(side, link.as_ref(), vrf.as_ref())?;
    if link.is_some() {
        restore(side, original, released)?;
    }
    vrf.filter(|_| original.made).map_or(Ok(()), |vrf| delete_if_empty(side, &vrf))
}

/// The VRF of this name. Another link of this name is nothing that was made here.
fn vrf_of(side: &mut Side, name: &str) -> Result<Option<Link>, Error> {
    Ok(side.link(name)?.filter(|link| link.kind == "vrf"))
}

/// The interface leaves the VRF; whether it was a port of it.
fn release(side: &mut Side, link: Option<&Link>, vrf: Option<&Link>) -> Result<bool, Error> {
    let (Some(link), Some(vrf)) = (link, vrf) else { return Ok(false) };
    if link.controller != Some(vrf.index) {
        return Ok(false);
    }
    match side.apply(link::set_controller(link.index, 0)) {
        Err(failure) if failure.errno() != Some(Errno::ENODEV) => {
            Err(Error::kernel("resetMaster: could reset master to", link.name.clone(), failure))
        }
        _ => Ok(true),
    }
}

/// What was there comes back where it is missing. A link that just left went down and up: its addresses are examined again, so
/// they are replaced.
fn restore(side: &mut Side, original: &Original, released: bool) -> Result<(), Error> {
    const AS_WANTED: [Errno; 4] = [Errno::EADDRNOTAVAIL, Errno::EEXIST, Errno::ENODEV, Errno::ENETDOWN];
    let act = "restore addresses and routes of";
    let place = || format!("interface number {}", original.ifindex);
    let mut requests = Vec::new();
    for address in &original.addresses {
        requests.extend(released.then(|| address.delete()));
        requests.push(address.add());
    }
    requests.extend(come_back(&original.routes, &list_routes(side)?, original.ifindex));
    let refusals = side.socket.batch(requests).map_err(|e| Error::kernel(act, place(), e))?;
    match refusals.into_iter().find(|(_, why)| !AS_WANTED.contains(&why.errno)) {
        Some((_, refusal)) => Err(Error::refused(act, place(), refusal)),
        None => Ok(()),
    }
}

fn delete_if_empty(side: &mut Side, vrf: &Link) -> Result<(), Error> {
    if side.links()?.iter().any(|link| link.controller == Some(vrf.index)) {
        return Ok(());
    }
    side.delete(vrf.index, &vrf.name)
}
