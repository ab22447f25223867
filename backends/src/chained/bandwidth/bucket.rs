//! A limit as a token bucket, with the reference plugin's arithmetic, so that its CHECK finds what it would have made. Knows
//! no link.

use std::fs;

use super::conf::Limit;
use crate::netlink::qdisc::Tbf;

/// How long a packet waits at most, behind the burst.
const LATENCY_US: u64 = 25_000;
const SECOND_US: u64 = 1_000_000;
/// The largest packet (RFC 791).
const PACKET_BYTES_MAX: u64 = 65_535;
/// Ticks of a microsecond as every kernel since 2.6.31 has them (`PSCHED_SHIFT`, include/net/pkt_sched.h): 1000 / 64.
const TICKS: Ticks = Ticks { count: 1000, of_us: 64 };

/// How many ticks of the packet scheduler there are in how many microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticks {
    count: u64,
    of_us: u64,
}

impl Ticks {
    /// What the kernel says of itself.
    pub(super) fn read() -> Self {
        fs::read_to_string("/proc/net/psched").ok().and_then(|text| Self::parse(&text)).unwrap_or(TICKS)
    }

    /// Hexadecimal numbers: ticks, their microseconds, and the resolution of the clock in Hz, which is one of microseconds
    /// except where the first two are one nanosecond to one.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace().map(|word| u32::from_str_radix(word, 16).ok().map(u64::from));
        let (count, of_us, resolution) = (words.next()??, words.next()??, words.next()??);
        let ticks = match resolution {
            1_000_000_000 => Self { count: 1000, of_us: 1 },
            _ => Self { count: count * (resolution / SECOND_US), of_us },
        };
        (ticks.count > 0 && ticks.of_us > 0).then_some(ticks)
    }

    /// Ticks of a time.
    fn of(self, us: u64) -> u64 {
        us.saturating_mul(self.count) / self.of_us
    }

    /// Microseconds of so many.
    fn us(self, ticks: u32) -> u64 {
        u64::from(ticks).saturating_mul(self.of_us) / self.count
    }
}

impl Limit {
    /// The token bucket to make.
    pub(super) fn bucket(self, ticks: Ticks) -> Tbf {
        let limit = u32::try_from(self.waiting() + u64::from(self.burst)).unwrap_or(u32::MAX);
        Tbf { rate: self.rate.get(), buffer: self.buffers(ticks).0, limit }
    }

    /// How long the burst takes, in ticks: the number to give, and the other one that the reference plugin may have given.
    ///
    /// More than 274 seconds need more than 32 bits, and the burst of 4 Gbit that container runtimes give takes so long below
    /// 16 Mbit/s. What the reference plugin makes of it depends on its processor: the greatest number or, on x86-64, the lower
    /// bits alone. There they are given too, unless no whole packet would pass.
    fn buffers(self, ticks: Ticks) -> (u32, u32) {
        let whole_us = u64::from(self.burst) * SECOND_US / self.rate;
        if let Ok(exact) = u32::try_from(ticks.of(whole_us)) {
            return (exact, exact);
        }
        let cut = low(ticks.of(low(whole_us).into()));
        let passing = ticks.us(cut).saturating_mul(self.rate.get()) / SECOND_US;
        if cfg!(target_arch = "x86_64") && passing >= PACKET_BYTES_MAX { (cut, u32::MAX) } else { (u32::MAX, cut) }
    }

    /// Bytes that come in [`LATENCY_US`].
    fn waiting(self) -> u64 {
        self.rate.get() / (SECOND_US / LATENCY_US)
    }

    /// What of an existing bucket is not this limit's, in the reference plugin's words.
    pub(super) fn mismatch(self, ticks: Ticks, bucket: Tbf) -> Option<&'static str> {
        let (wanted, buffers) = (self.bucket(ticks), self.buffers(ticks));
        // More than 4 GB: the reference plugin leaves the lower bits.
        let cut = low(self.waiting()).wrapping_add(self.burst);
        if bucket.rate != wanted.rate {
            Some("Rate doesn't match")
        } else if ![wanted.limit, cut].contains(&bucket.limit) {
            Some("Limit doesn't match")
        } else if ![buffers.0, buffers.1].contains(&bucket.buffer) {
            Some("Buffer doesn't match")
        } else {
            None
        }
    }
}

/// The lower 32 bits.
fn low(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    fn limit(rate_bits: u64, burst_bits: u64) -> Limit {
        let burst = u32::try_from(burst_bits / 8).unwrap();
        Limit { rate: NonZeroU64::new(rate_bits / 8).unwrap(), burst }
    }

    /// Rate and burst in bits, and what the reference plugin (1.9.1, x86-64) made of them: buffer in ticks, limit in bytes.
    const ORACLE: [(u64, u64, u32, u32); 9] = [
        (8_000_000, 800_000, 1_562_500, 125_000),
        (10_000_000, 1_000_000, 1_562_500, 156_250),
        (100_000_000, 4_294_967_295, 671_088_625, 537_183_411),
        (15_000_000, 2_147_483_647, 2_236_962_125, 268_482_330),
        (1_000_000_000, 8_000_000, 125_000, 4_125_000),
        (40_000_000_000, 80_000_000, 31_250, 135_000_000),
        (12_345_678, 7_654_321, 9_687_500, 995_370),
        (3_000_000, 32_768, 170_656, 13_471),
        (8, 8, 15_625_000, 1),
    ];
    /// Those whose buffer needs more than 32 bits.
    const ORACLE_CUT: [(u64, u64, u32, u32); 2] = [
        (1_000_000, 4_294_967_295, 2_684_354_435, 536_874_036),
        (10_000_000, 4_294_967_295, 2_415_919_079, 536_902_161),
    ];

    #[test]
    fn the_clock_is_read_as_tc_reads_it() {
        assert_eq!(Ticks::parse("000003e8 00000040 000f4240 3b9aca00\n"), Some(TICKS));
        assert_eq!(Ticks::parse("1 1 3b9aca00 3b9aca00"), Some(Ticks { count: 1000, of_us: 1 }));
        for text in ["", "3e8 40", "3e8 0 f4240 1", "3e8 40 1 1", "x 40 f4240 1", "1ffffffff 40 f4240 1"] {
            assert_eq!(Ticks::parse(text), None, "{text}");
        }
        assert_eq!(Ticks::read(), TICKS, "this kernel's");
    }

    #[test]
    fn a_bucket_has_the_reference_plugin_s_numbers() {
        // Each was read from the kernel after that plugin's ADD.
        for (rate_bits, burst_bits, buffer, limit_bytes) in ORACLE {
            let bucket = limit(rate_bits, burst_bits).bucket(TICKS);
            let expected = Tbf { rate: rate_bits / 8, buffer, limit: limit_bytes };
            assert_eq!(bucket, expected, "{rate_bits} {burst_bits}");
            assert_eq!(limit(rate_bits, burst_bits).mismatch(TICKS, expected), None);
        }
        for (rate_bits, burst_bits, buffer, limit_bytes) in ORACLE_CUT {
            let (one, made) = (limit(rate_bits, burst_bits), Tbf { rate: rate_bits / 8, buffer, limit: limit_bytes });
            assert_eq!(one.mismatch(TICKS, made), None);
            assert_eq!(one.bucket(TICKS) == made, cfg!(target_arch = "x86_64"));
        }
    }

    #[test]
    fn what_no_number_can_say_lets_packets_pass() {
        // 2^32 ticks are 274.877906944 seconds: a little more would be cut to nothing.
        let one = limit(8_000_000, 274_877_912 * 8);
        assert_eq!(one.bucket(TICKS).buffer, u32::MAX);
        let cut = Tbf { buffer: one.buffers(TICKS).1, ..one.bucket(TICKS) };
        assert!(cut.buffer < 1000, "{}", cut.buffer);
        assert_eq!(one.mismatch(TICKS, cut), None, "as the reference plugin made it");
        // 200 Gbit/s for 25 ms and a burst of 4 GB are more than 4 GB.
        assert_eq!(limit(200_000_000_000, 34_359_738_359).bucket(TICKS).limit, u32::MAX);
    }

    #[test]
    fn each_difference_is_named() {
        let one = limit(8_000_000, 800_000);
        let made = one.bucket(TICKS);
        for (other, expected) in [
            (Tbf { rate: made.rate + 1, ..made }, "Rate doesn't match"),
            (Tbf { limit: made.limit + 1, ..made }, "Limit doesn't match"),
            (Tbf { buffer: made.buffer + 1, ..made }, "Buffer doesn't match"),
        ] {
            assert_eq!(one.mismatch(TICKS, other), Some(expected));
        }
    }
}
