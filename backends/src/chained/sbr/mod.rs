//! Source based routing: what a pod sends from an address of this interface leaves by this interface. Knows no CNI JSON.
//!
//! Each address gets a rule that leads to a table of its own, with a default route and the routes of the interface, which leave
//! the main table. [`look`] decides all of it and changes nothing; [`add`] does it, in two datagrams, so that nothing leaves the
//! main table before everything is in its new place.
//!
//! Unlike the reference plugin: an IPv6 link-local network stays in the main table, too, for it belongs to no address; a route
//! with several next hops moves as any other; one that belongs to no address's network is copied for all of its family, and not
//! lost; of two routes to one network the first stays the first; a gateway of the configuration is not overridden by the default
//! route that is copied; a source hint leaves the routes of other interfaces alone.

mod conf;
mod plan;
mod undo;

pub use conf::{Conf, Spec};
pub use plan::Original;
pub use undo::{Attached, remove};

use std::net::IpAddr;

use nix::errno::Errno;

use super::Previous;
use super::lock::Turn;
use super::moved::{list_routes, own_addresses};
use crate::error::{Error, ErrorKind};
use crate::layer3::any_destination;
use crate::netlink::route::{Entry, MAIN_TABLE};
use crate::netlink::rule;
use crate::netlink::whole::{Place, Route};
use crate::netlink::{Refusal, Request};
use crate::pod::{Pod, Side};
use conf::Way;
use plan::{Plan, Step};

/// The act of its error where the interface is not there.
const FIND: &str = "Cannot find network interface";

/// What will be done. While it lives nobody else chooses a table in this pod.
#[derive(Debug)]
pub struct Resolved {
    plan: Plan,
    _turn: Turn,
}

impl Resolved {
    /// What [`remove`] needs to undo it, also half done: to be written down first.
    #[must_use]
    pub fn original(&self) -> &Original {
        &self.plan.original
    }
}

/// Decides everything and changes nothing. Waits until no other plugin is choosing a table in this pod.
///
/// # Errors
/// [`ErrorKind::Invalid`] without any address; [`ErrorKind::LinkMissing`] without the interface; [`ErrorKind::NameTaken`] if there
/// is a rule already for an address and the configured table; [`ErrorKind::Timeout`]; those of the kernel.
pub fn look(pod: &mut Pod, spec: &Spec, ifname: &str, previous: &Previous) -> Result<Resolved, Error> {
    if previous.addresses.is_empty() {
        return Err(Error::invalid(format!("No IP addresses supplied on interface: {ifname}")));
    }
    let addresses = own_addresses(previous, ifname);
    let turn = Turn::take(pod.netns())?;
    let rules = rules(&mut pod.side)?;
    let plan = match spec.way() {
        Way::Table(table) => Plan::with_table(&addresses, *table, &rules)?,
        Way::Own(own) => {
            let link = pod.side.link(ifname)?;
            let link =
                link.ok_or_else(|| Error::at(ErrorKind::LinkMissing, FIND, ifname).because_of("Link not found"))?;
            let routes = list_routes(&mut pod.side)?;
            Plan::with_own_tables(own, link.index, &addresses, &rules, &routes)
        }
    };
    Ok(Resolved { plan, _turn: turn })
}

/// Does what was decided. A failure undoes it.
///
/// # Errors
/// [`ErrorKind::Refused`] with the reference plugin's words and the kernel's.
pub fn add(pod: &mut Pod, resolved: Resolved) -> Result<(), Error> {
    let Plan { mut original, steps, .. } = resolved.plan;
    let index = original.ifindex;
    let requests = steps.iter().map(|step| step.request(index)).collect();
    let refusals = batch(&mut pod.side, requests)?;
    let mut errors = Vec::new();
    for (step, refusal) in refusals.into_iter().filter_map(|(position, why)| Some((steps.get(position)?, why))) {
        if let Step::Rule { assigned, .. } = step {
            // Somebody else's: it stays.
            original.rules.retain(|rule| rule != assigned);
        }
        if let Step::Hint { subnet, .. } = step {
            // As with the reference plugin no reason to fail; but then the route stays as it was.
            original.moved.retain(|moved| moved.route.dst != *subnet || moved.route.has_gateway());
            original.hints.retain(|hint| hint.0 != *subnet);
        } else {
            errors.extend(step.refused(refusal));
        }
    }
    let done = match errors.into_iter().next() {
        Some(error) => Err(error),
        None => clear_main(&mut pod.side, &original),
    };
    done.map_err(|error| error.after_undo(undo::put_back(&mut pod.side, &original)))
}

/// The routes leave the main table.
fn clear_main(side: &mut Side, original: &Original) -> Result<(), Error> {
    let requests = original.moved.iter().map(|moved| moved.route.delete(original.ifindex)).collect();
    let mut refusals = batch(side, requests)?.into_iter();
    match refusals.find(|(_, why)| why.errno != Errno::ESRCH) {
        Some((_, refusal)) => Err(Error::refused("Failed to delete route", "", refusal)),
        None => Ok(()),
    }
}

fn batch(side: &mut Side, requests: Vec<Request>) -> Result<Vec<(usize, Refusal)>, Error> {
    side.socket.batch(requests).map_err(|e| Error::kernel("set up source based routing", "", e))
}

fn rules(side: &mut Side) -> Result<Vec<rule::Present>, Error> {
    side.socket.dump(&rule::all(), rule::parse).map_err(|e| Error::kernel("Failed to list all rules", "", e))
}

/// CHECK: each address has its rule, and the table it leads to has its default route. The reference plugin looks at nothing.
///
/// # Errors
/// [`ErrorKind::Mismatch`] with what is missing; [`ErrorKind::LinkMissing`]; those of the kernel.
pub fn check(pod: &mut Pod, spec: &Spec, ifname: &str, previous: &Previous) -> Result<(), Error> {
    let rules = rules(&mut pod.side)?;
    let link = pod.side.link(ifname)?;
    let link = link.ok_or_else(|| Error::at(ErrorKind::LinkMissing, FIND, ifname).because_of("Link not found"))?;
    let routes = list_routes(&mut pod.side)?;
    for address in own_addresses(previous, ifname) {
        let source = address.address.ip();
        let tables = rules.iter().filter(|rule| rule.is_for(source)).map(|rule| rule.table);
        let missing = |what: String| Error::mismatch(format!("{what} from {source} of interface {ifname} is missing"));
        match spec.way() {
            // Whatever is in that table is somebody else's.
            Way::Table(table) => {
                let found = tables.into_iter().any(|found| *table == 0 || found == *table);
                found.then_some(()).ok_or_else(|| missing(format!("the rule to table {table}")))?;
            }
            Way::Own(own) => {
                let tables: Vec<u32> = tables.collect();
                if tables.is_empty() {
                    return Err(missing("the rule to a table".to_owned()));
                }
                let Some(gateway) = own.gateway(&address) else { continue };
                let any = any_destination(source.is_ipv6());
                let leads = |route: &Route| tables.contains(&route.table) && route.dst == any && route.uses(link.index);
                let found = routes.iter().any(leads);
                found.then_some(()).ok_or_else(|| missing(format!("the default route to {gateway}")))?;
            }
        }
    }
    Ok(())
}

impl Step {
    fn request(&self, index: u32) -> Request {
        match self {
            Self::Rule { assigned, .. } => rule::add(assigned.source, assigned.table),
            Self::Default { gateway, table } => {
                let entry = Entry { index, gateway: Some(*gateway), table: Some(*table), ..Entry::default() };
                entry.add(any_destination(gateway.is_ipv6()))
            }
            Self::Copy { route, table } => route.add(*table, index, Place::Last),
            Self::Hint { subnet, source } => hint(index, *source).append(*subnet),
        }
    }

    /// The error of a refused step, with the reference plugin's words. `None`: the route is there already.
    fn refused(&self, refusal: Refusal) -> Option<Error> {
        let (act, place) = match self {
            Self::Rule { configured: true, .. } => ("failed to add rule", String::new()),
            Self::Rule { .. } => ("Failed to add rule", String::new()),
            Self::Default { gateway, .. } => ("Failed to add default route to", gateway.to_string()),
            Self::Copy { .. } if refusal.errno == Errno::EEXIST => return None,
            Self::Copy { .. } | Self::Hint { .. } => ("Failed to readd route", String::new()),
        };
        Some(Error::refused(act, place, refusal))
    }
}

/// A route to an interface's own network that says which address to send from, in the main table.
fn hint(index: u32, source: IpAddr) -> Entry {
    /// `RT_SCOPE_LINK`
    const LINK: u8 = 253;
    Entry { index, source: Some(source), table: Some(MAIN_TABLE), scope: LINK, ..Entry::default() }
}
