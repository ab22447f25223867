//! One /16 pool, served by processes of both sides at the same time: no address is held twice at any instant, and none is lost.
//! Who held what, and when, each worker notes for itself; neither implementation is asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::call::{self, Side};
use crate::case::Case;
use crate::need::Need;
use crate::testbed::{LEASES, Testbed, files_below};

/// ADDs and DELs in all; the long run sets it: `PLEXUS_POOL_OPERATIONS=20000 cargo test --test suite -- pool::`.
const OPERATIONS_VARIABLE: &str = "PLEXUS_POOL_OPERATIONS";
const OPERATIONS: usize = 480;
/// Processes at a time of each side.
const WORKERS_OF_A_SIDE: usize = 8;
/// Addresses that a worker holds at most: the Go plugin reads every lease for each ADD.
const HELD_MAX: usize = 30;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("pool::no_address_twice_and_none_lost", &[Need::Peers], shared)]
}

/// An address in somebody's hands: from when its ADD had answered to when its DEL was asked for.
struct Holding {
    address: String,
    from: Instant,
    until: Instant,
}

/// Executes `host-local` of one side again and again.
struct Worker {
    side: Side,
    program: PathBuf,
    number: usize,
    conf: Vec<u8>,
    /// Numbers that are random enough (Knuth's MMIX).
    random: u64,
}

impl Worker {
    fn execute(&self, command: &str, container: &str) -> Value {
        let mut child = Command::new(&self.program);
        child.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let own = [("CNI_COMMAND", command), ("CNI_CONTAINERID", container), ("CNI_IFNAME", "eth0")];
        child.envs(own).env("CNI_NETNS", "/run/netns/none").env("CNI_PATH", "/run/cni");
        let mut child = child.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&self.conf).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{:?} {command} {container}: {text}", self.side);
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    /// As many operations; what is held in the end is released too.
    fn work(mut self, operations: usize) -> Vec<Holding> {
        let mut held: Vec<(String, String, Instant)> = Vec::new();
        let mut done = Vec::new();
        for operation in 0..operations {
            let left = operations - operation;
            let adds = held.is_empty() || (held.len() < HELD_MAX && left > held.len() && self.next().is_multiple_of(2));
            if adds {
                let container = format!("w{}-{operation}", self.number);
                let result = self.execute("ADD", &container);
                let address = result["ips"][0]["address"].as_str().expect("an address").to_owned();
                held.push((container, address, Instant::now()));
            } else {
                let which = usize::try_from(self.next()).unwrap() % held.len();
                let (container, address, from) = held.swap_remove(which);
                let file = address.split('/').next().unwrap_or_default();
                let lease = fs::read_to_string(Path::new(LEASES).join("net1").join(file)).expect("the lease is there");
                assert_eq!(lease, format!("{container}\r\neth0"), "{address} is still this one's");
                let until = Instant::now();
                self.execute("DEL", &container);
                done.push(Holding { address, from, until });
            }
        }
        assert!(held.is_empty(), "an even number of operations ends with nothing held");
        done
    }
}

fn shared() {
    let bed = Testbed::new();
    bed.pod("a");
    let all = std::env::var(OPERATIONS_VARIABLE).map_or(OPERATIONS, |text| text.parse().expect("a number"));
    let each = (all / (2 * WORKERS_OF_A_SIDE)).next_multiple_of(2);
    let conf = json!({"cniVersion": "1.1.0", "name": "net1", "type": "bridge",
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/16"}});
    let worker = |number: usize| {
        let side = if number.is_multiple_of(2) { Side::Go } else { Side::Plexus };
        let program = bed.bin(side).join("host-local");
        let program = if program.exists() { program } else { call::executable(side, "host-local") };
        Worker { side, program, number, conf: conf.to_string().into_bytes(), random: u64::try_from(number).unwrap() }
    };
    let begin = Instant::now();
    let threads: Vec<_> = (0..2 * WORKERS_OF_A_SIDE)
        .map(|number| {
            let worker = worker(number);
            thread::spawn(move || worker.work(each))
        })
        .collect();
    let mut holdings: BTreeMap<String, Vec<Holding>> = BTreeMap::new();
    let mut count = 0;
    for holding in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
        count += 1;
        holdings.entry(holding.address.clone()).or_default().push(holding);
    }
    for (address, held) in &mut holdings {
        held.sort_by_key(|holding| holding.from);
        for pair in held.windows(2) {
            assert!(pair[0].until <= pair[1].from, "{address} was held by two at once");
        }
    }
    assert_eq!(count, each * WORKERS_OF_A_SIDE, "half of all operations take an address");
    let left: Vec<_> = files_below(Path::new(LEASES)).into_iter().map(|(path, _)| path.display().to_string()).collect();
    assert!(left.iter().any(|name| name == "net1/lock"), "a pool that was used has its lock: {left:?}");
    let leases: Vec<&String> = left.iter().filter(|name| name.contains("net1/10.")).collect();
    assert!(leases.is_empty(), "{leases:?}");
    bed.note(&format!("{} operations, {} addresses, {:?}", 2 * count, holdings.len(), begin.elapsed()));
}
