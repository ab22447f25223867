//! Every kind against a real kernel, in namespaces of its own: works as root and as an ordinary user who may make user
//! namespaces. Where none can be made, all tests are listed as ignored, with the reason.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic; clippy does not see that these are tests, for they have a harness of their own"
)]

mod bandwidth;
mod bridge;
mod default_route;
mod firewall;
mod host_device;
mod ipvlan;
mod loopback;
mod macvlan;
mod moved_routes;
mod namespaces;
mod nft;
mod portmap;
mod portmap_interop;
mod portmap_traffic;
mod ptp;
mod removal;
mod routing;
mod sbr;
mod tap;
mod tuning;
mod vlan;
mod vrf;
mod world;

use libtest_mimic::{Arguments, Failed, Trial};
use world::World;

/// A test: its name and what it does in a world of its own.
type Case = (&'static str, fn(&mut World));

fn main() {
    let arguments = Arguments::from_args();
    // Before any thread exists: only a process of one thread may enter a user namespace.
    let obstacle = world::isolate().err();
    let cases = [
        bridge::CASES,
        default_route::CASES,
        &firewall::cases(),
        host_device::CASES,
        ipvlan::CASES,
        loopback::CASES,
        macvlan::CASES,
        moved_routes::CASES,
        namespaces::CASES,
        nft::CASES,
        portmap::CASES,
        portmap_interop::CASES,
        portmap_traffic::CASES,
        ptp::CASES,
        removal::CASES,
        sbr::CASES,
        tap::CASES,
        tuning::CASES,
        vlan::CASES,
        vrf::CASES,
    ];
    let cases = [cases.concat(), bandwidth::cases()];
    let trials = cases.concat().into_iter().map(|(name, run)| {
        let trial = Trial::test(name, move || in_a_world(run));
        match obstacle.clone().or_else(|| lacks(name)) {
            Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
            None => trial,
        }
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// What this kernel does not have of what the case needs.
fn lacks(name: &str) -> Option<String> {
    if name.starts_with("nft::") && std::process::Command::new("nft").arg("-v").output().is_err() {
        return Some("nft (package nftables) is not installed".to_owned());
    }
    if name.contains("::peer_") && !routing::peers().join("sbr").exists() {
        return Some("the reference plugins are not built: run tests/peers/build".to_owned());
    }
    if name.starts_with("nft::go_") && !std::path::Path::new(portmap_interop::PLUGIN).exists() {
        return Some("the reference plugins are not built (tests/peers)".to_owned());
    }
    if name.contains("iptables") && std::process::Command::new("iptables").arg("--version").output().is_err() {
        return Some("iptables is not installed".to_owned());
    }
    if name.starts_with("firewall::")
        && let Some(reason) = firewall::lacks(name)
    {
        return Some(reason);
    }
    if name.starts_with("bandwidth::")
        && let Some(reason) = bandwidth::lacks(name)
    {
        return Some(reason);
    }
    let needs = |prefix: &str| name.starts_with(prefix) || name.contains(&format!("::{prefix}"));
    let (_, words) = vlan::NEEDS.iter().find(|(prefix, _)| needs(prefix))?;
    let tried = std::thread::spawn(move || {
        World::new().lower("x0");
        let words = words.split_whitespace();
        std::process::Command::new("ip").args(words).output().is_ok_and(|output| output.status.success())
    });
    (!tried.join().is_ok_and(|worked| worked)).then(|| format!("not in this kernel: ip {words}"))
}

/// Runs the test in a thread that becomes the host and then ends: no test sees another's links.
fn in_a_world(run: fn(&mut World)) -> Result<(), Failed> {
    let thread = std::thread::spawn(move || run(&mut World::new()));
    thread.join().map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        Failed::from(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_owned()))
    })
}
