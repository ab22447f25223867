//! Until when a client certificate is valid: what a server that refuses it rarely says. Nothing is verified here, and whatever
//! cannot be read is not told.

use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Tags of X.690, as far as they stand before the validity (RFC 5280, 4.1).
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `20261121200717`: digits that sort by time, in UTC.
type Digits = String;

/// The end of a certificate.
#[derive(Clone, Debug)]
pub(super) struct Term {
    end: Digits,
    which: String,
}

impl Term {
    /// That of a client's certificate; none: it is not to be read. `which`: where it is.
    pub(super) fn of(pem: &str, which: &str) -> Option<Term> {
        Some(Term { end: valid_until(&first(pem)?)?, which: which.to_owned() })
    }

    /// What there is to say when it is over.
    pub(super) fn expired(&self, now: Timestamp) -> Option<String> {
        let Term { end, which } = self;
        let now: Digits = now.to_string().chars().filter(char::is_ascii_digit).take(end.len()).collect();
        let time = shown(end)?;
        (*end < now)
            .then(|| format!("certificate expired: that of {which} was valid until {time}, and has to be renewed"))
    }
}

/// The base64 text of `kubeconfig`'s `...-data`, as text.
pub(super) fn text_of(data: &str) -> Option<String> {
    let ByteString(bytes) = ByteString::deserialize(Value::from(data.trim())).ok()?;
    String::from_utf8(bytes).ok()
}

/// The first certificate of a PEM text is the client's own; what follows it are its issuers'.
fn first(pem: &str) -> Option<Vec<u8>> {
    let (_, begun) = pem.split_once(BEGIN)?;
    let (body, _) = begun.split_once(END)?;
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    ByteString::deserialize(Value::from(body)).ok().map(|ByteString(bytes)| bytes)
}

fn shown(digits: &str) -> Option<String> {
    let part = |from: usize, to: usize| digits.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    Some(format!("{year}-{month}-{day}T{}:{}:{}Z", part(8, 10)?, part(10, 12)?, part(12, 14)?))
}

/// `notAfter` of a certificate in DER.
fn valid_until(der: &[u8]) -> Option<Digits> {
    let (_, certificate, _) = element(der).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, signed, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let mut rest = signed;
    if signed.first() == Some(&VERSION) {
        (_, _, rest) = element(rest)?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (_, validity, _) = element(rest).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, _, not_after) = element(validity)?;
    let (tag, time, _) = element(not_after)?;
    let digits = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let whole = match tag {
        // RFC 5280, 4.1.2.5.1: years of two digits are those of 1950 to 2049.
        UTC_TIME if digits < "5" => format!("20{digits}"),
        UTC_TIME => format!("19{digits}"),
        GENERALIZED_TIME => digits.to_owned(),
        _ => return None,
    };
    (whole.len() == 14 && whole.bytes().all(|byte| byte.is_ascii_digit())).then_some(whole)
}

/// Tag and content of what a text in DER begins with, and what comes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (short, rest) = rest.split_first()?;
    let (length, rest) = if short & 0x80 == 0 {
        (usize::from(*short), rest)
    } else {
        let (long, rest) = rest.split_at_checked(usize::from(short & 0x7F))?;
        // More than four bytes of a length are no certificate's.
        (long.len() <= 4).then_some(())?;
        (long.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], length.as_slice(), content].concat()
    }

    fn pem(version: bool, tag: u8, time: &str) -> String {
        let head = if version { of(VERSION, &of(2, &[2])) } else { Vec::new() };
        let validity = of(SEQUENCE, &[of(UTC_TIME, b"200101000000Z"), of(tag, time.as_bytes())].concat());
        let signed = [head, of(2, &[7]), of(SEQUENCE, &[]), of(SEQUENCE, b"issuer"), validity].concat();
        let der = of(SEQUENCE, &[of(SEQUENCE, &signed), of(SEQUENCE, &[])].concat());
        let text = serde_json::to_value(ByteString(der)).unwrap();
        let (line, more) = text.as_str().unwrap().split_at(20);
        format!("of whom\n{BEGIN}\n{line}\n{more}\n{END}\n{BEGIN}\nissuer\n{END}\n")
    }

    #[test]
    fn the_end_is_found_in_both_forms_of_time() {
        let now: Timestamp = "2026-11-21T20:07:17.5Z".parse().unwrap();
        for (tag, time, end) in [
            (UTC_TIME, "261121200716Z", Some("2026-11-21T20:07:16Z")),
            (UTC_TIME, "261121200717Z", None),
            (UTC_TIME, "990101000000Z", Some("1999-01-01T00:00:00Z")),
            (GENERALIZED_TIME, "20251121200716Z", Some("2025-11-21T20:07:16Z")),
            (GENERALIZED_TIME, "20601121200716Z", None),
        ] {
            for version in [true, false] {
                let told = Term::of(&pem(version, tag, time), "x.crt").and_then(|term| term.expired(now));
                let expected = end.map(|end| {
                    format!("certificate expired: that of x.crt was valid until {end}, and has to be renewed")
                });
                assert_eq!(told, expected, "{time}");
            }
        }
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        let whole = pem(true, UTC_TIME, "200101000000Z");
        assert!(Term::of(&whole, "x").is_some());
        for text in ["", BEGIN, "-----BEGIN CERTIFICATE-----!-----END CERTIFICATE-----", &whole.replace("of whom", END)]
        {
            assert_eq!(Term::of(text, "x").is_some(), text.contains("issuer"), "{text}");
        }
        let der = first(&whole).unwrap();
        for length in 0..der.len() {
            assert_eq!(valid_until(&der[..length]), None, "{length} bytes");
        }
        assert_eq!(valid_until(&[0x30, 0xFF, 0xFF, 0xFF]), None);
        for time in ["2001010000Z", "2001010000000Z", "20010100000\u{e4}Z", "200101000000"] {
            assert!(Term::of(&pem(true, UTC_TIME, time), "x").is_none(), "{time}");
        }
    }
}
