//! What is to be done, of what is there and of what is wanted. Pure: the clock, too, is in what was seen.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::primary::{self, Primary};
use super::{Found, Keep, Last, Seen, Source, on_node};
use crate::cni::list::{List, PluginConf};
use crate::cni::version::Version;
use crate::confdir::Fate;
use crate::config::daemon::Origin;
use crate::config::{Config, META_TYPES};
use crate::install::{self, Composed, OURS, OURS_EARLIER, compose};

/// What is written where nothing says a version: the newest that every runtime in use speaks.
const VERSION: Version = Version::V1_0_0;

/// One change, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// All is as it should be.
    Nothing,
    /// plexus' file is written.
    Write {
        /// Where.
        path: PathBuf,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// Another form of plexus' file is removed; one is there.
    Remove {
        /// Which.
        path: PathBuf,
    },
    /// It stays as it is, until something changes.
    Wait {
        /// Why.
        why: String,
    },
    /// It stays as it is: what was asked for and what is there exclude each other.
    Refuse {
        /// Why.
        why: String,
    },
}

/// Why there is nothing to write.
enum Without {
    /// Not yet, or not now.
    Waits(String),
    /// A person has to say something else.
    Refused(String),
}

impl From<String> for Without {
    fn from(why: String) -> Without {
        Without::Waits(why)
    }
}

/// What is to be done, and what a person should know meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is to be done now.
    pub action: Action,
    /// Warnings: each holds as long as it is said.
    pub says: Vec<String>,
    /// What plexus' file says once that is done; none: there is to be none yet.
    pub file: Option<Last>,
}

/// The one change that brings the node nearer to what is wanted; decided again after it, and again, until nothing is left.
///
/// - Before `ready` nothing is written.
/// - The default network half written: plexus' file stays. Replaced: it is made anew. Deleted: it stays and says so, as the network
///   is in it and pods can start; whether they get anywhere is the network's own matter. Renamed or put aside: followed.
/// - plexus' file deleted or overwritten: put back, whatever the default network's file is like. Plugins that others chained after
///   plexus (a service mesh's) stay.
/// - A file sorts before plexus' own: said, and plexus' gets a name before that.
pub fn decide(seen: &Seen, conf: &Keep, ready: bool) -> Decision {
    let mut says = Vec::new();
    let wait = |why: String, says| Decision { action: Action::Wait { why }, says, file: None };
    if !ready {
        return wait("plexus is not ready: the runtime's configuration is not written yet".to_owned(), says);
    }
    let wanted = match wanted(seen, conf, &mut says) {
        Ok(file) => file,
        Err(Without::Refused(why)) => return Decision { action: Action::Refuse { why }, says, file: None },
        Err(Without::Waits(why)) => match &seen.last {
            None => return wait(format!("{why}: the runtime's configuration is not written yet"), says),
            Some(last) => {
                says.push(format!("{why}: the runtime's configuration stays as it is"));
                last.clone()
            }
        },
    };
    let path = place(seen, conf, wanted.ending, &mut says);
    let is_right = |file: &Found| file.path == path && is_equal(&file.fate, &wanted);
    let action = if !seen.files.iter().any(is_right) {
        Action::Write { path, bytes: wanted.bytes.clone() }
    } else if let Some(other) = ours(seen).find(|file| file.path != path) {
        Action::Remove { path: other.path.clone() }
    } else {
        Action::Nothing
    };
    Decision { action, says, file: Some(wanted) }
}

fn ours(seen: &Seen) -> impl Iterator<Item = &Found> {
    seen.files.iter().filter(|file| install::is_ours(&file.path))
}

/// plexus' file as it should be.
fn wanted(seen: &Seen, conf: &Keep, says: &mut Vec<String>) -> Result<Last, Without> {
    if let Origin::File(path) = &conf.origin {
        let refused = |why: String| format!("{}: {why}", path.display());
        let whole = seen.given.clone().unwrap_or_else(|| Err("it was not read".to_owned())).map_err(refused)?;
        let made = compose::over_file(whole, &conf.own, &conf.usual()).map_err(refused)?;
        return Ok(last(made, None));
    }
    if conf.names_network() {
        return Ok(last(named_network(seen, conf)?, None));
    }
    let primary = primary::choose(seen, conf, says)?;
    if let Some(why) = differs(&primary, conf) {
        return Err(Without::Refused(why));
    }
    let made = of_primary(&primary, seen, conf).map_err(|why| format!("{}: {why}", primary.path.display()))?;
    let source = Source { path: Some(primary.path.to_owned()), network: primary.list.name.clone() };
    Ok(last(made, Some(source)))
}

/// The daemon's configuration says itself what the default network is.
fn named_network(seen: &Seen, conf: &Keep) -> Result<Composed, String> {
    let mut own = conf.own.clone();
    own.extend(conf.usual());
    let inline = own.get("delegates").and_then(Value::as_array).into_iter().flatten();
    let lists: Vec<List> = inline.filter_map(|one| List::parse_either(one.to_string().as_bytes()).ok()).collect();
    own.insert("capabilities".to_owned(), compose::capabilities(lists.iter()));
    let version = conf.version.unwrap_or(VERSION);
    let is_path = own.contains_key("clusterNetwork");
    let make = if is_path { compose::unread } else { compose::around };
    make(&seen.name, version, own, chained(seen))
}

/// Why the default network is not of the version that it must have.
fn differs(primary: &Primary, conf: &Keep) -> Option<String> {
    let (wanted, has) = (conf.version?, primary.list.cni_version);
    (conf.exact_version && !conf.force_version && wanted != has).then(|| {
        let (file, wanted, has) = (primary.path.display(), wanted.as_str(), has.as_str());
        format!("cniVersion is to be {wanted}, and that of the default network's file {file} is {has}")
    })
}

fn last(made: Composed, source: Option<Source>) -> Last {
    Last { bytes: made.bytes, ending: made.ending, source }
}

/// The default network is inside of the file: pods start with it while its own file is being written, or is gone. Where further
/// networks or an auxiliary chain are wanted, which go with a path only, the file names its path.
fn of_primary(primary: &Primary, seen: &Seen, conf: &Keep) -> Result<Composed, String> {
    let mut list = primary.list.clone();
    if let Some(version) = conf.version.filter(|_| conf.force_version) {
        list.cni_version = version;
    }
    let name = if conf.named_as_primary { &list.name } else { &seen.name };
    let version = conf.version.unwrap_or(list.cni_version);
    let mut own = conf.own.clone();
    own.extend(conf.usual());
    own.insert("capabilities".to_owned(), compose::capabilities(std::iter::once(&list)));
    let by_path = ["defaultNetworks", "auxiliaryCNIChainName"];
    let named: Map<String, Value> = by_path.iter().filter_map(|key| own.remove_entry(*key)).collect();
    let mut inline = own.clone();
    inline.insert("delegates".to_owned(), json!([delegate(&list)]));
    let made = compose::around(name, version, inline, chained(seen))?;
    if named.is_empty() {
        return Ok(made);
    }
    // The path is the node's: it need not be there where the daemon runs. What is in the file was read above.
    own.extend(named);
    own.insert("clusterNetwork".to_owned(), on_node(primary.path).into());
    compose::unread(name, version, own, chained(seen))
}

fn delegate(list: &List) -> Value {
    let plugins: Vec<&Map<String, Value>> = list.plugins.iter().map(|plugin| &plugin.object).collect();
    let mut whole = json!({"cniVersion": list.cni_version.as_str(), "name": list.name, "plugins": plugins});
    let flags = [("disableCheck", list.disable_check), ("disableGC", list.disable_gc)];
    if let Some(whole) = whole.as_object_mut() {
        whole.extend(flags.into_iter().filter(|(_, set)| *set).map(|(key, set)| (key.to_owned(), set.into())));
    }
    whole
}

/// What others put behind plexus in its own file.
fn chained(seen: &Seen) -> &[PluginConf] {
    let is_meta = |plugin: &PluginConf| META_TYPES.contains(&plugin.plugin_type.as_str());
    let split = ours(seen).filter_map(Found::list).filter_map(|list| list.plugins.split_first());
    let (_, after) = split.filter(|(first, _)| is_meta(first)).max_by_key(|(_, after)| after.len()).unzip();
    let after: &[PluginConf] = after.unwrap_or_default();
    if after.iter().any(is_meta) { &[] } else { after }
}

/// Whether a file says the same, however it is laid out.
fn is_equal(fate: &Fate, wanted: &Last) -> bool {
    let (Fate::Chosen(found) | Fate::Ignored(found)) = fate else { return false };
    let made = if wanted.ending == "conflist" { List::parse(&wanted.bytes) } else { List::from_conf(&wanted.bytes) };
    let plain = |list: &List| {
        let mut list = list.clone();
        list.plugins.iter_mut().for_each(|plugin| plugin.raw.clear());
        list
    };
    made.is_ok_and(|made| plain(&made) == plain(found))
}

/// The name that sorts first. It changes only where another file sorts before it.
fn place(seen: &Seen, conf: &Keep, ending: &str, says: &mut Vec<String>) -> PathBuf {
    let names = || std::iter::once(OURS).chain(OURS_EARLIER);
    let path = |name: &str| conf.dir.join(format!("{name}.{ending}"));
    let has = |name: &str| ours(seen).any(|file| file.path.file_stem().is_some_and(|stem| stem == name));
    let present = names().rfind(|name| has(name)).unwrap_or(OURS);
    let before = |path: &Path| {
        seen.files.iter().find(|file| file.fate != Fate::NotRead && !install::is_ours(&file.path) && *file.path < *path)
    };
    let usual = path(present);
    let Some(other) = before(&usual) else { return usual };
    let other = other.path.display();
    let earlier = names().skip_while(|name| *name != present).map(path).find(|path| before(path).is_none());
    match earlier {
        Some(earlier) => {
            says.push(format!("{other} sorts before {}: plexus' is {} now", usual.display(), earlier.display()));
            earlier
        }
        None => {
            says.push(format!("{other} sorts before {}: the runtime may read it and not plexus", usual.display()));
            usual
        }
    }
}

/// What plexus' file was made of, and whether it works.
pub(super) fn read_back(list: &List, networks: &Path) -> Option<Source> {
    let plugin = list.plugins.first().filter(|plugin| META_TYPES.contains(&plugin.plugin_type.as_str()))?;
    let config = Config::parse(&plugin.object).ok()?;
    match config.primary {
        crate::config::Primary::Delegates(delegates) => {
            let name = delegates.first()?.get("name")?.as_str()?;
            Some(Source { path: None, network: name.to_owned() })
        }
        crate::config::Primary::Cluster(name, _) if name.contains('/') => {
            let path = Path::new(&name).file_name().map(|name| networks.join(name));
            Some(Source { path, network: String::new() })
        }
        crate::config::Primary::Cluster(..) => None,
    }
}
