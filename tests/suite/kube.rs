//! A real API server for cases. One etcd and one kube-apiserver serve a whole run; each case has Kubernetes namespaces of its
//! own in it, and a front before it in its own network namespace, which counts requests and can fail them.
//!
//! ```text
//! a case's namespaces                                  | the server's namespaces
//! plexus --TLS--> Front at 127.0.0.1:port --TLS over a Unix socket--> serving process --TCP--> kube-apiserver --> etcd
//! ```

pub(crate) mod cluster;
mod endless;
mod fault;
mod front;
pub(crate) mod login;
mod rig;
pub(crate) mod server;
mod upstream;
mod verify;

pub(crate) use cluster::Cluster;
pub(crate) use endless::Endless;
pub(crate) use fault::{Door, Fault};
pub(crate) use login::Login;

use crate::case::Case;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    rig::cases()
}
