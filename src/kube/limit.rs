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
    per_call: Limit,
    whole: Limit,
}

impl Turn {
    pub(super) fn now(per_call: Limit, end: End) -> Turn {
        Turn { time: per_call.time.min(end.left()), per_call, whole: end.whole }
    }

    pub(super) fn time(self) -> Duration {
        self.time
    }

    /// There is no time to begin anything.
    pub(super) fn is_over(self) -> bool {
        self.time.as_millis() == 0
    }

    /// Says that `what` did not come, and how long that may take: `no answer`. It is the same whichever limit was over first, and however
    /// little was left: who fails in the same way again says the same, which is one event.
    pub(super) fn late(self, what: &str) -> String {
        let Turn { per_call, whole, .. } = self;
        format!("{what} in time: one call has {per_call}, a request {whole}")
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
    fn who_is_late_is_told_both_limits_and_who_says_them() {
        let end = End::after(whole(60_000));
        let text = "no answer in time: one call has 1000 ms (apiCallTimeoutMs), a request 60000 ms (apiDeadlineMs)";
        assert_eq!(Turn::now(CALL, end).late("no answer"), text);
        let over = Turn::now(CALL, End { at: Instant::now(), ..end });
        assert!(over.is_over());
        assert_eq!(over.late("no answer"), text, "whatever was left");
        let own = Turn::now(Limit::own(Duration::from_secs(10)), end);
        assert!(own.late("no answer").contains("one call has 10000 ms, a request 60000 ms (apiDeadlineMs)"));
    }

    #[test]
    fn less_than_what_can_be_told_is_nothing() {
        let end = End { at: Instant::now() + Duration::from_micros(300), whole: whole(10_000) };
        assert!(Turn::now(CALL, end).is_over() && end.is_within(Duration::from_millis(1)));
    }

    #[test]
    fn what_comes_first_counts() {
        let (soon, late) = (End::after(whole(10)), End::after(whole(60_000)));
        assert_eq!((late.or_sooner(soon), soon.or_sooner(late)), (soon, soon));
        assert!(Turn::now(CALL, soon).time() < CALL.time && Turn::now(CALL, late).time() == CALL.time);
    }
}
