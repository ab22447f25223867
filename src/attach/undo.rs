//! The undo of an ADD that failed, in reverse. It does not know why it failed.

use backends::chained::{Chained, Original};
use backends::{Before, Pod, nft};
use ipam::Owner;

use super::{Done, Kernel, caller, owner};
use crate::chain::{Caller, UNDO_DEADLINE};
use crate::cni::error::CniError;
use crate::cni::request::Command;
use crate::cni::result::CniResult;
use crate::native::{Around, Ipam, Native, from_backend, from_ipam};
use crate::plan::{Attachment, How, Plan, Step};
use crate::{chained, claims, detach, rules};

/// Undoes what was begun, in reverse: `Ok` with the failure where all of it is gone, `Err` with both where not. `away` gets the
/// interfaces whose devices are not home.
pub(super) fn undo<'a>(
    plan: &Plan,
    kernel: &mut Kernel,
    done: Vec<Done<'a>>,
    failure: CniError,
    away: &mut Vec<&'a str>,
) -> Result<CniError, CniError> {
    let mut failures: Vec<CniError> = unrule(plan, &done).err().into_iter().collect();
    for step in done.into_iter().rev() {
        let holds = match &step {
            Done::Device { ifname, .. } => Some(*ifname),
            Done::Delegate { attachment, .. } => Some(attachment.ifname.as_str()).filter(|_| !moves(attachment)),
            _ => None,
        };
        let undone = match step {
            Done::Description { attachment } => claims::unpublish(plan, attachment),
            Done::Link { ifname } => detach::remove_link_now(&mut kernel.pod, ifname),
            Done::Device { ifname, resolved } => {
                resolved.undo(&mut kernel.host, &mut kernel.pod, ifname).map_err(from_backend)
            }
            Done::Rules { .. } => continue, // all at once, above
            Done::Leases { attachment, native, step } => unlease(plan, attachment, native, step),
            Done::Delegate { attachment, step } => {
                undoer(plan, attachment).execute(Command::Del, &step.plugin, &step.conf, None).map(|_| ())
            }
            Done::Chained { attachment, step, result, original } => {
                unchain(plan, attachment, step, &result, original.as_ref(), &mut kernel.pod)
            }
        };
        away.extend(holds.filter(|_| undone.is_err()));
        failures.extend(undone.err());
    }
    match detach::join(failures) {
        Ok(()) => Ok(failure),
        // A plugin that is not there fails to add and to delete alike: once is enough.
        Err(also) if failure.msg.ends_with(&also.msg) => Err(failure),
        Err(also) => {
            let msg = format!("{}; undoing it failed too, DEL will try again: {}", failure.msg, also.msg);
            Err(CniError { msg, ..failure })
        }
    }
}

/// Whether a native step has its device, so that no plugin of its chain has.
fn moves(attachment: &Attachment) -> bool {
    attachment.steps.iter().any(|step| matches!(&step.how, How::Native(native) if native.kind.is_moved()))
}

/// The rules of all steps, found together.
fn unrule<'a>(plan: &'a Plan, done: &[Done<'a>]) -> Result<(), CniError> {
    let rules = done.iter().filter_map(|step| match step {
        Done::Rules { attachment, rules } => Some((*rules, owner(plan, attachment))),
        _ => None,
    });
    let all: Vec<_> = rules.collect();
    if all.is_empty() {
        return Ok(());
    }
    detach::join(rules::remove_all(&mut rules::open()?, &all))
}

fn unchain(
    plan: &Plan,
    attachment: &Attachment,
    step: &Step,
    result: &CniResult,
    original: Option<&Original>,
    pod: &mut Pod,
) -> Result<(), CniError> {
    let step = &attachment.record_step(step);
    let around = Around {
        network: &attachment.cni_name,
        version: attachment.version,
        args: &attachment.args,
        ifname: &attachment.ifname,
        state_dir: &plan.state_dir,
        before: Before::Awaited,
    };
    let owner = owner(plan, attachment);
    let Some(chained) = Chained::of(&step.plugin) else { return Ok(()) };
    let mut filter = if chained.is_in_filter() { rules::open()? } else { nft::Filter::default() };
    let known = chained::Known { owner, step, around, result: Some(result), original, link_stays: true };
    // What cannot be put back as it was is a failure of the undo.
    detach::join(chained::remove(chained, &known, &mut filter, Some(pod))?)
}

fn unlease(plan: &Plan, attachment: &Attachment, native: &Native, step: &Step) -> Result<(), CniError> {
    let owner = Owner { sandbox: &plan.key.sandbox, ifname: &attachment.ifname };
    match &native.ipam {
        Ipam::HostLocal(pool) => pool.del(&owner).map_err(from_ipam),
        Ipam::Executed(plugin) => undoer(plan, attachment).execute_ipam(Command::Del, plugin, &step.conf).map(|_| ()),
        Ipam::None | Ipam::Previous | Ipam::Static(_) => Ok(()),
    }
}

fn undoer<'a>(plan: &'a Plan, attachment: &'a Attachment) -> Caller<'a> {
    Caller { deadline: UNDO_DEADLINE, ..caller(plan, attachment) }
}
