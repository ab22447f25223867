//! Who holds a device on this node: `<stateDir>/devices/<device>` is a symbolic link to the holder's record in the journal.
//!
//! A symbolic link is made whole and only where there is none, in one system call, so one of two that want a device gets it,
//! and kill -9 leaves no half claim; a link that leads nowhere is nobody's. It is read and never followed. Whoever removes a claim
//! holds the record that it leads to: then nobody can claim by that record meanwhile.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use crate::journal::{Allotted, RECORDS, SUFFIX, fnv1a_128};

/// Longest file name that says its device in the clear; a longer one is hashed (ext4 and xfs take 255).
const NAME_BYTES_MAX: usize = 200;
/// More claims than a node has devices.
const CLAIMS_MAX: usize = 1 << 16;

/// Why a claim could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("{act} {path}")]
pub struct Error {
    act: &'static str,
    path: String,
    #[source]
    source: io::Error,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was free.
    Now,
    /// The same record has it already.
    Before,
    /// Another one has it: the name of its record.
    ByOther(String),
}

/// The claims of a node.
#[derive(Clone, Debug)]
pub struct Ledger {
    dir: PathBuf,
}

impl Ledger {
    /// The ledger below `state_dir`; nothing is created until something is claimed.
    pub fn new(state_dir: &Path) -> Ledger {
        Ledger { dir: state_dir.join("devices") }
    }

    /// What the record of that name has claimed: file names, which say a PCI address in the clear.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn of(&self, record: &str) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(at("listing the claims:", &self.dir))?,
        };
        let names = entries.take(CLAIMS_MAX).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let is_its = |name: &String| holder(&self.dir.join(name)).is_ok_and(|found| found.as_deref() == Some(record));
        Ok(names.filter(is_its).collect())
    }

    /// Claims a device for the record of that name.
    ///
    /// # Errors
    /// The directory cannot be written; in the claim's place is something that is none.
    pub fn take(&self, device: &Allotted, record: &str) -> Result<Taken, Error> {
        let path = self.dir.join(name(device));
        let target = Path::new("..").join(RECORDS).join(record);
        let made = match symlink(&target, &path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
                made.and_then(|()| symlink(&target, &path))
            }
            made => made,
        };
        match made {
            Ok(()) => Ok(Taken::Now),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => match holder(&path)? {
                Some(holder) if holder == record => Ok(Taken::Before),
                Some(holder) => Ok(Taken::ByOther(holder)),
                None => Ok(Taken::ByOther("that has just gone".to_owned())), // whoever tries again finds it free
            },
            Err(e) => Err(at("claiming a device:", &path)(e)),
        }
    }

    /// Whether nobody but the record of that name has a device; a claim of it that was lost is made again. What leads to a record that is
    /// gone is nobody's.
    ///
    /// # Errors
    /// Those of [`Ledger::take`].
    pub fn keep(&self, device: &Allotted, record: &str) -> Result<bool, Error> {
        let leads_nowhere = || match fs::metadata(self.dir.join(name(device))) {
            Err(e) => e.kind() == ErrorKind::NotFound,
            Ok(_) => false,
        };
        Ok(!matches!(self.take(device, record)?, Taken::ByOther(_)) || leads_nowhere())
    }

    /// The name of the record that has a device; none where it is free.
    ///
    /// # Errors
    /// In the claim's place is something that is none.
    pub fn holder(&self, device: &Allotted) -> Result<Option<String>, Error> {
        holder(&self.dir.join(name(device)))
    }

    /// Gives back a device that the record of that name has, for the holder of that record; one that is another's stays.
    ///
    /// # Errors
    /// The claim cannot be read or removed.
    pub fn release(&self, device: &Allotted, record: &str) -> Result<(), Error> {
        let path = self.dir.join(name(device));
        if holder(&path)?.is_none_or(|holder| holder != record) {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(at("giving back a device:", &path)(e)),
            _ => Ok(()),
        }
    }
}

fn at(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error { act, path, source }
}

/// The record that a claim leads to; none where there is no claim.
fn holder(path: &Path) -> Result<Option<String>, Error> {
    let no_claim = |what: &str| at("reading a claim:", path)(io::Error::new(ErrorKind::InvalidData, what));
    let target = match fs::read_link(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        // A file or a folder (readlink(2)).
        Err(e) if e.kind() == ErrorKind::InvalidInput => return Err(no_claim("it is no symbolic link: remove it")),
        other => other.map_err(at("reading a claim:", path))?,
    };
    let place = Path::new("..").join(RECORDS);
    let record = target.strip_prefix(&place).ok().and_then(Path::to_str);
    let record = record.filter(|record| record.ends_with(SUFFIX) && !record.contains('/'));
    record.map(|record| Some(record.to_owned())).ok_or_else(|| no_claim("it leads to no record: remove it"))
}

/// The file name of a device: a PCI address is one device, whatever the resource; other ids mean something within their resource
/// only.
pub fn name(device: &Allotted) -> String {
    let Allotted { resource, id } = device;
    let name =
        if is_pci_address(id) { id.to_ascii_lowercase() } else { format!("{}={}", encoded(resource), encoded(id)) };
    if name.len() <= NAME_BYTES_MAX { name } else { format!("{:032x}", fnv1a_128(name.as_bytes())) }
}

/// Domain, bus, device and function: `0000:01:10.0` (Linux prints a domain with four digits or more).
fn is_pci_address(id: &str) -> bool {
    let is_hex = |part: &str, least: usize| {
        part.len() >= least && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let parts: Vec<&str> = id.split([':', '.']).collect();
    let [domain, bus, device, function] = parts.as_slice() else { return false };
    id.matches('.').count() == 1
        && is_hex(domain, 4)
        && (bus.len(), device.len(), function.len()) == (2, 2, 1)
        && [bus, device, function].iter().all(|part| is_hex(part, 1))
}

/// What is no letter, digit, dot, colon, dash or underscore, as `%` and two digits.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b':' | b'-' | b'_' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn device(resource: &str, id: &str) -> Allotted {
        Allotted { resource: resource.into(), id: id.into() }
    }

    fn folder() -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("plexus-claims-{}-{number}", std::process::id()))
    }

    #[test]
    fn a_device_has_one_holder_until_that_one_gives_it_back() {
        let dir = folder();
        let (ledger, vf) = (Ledger::new(&dir), device("a/vf", "v1"));
        ledger.release(&vf, "one.jsonl").unwrap();
        assert_eq!(ledger.take(&vf, "one.jsonl").unwrap(), Taken::Now);
        assert_eq!(ledger.take(&vf, "one.jsonl").unwrap(), Taken::Before);
        assert_eq!(ledger.take(&vf, "two.jsonl").unwrap(), Taken::ByOther("one.jsonl".into()));
        ledger.release(&vf, "two.jsonl").unwrap();
        assert_eq!(ledger.take(&vf, "two.jsonl").unwrap(), Taken::ByOther("one.jsonl".into()));
        assert_eq!(ledger.take(&device("b/vf", "v1"), "two.jsonl").unwrap(), Taken::Now);
        assert_eq!(
            (ledger.of("two.jsonl").unwrap(), ledger.of("x.jsonl").unwrap()),
            (vec!["b%2Fvf=v1".to_owned()], vec![])
        );
        ledger.release(&vf, "one.jsonl").unwrap();
        assert_eq!(ledger.take(&vf, "two.jsonl").unwrap(), Taken::Now);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn only_a_record_that_is_there_keeps_a_device_from_another() {
        let dir = folder();
        let (ledger, vf) = (Ledger::new(&dir), device("a/vf", "v1"));
        assert!(ledger.keep(&vf, "one.jsonl").unwrap(), "its claim was lost");
        assert_eq!(ledger.holder(&vf).unwrap().as_deref(), Some("one.jsonl"));
        assert!(ledger.keep(&vf, "two.jsonl").unwrap(), "there is no such record");
        fs::create_dir(dir.join(RECORDS)).unwrap();
        fs::write(dir.join(RECORDS).join("one.jsonl"), "").unwrap();
        assert!(!ledger.keep(&vf, "two.jsonl").unwrap());
        assert!(ledger.keep(&vf, "one.jsonl").unwrap());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_no_claim_is_told_and_left_alone() {
        let dir = folder();
        let (ledger, vf) = (Ledger::new(&dir), device("a/vf", "v1"));
        ledger.take(&vf, "one.jsonl").unwrap();
        let path = dir.join("devices").join(name(&vf));
        for target in ["/etc/passwd", "../journal/../x.jsonl", "../journal/one", "../other/one.jsonl"] {
            fs::remove_file(&path).unwrap();
            symlink(target, &path).unwrap();
            assert!(ledger.take(&vf, "one.jsonl").is_err() && ledger.release(&vf, "one.jsonl").is_err(), "{target}");
            assert!(path.symlink_metadata().is_ok());
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        let refused = ledger.release(&vf, "one.jsonl").unwrap_err();
        let why = std::error::Error::source(&refused).unwrap().to_string();
        assert_eq!((why.as_str(), path.exists()), ("it is no symbolic link: remove it", true));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn one_of_many_gets_it() {
        let dir = folder();
        let ledger = Ledger::new(&dir);
        let winners = std::thread::scope(|scope| {
            let take = |n: usize| ledger.take(&device("a/vf", "v1"), &format!("{n}.jsonl")).unwrap() == Taken::Now;
            let all: Vec<_> = (0..16).map(|n| scope.spawn(move || take(n))).collect();
            all.into_iter().map(|one| one.join().unwrap()).filter(|won| *won).count()
        });
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(winners, 1);
    }

    #[test]
    fn a_pci_address_is_one_device_whatever_the_resource() {
        assert_eq!(name(&device("a/vf", "0000:01:1F.7")), "0000:01:1f.7");
        assert_eq!(name(&device("", "10000:e1:00.0")), "10000:e1:00.0");
        for id in ["0000:01:10", "01:10.0", "0000.01.10.0", "0000:01:10.g", "mlx5_core.sf.4", "0000:001:10.0", "a/../b"]
        {
            assert_eq!(name(&device("a/vf", id)), format!("a%2Fvf={}", id.replace('/', "%2F")), "{id}");
        }
    }

    proptest! {
        #[test]
        fn every_device_has_a_name_of_its_own(a in ("\\PC{0,20}", "\\PC{1,20}"), b in ("\\PC{0,20}", "\\PC{1,20}")) {
            let (one, other) = (name(&device(&a.0, &a.1)), name(&device(&b.0, &b.1)));
            prop_assert!(!one.contains('/') && one.len() <= NAME_BYTES_MAX && one != "." && one != "..");
            prop_assert!(a == b || one != other || is_pci_address(&a.1));
        }
    }
}
