//! What a container gets of the devices that it was given: variables, device nodes, a word for the runtime. Under the names of
//! the SR-IOV network device plugin, for programs read them. Pure: what there is on the node is asked of a [`Node`].

use std::collections::{BTreeMap, BTreeSet};

use backends::sysfs::{PciAddress, Reach, VdpaUse};
use serde_json::{Map, Value, json};

use super::cdi;
use super::stock::{Ailment, Device, Shelf};

/// Begins the names of the variables.
const VARIABLE: &str = "PCIDEVICE";
/// Ends the name of the one with what is told of each device.
const INFO: &str = "INFO";
const VFIO: &str = "vfio-pci";
const VFIO_NODE: &str = "/dev/vfio/vfio";
const UIO: [&str; 3] = ["igb_uio", "uio", "uio_pci_generic"];
const INFINIBAND: &str = "/dev/infiniband/";
const RDMA_CM: &str = "/dev/infiniband/rdma_cm";
const VHOST_NET: &str = "/dev/vhost-net";
const TUN: &str = "/dev/net/tun";
/// Of additional information: for all devices.
const ALL: &str = "*";

/// What of the node is asked for.
pub trait Node {
    /// How a program reaches a function.
    fn reach(&self, address: &PciAddress) -> Reach;
    /// Whether the node has this file of a device.
    fn has(&self, file: &str) -> bool;
}

/// What a container gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Variables.
    pub variables: BTreeMap<String, String>,
    /// Device nodes: on the host, and in the container.
    pub nodes: Vec<(String, String)>,
    /// For the runtime.
    pub annotations: BTreeMap<String, String>,
}

/// What a container gets of one device.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) nodes: Vec<(String, String)>,
    info: BTreeMap<&'static str, BTreeMap<String, String>>,
}

/// The answer for a container. `by_cdi`: nodes are described for the runtime.
///
/// # Errors
/// A sentence: a device is not of this resource, or is gone.
pub(super) fn answer(shelf: &Shelf, ids: &[String], node: &dyn Node, by_cdi: bool) -> Result<Answer, String> {
    let (mut answer, mut infos, mut of_runtime) = (Answer::default(), Map::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for id in ids {
        let (address, device) = find(shelf, id)?;
        let share = share(shelf, address, device, node);
        infos.insert(id.clone(), json!(share.info));
        if by_cdi && !share.nodes.is_empty() {
            of_runtime.push(cdi::device(&shelf.resource, address));
        } else {
            answer.nodes.extend(share.nodes.into_iter().filter(|node| seen.insert(node.clone())));
        }
    }
    let variable = format!("{VARIABLE}_{}_{}", shelf.resource.prefix, shelf.resource.name);
    let variable = variable.replace('.', "_").to_uppercase();
    answer.variables.insert(format!("{variable}_{INFO}"), Value::Object(infos).to_string());
    answer.variables.insert(variable, ids.join(","));
    if !of_runtime.is_empty() {
        answer.annotations.insert(cdi::annotation(&shelf.resource), of_runtime.join(","));
    }
    Ok(answer)
}

/// The device of this id.
pub(super) fn find<'a>(shelf: &'a Shelf, id: &str) -> Result<(&'a PciAddress, &'a Device), String> {
    // As it was told: in another spelling it would be asked for twice.
    let address = id.parse::<PciAddress>().ok().filter(|address| address.as_str() == id);
    let found = address.and_then(|address| shelf.devices.get_key_value(&address));
    let found = found.ok_or_else(|| format!("{:.64} has no device {id:.64}", shelf.resource.full_name()))?;
    match found.1.ailment {
        Some(Ailment::Gone) => Err(format!("device {id} of {} is gone", shelf.resource.full_name())),
        Some(Ailment::Needed) => Err(format!("device {id} of {}: {}", shelf.resource.full_name(), Ailment::Needed)),
        Some(Ailment::CardDown(_)) | None => Ok(found),
    }
}

/// What there is of one device.
pub(super) fn share(shelf: &Shelf, address: &PciAddress, device: &Device, node: &dyn Node) -> Share {
    let (mut share, reach) = (Share::default(), node.reach(address));
    let texts = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    share.info.insert("generic", texts(&[("deviceID", address.as_str())]));
    let driver = reach.driver.as_deref().unwrap_or_default();
    if driver == VFIO {
        share.same(VFIO_NODE);
        let mut info: BTreeMap<String, String> = texts(&[("mount", VFIO_NODE)]);
        if let Some((number, is_bare)) = reach.group {
            let (inside, bare) = (format!("/dev/vfio/{number}"), format!("/dev/vfio/noiommu-{number}"));
            share.nodes.push((if is_bare { bare } else { inside.clone() }, inside.clone()));
            info.insert("dev-mount".to_owned(), inside);
        }
        share.info.insert("vfio", info);
    }
    if UIO.contains(&driver) {
        let files = reach.files.iter().filter(|file| !file.starts_with(INFINIBAND));
        for file in files {
            share.same(file);
            share.info.insert("uio", texts(&[("mount", file)]));
        }
    }
    if device.besides.is_rdma {
        share.rdma(&reach);
    }
    if device.besides.needs_vhost_net && node.has(VHOST_NET) && node.has(TUN) {
        share.same(VHOST_NET);
        share.same(TUN);
        share.info.insert("vhost", texts(&[("net-mount", VHOST_NET), ("tun-mount", TUN)]));
    }
    if device.besides.is_vdpa {
        share.vdpa(&reach);
    }
    let more = &shelf.resource.additional_info;
    if !more.is_empty() {
        let of = [ALL, address.as_str()].into_iter().filter_map(|of| more.get(of)).flatten();
        share.info.insert("extra", of.map(|(k, v)| (k.clone(), v.clone())).collect());
    }
    share
}

impl Share {
    /// A node that has the same path on both sides.
    fn same(&mut self, path: &str) {
        self.nodes.push((path.to_owned(), path.to_owned()));
    }

    /// One that the kernel uses has no file.
    fn vdpa(&mut self, reach: &Reach) {
        let vhost = reach.vdpa.as_ref().filter(|vdpa| vdpa.usage == VdpaUse::Vhost);
        let path = vhost.and_then(|vdpa| vdpa.path.as_ref());
        path.into_iter().for_each(|path| self.same(path));
        self.info.insert("vdpa", path.map(|path| ("mount".to_owned(), path.clone())).into_iter().collect());
    }

    fn rdma(&mut self, reach: &Reach) {
        let mut info = BTreeMap::new();
        let own = reach.files.iter().filter(|file| file.starts_with(INFINIBAND)).map(String::as_str);
        let all: Vec<&str> = own.collect();
        // Connections are made through one file for all devices.
        let shared = (!all.is_empty()).then_some(RDMA_CM);
        for file in all.into_iter().chain(shared) {
            self.same(file);
            for kind in ["uverbs", "umad", "issm", "rdma_cm"] {
                if file.contains(kind) {
                    info.insert(kind.to_owned(), file.to_owned());
                }
            }
        }
        if !reach.rdma.is_empty() {
            info.insert("rdma_dev".to_owned(), reach.rdma.join(","));
        }
        self.info.insert("rdma", info);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{devices, function};
    use backends::sysfs::{NetworkFunction, Vdpa};

    use super::super::stock::{Besides, Stock};
    use super::*;

    struct Fixture(Reach);

    impl Node for Fixture {
        fn reach(&self, address: &PciAddress) -> Reach {
            let mut reach = self.0.clone();
            // A group for each.
            reach.group = reach.group.map(|(number, bare)| (number + u32::from(address.as_str().ends_with('1')), bare));
            reach
        }

        fn has(&self, _: &str) -> bool {
            true
        }
    }

    fn shelf(more: &Value) -> Shelf {
        let mut resource = json!({"resourceName": "intel_sriov", "selectors": {"vendors": ["8086"]}});
        resource.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let resources = devices(&json!([resource])).resources;
        let mut functions = [function(0), function(1), function(2)];
        functions.iter_mut().for_each(|function| function.rdma = vec!["mlx5_0".to_owned()]);
        let before = Stock::of(&resources, &functions, &[], (&Stock::default(), None));
        let now = Stock::of(&resources, &functions[..2], &[], (&before, None));
        now.shelves.into_iter().next().unwrap()
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn info(answer: &Answer) -> Value {
        serde_json::from_str(&answer.variables["PCIDEVICE_A_B_INTEL_SRIOV_INFO"]).unwrap()
    }

    fn same(paths: &[&str]) -> Vec<(String, String)> {
        paths.iter().map(|path| ((*path).to_owned(), (*path).to_owned())).collect()
    }

    #[test]
    fn a_function_of_the_kernel_is_told_by_its_address_alone() {
        let node = Fixture(Reach { driver: Some("igbvf".to_owned()), group: Some((8, false)), ..Reach::default() });
        let both = ids(&["0000:01:10.0", "0000:01:10.1"]);
        let got = answer(&shelf(&json!({})), &both, &node, false).unwrap();
        assert_eq!(got.variables["PCIDEVICE_A_B_INTEL_SRIOV"], "0000:01:10.0,0000:01:10.1");
        assert_eq!(
            got.variables["PCIDEVICE_A_B_INTEL_SRIOV_INFO"],
            r#"{"0000:01:10.0":{"generic":{"deviceID":"0000:01:10.0"}},"0000:01:10.1":{"generic":{"deviceID":"0000:01:10.1"}}}"#
        );
        assert_eq!((got.nodes.len(), got.annotations.len(), got.variables.len()), (0, 0, 2));
    }

    #[test]
    fn a_function_of_a_program_comes_with_its_group() {
        let mut node = Fixture(Reach { driver: Some(VFIO.to_owned()), group: Some((8, false)), ..Reach::default() });
        let (shelf, both) = (shelf(&json!({})), ids(&["0000:01:10.0", "0000:01:10.1"]));
        let got = answer(&shelf, &both, &node, false).unwrap();
        assert_eq!(got.nodes, same(&[VFIO_NODE, "/dev/vfio/8", "/dev/vfio/9"]), "each once");
        assert_eq!(
            info(&got)["0000:01:10.1"],
            json!({"generic": {"deviceID": "0000:01:10.1"}, "vfio": {"mount": VFIO_NODE, "dev-mount": "/dev/vfio/9"}})
        );
        node.0.group = Some((8, true));
        let bare = answer(&shelf, &both[..1], &node, false).unwrap();
        assert_eq!(bare.nodes[1], ("/dev/vfio/noiommu-8".to_owned(), "/dev/vfio/8".to_owned()));
        let by_cdi = answer(&shelf, &both, &node, true).unwrap();
        assert_eq!(by_cdi.nodes, []);
        let expected = "a.b/net-pci=0000:01:10.0,a.b/net-pci=0000:01:10.1";
        assert_eq!(
            by_cdi.annotations,
            BTreeMap::from([("cdi.k8s.io/a.b_intel_sriov".to_owned(), expected.to_owned())])
        );
        node.0.driver = None;
        assert_eq!(answer(&shelf, &both, &node, true).unwrap().annotations, BTreeMap::new(), "nothing to describe");
    }

    #[test]
    fn files_of_rdma_uio_and_vhost_and_what_is_told_besides() {
        let files = ["/dev/infiniband/uverbs1", "/dev/infiniband/umad1", "/dev/uio0"].map(str::to_owned).to_vec();
        let reach =
            Reach { driver: Some("mlx5_core".to_owned()), rdma: vec!["mlx5_3".to_owned()], files, ..Reach::default() };
        let more = json!({"selectors": {"isRdma": true, "needVhostNet": true},
            "additionalInfo": {"*": {"a": "1", "b": "1"}, "0000:01:10.0": {"b": "2"}}});
        let (one, node) = (ids(&["0000:01:10.0"]), Fixture(reach));
        let got = answer(&shelf(&more), &one, &node, false).unwrap();
        let rdma = ["/dev/infiniband/uverbs1", "/dev/infiniband/umad1", RDMA_CM];
        assert_eq!(got.nodes, same(&[rdma.as_slice(), &[VHOST_NET, TUN]].concat()));
        let told = &info(&got)["0000:01:10.0"];
        let names = json!({"uverbs": rdma[0], "umad": rdma[1], "rdma_cm": RDMA_CM, "rdma_dev": "mlx5_3"});
        assert_eq!(told["rdma"], names);
        assert_eq!(told["vhost"], json!({"net-mount": VHOST_NET, "tun-mount": TUN}));
        assert_eq!(told["extra"], json!({"a": "1", "b": "2"}));
        let plain = answer(&shelf(&json!({})), &one, &node, false).unwrap();
        assert_eq!(plain.nodes, [], "nobody asked for its files");
        let uio = Fixture(Reach { driver: Some("uio_pci_generic".to_owned()), ..node.0 });
        let got = answer(&shelf(&json!({})), &one, &uio, false).unwrap();
        assert_eq!(
            (got.nodes.clone(), &info(&got)["0000:01:10.0"]["uio"]),
            (same(&["/dev/uio0"]), &json!({"mount": "/dev/uio0"}))
        );
    }

    #[test]
    fn the_file_of_a_vdpa_device() {
        let vdpa = |usage: VdpaUse, path: &str| {
            Fixture(Reach {
                vdpa: Some(Vdpa { name: "vdpa0".to_owned(), usage, path: Some(path.to_owned()) }),
                ..Reach::default()
            })
        };
        let (one, wanted) = (ids(&["0000:01:10.0"]), json!({"selectors": {"vdpaType": "vhost"}}));
        let all = shelf(&json!({}));
        let device = all.devices.values().next().unwrap();
        let shelf = Shelf {
            resource: devices(&json!([{"resourceName": "intel_sriov", "selectors": wanted["selectors"]}]))
                .resources
                .remove(0),
            devices: BTreeMap::from([(
                "0000:01:10.0".parse().unwrap(),
                Device { besides: Besides { is_vdpa: true, ..device.besides }, ..device.clone() },
            )]),
        };
        let path = "/dev/vhost-vdpa-3";
        let got = answer(&shelf, &one, &vdpa(VdpaUse::Vhost, path), false).unwrap();
        assert_eq!((got.nodes.clone(), &info(&got)["0000:01:10.0"]["vdpa"]), (same(&[path]), &json!({"mount": path})));
        let got = answer(&shelf, &one, &vdpa(VdpaUse::Virtio, "/sys/bus/virtio/devices/virtio3"), false).unwrap();
        assert_eq!((got.nodes.len(), &info(&got)["0000:01:10.0"]["vdpa"]), (0, &json!({})));
        assert_eq!(answer(&all, &one, &vdpa(VdpaUse::Vhost, path), false).unwrap().nodes, [], "nobody asked for it");
    }

    #[test]
    fn an_id_has_one_spelling() {
        let resources = devices(&json!([{"resourceName": "vf", "selectors": {"vendors": ["8086"]}}])).resources;
        let one = NetworkFunction { address: "0000:af:10.0".parse().unwrap(), ..function(0) };
        let stock = Stock::of(&resources, &[one], &[], (&Stock::default(), None));
        let both = ["0000:af:10.0", "0000:AF:10.0"].map(|id| find(&stock.shelves[0], id).is_ok());
        assert_eq!(both, [true, false], "in two spellings it would be given twice");
    }

    #[test]
    fn what_is_not_there_is_not_given() {
        let (shelf, node) = (shelf(&json!({})), Fixture(Reach::default()));
        for (id, why) in [
            ("0000:01:10.7", "a.b/intel_sriov has no device 0000:01:10.7"),
            ("../x", "a.b/intel_sriov has no device ../x"),
            ("0000:01:10.2", "device 0000:01:10.2 of a.b/intel_sriov is gone"),
        ] {
            assert_eq!(answer(&shelf, &ids(&["0000:01:10.0", id]), &node, false).unwrap_err(), why);
        }
    }
}
