//! What sysfs takes about a PCI function: its driver, and how many virtual ones it has (Documentation/ABI/testing/sysfs-bus-pci). Knows not when that is safe.

use std::fs;
use std::io;

use super::{PciAddress, Sysfs, link_name, names, read};

/// Where a device is said to that has no driver yet.
const PROBE: &str = "bus/pci/drivers_probe";
/// A directory for each driver that is loaded.
const DRIVERS: &str = "bus/pci/drivers";

impl Sysfs {
    /// Whether a driver of PCI functions is loaded.
    pub(crate) fn has_driver(&self, driver: &str) -> bool {
        self.root.join(DRIVERS).join(driver).is_dir()
    }

    /// The IOMMU group of a function; none where there is no IOMMU.
    pub(crate) fn iommu_group(&self, address: &PciAddress) -> Option<u32> {
        link_name(&self.device(address).join("iommu_group")).and_then(|name| name.parse().ok())
    }

    /// Whether a driver has enabled a function: vfio-pci does when a program takes it, and undoes it when that one lets go.
    pub(crate) fn is_enabled(&self, address: &PciAddress) -> bool {
        read(&self.device(address).join("enable")).is_ok_and(|count| count != "0")
    }

    /// What a function is called among the files of vfio, where it has one of its own there.
    pub(crate) fn vfio_devices(&self, address: &PciAddress) -> Vec<String> {
        names(&self.device(address).join("vfio-dev"))
    }

    /// Which driver alone may have a function; none: whichever knows it.
    pub(crate) fn override_driver(&self, address: &PciAddress, driver: Option<&str>) -> io::Result<()> {
        fs::write(self.device(address).join("driver_override"), format!("{}\n", driver.unwrap_or_default()))
    }

    /// Takes a function from its driver. Where somebody has it (vfio), this waits for as long, and nothing ends the wait.
    pub(crate) fn unbind(&self, address: &PciAddress) -> io::Result<()> {
        fs::write(self.device(address).join("driver/unbind"), address.as_str())
    }

    /// How many virtual functions a card is to have. The kernel takes it only from a card that has none; it returns when all are made.
    pub(crate) fn make_functions(&self, pf: &PciAddress, count: u32) -> io::Result<()> {
        fs::write(self.device(pf).join("sriov_numvfs"), format!("{count}\n"))
    }

    /// Has the kernel find a driver for a function that has none.
    pub(crate) fn probe(&self, address: &PciAddress) -> io::Result<()> {
        fs::write(self.root.join(PROBE), address.as_str())
    }
}
