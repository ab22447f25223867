//! The same things in the words of three crates: addresses, routes and interfaces of a result, a lease, and a link.
//! Nothing is decided here.

use backends::chained::{Gain, Previous};
use backends::{Address, Interface, Layer3, Route};
use ipam::Allocation;

use crate::cni::result::{self, CniResult, Dns};

/// A number of a result, where it is given and fits; 0 is "not given" (CNI spec 1.1, routes).
fn given<T: TryFrom<i64>>(number: i64) -> Option<T> {
    if number == 0 { None } else { T::try_from(number).ok() }
}

/// A result's addresses and routes, as a backend takes them.
pub fn layer3(result: &CniResult) -> Layer3 {
    Layer3 {
        addresses: result.ips.iter().map(|ip| Address { address: ip.address, gateway: ip.gateway }).collect(),
        routes: result.routes.iter().map(from_route).collect(),
    }
}

fn from_route(route: &result::Route) -> Route {
    Route {
        dst: route.dst,
        gw: route.gw,
        mtu: given(route.mtu),
        advmss: given(route.advmss),
        priority: given(route.priority),
        table: route.table.and_then(|table| table.try_into().ok()),
        scope: route.scope.and_then(|scope| scope.try_into().ok()),
    }
}

/// A backend's route, as a result has it.
pub fn to_route(route: Route) -> result::Route {
    result::Route {
        dst: route.dst,
        gw: route.gw,
        mtu: route.mtu.map_or(0, i64::from),
        advmss: route.advmss.map_or(0, i64::from),
        priority: route.priority.map_or(0, i64::from),
        table: route.table.map(i64::from),
        scope: route.scope.map(i64::from),
    }
}

/// A result's interfaces, as a backend takes them.
pub fn interfaces(result: &CniResult) -> Vec<Interface> {
    let plain = |interface: &result::Interface| Interface {
        name: interface.name.clone(),
        mac: interface.mac.clone(),
        in_pod: !interface.sandbox.is_empty(),
        mtu: given(interface.mtu),
    };
    result.interfaces.iter().map(plain).collect()
}

/// A result, as a chained plugin gets it.
pub fn previous(result: &CniResult) -> Previous {
    let address = |ip: &result::Ip| (Address { address: ip.address, gateway: ip.gateway }, ip.interface);
    Previous {
        interfaces: interfaces(result),
        addresses: result.ips.iter().map(address).collect(),
        routes: result.routes.iter().map(from_route).collect(),
    }
}

/// What a chained plugin adds to a result.
pub fn gain(result: &mut CniResult, ifname: &str, gain: Gain, sandbox: &str) {
    if let Some(mac) = gain.mac {
        let named = result.interfaces.iter_mut().filter(|interface| interface.name == ifname);
        named.for_each(|interface| interface.mac = mac.to_string());
    }
    result.interfaces.extend(gain.interfaces.into_iter().map(|interface| to_interface(interface, sandbox)));
}

/// A backend's interface, as a result has it. Its MTU is there where the kind tells it: most reference plugins do not, and what
/// reads network-status would see a key it never saw.
pub fn to_interface(interface: Interface, sandbox: &str) -> result::Interface {
    let sandbox = if interface.in_pod { sandbox.to_owned() } else { String::new() };
    let mtu = interface.mtu.map_or(0, i64::from);
    result::Interface { name: interface.name, mac: interface.mac, mtu, sandbox, ..result::Interface::default() }
}

/// A backend's address, as a result has it.
pub fn to_ip(address: Address, interface: Option<usize>) -> result::Ip {
    result::Ip { address: address.address, gateway: address.gateway, interface }
}

/// What an IPAM kind answers, as a result without interfaces.
pub fn from_allocation(allocation: Allocation) -> CniResult {
    let ip =
        |address: ipam::Address| result::Ip { address: address.address, gateway: address.gateway, interface: None };
    let route = |route: ipam::Route| result::Route {
        dst: route.dst,
        gw: route.gw,
        mtu: route.mtu.map_or(0, i64::from),
        advmss: route.advmss.map_or(0, i64::from),
        priority: route.priority.map_or(0, i64::from),
        table: route.table.map(i64::from),
        scope: route.scope.map(i64::from),
    };
    let ipam::Dns { nameservers, domain, search, options } = allocation.dns;
    CniResult {
        ips: allocation.addresses.into_iter().map(ip).collect(),
        routes: allocation.routes.into_iter().map(route).collect(),
        dns: Dns { nameservers, domain: domain.unwrap_or_default(), search, options },
        ..CniResult::default()
    }
}
