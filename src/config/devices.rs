//! What of the node's cards is offered to its kubelet, `devices` of the daemon's configuration: resources and what each is chosen
//! by, under the names of the SR-IOV network device plugin, whose file is read as it is. It does not know which cards there are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::keys::{self, Named, Unset};
use super::{directory, given, optional, refuse};
use crate::cni::error::CniError;
use crate::cni::gojson;

/// A resource's domain, where neither it nor the node says another: that plugin's.
const PREFIX: &str = "intel.com";
/// Where the kubelet looks for device plugins: it cannot be told otherwise.
const PLUGIN_DIR: &str = "/var/lib/kubelet/device-plugins";
/// Where runtimes look for descriptions of devices (CDI).
const CDI_DIR: &str = "/var/run/cdi";
/// The only type of device that is offered.
const NET_DEVICE: &str = "netDevice";
/// More resources than any node has, and more of anything that one is chosen by.
const RESOURCES_MAX: usize = 64;
const SELECTORS_MAX: usize = 64;
const WORDS_MAX: usize = 1024;
/// More functions than any card has.
const FUNCTIONS_MAX: u64 = 4096;
/// Of the plugin's selectors, those that sysfs says nothing of.
const UNSUPPORTED: [&str; 2] = ["auxTypes", "ddpProfiles"];

keys::table! {
    /// `devices` as it is written.
    Written as "plexus.Devices",
    /// The keys of `devices`.
    DEVICES_KEYS:

    resource_list: Vec<Value> = "resourceList", Unset::Nothing, DevicePlugin,
        r#"[{"resourceName": "vf", "selectors": {"pfNames": ["eth1"]}}]"#,
        "The resources, each with the keys of the next table. What one has, those after it do not get.";
    config_file: String = "configFile", Unset::Nothing, Plexus, r#""/etc/pcidp/config.json""#,
        "A file with a `resourceList`, as the other plugin's ConfigMap has it; its resources come after those that are written here.";
    resource_prefix: String = "resourcePrefix", Unset::Text(PREFIX), Plexus, r#""example.com""#,
        "The domain of resources that name none: the other plugin's `--resource-prefix`.";
    virtual_functions: Vec<Value> = "virtualFunctions", Unset::Nothing, Plexus, r#"[{"pf": "eth1", "count": 4}]"#,
        "Cards that are to have virtual functions, and how many: `pf` is an interface or a PCI address. Made only where the card has none, after it was set up; a number is never changed.";
    use_cdi: bool = "useCdi", Unset::Flag(false), Plexus, "true",
        "Device nodes are not answered but described for the runtime, in files of `cdiDir`: the other plugin's `--use-cdi`.";
    cdi_dir: String = "cdiDir", Unset::Text(CDI_DIR), Plexus, r#""/etc/cdi""#,
        "Where these files are.";
    plugin_dir: String = "pluginDir", Unset::Text(PLUGIN_DIR), Plexus, r#""/host/var/lib/kubelet/device-plugins""#,
        "The kubelet's folder of device plugins, with its `kubelet.sock`; `pod-resources` is beside it.";
}

keys::table! {
    /// An item of `resourceList` as it is written.
    WrittenResource as "plexus.Resource",
    /// The keys of a resource.
    RESOURCE_KEYS:

    resource_name: String = "resourceName", Unset::Nothing, DevicePlugin, r#""other""#,
        "Its name, after the domain and a `/`. Needed.";
    resource_prefix: String = "resourcePrefix", Unset::Nothing, DevicePlugin, r#""example.com""#,
        "Its domain; not given: that of `devices`.";
    device_type: String = "deviceType", Unset::Text(NET_DEVICE), DevicePlugin, r#""accelerator""#,
        "Another than `netDevice` is refused.";
    exclude_topology: bool = "excludeTopology", Unset::Flag(false), DevicePlugin, "true",
        "The kubelet is not told which NUMA node a device is near.";
    selectors: ObjectOrList = "selectors", Unset::Nothing, DevicePlugin, r#"[{"vendors": ["15b3"]}]"#,
        "What its devices are chosen by: an object, or a list of which one is enough. Needed, and with something in it.";
    additional_info: Map<String, Value> = "additionalInfo", Unset::Nothing, DevicePlugin, r#"{"*": {"token": "7"}}"#,
        "What is told of a device besides, as `extra` in the second variable, by its PCI address or for all (`*`).";
}

keys::table! {
    /// An item of `selectors` as it is written.
    WrittenSelector as "plexus.Selector",
    /// The keys of a selector.
    SELECTOR_KEYS:

    vendors: Vec<String> = "vendors", Unset::Nothing, DevicePlugin, r#"["15b3"]"#,
        "Who made it, as four digits.";
    devices: Vec<String> = "devices", Unset::Nothing, DevicePlugin, r#"["1018"]"#,
        "What it is, as its maker counts: four digits.";
    drivers: Vec<String> = "drivers", Unset::Nothing, DevicePlugin, r#"["vfio-pci"]"#,
        "The driver it is bound to.";
    pci_addresses: Vec<String> = "pciAddresses", Unset::Nothing, DevicePlugin, r#"["0000:03:02.0"]"#,
        "Its PCI address.";
    acpi_indexes: Vec<String> = "acpiIndexes", Unset::Nothing, DevicePlugin, r#"["101"]"#,
        "What the firmware numbers it by.";
    pf_names: Vec<String> = "pfNames", Unset::Nothing, DevicePlugin, r#"["eth1#0,2-7"]"#,
        "The interface of its card; after a `#` which of that one's functions, as numbers and ranges.";
    root_devices: Vec<String> = "rootDevices", Unset::Nothing, DevicePlugin, r#"["0000:86:00.0#0-3"]"#,
        "The same by the card's PCI address.";
    link_types: Vec<String> = "linkTypes", Unset::Nothing, DevicePlugin, r#"["ether"]"#,
        "The type of its interface, or of its card's: `ether` or `infiniband`.";
    p_keys: Vec<String> = "pKeys", Unset::Nothing, DevicePlugin, r#"["0x8001"]"#,
        "The partition key of its InfiniBand interface, as the kernel shows it (`pkey`).";
    vdpa_type: String = "vdpaType", Unset::Nothing, DevicePlugin, r#""vhost""#,
        "It is a vDPA device of this use: `virtio`, an interface of the kernel, or `vhost`; of the latter a container gets `/dev/vhost-vdpa-N` too.";
    is_rdma: bool = "isRdma", Unset::Flag(false), DevicePlugin, "true",
        "It has RDMA devices; a container gets their files too.";
    need_vhost_net: bool = "needVhostNet", Unset::Flag(false), DevicePlugin, "true",
        "A container gets `/dev/vhost-net` and `/dev/net/tun` too.";
}

/// An item of `virtualFunctions`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename = "plexus.VirtualFunctions")]
struct WrittenFunctions {
    pf: Option<String>,
    count: Option<u64>,
}

/// Either form.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct ObjectOrList(Value);

impl Named for ObjectOrList {
    const NAME: &'static str = "object or list of objects";
}

impl Named for Written {
    const NAME: &'static str = "object";
}

/// What is offered, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// In the order in which they choose.
    pub resources: Vec<Resource>,
    /// More of them.
    pub file: Option<PathBuf>,
    /// Cards that are to have virtual functions.
    pub functions: Vec<Functions>,
    /// Where descriptions for the runtime are, if they are wanted.
    pub cdi_dir: Option<PathBuf>,
    /// The kubelet's folder of device plugins.
    pub plugin_dir: PathBuf,
    /// Keys that nobody knows, and what else a person should know.
    pub warnings: Vec<String>,
    /// What is not offered although somebody wrote it down: a node's pods do not wait for it.
    pub faults: Vec<String>,
    prefix: String,
}

/// A card that is to have virtual functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Functions {
    /// Its interface or its PCI address.
    pub pf: String,
    /// How many.
    pub count: u32,
}

/// What pods ask for by one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its domain.
    pub prefix: String,
    /// Its name in that.
    pub name: String,
    /// The kubelet is not told which NUMA node a device is near.
    pub exclude_topology: bool,
    /// One of them is enough.
    pub selectors: Vec<Selector>,
    /// What is told besides, by PCI address or for all (`*`).
    pub additional_info: BTreeMap<String, BTreeMap<String, String>>,
}

impl Resource {
    /// As pods ask for it.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.prefix, self.name)
    }
}

/// What a device is chosen by: all that is given. An empty list says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Who made it.
    pub vendors: Vec<String>,
    /// What it is.
    pub devices: Vec<String>,
    /// Its driver.
    pub drivers: Vec<String>,
    /// Its address.
    pub pci_addresses: Vec<String>,
    /// What the firmware numbers it by.
    pub acpi_indexes: Vec<String>,
    /// Its card's interface.
    pub pf_names: Vec<OfCard>,
    /// Its card's address.
    pub root_devices: Vec<OfCard>,
    /// The type of its interface.
    pub link_types: Vec<String>,
    /// The partition key of its interface.
    pub partitions: Vec<u16>,
    /// How it is used as a vDPA device; its containers get that one's file.
    pub vdpa: Option<VdpaType>,
    /// It has RDMA devices.
    pub is_rdma: bool,
    /// Its containers get the files of vhost-net.
    pub needs_vhost_net: bool,
}

/// Who uses a vDPA device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VdpaType {
    /// The kernel.
    Virtio,
    /// A program.
    Vhost,
}

impl VdpaType {
    fn parse(text: &str) -> Result<VdpaType, String> {
        match text {
            "virtio" => Ok(VdpaType::Virtio),
            "vhost" => Ok(VdpaType::Vhost),
            _ => Err(format!("vdpaType {text:?} is neither virtio nor vhost")),
        }
    }
}

/// Functions of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfCard {
    /// The card.
    pub name: String,
    /// Which of them; none: all, and the card itself.
    pub indexes: Option<Vec<RangeInclusive<u32>>>,
}

impl OfCard {
    fn parse(text: &str) -> Result<OfCard, String> {
        let wrong = || format!("{text:?} is no card with functions, as \"eth1#0,2-7\"");
        let (name, indexes) = match text.split_once('#') {
            None => (text, None),
            Some((name, indexes)) => {
                if indexes.split(',').count() > WORDS_MAX {
                    return Err(format!("functions of {name}: more than {WORDS_MAX} words"));
                }
                let ranges: Option<Vec<_>> = indexes.split(',').map(range).collect();
                (name, Some(ranges.ok_or_else(wrong)?))
            }
        };
        if name.is_empty() {
            return Err(wrong());
        }
        Ok(OfCard { name: name.to_owned(), indexes })
    }
}

fn range(text: &str) -> Option<RangeInclusive<u32>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some(first..=last)
}

impl Devices {
    pub(super) fn read(written: Written) -> Result<Devices, CniError> {
        let functions = written.virtual_functions.unwrap_or_default();
        let functions = functions.iter().map(functions_of).collect::<Result<_, _>>().map_err(|why| said(&why))?;
        let cdi_dir = directory("devices.cdiDir", written.cdi_dir, CDI_DIR)?;
        let mut devices = Devices {
            resources: Vec::new(),
            file: optional("devices.configFile", written.config_file)?,
            functions,
            cdi_dir: written.use_cdi.unwrap_or(false).then_some(cdi_dir),
            plugin_dir: directory("devices.pluginDir", written.plugin_dir, PLUGIN_DIR)?,
            warnings: Vec::new(),
            faults: Vec::new(),
            prefix: given(written.resource_prefix).unwrap_or_else(|| PREFIX.to_owned()),
        };
        let list = written.resource_list.unwrap_or_default();
        let list = devices.fitting(&list, "the configuration");
        devices.add(list).map_err(|why| said(&why))?;
        Ok(devices)
    }

    /// Adds the resources of its file as the other plugin reads it. One that only that plugin offers is left out, and so are those beyond
    /// what there is room for; of what is no such file, all are. It is said: nobody's pods wait for a file that is wrong.
    pub fn add_file(&mut self, text: Result<Vec<u8>, String>) {
        if let Err(why) = text.and_then(|text| self.add_text(&text)) {
            let file = self.file.as_deref().unwrap_or(Path::new("configFile")).display();
            self.faults.push(format!("devices: no resource of {file} is offered: {why}"));
        }
    }

    fn add_text(&mut self, text: &[u8]) -> Result<(), String> {
        let object = gojson::parse_object(text, "config.ResourceConfList").map_err(|e| e.to_string())?;
        let list = match gojson::field(&object, "resourceList") {
            Some(Value::Array(list)) => list,
            Some(_) => return Err("resourceList is no list".to_owned()),
            None => return Err("it has no resourceList".to_owned()),
        };
        for item in self.fitting(list, "the file") {
            if let Err(why) = self.add(std::slice::from_ref(item)) {
                let name = item.get("resourceName").and_then(Value::as_str).unwrap_or("without a name");
                self.faults.push(format!("devices: resource {name} of the file is not offered: {why}"));
            }
        }
        Ok(())
    }

    /// The first of a list, as many as there is room for.
    fn fitting<'a>(&mut self, list: &'a [Value], place: &str) -> &'a [Value] {
        let (first, more) = list.split_at(list.len().min(RESOURCES_MAX.saturating_sub(self.resources.len())));
        if let Some(next) = more.first() {
            let name = next.get("resourceName").and_then(Value::as_str).unwrap_or("without a name");
            self.faults.push(format!(
                "devices: resourceList of {place}: {} resources, from {name} on, are not offered: there may be {RESOURCES_MAX}",
                more.len()
            ));
        }
        first
    }

    fn add(&mut self, list: &[Value]) -> Result<(), String> {
        for (position, item) in list.iter().enumerate() {
            let resource = self.resource(item).map_err(|why| format!("resourceList[{position}]: {why}"))?;
            if self.resources.iter().any(|other| other.full_name() == resource.full_name()) {
                return Err(format!("resourceList[{position}]: {} is there twice", resource.full_name()));
            }
            self.resources.push(resource);
        }
        Ok(())
    }

    fn resource(&mut self, item: &Value) -> Result<Resource, String> {
        let decoded = gojson::decode_value::<WrittenResource>(item).map_err(|e| e.to_string())?;
        let written = decoded.value;
        let unknown = decoded.unknown.iter().map(|key| format!("devices: unknown key {key} of a resource is ignored"));
        self.warnings.extend(unknown);
        let name = given(written.resource_name).ok_or("resourceName is not given")?;
        let prefix = given(written.resource_prefix).unwrap_or_else(|| self.prefix.clone());
        if !is_name(&name, 63, "-_.") || !is_name(&prefix, 253, "-.") {
            return Err(format!("{prefix}/{name} is no name of a resource"));
        }
        if self.cdi_dir.is_some() && !prefix.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(format!("{prefix}/{name}: useCdi: a name of who makes devices begins with a letter"));
        }
        if let Some(other) = given(written.device_type).filter(|kind| kind != NET_DEVICE) {
            return Err(format!("{name}: deviceType {other} is not offered, {NET_DEVICE} alone"));
        }
        let selectors = match written.selectors {
            Some(ObjectOrList(Value::Array(list))) => list,
            Some(ObjectOrList(one)) => vec![one],
            None => Vec::new(),
        };
        if selectors.is_empty() || selectors.len() > SELECTORS_MAX {
            return Err(format!("{name}: selectors: 1 to {SELECTORS_MAX} are needed, and {} given", selectors.len()));
        }
        let selectors = selectors.iter().map(|one| self.selector(one)).collect::<Result<_, _>>();
        let selectors = selectors.map_err(|why| format!("{name}: selectors: {why}"))?;
        let info = Value::Object(written.additional_info.unwrap_or_default());
        let additional_info =
            serde_json::from_value(info).map_err(|_| format!("{name}: additionalInfo: texts by names by addresses"))?;
        let exclude_topology = written.exclude_topology.unwrap_or(false);
        Ok(Resource { prefix, name, exclude_topology, selectors, additional_info })
    }

    fn selector(&mut self, item: &Value) -> Result<Selector, String> {
        let decoded = gojson::decode_value::<WrittenSelector>(item).map_err(|e| e.to_string())?;
        for key in &decoded.unknown {
            if UNSUPPORTED.iter().any(|word| word.eq_ignore_ascii_case(key)) {
                return Err(format!("{key}: nothing is chosen by that here; leave it to the other plugin"));
            }
            self.warnings.push(format!("devices: unknown selector {key} is ignored"));
        }
        let written = decoded.value;
        let cards = |texts: Option<Vec<String>>| {
            words(texts)?.iter().map(|text| OfCard::parse(text)).collect::<Result<Vec<_>, _>>()
        };
        let selector = Selector {
            vendors: words(written.vendors)?,
            devices: words(written.devices)?,
            drivers: words(written.drivers)?,
            pci_addresses: words(written.pci_addresses)?,
            acpi_indexes: words(written.acpi_indexes)?,
            pf_names: cards(written.pf_names)?,
            root_devices: cards(written.root_devices)?,
            link_types: words(written.link_types)?,
            partitions: words(written.p_keys)?.iter().map(|key| partition(key)).collect::<Result<_, _>>()?,
            vdpa: given(written.vdpa_type).map(|text| VdpaType::parse(&text)).transpose()?,
            is_rdma: written.is_rdma.unwrap_or(false),
            needs_vhost_net: written.need_vhost_net.unwrap_or(false),
        };
        let says = Selector { needs_vhost_net: false, ..selector.clone() };
        if says == Selector::default() {
            return Err("one chooses by nothing, and would offer every card of the node".to_owned());
        }
        Ok(selector)
    }
}

fn said(why: &str) -> CniError {
    refuse(format!("devices: {why}"))
}

fn words(list: Option<Vec<String>>) -> Result<Vec<String>, String> {
    let list = list.unwrap_or_default();
    if list.len() > WORDS_MAX { Err(format!("more than {WORDS_MAX} words")) } else { Ok(list) }
}

/// A partition key as the kernel shows it.
fn partition(text: &str) -> Result<u16, String> {
    let number = text.strip_prefix("0x").and_then(|digits| u16::from_str_radix(digits, 16).ok());
    number.ok_or_else(|| format!("pKeys: {text:?} is no partition key, as \"0x8001\""))
}

fn functions_of(item: &Value) -> Result<Functions, String> {
    let decoded = gojson::decode_value::<WrittenFunctions>(item).map_err(|e| format!("virtualFunctions: {e}"))?;
    let unknown: BTreeSet<String> = decoded.unknown.into_iter().collect();
    if let Some(key) = unknown.first() {
        return Err(format!("virtualFunctions: unknown key {key}"));
    }
    let pf = given(decoded.value.pf).ok_or("virtualFunctions: pf is not given")?;
    let count = decoded.value.count.filter(|count| (1..=FUNCTIONS_MAX).contains(count));
    let count = count.and_then(|count| u32::try_from(count).ok());
    let count = count.ok_or_else(|| format!("virtualFunctions: {pf}: count is 1 to {FUNCTIONS_MAX}"))?;
    Ok(Functions { pf, count })
}

/// Letters and digits, and signs between them.
fn is_name(text: &str, most: usize, signs: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || signs.contains(c);
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= most && text.chars().all(inner) && outer(text.chars().next()) && outer(text.chars().last())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::daemon::DaemonConfig;

    fn parse(devices: &Value) -> Result<Devices, String> {
        let text = json!({"devices": devices}).to_string();
        let config = DaemonConfig::parse(text.as_bytes()).map_err(|e| e.msg)?;
        assert!(config.unknown.is_empty(), "{:?}", config.unknown);
        Ok(config.devices.unwrap())
    }

    fn resource(more: &Value) -> Value {
        let mut resource = json!({"resourceName": "vf", "selectors": {"vendors": ["8086"]}});
        resource.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"resourceList": [resource]})
    }

    #[test]
    fn the_other_plugins_file_is_read_as_it_is() {
        let mut devices = parse(&json!({"resourcePrefix": "example.com", "useCdi": true})).unwrap();
        let file = json!({"resourceList": [
            {"resourceName": "intel_sriov_netdevice", "selectors": {"vendors": ["8086"], "devices": ["154c", "10ed"],
                "drivers": ["i40evf", "igbvf"], "pfNames": ["enp0s0f0", "enp2s2f1#0,2-7,9"]}},
            {"resourceName": "mlnx_rdma", "resourcePrefix": "mellanox.com", "deviceType": "netDevice",
                "selectors": [{"vendors": ["15b3"], "isRdma": true}, {"rootDevices": ["0000:86:00.0#1"], "needVhostNet": true}],
                "additionalInfo": {"*": {"token": "t"}}, "excludeTopology": true, "more": 1}]});
        devices.add_file(Ok(file.to_string().into_bytes()));
        assert_eq!(devices.faults, Vec::<String>::new());
        let [first, second] = devices.resources.as_slice() else { panic!("{devices:?}") };
        assert_eq!(
            [first.full_name(), second.full_name()],
            ["example.com/intel_sriov_netdevice", "mellanox.com/mlnx_rdma"]
        );
        let ranges = Some(vec![0..=0, 2..=7, 9..=9]);
        let cards =
            [OfCard { name: "enp0s0f0".into(), indexes: None }, OfCard { name: "enp2s2f1".into(), indexes: ranges }];
        assert_eq!(first.selectors[0].pf_names, cards);
        assert!(second.selectors[0].is_rdma && second.selectors[1].needs_vhost_net && second.exclude_topology);
        assert_eq!(second.additional_info["*"]["token"], "t");
        assert_eq!(devices.warnings, ["devices: unknown key more of a resource is ignored"]);
        assert_eq!(devices.cdi_dir, Some(PathBuf::from(CDI_DIR)));
        assert_eq!(devices.plugin_dir, PathBuf::from(PLUGIN_DIR));
    }

    #[test]
    fn what_only_the_other_plugin_offers_is_left_out_of_its_file() {
        let mut devices = parse(&json!({})).unwrap();
        let file = json!({"resourceList": [
            {"resourceName": "gpu", "deviceType": "accelerator", "selectors": {"vendors": ["8086"]}},
            {"resourceName": "vf", "selectors": {"vendors": ["8086"]}},
            {"resourceName": "vf", "selectors": {"vendors": ["15b3"]}},
            {"resourceName": "sf", "selectors": {"auxTypes": ["sf"]}}]});
        devices.add_file(Ok(file.to_string().into_bytes()));
        let names: Vec<String> = devices.resources.iter().map(Resource::full_name).collect();
        assert_eq!(names, ["intel.com/vf"]);
        let told = devices.faults.join("; ");
        assert!(["gpu", "vf is there twice", "auxTypes"].iter().all(|part| told.contains(part)), "{told}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let selectors = |selectors: &Value| resource(&json!({"selectors": selectors}));
        let twice = [resource(&json!({})), resource(&json!({}))].map(|one| one["resourceList"][0].clone());
        for (devices, part) in [
            (resource(&json!({"resourceName": ""})), "resourceList[0]: resourceName is not given"),
            (resource(&json!({"resourceName": "a/b"})), "intel.com/a/b is no name"),
            (resource(&json!({"resourcePrefix": ".x"})), "is no name of a resource"),
            (resource(&json!({"deviceType": "accelerator"})), "vf: deviceType accelerator is not offered"),
            (resource(&json!({"selectors": null})), "selectors: 1 to 64 are needed, and 0 given"),
            (resource(&json!({"additionalInfo": {"*": 7}})), "additionalInfo: texts"),
            (
                json!({"useCdi": true, "resourcePrefix": "3c.com", "resourceList": [resource(&json!({}))["resourceList"][0]]}),
                "3c.com/vf: useCdi: a name of who makes devices begins with a letter",
            ),
            (selectors(&json!({})), "would offer every card"),
            (selectors(&json!([{"vendors": ["x"]}, {"needVhostNet": true}])), "would offer every card"),
            (selectors(&json!({"ddpProfiles": ["gtp"]})), "ddpProfiles: nothing is chosen by that"),
            (selectors(&json!({"pKeys": ["7"]})), "\"7\" is no partition key"),
            (selectors(&json!({"vdpaType": "vduse"})), "\"vduse\" is neither virtio nor vhost"),
            (selectors(&json!({"pfNames": ["eth0#"]})), "\"eth0#\" is no card with functions"),
            (selectors(&json!({"pfNames": ["eth0#3-1"]})), "\"eth0#3-1\" is no card"),
            (selectors(&json!({"rootDevices": ["#1"]})), "\"#1\" is no card"),
            (selectors(&json!({"pfNames": [format!("eth0#{}1", "1,".repeat(1024))]})), "eth0: more than 1024 words"),
            (selectors(&json!({"vendors": "8086"})), "vendors"),
            (json!({"resourceList": twice}), "intel.com/vf is there twice"),
            (json!({"virtualFunctions": [{"pf": "eth0"}]}), "eth0: count is 1 to 4096"),
            (json!({"virtualFunctions": [{"pf": "eth0", "count": 0}]}), "count is 1 to"),
            (json!({"virtualFunctions": [{"count": 4}]}), "pf is not given"),
            (json!({"virtualFunctions": [{"pf": "eth0", "count": 4, "x": 1}]}), "unknown key x"),
            (json!({"pluginDir": "x"}), "no absolute path"),
        ] {
            let error = parse(&devices).unwrap_err();
            assert!(error.contains(part), "{devices}: {error}");
        }
    }

    #[test]
    fn of_a_file_that_is_none_nothing_is_offered_and_that_is_said() {
        let absent = Err("no such file or directory".to_owned());
        let texts = ["", "[]", "{}", r#"{"resourceList": {}}"#].map(|text| Ok(text.as_bytes().to_vec()));
        for text in texts.into_iter().chain([absent]) {
            let mut devices = parse(&json!({"configFile": "/x/config.json"})).unwrap();
            devices.add_file(text.clone());
            assert_eq!(devices.resources, [], "{text:?}");
            let [fault] = devices.faults.as_slice() else { panic!("{text:?}: {:?}", devices.faults) };
            assert!(fault.starts_with("devices: no resource of /x/config.json is offered: "), "{fault}");
        }
    }

    #[test]
    fn of_too_many_resources_the_first_are_offered_and_that_is_said() {
        let named = |number: usize| json!({"resourceName": format!("r{number}"), "selectors": {"vendors": ["8086"]}});
        let many = |count: usize| json!({"resourceList": (0..count).map(named).collect::<Vec<_>>()});
        let full = parse(&many(RESOURCES_MAX)).unwrap();
        assert_eq!((full.resources.len(), full.faults.len()), (RESOURCES_MAX, 0));
        let more = parse(&many(RESOURCES_MAX + 3)).unwrap();
        assert_eq!(more.resources, full.resources);
        let said = |place: &str, more: usize, from: usize| {
            [format!(
                "devices: resourceList of {place}: {more} resources, from r{from} on, are not offered: there may be 64"
            )]
        };
        assert_eq!(more.faults, said("the configuration", 3, 64));
        let mut of_file = parse(&json!({})).unwrap();
        of_file.add_file(Ok(many(RESOURCES_MAX + 1).to_string().into_bytes()));
        assert_eq!((&of_file.resources, of_file.faults), (&full.resources, said("the file", 1, 64).to_vec()));
        let mut both = full;
        both.add_file(Ok(json!({"resourceList": [named(90)]}).to_string().into_bytes()));
        assert_eq!((both.resources.len(), both.faults), (RESOURCES_MAX, said("the file", 1, 90).to_vec()));
    }

    #[test]
    fn every_key_of_the_tables_is_read() {
        let plain = parse(&json!({"useCdi": true})).unwrap();
        for key in DEVICES_KEYS {
            let example: Value = serde_json::from_str(key.example).unwrap();
            let mut with = json!({"useCdi": true});
            with[key.name] = if key.name == "useCdi" { json!(false) } else { example };
            let with = parse(&with).unwrap();
            assert_ne!(with, plain, "{}", key.name);
        }
        let one = |devices: &Value| parse(devices).map(|mut devices| devices.resources.remove(0));
        let plain = one(&resource(&json!({})));
        for key in RESOURCE_KEYS {
            let example: Value = serde_json::from_str(key.example).unwrap();
            assert_ne!(one(&resource(&json!({key.name: example}))), plain, "{}", key.name);
            if let Some(unset) = key.unset.json() {
                assert_eq!(one(&resource(&json!({key.name: unset}))), plain, "{}", key.name);
            }
        }
        for key in SELECTOR_KEYS {
            let example: Value = serde_json::from_str(key.example).unwrap();
            let with = json!({"selectors": {"vendors": ["8086"], key.name: example}});
            assert_ne!(one(&resource(&with)).unwrap(), *plain.as_ref().unwrap(), "{}", key.name);
        }
    }
}
