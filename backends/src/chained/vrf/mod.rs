//! A routing domain of its own: the interface becomes a port of a VRF, and its routes those of the VRF's table. Knows no CNI
//! JSON.
//!
//! A new port goes down and up (`cycle_netdev` in drivers/net/vrf.c), and with that its routes and most IPv6 addresses are gone.
//! [`look`] reads all of them, whole, and [`add`] brings them back in one datagram. Nothing waits: an address whose examination
//! for duplicates was over is not examined again, one under examination is usable meanwhile.
//!
//! Unlike the reference plugin: routes without a gateway that somebody added come back, too, and routes with several next hops,
//! and those of other tables; a table in use is not free; a failure leaves nothing.

mod conf;
mod table;
mod undo;

pub use conf::{Conf, Spec};
pub use undo::{Attached, Original, remove};

use nix::errno::Errno;

use super::lock::Turn;
use super::moved::{Moved, come_back, list_routes};
use crate::error::{Error, ErrorKind};
use crate::netlink::link::{self, Link};
use crate::netlink::route::MAIN_TABLE;
use crate::netlink::whole::{Address, Place, Route};
use crate::netlink::{NewLink, Request, Shape, rule};
use crate::pod::{Host, Pod, Side};

/// What will be done. While it lives no other plugin changes a routing domain in this pod.
#[derive(Debug)]
pub struct Resolved {
    name: String,
    table: u32,
    /// `None`: it is to be made.
    vrf: Option<u32>,
    configured: bool,
    ifname: String,
    original: Original,
    _turn: Turn,
}

impl Resolved {
    /// What [`remove`] needs to undo it, also half done: to be written down first.
    #[must_use]
    pub fn original(&self) -> &Original {
        &self.original
    }
}

/// Whether the kernel can make a VRF; changes nothing.
///
/// # Errors
/// As [`crate::supports`].
pub fn supported(host: &mut Host) -> Result<bool, Error> {
    crate::probe::knows(host, Shape::Vrf(1))
}

/// Decides everything and changes nothing.
///
/// # Errors
/// [`ErrorKind::Invalid`] if the VRF has another table, its name is another link's, or the interface is a port already;
/// [`ErrorKind::LinkMissing`] without the interface; [`ErrorKind::Timeout`]; those of the kernel.
pub fn look(pod: &mut Pod, spec: &Spec, ifname: &str) -> Result<Resolved, Error> {
    let turn = Turn::take(pod.netns())?;
    let side = &mut pod.side;
    let vrf = find(side, spec)?;
    let routes = list_routes(side)?;
    let table = match (&vrf, spec.table) {
        (Some((_, table)), _) => *table,
        (None, Some(table)) => table,
        (None, None) => free_table(side, &routes)?,
    };
    let link = side
        .link(ifname)?
        .ok_or_else(|| Error::new(ErrorKind::LinkMissing, format!("could not get link by name {ifname}")))?;
    if let Some(index) = link.controller {
        let name = side.link_at(index)?.map_or_else(|| format!("number {index}"), |controller| controller.name);
        return Err(Error::invalid(format!("interface {ifname} has already a master set: {name}")));
    }
    let original = Original {
        ifindex: link.index,
        made: vrf.is_none(),
        addresses: addresses(side, &link)?,
        // IPv4 keeps a route whose other next hops leave by other interfaces.
        routes: Moved::among(&routes, link.index, |route| {
            route.is_of(link.index) || route.dst.is_ipv6() && route.uses(link.index)
        }),
    };
    Ok(Resolved {
        name: spec.name.clone(),
        table,
        vrf: vrf.map(|(index, _)| index),
        configured: spec.table.is_some(),
        ifname: ifname.to_owned(),
        original,
        _turn: turn,
    })
}

/// Index and table of the VRF, if it is there.
fn find(side: &mut Side, spec: &Spec) -> Result<Option<(u32, u32)>, Error> {
    let name = &spec.name;
    let Some(vrf) = side.link(name)? else { return Ok(None) };
    let table = match vrf.mode {
        Some(table) if vrf.kind == "vrf" => table,
        _ => return Err(Error::invalid(format!("Netlink {name} is not a VRF"))),
    };
    if spec.table.is_some_and(|wanted| wanted != table) {
        return Err(Error::invalid(format!("VRF {name} already exist with different routing table {table}")));
    }
    Ok(Some((vrf.index, table)))
}

fn free_table(side: &mut Side, routes: &[Route]) -> Result<u32, Error> {
    let links = side.links()?;
    let rules = side.socket.dump(&rule::all(), rule::parse).map_err(|e| Error::kernel("list", "rules", e))?;
    let none = || Error::invalid("findFreeRoutingTableID: Failed to find an available routing id");
    table::first_free(&links, &rules, routes).ok_or_else(none)
}

/// The IPv6 addresses of a link but those that come back by themselves; link-local ones first: from there neighbours are asked.
fn addresses(side: &mut Side, link: &Link) -> Result<Vec<Address>, Error> {
    let listed = side
        .socket
        .dump(&crate::netlink::addr::of_link(link.index), Address::parse)
        .map_err(|e| Error::kernel("failed getting list of IP addresses for", link.name.clone(), e))?;
    let mut own: Vec<_> = listed.into_iter().filter(|one| one.index == link.index && !one.temporary).collect();
    own.sort_by_key(|one| !one.is_link_local());
    Ok(own)
}

/// Does what was decided. A failure undoes it.
///
/// # Errors
/// [`ErrorKind::Refused`] with the reference plugin's words and the kernel's.
pub fn add(pod: &mut Pod, resolved: Resolved) -> Result<(), Error> {
    let side = &mut pod.side;
    let (vrf, table) = match resolved.vrf {
        Some(index) => (index, resolved.table),
        None => make(side, &resolved)?,
    };
    let enslave = link::set_controller(resolved.original.ifindex, vrf);
    let done = match side.apply(enslave) {
        Err(failure) => {
            let text = format!("could not set vrf {} as master of {}", resolved.name, resolved.ifname);
            Err(Error::new(ErrorKind::Refused, text).because(failure))
        }
        Ok(()) => bring_back(side, &resolved, table),
    };
    done.map_err(|error| error.after_undo(undo::put_back(side, &resolved.name, &resolved.original)))
}

/// Makes the VRF, or finds the one that somebody else made meanwhile. Its index and its table.
fn make(side: &mut Side, resolved: &Resolved) -> Result<(u32, u32), Error> {
    let Resolved { name, table, configured, .. } = resolved;
    let refused = |failure| Error::new(ErrorKind::Refused, format!("could not add VRF {name}")).because(failure);
    match side.apply(NewLink { up: true, ..NewLink::new(name, Shape::Vrf(*table)) }.request()) {
        Err(failure) if failure.errno() != Some(Errno::EEXIST) => return Err(refused(failure)),
        _ => {}
    }
    let spec = Spec { name: name.clone(), table: configured.then_some(*table) };
    let missing = || Error::at(ErrorKind::LinkMissing, "find the new VRF", name.clone());
    find(side, &spec)?.ok_or_else(missing)
}

/// Addresses and routes, in one datagram.
fn bring_back(side: &mut Side, resolved: &Resolved, table: u32) -> Result<(), Error> {
    let Original { ifindex, addresses, routes, .. } = &resolved.original;
    let mut steps: Vec<Step<'_>> = addresses.iter().flat_map(|one| [Step::Away(one), Step::Address(one)]).collect();
    steps.extend(in_table(routes).map(|route| Step::Route(route, table)));
    let mut requests: Vec<_> = steps.iter().map(|step| step.request(*ifindex)).collect();
    let elsewhere: Vec<_> = routes.iter().filter(|moved| moved.route.table != MAIN_TABLE).cloned().collect();
    requests.extend(come_back(&elsewhere, &[], *ifindex));
    let refusals = side.socket.batch(requests).map_err(|e| Error::kernel("configure", resolved.ifname.clone(), e))?;
    for (position, refusal) in refusals {
        // Gone already, or there already; and what is behind the steps was in a table that is nobody's here.
        if [Errno::EADDRNOTAVAIL, Errno::EEXIST].contains(&refusal.errno) {
            continue;
        }
        let text = match steps.get(position) {
            None | Some(Step::Away(_)) => continue,
            Some(Step::Address(one)) => {
                format!("could not restore address {} to {} @ {}", one.address, resolved.ifname, resolved.name)
            }
            Some(Step::Route(route, table)) => format!("could not add route '{}'", describe(route, *table)),
        };
        return Err(Error::new(ErrorKind::Refused, text).because(refusal));
    }
    Ok(())
}

/// The main table's routes in the order in which they get into the VRF's: networks before gateways, and of IPv4 the first last,
/// because each goes before those that are there.
fn in_table(routes: &[Moved]) -> impl Iterator<Item = &Route> {
    let main = || routes.iter().map(|moved| &moved.route).filter(|route| route.table == MAIN_TABLE).rev();
    main().filter(|route| !route.has_gateway()).chain(main().filter(|route| route.has_gateway()))
}

enum Step<'a> {
    Away(&'a Address),
    Address(&'a Address),
    Route(&'a Route, u32),
}

impl Step<'_> {
    fn request(&self, index: u32) -> Request {
        match self {
            Self::Away(address) => address.delete(),
            Self::Address(address) => address.add(),
            // Another port may have a route to the same destination: the last one wins, as with the reference plugin. IPv6 would
            // make both next hops of one route.
            Self::Route(route, table) if route.dst.is_ipv6() => route.add(*table, index, Place::Instead),
            Self::Route(route, table) => route.add(*table, index, Place::First),
        }
    }
}

/// A route as the reference plugin prints it.
fn describe(route: &Route, table: u32) -> String {
    let text = |ip: Option<std::net::IpAddr>| ip.map_or_else(|| "<nil>".to_owned(), |ip| ip.to_string());
    let hop = route.hops.first();
    format!(
        "{{Ifindex: {} Dst: {} Src: {} Gw: {} Flags: [] Table: {table} Realm: 0}}",
        hop.map_or(0, |hop| hop.index),
        route.dst,
        text(route.source),
        text(hop.and_then(|hop| hop.gateway)),
    )
}

/// CHECK: the interface is a port of the VRF, which has the configured table. The reference plugin does not look at the table.
///
/// # Errors
/// [`ErrorKind::Mismatch`] with the reference plugin's text where it has one; those of the kernel.
pub fn check(pod: &mut Pod, spec: &Spec, ifname: &str) -> Result<(), Error> {
    let name = &spec.name;
    let vrf = pod.side.link(name)?.ok_or_else(|| Error::mismatch("Link not found"))?;
    if vrf.kind != "vrf" {
        return Err(Error::mismatch(format!("Netlink {name} is not a VRF")));
    }
    if pod.side.link(ifname)?.is_none_or(|link| link.controller != Some(vrf.index)) {
        return Err(Error::mismatch(format!("failed to find {ifname} associated to vrf {name}")));
    }
    let found = vrf.mode.unwrap_or_default();
    match spec.table {
        Some(table) if table != found => {
            Err(Error::mismatch(format!("VRF {name} has routing table {found}, expected {table}")))
        }
        _ => Ok(()),
    }
}
