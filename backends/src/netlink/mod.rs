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
