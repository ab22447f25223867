//! Decides rules, tables and routes from what is there. Asks nobody.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::conf::Own;
use crate::chained::moved::Moved;
use crate::error::{Error, ErrorKind};
use crate::layer3::{Address, any_destination};
use crate::netlink::route::MAIN_TABLE;
use crate::netlink::rule;
use crate::netlink::whole::Route;

/// The first table that may be taken.
const FIRST_TABLE: u32 = 100;
/// `RT_SCOPE_LINK`: no gateway between.
const SCOPE_LINK: u8 = 253;
/// What the kernel takes for the priority of a route that says none (`IP6_RT_PRIO_USER`; IPv4's is 0).
const V6_PRIORITY: u32 = 1024;

/// A rule: what is sent from this address is looked up in this table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Assigned {
    pub(super) source: IpAddr,
    pub(super) table: u32,
}

/// How it was before, and what was about to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// The interface; 0 where only rules are made.
    pub(super) ifindex: u32,
    pub(super) rules: Vec<Assigned>,
    /// Tables that only this interface has routes in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tables: Vec<u32>,
    /// What leaves the main table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) moved: Vec<Moved>,
    /// Networks that come into the main table, with the address to send from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) hints: Vec<(IpNetwork, IpAddr)>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Rule { assigned: Assigned, configured: bool },
    Default { gateway: IpAddr, table: u32 },
    Copy { route: Route, table: u32 },
    Hint { subnet: IpNetwork, source: IpAddr },
}

/// What will be made, in its order, before the routes leave the main table.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) original: Original,
    pub(super) steps: Vec<Step>,
}

impl Plan {
    /// Rules to a table that somebody else fills.
    ///
    /// # Errors
    /// [`ErrorKind::NameTaken`] if there is such a rule: what another one made cannot be undone.
    pub(super) fn with_table(addresses: &[Address], table: u32, rules: &[rule::Present]) -> Result<Self, Error> {
        let assign = |address: &Address| Assigned { source: address.address.ip(), table };
        let assigned: Vec<_> = addresses.iter().map(assign).collect();
        let is_there =
            |assigned: &Assigned| rules.iter().any(|rule| rule.is_for(assigned.source) && rule.table == table);
        if assigned.iter().any(is_there) {
            return Err(Error::at(ErrorKind::NameTaken, "failed to add rule", "").because_of("file exists"));
        }
        let steps = assigned.iter().map(|assigned| Step::Rule { assigned: *assigned, configured: true }).collect();
        let original =
            Original { ifindex: 0, rules: assigned, tables: Vec::new(), moved: Vec::new(), hints: Vec::new() };
        Ok(Self { original, steps })
    }

    /// Rules to tables of its own, and what is in these.
    pub(super) fn with_own_tables(
        own: &Own,
        index: u32,
        addresses: &[Address],
        rules: &[rule::Present],
        routes: &[Route],
    ) -> Self {
        let taken: BTreeSet<u32> =
            rules.iter().map(|rule| rule.table).chain(routes.iter().map(|route| route.table)).collect();
        let mut free = (FIRST_TABLE..).filter(|table| !taken.contains(table));
        let main: Vec<&Route> = routes.iter().filter(|route| route.table == MAIN_TABLE && route.uses(index)).collect();
        let (mut assigned, mut steps) = (Vec::new(), Vec::new());
        for (address, table) in addresses.iter().zip(&mut free) {
            let rule = Assigned { source: address.address.ip(), table };
            assigned.push(rule);
            steps.push(Step::Rule { assigned: rule, configured: false });
            steps.extend(table_of(own, address, addresses, &main).into_iter().map(|content| content.step(table)));
        }
        let hints = if own.hints { addresses.iter().map(hint).collect() } else { Vec::new() };
        steps.extend(hints.iter().map(|(subnet, source)| Step::Hint { subnet: *subnet, source: *source }));
        let leaves = |route: &Route| {
            let is_own = route.table == MAIN_TABLE && route.is_of(index) && !addresses.is_empty();
            // The hint takes its place.
            let is_hinted = || hints.iter().any(|(subnet, _)| route.same_place(*subnet, 0));
            is_own && !is_link_local(route) && (!own.hints || route.scope != SCOPE_LINK || is_hinted())
        };
        let original = Original {
            ifindex: index,
            tables: assigned.iter().map(|rule| rule.table).collect(),
            rules: assigned,
            moved: Moved::among(routes, index, leaves),
            hints,
        };
        Self { original, steps }
    }
}

/// An address's own network, to be sent to from this address.
fn hint(address: &Address) -> (IpNetwork, IpAddr) {
    let network = address.address;
    (IpNetwork::new(network.network(), network.prefix()).unwrap_or(network), network.ip())
}

/// IPv6 link-local networks are no address's: who asks for a neighbour does it from any of them.
fn is_link_local(route: &Route) -> bool {
    matches!(route.dst.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// What comes into a table.
enum Content<'a> {
    Default(IpAddr),
    Copy(&'a Route),
}

impl Content<'_> {
    fn step(self, table: u32) -> Step {
        match self {
            Self::Default(gateway) => Step::Default { gateway, table },
            Self::Copy(route) => Step::Copy { route: route.clone(), table },
        }
    }
}

/// The content of the table of one address: its default route, and those of the interface's routes that are the address's.
fn table_of<'a>(own: &Own, address: &Address, all: &[Address], main: &[&'a Route]) -> Vec<Content<'a>> {
    let v6 = address.address.is_ipv6();
    let priority = if v6 { V6_PRIORITY } else { 0 };
    let is_plain_default = |route: &Route| route.same_place(any_destination(v6), priority);
    let configured = own.configured(v6).is_some();
    let copies: Vec<_> =
        main.iter().filter(|route| is_for(route, address, all) && !(configured && is_plain_default(route))).collect();
    // One that is copied with all its attributes takes the place of the address's own.
    let is_copied = copies.iter().any(|route| is_plain_default(route));
    let default = own.gateway(address).filter(|_| !is_copied);
    default.map(Content::Default).into_iter().chain(copies.into_iter().map(|route| Content::Copy(route))).collect()
}

/// A route is an address's if its source or gateway is in the address's network; everybody's if it has neither, of whichever
/// family; and its family's if no address has it.
fn is_for(route: &Route, address: &Address, all: &[Address]) -> bool {
    let gateways = || route.hops.iter().filter_map(|hop| hop.gateway);
    let is_of = |one: &Address| route.source.into_iter().chain(gateways()).any(|ip| one.address.contains(ip));
    let is_nobody_s = || route.dst.is_ipv6() == address.address.is_ipv6() && !all.iter().any(is_of);
    is_of(address) || (route.source.is_none() && gateways().next().is_none()) || is_nobody_s()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route of interface 3 as the kernel would list it.
    fn route(v6: bool, dst: &str, gateway: Option<&str>, table: u8, scope: u8) -> Route {
        let dst: IpNetwork = dst.parse().unwrap();
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let attribute = |kind: u8, value: &[u8]| {
            let length = u8::try_from(value.len() + 4).unwrap();
            [&[length, 0, kind, 0][..], value].concat()
        };
        let family = if v6 { 10 } else { 2 };
        let mut payload = vec![family, dst.prefix(), 0, 0, table, 3, scope, 1, 0, 0, 0, 0];
        payload.extend(attribute(1, &octets(dst.ip())));
        payload.extend(attribute(4, &3_u32.to_ne_bytes()));
        payload.extend(gateway.map(|ip| attribute(5, &octets(ip.parse().unwrap()))).unwrap_or_default());
        if v6 {
            payload.extend(attribute(6, &V6_PRIORITY.to_ne_bytes()));
        }
        Route::parse(&payload).unwrap().unwrap()
    }

    fn address(text: &str, gateway: Option<&str>) -> Address {
        Address { address: text.parse().unwrap(), gateway: gateway.map(|ip| ip.parse().unwrap()) }
    }

    fn rule(table: u32) -> rule::Present {
        rule::Present { source: None, table, priority: 1, plain: true }
    }

    /// The steps in few words.
    fn words(plan: &Plan) -> Vec<String> {
        let text = |step: &Step| match step {
            Step::Rule { assigned, .. } => format!("rule {} {}", assigned.source, assigned.table),
            Step::Default { gateway, table } => format!("default {gateway} {table}"),
            Step::Copy { route, table } => format!("copy {} {table}", route.dst),
            Step::Hint { subnet, source } => format!("hint {subnet} {source}"),
        };
        plan.steps.iter().map(text).collect()
    }

    #[test]
    fn each_address_takes_the_next_table_that_nobody_uses() {
        let addresses = ["10.0.0.2/24", "10.0.1.2/24", "fd00::2/64"].map(|text| address(text, None));
        // A table without a rule may be somebody's, too.
        let routes = [route(false, "192.0.2.0/24", None, 102, 253)];
        let plan = Plan::with_own_tables(&Own::default(), 3, &addresses, &[rule(100), rule(103)], &routes);
        assert_eq!(words(&plan), ["rule 10.0.0.2 101", "rule 10.0.1.2 104", "rule fd00::2 105"]);
        assert_eq!(plan.original.tables, [101, 104, 105]);
    }

    #[test]
    fn routes_go_to_the_address_they_belong_to_and_none_is_lost() {
        let addresses = [address("10.0.0.2/24", Some("10.0.0.1")), address("10.0.1.2/24", None)];
        let routes = [
            route(false, "198.51.100.0/24", Some("10.0.0.9"), 254, 0),
            route(false, "192.0.2.0/24", Some("10.0.1.9"), 254, 0),
            route(false, "172.16.0.0/16", Some("192.168.0.1"), 254, 0),
            route(false, "203.0.113.0/24", None, 254, 253),
            route(true, "fe80::/64", None, 254, 0),
        ];
        let plan = Plan::with_own_tables(&Own::default(), 3, &addresses, &[], &routes);
        assert_eq!(
            words(&plan),
            [
                "rule 10.0.0.2 100",
                "default 10.0.0.1 100",
                "copy 198.51.100.0/24 100",
                "copy 172.16.0.0/16 100",
                "copy 203.0.113.0/24 100",
                "copy fe80::/64 100",
                "rule 10.0.1.2 101",
                "copy 192.0.2.0/24 101",
                "copy 172.16.0.0/16 101",
                "copy 203.0.113.0/24 101",
                "copy fe80::/64 101",
            ]
        );
        let moved: Vec<_> = plan.original.moved.iter().map(|moved| moved.route.dst.to_string()).collect();
        assert_eq!(moved, ["198.51.100.0/24", "192.0.2.0/24", "172.16.0.0/16", "203.0.113.0/24"]);
    }

    #[test]
    fn a_default_route_that_is_there_is_copied_unless_a_gateway_is_configured() {
        let addresses = [address("fd00::2/64", Some("fd00::1"))];
        let routes = [route(true, "::/0", Some("fd00::1"), 254, 0)];
        let steps = |own: &Own| words(&Plan::with_own_tables(own, 3, &addresses, &[], &routes));
        assert_eq!(steps(&Own::default()), ["rule fd00::2 100", "copy ::/0 100"]);
        let own = Own { v6: Some("fd00::254".parse().unwrap()), ..Own::default() };
        assert_eq!(steps(&own), ["rule fd00::2 100", "default fd00::254 100"]);
        let other_family = Own { v4: Some("10.0.0.1".parse().unwrap()), ..Own::default() };
        assert_eq!(steps(&other_family), steps(&Own::default()));
    }

    #[test]
    fn hints_keep_networks_and_let_the_rest_go() {
        let own = Own { hints: true, ..Own::default() };
        let addresses = [address("10.0.0.2/24", None)];
        let routes = [
            route(false, "10.0.0.0/24", None, 254, 253),
            route(false, "203.0.113.0/24", None, 254, 253),
            route(false, "198.51.100.0/24", Some("10.0.0.9"), 254, 0),
        ];
        let plan = Plan::with_own_tables(&own, 3, &addresses, &[], &routes);
        assert_eq!(words(&plan).last().unwrap(), "hint 10.0.0.0/24 10.0.0.2");
        let moved: Vec<_> = plan.original.moved.iter().map(|moved| moved.route.dst.to_string()).collect();
        assert_eq!(moved, ["10.0.0.0/24", "198.51.100.0/24"]);
    }

    #[test]
    fn an_interface_without_its_own_addresses_keeps_its_routes() {
        let routes = [route(false, "10.0.0.0/24", None, 254, 253)];
        let plan = Plan::with_own_tables(&Own::default(), 3, &[], &[], &routes);
        assert!(plan.steps.is_empty() && plan.original.moved.is_empty());
    }
}
