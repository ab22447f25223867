//! The tables in which mappings are: their sets, chains and rules, which all pods share. Nothing in them grows with the pods but
//! the sets. Knows no element.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::super::message::{Base, Batch, Family};
use super::super::rule::{Expressions, Verdict};
use super::super::set::Field::{self, Port, V4, V6};
use super::super::set::Set;
use super::super::socket::Socket;
use super::Protocol;
use crate::netlink::Failure;

pub(in crate::nft) const TABLE: &str = "plexus_portmap";
const TABLE_COMMENT: &str = "ports of this host that lead to pods";
/// By protocol and port: what leads to a pod at all addresses of the host.
pub(super) const PORTS: &str = "ports";
/// As [`PORTS`], at one address of the host.
pub(super) const ADDRESS_PORTS: &str = "address_ports";
/// By source network, pod, protocol and the host's port: what gets the host's address as its source.
pub(super) const NEAR: &str = "near";
/// All of them.
pub(super) const SETS: [&str; 3] = [ADDRESS_PORTS, PORTS, NEAR];

const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const TO_PODS: &str = "to_pods";
const POSTROUTING: &str = "postrouting";
/// `NF_INET_PRE_ROUTING` and `NF_INET_LOCAL_OUT` at `NF_IP_PRI_NAT_DST`, `NF_INET_POST_ROUTING` at `NF_IP_PRI_NAT_SRC`.
const BASES: [(&str, Base); 3] = [
    (PREROUTING, Base { kind: "nat", hook: 0, priority: -100, policy: None }),
    (OUTPUT, Base { kind: "nat", hook: 3, priority: -100, policy: None }),
    (POSTROUTING, Base { kind: "nat", hook: 4, priority: 100, policy: None }),
];

/// The key and value fields of the sets, in the order of [`SETS`].
type Fields = (&'static [Field], Option<&'static [Field]>);
const FIELDS_V4: [Fields; 3] = [
    (&[V4, Field::Protocol, Port], Some(&[V4, Port])),
    (&[Field::Protocol, Port], Some(&[V4, Port])),
    (&[V4, V4, Field::Protocol, Port], None),
];
const FIELDS_V6: [Fields; 3] = [
    (&[V6, Field::Protocol, Port], Some(&[V6, Port])),
    (&[Field::Protocol, Port], Some(&[V6, Port])),
    (&[V6, V6, Field::Protocol, Port], None),
];

/// What packets come by. Only those to an address of the host itself: any other destination is somebody else's
/// (CVE-2025-67499). One address of the host goes before all.
fn leading(family: Family) -> [(&'static str, Vec<Expressions>); 3] {
    let v6 = family == Family::Ipv6;
    let width = if v6 { 4 } else { 1 };
    let to_host = || vec![Expressions::default().for_host().verdict(Verdict::Goto(TO_PODS))];
    let at_address = Expressions::default().load_destination(v6, 0).load_protocol(width).load_port(width + 1);
    let anywhere = Expressions::default().load_protocol(0).load_port(1);
    let to_pods = vec![
        at_address.mapped(ADDRESS_PORTS).redirect_as_mapped(family),
        anywhere.mapped(PORTS).redirect_as_mapped(family),
    ];
    [(PREROUTING, to_host()), (OUTPUT, to_host()), (TO_PODS, to_pods)]
}

/// By what sources near a pod are looked up: the length of their network, and the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    pub(super) prefix: u8,
    pub(super) protocol: Protocol,
}

impl Source {
    /// A connection that came for a port of the host, from a network near the pod.
    ///
    /// The protocol is compared before it is looked up: only so can nft load what it lists of the port after it. The port tells
    /// ways to the same pod apart that others made: those keep their source.
    fn masquerade(self, family: Family) -> Expressions {
        let v6 = family == Family::Ipv6;
        let width = if v6 { 4 } else { 1 };
        let any: IpAddr = if v6 { [0; 16].into() } else { [0; 4].into() };
        let network = IpNetwork::new(any, self.prefix).ok().filter(|_| self.prefix < if v6 { 128 } else { 32 });
        let chosen = Expressions::default().of_protocol(self.protocol.number()).redirected();
        let loaded = chosen.load_source(v6, network.map(|network| network.mask())).load_destination(v6, width);
        loaded.load_protocol(2 * width).load_first_port(2 * width + 1).found_in(NEAR).masquerade()
    }

    fn comment(self) -> String {
        format!("/{} {}", self.prefix, self.protocol.name())
    }

    /// The one that a comment tells.
    fn of(comment: &str) -> Option<Self> {
        let (prefix, protocol) = comment.strip_prefix('/')?.split_once(' ')?;
        Some(Self { prefix: prefix.parse().ok()?, protocol: Protocol::of(protocol)? })
    }
}

/// What of it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// All that depends on no source, and nothing else.
    pub(super) is_complete: bool,
    pub(super) sources: Vec<Source>,
}

impl Found {
    /// Whether it needs no change.
    pub(super) fn serves(&self, sources: &[Source]) -> bool {
        self.is_complete && sources.iter().all(|source| self.sources.contains(source))
    }
}

/// Looks, by one question. Chains and sets are there where the rules are that refer to them.
pub(super) fn look(socket: &mut Socket, family: Family) -> Result<Found, Failure> {
    let rules = socket.rules_of_table(family, TABLE)?;
    let of = |chain: &'static str| rules.iter().filter(move |rule| rule.chain == chain);
    let is_same = |(chain, wanted): (&'static str, Vec<Expressions>)| {
        of(chain).count() == wanted.len()
            && of(chain).zip(&wanted).all(|(there, wanted)| wanted.are(&there.expressions))
    };
    let mut sources = Vec::new();
    for rule in of(POSTROUTING) {
        sources.extend(Source::of(&rule.comment).filter(|source| source.masquerade(family).are(&rule.expressions)));
    }
    let is_complete = leading(family).into_iter().all(is_same) && sources.len() == of(POSTROUTING).count();
    Ok(Found { is_complete, sources })
}

/// Makes what is not there: everything, or only what looks up other sources too. `wanted` are then all of them.
pub(super) fn lay_out(batch: &mut Batch, family: Family, found: &Found, wanted: &[Source]) {
    let masquerade = |batch: &mut Batch, source: Source| {
        batch.rule(family, [TABLE, POSTROUTING], &source.masquerade(family), Some(&source.comment()));
    };
    if found.is_complete {
        wanted.iter().filter(|source| !found.sources.contains(source)).for_each(|source| masquerade(batch, *source));
        return;
    }
    batch.table(family, TABLE, Some(TABLE_COMMENT));
    let fields = if family == Family::Ipv6 { FIELDS_V6 } else { FIELDS_V4 };
    let first = if family == Family::Ipv6 { 10 } else { 1 };
    for ((id, name), (key, value)) in (first..).zip(SETS).zip(fields) {
        batch.set(family, TABLE, &Set { name, key, value }, id);
    }
    for (name, base) in &BASES {
        batch.base_chain(family, TABLE, name, base);
    }
    batch.chain(family, TABLE, TO_PODS, |_| {});
    for (chain, rules) in leading(family) {
        batch.flush(family, TABLE, chain);
        rules.iter().for_each(|rule| batch.rule(family, [TABLE, chain], rule, None));
    }
    batch.flush(family, TABLE, POSTROUTING);
    wanted.iter().for_each(|source| masquerade(batch, *source));
}

/// Whether packets come by the chains, in their order.
pub(super) fn is_led_to(socket: &mut Socket, family: Family) -> Result<bool, Failure> {
    for (chain, base) in &BASES {
        if !socket.has_base_chain(family, [TABLE, chain], base)? {
            return Ok(false);
        }
    }
    Ok(true)
}
