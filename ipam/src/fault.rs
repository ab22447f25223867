//! Places where a test can stop the process or fail a system call: every step that changes something on disk passes
//! one. Outside of tests nothing is left of it.

#[cfg(not(test))]
use std::io;

/// Passes the step of this name. Fails only in a test that asks for it.
#[cfg(not(test))]
#[inline]
pub(crate) fn step(_name: &'static str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use injected::{Killed, fail_at, kill_at, listings, note_listing, step};

#[cfg(test)]
mod injected {
    use std::cell::Cell;
    use std::io;
    use std::panic::resume_unwind;

    use nix::errno::Errno;

    /// What a stopped call unwinds with. Nothing in this crate undoes its work in a destructor, so what is left on
    /// disk is what `kill -9` leaves; only the lock is given back, as the kernel does.
    pub(crate) struct Killed;

    thread_local! {
        static KILL_IN: Cell<Option<u32>> = const { Cell::new(None) };
        static FAIL: Cell<Option<(&'static str, Errno)>> = const { Cell::new(None) };
        static LISTINGS: Cell<u32> = const { Cell::new(0) };
    }

    pub(crate) fn step(name: &'static str) -> io::Result<()> {
        match KILL_IN.get() {
            Some(0) => {
                KILL_IN.set(None);
                resume_unwind(Box::new(Killed));
            }
            left => KILL_IN.set(left.map(|left| left - 1)),
        }
        match FAIL.get() {
            Some((at, errno)) if at == name => Err(errno.into()),
            _ => Ok(()),
        }
    }

    /// Stops this thread's call after so many steps; `None`: never.
    pub(crate) fn kill_at(steps: Option<u32>) {
        KILL_IN.set(steps);
    }

    /// Fails every step of this name in this thread; `None`: no step.
    pub(crate) fn fail_at(step: Option<(&'static str, Errno)>) {
        FAIL.set(step);
    }

    pub(crate) fn note_listing() {
        LISTINGS.set(LISTINGS.get() + 1);
    }

    /// How many directories this thread listed since it was last asked.
    pub(crate) fn listings() -> u32 {
        LISTINGS.replace(0)
    }
}
