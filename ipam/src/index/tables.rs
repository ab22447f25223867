//! The two tables of an index, in a file or in memory: owner's hash -> addresses, and which addresses are used.
//! Every operation reads and writes a few blocks, whatever the number of leases. Knows no directory and no trust.
//!
//! Both tables are open addressing over blocks. A full bucket sends a lease on to its neighbour and counts it
//! (`passed`), so that a search ends at the first bucket that nothing passed, and deletion needs no tombstones. Pages
//! are never taken out of the table before it is built anew.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::FileExt;

use super::layout::{
    BUCKET_BYTES, BUCKET_SLOTS, Bucket, Geometry, HEADER_BYTES, PAGE_BYTES, PAGE_MASK, PAGE_SHIFT, Page, Slot, mix,
};
use crate::fault;
use crate::number::Number;

/// Blocks that one search looks at, at most. The tables are at most 60 % full, so a search needs one or two.
const MAX_PROBES: u64 = 64;
/// Leases of one content that share a hash; the next as many get the next hash, so that thousands of files with the
/// same content (an operator's placeholders) do not pile up in one place.
const GROUP: usize = 8;
/// Hashes that one content can have, a bound on damage only: eight times as many leases as a table holds.
const MAX_GROUPS: u64 = MAX_LEASES;
/// Smallest and largest table sizes, as log2: 4 KiB and 4.3 KiB; 128 MiB and 136 MiB.
const BUCKETS_LOG2: std::ops::RangeInclusive<u32> = 3..=18;
const PAGES_LOG2: std::ops::RangeInclusive<u32> = 3..=18;
/// Leases per bucket at which the table is doubled (of 20 slots).
const GROW_AT: u64 = 12;
/// Leases per bucket of a table just built, at most.
const BUILD_AT: u64 = 8;
/// The most leases that one directory can hold.
pub(crate) const MAX_LEASES: u64 = GROW_AT << 18;

/// The tables say something that cannot be: they are to be built anew from the directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// Where the blocks are.
#[derive(Debug)]
pub(crate) enum Blocks {
    File(File),
    Memory(Vec<u8>),
}

impl Blocks {
    fn read<const N: usize>(&self, offset: u64) -> Result<[u8; N], Broken> {
        let mut bytes = [0; N];
        match self {
            Self::File(file) => file.read_exact_at(&mut bytes, offset).map_err(|_| Broken)?,
            Self::Memory(memory) => {
                let start = usize::try_from(offset).map_err(|_| Broken)?;
                bytes.copy_from_slice(memory.get(start..start + N).ok_or(Broken)?);
            }
        }
        Ok(bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Broken> {
        fault::step("index block").map_err(|_| Broken)?;
        match self {
            Self::File(file) => file.write_all_at(bytes, offset).map_err(|_| Broken),
            Self::Memory(memory) => {
                let start = usize::try_from(offset).map_err(|_| Broken)?;
                memory.get_mut(start..start + bytes.len()).ok_or(Broken)?.copy_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// The hash of the nth group of leases with one content.
fn grouped(hash: u64, group: u64) -> u64 {
    if group == 0 { hash } else { mix(hash ^ mix(group)) }
}

/// Unpredictable, so that nobody chooses addresses that meet in one place.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Geometry {
    fn valid(&self) -> bool {
        BUCKETS_LOG2.contains(&self.buckets_log2) && PAGES_LOG2.contains(&self.pages_log2)
    }

    fn buckets(&self) -> u64 {
        1 << self.buckets_log2
    }

    fn page_slots(&self) -> u64 {
        1 << self.pages_log2
    }

    fn bucket_offset(&self, bucket: u64) -> u64 {
        HEADER_BYTES + bucket * BUCKET_BYTES as u64
    }

    fn page_offset(&self, slot: u64) -> u64 {
        self.bucket_offset(self.buckets()) + slot * PAGE_BYTES as u64
    }

    /// The exact length of the file.
    fn bytes(&self) -> u64 {
        self.page_offset(self.page_slots())
    }

    fn bucket_seed(&self, bucket: u64) -> u64 {
        mix(self.generation ^ mix(bucket << 1))
    }

    fn page_seed(&self, slot: u64) -> u64 {
        mix(self.generation ^ mix(slot << 1 | 1))
    }

    /// The bucket in which a hash belongs.
    fn bucket_home(&self, hash: u64) -> u64 {
        mix(hash ^ self.generation) & (self.buckets() - 1)
    }

    /// The page slot in which a key belongs.
    fn page_home(&self, key: Number) -> u64 {
        let [high, low] = [key >> 64, key & Number::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or_default());
        mix(mix(low ^ self.generation) ^ high) & (self.page_slots() - 1)
    }

    fn bucket_after(&self, bucket: u64) -> u64 {
        (bucket + 1) & (self.buckets() - 1)
    }

    fn page_after(&self, slot: u64) -> u64 {
        (slot + 1) & (self.page_slots() - 1)
    }
}

/// The tables.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) blocks: Blocks,
    pub(crate) geometry: Geometry,
}

impl Tables {
    /// The tables of a file with this geometry, if the file can be that.
    pub(crate) fn open(file: File, length: u64, geometry: Geometry) -> Option<Self> {
        (geometry.valid() && geometry.bytes() == length).then_some(Self { blocks: Blocks::File(file), geometry })
    }

    fn bucket(&self, bucket: u64) -> Result<Bucket, Broken> {
        let bytes = self.blocks.read::<BUCKET_BYTES>(self.geometry.bucket_offset(bucket))?;
        Bucket::decode(self.geometry.bucket_seed(bucket), &bytes).ok_or(Broken)
    }

    fn put_bucket(&mut self, at: u64, bucket: &Bucket) -> Result<(), Broken> {
        self.blocks.write(self.geometry.bucket_offset(at), &bucket.encode(self.geometry.bucket_seed(at)))
    }

    /// The addresses under one hash.
    fn members(&self, hash: u64) -> Result<Vec<Number>, Broken> {
        let mut found = Vec::new();
        let mut at = self.geometry.bucket_home(hash);
        for _ in 0..MAX_PROBES {
            let bucket = self.bucket(at)?;
            found.extend(bucket.slots.iter().filter(|slot| slot.hash == hash).map(|slot| slot.at));
            if bucket.passed == 0 {
                return Ok(found);
            }
            at = self.geometry.bucket_after(at);
        }
        Err(Broken)
    }

    /// The groups of one content: each with its hash, the last one not full (and perhaps empty).
    fn groups(&self, hash: u64) -> Result<Vec<(u64, Vec<Number>)>, Broken> {
        let mut groups = Vec::new();
        for group in 0..MAX_GROUPS {
            let hash = grouped(hash, group);
            let members = self.members(hash)?;
            let last = members.len() < GROUP;
            groups.push((hash, members));
            if last {
                return Ok(groups);
            }
        }
        Err(Broken)
    }

    /// The addresses whose lease may have the content with this hash: only its file knows.
    pub(crate) fn holders(&self, hash: u64) -> Result<Vec<Number>, Broken> {
        Ok(self.groups(hash)?.into_iter().flat_map(|(_, members)| members).collect())
    }

    /// Adds a lease.
    pub(crate) fn insert(&mut self, hash: u64, at: Number) -> Result<(), Broken> {
        let (hash, _) = self.groups(hash)?.pop().ok_or(Broken)?;
        self.insert_slot(Slot { hash, at })?;
        self.mark(at, true)?;
        self.geometry.leases += 1;
        Ok(())
    }

    /// Takes a lease out.
    pub(crate) fn remove(&mut self, hash: u64, at: Number) -> Result<(), Broken> {
        let mut groups = self.groups(hash)?;
        if groups.last().is_some_and(|(_, members)| members.is_empty()) {
            groups.pop();
        }
        let &(home, _) = groups.iter().find(|(_, members)| members.contains(&at)).ok_or(Broken)?;
        self.remove_slot(Slot { hash: home, at })?;
        // Only the last group may have room, or a search would end too early.
        if let Some((last, members)) = groups.pop()
            && last != home
        {
            let moved = members.last().copied().ok_or(Broken)?;
            self.remove_slot(Slot { hash: last, at: moved })?;
            self.insert_slot(Slot { hash: home, at: moved })?;
        }
        self.mark(at, false)?;
        self.geometry.leases = self.geometry.leases.checked_sub(1).ok_or(Broken)?;
        Ok(())
    }

    fn insert_slot(&mut self, slot: Slot) -> Result<(), Broken> {
        let mut at = self.geometry.bucket_home(slot.hash);
        for _ in 0..MAX_PROBES {
            let mut bucket = self.bucket(at)?;
            let room = bucket.slots.len() < BUCKET_SLOTS;
            if room {
                bucket.slots.push(slot);
            } else {
                bucket.passed = bucket.passed.checked_add(1).ok_or(Broken)?;
            }
            self.put_bucket(at, &bucket)?;
            if room {
                return Ok(());
            }
            at = self.geometry.bucket_after(at);
        }
        Err(Broken)
    }

    fn remove_slot(&mut self, slot: Slot) -> Result<(), Broken> {
        let mut at = self.geometry.bucket_home(slot.hash);
        for _ in 0..MAX_PROBES {
            let mut bucket = self.bucket(at)?;
            let place = bucket.slots.iter().position(|other| *other == slot);
            match place {
                Some(place) => _ = bucket.slots.swap_remove(place),
                None => bucket.passed = bucket.passed.checked_sub(1).ok_or(Broken)?,
            }
            self.put_bucket(at, &bucket)?;
            if place.is_some() {
                return Ok(());
            }
            at = self.geometry.bucket_after(at);
        }
        Err(Broken)
    }

    fn page_at(&self, slot: u64) -> Result<Page, Broken> {
        let bytes = self.blocks.read::<PAGE_BYTES>(self.geometry.page_offset(slot))?;
        Page::decode(self.geometry.page_seed(slot), &bytes).ok_or(Broken)
    }

    /// The slot of a page, or the one where it would go.
    fn page(&self, key: Number) -> Result<(u64, Page), Broken> {
        let mut at = self.geometry.page_home(key);
        for _ in 0..MAX_PROBES.min(self.geometry.page_slots()) {
            let page = self.page_at(at)?;
            if page.key.is_none_or(|other| other == key) {
                return Ok((at, page));
            }
            at = self.geometry.page_after(at);
        }
        Err(Broken)
    }

    fn mark(&mut self, at: Number, used: bool) -> Result<(), Broken> {
        let key = at >> PAGE_SHIFT;
        let (slot, mut page) = self.page(key)?;
        if page.key.replace(key).is_none() {
            self.geometry.pages += 1;
        }
        if page.get(at & PAGE_MASK) == used {
            return Err(Broken);
        }
        page.set(at & PAGE_MASK, used);
        self.blocks.write(self.geometry.page_offset(slot), &page.encode(self.geometry.page_seed(slot)))
    }

    /// The first address of `low..=high` that no lease is known to hold.
    ///
    /// Looks at no more pages than there are full ones: a page that is not there is free.
    pub(crate) fn first_free(&self, low: Number, high: Number) -> Result<Option<Number>, Broken> {
        let mut at = low;
        while at <= high {
            let key = at >> PAGE_SHIFT;
            let (_, page) = self.page(key)?;
            let base = key << PAGE_SHIFT;
            if let Some(offset) = page.first_free(at & PAGE_MASK, (high - base).min(PAGE_MASK)) {
                return Ok(Some(base + offset));
            }
            match (base | PAGE_MASK).checked_add(1) {
                Some(next) => at = next,
                None => break,
            }
        }
        Ok(None)
    }

    /// How many addresses of each list of stretches are used. Reads every page.
    pub(crate) fn used(&self, of: &[Vec<(Number, Number)>]) -> Result<Vec<u128>, Broken> {
        let mut used = vec![0; of.len()];
        for slot in 0..self.geometry.page_slots() {
            let page = self.page_at(slot)?;
            let Some(key) = page.key else { continue };
            let base = key << PAGE_SHIFT;
            for (used, stretches) in used.iter_mut().zip(of) {
                for (low, high) in stretches {
                    let (low, high) = (base.max(*low), (base | PAGE_MASK).min(*high));
                    if low <= high {
                        *used += page.count(low - base, high - base);
                    }
                }
            }
        }
        Ok(used)
    }

    /// Whether the next lease should find larger tables.
    pub(crate) fn is_crowded(&self) -> bool {
        self.geometry.leases >= GROW_AT << self.geometry.buckets_log2
            || self.geometry.pages * 2 >= self.geometry.page_slots()
    }

    /// The same leases in larger tables, in memory.
    pub(crate) fn grown(&self) -> Result<Self, Broken> {
        let mut slots = Vec::new();
        for bucket in 0..self.geometry.buckets() {
            slots.extend(self.bucket(bucket)?.slots);
        }
        Self::of_slots(&slots).ok_or(Broken)
    }

    /// Tables in memory of these leases: hash of the content, address. `None`: more than [`MAX_LEASES`].
    pub(crate) fn build(leases: &[(u64, Number)]) -> Option<Self> {
        let mut seen: HashMap<u64, u64> = HashMap::new();
        let mut slots = Vec::with_capacity(leases.len());
        for &(hash, at) in leases {
            let before = seen.entry(hash).or_default();
            slots.push(Slot { hash: grouped(hash, *before / GROUP as u64), at });
            *before += 1;
        }
        Self::of_slots(&slots)
    }

    fn of_slots(slots: &[Slot]) -> Option<Self> {
        let mut pages: HashMap<Number, Page> = HashMap::new();
        for slot in slots {
            let key = slot.at >> PAGE_SHIFT;
            let page = pages.entry(key).or_insert(Page::of(key));
            page.set(slot.at & PAGE_MASK, true);
        }
        let log2 = |count: usize, per: u64| {
            let wanted = u64::try_from(count).unwrap_or(u64::MAX).div_ceil(per).checked_next_power_of_two()?;
            Some(wanted.trailing_zeros())
        };
        let mut buckets_log2 = log2(slots.len(), BUILD_AT)?.clamp(*BUCKETS_LOG2.start(), *BUCKETS_LOG2.end());
        let mut pages_log2 = log2(pages.len() * 4, 1)?.clamp(*PAGES_LOG2.start(), *PAGES_LOG2.end());
        let (leases, count) = (u64::try_from(slots.len()).ok()?, u64::try_from(pages.len()).ok()?);
        if leases > MAX_LEASES || count * 2 > 1 << PAGES_LOG2.end() {
            return None;
        }
        // A second round is needed only where a search would be longer than MAX_PROBES.
        while BUCKETS_LOG2.contains(&buckets_log2) && PAGES_LOG2.contains(&pages_log2) {
            let geometry = Geometry { generation: random(), buckets_log2, pages_log2, leases, pages: count };
            if let Some(tables) = place_all(geometry, slots, pages.values()) {
                return Some(tables);
            }
            buckets_log2 += 1;
            pages_log2 += 1;
        }
        None
    }
}

/// Puts everything into its place and encodes it.
fn place_all<'a>(geometry: Geometry, slots: &[Slot], pages: impl Iterator<Item = &'a Page>) -> Option<Tables> {
    let mut buckets = vec![Bucket::default(); usize::try_from(geometry.buckets()).ok()?];
    'slots: for slot in slots {
        let mut at = geometry.bucket_home(slot.hash);
        for _ in 0..MAX_PROBES {
            let bucket = buckets.get_mut(usize::try_from(at).ok()?)?;
            if bucket.slots.len() < BUCKET_SLOTS {
                bucket.slots.push(*slot);
                continue 'slots;
            }
            bucket.passed += 1;
            at = geometry.bucket_after(at);
        }
        return None;
    }
    let mut table = vec![&Page::VACANT; usize::try_from(geometry.page_slots()).ok()?];
    'pages: for page in pages {
        let mut at = geometry.page_home(page.key?);
        for _ in 0..MAX_PROBES.min(geometry.page_slots()) {
            let place = table.get_mut(usize::try_from(at).ok()?)?;
            if place.key.is_none() {
                *place = page;
                continue 'pages;
            }
            at = geometry.page_after(at);
        }
        return None;
    }
    let mut memory = vec![0; usize::try_from(HEADER_BYTES).ok()?];
    memory.reserve_exact(usize::try_from(geometry.bytes() - HEADER_BYTES).ok()?);
    for (at, bucket) in (0..).zip(&buckets) {
        memory.extend(bucket.encode(geometry.bucket_seed(at)));
    }
    for (at, page) in (0..).zip(table) {
        memory.extend(page.encode(geometry.page_seed(at)));
    }
    Some(Tables { blocks: Blocks::Memory(memory), geometry })
}

#[cfg(test)]
mod tests;
