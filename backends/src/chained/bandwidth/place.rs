//! Where traffic can be shaped: at the host's end of a pair, else inside the pod; and what is there already. Changes nothing.

use nix::errno::Errno;

use super::conf::{Limit, Spec};
use super::owner;
use crate::Interface;
use crate::chained::Previous;
use crate::error::{Error, ErrorKind};
use crate::netlink::link::{self, Link};
use crate::netlink::qdisc::{self, Filter, Tbf};
use crate::nft::Owner;
use crate::pod::{Host, Pod, Side};

/// Where an attachment is shaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Inside the pod, which is the only place of a link without an end on the host.
    pub(super) inside: bool,
    /// The link that is shaped.
    pub(super) link: Link,
    /// What of its ifb is there.
    pub(super) ifb: Ifb,
}

/// The ifb of an attachment, as far as it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ifb {
    /// It itself.
    pub(super) made: Option<Link>,
    /// One that the reference plugin made for another interface of the container, or for this one and without a filter.
    pub(super) foreign: Option<Link>,
    /// Names that it can have, the best first.
    pub(super) free: Vec<String>,
    /// Filters of the shaped link that lead to it.
    pub(super) filters: Vec<Filter>,
}

impl Place {
    /// The side that the shaped link is on.
    pub(super) fn side<'a>(&self, host: &'a mut Host, pod: &'a mut Pod) -> &'a mut Side {
        if self.inside { &mut pod.side } else { &mut host.side }
    }

    /// The limits of what the link sends and of what it receives: the host's end sends what the pod receives.
    pub(super) const fn limits(&self, spec: &Spec) -> (Option<Limit>, Option<Limit>) {
        if self.inside { (spec.egress, spec.ingress) } else { (spec.ingress, spec.egress) }
    }
}

/// Asks the kernel where the attachment is shaped.
pub(super) fn look(
    host: &mut Host,
    pod: &mut Pod,
    spec: &Spec,
    owner: &Owner<'_>,
    previous: &Previous,
) -> Result<Place, Error> {
    if previous.interfaces.is_empty() {
        return Err(Error::invalid("no interfaces provided"));
    }
    let (inside, link) = shaped(host, pod, owner.ifname, &previous.interfaces)?;
    let mut place = Place { inside, link, ifb: Ifb::default() };
    if place.limits(spec).1.is_some() {
        let index = place.link.index;
        place.ifb = Ifb::look(place.side(host, pod), inside, owner, Some(index))?;
    }
    Ok(place)
}

/// The link to shape, and whether it is in the pod.
fn shaped(host: &mut Host, pod: &mut Pod, ifname: &str, interfaces: &[Interface]) -> Result<(bool, Link), Error> {
    let without = |why: String| format!("container interface {ifname} has no veth peer: {why}");
    let Some(link) = pod.side.link(ifname)? else {
        let text = without(format!("could not look up \"{ifname}\": Link not found"));
        return Err(Error::new(ErrorKind::LinkMissing, text));
    };
    if link.loopback {
        return Err(Error::invalid(without(format!("interface \"{ifname}\" was not a veth interface"))));
    }
    if link.kind != "veth" {
        return Ok((true, link));
    }
    let end = match host_end(host, &link)? {
        Some(end) => end,
        None => {
            let index = link.parent.unwrap_or_default();
            let text = format!("veth peer with index {index} is not in host ns");
            return Err(Error::new(ErrorKind::LinkMissing, text));
        }
    };
    if !interfaces.iter().any(|interface| !interface.in_pod && interface.name == end.name) {
        return Err(Error::invalid("no veth peer of container interface found in host ns"));
    }
    Ok((false, end))
}

/// The other end of a pair, if it is on the host. Each end knows the other's index: a third namespace may use the same.
pub(super) fn host_end(host: &mut Host, link: &Link) -> Result<Option<Link>, Error> {
    let Some(index) = link.parent.filter(|_| link.parent_elsewhere) else { return Ok(None) };
    let is_end = |end: &Link| end.kind == "veth" && end.parent == Some(link.index) && end.parent_elsewhere;
    Ok(host.side.link_at(index)?.filter(is_end))
}

impl Ifb {
    /// Looks for the ifb of a shaped link; without one, for one that stayed.
    pub(super) fn look(side: &mut Side, inside: bool, owner: &Owner<'_>, link: Option<u32>) -> Result<Self, Error> {
        let mut names = vec![owner::own_name(owner)];
        if !inside {
            names.insert(0, owner::shared_name(owner));
        }
        let questions = names.iter().map(|name| link::by_name(name)).collect();
        let failed = |e| Error::kernel("look up link", names.join(", "), e);
        let answers = side.socket.questions(questions, Link::parse).map_err(failed)?;
        let mut ifb = Self::default();
        for (name, answer) in names.iter().zip(answers) {
            match answer {
                Ok(found) if owner::is_ours(&found, owner) => ifb.made = Some(found),
                Ok(found) if owner::is_shared(&found, owner) => ifb.foreign = Some(found),
                Ok(_) => {}
                Err(refusal) if refusal.errno == Errno::ENODEV => ifb.free.push(name.clone()),
                Err(refusal) => return Err(failed(refusal.into())),
            }
        }
        if let Some(link) = link.filter(|_| ifb.made.is_some() || ifb.foreign.is_some()) {
            ifb.follow(side, link)?;
        }
        Ok(ifb)
    }

    /// Filters tell whether a foreign one is this link's.
    fn follow(&mut self, side: &mut Side, link: u32) -> Result<(), Error> {
        let filters = filters(side, link)?;
        let is_led_to = |ifb: &mut Link| filters.iter().any(|filter| filter.redirects_to(ifb.index));
        if self.made.is_none() {
            self.made = self.foreign.take_if(is_led_to);
        }
        let target = self.made.as_ref().map(|ifb| ifb.index);
        self.filters = filters.into_iter().filter(|filter| filter.leads_to(target)).collect();
        Ok(())
    }
}

/// The redirecting filters on what a link receives. A kernel without filters has none.
pub(super) fn filters(side: &mut Side, link: u32) -> Result<Vec<Filter>, Error> {
    match side.socket.dump(&qdisc::filters(link), Filter::parse) {
        Err(failure) if failure.errno() == Some(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        other => other.map_err(|e| Error::kernel("list filters of link", format!("number {link}"), e)),
    }
}

/// The token bucket of what a link sends, if it has one.
pub(super) fn bucket(side: &mut Side, link: &Link) -> Result<Option<Tbf>, Error> {
    let answer = side.socket.echoed(qdisc::root(link.index), qdisc::parse);
    let answer = answer.map_err(|e| Error::kernel("look up the queueing discipline of", link.name.clone(), e))?;
    // The kernel refuses to tell of one that it made itself.
    Ok(answer.and_then(Result::ok).flatten())
}
