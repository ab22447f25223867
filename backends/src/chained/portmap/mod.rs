//! Ports of the host that lead to a pod, by nftables. Knows what a configuration says of them, and what beside the packet filter
//! they need; whose they are and how they are looked up is [`crate::nft`]'s.

mod conf;
mod entry;
mod loopback;

use ipnetwork::IpNetwork;

pub use crate::nft::ports::{Mapping, Place, Protocol, Snat};
pub use conf::{Conf, Layout, RuntimeConf, Spec};
pub use entry::Entry;

use super::Previous;
use crate::default_route::Family;
use crate::error::Error;
use crate::nft::ports::Ports;
use crate::nft::{Filter, Owner};
use crate::pod::Host;

/// Looks whether somebody else has one of the ports; changes nothing. `families`: those in which the pod can get an address.
///
/// # Errors
/// [`crate::ErrorKind::PortTaken`] with who has it; [`crate::ErrorKind::Io`] or [`crate::ErrorKind::Refused`] if the kernel
/// cannot be asked.
pub fn look(filter: &mut Filter, spec: &Spec, owner: &Owner<'_>, families: &[Family]) -> Result<(), Error> {
    if spec.is_idle() {
        return Ok(());
    }
    let families: Vec<bool> = families.iter().map(|family| *family == Family::V6).collect();
    filter.look_at_ports(&spec.mappings, owner, &families)
}

/// Makes the ports lead to the pod, all or none: again, too, where they do already. A mapping of the same owner that leads
/// elsewhere is replaced. A pod without an address gets none.
///
/// Nothing has to be known to undo it but the owner.
///
/// # Errors
/// As [`look`].
pub fn add(
    host: &mut Host,
    filter: &mut Filter,
    spec: &Spec,
    owner: &Owner<'_>,
    previous: &Previous,
) -> Result<(), Error> {
    add_ahead(filter, spec, owner, previous)?;
    let completed = complete(host, spec, owner, previous);
    completed.map_err(|error| error.after_undo(filter.take_back_ports(&spec.mappings, owner)))
}

/// What of [`add`] needs nothing of the pod's link.
pub(super) fn add_ahead(filter: &mut Filter, spec: &Spec, owner: &Owner<'_>, previous: &Previous) -> Result<(), Error> {
    let addresses = addresses(previous, owner.ifname);
    if spec.is_idle() || addresses.is_empty() {
        return Ok(());
    }
    filter.add_ports(ports(spec, &addresses), owner)?;
    for address in &addresses {
        filter.forget_flows(&spec.mappings, address.is_ipv6());
    }
    Ok(())
}

/// The rest of [`add`].
pub(super) fn complete(host: &mut Host, spec: &Spec, owner: &Owner<'_>, previous: &Previous) -> Result<(), Error> {
    let addresses = addresses(previous, owner.ifname);
    match addresses.iter().find(|address| address.is_ipv4()) {
        Some(address) if !spec.is_idle() && spec.snat != Snat::Never => loopback::let_out(host, address.ip()),
        _ => Ok(()),
    }
}

/// Removes an owner's mappings, and what the reference plugin made for them with either backend. Needs neither addresses nor the
/// namespace; what is gone is no error. `spec`: what is known of them; without it all mappings are listed.
///
/// # Errors
/// [`crate::ErrorKind::Io`] or [`crate::ErrorKind::Refused`] if the kernel cannot be asked.
pub fn remove(filter: &mut Filter, spec: Option<&Spec>, owner: &Owner<'_>) -> Result<(), Error> {
    remove_of(filter, spec, owner, None)
}

/// As [`remove`], where the attachment's result may be known: of a family that the pod has, and that has lost all its ports, what is left is
/// looked for.
///
/// # Errors
/// Those of [`remove`].
pub(super) fn remove_of(
    filter: &mut Filter,
    spec: Option<&Spec>,
    owner: &Owner<'_>,
    previous: Option<&Previous>,
) -> Result<(), Error> {
    if spec.is_some_and(Spec::is_idle) {
        return Ok(());
    }
    let addresses = previous.map(|previous| addresses(previous, owner.ifname)).unwrap_or_default();
    let has = [false, true].map(|v6| addresses.iter().any(|address| address.is_ipv6() == v6));
    filter.remove_ports(spec.map(|spec| spec.mappings.as_slice()), owner, has)
}

/// Whether the ports lead to the pod, by this crate's elements or the reference plugin's rules.
///
/// # Errors
/// [`crate::ErrorKind::Mismatch`] with what is missing; as [`remove`].
pub fn check(filter: &mut Filter, spec: &Spec, owner: &Owner<'_>, previous: &Previous) -> Result<(), Error> {
    let addresses = addresses(previous, owner.ifname);
    if spec.is_idle() || addresses.is_empty() {
        return Ok(());
    }
    filter.check_ports(&ports(spec, &addresses), owner)
}

/// GC: removes the mappings of a network that are of none of the valid attachments: pairs of container id and interface name.
/// Without `by_ifname` the container id alone decides. Those of the compatible layout do not tell their network and stay.
///
/// # Errors
/// As [`remove`].
pub fn retain(filter: &mut Filter, network: &str, valid: &[(&str, &str)], by_ifname: bool) -> Result<(), Error> {
    filter.retain_ports(network, valid, by_ifname)
}

fn ports<'a>(spec: &'a Spec, addresses: &'a [IpNetwork]) -> Ports<'a> {
    Ports { mappings: &spec.mappings, snat: spec.snat, compatible: spec.layout == Layout::Compatible, addresses }
}

/// The first address of each family that is not known to be of something else than the pod's interface.
fn addresses(previous: &Previous, ifname: &str) -> Vec<IpNetwork> {
    let can_be_of_pod = |index: Option<usize>| {
        let interface = index.and_then(|index| previous.interfaces.get(index));
        interface.is_none_or(|interface| interface.in_pod && interface.name == ifname)
    };
    let of_family = |v6: bool| {
        let mut fitting = previous.addresses.iter().filter(|(_, index)| can_be_of_pod(*index));
        fitting.find(|(address, _)| address.address.is_ipv6() == v6).map(|(address, _)| address.address)
    };
    [false, true].into_iter().filter_map(of_family).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, Interface};

    #[test]
    fn the_first_addresses_that_can_be_the_pod_s_count() {
        let interface = |name: &str, in_pod| Interface { name: name.to_owned(), in_pod, ..Interface::default() };
        let address = |text: &str, index| (Address { address: text.parse().unwrap(), gateway: None }, index);
        let previous = Previous {
            interfaces: vec![interface("br0", false), interface("eth0", true), interface("net1", true)],
            addresses: vec![
                address("10.0.0.1/24", Some(0)),
                address("10.0.1.1/24", Some(2)),
                address("fd00::9/64", Some(7)),
                address("10.0.2.1/24", Some(1)),
                address("10.0.3.1/24", None),
                address("fd00::1/64", Some(1)),
            ],
            routes: Vec::new(),
        };
        let texts = |ifname| addresses(&previous, ifname).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts("eth0"), ["10.0.2.1/24", "fd00::9/64"]);
        assert_eq!(texts("net1"), ["10.0.1.1/24", "fd00::9/64"]);
        assert_eq!(addresses(&Previous::default(), "eth0"), []);
    }
}
