//! `start`: what an exec of a program takes, spawn to end, with VERSION on its standard input: programs of different builds in turn, so
//! that whatever else the machine does meets all of them. `tests/bench/run --start` builds them.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;

/// Rounds before those that count: the programs are in the page cache then.
const WARM_UP_ROUNDS: usize = 20;
/// What a runtime asks of a plugin that it has not seen before.
const REQUEST: &[u8] = br#"{"cniVersion":"1.1.0"}"#;

/// Measures the start of programs.
#[derive(Parser)]
struct Arguments {
    /// Rounds that count
    #[arg(long, default_value_t = 1000)]
    rounds: usize,
    /// A name and a program, each
    #[arg(required = true, value_name = "NAME=FILE", value_parser = named)]
    programs: Vec<(String, PathBuf)>,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("it is NAME=FILE")?;
    Ok((name.to_owned(), PathBuf::from(file)))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let mut taken: Vec<Vec<Duration>> = vec![Vec::new(); arguments.programs.len()];
    for round in 0..WARM_UP_ROUNDS + arguments.rounds {
        for ((name, program), taken) in arguments.programs.iter().zip(&mut taken) {
            let one = start(program).map_err(|e| io::Error::other(format!("{name}, {}: {e}", program.display())))?;
            if round >= WARM_UP_ROUNDS {
                taken.push(one);
            }
        }
    }
    println!("{:<24} {:>10} {:>10} {:>10} {:>10}", "start", "bytes", "median us", "p5 us", "p95 us");
    for ((name, program), taken) in arguments.programs.iter().zip(&mut taken) {
        taken.sort_unstable();
        let [median, low, high] = [50, 5, 95].map(|share| micros(taken, share));
        let bytes = program.metadata()?.len();
        println!("{name:<24} {bytes:>10} {median:>10} {low:>10} {high:>10}");
    }
    Ok(())
}

/// The time that `share` of a hundred took at most.
fn micros(sorted: &[Duration], share: usize) -> u128 {
    let at = (sorted.len() * share / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default().as_micros()
}

fn start(program: &PathBuf) -> io::Result<Duration> {
    let mut command = Command::new(program);
    command.env_clear().env("CNI_COMMAND", "VERSION").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn()?;
    // Who reads nothing may have ended already.
    if let Some(Err(error)) = child.stdin.take().map(|mut pipe| pipe.write_all(REQUEST))
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(error);
    }
    let status = child.wait()?;
    let taken = begin.elapsed();
    if status.success() { Ok(taken) } else { Err(io::Error::other(status.to_string())) }
}
