//! CHECK, the parts all kinds share: is the interface there, with its addresses, gateways and routes? Routes are looked for in
//! all tables, so that a plugin which moves them (source based routing) does not make CHECK fail. Changes nothing.

use ipnetwork::IpNetwork;

use crate::error::{Error, ErrorKind};
use crate::layer3::{Address, Route, mask_text};
use crate::mac::Mac;
use crate::master::{self, routes};
use crate::netlink::link::Link;
use crate::netlink::route::Present;
use crate::pod::{Host, Pod};
use crate::sriov::Function;
use crate::{Interface, Made};

/// What the previous result says about the attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// All interfaces of the result.
    pub interfaces: Vec<Interface>,
    /// The addresses of the attachment's interface.
    pub addresses: Vec<Address>,
    /// The routes of the result.
    pub routes: Vec<Route>,
    /// The attachment's interface as it was built, where that is known.
    pub made: Option<Made>,
    /// The virtual function as it was found, where the attachment has one and that is known.
    pub function: Option<Function>,
}

impl Expected {
    /// The lower device the interface was made on: whoever asks for it by no name has it by what it was then.
    pub(crate) fn is_on_known_parent(&self) -> bool {
        self.made.is_some_and(|made| made.parent.is_some())
    }

    /// The expected interface in the pod.
    pub(crate) fn in_pod(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.in_pod && interface.name == name)
    }
}

/// The pod's interface: expected, there, of the right kind and hardware address.
pub(crate) fn pod_interface(pod: &mut Pod, ifname: &str, kind: &str, expected: &Expected) -> Result<Link, Error> {
    let link = pod_interface_of_any_kind(pod, ifname, expected)?;
    if link.kind != kind {
        return Err(Error::mismatch(format!("container interface {ifname} is of kind \"{}\", not {kind}", link.kind)));
    }
    Ok(link)
}

/// As [`pod_interface`], where the kind is whatever the device is.
pub(crate) fn pod_interface_of_any_kind(pod: &mut Pod, ifname: &str, expected: &Expected) -> Result<Link, Error> {
    let Some(interface) = expected.in_pod(ifname) else {
        return Err(Error::mismatch(format!("interface {ifname} in the sandbox is not part of the previous result")));
    };
    let link = pod.side.link(ifname)?.ok_or_else(|| missing(ifname))?;
    mac(&link, interface)?;
    expected.made.map_or(Ok(()), |made| as_made(&link, &made, interface.mtu))?;
    Ok(link)
}

/// The link is the one that was made, and where it was. `told`: the MTU of the result, which a later plugin may have changed.
fn as_made(link: &Link, made: &Made, told: Option<u32>) -> Result<(), Error> {
    let name = &link.name;
    let differs = |text: String| Err(Error::mismatch(text));
    if link.index != made.ifindex {
        return differs(format!(
            "interface {name} is not the one that was attached: its index is {}, and was {}",
            link.index, made.ifindex
        ));
    }
    if link.parent != made.parent {
        let number = |index: Option<u32>| index.map_or_else(|| "none".to_owned(), |index| index.to_string());
        let (found, wanted) = (number(link.parent), number(made.parent));
        return differs(format!("interface {name} is on another lower device: its index is {found}, and was {wanted}"));
    }
    let mtu = told.filter(|mtu| *mtu > 0).unwrap_or(made.mtu);
    if mtu > 0 && link.mtu != mtu {
        return differs(format!("interface {name} has MTU {}, expected {mtu}", link.mtu));
    }
    if made.up && !link.up {
        return differs(format!("interface {name} is down"));
    }
    Ok(())
}

fn missing(ifname: &str) -> Error {
    Error::new(ErrorKind::Mismatch, format!("Cannot find container link {ifname}"))
}

/// The hardware address, where the result has one.
pub(crate) fn mac(link: &Link, expected: &Interface) -> Result<(), Error> {
    let found = link.mac_text();
    // tuning's result has the configuration's form of it.
    let is_it = || expected.mac.parse::<Mac>().is_ok_and(|mac| Some(mac) == link.mac);
    if expected.mac.is_empty() || expected.mac.eq_ignore_ascii_case(&found) || is_it() {
        return Ok(());
    }
    Err(Error::mismatch(format!("interface {} has MAC {found}, expected {}", link.name, expected.mac)))
}

/// The lower device, by its name or that of the default route. Its number says nothing without the namespace it counts in.
pub(crate) fn on_master(
    host: &mut Host,
    pod: &mut Pod,
    link: &Link,
    name: Option<&str>,
    in_container: bool,
) -> Result<(), Error> {
    let master = master::find(crate::side_of_master(in_container, host, Some(pod))?, name)?;
    let elsewhere = !in_container && !pod.is_on(host);
    if link.parent == Some(master.index) && link.parent_elsewhere == elsewhere {
        return Ok(());
    }
    Err(Error::mismatch(format!("container interface {} is not on master {}", link.name, master.name)))
}

/// Addresses, their gateways' networks, and routes.
pub(crate) fn layer3(pod: &mut Pod, link: &Link, expected: &Expected) -> Result<(), Error> {
    addresses(pod, link, &expected.addresses)?;
    let mut tables = [None, None];
    for (v6, table) in [false, true].into_iter().zip(&mut tables) {
        let wanted = expected.addresses.iter().any(|a| a.gateway.is_some() && a.address.is_ipv6() == v6)
            || expected.routes.iter().any(|route| route.dst.is_ipv6() == v6);
        if wanted {
            *table = Some(routes(&mut pod.side, v6, None)?);
        }
    }
    let present: Vec<Present> = tables.into_iter().flatten().flatten().collect();
    expected.addresses.iter().try_for_each(|address| gateway(&present, link, address))?;
    expected.routes.iter().try_for_each(|expected| route(&present, expected))
}

fn addresses(pod: &mut Pod, link: &Link, expected: &[Address]) -> Result<(), Error> {
    if expected.is_empty() {
        return Ok(());
    }
    let present = pod.side.addresses(link)?;
    for Address { address, .. } in expected {
        let Some(found) = present.iter().find(|found| found.address == *address) else {
            return Err(Error::mismatch(format!("Failed to match addr {address} on interface {}", link.name)));
        };
        if found.duplicate {
            return Err(Error::new(
                ErrorKind::Duplicate,
                format!("another host on the link of interface {} has address {address} too", link.name),
            ));
        }
    }
    Ok(())
}

/// A gateway is reachable over the route to its network. An address without a network has none.
fn gateway(present: &[Present], link: &Link, address: &Address) -> Result<(), Error> {
    let Some(gateway) = address.gateway else { return Ok(()) };
    let full = if address.address.is_ipv4() { 32 } else { 128 };
    let network = IpNetwork::new(address.address.network(), address.address.prefix());
    let reachable = |network: IpNetwork| present.iter().any(|route| route.dst == network && route.index == link.index);
    if address.address.prefix() == full || network.is_ok_and(reachable) {
        return Ok(());
    }
    Err(Error::mismatch(format!("Failed to find Gateway {gateway} for interface {}", link.name)))
}

/// A default route matches by its destination alone: where it leads is decided last, and by others.
fn route(present: &[Present], expected: &Route) -> Result<(), Error> {
    let is_default = expected.dst.prefix() == 0;
    let found = present.iter().any(|route| {
        let metric = |priority: i32| u32::try_from(priority).is_ok_and(|p| p == 0 || route.priority == Some(p));
        route.dst == expected.dst
            && (is_default
                || (expected.gw.is_none_or(|gw| route.gateway == Some(gw)) && expected.priority.is_none_or(metric)))
    });
    if found {
        Ok(())
    } else {
        Err(Error::mismatch(format!("Expected Route {} not found in routing table", text(expected))))
    }
}

/// A route as the reference plugins print it, with numbers in the place of their addresses of numbers.
fn text(route: &Route) -> String {
    let mask = mask_text(route.dst);
    let optional = |number: Option<i32>| number.map_or_else(|| "<nil>".to_owned(), |n| n.to_string());
    format!(
        "{{Dst:{{IP:{} Mask:{mask}}} GW:{} MTU:{} AdvMSS:{} Priority:{} Table:{} Scope:{}}}",
        route.dst.ip(),
        route.gw.map_or_else(|| "<nil>".to_owned(), |ip| ip.to_string()),
        route.mtu.unwrap_or_default(),
        route.advmss.unwrap_or_default(),
        route.priority.unwrap_or_default(),
        optional(route.table),
        optional(route.scope),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(dst: &str, gateway: Option<&str>, table: u32) -> Present {
        Present {
            dst: dst.parse().unwrap(),
            index: 2,
            gateway: gateway.map(|ip| ip.parse().unwrap()),
            priority: None,
            table,
            scope: 0,
        }
    }

    #[test]
    fn a_route_in_another_table_is_found_and_another_gateway_is_not() {
        let wanted = Route::new("192.0.2.0/24".parse().unwrap(), Some("10.0.0.1".parse().unwrap()));
        route(&[present("192.0.2.0/24", Some("10.0.0.1"), 100)], &wanted).unwrap();
        let error = route(&[present("192.0.2.0/24", Some("10.0.0.9"), 254)], &wanted).unwrap_err();
        assert_eq!(
            error.chain(),
            "Expected Route {Dst:{IP:192.0.2.0 Mask:ffffff00} GW:10.0.0.1 MTU:0 AdvMSS:0 Priority:0 Table:<nil> \
             Scope:<nil>} not found in routing table"
        );
    }

    #[test]
    fn a_default_route_may_lead_elsewhere() {
        let wanted = Route::new("0.0.0.0/0".parse().unwrap(), Some("10.0.0.1".parse().unwrap()));
        route(&[present("0.0.0.0/0", Some("10.9.9.1"), 254)], &wanted).unwrap();
        assert_eq!(route(&[], &wanted).unwrap_err().kind(), ErrorKind::Mismatch);
    }
}
