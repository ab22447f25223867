//! bridge: a veth pair whose host end is a port of a bridge, which is created where it is missing and may be the pods' gateway.
//! Masquerade and the check of hardware addresses are `nft`'s.

mod compare;
mod conf;
mod gateway;
mod vlan;

use std::time::{Duration, Instant};

use nix::errno::Errno;

pub(crate) use compare::check;
pub use conf::{Conf, Spec, Trunk};

use crate::error::{Error, ErrorKind};
use crate::layer3::{self, Detection, Layer3, Manners};
use crate::mac::Mac;
use crate::netlink::link::{self, GROUP_LINK, Link};
use crate::netlink::socket::Heard;
use crate::netlink::{NewLink, Shape, Socket};
use crate::pod::{Host, Pod};
use crate::sysctl::Tree;
use crate::veth::{Ends, Pair};
use crate::{Built, Interface, Made, Target};

/// How long a port may take to come up. Its carrier is there with the pod's end; this is for a very busy kernel.
const PORT_UP_TIMEOUT_MS: u64 = 2_000;

/// A spec with what the kernel says about its bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    spec: Spec,
    /// `None`: not there yet.
    bridge: Option<Link>,
}

impl Spec {
    pub(crate) fn resolve(self, host: &mut Host) -> Result<Resolved, Error> {
        let bridge = existing(host, &self.name)?;
        Ok(Resolved { spec: self, bridge })
    }
}

/// The bridge, if there is one.
fn existing(host: &mut Host, name: &str) -> Result<Option<Link>, Error> {
    match host.side.link(name)? {
        Some(link) if link.kind != "bridge" => Err(Error::invalid(format!(
            "failed to create bridge \"{name}\": \"{name}\" already exists but is not a bridge"
        ))),
        found => Ok(found),
    }
}

impl Resolved {
    /// The spec.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(crate) fn build(
        &self,
        host: &mut Host,
        pod: &mut Pod,
        target: &Target<'_>,
        mut l3: Layer3,
    ) -> Result<Built, Error> {
        self.spec.complete(&mut l3);
        l3.entries()?;
        let bridge = self.ensure_bridge(host)?;
        let pair = Pair { mtu: self.spec.mtu, controller: Some(bridge.link.index) };
        let ends = pair.create(host, pod, target)?;
        match self.configure(host, pod, &bridge, &ends, &l3) {
            Ok((bridge_mac, gateway)) => Ok(Built {
                interfaces: [
                    Interface { name: self.spec.name.clone(), mac: bridge_mac, in_pod: false, mtu: None },
                    ends.host_interface(),
                    Interface::in_pod(&ends.pod),
                ]
                .into_iter()
                .chain(gateway)
                .collect(),
                address_interface: Some(2),
                made: Some(Made::of(&ends.pod, !self.spec.leave_down)),
                host_ifindex: Some(ends.host_index),
                told: Vec::new(),
                layer3: l3,
            }),
            Err(error) => Err(error.after_undo(pod.side.delete(ends.pod.index, &ends.pod.name))),
        }
    }

    /// The bridge: up, and created where it is missing. What an existing one is like is its owner's matter.
    fn ensure_bridge(&self, host: &mut Host) -> Result<Bridge, Error> {
        let name = self.spec.name.as_str();
        let bridge = match &self.bridge {
            Some(link) => Bridge { link: link.clone(), created: false },
            None => self.create_bridge(host)?,
        };
        if !bridge.link.up || (self.spec.promiscuous && !bridge.link.promiscuous) {
            let request = link::set_up_promiscuous(bridge.link.index, self.spec.promiscuous);
            host.side.apply(request).map_err(|e| Error::kernel("set up bridge", name, e))?;
        }
        // Best effort: a kernel without IPv6 has no such parameter.
        if bridge.link.inet6.is_none_or(|inet6| inet6.accept_ra != 0) {
            drop(host.side.sysctls.write(Tree::V6, name, "accept_ra", "0"));
        }
        Ok(bridge)
    }

    /// Its hardware address is set in the creating message: it then stays, whatever ports come and go, and is never zero.
    fn create_bridge(&self, host: &mut Host) -> Result<Bridge, Error> {
        let name = self.spec.name.as_str();
        let shape = Shape::Bridge { vlan_filtering: self.spec.vlan_filtering };
        let new = NewLink { mtu: self.spec.mtu, mac: Some(Mac::random()), up: true, ..NewLink::new(name, shape) };
        let created = match host.side.apply(new.request()) {
            Ok(()) => true,
            // Another attachment made it since we looked.
            Err(failure) if failure.errno() == Some(Errno::EEXIST) => false,
            Err(failure) => {
                return Err(Error::kernel(
                    "failed to create bridge",
                    format!("\"{name}\": could not add \"{name}\""),
                    failure,
                ));
            }
        };
        let link =
            existing(host, name)?.ok_or_else(|| Error::at(ErrorKind::LinkMissing, "find the new bridge", name))?;
        Ok(Bridge { link, created })
    }

    /// Everything after the pair exists; gives the bridge's hardware address, and the gateway where that is not the bridge.
    fn configure(
        &self,
        host: &mut Host,
        pod: &mut Pod,
        bridge: &Bridge,
        ends: &Ends,
        l3: &Layer3,
    ) -> Result<(String, Option<Interface>), Error> {
        let spec = &self.spec;
        self.configure_port(host, bridge, ends)?;
        if !spec.leave_down {
            self.configure_pod(pod, &ends.pod, l3)?;
        }
        let gateway = match spec.vlans.vlan {
            _ if !spec.gateway || l3.is_empty() => None,
            None => {
                gateway::ensure(host, spec, bridge, l3)?;
                None
            }
            Some(id) => {
                let own = vlan::ensure_gateway(host, spec, bridge, id)?;
                gateway::ensure(host, spec, &own, l3)?;
                Some(Interface { in_pod: false, ..Interface::in_pod(&own.link) })
            }
        };
        let bridge_mac = self.settle(host, bridge, ends)?;
        if !l3.is_empty() {
            announce(pod, &ends.pod)?;
        }
        Ok((bridge_mac, gateway))
    }

    /// What the port does beyond the default, in one datagram: before the pod's end is up, so that no frame is forwarded wrong.
    fn configure_port(&self, host: &mut Host, bridge: &Bridge, ends: &Ends) -> Result<(), Error> {
        let spec = &self.spec;
        let port = ends.host_name.as_str();
        let own = spec.hairpin || spec.isolated;
        let mut requests = spec.vlans.requests(&bridge.link, ends.host_index);
        let vlans = requests.len();
        requests.extend(own.then(|| link::set_bridge_port(ends.host_index, spec.hairpin, spec.isolated)));
        let refusals =
            host.side.socket.batch(requests).map_err(|e| Error::kernel("set up bridge port", port.to_owned(), e))?;
        match refusals.into_iter().next() {
            Some((position, refusal)) if position < vlans => {
                Err(Error::refused("failed to setup vlan tag on interface", format!("\"{port}\""), refusal))
            }
            Some((_, refusal)) => Err(Error::refused("set up bridge port", port.to_owned(), refusal)),
            None => Ok(()),
        }
    }

    fn configure_pod(&self, pod: &mut Pod, link: &Link, l3: &Layer3) -> Result<(), Error> {
        let has_addresses = !l3.is_empty();
        if has_addresses {
            // Best effort: a kernel without IPv6 has none of these.
            let set = |key, value| drop(pod.side.sysctls.write(Tree::V6, &link.name, key, value));
            if self.spec.detect_duplicates {
                set("enhanced_dad", "1");
            }
            set("accept_dad", if self.spec.detect_duplicates { "1" } else { "0" });
        }
        let manners = Manners {
            detection: if self.spec.detect_duplicates { Detection::Optimistic } else { Detection::Off },
            announce_v4: has_addresses,
            // Beyond the reference plugin: an address that was another pod's is stale in its neighbours' tables.
            announce_v6: l3.addresses.iter().any(|a| a.address.is_ipv6()),
            connected_routes: true,
            late_carrier: false,
            by_driver: false,
        };
        layer3::configure(&mut pod.side, link, manners, &l3.addresses, &l3.entries()?)
    }

    /// Waits for the port, and gives the bridge's hardware address as it is with the new port.
    fn settle(&self, host: &mut Host, bridge: &Bridge, ends: &Ends) -> Result<String, Error> {
        let questions = vec![link::by_index(ends.host_index), link::by_index(bridge.link.index)];
        let failed = |e| Error::kernel("look at bridge port", ends.host_name.clone(), e);
        let mut answers = host.side.socket.questions(questions, Link::parse).map_err(failed)?.into_iter();
        let (Some(port), Some(bridge)) = (answers.next(), answers.next()) else {
            return Err(Error::at(ErrorKind::LinkMissing, "look at bridge port", ends.host_name.clone()));
        };
        let port = port.map_err(|refusal| failed(refusal.into()))?;
        let bridge = bridge.map_err(|refusal| failed(refusal.into()))?;
        if port.oper_state != Link::OPER_UP && !self.spec.leave_down {
            wait_until_up(host, &port)?;
        }
        Ok(bridge.mac_text())
    }
}

/// The bridge an attachment uses, or what has a VLAN's gateway addresses in its place.
struct Bridge {
    link: Link,
    /// By this attachment: nothing can be in the way on it.
    created: bool,
}

/// Lets the kernel announce the addresses. It did when the pod's end came up, but the port forwards only once the kernel has
/// noticed its carrier, after that: those packets never left (and the reference plugin's do not). Setting the hardware address
/// to itself changes nothing and makes the kernel announce again (NETDEV_CHANGEADDR in net/ipv4/devinet.c, net/ipv6/ndisc.c).
fn announce(pod: &mut Pod, link: &Link) -> Result<(), Error> {
    let Some(mac) = link.mac else { return Ok(()) };
    pod.side.apply(link::set_mac(link.index, mac)).map_err(|e| Error::kernel("announce", link.name.clone(), e))
}

/// Waits for link events until the port is up. The listener is open before the first look, so nothing is missed.
fn wait_until_up(host: &mut Host, port: &Link) -> Result<(), Error> {
    let failed = |e| Error::kernel("wait for bridge port", port.name.clone(), e);
    let deadline = Instant::now() + Duration::from_millis(PORT_UP_TIMEOUT_MS);
    let mut listener = Socket::open().map_err(failed)?;
    listener.join(GROUP_LINK).map_err(failed)?;
    loop {
        let gone = || Error::at(ErrorKind::LinkMissing, "wait for bridge port", port.name.clone());
        let state = host.side.link_at(port.index)?.ok_or_else(gone)?.oper_state;
        if state == Link::OPER_UP {
            return Ok(());
        }
        if listener.event(deadline, |_, _| {}).map_err(failed)? == Heard::Nothing {
            return Err(Error::new(ErrorKind::PortState, format!("bridge port in error state: {}", state_name(state))));
        }
    }
}

/// RFC 2863 states, in the words of the reference plugin.
fn state_name(state: u8) -> &'static str {
    match state {
        1 => "not-present",
        2 => "down",
        3 => "lower-layer-down",
        4 => "testing",
        5 => "dormant",
        6 => "up",
        _ => "unknown",
    }
}
