//! CNI_ARGS: `K=V;K=V`. Knows the keys every plugin may know; which of them one plugin takes is the caller's matter.

use std::net::IpAddr;

use super::address;
use super::goprint::{quote, quote_list};

/// The keys of pods, as the container runtimes set them.
pub const POD_KEYS: [&str; 4] = ["K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID"];

/// The key that makes a plugin pass over keys it does not know.
const IGNORE_UNKNOWN: &str = "IgnoreUnknown";

/// The parsed pairs, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// Keys and values, `IgnoreUnknown` among them. Keys are case-sensitive.
    pub pairs: Vec<(String, String)>,
    /// Whether the caller wants unknown keys ignored.
    pub ignore_unknown: bool,
}

/// Why CNI_ARGS was refused; the texts are the Go library's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgsError {
    /// Not exactly one `=`.
    #[error("ARGS: invalid pair {}", quote(.0))]
    InvalidPair(String),
    /// Keys the plugin does not know.
    #[error("ARGS: unknown args {}", quote_list(.0))]
    Unknown(Vec<String>),
    /// A value its key cannot have.
    #[error("ARGS: error parsing value of pair {}: {why}", quote(.pair))]
    Value {
        /// The pair as given.
        pair: String,
        /// What its parser said.
        why: String,
    },
}

impl Args {
    /// Splits the text into pairs. Empty text has none.
    ///
    /// # Errors
    /// `InvalidPair`; `Value` for an `IgnoreUnknown` that is neither `1`, `true`, `0` nor `false`.
    pub fn parse(text: &str) -> Result<Args, ArgsError> {
        let mut args = Args::default();
        if text.is_empty() {
            return Ok(args);
        }
        for pair in text.split(';') {
            let split = pair.split_once('=').filter(|(_, value)| !value.contains('='));
            let (key, value) = split.ok_or_else(|| ArgsError::InvalidPair(pair.to_string()))?;
            if key == IGNORE_UNKNOWN {
                args.ignore_unknown = truth(value).map_err(|why| ArgsError::Value { pair: pair.to_string(), why })?;
            }
            args.pairs.push((key.to_string(), value.to_string()));
        }
        Ok(args)
    }

    /// Refuses keys that are neither in `known` nor asked to be ignored.
    ///
    /// # Errors
    /// `Unknown`, with every such pair.
    pub fn only(&self, known: &[&str]) -> Result<(), ArgsError> {
        let stranger = |(key, _): &&(String, String)| key != IGNORE_UNKNOWN && !known.contains(&key.as_str());
        let unknown: Vec<String> = self.pairs.iter().filter(stranger).map(|(k, v)| format!("{k}={v}")).collect();
        if unknown.is_empty() || self.ignore_unknown { Ok(()) } else { Err(ArgsError::Unknown(unknown)) }
    }

    /// The value of a key; the last one wins.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rfind(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// `MAC`, unparsed.
    pub fn mac(&self) -> Option<&str> {
        self.get("MAC")
    }

    /// `IP`, unparsed: host-local takes one address, static and the meta-plugin a comma-separated list.
    pub fn ip(&self) -> Option<&str> {
        self.get("IP")
    }

    /// `IP` as the one address the reference plugins take; empty is none.
    ///
    /// # Errors
    /// `Value`.
    pub fn ip_address(&self) -> Result<Option<IpAddr>, ArgsError> {
        self.address("IP")
    }

    /// `GATEWAY`; empty is none.
    ///
    /// # Errors
    /// `Value`.
    pub fn gateway(&self) -> Result<Option<IpAddr>, ArgsError> {
        self.address("GATEWAY")
    }

    /// `K8S_POD_NAMESPACE`.
    pub fn pod_namespace(&self) -> Option<&str> {
        self.get("K8S_POD_NAMESPACE")
    }

    /// `K8S_POD_NAME`.
    pub fn pod_name(&self) -> Option<&str> {
        self.get("K8S_POD_NAME")
    }

    /// `K8S_POD_UID`.
    pub fn pod_uid(&self) -> Option<&str> {
        self.get("K8S_POD_UID")
    }

    /// `K8S_POD_INFRA_CONTAINER_ID`.
    pub fn pod_sandbox(&self) -> Option<&str> {
        self.get("K8S_POD_INFRA_CONTAINER_ID")
    }

    fn address(&self, key: &str) -> Result<Option<IpAddr>, ArgsError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        address::parse_ip(value).map_err(|why| ArgsError::Value { pair: format!("{key}={value}"), why })
    }
}

/// The text for a delegate's CNI_ARGS.
impl std::fmt::Display for Args {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs: Vec<String> = self.pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&pairs.join(";"))
    }
}

fn truth(value: &str) -> Result<bool, String> {
    let value = value.to_lowercase();
    match value.as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("boolean unmarshal error: invalid input {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_in_order_and_the_last_wins() {
        let args = Args::parse("IP=10.0.0.1;MAC=a;MAC=b;K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=ns;K8S_POD_UID=").unwrap();
        assert_eq!((args.mac(), args.ip()), (Some("b"), Some("10.0.0.1")));
        assert_eq!((args.pod_name(), args.pod_namespace()), (Some("web-0"), Some("ns")));
        assert_eq!((args.pod_uid(), args.pod_sandbox()), (Some(""), None));
        assert_eq!(args.to_string(), "IP=10.0.0.1;MAC=a;MAC=b;K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=ns;K8S_POD_UID=");
        assert_eq!(Args::parse("").unwrap(), Args::default());
    }

    #[test]
    fn texts_are_go_s() {
        let cases = [
            ("FOO", r#"ARGS: invalid pair "FOO""#),
            ("A=1;", r#"ARGS: invalid pair """#),
            ("A=1=2", r#"ARGS: invalid pair "A=1=2""#),
            ("A=1;\"", r#"ARGS: invalid pair "\"""#),
            (
                "IgnoreUnknown=x",
                r#"ARGS: error parsing value of pair "IgnoreUnknown=x": boolean unmarshal error: invalid input x"#,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Args::parse(text).unwrap_err().to_string(), expected);
        }
        let args = Args::parse("FOO=1;IP=zz;ip=3").unwrap();
        assert_eq!(args.only(&["IP"]).unwrap_err().to_string(), r#"ARGS: unknown args ["FOO=1" "ip=3"]"#);
        let expected = r#"ARGS: error parsing value of pair "IP=zz": invalid IP address: zz"#;
        assert_eq!(args.ip_address().unwrap_err().to_string(), expected);
        assert_eq!(Args::parse("GATEWAY=::1").unwrap().gateway().unwrap().unwrap().to_string(), "::1");
    }

    #[test]
    fn unknown_keys_can_be_ignored_from_anywhere() {
        for text in ["FOO=1;IgnoreUnknown=1", "IgnoreUnknown=TRUE;FOO=1"] {
            assert_eq!(Args::parse(text).unwrap().only(&[]), Ok(()));
        }
        assert!(Args::parse("IgnoreUnknown=1;FOO=1;IgnoreUnknown=0").unwrap().only(&[]).is_err());
    }
}
