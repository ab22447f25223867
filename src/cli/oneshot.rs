//! `plexus oneshot`: one CNI request, served by the engine, exactly as `plexus-cni` serves it.

use std::process::ExitCode;

/// Serves the request in the environment and on standard input.
pub(super) fn run() -> ExitCode {
    plexus::engine::serve_as("plexus-cni")
}
