//! Definitions of one CNI name keep their leases in one pool: that keeps copies of a definition from handing out one address
//! twice. Where their ranges or lower devices differ, that is a mistake.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backends::Before;
use serde_json::Value;

use super::objects::Definition;
use super::{Finding, Level};
use crate::cni::gojson;
use crate::cni::list::{Injection, List};
use crate::native::{self, Around};

/// Two networks that share a pool and should not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Their CNI name.
    pub name: String,
    /// Which of the networks, by its index.
    pub index: usize,
    /// The first of that name.
    pub first: usize,
    /// What differs, with both values.
    pub differs: String,
}

/// What a pool is used for.
#[derive(PartialEq, Eq)]
struct Use {
    ranges: String,
    parent: String,
}

/// Those of the networks that share a pool with one before them, and differ from it. A network that keeps no leases in
/// host-local's directory shares nothing.
pub fn disagreements(lists: &[&List]) -> Vec<Shared> {
    let mut first: BTreeMap<PathBuf, (usize, Use)> = BTreeMap::new();
    let mut found = Vec::new();
    for (index, list) in lists.iter().enumerate() {
        let Some((directory, own)) = use_of(list) else { continue };
        let Some((before, known)) = first.get(&directory) else {
            first.insert(directory, (index, own));
            continue;
        };
        let pairs = [("ranges", &known.ranges, &own.ranges), ("lower device", &known.parent, &own.parent)];
        let differ = pairs.into_iter().filter(|(_, a, b)| a != b);
        let texts: Vec<String> = differ.map(|(what, a, b)| format!("{what} {b} and {a}")).collect();
        if !texts.is_empty() {
            let differs = texts.join(", ");
            found.push(Shared { name: list.name.clone(), index, first: *before, differs });
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
            state_dir: Path::new("/nowhere"),
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
pub(super) fn check(all: &[(&Definition, List)]) -> Vec<Finding> {
    let lists: Vec<&List> = all.iter().map(|(_, list)| list).collect();
    let finding = |shared: Shared| {
        let (own, _) = all.get(shared.index)?;
        let (other, _) = all.get(shared.first)?;
        let config = own.config.as_ref()?;
        let path = crate::marks::Path::of("name");
        let what = format!(
            "the CNI name {:?} is that of {}/{} too, so both give out addresses from one pool, but with different {}",
            shared.name, other.name.0, other.name.1, shared.differs
        );
        let place = config.place_of(&path);
        let found = own.object.inside(place, "spec.config: name".to_owned(), Level::Error, what);
        Some(Finding { instead: format!("another name, as \"{}-{}\"", own.name.0, shared.name), ..found })
    };
    disagreements(&lists).into_iter().filter_map(finding).collect()
}
