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
const GROUPS: &str = "/dev/vfio";
/// How long a driver may take to make an interface.
const PROBE_TIMEOUT_MS: u64 = 10_000;

/// Whether nobody has a function that is bound to vfio-pci. To unbind one that somebody has waits in the kernel until that one ends, and
/// nothing can end the wait: its group is opened first, which is refused where it is open already.
pub(super) fn check_free(sysfs: &Sysfs, address: &PciAddress) -> Result<(), Error> {
    let Some(group) = sysfs.iommu_group(address) else { return Ok(()) };
    let path = Path::new(GROUPS).join(group.to_string());
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => {
            let text = format!("{address} is in use: {} cannot be opened", path.display());
            Err(Error::new(ErrorKind::Refused, text).because(e))
        }
    }
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
pub(super) fn interface(host: &Host, sysfs: &Sysfs, address: &PciAddress) -> Result<String, Error> {
    let mut patience = Patience::default();
    let deadline = Instant::now() + Duration::from_millis(PROBE_TIMEOUT_MS);
    loop {
        if let Some(name) = sysfs.interfaces(address).into_iter().next() {
            return Ok(name);
        }
        if Instant::now() >= deadline {
            let text = format!("{address} got no interface within {PROBE_TIMEOUT_MS} ms");
            return Err(Error::new(ErrorKind::LinkMissing, text));
        }
        patience.wait(host)?;
    }
}
