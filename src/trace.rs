//! The id under which everything that is said of one request can be found: in logs, in the journal and in events. It does not
//! know where it is written, nor who traces.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;

use thiserror::Error;

/// The environment variable that carries the caller's trace (OpenTelemetry, "Environment Variables as Context Propagation
/// Carriers"): W3C's header `traceparent`, its name in capitals.
pub const TRACEPARENT: &str = "TRACEPARENT";

/// Bytes of a `traceparent` of version 00, and of the part of a later one that is read: `00-` 32 digits `-` 16 digits `-` 2 digits
/// (W3C Trace Context, section 3.2.2).
const TRACEPARENT_BYTES: usize = 55;

/// A trace id (W3C Trace Context, section 3.2.2.3): sixteen bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// What a caller says of the trace that it is at work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The trace.
    pub trace: TraceId,
    /// The caller's own span.
    pub span: [u8; 8],
    /// Somebody keeps the trace (section 3.2.2.5, flag `sampled`).
    pub is_sampled: bool,
}

/// Why a text is no `traceparent`. The text is not repeated: it is anybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TraceparentError {
    /// Too short, or longer than its version allows.
    #[error("traceparent of {0} bytes")]
    Length(usize),
    /// A dash is missing, or a digit is none or a capital.
    #[error("traceparent has no valid byte at {0}")]
    Byte(usize),
    /// Version ff, which there will never be.
    #[error("traceparent of version ff")]
    Version,
    /// The id of the trace, or of the caller's span, is all zero.
    #[error("traceparent with an id of zeros")]
    Zero,
}

impl TraceId {
    /// The caller's, where it gave a valid one, else a new one. What a caller gives in a form that cannot be read starts a new trace
    /// (W3C Trace Context, section 3.2).
    #[must_use]
    pub fn of(traceparent: Option<&str>) -> Self {
        traceparent.and_then(|text| Self::parse(text).ok()).unwrap_or_else(Self::random)
    }

    /// The trace id of a `traceparent`.
    ///
    /// # Errors
    /// As [`Caller::parse`].
    pub fn parse(traceparent: &str) -> Result<Self, TraceparentError> {
        Caller::parse(traceparent).map(|caller| caller.trace)
    }

    /// An id that nobody had before, without a system call after the first: the standard library keys its hash maps from the kernel's
    /// random numbers, and steps the key for each new map.
    #[must_use]
    pub fn random() -> Self {
        let keyed = RandomState::new();
        let number = u128::from(keyed.hash_one(0_u8)) << 64 | u128::from(keyed.hash_one(1_u8));
        Self(number.max(1).to_be_bytes())
    }

    /// The sixteen bytes, in the order of their digits.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl Caller {
    /// Reads a `traceparent`. Of a version that is not known, what is there of version 00 is read.
    ///
    /// # Errors
    /// What keeps the text from being one.
    pub fn parse(traceparent: &str) -> Result<Self, TraceparentError> {
        let bytes = traceparent.as_bytes();
        let Some((known, rest)) = bytes.split_first_chunk::<TRACEPARENT_BYTES>() else {
            return Err(TraceparentError::Length(bytes.len()));
        };
        let invalid = |(index, byte): (usize, &u8)| match index {
            2 | 35 | 52 => *byte != b'-',
            _ => !matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        };
        if let Some(index) = known.iter().enumerate().position(invalid) {
            return Err(TraceparentError::Byte(index));
        }
        let (version, after) = known.split_at(2);
        let (trace, after) = after.split_at(1).1.split_at(32);
        let (span, flags) = after.split_at(1).1.split_at(16);
        match (version, rest.first()) {
            (b"ff", _) => return Err(TraceparentError::Version),
            (b"00", Some(_)) => return Err(TraceparentError::Length(bytes.len())),
            (_, None | Some(b'-')) => {}
            (_, Some(_)) => return Err(TraceparentError::Byte(TRACEPARENT_BYTES)),
        }
        if [trace, span].iter().any(|id| id.iter().all(|digit| *digit == b'0')) {
            return Err(TraceparentError::Zero);
        }
        let is_sampled = flags.last().is_some_and(|digit| nibble(*digit) & 1 == 1);
        Ok(Self { trace: TraceId(bytes_of(trace)), span: bytes_of(span), is_sampled })
    }
}

/// Digits that have been looked at, as bytes.
fn bytes_of<const LENGTH: usize>(digits: &[u8]) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |value, digit| value << 4 | nibble(*digit));
    }
    bytes
}

/// The value of a digit that has been looked at.
const fn nibble(digit: u8) -> u8 {
    if digit.is_ascii_digit() { digit - b'0' } else { digit.wrapping_sub(b'a' - 10) & 0x0f }
}

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_callers_trace_is_taken_as_it_is() {
        let id = TraceId::parse(GIVEN).unwrap();
        assert_eq!(id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(id.bytes()[..3], [0x0a, 0xf7, 0x65]);
        assert_eq!(TraceId::of(Some(GIVEN)), id);
        let caller = Caller::parse(GIVEN).unwrap();
        assert_eq!((caller.trace, caller.span[0], caller.span[7], caller.is_sampled), (id, 0xb7, 0x31, true));
        assert!(!Caller::parse(&GIVEN.replace("31-01", "31-02")).unwrap().is_sampled);
    }

    #[test]
    fn a_later_version_may_say_more_and_the_first_may_not() {
        let later = |more: &str| TraceId::parse(&format!("cc{}{more}", GIVEN.strip_prefix("00").unwrap()));
        assert_eq!(later("").unwrap().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(later("-what-comes").unwrap(), later("").unwrap());
        assert_eq!(later(".what"), Err(TraceparentError::Byte(55)));
        assert_eq!(TraceId::parse(&format!("{GIVEN}-00")), Err(TraceparentError::Length(58)));
    }

    #[test]
    fn what_is_no_traceparent_starts_a_trace_of_its_own() {
        use TraceparentError::{Byte, Length, Version, Zero};
        let long = "0".repeat(1 << 20);
        let hostile: [(&str, TraceparentError); 12] = [
            ("", Length(0)),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", Length(54)),
            ("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Byte(4)),
            ("00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Byte(2)),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331 01", Byte(52)),
            (" 0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Byte(0)),
            ("00-0af7651916cd43dd8448eb211c80319\u{e9}b7ad6b7169203331-012", Byte(34)),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\n", Byte(54)),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Version),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", Zero),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", Zero),
            (&long, Byte(2)),
        ];
        for (text, why) in hostile {
            assert_eq!(TraceId::parse(text), Err(why), "{text:.60}");
            assert_ne!(TraceId::of(Some(text)), TraceId::of(Some(text)), "{text:.60}");
        }
    }

    #[test]
    fn a_new_id_is_new_and_reads_back() {
        let ids: HashSet<TraceId> = (0..1000).map(|_| TraceId::of(None)).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            assert_eq!(TraceId::parse(&format!("00-{id}-b7ad6b7169203331-00")), Ok(id));
        }
    }
}
