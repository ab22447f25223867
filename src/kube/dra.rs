//! Dynamic resource allocation (resource.k8s.io/v1): from the claims that a pod's status names to its devices. A claim says which
//! devices were allocated, a driver's slices of the node say what these are called: two attributes of a device are its id and
//! its resource. Devices without them are no networks' devices.
//!
//! It does not know what a device is for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::call::{Calls, Failure};
use super::objects::{self, Meta};
use crate::devices::Devices;
use crate::sources::SourceError;

/// The attribute that is a device's id.
const DEVICE_ID: &str = "k8s.cni.cncf.io/deviceID";
/// The attribute that is a device's resource, as definitions name it.
const RESOURCE: &str = "k8s.cni.cncf.io/resourceName";
/// More claims than one pod has.
const CLAIMS_MAX: usize = 256;

/// What a pod says of its claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct PodClaims {
    /// The node it runs on.
    pub(super) node: String,
    /// Its claims' names.
    pub(super) names: BTreeSet<String>,
    /// The claim that the scheduler made for extended resources, and which of its requests is which resource.
    pub(super) extended: Option<Extended>,
}

/// See [`PodClaims::extended`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Extended {
    #[serde(rename = "resourceClaimName")]
    claim: String,
    #[serde(default, rename = "requestMappings")]
    requests: Vec<Mapping>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    resource_name: String,
    request_name: String,
}

/// The parts of a pod's `spec` that name claims.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    #[serde(default)]
    node_name: String,
    #[serde(default)]
    resource_claims: Option<Vec<ClaimName>>,
}

impl PodSpec {
    pub(super) fn is_bound(&self) -> bool {
        !self.node_name.is_empty()
    }
}

/// The parts of a pod's `status` that name claims.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    #[serde(default)]
    resource_claim_statuses: Option<Vec<ClaimName>>,
    #[serde(default)]
    extended_resource_claim_status: Option<Extended>,
}

/// Without a name it was found that no claim is needed, or the status has the name of what a template made.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimName {
    resource_claim_name: Option<String>,
}

impl PodClaims {
    pub(super) fn of(spec: PodSpec, status: PodStatus) -> PodClaims {
        let named = [spec.resource_claims, status.resource_claim_statuses].into_iter().flatten().flatten();
        let names = named.filter_map(|claim| claim.resource_claim_name).filter(|name| !name.is_empty()).collect();
        PodClaims { node: spec.node_name, names, extended: status.extended_resource_claim_status }
    }

    fn all(&self) -> BTreeSet<&str> {
        let extended = self.extended.iter().map(|extended| extended.claim.as_str());
        self.names.iter().map(String::as_str).chain(extended).collect()
    }

    /// There is nothing to ask for.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.extended.is_none()
    }
}

/// A ResourceClaim.
#[derive(Debug, Default, Deserialize)]
struct Claim {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    status: ClaimStatus,
}

#[derive(Debug, Default, Deserialize)]
struct ClaimStatus {
    #[serde(default)]
    allocation: Option<Allocation>,
}

#[derive(Debug, Default, Deserialize)]
struct Allocation {
    #[serde(default)]
    devices: Results,
}

#[derive(Debug, Default, Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<Allocated>,
}

/// One device of a claim.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Allocated {
    /// The request, or `request/subrequest`.
    request: String,
    driver: String,
    pool: String,
    device: String,
    /// It is looked at, and not given to the pod.
    #[serde(default)]
    admin_access: Option<bool>,
}

/// ResourceSlices.
#[derive(Debug, Default, Deserialize)]
struct Slices {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    items: Vec<Slice>,
}

#[derive(Debug, Deserialize)]
struct Slice {
    spec: SliceSpec,
}

#[derive(Debug, Deserialize)]
struct SliceSpec {
    driver: String,
    pool: Pool,
    #[serde(default)]
    devices: Option<Vec<Device>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pool {
    name: String,
    /// Only slices of the newest one are valid.
    #[serde(default)]
    generation: i64,
    /// So many slices of this generation are the whole pool.
    #[serde(default)]
    resource_slice_count: i64,
}

#[derive(Debug, Deserialize)]
struct Device {
    name: String,
    #[serde(default)]
    attributes: Option<BTreeMap<String, Attribute>>,
}

#[derive(Debug, Deserialize)]
struct Attribute {
    string: Option<String>,
}

/// Adds the devices of a pod's claims.
///
/// # Errors
/// A claim or a slice cannot be asked for; a claim has no devices; an extended resource is not what its device says.
pub(super) async fn add(
    calls: &Calls,
    namespace: &str,
    pod: &PodClaims,
    devices: &mut Devices,
) -> Result<(), SourceError> {
    let names = pod.all();
    if names.len() > CLAIMS_MAX {
        let why = format!("{} claims are more than {CLAIMS_MAX}", names.len());
        return Err(Failure::Lasting(why).told("reading the pod's resource claims".to_owned()));
    }
    let mut claims = BTreeMap::new();
    for name in names {
        let told = |e: Failure| e.told(format!("asking the API server for resource claim {namespace}/{name}"));
        let path = objects::claim_path(namespace, name).map_err(told)?;
        let claim = calls.get::<Claim>(&path).await.map_err(told)?;
        if claim.metadata.name != name || claim.metadata.namespace != namespace {
            return Err(told(calls.foreign()));
        }
        claims.insert(name.to_owned(), claim);
    }
    let mut slices = Vec::new();
    for driver in drivers(&claims) {
        let told = |e: Failure| e.told(format!("asking the API server for the devices of driver {driver}"));
        let path = objects::slices_path(&pod.node, driver).map_err(told)?;
        let found = calls.list::<Slices>(&path).await.map_err(told)?;
        // Whatever is JSON reads as an empty list.
        if found.kind != "ResourceSliceList" {
            return Err(told(calls.foreign()));
        }
        slices.extend(found.items);
    }
    let refuse = |why: String| Failure::Lasting(why).told("reading the pod's resource claims".to_owned());
    read(pod, &claims, &slices, devices).map_err(refuse)
}

fn results(claim: &Claim) -> impl Iterator<Item = &Allocated> {
    claim.status.allocation.iter().flat_map(|allocation| &allocation.devices.results)
}

fn drivers(claims: &BTreeMap<String, Claim>) -> BTreeSet<&str> {
    claims.values().flat_map(results).map(|one| one.driver.as_str()).collect()
}

fn read(
    pod: &PodClaims,
    claims: &BTreeMap<String, Claim>,
    slices: &[Slice],
    devices: &mut Devices,
) -> Result<(), String> {
    // One driver that is publishing its devices hides no other's.
    let mut unknown = None;
    for (name, claim) in claims {
        if claim.status.allocation.is_none() {
            return Err(format!("claim {name} has no device allocation"));
        }
        let extended = pod.extended.as_ref().filter(|extended| extended.claim == *name);
        if let Some(extended) = extended {
            let has = |request: &str| results(claim).any(|one| request_of(one) == request);
            if let Some(missing) = extended.requests.iter().find(|mapping| !has(&mapping.request_name)) {
                let Mapping { resource_name, request_name } = missing;
                return Err(format!(
                    "claim {name} has no request {request_name}, which is to be resource {resource_name}"
                ));
            }
        }
        for one in results(claim).filter(|one| one.admin_access != Some(true)) {
            let (id, resource) = match described(one, slices) {
                Ok(Some(described)) => described,
                Ok(None) => continue,
                Err(why) => {
                    unknown.get_or_insert_with(|| format!("claim {name}: {why}"));
                    continue;
                }
            };
            let requests = extended.map(|extended| extended.requests.as_slice()).unwrap_or_default();
            let wanted: BTreeSet<&str> = requests
                .iter()
                .filter(|mapping| mapping.request_name == request_of(one))
                .map(|mapping| mapping.resource_name.as_str())
                .collect();
            if extended.is_some() && !wanted.contains(resource) {
                let wanted: Vec<&str> = wanted.into_iter().collect();
                return Err(format!(
                    "claim {name}: device {} is of resource {resource}, and not of {}",
                    one.device,
                    wanted.join(", ")
                ));
            }
            devices.add(resource, id)?;
        }
    }
    unknown.map_or(Ok(()), Err)
}

fn request_of(allocated: &Allocated) -> &str {
    allocated.request.split('/').next().unwrap_or_default()
}

/// A device's id and resource, by the newest generation of its pool; none where it is no networks' device.
///
/// # Errors
/// Slices of that generation are still to come, and it may be in one of them.
fn described<'a>(allocated: &Allocated, slices: &'a [Slice]) -> Result<Option<(&'a str, &'a str)>, String> {
    let is_pool = |slice: &&Slice| slice.spec.driver == allocated.driver && slice.spec.pool.name == allocated.pool;
    let Some(newest) = slices.iter().filter(is_pool).map(|slice| slice.spec.pool.generation).max() else {
        return Ok(None);
    };
    let current = || slices.iter().filter(is_pool).filter(|slice| slice.spec.pool.generation == newest);
    let mut devices = current().flat_map(|slice| slice.spec.devices.iter().flatten());
    let Some(device) = devices.find(|device| device.name == allocated.device) else {
        let (there, all) = (current().count(), current().map(|slice| slice.spec.pool.resource_slice_count).max());
        let all = all.and_then(|all| usize::try_from(all).ok()).unwrap_or_default();
        let Allocated { driver, pool, device, .. } = allocated;
        return if there < all {
            Err(format!(
                "device {device}: of pool {pool} of driver {driver} {there} of {all} resource slices are there"
            ))
        } else {
            Ok(None)
        };
    };
    let attribute = |name: &str| {
        let text = device.attributes.as_ref()?.get(name)?.string.as_deref();
        text.filter(|text| !text.is_empty())
    };
    Ok(attribute(DEVICE_ID).zip(attribute(RESOURCE)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(object: &Value) -> PodClaims {
        let part = |key: &str| object.get(key).cloned().unwrap_or_else(|| json!({}));
        let spec = serde_json::from_value(part("spec")).unwrap();
        PodClaims::of(spec, serde_json::from_value(part("status")).unwrap())
    }

    fn claim(results: &Value) -> Claim {
        serde_json::from_value(json!({"status": {"allocation": {"devices": {"results": results}}}})).unwrap()
    }

    fn result(request: &str, device: &str) -> Value {
        json!({"request": request, "driver": "d.test", "pool": "n1", "device": device})
    }

    fn slices() -> Vec<Slice> {
        let device = |name: &str, id: &str, resource: &str| {
            let text = |text: &str| json!({"string": text});
            json!({"name": name, "attributes": {DEVICE_ID: text(id), RESOURCE: text(resource), "model": {"int": 7}}})
        };
        let slice_of = |pool: &str, generation: u32, count: u32, devices: Value| {
            json!({"spec": {"driver": "d.test", "pool": {"name": pool, "generation": generation, "resourceSliceCount": count},
                "nodeName": "n1", "devices": devices}})
        };
        let slice = |generation: u32, devices: Value| slice_of("n1", generation, 1, devices);
        let list = json!({"items": [
            slice(1, json!([device("vf0", "old", "a/vf")])),
            slice(2, json!([device("vf0", "v0", "a/vf"), device("vf1", "v1", "b/vf"), {"name": "gpu0"}])),
            slice_of("half", 1, 1, json!([device("vf0", "old", "a/vf")])),
            slice_of("half", 2, 2, json!([device("vf1", "v1", "b/vf")])),
            slice_of("whole", 2, 2, json!([device("vf0", "v0", "a/vf")])), slice_of("whole", 2, 2, json!([])),
            {"spec": {"driver": "other.test", "pool": {"name": "n1"}}}]});
        serde_json::from_value::<Slices>(list).unwrap().items
    }

    fn found(pod: &PodClaims, claims: &[(&str, Claim)]) -> Result<Vec<String>, String> {
        let claims = claims.iter().map(|(name, claim)| {
            let copied = claim.status.allocation.as_ref().map(|allocation| {
                let one = |one: &Allocated| Allocated {
                    request: one.request.clone(),
                    driver: one.driver.clone(),
                    pool: one.pool.clone(),
                    device: one.device.clone(),
                    admin_access: one.admin_access,
                };
                Allocation { devices: Results { results: allocation.devices.results.iter().map(one).collect() } }
            });
            ((*name).to_owned(), Claim { status: ClaimStatus { allocation: copied }, ..Claim::default() })
        });
        let mut devices = Devices::default();
        read(pod, &claims.collect(), &slices(), &mut devices)?;
        Ok(["a/vf", "b/vf"].iter().flat_map(|resource| devices.of(resource)).map(str::to_owned).collect())
    }

    #[test]
    fn claims_are_those_of_templates_and_those_that_the_pod_names() {
        let pod = pod(&json!({
            "spec": {"nodeName": "n1", "resourceClaims": [{"name": "x", "resourceClaimName": "own"}, {"name": "y", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": [{"name": "y", "resourceClaimName": "made"}, {"name": "z"}]}}));
        assert_eq!(pod.all().into_iter().collect::<Vec<_>>(), ["made", "own"]);
        assert_eq!(pod.node, "n1");
        assert!(self::pod(&json!({"spec": {"resourceClaims": null}})).is_empty());
    }

    #[test]
    fn a_claims_devices_are_named_by_their_attributes_of_the_newest_slice() {
        let pod = pod(&json!({}));
        let all =
            claim(&json!([result("r", "vf0"), result("r/first", "vf1"), result("r", "gpu0"), result("r", "gone")]));
        assert_eq!(
            drivers(&BTreeMap::from([(String::new(), claim(&json!([result("r", "vf0")])))])),
            BTreeSet::from(["d.test"])
        );
        assert_eq!(found(&pod, &[("c", all)]).unwrap(), ["v0", "v1"]);
        let mut looked_at = result("r", "vf0");
        looked_at["adminAccess"] = json!(true);
        assert_eq!(found(&pod, &[("c", claim(&json!([looked_at])))]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_a_pool_does_not_say_yet_is_unknown() {
        let of = |pool: &str, device: &str| {
            let mut result = result("r", device);
            result["pool"] = json!(pool);
            found(&pod(&json!({})), &[("c", claim(&json!([result])))])
        };
        let text = of("half", "vf0").unwrap_err();
        assert!(text.contains("claim c: device vf0: of pool half of driver d.test 1 of 2 resource slices"), "{text}");
        assert_eq!(of("half", "vf1").unwrap(), ["v1"], "it is in the slice that is there");
        assert_eq!(of("whole", "vf0").unwrap(), ["v0"]);
        assert_eq!(of("whole", "gone").unwrap(), Vec::<String>::new());
        // What is said of the other devices counts all the same.
        let mut half = result("r", "vf0");
        half["pool"] = json!("half");
        let claims = BTreeMap::from([
            ("a".to_owned(), claim(&json!([half]))),
            ("b".to_owned(), claim(&json!([result("r", "vf0")]))),
        ]);
        let mut devices = Devices::default();
        assert!(read(&pod(&json!({})), &claims, &slices(), &mut devices).is_err());
        assert_eq!(devices.of("a/vf").collect::<Vec<_>>(), ["v0"]);
    }

    #[test]
    fn a_claim_without_allocation_is_an_error() {
        assert_eq!(
            found(&pod(&json!({})), &[("c", Claim::default())]).unwrap_err(),
            "claim c has no device allocation"
        );
    }

    #[test]
    fn an_extended_resource_is_what_its_device_says() {
        let pod = |request: &str, resource: &str| {
            pod(&json!({"status": {"extendedResourceClaimStatus": {"resourceClaimName": "c",
                "requestMappings": [{"containerName": "m", "resourceName": resource, "requestName": request}]}}}))
        };
        let given = || [("c", claim(&json!([result("r", "vf0")])))];
        assert_eq!(found(&pod("r", "a/vf"), &given()).unwrap(), ["v0"]);
        let text = found(&pod("other", "a/vf"), &given()).unwrap_err();
        assert!(text.contains("no request other"), "{text}");
        let text = found(&pod("r", "b/vf"), &given()).unwrap_err();
        assert!(text.contains("of resource a/vf, and not of b/vf"), "{text}");
        let gpu = [("c", claim(&json!([result("r", "gpu0")])))];
        assert_eq!(found(&pod("r", "gpu"), &gpu).unwrap(), Vec::<String>::new(), "no network's device");
    }
}
