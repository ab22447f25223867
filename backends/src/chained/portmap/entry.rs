//! One mapping as the runtime asks for it, and several together. Looks nothing up.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::{Mapping, Place, Protocol};
use crate::error::Error;

const PORT_MAX: i64 = 65_535;

/// A mapping as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "PortMapEntry", default)]
pub struct Entry {
    /// The host's port.
    #[serde(rename = "hostPort")]
    pub host_port: i64,
    /// The pod's port.
    #[serde(rename = "containerPort")]
    pub container_port: i64,
    /// "tcp", "udp" or "sctp", in any case.
    pub protocol: String,
    /// One address of the host; empty: all. An unspecified one: all of its family.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
}

impl Entry {
    pub(super) fn validate(&self) -> Result<Mapping, Error> {
        let port = |port: i64, whose: &str| {
            let known = u16::try_from(port).ok().filter(|_| (1..=PORT_MAX).contains(&port));
            known.ok_or_else(|| Error::invalid(format!("Invalid {whose} port number: {port}")))
        };
        let container_port = port(self.container_port, "container")?;
        let host_port = port(self.host_port, "host")?;
        let of = || format!("of host port {host_port}: it is");
        let protocol = Protocol::of(&self.protocol).ok_or_else(|| {
            Error::invalid(format!("unknown protocol {} \"{}\", not tcp, udp or sctp", of(), self.protocol))
        })?;
        let place = place(&self.host_ip)
            .ok_or_else(|| Error::invalid(format!("invalid hostIP {} \"{}\", no address", of(), self.host_ip)))?;
        Ok(Mapping { protocol, host_port, place, container_port })
    }
}

/// An address that is none of a host's, 0.0.0.0 or ::, is all of its family, as with the reference plugin.
fn place(text: &str) -> Option<Place> {
    if text.is_empty() {
        return Some(Place::Any);
    }
    let ip = text.parse::<IpAddr>().ok()?.to_canonical();
    Some(match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Place::AnyV4,
        IpAddr::V6(ip) if ip.is_unspecified() => Place::AnyV6,
        ip => Place::Address(ip),
    })
}

/// The same mapping twice is one; the same host port for two ports of the pod is none.
pub(super) fn each_once(mappings: Vec<Mapping>) -> Result<Vec<Mapping>, Error> {
    let mut ports = BTreeMap::new();
    let mut kept = Vec::with_capacity(mappings.len());
    for mapping in mappings {
        let places = match mapping.place {
            Place::Any => vec![Place::AnyV4, Place::AnyV6],
            place => vec![place],
        };
        let mut is_new = false;
        for place in places {
            let key = (mapping.protocol, mapping.host_port, place);
            match ports.insert(key, mapping.container_port) {
                None => is_new = true,
                Some(before) if before == mapping.container_port => {}
                Some(before) => {
                    let (port, protocol, after) = (mapping.host_port, mapping.protocol.name(), mapping.container_port);
                    let text =
                        format!("host port {port}/{protocol} is asked for twice: for port {before} and for {after}");
                    return Err(Error::invalid(text));
                }
            }
        }
        if is_new {
            kept.push(mapping);
        }
    }
    Ok(kept)
}
