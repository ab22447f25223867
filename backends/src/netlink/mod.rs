//! The only place that names a netlink message: a blocking socket and typed requests. Knows no kind of interface's rules.

pub(crate) mod addr;
pub(crate) mod bridge_vlan;
pub(crate) mod error;
pub(crate) mod link;
pub(crate) mod netfilter;
pub(crate) mod route;
pub(crate) mod socket;

pub use error::{Failure, Refusal};
pub(crate) use link::{NewLink, Shape};
pub(crate) use netlink_packet_route::RouteNetlinkMessage as Message;
pub(crate) use socket::{Request, Socket};

/// Every reader of this module on bytes that nobody checked.
#[cfg(fuzzing)]
pub(crate) fn read_anything(bytes: &[u8]) {
    drop(socket::messages(bytes, |message| {
        read_payload(message.payload());
        Ok(())
    }));
    read_payload(bytes);
}

#[cfg(fuzzing)]
fn read_payload(payload: &[u8]) {
    drop(link::Link::parse(payload));
    drop(addr::parse(payload));
    drop(route::parse(payload));
    drop(bridge_vlan::parse(payload));
    for flags in [0, u16::MAX] {
        drop(error::verdict(flags, payload));
    }
}
