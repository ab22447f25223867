//! loopback: brings the pod's `lo` up, and down again. Knows no configuration: there is none.

use serde::Deserialize;

use crate::error::{Error, ErrorKind};
use crate::layer3::{Address, Layer3};
use crate::netlink::link::{self, Link};
use crate::pod::Pod;
use crate::{Built, Interface, Made};

/// The interface, whatever name is asked for.
pub(crate) const NAME: &str = "lo";

/// The configuration as it arrives: it has no keys of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct Conf {}

fn find(pod: &mut Pod) -> Result<Link, Error> {
    pod.side.link(NAME)?.ok_or_else(|| Error::at(ErrorKind::LinkMissing, "look up link", NAME))
}

pub(crate) fn build(pod: &mut Pod) -> Result<Built, Error> {
    let link = find(pod)?;
    if !link.up {
        pod.side.apply(link::set_up(link.index, true)).map_err(|e| Error::kernel("set up link", NAME, e))?;
    }
    match addresses(pod, &link) {
        Ok(addresses) => Ok(Built {
            interfaces: vec![Interface::in_pod(&link)],
            address_interface: Some(0),
            made: Some(Made::of(&link, true)),
            host_ifindex: None,
            told: Vec::new(),
            layer3: Layer3 { addresses, routes: Vec::new() },
        }),
        Err(error) if link.up => Err(error),
        Err(error) => Err(error.after_undo(set_down(pod, &link))),
    }
}

/// The first address of each family, which the kernel adds when the link comes up.
fn addresses(pod: &mut Pod, link: &Link) -> Result<Vec<Address>, Error> {
    let present = pod.side.addresses(link)?;
    if let Some(other) = present.iter().find(|present| !present.address.ip().is_loopback()) {
        let ip = other.address.ip();
        return Err(Error::invalid(format!("loopback interface found with non-loopback address \"{ip}\"")));
    }
    let first = |v6| present.iter().find(|present| present.address.is_ipv6() == v6);
    let address = |v6| first(v6).map(|present| Address { address: present.address, gateway: None });
    Ok([address(false), address(true)].into_iter().flatten().collect())
}

pub(crate) fn set_down(pod: &mut Pod, link: &Link) -> Result<(), Error> {
    pod.side.apply(link::set_up(link.index, false)).map_err(|e| Error::kernel("set down link", link.name.clone(), e))
}

/// CHECK of the loopback interface.
pub(crate) fn check(pod: &mut Pod) -> Result<(), Error> {
    if find(pod)?.up { Ok(()) } else { Err(Error::mismatch("loopback interface is down")) }
}
