//! The node's cards that have virtual functions, and who holds which: sysfs, the claims and the journal beside each other, and what of it is
//! odd. Changes nothing. Settings of a function that no record names are not odd: they may be whoever's.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use backends::sriov::{Binding, User, Users};
use backends::sysfs::{PhysicalFunction, Sysfs, VirtualFunction};
use serde::Serialize;

use crate::alive::Life;
use crate::devices::claim::Ledger;
use crate::homecoming::peer;
use crate::journal::{self, Allotted, Attachment, Record, Step};
use crate::native;

/// The driver that gives a function to a program of user space, behind the IOMMU.
const VFIO: &str = "vfio-pci";

/// A card: a physical function that can have virtual ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Card {
    /// Its PCI address.
    pub address: String,
    /// Its interface, where it has one in the caller's namespace.
    pub interface: Option<String>,
    /// Whether that is up.
    pub is_up: Option<bool>,
    /// Its driver.
    pub driver: Option<String>,
    /// The NUMA node it is near.
    pub numa_node: Option<u32>,
    /// How many virtual functions it can have.
    pub most: u32,
    /// Those that it has.
    pub functions: Vec<Function>,
    /// What is odd about it and them.
    pub odd: Vec<Odd>,
}

/// Something that should not be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Odd {
    /// What, as a sentence.
    pub what: String,
    /// What mends it.
    pub remedy: String,
}

/// A virtual function of a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Function {
    /// Which of its card's, from 0 on.
    pub index: u32,
    /// Its PCI address.
    pub address: String,
    /// Its driver.
    pub driver: Option<String>,
    /// Its IOMMU group, as it is in this boot.
    pub iommu_group: Option<u32>,
    /// The NUMA node it is near.
    pub numa_node: Option<u32>,
    /// Its interface, where it has one in the caller's namespace.
    pub interface: Option<String>,
    /// Who has it.
    pub holder: Option<Holder>,
    /// The program of user space that has it open, for whomever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Why it is not known who has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unclear: Option<String>,
}

impl Function {
    /// Whether somebody has it, as far as that is known.
    pub fn is_held(&self) -> bool {
        self.holder.is_some() || self.user.is_some()
    }

    /// Whether nobody has it, and that is known.
    pub fn is_free(&self) -> bool {
        !self.is_held() && self.unclear.is_none()
    }
}

/// Who has a function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// `namespace/name` of the pod; empty where the runtime named none.
    pub pod: String,
    /// The container id; empty where only its namespace is known.
    pub sandbox: String,
    /// The network namespace.
    pub netns: String,
    /// The interface in the pod; empty where that is not known.
    pub interface: String,
    /// sriov-cni attached it, and not plexus.
    pub by_peer: bool,
}

/// What is known of who holds what.
#[derive(Debug)]
pub struct Books<'a> {
    /// The state directory: the claims.
    pub state_dir: &'a Path,
    /// Where sriov-cni keeps its own.
    pub peer_dir: &'a Path,
    /// The journal.
    pub records: &'a [Record],
    /// The programs of user space.
    pub users: &'a Users,
}

/// All cards, and what is odd about them. `life` is asked of holders' records only.
pub fn look(sysfs: &Sysfs, books: &Books, life: &dyn Fn(&Record) -> Life) -> Vec<Card> {
    let mut files: BTreeMap<String, Vec<&Record>> = BTreeMap::new();
    for record in books.records {
        files.entry(journal::file_name(&record.intent.key)).or_default().push(record);
    }
    let ledger = Ledger::new(books.state_dir);
    let look = Look { ledger, files, books, life };
    sysfs.physical_functions().into_iter().map(|pf| look.card(sysfs, pf)).collect()
}

struct Look<'a> {
    ledger: Ledger,
    files: BTreeMap<String, Vec<&'a Record>>,
    books: &'a Books<'a>,
    life: &'a dyn Fn(&Record) -> Life,
}

impl Look<'_> {
    fn card(&self, sysfs: &Sysfs, pf: PhysicalFunction) -> Card {
        let mut odd = Vec::new();
        let functions: Vec<Function> = pf.functions.into_iter().map(|vf| self.function(sysfs, vf, &mut odd)).collect();
        let held = functions.iter().filter(|function| function.is_held()).count();
        if held > 0 && pf.is_up == Some(false) {
            let name = pf.interface.as_deref().unwrap_or_default();
            let what = format!("{name} ({}) is down, and {held} of its functions are held", pf.address);
            odd.push(Odd { what, remedy: format!("ip link set {name} up") });
        }
        Card {
            address: pf.address.to_string(),
            interface: pf.interface,
            is_up: pf.is_up,
            driver: pf.driver,
            numa_node: pf.numa_node,
            most: pf.most,
            functions,
            odd,
        }
    }

    fn function(&self, sysfs: &Sysfs, vf: VirtualFunction, odd: &mut Vec<Odd>) -> Function {
        let address = vf.address.to_string();
        let (holder, unclear) = match self.holder(&address, odd) {
            Ok(holder) => (holder, None),
            Err(why) => {
                odd.push(Odd { what: format!("who has {address} is not known: {why}"), remedy: String::new() });
                (None, Some(why))
            }
        };
        let function = Function {
            index: vf.index,
            user: self.books.users.of(sysfs, &vf.address),
            address,
            driver: vf.driver,
            iommu_group: vf.iommu_group,
            numa_node: vf.numa_node,
            interface: vf.interfaces.into_iter().next(),
            holder,
            unclear,
        };
        odd.extend(self.left(&function));
        function
    }

    /// To unbind one that somebody has would wait for as long: what mends this is not said of it.
    fn left(&self, function: &Function) -> Option<Odd> {
        let Function { address, driver, .. } = function;
        let is_left = function.is_free() && driver.as_deref() == Some(VFIO) && self.was_interface(address);
        is_left.then(|| Odd {
            what: format!("{address} is bound to {VFIO} and held by nobody, and had an interface when it was attached"),
            remedy: format!(
                "empty driver_override of {address}, and write the address to drivers/{VFIO}/unbind and to drivers_probe (/sys/bus/pci)"
            ),
        })
    }

    /// Who has a function by the books; or why they do not tell.
    fn holder(&self, address: &str, odd: &mut Vec<Odd>) -> Result<Option<Holder>, String> {
        let claim = self.ledger.holder(&Allotted { resource: String::new(), id: address.to_owned() });
        let Some(name) = claim.map_err(|e| format!("claim cannot be read: {}", native::chain(&e)))? else {
            return self.by_peer(address);
        };
        let Some(records) = self.files.get(&name) else {
            // One that leads to no record is nobody's.
            let path = self.books.state_dir.join(journal::RECORDS).join(&name);
            return match path.symlink_metadata() {
                Err(e) if e.kind() == ErrorKind::NotFound => self.by_peer(address),
                _ => Err(format!("record {name}, which has claimed it, cannot be read")),
            };
        };
        let Some(last) = records.last() else { return Ok(None) };
        let attached = records.iter().rev().find_map(|record| {
            let attachment = record.intent.attachments.iter().find(|attachment| has(attachment, address))?;
            Some((&record.intent, attachment.ifname.clone()))
        });
        // It was claimed a moment ago, and what is attached is not written yet.
        let (intent, interface) = attached.unwrap_or_else(|| (&last.intent, String::new()));
        let pod = intent.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default();
        let sandbox = intent.key.sandbox.clone();
        if records.iter().all(|record| (self.life)(record) == Life::Ended) {
            let what = format!("{address} is held for container {sandbox}, which is gone");
            odd.push(Odd { what, remedy: "plexus gc".to_owned() });
        }
        Ok(Some(Holder { pod, sandbox, netns: intent.netns.clone(), interface, by_peer: false }))
    }

    fn by_peer(&self, address: &str) -> Result<Option<Holder>, String> {
        let netns = peer::noted(self.books.peer_dir, address);
        let netns = netns.map_err(|e| format!("what sriov-cni noted of it cannot be read: {e}"))?;
        let holder = |netns: PathBuf| Holder { netns: netns.display().to_string(), by_peer: true, ..Holder::default() };
        Ok(netns.map(holder))
    }

    /// Whether some record says that the function had an interface before it was given to a program of user space.
    fn was_interface(&self, address: &str) -> bool {
        let attachments = self.books.records.iter().flat_map(|record| &record.intent.attachments);
        attachments.flat_map(|attachment| &attachment.steps).filter_map(function_of).any(|function| {
            function.address.as_str() == address
                && function.interface.is_some()
                && function.rebound == Some(Binding::Vfio)
        })
    }
}

fn function_of(step: &Step) -> Option<&backends::sriov::Function> {
    step.function.as_deref()
}

/// Whether an attachment was given the device of that address.
fn has(attachment: &Attachment, address: &str) -> bool {
    attachment.device.as_ref().is_some_and(|device| device.id.eq_ignore_ascii_case(address))
        || attachment.steps.iter().filter_map(function_of).any(|function| function.address.as_str() == address)
}

#[cfg(test)]
mod tests;
