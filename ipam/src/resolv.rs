//! `resolv.conf` -> [`Dns`], by host-local's rules. Knows nothing of addresses.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

use crate::{Dns, Error};

/// The most that is read of a `resolv.conf`, in bytes: it comes from a path in a configuration.
const MAX_RESOLV_CONF_BYTES: u64 = 1 << 20;

/// Reads the file.
pub(crate) fn read(path: &Path) -> Result<Dns, Error> {
    let fail = |source| Error::io("open", path, source);
    let mut text = Vec::new();
    // What is no file cannot make the opening wait.
    let flags = OFlag::O_NONBLOCK.bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    opened.and_then(|file| file.take(MAX_RESOLV_CONF_BYTES).read_to_end(&mut text)).map_err(fail)?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// A `nameserver` line gives its first field, the last `domain` wins, `search` and `options` add up over lines.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let mut fields = line.split_whitespace();
        let (Some(word), Some(first)) = (fields.next(), fields.next()) else { continue };
        let all = std::iter::once(first).chain(fields).map(str::to_owned);
        match word {
            "nameserver" => dns.nameservers.push(first.to_owned()),
            "domain" => dns.domain = Some(first.to_owned()),
            "search" => dns.search.extend(all),
            "options" => dns.options.extend(all),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_host_local() {
        let dns = parse(
            "# c\n ; c\nnameserver 192.0.2.3 ignored\nnameserver 192.0.2.4\nnameserver\ndomain a.example\n\
             domain b.example\nsearch one two\nsearch three\noptions ndots:5 rotate\r\noptions edns0\nunknown x\n",
        );
        assert_eq!(dns.nameservers, ["192.0.2.3", "192.0.2.4"]);
        assert_eq!(dns.domain.as_deref(), Some("b.example"));
        assert_eq!(dns.search, ["one", "two", "three"]);
        assert_eq!(dns.options, ["ndots:5", "rotate", "edns0"]);
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let error = read(Path::new("/nonexistent/resolv.conf")).unwrap_err();
        assert_eq!(error.to_string(), "open /nonexistent/resolv.conf");
        assert!(std::error::Error::source(&error).is_some());
    }
}
