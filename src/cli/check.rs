//! `plexus check`: what was attached against what is there, an attachment a row. Nothing is changed.

use std::io::{self, Write};
use std::path::Path;

use plexus::alive::{Life, Observer};
use plexus::check::{Extent, Listed};
use plexus::cni::error::CniError;
use plexus::config::{NativePolicy, Policy};
use plexus::job::Job;
use plexus::journal::{Attachment, Journal, Record};
use plexus::{check, native};
use serde::Serialize;

use super::failure::Failure;
use super::list::SANDBOX_CHARS;
use super::output::{Format, Out};
use super::table::{Table, or_none};

/// One interface in one pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    pod: String,
    sandbox: String,
    interface: String,
    network: String,
    state: State,
    /// What differs; empty where nothing does.
    detail: String,
}

/// What became of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It is as it was attached.
    Ok,
    /// Its configuration disables CHECK.
    Unchecked,
    /// Something is not as it was attached.
    Differs,
    /// Its ADD is under way, or was killed.
    Unfinished,
    /// Its namespace is gone.
    Gone,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Unchecked => "unchecked",
            State::Differs => "differs",
            State::Unfinished => "unfinished",
            State::Gone => "gone",
        }
    }
}

/// Checks every attachment in the journal, or those of one pod: by `namespace/name`, by name, or by the beginning of its
/// sandbox's id.
///
/// # Errors
/// The journal cannot be read; no such pod; something differs, and the rows were printed.
pub(super) fn run(
    state_dir: &Path,
    pod: Option<&str>,
    on_node: bool,
    output: Format,
    out: &mut Out,
) -> Result<(), Failure> {
    let listing = Journal::new(state_dir)
        .all()
        .map_err(|e| Failure::Input { act: format!("listing {}", state_dir.display()), why: native::chain(&e) })?;
    let unread = listing.failure();
    let records: Vec<Record> =
        listing.records.into_iter().filter(|record| pod.is_none_or(|pod| is_of(record, pod))).collect();
    if let Some(pod) = pod.filter(|_| records.is_empty() && unread.is_none()) {
        let why = "nothing is attached for a pod of that name, or a sandbox whose id begins so".to_owned();
        return Err(Failure::Input { act: format!("checking {pod}"), why });
    }
    let observer = Observer::look(on_node).map_err(|e| Failure::Input { act: "checking".to_owned(), why: e.msg })?;
    // What is listed now has whatever these records say.
    let mut listed = Listed::default();
    let rows: Vec<Row> = records.iter().flat_map(|record| rows(record, &observer, state_dir, &mut listed)).collect();
    let differing = rows.iter().filter(|row| !matches!(row.state, State::Ok | State::Unchecked)).count();
    match output {
        Format::Json => out.json(&rows)?,
        Format::Table if rows.is_empty() => drop(writeln!(io::stderr(), "Nothing is attached.")), // as `plexus list`
        Format::Table => out.text(&table(&rows))?,
    }
    if let Some(why) = unread {
        return Err(Failure::Input { act: format!("checking what {} records", state_dir.display()), why });
    }
    if differing > 0 { Err(Failure::Differs { differing, of: rows.len() }) } else { Ok(()) }
}

fn is_of(record: &Record, wanted: &str) -> bool {
    let named = record.intent.pod.as_ref().is_some_and(|pod| match wanted.split_once('/') {
        Some((namespace, name)) => (namespace, name) == (pod.namespace.as_str(), pod.name.as_str()),
        None => wanted == pod.name,
    });
    named || record.intent.key.sandbox.starts_with(wanted)
}

fn rows(record: &Record, observer: &Observer, state_dir: &Path, listed: &mut Listed) -> Vec<Row> {
    let intent = &record.intent;
    let states: Vec<(State, String)> = if observer.life(record) == Life::Ended {
        let detail = format!("the network namespace {} is gone; `plexus gc` removes what is held", intent.netns);
        vec![(State::Gone, detail); intent.attachments.len()]
    } else if record.commitment.is_none() {
        let detail = "its ADD is under way, or was killed: then its DEL, or `plexus gc` once its namespace is gone";
        vec![(State::Unfinished, detail.to_owned()); intent.attachments.len()]
    } else {
        checked(record, state_dir, listed)
    };
    let row = |(attachment, (state, detail)): (&Attachment, (State, String))| Row {
        namespace: intent.pod.as_ref().map(|pod| pod.namespace.clone()).unwrap_or_default(),
        pod: intent.pod.as_ref().map(|pod| pod.name.clone()).unwrap_or_default(),
        sandbox: intent.key.sandbox.clone(),
        interface: attachment.ifname.clone(),
        network: attachment.network.clone(),
        state,
        detail,
    };
    intent.attachments.iter().zip(states).map(row).collect()
}

fn checked(record: &Record, state_dir: &Path, listed: &mut Listed) -> Vec<(State, String)> {
    let request = check::request_of(record);
    let job = Job {
        request: &request,
        plugin: "",
        policy: Policy::unrestricted(NativePolicy::Auto),
        state_dir: state_dir.to_owned(),
        place: &plexus::place::OfFiles,
    };
    let attachments = &record.intent.attachments;
    match check::attachments(&job, record, Extent::All, listed) {
        Err(refusal) => vec![(State::Differs, refusal.msg); attachments.len()],
        Ok(outcomes) => {
            attachments.iter().zip(outcomes).map(|(attachment, outcome)| state(attachment, outcome)).collect()
        }
    }
}

fn state(attachment: &Attachment, outcome: Result<(), CniError>) -> (State, String) {
    match outcome {
        Err(refusal) => (State::Differs, refusal.msg),
        Ok(()) if attachment.disable_check => (State::Unchecked, "its configuration says disableCheck".to_owned()),
        Ok(()) => (State::Ok, String::new()),
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(["NAMESPACE", "POD", "SANDBOX", "INTERFACE", "NETWORK", "STATE", "DETAIL"]);
    for row in rows {
        let sandbox: String = row.sandbox.chars().take(SANDBOX_CHARS).collect();
        let cells = [&row.namespace, &row.pod, &sandbox, &row.interface, &row.network, row.state.word()];
        table.row(cells.map(or_none).into_iter().chain([row.detail.as_str()]));
    }
    table.render()
}
