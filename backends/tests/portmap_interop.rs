//! Mapped ports of the reference plugin, and this crate's for it: what one adds the other checks and removes.

use std::io::Write;
use std::process::{Command, Stdio};

use backends::chained::portmap::{add, check, remove};
use backends::nft::{Filter, Owner};
use serde_json::{Value, json};

use crate::Case;
use crate::portmap::{ADDRESSES, nft, previous, spec};
use crate::world::{World, in_pod};

pub(crate) const CASES: &[Case] = &[
    ("nft::go_portmap_by_nftables_is_checked_and_removed", by_nftables_is_checked_and_removed),
    ("nft::go_portmap_by_iptables_is_checked_and_removed", by_iptables_is_checked_and_removed),
    ("nft::go_portmap_of_another_network_stays", of_another_network_stays),
    ("nft::go_portmap_removes_and_checks_the_compatible_layout", removes_and_checks_the_compatible_layout),
];

/// The reference plugin, where it was built.
pub(crate) const PLUGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers/portmap");

const ONE: Owner<'_> = Owner { network: "lab", sandbox: "c1", ifname: "eth0" };
const MAPPINGS: &str = r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp"},
    {"hostPort":53,"containerPort":5353,"protocol":"udp","hostIP":"192.0.2.1"},
    {"hostPort":54,"containerPort":5353,"protocol":"sctp","hostIP":"::"}"#;

/// Runs the reference plugin on this host, for a pod.
fn go(world: &mut World, command: &str, owner: &Owner<'_>, mappings: &str, more: &Value) -> Result<(), String> {
    let pod = world.pod();
    in_pod(&pod, "link show");
    let netns = pod.netns().path().display().to_string().replace("self", &std::process::id().to_string());
    let mappings: Value = serde_json::from_str(&format!("[{mappings}]")).unwrap();
    let mut conf = json!({
        "cniVersion": "1.0.0", "name": owner.network, "type": "portmap",
        "runtimeConfig": {"portMappings": mappings},
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": owner.ifname, "sandbox": netns}],
            "ips": ADDRESSES.map(|address| json!({"address": address, "interface": 0})),
        },
    });
    conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let environment = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", owner.sandbox),
        ("CNI_NETNS", &netns),
        ("CNI_IFNAME", owner.ifname),
        ("CNI_PATH", "/nowhere"),
    ];
    let plugin = Command::new(PLUGIN).envs(environment).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut plugin = plugin.unwrap();
    plugin.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    let output = plugin.wait_with_output().unwrap();
    let said = || String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(()) } else { Err(said()) }
}

/// The ruleset's rules that are about the pod.
fn of_pod() -> Vec<String> {
    let text = nft("list ruleset");
    let is_of_pod = |line: &&str| ["10.1.0.5", "fd00:1::5", "CNI-DN"].iter().any(|word| line.contains(word));
    text.lines().filter(is_of_pod).map(|line| line.trim().to_owned()).collect()
}

fn by_nftables_is_checked_and_removed(world: &mut World) {
    let mut filter = Filter::open().unwrap();
    let (backend, spec) = (json!({"backend": "nftables"}), spec(MAPPINGS, ""));
    for known in [Some(&spec), None] {
        go(world, "ADD", &ONE, MAPPINGS, &backend).unwrap();
        assert_eq!(of_pod().len(), 7);
        check(&mut filter, &spec, &ONE, &previous(&ADDRESSES)).unwrap();
        check(&mut filter, &spec, &ONE, &previous(&["10.1.0.6/24"])).unwrap_err();
        remove(&mut filter, known, &ONE).unwrap();
        assert_eq!(of_pod(), Vec::<String>::new());
        check(&mut filter, &spec, &ONE, &previous(&ADDRESSES)).unwrap_err();
        go(world, "DEL", &ONE, MAPPINGS, &backend).unwrap();
    }
}

fn by_iptables_is_checked_and_removed(world: &mut World) {
    let mut filter = Filter::open().unwrap();
    let (backend, spec) = (json!({"backend": "iptables"}), spec(MAPPINGS, ""));
    for known in [Some(&spec), None] {
        go(world, "ADD", &ONE, MAPPINGS, &backend).unwrap();
        assert!(of_pod().len() > 7, "{:?}", of_pod());
        check(&mut filter, &spec, &ONE, &previous(&ADDRESSES)).unwrap();
        remove(&mut filter, known, &ONE).unwrap();
        assert_eq!(of_pod(), Vec::<String>::new());
        check(&mut filter, &spec, &ONE, &previous(&ADDRESSES)).unwrap_err();
        go(world, "DEL", &ONE, MAPPINGS, &backend).unwrap();
    }
}

/// The reference plugin's DEL of one network removes the container's mappings of all.
fn of_another_network_stays(world: &mut World) {
    let mut filter = Filter::open().unwrap();
    let backend = json!({"backend": "nftables"});
    let other = Owner { network: "other", ifname: "net1", ..ONE };
    let others = r#"{"hostPort":8081,"containerPort":81,"protocol":"tcp"}"#;
    go(world, "ADD", &ONE, MAPPINGS, &backend).unwrap();
    go(world, "ADD", &other, others, &backend).unwrap();
    remove(&mut filter, Some(&spec(MAPPINGS, "")), &ONE).unwrap();
    let left = of_pod();
    assert_eq!(left.iter().filter(|line| line.contains("dport 8081 dnat")).count(), 2);
    assert!(left.iter().all(|line| line.contains("8081") || line.contains("masquerade")), "{left:?}");
    remove(&mut filter, Some(&spec(others, "")), &other).unwrap();
    assert_eq!(of_pod(), Vec::<String>::new());
}

/// The release that is there does not know masqAll with nftables: its rules are as without.
fn without_masq_all(ruleset: &str) -> String {
    let lines = ruleset.lines().filter(|line| !line.trim().starts_with("ip daddr 10.1.0.5 masquerade"));
    lines
        .filter(|line| !line.trim().starts_with("ip6 daddr fd00:1::5 masquerade"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// What each rule is made of.
fn expressions(listing: &str) -> Vec<String> {
    listing.lines().filter(|line| line.starts_with("  [")).map(str::to_owned).collect()
}

fn removes_and_checks_the_compatible_layout(world: &mut World) {
    let mut filter = Filter::open().unwrap();
    for more in ["", r#","masqAll":true"#, r#","snat":false"#] {
        let keys: Value = serde_json::from_str(&format!(r#"{{"backend":"nftables"{more}}}"#)).unwrap();
        let spec = spec(MAPPINGS, &format!(r#"{more},"layout":"compatible""#));
        go(world, "ADD", &ONE, MAPPINGS, &keys).unwrap();
        let wanted = nft("list ruleset");
        let in_detail = nft("--debug=netlink list ruleset");
        nft("flush ruleset");
        for _ in 0..2 {
            add(&mut world.host, &mut filter, &spec, &ONE, &previous(&ADDRESSES)).unwrap();
            assert_eq!(without_masq_all(&nft("list ruleset")), wanted);
        }
        if !more.contains("masqAll") {
            assert_eq!(expressions(&nft("--debug=netlink list ruleset")), expressions(&in_detail));
        }
        go(world, "CHECK", &ONE, MAPPINGS, &keys).unwrap();
        check(&mut filter, &spec, &ONE, &previous(&ADDRESSES)).unwrap();
        go(world, "DEL", &ONE, MAPPINGS, &keys).unwrap();
        assert_eq!(of_pod(), Vec::<String>::new());
        // Another layout, another target: the container's own rule is replaced, another one's is named.
        add(&mut world.host, &mut filter, &spec, &ONE, &previous(&ADDRESSES)).unwrap();
        add(&mut world.host, &mut filter, &spec, &ONE, &previous(&["10.1.0.9/24", "fd00:1::9/64"])).unwrap();
        assert!(of_pod().iter().all(|line| !line.contains("dnat")), "{:?}", of_pod());
        let two = Owner { sandbox: "c2", ..ONE };
        let error = add(&mut world.host, &mut filter, &spec, &two, &previous(&ADDRESSES)).unwrap_err();
        let text =
            "host port 8080/tcp is taken: it leads to container c1; choose another host port or remove that container";
        assert_eq!(error.chain(), text);
        remove(&mut filter, Some(&spec), &ONE).unwrap();
        assert!(!nft("list ruleset").contains("comment \"c1\""));
        nft("flush ruleset");
    }
}
