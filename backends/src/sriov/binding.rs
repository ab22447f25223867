//! Binds a function to the driver that a configuration wants, and back. The kernel's files for it are sysfs' own; here is when it
//! is safe. Knows no pod.

use std::fs::{File, OpenOptions};
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

/// The files of a group, open: as long as this lives nobody else can open them, nor take a device of the group by its own file
/// (drivers/vfio/group.c, `vfio_group_fops_open` and `vfio_device_block_group`). It holds no device, so nothing waits for it.
#[must_use = "whoever drops it lets others have the function"]
pub(super) struct Guard {
    groups: Vec<File>,
}

impl Guard {
    /// From here on others can have the function.
    pub(super) fn let_go(self) {
        drop(self.groups);
    }
}

/// Makes sure that nobody has a function that is bound to vfio-pci. To unbind one that somebody has waits in the kernel until that one ends, and
/// nothing can end the wait: its group is opened first, which is refused where it is open already, and stays open until the function is unbound, so nobody
/// takes it in between. Where the group has no file, as in a container, the function tells: vfio-pci has it enabled for as long as a
/// program has it. Then a program that takes it in that instant is not kept from it, and the unbinding waits for it.
pub(super) fn check_free(sysfs: &Sysfs, address: &PciAddress) -> Result<Guard, Error> {
    check_free_in(Path::new(GROUPS), sysfs, address)
}

fn check_free_in(groups: &Path, sysfs: &Sysfs, address: &PciAddress) -> Result<Guard, Error> {
    let mut guard = Guard { groups: Vec::new() };
    let Some(group) = sysfs.iommu_group(address) else { return Ok(guard) };
    for name in group_names(group) {
        let path = groups.join(name);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => guard.groups.push(file),
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
    Ok(guard)
}

/// Takes a function from its driver, and leaves it without.
pub(super) fn unbind(sysfs: &Sysfs, address: &PciAddress) -> Result<(), Error> {
    unbind_in(Path::new(GROUPS), sysfs, address)
}

fn unbind_in(groups: &Path, sysfs: &Sysfs, address: &PciAddress) -> Result<(), Error> {
    let guard = check_free_in(groups, sysfs, address)?;
    let done = sysfs.override_driver(address, None).and_then(|()| sysfs.unbind(address));
    guard.let_go();
    done.map_err(|e| Error::new(ErrorKind::Refused, format!("unbind {address}")).because(e))
}

/// Binds a function to `driver`, or, where that is `None`, to the driver that the kernel has for it; bound already is no error.
pub(super) fn bind(sysfs: &Sysfs, address: &PciAddress, driver: Option<&str>) -> Result<(), Error> {
    let refused = |e: std::io::Error| {
        let to = driver.unwrap_or("its own driver");
        Error::new(ErrorKind::Refused, format!("bind {address} to {to}")).because(e)
    };
    let bound = sysfs.driver(address);
    let guard = (bound.as_deref() == Some(VFIO)).then(|| check_free(sysfs, address)).transpose()?;
    sysfs.override_driver(address, driver).map_err(refused)?;
    if bound.is_some() {
        sysfs.unbind(address).map_err(refused)?;
    }
    // The next driver finds a group that nobody has open.
    guard.into_iter().for_each(Guard::let_go);
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
    use crate::sriov::Users;
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

    /// A writer of this file waits for a reader.
    #[test]
    fn nobody_can_take_a_function_while_it_is_unbound() {
        let tree = Tree::new("guard").with_functions(1);
        let address: PciAddress = "0000:01:10.0".parse().unwrap();
        let (sysfs, groups) = (tree.sysfs(), tree.0.join("vfio"));
        let driver = tree.0.join("drivers/vfio-pci");
        for folder in [&groups, &driver] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(groups.join("8"), "").unwrap();
        let link = tree.0.join("bus/pci/devices/0000:01:10.0/driver");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&driver, link).unwrap();
        nix::unistd::mkfifo(&driver.join("unbind"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let has_user = || Users::look_in(&groups, Path::new("/proc")).of(&sysfs, &address).is_some();
        std::thread::scope(|scope| {
            let unbinding = scope.spawn(|| unbind_in(&groups, &sysfs, &address));
            let deadline = Instant::now() + Duration::from_secs(20);
            let is_held = std::iter::repeat_with(has_user).any(|has| has || Instant::now() > deadline) && has_user();
            assert_eq!(fs::read_to_string(driver.join("unbind")).unwrap(), "0000:01:10.0");
            unbinding.join().unwrap().unwrap();
            assert_eq!((is_held, has_user()), (true, false));
        });
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
