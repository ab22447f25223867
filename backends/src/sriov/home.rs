//! A function comes home: its driver, its interface on the host and its port become what was recorded of them. Knows no configuration.

use std::iter;

use nix::errno::Errno;

use super::conf::LINK_AUTO;
use super::port::Port;
use super::{Function, OnHost, Settings, binding, set_mtu, take_mac};
use crate::error::{Error, ErrorKind};
use crate::host_device::{self, Device};
use crate::netlink::alt_name;
use crate::netlink::link::{self, Link, NAME_BYTES_MAX};
use crate::pod::{Host, Pod, Side};
use crate::sysfs::{PciAddress, Sysfs, VirtualFunction};

/// How many names are tried where a function cannot have its own: no card has as many functions.
const NAMES_MAX: u32 = 4096;
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
        if let Some(pod) = pod.as_deref_mut() {
            bare_name(&mut pod.side, on_host)?;
        }
        bare_name(&mut host.side, on_host)?;
        let device = at_home(host, on_host)?;
        host_device::give_back(host, pod, ifname, Some(&device), await_return)?;
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
    host_device::give_back(host, None, "", Some(&device), false)
}

/// A function that was set up for a pod, of which nobody knows any more how it was before: with the name that its interface was moved with,
/// and settings as a card has them that nobody has set up. None where it is no function, or nothing shows that it was set up.
/// `set_up`: that is known.
///
/// # Errors
/// Those of the kernel.
pub fn unrecorded(
    host: &mut Host,
    pod: Option<&mut Pod>,
    address: &PciAddress,
    set_up: bool,
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
    let interface = moved.map(|link| found(host, link, address)).transpose()?;
    let settings = Settings { spoof_check: Some(true), trust: Some(false), link_state: LINK_AUTO, ..Settings::unset() };
    let function =
        Function { address: address.clone(), pf, index, driver, rebound: None, group: None, settings, interface };
    Ok(Some(function).filter(|function| set_up || function.interface.is_some()))
}

/// A moved interface: its alias says its name on the host, where nobody in the pod has changed it. What else it was nobody knows.
fn found(host: &mut Host, link: Link, address: &PciAddress) -> Result<OnHost, Error> {
    let name = match host_device::marked(&link.alias).filter(|name| is_name(name)) {
        Some(name) => name.to_owned(),
        None => free_name(&mut host.side, link.index)?,
    };
    let (alias, kind) = (String::new(), link.kind);
    let device =
        Device { name, alias, keeps_alias: false, mac: None, permanent: None, kind, bus: Some(address.clone()) };
    Ok(OnHost { device, ifindex: link.index, mtu: link.mtu, alt_names: link.alt_names })
}

/// Whether the kernel lets a link have a name (net/core/dev.c, `dev_valid_name`).
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name != "." && name != ".." && name.chars().all(is_plain)
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
            binding::check_free(&sysfs, address)?;
            // The interface takes what its port has when it is made.
            Port::find(host, &now)?.restore(host, &function.settings)?;
            binding::bind(&sysfs, address, None)?;
            binding::interface(host, &sysfs, address, binding::PROBE_TIMEOUT_MS)?;
        }
    }
    sysfs.virtual_function(address)
}

/// An interface that has its own name on the host as an alternative one cannot get it as its name.
fn bare_name(side: &mut Side, on_host: &OnHost) -> Result<(), Error> {
    let name = &on_host.device.name;
    let link = side.link(name)?.filter(|link| on_host.device.is(link) && link.alt_names.contains(name));
    let Some(link) = link else { return Ok(()) };
    let removed = side.apply(alt_name::remove(link.index, name));
    removed.map_err(|e| Error::kernel("remove alternative name", name.clone(), e))
}

/// The device as it will be on the host: under its name there, unless another link has that by now. Then it keeps what the kernel
/// called it when it gave it back, or gets a name as the kernel makes one.
fn at_home(host: &mut Host, on_host: &OnHost) -> Result<Device, Error> {
    let device = &on_host.device;
    if host.side.link(&device.name)?.is_none_or(|link| device.is(&link)) {
        return Ok(device.clone());
    }
    let name = match on_host.find(host)? {
        Some(link) => link.name,
        None => free_name(&mut host.side, on_host.ifindex)?,
    };
    let bus = device.bus.as_ref().map(PciAddress::as_str).unwrap_or_default();
    host.tell(&format!("{bus} comes back to the host as {name}: another link has its name there, {}", device.name));
    Ok(Device { name, ..device.clone() })
}

/// A name that no link has, as the kernel makes one for a device whose namespace is gone (net/core/dev.c, default_device_exit_net).
fn free_name(side: &mut Side, ifindex: u32) -> Result<String, Error> {
    for number in iter::once(ifindex).chain(0..NAMES_MAX) {
        let name = format!("dev{number}");
        if side.link(&name)?.is_none() {
            return Ok(name);
        }
    }
    Err(Error::new(ErrorKind::NameTaken, format!("of dev0 to dev{NAMES_MAX} no name is free")))
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

    #[test]
    fn a_name_is_what_a_link_can_have() {
        for (name, can) in [
            ("eth1", true),
            ("a234567890123456", false),
            ("a23456789012345", true),
            ("", false),
            ("..", false),
            ("a/b", false),
            ("a b", false),
            ("a:b", false),
        ] {
            assert_eq!(is_name(name), can, "{name}");
        }
    }
}
