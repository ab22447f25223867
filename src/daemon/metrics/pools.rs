//! Leases by network: the only metrics whose label is named by people, so the number of their series is bounded here. It does not
//! know where leases are.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::labels::OTHER;
use super::table::{LEASES_FREE, LEASES_HELD, Row};

/// Networks with a series of their own: the first by name. All others together are [`OTHER`].
pub const NETWORKS_MAX: usize = 100;
/// Bytes of a network's name in a label; one that is longer is among [`OTHER`]. A name is a directory's (NAME_MAX).
pub const NETWORK_BYTES_MAX: usize = 255;

/// How full a network's pools are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill<'a> {
    /// The network.
    pub network: &'a str,
    /// Addresses held.
    pub held: u128,
    /// Addresses that can still be had.
    pub free: u128,
}

/// The counts of the moment.
#[derive(Debug, Default)]
pub(super) struct Pools(Mutex<BTreeMap<String, Counts>>);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    held: u128,
    free: u128,
}

impl Pools {
    /// In the place of all that was known. Pools of one network are added up.
    pub(super) fn replace<'a>(&self, fills: impl IntoIterator<Item = Fill<'a>>) {
        let mut known: BTreeMap<String, Counts> = BTreeMap::new();
        let mut other: Option<Counts> = None;
        for fill in fills {
            let named = fill.network.len() <= NETWORK_BYTES_MAX && fill.network != OTHER;
            if let Some(counts) = known.get_mut(fill.network).filter(|_| named) {
                counts.add(fill.held, fill.free);
                continue;
            }
            if named {
                known.insert(fill.network.to_owned(), Counts { held: fill.held, free: fill.free });
            } else {
                other.get_or_insert_default().add(fill.held, fill.free);
            }
            if known.len() > NETWORKS_MAX
                && let Some((_, last)) = known.pop_last()
            {
                other.get_or_insert_default().add(last.held, last.free);
            }
        }
        known.extend(other.map(|counts| (OTHER.to_owned(), counts)));
        *self.lock() = known;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Counts>> {
        // Whoever panicked replaced nothing or everything.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn add(&mut self, held: u128, free: u128) {
        self.held = self.held.saturating_add(held);
        self.free = self.free.saturating_add(free);
    }
}

impl Collector for Pools {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let known = self.lock();
        let mut family = |row: &Row, of: fn(&Counts) -> u128| -> Result<(), Error> {
            let mut family = encoder.encode_descriptor(row.base, &row.sentence(), None, MetricType::Gauge)?;
            for (network, counts) in known.iter() {
                // A /64 has more addresses than any integer of the format: the next f64 is near enough.
                let value = ConstGauge::new(of(counts) as f64);
                value.encode(family.encode_family(&[("network", network.as_str())])?)?;
            }
            Ok(())
        };
        family(&LEASES_HELD, |counts| counts.held)?;
        family(&LEASES_FREE, |counts| counts.free)
    }
}
