//! Pods that Multus attached, and that plexus has to detach: with Multus' own binary, and from caches written by hand in its form
//! where a case must say exactly what is in them. It knows Multus' files (facts of 4.2.4), not how plexus reads them.

mod living;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::call::{Answer, Call, Side, multus};
use crate::case::Case;
use crate::need::Need;
use crate::nft;
use crate::testbed::{Testbed, files_below};

/// Multus' cniDir.
pub(crate) const KEPT: &str = "/var/lib/cni/multus";
const IDENTITY: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;K8S_POD_UID=uid-a";

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let both = &[Need::Multus, Need::Peers, Need::Macvlan, Need::Iptables, Need::Nft];
    let multus = &[Need::Multus, Need::Peers, Need::Macvlan];
    let peers = &[Need::Peers, Need::Macvlan];
    let mut cases = vec![
        Case::new("takeover::multus_adds_plexus_deletes", both, handed_over),
        Case::new("takeover::and_with_the_namespace_gone", both, namespace_gone),
        Case::new("takeover::whatever_the_damage", multus, damages),
        Case::new("takeover::what_is_known_by_name_alone_leaves_a_living_pod", multus, by_name),
        Case::new("takeover::caches_by_hand", peers, by_hand),
        Case::new("takeover::unknown_types_are_executed_as_at_add", peers, executed),
        Case::new("takeover::hostile_caches_hold_nothing_up", peers, hostile),
        Case::new("takeover::d04_a_failed_del_keeps_both_caches", peers, failed_del),
        Case::new("takeover::d05_without_the_list_the_notes_are_enough", multus, without_list),
        Case::new("takeover::d06_what_was_plugged_in_later_leaves_too", multus, plugged_in),
        Case::new("takeover::d12_an_empty_list_is_no_panic", peers, empty_list),
        Case::new("takeover::d17_gc_asks_the_runtime_and_not_the_cache", multus, collected),
        Case::new("takeover::d22_del_needs_no_kubeconfig", multus, no_kubeconfig),
        Case::new("takeover::d25_a_failed_del_is_told", peers, told_failure),
        Case::new("takeover::d33_what_a_failed_add_left_is_removed", multus, failed_add),
        Case::new("takeover::d05_without_both_caches_the_leases_are_enough", both, without_both),
        Case::new("takeover::gc_of_damaged_caches_takes_the_rules_too", both, collected_by_leases),
        Case::new("takeover::without_both_caches_nothing_of_others_is_touched", multus, only_its_own),
    ];
    cases.extend(living::cases());
    cases
}

/// A node's networks: a chain, and a network beside it. `with_filter`: the chain also masquerades and maps ports.
fn networks(with_filter: bool) -> Vec<Value> {
    let ipam = |subnet: &str| json!({"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let mut plugins = vec![
        json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": with_filter, "ipam": ipam("10.1.0.0/24")}),
        json!({"type": "tuning", "mtu": 1400}),
    ];
    if with_filter {
        plugins.push(json!({"type": "portmap", "capabilities": {"portMappings": true}}));
        plugins.push(json!({"type": "firewall"}));
    }
    let mut blue =
        json!({"cniVersion": "1.0.0", "name": "blue", "type": "macvlan", "master": "up0", "ipam": ipam("10.2.0.0/24")});
    blue["ipam"]["routes"] = json!([]);
    vec![json!({"cniVersion": "1.0.0", "name": "cluster", "plugins": plugins}), blue]
}

/// A node's configuration for one of both.
fn conf(side: Side, networks: &[Value]) -> Value {
    let bin = if side == Side::Go { "/run/cni/go" } else { "/run/cni/plexus" };
    json!({"cniVersion": "1.1.0", "name": "multus-cni-network", "type": "multus", "binDir": bin, "delegates": networks,
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}})
}

pub(crate) struct Bed {
    pub(crate) bed: Testbed,
    networks: Vec<Value>,
}

impl Bed {
    pub(crate) fn new(networks: Vec<Value>) -> Bed {
        let bed = Testbed::new();
        bed.parent("up0");
        if let Ok(program) = multus() {
            bed.install(Side::Go, "multus", &program);
        }
        let plexus = fs::read_link(bed.bin(Side::Plexus).join("plexus-cni")).unwrap();
        bed.install(Side::Plexus, "multus", &plexus);
        Bed { bed, networks }
    }

    fn with(&self, side: Side, command: &str, pod: &str, conf: &Value) -> Call<'_> {
        self.bed.call(side, "multus").command(command).container(&format!("id{pod}")).pod(pod).args(IDENTITY).conf(conf)
    }

    pub(crate) fn call(&self, side: Side, command: &str, pod: &str) -> Call<'_> {
        self.with(side, command, pod, &conf(side, &self.networks))
    }

    fn multus_adds(&self, pod: &str) {
        self.bed.pod(pod);
        self.call(Side::Go, "ADD", pod).run().ok();
    }

    /// What is left on the node, Multus' caches counted; without the bridge, which stays.
    pub(crate) fn left(&self) -> Vec<String> {
        let kept = files_below(Path::new(KEPT)).into_iter().map(|(path, _)| format!("kept {}", path.display()));
        // What all pods with port mappings share stays, as portmap leaves it.
        let is_shared =
            |left: &String| left == "link cni0" || (left.contains("CNI-HOSTPORT-") && !left.contains("CNI-DN-"));
        kept.chain(self.bed.leftovers()).filter(|left| !is_shared(left)).collect()
    }

    fn assert_clean(&self, why: &str) {
        assert_eq!(self.left(), Vec::<String>::new(), "{why}");
    }

    /// Attaches by the Go plugins as Multus would, one network, and returns its result.
    fn attach(&self, pod: &str, plugin: &Value, ifname: &str) -> Value {
        let kind = plugin["type"].as_str().unwrap();
        let call = self.bed.call(Side::Go, kind).command("ADD").container(&format!("id{pod}")).pod(pod).ifname(ifname);
        call.conf(plugin).run().ok()
    }

    fn base64(&self, value: &Value) -> String {
        self.bed.tool("base64", &["-w0"], &value.to_string()).unwrap()
    }

    /// Writes the list of a pod.
    fn keep_list(&self, pod: &str, networks: &[Value]) {
        let delegates: Vec<Value> = networks
            .iter()
            .map(|conf| {
                let (single, list) =
                    if conf["plugins"].is_array() { (json!({}), conf) } else { (conf.clone(), &json!({})) };
                json!({"Conf": single, "ConfList": list, "Name": conf["name"], "IsFilterV4Gateway": false,
                    "IsFilterV6Gateway": false, "Bytes": self.base64(conf)})
            })
            .collect();
        keep(&format!("id{pod}"), &json!(delegates).to_string());
    }

    /// Writes libcni's note of one attachment.
    fn keep_note(&self, pod: &str, conf: &Value, ifname: &str, result: &Value) {
        let network = conf["name"].as_str().unwrap();
        let note = json!({"kind": "cniCacheV1", "containerId": format!("id{pod}"), "config": self.base64(conf), "ifName": ifname,
            "networkName": network, "netns": self.bed.netns(pod), "cniArgs": [["IgnoreUnknown", "true"], ["NOTED", "yes"]],
            "capabilityArgs": {"mac": "02:00:00:00:00:99"}, "result": result});
        keep(&format!("results/{network}-id{pod}-{ifname}"), &note.to_string());
    }
}

fn keep(name: &str, text: &str) -> PathBuf {
    let path = Path::new(KEPT).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

fn single(name: &str, kind: &str, subnet: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": name, "type": kind, "bridge": "cni0", "master": "up0",
        "ipam": {"type": "host-local", "subnet": subnet}})
}

fn handed_over() {
    let node = Bed::new(networks(true));
    node.multus_adds("a");
    assert!(node.left().len() > 6 && !nft::facts(&node.bed).is_empty(), "{:?}", node.left());
    node.call(Side::Plexus, "DEL", "a").run().ok();
    node.assert_clean("what Multus attached");
    node.call(Side::Plexus, "DEL", "a").run().ok();
    node.call(Side::Plexus, "ADD", "a").run().ok();
    node.call(Side::Plexus, "DEL", "a").run().ok();
    node.assert_clean("and plexus after it");
}

fn namespace_gone() {
    let node = Bed::new(networks(true));
    for (pod, named) in [("a", true), ("b", false)] {
        node.multus_adds(pod);
        node.bed.lose_pod(pod);
        let call = node.call(Side::Plexus, "DEL", pod);
        if named { call } else { call.without("CNI_NETNS") }.run().ok();
        node.assert_clean(pod);
    }
}

/// Each damage of one cache, with the other whole.
fn damages() {
    let node = Bed::new(networks(false));
    let list = |pod: &str| vec![Path::new(KEPT).join(format!("id{pod}"))];
    let notes = |pod: &str| {
        let at = |name: String| Path::new(KEPT).join("results").join(name);
        vec![at(format!("cluster-id{pod}-eth0")), at(format!("blue-id{pod}-net1"))]
    };
    let texts: [Option<&str>; 7] =
        [None, Some(""), Some("[]"), Some("null"), Some("{}"), Some("\u{1}garbage"), Some("[null, null]")];
    let mut number = 0;
    let mut one = |damaged: &dyn Fn(&str) -> Vec<PathBuf>, harm: &dyn Fn(&Path), gone: bool| {
        number += 1;
        let pod = format!("p{number}");
        node.multus_adds(&pod);
        damaged(&pod).iter().for_each(|path| harm(path));
        if gone {
            node.bed.lose_pod(&pod);
        }
        node.call(Side::Plexus, "DEL", &pod).run().ok();
        let kept: Vec<String> = node.left().into_iter().filter(|left| left.contains(&format!("id{pod}"))).collect();
        assert!(kept.is_empty(), "pod {number}: {kept:?}");
        node.assert_clean(&format!("pod {number}"));
    };
    for damaged in [&list as &dyn Fn(&str) -> Vec<PathBuf>, &notes] {
        for text in texts {
            let harm = |path: &Path| match text {
                None => fs::remove_file(path).unwrap(),
                Some(text) => fs::write(path, text).unwrap(),
            };
            one(damaged, &harm, text.is_none_or(str::is_empty));
        }
        let truncated = |path: &Path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        };
        one(damaged, &truncated, false);
        let linked = |path: &Path| {
            fs::remove_file(path).unwrap();
            symlink("/etc/passwd", path).unwrap();
        };
        one(damaged, &linked, true);
    }
    // And both: the default network is the node's own, and of others the note's name tells the lease.
    let all = |pod: &str| [list(pod), notes(pod)].concat();
    one(&all, &|path| fs::write(path, "{").unwrap(), true);
}

/// The list is gone and a note is empty: its name and the lease say what is to leave.
fn by_name() {
    let node = Bed::new(networks(false));
    let results = Path::new(KEPT).join("results");
    for (pod, emptied) in [("a", &["blue-ida-net1"][..]), ("b", &["cluster-idb-eth0", "blue-idb-net1"])] {
        node.multus_adds(pod);
        fs::remove_file(Path::new(KEPT).join(format!("id{pod}"))).unwrap();
        emptied.iter().for_each(|name| fs::write(results.join(name), "").unwrap());
        let answer = node.call(Side::Plexus, "DEL", pod).run();
        answer.ok();
        assert_eq!(node.bed.links(pod), ["lo"], "{}", answer.stderr);
        node.assert_clean(pod);
    }
    // Without a lease nothing shows whose the link is: it is said, and leaves with the pod.
    node.bed.pod("c");
    let bare = json!({"cniVersion": "1.0.0", "name": "bare", "type": "macvlan", "master": "up0"});
    node.attach("c", &bare, "net1");
    keep("results/bare-idc-net1", "");
    let answer = node.call(Side::Plexus, "DEL", "c").run();
    answer.ok();
    assert!(answer.stderr.contains("net1 of \"bare\" stays"), "{}", answer.stderr);
    assert_eq!(node.bed.links("c"), ["lo", "net1"]);
    node.bed.lose_pod("c");
    node.assert_clean("c");
}

fn by_hand() {
    let node = Bed::new(Vec::new());
    node.bed.pod("a");
    let first = single("cluster", "bridge", "10.1.0.0/24");
    let second = single("blue", "macvlan", "10.2.0.0/24");
    let result = node.attach("a", &first, "eth0");
    node.keep_note("a", &first, "eth0", &result);
    // Multus numbers by the place in the list; this one was asked for by name, and its note is lost.
    node.attach("a", &second, "fast0");
    node.keep_list("a", &[first, second]);
    let path = Path::new(KEPT).join("ida");
    let text = fs::read_to_string(&path).unwrap();
    let mut delegates: Value = serde_json::from_str(&text).unwrap();
    delegates[1]["ifnameRequest"] = json!("fast0");
    fs::write(path, delegates.to_string()).unwrap();
    // Another pod's note, and a file that only looks like one.
    keep("results/blue-idb-net1", "{}");
    keep("results/notes-of-ida.txt", "x");
    let conf = conf(Side::Plexus, &[single("other", "bridge", "10.9.0.0/24")]);
    node.with(Side::Plexus, "DEL", "a", &conf).run().ok();
    assert_eq!(node.left(), ["kept results/blue-idb-net1", "kept results/notes-of-ida.txt"]);
}

/// What plexus does not know is executed with what Multus gave it at ADD.
fn executed() {
    let node = Bed::new(Vec::new());
    node.bed.pod("a");
    script(&node, "vendor", "cat >/run/scratch/stdin; env >/run/scratch/env; exit 0");
    let conf = json!({"cniVersion": "1.0.0", "name": "fast", "plugins": [
        {"type": "vendor", "deviceID": "0000:03:00.1", "capabilities": {"mac": true}, "ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}}]});
    let result = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "net1", "sandbox": "/run/netns/a"}]});
    node.keep_note("a", &conf, "net1", &result);
    let own = self::conf(Side::Plexus, &[single("cluster", "bridge", "10.1.0.0/24")]);
    node.with(Side::Plexus, "DEL", "a", &own).run().ok();
    let stdin: Value = serde_json::from_str(&fs::read_to_string("/run/scratch/stdin").unwrap()).unwrap();
    assert_eq!(stdin["prevResult"]["interfaces"], result["interfaces"]);
    assert_eq!((&stdin["deviceID"], &stdin["name"]), (&json!("0000:03:00.1"), &json!("fast")));
    assert_eq!(stdin["runtimeConfig"], json!({"mac": "02:00:00:00:00:99"}));
    let env = fs::read_to_string("/run/scratch/env").unwrap();
    for line in
        ["CNI_COMMAND=DEL", "CNI_IFNAME=net1", "CNI_ARGS=IgnoreUnknown=true;NOTED=yes", "CNI_NETNS=/run/netns/a"]
    {
        assert!(env.lines().any(|found| found == line), "{line}: {env}");
    }
    node.assert_clean("what was executed");
}

fn script(node: &Bed, name: &str, body: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = node.bed.file(&format!("bin/{name}"), &format!("#!/bin/sh\n{body}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    node.bed.install(Side::Plexus, name, &path);
}

fn hostile() {
    let node = Bed::new(Vec::new());
    node.bed.pod("a");
    let first = single("cluster", "bridge", "10.1.0.0/24");
    let result = node.attach("a", &first, "eth0");
    node.keep_note("a", &first, "eth0", &result);
    for (name, text) in [("a b", "{}"), ("..", "x"), ("-", ""), ("\u{e9}", "[]")] {
        keep(&format!("results/{name}-ida-net7"), text);
        keep(&format!("results/x{name}"), text);
    }
    let fifo = Path::new(KEPT).join("results/fifo-ida-net2");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = Path::new(KEPT).join("ida");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::File::create(Path::new(KEPT).join("results/large-ida-net3")).unwrap().set_len(100 << 20).unwrap();
    symlink("/dev/zero", Path::new(KEPT).join("results/zero-ida-net4")).unwrap();
    fs::create_dir(Path::new(KEPT).join("results/folder-ida-net5")).unwrap();
    let call = |command: &str| node.with(Side::Plexus, command, "a", &conf(Side::Plexus, std::slice::from_ref(&first)));
    let answer = call("DEL").run();
    answer.ok();
    assert!(answer.stderr.contains("damaged"), "{}", answer.stderr);
    assert_eq!(node.bed.leftovers(), ["link cni0"]);
    call("DEL").run().ok();
    let gone = ["ida", "results/fifo-ida-net2", "results/large-ida-net3", "results/zero-ida-net4"];
    assert!(gone.iter().all(|name| fs::symlink_metadata(Path::new(KEPT).join(name)).is_err()));
}

fn failing(node: &Bed, works: bool) {
    script(node, "vendor", if works { "exit 0" } else { r#"echo '{"code": 11, "msg": "the card is busy"}'; exit 1"# });
}

/// A pod with an attachment that cannot be removed, and one that can.
fn half_failing(node: &Bed) -> [Value; 2] {
    node.bed.pod("a");
    let first = single("cluster", "bridge", "10.1.0.0/24");
    let vendor = json!({"cniVersion": "1.0.0", "name": "fast", "type": "vendor"});
    let result = node.attach("a", &first, "eth0");
    node.keep_note("a", &first, "eth0", &result);
    node.keep_note("a", &vendor, "net1", &json!({"cniVersion": "1.0.0"}));
    node.keep_list("a", &[first.clone(), vendor.clone()]);
    failing(node, false);
    [first, vendor]
}

fn failed_del() {
    let node = Bed::new(Vec::new());
    let networks = half_failing(&node);
    let del = || node.with(Side::Plexus, "DEL", "a", &conf(Side::Plexus, &networks)).run();
    let before = files_below(Path::new(KEPT));
    for _ in 0..2 {
        del().fails(11, "plugin \"vendor\" of network \"fast\" failed (delete): the card is busy");
        assert_eq!(files_below(Path::new(KEPT)), before, "both caches stay until everything has gone");
        assert_eq!(node.bed.leftovers(), ["link cni0"], "the other network has gone meanwhile");
    }
    failing(&node, true);
    del().ok();
    node.assert_clean("once it can");
}

/// The runtime must hear of it, whatever the configuration's type.
fn told_failure() {
    let node = Bed::new(Vec::new());
    let networks = half_failing(&node);
    let mut own = conf(Side::Plexus, &networks);
    own["type"] = json!("multus-shim");
    let answer: Answer = node.with(Side::Plexus, "DEL", "a", &own).run();
    assert_eq!((answer.rc, answer.json()["code"].as_u64()), (Some(1), Some(11)));
}

fn without_list() {
    let node = Bed::new(networks(false));
    node.multus_adds("a");
    fs::remove_file(Path::new(KEPT).join("ida")).unwrap();
    node.bed.lose_pod("a");
    // Multus itself gives up here.
    node.call(Side::Go, "DEL", "a").run().ok();
    assert!(node.left().iter().any(|left| left.starts_with("lease")), "{:?}", node.left());
    node.call(Side::Plexus, "DEL", "a").run().ok();
    node.assert_clean("by libcni's notes alone");
}

/// A pod of Multus with rules, ports and limits on the host, of whose caches nothing is left.
fn lose_both(pod: &str) {
    fs::remove_file(Path::new(KEPT).join(format!("id{pod}"))).unwrap();
    for (name, _) in files_below(&Path::new(KEPT).join("results")) {
        if name.to_string_lossy().contains(&format!("-id{pod}-")) {
            fs::remove_file(Path::new(KEPT).join("results").join(name)).unwrap();
        }
    }
}

fn without_both() {
    // The second network masquerades too, and the node's configuration knows nothing of it when the pod leaves.
    let mut all = networks(true);
    let mut green = all[0].clone();
    green["name"] = json!("green");
    green["plugins"][0]["bridge"] = json!("green0");
    green["plugins"][0]["ipam"] =
        json!({"type": "host-local", "ranges": [[{"subnet": "10.3.0.0/24"}], [{"subnet": "fd00:3::/64"}]]});
    all.push(green);
    let node = Bed::new(all.clone());
    let left = || node.left().into_iter().filter(|left| left != "link green0").collect::<Vec<_>>();
    let inline = json!([all[0]]);
    for (pod, gone) in [("a", false), ("b", true), ("c", true)] {
        let stays = format!("stays-{pod}");
        node.multus_adds(&stays);
        let look = || (node.bed.links(&stays), node.bed.ip(&format!("-n {stays} -4 addr")), left());
        let before = look();
        node.multus_adds(pod);
        lose_both(pod);
        if gone {
            node.bed.lose_pod(pod);
        }
        let mut own = conf(Side::Plexus, &[]);
        own["delegates"] = inline.clone();
        let call = node.with(Side::Plexus, "DEL", pod, &own);
        let answer = if pod == "c" { call.without("CNI_NETNS") } else { call }.run();
        answer.ok();
        let told: Vec<&str> = answer.stderr.lines().filter(|line| line.contains("no cache of Multus")).collect();
        assert!(
            told.len() == 1 && told[0].contains("eth0 of \"cluster\"") && told[0].contains("net2 of \"green\""),
            "{}",
            answer.stderr
        );
        if !gone {
            assert_eq!(node.bed.links(pod), ["lo"]);
        }
        assert_eq!(look(), before, "{pod}: what another pod has, and nothing else");
        // Another DEL has nothing to say any more.
        let again = node.with(Side::Plexus, "DEL", pod, &own).run();
        assert!(again.succeeded() && !again.stderr.contains("leases"), "{}", again.stderr);
        node.call(Side::Plexus, "DEL", &stays).run().ok();
        assert_eq!(left(), Vec::<String>::new(), "{pod}");
    }
}

/// GC of a pod that has ended, of whose caches nothing can be read: its rules lead to an address that the next pod gets.
fn collected_by_leases() {
    let mut all = networks(true);
    let mut green = all[0].clone();
    green["name"] = json!("green");
    green["plugins"][0]["bridge"] = json!("green0");
    green["plugins"][0]["ipam"] = json!({"type": "host-local", "ranges": [[{"subnet": "10.3.0.0/24"}]]});
    all.push(green);
    let node = Bed::new(all.clone());
    let left = || node.left().into_iter().filter(|left| left != "link green0").collect::<Vec<_>>();
    node.multus_adds("stays");
    let before = left();
    for damaged in [false, true] {
        node.multus_adds("a");
        for file in files_below(Path::new(KEPT)).into_iter().map(|(name, _)| Path::new(KEPT).join(name)) {
            if damaged && file.display().to_string().contains("ida") {
                fs::write(file, "{").unwrap();
            }
        }
        node.bed.lose_pod("a");
        let mut own = conf(Side::Plexus, &[all[0].clone()]);
        own["cni.dev/valid-attachments"] = json!([{"containerID": "idstays", "ifname": "eth0"}]);
        let bare = node.bed.call(Side::Plexus, "multus").command("GC").conf(&own);
        bare.without("CNI_CONTAINERID").without("CNI_IFNAME").run().ok();
        assert_eq!(left(), before, "damaged: {damaged}");
    }
    node.call(Side::Plexus, "DEL", "stays").run().ok();
    assert_eq!(left(), Vec::<String>::new());
}

/// Leases of one container: those of an interface that the runtime itself attached beside, or that plexus has a record of, stay; so does a
/// link that has another's address.
fn only_its_own() {
    let node = Bed::new(networks(false));
    node.multus_adds("a");
    lose_both("a");
    let beside = single("beside", "bridge", "10.6.0.0/24");
    node.attach("a", &beside, "ext0");
    fs::create_dir_all("/var/lib/cni/results").unwrap();
    fs::write("/var/lib/cni/results/beside-ida-ext0", "{}").unwrap();
    // A link of this name, and no address that was leased for it.
    let address = node.bed.ip("-n a -o -4 addr show dev net1").split_whitespace().nth(3).unwrap().to_owned();
    node.bed.ip(&format!("-n a addr del {address} dev net1"));
    let answer = node.call(Side::Plexus, "DEL", "a").run();
    answer.ok();
    assert!(answer.stderr.contains("net1"), "{}", answer.stderr);
    assert_eq!(node.bed.links("a"), ["lo", "net1", "ext0"]);
    let leases: Vec<String> = node.left().into_iter().filter(|left| left.starts_with("lease")).collect();
    assert_eq!(leases, ["lease beside/10.6.0.2"]);
}

fn plugged_in() {
    let node = Bed::new(networks(false));
    node.multus_adds("a");
    let later = single("green", "bridge", "10.3.0.0/24");
    let result = node.attach("a", &later, "hot0");
    node.keep_note("a", &later, "hot0", &result);
    node.call(Side::Plexus, "DEL", "a").run().ok();
    node.assert_clean("with what the list does not name");
}

fn empty_list() {
    let node = Bed::new(Vec::new());
    node.bed.pod("a");
    let first = single("cluster", "bridge", "10.1.0.0/24");
    node.attach("a", &first, "eth0");
    keep("ida", "[]");
    node.with(Side::Plexus, "DEL", "a", &conf(Side::Plexus, &[first])).run().ok();
    node.assert_clean("the node's configuration tells the default network");
}

fn collected() {
    let node = Bed::new(networks(false));
    for pod in ["a", "b", "c"] {
        node.multus_adds(pod);
    }
    node.bed.lose_pod("c");
    let gc = |valid: &[&str]| {
        let mut own = conf(Side::Plexus, &node.networks);
        let valid: Vec<Value> = valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
        own["cni.dev/valid-attachments"] = json!(valid);
        let bare = node.bed.call(Side::Plexus, "multus").command("GC").conf(&own);
        bare.without("CNI_CONTAINERID").without("CNI_IFNAME").run().ok();
    };
    let of = |id: &str| node.left().iter().filter(|left| left.contains(id)).count();
    let leases = || node.left().iter().filter(|left| left.starts_with("lease")).count();
    gc(&["ida", "idb", "idc"]);
    assert_eq!((of("ida"), of("idb"), of("idc"), leases()), (4, 4, 4, 6), "{:?}", node.left());
    gc(&["ida"]);
    assert_eq!((of("ida"), of("idb"), of("idc"), leases()), (4, 0, 0, 2), "{:?}", node.left());
    assert_eq!(node.bed.links("b"), ["lo"], "its namespace lives, and its addresses say that it is the one");
    assert_eq!(node.bed.links("a").len(), 3);
    node.call(Side::Plexus, "DEL", "a").run().ok();
    node.assert_clean("at last");
}

fn no_kubeconfig() {
    let node = Bed::new(networks(false));
    node.multus_adds("a");
    let mut own = conf(Side::Plexus, &[]);
    own.as_object_mut().unwrap().remove("delegates");
    own["clusterNetwork"] = json!("/run/scratch/nowhere.conflist");
    own["kubeconfig"] = json!("/etc/cni/net.d/multus.d/multus.kubeconfig");
    node.with(Side::Plexus, "DEL", "a", &own).run().ok();
    node.assert_clean("without a kubeconfig, and without the default network's file");
}

fn failed_add() {
    let mut failing = networks(false);
    failing.push(json!({"cniVersion": "1.0.0", "name": "none", "type": "nowhere"}));
    let node = Bed::new(failing);
    node.bed.pod("a");
    let answer = node.call(Side::Go, "ADD", "a").run();
    assert!(!answer.succeeded());
    assert_eq!(node.left(), ["kept ida"], "what Multus leaves behind");
    // And a plugin that is nowhere keeps nobody from leaving.
    node.call(Side::Plexus, "DEL", "a").run().ok();
    node.assert_clean("after DEL");
    assert!(!node.call(Side::Plexus, "ADD", "a").run().succeeded());
    node.assert_clean("a failed ADD of plexus leaves nothing at all");
}
