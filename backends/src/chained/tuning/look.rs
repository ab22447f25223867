//! What is there before anything is changed. Changes nothing.

use std::path::PathBuf;

use super::backup;
use super::conf::{Parameter, Spec};
use super::key;
use super::original::{Beyond, Former, Identity, Original, Peer};
use super::parameter::{self, Opened};
use crate::error::{Error, ErrorKind};
use crate::netlink::inet::Inet;
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
    /// All parameters, where the message that changes the link sets each of them: then none is written by its file.
    pub(super) inet: Inet,
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
    // By another of its names a link has no files, and the reference plugin fails.
    let present = link.as_ref().filter(|link| link.name == ifname).and_then(|link| link.inet);
    // In one message the address would come first, and arp_notify too late to announce it.
    let present = present.filter(|_| spec.tuning.mac.is_none());
    let (sysctl, opened, inet) = match present.and_then(|present| told(present, ifname, &spec.parameters)) {
        Some((former, inet)) => (former, None, inet),
        None => parameters(pod, spec).map(|(former, opened)| (former, opened, Inet::default()))?,
    };
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
    Ok(Looked { original, present, ifindex, path, previous, opened, inet })
}

/// The present values of the parameters as the link's answer has them, and the new ones for a message, where that knows all of them.
/// A number in another form than the kernel's is left to the file, which says what is wrong with one that is none.
fn told(present: Inet, ifname: &str, parameters: &[Parameter]) -> Option<(Vec<Former>, Inet)> {
    let mut wanted = Inet::default();
    let mut all = Vec::with_capacity(parameters.len());
    for one in parameters {
        let name = key::inet_of(&one.path, ifname)?;
        let new = one.value.parse::<i32>().ok().filter(|number| number.to_string() == one.value)?;
        let old = Some(present.get(name)?.to_string());
        wanted = wanted.with(name, new)?;
        all.push(Former { path: one.path.clone(), old, new: one.value.clone(), reads: None });
    }
    (!all.is_empty()).then_some((all, wanted))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_takes_all_parameters_or_none() {
        let inet = ["arp_filter", "arp_announce", "arp_ignore", "arp_accept", "arp_notify"]
            .into_iter()
            .fold(Inet::default(), |inet, name| inet.with(name, 7).unwrap());
        let parameters = |all: &[(&str, &str)]| -> Vec<Parameter> {
            all.iter().map(|(path, value)| Parameter { path: (*path).to_owned(), value: (*value).to_owned() }).collect()
        };
        let (ignore, accept) = ("ipv4/conf/eth0/arp_ignore", "ipv4/conf/eth0/arp_accept");
        let (former, wanted) = told(inet, "eth0", &parameters(&[(ignore, "-1"), (accept, "2")])).unwrap();
        let former: Vec<_> =
            former.iter().map(|one| (one.path.as_str(), one.old.as_deref(), one.new.as_str())).collect();
        assert_eq!(former, [(ignore, Some("7"), "-1"), (accept, Some("7"), "2")]);
        assert_eq!(Some(wanted), Inet::default().with("arp_ignore", -1).and_then(|inet| inet.with("arp_accept", 2)));
        for other in [
            &[][..],
            &[(ignore, "01")],
            &[(ignore, "+1")],
            &[(ignore, "1\n")],
            &[(ignore, "")],
            &[(ignore, "2147483648")],
            &[(ignore, "1"), ("ipv4/conf/eth0/rp_filter", "1")],
            &[("ipv4/conf/all/arp_ignore", "1")],
            &[("ipv4/conf/eth1/arp_ignore", "1")],
        ] {
            assert!(told(inet, "eth0", &parameters(other)).is_none(), "{other:?}");
        }
        // An older kernel does not say it.
        assert!(told(Inet::default(), "eth0", &parameters(&[(ignore, "1")])).is_none());
    }
}
