//! The moves of a device between host and pod, each undone if it fails half way. Knows no configuration.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::{Device, name_taken, strip};
use crate::error::{Error, ErrorKind};
use crate::netlink::link::{self, Link};
use crate::netlink::{Failure, Request};
use crate::pod::{Host, Pod, Side};

/// Moves a device into the pod in one message: under its new name, and with an alias that says what it was called. The host never sees the
/// new name.
pub(crate) fn into_pod(
    host: &mut Host,
    pod: &mut Pod,
    link: &Link,
    device: &Device,
    (ifname, alias): (&str, &str),
) -> Result<Link, Error> {
    let refused = |failure: Failure| {
        let name = &device.name;
        if failure.errno() == Some(Errno::EEXIST) {
            let text = format!("failed to move link failed to move \"{ifname}\" (host: \"{name}\") to container NS");
            return Error::new(ErrorKind::NameTaken, text).because(failure);
        }
        Error::new(ErrorKind::Refused, format!("failed to move link failed to move \"{name}\" to tempNS"))
            .because(failure)
    };
    if pod.side.link(ifname)?.is_some() {
        let taken = crate::netlink::Refusal { errno: Errno::EEXIST, text: None };
        return Err(refused(taken.into()));
    }
    let request = link::relocate(link.index, pod.netns().as_fd(), ifname, alias);
    let refusal = host.side.apply(request).err().map(refused);
    let moved = match refusal {
        None => {
            pod.side.link(ifname)?.ok_or_else(|| Error::at(ErrorKind::LinkMissing, "find the moved device", ifname))
        }
        Some(refusal) => Err(refusal),
    };
    moved.map_err(|error| {
        let undo = half_way_back(host, pod, link, device);
        error.after_undo(undo)
    })
}

/// Undoes a move into the pod that the kernel began and did not end. The device may not have moved at all.
fn half_way_back(host: &mut Host, pod: &mut Pod, link: &Link, device: &Device) -> Result<(), Error> {
    if host.side.link_at(link.index)?.is_some_and(|still| still.name == link.name) {
        return Ok(());
    }
    let Some(stray) = pod.side.link(&link.name)?.filter(|stray| device.is(stray)) else { return Ok(()) };
    out_of_pod(host, pod, &stray, device)?;
    match host.side.link(&device.name)?.filter(|_| link.up) {
        Some(back) => set_up(&mut host.side, &back),
        None => Ok(()),
    }
}

/// Moves a device back to the host, where it stays down as with the reference plugin: nobody knows what it is for there.
///
/// In the pod it gets its old name first, where that is free: whoever watches the host's devices then sees no other name.
pub(super) fn out_of_pod(host: &mut Host, pod: &mut Pod, link: &Link, device: &Device) -> Result<(), Error> {
    if host.side.link(&device.name)?.is_some() {
        return Err(name_taken(device));
    }
    let renames = link.name != device.name && pod.side.link(&device.name)?.is_none();
    if renames {
        let requests = vec![link::set_up(link.index, false), link::rename(link.index, &device.name)];
        let act = || format!("failed to rename device \"{}\" to \"{}\"", link.name, device.name);
        apply(&mut pod.side, requests).map_err(|e| {
            let error = Error::new(ErrorKind::Refused, act()).because(e);
            error.after_undo(restore(&mut pod.side, link))
        })?;
    }
    let request = link::relocate(link.index, host.netns().as_fd(), &device.name, device.alias_of(link));
    pod.side.apply(request).map_err(|failure| {
        let taken = failure.errno() == Some(Errno::EEXIST);
        let kind = if taken { ErrorKind::NameTaken } else { ErrorKind::Refused };
        let error = Error::new(kind, format!("failed to move \"{}\" to hostNS", device.name)).because(failure);
        error.after_undo(back_into_pod(host, pod, link, device))
    })
}

/// Undoes a move out of the pod that the kernel began and did not end.
fn back_into_pod(host: &mut Host, pod: &mut Pod, link: &Link, device: &Device) -> Result<(), Error> {
    if pod.side.link_at(link.index)?.is_none() {
        let stray = host.side.link(&link.name)?.filter(|stray| device.is(stray));
        let Some(stray) = stray else { return Ok(()) };
        let request = link::relocate(stray.index, pod.netns().as_fd(), &link.name, &link.alias);
        host.side.apply(request).map_err(|e| Error::kernel("move back into the pod", link.name.clone(), e))?;
        return match pod.side.link(&link.name)?.filter(|_| link.up) {
            Some(back) => set_up(&mut pod.side, &back),
            None => Ok(()),
        };
    }
    restore(&mut pod.side, link)
}

/// Gives a link of the pod its name and state back.
fn restore(side: &mut Side, link: &Link) -> Result<(), Error> {
    let mut requests = vec![link::rename(link.index, &link.name)];
    requests.extend(link.up.then(|| link::set_up(link.index, true)));
    apply(side, requests).map_err(|e| Error::kernel("restore", link.name.clone(), e))
}

/// A device that is on the host gets the name and the alias it had: the kernel moved it there under its name in the pod.
pub(super) fn put_right(host: &mut Host, link: &Link, device: &Device) -> Result<(), Error> {
    strip(&mut host.side, link, |name| device.keeps(name))?;
    let mut requests = Vec::new();
    if link.name != device.name {
        if host.side.link(&device.name)?.is_some() {
            return Err(name_taken(device));
        }
        requests.push(link::set_up(link.index, false));
        requests.push(link::rename(link.index, &device.name));
    }
    if link.alias == device.name && link.alias != device.alias {
        requests.push(link::set_alias(link.index, &device.alias));
    }
    apply(&mut host.side, requests).map_err(|e| Error::kernel("give back", device.name.clone(), e))
}

fn set_up(side: &mut Side, link: &Link) -> Result<(), Error> {
    side.apply(link::set_up(link.index, true)).map_err(|e| Error::kernel("set up", link.name.clone(), e))
}

/// Sends all, and gives the first refusal.
fn apply(side: &mut Side, requests: Vec<Request>) -> Result<(), Failure> {
    match side.socket.batch(requests)?.into_iter().next() {
        Some((_, refusal)) => Err(refusal.into()),
        None => Ok(()),
    }
}
