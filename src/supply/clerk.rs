//! Gives devices out, as the kubelet asks for it: answers for containers, and what is written down of devices then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use backends::sysfs::{PciAddress, Reach, Sysfs};

use super::answer::{Answer, Node, answer, find};
use super::cdi;
use super::stock::{DEVICES_MAX, Shelf, Stock};
use crate::devices::description::Known;
use crate::devices::{ID_BYTES_MAX, description};
use crate::journal::Allotted;
use crate::log::warn;

/// A kubelet asks for one container at a time; its protocol allows more.
const CONTAINERS_MAX: usize = 64;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Clerk {
    sysfs: Sysfs,
    cdi_dir: Option<PathBuf>,
}

impl Node for Clerk {
    fn reach(&self, address: &PciAddress) -> Reach {
        self.sysfs.reach(address)
    }

    /// In a container the node's files are not here, and what the kernel says of them is.
    fn has(&self, file: &str) -> bool {
        let name = Path::new(file).file_name().and_then(|name| name.to_str());
        Path::new(file).exists() || name.is_some_and(|name| self.sysfs.has_misc(name))
    }
}

/// What no kubelet asks: something that is no name, something twice, or more than a node has.
fn check(shelf: &Shelf, containers: &[Vec<String>]) -> Result<(), String> {
    let of = shelf.resource.full_name();
    if containers.len() > CONTAINERS_MAX {
        return Err(format!("devices of {of} for more than {CONTAINERS_MAX} containers are asked for"));
    }
    let mut asked = BTreeSet::new();
    for id in containers.iter().flatten() {
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(format!("{of}: {} bytes are no name of a device", id.len()));
        }
        if asked.len() >= DEVICES_MAX {
            return Err(format!("more than {DEVICES_MAX} devices of {of} are asked for"));
        }
        if !asked.insert(id) {
            return Err(format!("device {id} of {of} is asked for twice"));
        }
    }
    Ok(())
}

impl Clerk {
    /// Who describes devices for the runtime in this folder, if in any.
    pub fn new(cdi_dir: Option<PathBuf>) -> Clerk {
        Clerk { sysfs: Sysfs::default(), cdi_dir }
    }

    /// Gives devices of a resource to containers: an answer for each.
    ///
    /// # Errors
    /// A sentence: a device is not there to be given, or cannot be described for a runtime that would look for it.
    pub fn give(&self, stock: &Stock, resource: &str, containers: &[Vec<String>]) -> Result<Vec<Answer>, String> {
        let shelf = stock.shelf(resource).ok_or_else(|| format!("{resource} is not offered"))?;
        check(shelf, containers)?;
        let by_cdi = self.cdi_dir.is_some();
        let answers: Vec<Answer> =
            containers.iter().map(|ids| answer(shelf, ids, self, by_cdi)).collect::<Result<_, _>>()?;
        if let Some(dir) = &self.cdi_dir {
            cdi::write(dir, shelf, self).map_err(|e| format!("describing {resource} in {}: {e}", dir.display()))?;
        }
        for id in containers.iter().flatten() {
            self.describe(shelf, id)?;
        }
        Ok(answers)
    }

    /// Describes for the runtime what is offered, before any of it is given. What stands in the way of it.
    pub(super) fn describe_all(&self, stock: &Stock) -> Vec<String> {
        let Some(dir) = &self.cdi_dir else { return Vec::new() };
        let tidied = cdi::tidy(dir, &stock.shelves);
        let tidied = tidied.map_err(|e| {
            format!("removing descriptions of resources that there are no more from {}: {e}", dir.display())
        });
        let written = stock.shelves.iter().map(|shelf| {
            let written = cdi::write(dir, shelf, self);
            written.map_err(|e| format!("describing {} in {}: {e}", shelf.resource.full_name(), dir.display()))
        });
        std::iter::once(tidied).chain(written).filter_map(Result::err).collect()
    }

    /// A pod can be attached without its device's description: it is said, and no more.
    fn describe(&self, shelf: &Shelf, id: &str) -> Result<(), String> {
        let (address, device) = find(shelf, id)?;
        let reach = self.sysfs.reach(address);
        let rdma = if device.besides.is_rdma { reach.rdma } else { Vec::new() };
        let known = Known { rdma, vdpa: reach.vdpa.filter(|_| device.besides.is_vdpa) };
        let allotted = Allotted { resource: shelf.resource.full_name(), id: id.to_owned() };
        if let Err(e) = description::describe(&allotted, &known) {
            warn(&format!("describing device {id} of {}: {e}", allotted.resource));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_only_the_node_has_is_known_by_sysfs() {
        let root = std::env::temp_dir().join(format!("plexus-clerk-{}", std::process::id()));
        fs::create_dir_all(root.join("class/misc/net-of-nobody")).unwrap();
        let clerk = Clerk { sysfs: Sysfs::at(&root), cdi_dir: None };
        let has = ["/dev/net-of-nobody", "/dev/net/net-of-nobody", "/dev/other-of-nobody", "/dev/null", "/"];
        let has = has.map(|file| clerk.has(file));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(has, [true, true, false, true, true]);
    }
}
