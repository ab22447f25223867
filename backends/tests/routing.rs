//! Pods with networks, their rules and routes as text, and the reference plugins beside ours.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backends::chained::Previous;
use backends::{Address, Interface, Pod};

use crate::world::in_pod;

/// One interface of a pod: a pair whose other end is in the pod, too.
pub(crate) struct Link {
    name: String,
    number: u8,
}

impl Link {
    /// `net<number>` with 10.0.<number>.2/24 and fd0<number>::2/64.
    pub(crate) fn numbered(number: u8) -> Self {
        Self { name: format!("net{number}"), number }
    }
}

/// Makes the interface. The kernel would make a link-local address when it finds the carrier, whenever that is.
pub(crate) fn network(pod: &Pod, link: &Link) {
    let Link { name, number } = link;
    for words in [
        format!("link add {name} address 02:00:00:00:00:0{number} type veth peer name {name}-far"),
        format!("link set {name}-far address 02:00:00:00:01:0{number}"),
        format!("link set {name}-far addrgenmode none"),
        format!("link set {name} addrgenmode none"),
        format!("link set {name}-far up"),
        format!("link set {name} up"),
        format!("addr add 10.0.{number}.2/24 dev {name}"),
        format!("-6 addr add fd0{number}::2/64 dev {name} nodad"),
        format!("-6 addr add fe80::{number}/64 dev {name} nodad"),
    ] {
        in_pod(pod, &words);
    }
}

/// The other ends of `net1`, `net2` ... get namespaces of their own, and are up there.
pub(crate) fn give_far_ends(pod: &Pod, routers: &[&Pod]) {
    for (position, router) in routers.iter().enumerate() {
        let (name, path) = (format!("net{}-far", position + 1), path_of(router));
        in_pod(pod, &format!("link set {name} netns {path}"));
        in_pod(router, &format!("link set {name} up"));
    }
}

/// The pod's namespace, as another process finds it.
fn path_of(pod: &Pod) -> String {
    let path = pod.netns().path().display().to_string();
    path.replace("/proc/self/", &format!("/proc/{}/", std::process::id()))
}

/// Waits until somebody waits for the lock of the pod's namespace.
pub(crate) fn until_locked_out(pod: &Pod) {
    let deadline = Instant::now() + Duration::from_secs(ANSWER_S);
    let inode = format!(":{} ", pod.netns().id().1);
    // As /proc/locks says it: "12: -> FLOCK  ADVISORY  WRITE 4711 00:04:4026532256 0 EOF".
    let waits = |line: &str| line.contains("-> FLOCK") && line.contains(&inode);
    while !std::fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
        assert!(Instant::now() < deadline, "nobody waits");
        std::thread::yield_now();
    }
}

/// How long an answer may take, in seconds. Reached only when the test fails.
const ANSWER_S: u64 = 10;

/// Asks for one echo, in the calling thread's namespace.
pub(crate) fn ping(address: &str) {
    let mut ping = Command::new("ping");
    let output = ping.args(["-c", "1", "-W", &ANSWER_S.to_string(), address]).output().unwrap();
    assert!(output.status.success(), "ping {address}: {}", String::from_utf8_lossy(&output.stdout));
}

/// The result of plugins that gave these addresses, each with or without a gateway after a space, to one interface.
pub(crate) fn previous(ifname: &str, addresses: &[&str]) -> Previous {
    let address = |text: &&str| {
        let (address, gateway) = text.split_once(' ').unwrap_or((text, ""));
        let gateway = (!gateway.is_empty()).then(|| gateway.parse().unwrap());
        (Address { address: address.parse().unwrap(), gateway }, Some(0))
    };
    let interface = Interface { name: ifname.to_owned(), in_pod: true, ..Interface::default() };
    Previous { interfaces: vec![interface], addresses: addresses.iter().map(address).collect(), routes: Vec::new() }
}

/// All rules and routes, sorted; a route with several next hops is one line. Without IPv6's local and multicast routes, which the
/// kernel adds when it finds the carrier.
pub(crate) fn snapshot(pod: &Pod) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for words in ["-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all"] {
        for line in in_pod(pod, words).lines() {
            let text = line.split_whitespace().collect::<Vec<_>>().join(" ");
            match lines.last_mut() {
                Some(last) if line.starts_with(char::is_whitespace) => *last = format!("{last} {text}"),
                _ => lines.push(text),
            }
        }
    }
    let is_later = |line: &str| line.contains("::") && (line.starts_with("local ") || line.starts_with("multicast "));
    lines.retain(|line| !is_later(line));
    lines.sort();
    lines
}

/// A call of a reference plugin.
pub(crate) struct Plugin<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) ifname: &'a str,
    /// Its configuration's own keys.
    pub(crate) text: &'a str,
    pub(crate) addresses: &'a [&'a str],
}

/// Where the reference plugins are built.
pub(crate) fn peers() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")), PathBuf::from);
    target.join("peers")
}

/// Calls a reference plugin. Its message if it fails.
pub(crate) fn peer_plugin(name: &str, call: &Plugin<'_>, command: &str) -> Result<(), String> {
    let ip = |address: &&str| {
        let (address, gateway) = address.split_once(' ').unwrap_or((address, ""));
        let gateway = if gateway.is_empty() { String::new() } else { format!(r#","gateway":"{gateway}""#) };
        format!(r#"{{"address":"{address}"{gateway},"interface":0}}"#)
    };
    let ips: Vec<_> = call.addresses.iter().map(ip).collect();
    let own = call.text.trim_start_matches('{').trim_end_matches('}');
    let comma = if own.is_empty() { "" } else { "," };
    let conf = format!(
        r#"{{"cniVersion":"1.0.0","name":"net","type":"{name}"{comma}{own},"prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"{}","sandbox":"x"}}],"ips":[{}]}}}}"#,
        call.ifname,
        ips.join(",")
    );
    let mut plugin = Command::new(peers().join(name));
    plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", "sandbox").env("CNI_IFNAME", call.ifname);
    plugin.env("CNI_NETNS", path_of(call.pod));
    plugin.env("CNI_PATH", peers()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = plugin.spawn().unwrap();
    child.stdin.take().unwrap().write_all(conf.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
}
