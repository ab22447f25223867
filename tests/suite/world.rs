//! The namespaces a test process lives in. It does not know what is tested in them.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// `1`: cases run as the machine's root, without a user namespace (in the VM, where nothing can be harmed).
pub(crate) const AS_ROOT: &str = "PLEXUS_SUITE_AS_ROOT";

/// Puts this process, which has one thread, into namespaces where it is root and can harm nothing.
///
/// # Errors
/// What the kernel refused, as a sentence.
pub(crate) fn enter() -> Result<(), String> {
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    let as_root = std::env::var_os(AS_ROOT).is_some_and(|value| value == "1");
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    if !as_root {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags)
        .map_err(|error| format!("no namespaces ({error}): run as root with {AS_ROOT}=1 or allow user namespaces"))?;
    if !as_root {
        // user_namespaces(7): setgroups is denied first, or an unprivileged process may not write gid_map.
        let maps =
            [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {user} 1")), ("gid_map", format!("0 {group} 1"))];
        for (file, text) in maps {
            fs::write(format!("/proc/self/{file}"), text).map_err(|error| format!("/proc/self/{file}: {error}"))?;
        }
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|error| format!("mounts cannot be made private: {error}"))
}

/// The places that a test bed covers with file systems of its own.
pub(crate) struct Cover {
    covered: Vec<&'static str>,
}

impl Cover {
    /// Gives the calling thread a fresh network namespace, an empty `/run` and an empty `/var/lib/cni`.
    pub(crate) fn spread() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("a fresh network namespace");
        // Where /var/lib/cni is missing it cannot be made by everybody: its parent is covered then.
        let state = if Path::new("/var/lib/cni").is_dir() { "/var/lib/cni" } else { "/var/lib" };
        let mut covered = vec!["/run", state];
        for place in &covered {
            mount(Some("tmpfs"), *place, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
                .unwrap_or_else(|error| panic!("tmpfs on {place}: {error}"));
        }
        fs::create_dir_all("/run/netns").unwrap();
        fs::create_dir_all("/var/lib/cni").unwrap();
        // /sys/class/net shows the links of the namespace it was mounted in. Not every kernel allows the mount to
        // a user namespace; then only who reads /sys notices.
        if mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).is_ok() {
            covered.push("/sys");
        }
        Self { covered }
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        for place in self.covered.iter().rev() {
            // With everything mounted below: the pods' namespaces go with /run.
            umount2(*place, MntFlags::MNT_DETACH).ok();
        }
    }
}

/// Makes a network namespace and binds it to `path`.
pub(crate) fn make_netns(path: &Path) {
    fs::File::create(path).unwrap();
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        });
        made.join().unwrap();
    });
}

/// Takes the namespace at `path` away, as a runtime does when it removes a sandbox.
pub(crate) fn lose_netns(path: &Path) {
    umount2(path, MntFlags::MNT_DETACH).unwrap();
    fs::remove_file(path).unwrap();
}

/// Runs `task` inside the network namespace at `path`, in a thread that then ends.
#[expect(
    clippy::disallowed_methods,
    reason = "the entering thread ends: the same rule as backends::netns, for a test's own look around"
)]
pub(crate) fn inside<T: Send>(path: &Path, task: impl FnOnce() -> T + Send) -> T {
    let namespace = fs::File::open(path).unwrap();
    std::thread::scope(|scope| {
        let entered = scope.spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            task()
        });
        entered.join().unwrap()
    })
}
