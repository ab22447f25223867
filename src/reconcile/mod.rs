//! The journal against kernel, leases and runtimes, while a daemon runs: what does not agree is told, what is dead is collected.
//!
//! Collected is the whole of a record, by itself, under its own lock, and only where two things speak for its end and nothing
//! against it: its namespace is gone (by its number, and all of the node's can be seen), and no runtime has a note of it, so that no
//! DEL is to come. Of an older boot the boot's id is proof enough. What executed plugins is theirs to undo, by a person's
//! `plexus gc`. Where plexus is being uninstalled a note is believed for a while only: containerd deletes a sandbox by what its configuration
//! says now, so for a pod of a network that is not in there any more no DEL comes. What has no record is only told: nothing says in which namespace its owner was. No link is built anew; rules of
//! a living pod that somebody took from the packet filter are.
//! It does not know who asks for a round, nor what becomes of a report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use backends::nft::Taken;
use serde_json::Value;

use crate::alive::{Known, Life, Observer};
use crate::attach::from_journal;
use crate::cni::error::{CniError, Code};
use crate::collect;
use crate::detach;
use crate::journal::{Intent, Journal, Key, Record};
use crate::native;
use crate::survey::{self, Places, Survey};

mod definitions;
mod look;
mod mend;
mod watch;

pub use definitions::Definitions;
pub use watch::{Watch, watch_host};

/// Records that one round collects; what is more is the next round's.
pub const COLLECTED_MAX: usize = 64;
/// Pods that one round looks into; the next round goes on behind them.
pub const LOOKED_MAX: usize = 512;
/// Findings of one report.
pub const FINDINGS_MAX: usize = 1000;

/// Links of the host that something was taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Their names.
    pub names: BTreeSet<String>,
    /// Their indices.
    pub indices: BTreeSet<u32>,
}

/// Why there is a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The daemon has just begun.
    Start,
    /// It is time again.
    Timer,
    /// Something of the host changed: only the pods that use it are looked into.
    Changed {
        /// Links.
        links: Changed,
        /// What was taken from the packet filter.
        taken: Taken,
    },
    /// Links changed faster than they were told: everything is looked at.
    Lost {
        /// What was taken from the packet filter.
        taken: Taken,
    },
}

/// What does not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A record whose sandbox has ended.
    Ended,
    /// A record of which it cannot be said whether its sandbox lives.
    Unclear,
    /// Records that cannot be read.
    Unreadable,
    /// A file of the journal that says nothing.
    Torn,
    /// A link that is recorded and not there.
    LinkMissing,
    /// A link that is not as it is recorded.
    LinkChanged,
    /// Rules of a pod that lives were taken from the packet filter.
    RulesMissing,
    /// A lease of nobody who lives.
    Lease,
    /// A recorded address without its lease.
    LeaseMissing,
    /// A definition that says something else than what was attached, or is there no more.
    Definition,
    /// A rule of the packet filter, of nobody who lives.
    Rule,
    /// A link that limits rates, of nobody who lives.
    Limit,
    /// A bridge's port that nobody's result names.
    Port,
}

impl What {
    /// All of them.
    pub const ALL: [What; 13] = [
        What::Ended,
        What::Unclear,
        What::Unreadable,
        What::Torn,
        What::LinkMissing,
        What::LinkChanged,
        What::RulesMissing,
        What::Lease,
        What::LeaseMissing,
        What::Definition,
        What::Rule,
        What::Limit,
        What::Port,
    ];

    /// Its word, in counts.
    pub const fn word(self) -> &'static str {
        match self {
            What::Ended => "ended",
            What::Unclear => "unclear",
            What::Unreadable => "unreadable",
            What::Torn => "torn",
            What::LinkMissing => "link_missing",
            What::LinkChanged => "link_changed",
            What::RulesMissing => "rules_missing",
            What::Lease => "lease",
            What::LeaseMissing => "lease_missing",
            What::Definition => "definition",
            What::Rule => "rule",
            What::Limit => "limit",
            What::Port => "port",
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Became {
    /// It was told, and let be.
    Reported,
    /// It was put right.
    Repaired,
    /// It was of the dead, and is gone.
    Collected,
}

/// Something that does not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What.
    pub what: What,
    /// What became of it.
    pub became: Became,
    /// It in one line: whose, where, and what was or can be done.
    pub line: String,
}

/// What a round found and did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// At most [`FINDINGS_MAX`].
    pub found: Vec<Found>,
    /// How many records were collected.
    pub collected: usize,
    /// Dead records are left that this round had no room for.
    pub has_more: bool,
    /// What could not be looked at or removed.
    pub failures: Vec<String>,
    news: BTreeSet<String>,
}

impl Report {
    fn note(&mut self, what: What, line: String) {
        self.note_done(what, Became::Reported, line);
    }

    fn note_done(&mut self, what: What, became: Became, line: String) {
        if self.found.len() < FINDINGS_MAX {
            self.found.push(Found { what, became, line });
        }
    }

    /// What was found that the rounds before did not find.
    pub fn fresh(&self) -> impl Iterator<Item = &Found> {
        self.found.iter().filter(|found| self.news.contains(&found.line))
    }

    /// How often each was found, in the order of [`What::ALL`]; what was not found is left out.
    pub fn counts(&self) -> impl Iterator<Item = (What, usize)> {
        let count = |what: What| self.found.iter().filter(|found| found.what == what).count();
        What::ALL.into_iter().map(move |what| (what, count(what))).filter(|(_, count)| *count > 0)
    }

    /// What a log should have of findings and failures: what the rounds before did not tell.
    pub fn news(&self) -> impl Iterator<Item = &str> {
        self.news.iter().map(String::as_str)
    }
}

/// What one round leaves to the next.
#[derive(Debug, Default)]
pub struct Reconciler {
    told: BTreeSet<String>,
    /// The last record that a collection was tried of.
    collected: Option<Key>,
    /// The last record whose pod was looked into.
    looked: Option<Key>,
    /// firewalld was loaded anew, and has not been told of all pods again.
    reloaded: bool,
    /// Pods whose rules are not right although they were made anew: once more in the next whole round.
    unmended: BTreeSet<Key>,
    /// How long a runtime's note of a container that has ended is believed; without it, for ever.
    patience: Option<Duration>,
    /// Containers that have ended, and since when that is known; only where there is a patience.
    ended: BTreeMap<Key, Instant>,
}

impl Reconciler {
    /// One that believes no note of a runtime for longer than this.
    pub fn with_patience(patience: Duration) -> Self {
        Self { patience: Some(patience), ..Self::default() }
    }

    /// One round. It holds one record at a time, for that record's work, and waits for nobody who has one: what is being attached
    /// or detached is let be.
    pub fn round(&mut self, places: &Places, what: &Cause, definitions: &Definitions) -> Report {
        let mut report = Report::default();
        let taken = match what {
            Cause::Changed { taken, .. } | Cause::Lost { taken } => *taken,
            Cause::Start | Cause::Timer => Taken::default(),
        };
        self.reloaded |= taken.firewalld;
        let (done, is_whole) = match what {
            Cause::Changed { links, .. } => (self.changed(places, links, taken, &mut report), false),
            Cause::Start | Cause::Timer | Cause::Lost { .. } => {
                (self.everything(places, definitions, &mut report), true)
            }
        };
        report.failures.extend(done.err().map(|e| e.msg));
        self.remember(&mut report, is_whole);
        report
    }

    /// What is found again is not told again.
    fn remember(&mut self, report: &mut Report, is_whole: bool) {
        let lines = report.found.iter().map(|found| &found.line).chain(&report.failures);
        let lines: BTreeSet<String> = lines.take(FINDINGS_MAX).cloned().collect();
        report.news = lines.difference(&self.told).cloned().collect();
        // What was put right was wrong again.
        let repaired = report.found.iter().filter(|found| found.became == Became::Repaired);
        report.news.extend(repaired.map(|found| found.line.clone()));
        if is_whole {
            self.told.clear();
        }
        let room = FINDINGS_MAX.saturating_sub(self.told.len());
        self.told.extend(lines.into_iter().take(room));
    }

    fn everything(&mut self, places: &Places, definitions: &Definitions, report: &mut Report) -> Result<(), CniError> {
        let journal = Journal::new(&places.state_dir);
        let mut survey = survey::survey(places)?;
        report.failures.append(&mut survey.failures);
        for torn in &survey.torn {
            match journal.sweep(torn) {
                Ok(true) => {
                    let line = format!("{} said nothing: removed", torn.display());
                    report.note_done(What::Torn, Became::Repaired, line);
                }
                Ok(false) => {} // an ADD has just begun
                Err(e) => report.failures.push(native::chain(&e)),
            }
        }
        tell(&survey, report);
        // Later than the listing: whoever was attached in between is known by now.
        let observer = Observer::look(places.on_node)?;
        self.collect(&survey.ended, places, &observer, report)?;
        let records = last_records(&journal)?;
        compare(records.iter().filter(|record| observer.reach(&record.intent).is_some()), definitions, report);
        self.unmended.clear();
        self.look_at(&records, places, &observer, report);
        Ok(())
    }

    /// The pods that use links of the host which changed; where rules are missing, those that have any.
    fn changed(&mut self, places: &Places, links: &Changed, taken: Taken, report: &mut Report) -> Result<(), CniError> {
        let journal = Journal::new(&places.state_dir);
        let concerns = |record: &Record| {
            look::uses(record, links)
                || taken.rules && mend::has_rules(record)
                || taken.firewalld && mend::has_firewall(record)
        };
        let records: Vec<Record> = last_records(&journal)?.into_iter().filter(concerns).collect();
        if records.is_empty() {
            return Ok(());
        }
        let observer = Observer::look(places.on_node)?;
        self.look_at(&records, places, &observer, report);
        Ok(())
    }

    fn collect(
        &mut self,
        ended: &[Vec<Record>],
        places: &Places,
        observer: &Observer,
        report: &mut Report,
    ) -> Result<(), CniError> {
        if ended.is_empty() {
            return Ok(());
        }
        let journal = Journal::new(&places.state_dir);
        let runtimes = Known::read(&[], &places.cache_dirs)?;
        let given_up = self.given_up(ended);
        let is_dead = |records: &[Record]| {
            observer.life_of(records) == Life::Ended && matches!(kept_because(records, &runtimes, &given_up), Ok(None))
        };
        let mut dead = Vec::new();
        for file in ended {
            let Some(intent) = file.first().map(|record| &record.intent) else { continue };
            match kept_because(file, &runtimes, &given_up)? {
                Some(why) => report.note(What::Ended, format!("{} has ended, and is let be: {why}", whose(intent))),
                None => dead.push(intent),
            }
        }
        dead.sort_by(|one, other| one.key.cmp(&other.key));
        go_on_behind(self.collected.as_ref(), &mut dead, |intent| &intent.key);
        report.has_more = dead.len() > COLLECTED_MAX;
        for intent in dead.into_iter().take(COLLECTED_MAX) {
            self.collected = Some(intent.key.clone());
            match collect::detach_file(&journal, &intent.key, &places.state_dir, &is_dead, Duration::ZERO) {
                Ok(true) => {
                    report.collected += 1;
                    let line = format!("{} had ended without a DEL: collected", whose(intent));
                    report.note_done(What::Ended, Became::Collected, line);
                }
                Ok(false) => {} // somebody was faster
                Err(e) if e.code == Code::TryAgainLater => {}
                Err(e) => {
                    report.note(What::Ended, format!("{} has ended, and cannot be collected", whose(intent)));
                    report.failures.push(format!("{}: {}", whose(intent), e.msg));
                }
            }
        }
        Ok(())
    }

    /// Those of whom no DEL is awaited any more, whatever their runtime has noted.
    fn given_up(&mut self, ended: &[Vec<Record>]) -> BTreeSet<Key> {
        let Some(patience) = self.patience else { return BTreeSet::new() };
        let keys: BTreeSet<&Key> =
            ended.iter().filter_map(|file| file.first()).map(|record| &record.intent.key).collect();
        self.ended.retain(|key, _| keys.contains(key));
        for key in keys {
            self.ended.entry(key.clone()).or_insert_with(Instant::now);
        }
        self.ended.iter().filter(|(_, since)| since.elapsed() >= patience).map(|(key, _)| key.clone()).collect()
    }

    fn look_at(&mut self, records: &[Record], places: &Places, observer: &Observer, report: &mut Report) {
        let mut all: Vec<&Record> = records.iter().collect();
        all.sort_by(|one, other| one.intent.key.cmp(&other.intent.key));
        go_on_behind(self.looked.as_ref(), &mut all, |record| &record.intent.key);
        let mut shared = look::Shared::default();
        let (reloaded, mut left) = (self.reloaded, all.len() > LOOKED_MAX);
        for record in all.into_iter().take(LOOKED_MAX) {
            let key = &record.intent.key;
            self.looked = Some(key.clone());
            match look::differences(record, observer, places, &mut shared) {
                Ok(found) if found.is_empty() && !(reloaded && mend::has_firewall(record)) => {}
                // Something differs, or could not be looked at: it may be leaving. Once more while nobody can be at work on it.
                Ok(_) | Err(_) => match look::confirmed(key, observer, places, self.mends_of(key)) {
                    Ok(confirmed) => {
                        left |= reloaded && !confirmed.failures.is_empty();
                        if confirmed.is_mended_in_vain {
                            self.unmended.insert(key.clone());
                        }
                        confirmed
                            .found
                            .into_iter()
                            .for_each(|(what, became, line)| report.note_done(what, became, line));
                        report.failures.extend(confirmed.failures);
                    }
                    Err(e) => report.failures.push(format!("{}: {}", whose(&record.intent), e.msg)),
                },
            }
        }
        self.reloaded &= left;
    }

    fn mends_of(&self, key: &Key) -> look::Mends {
        look::Mends { rules: !self.unmended.contains(key), firewalld: self.reloaded }
    }
}

/// Those behind the last one first.
fn go_on_behind<T>(last: Option<&Key>, sorted: &mut [T], key: impl Fn(&T) -> &Key) {
    if let Some(last) = last {
        let done = sorted.partition_point(|one| key(one) <= last);
        sorted.rotate_left(done);
    }
}

/// Pods that live against the definitions that they were attached by.
fn compare<'a>(records: impl Iterator<Item = &'a Record>, definitions: &Definitions, report: &mut Report) {
    for record in records {
        for attachment in &record.intent.attachments {
            if let Some(told) = definitions::drift(attachment, definitions) {
                let line = format!("{}: {told}", look::subject(&record.intent, attachment));
                report.note(What::Definition, line);
            }
        }
    }
}

/// What each file of the journal says last.
fn last_records(journal: &Journal) -> Result<Vec<Record>, CniError> {
    let mut last: Vec<Record> = Vec::new();
    for record in journal.all().map_err(|e| from_journal(&e))?.records {
        match last.last_mut().filter(|before| before.intent.key == record.intent.key) {
            Some(before) => *before = record,
            None => last.push(record),
        }
    }
    Ok(last)
}

/// Why a record is not collected although its namespace is gone; none where it may be.
fn kept_because(records: &[Record], runtimes: &Known, given_up: &BTreeSet<Key>) -> Result<Option<String>, CniError> {
    let Some(intent) = records.first().map(|record| &record.intent) else { return Ok(None) };
    if records.iter().any(|record| detach::executes(&record.intent)) {
        return Ok(Some("plugins were executed for it, which `plexus gc` executes again".to_owned()));
    }
    let mut all_old = true;
    for record in records {
        all_old &= !detach::is_of_this_boot(&record.intent)?;
    }
    Ok(if all_old {
        None
    } else if !runtimes.knows_all() {
        Some("no runtime's cache can be seen from here: nobody knows whether its DEL is to come".to_owned())
    } else if runtimes.is_noted(&intent.key.sandbox) && !given_up.contains(&intent.key) {
        Some("its runtime has a note of it, and is to send its DEL".to_owned())
    } else {
        None
    })
}

/// Whose record it is, for a line.
fn whose(intent: &Intent) -> String {
    let Key { network, sandbox, ifname, .. } = &intent.key;
    let pod = intent.pod.as_ref().map(|pod| format!("pod {}/{}, ", pod.namespace, pod.name)).unwrap_or_default();
    format!("{pod}container {sandbox}, {ifname} of network {network:?}")
}

/// What a survey found that is only told.
fn tell(survey: &Survey, report: &mut Report) {
    for intent in survey.unclear.iter().filter_map(|file| file.first()).map(|record| &record.intent) {
        let line = format!("{}: its namespace {} cannot be found, nor that it is gone", whose(intent), intent.netns);
        report.note(What::Unclear, line);
    }
    if let Some(told) = &survey.unreadable {
        report.note(What::Unreadable, told.clone());
    }
    for (directory, held) in &survey.leases {
        let place = directory.data_dir.join(&directory.network);
        let line = format!(
            "address {} in {} is leased to container {}, which nobody knows: see `plexus doctor`",
            held.address,
            place.display(),
            held.sandbox
        );
        report.note(What::Lease, line);
    }
    for rule in &survey.rules {
        report.note(What::Rule, format!("a rule of the packet filter is of nobody who lives: {rule:?}"));
    }
    for limit in &survey.limits {
        report.note(
            What::Limit,
            format!("a link that limits rates is of container {}, which nobody knows", limit.sandbox),
        );
    }
    for port in &survey.ports {
        let line = format!("{}, a port of bridge {}, is in nobody's result", port.name, port.bridge);
        report.note(What::Port, line);
    }
}

/// A text of a configuration.
fn text_of<'a>(conf: &'a serde_json::Map<String, Value>, key: &str) -> Option<&'a str> {
    crate::cni::gojson::field(conf, key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_one_and_what_is_found_again_is_not_told_again() {
        let words: BTreeSet<&str> = What::ALL.into_iter().map(What::word).collect();
        assert_eq!(words.len(), What::ALL.len());
        let mut reconciler = Reconciler::default();
        let mut told = |line: &str, is_whole| {
            let mut report = Report::default();
            report.note(What::Lease, line.to_owned());
            reconciler.remember(&mut report, is_whole);
            assert_eq!(report.news().count(), report.fresh().count());
            (report.news().count(), report.counts().collect::<Vec<_>>())
        };
        assert_eq!(told("a", true), (1, vec![(What::Lease, 1)]));
        assert_eq!(told("a", true), (0, vec![(What::Lease, 1)]));
        assert_eq!(told("b", false).0, 1);
        assert_eq!(told("a", false).0, 0, "a round over some links forgets nothing of the others");
        assert_eq!((told("b", true).0, told("a", true).0), (0, 1), "what was away is told when it comes back");
    }

    #[test]
    fn the_next_round_goes_on_behind_the_last() {
        let key = |name: &str| Key {
            network: name.to_owned(),
            sandbox: String::new(),
            ifname: String::new(),
            plugin: String::new(),
        };
        let mut keys = ["a", "b", "c"].map(key);
        go_on_behind(Some(&key("b")), &mut keys, |key| key);
        assert_eq!(keys, ["c", "a", "b"].map(key));
        keys.sort();
        go_on_behind(Some(&key("c")), &mut keys, |key| key);
        assert_eq!(keys, ["a", "b", "c"].map(key));
    }
}
