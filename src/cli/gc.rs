//! `plexus gc`: removes what nobody who lives holds, or says what it would remove. A person's GC: the runtime's own has the list of
//! who lives; this one asks the journal's namespaces and the runtimes' cache.

use std::io::{self, Write};

use plexus::journal::Key;
use plexus::survey::{self, Directory, Left, Places, Survey};
use serde::Serialize;

use super::failure::Failure;
use super::list::SANDBOX_CHARS;
use super::output::{Format, Out};
use super::table::{Table, or_none, printable};

/// Something that nobody holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Leak {
    /// `attachment`, `lease`, `rules`, `limits` or `port`.
    pub(super) what: &'static str,
    /// Where it is.
    pub(super) place: String,
    /// The container that held it; empty where nobody says.
    pub(super) sandbox: String,
    /// Why it is nobody's.
    pub(super) why: String,
    /// What removes it; empty where nobody can know that it may be removed.
    pub(super) remedy: String,
    /// What has to go for it to go.
    #[serde(skip)]
    of: Of,
}

/// What a leak is a part of: that goes as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Of {
    File(Key),
    Directory(Directory),
    Rules,
    Limits,
    Nobody,
}

impl Leak {
    fn is_left(&self, left: &Left) -> bool {
        match &self.of {
            Of::File(key) => left.files.contains(key),
            Of::Directory(directory) => left.directories.contains(directory),
            Of::Rules => left.rules,
            Of::Limits => left.limits,
            Of::Nobody => true,
        }
    }
}

/// A leak, and what became of it.
#[derive(Serialize)]
struct Done<'a> {
    #[serde(flatten)]
    leak: &'a Leak,
    removed: bool,
}

/// Finds, and unless `dry` removes.
///
/// # Errors
/// The journal or the cache cannot be read; something could not be removed.
pub(super) fn run(places: &Places, dry: bool, unrecorded: bool, output: Format, out: &mut Out) -> Result<(), Failure> {
    let act = || format!("collecting below {}", places.state_dir.display());
    let refused = |e: plexus::cni::CniError| Failure::Input { act: act(), why: e.msg };
    let survey = survey::survey(places).map_err(refused)?;
    let all = leaks(&survey);
    let is_ours = |leak: &&Leak| leak.remedy == REMEDY || (unrecorded && leak.remedy == UNRECORDED);
    let ours: Vec<Leak> = all.iter().filter(is_ours).cloned().collect();
    // What was tried is told, whatever came of it; then what went wrong.
    let left = if dry { Left::default() } else { survey::remove(&survey, places, unrecorded).map_err(refused)? };
    let others = all.iter().filter(|leak| leak.remedy == UNRECORDED && !unrecorded).count();
    let complain = |line: String| drop(writeln!(io::stderr(), "plexus: {}", printable(&line))); // nobody to tell
    if others > 0 {
        complain(format!(
            "{others} leases or rules without a record are let be: see `plexus doctor`, and `{UNRECORDED}`"
        ));
    }
    let unclear = all.iter().filter(|leak| leak.remedy.is_empty());
    unclear.for_each(|leak| complain(format!("{} {} is let be: {}", leak.what, leak.place, leak.why)));
    survey.failures.iter().for_each(|failure| complain(format!("not looked at: {failure}")));
    match output {
        Format::Json => {
            let done: Vec<Done> =
                ours.iter().map(|leak| Done { leak, removed: !dry && !leak.is_left(&left) }).collect();
            out.json(&done)?;
        }
        Format::Table if ours.is_empty() => {
            let _ = writeln!(io::stderr(), "Nothing is held by nobody."); // as kubectl: no headers without rows
        }
        Format::Table => {
            let done = |leak: &Leak| match dry {
                true => "would be removed",
                false if leak.is_left(&left) => "tried",
                false => "removed",
            };
            out.text(&table(&ours, &done))?;
        }
    }
    let unread = survey.unreadable.map(|why| Failure::Input { act: act(), why });
    left.failure.map_or(Ok(()), |e| Err(refused(e)))?;
    unread.map_or(Ok(()), Err)
}

fn table(leaks: &[Leak], done: &dyn Fn(&Leak) -> &'static str) -> String {
    let mut table = Table::new(["WHAT", "WHERE", "SANDBOX", "STATE", "WHY"]);
    for leak in leaks {
        let sandbox: String = leak.sandbox.chars().take(SANDBOX_CHARS).collect();
        table.row([leak.what, &leak.place, or_none(&sandbox), done(leak), &leak.why]);
    }
    table.render()
}

/// What removes what pods held that have ended.
pub(super) const REMEDY: &str = "plexus gc";
/// What removes leases and rules that no record and no runtime knows, too.
const UNRECORDED: &str = "plexus gc --unrecorded";

/// What a survey found, a row each.
pub(super) fn leaks(survey: &Survey) -> Vec<Leak> {
    let mut leaks: Vec<Leak> = Vec::new();
    let ended = survey.ended.iter().flatten().map(|record| (record, "is gone", REMEDY));
    let unclear = survey.unclear.iter().flatten().map(|record| (record, "cannot be found from here", ""));
    for (record, why, remedy) in ended.chain(unclear) {
        let intent = &record.intent;
        leaks.extend(intent.attachments.iter().map(|attachment| Leak {
            what: "attachment",
            place: format!("{} of network {}", attachment.ifname, attachment.network),
            sandbox: intent.key.sandbox.clone(),
            why: format!("its network namespace {} {why}", intent.netns),
            remedy: remedy.to_owned(),
            of: Of::File(intent.key.clone()),
        }));
    }
    let (why, unrecorded) = if survey.is_certain() {
        ("neither the journal nor the runtimes' cache knows whose it is", UNRECORDED)
    } else if survey.knows_all {
        ("a record that cannot be read may be its holder's", "")
    } else {
        ("the journal does not know whose it is, and there is no cache of a runtime to ask", "")
    };
    let unknown = |what: &'static str, place: String, sandbox: &str, remedy: &str, of: Of| Leak {
        what,
        place,
        sandbox: sandbox.to_owned(),
        why: why.to_owned(),
        remedy: remedy.to_owned(),
        of,
    };
    for (directory, held) in &survey.leases {
        let Directory { data_dir, network } = directory;
        let place = data_dir.join(network).join(held.address.to_string()).display().to_string();
        leaks.push(unknown("lease", place, &held.sandbox, unrecorded, Of::Directory(directory.clone())));
    }
    for rules in &survey.rules {
        let place = format!("{}: {}", rules.place(), rules.comment);
        leaks.push(unknown("rules", place, &rules.sandbox, unrecorded, Of::Rules));
    }
    for limits in &survey.limits {
        leaks.push(unknown("limits", format!("link {}", limits.device), &limits.sandbox, unrecorded, Of::Limits));
    }
    for port in survey.ports.iter().filter(|_| survey.is_certain()) {
        let place = format!("{} of bridge {}", port.name, port.bridge);
        leaks.push(unknown("port", place, "", &format!("ip link delete {}", port.name), Of::Nobody));
    }
    leaks
}
