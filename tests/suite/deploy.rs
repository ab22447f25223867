//! `deployments/base`: what it mounts is what plexus uses, what it is called with is taken, and who is asked whether it is ready
//! answers. It does not know a cluster.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::call::Side;
use crate::case::Case;
use crate::testbed::Testbed;

const MANIFEST: &str = include_str!("../../deployments/base/daemon.yaml");
const SETTINGS: &str = include_str!("../../deployments/base/settings.yaml");
const ROLES: &str = include_str!("../../deployments/base/rbac.yaml");
/// Whatever is awaited comes at once, or something is very wrong.
const LIMIT: Duration = Duration::from_secs(30);

/// What plexus writes to where nobody says otherwise, and what it only reads.
const WRITTEN: [&str; 6] = [
    "/run/plexus",
    "/var/lib/cni/plexus",
    "/var/lib/cni/networks",
    "/etc/cni/net.d",
    "/run/cni/tuning",
    "/var/run/k8s.cni.cncf.io/devinfo",
];
const READ: [&str; 8] = [
    "/run/netns",
    "/etc/plexus/daemon-config.json",
    "/etc/cni/multus/net.d",
    "/var/lib/cni/results",
    "/var/lib/cni/multus",
    "/opt/cni/bin",
    "/var/lib/kubelet/pod-resources",
    "/var/lib/kubelet/device-plugins",
];

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("deploy::the_manifest_mounts_what_plexus_uses", &[], mounts),
        Case::new("deploy::the_manifest_starts_a_daemon_that_serves", &[], starts),
        Case::new("deploy::a_container_that_has_proc_sys_read_only_is_enough", &[], read_only),
    ]
}

fn object(text: &str, kind: &str) -> Value {
    plexus::yaml::documents(text).unwrap().into_iter().find(|object| object["kind"] == kind).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn mounts() {
    let [set, settings, account] = [(MANIFEST, "DaemonSet"), (SETTINGS, "ConfigMap"), (ROLES, "ServiceAccount")]
        .map(|(text, kind)| object(text, kind));
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
    for other in [&settings, &account] {
        assert_eq!(set["metadata"]["namespace"], other["metadata"]["namespace"]);
    }
    assert_eq!(set["spec"]["selector"]["matchLabels"], set["spec"]["template"]["metadata"]["labels"]);
    let (volumes, mounts) = (list(&pod["volumes"]), list(&pod["containers"][0]["volumeMounts"]));
    assert_eq!(volumes.len(), mounts.len());
    for mounted in mounts {
        let volume = volumes.iter().find(|volume| volume["name"] == mounted["name"]).unwrap();
        match volume.get("hostPath") {
            Some(host) => assert_eq!(host["path"], mounted["mountPath"], "what is on disk has paths in it"),
            None => assert_eq!(volume["configMap"]["name"], settings["metadata"]["name"]),
        }
    }
    let is_there = |path: &str, is_written: bool| {
        let holds = |mounted: &&Value| Path::new(path).starts_with(mounted["mountPath"].as_str().unwrap());
        mounts.iter().find(holds).is_some_and(|mounted| !is_written || mounted["readOnly"] != true)
    };
    let lacking: Vec<&str> = WRITTEN.into_iter().filter(|path| !is_there(path, true)).collect();
    assert_eq!(lacking, [""; 0], "to be written");
    let lacking: Vec<&str> = READ.into_iter().filter(|path| !is_there(path, false)).collect();
    assert_eq!(lacking, [""; 0], "to be read");
    assert_eq!(pod["hostNetwork"], true);
}

/// Ends with the case.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Body of a page that answers 200, where a probe asks for it.
fn asked(probe: &Value, path: &str) -> Option<String> {
    let (host, port) = (probe["host"].as_str().unwrap(), probe["port"].as_u64().unwrap());
    let mut stream = TcpStream::connect((host, u16::try_from(port).unwrap())).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.1 200 ").then_some(text)
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::yield_now();
    }
}

/// What the manifest has of a container, on a node with a default network.
fn prepare(bed: &Testbed) -> Value {
    bed.ip("link set lo up");
    mount(Some("tmpfs"), "/etc", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    for folder in ["/etc/plexus", "/etc/cni/net.d"] {
        fs::create_dir_all(folder).unwrap();
    }
    let settings = object(SETTINGS, "ConfigMap");
    for (name, text) in settings["data"].as_object().unwrap() {
        fs::write(Path::new("/etc/plexus").join(name), text.as_str().unwrap()).unwrap();
    }
    let network = json!({"cniVersion": "1.0.0", "name": "cluster", "plugins": [{"type": "bridge", "bridge": "cni0",
        "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}}]});
    fs::write("/etc/cni/net.d/10-cluster.conflist", network.to_string()).unwrap();
    let set = object(MANIFEST, "DaemonSet");
    set["spec"]["template"]["spec"]["containers"][0].clone()
}

/// The daemon, as the container is called.
fn daemon(container: &Value) -> Daemon {
    let words = list(&container["args"]).iter().map(|word| word.as_str().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
    Daemon(command.args(words).env_clear().stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// The request's part of the configuration that it writes.
fn configuration() -> Value {
    let written = until("the runtime's configuration", || {
        let files = fs::read_dir("/etc/cni/net.d").unwrap().map(|entry| entry.unwrap().path());
        let first = files.filter(|path| path.extension().is_some_and(|ending| ending == "conflist")).min()?;
        let list: Value = serde_json::from_slice(&fs::read(first).unwrap()).ok()?;
        (list["plugins"][0]["type"] == "plexus-cni").then_some(list)
    });
    let mut conf = written["plugins"][0].clone();
    for key in ["name", "cniVersion"] {
        conf[key] = written[key].clone();
    }
    conf
}

/// A container that is not privileged has /proc/sys read-only: the daemon makes what it writes of it writable, for itself.
fn read_only() {
    let bed = Testbed::new();
    let container = prepare(&bed);
    assert_eq!(container["securityContext"]["privileged"], false);
    // The thread's namespace becomes the child's.
    let _daemon = std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let sys = Some("/proc/sys");
            mount(sys, "/proc/sys", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, "/proc/sys", None::<&str>, read_only, None::<&str>).unwrap();
            daemon(&container)
        });
        started.join().unwrap()
    });
    let conf = configuration();
    bed.pod("a");
    let mut conf = conf;
    conf["fallback"] = json!("fail");
    let call =
        |command: &str| bed.call(Side::Plexus, "plexus-cni").command(command).container("id-a").pod("a").conf(&conf);
    call("ADD").run().ok();
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/conf/cni0/forwarding").unwrap().trim(), "1");
    call("DEL").run().ok();
}

fn starts() {
    let bed = Testbed::new();
    let container = prepare(&bed);
    let _daemon = daemon(&container);
    for probe in ["livenessProbe", "readinessProbe"] {
        let probe = &container[probe]["httpGet"];
        until("a probe is answered", || asked(probe, probe["path"].as_str().unwrap()));
    }
    let conf = configuration();
    assert_eq!((&conf["daemonSocketDir"], &conf["fallback"]), (&json!("/run/plexus"), &json!("oneshot")));
    bed.pod("a");
    for (command, line) in [("ADD", r#"{verb="ADD",outcome="done"} 1"#), ("DEL", r#"{verb="DEL",outcome="done"} 1"#)] {
        bed.call(Side::Plexus, "plexus-cni").command(command).container("id-a").pod("a").conf(&conf).run().ok();
        let line = format!("plexus_request_seconds_count{line}\n");
        let probe = &container["readinessProbe"]["httpGet"];
        until("the daemon has served it", || asked(probe, "/metrics").filter(|page| page.contains(&line)));
    }
}
