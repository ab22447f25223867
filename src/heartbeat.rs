//! How long ago a thread that must turn turned last. It does not know which thread, nor who asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How old a heartbeat may be. Whatever has one beats at least four times in this, whether or not anything happens.
pub const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(20);

/// When something turned last.
#[derive(Debug)]
pub struct Heartbeat {
    start: Instant,
    milliseconds: AtomicU64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}

impl Heartbeat {
    /// It beats now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now(), milliseconds: AtomicU64::new(0) }
    }

    /// It turned.
    pub fn beat(&self) {
        self.milliseconds.store(self.since_start(), Ordering::Relaxed);
    }

    /// How long ago that was, to the millisecond.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.since_start().saturating_sub(self.milliseconds.load(Ordering::Relaxed)))
    }

    fn since_start(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heart_is_as_old_as_its_last_beat() {
        let heart = Heartbeat { start: Instant::now() - Duration::from_secs(60), milliseconds: AtomicU64::new(0) };
        assert!(heart.age() >= Duration::from_secs(60));
        heart.beat();
        assert!(heart.age() < Duration::from_secs(60));
    }
}
