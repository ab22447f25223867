//! CHECK: whether everything still is as it was set. Changes nothing.

use super::backup;
use super::conf::Spec;
use super::key::TREE;
use super::original::Original;
use super::parameter;
use super::value::is_same;
use crate::error::{Error, ErrorKind};
use crate::netlink::link::Link;
use crate::nft::Owner;
use crate::pod::Pod;

/// Compares the kernel's state with the configuration.
///
/// # Errors
/// [`ErrorKind::Mismatch`] in the reference plugin's words, with values where it prints addresses of memory; those of the
/// kernel.
pub fn check(pod: &mut Pod, spec: &Spec, owner: &Owner<'_>) -> Result<(), Error> {
    if spec.is_idle() {
        return Ok(());
    }
    parameters(pod, spec, owner)?;
    let missing = || Error::new(ErrorKind::Mismatch, format!("Cannot find container link {}", spec.ifname));
    attributes(spec, &pod.side.link(&spec.ifname)?.ok_or_else(missing)?)
}

/// As [`check`], of an attachment without a link of its own. A parameter that cannot be read can be set, and not compared.
///
/// # Errors
/// As [`check`].
pub fn parameters(pod: &Pod, spec: &Spec, owner: &Owner<'_>) -> Result<(), Error> {
    if spec.parameters.is_empty() {
        return Ok(());
    }
    let read = || spec.parameters.iter().map(|one| parameter::read(&one.path)).collect::<Vec<_>>();
    for (one, read) in spec.parameters.iter().zip(pod.netns().run(read)?) {
        let place = format!("{TREE}/{}", one.path);
        let Some(now) = read.or_else(|error| unreadable(&error).map(|()| Some(one.value.clone())).ok_or(error))? else {
            return Err(Error::at(ErrorKind::Mismatch, "open", place).because_of("no such file or directory"));
        };
        if !is_same(&now, &one.value) && noted(spec, owner, &one.path).as_ref() != Some(&now) {
            let wanted = &one.value;
            let words = format!("Error: Tuning configured value of {place} is {wanted}, current value is {now}");
            return Err(Error::mismatch(words));
        }
    }
    Ok(())
}

/// Not for reading, or without a value.
fn unreadable(error: &Error) -> Option<()> {
    (error.kind() == ErrorKind::Io).then_some(())
}

/// What the kernel made of a value when it was set.
fn noted(spec: &Spec, owner: &Owner<'_>, path: &str) -> Option<String> {
    let file = backup::path_of(&spec.directory, owner).ok()?;
    let saved: Original = backup::parse(&file, &backup::bytes(&file).ok()??).ok()?;
    saved.parameters().iter().find(|one| one.path == path).and_then(|one| one.reads.clone())
}

fn attributes(spec: &Spec, link: &Link) -> Result<(), Error> {
    let (name, tuning) = (&spec.ifname, &spec.tuning);
    let differs = |text: String| Err(Error::mismatch(format!("Error: Tuning {text}")));
    if let (Some(mac), Some(text)) = (tuning.mac, &spec.mac_text)
        && link.mac != Some(mac)
    {
        return differs(format!("configured Ethernet of {name} is {text}, current value is {}", link.mac_text()));
    }
    // The request, not the count: whoever captures packets in the pod does not change what was configured.
    let promiscuous = tuning.promiscuous.unwrap_or(false);
    if promiscuous != link.promiscuous {
        let now = u8::from(link.promiscuous);
        return differs(format!("link {name} configured promisc is {promiscuous}, current value is {now}"));
    }
    if let Some(mtu) = tuning.mtu.filter(|mtu| *mtu != link.mtu) {
        return differs(format!("configured MTU of {name} is {mtu}, current value is {}", link.mtu));
    }
    if let Some(on) = tuning.all_multicast.filter(|on| *on != link.all_multicast) {
        let now = link.all_multicast;
        return differs(format!("configured all-multicast mode of {name} is {on}, current value is {now}"));
    }
    if let Some(length) = tuning.tx_queue.filter(|length| *length != link.tx_queue) {
        let now = link.tx_queue;
        return differs(format!("configured Transmit Queue Length of {name} is {length}, current value is {now}"));
    }
    Ok(())
}
