//! A configuration of type `plexus-cni` made of what the node has: Multus' own, or the default network's alone. Nothing is written
//! here, and what is made is read back as a runtime and a call would read it before anybody gets it.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cluster;
use crate::cni::gojson;
use crate::cni::list::{List, PluginConf};
use crate::cni::version::Version;
use crate::confdir::{self, Fate};
use crate::config::daemon::{DAEMON_KEYS, DaemonConfig};
use crate::config::{Config, META_TYPES};
use crate::gather;
use crate::sources;

/// The type that a runtime executes.
const TYPE: &str = "plexus-cni";
/// What a network is called that the default network's file alone was the reason for.
pub const NAME: &str = "plexus";
/// Where Multus' containers see the node's root.
const HOST_ROOT: &str = "/host";
/// Keys that are paths on the node.
const PATH_KEYS: [&str; 6] = ["confDir", "binDir", "cniDir", "kubeconfig", "readinessindicatorfile", "logFile"];
/// Keys that mean more, less or something else than under Multus.
const MEANINGS: [(&str, &str); 9] = [
    ("daemonSocketDir", "left out: it is where Multus' daemon listens"),
    (
        "kubeconfig",
        "the same file; its token is renewed by Multus' DaemonSet or by nobody: give plexus one of its own before that goes",
    ),
    ("logOptions", "holds for every call; Multus' plugin does not apply it"),
    (
        "namespaceIsolation",
        "holds for the default-network annotation too, which may also name definitions of multusNamespace",
    ),
    ("readinessindicatorfile", "ADD waits for it; STATUS does not, and says at once when it is not there"),
    ("retryDeleteOnError", "always so: what a DEL could not finish, the next one does"),
    ("systemNamespaces", "decides on defaultNetworks alone: every pod gets its network-status"),
    ("cniConf", "written as confDir, which Multus' installer means"),
    ("allowTryDeleteOnErr", "nobody reads it: see retryDeleteOnError"),
];
/// The same of the daemon's own part.
const DAEMON_MEANINGS: [(&str, &str); 4] = [
    ("chrootDir", "not needed: plugins are executed on the node itself"),
    (
        "perNodeCertificate",
        "`plexus daemon --config` keeps the certificate; without it nobody renews it once Multus' daemon has gone",
    ),
    ("multusConfigFile", "not needed: the node's configuration is what it made of it"),
    ("overrideNetworkName", "not needed: the network keeps its name"),
];
const NO_DAEMON: &str = "without effect: there is no daemon of Multus";

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Meaning {
    /// The key.
    pub key: String,
    /// What it is now.
    pub meaning: String,
}

/// A configuration that a runtime can be given.
#[derive(Clone, Debug)]
pub struct Composed {
    /// The file.
    pub bytes: Vec<u8>,
    /// How its name ends.
    pub ending: &'static str,
    /// What it says.
    pub config: Config,
    /// Keys that mean something else.
    pub keys: Vec<Meaning>,
}

/// Of Multus' file and, where there is one, of its daemon's.
///
/// # Errors
/// A sentence: something cannot be read, or what would come of it would not work.
pub(super) fn of_multus(
    file: &Path,
    daemon: Option<&Path>,
    kubeconfig: Option<&Path>,
    conf_dir: &Path,
) -> Result<Composed, String> {
    let refused = |why: String| format!("{}: {why}", file.display());
    let mut whole = object(file)?;
    let is_list = whole.get("plugins").is_some();
    let mut keys = Vec::new();
    let own = if is_list { meta_plugin(&mut whole) } else { Some(&mut whole) };
    let own = own.ok_or_else(|| refused("no plugin of it is Multus".to_owned()))?;
    if let Some(daemon) = daemon {
        over(own, daemon, &mut keys)?;
    }
    if let Some(path) = kubeconfig {
        put(own, "kubeconfig", json!(path));
    }
    let before = gojson::field(own, "type").and_then(Value::as_str).unwrap_or_default();
    let is_known = gojson::field(own, "kubeconfig").and_then(Value::as_str).is_some_and(|path| !path.is_empty());
    if before == "multus-shim" && !is_known {
        let why = "Multus' daemon knows the API server by its service account, plexus-cni does not: say how with --kubeconfig FILE";
        return Err(refused(why.to_owned()));
    }
    keys.push(Meaning { key: "type".to_owned(), meaning: format!("{TYPE}, and was {before}") });
    put(own, "type", TYPE.into());
    if let Some(Value::String(dir)) = take(own, "cniConf") {
        keys.push(meaning_of("cniConf"));
        if gojson::field(own, "confDir").and_then(Value::as_str).is_none_or(str::is_empty) {
            put(own, "confDir", strip(&dir).unwrap_or(&dir).into());
        }
    }
    take(own, "daemonSocketDir").is_some().then(|| keys.push(meaning_of("daemonSocketDir")));
    place(own, conf_dir, &mut keys).map_err(refused)?;
    for (key, _) in MEANINGS {
        let is_set = gojson::field(own, key).is_some_and(|value| !value.is_null());
        if is_set && !keys.iter().any(|known| known.key == key) {
            keys.push(meaning_of(key));
        }
    }
    finish(&whole, is_list, keys).map_err(refused)
}

/// Of the default network's file alone.
///
/// # Errors
/// As [`of_multus`].
pub(super) fn of_primary(file: &Path, list: &List, kubeconfig: Option<&Path>) -> Result<Composed, String> {
    let mut plugin = Map::from_iter([
        ("clusterNetwork".to_owned(), json!(file)),
        ("capabilities".to_owned(), capabilities(std::iter::once(list))),
    ]);
    if let Some(path) = kubeconfig {
        plugin.insert("kubeconfig".to_owned(), json!(path));
    }
    around(NAME, list.cni_version, plugin, &[]).map_err(|why| format!("{}: {why}", file.display()))
}

/// What a runtime must send, for networks to get it: the capabilities that any plugin of them has.
pub fn capabilities<'a>(lists: impl Iterator<Item = &'a List>) -> Value {
    let all = lists.flat_map(|list| &list.plugins).flat_map(|plugin| &plugin.capabilities);
    Value::Object(all.filter(|(_, has)| **has).map(|(name, _)| (name.clone(), true.into())).collect())
}

/// A network of one plugin with these keys beside its type, and of what others chained after it.
///
/// # Errors
/// A sentence: what would come of it would not work.
pub fn around(
    name: &str,
    version: Version,
    plugin: Map<String, Value>,
    after: &[PluginConf],
) -> Result<Composed, String> {
    finish(&whole(name, version, plugin, after), true, Vec::new())
}

/// The same where the networks that it names cannot be read from here.
///
/// # Errors
/// As [`around`], as far as the file itself goes.
pub fn unread(
    name: &str,
    version: Version,
    plugin: Map<String, Value>,
    after: &[PluginConf],
) -> Result<Composed, String> {
    made(&whole(name, version, plugin, after), true, Vec::new(), &own_config)
}

fn whole(name: &str, version: Version, mut plugin: Map<String, Value>, after: &[PluginConf]) -> Map<String, Value> {
    put(&mut plugin, "type", TYPE.into());
    let after = after.iter().map(|plugin| Value::Object(plugin.object.clone()));
    let plugins: Vec<Value> = std::iter::once(Value::Object(plugin)).chain(after).collect();
    let whole = [("cniVersion", version.as_str().into()), ("name", name.into()), ("plugins", Value::Array(plugins))];
    whole.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A file of type `multus` or `plexus-cni` with `keys` over its own, and `usual` ones where it has none: plexus' afterwards.
///
/// # Errors
/// A sentence: it is none of a meta-plugin, or what would come of it would not work.
pub fn over_file(
    mut whole: Map<String, Value>,
    keys: &Map<String, Value>,
    usual: &Map<String, Value>,
) -> Result<Composed, String> {
    let is_list = whole.get("plugins").is_some();
    let own = if is_list { meta_plugin(&mut whole) } else { Some(&mut whole).filter(|plugin| is_of_meta(plugin)) };
    let own = own.ok_or("no plugin of it is plexus or Multus")?;
    for (key, value) in keys {
        put(own, key, value.clone());
    }
    for (key, value) in usual {
        if gojson::field(own, key).is_none() {
            put(own, key, value.clone());
        }
    }
    put(own, "type", TYPE.into());
    finish(&whole, is_list, Vec::new())
}

/// What a call would make of a configuration that is there.
///
/// # Errors
/// Why it would not work.
pub fn check(list: &List) -> Result<Config, String> {
    let config = own_config(list)?;
    // Definitions are the API server's to know, and it need not answer now.
    if !config.names_definitions() || config.manifests.is_some() {
        let mut local = cluster::manifests(&config).map_err(|e| e.msg)?;
        gather::default_lists(&config, &mut local).map_err(|e| e.msg)?;
    }
    Ok(config)
}

/// Whether the default networks are on this node, where no API server can be asked for a definition of their name.
///
/// # Errors
/// Which is not.
pub(super) fn check_named(config: &Config) -> Result<(), String> {
    let mut local = cluster::manifests(config).map_err(|e| e.msg)?;
    gather::default_lists(config, &mut local).map(drop).map_err(|e| e.msg)
}

fn own_config(list: &List) -> Result<Config, String> {
    let of_meta = |plugin: &&PluginConf| META_TYPES.contains(&plugin.plugin_type.as_str());
    let plugin = list.plugins.iter().find(of_meta).ok_or("no plugin of it is plexus")?;
    Config::parse(&plugin.object).map_err(|e| e.msg)
}

fn finish(whole: &Map<String, Value>, is_list: bool, keys: Vec<Meaning>) -> Result<Composed, String> {
    made(whole, is_list, keys, &check)
}

fn made(
    whole: &Map<String, Value>,
    is_list: bool,
    mut keys: Vec<Meaning>,
    check: &dyn Fn(&List) -> Result<Config, String>,
) -> Result<Composed, String> {
    let mut bytes = serde_json::to_vec_pretty(whole).map_err(|e| e.to_string())?;
    bytes.push(b'\n');
    let list = if is_list { List::parse(&bytes) } else { List::from_conf(&bytes) }.map_err(|e| e.msg)?;
    crate::cni::names::validate_network_name(&list.name).map_err(|e| e.msg)?;
    let config = check(&list)?;
    let unknown =
        |key: &String| Meaning { key: key.clone(), meaning: "kept, and unknown to plexus: ignored".to_owned() };
    keys.extend(config.unknown.iter().map(unknown));
    Ok(Composed { bytes, ending: if is_list { "conflist" } else { "conf" }, config, keys })
}

fn object(file: &Path) -> Result<Map<String, Value>, String> {
    let refused = |why: String| format!("{}: {why}", file.display());
    let bytes = sources::read(file).map_err(refused)?;
    gojson::parse_object(&bytes, "NetConf").map_err(|e| refused(e.to_string()))
}

fn meta_plugin(whole: &mut Map<String, Value>) -> Option<&mut Map<String, Value>> {
    let plugins = whole.get_mut("plugins")?.as_array_mut()?;
    plugins.iter_mut().filter_map(Value::as_object_mut).find(|plugin| is_of_meta(plugin))
}

fn is_of_meta(plugin: &Map<String, Value>) -> bool {
    gojson::field(plugin, "type").and_then(Value::as_str).is_some_and(|name| META_TYPES.contains(&name))
}

/// The daemon's file holds over the network's own, for every request.
fn over(own: &mut Map<String, Value>, file: &Path, keys: &mut Vec<Meaning>) -> Result<(), String> {
    let refused = |why: String| format!("{}: {why}", file.display());
    let bytes = sources::read(file).map_err(refused)?;
    let daemon = DaemonConfig::parse(&bytes).map_err(|e| refused(e.msg))?;
    for (key, value) in daemon.network {
        if gojson::field(own, &key) != Some(&value) {
            let known = MEANINGS.iter().find(|(name, _)| *name == key).map(|(_, text)| format!("; {text}"));
            let meaning = format!("of {}, which held over the network's{}", file.display(), known.unwrap_or_default());
            keys.push(Meaning { key: key.clone(), meaning });
        }
        put(own, &key, value);
    }
    let written = object(file)?;
    for key in DAEMON_KEYS.iter().filter(|key| gojson::field(&written, key.name).is_some()) {
        let text = DAEMON_MEANINGS.iter().find(|(name, _)| *name == key.name).map_or(NO_DAEMON, |(_, text)| text);
        if !matches!(key.name, "cniVersion" | "cniConfigDir" | "multusAutoconfigDir" | "multusMasterCNI") {
            keys.push(Meaning { key: key.name.to_owned(), meaning: text.to_owned() });
        }
    }
    keys.extend(
        daemon.unknown.into_iter().map(|key| Meaning { key, meaning: "unknown to plexus: left out".to_owned() }),
    );
    Ok(())
}

/// Paths as they are on the node, where Multus' containers see them elsewhere.
fn place(own: &mut Map<String, Value>, conf_dir: &Path, keys: &mut Vec<Meaning>) -> Result<(), String> {
    for key in PATH_KEYS {
        let Some(written) = text(own, key) else { continue };
        if let Some(stripped) = strip(&written).filter(|_| !Path::new(&written).exists()) {
            keys.push(Meaning { key: key.to_owned(), meaning: format!("{stripped}, which Multus sees as {written}") });
            put(own, key, stripped.into());
        }
    }
    if let Some(path) = text(own, "kubeconfig").filter(|path| !Path::new(path).exists()) {
        keys.push(Meaning { key: "kubeconfig".to_owned(), meaning: format!("{path} is not there (any more)") });
    }
    let Some(written) = text(own, "clusterNetwork").filter(|name| name.contains('/')) else { return Ok(()) };
    let found = on_node(Path::new(&written), conf_dir)?;
    if found != Path::new(&written) {
        let meaning = format!("{}, which Multus has as {written}", found.display());
        keys.push(Meaning { key: "clusterNetwork".to_owned(), meaning });
        put(own, "clusterNetwork", json!(found));
    }
    Ok(())
}

/// The default network's file. Of a folder the first that Multus would take, by its name: plexus' own file comes before it.
fn on_node(written: &Path, conf_dir: &Path) -> Result<PathBuf, String> {
    let stripped = written.to_str().and_then(strip).map(PathBuf::from);
    let beside = written.file_name().map(|name| conf_dir.join(name));
    let candidates = [Some(written.to_owned()), stripped, beside].into_iter().flatten();
    let found = candidates.into_iter().find(|path| path.exists());
    let found = found.ok_or_else(|| format!("clusterNetwork: {} is not on this node", written.display()))?;
    if !found.is_dir() {
        return Ok(found);
    }
    let files = confdir::read(&found).map_err(|why| format!("clusterNetwork: {}: {why}", found.display()))?;
    let first = files.into_iter().find(|file| is_primary(&file.fate));
    first.map(|file| file.path).ok_or_else(|| format!("clusterNetwork: no network is in {}", found.display()))
}

/// Whether a file loads and is of no meta-plugin.
pub fn is_primary(fate: &Fate) -> bool {
    !is_meta(fate) && matches!(fate, Fate::Chosen(_) | Fate::Ignored(_))
}

/// Whether a file loads and is of a meta-plugin.
pub fn is_meta(fate: &Fate) -> bool {
    let (Fate::Chosen(list) | Fate::Ignored(list)) = fate else { return false };
    list.plugins.iter().any(|plugin| META_TYPES.contains(&plugin.plugin_type.as_str()))
}

/// A path of the node, where Multus' containers see it under their own root for it.
pub fn strip(path: &str) -> Option<&str> {
    path.strip_prefix(HOST_ROOT).filter(|rest| rest.starts_with('/'))
}

fn text(own: &Map<String, Value>, key: &str) -> Option<String> {
    gojson::field(own, key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Go reads a key in any case: there is one of it afterwards.
fn put(own: &mut Map<String, Value>, key: &str, value: Value) {
    own.retain(|known, _| !known.eq_ignore_ascii_case(key));
    own.insert(key.to_owned(), value);
}

fn take(own: &mut Map<String, Value>, key: &str) -> Option<Value> {
    let value = gojson::field(own, key).cloned();
    own.retain(|known, _| !known.eq_ignore_ascii_case(key));
    value.filter(|value| !value.is_null())
}

fn meaning_of(key: &str) -> Meaning {
    let meaning = MEANINGS.iter().find(|(name, _)| *name == key).map_or("", |(_, text)| text);
    Meaning { key: key.to_owned(), meaning: meaning.to_owned() }
}
