//! What was attached, on disk: one file per request, written before the kernel is touched.
//!
//! A file is named by what the runtime gives to every command of an attachment (network, sandbox, interface), so DEL opens
//! exactly one file and ends by unlinking it: it never rewrites a record, and so never needs room on a full disk.
//! A file holds one JSON value a line: the intent, what steps of a chain find before they change it, and after success the
//! commitment. Each is an append of one line (6 us on ext4, where replacing a file by rename costs 73 us, because ext4 starts to
//! write back what it replaced).
//! A line that kill -9 cut short has no newline and counts as not written.
//!
//! No fsync: a record carries the boot id, and after a reboot no attachment of an older boot exists.
//! This module does not know why a record is written, nor how what it names is removed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use backends::Made;
use backends::chained::Original;
use backends::host_device::Device;
use backends::sriov::Function;
use ipam::spare;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod boot;
mod listing;
mod plugged;

pub use boot::boot_id;
pub use listing::Listing;
use plugged::Unplugged;
pub use plugged::{HOT, PLUGGED};

/// How long a command waits for another one of the same attachment: longer than the kernel takes for anything, shorter than a
/// runtime waits.
pub const HOLD_WAIT_MAX: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });
/// How often a file may vanish between opening and locking it.
const HOLD_TRIES_MAX: u32 = 16;
/// Largest record that is read back; a larger file is not one of ours.
const RECORD_BYTES_MAX: u64 = 16 << 20;
/// Longest file name that names its request in the clear; a longer one is cut and hashed (ext4 and xfs take 255).
const NAME_BYTES_MAX: usize = 230;
/// How a record's file name ends.
pub const SUFFIX: &str = ".jsonl";
/// The directory of records, below `stateDir`.
pub const RECORDS: &str = "journal";

/// What the runtime gives to every command of an attachment (CNI spec, "attachment": container id, name, interface name).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// The network's name in the configuration the runtime sent.
    pub network: String,
    /// The container id.
    pub sandbox: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// The kind, where it was executed directly; [`HOT`] for an interface that a pod got while it ran; empty for the meta-plugin. A delegate of the meta-plugin that calls a kind under
    /// the same network's name (flannel) has a record of its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plugin: String,
}

/// The pod a request was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, where the runtime told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// Where a native step's addresses are held: enough to release them, whatever became of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// host-local's dataDir.
    pub data_dir: PathBuf,
    /// The network whose directory it is.
    pub network: String,
}

/// One plugin of an attachment's chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The plugin's `type`.
    #[serde(rename = "type")]
    pub plugin: String,
    /// Built in process, or executed.
    pub native: bool,
    /// The configuration the step ran with, `prevResult` left out.
    pub conf: Map<String, Value>,
    /// Addresses a native step holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
    /// A device of the host that a native step moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// A virtual function that a native step sets up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<Box<Function>>,
    /// An IPAM plugin that was executed for a native step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam_delegate: Option<String>,
}

/// One interface in the pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// `namespace/name` of the definition, or the configuration's name.
    pub network: String,
    /// The configuration's `name`: leases are kept under it.
    pub cni_name: String,
    /// The version its plugins speak.
    pub cni_version: String,
    /// The interface in the pod.
    pub ifname: String,
    /// CNI_ARGS as the plugins got them.
    pub args: String,
    /// The network whose result the runtime gets.
    pub default: bool,
    /// Its list's `disableCheck`.
    #[serde(default)]
    pub disable_check: bool,
    /// The gateways of the pod's default routes that it was asked to hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub default_route: Vec<IpAddr>,
    /// The device it was given, where its definition names a resource or the pod a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Allotted>,
    /// The chain, in the order of ADD.
    pub steps: Vec<Step>,
}

/// A device of a node that an attachment was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Allotted {
    /// The resource it is of; empty where the pod named it by itself.
    pub resource: String,
    /// A PCI address, or whatever else its device plugin calls it.
    pub id: String,
}

/// The first line: everything the request is about to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Which request.
    pub key: Key,
    /// The boot it was made in: /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// What the log said of it is found by this; the caller's, where it gave one (W3C Trace Context).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// CNI_NETNS at ADD.
    pub netns: String,
    /// Its device and inode: whether a path still leads to the same namespace.
    #[serde(default)]
    pub netns_id: (u64, u64),
    /// Its number (SO_NETNS_COOKIE): device and inode return once a namespace is gone. 0 where the kernel numbers none.
    #[serde(default)]
    pub netns_cookie: u64,
    /// The pid namespace of ADD, by its inode: who sees other processes does not see where the pod's are. 0 where nobody noted it.
    #[serde(default)]
    pub pid_ns: u64,
    /// The host's, as it was seen at ADD.
    #[serde(default)]
    pub host_id: (u64, u64),
    /// Where delegates are searched: binDir, then CNI_PATH.
    pub path: Vec<PathBuf>,
    /// The pod, where the runtime named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// The device group of the pod's native links; none where there is at most one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// In the order of ADD.
    pub attachments: Vec<Attachment>,
}

/// What one attachment became.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The attachment's result, as CNI 1.1.
    pub result: Value,
    /// The interface in the pod as it was made; none where a delegate made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
    /// How long it took to attach, in microseconds.
    #[serde(default)]
    pub micros: u64,
}

/// The second line: the request succeeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commitment {
    /// One for each attachment of the intent, same order.
    pub outcomes: Vec<Outcome>,
    /// The network-status annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// A line between both: a step of a chain is about to change what was there before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Which attachment of the intent.
    pub attachment: usize,
    /// Which step of its chain.
    pub step: usize,
    /// What was there.
    pub original: Original,
}

/// A request's file, read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What was about to be done.
    pub intent: Intent,
    /// What chained steps found, in the order of ADD.
    pub progress: Vec<Progress>,
    /// Present where it was done.
    pub commitment: Option<Commitment>,
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{act} {path}")]
pub struct Error {
    act: &'static str,
    path: String,
    #[source]
    source: io::Error,
}

impl Error {
    /// In the record's place is something that is no file, and that no plexus put there.
    pub fn is_odd(&self) -> bool {
        self.source.get_ref().is_some_and(|why| why.is::<NotAFile>())
    }

    /// It says more than a record may.
    pub fn is_too_large(&self) -> bool {
        self.source.get_ref().is_some_and(|why| why.is::<TooLarge>())
    }

    /// Another command of the same attachment is at work.
    pub fn is_held(&self) -> bool {
        self.source.kind() == ErrorKind::WouldBlock
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not a regular file: remove it")]
struct NotAFile;

#[derive(Debug, thiserror::Error)]
#[error(
    "it has {length} bytes or more, at most {RECORD_BYTES_MAX} are kept: ask for less, or shorten the configurations"
)]
struct TooLarge {
    length: usize,
}

/// A symbolic link, a directory, a socket (open(2)).
fn is_no_file(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO))
}

fn at(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error { act, path, source }
}

/// The directory of records.
#[derive(Clone, Debug)]
pub struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// The journal below `state_dir`; nothing is created until something is written.
    pub fn new(state_dir: &Path) -> Journal {
        Journal { dir: state_dir.join(RECORDS) }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(file_name(key))
    }

    /// Takes hold of one request's file, so that no other command of the same attachment works at the same time; waits for
    /// one that does, but not for ever. `create`: an ADD makes the file, others find none.
    ///
    /// # Errors
    /// Another command holds it ([`Error::is_held`]); the file cannot be opened, or is no regular file.
    pub fn hold(&self, key: &Key, create: bool) -> Result<Option<Held>, Error> {
        self.hold_within(key, create, HOLD_WAIT_MAX)
    }

    /// As [`Journal::hold`], waiting at most so long.
    ///
    /// # Errors
    /// As [`Journal::hold`].
    pub fn hold_within(&self, key: &Key, create: bool, patience: Duration) -> Result<Option<Held>, Error> {
        self.hold_at(self.path(key), create, patience)
    }

    /// Takes hold of the record of a file name, at once or not at all; makes it where there is none, so that no other command
    /// can meanwhile.
    ///
    /// # Errors
    /// As [`Journal::hold`].
    pub fn hold_named(&self, name: &str) -> Result<Option<Held>, Error> {
        self.hold_at(self.dir.join(name), true, Duration::ZERO)
    }

    fn hold_at(&self, path: PathBuf, create: bool, patience: Duration) -> Result<Option<Held>, Error> {
        if let Some(file) = create.then(|| self.made_ahead(&path)).flatten() {
            return Ok(Some(Held { file, path }));
        }
        for _ in 0..HOLD_TRIES_MAX {
            let file = match self.open(&path, create) {
                Err(e) if e.kind() == ErrorKind::NotFound && !create => return Ok(None),
                Err(e) if is_no_file(&e) => return Err(at("opening the record", &path)(io::Error::other(NotAFile))),
                other => other.map_err(at("opening the record", &path))?,
            };
            if !file.metadata().map_err(at("opening the record", &path))?.is_file() {
                return Err(at("opening the record", &path)(io::Error::other(NotAFile)));
            }
            let file = lock(file, patience).map_err(at("taking hold of the record", &path))?;
            // Whoever had it may have forgotten the request just now: then this is a file without a name.
            if file.metadata().is_ok_and(|meta| meta.nlink() > 0) {
                return Ok(Some(Held { file, path }));
            }
        }
        Err(at("taking hold of the record", &path)(busy()))
    }

    /// A new record, held before it has its name; none where there is a record already, or no file made ahead.
    fn made_ahead(&self, path: &Path) -> Option<Flock<File>> {
        let file = Flock::lock(spare::take(&self.dir)?, FlockArg::LockExclusiveNonblock).ok()?;
        spare::name(&file, path).ok().map(|()| file)
    }

    /// Gives what is no file in a record's place another name, which no record has.
    ///
    /// # Errors
    /// It cannot be renamed; one that is gone is put away already.
    pub fn put_away(&self, key: &Key) -> Result<(), Error> {
        let path = self.path(key);
        match fs::rename(&path, path.with_extension(format!("odd{}", std::process::id()))) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(at("putting away", &path)(e)),
            _ => Ok(()),
        }
    }

    /// No symbolic link is followed out of the journal, and nothing that is no file can make the opening wait. Only what is
    /// created is written: everything else works on a disk that is read-only by now.
    fn open(&self, path: &Path, create: bool) -> io::Result<File> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).append(create).create(create).mode(0o600).custom_flags(flags.bits()).open(path)
        };
        match open() {
            Err(e) if e.kind() == ErrorKind::NotFound && create => {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
                open()
            }
            other => other,
        }
    }
}

/// Locks a record. A command that was killed may hold its own for a while yet: a child of it that has not executed anything so
/// far, a message that the kernel still works at.
fn lock(file: File, patience: Duration) -> io::Result<Flock<File>> {
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => return Ok(locked),
        Err((_, Errno::EWOULDBLOCK)) if patience.is_zero() => return Err(busy()),
        Err((file, Errno::EWOULDBLOCK)) => file,
        Err((_, errno)) => return Err(errno.into()),
    };
    // A thread that still queues when the time is over gives the lock back as soon as it gets it.
    let (sender, receiver) = mpsc::sync_channel(1);
    let queue = move || _ = sender.send(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno));
    thread::Builder::new().spawn(queue)?;
    match receiver.recv_timeout(patience) {
        Ok(locked) => locked.map_err(io::Error::from),
        Err(_) => Err(busy()),
    }
}

fn busy() -> io::Error {
    io::Error::new(ErrorKind::WouldBlock, "another command of this attachment is at work")
}

/// One request's file, while a command works on it.
#[derive(Debug)]
pub struct Held {
    file: Flock<File>,
    path: PathBuf,
}

impl Held {
    /// The file's name.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(OsStr::to_str).unwrap_or_default()
    }

    /// What the file says: usually one record; several where an ADD was repeated.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn records(&self) -> Result<Vec<Record>, Error> {
        let bytes = read_bounded(&self.file).map_err(at("reading the record", &self.path))?;
        Ok(parse(&bytes))
    }

    /// Whether the file has a whole line, whatever that says: without one nothing was ever done.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn has_lines(&self) -> Result<bool, Error> {
        let bytes = read_bounded(&self.file).map_err(at("reading the record", &self.path))?;
        Ok(bytes.contains(&b'\n'))
    }

    /// The same open file once more: as long as it is open anywhere, this request is held.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn share(&self) -> Result<OwnedFd, Error> {
        let shared = self.file.try_clone().map_err(at("taking hold of the record", &self.path))?;
        Ok(OwnedFd::from(shared))
    }

    /// Appends the intent, after whatever an earlier attempt left: that stays true until a DEL. Returns where it begins, for
    /// [`Held::roll_back`].
    ///
    /// # Errors
    /// It cannot be written whole: then nothing of it stays.
    pub fn intend(&mut self, intent: &Intent) -> Result<u64, Error> {
        let begin = self.file.metadata().map_err(at("writing the record", &self.path))?.len();
        let mut line = line_of(intent, &self.path)?;
        if begin > 0 {
            line.insert(0, b'\n'); // whatever was cut short ends here
        }
        line.push(b'\n');
        let before = usize::try_from(begin).unwrap_or(usize::MAX);
        let written = within_bounds(before.saturating_add(line.len())).and_then(|()| self.file.write_all(&line));
        written.map_err(|e| {
            let _ = self.roll_back(begin); // nothing has been done yet
            at("writing the record", &self.path)(e)
        })?;
        Ok(begin)
    }

    /// Appends what a step is about to change.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn note(&mut self, progress: &Progress) -> Result<(), Error> {
        self.append(line_of(progress, &self.path)?)
    }

    /// Appends the commitment.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn commit(&mut self, commitment: &Commitment) -> Result<(), Error> {
        self.append(line_of(commitment, &self.path)?)
    }

    fn append(&mut self, mut line: Vec<u8>) -> Result<(), Error> {
        line.push(b'\n');
        let before = self.file.metadata().map_err(at("completing the record", &self.path))?.len();
        let length = usize::try_from(before).unwrap_or(usize::MAX).saturating_add(line.len());
        let written = within_bounds(length).and_then(|()| self.file.write_all(&line));
        written.map_err(|e| {
            let _ = self.file.set_len(before); // half a line would spoil the next one
            at("completing the record", &self.path)(e)
        })
    }

    /// Makes the file say what it said before an intent.
    ///
    /// # Errors
    /// It cannot be cut or removed.
    pub fn roll_back(&self, begin: u64) -> Result<(), Error> {
        if begin == 0 {
            return self.forget();
        }
        self.file.set_len(begin).map_err(at("restoring the record", &self.path))
    }

    /// Forgets the request.
    ///
    /// # Errors
    /// The file cannot be removed; one that is gone is forgotten already.
    pub fn forget(&self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(at("removing the record", &self.path)(e)),
            _ => Ok(()),
        }
    }
}

/// The device group (IFLA_GROUP) of a request's links in its pod: the same for every command of the request, and never
/// 0, which is the group of everything else.
pub fn group_of(key: &Key) -> u32 {
    let hash = fnv1a_128(file_name(key).as_bytes());
    let [a, b, c, d, ..] = hash.to_le_bytes();
    u32::from_le_bytes([a, b, c, d]) & 0x7fff_ffff | 0x4000_0000
}

fn line_of<T: Serialize>(value: &T, path: &Path) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|e| at("encoding the record", path)(io::Error::other(e)))
}

fn read_bounded(mut file: &File) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    within_bounds(bytes.len()).map(|()| bytes)
}

/// What would not be read back is not written either.
fn within_bounds(length: usize) -> io::Result<()> {
    if u64::try_from(length).is_ok_and(|length| length <= RECORD_BYTES_MAX) {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::FileTooLarge, TooLarge { length }))
}

/// The records in the bytes of a file, oldest first: each intent that is whole, with its commitment where that is whole.
pub fn parse(bytes: &[u8]) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    for line in bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        if let Ok(intent) = serde_json::from_slice::<Intent>(line) {
            records.push(Record { intent, progress: Vec::new(), commitment: None });
        } else if let (Ok(done), Some(last)) = (serde_json::from_slice::<Commitment>(line), records.last_mut())
            && done.outcomes.len() == last.intent.attachments.len()
        {
            last.commitment = Some(done);
        } else if let (Ok(progress), Some(last)) = (serde_json::from_slice::<Progress>(line), records.last_mut()) {
            last.progress.push(progress);
        } else if let Ok(gone) = serde_json::from_slice::<Unplugged>(line) {
            records.iter_mut().for_each(|record| record.forget(&gone.unplugged));
        }
    }
    records
}

/// The name of a request's file: `network:sandbox:ifname.jsonl`; no part can hold a colon or a slash (CNI spec: names and ids are `[a-zA-Z0-9_.-]`).
pub fn file_name(key: &Key) -> String {
    let Key { network, sandbox, ifname, plugin } = key;
    let mut name = format!("{network}:{sandbox}:{ifname}");
    if !plugin.is_empty() {
        name = format!("{name}:{plugin}");
    }
    if name.len() <= NAME_BYTES_MAX {
        return name + SUFFIX;
    }
    let kept: String = sandbox.chars().take(64).collect();
    format!("{kept}:{:032x}{SUFFIX}", fnv1a_128(name.as_bytes()))
}

/// FNV-1a over 128 bits: stable between releases, which the standard library's hash does not promise.
pub fn fnv1a_128(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, &byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

#[cfg(test)]
mod tests;
