//! `plexus-cni`: what the container runtime executes. The engine is linked in; one exec builds everything.
//! As a symlink named after a native kind it is that plugin.

use std::process::ExitCode;

#[global_allocator]
static MEMORY: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    plexus::engine::run(&plexus::handover::Program::default())
}
