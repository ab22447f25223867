//! Kernel parameters by their files. Every function is called by a thread inside the pod's namespace: which files are below
//! `/proc/sys/net` depends on who looks, and some parameters' writers look at the caller's namespace too. What is [`Opened`] needs none.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;

use super::key::TREE;
use crate::error::Error;

/// The longest value that is read, in bytes: a list of all ports in ranges is the longest the kernel has.
const VALUE_BYTES_MAX: u64 = 512 * 1024;

fn place(path: &str) -> String {
    format!("{TREE}/{path}")
}

fn failed(act: &'static str, path: &str, error: &io::Error) -> Error {
    Error::io(act, place(path), errno(error))
}

fn errno(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number),
        // A path with a zero byte never reaches the kernel.
        None => Errno::EINVAL,
    }
}

/// A parameter of the interface, or of all, of one namespace: its file belongs to that, whoever writes to it then (`devinet_sysctl_register`
/// and `addrconf_sysctl_register` note the namespace in the table).
#[derive(Debug, Clone)]
pub(super) struct Opened {
    path: String,
    file: Arc<File>,
}

impl Opened {
    /// None: its writer may look at who writes.
    fn of(path: &str, file: File) -> Option<Opened> {
        let is_noted = path.starts_with("ipv4/conf/") || path.starts_with("ipv6/conf/");
        is_noted.then(|| Opened { path: path.to_owned(), file: Arc::new(file) })
    }

    /// As [`write`].
    pub(super) fn write(&self, value: &str) -> Result<(), Error> {
        self.file.write_all_at(value.as_bytes(), 0).map_err(|error| failed("write", &self.path, &error))
    }

    /// The present value; none: it cannot be read.
    pub(super) fn read(&self) -> Option<String> {
        (&*self.file).rewind().ok()?;
        text(&*self.file).ok()
    }
}

/// The present value of a parameter that can be written; `None` if it can only be written (`ipv4/route/flush`), or has no value
/// yet (`ipv6/conf/*/stable_secret`). Besides, how to write it from outside, where that can be done.
///
/// # Errors
/// As the reference plugin's writing: there is no such parameter, it is not for writing.
pub(super) fn writable(path: &str) -> Result<(Option<String>, Option<Opened>), Error> {
    match OpenOptions::new().read(true).write(true).open(place(path)) {
        Ok(file) => Ok((text(&file).ok(), Opened::of(path, file))),
        Err(error) if [Errno::EACCES, Errno::EPERM].contains(&errno(&error)) => {
            let opened = OpenOptions::new().write(true).open(place(path));
            opened.map(|_| (None, None)).map_err(|error| failed("open", path, &error))
        }
        Err(error) => Err(failed("open", path, &error)),
    }
}

/// A path that leads nowhere but below [`TREE`]: one of a backup may be anybody's text.
fn is_below(path: &str) -> bool {
    !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// The value without the line's end. `None`: there is no such parameter (any more).
pub(super) fn read(path: &str) -> Result<Option<String>, Error> {
    if !is_below(path) {
        return Err(Error::io("open", place(path), Errno::EINVAL));
    }
    match File::open(place(path)) {
        Ok(file) => text(file).map(Some).map_err(|error| failed("read", path, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("open", path, &error)),
    }
}

fn text(file: impl Read) -> io::Result<String> {
    let mut text = String::new();
    file.take(VALUE_BYTES_MAX).read_to_string(&mut text)?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// Writes a value that was read. No bytes would change nothing: a list becomes empty by an empty line.
pub(super) fn write_back(path: &str, value: &str) -> Result<(), Error> {
    write(path, if value.is_empty() { "\n" } else { value })
}

/// Writes a value, as it is: the reference plugin does not change one to none either.
pub(super) fn write(path: &str, value: &str) -> Result<(), Error> {
    let mut file = OpenOptions::new().write(true).open(place(path)).map_err(|error| failed("open", path, &error))?;
    file.write_all(value.as_bytes()).map_err(|error| failed("write", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_set_is_refused_in_the_reference_words() {
        for (path, expected) in [
            ("ipv4/nosuch", "open /proc/sys/net/ipv4/nosuch: no such file or directory"),
            ("ipv4/conf", "open /proc/sys/net/ipv4/conf: is a directory"),
            ("ipv4/conf/lo/mc_forwarding", "open /proc/sys/net/ipv4/conf/lo/mc_forwarding: permission denied"),
            ("ipv4/\0", "open /proc/sys/net/ipv4/\0: invalid argument"),
        ] {
            assert_eq!(writable(path).map(drop).unwrap_err().chain(), expected);
        }
        assert_eq!(read("ipv4/nosuch").unwrap(), None);
    }
}
