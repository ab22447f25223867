//! What a configuration says of rates, before and after it is validated. Looks nothing up.

use std::num::NonZeroU64;

use serde::Deserialize;

use crate::error::Error;

/// Bits of a byte.
const BYTE_BITS: u64 = 8;
/// A burst has fewer bytes than this (the reference plugin's bound).
const BURST_BYTES_END: u64 = u32::MAX as u64;

/// The configuration as it arrives. Any of the four keys, even with the value 0, beats all of `runtimeConfig.bandwidth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "PluginConf", default)]
pub struct Conf {
    /// Towards the pod, bits a second; 0 is no limit.
    #[serde(rename = "ingressRate")]
    pub ingress_rate: Option<u64>,
    /// Bits that may come at once.
    #[serde(rename = "ingressBurst")]
    pub ingress_burst: Option<u64>,
    /// From the pod, bits a second; 0 is no limit.
    #[serde(rename = "egressRate")]
    pub egress_rate: Option<u64>,
    /// Bits that may come at once.
    #[serde(rename = "egressBurst")]
    pub egress_burst: Option<u64>,
    /// What the runtime gives.
    #[serde(rename = "runtimeConfig")]
    pub runtime: Runtime,
}

/// `runtimeConfig`, as far as it is read here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "", default)]
pub struct Runtime {
    /// The capability `bandwidth`.
    pub bandwidth: Option<Entry>,
}

/// The capability's value: the same four keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "BandwidthEntry", default)]
pub struct Entry {
    /// Towards the pod, bits a second; 0 is no limit.
    #[serde(rename = "ingressRate")]
    pub ingress_rate: u64,
    /// Bits that may come at once.
    #[serde(rename = "ingressBurst")]
    pub ingress_burst: u64,
    /// From the pod, bits a second; 0 is no limit.
    #[serde(rename = "egressRate")]
    pub egress_rate: u64,
    /// Bits that may come at once.
    #[serde(rename = "egressBurst")]
    pub egress_burst: u64,
}

/// A limit of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bytes a second.
    pub(super) rate: NonZeroU64,
    /// Bytes that may come at once.
    pub(super) burst: u32,
}

/// A configuration that can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Towards the pod.
    pub(super) ingress: Option<Limit>,
    /// From the pod.
    pub(super) egress: Option<Limit>,
}

impl Conf {
    /// Parses the configuration.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`], with the reference plugin's texts where it has them.
    pub fn validate(self) -> Result<Spec, Error> {
        let own = [self.ingress_rate, self.ingress_burst, self.egress_rate, self.egress_burst];
        let entry = if own.iter().any(Option::is_some) {
            let [ingress_rate, ingress_burst, egress_rate, egress_burst] = own.map(Option::unwrap_or_default);
            Entry { ingress_rate, ingress_burst, egress_rate, egress_burst }
        } else {
            self.runtime.bandwidth.unwrap_or_default()
        };
        Ok(Spec {
            ingress: Limit::of(entry.ingress_rate, entry.ingress_burst)?,
            egress: Limit::of(entry.egress_rate, entry.egress_burst)?,
        })
    }
}

impl Limit {
    /// `rate` in bits a second, `burst` in bits; both zero are no limit.
    fn of(rate: u64, burst: u64) -> Result<Option<Self>, Error> {
        let bytes = burst / BYTE_BITS;
        match (rate, burst) {
            (0, 0) => return Ok(None),
            (_, 0) => return Err(Error::invalid("if rate is set, burst must also be set")),
            (0, _) => return Err(Error::invalid("if burst is set, rate must also be set")),
            _ if bytes >= BURST_BYTES_END => return Err(Error::invalid("burst cannot be more than 4GB")),
            _ => {}
        }
        // The kernel would refuse both after everything before this plugin is built.
        let less = |what: &str| Error::invalid(format!("create qdisc: invalid argument: {what} is less than a byte"));
        let rate = NonZeroU64::new(rate / BYTE_BITS).ok_or_else(|| less("the rate of a second"))?;
        let burst = u32::try_from(bytes).ok().filter(|bytes| *bytes > 0).ok_or_else(|| less("the burst"))?;
        Ok(Some(Self { rate, burst }))
    }
}

impl Spec {
    /// Whether there is no limit: nothing is asked of the kernel then.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn validated(text: &str) -> Result<Spec, Error> {
        serde_json::from_str::<Conf>(text).unwrap().validate()
    }

    fn limit(rate: u64, burst: u32) -> Option<Limit> {
        Some(Limit { rate: NonZeroU64::new(rate).unwrap(), burst })
    }

    #[test]
    fn wrong_values_have_the_reference_texts() {
        for (text, expected) in [
            (r#"{"ingressRate":8}"#, "if rate is set, burst must also be set"),
            (r#"{"ingressBurst":8}"#, "if burst is set, rate must also be set"),
            (r#"{"egressRate":8}"#, "if rate is set, burst must also be set"),
            (r#"{"egressBurst":8}"#, "if burst is set, rate must also be set"),
            (r#"{"egressBurst":34359738360}"#, "if burst is set, rate must also be set"),
            (r#"{"egressBurst":34359738360,"egressRate":8}"#, "burst cannot be more than 4GB"),
            (r#"{"runtimeConfig":{"bandwidth":{"ingressRate":1}}}"#, "if rate is set, burst must also be set"),
            (
                r#"{"ingressRate":7,"ingressBurst":8}"#,
                "create qdisc: invalid argument: the rate of a second is less than a byte",
            ),
            (r#"{"ingressRate":8,"ingressBurst":7}"#, "create qdisc: invalid argument: the burst is less than a byte"),
        ] {
            let error = validated(text).unwrap_err();
            assert_eq!((error.chain().as_str(), error.kind()), (expected, ErrorKind::Invalid), "{text}");
        }
    }

    #[test]
    fn the_greatest_burst_is_a_byte_below_the_bound() {
        let spec = validated(r#"{"ingressRate":8,"ingressBurst":34359738359}"#).unwrap();
        assert_eq!(spec, Spec { ingress: limit(1, u32::MAX - 1), egress: None });
        let spec = validated(r#"{"egressRate":18446744073709551615,"egressBurst":15}"#).unwrap();
        assert_eq!(spec, Spec { ingress: None, egress: limit(u64::MAX / 8, 1) });
    }

    #[test]
    fn one_own_key_beats_all_of_the_runtime_s() {
        let runtime =
            r#""runtimeConfig":{"bandwidth":{"ingressRate":800,"ingressBurst":80,"egressRate":8,"egressBurst":8}}"#;
        assert_eq!(
            validated(&format!("{{{runtime}}}")).unwrap(),
            Spec { ingress: limit(100, 10), egress: limit(1, 1) }
        );
        let own = r#""egressRate":1600,"egressBurst":160"#;
        assert_eq!(validated(&format!("{{{own},{runtime}}}")).unwrap(), Spec { ingress: None, egress: limit(200, 20) });
        assert!(validated(&format!("{{\"ingressRate\":0,{runtime}}}")).unwrap().is_idle());
    }

    #[test]
    fn no_limit_is_nothing_to_do() {
        for text in ["{}", r#"{"ingressRate":0,"egressBurst":0}"#, r#"{"runtimeConfig":{"bandwidth":{}}}"#] {
            assert!(validated(text).unwrap().is_idle(), "{text}");
        }
    }
}
