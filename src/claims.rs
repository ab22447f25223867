//! A request's devices: claimed before anything of it is attached, each once on the node, and given back by its record.
//!
//! A claim whose holder has ended does not block: the holder's record is held, what it still says is detached, and the claim is
//! free. What a device is, and how it becomes an interface, is not known here.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::cni::error::{CniError, Code};
use crate::detach;
use crate::devices::claim::{self, Error, Ledger, Taken};
use crate::devices::description;
use crate::journal::{self, Allotted, Journal, Key, Record};
use crate::log::warn;
use crate::native;
use crate::plan::{Attachment, Plan};

/// How often a claim may change its holder while it is looked at.
const TRIES_MAX: u32 = 16;

/// The devices of a plan, as far as this request has claimed them.
#[derive(Debug)]
pub struct Claims<'a> {
    ledger: Ledger,
    record: String,
    taken: Vec<&'a Allotted>,
}

impl<'a> Claims<'a> {
    /// Claims nothing yet. `record`: the name of the request's record, which is held.
    pub fn new(state_dir: &Path, record: &str) -> Claims<'a> {
        Claims { ledger: Ledger::new(state_dir), record: record.to_owned(), taken: Vec::new() }
    }

    /// Claims all devices of a plan.
    ///
    /// # Errors
    /// Another attachment has one of them: code 11, its pod is named.
    pub fn take(&mut self, plan: &'a Plan, journal: &Journal) -> Result<(), CniError> {
        for attachment in &plan.attachments {
            if let Some(device) = &attachment.device {
                self.take_one(device, journal, &plan.state_dir).map_err(|e| {
                    let msg = format!("network {:?} ({}): {}", attachment.network, attachment.ifname, e.msg);
                    CniError { msg, ..e }
                })?;
            }
        }
        Ok(())
    }

    fn take_one(&mut self, device: &'a Allotted, journal: &Journal, state_dir: &Path) -> Result<(), CniError> {
        for _ in 0..TRIES_MAX {
            match self.ledger.take(device, &self.record).map_err(|e| refuse(&e))? {
                Taken::Now => {
                    self.taken.push(device);
                    return Ok(());
                }
                // An ADD that is repeated: what it had before stays its own, whatever becomes of this one.
                Taken::Before => return Ok(()),
                Taken::ByOther(holder) if holder.is_empty() => {} // it has just been given back
                Taken::ByOther(holder) => free(&self.ledger, device, &holder, journal, state_dir)?,
            }
        }
        Err(held(device, "by one request after the other"))
    }

    /// Gives back what this request claimed.
    ///
    /// # Errors
    /// What could not be given back.
    pub fn give_back(self) -> Result<(), CniError> {
        let one = |device: &&Allotted| self.ledger.release(device, &self.record).map_err(|e| refuse(&e)).err();
        detach::join(self.taken.iter().filter_map(one).collect())
    }
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
    let unclear = |e: &journal::Error| {
        let why = if e.is_held() { "is being attached or deleted" } else { "cannot be read" };
        held(device, &format!("by the attachment of record {holder}, which {why}"))
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
    if let Err(e) = description::publish(device, &path) {
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
