//! A world of the demo's own: user, network and mount namespaces that vanish with the process, however it ends.
//!
//! Nothing of the machine is written to: the directories that plexus uses are covered by file systems in memory. It does
//! not know what is put into them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

use crate::cli::failure::Failure;

/// Covered by file systems in memory: where runtimes keep namespaces, and where plexus keeps leases and journal.
const COVERED: [&str; 2] = ["/run", "/var/lib"];
/// Bytes that each of them may hold.
const TMPFS_OPTIONS: &str = "size=16m,mode=755";

/// The machine's settings forbid the demo.
#[derive(Debug, thiserror::Error)]
#[error("this machine does not let {who} make user namespaces ({act}: {errno}): {why}")]
pub(crate) struct Refusal {
    act: &'static str,
    errno: Errno,
    who: &'static str,
    why: String,
}

/// What the kernel lets decide about user namespaces; none where it does not know the setting.
#[derive(Debug)]
struct Settings {
    /// kernel.unprivileged_userns_clone (Debian, Arch): 0 forbids them to all but root.
    unprivileged_clone: Option<u64>,
    /// user.max_user_namespaces (user_namespaces(7)): 0 forbids them.
    namespaces_max: Option<u64>,
    /// kernel.apparmor_restrict_unprivileged_userns (Ubuntu 23.10 and later): 1 takes their capabilities away.
    apparmor: Option<u64>,
}

impl Settings {
    fn read() -> Settings {
        let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        Settings {
            unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            namespaces_max: number("/proc/sys/user/max_user_namespaces"),
            apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        }
    }

    /// Which setting it is, and what to do.
    fn explain(&self, errno: Errno, root: bool) -> String {
        let advice = "`, or run the demo as root";
        if self.namespaces_max == Some(0) || matches!(errno, Errno::ENOSPC | Errno::EUSERS) {
            let limit = self.namespaces_max.map_or_else(|| "a limit".to_owned(), |limit| limit.to_string());
            return format!(
                "user.max_user_namespaces is {limit}, or namespaces are nested too deep; \
                 raise it with `sysctl -w user.max_user_namespaces=10000`"
            );
        }
        if !root && self.unprivileged_clone == Some(0) {
            return format!(
                "kernel.unprivileged_userns_clone is 0; allow them with `sysctl -w kernel.unprivileged_userns_clone=1{advice}"
            );
        }
        if !root && self.apparmor.is_some_and(|restricted| restricted != 0) {
            return format!(
                "AppArmor restricts them (kernel.apparmor_restrict_unprivileged_userns is 1); allow them with \
                 `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0{advice}"
            );
        }
        if errno == Errno::EINVAL || errno == Errno::ENOSYS {
            return "this kernel was built without them (CONFIG_USER_NS); run the demo on another machine".to_owned();
        }
        "no sysctl forbids it, so a container's seccomp filter, a security module or a chroot does; \
         run the demo outside of it"
            .to_owned()
    }
}

/// Whether every new network namespace has this link: loopback, and the fallback devices of loaded tunnel modules
/// (net.core.fb_tunnels_only_for_init_net).
pub(super) fn is_born_with(link: &str) -> bool {
    let tunnels = ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];
    link == "lo" || tunnels.contains(&link)
}

/// Moves this process, which must have one thread only, into namespaces of its own, where it is root.
///
/// # Errors
/// [`Refusal`] where the machine forbids it; nothing was done then.
pub(super) fn enter() -> Result<(), Failure> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let refused = |act: &'static str| {
        move |errno: Errno| {
            let (who, root) = if uid.is_root() { ("root", true) } else { ("a user", false) };
            Refusal { act, errno, who, why: Settings::read().explain(errno, root) }
        }
    };
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    unshare(flags).map_err(refused("unshare"))?;
    let map = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))
    };
    // A group map without privilege is accepted only after setgroups is given up (user_namespaces(7)).
    map("setgroups", "deny".to_owned()).map_err(refused("writing setgroups"))?;
    map("uid_map", format!("0 {uid} 1")).map_err(refused("writing uid_map"))?;
    map("gid_map", format!("0 {gid} 1")).map_err(refused("writing gid_map"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(refused("making mounts private"))?;
    for dir in COVERED {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("plexus-demo"), dir, Some("tmpfs"), flags, Some(TMPFS_OPTIONS))
            .map_err(Failure::system(format!("mounting a tmpfs on {dir}")))?;
    }
    Ok(())
}

/// The links of the calling thread's network namespace, by name.
///
/// # Errors
/// /proc is not mounted.
pub(super) fn links() -> Result<BTreeSet<String>, Failure> {
    let path = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(path).map_err(Failure::system(format!("reading {path}")))?;
    Ok(names(&text))
}

/// The names in the text of /proc/net/dev: two lines of headers, then `name: counters` (net/core/net-procfs.c).
fn names(text: &str) -> BTreeSet<String> {
    text.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect()
}

/// How many namespaces are mounted below `dir`.
///
/// # Errors
/// /proc is not mounted.
pub(super) fn mounted(dir: &Path) -> Result<usize, Failure> {
    let path = "/proc/self/mountinfo";
    let text = fs::read_to_string(path).map_err(Failure::system(format!("reading {path}")))?;
    // The fifth field is the mount point (proc_pid_mountinfo(5)).
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| Path::new(at).parent() == Some(dir)).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(clone: Option<u64>, max: u64, apparmor: Option<u64>) -> Settings {
        Settings { unprivileged_clone: clone, namespaces_max: Some(max), apparmor }
    }

    #[test]
    fn a_refusal_names_the_setting_that_forbids_it() {
        for (settings, errno, root, part) in [
            (settings(None, 0, None), Errno::ENOSPC, true, "user.max_user_namespaces is 0"),
            (settings(Some(0), 100, None), Errno::EPERM, false, "kernel.unprivileged_userns_clone is 0"),
            (settings(Some(1), 100, Some(1)), Errno::EACCES, false, "kernel.apparmor_restrict_unprivileged_userns"),
            (settings(Some(1), 100, Some(1)), Errno::EPERM, true, "seccomp"),
            (settings(None, 100, None), Errno::EINVAL, false, "CONFIG_USER_NS"),
            (settings(None, 100, None), Errno::ENOSPC, false, "nested too deep"),
        ] {
            let why = settings.explain(errno, root);
            assert!(why.contains(part), "{settings:?} {errno}: {why}");
        }
    }

    #[test]
    fn links_are_named_without_their_counters() {
        let text = "Inter-|   Receive\n face |bytes\n    lo:  0 0\nveth1a: 12 0 0\n";
        assert_eq!(names(text), BTreeSet::from(["lo".to_owned(), "veth1a".to_owned()]));
    }
}
