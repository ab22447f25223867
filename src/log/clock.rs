//! Time as logs write it, in UTC. It does not know time zones.

use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;
/// Days from the first of March of the year 0 to the first of January 1970 (proleptic Gregorian calendar).
const DAYS_TO_1970: u64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const DAYS_PER_ERA: u64 = 146_097;
/// Years of an era.
const YEARS_PER_ERA: u64 = 400;

/// A point in time by the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    millisecond: u32,
}

/// `2026-01-31T12:00:00Z`.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let Moment { year, month, day, hour, minute, second, .. } = moment(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `2026-01-31T12-00-00.000`: in the names of full files, so that they sort by time.
pub(super) fn in_name(time: SystemTime) -> String {
    let Moment { year, month, day, hour, minute, second, millisecond } = moment(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}.{millisecond:03}")
}

/// What is before 1970 is 1970. A year begins in March here, so that the leap day is its last.
fn moment(time: SystemTime) -> Moment {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let days = since.as_secs() / SECONDS_PER_DAY + DAYS_TO_1970;
    let of_era = days % DAYS_PER_ERA;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let second = since.as_secs() % SECONDS_PER_DAY;
    Moment {
        year: days / DAYS_PER_ERA * YEARS_PER_ERA + year_of_era + u64::from(month <= 2),
        month,
        day: of_year - (153 * from_march + 2) / 5 + 1,
        hour: second / 3600,
        minute: second / 60 % 60,
        second: second % 60,
        millisecond: since.subsec_millis(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seconds_are_dates() {
        // Each as `date -u -d @SECONDS` prints it.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        let time = UNIX_EPOCH + Duration::from_millis(1_767_225_599_042);
        assert_eq!(in_name(time), "2025-12-31T23-59-59.042");
    }
}
