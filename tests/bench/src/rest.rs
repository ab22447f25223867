//! When all is at rest: no descendant works on any more, and no daemon waits for the kernel. What one side has left to be done
//! must not slow the next one. Knows no side.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::side::Outcome;

/// How the threads of `plexus daemon` are named that wait for the kernel when a DEL has been answered.
const DELETER: &str = "deleter-";
/// How long a daemon may still be at work, and how often that is looked at.
const REST_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY_MS: u16 = 1;
/// For how long the processors must have had nothing to do.
const CALM_MS: u16 = 200;

/// Children that stay: what each of their deleters is in when it has nothing to do (its /proc/PID/task/TID/syscall).
static RESIDENTS: Mutex<BTreeMap<i32, BTreeMap<PathBuf, String>>> = Mutex::new(BTreeMap::new());

/// This child stays: nobody waits for its end, but for its deleters, which have nothing to do now.
pub(crate) fn stays(pid: Pid) -> Outcome<()> {
    let deadline = Instant::now() + REST_MAX;
    let mut idle = deleters(pid);
    // A thread that has just been started may not be in its place yet.
    while idle.values().any(|call| call == "running") && Instant::now() < deadline {
        pause(LOOK_EVERY_MS)?;
        idle = deleters(pid);
    }
    RESIDENTS.lock().unwrap_or_else(PoisonError::into_inner).insert(pid.as_raw(), idle);
    Ok(())
}

/// It has ended.
pub(crate) fn is_gone(pid: Pid) {
    RESIDENTS.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid.as_raw());
}

/// Waits until no descendant is left but those that stay, and these wait for the kernel no more. Needs this process to be the
/// reaper of its descendants, and no other thread that waits for a child.
pub(crate) fn settle() -> Outcome<()> {
    let residents = RESIDENTS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if residents.is_empty() {
        return wait(None);
    }
    loop {
        let left: Vec<i32> = children()?.into_iter().filter(|pid| !residents.contains_key(pid)).collect();
        if left.is_empty() {
            break;
        }
        left.into_iter().try_for_each(|pid| wait(Some(Pid::from_raw(pid))))?;
    }
    let deadline = Instant::now() + REST_MAX;
    for (pid, idle) in &residents {
        while deleters(Pid::from_raw(*pid))
            .iter()
            .any(|(thread, call)| idle.get(thread).is_some_and(|rest| rest != call))
        {
            if Instant::now() > deadline {
                return Err(format!("process {pid} still deletes after {REST_MAX:?}").into());
            }
            pause(LOOK_EVERY_MS)?;
        }
    }
    Ok(())
}

/// Waits until the processors have almost nothing to do, as after namespaces were removed: the kernel works on for as much as a second.
/// Where others keep them busy, it is waited for so long and no longer.
pub(crate) fn calm() -> Outcome<()> {
    let deadline = Instant::now() + REST_MAX;
    let mut before = busy_and_idle()?;
    while Instant::now() < deadline {
        pause(CALM_MS)?;
        let now = busy_and_idle()?;
        if (now.0 - before.0) * 10 <= now.1 - before.1 {
            break;
        }
        before = now;
    }
    Ok(())
}

/// What all processors have done and not done since the machine was started (the first line of /proc/stat), in ticks.
fn busy_and_idle() -> Outcome<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().ok_or("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
    let [user, nice, system, idle, waiting, rest @ ..] = ticks.as_slice() else {
        return Err("/proc/stat has too few columns".into());
    };
    Ok((user + nice + system + rest.iter().sum::<u64>(), idle + waiting))
}

/// Between two looks at what /proc says of another process: nothing tells when that changes.
pub(crate) fn pause(milliseconds: u16) -> Outcome<()> {
    match poll(&mut [], PollTimeout::from(milliseconds)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits for the end of this child, or of all.
fn wait(pid: Option<Pid>) -> Outcome<()> {
    loop {
        match waitpid(pid, None) {
            Ok(_) if pid.is_some() => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn children() -> Outcome<Vec<i32>> {
    let own = i32::try_from(std::process::id())?;
    Ok(parents()?.into_iter().filter(|(_, parent)| *parent == own).map(|(pid, _)| pid).collect())
}

/// Each process with its parent.
pub(crate) fn parents() -> Outcome<Vec<(i32, i32)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        all.extend(stat_field(&stat, 4).map(|parent| (pid, parent)));
    }
    Ok(all)
}

/// A numeric field of /proc/PID/stat, counted from 1 as proc_pid_stat(5) does; those before the fourth are none.
pub(crate) fn stat_field<T: std::str::FromStr>(stat: &str, number: usize) -> Option<T> {
    // The second one is the program's name, with whatever characters it has.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(number.checked_sub(3)?)?.trim().parse().ok()
}

/// Where each of a process' deleters is.
fn deleters(pid: Pid) -> BTreeMap<PathBuf, String> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeMap::new() };
    let named = tasks
        .flatten()
        .map(|entry| entry.path())
        .filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(DELETER)));
    let place = |task: PathBuf| {
        let text = fs::read_to_string(task.join("syscall")).ok()?;
        Some((task, text.split_whitespace().next().unwrap_or_default().to_owned()))
    };
    named.filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_process_whose_name_has_a_bracket_and_a_blank() {
        let stat = "71 (a) b) S 70 71 71 0 -1 4194560 100 0 0 0 5 6 7 8 20 0 1 0 9";
        assert_eq!(stat_field::<i32>(stat, 4), Some(70));
        assert_eq!((stat_field::<u64>(stat, 14), stat_field::<u64>(stat, 17)), (Some(5), Some(8)));
        assert_eq!(stat_field::<i32>("71 (a", 4), None);
    }
}
