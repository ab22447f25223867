//! The seven versions of the protocol: which exist, how they are compared, which command and which result form each
//! knows. Knows no configuration and no result.

use std::num::IntErrorKind;

use super::error::{CniError, Code};
use super::goprint::{self, quote};
use super::request::Command;

/// A version of the CNI specification, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0: also what a missing or empty version means.
    V0_1_0,
    /// 0.2.0: VERSION.
    V0_2_0,
    /// 0.3.0: interfaces and lists.
    V0_3_0,
    /// 0.3.1: the result's addresses by CIDR.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: no `version` in an address.
    V1_0_0,
    /// 1.1.0: GC and STATUS.
    V1_1_0,
}

/// Every version plexus speaks, oldest first.
pub const SUPPORTED: [Version; 7] = [
    Version::V0_1_0,
    Version::V0_2_0,
    Version::V0_3_0,
    Version::V0_3_1,
    Version::V0_4_0,
    Version::V1_0_0,
    Version::V1_1_0,
];

/// Versions whose results have the same form. A prevResult must be of its configuration's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// 0.1.0 and 0.2.0: `ip4` and `ip6`.
    Legacy,
    /// 0.3.0 to 0.4.0: `interfaces`, `ips` with `version`.
    Listed,
    /// 1.0.0 and later.
    Current,
}

impl Group {
    /// The versions of the group as the Go library prints them in its refusal; the empty name is the missing version.
    pub(crate) fn supported_text(self) -> &'static str {
        match self {
            Group::Legacy => "[ 0.1.0 0.2.0]",
            Group::Listed => "[0.3.0 0.3.1 0.4.0]",
            Group::Current => "[1.0.0 1.1.0]",
        }
    }
}

impl Version {
    /// The newest version, and what VERSION answers.
    pub const CURRENT: Version = Version::V1_1_0;

    /// The version of this exact name; the empty name is 0.1.0 (CNI spec before 1.0). `None`: no such version.
    pub fn parse(name: &str) -> Option<Version> {
        if name.is_empty() {
            return Some(Version::V0_1_0);
        }
        SUPPORTED.into_iter().find(|version| version.as_str() == name)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_1_0 => "0.1.0",
            Version::V0_2_0 => "0.2.0",
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The form of its results.
    pub fn group(self) -> Group {
        match self {
            Version::V0_1_0 | Version::V0_2_0 => Group::Legacy,
            Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => Group::Listed,
            Version::V1_0_0 | Version::V1_1_0 => Group::Current,
        }
    }

    /// Whether the command exists in this version: CHECK since 0.4.0, GC and STATUS since 1.1.0.
    pub fn supports(self, command: Command) -> bool {
        self >= since(command)
    }

    /// Whether a runtime of this version hands the cached result to DEL and CHECK (libcni: since 0.4.0).
    pub fn del_has_prev_result(self) -> bool {
        self >= Version::V0_4_0
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first version that knows the command.
pub fn since(command: Command) -> Version {
    match command {
        Command::Add | Command::Del | Command::Version => Version::V0_1_0,
        Command::Check => Version::V0_4_0,
        Command::Gc | Command::Status => Version::V1_1_0,
    }
}

/// What VERSION prints for a program that speaks every version.
pub fn reply() -> Vec<u8> {
    reply_for(&SUPPORTED)
}

/// What VERSION prints: always the newest version first, whatever was asked, then the list; one line.
pub fn reply_for(supported: &[Version]) -> Vec<u8> {
    let names: Vec<String> = supported.iter().map(|version| quote(version.as_str())).collect();
    let current = Version::CURRENT;
    format!("{{\"cniVersion\":\"{current}\",\"supportedVersions\":[{}]}}\n", names.join(",")).into_bytes()
}

/// The list that follows the about text on standard error when no command was given.
pub fn supported_line(supported: &[Version]) -> String {
    let names: Vec<&str> = supported.iter().map(|version| version.as_str()).collect();
    format!("CNI protocol versions supported: {}", names.join(", "))
}

/// The refusal of a configuration's version.
pub fn incompatible(config: &str, supported: &[Version]) -> CniError {
    let names: Vec<&str> = supported.iter().map(|version| version.as_str()).collect();
    CniError::new(Code::IncompatibleVersion, "incompatible CNI versions").with_details(format!(
        "config is {}, plugin supports {}",
        quote(config),
        goprint::quote_list(&names)
    ))
}

/// Major, minor and micro of any version text, compared as numbers: a part that is missing is 0, the empty text is 0.1.0.
///
/// # Errors
/// The Go library's text, for a part that is no number or a fourth part.
pub fn numbers(text: &str) -> Result<(i64, i64, i64), String> {
    if text.is_empty() {
        return Ok((0, 1, 0));
    }
    if text.split('.').count() > 3 {
        return Err(format!("invalid version {}: too many parts", quote(text)));
    }
    let mut parts = text.split('.');
    let mut part = |what: &str| match parts.next() {
        None => Ok(0),
        Some(digits) => {
            number(digits).map_err(|why| format!("failed to convert {what} version part {}: {why}", quote(digits)))
        }
    };
    Ok((part("major")?, part("minor")?, part("micro")?))
}

/// Go's `strconv.Atoi`, with its texts.
fn number(digits: &str) -> Result<i64, String> {
    digits.parse::<i64>().map_err(|error| {
        let why = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.Atoi: parsing {}: {why}", quote(digits))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_is_go_s_to_the_byte() {
        let expected = "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n";
        assert_eq!(String::from_utf8(reply()).unwrap(), expected);
    }

    #[test]
    fn versions_are_ordered_and_named() {
        assert!(SUPPORTED.is_sorted());
        for version in SUPPORTED {
            assert_eq!(Version::parse(version.as_str()), Some(version));
        }
        assert_eq!(Version::parse(""), Some(Version::V0_1_0));
        for unknown in ["1.1", "9.9.9", " 1.0.0", "1.0.0 ", "v1.0.0", "0.4"] {
            assert_eq!(Version::parse(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn commands_start_with_their_version() {
        assert!(!Version::V0_3_1.supports(Command::Check) && Version::V0_4_0.supports(Command::Check));
        assert!(!Version::V1_0_0.supports(Command::Gc) && Version::V1_1_0.supports(Command::Gc));
        assert!(!Version::V1_0_0.supports(Command::Status) && Version::V1_1_0.supports(Command::Status));
        assert!(Version::V0_1_0.supports(Command::Add) && Version::V0_1_0.supports(Command::Del));
    }

    #[test]
    fn the_refusal_names_every_version() {
        let error = incompatible("9.9.9", &SUPPORTED);
        assert_eq!((error.code, error.msg.as_str()), (Code::IncompatibleVersion, "incompatible CNI versions"));
        assert_eq!(
            error.details,
            r#"config is "9.9.9", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#
        );
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        assert_eq!(numbers(""), Ok((0, 1, 0)));
        assert_eq!(numbers("1.1"), Ok((1, 1, 0)));
        assert_eq!(numbers("0.10.2"), Ok((0, 10, 2)));
        let cases = [
            ("abc", r#"failed to convert major version part "abc": strconv.Atoi: parsing "abc": invalid syntax"#),
            ("1.1.0.0", r#"invalid version "1.1.0.0": too many parts"#),
            (
                "1.99999999999999999999.0",
                r#"failed to convert minor version part "99999999999999999999": strconv.Atoi: parsing "99999999999999999999": value out of range"#,
            ),
            ("1..0", r#"failed to convert minor version part "": strconv.Atoi: parsing "": invalid syntax"#),
        ];
        for (text, expected) in cases {
            assert_eq!(numbers(text), Err(expected.to_string()));
        }
    }
}
