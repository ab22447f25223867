//! Leases that are taken while the links before them are made: the kernel works on one processor, the files on another.
//!
//! Without an idle processor, with fewer than two leases, or where two come from one directory (then their order shows in the
//! addresses, and one would wait for the other's lock), each is taken when its turn comes. It does not know what they are for.

use std::collections::HashSet;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, Scope};

use ipam::{Owner, host_local};

use crate::cni::error::CniError;
use crate::cni::result::CniResult;
use crate::convert;
use crate::native::{Ipam, Native, from_ipam};
use crate::plan::{Attachment, How, Plan, Step};

/// Stack of the thread, in bytes: a lease is a few file operations.
const STACK_BYTES: usize = 256 << 10;

/// Something to take, out of a directory.
pub(crate) trait Take: Sync {
    /// What is got.
    type Got: Send;

    /// The directory.
    fn directory(&self) -> &Path;

    /// Takes it.
    fn take(&self) -> Self::Got;
}

/// What is taken in its order, by whoever comes first to it.
pub(crate) struct Ahead<'a, T: Take> {
    all: &'a [T],
    next: usize,
    /// Of all but the first, where somebody takes them.
    taken: Option<Receiver<T::Got>>,
}

impl<'a, T: Take> Ahead<'a, T> {
    /// `may`: there is a processor for it.
    pub(crate) fn start<'scope>(scope: &'scope Scope<'scope, '_>, all: &'a [T], may: bool) -> Ahead<'a, T>
    where
        'a: 'scope,
        T::Got: 'scope,
    {
        let mut directories = HashSet::new();
        if !may || all.len() < 2 || !all.iter().all(|one| directories.insert(one.directory())) {
            return Ahead { all, next: 0, taken: None };
        }
        let (sender, receiver) = mpsc::sync_channel(all.len());
        // The first is wanted at once: whoever asks takes it meanwhile.
        let work = move || all.iter().skip(1).for_each(|one| drop(sender.send(one.take())));
        let started =
            thread::Builder::new().name("leases".to_owned()).stack_size(STACK_BYTES).spawn_scoped(scope, work);
        Ahead { all, next: 0, taken: started.ok().map(|_| receiver) }
    }

    /// The next one; none where there is none, or where whoever took it failed in a way it should not.
    pub(crate) fn next(&mut self) -> Option<T::Got> {
        let one = self.all.get(self.next)?;
        self.next += 1;
        match &self.taken {
            Some(taken) if self.next > 1 => taken.recv().ok(),
            _ => Some(one.take()),
        }
    }

    /// What was taken, or is being, and nobody asked for; with each its position. Waits for it.
    pub(crate) fn rest(self) -> impl Iterator<Item = (usize, T::Got)> {
        let from = self.next.max(1);
        self.taken.into_iter().flat_map(move |taken| (from..).zip(taken))
    }
}

/// A lease that this process takes by itself.
pub(crate) struct Wanted<'a> {
    plan: &'a Plan,
    pub(crate) attachment: &'a Attachment,
    pub(crate) step: &'a Step,
    pub(crate) native: &'a Native,
    pool: &'a host_local::Pool,
}

impl<'a> Wanted<'a> {
    /// All of a plan, in the order in which they are asked for.
    pub(crate) fn all(plan: &'a Plan) -> Vec<Self> {
        let steps =
            plan.attachments.iter().flat_map(|attachment| attachment.steps.iter().map(move |step| (attachment, step)));
        let wanted = steps.filter_map(|(attachment, step)| match &step.how {
            How::Native(native) => match &native.ipam {
                Ipam::HostLocal(pool) => Some(Wanted { plan, attachment, step, native, pool }),
                _ => None,
            },
            How::Chained(_) | How::Executed(_) => None,
        });
        wanted.collect()
    }
}

impl Take for Wanted<'_> {
    type Got = Result<CniResult, CniError>;

    fn directory(&self) -> &Path {
        self.pool.directory()
    }

    fn take(&self) -> Self::Got {
        let owner = Owner { sandbox: &self.plan.key.sandbox, ifname: &self.attachment.ifname };
        self.pool.add(&owner).map(convert::from_allocation).map_err(from_ipam)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct One(&'static str, AtomicUsize);

    impl Take for One {
        type Got = &'static str;

        fn directory(&self) -> &Path {
            Path::new(self.0)
        }

        fn take(&self) -> &'static str {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0
        }
    }

    fn of(names: &[&'static str]) -> Vec<One> {
        names.iter().map(|name| One(name, AtomicUsize::new(0))).collect()
    }

    fn times(all: &[One]) -> Vec<usize> {
        all.iter().map(|one| one.1.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn each_is_taken_once_and_in_order() {
        for may in [true, false] {
            let all = of(&["a", "b", "c"]);
            thread::scope(|scope| {
                let mut ahead = Ahead::start(scope, &all, may);
                assert_eq!(
                    [ahead.next(), ahead.next(), ahead.next(), ahead.next()],
                    [Some("a"), Some("b"), Some("c"), None]
                );
                assert_eq!(ahead.rest().count(), 0);
            });
            assert_eq!(times(&all), [1, 1, 1]);
        }
    }

    #[test]
    fn what_nobody_asked_for_is_told() {
        for asked in [0, 1] {
            let all = of(&["a", "b", "c"]);
            let rest: Vec<_> = thread::scope(|scope| {
                let mut ahead = Ahead::start(scope, &all, true);
                (0..asked).for_each(|_| assert!(ahead.next().is_some()));
                ahead.rest().collect()
            });
            assert_eq!(rest, [(1, "b"), (2, "c")]);
        }
        let all = of(&["a", "b"]);
        assert_eq!(thread::scope(|scope| Ahead::start(scope, &all, false).rest().count()), 0);
        assert_eq!(times(&all), [0, 0]);
    }

    #[test]
    fn one_directory_keeps_its_order() {
        let all = of(&["a", "b", "a"]);
        thread::scope(|scope| assert!(Ahead::start(scope, &all, true).taken.is_none()));
    }
}
