//! `plexus gc`: removes what nobody who lives holds, or says what it would remove. A person's GC: the runtime's own has the list of
//! who lives; this one asks the journal's namespaces and the runtimes' cache.

use std::io::{self, Write};

use plexus::survey::{self, Directory, Places, Survey};
use serde::Serialize;

use super::failure::Failure;
use super::list::SANDBOX_CHARS;
use super::output::{Format, Out};
use super::table::{Table, or_none};

/// Something that nobody holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Leak {
    /// `attachment`, `lease`, `rules` or `port`.
    pub(super) what: &'static str,
    /// Where it is.
    pub(super) place: String,
    /// The container that held it; empty where nobody says.
    pub(super) sandbox: String,
    /// Why it is nobody's.
    pub(super) why: String,
    /// What removes it; empty where nobody can know that it may be removed.
    pub(super) remedy: String,
}

/// Finds, and unless `dry` removes.
///
/// # Errors
/// The journal or the cache cannot be read; something could not be removed.
pub(super) fn run(places: &Places, dry: bool, output: Format, out: &mut Out) -> Result<(), Failure> {
    let act = || format!("collecting below {}", places.state_dir.display());
    let refused = |e: plexus::cni::CniError| Failure::Input { act: act(), why: e.msg };
    let survey = survey::survey(places).map_err(refused)?;
    let ours: Vec<Leak> = leaks(&survey).into_iter().filter(|leak| leak.remedy == REMEDY).collect();
    if !dry {
        survey::remove(&survey, places).map_err(refused)?;
    }
    if !survey.is_certain {
        let cache = places.cache_dir.display();
        let _ = writeln!(io::stderr(), "plexus: there is no {cache}: leases and rules without a record are let be"); // nobody to tell
    }
    match output {
        Format::Json => out.json(&ours),
        Format::Table if ours.is_empty() => {
            let _ = writeln!(io::stderr(), "Nothing is held by nobody."); // as kubectl: no headers without rows
            Ok(())
        }
        Format::Table => out.text(&table(&ours, if dry { "would be removed" } else { "removed" })),
    }
}

fn table(leaks: &[Leak], done: &str) -> String {
    let mut table = Table::new(["WHAT", "WHERE", "SANDBOX", "STATE", "WHY"]);
    for leak in leaks {
        let sandbox: String = leak.sandbox.chars().take(SANDBOX_CHARS).collect();
        table.row([leak.what, &leak.place, or_none(&sandbox), done, &leak.why]);
    }
    table.render()
}

/// What removes what is plexus' to remove.
pub(super) const REMEDY: &str = "plexus gc";

/// What a survey found, a row each.
pub(super) fn leaks(survey: &Survey) -> Vec<Leak> {
    let remedy = if survey.is_certain { REMEDY } else { "" };
    let mut leaks = Vec::new();
    for record in &survey.records {
        let intent = &record.intent;
        for attachment in &intent.attachments {
            leaks.push(Leak {
                what: "attachment",
                place: format!("{} of network {}", attachment.ifname, attachment.network),
                sandbox: intent.key.sandbox.clone(),
                why: format!("its network namespace {} is gone", intent.netns),
                remedy: REMEDY.to_owned(),
            });
        }
    }
    let known: Vec<&str> = survey.records.iter().map(|record| record.intent.key.sandbox.as_str()).collect();
    for (Directory { data_dir, network }, held) in &survey.leases {
        if known.contains(&held.sandbox.as_str()) {
            continue;
        }
        leaks.push(Leak {
            what: "lease",
            place: data_dir.join(network).join(held.address.to_string()).display().to_string(),
            sandbox: held.sandbox.clone(),
            why: "neither the journal nor a runtime knows its holder".to_owned(),
            remedy: remedy.to_owned(),
        });
    }
    for rules in survey.rules.iter().filter(|rules| !known.iter().any(|known| rules.can_be_of(known))) {
        leaks.push(Leak {
            what: "rules",
            place: format!("{}: {}", rules.place(), rules.comment),
            sandbox: rules.sandbox.clone(),
            why: "neither the journal nor a runtime knows whose they are".to_owned(),
            remedy: remedy.to_owned(),
        });
    }
    for port in survey.ports.iter().filter(|_| survey.is_certain) {
        leaks.push(Leak {
            what: "port",
            place: format!("{} of bridge {}", port.name, port.bridge),
            sandbox: String::new(),
            why: "no result names it, and its other end is in some namespace".to_owned(),
            remedy: format!("ip link delete {}", port.name),
        });
    }
    leaks
}
