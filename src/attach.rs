//! Executes a [`Plan`]: leases, links, addresses, routes, delegates; undo in reverse. There are no decisions left here.
//!
//! It does not know where the plan came from, nor how its result is printed.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use backends::chained::{Gain, Original};
use backends::{Built, Entering, Host, Kind, Layer3, Made, NetNs, Pod, Resolved, Target, nft};
use serde_json::Value;

use crate::ahead::{Ahead, Wanted};
use crate::asked;
use crate::chain::{Caller, DELEGATE_DEADLINE};
use crate::chained;
use crate::claims::{self, Chosen, Stock};
use crate::cni::args::Args;
use crate::cni::error::{CniError, Code};
use crate::cni::request::Command;
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::convert;
use crate::default_route;
use crate::homecoming;
use crate::journal::{Commitment, Intent, Journal, Outcome, Progress};
use crate::log::warn;
use crate::native::{self, Failed, Ipam, Native, from_backend};
use crate::phase::Phase;
use crate::place::{OfFiles, Place, timed};
use crate::plan::{Attachment, How, Plan, Step};
use crate::{rules, status};

mod beside;
mod undo;

use beside::Ruled;
use undo::undo;

/// Plugins that take the identifier of an InfiniBand interface by arguments.
const TAKE_GUID: [&str; 2] = ["ib-sriov", "sriov"];

/// What a request became.
#[derive(Debug)]
pub struct Attached {
    /// One for each attachment of the plan, same order.
    pub results: Vec<CniResult>,
    /// The network-status annotation.
    pub status: String,
}

/// The two ends of the kernel that a request works at.
pub struct Kernel<'a> {
    /// Where the work is done.
    place: &'a dyn Place,
    /// A socket in the caller's namespace.
    pub host: Host,
    /// The pod's namespace, and a socket inside.
    pub pod: Pod,
}

impl Kernel<'_> {
    /// Opens both.
    ///
    /// # Errors
    /// A namespace that is missing, is none, or is the caller's own (code 8, as the reference plugins' skeleton).
    pub fn open(
        netns: impl FnOnce() -> Result<NetNs, backends::Error> + Send + 'static,
        allow_own: bool,
    ) -> Result<Self, CniError> {
        Kernel::opened(Pod::enter_ahead(netns), allow_own, &OfFiles)
    }
}

impl<'a> Kernel<'a> {
    /// The same with a pod that is being entered already.
    fn opened(pod: Entering, allow_own: bool, place: &'a dyn Place) -> Result<Self, CniError> {
        let host = place.host();
        let (pod, is_own) = pod.wait().map_err(from_backend)?;
        if is_own && !allow_own {
            return Err(CniError::same_netns());
        }
        Ok(Kernel { place, host: host.map_err(from_backend)?, pod })
    }

    /// All went well.
    fn close(self) {
        self.place.take_back(self.host, self.pod);
    }
}

/// A step that has begun, for the undo.
enum Done<'a> {
    Description { attachment: &'a Attachment },
    Link { ifname: &'a str },
    Device { ifname: &'a str, resolved: Box<Resolved> },
    Rules { attachment: &'a Attachment, rules: nft::Rules },
    Leases { attachment: &'a Attachment, native: &'a Native, step: &'a Step },
    Delegate { attachment: &'a Attachment, step: &'a Step },
    Chained { attachment: &'a Attachment, step: &'a Step, result: Box<CniResult>, original: Option<Original> },
}

/// What has begun, and what is taken for what has not.
struct Begun<'a, 'r, 'n> {
    done: &'r mut Vec<Done<'a>>,
    leases: Ahead<'r, Wanted<'a>>,
    /// Where rules are added, once any is.
    filter: Option<nft::Filter>,
    /// Which attachment is at work, and which of its later steps have been done while its link was made.
    position: usize,
    early: BTreeMap<usize, Gain>,
    /// Writes down what is about to change.
    note: &'n mut dyn FnMut(&Progress) -> Result<(), CniError>,
}

impl Begun<'_, '_, '_> {
    fn note(&mut self, step: usize, original: &Original) -> Result<(), CniError> {
        (self.note)(&Progress { attachment: self.position, step, original: original.clone() })
    }
}

/// Does it all, or nothing.
///
/// # Errors
/// The first failure; where its undo failed too, both, and the record stays for DEL and GC.
pub fn attach(
    plan: &mut Plan,
    journal: &Journal,
    boot_id: String,
    pod: Entering,
    allow_own: bool,
    place: &dyn Place,
) -> Result<Attached, CniError> {
    let mut kernel = Kernel::opened(pod, allow_own, place)?;
    check_names_free(plan, &mut kernel)?;
    claims::clear(plan, journal)?;
    let chosen = claims::choose(plan, journal, &Stock::default())?;
    let plan = &*plan;
    let (resolved, chosen) = match (resolve(plan, &mut kernel), chosen) {
        (Ok(resolved), chosen) => (resolved, chosen),
        (Err(failure), Some(chosen)) => return Err(chosen.give_back(failure)),
        (Err(failure), None) => return Err(failure),
    };
    if plan.ends_with_its_namespace() {
        return unrecorded(plan, &mut kernel, resolved);
    }
    let none = || timed(place, Phase::Journal, || Chosen::none(plan, journal));
    let Chosen { mut held, mut claims } = chosen.map_or_else(none, Ok)?;
    let inside = (kernel.pod.netns().id(), kernel.pod.cookie());
    let outside = (kernel.host.netns().id(), place.pid_ns());
    let mut intent = plan.intent(boot_id, inside, outside);
    intent.trace = place.trace().map(|trace| trace.to_string());
    note_devices(&mut intent, &resolved);
    homecoming::carry(&held, &mut intent).map_err(|e| from_journal(&e))?;
    // A program that works for this one when it is killed still holds the request: DEL waits for it.
    kernel.pod.guard_with(held.share().map_err(|e| from_journal(&e))?);
    let begin = timed(place, Phase::Journal, || held.intend(&intent));
    let begin = begin.map_err(|e| CniError { code: refusal_of(&e), ..from_journal(&e) })?;
    let mut done = Vec::new();
    let mut note = |progress: &Progress| held.note(progress).map_err(|e| from_journal(&e));
    let claimed = claims.take(plan).and_then(|()| homecoming::check_unchanged(&resolved, &mut kernel.host));
    let failure = match claimed.and_then(|()| run(plan, &mut kernel, resolved, &mut done, &mut note)) {
        Ok((results, outcomes)) => {
            let status = status_of(plan, &results);
            let commitment = Commitment { outcomes, status: Some(status.clone()) };
            match timed(place, Phase::Journal, || held.commit(&commitment)) {
                Ok(()) => {
                    // Its lock is given back before the answer: who gets that may send a DEL at once.
                    drop(held);
                    kernel.close();
                    return Ok(Attached { results, status });
                }
                Err(e) => from_journal(&e),
            }
        }
        Err(failure) => failure,
    };
    // After a complete undo the journal says what it said before: an ADD that is refused because the attachment is there
    // already must not make the journal forget that attachment.
    let mut away = Vec::new();
    let (failure, rolled) = match undo(plan, &mut kernel, done, failure, &mut away) {
        Ok(failure) => (failure, held.roll_back(begin)),
        Err(failure) => (failure, Ok(())),
    };
    // The next pod gets a device that is home, whatever else DEL has to try again.
    let left = [claims.give_back(&away).err(), rolled.err().map(|e| from_journal(&e))];
    Err(left
        .into_iter()
        .flatten()
        .fold(failure, |failure, left| CniError { msg: format!("{}; {}", failure.msg, left.msg), ..failure }))
}

/// As [`attach`], where a record would say nothing that a DEL needs: a runtime that never sends one would leave it for ever.
fn unrecorded(plan: &Plan, kernel: &mut Kernel, resolved: ResolvedSteps) -> Result<Attached, CniError> {
    let mut done = Vec::new();
    match run(plan, kernel, resolved, &mut done, &mut |_| Ok(())) {
        Ok((results, _)) => Ok(Attached { status: status_of(plan, &results), results }),
        Err(failure) => Err(undo(plan, kernel, done, failure, &mut Vec::new())?),
    }
}

/// What is asked for is more than a record holds: not the disk's fault.
fn refusal_of(error: &crate::journal::Error) -> Code {
    if error.is_too_large() { Code::InvalidConfig } else { from_journal(error).code }
}

/// A failure of the journal in the protocol's words: another command at work is one to try again.
pub fn from_journal(error: &crate::journal::Error) -> CniError {
    let code = if error.is_held() { Code::TryAgainLater } else { Code::Io };
    CniError::new(code, native::chain(error))
}

/// A name that is taken in the pod is found before the default network is touched. A directly executed plugin is left to
/// say it in its own words.
fn check_names_free(plan: &Plan, kernel: &mut Kernel) -> Result<(), CniError> {
    if !plan.checks_names {
        return Ok(());
    }
    let attachments = || plan.attachments.iter().filter(|a| a.ifname != "lo");
    let names: Vec<&str> = attachments().map(|a| a.ifname.as_str()).collect();
    let taken = {
        let _lane = kernel.place.lane();
        backends::taken(&mut kernel.pod, &names).map_err(from_backend)?
    };
    let Some(Attachment { ifname, network, .. }) = attachments().find(|a| taken.contains(&a.ifname.as_str())) else {
        return Ok(());
    };
    let msg = format!("network {network:?}: interface name {ifname} already exists in the pod");
    Err(CniError::new(Code::Generic, msg))
}

type ResolvedSteps = Vec<Vec<Option<Resolved>>>;

/// Masters, MTU bounds: all of the kernel that can refuse without being changed, for all attachments.
fn resolve(plan: &Plan, kernel: &mut Kernel) -> Result<ResolvedSteps, CniError> {
    let _lane = kernel.place.lane();
    let mut one = |attachment: &Attachment, step: &Step| match &step.how {
        How::Native(native) if native.spec.awaits_result() => Ok(None),
        How::Native(native) => {
            let resolved = native.spec.clone().resolve(&mut kernel.host, Some(&mut kernel.pod));
            resolved.map(Some).map_err(|e| named(plan, attachment, from_backend(e)))
        }
        How::Chained(spec) => {
            let claimed = spec.claim(&owner(plan, attachment)).map(|()| None);
            claimed.map_err(|e| named(plan, attachment, from_backend(e)))
        }
        How::Executed(_) => Ok(None),
    };
    plan.attachments.iter().map(|a| a.steps.iter().map(|step| one(a, step)).collect()).collect()
}

/// A device that will move must be found again, whatever happens: what it is goes into the record.
fn note_devices(intent: &mut Intent, resolved: &ResolvedSteps) {
    for (attachment, resolved) in intent.attachments.iter_mut().zip(resolved) {
        for (step, resolved) in attachment.steps.iter_mut().zip(resolved) {
            match resolved {
                Some(Resolved::HostDevice(resolved)) => step.device = resolved.device().cloned(),
                Some(Resolved::Sriov(resolved)) => step.function = Some(Box::new(resolved.function().clone())),
                _ => {}
            }
        }
    }
}

/// Names the network in an error, where there are several.
fn named(plan: &Plan, attachment: &Attachment, mut error: CniError) -> CniError {
    if plan.attachments.len() > 1 {
        error.msg = format!("network {:?} ({}): {}", attachment.network, attachment.ifname, error.msg);
        if error.code == Code::Unknown {
            error.code = Code::Generic; // what the Go library gives a plugin that fails without a word; no code of the spec
        }
    }
    error
}

fn run<'a>(
    plan: &'a Plan,
    kernel: &mut Kernel,
    resolved: ResolvedSteps,
    done: &mut Vec<Done<'a>>,
    note: &mut dyn FnMut(&Progress) -> Result<(), CniError>,
) -> Result<(Vec<CniResult>, Vec<Outcome>), CniError> {
    let wanted = Wanted::all(plan);
    thread::scope(|scope| {
        let leases = Ahead::start(scope, &wanted, kernel.place.has_idle_processor());
        let mut begun = Begun { done, leases, filter: None, position: 0, early: BTreeMap::new(), note };
        let ran = in_order(plan, kernel, resolved, &mut begun);
        let Begun { done, leases, .. } = begun;
        for (position, taken) in leases.rest() {
            if let (Ok(_), Some(Wanted { attachment, step, native, .. })) = (taken, wanted.get(position)) {
                done.push(Done::Leases { attachment, native, step });
            }
        }
        ran
    })
}

/// One attachment after the other.
fn in_order<'a>(
    plan: &'a Plan,
    kernel: &mut Kernel,
    resolved: ResolvedSteps,
    begun: &mut Begun<'a, '_, '_>,
) -> Result<(Vec<CniResult>, Vec<Outcome>), CniError> {
    let mut results = Vec::with_capacity(plan.attachments.len());
    let mut outcomes = Vec::with_capacity(plan.attachments.len());
    for (index, (attachment, resolved)) in plan.attachments.iter().zip(resolved).enumerate() {
        let begin = Instant::now();
        if attachment.device.is_some() {
            begun.done.push(Done::Description { attachment });
            claims::publish(plan, attachment);
        }
        begun.position = index;
        let (result, made) = one(plan, attachment, resolved, kernel, begun).map_err(|e| named(plan, attachment, e))?;
        let taken = begin.elapsed();
        kernel.place.attached(kind_of(attachment), taken);
        let micros = u64::try_from(taken.as_micros()).unwrap_or(u64::MAX);
        outcomes.push(Outcome { result: result.to_value(Version::V1_1_0)?, made, micros });
        results.push(result);
    }
    timed(kernel.place, Phase::Address, || default_route::apply(plan, &mut kernel.pod))?;
    Ok((results, outcomes))
}

/// The kind that made its link.
fn kind_of(attachment: &Attachment) -> Option<Kind> {
    attachment.steps.iter().find_map(|step| match &step.how {
        How::Native(native) => Some(native.kind),
        How::Chained(_) | How::Executed(_) => None,
    })
}

/// One attachment's chain: each plugin gets the result of the one before.
fn one<'a>(
    plan: &'a Plan,
    attachment: &'a Attachment,
    resolved: Vec<Option<Resolved>>,
    kernel: &mut Kernel,
    begun: &mut Begun<'a, '_, '_>,
) -> Result<(CniResult, Option<Made>), CniError> {
    let mut previous: Option<CniResult> = attachment.previous.clone();
    let mut made = None;
    for (index, (step, resolved)) in attachment.steps.iter().zip(resolved).enumerate() {
        let result = match &step.how {
            How::Native(native) => {
                let resolved = match resolved {
                    Some(resolved) => resolved,
                    None => resolve_after(native, previous.as_ref(), kernel)?,
                };
                let built = build(plan, attachment, (index, step), native, &resolved, previous.take(), kernel, begun)?;
                made = built.1;
                built.0
            }
            How::Chained(spec) => {
                let before = previous.take().unwrap_or_default();
                let (place, owner) = (kernel.place, owner(plan, attachment));
                if let Some(gain) = begun.early.remove(&index) {
                    let host = &mut kernel.host;
                    let mut note = |original: &Original| begun.note(index, original);
                    timed(place, Phase::Address, || chained::complete(spec, &owner, &before, host, gain, &mut note))?;
                    before
                } else {
                    let link = chained::Link { owner, sandbox: netns_of(plan), group: plan.group };
                    let known = Box::new(before.clone());
                    let mut found = None;
                    let mut note = |original: &Original| {
                        found = Some(original.clone());
                        begun.note(index, original)
                    };
                    let result = timed(place, Phase::Address, || {
                        chained::add(spec, &link, before, (&mut kernel.host, &mut kernel.pod), &mut note)
                    });
                    if native::may_be_done(&result) {
                        begun.done.push(Done::Chained { attachment, step, result: known, original: found });
                    }
                    result.map_err(|failed| failed.error)?
                }
            }
            How::Executed(_) => {
                begun.done.push(Done::Delegate { attachment, step });
                execute(plan, attachment, step, previous.as_ref())?
            }
        };
        previous = Some(result);
    }
    previous.map(|result| (result, made)).ok_or_else(|| CniError::new(Code::InvalidConfig, "no plugins in list"))
}

/// A step whose lower device the plugin before it names.
fn resolve_after(native: &Native, previous: Option<&CniResult>, kernel: &mut Kernel) -> Result<Resolved, CniError> {
    let names = previous.map(CniResult::interface_names).unwrap_or_default();
    let spec = native.spec.clone().after(&names).map_err(from_backend)?;
    spec.resolve(&mut kernel.host, Some(&mut kernel.pod)).map_err(from_backend)
}

fn execute(
    plan: &Plan,
    attachment: &Attachment,
    step: &Step,
    previous: Option<&CniResult>,
) -> Result<CniResult, CniError> {
    let caller = caller(plan, attachment);
    let answer = caller.execute(Command::Add, &step.plugin, &step.conf, previous)?;
    let Some(answer) = answer else { return Ok(previous.cloned().unwrap_or_default()) };
    CniResult::parse(&answer, attachment.version).map(|(result, _)| result)
}

fn caller<'a>(plan: &'a Plan, attachment: &'a Attachment) -> Caller<'a> {
    Caller {
        sandbox: &plan.key.sandbox,
        netns: netns_of(plan),
        ifname: &attachment.ifname,
        args: &attachment.args,
        path: &plan.path,
        version: attachment.version,
        deadline: DELEGATE_DEADLINE,
    }
}

/// A native step: leases, then the link with everything on it.
#[expect(clippy::too_many_arguments, reason = "the step, what came before it, and the two things it changes")]
fn build<'a>(
    plan: &'a Plan,
    attachment: &'a Attachment,
    (index, step): (usize, &'a Step),
    native: &'a Native,
    resolved: &Resolved,
    previous: Option<CniResult>,
    kernel: &mut Kernel,
    begun: &mut Begun<'a, '_, '_>,
) -> Result<(CniResult, Option<Made>), CniError> {
    if matches!(native.ipam, Ipam::Executed(_)) {
        begun.done.push(Done::Leases { attachment, native, step }); // CNI spec: a delegate whose ADD failed gets a DEL
    }
    let leased = timed(kernel.place, Phase::Lease, || {
        lease(plan, attachment, step, native, previous.as_ref(), &mut begun.leases)
    })
    .map_err(|refusal| native::ipam_refusal(native.kind, refusal))?;
    if !matches!(native.ipam, Ipam::Executed(_)) {
        begun.done.push(Done::Leases { attachment, native, step });
    }
    if leased.ips.is_empty() && !matches!(native.ipam, Ipam::None | Ipam::Previous) {
        return Err(CniError::generic("IPAM plugin returned missing IP config"));
    }
    if native.kind != Kind::Loopback {
        leased.print_check(attachment.version)?;
    }
    let layer3 = convert::layer3(&leased);
    let (built, ruled) =
        beside::link_and_rules(plan, attachment, (index, native), resolved, kernel, layer3, &leased, begun);
    let ifname = &attachment.ifname;
    // A device that was to move is not made anew: where it is, the record finds it.
    if built.is_ok() || native::may_be_done(&built) && !resolved.is_moved() {
        begun.done.push(match resolved {
            moved if moved.is_moved() => Done::Device { ifname, resolved: Box::new(moved.clone()) },
            _ => Done::Link { ifname },
        });
    }
    let built = built.map_err(|failed| failed.error)?;
    match ruled? {
        Ruled::All => {}
        Ruled::After => {
            begun.done.push(Done::Rules { attachment, rules: native.rules });
            timed(kernel.place, Phase::Address, || {
                let owner = owner(plan, attachment);
                rules::add(&mut begun.filter, native.rules, &owner, &built.interfaces, &built.layer3.addresses)
            })?;
        }
    }
    let made = built.made;
    Ok((result_of(plan, native, leased, built, previous), made))
}

/// The link with everything on it.
fn link(
    plan: &Plan,
    attachment: &Attachment,
    native: &Native,
    resolved: &Resolved,
    kernel: &mut Kernel,
    layer3: Layer3,
) -> Result<Built, Failed> {
    let target = Target { ifname: &attachment.ifname, group: plan.group, mac: native.mac };
    let place = kernel.place;
    let built = timed(place, Phase::Link, || {
        // A device that moves keeps who makes it waiting for its driver, up to a carrier: links of others go on meanwhile.
        let _lane = if native.kind.is_moved() { None } else { place.lane() };
        backends::build(&mut kernel.host, &mut kernel.pod, resolved, &target, layer3)
    });
    let built = built.inspect_err(|e| place.link_failed(e))?;
    built.told.iter().for_each(|told| warn(&format!("network {:?}: {told}", attachment.network)));
    Ok(built)
}

fn netns_of(plan: &Plan) -> &str {
    plan.netns.to_str().unwrap_or_default()
}

/// Whose the rules of an attachment are.
fn owner<'a>(plan: &'a Plan, attachment: &'a Attachment) -> nft::Owner<'a> {
    nft::Owner { network: &attachment.cni_name, sandbox: &plan.key.sandbox, ifname: &attachment.ifname }
}

/// The addresses of a step, as a result without interfaces.
fn lease(
    plan: &Plan,
    attachment: &Attachment,
    step: &Step,
    native: &Native,
    previous: Option<&CniResult>,
    leases: &mut Ahead<Wanted>,
) -> Result<CniResult, CniError> {
    match &native.ipam {
        Ipam::None => Ok(CniResult::default()),
        Ipam::Previous => {
            let previous = previous.cloned().unwrap_or_default();
            Ok(CniResult { interfaces: Vec::new(), ..previous })
        }
        Ipam::HostLocal(_) => {
            let unknown = || CniError::generic("whoever takes this request's leases has failed in a way it should not");
            leases.next().unwrap_or_else(|| Err(unknown()))
        }
        Ipam::Static(addresses) => Ok(convert::from_allocation(addresses.allocation())),
        Ipam::Executed(plugin) => {
            let answer = caller(plan, attachment).execute_ipam(Command::Add, plugin, &step.conf)?;
            let answer = answer.unwrap_or(Value::Null);
            CniResult::parse(&answer, attachment.version)
                .map(|(result, _)| CniResult { interfaces: Vec::new(), ..result })
        }
    }
}

/// What was built, as the reference plugin of that kind reports it.
fn result_of(plan: &Plan, native: &Native, leased: CniResult, built: Built, previous: Option<CniResult>) -> CniResult {
    if native.kind == Kind::Loopback
        && let Some(previous) = previous
    {
        return previous; // facts of the reference plugin: a loopback in a chain passes on what it got
    }
    let Built { interfaces, address_interface, layer3, .. } = built;
    let sandbox = netns_of(plan);
    let dns = native.dns.clone().unwrap_or(leased.dns);
    CniResult {
        interfaces: interfaces.into_iter().map(|i| convert::to_interface(i, sandbox)).collect(),
        ips: layer3.addresses.into_iter().map(|address| convert::to_ip(address, address_interface)).collect(),
        routes: layer3.routes.into_iter().map(convert::to_route).collect(),
        dns,
        ..CniResult::default()
    }
}

/// The identifier that an InfiniBand interface was given: by plexus, or by a plugin that takes it.
fn guid_of(attachment: &Attachment) -> Option<String> {
    attachment.steps.iter().find_map(|step| {
        if let How::Native(native) = &step.how
            && let backends::Spec::Sriov(spec) = &native.spec
        {
            return spec.guid();
        }
        // To others an argument of this name may be anything.
        let takes_args = TAKE_GUID.contains(&step.plugin.as_str());
        let by_runtime = || Args::parse(&attachment.args).ok()?.get("guid").map(str::to_owned);
        asked::guid(&step.conf, takes_args).or_else(|| if takes_args { by_runtime() } else { None })
    })
}

fn status_of(plan: &Plan, results: &[CniResult]) -> String {
    let says_something = |(attachment, result): &(&Attachment, &CniResult)| {
        !attachment.has_no_interface() || !result.interfaces.is_empty() || !result.ips.is_empty()
    };
    let pairs: Vec<_> = plan.attachments.iter().zip(results).filter(says_something).collect();
    let devices: Vec<_> = pairs.iter().map(|(attachment, _)| claims::described(plan, attachment)).collect();
    let guids: Vec<_> = pairs.iter().map(|(attachment, _)| guid_of(attachment)).collect();
    let entries: Vec<status::Entry> = pairs
        .into_iter()
        .zip(devices.iter().zip(&guids))
        .map(|((attachment, result), (device, guid))| status::Entry {
            network: &attachment.network,
            ifname: &attachment.ifname,
            default: attachment.default,
            default_route: attachment.default_route.as_deref(),
            guid: guid.as_deref(),
            device: device.as_ref(),
            result,
        })
        .collect();
    status::render(&entries)
}
