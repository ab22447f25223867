//! Multus as an oracle: the same node, definitions and pod, through the Go Multus (thin and thick) and through plexus under
//! Multus' name, against the same API server, must leave the same interfaces, addresses, routes, status and leases. What is
//! intended to differ is in `differences`, by the number of Multus' defect.
//!
//! Each scene plays in an equal test bed for each side. It does not know how either side works. `tests/k8s/oracle` builds what it
//! needs and runs it; elsewhere its cases are listed as ignored.

mod differences;
mod play;
mod scene;
mod scenes;
mod thick;

use std::path::PathBuf;

use crate::case::Case;
use crate::compare::compare;
use crate::kube::server;
use crate::need::Need;
use crate::oracle::table;
use crate::snapshot::Facts;
use scene::Scene;

/// Whose meta-plugin serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    /// The Go Multus, one process for each request.
    Thin,
    /// The Go Multus, a daemon that a shim asks.
    Thick,
    /// plexus, executed under the name of the thin one.
    Plexus,
}

/// The directory of Multus' programs.
///
/// # Errors
/// That they are not there, as a sentence.
pub(crate) fn programs() -> Result<PathBuf, String> {
    let folder = server::programs()?;
    let is_built = ["multus", "multus-shim", "multus-daemon"].iter().all(|name| folder.join(name).is_file());
    if is_built { Ok(folder) } else { Err("the Go Multus is not built: run tests/k8s/build multus".to_owned()) }
}

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let case = |scene: Scene, peer: Meta| {
        let word = if peer == Meta::Thin { "thin" } else { "thick" };
        let name = format!("multus::{word}::{}", scene.name);
        let needs = [Need::Peers, Need::Macvlan, Need::ApiServer, Need::Multus];
        Case::new(name.clone(), &needs, move || same_on_both_sides(&name, &scene, peer))
    };
    let thin = scenes::all().into_iter().map(|scene| case(scene, Meta::Thin));
    let thick = scenes::all().into_iter().filter(|scene| !scene.thin_only).map(|scene| case(scene, Meta::Thick));
    let heir = |scene: Scene| {
        let needs = [Need::Peers, Need::Macvlan, Need::ApiServer, Need::Multus];
        Case::new(format!("takeover::of_the_daemon::{}", scene.name), &needs, move || nothing_of_it_is_left(&scene))
    };
    let heirs = scenes::all().into_iter().filter(|scene| HANDED_OVER.contains(&scene.name)).map(heir);
    thin.chain(thick).chain(heirs).collect()
}

/// What a pod can have of Multus' daemon when plexus takes the node over.
const HANDED_OVER: [&str; 10] = [
    "two",
    "a_chain",
    "names_and_numbers",
    "addresses",
    "a_mac",
    "arguments",
    "the_default_route_moves",
    "another_namespace",
    "default_networks",
    "the_server_is_gone_before_del",
];

/// Multus' daemon attaches and plexus deletes: the node is as after a pod that plexus attached.
fn nothing_of_it_is_left(scene: &Scene) {
    let left = |adds: Meta| {
        let came = play::handed_over(scene, adds, Meta::Plexus);
        let after = came.facts.into_iter().filter(|(path, _)| !path.starts_with("1-") && !path.contains("|status."));
        after.collect::<Facts>()
    };
    let (theirs, ours) = (left(Meta::Thick), left(Meta::Plexus));
    assert_eq!(ours.get("2-del|answer").map(String::as_str), Some("succeeds"));
    assert_eq!(theirs, ours);
}

/// How often the thin one may give up before it counts: it waits a quarter of a second for a pod (D19), on a machine that
/// may be busy.
const ATTEMPTS: usize = 3;

fn same_on_both_sides(name: &str, scene: &Scene, peer: Meta) {
    table::failed(name);
    let mut theirs = play::play(scene, peer);
    for _ in 1..ATTEMPTS {
        if scene.is_slow || !theirs.transcript.contains("error waiting for pod") {
            break;
        }
        theirs = play::play(scene, peer);
    }
    let mut ours = play::play(scene, Meta::Plexus);
    // It answers without waiting for its events, and the thin one ends: one that it did not write in time says nothing.
    ours.facts.retain(|path, _| !path.contains("|event.AddedInterface.") || theirs.facts.contains_key(path));
    match compare(name, &theirs.facts, &ours.facts, differences::DIFFERENCES) {
        Ok(ids) => table::same_asking(name, &ids, &theirs.asked, &ours.asked),
        Err(text) => {
            eprintln!("{}", theirs.transcript);
            eprintln!("{}", ours.transcript);
            panic!("plexus differs from Multus:\n{text}");
        }
    }
}
