//! CHECK: what is there against what should be, without changing anything.
//!
//! The meta-plugin compares its record with the kernel; a directly executed kind compares `prevResult`, as the reference
//! plugins do, and what the record says beyond it where there is one.

use std::path::PathBuf;

use backends::chained::{self, Chained};
pub use backends::nft::Listed;
use backends::nft::Owner as RulesOwner;
use backends::sriov::Function;
use backends::{Before, Expected, Kind, Made, NetNs};
use ipam::Owner;
use ipam::static_::Static;
use serde_json::Map;

use crate::attach::{Kernel, from_journal};
use crate::chain::Caller;
use crate::chained::Link;
use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::cni::request::{Command, Request};
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::convert;
use crate::default_route;
use crate::detach;
use crate::job::Job;
use crate::journal::{Attachment, Intent, Record, Step};
use crate::native::{self, Around, Ipam, Native, Verdict};
use crate::plan::{How, Plan};
use crate::rules;

/// CHECK of a directly executed kind: `prevResult` against the kernel.
///
/// # Errors
/// What differs, in the reference plugin's words.
pub fn configuration(job: &Job, plan: &mut Plan) -> Result<(), CniError> {
    let Some(attachment) = plan.attachments.first_mut() else { return Ok(()) };
    if attachment.choice().is_some() {
        let chosen = recorded(job)?.and_then(|record| record.intent.attachments.into_iter().next()?.device);
        chosen.iter().for_each(|device| attachment.choose(&device.id));
    }
    let Some(step) = attachment.steps.first() else { return Ok(()) };
    let native = match &step.how {
        How::Native(native) => native,
        How::Chained(spec) if !spec.chained().needs_previous() => return Ok(()),
        How::Chained(spec) => {
            let refused = || native::unchained(spec.chained(), Command::Check);
            let previous = attachment.previous.as_ref().ok_or_else(refused)?;
            let subject = Subject::unknown(&attachment.cni_name, &attachment.ifname);
            return chained_check(job, spec, &subject, previous, &mut Listed::default());
        }
        How::Executed(_) => {
            let caller = job.caller(&attachment.ifname, &plan.path, attachment.version);
            return caller.execute(Command::Check, &step.plugin, &step.conf, None).map(|_| ());
        }
    };
    let Some(previous) = &attachment.previous else {
        if native.kind == Kind::Loopback {
            let subject = Subject::unknown(&attachment.cni_name, "lo");
            return kernel_check(job, native, &subject, &CniResult::default(), &mut Listed::default());
        }
        let named = matches!(native.kind, Kind::Vlan | Kind::Dummy);
        let prefix = if named { format!("{}: ", native.kind.name()) } else { String::new() };
        return Err(CniError::generic(format!("{prefix}Required prevResult missing")));
    };
    lease_check(job, native, &attachment.ifname, &step.conf, &plan.path, previous)?;
    // What plugins the runtime executed after this one did to the MTU nobody here knows.
    let record = recorded(job)?;
    let outcome = record.as_ref().and_then(|record| record.commitment.as_ref()?.outcomes.first());
    let made = outcome.and_then(|outcome| outcome.made).map(|made| Made { mtu: 0, ..made });
    let step = record.as_ref().and_then(|record| record.intent.attachments.first()?.steps.first());
    let function = step.and_then(|step| step.function.as_deref());
    let subject = Subject { network: &attachment.cni_name, ifname: &attachment.ifname, made, function };
    kernel_check(job, native, &subject, previous, &mut Listed::default())?;
    record.as_ref().map_or(Ok(()), |record| in_its_namespace(job, &record.intent))
}

/// What a directly executed plugin did, where plexus did it, in this boot.
fn recorded(job: &Job) -> Result<Option<Record>, CniError> {
    let held = job.journal().hold(&job.key(), false).map_err(|e| from_journal(&e))?;
    let records = held.map_or_else(|| Ok(Vec::new()), |held| held.records()).map_err(|e| from_journal(&e))?;
    let Some(record) = records.into_iter().next_back() else { return Ok(None) };
    Ok(detach::is_of_this_boot(&record.intent)?.then_some(record))
}

fn lease_check(
    job: &Job,
    native: &Native,
    ifname: &str,
    conf: &Map<String, serde_json::Value>,
    path: &[PathBuf],
    result: &CniResult,
) -> Result<(), CniError> {
    let owner = Owner { sandbox: &job.request.container_id, ifname };
    match &native.ipam {
        Ipam::HostLocal(pool) => {
            pool.check(&owner).map_err(native::from_ipam)?;
            let told: Vec<std::net::IpAddr> = result.ips.iter().map(|ip| ip.address.ip()).collect();
            match pool.missing(&owner, &told).map_err(native::from_ipam)?.first() {
                Some(ip) => Err(CniError::generic(format!("host-local: the lease of {ip} is not this container's"))),
                None => Ok(()),
            }
        }
        Ipam::Executed(plugin) => {
            let caller = job.caller(ifname, path, job.request.version);
            caller.execute_ipam(Command::Check, plugin, conf).map(|_| ())
        }
        Ipam::Static(_) | Ipam::None | Ipam::Previous => Ok(()),
    }
}

/// What a kind's CHECK is about.
struct Subject<'a> {
    network: &'a str,
    ifname: &'a str,
    made: Option<Made>,
    function: Option<&'a Function>,
}

impl<'a> Subject<'a> {
    /// Of which no record says more.
    fn unknown(network: &'a str, ifname: &'a str) -> Self {
        Self { network, ifname, made: None, function: None }
    }
}

fn kernel_check(
    job: &Job,
    native: &Native,
    subject: &Subject,
    expected: &CniResult,
    listed: &mut Listed,
) -> Result<(), CniError> {
    let Subject { network, ifname, made, function } = *subject;
    let mut kernel = Kernel::open(job.place.opening(job.request), job.request.netns_override)?;
    let layer3 = convert::layer3(expected);
    let interfaces = convert::interfaces(expected);
    let expected =
        Expected { interfaces, addresses: layer3.addresses, routes: layer3.routes, made, function: function.cloned() };
    backends::check(&mut kernel.host, &mut kernel.pod, &native.spec, ifname, &expected)
        .map_err(native::from_backend)?;
    let owner = RulesOwner { network, sandbox: &job.request.container_id, ifname };
    rules::check(listed, native.rules, &owner, &expected.interfaces, &expected.addresses)
}

fn chained_check(
    job: &Job,
    spec: &chained::Spec,
    subject: &Subject,
    result: &CniResult,
    listed: &mut Listed,
) -> Result<(), CniError> {
    if spec.is_idle() {
        return Ok(());
    }
    let owner = RulesOwner { network: subject.network, sandbox: &job.request.container_id, ifname: subject.ifname };
    let mut kernel = Kernel::open(job.place.opening(job.request), job.request.netns_override)?;
    let link = Link { owner, sandbox: job.netns(), group: None };
    crate::chained::check(spec, &link, result, (&mut kernel.host, &mut kernel.pod), listed)
}

/// CHECK of a pod: every attachment of its record.
///
/// # Errors
/// What differs, with the network's name; code 3 where nothing is recorded.
pub fn record(job: &Job) -> Result<(), CniError> {
    let key = job.key();
    let held = job.journal().hold(&key, false).map_err(|e| from_journal(&e))?;
    let records = held.map_or_else(|| Ok(Vec::new()), |held| held.records()).map_err(|e| from_journal(&e))?;
    let Some(record) = records.into_iter().next_back() else {
        let msg = format!("no attachment of sandbox {} to network {:?} is recorded", key.sandbox, key.network);
        return Err(CniError::new(Code::UnknownContainer, msg));
    };
    for (attachment, outcome) in
        record.intent.attachments.iter().zip(attachments(job, &record, Extent::All, &mut Listed::default())?)
    {
        let named = |e: CniError| {
            let msg = format!("network {:?} ({}): {}", attachment.network, attachment.ifname, e.msg);
            CniError { msg, ..e }
        };
        outcome.map_err(named)?;
    }
    Ok(())
}

/// The request of a record, as the runtime would ask.
pub fn request_of(record: &Record) -> Request {
    let intent = &record.intent;
    let version = intent.attachments.first().and_then(|attachment| Version::parse(&attachment.cni_version));
    Request {
        command: Command::Check,
        container_id: intent.key.sandbox.clone(),
        netns: Some(PathBuf::from(&intent.netns)),
        ifname: intent.key.ifname.clone(),
        args: intent.attachments.first().map(|attachment| attachment.args.clone()).unwrap_or_default(),
        path: intent.path.clone(),
        netns_override: true, // whether it is the host's own was asked at ADD
        stdin: Vec::new(),
        config: Map::new(),
        network: intent.key.network.clone(),
        version: version.unwrap_or(Version::CURRENT),
    }
}

/// How much of an attachment is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything that CHECK is about.
    All,
    /// What the kernel says of what plexus built: neither leases nor plugins are asked.
    Kernel,
}

/// CHECK of each attachment of a record, in order. What disabled it is not looked at. `listed`: of the packet filter, what was listed for
/// others; what came since is not in it.
///
/// # Errors
/// The ADD did not finish, what it recorded is no result, or another namespace is in the place of the one that was attached.
pub fn attachments(
    job: &Job,
    record: &Record,
    extent: Extent,
    listed: &mut Listed,
) -> Result<Vec<Result<(), CniError>>, CniError> {
    let Some(done) = &record.commitment else {
        return Err(CniError::generic("the ADD of this attachment did not finish: DEL it"));
    };
    let of_this_boot = detach::is_of_this_boot(&record.intent)?;
    if of_this_boot {
        in_its_namespace(job, &record.intent)?;
    }
    let mut checked = Vec::with_capacity(done.outcomes.len());
    for (attachment, outcome) in record.intent.attachments.iter().zip(&done.outcomes) {
        let (result, _) = CniResult::parse(&outcome.result, Version::V1_1_0)?;
        let made = outcome.made.filter(|_| of_this_boot);
        let found = Found { result: &result, made, of_this_boot, path: &record.intent.path, extent };
        let mut steps = attachment.steps.iter().enumerate().filter(|_| !attachment.disable_check);
        let done = steps.try_for_each(|(index, step)| check_step(job, attachment, (index, step), &found, listed));
        checked.push(done.and_then(|()| default_route_of(job, attachment)));
    }
    Ok(checked)
}

/// The namespace is the one that was attached.
fn in_its_namespace(job: &Job, intent: &Intent) -> Result<(), CniError> {
    if intent.netns_id == detach::UNKNOWN {
        return Ok(());
    }
    let path = job.request.netns.clone().unwrap_or_default();
    let netns = NetNs::open(&path).map_err(native::from_backend)?;
    if detach::is_attached(&netns, intent)? {
        return Ok(());
    }
    let msg = format!("the network namespace at {} is not the one that was attached", path.display());
    Err(CniError::generic(msg))
}

/// What an attachment's ADD had found at its end.
struct Found<'a> {
    result: &'a CniResult,
    made: Option<Made>,
    of_this_boot: bool,
    path: &'a [PathBuf],
    extent: Extent,
}

/// Who was asked to hold the pod's default route still does.
fn default_route_of(job: &Job, attachment: &Attachment) -> Result<(), CniError> {
    if attachment.default_route.is_empty() {
        return Ok(());
    }
    let mut kernel = Kernel::open(job.place.opening(job.request), job.request.netns_override)?;
    default_route::check(&mut kernel.pod, &attachment.ifname, &attachment.default_route)
}

fn check_step(
    job: &Job,
    attachment: &Attachment,
    (index, step): (usize, &Step),
    found: &Found,
    listed: &mut Listed,
) -> Result<(), CniError> {
    let Found { result, path, extent, .. } = *found;
    let version = Version::parse(&attachment.cni_version).unwrap_or(Version::CURRENT);
    if !step.native {
        if extent == Extent::Kernel || !version.supports(Command::Check) {
            return Ok(());
        }
        let caller = Caller { args: &attachment.args, ..job.caller(&attachment.ifname, path, version) };
        return caller.execute(Command::Check, &step.plugin, &step.conf, Some(result)).map(|_| ());
    }
    let around = Around {
        network: &attachment.cni_name,
        version,
        args: &attachment.args,
        ifname: &attachment.ifname,
        state_dir: &job.state_dir,
        before: if index > 0 { Before::Awaited } else { Before::Nothing },
    };
    match native::read(&step.plugin, &step.conf, &around)? {
        Verdict::Native(native, _) => {
            if extent == Extent::All {
                lease_check(job, &native, &attachment.ifname, &step.conf, path, result)?;
            }
            // A later plugin of the chain may have changed the MTU, and one built in process replaced what is known.
            let later = attachment.steps.get(index + 1..).unwrap_or_default();
            let made =
                found.made.filter(|_| later.iter().all(|step| !step.native || Chained::of(&step.plugin).is_some()));
            let made = made.map(|made| if later.is_empty() { made } else { Made { mtu: 0, ..made } });
            let function = step.function.as_deref().filter(|_| found.of_this_boot);
            let subject = Subject { network: &attachment.cni_name, ifname: &attachment.ifname, made, function };
            kernel_check(job, &native, &subject, result, listed)
        }
        Verdict::Chained(spec, _) => {
            let subject = Subject::unknown(&attachment.cni_name, &attachment.ifname);
            chained_check(job, &spec, &subject, result, listed)
        }
        Verdict::Executed(_) => Ok(()),
    }
}

/// CHECK of a directly executed static: addresses that are configured must be in `prevResult` with their gateway.
///
/// # Errors
/// static's own text.
pub fn static_addresses(job: &Job, addresses: &Static) -> Result<(), CniError> {
    let Some(previous) = gojson::field(&job.request.config, "prevResult") else {
        return Err(CniError::generic("Required prevResult missing"));
    };
    let previous = CniResult::parse_prev(previous, job.request.version)?;
    let held: Vec<ipam::Address> =
        previous.ips.iter().map(|ip| ipam::Address { address: ip.address, gateway: ip.gateway }).collect();
    addresses.check(&held, &job.request.ifname).map_err(native::from_ipam)
}
