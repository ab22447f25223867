//! Questions to the kernel's nftables: a transaction in one send, and listings.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::message::{Base, Batch, Family, chain_of, find, generation, is_rule, rule_of, rules_of, rules_of_table};
use super::rule::{Expressions, Found, Told, expressions};
use super::set::{Element, Key, element_of, elements_of};
use crate::netlink::error::verdict;
use crate::netlink::netfilter::Netfilter;
use crate::netlink::{Failure, Refusal};

/// How often a change is tried again because somebody removed what was to be removed, or a listing was not consistent.
pub(super) const ATTEMPTS: u32 = 8;
/// More rules than a chain of ours ever has: each pod has two.
const RULES_MAX: usize = 1 << 20;

/// More elements than a set of ours ever has: each pod has a few for each port.
const ELEMENTS_MAX: usize = 1 << 20;
/// Questions sent at once: their answers take up to 5 kB each of a receive buffer of 208 kB.
const QUESTIONS_AT_ONCE: usize = 16;

/// `struct nlmsghdr` and `struct nfgenmsg`, in bytes.
const NLMSG_HEADER_LEN: usize = 16;
pub(super) const NFGENMSG_LEN: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;

/// Whether somebody else's rule may lead to a chain that is to go: the kernel keeps such a chain (`EBUSY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InUse {
    Unlikely,
    Likely,
}

pub(super) struct Socket {
    netfilter: Netfilter,
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the namespace of the calling thread.
    pub(super) fn open() -> Result<Self, Failure> {
        Ok(Self { netfilter: Netfilter::open()?, sequence: 0 })
    }

    /// As [`Socket::open`]; none on a kernel without netfilter's netlink, where nothing can be.
    pub(super) fn open_if_any() -> Result<Option<Self>, Failure> {
        match Self::open() {
            Err(Failure::Socket(error)) if error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) => Ok(None),
            other => other.map(Some),
        }
    }

    /// A second descriptor of the same socket.
    pub(super) fn duplicate(&self) -> Result<OwnedFd, Failure> {
        self.netfilter.duplicate()
    }

    /// Carries out a transaction.
    pub(super) fn commit(&mut self, batch: Batch) -> Result<(), Failure> {
        self.commit_and_hear(batch, |_, _| {})
    }

    /// Carries out a transaction. `hear` gets the protocol family and the attributes of each rule that was added with
    /// `NLM_F_ECHO`.
    pub(super) fn commit_and_hear(&mut self, mut batch: Batch, mut hear: impl FnMut(u8, &[u8])) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        if batch.is_full() {
            return Err(Failure::Malformed("a transaction is larger than a socket takes".to_owned()));
        }
        self.netfilter.send(batch.finish())?;
        let mut refused: Option<Refusal> = None;
        // One answer that is no acknowledgement voids all others.
        self.answers(|answer| {
            if is_rule(answer.kind) {
                let family = answer.payload.first().copied().unwrap_or_default();
                hear(family, answer.payload.get(NFGENMSG_LEN..).unwrap_or_default());
            }
            if answer.kind == NLMSG_ERROR && refused.is_none() {
                let refusal = verdict(answer.flags, answer.payload)?;
                refused = refusal.map(|refusal| at(refusal, batch.place(answer.sequence)));
            }
            Ok(false)
        })?;
        refused.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    /// What `pick` makes of the attributes of one rule; none where there is no rule of this handle.
    pub(super) fn rule<T>(
        &mut self,
        family: Family,
        place: [&str; 2],
        handle: u64,
        pick: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        self.sequence += 1;
        self.netfilter.send(&rule_of(self.sequence, family, place, handle))?;
        let mut picked = None;
        let told = self.listing(|attributes| {
            picked = pick(attributes);
            Ok(())
        });
        match told {
            Err(failure) if says_absent(&failure) => Ok(None),
            other => other.map(|_| picked),
        }
    }

    /// A transaction made of what is there. Made anew where somebody else was faster.
    pub(super) fn change(
        &mut self,
        fill: impl Fn(&mut Self, &mut Batch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.change_in_parts(|socket, _| {
            let mut batch = Batch::new();
            fill(socket, &mut batch)?;
            Ok(vec![batch])
        })
    }

    /// The same in several transactions. Made anew also where somebody else uses what was to go: then what can be in use is to be
    /// let be, empty.
    pub(super) fn change_in_parts(
        &mut self,
        parts: impl Fn(&mut Self, InUse) -> Result<Vec<Batch>, Failure>,
    ) -> Result<(), Failure> {
        let mut in_use = InUse::Unlikely;
        for attempt in 0..ATTEMPTS {
            if attempt == ATTEMPTS / 2 {
                in_use = InUse::Likely;
            }
            let parts = parts(self, in_use)?;
            match parts.into_iter().try_for_each(|batch| self.commit(batch)) {
                Err(failure) if matches!(failure.errno(), Some(Errno::ENOENT | Errno::EBUSY | Errno::ERESTART)) => {}
                other => return other,
            }
        }
        Err(Failure::Interrupted { attempts: ATTEMPTS })
    }

    /// The rules of a chain; none where there is no such chain.
    pub(super) fn rules(&mut self, family: Family, table: &str, chain: &str) -> Result<Vec<Found>, Failure> {
        let question = |sequence| rules_of(sequence, family, table, chain);
        let parse = |attributes: &[u8], all: &mut Vec<Found>| all.extend(Found::parse(attributes));
        self.list(question, parse, |rule| rule.handle, RULES_MAX)
    }

    /// What `pick` makes of the attributes of each rule of a chain; `handle` is the rule's.
    pub(super) fn picked<T>(
        &mut self,
        family: Family,
        [table, chain]: [&str; 2],
        pick: impl Fn(&[u8]) -> Option<T>,
        handle: impl Fn(&T) -> u64,
    ) -> Result<Vec<T>, Failure> {
        let question = |sequence| rules_of(sequence, family, table, chain);
        self.list(question, |attributes, all| all.extend(pick(attributes)), handle, RULES_MAX)
    }

    /// The rules of all chains of a table; none where there is no such table.
    pub(super) fn rules_of_table(&mut self, family: Family, table: &str) -> Result<Vec<Told>, Failure> {
        let question = |sequence| rules_of_table(sequence, family, table);
        let parse = |attributes: &[u8], all: &mut Vec<Told>| all.extend(Told::parse(attributes));
        self.list(question, parse, |rule| rule.handle, RULES_MAX)
    }

    /// The elements of a set; none where there is no such set.
    pub(super) fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Element>, Failure> {
        let question = |sequence| elements_of(sequence, family, table, set);
        let parse = |attributes: &[u8], all: &mut Vec<Element>| all.extend(Element::parse(attributes));
        self.list(question, parse, |element| element.key.clone(), ELEMENTS_MAX)
    }

    /// Lists; `parse` adds what a message tells, `key` tells one from the other.
    ///
    /// On a busy node every listing may be interrupted: each datagram begins after as many rules as were told before, so that a
    /// rule is passed over for each that somebody removed meanwhile (`__nf_tables_dump_rules` in net/netfilter/nf_tables_api.c).
    /// What several such listings tell together is whole: a rule that was passed over lies before that border the next time.
    fn list<T, K: Ord>(
        &mut self,
        question: impl Fn(u32) -> Vec<u8>,
        parse: impl Fn(&[u8], &mut Vec<T>),
        key: impl Fn(&T) -> K,
        max: usize,
    ) -> Result<Vec<T>, Failure> {
        let mut told = Vec::new();
        for _ in 0..ATTEMPTS {
            self.sequence += 1;
            self.netfilter.send(&question(self.sequence))?;
            let mut found = Vec::new();
            let whole = self.listing(|attributes| {
                if found.len() >= max {
                    return Err(Failure::Malformed(format!("more than {max} in one listing")));
                }
                parse(attributes, &mut found);
                Ok(())
            });
            match whole {
                Err(failure) if says_absent(&failure) => return Ok(Vec::new()),
                Err(failure) => return Err(failure),
                Ok(true) => return Ok(found),
                Ok(false) => told.append(&mut found),
            }
        }
        told.sort_by_key(&key);
        told.dedup_by_key(|one| key(one));
        Ok(told)
    }

    /// How often anything was changed so far; none on a kernel without nf_tables.
    pub(super) fn generation(&mut self) -> Result<Option<u32>, Failure> {
        self.sequence += 1;
        self.netfilter.send(&generation(self.sequence))?;
        let mut told = None;
        match self.listing(|attributes| {
            told = find(attributes, 1).and_then(|bytes| bytes.first_chunk().copied()).map(u32::from_be_bytes);
            Ok(())
        }) {
            Err(failure) if says_absent(&failure) => Ok(None),
            other => other.map(|_| told),
        }
    }

    /// The same where there is an nf_tables.
    pub(super) fn sure_generation(&mut self) -> Result<u32, Failure> {
        let none = || Refusal { errno: Errno::EOPNOTSUPP, text: Some("this kernel has no nftables".to_owned()) };
        self.generation()?.ok_or_else(|| none().into())
    }

    /// The elements of these keys, in their order.
    pub(super) fn find(&mut self, keys: &[Key]) -> Result<Vec<Option<Element>>, Failure> {
        let parse = |attributes: &[u8]| Element::parse(attributes).next();
        self.ask(keys, element_of, parse)
    }

    /// Whether there are chains of these names, in their order.
    pub(super) fn have_chains(&mut self, chains: &[(Family, &str, &str)]) -> Result<Vec<bool>, Failure> {
        let question =
            |sequence, (family, table, chain): &(Family, &str, &str)| chain_of(sequence, *family, table, chain);
        let found = self.ask(chains, question, |_| Some(()))?;
        Ok(found.into_iter().map(|found| found.is_some()).collect())
    }

    /// Asks for several things, each of which is told in one message, or not there.
    fn ask<Q, T>(
        &mut self,
        questions: &[Q],
        message: impl Fn(u32, &Q) -> Vec<u8>,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<Option<T>>, Failure> {
        let mut all = Vec::with_capacity(questions.len());
        for some in questions.chunks(QUESTIONS_AT_ONCE) {
            let first = self.sequence + 1;
            let mut datagram = Vec::new();
            for question in some {
                self.sequence += 1;
                let bytes = message(self.sequence, question);
                datagram.extend(&bytes);
                datagram.resize(datagram.len().next_multiple_of(4), 0);
            }
            self.netfilter.send(&datagram)?;
            let mut found: Vec<Option<T>> = some.iter().map(|_| None).collect();
            self.answers(|answer| {
                let position = usize::try_from(answer.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                match verdict_of(answer)? {
                    Some(failure) if says_absent(&failure) => {}
                    Some(failure) => return Err(failure),
                    None if answer.kind == NLMSG_ERROR => {}
                    None => {
                        if let Some(place) = found.get_mut(position) {
                            *place = parse(answer.payload.get(NFGENMSG_LEN..).unwrap_or_default());
                        }
                    }
                }
                Ok(false)
            })?;
            all.append(&mut found);
        }
        Ok(all)
    }

    /// How many refer to a chain: its rules and whatever jumps to it (`NFTA_CHAIN_USE`). None where it is not there.
    pub(super) fn chain_use(&mut self, family: Family, table: &str, chain: &str) -> Result<Option<u32>, Failure> {
        let used = Cell::new(None);
        self.look_at_chain(family, table, chain, |attributes| {
            let told = find(attributes, 6).and_then(|bytes| bytes.first_chunk());
            used.set(Some(told.map_or(0, |bytes| u32::from_be_bytes(*bytes))));
            true
        })?;
        Ok(used.get())
    }

    /// What a wait can be for.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.netfilter.as_fd()
    }

    /// The socket itself, for other parts of netfilter.
    pub(super) fn netfilter(&mut self) -> &mut Netfilter {
        &mut self.netfilter
    }

    /// Whether anybody answers who knows tables and chains (net/netfilter/nfnetlink.c, nfnetlink_rcv_msg: EINVAL where not).
    pub(super) fn knows_tables(&mut self) -> Result<bool, Failure> {
        self.sequence += 1;
        self.netfilter.send(&chain_of(self.sequence, Family::Inet, "plexus", "plexus"))?;
        match self.listing(|_| Ok(())) {
            Err(failure) if matches!(failure.errno(), Some(Errno::EINVAL | Errno::EOPNOTSUPP)) => Ok(false),
            Err(failure) if says_absent(&failure) => Ok(true),
            other => other.map(|_| true),
        }
    }

    /// Whether a chain has just these rules, in this order. A listing that was disturbed says no.
    pub(super) fn has_rules(
        &mut self,
        family: Family,
        [table, chain]: [&str; 2],
        wanted: &[Expressions],
    ) -> Result<bool, Failure> {
        self.sequence += 1;
        self.netfilter.send(&rules_of(self.sequence, family, table, chain))?;
        let (mut rest, mut same) = (wanted.iter(), true);
        let whole = self.listing(|rule| {
            same &= rest.next().is_some_and(|wanted| wanted.are(expressions(rule)));
            Ok(())
        });
        match whole {
            Err(failure) if says_absent(&failure) => Ok(false),
            other => other.map(|whole| whole && same && rest.next().is_none()),
        }
    }

    /// Whether there is a chain of this name, and packets come by it in this way.
    pub(super) fn has_base_chain(
        &mut self,
        family: Family,
        [table, chain]: [&str; 2],
        base: &Base,
    ) -> Result<bool, Failure> {
        self.look_at_chain(family, table, chain, |attributes| base.is(attributes))
    }

    fn look_at_chain(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<bool, Failure> {
        self.sequence += 1;
        self.netfilter.send(&chain_of(self.sequence, family, table, chain))?;
        let mut found = false;
        match self.listing(|attributes| {
            found |= wanted(attributes);
            Ok(())
        }) {
            Err(failure) if says_absent(&failure) => Ok(false),
            other => other.map(|_| found),
        }
    }

    /// Reads answers until the end of a listing, or an error's: whether nobody changed anything meanwhile.
    fn listing(&mut self, mut each: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<bool, Failure> {
        let mut whole = true;
        self.answers(|answer| {
            whole &= answer.flags & NLM_F_DUMP_INTR == 0;
            match answer.kind {
                NLMSG_DONE | NLMSG_ERROR => match verdict(answer.flags, answer.payload)? {
                    Some(refusal) => Err(refusal.into()),
                    None => Ok(true),
                },
                _ => each(answer.payload.get(NFGENMSG_LEN..).unwrap_or_default()).map(|()| false),
            }
        })?;
        Ok(whole)
    }

    /// Reads messages until `each` has had enough, or there are no more.
    fn answers(&mut self, mut each: impl FnMut(&Answer<'_>) -> Result<bool, Failure>) -> Result<(), Failure> {
        let mut done = false;
        while !done {
            let Some(mut rest) = self.netfilter.receive()? else { return Ok(()) };
            while let Some((answer, next)) = Answer::split(rest) {
                rest = next;
                // The rest of the datagram still belongs to the same question.
                done = each(&answer)? || done;
            }
        }
        Ok(())
    }
}

/// Whether a question's answer is that there is no such thing. A kernel without nf_tables answers `EINVAL` (`nfnetlink_rcv_msg`
/// in net/netfilter/nfnetlink.c: no such subsystem), one without a family's tables `EAFNOSUPPORT`: then DEL has nothing to do.
fn says_absent(failure: &Failure) -> bool {
    matches!(failure.errno(), Some(Errno::ENOENT | Errno::EINVAL | Errno::EAFNOSUPPORT))
}

/// Why a question was refused.
fn verdict_of(answer: &Answer<'_>) -> Result<Option<Failure>, Failure> {
    let refusal = if answer.kind == NLMSG_ERROR { verdict(answer.flags, answer.payload)? } else { None };
    Ok(refusal.map(Into::into))
}

/// Adds to a refusal where it was.
fn at(refusal: Refusal, place: Option<&str>) -> Refusal {
    let texts: Vec<&str> = place.into_iter().chain(refusal.text.as_deref()).collect();
    Refusal { errno: refusal.errno, text: Some(texts.join(": ")).filter(|text| !text.is_empty()) }
}

/// One message of the kernel.
pub(super) struct Answer<'a> {
    pub(super) kind: u16,
    flags: u16,
    /// The number of the message that it answers.
    sequence: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The first message of a datagram, and what follows it.
    pub(super) fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let flags = u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?);
        let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
        let payload = bytes.get(NLMSG_HEADER_LEN..length)?;
        let next = bytes.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some((Self { kind, flags, sequence, payload }, next))
    }
}

/// Every reader of this module on bytes that nobody checked.
#[cfg(fuzzing)]
pub(crate) fn read_anything(mut bytes: &[u8]) {
    Found::parse(bytes);
    Told::parse(bytes);
    assert!(Element::parse(bytes).count() <= bytes.len());
    while let Some((answer, next)) = Answer::split(bytes) {
        let attributes = answer.payload.get(NFGENMSG_LEN..).unwrap_or_default();
        drop(verdict(answer.flags, answer.payload));
        let found = Found::parse(attributes);
        assert!(
            found.is_none_or(|found| found.comment.len() <= attributes.len() * 3),
            "three bytes for one that is no UTF-8"
        );
        let wanted = Expressions::default();
        assert!(wanted.are(expressions(attributes)) || !expressions(attributes).is_empty());
        bytes = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_split_into_its_messages_and_hostile_lengths_end_it() {
        let mut bytes = vec![18, 0, 0, 0, 2, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0xaa, 0xbb, 0, 0];
        bytes.extend([16, 0, 0, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        let (first, rest) = Answer::split(&bytes).unwrap();
        assert_eq!((first.kind, first.flags, first.sequence, first.payload), (2, 1, 7, &[0xaa, 0xbb][..]));
        let (second, rest) = Answer::split(rest).unwrap();
        assert_eq!((second.kind, second.sequence, rest), (3, 8, &[][..]));
        for length in [0_u32, 15, 37, u32::MAX] {
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(Answer::split(&bytes).is_none(), "{length}");
        }
    }

    #[test]
    fn a_refusal_says_where() {
        let refusal = at(Refusal { errno: Errno::EOPNOTSUPP, text: Some("why".to_owned()) }, Some("table inet t"));
        assert_eq!(refusal.text.as_deref(), Some("table inet t: why"));
        assert_eq!(at(Refusal { errno: Errno::EPERM, text: None }, None).text, None);
    }
}
