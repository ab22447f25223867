//! Errors as the protocol knows them: a code, a text, details. Knows no cause: whoever makes one renders the chain.

use serde::Serialize;
use serde_json::{Map, Value};

use super::goprint::{self, Layout};
use super::version::Version;

/// What kind of failure it is, as the runtime sees it. One table for the whole program:
///
/// | number | variant | source |
/// | --- | --- | --- |
/// | 0 | `Unknown` | a delegate that gave none |
/// | 1 | `IncompatibleVersion` | CNI spec, "Error" |
/// | 2 | `UnsupportedField` | CNI spec |
/// | 3 | `UnknownContainer` | CNI spec |
/// | 4 | `InvalidEnvironment` | CNI spec |
/// | 5 | `Io` | CNI spec |
/// | 6 | `Decode` | CNI spec |
/// | 7 | `InvalidConfig` | CNI spec |
/// | 8 | `InvalidNetns` | not in the spec; the Go library uses it when CNI_NETNS is the plugin's own |
/// | 11 | `TryAgainLater` | CNI spec |
/// | 50 | `NotAvailable` | CNI spec 1.1, STATUS |
/// | 51 | `LimitedConnectivity` | CNI spec 1.1, STATUS |
/// | 999 | `Generic` | what the reference plugins give for every failure of their own |
/// | other | `Other` | 100 and above belong to the plugin that printed it |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// A delegate failed and named no code.
    Unknown,
    /// The configuration's version is not supported, or does not know the command.
    IncompatibleVersion,
    /// A field of the configuration is not supported.
    UnsupportedField,
    /// The container is unknown, or its id is missing.
    UnknownContainer,
    /// A variable of the environment is missing or invalid.
    InvalidEnvironment,
    /// Reading or writing failed.
    Io,
    /// Something did not parse.
    Decode,
    /// The configuration parsed but is not valid.
    InvalidConfig,
    /// CNI_NETNS is the plugin's own network namespace.
    InvalidNetns,
    /// A passing condition: the runtime should retry.
    TryAgainLater,
    /// STATUS: no ADD can be served.
    NotAvailable,
    /// STATUS: no ADD can be served, and running containers may have lost connectivity.
    LimitedConnectivity,
    /// Every failure of a plugin's own work.
    Generic,
    /// A code this table does not name, kept as the delegate gave it.
    Other(u32),
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Code::Unknown => 0,
            Code::IncompatibleVersion => 1,
            Code::UnsupportedField => 2,
            Code::UnknownContainer => 3,
            Code::InvalidEnvironment => 4,
            Code::Io => 5,
            Code::Decode => 6,
            Code::InvalidConfig => 7,
            Code::InvalidNetns => 8,
            Code::TryAgainLater => 11,
            Code::NotAvailable => 50,
            Code::LimitedConnectivity => 51,
            Code::Generic => 999,
            Code::Other(number) => number,
        }
    }

    /// The variant of a number read from the wire.
    pub fn from_number(number: u32) -> Code {
        match number {
            0 => Code::Unknown,
            1 => Code::IncompatibleVersion,
            2 => Code::UnsupportedField,
            3 => Code::UnknownContainer,
            4 => Code::InvalidEnvironment,
            5 => Code::Io,
            6 => Code::Decode,
            7 => Code::InvalidConfig,
            8 => Code::InvalidNetns,
            11 => Code::TryAgainLater,
            50 => Code::NotAvailable,
            51 => Code::LimitedConnectivity,
            999 => Code::Generic,
            other => Code::Other(other),
        }
    }
}

/// What goes to standard output in place of a result, with exit status 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// The kind.
    pub code: Code,
    /// What failed, in one line.
    pub msg: String,
    /// The offending value, or empty.
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: Code, msg: impl Into<String>) -> CniError {
        CniError { code, msg: msg.into(), details: String::new() }
    }

    /// A failure of the plugin's own work: code 999, as the reference plugins have it.
    pub fn generic(msg: impl Into<String>) -> CniError {
        CniError::new(Code::Generic, msg)
    }

    /// The answer to ADD, DEL and CHECK when CNI_NETNS is the namespace the plugin itself runs in.
    pub fn same_netns() -> CniError {
        CniError::new(Code::InvalidNetns, "plugin's netns and netns from CNI_NETNS should not be the same")
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> CniError {
        self.details = details.into();
        self
    }

    /// The same error with text in front of its message (`act: message`).
    #[must_use]
    pub fn within(mut self, act: &str) -> CniError {
        self.msg = format!("{act}: {}", self.msg);
        self
    }

    /// The bytes for standard output. The CNI spec asks for `cniVersion`; the Go library leaves it out.
    pub fn to_json(&self, version: Version) -> Vec<u8> {
        goprint::print(
            &Wire { cni_version: version.as_str(), code: self.code.number(), msg: &self.msg, details: &self.details },
            Layout::Indented,
        )
    }

    /// Reads an error that a delegate printed. Missing keys are empty, as Go has it.
    ///
    /// # Errors
    /// The text of the type error, when a key has a wrong type.
    pub fn from_object(object: &Map<String, Value>) -> Result<CniError, super::gojson::DecodeError> {
        let raw = super::gojson::decode::<Raw>(object)?.value;
        Ok(CniError { code: Code::from_number(raw.code), msg: raw.msg, details: raw.details })
    }
}

/// Go's form: the message, and the details after a semicolon.
impl std::fmt::Display for CniError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.details.is_empty() { f.write_str(&self.msg) } else { write!(f, "{}; {}", self.msg, self.details) }
    }
}

impl std::error::Error for CniError {}

#[derive(Serialize)]
struct Wire<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

#[derive(serde::Deserialize)]
#[serde(rename = "types.Error", default)]
#[derive(Default)]
struct Raw {
    code: u32,
    msg: String,
    details: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for number in 0..=1100 {
            assert_eq!(Code::from_number(number).number(), number);
        }
    }

    #[test]
    fn the_wire_form_has_the_version_first_and_no_empty_details() {
        let error = CniError::new(Code::InvalidConfig, "missing network name");
        let expected = "{\n    \"cniVersion\": \"0.4.0\",\n    \"code\": 7,\n    \"msg\": \"missing network name\"\n}";
        assert_eq!(String::from_utf8(error.to_json(Version::V0_4_0)).unwrap(), expected);
        let error = error.with_details("<a> & \"b\"");
        assert!(
            String::from_utf8(error.to_json(Version::V1_1_0))
                .unwrap()
                .ends_with(",\n    \"details\": \"\\u003ca\\u003e \\u0026 \\\"b\\\"\"\n}")
        );
        assert_eq!(error.to_string(), "missing network name; <a> & \"b\"");
    }
}
