//! What is read of a request for a certificate (PKCS#10, RFC 2986): for whom it is. Who signs it reads it once more, so whatever two
//! readers might take for two things is refused here: DER has one form of everything, and no other is read.

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::Value;

const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----";
const END: &str = "-----END CERTIFICATE REQUEST-----";
const DASHES: &str = "-----";

/// Tags of X.690.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_ID: u8 = 0x06;
const UTF8: u8 = 0x0C;
const PRINTABLE: u8 = 0x13;
const IA5: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// Of a request: what is wanted beside a name and its key (RFC 2986, 4.1).
const ATTRIBUTES: u8 = 0xA0;
/// The number of a tag that goes on in further bytes; nothing that is read here has one.
const LONG_TAG: u8 = 0x1F;

/// Which part of a name it is (X.520: 2.5.4.3, 2.5.4.10).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0A];

/// A request with a key of 16384 bits has less than a tenth of it.
const PEM_BYTES_MAX: usize = 64 << 10;
/// Parts of a name.
const PARTS_MAX: usize = 32;

/// Why nothing is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is too long.
    #[error("it has more than {PEM_BYTES_MAX} bytes")]
    Long,
    /// It is no PEM, or more than that.
    #[error("it is not one CERTIFICATE REQUEST in PEM and nothing else")]
    NoPem,
    /// What is in it is something else.
    #[error("it is no PKCS#10 in DER")]
    NoRequest,
    /// Its name is too long.
    #[error("its name has more than {PARTS_MAX} parts")]
    Parts,
}

/// A part of a name; none: a text of a kind that is not read here.
pub(super) type Part = Option<String>;

/// For whom it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) common_names: Vec<Part>,
    pub(super) organizations: Vec<Part>,
    /// Its name has parts of other kinds: Kubernetes reads a user's UID from one.
    pub(super) has_more_parts: bool,
    /// Attributes, whatever they say: by them other names are asked for, which signers take over.
    pub(super) has_attributes: bool,
}

impl Subject {
    /// Of a request as the API has it.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(super) fn of(pem: &[u8]) -> Result<Subject, Unreadable> {
        if pem.len() > PEM_BYTES_MAX {
            return Err(Unreadable::Long);
        }
        let der = unwrapped(pem).ok_or(Unreadable::NoPem)?;
        let (mut left, has_attributes) = subject(&der).ok_or(Unreadable::NoRequest)?;
        let (mut found, mut parts) = (Subject { has_attributes, ..Subject::default() }, 0);
        while !left.is_empty() {
            let (mut set, more) = expected(SET, left).ok_or(Unreadable::NoRequest)?;
            left = more;
            while !set.is_empty() {
                parts += 1;
                if parts > PARTS_MAX {
                    return Err(Unreadable::Parts);
                }
                let (pair, more) = expected(SEQUENCE, set).ok_or(Unreadable::NoRequest)?;
                set = more;
                found.take(pair).ok_or(Unreadable::NoRequest)?;
            }
        }
        Ok(found)
    }

    fn take(&mut self, pair: &[u8]) -> Option<()> {
        let (which, value) = expected(OBJECT_ID, pair)?;
        let (tag, content, rest) = element(value)?;
        rest.is_empty().then_some(())?;
        match which {
            COMMON_NAME => self.common_names.push(text(tag, content)),
            ORGANIZATION => self.organizations.push(text(tag, content)),
            _ => self.has_more_parts = true,
        }
        Some(())
    }
}

/// What is in a PEM text (RFC 7468) that has nothing else in it: another reader might begin elsewhere.
fn unwrapped(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?.trim_ascii();
    let body = text.strip_prefix(BEGIN)?.strip_suffix(END)?;
    if body.contains(DASHES) {
        return None;
    }
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    ByteString::deserialize(Value::from(body)).ok().map(|ByteString(bytes)| bytes)
}

/// The name in a request, and whether it has attributes.
fn subject(der: &[u8]) -> Option<(&[u8], bool)> {
    let (request, rest) = expected(SEQUENCE, der)?;
    rest.is_empty().then_some(())?;
    let (info, rest) = expected(SEQUENCE, request)?;
    let (_algorithm, rest) = expected(SEQUENCE, rest)?;
    let (_signature, rest) = expected(BIT_STRING, rest)?;
    rest.is_empty().then_some(())?;
    let (_version, rest) = expected(INTEGER, info)?;
    let (name, rest) = expected(SEQUENCE, rest)?;
    let (_key, rest) = expected(SEQUENCE, rest)?;
    // Some leave them out where there are none.
    let (attributes, rest) = if rest.is_empty() { (rest, rest) } else { expected(ATTRIBUTES, rest)? };
    rest.is_empty().then_some((name, !attributes.is_empty()))
}

fn text(tag: u8, content: &[u8]) -> Part {
    let text = std::str::from_utf8(content).ok()?;
    match tag {
        UTF8 => Some(text.to_owned()),
        PRINTABLE | IA5 if text.is_ascii() => Some(text.to_owned()),
        _ => None,
    }
}

/// The content of what a text in DER begins with, which is to have this tag, and what comes after it.
fn expected(wanted: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(tag, ..)| *tag == wanted).map(|(_, content, rest)| (content, rest))
}

/// Tag and content of what a text in DER begins with, and what comes after it. A length has the shortest form (X.690, 10.1).
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first().filter(|(tag, _)| *tag & LONG_TAG != LONG_TAG)?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7F => (usize::from(short), rest),
        0x81 => {
            rest.split_first().map(|(low, rest)| (usize::from(*low), rest)).filter(|(length, _)| *length >= 0x80)?
        }
        0x82 => {
            let (bytes, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*bytes)), rest)
        }
        // No end, or more than is read.
        _ => return None,
    };
    if *first == 0x82 && length < 0x100 {
        return None;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kube::certificate::base64;

    pub(crate) const CN: &[u8] = COMMON_NAME;
    pub(crate) const O: &[u8] = ORGANIZATION;

    pub(crate) fn of(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let head = match length {
            0..0x80 => vec![tag, u8::try_from(length).unwrap()],
            0x80..0x100 => vec![tag, 0x81, u8::try_from(length).unwrap()],
            _ => [&[tag, 0x82], u16::try_from(length).unwrap().to_be_bytes().as_slice()].concat(),
        };
        [head.as_slice(), content].concat()
    }

    pub(crate) fn part(which: &[u8], tag: u8, text: &[u8]) -> Vec<u8> {
        of(SET, &of(SEQUENCE, &[of(OBJECT_ID, which), of(tag, text)].concat()))
    }

    fn der(name: &[u8]) -> Vec<u8> {
        with(name, &of(ATTRIBUTES, &[]))
    }

    fn with(name: &[u8], attributes: &[u8]) -> Vec<u8> {
        let info = [of(INTEGER, &[0]), of(SEQUENCE, name), of(SEQUENCE, b"key"), attributes.to_vec()].concat();
        of(SEQUENCE, &[of(SEQUENCE, &info), of(SEQUENCE, b"x"), of(BIT_STRING, b"y")].concat())
    }

    pub(crate) fn wrapped(der: &[u8]) -> String {
        format!("{BEGIN}\n{}\n{END}\n", base64(der))
    }

    /// A request with these parts of a name; nobody looks at its key.
    pub(crate) fn request(parts: &[Vec<u8>]) -> String {
        wrapped(&der(&parts.concat()))
    }

    /// The same that asks for something else, too.
    pub(crate) fn request_for_more(parts: &[Vec<u8>]) -> String {
        wrapped(&with(&parts.concat(), &of(ATTRIBUTES, &of(SEQUENCE, b"x"))))
    }

    fn read(parts: &[Vec<u8>]) -> Result<Subject, Unreadable> {
        Subject::of(request(parts).as_bytes())
    }

    fn some(text: &str) -> Part {
        Some(text.to_owned())
    }

    #[test]
    fn every_name_and_organization_is_seen_whatever_its_kind_of_text() {
        let both = [
            of(SEQUENCE, &[of(OBJECT_ID, O), of(IA5, b"b")].concat()),
            of(SEQUENCE, &[of(OBJECT_ID, O), of(0x1E, b"\0c")].concat()),
        ];
        let parts = [
            part(O, PRINTABLE, b"a"),
            of(SET, &both.concat()),
            part(CN, UTF8, b"n"),
            part(&[0x55, 4, 6], PRINTABLE, b"DE"),
        ];
        let found = read(&parts).unwrap();
        assert_eq!(found.organizations, [some("a"), some("b"), None]);
        assert_eq!(found.common_names, [some("n")]);
        assert!(found.has_more_parts && !found.has_attributes);
        for (tag, text) in [(UTF8, &b"\xFF"[..]), (PRINTABLE, "\u{e9}".as_bytes()), (INTEGER, b"5"), (0x14, b"x")] {
            assert_eq!(read(&[part(CN, tag, text)]).unwrap().common_names, [None], "{tag}");
        }
        assert_eq!(read(&[]), Ok(Subject::default()));
        assert_eq!(Subject::of(wrapped(&with(b"", b"")).as_bytes()), Ok(Subject::default()));
        assert!(Subject::of(request_for_more(&[]).as_bytes()).unwrap().has_attributes);
    }

    #[test]
    fn what_another_reader_may_read_otherwise_is_not_read() {
        let whole = request(&[part(CN, UTF8, b"n")]);
        let no_pem = Err(Unreadable::NoPem);
        for text in [
            String::new(),
            "\u{e9}".to_owned(),
            format!("of whom\n{whole}"),
            format!("{whole}{whole}"),
            whole.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
            whole.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"),
            whole.replace(BEGIN, &format!("{BEGIN}\nProc-Type: 4")),
            whole.replace(BEGIN, &format!("{BEGIN}\n{BEGIN}")),
            whole.replace(END, ""),
        ] {
            assert_eq!(Subject::of(text.as_bytes()), no_pem, "{text}");
        }
        assert_eq!(Subject::of(b"\xFF\xFE"), no_pem);
        assert_eq!(Subject::of(&vec![b'-'; PEM_BYTES_MAX + 1]), Err(Unreadable::Long));
        let name = part(CN, UTF8, b"n");
        let good = der(&name);
        let more = [good.as_slice(), b"\0"].concat();
        let pair = |content: &[u8]| der(&of(SET, &of(SEQUENCE, content)));
        for odd in [
            more,
            with(&name, &of(SEQUENCE, b"")),
            with(&name, &of(ATTRIBUTES, b"").repeat(2)),
            b"\x30\x80\0\0".to_vec(),
            [&[0x30, 0x81, u8::try_from(good.len() - 2).unwrap()], good.get(2..).unwrap()].concat(),
            [&[0x30, 0x82, 0, u8::try_from(good.len() - 2).unwrap()], good.get(2..).unwrap()].concat(),
            b"\x30\xFF\xFF\xFF".to_vec(),
            b"\x3F\x01\0".to_vec(),
            der(&of(SEQUENCE, b"")),
            der(b"\x31"),
            der(&of(SET, &of(SET, b""))),
            pair(b""),
            pair(&of(OBJECT_ID, CN)),
            pair(&[of(OBJECT_ID, CN), of(UTF8, b"n"), of(UTF8, b"m")].concat()),
            pair(&[of(UTF8, b"n"), of(OBJECT_ID, CN)].concat()),
        ] {
            assert_eq!(Subject::of(wrapped(&odd).as_bytes()), Err(Unreadable::NoRequest), "{odd:x?}");
        }
        for length in 0..good.len() {
            assert!(Subject::of(wrapped(&good[..length]).as_bytes()).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn no_byte_of_a_request_makes_it_panic() {
        let good = der(&[part(O, UTF8, b"system:multus"), part(CN, UTF8, b"system:multus:node")].concat());
        for at in 0..good.len() {
            for byte in 0..=u8::MAX {
                let mut odd = good.clone();
                odd[at] = byte;
                drop(Subject::of(wrapped(&odd).as_bytes()));
            }
        }
        assert_eq!(read(&vec![part(O, UTF8, b""); PARTS_MAX + 1]), Err(Unreadable::Parts));
        assert_eq!(read(&vec![part(O, UTF8, b""); PARTS_MAX]).unwrap().organizations.len(), PARTS_MAX);
    }
}
