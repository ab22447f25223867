//! The kubelet's own note of what it gave to whom (k8s.io/kubernetes pkg/kubelet/cm/devicemanager/checkpoint): read where its
//! socket is not there. Both forms: ids by NUMA node (since Kubernetes 1.20), and the plain list before.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use serde::Deserialize;
use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Devices, processors};
use crate::sources::SourceError;

/// Below the kubelet's directory.
pub const PLACE: &str = "device-plugins/kubelet_internal_checkpoint";
/// Of that, in the folder of device plugins.
const FILE: &str = "kubelet_internal_checkpoint";
/// In bytes: each container's allocation is in it with all environment and mounts, so it is large on a large node. It is in memory as it is,
/// and of what it says only one pod's devices.
const BYTES_MAX: u64 = 64 << 20;

/// Texts in it stay where they are until it is known whose they are.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow, rename = "Data")]
    data: Allocations<'a>,
}

#[derive(Deserialize)]
struct Allocations<'a> {
    /// `null` where nothing was given to anybody.
    #[serde(borrow, default, rename = "PodDeviceEntries")]
    entries: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, rename = "PodUID")]
    pod: Cow<'a, str>,
    #[serde(borrow, rename = "ResourceName")]
    resource: Cow<'a, str>,
    #[serde(borrow, default, rename = "DeviceIDs")]
    ids: Option<&'a RawValue>,
}

/// The devices of the pod with this UID, by the checkpoint below the kubelet's directory, none where there is no checkpoint; and its processors.
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
    // They are a matter of preference: what is not known of them fails nobody.
    let (processors, processors_unknown) = match processors::of_pod(kubelet, uid) {
        Ok(processors) => (processors, None),
        Err(why) => (BTreeSet::new(), Some(why)),
    };
    let known = |devices| Devices { processors, processors_unknown, ..devices };
    let Some(bytes) = read(&path).map_err(refuse)? else { return Ok(known(Devices::default())) };
    if uid.is_empty() {
        return Err(refuse("it knows pods by their UIDs, and the runtime told none".to_owned()));
    }
    parse(&bytes, uid).map(known).map_err(refuse)
}

/// Which devices pods have of resources that are wanted, by the checkpoint in a folder of device plugins; none where there is no
/// checkpoint.
///
/// # Errors
/// It cannot be read or says what no kubelet says.
pub fn allotted(plugin_dir: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Devices, String> {
    let path = plugin_dir.join(FILE);
    let found = read(&path).and_then(|bytes| bytes.map_or(Ok(Devices::default()), |bytes| all(&bytes, is_wanted)));
    found.map_err(|why| format!("reading the kubelet's checkpoint {}: {why}", path.display()))
}

fn all(bytes: &[u8], is_wanted: impl Fn(&str) -> bool) -> Result<Devices, String> {
    given(bytes, |entry| is_wanted(&entry.resource))
}

/// A file of the kubelet's; none where it is not there.
///
/// # Errors
/// A sentence: it cannot be read, or is too large for one.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| e.to_string())?,
    };
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("not a regular file".to_owned());
    }
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    if length > BYTES_MAX {
        return Err(format!("more than {BYTES_MAX} bytes"));
    }
    // In one piece: one that grows would be there twice.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default().saturating_add(1));
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > BYTES_MAX) {
        return Err(format!("more than {BYTES_MAX} bytes"));
    }
    Ok(Some(bytes))
}

fn parse(bytes: &[u8], uid: &str) -> Result<Devices, String> {
    given(bytes, |entry| entry.pod == uid)
}

/// What was given by the allocations that count.
fn given(bytes: &[u8], counts: impl Fn(&Entry<'_>) -> bool) -> Result<Devices, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let mut devices = Devices::default();
    let Some(entries) = file.data.entries else { return Ok(devices) };
    each_item(entries.get(), |entry: Entry| match entry.ids {
        Some(ids) if counts(&entry) => add(&mut devices, &entry.resource, ids.get()),
        _ => Ok(()),
    })?;
    Ok(devices)
}

/// Adds the ids of one allocation, in either form.
fn add(devices: &mut Devices, resource: &str, ids: &str) -> Result<(), String> {
    let mut plain = |ids: &str| each_item(ids, |id: Cow<str>| devices.add(resource, &id));
    if !ids.starts_with('{') {
        return plain(ids);
    }
    each_value(ids, |of_node: Option<&RawValue>| of_node.map_or(Ok(()), |ids| plain(ids.get())))
}

/// Hands over the items of a JSON array, one after the other: it may have more than there is room for.
fn each_item<'a, T: Deserialize<'a>>(text: &'a str, take: impl FnMut(T) -> Result<(), String>) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_seq(Each { take, of: PhantomData }).map_err(|e| e.to_string())
}

/// The same of an object's values.
fn each_value<'a, T: Deserialize<'a>>(text: &'a str, take: impl FnMut(T) -> Result<(), String>) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(Each { take, of: PhantomData }).map_err(|e| e.to_string())
}

struct Each<T, F> {
    take: F,
    of: PhantomData<T>,
}

impl<'a, T: Deserialize<'a>, F: FnMut(T) -> Result<(), String>> Visitor<'a> for Each<T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("what a kubelet writes")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            (self.take)(item).map_err(A::Error::custom)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut entries: A) -> Result<(), A::Error> {
        while let Some((_, value)) = entries.next_entry::<IgnoredAny, T>()? {
            (self.take)(value).map_err(A::Error::custom)?;
        }
        Ok(())
    }
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
