//! A length of time as Go's `time.ParseDuration` reads it: `1h30m`, `1.5s`, `0`. It does not know what is timed.

use std::time::Duration;

/// Units and their nanoseconds; micro has two signs in Unicode.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];
/// An hour has 13 digits of nanoseconds.
const FRACTION_DIGITS_MAX: usize = 15;
/// Go counts nanoseconds in 64 bits, one of them the sign.
const NANOSECONDS_MAX: u128 = i64::MAX as u128;

/// Parses a length of time that is not negative.
///
/// # Errors
/// Go's texts; a negative one is refused in plexus' own words.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (nanoseconds, after) = part(rest).map_err(|fault| match fault {
            Fault::Number => invalid(),
            Fault::NoUnit => format!("time: missing unit in duration {text:?}"),
            Fault::Unit(unit) => format!("time: unknown unit {unit:?} in duration {text:?}"),
        })?;
        total = total.checked_add(nanoseconds).filter(|total| *total <= NANOSECONDS_MAX).ok_or_else(invalid)?;
        rest = after;
    }
    if negative && total > 0 {
        return Err(format!("a negative duration {text:?}"));
    }
    u64::try_from(total).map(Duration::from_nanos).map_err(|_| invalid())
}

enum Fault<'a> {
    Number,
    NoUnit,
    Unit(&'a str),
}

/// One number with its unit, in nanoseconds, and what comes after.
fn part(text: &str) -> Result<(u128, &str), Fault<'_>> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(Fault::Number);
    }
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(end);
    if unit.is_empty() {
        return Err(Fault::NoUnit);
    }
    let (_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(Fault::Unit(unit))?;
    let size = u128::from(*size);
    let count: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| Fault::Number)? };
    let whole = count.checked_mul(size).ok_or(Fault::Number)?;
    // What is below a nanosecond is cut off: more digits than these change nothing.
    let fraction = fraction.get(..FRACTION_DIGITS_MAX).unwrap_or(fraction);
    let (mut part, mut scale) = (0, 1);
    for digit in fraction.chars().filter_map(|c| c.to_digit(10)) {
        part = part * 10 + u128::from(digit);
        scale *= 10;
    }
    let nanoseconds = whole.checked_add(part * size / scale).ok_or(Fault::Number)?;
    Ok((nanoseconds, after))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads_is_read() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("10m", 600_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5ms", 500_000),
            ("+5.s", 5_000_000_000),
            ("3us", 3_000),
            ("3\u{b5}s2\u{3bc}s", 5_000),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
            ("-0", 0),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(parse(text).unwrap().as_nanos(), nanoseconds, "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused_in_its_words() {
        for (text, expected) in [
            ("", r#"time: invalid duration """#),
            ("-", r#"time: invalid duration "-""#),
            (".s", r#"time: invalid duration ".s""#),
            ("3", r#"time: missing unit in duration "3""#),
            ("1h3", r#"time: missing unit in duration "1h3""#),
            ("3d", r#"time: unknown unit "d" in duration "3d""#),
            ("9223372036854775808ns", r#"time: invalid duration "9223372036854775808ns""#),
            ("-5m", r#"a negative duration "-5m""#),
            (" 5m", r#"time: invalid duration " 5m""#),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected);
        }
        let long = format!("0.{}s", "9".repeat(10_000));
        assert!(parse(&long).unwrap() <= Duration::from_secs(1));
        assert!(parse(&"9".repeat(10_000)).is_err());
    }
}
