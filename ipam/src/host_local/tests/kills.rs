//! A call that is killed after any of its steps: the next ones find everything right.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::trust::behind_its_back;
use super::*;
use crate::fault::{Killed, kill_at};

/// More steps than any of these calls has.
const MAX_STEPS: u32 = 2000;

/// Runs the call and kills it after so many steps; whether it was killed.
pub(super) fn killed_after(steps: u32, call: impl FnOnce()) -> bool {
    kill_at(Some(steps));
    let end = catch_unwind(AssertUnwindSafe(call));
    kill_at(None);
    match end {
        Ok(()) => false,
        Err(payload) => {
            assert!(payload.is::<Killed>(), "a panic of another kind");
            true
        }
    }
}

/// Kills the call after every step in turn, on a new ground each time. Afterwards `victim` is deleted, and every
/// address that is then free can be had once.
fn killed_everywhere(prepare: impl Fn(&Ground, &Pool), call: impl Fn(&Pool), set_back: bool) {
    let section =
        json!({ "ranges": [[{ "subnet": "10.0.0.0/28" }], [{ "subnet": "fd00::/64", "rangeEnd": "fd00::e" }]] });
    for steps in 0..MAX_STEPS {
        let ground = Ground::new();
        let pool = ground.pool(&section);
        prepare(&ground, &pool);
        let others = |ground: &Ground| {
            let mut leases = ground.leases();
            leases.retain(|_, content| !content.is_empty() && !content.starts_with("victim"));
            leases
        };
        let before = others(&ground);
        let empty = |ground: &Ground| {
            let leases = ground.leases().into_iter().filter(|(_, content)| content.is_empty());
            leases.map(|(name, _)| name).collect::<Vec<_>>()
        };
        let empty_before = empty(&ground);
        let killed = if set_back && ground.dir().exists() {
            behind_its_back(&ground.dir(), || killed_after(steps, || call(&pool)))
        } else {
            killed_after(steps, || call(&pool))
        };
        for (name, content) in ground.leases() {
            assert!(
                content.is_empty() || before.get(&name) == Some(&content) || content == "victim\r\neth0",
                "{name}: {content}"
            );
        }
        assert_eq!(others(&ground), before, "killed after {steps} steps");
        // A lease is written before it has a name: none is ever left empty.
        assert!(empty(&ground).iter().all(|name| empty_before.contains(name)), "killed after {steps} steps");
        pool.del(&owner("victim")).unwrap();
        let mut files = ground.leases();
        files.retain(|_, content| !content.is_empty());
        assert_eq!(files, before);
        let free = 13 - before.len() / 2;
        for nth in 0..free {
            let got = pool.add(&owner(&format!("n{nth}")));
            assert!(got.is_ok(), "killed after {steps} steps, {nth}: {got:?}");
        }
        assert_eq!(pool.add(&owner("more")).unwrap_err().kind(), ErrorKind::Exhausted);
        if !killed {
            assert!(steps > 3);
            return;
        }
    }
    panic!("the call does not end");
}

fn some(pool: &Pool, count: u32) {
    for nth in 0..count {
        pool.add(&owner(&format!("s{nth}"))).unwrap();
    }
}

#[test]
fn the_first_add() {
    killed_everywhere(|_, _| (), |pool| _ = pool.add(&owner("victim")), false);
}

#[test]
fn an_add() {
    for set_back in [false, true] {
        killed_everywhere(|_, pool| some(pool, 5), |pool| _ = pool.add(&owner("victim")), set_back);
    }
}

#[test]
fn an_add_that_reclaims_an_empty_file() {
    let prepare = |ground: &Ground, pool: &Pool| {
        some(pool, 2);
        ground.put("10.0.0.4", "");
    };
    killed_everywhere(prepare, |pool| _ = pool.add(&owner("victim")), false);
}

#[test]
fn an_add_that_fails_in_the_second_set() {
    let prepare = |ground: &Ground, pool: &Pool| {
        some(pool, 3);
        ground.put("fd00::9", "victim\r\neth1");
    };
    let call = |pool: &Pool| {
        let asked = Pool { requested: vec![number("fd00::9".parse().unwrap())], ..pool.clone() };
        assert_eq!(asked.add(&owner("victim")).unwrap_err().kind(), ErrorKind::Unavailable("fd00::9".parse().unwrap()));
    };
    killed_everywhere(
        |ground, pool| {
            prepare(ground, pool);
            fs::rename(ground.dir().join("fd00::9"), ground.dir().join("fd00::1")).unwrap();
            ground.put("fd00::9", "s0\r\nother");
            ground.put("10.0.0.1", "s0\r\nother");
            fs::remove_file(ground.dir().join("fd00::1")).unwrap();
        },
        call,
        false,
    );
}

#[test]
fn a_del() {
    let prepare = |_: &Ground, pool: &Pool| {
        some(pool, 4);
        pool.add(&owner("victim")).unwrap();
    };
    for set_back in [false, true] {
        killed_everywhere(prepare, |pool| pool.del(&owner("victim")).unwrap(), set_back);
    }
}

#[test]
fn a_check_that_builds_the_index() {
    let prepare = |ground: &Ground, pool: &Pool| {
        some(pool, 4);
        pool.add(&owner("victim")).unwrap();
        fs::remove_file(ground.index_file()).unwrap();
    };
    killed_everywhere(prepare, |pool| pool.check(&owner("victim")).unwrap(), false);
}

#[test]
fn an_add_that_makes_the_index_grow() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/16"));
    some(&pool, 96);
    let before = ground.leases();
    let full = fs::read(ground.index_file()).unwrap();
    for steps in 0..MAX_STEPS {
        // As it was when the table was about to grow, and trusted.
        fs::write(ground.index_file(), &full).unwrap();
        let directory = directory::Directory::open(&ground.dir(), Absent::Leave).unwrap().unwrap();
        let file = fs::OpenOptions::new().read(true).write(true).open(ground.index_file()).unwrap();
        crate::index::trust_for_test(&file, directory.stamp().unwrap());
        drop(directory);

        let killed = killed_after(steps, || _ = pool.add(&owner("victim")).unwrap());
        let (held, listings) = listings_of(|| pool.held_by(&owner("victim")).unwrap().len());
        assert_eq!(held, usize::from(ground.leases().values().any(|content| content == "victim\r\neth0")));
        assert!(killed || (held, listings) == (1, 0));
        for nth in 0..96 {
            assert_eq!(pool.held_by(&owner(&format!("s{nth}"))).unwrap().len(), 1, "killed after {steps} steps");
        }
        if !killed {
            assert!(fs::metadata(ground.index_file()).unwrap().len() > full.len() as u64);
            return;
        }
        pool.del(&owner("victim")).unwrap();
        assert_eq!(ground.leases(), before);
    }
    panic!("the call does not end");
}
