//! When two texts of a kernel parameter are one value. Knows no parameter.

/// Whether the kernel would take both for the same: it separates by tabs what may be given with blanks, and numbers may be
/// given in other bases (`proc_get_long`, kernel/sysctl.c).
pub(super) fn is_same(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let mut left = a.split_ascii_whitespace();
    let mut right = b.split_ascii_whitespace();
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == b || number(a).is_some_and(|number_a| number(b) == Some(number_a)) => {}
            _ => return false,
        }
    }
}

/// A number as the kernel reads one: "0x" is hexadecimal, a leading zero octal.
fn number(text: &str) -> Option<i128> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let lower = digits.to_ascii_lowercase();
    let (digits, base) = match lower.strip_prefix("0x") {
        Some(hexadecimal) => (hexadecimal, 16),
        None if lower.len() > 1 && lower.starts_with('0') => (lower.as_str(), 8),
        None => (lower.as_str(), 10),
    };
    // A sign here would be a second one, which the standard library takes.
    let plain = !digits.starts_with(['+', '-']);
    let value = i128::from(u64::from_str_radix(digits, base).ok().filter(|_| plain)?);
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_and_bases_make_no_difference() {
        for (a, b) in
            [("1", "1\n"), ("1024 65000", "1024\t65000"), ("0x10", "16"), ("010", "8"), ("-0X1", "-1"), ("", " ")]
        {
            assert!(is_same(a, b) && is_same(b, a), "{a:?} {b:?}");
        }
        for (a, b) in [
            ("1", "2"),
            ("1", "1 1"),
            ("1", ""),
            ("1", "-1"),
            ("cubic", "reno"),
            ("Cubic", "cubic"),
            ("+1", "1"),
            ("0x", "0"),
            ("--1", "1"),
            ("99999999999999999999", "99999999999999999998"),
        ] {
            assert!(!is_same(a, b) && !is_same(b, a), "{a:?} {b:?}");
        }
    }
}
