//! Limits of a pod's rate in both directions, by token buckets: what a link sends waits in its own; what it receives is
//! redirected to an ifb and waits there. With a pair both are at its host's end, where the pod cannot change them, and as the
//! reference plugin makes them; a link without an end on the host is shaped inside the pod, in reverse.
//!
//! Nothing need be remembered to undo this: an ifb tells whose it is from the instant at which it is made, and all else is at the
//! links. A place for filters that was made stays, empty, until its link goes: others may use it by then.

mod bucket;
mod conf;
mod owner;
mod place;

pub use conf::{Conf, Entry, Limit, Runtime, Spec};
pub use owner::Noted;
pub use place::Place;

use nix::errno::Errno;

use super::Previous;
use crate::Interface;
use crate::error::{Error, ErrorKind};
use crate::netlink::link::{self, Link};
use crate::netlink::qdisc::{self, Filter};
use crate::netlink::{NewLink, Refusal, Request, Shape};
use crate::nft::Owner;
use crate::pod::{Host, Pod, Side};
use crate::removal::{Spawn, remove_links};
use bucket::Ticks;
use place::{Ifb, bucket, filters, host_end};

/// Asks the kernel where the attachment is shaped, after the plugins before this one. Changes nothing.
///
/// # Errors
/// [`ErrorKind::Invalid`] or [`ErrorKind::LinkMissing`] with the reference plugin's texts; those of the kernel.
pub fn look(
    host: &mut Host,
    pod: &mut Pod,
    spec: &Spec,
    owner: &Owner<'_>,
    previous: &Previous,
) -> Result<Place, Error> {
    place::look(host, pod, spec, owner, previous)
}

/// Sets the limits, all or none; those that are there are replaced. Gives what the result gains: the ifb, if it is on the host.
/// `group`: the device group of an ifb in the pod, so that it leaves with the pod's links.
///
/// # Errors
/// [`ErrorKind::NameTaken`] if a link that is none of ours has the ifb's name, [`ErrorKind::Refused`] if the kernel refuses (as
/// one does that has no ifb or no u32 filters).
pub fn add(
    host: &mut Host,
    pod: &mut Pod,
    spec: &Spec,
    place: &Place,
    owner: &Owner<'_>,
    group: Option<u32>,
) -> Result<Option<Interface>, Error> {
    if spec.is_idle() {
        return Ok(None);
    }
    match shape(place.side(host, pod), spec, place, owner, group) {
        Ok(ifb) => Ok(ifb.filter(|_| !place.inside).map(|ifb| Interface {
            mac: ifb.mac_text(),
            name: ifb.name,
            in_pod: false,
            mtu: None,
        })),
        Err(error) => Err(error.after_undo(remove(host, Some(pod), owner, None))),
    }
}

/// One message among those that set the limits.
#[derive(Debug)]
enum Step<'a> {
    Alias(String),
    ShapeIfb(qdisc::Tbf),
    Shape(qdisc::Tbf),
    Filters,
    Unredirect,
    Forget(&'a Filter),
    Redirect,
}

impl Step<'_> {
    fn request(&self, link: u32, ifb: u32) -> Request {
        match self {
            Self::Alias(alias) => link::set_alias(ifb, alias),
            Self::ShapeIfb(bucket) => qdisc::shape(ifb, *bucket),
            Self::Shape(bucket) => qdisc::shape(link, *bucket),
            Self::Filters => qdisc::receive_filters(link),
            Self::Unredirect => qdisc::unredirect(link),
            Self::Forget(filter) => filter.delete(link),
            Self::Redirect => qdisc::redirect(link, ifb),
        }
    }

    /// The error of a refused step. `None`: one that need not be.
    fn refused(&self, refusal: Refusal) -> Option<Error> {
        let act = match self {
            Self::Unredirect | Self::Forget(_) => return None,
            Self::Filters if refusal.errno == Errno::EEXIST => return None,
            Self::Alias(_) => "set the alias of the ifb",
            Self::ShapeIfb(_) => "create ifb qdisc: create qdisc",
            Self::Shape(_) => "create qdisc",
            Self::Filters => "create ingress qdisc",
            Self::Redirect => "add filter",
        };
        Some(Error::refused(act, "", refusal))
    }
}

/// Sends what sets the limits; gives the ifb.
fn shape(
    side: &mut Side,
    spec: &Spec,
    place: &Place,
    owner: &Owner<'_>,
    group: Option<u32>,
) -> Result<Option<Link>, Error> {
    let (sent, received) = place.limits(spec);
    let ticks = Ticks::read();
    let mut steps: Vec<Step<'_>> = sent.map(|limit| Step::Shape(limit.bucket(ticks))).into_iter().collect();
    let mut ifb = None;
    if let Some(limit) = received {
        ifb = Some(match &place.ifb.made {
            Some(made) => made.clone(),
            None => make_ifb(side, place, owner, group.filter(|_| place.inside))?,
        });
        steps.extend([Step::Alias(owner::alias(owner)), Step::ShapeIfb(limit.bucket(ticks)), Step::Filters]);
        // The new filter stands behind these: they go first.
        steps.extend(place.ifb.filters.iter().map(Step::Forget));
        steps.extend([Step::Unredirect, Step::Redirect]);
    }
    let index = ifb.as_ref().map_or(0, |ifb| ifb.index);
    let requests = steps.iter().map(|step| step.request(place.link.index, index)).collect();
    let refused = side.socket.batch(requests).map_err(|e| Error::kernel("shape", place.link.name.clone(), e))?;
    let first = refused.into_iter().find_map(|(position, refusal)| steps.get(position)?.refused(refusal));
    first.map_or(Ok(ifb), Err)
}

/// Makes the ifb under the first name that is still free.
fn make_ifb(side: &mut Side, place: &Place, owner: &Owner<'_>, group: Option<u32>) -> Result<Link, Error> {
    for name in &place.ifb.free {
        let new = NewLink {
            mtu: Some(place.link.mtu),
            mac: Some(owner::mac(owner)),
            group,
            queue_len: Some(0),
            up: true,
            ..NewLink::new(name, Shape::Ifb)
        };
        match side.apply(new.request()) {
            Ok(()) => {
                let missing = || Error::at(ErrorKind::LinkMissing, "find the new link", name.clone());
                return side.link(name)?.filter(|link| owner::is_ours(link, owner)).ok_or_else(missing);
            }
            // Another interface of the container was faster.
            Err(failure) if failure.errno() == Some(Errno::EEXIST) => {}
            Err(failure) => return Err(Error::kernel("adding link", "", failure)),
        }
    }
    Err(Error::at(ErrorKind::NameTaken, "adding link", "").because_of("file exists"))
}

/// DEL: takes the limits away; everything may be gone, also the namespace (`pod` is none then, or where the shaped link goes
/// anyway). With `spawn` another process waits for the kernel to delete the ifb.
///
/// # Errors
/// Those of the kernel, except that something is not there.
pub fn remove(
    host: &mut Host,
    pod: Option<&mut Pod>,
    owner: &Owner<'_>,
    spawn: Option<&Spawn<'_>>,
) -> Result<(), Error> {
    let mut end = None;
    if let Some(pod) = pod
        && let Some(link) = pod.side.link(owner.ifname)?
    {
        if link.kind != "veth" {
            let ifb = Ifb::look(&mut pod.side, true, owner, Some(link.index))?;
            release(&mut pod.side, &link, ifb.made.as_ref())?;
            let links: Vec<Link> = ifb.made.into_iter().collect();
            let elsewhere = match spawn.filter(|_| !links.is_empty()) {
                Some(spawn) => Some((pod.second_socket()?, spawn)),
                None => None,
            };
            return remove_links(&mut pod.side, &links, elsewhere);
        }
        end = host_end(host, &link)?;
    }
    let ifb = Ifb::look(&mut host.side, false, owner, end.as_ref().map(|end| end.index))?;
    // The reference plugin's goes with the last link that can need it.
    let foreign = ifb.foreign.filter(|_| end.is_none() && ifb.made.is_none());
    let links: Vec<Link> = ifb.made.or(foreign).into_iter().collect();
    if let Some(end) = end {
        release(&mut host.side, &end, links.first())?;
    }
    let elsewhere = match spawn.filter(|_| !links.is_empty()) {
        Some(spawn) => Some((host.second_socket()?, spawn)),
        None => None,
    };
    remove_links(&mut host.side, &links, elsewhere)
}

/// Takes what shapes it from a link that stays. A filter that leads to a link that is gone lets nothing pass.
fn release(side: &mut Side, link: &Link, ifb: Option<&Link>) -> Result<(), Error> {
    let ifb = ifb.map(|ifb| ifb.index);
    let leading = filters(side, link.index)?.into_iter().filter(|filter| filter.leads_to(ifb));
    let mut requests: Vec<Request> = leading.map(|filter| filter.delete(link.index)).collect();
    requests.push(qdisc::unshape(link.index));
    let failed = |e| Error::kernel("take the limits from", link.name.clone(), e);
    let gone = [Errno::ENOENT, Errno::EINVAL, Errno::ENODEV, Errno::EOPNOTSUPP];
    let mut refused = side.socket.batch(requests).map_err(failed)?.into_iter();
    match refused.find(|(_, refusal)| !gone.contains(&refusal.errno)) {
        Some((_, refusal)) => Err(failed(refusal.into())),
        None => Ok(()),
    }
}

/// CHECK: whether the limits are there. Changes nothing.
///
/// # Errors
/// [`ErrorKind::Mismatch`] in the reference plugin's words; as [`look`].
pub fn check(host: &mut Host, pod: &mut Pod, spec: &Spec, owner: &Owner<'_>, previous: &Previous) -> Result<(), Error> {
    if spec.is_idle() {
        return Ok(());
    }
    let mut place = place::look(host, pod, spec, owner, previous)?;
    let (sent, received) = place.limits(spec);
    let ticks = Ticks::read();
    let ifb = place.ifb.made.take().or(place.ifb.foreign.take());
    let side = place.side(host, pod);
    let mut compare = |limit: Limit, link: &Link| {
        let bucket = bucket(side, link)?.ok_or_else(|| Error::mismatch("Failed to find qdisc"))?;
        limit.mismatch(ticks, bucket).map_or(Ok(()), |text| Err(Error::mismatch(text)))
    };
    if let Some(limit) = sent {
        compare(limit, &place.link)?;
    }
    let Some(limit) = received else { return Ok(()) };
    let ifb = ifb.ok_or_else(|| Error::mismatch("get ifb device: Link not found"))?;
    compare(limit, &ifb)?;
    let name = &ifb.name;
    if !ifb.up {
        return Err(Error::mismatch(format!("ifb device {name} is down")));
    }
    if !place.ifb.filters.iter().any(|filter| filter.redirects_to(ifb.index)) {
        let text = format!("Failed to find filter that redirects {} to {name}", place.link.name);
        return Err(Error::mismatch(text));
    }
    Ok(())
}

/// All ifbs on the host that limit attachments, sorted. Those inside pods go with these.
///
/// # Errors
/// Those of the kernel.
pub fn noted(host: &mut Host) -> Result<Vec<Noted>, Error> {
    let read = |payload: &[u8]| Link::parse(payload).map(|link| Noted::of(&link));
    let listed = host.side.socket.dump(&link::ifbs(), read);
    let mut noted = listed.map_err(|e| Error::kernel("list", "ifbs", e))?;
    noted.sort();
    Ok(noted)
}

/// GC: removes them; what is gone already, or another's by now, is no error. What led to them goes with its link.
///
/// # Errors
/// Those of the kernel.
pub fn remove_noted(host: &mut Host, noted: &[Noted]) -> Result<(), Error> {
    let mut links = Vec::with_capacity(noted.len());
    for one in noted {
        links.extend(host.side.link(&one.device)?.filter(|link| one.is(link)));
    }
    remove_links(&mut host.side, &links, None)
}
