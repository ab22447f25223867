//! Whole chains through the meta-plugin, and plugins of chains between each other: what is mapped is reached, what is taken is
//! refused before anything is done, what nobody asked for costs nothing, and nothing stays. It does not know how rules are made.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::call::{Call, Side};
use crate::case::Case;
use crate::need::Need;
use crate::nft;
use crate::testbed::{LEASES, RECORDS, Testbed, files_below};
use crate::world;

/// How long a connection may take that must come about.
const CONNECTED_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer is waited for that must not come.
const SILENCE: Duration = Duration::from_millis(300);

pub(crate) fn cases() -> Vec<Case> {
    let filter = &[Need::Nft, Need::Iptables];
    vec![
        Case::new("chains::a_whole_chain_in_one_exec", filter, whole),
        Case::new("chains::the_namespace_is_gone", filter, lost),
        Case::new("chains::ports_of_one_family_that_others_removed", filter, flushed),
        Case::new("chains::gc_collects_the_whole_chain", filter, collected),
        Case::new("chains::a_failed_add_leaves_nothing", filter, failed),
        Case::new("chains::a_link_that_fails_takes_the_rules_with_it", filter, refused),
        Case::new("chains::on_one_processor_it_is_the_same", filter, alone),
        Case::new("chains::nothing_to_do_costs_nothing", &[Need::Nft], idle),
        Case::new("chains::a_taken_port_names_its_holder", &[Need::Nft], taken),
        Case::new("chains::a_port_of_the_go_plugin_is_taken", &[Need::Peers, Need::Nft, Need::Iptables], taken_by_go),
        Case::new("chains::gc_finds_what_lost_its_record", filter, unrecorded),
        Case::new("chains::who_made_it_removes_it", &[], elsewhere),
        Case::new("chains::what_a_pod_does_to_its_link_keeps_no_del_from_ending", &[], stubborn),
        Case::new("chains::too_many_ports_are_refused", &[], too_many),
        Case::new("chains::mapped_ports_are_reached", &[Need::Nft], reached),
        Case::new("chains::neighbours_of_an_unknown_plugin", &[Need::Nft], between),
        Case::new("chains::one_plugin_after_another", filter, one_by_one),
    ]
}

/// bridge + portmap + tuning + firewall, as a node's configuration has it.
pub(crate) fn node_chain() -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
    let plugins = json!([
        {"type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "tuning", "mtu": 1400, "sysctl": {"net.ipv4.conf.IFNAME.arp_ignore": "1"}},
        {"type": "firewall", "backend": "iptables"},
    ]);
    let list = json!({"cniVersion": "1.0.0", "name": "net1", "plugins": plugins});
    json!({"cniVersion": "1.1.0", "name": "node", "type": "plexus-cni", "delegates": [list],
        "runtimeConfig": {"portMappings": [mapping("tcp", 8080, 80), mapping("udp", 5353, 53)]}})
}

fn mapping(protocol: &str, host: u16, container: u16) -> Value {
    json!({"hostPort": host, "containerPort": container, "protocol": protocol})
}

fn call<'bed>(bed: &'bed Testbed, command: &str, pod: &str, conf: &Value) -> Call<'bed> {
    bed.call(Side::Plexus, "plexus-cni").command(command).container(&format!("c-{pod}")).pod(pod).conf(conf)
}

/// What is left but the bridge, and what all pods share.
fn left(bed: &Testbed) -> Vec<String> {
    bed.leftovers().into_iter().filter(|left| left != "link br0").collect()
}

fn records() -> usize {
    let is_record = |path: &Path| path.starts_with("journal") && path != Path::new("journal/boot");
    files_below(Path::new(RECORDS)).iter().filter(|(path, _)| is_record(path)).count()
}

fn rules(bed: &Testbed) -> usize {
    nft::facts(bed).len()
}

fn whole() {
    let bed = Testbed::new();
    bed.pod("a");
    let conf = node_chain();
    let result = call(&bed, "ADD", "a", &conf).run().ok();
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
    assert!(bed.ip("-n a link show eth0").contains("mtu 1400"));
    let ignored = || std::fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/arp_ignore").unwrap();
    assert_eq!(world::inside(&bed.netns("a"), ignored).trim(), "1");
    assert!(bed.tool("iptables", &["-S", "CNI-FORWARD"], "").unwrap().contains("-s 10.1.0.2/32 -j ACCEPT"));
    assert!(rules(&bed) > 0);
    let mut with_result = conf.clone();
    with_result["prevResult"] = result;
    call(&bed, "CHECK", "a", &with_result).run().ok();
    call(&bed, "DEL", "a", &with_result).run().ok();
    call(&bed, "DEL", "a", &with_result).run().ok();
    assert_eq!(left(&bed), Vec::<String>::new());
}

fn lost() {
    let bed = Testbed::new();
    bed.pod("a");
    let conf = node_chain();
    call(&bed, "ADD", "a", &conf).run().ok();
    bed.lose_pod("a");
    call(&bed, "DEL", "a", &conf).run().ok();
    assert_eq!(left(&bed), Vec::<String>::new());
}

fn flushed() {
    let bed = Testbed::new();
    for table in ["ip", "ip6"] {
        bed.pod(table);
        let conf = node_chain();
        call(&bed, "ADD", table, &conf).run().ok();
        bed.tool("nft", &["flush", "map", table, "plexus_portmap", "ports"], "").unwrap();
        call(&bed, "DEL", table, &conf).run().ok();
        let rules = bed.tool("nft", &["list", "ruleset"], "").unwrap();
        assert!(!rules.contains(&format!("id: c-{table}")), "{rules}");
    }
    assert_eq!(left(&bed), Vec::<String>::new());
}

fn collected() {
    let bed = Testbed::new();
    bed.pod("a");
    bed.pod("b");
    let conf = node_chain();
    call(&bed, "ADD", "a", &conf).run().ok();
    let mut other = conf.clone();
    other["runtimeConfig"] = json!({});
    call(&bed, "ADD", "b", &other).run().ok();
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "c-b", "ifname": "eth0"}]);
    call(&bed, "GC", "a", &gc).run().ok();
    assert_eq!((bed.links("a"), bed.links("b").len()), (vec!["lo".to_owned()], 2));
    assert_eq!(records(), 1);
    gc["cni.dev/valid-attachments"] = json!([]);
    call(&bed, "GC", "a", &gc).run().ok();
    assert_eq!(left(&bed), Vec::<String>::new());
}

/// The last plugin of the chain refuses: what the others did is undone.
fn failed() {
    let bed = Testbed::new();
    bed.pod("a");
    let refusal = r#"{"code":123,"msg":"not today"}"#;
    let script = bed.file("grump", &format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho '{refusal}'\nexit 1\n"));
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bed.install(Side::Plexus, "grump", &script);
    let mut conf = node_chain();
    conf["delegates"][0]["plugins"].as_array_mut().unwrap().push(json!({"type": "grump"}));
    call(&bed, "ADD", "a", &conf).run().fails(123, "not today");
    assert_eq!(left(&bed), Vec::<String>::new());
}

/// Rules that need no link are added while that is made: the kernel refuses it, and no rule, port or address stays.
fn refused() {
    let bed = Testbed::new();
    bed.pod("a");
    let mut conf = node_chain();
    conf["delegates"][0]["plugins"][0]["mtu"] = json!(70_000);
    call(&bed, "ADD", "a", &conf).run().fails(999, "");
    assert_eq!((left(&bed), records()), (vec![], 0));
    // A later plugin refuses, which is neither.
    let mut conf = node_chain();
    conf["delegates"][0]["plugins"][2]["sysctl"] = json!({"net.ipv4.conf.IFNAME.no_such": "1"});
    call(&bed, "ADD", "a", &conf).run().fails(999, "no_such");
    assert_eq!((left(&bed), records()), (vec![], 0));
    call(&bed, "ADD", "a", &node_chain()).run().ok();
    call(&bed, "DEL", "a", &node_chain()).run().ok();
    assert_eq!(left(&bed), Vec::<String>::new());
}

/// Where no processor is idle all of it is done in its turn: the same rules in the same order.
fn alone() {
    let bed = Testbed::new();
    let rules_of = || {
        bed.pod("a");
        call(&bed, "ADD", "a", &node_chain()).run().ok();
        let listed: Vec<(String, String)> = nft::facts(&bed).into_iter().collect();
        call(&bed, "DEL", "a", &node_chain()).run().ok();
        bed.lose_pod("a");
        for entry in std::fs::read_dir(LEASES).unwrap().flatten() {
            drop(std::fs::remove_dir_all(entry.path())); // the next one gets the same addresses
        }
        listed
    };
    let with_others = rules_of();
    let mut one = nix::sched::CpuSet::new();
    one.set(0).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one).unwrap();
    assert_eq!(rules_of(), with_others);
    assert_eq!(left(&bed), Vec::<String>::new());
}

fn idle() {
    let bed = Testbed::new();
    bed.pod("a");
    let ipam = json!({"type": "host-local", "subnet": "10.1.0.0/24"});
    let bridge = json!({"cniVersion": "1.0.0", "name": "net1", "type": "bridge", "bridge": "br0", "ipam": ipam});
    let result = bed.call(Side::Plexus, "bridge").command("ADD").pod("a").conf(&bridge).run().ok();
    let (before, rules_before) = (records(), rules(&bed));
    for (plugin, more) in [
        ("portmap", json!({"capabilities": {"portMappings": true}})),
        ("bandwidth", json!({"capabilities": {"bandwidth": true}})),
        ("tuning", json!({})),
    ] {
        let mut conf = json!({"cniVersion": "1.0.0", "name": "net1", "type": plugin, "prevResult": result});
        conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let passed = bed.call(Side::Plexus, plugin).command("ADD").pod("a").conf(&conf).run().ok();
        assert_eq!(passed, result, "{plugin}");
        bed.call(Side::Plexus, plugin).command("DEL").pod("a").conf(&conf).run().ok();
        assert_eq!((records(), rules(&bed)), (before, rules_before), "{plugin}");
    }
}

fn taken() {
    let bed = Testbed::new();
    bed.pod("a");
    bed.pod("b");
    let mut conf = node_chain();
    conf["delegates"][0]["plugins"].as_array_mut().unwrap().truncate(2);
    call(&bed, "ADD", "a", &conf).run().ok();
    let (links, pool) = (bed.links(""), files_below(Path::new(LEASES)));
    let refused = call(&bed, "ADD", "b", &conf).run();
    for word in ["8080", "net1", "c-a", "eth0"] {
        assert!(refused.stdout.contains(word), "{word}: {}", refused.stdout);
    }
    assert_eq!((bed.links(""), bed.links("b")), (links, vec!["lo".to_owned()]), "nothing was done");
    assert_eq!(files_below(Path::new(LEASES)), pool, "not even an address was taken and given back");
    call(&bed, "DEL", "a", &conf).run().ok();
    call(&bed, "ADD", "b", &conf).run().ok();
    call(&bed, "DEL", "b", &conf).run().ok();
    assert_eq!(left(&bed), Vec::<String>::new());
}

/// sbr's routes cannot come back to a link that is down, without addresses, or under another name.
fn stubborn() {
    for change in ["link set eth0 down", "addr flush dev eth0", "link set eth0 down name other"] {
        let bed = Testbed::new();
        bed.pod("a");
        let ipam = json!({"type": "host-local", "subnet": "10.1.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]});
        let bridge = json!({"cniVersion": "1.0.0", "name": "net1", "type": "bridge", "bridge": "br0", "isGateway": true, "ipam": ipam});
        let result = bed.call(Side::Plexus, "bridge").command("ADD").pod("a").conf(&bridge).run().ok();
        let sbr = json!({"cniVersion": "1.0.0", "name": "net1", "type": "sbr", "prevResult": result});
        bed.call(Side::Plexus, "sbr").command("ADD").pod("a").conf(&sbr).run().ok();
        bed.ip(&format!("-n a {change}"));
        bed.call(Side::Plexus, "sbr").command("DEL").pod("a").conf(&sbr).run().ok();
        assert!(!bed.ip("-n a rule show").contains("10.1.0.2"), "{change}");
        bed.call(Side::Plexus, "bridge").command("DEL").pod("a").conf(&bridge).run().ok();
        assert_eq!(left(&bed), Vec::<String>::new(), "{change}");
    }
}

fn too_many() {
    let bed = Testbed::new();
    bed.pod("a");
    for (layout, number) in [("maps", 4097), ("compatible", 513)] {
        let mut conf = node_chain();
        conf["delegates"][0]["plugins"][1]["layout"] = json!(layout);
        let all: Vec<Value> = (1..=number).map(|port| mapping("tcp", port, 80)).collect();
        conf["runtimeConfig"]["portMappings"] = json!(all);
        call(&bed, "ADD", "a", &conf).run().fails(999, "more than the");
        assert_eq!(bed.leftovers(), Vec::<String>::new());
    }
}

/// The Go plugin's usual backend has the port, at every address or at one.
fn taken_by_go() {
    let bed = Testbed::new();
    bed.pod("a");
    bed.pod("b");
    let mut conf = node_chain();
    conf["delegates"][0]["plugins"].as_array_mut().unwrap().truncate(2);
    let ipam = json!({"type": "host-local", "subnet": "10.9.0.0/24"});
    let bridge = json!({"cniVersion": "1.0.0", "name": "old", "type": "bridge", "bridge": "br0", "ipam": ipam});
    let result = bed.call(Side::Go, "bridge").command("ADD").pod("a").conf(&bridge).run().ok();
    let portmap = |mappings: Value| {
        json!({"cniVersion": "1.0.0", "name": "old", "type": "portmap", "backend": "iptables", "prevResult": result,
            "runtimeConfig": {"portMappings": mappings}})
    };
    let at = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.9"}]);
    for (mappings, is_taken) in [(json!([mapping("tcp", 8080, 80)]), true), (at, false)] {
        let go = portmap(mappings);
        bed.call(Side::Go, "portmap").command("ADD").pod("a").conf(&go).run().ok();
        let answer = call(&bed, "ADD", "b", &conf).run();
        assert_eq!(answer.succeeded(), !is_taken, "{}", answer.stdout);
        for word in ["8080", "old", "c1"].into_iter().filter(|_| is_taken) {
            assert!(answer.stdout.contains(word), "{word}: {}", answer.stdout);
        }
        call(&bed, "DEL", "b", &conf).run().ok();
        bed.call(Side::Go, "portmap").command("DEL").pod("a").conf(&go).run().ok();
    }
}

/// The journal is lost, and the runtime's list says that nobody lives.
fn unrecorded() {
    let bed = Testbed::new();
    bed.pod("a");
    let mut conf = node_chain();
    conf["delegates"][0]["plugins"].as_array_mut().unwrap().push(json!({"type": "bandwidth",
        "egressRate": 8_000_000, "egressBurst": 800_000}));
    call(&bed, "ADD", "a", &conf).run().ok();
    std::fs::remove_dir_all(Path::new(RECORDS).join("journal")).unwrap();
    bed.lose_pod("a");
    assert!(left(&bed).iter().any(|left| left.starts_with("link bwp")), "{:?}", left(&bed));
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([]);
    call(&bed, "GC", "a", &gc).run().ok();
    assert_eq!(left(&bed), Vec::<String>::new());
}

/// DEL without a record of what plexus never makes: the other plugin of that name made it.
fn elsewhere() {
    let bed = Testbed::new();
    bed.pod("a");
    let seen = bed.file("called", "");
    let script = bed.file("other/firewall", &format!("#!/bin/sh\necho $CNI_COMMAND >> {}\n", seen.display()));
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bed.bin(Side::Plexus).display(), script.parent().unwrap().display());
    for (backend, called) in [("firewalld", "DEL\n"), ("iptables", "DEL\n")] {
        let conf = json!({"cniVersion": "1.0.0", "name": "net1", "type": "firewall", "backend": backend});
        bed.call(Side::Plexus, "firewall").command("DEL").pod("a").env("CNI_PATH", &path).conf(&conf).run().ok();
        assert_eq!(std::fs::read_to_string(&seen).unwrap(), called, "{backend}");
    }
}

/// Whether what is sent to `to` from inside `place` comes back.
fn echoes(bed: &Testbed, place: &str, to: SocketAddr, limit: Duration) -> bool {
    let ask = || {
        let Ok(mut stream) = TcpStream::connect_timeout(&to, limit) else { return false };
        stream.set_read_timeout(Some(CONNECTED_LIMIT)).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).is_ok() && &answer == b"hello"
    };
    world::inside(&bed.netns(place), ask)
}

/// Serves one port of a pod by TCP until the process ends.
fn serve_tcp(bed: &Testbed, pod: &str, at: &str) {
    let listener = world::inside(&bed.netns(pod), || TcpListener::bind(at).unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut word = [0; 5];
            if stream.read_exact(&mut word).is_ok() {
                stream.write_all(&word).ok();
            }
        }
    });
}

fn serve_udp(bed: &Testbed, pod: &str, at: &str) {
    let socket = world::inside(&bed.netns(pod), || UdpSocket::bind(at).unwrap());
    std::thread::spawn(move || {
        let mut word = [0; 16];
        while let Ok((length, from)) = socket.recv_from(&mut word) {
            socket.send_to(&word[..length], from).ok();
        }
    });
}

fn udp_echoes(bed: &Testbed, place: &str, to: SocketAddr) -> bool {
    let ask = || {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        let mut answer = [0; 16];
        (0..10).any(|_| socket.send_to(b"hello", to).is_ok() && socket.recv_from(&mut answer).is_ok())
    };
    world::inside(&bed.netns(place), ask)
}

/// From a machine beside, from the pod itself, from its neighbour, by both families and both protocols.
fn reached() {
    let bed = Testbed::new();
    bed.parent("up0");
    for words in [
        "link set lo up",
        "addr add 192.0.2.1/24 dev up0",
        "addr add 2001:db8::1/64 dev up0 nodad",
        "-n wire addr add 192.0.2.2/24 dev up0",
        "-n wire addr add 2001:db8::2/64 dev up0 nodad",
        "-n wire route add 203.0.113.0/24 via 192.0.2.1",
    ] {
        bed.ip(words);
    }
    bed.pod("a");
    bed.pod("b");
    let mut conf = node_chain();
    conf["delegates"][0]["plugins"].as_array_mut().unwrap().truncate(2);
    // Without it nobody reaches himself through a bridge, with the Go plugins either.
    conf["delegates"][0]["plugins"][0]["hairpinMode"] = json!(true);
    call(&bed, "ADD", "a", &conf).run().ok();
    let mut neighbour = conf.clone();
    neighbour["runtimeConfig"] = json!({});
    call(&bed, "ADD", "b", &neighbour).run().ok();
    for at in ["0.0.0.0:80", "[::]:80"] {
        // An IPv6 socket takes both families unless the system says otherwise.
        if at.starts_with('[') {
            serve_tcp(&bed, "a", "[fd00:1::2]:80");
        } else {
            serve_tcp(&bed, "a", at);
        }
    }
    serve_udp(&bed, "a", "0.0.0.0:53");
    let at = |ip: &str, port: u16| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port);
    for place in ["wire", "a", "b"] {
        assert!(echoes(&bed, place, at("192.0.2.1", 8080), CONNECTED_LIMIT), "TCP from {place}");
        assert!(echoes(&bed, place, at("2001:db8::1", 8080), CONNECTED_LIMIT), "TCP by IPv6 from {place}");
        assert!(udp_echoes(&bed, place, at("192.0.2.1", 5353)), "UDP from {place}");
    }
    let here = TcpStream::connect_timeout(&at("127.0.0.1", 8080), CONNECTED_LIMIT);
    assert!(here.is_ok(), "from the node by 127.0.0.1: {here:?}");
    assert!(
        TcpStream::connect_timeout(&at("192.0.2.1", 8080), CONNECTED_LIMIT).is_ok(),
        "from the node by its address"
    );
    assert!(!echoes(&bed, "wire", at("192.0.2.1", 8081), SILENCE), "a port that is not mapped");
    assert!(!echoes(&bed, "wire", at("203.0.113.7", 8080), SILENCE), "what only passes through the node is not for it");
    call(&bed, "DEL", "a", &conf).run().ok();
    assert!(!echoes(&bed, "wire", at("192.0.2.1", 8080), SILENCE), "after DEL");
}

/// A plugin that plexus does not know gets the result of the step before, and its own result is what comes out.
fn between() {
    let bed = Testbed::new();
    bed.pod("a");
    let seen = bed.file("seen", "");
    let script = bed.file(
        "spy",
        &format!(
            "#!/bin/sh\nin=$(cat)\nprintf '%s %s\\n' \"$CNI_COMMAND\" \"$in\" >> {}\n[ $CNI_COMMAND = ADD ] && printf '%s' \"$in\" | jq .prevResult\nexit 0\n",
            seen.display()
        ),
    );
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bed.install(Side::Plexus, "spy", &script);
    let mut conf = node_chain();
    let steps = conf["delegates"][0]["plugins"].as_array_mut().unwrap();
    steps[2] = json!({"type": "tuning", "mac": "02:00:00:00:05:01"});
    steps.truncate(3);
    steps.push(json!({"type": "spy"}));
    steps.push(json!({"type": "tuning", "mtu": 1390}));
    let result = call(&bed, "ADD", "a", &conf).run().ok();
    let text = std::fs::read_to_string(&seen).unwrap();
    let told: Value = serde_json::from_str(text.trim().strip_prefix("ADD ").unwrap()).unwrap();
    let mac = |result: &Value| result["interfaces"][2]["mac"].clone();
    assert_eq!(mac(&told["prevResult"]), "02:00:00:00:05:01", "it gets what the step before made");
    for key in ["interfaces", "ips", "routes"] {
        assert_eq!(told["prevResult"][key], result[key], "{key}: the step after changes nothing that a result tells");
    }
    call(&bed, "DEL", "a", &conf).run().ok();
    let text = std::fs::read_to_string(&seen).unwrap();
    let told: Value = serde_json::from_str(text.lines().last().unwrap().strip_prefix("DEL ").unwrap()).unwrap();
    assert_eq!(told["prevResult"]["interfaces"], result["interfaces"], "DEL gets the chain's result");
    assert_eq!(left(&bed), Vec::<String>::new());
}

/// As a runtime executes a list by itself, every plugin a symbolic link to plexus.
fn one_by_one() {
    let bed = Testbed::new();
    bed.pod("a");
    let list = node_chain();
    let mut result = Value::Null;
    let configured = |plugin: &Value, result: &Value| {
        let mut conf = plugin.clone();
        conf["cniVersion"] = json!("1.0.0");
        conf["name"] = json!("net1");
        if !result.is_null() {
            conf["prevResult"] = result.clone();
        }
        if plugin["type"] == "portmap" {
            conf["runtimeConfig"] = list["runtimeConfig"].clone();
        }
        conf
    };
    let plugins = list["delegates"][0]["plugins"].as_array().unwrap();
    for plugin in plugins {
        let name = plugin["type"].as_str().unwrap();
        let conf = configured(plugin, &result);
        result = bed.call(Side::Plexus, name).command("ADD").pod("a").conf(&conf).run().ok();
    }
    for command in ["CHECK", "DEL", "DEL"] {
        for plugin in plugins.iter().rev() {
            let name = plugin["type"].as_str().unwrap();
            bed.call(Side::Plexus, name).command(command).pod("a").conf(&configured(plugin, &result)).run().ok();
        }
    }
    assert_eq!(left(&bed), Vec::<String>::new());
}
