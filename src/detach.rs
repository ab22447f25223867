//! DEL and GC: from a record, never from definitions or pods; and from a bare configuration where there is no record.
//!
//! Every step is tried, whatever the others say; the record stays until every step is known done.
//! Links leave before their leases do: an address that is free again must not still answer.

mod early;

use std::io;
use std::path::{Path, PathBuf};

use backends::chained::{Chained, Original};
use backends::nft;
use backends::{Before, Deleter, Deletion, Doomed, ErrorKind, Kind, NetNs, Pod};
use ipam::{Owner, host_local};
use serde_json::{Map, Value};

use crate::chain::{Caller, DELEGATE_DEADLINE};
use crate::chained;
use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::cni::list::{Injection, List, PluginConf};
use crate::cni::request::{Command, Request};
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::deleter::{Child, Deletes};
use crate::devices::claim::Ledger;
use crate::devices::description;
use crate::homecoming::{self, Away, Holder};
use crate::journal::{self, Attachment, Intent, Pool, Progress, Record, Step};
use crate::log::warn;
use crate::native::{self, Around};
use crate::rules;
use early::Early;

/// Everything that must go.
#[derive(Debug)]
pub struct Departure<'a> {
    /// The container id.
    pub sandbox: &'a str,
    /// The pod's namespace as delegates are told of it; none where it is gone or nobody knows.
    pub netns: Option<PathBuf>,
    /// Where the links are; none where they have gone with their namespace.
    pub inside: Option<NetNs>,
    /// Where delegates are searched.
    pub path: &'a [PathBuf],
    /// The device group of the native links, where there are several.
    pub group: Option<u32>,
    /// In the order of ADD.
    pub attachments: &'a [Attachment],
    /// Their results, same order, where ADD had come that far.
    pub results: Vec<Option<CniResult>>,
    /// What their chained steps had found.
    pub progress: &'a [Progress],
    /// The indices of their links, same order; 0 where nobody knows.
    pub indices: Vec<u32>,
    /// The number of the namespace that was attached; 0 where nobody knows.
    pub cookie: u64,
    /// It may be the namespace of the caller: ADD was told so, or this call is (CNI_NETNS_OVERRIDE).
    pub may_be_own: bool,
    /// It is from a record: what that does not say was never done.
    pub recorded: bool,
    /// It is of the boot that runs.
    pub of_this_boot: bool,
    /// Whose claims its devices have: the record's file; none where there is none.
    pub record: Option<String>,
    /// Where indexes are.
    pub state_dir: &'a Path,
    /// Who waits for the kernel.
    pub deletes: &'a dyn Deletes,
}

/// The namespace that a DEL names.
#[derive(Debug)]
pub struct Told<'a> {
    /// CNI_NETNS.
    pub path: &'a Path,
    /// It, where it is still there.
    pub netns: Option<NetNs>,
}

impl<'a> Departure<'a> {
    /// Of a call for which there is no record: what there can be, and nothing that ADD found.
    pub fn unrecorded(
        request: &'a Request,
        state_dir: &'a Path,
        attachments: &'a [Attachment],
        inside: Option<NetNs>,
    ) -> Departure<'a> {
        Departure {
            sandbox: &request.container_id,
            netns: request.netns.clone(),
            inside,
            path: &request.path,
            group: None,
            attachments,
            results: vec![None; attachments.len()],
            indices: vec![0; attachments.len()],
            progress: &[],
            cookie: 0,
            may_be_own: request.netns_override,
            state_dir,
            recorded: false,
            of_this_boot: true,
            record: None,
            deletes: &Child,
        }
    }
}

/// The departure that a record describes. `told`: by the DEL.
///
/// # Errors
/// A namespace that is there and cannot be opened.
pub fn of_record<'a>(record: &'a Record, told: Option<Told>, state_dir: &'a Path) -> Result<Departure<'a>, CniError> {
    let intent = &record.intent;
    let outcome = |index: usize| record.commitment.as_ref()?.outcomes.get(index);
    let parsed = |index: usize| {
        let result = CniResult::parse(&outcome(index)?.result, Version::V1_1_0);
        result.ok().map(|(result, _)| result)
    };
    // Where the runtime names one, it is looked at closely once it is entered: that is done anyway.
    let (path, inside) = match told {
        Some(told) => (Some(told.path.to_owned()), candidate(intent, told.netns)?),
        None => (None, namespace_of(intent, None)?),
    };
    let found = inside.as_ref().map(|netns| netns.path().to_owned());
    let all = 0..intent.attachments.len();
    Ok(Departure {
        sandbox: &intent.key.sandbox,
        netns: path.or(found),
        inside,
        path: &intent.path,
        group: intent.group,
        attachments: &intent.attachments,
        results: all.clone().map(parsed).collect(),
        indices: all
            .map(|index| outcome(index).and_then(|outcome| outcome.made).map_or(0, |made| made.ifindex))
            .collect(),
        progress: &record.progress,
        cookie: intent.netns_cookie,
        may_be_own: intent.host_id != UNKNOWN && intent.netns_id == intent.host_id,
        recorded: true,
        of_this_boot: is_of_this_boot(intent)?,
        record: Some(journal::file_name(&intent.key)),
        state_dir,
        deletes: &Child,
    })
}

/// The namespace that was attached, where a path still leads to it: the one of this DEL, or the one of the ADD. What else is
/// at a path by now is another pod's, and nothing of an older boot is anywhere.
///
/// # Errors
/// A namespace that is there and cannot be opened; without the boot's id nobody knows whether it is of an older one.
pub fn namespace_of(intent: &Intent, told: Option<&Path>) -> Result<Option<NetNs>, CniError> {
    let told = told.map(open).transpose()?.flatten();
    let Some(found) = candidate(intent, told)? else { return Ok(None) };
    Ok(is_attached(&found, intent)?.then_some(found))
}

/// Whether an open namespace is the one that was attached, whatever else had its inode since.
///
/// # Errors
/// It cannot be entered.
pub fn is_attached(netns: &NetNs, intent: &Intent) -> Result<bool, CniError> {
    if intent.netns_id == UNKNOWN || intent.netns_cookie == 0 {
        return Ok(intent.netns_id == UNKNOWN || netns.id() == intent.netns_id);
    }
    let cookie = || backends::cookie_of(netns).map_err(native::from_backend);
    Ok(netns.id() == intent.netns_id && is_number(cookie()?, intent.netns_cookie))
}

/// A kernel that numbers no namespaces says nothing against it.
fn is_number(found: u64, noted: u64) -> bool {
    found == 0 || noted == 0 || found == noted
}

/// What DEL or ADD named, by device and inode: usually the namespace that was attached, or one that came after it was gone.
fn candidate(intent: &Intent, told: Option<NetNs>) -> Result<Option<NetNs>, CniError> {
    if !is_of_this_boot(intent)? {
        return Ok(None);
    }
    let is_its = |netns: &NetNs| intent.netns_id == UNKNOWN || netns.id() == intent.netns_id;
    match told.filter(is_its) {
        Some(found) => Ok(Some(found)),
        None => Ok(open(Path::new(&intent.netns))?.filter(is_its)),
    }
}

/// Whether a plugin was to be executed for a record.
pub fn executes(intent: &Intent) -> bool {
    let mut steps = intent.attachments.iter().flat_map(|attachment| &attachment.steps);
    steps.any(|step| !step.native || step.ipam_delegate.is_some())
}

/// Whether a record is of the boot that runs.
///
/// # Errors
/// The boot's id cannot be read.
pub fn is_of_this_boot(intent: &Intent) -> Result<bool, CniError> {
    let boot_id = journal::boot_id().map_err(|e| CniError::new(Code::Io, native::chain(&e)))?;
    Ok(intent.boot_id == boot_id)
}

/// A record that does not say which namespace it was.
pub const UNKNOWN: (u64, u64) = (0, 0);

/// Opens a namespace; none where the path is gone or leads to something else: a bind mount that was taken away leaves a plain
/// file, and DEL must not fail for ever (CNI spec, DEL).
///
/// # Errors
/// What else the system says.
pub fn open(path: &Path) -> Result<Option<NetNs>, CniError> {
    opened(NetNs::open(path))
}

/// The same of one that was tried to open.
///
/// # Errors
/// What else the system says.
pub fn opened(tried: Result<NetNs, backends::Error>) -> Result<Option<NetNs>, CniError> {
    match tried {
        Ok(netns) => Ok(Some(netns)),
        Err(e) if matches!(e.kind(), ErrorKind::NetnsMissing | ErrorKind::NotNetns) => Ok(None),
        Err(e) => Err(native::from_backend(e)),
    }
}

/// host-local's directory where its configuration names none.
pub const DATA_DIR: &str = "/var/lib/cni/networks";

/// What a configuration of a directly executed kind can have attached: for a DEL without a record, because the reference
/// plugin did the ADD or the record is lost. It asks less of the configuration than ADD did.
pub fn attachment_of(plugin: &str, request: &Request) -> Attachment {
    Attachment {
        network: request.network.clone(),
        cni_name: request.network.clone(),
        cni_version: request.version.to_string(),
        ifname: if plugin == Kind::Loopback.name() { "lo".to_owned() } else { request.ifname.clone() },
        args: request.args.clone(),
        default: true,
        disable_check: false,
        default_route: Vec::new(),
        device: None,
        steps: vec![step_of(plugin, &request.config, &request.network)],
    }
}

/// The same for a list of the meta-plugin.
pub fn attachment_of_list(list: &List, ifname: &str, args: &str, runtime: &Map<String, Value>) -> Attachment {
    let step = |plugin: &PluginConf| {
        let injection = Injection { runtime_config: Some(runtime), ..Injection::default() };
        let conf = list.inject(plugin, &injection).object;
        step_of(&plugin.plugin_type, &conf, &list.name)
    };
    Attachment {
        network: list.name.clone(),
        cni_name: list.name.clone(),
        cni_version: list.cni_version.to_string(),
        ifname: ifname.to_owned(),
        args: args.to_owned(),
        default: true,
        disable_check: list.disable_check,
        default_route: Vec::new(),
        device: None,
        steps: list.plugins.iter().map(step).collect(),
    }
}

fn step_of(plugin: &str, conf: &Map<String, Value>, network: &str) -> Step {
    let ipam = gojson::field(conf, "ipam").and_then(Value::as_object);
    let data_dir = ipam.and_then(|ipam| gojson::field(ipam, "dataDir")).and_then(Value::as_str);
    let data_dir = PathBuf::from(data_dir.filter(|dir| !dir.is_empty()).unwrap_or(DATA_DIR));
    let pool = Pool { data_dir, network: network.to_owned() };
    let (pool, ipam_delegate) = match native::ipam_type(conf) {
        "host-local" => (Some(pool), None),
        "" | "static" => (None, None),
        other => (None, Some(other.to_owned())),
    };
    let native = native::builds(plugin);
    Step { plugin: plugin.to_owned(), native, conf: conf.clone(), pool, device: None, function: None, ipam_delegate }
}

/// Whether the pod's link of an attachment's name has an address that is leased to that attachment: then it is what was
/// attached, and nobody else's. Without a record nothing else says so. A namespace that cannot be entered has none.
pub fn is_leased(pod: &mut Pod, attachment: &Attachment, sandbox: &str, state_dir: &Path) -> bool {
    let Ok(Some(addresses)) = backends::addresses(pod, &attachment.ifname) else { return false };
    attachment.steps.iter().filter_map(|step| step.pool.as_ref()).any(|pool| {
        let held = host_local::held(&pool.data_dir, &pool.network, state_dir).unwrap_or_default();
        let is_own = |held: &host_local::Held| held.sandbox == sandbox && held.ifname == attachment.ifname;
        held.iter().any(|held| is_own(held) && addresses.contains(&held.address))
    })
}

/// Removes all of it.
///
/// # Errors
/// Everything that could not be removed, in one error; what is already gone is none.
pub fn detach(mut departure: Departure) -> Result<(), CniError> {
    let inside = departure.inside.take();
    let mut failures: Vec<CniError> = Vec::new();
    let mut keep = |outcome: Result<(), CniError>| failures.extend(outcome.err());
    // Opened first: closing it takes the kernel as long as the links' removal, for which a child waits anyway.
    let mut filter = departure.filter().unwrap_or_else(|failure| {
        keep(Err(failure));
        nft::Filter::default()
    });
    let mut pod = departure.enter(inside);
    for (index, (attachment, result)) in departure.attachments.iter().zip(&departure.results).enumerate().rev() {
        for (number, step) in attachment.steps.iter().enumerate().rev() {
            let (pod, result) = (pod.as_mut().ok().and_then(Option::as_mut), result.as_ref());
            match Chained::of(&step.plugin) {
                _ if !step.native => keep(departure.execute(attachment, &step.plugin, step, result)),
                Some(chained) => {
                    let mut all = departure.progress.iter().rev();
                    let original = all.find(|noted| (noted.attachment, noted.step) == (index, number));
                    let original = original.map(|noted| &noted.original);
                    keep(departure.unchain(chained, attachment, step, result, original, &mut filter, pod));
                }
                None => {}
            }
        }
    }
    let mut early = Early::new(&departure);
    let removed = pod.and_then(|pod| departure.empty_pod(pod, &filter, &mut |name| early.release(name)));
    let Early { released, failures: others, .. } = early;
    let is_empty = removed.is_ok();
    [removed].into_iter().chain(others.into_iter().map(Err)).for_each(&mut keep);
    if is_empty {
        keep(departure.lift(&mut filter));
        let all = departure.attachments.iter().zip(&departure.results).enumerate();
        for (_, (attachment, result)) in all.filter(|(index, _)| !released.contains(index)).rev() {
            for step in attachment.steps.iter().rev().filter(|step| step.native) {
                departure.settle(&mut filter, attachment, step);
                keep(departure.release(attachment, step, result.as_ref()));
            }
        }
    }
    for attachment in departure.attachments.iter().filter(|attachment| attachment.device.is_some()) {
        keep(remove_description(&attachment.network, departure.sandbox, &attachment.ifname));
    }
    // Who could get one before might find it still in this pod. One that is home is anybody's, whatever else failed.
    let is_whole = failures.is_empty();
    let given = departure.give_back_claims(|attachment| is_whole || (is_empty && makes(attachment, Kind::is_moved)));
    join(failures.into_iter().chain(given.err()).collect())
}

/// The device-info file of an attachment goes, whatever its plugins say.
///
/// # Errors
/// It cannot be removed.
pub fn remove_description(network: &str, sandbox: &str, ifname: &str) -> Result<(), CniError> {
    let path = description::of_attachment(network, sandbox, ifname);
    description::remove(&path).map_err(|e| CniError::new(Code::Io, format!("removing {}: {e}", path.display())))
}

/// Removes one link of the pod and waits for the kernel's answer: for an ADD that failed, which nobody measures.
///
/// # Errors
/// What the kernel says; a link that is not there is none.
pub fn remove_link_now(pod: &mut Pod, ifname: &str) -> Result<(), CniError> {
    backends::remove_now(pod, &[Doomed::Name(ifname.to_owned())]).map(|_| ()).map_err(native::from_backend)
}

/// Several failures in one line.
pub fn join(failures: Vec<CniError>) -> Result<(), CniError> {
    let mut failures = failures.into_iter();
    let Some(mut first) = failures.next() else { return Ok(()) };
    for next in failures {
        first.msg = format!("{}; {}", first.msg, next.msg);
    }
    Err(first)
}

impl Departure<'_> {
    fn give_back_claims(&self, is_home: impl Fn(&Attachment) -> bool) -> Result<(), CniError> {
        let Some(record) = &self.record else { return Ok(()) };
        let ledger = Ledger::new(self.state_dir);
        let home = self.attachments.iter().filter(|attachment| is_home(attachment));
        let devices = home.filter_map(|attachment| attachment.device.as_ref());
        let one = |device| ledger.release(device, record).map_err(|e| CniError::new(Code::Io, native::chain(&e))).err();
        join(devices.filter_map(one).collect())
    }

    fn caller<'a>(&'a self, attachment: &'a Attachment) -> Caller<'a> {
        Caller {
            sandbox: self.sandbox,
            netns: self.netns.as_deref().and_then(Path::to_str).unwrap_or_default(),
            ifname: &attachment.ifname,
            args: &attachment.args,
            path: self.path,
            version: Version::parse(&attachment.cni_version).unwrap_or(Version::CURRENT),
            deadline: DELEGATE_DEADLINE,
        }
    }

    fn execute(
        &self,
        attachment: &Attachment,
        plugin: &str,
        step: &Step,
        result: Option<&CniResult>,
    ) -> Result<(), CniError> {
        let caller = self.caller(attachment);
        let result = result.filter(|_| caller.version.del_has_prev_result());
        caller.execute(Command::Del, plugin, &step.conf, result).map(|_| ()).map_err(|mut e| {
            e.msg = format!("plugin {plugin:?} of network {:?} failed (delete): {}", attachment.network, e.msg);
            e
        })
    }

    /// What two removals at once each left for the other. It is not this pod's: DEL need not wait for it, and GC finds it too.
    fn settle(&self, filter: &mut nft::Filter, attachment: &Attachment, step: &Step) {
        if let Err(error) = chained::settle(step, &self.around(attachment), filter) {
            warn(&format!("network {:?}: {}", attachment.network, error.msg));
        }
    }

    /// The rules of all steps leave the packet filter. They are found by their owners: neither links nor addresses are needed.
    fn lift(&self, filter: &mut nft::Filter) -> Result<(), CniError> {
        let steps =
            self.attachments.iter().flat_map(|attachment| attachment.steps.iter().map(move |s| (attachment, s)));
        let native = steps.filter(|(_, step)| step.native);
        let all: Vec<_> = native.map(|(attachment, step)| (rules_of(step), self.owner(attachment))).collect();
        join(rules::remove_all(filter, &all))
    }

    /// A way to the packet filter; where no step has rules, none is opened.
    fn filter(&self) -> Result<nft::Filter, CniError> {
        let mut steps = self.attachments.iter().flat_map(|attachment| &attachment.steps);
        let is_chained = |step: &Step| Chained::of(&step.plugin).is_some_and(Chained::is_in_filter);
        let any = steps.any(|step| step.native && (!rules_of(step).is_empty() || is_chained(step)));
        if any { rules::open() } else { Ok(nft::Filter::default()) }
    }

    fn release(&self, attachment: &Attachment, step: &Step, result: Option<&CniResult>) -> Result<(), CniError> {
        if let Some(plugin) = &step.ipam_delegate {
            return self.execute(attachment, plugin, step, result);
        }
        let Some(pool) = &step.pool else { return Ok(()) };
        let owner = Owner { sandbox: self.sandbox, ifname: &attachment.ifname };
        let released = host_local::release(&pool.data_dir, &pool.network, &owner, self.state_dir);
        released.map(|_| ()).map_err(native::from_ipam)
    }

    /// A step of a chain is undone.
    #[expect(
        clippy::too_many_arguments,
        reason = "the step, what is known of it, and the two things it is removed with"
    )]
    fn unchain(
        &self,
        chained: Chained,
        attachment: &Attachment,
        step: &Step,
        result: Option<&CniResult>,
        original: Option<&Original>,
        filter: &mut nft::Filter,
        pod: Option<&mut Pod>,
    ) -> Result<(), CniError> {
        let around = self.around(attachment);
        let link_stays = !makes(attachment, makes_link);
        let owner = self.owner(attachment);
        let told = chained::remove(
            chained,
            &chained::Known { owner, step, around, result, original, link_stays },
            filter,
            pod,
        )?;
        told.into_iter().for_each(|error| warn(&format!("network {:?}: {}", attachment.network, error.msg)));
        Ok(())
    }

    fn around<'a>(&'a self, attachment: &'a Attachment) -> Around<'a> {
        Around {
            network: &attachment.cni_name,
            version: Version::parse(&attachment.cni_version).unwrap_or(Version::CURRENT),
            args: &attachment.args,
            ifname: &attachment.ifname,
            state_dir: self.state_dir,
            before: Before::Awaited,
        }
    }

    fn owner<'a>(&'a self, attachment: &'a Attachment) -> nft::Owner<'a> {
        nft::Owner { network: &attachment.cni_name, sandbox: self.sandbox, ifname: &attachment.ifname }
    }

    /// Goes into the pod, where something of ours is there to remove; none where its namespace is gone.
    fn enter(&self, inside: Option<NetNs>) -> Result<Option<Pod>, CniError> {
        let is_inside =
            |step: &Step| step.native && Chained::of(&step.plugin).is_some_and(|chained| !chained.is_in_filter());
        let any = self.attachments.iter().flat_map(|attachment| &attachment.steps).any(is_inside);
        match inside {
            Some(_) if !any && self.doomed().is_empty() && self.devices().is_empty() => Ok(None),
            Some(netns) if !self.may_be_own && netns.is_current().map_err(native::from_backend)? => {
                Err(CniError::same_netns())
            }
            Some(netns) => match Pod::enter_to_remove(netns) {
                Ok(pod) if !is_number(pod.cookie(), self.cookie) => Ok(None), // the attached one is gone
                Err(e) if e.kind() == ErrorKind::NotNetns => Ok(None),        // a namespace, but of another type
                other => other.map(Some).map_err(native::from_backend),
            },
            None => Ok(None),
        }
    }

    /// Everything of ours leaves the pod: devices of the host go back to it, links are removed.
    fn empty_pod(
        &self,
        mut pod: Option<Pod>,
        filter: &nft::Filter,
        gone: &mut dyn FnMut(&str),
    ) -> Result<(), CniError> {
        let (doomed, devices) = (self.doomed(), self.devices());
        // First: whatever removes links must find no device of the host among them.
        let holder = Holder {
            sandbox: self.sandbox,
            record: self.record.as_deref(),
            state_dir: self.state_dir,
            of_this_boot: self.of_this_boot,
        };
        let failures = homecoming::give_back(pod.as_mut(), &devices, holder);
        let removed = pod.map_or(Ok(()), |pod| self.remove_links(pod, &doomed, filter, gone));
        join(failures.into_iter().chain(removed.err()).collect())
    }

    /// Every native link of the pod, by one message where there are several.
    fn remove_links(
        &self,
        mut pod: Pod,
        doomed: &[Doomed],
        filter: &nft::Filter,
        gone: &mut dyn FnMut(&str),
    ) -> Result<(), CniError> {
        if doomed.is_empty() {
            return Ok(());
        }
        let spawn =
            |deletion: Deletion| -> io::Result<Box<dyn Deleter>> { self.deletes.start(deletion, filter.duplicate()) };
        backends::remove(&mut pod, doomed, &spawn, gone).map(|_| ()).map_err(native::from_backend)
    }

    /// The devices of the host.
    fn devices(&self) -> Vec<Away<'_>> {
        homecoming::all(self.attachments, &self.results, self.recorded)
    }

    /// By index where it is known: what has the name by now may be somebody else's.
    fn doomed(&self) -> Vec<Doomed> {
        let mut doomed: Vec<Doomed> = self.group.map(Doomed::Group).into_iter().collect();
        for (attachment, index) in self.attachments.iter().zip(&self.indices) {
            // No kind makes `lo`, whatever CNI_IFNAME says.
            let is_own = self.group.is_none() && attachment.ifname != "lo";
            if is_own && makes(attachment, makes_link) {
                let name = || Doomed::Name(attachment.ifname.clone());
                doomed.push(if *index == 0 { name() } else { Doomed::Index(*index) });
            }
            if makes(attachment, |kind| kind == Kind::Loopback) {
                doomed.push(Doomed::Name("lo".to_owned()));
            }
        }
        doomed
    }
}

fn rules_of(step: &Step) -> nft::Rules {
    Kind::of(&step.plugin).map(|kind| native::rules(kind, &step.conf)).unwrap_or_default()
}

/// Whether a kind makes a link that goes with its pod.
fn makes_link(kind: Kind) -> bool {
    kind != Kind::Loopback && !kind.is_moved()
}

fn makes(attachment: &Attachment, of: fn(Kind) -> bool) -> bool {
    attachment.steps.iter().any(|step| step.native && Kind::of(&step.plugin).is_some_and(of))
}
