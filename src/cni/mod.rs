//! The CNI protocol: what the runtime says (environment, configuration, lists), what it gets back (results of seven
//! versions, errors), and how a plugin is executed as a binary. Texts and bytes are those of the Go peers, because
//! operators and tests match on them. Knows nothing of the kernel and nothing of Kubernetes.
//!
//! Reading order: `request` (one call), `conf` and `list` (what it carries), `result` and `error` (what goes back),
//! `exec` (a delegate). `gojson` and `goprint` are the two halves of "as Go's encoding/json does it".

pub mod address;
pub mod args;
pub mod attachments;
pub mod conf;
pub mod error;
pub mod exec;
mod godecode;
pub mod gojson;
pub mod goprint;
mod gosyntax;
mod gotypes;
pub mod list;
pub mod names;
mod process;
mod render;
pub mod request;
pub mod result;
pub mod runtime;
pub mod version;

pub use conf::NetConf;
pub use error::{CniError, Code};
pub use list::{List, PluginConf};
pub use request::{Command, Invocation, Request};
pub use result::CniResult;
pub use version::Version;
