//! `plexus uninstall --until-done`: what an uninstallation has to leave behind for the pods that are attached goes with the last of them. It
//! does not know what is uninstalled.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use plexus::install::{self, Report, State, Wish};
use plexus::reconcile::{Cause, Reconciler};
use plexus::survey;

use super::failure::Failure;
use super::table::printable;

/// Between two attempts: pods end one by one.
const PAUSE: Duration = Duration::from_secs(2);

/// How long a runtime's note of a container that has ended is believed. One that deletes by its notes (CRI-O) takes the network down before
/// the namespace, so it has done so by then; containerd keeps the note of a network that it has no configuration of any more.
const PATIENCE: Duration = Duration::from_secs(20);

/// What failed where signals cannot be had.
const LISTENING: &str = "listening for signals";

/// Uninstalls again and again, and collects what ended without a DEL meanwhile (the runtime deletes by what its configuration says now),
/// until nothing is left; then waits to be ended, so that nobody starts it anew.
///
/// # Errors
/// Signals cannot be listened for.
pub(super) fn until_done(places: &install::Places, held: &survey::Places) -> Result<(), Failure> {
    let ended = Ended::listen()?;
    let mut reconciler = Reconciler::with_patience(PATIENCE);
    let mut told = String::new();
    let mut tell = |line: String| {
        if line != told {
            let _ = writeln!(io::stderr(), "plexus: {}", printable(&line)); // nobody to tell
            told = line;
        }
    };
    loop {
        match install::carry_out(&Wish::Uninstall, places) {
            Ok(report) => {
                if is_done(&report) {
                    tell("nothing of plexus is left on this node".to_owned());
                    return ended.within(None, None).map(drop);
                }
                tell(why_not(&report));
            }
            Err(why) => tell(why),
        }
        let report = reconciler.round(held, &Cause::Timer, &|_, _| None);
        report.news().for_each(|line| {
            let _ = writeln!(io::stderr(), "plexus: {}", printable(line)); // nobody to tell
        });
        if ended.within(Some(PAUSE), None)? {
            return Ok(());
        }
    }
}

/// Whether no step was left out, and none failed.
fn is_done(report: &Report) -> bool {
    report.failure.is_none() && !report.steps.iter().any(|step| step.what == install::STAYS)
}

fn why_not(report: &Report) -> String {
    let stays = report.steps.iter().find(|step| step.what == install::STAYS || step.state == State::Failed);
    let stays = stays.map(|step| format!("{}: {}", step.path, step.why));
    report.failure.clone().or(stays).unwrap_or_default()
}

/// Hears that this process is to end; as the first of a container it would not otherwise.
pub(super) struct Ended(SignalFd);

impl Ended {
    /// From now on.
    ///
    /// # Errors
    /// Signals cannot be listened for.
    pub(super) fn listen() -> Result<Ended, Failure> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        signals.thread_block().map_err(Failure::system(LISTENING))?;
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map(Ended).map_err(Failure::system(LISTENING))
    }

    /// Whether it is, within so long, for ever without a limit; or until `other` can be read.
    ///
    /// # Errors
    /// The system refuses to wait.
    pub(super) fn within(&self, limit: Option<Duration>, other: Option<BorrowedFd<'_>>) -> Result<bool, Failure> {
        let timeout = limit.and_then(|limit| PollTimeout::try_from(limit).ok()).unwrap_or(PollTimeout::NONE);
        let all = [self.0.as_fd()].into_iter().chain(other);
        let mut waits: Vec<PollFd> = all.map(|one| PollFd::new(one, PollFlags::POLLIN)).collect();
        match poll(&mut waits, timeout) {
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(Failure::system(LISTENING)(errno)),
            Ok(_) => Ok(waits.first().and_then(PollFd::any).unwrap_or(false)),
        }
    }
}
