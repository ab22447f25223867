//! The VLANs of a bridge's ports, and the gateway of a VLAN: a pair of the host whose one end is a port in that VLAN and whose
//! other end, `<bridge>.<vlan>`, has the gateway addresses. Knows no pod.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::{Bridge, Spec};
use crate::error::{Error, ErrorKind};
use crate::mac::Mac;
use crate::netlink::bridge_vlan::{self, Vlans};
use crate::netlink::link::{self, Link};
use crate::netlink::{NewLink, Request, Shape};
use crate::pod::Host;
use crate::sysctl::Tree;
use crate::veth::random_name;

/// The VLAN that the kernel puts a new port into unless the bridge says otherwise (`br_vlan_init` in net/bridge/br_vlan.c).
const DEFAULT_VLAN: u16 = 1;

/// Which VLANs a port is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Membership {
    /// The VLAN of frames without a tag.
    pub(super) vlan: Option<u16>,
    /// VLANs of frames with a tag: from, to; ascending, apart from each other.
    pub(super) trunk: Vec<(u16, u16)>,
    /// It stays in the bridge's default VLAN.
    pub(super) keep_default: bool,
}

impl Membership {
    /// The VLANs of a complete port of `bridge`, each with whether it is native; `None` there where either is right. No answer
    /// where the configuration speaks of no VLAN.
    pub(super) fn expected(&self, bridge: &Link) -> Option<BTreeMap<u16, Option<bool>>> {
        if self.vlan.is_none() && self.trunk.is_empty() {
            return None;
        }
        let mut vlans = BTreeMap::new();
        let default = bridge.default_vlan.unwrap_or(DEFAULT_VLAN);
        vlans.extend((self.keep_default && default != 0).then_some((default, None)));
        vlans.insert(self.vlan.unwrap_or(DEFAULT_VLAN), Some(true));
        // As in the requests the trunk comes last.
        let tagged = self.trunk.iter().flat_map(|(first, last)| *first..=*last).map(|id| (id, Some(false)));
        vlans.extend(tagged.filter(|(id, _)| self.vlan.is_some() || *id != DEFAULT_VLAN));
        Some(vlans)
    }

    /// What makes a new port of `bridge` a member: nothing where the configuration speaks of no VLAN.
    pub(super) fn requests(&self, bridge: &Link, port: u32) -> Vec<Request> {
        let native = |vlan| Vlans { first: vlan, last: vlan, native: true };
        if self.vlan.is_none() && self.trunk.is_empty() {
            return Vec::new();
        }
        let mut vlans: Vec<Vlans> = self.vlan.map(native).into_iter().collect();
        vlans.extend(self.trunk.iter().map(|(first, last)| Vlans { first: *first, last: *last, native: false }));
        if self.vlan.is_none() {
            // As with the reference plugin a trunk's frames without a tag are in the default VLAN.
            vlans.push(native(DEFAULT_VLAN));
        }
        let mut requests = Vec::with_capacity(2);
        let default = bridge.default_vlan.unwrap_or(DEFAULT_VLAN);
        if !self.keep_default && default != 0 {
            requests.push(bridge_vlan::remove(port, &[native(default)]));
        }
        requests.push(bridge_vlan::add(port, &vlans));
        requests
    }
}

/// The name of the gateway's end.
pub(super) fn gateway_name(bridge: &str, vlan: u16) -> String {
    format!("{bridge}.{vlan}")
}

/// The link that has the gateway addresses of a VLAN: created where it is missing. It is up once it is complete, so that whoever
/// finds it down completes it.
pub(super) fn ensure_gateway(host: &mut Host, spec: &Spec, bridge: &Bridge, vlan: u16) -> Result<Bridge, Error> {
    let name = gateway_name(&spec.name, vlan);
    let (link, created) = match host.side.link(&name)? {
        Some(link) => (link, false),
        None => create(host, bridge, &name)?,
    };
    if (created || (!link.up && link.kind == "veth"))
        && let Err(error) = complete(host, spec, bridge, &link, vlan)
    {
        let undo = if created { host.side.delete(link.index, &name) } else { Ok(()) };
        return Err(error.after_undo(undo));
    }
    Ok(Bridge { link, created })
}

fn failed(name: &str) -> String {
    format!("failed to create vlan interface: faild to create vlan gateway \"{name}\"")
}

/// Both ends in one message, each with a hardware address that stays; and whether it was this message that made them.
fn create(host: &mut Host, bridge: &Bridge, name: &str) -> Result<(Link, bool), Error> {
    let port = random_name();
    let mtu = Some(bridge.link.mtu);
    let gateway = NewLink { mtu, mac: Some(Mac::random()), ..NewLink::new(name, Shape::Peer) };
    let new = NewLink {
        mtu,
        mac: Some(Mac::random()),
        controller: Some(bridge.link.index),
        up: true,
        ..NewLink::new(&port, Shape::Veth(Box::new(gateway)))
    };
    let created = match host.side.apply(new.request()) {
        Ok(()) => true,
        // Another attachment made it since we looked.
        Err(failure) if failure.errno() == Some(Errno::EEXIST) => false,
        Err(failure) => return Err(Error::new(ErrorKind::Refused, failed(name)).because(failure)),
    };
    if created {
        // Best effort: a kernel without IPv6 has no such parameter.
        drop(host.side.sysctls.write(Tree::V6, &port, "accept_ra", "0"));
    }
    let missing = || Error::at(ErrorKind::LinkMissing, "find the new link", name);
    Ok((host.side.link(name)?.ok_or_else(missing)?, created))
}

/// Puts the gateway's port into the VLAN, then the gateway up.
fn complete(host: &mut Host, spec: &Spec, bridge: &Bridge, gateway: &Link, vlan: u16) -> Result<(), Error> {
    let membership = Membership { vlan: Some(vlan), trunk: Vec::new(), keep_default: spec.vlans.keep_default };
    let mut requests = gateway.parent.map(|port| membership.requests(&bridge.link, port)).unwrap_or_default();
    requests.push(link::set_up(gateway.index, true));
    let refused = |failure| Error::new(ErrorKind::Refused, failed(&gateway.name)).because(failure);
    match host.side.socket.batch(requests).map_err(refused)?.into_iter().next() {
        Some((_, refusal)) => Err(refused(refusal.into())),
        None => Ok(()),
    }
}
