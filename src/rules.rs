//! A native step's rules in the kernel's packet filter: whose they are and what they say, from an attachment's own values.
//! Knows no nftables.

use backends::nft::{Filter, Listed, Owner, Rules, Subject};
use backends::{Address, Interface};

use crate::cni::error::CniError;
use crate::native::from_backend;

/// Adds them for an interface that was just built, by a way to the packet filter that is opened where it is not.
///
/// # Errors
/// What the kernel says; then none of them is there.
pub fn add(
    filter: &mut Option<Filter>,
    rules: Rules,
    owner: &Owner,
    interfaces: &[Interface],
    addresses: &[Address],
) -> Result<(), CniError> {
    let filter = match filter {
        Some(filter) => filter,
        none => none.insert(open()?),
    };
    let addresses: Vec<_> = addresses.iter().map(|address| address.address).collect();
    filter.add(rules, owner, &subject(owner, interfaces, &addresses)).map_err(from_backend)
}

/// Removes those of several attachments, whether they are there or not, at once. Returns why something stays.
pub fn remove_all(filter: &mut Filter, all: &[(Rules, Owner)]) -> Vec<CniError> {
    filter.remove_all(all).into_iter().map(from_backend).collect()
}

/// Opens it, for several changes.
///
/// # Errors
/// What the kernel says.
pub fn open() -> Result<Filter, CniError> {
    Filter::open().map_err(from_backend)
}

/// CHECK: whether they are there, as `listed` has it.
///
/// # Errors
/// What is missing.
pub fn check(
    listed: &mut Listed,
    rules: Rules,
    owner: &Owner,
    interfaces: &[Interface],
    addresses: &[Address],
) -> Result<(), CniError> {
    let addresses: Vec<_> = addresses.iter().map(|address| address.address).collect();
    listed.check(rules, owner, &subject(owner, interfaces, &addresses)).map_err(from_backend)
}

/// The host's end comes right before the pod's in a result: a bridge comes before it, and the gateway of a VLAN after both.
fn subject<'a>(owner: &Owner, interfaces: &'a [Interface], addresses: &'a [ipnetwork::IpNetwork]) -> Subject<'a> {
    let port = interfaces.iter().take_while(|interface| !interface.in_pod).last();
    let inside = interfaces.iter().find(|interface| interface.in_pod && interface.name == owner.ifname);
    Subject {
        addresses,
        port: port.map_or("", |interface| &interface.name),
        mac: inside.and_then(|interface| interface.mac.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_neither_bridge_nor_gateway_and_the_mac_is_the_pods() {
        let interface = |name: &str, mac: &str, in_pod| Interface {
            name: name.to_owned(),
            mac: mac.to_owned(),
            in_pod,
            ..Interface::default()
        };
        let all = [
            interface("br0", "02:00:00:00:00:01", false),
            interface("veth1", "02:00:00:00:00:02", false),
            interface("eth0", "02:00:00:00:00:03", true),
            interface("br0.5", "02:00:00:00:00:04", false),
        ];
        let owner = Owner { network: "n", sandbox: "s", ifname: "eth0" };
        let found = subject(&owner, &all, &[]);
        assert_eq!((found.port, found.mac), ("veth1", "02:00:00:00:00:03".parse().ok()));
        assert_eq!(subject(&owner, &[], &[]).mac, None);
    }
}
