//! Calls of /delegate on the compatibility socket, as multus-dynamic-networks-controller makes them: one interface more in a pod that
//! runs, or one less.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::compat::{NOTED, SHIM_DIR, SHIM_SOCKET, Said, alone, answer, body, node, post, request, start};
use super::{Daemon, hold_pool_of, records, until};
use crate::call::Answer;
use crate::case::Case;
use crate::meta::Node;
use crate::need::Need;
use crate::testbed::{LEASES, RECORDS, files_below};

pub(super) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    vec![
        Case::new("daemon::delegate_adds_and_removes_one_interface", mac, plugged),
        Case::new("daemon::delegate_removes_what_the_pod_came_with", mac, own_interface),
        Case::new("daemon::d06_what_is_plugged_leaves_with_its_pod", mac, never_unplugged),
        Case::new("daemon::d09_a_plugins_configuration_is_its_networks", mac, versioned),
        Case::new("daemon::delegate_calls_of_one_pod_in_their_order", mac, ordered),
        Case::new("daemon::delegate_gc_keeps_and_collects", mac, collected),
        Case::new("daemon::delegate_holds_to_the_nodes_configuration", mac, of_node),
        Case::new("daemon::delegate_finds_the_pods_record", mac, of_requests),
        Case::new("daemon::delegate_executes_other_plugins", mac, plugged_executed),
        Case::new("daemon::delegate_killed_in_the_middle", mac, killed),
    ]
}

pub(super) fn of_plug(
    node: &Node,
    command: &str,
    pod: &str,
    ifname: &str,
    config: &Value,
    attributes: &Value,
) -> Value {
    let mut body = body(node, command, pod, ifname, config);
    // Who speaks it sends these five variables.
    body["env"].as_object_mut().unwrap().remove("CNI_PATH");
    body["interfaceAttributes"] = attributes.clone();
    body
}

fn plug(node: &Node, command: &str, pod: &str, ifname: &str, config: &Value, attributes: &Value) -> Said {
    post("/delegate", &of_plug(node, command, pod, ifname, config, attributes))
}

pub(super) fn green() -> Value {
    json!({"cniVersion": "0.4.0", "name": "green", "type": "bridge", "bridge": "green0", "isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.3.0.0/24"}]]}})
}

fn fixed() -> Value {
    json!({"cniVersion": "1.1.0", "name": "fixed", "type": "macvlan", "master": "up0", "capabilities": {"ips": true, "mac": true},
        "ipam": {"type": "static"}})
}

/// Interfaces that the journal knows of beside those their pods came with.
pub(super) fn plugs() -> usize {
    fs::read_dir(Path::new(RECORDS).join("plugged")).map_or(0, Iterator::count)
}

/// A pod with net1, by plexus-cni alone.
fn pod(node: &Node) -> Vec<String> {
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue")]);
    alone(node, "ADD", "a").ok();
    links(node)
}

fn links(node: &Node) -> Vec<String> {
    let mut links = node.bed.links("a");
    links.sort();
    links
}

fn plugged() {
    let node = node();
    let daemon = start(&[]);
    let before = pod(&node);
    let wish = json!({"ips": ["10.9.0.7/24"], "mac": "02:00:00:00:09:07", "cni-args": {"x": 1}});
    let said = plug(&node, "ADD", "a", "hot0", &fixed(), &wish);
    assert_eq!(said.0, 200, "{}", said.1);
    let result: Value = serde_json::from_str(&said.1).unwrap();
    let result = &result["Result"];
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["interfaces"][0]["name"], "hot0");
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:09:07");
    assert_eq!(result["ips"][0]["address"], "10.9.0.7/24");
    assert_eq!(node.addresses("a", "hot0"), ["10.9.0.7/24"]);
    assert_eq!(plug(&node, "ADD", "a", "hot1", &green(), &Value::Null).0, 200);
    assert_eq!(node.addresses("a", "hot1"), ["10.3.0.2/24"]);
    for command in ["CHECK", "STATUS"] {
        assert_eq!(plug(&node, command, "a", "hot0", &fixed(), &Value::Null), Said(200, String::new()), "{command}");
    }
    // What is there stays, whoever wants its name, and whoever was refused asks for its removal.
    for (ifname, part) in [("hot0", "already exists"), ("net1", "already exists")] {
        let said = plug(&node, "ADD", "a", ifname, &green(), &json!({}));
        assert!(said.0 == 400 && said.1.contains(part), "{said:?}");
        assert_eq!(plug(&node, "DEL", "a", ifname, &green(), &json!({})).0, 200);
    }
    for (ifname, wish, part) in [
        ("hot2", json!({"mac": "x"}), "failed to mac"),
        ("hot2", json!({"ips": ["x"]}), "failed to parse IP address"),
        ("hot2", json!({"cni-args": 5}), "must be an object"),
        ("lo", json!({}), "every pod has one"),
        ("a/b", json!({}), "interface name"),
    ] {
        let said = plug(&node, "ADD", "a", ifname, &green(), &wish);
        assert!(said.0 == 400 && said.1.contains(part), "{said:?}");
    }
    assert_eq!(plug(&node, "GC", "a", "hot0", &fixed(), &json!({})).0, 400);
    node.bed.ip("-n a addr del 10.9.0.7/24 dev hot0");
    assert_eq!(plug(&node, "CHECK", "a", "hot0", &fixed(), &json!({})).0, 400);
    alone(&node, "CHECK", "a").ok();
    for ifname in ["hot0", "hot1", "hot0", "hot1", "hot9"] {
        let conf = if ifname == "hot0" { fixed() } else { green() };
        assert_eq!(plug(&node, "DEL", "a", ifname, &conf, &json!({})), Said(200, String::new()), "{ifname}");
    }
    assert_eq!((links(&node), plugs()), (before, 0));
    assert!(plug(&node, "DEL", "a", "eth0", &node.conf["delegates"][0], &json!({})).1.contains("leaves with its pod"));
    alone(&node, "CHECK", "a").ok();
    alone(&node, "DEL", "a").ok();
    node.assert_clean();
    daemon.stop();
}

const OTHER: &str = "/run/scratch/other";

/// Nobody told the daemon where the state is, nor what may be executed: the runtime's folder does.
fn of_node() {
    let mut node = node();
    node.conf["stateDir"] = json!(OTHER);
    node.conf["allowedDelegates"] = json!(["bridge"]);
    node.bed.file("of-node.conf", &node.conf.to_string());
    pod(&node);
    let all = ["--compat-socket-dir", SHIM_DIR];
    let daemon = Daemon::start_where(Path::new(env!("CARGO_BIN_EXE_plexus")), None, &all, || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(Some("tmpfs"), "/etc", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        fs::create_dir_all("/etc/cni/net.d").unwrap();
        fs::copy("/run/scratch/of-node.conf", "/etc/cni/net.d/00-plexus.conf").unwrap();
    });
    until("the second socket is there, too", || UnixStream::connect(SHIM_SOCKET).is_ok());
    ends_with_its_pod(&node);
    node.script("forbidden", "exit 0");
    let mut conf = green();
    conf["type"] = json!("forbidden");
    let said = plug(&node, "ADD", "a", "hot0", &conf, &Value::Null);
    assert!(said.0 == 400 && said.1.contains("allowedDelegates"), "{said:?}");
    daemon.stop();
}

/// Nothing is in the runtime's folder as the daemon sees it, and requests brought another `stateDir`.
fn of_requests() {
    let mut node = node();
    let daemon = start(&[]);
    node.pod("b", &[]);
    until("the second socket is there, too", || UnixStream::connect(SHIM_SOCKET).is_ok());
    for dir in [OTHER, "/run/scratch/yet-another"] {
        node.conf["stateDir"] = json!(dir);
        let sent = body(&node, "ADD", "b", "eth0", &node.conf);
        assert_eq!(post("/cni", &sent).0, 200);
        let sent = body(&node, "DEL", "b", "eth0", &node.conf);
        assert_eq!(post("/cni", &sent).0, 200);
    }
    node.conf["stateDir"] = json!(OTHER);
    pod(&node);
    ends_with_its_pod(&node);
    daemon.stop();
}

fn ends_with_its_pod(node: &Node) {
    let said = plug(node, "ADD", "a", "hot0", &green(), &Value::Null);
    assert_eq!(said.0, 200, "{}", said.1);
    assert!(node.bed.links("a").contains(&"hot0".to_owned()));
    let plugged = fs::read_dir(Path::new(OTHER).join("plugged")).map_or(0, Iterator::count);
    assert_eq!((plugged, plugs()), (1, 0), "it is recorded beside its pod");
    alone(node, "DEL", "a").ok();
    assert_eq!(node.bed.links("a"), ["lo"]);
}

/// None of them ends another; the pod's DEL ends what waits.
fn ordered() {
    let node = node();
    let daemon = start(&[]);
    let before = pod(&node);
    for pods_del in [false, true] {
        let pool = hold_pool_of("green");
        let recorded = records();
        let send = |bytes: &[u8]| {
            let mut stream = UnixStream::connect(SHIM_SOCKET).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        };
        let call = |command: &str, ifname: &str, conf: &Value| {
            send(&request("POST", "/delegate", &of_plug(&node, command, "a", ifname, conf, &json!({})).to_string()))
        };
        let mut calls = vec![call("ADD", "hot0", &green())];
        until("the first is in its middle", || records() > recorded);
        for (command, ifname) in [("ADD", "hot1"), ("DEL", "hot9"), ("DEL", "hot0")] {
            calls.push(call(command, ifname, &green()));
        }
        // Whoever connected before this has been heard.
        assert_eq!(post("/healthz", &json!({})).0, 200);
        if pods_del {
            let body = body(&node, "DEL", "a", "eth0", &node.conf);
            let mut del = send(&request("POST", "/cni", &body.to_string()));
            // Those that waited are answered at once.
            for waited in &mut calls[1..] {
                assert_eq!(answer(waited).unwrap().0, 400);
            }
            drop(pool);
            answer(&mut calls[0]).unwrap();
            assert_eq!(answer(&mut del), Some(Said(200, String::new())));
        } else {
            drop(pool);
            for call in &mut calls {
                assert_eq!(answer(call).unwrap().0, 200);
            }
            assert_eq!(links(&node), [&["eth0", "hot1"].map(str::to_owned), &before[1..]].concat());
        }
    }
    node.assert_clean();
    assert_eq!(plugs(), 0);
    daemon.stop();
}

/// Whatever the node's own is.
fn versioned() {
    let mut node = node();
    let conf = json!({"cniConfigDir": "/run/scratch/net.d", "multusAutoconfigDir": "/run/scratch/net.d", "cniVersion": "0.4.0",
        "binDir": "/run/cni/plexus", "capabilities": {"mac": true}, "delegates": [green()]});
    fs::create_dir_all("/run/scratch/net.d").unwrap();
    let file = node.bed.file("daemon-config.json", &conf.to_string());
    let daemon = start(&["--config", file.to_str().unwrap()]);
    node.conf["name"] = json!("node");
    pod(&node);
    node.script(
        "versioned",
        r#"conf=$(cat); [ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.0.0"}'; printf '%s' "$conf" >/run/scratch/given-$CNI_COMMAND"#,
    );
    let own = json!({"cniVersion": "1.0.0", "name": "v", "type": "versioned"});
    for command in ["ADD", "DEL"] {
        let said = plug(&node, command, "a", "hot0", &own, &json!({}));
        assert_eq!(said.0, 200, "{said:?}");
        let given = fs::read_to_string(format!("/run/scratch/given-{command}")).unwrap();
        let mut given: Value = serde_json::from_str(&given).unwrap();
        given.as_object_mut().unwrap().remove("prevResult");
        assert_eq!(given, own, "{command}");
    }
    alone(&node, "DEL", "a").ok();
    node.assert_clean();
    daemon.stop();
}

fn own_interface() {
    let node = node();
    let daemon = start(&[]);
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "green,six,blue")]);
    alone(&node, "ADD", "a").ok();
    assert_eq!(plug(&node, "CHECK", "a", "net1", &green(), &json!({})).0, 200);
    assert_eq!(plug(&node, "DEL", "a", "net1", &green(), &json!({})), Said(200, String::new()));
    assert_eq!(links(&node), ["eth0", "lo", "net2", "net3"]);
    // The pod's own CHECK knows.
    alone(&node, "CHECK", "a").ok();
    assert_eq!(plug(&node, "CHECK", "a", "net1", &green(), &json!({})).0, 400);
    assert_eq!(plug(&node, "ADD", "a", "net1", &green(), &json!({})).0, 200);
    alone(&node, "CHECK", "a").ok();
    node.bed.ip("-n a link del net3");
    assert!(!alone(&node, "CHECK", "a").succeeded(), "the others are still looked at");
    alone(&node, "DEL", "a").ok();
    node.assert_clean();
    assert_eq!(plugs(), 0);
    daemon.stop();
}

/// Nobody unplugs it: D6.
fn never_unplugged() {
    let node = node();
    for (how, call) in [
        ("plexus-cni", alone as fn(&Node, &str, &str) -> Answer),
        ("by hand", |node, command, pod| {
            let said = post("/cni", &body(node, command, pod, "eth0", &node.conf));
            Answer { rc: Some(i32::from(said.0 != 200)), stdout: said.1, stderr: String::new() }
        }),
    ] {
        for loses in [false, true] {
            let daemon = start(&[]);
            pod(&node);
            for (ifname, conf) in [("hot0", fixed()), ("hot1", green())] {
                let wish = json!({"ips": ["10.9.0.7/24"]});
                let wish = if ifname == "hot0" { wish } else { json!({}) };
                assert_eq!(plug(&node, "ADD", "a", ifname, &conf, &wish).0, 200);
            }
            assert_eq!(plugs(), 1);
            // The daemon that did it is gone.
            daemon.kill_after(Duration::ZERO);
            let daemon = start(&[]);
            if loses {
                node.bed.lose_pod("a");
            }
            assert_eq!(call(&node, "DEL", "a").rc, Some(0), "{how}, {loses}");
            node.assert_clean();
            assert_eq!(
                (plugs(), files_below(Path::new(LEASES)).iter().filter(|(path, _)| is_lease(path)).count()),
                (0, 0)
            );
            assert_eq!(call(&node, "DEL", "a").rc, Some(0));
            daemon.stop();
        }
    }
}

fn is_lease(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("10."))
}

fn collected() {
    let mut node = node();
    let daemon = start(&[]);
    pod(&node);
    assert_eq!(plug(&node, "ADD", "a", "hot1", &green(), &json!({})).0, 200);
    let all = links(&node);
    let mut gc = |name: &str, valid: Value| {
        node.conf["name"] = json!(name);
        node.conf["cni.dev/valid-attachments"] = valid;
        assert_eq!(alone(&node, "GC", "a").rc, Some(0));
        links(&node)
    };
    let valid = json!([{"containerID": "id-a", "ifname": "eth0"}]);
    assert_eq!(gc("node", valid), all, "the runtime knows the pod");
    assert_eq!(gc("other", json!([])), all, "another network's list says nothing of it");
    assert_eq!(gc("node", json!([])), ["lo"]);
    node.assert_clean();
    assert_eq!(plugs(), 0);
    daemon.stop();
}

fn plugged_executed() {
    let node = node();
    let daemon = start(&[]);
    node.script("noted", NOTED);
    let before = pod(&node);
    let conf = json!({"cniVersion": "1.0.0", "name": "chained", "plugins": [
        {"type": "bridge", "bridge": "green0", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.5.0.0/24"}]]}}, {"type": "noted"}]});
    for round in ["unplugged", "left"] {
        // It is found where the pod's own plugins were.
        let said = plug(&node, "ADD", "a", "hot0", &conf, &json!({}));
        assert_eq!(said.0, 200, "{round}: {}", said.1);
        assert_eq!(plug(&node, "CHECK", "a", "hot0", &conf, &json!({})).0, 200);
        if round == "unplugged" {
            assert_eq!(plug(&node, "DEL", "a", "hot0", &conf, &json!({})).0, 200);
            assert_eq!(links(&node), before);
        }
    }
    alone(&node, "DEL", "a").ok();
    node.assert_clean();
    let noted = fs::read_to_string("/run/scratch/noted").unwrap();
    let words: Vec<&str> = noted.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(words, ["ADD", "CHECK", "DEL", "ADD", "CHECK", "DEL"]);
    daemon.stop();
}

/// The daemon is killed while it attaches: whatever comes next finds it.
fn killed() {
    let node = node();
    for next in ["unplug", "DEL", "again"] {
        let daemon = start(&[]);
        let before = pod(&node);
        let pool = hold_pool_of("green");
        let mut stream = UnixStream::connect(SHIM_SOCKET).unwrap();
        let body = of_plug(&node, "ADD", "a", "hot1", &green(), &json!({}));
        stream.write_all(&request("POST", "/delegate", &body.to_string())).unwrap();
        until("it is in its middle", || records() > 1);
        daemon.kill_after(Duration::ZERO);
        assert_eq!(answer(&mut stream), None);
        drop(pool);
        let daemon = start(&[]);
        match next {
            "unplug" => {
                assert_eq!(plug(&node, "DEL", "a", "hot1", &green(), &json!({})).0, 200);
                assert_eq!((links(&node), plugs()), (before, 0));
            }
            "again" => assert_eq!(plug(&node, "ADD", "a", "hot1", &green(), &json!({})).0, 200),
            _ => {}
        }
        alone(&node, "DEL", "a").ok();
        node.assert_clean();
        assert_eq!(plugs(), 0, "{next}");
        daemon.stop();
    }
}
