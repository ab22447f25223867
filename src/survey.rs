//! What is held on this node by nobody who lives: records, leases, rules, ports of bridges. Finds, and removes what is plexus' to
//! remove; a port of a bridge is only told.
//!
//! A lease or a rule without a record may be a reference plugin's: who owns it is asked of the runtimes' own cache, and where
//! there is none, nothing is known to have ended.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backends::chained::bandwidth;
use backends::nft::{self, Noted};
use backends::{Host, Kind};
use ipam::host_local::{self, Held};
use serde_json::Value;

use crate::alive::{Known, Life, Observer};
use crate::attach::from_journal;
use crate::cni::error::CniError;
use crate::cni::gojson;
use crate::collect;
use crate::detach;
use crate::journal::{Journal, Key, Listing, Record};
use crate::native;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where the journal and the indexes are.
    pub state_dir: PathBuf,
    /// Where runtimes note what they attached.
    pub cache_dirs: Vec<PathBuf>,
    /// host-local's directories, beyond those that records name.
    pub data_dirs: BTreeSet<PathBuf>,
    /// Bridges, beyond those that records name.
    pub bridges: BTreeSet<String>,
    /// Everything of the node can be seen from here: somebody says so.
    pub on_node: bool,
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
    /// Files of the journal whose pods have ended.
    pub ended: Vec<Vec<Record>>,
    /// Files whose pods' namespaces cannot be found, although something speaks for their life.
    pub unclear: Vec<Vec<Record>>,
    /// Leases of nobody who lives.
    pub leases: Vec<(Directory, Held)>,
    /// Rules of nobody who lives.
    pub rules: Vec<Noted>,
    /// Links that limit rates of nobody who lives.
    pub limits: Vec<bandwidth::Noted>,
    /// Ports that nobody's result names, whose other end is in some namespace.
    pub ports: Vec<Port>,
    /// How many records there are.
    pub recorded: usize,
    /// Files of the journal that say nothing: of ADDs that were killed before they did anything, or that have just begun.
    pub torn: Vec<PathBuf>,
    /// Which files of the journal could not be read, and why; none where all could.
    pub unreadable: Option<String>,
    /// There is a runtime's cache.
    pub knows_all: bool,
    /// What could not be looked at.
    pub failures: Vec<String>,
}

impl Survey {
    /// Whether leases, rules and ports without a record are known to be nobody's: a record that cannot be read may name them.
    pub fn is_certain(&self) -> bool {
        self.knows_all && self.unreadable.is_none()
    }
}

/// Looks at all of it. Changes nothing.
///
/// What is held is listed first, and who lives is asked after that: whoever comes in between has a record by then.
///
/// # Errors
/// The journal, the runtimes' cache or the kernel's links cannot be read. What else cannot be looked at is in the survey.
pub fn survey(places: &Places) -> Result<Survey, CniError> {
    let journal = Journal::new(&places.state_dir);
    let records = journal.all().map_err(|e| from_journal(&e))?.records;
    let mut found = Survey::default();
    let held = held(places, &records, &mut found);

    let observer = Observer::look(places.on_node)?;
    let listing = journal.all().map_err(|e| from_journal(&e))?;
    found.unreadable = listing.failure();
    let Listing { records, torn, .. } = listing;
    let known = Known::read(&records, &places.cache_dirs)?;
    (found.recorded, found.torn) = (records.len(), torn);
    found.knows_all = known.knows_all();
    judge(held, &known, places, &mut found);
    look_again(&mut found);
    for file in files(records) {
        match observer.life_of(&file) {
            Life::Lives => {}
            Life::Unclear => {
                let lacks = file.first().and_then(|record| observer.lacks(&record.intent));
                let lacks = lacks.map(|why| format!("network namespaces that this process cannot see: {why}"));
                found.failures.extend(lacks.filter(|text| !found.failures.contains(text)));
                found.unclear.push(file);
            }
            Life::Ended => found.ended.push(file),
        }
    }
    Ok(found)
}

/// What has gone since it was listed was its DEL's to remove.
fn look_again(found: &mut Survey) {
    if !found.rules.is_empty() {
        let rules = nft::noted().unwrap_or_default();
        found.rules.retain(|rule| rules.contains(rule));
    }
    if !found.ports.is_empty() {
        let ports = ports(&found.ports.iter().map(|port| port.bridge.clone()).collect()).unwrap_or_default();
        found.ports.retain(|port| ports.contains(port));
    }
}

/// The records of one file stand behind each other.
fn files(records: Vec<Record>) -> Vec<Vec<Record>> {
    let mut files: Vec<Vec<Record>> = Vec::new();
    for record in records {
        match files.last_mut().filter(|file| file.first().is_some_and(|first| first.intent.key == record.intent.key)) {
            Some(file) => file.push(record),
            None => files.push(vec![record]),
        }
    }
    files
}

/// Everything that is held by somebody.
#[derive(Default)]
struct Everything {
    leases: Vec<(Directory, Held)>,
    rules: Vec<Noted>,
    limits: Vec<bandwidth::Noted>,
    ports: Vec<Port>,
}

fn held(places: &Places, records: &[Record], found: &mut Survey) -> Everything {
    let mut data_dirs = places.data_dirs.clone();
    let mut bridges = places.bridges.clone();
    for step in records.iter().flat_map(|record| &record.intent.attachments).flat_map(|attachment| &attachment.steps) {
        data_dirs.extend(step.pool.iter().map(|pool| pool.data_dir.clone()));
        bridges.extend(bridge_of(&step.plugin, &step.conf));
    }
    let mut all = Everything::default();
    for data_dir in &data_dirs {
        for directory in networks(data_dir, &mut found.failures) {
            match host_local::held(&directory.data_dir, &directory.network, &places.state_dir) {
                Ok(held) => all.leases.extend(held.into_iter().map(|held| (directory.clone(), held))),
                Err(e) => {
                    let place = directory.data_dir.join(&directory.network);
                    found.failures.push(format!("{}: {}", place.display(), native::chain(&e)));
                }
            }
        }
    }
    let mut keep = |failure: backends::Error| found.failures.push(native::chain(&failure));
    all.rules = nft::noted().unwrap_or_else(|e| {
        keep(e);
        Vec::new()
    });
    all.limits = Host::open().and_then(|mut host| bandwidth::noted(&mut host)).unwrap_or_else(|e| {
        keep(e);
        Vec::new()
    });
    all.ports = ports(&bridges).unwrap_or_else(|e| {
        keep(e);
        Vec::new()
    });
    all
}

/// Keeps what is nobody's who lives.
fn judge(held: Everything, known: &Known, places: &Places, found: &mut Survey) {
    let mut young: Vec<String> = Vec::new();
    for (directory, held) in held.leases {
        if known.has(&held.sandbox) {
            continue;
        }
        let file = directory.data_dir.join(&directory.network).join(held.address.to_string());
        match age(&file) {
            Age::Gone => {}
            Age::Of(age) if age >= places.min_age => found.leases.push((directory, held)),
            Age::Of(_) | Age::Unknown => young.push(held.sandbox),
        }
    }
    // Whoever just got an address is being attached: its other addresses and its rules are let be too.
    found.leases.retain(|(_, held)| !young.contains(&held.sandbox));
    let lives = |noted: &Noted| {
        known.any(|sandbox| noted.can_be_of(sandbox)) || young.iter().any(|sandbox| noted.can_be_of(sandbox))
    };
    let rules = held.rules.into_iter().filter(|noted| !lives(noted));
    if known.nameless() == 0 {
        found.rules = rules.collect();
    } else if rules.count() > 0 {
        let some = known.nameless();
        let text = format!(
            "the runtimes' cache: {some} entries do not say whose they are: rules without a record may be of one of them"
        );
        found.failures.push(text);
    }
    // What does not tell whose it is may be anybody's who lives.
    let has_ended = |noted: &bandwidth::Noted| {
        !noted.sandbox.is_empty() && !noted.sandbox.starts_with('#') && !known.has(&noted.sandbox)
    };
    let limits = held.limits.into_iter().filter(|noted| has_ended(noted) && !young.contains(&noted.sandbox));
    found.limits = limits.filter(|_| known.nameless() == 0).collect();
    let is_nobodys = |port: &Port| !known.is_attaching() && !known.has_link(&port.name);
    found.ports = held.ports.into_iter().filter(is_nobodys).collect();
}

enum Age {
    Of(Duration),
    Gone,
    Unknown,
}

fn age(file: &Path) -> Age {
    match fs::metadata(file).and_then(|meta| meta.modified()) {
        Ok(modified) => modified.elapsed().map_or(Age::Unknown, Age::Of),
        Err(e) if e.kind() == ErrorKind::NotFound => Age::Gone,
        Err(_) => Age::Unknown,
    }
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

fn ports(bridges: &BTreeSet<String>) -> Result<Vec<Port>, backends::Error> {
    let mut host = Host::open()?;
    let ends = backends::host_ends(&mut host)?;
    let mut ports = Vec::new();
    for bridge in bridges {
        let Some(index) = backends::host_index(&mut host, bridge)? else { continue };
        let own = ends.iter().filter(|end| end.controller == Some(index));
        ports.extend(own.map(|end| Port { bridge: bridge.clone(), name: end.name.clone() }));
    }
    Ok(ports)
}

/// What could not be removed.
#[derive(Debug, Default)]
pub struct Left {
    /// Files of the journal.
    pub files: Vec<Key>,
    /// Directories of leases.
    pub directories: Vec<Directory>,
    /// The packet filter's rules.
    pub rules: bool,
    /// Links that limit rates.
    pub limits: bool,
    /// Why, everything in one; none where all is gone.
    pub failure: Option<CniError>,
}

/// Removes what a survey found: of records, and where it is asked for also leases and rules that no record and no runtime knows.
/// Each file of the journal is judged once more while nobody else can change it.
///
/// # Errors
/// It cannot be judged: nothing was removed.
pub fn remove(survey: &Survey, places: &Places, unrecorded: bool) -> Result<Left, CniError> {
    let journal = Journal::new(&places.state_dir);
    let observer = Observer::look(places.on_node)?;
    let mut left = Left::default();
    let mut failures: Vec<CniError> = Vec::new();
    for torn in &survey.torn {
        failures.extend(journal.sweep(torn).err().map(|e| from_journal(&e)));
    }
    let has_ended = |records: &[Record]| observer.life_of(records) == Life::Ended;
    let keys = survey.ended.iter().filter_map(|file| file.first()).map(|record| record.intent.key.clone()).collect();
    for (key, failure) in collect::detach_files(&journal, keys, &places.state_dir, &has_ended) {
        left.files.push(key);
        failures.push(failure);
    }
    if unrecorded && survey.is_certain() {
        let directories: BTreeSet<&Directory> = survey.leases.iter().map(|(directory, _)| directory).collect();
        for directory in directories {
            if let Err(failure) = release(directory, survey, places) {
                left.directories.push(directory.clone());
                failures.push(native::from_ipam(failure));
            }
        }
        let lifted = nft::remove_noted(&survey.rules).err();
        left.rules = lifted.is_some();
        failures.extend(lifted.map(native::from_backend));
        let limits = Host::open().and_then(|mut host| bandwidth::remove_noted(&mut host, &survey.limits)).err();
        left.limits = limits.is_some();
        failures.extend(limits.map(native::from_backend));
    }
    left.failure = detach::join(failures).err();
    Ok(left)
}

/// The leases in one directory that are nobody's.
fn release(directory: &Directory, survey: &Survey, places: &Places) -> Result<(), ipam::Error> {
    let dead: BTreeSet<(&str, &str)> = (survey.leases.iter().filter(|(of, _)| of == directory))
        .map(|(_, held)| (held.sandbox.as_str(), held.ifname.as_str()))
        .collect();
    let lives = |owner: &ipam::Owner<'_>| !dead.contains(&(owner.sandbox, owner.ifname));
    host_local::retain(&directory.data_dir, &directory.network, &places.state_dir, &lives).map(|_| ())
}
