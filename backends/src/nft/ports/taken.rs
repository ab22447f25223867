//! What is said to whoever wants a port that somebody else has.

use super::element::holder;
use super::{Mapping, Place};

/// The port, its holder as the comment tells, and what to do.
pub(super) fn taken(mapping: &Mapping, comment: &str) -> String {
    let port = describe(mapping);
    match holder(comment) {
        Some((network, ifname, sandbox, is_cut)) => {
            let rest = if is_cut { "..." } else { "" };
            format!(
                "{port} is taken: it leads to {ifname} of container {sandbox}{rest} in network \"{network}\"; \
                 choose another host port or remove that container (\"plexus gc\" does if it has ended)"
            )
        }
        None => {
            format!("{port} is taken by somebody else's rule, whose comment is \"{comment}\"; choose another host port")
        }
    }
}

/// As above, where the reference plugin's rule tells no more than the container.
pub(super) fn taken_by_container(mapping: &Mapping, sandbox: &str) -> String {
    let port = describe(mapping);
    format!("{port} is taken: it leads to container {sandbox}; choose another host port or remove that container")
}

/// As above, where its rule for iptables quotes network and container.
pub(super) fn taken_by_entry(mapping: &Mapping, comment: &str) -> String {
    let port = describe(mapping);
    let whose = comment.strip_prefix("dnat ").unwrap_or(comment);
    format!("{port} is taken: it leads to the container of {whose}; choose another host port or remove that container")
}

fn describe(mapping: &Mapping) -> String {
    let (port, protocol) = (mapping.host_port, mapping.protocol.name());
    match mapping.place {
        Place::Address(ip) => format!("host port {port}/{protocol} at {ip}"),
        Place::Any | Place::AnyV4 | Place::AnyV6 => format!("host port {port}/{protocol}"),
    }
}
