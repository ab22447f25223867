//! What Multus keeps of a sandbox on disk, read back: `<cniDir>/<sandbox>`, the list of its networks in the order of ADD, and
//! `<cniDir>/results/<network>-<sandbox>-<interface>`, libcni's note of each that was attached (cacheV1).
//!
//! Multus writes both in place, so a crash leaves them cut short; others may have written them altogether. Whatever cannot be read
//! is told and passed over: a file that says nothing must not keep a pod from leaving. It does not know how anything is detached.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::base64;
use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::cni::list::List;
use crate::cni::names;
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::config::META_TYPES;
use crate::plan::ATTACHMENTS_MAX;

/// More bytes than any pod's networks take, in one file.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// More entries than a directory of all pods of a node has.
const ENTRIES_MAX: usize = 1 << 20;
/// libcni's directory below its root.
const RESULTS: &str = "results";
/// Below this libcni keeps what runtimes themselves attached.
pub(super) const RUNTIMES_ROOT: &str = "/var/lib/cni";
/// Where Multus puts the device file of an attachment (network CRD standard's device-info, CNI side).
const DEVICE_DIRS: [&str; 2] = ["/var/run/k8s.cni.cncf.io/devinfo/cni", "/run/k8s.cni.cncf.io/devinfo/cni"];

/// One network of the list.
#[derive(Clone, Debug, PartialEq)]
pub struct Delegate {
    /// Its configuration.
    pub list: List,
    /// The interface that was asked for by name.
    pub ifname: Option<String>,
    /// What the pod asked for: `mac`, `ips`, `infinibandGUID`, `deviceID`, as a runtime passes them.
    pub asked: Map<String, Value>,
}

/// One of libcni's notes.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The network's name.
    pub network: String,
    /// The interface in the pod.
    pub ifname: String,
    /// Its configuration; none where only the file's name could be read.
    pub list: Option<List>,
    /// CNI_ARGS of its plugins.
    pub args: String,
    /// What its plugins were offered of capabilities.
    pub runtime: Map<String, Value>,
    /// What came of it.
    pub result: Option<CniResult>,
    /// The pod's namespace at ADD.
    pub netns: Option<PathBuf>,
    /// The device's file.
    pub device: Option<PathBuf>,
    file: PathBuf,
}

/// Everything that is kept of a sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// In the order of ADD; none in the place of one that cannot be read.
    pub delegates: Vec<Option<Delegate>>,
    /// In the order of their files' names.
    pub entries: Vec<Entry>,
    /// What could not be read, a line each.
    pub damaged: Vec<String>,
    scratch: Option<PathBuf>,
}

/// Multus' directory.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache below cniDir; it need not be there.
    pub fn new(dir: &Path) -> Cache {
        Cache { dir: dir.to_owned() }
    }

    /// Where the list of a sandbox is.
    pub fn scratch(&self, sandbox: &str) -> PathBuf {
        self.dir.join(sandbox)
    }

    /// libcni's directory.
    pub fn results(&self) -> PathBuf {
        self.dir.join(RESULTS)
    }

    /// Everything that is kept of a sandbox; `sandbox` is a valid container id.
    ///
    /// # Errors
    /// libcni's directory is there and cannot be listed, or names more attachments than one pod has.
    pub fn read(&self, sandbox: &str) -> Result<Notes, CniError> {
        let mut notes = Notes::default();
        self.read_scratch(sandbox, &mut notes);
        let part = format!("-{sandbox}-");
        let is_of = |name: &str| name.contains(&part);
        for path in list(&self.results(), &is_of)? {
            if notes.entries.len() >= ATTACHMENTS_MAX {
                let msg = format!("{} names more than {ATTACHMENTS_MAX} attachments of one pod", path.display());
                return Err(CniError::new(Code::Io, msg));
            }
            let kept = path.file_name().and_then(OsStr::to_str).and_then(|name| named(name, &part));
            let kept = kept.map(|(network, ifname)| Entry::of_name(network, ifname, &path));
            let entry = read_plain(&path).map_err(|e| e.to_string()).and_then(|bytes| entry(&bytes, sandbox, &path));
            match (entry, kept) {
                (Ok(entry), _) => notes.entries.extend(entry),
                (Err(why), kept) => {
                    notes.damaged.push(format!("{}: {why}", path.display()));
                    notes.entries.extend(kept);
                }
            }
        }
        Ok(notes)
    }

    fn read_scratch(&self, sandbox: &str, notes: &mut Notes) {
        let path = self.scratch(sandbox);
        let parsed = match read_plain(&path) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory) => {
                return;
            }
            Err(e) => Err(e.to_string()),
            Ok(bytes) => delegates(&bytes),
        };
        let place = path.display().to_string();
        notes.scratch = Some(path);
        match parsed {
            Err(why) => notes.damaged.push(format!("{place}: {why}")),
            Ok(parsed) => {
                for (index, delegate) in parsed.into_iter().enumerate() {
                    notes.delegates.push(match delegate {
                        Ok(delegate) => Some(delegate),
                        Err(why) => {
                            notes.damaged.push(format!("{place}: network {index}: {why}"));
                            None
                        }
                    });
                }
            }
        }
    }

    /// Whose lists are kept.
    ///
    /// # Errors
    /// The directory is there and cannot be listed.
    pub fn listed(&self) -> Result<BTreeSet<String>, CniError> {
        let is_id = |name: &str| name != RESULTS && names::validate_container_id(name).is_ok();
        let scratch = list(&self.dir, &is_id)?.into_iter().filter(|path| !path.is_dir());
        Ok(scratch.filter_map(|path| path.file_name().and_then(OsStr::to_str).map(str::to_owned)).collect())
    }

    /// Whose anything is kept. Where libcni's directory is also the runtimes' own, a note in it says nothing of Multus.
    ///
    /// # Errors
    /// A directory is there and cannot be listed.
    pub fn sandboxes(&self) -> Result<BTreeSet<String>, CniError> {
        let mut sandboxes = self.listed()?;
        if self.dir != Path::new(RUNTIMES_ROOT) {
            let noted = |path: PathBuf| serde_json::from_slice::<RawEntry>(&read_plain(&path).ok()?).ok();
            let ids = list(&self.results(), &|_| true)?.into_iter().filter_map(noted).map(|raw| raw.container_id);
            sandboxes.extend(ids.filter(|id| names::validate_container_id(id).is_ok()));
        }
        Ok(sandboxes)
    }
}

impl Entry {
    fn of_name(network: &str, ifname: &str, file: &Path) -> Entry {
        Entry {
            network: network.to_owned(),
            ifname: ifname.to_owned(),
            list: None,
            args: String::new(),
            runtime: Map::new(),
            result: None,
            netns: None,
            device: None,
            file: file.to_owned(),
        }
    }
}

impl Notes {
    /// Whether nothing at all is kept.
    pub fn is_empty(&self) -> bool {
        self.scratch.is_none() && self.entries.is_empty()
    }

    /// Whether the list is there and does not say everything.
    pub fn has_damaged_list(&self) -> bool {
        self.scratch.is_some() && (self.delegates.is_empty() || self.delegates.iter().any(Option::is_none))
    }

    /// Removes the files that were read, the list last: what a kill leaves is read again.
    ///
    /// # Errors
    /// A file cannot be removed; one that is gone is removed already, and a directory in a file's place is let be.
    pub fn forget(&self) -> Result<(), CniError> {
        let entries = self.entries.iter().flat_map(|entry| [Some(&entry.file), entry.device.as_ref()]);
        for path in entries.chain([self.scratch.as_ref()]).flatten() {
            match fs::remove_file(path) {
                Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {
                    return Err(CniError::new(Code::Io, format!("removing {}: {e}", path.display())));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The entries of a directory whose names fit, sorted; none where it is not there.
fn list(dir: &Path, fits: &dyn Fn(&str) -> bool) -> Result<Vec<PathBuf>, CniError> {
    let failed = |e: io::Error| CniError::new(Code::Io, format!("listing {}: {e}", dir.display()));
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries.take(ENTRIES_MAX) {
        let entry = entry.map_err(failed)?;
        // Neither a network's name nor an id can hold what is no UTF-8.
        if entry.file_name().to_str().is_some_and(fits) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// A file's bytes: no link is followed, nothing is waited for, and no more is read than a file of the cache has.
pub(super) fn read_plain(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file: File = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        let why = if meta.is_file() { "larger than a file of this cache" } else { "no regular file" };
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Multus' DelegateNetConf, as far as a DEL needs it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RawDelegate {
    #[serde(rename = "Bytes")]
    bytes: Option<String>,
    #[serde(rename = "Conf")]
    conf: Value,
    #[serde(rename = "ConfList")]
    conf_list: Value,
    #[serde(rename = "ifnameRequest")]
    ifname: Option<String>,
    #[serde(rename = "macRequest")]
    mac: Value,
    #[serde(rename = "ipRequest")]
    ips: Value,
    #[serde(rename = "infinibandGUIDRequest")]
    guid: Value,
    #[serde(rename = "deviceID")]
    device: Value,
}

fn delegates(bytes: &[u8]) -> Result<Vec<Result<Delegate, String>>, String> {
    let all: Vec<Value> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if all.is_empty() || all.len() > ATTACHMENTS_MAX {
        return Err(format!("it lists {} networks", all.len()));
    }
    Ok(all.into_iter().map(delegate).collect())
}

fn delegate(value: Value) -> Result<Delegate, String> {
    let raw: RawDelegate = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let whole = raw.bytes.as_deref().and_then(base64::decode).filter(|bytes| !bytes.is_empty());
    // Beside the bytes stands what Multus itself reads of them: less, but enough to find links and leases by.
    let has = |conf: &&Value, key: &str| conf.get(key).is_some_and(|value| !value.is_null() && value != "");
    let parsed = || {
        let list = Some(&raw.conf_list).filter(|list| has(list, "plugins"));
        list.or(Some(&raw.conf).filter(|conf| has(conf, "type"))).and_then(|conf| serde_json::to_vec(conf).ok())
    };
    let list = match whole.as_deref().map(configuration) {
        Some(Ok(list)) => list,
        first => match parsed().map(|bytes| configuration(&bytes)) {
            Some(Ok(list)) => list,
            second => {
                let why = first.or(second).and_then(Result::err);
                return Err(why.unwrap_or_else(|| "it has no configuration".to_owned()));
            }
        },
    };
    let mut asked = Map::new();
    let pairs = [("mac", raw.mac), ("ips", raw.ips), ("infinibandGUID", raw.guid), ("deviceID", raw.device)];
    asked.extend(pairs.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.to_owned(), v)));
    let ifname = raw.ifname.filter(|name| names::validate_taken_ifname(name).is_ok());
    Ok(Delegate { list, ifname, asked })
}

/// A network's configuration: whatever version it says, DEL needs its plugins.
fn configuration(bytes: &[u8]) -> Result<List, String> {
    let list = List::parse_either(bytes).or_else(|refusal| {
        let mut object: Map<String, Value> = gojson::read(bytes).map_err(|_| refusal.clone())?;
        object.remove("cniVersions");
        object.insert("cniVersion".to_owned(), Version::CURRENT.as_str().into());
        List::parse_either(&serde_json::to_vec(&object).unwrap_or_default()).map_err(|_| refusal)
    });
    let list = list.map_err(|e| e.msg)?;
    names::validate_network_name(&list.name).map_err(|e| e.msg)?;
    list.require_plugins().map_err(|e| e.msg)?;
    Ok(list)
}

/// libcni's cachedInfo (libcni/api.go, cacheV1).
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEntry {
    kind: String,
    container_id: String,
    config: Option<String>,
    if_name: String,
    network_name: String,
    netns: String,
    cni_args: Option<Vec<(String, String)>>,
    capability_args: Option<Map<String, Value>>,
    result: Value,
}

/// None where it is another's: of another sandbox, or what a runtime attached itself.
fn entry(bytes: &[u8], sandbox: &str, file: &Path) -> Result<Option<Entry>, String> {
    let raw: RawEntry = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if raw.kind != "cniCacheV1" {
        return Err(format!("it is of kind {:?}", raw.kind));
    }
    if raw.container_id != sandbox {
        return Ok(None);
    }
    names::validate_taken_ifname(&raw.if_name).map_err(|e| e.msg)?;
    names::validate_network_name(&raw.network_name).map_err(|e| e.msg)?;
    let config = raw.config.as_deref().and_then(base64::decode).ok_or("its configuration is no base64")?;
    let mut list = configuration(&config)?;
    let is_runtimes = |plugin: &str| META_TYPES.contains(&plugin) || (plugin == "loopback" && raw.if_name == "lo");
    if list.plugins.iter().any(|plugin| is_runtimes(&plugin.plugin_type)) {
        return Ok(None);
    }
    list.name.clone_from(&raw.network_name);
    let runtime = raw.capability_args.unwrap_or_default();
    let device = runtime.get("CNIDeviceInfoFile").and_then(Value::as_str).map(PathBuf::from);
    let is_device = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.contains(sandbox) && DEVICE_DIRS.iter().any(|dir| path.parent() == Some(Path::new(dir)))
    };
    let args: Vec<String> = raw.cni_args.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    Ok(Some(Entry {
        result: Some(&raw.result)
            .filter(|value| value.is_object())
            .and_then(|value| CniResult::parse(value, list.cni_version).ok())
            .map(|(result, _)| result),
        network: raw.network_name,
        ifname: raw.if_name,
        list: Some(list),
        args: args.join(";"),
        device: device.filter(is_device),
        runtime,
        netns: Some(PathBuf::from(raw.netns)).filter(|path| path.is_absolute()),
        file: file.to_owned(),
    }))
}

/// Network and interface of a file's name, `<network>-<sandbox>-<interface>`.
fn named<'a>(name: &'a str, part: &str) -> Option<(&'a str, &'a str)> {
    let (network, ifname) = name.split_once(part)?;
    let is_valid = names::validate_network_name(network).is_ok() && names::validate_taken_ifname(ifname).is_ok();
    is_valid.then_some((network, ifname))
}

#[cfg(test)]
mod tests;
