//! A node with one card, as files of a test's own: sysfs, and beside it the place for a journal and claims.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// The directory that holds all of it, for as long as this lives.
pub(crate) struct Node(pub(crate) PathBuf);

impl Drop for Node {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

impl Node {
    /// The card eth0 (0000:01:00.0) with so many functions (0000:01:10.N), each with an interface on the host, and nothing attached.
    pub(crate) fn new(name: &str, functions: u32) -> Self {
        let node = Self(std::env::temp_dir().join(format!("plexus-card-{name}-{}", std::process::id())));
        drop(fs::remove_dir_all(&node.0));
        let pf = node.device("0000:01:00.0");
        fs::create_dir_all(pf.join("net/eth0")).unwrap();
        fs::write(pf.join("net/eth0/flags"), "0x1003\n").unwrap();
        fs::write(pf.join("sriov_totalvfs"), "7\n").unwrap();
        for index in 0..functions {
            let name = format!("0000:01:10.{index}");
            let vf = node.device(&name);
            symlink("../0000:01:00.0", vf.join("physfn")).unwrap();
            symlink(format!("../{name}"), pf.join(format!("virtfn{index}"))).unwrap();
            symlink(format!("/x/iommu_groups/{}", 8 + index), vf.join("iommu_group")).unwrap();
            node.bind(index, "igbvf");
            fs::create_dir_all(vf.join(format!("net/eth{}", index + 1))).unwrap();
        }
        node
    }

    /// The directory of a PCI function.
    pub(crate) fn device(&self, address: &str) -> PathBuf {
        let device = self.0.join("sys/bus/pci/devices").join(address);
        fs::create_dir_all(&device).unwrap();
        device
    }

    /// Gives a virtual function to a driver.
    pub(crate) fn bind(&self, index: u32, driver: &str) {
        let link = self.device(&format!("0000:01:10.{index}")).join("driver");
        drop(fs::remove_file(&link));
        symlink(format!("/x/drivers/{driver}"), link).unwrap();
    }
}
