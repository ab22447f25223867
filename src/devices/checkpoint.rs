//! The kubelet's own note of what it gave to whom (k8s.io/kubernetes pkg/kubelet/cm/devicemanager/checkpoint): read where its
//! socket is not there. Both forms: ids by NUMA node (since Kubernetes 1.20), and the plain list before.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use serde::Deserialize;

use super::Devices;
use crate::sources::SourceError;

/// Below the kubelet's directory.
pub const PLACE: &str = "device-plugins/kubelet_internal_checkpoint";
/// In bytes: each container's allocation is in it with all environment and mounts, so it is large on a large node.
const BYTES_MAX: u64 = 64 << 20;

#[derive(Deserialize)]
struct File {
    #[serde(rename = "Data")]
    data: Allocations,
}

#[derive(Deserialize)]
struct Allocations {
    /// `null` where nothing was given to anybody.
    #[serde(rename = "PodDeviceEntries")]
    entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod: String,
    #[serde(rename = "ResourceName")]
    resource: String,
    #[serde(rename = "DeviceIDs")]
    ids: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    ByNode(BTreeMap<String, Option<Vec<String>>>),
    Plain(Vec<String>),
}

/// The devices of the pod with this UID, by the checkpoint below the kubelet's directory; none where there is no checkpoint.
///
/// # Errors
/// It cannot be read or says what no kubelet says; the UID is not known.
pub fn devices(kubelet: &Path, uid: &str) -> Result<Devices, SourceError> {
    let path = kubelet.join(PLACE);
    let refuse = |why: String| SourceError::Api {
        act: format!("reading the kubelet's checkpoint {}", path.display()),
        why,
        transient: true, // the next one is written with the next allocation
    };
    let Some(bytes) = read(&path).map_err(refuse)? else { return Ok(Devices::default()) };
    if uid.is_empty() {
        return Err(refuse("it knows pods by their UIDs, and the runtime told none".to_owned()));
    }
    parse(&bytes, uid).map_err(refuse)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| e.to_string())?,
    };
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > BYTES_MAX) {
        return Err(format!("more than {BYTES_MAX} bytes"));
    }
    Ok(Some(bytes))
}

fn parse(bytes: &[u8], uid: &str) -> Result<Devices, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let mut devices = Devices::default();
    for entry in file.data.entries.unwrap_or_default().into_iter().filter(|entry| entry.pod == uid) {
        let ids: Vec<String> = match entry.ids {
            None => Vec::new(),
            Some(Ids::Plain(ids)) => ids,
            Some(Ids::ByNode(nodes)) => nodes.into_values().flatten().flatten().collect(),
        };
        ids.iter().try_for_each(|id| devices.add(&entry.resource, id))?;
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn file(entries: &serde_json::Value) -> Vec<u8> {
        json!({"Data": {"PodDeviceEntries": entries, "RegisteredDevices": {"a/vf": ["x"]}}, "Checksum": 1})
            .to_string()
            .into_bytes()
    }

    fn entry(pod: &str, container: &str, ids: &serde_json::Value) -> serde_json::Value {
        json!({"PodUID": pod, "ContainerName": container, "ResourceName": "a/vf", "DeviceIDs": ids, "AllocResp": "Cg=="})
    }

    #[test]
    fn both_forms_are_read_and_other_pods_are_not_ours() {
        let nodes = json!({"0": ["v3"], "1": ["v1"], "-1": null});
        let entries = json!([
            entry("u", "a", &nodes),
            entry("w", "a", &json!({"0": ["v9"]})),
            entry("u", "b", &json!(["v2"])),
            entry("u", "c", &json!(null))
        ]);
        let devices = parse(&file(&entries), "u").unwrap();
        assert_eq!(devices.of("a/vf").collect::<Vec<_>>(), ["v1", "v2", "v3"]);
        assert!(parse(&file(&json!(null)), "u").unwrap().is_empty());
    }

    #[test]
    fn what_no_kubelet_writes_is_refused() {
        for text in ["", "[]", "{}", r#"{"Data": 1}"#, r#"{"Data": {"PodDeviceEntries": [{"PodUID": "u"}]}}"#] {
            assert!(parse(text.as_bytes(), "u").is_err(), "{text}");
        }
        for ids in [json!([""]), json!({"0": [7]}), json!("v"), json!(["a\u{0}b"])] {
            assert!(parse(&file(&json!([entry("u", "a", &ids)])), "u").is_err(), "{ids}");
        }
    }

    #[test]
    fn no_checkpoint_is_no_device_and_an_odd_one_is_an_error() {
        let dir = std::env::temp_dir().join(format!("plexus-checkpoint-{}", std::process::id()));
        std::fs::create_dir_all(dir.join(PLACE).parent().unwrap()).unwrap();
        assert!(devices(&dir, "u").unwrap().is_empty());
        std::fs::write(dir.join(PLACE), file(&json!([entry("u", "a", &json!(["v1"]))]))).unwrap();
        let found = devices(&dir, "u").unwrap();
        let nameless = devices(&dir, "").unwrap_err().to_string();
        std::fs::remove_file(dir.join(PLACE)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.join(PLACE)).unwrap();
        let odd = devices(&dir, "u");
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found.of("a/vf").collect::<Vec<_>>(), ["v1"]);
        assert!(nameless.contains("told none"), "{nameless}");
        assert!(odd.unwrap_err().is_transient());
    }

    proptest! {
        #[test]
        fn no_checkpoint_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
            let _ = parse(&bytes, "u");
            let _ = parse(text.as_bytes(), "u");
        }
    }
}
