//! The configuration of Multus' daemon, `daemon-config.json`, under the names that it reads: what a node that ran it is taken over
//! by. It does not know how a daemon works.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::devices::{self, Devices};
use super::keys::{self, ACCEPTED, KEYS, Key, Named, Raw, Unset};
use super::{LogConf, directory, duration, given, optional, refuse};
use crate::cni::error::{CniError, Code};
use crate::cni::gojson;

/// Where it is, unless Multus' daemon was told otherwise.
pub const FILE: &str = "/etc/cni/net.d/multus.d/daemon-config.json";
/// The `multusConfigFile` that lets the configuration be made of the node's own.
const AUTO: &str = "auto";
/// Where a runtime reads its configurations.
const CNI_CONFIG_DIR: &str = "/etc/cni/net.d";
/// How long a certificate is asked for.
const CERT_DURATION: &str = "10m";
/// What the API takes (certificates.k8s.io/v1, `expirationSeconds`), in seconds.
const CERT_SECONDS: std::ops::RangeInclusive<u64> = 600..=i32::MAX as u64;
/// In the folder of the certificate: a kubeconfig that names it.
pub const KUBECONFIG: &str = "plexus.kubeconfig";

keys::table! {
    /// The daemon's own part, as it is written.
    Written as "server.ControllerNetConf",
    /// The keys of `daemon-config.json` beside those of a network configuration.
    DAEMON_KEYS:

    chroot_dir: String = "chrootDir", Unset::Nothing, Daemon, r#""/hostroot""#,
        "Where Multus' daemon sees the node's root. plexus executes plugins on the node, by `plexus-cni`.";
    socket_dir: String = "socketDir", Unset::Nothing, Daemon, r#""/host/run/multus/""#,
        "Where Multus' daemon listens. plexus' own socket is `--socket-dir`; `--compat-socket-dir` serves Multus' shim.";
    metrics_port: i64 = "metricsPort", Unset::Nothing, Daemon, "9091",
        "The port of the daemon's metrics, at the loopback address alone; not given: a socket, `--metrics`.";
    enable_pprof: bool = "enablePprof", Unset::Flag(false), Daemon, "true",
        "Read, and nothing more: there are no profiles.";
    connection_limit: i64 = "connectionLimit", Unset::Nothing, Daemon, "20",
        "Read, and nothing more: the daemon has bounds of its own.";
    per_node_certificate: WrittenCertificate = "perNodeCertificate", Unset::Nothing, Daemon, r#"{"enabled": true}"#,
        "A client certificate of the node's own: the daemon asks for it, renews it, and reaches the API server by it; see below.";
    config_file: String = "multusConfigFile", Unset::Text(AUTO), Daemon, r#""/tmp/00-multus.conf""#,
        "A network configuration that is taken as it is; `auto`: it is made of the node's own.";
    autoconfig_dir: String = "multusAutoconfigDir", Unset::Nothing, Daemon, r#""/host/etc/cni/net.d""#,
        "Where the default network's configuration is watched.";
    master_cni: String = "multusMasterCNI", Unset::Nothing, Daemon, r#""10-flannel.conflist""#,
        "The name of its file; not given: the first in there.";
    cni_config_dir: String = "cniConfigDir", Unset::Text(CNI_CONFIG_DIR), Daemon, r#""/host/etc/cni/net.d""#,
        "Where the configuration for the runtime is written.";
    force_cni_version: bool = "forceCNIVersion", Unset::Flag(false), Daemon, "true",
        "The default network gets `cniVersion` in its own file.";
    override_network_name: bool = "overrideNetworkName", Unset::Flag(false), Daemon, "true",
        "The configuration is named as the default network.";
    cni_version: String = "cniVersion", Unset::Nothing, Daemon, r#""1.0.0""#,
        "The version that the configuration is written for.";
    devices: devices::Written = "devices", Unset::Nothing, Plexus, r#"{"resourcePrefix": "example.com"}"#,
        "Which of the node's cards are offered to its kubelet as devices; not given: none. See below, and [devices.md](devices.md).";
}

keys::table! {
    /// `perNodeCertificate` as it is written.
    WrittenCertificate as "server.PerNodeCertificate",
    /// The keys of `perNodeCertificate`.
    CERTIFICATE_KEYS:

    enabled: bool = "enabled", Unset::Flag(false), Daemon, "true",
        "It is wanted. The node's name is that of the environment: `NODE_NAME` or `MULTUS_NODE_NAME`.";
    bootstrap_kubeconfig: String = "bootstrapKubeconfig", Unset::Nothing, Daemon, r#""/var/lib/kubelet/kubeconfig""#,
        "A kubeconfig by which the first one is asked for, and another where the one that there is is over or not accepted. Needed.";
    cert_dir: String = "certDir", Unset::Nothing, Daemon, r#""/etc/cni/multus/certs""#,
        "Where it is kept, as client-go keeps it: `multus-client-current.pem`; and `plexus.kubeconfig`, which names it. Needed.";
    cert_duration: String = "certDuration", Unset::Text(CERT_DURATION), Daemon, r#""24h""#,
        "How long it is to live, as Go writes lengths of time; ten minutes at least. It is renewed after 70 to 90 % of what it got.";
}

impl Named for WrittenCertificate {
    const NAME: &'static str = "object";
}

/// Where a node's network configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is made of the default network's own.
    Auto,
    /// It is this file.
    File(PathBuf),
}

/// A client certificate of the node's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// It is wanted.
    pub enabled: bool,
    /// What the first one is asked for with.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Where it is kept.
    pub dir: Option<PathBuf>,
    /// How long it lives.
    pub duration: Duration,
}

impl Certificate {
    /// A kubeconfig that names it, where there is to be one.
    pub fn kubeconfig(&self) -> Option<PathBuf> {
        self.dir.as_ref().filter(|_| self.enabled).map(|dir| dir.join(KUBECONFIG))
    }
}

/// `daemon-config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct DaemonConfig {
    /// Where the daemon sees the node's root.
    pub chroot_dir: Option<PathBuf>,
    /// Where it makes its socket.
    pub socket_dir: Option<PathBuf>,
    /// The port of its metrics.
    pub metrics_port: Option<u16>,
    /// Profiles at the same port.
    pub enable_pprof: bool,
    /// Requests that are served at once; none: all.
    pub connection_limit: Option<u32>,
    /// A client certificate of the node's own.
    pub certificate: Option<Certificate>,
    /// What the daemon writes down: on standard error only where it says so, other than a plugin.
    pub log: LogConf,
    /// Where the network configuration comes from.
    pub origin: Origin,
    /// Where the default network's file is.
    pub autoconfig_dir: Option<PathBuf>,
    /// Its name; none: the first in there.
    pub master_cni: Option<String>,
    /// Where the network configuration is written.
    pub cni_config_dir: PathBuf,
    /// The default network's file gets the same version.
    pub force_cni_version: bool,
    /// The configuration is named as the default network.
    pub override_network_name: bool,
    /// The version it is written for.
    pub cni_version: Option<String>,
    /// The daemon waits for this file.
    pub readiness_file: Option<PathBuf>,
    /// What of the node's cards is offered to its kubelet.
    pub devices: Option<Devices>,
    /// Keys of a network configuration, as they are written: they hold for every request, over those of the runtime's file.
    pub network: Map<String, Value>,
    /// Keys that nobody knows.
    pub unknown: Vec<String>,
    /// What else a person should know of this file.
    pub warnings: Vec<String>,
}

impl DaemonConfig {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// It is no JSON object, a value has another type than Multus reads, a path is not absolute, a port or a limit none.
    pub fn parse(text: &[u8]) -> Result<DaemonConfig, CniError> {
        let broken = |e: gojson::DecodeError| {
            CniError::new(Code::Decode, format!("failed to unmarshall the daemon configuration: {e}"))
        };
        let object = gojson::parse_object(text, "config.MultusConf").map_err(broken)?;
        let own = gojson::decode::<Written>(&object).map_err(broken)?;
        let shared = gojson::decode::<Raw>(&object).map_err(broken)?;
        let written = own.value;
        let raw = shared.value;
        let mut warnings = Vec::new();
        let to_stderr = raw.log_to_stderr.unwrap_or(false);
        let log = LogConf::read(raw.log_file, raw.log_level.as_deref(), to_stderr, raw.log_options, &mut warnings);
        Ok(DaemonConfig {
            chroot_dir: optional("chrootDir", written.chroot_dir)?,
            socket_dir: optional("socketDir", written.socket_dir)?,
            metrics_port: written.metrics_port.map(port).transpose()?,
            enable_pprof: written.enable_pprof.unwrap_or(false),
            connection_limit: written.connection_limit.map(limit).transpose()?,
            certificate: written.per_node_certificate.map(certificate).transpose()?,
            log,
            origin: origin(written.config_file)?,
            autoconfig_dir: optional("multusAutoconfigDir", written.autoconfig_dir)?,
            master_cni: given(written.master_cni).map(file_name).transpose()?,
            cni_config_dir: directory("cniConfigDir", written.cni_config_dir, CNI_CONFIG_DIR)?,
            force_cni_version: written.force_cni_version.unwrap_or(false),
            override_network_name: written.override_network_name.unwrap_or(false),
            cni_version: given(written.cni_version),
            devices: written.devices.map(Devices::read).transpose()?,
            readiness_file: given(raw.readiness_file).map(PathBuf::from),
            unknown: unknown(&own.unknown, &shared.unknown),
            network: object.into_iter().filter(|(key, value)| is_key(KEYS, key) && !value.is_null()).collect(),
            warnings,
        })
    }
}

fn is_key(table: &[Key], name: &str) -> bool {
    table.iter().any(|key| key.name.eq_ignore_ascii_case(name))
}

/// Keys of neither part; what is inside of an object only its own part knows.
fn unknown(own: &[String], shared: &[String]) -> Vec<String> {
    let of_network = |key: &&String| {
        let top = key.split(['.', '[']).next().unwrap_or(key);
        is_key(KEYS, top) || is_key(ACCEPTED, key)
    };
    let in_network = |key: &&String| key.contains(['.', '[']) && of_network(key) && !is_key(ACCEPTED, key);
    own.iter().filter(|key| !of_network(key)).chain(shared.iter().filter(in_network)).cloned().collect()
}

fn port(number: i64) -> Result<u16, CniError> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.ok_or_else(|| refuse(format!("metricsPort: {number} is no port")))
}

fn limit(number: i64) -> Result<u32, CniError> {
    let limit = u32::try_from(number).ok().filter(|limit| *limit > 0);
    limit.ok_or_else(|| refuse(format!("connectionLimit: {number} lets nobody in")))
}

fn origin(file: Option<String>) -> Result<Origin, CniError> {
    match given(file) {
        Some(file) if file != AUTO => directory("multusConfigFile", Some(file), "").map(Origin::File),
        _ => Ok(Origin::Auto),
    }
}

/// A name in `multusAutoconfigDir`, and no way out of it.
fn file_name(name: String) -> Result<String, CniError> {
    if name.contains(['/', '\0']) || name == ".." || name == "." {
        return Err(refuse(format!("multusMasterCNI: {name:?} is no file's name")));
    }
    Ok(name)
}

fn certificate(written: WrittenCertificate) -> Result<Certificate, CniError> {
    let text = given(written.cert_duration).unwrap_or_else(|| CERT_DURATION.to_owned());
    let duration = duration::parse(&text).map_err(|why| refuse(format!("perNodeCertificate.certDuration: {why}")))?;
    let enabled = written.enabled.unwrap_or(false);
    if enabled && !CERT_SECONDS.contains(&duration.as_secs()) {
        return Err(refuse(format!(
            "perNodeCertificate.certDuration: {text} is no time that the API takes: 10m at least"
        )));
    }
    Ok(Certificate {
        enabled,
        bootstrap_kubeconfig: optional("perNodeCertificate.bootstrapKubeconfig", written.bootstrap_kubeconfig)?,
        dir: optional("perNodeCertificate.certDir", written.cert_dir)?,
        duration,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<DaemonConfig, CniError> {
        DaemonConfig::parse(value.to_string().as_bytes())
    }

    #[test]
    fn the_file_of_multus_manifest_is_read() {
        let config = parse(&json!({"chrootDir": "/hostroot", "cniVersion": "0.3.1", "logLevel": "verbose",
            "logToStderr": true, "cniConfigDir": "/host/etc/cni/net.d", "multusAutoconfigDir": "/host/etc/cni/net.d",
            "multusConfigFile": "auto", "socketDir": "/host/run/multus/", "readinessindicatorfile": "/run/ready",
            "namespaceIsolation": true}))
        .unwrap();
        assert_eq!(config.origin, Origin::Auto);
        assert_eq!(config.socket_dir, Some(PathBuf::from("/host/run/multus/")));
        assert_eq!(config.readiness_file, Some(PathBuf::from("/run/ready")));
        assert!(config.log.to_stderr && config.unknown.is_empty());
        let keys: Vec<&String> = config.network.keys().collect();
        assert_eq!(keys, ["logLevel", "logToStderr", "namespaceIsolation", "readinessindicatorfile"]);
    }

    #[test]
    fn every_key_of_the_table_is_read_and_its_default_is_what_the_table_says() {
        let plain = parse(&json!({})).unwrap();
        assert!(!plain.log.to_stderr);
        for key in DAEMON_KEYS {
            let example: Value = serde_json::from_str(key.example).unwrap();
            let config = parse(&json!({key.name: example})).unwrap();
            assert!(config.unknown.is_empty() && config != plain, "{}", key.name);
            if let Some(unset) = key.unset.json() {
                assert_eq!(parse(&json!({key.name: unset})).unwrap(), plain, "{}", key.name);
            }
        }
        let certificate = |value: &Value| parse(&json!({"perNodeCertificate": value})).unwrap().certificate;
        let plain = certificate(&json!({}));
        for key in CERTIFICATE_KEYS {
            let example: Value = serde_json::from_str(key.example).unwrap();
            assert_ne!(certificate(&json!({key.name: example})), plain, "{}", key.name);
            if let Some(unset) = key.unset.json() {
                assert_eq!(certificate(&json!({key.name: unset})), plain, "{}", key.name);
            }
        }
        for key in KEYS {
            let example: Value = serde_json::from_str(key.example).unwrap();
            let config = parse(&json!({key.name: example.clone()})).unwrap();
            assert_eq!(config.network.get(key.name), Some(&example));
            assert!(config.unknown.is_empty(), "{}", key.name);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_strangers_are_told() {
        for (text, part) in [
            (r#"{"metricsPort": 70000}"#, "metricsPort: 70000 is no port"),
            (r#"{"connectionLimit": 0}"#, "connectionLimit: 0 lets nobody in"),
            (
                r#"{"perNodeCertificate": {"certDuration": "10"}}"#,
                r#"certDuration: time: missing unit in duration "10""#,
            ),
            (
                r#"{"perNodeCertificate": {"enabled": true, "certDuration": "9m59.9s"}}"#,
                "certDuration: 9m59.9s is no time that the API takes: 10m at least",
            ),
            (r#"{"multusMasterCNI": "../x"}"#, "multusMasterCNI"),
            (r#"{"multusConfigFile": "x.conf"}"#, "no absolute path"),
            (r#"{"chrootDir": 5}"#, "ControllerNetConf.chrootDir of type string"),
            ("[]", "failed to unmarshall the daemon configuration"),
            ("{", "failed to unmarshall the daemon configuration: unexpected end of JSON input"),
        ] {
            let error = DaemonConfig::parse(text.as_bytes()).unwrap_err().msg;
            assert!(error.contains(part), "{error}");
        }
        let config =
            parse(&json!({"x": 1, "logOptions": {"y": 1}, "perNodeCertificate": {"z": 1}, "name": "n"})).unwrap();
        assert_eq!(config.unknown, ["x", "perNodeCertificate.z", "logOptions.y"]);
    }
}
