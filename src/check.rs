//! CHECK and STATUS: what is there against what should be, without changing anything.
//!
//! The meta-plugin compares its record with the kernel; a directly executed kind compares `prevResult`, as the reference
//! plugins do.

use backends::nft::Owner as RulesOwner;
use backends::{Expected, Kind};
use ipam::Owner;
use ipam::host_local::Pool;
use ipam::static_::Static;
use serde_json::Map;

use crate::attach::{Kernel, from_journal};
use crate::chain::{Caller, DELEGATE_DEADLINE};
use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::cni::list::Injection;
use crate::cni::request::Command;
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::config::Config;
use crate::convert;
use crate::default_route;
use crate::gather;
use crate::job::{Job, warn};
use crate::journal::{Attachment, Step};
use crate::native::{self, Around, Ipam, Native, Verdict};
use crate::plan::{How, Plan};
use crate::rules;

/// CHECK of a directly executed kind: `prevResult` against the kernel.
///
/// # Errors
/// What differs, in the reference plugin's words.
pub fn configuration(job: &Job, plan: &Plan) -> Result<(), CniError> {
    let Some(attachment) = plan.attachments.first() else { return Ok(()) };
    let Some(step) = attachment.steps.first() else { return Ok(()) };
    let native = match &step.how {
        How::Native(native) => native,
        How::Executed(_) => {
            let caller = caller(job, &attachment.ifname, &plan.path, attachment.version);
            return caller.execute(Command::Check, &step.plugin, &step.conf, None).map(|_| ());
        }
    };
    let Some(previous) = &attachment.previous else {
        if native.kind == Kind::Loopback {
            return kernel_check(job, native, &attachment.cni_name, "lo", &CniResult::default());
        }
        let named = matches!(native.kind, Kind::Vlan | Kind::Dummy);
        let prefix = if named { format!("{}: ", native.kind.name()) } else { String::new() };
        return Err(CniError::generic(format!("{prefix}Required prevResult missing")));
    };
    lease_check(job, native, &attachment.ifname, &step.conf, &plan.path)?;
    kernel_check(job, native, &attachment.cni_name, &attachment.ifname, previous)
}

fn caller<'a>(job: &'a Job, ifname: &'a str, path: &'a [std::path::PathBuf], version: Version) -> Caller<'a> {
    Caller {
        sandbox: &job.request.container_id,
        netns: job.request.netns.as_deref().and_then(std::path::Path::to_str).unwrap_or_default(),
        ifname,
        args: &job.request.args,
        path,
        version,
        deadline: DELEGATE_DEADLINE,
    }
}

fn lease_check(
    job: &Job,
    native: &Native,
    ifname: &str,
    conf: &Map<String, serde_json::Value>,
    path: &[std::path::PathBuf],
) -> Result<(), CniError> {
    let owner = Owner { sandbox: &job.request.container_id, ifname };
    match &native.ipam {
        Ipam::HostLocal(pool) => pool.check(&owner).map_err(native::from_ipam),
        Ipam::Executed(plugin) => {
            let caller = caller(job, ifname, path, job.request.version);
            caller.execute_ipam(Command::Check, plugin, conf).map(|_| ())
        }
        Ipam::Static(_) | Ipam::None | Ipam::Previous => Ok(()),
    }
}

fn kernel_check(job: &Job, native: &Native, network: &str, ifname: &str, expected: &CniResult) -> Result<(), CniError> {
    let netns = job.request.netns.clone().unwrap_or_default();
    let mut kernel = Kernel::open(&netns, job.request.netns_override)?;
    let layer3 = convert::layer3(expected);
    let expected =
        Expected { interfaces: convert::interfaces(expected), addresses: layer3.addresses, routes: layer3.routes };
    backends::check(&mut kernel.host, &mut kernel.pod, &native.spec, ifname, &expected)
        .map_err(native::from_backend)?;
    let owner = RulesOwner { network, sandbox: &job.request.container_id, ifname };
    rules::check(native.rules, &owner, &expected.interfaces, &expected.addresses)
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
    let Some(done) = &record.commitment else {
        return Err(CniError::generic("the ADD of this attachment did not finish: DEL it"));
    };
    let attachments = record.intent.attachments.iter().zip(&done.outcomes);
    for (attachment, outcome) in attachments.filter(|(attachment, _)| !attachment.disable_check) {
        let (result, _) = CniResult::parse(&outcome.result, Version::V1_1_0)?;
        for (index, step) in attachment.steps.iter().enumerate() {
            check_step(job, attachment, index, step, &result, &record.intent.path).map_err(|mut e| {
                e.msg = format!("network {:?} ({}): {}", attachment.network, attachment.ifname, e.msg);
                e
            })?;
        }
    }
    default_routes(job, &record.intent.attachments)
}

/// Who was asked to hold the pod's default route still does.
fn default_routes(job: &Job, attachments: &[Attachment]) -> Result<(), CniError> {
    if attachments.iter().all(|attachment| attachment.default_route.is_empty()) {
        return Ok(());
    }
    let mut kernel = Kernel::open(&job.request.netns.clone().unwrap_or_default(), job.request.netns_override)?;
    for attachment in attachments {
        default_route::check(&mut kernel.pod, &attachment.ifname, &attachment.default_route)?;
    }
    Ok(())
}

fn check_step(
    job: &Job,
    attachment: &Attachment,
    index: usize,
    step: &Step,
    result: &CniResult,
    path: &[std::path::PathBuf],
) -> Result<(), CniError> {
    let version = Version::parse(&attachment.cni_version).unwrap_or(Version::CURRENT);
    if !step.native {
        if !version.supports(Command::Check) {
            return Ok(());
        }
        let caller = Caller { args: &attachment.args, ..caller(job, &attachment.ifname, path, version) };
        return caller.execute(Command::Check, &step.plugin, &step.conf, Some(result)).map(|_| ());
    }
    let around = Around {
        network: &attachment.cni_name,
        version,
        args: &attachment.args,
        state_dir: &job.state_dir,
        previous: (index > 0).then_some(&[][..]),
    };
    match native::read(&step.plugin, &step.conf, &around)? {
        Verdict::Native(native, _) => {
            lease_check(job, &native, &attachment.ifname, &step.conf, path)?;
            kernel_check(job, &native, &attachment.cni_name, &attachment.ifname, result)
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

/// A pool that has no address left cannot serve an ADD (CNI spec, STATUS: "limited resources exhausted").
///
/// # Errors
/// Code 50 where a range set is full.
pub fn pool(pool: &Pool) -> Result<(), CniError> {
    let usage = pool.usage().map_err(native::from_ipam)?;
    match usage.full() {
        None => Ok(()),
        Some(set) => {
            let msg = format!("no IP addresses available in range set: {}", set.ranges);
            Err(CniError::new(Code::NotAvailable, msg))
        }
    }
}

/// STATUS of a directly executed kind.
///
/// # Errors
/// Its pool is full, or its IPAM plugin says no.
pub fn status_kind(job: &Job, kind: Kind) -> Result<(), CniError> {
    let around = Around { args: "", ..job.around() };
    let path = job.request.path.clone();
    status_step(job, kind.name(), &job.request.config, &around, &path)
}

fn status_step(
    job: &Job,
    plugin: &str,
    conf: &Map<String, serde_json::Value>,
    around: &Around,
    path: &[std::path::PathBuf],
) -> Result<(), CniError> {
    let caller = caller(job, "", path, around.version);
    match native::read(plugin, conf, around)? {
        Verdict::Native(native, _) => match &native.ipam {
            Ipam::HostLocal(host_local) => pool(host_local),
            Ipam::Executed(plugin) => caller.execute_ipam(Command::Status, plugin, conf).map(|_| ()),
            Ipam::None | Ipam::Previous | Ipam::Static(_) => Ok(()),
        },
        Verdict::Executed(_) if around.version.supports(Command::Status) => {
            caller.execute(Command::Status, plugin, conf, None).map(|_| ())
        }
        Verdict::Executed(_) => Ok(()),
    }
}

/// STATUS of the meta-plugin: each default network.
///
/// # Errors
/// The first that cannot serve an ADD.
pub fn status_meta(job: &Job, config: &Config) -> Result<(), CniError> {
    let path = config.search_path(&job.request.path);
    for list in gather::default_lists(config)? {
        for plugin in &list.plugins {
            let around = Around {
                network: &list.name,
                version: list.cni_version,
                args: "",
                state_dir: &job.state_dir,
                previous: None,
            };
            let conf = list.inject(plugin, &Injection::default()).object;
            status_step(job, &plugin.plugin_type, &conf, &around, &path).inspect_err(|e| {
                warn(&format!("network {:?} is not ready: {}", list.name, e.msg));
            })?;
        }
    }
    Ok(())
}
