//! Which containers still live, as far as this node's files tell: the namespaces in the journal, and what runtimes noted for
//! themselves when they attached (libcni's cache, which they keep until their DEL succeeded). Nothing here guesses from clocks.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::Value;

use crate::cni::error::{CniError, Code};
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::detach;
use crate::journal::Record;

/// Where libcni keeps its cache unless the runtime says otherwise.
pub const CACHE_DIR: &str = "/var/lib/cni/results";

/// Largest entry of the cache that is read: a configuration and a result.
const ENTRY_BYTES_MAX: u64 = 4 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Alive {
    sandboxes: BTreeSet<String>,
    /// Entries of the cache that are of an older form: the container's id is somewhere in the name.
    names: Vec<String>,
    /// The links of the host that results name.
    links: BTreeSet<String>,
    /// There is a cache: who is neither in it nor in the journal was attached by nobody who still knows of it.
    knows_all: bool,
}

impl Alive {
    /// Reads the cache; `records` is the journal.
    ///
    /// # Errors
    /// The cache is there and cannot be listed.
    pub fn read(records: &[Record], cache_dir: &Path) -> Result<Alive, CniError> {
        let mut alive = Alive::default();
        for record in records.iter().filter(|record| lives(record)) {
            alive.sandboxes.insert(record.intent.key.sandbox.clone());
            let outcomes = record.commitment.iter().flat_map(|done| &done.outcomes);
            outcomes.for_each(|outcome| alive.note_links(&outcome.result));
        }
        let failed = |e: std::io::Error| {
            CniError::new(Code::Io, format!("listing the runtimes' cache {}: {e}", cache_dir.display()))
        };
        let entries = match fs::read_dir(cache_dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(alive),
            other => other.map_err(failed)?,
        };
        alive.knows_all = true;
        for entry in entries {
            alive.note(&entry.map_err(failed)?.path());
        }
        Ok(alive)
    }

    fn note(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let entry = read(path).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let text =
            |key: &str| entry.as_ref().and_then(|entry| entry.get(key)).and_then(Value::as_str).unwrap_or_default();
        let (sandbox, netns) = (text("containerId"), text("netns"));
        if sandbox.is_empty() {
            self.names.push(name);
        } else if netns.is_empty() || Path::new(netns).exists() {
            self.sandboxes.insert(sandbox.to_owned());
        }
        if let Some(result) = entry.as_ref().and_then(|entry| entry.get("result")) {
            self.note_links(result);
        }
    }

    fn note_links(&mut self, result: &Value) {
        let parsed = CniResult::parse(result, Version::CURRENT);
        let interfaces = parsed.map(|(result, _)| result.interfaces).unwrap_or_default();
        self.links.extend(interfaces.into_iter().filter(|i| i.sandbox.is_empty()).map(|i| i.name));
    }

    /// Whether a container of this id lives, or may.
    pub fn has(&self, sandbox: &str) -> bool {
        self.any(|alive| alive == sandbox)
            || self.names.iter().any(|name| !sandbox.is_empty() && name.contains(sandbox))
    }

    /// Whether a container lives whose id fits, or an entry of the cache does not say whose it is.
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

    /// Whether every entry of the cache says whose it is.
    pub fn is_exact(&self) -> bool {
        self.names.is_empty()
    }
}

/// A record's namespace is still the one that was attached.
pub fn lives(record: &Record) -> bool {
    // Not being able to look is no proof of its end.
    detach::namespace_of(&record.intent, None).map_or(true, |found| found.is_some())
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let file = fs::File::open(path).ok().filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))?;
    let mut bytes = Vec::new();
    file.take(ENTRY_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_says_who_lives_unless_the_namespace_is_gone() {
        let dir = std::env::temp_dir().join(format!("plexus-alive-{}", std::process::id()));
        assert!(!Alive::read(&[], &dir).unwrap().knows_all());
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
        let alive = Alive::read(&[], &dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let lives = ["aa", "bb", "cc", "dd", ""].map(|id| alive.has(id));
        assert_eq!(
            lives,
            [true, true, false, true, false],
            "an entry that cannot be read may be anybody's of its name"
        );
        assert!(alive.knows_all() && !alive.is_exact());
        assert!(alive.has_link("vethaa") && !alive.has_link("eth0"));
    }
}
