//! The node's CNI configuration is kept right, in a thread of its own: written once the daemon is ready, put back where others change
//! it, left where it is when the daemon ends, or a newer one serves. It does not know what is written.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::http::Page;
use super::page::Board;
use super::taint::Taint;
use crate::keep::{Keep, Keeper};
use crate::log::warn;

/// Without a change that is seen: a folder made anew, and a token of the service account.
const INTERVAL: Duration = Duration::from_secs(30);
/// While the daemon is not ready yet, or is not who serves.
const INTERVAL_BEFORE: Duration = Duration::from_millis(250);
/// Between two looks: another plugin that undoes each of them is not answered in a storm.
const PAUSE: Duration = Duration::from_millis(200);

/// Starts it. It ends with the process, and what it wrote stays. `taint`: what is taken off the node when the configuration is there.
///
/// # Errors
/// No thread, or no watch of the folder.
pub(super) fn start(keep: Keep, taint: Option<Taint>, board: Arc<Board>) -> io::Result<()> {
    let awaited = keep.readiness.clone();
    let keeper = Keeper::new(keep)?;
    thread::Builder::new()
        .name("keep".to_owned())
        .spawn(move || run(keeper, awaited.as_deref(), taint, &board))
        .map(drop)
}

fn run(mut keeper: Keeper, awaited: Option<&Path>, mut taint: Option<Taint>, board: &Arc<Board>) {
    let mut ready = false;
    loop {
        // Two that keep one file would undo each other's work, and a token ends with its pod.
        if !board.serves() {
            pause(INTERVAL_BEFORE);
            continue;
        }
        // Once is enough: pods must not lose their networks because a server is away.
        ready |= awaited.is_none_or(Path::exists) && board.unready().is_empty();
        keeper.look(ready).iter().for_each(|line| warn(line));
        if keeper.is_in_place()
            && let Some(taint) = taint.take()
            && let Err(why) = taint.remove(Arc::clone(board))
        {
            warn(&format!("the node's taint stays: {why}"));
        }
        let looked = Instant::now();
        wait(&keeper, if ready { INTERVAL } else { INTERVAL_BEFORE });
        pause(PAUSE.saturating_sub(looked.elapsed()));
    }
}

/// Until something changes in the folder, or so long.
fn wait(keeper: &Keeper, limit: Duration) {
    let watch = keeper.watch_descriptor();
    let mut watched: Vec<PollFd> = watch.iter().map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN)).collect();
    let _ = poll(&mut watched, milliseconds(limit)); // a signal: one look more
}

fn pause(time: Duration) {
    let _ = poll(&mut [], milliseconds(time)); // a signal: a shorter pause
}

fn milliseconds(time: Duration) -> PollTimeout {
    PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
}
