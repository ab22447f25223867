//! Limits of a pod's rate: what the kernel has of them, in `tc`'s words, what passes, and the reference plugin beside this one.

mod inside;
mod pair;
mod peer;
mod redirected;
mod traffic;

use std::process::Command;

use backends::chained::Previous;
use backends::chained::bandwidth::{Conf, Spec, add, check, look};
use backends::nft::Owner;
use backends::{Error, Interface, Pod, build, ptp};
use serde_json::Value;

use crate::Case;
use crate::world::{World, conf, in_pod, ip, layer3, target};

pub(crate) fn cases() -> Vec<Case> {
    [pair::CASES, redirected::CASES, inside::CASES, peer::CASES, traffic::CASES].concat()
}

/// What this kernel or machine does not have of what the case needs: filters of traffic, or the reference plugin.
pub(crate) fn lacks(name: &str) -> Option<String> {
    if Command::new("tc").arg("-V").output().is_err() {
        return Some("tc (package iproute2) is not installed".to_owned());
    }
    if name.contains("::peer::") && !peer::path().exists() {
        return Some(format!("the Go plugins are not built: tests/peers/build ({})", peer::path().display()));
    }
    name.contains("redirected").then(filters_lack)?
}

fn filters_lack() -> Option<String> {
    const FILTER: &str =
        "filter add dev x0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev x1";
    let tried = std::thread::spawn(|| {
        let _world = World::new();
        ip("link add x0 type veth peer name x1");
        tc("qdisc add dev x0 clsact");
        Command::new("tc").args(FILTER.split_whitespace()).output().is_ok_and(|output| output.status.success())
    });
    (!tried.join().is_ok_and(|worked| worked)).then(|| format!("not in this kernel: tc {FILTER}"))
}

const ETH0: Owner<'_> = Owner { network: "lab", sandbox: "c1", ifname: "eth0" };
/// 8 Mbit/s and 100,000 bytes towards the pod, half of both from it.
const BOTH: &str = r#"{"ingressRate":8000000,"ingressBurst":800000,"egressRate":4000000,"egressBurst":400000}"#;
const INGRESS: &str = r#"{"ingressRate":8000000,"ingressBurst":800000}"#;
const EGRESS: &str = r#"{"egressRate":4000000,"egressBurst":400000}"#;
/// The name that the reference plugin gives to the ifb of every interface of [`ETH0`]'s container.
const SHARED: &str = "bwp7938659e6819";

fn spec(text: &str) -> Spec {
    conf::<Conf>(text).validate().unwrap()
}

/// Runs `tc` in the calling thread's namespace.
fn tc(arguments: &str) -> String {
    let output = Command::new("tc").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn tc_in(pod: &Pod, arguments: &str) -> String {
    pod.netns().run(|| tc(arguments)).unwrap()
}

/// The pod's namespace as another process sees it.
fn path_of(pod: &Pod) -> String {
    pod.netns().path().to_str().unwrap().replace("self", &std::process::id().to_string())
}

/// The token bucket of a link: its handle, rate in bytes, burst in bytes, latency in us.
fn bucket(listing: &str) -> Option<(String, u64, u64, u64)> {
    let listed: Vec<Value> = serde_json::from_str(listing).unwrap();
    let tbf = listed.into_iter().find(|qdisc| qdisc["kind"] == "tbf")?;
    let number = |key: &str| tbf["options"][key].as_u64().unwrap();
    Some((tbf["handle"].as_str().unwrap().to_owned(), number("rate"), number("burst"), number("lat")))
}

fn host_bucket(link: &str) -> Option<(String, u64, u64, u64)> {
    bucket(&tc(&format!("-j qdisc show dev {link}")))
}

fn pod_bucket(pod: &Pod, link: &str) -> Option<(String, u64, u64, u64)> {
    bucket(&tc_in(pod, &format!("-j qdisc show dev {link}")))
}

/// What [`BOTH`] says, as `tc` tells it.
fn towards() -> Option<(String, u64, u64, u64)> {
    Some(("1:".to_owned(), 1_000_000, 100_000, 25_000))
}

fn from() -> Option<(String, u64, u64, u64)> {
    Some(("1:".to_owned(), 500_000, 50_000, 25_000))
}

/// The redirections of what a link of the host receives: priority and target of each.
fn redirections(link: &str) -> Vec<(u64, String)> {
    of_filters(&tc(&format!("-j filter show dev {link} ingress")))
}

fn of_filters(listing: &str) -> Vec<(u64, String)> {
    let listed: Vec<Value> = serde_json::from_str(listing).unwrap();
    let of = |filter: &Value| {
        let target = filter["options"]["actions"][0]["to_dev"].as_str()?.to_owned();
        Some((filter["pref"].as_u64().unwrap(), target))
    };
    listed.iter().filter_map(of).collect()
}

/// A pair between host and pod, and what a result says of it. The host is 10.9.0.1, the pod 10.9.0.2.
fn pair(world: &mut World, pod: &mut Pod, ifname: &str) -> (String, Previous) {
    let ptp = backends::Spec::Ptp(conf::<ptp::Conf>("{}").validate().unwrap());
    let resolved = ptp.resolve(&mut world.host, Some(pod)).unwrap();
    let l3 = layer3(&["10.9.0.2/24 10.9.0.1"], &[]);
    let built = build(&mut world.host, pod, &resolved, &target(ifname), l3).unwrap();
    let host = built.interfaces.iter().find(|interface| !interface.in_pod).unwrap().name.clone();
    (host, Previous { interfaces: built.interfaces, ..Previous::default() })
}

fn added(
    world: &mut World,
    pod: &mut Pod,
    spec: &Spec,
    owner: &Owner<'_>,
    previous: &Previous,
) -> Result<Option<Interface>, Error> {
    let place = look(&mut world.host, pod, spec, owner, previous)?;
    add(&mut world.host, pod, spec, &place, owner, None)
}

/// What CHECK says; empty if all is there.
fn checked(world: &mut World, pod: &mut Pod, spec: &Spec, previous: &Previous) -> String {
    check(&mut world.host, pod, spec, &ETH0, previous).map_or_else(|e| e.chain(), |()| String::new())
}

/// The names and aliases of all ifbs in a listing of links.
fn ifbs_of(listing: &str) -> Vec<(String, String)> {
    let listed: Vec<Value> = serde_json::from_str(listing).unwrap();
    let text = |link: &Value, key: &str| link[key].as_str().unwrap_or_default().to_owned();
    listed
        .iter()
        .map(|link| (text(link, "ifname"), text(link, "ifalias")))
        .filter(|(name, _)| !name.is_empty())
        .collect()
}

fn host_ifbs() -> Vec<(String, String)> {
    ifbs_of(&ip("-j link show type ifb"))
}

fn pod_ifbs(pod: &Pod) -> Vec<(String, String)> {
    ifbs_of(&in_pod(pod, "-j link show type ifb"))
}
