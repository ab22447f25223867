//! Rules as a batch of iptables' kind places them: first, last or behind another one, and with an owner that only we see.
//! Knows no chain.

use super::words::TABLE;
use crate::nft::message::{Batch, Family, NEWRULE, NLA_F_NESTED, NLM_F_APPEND, NLM_F_CREATE, NLM_F_ECHO, find};
use crate::nft::rule::{Expressions, expressions, handle};

/// The type of the entry in a rule's user data that names the owner. A comment (type 0) is what iptables would show as
/// `-m comment`: the rule would be another one to `iptables -C` and `-D`. Entries of types that they do not know they pass over,
/// and so does `nft`.
const OWNER_ENTRY: u8 = 0x70;

/// Where in its chain a rule is put.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    First,
    Last,
    /// Behind the rule of this handle.
    Behind(u64),
}

impl Batch {
    /// A rule in the table of iptables. The kernel tells what it made of one with an owner: its handle.
    pub(super) fn put(&mut self, family: Family, chain: &str, at: At, rule: &Expressions, owner: Option<&str>) {
        let place = if matches!(at, At::First) { 0 } else { NLM_F_APPEND };
        let echo = if owner.is_some() { NLM_F_ECHO } else { 0 };
        let flags = NLM_F_CREATE | place | echo;
        self.message(NEWRULE, flags, family, [TABLE, chain], |attributes| {
            attributes.text(2, chain).raw(4 | NLA_F_NESTED, rule.bytes());
            if rule.has_extension() {
                // `NFTA_RULE_COMPAT`: no protocol, no flags.
                attributes.nest(5, |compat| {
                    compat.number(1, 0).number(2, 0);
                });
            }
            if let At::Behind(handle) = at {
                attributes.handle(6, handle);
            }
            if let Some(owner) = owner {
                attributes.raw(7, &entry(owner));
            }
        });
    }
}

/// A type, a length, the text with its NUL.
fn entry(owner: &str) -> Vec<u8> {
    let length = u8::try_from(owner.len() + 1).unwrap_or(u8::MAX);
    [&[OWNER_ENTRY, length], owner.as_bytes(), b"\0"].concat()
}

/// Who is named in a rule's attributes.
pub(super) fn named_in(rule: &[u8]) -> Option<&[u8]> {
    let mut entries = find(rule, 7)?;
    while let [kind, length, rest @ ..] = entries {
        let value = rest.get(..usize::from(*length))?;
        if *kind == OWNER_ENTRY {
            return Some(value.strip_suffix(b"\0").unwrap_or(value));
        }
        entries = rest.get(usize::from(*length)..)?;
    }
    None
}

/// A rule that is there.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) handle: u64,
    pub(super) expressions: Vec<u8>,
}

impl Listed {
    /// Reads a rule's attributes; none where they are of no rule.
    pub(super) fn parse(rule: &[u8]) -> Option<Self> {
        Some(Self { handle: handle(rule)?, expressions: expressions(rule).to_vec() })
    }

    pub(super) fn is(&self, wanted: &Expressions) -> bool {
        wanted.are(&self.expressions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::message::Attributes;

    #[test]
    fn the_owner_is_read_back_and_hostile_entries_name_nobody() {
        let named = |userdata: &[u8]| {
            let mut rule = Attributes::default();
            rule.raw(7, userdata);
            named_in(&rule.bytes).map(<[u8]>::to_vec)
        };
        assert_eq!(named(&entry("whose")).as_deref(), Some(&b"whose"[..]));
        assert_eq!(named(&[&[0, 2, b'x', 0][..], &entry("whose")].concat()).as_deref(), Some(&b"whose"[..]));
        assert_eq!(named(&[0, 2, b'x', 0]), None, "a comment is no owner");
        for hostile in [&[][..], &[OWNER_ENTRY], &[OWNER_ENTRY, 9, b'x'], &[0, 9, b'x', OWNER_ENTRY, 0]] {
            assert_eq!(named(hostile), None, "{hostile:?}");
        }
    }
}
