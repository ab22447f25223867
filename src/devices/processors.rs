//! Which processors are a pod's own: by the note of the kubelet's CPU manager (k8s.io/kubernetes pkg/kubelet/cm/cpumanager/state). Its static
//! policy gives them when the pod is admitted, which is before its sandbox is made; the other policy gives none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use backends::sysfs::processors_of;
use serde::Deserialize;

use super::checkpoint;

/// Below the kubelet's directory.
const PLACE: &str = "cpu_manager_state";

/// What is read of it.
#[derive(Deserialize)]
struct File {
    /// Lists as the kernel writes them, by container, by the pod's UID.
    #[serde(default)]
    entries: BTreeMap<String, BTreeMap<String, String>>,
}

/// Those of the pod with this UID; none where the kubelet has given it none, or has no such note.
///
/// # Errors
/// A sentence: it cannot be read, or says what no kubelet says.
pub fn of_pod(kubelet: &Path, uid: &str) -> Result<BTreeSet<u32>, String> {
    let path = kubelet.join(PLACE);
    let refuse = |why: String| format!("reading the kubelet's {}: {why}", path.display());
    let Some(bytes) = checkpoint::read(&path).map_err(refuse)? else { return Ok(BTreeSet::new()) };
    let file: File = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
    let lists = file.entries.get(uid).into_iter().flat_map(BTreeMap::values);
    let sets =
        lists.map(|list| processors_of(list).ok_or_else(|| refuse(format!("{list:?} is no list of processors"))));
    Ok(sets.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_pod_has_those_of_its_containers() {
        let dir = std::env::temp_dir().join(format!("plexus-processors-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let of = |uid: &str| of_pod(&dir, uid).map(|all| all.into_iter().collect::<Vec<_>>());
        assert_eq!(of("a"), Ok(vec![]), "another policy writes nothing, or nothing of pods");
        fs::write(dir.join(PLACE), r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#).unwrap();
        assert_eq!(of("a"), Ok(vec![]));
        let written = r#"{"policyName":"static","defaultCpuSet":"0,6-7","entries":{"a":{"x":"2-3","y":"8"},"b":{"z":"4"}},"checksum":7}"#;
        fs::write(dir.join(PLACE), written).unwrap();
        assert_eq!((of("a"), of("b"), of("c")), (Ok(vec![2, 3, 8]), Ok(vec![4]), Ok(vec![])));
        for wrong in ["", "7", r#"{"entries":{"a":{"x":"3-1"}}}"#, r#"{"entries":{"a":{"x":7}}}"#] {
            fs::write(dir.join(PLACE), wrong).unwrap();
            assert!(of("a").is_err(), "{wrong}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
