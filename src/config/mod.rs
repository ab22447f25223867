//! The meta-plugin's own configuration, parsed once, under the names that Multus reads.
//!
//! It does not know how a network is built, nor what a definition says.

pub mod daemon;
pub mod devices;
mod duration;
pub mod keys;
mod log;
pub mod page;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::cni::version::Version;

use keys::{
    ACCEPTED_NAMES, API_CALL_TIMEOUT_MS, API_DEADLINE_MS, APPEAR_WAIT_MS, BIN_DIR, CNI_DIR, CONF_DIR, DAEMON_WAIT_MS,
    EVERYBODY, KUBELET_DIR, READINESS_WAIT_MS, Raw, SYSTEM,
};
pub use log::{Level, LogConf};

/// Where journal and indexes are when no configuration says otherwise.
pub const STATE_DIR: &str = "/var/lib/cni/plexus";
/// More default networks than any node has.
const DELEGATES_MAX: usize = 64;
/// More types than any node's list has.
const TYPES_MAX: usize = 1000;
/// In milliseconds: longer than any runtime waits for one request.
const WAIT_MS_MAX: u64 = 300_000;
/// The daemon's socket, in `daemonSocketDir`.
pub const SOCKET: &str = "plexus.sock";
/// Where Multus' installer sees the node's root.
const HOST_ROOT: &str = "/host";

/// The `type`s of the meta-plugin: its own, and those of Multus, whose configuration it reads.
pub const META_TYPES: [&str; 4] = ["plexus-cni", "plexus", "multus", "multus-shim"];

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

/// What the node lets plexus build, and lets others do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which kinds are built in process.
    pub native: NativePolicy,
    /// Types that may be executed for a network that a pod names; none: all.
    pub allowed_delegates: Option<Vec<String>>,
    /// A request that no plugin declares the capability for is refused, whatever a plugin could make of CNI_ARGS.
    pub strict_capabilities: bool,
}

impl Policy {
    /// The policy where no configuration says anything.
    pub fn unrestricted(native: NativePolicy) -> Policy {
        Policy { native, allowed_delegates: None, strict_capabilities: false }
    }

    /// Whether a plugin of this type may be executed for a pod's own network.
    pub fn allows_execution(&self, plugin: &str) -> bool {
        self.allowed_delegates.as_ref().is_none_or(|types| types.iter().any(|known| known == plugin))
    }
}

/// What ADD does where the daemon does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// It attaches by itself.
    Oneshot,
    /// It asks again, for a while.
    Wait,
    /// It fails.
    Fail,
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
    /// The version that it is written in.
    pub cni_version: Version,
    /// The last network of every pod; empty: none.
    pub auxiliary_chain: String,
    /// Where networks are looked up by name.
    pub conf_dir: PathBuf,
    /// Searched for plugins before CNI_PATH.
    pub bin_dir: PathBuf,
    /// Where Multus kept its records.
    pub cni_dir: PathBuf,
    /// Journal and indexes.
    pub state_dir: PathBuf,
    /// The socket of the node's daemon, where one is configured.
    pub daemon_socket: Option<PathBuf>,
    /// What ADD does without it.
    pub fallback: Fallback,
    /// How long it asks again.
    pub daemon_wait: Duration,
    /// The daemon answers after the status is written.
    pub status_before_answer: bool,
    /// How the API server is reached, where the configuration says it.
    pub kubeconfig: Option<PathBuf>,
    /// What one call of the API server may take.
    pub api_call_timeout: Duration,
    /// What all calls of one request may take.
    pub api_deadline: Duration,
    /// How long what is not there yet is waited for.
    pub appear_wait: Duration,
    /// Pods in these get no defaultNetworks.
    pub system_namespaces: Vec<String>,
    /// Pods may name definitions of their own and of global namespaces only.
    pub namespace_isolation: bool,
    /// Namespaces whose definitions everybody may name.
    pub global_namespaces: Vec<String>,
    /// Where the administrator's definitions are.
    pub multus_namespace: String,
    /// Types of plugins that definitions may name; none: all.
    pub allowed_delegates: Option<Vec<String>>,
    /// What no plugin declares is refused, and not passed on with a warning.
    pub strict_capabilities: bool,
    /// Where the kubelet's socket and checkpoint are.
    pub kubelet_dir: PathBuf,
    /// A pod may name a device that it was not allocated.
    pub allow_device_id: bool,
    /// ADD waits for this file.
    pub readiness_file: Option<PathBuf>,
    /// How long.
    pub readiness_wait: Duration,
    /// Read, and without effect: it is always so.
    pub retry_delete_on_error: bool,
    /// What is written down.
    pub log: LogConf,
    /// Pods and definitions as files.
    pub manifests: Option<PathBuf>,
    /// Which kinds are built in process.
    pub native: NativePolicy,
    /// runtimeConfig, for the default network.
    pub runtime: Map<String, Value>,
    /// Keys that nobody knows.
    pub unknown: Vec<String>,
    /// What else a person should know of this configuration.
    pub warnings: Vec<String>,
}

fn refuse(msg: impl Into<String>) -> CniError {
    CniError::new(Code::InvalidConfig, msg)
}

impl Config {
    /// Reads a configuration of type plexus-cni, multus or multus-shim.
    ///
    /// # Errors
    /// Multus' texts where it has one; a path that is not absolute; a number or a list beyond its bound.
    pub fn parse(object: &Map<String, Value>) -> Result<Config, CniError> {
        let decoded = gojson::decode::<Raw>(object)
            .map_err(|e| CniError::new(Code::Decode, format!("error loading netconf: {e}")))?;
        let raw = decoded.value;
        let mut warnings = Vec::new();
        let to_stderr = raw.log_to_stderr.unwrap_or(true);
        let log = LogConf::read(
            raw.log_file.clone(),
            raw.log_level.as_deref(),
            to_stderr,
            raw.log_options.clone(),
            &mut warnings,
        );
        Ok(Config {
            primary: primary(&raw)?,
            cni_version: version(object),
            auxiliary_chain: raw.auxiliary_chain.unwrap_or_default(),
            conf_dir: directory("confDir", conf_dir(raw.conf_dir, raw.cni_conf, &mut warnings), CONF_DIR)?,
            bin_dir: directory("binDir", raw.bin_dir, BIN_DIR)?,
            cni_dir: directory("cniDir", raw.cni_dir, CNI_DIR)?,
            state_dir: directory("stateDir", raw.state_dir, STATE_DIR)?,
            daemon_socket: optional("daemonSocketDir", raw.daemon_socket_dir)?.map(|dir| dir.join(SOCKET)),
            fallback: fallback(raw.fallback)?,
            daemon_wait: wait("daemonWaitMs", raw.daemon_wait_ms, 0, DAEMON_WAIT_MS)?,
            status_before_answer: raw.status_before_answer.unwrap_or(false),
            kubeconfig: optional("kubeconfig", raw.kubeconfig)?,
            api_call_timeout: wait("apiCallTimeoutMs", raw.api_call_timeout_ms, 1, API_CALL_TIMEOUT_MS)?,
            api_deadline: wait("apiDeadlineMs", raw.api_deadline_ms, 1, API_DEADLINE_MS)?,
            appear_wait: wait("appearWaitMs", raw.appear_wait_ms, 0, APPEAR_WAIT_MS)?,
            system_namespaces: raw.system_namespaces.unwrap_or_else(|| vec![SYSTEM.to_owned()]),
            namespace_isolation: raw.namespace_isolation.unwrap_or(false),
            global_namespaces: namespaces(raw.global_namespaces),
            multus_namespace: given(raw.multus_namespace).unwrap_or_else(|| SYSTEM.to_owned()),
            allowed_delegates: raw.allowed_delegates.map(types).transpose()?,
            strict_capabilities: raw.strict_capabilities.unwrap_or(false),
            kubelet_dir: directory("kubeletDir", raw.kubelet_dir, KUBELET_DIR)?,
            allow_device_id: raw.allow_device_id.unwrap_or(false),
            readiness_file: given(raw.readiness_file).map(|file| path("readinessindicatorfile", file)).transpose()?,
            readiness_wait: wait("readinessWaitMs", raw.readiness_wait_ms, 0, READINESS_WAIT_MS)?,
            retry_delete_on_error: raw.retry_delete_on_error.unwrap_or(false),
            log,
            manifests: optional("manifests", raw.manifests)?,
            native: native_policy(raw.native.as_ref())?,
            runtime: raw.runtime_config.unwrap_or_default(),
            unknown: decoded.unknown.into_iter().filter(|key| !is_accepted(key)).collect(),
            warnings,
        })
    }

    /// The same of keys that need not say a default network: what it is changes nothing of the rest.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn parse_keys(keys: &Map<String, Value>) -> Result<Config, CniError> {
        let mut object = keys.clone();
        if !["delegates", "clusterNetwork"].iter().any(|key| keys.contains_key(*key)) {
            object.insert("delegates".to_owned(), serde_json::json!([{ "type": META_TYPES.first() }]));
        }
        Config::parse(&object)
    }

    /// Whether the default networks can be definitions.
    pub fn names_definitions(&self) -> bool {
        match &self.primary {
            Primary::Delegates(_) => false,
            Primary::Cluster(first, others) => std::iter::once(first).chain(others).any(|name| !name.contains('/')),
        }
    }

    /// What it lets plexus build, and lets others do.
    pub fn policy(&self) -> Policy {
        Policy {
            native: self.native.clone(),
            allowed_delegates: self.allowed_delegates.clone(),
            strict_capabilities: self.strict_capabilities,
        }
    }

    /// What a person should know of this configuration.
    pub fn notes(&self) -> Vec<String> {
        let unknown = self.unknown.iter().map(|key| format!("unknown key {key} is ignored"));
        unknown.chain(self.warnings.iter().cloned()).collect()
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

fn is_accepted(key: &str) -> bool {
    ACCEPTED_NAMES.iter().any(|known| known.eq_ignore_ascii_case(key))
}

/// Where it is none that plexus speaks, the request has been refused already; where it is not given, the oldest with interfaces in
/// its results.
fn version(object: &Map<String, Value>) -> Version {
    let given = gojson::field(object, "cniVersion").and_then(Value::as_str);
    given.and_then(Version::parse).unwrap_or(Version::V0_3_0)
}

/// Separated by commas; an empty text is none (Multus).
fn namespaces(text: Option<String>) -> Vec<String> {
    let text = given(text).unwrap_or_else(|| EVERYBODY.to_owned());
    text.split(',').map(|name| name.trim().to_owned()).collect()
}

/// `cniConf` is what Multus' installer writes for `confDir`, as it sees the path itself.
fn conf_dir(conf_dir: Option<String>, cni_conf: Option<String>, warnings: &mut Vec<String>) -> Option<String> {
    let Some(written) = given(cni_conf) else { return conf_dir };
    if let Some(dir) = given(conf_dir) {
        warnings.push("cniConf is ignored: confDir is given".to_owned());
        return Some(dir);
    }
    let dir = written.strip_prefix(HOST_ROOT).filter(|rest| rest.starts_with('/')).unwrap_or(&written).to_owned();
    warnings.push(format!("cniConf is read as confDir {dir:?}: please write that"));
    Some(dir)
}

fn types(names: Vec<String>) -> Result<Vec<String>, CniError> {
    match names.len() {
        too_many if too_many > TYPES_MAX => {
            Err(refuse(format!("allowedDelegates lists {too_many} types, more than {TYPES_MAX}")))
        }
        _ => Ok(names),
    }
}

fn wait(key: &str, given: Option<u64>, least: u64, unset: u64) -> Result<Duration, CniError> {
    let ms = given.unwrap_or(unset);
    if (least..=WAIT_MS_MAX).contains(&ms) {
        return Ok(Duration::from_millis(ms));
    }
    Err(refuse(format!("{key}: {ms} is not between {least} and {WAIT_MS_MAX} milliseconds")))
}

fn optional(key: &str, path: Option<String>) -> Result<Option<PathBuf>, CniError> {
    given(path).map(|path| directory(key, Some(path), "")).transpose()
}

fn directory(key: &str, given_dir: Option<String>, default: &str) -> Result<PathBuf, CniError> {
    let found = path(key, given(given_dir).unwrap_or_else(|| default.to_owned()))?;
    if found.is_absolute() { Ok(found) } else { Err(refuse(format!("{key}: {found:?} is no absolute path"))) }
}

fn path(key: &str, text: String) -> Result<PathBuf, CniError> {
    if text.contains('\0') {
        return Err(refuse(format!("{key}: {text:?} is no path")));
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

fn fallback(word: Option<String>) -> Result<Fallback, CniError> {
    match given(word).as_deref() {
        None | Some("oneshot") => Ok(Fallback::Oneshot),
        Some("wait") => Ok(Fallback::Wait),
        Some("fail") => Ok(Fallback::Fail),
        Some(other) => Err(refuse(format!("fallback: {other:?} is none of \"oneshot\", \"wait\" and \"fail\""))),
    }
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
mod tests;
