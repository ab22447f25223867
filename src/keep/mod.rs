//! The daemon keeps the node's CNI configuration right: plexus' own file is made of the default network's, validated, written
//! whole, and put back when others remove it. Once it was written it stays: a runtime that found no plexus any more would start
//! pods with their default network alone, and nobody would know. It does not know how a request is served, nor when the daemon
//! is ready: that it is told.

mod decide;
mod keeper;
mod kubeconfig;
mod primary;
mod see;
#[cfg(test)]
mod tests;
mod watch;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

pub use decide::{Action, Decision, decide};
pub use keeper::Keeper;
pub use kubeconfig::Account;

use crate::cni::list::List;
use crate::cni::version::Version;
use crate::confdir::Fate;
use crate::config::Config;
use crate::config::daemon::{Certificate, DaemonConfig, Origin};
use crate::install::{LOGIN, compose};

/// A file that could not be read for so long is not being written any more: others may be taken in its place.
pub const SETTLED: Duration = Duration::from_secs(10);
/// A default network that is gone for so long is not being replaced any more: the next one in the folder may be taken. An upgrade
/// of a network's own pods takes less.
pub const GONE_GRACE: Duration = Duration::from_secs(60);
/// What is put behind the name of a file that is to be read no more: by Cilium, and by Multus' installer.
const ASIDE: [&str; 2] = [".cilium_bak", ".old"];
/// A file that the daemon has waited for already; `plexus-cni` is not asked before the daemon is there.
const READINESS: &str = "readinessindicatorfile";

/// What is to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Keep {
    /// The runtime's configurations, as the daemon sees them.
    pub dir: PathBuf,
    /// Where the default network's file is; usually the same folder.
    pub networks: PathBuf,
    /// Made of the default network's file, or of one that a person wrote.
    pub origin: Origin,
    /// The name of the default network's file; none: the first.
    pub primary: Option<String>,
    /// The keys of plexus' file beside the network itself.
    pub own: Map<String, Value>,
    /// Its version; none: the default network's.
    pub version: Option<Version>,
    /// The default network is used in that version too. Its own file is never changed, other than by Multus.
    pub force_version: bool,
    /// It is named as the default network.
    pub named_as_primary: bool,
    /// The default network must have that version itself; where it has another, nothing is written.
    pub exact_version: bool,
    /// A service account that the node reaches the API server by.
    pub account: Option<Account>,
    /// Where its kubeconfig is; none: beside plexus' file.
    pub login: Option<Login>,
    /// It is written when this file is there, too, as the daemon sees it.
    pub readiness: Option<PathBuf>,
    /// It is removed when the daemon ends. Not so unless somebody says it: pods would start without their networks.
    pub cleanup: bool,
}

/// Where the node's kubeconfig is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// As the daemon sees it, which writes it.
    pub seen: PathBuf,
    /// As the node does, which reads it.
    pub on_node: PathBuf,
}

impl Keep {
    /// What the configuration of Multus' daemon says. `account`: who the daemon is; the node's kubeconfig is made of it where the
    /// configuration has none. `socket_dir`: where it listens, as it sees that; Multus' `socketDir` is of another socket.
    ///
    /// # Errors
    /// A sentence: `cniVersion` is none.
    pub fn of(daemon: &DaemonConfig, account: Option<Account>, socket_dir: &Path) -> Result<Keep, String> {
        let version = daemon.cni_version.as_deref();
        let parse =
            |text: &str| Version::parse(text).ok_or_else(|| format!("cniVersion: {text:?} is no version of CNI"));
        let mut own = daemon.network.clone();
        own.retain(|key, _| !key.eq_ignore_ascii_case(READINESS));
        own.entry("daemonSocketDir").or_insert_with(|| on_node(socket_dir).into());
        if let Some(path) = daemon.certificate.as_ref().and_then(Certificate::kubeconfig) {
            own.entry("kubeconfig").or_insert_with(|| on_node(&path).into());
        }
        let account = account.filter(|_| !own.contains_key("kubeconfig"));
        Ok(Keep {
            dir: daemon.cni_config_dir.clone(),
            networks: daemon.autoconfig_dir.clone().unwrap_or_else(|| daemon.cni_config_dir.clone()),
            origin: daemon.origin.clone(),
            primary: daemon.master_cni.clone(),
            own,
            version: version.map(parse).transpose()?,
            force_version: daemon.force_cni_version,
            named_as_primary: daemon.override_network_name,
            exact_version: false,
            account,
            login: None,
            readiness: daemon.readiness_file.clone(),
            cleanup: false,
        })
    }

    /// Where the node's kubeconfig is, as the daemon sees it.
    pub fn kubeconfig(&self) -> PathBuf {
        let usual = || self.dir.join(LOGIN);
        self.login.as_ref().map_or_else(usual, |login| login.seen.clone())
    }

    /// The name that the default network's file had before it was put aside, where there is no other network now.
    pub fn put_aside(&self) -> Option<String> {
        let seen = see::look(self, &mut see::Ages::default(), Seen::default(), Instant::now()).ok()?;
        primary::put_aside(&seen.networks)
    }

    /// What plexus' file is to say, whatever the default network is: how the API server is reached, where the state is. None where
    /// its keys cannot be read: who is asked with that file says why.
    pub fn config(&self) -> Option<Config> {
        let mut keys = self.usual();
        keys.extend(self.own.clone());
        Config::parse_keys(&keys).ok()
    }

    /// Keys that a file of a person's need not have.
    fn usual(&self) -> Map<String, Value> {
        let place = || match &self.login {
            Some(login) => login.on_node.display().to_string(),
            None => on_node(&self.kubeconfig()),
        };
        self.account.iter().map(|_| ("kubeconfig".to_owned(), place().into())).collect()
    }

    /// Whether the daemon's configuration says itself what the default network is.
    fn names_network(&self) -> bool {
        ["delegates", "clusterNetwork"].iter().any(|key| self.own.contains_key(*key))
    }
}

/// A path as the node has it: Multus' containers see its root under another.
fn on_node(path: &Path) -> String {
    let path = path.display().to_string();
    compose::strip(&path).map(str::to_owned).unwrap_or(path)
}

/// What plexus' file was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The default network's file, where it is known.
    pub path: Option<PathBuf>,
    /// The network's name.
    pub network: String,
}

/// plexus' file as it was last written, or found at the start: what is put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// The file.
    pub bytes: Vec<u8>,
    /// How its name ends.
    pub ending: &'static str,
    /// What it was made of; none: of a file that a person wrote.
    pub source: Option<Source>,
}

/// A file in a folder of configurations.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// What a runtime makes of it. One that was put aside and loads is `Ignored`.
    pub fate: Fate,
    /// How long it has been so.
    pub unchanged: Duration,
}

impl Found {
    /// The network, where it loads.
    fn list(&self) -> Option<&List> {
        match &self.fate {
            Fate::Chosen(list) | Fate::Ignored(list) => Some(list),
            Fate::Broken(_) | Fate::NotRead => None,
        }
    }

    fn is_aside(&self) -> bool {
        ASIDE.iter().any(|suffix| self.path.as_os_str().as_encoded_bytes().ends_with(suffix.as_bytes()))
    }
}

/// What is there now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The runtime's folder, sorted.
    pub files: Vec<Found>,
    /// The folder of the default network's file, sorted; lists have the plugins of their folders.
    pub networks: Vec<Found>,
    /// The file that a person wrote (`multusConfigFile`).
    pub given: Option<Result<Map<String, Value>, String>>,
    /// plexus' file as it should be, as far as is known.
    pub last: Option<Last>,
    /// How long what it was made of has been gone.
    pub gone: Duration,
    /// What plexus' network is called: pods that are there were attached under that name.
    pub name: String,
}
