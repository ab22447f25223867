//! What waits, by whose it is: each tenant's in the order it came, and the tenants in turn, so that however many of one wait, the next
//! of another waits for one of each. Pure: it does not know what a tenant is, nor what waits.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// Those of whom something waits, the one whose turn it is first.
    tenants: VecDeque<(String, VecDeque<T>)>,
}

impl<T> Turns<T> {
    /// Nothing.
    pub(super) fn new() -> Turns<T> {
        Turns { tenants: VecDeque::new() }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// How much waits.
    pub(super) fn len(&self) -> usize {
        self.tenants.iter().map(|(_, items)| items.len()).sum()
    }

    /// What waits of each tenant first.
    pub(super) fn firsts(&self) -> impl Iterator<Item = &T> {
        self.tenants.iter().filter_map(|(_, items)| items.front())
    }

    /// Whether there is one.
    pub(super) fn has(&self, is_meant: impl Fn(&T) -> bool) -> bool {
        self.tenants.iter().flat_map(|(_, items)| items).any(is_meant)
    }

    /// One more of a tenant.
    pub(super) fn push(&mut self, tenant: &str, item: T) {
        match self.tenants.iter_mut().find(|(known, _)| known == tenant) {
            Some((_, items)) => items.push_back(item),
            None => self.tenants.push_back((tenant.to_owned(), VecDeque::from([item]))),
        }
    }

    /// The next one.
    pub(super) fn take(&mut self) -> Option<T> {
        let (tenant, mut items) = self.tenants.pop_front()?;
        let item = items.pop_front();
        if !items.is_empty() {
            self.tenants.push_back((tenant, items));
        }
        item
    }

    /// The first one that is meant, out of its turn.
    pub(super) fn pick(&mut self, is_meant: impl Fn(&T) -> bool) -> Option<T> {
        let picked = self.tenants.iter_mut().find_map(|(_, items)| {
            let at = items.iter().position(&is_meant)?;
            items.remove(at)
        });
        self.tenants.retain(|(_, items)| !items.is_empty());
        picked
    }

    /// All that are meant.
    pub(super) fn drain(&mut self, is_meant: impl Fn(&T) -> bool) -> Vec<T> {
        let mut gone = Vec::new();
        for (_, items) in &mut self.tenants {
            let (meant, others): (VecDeque<T>, VecDeque<T>) = items.drain(..).partition(&is_meant);
            gone.extend(meant);
            *items = others;
        }
        self.tenants.retain(|(_, items)| !items.is_empty());
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(all: &[(&str, u32)]) -> Turns<u32> {
        let mut turns = Turns::new();
        all.iter().for_each(|(tenant, item)| turns.push(tenant, *item));
        turns
    }

    #[test]
    fn tenants_take_turns_and_each_ones_own_stay_in_order() {
        let mut all = turns(&[("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)]);
        assert_eq!(all.firsts().copied().collect::<Vec<_>>(), [1, 4, 5]);
        assert_eq!(all.take(), Some(1));
        all.push("d", 7);
        assert_eq!(std::iter::from_fn(|| all.take()).collect::<Vec<_>>(), [4, 5, 2, 7, 6, 3]);
        assert_eq!((all.is_empty(), all.len()), (true, 0));
    }

    #[test]
    fn what_goes_out_of_turn_leaves_no_tenant_of_nothing() {
        let mut all = turns(&[("a", 1), ("b", 2), ("b", 3), ("c", 4)]);
        assert_eq!((all.pick(|item| *item == 9), all.pick(|item| *item > 1)), (None, Some(2)));
        assert!(all.has(|item| *item == 3) && !all.has(|item| *item == 2));
        assert_eq!(all.drain(|item| *item != 4), [1, 3]);
        assert_eq!((all.len(), all.take(), all.take()), (1, Some(4), None));
    }
}
