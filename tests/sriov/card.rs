//! A card with SR-IOV and its functions, as `ip` and sysfs show them; namespaces; and calls of the plugin.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How many functions are made.
const FUNCTIONS: usize = 4;
/// How long the machine may take for what is done elsewhere: a driver that probes, a namespace that is taken apart.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is executed, where it is not the one that cargo built: a copy without its symbols is read faster through a share.
const PLUGIN_VARIABLE: &str = "PLEXUS_SRIOV_PLUGIN";
/// The same for the program of people and of the node.
const PROGRAM_VARIABLE: &str = "PLEXUS_SRIOV_PROGRAM";
/// Where plexus keeps what it knows of directly executed kinds.
const STATE: &str = "/var/lib/cni/plexus";
const LEASES: &str = "/var/lib/cni/networks/sriov-test";

/// What somebody calls the interface of the first function.
pub(crate) const ALIAS: &str = "uplink";

/// One virtual function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) pci: String,
    /// The name of its interface on the host.
    pub(crate) name: String,
}

/// The card.
#[derive(Debug)]
pub(crate) struct Card {
    /// The interface of the physical function.
    pub(crate) name: String,
    pub(crate) functions: Vec<Function>,
    /// Where the plugins are.
    bin: PathBuf,
}

/// What a call of the plugin gave.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) success: bool,
    pub(crate) json: Value,
    pub(crate) log: String,
}

impl Card {
    /// The first card that can have functions, with new ones.
    pub(crate) fn find() -> Result<Self, String> {
        for module in ["igb", "igbvf", "dummy", "8021q", "macvlan", "vfio-pci"] {
            drop(Command::new("modprobe").arg(module).output());
        }
        let devices = fs::read_dir("/sys/bus/pci/devices").map_err(|e| format!("no PCI bus: {e}"))?;
        let mut cards: Vec<PathBuf> = devices.map(|entry| entry.unwrap().path()).collect();
        cards.retain(|path| path.join("sriov_numvfs").exists());
        cards.sort();
        let pf = cards.into_iter().next().ok_or("no card here can have virtual functions")?;
        let name = until("the card's interface", || names(&pf.join("net")).into_iter().next());
        // A function of a card that is down has a random address that its card does not know.
        ip(&format!("link set {name} up"));
        number(&pf, 0)?;
        number(&pf, FUNCTIONS)?;
        let function = |index: usize| {
            let path = fs::canonicalize(pf.join(format!("virtfn{index}"))).unwrap();
            let name = until("a function's interface", || names(&path.join("net")).into_iter().next());
            Function { pci: path.file_name().unwrap().to_str().unwrap().to_owned(), name }
        };
        let functions: Vec<Function> = (0..FUNCTIONS).map(function).collect();
        let bin = std::env::temp_dir().join(format!("plexus-sriov-{}", std::process::id()));
        fs::create_dir_all(&bin).unwrap();
        let plugin = std::env::var_os(PLUGIN_VARIABLE).map(PathBuf::from);
        let plugin = plugin.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_plexus-cni")));
        for name in ["sriov", "vlan", "host-local", "plexus-cni"] {
            drop(fs::remove_file(bin.join(name)));
            symlink(&plugin, bin.join(name)).unwrap();
        }
        let card = Self { name, functions, bin };
        card.settle();
        Ok(card)
    }

    /// All functions go, and others come.
    pub(crate) fn renew(&self, between: impl FnOnce()) {
        let pf = Path::new("/sys/class/net").join(&self.name).join("device");
        number(&pf, 0).unwrap();
        between();
        number(&pf, FUNCTIONS).unwrap();
        self.settle();
    }

    /// Gives new functions what they have in all cases: an address of the card's, which they take when they are reset.
    fn settle(&self) {
        for (index, function) in self.functions.iter().enumerate() {
            let net = Path::new("/sys/bus/pci/devices").join(&function.pci).join("net");
            let name = until("a function's interface", || names(&net).into_iter().next());
            assert_eq!(name, function.name);
            ip(&format!("link set {} vf {index} mac 02:00:00:00:01:0{index}", self.name));
            ip(&format!("link set {name} up"));
            ip(&format!("link set {name} down"));
        }
        let first = &self.functions[0].name;
        ip(&format!("link property add dev {first} altname vf-of-a-card"));
        // Somebody's own: no word of plexus', and as a link might be called.
        ip(&format!("link set {first} alias {ALIAS}"));
    }

    /// The settings of a function on its card.
    pub(crate) fn port(&self, index: usize) -> Value {
        ip_json(&format!("-d link show {}", self.name))[0]["vfinfo_list"][index].clone()
    }

    /// Everything that must be as it was: the ports, and the interfaces on the host.
    pub(crate) fn state(&self) -> Value {
        let link = |function: &Function| {
            let link = ip_json("-d link").as_array().unwrap().clone();
            let link = link.into_iter().find(|link| link["parentdev"] == function.pci).unwrap_or_default();
            let only = Path::new("/sys/bus/pci/devices").join(&function.pci).join("driver_override");
            let only = fs::read_to_string(only).unwrap();
            json!([link["ifname"], link["address"], link["mtu"], link["altnames"], link["ifalias"], only])
        };
        let links: Vec<Value> = self.functions.iter().map(link).collect();
        json!({"ports": ip_json(&format!("-d link show {}", self.name))[0]["vfinfo_list"], "links": links})
    }

    /// The kernel gives back what a lost namespace had when it comes to it.
    pub(crate) fn assert_state(&self, expected: &Value, when: &str) {
        assert_eq!(&self.state(), expected, "{when}");
    }

    /// A configuration for a function, with what is given beyond.
    pub(crate) fn conf(&self, index: usize, more: Value) -> Value {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "sriov-test", "type": "sriov",
            "deviceID": self.functions[index].pci, "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}});
        conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        conf
    }

    /// The program of people and of the node.
    pub(crate) fn plexus(&self) -> Command {
        let program = std::env::var_os(PROGRAM_VARIABLE).map(PathBuf::from);
        Command::new(program.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_plexus"))))
    }

    /// Another plugin, a script of the shell.
    pub(crate) fn script(&self, name: &str, text: &str) {
        let path = self.bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, plugin: &str, command: &str, pod: &str, netns: &str) -> Command {
        let mut call = Command::new(self.bin.join(plugin));
        call.env("CNI_COMMAND", command).env("CNI_CONTAINERID", pod).env("CNI_NETNS", netns);
        call.env("CNI_IFNAME", "net1").env("CNI_PATH", &self.bin);
        call.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        call
    }

    /// A call that is under way.
    pub(crate) fn begin(&self, command: &str, pod: &str, conf: &Value) -> Child {
        self.begin_of("sriov", command, pod, conf)
    }

    /// A call of another plugin that is under way.
    pub(crate) fn begin_of(&self, plugin: &str, command: &str, pod: &str, conf: &Value) -> Child {
        let mut child = self.command(plugin, command, pod, &netns(pod)).spawn().unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        child
    }

    /// A call for the pod of this name.
    pub(crate) fn call(&self, command: &str, pod: &str, conf: &Value) -> Answer {
        self.call_in(command, pod, &netns(pod), conf)
    }

    /// A call with another namespace, or none.
    pub(crate) fn call_in(&self, command: &str, pod: &str, netns: &str, conf: &Value) -> Answer {
        Self::answered(self.command("sriov", command, pod, netns), conf)
    }

    /// A call of another plugin.
    pub(crate) fn call_of(&self, plugin: &str, command: &str, pod: &str, conf: &Value) -> Answer {
        Self::answered(self.command(plugin, command, pod, &netns(pod)), conf)
    }

    /// A call of the meta-plugin for a pod that the cluster knows.
    pub(crate) fn call_for_pod(&self, command: &str, pod: &str, conf: &Value) -> Answer {
        let mut call = self.command("plexus-cni", command, pod, &netns(pod));
        let args = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID=uid-{pod}");
        call.env("CNI_IFNAME", "eth0").env("CNI_ARGS", args);
        Self::answered(call, conf)
    }

    fn answered(mut call: Command, conf: &Value) -> Answer {
        let mut child = call.spawn().unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        answer(child.wait_with_output().unwrap())
    }

    /// ADD, which must work.
    pub(crate) fn add(&self, pod: &str, conf: &Value) -> Value {
        let answer = self.call("ADD", pod, conf);
        assert!(answer.success, "ADD: {} {}", answer.json, answer.log);
        answer.json
    }

    /// DEL, which must work.
    pub(crate) fn del(&self, pod: &str, netns: &str, conf: &Value) {
        let answer = self.call_in("DEL", pod, netns, conf);
        assert!(answer.success, "DEL: {} {}", answer.json, answer.log);
    }

    /// CHECK with the result of an ADD.
    pub(crate) fn check(&self, pod: &str, conf: &Value, result: &Value) -> Answer {
        let mut conf = conf.clone();
        conf["prevResult"] = result.clone();
        self.call("CHECK", pod, &conf)
    }

    /// Records, claims and leases that are there.
    pub(crate) fn left(&self) -> Vec<String> {
        let places = [format!("{STATE}/journal"), format!("{STATE}/devices"), LEASES.to_owned()];
        let files = |place: String| {
            let names = names(Path::new(&place));
            names.into_iter().map(move |name| format!("{place}/{name}")).collect::<Vec<String>>()
        };
        let all = places.into_iter().flat_map(files);
        all.filter(|path| path.contains(".jsonl") || path.contains("/devices/") || path.contains("/10.")).collect()
    }

    /// What a case that failed has left in the way of the next.
    pub(crate) fn tidy(&self) {
        for path in self.left() {
            drop(fs::remove_file(path));
        }
        for pod in names(Path::new("/run/netns")) {
            drop(Command::new("ip").args(["netns", "del", &pod]).output());
        }
    }
}

/// Makes so many functions.
fn number(pf: &Path, count: usize) -> Result<(), String> {
    fs::write(pf.join("sriov_numvfs"), count.to_string()).map_err(|e| format!("sriov_numvfs: {e}"))
}

/// Where the namespace of a pod is.
pub(crate) fn netns(pod: &str) -> String {
    format!("/run/netns/{pod}")
}

fn answer(output: Output) -> Answer {
    Answer {
        success: output.status.success(),
        json: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        log: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `ip` with these words, which must work.
pub(crate) fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The same as a value.
pub(crate) fn ip_json(words: &str) -> Value {
    serde_json::from_str(&ip(&format!("-j {words}"))).unwrap()
}

/// The link of a pod, with its addresses.
pub(crate) fn link_of(pod: &str, name: &str) -> Value {
    ip_json(&format!("-n {pod} -d addr show {name}"))[0].clone()
}

/// What nobody but who is told to changes of a pod's link: which it is, its hardware address, MTU and IPv4 addresses.
pub(crate) fn kept_of(pod: &str, name: &str) -> Value {
    let link = link_of(pod, name);
    let addresses = link["addr_info"].as_array().unwrap().iter().filter(|address| address["family"] == "inet");
    let addresses: Vec<&Value> = addresses.map(|address| &address["local"]).collect();
    json!([link["ifindex"], link["parentdev"], link["address"], link["mtu"], addresses])
}

/// The names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Looks until there is something, but not for ever.
pub(crate) fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what} does not come");
        std::thread::yield_now();
    }
}
