//! What is being served, and until when. It does not know who serves it.

use std::time::Instant;

use crate::kube::Cancel;

/// Requests under way: one a sandbox.
#[derive(Debug, Default)]
pub(super) struct Running {
    all: Vec<One>,
}

#[derive(Debug)]
struct One {
    sandbox: String,
    cancel: Cancel,
    deadline: Instant,
    is_late: bool,
}

impl Running {
    /// A request of this sandbox is being served.
    pub(super) fn begin(&mut self, sandbox: String, cancel: Cancel, deadline: Instant) {
        self.all.push(One { sandbox, cancel, deadline, is_late: false });
    }

    /// It is not any more.
    pub(super) fn end(&mut self, sandbox: &str) {
        self.all.retain(|one| one.sandbox != sandbox);
    }

    /// Nobody waits for that of this sandbox any more.
    pub(super) fn cancel(&self, sandbox: &str) {
        self.all.iter().filter(|one| one.sandbox == sandbox).for_each(|one| one.cancel.cancel());
    }

    /// Ends those early whose time is over: the sandboxes of those of which that was not said before.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<String> {
        let late = self.all.iter_mut().filter(|one| !one.is_late && one.deadline <= now);
        late.map(|one| {
            one.is_late = true;
            one.cancel.cancel();
            one.sandbox.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn whose_time_is_over_is_cancelled_and_counted_once() {
        let (mut running, now) = (Running::default(), Instant::now());
        let [early, late, gone] = [1, 2, 1].map(|seconds| (Cancel::default(), now + Duration::from_secs(seconds)));
        for (name, (cancel, deadline)) in [("early", &early), ("late", &late), ("gone", &gone)] {
            running.begin(name.to_owned(), cancel.clone(), *deadline);
        }
        running.end("gone");
        assert!(running.expire(now).is_empty());
        assert_eq!((running.expire(early.1), running.expire(early.1)), (vec!["early".to_owned()], vec![]));
        let cancelled = || [&early.0, &late.0, &gone.0].map(Cancel::is_cancelled);
        assert_eq!(cancelled(), [true, false, false]);
        running.cancel("late");
        assert_eq!(cancelled(), [true, true, false]);
        assert_eq!(running.expire(late.1), ["late"], "its DEL came, and it goes on nevertheless");
    }
}
