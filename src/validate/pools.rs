//! Definitions of one CNI name keep their leases in one pool: that keeps copies of a definition from handing out one address
//! twice. Where their ranges or lower devices differ, that is a mistake.

use std::collections::BTreeMap;
use std::path::PathBuf;

use backends::Before;
use serde_json::Value;

use super::definition::list_of;
use super::ground::Ground;
use super::objects::Definition as Found;
use super::{Finding, Level};
use crate::cluster::Name;
use crate::cni::gojson;
use crate::cni::list::{Injection, List};
use crate::config::Config;
use crate::marks::Path;
use crate::native::{self, Around};
use crate::sources::Definition;

/// Two networks that share a pool and should not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Which of the networks, by its index.
    pub index: usize,
    /// The first of that name.
    pub first: usize,
    /// Their CNI name, and what differs, with both values.
    pub what: String,
}

/// The same of definitions: those that share a pool with one before them, and differ from it. Definitions that no ADD would take
/// count for nothing.
pub fn shared_pools(config: &Config, definitions: &[(Name, Definition)]) -> Vec<Shared> {
    let ground = Ground::new(config, definitions.iter().cloned().collect());
    let list = |(name, definition): &(Name, Definition)| {
        let has_config = !definition.config.trim().is_empty();
        has_config.then(|| ground.of_definition(name, definition).ok()).flatten().map(|found| list_of(&found))
    };
    let lists: Vec<Option<List>> = definitions.iter().map(list).collect();
    disagreements(&lists.iter().map(Option::as_ref).collect::<Vec<_>>())
}

/// What a pool is used for.
#[derive(PartialEq, Eq)]
struct Use {
    ranges: String,
    parent: String,
}

/// Those of the networks that share a pool with one before them, and differ from it. A network that keeps no leases in
/// host-local's directory shares nothing.
fn disagreements(lists: &[Option<&List>]) -> Vec<Shared> {
    let mut first: BTreeMap<PathBuf, (usize, Use)> = BTreeMap::new();
    let mut found = Vec::new();
    for (index, list) in lists.iter().enumerate() {
        let Some((list, (directory, own))) = list.and_then(|list| Some((list, use_of(list)?))) else { continue };
        let Some((before, known)) = first.get(&directory) else {
            first.insert(directory, (index, own));
            continue;
        };
        let pairs = [("ranges", &known.ranges, &own.ranges), ("lower device", &known.parent, &own.parent)];
        let differ = pairs.into_iter().filter(|(_, a, b)| a != b);
        let texts: Vec<String> = differ.map(|(what, a, b)| format!("{what} {b} and {a}")).collect();
        if !texts.is_empty() {
            let what = format!(
                "the CNI name {:?}, and so one pool of addresses, but with different {}",
                list.name,
                texts.join(", ")
            );
            found.push(Shared { index, first: *before, what });
        }
    }
    found
}

/// The directory of a network's leases, and what they are for.
fn use_of(list: &List) -> Option<(PathBuf, Use)> {
    list.plugins.iter().find_map(|plugin| {
        let conf = list.inject(plugin, &Injection::default()).object;
        if native::ipam_type(&conf) != "host-local" {
            return None;
        }
        let around = Around {
            network: &list.name,
            version: list.cni_version,
            args: "",
            ifname: "",
            state_dir: std::path::Path::new("/nowhere"),
            before: Before::Nothing,
        };
        let (pool, _) = native::host_local(&conf, &around).ok()?;
        let text = |key: &str| gojson::field(&conf, key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let parent = [text("master"), text("bridge")].into_iter().find(|name| !name.is_empty());
        let parent = parent.unwrap_or_else(|| "none".to_owned());
        Some((pool.directory().to_owned(), Use { ranges: pool.ranges(), parent }))
    })
}

/// The same as findings.
pub(super) fn check(all: &[(&Found, List)]) -> Vec<Finding> {
    let lists: Vec<Option<&List>> = all.iter().map(|(_, list)| Some(list)).collect();
    let finding = |shared: Shared| {
        let (own, list) = all.get(shared.index)?;
        let (other, _) = all.get(shared.first)?;
        let place = own.config.as_ref()?.place_of(&Path::of("name"));
        let what = format!("it shares with {}/{} {}", other.name.0, other.name.1, shared.what);
        let found = own.object.inside(place, "spec.config: name".to_owned(), Level::Error, what);
        Some(Finding { instead: format!("another name, as \"{}-{}\"", own.name.0, list.name), ..found })
    };
    disagreements(&lists).into_iter().filter_map(finding).collect()
}
