//! How a function comes to the hardware address it was given: which step is next, by what is seen. Pure.
//!
//! Cards differ. With some the function's interface takes the address that its port has for it when it is reset, and refuses to be
//! given any before (igb); with some it must be given to both (mlx5); some do what they were told later than they say (iavf). And any
//! may be busy with another function.

use nix::errno::Errno;

/// How often it is tried or looked at, and how long until the next look: together what sriov-cni waits.
pub(super) use crate::busy::{ATTEMPTS_MAX, PAUSE_MS};

/// Drivers of functions that take their address when they are reset.
const TAKING_BY_RESET: [&str; 1] = ["igbvf"];

/// What was seen until now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// It has the address.
    pub(super) is_taken: bool,
    /// How many steps were done.
    pub(super) attempts: u32,
    /// Whether it was reset.
    pub(super) was_reset: bool,
    /// Whether the last attempt to give it the address was accepted; none before the first.
    pub(super) answer: Option<Result<(), Errno>>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing: it has the address.
    Done,
    /// Set it up and down, so that it asks its port.
    Reset,
    /// Give it the address.
    Give,
    /// Look again later: it was told.
    Wait,
    /// Give it the address again, later: somebody is busy.
    WaitAndGive,
    /// It will not have it.
    GiveUp,
}

/// The next step with an interface whose driver is `driver`.
pub(super) fn of_interface(driver: &str, seen: Seen) -> Act {
    let resets = TAKING_BY_RESET.contains(&driver);
    match seen.answer {
        _ if seen.is_taken => Act::Done,
        _ if seen.attempts >= ATTEMPTS_MAX => Act::GiveUp,
        None if resets && !seen.was_reset => Act::Reset,
        None => Act::Give,
        Some(Ok(())) => Act::Wait,
        Some(Err(errno)) if is_passing(errno) => Act::WaitAndGive,
        // Its port has decided, and it does not know: whoever the driver is, a reset makes it ask.
        Some(Err(_)) if !seen.was_reset => Act::Reset,
        Some(Err(_)) => Act::GiveUp,
    }
}

/// The next step with the port, which is told first.
pub(super) fn of_port(seen: Seen) -> Act {
    match seen.answer {
        _ if seen.is_taken => Act::Done,
        _ if seen.attempts >= ATTEMPTS_MAX => Act::GiveUp,
        None => Act::Give,
        Some(Ok(())) => Act::Wait,
        Some(Err(errno)) if is_passing(errno) => Act::WaitAndGive,
        Some(Err(_)) => Act::GiveUp,
    }
}

/// Refusals that say "not now".
fn is_passing(errno: Errno) -> bool {
    matches!(errno, Errno::EBUSY | Errno::EAGAIN | Errno::EINTR | Errno::ETIMEDOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done until the end, where the kernel answers by `answer` and the address is there after so many steps.
    fn acts(next: impl Fn(Seen) -> Act, answers: &[Result<(), Errno>], taken_after: u32) -> Vec<Act> {
        let (mut seen, mut acts) = (Seen::default(), Vec::new());
        let mut answers = answers.iter().cycle();
        loop {
            seen.is_taken = seen.attempts >= taken_after;
            let act = next(seen);
            acts.push(act);
            match act {
                Act::Done | Act::GiveUp => return acts,
                Act::Reset => (seen.was_reset, seen.answer) = (true, None),
                Act::Give | Act::WaitAndGive => seen.answer = answers.next().copied(),
                Act::Wait => {}
            }
            seen.attempts += 1;
        }
    }

    #[test]
    fn an_igb_function_is_reset_before_it_is_asked() {
        let igb = |seen| of_interface("igbvf", seen);
        assert_eq!(acts(igb, &[Ok(())], 1), [Act::Reset, Act::Done]);
        assert_eq!(acts(igb, &[Err(Errno::EADDRNOTAVAIL)], u32::MAX), [Act::Reset, Act::Give, Act::GiveUp]);
    }

    #[test]
    fn one_with_two_sides_is_given_the_address() {
        let mlx5 = |seen| of_interface("mlx5_core", seen);
        assert_eq!(acts(mlx5, &[Ok(())], 1), [Act::Give, Act::Done]);
        assert_eq!(acts(mlx5, &[Ok(())], 0), [Act::Done]);
    }

    #[test]
    fn one_that_does_it_later_is_waited_for() {
        let iavf = |seen| of_interface("iavf", seen);
        assert_eq!(acts(iavf, &[Ok(())], 3), [Act::Give, Act::Wait, Act::Wait, Act::Done]);
        let busy = acts(iavf, &[Err(Errno::EBUSY), Ok(())], 2);
        assert_eq!(busy, [Act::Give, Act::WaitAndGive, Act::Done]);
        let never = acts(iavf, &[Ok(())], u32::MAX);
        assert_eq!((never.len(), never.last()), (21, Some(&Act::GiveUp)));
    }

    #[test]
    fn an_unknown_one_that_refuses_is_reset_once() {
        let other = |seen| of_interface("other", seen);
        assert_eq!(
            acts(other, &[Err(Errno::EADDRNOTAVAIL)], u32::MAX),
            [Act::Give, Act::Reset, Act::Give, Act::GiveUp]
        );
        assert_eq!(acts(other, &[Err(Errno::EADDRNOTAVAIL)], 2), [Act::Give, Act::Reset, Act::Done]);
    }

    #[test]
    fn a_port_that_refuses_is_not_asked_again() {
        assert_eq!(acts(of_port, &[Err(Errno::EINVAL)], u32::MAX), [Act::Give, Act::GiveUp]);
        let busy = acts(of_port, &[Err(Errno::EBUSY)], u32::MAX);
        assert_eq!((busy.len(), busy.last()), (21, Some(&Act::GiveUp)));
        assert_eq!(acts(of_port, &[Ok(())], 2), [Act::Give, Act::Wait, Act::Done]);
    }
}
