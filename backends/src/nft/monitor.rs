//! What becomes of the packet filter, told by the kernel when it happens (`NFNLGRP_NFTABLES`): only that something was removed from
//! a table that rules of pods are in, or all of firewalld's. It does not know whose it was.

use std::os::fd::{AsFd, BorrowedFd};

use super::message::{DELCHAIN, DELRULE, DELSETELEM, DELTABLE, SUBSYSTEM, find};
use super::socket::{Answer, NFGENMSG_LEN, Socket};
use super::{forward, iptables, masquerade, ports, spoof};
use crate::error::Error;
use crate::netlink::Failure;

/// `NFNLGRP_NFTABLES` (include/uapi/linux/netfilter/nfnetlink.h)
const GROUP: u32 = 7;
/// Room for what is announced while nobody reads, in bytes: some ten thousand rules.
const BUFFER_BYTES: usize = 8 << 20;
/// As many datagrams are read at once: whoever reads has other things to do.
const READ_MAX: usize = 16_384;
/// Where the nftables backend of firewalld has everything: a reload removes the table.
const FIREWALLD: &str = "firewalld";
/// A chain that its iptables backend makes in the table `filter`, and removes with a reload only.
const FIREWALLD_CHAIN: &str = "INPUT_ZONES";
/// How kube-proxy's chains begin: it writes them anew with every change of a service, in the tables of iptables.
const KUBE_PROXY: &[u8] = b"KUBE-";

/// What was taken from the packet filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Something of a table that rules of pods are in, or it may have been.
    pub rules: bool,
    /// All of firewalld's: it loads them anew, and forgets what it was told without `--permanent`.
    pub firewalld: bool,
}

impl std::ops::BitOrAssign for Taken {
    fn bitor_assign(&mut self, other: Self) {
        self.rules |= other.rules;
        self.firewalld |= other.firewalld;
    }
}

/// See the module.
pub struct RuleMonitor(Socket);

impl RuleMonitor {
    /// Listens in the namespace of the calling thread from now on; none on a kernel without netfilter's netlink.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] or [`crate::ErrorKind::Refused`]: no socket, or nobody may listen.
    pub fn open() -> Result<Option<Self>, Error> {
        let failed = |e: Failure| Error::kernel("listen to the packet filter of", "the host", e);
        let Some(mut socket) = Socket::open_if_any().map_err(failed)? else { return Ok(None) };
        socket.netfilter().join(GROUP, BUFFER_BYTES).map_err(failed)?;
        Ok(Some(Self(socket)))
    }

    /// Reads what was announced, without waiting.
    ///
    /// # Errors
    /// As [`RuleMonitor::open`].
    pub fn taken(&mut self) -> Result<Taken, Error> {
        let mut taken = Taken::default();
        for _ in 0..READ_MAX {
            match self.0.netfilter().receive() {
                Ok(Some(datagram)) => taken |= all_of(datagram),
                Ok(None) => break,
                // A reload may be among what was lost; that it was is no reason to tell firewalld anything.
                Err(failure) if failure.is_overrun() => taken.rules = true,
                Err(failure) => return Err(Error::kernel("listen to the packet filter of", "the host", failure)),
            }
        }
        Ok(taken)
    }
}

impl AsFd for RuleMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl std::fmt::Debug for RuleMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuleMonitor").finish_non_exhaustive()
    }
}

/// What the messages of a datagram tell.
fn all_of(mut datagram: &[u8]) -> Taken {
    let mut taken = Taken::default();
    while let Some((message, rest)) = Answer::split(datagram) {
        taken |= of_message(message.kind, message.payload.get(NFGENMSG_LEN..).unwrap_or_default());
        datagram = rest;
    }
    taken
}

fn of_message(kind: u16, attributes: &[u8]) -> Taken {
    let removals = [DELTABLE, DELCHAIN, DELRULE, DELSETELEM].map(|message| SUBSYSTEM << 8 | message);
    // The first attribute of each of them is the table's name; the second of a rule that of its chain, the third of a chain its own.
    let Some(table) = find(attributes, 1).filter(|_| removals.contains(&kind)) else { return Taken::default() };
    let message = kind & 0xff;
    let is = |name: &[u8], text: &str| name.strip_suffix(b"\0").unwrap_or(name) == text.as_bytes();
    let chain = find(attributes, if message == DELCHAIN { 3 } else { 2 }).unwrap_or_default();
    let own = [masquerade::TABLE, ports::TABLE, ports::COMPATIBLE_TABLE];
    let shared = [spoof::TABLE, iptables::TABLE, forward::TABLE];
    let in_shared = shared.into_iter().any(|name| is(table, name));
    Taken {
        rules: own.into_iter().any(|name| is(table, name)) || in_shared && !chain.starts_with(KUBE_PROXY),
        firewalld: message == DELTABLE && is(table, FIREWALLD)
            || message == DELCHAIN && in_shared && is(chain, FIREWALLD_CHAIN),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Attributes, NEWRULE};
    use super::*;

    fn told(message: u16, texts: &[(u16, &str)]) -> Vec<u8> {
        let mut attributes = Attributes::default();
        for (kind, text) in texts {
            attributes.text(*kind, text);
        }
        let length = u32::try_from(20 + attributes.bytes.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend((SUBSYSTEM << 8 | message).to_ne_bytes());
        bytes.extend([0; 14]);
        bytes.extend(attributes.bytes);
        bytes
    }

    #[test]
    fn only_removals_from_tables_of_pods_count_and_reloads_of_firewalld() {
        let (none, rules) = (Taken::default(), Taken { rules: true, firewalld: false });
        let reload = Taken { rules: false, firewalld: true };
        for (message, texts, taken) in [
            (DELRULE, &[(1, masquerade::TABLE), (2, "masq_checks")][..], rules),
            (DELRULE, &[(1, "nat"), (2, "POSTROUTING")][..], rules),
            (DELCHAIN, &[(1, "nat"), (3, "CNI-HOSTPORT")][..], rules),
            (DELSETELEM, &[(1, ports::TABLE), (2, "tcp")][..], rules),
            (DELTABLE, &[(1, "nat")][..], rules),
            (DELTABLE, &[(1, FIREWALLD)][..], reload),
            (DELCHAIN, &[(1, "filter"), (3, FIREWALLD_CHAIN)][..], Taken { rules: true, firewalld: true }),
            (DELRULE, &[(1, FIREWALLD), (2, "filter_INPUT_ZONES")][..], none),
            (NEWRULE, &[(1, masquerade::TABLE)][..], none),
            (DELRULE, &[(1, "nat"), (2, "KUBE-SERVICES")][..], none),
            (DELCHAIN, &[(1, "nat"), (3, "KUBE-SVC-1")][..], none),
            (DELRULE, &[(1, "mine"), (2, "FORWARD")][..], none),
            (DELRULE, &[][..], none),
        ] {
            assert_eq!(all_of(&told(message, texts)), taken, "{message} {texts:?}");
        }
        let both = [told(NEWRULE, &[(1, "nat")]), told(DELTABLE, &[(1, "nat")])].concat();
        assert_eq!(all_of(&both), rules, "the second message of a datagram");
        for end in 0..both.len() {
            all_of(both.get(..end).unwrap());
        }
    }
}
