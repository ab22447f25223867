//! The pod's default routes: which there are, and moving the default to one interface. Only the main table decides. Knows no
//! annotation.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use crate::error::{Error, ErrorKind};
use crate::layer3::any_destination;
use crate::master::{is_default, routes};
use crate::netlink::link::Link;
use crate::netlink::route::{Entry, MAIN_TABLE, Present};
use crate::pod::{Host, Pod};

/// How often other default routes are looked for and removed: somebody may add one meanwhile, but not for ever.
const PASSES: u32 = 3;
/// The kind of a port of Open vSwitch, and of its datapath.
const OPEN_VSWITCH: &str = "openvswitch";

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    const fn any(self) -> IpNetwork {
        any_destination(matches!(self, Self::V6))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// A default route in the main table; one with several next hops is several of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The interface it leaves by.
    pub ifname: String,
    /// `None`: everything is on the link.
    pub gateway: Option<IpAddr>,
    /// The lowest wins. IPv4's default is 0, IPv6's 1024.
    pub metric: u32,
}

/// Where the default route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// This gateway.
    Gateway(IpAddr),
    /// Whatever default routes the interface has already: only those of other interfaces go.
    Own,
}

fn present(pod: &mut Pod, family: Family) -> Result<Vec<Present>, Error> {
    let all = routes(&mut pod.side, family == Family::V6, Some(MAIN_TABLE))?;
    Ok(all.into_iter().filter(is_default).collect())
}

/// The interfaces of the host that its default routes leave by, and those that these are made of: ports of a bridge or a bond, what a
/// VLAN is on. Sorted, each once.
///
/// # Errors
/// As [`default_routes`].
pub fn uplinks(host: &mut Host) -> Result<Vec<String>, Error> {
    let mut left_by = BTreeSet::new();
    for is_v6 in [false, true] {
        let all = routes(&mut host.side, is_v6, Some(MAIN_TABLE))?;
        left_by.extend(all.iter().filter(|route| is_default(route)).map(|route| route.index));
    }
    let links = host.side.links()?;
    let needed = made_of(&links, left_by);
    let mut names: Vec<String> =
        links.into_iter().filter(|link| needed.contains(&link.index)).map(|link| link.name).collect();
    names.sort();
    Ok(names)
}

/// These links, and all that are below them.
fn made_of(links: &[Link], mut needed: BTreeSet<u32>) -> BTreeSet<u32> {
    // The port of Open vSwitch that has an address has no controller, and its cards have its datapath for one: which, nobody says.
    let is_switch = |index: u32| links.iter().any(|link| link.index == index && link.kind == OPEN_VSWITCH);
    let by_switch = needed.iter().any(|index| is_switch(*index));
    // Each turn adds one at least, or is the last.
    for _ in 0..=links.len() {
        let is_below = |link: &Link| {
            let of_needed =
                link.controller.is_some_and(|above| needed.contains(&above) || (by_switch && is_switch(above)));
            let has_needed = |above: &Link| {
                needed.contains(&above.index) && !above.parent_elsewhere && above.parent == Some(link.index)
            };
            of_needed || links.iter().any(has_needed)
        };
        let more: Vec<u32> = links
            .iter()
            .filter(|link| !needed.contains(&link.index) && is_below(link))
            .map(|link| link.index)
            .collect();
        if more.is_empty() {
            break;
        }
        needed.extend(more);
    }
    needed
}

/// The default routes of one family.
///
/// # Errors
/// [`ErrorKind::Refused`], [`ErrorKind::Io`] or [`ErrorKind::Timeout`] if the kernel cannot be asked.
pub fn default_routes(pod: &mut Pod, family: Family) -> Result<Vec<DefaultRoute>, Error> {
    let mut found = Vec::new();
    for route in present(pod, family)? {
        // A route whose interface is gone by now went with it.
        if let Some(link) = pod.side.link_at(route.index)? {
            let metric = route.priority.unwrap_or_default();
            found.push(DefaultRoute { ifname: link.name, gateway: route.gateway, metric });
        }
    }
    Ok(found)
}

/// Makes the interface `ifname` the only one with a default route of this family: one replacing message, so that there is no
/// moment without a default route, then the others are removed, then what is there is read back.
///
/// # Errors
/// [`ErrorKind::LinkMissing`] without such an interface; [`ErrorKind::Invalid`] if it shall keep its own default route and has
/// none; [`ErrorKind::Mismatch`] if the routes are not as wanted afterwards; those of the kernel.
pub fn default_route_move(pod: &mut Pod, family: Family, ifname: &str, via: Via) -> Result<(), Error> {
    let act = "move the default route to";
    let link = pod.side.link(ifname)?.ok_or_else(|| Error::at(ErrorKind::LinkMissing, act, ifname))?;
    let wanted = match via {
        Via::Gateway(gateway) => Some(gateway),
        Via::Own => None,
    };
    let stays = |route: &Present| route.index == link.index && wanted.is_none_or(|gw| route.gateway == Some(gw));
    // One that is there already is not replaced: IPv4 replaces the first of several with the same metric, and finds that the
    // wanted one follows (EEXIST, net/ipv4/fib_trie.c).
    if let Some(gateway) = wanted.filter(|_| !present(pod, family).is_ok_and(|all| all.iter().any(stays))) {
        let entry = Entry { index: link.index, gateway: Some(gateway), ..Entry::default() };
        pod.side
            .apply(entry.replace(family.any()))
            .map_err(|e| Error::kernel(act, format!("{gateway} at {ifname}"), e))?;
    }
    if !present(pod, family)?.iter().any(stays) {
        let text = format!("interface {ifname} has no {} default route to keep", family.name());
        return Err(Error::invalid(text));
    }
    for _ in 0..PASSES {
        let others: Vec<_> = present(pod, family)?.into_iter().filter(|route| !stays(route)).collect();
        if others.is_empty() {
            return verify(pod, family, ifname, stays);
        }
        others.iter().try_for_each(|other| delete(pod, family, other))?;
    }
    verify(pod, family, ifname, stays)
}

fn delete(pod: &mut Pod, family: Family, route: &Present) -> Result<(), Error> {
    let entry = Entry {
        index: route.index,
        gateway: route.gateway,
        priority: route.priority,
        table: Some(route.table),
        ..Entry::default()
    };
    match pod.side.apply(entry.delete(family.any())) {
        Ok(()) => Ok(()),
        // Gone by itself, or a next hop that went with another one of its route.
        Err(failure) if failure.errno() == Some(Errno::ESRCH) => Ok(()),
        Err(failure) => Err(Error::kernel("remove default route of interface", route.index.to_string(), failure)),
    }
}

fn verify(pod: &mut Pod, family: Family, ifname: &str, stays: impl Fn(&Present) -> bool) -> Result<(), Error> {
    let now = present(pod, family)?;
    if !now.is_empty() && now.iter().all(stays) {
        return Ok(());
    }
    let text = format!("the {} default route does not lead to {ifname} alone after moving it there", family.name());
    Err(Error::new(ErrorKind::Mismatch, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: &str, controller: Option<u32>, parent: Option<u32>) -> Link {
        let mut link = Link::default();
        (link.index, link.kind, link.controller, link.parent) = (index, kind.to_owned(), controller, parent);
        link
    }

    #[test]
    fn what_a_default_route_goes_through_is_followed_down() {
        // A VLAN on a bond of two cards; a bridge with a pod's veth and one more card.
        let mut links = [
            link(2, "", Some(4), None),
            link(3, "", Some(4), None),
            link(4, "bond", None, None),
            link(5, "vlan", None, Some(4)),
            link(6, "bridge", None, None),
            link(7, "", Some(6), None),
            link(8, "veth", Some(6), Some(3)),
            link(9, "", None, None),
        ];
        links[6].parent_elsewhere = true;
        let below = |index: u32| -> Vec<u32> { made_of(&links, BTreeSet::from([index])).into_iter().collect() };
        assert_eq!(below(5), [2, 3, 4, 5]);
        assert_eq!(below(6), [6, 7, 8], "a veth's other end is no card");
        assert_eq!((below(9), below(2)), (vec![9], vec![2]));
        assert_eq!(made_of(&links, BTreeSet::new()).len(), 0);
    }

    #[test]
    fn of_open_vswitch_all_cards_are_meant() {
        let links = [
            link(2, "", Some(5), None),
            link(3, "", None, None),
            link(4, OPEN_VSWITCH, None, None),
            link(5, OPEN_VSWITCH, None, None),
        ];
        assert!(made_of(&links, BTreeSet::from([4])).contains(&2));
        assert!(!made_of(&links, BTreeSet::from([4])).contains(&3));
        assert_eq!(made_of(&links, BTreeSet::from([3])), BTreeSet::from([3]), "nothing that is needed is its");
    }
}
