//! Certificate and key in one file, where client-go's certificate store has them: Multus' daemon and this one read each other's. It
//! does not know where they come from.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::durable;
use crate::kube::certificate::{self, Leaf};
use crate::sources;

/// What the names of all its files begin with, under Multus.
const PREFIX: &str = "multus-client-";
const SUFFIX: &str = ".pem";
/// A link to the one that is used.
const CURRENT: &str = "multus-client-current.pem";
/// Who has the key is the node.
const MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// The text of what is a time in a name, which sorts as the times do: `2026-01-31-12-00-00`.
const TIME_BYTES: usize = 19;
/// Older files that stay beside the one that is used: whoever has begun to read one finishes.
const OLDER_MAX: usize = 2;
/// Columns of a line (RFC 7468).
const COLUMNS: usize = 64;

/// A certificate with its issuers, and the key that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) leaf: Leaf,
    chain: Vec<CertificateDer<'static>>,
}

impl Pair {
    /// Of a text in PEM that has both, in any order.
    ///
    /// # Errors
    /// A sentence: one of them is missing, or is none, or they are of two pairs.
    pub(super) fn of(pem: &[u8]) -> Result<Pair, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let chain = chain.map_err(|e| format!("its certificates are not to be read: {e}"))?;
        let leaf = chain.first().ok_or("there is no certificate in it")?;
        let leaf = Leaf::of(leaf).ok_or("its certificate is none")?;
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|e| format!("its key is not to be read: {e}"))?;
        CertifiedKey::from_der(chain.clone(), key, &ring::default_provider())
            .map_err(|e| format!("certificate and key do not belong together: {e}"))?;
        Ok(Pair { leaf, chain })
    }

    /// A number that is another for every certificate, and the same whenever it is asked for.
    pub(super) fn number(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.chain.first().map(|leaf| leaf.as_ref()).hash(&mut hasher);
        hasher.finish()
    }

    fn certificates(&self) -> String {
        self.chain.iter().map(|der| block("CERTIFICATE", der)).collect()
    }
}

fn block(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (index, letter) in certificate::base64(der).chars().enumerate() {
        if index > 0 && index % COLUMNS == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text + &format!("\n-----END {label}-----\n")
}

/// A folder of such files.
#[derive(Clone, Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(super) fn new(dir: &Path) -> Store {
        Store { dir: dir.to_owned() }
    }

    /// The name under which the one that is used is found, in the folder.
    pub(super) fn name() -> &'static str {
        CURRENT
    }

    /// The one that is used; none: there is none yet.
    ///
    /// # Errors
    /// A sentence: it cannot be read, or is none.
    pub(super) fn current(&self) -> Result<Option<Pair>, String> {
        let path = self.dir.join(CURRENT);
        if fs::symlink_metadata(&path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let told = |why: String| format!("{}: {why}", path.display());
        Pair::of(&sources::read(&path).map_err(told)?).map(Some).map_err(told)
    }

    /// Makes the folder, where there is none.
    fn prepare(&self) -> Result<(), String> {
        let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&self.dir);
        made.map_err(|e| format!("{}: {e}", self.dir.display()))
    }

    /// From now on this is the one that is used: whoever reads at the same time finds it or the one before, whole.
    ///
    /// # Errors
    /// A sentence; then it is the one before.
    pub(super) fn put(&self, pair: &Pair, key_pem: &str, now: Timestamp) -> Result<(), String> {
        self.prepare()?;
        let name = format!("{PREFIX}{}{SUFFIX}", time(now));
        let path = self.dir.join(&name);
        let told = |e: std::io::Error| format!("{}: {e}", path.display());
        durable::replace(&path, (pair.certificates() + key_pem).as_bytes(), MODE).map_err(told)?;
        // Not by its whole path, as client-go does: containers see the folder under another.
        durable::point(&self.dir.join(CURRENT), Path::new(&name)).map_err(told)?;
        self.remove_older(&name);
        Ok(())
    }

    /// Nobody else does. One that cannot be removed is removed the next time.
    fn remove_older(&self, name: &str) {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let mut older: Vec<String> = names.filter(|found| is_dated(found) && found.as_str() < name).collect();
        older.sort();
        let surplus = older.len().saturating_sub(OLDER_MAX);
        for name in older.into_iter().take(surplus) {
            let _ = durable::remove(&self.dir.join(name));
        }
    }

    /// A file of the folder that others read.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        self.prepare()?;
        let path = self.dir.join(name);
        if sources::read(&path).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        durable::replace(&path, bytes, MODE).map_err(|e| format!("{}: {e}", path.display()))
    }
}

/// Digits, and a dash between each two.
fn time(now: Timestamp) -> String {
    let text: String = now.to_string().chars().map(|c| if c.is_ascii_digit() { c } else { '-' }).collect();
    text.chars().take(TIME_BYTES).collect()
}

fn is_dated(name: &str) -> bool {
    let time = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    time.is_some_and(|time| time.len() == TIME_BYTES && time.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::kube::enrolment::tests::signed;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("plexus-store-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        dir
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_one_that_is_used_is_behind_a_link() {
        let dir = folder("link");
        let store = Store::new(&dir);
        assert_eq!(store.current(), Ok(None));
        let mut last = None;
        for day in ["01", "02", "03", "04", "05"] {
            let (pem, key) = signed("system:multus:node", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
            let pair = Pair::of((pem + &key).as_bytes()).unwrap();
            store.put(&pair, &key, at(&format!("2026-01-{day}T12:00:00.7Z"))).unwrap();
            assert_eq!(store.current().unwrap(), Some(pair.clone()));
            last = Some(pair);
        }
        assert_eq!(fs::read_link(dir.join(CURRENT)).unwrap(), Path::new("multus-client-2026-01-05-12-00-00.pem"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join(CURRENT))), (0o700, 0o600));
        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let days = ["03", "04", "05"].map(|day| format!("multus-client-2026-01-{day}-12-00-00.pem"));
        assert_eq!(names, [&days[..], &[CURRENT.to_owned()]].concat());
        // What another has not finished changes nothing; what is no pair is told.
        fs::write(dir.join("multus-client-2026-01-06-12-00-00.pem"), "half").unwrap();
        assert_eq!(store.current().unwrap(), last);
        fs::write(dir.join(CURRENT), "half").unwrap();
        assert!(store.current().unwrap_err().contains("there is no certificate in it"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn only_what_belongs_together_is_a_pair() {
        let (one, key) = signed("system:multus:node", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let (_, other) = signed("system:multus:node", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let pair = Pair::of(format!("{key}{one}").as_bytes()).unwrap();
        assert_eq!(pair, Pair::of(format!("of whom\n{one}\n{key}").as_bytes()).unwrap(), "in any order");
        assert_eq!(Pair::of((pair.certificates() + &key).as_bytes()), Ok(pair.clone()));
        assert_eq!(pair.number(), pair.clone().number());
        for (text, why) in [
            (format!("{one}{other}"), "do not belong together"),
            (one.clone(), "its key is not to be read"),
            (key.clone(), "there is no certificate"),
            (one.replace('a', "!") + &key, "not to be read"),
            (String::new(), "there is no certificate"),
        ] {
            let error = Pair::of(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn only_files_of_the_store_are_removed() {
        assert!(is_dated("multus-client-2026-01-31-12-00-00.pem"));
        for name in [CURRENT, "multus-client-updated.pem", "multus-client-2026-01-31.pem", "2026-01-31-12-00-00.pem"] {
            assert!(!is_dated(name), "{name}");
        }
        assert_eq!(time(at("2026-01-31T12:00:00Z")), "2026-01-31-12-00-00");
    }
}
