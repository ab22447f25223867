//! plexus attaches pods to networks. Read `src/README.md` first: it is the map of this crate.
//!
//! In reading order: what arrives, what was asked for, what will be done, what is written down, and what does it.

pub mod account;
mod ahead;
pub mod alive;
pub mod asked;
pub mod attach;
pub mod chain;
pub mod chained;
pub mod check;
pub mod claims;
pub mod cluster;
pub mod cni;
pub mod collect;
pub mod confdir;
pub mod config;
pub mod convert;
#[cfg(feature = "api")]
pub mod daemon;
pub mod default_route;
pub mod deleter;
pub mod detach;
pub mod devices;
pub mod durable;
pub mod engine;
pub mod gather;
pub mod handover;
pub mod heartbeat;
pub mod install;
pub mod job;
pub mod journal;
#[cfg(feature = "api")]
pub mod keep;
#[cfg(feature = "api")]
pub mod kube;
pub mod log;
pub mod marks;
pub mod native;
pub mod phase;
pub mod place;
pub mod plan;
pub mod readiness;
pub mod reconcile;
pub mod refer;
pub mod rules;
pub mod select;
pub mod sight;
pub mod sources;
pub mod status;
pub mod survey;
pub mod takeover;
pub mod trace;
pub mod validate;
pub mod wire;
pub mod yaml;
