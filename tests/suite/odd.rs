//! Odd surroundings: what stands where plexus expects something else, and commands that come for what is no longer there.
//! It knows where plexus keeps its records.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::call::{Call, Side};
use crate::case::Case;
use crate::meta::{definition, node};
use crate::need::Need;
use crate::testbed::{LEASES, RECORDS, Testbed};

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    vec![
        Case::new("odd::a_mistyped_ipam_plugin_leaves_no_record", &[], mistyped),
        Case::new("odd::no_interface_steers_a_terminal", &[], steering),
        Case::new("odd::a_fifo_makes_no_call_wait", &[], fifo),
        Case::new("odd::a_record_that_is_no_file_is_put_away", &[], no_file),
        Case::new("odd::a_record_that_says_nothing_still_frees_the_default_network", &[], unreadable),
        Case::new("odd::del_leaves_the_links_of_another_namespace", &[], other_namespace),
        Case::new("odd::a_namespace_s_inode_may_be_another_s_by_now", mac, inode_reused),
        Case::new("odd::del_leaves_another_link_of_the_same_name", &[], same_name),
        Case::new("odd::del_takes_a_path_that_add_refuses", &[], long_path),
        Case::new("odd::del_takes_a_namespace_of_another_type", &[], other_type),
        Case::new("odd::a_delegate_s_last_words_are_cut", &[], last_words),
        Case::new("odd::the_meta_plugin_is_no_network", mac, itself),
        Case::new("odd::more_routes_than_a_datagram_holds", &[], routes),
        Case::new("odd::gc_of_one_network_keeps_another_s_leases", &[], shared_pool),
        Case::new("odd::gc_is_passed_on_to_ipam_plugins", &[], ipam_gc),
        Case::new("odd::status_says_that_a_pool_is_full", &[], full_pool),
        Case::new("odd::bad_requests_are_found_before_anything_is_done", mac, bad_requests),
        Case::new("odd::a_capability_that_is_only_declared_honours_nothing", mac, empty_promises),
        Case::new("odd::del_that_cannot_know_the_boot_forgets_nothing", &[], no_boot_id),
        Case::new("odd::the_own_namespace_where_it_is_allowed", &[Need::Peers], own_namespace),
        Case::new("odd::nobody_in_a_pod_keeps_its_tap", &[Need::Tap], locked_from_inside),
        Case::new("odd::a_record_that_is_lost_still_frees_the_default_network", &[], lost_record),
        Case::new("odd::a_device_that_was_renamed_in_the_pod_comes_back", &[], renamed_device),
        Case::new("odd::del_of_a_link_leaves_lo_alone", &[], loopback_alone),
        Case::new("odd::status_is_what_add_would_say", &[], honest_status),
        Case::new("odd::one_default_route_of_several", &[], two_defaults),
    ]
}

fn bridge(bed: &Testbed) -> Value {
    drop(bed.pod("a"));
    json!({"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br0",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.7.0.0/16"}]]}})
}

/// Neither by the runtime's nor by the pod's name for it; the refusal and the log have nothing of it as it stands.
fn steering() {
    let node = node();
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", r#"[{"name": "green", "interface": "a\u001b[2J"}]"#)]);
    let answer = node.call("ADD", "a").run();
    answer.fails(7, r#"interface "a\u{1b}[2J": interface name contains control characters"#);
    assert!(!answer.stdout.contains('\u{1b}') && !answer.stderr.contains('\u{1b}'), "{answer:?}");
    node.pod("b", &[]);
    let answer = node.call("ADD", "b").ifname("a\u{9b}2J").run();
    answer.fails(4, "interface name contains control characters");
    assert!(!answer.stdout.contains('\u{9b}') && !answer.stderr.contains('\u{9b}'), "{answer:?}");
    assert_eq!((node.bed.links("a"), node.bed.links("b")), (vec!["lo".to_owned()], vec!["lo".to_owned()]));
    node.assert_clean();
}

/// The one record there is.
fn record() -> PathBuf {
    let entries = fs::read_dir(format!("{RECORDS}/journal")).unwrap().map(|entry| entry.unwrap().path());
    let mut records = entries.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    records.next().expect("a record")
}

fn leases(network: &str) -> Vec<String> {
    let names = fs::read_dir(format!("{LEASES}/{network}")).into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
}

fn fifo() {
    let node = node();
    let make = |path: &str| nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
    make("/run/netns/fifo");
    let conf = bridge(&node.bed);
    let call = |command| node.bed.call(Side::Plexus, "bridge").command(command).conf(&conf);
    call("ADD").env("CNI_NETNS", "/run/netns/fifo").run().fails(999, "unknown FS magic");
    call("DEL").env("CNI_NETNS", "/run/netns/fifo").run().ok();
    fs::remove_file("/run/netns/fifo").unwrap();
    make("/run/scratch/manifests/pipe.yaml");
    node.add("b", "");
    node.call("DEL", "b").run().ok();
}

fn no_file() {
    let bed = Testbed::new();
    let conf = bridge(&bed);
    let call = |command| bed.call(Side::Plexus, "bridge").command(command).conf(&conf).pod("a");
    call("ADD").run().ok();
    let record = record();
    fs::remove_file(&record).unwrap();
    fs::create_dir_all(record.join("deep")).unwrap();
    call("ADD").container("c1").run().fails(5, "not a regular file");
    call("DEL").run().ok();
    assert!(!record.exists());
    assert_eq!((bed.links("a"), leases("lan").len()), (vec!["lo".to_owned()], 0));
    std::os::unix::fs::symlink("/etc/passwd", &record).unwrap();
    call("DEL").run().ok();
    assert!(Path::new("/etc/passwd").exists() && !record.exists());
    call("ADD").run().ok();
}

fn unreadable() {
    let node = node();
    node.add("a", "");
    fs::write(record(), "{ torn").unwrap();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

fn other_namespace() {
    let bed = Testbed::new();
    let conf = bridge(&bed);
    bed.pod("b");
    let call = |command, pod| bed.call(Side::Plexus, "bridge").command(command).conf(&conf).pod(pod);
    call("ADD", "a").run().ok();
    bed.ip("-n b link add eth0 type bridge");
    // The path of the DEL leads elsewhere: what was attached is found by the path of the ADD.
    call("DEL", "b").run().ok();
    assert_eq!(bed.links("b"), ["lo", "eth0"]);
    assert_eq!((bed.links("a"), leases("lan").len()), (vec!["lo".to_owned()], 0));
}

/// The kernel gives a new namespace the inode of one that is gone: here the record says so, with the right number of the old one.
fn inode_reused() {
    let bed = Testbed::new();
    bed.parent("up0");
    let ipam = json!({"type": "host-local", "subnet": "10.7.0.0/16"});
    let bridge = json!({"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "br0", "ipam": ipam});
    let macvlan = json!({"cniVersion": "1.1.0", "name": "lan", "type": "macvlan", "master": "up0", "ipam": ipam});
    for conf in [bridge, macvlan] {
        let plugin = conf["type"].as_str().unwrap();
        let call =
            |command, id: &str| bed.call(Side::Plexus, plugin).command(command).container(id).conf(&conf).pod("a");
        let begin = || {
            bed.pod("a");
            call("ADD", "old").run().ok();
            let old = record();
            let namespace = |text: &str| {
                serde_json::from_str::<Value>(text.lines().next().unwrap()).unwrap()["netnsId"].to_string()
            };
            let text = fs::read_to_string(&old).unwrap();
            bed.lose_pod("a");
            bed.pod("a");
            let meta = fs::metadata(bed.netns("a")).unwrap();
            let reused = format!("[{},{}]", meta.dev(), meta.ino());
            fs::write(&old, text.replace(&namespace(&text), &reused)).unwrap();
            call("ADD", "new").run().ok();
            old
        };
        let is_left = || (bed.links("a"), leases("lan").len()) == (vec!["lo".to_owned(), "eth0".to_owned()], 1);
        let end = || {
            call("DEL", "new").run().ok();
            bed.lose_pod("a");
        };
        for netns in ["", "/run/netns/a"] {
            let old = begin();
            call("DEL", "old").env("CNI_NETNS", netns).run().ok();
            assert!(is_left() && !old.exists(), "DEL of {plugin} with {netns:?}: {:?}", bed.leftovers());
            end();
        }
        let old = begin();
        let mut all = conf.clone();
        all["cni.dev/valid-attachments"] = json!([{"containerID": "new", "ifname": "eth0"}]);
        bed.call(Side::Plexus, plugin).command("GC").conf(&all).run().ok();
        assert!(is_left() && !old.exists(), "GC of {plugin}: {:?}", bed.leftovers());
        end();
    }
}

fn same_name() {
    let bed = Testbed::new();
    let conf = bridge(&bed);
    let call = |command| bed.call(Side::Plexus, "bridge").command(command).conf(&conf).pod("a");
    call("ADD").run().ok();
    bed.ip("-n a link del eth0");
    bed.ip("-n a link add eth0 type bridge");
    call("DEL").run().ok();
    assert_eq!((bed.links("a"), leases("lan").len()), (vec!["lo".to_owned(), "eth0".to_owned()], 0));
    call("ADD").run().fails(999, "already exists");
    bed.ip("-n a link del eth0");
    // A link that got another name inside the pod is still found.
    call("ADD").run().ok();
    bed.ip("-n a link set eth0 down");
    bed.ip("-n a link set eth0 name renamed");
    call("DEL").run().ok();
    assert_eq!(bed.links("a"), ["lo"]);
}

/// Whoever cannot read the boot's id must not take a record for one of an older boot.
fn no_boot_id() {
    let bed = Testbed::new();
    let conf = bridge(&bed);
    let call = |program: PathBuf, command| {
        Call::new(&bed, program, &bed.bin(Side::Plexus)).command(command).conf(&conf).pod("a")
    };
    let usual = bed.bin(Side::Plexus).join("bridge");
    let is_whole = || (bed.links("a").len(), leases("lan").len()) == (2, 1) && record().exists();
    call(usual.clone(), "ADD").run().ok();
    for (name, words) in [
        ("blind", "exec unshare -m sh -c 'mount -t tmpfs none /proc && exec /run/cni/plexus/bridge'"),
        ("poor", "exec 3>&-; ulimit -n 4; exec /run/cni/plexus/bridge"), // whoever runs this may have handed a third down
    ] {
        let program = script(&bed, &format!("{name}/bridge"), words);
        call(program.clone(), "DEL").run().fails(5, "boot");
        assert!(is_whole(), "{name}");
        call(program, "ADD").container("other").run().json()["code"].as_u64().expect("an error");
    }
    call(usual, "DEL").run().ok();
    assert_eq!(bed.leftovers(), ["link br0"]);
}

/// Its pod's address says what was attached; another link of the name is somebody else's.
fn lost_record() {
    let node = node();
    node.add("a", "");
    fs::remove_file(record()).unwrap();
    node.call("DEL", "a").run().ok();
    assert_eq!(node.bed.links("a"), ["lo"]);
    node.call("DEL", "a").run().ok();
    node.assert_clean();
    node.add("a", "");
    fs::remove_file(record()).unwrap();
    node.bed.ip("-n a link del eth0");
    node.bed.ip("-n a link add eth0 type bridge");
    node.call("DEL", "a").run().ok();
    assert_eq!((node.bed.links("a"), leases("cluster").len()), (vec!["lo".to_owned(), "eth0".to_owned()], 0));
    node.call("DEL", "a").run().ok();
    assert_eq!(node.bed.links("a"), ["lo", "eth0"], "once more is harmless");
}

fn renamed_device() {
    let bed = Testbed::new();
    bed.parent("up0");
    bed.pod("a");
    let conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "host-device", "device": "up0"});
    let call = |command| bed.call(Side::Plexus, "host-device").command(command).conf(&conf).pod("a");
    call("ADD").run().ok();
    bed.ip("-n a link set eth0 down");
    bed.ip("-n a link set eth0 name mine");
    call("DEL").run().ok();
    assert_eq!((bed.links("a"), bed.leftovers()), (vec!["lo".to_owned()], Vec::new()));
    assert!(bed.links("").contains(&"up0".to_owned()));
}

fn loopback_alone() {
    let bed = Testbed::new();
    let conf = bridge(&bed);
    bed.ip("-n a link set lo up");
    bed.call(Side::Plexus, "bridge").command("DEL").conf(&conf).pod("a").ifname("lo").run().ok();
    assert!(bed.ip("-n a link show lo").contains(",UP"), "{}", bed.ip("-n a link show lo"));
}

/// What cannot be executed, or what the kernel cannot do, is told before the first pod comes.
fn honest_status() {
    let node = node();
    let base = json!({"cniVersion": "1.1.0", "name": "n", "type": "bridge", "bridge": "cni0"});
    let with = |key: &str, value: Value| {
        let mut conf = base.clone();
        conf[key] = value;
        conf
    };
    let status = |conf: &Value| node.bed.call(Side::Plexus, "bridge").command("STATUS").conf(conf).run();
    status(&base).ok();
    status(&with("ipam", json!({"type": "nowhere"}))).fails(50, "/run/cni/plexus");
    node.bed.pod("v");
    let vlan = with("vlan", json!(5));
    let add = node.bed.call(Side::Plexus, "bridge").command("ADD").conf(&vlan).pod("v").run();
    let told = status(&vlan);
    assert_eq!(told.succeeded(), add.succeeded(), "{} but {}", told.stdout, add.stdout);
    if !told.succeeded() {
        told.fails(50, "VLAN");
    }
    for version in ["1.0.0", "1.1.0"] {
        let mut meta = node.conf.clone();
        meta["cniVersion"] = json!("1.1.0");
        meta["delegates"] = json!([{"cniVersion": version, "name": "d", "type": "nowhere"}]);
        node.bed.call(Side::Plexus, "plexus-cni").command("STATUS").conf(&meta).run().fails(50, "/run/cni/plexus");
    }
}

/// As the reference plugin; and a record knows it without being told again.
fn own_namespace() {
    let bed = Testbed::new();
    let mut conf = bridge(&bed);
    conf["bridge"] = json!("own0");
    let call = |side, command| {
        bed.call(side, "bridge")
            .command(command)
            .conf(&conf)
            .env("CNI_NETNS", "/proc/self/ns/net")
            .env("CNI_NETNS_OVERRIDE", "1")
    };
    for side in [Side::Go, Side::Plexus] {
        let result = call(side, "ADD").run().ok();
        call(side, "CHECK").conf(&checked(&conf, &result)).run().ok();
        call(side, "DEL").run().ok();
        call(side, "DEL").run().ok();
        assert_eq!(bed.leftovers(), ["link own0"], "{side:?}");
    }
    for netns in ["", "/proc/self/ns/net"] {
        call(Side::Plexus, "ADD").run().ok();
        call(Side::Plexus, "DEL").without("CNI_NETNS_OVERRIDE").env("CNI_NETNS", netns).run().ok();
        assert_eq!(bed.leftovers(), ["link own0"], "{netns:?}");
    }
    call(Side::Plexus, "ADD").run().ok();
    fs::remove_file(record()).unwrap();
    call(Side::Plexus, "DEL").without("CNI_NETNS_OVERRIDE").run().fails(8, "should not be the same");
    call(Side::Plexus, "DEL").run().ok();
    assert_eq!(bed.leftovers(), ["link own0"]);
}

fn checked(conf: &Value, result: &Value) -> Value {
    let mut checked = conf.clone();
    checked["prevResult"] = result.clone();
    checked
}

/// A process in the pod may lock its namespace; and `ip`, which outlives an ADD that is killed, is waited for all the same.
fn locked_from_inside() {
    let bed = Testbed::new();
    bed.pod("a");
    let netns = fs::File::open(bed.netns("a")).unwrap();
    let _lock = Flock::lock(netns, FlockArg::LockExclusiveNonblock).unwrap();
    let conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "tap", "ipam": {}});
    let call = |command| bed.call(Side::Plexus, "tap").command(command).conf(&conf).pod("a");
    call("ADD").run().ok();
    call("DEL").run().ok();
    let usual = "/usr/sbin:/usr/bin:/sbin:/bin";
    script(
        &bed,
        "slow/ip",
        &format!("echo >/run/scratch/begun; read word </run/scratch/go; PATH={usual} exec ip \"$@\""),
    );
    for fifo in ["begun", "go"] {
        nix::unistd::mkfifo(format!("/run/scratch/{fifo}").as_str(), Mode::S_IRWXU).unwrap();
    }
    let mut add = call("ADD").env("PATH", format!("/run/scratch/slow:{usual}")).start();
    fs::read("/run/scratch/begun").unwrap();
    add.kill().unwrap();
    add.wait().unwrap();
    let mut del = call("DEL").start();
    fs::write("/run/scratch/go", "now\n").unwrap();
    assert!(del.wait().unwrap().success());
    assert_eq!((bed.links("a"), bed.leftovers()), (vec!["lo".to_owned()], Vec::new()));
}

/// A program of this case's own.
fn script(bed: &Testbed, name: &str, words: &str) -> PathBuf {
    let path = bed.file(name, &format!("#!/bin/sh\n{words}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn long_path() {
    let bed = Testbed::new();
    let conf = bridge(&bed);
    let path = "/nowhere:".repeat(200);
    let call = |command| bed.call(Side::Plexus, "bridge").command(command).conf(&conf).pod("a");
    call("ADD").env("CNI_PATH", path.clone()).run().fails(4, "CNI_PATH names more than");
    call("ADD").run().ok();
    call("DEL").env("CNI_PATH", path).run().ok();
    assert_eq!(bed.links("a"), ["lo"]);
}

fn other_type() {
    let bed = Testbed::new();
    let conf = bridge(&bed);
    let call = |command| bed.call(Side::Plexus, "bridge").command(command).conf(&conf);
    for namespace in ["/proc/self/ns/mnt", "/dev/null", "/run/netns"] {
        call("DEL").env("CNI_NETNS", namespace).run().ok();
    }
}

fn last_words() {
    let node = node();
    node.script("fails", "cat >/dev/null; head -c 200000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 3");
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "failing")]);
    let answer = node.call("ADD", "a").run();
    answer.fails(999, "the end");
    assert!(answer.stdout.len() < 20_000, "{} bytes", answer.stdout.len());
}

fn itself() {
    let node = node();
    for plugin in ["plexus-cni", "multus"] {
        let conf = json!({"cniVersion": "1.0.0", "name": "loop", "type": plugin, "clusterNetwork": "loop"});
        definition(&node.bed, "default", plugin, &conf.to_string());
        node.pod("a", &[("k8s.v1.cni.cncf.io/networks", plugin)]);
        node.call("ADD", "a").run().fails(7, "is none itself");
    }
    node.assert_clean();
}

fn routes() {
    let bed = Testbed::new();
    let mut conf = bridge(&bed);
    let route = |n: u32| json!({"dst": format!("172.{}.{}.0/24", 16 + n / 256, n % 256), "gw": "10.7.0.1"});
    conf["ipam"]["routes"] = (0..3000).map(route).collect();
    let call = |command| bed.call(Side::Plexus, "bridge").command(command).conf(&conf).pod("a");
    call("ADD").run().ok();
    assert_eq!(bed.ip("-n a route show").lines().count(), 3001);
    // One that is refused is named, wherever it stands.
    call("DEL").run().ok();
    conf["ipam"]["routes"][2900]["gw"] = json!("192.0.2.1");
    let answer = bed.call(Side::Plexus, "bridge").command("ADD").conf(&conf).pod("a").run();
    answer.fails(999, "172.27.84.0");
    assert_eq!((bed.links("a"), leases("lan").len()), (vec!["lo".to_owned()], 0));
}

fn shared_pool() {
    let mut node = node();
    node.add("a", "");
    // Another configuration of the same node, with the same default network.
    node.conf["name"] = json!("other");
    node.add("b", "");
    node.conf["cniVersion"] = json!("1.1.0");
    node.conf["cni.dev/valid-attachments"] = json!([{"containerID": "id-b", "ifname": "eth0"}]);
    node.call("GC", "b").run().ok();
    assert_eq!(leases("cluster").len(), 4, "both pods keep both addresses");
    node.conf["cni.dev/valid-attachments"] = json!([]);
    node.call("GC", "b").run().ok();
    assert_eq!(leases("cluster").len(), 2);
}

fn bad_requests() {
    let node = node();
    for (networks, part) in [
        (json!([{"name": "blue", "mac": "01:00:5e:00:00:01"}]), "not the address of one host"),
        (json!([{"name": "blue", "mac": "00:00:00:00:00:00"}]), "not the address of one host"),
        (json!([{"name": "blue", "mac": "02:00:00:00:00:07"}, {"name": "blue", "mac": "02:00:00:00:00:07"}]), "twice"),
        (json!([{"name": "fixed", "ips": ["10.9.0.7/24"]}, {"name": "fixed", "ips": ["10.9.0.7/24"]}]), "twice"),
        (json!([{"name": "blue", "ips": ["192.0.2.9"]}]), "failed to allocate all requested IPs"),
        (json!([{"name": "blue", "ipam-claim-reference": "mine"}]), "keeps no claims"),
    ] {
        node.pod("a", &[("k8s.v1.cni.cncf.io/networks", &networks.to_string())]);
        let answer = node.call("ADD", "a").run();
        assert!(!answer.succeeded() && answer.stdout.contains(part), "{networks}: {}", answer.stdout);
        // The default network comes first: had anything been done, its bridge would be there.
        assert_eq!(node.bed.leftovers(), Vec::<String>::new(), "{networks}");
    }
}

/// A native kind does nothing with a capability that it only declares.
fn empty_promises() {
    let node = node();
    let conf = json!({"cniVersion": "1.0.0", "name": "l2", "type": "macvlan", "master": "up0",
        "capabilities": {"ips": true, "portMappings": true, "infinibandGUID": true}});
    definition(&node.bed, "default", "l2", &conf.to_string());
    for (key, value) in [
        ("ips", json!(["10.9.0.7/24"])),
        ("portMappings", json!([{"hostPort": 80, "containerPort": 80}])),
        ("infiniband-guid", json!("c2:11:22:33:44:55:66:77")),
    ] {
        node.pod("a", &[("k8s.v1.cni.cncf.io/networks", &json!([{"name": "l2", key: value}]).to_string())]);
        node.call("ADD", "a").run().fails(7, "was requested");
    }
}

fn two_defaults() {
    let node = node();
    for number in [1, 2] {
        let name = format!("g{number}");
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": format!("10.2{number}.0.0/24")}]],
            "routes": [{"dst": "0.0.0.0/0"}]});
        let conf = json!({"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": name, "isGateway": true, "ipam": ipam});
        definition(&node.bed, "default", &name, &conf.to_string());
    }
    let routes = |pod: &str| node.bed.ip(&format!("-n {pod} -4 route show default")).trim().to_owned();
    for (pod, holder, gateway) in [("a", "g1", "10.21.0.1"), ("b", "g2", "10.22.0.1")] {
        let other = if holder == "g1" { "g2" } else { "g1" };
        node.add(pod, &json!([{"name": holder, "default-route": [gateway]}, {"name": other}]).to_string());
        assert_eq!(routes(pod), format!("default via {gateway} dev net1"));
        node.call("CHECK", pod).run().ok();
    }
    node.bed.ip("-n a route replace default via 10.1.0.1 dev eth0");
    node.call("CHECK", "a").run().fails(999, "default route by 10.21.0.1");
    let both = json!([{"name": "g1", "default-route": ["10.21.0.1"]}]).to_string();
    let default = json!([{"name": "g2", "namespace": "default", "default-route": ["10.22.0.1"]}]).to_string();
    node.pod("c", &[("k8s.v1.cni.cncf.io/networks", &both), ("v1.multus-cni.io/default-network", &default)]);
    node.call("ADD", "c").run().fails(7, "both want");
}

fn ipam_gc() {
    let node = node();
    node.script(
        "handed",
        r#"conf=$(cat); echo "$CNI_COMMAND" >>/run/scratch/handed
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"10.8.0.2/24"}]}'"#,
    );
    let mut conf = bridge(&node.bed);
    conf["cniVersion"] = json!("1.1.0");
    conf["ipam"] = json!({"type": "handed"});
    conf["cni.dev/valid-attachments"] = json!([]);
    node.bed.call(Side::Plexus, "bridge").command("GC").conf(&conf).run().ok();
    let mut meta = node.conf.clone();
    meta["cniVersion"] = json!("1.1.0");
    meta["cni.dev/valid-attachments"] = json!([]);
    meta["delegates"] = json!([{"cniVersion": "1.1.0", "name": "d", "type": "bridge", "ipam": {"type": "handed"}}]);
    node.bed.call(Side::Plexus, "plexus-cni").command("GC").conf(&meta).run().ok();
    assert_eq!(fs::read_to_string("/run/scratch/handed").unwrap(), "GC\nGC\n");
}

fn full_pool() {
    let mut node = node();
    node.conf["cniVersion"] = json!("1.1.0");
    node.conf["delegates"] = json!([{"cniVersion": "1.1.0", "name": "small", "type": "bridge", "bridge": "cni0",
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/30"}}]);
    let mut kind = node.conf["delegates"][0].clone();
    let status = |name: &str, conf: &Value| node.bed.call(Side::Plexus, name).command("STATUS").conf(conf).run();
    status("plexus-cni", &node.conf).ok();
    status("bridge", &kind).ok();
    node.add("a", "");
    status("plexus-cni", &node.conf).fails(50, "no IP addresses available");
    status("bridge", &kind).fails(50, "no IP addresses available");
    kind["type"] = json!("host-local");
    status("host-local", &kind).fails(50, "no IP addresses available");
    node.call("DEL", "a").run().ok();
    status("plexus-cni", &node.conf).ok();
}

/// Otherwise the record of the failed ADD would want it for ever, whatever the configuration says later.
fn mistyped() {
    let bed = Testbed::new();
    bed.pod("a");
    let mut conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "cni0",
        "ipam": {"type": "host-locl", "subnet": "10.5.0.0/24"}});
    let call =
        |command: &str, conf: &Value| bed.call(Side::Plexus, "bridge").command(command).pod("a").conf(conf).run();
    call("ADD", &conf).fails(999, "host-locl");
    conf["ipam"]["type"] = json!("host-local");
    call("ADD", &conf).ok();
    call("DEL", &conf).ok();
    assert_eq!(bed.leftovers(), ["link cni0"]);
}
