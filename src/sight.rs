//! Which network namespaces of this machine are in use: by the processes in them, and by the places they are mounted at, in
//! whatever mount namespace. And whether all of that can be seen from here. It knows neither records nor pods.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Largest table of mounts that is read, in bytes: a hundred thousand mounts.
const MOUNTS_BYTES_MAX: u64 = 16 << 20;

/// What is in use, at one moment.
#[derive(Debug)]
pub struct Sight {
    /// A path to each namespace that is in use, by its inode.
    places: BTreeMap<u64, PathBuf>,
    /// The pid namespace whose processes are listed; none where that cannot be seen.
    pid_ns: Option<u64>,
    /// Folders here whose mounts are those of the node's same folder, as they come and go there.
    windows: Vec<PathBuf>,
    /// What could not be looked at; empty where everything could.
    hidden: String,
}

/// The pid namespace of this process, by its inode; none where /proc cannot be read. The link is read and not followed: the kernel
/// would make an inode for that.
pub fn own_pid_ns() -> Option<u64> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix("]")?.parse().ok()
}

/// Where network namespaces are mounted in the mount namespace of this process, each once.
///
/// # Errors
/// /proc cannot be read.
pub fn mounted() -> io::Result<Vec<PathBuf>> {
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let places: BTreeMap<u64, PathBuf> = mounts.split(|byte| *byte == b'\n').filter_map(namespace_of).collect();
    Ok(places.into_values().map(|place| Path::new("/").join(place)).collect())
}

impl Sight {
    /// Looks at every process, and at every mount namespace that one is in.
    ///
    /// # Errors
    /// /proc cannot be listed, or read for another reason than that it is forbidden: then nothing is known.
    pub fn look() -> io::Result<Sight> {
        let mut sight = Sight { places: BTreeMap::new(), pid_ns: None, windows: Vec::new(), hidden: String::new() };
        let mut mounted: BTreeSet<u64> = BTreeSet::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            if entry.file_name().as_bytes().first().is_some_and(u8::is_ascii_digit) {
                sight.note_process(&entry.path(), &mut mounted)?;
            }
        }
        let own = Path::new("/proc/self/mountinfo");
        let mounts = sight.seen(own, read(own))?.unwrap_or_default();
        sight.windows = mounts.split(|byte| *byte == b'\n').filter_map(window_of).collect();
        // Also what a /proc that hides the processes of others does not list.
        sight.pid_ns = sight.seen("/proc/1/ns/pid", fs::metadata("/proc/1/ns/pid"))?.map(|meta| meta.ino());
        Ok(sight)
    }

    fn note_process(&mut self, process: &Path, mounted: &mut BTreeSet<u64>) -> io::Result<()> {
        let path = process.join("ns/net");
        if let Some(meta) = self.seen(&path, fs::metadata(&path))? {
            self.places.entry(meta.ino()).or_insert(path);
        }
        let path = process.join("ns/mnt");
        let Some(mounts) = self.seen(&path, fs::metadata(&path))?.map(|meta| meta.ino()) else { return Ok(()) };
        if mounted.contains(&mounts) {
            return Ok(());
        }
        let path = process.join("mountinfo");
        let Some(text) = self.seen(&path, read(&path))? else { return Ok(()) };
        for (inode, place) in text.split(|byte| *byte == b'\n').filter_map(namespace_of) {
            self.places.entry(inode).or_insert_with(|| process.join("root").join(place));
        }
        mounted.insert(mounts);
        Ok(())
    }

    /// What has ended meanwhile is in no namespace; what may not be seen is kept in mind.
    fn seen<T>(&mut self, what: impl AsRef<Path>, found: io::Result<T>) -> io::Result<Option<T>> {
        let errno = |error: &io::Error| error.raw_os_error().map(Errno::from_raw);
        match found {
            Ok(found) => Ok(Some(found)),
            // EINVAL: the mounts of a process that is ending (fs/proc_namespace.c, mounts_open_common).
            Err(e) if matches!(errno(&e), Some(Errno::ENOENT | Errno::ESRCH | Errno::EINVAL)) => Ok(None),
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                self.hidden = format!("{}: {e}", what.as_ref().display());
                Ok(None)
            }
            Err(e) => Err(io::Error::new(e.kind(), format!("{}: {e}", what.as_ref().display()))),
        }
    }

    /// A path to the namespace of this inode, if it is in use.
    pub fn place(&self, inode: u64) -> Option<&Path> {
        self.places.get(&inode).map(PathBuf::as_path)
    }

    /// Whether a namespace that the node has mounted at this path is seen here: its folder is one that a container was given of the
    /// node, with what is mounted there later (`HostToContainer`).
    pub fn follows(&self, path: &Path) -> bool {
        let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
        folder.is_some_and(|folder| self.windows.contains(&folder))
    }

    /// Why somebody of the pid namespace `of` may know namespaces that cannot be seen from here; none where nobody does.
    pub fn lacks(&self, of: u64) -> Option<String> {
        if !self.hidden.is_empty() {
            return Some(self.hidden.clone());
        }
        (self.pid_ns != Some(of)).then(|| "the processes of this pid namespace are not all of the node's".to_owned())
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOUNTS_BYTES_MAX).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length >= MOUNTS_BYTES_MAX) {
        return Err(io::Error::other(format!("more than {MOUNTS_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// A line of mountinfo (proc_pid_mountinfo(5)) that is a network namespace's: its inode, and where it is mounted below the root.
fn namespace_of(line: &[u8]) -> Option<(u64, PathBuf)> {
    let mut fields = line.split(|byte| *byte == b' ').skip(3);
    let (root, place) = (fields.next()?, fields.next()?);
    let inode = root.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    let inode = std::str::from_utf8(inode).ok()?.parse().ok()?;
    let place = OsString::from_vec(unescaped(place));
    Some((inode, Path::new(&place).strip_prefix("/").ok()?.to_owned()))
}

/// A line of mountinfo of a folder that gets the mounts of another one (`master`, mount_namespaces(7)): where that is.
fn window_of(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|byte| *byte == b' ').skip(4);
    let place = fields.next()?;
    let mut optional = fields.skip(1).take_while(|field| *field != b"-");
    let is_fed = optional.any(|field| field.starts_with(b"master:"));
    is_fed.then(|| PathBuf::from(OsString::from_vec(unescaped(place))))
}

/// Space, tab, line feed and backslash are written as three octal digits (seq_path).
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.filter(|_| first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_namespace_is_told_from_other_mounts() {
        let net = br"604 25 0:4 net:[4026532999] /run/netns/a\040b rw shared:9 - nsfs nsfs rw";
        assert_eq!(namespace_of(net), Some((4_026_532_999, PathBuf::from("run/netns/a b"))));
        for other in [
            "604 25 0:4 mnt:[4026532999] /run/x rw - nsfs nsfs rw",
            "25 1 8:1 / / rw - ext4 /dev/sda1 rw",
            "604 25 0:4 net:[x] /run/x rw - nsfs nsfs rw",
            "",
        ] {
            assert_eq!(namespace_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_folder_that_is_fed_is_told_from_others() {
        let fed = b"812 790 0:24 /netns /run/netns ro,nosuid master:12 - tmpfs tmpfs rw,mode=755";
        assert_eq!(window_of(fed), Some(PathBuf::from("/run/netns")));
        for other in [
            "812 790 0:24 /netns /run/netns rw shared:12 - tmpfs tmpfs rw",
            "812 790 0:24 /netns /run/netns rw - tmpfs master:12 rw",
            "",
        ] {
            assert_eq!(window_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn the_own_namespace_is_in_use() {
        assert_eq!(own_pid_ns(), Some(fs::metadata("/proc/self/ns/pid").unwrap().ino()));
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let sight = Sight::look().unwrap();
        assert!(sight.place(own).is_some() && sight.place(1).is_none());
        assert!(sight.lacks(1).is_some(), "another pid namespace has other processes");
    }
}
