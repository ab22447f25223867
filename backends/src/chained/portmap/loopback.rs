//! Lets packets from 127.0.0.0/8 leave towards a pod: the kernel drops them as martians otherwise. What is allowed stays allowed,
//! for the link is shared.

use std::net::IpAddr;

use crate::error::Error;
use crate::netlink::route;
use crate::pod::Host;
use crate::sysctl::Tree;

const KEY: &str = "route_localnet";

/// On the link by which the host reaches the pod; where it does not, nowhere.
pub(super) fn let_out(host: &mut Host, pod: IpAddr) -> Result<(), Error> {
    let asked = host.side.socket.questions(vec![route::to(pod)], route::parse);
    let answers = asked.map_err(|e| Error::kernel("ask for the route to", pod.to_string(), e))?;
    let Some(hop) = answers.into_iter().flatten().flatten().next() else { return Ok(()) };
    let Some(link) = host.side.link_at(hop.index)? else { return Ok(()) };
    let failed = |error| Error::invalid("unable to enable route_localnet").because(error);
    match host.side.sysctls.ensure(Tree::V4, &link.name, KEY, "1") {
        // The link has gone meanwhile: so has the way to the pod.
        Err(_) if host.side.link_at(hop.index)?.is_none() => Ok(()),
        other => other.map_err(failed),
    }
}
