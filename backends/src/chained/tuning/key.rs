//! From a configuration's key to a file below `/proc/sys/net`. Touches no file.

use crate::error::Error;

/// What is under it belongs to a network namespace, or is not seen in one.
pub(super) const TREE: &str = "/proc/sys/net";
/// Stands in a key for the name of the pod's interface.
const IFNAME: &str = "IFNAME";
/// Directories that have one entry for each interface: `<family>/<one of these>/<interface>/<parameter>`.
const PER_LINK: [&str; 2] = ["conf", "neigh"];

/// The path of a key below [`TREE`]. Dots separate as slashes do, and only then the first `IFNAME` is replaced: so a name with dots
/// can be had by it, and by nothing else. Empty parts are left out.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] with the reference plugin's text if it is not below.
pub(super) fn path(key: &str, ifname: &str) -> Result<String, Error> {
    let slashed = key.replace('.', "/").replacen(IFNAME, ifname, 1);
    let mut parts = slashed.split('/').filter(|part| !part.is_empty());
    // No key can have these parts, but an interface's name could.
    let stays = !slashed.split('/').any(|part| [".", ".."].contains(&part));
    let below = parts.next() == Some("net") && stays;
    let path = parts.collect::<Vec<_>>().join("/");
    if below && !path.is_empty() {
        return Ok(path);
    }
    Err(Error::invalid(format!("invalid net sysctl key: {slashed:?}")))
}

/// The interface that a path is about.
pub(super) fn link_of(path: &str) -> Option<&str> {
    let mut parts = path.split('/');
    let (_family, per_link) = (parts.next()?, parts.next()?);
    parts.next().filter(|name| PER_LINK.contains(&per_link) && !["all", "default"].contains(name))
}

/// The name of IPv4's parameter of this interface that a path is.
pub(super) fn inet_of<'path>(path: &'path str, ifname: &str) -> Option<&'path str> {
    path.strip_prefix("ipv4/conf/")?.strip_prefix(ifname)?.strip_prefix('/')
}

/// What comes first when several are written. Some parameters set others: `ipv4/ip_forward` those of all interfaces,
/// `conf/all` those of each. So what is about more comes before what is about less, and nothing that was asked for is overwritten;
/// among equals the path decides, so that equal configurations have equal outcomes.
pub(super) fn order(path: &str) -> (u8, &str) {
    let mut parts = path.split('/').skip(1);
    let rank = match (parts.next(), parts.next()) {
        (Some(per_link), Some("all")) if PER_LINK.contains(&per_link) => 1,
        (Some(per_link), Some("default")) if PER_LINK.contains(&per_link) => 2,
        (Some(per_link), Some(_)) if PER_LINK.contains(&per_link) => 3,
        _ => 0,
    };
    (rank, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_below_the_tree() {
        for (key, expected) in [
            ("net.ipv4.conf.all.arp_ignore", "ipv4/conf/all/arp_ignore"),
            ("net/ipv4/conf/all/arp_ignore", "ipv4/conf/all/arp_ignore"),
            ("/net//ipv4..conf/x/", "ipv4/conf/x"),
            ("net.ipv4.conf.IFNAME.IFNAME", "ipv4/conf/eth0.1/IFNAME"),
            ("net.ipv4.conf.eth0.1.x", "ipv4/conf/eth0/1/x"),
            ("net.ipv4/../../../x", "ipv4/x"),
        ] {
            assert_eq!(path(key, "eth0.1").unwrap(), expected, "{key}");
        }
    }

    #[test]
    fn what_is_not_below_is_refused() {
        for (key, ifname, said) in [
            ("kernel.x", "eth0", "kernel/x"),
            ("net", "eth0", "net"),
            ("net.", "eth0", "net/"),
            ("netx.a", "eth0", "netx/a"),
            ("", "eth0", ""),
            ("net.IFNAME.x", "..", "net/../x"),
            ("IFNAME.kernel.x", ".", "./kernel/x"),
        ] {
            let error = path(key, ifname).unwrap_err();
            assert_eq!(error.chain(), format!("invalid net sysctl key: \"{said}\""), "{key}");
        }
    }

    #[test]
    fn what_is_about_more_is_written_first() {
        let mut paths = [
            "ipv4/conf/a0/forwarding",
            "ipv4/conf/all/forwarding",
            "ipv4/ip_forward",
            "ipv6/neigh/default/gc_stale_time",
            "core/somaxconn",
            "ipv4/conf",
        ];
        paths.sort_unstable_by_key(|path| order(path));
        assert_eq!(
            paths,
            [
                "core/somaxconn",
                "ipv4/conf",
                "ipv4/ip_forward",
                "ipv4/conf/all/forwarding",
                "ipv6/neigh/default/gc_stale_time",
                "ipv4/conf/a0/forwarding"
            ]
        );
        assert_eq!(link_of("ipv4/conf/eth0.1/x"), Some("eth0.1"));
        assert_eq!(inet_of("ipv4/conf/eth0.1/arp_ignore", "eth0.1"), Some("arp_ignore"));
        for path in ["ipv4/conf/eth0/arp_ignore", "ipv4/conf/eth0.11/x", "ipv6/conf/eth0.1/x", "ipv4/neigh/eth0.1/x"] {
            assert_eq!(inet_of(path, "eth0.1"), None, "{path}");
        }
        assert_eq!(link_of("ipv6/neigh/eth0/x"), Some("eth0"));
        for path in ["ipv4/conf/all/x", "ipv6/neigh/default/x", "ipv4/route/flush", "core/somaxconn", "ipv4/conf"] {
            assert_eq!(link_of(path), None, "{path}");
        }
    }
}
