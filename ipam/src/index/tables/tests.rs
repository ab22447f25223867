//! The tables against sets, and against random damage.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn addresses(tables: &Tables, hash: u64) -> BTreeSet<Number> {
    tables.holders(hash).unwrap().into_iter().collect()
}

#[test]
fn thousands_of_leases_with_one_content_do_not_pile_up() {
    let leases: Vec<_> =
        (0..3_000).map(|at| (7, at * 3)).chain((0..1000u64).map(|at| (100 + at, Number::from(at) * 3 + 1))).collect();
    let mut tables = Tables::build(&leases).unwrap();
    assert_eq!(tables.holders(7).unwrap().len(), 3_000);
    let longest = (0..tables.geometry.buckets()).map(|at| tables.bucket(at).unwrap().passed).max().unwrap();
    assert!(longest < 60, "{longest}");
    for at in (0..60).rev() {
        tables.remove(7, at * 3).unwrap();
    }
    assert_eq!(tables.holders(7).unwrap().len(), 2_940);
    assert_eq!(addresses(&tables, 103), [10].into());
    tables.insert(7, 1 << 100).unwrap();
    assert!(addresses(&tables, 7).contains(&(1 << 100)));
}

#[test]
fn a_full_table_is_crowded_before_it_breaks() {
    let mut tables = Tables::build(&[]).unwrap();
    let mut leases = 0;
    while !tables.is_crowded() {
        tables.insert(mix(leases), leases.into()).unwrap();
        leases += 1;
    }
    assert_eq!(leases, GROW_AT << BUCKETS_LOG2.start());
    let grown = tables.grown().unwrap();
    assert!(!grown.is_crowded());
    assert_eq!(grown.geometry.leases, leases);
    for lease in 0..leases {
        assert_eq!(addresses(&grown, mix(lease)), [lease.into()].into());
    }
    assert_eq!(grown.first_free(0, u128::MAX), Ok(Some(leases.into())));
}

#[test]
fn sparse_pages_make_it_crowded_too() {
    let mut tables = Tables::build(&[]).unwrap();
    for at in 0..4u64 {
        assert!(!tables.is_crowded());
        tables.insert(mix(at), Number::from(at) << 40).unwrap();
    }
    assert!(tables.is_crowded());
    assert!(!tables.grown().unwrap().is_crowded());
}

#[test]
fn free_addresses_at_the_edges_of_the_line() {
    let tables = Tables::build(&[(1, u128::MAX), (2, 0)]).unwrap();
    assert_eq!(tables.first_free(u128::MAX, u128::MAX), Ok(None));
    assert_eq!(tables.first_free(0, 0), Ok(None));
    assert_eq!(tables.first_free(0, u128::MAX), Ok(Some(1)));
    assert_eq!(tables.first_free(5, 4), Ok(None));
    assert_eq!(tables.used(&[vec![(0, u128::MAX)], vec![(1, 7)]]), Ok(vec![2, 0]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn tables_are_sets(
        start in prop::collection::btree_map(0u128..9000, 0u64..40, 0..150),
        steps in prop::collection::vec((0u128..9000, 0u64..40), 0..150),
        low in 0u128..9000, span in 0u128..9000,
    ) {
        let mut model: BTreeMap<Number, u64> = start;
        let leases: Vec<_> = model.iter().map(|(at, hash)| (*hash, *at)).collect();
        let mut tables = Tables::build(&leases).unwrap();
        for (at, hash) in steps {
            match model.remove(&at) {
                Some(hash) => tables.remove(hash, at).unwrap(),
                None => {
                    if tables.is_crowded() {
                        tables = tables.grown().unwrap();
                    }
                    model.insert(at, hash);
                    tables.insert(hash, at).unwrap();
                }
            }
        }
        for hash in 0..40 {
            let expected: BTreeSet<_> = model.iter().filter(|(_, other)| **other == hash).map(|(at, _)| *at).collect();
            prop_assert_eq!(addresses(&tables, hash), expected);
        }
        let free = (low..=low + span).find(|at| !model.contains_key(at));
        prop_assert_eq!(tables.first_free(low, low + span), Ok(free));
        let used = model.range(low..=low + span).count() as u128;
        prop_assert_eq!(tables.used(&[vec![(low, low + span)]]), Ok(vec![used]));
        prop_assert_eq!(tables.geometry.leases, model.len() as u64);
    }

    #[test]
    fn damage_is_noticed_or_harmless(offset in 512usize..8000, byte in 1u8.., at in 0u128..100) {
        let leases: Vec<_> = (0..100).map(|at| (mix(at), Number::from(at))).collect();
        let mut tables = Tables::build(&leases).unwrap();
        let hash = mix(u64::try_from(at).unwrap());
        if let Blocks::Memory(memory) = &mut tables.blocks {
            let offset = offset % memory.len();
            memory[offset] ^= byte;
        }
        if let Ok(found) = tables.holders(hash) {
            prop_assert_eq!(found, vec![at]);
        }
        if let Ok(free) = tables.first_free(0, 4000) {
            prop_assert_eq!(free, Some(100));
        }
        if tables.remove(hash, at).is_ok() {
            prop_assert_eq!(tables.holders(hash).unwrap_or_default(), Vec::<Number>::new());
        }
    }
}
