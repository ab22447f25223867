//! What the tests of host-local stand on: a scratch pool, and a stand-in for the Go plugin.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::*;

mod crowd;
mod hostile;
mod kills;
mod model;
mod semantics;
mod trust;

/// A scratch directory with a data directory and a state directory; gone when dropped.
pub(super) struct Ground {
    root: PathBuf,
}

impl Ground {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ipam-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The directory of network `net`.
    fn dir(&self) -> PathBuf {
        self.data().join("net")
    }

    fn pool(&self, section: &Value) -> Pool {
        self.try_pool(section, &Requests::default()).unwrap()
    }

    fn try_pool(&self, section: &Value, requests: &Requests) -> Result<Pool, Error> {
        let mut section = section.clone();
        section["dataDir"] = self.data().to_str().unwrap().into();
        Pool::new(serde_json::from_value(section).unwrap(), "net", requests, &self.state())
    }

    /// A pool that is asked for these addresses.
    fn asking(&self, section: &Value, ips: &[&str]) -> Pool {
        let ips = ips.iter().map(|ip| (*ip).to_owned()).collect();
        self.try_pool(section, &Requests { ips, ..Requests::default() }).unwrap()
    }

    fn put(&self, name: &str, content: &str) {
        fs::create_dir_all(self.dir()).unwrap();
        fs::write(self.dir().join(name), content).unwrap();
    }

    /// Every file of the pool but the lock.
    fn files(&self) -> BTreeMap<String, String> {
        let Ok(listing) = fs::read_dir(self.dir()) else { return BTreeMap::new() };
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let named =
            listing.map(|entry| entry.unwrap()).map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
        named.filter(|(name, _)| name != "lock").map(|(name, path)| (name, read(&path))).collect()
    }

    /// The lease files.
    fn leases(&self) -> BTreeMap<String, String> {
        self.files().into_iter().filter(|(name, _)| name.parse::<IpAddr>().is_ok()).collect()
    }

    /// The only file of the index folder.
    fn index_file(&self) -> PathBuf {
        let names: Vec<_> =
            fs::read_dir(self.state().join("index")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names.len(), 1, "{names:?}");
        names[0].clone()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.root);
    }
}

fn owner(sandbox: &str) -> Owner<'_> {
    Owner { sandbox, ifname: "eth0" }
}

/// The addresses of an allocation, without prefixes.
fn ips(allocation: &Allocation) -> Vec<String> {
    allocation.addresses.iter().map(|address| address.address.ip().to_string()).collect()
}

fn add(pool: &Pool, sandbox: &str) -> Result<Vec<String>, String> {
    pool.add(&owner(sandbox)).map(|allocation| ips(&allocation)).map_err(|error| error.to_string())
}

fn one_range(subnet: &str) -> Value {
    json!({ "ranges": [[{ "subnet": subnet }]] })
}

/// How many listings the call makes.
fn listings_of<T>(call: impl FnOnce() -> T) -> (T, u32) {
    crate::fault::listings();
    let value = call();
    (value, crate::fault::listings())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}
