//! Devices of the host that attachments moved or set up go back to what they were, by their records. Knows no link that is
//! made for a pod.
//!
//! A virtual function may have another pod by the time an old record is deleted: only who still has the claim of it touches it.

use std::path::Path;

use backends::{Host, Kind, Pod, host_device, sriov};

use crate::cni::error::{CniError, Code};
use crate::cni::result::CniResult;
use crate::devices::claim::Ledger;
use crate::journal::{Allotted, Attachment, Step};
use crate::native;

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
    /// The record's file; none where there is none.
    pub record: Option<&'a str>,
    /// Where claims are.
    pub state_dir: &'a Path,
    /// Whether the record is of the boot that runs: functions of an older one are others.
    pub of_this_boot: bool,
}

/// The devices of a request. A record without one is of a device that belongs to a program of user space.
pub fn all<'a>(attachments: &'a [Attachment], results: &'a [Option<CniResult>], recorded: bool) -> Vec<Away<'a>> {
    let moves = |step: &Step| {
        let is_device = step.native && Kind::of(&step.plugin) == Some(Kind::HostDevice);
        step.function.is_some() || (is_device && (step.device.is_some() || !recorded))
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
            None => host_device::give_back(host, pod, ifname, self.step.device.as_ref(), self.attached),
        };
        back.map_err(native::from_backend)
    }
}

impl Holder<'_> {
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
