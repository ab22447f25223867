//! An ADD of a pod by what is in the files, as far as `gather` and `plan`: nothing of a node is looked at. It does not know where
//! anything stands.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use backends::chained::Fit;
use serde_json::{Map, Value, json};

use super::blame::Budget;
use super::words;
use crate::cluster::{Cluster, Name};
use crate::cni::error::CniError;
use crate::cni::request::Command;
use crate::config::{Config, Policy, Primary};
use crate::devices::{Devices, RESOURCE_NAME};
use crate::gather::{self, Asking};
use crate::journal::{Key, PodName};
use crate::plan::{self, Attachment, Call, Node};
use crate::sources::{Definition, Pod, SourceError};

/// Names that no file has, for which all others are gone through to find one that may be meant.
const SEARCHES_MAX: usize = 64;

/// The default network, of which nothing is known here.
const DEFAULT: &str = "default";

/// See the module.
pub(super) struct Ground {
    /// The node's configuration, but for its default networks.
    pub(super) config: Config,
    /// How much may be asked for the sake of finding what is to blame.
    pub(super) budget: Budget,
    definitions: BTreeMap<Name, Definition>,
    /// By their names alone: the first of each.
    by_name: BTreeMap<String, Name>,
    /// How often a name may still be looked for that is nearly another.
    searches: Cell<usize>,
    /// What they say is not asked of them: they have findings of their own.
    distrusted: BTreeSet<Name>,
}

/// What answers in the cluster's place.
struct Given<'a> {
    ground: &'a Ground,
    /// A definition that says something else.
    over: Option<(&'a Name, &'a Definition)>,
    /// What the pod names.
    expected: Vec<Name>,
}

impl Given<'_> {
    fn of(&self, name: &Name) -> Option<&Definition> {
        if let Some((_, definition)) = self.over.filter(|(over, _)| *over == name) {
            return Some(definition);
        }
        let known = self.ground.definitions.get(name).filter(|_| !self.ground.distrusted.contains(name));
        known.filter(|known| !known.config.trim().is_empty())
    }
}

impl Cluster for Given<'_> {
    fn pod(&mut self, _: &PodName) -> Result<Option<Pod>, SourceError> {
        Ok(None)
    }

    fn expect(&mut self, definitions: &[Name]) {
        self.expected = definitions.to_vec();
    }

    fn definition(&mut self, namespace: &str, name: &str, _: bool) -> Result<Definition, SourceError> {
        Ok(self.of(&(namespace.to_owned(), name.to_owned())).cloned().unwrap_or_else(anything))
    }

    /// As many as are needed: what a pod will be given is not known.
    fn devices(&mut self, _: &PodName, _: &Path) -> Result<Devices, SourceError> {
        let mut devices = Devices::default();
        for (index, name) in self.expected.iter().enumerate() {
            let resource = self.of(name).and_then(|known| known.annotations.get(RESOURCE_NAME));
            // A name that can be none is one that no pod has a device of.
            let _ = resource.map(|resource| devices.add(resource, &format!("0000:00:{index:02x}.0")));
        }
        Ok(devices)
    }
}

/// All that a refusal says.
pub(super) fn words_of(refusal: &CniError) -> String {
    if refusal.details.is_empty() { refusal.msg.clone() } else { format!("{}: {}", refusal.msg, refusal.details) }
}

/// In the place of a definition that nobody has seen: it can do whatever it is asked for.
fn anything() -> Definition {
    let capabilities = ["ips", "mac", "portMappings", "bandwidth", "infinibandGUID", "deviceID"];
    let capabilities: BTreeMap<&str, bool> = capabilities.into_iter().map(|name| (name, true)).collect();
    let config = json!({"cniVersion": "1.0.0", "type": DEFAULT, "capabilities": capabilities}).to_string();
    Definition { annotations: BTreeMap::new(), config }
}

/// So many networks come before those of a pod's annotation.
fn in_place_of(primary: &Primary) -> Primary {
    let count = match primary {
        Primary::Delegates(delegates) => delegates.len(),
        Primary::Cluster(_, others) => 1 + others.len(),
    };
    let one = json!({"cniVersion": "1.0.0", "name": DEFAULT, "type": DEFAULT});
    let one: Map<String, Value> = one.as_object().cloned().unwrap_or_default();
    Primary::Delegates(vec![one; count.max(1)])
}

impl Ground {
    /// With the node's configuration, and definitions as the cluster would have them.
    pub(super) fn new(config: &Config, definitions: BTreeMap<Name, Definition>) -> Ground {
        let (primary, auxiliary_chain) = (in_place_of(&config.primary), String::new());
        let config = Config { primary, auxiliary_chain, ..config.clone() };
        let mut by_name = BTreeMap::new();
        for name in definitions.keys() {
            by_name.entry(name.1.clone()).or_insert_with(|| name.clone());
        }
        let (budget, searches) = (Budget::default(), Cell::new(SEARCHES_MAX));
        Ground { config, budget, definitions, by_name, searches, distrusted: BTreeSet::new() }
    }

    /// What a definition asks of its pods is not known from now on.
    pub(super) fn distrust(&mut self, name: &Name) {
        self.distrusted.insert(name.clone());
    }

    /// Whether a file has it.
    pub(super) fn has(&self, name: &Name) -> bool {
        self.definitions.contains_key(name)
    }

    /// One of the same name in another namespace, or nearly of that name.
    pub(super) fn namesake(&self, name: &str) -> Option<&Name> {
        self.by_name.get(name).or_else(|| {
            self.searches.set(self.searches.get().checked_sub(1)?);
            self.by_name.get(words::nearest(name, self.by_name.keys().map(String::as_str))?)
        })
    }

    /// What an ADD of the pod would do, the default networks left out.
    ///
    /// # Errors
    /// What it would say.
    pub(super) fn of_pod(&self, pod: &Pod) -> Result<Vec<Attachment>, CniError> {
        self.planned(pod, None, &Policy { allowed_delegates: None, ..self.config.policy() })
    }

    /// The same for a pod that asks for one network and nothing else, whose definition has `config`.
    ///
    /// # Errors
    /// As [`Ground::of_pod`].
    pub(super) fn of_definition(&self, name: &Name, definition: &Definition) -> Result<Attachment, CniError> {
        let networks = json!([{"namespace": name.0, "name": name.1}]).to_string();
        let annotations = [(crate::select::NETWORKS.to_owned(), networks)].into();
        let pod = Pod { namespace: name.0.clone(), annotations, ..Pod::default() };
        let mut all = self.planned(&pod, Some((name, definition)), &self.config.policy())?;
        all.pop().ok_or_else(|| CniError::new(crate::cni::Code::Generic, "nothing is asked for"))
    }

    fn planned(
        &self,
        pod: &Pod,
        over: Option<(&Name, &Definition)>,
        policy: &Policy,
    ) -> Result<Vec<Attachment>, CniError> {
        let Pod { namespace, name, .. } = pod;
        let args = format!("IgnoreUnknown=true;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID=");
        let asking = Asking { args: &args, ifname: "eth0", sandbox: "validated" };
        let mut given = Given { ground: self, over, expected: Vec::new() };
        let named = PodName { namespace: namespace.clone(), name: name.clone(), uid: String::new() };
        let wanted = gather::of_pod(&self.config, pod, &asking, Some(named), &mut given)?.wanted;
        let find = |plugin: &str| Ok(PathBuf::from(plugin));
        let fit = |_: &backends::chained::Spec| Ok(Fit::Here);
        let node = Node { policy, state_dir: Path::new("/nowhere"), find: &find, fit: &fit };
        let nothing = String::new;
        let key = Key { network: nothing(), sandbox: nothing(), ifname: nothing(), plugin: nothing() };
        let call = Call { command: Command::Add, key, netns: PathBuf::new(), path: Vec::new(), pod: None };
        let plan = plan::plan(call, wanted, &node)?;
        let defaults = if let Primary::Delegates(delegates) = &self.config.primary { delegates.len() } else { 1 };
        Ok(plan.attachments.into_iter().skip(defaults).collect())
    }
}
