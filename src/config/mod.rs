//! The meta-plugin's own configuration, parsed once, under the names that Multus reads.
//!
//! It does not know how a network is built, nor what a definition says.

pub mod daemon;
mod duration;
pub mod keys;
pub mod page;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::cni::version::Version;

use keys::{
    ACCEPTED, API_CALL_TIMEOUT_MS, API_DEADLINE_MS, APPEAR_WAIT_MS, BIN_DIR, CNI_DIR, CONF_DIR, EVERYBODY,
    LOG_AGE_DAYS, LOG_BACKUPS, LOG_SIZE_MB, LogOptions, READINESS_WAIT_MS, Raw, SOCKET_DIR, SYSTEM,
};

/// Where journal and indexes are when no configuration says otherwise.
pub const STATE_DIR: &str = "/var/lib/cni/plexus";
/// More default networks than any node has.
const DELEGATES_MAX: usize = 64;
/// More types than any node's list has.
const TYPES_MAX: usize = 1000;
/// In milliseconds: longer than any runtime waits for one request.
const WAIT_MS_MAX: u64 = 300_000;
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

/// Where the default network comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Primary {
    /// Inline configurations; the first is the default network.
    Delegates(Vec<Map<String, Value>>),
    /// A definition, a name in confDir, a file or a directory; then further networks for pods outside systemNamespaces.
    Cluster(String, Vec<String>),
}

/// How much is written down. Each says what those before it say, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Next to nothing.
    #[default]
    Panic,
    /// Failures and warnings.
    Error,
    /// A line for each attachment.
    Verbose,
    /// Everything.
    Debug,
}

impl Level {
    /// The level of this name, whatever its case (Multus).
    pub fn of(word: &str) -> Option<Level> {
        [Level::Panic, Level::Error, Level::Verbose, Level::Debug]
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(word))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Panic => "panic",
            Level::Error => "error",
            Level::Verbose => "verbose",
            Level::Debug => "debug",
        }
    }
}

/// What is written down, where, and how long it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConf {
    /// The file, where one is wanted.
    pub file: Option<PathBuf>,
    /// How much.
    pub level: Level,
    /// On standard error too.
    pub to_stderr: bool,
    /// Days after which a full file goes; 0: never.
    pub max_age_days: u32,
    /// Megabytes at which a file is full; never 0.
    pub max_size_mb: u32,
    /// Full files that stay; 0: all.
    pub max_backups: u32,
    /// Full files are compressed.
    pub compress: bool,
}

impl LogConf {
    /// `None` in `level`: not given.
    fn read(
        file: Option<String>,
        level: Option<&str>,
        to_stderr: bool,
        options: Option<LogOptions>,
        warnings: &mut Vec<String>,
    ) -> LogConf {
        let level = level.filter(|word| !word.is_empty()).and_then(|word| {
            let level = Level::of(word);
            if level.is_none() {
                warnings.push(format!("logLevel: there is no level {word:?}: it is panic, error, verbose or debug"));
            }
            level
        });
        let options = options.unwrap_or_default();
        let count = |given: Option<i64>, unset: u64| {
            u32::try_from(given.map_or(unset, |number| u64::try_from(number).unwrap_or(0))).unwrap_or(u32::MAX)
        };
        let size = options.max_size.filter(|size| *size > 0);
        LogConf {
            file: given(file).map(PathBuf::from),
            level: level.unwrap_or_default(),
            to_stderr,
            max_age_days: count(options.max_age, LOG_AGE_DAYS),
            max_size_mb: count(size, LOG_SIZE_MB),
            max_backups: count(options.max_backups, LOG_BACKUPS),
            compress: options.compress.unwrap_or(true),
        }
    }
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
    /// Where a daemon has its socket.
    pub daemon_socket_dir: PathBuf,
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
    /// A pod may name a device.
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
            daemon_socket_dir: directory("daemonSocketDir", raw.daemon_socket_dir, SOCKET_DIR)?,
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
            allow_device_id: raw.allow_device_id.unwrap_or(false),
            readiness_file: given(raw.readiness_file).map(PathBuf::from),
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
    ACCEPTED.iter().any(|known| known.name.eq_ignore_ascii_case(key))
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

    use super::keys::{KEYS, Key, LOG_KEYS};
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
        let config =
            parse(json!({"clusterNetwork": "a", "cniConfs": "/x", "logOptions": {"maxsize": 3, "maxLines": 2},
            "native": ["bridge"], "CNIVersion": "1.0.0"}))
            .unwrap();
        assert_eq!(config.unknown, ["cniConfs", "logOptions.maxLines"]);
        assert_eq!(config.native, NativePolicy::Kinds(vec!["bridge".into()]));
    }

    fn with(key: &Key, value: Value) -> Config {
        let mut object = json!({"clusterNetwork": "/etc/a.conflist"});
        match LOG_KEYS.iter().any(|of| of.name == key.name) {
            true => object["logOptions"] = json!({key.name: value}),
            false => object[key.name] = value,
        }
        // Without it the delegates would count for nothing.
        if key.name == "delegates" {
            object["clusterNetwork"] = Value::Null;
        }
        parse(object).unwrap_or_else(|e| panic!("{}: {}", key.name, e.msg))
    }

    #[test]
    fn every_key_of_the_table_is_read_and_its_default_is_what_the_table_says() {
        let plain = parse(json!({"clusterNetwork": "/etc/a.conflist"})).unwrap();
        for key in KEYS.iter().chain(LOG_KEYS) {
            let example: Value = serde_json::from_str(key.example).unwrap();
            let config = with(key, example);
            assert!(config.unknown.is_empty(), "{}", key.name);
            assert_ne!(config, plain, "{}: its example changes nothing", key.name);
            if let Some(unset) = key.unset.json() {
                assert_eq!(with(key, unset), plain, "{}: its default is another", key.name);
            }
        }
        for key in ACCEPTED {
            assert_eq!(with(key, json!("anything")), plain, "{}", key.name);
        }
    }

    #[test]
    fn numbers_have_bounds() {
        for (conf, part) in [
            (json!({"apiCallTimeoutMs": 0}), "apiCallTimeoutMs: 0 is not between 1 and 300000 milliseconds"),
            (json!({"readinessWaitMs": 300_001}), "readinessWaitMs: 300001"),
            (json!({"appearWaitMs": -1}), "cannot unmarshal number -1"),
            (json!({"logOptions": {"maxSize": "5"}}), "LogOptions.logOptions.maxSize of type int"),
            (json!({"allowedDelegates": vec!["a"; 1001]}), "1001 types"),
        ] {
            let mut conf = conf;
            conf["clusterNetwork"] = json!("a");
            let error = parse(conf).unwrap_err().msg;
            assert!(error.contains(part), "{error}");
        }
        let log = parse(json!({"clusterNetwork": "a", "logOptions": {"maxSize": 0, "maxAge": -1, "maxBackups": 1}}));
        let log = log.unwrap().log;
        assert_eq!((log.max_size_mb, log.max_age_days, log.max_backups), (100, 0, 1));
    }

    #[test]
    fn what_the_installer_of_multus_writes_is_read_and_said() {
        let config = parse(json!({"clusterNetwork": "a", "cniConf": "/host/etc/cni/multus/net.e"})).unwrap();
        assert_eq!(config.conf_dir, Path::new("/etc/cni/multus/net.e"));
        assert_eq!(config.warnings, [r#"cniConf is read as confDir "/etc/cni/multus/net.e": please write that"#]);
        let config = parse(json!({"clusterNetwork": "a", "cniConf": "/hosts", "confDir": "/b"})).unwrap();
        assert_eq!(config.conf_dir, Path::new("/b"));
        assert_eq!(config.warnings.len(), 1);
    }

    #[test]
    fn a_level_is_found_whatever_its_case_and_a_wrong_one_is_told() {
        let config = parse(json!({"clusterNetwork": "a", "logLevel": "Verbose"})).unwrap();
        assert_eq!(config.log.level, Level::Verbose);
        let config = parse(json!({"clusterNetwork": "a", "logLevel": "warn"})).unwrap();
        assert_eq!(config.log.level, Level::Panic);
        assert!(config.warnings[0].contains("\"warn\""), "{:?}", config.warnings);
    }
}
