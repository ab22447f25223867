//! A request's devices: claimed before anything of it is attached, each once on the node, and given back by its record.
//!
//! A claim whose holder has ended does not block: the holder's record is held, what it still says is detached, and the claim is
//! free. What a device is, and how it becomes an interface, is not known here.

mod choice;

use std::path::{Path, PathBuf};

use backends::NetNs;
use backends::sysfs::{PciAddress, Sysfs};
use serde_json::{Map, Value};

use crate::cni::error::{CniError, Code};
use crate::detach;
use crate::devices::claim::{self, Error, Ledger, Taken};
use crate::devices::description::{self, Known};
use crate::homecoming::peer;
use crate::journal::{self, Allotted, Journal, Key, Record};
use crate::log::warn;
use crate::native;
use crate::plan::{Attachment, Plan};

pub use choice::{Chosen, Stock, choose, prefer};

/// The devices of a plan, as far as this request has claimed them.
#[derive(Debug)]
pub struct Claims {
    ledger: Ledger,
    record: String,
    /// With the interface that each is of.
    taken: Vec<(String, Allotted)>,
}

impl Claims {
    /// Claims nothing yet. `record`: the name of the request's record, which is held.
    pub fn new(state_dir: &Path, record: &str) -> Claims {
        Claims { ledger: Ledger::new(state_dir), record: record.to_owned(), taken: Vec::new() }
    }

    /// Claims all devices of a plan.
    ///
    /// # Errors
    /// Another attachment has got one of them since [`clear`]: code 11.
    pub fn take(&mut self, plan: &Plan) -> Result<(), CniError> {
        for (attachment, device) in wanted(plan) {
            match self.ledger.take(device, &self.record).map_err(|e| refuse(&e))? {
                Taken::Now => self.taken.push((attachment.ifname.clone(), device.clone())),
                // An ADD that is repeated: what it had before stays its own, whatever becomes of this one.
                Taken::Before => {}
                Taken::ByOther(holder) => return Err(named(attachment, at_work(device, &holder))),
            }
        }
        Ok(())
    }

    /// Gives back what this request claimed, but for the devices of the interfaces in `away`.
    ///
    /// # Errors
    /// What could not be given back.
    pub fn give_back(self, away: &[&str]) -> Result<(), CniError> {
        let home = self.taken.iter().filter(|(ifname, _)| !away.contains(&ifname.as_str()));
        let one = |device| self.ledger.release(device, &self.record).map_err(|e| refuse(&e)).err();
        detach::join(home.filter_map(|(_, device)| one(device)).collect())
    }
}

/// Frees the devices of a plan whose holders have ended. That may change the host: it comes before anything is looked up there.
///
/// # Errors
/// Another attachment has one of them: code 11, its pod is named.
pub fn clear(plan: &Plan, journal: &Journal) -> Result<(), CniError> {
    let (ledger, own) = (Ledger::new(&plan.state_dir), journal::file_name(&plan.key));
    for (attachment, device) in wanted(plan) {
        let netns = peer::holder(Path::new(peer::PLACE), &device.id);
        if let Some(netns) = netns.filter(|netns| NetNs::open(netns).is_ok()) {
            let by = format!("by the pod of namespace {}, from sriov-cni", netns.display());
            return Err(named(attachment, held(device, &by)));
        }
        let holder = ledger.holder(device).map_err(|e| refuse(&e))?.filter(|holder| *holder != own);
        if let Some(holder) = holder {
            free(&ledger, device, &holder, journal, &plan.state_dir).map_err(|e| named(attachment, e))?;
        }
    }
    Ok(())
}

fn wanted(plan: &Plan) -> impl Iterator<Item = (&Attachment, &Allotted)> {
    plan.attachments.iter().filter_map(|attachment| Some((attachment, attachment.device.as_ref()?)))
}

fn named(attachment: &Attachment, error: CniError) -> CniError {
    let msg = format!("network {:?} ({}): {}", attachment.network, attachment.ifname, error.msg);
    CniError { msg, ..error }
}

fn at_work(device: &Allotted, holder: &str) -> CniError {
    held(device, &format!("by the attachment of record {holder}, which is being attached or deleted"))
}

/// A record that cannot be held: another command at work is one to try again.
fn unwritten(error: &journal::Error) -> CniError {
    CniError::new(if error.is_held() { Code::TryAgainLater } else { Code::Io }, native::chain(error))
}

fn refuse(error: &Error) -> CniError {
    CniError::new(Code::Io, native::chain(error))
}

fn held(device: &Allotted, by: &str) -> CniError {
    let of = if device.resource.is_empty() { String::new() } else { format!(" of resource {}", device.resource) };
    CniError::new(Code::TryAgainLater, format!("device {}{of} is held {by}", device.id))
}

/// Frees a device whose holder has ended.
fn free(ledger: &Ledger, device: &Allotted, holder: &str, journal: &Journal, state_dir: &Path) -> Result<(), CniError> {
    let unclear = |e: &journal::Error| match e.is_held() {
        true => at_work(device, holder),
        false => {
            held(device, &format!("by the attachment of record {holder}, which cannot be read: {}", native::chain(e)))
        }
    };
    let Some(record) = journal.hold_named(holder).map_err(|e| unclear(&e))? else { return Ok(()) };
    let records = record.records().map_err(|e| unclear(&e))?;
    if let Some(by) = records.iter().find_map(|record| holder_of(record, device).transpose()).transpose()? {
        return Err(held(device, &by));
    }
    let ended_now =
        records.iter().map(|record| detach::is_of_this_boot(&record.intent)).collect::<Result<Vec<_>, _>>()?;
    let has_device =
        |record: &Record| devices_of(&record.intent).any(|(_, own)| claim::name(own) == claim::name(device));
    // What was attached in another boot is collected by the first call of this one, or deleted by the runtime.
    if ended_now.iter().all(|now| *now) && records.iter().any(has_device) {
        for ended in records.iter().rev() {
            detach::detach(detach::of_record(ended, None, state_dir)?)?;
        }
        warn(&format!("device {}: the pod that had it has gone, without a DEL; it is deleted now", device.id));
        record.forget().map_err(|e| unclear(&e))?;
    }
    ledger.release(device, holder).map_err(|e| refuse(&e))?;
    if records.is_empty() {
        record.forget().map_err(|e| unclear(&e))?;
    }
    Ok(())
}

/// Who has the device by this record; none where that one has ended, or never had it.
fn holder_of(record: &Record, device: &Allotted) -> Result<Option<String>, CniError> {
    let intent = &record.intent;
    let Some((attachment, _)) = devices_of(intent).find(|(_, own)| claim::name(own) == claim::name(device)) else {
        return Ok(None);
    };
    // A namespace that cannot be looked at may be there.
    if matches!(detach::namespace_of(intent, None), Ok(None)) {
        return Ok(None);
    }
    let Key { sandbox, .. } = &intent.key;
    let pod = intent.pod.as_ref().map(|pod| format!("pod {}/{}, ", pod.namespace, pod.name)).unwrap_or_default();
    let journal::Attachment { ifname, network, .. } = attachment;
    Ok(Some(format!(
        "by {pod}container {sandbox}, as {ifname} of network {network:?}: it is free when that is deleted"
    )))
}

fn devices_of(intent: &journal::Intent) -> impl Iterator<Item = (&journal::Attachment, &Allotted)> {
    intent.attachments.iter().filter_map(|attachment| Some((attachment, attachment.device.as_ref()?)))
}

/// Puts what is known of an attachment's device where its plugins look for it. Nothing depends on it but what they make of it.
pub fn publish(plan: &Plan, attachment: &Attachment) {
    let Some(device) = &attachment.device else { return };
    let path = description_of(plan, attachment);
    // No device plugin describes what is of no resource.
    let published = match device.id.parse::<PciAddress>() {
        Ok(address) if device.resource.is_empty() => {
            let known = Known { rdma: Sysfs::default().reach(&address).rdma, vdpa: None };
            description::publish_own(device, &known, &path)
        }
        _ => description::publish(device, &path),
    };
    if let Err(e) = published {
        warn(&format!("the description of device {} is not copied to {}: {e}", device.id, path.display()));
    }
}

/// What is known of an attachment's device by now, for its network-status.
pub fn described(plan: &Plan, attachment: &Attachment) -> Option<Map<String, Value>> {
    attachment.device.as_ref()?;
    let path = description_of(plan, attachment);
    let loaded = description::load(&path);
    loaded.unwrap_or_else(|e| {
        warn(&format!("the description of a device in {} is not in the network-status: {e}", path.display()));
        None
    })
}

/// Takes it away again.
///
/// # Errors
/// It cannot be removed.
pub fn unpublish(plan: &Plan, attachment: &Attachment) -> Result<(), CniError> {
    detach::remove_description(&attachment.network, &plan.key.sandbox, &attachment.ifname)
}

fn description_of(plan: &Plan, attachment: &Attachment) -> PathBuf {
    description::of_attachment(&attachment.network, &plan.key.sandbox, &attachment.ifname)
}
