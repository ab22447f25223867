//! Ports of the host that lead to pods: which there are, whose they are, and that nobody gets another one's. Each is an element
//! of a map, so that no packet and no change costs more on a node with many. Knows no configuration and opens no socket.
//!
//! The reference plugins' own rules, of both their backends, count in CHECK and go in DEL; they are made only where asked for.

mod compatible;
mod element;
mod layout;
mod own;
mod removal;
mod taken;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::masquerade::others;
use super::message::Family;
use super::socket::Socket;
use super::{Filter, Owner, iptables};
use crate::error::{Error, ErrorKind};
use crate::netlink::{Failure, conntrack};

pub(super) use compatible::{TABLE as COMPATIBLE_TABLE, containers, remove_containers};
pub(super) use element::{holder, without_prefix};
pub(super) use layout::TABLE;
pub(super) use removal::{comments, remove_where};

/// Where mappings are, for a person.
pub(super) const PLACE: &str = "tables ip and ip6 plexus_portmap";
/// Where those of the reference plugin are.
pub(super) const COMPATIBLE_PLACE: &str = "tables ip and ip6 cni_hostport";

/// Mappings that one transaction adds or removes: less than the hundred kilobytes that a socket takes.
const MAPPINGS_AT_ONCE: usize = 40;

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The one of this name, in any case.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }

    /// Its name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Its number in a packet (IANA).
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// At which of the host's addresses a mapping is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// At all of both families.
    Any,
    /// At all of IPv4.
    AnyV4,
    /// At all of IPv6.
    AnyV6,
    /// At one.
    Address(IpAddr),
}

impl Place {
    /// Whether it is of this family at all; and then the one address, if it is one.
    fn of(self, v6: bool) -> Option<Option<IpAddr>> {
        match self {
            Self::Any => Some(None),
            Self::AnyV4 => (!v6).then_some(None),
            Self::AnyV6 => v6.then_some(None),
            Self::Address(ip) => (ip.is_ipv6() == v6).then_some(Some(ip)),
        }
    }
}

/// A port of the host that leads to one of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mapping {
    /// Of both ports.
    pub protocol: Protocol,
    /// The host's port.
    pub host_port: u16,
    /// At which of the host's addresses.
    pub place: Place,
    /// The pod's port.
    pub container_port: u16,
}

/// What comes to the pod with the host's address as its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snat {
    /// Nothing.
    Never,
    /// What the pod would answer without the host: from the pod's own network, and from the host's loopback.
    Near,
    /// Everything.
    All,
}

/// What is added.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports<'a> {
    pub(crate) mappings: &'a [Mapping],
    pub(crate) snat: Snat,
    /// The reference plugin's own table and rules.
    pub(crate) compatible: bool,
    /// The pod's addresses with their networks' prefix lengths, at most one a family.
    pub(crate) addresses: &'a [IpNetwork],
}

impl Ports<'_> {
    fn address(&self, v6: bool) -> Option<IpNetwork> {
        self.addresses.iter().find(|address| address.is_ipv6() == v6).copied()
    }
}

/// Why nothing was added.
#[derive(Debug)]
enum Problem {
    Kernel(Failure),
    /// Somebody has it; in words.
    Taken(String),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Kernel(failure)
    }
}

impl Problem {
    fn tell(self, act: &'static str, owner: &Owner<'_>) -> Error {
        match self {
            Self::Kernel(failure) => Error::kernel(act, owner.place(), failure),
            Self::Taken(words) => Error::new(ErrorKind::PortTaken, words),
        }
    }
}

/// Fails where the reference plugin leads one of the ports elsewhere by iptables. Only a rule for every address of the host
/// counts: for one address, which is in the container's own chain, its entry looks the same.
fn look_at_iptables(
    socket: &mut Socket,
    mappings: &[Mapping],
    owner: &Owner<'_>,
    families: &[bool],
) -> Result<(), Problem> {
    for v6 in families {
        let entries = iptables::entries(socket, owner, element::family(*v6))?;
        for mapping in mappings.iter().filter(|mapping| mapping.place.of(*v6).is_some()) {
            let is_it = |entry: &&iptables::Entry| {
                entry.protocol.is_none_or(|number| number == mapping.protocol.number())
                    && entry.ports.contains(&mapping.host_port)
            };
            for entry in entries.iter().filter(is_it) {
                if iptables::is_everywhere(socket, element::family(*v6), entry, mapping.host_port)? {
                    return Err(Problem::Taken(taken::taken_by_entry(mapping, &entry.comment)));
                }
            }
        }
    }
    Ok(())
}

impl Filter {
    fn socket(&mut self, owner: &Owner<'_>) -> Result<&mut Socket, Error> {
        let none = || {
            Error::at(ErrorKind::Refused, "map ports of the host to", owner.place())
                .because_of("this kernel has no netfilter")
        };
        self.0.as_mut().ok_or_else(none)
    }

    /// Fails where somebody else has one of the ports in one of the families (v6 or not), in either layout. Changes nothing.
    pub(crate) fn look_at_ports(
        &mut self,
        mappings: &[Mapping],
        owner: &Owner<'_>,
        families: &[bool],
    ) -> Result<(), Error> {
        let Some(socket) = self.0.as_mut() else { return Ok(()) };
        let mut look = || -> Result<(), Problem> {
            own::look(socket, mappings, owner, families)?;
            compatible::look(socket, mappings, owner, families)?;
            look_at_iptables(socket, mappings, owner, families)
        };
        look().map_err(|problem| problem.tell("look at the mapped ports of", owner))
    }

    /// Adds mappings, all or none.
    pub(crate) fn add_ports(&mut self, ports: Ports<'_>, owner: &Owner<'_>) -> Result<(), Error> {
        let socket = self.socket(owner)?;
        for (done, part) in ports.mappings.chunks(MAPPINGS_AT_ONCE).enumerate() {
            let part = Ports { mappings: part, ..ports };
            let added = match part.compatible {
                true => compatible::add(socket, &part, owner),
                false => own::add(socket, &part, owner),
            };
            if let Err(problem) = added {
                let before = ports.mappings.get(..done * MAPPINGS_AT_ONCE).unwrap_or_default();
                let error = problem.tell("map ports of the host to", owner);
                return Err(error.after_undo(self.take_back_ports(before, owner)));
            }
        }
        Ok(())
    }

    /// Removes just these mappings of an owner.
    pub(crate) fn take_back_ports(&mut self, mappings: &[Mapping], owner: &Owner<'_>) -> Result<(), Error> {
        let Some(socket) = self.0.as_mut().filter(|_| !mappings.is_empty()) else { return Ok(()) };
        let mut remove = || -> Result<(), Failure> {
            removal::remove_known(socket, mappings, owner, [false; 2])?;
            socket.change(|socket, batch| compatible::remove(socket, batch, Some(mappings), owner.sandbox))
        };
        remove().map_err(|e| Error::kernel("remove the mapped ports of", owner.place(), e))
    }

    /// Removes an owner's mappings, and what the reference plugins made for them. `known`: which they are; none: nobody knows. `has`: of
    /// which families, IPv4 and IPv6, the pod is known to have addresses.
    pub(crate) fn remove_ports(
        &mut self,
        known: Option<&[Mapping]>,
        owner: &Owner<'_>,
        has: [bool; 2],
    ) -> Result<(), Error> {
        let Some(socket) = self.0.as_mut() else { return Ok(()) };
        let mut remove = || -> Result<(), Failure> {
            removal::remove(socket, known, owner, has)?;
            socket.change(|socket, batch| {
                compatible::remove(socket, batch, known, owner.sandbox)?;
                iptables::remove_ports(socket, batch, owner)
            })
        };
        remove().map_err(|e| Error::kernel("remove the mapped ports of", owner.place(), e))
    }

    /// GC: removes the mappings of a network that are of none of the valid attachments: as [`super::retain`]. Those of the
    /// compatible layout do not tell their network and stay.
    pub(crate) fn retain_ports(&mut self, network: &str, valid: &[(&str, &str)], by_ifname: bool) -> Result<(), Error> {
        let Some(socket) = self.0.as_mut() else { return Ok(()) };
        let is_other = others(network, valid, by_ifname);
        let removed = remove_where(socket, |element| is_other(&element.comment));
        removed.map_err(|e| Error::kernel("collect mapped ports of network", format!("\"{network}\""), e))
    }

    /// Whether the mappings are there, in any of the ways.
    pub(crate) fn check_ports(&mut self, ports: &Ports<'_>, owner: &Owner<'_>) -> Result<(), Error> {
        let failed = |e| Error::kernel("look at the mapped ports of", owner.place(), e);
        let socket = self.socket(owner)?;
        for address in ports.addresses {
            let (v6, family) = (address.is_ipv6(), if address.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 });
            let Err(text) = own::check(socket, ports, owner, v6).map_err(failed)? else { continue };
            let by_others = compatible::is_there(socket, ports, owner, v6).map_err(failed)?
                || iptables::has_ports(socket, owner, family).map_err(failed)?;
            if !by_others {
                return Err(Error::mismatch(text));
            }
        }
        Ok(())
    }

    /// Lets the kernel forget connections without state to these ports of the host: they go where the ports led before. Best
    /// effort, as with the reference plugin.
    pub(crate) fn forget_flows(&mut self, mappings: &[Mapping], v6: bool) {
        let is_meant = |mapping: &&Mapping| mapping.protocol == Protocol::Udp && mapping.place.of(v6).is_some();
        let ports: Vec<u16> = mappings.iter().filter(is_meant).map(|mapping| mapping.host_port).collect();
        if let Some(socket) = self.0.as_mut().filter(|_| !ports.is_empty()) {
            drop(conntrack::forget_udp(socket.netfilter(), v6, &ports));
        }
    }
}
