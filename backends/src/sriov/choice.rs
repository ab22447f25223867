//! Which functions of a card can be given to a pod for which none was allotted. Who has one is not known here.

use std::collections::BTreeSet;

use super::binding::{self, VFIO};
use super::conf::{Binding, Spec};
use crate::error::{Error, ErrorKind};
use crate::host_device::serves_user_space;
use crate::sysfs::{PhysicalFunction, Sysfs, VirtualFunction};

/// A card with its functions, in the order of their numbers.
fn card_of(sysfs: &Sysfs, card: &str) -> Result<PhysicalFunction, Error> {
    let missing = |text: String| Error::new(ErrorKind::LinkMissing, text);
    let pf = sysfs.physical_function_named(card);
    let pf = pf.ok_or_else(|| missing(format!("pf {card} is no card with virtual functions (SR-IOV) here")))?;
    if pf.functions.is_empty() {
        return Err(missing(format!("pf {card} has no virtual function: sriov_numvfs of {} is 0", pf.address)));
    }
    if pf.interface.is_none() {
        let why = "it is in another network namespace, or its driver makes none";
        return Err(missing(format!("pf {card} has no interface here: {why}")));
    }
    Ok(pf)
}

impl Spec {
    /// The functions of its cards, in the order in which they are given out: first those of the NUMA node of the processors that they should be
    /// near, then in the order of the cards in the configuration, then of their numbers; those of a card that is down after all others. A card that
    /// is not here, or has its interface elsewhere, is left out: a configuration may be for nodes of several makes.
    ///
    /// # Errors
    /// [`ErrorKind::LinkMissing`] where none of the cards is here, or has a function.
    pub fn functions(&self, sysfs: &Sysfs) -> Result<Vec<VirtualFunction>, Error> {
        let (mut functions, mut missing) = (Vec::new(), Vec::new());
        for card in &self.pf {
            match card_of(sysfs, card) {
                Ok(pf) => {
                    functions.extend(pf.functions.into_iter().map(|function| (pf.is_up == Some(false), function)))
                }
                Err(e) => missing.push(e),
            }
        }
        if functions.is_empty() && !missing.is_empty() {
            let said: Vec<String> = missing.iter().map(Error::chain).collect();
            return Err(Error::new(ErrorKind::LinkMissing, said.join("; ")));
        }
        // A card that is named by its interface and by its address is one.
        let mut seen = BTreeSet::new();
        functions.retain(|(_, function)| seen.insert(function.address.clone()));
        let nodes = if self.pf.len() > 1 { sysfs.nodes_of(&self.near) } else { BTreeSet::new() };
        let is_near = |function: &VirtualFunction| function.numa_node.is_some_and(|node| nodes.contains(&node));
        functions.sort_by_key(|(is_down, function)| (*is_down, !is_near(function)));
        Ok(functions.into_iter().map(|(_, function)| function).collect())
    }

    /// Whether there is what every ADD needs: a card, with functions, and the driver that they are to be bound to.
    ///
    /// # Errors
    /// Those of [`Spec::functions`]; [`ErrorKind::Refused`] without the driver.
    pub(crate) fn ready(&self, sysfs: &Sysfs) -> Result<(), Error> {
        if !self.pf.is_empty() {
            self.functions(sysfs)?;
        }
        match self.binding {
            Some(Binding::Vfio) if !sysfs.has_driver(VFIO) => {
                Err(Error::new(ErrorKind::Refused, "vfio-pci is not loaded: modprobe vfio-pci"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a function is as the pod needs it, or can be made so: it has an interface on the host, or, where a program of user
    /// space is to have it, is bound to vfio-pci and nobody has it; or it has no driver, and the configuration names one.
    #[must_use]
    pub fn fits(&self, sysfs: &Sysfs, function: &VirtualFunction) -> bool {
        let Some(driver) = &function.driver else { return self.binding.is_some() };
        if serves_user_space(driver) {
            let wanted = self.binding == Some(Binding::Vfio) && driver == VFIO;
            return wanted && binding::check_free(sysfs, &function.address).is_ok();
        }
        !function.interfaces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sriov::Conf;
    use crate::sysfs::tests::Tree;

    fn spec(rest: &str) -> Spec {
        serde_json::from_str::<Conf>(&format!(r#"{{"pf":"eth0"{rest}}}"#)).unwrap().validate().unwrap()
    }

    #[test]
    fn it_is_ready_with_its_card_and_its_driver() {
        let tree = Tree::new("ready").with_functions(1);
        let ready = |rest: &str| spec(rest).ready(&tree.sysfs()).map_err(|e| e.chain());
        assert_eq!(ready(""), Err("pf eth0 is no card with virtual functions (SR-IOV) here".to_owned()));
        fs::write(tree.0.join("bus/pci/devices/0000:01:00.0/sriov_totalvfs"), "7\n").unwrap();
        assert_eq!((ready(""), ready(r#","driver":"netdev""#)), (Ok(()), Ok(())));
        let vfio = r#","driver":"vfio-pci""#;
        assert_eq!(ready(vfio), Err("vfio-pci is not loaded: modprobe vfio-pci".to_owned()));
        fs::create_dir_all(tree.0.join("bus/pci/drivers/vfio-pci")).unwrap();
        assert_eq!(ready(vfio), Ok(()));
    }

    #[test]
    fn what_has_an_interface_on_the_host_fits_and_vfio_only_who_wants_it() {
        let tree = Tree::new("choice").with_functions(3);
        let sysfs = tree.sysfs();
        let devices = tree.0.join("bus/pci/devices");
        let none = card_of(&sysfs, "eth0").unwrap_err().chain();
        assert_eq!(none, "pf eth0 is no card with virtual functions (SR-IOV) here");
        fs::write(devices.join("0000:01:00.0/sriov_totalvfs"), "7\n").unwrap();
        fs::remove_dir_all(devices.join("0000:01:10.0/net")).unwrap();
        let vfio = devices.join("0000:01:10.1");
        fs::remove_file(vfio.join("driver")).unwrap();
        symlink("/x/drivers/vfio-pci", vfio.join("driver")).unwrap();
        fs::remove_dir_all(vfio.join("net")).unwrap();
        fs::remove_file(vfio.join("iommu_group")).unwrap();
        let fit = |rest: &str| -> Vec<u32> {
            let all = card_of(&sysfs, "0000:01:00.0").unwrap().functions;
            all.iter().filter(|vf| spec(rest).fits(&sysfs, vf)).map(|vf| vf.index).collect()
        };
        assert_eq!(fit(""), [2], "the first is in another namespace, the second has no interface");
        assert_eq!(fit(r#","driver":"netdev""#), [2]);
        assert_eq!(fit(r#","driver":"vfio-pci""#), [1, 2]);
        fs::remove_file(vfio.join("driver")).unwrap();
        assert_eq!((fit(""), fit(r#","driver":"netdev""#)), (vec![2], vec![1, 2]), "one without a driver");
    }
}
