//! What of an attachment needs nothing of its link comes into being on another processor while the kernel makes that: rules that
//! are made of addresses alone, its own and those of plugins that come after it in the chain. It does not know why they are wanted.

use std::collections::BTreeMap;
use std::thread;

use backends::chained::{Gain, Looked, Original, Previous};
use backends::{Address, Built, Layer3, Resolved, nft};

use super::{Begun, Done, Kernel, link, owner};
use crate::cni::error::CniError;
use crate::cni::result::CniResult;
use crate::native::{Failed, Native};
use crate::plan::{Attachment, How, Plan};
use crate::rules;

/// Stack of the thread, in bytes: one transaction is built and sent.
const STACK_BYTES: usize = 256 << 10;

/// A later step of the chain that is done now.
struct Early<'a> {
    index: usize,
    looked: Looked<'a>,
}

/// Those behind the step `link`, as long as nothing is executed in between: a plugin finds what it would find without this.
fn early<'a>(attachment: &'a Attachment, link: usize, addresses: &[Address]) -> Vec<Early<'a>> {
    let addresses = known(addresses);
    let later = attachment.steps.iter().enumerate().skip(link + 1);
    let chained = later.map_while(|(index, step)| match &step.how {
        How::Chained(spec) => Some((index, spec)),
        How::Native(_) | How::Executed(_) => None,
    });
    chained.filter_map(|(index, spec)| Some(Early { index, looked: spec.look_ahead(&addresses)? })).collect()
}

fn known(addresses: &[Address]) -> Previous {
    Previous { addresses: addresses.iter().map(|address| (*address, None)).collect(), ..Previous::default() }
}

/// What is added, and by which way to the packet filter.
struct Beside<'a> {
    filter: &'a mut Option<nft::Filter>,
    rules: nft::Rules,
    owner: nft::Owner<'a>,
    addresses: Vec<Address>,
    steps: Vec<Early<'a>>,
}

/// What became of it: after a failure nothing more was begun.
struct Added {
    rules: Result<(), CniError>,
    steps: Vec<(usize, Gain)>,
    /// Of the step after these, and its place.
    failure: Option<(usize, Failed)>,
    /// Whoever added them has not said how far it came.
    is_unknown: bool,
}

impl Beside<'_> {
    /// Adds all of it while `link` is made; gives what came of both. Nothing added: no thread was to be had.
    fn add_while<T>(self, link: impl FnOnce() -> T) -> (T, Option<Added>) {
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("rules".to_owned()).stack_size(STACK_BYTES);
            let thread = thread.spawn_scoped(scope, || self.add()).ok();
            let made = link();
            let unknown = || CniError::generic("whoever adds this request's rules has failed in a way it should not");
            let failed = |_| Added { rules: Err(unknown()), steps: Vec::new(), failure: None, is_unknown: true };
            (made, thread.map(|thread| thread.join().unwrap_or_else(failed)))
        })
    }

    fn add(self) -> Added {
        let Self { filter, rules, owner, addresses, steps } = self;
        let mut added =
            Added { rules: Ok(()), steps: Vec::with_capacity(steps.len()), failure: None, is_unknown: false };
        if !rules.is_empty() {
            added.rules = rules::add(filter, rules, &owner, &[], &addresses);
        }
        if added.rules.is_err() || steps.is_empty() {
            return added;
        }
        let addresses = known(&addresses);
        for Early { index, looked } in steps {
            let opened = match filter.as_mut() {
                Some(filter) => Ok(filter),
                None => rules::open().map(|opened| filter.insert(opened)),
            };
            let done = opened
                .map_err(Failed::from)
                .and_then(|filter| looked.carry_out_ahead(filter, &owner, &addresses).map_err(Failed::from));
            match done {
                Ok(gain) => added.steps.push((index, gain)),
                Err(failure) => return Added { failure: Some((index, failure)), ..added },
            }
        }
        added
    }
}

/// Whether an attachment's rules are there already.
pub(super) enum Ruled {
    All,
    After,
}

/// The link, and where a processor is idle what needs nothing of it at the same time.
#[expect(clippy::too_many_arguments, reason = "as building the link, and what else is begun")]
pub(super) fn link_and_rules<'a>(
    plan: &'a Plan,
    attachment: &'a Attachment,
    (index, native): (usize, &'a Native),
    resolved: &Resolved,
    kernel: &mut Kernel,
    layer3: Layer3,
    leased: &CniResult,
    begun: &mut Begun<'a, '_, '_>,
) -> (Result<Built, Failed>, Result<Ruled, CniError>) {
    let left = if native.rules.is_empty() { Ruled::All } else { Ruled::After };
    let idle = kernel.place.has_idle_processor();
    let steps = if idle { early(attachment, index, &layer3.addresses) } else { Vec::new() };
    let rules = if idle && native.rules.need_no_link() { native.rules } else { nft::Rules::default() };
    if rules.is_empty() && steps.is_empty() {
        return (link(plan, attachment, native, resolved, kernel, layer3), Ok(left));
    }
    let noted = steps.iter().filter_map(|early| Some((early.index, early.looked.original()?)));
    let noted: BTreeMap<usize, Original> = noted.collect();
    for (index, original) in &noted {
        if let Err(failure) = begun.note(*index, original) {
            return (Err(failure.into()), Ok(left));
        }
    }
    if !rules.is_empty() {
        begun.done.push(Done::Rules { attachment, rules });
    }
    let addresses = layer3.addresses.clone();
    let indices: Vec<usize> = steps.iter().map(|early| early.index).collect();
    let beside = Beside { filter: &mut begun.filter, rules, owner: owner(plan, attachment), addresses, steps };
    let (built, added) = beside.add_while(|| link(plan, attachment, native, resolved, kernel, layer3));
    // Without a thread nothing was begun: all of it is done in its turn.
    let Some(Added { rules: ruled, steps, failure, is_unknown }) = added else { return (built, Ok(left)) };
    begun.early.extend(steps);
    // What of it is not there is no error of the undo.
    let doubted = failure.as_ref().filter(|(_, failed)| failed.is_in_doubt).map(|(index, _)| *index);
    let is_begun = |index: &usize| is_unknown || doubted == Some(*index) || begun.early.contains_key(index);
    let indices: Vec<usize> = indices.into_iter().filter(is_begun).collect();
    for index in indices {
        let gained = begun.early.get(&index).and_then(|gain| gain.original.clone());
        let original = gained.or_else(|| noted.get(&index).cloned());
        if let Some(step) = attachment.steps.get(index) {
            begun.done.push(Done::Chained { attachment, step, result: Box::new(leased.clone()), original });
        }
    }
    let done = if rules.is_empty() { left } else { Ruled::All };
    (built, failure.map_or(ruled, |(_, failed)| Err(failed.error)).map(|()| done))
}
