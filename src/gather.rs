//! From a request to the list of wanted attachments: the pod, its annotations, and the definitions they name are fetched
//! here, and nowhere else. Impure only by reading files.
//!
//! It does not decide whether a configuration can be built: `plan` does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use backends::Kind;
use backends::chained::Chained;
use serde_json::{Map, Value, json};

use crate::cluster::{self, Cluster};
use crate::cni::args::Args;
use crate::cni::list::{List, PluginConf};
use crate::cni::{CniError, Code, Version, gojson};
use crate::config::{Config, META_TYPES, Primary};
use crate::devices::allot::{self, Reference};
use crate::devices::{Allotment, Devices, RESOURCE_NAME, description};
use crate::journal::{Allotted, PodName};
use crate::native;
use crate::plan::Wanted;
use crate::select::{self, DEFAULT_NETWORK, NETWORKS, Selection};
use crate::sources::{self, Definition, NetworkFile, Pod, SourceError};

/// What a pod asked for.
#[derive(Debug)]
pub struct Asked {
    /// The default network first.
    pub wanted: Vec<Wanted>,
    /// The pod, where the runtime named one.
    pub pod: Option<PodName>,
    /// Those that are the pod's own, where its networks choose among cards.
    pub processors: BTreeSet<u32>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// What a request says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// CNI_ARGS.
    pub args: &'a str,
    /// CNI_IFNAME: the default network's interface.
    pub ifname: &'a str,
    /// CNI_CONTAINERID.
    pub sandbox: &'a str,
}

/// One network before its interface is named.
struct Network {
    name: String,
    list: List,
    /// What its definition's attachments need a device of.
    resource: Option<String>,
    selection: Option<Selection>,
}

fn refuse(error: &dyn std::error::Error) -> CniError {
    CniError::new(Code::InvalidConfig, native::chain(error))
}

/// Fetches everything that a request's pod names.
///
/// # Errors
/// A definition that is not there, an annotation that cannot be read, a namespace that may not be referred to.
pub fn asked(config: &Config, asking: &Asking, cluster: &mut dyn Cluster) -> Result<Asked, CniError> {
    // A pod whose name cannot be read would get the default network alone, and nobody would know.
    if asking.args.contains("K8S_POD_NAME") {
        let args = Args::parse(asking.args).map_err(|e| CniError::new(Code::InvalidEnvironment, e.to_string()))?;
        is_named_as_a_whole(&args)?;
    }
    let name = cluster::pod_name(asking.args);
    let found = name.as_ref().map(|name| cluster.pod(name)).transpose().map_err(cluster::refuse)?.flatten();
    let pod = found.unwrap_or_else(|| Pod {
        namespace: name.as_ref().map_or("default", |pod| pod.namespace.as_str()).to_owned(),
        ..Pod::default()
    });
    // A runtime that does not tell the UID means the pod that is there.
    let name = name.map(|name| if name.uid.is_empty() { PodName { uid: pod.uid.clone(), ..name } } else { name });
    of_pod(config, &pod, asking, name, cluster)
}

/// A pod is named by its namespace and its name; a runtime that serves no pods gives neither.
fn is_named_as_a_whole(args: &Args) -> Result<(), CniError> {
    let is_given = |value: Option<&str>| value.is_some_and(|value| !value.is_empty());
    let (given, lacking) = match (is_given(args.pod_namespace()), is_given(args.pod_name())) {
        (true, false) => ("K8S_POD_NAMESPACE", "K8S_POD_NAME"),
        (false, true) => ("K8S_POD_NAME", "K8S_POD_NAMESPACE"),
        _ => return Ok(()),
    };
    let msg = format!(
        "CNI_ARGS has {given} and no {lacking}: a pod is named by both, and which networks it asks for is not known"
    );
    Err(CniError::new(Code::InvalidEnvironment, msg))
}

/// What a pod's annotations name.
struct Names {
    default: Option<Selection>,
    networks: Vec<Selection>,
}

fn names(config: &Config, pod: &Pod) -> Result<Names, CniError> {
    let default = pod.annotations.get(DEFAULT_NETWORK);
    let default = default.map(|text| select::parse_default_network(text, &config.multus_namespace));
    let text = pod.annotations.get(NETWORKS).map(String::as_str).unwrap_or_default();
    let networks = select::parse_networks(text, &pod.namespace).map_err(|e| refuse(&e))?;
    let names = Names { default: default.transpose().map_err(|e| refuse(&e))?, networks };
    let claims: Vec<Selection> = names.default.iter().chain(&names.networks).cloned().collect();
    select::check_claims(&claims).map_err(|e| refuse(&e))?;
    let also = [config.multus_namespace.as_str()];
    names.default.iter().try_for_each(|selection| check_isolation(config, &pod.namespace, selection, &also))?;
    names.networks.iter().try_for_each(|selection| check_isolation(config, &pod.namespace, selection, &[]))?;
    Ok(names)
}

/// The same for a pod that is at hand.
///
/// # Errors
/// As [`asked`].
pub fn of_pod(
    config: &Config,
    pod: &Pod,
    asking: &Asking,
    name: Option<PodName>,
    cluster: &mut dyn Cluster,
) -> Result<Asked, CniError> {
    let names = names(config, pod)?;
    let all = names.default.iter().chain(&names.networks);
    cluster.expect(&all.map(|selection| (selection.namespace.clone(), selection.name.clone())).collect::<Vec<_>>());
    let mut networks = Vec::new();
    match &names.default {
        Some(selection) => {
            networks.push(definition(config, cluster, selection)?);
            networks.extend(defaults(config, cluster, &pod.namespace, 1)?);
        }
        None => networks.extend(defaults(config, cluster, &pod.namespace, 0)?),
    }
    let mut warnings = Vec::new();
    for selection in names.networks {
        if !selection.unknown.is_empty() {
            let keys = selection.unknown.join(", ");
            warnings.push(format!("{NETWORKS}: network {}: unknown key {keys} is ignored", selection.full_name()));
        }
        networks.push(definition(config, cluster, &selection)?);
    }
    let (allotments, processors) = allot(config, &networks, name.as_ref(), cluster, &mut warnings)?;
    let all = networks.into_iter().zip(allotments).enumerate();
    let wanted: Result<Vec<Wanted>, CniError> =
        all.map(|(i, (network, allotment))| want(i, network, allotment, config, asking)).collect();
    let mut wanted = wanted?;
    wanted.extend(auxiliary(config, asking, &wanted, &mut warnings)?);
    Ok(Asked { wanted, pod: name, processors, warnings })
}

/// One network that a pod gets while it runs: its configuration is at hand, and `asking` names its interface.
///
/// # Errors
/// It is none, or one of plexus itself.
pub fn plugged(config: &Config, conf: &[u8], wish: &Selection, asking: &Asking) -> Result<Wanted, CniError> {
    let list = parse_list(conf, &NetworkName::Inline)?;
    let selection = Selection { ifname: Some(asking.ifname.to_owned()), ..wish.clone() };
    let network = Network { name: list.name.clone(), list, resource: None, selection: Some(selection) };
    // Not the first one, whose interface the runtime names.
    want(1, network, Allotment::Unasked, config, asking)
}

/// The last network of every pod, where the node's configuration names one. What is in its folder and cannot be used keeps no pod
/// from starting (Multus), and is said.
fn auxiliary(
    config: &Config,
    asking: &Asking,
    others: &[Wanted],
    warnings: &mut Vec<String>,
) -> Result<Option<Wanted>, CniError> {
    let Some(folder) = auxiliary_folder(config)? else { return Ok(None) };
    let list = auxiliary_list(config, &folder).unwrap_or_else(|e| {
        warnings.push(format!("auxiliaryCNIChainName {:?} is left out: {}", config.auxiliary_chain, e.msg));
        None
    });
    let Some(list) = list else { return Ok(None) };
    let network = Network { name: list.name.clone(), list, resource: None, selection: None };
    let mut wanted = want(others.len(), network, Allotment::Unasked, config, asking)?;
    // It makes no interface: its name is only one that nobody else has.
    let is_free = |name: &String| !others.iter().any(|other| other.ifname == *name);
    let mut names = (others.len()..=2 * others.len()).map(|number| format!("net{number}"));
    wanted.ifname = names.find(is_free).unwrap_or(wanted.ifname);
    Ok(Some(wanted))
}

/// Where the folder of the auxiliary chain is: beside the default network's file.
///
/// # Errors
/// Multus' text, where that is no file.
fn auxiliary_folder(config: &Config) -> Result<Option<PathBuf>, CniError> {
    if config.auxiliary_chain.is_empty() {
        return Ok(None);
    }
    let network = match &config.primary {
        Primary::Cluster(network, _) => network.as_str(),
        Primary::Delegates(_) => "",
    };
    match network.rsplit_once('/') {
        Some((folder, _)) => Ok(Some(PathBuf::from(format!("{folder}/")))),
        None => {
            let msg =
                format!("auxiliary chain used but ClusterNetwork must be a path, and it is not a path: {network}");
            Err(CniError::new(Code::InvalidConfig, msg))
        }
    }
}

/// Its list: what does nothing, and the plugins of the folder; none where the folder has none.
fn auxiliary_list(config: &Config, folder: &Path) -> Result<Option<List>, CniError> {
    let name = &config.auxiliary_chain;
    crate::cni::names::validate_network_name(name)?;
    let conf = json!({"cniVersion": config.cni_version.as_str(), "name": name,
        "plugins": [{"type": Chained::Passthru.name(), "name": "passthru-cni"}]});
    let path = folder.join(format!("{name}.conflist"));
    let list = list_of_file(&NetworkFile { path, bytes: conf.to_string().into_bytes() })?;
    Ok((list.plugins.len() > 1).then_some(list))
}

/// Gives the pod's devices to its networks, all of which share one count of them; and the pod's processors, where they decide something.
fn allot(
    config: &Config,
    networks: &[Network],
    pod: Option<&PodName>,
    cluster: &mut dyn Cluster,
    warnings: &mut Vec<String>,
) -> Result<(Vec<Allotment>, BTreeSet<u32>), CniError> {
    let references = networks.iter().map(|network| Reference {
        network: &network.name,
        resource: network.resource.as_deref(),
        named: network.selection.as_ref().and_then(|selection| selection.device.as_deref()),
    });
    let references: Vec<Reference> = references.collect();
    let chooses = networks.iter().any(chooses_among_cards);
    let devices = match pod.filter(|_| chooses || allot::is_asked(&references)) {
        Some(pod) => cluster.devices(pod, &config.kubelet_dir),
        None => Ok(Devices::default()),
    };
    let (processors, unknown) = match &devices {
        Ok(devices) => (devices.processors.clone(), devices.processors_unknown.clone()),
        Err(e) => (BTreeSet::new(), Some(native::chain(e))),
    };
    if let Some(why) = unknown.filter(|_| chooses) {
        warnings.push(format!("cards are taken in the order of pf: which processors the pod has is not known: {why}"));
    }
    let processors = if chooses { processors } else { BTreeSet::new() };
    Ok((allot::allot(&references, &devices, config.allow_device_id)?, processors))
}

/// Whether a virtual function is to be chosen, of one of several cards.
fn chooses_among_cards(network: &Network) -> bool {
    let several = |plugin: &PluginConf| {
        let cards = gojson::field(&plugin.object, "pf").and_then(Value::as_array);
        plugin.plugin_type == Kind::Sriov.name() && cards.is_some_and(|cards| cards.len() > 1)
    };
    network.resource.is_none() && network.list.plugins.iter().any(several)
}

/// Under isolation a pod names definitions of its own namespace and of those that are everybody's. What the node's own
/// configuration names is the administrator's, and not restricted.
fn check_isolation(config: &Config, pod: &str, selection: &Selection, also: &[&str]) -> Result<(), CniError> {
    let target = selection.namespace.as_str();
    let global = config.global_namespaces.iter().any(|namespace| namespace == target);
    if !config.namespace_isolation || target == pod || global || also.contains(&target) {
        return Ok(());
    }
    let msg = format!(
        "namespace isolation enabled, annotation violates permission, pod is in namespace {pod} but refers to target \
         namespace {target}"
    );
    Err(CniError::new(Code::InvalidConfig, msg))
}

/// The networks that the node's configuration gives to every pod; the first is the default network. `skip`: so many of them
/// are replaced by the pod's own.
fn defaults(
    config: &Config,
    cluster: &mut dyn Cluster,
    namespace: &str,
    skip: usize,
) -> Result<Vec<Network>, CniError> {
    match &config.primary {
        Primary::Delegates(delegates) => {
            let one = |object: &Map<String, Value>| {
                let bytes = serde_json::to_vec(object).unwrap_or_default();
                let list = parse_list(&bytes, &NetworkName::Inline)?;
                Ok(Network { name: list.name.clone(), list, resource: None, selection: None })
            };
            delegates.iter().skip(skip).map(one).collect()
        }
        Primary::Cluster(first, others) => {
            let system = config.system_namespaces.iter().any(|system| system == namespace);
            let others = if system { &[][..] } else { others.as_slice() };
            let keys = std::iter::once("clusterNetwork").chain(std::iter::repeat("defaultNetworks"));
            let all = keys.zip(std::iter::once(first).chain(others)).skip(skip);
            all.map(|(key, name)| named(config, cluster, name).map_err(|e| e.within(&format!("{key} {name:?}"))))
                .collect()
        }
    }
}

/// The default networks' configurations, for GC and STATUS.
///
/// # Errors
/// As [`asked`].
pub fn default_lists(config: &Config, cluster: &mut dyn Cluster) -> Result<Vec<List>, CniError> {
    let mut lists: Vec<List> = defaults(config, cluster, "", 0)?.into_iter().map(|network| network.list).collect();
    if let Some(folder) = auxiliary_folder(config)? {
        // Where it cannot be read, no pod has it.
        lists.extend(auxiliary_list(config, &folder).ok().flatten());
    }
    Ok(lists)
}

/// clusterNetwork's order (Multus): a definition of multusNamespace, a network of confDir, a path.
fn named(config: &Config, cluster: &mut dyn Cluster, name: &str) -> Result<Network, CniError> {
    if name.contains('/') {
        let file = sources::network_at(Path::new(name)).map_err(|e| refuse(&e))?;
        let list = list_of_file(&file)?;
        return Ok(Network { name: list.name.clone(), list, resource: None, selection: None });
    }
    let wanted =
        Selection { namespace: config.multus_namespace.clone(), name: name.to_owned(), ..Selection::default() };
    match cluster.definition(&wanted.namespace, name, false) {
        Ok(found) => {
            let network = network(config, &wanted, &found)?;
            return Ok(Network { selection: None, ..network });
        }
        // Whoever could not be asked may have it: another network of that name would be the wrong one.
        Err(error) if !matches!(error, SourceError::NoDefinition { .. }) => return Err(cluster::refuse(error)),
        Err(_) => {}
    }
    let file = sources::network_by_name(&config.conf_dir, name).map_err(|e| {
        let msg = format!("no definition in namespace {:?}, and {}", config.multus_namespace, native::chain(&e));
        CniError::new(Code::InvalidConfig, msg)
    })?;
    let list = list_of_file(&file)?;
    Ok(Network { name: list.name.clone(), list, resource: None, selection: None })
}

fn definition(config: &Config, cluster: &mut dyn Cluster, selection: &Selection) -> Result<Network, CniError> {
    let found = cluster.definition(&selection.namespace, &selection.name, true).map_err(cluster::refuse)?;
    network(config, selection, &found)
}

fn network(config: &Config, selection: &Selection, found: &Definition) -> Result<Network, CniError> {
    let full_name = selection.full_name();
    let list = if found.config.trim().is_empty() {
        let file = sources::network_by_name(&config.conf_dir, &selection.name).map_err(|e| refuse(&e))?;
        list_of_file(&file)?
    } else {
        parse_list(found.config.as_bytes(), &NetworkName::Definition(&selection.name))
            .map_err(|e| e.within(&format!("definition {full_name}")))?
    };
    let resource = found.annotations.get(RESOURCE_NAME).filter(|name| !name.is_empty()).cloned();
    Ok(Network { name: full_name, list, resource, selection: Some(selection.clone()) })
}

/// Who says what a configuration without a `name` is called.
enum NetworkName<'a> {
    /// Nobody: it must have one.
    Inline,
    /// The definition.
    Definition(&'a str),
}

fn parse_list(bytes: &[u8], name: &NetworkName) -> Result<List, CniError> {
    let parsed: Option<Map<String, Value>> = gojson::read(bytes).ok();
    let nameless = |object: &Map<String, Value>| {
        object.get("name").is_none_or(|name| name.is_null() || name.as_str().is_some_and(str::is_empty))
    };
    let list = match (name, parsed) {
        (NetworkName::Definition(name), Some(mut object)) if nameless(&object) => {
            object.insert("name".to_owned(), (*name).into());
            List::parse_either(&serde_json::to_vec(&object).unwrap_or_default())?
        }
        _ => List::parse_either(bytes)?,
    };
    checked(list)
}

fn checked(list: List) -> Result<List, CniError> {
    crate::cni::names::validate_network_name(&list.name)?;
    list.require_plugins()?;
    let is_meta = |plugin: &&PluginConf| META_TYPES.contains(&plugin.plugin_type.as_str());
    if let Some(plugin) = list.plugins.iter().find(is_meta) {
        let (name, plugin) = (&list.name, &plugin.plugin_type);
        let msg = format!("network {name:?} is of type {plugin:?}: the plugin that attaches networks is none itself");
        return Err(CniError::new(Code::InvalidConfig, msg));
    }
    Ok(list)
}

/// A list in a file goes on in the files of a folder of its name, unless it says not to (libcni).
fn list_of_file(file: &NetworkFile) -> Result<List, CniError> {
    let place = file.path.display().to_string();
    let mut list = List::parse_either(&file.bytes).map_err(|e| e.within(&place))?;
    crate::cni::names::validate_network_name(&list.name).map_err(|e| e.within(&place))?;
    if !list.load_only_inlined {
        for more in sources::chain_files(&file.path, &list.name).map_err(|e| refuse(&e))? {
            let plugin = PluginConf::parse(&more.bytes).map_err(|e| e.within(&more.path.display().to_string()))?;
            list.plugins.push(plugin);
        }
    }
    checked(list).map_err(|e| e.within(&place))
}

/// Names the interface: the annotation's wish, CNI_IFNAME for the default network, `net<N>` for others, where N counts every
/// network of the pod (Multus).
fn want(
    index: usize,
    network: Network,
    allotment: Allotment,
    config: &Config,
    asking: &Asking,
) -> Result<Wanted, CniError> {
    let Network { name, mut list, selection, .. } = network;
    let default = index == 0;
    let wished = selection.as_ref().and_then(|selection| selection.ifname.clone());
    let ifname = wished.unwrap_or_else(|| if default { asking.ifname.to_owned() } else { format!("net{index}") });
    let mut runtime = if default { config.runtime.clone() } else { Map::new() };
    let args = plugin_args(asking, selection.as_ref());
    if let Some(selection) = &selection {
        runtime.extend(selection.runtime());
        if let Some(cni_args) = &selection.cni_args {
            list.plugins.iter_mut().try_for_each(|plugin| merge_args(&mut plugin.object, cni_args))?;
        }
    }
    if let Some(device) = allotment.device() {
        let file = description::of_attachment(&name, asking.sandbox, &ifname);
        runtime.insert("deviceID".to_owned(), device.id.as_str().into());
        runtime.insert("CNIDeviceInfoFile".to_owned(), file.display().to_string().into());
    }
    if let Allotment::Allocated(device) = &allotment {
        list.plugins.iter_mut().for_each(|plugin| put_device(&mut plugin.object, device));
    }
    let (previous, direct) = (None, false);
    Ok(Wanted { network: name, list, ifname, default, allotment, selection, args, runtime, previous, direct })
}

/// The device where plugins look for it that know no capability (Multus), in the place of what the configuration says.
fn put_device(conf: &mut Map<String, Value>, device: &Allotted) {
    for key in ["deviceID", "pciBusID"] {
        conf.retain(|given, _| !gojson::folds_to(given, key));
        conf.insert(key.to_owned(), device.id.as_str().into());
    }
}

/// The pod's `cni-args` into `args.cni`; the pod's keys win.
fn merge_args(conf: &mut Map<String, Value>, cni_args: &Map<String, Value>) -> Result<(), CniError> {
    let object = |value: Option<&Value>, place: &str| match value {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(_) => {
            let msg = format!("the pod has cni-args, but {place} of the network's configuration is no object");
            Err(CniError::new(Code::InvalidConfig, msg))
        }
    };
    let mut args = object(conf.get("args"), "args")?;
    let mut cni = object(args.get("cni"), "args.cni")?;
    cni.extend(cni_args.clone());
    args.insert("cni".to_owned(), Value::Object(cni));
    conf.insert("args".to_owned(), Value::Object(args));
    Ok(())
}

/// CNI_ARGS for a network's plugins, in Multus' order: the pod's identity, what else the runtime said, then the requests in
/// the old form.
fn plugin_args(asking: &Asking, selection: Option<&Selection>) -> String {
    let given = Args::parse(asking.args).unwrap_or_default();
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut add = |key: &str, value: &str| {
        if !pairs.iter().any(|(known, _)| known == key) {
            pairs.push((key.to_owned(), value.to_owned()));
        }
    };
    let has_pod = given.pod_name().is_some();
    if has_pod || selection.is_some() {
        add("IgnoreUnknown", "true");
    }
    if has_pod {
        add("K8S_POD_NAMESPACE", given.pod_namespace().unwrap_or_default());
        add("K8S_POD_NAME", given.pod_name().unwrap_or_default());
        add("K8S_POD_INFRA_CONTAINER_ID", given.pod_sandbox().unwrap_or(asking.sandbox));
        add("K8S_POD_UID", given.pod_uid().unwrap_or_default());
    }
    let requested = |key: &str| match (key, selection) {
        ("MAC", Some(selection)) => selection.mac.clone(),
        ("IP", Some(selection)) => Some(selection.ips.join(",")).filter(|ips| !ips.is_empty()),
        _ => None,
    };
    for (key, value) in given.pairs.iter().filter(|(key, _)| requested(key).is_none()) {
        add(key, value);
    }
    for key in ["MAC", "IP"] {
        if let Some(value) = requested(key) {
            add(key, &value);
        }
    }
    let line: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    line.join(";")
}

impl Wanted {
    /// A plugin that was executed under its own name: one configuration, taken as it is.
    pub fn direct(network: &str, version: Version, plugin: &str, object: &Map<String, Value>) -> List {
        let plugin = PluginConf {
            plugin_type: plugin.to_owned(),
            capabilities: BTreeMap::new(),
            object: object.clone(),
            raw: String::new(),
        };
        List {
            name: network.to_owned(),
            cni_version: version,
            disable_check: false,
            disable_gc: false,
            load_only_inlined: true,
            plugins: vec![plugin],
        }
    }
}
