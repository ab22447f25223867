//! Mappings in this crate's own tables: looked for, added, checked, by their keys.
//!
//! A key is held by whoever's comment its element has. The kernel refuses a second element of a key, and removes one whatever its
//! comment says: so what is removed was looked at under the same generation.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

use super::super::message::{Batch, Family};
use super::super::set::{Element, Key};
use super::super::socket::Socket;
use super::element::{self, Wanted, near_keys, pod_of, port_key, prefix_of, protocol_of, wanted};
use super::layout::Source;
use super::removal::{erase, owned};
use super::taken::taken;
use super::{Mapping, Ports, Problem, Protocol, layout};
use crate::netlink::Failure;
use crate::nft::Owner;

/// The families, and whether each is IPv6.
pub(super) const FAMILIES: [(Family, bool); 2] = [(Family::Ipv4, false), (Family::Ipv6, true)];
/// How often a change is made anew because anybody changed anything meanwhile: each time somebody else got on.
pub(super) const ATTEMPTS: u32 = 200;

/// Fails where somebody else has one of the ports.
pub(super) fn look(
    socket: &mut Socket,
    mappings: &[Mapping],
    owner: &Owner<'_>,
    families: &[bool],
) -> Result<(), Problem> {
    let (mut keys, mut of) = (Vec::new(), Vec::new());
    for mapping in mappings {
        let found = families.iter().filter_map(|v6| port_key(mapping, *v6));
        keys.extend(found);
        of.resize(keys.len(), mapping);
    }
    let found = socket.find(&keys)?;
    let is_own = element::of(owner);
    let foreign = found.iter().zip(of).find_map(|(found, mapping)| {
        let held = found.as_ref().filter(|found| !is_own(found))?;
        Some(taken(mapping, &held.comment))
    });
    foreign.map_or(Ok(()), |words| Err(Problem::Taken(words)))
}

/// Adds what is not there. First without a look, which the kernel refuses where anything is in the way.
pub(super) fn add(socket: &mut Socket, ports: &Ports<'_>, owner: &Owner<'_>) -> Result<(), Problem> {
    let wanted = wanted(ports, owner);
    let mut is_served = true;
    for (family, sources) in sources(ports) {
        is_served = is_served && layout::look(socket, family)?.serves(&sources);
    }
    if is_served {
        let mut batch = Batch::new();
        write(&mut batch, &wanted);
        match socket.commit(batch) {
            Err(failure) if matches!(failure.errno(), Some(Errno::EEXIST | Errno::ENOENT)) => {}
            other => return other.map_err(Problem::from),
        }
    }
    for _ in 0..ATTEMPTS {
        let generation = generation(socket)?;
        let mut batch = Batch::under(generation);
        for (family, sources) in sources(ports) {
            lay_out(socket, &mut batch, family, &sources)?;
        }
        let missing = missing(socket, &mut batch, &wanted, owner)?;
        write(&mut batch, &missing);
        match socket.commit(batch) {
            Err(failure) if failure.errno() == Some(Errno::ERESTART) => {}
            other => return other.map_err(Problem::from),
        }
    }
    Err(Failure::Interrupted { attempts: ATTEMPTS }.into())
}

fn generation(socket: &mut Socket) -> Result<u32, Failure> {
    socket.sure_generation()
}

/// By what sources are looked up, in the families that the pod has and that anything is mapped in.
fn sources(ports: &Ports<'_>) -> Vec<(Family, Vec<Source>)> {
    let mut all = Vec::new();
    for (family, v6) in FAMILIES {
        let Some(address) = ports.address(v6) else { continue };
        let protocols: BTreeSet<Protocol> =
            ports.mappings.iter().filter(|one| one.place.of(v6).is_some()).map(|one| one.protocol).collect();
        if !protocols.is_empty() {
            let prefix = element::prefix(ports, address);
            all.push((family, protocols.iter().flat_map(|protocol| near(v6, prefix, *protocol)).collect()));
        }
    }
    all
}

/// By the pod's network, and by the host's loopback.
fn near(v6: bool, prefix: Option<u8>, protocol: Protocol) -> impl Iterator<Item = Source> {
    let loopback = prefix.filter(|prefix| !v6 && ![0, 32].contains(prefix)).map(|_| 32);
    prefix.into_iter().chain(loopback).map(move |prefix| Source { prefix, protocol })
}

/// Where rules are gone while elements are still there, these tell by what they are looked up.
fn lay_out(socket: &mut Socket, batch: &mut Batch, family: Family, wanted: &[Source]) -> Result<(), Failure> {
    let found = layout::look(socket, family)?;
    if found.serves(wanted) {
        return Ok(());
    }
    let mut sources: BTreeSet<Source> = wanted.iter().copied().collect();
    for set in [layout::PORTS, layout::ADDRESS_PORTS] {
        for element in socket.elements(family, layout::TABLE, set)? {
            let (v6, prefix) = (family == Family::Ipv6, prefix_of(&element.comment));
            let protocol = protocol_of(&element, v6, set);
            sources.extend(protocol.into_iter().flat_map(|protocol| near(v6, prefix, protocol)));
        }
    }
    let sources: Vec<Source> = sources.into_iter().collect();
    layout::lay_out(batch, family, &found, &sources);
    Ok(())
}

fn write(batch: &mut Batch, wanted: &[Wanted]) {
    let mut by_set: BTreeMap<(Family, &'static str), Vec<Element>> = BTreeMap::new();
    for wanted in wanted {
        by_set.entry((wanted.key.family, wanted.key.set)).or_default().push(wanted.element.clone());
    }
    for ((family, set), elements) in by_set {
        batch.add_elements(family, [layout::TABLE, set], &elements);
    }
}

/// What is not there as it is to be; what is there otherwise goes in the same transaction. A port is its owner's; whose address
/// a pod had before is not asked.
fn missing(
    socket: &mut Socket,
    batch: &mut Batch,
    wanted: &[Wanted],
    owner: &Owner<'_>,
) -> Result<Vec<Wanted>, Problem> {
    let is_own = element::of(owner);
    let keys: Vec<Key> = wanted.iter().map(|wanted| wanted.key.clone()).collect();
    let (mut replaced, mut missing, mut near) = (Vec::new(), Vec::new(), Vec::new());
    for (wanted, found) in wanted.iter().zip(socket.find(&keys)?) {
        match found {
            Some(found) if found == wanted.element => continue,
            Some(found) if wanted.is_port() && !is_own(&found) => {
                return Err(Problem::Taken(taken(&wanted.mapping, &found.comment)));
            }
            Some(found) => {
                replaced.push(wanted.key.clone());
                near.extend(near_of(wanted, &found).into_iter().filter(|key| !keys.contains(key)));
            }
            None => {}
        }
        missing.push(wanted.clone());
    }
    replaced.extend(owned(socket, near, &is_own)?);
    erase(batch, &replaced);
    Ok(missing)
}

/// What is looked up by its source on the way to where a mapping led before.
fn near_of(wanted: &Wanted, before: &Element) -> Vec<Key> {
    let pod = pod_of(before, wanted.key.family == Family::Ipv6).filter(|_| wanted.is_port());
    pod.map_or_else(Vec::new, |pod| near_keys(&wanted.mapping, pod, prefix_of(&before.comment)))
}

/// Whether all mappings of a family are there; what is missing, in words.
pub(super) fn check(
    socket: &mut Socket,
    ports: &Ports<'_>,
    owner: &Owner<'_>,
    v6: bool,
) -> Result<Result<(), String>, Failure> {
    let family = element::family(v6);
    let mut wanted = wanted(ports, owner);
    wanted.retain(|wanted| wanted.key.family == family);
    let keys: Vec<Key> = wanted.iter().map(|wanted| wanted.key.clone()).collect();
    let found = socket.find(&keys)?;
    let same = |(wanted, found): &(&Wanted, &Option<Element>)| found.as_ref() == Some(&wanted.element);
    let place = format!("table {} {}", if v6 { "ip6" } else { "ip" }, layout::TABLE);
    let there = wanted.iter().zip(&found).filter(same).count();
    if there < wanted.len() {
        let text = format!("{there} of {} elements for mapped ports of {} are in {place}", wanted.len(), owner.ifname);
        return Ok(Err(text));
    }
    for (of, sources) in sources(ports).into_iter().filter(|(of, _)| *of == family) {
        if !layout::look(socket, of)?.serves(&sources) || !layout::is_led_to(socket, of)? {
            return Ok(Err(format!("nothing leads to the mapped ports in {place}")));
        }
    }
    Ok(Ok(()))
}
