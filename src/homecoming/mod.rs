//! Devices of the host that attachments moved or set up go back to what they were, by their records. Knows no link that is
//! made for a pod.
//!
//! What sriov-cni attached is brought back by what that kept. A virtual function may have another pod by the time an old record is deleted: only who still has the claim of it touches it.

use std::path::Path;

use backends::sysfs::Sysfs;
use backends::{Host, Kind, NetNs, Pod, host_device, sriov};

use crate::cni::error::{CniError, Code};
use crate::cni::result::CniResult;
use crate::devices::claim::Ledger;
use crate::journal::{Allotted, Attachment, Step};
use crate::native;

pub mod peer;

/// A device that a step moved or set up.
#[derive(Clone, Copy, Debug)]
pub struct Away<'a> {
    attachment: &'a Attachment,
    step: &'a Step,
    /// Whether ADD had come to its end.
    attached: bool,
}

/// Who gives it back.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// The container id.
    pub sandbox: &'a str,
    /// The record's file; none where there is none.
    pub record: Option<&'a str>,
    /// Where claims are.
    pub state_dir: &'a Path,
    /// Whether the record is of the boot that runs: functions of an older one are others.
    pub of_this_boot: bool,
}

/// The devices of a request. A record without one is of a device that belongs to a program of user space; without a record, sriov-cni
/// may have set one up.
pub fn all<'a>(attachments: &'a [Attachment], results: &'a [Option<CniResult>], recorded: bool) -> Vec<Away<'a>> {
    let moves = |step: &Step| {
        let is_moved = step.native && Kind::of(&step.plugin).is_some_and(Kind::is_moved);
        step.function.is_some() || (is_moved && (step.device.is_some() || !recorded))
    };
    let of = |(attachment, result): (&'a Attachment, &'a Option<CniResult>)| {
        let steps = attachment.steps.iter().filter(|step| moves(step));
        steps.map(move |step| Away { attachment, step, attached: result.is_some() })
    };
    attachments.iter().zip(results).flat_map(of).collect()
}

/// Gives them all back, the last one first; what failed is returned.
pub fn give_back(mut pod: Option<&mut Pod>, devices: &[Away], holder: Holder) -> Vec<CniError> {
    if devices.is_empty() {
        return Vec::new();
    }
    let mut host = match Host::open() {
        Ok(host) => host,
        Err(e) => return vec![native::from_backend(e)],
    };
    let back = devices.iter().rev().map(|away| away.come_back(&mut host, pod.as_deref_mut(), holder));
    back.filter_map(Result::err).collect()
}

impl Away<'_> {
    fn come_back(&self, host: &mut Host, pod: Option<&mut Pod>, holder: Holder) -> Result<(), CniError> {
        let ifname = &self.attachment.ifname;
        // Where ADD did not finish, the device may never have moved: then nothing is on its way back.
        let back = match &self.step.function {
            Some(function) if holder.has(self.attachment, function)? => {
                sriov::give_back(host, pod, ifname, function, self.attached)
            }
            Some(_) => Ok(()),
            None if Kind::of(&self.step.plugin) == Some(Kind::Sriov) => return holder.take_over(host, pod, ifname),
            None => host_device::give_back(host, pod, ifname, self.step.device.as_ref(), self.attached),
        };
        back.map_err(native::from_backend)
    }
}

impl Holder<'_> {
    /// Brings back what sriov-cni set up for this container, where it did.
    fn take_over(&self, host: &mut Host, pod: Option<&mut Pod>, ifname: &str) -> Result<(), CniError> {
        let refused = |e: std::io::Error| CniError::new(Code::Io, format!("what sriov-cni kept: {e}"));
        let Some(attached) = peer::find(Path::new(peer::PLACE), self.sandbox, ifname).map_err(refused)? else {
            return Ok(());
        };
        let device = Allotted { resource: String::new(), id: attached.device().to_string() };
        let claimed = Ledger::new(self.state_dir).holder(&device);
        let is_anothers = claimed.map_err(|e| CniError::new(Code::Io, native::chain(&e)))?.is_some();
        if is_anothers || attached.is_outdated() {
            return attached.forget(false).map_err(refused);
        }
        // A runtime that names no namespace: sriov-cni noted which it was.
        let noted = || Pod::enter(NetNs::open(&attached.netns()?).ok()?).ok();
        let mut entered = if pod.is_none() { noted() } else { None };
        if let Some(function) = attached.function(&Sysfs::default()) {
            let back = sriov::give_back(host, pod.or(entered.as_mut()), ifname, &function, true);
            back.map_err(native::from_backend)?;
        }
        attached.forget(true).map_err(refused)
    }

    /// Whether a function is still this record's.
    fn has(&self, attachment: &Attachment, function: &sriov::Function) -> Result<bool, CniError> {
        let Some(record) = self.record.filter(|_| self.of_this_boot) else { return Ok(false) };
        let own = || Allotted { resource: String::new(), id: function.address.to_string() };
        let device = attachment.device.clone().unwrap_or_else(own);
        let holder = Ledger::new(self.state_dir).holder(&device);
        let holder = holder.map_err(|e| CniError::new(Code::Io, native::chain(&e)))?;
        Ok(holder.is_some_and(|holder| holder == record))
    }
}
