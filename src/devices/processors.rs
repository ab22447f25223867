//! Which processors are a pod's own: by the note of the kubelet's CPU manager (k8s.io/kubernetes pkg/kubelet/cm/cpumanager/state). Its static
//! policy gives them when the pod is admitted, which is before its sandbox is made; the other policy gives none.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fmt, fs};

use backends::sysfs::processors_of;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::checkpoint;

/// Below the kubelet's directory.
const PLACE: &str = "cpu_manager_state";

/// A node's has some hundred bytes for each container.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// A list of all processors of the largest machine, one by one.
const LIST_BYTES_MAX: usize = 64 << 10;

/// What is read of it: lists as the kernel writes them, by container, of one pod. All others cost no more than their bytes.
struct Wanted<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Vec<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<String>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pods with their containers' processors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pods: A) -> Result<Vec<String>, A::Error> {
        let mut lists = Vec::new();
        while let Some(pod) = pods.next_key::<Cow<'de, str>>()? {
            if pod == self.0 {
                lists = pods.next_value::<BTreeMap<Cow<'de, str>, String>>()?.into_values().collect();
            } else {
                pods.next_value::<IgnoredAny>()?;
            }
        }
        Ok(lists)
    }
}

/// What is read of the whole.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    entries: Option<&'a RawValue>,
}

/// Those of the pod with this UID; none where the kubelet has given it none, or has no such note.
///
/// # Errors
/// A sentence: it cannot be read, or says what no kubelet says.
pub fn of_pod(kubelet: &Path, uid: &str) -> Result<BTreeSet<u32>, String> {
    let path = kubelet.join(PLACE);
    let refuse = |why: String| format!("reading the kubelet's {}: {why}", path.display());
    if fs::metadata(&path).is_ok_and(|file| file.len() > FILE_BYTES_MAX) {
        return Err(refuse(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let Some(bytes) = checkpoint::read(&path).map_err(refuse)? else { return Ok(BTreeSet::new()) };
    let file: File = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
    let Some(entries) = file.entries else { return Ok(BTreeSet::new()) };
    let lists = Wanted(uid).deserialize(&mut serde_json::Deserializer::from_str(entries.get()));
    let mut all = BTreeSet::new();
    for list in lists.map_err(|e| refuse(e.to_string()))? {
        let found = processors_of(&list).filter(|_| list.len() <= LIST_BYTES_MAX);
        all.extend(found.ok_or_else(|| refuse("of this pod it has what is no list of processors".to_owned()))?);
    }
    Ok(all)
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
        let hollow = format!(r#"{{"entries":{{{}"a":{{"x":"5"}}}}}}"#, r#""b":{"y":{}},"#.repeat(1000));
        fs::write(dir.join(PLACE), hollow).unwrap();
        assert_eq!(of("a"), Ok(vec![5]), "what is of others is passed over");
        fs::write(dir.join(PLACE), format!(r#"{{"entries":{{"a":{{"x":"{}"}}}}}}"#, "0-8191,".repeat(10_000))).unwrap();
        assert!(of("a").is_err());
        fs::File::create(dir.join(PLACE)).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(of("a").unwrap_err().contains("more than"));
        for wrong in ["", "7", r#"{"entries":{"a":{"x":"3-1"}}}"#, r#"{"entries":{"a":{"x":7}}}"#] {
            fs::write(dir.join(PLACE), wrong).unwrap();
            assert!(of("a").is_err(), "{wrong}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
