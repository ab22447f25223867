//! Removal of mappings from this crate's own tables: by their keys where they are known, else by what their comments tell.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

use super::super::message::{Batch, Family};
use super::super::set::{Element, Key};
use super::super::socket::Socket;
use super::element::{self, near_keys, pod_of, port_key, prefix_of, without_prefix};
use super::own::{ATTEMPTS, FAMILIES};
use super::{MAPPINGS_AT_ONCE, Mapping, layout};
use crate::netlink::Failure;
use crate::nft::Owner;

/// Elements that one transaction removes at most.
const REMOVED_AT_ONCE: usize = 160;

/// Removes an owner's mappings: by their keys where they are known and there, else by the comments of all.
pub(super) fn remove(
    socket: &mut Socket,
    known: Option<&[Mapping]>,
    owner: &Owner<'_>,
    has: [bool; 2],
) -> Result<(), Failure> {
    let is_whole = match known {
        Some(mappings) => remove_known(socket, mappings, owner, has)?,
        None => false,
    };
    if is_whole { Ok(()) } else { remove_where(socket, element::of(owner)) }
}

/// Removes these mappings of an owner, and tells whether all were there. `has`: whether the pod is known to have addresses of IPv4, and of
/// IPv6.
pub(super) fn remove_known(
    socket: &mut Socket,
    known: &[Mapping],
    owner: &Owner<'_>,
    has: [bool; 2],
) -> Result<bool, Failure> {
    let mut is_whole = true;
    for mappings in known.chunks(MAPPINGS_AT_ONCE) {
        let mut found = [Presence::default(); 2];
        erase_under_generation(socket, |socket| {
            let (presence, keys) = keys_of(socket, mappings, owner)?;
            found = presence;
            Ok(keys)
        })?;
        // A pod without one family has no mapping in it at all.
        let whole = |presence: &Presence| presence.found == presence.wanted;
        let fits = |(presence, has): (&Presence, bool)| whole(presence) || presence.found == 0 && !has;
        is_whole &=
            found.iter().zip(has).all(fits) && found.iter().any(|presence| whole(presence) && presence.wanted > 0);
    }
    Ok(is_whole)
}

/// How many ports of a family are the owner's.
#[derive(Debug, Clone, Copy, Default)]
struct Presence {
    wanted: usize,
    found: usize,
}

/// The keys of an owner's elements for these mappings, and how many ports each family has of them.
fn keys_of(socket: &mut Socket, mappings: &[Mapping], owner: &Owner<'_>) -> Result<([Presence; 2], Vec<Key>), Failure> {
    let mut presence = [Presence::default(); 2];
    let mut asked = Vec::new();
    for ((_, v6), presence) in FAMILIES.iter().zip(&mut presence) {
        let keys = mappings.iter().filter_map(|mapping| Some((port_key(mapping, *v6)?, mapping, *v6)));
        let before = asked.len();
        asked.extend(keys);
        presence.wanted = asked.len() - before;
    }
    let keys: Vec<Key> = asked.iter().map(|(key, ..)| key.clone()).collect();
    let is_own = element::of(owner);
    let (mut own, mut near) = (Vec::new(), Vec::new());
    for ((key, mapping, v6), found) in asked.into_iter().zip(socket.find(&keys)?) {
        let Some(found) = found.filter(&is_own) else { continue };
        if let Some(pod) = pod_of(&found, v6) {
            near.extend(near_keys(mapping, pod, prefix_of(&found.comment)));
        }
        if let Some(presence) = presence.get_mut(usize::from(v6)) {
            presence.found += 1;
        }
        own.push(key);
    }
    own.extend(owned(socket, near, &is_own)?);
    own.sort();
    own.dedup();
    Ok((presence, own))
}

/// Removes what `look` finds, under the generation of its look.
fn erase_under_generation(
    socket: &mut Socket,
    mut look: impl FnMut(&mut Socket) -> Result<Vec<Key>, Failure>,
) -> Result<(), Failure> {
    for _ in 0..ATTEMPTS {
        let Some(generation) = socket.generation()? else { return Ok(()) };
        let keys = look(socket)?;
        let mut batch = Batch::under(generation);
        erase(&mut batch, &keys);
        match socket.commit(batch) {
            Err(failure) if failure.errno() == Some(Errno::ERESTART) => {}
            other => return other,
        }
    }
    Err(Failure::Interrupted { attempts: ATTEMPTS })
}

/// Removes all elements like this: listed first, and looked at again by their keys, for a long listing is never left alone.
pub(in crate::nft) fn remove_where(socket: &mut Socket, is_meant: impl Fn(&Element) -> bool) -> Result<(), Failure> {
    let mut keys = Vec::new();
    for ((family, _), set) in FAMILIES.iter().flat_map(|family| layout::SETS.map(|set| (family, set))) {
        let elements = socket.elements(*family, layout::TABLE, set)?.into_iter().filter(&is_meant);
        keys.extend(elements.map(|element| Key { family: *family, table: layout::TABLE, set, bytes: element.key }));
    }
    // What belongs to a port goes before it: the port leads to it.
    keys.sort_by_key(|key| key.set != layout::NEAR);
    keys.chunks(REMOVED_AT_ONCE)
        .try_for_each(|some| erase_under_generation(socket, |socket| owned(socket, some.to_vec(), &is_meant)))
}

/// The comments of all elements, the same for all of an owner, each once.
pub(in crate::nft) fn comments(socket: &mut Socket) -> Result<BTreeSet<String>, Failure> {
    let mut all = BTreeSet::new();
    for ((family, _), set) in FAMILIES.iter().flat_map(|family| layout::SETS.map(|set| (family, set))) {
        let elements = socket.elements(*family, layout::TABLE, set)?;
        all.extend(elements.iter().map(|element| without_prefix(&element.comment)));
    }
    Ok(all)
}

/// Those of these keys that are there and the owner's, each once.
pub(super) fn owned(
    socket: &mut Socket,
    mut keys: Vec<Key>,
    is_own: &impl Fn(&Element) -> bool,
) -> Result<Vec<Key>, Failure> {
    keys.sort();
    keys.dedup();
    let found = socket.find(&keys)?;
    let there = keys.into_iter().zip(found).filter(|(_, found)| found.as_ref().is_some_and(is_own));
    Ok(there.map(|(key, _)| key).collect())
}

/// Removes elements by their keys.
pub(super) fn erase(batch: &mut Batch, keys: &[Key]) {
    let mut by_set: BTreeMap<(Family, &'static str), Vec<Vec<u8>>> = BTreeMap::new();
    for key in keys {
        by_set.entry((key.family, key.set)).or_default().push(key.bytes.clone());
    }
    for ((family, set), keys) in by_set {
        batch.delete_elements(family, [layout::TABLE, set], &keys);
    }
}
