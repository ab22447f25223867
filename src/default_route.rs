//! `default-route` of an annotation: which attachment holds the pod's default route, for each family.
//!
//! Runs after all attachments are there, whoever made them: what a delegate installed counts as much as what plexus did.
//! One replacing message per family, so that a pod never is without a default route; then what else is there is removed,
//! and the kernel is asked what it has now. It does not know the annotation's grammar.

use std::net::IpAddr;

use backends::{DefaultRoute, Family, Pod, Via, default_route_move, default_routes};

use crate::cni::error::CniError;
use crate::native;
use crate::plan::Plan;

/// Moves the default routes where the plan wants them.
///
/// # Errors
/// The kernel's refusal of a gateway, or a default route that is not the wanted one after all.
pub fn apply(plan: &Plan, pod: &mut Pod) -> Result<(), CniError> {
    for attachment in &plan.attachments {
        let Some(gateways) = &attachment.default_route else { continue };
        for family in [Family::V4, Family::V6] {
            let gateway = gateways.iter().copied().find(|gateway| family_of(*gateway) == family);
            let via = match gateway {
                Some(gateway) => Via::Gateway(gateway),
                // A list that names the other family only leaves this one alone; an empty one keeps the network's own.
                None if gateways.is_empty() && holds_one(pod, family, &attachment.ifname)? => Via::Own,
                None => continue,
            };
            default_route_move(pod, family, &attachment.ifname, via).map_err(native::from_backend)?;
        }
    }
    Ok(())
}

/// Whether each of these gateways has the pod's default route, at this interface and nowhere else.
///
/// # Errors
/// What leads elsewhere; what the kernel says.
pub fn check(pod: &mut Pod, ifname: &str, gateways: &[IpAddr]) -> Result<(), CniError> {
    for gateway in gateways {
        let routes = default_routes(pod, family_of(*gateway)).map_err(native::from_backend)?;
        let leads = |route: &DefaultRoute| route.ifname == ifname && route.gateway == Some(*gateway);
        if routes.is_empty() || !routes.iter().all(leads) {
            let there: Vec<&str> = routes.iter().map(|route| route.ifname.as_str()).collect();
            let there = if there.is_empty() { "nowhere".to_owned() } else { there.join(", ") };
            let msg = format!("the default route by {gateway} is not at {ifname} alone: it leads to {there}");
            return Err(CniError::generic(msg));
        }
    }
    Ok(())
}

fn holds_one(pod: &mut Pod, family: Family, ifname: &str) -> Result<bool, CniError> {
    let routes = default_routes(pod, family).map_err(native::from_backend)?;
    Ok(routes.iter().any(|route| route.ifname == ifname))
}

fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}
