//! firewall: the pod's traffic passes the host's filter, and bridges are isolated from each other ([`crate::nft`] writes the
//! rules). Whether the node's rules are firewalld's or legacy iptables', which are not written here, says [`detect`].

mod bus;
mod conf;
mod detect;

pub use conf::{Conf, Isolation, Policy, Resolved, Spec};
pub use detect::{Question, Reason, detect};

use crate::error::Error;
use crate::netlink::link::{self, Link};
pub use crate::nft::forward::Handles;
use crate::nft::forward::{self, Known, Wanted};
use crate::nft::{Filter, Listed, Owner};
use crate::pod::Host;

impl Resolved {
    fn wanted(&self) -> Wanted<'_> {
        let isolation = self.isolation.as_ref();
        Wanted {
            admin: &self.admin,
            addresses: &self.addresses,
            isolation: isolation.map(|isolation| (isolation.bridge.as_str(), isolation.policy == Policy::Isolated)),
        }
    }
}

/// Lets the pod's traffic pass: all rules of both families, or none; by what they are found quickly is returned. What the policy says of the bridge replaces what an earlier
/// one said.
///
/// # Errors
/// [`crate::ErrorKind::Refused`] if the kernel refuses (FORWARD is something else, an extension of iptables is missing),
/// [`crate::ErrorKind::Io`] if it cannot be asked.
pub fn add(filter: &mut Filter, owner: &Owner<'_>, resolved: &Resolved) -> Result<Handles, Error> {
    if resolved.is_idle() { Ok(Handles::default()) } else { forward::add(filter, owner, &resolved.wanted()) }
}

/// Removes the owner's rules. With `handles`, which [`add`] returned, no chain is listed, however long; they are not needed, nor
/// trusted. `resolved` is what [`add`] had, or what the previous result says: rules of the reference plugin
/// are known by their address only. Without it only rules go that name the owner. The isolation of its bridge goes with the
/// last port into a pod, as does that of bridges that are gone; chains stay, as the reference plugin leaves them.
///
/// # Errors
/// As [`add`].
pub fn remove(
    host: &mut Host,
    filter: &mut Filter,
    owner: &Owner<'_>,
    resolved: Option<&Resolved>,
    handles: Option<&Handles>,
) -> Result<(), Error> {
    let known = Known { addresses: resolved.map_or(&[][..], |resolved| &resolved.addresses), handles };
    let Some((resolved, isolation)) = resolved.and_then(|r| Some((r, r.isolation.as_ref()?))) else {
        return forward::remove(filter, owner, known, None);
    };
    let mut idle = |bridges: &[String]| {
        let is_idle = |host: &mut Host, bridge: &String| {
            let Some(found) = host.side.link(bridge)? else { return Ok(true) };
            let is_own = *bridge == isolation.bridge;
            Ok(is_own && !leads_into_pods(host, &found, &resolved.ports)?)
        };
        chosen(host, bridges, is_idle)
    };
    forward::remove(filter, owner, known, Some(&mut idle))
}

/// Removes the isolation of all bridges that are gone or have no port into a pod: what removals that met left.
///
/// # Errors
/// As [`add`].
pub fn remove_idle_isolation(host: &mut Host, filter: &mut Filter) -> Result<(), Error> {
    forward::remove_idle(filter, &mut |bridges| {
        chosen(host, bridges, |host, bridge| match host.side.link(bridge)? {
            Some(found) => Ok(!leads_into_pods(host, &found, &[])?),
            None => Ok(true),
        })
    })
}

fn chosen(
    host: &mut Host,
    bridges: &[String],
    mut is_idle: impl FnMut(&mut Host, &String) -> Result<bool, Error>,
) -> Result<Vec<String>, Error> {
    let mut chosen = Vec::new();
    for bridge in bridges {
        if is_idle(host, bridge)? {
            chosen.push(bridge.clone());
        }
    }
    Ok(chosen)
}

/// Whether a bridge has a port whose other end is in another namespace, besides these.
fn leads_into_pods(host: &mut Host, bridge: &Link, besides: &[String]) -> Result<bool, Error> {
    let listed = host.side.socket.dump(&link::ports_of(bridge.index), |payload| Link::parse(payload).map(Some));
    let ports = listed.map_err(|e| Error::kernel("list the ports of", bridge.name.clone(), e))?;
    // A kernel before 4.6 lists all links.
    let own = ports.iter().filter(|port| port.controller == Some(bridge.index));
    Ok(own.into_iter().any(|port| port.parent_elsewhere && !besides.contains(&port.name)))
}

/// GC: removes the rules of a network that name none of the valid attachments: pairs of container id and interface name. Without
/// `by_ifname` the container id alone decides. Rules of the reference plugin name nobody and stay.
///
/// # Errors
/// As [`add`].
pub fn retain(filter: &mut Filter, network: &str, valid: &[(&str, &str)], by_ifname: bool) -> Result<(), Error> {
    forward::retain(filter, network, valid, by_ifname)
}

/// CHECK: whether the rules are there, ours or the reference plugin's. Changes nothing.
///
/// # Errors
/// [`crate::ErrorKind::Mismatch`] with the reference plugin's text; as [`add`].
pub fn check(listed: &mut Listed, owner: &Owner<'_>, resolved: &Resolved) -> Result<(), Error> {
    if resolved.is_idle() { Ok(()) } else { forward::check(listed, owner, &resolved.wanted()) }
}
