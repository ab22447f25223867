//! Which network of a pod gets which of its devices. Pure.
//!
//! The n-th network that names a resource gets the n-th device of it, over all networks of the pod: the default network, the
//! node's own and the pod's. A network for which the pod names one of its devices gets that.

use std::collections::BTreeMap;

use super::{Devices, RESOURCE_NAME, claim};
use crate::cni::error::{CniError, Code};
use crate::journal::Allotted;
use crate::sources::SourceError;

/// A network of the pod, as far as devices go.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// Its name, for people.
    pub network: &'a str,
    /// The resource that its definition names.
    pub resource: Option<&'a str>,
    /// The device that the pod names for it.
    pub named: Option<&'a str>,
}

/// What a network got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allotment {
    /// Nothing was asked for.
    #[default]
    Unasked,
    /// One of the devices that the pod was allocated.
    Allocated(Allotted),
    /// A device that the pod names by itself, as the node's configuration allows.
    Named(Allotted),
    /// The definition names a resource, and there is no device of it for this network.
    Lacking {
        /// The resource.
        resource: String,
        /// Nobody could say which devices the pod has.
        unknown: Option<SourceError>,
    },
}

impl Allotment {
    /// The device, where there is one.
    pub fn device(&self) -> Option<&Allotted> {
        match self {
            Allotment::Allocated(device) | Allotment::Named(device) => Some(device),
            Allotment::Unasked | Allotment::Lacking { .. } => None,
        }
    }
}

/// Whether the pod's devices must be known.
pub fn is_asked(references: &[Reference]) -> bool {
    references.iter().any(|reference| reference.resource.is_some() || reference.named.is_some())
}

/// Gives each network its device, same order. `may_name_any`: the pod may name what it was not allocated.
///
/// # Errors
/// The pod names a device that is not its own, or one device for two networks.
pub fn allot(
    references: &[Reference],
    devices: &Result<Devices, SourceError>,
    may_name_any: bool,
) -> Result<Vec<Allotment>, CniError> {
    let mut taken = Taken::default();
    let none = Devices::default();
    let known = devices.as_ref().unwrap_or(&none);
    let doubt = devices.as_ref().map_or_else(Some, |known| known.doubt.as_ref());
    let mut all: Vec<Allotment> = references.iter().map(|_| Allotment::Unasked).collect();
    // Those that are named are not given to others.
    for (reference, got) in references.iter().zip(&mut all) {
        let Some(id) = reference.named else { continue };
        match own(reference, id, known) {
            Some(device) => *got = Allotment::Allocated(taken.take(device, reference)?),
            None if may_name_any => {}
            None => return Err(doubt.map_or_else(|| refuse_name(reference), |e| unknown(reference, e))),
        }
    }
    for (reference, got) in references.iter().zip(&mut all).filter(|(_, got)| **got == Allotment::Unasked) {
        let next = reference.resource.and_then(|resource| {
            let all = known.of(resource).map(|id| allotted(resource, id));
            all.into_iter().find(|device| !taken.has(device))
        });
        *got = match (next, reference.named, reference.resource) {
            (Some(device), ..) => Allotment::Allocated(taken.take(device, reference)?),
            (None, Some(id), _) => Allotment::Named(taken.take(allotted("", id), reference)?),
            (None, None, Some(resource)) => {
                Allotment::Lacking { resource: resource.to_owned(), unknown: doubt.cloned() }
            }
            (None, None, None) => Allotment::Unasked,
        };
    }
    Ok(all)
}

fn allotted(resource: &str, id: &str) -> Allotted {
    Allotted { resource: resource.to_owned(), id: id.to_owned() }
}

/// The named device, where the pod was allocated it; of the resource that the definition names, where it names one: its
/// configuration is meant for those devices.
fn own(reference: &Reference, id: &str, devices: &Devices) -> Option<Allotted> {
    let resource = match reference.resource {
        Some(resource) => devices.of(resource).any(|own| own == id).then_some(resource),
        None => devices.resource_of(id),
    };
    resource.map(|resource| allotted(resource, id))
}

fn refuse_name(reference: &Reference) -> CniError {
    let Reference { network, named, .. } = reference;
    let msg = format!(
        "network {network:?}: deviceID {:?}: a pod cannot name a device; it gets those it was allocated",
        named.unwrap_or_default()
    );
    CniError::new(Code::InvalidConfig, msg)
}

fn unknown(reference: &Reference, why: &SourceError) -> CniError {
    let msg = format!("network {:?}: whether its deviceID is the pod's cannot be known: {why}", reference.network);
    CniError::new(Code::TryAgainLater, msg)
}

/// Devices that are given out, and to which network. One device can be of two resources.
#[derive(Default)]
struct Taken(BTreeMap<String, String>);

impl Taken {
    fn has(&self, device: &Allotted) -> bool {
        self.0.contains_key(&claim::name(device))
    }

    fn take(&mut self, device: Allotted, reference: &Reference) -> Result<Allotted, CniError> {
        if let Some(other) = self.0.insert(claim::name(&device), reference.network.to_owned()) {
            let msg = format!("device {} is wanted by networks {other:?} and {:?}", device.id, reference.network);
            return Err(CniError::new(Code::InvalidConfig, msg));
        }
        Ok(device)
    }
}

/// What a person can do about a resource of which there is no device.
pub(super) fn advice(resource: &str) -> String {
    format!(
        "no device of resource {resource} ({RESOURCE_NAME}) is left for it: the pod's containers must request as many as its networks use"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn devices(pairs: &[(&str, &str)]) -> Result<Devices, SourceError> {
        let mut devices = Devices::default();
        pairs.iter().for_each(|(resource, id)| devices.add(resource, id).unwrap());
        Ok(devices)
    }

    fn reference<'a>(network: &'a str, resource: &'a str, named: &'a str) -> Reference<'a> {
        let given = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        Reference { network, resource: given(resource), named: given(named) }
    }

    fn ids(references: &[Reference], devices: &Result<Devices, SourceError>, any: bool) -> Result<Vec<String>, String> {
        let all = allot(references, devices, any).map_err(|e| e.msg)?;
        Ok(all.iter().map(|one| one.device().map(|device| device.id.clone()).unwrap_or_default()).collect())
    }

    #[test]
    fn the_nth_network_of_a_resource_gets_its_nth_device() {
        let pod = devices(&[("a/vf", "v2"), ("a/vf", "v1"), ("b/vf", "w1")]);
        let references = [
            reference("d", "a/vf", ""),
            reference("x", "", ""),
            reference("e", "b/vf", ""),
            reference("f", "a/vf", ""),
            reference("g", "a/vf", ""),
        ];
        assert_eq!(ids(&references, &pod, false).unwrap(), ["v1", "", "w1", "v2", ""]);
        let all = allot(&references, &pod, false).unwrap();
        assert_eq!(all[4], Allotment::Lacking { resource: "a/vf".into(), unknown: None });
    }

    #[test]
    fn one_device_of_two_resources_is_given_out_once() {
        let pod = devices(&[("a/vf", "0000:01:10.0"), ("b/vf", "0000:01:10.0"), ("b/vf", "0000:01:10.2")]);
        let references = [reference("x", "a/vf", ""), reference("y", "b/vf", "")];
        assert_eq!(ids(&references, &pod, false).unwrap(), ["0000:01:10.0", "0000:01:10.2"]);
    }

    #[test]
    fn a_pod_names_what_it_was_given() {
        let pod = devices(&[("a/vf", "v1"), ("a/vf", "v2"), ("b/vf", "w1")]);
        let references = [reference("x", "a/vf", ""), reference("y", "a/vf", "v1"), reference("z", "", "w1")];
        assert_eq!(ids(&references, &pod, false).unwrap(), ["v2", "v1", "w1"]);
        for (resource, id) in [("a/vf", "v3"), ("a/vf", "w1"), ("", "v3")] {
            let text = ids(&[reference("x", resource, id)], &pod, false).unwrap_err();
            assert!(text.contains("a pod cannot name a device; it gets those it was allocated"), "{text}");
        }
        let twice = ids(&[reference("x", "a/vf", "v1"), reference("y", "", "v1")], &pod, false).unwrap_err();
        assert!(twice.contains("\"x\" and \"y\""), "{twice}");
    }

    #[test]
    fn where_any_may_be_named_what_was_allocated_goes_first() {
        let pod = devices(&[("a/vf", "v1")]);
        let references = [reference("x", "a/vf", "other"), reference("y", "a/vf", "more"), reference("z", "", "free")];
        assert_eq!(ids(&references, &pod, true).unwrap(), ["v1", "more", "free"]);
        assert!(matches!(allot(&references, &pod, true).unwrap()[1], Allotment::Named(_)));
        assert!(ids(&[reference("x", "", "f"), reference("y", "", "f")], &pod, true).is_err());
    }

    #[test]
    fn who_cannot_say_it_is_told_where_it_matters() {
        let unknown = SourceError::Api { act: "asking".into(), why: "nobody is there".into(), transient: true };
        let failed = Err(unknown.clone());
        let doubtful = Ok(Devices { doubt: Some(unknown.clone()), ..devices(&[("a/vf", "v1")]).unwrap() });
        let two = allot(&[reference("x", "a/vf", ""), reference("y", "a/vf", "")], &doubtful, false).unwrap();
        assert_eq!(two[0].device().unwrap().id, "v1");
        assert_eq!(two[1], Allotment::Lacking { resource: "a/vf".into(), unknown: Some(unknown.clone()) });
        let all = allot(&[reference("x", "a/vf", "")], &failed, false).unwrap();
        assert_eq!(all, [Allotment::Lacking { resource: "a/vf".into(), unknown: Some(unknown) }]);
        let error = allot(&[reference("x", "", "v1")], &failed, false).unwrap_err();
        assert!(error.code == Code::TryAgainLater && error.msg.contains("nobody is there"), "{}", error.msg);
    }

    proptest! {
        #[test]
        fn no_device_is_given_out_twice(pairs in proptest::collection::vec(("[ab]", "[v-z]"), 0..8),
            wants in proptest::collection::vec(("[ab]?", "[v-z]?"), 0..8), any: bool) {
            let mut pod = Devices::default();
            pairs.iter().for_each(|(resource, id)| pod.add(resource, id).unwrap());
            let references: Vec<Reference> = wants.iter().map(|(resource, id)| reference("n", resource, id)).collect();
            if let Ok(all) = allot(&references, &Ok(pod.clone()), any) {
                let mut given: Vec<&Allotted> = all.iter().filter_map(Allotment::device).collect();
                let count = given.len();
                given.sort();
                given.dedup();
                prop_assert_eq!(given.len(), count);
                for one in &all {
                    if let Allotment::Allocated(device) = one {
                        prop_assert!(pod.of(&device.resource).any(|id| id == device.id));
                    }
                    prop_assert!(any || !matches!(one, Allotment::Named(_)));
                }
            }
        }
    }
}
