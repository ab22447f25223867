//! A driver that has no time now: it is asked again, a bounded number of times. Functions of a card share its mailbox, so where several are
//! set up or brought up at once, one finds it taken (EBUSY, EAGAIN) that would be served an instant later.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::netlink::{Failure, Request};
use crate::pod::Side;

/// How often a driver is asked.
pub(crate) const ATTEMPTS_MAX: u32 = 20;
/// How long until it is asked again, in milliseconds, if the kernel announces nothing before.
pub(crate) const PAUSE_MS: u64 = 100;

/// Sends a request, and again while its driver has no time. The caller holds nothing that others wait for.
pub(crate) fn apply(side: &mut Side, request: impl Fn() -> Request) -> Result<(), Failure> {
    let wait = |side: &mut Side| {
        let deadline = Instant::now() + Duration::from_millis(PAUSE_MS);
        side.socket.event(deadline, |_, _| {}).map(drop)
    };
    insist(side, |side| side.apply(request()), wait)
}

fn insist<S>(
    on: &mut S,
    mut attempt: impl FnMut(&mut S) -> Result<(), Failure>,
    mut wait: impl FnMut(&mut S) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for _ in 1..ATTEMPTS_MAX {
        match attempt(on) {
            Err(failure) if failure.errno().is_some_and(is_busy) => wait(on)?,
            done => return done,
        }
    }
    attempt(on)
}

fn is_busy(errno: Errno) -> bool {
    matches!(errno, Errno::EBUSY | Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Refusal;

    /// What comes of a driver that answers so, and how often it was asked and waited for.
    fn asked(answers: &[Result<(), Errno>]) -> (Result<(), Option<Errno>>, u32, u32) {
        let mut answers = answers.iter().copied().cycle();
        let mut counts = (0, 0);
        let attempt = |counts: &mut (u32, u32)| {
            counts.0 += 1;
            let answer = answers.next().unwrap_or(Ok(()));
            answer.map_err(|errno| Failure::from(Refusal { errno, text: None }))
        };
        let wait = |counts: &mut (u32, u32)| {
            counts.1 += 1;
            Ok(())
        };
        let done = insist(&mut counts, attempt, wait).map_err(|e| e.errno());
        (done, counts.0, counts.1)
    }

    #[test]
    fn who_is_busy_is_asked_again_and_not_for_ever() {
        assert_eq!(asked(&[Ok(())]), (Ok(()), 1, 0));
        assert_eq!(asked(&[Err(Errno::EBUSY), Err(Errno::EAGAIN), Ok(())]), (Ok(()), 3, 2));
        assert_eq!(asked(&[Err(Errno::EBUSY)]), (Err(Some(Errno::EBUSY)), 20, 19));
        assert_eq!(
            asked(&[Err(Errno::EBUSY), Err(Errno::EINVAL)]),
            (Err(Some(Errno::EINVAL)), 2, 1),
            "that is an answer"
        );
        assert_eq!(asked(&[Err(Errno::EOPNOTSUPP)]), (Err(Some(Errno::EOPNOTSUPP)), 1, 0));
    }
}
