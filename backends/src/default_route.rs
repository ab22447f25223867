//! The pod's default routes: which there are, and moving the default to one interface. Only the main table decides. Knows no
//! annotation.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use crate::error::{Error, ErrorKind};
use crate::layer3::any_destination;
use crate::master::{is_default, routes};
use crate::netlink::route::{Entry, MAIN_TABLE, Present};
use crate::pod::{Host, Pod};

/// How often other default routes are looked for and removed: somebody may add one meanwhile, but not for ever.
const PASSES: u32 = 3;

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

/// The interfaces of the host that its default routes leave by, each once.
///
/// # Errors
/// As [`default_routes`].
pub fn uplinks(host: &mut Host) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for is_v6 in [false, true] {
        for route in routes(&mut host.side, is_v6, Some(MAIN_TABLE))?.iter().filter(|route| is_default(route)) {
            names.extend(host.side.link_at(route.index)?.map(|link| link.name));
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
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
