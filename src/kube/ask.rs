//! What is asked of the API server for a request, one object or several: who asks, and what is remembered, is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;

use super::cache::{Kept, KeptDefinition};
use super::call::{Calls, Failure};
use super::dra::{self, PodClaims};
use super::kubelet;
use super::objects::{self, Identity, NetworkAttachmentDefinition, Page, PodObject};
use crate::cluster::Name;
use crate::devices::Devices;
use crate::journal::PodName;
use crate::sources::{Definition, Pod, SourceError};

/// The first pause before something that is not there yet is looked for again; it doubles.
const APPEAR_POLL: Duration = Duration::from_millis(100);
/// Pages of definitions: more than any cluster has.
const PAGES_MAX: usize = 20;

/// What the server has in its watch cache is new enough: without it etcd is asked for each object, as nobody else on a node does (the
/// kubelet and every informer have what a watch tells). Kubernetes API concepts, "Resource versions: get".
const FROM_CACHE: &str = "?resourceVersion=0";

/// A pod by its name. The server's watch cache is asked first, and counts if it surely has the one: of the UID that the runtime knows, and
/// bound to a node, so whatever was written before the kubelet heard of it is there. Else as [`pod`].
pub(super) async fn pod_by_cache(calls: &Calls, name: &PodName, wait: Duration) -> Result<(Pod, PodClaims), Failure> {
    if !name.uid.is_empty() {
        let path = objects::pod_path(&name.namespace, &name.name)?;
        let found = cached::<PodObject>(calls, path, (&name.namespace, &name.name)).await?;
        if let Some(object) = found.filter(|object| object.is_bound() && object.is_of(&name.uid)) {
            return Ok(object.into_pod(&name.namespace, &name.name));
        }
    }
    pod(calls, name, wait).await
}

/// A pod by its name, waited for as long as `wait`.
pub(super) async fn pod(calls: &Calls, name: &PodName, wait: Duration) -> Result<(Pod, PodClaims), Failure> {
    let path = objects::pod_path(&name.namespace, &name.name)?;
    let object = appearing::<PodObject>(calls, &path, (&name.namespace, &name.name), wait).await?;
    Ok(object.into_pod(&name.namespace, &name.name))
}

/// Why there is no pod, in the words of a request.
pub(super) fn no_pod(name: &PodName, failure: Failure) -> SourceError {
    let PodName { namespace, name, .. } = name;
    match failure {
        Failure::Missing => SourceError::NoPod { namespace: namespace.clone(), name: name.clone() },
        other => other.told(format!("asking the API server for pod {namespace}/{name}")),
    }
}

/// A definition as the server's watch cache has it; what is not there may be about to come: as [`definition`].
pub(super) async fn definition_by_cache(calls: &Calls, name: &Name, wait: Duration) -> Result<Definition, Failure> {
    let path = objects::definition_path(name)?;
    match cached::<NetworkAttachmentDefinition>(calls, path, (&name.0, &name.1)).await? {
        Some(found) => Ok(found.into()),
        None => definition(calls, name, wait).await,
    }
}

/// A definition, waited for as long as `wait`.
pub(super) async fn definition(calls: &Calls, name: &Name, wait: Duration) -> Result<Definition, Failure> {
    let path = objects::definition_path(name)?;
    appearing::<NetworkAttachmentDefinition>(calls, &path, (&name.0, &name.1), wait).await.map(Definition::from)
}

/// Why there is no definition, in the words of a request.
pub(super) fn no_definition((namespace, name): &Name, failure: Failure) -> SourceError {
    match failure {
        Failure::Missing => {
            SourceError::NoDefinition { namespace: namespace.clone(), name: name.clone(), hint: String::new() }
        }
        other => other.told(format!("asking the API server for definition {namespace}/{name}")),
    }
}

/// Several definitions at once. What fails is left out: it is asked for again where it is needed, and its failure told there.
pub(super) async fn several(calls: &Calls, names: BTreeSet<Name>) -> BTreeMap<Name, Definition> {
    let paths = names.into_iter().filter_map(|name| Some((objects::definition_path(&name).ok()?, name)));
    let paths: Vec<(String, Name)> = paths.collect();
    let ask = async |(path, name): (String, Name)| {
        let found = cached::<NetworkAttachmentDefinition>(calls, path, (&name.0, &name.1)).await.ok()??;
        Some((name, found.into()))
    };
    join_all(paths.into_iter().map(ask)).await.into_iter().flatten().collect()
}

/// Every definition there is.
///
/// # Errors
/// They cannot be asked for.
pub(super) async fn definitions(calls: &Calls) -> Result<Vec<(Name, Definition)>, Failure> {
    let mut all = Vec::new();
    let mut next: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let path = objects::definitions_path(next.as_deref());
        let page = calls.list::<Page<NetworkAttachmentDefinition>>(&path).await?;
        if !page.is(KeptDefinition::LIST) {
            return Err(calls.foreign());
        }
        next = page.next().map(str::to_owned);
        all.extend(page.items.into_iter().map(|item| {
            let ObjectMeta { namespace, name, .. } = &item.metadata;
            ((namespace.clone().unwrap_or_default(), name.clone().unwrap_or_default()), item.into())
        }));
        if next.is_none() {
            break;
        }
    }
    Ok(all)
}

/// Why they cannot be listed, in the words of a request.
pub(super) fn no_list(failure: Failure) -> SourceError {
    failure.told("asking the API server for all definitions".to_owned())
}

/// A pod's devices: what the kubelet gave it, and what its claims say.
///
/// # Errors
/// Neither the kubelet nor its checkpoint can be asked.
pub(super) async fn devices(
    calls: &Calls,
    pod: &PodName,
    kubelet: &Path,
    claims: &PodClaims,
) -> Result<Devices, SourceError> {
    let mut devices = kubelet::devices(kubelet, pod, calls).await?;
    if !claims.is_empty() {
        // Claims can be of anything: what is wrong with one matters where a device is lacking.
        devices.doubt = dra::add(calls, &pod.namespace, claims, &mut devices).await.err();
    }
    Ok(devices)
}

/// The object of this name in the server's watch cache; none where it is not there, or this question is not answered: it is asked otherwise then.
async fn cached<T>(calls: &Calls, path: String, (namespace, name): (&str, &str)) -> Result<Option<T>, Failure>
where
    T: DeserializeOwned + Identity,
{
    match calls.get_once::<T>(&(path + FROM_CACHE)).await {
        Ok(object) if !object.is(namespace, name) => Err(calls.foreign()),
        Ok(object) => Ok(Some(object)),
        Err(failure @ (Failure::Login(_) | Failure::Forbidden(_) | Failure::Foreign(_))) => Err(failure),
        Err(_) => Ok(None),
    }
}

/// An object that may be about to come, and that is the one of this name.
async fn appearing<T>(calls: &Calls, path: &str, (namespace, name): (&str, &str), wait: Duration) -> Result<T, Failure>
where
    T: DeserializeOwned + Identity,
{
    let until = Instant::now() + wait;
    let mut pause = APPEAR_POLL;
    loop {
        match calls.get::<T>(path).await {
            Err(Failure::Missing) if Instant::now() + pause < until => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Ok(object) if !object.is(namespace, name) => return Err(calls.foreign()),
            other => return other,
        }
    }
}
