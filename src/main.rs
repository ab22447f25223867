//! `plexus`: what a person runs. It parses the command line and turns an outcome into an exit code; what a command does is
//! in `cli`, and how pods are attached is in the library.

use std::process::ExitCode;

use clap::Parser;

mod cli;

/// glibc's has a heap for each thread, gives memory back after each request and takes it anew for the next: of a daemon's four
/// attachments a tenth of a millisecond.
#[global_allocator]
static MEMORY: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    // A DEL of this executable's own (`oneshot`) starts it again as the child that waits for the kernel.
    if let Some(code) = plexus::engine::run_as_deleter() {
        return code;
    }
    cli::Cli::parse().run()
}
