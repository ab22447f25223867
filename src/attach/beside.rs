//! What of an attachment needs nothing of its link comes into being on another processor while the kernel makes that: rules that
//! are made of addresses alone. It does not know why they are wanted.

use std::thread;

use backends::{Address, nft};

use crate::cni::error::CniError;
use crate::rules;

/// Stack of the thread, in bytes: one transaction is built and sent.
const STACK_BYTES: usize = 256 << 10;

/// What is added, and by which way to the packet filter.
pub(super) struct Beside<'a> {
    pub(super) filter: &'a mut Option<nft::Filter>,
    pub(super) rules: nft::Rules,
    pub(super) owner: nft::Owner<'a>,
    pub(super) addresses: Vec<Address>,
}

impl Beside<'_> {
    /// Adds the rules while `link` is made; gives what came of both. No rules' outcome: no thread was to be had, and nothing is added.
    pub(super) fn add_while<T>(self, link: impl FnOnce() -> T) -> (T, Option<Result<(), CniError>>) {
        let Self { filter, rules, owner, addresses } = self;
        thread::scope(|scope| {
            let add = || rules::add(filter, rules, &owner, &[], &addresses);
            let thread = thread::Builder::new().name("rules".to_owned()).stack_size(STACK_BYTES);
            let thread = thread.spawn_scoped(scope, add).ok();
            let made = link();
            let unknown = || CniError::generic("whoever adds this request's rules has failed in a way it should not");
            (made, thread.map(|thread| thread.join().unwrap_or_else(|_| Err(unknown()))))
        })
    }
}
