//! `plexus explain`: the plan of an ADD as a table. It draws rows; what they say is decided by the plan.

use std::io::{self, Write};
use std::path::Path;

use plexus::engine;
use plexus::plan::{Attachment, How, Step};
use plexus::sources::{self, Manifests};
use serde::Serialize;
use serde_json::Value;

use super::failure::Failure;
use super::output::{Format, Out};
use super::table::{Table, or_none};

/// One attachment of a plan.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    /// In the pod.
    pub(super) interface: String,
    /// `namespace/name` of the definition, or the configuration's name.
    pub(super) network: String,
    /// The `type` of the plugin that makes the link.
    pub(super) kind: String,
    /// Why that plugin is executed; none where plexus builds the link itself.
    pub(super) executed: Option<String>,
    /// The bridge or master on the host; empty where there is none.
    pub(super) parent: String,
    /// The MAC address that was asked for; empty where the kernel chooses.
    pub(super) mac: String,
    /// The addresses that were asked for; the others come from the IPAM plugin.
    pub(super) requests: Vec<String>,
    /// The gateways of the default route, where this attachment takes it.
    pub(super) default_route: Vec<String>,
    /// The plugins that follow in the chain.
    pub(super) chain: Vec<String>,
}

/// Prints what an ADD of the pod would do.
///
/// # Errors
/// The files cannot be read, or what they say is refused: then every refusal is in the error.
pub(super) fn run(pod: &Path, config: &Path, output: Format, out: &mut Out) -> Result<(), Failure> {
    let rows = planned(pod, config)?;
    match output {
        Format::Json => out.json(&rows),
        Format::Table => out.text(&table(&rows)),
    }
}

/// The plan for the pod of a manifest under a configuration.
fn planned(pod: &Path, config: &Path) -> Result<Vec<Row>, Failure> {
    let refuse =
        |why: String| Failure::Input { act: format!("planning {} under {}", pod.display(), config.display()), why };
    let read = |path: &Path| sources::read(path).map_err(|e| refuse(format!("{}: {e}", path.display())));
    let text = String::from_utf8(read(pod)?).map_err(|e| refuse(format!("{}: {e}", pod.display())))?;
    let manifests = Manifests::of_text(&text, pod).map_err(|e| refuse(e.to_string()))?;
    let Some(pod) = manifests.first_pod() else { return Err(refuse("there is no Pod in it".to_owned())) };
    let plan = engine::explain(&read(config)?, &manifests, pod).map_err(|e| refuse(e.to_string()))?;
    for warning in &plan.warnings {
        let _ = writeln!(io::stderr(), "plexus: warning: {warning}"); // nobody to tell
    }
    Ok(plan.attachments.iter().map(row).collect())
}

fn row(attachment: &Attachment) -> Row {
    let text = |step: &Step, key: &str| step.conf.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let first = attachment.steps.first();
    let wanted = |key: &str| {
        let pairs = attachment.args.split(';').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).next().unwrap_or_default()
    };
    let parent = first.map(|step| ["master", "bridge"].map(|key| text(step, key))).unwrap_or_default();
    Row {
        interface: attachment.ifname.clone(),
        network: attachment.network.clone(),
        kind: first.map(|step| step.plugin.clone()).unwrap_or_default(),
        executed: first.and_then(|step| match &step.how {
            How::Executed(why) => Some(why.clone()),
            How::Native(_) | How::Chained(_) => None,
        }),
        parent: parent.into_iter().find(|name| !name.is_empty()).unwrap_or_default(),
        mac: wanted("MAC"),
        requests: wanted("IP").split(',').filter(|ip| !ip.is_empty()).map(str::to_owned).collect(),
        default_route: attachment.default_route.iter().flatten().map(ToString::to_string).collect(),
        chain: attachment.steps.iter().skip(1).map(|step| step.plugin.clone()).collect(),
    }
}

fn table(rows: &[Row]) -> String {
    let headers = ["INTERFACE", "NETWORK", "KIND", "BUILT BY", "PARENT", "MAC", "ADDRESSES", "DEFAULT ROUTE", "THEN"];
    let mut table = Table::new(headers);
    let mut reasons = String::new();
    for row in rows {
        let by = if row.executed.is_some() { "its plugin" } else { "plexus" };
        let (requests, chain) = (row.requests.join(","), row.chain.join(","));
        let default_route = row.default_route.join(",");
        let mac = if row.mac.is_empty() { "<any>" } else { &row.mac };
        let addresses = if requests.is_empty() { "<any>" } else { &requests };
        let cells = [&row.interface, &row.network, &row.kind, by, &row.parent, mac, addresses, &default_route, &chain];
        table.row(cells.map(or_none));
        if let Some(why) = &row.executed {
            reasons.push_str(&format!("\n{}: {} is executed: {why}", row.interface, row.kind));
        }
    }
    if !reasons.is_empty() {
        reasons.push('\n');
    }
    table.render() + &reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(interface: &str) -> Row {
        Row {
            interface: interface.to_owned(),
            network: "demo/lan".to_owned(),
            kind: "macvlan".to_owned(),
            executed: None,
            parent: "eno1".to_owned(),
            mac: String::new(),
            requests: Vec::new(),
            default_route: Vec::new(),
            chain: Vec::new(),
        }
    }

    #[test]
    fn what_is_not_asked_for_is_said_to_be_open() {
        let text = table(&[row("net1")]);
        let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["net1", "demo/lan", "macvlan", "plexus", "eno1", "<any>", "<any>", "<none>", "<none>"]);
        assert_eq!(text.lines().count(), 2, "no reasons where nothing is executed");
    }

    #[test]
    fn what_is_executed_says_why_below_the_table() {
        let executed = Row {
            executed: Some("plexus does not know its key flavour".to_owned()),
            requests: vec!["10.0.0.7/24".to_owned(), "fd00::7/64".to_owned()],
            default_route: vec!["10.0.0.1".to_owned()],
            chain: vec!["tuning".to_owned()],
            ..row("net2")
        };
        let text = table(&[row("net1"), executed]);
        assert!(text.contains("10.0.0.7/24,fd00::7/64   10.0.0.1"), "{text}");
        assert!(text.ends_with("\n\nnet2: macvlan is executed: plexus does not know its key flavour\n"), "{text}");
    }
}
