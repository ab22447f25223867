//! The PCI functions of a node that are network controllers, with all that one may be chosen by; and what the kernel has made
//! for a program that has one. Reads only.

use std::path::Path;

use super::card::is_up;
use super::{ENTRIES_MAX, FUNCTIONS_MAX, PCI, PciAddress, Sysfs, link_name, names, read};

/// The base class of network controllers (PCI Code and ID Assignment 1.16, 1.3), as `class` begins.
const NETWORK: &str = "0x02";
/// Of an interface, in the words of `ip`: by its hardware type (include/uapi/linux/if_arp.h).
const LINK_TYPES: [(&str, &str); 3] = [("1", "ether"), ("32", "infiniband"), ("772", "loopback")];
/// Where a driver's files for programs of user space are named, and where the files are.
const CHARACTER_DEVICES: [(&str, &str); 3] =
    [("infiniband_verbs", "/dev/infiniband"), ("infiniband_mad", "/dev/infiniband"), ("uio", "/dev")];
/// Devices of no bus, by the names that the kernel has for them; the file's last part is the same.
const MISC: &str = "class/misc";

/// A network controller: a physical function, or a virtual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFunction {
    /// Its address.
    pub address: PciAddress,
    /// Who made it: four digits.
    pub vendor: String,
    /// What it is, as its maker counts: four digits.
    pub device: String,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// What the firmware numbers it by, where that does.
    pub acpi_index: Option<String>,
    /// The NUMA node it is near; none where the machine has none.
    pub numa_node: Option<u32>,
    /// Its interfaces; none while they are in another namespace, or where its driver makes none.
    pub interfaces: Vec<String>,
    /// The type of its interface, or where that is not here, of its card's.
    pub link_type: Option<String>,
    /// It has RDMA devices: their names.
    pub rdma: Vec<String>,
    /// The address of its physical function, which is its own where it is one.
    pub pf: PciAddress,
    /// The interface of the physical function; none where that is in another namespace.
    pub pf_interface: Option<String>,
    /// Whether that is set up; none without an interface.
    pub is_pf_up: Option<bool>,
    /// Which of its physical function's it is; none: it is no virtual one.
    pub index: Option<u32>,
    /// How many virtual functions it has.
    pub functions: u32,
}

/// The files by which a program of user space reaches a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// Its IOMMU group, as it is in this boot, and whether that is one without an IOMMU.
    pub group: Option<(u32, bool)>,
    /// Its RDMA devices, by name.
    pub rdma: Vec<String>,
    /// The character devices of its driver, as paths.
    pub files: Vec<String>,
}

impl Sysfs {
    /// All network controllers on the PCI bus, by address.
    #[must_use]
    pub fn network_functions(&self) -> Vec<NetworkFunction> {
        let all = names(&self.root.join(PCI));
        all.iter().take(ENTRIES_MAX).filter_map(|name| self.network_function(&name.parse().ok()?)).collect()
    }

    /// The network controller of this address; none where there is none.
    #[must_use]
    pub fn network_function(&self, address: &PciAddress) -> Option<NetworkFunction> {
        let device = self.device(address);
        read(&device.join("class")).ok().filter(|class| class.starts_with(NETWORK))?;
        let identity = |name: &str| read(&device.join(name)).ok().map(|id| id.trim_start_matches("0x").to_owned());
        let pf = link_name(&device.join("physfn")).and_then(|name| name.parse::<PciAddress>().ok());
        let index = pf.as_ref().and_then(|pf| self.index_of(pf, address));
        let pf = pf.unwrap_or_else(|| address.clone());
        let pf_interface = self.uplink(&pf);
        let interfaces = self.interfaces(address);
        let named = interfaces.first().map(|name| (address, name)).or(pf_interface.as_ref().map(|name| (&pf, name)));
        let link_type = named.and_then(|(of, name)| self.link_type(of, name));
        Some(NetworkFunction {
            vendor: identity("vendor").unwrap_or_default(),
            device: identity("device").unwrap_or_default(),
            driver: self.driver(address),
            acpi_index: read(&device.join("acpi_index")).ok().filter(|index| !index.is_empty()),
            numa_node: self.numa_node(address),
            rdma: names(&device.join("infiniband")),
            is_pf_up: pf_interface.as_ref().and_then(|name| is_up(&self.device(&pf), name)),
            functions: self.functions_made(address).unwrap_or_default(),
            address: address.clone(),
            interfaces,
            link_type,
            pf,
            pf_interface,
            index,
        })
    }

    fn link_type(&self, of: &PciAddress, interface: &str) -> Option<String> {
        let number = read(&self.device(of).join("net").join(interface).join("type")).ok()?;
        let known = LINK_TYPES.iter().find(|(known, _)| *known == number);
        Some(known.map_or(number, |(_, word)| (*word).to_owned()))
    }

    /// How many virtual functions a card has; none where it can have none.
    #[must_use]
    pub fn functions_made(&self, pf: &PciAddress) -> Option<u32> {
        read(&self.device(pf).join("sriov_numvfs")).ok()?.parse().ok().map(|count: u32| count.min(FUNCTIONS_MAX))
    }

    /// Whether the kernel has a device of this name that belongs to no bus (`vhost-net`, `tun`).
    #[must_use]
    pub fn has_misc(&self, name: &str) -> bool {
        self.root.join(MISC).join(name).exists()
    }

    /// How a program of user space reaches a function, as it is now.
    #[must_use]
    pub fn reach(&self, address: &PciAddress) -> Reach {
        let device = self.device(address);
        let group = self.iommu_group(address).map(|number| {
            let name = read(&device.join("iommu_group/name")).unwrap_or_default();
            (number, name == "vfio-noiommu")
        });
        let files = CHARACTER_DEVICES.iter().flat_map(|(folder, place)| {
            let of_driver = names(&device.join(folder)).into_iter().filter(|name| is_file_name(name));
            of_driver.map(move |name| Path::new(place).join(name).to_string_lossy().into_owned())
        });
        Reach { driver: self.driver(address), group, files: files.collect(), rdma: names(&device.join("infiniband")) }
    }
}

fn is_file_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::tests::Tree;
    use super::*;

    fn address(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    #[test]
    fn a_function_is_what_it_may_be_chosen_by() {
        let tree = Tree::new("network").with_functions(2);
        let devices = tree.0.join(PCI);
        let (pf, vf) = (devices.join("0000:01:00.0"), devices.join("0000:01:10.1"));
        assert_eq!(tree.sysfs().network_functions(), [], "without a class nothing is a network controller");
        for (device, class) in [(&pf, "0x020000\n"), (&vf, "0x020000\n"), (&devices.join("0000:01:10.0"), "0x010802\n")]
        {
            fs::write(device.join("class"), class).unwrap();
            fs::write(device.join("vendor"), "0x8086\n").unwrap();
            fs::write(device.join("device"), "0x10ca\n").unwrap();
        }
        fs::write(pf.join("sriov_numvfs"), "2\n").unwrap();
        fs::write(pf.join("net/eth0/flags"), "0x1003\n").unwrap();
        fs::write(pf.join("net/eth0/type"), "1\n").unwrap();
        fs::create_dir_all(vf.join("infiniband/mlx5_3")).unwrap();
        let all = tree.sysfs().network_functions();
        let found: Vec<&str> = all.iter().map(|function| function.address.as_str()).collect();
        assert_eq!(found, ["0000:01:00.0", "0000:01:10.1"]);
        assert_eq!((all[0].index, all[0].functions, &all[0].pf), (None, 2, &all[0].address));
        let expected = NetworkFunction {
            address: address("0000:01:10.1"),
            vendor: "8086".to_owned(),
            device: "10ca".to_owned(),
            driver: Some("igbvf".to_owned()),
            acpi_index: None,
            numa_node: Some(1),
            interfaces: vec!["eth2".to_owned()],
            link_type: None,
            rdma: vec!["mlx5_3".to_owned()],
            pf: address("0000:01:00.0"),
            pf_interface: Some("eth0".to_owned()),
            is_pf_up: Some(true),
            index: Some(1),
            functions: 0,
        };
        assert_eq!(all[1], expected);
        fs::remove_dir_all(vf.join("net")).unwrap();
        let away = tree.sysfs().network_function(&expected.address).unwrap();
        assert_eq!(away.link_type.as_deref(), Some("ether"), "of its card");
    }

    #[test]
    fn a_program_reaches_it_by_files_of_its_driver() {
        let tree = Tree::new("reach").with_functions(1);
        let (vf, sysfs) = (tree.0.join(PCI).join("0000:01:10.0"), tree.sysfs());
        let of = address("0000:01:10.0");
        let plain = sysfs.reach(&of);
        assert_eq!((plain.driver.as_deref(), plain.group, plain.files.len()), (Some("igbvf"), Some((8, false)), 0));
        for folder in ["infiniband_verbs/uverbs1", "infiniband_mad/umad1", "uio/uio0", "uio/..x", "infiniband/rocep1"] {
            fs::create_dir_all(vf.join(folder)).unwrap();
        }
        let group = tree.0.join("groups/8");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("name"), "vfio-noiommu\n").unwrap();
        fs::remove_file(vf.join("iommu_group")).unwrap();
        symlink(&group, vf.join("iommu_group")).unwrap();
        let reach = sysfs.reach(&of);
        assert_eq!(reach.files, ["/dev/infiniband/uverbs1", "/dev/infiniband/umad1", "/dev/uio0"]);
        assert_eq!((reach.group, reach.rdma), (Some((8, true)), vec!["rocep1".to_owned()]));
        assert_eq!(sysfs.reach(&address("0000:09:00.0")), Reach::default());
    }
}
