//! What is held on this node by nobody who lives: records, leases, rules, ports of bridges. Finds, and removes what is plexus' to
//! remove; a port of a bridge is only told.
//!
//! A lease or a rule without a record may be a reference plugin's: who owns it is asked of the runtimes' own cache, and where
//! there is none, nothing is known to have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backends::nft::{self, Noted};
use backends::{Host, Kind};
use ipam::host_local::{self, Held};
use serde_json::Value;

use crate::alive::{self, Alive};
use crate::attach::from_journal;
use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::collect;
use crate::detach;
use crate::journal::{Journal, Record};
use crate::native;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where the journal and the indexes are.
    pub state_dir: PathBuf,
    /// Where runtimes note what they attached.
    pub cache_dir: PathBuf,
    /// host-local's directories, beyond those that records name.
    pub data_dirs: BTreeSet<PathBuf>,
    /// Bridges, beyond those that records name.
    pub bridges: BTreeSet<String>,
    /// A lease that is younger may be of an ADD under way: runtimes note what they attached only after it.
    pub min_age: Duration,
}

/// A network's directory in one of host-local's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Directory {
    /// host-local's dataDir.
    pub data_dir: PathBuf,
    /// The network.
    pub network: String,
}

/// A port of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The bridge.
    pub bridge: String,
    /// The host's end of the pair.
    pub name: String,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Survey {
    /// Records of pods whose namespace is gone.
    pub records: Vec<Record>,
    /// Leases of nobody who lives.
    pub leases: Vec<(Directory, Held)>,
    /// Rules of nobody who lives.
    pub rules: Vec<Noted>,
    /// Ports that nobody's result names, whose other end is in some namespace.
    pub ports: Vec<Port>,
    /// How many leases each network has.
    pub held: BTreeMap<Directory, usize>,
    /// How many records there are.
    pub recorded: usize,
    /// Files of the journal that are no records.
    pub unreadable: usize,
    /// Whether leases, rules and ports without a record are known to be nobody's.
    pub is_certain: bool,
    /// What could not be looked at.
    pub failures: Vec<String>,
}

/// Looks at all of it. Changes nothing.
///
/// # Errors
/// The journal or the runtimes' cache cannot be read. What else cannot be looked at is in the survey.
pub fn survey(places: &Places) -> Result<Survey, CniError> {
    let (records, unreadable) = Journal::new(&places.state_dir).all().map_err(|e| from_journal(&e))?;
    let alive = Alive::read(&records, &places.cache_dir)?;
    let mut found = Survey { recorded: records.len(), unreadable, is_certain: alive.knows_all(), ..Survey::default() };
    let mut data_dirs = places.data_dirs.clone();
    let mut bridges = places.bridges.clone();
    for step in records.iter().flat_map(|record| &record.intent.attachments).flat_map(|attachment| &attachment.steps) {
        data_dirs.extend(step.pool.iter().map(|pool| pool.data_dir.clone()));
        bridges.extend(bridge_of(&step.plugin, &step.conf));
    }
    let mut directories = Vec::new();
    for data_dir in &data_dirs {
        directories.extend(networks(data_dir, &mut found.failures));
    }
    let mut young = Vec::new();
    for directory in directories {
        young.extend(leases(directory, places, &alive, &mut found));
    }
    // Whoever just got an address is being attached: its other addresses and its rules are let be too.
    found.leases.retain(|(_, held)| !young.contains(&held.sandbox));
    match nft::noted() {
        Ok(noted) => {
            let lives = |noted: &Noted| {
                alive.any(|sandbox| noted.can_be_of(sandbox)) || young.iter().any(|sandbox| noted.can_be_of(sandbox))
            };
            let is_dead = |noted: &Noted| alive.is_exact() && !lives(noted);
            found.rules = noted.into_iter().filter(is_dead).collect();
        }
        Err(e) => found.failures.push(native::chain(&e)),
    }
    match ports(&bridges, &alive) {
        Ok(ports) => found.ports = ports,
        Err(e) => found.failures.push(native::chain(&e)),
    }
    found.records = records.into_iter().filter(|record| !alive::lives(record)).collect();
    Ok(found)
}

/// The bridge that a configuration of the kind uses.
pub fn bridge_of(plugin: &str, conf: &serde_json::Map<String, Value>) -> Option<String> {
    let name = gojson::field(conf, "bridge").and_then(Value::as_str).filter(|name| !name.is_empty());
    (Kind::of(plugin) == Some(Kind::Bridge)).then(|| name.unwrap_or("cni0").to_owned())
}

/// The directories in host-local's; one that is not there has none.
fn networks(data_dir: &Path, failures: &mut Vec<String>) -> Vec<Directory> {
    let entries = match fs::read_dir(data_dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            failures.push(format!("listing {}: {e}", data_dir.display()));
            return Vec::new();
        }
        Ok(entries) => entries,
    };
    let folders = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
    let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    names.map(|network| Directory { data_dir: data_dir.to_owned(), network }).collect()
}

/// Notes the leases of nobody who lives, and gives whose are too young to tell.
fn leases(directory: Directory, places: &Places, alive: &Alive, found: &mut Survey) -> Vec<String> {
    let mut young = Vec::new();
    match host_local::held(&directory.data_dir, &directory.network, &places.state_dir) {
        Err(e) => found.failures.push(native::chain(&e)),
        Ok(held) => {
            found.held.insert(directory.clone(), held.len());
            for held in held.into_iter().filter(|held| !alive.has(&held.sandbox)) {
                let file = directory.data_dir.join(&directory.network).join(held.address.to_string());
                if is_younger(&file, places.min_age) {
                    young.push(held.sandbox);
                } else {
                    found.leases.push((directory.clone(), held));
                }
            }
        }
    }
    young
}

/// A file whose age nobody can tell is young, unless it is gone.
fn is_younger(file: &Path, age: Duration) -> bool {
    match fs::metadata(file).and_then(|meta| meta.modified()) {
        Ok(modified) => modified.elapsed().map_or(true, |elapsed| elapsed < age),
        Err(e) => e.kind() != ErrorKind::NotFound,
    }
}

fn ports(bridges: &BTreeSet<String>, alive: &Alive) -> Result<Vec<Port>, backends::Error> {
    let mut host = Host::open()?;
    let mut ports = Vec::new();
    for bridge in bridges {
        for name in backends::ports_into_pods(&mut host, bridge)? {
            if !alive.has_link(&name) {
                ports.push(Port { bridge: bridge.clone(), name });
            }
        }
    }
    Ok(ports)
}

/// Removes what a survey found of records, and where that is certain of leases and rules.
///
/// # Errors
/// Everything that could not be removed.
pub fn remove(survey: &Survey, places: &Places) -> Result<(), CniError> {
    let journal = Journal::new(&places.state_dir);
    let mut failures: Vec<CniError> = Vec::new();
    for record in &survey.records {
        failures.extend(collect::detach_record(&journal, record, &places.state_dir).err());
    }
    if survey.is_certain {
        let directories: BTreeSet<&Directory> = survey.leases.iter().map(|(directory, _)| directory).collect();
        for directory in directories {
            let dead: BTreeSet<(&str, &str)> = (survey.leases.iter().filter(|(of, _)| of == directory))
                .map(|(_, held)| (held.sandbox.as_str(), held.ifname.as_str()))
                .collect();
            let Directory { data_dir, network } = directory;
            let lives = |owner: &ipam::Owner<'_>| !dead.contains(&(owner.sandbox, owner.ifname));
            let released = host_local::retain(data_dir, network, &places.state_dir, &lives);
            failures.extend(released.err().map(native::from_ipam));
        }
        failures.extend(nft::remove_noted(&survey.rules).err().map(native::from_backend));
    }
    failures.extend(survey.failures.iter().map(|text| CniError::new(Code::Io, text.clone())));
    detach::join(failures)
}
