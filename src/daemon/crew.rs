//! Threads that wait for work, each on a channel of its own: who gives some wakes one thread, and not those that wait behind it for a
//! common receiver. Who worked last is first: its stack is in memory and in the processor's cache.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What its threads are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// What they are called, before their number.
    pub(super) name: &'static str,
    /// How many there are.
    pub(super) number: usize,
    /// Stack of one, in bytes.
    pub(super) stack: usize,
    /// What may wait for a thread.
    pub(super) waiting: usize,
}

/// Whoever has it gives work; when it is dropped, threads end after what waits.
#[derive(Debug)]
pub(super) struct Crew<T> {
    post: Arc<Post<T>>,
    waiting_max: usize,
}

/// Where threads and works meet.
#[derive(Debug)]
pub(super) struct Post<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    /// Of threads that wait; what is sent is theirs. Empty where works wait.
    idle: Vec<SyncSender<T>>,
    waiting: VecDeque<T>,
    is_closed: bool,
}

impl<T: Send + 'static> Crew<T> {
    /// Starts threads; each does `task` once, with where it gets its works.
    pub(super) fn start(kind: Kind, task: impl Fn(&Post<T>) + Clone + Send + 'static) -> io::Result<Crew<T>> {
        let state = State { idle: Vec::with_capacity(kind.number), waiting: VecDeque::new(), is_closed: false };
        let crew = Crew { post: Arc::new(Post(Mutex::new(state))), waiting_max: kind.waiting };
        for number in 0..kind.number {
            let (post, task) = (Arc::clone(&crew.post), task.clone());
            let named = thread::Builder::new().name(format!("{}-{number}", kind.name)).stack_size(kind.stack);
            named.spawn(move || task(&post))?;
        }
        Ok(crew)
    }

    /// # Errors
    /// The work, where no thread is idle and too many works wait.
    pub(super) fn give(&self, mut work: T) -> Result<(), T> {
        loop {
            let mut state = self.post.state();
            let Some(thread) = state.idle.pop() else {
                if state.waiting.len() >= self.waiting_max {
                    return Err(work);
                }
                state.waiting.push_back(work);
                return Ok(());
            };
            drop(state);
            match thread.send(work) {
                Ok(()) => return Ok(()),
                Err(unsent) => work = unsent.0, // that thread has ended
            }
        }
    }
}

impl<T> Drop for Crew<T> {
    fn drop(&mut self) {
        let mut state = self.post.state();
        state.is_closed = true;
        state.idle.clear();
    }
}

impl<T> Post<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; none comes any more once its crew is dropped.
    pub(super) fn next(&self) -> Option<T> {
        let mut state = self.state();
        if let Some(work) = state.waiting.pop_front() {
            return Some(work);
        }
        if state.is_closed {
            return None;
        }
        let (sender, received) = sync_channel(1);
        state.idle.push(sender);
        drop(state);
        received.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    const KIND: Kind = Kind { name: "test", number: 2, stack: 64 << 10, waiting: 3 };

    /// Each work is a channel whose other end the thread waits for, and then says which thread it is.
    fn crew() -> (Crew<Sender<Sender<String>>>, Kind) {
        let task = |post: &Post<Sender<Sender<String>>>| {
            while let Some(work) = post.next() {
                let (said, heard) = channel();
                if work.send(said).is_ok() {
                    let _ended = heard.recv(); // dropped by the test
                }
            }
        };
        (Crew::start(KIND, task).unwrap(), KIND)
    }

    #[test]
    fn so_many_wait_and_more_are_given_back() {
        let (crew, kind) = crew();
        let (work, begun) = channel();
        for _ in 0..kind.number {
            crew.give(work.clone()).unwrap();
        }
        let busy: Vec<_> = (0..kind.number).map(|_| begun.recv().unwrap()).collect();
        for _ in 0..kind.waiting {
            crew.give(work.clone()).unwrap();
        }
        assert!(crew.give(work.clone()).is_err(), "all threads have work, and as much as may waits");
        drop(busy);
        for _ in 0..kind.waiting {
            begun.recv().unwrap();
        }
    }

    #[test]
    fn threads_end_after_what_waits() {
        let (crew, kind) = crew();
        let post = Arc::clone(&crew.post);
        let (work, begun) = channel();
        for _ in 0..kind.number + 1 {
            crew.give(work.clone()).unwrap();
        }
        drop((crew, work));
        assert_eq!(begun.iter().count(), kind.number + 1);
        while Arc::strong_count(&post) > 1 {
            thread::yield_now();
        }
    }
}
