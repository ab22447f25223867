//! CHECK of a bridge's port: the bridge, the pair between it and the pod, and what the port does. Changes nothing.

use std::net::IpAddr;

use super::{Spec, vlan};
use crate::check::{self, Expected};
use crate::error::Error;
use crate::netlink::bridge_vlan::{self, Member};
use crate::netlink::link::Link;
use crate::pod::{Host, Pod};

/// CHECK of one bridge attachment.
pub(crate) fn check(
    host: &mut Host,
    pod: &mut Pod,
    spec: &Spec,
    ifname: &str,
    expected: &Expected,
) -> Result<(), Error> {
    let name = spec.name.as_str();
    let missing = || Error::mismatch(format!("bridge {name} is not in the host's namespace"));
    let bridge = host.side.link(name)?.ok_or_else(missing)?;
    if bridge.kind != "bridge" {
        return Err(Error::mismatch(format!("interface {name} is of kind \"{}\", not bridge", bridge.kind)));
    }
    let result = |name: &str| expected.interfaces.iter().find(|i| !i.in_pod && i.name == name);
    let interface =
        result(name).ok_or_else(|| Error::mismatch(format!("bridge {name} is not part of the previous result")))?;
    check::mac(&bridge, interface)?;
    let promiscuous = bridge.promiscuity != 0;
    if promiscuous != spec.promiscuous {
        return Err(Error::mismatch(format!(
            "Bridge interface {name} configured Promisc Mode {} doesn't match current state: {promiscuous} ",
            spec.promiscuous
        )));
    }
    let link = check::pod_interface(pod, ifname, "veth", expected)?;
    let port = match link.parent {
        Some(index) if link.parent_elsewhere != pod.is_on(host) => host.side.link_at(index)?,
        _ => None,
    };
    let port = port
        .filter(|port| port.kind == "veth" && port.parent == Some(link.index))
        .ok_or_else(|| Error::mismatch(format!("interface {ifname} has no other end in the host's namespace")))?;
    if port.controller != Some(bridge.index) {
        return Err(Error::mismatch(format!("interface {} is not a port of bridge {name}", port.name)));
    }
    let interface = result(&port.name)
        .ok_or_else(|| Error::mismatch(format!("interface {} is not part of the previous result", port.name)))?;
    check::mac(&port, interface)?;
    ups(spec, &bridge, &port)?;
    gateways(host, spec, &bridge, expected)?;
    port_settings(spec, &port)?;
    vlans(host, spec, &bridge, &port)?;
    check::layer3(pod, &link, expected)
}

/// Nothing passes a bridge or a port that is down.
fn ups(spec: &Spec, bridge: &Link, port: &Link) -> Result<(), Error> {
    match [bridge, port].into_iter().find(|link| !link.up && !spec.leave_down) {
        Some(link) => Err(Error::mismatch(format!("interface {} is down", link.name))),
        None => Ok(()),
    }
}

/// The pod's gateway answers: its address is on the bridge, or on what stands for its VLAN.
fn gateways(host: &mut Host, spec: &Spec, bridge: &Link, expected: &Expected) -> Result<(), Error> {
    let gateways: Vec<IpAddr> = expected.addresses.iter().filter_map(|address| address.gateway).collect();
    // Who may force addresses replaces those of others, its own of another range too.
    if !spec.gateway || spec.force_address || gateways.is_empty() {
        return Ok(());
    }
    let link = match spec.vlans.vlan {
        None => bridge.clone(),
        Some(id) => {
            let name = vlan::gateway_name(&spec.name, id);
            let missing = || Error::mismatch(format!("the gateway's interface {name} is not in the host's namespace"));
            host.side.link(&name)?.ok_or_else(missing)?
        }
    };
    let present = host.side.addresses(&link)?;
    match gateways.iter().find(|gateway| !present.iter().any(|found| found.address.ip() == **gateway)) {
        Some(gateway) => {
            Err(Error::mismatch(format!("interface {} has not the gateway's address {gateway}", link.name)))
        }
        None => Ok(()),
    }
}

/// What was asked for is set. What somebody else set besides, as kubelets do with hairpin mode, is no difference.
fn port_settings(spec: &Spec, port: &Link) -> Result<(), Error> {
    for (asked, set, what) in
        [(spec.hairpin, port.hairpin, "in hairpin mode"), (spec.isolated, port.isolated, "isolated from other ports")]
    {
        if asked && !set {
            return Err(Error::mismatch(format!("bridge port {} is not {what}", port.name)));
        }
    }
    Ok(())
}

/// The port is in the VLANs that it was put into, and in no other: frames of another VLAN are another tenant's.
fn vlans(host: &mut Host, spec: &Spec, bridge: &Link, port: &Link) -> Result<(), Error> {
    let Some(wanted) = spec.vlans.expected(bridge) else { return Ok(()) };
    let failed = |e| Error::kernel("list the VLANs of bridge port", port.name.clone(), e);
    let listed = host.side.socket.dump(&bridge_vlan::all(), bridge_vlan::parse).map_err(failed)?;
    let of_port = |(index, vlans): (u32, Vec<Member>)| (index == port.index).then_some(vlans);
    let present: Vec<Member> = listed.into_iter().filter_map(of_port).flatten().collect();
    let name = &port.name;
    for (id, native) in &wanted {
        let Some(found) = present.iter().find(|member| member.id == *id) else {
            return Err(Error::mismatch(format!("bridge port {name} is not in VLAN {id}")));
        };
        if native.is_some_and(|native| native != found.native) {
            let so = if found.native { "without" } else { "with" };
            return Err(Error::mismatch(format!("bridge port {name} has VLAN {id} {so} a tag")));
        }
    }
    match present.iter().find(|member| !wanted.contains_key(&member.id)) {
        Some(other) => Err(Error::mismatch(format!("bridge port {name} is in VLAN {} too", other.id))),
        None => Ok(()),
    }
}
