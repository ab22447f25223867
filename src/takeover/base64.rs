//! Bytes as text, the way Go writes them into JSON (RFC 4648 section 4, with padding). Knows nothing of what they mean.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const PAD: char = '=';

/// The text of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let value = (bits >> (18 - 6 * place)) & 63;
            let letter = usize::try_from(value).ok().and_then(|value| ALPHABET.get(value));
            text.push(letter.filter(|_| place <= group.len()).map_or(PAD, |letter| char::from(*letter)));
        }
    }
    text
}

/// The bytes of a text; none where it is not one that [`encode`] makes.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let letters = text.trim_end_matches(PAD);
    if !text.len().is_multiple_of(4) || text.len() - letters.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in letters.bytes() {
        bits = bits << 6 | u32::from(value(letter)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count).ok()?);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

fn value(letter: u8) -> Option<u8> {
    match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_rfc_shows() {
        let pairs = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (length, text) in pairs.into_iter().enumerate() {
            let bytes = b"foobar".get(..length).unwrap();
            assert_eq!((encode(bytes).as_str(), decode(text).as_deref()), (text, Some(bytes)));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["Zg", "Zg=", "Z===", "====", "Zh==", "Zm9", "Zm9\n", "Zm 9", "Zmé"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
