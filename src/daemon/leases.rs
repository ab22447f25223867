//! Who may execute plugins now: so many sandboxes at once, tenants in turn, of each in the order in which they asked. Their plugins are executed by
//! `plexus-cni`, and a lease is held for as long as its connection is open. Pure: it does not know what a call is.

use std::collections::HashMap;
use std::time::Instant;

use super::line::WAITING_MAX;
use super::turns::Turns;

#[derive(Debug)]
struct Waiting<T> {
    sandbox: String,
    deadline: Instant,
    call: T,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Leases<T> {
    width: usize,
    /// Calls that may wait.
    most: usize,
    /// How many connections have the lease of a sandbox: a plugin may be plexus-cni again.
    held: HashMap<String, usize>,
    waiting: Turns<Waiting<T>>,
}

impl<T> Leases<T> {
    /// For so many sandboxes, and with one descriptor for each of as many that wait, at most [`WAITING_MAX`].
    pub(super) fn new(width: usize, descriptors: usize) -> Leases<T> {
        Leases { width, most: descriptors.min(WAITING_MAX), held: HashMap::new(), waiting: Turns::new() }
    }

    /// How many sandboxes have one.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// How many calls wait for one.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Somebody wants one.
    ///
    /// # Errors
    /// The call, where too many wait.
    pub(super) fn ask(&mut self, (tenant, sandbox): (&str, String), deadline: Instant, call: T) -> Result<(), T> {
        if self.waiting.len() >= self.most {
            return Err(call);
        }
        self.waiting.push(tenant, Waiting { sandbox, deadline, call });
        Ok(())
    }

    /// The next one that has a lease from now on. Who works for a sandbox that has one waits for nobody: that one waits for it.
    pub(super) fn next(&mut self) -> Option<(String, T)> {
        let has_room = self.held.len() < self.width;
        let of_held = |one: &Waiting<T>| self.held.contains_key(&one.sandbox);
        let next = if has_room { self.waiting.take() } else { self.waiting.pick(of_held) };
        let Waiting { sandbox, call, .. } = next?;
        *self.held.entry(sandbox.clone()).or_default() += 1;
        Some((sandbox, call))
    }

    /// One of this sandbox's connections has gone.
    pub(super) fn returned(&mut self, sandbox: &str) {
        if let Some(connections) = self.held.get_mut(sandbox) {
            *connections -= 1;
            if *connections == 0 {
                self.held.remove(sandbox);
            }
        }
    }

    /// Those that have waited too long.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<T> {
        self.waiting.drain(|one| one.deadline <= now).into_iter().map(|one| one.call).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn so_many_sandboxes_at_once_and_who_works_for_one_of_them_does_not_wait() {
        let (mut leases, now) = (Leases::new(2, usize::MAX), Instant::now());
        for (number, sandbox) in ["a", "b", "c", "d", "a"].into_iter().enumerate() {
            leases.ask(("one", sandbox.to_owned()), now + Duration::from_secs(60), number).unwrap();
        }
        let given = |leases: &mut Leases<usize>| -> Vec<usize> {
            std::iter::from_fn(|| leases.next()).map(|(_, number)| number).collect()
        };
        assert_eq!((given(&mut leases), leases.held(), leases.waiting()), (vec![0, 1, 4], 2, 2));
        leases.returned("a");
        assert_eq!(given(&mut leases), [0; 0], "the other one of it is at work");
        leases.returned("a");
        assert_eq!((given(&mut leases), leases.held()), (vec![2], 2));
        leases.returned("nobody");
        leases.returned("b");
        leases.returned("c");
        assert_eq!((given(&mut leases), leases.held(), leases.waiting()), (vec![3], 1, 0));
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_time() {
        let (mut leases, now) = (Leases::new(1, usize::MAX), Instant::now());
        for number in 0..WAITING_MAX {
            let deadline = now + Duration::from_secs(if number < 3 { 1 } else { 2 });
            leases.ask(("one", number.to_string()), deadline, number).unwrap();
        }
        assert_eq!(leases.ask(("two", "one more".to_owned()), now, 7), Err(7));
        assert_eq!(leases.next().map(|(_, number)| number), Some(0));
        assert_eq!(leases.expired(now), [0; 0]);
        assert_eq!(leases.expired(now + Duration::from_secs(1)), [1, 2]);
        assert_eq!(leases.waiting(), WAITING_MAX - 3);
    }
}
