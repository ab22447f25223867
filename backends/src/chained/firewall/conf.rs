//! What the firewall's configuration says, before and after it is validated. Looks nothing up.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::chained::Previous;
use crate::error::Error;

/// The administrator's chain if none is named.
const ADMIN: &str = "CNI-ADMIN";
/// `XT_EXTENSION_MAXNAMELEN` (include/uapi/linux/netfilter/x_tables.h) without the final zero: what iptables takes as a
/// chain's name.
const CHAIN_BYTES_MAX: usize = 28;
/// Chains that lead to the administrator's, or that iptables knows itself: a jump to one is a loop, or means something else.
const TAKEN: [&str; 12] = [
    "INPUT",
    "FORWARD",
    "OUTPUT",
    "PREROUTING",
    "POSTROUTING",
    "CNI-FORWARD",
    "CNI-ISOLATION-STAGE-1",
    "CNI-ISOLATION-STAGE-2",
    "ACCEPT",
    "DROP",
    "QUEUE",
    "RETURN",
];

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "FirewallNetConf", default)]
pub struct Conf {
    /// "iptables", "firewalld"; anything else is firewalld where that is running.
    pub backend: Option<String>,
    /// The chain that comes before the rules for each address; "CNI-ADMIN" if none.
    #[serde(rename = "iptablesAdminChainName")]
    pub iptables_admin_chain_name: Option<String>,
    /// Firewalld's zone. Not built here.
    #[serde(rename = "firewalldZone")]
    pub firewalld_zone: Option<String>,
    /// "open", "same-bridge", "isolated"; open if none.
    #[serde(rename = "ingressPolicy")]
    pub ingress_policy: Option<String>,
}

/// Who of other networks, and of its own, reaches the pods of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Pods of its own bridge, none of another bridge with a policy.
    SameBridge,
    /// As [`Policy::SameBridge`], and none of its own bridge either.
    Isolated,
}

impl Policy {
    /// The configuration's word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SameBridge => "same-bridge",
            Self::Isolated => "isolated",
        }
    }
}

/// A configuration that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Firewalld does the work where it is running.
    pub(super) prefers_firewalld: bool,
    admin: String,
    policy: Option<Policy>,
}

/// A bridge and its policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The bridge's name.
    pub bridge: String,
    /// Who reaches its pods.
    pub policy: Policy,
}

/// What is to be done for one attachment, and all that must be known to undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The administrator's chain.
    pub admin: String,
    /// The addresses that pass, each once.
    pub addresses: Vec<IpAddr>,
    /// The bridge that is isolated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// The attachment's own links on the host: what is left of its bridge without them decides when the isolation ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
}

impl Conf {
    /// What of it only the reference plugin builds, whatever the node runs.
    #[must_use]
    pub fn unsupported(&self) -> Option<&'static str> {
        (self.backend.as_deref() == Some("firewalld")).then_some("backend: firewalld")
    }

    /// Validates it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a policy that nobody knows, with the reference plugin's text, and for a name that no
    /// chain of iptables can have.
    pub fn validate(&self) -> Result<Spec, Error> {
        let policy = match self.ingress_policy.as_deref() {
            None | Some("" | "open") => None,
            Some("same-bridge") => Some(Policy::SameBridge),
            Some("isolated") => Some(Policy::Isolated),
            Some(unknown) => return Err(Error::invalid(format!("unknown ingress policy: \"{unknown}\""))),
        };
        let admin = self.iptables_admin_chain_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(ADMIN);
        validate_chain(admin)?;
        let prefers_firewalld = self.backend.as_deref() != Some("iptables");
        Ok(Spec { prefers_firewalld, admin: admin.to_owned(), policy })
    }
}

/// What iptables refuses as the name of a chain.
fn validate_chain(name: &str) -> Result<(), Error> {
    let is_printable = name.bytes().all(|byte| byte.is_ascii_graphic());
    let wrong = if name.len() > CHAIN_BYTES_MAX {
        "is longer than 28 bytes"
    } else if !is_printable || name.starts_with(['-', '!']) {
        "is no name of a chain"
    } else if TAKEN.contains(&name) {
        "is taken"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("iptablesAdminChainName \"{name}\" {wrong}")))
}

impl Spec {
    /// The same without a policy, and with each that there is; none where it says nothing of a bridge.
    pub(in crate::chained) fn policies(&self) -> Option<[Self; 3]> {
        let with = |policy| Self { policy, ..self.clone() };
        self.policy.map(|_| [with(None), with(Some(Policy::SameBridge)), with(Some(Policy::Isolated))])
    }

    /// Whether its bridge is isolated from others.
    pub(crate) fn isolates(&self) -> bool {
        self.policy.is_some()
    }

    /// What it means for an attachment: looks nothing up. The bridge is the first interface of the result, as the reference
    /// plugin takes it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the reference plugin's texts where a policy has no bridge to work on.
    pub fn resolve(&self, previous: &Previous) -> Result<Resolved, Error> {
        let mut addresses: Vec<IpAddr> = Vec::with_capacity(previous.addresses.len());
        for (address, _) in &previous.addresses {
            let ip = address.address.ip().to_canonical();
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        let isolation = match self.policy {
            Some(policy) => Some(Isolation { bridge: bridge(previous, policy)?, policy }),
            None => None,
        };
        let others = previous.interfaces.iter().filter(|interface| !interface.in_pod);
        let ports = others.skip(1).map(|interface| interface.name.clone());
        let ports = if isolation.is_some() { ports.collect() } else { Vec::new() };
        Ok(Resolved { admin: self.admin.clone(), addresses, isolation, ports })
    }
}

fn bridge(previous: &Previous, policy: Policy) -> Result<String, Error> {
    let Some(first) = previous.interfaces.first() else {
        let text = format!(
            "interface needs to be set for ingress policy \"{}\", make sure to chain \"firewall\" plugin with \"bridge\"",
            policy.name()
        );
        return Err(Error::invalid(text));
    };
    match first.name.as_str() {
        "" => Err(Error::invalid("got empty bridge name")),
        name => Ok(name.to_owned()),
    }
}

impl Resolved {
    /// Whether there is nothing to do: a pod without addresses.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.addresses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, Interface};

    fn conf(policy: &str, admin: &str) -> Conf {
        Conf {
            ingress_policy: Some(policy.to_owned()),
            iptables_admin_chain_name: Some(admin.to_owned()),
            ..Conf::default()
        }
    }

    fn previous(interfaces: &[&str], addresses: &[&str]) -> Previous {
        let interface = |name: &&str| Interface { name: (*name).to_owned(), ..Interface::default() };
        let address = |text: &&str| (Address { address: text.parse().unwrap(), gateway: None }, None);
        Previous {
            interfaces: interfaces.iter().map(interface).collect(),
            addresses: addresses.iter().map(address).collect(),
            routes: Vec::new(),
        }
    }

    #[test]
    fn errors_are_the_reference_plugins() {
        let policy = conf("zz", "").validate().unwrap_err();
        assert_eq!(policy.to_string(), "unknown ingress policy: \"zz\"");
        let spec = conf("isolated", "").validate().unwrap();
        assert_eq!(
            spec.resolve(&previous(&[], &["10.1.0.2/24"])).unwrap_err().to_string(),
            "interface needs to be set for ingress policy \"isolated\", make sure to chain \"firewall\" plugin with \"bridge\""
        );
        assert_eq!(spec.resolve(&previous(&[""], &[])).unwrap_err().to_string(), "got empty bridge name");
        assert!(conf("", "").validate().unwrap().resolve(&previous(&[], &[])).unwrap().is_idle());
    }

    #[test]
    fn an_unknown_backend_is_none_and_firewalld_is_not_built() {
        for (backend, unsupported, prefers_firewalld) in [
            (None, None, true),
            (Some(""), None, true),
            (Some("nonsense"), None, true),
            (Some("iptables"), None, false),
            (Some("firewalld"), Some("backend: firewalld"), true),
        ] {
            let conf = Conf { backend: backend.map(str::to_owned), ..Conf::default() };
            let spec = conf.validate().unwrap();
            assert_eq!((conf.unsupported(), spec.prefers_firewalld), (unsupported, prefers_firewalld), "{backend:?}");
        }
    }

    #[test]
    fn a_chain_has_a_name_that_iptables_takes() {
        for name in ["CNI-ADMIN", "a", &"x".repeat(28)] {
            conf("open", name).validate().unwrap();
        }
        for name in ["-x", "!x", "a b", "ä", "CNI-FORWARD", "ACCEPT", &"x".repeat(29)] {
            let error = conf("open", name).validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("iptablesAdminChainName \"{name}\" is ")), "{error}");
        }
    }

    #[test]
    fn each_address_counts_once_and_own_links_are_the_hosts() {
        let mut previous =
            previous(&["br0", "veth1", "eth0"], &["10.1.0.2/24", "::ffff:10.1.0.2/120", "fd00::2/64", "10.1.0.2/16"]);
        previous.interfaces[2].in_pod = true;
        let resolved = conf("same-bridge", "").validate().unwrap().resolve(&previous).unwrap();
        let [v4, v6]: [IpAddr; 2] = ["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let isolation = Some(Isolation { bridge: "br0".to_owned(), policy: Policy::SameBridge });
        let expected = Resolved {
            admin: "CNI-ADMIN".to_owned(),
            addresses: vec![v4, v6],
            isolation,
            ports: vec!["veth1".to_owned()],
        };
        assert_eq!(resolved, expected);
        let text = serde_json::to_string(&resolved).unwrap();
        assert_eq!(serde_json::from_str::<Resolved>(&text).unwrap(), resolved, "{text}");
    }
}
