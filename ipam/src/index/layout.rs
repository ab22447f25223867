//! The blocks of an index file, by value: words in, fields out. Every block carries a checksum that also covers its
//! place and the file's generation, so that a torn, misplaced or foreign block is noticed. Knows no files.
//!
//! ```text
//! 0        header, 16 words, padded to HEADER_BYTES
//! 512      buckets: 2^n blocks of 64 words, 20 slots each    owner's hash -> address
//! ...      pages: 2^m blocks of 68 words, 4096 bits each     which addresses are used
//! ```

use crate::number::Number;

/// First word of an index: "plexusIX".
const MAGIC: u64 = u64::from_be_bytes(*b"plexusIX");
/// Raised with every change of the layout or of the hash: an older index is then built anew.
const VERSION: u64 = 1;
/// Words of the header.
const HEADER_WORDS: usize = 16;
/// Bytes before the first bucket.
pub(crate) const HEADER_BYTES: u64 = 512;
/// Words of a bucket: checksum, count and passed, two spare, 20 slots of three words.
const BUCKET_WORDS: usize = 64;
/// Bytes of a bucket.
pub(crate) const BUCKET_BYTES: usize = BUCKET_WORDS * 8;
/// Slots of a bucket.
pub(crate) const BUCKET_SLOTS: usize = 20;
/// Words of a page's bitmap.
const PAGE_BITS_WORDS: usize = 64;
/// Addresses of one page: 2^12.
pub(crate) const PAGE_SHIFT: u32 = 12;
/// The offset of an address in its page.
pub(crate) const PAGE_MASK: Number = (1 << PAGE_SHIFT) - 1;
/// Words of a page: checksum, two of the key, flags, bitmap.
const PAGE_WORDS: usize = PAGE_BITS_WORDS + 4;
/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = PAGE_WORDS * 8;

/// Spreads a word's bits over the whole word (the finalizer of splitmix64).
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The hash of a lease's content. Fixed for ever within one [`VERSION`]; a collision costs one more file read.
pub(crate) fn content_hash(content: &[u8]) -> u64 {
    // FNV-1a, 64 bit, with its bits spread because the low ones choose a bucket.
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(content.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

fn checksum(seed: u64, words: &[u64]) -> u64 {
    // The constant keeps a zeroed block from being right under seed 0.
    let seed = seed ^ MAGIC;
    let sum = words.iter().fold(seed, |sum, word| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    mix(sum)
}

/// Puts the checksum of the other words into the first.
fn seal<const WORDS: usize>(seed: u64, mut words: [u64; WORDS]) -> [u64; WORDS] {
    if let Some((check, rest)) = words.split_first_mut() {
        *check = checksum(seed, rest);
    }
    words
}

/// The words behind a right checksum.
fn unseal(seed: u64, words: &[u64]) -> Option<&[u64]> {
    let (check, rest) = words.split_first()?;
    (*check == checksum(seed, rest)).then_some(rest)
}

fn to_words<const WORDS: usize>(bytes: &[u8]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

fn to_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn halves(number: Number) -> [u64; 2] {
    let [high, low] = [number >> 64, number & Number::from(u64::MAX)];
    [u64::try_from(high).unwrap_or_default(), u64::try_from(low).unwrap_or_default()]
}

fn whole(high: u64, low: u64) -> Number {
    Number::from(high) << 64 | Number::from(low)
}

/// A point in time of a directory: seconds and nanoseconds.
pub(crate) type Time = (i64, i64);

/// What the directory was when plexus left it. Only while all of it is the same is an index trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The boot, from `/proc/sys/kernel/random/boot_id`.
    pub(crate) boot: u128,
    /// Device of the directory.
    pub(crate) dev: u64,
    /// Inode of the directory.
    pub(crate) ino: u64,
    /// The modification time that plexus set.
    pub(crate) mtime: Time,
    /// The change time that the kernel set then; it cannot be set back by anybody.
    pub(crate) ctime: Time,
}

/// The sizes of an index and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Random for each built index; seeds checksums and places.
    pub(crate) generation: u64,
    /// log2 of the number of buckets.
    pub(crate) buckets_log2: u32,
    /// log2 of the number of page slots.
    pub(crate) pages_log2: u32,
    /// Leases in the buckets.
    pub(crate) leases: u64,
    /// Page slots in use.
    pub(crate) pages: u64,
}

/// The header of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) seen: Seen,
    pub(crate) geometry: Geometry,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { seen, geometry } = self;
        let [boot_high, boot_low] = halves(seen.boot);
        let words: [u64; HEADER_WORDS] = [
            0,
            MAGIC,
            VERSION,
            boot_high,
            boot_low,
            seen.dev,
            seen.ino,
            seen.mtime.0.cast_unsigned(),
            seen.mtime.1.cast_unsigned(),
            seen.ctime.0.cast_unsigned(),
            seen.ctime.1.cast_unsigned(),
            geometry.generation,
            geometry.buckets_log2.into(),
            geometry.pages_log2.into(),
            geometry.leases,
            geometry.pages,
        ];
        let mut bytes = to_bytes(&seal(MAGIC, words));
        bytes.resize(usize::try_from(HEADER_BYTES).unwrap_or(bytes.len()), 0);
        bytes
    }

    /// `None` for anything that [`Header::encode`] of this version did not make.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let words = to_words::<HEADER_WORDS>(bytes);
        let rest = unseal(MAGIC, &words)?;
        let &[MAGIC, VERSION, boot_high, boot_low, dev, ino, ref times @ .., generation, buckets, pages, leases, used] =
            rest
        else {
            return None;
        };
        let &[mtime, mtime_nsec, ctime, ctime_nsec] = times else { return None };
        let time = |sec: u64, nsec: u64| (sec.cast_signed(), nsec.cast_signed());
        Some(Self {
            seen: Seen {
                boot: whole(boot_high, boot_low),
                dev,
                ino,
                mtime: time(mtime, mtime_nsec),
                ctime: time(ctime, ctime_nsec),
            },
            geometry: Geometry {
                generation,
                buckets_log2: u32::try_from(buckets).ok()?,
                pages_log2: u32::try_from(pages).ok()?,
                leases,
                pages: used,
            },
        })
    }
}

/// One lease in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The hash under which it is found.
    pub(crate) hash: u64,
    /// The address.
    pub(crate) at: Number,
}

/// Up to [`BUCKET_SLOTS`] leases, and how many leases passed this bucket on the way from their own because it was full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) passed: u32,
    pub(crate) slots: Vec<Slot>,
}

impl Bucket {
    pub(crate) fn encode(&self, seed: u64) -> Vec<u8> {
        let mut words = [0; BUCKET_WORDS];
        let count = u64::try_from(self.slots.len()).unwrap_or_default();
        let fields = [0, count, self.passed.into(), 0].into_iter();
        let slots = self.slots.iter().flat_map(|slot| {
            let [high, low] = halves(slot.at);
            [slot.hash, high, low]
        });
        for (word, value) in words.iter_mut().zip(fields.chain(slots)) {
            *word = value;
        }
        to_bytes(&seal(seed, words))
    }

    pub(crate) fn decode(seed: u64, bytes: &[u8]) -> Option<Self> {
        let words = to_words::<BUCKET_WORDS>(bytes);
        let &[count, passed, _, ref slots @ ..] = unseal(seed, &words)? else { return None };
        let count = usize::try_from(count).ok().filter(|count| *count <= BUCKET_SLOTS)?;
        let slots = slots.as_chunks::<3>().0.iter().take(count);
        let slots = slots.map(|&[hash, high, low]| Slot { hash, at: whole(high, low) }).collect();
        Some(Self { passed: u32::try_from(passed).ok()?, slots })
    }
}

/// 4096 neighbouring addresses, one bit each, set where a lease is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// The addresses' common part, `address >> PAGE_SHIFT`; `None` while the slot was never used.
    pub(crate) key: Option<Number>,
    bits: [u64; PAGE_BITS_WORDS],
}

impl Page {
    /// An unused slot.
    pub(crate) const VACANT: Self = Self { key: None, bits: [0; PAGE_BITS_WORDS] };

    /// A page without leases.
    pub(crate) fn of(key: Number) -> Self {
        Self { key: Some(key), ..Self::VACANT }
    }

    pub(crate) fn encode(&self, seed: u64) -> Vec<u8> {
        let mut words = [0; PAGE_WORDS];
        let [high, low] = halves(self.key.unwrap_or_default());
        let fields = [0, high, low, u64::from(self.key.is_some())].into_iter();
        for (word, value) in words.iter_mut().zip(fields.chain(self.bits)) {
            *word = value;
        }
        to_bytes(&seal(seed, words))
    }

    pub(crate) fn decode(seed: u64, bytes: &[u8]) -> Option<Self> {
        let words = to_words::<PAGE_WORDS>(bytes);
        let &[high, low, used, ref bits @ ..] = unseal(seed, &words)? else { return None };
        Some(Self { key: (used == 1).then(|| whole(high, low)), bits: bits.try_into().ok()? })
    }

    fn word_and_bit(offset: Number) -> (usize, u64) {
        (usize::try_from((offset & PAGE_MASK) >> 6).unwrap_or_default(), 1 << (offset & 63))
    }

    /// Marks the address with this offset as used or free.
    pub(crate) fn set(&mut self, offset: Number, used: bool) {
        let (word, bit) = Self::word_and_bit(offset);
        if let Some(word) = self.bits.get_mut(word) {
            *word = if used { *word | bit } else { *word & !bit };
        }
    }

    /// Whether the address with this offset is used.
    pub(crate) fn get(&self, offset: Number) -> bool {
        let (word, bit) = Self::word_and_bit(offset);
        self.bits.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The first free offset in `low..=high`.
    pub(crate) fn first_free(&self, low: Number, high: Number) -> Option<Number> {
        let mut at = low;
        while at <= high.min(PAGE_MASK) {
            let (word, _) = Self::word_and_bit(at);
            // Bits below `at` count as used.
            let free = !self.bits.get(word).copied().unwrap_or(u64::MAX) & (u64::MAX << (at & 63));
            if free != 0 {
                let found = (at & !63) + Number::from(free.trailing_zeros());
                return (found <= high).then_some(found);
            }
            at = (at | 63) + 1;
        }
        None
    }

    /// How many offsets of `low..=high` are used.
    pub(crate) fn count(&self, low: Number, high: Number) -> u128 {
        (low..=high.min(PAGE_MASK)).map(|at| u128::from(self.get(at))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            seen: Seen { boot: u128::MAX - 1, dev: 2, ino: 3, mtime: (-4, 5), ctime: (6, 7) },
            geometry: Geometry { generation: 8, buckets_log2: 9, pages_log2: 10, leases: 11, pages: 12 },
        }
    }

    #[test]
    fn blocks_survive_the_way_there_and_back() {
        assert_eq!(Header::decode(&header().encode()), Some(header()));
        let slots = (0..20).map(|at| Slot { hash: at * 7, at: u128::MAX - u128::from(at) }).collect();
        let bucket = Bucket { passed: 3, slots };
        assert_eq!(bucket.encode(5).len(), BUCKET_BYTES);
        assert_eq!(Bucket::decode(5, &bucket.encode(5)), Some(bucket.clone()));
        assert_eq!(Bucket::decode(6, &bucket.encode(5)), None, "another place");
        let mut page = Page::of(u128::MAX >> 12);
        page.set(4095, true);
        assert_eq!(page.encode(5).len(), PAGE_BYTES);
        assert_eq!(Page::decode(5, &page.encode(5)), Some(page));
        assert_eq!(Page::decode(1, &Page::VACANT.encode(1)), Some(Page::VACANT));
        assert_eq!(Page::decode(0, &[0; PAGE_BYTES]), None, "zeroed blocks are not empty ones");
        assert_eq!(Bucket::decode(0, &[0; BUCKET_BYTES]), None);
        assert_eq!(Header::decode(&[]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_changed_bit_is_noticed(bit in 0usize..128 * 8) {
            let mut bytes = header().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(&bytes), None);
        }

        #[test]
        fn free_and_used_of_a_page(used in prop::collection::btree_set(0u128..4096, 0..600), low in 0u128..4096, high in 0u128..5000) {
            let mut page = Page::VACANT;
            for at in &used {
                page.set(*at, true);
            }
            let naive = (low..=high.min(4095)).find(|at| !used.contains(at));
            prop_assert_eq!(page.first_free(low, high), naive);
            prop_assert_eq!(page.count(low, high), (low..=high.min(4095)).filter(|at| used.contains(at)).count() as u128);
            for at in &used {
                page.set(*at, false);
            }
            prop_assert_eq!(page, Page::VACANT);
        }
    }
}
