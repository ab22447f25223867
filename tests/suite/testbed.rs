//! A machine for one test: a host network namespace, pods, parent links, directories. Everything is gone when it is
//! dropped; after a failure it prints every call and both sides' links first. It does not know what plugins do.
//!
//! It belongs to the thread that made it: that thread is in the host's namespace.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::call::{CHAINED, Call, NATIVE, Side, executable};
use crate::ip::Ip;
use crate::nft;
use crate::process;
use crate::world::{self, Cover};

/// Where host-local keeps leases unless its configuration says otherwise.
pub(crate) const LEASES: &str = "/var/lib/cni/networks";
/// Where tuning notes what it changes.
pub(crate) const BACKUPS: &str = "/run/cni/tuning";
/// Where plexus keeps its records when it is executed directly.
pub(crate) const RECORDS: &str = "/var/lib/cni/plexus";
/// Everything a case writes itself.
const SCRATCH: &str = "/run/scratch";
/// `ip` and the like answer at once, or something is very wrong.
const TOOL_LIMIT: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Testbed {
    pods: RefCell<BTreeSet<String>>,
    /// Links that the bed itself made in the host's namespace.
    own_links: RefCell<BTreeSet<String>>,
    log: RefCell<String>,
    /// Per place (a pod's name, or none for the host) its two `ip`s: all families, and only IPv6.
    ips: RefCell<BTreeMap<String, [Ip; 2]>>,
    _cover: Cover,
    /// Its host namespace is the one of this thread.
    _thread: PhantomData<*const ()>,
}

impl Testbed {
    /// A fresh host: `lo` (down), no files. The calling thread is in it from now on.
    pub(crate) fn new() -> Self {
        let cover = Cover::spread();
        fs::create_dir_all(SCRATCH).unwrap();
        let bed = Self {
            pods: RefCell::default(),
            own_links: RefCell::new(BTreeSet::from(["lo".to_owned()])),
            log: RefCell::default(),
            ips: RefCell::default(),
            _cover: cover,
            _thread: PhantomData,
        };
        for side in [Side::Go, Side::Plexus] {
            fs::create_dir_all(bed.bin(side)).unwrap();
            for name in NATIVE.into_iter().chain(CHAINED) {
                bed.install(side, name, &executable(side, name));
            }
        }
        bed.install(Side::Plexus, "plexus-cni", &executable(Side::Plexus, "plexus-cni"));
        bed
    }

    /// The directory of plugins of `side`: a CNI_PATH.
    pub(crate) fn bin(&self, side: Side) -> PathBuf {
        PathBuf::from(match side {
            Side::Go => "/run/cni/go",
            Side::Plexus => "/run/cni/plexus",
        })
    }

    /// Puts a symbolic link to `program` into the plugins of `side`.
    pub(crate) fn install(&self, side: Side, name: &str, program: &Path) {
        let link = self.bin(side).join(name);
        drop(fs::remove_file(&link));
        std::os::unix::fs::symlink(program, link).unwrap();
    }

    /// A call of the plugin `name` of `side`, which finds other plugins among those of the same side.
    pub(crate) fn call(&self, side: Side, name: &str) -> Call<'_> {
        Call::new(self, self.bin(side).join(name), &self.bin(side))
    }

    /// As [`Testbed::call`], through `/run/cni/bin`, which is the same path whatever the side: for comparing texts.
    pub(crate) fn call_by_one_path(&self, side: Side, name: &str) -> Call<'_> {
        let one = Path::new("/run/cni/bin");
        drop(fs::remove_file(one));
        std::os::unix::fs::symlink(self.bin(side), one).unwrap();
        Call::new(self, one.join(name), one)
    }

    /// Makes a pod's network namespace; its path is [`Testbed::netns`].
    pub(crate) fn pod(&self, name: &str) -> PathBuf {
        let path = self.netns(name);
        world::make_netns(&path);
        self.pods.borrow_mut().insert(name.to_owned());
        path
    }

    /// The path of a pod's namespace, whether it exists or not.
    pub(crate) fn netns(&self, name: &str) -> PathBuf {
        Path::new("/run/netns").join(name)
    }

    /// Removes a pod's namespace, as a runtime does that lost the sandbox, and waits until the kernel has removed the
    /// links that went with it: their ends on the host.
    pub(crate) fn lose_pod(&self, name: &str) {
        let inner = self.links_of(name);
        let pair =
            |one: &Value, other: &Value| one["link_index"] == other["ifindex"] && other["link_index"] == one["ifindex"];
        // The bed's own parent links pair with `wire`, and numbers repeat from namespace to namespace.
        let is_own = |link: &Value| self.own_links.borrow().iter().any(|own| link["ifname"] == own.as_str());
        let host = self.links_of("").into_iter();
        let goes = |link: &Value| !is_own(link) && inner.iter().any(|inner| pair(inner, link));
        let peers: Vec<Value> = host.filter(goes).map(|link| link["ifindex"].clone()).collect();
        self.ips.borrow_mut().remove(name);
        world::lose_netns(&self.netns(name));
        self.pods.borrow_mut().remove(name);
        let deadline = Instant::now() + TOOL_LIMIT;
        while self.links_of("").iter().any(|link| peers.contains(&link["ifindex"])) {
            assert!(Instant::now() < deadline, "the kernel keeps links of a namespace that is gone");
        }
    }

    /// Forgets a pod that the case itself has removed.
    pub(crate) fn forget_pod(&self, name: &str) {
        self.ips.borrow_mut().remove(name);
        self.pods.borrow_mut().remove(name);
    }

    /// The pods there are.
    pub(crate) fn pods(&self) -> Vec<String> {
        self.pods.borrow().iter().cloned().collect()
    }

    /// A link that is up, with carrier and a fixed MAC, to be the parent of macvlan and ipvlan links. Its other end
    /// is in the namespace `wire`, which is no pod.
    pub(crate) fn parent(&self, name: &str) {
        if !self.netns("wire").exists() {
            world::make_netns(&self.netns("wire"));
        }
        let number = self.own_links.borrow().len();
        self.ip(&format!("link add {name} address 02:00:00:00:00:{number:02x} type veth peer name {name} address 02:00:00:00:01:{number:02x} netns wire"));
        self.ip(&format!("link set {name} up"));
        self.ip(&format!("-n wire link set {name} up"));
        self.own_links.borrow_mut().insert(name.to_owned());
    }

    /// `ip` in the host's namespace; `-n POD` at the beginning goes into a pod. Must succeed.
    pub(crate) fn ip(&self, words: &str) -> String {
        self.try_ip(words).unwrap_or_else(|text| panic!("ip {words}: {text}"))
    }

    /// As [`Testbed::ip`], for what may fail.
    ///
    /// # Errors
    /// What `ip` wrote on its standard error.
    pub(crate) fn try_ip(&self, words: &str) -> Result<String, String> {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.tool("ip", &words, "")
    }

    /// Executes a tool in the host's namespace.
    ///
    /// # Errors
    /// What it wrote on its standard error.
    pub(crate) fn tool(&self, program: &str, words: &[&str], stdin: &str) -> Result<String, String> {
        let ended = process::run(Command::new(program).args(words), stdin.as_bytes(), TOOL_LIMIT);
        if ended.status.success() { Ok(ended.stdout) } else { Err(ended.stderr) }
    }

    /// Writes a file of the case's own below its scratch directory, and returns its path. For manifests, network
    /// files, resolv.conf.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = Path::new(SCRATCH).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Adds to what is printed when the test fails.
    pub(crate) fn note(&self, text: &str) {
        self.log.borrow_mut().push_str(text);
    }

    /// Every call so far, as text.
    pub(crate) fn transcript(&self) -> String {
        self.log.borrow().clone()
    }

    /// What nobody cleaned up: links of the host that the bed did not make, leases, records, rules, namespaces, and links in
    /// pods other than `lo`. Sorted; empty when all is clean.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for link in self.links("") {
            if !self.own_links.borrow().contains(&link) {
                left.push(format!("link {link}"));
            }
        }
        for pod in self.pods() {
            left.extend(
                self.links(&pod).into_iter().filter(|link| link != "lo").map(|link| format!("link {pod}/{link}")),
            );
        }
        for (path, _) in files_below(Path::new(LEASES)) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name != "lock" && !name.starts_with("last_reserved_ip.") {
                left.push(format!("lease {}", path.display()));
            }
        }
        // The index of a pool stays: it says what is free; and the boot whose left-overs were collected.
        let stays = |path: &Path| path.starts_with("index") || path == Path::new("journal/boot");
        let records = files_below(Path::new(RECORDS)).into_iter().filter(|(path, _)| !stays(path));
        left.extend(records.map(|(path, _)| format!("record {}", path.display())));
        left.extend(files_below(Path::new(BACKUPS)).into_iter().map(|(path, _)| format!("backup {}", path.display())));
        for entry in fs::read_dir("/run/netns").unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            if name != "wire" && !self.pods.borrow().contains(&name) {
                left.push(format!("namespace {name}"));
            }
        }
        left.extend(nft::leftovers(self));
        left.sort();
        left
    }

    /// The names of the links in the host's namespace (`""`) or a pod's.
    pub(crate) fn links(&self, pod: &str) -> Vec<String> {
        self.links_of(pod).iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
    }

    /// As [`Testbed::links`], as `ip` tells them.
    fn links_of(&self, pod: &str) -> Vec<Value> {
        self.look(pod, |[all, _]| all.list("link show"))
    }

    /// Asks the `ip`s of a place: of all families, and of IPv6 only.
    pub(crate) fn look<T>(&self, pod: &str, questions: impl FnOnce(&mut [Ip; 2]) -> T) -> T {
        let mut ips = self.ips.borrow_mut();
        let start = || [Ip::start(&[]), Ip::start(&["-6"])];
        let place = ips.entry(pod.to_owned());
        questions(
            place.or_insert_with(|| if pod.is_empty() { start() } else { world::inside(&self.netns(pod), start) }),
        )
    }

    /// Prints calls, links, addresses and routes of both sides.
    fn print(&self) {
        eprintln!("---- calls\n{}", self.transcript());
        let places = std::iter::once(String::new()).chain(self.pods().into_iter().map(|pod| format!("-n {pod} ")));
        for place in places {
            for words in ["-d addr show", "route show table all", "rule show", "-6 rule show"] {
                let text = self.try_ip(&format!("{place}{words}")).unwrap_or_else(|error| error);
                eprintln!("---- ip {place}{words}\n{text}");
            }
        }
        eprintln!("---- left over: {:?}", self.leftovers());
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print();
        }
    }
}

/// All regular files below `folder`, by their path from there, with their contents, sorted.
pub(crate) fn files_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                found.push((path.strip_prefix(folder).unwrap().to_path_buf(), bytes));
            }
        }
    }
    found.sort();
    found
}
