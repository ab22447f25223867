//! Puts back what was there before the attachment was tuned. Everything may be gone.

use std::path::Path;

use super::backup;
use super::key;
use super::original::{Former, Identity, Original};
use super::parameter;
use super::value::is_same;
use crate::error::Error;
use crate::netlink::tuning::Tuning;
use crate::nft::Owner;
use crate::pod::{Host, Pod};

/// Puts back what `original` says (the journal's), or else the backup, and removes the backup. Whatever is gone is no error: the
/// namespace (`pod` is `None`), the link (then only the parameters of the whole namespace are put back), the backup. Values of
/// another namespace or another link of that name are nobody's here and left.
///
/// Returns what could not be put back or read, to be told: the reference plugin's DEL succeeds all the same.
#[must_use = "what could not be put back has to be told"]
pub fn remove(
    host: Option<&mut Host>,
    pod: Option<&mut Pod>,
    owner: &Owner<'_>,
    directory: &Path,
    original: Option<&Original>,
) -> Vec<Error> {
    let mut told = Vec::new();
    let path = match backup::path_of(directory, owner) {
        Ok(path) => path,
        Err(error) => return vec![error],
    };
    let read = || backup::bytes(&path)?.map(|bytes| backup::parse(&path, &bytes)).transpose();
    let saved = read().unwrap_or_else(|error| {
        told.push(error);
        None
    });
    let is_another_s = saved.as_ref().is_some_and(|saved| !saved.may_be_of(owner));
    let saved = saved.filter(|_| !is_another_s);
    if let (Some(pod), Some(original)) = (pod, original.or(saved.as_ref())) {
        put_back(host, pod, owner, original, saved.as_ref(), &mut told);
    }
    if !is_another_s {
        told.extend(backup::remove(&path).err());
    }
    told
}

fn put_back(
    host: Option<&mut Host>,
    pod: &mut Pod,
    owner: &Owner<'_>,
    original: &Original,
    saved: Option<&Original>,
    told: &mut Vec<Error>,
) {
    if !original.may_be_in(pod.netns().id()) {
        return;
    }
    let link = pod.side.link(owner.ifname).unwrap_or_else(|error| {
        told.push(error);
        None
    });
    let link = link.filter(|link| original.may_be_on(Identity::of(link)));
    if let Some(link) = &link {
        let refused = attributes(original.tuning(), |one| {
            let applied = pod.side.apply(one.request(link.index));
            applied.map_err(|e| Error::kernel("put back attributes of link", owner.ifname, e))
        });
        told.extend(refused);
        if let (Some(host), Some(peer)) = (host, original.peer()) {
            told.extend(peer_back(host, peer.ifindex, peer.mtu, link.index).err());
        }
    }
    let is_there = |former: &&Former| link.is_some() || key::link_of(&former.path) != Some(owner.ifname);
    let formers: Vec<&Former> = original.parameters().iter().filter(is_there).collect();
    if formers.is_empty() {
        return;
    }
    let write = || formers.iter().filter_map(|former| parameter_back(former, saved).err()).collect::<Vec<_>>();
    match pod.netns().run(write) {
        Ok(failures) => told.extend(failures),
        Err(error) => told.push(error),
    }
}

/// All in one message; where that is refused, one by one: what can be put back is.
fn attributes(tuning: Tuning, mut apply: impl FnMut(Tuning) -> Result<(), Error>) -> Vec<Error> {
    if tuning.is_empty() || apply(tuning).is_ok() {
        return Vec::new();
    }
    let none = Tuning::default();
    let each = [
        Tuning { mtu: tuning.mtu, ..none },
        Tuning { mac: tuning.mac, ..none },
        Tuning { promiscuous: tuning.promiscuous, ..none },
        Tuning { all_multicast: tuning.all_multicast, ..none },
        Tuning { tx_queue: tuning.tx_queue, ..none },
    ];
    each.into_iter().filter(|one| !one.is_empty()).filter_map(|one| apply(one).err()).collect()
}

/// Only if it is still the other end.
fn peer_back(host: &mut Host, index: u32, mtu: u32, of: u32) -> Result<(), Error> {
    let there = host.side.link_at(index)?;
    if there.is_none_or(|end| end.kind != "veth" || end.parent != Some(of)) {
        return Ok(());
    }
    let request = Tuning { mtu: Some(mtu), ..Tuning::default() }.request(index);
    host.side.apply(request).map_err(|e| Error::kernel("put back MTU of link", format!("number {index}"), e))
}

/// Puts a parameter back, unless it has neither the value that it was given nor what the kernel made of that: then somebody else
/// has set it since, who will not expect an older value than the one found.
fn parameter_back(former: &Former, saved: Option<&Original>) -> Result<(), Error> {
    let Some(old) = &former.old else { return Ok(()) };
    let Some(now) = parameter::read(&former.path)? else { return Ok(()) };
    let noted = saved.into_iter().flat_map(Original::parameters).find(|one| one.path == former.path);
    let reads = noted.and_then(|one| one.reads.as_ref()).or(former.reads.as_ref());
    let is_ours = is_same(&now, &former.new) || reads == Some(&now);
    if now == *old || !is_ours { Ok(()) } else { parameter::write_back(&former.path, old) }
}
