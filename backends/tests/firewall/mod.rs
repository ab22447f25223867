//! The firewall's rules in iptables' own tables, beside `iptables` and the reference plugin.

mod beside;
mod detect;
mod isolation;
mod rules;
mod traffic;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use backends::chained::Previous;
use backends::chained::firewall::{self, Conf, Handles, Resolved, add, remove};
use backends::nft::{Filter, Listed, Owner};
use backends::{Address, Error, Host, Interface, Pod};

use crate::Case;
use crate::world::conf;

/// CHECK of one owner.
fn check(owner: &Owner<'_>, resolved: &Resolved) -> Result<(), Error> {
    firewall::check(&mut Listed::default(), owner, resolved)
}

pub(crate) fn cases() -> Vec<Case> {
    [beside::CASES, detect::CASES, isolation::CASES, rules::CASES, traffic::CASES].concat()
}

const ONE: Owner<'_> = Owner { network: "lab", sandbox: "c1", ifname: "eth0" };
const TWO: Owner<'_> = Owner { sandbox: "c2", ..ONE };
const BOTH_FAMILIES: &[&str] = &["10.1.0.2/24", "fd00:1::2/64"];

/// The reference plugin.
fn peer() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers/firewall"))
}

/// What is not installed of what these cases need.
pub(crate) fn lacks(name: &str) -> Option<String> {
    let is_there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let wanted = if name.contains("bus") { &["iptables", "dbus-daemon"][..] } else { &["iptables"] };
    if let Some(missing) = wanted.iter().find(|program| !is_there(program)) {
        return Some(format!("{missing} is not installed"));
    }
    let needs_peer = name.contains("peer") && !peer().exists();
    needs_peer.then(|| "the reference firewall plugin is not in target/peers: tests/run peers".to_owned())
}

/// Runs a program in the calling thread's namespace: whether it succeeded, and what it said.
fn run(program: &str, arguments: &str) -> (bool, String) {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// As [`run`], and it succeeds.
fn done(program: &str, arguments: &str) -> String {
    let (success, text) = run(program, arguments);
    assert!(success, "{program} {arguments}: {text}");
    text
}

/// The table of both families as iptables saves it, without numbers and times.
fn saved() -> Vec<String> {
    let programs = ["iptables-save", "ip6tables-save"].into_iter();
    let texts: String = programs.map(|program| done(program, "-t filter")).collect();
    assert!(!texts.contains("ncompatible"), "{texts}");
    texts.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// The lines of [`saved`] with this word.
fn lines(word: &str) -> Vec<String> {
    saved().into_iter().filter(|line| line.contains(word)).collect()
}

fn interface(name: &str, in_pod: bool) -> Interface {
    Interface { name: name.to_owned(), in_pod, ..Interface::default() }
}

/// A result of the kind bridge.
fn previous(bridge: &str, port: &str, addresses: &[&str]) -> Previous {
    let address = |text: &&str| (Address { address: text.parse().unwrap(), gateway: None }, Some(2));
    Previous {
        interfaces: vec![interface(bridge, false), interface(port, false), interface("eth0", true)],
        addresses: addresses.iter().map(address).collect(),
        routes: Vec::new(),
    }
}

fn resolved(text: &str, previous: &Previous) -> Resolved {
    conf::<Conf>(text).validate().unwrap().resolve(previous).unwrap()
}

/// With no policy.
fn plain(addresses: &[&str]) -> Resolved {
    resolved("{}", &previous("br0", "veth0", addresses))
}

fn added(owner: &Owner<'_>, resolved: &Resolved) -> Result<Handles, Error> {
    add(&mut Filter::open().unwrap(), owner, resolved)
}

fn removed(host: &mut Host, owner: &Owner<'_>, resolved: Option<&Resolved>) {
    remove(host, &mut Filter::open().unwrap(), owner, resolved, None).unwrap();
}

fn mismatch(owner: &Owner<'_>, resolved: &Resolved) -> String {
    check(owner, resolved).unwrap_err().chain()
}

/// Executes the reference plugin: its complaint if it fails.
fn execute(command: &str, pod: &Pod, sandbox: &str, keys: &str, previous: &Previous) -> Result<(), String> {
    let interfaces: Vec<_> = previous
        .interfaces
        .iter()
        .map(|interface| match interface.in_pod {
            true => serde_json::json!({"name": interface.name, "sandbox": "/pod"}),
            false => serde_json::json!({"name": interface.name}),
        })
        .collect();
    let ips =
        previous.addresses.iter().map(|(address, _)| serde_json::json!({"address": address.address, "interface": 2}));
    let mut text: serde_json::Value = conf(keys);
    text["cniVersion"] = "1.0.0".into();
    text["name"] = "lab".into();
    text["type"] = "firewall".into();
    text["prevResult"] =
        serde_json::json!({"cniVersion": "1.0.0", "interfaces": interfaces, "ips": ips.collect::<Vec<_>>()});
    let netns = pod.netns().path().to_str().unwrap().replace("self", &std::process::id().to_string());
    let mut child = Command::new(peer())
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", sandbox)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", peer().parent().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    Err(error["msg"].as_str().unwrap().to_owned())
}
