//! Where a moved device is: in the pod, back on the host, or on its way there. Changes nothing.

use std::time::{Duration, Instant};

use super::Device;
use crate::error::{Error, ErrorKind};
use crate::netlink::Socket;
use crate::netlink::link::{GROUP_LINK, Link};
use crate::netlink::socket::Heard;
use crate::pod::{Host, Pod};

/// How long the kernel may take to give a physical device back after the pod's namespace is gone: it takes namespaces apart one
/// after another, behind others' if many go at once.
const RETURN_TIMEOUT_MS: u64 = 2_000;

/// The device in the pod.
pub(super) fn in_pod(pod: &mut Pod, ifname: &str, device: &Device) -> Result<Option<Link>, Error> {
    let named = pod.side.link(ifname)?;
    // A move that failed half way leaves it in the pod under its name on the host; a removal, under that name and its alias.
    let link = match named.filter(|link| device.is(link)) {
        None => pod.side.link(&device.name)?.filter(|link| device.is(link)),
        found => found,
    };
    // Somebody in the pod gave it another name.
    match link {
        None => Ok(pod.side.links()?.into_iter().find(|link| device.is(link))),
        found => Ok(found),
    }
}

/// A device that another plugin moved: its alias is its name on the host.
pub(super) fn unrecorded(link: &Link) -> Result<Device, Error> {
    if link.alias.is_empty() {
        let text = format!("failed to find original ifname for \"{}\" (alias is not set)", link.name);
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    let mut device = Device::of(link, &link.alias);
    device.alias.clear();
    Ok(device)
}

/// The device on the host, under whatever name. `wait`: it may still have to come.
pub(super) fn returned(host: &mut Host, device: &Device, wait: bool) -> Result<Option<Link>, Error> {
    let failed = |e| Error::kernel("wait for the return of", device.name.clone(), e);
    let deadline = Instant::now() + Duration::from_millis(RETURN_TIMEOUT_MS);
    // Open before the first look: nothing is missed.
    let mut listener = Socket::open().map_err(failed)?;
    if wait {
        listener.join(GROUP_LINK).map_err(failed)?;
    }
    loop {
        if let Some(link) = look(host, device)? {
            return Ok(Some(link));
        }
        if !wait || listener.event(deadline, |_, _| {}).map_err(failed)? == Heard::Nothing {
            return Ok(None);
        }
    }
}

/// By its name, else by the alias it had in the pod, or by where it is on its bus.
fn look(host: &mut Host, device: &Device) -> Result<Option<Link>, Error> {
    if let Some(link) = host.side.link(&device.name)?.filter(|link| device.is(link)) {
        return Ok(Some(link));
    }
    Ok(host
        .side
        .links()?
        .into_iter()
        .find(|link| (link.alias == device.name || device.bus.is_some()) && device.is(link)))
}
