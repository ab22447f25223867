//! `plexus list`: what is attached, from the journal alone. The kernel and the cluster are not asked.

use std::io::{self, Write};
use std::path::Path;

use plexus::journal::{self, Journal, PodName, Record};
use serde::Serialize;
use serde_json::Value;

use super::failure::Failure;
use super::output::{Format, Out};
use super::table::{Table, or_none};

/// Characters of a sandbox id in the table, as container tools shorten them.
pub(super) const SANDBOX_CHARS: usize = 12;

/// One interface in one pod.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    /// The pod's namespace; empty where the runtime named no pod.
    pub(super) namespace: String,
    /// The pod's name; empty where the runtime named no pod.
    pub(super) pod: String,
    /// The pod's UID, where the runtime told.
    uid: String,
    /// The container id.
    sandbox: String,
    /// The network namespace at ADD.
    netns: String,
    /// `namespace/name` of the definition, or the configuration's name.
    network: String,
    /// In the pod.
    pub(super) interface: String,
    /// The plugin types of the chain, comma between.
    kind: String,
    /// All of the chain was built in process.
    native: bool,
    /// How long it took to attach, in microseconds; 0 until committed.
    pub(super) add_micros: u64,
    /// `committed`, or `intended` where an ADD is under way or was killed.
    state: &'static str,
    /// Of the link in the pod; empty until committed.
    mac: String,
    /// With their prefix lengths; empty until committed.
    ips: Vec<String>,
    /// The annotation `k8s.v1.cni.cncf.io/network-status` of the whole pod, as the API server gets it.
    pub(super) network_status: Option<String>,
}

/// Lists the journal below `state_dir`.
///
/// # Errors
/// The journal, or a record, cannot be read: then what can be is printed. One that is not there is empty.
pub(super) fn run(state_dir: &Path, output: Format, out: &mut Out) -> Result<(), Failure> {
    let (rows, unreadable) = read(state_dir)?;
    match output {
        Format::Json => out.json(&rows)?,
        Format::Table if rows.is_empty() => {
            let _ = writeln!(io::stderr(), "Nothing is attached."); // as kubectl: an empty table has no headers either
        }
        Format::Table => out.text(&table(&rows))?,
    }
    unreadable.map_or(Ok(()), |why| Err(Failure::Input { act: format!("listing {}", state_dir.display()), why }))
}

/// A row for each attachment of each readable record, by file name, and which files could not be read.
///
/// # Errors
/// The directory or a file cannot be read.
pub(super) fn read(state_dir: &Path) -> Result<(Vec<Row>, Option<String>), Failure> {
    let listing = Journal::new(state_dir).all().map_err(|e| Failure::Input {
        act: format!("listing {}", state_dir.display()),
        why: plexus::native::chain(&e),
    })?;
    let unreadable = listing.failure();
    Ok((listing.records.into_iter().flat_map(rows).collect(), unreadable))
}

/// What a record says, as rows.
fn rows(record: Record) -> Vec<Row> {
    let Record { intent, commitment, .. } = record;
    let state = if commitment.is_some() { "committed" } else { "intended" };
    let (outcomes, network_status) = commitment.map(|done| (done.outcomes, done.status)).unwrap_or_default();
    let mut outcomes = outcomes.into_iter();
    let nobody = PodName { namespace: String::new(), name: String::new(), uid: String::new() };
    let PodName { namespace, name: pod, uid } = intent.pod.unwrap_or(nobody);
    let row = |attachment: journal::Attachment| {
        let (result, add_micros) = outcomes.next().map(|done| (done.result, done.micros)).unwrap_or_default();
        let (mac, ips) = link(&attachment.ifname, &result);
        Row {
            namespace: namespace.clone(),
            pod: pod.clone(),
            uid: uid.clone(),
            sandbox: intent.key.sandbox.clone(),
            netns: intent.netns.clone(),
            network: attachment.network,
            interface: attachment.ifname,
            native: attachment.steps.iter().all(|step| step.native),
            kind: attachment.steps.into_iter().map(|step| step.plugin).collect::<Vec<_>>().join(","),
            add_micros,
            state,
            mac,
            ips,
            network_status: network_status.clone(),
        }
    };
    intent.attachments.into_iter().map(row).collect()
}

/// MAC and addresses of an interface in a result.
fn link(interface: &str, result: &Value) -> (String, Vec<String>) {
    let list = |key: &str| result.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_link = |link: &&Value| text(link, "name") == interface && !text(link, "sandbox").is_empty();
    let mac = list("interfaces").iter().find(is_link).map(|link| text(link, "mac")).unwrap_or_default();
    (mac, list("ips").iter().map(|ip| text(ip, "address")).collect())
}

fn table(rows: &[Row]) -> String {
    let headers = ["NAMESPACE", "POD", "SANDBOX", "INTERFACE", "NETWORK", "KIND", "NATIVE", "STATE", "MAC", "IPS"];
    let mut table = Table::new(headers);
    for row in rows {
        let sandbox: String = row.sandbox.chars().take(SANDBOX_CHARS).collect();
        let native = if row.native { "yes" } else { "no" };
        let ips = row.ips.join(",");
        let cells = [&row.namespace, &row.pod, &sandbox, &row.interface, &row.network, &row.kind, native];
        table.row(cells.into_iter().chain([row.state, &row.mac, &ips]).map(or_none));
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use std::fs;

    use super::*;

    fn bytes(lines: &[Value]) -> Vec<u8> {
        lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
    }

    fn intent() -> Value {
        json!({
            "key": {"network": "node", "sandbox": "0123456789abcdef", "ifname": "eth0"},
            "bootId": "b", "netns": "/run/netns/a", "netnsId": [4, 7], "path": [],
            "pod": {"namespace": "demo", "name": "web"},
            "attachments": [
                {"network": "pods", "cniName": "pods", "cniVersion": "1.0.0", "ifname": "eth0", "args": "", "default": true,
                 "steps": [{"type": "bridge", "native": true, "conf": {}}, {"type": "portmap", "native": false, "conf": {}}]},
                {"network": "demo/lan", "cniName": "lan", "cniVersion": "1.0.0", "ifname": "net1", "args": "", "default": false,
                 "steps": [{"type": "macvlan", "native": true, "conf": {}}]}
            ]
        })
    }

    fn commitment() -> Value {
        let first = json!({"result": {
            "interfaces": [{"name": "br0", "mac": "02::b"}, {"name": "eth0", "mac": "02::1", "sandbox": "/run/netns/a"}],
            "ips": [{"address": "10.0.0.2/24", "interface": 1}, {"address": "fd00::2/64", "interface": 1}]
        }, "made": {"ifindex": 2, "mtu": 1500, "up": true}});
        json!({"outcomes": [first, {"result": {}}], "status": "[{}]"})
    }

    #[test]
    fn a_committed_record_shows_what_the_results_say() {
        let all = rows(journal::parse(&bytes(&[intent(), commitment()])).remove(0));
        assert_eq!((all[0].state, all[0].network_status.as_deref()), ("committed", Some("[{}]")));
        let [first, second] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((first.kind.as_str(), first.native), ("bridge,portmap", false));
        assert_eq!(first.mac, "02::1", "the pod's end, not the bridge");
        assert_eq!(first.ips, ["10.0.0.2/24", "fd00::2/64"]);
        assert_eq!((second.interface.as_str(), second.native, second.ips.len()), ("net1", true, 0));
    }

    #[test]
    fn an_intent_alone_is_shown_as_such_in_the_table() {
        let all = rows(journal::parse(&bytes(&[intent()])).remove(0));
        let lines: Vec<String> = table(&all).lines().map(str::to_owned).collect();
        let words: Vec<&str> = lines[2].split_whitespace().collect();
        let expected =
            ["demo", "web", "0123456789ab", "net1", "demo/lan", "macvlan", "yes", "intended", "<none>", "<none>"];
        assert_eq!(words, expected);
    }

    #[test]
    fn json_names_the_status_as_the_api_server_gets_it() {
        let request = serde_json::to_value(rows(journal::parse(&bytes(&[intent(), commitment()])).remove(0))).unwrap();
        assert_eq!(request[1]["networkStatus"], "[{}]");
        assert_eq!(request[0]["ips"][1], "fd00::2/64");
    }

    #[test]
    fn no_journal_is_an_empty_one_and_foreign_files_are_counted() {
        let dir = std::env::temp_dir().join(format!("plexus-list-{}", std::process::id()));
        let (all, unreadable) = read(&dir).unwrap();
        assert_eq!((all.len(), unreadable), (0, None));
        fs::create_dir_all(dir.join("journal")).unwrap();
        fs::write(dir.join("journal/node:0123456789abcdef:eth0.jsonl"), bytes(&[intent()])).unwrap();
        fs::write(dir.join("journal/b.jsonl"), "{}\n").unwrap();
        fs::write(dir.join("journal/boot"), "id").unwrap();
        let read = read(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(read.0.len(), 2);
        assert!(read.1.is_some_and(|told| told.contains("b.jsonl")));
    }
}
