//! A keeper beside a plugin that does whatever it likes to the folder, with a reader that looks as a runtime does.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::json;

use super::super::{GONE_GRACE, SETTLED};
use super::{Dir, OURS, chosen, network};

/// Numbers that look like chance and are the same every time (Knuth's multiplier).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// One thing that another plugin does to the folder, by chance.
fn hostile(dir: &Path, dice: &mut Dice, is_own_spared: bool) {
    let networks = ["05-cilium.conflist", "10-a.conflist", "10-calico.conflist", "87-podman.conflist"];
    let own = ["00-0-plexus.conflist", "00--plexus.conflist", "0--plexus.conflist"];
    let name = if is_own_spared || dice.roll(3) > 0 { networks[dice.roll(4)] } else { own[dice.roll(3)] };
    let path = dir.join(name);
    let text = network(name.get(3..).unwrap().trim_end_matches(".conflist"));
    let half = &text[..dice.roll(text.len())];
    let _ = match dice.roll(7) {
        0 | 1 => fs::write(&path, &text),
        2 => fs::write(&path, half),
        3 => fs::remove_file(&path),
        4 => fs::rename(&path, dir.join(format!("{name}.cilium_bak"))),
        5 => fs::rename(dir.join(format!("{name}.cilium_bak")), &path),
        _ => fs::rename(&path, dir.join(networks[dice.roll(4)])),
    };
}

#[test]
fn d14_d15_after_each_look_the_runtime_sees_plexus_whatever_others_did() {
    let dir = Dir::new("steps");
    dir.put("10-a.conflist", &network("a"));
    let mut keeper = dir.keeper(&json!({}));
    let mut now = Instant::now();
    keeper.look_at(true, now);
    let mut dice = Dice(7);
    for step in 0..400 {
        for _ in 0..=dice.roll(3) {
            hostile(&dir.0, &mut dice, false);
        }
        now += SETTLED * u32::try_from(dice.roll(9)).unwrap() / 4;
        let told = keeper.look_at(dice.roll(2) == 0, now);
        let (name, network) = dir.runtime().unwrap();
        assert!(
            name.contains("plexus") && network != "not plexus" && network != "?",
            "{step}: {name} {network} {told:?}"
        );
        let again = keeper.look_at(true, now);
        assert!(again.is_empty(), "{step}: nothing is left to do: {again:?} after {told:?}");
    }
}

#[test]
fn d14_at_no_instant_the_runtime_sees_a_node_without_plexus() {
    let dir = Dir::new("instants");
    dir.put("10-a.conflist", &network("a"));
    let mut keeper = dir.keeper(&json!({}));
    keeper.look(true);
    let over = AtomicBool::new(false);
    let (looks, reads) = thread::scope(|scope| {
        let plugin = scope.spawn(|| {
            let mut dice = Dice(11);
            for _ in 0..1000 {
                hostile(&dir.0, &mut dice, true);
            }
            over.store(true, Ordering::Release);
        });
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !over.load(Ordering::Acquire) {
                let seen = chosen(&dir.0);
                assert!(
                    seen.as_ref().is_some_and(|(name, network)| name == OURS && network != "not plexus"),
                    "{seen:?}"
                );
                reads += 1;
            }
            reads
        });
        let mut looks = 0;
        while !plugin.is_finished() {
            keeper.look_at(true, Instant::now() + GONE_GRACE * looks);
            looks += 1;
        }
        (looks, reader.join().unwrap())
    });
    assert!(looks > 0 && reads > 0, "{looks} looks, {reads} reads");
}
