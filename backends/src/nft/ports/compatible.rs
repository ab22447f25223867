//! The reference plugin's own tables for mapped ports (its nftables backend, 1.9.1): a rule for each mapping, whose comment is the
//! container id and nothing else. Made where asked for, so that its DEL and CHECK work; removed wherever they are left.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::super::message::{Base, Batch, Family, each, find};
use super::super::rule::{Expressions, Told, Verdict, compared, jump, text};
use super::super::socket::Socket;
use super::element::family;
use super::own::FAMILIES;
use super::taken::taken_by_container;
use super::{Mapping, Ports, Problem, Snat};
use crate::netlink::Failure;
use crate::nft::Owner;

pub(in crate::nft) const TABLE: &str = "cni_hostport";
const TABLE_COMMENT: &str = "CNI portmap plugin";
const PORTS: &str = "hostports";
/// Older releases' rules for one address of the host; led to, and empty.
const ADDRESS_PORTS: &str = "hostip_hostports";
const ALL: &str = "hostports_all";
const MASQUERADING: &str = "masquerading";
/// Those with rules of containers.
const CHAINS: [&str; 3] = [PORTS, ADDRESS_PORTS, MASQUERADING];
const REDIRECTING: [(&str, Base); 2] = [
    ("prerouting", Base { kind: "nat", hook: 0, priority: -100, policy: None }),
    ("output", Base { kind: "nat", hook: 3, priority: -100, policy: None }),
];
const BASE: Base = Base { kind: "nat", hook: 4, priority: 100, policy: None };

/// What packets come by.
fn leading() -> [(&'static str, Vec<Expressions>); 3] {
    let jump = |chain| Expressions::default().verdict(Verdict::Jump(chain));
    let to_host = || vec![Expressions::default().for_host().verdict(Verdict::Jump(ALL))];
    let [(prerouting, _), (output, _)] = REDIRECTING;
    [(ALL, vec![jump(ADDRESS_PORTS), jump(PORTS)]), (prerouting, to_host()), (output, to_host())]
}

/// What a mapping's rule compares with, in its order; none: not in this family.
fn compared_by(mapping: &Mapping, v6: bool) -> Option<Vec<Vec<u8>>> {
    let address = mapping.place.of(v6)?.map(octets);
    let port = mapping.host_port.to_be_bytes().to_vec();
    Some(address.into_iter().chain([vec![mapping.protocol.number()], port]).collect())
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Whether a rule can be that of a mapping.
fn holds_port(rule: &Told) -> bool {
    rule.chain == PORTS || rule.chain == ADDRESS_PORTS
}

/// The pod's address and port that a rule leads to.
fn target(expressions: &[u8]) -> Vec<Vec<u8>> {
    let value = |(_, element)| {
        let is_immediate = find(element, 1).is_some_and(|name| text(name) == "immediate");
        find(find(find(element, 2).filter(|_| is_immediate)?, 2)?, 1).map(<[u8]>::to_vec)
    };
    each(expressions).filter_map(value).collect()
}

fn target_of(mapping: &Mapping, address: IpNetwork) -> Vec<Vec<u8>> {
    vec![octets(address.ip()), mapping.container_port.to_be_bytes().to_vec()]
}

/// Fails where another container has one of the ports.
pub(super) fn look(
    socket: &mut Socket,
    mappings: &[Mapping],
    owner: &Owner<'_>,
    families: &[bool],
) -> Result<(), Problem> {
    for v6 in families {
        let rules = socket.rules_of_table(family(*v6), TABLE)?;
        let others = rules.iter().filter(|rule| holds_port(rule) && rule.comment != owner.sandbox);
        let others: Vec<(Vec<Vec<u8>>, &str)> =
            others.map(|rule| (compared(&rule.expressions), rule.comment.as_str())).collect();
        for mapping in mappings {
            let own = compared_by(mapping, *v6);
            if let Some((_, container)) = others.iter().find(|(values, _)| Some(values) == own.as_ref()) {
                return Err(Problem::Taken(taken_by_container(mapping, container)));
            }
        }
    }
    Ok(())
}

/// Adds rules that are not there. One of the container for the same port and another target is replaced.
pub(super) fn add(socket: &mut Socket, ports: &Ports<'_>, owner: &Owner<'_>) -> Result<(), Problem> {
    let families: Vec<bool> = ports.addresses.iter().map(IpNetwork::is_ipv6).collect();
    look(socket, ports.mappings, owner, &families)?;
    socket.change(|socket, batch| {
        for address in ports.addresses {
            let rules = socket.rules_of_table(family(address.is_ipv6()), TABLE)?;
            lay_out(batch, family(address.is_ipv6()), ports.snat, &rules);
            add_mappings(batch, ports, *address, owner.sandbox, &rules);
            add_masquerade(batch, ports.snat, *address, owner.sandbox, &rules);
        }
        Ok(())
    })?;
    Ok(())
}

/// What is there already is not written again: whoever removes anything waits when it closes its socket.
fn lay_out(batch: &mut Batch, family: Family, snat: Snat, rules: &[Told]) {
    batch.table(family, TABLE, Some(TABLE_COMMENT));
    for chain in [PORTS, ADDRESS_PORTS, ALL] {
        batch.chain(family, TABLE, chain, |_| {});
    }
    for (chain, base) in &REDIRECTING {
        batch.base_chain(family, TABLE, chain, base);
    }
    if snat != Snat::Never {
        batch.base_chain(family, TABLE, MASQUERADING, &BASE);
    }
    for (chain, wanted) in leading() {
        let there = || rules.iter().filter(|rule| rule.chain == chain);
        let is_same = there().zip(&wanted).all(|(there, wanted)| wanted.are(&there.expressions));
        if !is_same || there().count() != wanted.len() {
            batch.flush(family, TABLE, chain);
            wanted.iter().for_each(|rule| batch.rule(family, [TABLE, chain], rule, None));
        }
    }
}

fn add_mappings(batch: &mut Batch, ports: &Ports<'_>, address: IpNetwork, sandbox: &str, rules: &[Told]) {
    let (v6, family) = (address.is_ipv6(), family(address.is_ipv6()));
    for mapping in ports.mappings {
        let Some(values) = compared_by(mapping, v6) else { continue };
        let is_own =
            |rule: &&Told| holds_port(rule) && rule.comment == sandbox && compared(&rule.expressions) == values;
        let wanted = target_of(mapping, address);
        let (same, others): (Vec<_>, Vec<_>) =
            rules.iter().filter(is_own).partition(|rule| target(&rule.expressions) == wanted);
        for rule in others {
            batch.delete_rule(family, [TABLE, &rule.chain], rule.handle);
        }
        if same.is_empty() {
            let at_host = match mapping.place.of(v6).flatten() {
                Some(ip) => Expressions::default().with_destination(ip),
                None => Expressions::default(),
            };
            let matched = at_host.of_protocol(mapping.protocol.number()).at_port(mapping.host_port);
            let rule = matched.redirect(family, address.ip(), mapping.container_port);
            batch.rule(family, [TABLE, PORTS], &rule, Some(sandbox));
        }
    }
}

/// Of what comes from the pod itself and from the host's loopback, or of everything. The release 1.9.1 has no rule for the
/// last, and its CHECK counts the others.
fn add_masquerade(batch: &mut Batch, snat: Snat, address: IpNetwork, sandbox: &str, rules: &[Told]) {
    let family = family(address.is_ipv6());
    let to_pod = |rule: Expressions| rule.with_destination(address.ip()).masquerade();
    let sources = [Some(address.ip()), address.is_ipv4().then_some([127, 0, 0, 1].into())];
    let mut wanted: Vec<Expressions> =
        sources.into_iter().flatten().map(|ip| to_pod(Expressions::default().with_source(ip))).collect();
    match snat {
        Snat::Never => wanted.clear(),
        Snat::Near => {}
        Snat::All => wanted.push(to_pod(Expressions::default())),
    }
    for rule in wanted {
        let is_same =
            |there: &Told| there.chain == MASQUERADING && there.comment == sandbox && rule.are(&there.expressions);
        if !rules.iter().any(is_same) {
            batch.rule(family, [TABLE, MASQUERADING], &rule, Some(sandbox));
        }
    }
}

/// Removes a container's rules: those of the known mappings, or all. The comment does not tell the network, and another network
/// of the container keeps its own.
pub(super) fn remove(
    socket: &mut Socket,
    batch: &mut Batch,
    known: Option<&[Mapping]>,
    sandbox: &str,
) -> Result<(), Failure> {
    for (family, v6) in FAMILIES {
        let mut rules = socket.rules_of_table(family, TABLE)?;
        rules.retain(|rule| rule.comment == sandbox && CHAINS.contains(&rule.chain.as_str()));
        let meant: Option<Vec<_>> = known.map(|all| all.iter().filter_map(|one| compared_by(one, v6)).collect());
        let is_meant = |rule: &&Told| meant.as_ref().is_none_or(|meant| meant.contains(&compared(&rule.expressions)));
        let (ports, masquerades): (Vec<&Told>, Vec<&Told>) = rules.iter().partition(|rule| holds_port(rule));
        let (doomed, kept): (Vec<&Told>, Vec<&Told>) = ports.into_iter().partition(is_meant);
        let pods: Vec<Vec<u8>> = kept.iter().filter_map(|rule| target(&rule.expressions).into_iter().next()).collect();
        // The last value of a masquerade rule is the pod.
        let is_of_kept = |rule: &&&Told| compared(&rule.expressions).last().is_some_and(|pod| pods.contains(pod));
        for rule in doomed.into_iter().chain(masquerades.iter().filter(|rule| !is_of_kept(rule)).copied()) {
            batch.delete_rule(family, [TABLE, &rule.chain], rule.handle);
        }
    }
    Ok(())
}

/// Whether all mappings of a family have their rule, and packets come by it.
pub(super) fn is_there(socket: &mut Socket, ports: &Ports<'_>, owner: &Owner<'_>, v6: bool) -> Result<bool, Failure> {
    let Some(address) = ports.address(v6) else { return Ok(true) };
    let rules = socket.rules_of_table(family(v6), TABLE)?;
    let leads = |(chain, _): &(&str, Base)| {
        rules.iter().any(|rule| rule.chain == *chain && jump(&rule.expressions).is_some_and(|to| to == ALL))
    };
    let has_rule = |mapping: &Mapping| {
        let Some(values) = compared_by(mapping, v6) else { return true };
        let wanted = target_of(mapping, address);
        rules.iter().any(|rule| {
            holds_port(rule)
                && rule.comment == owner.sandbox
                && compared(&rule.expressions) == values
                && target(&rule.expressions) == wanted
        })
    };
    Ok(REDIRECTING.iter().all(leads) && ports.mappings.iter().all(has_rule))
}

/// The containers of all rules.
pub(in crate::nft) fn containers(socket: &mut Socket) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for (family, _) in FAMILIES {
        all.extend(socket.rules_of_table(family, TABLE)?.into_iter().filter(is_container_s).map(|rule| rule.comment));
    }
    Ok(all)
}

/// Removes all rules of these containers.
pub(in crate::nft) fn remove_containers(
    socket: &mut Socket,
    batch: &mut Batch,
    sandboxes: &[&str],
) -> Result<(), Failure> {
    for (family, _) in FAMILIES {
        for rule in socket.rules_of_table(family, TABLE)?.iter().filter(|rule| is_container_s(rule)) {
            if sandboxes.contains(&rule.comment.as_str()) {
                batch.delete_rule(family, [TABLE, &rule.chain], rule.handle);
            }
        }
    }
    Ok(())
}

fn is_container_s(rule: &Told) -> bool {
    !rule.comment.is_empty() && CHAINS.contains(&rule.chain.as_str())
}
