//! `plexus install` and `plexus uninstall`: programs and configuration come and go by steps that are planned first, all of them,
//! and refused before anything is touched where the node is not as it should be. At no instant has the node neither the old
//! configuration nor the new one. It does not know how a plan is shown.

mod act;
pub mod compose;
mod others;

use std::ffi::OsStr;
use std::fs;
use std::iter;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use act::{Act, STAYS, State};
pub use compose::{Composed, Meaning};
pub use others::hold;

use crate::confdir::{self, Fate};
use crate::config::daemon;
use crate::config::{self, Config};
use crate::durable;
use crate::journal::Journal;
use crate::takeover::Cache;
use crate::takeover::back::{self, Handed};

/// plexus' file, without its ending. Of a folder a runtime takes the first that loads, and Multus' is `00-multus`: while Multus still
/// runs, it may write that again.
pub const OURS: &str = "00-0-plexus";
/// The same where another file sorts before the one before: what the daemon turns to.
pub const OURS_EARLIER: [&str; 2] = ["00--plexus", "0--plexus"];
/// How the node reaches the API server while the daemon is away, beside [`OURS`]: the daemon writes it, of its own service account.
pub const LOGIN: &str = "plexus.d/plexus.kubeconfig";
/// Where a daemon listens unless it is told otherwise.
const SOCKET_DIR: &str = "/run/plexus";
/// How a file is called that no runtime reads, and that is put back by going back.
const SAVED: &str = ".before-plexus";
/// The same while the journal is handed over.
const LEAVING: &str = ".before-multus";
/// The programs.
const PROGRAMS: [&str; 2] = ["plexus", "plexus-cni"];
/// Why a program stays.
const NEEDED: &str = "pods are attached by plexus: it stays while `plexus list` shows any; `plexus gc` removes what pods held that \
                      have ended, then uninstall again";
/// What Multus' programs are called.
const MULTUS_NAMES: [&str; 2] = ["multus", "multus-shim"];

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    /// The runtime's configurations.
    pub conf_dir: PathBuf,
    /// The runtime's plugins.
    pub bin_dir: PathBuf,
    /// The journal, where no configuration says it.
    pub state_dir: PathBuf,
    /// Where the programs are that are installed.
    pub programs: PathBuf,
    /// The configuration of Multus' daemon; none: where that usually is, if it is there.
    pub daemon_config: Option<PathBuf>,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// plexus beside the default network that is there.
    Install {
        /// How the API server is reached.
        kubeconfig: Option<PathBuf>,
    },
    /// The programs alone: a daemon writes the configuration.
    Programs,
    /// plexus in Multus' place.
    FromMultus {
        /// Multus' names lead to plexus too.
        names: bool,
        /// How the API server is reached, where Multus' configuration does not say it: its daemon knows by itself.
        kubeconfig: Option<PathBuf>,
    },
    /// Multus in plexus' place.
    ToMultus,
    /// What was there before.
    Uninstall,
}

/// A step, and why.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is changed.
    pub act: Act,
    /// Why.
    pub why: String,
}

/// Everything that will be done, decided.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Keys that mean something else than before.
    pub keys: Vec<Meaning>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// What a person should do when it is done.
    next: Vec<String>,
    bin_dir: PathBuf,
    state_dir: PathBuf,
    cache: Option<Cache>,
}

/// What became of a step.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    /// What it is, in a word.
    pub what: &'static str,
    /// The file it is about; empty of the journal's.
    pub path: String,
    /// How it ended.
    pub state: State,
    /// Why it is done, or why it could not be.
    pub why: String,
}

/// What became of a plan.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// In the order of the plan, up to the first that failed.
    pub steps: Vec<Done>,
    /// Keys that mean something else than before.
    pub keys: Vec<Meaning>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Why it stopped.
    #[serde(skip)]
    pub failure: Option<String>,
}

/// Decides what is to be done. Changes nothing.
///
/// # Errors
/// A sentence: why it cannot be done.
pub fn plan(wish: &Wish, places: &Places) -> Result<Plan, String> {
    let files = || confdir::read(&places.conf_dir).map_err(|why| format!("{}: {why}", places.conf_dir.display()));
    let files = if *wish == Wish::Programs { Vec::new() } else { files()? };
    let node = Node { places, files };
    let mut plan = Plan {
        steps: Vec::new(),
        keys: Vec::new(),
        notes: Vec::new(),
        next: Vec::new(),
        bin_dir: places.bin_dir.clone(),
        state_dir: node.state_dir(),
        cache: None,
    };
    match wish {
        Wish::Install { kubeconfig } => node.install(kubeconfig.as_deref(), &mut plan)?,
        Wish::Programs => node.programs(&mut plan)?,
        Wish::FromMultus { names, kubeconfig } => node.take_over(*names, kubeconfig.as_deref(), &mut plan)?,
        Wish::ToMultus => node.unkept().and_then(|()| node.to_multus(&mut plan, true))?,
        Wish::Uninstall => node.unkept().and_then(|()| node.uninstall(&mut plan))?,
    }
    Ok(plan)
}

/// Decides and does it, up to the first step that fails. Only one at a time does, from its first look at the node on.
///
/// # Errors
/// As [`plan`]; another one is at work.
pub fn carry_out(wish: &Wish, places: &Places) -> Result<Report, String> {
    let _held = others::hold_all(wish, places)?;
    plan(wish, places).map(|plan| plan.run())
}

/// The node as it is found.
struct Node<'a> {
    places: &'a Places,
    files: Vec<confdir::File>,
}

impl Node<'_> {
    fn ours(&self) -> impl Iterator<Item = &confdir::File> {
        self.files.iter().filter(|file| is_ours(&file.path))
    }

    /// Multus' files as the runtime sees them.
    fn multus(&self) -> impl Iterator<Item = &confdir::File> {
        self.files.iter().filter(|file| !is_ours(&file.path) && compose::is_meta(&file.fate))
    }

    /// Multus' files as they were put aside, with the names that they had.
    fn saved(&self) -> Vec<(PathBuf, PathBuf)> {
        let original = |path: &Path| {
            let name = path.as_os_str().as_bytes().strip_suffix(SAVED.as_bytes())?;
            Some(PathBuf::from(OsStr::from_bytes(name)))
        };
        self.files.iter().filter_map(|file| original(&file.path).map(|name| (file.path.clone(), name))).collect()
    }

    fn state_dir(&self) -> PathBuf {
        let all = self.files.iter().filter(|file| is_ours(&file.path) || is_leaving(&file.path));
        let config = all.filter_map(|file| meta_config(&file.path).ok()).next();
        config.map_or_else(|| self.places.state_dir.clone(), |(_, config)| config.state_dir)
    }

    fn programs(&self, plan: &mut Plan) -> Result<(), String> {
        for name in PROGRAMS {
            let (from, to) = (self.places.programs.join(name), self.places.bin_dir.join(name));
            if !from.is_file() {
                return Err(format!("{} is not there: plexus and plexus-cni are installed together", from.display()));
            }
            plan.step(Act::Place { from, to }, "what the runtime and a person execute");
        }
        Ok(())
    }

    /// The file that a runtime reads first must not be half of one: whoever writes it may not have finished.
    fn whole(&self, until: &Path) -> Result<(), String> {
        let before = self.files.iter().filter(|file| file.path <= *until && !is_ours(&file.path));
        for file in before {
            if let Fate::Broken(why) = &file.fate {
                return Err(format!("{} cannot be read, it may be half written: {why}", file.path.display()));
            }
        }
        Ok(())
    }

    fn install(&self, kubeconfig: Option<&Path>, plan: &mut Plan) -> Result<(), String> {
        if let Some(file) = self.multus().next() {
            return Err(format!(
                "{} is Multus': `plexus install --from-multus` takes the node over",
                file.path.display()
            ));
        }
        let primary = self.files.iter().find(|file| compose::is_primary(&file.fate));
        let last = self.files.last().map(|file| file.path.clone()).unwrap_or_default();
        self.whole(primary.map_or(&last, |file| &file.path))?;
        let Some((path, list)) = primary.and_then(|file| Some((&file.path, list_of(&file.fate)?))) else {
            return Err(format!("no network is in {}: install one first", self.places.conf_dir.display()));
        };
        self.programs(plan)?;
        // What a person made of it stays, as long as it works.
        let own = self.ours().find(|file| list_of(&file.fate).is_some_and(|list| compose::check(list).is_ok()));
        if let Some(file) = own {
            plan.step(Act::Stay { path: file.path.clone() }, "plexus' configuration is there, and works");
            return Ok(());
        }
        let composed = compose::of_primary(path, list, kubeconfig)?;
        let why = format!("the runtime's configuration: every pod gets {} and what it asks for", path.display());
        self.write(composed, &why, plan);
        Ok(())
    }

    /// plexus' file; one of another ending goes after it is there.
    fn write(&self, composed: Composed, why: &str, plan: &mut Plan) {
        let path = self.places.conf_dir.join(format!("{OURS}.{}", composed.ending));
        plan.state_dir.clone_from(&composed.config.state_dir);
        plan.notes.extend(composed.config.warnings.iter().cloned());
        plan.keys = composed.keys;
        plan.step(Act::Write { path: path.clone(), bytes: composed.bytes }, why);
        for other in self.ours().filter(|file| file.path != path) {
            plan.step(Act::Remove { path: other.path.clone() }, "another form of plexus' configuration");
        }
    }

    fn take_over(&self, names: bool, kubeconfig: Option<&Path>, plan: &mut Plan) -> Result<(), String> {
        let Some(multus) = self.multus().next() else {
            if let Some(broken) = self.files.iter().find(|file| is_broken_multus(file)) {
                self.whole(&broken.path)?;
            }
            let taken = self.ours().any(|file| list_of(&file.fate).is_some_and(|list| compose::check(list).is_ok()));
            if !taken {
                return Err(format!("no configuration of Multus is in {}", self.places.conf_dir.display()));
            }
            self.programs(plan)?;
            self.names(names, plan);
            for file in self.ours() {
                plan.step(Act::Stay { path: file.path.clone() }, "the node is plexus' already");
            }
            return Ok(());
        };
        self.whole(&multus.path)?;
        let usual = Some(PathBuf::from(daemon::FILE)).filter(|path| path.exists());
        let daemon = self.places.daemon_config.clone().or(usual);
        let composed = compose::of_multus(&multus.path, daemon.as_deref(), kubeconfig, &self.places.conf_dir)?;
        if composed.config.names_definitions() && composed.config.kubeconfig.is_none() {
            // The runtime's plexus-cni is in no pod of the cluster: it could ask nobody, whoever asks here.
            compose::check_named(&composed.config).map_err(|why| {
                let file = multus.path.display();
                format!("{file}: {why}; and no kubeconfig says where definitions are: say it with --kubeconfig FILE")
            })?;
        } else if composed.config.names_definitions() {
            plan.notes
                .push("the default network is a definition: whether it is there, the first ADD will tell".to_owned());
        }
        self.programs(plan)?;
        self.names(names, plan);
        self.write(composed, "the runtime's configuration, of Multus' own; it is read before that", plan);
        for file in self.multus() {
            let act = Act::Move { from: file.path.clone(), to: with_suffix(&file.path) };
            plan.step(act, &format!("kept as {}, which no runtime reads", with_suffix(&file.path).display()));
        }
        plan.next.push("delete Multus' DaemonSet now: while it runs it may write its configuration again".to_owned());
        Ok(())
    }

    /// Multus' names lead to plexus: for a runtime that deletes by the configuration it added with.
    fn names(&self, wanted: bool, plan: &mut Plan) {
        for name in MULTUS_NAMES.iter().filter(|_| wanted) {
            let at = self.places.bin_dir.join(name);
            let to = PathBuf::from("plexus-cni");
            let is_program = fs::symlink_metadata(&at).is_ok_and(|found| !found.is_symlink());
            if is_program {
                // A copy: at no instant is there no program of this name.
                let act = Act::Place { from: at.clone(), to: with_suffix(&at) };
                plan.step(act, "Multus' own program, for going back");
            }
            plan.step(Act::Point { at, to }, "whoever executes Multus executes plexus");
        }
    }

    /// The other way. `strict`: what Multus needs must be there.
    fn to_multus(&self, plan: &mut Plan, strict: bool) -> Result<(), String> {
        let saved = self.saved();
        let there: Vec<PathBuf> = self.multus().map(|file| file.path.clone()).collect();
        let source = saved.first().map(|(path, _)| path).or(there.first());
        let source = source.ok_or_else(|| {
            format!(
                "no configuration of Multus was kept in {}: there is nothing to go back to",
                self.places.conf_dir.display()
            )
        })?;
        let (name, config) = meta_config(source)?;
        let program = self.places.bin_dir.join(&name);
        let kept = with_suffix(&program);
        let is_link = fs::read_link(&program).is_ok_and(|to| to == Path::new("plexus-cni"));
        let is_there = kept.exists() || (program.exists() && !is_link);
        if !is_there {
            let told = format!("{} is not there: install Multus' program first", program.display());
            if strict {
                return Err(told);
            }
            plan.notes.push(told);
        }
        plan.cache = Some(Cache::new(&config.cni_dir));
        let where_ = config.cni_dir.display().to_string();
        plan.step(Act::Hand, &format!("what Multus needs to delete plexus' pods, below {where_}"));
        for name in MULTUS_NAMES {
            let (at, kept) = (self.places.bin_dir.join(name), with_suffix(&self.places.bin_dir.join(name)));
            let is_link = fs::read_link(&at).is_ok_and(|to| to == Path::new("plexus-cni"));
            if kept.exists() {
                plan.step(Act::Move { from: kept, to: at }, "Multus' own program");
            } else if is_link {
                plan.step(Act::Remove { path: at }, "plexus under Multus' name");
            }
        }
        for (from, to) in saved {
            plan.step(Act::Move { from, to }, "Multus' configuration as it was");
        }
        let mut leaving: Vec<PathBuf> =
            self.files.iter().map(|file| file.path.clone()).filter(|path| is_leaving(path)).collect();
        for file in self.ours() {
            let to = with(&file.path, LEAVING);
            plan.step(Act::Move { from: file.path.clone(), to: to.clone() }, "from now on the runtime reads Multus'");
            leaving.push(to);
        }
        plan.step(Act::Retire, "the pods are Multus' now");
        for path in leaving {
            plan.step(Act::Remove { path }, "nothing is plexus' any more");
        }
        Ok(())
    }

    /// A daemon that goes on would write its configuration again, and the programs of that are gone by then.
    fn unkept(&self) -> Result<(), String> {
        let own = self.files.iter().filter(|file| is_ours(&file.path) || is_leaving(&file.path));
        let named = own.filter_map(|file| meta_config(&file.path).ok()?.1.daemon_socket);
        let is_usual = self.places.conf_dir == Path::new(confdir::DIRECTORY);
        let usual = is_usual.then(|| Path::new(SOCKET_DIR).join(config::SOCKET));
        let daemon = named.chain(usual).find(|socket| others::is_listened_on(socket));
        daemon.map_or(Ok(()), |socket| {
            let why = "would bring plexus' configuration back: end it first, with its DaemonSet or its unit";
            Err(format!("the daemon at {} {why}", socket.display()))
        })
    }

    /// What those left that were killed, and how the API server was asked.
    fn remains(&self, plan: &mut Plan) {
        let Places { conf_dir, bin_dir, .. } = self.places;
        let login = conf_dir.join(LOGIN);
        let of_name = |name: &str| ["conf", "conflist"].map(|ending| conf_dir.join(format!("{name}.{ending}")));
        let files = iter::once(OURS).chain(OURS_EARLIER).flat_map(of_name).chain([login.clone()]);
        let programs = PROGRAMS.iter().chain(&MULTUS_NAMES).map(|name| bin_dir.join(name));
        let all = files.chain(programs.flat_map(|program| [with_suffix(&program), program]));
        let is_there = |path: &PathBuf| fs::symlink_metadata(path).is_ok();
        for path in all.map(|path| durable::unfinished(&path)).filter(is_there) {
            plan.step(Act::Remove { path }, "what an installation left that was killed");
        }
        if is_there(&login) {
            plan.step(Act::Remove { path: login }, "how the node reached the API server");
        }
    }

    fn uninstall(&self, plan: &mut Plan) -> Result<(), String> {
        // One that was killed has put Multus' back already, and not yet given it the pods.
        let is_leaving = self.files.iter().any(|file| is_leaving(&file.path));
        let is_both = self.multus().next().is_some() && self.ours().next().is_some();
        if !self.saved().is_empty() || is_leaving || is_both {
            self.to_multus(plan, false)?;
        } else {
            for file in self.ours() {
                plan.step(Act::Remove { path: file.path.clone() }, "the runtime's configuration");
            }
            if !self.files.iter().any(|file| !is_ours(&file.path) && list_of(&file.fate).is_some()) {
                plan.notes.push(format!("no network is left in {}: no pod can start", self.places.conf_dir.display()));
            }
        }
        self.remains(plan);
        for name in PROGRAMS.iter().rev() {
            plan.step(Act::Remove { path: self.places.bin_dir.join(name) }, "what the runtime and a person execute");
        }
        Ok(())
    }
}

impl Plan {
    fn step(&mut self, act: Act, why: &str) {
        self.steps.push(Step { act, why: why.to_owned() });
    }

    /// What would be done.
    pub fn show(&self) -> Report {
        let shown = |step: &Step| {
            if let Act::Remove { path } = &step.act
                && self.cache.is_none()
                && self.is_needed(path)
            {
                return done(&Act::Stay { path: path.clone() }, State::Already, NEEDED.to_owned());
            }
            let state = if step.act.is_done() { State::Already } else { State::Pending };
            done(&step.act, state, step.why.clone())
        };
        let (keys, notes) = (self.keys.clone(), [self.notes.as_slice(), &self.next].concat());
        Report { steps: self.steps.iter().map(shown).collect(), keys, notes, failure: None }
    }

    /// Does it, up to the first step that fails.
    fn run(&self) -> Report {
        let mut report = Report { keys: self.keys.clone(), notes: self.notes.clone(), ..Report::default() };
        let mut handed = Handed::default();
        for step in &self.steps {
            let outcome = match &step.act {
                Act::Hand | Act::Retire => self.hand(&step.act, &mut handed, &mut report.notes),
                Act::Remove { path } if self.is_needed(path) => {
                    report.steps.push(done(&Act::Stay { path: path.clone() }, State::Already, NEEDED.to_owned()));
                    continue;
                }
                act if act.is_done() => Ok(State::Already),
                act => act.run().map(|()| State::Done).map_err(|e| e.to_string()),
            };
            match outcome {
                Ok(state) => report.steps.push(done(&step.act, state, step.why.clone())),
                Err(why) => {
                    let place = step.act.path().map(|path| format!(" {}", path.display())).unwrap_or_default();
                    report.failure = Some(format!("{}{place}: {why}", step.act.what()));
                    report.steps.push(done(&step.act, State::Failed, why));
                    return report;
                }
            }
        }
        report.notes.extend(self.next.iter().cloned());
        report
    }

    /// The journal's pods for Multus.
    fn hand(&self, act: &Act, handed: &mut Handed, notes: &mut Vec<String>) -> Result<State, String> {
        let Some(cache) = &self.cache else { return Ok(State::Already) };
        let journal = Journal::new(&self.state_dir);
        let written = match act {
            Act::Hand => back::hand(&journal, cache),
            _ => back::retire(&self.state_dir, cache, handed),
        };
        let written = written.map_err(|e| e.msg)?;
        notes.extend(written.warnings.iter().cloned());
        if written.changed > 0 {
            notes.push(format!("port mappings of {} pods are now as Multus' plugins make them", written.changed));
        }
        let count = written.keys.len();
        let failures: Vec<String> = written.failures.iter().map(|e| e.msg.clone()).collect();
        *handed = written;
        match (failures.is_empty(), count) {
            (false, _) => Err(failures.join("; ")),
            (true, 0) => Ok(State::Already),
            (true, _) => Ok(State::Done),
        }
    }

    /// Whether a program is needed to delete what is attached. What cannot be read may be an attachment.
    fn is_needed(&self, path: &Path) -> bool {
        let is_program = PROGRAMS.iter().any(|name| *path == self.bin_dir.join(name));
        let listing = Journal::new(&self.state_dir).all();
        is_program
            && listing.map_or(true, |listing| {
                !listing.records.is_empty() || !listing.cut_short.is_empty() || listing.failure().is_some()
            })
    }
}

fn done(act: &Act, state: State, why: String) -> Done {
    let path = act.path().map(|path| path.display().to_string()).unwrap_or_default();
    Done { what: act.what(), path, state, why }
}

/// Whether it is plexus' own file, by its name.
pub fn is_ours(path: &Path) -> bool {
    // A person's copy of it (`.bak`, `.conf~`) is a person's.
    let is_read =
        path.extension().is_some_and(|ending| ["conf", "conflist", "json"].iter().any(|known| ending == *known));
    let is_named = |stem: &OsStr| stem == OURS || OURS_EARLIER.iter().any(|name| stem == *name);
    is_read && path.file_stem().is_some_and(is_named)
}

fn is_broken_multus(file: &confdir::File) -> bool {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    matches!(file.fate, Fate::Broken(_)) && name.contains("multus")
}

fn list_of(fate: &Fate) -> Option<&crate::cni::List> {
    match fate {
        Fate::Chosen(list) | Fate::Ignored(list) => Some(list),
        Fate::Broken(_) | Fate::NotRead => None,
    }
}

/// plexus' file, once it is not read any more and before the journal has forgotten.
fn is_leaving(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(LEAVING).is_some_and(|name| is_ours(Path::new(name)))
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn with_suffix(path: &Path) -> PathBuf {
    with(path, SAVED)
}

/// The type and the configuration of a meta-plugin's file, whatever its name is now.
fn meta_config(path: &Path) -> Result<(String, Config), String> {
    let refused = |why: String| format!("{}: {why}", path.display());
    let bytes = crate::sources::read(path).map_err(refused)?;
    let list = crate::cni::List::parse_either(&bytes).map_err(|e| refused(e.msg))?;
    let of_meta = list.plugins.iter().find(|plugin| config::META_TYPES.contains(&plugin.plugin_type.as_str()));
    let plugin = of_meta.ok_or_else(|| refused("no plugin of it is Multus".to_owned()))?;
    let config = Config::parse(&plugin.object).map_err(|e| refused(e.msg))?;
    Ok((plugin.plugin_type.clone(), config))
}
