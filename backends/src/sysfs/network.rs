//! The PCI functions of a node that are network controllers, with all that one may be chosen by; and what the kernel has made
//! for a program that has one. Reads only.

use std::collections::BTreeMap;
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
/// Where programs find a device of virtio's.
const VIRTIO: &str = "/sys/bus/virtio/devices";

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
    /// The partition key of its InfiniBand interface, as a number.
    pub partition: Option<u16>,
    /// How it is used as a vDPA device, where it is one.
    pub vdpa: Option<VdpaUse>,
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

/// Who uses a vDPA device: which driver of the vDPA bus it is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VdpaUse {
    /// The kernel, as an interface of virtio's.
    Virtio,
    /// A program of user space, by a file.
    Vhost,
}

/// A vDPA device of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vdpa {
    /// Its name on its bus.
    pub name: String,
    /// Who uses it.
    pub usage: VdpaUse,
    /// The file of one for programs; of one for the kernel, the device on virtio's bus.
    pub path: Option<String>,
}

/// What is known of cards by now: each is read once, whatever number of functions it has.
#[derive(Debug, Default)]
struct Cards(BTreeMap<PciAddress, Card>);

#[derive(Debug, Clone, Default)]
struct Card {
    interface: Option<String>,
    is_up: Option<bool>,
    link_type: Option<String>,
    indexes: BTreeMap<PciAddress, u32>,
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
    /// Its vDPA device.
    pub vdpa: Option<Vdpa>,
}

impl Sysfs {
    /// All network controllers on the PCI bus, by address.
    #[must_use]
    pub fn network_functions(&self) -> Vec<NetworkFunction> {
        let (all, mut cards) = (names(&self.root.join(PCI)), Cards::default());
        all.iter().take(ENTRIES_MAX).filter_map(|name| self.function_among(&name.parse().ok()?, &mut cards)).collect()
    }

    /// The network controller of this address; none where there is none.
    #[must_use]
    pub fn network_function(&self, address: &PciAddress) -> Option<NetworkFunction> {
        self.function_among(address, &mut Cards::default())
    }

    fn function_among(&self, address: &PciAddress, cards: &mut Cards) -> Option<NetworkFunction> {
        let device = self.device(address);
        read(&device.join("class")).ok().filter(|class| class.starts_with(NETWORK))?;
        let identity = |name: &str| read(&device.join(name)).ok().map(|id| id.trim_start_matches("0x").to_owned());
        let physical = link_name(&device.join("physfn")).and_then(|name| name.parse::<PciAddress>().ok());
        let is_virtual = physical.is_some();
        let pf = physical.unwrap_or_else(|| address.clone());
        let card = cards.0.entry(pf.clone()).or_insert_with(|| self.card(&pf));
        let interfaces = self.interfaces(address);
        let link_type = match interfaces.first() {
            Some(name) => self.link_type(address, name),
            None => card.link_type.clone(),
        };
        let partition = interfaces.first().and_then(|name| read(&device.join("net").join(name).join("pkey")).ok());
        Some(NetworkFunction {
            vendor: identity("vendor").unwrap_or_default(),
            device: identity("device").unwrap_or_default(),
            driver: self.driver(address),
            acpi_index: read(&device.join("acpi_index")).ok().filter(|index| !index.is_empty()),
            numa_node: self.numa_node(address),
            rdma: names(&device.join("infiniband")),
            partition: partition.and_then(|key| u16::from_str_radix(key.strip_prefix("0x")?, 16).ok()),
            vdpa: self.vdpa(address).map(|vdpa| vdpa.usage),
            is_pf_up: card.is_up,
            index: card.indexes.get(address).copied().filter(|_| is_virtual),
            functions: self.functions_made(address).unwrap_or_default(),
            pf_interface: card.interface.clone(),
            address: address.clone(),
            interfaces,
            link_type,
            pf,
        })
    }

    fn card(&self, pf: &PciAddress) -> Card {
        let device = self.device(pf);
        let interface = self.uplink(pf);
        let all = (0..FUNCTIONS_MAX).map(|index| (index, link_name(&device.join(format!("virtfn{index}")))));
        let all = all.map_while(|(index, name)| Some((index, name?)));
        Card {
            is_up: interface.as_ref().and_then(|name| is_up(&device, name)),
            link_type: interface.as_ref().and_then(|name| self.link_type(pf, name)),
            indexes: all.filter_map(|(index, name)| Some((name.parse().ok()?, index))).collect(),
            interface,
        }
    }

    /// The vDPA device of a function, where it has one that somebody can use (Documentation/ABI/testing/sysfs-bus-vdpa).
    fn vdpa(&self, address: &PciAddress) -> Option<Vdpa> {
        let device = self.device(address);
        let numbered = |name: &String, begin: &str| {
            name.strip_prefix(begin)
                .is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
        };
        let name = names(&device).into_iter().find(|name| numbered(name, "vdpa"))?;
        let own = device.join(&name);
        let (usage, begin, place) = match link_name(&own.join("driver"))?.as_str() {
            "virtio_vdpa" => (VdpaUse::Virtio, "virtio", VIRTIO),
            "vhost_vdpa" => (VdpaUse::Vhost, "vhost-vdpa-", "/dev"),
            _ => return None,
        };
        let found = names(&own).into_iter().find(|name| numbered(name, begin));
        let path = found.map(|name| Path::new(place).join(name).to_string_lossy().into_owned());
        Some(Vdpa { name, usage, path })
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
        Reach {
            driver: self.driver(address),
            group,
            files: files.collect(),
            rdma: names(&device.join("infiniband")),
            vdpa: self.vdpa(address),
        }
    }
}

fn is_file_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

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
            partition: None,
            vdpa: None,
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

    #[test]
    fn a_card_is_read_once_whatever_number_of_functions_it_has() {
        let tree = Tree::new("once").with_functions(64);
        let devices = tree.0.join(PCI);
        for name in names(&devices) {
            fs::write(devices.join(name).join("class"), "0x020000\n").unwrap();
        }
        let (net, watch) = (devices.join("0000:01:00.0/net"), Inotify::init(InitFlags::IN_NONBLOCK).unwrap());
        fs::write(net.join("eth0/flags"), "0x1003\n").unwrap();
        // Of two that follow each other and are the same the kernel tells one: the file is read in between.
        let folder = watch.add_watch(&net, AddWatchFlags::IN_OPEN).unwrap();
        watch.add_watch(&net.join("eth0"), AddWatchFlags::IN_OPEN).unwrap();
        assert_eq!(tree.sysfs().network_functions().len(), 65);
        let opened = watch.read_events().unwrap();
        // Once for its name, once as a function of its own.
        assert_eq!(opened.iter().filter(|event| event.wd == folder && event.name.is_none()).count(), 2);
    }

    #[test]
    fn a_partition_key_and_a_vdpa_device_are_seen() {
        let tree = Tree::new("vdpa").with_functions(3);
        let (devices, sysfs) = (tree.0.join(PCI), tree.sysfs());
        let found = |index: u32| sysfs.network_function(&address(&format!("0000:01:10.{index}"))).unwrap();
        for (index, driver, child) in [(0, "vhost_vdpa", "vhost-vdpa-4"), (1, "virtio_vdpa", "virtio7"), (2, "", "x")] {
            let device = devices.join(format!("0000:01:10.{index}"));
            fs::write(device.join("class"), "0x020700\n").unwrap();
            fs::create_dir_all(device.join("vdpa3").join(child)).unwrap();
            fs::create_dir_all(device.join("vdpa_mgmt")).unwrap();
            if !driver.is_empty() {
                symlink(format!("/x/bus/vdpa/drivers/{driver}"), device.join("vdpa3/driver")).unwrap();
            }
        }
        assert_eq!([0, 1, 2].map(|index| found(index).vdpa), [Some(VdpaUse::Vhost), Some(VdpaUse::Virtio), None]);
        let path = |index: u32| sysfs.reach(&address(&format!("0000:01:10.{index}"))).vdpa.and_then(|vdpa| vdpa.path);
        let paths = [0, 1, 2].map(path);
        assert_eq!(paths, [Some("/dev/vhost-vdpa-4".to_owned()), Some(format!("{VIRTIO}/virtio7")), None]);
        assert_eq!(found(0).partition, None);
        fs::write(devices.join("0000:01:10.0/net/eth1/pkey"), "0x8001\n").unwrap();
        assert_eq!(found(0).partition, Some(0x8001));
    }
}
