//! The cards of a node that can have virtual functions, with all of these. Reads only.

use std::path::Path;

use super::{ENTRIES_MAX, FUNCTIONS_MAX, PCI, PciAddress, Sysfs, VirtualFunction, link_name, names, read};

/// An interface that is set up (`IFF_UP`, include/uapi/linux/if.h).
const UP: u32 = 1;

/// A physical function that can have virtual ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalFunction {
    /// Its address.
    pub address: PciAddress,
    /// Its interface; none where that is in another namespace, or its driver makes none.
    pub interface: Option<String>,
    /// Whether that is set up; none without an interface.
    pub is_up: Option<bool>,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// The NUMA node it is near; none where the machine has none.
    pub numa_node: Option<u32>,
    /// How many virtual functions it can have (`sriov_totalvfs`).
    pub most: u32,
    /// Those that it has, by index.
    pub functions: Vec<VirtualFunction>,
}

impl Sysfs {
    /// All physical functions that can have virtual ones, by address; none where there is no sysfs.
    #[must_use]
    pub fn physical_functions(&self) -> Vec<PhysicalFunction> {
        let all = names(&self.root.join(PCI));
        all.iter().take(ENTRIES_MAX).filter_map(|name| self.physical_function(&name.parse().ok()?)).collect()
    }

    /// The card of that name: its interface's, or its address.
    #[must_use]
    pub fn physical_function_named(&self, name: &str) -> Option<PhysicalFunction> {
        let is_named = |pf: &PhysicalFunction| {
            pf.interface.as_deref() == Some(name) || pf.address.as_str().eq_ignore_ascii_case(name)
        };
        self.physical_functions().into_iter().find(is_named)
    }

    fn physical_function(&self, address: &PciAddress) -> Option<PhysicalFunction> {
        let device = self.device(address);
        let most = read(&device.join("sriov_totalvfs")).ok()?.parse().ok().filter(|most| *most > 0)?;
        let interface = self.uplink(address);
        let is_up = interface.as_ref().and_then(|name| is_up(&device, name));
        let functions = (0..FUNCTIONS_MAX)
            .map_while(|index| Some((index, link_name(&device.join(format!("virtfn{index}")))?)))
            .filter_map(|(index, name)| Some(self.function_of(address, index, &interface, name.parse().ok()?)))
            .collect();
        Some(PhysicalFunction {
            is_up,
            driver: self.driver(address),
            numa_node: self.numa_node(address),
            most,
            functions,
            interface,
            address: address.clone(),
        })
    }

    /// The virtual function of an index, which is known to be there.
    pub(super) fn function_of(
        &self,
        pf: &PciAddress,
        index: u32,
        pf_interface: &Option<String>,
        address: PciAddress,
    ) -> VirtualFunction {
        VirtualFunction {
            pf: pf.clone(),
            index,
            pf_interface: pf_interface.clone(),
            interfaces: self.interfaces(&address),
            driver: self.driver(&address),
            iommu_group: self.iommu_group(&address),
            numa_node: self.numa_node(&address),
            address,
        }
    }

    /// A machine without nodes says -1.
    pub(super) fn numa_node(&self, address: &PciAddress) -> Option<u32> {
        read(&self.device(address).join("numa_node")).ok().and_then(|text| text.parse().ok())
    }
}

/// Whether an interface of a device is set up; none where there is no such interface.
pub(super) fn is_up(device: &Path, interface: &str) -> Option<bool> {
    let flags = read(&device.join("net").join(interface).join("flags")).ok()?;
    Some(u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()? & UP != 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::Tree;
    use super::*;

    #[test]
    fn a_card_is_all_of_its_functions() {
        let tree = Tree::new("card").with_functions(12);
        let pf = tree.0.join(PCI).join("0000:01:00.0");
        assert_eq!(tree.sysfs().physical_functions(), [], "what can have no virtual function is no card");
        fs::write(pf.join("sriov_totalvfs"), "63\n").unwrap();
        fs::write(pf.join("net/eth0/flags"), "0x1003\n").unwrap();
        let all = tree.sysfs().physical_functions();
        let [card] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((card.interface.as_deref(), card.is_up, card.most), (Some("eth0"), Some(true), 63));
        assert_eq!(card.numa_node, None);
        // The same as one by one, and in the order of their numbers: `virtfn10` is not before `virtfn2`.
        let one_by_one = card.functions.iter().map(|vf| tree.sysfs().virtual_function(&vf.address).unwrap());
        assert_eq!(card.functions, one_by_one.collect::<Vec<_>>());
        assert_eq!(card.functions.iter().map(|vf| vf.index).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
        fs::write(pf.join("net/eth0/flags"), "0x1002\n").unwrap();
        for name in ["eth0", "0000:01:00.0"] {
            assert_eq!(tree.sysfs().physical_function_named(name).unwrap().is_up, Some(false));
        }
        assert_eq!(tree.sysfs().physical_function_named("eth1"), None, "the interface of a virtual function");
    }

    #[test]
    fn no_sysfs_has_no_card() {
        let tree = Tree::new("none");
        fs::remove_dir_all(&tree.0).unwrap();
        assert_eq!(tree.sysfs().physical_functions(), []);
    }
}
