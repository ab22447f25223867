//! What sysfs says of a PCI function: whose virtual function it is, its interfaces, its driver, its group, its NUMA node. All that is known of where in
//! sysfs that stands is here, but for where host-device finds what it is told to move; everything is below one root, so that tests bring their own. Only `bind` changes anything.
//!
//! sysfs shows the interfaces of one network namespace only, the one of who mounted it: an interface that is in a pod is not
//! here. The crate `sysfs-class` is not used: it reads below /sys alone, and to make it read elsewhere takes `unsafe`.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind as IoErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

mod address;
mod bind;
mod card;
mod network;
mod node;

pub use address::{PciAddress, PciAddressError};
pub use card::PhysicalFunction;
pub use network::{NetworkFunction, Reach, Vdpa, VdpaUse};
pub use node::{PROCESSORS_MAX, processors_of};

use crate::error::{Error, ErrorKind};

/// Where sysfs is on every node.
const ROOT: &str = "/sys";
/// Devices of the PCI bus, by their address (Documentation/ABI/testing/sysfs-bus-pci).
const PCI: &str = "bus/pci/devices";
/// How many virtual functions one function may have: 256 are the most that any card has; the field has 16 bits (PCIe 6.0, 9.3.3.6).
const FUNCTIONS_MAX: u32 = 4096;
/// How many entries of a directory are looked at.
const ENTRIES_MAX: usize = 4096;
/// The largest file that is read, in bytes: attributes are one page (Documentation/filesystems/sysfs.rst).
const FILE_BYTES_MAX: u64 = 4096;

/// A tree of sysfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysfs {
    root: PathBuf,
}

/// A virtual function, as sysfs has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualFunction {
    /// Its own address.
    pub address: PciAddress,
    /// The address of its physical function.
    pub pf: PciAddress,
    /// Which of that one's it is, from 0 on.
    pub index: u32,
    /// The interface of the physical function; none where that is in another namespace.
    pub pf_interface: Option<String>,
    /// Its own interfaces; none while they are in another namespace, or where its driver makes none.
    pub interfaces: Vec<String>,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// Its IOMMU group. It may be another after each boot.
    pub iommu_group: Option<u32>,
    /// The NUMA node it is near; none where the machine has none.
    pub numa_node: Option<u32>,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at(Path::new(ROOT))
    }
}

impl Sysfs {
    /// The tree below a directory.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn device(&self, address: &PciAddress) -> PathBuf {
        self.root.join(PCI).join(address.as_str())
    }

    /// Whether there is a device of this address.
    #[must_use]
    pub fn has(&self, address: &PciAddress) -> bool {
        self.device(address).exists()
    }

    /// What is known of a virtual function.
    ///
    /// # Errors
    /// [`ErrorKind::LinkMissing`] where there is no such device, or it is no virtual function.
    pub fn virtual_function(&self, address: &PciAddress) -> Result<VirtualFunction, Error> {
        let missing = |text: String| Error::new(ErrorKind::LinkMissing, text);
        if !self.has(address) {
            return Err(missing(format!("there is no PCI device {address}")));
        }
        let device = self.device(address);
        let pf = link_name(&device.join("physfn")).and_then(|name| name.parse::<PciAddress>().ok());
        let pf = pf.ok_or_else(|| missing(format!("PCI device {address} is no virtual function (SR-IOV)")))?;
        let index = self.index_of(&pf, address);
        let index = index.ok_or_else(|| missing(format!("{pf} does not list its virtual function {address}")))?;
        Ok(self.function_of(&pf, index, &self.uplink(&pf), address.clone()))
    }

    /// The driver that a function is bound to.
    #[must_use]
    pub fn driver(&self, address: &PciAddress) -> Option<String> {
        link_name(&self.device(address).join("driver"))
    }

    /// Which virtual function of `pf` an address is.
    fn index_of(&self, pf: &PciAddress, address: &PciAddress) -> Option<u32> {
        let device = self.device(pf);
        let all = (0..FUNCTIONS_MAX).map(|index| (index, link_name(&device.join(format!("virtfn{index}")))));
        let mut all = all.map_while(|(index, name)| Some((index, name?)));
        all.find(|(_, name)| name == address.as_str()).map(|(index, _)| index)
    }

    /// The names of a function's interfaces, sorted.
    #[must_use]
    pub fn interfaces(&self, address: &PciAddress) -> Vec<String> {
        names(&self.device(address).join("net"))
    }

    /// Whether an interface of a function is below another one of the host: a port of a bridge, a bond or a switch, what a VLAN or a macvlan
    /// is on (`upper_*`, net/core/dev.c `netdev_adjacent_sysfs_add`).
    #[must_use]
    pub fn is_below(&self, function: &VirtualFunction) -> bool {
        let net = self.device(&function.address).join("net");
        let is_above = |entry: &String| entry.starts_with("upper_");
        function.interfaces.iter().any(|interface| names(&net.join(interface)).iter().any(is_above))
    }

    /// The interface of a physical function, and not of what it represents: in switchdev mode each virtual function has an
    /// interface there too, whose port is named `pf0vf3` (Documentation/networking/switchdev.rst).
    #[must_use]
    pub fn uplink(&self, pf: &PciAddress) -> Option<String> {
        let net = self.device(pf).join("net");
        let represents = |name: &String| {
            let port = read(&net.join(name).join("phys_port_name")).unwrap_or_default();
            port.contains("pf")
        };
        names(&net).into_iter().find(|name| !represents(name))
    }
}

/// The last part of what a symbolic link leads to; none where there is none.
fn link_name(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

/// The names in a directory, sorted; none where there is no directory.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let name = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    let mut names: Vec<String> = entries.take(ENTRIES_MAX).filter_map(name).collect();
    names.sort();
    names
}

/// An attribute's text without its end of line.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // It never waits: a root that was brought may have anything in it.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(io::Error::from(IoErrorKind::FileTooLarge));
    }
    text.truncate(text.trim_end().len());
    Ok(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    /// A tree that goes with its test.
    pub(crate) struct Tree(pub(crate) PathBuf);

    impl Drop for Tree {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    impl Tree {
        pub(crate) fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("plexus-sysfs-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&root));
            fs::create_dir_all(root.join(PCI)).unwrap();
            Self(root)
        }

        pub(crate) fn sysfs(&self) -> Sysfs {
            Sysfs::at(&self.0)
        }

        fn device(&self, address: &str) -> PathBuf {
            let device = self.0.join(PCI).join(address);
            fs::create_dir_all(&device).unwrap();
            device
        }

        /// A physical function with an interface and so many virtual ones, each with a driver and an interface.
        pub(crate) fn with_functions(self, count: u32) -> Self {
            let pf = self.device("0000:01:00.0");
            fs::create_dir_all(pf.join("net/eth0")).unwrap();
            for index in 0..count {
                let name = format!("0000:01:{:02x}.{}", 0x10 + index / 8, index % 8);
                let vf = self.device(&name);
                symlink("../0000:01:00.0", vf.join("physfn")).unwrap();
                symlink(format!("../{name}"), pf.join(format!("virtfn{index}"))).unwrap();
                symlink("../../../../kernel/iommu_groups/8", vf.join("iommu_group")).unwrap();
                symlink("../../../../bus/pci/drivers/igbvf", vf.join("driver")).unwrap();
                fs::create_dir_all(vf.join(format!("net/eth{}", index + 1))).unwrap();
                fs::write(vf.join("numa_node"), "1\n").unwrap();
            }
            self
        }
    }

    fn address(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    #[test]
    fn a_virtual_function_is_all_that_sysfs_says() {
        let tree = Tree::new("whole").with_functions(256);
        let vf = tree.sysfs().virtual_function(&address("0000:01:2f.7")).unwrap();
        let expected = VirtualFunction {
            address: address("0000:01:2f.7"),
            pf: address("0000:01:00.0"),
            index: 255,
            pf_interface: Some("eth0".to_owned()),
            interfaces: vec!["eth256".to_owned()],
            driver: Some("igbvf".to_owned()),
            iommu_group: Some(8),
            numa_node: Some(1),
        };
        assert_eq!(vf, expected);
    }

    #[test]
    fn what_is_away_is_none() {
        let tree = Tree::new("away").with_functions(1);
        let vf = tree.device("0000:01:10.0");
        for name in ["net", "numa_node"] {
            let path = vf.join(name);
            fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap();
        }
        for name in ["driver", "iommu_group"] {
            fs::remove_file(vf.join(name)).unwrap();
        }
        fs::write(vf.join("numa_node"), "-1\n").unwrap();
        fs::remove_dir_all(tree.device("0000:01:00.0").join("net")).unwrap();
        let found = tree.sysfs().virtual_function(&address("0000:01:10.0")).unwrap();
        assert_eq!((found.interfaces, found.driver, found.iommu_group, found.numa_node), (vec![], None, None, None));
        assert_eq!(found.pf_interface, None);
    }

    #[test]
    fn representors_are_no_uplink() {
        let tree = Tree::new("switchdev").with_functions(1);
        let net = tree.device("0000:01:00.0").join("net");
        for (name, port) in [("a0", "pf0vf0\n"), ("b0", "c1pf0vf1\n"), ("eth0", "p0\n")] {
            fs::create_dir_all(net.join(name)).unwrap();
            fs::write(net.join(name).join("phys_port_name"), port).unwrap();
        }
        assert_eq!(tree.sysfs().uplink(&address("0000:01:00.0")).as_deref(), Some("eth0"));
    }

    #[test]
    fn what_is_no_virtual_function_is_said() {
        let tree = Tree::new("other").with_functions(2);
        fs::remove_file(tree.device("0000:01:00.0").join("virtfn1")).unwrap();
        for (text, said) in [
            ("0000:09:00.0", "there is no PCI device 0000:09:00.0"),
            ("0000:01:00.0", "PCI device 0000:01:00.0 is no virtual function (SR-IOV)"),
            ("0000:01:10.1", "0000:01:00.0 does not list its virtual function 0000:01:10.1"),
        ] {
            let error = tree.sysfs().virtual_function(&address(text)).unwrap_err();
            assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::LinkMissing, said));
        }
    }

    #[test]
    fn odd_files_are_no_answer() {
        let tree = Tree::new("odd").with_functions(1);
        let vf = tree.device("0000:01:10.0");
        fs::write(vf.join("numa_node"), "9".repeat(10_000)).unwrap();
        assert_eq!(tree.sysfs().virtual_function(&address("0000:01:10.0")).unwrap().numa_node, None);
        fs::remove_file(vf.join("numa_node")).unwrap();
        mkfifo(&vf.join("numa_node"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        assert_eq!(tree.sysfs().virtual_function(&address("0000:01:10.0")).unwrap().numa_node, None, "nobody waits");
        fs::remove_file(vf.join("physfn")).unwrap();
        symlink("/", vf.join("physfn")).unwrap();
        assert!(tree.sysfs().virtual_function(&address("0000:01:10.0")).is_err());
    }
}
