//! The reference plugins as an oracle: the same calls through the Go plugin and through plexus, in equal test beds, must
//! leave the same results, errors, kernel state and files. What is intended to differ is in `differences`.
//!
//! Each file below is a table for one plugin. It does not know how either side works.
//!
//! A row plays in every version of the protocol unless its file says `latest`: refusals, for a configuration is refused
//! before its version matters; changes by others, lost namespaces and scripts of several pods, whose results have the
//! shape that the plain rows have in every version; a row whose `prevResult` is of one version.

mod addresses;
mod bridge;
mod chained;
mod decoding;
mod differences;
mod dummy;
mod host_device;
mod ipvlan;
mod loopback;
mod macvlan;
mod protocol;
mod ptp;
pub(crate) mod table;
mod tap;
mod vlan;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::call::{Answer, Side, UNDER_TEST};
use crate::case::Case;
use crate::compare::compare;
use crate::need::Need;
use crate::nft;
use crate::redact::Names;
use crate::snapshot::{Facts, Snapshot};
use crate::testbed::Testbed;

/// Every version of the protocol, oldest first.
pub(crate) const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const LATEST: &[&str] = &["1.1.0"];

/// One line of a table: a configuration and what is done with it.
pub(crate) struct Row {
    kind: &'static str,
    name: String,
    conf: Value,
    needs: Vec<Need>,
    prepare: fn(&Testbed),
    versions: &'static [&'static str],
    script: Vec<Step>,
    /// See [`Row::macs_alike`].
    macs_alike: bool,
    /// See [`Row::after`].
    after: Option<(&'static str, Value)>,
}

/// One step of a script. All calls use the pod `a`.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A call; ADD's result becomes the prevResult of CHECK and DEL for the same container and interface.
    Call(&'static str),
    /// From now on calls are for this container and interface.
    As(&'static str, &'static str),
    /// From now on CNI_ARGS is this.
    Args(&'static str),
    /// From now on this variable is set (or left out).
    Env(&'static str, Option<&'static str>),
    /// From now on the configuration is changed in these keys of its top level; null removes one.
    Conf(Value),
    /// From now on these bytes are sent instead of the configuration.
    Stdin(&'static str),
    /// From now on these bytes stand before the configuration's last brace: keys and values as no value can hold them.
    Tail(&'static [u8]),
    /// From now on these bytes stand before and after the configuration.
    Around(&'static [u8], &'static [u8]),
    /// `ip` with these words: something else changes the machine.
    Ip(&'static str),
    /// The pod's namespace vanishes.
    LosePod,
}

pub(crate) const ADD: Step = Step::Call("ADD");
pub(crate) const CHECK: Step = Step::Call("CHECK");
pub(crate) const DEL: Step = Step::Call("DEL");

impl Row {
    /// A row that does ADD, CHECK, DEL, DEL, in every version.
    pub(crate) fn new(kind: &'static str, name: &str, mut conf: Value) -> Self {
        let keys = conf.as_object_mut().unwrap();
        keys.entry("name").or_insert_with(|| json!("net1"));
        keys.entry("type").or_insert_with(|| json!(kind));
        let script = vec![ADD, CHECK, DEL, DEL];
        Self {
            kind,
            name: name.to_owned(),
            conf,
            needs: vec![Need::Peers],
            prepare: |_| {},
            versions: &VERSIONS,
            script,
            macs_alike: false,
            after: None,
        }
    }

    /// It comes after this plugin in a chain: the Go plugin, on both sides, makes what it changes. That result is the first
    /// `prevResult`.
    pub(crate) fn after(mut self, kind: &'static str, mut conf: Value) -> Self {
        conf["type"] = json!(kind);
        self.after = Some((kind, conf));
        self
    }

    pub(crate) fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }

    /// What the host looks like before the first step.
    pub(crate) fn prepare(mut self, prepare: fn(&Testbed)) -> Self {
        self.prepare = prepare;
        self
    }

    /// Only in the newest version: where the version cannot matter.
    pub(crate) fn latest(mut self) -> Self {
        self.versions = LATEST;
        self
    }

    /// Only in those from this one on.
    pub(crate) fn since(mut self, oldest: &str) -> Self {
        let first = self.versions.iter().position(|version| *version == oldest).unwrap_or_default();
        self.versions = self.versions.get(first..).unwrap_or_default();
        self
    }

    pub(crate) fn script(mut self, script: impl Into<Vec<Step>>) -> Self {
        self.script = script.into();
        self
    }

    /// Random MACs are not told apart: where a bridge has two new ports, chance decides whose MAC it takes, the lower.
    pub(crate) fn macs_alike(mut self) -> Self {
        self.macs_alike = true;
        self
    }

    /// The script with a step before its first one.
    pub(crate) fn first(mut self, step: Step) -> Self {
        self.script.insert(0, step);
        self
    }

    /// Only ADD, and DEL as a runtime would after the failure; in the newest version.
    pub(crate) fn refused(self) -> Self {
        self.script([ADD, DEL]).latest()
    }

    /// ADD, then something else changes the machine, then CHECK, DEL; in the newest version.
    pub(crate) fn changed(self, words: &'static str) -> Self {
        self.script([ADD, Step::Ip(words), CHECK, DEL]).latest()
    }
}

/// A table's plugin (none: all of them) and its rows.
type Table = (&'static str, fn() -> Vec<Row>);

const TABLES: [Table; 19] = [
    ("bridge", bridge::rows),
    ("ptp", ptp::rows),
    ("macvlan", macvlan::rows),
    ("ipvlan", ipvlan::rows),
    ("vlan", vlan::rows),
    ("dummy", dummy::rows),
    ("host-device", host_device::rows),
    ("tap", tap::rows),
    ("loopback", loopback::rows),
    ("host-local", addresses::host_local),
    ("static", addresses::r#static),
    ("tuning", chained::tuning),
    ("portmap", chained::portmap),
    ("bandwidth", chained::bandwidth),
    ("firewall", chained::firewall),
    ("sbr", chained::sbr),
    ("vrf", chained::vrf),
    ("", protocol::rows),
    ("", decoding::rows),
];

/// The cases of all tables; of `only` one case, at least that one: a case's own process need not make the others.
pub(crate) fn cases(only: Option<&str>) -> Vec<Case> {
    let wanted = |kind: &str| only.is_none_or(|name| name.starts_with(&format!("oracle::{kind}")));
    let mut cases = vec![Case::new("oracle::differences_are_written_down", &[], differences::are_written_down)];
    for row in TABLES.iter().filter(|(kind, _)| wanted(kind)).flat_map(|(_, rows)| rows()) {
        let row = std::sync::Arc::new(row);
        for version in row.versions {
            let name = format!("oracle::{}::{}@{version}", row.kind, row.name);
            let (row, case) = (row.clone(), name.clone());
            cases.push(Case::new(name, &row.needs.clone(), move || same_on_both_sides(&case, &row, version)));
        }
    }
    cases
}

fn same_on_both_sides(case: &str, row: &Row, version: &str) {
    table::failed(case);
    let (go, go_calls) = play(row, version, Side::Go);
    let (plexus, plexus_calls) = play(row, version, Side::Plexus);
    // Another implementation under test has none of the intended differences.
    let differences = if std::env::var_os(UNDER_TEST).is_some() { &[] } else { differences::ACCEPTED };
    let occurred = compare(case, &go, &plexus, differences).unwrap_or_else(|text| {
        panic!("the two sides differ:\n{text}\n---- go's calls\n{go_calls}\n---- plexus' calls\n{plexus_calls}")
    });
    // The state after a refusal is where most is allowed to differ: never so that more is left.
    if row.name.starts_with("refused_") {
        let left = |facts: &Facts| facts["end.leftovers"].clone();
        let (go, plexus) = (left(&go), left(&plexus));
        // A record of the journal stays where the undo failed too, so that DEL tries again.
        let counts = |one: &&str| !go.contains(one) && !one.starts_with("record ");
        let more: Vec<&str> = plexus.split('"').skip(1).step_by(2).filter(counts).collect();
        assert!(more.is_empty(), "more is left than by the Go plugin: {more:?}\n{plexus_calls}");
    }
    table::same(case, &occurred);
}

/// Plays a row's script in a test bed of its own: all facts, and the calls as text.
fn play(row: &Row, version: &str, side: Side) -> (Facts, String) {
    let bed = Testbed::new();
    bed.pod("a");
    (row.prepare)(&bed);
    let mut stage = Stage::new(&bed, row, version, side);
    for (number, step) in row.script.iter().enumerate() {
        stage.play(number + 1, step);
    }
    // Sorted again: the names that were random come in no order.
    let mut left: Vec<String> = bed.leftovers().iter().map(|left| stage.names.apply(left)).collect();
    left.sort();
    stage.facts.insert("end.leftovers".to_owned(), format!("{left:?}"));
    (stage.facts, bed.transcript())
}

/// A script being played.
struct Stage<'bed> {
    bed: &'bed Testbed,
    kind: &'static str,
    after: Option<&'bed (&'static str, Value)>,
    side: Side,
    conf: Value,
    stdin: Option<&'static str>,
    tail: &'static [u8],
    around: (&'static [u8], &'static [u8]),
    who: (&'static str, &'static str),
    env: BTreeMap<&'static str, Option<&'static str>>,
    results: BTreeMap<(&'static str, &'static str), Value>,
    names: Names,
    facts: Facts,
}

impl<'bed> Stage<'bed> {
    fn new(bed: &'bed Testbed, row: &'bed Row, version: &str, side: Side) -> Self {
        let mut conf = row.conf.clone();
        if conf.get("cniVersion").is_none() {
            conf["cniVersion"] = json!(version);
        }
        let fixed = format!("{conf}{:?}", row.script);
        Self {
            bed,
            kind: row.kind,
            after: row.after.as_ref(),
            side,
            conf,
            stdin: None,
            tail: b"",
            around: (b"", b""),
            who: ("c1", "eth0"),
            env: BTreeMap::new(),
            results: BTreeMap::new(),
            names: Names::new(&fixed, row.macs_alike),
            facts: Facts::new(),
        }
    }

    fn play(&mut self, number: usize, step: &Step) {
        match step {
            Step::Call(command) => self.call(number, command),
            Step::As(container, ifname) => self.who = (container, ifname),
            Step::Args(args) => drop(self.env.insert("CNI_ARGS", Some(args))),
            Step::Env(name, value) => drop(self.env.insert(name, *value)),
            Step::Conf(change) => merge(&mut self.conf, change),
            Step::Stdin(text) => self.stdin = Some(text),
            Step::Tail(bytes) => self.tail = bytes,
            Step::Around(before, after) => self.around = (before, after),
            Step::Ip(words) => drop(self.bed.ip(words)),
            Step::LosePod => self.bed.lose_pod("a"),
        }
    }

    /// The plugin before this one in the chain, once for each container and interface.
    fn come_after(&mut self) {
        let Some((kind, conf)) = self.after else { return };
        if self.results.contains_key(&self.who) {
            return;
        }
        let mut conf = conf.clone();
        for key in ["cniVersion", "name"] {
            conf[key] = self.conf[key].clone();
        }
        let (container, ifname) = self.who;
        let call =
            self.bed.call_by_one_path(Side::Go, kind).command("ADD").container(container).ifname(ifname).pod("a");
        self.results.insert(self.who, call.conf(&conf).run().ok());
    }

    fn call(&mut self, number: usize, command: &str) {
        let mut conf = self.conf.clone();
        let is_add = command == "ADD";
        if is_add {
            self.come_after();
        }
        // As a runtime does it: CHECK and DEL get the result of ADD, unless the script sends one itself.
        let is_told = (!is_add || self.after.is_some()) && conf.get("prevResult").is_none();
        if let Some(result) = self.results.get(&self.who).filter(|_| is_told) {
            conf["prevResult"] = result.clone();
        }
        let (container, ifname) = self.who;
        let mut call = self
            .bed
            .call_by_one_path(self.side, self.kind)
            .command(command)
            .container(container)
            .ifname(ifname)
            .pod("a");
        call = match self.stdin {
            Some(text) => call.stdin(text),
            None => call.stdin(self.written(&conf)),
        };
        for (name, value) in &self.env {
            call = match value {
                Some(value) => call.env(name, *value),
                None => call.without(name),
            };
        }
        let answer = call.run();
        if is_add && answer.succeeded() {
            self.results.insert(self.who, answer.json());
        }
        let label = format!("{number}.{}", command.to_lowercase());
        if command != "CHECK" {
            let mut state = Snapshot::settled(self.bed, &mut self.names);
            // `nft` is asked where there may be rules: most cases have none.
            let of_kind = ["portmap", "firewall"].contains(&self.kind);
            if of_kind || ["ipMasq", "macspoofchk"].iter().any(|key| self.conf.get(key).is_some()) {
                let named = |(path, value): (String, String)| (self.names.apply(&path), self.names.apply(&value));
                state.extend(nft::facts(self.bed).into_iter().map(named));
            }
            self.facts.extend(state.into_iter().map(|(path, value)| (format!("{label}.state.{path}"), value)));
        }
        self.keep(&label, &answer);
    }

    /// A configuration as bytes.
    fn written(&self, conf: &Value) -> Vec<u8> {
        let text = conf.to_string();
        let (before, after) = self.around;
        [before, &text.as_bytes()[..text.len() - 1], self.tail, b"}", after].concat()
    }

    fn keep(&mut self, label: &str, answer: &Answer) {
        self.facts.insert(format!("{label}.rc"), format!("{:?}", answer.rc));
        let error: Option<BTreeMap<String, Value>> = match answer.rc {
            Some(0) => None,
            _ => serde_json::from_str(&answer.stdout).ok(),
        };
        match error {
            Some(error) => {
                let tell = |(key, value): (String, Value)| {
                    (format!("{label}.error.{key}"), self.names.apply(&value.to_string()))
                };
                let error: Facts = error.into_iter().map(tell).collect();
                self.facts.extend(error);
            }
            // A result, byte for byte but for random names.
            None => {
                let (text, macs) = without_macs(&self.names.apply(&answer.stdout));
                self.facts.insert(format!("{label}.stdout"), text);
                self.facts.extend(macs.into_iter().enumerate().map(|(n, mac)| (format!("{label}.mac.{n}"), mac)));
            }
        }
    }
}

/// A result without the random MACs in it, and these in order: facts of their own, because whose MAC another link has may
/// differ on purpose while everything else must not.
fn without_macs(text: &str) -> (String, Vec<String>) {
    let mut parts = text.split("\"MAC(");
    let mut out = parts.next().unwrap_or_default().to_owned();
    let mut macs = Vec::new();
    for part in parts {
        let (mac, rest) = part.split_once('"').unwrap_or((part, ""));
        macs.push(format!("MAC({mac}"));
        out.push_str("\"MAC\"");
        out.push_str(rest);
    }
    (out, macs)
}

/// Changes the top level of `conf`; null removes a key.
fn merge(conf: &mut Value, change: &Value) {
    let keys = conf.as_object_mut().unwrap();
    for (key, value) in change.as_object().unwrap() {
        if value.is_null() {
            keys.remove(key);
        } else {
            keys.insert(key.clone(), value.clone());
        }
    }
}

/// host-local with one subnet, as most configurations have it.
pub(crate) fn one_subnet() -> Value {
    json!({"type": "host-local", "subnet": "10.1.0.0/24"})
}

/// host-local with one range of each family, and routes of both.
pub(crate) fn dual_stack() -> Value {
    json!({
        "type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "192.168.0.0/16", "gw": "10.1.0.99"}],
    })
}
