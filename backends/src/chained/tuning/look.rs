//! What is there before anything is changed. Changes nothing.

use std::path::PathBuf;

use super::backup;
use super::conf::{Parameter, Spec};
use super::original::{Beyond, Former, Identity, Original, Peer};
use super::parameter::{self, Opened};
use crate::error::{Error, ErrorKind};
use crate::netlink::link::Link;
use crate::nft::Owner;
use crate::pod::{Host, Pod};

/// Parameters whose files are kept open between looking and writing: more are rarely set, and descriptors are few.
const OPENED_MAX: usize = 16;

/// What was found, and what is to be kept of it.
#[derive(Debug, Clone)]
pub struct Looked {
    /// The values of before the first change: what DEL puts back.
    pub(super) original: Original,
    /// The present values: what a failing ADD puts back.
    pub(super) present: Original,
    /// The link's index, where it has attributes to be changed.
    pub(super) ifindex: u32,
    pub(super) path: PathBuf,
    /// What is in the backup's place already.
    pub(super) previous: Option<Vec<u8>>,
    /// All parameters, in order, if each can be written from outside the namespace.
    pub(super) opened: Option<Vec<Opened>>,
}

impl Looked {
    /// What [`super::remove`] needs to put everything back, for a journal: to be written before [`super::add`].
    #[must_use]
    pub fn original(&self) -> &Original {
        &self.original
    }
}

/// Looks up all that `spec` changes, and the backup of an earlier ADD. Changes nothing.
///
/// # Errors
/// [`ErrorKind::LinkMissing`] and [`ErrorKind::Io`] in the reference plugin's words where there is no such link or parameter;
/// those of the kernel; [`ErrorKind::Invalid`] if the backup's place is another attachment's.
pub fn look(host: Option<&mut Host>, pod: &mut Pod, spec: &Spec, owner: &Owner<'_>) -> Result<Looked, Error> {
    let ifname = spec.ifname.as_str();
    let link = pod.side.link(ifname)?;
    if link.is_none() && !spec.tuning.is_empty() {
        return Err(
            Error::new(ErrorKind::LinkMissing, format!("failed to get \"{ifname}\"")).because_of("Link not found")
        );
    }
    let (sysctl, opened) = parameters(pod, spec)?;
    let beyond = Beyond {
        network: owner.network.to_owned(),
        sandbox: owner.sandbox.to_owned(),
        ifname: ifname.to_owned(),
        netns: pod.netns().id(),
        link: link.as_ref().map(Identity::of),
        sysctl,
        peer: match (host, &link, spec.mtu()) {
            (Some(host), Some(link), Some(mtu)) => peer(host, link, mtu)?,
            _ => None,
        },
    };
    let present = Original::of(link.as_ref(), &spec.tuning, beyond);
    let path = backup::path_of(&spec.directory, owner)?;
    // What cannot be read is replaced, or found to be in the way when it is: the reference plugin looks at nothing there.
    let previous = backup::bytes(&path).ok().flatten();
    let earlier = previous.as_deref().and_then(|bytes| backup::parse(&path, bytes).ok());
    let original = match earlier {
        Some(earlier) if !earlier.may_be_of(owner) => {
            // Both names may have the sign between them: "a_b" and "c" are "a" and "b_c".
            let words = "it is the backup of another attachment whose names give the same file";
            return Err(Error::at(ErrorKind::Invalid, "use", path.display().to_string()).because_of(words));
        }
        Some(earlier) => present.clone().preceded_by(earlier),
        None => present.clone(),
    };
    let ifindex = link.map(|link| link.index).unwrap_or_default();
    Ok(Looked { original, present, ifindex, path, previous, opened })
}

/// The present values of the parameters, and their files.
fn parameters(pod: &Pod, spec: &Spec) -> Result<(Vec<Former>, Option<Vec<Opened>>), Error> {
    if spec.parameters.is_empty() {
        return Ok((Vec::new(), None));
    }
    let former = |one: &Parameter| {
        let (old, opened) = parameter::writable(&one.path)?;
        let opened = opened.filter(|_| spec.parameters.len() <= OPENED_MAX);
        Ok((Former { path: one.path.clone(), old, new: one.value.clone(), reads: None }, opened))
    };
    let read = || spec.parameters.iter().map(former).collect::<Result<Vec<_>, Error>>();
    let (former, opened): (Vec<Former>, Vec<Option<Opened>>) = pod.netns().run(read)??.into_iter().unzip();
    Ok((former, opened.into_iter().collect()))
}

/// The host's end of the link's pair, where it has to have the same MTU: a longer packet than the pod's end takes is lost without a
/// word, and one that the host's end does not take never leaves the pod. A bridge has the smallest MTU of its ports: for one
/// pod's sake it is not lowered for all.
fn peer(host: &mut Host, link: &Link, mtu: u32) -> Result<Option<Peer>, Error> {
    let Some(index) = link.parent.filter(|_| link.kind == "veth" && link.parent_elsewhere) else { return Ok(None) };
    let there = host.side.link_at(index)?;
    let is_peer = |end: &Link| end.kind == "veth" && end.parent_elsewhere && end.parent == Some(link.index);
    let wanted = |end: &Link| end.mtu < mtu || end.mtu > mtu && end.controller.is_none();
    Ok(there.filter(|end| is_peer(end) && wanted(end)).map(|end| Peer { ifindex: end.index, mtu: end.mtu }))
}
