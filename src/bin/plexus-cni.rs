//! `plexus-cni`: what the container runtime executes. The engine is linked in; one exec builds everything.
//! As a symlink named after a native kind it is that plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    plexus::engine::run()
}
