//! Request + pod + definitions -> [`Plan`]. Pure: nothing is read, nothing is touched; all validation errors of all
//! attachments leave here, before any side effect.
//!
//! What a plan says is what `attach` does and what `plexus explain` prints. It does not know how a kind is built.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use backends::Before;
use backends::chained::{self, Chained, Fit};
use serde_json::{Map, Value};

use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::cni::list::{Injection, List};
use crate::cni::request::Command;
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::config::{NativePolicy, Policy};
use crate::devices::{Allotment, need};
use crate::journal::{self, Allotted, Key, PodName};
use crate::native::{self, Around, Ipam, Native, Verdict};
use crate::phase::Executed;
use crate::select::Selection;

/// More links in one pod than any node can use; a request beyond it is an attack or a mistake.
pub const ATTACHMENTS_MAX: usize = 256;

/// Everything a request is about to do, decided.
#[derive(Debug)]
pub struct Plan {
    /// Which request.
    pub key: Key,
    /// CNI_NETNS.
    pub netns: PathBuf,
    /// Where delegates are searched.
    pub path: Vec<PathBuf>,
    /// The pod, where the runtime named one.
    pub pod: Option<PodName>,
    /// The device group of the pod's native links, where there are several.
    pub group: Option<u32>,
    /// Where indexes and journal are.
    pub state_dir: PathBuf,
    /// In the order of ADD; the default network first.
    pub attachments: Vec<Attachment>,
    /// Names taken in the pod are found before anything is done; a directly executed plugin says it in its own words.
    pub checks_names: bool,
    /// What a person should know although nothing fails.
    pub warnings: Vec<String>,
}

/// One interface in the pod.
#[derive(Debug)]
pub struct Attachment {
    /// `namespace/name` of the definition, or the configuration's name.
    pub network: String,
    /// The configuration's `name`.
    pub cni_name: String,
    /// The version its plugins speak.
    pub version: Version,
    /// The interface in the pod.
    pub ifname: String,
    /// Its result goes to the runtime.
    pub default: bool,
    /// CNI_ARGS for its plugins.
    pub args: String,
    /// The list's `disableCheck`: CHECK of it does nothing.
    pub disable_check: bool,
    /// `default-route` of the annotation.
    pub default_route: Option<Vec<IpAddr>>,
    /// The device it was given.
    pub device: Option<Allotted>,
    /// The chain.
    pub steps: Vec<Step>,
    /// What plugins before this chain found.
    pub previous: Option<CniResult>,
}

/// One plugin of the chain.
#[derive(Debug)]
pub struct Step {
    /// Its type.
    pub plugin: String,
    /// Its configuration, complete but for `prevResult`.
    pub conf: Map<String, Value>,
    /// Who does it.
    pub how: How,
}

/// Who does a step.
#[derive(Debug)]
pub enum How {
    /// plexus, in process.
    Native(Box<Native>),
    /// plexus changes what steps before it attached.
    Chained(Box<chained::Spec>),
    /// The binary of that name, and why.
    Executed(String),
}

/// One attachment as it was asked for, before anything is decided.
#[derive(Debug)]
pub struct Wanted {
    /// `namespace/name` of the definition, or the configuration's name.
    pub network: String,
    /// The network's configuration.
    pub list: List,
    /// The interface in the pod.
    pub ifname: String,
    /// Its result goes to the runtime.
    pub default: bool,
    /// The device it got.
    pub allotment: Allotment,
    /// What the annotation says of it.
    pub selection: Option<Selection>,
    /// CNI_ARGS for its plugins.
    pub args: String,
    /// runtimeConfig, from the runtime for the default network, from the annotation for others.
    pub runtime: Map<String, Value>,
    /// `prevResult` of a directly executed plugin.
    pub previous: Option<CniResult>,
    /// The configuration goes to its one plugin as it is: it was executed directly.
    pub direct: bool,
}

/// What a plan needs to know of the node.
pub struct Node<'a> {
    /// What is built in process, and what may be executed.
    pub policy: &'a Policy,
    /// Where indexes and journal are.
    pub state_dir: &'a Path,
    /// Where the binary of a type is; never plexus itself.
    pub find: &'a dyn Fn(&str) -> Result<PathBuf, CniError>,
    /// Whether the node lets plexus do what a chained plugin would.
    pub fit: &'a dyn Fn(&chained::Spec) -> Result<Fit, CniError>,
}

/// The request a plan is made for.
#[derive(Clone, Debug)]
pub struct Call {
    /// What it is made for.
    pub command: Command,
    /// Which request.
    pub key: Key,
    /// CNI_NETNS.
    pub netns: PathBuf,
    /// Where delegates are searched.
    pub path: Vec<PathBuf>,
    /// The pod.
    pub pod: Option<PodName>,
}

/// Decides everything.
///
/// # Errors
/// Every refusal of every attachment, in one error.
pub fn plan(call: Call, wanted: Vec<Wanted>, node: &Node) -> Result<Plan, CniError> {
    if wanted.len() > ATTACHMENTS_MAX {
        let msg = format!("{} networks were asked for, more than the {ATTACHMENTS_MAX} of one pod", wanted.len());
        return Err(CniError::new(Code::InvalidConfig, msg));
    }
    check_distinct(&wanted)?;
    let several = wanted.len() > 1;
    let checks_names = !wanted.iter().any(|want| want.direct);
    let mut warnings = Vec::new();
    let mut refusals: Vec<(String, CniError)> = Vec::new();
    let mut attachments = Vec::with_capacity(wanted.len());
    for want in wanted {
        let network = want.network.clone();
        match attachment(want, call.command, node, &mut warnings) {
            Ok(attachment) => attachments.push(attachment),
            Err(refusal) => refusals.push((network, refusal)),
        }
    }
    if let Some(refusal) = join(refusals, several) {
        return Err(refusal);
    }
    check_names(&attachments)?;
    let links = attachments.iter().flat_map(|a| &a.steps).filter(|step| step.makes_link()).count();
    let group = (links > 1).then(|| journal::group_of(&call.key));
    let Call { key, netns, path, pod, .. } = call;
    Ok(Plan { key, netns, path, pod, group, state_dir: node.state_dir.to_owned(), attachments, checks_names, warnings })
}

impl Step {
    /// Whether it changes nothing at all.
    fn is_idle(&self) -> bool {
        matches!(&self.how, How::Chained(spec) if spec.is_idle())
    }

    fn makes_link(&self) -> bool {
        matches!(&self.how, How::Native(native) if native.kind != backends::Kind::Loopback)
    }
}

/// All refusals in one line, each with its network where there are several networks.
fn join(refusals: Vec<(String, CniError)>, named: bool) -> Option<CniError> {
    let code = refusals.first()?.1.code;
    let details = refusals.first().map(|(_, first)| first.details.clone()).unwrap_or_default();
    let one = |(network, refusal): &(String, CniError)| {
        if named { format!("network {network:?}: {}", refusal.msg) } else { refusal.msg.clone() }
    };
    let msg = refusals.iter().map(one).collect::<Vec<_>>().join("; ");
    Some(CniError::new(code, msg).with_details(details))
}

/// No two attachments may want one interface name (network CRD standard 4.1.2.1.5).
fn check_names(attachments: &[Attachment]) -> Result<(), CniError> {
    for (i, a) in attachments.iter().enumerate() {
        if a.ifname == "lo" && a.steps.iter().any(Step::makes_link) {
            let msg = format!("interface \"lo\" is wanted by network {:?}, but every pod has one", a.network);
            return Err(CniError::new(Code::InvalidConfig, msg));
        }
        if let Some(b) = attachments.iter().skip(i + 1).find(|b| b.ifname == a.ifname) {
            let msg = format!("interface {:?} is wanted by networks {:?} and {:?}", a.ifname, a.network, b.network);
            return Err(CniError::new(Code::InvalidConfig, msg));
        }
    }
    Ok(())
}

fn attachment(want: Wanted, command: Command, node: &Node, warnings: &mut Vec<String>) -> Result<Attachment, CniError> {
    let Wanted { network, list, ifname, default, allotment, selection, args, runtime, previous, direct } = want;
    // What has the interface in the pod already is its own result (CHECK), and not that of a plugin before.
    let is_own = |result: &&CniResult| result.interfaces.iter().any(|i| i.name == ifname && !i.sandbox.is_empty());
    let before = previous.as_ref().filter(|result| !is_own(result));
    let names: Option<Vec<String>> = before.map(CniResult::interface_names);
    let before = names.as_deref().map_or(Before::Nothing, Before::Result);
    let plugins = list.plugins.iter().map(|plugin| (plugin.plugin_type.as_str(), &plugin.object));
    warnings.extend(need::check(&allotment, &network, plugins)?);
    let mut steps = Vec::with_capacity(list.plugins.len());
    for (index, plugin) in list.plugins.iter().enumerate() {
        let conf = if direct {
            plugin.object.clone()
        } else {
            list.inject(plugin, &Injection { runtime_config: Some(&runtime), ..Injection::default() }).object
        };
        let around = Around {
            network: &list.name,
            version: list.cni_version,
            args: &args,
            ifname: &ifname,
            state_dir: node.state_dir,
            before: if index > 0 { Before::Awaited } else { before },
        };
        let how = decide(&plugin.plugin_type, &conf, &around, node, warnings)?;
        if let How::Chained(spec) = &how
            && index == 0
            && previous.is_none()
            && spec.chained().needs_previous()
        {
            return Err(native::unchained(spec.chained(), command));
        }
        steps.push(Step { plugin: plugin.plugin_type.clone(), conf, how });
    }
    if let Allotment::Named(device) = &allotment
        && !has_capability(&steps, "deviceID")
    {
        let msg = format!("device {} was requested, but no plugin has the capability \"deviceID\"", device.id);
        return Err(CniError::new(Code::InvalidConfig, msg));
    }
    // What the node's own configuration names is its administrator's.
    if let Some(selection) = &selection {
        steps.iter().try_for_each(|step| check_allowed(step, node.policy))?;
        check_honoured(selection, &steps, &network, node.policy, warnings)?;
    }
    Ok(Attachment {
        network,
        cni_name: list.name,
        version: list.cni_version,
        ifname,
        default,
        args,
        disable_check: list.disable_check,
        device: allotment.device().cloned().or_else(|| named_by_itself(&steps)),
        default_route: selection.and_then(|selection| selection.default_route),
        steps,
        previous,
    })
}

/// The virtual function that a configuration names where nobody allotted one: it is claimed like those.
fn named_by_itself(steps: &[Step]) -> Option<Allotted> {
    steps.iter().find_map(|step| match &step.how {
        How::Native(native) => match &native.spec {
            backends::Spec::Sriov(spec) => Some(Allotted { resource: String::new(), id: spec.device()?.to_owned() }),
            _ => None,
        },
        How::Chained(_) | How::Executed(_) => None,
    })
}

/// IPAM plugins that only hand out addresses: who may execute a plugin may give its pods addresses.
const PLAIN_IPAM: [&str; 3] = ["host-local", "static", ""];

/// A definition must not make the node execute what its policy does not list.
fn check_allowed(step: &Step, policy: &Policy) -> Result<(), CniError> {
    let executed: Vec<(&str, &str)> = match &step.how {
        How::Executed(reason) => {
            // What plexus would build for whoever names it is nobody's secret way to anything.
            let is_built = |plugin: &str| native::builds(plugin) && policy.native.allows(plugin);
            let others = within(&step.conf).into_iter().filter(|plugin| !is_built(plugin)).map(|plugin| (plugin, ""));
            [(step.plugin.as_str(), reason.as_str())].into_iter().chain(others).collect()
        }
        How::Native(native) => match &native.ipam {
            Ipam::Executed(ipam) => vec![(ipam, "")],
            _ => Vec::new(),
        },
        How::Chained(_) => Vec::new(),
    };
    let refused = executed.into_iter().find(|(plugin, _)| !policy.allows_execution(plugin));
    let Some((plugin, reason)) = refused else { return Ok(()) };
    let reason = if reason.is_empty() { String::new() } else { format!(" (it would be: {reason})") };
    let msg = format!("plugin {plugin:?} may not be executed on this node{reason}: allowedDelegates does not list it");
    Err(CniError::new(Code::InvalidConfig, msg))
}

/// What an executed plugin executes, by its configuration, in whatever case Go reads the keys: the IPAM plugin, and whatever it
/// delegates to (flannel: `delegate`; meta-plugins: `delegates`, `plugins`), and these in their turn.
fn within(conf: &Map<String, Value>) -> Vec<&str> {
    let (mut open, mut found) = (vec![conf], Vec::new());
    let plugin = |conf| gojson::field(conf, "type").and_then(Value::as_str);
    while let Some(conf) = open.pop() {
        let ipam = gojson::field(conf, "ipam").and_then(Value::as_object).and_then(plugin);
        found.extend(ipam.filter(|ipam| !PLAIN_IPAM.contains(ipam)));
        for below in ["delegate", "delegates", "plugins"].iter().filter_map(|key| gojson::field(conf, key)) {
            let all = below.as_array().map_or(std::slice::from_ref(below), Vec::as_slice);
            let next = open.len();
            open.extend(all.iter().filter_map(Value::as_object));
            found.extend(open.iter().skip(next).filter_map(|conf| plugin(conf)));
        }
    }
    found
}

fn decide(
    plugin: &str,
    conf: &Map<String, Value>,
    around: &Around,
    node: &Node,
    warnings: &mut Vec<String>,
) -> Result<How, CniError> {
    let executed = |reason: String| (node.find)(plugin).map(|_| How::Executed(reason));
    // What does nothing is in nobody's directory of plugins but Multus'.
    if !node.policy.native.allows(plugin) && plugin != Chained::Passthru.name() {
        return executed("the node's configuration says so".to_owned());
    }
    let mut verdict = native::read(plugin, conf, around)?;
    if let Verdict::Chained(spec, _) = &verdict
        && let Fit::ElsewhereBecause(reason) = (node.fit)(spec)?
    {
        verdict = Verdict::Executed(reason);
    }
    // A plugin that is nowhere must not be in a record: DEL could never undo it.
    if let Verdict::Native(native, _) = &verdict
        && let Ipam::Executed(ipam) = &native.ipam
    {
        (node.find)(ipam).map_err(|refusal| native::ipam_refusal(native.kind, refusal))?;
    }
    match verdict {
        Verdict::Executed(reason) if !native::builds(plugin) => executed(reason),
        Verdict::Executed(reason) => executed(reason.clone())
            .inspect(|_| {
                warnings.push(format!("network {:?}: {plugin} is executed: {reason}", around.network));
            })
            .map_err(|refusal| {
                let msg = format!("{plugin}: {reason}, and there is no other plugin of that name: {}", refusal.msg);
                CniError::new(Code::UnsupportedField, msg)
            }),
        Verdict::Native(native, unknown) => Ok(known(plugin, How::Native(native), &unknown, around, node, warnings)),
        Verdict::Chained(spec, unknown) => Ok(known(plugin, How::Chained(spec), &unknown, around, node, warnings)),
    }
}

/// Who does a step whose configuration has keys that plexus does not know: its plugin, where there is one.
fn known(plugin: &str, how: How, unknown: &[String], around: &Around, node: &Node, warnings: &mut Vec<String>) -> How {
    if unknown.is_empty() || node.policy.native == NativePolicy::Always {
        return how;
    }
    let keys = unknown.join(", ");
    if (node.find)(plugin).is_ok() {
        return How::Executed(format!("plexus does not know its key {keys}"));
    }
    warnings.push(format!("network {:?}: {plugin}: unknown key {keys} is ignored", around.network));
    how
}

/// Whether a plugin declares the capability, and does something with it.
fn has_capability(steps: &[Step], capability: &str) -> bool {
    let declares = |step: &Step| {
        step.conf.get("capabilities").and_then(|all| all.get(capability)).and_then(Value::as_bool) == Some(true)
    };
    let means_it = |step: &Step| match (&step.how, capability) {
        (How::Executed(_), _) => true,
        (How::Native(native), "deviceID") => native.kind.is_moved(),
        (How::Native(native), "mac") => native.kind.rules().mac != backends::MacRule::Never,
        (How::Native(native), "ips") => !matches!(native.ipam, Ipam::None | Ipam::Previous),
        (How::Native(_), _) => false,
        (How::Chained(spec), "portMappings") => spec.chained() == Chained::Portmap,
        (How::Chained(spec), "bandwidth") => spec.chained() == Chained::Bandwidth,
        (How::Chained(spec), "mac") => spec.chained() == Chained::Tuning,
        (How::Chained(_), _) => false,
    };
    steps.iter().any(|step| declares(step) && means_it(step))
}

/// A request that nothing in the chain can honour is an error (network CRD standard 4.1.2.1). What native kinds take from
/// CNI_ARGS without a declared capability still works, and what an executed plugin makes of CNI_ARGS nobody can know: both are said.
fn check_honoured(
    selection: &Selection,
    steps: &[Step],
    network: &str,
    policy: &Policy,
    warnings: &mut Vec<String>,
) -> Result<(), CniError> {
    let natives =
        || steps.iter().filter_map(|step| if let How::Native(native) = &step.how { Some(native) } else { None });
    let executes = steps.iter().any(|step| matches!(step.how, How::Executed(_)))
        || natives().any(|native| matches!(native.ipam, Ipam::Executed(_)));
    let mut check = |asked: bool, what: &str, by_args: bool| {
        if !asked || has_capability(steps, what) {
            return Ok(());
        }
        if by_args && !policy.strict_capabilities {
            let better = format!("Better write \"capabilities\": {{\"{what}\": true}} into the definition");
            let lack = format!("no plugin declares the capability {what}; it is passed in CNI_ARGS");
            warnings.push(format!("network {network:?}: {lack}. {better}"));
            return Ok(());
        }
        let msg =
            format!("{what} was requested of network {network:?}, but no plugin of it has the capability {what:?}");
        Err(CniError::new(Code::InvalidConfig, msg))
    };
    let takes_ips = natives().any(|n| match n.ipam {
        Ipam::Static(_) => true,
        Ipam::HostLocal(_) => selection.ips.len() == 1, // host-local reads one address from CNI_ARGS
        _ => false,
    });
    check(!selection.ips.is_empty(), "ips", takes_ips || executes)?;
    let tunes = |step: &Step| matches!(&step.how, How::Chained(spec) if spec.chained() == Chained::Tuning);
    let takes_mac = natives().any(|n| n.kind.rules().mac != backends::MacRule::Never) || steps.iter().any(tunes);
    check(selection.mac.is_some(), "mac", takes_mac || executes)?;
    check(!selection.port_mappings.is_empty(), "portMappings", false)?;
    check(selection.bandwidth.is_some(), "bandwidth", false)?;
    check(selection.infiniband_guid.is_some(), "infinibandGUID", false)?;
    // No capability: whoever keeps claims reads the pod's annotation itself.
    if let Some(claim) = selection.ipam_claim.as_ref().filter(|_| !executes) {
        let msg = format!("ipam-claim-reference {claim:?} was requested of network {network:?}, which keeps no claims");
        return Err(CniError::new(Code::InvalidConfig, msg));
    }
    Ok(())
}

/// What two attachments of one pod cannot both have: an address of one network, a MAC on one parent.
fn check_distinct(wanted: &[Wanted]) -> Result<(), CniError> {
    let mut taken = BTreeSet::new();
    for want in wanted {
        let Some(selection) = &want.selection else { continue };
        let object = want.list.plugins.first().map(|plugin| &plugin.object);
        let parent = object.and_then(|object| object.get("master")).map(Value::to_string).unwrap_or_default();
        let ips = selection.ips.iter().map(|ip| ("address", &want.list.name, ip.split('/').next().unwrap_or_default()));
        let macs = selection.mac.iter().filter(|_| !parent.is_empty()).map(|mac| ("MAC", &parent, mac.as_str()));
        for claim in ips.chain(macs) {
            let (what, whose, value) = claim;
            if !taken.insert((what, whose.clone(), value.to_lowercase())) {
                let network = &want.network;
                let msg = format!("network {network:?}: {what} {value} is asked for twice on {whose}");
                return Err(CniError::new(Code::InvalidConfig, msg));
            }
        }
    }
    Ok(())
}

impl Plan {
    /// Nothing at all is to be done: the result is the one that came.
    pub fn is_idle(&self) -> bool {
        self.attachments.iter().flat_map(|attachment| &attachment.steps).all(Step::is_idle)
    }

    /// Nothing of it outlives the pod's namespace, and nothing in there is made: `lo` is set up, and that is all.
    pub fn ends_with_its_namespace(&self) -> bool {
        self.attachments.iter().flat_map(|attachment| &attachment.steps).all(|step| match &step.how {
            How::Native(native) => native.kind == backends::Kind::Loopback,
            How::Chained(spec) => spec.is_idle(),
            How::Executed(_) => false,
        })
    }

    /// Why another program works for it, where one does: a plugin, or `ip`, which alone makes a tap (an ioctl, netdevice(7)). The
    /// first reason is told.
    pub fn executed(&self) -> Option<Executed> {
        self.attachments.iter().flat_map(|attachment| &attachment.steps).find_map(|step| match &step.how {
            How::Native(native) if matches!(native.ipam, Ipam::Executed(_)) => Some(Executed::Ipam),
            How::Native(native) if native.kind == backends::Kind::Tap => Some(Executed::Program),
            How::Native(_) | How::Chained(_) => None,
            How::Executed(_) if native::builds(&step.plugin) => Some(Executed::Configuration),
            How::Executed(_) => Some(Executed::Type),
        })
    }

    /// What goes to disk before anything is done.
    pub fn intent(
        &self,
        boot_id: String,
        (netns_id, netns_cookie): ((u64, u64), u64),
        (host_id, pid_ns): ((u64, u64), u64),
    ) -> journal::Intent {
        journal::Intent {
            key: self.key.clone(),
            boot_id,
            trace: None,
            netns: self.netns.display().to_string(),
            netns_id,
            netns_cookie,
            pid_ns,
            host_id,
            path: self.path.clone(),
            pod: self.pod.clone(),
            group: self.group,
            attachments: self.attachments.iter().map(Attachment::record).collect(),
        }
    }
}

impl Attachment {
    /// It only changes what others attached: the pod has no interface by it.
    pub fn has_no_interface(&self) -> bool {
        let passes = |step: &Step| matches!(&step.how, How::Chained(spec) if spec.chained() == Chained::Passthru);
        self.steps.first().is_some_and(passes) && !self.steps.iter().any(Step::makes_link)
    }

    /// What a virtual function must be that is still to be chosen for it, of the card that its configuration names.
    pub fn choice(&self) -> Option<&backends::sriov::Spec> {
        self.steps.iter().find_map(|step| {
            let How::Native(native) = &step.how else { return None };
            let backends::Spec::Sriov(spec) = &native.spec else { return None };
            Some(spec.as_ref()).filter(|spec| spec.device().is_none())
        })
    }

    /// Gives it the virtual function that was chosen, as if its configuration had named that.
    pub fn choose(&mut self, device: &str) {
        for step in &mut self.steps {
            let How::Native(native) = &mut step.how else { continue };
            if let backends::Spec::Sriov(spec) = &mut native.spec {
                spec.choose(device);
                step.conf.insert("deviceID".to_owned(), device.into());
            }
        }
        self.device = Some(Allotted { resource: String::new(), id: device.to_owned() });
    }

    fn record(&self) -> journal::Attachment {
        journal::Attachment {
            network: self.network.clone(),
            cni_name: self.cni_name.clone(),
            cni_version: self.version.to_string(),
            ifname: self.ifname.clone(),
            args: self.args.clone(),
            default: self.default,
            disable_check: self.disable_check,
            default_route: self.default_route.clone().unwrap_or_default(),
            device: self.device.clone(),
            steps: self.steps.iter().map(|step| self.record_step(step)).collect(),
        }
    }

    /// A step, as the journal has it.
    pub fn record_step(&self, step: &Step) -> journal::Step {
        let mut conf = step.conf.clone();
        conf.remove("prevResult");
        let native = match &step.how {
            How::Native(native) => Some(native),
            How::Chained(_) | How::Executed(_) => None,
        };
        let in_process = !matches!(step.how, How::Executed(_));
        let pool = native.and_then(|native| match &native.ipam {
            Ipam::HostLocal(pool) => Some(journal::Pool {
                data_dir: pool.directory().parent().unwrap_or(Path::new("/")).to_owned(),
                network: self.cni_name.clone(),
            }),
            _ => None,
        });
        let ipam_delegate = native.and_then(|native| match &native.ipam {
            Ipam::Executed(plugin) => Some(plugin.clone()),
            _ => None,
        });
        journal::Step {
            plugin: step.plugin.clone(),
            native: in_process,
            conf,
            pool,
            device: None,
            function: None,
            ipam_delegate,
        }
    }
}
