//! What is computed of the measured times: medians, percentiles, and how sure a ratio is. Knows no side and no row.

/// How often the rounds are drawn again for the interval of a ratio.
const RESAMPLES: usize = 2000;
/// The interval holds this share of the resampled ratios.
const CONFIDENCE: f64 = 0.90;
/// Where the draws start: always the same, so that the same samples give the same interval.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Times of one side, in milliseconds, one a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) p95: f64,
}

/// How many times longer one side takes than the other, by their medians.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) value: f64,
    /// Ends of the interval that holds 90 % of the resampled ratios.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// `None` without samples.
pub(crate) fn summary(samples: &[f64]) -> Option<Summary> {
    Some(Summary { median: median(samples)?, p95: percentile(samples, 0.95)? })
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let sorted = sorted(samples);
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*sorted.get(half.checked_sub(1)?)?, upper))
}

/// The smallest sample that `share` (0 to 1) of all samples do not exceed: the nearest rank, never an invented value.
pub(crate) fn percentile(samples: &[f64], share: f64) -> Option<f64> {
    let sorted = sorted(samples);
    let position = sorted.len().checked_sub(1)?;
    // The rank as an integer, found by comparison: no float is cast.
    let rank = (1..=sorted.len()).find(|rank| ratio_of(*rank, sorted.len()) >= share - f64::EPSILON);
    sorted.get(rank.map_or(position, |rank| rank - 1)).copied()
}

/// The ratio of the medians, with an interval found by drawing whole rounds again: both sides of a round were measured
/// one after the other and share its weather, so they are drawn together. `None` if either side has no samples, or one that
/// nothing can be a multiple of.
pub(crate) fn ratio(numerator: &[f64], denominator: &[f64]) -> Option<Ratio> {
    if denominator.contains(&0.0) {
        return None;
    }
    let value = median(numerator)? / median(denominator)?;
    let rounds = numerator.len().min(denominator.len());
    let mut state = SEED;
    let mut ratios = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let drawn: Vec<usize> = (0..rounds).map(|_| draw(&mut state, rounds)).collect();
        ratios.push(median(&pick(numerator, &drawn))? / median(&pick(denominator, &drawn))?);
    }
    let outside = (1.0 - CONFIDENCE) / 2.0;
    Some(Ratio { value, low: percentile(&ratios, outside)?, high: percentile(&ratios, 1.0 - outside)? })
}

fn pick(samples: &[f64], drawn: &[usize]) -> Vec<f64> {
    drawn.iter().filter_map(|&round| samples.get(round).copied()).collect()
}

/// A number below `below` (xorshift64, Marsaglia 2003).
fn draw(state: &mut u64, below: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let below = u64::try_from(below).unwrap_or(u64::MAX).max(1);
    usize::try_from(*state % below).unwrap_or_default()
}

fn ratio_of(part: usize, whole: usize) -> f64 {
    // No run has 2^32 samples.
    f64::from(u32::try_from(part).unwrap_or(u32::MAX)) / f64::from(u32::try_from(whole).unwrap_or(u32::MAX))
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_one_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn percentile_is_always_a_sample() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.95), Some(95.0));
        assert_eq!(percentile(&hundred, 0.0), Some(1.0));
        assert_eq!(percentile(&hundred, 1.0), Some(100.0));
        let ten: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(percentile(&ten, 0.95), Some(10.0));
        assert_eq!(percentile(&ten, 0.90), Some(9.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn a_constant_ratio_has_no_spread_however_the_rounds_differ() {
        let fast: Vec<f64> = (1..=20).map(f64::from).collect();
        let slow: Vec<f64> = fast.iter().map(|ms| ms * 8.0).collect();
        assert_eq!(ratio(&slow, &fast), Some(Ratio { value: 8.0, low: 8.0, high: 8.0 }));
    }

    #[test]
    fn a_noisy_ratio_lies_in_its_interval_which_is_the_same_again() {
        let fast = [1.0, 1.1, 0.9, 1.4, 1.0, 0.8, 1.2, 1.1, 3.0, 1.0];
        let slow = [8.0, 7.0, 9.0, 8.5, 7.5, 30.0, 8.2, 7.9, 8.1, 8.3];
        let measured = ratio(&slow, &fast).unwrap();
        assert!(measured.low < measured.value && measured.value < measured.high, "{measured:?}");
        assert!(measured.low > 5.0 && measured.high < 12.0, "one slow round moves it too far: {measured:?}");
        assert_eq!(ratio(&slow, &fast), Some(measured));
    }

    #[test]
    fn nothing_measured_is_no_ratio() {
        assert_eq!(ratio(&[], &[1.0]), None);
        assert_eq!(ratio(&[1.0], &[]), None);
        assert_eq!(ratio(&[1.0], &[0.0]), None);
        assert_eq!(summary(&[]), None);
    }
}
