//! `plexus`: what a person runs. It parses the command line and turns an outcome into an exit code; what a command does is
//! in `cli`, and how pods are attached is in the library.

use std::process::ExitCode;

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
    // A pod waits for this one: it is known without making the parser of all commands first.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "oneshot") && arguments.next().is_none() {
        return cli::oneshot();
    }
    cli::run(std::env::args_os())
}
