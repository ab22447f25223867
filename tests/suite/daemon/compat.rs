//! The compatibility socket: the Go multus-shim unchanged, its protocol by hand, and calls of /delegate as
//! multus-dynamic-networks-controller makes them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::delegate::{green, of_plug, plugs};
use super::{Calls, DIR, Daemon, POOL, hold_pool, hold_pool_of, left, pods, records, until};
use crate::api::{Member, NETWORKS};
use crate::call::{Answer, Call, Side};
use crate::case::Case;
use crate::meta::{self, Node};
use crate::multus;
use crate::need::Need;
use crate::observe;
use crate::redact::Names;
use crate::snapshot::{Facts, Snapshot, flatten};
use crate::testbed::{LEASES, files_below};

pub(super) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    let shim = &[Need::Macvlan, Need::Multus];
    let api = &[Need::Macvlan, Need::Multus, Need::ApiServer];
    vec![
        Case::new("daemon::compat_the_go_shim_attaches_as_plexus_cni_does", shim, same),
        Case::new("daemon::compat_the_go_shim_of_a_chain_with_another_plugin", shim, executed),
        Case::new("daemon::compat_the_go_shim_is_told_what_is_refused", shim, refused),
        Case::new("daemon::compat_the_go_shim_needs_no_kubeconfig", api, with_api),
        Case::new("daemon::compat_the_go_shim_is_killed_with_its_daemon", shim, killed),
        Case::new("daemon::compat_the_go_shim_waits_and_sees_no_change_of_daemons", shim, changes),
        Case::new("daemon::compat_requests_by_hand", mac, by_hand),
        Case::new("daemon::compat_requests_are_counted_as_multus_counts_them", mac, counted),
        Case::new("daemon::compat_another_user_gets_nothing", &[Need::Macvlan, Need::Users], another_user),
        Case::new("daemon::compat_its_own_configuration_holds", mac, overlay),
        Case::new("daemon::compat_a_caller_that_goes_leaves_nothing", mac, gone),
    ]
}

/// `daemonSocketDir` of the shim.
pub(super) const SHIM_DIR: &str = "/run/multus";
pub(super) const SHIM_SOCKET: &str = "/run/multus/multus.sock";

/// A daemon that sees the pods' namespaces by their paths, as it must where only these are told.
pub(super) fn start(more: &[&str]) -> Daemon {
    let all = [&["--compat-socket-dir", SHIM_DIR], more].concat();
    Daemon::start_where(Path::new(env!("CARGO_BIN_EXE_plexus")), None, &all, || {})
}

/// A node whose runtime executes the Go shim.
pub(super) fn node() -> Node {
    let mut node = meta::node();
    node.conf["cniVersion"] = json!("1.1.0");
    if let Ok(folder) = multus::programs() {
        node.bed.install(Side::Go, "multus-shim", &folder.join("multus-shim"));
    }
    node
}

/// A call as a runtime makes it of the shim, whose configuration knows no API server.
fn call<'a>(node: &'a Node, command: &str, pod: &str) -> Call<'a> {
    let mut conf = node.conf.clone();
    conf["type"] = json!("multus-shim");
    conf["daemonSocketDir"] = json!(SHIM_DIR);
    let call = node.bed.call(Side::Go, "multus-shim").command(command).container(&format!("id-{pod}")).pod(pod);
    call.kubernetes("default", pod, &format!("uid-{pod}")).conf(&conf)
}

fn shim(node: &Node, command: &str, pod: &str) -> Answer {
    call(node, command, pod).run()
}

/// Shims that are under way, one for each pod.
fn shims(node: &Node, command: &str, pods: &[String]) -> Calls {
    Calls(pods.iter().map(|pod| call(node, command, pod).start()).collect())
}

/// What plexus-cni does by itself.
pub(super) fn alone(node: &Node, command: &str, pod: &str) -> Answer {
    node.call(command, pod).run()
}

/// Everything that an ADD, a CHECK, a STATUS, a GC and a DEL leave, and say.
fn facts(call: fn(&Node, &str, &str) -> Answer) -> Facts {
    let node = node();
    let daemon = start(&[]);
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue, green@data0, six")]);
    let mut names = Names::new(&node.conf.to_string(), false);
    let mut facts = Facts::new();
    let result = call(&node, "ADD", "a").ok();
    let mut keep = |label: &str, some: Facts| {
        facts.extend(some.into_iter().map(|(path, value)| (format!("{label}.{path}"), value)));
    };
    keep("added", Snapshot::settled(&node.bed, &mut names));
    let mut said = Facts::new();
    flatten("", &serde_json::from_str(&names.apply(&result.to_string())).unwrap(), &mut said);
    keep("result", said);
    for command in ["CHECK", "STATUS", "GC", "CHECK", "DEL", "DEL"] {
        let answer = call(&node, command, "a");
        assert_eq!((answer.rc, answer.stdout.as_str()), (Some(0), ""), "{command}: {}", answer.stderr);
    }
    keep("deleted", Snapshot::settled(&node.bed, &mut names));
    let leases = files_below(Path::new(LEASES)).into_iter();
    keep("left", leases.map(|(path, _)| (path.display().to_string(), String::new())).collect());
    node.assert_clean();
    daemon.stop();
    assert!(!Path::new(SHIM_SOCKET).exists() && Path::new(SHIM_DIR).exists());
    facts
}

fn same() {
    let [ours, theirs] = [alone as fn(&Node, &str, &str) -> Answer, shim].map(facts);
    assert!(ours.len() > 300, "all was looked at: {}", ours.len());
    let differ = |(path, value): (&String, &String)| {
        let other = theirs.get(path);
        (other != Some(value)).then(|| format!("{path}: {value:?} alone, {other:?} through the shim"))
    };
    let mut differences: Vec<String> = ours.iter().filter_map(differ).collect();
    differences
        .extend(theirs.keys().filter(|path| !ours.contains_key(*path)).map(|path| format!("{path}: only there")));
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Who executed a plugin.
pub(super) const NOTED: &str = r#"conf=$(cat); echo "$CNI_COMMAND $(cat /proc/$PPID/comm)" >>/run/scratch/noted
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#;

fn executed() {
    let node = node();
    let daemon = start(&[]);
    node.script("noted", NOTED);
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "chained,blue")]);
    shim(&node, "ADD", "a").ok();
    assert_eq!(node.addresses("a", "net1"), ["10.5.0.2/24"]);
    assert_eq!(node.addresses("a", "net2"), ["10.2.0.2/24"]);
    for command in ["CHECK", "DEL"] {
        assert_eq!(shim(&node, command, "a").rc, Some(0), "{command}");
    }
    // There is nobody to give it back to.
    let noted = fs::read_to_string("/run/scratch/noted").unwrap();
    let words: Vec<&str> = noted.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(words, ["ADD", "CHECK", "DEL"], "{noted}");
    assert!(!noted.contains("plexus-cni"), "{noted}");
    node.assert_clean();
    daemon.stop();
}

fn refused() {
    let mut node = node();
    let daemon = start(&[]);
    for (networks, why) in [("broken", "sideways"), ("absent", "absent"), ("not,a(name", "is no name")] {
        node.pod("a", &[("k8s.v1.cni.cncf.io/networks", networks)]);
        let answer = shim(&node, "ADD", "a");
        let error = answer.json();
        assert_eq!(answer.rc, Some(1), "{}", answer.stdout);
        let msg = error["msg"].as_str().unwrap();
        assert!(msg.starts_with("CmdAdd (shim): ") && msg.contains(why), "{msg}");
        assert_eq!(left(&node), Vec::<String>::new());
    }
    // What differs is found.
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue")]);
    shim(&node, "ADD", "a").ok();
    node.bed.ip("-n a link del net1");
    assert_eq!(shim(&node, "CHECK", "a").rc, Some(1));
    // A pod whose namespace has gone.
    node.bed.lose_pod("a");
    assert_eq!(shim(&node, "DEL", "a").rc, Some(0));
    assert_eq!(left(&node), Vec::<String>::new());
    // Nobody says how the API server is reached: the pod does not start without its networks.
    node.pod("b", &[("k8s.v1.cni.cncf.io/networks", "blue")]);
    node.conf.as_object_mut().unwrap().remove("manifests");
    let answer = shim(&node, "ADD", "b");
    assert!(answer.json()["msg"].as_str().unwrap().contains("--kubeconfig"), "{}", answer.stdout);
    daemon.stop();
}

/// The shim's configuration says nothing of the API server, as Multus writes it; the daemon was told.
fn with_api() {
    let mut member = Member::new();
    let shim = multus::programs().unwrap().join("multus-shim");
    member.node.bed.install(Side::Go, "multus-shim", &shim);
    let conf = member.node.conf.as_object_mut().unwrap();
    let kubeconfig = conf.remove("kubeconfig").unwrap();
    conf.insert("type".to_owned(), json!("multus-shim"));
    conf.insert("daemonSocketDir".to_owned(), json!(SHIM_DIR));
    let daemon = start(&["--kubeconfig", kubeconfig.as_str().unwrap()]);
    let uid = member.pod("a", &[(NETWORKS, "blue,green@data0")]);
    let call = |command: &str| {
        let call = member.node.bed.call(Side::Go, "multus-shim").command(command).container("id-a").pod("a");
        call.kubernetes(member.cluster.namespace(), "a", &uid).conf(&member.node.conf).run()
    };
    call("ADD").ok();
    let interfaces = || {
        let status = member.cluster.network_status("a");
        let one = |entry: &Value| entry["interface"].as_str().unwrap_or_default().to_owned();
        status.as_array().into_iter().flatten().map(one).collect::<Vec<_>>()
    };
    until("the status is written", || interfaces() == ["eth0", "net1", "data0"]);
    for command in ["CHECK", "DEL"] {
        assert_eq!(call(command).rc, Some(0), "{command}");
    }
    let mut left = left(&member.node);
    // What a daemon knows last stays.
    left.retain(|what| !what.contains("definitions/"));
    assert_eq!(left, Vec::<String>::new());
    daemon.stop();
}

/// The daemon is killed in the middle of an ADD: the shim says so, and the pod's DEL finds it.
fn killed() {
    let node = node();
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue,green")]);
    let daemon = start(&[]);
    let pool = hold_pool();
    let add = shims(&node, "ADD", &["a".to_owned()]);
    until("it is in its middle", || records() > 0);
    daemon.kill_after(Duration::ZERO);
    let refused = add.answers().remove(0);
    assert!(refused.json()["msg"].as_str().unwrap().contains("EOF"), "{}", refused.stdout);
    drop(pool);
    let daemon = start(&[]);
    shim(&node, "DEL", "a");
    assert_eq!(left(&node), Vec::<String>::new());
    shim(&node, "ADD", "a").ok();
    shim(&node, "DEL", "a");
    node.assert_clean();
    daemon.stop();
}

/// Shims wait for a daemon; and are served while daemons take each other's place.
fn changes() {
    let node = node();
    let names = pods(&node, 6, "blue,green");
    let early = shims(&node, "ADD", &names);
    let mut daemon = start(&[]);
    early.ok(&node);
    for change in 0..CHANGES {
        let calls = shims(&node, if change % 2 == 0 { "DEL" } else { "ADD" }, &names);
        let next = start(&[]);
        daemon.stop();
        daemon = next;
        for answer in calls.answers() {
            assert_eq!((answer.rc, answer.stderr.as_str()), (Some(0), ""), "{}", answer.stdout);
        }
    }
    shims(&node, "DEL", &names).ok(&node);
    node.assert_clean();
    daemon.stop();
}

/// So many daemons come.
const CHANGES: usize = 10;

/// What the daemon said: status, body.
#[derive(Debug, PartialEq)]
pub(super) struct Said(pub(super) u16, pub(super) String);

/// One connection: bytes there, the answer back; nothing where it is closed.
fn ask(bytes: &[u8]) -> Option<Said> {
    let mut stream = UnixStream::connect(SHIM_SOCKET).unwrap();
    // Who is refused before the end is not read to the end.
    stream.write_all(bytes).ok();
    answer(&mut stream)
}

pub(super) fn answer(stream: &mut UnixStream) -> Option<Said> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Said(head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
}

pub(super) fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: dummy\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

pub(super) fn post(path: &str, body: &Value) -> Said {
    ask(&request("POST", path, &body.to_string())).unwrap()
}

/// What a client sends for the interface `ifname` of a pod.
pub(super) fn body(node: &Node, command: &str, pod: &str, ifname: &str, config: &Value) -> Value {
    let args = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID=uid-{pod}");
    let netns = node.bed.netns(pod).display().to_string();
    json!({"env": {"CNI_COMMAND": command, "CNI_CONTAINERID": format!("id-{pod}"), "CNI_NETNS": netns, "CNI_IFNAME": ifname, "CNI_ARGS": args,
        "CNI_PATH": "/opt/cni/bin"}, "config": BASE64_STANDARD.encode(config.to_string())})
}

fn by_hand() {
    let node = node();
    let daemon = start(&[]);
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue")]);
    assert_eq!(fs::metadata(SHIM_SOCKET).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(SHIM_DIR).unwrap().permissions().mode() & 0o777, 0o700);
    let before = settled(&node, &daemon);
    for (method, path, status) in [
        ("GET", "/healthz", 200),
        ("POST", "/healthz", 200),
        ("HEAD", "/readyz", 200),
        ("POST", "/readyz", 200),
        ("PUT", "/healthz", 405),
        ("GET", "/cni", 405),
        ("DELETE", "/cni", 405),
        ("POST", "/", 404),
        ("POST", "/cni/", 404),
        ("GET", "/metrics", 404),
    ] {
        let said = ask(&request(method, path, "")).unwrap();
        assert_eq!(said.0, status, "{method} {path}: {}", said.1);
    }
    let good = body(&node, "ADD", "a", "eth0", &node.conf);
    let without = |name: &str| {
        let mut one = good.clone();
        one["env"].as_object_mut().unwrap().remove(name);
        one
    };
    let with = |place: &str, value: Value| {
        let mut one = good.clone();
        *one.pointer_mut(place).unwrap() = value;
        one
    };
    for (what, body, part) in [
        ("no arguments", without("CNI_ARGS"), "missing CNI_ARGS"),
        ("no command", without("CNI_COMMAND"), "missing CNI_COMMAND"),
        ("no namespace", without("CNI_NETNS"), "missing CNI_NETNS"),
        ("an empty command", with("/env/CNI_COMMAND", json!("")), "missing CNI_COMMAND"),
        ("no base64", with("/config", json!("%%%")), "no base64"),
        ("no configuration", with("/config", Value::Null), "unmarshal"),
        ("VERSION", with("/env/CNI_COMMAND", json!("VERSION")), "CNI_COMMAND"),
        ("a strange command", with("/env/CNI_COMMAND", json!("ATTACH")), "unknown CNI_COMMAND"),
        ("a strange interface", with("/env/CNI_IFNAME", json!("../x")), "interface name"),
        ("a strange id", with("/env/CNI_CONTAINERID", json!("../x")), "containerid"),
        ("a namespace that is none", with("/env/CNI_NETNS", json!("/run/scratch")), "unknown FS magic"),
        ("no such namespace", with("/env/CNI_NETNS", json!("/run/netns/nowhere")), "/run/netns/nowhere"),
        ("the host's", with("/env/CNI_NETNS", json!("/proc/1/ns/net")), ""),
        ("the daemon's own", with("/env/CNI_NETNS", json!("/proc/self/ns/net")), ""),
        ("no object", json!([]), ""),
    ] {
        let said = post("/cni", &body);
        assert!(said.0 == 400 && said.1.to_lowercase().contains(&part.to_lowercase()), "{what}: {said:?}");
        assert_eq!((node.bed.links("a"), left(&node)), (vec!["lo".to_owned()], vec![]), "{what}");
    }
    let huge = format!("POST /cni HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", (12 << 20) + 1);
    assert_eq!(ask(huge.as_bytes()).unwrap().0, 413);
    let head = format!("POST /cni HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 16));
    assert_eq!(ask(head.as_bytes()).unwrap().0, 431);
    assert_eq!(ask(b"plx1\0\0\0\0\r\n\r\n").map(|said| said.0), Some(400));
    // Whoever goes before the answer has attached nothing for long.
    assert_eq!(post("/cni", &good).0, 200);
    assert_eq!(node.addresses("a", "net1").len(), 1);
    assert_eq!(post("/cni", &body(&node, "DEL", "a", "eth0", &node.conf)), Said(200, String::new()));
    assert_eq!(left(&node), Vec::<String>::new());
    daemon.awaits_descriptors(before);
    daemon.stop();
}

/// What a dashboard asks that was made for Multus' daemon: its counter, with its labels as Go's handlers write them.
fn counted() {
    let node = node();
    let daemon = start(&[]);
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue")]);
    for command in ["ADD", "DEL", "DEL"] {
        assert_eq!(post("/cni", &body(&node, command, "a", "eth0", &node.conf)).0, 200);
    }
    assert_eq!(post("/cni", &json!([])).0, 400);
    assert_eq!(post("/delegate", &json!([])).0, 400);
    let asks = [("POST", "/healthz"), ("GET", "/healthz"), ("GET", "/cni"), ("HEAD", "/readyz")];
    let strangers = [("GET", "/"), ("GET", "/cni/../etc"), ("GET", "/healthz?x"), ("BREW", "/pot"), ("BREW", "/pots")];
    for (method, path) in asks.into_iter().chain(strangers) {
        ask(&request(method, path, "")).unwrap();
    }
    for (handler, code, method, count) in [
        ("/cni", 200, "post", 3),
        ("/cni", 400, "post", 1),
        ("/cni", 405, "get", 1),
        ("/delegate", 400, "post", 1),
        ("/healthz", 200, "post", 1),
        ("/healthz", 200, "get", 2),
        ("/readyz", 200, "head", 1),
        ("NotFound", 404, "get", 2),
        ("NotFound", 404, "unknown", 2),
    ] {
        let labels = format!(r#"handler="{handler}",code="{code}",method="{method}""#);
        observe::has(&format!("multus_server_request_total{{{labels}}} {count}"));
    }
    assert_eq!(observe::series("multus_server_request_total{"), 9, "and nothing else");
    daemon.stop();
}

/// Not root, and not who is in this namespace as root.
const OTHER: u32 = 1;

fn another_user() {
    let node = node();
    let daemon = start(&[]);
    // The file keeps others out; whoever gets through all the same is not heard.
    fs::set_permissions(SHIM_DIR, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(SHIM_SOCKET, fs::Permissions::from_mode(0o666)).unwrap();
    let text = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/multus/multus.sock'); \
        s.sendall(b'POST /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); print(len(s.recv(100)))";
    let mut client = Command::new("python3");
    let said = client.args(["-c", text]).uid(OTHER).gid(OTHER).output().unwrap();
    let heard = String::from_utf8_lossy(&said.stdout);
    // It is closed, with or without what it had sent in it.
    assert!(!said.status.success() || heard.trim() == "0", "{heard}");
    assert!(daemon.said().contains("may not ask"), "{}", daemon.said());
    serves(&node);
    daemon.stop();
}

/// One pod comes and goes.
pub(super) fn serves(node: &Node) {
    node.pod("good", &[("k8s.v1.cni.cncf.io/networks", "blue")]);
    for command in ["ADD", "DEL"] {
        let said = post("/cni", &body(node, command, "good", "eth0", &node.conf));
        assert_eq!(said.0, 200, "{command}: {}", said.1);
    }
    assert_eq!(left(node), Vec::<String>::new());
}

/// The descriptors of a daemon that has opened all that it keeps.
pub(super) fn settled(node: &Node, daemon: &Daemon) -> usize {
    serves(node);
    until("its metrics are there", || Path::new(DIR).join("metrics.sock").exists());
    daemon.descriptors()
}

/// The keys of daemon-config.json hold over those of the shim's.
fn overlay() {
    let mut node = node();
    let conf = json!({"cniConfigDir": "/run/scratch/net.d", "multusAutoconfigDir": "/run/scratch/net.d", "cniVersion": "0.4.0",
        "manifests": node.conf["manifests"], "binDir": "/run/cni/plexus"});
    fs::create_dir_all("/run/scratch/net.d").unwrap();
    let file = node.bed.file("daemon-config.json", &conf.to_string());
    let daemon = start(&["--config", file.to_str().unwrap()]);
    let own = node.conf.as_object_mut().unwrap();
    own.remove("manifests");
    own.insert("binDir".to_owned(), json!("/run/nowhere"));
    own.insert("type".to_owned(), json!("multus-shim"));
    node.script("noted", NOTED);
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "chained,blue")]);
    assert_eq!(post("/cni", &body(&node, "ADD", "a", "eth0", &node.conf)).0, 200);
    assert_eq!((node.addresses("a", "net1").len(), node.addresses("a", "net2").len()), (1, 1));
    assert_eq!(post("/cni", &body(&node, "DEL", "a", "eth0", &node.conf)), Said(200, String::new()));
    node.assert_clean();
    daemon.stop();
}

/// Waits in its middle, and its caller goes; then nothing of it is there, and others are served.
fn gone() {
    let node = node();
    let daemon = start(&[]);
    node.pod("a", &[]);
    let before = settled(&node, &daemon);
    for (path, pool, body) in [
        ("/cni", POOL, body(&node, "ADD", "a", "eth0", &node.conf)),
        ("/delegate", "green", of_plug(&node, "ADD", "a", "hot0", &green(), &json!({}))),
    ] {
        let pool = hold_pool_of(pool);
        let mut stream = UnixStream::connect(SHIM_SOCKET).unwrap();
        stream.write_all(&request("POST", path, &body.to_string())).unwrap();
        until("it is in its middle", || records() > 0);
        drop(stream);
        drop(pool);
        until("it is undone", || daemon.said().matches("the caller has gone").count() > 0 && left(&node).is_empty());
        fs::write(&daemon.log, "").unwrap();
        assert_eq!((plugs(), node.bed.links("a")), (0, vec!["lo".to_owned()]), "{path}");
    }
    daemon.awaits_descriptors(before);
    serves(&node);
    daemon.stop();
}
