//! host-device: a device of the host that moves into the pod, and back. It is never created and never deleted. What a device is
//! bound to for user space (DPDK) stays where it is. Knows no address.

mod conf;
mod find;
mod moves;
mod name;

use serde::{Deserialize, Serialize};

pub(crate) use conf::serves_user_space;
pub use conf::{Conf, RuntimeConfig, Spec};
pub(crate) use moves::into_pod;
pub(crate) use name::{free as free_name, is_neutral, is_of_card, is_possible, strip};

use crate::check::{self, Expected};
use crate::error::{Error, ErrorKind};
use crate::layer3::{self, Detection, Layer3, Manners};
use crate::mac::Mac;
use crate::netlink::link::{self, Link};
use crate::pod::{Host, Pod};
use crate::sysfs::PciAddress;
use crate::{Built, Interface, Made, Target};

/// What is known of a device before it moves: enough to find it again wherever it went, and to make it what it was. For the
/// record of whoever moves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Its name on the host.
    pub name: String,
    /// Its alias there. In the pod the alias says what it is called on the host: with the name alone, as the reference plugin has it, or
    /// with plexus' mark before it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Nobody noted its alias: the one that it has in the pod stays, where that is not plexus'.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_alias: bool,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The hardware address it was made with, where it has one: nobody can change that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permanent: Option<Mac>,
    /// The kernel's kind. Empty: a physical device, which the kernel gives back when the pod's namespace dies; it deletes others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its address on its bus, of one that is the only interface there: then it is known by this alone, where the kernel tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<PciAddress>,
    /// Its alternative names, where they were noted: others that it has in the pod do not come to the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alt_names: Option<Vec<String>>,
}

impl Device {
    fn of(link: &Link, name: &str) -> Self {
        // A device that a lost pod left under another name has an alias that is ours, not its owner's; one that has its own may be called
        // the same by its owner.
        let is_ours = (link.alias == name && link.name != name) || marked(&link.alias).is_some();
        let alias = if is_ours { String::new() } else { link.alias.clone() };
        let (mac, permanent, kind) = (link.mac, link.permanent, link.kind.clone());
        let alt_names = Some(link.alt_names.clone());
        Self { name: name.to_owned(), alias, keeps_alias: false, mac, permanent, kind, bus: None, alt_names }
    }

    /// A device that is the only interface at its address. The hardware address it was made with may change with its own.
    pub(crate) fn on_bus(link: &Link, address: &PciAddress) -> Self {
        Self { permanent: None, bus: Some(address.clone()), alt_names: None, ..Self::of(link, &link.name) }
    }

    /// Whether it comes to the host with an alternative name.
    fn keeps(&self, alt_name: &str) -> bool {
        self.alt_names.as_ref().is_none_or(|noted| noted.iter().any(|noted| noted == alt_name))
    }

    /// The alias on the host of this device, which is in a pod.
    fn alias_of<'a>(&'a self, link: &'a Link) -> &'a str {
        if self.keeps_alias && marked(&link.alias).is_none() { &link.alias } else { &self.alias }
    }

    /// Whether a link is this device, whatever it is called by now.
    pub(crate) fn is(&self, link: &Link) -> bool {
        if let Some(bus) = &self.bus
            && !link.bus_device.is_empty()
        {
            return link.bus_device == bus.as_str();
        }
        let same = match self.permanent {
            Some(permanent) => link.permanent == Some(permanent),
            None => {
                link.alias == self.name
                    || link.alias == mark(&self.name)
                    || (self.mac.is_some() && link.mac == self.mac)
            }
        };
        same && link.kind == self.kind
    }
}

/// Before the name on the host, in the alias of a device that plexus alone gives back.
const MARK: &str = "plexus:device:";

/// The alias in the pod of a device with this name on the host.
pub(crate) fn mark(name: &str) -> String {
    format!("{MARK}{name}")
}

/// The name on the host by such an alias; none where it is somebody else's.
pub(crate) fn marked(alias: &str) -> Option<&str> {
    alias.strip_prefix(MARK)
}

/// A spec with the device it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// `None`: it is bound to a driver of user space.
    found: Option<Found>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    device: Device,
    link: Link,
}

impl Spec {
    pub(crate) fn resolve(self, host: &mut Host) -> Result<Resolved, Error> {
        let Some(choice) = self.settle()? else { return Ok(Resolved { found: None }) };
        let (link, name) =
            choice.find(host).map_err(|e| Error::new(e.kind(), "failed to find host device").because(e))?;
        let device = Device::of(&link, &name);
        Ok(Resolved { found: Some(Found { device, link }) })
    }
}

impl Resolved {
    /// What a record must say before the device moves. `None`: nothing moves.
    #[must_use]
    pub fn device(&self) -> Option<&Device> {
        self.found.as_ref().map(|found| &found.device)
    }

    pub(crate) fn build(
        &self,
        host: &mut Host,
        pod: &mut Pod,
        target: &Target<'_>,
        l3: Layer3,
    ) -> Result<Built, Error> {
        let entries = l3.entries()?;
        let built = |interface, made, layer3| Built {
            interfaces: vec![interface],
            address_interface: Some(0),
            made,
            host_ifindex: None,
            layer3,
            told: Vec::new(),
        };
        let Some(Found { device, link }) = &self.found else {
            let interface = Interface { name: target.ifname.to_owned(), in_pod: true, ..Interface::default() };
            return Ok(built(interface, None, l3));
        };
        // It never joins a device group: a group is deleted as a whole.
        // The reference plugin finds its name by the alias.
        let moved = into_pod(host, pod, link, device, (target.ifname, &device.name))?;
        let manners = Manners {
            detection: Detection::Optimistic,
            announce_v4: !l3.is_empty(),
            announce_v6: !l3.is_empty(),
            connected_routes: true,
            late_carrier: false,
            by_driver: link.kind.is_empty(),
        };
        if let Err(error) = layer3::configure(&mut pod.side, &moved, manners, &l3.addresses, &entries) {
            return Err(error.after_undo(self.undo(host, pod, target.ifname)));
        }
        Ok(built(Interface::in_pod(&moved), Some(Made::of(&moved, true)), l3))
    }

    /// Brings the device back as it was before [`crate::build`]: under its name, and up if it was. Nothing moved, nothing done.
    ///
    /// # Errors
    /// Those of [`give_back`].
    pub fn undo(&self, host: &mut Host, pod: &mut Pod, ifname: &str) -> Result<(), Error> {
        let Some(Found { device, link }) = &self.found else { return Ok(()) };
        give_back(host, Some(pod), ifname, device, false)?;
        match host.side.link(&device.name)?.filter(|_| link.up) {
            Some(back) => host
                .side
                .apply(link::set_up(back.index, true))
                .map_err(|e| Error::kernel("set up", device.name.clone(), e)),
            None => Ok(()),
        }
    }
}

/// Brings a device of the pod back to the host, down, under the name and alias it had there, and with no alternative name that it did not
/// have. One that is back already is no error, nor one that is nowhere.
///
/// `pod` is `None` where its namespace is gone: a physical device is then on the host, under the name it had in the pod.
/// `await_return`: the kernel may still be giving it back.
///
/// # Errors
/// [`ErrorKind::NameTaken`] if the host has another link of its name: the device stays as it is in the pod. Those of the kernel.
pub fn give_back(
    host: &mut Host,
    pod: Option<&mut Pod>,
    ifname: &str,
    device: &Device,
    await_return: bool,
) -> Result<(), Error> {
    let lost = pod.is_none();
    if let Some(pod) = pod
        && let Some(link) = find::in_pod(pod, ifname, device)?
    {
        strip(&mut pod.side, &link, |name| device.keeps(name))?;
        return moves::out_of_pod(host, pod, &link, device);
    }
    let physical = device.kind.is_empty();
    match find::returned(host, device, lost && physical && await_return)? {
        Some(link) => moves::put_right(host, &link, device),
        None => Ok(()),
    }
}

/// The same without a record, of a device that another plugin moved: the alias in the pod is its name (the reference plugin writes it). Whoever is in
/// the pod may have written another one: what is no name, or is that of another record's device (`is_anothers`), it does not get, but one
/// as the kernel makes it; and who opened `host` is told. Of its alternative names it keeps those that could be its own.
///
/// # Errors
/// Those of [`give_back`]. [`ErrorKind::Invalid`] without an alias.
pub fn give_back_unrecorded(
    host: &mut Host,
    pod: &mut Pod,
    ifname: &str,
    is_anothers: &dyn Fn(&str) -> bool,
) -> Result<(), Error> {
    let Some(link) = pod.side.link(ifname)? else { return Ok(()) };
    let mut device = find::unrecorded(&link)?;
    if !name::is_plain(&device.name) || is_anothers(&device.name) {
        device.name = refused(host, &link, &device.name)?;
    }
    let mut kept = Vec::new();
    for name in &link.alt_names {
        let can_be_own = name::is_plain_alternative(name) && *name != device.name && !is_anothers(name);
        if can_be_own && host.side.link(name)?.is_none() {
            kept.push(name);
        }
    }
    strip(&mut pod.side, &link, |name| kept.iter().any(|kept| *kept == name))?;
    moves::out_of_pod(host, pod, &link, &device)
}

/// The name that a device gets in place of one that its pod says, and that is not believed.
pub(crate) fn refused(host: &mut Host, link: &Link, said: &str) -> Result<String, Error> {
    let name = free_name(&mut host.side, link.index)?;
    let of = if link.bus_device.is_empty() { &link.name } else { &link.bus_device };
    host.tell(&format!(
        "{of} comes back to the host as {name}: its pod says that it was {said:?} there, which is not believed"
    ));
    Ok(name)
}

/// CHECK of one device.
pub(crate) fn check(pod: &mut Pod, spec: &Spec, ifname: &str, expected: &Expected) -> Result<(), Error> {
    if spec.clone().settle()?.is_none() {
        return Ok(());
    }
    let link = check::pod_interface_of_any_kind(pod, ifname, expected)?;
    check::layer3(pod, &link, expected)
}

/// The error where `device` cannot have its name on the host.
fn name_taken(device: &Device) -> Error {
    Error::new(ErrorKind::NameTaken, format!("failed to move \"{}\" to hostNS", device.name)).because_of("file exists")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link with an alias and a hardware address, of which the second byte from the end tells it from others.
    fn link(alias: &str, mac: u8) -> Link {
        Link {
            name: "net1".to_owned(),
            alias: alias.to_owned(),
            mac: Some(Mac::new([2, 0, 0, 0, mac, 1])),
            ..Link::default()
        }
    }

    #[test]
    fn a_device_is_known_by_its_mark_where_its_hardware_address_is_another_one() {
        let device = Device::of(&Link { name: "eth1".to_owned(), ..link("", 7) }, "eth1");
        for (alias, mac, is) in [
            ("plexus:device:eth1", 8, true),
            ("eth1", 8, true),
            ("plexus:device:eth10", 8, false),
            ("plexus:device:", 8, false),
            ("", 8, false),
            ("plexus:device:eth2", 7, true),
        ] {
            assert_eq!(device.is(&link(alias, mac)), is, "{alias} {mac}");
        }
        let marked = Link { kind: "veth".to_owned(), ..link("plexus:device:eth1", 7) };
        assert!(!device.is(&marked), "of another kind");
        let permanent = Some(Mac::new([2, 0, 0, 0, 9, 9]));
        let made = Device { permanent, ..device };
        assert!(
            !made.is(&link("plexus:device:eth1", 7)),
            "what it was made with nobody can change, and an alias anybody"
        );
        assert!(made.is(&Link { permanent, ..link("", 8) }));
    }

    #[test]
    fn a_mark_is_no_alias_of_the_owners() {
        assert_eq!((marked(&mark("eth1")), marked("eth1")), (Some("eth1"), None));
        assert_eq!(Device::of(&link("plexus:device:eth1", 7), "net1").alias, "");
        assert_eq!(Device::of(&link("uplink", 7), "net1").alias, "uplink");
    }
}
