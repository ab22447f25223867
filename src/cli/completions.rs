//! Completion scripts for shells.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::Cli;
use super::failure::Failure;
use super::output::Out;

/// Writes the script that completes plexus' command line in `shell`.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn run(shell: Shell, out: &mut Out) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "plexus", &mut script);
    out.text(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            generate(shell, &mut Cli::command(), "plexus", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in ["demo", "list", "explain", "oneshot", "completions"] {
                assert!(script.contains(command), "{shell} lacks {command}");
            }
        }
    }
}
