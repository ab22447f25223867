//! The kernel's packet filter as `nft` lists it, and plugins that masquerade or check hardware addresses: together with the
//! Go plugins, and with packets. It does not know how rules are made.

use std::path::Path;
use std::process::Command;

use backends::nft::{Listed, Owner, Rules, Subject};
use serde_json::{Value, json};

use crate::call::Side;
use crate::case::Case;
use crate::need::Need;
use crate::snapshot::Facts;
use crate::testbed::Testbed;
use crate::world;

/// The lines of each chain in the host's namespace, by `FAMILY TABLE CHAIN`; none where `nft` is not installed, for then
/// no case that makes rules runs.
fn chains(bed: &Testbed) -> Vec<(String, Vec<String>)> {
    if Command::new("nft").arg("-v").output().is_err() {
        return Vec::new();
    }
    let text = bed.tool("nft", &["list", "ruleset"], "").unwrap();
    let mut chains: Vec<(String, Vec<String>)> = Vec::new();
    let (mut table, mut in_chain) = ("", false);
    for line in text.lines().map(str::trim) {
        let name = line.strip_suffix(" {");
        if let Some(name) = name.and_then(|name| name.strip_prefix("table ")) {
            table = name;
        } else if let Some(name) = name.and_then(|name| name.strip_prefix("chain ")) {
            chains.push((format!("{table} {name}"), Vec::new()));
            in_chain = true;
        } else if line == "}" {
            in_chain = false;
        } else if let Some((_, lines)) = chains.last_mut().filter(|_| in_chain) {
            lines.push(line.to_owned());
        }
    }
    chains
}

/// What stays of iptables' tables for good: chains that all pods share, and what leads to them.
const SHARED: [&str; 4] = ["CNI-ADMIN", "CNI-FORWARD", "CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2"];

/// The elements of each set, by `FAMILY TABLE SET`.
fn elements(bed: &Testbed) -> Vec<String> {
    if Command::new("nft").arg("-v").output().is_err() {
        return Vec::new();
    }
    let listed: Value = serde_json::from_str(&bed.tool("nft", &["-j", "list", "ruleset"], "").unwrap()).unwrap();
    let mut all = Vec::new();
    for object in listed["nftables"].as_array().into_iter().flatten() {
        for set in ["map", "set"].into_iter().filter_map(|kind| object.get(kind)) {
            let elements = set["elem"].as_array().into_iter().flatten();
            let place = ["family", "table", "name"].map(|key| set[key].as_str().unwrap().to_owned()).join(" ");
            all.extend(elements.map(|element| format!("element {place}: {element}")));
        }
    }
    all
}

/// Every line of every chain as a fact.
pub(crate) fn facts(bed: &Testbed) -> Facts {
    let line = |chain: &str, number: usize, line: String| (format!("host.nft.{chain}.{number}"), line);
    let lines = chains(bed).into_iter();
    lines.flat_map(|(chain, lines)| lines.into_iter().enumerate().map(move |(n, text)| line(&chain, n, text))).collect()
}

/// Chains and rules of pods.
pub(crate) fn leftovers(bed: &Testbed) -> Vec<String> {
    let mut left = Vec::new();
    for (chain, lines) in chains(bed) {
        let is_shared = SHARED.iter().any(|shared| chain.ends_with(&format!("filter {shared}")));
        let of_pod = chain.contains("cni-br-iface-") || (chain.contains(" CNI-") && !is_shared);
        left.extend(of_pod.then(|| format!("chain {chain}")));
        // What every masquerading pod shares stays.
        let stays = |line: &&String| {
            line.starts_with("type ")
                || line.starts_with("comment ")
                || chain == "inet cni_plugins_masquerade postrouting"
                || chain.contains(" plexus_portmap ")
                || is_shared && line.ends_with(" return")
                || SHARED.iter().any(|shared| line.ends_with(&format!("jump {shared}")) && !line.contains("ifname"))
        };
        left.extend(lines.iter().filter(|line| !stays(line)).map(|line| format!("rule {chain}: {line}")));
    }
    left.extend(elements(bed));
    left
}

pub(crate) fn cases() -> Vec<Case> {
    let both = &[Need::Peers, Need::Nft];
    let mut cases = vec![
        Case::new("nft::go_masquerades_by_iptables_plexus_removes", &[Need::Peers, Need::Nft, Need::Iptables], || {
            go_by_iptables(true)
        }),
        Case::new("nft::and_with_the_namespace_gone", &[Need::Peers, Need::Nft, Need::Iptables], || {
            go_by_iptables(false)
        }),
        Case::new("nft::by_iptables_the_binary_is_executed", &[Need::Peers, Need::Nft, Need::Iptables], executed),
        Case::new("nft::a_table_of_somebody_else_fails_add", &[Need::Nft], refused),
        Case::new("nft::a_link_that_cannot_be_made_leaves_no_rule", &[Need::Nft], no_link),
        Case::new("nft::del_ends_though_somebody_leads_to_its_chain", &[Need::Nft], led_to),
        Case::new("nft::gc_keeps_only_what_is_valid", &[Need::Nft], kept),
        Case::new("nft::collection_without_a_record", &[Need::Peers, Need::Nft], collected),
        Case::new("nft::check_misses_what_is_gone", &[Need::Nft], missed),
        Case::new("nft::checks_of_many_list_once", &[Need::Nft], listed_once),
        Case::new("nft::the_meta_plugin_removes_after_the_namespace", &[Need::Nft], meta),
        Case::new("nft::packets_are_masqueraded", &[Need::Nft, Need::Ping], packets),
        Case::new("nft::a_forged_address_is_dropped", &[Need::Nft, Need::Ping], forged),
    ];
    for kind in ["bridge", "ptp"] {
        let there = move || handed_over(kind, Side::Go, Side::Plexus);
        cases.push(Case::new(format!("nft::{kind}::go_adds_plexus_removes"), both, there));
        let back = move || handed_over(kind, Side::Plexus, Side::Go);
        cases.push(Case::new(format!("nft::{kind}::plexus_adds_go_removes"), both, back));
    }
    cases
}

/// A configuration with all rules that the kind has.
pub(crate) fn conf(kind: &str) -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
    let mut conf = json!({"cniVersion": "1.1.0", "name": "net1", "type": kind, "ipMasq": true, "ipMasqBackend": "nftables",
        "ipam": ipam});
    if kind == "bridge" {
        conf["bridge"] = json!("br0");
        conf["isGateway"] = json!(true);
        conf["macspoofchk"] = json!(true);
    }
    conf
}

fn rules_of_pods(bed: &Testbed) -> usize {
    leftovers(bed).iter().filter(|left| left.starts_with("rule ")).count()
}

/// As a runtime does it: CHECK and DEL get ADD's result.
fn with_result(conf: &Value, result: Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result;
    conf
}

fn handed_over(kind: &str, adds: Side, removes: Side) {
    let bed = Testbed::new();
    bed.pod("a");
    let conf = conf(kind);
    let result = bed.call(adds, kind).command("ADD").pod("a").conf(&conf).run().ok();
    assert_eq!(rules_of_pods(&bed), if kind == "bridge" { 6 } else { 2 });
    let conf = with_result(&conf, result);
    bed.call(removes, kind).command("CHECK").pod("a").conf(&conf).run().ok();
    bed.call(removes, kind).command("DEL").pod("a").conf(&conf).run().ok();
    assert_eq!(leftovers(&bed), Vec::<String>::new());
}

/// Without a backend in the configuration the Go plugin takes iptables.
fn go_by_iptables(with_namespace: bool) {
    let bed = Testbed::new();
    bed.pod("a");
    let mut conf = conf("bridge");
    conf.as_object_mut().unwrap().remove("ipMasqBackend");
    let result = bed.call(Side::Go, "bridge").command("ADD").pod("a").conf(&conf).run().ok();
    let before = leftovers(&bed);
    assert!(before.iter().any(|left| left.starts_with("chain ip nat CNI-")), "{before:?}");
    assert!(before.iter().any(|left| left.starts_with("chain ip6 nat CNI-")), "{before:?}");
    let conf = with_result(&conf, result);
    if with_namespace {
        bed.call(Side::Plexus, "bridge").command("CHECK").pod("a").conf(&conf).run().ok();
    } else {
        bed.lose_pod("a");
    }
    bed.call(Side::Plexus, "bridge").command("DEL").pod("a").conf(&conf).run().ok();
    assert_eq!(leftovers(&bed), Vec::<String>::new());
}

fn executed() {
    let bed = Testbed::new();
    bed.pod("a");
    let mut bridge = conf("bridge");
    bridge["ipMasqBackend"] = json!("iptables");
    let node = json!({"cniVersion": "1.1.0", "name": "node", "type": "plexus-cni", "delegates": [bridge]});
    let alone = bed.call(Side::Plexus, "plexus-cni").command("ADD").pod("a").conf(&node).run();
    assert!(!alone.succeeded());
    let text = alone.json()["msg"].to_string();
    assert!(text.contains("plexus does not build `ipMasqBackend: iptables` yet"), "{text}");
    bed.install(Side::Plexus, "bridge", &crate::call::executable(Side::Go, "bridge"));
    let added = bed.call(Side::Plexus, "plexus-cni").command("ADD").pod("a").conf(&node).run();
    added.ok();
    assert!(added.stderr.contains("bridge is executed: plexus does not build"), "{}", added.stderr);
    let chain = leftovers(&bed).iter().any(|left| left.starts_with("chain ip nat CNI-"));
    assert!(chain, "made by the Go plugin: {:?}", leftovers(&bed));
    bed.call(Side::Plexus, "plexus-cni").command("DEL").pod("a").conf(&node).run().ok();
    assert_eq!(leftovers(&bed), Vec::<String>::new());
}

fn refused() {
    let bed = Testbed::new();
    bed.pod("a");
    let chain = "add table inet cni_plugins_masquerade\n\
        add chain inet cni_plugins_masquerade postrouting { type nat hook postrouting priority 90 ; }";
    bed.tool("nft", &["-f", "-"], chain).unwrap();
    fails_and_leaves_nothing(&bed, "table inet cni_plugins_masquerade, chain postrouting");
}

/// Rules of addresses alone are made beside the link, the others after it.
fn fails_and_leaves_nothing(bed: &Testbed, said: &str) {
    for spoof_check in [true, false] {
        let mut conf = conf("bridge");
        conf["macspoofchk"] = json!(spoof_check);
        let answer = bed.call(Side::Plexus, "bridge").command("ADD").pod("a").conf(&conf).run();
        assert!(!answer.succeeded());
        let text = answer.json()["msg"].to_string();
        assert!(text.contains(said), "{text}");
        assert_eq!(left_beside_bridge(bed), Vec::<String>::new(), "everything is undone");
    }
}

fn left_beside_bridge(bed: &Testbed) -> Vec<String> {
    let left = bed.leftovers().into_iter().filter(|left| left != "link br0");
    left.chain(leftovers(bed)).collect()
}

fn no_link() {
    let bed = Testbed::new();
    bed.pod("a");
    bed.tool("ip", &["link", "add", "br0", "type", "bridge"], "").unwrap();
    bed.tool("ip", &["addr", "add", "10.7.0.1/16", "dev", "br0"], "").unwrap();
    fails_and_leaves_nothing(&bed, "already has an IP address different from");
}

fn missed() {
    for words in ["inet cni_plugins_masquerade masq_checks", "bridge nat PREROUTING"] {
        let bed = Testbed::new();
        bed.pod("a");
        let conf = conf("bridge");
        let result = bed.call(Side::Plexus, "bridge").command("ADD").pod("a").conf(&conf).run().ok();
        let conf = with_result(&conf, result);
        let check = || bed.call(Side::Plexus, "bridge").command("CHECK").pod("a").conf(&conf).run();
        check().ok();
        let words: Vec<&str> = ["flush", "chain"].into_iter().chain(words.split(' ')).collect();
        bed.tool("nft", &words, "").unwrap();
        let answer = check();
        assert!(!answer.succeeded());
        let text = answer.json()["msg"].to_string();
        assert!(text.contains(&format!("table {} {}", words[2], words[3])), "{text}");
    }
}

/// Of what is gone since the first check, the others of the same listing say nothing.
fn listed_once() {
    let bed = Testbed::new();
    let mut addresses = Vec::new();
    for pod in ["a", "b"] {
        bed.pod(pod);
        let call = bed.call(Side::Plexus, "ptp").command("ADD").container(pod).pod(pod).conf(&conf("ptp"));
        let result = call.run().ok();
        let ips = result["ips"].as_array().unwrap();
        addresses.push(ips.iter().map(|ip| ip["address"].as_str().unwrap().parse().unwrap()).collect::<Vec<_>>());
    }
    let check = |listed: &mut Listed, of: usize| {
        let owner = Owner { network: "net1", sandbox: ["a", "b"][of], ifname: "eth0" };
        let subject = Subject { addresses: &addresses[of], port: "", mac: None };
        listed.check(Rules { masquerade: true, spoof_check: false }, &owner, &subject)
    };
    let mut listed = Listed::default();
    check(&mut listed, 0).unwrap();
    bed.tool("nft", &["flush", "chain", "inet", "cni_plugins_masquerade", "masq_checks"], "").unwrap();
    check(&mut listed, 1).unwrap();
    let fresh = check(&mut Listed::default(), 1).unwrap_err();
    assert!(fresh.to_string().contains("0 of 2 masquerade rules"), "{fresh}");
}

/// The Go plugin's pods have no record, and its own GC does nothing: their rules tell whose they are.
fn collected() {
    let bed = Testbed::new();
    let mut conf = conf("ptp");
    conf["ipam"] = json!({"type": "host-local", "subnet": "10.1.0.0/24"});
    for (side, container, pod) in
        [(Side::Go, "c1", "a"), (Side::Go, "c2", "b"), (Side::Plexus, "c3", "c"), (Side::Plexus, "c4", "d")]
    {
        bed.pod(pod);
        bed.call(side, "ptp").command("ADD").container(container).pod(pod).conf(&conf).run().ok();
    }
    conf["cni.dev/valid-attachments"] =
        json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c3", "ifname": "eth0"}]);
    let rules = |container: &str| {
        let whose = format!("id: {container}\"");
        leftovers(&bed).iter().filter(|left| left.contains(&whose)).count()
    };
    for _ in 0..2 {
        bed.call(Side::Plexus, "ptp").command("GC").conf(&conf).run().ok();
        assert_eq!(["c1", "c2", "c3", "c4"].map(rules), [1, 0, 1, 0], "{:?}", leftovers(&bed));
    }
}

/// By the record alone: neither namespace nor link nor configuration says what was added.
fn meta() {
    let bed = Testbed::new();
    bed.pod("a");
    let node = json!({"cniVersion": "1.1.0", "name": "node", "type": "plexus-cni", "delegates": [conf("bridge")]});
    let call = |command: &str| bed.call(Side::Plexus, "plexus-cni").command(command).pod("a").conf(&node);
    let result = call("ADD").run().ok();
    assert_eq!(rules_of_pods(&bed), 6);
    let check = with_result(&node, result);
    call("CHECK").conf(&check).run().ok();
    bed.lose_pod("a");
    call("DEL").env("CNI_NETNS", "").run().ok();
    assert_eq!(leftovers(&bed), Vec::<String>::new());
}

/// The kernel keeps a chain that a rule leads to: it stays, empty, and DEL succeeds.
fn led_to() {
    let bed = Testbed::new();
    let conf = conf("bridge");
    bed.pod("a");
    let call = |command: &str| bed.call(Side::Plexus, "bridge").command(command).pod("a").conf(&conf).run();
    call("ADD").ok();
    let rule = "add rule bridge nat PREROUTING iifname y jump cni-br-iface-c1-eth0";
    bed.tool("nft", &[rule], "").unwrap();
    call("DEL").ok();
    assert_eq!(rules_of_pods(&bed), 1, "somebody else's rule");
    call("DEL").ok();
}

fn kept() {
    let bed = Testbed::new();
    let mut conf = conf("bridge");
    for name in ["a", "b"] {
        bed.pod(name);
        bed.call(Side::Plexus, "bridge").command("ADD").container(name).pod(name).conf(&conf).run().ok();
    }
    assert_eq!(rules_of_pods(&bed), 12);
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
    bed.call(Side::Plexus, "bridge").command("GC").conf(&conf).run().ok();
    assert_eq!(rules_of_pods(&bed), 6);
    assert!(leftovers(&bed).iter().all(|left| !left.contains("-a-eth0") && !left.contains("id: a\"")));
}

/// Runs `ping` in a pod: whether an answer came.
pub(crate) fn pings(bed: &Testbed, pod: &str, address: &str) -> bool {
    let ping = || Command::new("ping").args(["-c1", "-W2", address]).output().unwrap();
    let output = world::inside(Path::new(&bed.netns(pod)), ping);
    bed.note(&format!("ping {address} in {pod}: {}\n", String::from_utf8_lossy(&output.stdout)));
    output.status.success()
}

/// Outside the node is a namespace that knows the node only: without masquerade no answer finds the pod.
fn packets() {
    for kind in ["bridge", "ptp"] {
        for masquerade in [true, false] {
            let bed = Testbed::new();
            bed.pod("a");
            bed.parent("up0");
            for words in [
                "addr add 192.0.2.1/24 dev up0",
                "addr add 2001:db8::1/64 dev up0 nodad",
                "-n wire addr add 192.0.2.2/24 dev up0",
                "-n wire addr add 2001:db8::2/64 dev up0 nodad",
            ] {
                bed.ip(words);
            }
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
            let mut conf = conf(kind);
            conf["ipMasq"] = json!(masquerade);
            bed.call(Side::Plexus, kind).command("ADD").pod("a").conf(&conf).run().ok();
            for address in ["192.0.2.2", "2001:db8::2"] {
                assert_eq!(pings(&bed, "a", address), masquerade, "{kind}, {address}, masquerade {masquerade}");
            }
        }
    }
}

/// A pod that changes its hardware address is heard no more.
fn forged() {
    for checked in [true, false] {
        let bed = Testbed::new();
        bed.pod("a");
        let mut conf = conf("bridge");
        conf["macspoofchk"] = json!(checked);
        bed.call(Side::Plexus, "bridge").command("ADD").pod("a").conf(&conf).run().ok();
        assert!(pings(&bed, "a", "10.1.0.1"), "its own address");
        bed.ip("-n a link set eth0 address 02:00:00:00:aa:aa");
        assert_eq!(pings(&bed, "a", "10.1.0.1"), !checked, "another address, macspoofchk {checked}");
    }
}
