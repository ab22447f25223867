//! A host and its pods, as namespaces of one test, and what `ip` says about them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use backends::{Address, Host, Layer3, NetNs, Pod, Route, Target};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Takes the process away from the machine's own network. The reason if that is not possible.
pub(crate) fn isolate() -> Result<(), String> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let spaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if uid.is_root() {
        unshare(spaces).map_err(|e| format!("unshare: {e}"))?;
    } else {
        unshare(spaces | CloneFlags::CLONE_NEWUSER).map_err(|e| format!("unshare: {e}"))?;
        for (file, text) in
            [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
        {
            std::fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("{file}: {e}"))?;
        }
    }
    let nowhere = None::<&str>;
    mount(nowhere, "/", nowhere, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nowhere).map_err(|e| format!("mount: {e}"))?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), nowhere).map_err(|e| format!("tmpfs: {e}"))?;
    Command::new("ip").arg("-V").output().map_err(|e| format!("iproute2: {e}"))?;
    Ok(())
}

/// One host. Its pods are namespaces of their own.
pub(crate) struct World {
    pub(crate) host: Host,
    /// Keeps the namespaces that were made.
    namespaces: Vec<File>,
}

/// A fresh namespace, as a file that keeps it.
fn fresh() -> File {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    File::open("/proc/thread-self/ns/net").unwrap()
}

impl World {
    /// Makes the calling thread the host.
    pub(crate) fn new() -> Self {
        let own = fresh();
        ip("link set lo up");
        Self { host: Host::open().unwrap(), namespaces: vec![own] }
    }

    /// A new pod.
    pub(crate) fn pod(&mut self) -> Pod {
        let file = std::thread::spawn(fresh).join().unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        self.namespaces.push(file);
        let pod = Pod::enter(NetNs::open(Path::new(&path)).unwrap()).unwrap();
        in_pod(&pod, "link set lo up");
        pod
    }

    /// A lower device with a carrier, as a physical one has: one end of a pair.
    pub(crate) fn lower(&self, name: &str) {
        ip(&format!("link add {name} type veth peer name {name}-far"));
        ip(&format!("link set {name} up"));
        ip(&format!("link set {name}-far up"));
    }
}

/// A target with nothing but a name.
pub(crate) fn target(ifname: &str) -> Target<'_> {
    Target { ifname, group: None, mac: None }
}

/// A configuration from JSON.
pub(crate) fn conf<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

/// Addresses, each with or without a gateway after a space, and routes in the same form.
pub(crate) fn layer3(addresses: &[&str], routes: &[&str]) -> Layer3 {
    let split = |text: &str| {
        let (first, gateway) = text.split_once(' ').unwrap_or((text, ""));
        (first.parse().unwrap(), (!gateway.is_empty()).then(|| gateway.parse().unwrap()))
    };
    let address = |text: &&str| {
        let (address, gateway) = split(text);
        Address { address, gateway }
    };
    let route = |text: &&str| {
        let (dst, gw) = split(text);
        Route::new(dst, gw)
    };
    Layer3 { addresses: addresses.iter().map(address).collect(), routes: routes.iter().map(route).collect() }
}

/// Runs `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `ip` in the pod.
pub(crate) fn in_pod(pod: &Pod, arguments: &str) -> String {
    pod.netns().run(|| ip(arguments)).unwrap()
}

fn parsed(text: &str) -> Vec<Value> {
    if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(text).unwrap() }
}

/// The link on the host, in `ip`'s words.
pub(crate) fn host_link(name: &str) -> Value {
    parsed(&ip(&format!("-j -d link show dev {name}"))).remove(0)
}

/// The link in the pod, in `ip`'s words.
pub(crate) fn pod_link(pod: &Pod, name: &str) -> Value {
    parsed(&in_pod(pod, &format!("-j -d link show dev {name}"))).remove(0)
}

/// The names of all links in the pod.
pub(crate) fn pod_links(pod: &Pod) -> Vec<String> {
    parsed(&in_pod(pod, "-j link show")).iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

/// The names of all links on the host.
pub(crate) fn host_links() -> Vec<String> {
    parsed(&ip("-j link show")).iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

fn addresses_of(json: &str) -> Vec<String> {
    let links = parsed(json);
    let all = links.iter().flat_map(|link| link["addr_info"].as_array().unwrap().clone()).collect::<Vec<_>>();
    let text = |a: &Value| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]);
    all.iter().filter(|a| a["scope"] == "global").map(text).collect()
}

/// The global addresses of a link of the pod.
pub(crate) fn pod_addresses(pod: &Pod, name: &str) -> Vec<String> {
    addresses_of(&in_pod(pod, &format!("-j addr show dev {name}")))
}

/// The global addresses of a link of the host.
pub(crate) fn host_addresses(name: &str) -> Vec<String> {
    addresses_of(&ip(&format!("-j addr show dev {name}")))
}

fn routes_of(text: &str) -> Vec<String> {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(line).filter(|line| !line.starts_with("fe80::") && !line.starts_with("ff00::")).collect()
}

/// The pod's routes in the main table, in `ip`'s words, without link-local and multicast ones.
pub(crate) fn pod_routes(pod: &Pod, family: &str) -> Vec<String> {
    routes_of(&in_pod(pod, &format!("{family} route show")))
}

/// The host's routes in the main table.
pub(crate) fn host_routes(family: &str) -> Vec<String> {
    routes_of(&ip(&format!("{family} route show")))
}

/// A kernel parameter of the calling thread's namespace.
pub(crate) fn sysctl(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap().trim().to_owned()
}

/// A kernel parameter of the pod.
pub(crate) fn pod_sysctl(pod: &Pod, key: &str) -> String {
    pod.netns().run(|| sysctl(key)).unwrap()
}

/// How long a test waits for the kernel to say something, in seconds. Reached only when the test fails.
const EVENT_DEADLINE_S: u64 = 20;

/// What `ip monitor` says in one namespace.
pub(crate) struct Events {
    monitor: Child,
    lines: Receiver<String>,
}

impl Events {
    /// Listens for changes of the pod's addresses.
    pub(crate) fn of_addresses(pod: &Pod) -> Self {
        let poke = |number| drop(in_pod(pod, &format!("addr replace 127.1.1.{number}/8 dev lo")));
        pod.netns().run(|| Self::of("address", &poke)).unwrap()
    }

    /// Listens for changes of the host's neighbours; `link` is one of its links.
    pub(crate) fn of_neighbours(link: &str) -> Self {
        Self::of("neigh", &|number| {
            ip(&format!("neigh replace 192.0.2.{number} lladdr 02:00:00:00:00:01 nud stale dev {link}"));
        })
    }

    /// Begins to listen. Returns once the listener is there: it reports what `poke` changes for that purpose.
    fn of(object: &str, poke: &dyn Fn(u8)) -> Self {
        let mut monitor = Command::new("ip").args(["-o", "monitor", object]).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(monitor.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let events = Self { monitor, lines };
        let mut number = 0;
        while events.lines.try_recv().is_err() {
            number = number % 250 + 1;
            poke(number);
        }
        events
    }

    /// Waits for a line.
    pub(crate) fn until(&self, wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(EVENT_DEADLINE_S);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("no such event");
            if wanted(&line) {
                return;
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.monitor.kill().unwrap();
        self.monitor.wait().unwrap();
    }
}
