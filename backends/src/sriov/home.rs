//! A function comes home: its driver, its interface on the host and its port become what was recorded of them. Knows no configuration.

use nix::errno::Errno;

use super::conf::LINK_AUTO;
use super::port::Port;
use super::{Function, OnHost, Settings, binding, set_mtu, take_mac};
use crate::error::{Error, ErrorKind};
use crate::host_device::{self, Device};
use crate::netlink::alt_name;
use crate::netlink::link::{self, Link};
use crate::pod::{Host, Pod, Side};
use crate::sysfs::{PciAddress, Sysfs, VirtualFunction};

/// How long the kernel may take to give an interface back whose namespace has gone.
const RETURN_TIMEOUT_MS: u64 = 2_000;

/// Brings a function back to what was recorded: its interface on the host, down, under its names there, and then its port. One
/// that is back already is no error, nor one that there is no more.
///
/// `pod` is `None` where its namespace is gone: the kernel then gives the interface back, under whatever name is free.
/// `await_return`: it may still be doing so.
///
/// The port comes last: as long as the pod has the interface, it stays in the network that it was given.
///
/// A name that another link of the host has by now does not keep it away: it gets another one, and who opened `host` is told.
///
/// # Errors
/// [`ErrorKind::LinkMissing`] if it is in a namespace that is neither the host's nor the pod's. [`ErrorKind::NameTaken`] if its name
/// was taken in this instant. Those of the kernel.
pub fn give_back(
    host: &mut Host,
    mut pod: Option<&mut Pod>,
    ifname: &str,
    function: &Function,
    await_return: bool,
) -> Result<(), Error> {
    let now = Sysfs::default().virtual_function(&function.address);
    // A card that was given another number of functions may have none there, or another one.
    let same = |now: &VirtualFunction| now.pf == function.pf && now.index == function.index;
    let Some(now) = now.ok().filter(same) else { return Ok(()) };
    let now = bind_back(host, function, now)?;
    if let Some(on_host) = &function.interface {
        let in_pod = match pod.as_deref_mut() {
            Some(pod) => bare_names(&mut pod.side, on_host)?,
            None => false,
        };
        if !in_pod {
            bare_names(&mut host.side, on_host)?;
        }
        let device = at_home(host, on_host)?;
        host_device::give_back(host, pod, ifname, &device, await_return)?;
        let has_interface = now.driver == function.driver;
        if has_interface && on_host.find(host)?.is_none() {
            let text = format!("the interface of {} is in a network namespace that nobody knows", function.address);
            return Err(Error::new(ErrorKind::LinkMissing, text));
        }
    }
    let was_renumbered = Port::find(host, &now)?.restore(host, &function.settings)?;
    if let Some(on_host) = function.interface.as_ref().filter(|_| was_renumbered) {
        renumber(host, function, on_host)?;
    }
    match &function.interface {
        Some(on_host) => put_right(host, on_host, function),
        None => Ok(()),
    }
}

/// A function takes another GUID when its driver finds it anew, and its interface is another one then.
fn renumber(host: &mut Host, function: &Function, on_host: &OnHost) -> Result<(), Error> {
    let (sysfs, address) = (Sysfs::default(), &function.address);
    binding::bind(&sysfs, address, None)?;
    binding::interface(host, &sysfs, address, binding::PROBE_TIMEOUT_MS)?;
    let device = at_home(host, on_host)?;
    host_device::give_back(host, None, "", &device, false)
}

/// A function that was set up for a pod, of which nobody knows any more how it was before: with the name that its interface was moved with,
/// and settings as a card has them that nobody has set up. None where it is no function, or nothing shows that it was set up.
/// `set_up`: that is known. `is_anothers`: whether a name on the host is that of a device of some record.
///
/// # Errors
/// Those of the kernel.
pub fn unrecorded(
    host: &mut Host,
    pod: Option<&mut Pod>,
    address: &PciAddress,
    set_up: bool,
    is_anothers: &dyn Fn(&str) -> bool,
) -> Result<Option<Function>, Error> {
    let sysfs = Sysfs::default();
    let Ok(VirtualFunction { pf, index, driver, .. }) = sysfs.virtual_function(address) else { return Ok(None) };
    let is_it = |link: &Link| link.bus_device == address.as_str();
    let mut moved = match pod {
        Some(pod) => pod.side.links()?.into_iter().find(is_it),
        None => None,
    };
    if moved.is_none() && driver.as_deref().is_some_and(|driver| !host_device::serves_user_space(driver)) {
        // The kernel may be giving it back. One that never moved has no alias of ours; whatever else it has is its owner's.
        drop(binding::interface(host, &sysfs, address, RETURN_TIMEOUT_MS));
        let is_lost = |link: &Link| is_it(link) && host_device::marked(&link.alias).is_some();
        moved = host.side.links()?.into_iter().find(is_lost);
    }
    let interface = moved.map(|link| found(host, link, address, is_anothers)).transpose()?;
    let settings = Settings { spoof_check: Some(true), trust: Some(false), link_state: LINK_AUTO, ..Settings::unset() };
    let function =
        Function { address: address.clone(), pf, index, driver, rebound: None, group: None, settings, interface };
    Ok(Some(function).filter(|function| set_up || function.interface.is_some()))
}

/// A moved interface: its alias says its name on the host. Whoever was in the pod may have changed that, so it is believed only where it is the name of
/// a card's interface that no other has. What else it was nobody knows, nor which alternative names it had.
fn found(
    host: &mut Host,
    link: Link,
    address: &PciAddress,
    is_anothers: &dyn Fn(&str) -> bool,
) -> Result<OnHost, Error> {
    let said = host_device::marked(&link.alias);
    let name = match said.filter(|name| host_device::is_of_card(name) && !is_anothers(name)) {
        Some(name) => name.to_owned(),
        None => host_device::refused(host, &link, said.unwrap_or_default())?,
    };
    let (alias, kind, bus) = (String::new(), link.kind, Some(address.clone()));
    let device = Device { name, alias, keeps_alias: false, mac: None, permanent: None, kind, bus, alt_names: None };
    Ok(OnHost { device, ifindex: link.index, mtu: link.mtu, alt_names: Vec::new() })
}

/// Binds a function to the driver it had. With vfio-pci nobody may have it any more; an interface goes with its driver, wherever it is.
fn bind_back(host: &mut Host, function: &Function, now: VirtualFunction) -> Result<VirtualFunction, Error> {
    let (sysfs, address) = (Sysfs::default(), &function.address);
    if function.rebound.is_none() {
        return Ok(now);
    }
    if now.driver == function.driver {
        // It was on its way to another.
        let only = function.driver.as_deref().filter(|_| function.interface.is_none());
        let said = sysfs.override_driver(address, only);
        return said.map(|()| now).map_err(|e| Error::at(ErrorKind::Io, "bind", address.to_string()).because(e));
    }
    match (&function.interface, &function.driver) {
        (None, None) => binding::unbind(&sysfs, address)?,
        (None, Some(driver)) => binding::bind(&sysfs, address, Some(driver))?,
        (Some(_), _) => {
            binding::check_free(&sysfs, address)?.let_go();
            // The interface takes what its port has when it is made.
            Port::find(host, &now)?.restore(host, &function.settings)?;
            binding::bind(&sysfs, address, None)?;
            binding::interface(host, &sysfs, address, binding::PROBE_TIMEOUT_MS)?;
        }
    }
    sysfs.virtual_function(address)
}

/// An interface that has its own name on the host as an alternative one cannot get it as its name; those that its pod gave it do not come to
/// the host. Whether it is on this side.
fn bare_names(side: &mut Side, on_host: &OnHost) -> Result<bool, Error> {
    let device = &on_host.device;
    let Some(link) = side.links()?.into_iter().find(|link| device.is(link)) else { return Ok(false) };
    let was_there = |name: &str| device.keeps_alias || on_host.alt_names.iter().any(|noted| noted == name);
    host_device::strip(side, &link, |name| name != device.name && was_there(name))?;
    Ok(true)
}

/// The device as it will be on the host: under its name there, unless another link has that by now. Then it gets a name as the kernel makes
/// one; what it is called when the kernel gives it back its pod has chosen.
fn at_home(host: &mut Host, on_host: &OnHost) -> Result<Device, Error> {
    let device = &on_host.device;
    if host.side.link(&device.name)?.is_none_or(|link| device.is(&link)) {
        return Ok(device.clone());
    }
    let name = match on_host.find(host)? {
        Some(link) if host_device::is_neutral(&link.name) => link.name,
        _ => host_device::free_name(&mut host.side, on_host.ifindex)?,
    };
    let bus = device.bus.as_ref().map(PciAddress::as_str).unwrap_or_default();
    host.tell(&format!("{bus} comes back to the host as {name}: another link has its name there, {}", device.name));
    Ok(Device { name, ..device.clone() })
}

/// Whether an interface has not the alias that it had: it has the pod's, or none, as one that a driver has made anew.
fn has_lost_alias(alias: &str, device: &Device) -> bool {
    alias != device.alias && (alias.is_empty() || host_device::marked(alias).is_some())
}

/// The rest of an interface that is on the host, and down: MTU, hardware address, alias, alternative names.
fn put_right(host: &mut Host, on_host: &OnHost, function: &Function) -> Result<(), Error> {
    let Some(link) = on_host.find(host)? else { return Ok(()) };
    let device = &on_host.device;
    if has_lost_alias(&link.alias, device) {
        let set = host.side.apply(link::set_alias(link.index, &device.alias));
        set.map_err(|e| Error::kernel("set alias of", link.name.clone(), e))?;
    }
    if link.mtu != on_host.mtu {
        set_mtu(&mut host.side, &link, on_host.mtu)?;
    }
    if let Some(mac) = on_host.device.mac.filter(|mac| link.mac != Some(*mac)) {
        let taken = take_mac(host, &link, function.driver.as_deref().unwrap_or_default(), mac);
        // It had another one than its port before: then the port's is as good as it gets.
        let has_ports = |host: &mut Host| -> Result<bool, Error> {
            Ok(host.side.link_at(link.index)?.is_some_and(|link| link.mac == Some(function.settings.mac)))
        };
        if let Err(error) = taken
            && !has_ports(host)?
        {
            return Err(error);
        }
    }
    for name in on_host.alt_names.iter().filter(|name| !link.alt_names.contains(name)) {
        match host.side.apply(alt_name::add(link.index, name)) {
            Err(e) if e.errno() == Some(Errno::EEXIST) => {
                host.tell(&format!(
                    "{} comes back without its alternative name {name}: another link has it",
                    function.address
                ));
            }
            other => other.map_err(|e| Error::kernel("add alternative name", name.clone(), e))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_comes_back_and_another_one_stays() {
        let of = |alias: &str| Device {
            name: "eth1".to_owned(),
            alias: alias.to_owned(),
            keeps_alias: false,
            mac: None,
            permanent: None,
            kind: String::new(),
            bus: None,
            alt_names: None,
        };
        for (now, before, lost) in [
            ("", "mine", true),
            ("plexus:device:eth1", "mine", true),
            ("plexus:device:eth1", "", true),
            ("mine", "mine", false),
            ("", "", false),
            ("yours", "mine", false),
            ("eth1", "", false),
        ] {
            assert_eq!(has_lost_alias(now, &of(before)), lost, "{now:?} {before}");
        }
    }
}
