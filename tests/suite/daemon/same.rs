//! What the daemon does is what plexus-cni does by itself; and what only plexus-cni can do is given back to it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Daemon, left, node};
use crate::case::Case;
use crate::meta::Node;
use crate::need::Need;
use crate::redact::Names;
use crate::snapshot::{Facts, Snapshot, flatten};
use crate::testbed::{LEASES, RECORDS, files_below};

pub(super) fn cases() -> Vec<Case> {
    let mac = &[Need::Macvlan];
    vec![
        Case::new("daemon::does_what_plexus_cni_does_by_itself", mac, same),
        Case::new("daemon::a_chain_with_another_plugin_is_given_back", mac, given_back),
        Case::new("daemon::what_fails_leaves_nothing", mac, refused),
        Case::new("daemon::d24_path_and_arguments_of_the_runtime_reach_delegates", mac, passed_on),
        Case::new("daemon::d25_a_failed_del_is_told_and_tried_again", mac, told),
    ]
}

/// Of a record, what two equal runs do not share: numbers of namespaces and links, times; and the trace, which only the daemon makes.
const NUMBERS: [&str; 8] = ["netnsId", "netnsCookie", "hostId", "ifindex", "micros", "parent", "pidNs", "trace"];

/// Everything that an ADD, a CHECK and a DEL leave, and say.
fn facts(through_daemon: bool) -> Facts {
    let mut node = node("fail");
    let daemon = through_daemon.then(Daemon::start);
    if !through_daemon {
        node.conf.as_object_mut().unwrap().retain(|key, _| key != "daemonSocketDir" && key != "fallback");
    }
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue, green@data0, six")]);
    let mut names = Names::new(&node.conf.to_string(), false);
    let mut facts = Facts::new();
    let result = node.call("ADD", "a").run().ok();
    let mut keep = |label: &str, some: Facts| {
        facts.extend(some.into_iter().map(|(path, value)| (format!("{label}.{path}"), value)));
    };
    keep("added", Snapshot::settled(&node.bed, &mut names));
    keep("result", said(&result, &names));
    keep("record", record(&names));
    node.call("CHECK", "a").run().ok();
    let mut stale = node.conf.clone();
    stale["prevResult"] = result;
    node.call("DEL", "a").conf(&stale).run().ok();
    keep("deleted", Snapshot::settled(&node.bed, &mut names));
    keep(
        "left",
        files_below(Path::new(LEASES))
            .into_iter()
            .map(|(path, _)| (path.display().to_string(), String::new()))
            .collect(),
    );
    node.assert_clean();
    drop(daemon);
    facts
}

fn said(value: &Value, names: &Names) -> Facts {
    let mut facts = Facts::new();
    flatten("", &serde_json::from_str(&names.apply(&value.to_string())).unwrap(), &mut facts);
    facts
}

/// The journal's only record, line by line.
fn record(names: &Names) -> Facts {
    let files = files_below(&Path::new(RECORDS).join("journal"));
    let files: BTreeMap<_, _> = files.into_iter().filter(|(path, _)| path != Path::new("boot")).collect();
    assert_eq!(files.len(), 1, "one request, one record");
    let mut facts = Facts::new();
    for (path, bytes) in files {
        for (number, line) in String::from_utf8(bytes).unwrap().lines().enumerate() {
            let line: Value = serde_json::from_str(&names.apply(line)).unwrap();
            flatten(&format!("{}.{number}", path.display()), &line, &mut facts);
        }
    }
    facts.retain(|path, _| !path.split('.').any(|word| NUMBERS.contains(&word)));
    facts
}

fn same() {
    let [alone, daemon] = [false, true].map(facts);
    assert!(
        alone.keys().filter(|path| path.starts_with("record")).count() > 20 && alone.len() > 400,
        "all was looked at"
    );
    let differ = |(path, value): (&String, &String)| {
        let other = daemon.get(path);
        (other != Some(value)).then(|| format!("{path}: {value:?} alone, {other:?} through the daemon"))
    };
    let mut differences: Vec<String> = alone.iter().filter_map(differ).collect();
    differences
        .extend(daemon.keys().filter(|path| !alone.contains_key(*path)).map(|path| format!("{path}: only there")));
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Who executed a plugin.
const NOTED: &str = r#"conf=$(cat); echo "$CNI_COMMAND $(cat /proc/$PPID/comm)" >>/run/scratch/noted
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#;

fn given_back() {
    let node = node("fail");
    let daemon = Daemon::start();
    node.script("noted", NOTED);
    node.add("a", "chained,blue");
    assert_eq!(node.addresses("a", "net1"), ["10.5.0.2/24"]);
    assert_eq!(node.addresses("a", "net2"), ["10.2.0.2/24"]);
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "a").run().ok();
    let noted = fs::read_to_string("/run/scratch/noted").unwrap();
    assert_eq!(noted, "ADD plexus-cni\nCHECK plexus-cni\nDEL plexus-cni\n");
    node.assert_clean();
    // Nothing was begun by the daemon before it gave it back: its own pods go on.
    node.add("b", "blue");
    node.call("DEL", "b").run().ok();
    node.assert_clean();
    daemon.stop();
}

/// What a plugin was executed with, kept for each command.
const KEPT: &str = r#"conf=$(cat); env >"/run/scratch/$CNI_COMMAND.env"
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#;

fn passed_on() {
    let mut node = node("fail");
    // Only the runtime's path leads to the plugin.
    node.conf["binDir"] = json!("/run/scratch/none");
    let daemon = Daemon::start();
    node.script("noted", KEPT);
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "chained")]);
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;K8S_POD_UID=uid-a;COLOUR=blue";
    for command in ["ADD", "DEL"] {
        node.call(command, "a").args(args).run().ok();
        let env = fs::read_to_string(format!("/run/scratch/{command}.env")).unwrap();
        let line = |key: &str| env.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        assert!(line("CNI_ARGS=").ends_with(";COLOUR=blue"), "{command}: {env}");
        assert!(line("CNI_PATH=").contains("/run/cni/plexus"), "{command}: {env}");
    }
    node.assert_clean();
    daemon.stop();
}

/// Its DEL fails while a file says so.
const STUBBORN: &str = r#"conf=$(cat)
if [ "$CNI_COMMAND" = DEL ] && [ -e /run/scratch/stubborn ]; then
  echo '{"cniVersion": "1.0.0", "code": 11, "msg": "the switch does not answer"}'
  exit 1
fi
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#;

fn told() {
    let node = node("fail");
    let daemon = Daemon::start();
    node.script("noted", STUBBORN);
    node.add("a", "chained,blue");
    node.bed.file("stubborn", "");
    for _ in 0..2 {
        let answer = node.call("DEL", "a").run();
        assert!(answer.rc == Some(1) && answer.stdout.contains("the switch does not answer"), "{}", answer.stdout);
    }
    fs::remove_file("/run/scratch/stubborn").unwrap();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
    daemon.stop();
}

fn refusal(node: &Node, networks: &str) -> Value {
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", networks)]);
    let answer = node.call("ADD", "a").run();
    assert_eq!(answer.rc, Some(1), "{}", answer.stdout);
    answer.json()
}

fn refused() {
    let mut node = node("fail");
    let daemon = Daemon::start();
    let through: Vec<Value> = ["broken", "absent", "not,a(name"].map(|networks| refusal(&node, networks)).into();
    node.bed.ip("-n a link add net2 type bridge");
    let taken = refusal(&node, "blue,six");
    assert_eq!(left(&node), ["link a/net2"]);
    drop(daemon);
    node.conf["daemonSocketDir"] = json!("");
    let alone: Vec<Value> = ["broken", "absent", "not,a(name"].map(|networks| refusal(&node, networks)).into();
    assert_eq!(through, alone);
    assert_eq!(taken, refusal(&node, "blue,six"));
}
