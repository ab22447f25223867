//! The keys of the meta-plugin's configuration: one table that the parser, the warning about unknown keys and the page
//! `docs/configuration.md` are made of. It does not know what becomes of a value.

use serde_json::{Map, Value};

use super::STATE_DIR;

/// Where a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The CNI specification.
    Cni,
    /// Multus' network configuration.
    Multus,
    /// The configuration of Multus' daemon.
    Daemon,
    /// The SR-IOV network device plugin.
    DevicePlugin,
    /// plexus alone.
    Plexus,
}

impl Origin {
    /// Its word on the page.
    pub fn word(self) -> &'static str {
        match self {
            Origin::Cni => "CNI",
            Origin::Multus => "Multus",
            Origin::Daemon => "Multus' daemon",
            Origin::DevicePlugin => "the SR-IOV device plugin",
            Origin::Plexus => "plexus",
        }
    }
}

/// What a key that is not given means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unset {
    /// There is no value.
    Nothing,
    /// A text.
    Text(&'static str),
    /// Yes or no.
    Flag(bool),
    /// A number, in the key's unit.
    Number(u64),
    /// A list of names.
    Names(&'static [&'static str]),
}

impl Unset {
    /// The value as JSON; none where there is none.
    pub fn json(self) -> Option<Value> {
        match self {
            Unset::Nothing => None,
            Unset::Text(text) => Some(text.into()),
            Unset::Flag(flag) => Some(flag.into()),
            Unset::Number(number) => Some(number.into()),
            Unset::Names(names) => Some(names.to_vec().into()),
        }
    }
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// As it is written; case does not matter (Go).
    pub name: &'static str,
    /// The type of its value, in a person's words.
    pub kind: &'static str,
    /// What it means not to give it.
    pub unset: Unset,
    /// Where it comes from.
    pub origin: Origin,
    /// A value that is not the one of [`Key::unset`], as JSON.
    pub example: &'static str,
    /// What it does.
    pub text: &'static str,
}

/// What a type of the parser is called on the page.
pub(super) trait Named {
    /// Its name.
    const NAME: &'static str;
}

macro_rules! named {
    ($($kind:ty: $name:literal;)*) => {$(impl Named for $kind { const NAME: &'static str = $name; })*};
}

named! {
    String: "text";
    bool: "yes or no";
    i64: "number";
    u64: "number";
    Value: "text or list";
    Map<String, Value>: "object";
    Vec<Value>: "list of objects";
    Vec<String>: "list of texts";
}

/// A struct that decodes what its rows name, and the rows themselves.
macro_rules! table {
    ($(#[$meta:meta])* $structure:ident as $go:literal, $(#[$row_meta:meta])* $rows:ident:
        $($field:ident: $kind:ty = $name:literal, $unset:expr, $origin:ident, $example:literal, $text:literal;)*) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, serde::Deserialize)]
        #[serde(rename = $go)]
        pub(super) struct $structure {
            $(#[serde(rename = $name)] pub(super) $field: Option<$kind>,)*
        }
        $(#[$row_meta])*
        pub const $rows: &[$crate::config::keys::Key] = &[$($crate::config::keys::Key {
            name: $name,
            kind: <$kind as $crate::config::keys::Named>::NAME,
            unset: $unset,
            origin: $crate::config::keys::Origin::$origin,
            example: $example,
            text: $text,
        },)*];
    };
}

pub(super) use table;

/// Where networks are looked up by name.
pub(super) const CONF_DIR: &str = "/etc/cni/multus/net.d";
/// Where plugins are.
pub(super) const BIN_DIR: &str = "/opt/cni/bin";
/// Where Multus keeps its records.
pub(super) const CNI_DIR: &str = "/var/lib/cni/multus";
/// Where the kubelet keeps its own, unless it is told otherwise.
pub(super) const KUBELET_DIR: &str = "/var/lib/kubelet";
/// Where an administrator's definitions are, and whose pods get no further networks.
pub(super) const SYSTEM: &str = "kube-system";
/// Whose definitions everybody may name.
pub(super) const EVERYBODY: &str = "default";
/// In milliseconds: one call of the API server. A server at the other end of the world answers in 700.
pub(super) const API_CALL_TIMEOUT_MS: u64 = 5000;
/// In milliseconds: all calls of one request. Runtimes give a request two minutes and more.
pub(super) const API_DEADLINE_MS: u64 = 20_000;
/// In milliseconds: what Multus waits for a pod that its cache does not have yet.
pub(super) const APPEAR_WAIT_MS: u64 = 2500;
/// In milliseconds: a daemon is replaced in less.
pub(super) const DAEMON_WAIT_MS: u64 = 30_000;
/// In milliseconds: what Multus waits for the file.
pub(super) const READINESS_WAIT_MS: u64 = 45_000;
/// In days.
pub(super) const LOG_AGE_DAYS: u64 = 5;
/// In megabytes of 1024 * 1024 bytes.
pub(super) const LOG_SIZE_MB: u64 = 100;
/// Files beside the one that is written.
pub(super) const LOG_BACKUPS: u64 = 5;

table! {
    /// The configuration as it is written.
    Raw as "NetConf",
    /// The keys of a configuration of type `plexus-cni`, `multus` or `multus-shim` that plexus acts on.
    KEYS:

    delegates: Vec<Value> = "delegates", Unset::Nothing, Multus, r#"[{"type": "bridge"}]"#,
        "The default networks as they are, the first for the runtime's own interface. Without effect beside `clusterNetwork`.";
    cluster_network: String = "clusterNetwork", Unset::Nothing, Multus, r#""cluster""#,
        "The default network: the name of a definition in `multusNamespace`, else the CNI name of a network in `confDir`; with a `/` in it, a file, or a folder whose first network file is taken. This or `delegates` must be given.";
    default_networks: Vec<String> = "defaultNetworks", Unset::Nothing, Multus, r#"["storage"]"#,
        "Further networks of every pod outside `systemNamespaces`, named as in `clusterNetwork`, which must be given too.";
    auxiliary_chain: String = "auxiliaryCNIChainName", Unset::Nothing, Multus, r#""late""#,
        "A last network of every pod, made of the `.conf` files in the folder of this name beside the file that `clusterNetwork` names, which must be a path. Its first step is `passthru`: the pod gets no interface by it. A file that cannot be used leaves the whole of it out, with a warning.";
    conf_dir: String = "confDir", Unset::Text(CONF_DIR), Multus, r#""/etc/networks""#,
        "Where networks are looked up by name.";
    cni_conf: String = "cniConf", Unset::Nothing, Multus, r#""/etc/other""#,
        "What Multus' installer writes in the place of `confDir`. It is read as that, with a warning, where there is no `confDir`, and without the `/host` under which the installer sees the node.";
    bin_dir: String = "binDir", Unset::Text(BIN_DIR), Multus, r#""/usr/libexec/cni""#,
        "Searched for plugins before `CNI_PATH`.";
    cni_dir: String = "cniDir", Unset::Text(CNI_DIR), Multus, r#""/var/lib/multus""#,
        "Where Multus kept its records: pods that it attached are deleted by them.";
    kubeconfig: String = "kubeconfig", Unset::Nothing, Multus, r#""/etc/cni/net.d/multus.d/multus.kubeconfig""#,
        "How the API server is reached. Without it, the service account of the pod that plexus runs in, where there is one; else no API server is asked, and only the default networks are attached. A token or password is not sent to a server that is written with `http://`, unless that is this machine.";
    namespace_isolation: bool = "namespaceIsolation", Unset::Flag(false), Multus, "true",
        "A pod may name definitions of its own namespace and of `globalNamespaces` only; as default network also those of `multusNamespace`.";
    global_namespaces: String = "globalNamespaces", Unset::Text(EVERYBODY), Multus, r#""default,shared""#,
        "Namespaces, separated by commas, whose definitions every pod may name under `namespaceIsolation`.";
    system_namespaces: Vec<String> = "systemNamespaces", Unset::Names(&[SYSTEM]), Multus, r#"["kube-system", "infra"]"#,
        "Pods in these get no `defaultNetworks`.";
    multus_namespace: String = "multusNamespace", Unset::Text(SYSTEM), Multus, r#""infra""#,
        "Where the definitions are that `clusterNetwork`, `defaultNetworks` and the default-network annotation name without a namespace.";
    retry_delete_on_error: bool = "retryDeleteOnError", Unset::Flag(false), Multus, "true",
        "Read, and without effect: what a DEL could not finish, the next one does, always.";
    readiness_file: String = "readinessindicatorfile", Unset::Nothing, Multus, r#""/run/ready""#,
        "ADD waits until this file is there, at most `readinessWaitMs`; STATUS says at once when it is not. CHECK, DEL and GC do not ask for it.";
    readiness_wait_ms: u64 = "readinessWaitMs", Unset::Number(READINESS_WAIT_MS), Plexus, "1000",
        "Milliseconds, at most 300000, that ADD waits for `readinessindicatorfile`.";
    log_file: String = "logFile", Unset::Nothing, Multus, r#""/var/log/plexus.log""#,
        "A file for the lines of every call up to `logLevel`. It is made, with its folders, where it is missing; what cannot be written to it keeps no call from ending well.";
    log_level: String = "logLevel", Unset::Text("panic"), Multus, r#""verbose""#,
        "`panic`, `error` (also warnings), `verbose` (also a line for each attachment) or `debug`.";
    log_to_stderr: bool = "logToStderr", Unset::Flag(true), Multus, "false",
        "The same lines on standard error, where the runtime keeps them. Warnings go there whatever `logLevel` says, unless this is false and `logFile` has them.";
    log_options: LogOptions = "logOptions", Unset::Nothing, Multus, r#"{"maxSize": 10}"#,
        "How `logFile` is kept small: the four keys below.";
    daemon_socket_dir: String = "daemonSocketDir", Unset::Nothing, Multus, r#""/run/plexus/""#,
        "Where the daemon of this node has its socket, `plexus.sock`: ADD and DEL are asked of it. Not given: none is asked.";
    fallback: String = "fallback", Unset::Text("oneshot"), Plexus, r#""wait""#,
        "What ADD does where that daemon does not answer: `oneshot` (it attaches by itself), `wait` (for at most `daemonWaitMs`) or `fail`. DEL always ends by itself.";
    daemon_wait_ms: u64 = "daemonWaitMs", Unset::Number(DAEMON_WAIT_MS), Plexus, "5000",
        "Milliseconds, at most 300000, that `fallback: wait` waits.";
    status_before_answer: bool = "statusBeforeAnswer", Unset::Flag(false), Plexus, "true",
        "The daemon answers when the pod's network-status is written, and not before; without a daemon it is always so.";
    state_dir: String = "stateDir", Unset::Text(STATE_DIR), Plexus, r#""/var/lib/plexus""#,
        "Where the journal and the indexes of pools are.";
    manifests: String = "manifests", Unset::Nothing, Plexus, r#""/etc/plexus/manifests""#,
        "A folder of Kubernetes manifests with pods and definitions, for nodes without an API server.";
    native: Value = "native", Unset::Text("auto"), Plexus, r#"["bridge", "macvlan"]"#,
        "Which plugins are built in process: `auto` (each that plexus knows, where it knows every key), `off` (none: all are executed), or a list of types.";
    api_call_timeout_ms: u64 = "apiCallTimeoutMs", Unset::Number(API_CALL_TIMEOUT_MS), Plexus, "1000",
        "Milliseconds, 1 to 300000, that one call of the API server may take.";
    api_deadline_ms: u64 = "apiDeadlineMs", Unset::Number(API_DEADLINE_MS), Plexus, "60000",
        "Milliseconds, 1 to 300000, that all calls of one request may take, retries included.";
    appear_wait_ms: u64 = "appearWaitMs", Unset::Number(APPEAR_WAIT_MS), Plexus, "0",
        "Milliseconds, at most 300000, that a pod or a definition is waited for that is not there yet.";
    allowed_delegates: Vec<String> = "allowedDelegates", Unset::Nothing, Plexus, r#"["kube-ovn", "whereabouts"]"#,
        "Types of plugins that a definition may have the node execute; what plexus builds in process is not executed. Not given: all; an empty list: none.";
    strict_capabilities: bool = "strictCapabilities", Unset::Flag(false), Plexus, "true",
        "A request for addresses or a MAC that no plugin of the network declares the capability for is refused, as the standard has it, and not passed on with a warning in `CNI_ARGS`.";
    kubelet_dir: String = "kubeletDir", Unset::Text(KUBELET_DIR), Plexus, r#""/var/lib/k0s/kubelet""#,
        "The kubelet's folder. Which devices a pod was allocated is asked of `pod-resources/kubelet.sock` in it, and read from `device-plugins/kubelet_internal_checkpoint` where there is no such socket; so are a pod's own processors, and read from `cpu_manager_state`.";
    allow_device_id: bool = "allowDeviceID", Unset::Flag(false), Plexus, "true",
        "A pod may name a device in its annotation. By default it gets one only from the kubelet's allocation.";
    runtime_config: Map<String, Value> = "runtimeConfig", Unset::Nothing, Cni, r#"{"mac": "02:00:00:00:00:01"}"#,
        "What the runtime asks of the default network; no other network gets it.";
}

table! {
    /// `logOptions` as they are written.
    LogOptions as "logging.LogOptions",
    /// The keys of `logOptions`.
    LOG_KEYS:

    max_age: i64 = "maxAge", Unset::Number(LOG_AGE_DAYS), Multus, "1",
        "Days after which a full file is deleted; 0: never.";
    max_size: i64 = "maxSize", Unset::Number(LOG_SIZE_MB), Multus, "1",
        "Megabytes at which the file is put aside and a new one begun.";
    max_backups: i64 = "maxBackups", Unset::Number(LOG_BACKUPS), Multus, "1",
        "Full files that are kept, newest first; 0: all.";
    compress: bool = "compress", Unset::Flag(true), Multus, "false",
        "Full files are compressed, by the node's own `gzip` where it has one, after the call has ended.";
}

impl Named for LogOptions {
    const NAME: &'static str = "object";
}

const fn accepted(name: &'static str, kind: &'static str, origin: Origin, text: &'static str) -> Key {
    Key { name, kind, unset: Unset::Nothing, origin, example: "", text }
}

/// The names of [`ACCEPTED`] alone: a program that only parses needs not their texts.
#[expect(clippy::indexing_slicing, reason = "it is done by the compiler: a wrong index would not build")]
pub(super) const ACCEPTED_NAMES: [&str; ACCEPTED.len()] = {
    let mut names = [""; ACCEPTED.len()];
    let mut rest = ACCEPTED;
    let mut index = 0;
    while let [first, others @ ..] = rest {
        names[index] = first.name;
        rest = others;
        index += 1;
    }
    names
};

/// Keys that are no mistake, and that the meta-plugin itself makes nothing of.
pub const ACCEPTED: &[Key] = &[
    accepted("cniVersion", "text", Origin::Cni, "The version that the runtime speaks, and gets its result in."),
    accepted("cniVersions", "list of texts", Origin::Cni, "The versions that the runtime chose from."),
    accepted("name", "text", Origin::Cni, "The network's name, which the journal's records are kept under."),
    accepted("type", "text", Origin::Cni, "`plexus-cni`, `plexus`, `multus` or `multus-shim`: all the same."),
    accepted("capabilities", "object", Origin::Cni, "What the runtime sends in `runtimeConfig`."),
    accepted("prevResult", "object", Origin::Cni, "Nothing runs before the meta-plugin."),
    accepted("args", "object", Origin::Cni, "The networks' own count."),
    accepted("dns", "object", Origin::Cni, "The networks' own count."),
    accepted("ipam", "object", Origin::Cni, "The networks' own count."),
    accepted("disableCheck", "yes or no", Origin::Cni, "The runtime's business."),
    accepted("disableGC", "yes or no", Origin::Cni, "The runtime's business."),
    accepted("cni.dev/valid-attachments", "list of objects", Origin::Cni, "What GC keeps."),
    accepted("cni.dev/attachments", "list of objects", Origin::Cni, "The older name of that."),
    accepted(
        "overrideNetworkName",
        "yes or no",
        Origin::Daemon,
        "Multus' daemon writes it into what it generates; it means something in `daemon-config.json` only.",
    ),
    accepted(
        "allowTryDeleteOnErr",
        "yes or no",
        Origin::Multus,
        "Named by Multus' page and read by nobody: see `retryDeleteOnError`.",
    ),
];
