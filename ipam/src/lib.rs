//! Addresses in, addresses out: host-local and static.
//!
//! `host_local` keeps leases in the Go plugin's own directory, `static_` only reads its configuration. Both turn a
//! section of configuration into a value in which nothing is missing (every error about the configuration leaves
//! there), and that value into an [`Allocation`]. Knows no CNI JSON lists, no results and no Kubernetes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

mod error;
mod fault;
mod gotext;
pub mod host_local;
mod index;
mod number;
mod range;
mod resolv;
pub mod spare;
pub mod static_;
mod turn;

pub use error::{Error, ErrorKind};
pub use gotext::{Cidr, MaybeIp};
pub use range::RangeSection;

/// An address for an interface, with the prefix of its subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Address and prefix; the host bits are kept.
    #[serde(deserialize_with = "gotext::network")]
    pub address: IpNetwork,
    /// The subnet's gateway, if there is one.
    #[serde(default, deserialize_with = "gotext::optional_ip", skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route as the configuration gives it: this crate only hands it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "_*types.Route")]
pub struct Route {
    /// The destination; host bits are kept, the kernel refuses them.
    #[serde(deserialize_with = "gotext::network")]
    pub dst: IpNetwork,
    /// The next hop; without it the family's gateway.
    #[serde(default, deserialize_with = "gotext::optional_ip", skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// The path MTU in bytes; 0 means none, as in the Go type, and is not written.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub mtu: Option<u32>,
    /// The advertised maximal segment size in bytes; 0 means none, and is not written.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub advmss: Option<u32>,
    /// The metric; 0 means none, and is not written.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub priority: Option<i32>,
    /// The routing table's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<i32>,
    /// The scope (rtnetlink's number).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<i32>,
}

/// The Go type drops a zero of these when it is written (`omitempty`).
fn is_unset<T: Default + PartialEq>(value: &Option<T>) -> bool {
    value.as_ref().is_none_or(|value| *value == T::default())
}

/// Name resolution for the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "types.DNS", default)]
pub struct Dns {
    /// Addresses of name servers, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The search list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// The resolver's options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// What an owner was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocation {
    /// One address per range set, or every static address, in the configuration's order.
    pub addresses: Vec<Address>,
    /// The configuration's routes.
    pub routes: Vec<Route>,
    /// Name resolution.
    pub dns: Dns,
}

/// Who holds a lease: one interface of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner<'a> {
    /// The container id.
    pub sandbox: &'a str,
    /// The interface's name in the sandbox; empty in a lease of the old format, which held only the container id.
    pub ifname: &'a str,
}
