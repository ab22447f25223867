//! Rules of a pod that lives, which somebody took from the packet filter (`nft flush ruleset`, a reload of firewalld), made anew: each
//! attachment's own, from its record. It does not know who took them, nor when to look.

use std::path::Path;

use backends::chained::{Chained, Fit, Original, Spec};
use backends::nft::{Listed, Owner};
use backends::{Before, Host, Pod};

use super::look::{Mends, job_of, request_in, subject};
use crate::alive::Observer;
use crate::chain::Caller;
use crate::chained::{self, Link};
use crate::cni::error::CniError;
use crate::cni::request::Command;
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::convert;
use crate::job::Job;
use crate::journal::{Attachment, Record, Step};
use crate::native::{self, Around, Verdict, from_backend};
use crate::rules;
use crate::survey::Places;

/// Whether anything of a record is in the packet filter.
pub(super) fn has_rules(record: &Record) -> bool {
    let mut attachments = record.intent.attachments.iter();
    attachments.any(|attachment| attachment.steps.iter().enumerate().any(|(at, step)| is_ruled(attachment, at, step)))
}

/// Whether a step has rules, as far as its configuration says it.
fn is_ruled(attachment: &Attachment, position: usize, step: &Step) -> bool {
    match read(attachment, (position, step), Path::new("/")) {
        Some(Verdict::Native(native, _)) => !native.rules.is_empty(),
        Some(Verdict::Chained(spec, _)) => spec.chained().is_in_filter() && !spec.is_idle(),
        Some(Verdict::Executed(_)) | None => false,
    }
}

/// Whether the firewall plugin was executed for one of its attachments.
pub(super) fn has_firewall(record: &Record) -> bool {
    let mut steps = record.intent.attachments.iter().filter(|one| !one.disable_check).flat_map(|one| &one.steps);
    steps.any(is_executed_firewall)
}

/// The reference plugin is executed where firewalld keeps the node's rules; what it tells that is forgotten with a reload.
fn is_executed_firewall(step: &Step) -> bool {
    !step.native && step.plugin == Chained::Firewall.name()
}

/// A line for each step.
#[derive(Debug, Default)]
pub(super) struct Mended {
    /// What was missing, and is there again.
    pub(super) told: Vec<String>,
    /// What could not be made anew.
    pub(super) failures: Vec<String>,
}

/// Makes what is missing anew.
///
/// # Errors
/// The pod's namespace cannot be entered, or its record is no longer readable.
pub(super) fn rules(record: &Record, observer: &Observer, places: &Places, mends: Mends) -> Result<Mended, CniError> {
    let intent = &record.intent;
    let mut mended = Mended::default();
    let (Some(done), Some(netns)) = (&record.commitment, observer.reach(intent)) else { return Ok(mended) };
    let request = request_in(record, &netns);
    let job = job_of(&request, places);
    let mut pod = Pod::enter(netns).map_err(from_backend)?;
    for (attachment, outcome) in intent.attachments.iter().zip(&done.outcomes) {
        let (result, _) = CniResult::parse(&outcome.result, Version::V1_1_0)?;
        for (position, step) in attachment.steps.iter().enumerate().filter(|_| !attachment.disable_check) {
            let one = One { job: &job, attachment, step, result: &result, mends };
            let subject = || subject(intent, attachment);
            match one.mend(position, &mut pod) {
                Ok(None) => {}
                Ok(Some(missing)) => mended.told.push(format!("{}: {missing}: its rules are made anew", subject())),
                Err(e) => {
                    let told = format!("{}: rules that were removed are not made anew: {}", subject(), e.msg);
                    mended.failures.push(told);
                }
            }
        }
    }
    Ok(mended)
}

fn read(attachment: &Attachment, (position, step): (usize, &Step), state_dir: &Path) -> Option<Verdict> {
    let before = if position > 0 { Before::Awaited } else { Before::Nothing };
    native::read(&step.plugin, &step.conf, &around(attachment, state_dir, before)).ok().filter(|_| step.native)
}

fn around<'a>(attachment: &'a Attachment, state_dir: &'a Path, before: Before<'a>) -> Around<'a> {
    Around {
        network: &attachment.cni_name,
        version: version_of(attachment),
        args: &attachment.args,
        ifname: &attachment.ifname,
        state_dir,
        before,
    }
}

fn version_of(attachment: &Attachment) -> Version {
    Version::parse(&attachment.cni_version).unwrap_or(Version::CURRENT)
}

/// A step of a pod that lives.
struct One<'a> {
    job: &'a Job<'a>,
    attachment: &'a Attachment,
    step: &'a Step,
    result: &'a CniResult,
    mends: Mends,
}

impl One<'_> {
    fn owner(&self) -> Owner<'_> {
        let Attachment { cni_name, ifname, .. } = self.attachment;
        Owner { network: cni_name, sandbox: &self.job.request.container_id, ifname }
    }

    /// What was missing, and is there again.
    fn mend(&self, position: usize, pod: &mut Pod) -> Result<Option<String>, CniError> {
        match read(self.attachment, (position, self.step), &self.job.state_dir) {
            Some(Verdict::Native(native, _)) if self.mends.rules && !native.rules.is_empty() => {
                self.own_rules(native.rules)
            }
            Some(Verdict::Chained(spec, _)) if self.mends.rules && spec.chained().is_in_filter() => {
                self.chained(&spec, pod)
            }
            Some(_) => Ok(None),
            None if self.mends.firewalld && is_executed_firewall(self.step) => self.executed(),
            None => Ok(None),
        }
    }

    fn own_rules(&self, wanted: backends::nft::Rules) -> Result<Option<String>, CniError> {
        let (owner, interfaces) = (self.owner(), convert::interfaces(self.result));
        let addresses = convert::layer3(self.result).addresses;
        let Err(missing) = rules::check(&mut Listed::default(), wanted, &owner, &interfaces, &addresses) else {
            return Ok(None);
        };
        let mut filter = rules::open()?;
        // Some of them may be there still: twice is once too often.
        crate::detach::join(rules::remove_all(&mut filter, &[(wanted, owner)]))?;
        rules::add(&mut Some(filter), wanted, &owner, &interfaces, &addresses)?;
        Ok(Some(missing.msg))
    }

    fn chained(&self, spec: &Spec, pod: &mut Pod) -> Result<Option<String>, CniError> {
        let mut host = self.job.place.host().map_err(from_backend)?;
        let ends = &mut (&mut host, pod);
        let Err(missing) = self.check(spec, ends) else { return Ok(None) };
        let Some([plain, ..]) = spec.policies() else {
            self.add(spec, ends)?;
            return Ok(Some(missing.msg));
        };
        self.add(&plain, ends)?;
        // What another pod says of the bridge since then stays.
        if spec.policies().into_iter().flatten().skip(1).all(|any| self.check(&any, ends).is_err()) {
            self.add(spec, ends)?;
        }
        Ok(Some(missing.msg))
    }

    fn link(&self) -> Link<'_> {
        Link { owner: self.owner(), sandbox: self.job.netns(), group: None }
    }

    fn check(&self, spec: &Spec, ends: &mut (&mut Host, &mut Pod)) -> Result<(), CniError> {
        let (host, pod) = (&mut *ends.0, &mut *ends.1);
        chained::check(spec, &self.link(), self.result, (host, pod), &mut Listed::default())
    }

    /// Without what is there of it still: ports that lead here already do not become more.
    fn add(&self, spec: &Spec, ends: &mut (&mut Host, &mut Pod)) -> Result<(), CniError> {
        // Somebody else may have a port since.
        spec.claim(&self.owner()).map_err(from_backend)?;
        if spec.chained() != Chained::Portmap {
            let known = chained::Known {
                owner: self.owner(),
                step: self.step,
                around: around(self.attachment, &self.job.state_dir, Before::Awaited),
                result: Some(self.result),
                original: None,
                link_stays: true,
            };
            chained::remove(spec.chained(), &known, &mut rules::open()?, None)?;
        }
        // DEL finds them by their owner: what the record says of where they were is only the quicker way.
        let mut note = |_: &Original| Ok(());
        let (host, pod) = (&mut *ends.0, &mut *ends.1);
        chained::add(spec, &self.link(), self.result.clone(), (host, pod), &mut note)
            .map(drop)
            .map_err(|failed| failed.error)
    }

    /// By the plugin itself: what firewalld knows already it does not tell twice. Its CHECK is not asked: it finds nothing missing.
    fn executed(&self) -> Result<Option<String>, CniError> {
        let (job, attachment, plugin) = (self.job, self.attachment, &self.step.plugin);
        let around = around(attachment, &job.state_dir, Before::Awaited);
        if let Ok(Verdict::Chained(spec, _)) = native::read(plugin, &self.step.conf, &around)
            && spec.fit().map_err(from_backend)? == Fit::Here
        {
            // Executed now, it would take iptables, and DEL not find that when firewalld is back.
            return Err(CniError::generic("firewalld was loaded anew, and does not answer here on the system's bus"));
        }
        let caller = job.caller(&attachment.ifname, &job.request.path, version_of(attachment));
        let caller = Caller { args: &attachment.args, ..caller };
        caller.execute(Command::Add, plugin, &self.step.conf, Some(self.result))?;
        Ok(Some(format!("firewalld was loaded anew, and {plugin} executed again")))
    }
}
