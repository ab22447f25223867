//! Routes that a chained plugin takes away from an interface, and how they come back as they were. Knows no plugin.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Previous;
use crate::error::{Error, ErrorKind};
use crate::layer3::Address;
use crate::netlink::route::{self, MAIN_TABLE};
use crate::netlink::whole::{Place, Route};
use crate::netlink::{Request, rule};
use crate::pod::{Pod, Side};

/// All unicast routes of the namespace.
pub(super) fn list_routes(side: &mut Side) -> Result<Vec<Route>, Error> {
    side.socket.dump(&route::all(), Route::parse).map_err(|e| Error::kernel("Failed to list all routes", "", e))
}

/// The addresses of this interface in the result, each once: also those of which it does not say whose they are.
pub(super) fn own_addresses(previous: &Previous, ifname: &str) -> Vec<Address> {
    let is_other = |position: usize| previous.interfaces.get(position).is_some_and(|other| other.name != ifname);
    let mut own: Vec<Address> = Vec::new();
    for (address, _) in previous.addresses.iter().filter(|(_, position)| !position.is_some_and(is_other)) {
        if !own.iter().any(|known| known.address.ip() == address.address.ip()) {
            own.push(*address);
        }
    }
    own
}

/// The tables that an interface's routes are in now: that of its VRF or the main one, then those that rules lead to from its
/// addresses, in the order in which they are asked.
///
/// # Errors
/// [`ErrorKind::LinkMissing`] without the interface; those of the kernel.
pub fn tables(pod: &mut Pod, ifname: &str, addresses: &[IpAddr]) -> Result<Vec<u32>, Error> {
    let act = "find the routing tables of";
    let link = pod.side.link(ifname)?.ok_or_else(|| Error::at(ErrorKind::LinkMissing, act, ifname))?;
    let controller = link.controller.map_or(Ok(None), |index| pod.side.link_at(index))?;
    let vrf = controller.filter(|link| link.kind == "vrf").and_then(|link| link.mode);
    let mut rules = pod.side.socket.dump(&rule::all(), rule::parse).map_err(|e| Error::kernel(act, ifname, e))?;
    rules.sort_by_key(|rule| rule.priority);
    let leads = |rule: &&rule::Present| addresses.iter().any(|address| rule.is_for(*address));
    let mut tables = vec![vrf.unwrap_or(MAIN_TABLE)];
    for rule in rules.iter().filter(leads) {
        if !tables.contains(&rule.table) {
            tables.push(rule.table);
        }
    }
    Ok(tables)
}

/// A route of an interface, and where it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moved {
    pub(super) route: Route,
    /// It was before another interface's route to the same destination, which it shall not follow when it comes back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    first: bool,
}

impl Moved {
    /// Those `routes` that are `taken`, in their order.
    pub(super) fn among(routes: &[Route], index: u32, taken: impl Fn(&Route) -> bool) -> Vec<Self> {
        let moved = |(position, route): (usize, &Route)| {
            let foreign = |other: &Route| !other.uses(index) && other.rivals(route);
            let (before, after) = routes.split_at(position);
            let first = !before.iter().any(foreign) && after.iter().any(foreign);
            Self { route: route.clone(), first }
        };
        routes.iter().enumerate().filter(|(_, route)| taken(route)).map(moved).collect()
    }
}

/// What brings those back that are not `present`: networks before gateways, which must be reachable when they are named.
pub(super) fn come_back(all: &[Moved], present: &[Route], index: u32) -> Vec<Request> {
    let absent = || all.iter().filter(|moved| !present.iter().any(|route| route.is_same(&moved.route)));
    let mut requests = Vec::new();
    for with_gateway in [false, true] {
        let these = || absent().filter(|moved| moved.route.has_gateway() == with_gateway);
        // The last one that is put first is the first.
        let firsts: Vec<_> = these().filter(|moved| moved.first).collect();
        requests.extend(firsts.iter().rev().map(|moved| moved.route.add(moved.route.table, index, Place::First)));
        let lasts = these().filter(|moved| !moved.first);
        requests.extend(lasts.map(|moved| moved.route.add(moved.route.table, index, Place::Last)));
    }
    requests
}
