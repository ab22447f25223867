//! Makes the changes, or none.

use nix::errno::Errno;

use super::backup;
use super::conf::{Parameter, Spec};
use super::look::Looked;
use super::original::Original;
use super::parameter::{self, Opened};
use super::value::is_same;
use crate::Interface;
use crate::error::Error;
use crate::netlink::Failure;
use crate::netlink::inet::Inet;
use crate::netlink::tuning::Tuning;
use crate::pod::{Host, Pod};

/// What the result gains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gained {
    /// The hardware address of every interface of this name, in the configuration's form.
    pub mac: Option<String>,
}

impl Gained {
    /// Writes it into the interfaces of a result. The reference plugin asks for the name only, wherever the interface is.
    pub fn write_to(&self, interfaces: &mut [Interface], ifname: &str) {
        if let Some(mac) = &self.mac {
            interfaces.iter_mut().filter(|one| one.name == ifname).for_each(|one| one.mac.clone_from(mac));
        }
    }
}

/// Writes the backup, then sets what `spec` says: the parameters, and the link's attributes in one message. A failure puts
/// everything back as `looked` found it; if that fails too, the error says so. `host` is needed for a pair's other end.
///
/// # Errors
/// [`crate::ErrorKind::Io`] if the backup cannot be written: then nothing was changed; those of the kernel.
pub fn add(mut host: Option<&mut Host>, pod: &mut Pod, spec: &Spec, looked: &Looked) -> Result<Gained, Error> {
    if !spec.is_idle() {
        let text = backup::text(&looked.original)?;
        let is_new = looked.previous.as_ref() != Some(&text);
        if is_new {
            backup::put(&looked.path, &text)?;
        }
        if let Err(error) = change(host.as_deref_mut(), pod, spec, looked) {
            let undone = undo(host, pod, looked).and(if is_new { restore_backup(looked) } else { Ok(()) });
            return Err(error.after_undo(undone));
        }
    }
    Ok(Gained { mac: spec.mac_text.clone() })
}

fn change(host: Option<&mut Host>, pod: &mut Pod, spec: &Spec, looked: &Looked) -> Result<(), Error> {
    let tuning = Tuning { inet: looked.inet, ..spec.tuning };
    if !spec.parameters.is_empty() && looked.inet == Inet::default() {
        let read = match &looked.opened {
            Some(opened) => write_opened(&spec.parameters, opened)?,
            None => pod.netns().run(|| write_all(&spec.parameters))??,
        };
        remember(looked, read)?;
    }
    if !tuning.is_empty() {
        let request = tuning.request(looked.ifindex);
        pod.side.apply(request).map_err(|e| Error::kernel("set attributes of link", spec.ifname.clone(), e))?;
    }
    if let (Some(host), Some(peer)) = (host, looked.present.peer()) {
        let tuning = Tuning { mtu: spec.mtu(), ..Tuning::default() };
        let place = format!("number {}, the other end of {}", peer.ifindex, spec.ifname);
        host.side.apply(tuning.request(peer.ifindex)).map_err(|e| Error::kernel("set MTU of link", place, e))?;
    }
    Ok(())
}

/// Writes them in order. What then reads otherwise than it was written is returned: path and text.
fn write_all(parameters: &[Parameter]) -> Result<Vec<(String, String)>, Error> {
    for one in parameters {
        parameter::write(&one.path, &one.value)?;
    }
    let mut otherwise = Vec::new();
    for one in parameters {
        // What cannot be read cannot be compared later either.
        if let Ok(Some(text)) = parameter::read(&one.path)
            && !is_same(&text, &one.value)
        {
            otherwise.push((one.path.clone(), text));
        }
    }
    Ok(otherwise)
}

/// The same by their files, from wherever.
fn write_opened(parameters: &[Parameter], opened: &[Opened]) -> Result<Vec<(String, String)>, Error> {
    for (one, file) in parameters.iter().zip(opened) {
        file.write(&one.value)?;
    }
    let read = parameters.iter().zip(opened).filter_map(|(one, file)| Some((one, file.read()?)));
    Ok(read.filter(|(one, text)| !is_same(text, &one.value)).map(|(one, text)| (one.path.clone(), text)).collect())
}

/// Notes in the backup what the kernel made of the values. Rare: lists of ports, times that are no whole ticks.
fn remember(looked: &Looked, read: Vec<(String, String)>) -> Result<(), Error> {
    let mut original = looked.original.clone();
    let Some(beyond) = original.beyond.as_mut().filter(|_| !read.is_empty()) else { return Ok(()) };
    for (path, text) in read {
        beyond.sysctl.iter_mut().filter(|one| one.path == path).for_each(|one| one.reads = Some(text.clone()));
    }
    backup::put(&looked.path, &backup::text(&original)?)
}

/// A link that has gone, with its pod or by somebody's hand, took with it what there was to undo.
fn unless_gone(applied: Result<(), Failure>) -> Result<(), Failure> {
    applied.or_else(|failure| if failure.errno() == Some(Errno::ENODEV) { Ok(()) } else { Err(failure) })
}

/// As it was found.
fn undo(host: Option<&mut Host>, pod: &mut Pod, looked: &Looked) -> Result<(), Error> {
    let present: &Original = &looked.present;
    let mut done = Ok(());
    if let (Some(host), Some(peer)) = (host, present.peer()) {
        let tuning = Tuning { mtu: Some(peer.mtu), ..Tuning::default() };
        let applied = unless_gone(host.side.apply(tuning.request(peer.ifindex)));
        done = done.and(applied.map_err(|e| Error::kernel("set MTU of link", format!("number {}", peer.ifindex), e)));
    }
    if !present.tuning().is_empty() {
        let applied = unless_gone(pod.side.apply(present.tuning().request(looked.ifindex)));
        let place = || format!("number {}", looked.ifindex);
        done = done.and(applied.map_err(|e| Error::kernel("set attributes of link", place(), e)));
    }
    if present.parameters().is_empty() {
        return done;
    }
    let write_back = || {
        let mut done = Ok(());
        for former in present.parameters() {
            let Some(old) = &former.old else { continue };
            match parameter::read(&former.path) {
                // It has gone with its link.
                Ok(None) => {}
                // One that has its value still is not written: some do work at every write.
                Ok(Some(text)) if text == *old => {}
                _ => done = done.and(parameter::write_back(&former.path, old)),
            }
        }
        done
    };
    done.and(pod.netns().run(write_back).and_then(|written| written))
}

fn restore_backup(looked: &Looked) -> Result<(), Error> {
    match &looked.previous {
        Some(bytes) => backup::put(&looked.path, bytes),
        None => backup::remove(&looked.path),
    }
}
