//! How long something may take, and which key says so: who is late is told both. It does not know what is waited for.

use std::fmt;
use std::time::{Duration, Instant};

use crate::config::Config;

/// A time that something may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    time: Duration,
    /// Empty: nobody can change it.
    key: &'static str,
}

impl Limit {
    /// As a key of the configuration says.
    pub(super) const fn of(key: &'static str, time: Duration) -> Limit {
        Limit { time, key }
    }

    /// plexus' own.
    pub(super) const fn own(time: Duration) -> Limit {
        Limit { time, key: "" }
    }

    pub(super) fn time(self) -> Duration {
        self.time
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ms", self.time.as_millis())?;
        if self.key.is_empty() { Ok(()) } else { write!(f, " ({})", self.key) }
    }
}

/// What one call may take.
pub(super) fn of_one(config: &Config) -> Limit {
    Limit::of("apiCallTimeoutMs", config.api_call_timeout)
}

/// What all calls of a request may take together.
pub(super) fn of_all(config: &Config) -> Limit {
    Limit::of("apiDeadlineMs", config.api_deadline)
}

/// When all calls of a request have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    at: Instant,
    whole: Limit,
}

impl End {
    /// So long from now.
    pub(super) fn after(whole: Limit) -> End {
        End { at: Instant::now() + whole.time, whole }
    }

    pub(super) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether it comes before this time is over.
    pub(super) fn is_within(self, time: Duration) -> bool {
        Instant::now() + time >= self.at
    }

    /// Whichever comes first.
    pub(super) fn or_sooner(self, other: End) -> End {
        if other.at < self.at { other } else { self }
    }

    /// The time that all of it had.
    pub(super) fn whole(self) -> Limit {
        self.whole
    }
}

/// How long one call may take that begins now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    time: Duration,
    limit: Limit,
    /// It has what the request has left, and that is less than a call may take.
    is_rest: bool,
}

impl Turn {
    pub(super) fn now(per_call: Limit, end: End) -> Turn {
        let left = end.left();
        if per_call.time <= left {
            Turn { time: per_call.time, limit: per_call, is_rest: false }
        } else {
            Turn { time: left, limit: end.whole, is_rest: true }
        }
    }

    pub(super) fn time(self) -> Duration {
        self.time
    }

    /// There is no time to begin anything.
    pub(super) fn is_over(self) -> bool {
        self.time.as_millis() == 0
    }

    /// Says that `what` did not come, in words that end where its limit is told: `no answer`. However little of the request's time was
    /// left: who fails in the same way again says the same, which is one event.
    pub(super) fn late(self, what: &str) -> String {
        let Turn { limit, is_rest, .. } = self;
        if is_rest { format!("{what} within the request's {limit}") } else { format!("{what} within {limit}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Limit = Limit::of("apiCallTimeoutMs", Duration::from_millis(1000));

    fn whole(ms: u64) -> Limit {
        Limit::of("apiDeadlineMs", Duration::from_millis(ms))
    }

    #[test]
    fn who_is_late_is_told_its_limit_and_who_says_it() {
        let turn = Turn::now(CALL, End::after(whole(60_000)));
        assert_eq!(turn.late("no answer"), "no answer within 1000 ms (apiCallTimeoutMs)");
        let rest = Turn { time: Duration::from_millis(705), limit: whole(10_000), is_rest: true };
        assert_eq!(rest.late("no answer"), "no answer within the request's 10000 ms (apiDeadlineMs)");
        let own = Turn::now(Limit::own(Duration::from_secs(10)), End::after(whole(60_000)));
        assert_eq!(own.late("no answer"), "no answer within 10000 ms");
    }

    #[test]
    fn what_is_over_is_never_nothing_of_a_limit() {
        let end = End { at: Instant::now(), whole: whole(10_000) };
        let turn = Turn::now(CALL, end);
        assert!(turn.is_over() && end.is_within(Duration::ZERO));
        assert_eq!(turn.late("no answer"), "no answer within the request's 10000 ms (apiDeadlineMs)");
        // Less than what can be told is nothing, too.
        let turn = Turn { time: Duration::from_micros(300), limit: whole(10_000), is_rest: true };
        assert!(turn.is_over() && !turn.late("no answer").contains(" 0 ms"));
    }

    #[test]
    fn what_comes_first_counts() {
        let (soon, late) = (End::after(whole(10)), End::after(whole(60_000)));
        assert_eq!((late.or_sooner(soon), soon.or_sooner(late)), (soon, soon));
        assert!(Turn::now(CALL, soon).is_rest && !Turn::now(CALL, late).is_rest);
    }
}
