//! What is known of the node's configuration before the first request: where the state is, and how the API server is reached. It
//! does not know who asks.

use std::path::Path;

use serde_json::{Map, Value};

use crate::cni::gojson;
use crate::confdir::{self, Fate};
use crate::config::{Config, META_TYPES};
use crate::keep::Keep;

/// Keys that say nothing of another request.
const OF_ITS_FILE: [&str; 4] = ["cniVersion", "name", "type", "readinessindicatorfile"];

/// As the daemon was told (`keep`), else as the first file of the runtime's folder says that is the meta-plugin's, else as nobody
/// says otherwise.
pub(super) fn config(keep: Option<&Keep>, conf_dir: &Path) -> Option<Config> {
    let unsaid = || Config::parse_keys(&Map::new()).ok();
    keep.and_then(Keep::config).or_else(|| found(conf_dir)).or_else(unsaid)
}

fn found(conf_dir: &Path) -> Option<Config> {
    Config::parse(&first(conf_dir)?).ok()
}

/// The keys of the node's configuration, where there is one in the runtime's folder that can be read: without those that are of its file,
/// and of its pods' networks.
pub(super) fn keys(conf_dir: &Path) -> Map<String, Value> {
    let mut keys = first(conf_dir).filter(|keys| Config::parse(keys).is_ok()).unwrap_or_default();
    keys.retain(|key, _| !OF_ITS_FILE.iter().any(|other| gojson::folds_to(key, other)));
    keys
}

/// The configuration of the first plugin that is the meta-plugin.
fn first(conf_dir: &Path) -> Option<Map<String, Value>> {
    let lists = confdir::read(conf_dir).ok()?.into_iter().filter_map(|file| match file.fate {
        Fate::Chosen(list) | Fate::Ignored(list) => Some(list),
        Fate::Broken(_) | Fate::NotRead => None,
    });
    let mut plugins = lists.flat_map(|list| list.plugins);
    plugins.find(|plugin| META_TYPES.contains(&plugin.plugin_type.as_str())).map(|own| own.object)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::daemon::DaemonConfig;

    #[test]
    fn what_the_daemon_is_told_counts_before_what_it_finds() {
        let dir = std::env::temp_dir().join(format!("plexus-node-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = |state: &str| {
            format!(
                r#"{{"cniVersion": "1.0.0", "name": "n", "type": "plexus-cni", "stateDir": "{state}", "clusterNetwork": "x"}}"#
            )
        };
        std::fs::write(dir.join("00-a.conf"), r#"{"cniVersion": "1.0.0", "name": "n", "type": "bridge"}"#).unwrap();
        std::fs::write(dir.join("10-b.conf"), file("/found")).unwrap();
        std::fs::write(dir.join("20-c.conf"), file("/later")).unwrap();
        let keep = |text: &str| {
            Keep::of(&DaemonConfig::parse(text.as_bytes()).unwrap(), None, Path::new("/host/run/plexus")).unwrap()
        };
        let told = keep(r#"{"stateDir": "/told", "kubeconfig": "/k"}"#);
        let state =
            |keep: Option<&Keep>, dir: &Path| config(keep, dir).map(|config| (config.state_dir, config.kubeconfig));
        assert_eq!(state(Some(&told), &dir), Some(("/told".into(), Some(PathBuf::from("/k")))));
        assert_eq!(state(None, &dir), Some(("/found".into(), None)));
        assert_eq!(state(None, &dir.join("none")), Some((crate::config::STATE_DIR.into(), None)));
        let broken = keep(r#"{"stateDir": "relative"}"#);
        assert_eq!(state(Some(&broken), &dir).unwrap().0, Path::new("/found"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
