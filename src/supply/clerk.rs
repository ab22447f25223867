//! Gives devices out, as the kubelet asks for it: answers for containers, and what is written down of devices then.

use std::path::{Path, PathBuf};

use backends::sysfs::{PciAddress, Reach, Sysfs};

use super::answer::{Answer, Node, answer, find};
use super::cdi;
use super::stock::{Shelf, Stock};
use crate::devices::description;
use crate::journal::Allotted;
use crate::log::warn;

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

    /// Describes for the runtime what is offered, before any of it is given.
    pub(super) fn describe_all(&self, stock: &Stock) {
        let Some(dir) = &self.cdi_dir else { return };
        if let Err(e) = cdi::tidy(dir, &stock.shelves) {
            warn(&format!("removing descriptions of resources that there are no more from {}: {e}", dir.display()));
        }
        for shelf in &stock.shelves {
            if let Err(e) = cdi::write(dir, shelf, self) {
                warn(&format!("describing {} in {}: {e}", shelf.resource.full_name(), dir.display()));
            }
        }
    }

    /// A pod can be attached without its device's description: it is said, and no more.
    fn describe(&self, shelf: &Shelf, id: &str) -> Result<(), String> {
        let (address, device) = find(shelf, id)?;
        let rdma = if device.is_rdma { self.sysfs.reach(address).rdma } else { Vec::new() };
        let allotted = Allotted { resource: shelf.resource.full_name(), id: id.to_owned() };
        if let Err(e) = description::describe(&allotted, &rdma) {
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
