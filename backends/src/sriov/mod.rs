//! sriov: a virtual function of a card. Its port on the card is set up for the pod, and its interface moves into the pod; one
//! that serves a program of user space (DPDK) has no interface, and only its port is set up. It is never created and never
//! deleted. Knows no address.

mod binding;
mod cards;
mod choice;
mod conf;
mod home;
mod making;
mod order;
mod port;
mod users;

use serde::{Deserialize, Serialize};

pub use crate::netlink::vf::Settings;
pub use cards::Cards;
pub use conf::{Args, CniArgs, Conf, RuntimeConfig, Spec};
pub use home::{give_back, unrecorded};
pub use making::{Making, make_functions};
pub use users::{Process, User, Users};

use crate::busy;
use crate::check::{self, Expected};
use crate::error::{Error, ErrorKind};
use crate::host_device::{self, Device};
use crate::layer3::{self, Detection, Layer3, Manners};
use crate::mac::Mac;
use crate::netlink::link::{self, Link};
use crate::netlink::tuning::Tuning;
use crate::netlink::{Failure, Refusal};
use crate::pod::{Host, Pod, Side};
use crate::sysfs::{PciAddress, Sysfs, VirtualFunction};
use crate::{Built, Interface, Made, Target};
use binding::VFIO;
use conf::Attribute;
pub use conf::Binding;
use order::{Act, Seen};
use port::{Patience, Port};

/// What is known of a function before anything of it is changed: enough to find it again wherever it went, and to make it what it
/// was. For the record of whoever changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Function {
    /// Its address on the PCI bus, which is what it is known by.
    pub address: PciAddress,
    /// The address of its physical function.
    pub pf: PciAddress,
    /// Which of that one's it is.
    pub index: u32,
    /// The driver it is bound to; none where it is to be bound for its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// What it is bound to for its pod, where that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebound: Option<Binding>,
    /// Its IOMMU group, by whose device file a program of user space has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// How its port was set up.
    pub settings: Settings,
    /// Its interface; none where a program of user space has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<OnHost>,
}

impl Function {
    /// What to go back to where an earlier attempt, which found `first`, has been at work on it: to what that one found. One of
    /// another card is as it is found.
    #[must_use]
    pub fn since(self, first: &Self) -> Self {
        if (&first.address, &first.pf, first.index) != (&self.address, &self.pf, self.index) {
            return self;
        }
        Self { rebound: first.rebound.or(self.rebound), ..first.clone() }
    }

    /// What is not as the pod was given it.
    fn difference(&self, now: &VirtualFunction) -> Option<String> {
        let driver = match self.rebound {
            Some(Binding::Vfio) => Some(VFIO),
            // Whichever makes the interface.
            Some(Binding::Interface) => None,
            None => self.driver.as_deref(),
        };
        if let Some(driver) = driver.filter(|driver| now.driver.as_deref() != Some(driver)) {
            let bound = now.driver.as_deref().unwrap_or("no driver");
            return Some(format!("{} is bound to {bound}, expected {driver}", now.address));
        }
        let group = self.group.filter(|group| now.iommu_group != Some(*group))?;
        let found = now.iommu_group.map_or_else(|| "none".to_owned(), |group| group.to_string());
        Some(format!("{} has IOMMU group {found}, expected {group}", now.address))
    }
}

/// A function's interface as it was on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OnHost {
    /// What it is found by, its name and its hardware address.
    pub device: Device,
    /// Its index, of which the kernel makes a name where it can have no other; 0 where nobody knows.
    pub ifindex: u32,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its alternative names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alt_names: Vec<String>,
}

impl OnHost {
    fn of(link: &Link, address: &PciAddress) -> Self {
        Self {
            device: Device::on_bus(link, address),
            ifindex: link.index,
            mtu: link.mtu,
            alt_names: link.alt_names.clone(),
        }
    }

    /// The interface, if it is on the host.
    fn find(&self, host: &mut Host) -> Result<Option<Link>, Error> {
        Ok(host.side.links()?.into_iter().find(|link| self.device.is(link)))
    }
}

/// A spec with the function it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    spec: Spec,
    function: Function,
    port: Port,
    link: Option<Link>,
}

impl Spec {
    pub(crate) fn resolve(self, host: &mut Host) -> Result<Resolved, Error> {
        let found = Sysfs::default().virtual_function(&self.address()?)?;
        let port = Port::find(host, &found)?;
        let is_its = |pf: &String| *pf == port.name || pf.eq_ignore_ascii_case(found.pf.as_str());
        if !self.pf.is_empty() && !self.pf.iter().any(is_its) {
            let named = self.pf.join(", ");
            let text = format!("{} is of {} ({}), not of pf {named}", found.address, port.name, found.pf);
            return Err(Error::invalid(text));
        }
        let settings = port.settings(host)?;
        let rebound = self.rebound(&Sysfs::default(), &found)?;
        let with_interface = found.driver.as_deref().filter(|driver| !host_device::serves_user_space(driver));
        let link = with_interface.map(|driver| interface_of(host, &found, driver)).transpose()?;
        let interface = link.as_ref().map(|link| OnHost::of(link, &found.address));
        let VirtualFunction { address, pf, index, driver, iommu_group: group, .. } = found;
        let function = Function { address, pf, index, driver, rebound, group, settings, interface };
        Ok(Resolved { spec: self, function, port, link })
    }

    /// What the function has to be bound to for its pod, where it is bound to something else.
    fn rebound(&self, sysfs: &Sysfs, found: &VirtualFunction) -> Result<Option<Binding>, Error> {
        let driver = found.driver.as_deref();
        let serves_user_space = driver.is_some_and(host_device::serves_user_space);
        let rebound = match self.binding {
            Some(Binding::Interface) if serves_user_space || driver.is_none() => Some(Binding::Interface),
            Some(Binding::Vfio) if driver != Some(VFIO) => Some(Binding::Vfio),
            _ => None,
        };
        let refused = |kind: ErrorKind, text: &str| Err(Error::new(kind, format!("{} {text}", found.address)));
        match (rebound, driver) {
            (None, None) => refused(
                ErrorKind::LinkMissing,
                "is bound to no driver; \"driver\", netdev or vfio-pci, has it bound to one",
            ),
            // Who has a function of another driver of user space nobody can know.
            (Some(_), Some(driver)) if serves_user_space && driver != VFIO => {
                refused(ErrorKind::Invalid, &format!("is bound to {driver}, and is not taken from it"))
            }
            (Some(Binding::Vfio), _) if !sysfs.has_driver(VFIO) => {
                refused(ErrorKind::Refused, "cannot be bound to vfio-pci, which is not loaded: modprobe vfio-pci")
            }
            (rebound, _) => Ok(rebound),
        }
    }
}

/// The interface of a function that has one.
fn interface_of(host: &mut Host, found: &VirtualFunction, driver: &str) -> Result<Link, Error> {
    let missing = || {
        let text = format!(
            "{} is bound to {driver} and has no interface here: it is in another network namespace, or the driver made none",
            found.address
        );
        Error::new(ErrorKind::Busy, text)
    };
    let name = found.interfaces.first().ok_or_else(missing)?;
    host.side.link(name)?.ok_or_else(missing)
}

impl Resolved {
    /// What a record must say before anything is changed.
    #[must_use]
    pub fn function(&self) -> &Function {
        &self.function
    }

    pub(crate) fn check_unchanged(&self, host: &mut Host) -> Result<(), Error> {
        if self.spec.clone().resolve(host)?.function == self.function {
            return Ok(());
        }
        let text = format!("{} was changed by somebody else while it was claimed", self.function.address);
        Err(Error::new(ErrorKind::Busy, text))
    }

    pub(crate) fn build(
        &self,
        host: &mut Host,
        pod: &mut Pod,
        target: &Target<'_>,
        l3: Layer3,
    ) -> Result<Built, Error> {
        // Before the first change: nothing of what has the name is ever looked at again.
        if self.moves() && pod.side.link(target.ifname)?.is_some() {
            let refusal = Refusal { errno: nix::errno::Errno::EEXIST, text: None };
            return Err(Error::at(ErrorKind::NameTaken, "move a virtual function to", target.ifname).because(refusal));
        }
        let mac = target.mac.or(self.spec.mac);
        mac.map_or(Ok(()), conf::check_mac)?;
        self.change(host, pod, target, mac, l3).map_err(|error| {
            let undo = self.undo(host, pod, target.ifname);
            error.after_undo(undo)
        })
    }

    /// Whether the pod gets an interface.
    fn moves(&self) -> bool {
        self.function.rebound.map_or(self.link.is_some(), |to| to == Binding::Interface)
    }

    /// Everything that [`Resolved::undo`] undoes.
    fn change(
        &self,
        host: &mut Host,
        pod: &mut Pod,
        target: &Target<'_>,
        mac: Option<Mac>,
        l3: Layer3,
    ) -> Result<Built, Error> {
        let entries = l3.entries()?;
        let mut told = self.spec.told.clone();
        if !self.port.is_up {
            told.push(format!("{}, the physical function of {}, is down", self.port.name, self.function.address));
        }
        self.port.set_up(host, &self.spec, mac, &self.function.settings, &mut told)?;
        let Some(link) = self.bound(host)? else {
            // One network may have pods of both kinds.
            told.extend(self.spec.mtu.map(|mtu| {
                format!(
                    "mtu {mtu} is nobody's: {} has no interface, a program of user space has it",
                    self.function.address
                )
            }));
            let given = mac.unwrap_or(self.function.settings.mac);
            let text = if given.is_zero() { String::new() } else { given.to_string() };
            let interface = Interface { name: target.ifname.to_owned(), mac: text, in_pod: true, mtu: None };
            return Ok(built(interface, None, l3, told));
        };
        self.prepare(host, &link, mac, &mut told)?;
        // It never joins a device group: a group is deleted as a whole.
        let device = Device::on_bus(&link, &self.function.address);
        let moved =
            host_device::into_pod(host, pod, &link, &device, (target.ifname, &host_device::mark(&device.name)))?;
        let manners = Manners {
            detection: Detection::Optimistic,
            announce_v4: true,
            announce_v6: true,
            connected_routes: true,
            late_carrier: self.awaits_carrier(),
            by_driver: true,
        };
        layer3::configure(&mut pod.side, &moved, manners, &l3.addresses, &entries)?;
        let missing = || Error::at(ErrorKind::LinkMissing, "find the moved interface", target.ifname);
        let moved = pod.side.link_at(moved.index)?.ok_or_else(missing)?;
        if mac.is_some() && moved.mac != mac {
            let text = format!("{} lost its hardware address on its way into the pod", self.function.address);
            return Err(Error::new(ErrorKind::Refused, text));
        }
        let interface = Interface { mtu: Some(moved.mtu), ..Interface::in_pod(&moved) };
        Ok(built(interface, Some(Made::of(&moved, true)), l3, told))
    }

    /// Whether a carrier is on its way when the interface comes up.
    fn awaits_carrier(&self) -> bool {
        match self.spec.link_state.unwrap_or(self.function.settings.link_state) {
            conf::LINK_AUTO => self.port.has_carrier,
            state => state != conf::LINK_DISABLED,
        }
    }

    /// The interface on the host, once the function is bound to what the pod needs; none where that makes none.
    fn bound(&self, host: &mut Host) -> Result<Option<Link>, Error> {
        let (sysfs, address) = (Sysfs::default(), &self.function.address);
        match self.function.rebound {
            // It takes another GUID when its driver finds it anew.
            None if self.spec.guid.is_some() && self.link.is_some() => self.found_anew(host),
            None => Ok(self.link.clone()),
            Some(Binding::Vfio) => binding::bind(&sysfs, address, Some(VFIO)).map(|()| None),
            Some(Binding::Interface) => self.found_anew(host),
        }
    }

    /// The interface that its own driver makes now.
    fn found_anew(&self, host: &mut Host) -> Result<Option<Link>, Error> {
        let (sysfs, address) = (Sysfs::default(), &self.function.address);
        binding::bind(&sysfs, address, None)?;
        let name = binding::interface(host, &sysfs, address, binding::PROBE_TIMEOUT_MS)?;
        host.side.link(&name)
    }

    /// What is done to the interface while it is on the host, and down: the pod never sees it half done.
    fn prepare(&self, host: &mut Host, link: &Link, mac: Option<Mac>, told: &mut Vec<String>) -> Result<(), Error> {
        if link.up {
            let down = busy::apply(&mut host.side, || link::set_up(link.index, false));
            down.map_err(|e| Error::kernel("set down", link.name.clone(), e))?;
        }
        if let Some(mac) = mac {
            let driver = Sysfs::default().driver(&self.function.address);
            take_mac(host, link, driver.as_deref().unwrap_or_default(), mac)?;
        }
        if let Some(mtu) = self.spec.mtu.filter(|mtu| *mtu != link.mtu) {
            let set = set_mtu(&mut host.side, link, mtu);
            match set {
                Err(e) if self.spec.may_lack(Attribute::Mtu) && e.errno().is_some() => {
                    told.push(format!("mtu is left as it is: {}", e.chain()));
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Brings everything back as it was before [`crate::build`], and the interface up if it was. Nothing done, nothing undone.
    ///
    /// # Errors
    /// Those of [`give_back`].
    pub fn undo(&self, host: &mut Host, pod: &mut Pod, ifname: &str) -> Result<(), Error> {
        give_back(host, Some(pod), ifname, &self.function, false)?;
        let was_up = self.link.as_ref().is_some_and(|link| link.up);
        let Some(on_host) = self.function.interface.as_ref().filter(|_| was_up) else { return Ok(()) };
        let Some(link) = on_host.find(host)? else { return Ok(()) };
        let set = busy::apply(&mut host.side, || link::set_up(link.index, true));
        set.map_err(|e| Error::kernel("set up", link.name.clone(), e))
    }
}

fn built(interface: Interface, made: Option<Made>, layer3: Layer3, told: Vec<String>) -> Built {
    Built { interfaces: vec![interface], address_interface: Some(0), made, host_ifindex: None, layer3, told }
}

/// Has an interface of the host take the address that its port was given.
fn take_mac(host: &mut Host, link: &Link, driver: &str, mac: Mac) -> Result<(), Error> {
    let failed = |e: Failure| Error::kernel("reset", link.name.clone(), e);
    let mut seen = Seen::default();
    let mut refusal = None;
    let mut patience = Patience::default();
    loop {
        let missing = || Error::at(ErrorKind::LinkMissing, "set mac of", link.name.clone());
        seen.is_taken = host.side.link_at(link.index)?.ok_or_else(missing)?.mac == Some(mac);
        let act = order::of_interface(driver, seen);
        match act {
            Act::Done => return Ok(()),
            Act::Reset => {
                for up in [true, false] {
                    busy::apply(&mut host.side, || link::set_up(link.index, up)).map_err(failed)?;
                }
                (seen.was_reset, seen.answer) = (true, None);
            }
            Act::Give | Act::WaitAndGive => {
                if act == Act::WaitAndGive {
                    patience.wait(host)?;
                }
                refusal = host.side.apply(link::set_mac(link.index, mac)).err();
                seen.answer = Some(port::answer(&refusal)?);
            }
            Act::Wait => patience.wait(host)?,
            Act::GiveUp => return Err(port::not_taken("set mac of", link.name.clone(), mac, refusal)),
        }
        seen.attempts += 1;
    }
}

fn set_mtu(side: &mut Side, link: &Link, mtu: u32) -> Result<(), Error> {
    let request = || Tuning { mtu: Some(mtu), ..Tuning::default() }.request(link.index);
    busy::apply(side, request).map_err(|e| Error::kernel("set mtu of", link.name.clone(), e))
}

/// CHECK of one function: its port, its driver, and its interface in the pod.
pub(crate) fn check(
    host: &mut Host,
    pod: &mut Pod,
    spec: &Spec,
    ifname: &str,
    expected: &Expected,
) -> Result<(), Error> {
    let address = spec.address()?;
    let found = Sysfs::default().virtual_function(&address)?;
    let settings = Port::find(host, &found)?.settings(host)?;
    if let Some(difference) = port::difference(spec, &settings) {
        return Err(Error::mismatch(format!("the port of {address} has {difference}")));
    }
    let Some(interface) = expected.in_pod(ifname) else {
        return Err(Error::mismatch(format!("interface {ifname} in the sandbox is not part of the previous result")));
    };
    let wanted = interface.mac.parse::<Mac>().ok().filter(|mac| !settings.mac.is_zero() && *mac != settings.mac);
    if let Some(wanted) = wanted {
        let text = format!("the port of {address} has mac {}, expected {wanted}", settings.mac);
        return Err(Error::mismatch(text));
    }
    if let Some(difference) = expected.function.as_ref().and_then(|function| function.difference(&found)) {
        return Err(Error::mismatch(difference));
    }
    let driver = found.driver.unwrap_or_default();
    let serves_user_space = host_device::serves_user_space(&driver);
    if expected.made.is_some_and(|_| serves_user_space) || driver.is_empty() {
        return Err(Error::mismatch(format!("{address} is bound to \"{driver}\" and has no interface")));
    }
    if serves_user_space {
        return Ok(());
    }
    let link = check::pod_interface_of_any_kind(pod, ifname, expected)?;
    if !link.bus_device.is_empty() && link.bus_device != address.as_str() {
        return Err(Error::mismatch(format!("interface {ifname} is of {}, not of {address}", link.bus_device)));
    }
    check::layer3(pod, &link, expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tests::Tree;

    #[test]
    fn another_driver_or_another_group_is_a_difference() {
        let tree = Tree::new("difference").with_functions(1);
        let found = tree.sysfs().virtual_function(&"0000:01:10.0".parse().unwrap()).unwrap();
        let VirtualFunction { address, pf, index, driver, iommu_group: group, .. } = found.clone();
        let recorded =
            Function { address, pf, index, driver, rebound: None, group, settings: Settings::unset(), interface: None };
        let now = |driver: Option<&str>, group: Option<u32>, rebound: Option<Binding>| {
            let driver = driver.map(str::to_owned);
            let found = VirtualFunction { driver, iommu_group: group, ..found.clone() };
            Function { rebound, ..recorded.clone() }.difference(&found)
        };
        let said = |text: &str| Some(format!("0000:01:10.0 {text}"));
        assert_eq!(now(Some("igbvf"), Some(8), None), None);
        assert_eq!(now(Some(VFIO), Some(8), Some(Binding::Vfio)), None);
        assert_eq!(now(Some("iavf"), Some(8), Some(Binding::Interface)), None);
        assert_eq!(now(Some(VFIO), Some(8), None), said("is bound to vfio-pci, expected igbvf"));
        assert_eq!(now(Some("igbvf"), Some(8), Some(Binding::Vfio)), said("is bound to igbvf, expected vfio-pci"));
        assert_eq!(now(None, Some(8), Some(Binding::Vfio)), said("is bound to no driver, expected vfio-pci"));
        assert_eq!(now(Some("igbvf"), Some(9), None), said("has IOMMU group 9, expected 8"));
        assert_eq!(now(Some("igbvf"), None, None), said("has IOMMU group none, expected 8"));
        let unknown = Function { group: None, ..recorded };
        assert_eq!(unknown.difference(&VirtualFunction { iommu_group: Some(9), ..found }), None, "of an older record");
    }

    #[test]
    fn what_is_bound_to_another_driver_is_known_before_anything_is_unbound() {
        let tree = Tree::new("rebound").with_functions(1);
        let sysfs = tree.sysfs();
        let found = sysfs.virtual_function(&"0000:01:10.0".parse().unwrap()).unwrap();
        let asked = |driver: Option<&str>, binding: &str| {
            let text = format!(r#"{{"deviceID":"0000:01:10.0"{binding}}}"#);
            let spec = serde_json::from_str::<Conf>(&text).unwrap().validate().unwrap();
            let found = VirtualFunction { driver: driver.map(str::to_owned), ..found.clone() };
            spec.rebound(&sysfs, &found).map_err(|e| e.chain())
        };
        let (vfio, netdev) = (r#","driver":"vfio-pci""#, r#","driver":"netdev""#);
        let not_loaded = "0000:01:10.0 cannot be bound to vfio-pci, which is not loaded: modprobe vfio-pci".to_owned();
        assert_eq!(asked(Some("igbvf"), vfio), Err(not_loaded.clone()));
        assert_eq!(asked(None, vfio), Err(not_loaded));
        assert_eq!(asked(Some(VFIO), vfio), Ok(None), "whoever bound it");
        std::fs::create_dir_all(tree.0.join("bus/pci/drivers/vfio-pci")).unwrap();
        assert_eq!(asked(Some("igbvf"), vfio), Ok(Some(Binding::Vfio)));
        assert_eq!((asked(None, vfio), asked(None, netdev)), (Ok(Some(Binding::Vfio)), Ok(Some(Binding::Interface))));
        assert_eq!((asked(Some(VFIO), netdev), asked(Some("igbvf"), netdev)), (Ok(Some(Binding::Interface)), Ok(None)));
        let none = "0000:01:10.0 is bound to no driver; \"driver\", netdev or vfio-pci, has it bound to one".to_owned();
        assert_eq!(asked(None, ""), Err(none));
        let other = "0000:01:10.0 is bound to igb_uio, and is not taken from it".to_owned();
        assert_eq!((asked(Some("igb_uio"), ""), asked(Some("igb_uio"), netdev)), (Ok(None), Err(other)));
    }
}
