//! What calls use besides time: CPU, processes, memory. Of a whole group of calls, with the daemon that serves them. Knows no
//! side.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

use crate::resident::Resident;
use crate::rest::{parents, pause, stat_field};
use crate::side::Outcome;

/// Between two looks at everybody's memory. Only in rounds whose times do not count.
const LOOK_EVERY_MS: u16 = 2;

/// What had been used when something began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    cpu: f64,
    tasks: f64,
}

impl Usage {
    pub(crate) fn now(daemon: Option<&Resident>) -> Outcome<Self> {
        Ok(Self { cpu: cpu_of_children()? + daemon.map_or(Ok(0.0), Resident::cpu)?, tasks: tasks()? })
    }

    /// Since then: CPU in milliseconds; processes and threads that were started, on the whole machine.
    pub(crate) fn since(self, daemon: Option<&Resident>) -> Outcome<(f64, f64)> {
        let now = Self::now(daemon)?;
        Ok((now.cpu - self.cpu, now.tasks - self.tasks))
    }
}

/// CPU of all children that have ended and been waited for, and theirs, in milliseconds.
fn cpu_of_children() -> Outcome<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let times = [usage.user_time(), usage.system_time()];
    let milliseconds = |time: nix::sys::time::TimeVal| -> Outcome<f64> {
        Ok(f64::from(i32::try_from(time.tv_sec())?) * 1e3 + f64::from(i32::try_from(time.tv_usec())?) / 1e3)
    };
    times.into_iter().map(milliseconds).sum()
}

fn tasks() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().find_map(|line| line.strip_prefix("processes "));
    Ok(line.ok_or("/proc/stat has no processes")?.trim().parse()?)
}

/// Runs `work` and looks at the memory meanwhile: the most that was resident at once in the descendants of this process, in MB.
/// Of the daemons only `daemon` counts.
pub(crate) fn peak_of<T>(daemon: Option<i32>, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<(T, f64)>
where
    T: Send,
{
    let before: BTreeSet<i32> = descendants()?.into_iter().filter(|pid| Some(*pid) != daemon).collect();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let look = scope.spawn(|| -> Outcome<f64> {
            let mut most: f64 = 0.0;
            while !ended.load(Ordering::Acquire) {
                most = most.max(resident_now(&before)?);
                pause(LOOK_EVERY_MS)?;
            }
            Ok(most)
        });
        let done = work();
        ended.store(true, Ordering::Release);
        let most = look.join().map_err(|_| "the thread that looks at memory panicked")??;
        Ok((done?, most))
    })
}

fn descendants() -> Outcome<BTreeSet<i32>> {
    let mut of = BTreeMap::<i32, Vec<i32>>::new();
    for (pid, parent) in parents()? {
        of.entry(parent).or_default().push(pid);
    }
    let mut found = BTreeSet::new();
    let mut next = vec![i32::try_from(std::process::id())?];
    while let Some(pid) = next.pop() {
        for &child in of.get(&pid).into_iter().flatten() {
            if found.insert(child) {
                next.push(child);
            }
        }
    }
    Ok(found)
}

/// Resident memory of all descendants but these, in MB.
fn resident_now(but: &BTreeSet<i32>) -> Outcome<f64> {
    let page = f64::from(u32::try_from(sysconf(SysconfVar::PAGE_SIZE)?.ok_or("no page size")?)?);
    // What has ended since has no memory.
    let pages = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat_field::<f64>(&stat, 24)
    };
    let pages: f64 = descendants()?.difference(but).filter_map(pages).sum();
    Ok(pages * page / 1024.0 / 1024.0)
}
