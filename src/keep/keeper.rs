//! Looks, decides, does, and looks again until nothing is left. It remembers what it wrote, and says each thing once.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::see::{self, Ages};
use super::watch::Watch;
use super::{Action, Keep, Last, Seen, Source, decide};
use crate::confdir::{self, Fate};
use crate::durable;
use crate::install::{self, compose};
use crate::sources;

/// Changes in one look: a name is left, its two forms are removed, and one more is what somebody did meanwhile.
const STEPS_MAX: usize = 8;
/// As Multus writes it: it may name what not everybody has to know.
const MODE: u32 = 0o600;

/// Keeps the configuration of one node.
#[derive(Debug)]
pub struct Keeper {
    conf: Keep,
    watch: Watch,
    ages: Ages,
    /// plexus was ready once: from then on the configuration is there.
    is_begun: bool,
    last: Option<Last>,
    /// What the daemon wrote itself, so that it knows what others removed.
    written: bool,
    restored: u32,
    name: String,
    said: BTreeSet<String>,
    /// The last look found plexus' file as it should be.
    is_in_place: bool,
    refused: Option<String>,
}

impl Keeper {
    /// Begins with what is there. Writes nothing.
    ///
    /// # Errors
    /// The folder of the configurations is there and cannot be read.
    pub fn new(conf: Keep) -> io::Result<Keeper> {
        match fs::read_dir(&conf.dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // Without descriptors to spare, the timer has to do.
        let watch = Watch::new(&[&conf.dir, &conf.networks]).unwrap_or_else(|_| Watch::none());
        let mut keeper = Keeper {
            watch,
            ages: Ages::default(),
            is_begun: false,
            last: None,
            written: false,
            restored: 0,
            name: compose::NAME.to_owned(),
            said: BTreeSet::new(),
            is_in_place: false,
            refused: None,
            conf,
        };
        keeper.take_up();
        Ok(keeper)
    }

    /// An earlier daemon's file, or an installation's.
    fn take_up(&mut self) {
        for file in confdir::read(&self.conf.dir).unwrap_or_default() {
            let (Fate::Chosen(list) | Fate::Ignored(list)) = file.fate else { continue };
            let is_list = file.path.extension().is_some_and(|ending| ending == "conflist");
            if !install::is_ours(&file.path) || !compose::is_meta(&Fate::Chosen(list.clone())) {
                continue;
            }
            let Ok(bytes) = sources::read(&file.path) else { continue };
            let source = decide::read_back(&list, &self.conf.networks);
            if !list.name.is_empty() {
                self.name = list.name;
            }
            self.last = Some(Last { bytes, ending: if is_list { "conflist" } else { "conf" }, source });
            return;
        }
    }

    /// Readable when something in the folders changed, until the next look; none: only a timer tells.
    pub fn watch_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watch.descriptor()
    }

    /// Whether the last look left plexus' file as it should be: pods start by it.
    pub fn is_in_place(&self) -> bool {
        self.is_in_place
    }

    /// Why the last look changed nothing, where that does not change by itself.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// One look, and what follows from it. `ready`: requests can be served. Once it was so, the configuration is kept whatever it
    /// says. Lines for the log: what was done, and each warning once as long as it holds.
    pub fn look(&mut self, ready: bool) -> Vec<String> {
        self.look_at(ready, Instant::now())
    }

    /// The same at a time of the caller's.
    pub(super) fn look_at(&mut self, ready: bool, now: Instant) -> Vec<String> {
        self.watch.renew();
        self.is_begun |= ready;
        let mut done = Vec::new();
        let mut says = Vec::new();
        if let Some(account) = &self.conf.account {
            match account.renew(&self.conf.kubeconfig()) {
                Ok(true) => done.push(format!("wrote {}", self.conf.kubeconfig().display())),
                Ok(false) => {}
                Err(why) => says.push(format!("the node's kubeconfig stays as it is: {why}")),
            }
        }
        for _ in 0..STEPS_MAX {
            let step = self.step(now, &mut done);
            let (is_over, said) = step.unwrap_or_else(|why| (true, vec![why]));
            says.extend(said);
            if is_over {
                break;
            }
        }
        done.extend(self.news(says));
        done
    }

    /// One change. Whether it was the last.
    fn step(&mut self, now: Instant, done: &mut Vec<String>) -> Result<(bool, Vec<String>), String> {
        self.is_in_place = false;
        self.refused = None;
        if self.is_begun {
            fs::create_dir_all(&self.conf.dir).map_err(|e| format!("{}: {e}", self.conf.dir.display()))?;
        }
        let known = Seen { last: self.last.clone(), name: self.name.clone(), ..Seen::default() };
        let seen = see::look(&self.conf, &mut self.ages, known, now)?;
        let decision = decide(&seen, &self.conf, self.is_begun);
        self.is_in_place = decision.action == Action::Nothing;
        let mut says = decision.says;
        match decision.action {
            Action::Nothing => {
                // The same network under another name: what is decided for that name is to be seen by the same look.
                let is_over = self.last == decision.file;
                self.last = decision.file;
                return Ok((is_over, says));
            }
            Action::Wait { why } => {
                says.push(why);
                return Ok((true, says));
            }
            Action::Refuse { why } => {
                self.refused = Some(why);
                return Ok((true, says));
            }
            Action::Remove { path } => {
                let _held = install::hold(&self.conf.dir)?;
                durable::remove(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                done.push(format!("removed {}, another form of plexus' configuration", path.display()));
            }
            Action::Write { path, bytes } => {
                let _held = install::hold(&self.conf.dir)?;
                durable::replace(&path, &bytes, MODE).map_err(|e| format!("{}: {e}", path.display()))?;
                let is_known = self.last.as_ref().is_some_and(|last| last.bytes == bytes);
                let source = decision.file.as_ref().and_then(|file| file.source.as_ref());
                done.extend(self.told(&path.display().to_string(), source, is_known && self.written, &seen));
                self.written = true;
                self.last = decision.file;
            }
        }
        Ok((false, says))
    }

    /// What is said of a file that was written. One that others remove again and again is told ever more rarely.
    fn told(&mut self, path: &str, source: Option<&Source>, is_restored: bool, seen: &Seen) -> Option<String> {
        if !is_restored {
            let source = source.and_then(|source| Some((&source.network, source.path.as_ref()?)));
            let of = source.map(|(network, path)| format!(": network {network:?} of {}", path.display()));
            return Some(format!("wrote {path}{}", of.unwrap_or_default()));
        }
        self.restored = self.restored.saturating_add(1);
        let has_suffix =
            |suffix: &str| seen.files.iter().any(|file| file.path.as_os_str() == format!("{path}{suffix}").as_str());
        let who = if has_suffix(".cilium_bak") { " (by Cilium: set cni.exclusive=false there)" } else { "" };
        let times = self.restored;
        times
            .is_power_of_two()
            .then(|| format!("put back {path}, which was removed or changed by others{who}: {times} times"))
    }

    /// What was not said at the look before.
    fn news(&mut self, says: Vec<String>) -> Vec<String> {
        let before = std::mem::take(&mut self.said);
        let mut news = Vec::new();
        for line in says {
            if self.said.insert(line.clone()) && !before.contains(&line) {
                news.push(line);
            }
        }
        news
    }

    /// The daemon ends. The configuration stays, unless `cleanup` says otherwise. Lines for the log.
    pub fn stop(self) -> Vec<String> {
        if !self.conf.cleanup {
            return Vec::new();
        }
        let remove = |path: &std::path::Path| {
            let removed =
                install::hold(&self.conf.dir).and_then(|_held| durable::remove(path).map_err(|e| e.to_string()));
            match removed {
                Ok(()) => format!("removed {}: pods get their default network alone", path.display()),
                Err(why) => format!("{}: {why}", path.display()),
            }
        };
        let files = confdir::read(&self.conf.dir).unwrap_or_default();
        files.iter().filter(|file| install::is_ours(&file.path)).map(|file| remove(&file.path)).collect()
    }
}
