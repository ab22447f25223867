//! The Kubernetes API as a source of pods and definitions, and as the place where a pod's status and events go.
//!
//! [`Live`] serves one request; [`Known`] a daemon's: it knows the cluster before it is asked.
//! It does not know what a definition means, nor when it is asked.

mod address;
mod advice;
mod again;
pub mod approver;
mod ask;
mod cache;
mod call;
mod cancel;
mod certificate;
mod connect;
mod dra;
mod enrolment;
mod events;
mod grpc;
mod inquiry;
mod known;
mod kubelet;
mod limit;
mod lines;
mod live;
mod objects;
mod outbox;
mod plugin;
mod program;
mod proto;
mod shelf;
mod signing;
mod status;
mod taint;
mod unwritten;
mod watch;
mod wire;

pub use cancel::Cancel;
pub use enrolment::{Enrolment, Wanted};
pub use inquiry::Inquiry;
pub use known::{Counts, Known, State, node_name};
pub use live::Live;
pub use objects::NetworkAttachmentDefinition;
pub use plugin::{Offer, Plugins};
pub use watch::Trouble;
