//! dummy: a link that leads nowhere, so that the pod has addresses of its own. Created in the pod in one message. Knows no host.

use serde::Deserialize;

use crate::check::{self, Expected};
use crate::error::Error;
use crate::layer3::{self, Detection, Layer3, Manners};
use crate::netlink::{NewLink, Shape};
use crate::pod::Pod;
use crate::{Built, Interface, Made, Target};

/// The configuration as it arrives: nothing of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct Conf {}

/// Nobody else is on the wire: nothing is examined, nothing announced.
const MANNERS: Manners = Manners {
    detection: Detection::Off,
    announce_v4: false,
    announce_v6: false,
    connected_routes: true,
    late_carrier: false,
    by_driver: false,
};

pub(crate) fn build(pod: &mut Pod, target: &Target<'_>, l3: Layer3) -> Result<Built, Error> {
    let entries = l3.entries()?;
    let link = pod.create_inside(&NewLink { group: target.group, ..NewLink::new(target.ifname, Shape::Dummy) })?;
    if let Err(error) = layer3::configure(&mut pod.side, &link, MANNERS, &l3.addresses, &entries) {
        return Err(error.after_undo(pod.side.delete(link.index, &link.name)));
    }
    Ok(Built {
        interfaces: vec![Interface::in_pod(&link)],
        address_interface: Some(0),
        made: Some(Made::of(&link, true)),
        host_ifindex: None,
        told: Vec::new(),
        layer3: l3,
    })
}

/// CHECK of one dummy. Unlike the reference plugin it looks for the routes too.
pub(crate) fn check(pod: &mut Pod, ifname: &str, expected: &Expected) -> Result<(), Error> {
    let link = check::pod_interface(pod, ifname, "dummy", expected)?;
    if !link.up {
        return Err(Error::mismatch(format!("Interface {ifname} is down")));
    }
    check::layer3(pod, &link, expected)
}
