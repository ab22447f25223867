//! The only place that names a netlink message: a blocking socket and typed requests. Knows no kind of interface's rules.

pub(crate) mod addr;
pub(crate) mod alt_name;
pub(crate) mod bridge_vlan;
pub(crate) mod conntrack;
pub(crate) mod error;
pub(crate) mod inet;
pub(crate) mod inet6;
pub(crate) mod link;
pub(crate) mod netfilter;
pub(crate) mod qdisc;
pub(crate) mod route;
pub(crate) mod rule;
pub(crate) mod socket;
pub(crate) mod tuning;
pub(crate) mod uevent;
pub(crate) mod vf;
pub(crate) mod whole;

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
    drop(vf::parse(payload, 1));
    drop(addr::parse(payload));
    drop(route::parse(payload));
    drop(rule::parse(payload));
    drop(whole::Address::parse(payload));
    if let Ok(Some(route)) = whole::Route::parse(payload) {
        drop(route.delete(1));
    }
    drop(bridge_vlan::parse(payload));
    drop(qdisc::parse(payload));
    drop(qdisc::Filter::parse(payload));
    assert!(conntrack::udp_port(payload).is_none() || !payload.is_empty());
    for flags in [0, u16::MAX] {
        drop(error::verdict(flags, payload));
    }
}
