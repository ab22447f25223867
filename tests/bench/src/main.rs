//! `bench`: paired, alternating measurements of plexus, the Go plugins and the bare netlink messages. `tests/bench/run`
//! builds all three and starts it in namespaces of its own.

mod attachment;
mod chains;
mod cluster;
mod figures;
mod goals;
mod idle;
mod leases;
mod machine;
mod nodes;
mod pods;
mod reach;
mod report;
mod resident;
mod rest;
mod rows;
mod side;
mod usage;
mod world;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cluster::Server;
use crate::machine::Machine;
use crate::rows::{Measured, ROWS, Row, Stage, WARM_UP_ROUNDS, measure};
use crate::side::{OfNodes, Outcome, Programs, Side, Watch};
use crate::world::World;

/// Exit status after Ctrl-C, as shells have it: 128 and the signal.
const INTERRUPTED: u8 = 130;

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Measures plexus beside the Go reference plugins and the bare netlink messages.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Rounds that count, after 3 that do not; slow rows get a half or a third
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Only this row (may be given several times)
    #[arg(long, value_name = "ROW", value_parser = ROWS.iter().map(|row| row.name).collect::<Vec<_>>())]
    only: Vec<String>,
    /// Also writes the JSON report to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What is printed
    #[arg(short, long, default_value = "table")]
    output: Format,
    /// Shows each goal beside the measured figure
    #[arg(long)]
    goals: bool,
    /// The plexus-cni to measure
    #[arg(long, value_name = "FILE", overrides_with = "plexus")]
    plexus: PathBuf,
    /// The directory of the Go plugins (tests/bench/run gives target/peers)
    #[arg(long, value_name = "DIR", overrides_with = "peers")]
    peers: PathBuf,
    /// The floor program
    #[arg(long, value_name = "FILE")]
    floor: PathBuf,
    /// The program `plexus`, for rows of its daemon
    #[arg(long, value_name = "FILE")]
    daemon: Option<PathBuf>,
    /// The files of an API server that answers at 127.0.0.1:6443, and the programs of tests/k8s/build
    #[arg(long, num_args = 2, value_names = ["DIR", "PROGRAMS"])]
    server: Vec<PathBuf>,
    /// A directory for links and manifests
    #[arg(long, value_name = "DIR")]
    work: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<ExitCode> {
    let interrupt = Interrupt::listen()?;
    // What a plugin leaves running becomes a child of this process, which waits for it before it measures on.
    nix::sys::prctl::set_child_subreaper(true)?;
    let links = arguments.work.join("plexus");
    let nodes = OfNodes { daemon: arguments.daemon.as_deref(), multus: arguments.server.get(1).map(PathBuf::as_path) };
    let programs = Programs::find(&arguments.plexus, &arguments.peers, &arguments.floor, &links, nodes)?;
    for side in Side::ALL.into_iter().filter(|side| !programs.has(*side)) {
        eprintln!("bench: {} is not there: its columns stay empty", side.name());
    }
    let before = Machine::look(programs.directory(Side::Go));
    let files = arguments.work.clone();
    let server = match arguments.server.as_slice() {
        [files, programs] => Some(Server { files: files.clone(), programs: programs.clone() }),
        _ => None,
    };
    let (world, watch) = (World::new()?, Watch::start());
    let mut stage = Stage { programs: &programs, world, watch, files, server, is_crowded: false };

    let wanted = |row: &&Row| arguments.only.is_empty() || arguments.only.iter().any(|name| name == row.name);
    let mut all = Vec::new();
    let mut stopped = false;
    for row in ROWS.iter().filter(wanted) {
        let rounds = WARM_UP_ROUNDS + (arguments.rounds / row.rounds_divisor).max(1);
        let measured = measure(&mut stage, *row, arguments.rounds, &mut |round| {
            progress(row, round + 1, rounds);
            stopped |= interrupt.arrived();
            stopped
        });
        progress_end(&measured);
        all.push(measured);
        if stopped {
            eprintln!("bench: interrupted: the rounds so far");
            break;
        }
    }
    let report = report::Report { machine: before.seen_again(), rows: all, sides: programs };
    if let Some(file) = &arguments.json {
        std::fs::write(file, format!("{:#}\n", report.json()))?;
    }
    let shown = match arguments.output {
        Format::Json => format!("{:#}\n", report.json()),
        Format::Table => report.table() + &if arguments.goals { goals::table(&report.rows) } else { String::new() },
    };
    print!("{shown}");
    let failed = report.rows.iter().any(|row| !row.failures.is_empty());
    Ok(match (stopped, failed) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    })
}

fn progress(row: &Row, round: usize, rounds: usize) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{:<16} {round}/{rounds} ", row.name);
    }
}

fn progress_end(measured: &Measured) {
    let line_start = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
    eprintln!("{line_start}{:<16} {} rounds", measured.row.name, measured.rounds);
    if let Some(reason) = &measured.not_run {
        eprintln!("  not run: {reason}");
    }
    for (side, error) in &measured.failures {
        eprintln!("  {} failed: {error}", side.name());
    }
}

/// Ctrl-C and a request to end: blocked in all threads and only looked at between rounds, so that a call that has begun
/// ends as it would have. The programs run in process groups of their own and do not get them.
struct Interrupt(SignalFd);

impl Interrupt {
    fn listen() -> Outcome<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    fn arrived(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }
}
