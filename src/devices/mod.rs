//! Devices that a pod was given, and its processors: which there are, which network gets which, who holds one, and what is told of one.
//!
//! It knows files and values: neither the kubelet's socket nor the API server, nor how a device becomes an interface.

pub mod allot;
pub mod checkpoint;
pub mod claim;
pub mod description;
#[cfg(test)]
pub(crate) mod fixture;
pub mod need;
pub mod processors;

use std::collections::{BTreeMap, BTreeSet};

pub use allot::Allotment;

use crate::sources::SourceError;

/// A definition's annotation: the resource whose devices its attachments need (network CRD standard, Multus).
pub const RESOURCE_NAME: &str = "k8s.v1.cni.cncf.io/resourceName";

/// Longer than any name of a device: a PCI address has 12 bytes, a file name on the auxiliary bus at most 255.
pub const ID_BYTES_MAX: usize = 256;
/// A qualified name: a domain of 253 bytes, a slash, 63 more.
const RESOURCE_BYTES_MAX: usize = 317;
/// More devices than one pod has.
const DEVICES_MAX: usize = 4096;

/// A pod's devices: of each resource their ids, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    all: BTreeMap<String, BTreeSet<String>>,
    count: usize,
    /// Processors that are the pod's own.
    pub processors: BTreeSet<u32>,
    /// Why these are not known.
    pub processors_unknown: Option<String>,
    /// Why there may be more.
    pub doubt: Option<SourceError>,
}

impl Devices {
    /// Adds a device.
    ///
    /// # Errors
    /// A name that can be none, and more devices than a pod can have: whoever says that is not to be believed.
    pub fn add(&mut self, resource: &str, id: &str) -> Result<(), String> {
        for (what, name, most) in [("resource", resource, RESOURCE_BYTES_MAX), ("device", id, ID_BYTES_MAX)] {
            if name.is_empty() || name.len() > most || name.chars().any(char::is_control) {
                let shown: String = name.chars().take(most).collect();
                return Err(format!("{shown:?} is no name of a {what}"));
            }
        }
        if self.count >= DEVICES_MAX {
            return Err(format!("more than {DEVICES_MAX} devices of one pod"));
        }
        if self.all.entry(resource.to_owned()).or_default().insert(id.to_owned()) {
            self.count += 1;
        }
        Ok(())
    }

    /// The devices of a resource, in the order in which they are given out.
    pub fn of<'a>(&'a self, resource: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.all.get(resource).into_iter().flatten().map(String::as_str)
    }

    /// The resource that a device is of.
    pub fn resource_of(&self, id: &str) -> Option<&str> {
        self.all.iter().find(|(_, ids)| ids.contains(id)).map(|(resource, _)| resource.as_str())
    }

    /// All of them, by resource.
    pub fn to_lists(&self) -> BTreeMap<String, Vec<String>> {
        self.all.iter().map(|(resource, ids)| (resource.clone(), ids.iter().cloned().collect())).collect()
    }

    /// Those of such lists.
    ///
    /// # Errors
    /// As [`Devices::add`].
    pub fn of_lists(lists: &BTreeMap<String, Vec<String>>) -> Result<Devices, String> {
        let mut devices = Devices::default();
        let mut all = lists.iter().flat_map(|(resource, ids)| ids.iter().map(move |id| (resource, id)));
        all.try_for_each(|(resource, id)| devices.add(resource, id))?;
        Ok(devices)
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_given_out_sorted_and_each_once() {
        let mut devices = Devices::default();
        assert!(devices.is_empty());
        for id in ["0000:01:10.2", "0000:01:10.0", "0000:01:10.2"] {
            devices.add("a/vf", id).unwrap();
        }
        assert_eq!(devices.of("a/vf").collect::<Vec<_>>(), ["0000:01:10.0", "0000:01:10.2"]);
        assert_eq!(devices.of("b/vf").count(), 0);
        assert_eq!((devices.resource_of("0000:01:10.2"), devices.resource_of("x")), (Some("a/vf"), None));
    }

    #[test]
    fn what_can_be_no_device_is_refused() {
        let mut devices = Devices::default();
        for (resource, id) in [("", "x"), ("a/vf", ""), ("a/vf", "a\nb"), ("a/vf", &"x".repeat(257))] {
            assert!(devices.add(resource, id).is_err(), "{resource:?} {id:?}");
        }
        let all: Result<(), String> = (0..=DEVICES_MAX).try_for_each(|n| devices.add("a/vf", &n.to_string()));
        assert_eq!(all.unwrap_err(), "more than 4096 devices of one pod");
    }
}
