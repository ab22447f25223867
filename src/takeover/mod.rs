//! Pods that Multus attached: what it kept of them is read back, and everything is detached as if plexus had attached it.
//!
//! Both of Multus' caches are asked, because each may be damaged: its list has the order and what never came to an end, libcni's
//! notes have each configuration as it was, the result, and what was attached later. They are removed when everything has gone, and
//! not before. Nothing here asks the API, a definition, or the node's configuration for more than where things are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use backends::chained::{Chained, Fit};
use backends::{Before, NetNs, Pod};
use serde_json::{Map, Value, json};

use crate::chain;
use crate::cni::attachments::Attachment as Valid;
use crate::cni::error::CniError;
use crate::cni::gojson;
use crate::cni::list::List;
use crate::cni::request::Request;
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::confdir::{self, Fate};
use crate::config::{Config, META_TYPES};
use crate::detach::{self, Departure};
use crate::job::Job;
use crate::journal::{Attachment, Pool, Step};
use crate::log::warn;
use crate::native::{self, Around, Verdict};
use crate::sight;

pub mod back;
pub mod base64;
mod cache;
pub mod lost;

pub use cache::{Cache, Delegate, Entry, Notes};

/// CNI_IFNAME of every Kubernetes pod's default network (kubelet; containerd's and CRI-O's default).
const DEFAULT_IFNAME: &str = "eth0";
/// In the place of a request that Multus did not note, for a plugin that takes none for nothing to remove.
const NOT_NOTED: &str = "not noted";

/// What Multus attached to one pod.
#[derive(Debug)]
pub struct Remains {
    notes: Notes,
    attachments: Vec<Attachment>,
    results: Vec<Option<CniResult>>,
    /// Of these only network and interface are known.
    named: Vec<Attachment>,
    /// Where they were attached, by libcni's notes.
    netns: Option<PathBuf>,
}

/// What is known of a pod beside the cache.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The container id.
    pub sandbox: &'a str,
    /// The default network's interface.
    pub ifname: &'a str,
    /// CNI_ARGS of the call, for what libcni did not note.
    pub args: &'a str,
    /// runtimeConfig of the call: the default network's.
    pub runtime: &'a Map<String, Value>,
}

/// libcni's directories of the meta-plugin's configurations in a runtime's directory; none where that cannot be read.
pub fn configured(conf_dir: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for file in confdir::read(conf_dir).unwrap_or_default() {
        let (Fate::Chosen(list) | Fate::Ignored(list)) = file.fate else { continue };
        let of_meta = list.plugins.iter().filter(|plugin| META_TYPES.contains(&plugin.plugin_type.as_str()));
        let configs = of_meta.filter_map(|plugin| Config::parse(&plugin.object).ok());
        dirs.extend(configs.map(|config| Cache::new(&config.cni_dir).results()));
    }
    dirs
}

/// Reads what Multus kept of a pod.
///
/// # Errors
/// The cache cannot be listed, or names more attachments than one pod has.
pub fn find(job: &Job, config: &Config, asker: &Asker) -> Result<Remains, CniError> {
    let notes = Cache::new(&config.cni_dir).read(asker.sandbox)?;
    for damage in &notes.damaged {
        warn(&format!("what Multus kept of this pod is damaged: {damage}"));
    }
    let path = config.search_path(&job.request.path);
    let netns = notes.entries.iter().find_map(|entry| entry.netns.clone());
    let (attachments, results, named) = (Vec::new(), Vec::new(), Vec::new());
    let mut remains = Remains { attachments, results, named, netns, notes };
    for Noted { list, network, ifname, args, runtime, result, default, noted } in all(&remains.notes, asker) {
        let Some(list) = list else {
            remains.named.push(of_name(&network, &ifname, &args));
            continue;
        };
        let mut attachment = detach::attachment_of_list(&list, &ifname, &args, &runtime);
        attachment.default = default;
        for index in 0..attachment.steps.len() {
            settle(&mut attachment, index, job, &path);
        }
        if !noted && let Some(named) = drop_absent(&mut attachment, &path) {
            remains.named.push(named);
            continue;
        }
        remains.attachments.push(attachment);
        remains.results.push(result);
    }
    Ok(remains)
}

impl Remains {
    /// Whether Multus kept nothing of the pod.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// Whether it is not known of every network that it was attached.
    pub fn has_damaged_list(&self) -> bool {
        self.notes.has_damaged_list()
    }

    /// Whether the attachment of this interface is among them, and not by its name alone.
    pub fn has(&self, ifname: &str) -> bool {
        self.attachments.iter().any(|a| a.ifname == ifname)
    }

    /// Network and interface of what is known by its name alone, but for these interfaces.
    pub fn named<'a>(&'a self, done: &'a BTreeSet<String>) -> impl Iterator<Item = (&'a str, &'a str)> {
        let left = self.named.iter().filter(|a| !done.contains(&a.ifname));
        left.map(|a| (a.network.as_str(), a.ifname.as_str()))
    }

    /// Releases the leases of what is known by its name alone, but for these interfaces: where host-local has them by default.
    ///
    /// # Errors
    /// Everything that could not be removed.
    pub fn release(&self, job: &Job, config: &Config, sandbox: &str, done: &BTreeSet<String>) -> Result<(), CniError> {
        let left: Vec<Attachment> = self.named.iter().filter(|a| !done.contains(&a.ifname)).cloned().collect();
        if left.is_empty() {
            return Ok(());
        }
        detach::detach(Departure {
            sandbox,
            path: &config.search_path(&job.request.path),
            ..Departure::unrecorded(job.request, &job.state_dir, &left, None)
        })
    }

    /// Detaches all of it but what is known by its name alone, the last first; every one is tried.
    ///
    /// # Errors
    /// Everything that could not be removed.
    pub fn detach(&self, job: &Job, config: &Config, sandbox: &str, inside: Option<NetNs>) -> Result<(), CniError> {
        if self.attachments.is_empty() {
            return Ok(());
        }
        let netns = inside.as_ref().map(|netns| netns.path().to_owned()).or_else(|| job.request.netns.clone());
        detach::detach(Departure {
            sandbox,
            netns,
            path: &config.search_path(&job.request.path),
            results: self.results.clone(),
            ..Departure::unrecorded(job.request, &job.state_dir, &self.attachments, inside)
        })
    }

    /// Removes what Multus kept.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn forget(&self) -> Result<(), CniError> {
        self.notes.forget()
    }
}

/// GC: what Multus attached to pods that the runtime's list does not name. The container's id decides: a pod has interfaces that
/// the runtime never heard of.
///
/// # Errors
/// Everything that could not be removed.
pub fn collect(job: &Job, config: &Config, valid: &BTreeSet<Valid>) -> Result<(), CniError> {
    let mut failures = Vec::new();
    for sandbox in Cache::new(&config.cni_dir).sandboxes()? {
        if valid.iter().any(|valid| valid.container_id == sandbox) {
            continue;
        }
        let none = Map::new();
        let asker = Asker { sandbox: &sandbox, ifname: DEFAULT_IFNAME, args: "", runtime: &none };
        failures.extend(collect_one(job, config, &asker).err());
    }
    detach::join(failures)
}

fn collect_one(job: &Job, config: &Config, asker: &Asker) -> Result<(), CniError> {
    let remains = find(job, config, asker)?;
    let place = remains.namespace(asker.sandbox, &job.state_dir)?;
    remains.detach(job, config, asker.sandbox, again(place.as_ref())?)?;
    let done = if remains.says_everything() { BTreeSet::new() } else { leased(job, config, asker, place.as_ref())? };
    remains.release(job, config, asker.sandbox, &done)?;
    remains.forget()
}

/// The same namespace once more.
fn again(netns: Option<&NetNs>) -> Result<Option<NetNs>, CniError> {
    let same = netns.map(|netns| NetNs::of_descriptor(netns, netns.path()));
    same.transpose().map_err(native::from_backend)
}

/// What the sandbox's leases lead to, as a DEL of it would find: once its cache has been removed nobody knows of its rules.
fn leased(job: &Job, config: &Config, asker: &Asker, place: Option<&NetNs>) -> Result<BTreeSet<String>, CniError> {
    let Asker { sandbox, ifname, args, .. } = *asker;
    let request = Request {
        container_id: sandbox.to_owned(),
        ifname: ifname.to_owned(),
        args: args.to_owned(),
        netns: place.map(|netns| netns.path().to_owned()),
        ..job.request.clone()
    };
    let of_sandbox = Job {
        request: &request,
        plugin: job.plugin,
        policy: job.policy.clone(),
        state_dir: job.state_dir.clone(),
        place: job.place,
    };
    lost::detach(&of_sandbox, config, &lost::Asked { defaults: &Vec::new, inside: &|| again(place) })
}

impl Remains {
    /// Whether the configuration of every network is known.
    fn says_everything(&self) -> bool {
        self.named.is_empty() && !self.has_damaged_list()
    }

    /// The namespace that was attached, where it can be told from one that has its path by now: it has an address that is leased
    /// to the pod. Where no note says its path, it is looked for among those that are mounted here: addresses of a pod that lives must
    /// not become free.
    fn namespace(&self, sandbox: &str, state_dir: &Path) -> Result<Option<NetNs>, CniError> {
        let leases = lost::leases(Path::new(detach::DATA_DIR), sandbox, state_dir)?;
        let leased = leases.keys().map(|(network, ifname)| of_name(network, ifname, ""));
        let mut known: Vec<Attachment> = self.attachments.iter().chain(&self.named).cloned().chain(leased).collect();
        known.retain(|attachment| attachment.steps.iter().any(|step| step.pool.is_some()));
        if known.is_empty() {
            return Ok(None);
        }
        let ours = |path: &Path| {
            let Some(found) = detach::open(path)? else { return Ok(None) };
            let Some(Ok(mut pod)) = again(Some(&found))?.map(Pod::enter) else { return Ok(None) };
            let is_ours = known.iter().any(|attachment| detach::is_leased(&mut pod, attachment, sandbox, state_dir));
            Ok(is_ours.then_some(found))
        };
        if let Some(path) = &self.netns {
            return ours(path);
        }
        let places = sight::mounted().unwrap_or_else(|e| {
            warn(&format!("where this container's network namespace is mounted cannot be looked up: {e}"));
            Vec::new()
        });
        let mut found = places.iter().filter_map(|path| ours(path).ok().flatten());
        Ok(found.find(|netns| !netns.is_current().unwrap_or(true)))
    }
}

/// One attachment, by whichever cache.
struct Noted {
    /// None: only network and interface are known.
    list: Option<List>,
    network: String,
    ifname: String,
    args: String,
    runtime: Map<String, Value>,
    result: Option<CniResult>,
    default: bool,
    /// libcni noted it, and the note can be read: it was attached, by these plugins.
    noted: bool,
}

/// Every attachment in the order of ADD: those of the list, then those that only libcni knows of, which came later.
fn all(notes: &Notes, asker: &Asker) -> Vec<Noted> {
    let mut entries: Vec<Option<&Entry>> = notes.entries.iter().map(Some).collect();
    let mut noted = Vec::new();
    for (index, delegate) in notes.delegates.iter().enumerate() {
        let Some(delegate) = delegate else { continue };
        let default = index == 0;
        let named = delegate.ifname.clone();
        let ifname = named.unwrap_or_else(|| if default { asker.ifname.to_owned() } else { format!("net{index}") });
        let is_it = |entry: &Entry| entry.network == delegate.list.name && entry.ifname == ifname;
        let entry = entries.iter_mut().find(|entry| entry.is_some_and(is_it)).and_then(Option::take);
        noted.push(match entry {
            Some(entry) => Noted::of_entry(entry, Some(&delegate.list), default),
            None => Noted::of_delegate(delegate, ifname, asker, default),
        });
    }
    let mut rest: Vec<&Entry> = entries.into_iter().flatten().collect();
    rest.sort_by_key(|entry| (entry.ifname != asker.ifname, entry.ifname.len(), entry.ifname.clone()));
    noted.extend(rest.into_iter().map(|entry| Noted::of_entry(entry, None, entry.ifname == asker.ifname)));
    noted
}

impl Noted {
    fn of_entry(entry: &Entry, list: Option<&List>, default: bool) -> Noted {
        Noted {
            list: entry.list.as_ref().or(list).cloned(),
            network: entry.network.clone(),
            ifname: entry.ifname.clone(),
            args: entry.args.clone(),
            runtime: entry.runtime.clone(),
            result: entry.result.clone(),
            default,
            noted: entry.list.is_some(),
        }
    }

    fn of_delegate(delegate: &Delegate, ifname: String, asker: &Asker, default: bool) -> Noted {
        let mut runtime = if default { asker.runtime.clone() } else { Map::new() };
        runtime.extend(delegate.asked.clone());
        let mut args = asker.args.to_owned();
        let ips = delegate.asked.get("ips").and_then(Value::as_array).into_iter().flatten();
        let ips: Vec<&str> = ips.filter_map(Value::as_str).collect();
        let mac = delegate.asked.get("mac").and_then(Value::as_str).unwrap_or_default();
        for (key, value) in [("IP", ips.join(",")), ("MAC", mac.to_owned())] {
            if !value.is_empty() {
                let before = if args.is_empty() { "IgnoreUnknown=true" } else { &args };
                args = format!("{before};{key}={value}");
            }
        }
        let list = delegate.list.clone();
        Noted {
            network: list.name.clone(),
            list: Some(list),
            ifname,
            args,
            runtime,
            result: None,
            default,
            noted: false,
        }
    }
}

/// An attachment of which only the name of libcni's note is left: its addresses, where host-local has them by default.
fn of_name(network: &str, ifname: &str, args: &str) -> Attachment {
    let pool = Some(Pool { data_dir: detach::DATA_DIR.into(), network: network.to_owned() });
    let step = Step {
        plugin: String::new(),
        native: true,
        conf: Map::new(),
        pool,
        device: None,
        function: None,
        ipam_delegate: None,
    };
    Attachment {
        network: network.to_owned(),
        cni_name: network.to_owned(),
        cni_version: Version::CURRENT.to_string(),
        ifname: ifname.to_owned(),
        args: args.to_owned(),
        default: false,
        disable_check: false,
        default_route: Vec::new(),
        device: None,
        steps: vec![step],
    }
}

/// Who undoes a step: plexus, unless the node says otherwise, or the plugin that is there did what plexus does not do.
fn settle(attachment: &mut Attachment, index: usize, job: &Job, path: &[PathBuf]) {
    let around = Around {
        network: &attachment.cni_name,
        version: Version::parse(&attachment.cni_version).unwrap_or(Version::CURRENT),
        args: &attachment.args,
        ifname: &attachment.ifname,
        state_dir: &job.state_dir,
        before: Before::Awaited,
    };
    let Some(step) = attachment.steps.get(index).filter(|step| step.native && !step.plugin.is_empty()) else { return };
    let is_executed = !job.policy.native.allows(&step.plugin)
        || match native::read(&step.plugin, &step.conf, &around) {
            Ok(Verdict::Executed(_)) => true,
            Ok(Verdict::Chained(spec, _)) => matches!(spec.fit(), Ok(Fit::ElsewhereBecause(_))),
            Ok(Verdict::Native(..)) | Err(_) => false,
        };
    let is_executed = is_executed && chain::find(&step.plugin, path).is_ok();
    let Some(step) = attachment.steps.get_mut(index) else { return };
    if is_executed {
        step.native = false;
    } else {
        note_unknown(step);
    }
}

/// A network that only Multus' list tells of never came to an end of ADD, or libcni's note of it is damaged, as the list may be. Of its
/// plugins, one that is nowhere would keep the pod from leaving for ever. Where that is the one that makes the link, only network and
/// interface are known: given back is what leases can lead to.
fn drop_absent(attachment: &mut Attachment, path: &[PathBuf]) -> Option<Attachment> {
    let (network, ifname) = (attachment.network.clone(), attachment.ifname.clone());
    let is_absent = |plugin: &str| {
        let is_absent = chain::find(plugin, path).is_err();
        if is_absent {
            warn(&format!(
                "no note says that network {network:?} ({ifname}) was attached by the plugin {plugin:?}, which is nowhere: what leases of this container lead to goes"
            ));
        }
        is_absent
    };
    let first = attachment.steps.first().filter(|step| !step.native && is_absent(&step.plugin)).cloned();
    if let Some(first) = first {
        let mut named = of_name(&attachment.cni_name, &attachment.ifname, &attachment.args);
        for (step, pool) in named.steps.iter_mut().zip(first.pool) {
            step.pool = Some(pool);
        }
        return Some(named);
    }
    attachment.steps.retain(|step| step.native || !is_absent(&step.plugin));
    for step in attachment.steps.iter_mut().filter(|step| step.native) {
        if step.ipam_delegate.as_deref().is_some_and(is_absent) {
            step.ipam_delegate = None;
            step.pool = Some(Pool { data_dir: detach::DATA_DIR.into(), network: attachment.cni_name.clone() });
        }
    }
    None
}

/// Multus' list leaves out port mappings and rates: that nothing is said of them does not mean that there are none.
fn note_unknown(step: &mut Step) {
    let capability = match Chained::of(&step.plugin) {
        Some(Chained::Portmap) => "portMappings",
        Some(Chained::Bandwidth) => "bandwidth",
        _ => return,
    };
    let declares = step.conf.get("capabilities").and_then(|all| all.get(capability)) == Some(&Value::Bool(true));
    let is_known = gojson::field(&step.conf, "runtimeConfig").is_some_and(|config| config.get(capability).is_some());
    if declares && !is_known {
        step.conf.insert("runtimeConfig".to_owned(), json!({ capability: NOT_NOTED }));
    }
}
