//! The gateway addresses, on the bridge itself or on what stands for a VLAN of it. Knows no pod.

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use super::{Bridge, Spec};
use crate::error::{Error, ErrorKind};
use crate::layer3::Layer3;
use crate::mac::Mac;
use crate::netlink::addr::{self, Manner, Present};
use crate::netlink::link;
use crate::pod::Host;
use crate::sysctl::Tree;

/// Puts every address's gateway on the bridge, and lets the host forward.
pub(super) fn ensure(host: &mut Host, spec: &Spec, bridge: &Bridge, l3: &Layer3) -> Result<(), Error> {
    // What is on a bridge that this attachment created itself needs no look.
    let mut present = if bridge.created { Vec::new() } else { host.side.addresses(&bridge.link)? };
    let mut added = false;
    for address in &l3.addresses {
        let gateway = address.gateway.and_then(|ip| IpNetwork::new(ip, address.address.prefix()).ok());
        if let Some(gateway) = gateway {
            added |= ensure_address(host, spec, bridge, gateway, &mut present)?;
        }
    }
    if added && !bridge.created {
        pin_mac(host, bridge)?;
    }
    for (tree, v6) in [(Tree::V4, false), (Tree::V6, true)] {
        if l3.addresses.iter().any(|a| a.address.is_ipv6() == v6) {
            host.side.sysctls.ensure(tree, "all", "forwarding", "1")?;
        }
    }
    Ok(())
}

/// One gateway address. IPv6 allows others whose networks do not overlap; IPv4 allows none.
fn ensure_address(
    host: &mut Host,
    spec: &Spec,
    bridge: &Bridge,
    gateway: IpNetwork,
    present: &mut Vec<Present>,
) -> Result<bool, Error> {
    let name = bridge.link.name.as_str();
    let same_family: Vec<_> = present.iter().filter(|p| p.address.is_ipv6() == gateway.is_ipv6()).copied().collect();
    for found in same_family {
        if found.address == gateway {
            return Ok(false);
        }
        let overlaps = found.address.contains(gateway.ip()) || gateway.contains(found.address.ip());
        if gateway.is_ipv6() && !overlaps {
            continue;
        }
        if !spec.force_address {
            let act = match spec.vlans.vlan {
                Some(_) => "failed to set vlan interface for bridge with addr",
                None => "failed to set bridge addr",
            };
            let text = format!("{act}: \"{name}\" already has an IP address different from {gateway}");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        host.side
            .apply(addr::delete(bridge.link.index, found.address))
            .map_err(|e| Error::kernel("could not remove IP address from", format!("\"{name}\""), e))?;
        present.retain(|p| p.address != found.address);
    }
    // The address is this host's by configuration: it is not examined, and the pods' first packets are answered.
    let manner = Manner { without_dad: true, ..Manner::default() };
    match host.side.apply(addr::add(bridge.link.index, gateway, manner)) {
        Ok(()) => {}
        Err(failure) if failure.errno() == Some(Errno::EEXIST) => {}
        Err(failure) => {
            return Err(Error::kernel("could not add IP address to", format!("\"{name}\""), failure));
        }
    }
    present.push(Present { index: bridge.link.index, address: gateway, duplicate: false, global: true });
    Ok(true)
}

/// A bridge that nobody gave an address takes that of a port, and changes it with its ports: the pods' neighbours' tables then
/// lie. Setting it ends that. One that lost all its ports has none, and gets one.
fn pin_mac(host: &mut Host, bridge: &Bridge) -> Result<(), Error> {
    let name = bridge.link.name.as_str();
    // The address from before our port, as with the reference plugin: others may know the bridge by it.
    let mac = bridge.link.mac.filter(|mac| !mac.is_zero()).unwrap_or_else(Mac::random);
    host.side
        .apply(link::set_mac(bridge.link.index, mac))
        .map_err(|e| Error::kernel("could not set bridge's mac", format!("\"{name}\""), e))
}
