//! Work without an end that is begun again when it panics: after a pause, and so often. It does not know what the work is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::log::warn;

/// The pause after a panic; it doubles up to the other. Whoever asks the same thread meanwhile is answered.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Panics in a row: after one more it is over, and whoever watches the daemon's health starts a new one.
const PANICS_MAX: u32 = 10;
/// Work that went on for so long has no panic behind it.
const LASTED: Duration = Duration::from_secs(600);

/// What the thread is called.
fn name() -> String {
    std::thread::current().name().unwrap_or("without a name").to_owned()
}

/// How long it rests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    min: Duration,
    max: Duration,
}

impl Rest {
    /// What a daemon needs.
    pub(super) const USUAL: Rest = Rest { min: PAUSE_MIN, max: PAUSE_MAX };
}

/// Drives `work` until the other end of `alive` is dropped. `rests`: set while it rests after a panic. What else is spawned on the
/// runtime goes on meanwhile.
pub(super) fn drive<F: Future<Output = ()>>(
    runtime: &Runtime,
    mut alive: oneshot::Receiver<()>,
    rest: Rest,
    rests: &AtomicBool,
    work: impl Fn() -> F,
) {
    let (mut pause, mut panics) = (rest.min, 0);
    loop {
        let begun = Instant::now();
        let turn = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                tokio::select! {
                    () = work() => {}
                    _ = &mut alive => {}
                }
            });
        }));
        if turn.is_ok() {
            return;
        }
        if begun.elapsed() >= LASTED {
            (pause, panics) = (rest.min, 0);
        }
        panics += 1;
        rests.store(true, Ordering::Relaxed);
        match panics {
            1 => warn(&format!("the thread {} panicked; it begins again: please report it", name())),
            _ if panics > PANICS_MAX => {
                return warn(&format!("the thread {} panicked again and again: it ends", name()));
            }
            _ => {}
        }
        let is_over = runtime.block_on(async { tokio::time::timeout(pause, &mut alive).await.is_ok() });
        if is_over {
            return;
        }
        pause = (pause * 2).min(rest.max);
        rests.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::sync::mpsc;
    use std::thread;

    use tokio::runtime::Builder;

    use super::*;

    const SHORT: Rest = Rest { min: Duration::from_micros(1), max: Duration::from_micros(2) };

    /// The work that panics so often and goes on then: how often it was begun, and whether it rested at its end.
    fn begun(panics: u32, rest: Rest) -> (u32, bool) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel();
        let (rests, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (goes_on, went_on) = mpsc::channel();
        let (seen, counted) = (Arc::clone(&rests), Arc::clone(&count));
        let driven = thread::spawn(move || {
            drive(&runtime, ended, rest, &seen, || {
                let (number, goes_on) = (counted.fetch_add(1, Ordering::SeqCst), goes_on.clone());
                async move {
                    // A runtime that was left by a panic still runs what others give it.
                    tokio::task::yield_now().await;
                    assert!(number >= panics, "one of {panics} panics");
                    goes_on.send(()).unwrap();
                    std::future::pending().await
                }
            });
        });
        if panics <= PANICS_MAX {
            went_on.recv().unwrap();
            let (done, answered) = mpsc::channel();
            handle.spawn(async move { done.send(()).unwrap() });
            answered.recv().unwrap();
            drop(alive);
        }
        driven.join().unwrap();
        (count.load(Ordering::SeqCst), rests.load(Ordering::SeqCst))
    }

    #[test]
    fn what_panics_is_begun_again_and_not_without_end() {
        assert_eq!(begun(0, SHORT), (1, false));
        assert_eq!(begun(3, SHORT), (4, false));
        assert_eq!(begun(PANICS_MAX, SHORT), (PANICS_MAX + 1, false));
        assert_eq!(begun(PANICS_MAX + 1, SHORT), (PANICS_MAX + 1, true), "it is over");
    }

    #[test]
    fn who_asks_while_it_rests_is_answered() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel();
        let rests = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&rests);
        let long = Rest { min: Duration::from_secs(600), max: Duration::from_secs(600) };
        let driven = thread::spawn(move || drive(&runtime, ended, long, &seen, || async { panic!("the only one") }));
        while !rests.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        let (done, answered) = mpsc::channel();
        handle.spawn(async move { done.send(()).unwrap() });
        answered.recv().unwrap();
        drop(alive);
        driven.join().unwrap();
    }
}
