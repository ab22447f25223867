//! What a configuration of mapped ports says, before and after it is validated. Looks nothing up.

use serde::Deserialize;

use super::entry::{Entry, each_once};
use super::{Mapping, Snat};
use crate::error::Error;

const NFTABLES: &str = "nftables";
const IPTABLES: &str = "iptables";
/// The most ports of one pod: a range of a media server has a thousand.
const MAPPINGS_MAX: usize = 4096;
/// The same as rules, each of which every packet of every new flow is compared with; and one transaction removes them all.
const COMPATIBLE_MAX: usize = 512;
/// Bits of a packet's mark.
const MARK_BITS: i64 = 32;

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "PortMapConf", default)]
pub struct Conf {
    /// "iptables" (not built here) or "nftables"; none: nftables.
    pub backend: Option<String>,
    /// Whether what the pod would answer without the host gets the host's address as its source. None: it does.
    pub snat: Option<bool>,
    /// Conditions in the words of `nft` or `iptables` (not built here).
    #[serde(rename = "conditionsV4")]
    pub conditions_v4: Option<Vec<String>>,
    /// As above.
    #[serde(rename = "conditionsV6")]
    pub conditions_v6: Option<Vec<String>>,
    /// All that comes to the pod by its ports gets the host's address as its source.
    #[serde(rename = "masqAll")]
    pub masq_all: bool,
    /// A bit of the mark that iptables' rules set: 0 to 31. Says nothing here.
    #[serde(rename = "markMasqBit")]
    pub mark_masq_bit: Option<i64>,
    /// A chain of somebody's that sets a mark (not built here).
    #[serde(rename = "externalSetMarkChain")]
    pub external_set_mark_chain: Option<String>,
    /// Where mappings are: "maps" (none: so), or "compatible" with the reference plugin, whose DEL and CHECK then work, but each
    /// mapping is a rule that every new connection to the host passes.
    pub layout: Option<String>,
    /// What the runtime asks for.
    #[serde(rename = "runtimeConfig")]
    pub runtime_config: RuntimeConf,
}

/// What the runtime asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "struct { PortMaps []main.PortMapEntry \"json:\\\"portMappings,omitempty\\\"\" }", default)]
pub struct RuntimeConf {
    /// The mappings.
    #[serde(rename = "portMappings")]
    pub port_mappings: Option<Vec<Entry>>,
}

/// Where mappings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In maps of plexus' own tables.
    Maps,
    /// In the reference plugin's tables, as its rules.
    Compatible,
}

/// A configuration that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub(super) layout: Layout,
    pub(super) snat: Snat,
    pub(super) mappings: Vec<Mapping>,
}

impl Spec {
    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.mappings.is_empty()
    }

    /// The mappings, each once.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }
}

impl Conf {
    /// The first key whose effect this crate does not build: execute the plugin's binary then. Without mappings nothing has any.
    #[must_use]
    pub fn unsupported(&self) -> Option<&'static str> {
        if self.runtime_config.port_mappings.as_ref().is_none_or(Vec::is_empty) {
            return None;
        }
        let has_any = |conditions: &Option<Vec<String>>| conditions.as_ref().is_some_and(|all| !all.is_empty());
        let keys = [
            (self.backend.as_deref() == Some(IPTABLES), "backend: iptables"),
            (has_any(&self.conditions_v4), "conditionsV4"),
            (has_any(&self.conditions_v6), "conditionsV6"),
            (self.external_set_mark_chain.is_some(), "externalSetMarkChain"),
        ];
        keys.into_iter().find(|(is_there, _)| *is_there).map(|(_, key)| key)
    }

    /// Parses the configuration.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the reference plugin's texts, without what it puts before them in ADD and DEL
    /// ("failed to parse config: ").
    pub fn validate(self) -> Result<Spec, Error> {
        if self.mark_masq_bit.is_some() && self.external_set_mark_chain.is_some() {
            return Err(Error::invalid("Cannot specify externalSetMarkChain and markMasqBit"));
        }
        if self.mark_masq_bit.is_some_and(|bit| !(0..MARK_BITS).contains(&bit)) {
            return Err(Error::invalid("MasqMarkBit must be between 0 and 31"));
        }
        self.validate_backend()?;
        let layout = match self.layout.as_deref() {
            None | Some("maps") => Layout::Maps,
            Some("compatible") => Layout::Compatible,
            Some(other) => {
                return Err(Error::invalid(format!("unknown layout \"{other}\": \"maps\" or \"compatible\"")));
            }
        };
        let snat = match (self.snat, self.masq_all) {
            (Some(false), _) => Snat::Never,
            (_, true) => Snat::All,
            (_, false) => Snat::Near,
        };
        let entries = self.runtime_config.port_mappings.unwrap_or_default();
        let mappings = entries.iter().map(Entry::validate).collect::<Result<Vec<_>, _>>()?;
        let mappings = each_once(mappings)?;
        let max = if layout == Layout::Maps { MAPPINGS_MAX } else { COMPATIBLE_MAX };
        if mappings.len() > max {
            let text = format!("{} ports are mapped, more than the {max} of one pod", mappings.len());
            return Err(Error::invalid(text));
        }
        Ok(Spec { layout, snat, mappings })
    }

    fn validate_backend(&self) -> Result<(), Error> {
        let Some(backend) = self.backend.as_deref() else { return Ok(()) };
        let other = if backend == IPTABLES { NFTABLES } else { IPTABLES };
        let chain = self.external_set_mark_chain.as_ref().map(|_| IPTABLES);
        let specific = [
            ("externalSetMarkChain", chain),
            ("conditionsV4", written_for(self.conditions_v4.as_deref())),
            ("conditionsV6", written_for(self.conditions_v6.as_deref())),
        ];
        let foreign: Vec<&str> =
            specific.into_iter().filter(|(_, of)| *of == Some(other)).map(|(key, _)| key).collect();
        if !foreign.is_empty() {
            let keys = foreign.join(" ");
            let text =
                format!("{backend} backend was requested but configuration contains {other}-specific options [{keys}]");
            return Err(Error::invalid(text));
        }
        if ![NFTABLES, IPTABLES].contains(&backend) {
            return Err(Error::invalid(format!("unrecognized backend \"{backend}\"")));
        }
        Ok(())
    }
}

/// The backend in whose words conditions are: those of iptables begin with an option or a negation.
fn written_for(conditions: Option<&[String]>) -> Option<&'static str> {
    let first = conditions?.first().filter(|first| !first.is_empty())?;
    Some(if first.starts_with(['-', '!']) { IPTABLES } else { NFTABLES })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chained::portmap::{Place, Protocol};
    use crate::error::ErrorKind;

    fn conf(text: &str) -> Conf {
        serde_json::from_str(text).unwrap()
    }

    fn with(mappings: &str, more: &str) -> Conf {
        conf(&format!(r#"{{"runtimeConfig":{{"portMappings":[{mappings}]}}{more}}}"#))
    }

    const ONE: &str = r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp"}"#;

    #[test]
    fn wrong_values_have_the_reference_texts() {
        for (mappings, more, expected) in [
            (
                "",
                r#","markMasqBit":3,"externalSetMarkChain":"x""#,
                "Cannot specify externalSetMarkChain and markMasqBit",
            ),
            ("", r#","markMasqBit":32"#, "MasqMarkBit must be between 0 and 31"),
            ("", r#","markMasqBit":-1"#, "MasqMarkBit must be between 0 and 31"),
            ("", r#","backend":"zz""#, "unrecognized backend \"zz\""),
            ("", r#","backend":"""#, "unrecognized backend \"\""),
            (
                "",
                r#","backend":"nftables","externalSetMarkChain":"x","conditionsV4":["tcp"],"conditionsV6":["!"]"#,
                "nftables backend was requested but configuration contains iptables-specific options \
                 [externalSetMarkChain conditionsV6]",
            ),
            (
                "",
                r#","backend":"iptables","conditionsV4":["ip","saddr"]"#,
                "iptables backend was requested but configuration contains nftables-specific options [conditionsV4]",
            ),
            (
                "",
                r#","backend":"zz","conditionsV4":["-s"]"#,
                "zz backend was requested but configuration contains iptables-specific options [conditionsV4]",
            ),
            (r#"{"hostPort":0,"containerPort":0}"#, "", "Invalid container port number: 0"),
            (r#"{"hostPort":0,"containerPort":80}"#, "", "Invalid host port number: 0"),
            (r#"{"hostPort":-1,"containerPort":80}"#, "", "Invalid host port number: -1"),
            (r#"{"hostPort":65536,"containerPort":80}"#, "", "Invalid host port number: 65536"),
            (r#"{"hostPort":80,"containerPort":99999}"#, "", "Invalid container port number: 99999"),
        ] {
            let error = with(mappings, more).validate().unwrap_err();
            assert_eq!((error.chain().as_str(), error.kind()), (expected, ErrorKind::Invalid));
        }
    }

    #[test]
    fn what_the_reference_plugin_finds_late_or_never_is_refused_first() {
        for (mappings, more, expected) in [
            (
                r#"{"hostPort":80,"containerPort":80}"#,
                "",
                "unknown protocol of host port 80: it is \"\", not tcp, udp or sctp",
            ),
            (
                r#"{"hostPort":80,"containerPort":80,"protocol":"icmp"}"#,
                "",
                "unknown protocol of host port 80: it is \"icmp\", not tcp, udp or sctp",
            ),
            (
                r#"{"hostPort":80,"containerPort":80,"protocol":"tcp","hostIP":"localhost"}"#,
                "",
                "invalid hostIP of host port 80: it is \"localhost\", no address",
            ),
            (
                r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp"},
                   {"hostPort":8080,"containerPort":81,"protocol":"TCP","hostIP":"::"}"#,
                "",
                "host port 8080/tcp is asked for twice: for port 80 and for 81",
            ),
            ("", r#","layout":"x""#, "unknown layout \"x\": \"maps\" or \"compatible\""),
        ] {
            assert_eq!(with(mappings, more).validate().unwrap_err().chain(), expected);
        }
    }

    #[test]
    fn what_only_the_binary_can_do_is_told_where_anything_is_mapped() {
        for (more, expected) in [
            (r#","backend":"iptables""#, Some("backend: iptables")),
            (r#","backend":"nftables","snat":false,"masqAll":true,"markMasqBit":5,"layout":"compatible""#, None),
            (r#","conditionsV4":["ip","saddr","10.0.0.0/8"]"#, Some("conditionsV4")),
            (r#","conditionsV4":[],"conditionsV6":["-s"]"#, Some("conditionsV6")),
            (r#","externalSetMarkChain":"KUBE-MARK-MASQ""#, Some("externalSetMarkChain")),
        ] {
            assert_eq!(with(ONE, more).unsupported(), expected, "{more}");
            assert_eq!(with("", more).unsupported(), None, "{more}");
        }
    }

    #[test]
    fn protocols_are_known_in_any_case_and_the_same_mapping_is_one() {
        let spec = with(
            r#"{"hostPort":1,"containerPort":2,"protocol":"TCP"},{"hostPort":1,"containerPort":2,"protocol":"tcp"},
               {"hostPort":1,"containerPort":2,"protocol":"Udp","hostIP":"0.0.0.0"},
               {"hostPort":1,"containerPort":2,"protocol":"sctp","hostIP":"::ffff:192.0.2.1"},
               {"hostPort":1,"containerPort":3,"protocol":"tcp","hostIP":"192.0.2.1"}"#,
            "",
        )
        .validate()
        .unwrap();
        let mapping = |protocol, place, container_port| Mapping { protocol, host_port: 1, place, container_port };
        let address = Place::Address([192, 0, 2, 1].into());
        assert_eq!(
            spec.mappings(),
            [
                mapping(Protocol::Tcp, Place::Any, 2),
                mapping(Protocol::Udp, Place::AnyV4, 2),
                mapping(Protocol::Sctp, address, 2),
                mapping(Protocol::Tcp, address, 3),
            ]
        );
        assert!(!spec.is_idle() && with("", "").validate().unwrap().is_idle());
        assert!(conf(r#"{"runtimeConfig":{"portMappings":null}}"#).validate().unwrap().is_idle());
    }

    #[test]
    fn source_addresses_change_as_asked_for() {
        for (more, expected) in [
            ("", Snat::Near),
            (r#","snat":null"#, Snat::Near),
            (r#","snat":false"#, Snat::Never),
            (r#","snat":false,"masqAll":true"#, Snat::Never),
            (r#","masqAll":true"#, Snat::All),
        ] {
            assert_eq!(with(ONE, more).validate().unwrap().snat, expected, "{more}");
        }
    }
}
