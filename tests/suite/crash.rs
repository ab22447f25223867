//! kill -9 at any instant: afterwards a runtime's DEL and GC leave nothing, whatever the plugin was doing. And of the runtime:
//! an ADD whose result nobody can read leaves nothing by itself.

use std::process::Child;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::call::{Call, Side};
use crate::case::Case;
use crate::chains;
use crate::need::Need;
use crate::nft;
use crate::testbed::Testbed;

/// How many cycles instead of [`CYCLES`]; 500 is the long run.
pub(crate) const CYCLES_VARIABLE: &str = "PLEXUS_CRASH_CYCLES";
const CYCLES: u64 = 60;
/// The seed of an earlier run, to repeat its instants (not the kernel's timing).
pub(crate) const SEED_VARIABLE: &str = "PLEXUS_CRASH_SEED";

pub(crate) fn cases() -> Vec<Case> {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]});
    let bridge = json!({"cniVersion": "1.1.0", "name": "net1", "type": "bridge", "bridge": "br0", "isGateway": true, "forceAddress": true, "ipam": ipam});
    let mut macvlan = json!({"cniVersion": "1.1.0", "name": "net1", "type": "macvlan", "master": "up0", "ipam": ipam});
    let ptp = json!({"cniVersion": "1.1.0", "name": "net1", "type": "ptp", "ipam": ipam});
    let delegates = json!({"cniVersion": "1.1.0", "name": "node", "type": "plexus-cni", "delegates": [bridge]});
    let mut ipvlan = macvlan.clone();
    ipvlan["type"] = json!("ipvlan");
    let mut vlan = macvlan.clone();
    vlan["type"] = json!("vlan");
    vlan["vlanId"] = json!(5);
    let dummy = json!({"cniVersion": "1.1.0", "name": "net1", "type": "dummy", "ipam": ipam});
    let tap = json!({"cniVersion": "1.1.0", "name": "net1", "type": "tap", "ipam": ipam});
    let device = json!({"cniVersion": "1.1.0", "name": "net1", "type": "host-device", "device": "up0", "ipam": ipam});
    macvlan["mode"] = json!("bridge");
    let kinds = vec![
        case("bridge", &[], "bridge", bridge),
        case("packet_filter", &[Need::Nft], "bridge", nft::conf("bridge")),
        case("ptp", &[], "ptp", ptp),
        case("macvlan", &[Need::Macvlan], "macvlan", macvlan),
        case("ipvlan", &[Need::Ipvlan], "ipvlan", ipvlan),
        case("vlan", &[Need::Vlan], "vlan", vlan),
        case("dummy", &[Need::Dummy], "dummy", dummy),
        case("tap", &[Need::Tap], "tap", tap),
        case("host_device", &[], "host-device", device),
        case("meta_plugin", &[], "plexus-cni", delegates),
        case("chain", &[Need::Nft, Need::Iptables], "plexus-cni", chains::node_chain()),
    ];
    kinds.into_iter().flatten().collect()
}

fn case(name: &str, needs: &[Need], program: &'static str, conf: Value) -> [Case; 2] {
    let unheard = conf.clone();
    [
        Case::new(format!("crash::{name}"), needs, move || cycles(program, &conf)),
        Case::new(format!("crash::{name}_unheard"), needs, move || nobody_hears(program, &unheard)),
    ]
}

/// The runtime was killed while ADD worked, and no DEL ever comes.
fn nobody_hears(program: &str, conf: &Value) {
    let bed = Testbed::new();
    bed.parent("up0");
    bed.pod("a");
    assert_eq!(call(&bed, program, conf, 0, "ADD").run_unheard(), Some(1));
    assert_eq!(left_over(&bed), Vec::<String>::new(), "left over after an ADD that nobody heard of");
    assert!(bed.links("").iter().any(|link| link == "up0"), "the host has its device back");
}

/// What stays for good. The kernel takes a lost namespace apart on its own time: looked at until it has, a bounded number of times.
fn left_over(bed: &Testbed) -> Vec<String> {
    let look = || -> Vec<String> { bed.leftovers().into_iter().filter(|left| left != "link br0").collect() };
    (0..LOOKS_MAX).map(|_| look()).find(Vec::is_empty).unwrap_or_else(look)
}

/// What is killed in a cycle, and what the runtime does then.
#[derive(Debug, Clone, Copy)]
enum Cycle {
    /// ADD is killed; DEL with the namespace.
    Add,
    /// ADD is killed and the namespace vanishes; DEL without one.
    AddAndNamespace,
    /// ADD ends, DEL is killed; DEL again.
    Del,
    /// As before, with a namespace that vanishes in between.
    DelAndNamespace,
}

/// How often left-overs are looked for before they count: some 5 ms each.
const LOOKS_MAX: u32 = 100;

/// How long the kernel may take to remove the links of a lost namespace, behind those of other cases.
const GONE_LIMIT: Duration = Duration::from_secs(30);

const KINDS: [Cycle; 4] = [Cycle::Add, Cycle::AddAndNamespace, Cycle::Del, Cycle::DelAndNamespace];

pub(crate) fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn cycles(program: &str, conf: &Value) {
    let bed = Testbed::new();
    bed.parent("up0");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = variable(SEED_VARIABLE).unwrap_or_else(|| u64::from(now));
    let mut random = Random(seed | 1);
    // The slowest of a few undisturbed runs: instants are spread over it.
    let mut usual = (0..3).map(|number| undisturbed(&bed, program, conf, number)).max().unwrap();
    usual += usual / 4;
    for number in 0..variable(CYCLES_VARIABLE).unwrap_or(CYCLES) {
        let cycle = KINDS[usize::try_from(number).unwrap() % KINDS.len()];
        let delay = usual.mul_f64(random.share());
        bed.note(&format!("cycle {number}: {cycle:?}, killed after {delay:?} ({SEED_VARIABLE}={seed})\n"));
        one(&bed, program, conf, number, cycle, delay);
        keep_parent(&bed, cycle);
        let left = left_over(&bed);
        assert_eq!(left, Vec::<String>::new(), "left over after cycle {number}, {cycle:?}, {SEED_VARIABLE}={seed}");
    }
}

/// Whatever was killed, the host has its device back under its name; unless it vanished with a namespace, as a virtual one does.
fn keep_parent(bed: &Testbed, cycle: Cycle) {
    let is_there = |place: &str| bed.links(place).iter().any(|link| link == "up0");
    if is_there("") {
        return;
    }
    assert!(matches!(cycle, Cycle::AddAndNamespace | Cycle::DelAndNamespace), "the device is lost after {cycle:?}");
    let deadline = Instant::now() + GONE_LIMIT;
    while is_there("wire") {
        assert!(Instant::now() < deadline, "the kernel keeps the other end of a device that is gone");
    }
    bed.parent("up0");
}

fn call<'bed>(bed: &'bed Testbed, program: &str, conf: &Value, number: u64, command: &str) -> Call<'bed> {
    bed.call(Side::Plexus, program).command(command).container(&format!("c{number}")).pod("a").conf(conf)
}

fn undisturbed(bed: &Testbed, program: &str, conf: &Value, number: u64) -> Duration {
    bed.pod("a");
    let start = Instant::now();
    call(bed, program, conf, number, "ADD").run().ok();
    let took = start.elapsed();
    call(bed, program, conf, number, "DEL").run().ok();
    bed.ip("link set up0 up");
    bed.lose_pod("a");
    took
}

fn one(bed: &Testbed, program: &str, conf: &Value, number: u64, cycle: Cycle, delay: Duration) {
    bed.pod("a");
    let killed = match cycle {
        Cycle::Add | Cycle::AddAndNamespace => "ADD",
        Cycle::Del | Cycle::DelAndNamespace => {
            call(bed, program, conf, number, "ADD").run().ok();
            "DEL"
        }
    };
    kill_after(call(bed, program, conf, number, killed).start(), delay);
    let removal = call(bed, program, conf, number, "DEL");
    match cycle {
        Cycle::Add | Cycle::Del => removal.run().ok(),
        Cycle::AddAndNamespace | Cycle::DelAndNamespace => {
            bed.lose_pod("a");
            removal.env("CNI_NETNS", "").run().ok()
        }
    };
    let mut nothing_valid = conf.clone();
    nothing_valid["cni.dev/valid-attachments"] = json!([]);
    call(bed, program, &nothing_valid, number, "GC").run().ok();
    if bed.pods().iter().any(|pod| pod == "a") {
        // What is left in the pod is left over, too.
        let inside = bed.links("a");
        assert_eq!(inside, ["lo"], "links left in the pod after cycle {number}, {cycle:?}");
        bed.lose_pod("a");
    }
}

/// Kills the process after `delay`, unless it ended before.
pub(crate) fn kill_after(mut child: Child, delay: Duration) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (ended, end) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let status = child.wait();
        // Nobody listens any more once it is to be killed.
        drop(ended.send(status));
    });
    if end.recv_timeout(delay).is_err() {
        kill(pid, Signal::SIGKILL).ok();
    }
    waiter.join().unwrap();
}

/// xorshift64 (Marsaglia): instants need no better randomness, but a seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number from 0 up to 1.
    pub(crate) fn share(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / f64::from(u32::MAX)
    }
}
