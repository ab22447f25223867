//! What can go wrong between a request and the kernel's answer. Knows no interface, no namespace and no plan.

use std::io;

use netlink_packet_core::NlasIterator;
use nix::errno::Errno;

/// The kernel's own words about a refusal (`NLMSGERR_ATTR_MSG`, include/uapi/linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;
/// The answer holds only the header of the request, not its payload.
const NLM_F_CAPPED: u16 = 0x100;
/// The answer carries attributes after the request it quotes.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The error code at the start of an `NLMSG_ERROR` payload, in bytes.
const CODE_LEN: usize = 4;
/// A netlink header, in bytes.
const HEADER_LEN: usize = 16;

/// Why a request to the kernel has no good answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The kernel answered with an error.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A system call on the socket failed.
    #[error("netlink socket: {}", lower_first(&.0.to_string()))]
    Socket(#[from] io::Error),
    /// No answer within the limit.
    #[error("no answer from the kernel within {limit_ms} ms")]
    Timeout {
        /// How long was waited.
        limit_ms: u64,
    },
    /// A datagram was larger than the receive buffer.
    #[error("answer of {received} bytes is larger than the buffer of {limit} bytes")]
    Truncated {
        /// The datagram's size.
        received: usize,
        /// The buffer's size.
        limit: usize,
    },
    /// The tables changed under every attempt to list them.
    #[error("listing was interrupted {attempts} times")]
    Interrupted {
        /// How often it was tried.
        attempts: u32,
    },
    /// The kernel sent something that is not what was asked for.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

impl Failure {
    /// The kernel's error number, where the kernel refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused(refusal) => Some(refusal.errno),
            _ => None,
        }
    }

    /// Whether messages came faster than they were read (`ENOBUFS`).
    pub(crate) fn is_overrun(&self) -> bool {
        matches!(self, Self::Socket(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32))
    }
}

/// A refusal in the kernel's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number.
    pub errno: Errno,
    /// The extended acknowledgement's text, where the kernel gave one.
    pub text: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&lower_first(self.errno.desc()))?;
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

/// Error texts of this project begin in lower case, and so do those of the reference plugins.
fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

/// Reads the payload of an `NLMSG_ERROR`, or the code at the start of an `NLMSG_DONE`. `Ok(None)` is an acknowledgement.
pub(crate) fn verdict(flags: u16, payload: &[u8]) -> Result<Option<Refusal>, Failure> {
    let (code, rest) = payload
        .split_first_chunk::<CODE_LEN>()
        .ok_or_else(|| Failure::Malformed(format!("error message of {} bytes", payload.len())))?;
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return Ok(None);
    }
    let text = if flags & NLM_F_ACK_TLVS == 0 { None } else { extended_text(flags, rest) };
    Ok(Some(Refusal { errno: Errno::from_raw(code.saturating_neg()), text }))
}

/// Finds the text behind the quoted request: after its header if the answer is capped, after the whole request otherwise.
fn extended_text(flags: u16, quoted: &[u8]) -> Option<String> {
    let skip = if flags & NLM_F_CAPPED != 0 {
        HEADER_LEN
    } else {
        let length = u32::from_ne_bytes(*quoted.first_chunk::<4>()?);
        usize::try_from(length).ok()?.checked_next_multiple_of(4)?
    };
    text_attribute(quoted.get(skip..)?)
}

/// The text among the attributes of an extended acknowledgement.
fn text_attribute(attributes: &[u8]) -> Option<String> {
    let text = NlasIterator::new(attributes).map_while(Result::ok).find(|a| a.kind() == NLMSGERR_ATTR_MSG)?;
    let bytes = text.value();
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    Some(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: i32, quoted: &[u8], text: &str) -> Vec<u8> {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend_from_slice(quoted);
        let length = u16::try_from(4 + text.len() + 1).unwrap();
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&NLMSGERR_ATTR_MSG.to_ne_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_capped_answer_has_its_text_after_the_header() {
        let bytes = answer(-101, &[0; HEADER_LEN], "Nexthop has invalid gateway");
        let refusal = verdict(NLM_F_CAPPED | NLM_F_ACK_TLVS, &bytes).unwrap().unwrap();
        assert_eq!(refusal.errno, Errno::ENETUNREACH);
        assert_eq!(refusal.to_string(), "network is unreachable: Nexthop has invalid gateway");
    }

    #[test]
    fn an_uncapped_answer_has_its_text_after_the_request() {
        let mut quoted = vec![0; 22];
        quoted[..4].copy_from_slice(&21_u32.to_ne_bytes());
        quoted.resize(24, 0);
        let bytes = answer(-22, &quoted, "no");
        assert_eq!(verdict(NLM_F_ACK_TLVS, &bytes).unwrap().unwrap().to_string(), "invalid argument: no");
    }

    #[test]
    fn an_acknowledgement_is_no_refusal_and_a_short_answer_is_malformed() {
        assert_eq!(verdict(NLM_F_CAPPED, &[0; 20]).unwrap(), None);
        assert!(matches!(verdict(0, &[1, 2]), Err(Failure::Malformed(_))));
    }

    #[test]
    fn hostile_lengths_give_no_text() {
        let mut bytes = (-22_i32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(verdict(NLM_F_ACK_TLVS, &bytes).unwrap().unwrap().text, None);
    }
}
