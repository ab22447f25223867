//! Devices of the host that attachments moved or set up go back to what they were, by their records. Knows no link that is
//! made for a pod.
//!
//! What sriov-cni attached is brought back by what that kept. A virtual function may have another pod by the time an old record is deleted: nobody touches it while another has the claim of it.

use std::path::Path;

use backends::sysfs::{PciAddress, Sysfs};
use backends::{Host, Kind, NetNs, Pod, Resolved, host_device, sriov};

use crate::cni::error::{CniError, Code};
use crate::cni::result::CniResult;
use crate::devices::claim::{self, Ledger};
use crate::journal::{self, Allotted, Attachment, Held, Intent, Step};
use crate::log::warn;
use crate::native;
use names::Names;

mod names;
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

/// An ADD that is repeated finds its functions as the one before left them: what they were before that one is what its record
/// says too.
///
/// # Errors
/// The record cannot be read.
pub fn carry(held: &Held, intent: &mut Intent) -> Result<(), journal::Error> {
    if steps_of(&mut intent.attachments).all(|step| step.function.is_none()) {
        return Ok(());
    }
    let records = held.records()?;
    carry_over(
        records.iter().map(|record| &record.intent).filter(|first| first.boot_id == intent.boot_id),
        &mut intent.attachments,
    );
    Ok(())
}

fn steps_of(attachments: &mut [Attachment]) -> impl Iterator<Item = &mut Step> {
    attachments.iter_mut().flat_map(|attachment| &mut attachment.steps)
}

/// `earlier`: the oldest first.
fn carry_over<'a>(earlier: impl Iterator<Item = &'a Intent>, attachments: &mut [Attachment]) {
    let steps = earlier.flat_map(|intent| &intent.attachments).flat_map(|attachment| &attachment.steps);
    let first: Vec<&sriov::Function> = steps.filter_map(|step| step.function.as_deref()).collect();
    for function in steps_of(attachments).filter_map(|step| step.function.as_mut()) {
        if let Some(first) = first.iter().find(|first| first.address == function.address) {
            **function = function.as_ref().clone().since(first);
        }
    }
}

/// Once devices are claimed: between the look at one and its claim another pod may have had it, and what was noted is that pod's.
///
/// # Errors
/// One is not as it was noted: code 11. The kernel cannot be asked.
pub fn check_unchanged(resolved: &[Vec<Option<Resolved>>], host: &mut Host) -> Result<(), CniError> {
    let mut all = resolved.iter().flatten().flatten();
    all.try_for_each(|one| one.check_unchanged(host)).map_err(native::from_backend)
}

/// Gives them all back, the last one first; what failed is returned.
pub fn give_back(mut pod: Option<&mut Pod>, devices: &[Away], holder: Holder) -> Vec<CniError> {
    if devices.is_empty() {
        return Vec::new();
    }
    let mut host = match Host::open() {
        Ok(host) => host.telling(warn),
        Err(e) => return vec![native::from_backend(e)],
    };
    let back = devices.iter().rev().map(|away| away.come_back(&mut host, pod.as_deref_mut(), holder));
    back.filter_map(Result::err).collect()
}

/// Functions that are claimed by a record which says nothing of them: it cannot be read, or is lost. What they were is lost with it;
/// they come home as they can be for anybody, and who has set them up otherwise before is told. `set_up`: the record had said something.
/// `inside` is asked only where there are any.
///
/// # Errors
/// One could not be brought back; its claim stays.
pub fn reclaim(
    state_dir: &Path,
    record: &str,
    set_up: bool,
    inside: impl FnOnce() -> Result<Option<NetNs>, CniError>,
) -> Result<(), CniError> {
    let refused = |e: claim::Error| CniError::new(Code::Io, native::chain(&e));
    let ledger = Ledger::new(state_dir);
    let claimed = ledger.of(record).map_err(refused)?;
    let functions: Vec<PciAddress> = claimed.iter().filter_map(|name| name.parse().ok()).collect();
    if functions.is_empty() {
        return Ok(());
    }
    let mut pod = inside()?.map(Pod::enter).transpose().map_err(native::from_backend)?;
    let mut host = Host::open().map_err(native::from_backend)?.telling(warn);
    let names = Names::of(state_dir);
    for address in functions {
        let found = sriov::unrecorded(&mut host, pod.as_mut(), &address, set_up, &|name| names.has(name));
        let found = found.map_err(native::from_backend)?;
        if let Some(function) = found {
            warn(&format!(
                "what {address} was before its pod had it is lost with record {record}: it comes back with no VLAN, hardware address or rate of \
                 its card's, untrusted, and with the driver, the MTU and the hardware address that it has; set up anew what it had beyond"
            ));
            sriov::give_back(&mut host, pod.as_mut(), "", &function, false).map_err(native::from_backend)?;
        }
        let device = Allotted { resource: String::new(), id: address.to_string() };
        ledger.release(&device, record).map_err(refused)?;
    }
    Ok(())
}

impl Away<'_> {
    fn come_back(&self, host: &mut Host, pod: Option<&mut Pod>, holder: Holder) -> Result<(), CniError> {
        let ifname = &self.attachment.ifname;
        // Where ADD did not finish, the device may never have moved: then nothing is on its way back.
        let back = match &self.step.function {
            Some(function) if holder.has(self.attachment, function)? => {
                let back = sriov::give_back(host, pod, ifname, function, self.attached);
                back.map_err(native::from_backend)?;
                return holder.forget_handed(ifname, function);
            }
            Some(_) => Ok(()),
            None if Kind::of(&self.step.plugin) == Some(Kind::Sriov) => return holder.take_over(host, pod, ifname),
            None => match (&self.step.device, pod) {
                (Some(device), pod) => host_device::give_back(host, pod, ifname, device, self.attached),
                (None, Some(pod)) => {
                    let names = Names::of(holder.state_dir);
                    host_device::give_back_unrecorded(host, pod, ifname, &|name| names.has(name))
                }
                (None, None) => Ok(()),
            },
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

    /// What was written for sriov-cni, when the node was on its way back to that.
    fn forget_handed(&self, ifname: &str, function: &sriov::Function) -> Result<(), CniError> {
        let handed = peer::find(Path::new(peer::PLACE), self.sandbox, ifname).unwrap_or_default();
        let Some(handed) = handed.filter(|handed| *handed.device() == function.address) else { return Ok(()) };
        handed.forget(true).map_err(|e| CniError::new(Code::Io, format!("what sriov-cni would keep: {e}")))
    }

    /// Whether a function is still this record's, or nobody's: a claim may be lost.
    fn has(&self, attachment: &Attachment, function: &sriov::Function) -> Result<bool, CniError> {
        let Some(record) = self.record.filter(|_| self.of_this_boot) else { return Ok(false) };
        let refused = |e: claim::Error| CniError::new(Code::Io, native::chain(&e));
        let ledger = Ledger::new(self.state_dir);
        if let Some(device) = &attachment.device {
            return ledger.keep(device, record).map_err(refused);
        }
        // Nobody would give back a claim of what the attachment does not name.
        let device = Allotted { resource: String::new(), id: function.address.to_string() };
        Ok(ledger.holder(&device).map_err(refused)?.is_none_or(|holder| holder == record))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The intent of an ADD that found a function with this VLAN, bound to this driver.
    fn intent(pf: &str, vlan: u32, driver: &str, rebound: Option<&str>) -> Intent {
        let function = json!({"address": "0000:01:10.0", "pf": pf, "index": 0, "driver": driver, "rebound": rebound,
            "settings": {"mac": "02:00:00:00:01:00", "vlan": vlan, "qos": 0, "proto": 33024, "minRate": 0, "maxRate": 0,
                "spoofCheck": true, "trust": false, "linkState": 0}});
        let step = json!({"type": "sriov", "native": true, "conf": {}, "function": function});
        let attachment = json!({"network": "n", "cniName": "n", "cniVersion": "1.0.0", "ifname": "net1", "args": "",
            "default": true, "steps": [step]});
        let key = json!({"network": "n", "sandbox": "c", "ifname": "net1"});
        let intent = json!({"key": key, "bootId": "b", "netns": "", "path": [], "attachments": [attachment]});
        serde_json::from_value(intent).unwrap()
    }

    fn function(intent: &Intent) -> Value {
        let function = intent.attachments.first().unwrap().steps.first().unwrap().function.as_deref().unwrap();
        json!([function.settings.vlan, function.driver, function.rebound])
    }

    #[test]
    fn a_repeated_add_goes_back_to_what_the_first_one_found() {
        let first = intent("0000:01:00.0", 0, "igbvf", Some("vfio-pci"));
        let second = intent("0000:01:00.0", 100, "vfio-pci", None);
        let mut third = intent("0000:01:00.0", 200, "vfio-pci", Some("netdev"));
        carry_over([&first, &second].into_iter(), &mut third.attachments);
        assert_eq!(function(&third), json!([0, "igbvf", "vfio-pci"]));
        let mut rebound = intent("0000:01:00.0", 200, "vfio-pci", Some("netdev"));
        carry_over([&intent("0000:01:00.0", 7, "vfio-pci", None)].into_iter(), &mut rebound.attachments);
        assert_eq!(function(&rebound), json!([7, "vfio-pci", "netdev"]));
        let mut other = second.clone();
        carry_over([&intent("0000:02:00.0", 0, "igbvf", None)].into_iter(), &mut other.attachments);
        assert_eq!(function(&other), json!([100, "vfio-pci", null]), "another card");
    }
}
