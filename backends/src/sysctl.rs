//! Per-interface kernel parameters of one namespace. The directories are opened inside the namespace once; a path looked up
//! from such a descriptor stays in that namespace, whichever thread does it (fs/proc/proc_sysctl.c: the directory's
//! entry, not the thread, leads to its set), so no thread has to enter for a write. Knows no address.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::error::{Error, ErrorKind};

/// Which tree a parameter is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tree {
    /// `net/ipv4/conf`
    V4,
    /// `net/ipv6/conf`
    V6,
}

impl Tree {
    const fn path(self) -> &'static str {
        match self {
            Self::V4 => "/proc/sys/net/ipv4/conf",
            Self::V6 => "/proc/sys/net/ipv6/conf",
        }
    }
}

/// A value's text is a number: longer than this is none, in bytes.
const VALUE_BYTES_MAX: u64 = 32;

/// The two trees of one namespace. A kernel without IPv6 has no second one.
#[derive(Debug)]
pub(crate) struct Sysctls {
    v4: Result<OwnedFd, Errno>,
    v6: Result<OwnedFd, Errno>,
}

impl Sysctls {
    /// Opens these trees of the calling thread's namespace. A missing one shows when something in it is written.
    ///
    /// Only what will be needed: all namespaces' trees have the same names below one directory, so the kernel passes over those
    /// of the others to find one, which takes 0.1 ms where there are two hundred (`proc_sys_compare` in fs/proc/proc_sysctl.c).
    pub(crate) fn open(trees: &[Tree]) -> Self {
        let tree = |tree: Tree| {
            if !trees.contains(&tree) {
                return Err(Errno::ENOENT);
            }
            open(tree.path(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        };
        Self { v4: tree(Tree::V4), v6: tree(Tree::V6) }
    }

    /// Sets `<tree>/<link>/<key>`; `link` may also be `all` or `default`.
    pub(crate) fn write(&self, tree: Tree, link: &str, key: &str, value: &str) -> Result<(), Error> {
        let place = || format!("{}/{link}/{key}", tree.path());
        let file = self.file(tree, link, key, OFlag::O_WRONLY).map_err(|e| Error::io("write", place(), e))?;
        std::fs::File::from(file)
            .write_all(value.as_bytes())
            .map_err(|e| Error::at(ErrorKind::Io, "write", place()).because(e))
    }

    /// Sets a parameter unless it has the value already: for those whose every write makes the kernel work or log.
    pub(crate) fn ensure(&self, tree: Tree, link: &str, key: &str, value: &str) -> Result<(), Error> {
        if self.read(tree, link, key)? == value { Ok(()) } else { self.write(tree, link, key, value) }
    }

    /// Reads `<tree>/<link>/<key>` without the line's end.
    pub(crate) fn read(&self, tree: Tree, link: &str, key: &str) -> Result<String, Error> {
        let place = || format!("{}/{link}/{key}", tree.path());
        let file = self.file(tree, link, key, OFlag::O_RDONLY).map_err(|e| Error::io("read", place(), e))?;
        let mut text = String::new();
        std::fs::File::from(file)
            .take(VALUE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|e| Error::at(ErrorKind::Io, "read", place()).because(e))?;
        Ok(text.trim_end().to_owned())
    }

    fn file(&self, tree: Tree, link: &str, key: &str, how: OFlag) -> Result<OwnedFd, Errno> {
        // A name that is a path would leave the tree.
        if link.is_empty() || link == "." || link == ".." || link.contains('/') {
            return Err(Errno::EINVAL);
        }
        let directory = match tree {
            Tree::V4 => &self.v4,
            Tree::V6 => &self.v6,
        };
        let directory = directory.as_ref().map_err(|errno| *errno)?;
        openat(directory, format!("{link}/{key}").as_str(), how | OFlag::O_CLOEXEC, Mode::empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leaves_the_tree() {
        let sysctls = Sysctls::open(&[Tree::V4]);
        assert_eq!(sysctls.read(Tree::V4, "lo", "mtu_probing_no_such").unwrap_err().kind(), ErrorKind::Io);
        for name in ["", ".", "..", "../conf/lo", "lo/"] {
            assert!(
                sysctls.read(Tree::V4, name, "forwarding").unwrap_err().chain().contains("invalid argument"),
                "{name}"
            );
        }
    }
}
