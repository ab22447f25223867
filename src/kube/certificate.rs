//! What is read of a client certificate: whose it is, and from when until when, which a server that refuses it rarely says. Nothing
//! is verified here, and whatever cannot be read is not told.

use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Tags of X.690, as far as they stand before the key (RFC 5280, 4.1).
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of what has none (RFC 5280, 4.1.2.5).
const NEVER: &str = "99991231235959";

/// Which part of a name it is (X.520: 2.5.4.3, 2.5.4.10).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0A];
/// Parts of a name that are read.
const NAME_PARTS_MAX: usize = 32;

/// Of how many parts of its time so many have passed when a certificate is likely to have been replaced by another.
const AGEING: (i64, i64) = (9, 10);

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) begin: Timestamp,
    pub(super) end: Timestamp,
    /// Which part, and its text; one that is no UTF-8 is left out.
    names: Vec<(Vec<u8>, String)>,
}

impl Leaf {
    /// Of a certificate in DER.
    pub(super) fn of(der: &[u8]) -> Option<Leaf> {
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
        let (_, validity, rest) = element(rest).filter(|(tag, ..)| *tag == SEQUENCE)?;
        let (begin_tag, begin, validity) = element(validity)?;
        let (end_tag, end, _) = element(validity)?;
        let names = element(rest).map(|(_, subject, _)| names(subject)).unwrap_or_default();
        Some(Leaf { begin: time(begin_tag, begin)?, end: time(end_tag, end)?, names })
    }

    /// Whether it is of this name, and of this organization among others.
    pub(super) fn is_of(&self, common_name: &str, organization: &str) -> bool {
        let has = |which: &[u8], text: &str| self.names.iter().any(|(part, found)| part == which && found == text);
        has(COMMON_NAME, common_name) && has(ORGANIZATION, organization)
    }

    /// Its name, for people.
    pub(super) fn common_name(&self) -> &str {
        self.names.iter().find(|(part, _)| part == COMMON_NAME).map_or("", |(_, text)| text)
    }

    /// Whether so many of so many parts of its time have passed.
    pub(super) fn has_passed(&self, now: Timestamp, part: i64, of: i64) -> bool {
        now.as_second() >= self.at(part, of)
    }

    /// When so many of so many parts of its time will have passed, in seconds.
    pub(super) fn at(&self, part: i64, of: i64) -> i64 {
        let (begin, end) = (self.begin.as_second(), self.end.as_second());
        begin.saturating_add(end.saturating_sub(begin).max(0) / of.max(1) * part)
    }
}

/// Until when how somebody logs in is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    what: &'static str,
    leaf: Leaf,
    which: String,
}

impl Term {
    /// That of a client's certificate; none: it is not to be read. `which`: where it is.
    pub(super) fn of(pem: &str, which: &str) -> Option<Term> {
        Some(Term { what: "certificate", leaf: Leaf::of(&first(pem)?)?, which: which.to_owned() })
    }

    /// That of something whose times are known.
    pub(super) fn between(what: &'static str, begin: Timestamp, end: Timestamp, which: &str) -> Term {
        Term { what, leaf: Leaf { begin, end, names: Vec::new() }, which: which.to_owned() }
    }

    /// What there is to say when it is over.
    pub(super) fn expired(&self, now: Timestamp) -> Option<String> {
        let Term { what, leaf: Leaf { end, .. }, which } = self;
        (end.as_second() < now.as_second())
            .then(|| format!("{what} expired: that of {which} was valid until {end}, and has to be renewed"))
    }

    /// Whether another may have taken its place: whoever renews it does so before.
    pub(super) fn is_ageing(&self, now: Timestamp) -> bool {
        self.leaf.has_passed(now, AGEING.0, AGEING.1)
    }
}

/// The base64 text of `kubeconfig`'s `...-data`, as text.
pub(super) fn text_of(data: &str) -> Option<String> {
    let ByteString(bytes) = ByteString::deserialize(Value::from(data.trim())).ok()?;
    String::from_utf8(bytes).ok()
}

/// The base64 text of bytes.
pub(super) fn base64(bytes: &[u8]) -> String {
    let value = serde_json::to_value(ByteString(bytes.to_vec())).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// The first certificate of a PEM text is the client's own; what follows it are its issuers'.
fn first(pem: &str) -> Option<Vec<u8>> {
    let (_, begun) = pem.split_once(BEGIN)?;
    let (body, _) = begun.split_once(END)?;
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    ByteString::deserialize(Value::from(body)).ok().map(|ByteString(bytes)| bytes)
}

fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let whole = match tag {
        // RFC 5280, 4.1.2.5.1: years of two digits are those of 1950 to 2049.
        UTC_TIME if digits < "5" => format!("20{digits}"),
        UTC_TIME => format!("19{digits}"),
        GENERALIZED_TIME => digits.to_owned(),
        _ => return None,
    };
    if whole == NEVER {
        return Some(Timestamp::MAX);
    }
    let part = |from: usize, to: usize| whole.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let text = format!("{year}-{month}-{day}T{}:{}:{}Z", part(8, 10)?, part(10, 12)?, part(12, 14)?);
    (whole.len() == 14 && whole.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The parts of a subject, which is a sequence of sets of pairs.
fn names(subject: &[u8]) -> Vec<(Vec<u8>, String)> {
    let (mut names, mut rest) = (Vec::new(), subject);
    while let Some((SET, mut set, after)) = element(rest)
        && names.len() < NAME_PARTS_MAX
    {
        while let Some((SEQUENCE, pair, more)) = element(set) {
            if let Some((OBJECT_ID, part, value)) = element(pair)
                && let Some((_, text, _)) = element(value)
                && let Ok(text) = std::str::from_utf8(text)
            {
                names.push((part.to_vec(), text.to_owned()));
            }
            set = more;
        }
        rest = after;
    }
    names
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
            (GENERALIZED_TIME, "99991231235959Z", None),
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
    fn it_ages_in_the_last_tenth_of_its_time() {
        let term = Term::of(&pem(true, UTC_TIME, "200101001640Z"), "x.crt").unwrap();
        for (now, is_ageing) in
            [("2020-01-01T00:14:59Z", false), ("2020-01-01T00:15:00Z", true), ("2021-01-01T00:00:00Z", true)]
        {
            assert_eq!(term.is_ageing(now.parse().unwrap()), is_ageing, "{now}");
        }
    }

    #[test]
    fn whose_it_is_needs_both_parts_of_the_name() {
        let part = |id: &[u8], text: &[u8]| of(SET, &of(SEQUENCE, &[of(OBJECT_ID, id), of(0x0C, text)].concat()));
        let subject = |parts: &[Vec<u8>]| {
            let validity = of(SEQUENCE, &[of(UTC_TIME, b"200101000000Z"), of(UTC_TIME, b"300101000000Z")].concat());
            let head = [of(2, &[7]), of(SEQUENCE, &[]), of(SEQUENCE, b"issuer"), validity].concat();
            let signed = [head, of(SEQUENCE, &parts.concat())].concat();
            Leaf::of(&of(SEQUENCE, &of(SEQUENCE, &signed))).unwrap()
        };
        let (name, group) = (part(COMMON_NAME, b"n"), part(ORGANIZATION, b"g"));
        let whole = subject(&[part(ORGANIZATION, b"other"), group.clone(), name.clone()]);
        assert!(whole.is_of("n", "g") && whole.is_of("n", "other") && whole.common_name() == "n");
        assert!(!whole.is_of("g", "n") && !whole.is_of("n", "none"));
        assert!(!subject(&[name]).is_of("n", "g"));
        let odd = subject(&[group, part(COMMON_NAME, &[0xFF])]);
        assert!(!odd.is_of("n", "g") && odd.common_name().is_empty());
        assert_eq!(subject(&vec![part(ORGANIZATION, b"g"); NAME_PARTS_MAX + 5]).names.len(), NAME_PARTS_MAX);
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
            assert_eq!(Leaf::of(&der[..length]), None, "{length} bytes");
        }
        assert_eq!(Leaf::of(&[0x30, 0xFF, 0xFF, 0xFF]), None);
        for time in ["2001010000Z", "2001010000000Z", "20010100000\u{e4}Z", "200101000000"] {
            assert!(Term::of(&pem(true, UTC_TIME, time), "x").is_none(), "{time}");
        }
    }
}
