//! Who may hold something on this node: the pods in the journal, which live as long as their namespaces, and those that runtimes
//! noted for themselves (libcni's cache, which they keep until their DEL succeeded). Nothing here guesses from clocks.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use backends::{Host, NetNs};
use serde_json::Value;

use crate::cni::error::{CniError, Code};
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::detach;
use crate::journal::{self, Intent, Record};
use crate::native;
use crate::sight::Sight;
use crate::sources;
use crate::takeover::Cache;

/// Where libcni keeps its cache unless the runtime says otherwise; and where Multus has it.
pub const CACHE_DIRS: [&str; 2] = ["/var/lib/cni/results", "/var/lib/cni/multus/results"];

/// Whom somebody knows.
#[derive(Debug, Default)]
pub struct Known {
    sandboxes: BTreeSet<String>,
    /// Whom a runtime has noted, whatever became of the namespace: it has not had its DEL.
    noted: BTreeSet<String>,
    /// Entries of the cache that are of an older form: the container's id is somewhere in the name.
    names: Vec<String>,
    /// The links of the host that results name.
    links: BTreeSet<String>,
    /// A record says what is about to be attached, and not yet which links that is.
    is_attaching: bool,
    /// There is a cache: who is neither in it nor in the journal was attached by nobody who still knows of it.
    knows_all: bool,
}

impl Known {
    /// Reads the cache; `records` is the journal.
    ///
    /// # Errors
    /// The cache is there and cannot be listed.
    pub fn read(records: &[Record], cache_dirs: &[PathBuf]) -> Result<Known, CniError> {
        let mut known = Known::default();
        for record in records {
            known.sandboxes.insert(record.intent.key.sandbox.clone());
            known.is_attaching |= record.commitment.is_none();
            let outcomes = record.commitment.iter().flat_map(|done| &done.outcomes);
            outcomes.for_each(|outcome| known.note_links(&outcome.result));
        }
        for dir in cache_dirs {
            known.read_cache(dir)?;
        }
        Ok(known)
    }

    /// Whether there may be links of somebody whose result is still to come.
    pub fn is_attaching(&self) -> bool {
        self.is_attaching
    }

    /// One that is not there says nothing.
    fn read_cache(&mut self, dir: &Path) -> Result<(), CniError> {
        let failed =
            |e: std::io::Error| CniError::new(Code::Io, format!("listing the runtimes' cache {}: {e}", dir.display()));
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        self.knows_all = true;
        // Multus lists a pod's networks beside libcni's directory, before any of them is noted in there.
        if let Some(kept) = dir.parent() {
            let listed = Cache::new(kept).listed()?;
            self.noted.extend(listed.iter().cloned());
            self.sandboxes.extend(listed);
        }
        for entry in entries {
            self.note(&entry.map_err(failed)?.path());
        }
        Ok(())
    }

    fn note(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let entry = sources::read(path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let text =
            |key: &str| entry.as_ref().and_then(|entry| entry.get(key)).and_then(Value::as_str).unwrap_or_default();
        let (sandbox, netns) = (text("containerId"), text("netns"));
        if !sandbox.is_empty() {
            self.noted.insert(sandbox.to_owned());
        }
        if sandbox.is_empty() {
            self.names.push(name);
        } else if netns.is_empty() || Path::new(netns).try_exists().unwrap_or(true) {
            self.sandboxes.insert(sandbox.to_owned());
        }
        if let Some(result) = entry.as_ref().and_then(|entry| entry.get("result")) {
            self.note_links(result);
        }
    }

    fn note_links(&mut self, result: &Value) {
        self.links.extend(host_links(result));
    }

    /// Whether somebody knows a container of this id, or may.
    pub fn has(&self, sandbox: &str) -> bool {
        self.any(|alive| alive == sandbox)
            || self.names.iter().any(|name| !sandbox.is_empty() && name.contains(sandbox))
    }

    /// Whether a runtime has a note of this id, or may have: then it is to send the DEL, although the namespace may be gone.
    pub fn is_noted(&self, sandbox: &str) -> bool {
        self.noted.contains(sandbox) || self.names.iter().any(|name| name.contains(sandbox))
    }

    /// Whether somebody knows a container whose id fits.
    pub fn any(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.sandboxes.iter().any(|sandbox| fits(sandbox))
    }

    /// Whether some result names this link of the host.
    pub fn has_link(&self, name: &str) -> bool {
        self.links.contains(name)
    }

    /// Whether who is not here is known to be nobody's.
    pub fn knows_all(&self) -> bool {
        self.knows_all
    }

    /// How many entries of the cache do not say whose they are.
    pub fn nameless(&self) -> usize {
        self.names.len()
    }
}

/// What is known of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Its namespace is there, or a process is in it.
    Lives,
    /// Its namespace is gone.
    Ended,
    /// Its namespace cannot be found from here, and something speaks against its end.
    Unclear,
}

/// Tells of each record whether its pod lives. Made once for many.
#[derive(Debug)]
pub struct Observer {
    /// The namespaces that are in use.
    sight: Sight,
    /// What cannot be seen from here is nowhere, whatever may be hidden.
    on_node: bool,
    boot_id: &'static str,
    /// The caller's own namespace.
    host_id: (u64, u64),
    /// The host's links whose other end is in another namespace.
    pairs: BTreeSet<String>,
}

impl Observer {
    /// Looks at every process, and at the links of the caller's namespace. `on_node`: somebody says that everything of the node
    /// can be seen from here; otherwise it is found out.
    ///
    /// # Errors
    /// Without the boot's id, which an older record is told by; the processes cannot be listed, the kernel cannot be asked for
    /// links.
    pub fn look(on_node: bool) -> Result<Observer, CniError> {
        let boot_id = journal::boot_id().map_err(|e| CniError::new(Code::Io, native::chain(&e)))?;
        let mut host = Host::open().map_err(native::from_backend)?;
        let host_id = host.netns().id();
        let ends = backends::host_ends(&mut host).map_err(native::from_backend)?;
        let pairs = ends.into_iter().map(|end| end.name).collect();
        let unseen = |e| CniError::new(Code::Io, format!("looking for the network namespaces that are in use: {e}"));
        Ok(Observer { sight: Sight::look().map_err(unseen)?, on_node, boot_id, host_id, pairs })
    }

    /// What is known of the pod of a record.
    pub fn life(&self, record: &Record) -> Life {
        let intent = &record.intent;
        if intent.boot_id != self.boot_id {
            return Life::Ended;
        }
        match detach::namespace_of(intent, None) {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return Life::Lives, // not being able to look is no proof of an end
        }
        if self.is_in_use(intent) {
            return Life::Lives;
        }
        if self.lacks(intent).is_some() {
            return Life::Unclear;
        }
        // Seen from a container nothing of the host is there.
        if intent.host_id != detach::UNKNOWN && intent.host_id != self.host_id {
            return Life::Unclear;
        }
        // A mount namespace of its own has no /run/netns; and a pair has two ends as long as both namespaces live.
        let dir = Path::new(&intent.netns).parent().unwrap_or(Path::new("/"));
        let outcomes = record.commitment.iter().flat_map(|done| &done.outcomes);
        let has_pair = outcomes.flat_map(|outcome| host_links(&outcome.result)).any(|link| self.pairs.contains(&link));
        if has_pair || !(dir.is_dir() || dir.starts_with("/proc")) { Life::Unclear } else { Life::Ended }
    }

    /// Whether a process is in the namespace, or it is mounted somewhere; unless what has its inode by now is another one.
    fn is_in_use(&self, intent: &Intent) -> bool {
        let (_, inode) = intent.netns_id;
        let Some(place) = self.sight.place(inode) else { return false };
        match detach::open(place) {
            Ok(Some(found)) if found.id() == intent.netns_id => detach::is_attached(&found, intent).unwrap_or(true),
            Ok(_) | Err(_) => true, // it has just gone, or cannot be reached
        }
    }

    /// The namespace of a record's pod, where both it and the host that it was attached to can be looked at from here. A record that
    /// does not say which namespace it was has none.
    pub fn reach(&self, intent: &Intent) -> Option<NetNs> {
        let is_here = intent.host_id == self.host_id && intent.boot_id == self.boot_id;
        if !is_here || intent.netns_id == detach::UNKNOWN {
            return None;
        }
        if let Ok(Some(found)) = detach::namespace_of(intent, None) {
            return Some(found);
        }
        let (_, inode) = intent.netns_id;
        let found = self.sight.place(inode).and_then(|place| detach::open(place).ok().flatten())?;
        matches!(detach::is_attached(&found, intent), Ok(true)).then_some(found)
    }

    /// Why the namespace of a record may be where nobody can see it from here. In a container the processes of the node are not seen, but
    /// what a runtime mounts, and takes away when it has stopped what was in there.
    pub fn lacks(&self, intent: &Intent) -> Option<String> {
        let is_seen = self.on_node || self.sight.follows(Path::new(&intent.netns));
        if is_seen { None } else { self.sight.lacks(intent.pid_ns) }
    }

    /// What is known of a file of the journal: it lives as long as any of its records does, or may.
    pub fn life_of(&self, records: &[Record]) -> Life {
        let lives: Vec<Life> = records.iter().map(|record| self.life(record)).collect();
        let any = |life: Life| lives.contains(&life).then_some(life);
        any(Life::Lives).or(any(Life::Unclear)).unwrap_or(Life::Ended)
    }
}

/// The links of the host that a result names.
pub fn host_links(result: &Value) -> Vec<String> {
    let parsed = CniResult::parse(result, Version::CURRENT);
    let interfaces = parsed.map(|(result, _)| result.interfaces).unwrap_or_default();
    interfaces.into_iter().filter(|i| i.sandbox.is_empty()).map(|i| i.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_says_who_lives_unless_the_namespace_is_gone() {
        let dir = std::env::temp_dir().join(format!("plexus-known-{}", std::process::id()));
        assert!(!Known::read(&[], std::slice::from_ref(&dir)).unwrap().knows_all());
        fs::create_dir_all(&dir).unwrap();
        let entry = |id: &str, netns: &str| {
            format!(
                r#"{{"kind":"cniCacheV1","containerId":"{id}","netns":"{netns}",
                "result":{{"cniVersion":"1.0.0","interfaces":[{{"name":"veth{id}"}},{{"name":"eth0","sandbox":"/n"}}]}}}}"#
            )
        };
        for (name, text) in [
            ("net-aa-eth0", entry("aa", "")),
            ("net-bb-eth0", entry("bb", "/proc/self/ns/net")),
            ("net-cc-eth0", entry("cc", "/nowhere/at/all")),
            ("net-dd-eth0", "not JSON".to_owned()),
        ] {
            fs::write(dir.join(name), text).unwrap();
        }
        let alive = Known::read(&[], std::slice::from_ref(&dir)).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let lives = ["aa", "bb", "cc", "dd", ""].map(|id| alive.has(id));
        assert_eq!(
            lives,
            [true, true, false, true, false],
            "an entry that cannot be read may be anybody's of its name"
        );
        let noted = ["aa", "cc", "dd", "ee"].map(|id| alive.is_noted(id));
        assert_eq!(noted, [true, true, true, false], "it waits for its DEL, whatever became of the namespace");
        assert_eq!((alive.knows_all(), alive.nameless()), (true, 1));
        assert!(alive.has_link("vethaa") && !alive.has_link("eth0"));
    }
}
