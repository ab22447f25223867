//! `plexus`: what a person runs. It parses the command line and turns an outcome into an exit code; what a command does is
//! in `cli`, and how pods are attached is in the library.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    // A DEL of this executable's own (`oneshot`) starts it again as the child that waits for the kernel.
    if let Some(code) = plexus::engine::run_as_deleter() {
        return code;
    }
    cli::Cli::parse().run()
}
