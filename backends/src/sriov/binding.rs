//! Binds a function to the driver that a configuration wants, and back. The kernel's files for it are sysfs' own; here is when it
//! is safe. Knows no pod.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::{Duration, Instant};

use super::port::Patience;
use crate::error::{Error, ErrorKind};
use crate::pod::Host;
use crate::sysfs::{PciAddress, Sysfs};

/// The driver that gives a function to a program of user space, behind the IOMMU.
pub(super) const VFIO: &str = "vfio-pci";
/// Where a group of functions is a file that one program at a time can open (Documentation/driver-api/vfio.rst).
pub(super) const GROUPS: &str = "/dev/vfio";
/// How long a driver may take to make an interface.
pub(super) const PROBE_TIMEOUT_MS: u64 = 10_000;

/// What the file of a group may be called; the second where there is no IOMMU, and vfio was told to do without.
pub(super) fn group_names(group: u32) -> [String; 2] {
    [group.to_string(), format!("noiommu-{group}")]
}

/// Whether nobody has a function that is bound to vfio-pci. To unbind one that somebody has waits in the kernel until that one ends, and
/// nothing can end the wait: its group is opened first, which is refused where it is open already. Where the group has no file, as in a
/// container, the function tells: vfio-pci has it enabled for as long as a program has it.
pub(super) fn check_free(sysfs: &Sysfs, address: &PciAddress) -> Result<(), Error> {
    check_free_in(Path::new(GROUPS), sysfs, address)
}

fn check_free_in(groups: &Path, sysfs: &Sysfs, address: &PciAddress) -> Result<(), Error> {
    let Some(group) = sysfs.iommu_group(address) else { return Ok(()) };
    for name in group_names(group) {
        let path = groups.join(name);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                let text = format!("{address} is in use: {} cannot be opened", path.display());
                return Err(Error::new(ErrorKind::Busy, text).because(e));
            }
        }
    }
    if sysfs.driver(address).as_deref() == Some(VFIO) && sysfs.is_enabled(address) {
        return Err(Error::new(ErrorKind::Busy, format!("{address} is in use: a program has it by vfio-pci")));
    }
    Ok(())
}

/// Takes a function from its driver, and leaves it without.
pub(super) fn unbind(sysfs: &Sysfs, address: &PciAddress) -> Result<(), Error> {
    check_free(sysfs, address)?;
    let done = sysfs.override_driver(address, None).and_then(|()| sysfs.unbind(address));
    done.map_err(|e| Error::new(ErrorKind::Refused, format!("unbind {address}")).because(e))
}

/// Binds a function to `driver`, or, where that is `None`, to the driver that the kernel has for it; bound already is no error.
pub(super) fn bind(sysfs: &Sysfs, address: &PciAddress, driver: Option<&str>) -> Result<(), Error> {
    let refused = |e: std::io::Error| {
        let to = driver.unwrap_or("its own driver");
        Error::new(ErrorKind::Refused, format!("bind {address} to {to}")).because(e)
    };
    let bound = sysfs.driver(address);
    if bound.as_deref() == Some(VFIO) {
        check_free(sysfs, address)?;
    }
    sysfs.override_driver(address, driver).map_err(refused)?;
    if bound.is_some() {
        sysfs.unbind(address).map_err(refused)?;
    }
    sysfs.probe(address).map_err(refused)?;
    match sysfs.driver(address) {
        Some(now) if driver.is_none_or(|driver| now == driver) => Ok(()),
        other => {
            let text = format!("{address} is bound to {} after all", other.as_deref().unwrap_or("no driver"));
            Err(Error::new(ErrorKind::Refused, text).because_of("is the driver loaded, and the IOMMU on?"))
        }
    }
}

/// Waits for the interface of a function that was bound to a driver that makes one.
pub(super) fn interface(host: &Host, sysfs: &Sysfs, address: &PciAddress, limit_ms: u64) -> Result<String, Error> {
    let mut patience = Patience::default();
    let deadline = Instant::now() + Duration::from_millis(limit_ms);
    loop {
        if let Some(name) = sysfs.interfaces(address).into_iter().next() {
            return Ok(name);
        }
        if Instant::now() >= deadline {
            let text = format!("{address} got no interface within {limit_ms} ms");
            return Err(Error::new(ErrorKind::Busy, text));
        }
        patience.wait(host)?;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sysfs::tests::Tree;

    #[test]
    fn a_group_that_cannot_be_opened_is_in_use_with_an_iommu_and_without() {
        let tree = Tree::new("groups").with_functions(1);
        let address = "0000:01:10.0".parse().unwrap();
        let groups = tree.0.join("vfio");
        let is_free = || check_free_in(&groups, &tree.sysfs(), &address).is_ok();
        assert!(is_free(), "no group is a file");
        for name in ["8", "noiommu-8"] {
            // What cannot be opened to write, even by root.
            fs::create_dir_all(groups.join(name)).unwrap();
            assert!(!is_free(), "{name}");
            fs::remove_dir(groups.join(name)).unwrap();
            fs::write(groups.join(name), "").unwrap();
            assert!(is_free(), "{name}");
        }
    }

    #[test]
    fn one_that_vfio_has_enabled_is_in_use_also_where_its_group_is_no_file() {
        let tree = Tree::new("enabled").with_functions(1);
        let address = "0000:01:10.0".parse().unwrap();
        let device = tree.0.join("bus/pci/devices/0000:01:10.0");
        let is_free = || check_free_in(&tree.0.join("no such folder"), &tree.sysfs(), &address).is_ok();
        fs::write(device.join("enable"), "1\n").unwrap();
        assert!(is_free(), "another driver has what it drives enabled, whoever uses it");
        fs::remove_file(device.join("driver")).unwrap();
        std::os::unix::fs::symlink("/x/drivers/vfio-pci", device.join("driver")).unwrap();
        assert!(!is_free());
        fs::write(device.join("enable"), "0\n").unwrap();
        assert!(is_free());
    }
}
