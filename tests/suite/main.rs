//! The integration tests: real binaries in real namespaces.
//!
//! `cargo test --test suite` lists every case, probes what this machine can do, and executes this binary once per case
//! (`--case NAME`) in namespaces of its own: no case can see another one's links, files or processes, and cases run
//! in parallel. A case that cannot run here is listed as ignored, and its kind says what is missing.
//!
//! It knows nothing about how plexus works inside: a plugin is an executable with an environment and two streams.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; the case's own process ends and its parent reports it"
)]

mod admission;
mod announcement;
mod api;
mod call;
mod capability;
mod case;
mod chains;
mod check;
mod compare;
mod config;
mod cookbook;
mod crash;
mod daemon;
mod defects;
mod deploy;
mod devices;
mod entrypoint;
mod examples;
mod gc;
mod image;
mod install;
mod interop;
mod ip;
mod known;
mod kube;
mod leave;
mod lists;
mod mend;
mod meta;
mod multus;
mod need;
mod neighbours;
mod nft;
mod observe;
mod odd;
mod oracle;
mod own_node;
mod plugins;
mod pool;
mod process;
mod program;
mod reconcile;
mod redact;
mod rendered;
mod snapshot;
mod status;
mod taint;
mod takeover;
mod testbed;
mod tools;
mod traces;
mod validate;
mod world;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match (words.next().as_deref(), words.next()) {
        (Some("--case"), Some(name)) => case::run_here(&name),
        (Some("--probe"), Some(name)) => need::probe_here(&name),
        (Some("--server"), Some(folder)) => kube::server::serve_here(folder.as_ref()),
        (Some("--reconcile"), Some(_)) => reconcile::round_here(),
        _ => list_and_run(),
    }
}

/// What `cargo test` and `cargo nextest` call: options as libtest has them.
fn list_and_run() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A case mostly waits: for the kernel's grace periods, for a Go plugin's duplicate address detection.
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    arguments.test_threads.get_or_insert(processors * THREADS_PER_PROCESSOR);
    let trials = case::trials(&arguments);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Cases that run at the same time on one processor.
const THREADS_PER_PROCESSOR: usize = 3;
