//! Beside the reference plugin: what one made the other finds, checks and removes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backends::Pod;
use backends::chained::Previous;
use backends::chained::bandwidth::remove;
use backends::nft::Owner;
use serde_json::{Value, json};

use super::{
    BOTH, EGRESS, ETH0, INGRESS, SHARED, added, checked, host_bucket, host_ifbs, pair, path_of, redirections, spec, tc,
    towards,
};
use crate::Case;
use crate::world::{World, ip};

pub(crate) const CASES: &[Case] = &[
    ("bandwidth::peer::its_bucket_is_ours", its_bucket_is_ours),
    ("bandwidth::peer::buckets_are_the_same", buckets_are_the_same),
    ("bandwidth::peer::redirected::what_it_made_is_removed", what_it_made_is_removed),
    ("bandwidth::peer::redirected::it_finds_and_removes_ours", it_finds_and_removes_ours),
    ("bandwidth::peer::redirected::its_ifb_of_another_interface_stays", its_ifb_of_another_interface_stays),
];

/// Where the Go plugin is.
pub(super) fn path() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or(target, PathBuf::from).join("peers/bandwidth")
}

/// Runs the Go plugin; what it printed, or its message.
fn go(command: &str, limits: &str, pod: &Pod, ifname: &str, previous: &Previous) -> Result<Value, String> {
    let interface = |interface: &backends::Interface| {
        let sandbox = if interface.in_pod { path_of(pod) } else { String::new() };
        json!({"name": interface.name, "mac": interface.mac, "sandbox": sandbox})
    };
    let interfaces: Vec<Value> = previous.interfaces.iter().map(interface).collect();
    let mut conf: Value = serde_json::from_str(limits).unwrap();
    conf["cniVersion"] = json!("1.0.0");
    conf["name"] = json!("lab");
    conf["type"] = json!("bandwidth");
    conf["prevResult"] = json!({"cniVersion": "1.0.0", "interfaces": interfaces});
    let mut child = Command::new(path())
        .env_clear()
        .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", ifname), ("CNI_PATH", "/")])
        .env("CNI_NETNS", path_of(pod))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if output.status.success() { Ok(printed) } else { Err(printed["msg"].to_string()) }
}

fn its_bucket_is_ours(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    go("ADD", INGRESS, &pod, "eth0", &previous).unwrap();
    assert_eq!(host_bucket(&host), towards());
    assert_eq!(checked(world, &mut pod, &spec(INGRESS), &previous), "");
    assert!(go("ADD", INGRESS, &pod, "eth0", &previous).unwrap_err().contains("file exists"));
    assert_eq!(added(world, &mut pod, &spec(INGRESS), &ETH0, &previous).unwrap(), None, "ours replaces");
    remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
    assert_eq!(host_bucket(&host), None);
}

/// Also where the burst takes longer than a number of the kernel's can say.
fn buckets_are_the_same(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    for (rate, burst) in [
        (8_000_000_u64, 800_000_u64),
        (1_000_000, 4_294_967_295),
        (10_000_000, 4_294_967_295),
        (15_000_000, 2_147_483_647),
        (12_345_678, 7_654_321),
        (40_000_000_000, 80_000_000),
    ] {
        let limits = json!({"ingressRate": rate, "ingressBurst": burst}).to_string();
        let listed = || tc(&format!("-j qdisc show dev {host} root"));
        go("ADD", &limits, &pod, "eth0", &previous).unwrap();
        let theirs = listed();
        assert_eq!(checked(world, &mut pod, &spec(&limits), &previous), "", "{limits}");
        tc(&format!("qdisc del dev {host} root"));
        added(world, &mut pod, &spec(&limits), &ETH0, &previous).unwrap();
        if cfg!(target_arch = "x86_64") {
            assert_eq!(listed(), theirs, "{limits}");
            go("CHECK", &limits, &pod, "eth0", &previous).unwrap();
        }
        tc(&format!("qdisc del dev {host} root"));
    }
}

fn what_it_made_is_removed(world: &mut World) {
    for namespace_lives in [true, false] {
        let mut pod = world.pod();
        let (host, previous) = pair(world, &mut pod, "eth0");
        let result = go("ADD", BOTH, &pod, "eth0", &previous).unwrap();
        assert_eq!(result["interfaces"][2]["name"], SHARED);
        assert_eq!(checked(world, &mut pod, &spec(BOTH), &previous), "");
        assert_eq!(redirections(&host), [(1, SHARED.to_owned())]);
        if namespace_lives {
            // ADD again, by us, takes it over.
            let ifb = added(world, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap().unwrap();
            assert_eq!((ifb.name.as_str(), redirections(&host)), (SHARED, vec![(65_520, SHARED.to_owned())]));
            assert_eq!(host_ifbs(), [(SHARED.to_owned(), "plexus:bandwidth:lab:c1:eth0".to_owned())]);
            remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
            tc(&format!("qdisc del dev {host} ingress"));
            go("ADD", BOTH, &pod, "eth0", &previous).unwrap();
            remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
            assert_eq!((host_bucket(&host), redirections(&host)), (None, vec![]));
        } else {
            ip(&format!("link del {host}"));
            remove(&mut world.host, None, &ETH0, None).unwrap();
        }
        assert_eq!(host_ifbs(), []);
        if namespace_lives {
            ip(&format!("link del {host}"));
        }
    }
}

fn it_finds_and_removes_ours(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    added(world, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap();
    go("CHECK", BOTH, &pod, "eth0", &previous).unwrap();
    let other = BOTH.replace("400000}", "400008}");
    assert!(go("CHECK", &other, &pod, "eth0", &previous).unwrap_err().contains("Limit doesn't match"));
    go("DEL", BOTH, &pod, "eth0", &previous).unwrap();
    assert_eq!(host_ifbs(), []);
    remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
    assert_eq!((host_bucket(&host), tc(&format!("filter show dev {host} ingress"))), (None, String::new()));
}

fn its_ifb_of_another_interface_stays(world: &mut World) {
    let mut pod = world.pod();
    let net1 = Owner { ifname: "net1", ..ETH0 };
    let (_, previous0) = pair(world, &mut pod, "eth0");
    let (_, previous1) = pair(world, &mut pod, "net1");
    go("ADD", EGRESS, &pod, "eth0", &previous0).unwrap();
    let ours = added(world, &mut pod, &spec(EGRESS), &net1, &previous1).unwrap().unwrap().name;
    assert_ne!(ours, SHARED);
    for _ in 0..2 {
        remove(&mut world.host, Some(&mut pod), &net1, None).unwrap();
        assert_eq!(host_ifbs(), [(SHARED.to_owned(), String::new())]);
    }
    go("CHECK", EGRESS, &pod, "eth0", &previous0).unwrap();
    remove(&mut world.host, None, &net1, None).unwrap();
    assert_eq!(host_ifbs(), [], "without its namespace nothing needs it");
}
