//! The kubelet's interface `v1.PodResourcesLister` (k8s.io/kubelet pkg/apis/podresources/v1/api.proto): what plexus asks, and one
//! pod's devices out of an answer. An answer has all pods of a node, and may be anything: nothing of it is kept but what is asked for, and
//! each byte is looked at once.
//!
//! Written by hand from the .proto: what is read are seven fields.

use backends::sysfs::PROCESSORS_MAX;

use crate::devices::Devices;

/// `/v1.PodResourcesLister/List`: all pods of the node.
pub(in crate::kube) const LIST: &str = "/v1.PodResourcesLister/List";
/// `/v1.PodResourcesLister/Get`: one pod (behind the feature gate KubeletPodResourcesGet).
pub(in crate::kube) const GET: &str = "/v1.PodResourcesLister/Get";

/// `/v1.PodResourcesLister/GetAllocatableResources`: what can be given on this node, of devices those that are healthy.
pub(in crate::kube) const ALLOCATABLE: &str = "/v1.PodResourcesLister/GetAllocatableResources";

/// Asks for one pod. Who asks for all sends an empty message.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::kube) struct GetRequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub(in crate::kube) name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub(in crate::kube) namespace: String,
}

/// Of both answers: a pod.
const POD: u32 = 1;
/// Of a pod.
const POD_NAME: u32 = 1;
const POD_NAMESPACE: u32 = 2;
const POD_CONTAINER: u32 = 3;
/// Of a container: its devices; a resource stands here once for each NUMA node.
const CONTAINER_DEVICES: u32 = 2;
/// Of a container: processors that are its own, as numbers or as many numbers in one text.
const CONTAINER_PROCESSORS: u32 = 3;
/// Of these: the resource, and the devices as the device plugin calls them.
const DEVICES_RESOURCE: u32 = 1;
const DEVICES_ID: u32 = 2;

/// Of what can be given: devices, by resource as a container's.
const ALLOCATABLE_DEVICES: u32 = 1;

/// Whether a device of a resource can be given.
///
/// # Errors
/// A sentence: it is no such message.
pub(in crate::kube) fn has(answer: &[u8], resource: &str) -> Result<bool, String> {
    for field in Fields(answer) {
        let (ALLOCATABLE_DEVICES, Value::Bytes(devices)) = field? else { continue };
        let (mut is_of, mut is_some) = (false, false);
        for field in Fields(devices) {
            match field? {
                (DEVICES_RESOURCE, Value::Bytes(name)) => is_of = name == resource.as_bytes(),
                (DEVICES_ID, Value::Bytes(_)) => is_some = true,
                _ => {}
            }
        }
        if is_of && is_some {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The devices of a pod by either answer; none where the pod is not in it.
///
/// # Errors
/// A sentence: it is no such message, or says what no kubelet says.
pub(in crate::kube) fn devices(answer: &[u8], namespace: &str, name: &str) -> Result<Option<Devices>, String> {
    for field in Fields(answer) {
        let (POD, Value::Bytes(pod)) = field? else { continue };
        if is(pod, namespace, name)? {
            return of_pod(pod).map(Some);
        }
    }
    Ok(None)
}

/// Whether it is the pod of this name. Who it is stands first, so that of others nothing else is looked at.
fn is(pod: &[u8], namespace: &str, name: &str) -> Result<bool, String> {
    let (mut own_name, mut own_namespace) = (None, None);
    for field in Fields(pod) {
        match field? {
            (POD_NAME, Value::Bytes(text)) => own_name = Some(text),
            (POD_NAMESPACE, Value::Bytes(text)) => own_namespace = Some(text),
            _ => {}
        }
        if let (Some(own_name), Some(own_namespace)) = (own_name, own_namespace) {
            return Ok(own_name == name.as_bytes() && own_namespace == namespace.as_bytes());
        }
    }
    Ok(false)
}

fn of_pod(pod: &[u8]) -> Result<Devices, String> {
    let mut devices = Devices::default();
    for field in Fields(pod) {
        let (POD_CONTAINER, Value::Bytes(container)) = field? else { continue };
        for field in Fields(container) {
            match field? {
                (CONTAINER_DEVICES, Value::Bytes(given)) => add(given, &mut devices)?,
                (CONTAINER_PROCESSORS, Value::Bytes(packed)) => {
                    let mut rest = Fields(packed);
                    while !rest.0.is_empty() {
                        own(rest.varint()?, &mut devices)?;
                    }
                }
                (CONTAINER_PROCESSORS, Value::Number(number)) => own(number, &mut devices)?,
                _ => {}
            }
        }
    }
    Ok(devices)
}

fn own(processor: u64, devices: &mut Devices) -> Result<(), String> {
    let number = u32::try_from(processor).ok().filter(|number| *number < PROCESSORS_MAX);
    devices.processors.insert(number.ok_or_else(|| format!("{processor} is no number of a processor"))?);
    Ok(())
}

fn add(given: &[u8], devices: &mut Devices) -> Result<(), String> {
    let mut resource = "";
    for field in Fields(given) {
        match field? {
            (DEVICES_RESOURCE, Value::Bytes(name)) => resource = text(name)?,
            (DEVICES_ID, Value::Bytes(id)) => devices.add(resource, text(id)?)?,
            _ => {}
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|e| e.to_string())
}

/// A field's value.
enum Value<'a> {
    Bytes(&'a [u8]),
    Number(u64),
    /// A number of another form: nothing that is read here.
    Fixed,
}

/// The fields of a message, one after the other (Protocol Buffers, "Encoding").
struct Fields<'a>(&'a [u8]);

/// More bytes than a number has.
const VARINT_BYTES_MAX: usize = 10;

impl<'a> Fields<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let split = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length));
        let (taken, rest) = split.ok_or("a field is longer than all there is")?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut number: u64 = 0;
        for index in 0..VARINT_BYTES_MAX {
            let Some((byte, rest)) = self.0.split_first() else { break };
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << (7 * index).min(63);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number has no end".to_owned())
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), String> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0).ok_or("a field has no number")?;
        let value = match key & 7 {
            0 => self.varint().map(Value::Number),
            1 => self.take(8).map(|_| Value::Fixed),
            2 => {
                let length = self.varint()?;
                self.take(length).map(Value::Bytes)
            }
            5 => self.take(4).map(|_| Value::Fixed),
            other => Err(format!("a field is of type {other}")),
        };
        Ok((number, value?))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[]; // what follows has no beginning
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn pod(name: &str, resource: &str, ids: &[&str]) -> Vec<u8> {
        let ids: Vec<u8> = ids.iter().flat_map(|id| field(2, id.as_bytes())).collect();
        let devices = field(2, &[field(1, resource.as_bytes()), ids].concat());
        // What else a container has: processors, memory, numbers of each form.
        let others =
            [field(3, &[0, 1]), vec![0x18, 0x82, 0x01], vec![0x20, 0xff, 0x01], vec![0x29; 9], vec![0x35; 5]].concat();
        let container = field(3, &[field(1, b"main"), others, devices].concat());
        field(1, &[field(1, name.as_bytes()), field(2, b"ns"), container].concat())
    }

    #[test]
    fn one_pod_is_found_among_others() {
        let answer = [pod("b", "a/vf", &["w"]), pod("a", "a/vf", &["v2", "v1"]), pod("c", "a/vf", &["x"])].concat();
        let found = devices(&answer, "ns", "a").unwrap().unwrap();
        assert_eq!(found.of("a/vf").collect::<Vec<_>>(), ["v1", "v2"]);
        assert_eq!(found.processors.into_iter().collect::<Vec<_>>(), [0, 1, 130], "in both forms");
        assert!(devices(&answer, "other", "a").unwrap().is_none() && devices(&[], "ns", "a").unwrap().is_none());
    }

    #[test]
    fn a_resource_can_be_given_where_it_has_a_device() {
        let of = |name: &str, ids: &[&str]| {
            let ids: Vec<u8> = ids.iter().flat_map(|id| field(2, id.as_bytes())).collect();
            field(1, &[field(1, name.as_bytes()), ids].concat())
        };
        let answer = [of("a/gpu", &["g"]), of("a/none", &[]), field(2, &[1, 2]), of("a/vf", &["v1", "v2"])].concat();
        let found = ["a/vf", "a/none", "b/vf", "a/gpu"].map(|name| has(&answer, name).unwrap());
        assert_eq!(found, [true, false, false, true]);
        assert!(has(&[0xff; 11], "a/vf").is_err());
    }

    #[test]
    fn what_no_kubelet_says_is_refused() {
        let whole = pod("a", "a/vf", &["v1"]);
        for (answer, part) in [
            (vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x01], "longer than all there is"),
            (whole[..whole.len() - 1].to_vec(), "longer than all there is"),
            (vec![0xff; 11], "a number has no end"),
            (vec![0x02, 0x00], "no number"),
            (vec![0x0b], "of type 3"),
            (
                field(1, &[field(1, b"a"), field(2, b"ns"), field(3, &field(3, &[0x80, 0x40]))].concat()),
                "8192 is no number of a processor",
            ),
            (pod("a", "a/vf", &[""]), "is no name of a device"),
            (pod("a", "", &["v1"]), "is no name of a resource"),
        ] {
            let why = devices(&answer, "ns", "a").unwrap_err();
            assert!(why.contains(part), "{part}: {why}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = devices(&bytes, "ns", "a");
        }
    }
}
