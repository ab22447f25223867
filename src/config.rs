//! The meta-plugin's own configuration, parsed once, under the names that Multus reads.
//!
//! It does not know how a network is built, nor what a definition says.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cni::error::{CniError, Code};
use crate::cni::gojson;

/// Where journal and indexes are when no configuration says otherwise.
pub const STATE_DIR: &str = "/var/lib/cni/plexus";
/// More default networks than any node has.
const DELEGATES_MAX: usize = 64;

/// The `type`s of the meta-plugin: its own, and those of Multus, whose configuration it reads.
pub const META_TYPES: [&str; 4] = ["plexus-cni", "plexus", "multus", "multus-shim"];

/// Keys that Multus or the protocol reads and that mean nothing here: no warning for them.
const IGNORED_KEYS: [&str; 22] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "prevResult",
    "capabilities",
    "args",
    "dns",
    "ipam",
    "kubeconfig",
    "logFile",
    "logLevel",
    "logToStderr",
    "logOptions",
    "readinessindicatorfile",
    "retryDeleteOnError",
    "auxiliaryCNIChainName",
    "daemonSocketDir",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
    "disableCheck",
    "disableGC",
];

#[derive(Deserialize)]
#[serde(rename = "NetConf", rename_all = "camelCase")]
struct Raw {
    delegates: Option<Vec<Value>>,
    cluster_network: Option<String>,
    default_networks: Option<Vec<String>>,
    conf_dir: Option<String>,
    bin_dir: Option<String>,
    cni_dir: Option<String>,
    state_dir: Option<String>,
    system_namespaces: Option<Vec<String>>,
    namespace_isolation: Option<bool>,
    global_namespaces: Option<String>,
    multus_namespace: Option<String>,
    manifests: Option<String>,
    native: Option<Value>,
    runtime_config: Option<Value>,
}

/// Which kinds the node wants to be built in process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NativePolicy {
    /// Each that plexus knows, where it knows every key.
    Auto,
    /// None: everything is executed.
    Off,
    /// Only these.
    Kinds(Vec<String>),
    /// plexus was executed under the kind's own name: there is no other plugin of that name to turn to.
    Always,
}

impl NativePolicy {
    /// Whether a plugin of this type may be built in process.
    pub fn allows(&self, plugin: &str) -> bool {
        match self {
            NativePolicy::Auto | NativePolicy::Always => true,
            NativePolicy::Off => false,
            NativePolicy::Kinds(kinds) => kinds.iter().any(|kind| kind == plugin),
        }
    }
}

/// Where the default network comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Primary {
    /// Inline configurations; the first is the default network.
    Delegates(Vec<Map<String, Value>>),
    /// A definition, a name in confDir, a file or a directory; then further networks for pods outside systemNamespaces.
    Cluster(String, Vec<String>),
}

/// The meta-plugin's configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The default networks.
    pub primary: Primary,
    /// Where networks are looked up by name.
    pub conf_dir: PathBuf,
    /// Searched for plugins before CNI_PATH.
    pub bin_dir: PathBuf,
    /// Where Multus kept its records.
    pub cni_dir: PathBuf,
    /// Journal and indexes.
    pub state_dir: PathBuf,
    /// Pods in these get no defaultNetworks.
    pub system_namespaces: Vec<String>,
    /// Pods may name definitions of their own and of global namespaces only.
    pub namespace_isolation: bool,
    /// Namespaces whose definitions everybody may name.
    pub global_namespaces: Vec<String>,
    /// Where the administrator's definitions are.
    pub multus_namespace: String,
    /// Pods and definitions as files.
    pub manifests: Option<PathBuf>,
    /// Which kinds are built in process.
    pub native: NativePolicy,
    /// runtimeConfig, for the default network.
    pub runtime: Map<String, Value>,
    /// Keys that nobody knows.
    pub unknown: Vec<String>,
}

fn refuse(msg: impl Into<String>) -> CniError {
    CniError::new(Code::InvalidConfig, msg)
}

impl Config {
    /// Reads a configuration of type plexus-cni, multus or multus-shim.
    ///
    /// # Errors
    /// Multus' texts where it has one; a path that is not absolute; more delegates than the bound.
    pub fn parse(object: &Map<String, Value>) -> Result<Config, CniError> {
        let decoded = gojson::decode::<Raw>(object)
            .map_err(|e| CniError::new(Code::Decode, format!("error loading netconf: {e}")))?;
        let raw = decoded.value;
        let primary = primary(&raw)?;
        let unknown = decoded.unknown.into_iter().filter(|key| !is_ignored(key)).collect();
        let namespaces = raw.global_namespaces.unwrap_or_else(|| "default".to_owned());
        Ok(Config {
            primary,
            conf_dir: directory("confDir", raw.conf_dir, "/etc/cni/multus/net.d")?,
            bin_dir: directory("binDir", raw.bin_dir, "/opt/cni/bin")?,
            cni_dir: directory("cniDir", raw.cni_dir, "/var/lib/cni/multus")?,
            state_dir: directory("stateDir", raw.state_dir, STATE_DIR)?,
            system_namespaces: raw.system_namespaces.unwrap_or_else(|| vec!["kube-system".to_owned()]),
            namespace_isolation: raw.namespace_isolation.unwrap_or(false),
            global_namespaces: namespaces.split(',').map(|name| name.trim().to_owned()).collect(),
            multus_namespace: given(raw.multus_namespace).unwrap_or_else(|| "kube-system".to_owned()),
            manifests: given(raw.manifests).map(|dir| directory("manifests", Some(dir), "")).transpose()?,
            native: native_policy(raw.native.as_ref())?,
            runtime: raw.runtime_config.and_then(|value| value.as_object().cloned()).unwrap_or_default(),
            unknown,
        })
    }

    /// Where plugins are searched: binDir, then what the runtime says.
    pub fn search_path(&self, path: &[PathBuf]) -> Vec<PathBuf> {
        let others = path.iter().filter(|dir| **dir != self.bin_dir).cloned();
        std::iter::once(self.bin_dir.clone()).chain(others).collect()
    }
}

fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn is_ignored(key: &str) -> bool {
    let top = key.split(['.', '[']).next().unwrap_or(key);
    IGNORED_KEYS.iter().any(|known| known.eq_ignore_ascii_case(key) || known.eq_ignore_ascii_case(top))
        || ["runtimeConfig", "delegates"].iter().any(|known| known.eq_ignore_ascii_case(top))
}

fn directory(key: &str, given_dir: Option<String>, default: &str) -> Result<PathBuf, CniError> {
    let text = given(given_dir).unwrap_or_else(|| default.to_owned());
    if !Path::new(&text).is_absolute() || text.contains('\0') {
        return Err(refuse(format!("{key}: {text:?} is no absolute path")));
    }
    Ok(PathBuf::from(text))
}

/// clusterNetwork excludes delegates; one of them must be there (Multus' rules and text).
fn primary(raw: &Raw) -> Result<Primary, CniError> {
    if let Some(network) = given(raw.cluster_network.clone()) {
        let others = raw.default_networks.clone().unwrap_or_default();
        if others.len() > DELEGATES_MAX {
            return Err(refuse(format!("defaultNetworks names {} networks, more than {DELEGATES_MAX}", others.len())));
        }
        return Ok(Primary::Cluster(network, others));
    }
    let delegates = raw.delegates.as_deref().unwrap_or_default();
    if delegates.is_empty() {
        return Err(refuse("LoadNetConf: at least one delegate/clusterNetwork must be specified"));
    }
    if delegates.len() > DELEGATES_MAX {
        return Err(refuse(format!("delegates lists {} networks, more than {DELEGATES_MAX}", delegates.len())));
    }
    let object = |value: &Value| value.as_object().cloned().ok_or_else(|| refuse("a delegate must be an object"));
    delegates.iter().map(object).collect::<Result<_, _>>().map(Primary::Delegates)
}

fn native_policy(value: Option<&Value>) -> Result<NativePolicy, CniError> {
    match value {
        None => Ok(NativePolicy::Auto),
        Some(Value::String(word)) if word == "auto" => Ok(NativePolicy::Auto),
        Some(Value::String(word)) if word == "off" => Ok(NativePolicy::Off),
        Some(Value::Array(kinds)) => {
            let kind = |value: &Value| value.as_str().map(str::to_owned);
            let kinds: Option<Vec<String>> = kinds.iter().map(kind).collect();
            kinds.map(NativePolicy::Kinds).ok_or_else(|| refuse("native: a list of kinds holds their names"))
        }
        Some(_) => Err(refuse("native: must be \"auto\", \"off\" or a list of kinds")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> Result<Config, CniError> {
        Config::parse(value.as_object().unwrap())
    }

    #[test]
    fn defaults_are_those_of_multus() {
        let config =
            parse(json!({"name": "n", "type": "multus", "delegates": [{"type": "bridge"}], "logLevel": "debug"}))
                .unwrap();
        assert_eq!(config.conf_dir, Path::new("/etc/cni/multus/net.d"));
        assert_eq!(config.global_namespaces, ["default"]);
        assert_eq!(config.multus_namespace, "kube-system");
        assert!(config.unknown.is_empty());
        assert_eq!(
            config.search_path(&["/a".into(), "/opt/cni/bin".into()]),
            [Path::new("/opt/cni/bin"), Path::new("/a")]
        );
    }

    #[test]
    fn cluster_network_wins_and_something_must_be_there() {
        let config = parse(json!({"clusterNetwork": "main", "delegates": [{}], "globalNamespaces": "a, b"})).unwrap();
        assert_eq!(config.primary, Primary::Cluster("main".into(), Vec::new()));
        assert_eq!(config.global_namespaces, ["a", "b"]);
        let text = "LoadNetConf: at least one delegate/clusterNetwork must be specified";
        assert_eq!(parse(json!({})).unwrap_err().msg, text);
        assert_eq!(parse(json!({"delegates": []})).unwrap_err().msg, text);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (conf, part) in [
            (json!({"clusterNetwork": "a", "stateDir": "relative"}), "stateDir"),
            (json!({"clusterNetwork": "a", "native": "yes"}), "native"),
            (json!({"delegates": [1]}), "object"),
            (json!({"delegates": vec![json!({}); 65]}), "65"),
        ] {
            assert!(parse(conf).unwrap_err().msg.contains(part));
        }
    }

    #[test]
    fn strangers_are_told() {
        let config = parse(json!({"clusterNetwork": "a", "cniConf": "/x", "native": ["bridge"]})).unwrap();
        assert_eq!(config.unknown, ["cniConf"]);
        assert_eq!(config.native, NativePolicy::Kinds(vec!["bridge".into()]));
    }
}
