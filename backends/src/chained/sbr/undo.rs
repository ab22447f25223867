//! Puts everything back as it was before source based routing, present or not. Knows no configuration but the table.

use std::net::IpAddr;

use nix::errno::Errno;

use super::plan::{Assigned, Original};
use crate::chained::Previous;
use crate::chained::moved::{come_back, list_routes, own_addresses};
use crate::error::Error;
use crate::netlink::Request;
use crate::netlink::route::MAIN_TABLE;
use crate::netlink::rule;
use crate::netlink::whole::Route;
use crate::pod::{Pod, Side};

/// What is known of an attachment whose source based routing ends.
#[derive(Debug, Clone, Copy)]
pub struct Attached<'a> {
    /// The interface.
    pub ifname: &'a str,
    /// `table` of the configuration.
    pub table: Option<i64>,
    /// The result of the plugins before, where it is known.
    pub previous: Option<&'a Previous>,
    /// What [`super::look`] wrote down.
    pub original: Option<&'a Original>,
    /// The interface lives on: its routes come back. Otherwise they go with it, and only the rules are left to remove.
    pub link_stays: bool,
}

/// Removes what was added, also by the reference plugin, and also where half of it or the interface is gone. `None`: the
/// namespace is gone, and everything with it.
///
/// # Errors
/// Those of the kernel.
pub fn remove(pod: Option<&mut Pod>, attached: &Attached<'_>) -> Result<(), Error> {
    let Some(pod) = pod else { return Ok(()) };
    let side = &mut pod.side;
    match attached.original {
        Some(original) if attached.link_stays => put_back(side, original),
        Some(original) => {
            let requests = rules_of(side, &original.rules)?;
            carry_out(side, requests)
        }
        None => find_and_remove(side, attached),
    }
}

/// Everything as it was, in one datagram.
pub(super) fn put_back(side: &mut Side, original: &Original) -> Result<(), Error> {
    let mut requests = rules_of(side, &original.rules)?;
    let index = original.ifindex;
    if index != 0 && side.link_at(index)?.is_some() {
        let present = list_routes(side)?;
        requests.extend(routes_in(&present, &original.tables, index));
        let is_hint = |route: &&Route| {
            let made = |(subnet, source): &(_, IpAddr)| route.dst == *subnet && route.source == Some(*source);
            let was_there = || original.moved.iter().any(|moved| moved.route.is_same(route));
            route.table == MAIN_TABLE && route.is_of(index) && original.hints.iter().any(made) && !was_there()
        };
        requests.extend(present.iter().filter(is_hint).map(|route| route.delete(index)));
        requests.extend(come_back(&original.moved, &present, index));
    }
    carry_out(side, requests)
}

/// Without knowing what was made: rules are found by the addresses, tables by the rules.
fn find_and_remove(side: &mut Side, attached: &Attached<'_>) -> Result<(), Error> {
    let link = side.link(attached.ifname)?;
    let mut sources: Vec<IpAddr> = Vec::new();
    if let Some(previous) = attached.previous {
        sources.extend(own_addresses(previous, attached.ifname).iter().map(|address| address.address.ip()));
    }
    if let Some(link) = &link {
        sources.extend(side.addresses(link)?.iter().map(|present| present.address.ip()));
    }
    let table = attached.table.map(super::conf::number).transpose()?;
    let is_wanted = |found: &u32| table.is_none_or(|table| table == 0 || table == *found);
    let rules = super::rules(side)?;
    let mut requests = Vec::new();
    let mut tables = Vec::new();
    for rule in rules.iter().filter(|rule| is_wanted(&rule.table)) {
        if let Some(source) = sources.iter().find(|source| rule.is_for(**source)) {
            requests.push(rule::delete(*source, rule.table, rule.priority));
            tables.push(rule.table);
        }
    }
    if let Some(link) = link.filter(|_| attached.link_stays && table.is_none() && !tables.is_empty()) {
        tables.retain(|table| *table != MAIN_TABLE);
        requests.extend(routes_in(&list_routes(side)?, &tables, link.index));
    }
    carry_out(side, requests)
}

/// What removes those of the rules that are there.
fn rules_of(side: &mut Side, assigned: &[Assigned]) -> Result<Vec<Request>, Error> {
    let mut requests = Vec::new();
    for rule in super::rules(side)? {
        // The kernel chose a table where 0 was asked for.
        let is_it = |one: &&Assigned| rule.is_for(one.source) && (one.table == 0 || one.table == rule.table);
        requests.extend(assigned.iter().find(is_it).map(|one| rule::delete(one.source, rule.table, rule.priority)));
    }
    Ok(requests)
}

/// What removes the interface's routes in these tables.
fn routes_in(present: &[Route], tables: &[u32], index: u32) -> Vec<Request> {
    let is_it = |route: &&Route| tables.contains(&route.table) && route.is_of(index);
    present.iter().filter(is_it).map(|route| route.delete(index)).collect()
}

/// What is gone by now, or there again, is as wanted; and an interface that is gone or down has no routes.
fn carry_out(side: &mut Side, requests: Vec<Request>) -> Result<(), Error> {
    const AS_WANTED: [Errno; 5] = [Errno::ENOENT, Errno::ESRCH, Errno::EEXIST, Errno::ENODEV, Errno::ENETDOWN];
    let act = "end source based routing";
    let refusals = side.socket.batch(requests).map_err(|e| Error::kernel(act, "", e))?;
    match refusals.into_iter().find(|(_, why)| !AS_WANTED.contains(&why.errno)) {
        Some((_, refusal)) => Err(Error::refused(act, "", refusal)),
        None => Ok(()),
    }
}
