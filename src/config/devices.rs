//! What of the node's cards is offered to its kubelet, `devices` of the daemon's configuration: resources and what each is chosen
//! by, under the names of the SR-IOV network device plugin, whose file is read as it is. It does not know which cards there are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::keys::{self, Named, Unset};
use super::{directory, given, optional};
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
/// Of a name that cannot be right, what is shown.
const NAME_CHARS_SHOWN: usize = 64;
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
        let cdi_dir = directory("devices.cdiDir", written.cdi_dir, CDI_DIR)?;
        let mut devices = Devices {
            resources: Vec::new(),
            file: optional("devices.configFile", written.config_file)?,
            functions: Vec::new(),
            cdi_dir: written.use_cdi.unwrap_or(false).then_some(cdi_dir),
            plugin_dir: directory("devices.pluginDir", written.plugin_dir, PLUGIN_DIR)?,
            warnings: Vec::new(),
            faults: Vec::new(),
            prefix: given(written.resource_prefix).unwrap_or_else(|| PREFIX.to_owned()),
        };
        devices.offer(&written.resource_list.unwrap_or_default(), "the configuration");
        for (position, item) in written.virtual_functions.unwrap_or_default().iter().enumerate() {
            if let Err(why) = devices.make(item) {
                devices.faults.push(format!("devices: virtualFunctions[{position}]: {why}"));
            }
        }
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
        self.offer(list, "the file");
        Ok(())
    }

    /// Adds what of a list can be offered. What cannot be is said and left out, and so are those beyond what there is room for: nobody's
    /// pods wait for a resource that is wrong, and none hides another.
    fn offer(&mut self, list: &[Value], place: &str) {
        let name = |item: &Value| {
            let name = item.get("resourceName").and_then(Value::as_str).filter(|name| !name.is_empty());
            let name = name.unwrap_or("without a name");
            name.chars().take(NAME_CHARS_SHOWN).collect::<String>()
        };
        for (position, item) in list.iter().enumerate() {
            if self.resources.len() >= RESOURCES_MAX {
                let (more, name) = (list.len() - position, name(item));
                self.faults.push(format!(
                    "devices: resourceList of {place}: {more} resources, from {name} on, are not offered: there may be {RESOURCES_MAX}"
                ));
                return;
            }
            if let Err(why) = self.add(item) {
                let name = name(item);
                let what = format!("devices: resourceList[{position}] of {place}, {name}, is not offered");
                self.faults.push(format!("{what}: {why}"));
            }
        }
    }

    fn add(&mut self, item: &Value) -> Result<(), String> {
        let resource = self.resource(item)?;
        if self.resources.iter().any(|other| other.full_name() == resource.full_name()) {
            return Err(format!("{} is there twice", resource.full_name()));
        }
        self.resources.push(resource);
        Ok(())
    }

    /// Adds a card that is to have functions. Of one that is named twice the first number counts.
    fn make(&mut self, item: &Value) -> Result<(), String> {
        let functions = functions_of(item)?;
        if self.functions.iter().any(|other| is_one_card(&other.pf, &functions.pf)) {
            return Err(format!("{} is there twice", functions.pf));
        }
        self.functions.push(functions);
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
    let decoded = gojson::decode_value::<WrittenFunctions>(item).map_err(|e| e.to_string())?;
    let unknown: BTreeSet<String> = decoded.unknown.into_iter().collect();
    if let Some(key) = unknown.first() {
        return Err(format!("unknown key {key}"));
    }
    let pf = given(decoded.value.pf).ok_or("pf is not given")?;
    let count = decoded.value.count.filter(|count| (1..=FUNCTIONS_MAX).contains(count));
    let count = count.and_then(|count| u32::try_from(count).ok());
    let count = count.ok_or_else(|| format!("{pf}: count is 1 to {FUNCTIONS_MAX}"))?;
    Ok(Functions { pf, count })
}

/// Whether two texts are one card, as far as texts tell: the name of an interface is another one in other letters, and has no colon.
fn is_one_card(a: &str, b: &str) -> bool {
    a == b || (a.contains(':') && a.eq_ignore_ascii_case(b))
}

/// Letters and digits, and signs between them.
fn is_name(text: &str, most: usize, signs: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || signs.contains(c);
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= most && text.chars().all(inner) && outer(text.chars().next()) && outer(text.chars().last())
}

#[cfg(test)]
mod tests;
