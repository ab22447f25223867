//! Going back to Multus: what the journal says of a pod, written as Multus keeps it, so that its DEL finds everything; and what
//! plexus made in a form that the plugins Multus executes do not know is made anew in theirs.
//!
//! Nothing of this is paid for by an ADD: it is done once, for all pods, when the node goes back.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use backends::chained::{Chained, Spec, portmap};
use backends::nft::Owner;
use backends::sysfs::Sysfs;
use backends::{Before, Host};
use serde_json::{Map, Value, json};

use super::base64;
use super::cache::{Cache, read_plain};
use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::convert;
use crate::devices::claim::Ledger;
use crate::durable;
use crate::homecoming::peer::{self, Keep};
use crate::journal::{Attachment, Journal, Key, Record, Step};
use crate::native::{self, Around, Verdict};
use crate::rules;
use crate::unwritten::Unwritten;

/// Readable by root alone, as Multus writes them.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// In Multus' directory until plexus has forgotten its pods: which of them were written there. No container has such an id.
const HANDED: &str = ".plexus-handed";

/// What was written down for Multus.
#[derive(Debug, Default)]
pub struct Handed {
    /// Requests whose pods Multus can delete now.
    pub keys: BTreeSet<Key>,
    /// Pods whose rules were made anew.
    pub changed: usize,
    /// What Multus will not find.
    pub warnings: Vec<String>,
    /// What could not be written.
    pub failures: Vec<CniError>,
}

impl Handed {
    fn note(&mut self, key: &Key, written: Result<Vec<String>, CniError>) -> bool {
        let is_written = written.is_ok();
        match written {
            Ok(warnings) => {
                self.keys.insert(key.clone());
                self.warnings.extend(warnings);
            }
            Err(e) => self.failures.push(e.within(&format!("pod {}", key.sandbox))),
        }
        is_written
    }
}

/// Whether Multus has deleted a pod since it was handed over: its list was there.
fn is_deleted(cache: &Cache, key: &Key, handed: &BTreeSet<Key>) -> bool {
    handed.contains(key) && !cache.scratch(&key.sandbox).exists()
}

/// Writes down every pod of the journal for Multus. The journal stays: plexus still serves. What Multus has deleted since an earlier time that
/// came to no end is not written again.
///
/// # Errors
/// The journal cannot be listed, or a record cannot be read, or is cut short: its pod would be nobody's.
pub fn hand(journal: &Journal, cache: &Cache) -> Result<Handed, CniError> {
    let mut handed = Handed::default();
    let marker = cache.scratch(HANDED);
    let earlier = read_plain(&marker).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    for key in keys(journal)? {
        let Some(held) = journal.hold(&key, false).map_err(io_error)? else { continue };
        let records = held.records().map_err(io_error)?;
        let written = if is_deleted(cache, &key, &earlier) { Ok(()) } else { write(cache, &key, &records) };
        handed.note(&key, written.map(|()| Vec::new()));
    }
    if handed.failures.is_empty() && !handed.keys.is_empty() {
        let noted = put(&marker, &json!(handed.keys));
        noted.map_err(|e| CniError::new(Code::Io, format!("writing {}: {e}", marker.display())))?;
    }
    Ok(handed)
}

/// Once Multus serves: its plugins' own form for rules, and the journal forgets. `before`: what [`hand`] wrote; what Multus has
/// deleted of it since is not written again.
///
/// # Errors
/// As [`hand`].
pub fn retire(state_dir: &Path, cache: &Cache, before: &Handed) -> Result<Handed, CniError> {
    let (journal, ledger) = (&Journal::new(state_dir), Ledger::new(state_dir));
    let mut handed = Handed::default();
    for key in keys(journal)? {
        let Some(held) = journal.hold(&key, false).map_err(io_error)? else { continue };
        let records = held.records().map_err(io_error)?;
        let is_deleted = is_deleted(cache, &key, &before.keys);
        let mut warnings = Vec::new();
        let mut changed = false;
        for record in &records {
            changed |= change_ports(record, is_deleted, &mut warnings);
        }
        let written = if is_deleted {
            Ok(())
        } else {
            let attachments = records.iter().flat_map(|record| &record.intent.attachments);
            warnings.extend(attachments.filter_map(|attachment| strange(&key, attachment)));
            write(cache, &key, &records)
        };
        if handed.note(&key, written.map(|()| warnings)) {
            handed.changed += usize::from(changed);
            let claimed =
                records.iter().flat_map(|record| &record.intent.attachments).filter_map(|a| a.device.as_ref());
            for device in claimed {
                let released = ledger.release(device, held.name());
                released.map_err(|e| CniError::new(Code::Io, native::chain(&e)))?;
            }
            // Multus writes the pod's next one, and this one must not come after that.
            Unwritten::withdraw(state_dir, &records);
            held.forget().map_err(io_error)?;
        }
    }
    if handed.failures.is_empty() {
        durable::remove(&cache.scratch(HANDED)).map_err(|e| CniError::new(Code::Io, e.to_string()))?;
    }
    Ok(handed)
}

/// The requests that the meta-plugin served.
fn keys(journal: &Journal) -> Result<BTreeSet<Key>, CniError> {
    let listing = journal.all().map_err(io_error)?;
    if let Some(told) = listing.failure() {
        return Err(CniError::new(Code::Io, told));
    }
    if let Some(path) = listing.cut_short.first() {
        let told = format!(
            "the record {} is cut short: what its pod has cannot be written for Multus, which would never delete it. The record stays, and \
             plexus serves: delete that pod, or, where it has ended, run `plexus gc --unrecorded`; then go back",
            path.display()
        );
        return Err(CniError::new(Code::Io, told));
    }
    let keys = listing.records.into_iter().map(|record| record.intent.key);
    Ok(keys.filter(|key| key.plugin.is_empty()).collect())
}

fn io_error(error: crate::journal::Error) -> CniError {
    CniError::new(Code::Io, native::chain(&error))
}

/// Both of Multus' caches. An ADD that was repeated has several records: the last one's word on an interface counts.
fn write(cache: &Cache, key: &Key, records: &[Record]) -> Result<(), CniError> {
    let mut all: Vec<(&Record, usize, &Attachment)> = Vec::new();
    for record in records {
        for (index, attachment) in record.intent.attachments.iter().enumerate() {
            all.retain(|(_, _, known)| known.ifname != attachment.ifname);
            all.push((record, index, attachment));
        }
    }
    if all.is_empty() {
        return Ok(());
    }
    let failed = |e: io::Error| CniError::new(Code::Io, format!("writing below {}: {e}", cache.results().display()));
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(cache.results()).map_err(failed)?;
    for (record, index, attachment) in &all {
        let outcome = record.commitment.as_ref().and_then(|done| done.outcomes.get(*index));
        let Some(outcome) = outcome else { continue }; // never came to its end: the list alone has it, as with Multus
        let version = Version::parse(&attachment.cni_version).unwrap_or(Version::CURRENT);
        let result = CniResult::parse(&outcome.result, Version::CURRENT)?.0.to_value(version)?;
        keep_functions(&key.sandbox, record, attachment, &outcome.result)?;
        let name = format!("{}-{}-{}", attachment.cni_name, key.sandbox, attachment.ifname);
        put(&cache.results().join(name), &note(record, attachment, &result)).map_err(failed)?;
    }
    let list: Vec<Value> = all.iter().map(|(_, _, attachment)| delegate(attachment)).collect();
    put(&cache.scratch(&key.sandbox), &json!(list)).map_err(failed)
}

/// What sriov-cni, which Multus executes, keeps of its own.
fn keep_functions(sandbox: &str, record: &Record, attachment: &Attachment, result: &Value) -> Result<(), CniError> {
    let ifname = &attachment.ifname;
    let functions = attachment.steps.iter().filter_map(|step| Some((&step.conf, step.function.as_deref()?)));
    for (conf, function) in functions {
        let result = CniResult::parse(result, Version::CURRENT)?.0;
        let interface = result.interfaces.iter().find(|interface| interface.name == *ifname);
        let card = Sysfs::default().uplink(&function.pf).unwrap_or_default();
        let mac = interface.map(|interface| interface.mac.as_str()).unwrap_or_default();
        let keep = Keep { sandbox, ifname, netns: &record.intent.netns, conf, function, card: &card, mac };
        let failed = |e: io::Error| CniError::new(Code::Io, format!("writing below {}: {e}", peer::PLACE));
        peer::keep(Path::new(peer::PLACE), &keep).map_err(failed)?;
    }
    Ok(())
}

/// What plexus did of which sriov-cni knows nothing.
fn strange(key: &Key, attachment: &Attachment) -> Option<String> {
    let mut functions = attachment.steps.iter().filter_map(|step| step.function.as_deref());
    let rebound = functions.find(|function| function.rebound.is_some())?;
    Some(format!(
        "pod {}, network {:?}: sriov-cni does not bind {} back to {}",
        key.sandbox,
        attachment.network,
        rebound.address,
        rebound.driver.as_deref().unwrap_or("no driver")
    ))
}

fn put(path: &Path, value: &Value) -> io::Result<()> {
    durable::replace(path, value.to_string().as_bytes(), FILE_MODE)
}

/// libcni's note (cacheV1).
fn note(record: &Record, attachment: &Attachment, result: &Value) -> Value {
    let pairs = attachment.args.split(';').filter_map(|pair| pair.split_once('='));
    let args: Vec<[&str; 2]> = pairs.map(|(key, value)| [key, value]).collect();
    let asked = attachment.steps.iter().filter_map(|step| gojson::field(&step.conf, "runtimeConfig")?.as_object());
    let capabilities: Map<String, Value> = asked.flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    json!({
        "kind": "cniCacheV1", "containerId": record.intent.key.sandbox, "config": base64::encode(&configuration(attachment)),
        "ifName": attachment.ifname, "networkName": attachment.cni_name, "netns": record.intent.netns, "cniArgs": args,
        "capabilityArgs": capabilities, "result": result,
    })
}

/// Multus' DelegateNetConf: the interface by its name, so that no place in the list matters.
fn delegate(attachment: &Attachment) -> Value {
    let plugins: Vec<Value> = attachment.steps.iter().map(|step| json!({"type": step.plugin})).collect();
    let list = json!({"cniVersion": attachment.cni_version, "name": attachment.cni_name, "plugins": plugins});
    json!({
        "Conf": {}, "ConfList": list, "Name": attachment.cni_name, "ifnameRequest": attachment.ifname, "IsFilterV4Gateway": false,
        "IsFilterV6Gateway": false, "Bytes": base64::encode(&configuration(attachment)),
    })
}

/// The network as a list, whatever it was, with what each plugin was asked for: Multus notes no port mappings.
fn configuration(attachment: &Attachment) -> Vec<u8> {
    let plugin = |step: &Step| {
        let mut conf = step.conf.clone();
        conf.retain(|key, _| !matches!(key.as_str(), "name" | "cniVersion"));
        if step.native && Chained::of(&step.plugin) == Some(Chained::Portmap) {
            // Where the reference plugin would look otherwise depends on what it is asked for.
            conf.insert("backend".to_owned(), "nftables".into());
        }
        Value::Object(conf)
    };
    let plugins: Vec<Value> = attachment.steps.iter().map(plugin).collect();
    let mut list = json!({"cniVersion": attachment.cni_version, "name": attachment.cni_name, "plugins": plugins});
    if let (true, Some(list)) = (attachment.disable_check, list.as_object_mut()) {
        list.insert("disableCheck".to_owned(), true.into());
    }
    list.to_string().into_bytes()
}

/// Port mappings in plexus' own tables become rules as the reference plugin makes them; those of a pod that Multus has deleted, which did not
/// know of them, go. Says whether there were any.
fn change_ports(record: &Record, is_deleted: bool, warnings: &mut Vec<String>) -> bool {
    let mut changed = false;
    for (index, attachment) in record.intent.attachments.iter().enumerate() {
        let done = record.commitment.as_ref().filter(|_| !is_deleted);
        let outcome = done.and_then(|done| done.outcomes.get(index));
        let of_ports = |step: &&Step| step.native && Chained::of(&step.plugin) == Some(Chained::Portmap);
        for step in attachment.steps.iter().filter(of_ports) {
            match change(record, attachment, step, outcome.map(|outcome| &outcome.result)) {
                Ok(any) => changed |= any,
                Err(e) => warnings.push(format!(
                    "pod {}, network {:?}: its port mappings stay in plexus' tables, where Multus' plugins do not look: {}",
                    record.intent.key.sandbox, attachment.network, e.msg
                )),
            }
        }
    }
    changed
}

/// `result`: of an ADD that came to its end. What another left of its mappings goes.
fn change(record: &Record, attachment: &Attachment, step: &Step, result: Option<&Value>) -> Result<bool, CniError> {
    let owner =
        Owner { network: &attachment.cni_name, sandbox: &record.intent.key.sandbox, ifname: &attachment.ifname };
    let mut conf = step.conf.clone();
    let (Some(made), Some(compatible)) = (ports(attachment, &conf)?, {
        conf.insert("layout".to_owned(), "compatible".into());
        ports(attachment, &conf)?
    }) else {
        return Ok(false);
    };
    if made.is_idle() || made == compatible {
        return Ok(false);
    }
    let mut filter = rules::open()?;
    let Some(result) = result else {
        return portmap::remove(&mut filter, Some(&made), &owner).map(|()| false).map_err(native::from_backend);
    };
    let mut host = Host::open().map_err(native::from_backend)?;
    let previous = convert::previous(&CniResult::parse(result, Version::CURRENT)?.0);
    portmap::remove(&mut filter, Some(&made), &owner).map_err(native::from_backend)?;
    portmap::add(&mut host, &mut filter, &compatible, &owner, &previous).map(|()| true).map_err(|refusal| {
        // As it was, rather than not at all.
        let again = portmap::add(&mut host, &mut filter, &made, &owner, &previous);
        let told = again.err().map(|e| format!("; and now they are gone: {}", native::chain(&e))).unwrap_or_default();
        let refusal = native::from_backend(refusal);
        CniError { msg: format!("{}{told}", refusal.msg), ..refusal }
    })
}

fn ports(attachment: &Attachment, conf: &Map<String, Value>) -> Result<Option<portmap::Spec>, CniError> {
    let around = Around {
        network: &attachment.cni_name,
        version: Version::parse(&attachment.cni_version).unwrap_or(Version::CURRENT),
        args: &attachment.args,
        ifname: &attachment.ifname,
        state_dir: Path::new("/"),
        before: Before::Awaited,
    };
    Ok(match native::read(Chained::Portmap.name(), conf, &around)? {
        Verdict::Chained(spec, _) => match *spec {
            Spec::Portmap(spec) => Some(spec),
            _ => None,
        },
        _ => None,
    })
}
