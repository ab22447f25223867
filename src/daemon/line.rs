//! Who is served next: calls of one sandbox in the order they came, a waiting ADD before a waiting DEL, within bounds. Pure: it
//! does not know what a call is, nor who serves it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Calls that wait: more than a node has pods, each with two.
pub(super) const WAITING_MAX: usize = 1024;
/// A DEL that has waited so long goes before every ADD.
pub(super) const DEL_AGE_MAX: Duration = Duration::from_millis(500);

/// Whether a call makes or removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// ADD.
    Add,
    /// DEL.
    Del,
}

/// One call, as much of it as its place depends on.
#[derive(Debug)]
pub(super) struct Place<T> {
    /// The container id.
    pub(super) sandbox: String,
    /// What it does.
    pub(super) verb: Verb,
    /// When it came.
    pub(super) arrived: Instant,
    /// When it is no longer waited for.
    pub(super) deadline: Instant,
    /// The call.
    pub(super) call: T,
}

/// How many are served at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Width {
    /// ADDs.
    pub(super) adds: usize,
    /// DELs.
    pub(super) dels: usize,
}

/// What became of a call that came.
#[derive(Debug)]
pub(super) struct Admitted<T> {
    /// ADDs of its sandbox that waited: what they would have made is to be removed already.
    pub(super) cancelled: Vec<T>,
    /// An ADD of its sandbox is being served: it is to end soon.
    pub(super) cancels_running: bool,
}

#[derive(Debug)]
struct Sandbox<T> {
    serving: Option<Verb>,
    waiting: VecDeque<Place<T>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Line<T> {
    width: Width,
    sandboxes: HashMap<String, Sandbox<T>>,
    /// Sandboxes whose next call is an ADD that could be served now, in the order they came to that.
    adds: VecDeque<String>,
    dels: VecDeque<String>,
    adding: usize,
    deleting: usize,
    waiting: usize,
}

impl<T> Line<T> {
    /// An empty one.
    pub(super) fn new(width: Width) -> Line<T> {
        Line {
            width,
            sandboxes: HashMap::new(),
            adds: VecDeque::new(),
            dels: VecDeque::new(),
            adding: 0,
            deleting: 0,
            waiting: 0,
        }
    }

    /// How many are being served.
    pub(super) fn serving(&self) -> usize {
        self.adding + self.deleting
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether nobody waits and nobody is served.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0 && self.serving() == 0
    }

    /// Takes a call.
    ///
    /// # Errors
    /// The call, where too many wait.
    pub(super) fn admit(&mut self, place: Place<T>) -> Result<Admitted<T>, T> {
        if self.waiting >= WAITING_MAX {
            return Err(place.call);
        }
        let (name, verb) = (place.sandbox.clone(), place.verb);
        let sandbox =
            self.sandboxes.entry(name.clone()).or_insert_with(|| Sandbox { serving: None, waiting: VecDeque::new() });
        let mut cancelled = Vec::new();
        if verb == Verb::Del {
            let (adds, others) = sandbox.waiting.drain(..).partition(|waiting| waiting.verb == Verb::Add);
            sandbox.waiting = others;
            let adds: VecDeque<Place<T>> = adds;
            cancelled.extend(adds.into_iter().map(|place| place.call));
        }
        self.waiting -= cancelled.len();
        let cancels_running = verb == Verb::Del && sandbox.serving == Some(Verb::Add);
        sandbox.waiting.push_back(place);
        self.waiting += 1;
        self.stand(&name);
        Ok(Admitted { cancelled, cancels_running })
    }

    /// Puts a sandbox where its next call belongs: in one of the two queues, once, or in none.
    fn stand(&mut self, name: &str) {
        let next = match self.sandboxes.get(name) {
            Some(sandbox) if sandbox.serving.is_none() => sandbox.waiting.front().map(|place| place.verb),
            _ => None,
        };
        for (verb, queue) in [(Verb::Add, &mut self.adds), (Verb::Del, &mut self.dels)] {
            let stands = queue.iter().position(|known| known == name);
            match (stands, next == Some(verb)) {
                (Some(at), false) => drop(queue.remove(at)),
                (None, true) => queue.push_back(name.to_owned()),
                _ => {}
            }
        }
    }

    /// The next call that can be served, if there is one; then it is being served.
    pub(super) fn next(&mut self, now: Instant) -> Option<Place<T>> {
        let is_old = |place: &Place<T>| now.saturating_duration_since(place.arrived) >= DEL_AGE_MAX;
        let first = |queue: &VecDeque<String>| self.sandboxes.get(queue.front()?)?.waiting.front();
        let can_add = self.adding < self.width.adds && !self.adds.is_empty();
        let can_del = self.deleting < self.width.dels && !self.dels.is_empty();
        let del_first = can_del && (!can_add || first(&self.dels).is_some_and(is_old));
        let name = match (can_add, del_first) {
            (_, true) => self.dels.pop_front(),
            (true, false) => self.adds.pop_front(),
            (false, false) => None,
        }?;
        let sandbox = self.sandboxes.get_mut(&name)?;
        let place = sandbox.waiting.pop_front()?;
        sandbox.serving = Some(place.verb);
        self.waiting -= 1;
        *self.count(place.verb) += 1;
        Some(place)
    }

    fn count(&mut self, verb: Verb) -> &mut usize {
        match verb {
            Verb::Add => &mut self.adding,
            Verb::Del => &mut self.deleting,
        }
    }

    /// The call of this sandbox that was served has ended.
    pub(super) fn ended(&mut self, name: &str) {
        let Some(sandbox) = self.sandboxes.get_mut(name) else { return };
        if let Some(verb) = sandbox.serving.take() {
            *self.count(verb) -= 1;
        }
        self.stand(name);
        self.forget(name);
    }

    /// Those that have waited too long.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<T> {
        let mut gone = Vec::new();
        let is_late = |(_, sandbox): &(&String, &Sandbox<T>)| sandbox.waiting.iter().any(|place| place.deadline <= now);
        let names: Vec<String> = self.sandboxes.iter().filter(is_late).map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(sandbox) = self.sandboxes.get_mut(&name) else { continue };
            let (late, waiting) = sandbox.waiting.drain(..).partition(|place| place.deadline <= now);
            sandbox.waiting = waiting;
            let late: VecDeque<Place<T>> = late;
            self.waiting -= late.len();
            gone.extend(late.into_iter().map(|place| place.call));
            self.stand(&name);
            self.forget(&name);
        }
        gone
    }

    fn forget(&mut self, name: &str) {
        if self.sandboxes.get(name).is_some_and(|sandbox| sandbox.serving.is_none() && sandbox.waiting.is_empty()) {
            self.sandboxes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> (Line<u32>, Instant) {
        (Line::new(Width { adds: 2, dels: 1 }), Instant::now())
    }

    fn place(sandbox: &str, verb: Verb, now: Instant, call: u32) -> Place<u32> {
        Place { sandbox: sandbox.to_owned(), verb, arrived: now, deadline: now + Duration::from_secs(1), call }
    }

    fn served(line: &mut Line<u32>, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| line.next(now)).map(|place| place.call).collect()
    }

    #[test]
    fn a_waiting_add_goes_before_a_waiting_del_until_that_is_old() {
        let (mut line, now) = line();
        line.admit(place("a", Verb::Del, now, 1)).unwrap();
        line.admit(place("b", Verb::Add, now, 2)).unwrap();
        line.admit(place("c", Verb::Add, now, 3)).unwrap();
        line.admit(place("d", Verb::Add, now, 4)).unwrap();
        assert_eq!(line.next(now).unwrap().call, 2);
        assert_eq!(line.next(now + DEL_AGE_MAX).unwrap().call, 1, "it is old");
        assert_eq!(served(&mut line, now), [3], "two ADDs at once");
        line.ended("b");
        assert_eq!(served(&mut line, now), [4]);
        for name in ["a", "c", "d"] {
            line.ended(name);
        }
        assert!(line.is_empty() && line.sandboxes.is_empty());
    }

    #[test]
    fn calls_of_one_sandbox_are_served_in_order() {
        let (mut line, now) = line();
        line.admit(place("a", Verb::Del, now, 1)).unwrap();
        line.admit(place("a", Verb::Add, now, 2)).unwrap();
        assert_eq!(served(&mut line, now), [1]);
        line.ended("a");
        assert_eq!(served(&mut line, now), [2]);
    }

    #[test]
    fn a_del_cancels_the_adds_before_it() {
        let (mut line, now) = line();
        line.admit(place("a", Verb::Add, now, 1)).unwrap();
        assert_eq!(served(&mut line, now), [1]);
        line.admit(place("a", Verb::Add, now, 2)).unwrap();
        let admitted = line.admit(place("a", Verb::Del, now, 3)).unwrap();
        assert_eq!((admitted.cancelled, admitted.cancels_running), (vec![2], true));
        assert!(served(&mut line, now).is_empty(), "the first is still at work");
        line.ended("a");
        assert_eq!(served(&mut line, now), [3]);
        line.ended("a");
        assert!(line.is_empty());
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_time() {
        let (mut line, now) = line();
        for call in 0..u32::try_from(WAITING_MAX).unwrap() {
            line.admit(place(&call.to_string(), Verb::Add, now, call)).unwrap();
        }
        assert_eq!(line.admit(place("one more", Verb::Add, now, 7)).unwrap_err(), 7);
        assert_eq!(served(&mut line, now).len(), 2);
        assert_eq!(line.expired(now + Duration::from_secs(1)).len(), WAITING_MAX - 2);
        assert_eq!((line.waiting, line.serving(), line.sandboxes.len()), (0, 2, 2));
    }
}
