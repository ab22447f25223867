//! GC: what no live attachment owns is removed. From the journal for whole attachments; from a pool's directory for leases
//! whose record never was (the Go plugin's, or a plugin's that was executed).
//!
//! It goes on after a failure and reports all of them. It never guesses from clocks: the runtime's list decides.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backends::chained::{self, Chained};
use backends::{Before, nft};
use ipam::Owner;
use ipam::host_local::{self, Pool};
use serde_json::{Map, Value};

use crate::attach::from_journal;
use crate::chain::{Caller, DELEGATE_DEADLINE};
use crate::cni::attachments::{self, Attachment as Valid};
use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::cni::list::Injection;
use crate::cni::request::Command;
use crate::cni::version::Version;
use crate::config::Config;
use crate::detach;
use crate::gather;
use crate::job::Job;
use crate::journal::{HOLD_WAIT_MAX, Held, Intent, Journal, Key, Listing, Record};
use crate::native::{self, Around};
use crate::takeover;
use crate::unwritten::Unwritten;

type Valids = BTreeSet<Valid>;

/// The runtime's list. `None`: there is none, as in cnitool's GC, so nothing is known to be invalid and nothing is collected.
fn valid_attachments(job: &Job) -> Result<Option<Valids>, CniError> {
    let parsed = attachments::parse(&job.request.config).map_err(|e| CniError::new(Code::Decode, e.to_string()))?;
    let Some(valid) = parsed else { return Ok(None) };
    if valid.iter().any(|attachment| attachment.container_id.is_empty() || attachment.ifname.is_empty()) {
        let msg = "cni.dev/valid-attachments has an entry without containerID or ifname: nothing is collected";
        return Err(CniError::new(Code::InvalidConfig, msg));
    }
    Ok(Some(valid))
}

/// GC of one network: its records, its pools, and its delegates.
///
/// # Errors
/// Everything that could not be removed.
pub fn network(job: &Job, config: Option<&Config>) -> Result<(), CniError> {
    let Some(valid) = valid_attachments(job)? else { return Ok(()) };
    let mut failures = Vec::new();
    failures.extend(records(job, &valid).err());
    let listing = job.journal().all().map_err(|e| from_journal(&e))?;
    if unreadable(&listing).is_err() {
        return detach::join(failures); // told among them
    }
    let valid = with_recorded(listing, valid);
    match config {
        None => {
            let around = Around { args: "", ..job.around() };
            let owned = Owned { valid: &valid, by_ifname: true, path: &job.request.path };
            failures.extend(addresses(&job.request.config, &around, &owned).err());
            failures.extend(rules(&job.request.config, &job.request.network, &owned).err());
        }
        Some(config) => {
            failures.extend(takeover::collect(job, config, &valid).err());
            failures.extend(delegates(job, config, &valid).err());
        }
    }
    detach::join(failures)
}

/// Who owns what, and where plugins are.
struct Owned<'a> {
    valid: &'a Valids,
    /// The runtime names every interface.
    by_ifname: bool,
    path: &'a [PathBuf],
}

/// The addresses of a plugin's configuration: host-local's pool, or the IPAM plugin's own GC (CNI spec: GC must be passed on).
fn addresses(conf: &Map<String, Value>, around: &Around, owned: &Owned) -> Result<(), CniError> {
    match native::ipam_type(conf) {
        "host-local" => {
            let pool = native::host_local(conf, around)?.0;
            retain(&pool, owned.valid, owned.by_ifname)
        }
        "" | "static" => Ok(()),
        plugin => pass_on(plugin, conf.clone(), owned, around.version),
    }
}

/// What of a network nobody owns in the host's packet filter, and limits of rates: those whose record never was.
fn rules(conf: &Map<String, Value>, network: &str, owned: &Owned) -> Result<(), CniError> {
    let plugin = gojson::field(conf, "type").and_then(Value::as_str).unwrap_or_default();
    let valid: Vec<(&str, &str)> = owned.valid.iter().map(|v| (v.container_id.as_str(), v.ifname.as_str())).collect();
    let retained = match (backends::Kind::of(plugin), Chained::of(plugin)) {
        (Some(kind), _) => nft::retain(native::rules(kind, conf), network, &valid, owned.by_ifname),
        (None, Some(chained)) => chained::retain(chained, network, &valid, owned.by_ifname),
        (None, None) => Ok(()),
    };
    retained.map_err(native::from_backend)
}

/// GC of a directly executed host-local.
///
/// # Errors
/// What its directory says.
pub fn pool(job: &Job, pool: &Pool) -> Result<(), CniError> {
    let Some(valid) = valid_attachments(job)? else { return Ok(()) };
    retain(pool, &valid, true)
}

/// Releases the leases that no valid attachment owns. A meta-plugin's pod holds leases under the names of all its
/// interfaces, of which the runtime knows one: there the container id decides.
fn retain(pool: &Pool, valid: &Valids, by_ifname: bool) -> Result<(), CniError> {
    let owns = |owner: &Owner| {
        valid.iter().any(|v| {
            v.container_id == owner.sandbox && (!by_ifname || owner.ifname.is_empty() || v.ifname == owner.ifname)
        })
    };
    pool.retain(&owns).map(|_| ()).map_err(native::from_ipam)
}

/// What other networks' records say is attached: they may share a pool with this one, and the runtime's list does not know.
fn with_recorded(listing: Listing, mut valid: Valids) -> Valids {
    for Intent { key, attachments, .. } in listing.records.into_iter().map(|record| record.intent) {
        let owner = |ifname: &str| Valid { container_id: key.sandbox.clone(), ifname: ifname.to_owned() };
        valid.extend(attachments.iter().map(|attachment| owner(&attachment.ifname)));
    }
    valid
}

/// What a record that cannot be read names is held by somebody, nobody knows whom: nothing may be taken for nobody's then.
///
/// # Errors
/// Which records, and why.
fn unreadable(listing: &Listing) -> Result<(), CniError> {
    listing.failure().map_or(Ok(()), |told| Err(CniError::new(Code::Io, told)))
}

/// Detaches each record of this network that is not valid.
fn records(job: &Job, valid: &Valids) -> Result<(), CniError> {
    let journal = job.journal();
    let listing = journal.all().map_err(|e| from_journal(&e))?;
    let mut failures: Vec<CniError> = unreadable(&listing).err().into_iter().collect();
    for torn in &listing.torn {
        failures.extend(journal.sweep(torn).err().map(|e| from_journal(&e)));
    }
    // What a pod got while it ran lives as long as the pod: the runtime does not know of it.
    let is_valid =
        |key: &Key| valid.iter().any(|v| v.container_id == key.sandbox && (v.ifname == key.ifname || key.is_hot()));
    let mut keys: Vec<Key> = listing.records.into_iter().map(|record| record.intent.key).collect();
    keys.dedup();
    keys.retain(|key| key.network == job.request.network && !is_valid(key));
    failures.extend(detach_files(&journal, keys, &job.state_dir, &|_| true).into_iter().map(|(_, e)| e));
    detach::join(failures)
}

/// Detaches what files of the journal say, in their namespaces where those still live, and forgets them. `may` looks at what a
/// file says once nobody else can change it: between a listing and now its attachment may have been made anew. Files that
/// others are at work on come last, and are waited for as long as one of them would be. Gives those that stay, and why.
pub fn detach_files(
    journal: &Journal,
    keys: Vec<Key>,
    state_dir: &Path,
    may: &dyn Fn(&[Record]) -> bool,
) -> Vec<(Key, CniError)> {
    let (mut stay, mut later) = (Vec::new(), Vec::new());
    for key in keys {
        match detach_file(journal, &key, state_dir, may, Duration::ZERO) {
            Err(e) if e.code == Code::TryAgainLater => later.push(key),
            outcome => stay.extend(outcome.err().map(|e| (key, e))),
        }
    }
    let deadline = Instant::now() + HOLD_WAIT_MAX;
    for key in later {
        let left = deadline.saturating_duration_since(Instant::now());
        stay.extend(detach_file(journal, &key, state_dir, may, left).err().map(|e| (key, e)));
    }
    stay
}

/// The same of one file, waiting at most so long for who is at work on it. Says whether it was detached and forgotten.
///
/// # Errors
/// Somebody is at work on it (code 11); what could not be removed.
pub fn detach_file(
    journal: &Journal,
    key: &Key,
    state_dir: &Path,
    may: &dyn Fn(&[Record]) -> bool,
    patience: Duration,
) -> Result<bool, CniError> {
    let held = journal.hold_within(key, false, patience).map_err(|e| from_journal(&e))?;
    let Some(held) = held else { return Ok(false) };
    let records = held.records().map_err(|e| from_journal(&e))?;
    if records.is_empty() || !may(&records) {
        return Ok(false);
    }
    for record in records.iter().rev() {
        detach::detach(detach::of_record(record, None, state_dir)?)?;
    }
    Unwritten::withdraw(state_dir, &records);
    held.forget().map_err(|e| from_journal(&e))?;
    if key.is_hot() {
        journal.unplug(&key.sandbox, &key.ifname).map_err(|e| from_journal(&e))?;
    }
    Ok(true)
}

/// Collects what records of older boots hold. Records whose chain executed a plugin stay for the DEL that runtimes send
/// after a reboot, as what that plugin left outside the kernel is its own to know; addresses that plexus leased for them go at once.
///
/// # Errors
/// What could not be released.
pub fn older_boots(journal: &Journal, state_dir: &Path, boot_id: &str) -> Result<(), CniError> {
    let records = journal.all().map_err(|e| from_journal(&e))?.records;
    let mut failures = Vec::new();
    let is_old = |record: &Record| record.intent.boot_id != boot_id;
    let all_native =
        |records: &[Record]| records.iter().all(|record| is_old(record) && !detach::executes(&record.intent));
    for record in records.iter().filter(|record| is_old(record)) {
        let key = &record.intent.key;
        let collected = detach_file(journal, key, state_dir, &all_native, Duration::ZERO);
        failures.extend(
            collected.and_then(|done| if done { Ok(()) } else { release(journal, key, state_dir, &is_old) }).err(),
        );
    }
    detach::join(failures)
}

/// The native steps' leases of what stays.
fn release(journal: &Journal, key: &Key, state_dir: &Path, is_old: &dyn Fn(&Record) -> bool) -> Result<(), CniError> {
    let held = journal.hold_within(key, false, Duration::ZERO).map_err(|e| from_journal(&e))?;
    let records = held.as_ref().map(Held::records).transpose().map_err(|e| from_journal(&e))?.unwrap_or_default();
    if !records.iter().all(is_old) {
        return Ok(());
    }
    let mut failures = Vec::new();
    for attachment in records.iter().flat_map(|record| &record.intent.attachments) {
        let owner = Owner { sandbox: &key.sandbox, ifname: &attachment.ifname };
        for pool in attachment.steps.iter().filter_map(|step| step.pool.as_ref()) {
            let released = host_local::release(&pool.data_dir, &pool.network, &owner, state_dir);
            failures.extend(released.map_err(native::from_ipam).err());
        }
    }
    detach::join(failures)
}

/// The default networks: their pools, and their executed plugins. Definitions are not swept: their names are their authors' to
/// choose, and may be those of a pool that another program of the node keeps. What plexus attached to them is in the journal.
fn delegates(job: &Job, config: &Config, valid: &Valids) -> Result<(), CniError> {
    let mut failures = Vec::new();
    let path = config.search_path(&job.request.path);
    // A pod holds addresses under the names of all its interfaces, of which the runtime knows one.
    let owned = Owned { valid, by_ifname: false, path: &path };
    for list in gather::default_lists(config, &mut *job.place.reach(config, job.request)?)?
        .iter()
        .filter(|list| !list.disable_gc)
    {
        for plugin in &list.plugins {
            let around = Around {
                network: &list.name,
                version: list.cni_version,
                args: "",
                ifname: "",
                state_dir: &job.state_dir,
                before: Before::Nothing,
            };
            let conf = list.inject(plugin, &Injection::default()).object;
            failures.extend(rules(&conf, &list.name, &owned).err());
            failures.extend(match native::builds(&plugin.plugin_type) {
                true => addresses(&conf, &around, &owned).err(),
                // It passes GC on to its own IPAM plugin; host-local, which may be plexus itself, is served here at once.
                false => {
                    let pool = native::ipam_type(&conf) == "host-local";
                    let served = pool.then(|| addresses(&conf, &around, &owned)).and_then(Result::err);
                    let passed = pass_on(&plugin.plugin_type, conf, &owned, list.cni_version).err();
                    served.or(passed)
                }
            });
        }
    }
    detach::join(failures)
}

/// A plugin of an older version knows no GC.
fn pass_on(plugin: &str, mut conf: Map<String, Value>, owned: &Owned, version: Version) -> Result<(), CniError> {
    if !version.supports(Command::Gc) {
        return Ok(());
    }
    conf.extend(attachments::to_keys(owned.valid));
    let path = owned.path;
    let caller = Caller { sandbox: "", netns: "", ifname: "", args: "", path, version, deadline: DELEGATE_DEADLINE };
    caller.execute(Command::Gc, plugin, &conf, None).map(|_| ())
}
