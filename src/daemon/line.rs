//! Who is served next: calls of one sandbox in the order they came, a waiting ADD before a waiting DEL, tenants in turn, within bounds.
//! Pure: it does not know what a call is, nor who serves it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::turns::Turns;

/// Calls that wait: more than a node has pods, each with two.
pub(super) const WAITING_MAX: usize = 1024;
/// Of these, ADDs of one sandbox: more than a pod gets interfaces at once while it runs.
const SANDBOX_WAITING_MAX: usize = 64;
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
    /// Whose it is: all of a tenant's wait for one of each other tenant's at most.
    pub(super) tenant: String,
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
    /// Sandboxes whose next call is an ADD that could be served now, of each tenant in the order they came to that.
    adds: Turns<String>,
    dels: Turns<String>,
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
            adds: Turns::new(),
            dels: Turns::new(),
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
    /// The call, where too many wait, of all or of its sandbox.
    pub(super) fn admit(&mut self, place: Place<T>) -> Result<Admitted<T>, T> {
        let own = self.sandboxes.get(&place.sandbox).map_or(0, |sandbox| sandbox.waiting.len());
        // A DEL is what ends a crowd of its sandbox.
        if self.waiting >= WAITING_MAX || (place.verb == Verb::Add && own >= SANDBOX_WAITING_MAX) {
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
            Some(sandbox) if sandbox.serving.is_none() => sandbox.waiting.front(),
            _ => None,
        };
        for (verb, queue) in [(Verb::Add, &mut self.adds), (Verb::Del, &mut self.dels)] {
            match (queue.has(|known| known == name), next.filter(|place| place.verb == verb)) {
                (true, None) => drop(queue.pick(|known| known == name)),
                (false, Some(place)) => queue.push(&place.tenant, name.to_owned()),
                _ => {}
            }
        }
    }

    /// The next call that can be served, if there is one; then it is being served.
    pub(super) fn next(&mut self, now: Instant) -> Option<Place<T>> {
        let is_old = |place: &Place<T>| now.saturating_duration_since(place.arrived) >= DEL_AGE_MAX;
        let first = |name| self.sandboxes.get::<String>(name)?.waiting.front();
        let can_add = self.adding < self.width.adds && !self.adds.is_empty();
        let can_del = self.deleting < self.width.dels && !self.dels.is_empty();
        let del_first = can_del && (!can_add || self.dels.firsts().filter_map(first).any(is_old));
        let name = match (can_add, del_first) {
            (_, true) => self.dels.take(),
            (true, false) => self.adds.take(),
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
        let (sandbox, tenant) = (sandbox.to_owned(), "one".to_owned());
        Place { sandbox, tenant, verb, arrived: now, deadline: now + Duration::from_secs(1), call }
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
    fn a_crowd_of_one_tenant_keeps_nobody_else_waiting_for_all_of_it() {
        let (mut line, now) = line();
        let of = |tenant: &str, place: Place<u32>| Place { tenant: tenant.to_owned(), ..place };
        for (verb, first) in [(Verb::Add, 0), (Verb::Del, 100)] {
            for call in first..first + 50 {
                line.admit(place(&call.to_string(), verb, now, call)).unwrap();
            }
        }
        assert_eq!(served(&mut line, now), [0, 1, 100]);
        line.admit(of("another", place("a", Verb::Add, now, 200))).unwrap();
        line.admit(of("another", place("b", Verb::Del, now, 201))).unwrap();
        for name in ["0", "1", "100"] {
            line.ended(name);
        }
        let next = served(&mut line, now);
        assert!(next.contains(&200) && next.len() == 3, "one of each: {next:?}");
        line.ended(&next.last().unwrap().to_string());
        assert_eq!(served(&mut line, now), [201]);
    }

    #[test]
    fn one_sandbox_does_not_take_the_room_of_all() {
        let (mut line, now) = line();
        let most = u32::try_from(SANDBOX_WAITING_MAX).unwrap();
        for call in 0..most {
            line.admit(place("a", Verb::Add, now, call)).unwrap();
        }
        assert_eq!(line.admit(place("a", Verb::Add, now, most)).unwrap_err(), most);
        line.admit(place("b", Verb::Add, now, most)).unwrap();
        let admitted = line.admit(place("a", Verb::Del, now, 7)).unwrap();
        assert_eq!(admitted.cancelled.len(), SANDBOX_WAITING_MAX);
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
