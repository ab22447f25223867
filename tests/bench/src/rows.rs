//! What is measured: the table of rows, and how the rounds of one row alternate between the sides. Knows no program.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::chains::Chains;
use crate::cluster::{Members, Server};
use crate::idle::Idle;
use crate::leases::Leases;
use crate::nodes::{Nodes, Plan};
use crate::pods::Pods;
use crate::rest::settle;
use crate::side::{Outcome, Programs, Side, Watch};
use crate::world::{World, lacks};

/// Rounds before those that count: caches, bridges and indexes are then as they stay.
pub(crate) const WARM_UP_ROUNDS: usize = 3;

/// How an interface is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bridge,
    Macvlan,
    Ptp,
    Vlan,
    Dummy,
    HostDevice,
    Tap,
}

/// What one call of a row is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// Pods with these interfaces; `parallel` of them at once. `keys`: a JSON object of what each configuration has besides.
    Pods { kinds: &'static [Kind], v6: bool, parallel: usize, keys: &'static str },
    /// A bridge with an address of each family and these plugins after it (a JSON list), `held` containers having two mapped
    /// ports already; `maps`: the measured pod has two too.
    Chain { plugins: &'static str, maps: bool, held: u16 },
    /// Pods of a cluster with a bridge and this many definitions.
    Member { definitions: u8 },
    /// host-local alone, on a pool with this many addresses held.
    Lease { held: u16 },
    /// Pods of a node with a daemon.
    Node(Plan),
    /// A daemon that knows a big cluster and has nothing to do.
    Idle,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) shape: Shape,
    /// Slow rows get the asked number of rounds divided by this.
    pub(crate) rounds_divisor: usize,
    /// Arguments of an `ip` that makes `probe0` and that fails where the kernel cannot do this row.
    pub(crate) needs: Option<&'static str>,
    /// plexus' part goes through its daemon: also what the API is not needed for.
    pub(crate) through_daemon: bool,
}

/// No further keys.
const PLAIN: &str = "{}";

const fn pods(name: &'static str, what: &'static str, kinds: &'static [Kind], v6: bool, rounds_divisor: usize) -> Row {
    Row {
        name,
        what,
        shape: Shape::Pods { kinds, v6, parallel: 1, keys: PLAIN },
        rounds_divisor,
        needs: None,
        through_daemon: false,
    }
}

const fn chain(name: &'static str, what: &'static str, plugins: &'static str, maps: bool, held: u16) -> Row {
    let rounds_divisor = if held > 0 { 2 } else { 1 };
    Row { name, what, shape: Shape::Chain { plugins, maps, held }, rounds_divisor, needs: None, through_daemon: false }
}

const fn member(name: &'static str, what: &'static str, definitions: u8) -> Row {
    Row { name, what, shape: Shape::Member { definitions }, rounds_divisor: 1, needs: None, through_daemon: false }
}

const fn lease(name: &'static str, what: &'static str, held: u16, rounds_divisor: usize) -> Row {
    Row { name, what, shape: Shape::Lease { held }, rounds_divisor, needs: None, through_daemon: false }
}

const fn one(
    name: &'static str,
    what: &'static str,
    kind: &'static [Kind; 1],
    v6: bool,
    keys: &'static str,
    needs: Option<&'static str>,
) -> Row {
    Row {
        name,
        what,
        shape: Shape::Pods { kinds: kind, v6, parallel: 1, keys },
        rounds_divisor: 1,
        needs,
        through_daemon: false,
    }
}

const fn node(name: &'static str, what: &'static str, definitions: &'static [Kind], v6: bool) -> Row {
    // Go waits 1.8 s for duplicate address detection.
    let rounds_divisor = if v6 { 3 } else { 1 };
    let plan = Plan { definitions, v6, status_first: false, at_once: 1, crowd: false };
    Row { name, what, shape: Shape::Node(plan), rounds_divisor, needs: None, through_daemon: true }
}

const fn crowd(name: &'static str, what: &'static str, at_once: u16, rounds_divisor: usize) -> Row {
    let plan = Plan { definitions: THREE, v6: false, status_first: false, at_once, crowd: true };
    Row { name, what, shape: Shape::Node(plan), rounds_divisor, needs: None, through_daemon: true }
}

const fn by_daemon(name: &'static str, what: &'static str, row: Row) -> Row {
    Row { name, what, through_daemon: true, ..row }
}

impl Row {
    /// The sides of its columns: the one that is measured, whom it is measured by, the floor.
    pub(crate) fn sides(&self) -> &'static [Side] {
        match (self.shape, self.through_daemon) {
            (Shape::Node(_) | Shape::Idle, _) => &[Side::Daemon, Side::Thick, Side::Thin, Side::Oneshot, Side::Floor],
            (_, true) => &[Side::Daemon, Side::Go, Side::Floor],
            (_, false) => &[Side::Plexus, Side::Go, Side::Floor],
        }
    }

    /// Whose part of a row it is worth to wait for: thousands of ports take Go minutes.
    fn has(&self, side: Side) -> bool {
        self.sides().contains(&side)
            && match (self.shape, side) {
                (Shape::Chain { held: 1.., .. }, Side::Go) => false,
                (Shape::Idle, _) => matches!(side, Side::Daemon | Side::Thick),
                (Shape::Node(plan), Side::Thin | Side::Oneshot) => !plan.status_first,
                (_, Side::Floor) => self.has_floor(),
                _ => true,
            }
    }

    /// Why it cannot be run here.
    fn lacks(&self, stage: &Stage<'_>) -> Option<String> {
        if matches!(self.shape, Shape::Member { .. }) && stage.server.is_none() {
            return Some("it needs an API server: tests/bench/run --cluster".to_owned());
        }
        let needs_server = matches!(self.shape, Shape::Node(_) | Shape::Idle);
        if (self.through_daemon && !stage.programs.has(Side::Daemon)) || (needs_server && stage.server.is_none()) {
            return Some("it needs plexus daemon and Multus: tests/bench/run --node".to_owned());
        }
        self.needs.and_then(lacks)
    }

    /// The floor knows three kinds, without further keys.
    fn has_floor(&self) -> bool {
        match self.shape {
            Shape::Pods { kinds, keys, .. } => {
                keys == PLAIN && kinds.iter().all(|kind| matches!(kind, Bridge | Macvlan | Ptp))
            }
            Shape::Chain { .. } | Shape::Member { .. } | Shape::Idle => false,
            Shape::Lease { .. } | Shape::Node(_) => true,
        }
    }
}

use Kind::{Bridge, Dummy, HostDevice, Macvlan, Ptp, Tap, Vlan};

/// All rows, in the order in which they run and are shown.
pub(crate) const ROWS: &[Row] = &[
    pods("bridge", "bridge + host-local", &[Bridge], false, 1),
    pods("macvlan", "macvlan + host-local", &[Macvlan], false, 1),
    pods("ptp", "ptp + host-local", &[Ptp], false, 1),
    pods("bridge-dual", "bridge + host-local, IPv4 and IPv6", &[Bridge], true, 1),
    // Go waits 1.8 s for duplicate address detection.
    pods("macvlan-dual", "macvlan + host-local, IPv4 and IPv6", &[Macvlan], true, 3),
    lease("host-local-0", "host-local alone, empty pool", 0, 1),
    lease("host-local-1k", "host-local alone, 1,000 addresses held", 1_000, 1),
    lease("host-local-10k", "host-local alone, 10,000 addresses held", 10_000, 2),
    lease("host-local-60k", "host-local alone, 60,000 addresses held", 60_000, 3),
    Row {
        name: "parallel-20",
        what: "20 pods at once, bridge + host-local",
        shape: Shape::Pods { kinds: &[Bridge], v6: false, parallel: 20, keys: PLAIN },
        rounds_divisor: 3,
        needs: None,
        through_daemon: false,
    },
    pods("pod-4", "one pod with 2 bridge and 2 macvlan attachments", &[Bridge, Bridge, Macvlan, Macvlan], false, 1),
    // Without `ipMasqBackend`, as most people have it: Go executes iptables, where that works.
    one("bridge-masq-dual", "bridge with ipMasq, IPv4 and IPv6", &[Bridge], true, MASQUERADE, None),
    one("bridge-masq-nft", "the same, Go with its nftables backend", &[Bridge], true, MASQUERADE_NFT, None),
    one("ptp-masq", "ptp with ipMasq", &[Ptp], false, MASQUERADE, None),
    one("bridge-macspoof", "bridge with macspoofchk", &[Bridge], false, r#"{"macspoofchk": true}"#, None),
    one("host-device", "one end of a veth pair, moved into the pod and back", &[HostDevice], false, PLAIN, None),
    one("tap", "tap + host-local", &[Tap], false, PLAIN, Some("tuntap add probe0 mode tap")),
    one("vlan", "vlan + host-local", &[Vlan], false, PLAIN, Some("link add link m0 name probe0 type vlan id 4000")),
    one("dummy", "dummy + host-local", &[Dummy], false, PLAIN, Some("link add probe0 type dummy")),
    chain("chain-bridge", "a list of a bridge alone, IPv4 and IPv6, one exec", "[]", false, 0),
    chain("chain-idle", "the same + portmap with no mapping", PORTMAP, false, 0),
    chain("chain-ports", "the same + portmap with 2 ports", PORTMAP, true, 0),
    chain("chain-ports-1k", "the same beside 1,000 containers with 2 ports each", PORTMAP, true, 1_000),
    chain("chain-node", "bridge + portmap (2 ports) + tuning + firewall, IPv4 and IPv6, one exec", NODE_CHAIN, true, 0),
    chain("chain-tuning", "bridge + tuning (a sysctl, MTU)", TUNING, false, 0),
    chain("chain-firewall", "bridge + firewall", FIREWALL, false, 0),
    chain("chain-bandwidth", "bridge + bandwidth, both directions", BANDWIDTH, false, 0),
    chain("chain-sbr", "bridge + sbr", r#"[{"type": "sbr"}]"#, false, 0),
    Row {
        needs: Some("link add probe0 type vrf table 10"),
        ..chain("chain-vrf", "bridge + vrf", r#"[{"type": "vrf", "vrfname": "blue"}]"#, false, 0)
    },
    member("member-0", "a pod of a cluster: a bridge", 0),
    member("member-1", "the same and 1 definition (macvlan)", 1),
    member("member-3", "the same and 3 definitions", 3),
    member("member-8", "the same and 8 definitions", 8),
    one("bridge-vlan", "bridge with a VLAN", &[Bridge], false, r#"{"vlan": 100}"#, VLAN_FILTERING),
    by_daemon("node-macvlan", "macvlan + host-local, the daemon, no API", pods("", "", &[Macvlan], false, 1)),
    by_daemon("masquerade-daemon", "bridge-masq-dual, the daemon", one("", "", &[Bridge], true, MASQUERADE, None)),
    by_daemon("chain-node-daemon", "chain-node, the daemon", chain("", "", NODE_CHAIN, true, 0)),
    node("node-0", "a pod of a node with a daemon: a bridge", &[], false),
    node("node-1", "the same and 1 definition (macvlan)", &[Macvlan], false),
    node("node-3", "the same and 3 definitions (a bridge, 2 macvlan)", THREE, false),
    node("node-8", "the same and 8 definitions (2 bridges, 6 macvlan)", EIGHT, false),
    node("node-3-dual", "node-3, IPv4 and IPv6", THREE, true),
    Row {
        name: "node-3-status",
        what: "node-3, the status written before the answer, as Multus does",
        shape: Shape::Node(Plan { definitions: THREE, v6: false, status_first: true, at_once: 1, crowd: false }),
        rounds_divisor: 1,
        needs: None,
        through_daemon: true,
    },
    crowd("crowd-1", "1 pod as in node-3", 1, 1),
    crowd("crowd-10", "10 of them at once", 10, 3),
    crowd("crowd-50", "50 of them at once", 50, 6),
    crowd("crowd-100", "100 of them at once", 100, 6),
    Row {
        name: "idle",
        what: "memory of a daemon that knows 1,000 definitions and 250 pods",
        shape: Shape::Idle,
        rounds_divisor: 10,
        needs: None,
        through_daemon: true,
    },
];

const THREE: &[Kind] = &[Bridge, Macvlan, Macvlan];
const EIGHT: &[Kind] = &[Bridge, Bridge, Macvlan, Macvlan, Macvlan, Macvlan, Macvlan, Macvlan];
const MASQUERADE: &str = r#"{"ipMasq": true}"#;

const PORTMAP: &str = r#"[{"type": "portmap", "capabilities": {"portMappings": true}}]"#;
const TUNING: &str = r#"[{"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_ignore": "1"}, "mtu": 1400}]"#;
const FIREWALL: &str = r#"[{"type": "firewall", "backend": "iptables"}]"#;
const BANDWIDTH: &str = r#"[{"type": "bandwidth", "ingressRate": 8000000, "ingressBurst": 800000,
    "egressRate": 8000000, "egressBurst": 800000}]"#;
const NODE_CHAIN: &str = r#"[{"type": "portmap", "capabilities": {"portMappings": true}},
    {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_ignore": "1"}, "mtu": 1400},
    {"type": "firewall", "backend": "iptables"}]"#;
const MASQUERADE_NFT: &str = r#"{"ipMasq": true, "ipMasqBackend": "nftables"}"#;
const VLAN_FILTERING: Option<&str> = Some("link add probe0 type bridge vlan_filtering 1");

/// What one kind of call took: one figure a round for each side, milliseconds where the name says nothing else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    samples: BTreeMap<Side, Vec<f64>>,
}

/// What one row gave.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) row: Row,
    pub(crate) rounds: usize,
    pub(crate) metrics: Vec<Metric>,
    /// Sides that failed, and how; their times do not count.
    pub(crate) failures: Vec<(Side, String)>,
    /// Why it was not run, where it was not.
    pub(crate) not_run: Option<String>,
}

/// What every row needs.
pub(crate) struct Stage<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) world: World,
    pub(crate) watch: Watch,
    /// A directory for manifests, on the disk.
    pub(crate) files: std::path::PathBuf,
    /// The API server, where there is one.
    pub(crate) server: Option<Server>,
    /// The server has what only `idle` needs.
    pub(crate) is_crowded: bool,
}

/// The times of one round of one side: name of the metric, milliseconds.
pub(crate) type Times = Vec<(&'static str, f64)>;

enum Case {
    Pods(Pods),
    Chains(Chains),
    Leases(Leases),
    Members(Members),
    Nodes(Box<Nodes>),
    Idle(Box<Idle>),
}

impl Case {
    fn prepare(stage: &mut Stage<'_>, row: &Row, side: Side) -> Outcome<Self> {
        Ok(match row.shape {
            Shape::Pods { kinds, v6, parallel, keys } => {
                Self::Pods(Pods::prepare(stage, side, kinds, v6, parallel, keys)?)
            }
            Shape::Chain { plugins, maps, held } => Self::Chains(Chains::prepare(stage, side, plugins, maps, held)?),
            Shape::Member { definitions } => Self::Members(Members::prepare(stage, side, definitions)?),
            Shape::Lease { held } => Self::Leases(Leases::prepare(stage, side, held)?),
            Shape::Node(plan) => Self::Nodes(Box::new(Nodes::prepare(stage, side, plan)?)),
            Shape::Idle => Self::Idle(Box::new(Idle::prepare(stage, side)?)),
        })
    }

    fn round(&mut self, stage: &mut Stage<'_>) -> Outcome<Times> {
        match self {
            Self::Pods(pods) => pods.round(stage),
            Self::Chains(chains) => chains.round(stage),
            Self::Leases(leases) => leases.round(stage),
            Self::Members(members) => members.round(stage),
            Self::Nodes(nodes) => nodes.round(stage),
            Self::Idle(idle) => idle.round(stage),
        }
    }

    /// Looks for what must not be left and removes the rest.
    fn finish(self, stage: &Stage<'_>) -> Outcome<()> {
        match self {
            Self::Pods(pods) => pods.finish(),
            Self::Chains(chains) => chains.finish(&stage.watch),
            Self::Leases(leases) => leases.finish(),
            Self::Members(members) => members.finish(),
            Self::Nodes(nodes) => nodes.finish(),
            Self::Idle(idle) => idle.finish(),
        }
    }
}

/// Milliseconds since `start`.
pub(crate) fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Measures one row: each round runs every side once, in another order than the round before. Ends early, with what there
/// is, when `stop` says so.
pub(crate) fn measure(stage: &mut Stage<'_>, row: Row, rounds: usize, stop: &mut dyn FnMut(usize) -> bool) -> Measured {
    let rounds = (rounds / row.rounds_divisor).max(1);
    let mut measured = Measured::new(row);
    measured.not_run = row.lacks(stage);
    if measured.not_run.is_some() {
        return measured;
    }
    let mut cases = Vec::new();
    let takes_part = |side: &Side| stage.programs.has(*side) && row.has(*side);
    let sides: Vec<Side> = Side::ALL.into_iter().filter(takes_part).collect();
    for side in sides {
        match Case::prepare(stage, &row, side) {
            Ok(case) => cases.push((side, case)),
            Err(error) => measured.failures.push((side, error.to_string())),
        }
    }
    for round in 0..WARM_UP_ROUNDS + rounds {
        if stop(round) {
            break;
        }
        let mut failed = None;
        let mut order: Vec<usize> = (0..cases.len()).collect();
        alternate(&mut order, round);
        for index in order {
            let Some((side, case)) = cases.get_mut(index) else { continue };
            match case.round(stage).and_then(|times| settle().map(|()| times)) {
                Ok(times) if round >= WARM_UP_ROUNDS => measured.record(*side, times),
                Ok(_) => {}
                Err(error) => failed = Some((*side, error.to_string())),
            }
        }
        if let Some((side, error)) = failed {
            // A side that failed once is never fast: it leaves the row.
            cases.retain(|(other, _)| *other != side);
            measured.fail(side, error);
        }
        measured.rounds = (round + 1).saturating_sub(WARM_UP_ROUNDS);
    }
    for (side, case) in cases {
        if let Err(error) = case.finish(stage) {
            measured.fail(side, error.to_string());
        }
    }
    measured
}

impl Measured {
    pub(crate) fn new(row: Row) -> Self {
        Self { row, rounds: 0, metrics: Vec::new(), failures: Vec::new(), not_run: None }
    }

    fn record(&mut self, side: Side, times: Times) {
        for (name, time) in times {
            let known = self.metrics.iter().position(|metric| metric.name == name);
            let index = known.unwrap_or_else(|| {
                self.metrics.push(Metric { name, ..Metric::default() });
                self.metrics.len() - 1
            });
            if let Some(metric) = self.metrics.get_mut(index) {
                metric.of_mut(side).push(time);
            }
        }
    }

    fn fail(&mut self, side: Side, error: String) {
        for metric in &mut self.metrics {
            metric.of_mut(side).clear();
        }
        self.failures.push((side, error));
    }
}

impl Metric {
    pub(crate) fn of(&self, side: Side) -> &[f64] {
        self.samples.get(&side).map_or(&[], Vec::as_slice)
    }

    fn of_mut(&mut self, side: Side) -> &mut Vec<f64> {
        self.samples.entry(side).or_default()
    }

    #[cfg(test)]
    pub(crate) fn from_samples<const N: usize>(name: &'static str, samples: [(Side, Vec<f64>); N]) -> Self {
        Self { name, samples: samples.into() }
    }
}

/// All orders in turn: each side is first, last and after each other one equally often.
fn alternate(order: &mut [usize], round: usize) {
    let Some(turns) = round.checked_rem(order.len()) else { return };
    order.rotate_left(turns);
    if round / order.len() % 2 == 1 {
        order.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_sides_take_all_six_orders_in_six_rounds() {
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..6 {
            let mut order = [0, 1, 2];
            alternate(&mut order, round);
            seen.insert(order);
        }
        assert_eq!(seen.len(), 6, "{seen:?}");
    }

    #[test]
    fn two_sides_are_first_equally_often() {
        let first = (0..4).filter(|round| {
            let mut order = [0, 1];
            alternate(&mut order, *round);
            order[0] == 0
        });
        assert_eq!(first.count(), 2);
    }

    #[test]
    fn the_keys_of_every_row_are_an_object() {
        for row in ROWS {
            if let Shape::Pods { keys, .. } = row.shape {
                let keys: serde_json::Value = serde_json::from_str(keys).unwrap();
                assert!(keys.is_object(), "{}: {keys}", row.name);
            }
        }
    }

    #[test]
    fn a_failed_side_keeps_no_time() {
        let mut measured = Measured::new(lease("r", "", 0, 1));
        measured.record(Side::Go, vec![("ADD", 2.0)]);
        measured.record(Side::Floor, vec![("ADD", 1.0)]);
        measured.fail(Side::Go, "status 1".into());
        assert!(measured.metrics[0].of(Side::Go).is_empty());
        assert_eq!(measured.metrics[0].of(Side::Floor), [1.0]);
    }
}
