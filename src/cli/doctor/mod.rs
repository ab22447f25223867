//! `plexus doctor`: what this kernel and this node can do, what the runtime will do with its configurations, and what is wrong. One
//! row a finding; nothing is changed.

mod devices;
mod networks;
mod node;

use std::collections::BTreeMap;
use std::path::PathBuf;

use plexus::cards::Card;
use plexus::survey::{self, Places};
use serde::Serialize;

use super::failure::Failure;
use super::gc;
use super::output::{Format, Out};
use super::table::{Table, printable};

/// How many leaks of one sort are shown, on one screen.
const SHOWN_MAX: usize = 5;

/// Where to look.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// Journal, cache, leases, bridges.
    pub(super) places: Places,
    /// The runtime's network configurations.
    pub(super) conf_dir: PathBuf,
    /// Where the runtime finds plugins.
    pub(super) bin_dir: PathBuf,
    /// Where sysfs is.
    pub(super) sysfs: PathBuf,
}

/// How good or bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// To be known; nothing has to be done.
    Note,
    /// Pods will suffer, or something is held by nobody.
    Wrong,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Note => "note",
            State::Wrong => "WRONG",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    /// `node`, `kind`, `device`, `net.d`, `plugin`, `pool`, `leak`.
    area: &'static str,
    what: String,
    state: State,
    detail: String,
    /// What mends it; empty where nothing has to be, or nobody can say what.
    remedy: String,
    /// All that is known of a card, on its own row: what a screen has no room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<Box<Card>>,
}

impl Finding {
    fn new(area: &'static str, what: impl Into<String>, state: State, detail: impl Into<String>) -> Finding {
        Finding { area, what: what.into(), state, detail: detail.into(), remedy: String::new(), card: None }
    }

    fn mended_by(self, remedy: impl Into<String>) -> Finding {
        Finding { remedy: remedy.into(), ..self }
    }
}

/// Looks at everything and prints it.
///
/// # Errors
/// Something is wrong, and was printed.
pub(super) fn run(mut around: Surroundings, output: Format, out: &mut Out) -> Result<(), Failure> {
    let mut findings = node::findings(&around);
    findings.extend(devices::findings(&around));
    findings.extend(networks::findings(&mut around));
    findings.extend(held(&around));
    let wrong = findings.iter().filter(|finding| finding.state == State::Wrong).count();
    match output {
        Format::Json => out.json(&findings)?,
        Format::Table => out.text(&render(&findings))?,
    }
    if wrong > 0 { Err(Failure::Unwell { wrong }) } else { Ok(()) }
}

/// The journal, and what is held by nobody who lives.
fn held(around: &Surroundings) -> Vec<Finding> {
    let journal = around.places.state_dir.join("journal").display().to_string();
    let survey = match survey::survey(&around.places) {
        Ok(survey) => survey,
        Err(e) => return vec![Finding::new("leak", journal, State::Note, format!("not looked at: {}", e.msg))],
    };
    let mut findings = vec![match &survey.unreadable {
        None => {
            Finding::new("node", &journal, State::Ok, format!("{} pods and attachments are recorded", survey.recorded))
        }
        Some(why) => Finding::new("node", &journal, State::Wrong, why).mended_by(
            "make the journal readable again (disk, permissions); what is no record of plexus' may be moved away",
        ),
    }];
    if !survey.torn.is_empty() {
        let text =
            format!("{} records say nothing: of ADDs under way, or killed before they did anything", survey.torn.len());
        findings.push(Finding::new("node", &journal, State::Note, text).mended_by(gc::REMEDY));
    }
    findings.extend(survey.failures.iter().map(|text| Finding::new("leak", "survey", State::Note, text)));
    if !survey.knows_all {
        let text = "no runtime has one: who holds what is not in the journal nobody can say";
        findings.push(Finding::new("leak", "the runtimes' cache", State::Note, text));
    }
    let leaks = gc::leaks(&survey);
    // Without a cache a runtime may know; a port may be of a pod that somebody attached by hand.
    let is_wrong = |leak: &gc::Leak| leak.remedy == gc::REMEDY || (survey.is_certain() && leak.what != "port");
    for what in ["attachment", "lease", "rules", "port"] {
        let more = leaks.iter().filter(|leak| leak.what == what).count().saturating_sub(SHOWN_MAX);
        if let Some(last) = leaks.iter().rev().find(|leak| leak.what == what).filter(|_| more > 0) {
            let state = if is_wrong(last) { State::Wrong } else { State::Note };
            findings.push(Finding::new(
                "leak",
                format!("{more} more of: {what}"),
                state,
                "`plexus gc -n --unrecorded` lists them",
            ));
        }
    }
    let mut shown: BTreeMap<&'static str, usize> = BTreeMap::new();
    let leaks = leaks.into_iter().filter(|leak| {
        let count = shown.entry(leak.what).or_default();
        *count += 1;
        *count <= SHOWN_MAX
    });
    findings.extend(leaks.map(|leak| {
        let state = if is_wrong(&leak) { State::Wrong } else { State::Note };
        Finding::new("leak", format!("{} {}", leak.what, leak.place), state, leak.why).mended_by(leak.remedy)
    }));
    findings
}

/// The table, and below it what to do.
fn render(findings: &[Finding]) -> String {
    let mut table = Table::new(["AREA", "WHAT", "STATE", "DETAIL"]);
    for finding in findings {
        table.row([finding.area, &finding.what, finding.state.word(), &finding.detail]);
    }
    let mut text = table.render();
    let mut remedies: Vec<String> = Vec::new();
    for finding in findings.iter().filter(|finding| finding.state != State::Ok && !finding.remedy.is_empty()) {
        let remedy = printable(&finding.remedy);
        if !remedies.contains(&remedy) {
            remedies.push(remedy);
        }
    }
    if !remedies.is_empty() {
        text.push_str("\nWhat to do:\n");
        remedies.iter().for_each(|remedy| text.push_str(&format!("  {remedy}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mends_several_things_is_said_once() {
        let leak = |what: &str| Finding::new("leak", what, State::Wrong, "nobody's").mended_by("plexus gc");
        let fine = Finding::new("node", "kernel", State::Ok, "6.1").mended_by("not needed");
        let text = render(&[fine, leak("a"), leak("b")]);
        let expected = "\
AREA   WHAT     STATE   DETAIL
node   kernel   ok      6.1
leak   a        WRONG   nobody's
leak   b        WRONG   nobody's

What to do:
  plexus gc
";
        assert_eq!(text, expected);
    }
}
