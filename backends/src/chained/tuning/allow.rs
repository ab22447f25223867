//! Which kernel parameters a node's owner lets configurations set: a file of patterns. Knows no configuration.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use regex_lite::RegexBuilder;

use crate::error::{Error, ErrorKind};

/// Where the reference plugin has it.
pub const ALLOW_LIST: &str = "/etc/cni/tuning/allowlist.conf";
/// The largest such file, in bytes: lists in use have ten lines.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// What one pattern may take compiled, in bytes: repetitions of repetitions grow without a limit otherwise.
const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// Which parameters may be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowList {
    /// All: the node's owner said nothing.
    All,
    /// Those that one of the patterns matches anywhere.
    Only(Vec<String>),
}

impl AllowList {
    /// Reads the list: one regular expression a line, blanks around it and empty lines left out. No file: all are allowed.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if there is something that cannot be read, [`ErrorKind::Invalid`] if it is too large or no text.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let place = || path.display().to_string();
        let errno = |error: &io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
        // Nothing that is no file can make the opening wait.
        let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::All),
            Err(error) => return Err(Error::io("open", place(), errno(&error))),
        };
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err(Error::at(ErrorKind::Invalid, "read", place()).because_of("not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io("read", place(), errno(&error)))?;
        let wrong = |words| Error::at(ErrorKind::Invalid, "read", place()).because_of(words);
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(wrong(format!("more than {FILE_BYTES_MAX} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
        Ok(Self::Only(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()))
    }

    /// Refuses a parameter that may not be set. `key` is as the configuration has it. A line that is no pattern is an error only
    /// where none before it matches: the reference plugin does not look further then.
    pub(super) fn permits(&self, key: &str) -> Result<(), Error> {
        let Self::Only(patterns) = self else { return Ok(()) };
        for pattern in patterns {
            let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
            let compiled = compiled.map_err(|e| Error::invalid(format!("error parsing regexp: {e}: `{pattern}`")))?;
            if compiled.is_match(key) {
                return Ok(());
            }
        }
        let listed = patterns.join(" ");
        let only = "Only the following sysctls are allowed";
        Err(Error::invalid(format!("Sysctl {key} is not allowed. {only}: [{listed}]")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(lines: &[&str]) -> AllowList {
        AllowList::Only(lines.iter().map(|line| (*line).to_owned()).collect())
    }

    #[test]
    fn a_pattern_matches_anywhere() {
        let list = only(&["^net.ipv4.conf.IFNAME.[a-z_]*$", "core"]);
        for (key, allowed) in [
            ("net.ipv4.conf.IFNAME.arp_ignore", true),
            ("net.ipv4.conf.IFNAME.arp_ignore.", false),
            ("net/core/somaxconn", true),
            ("net.ipv4.conf.eth0.arp_ignore", false),
        ] {
            assert_eq!(list.permits(key).is_ok(), allowed, "{key}");
        }
        let error = list.permits("net.ipv4.ip_forward").unwrap_err();
        assert_eq!(
            error.chain(),
            "Sysctl net.ipv4.ip_forward is not allowed. Only the following sysctls are allowed: \
             [^net.ipv4.conf.IFNAME.[a-z_]*$ core]"
        );
        assert_eq!(only(&[]).permits("x").unwrap_err().chain().rsplit(": ").next(), Some("[]"));
        assert!(AllowList::All.permits("x").is_ok());
    }

    #[test]
    fn a_wrong_pattern_refuses_what_no_earlier_one_allows() {
        assert!(only(&["net", "["]).permits("net.x").is_ok());
        let error = only(&["[", "net"]).permits("net.x").unwrap_err();
        assert!(error.chain().starts_with("error parsing regexp: "), "{}", error.chain());
        // Compiled, these are larger than any list needs.
        for hostile in ["((a{99}){99}){99}", "(((((((((((a{9}){9}){9}){9}){9}){9}){9}){9}){9}){9}){9}"] {
            assert!(only(&[hostile]).permits("a").is_err(), "{hostile}");
        }
        assert!(only(&[&"(".repeat(60_000)]).permits("a").is_err());
    }

    #[test]
    fn an_absent_file_allows_all_and_an_empty_one_nothing() {
        let path = std::env::temp_dir().join(format!("allowlist-{}", std::process::id()));
        assert_eq!(AllowList::read(&path).unwrap(), AllowList::All);
        std::fs::write(&path, "").unwrap();
        assert_eq!(AllowList::read(&path).unwrap(), only(&[]));
        std::fs::write(&path, " ^foo$ \r\n\n b\t\nc").unwrap();
        assert_eq!(AllowList::read(&path).unwrap(), only(&["^foo$", "b", "c"]));
        std::fs::write(&path, vec![b'a'; 65537]).unwrap();
        assert_eq!(AllowList::read(&path).unwrap_err().kind(), ErrorKind::Invalid);
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(AllowList::read(&path).unwrap_err().kind(), ErrorKind::Invalid);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = AllowList::read(&path).unwrap_err();
        assert_eq!(error.chain(), format!("read {}: not a regular file", path.display()));
        std::fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(AllowList::read(&path).unwrap_err().chain(), error.chain(), "nobody waits for who writes there");
        std::fs::remove_file(&path).unwrap();
    }
}
