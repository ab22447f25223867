//! What tuning's configuration says, before and after it is validated. Looks nothing up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::allow::{ALLOW_LIST, AllowList};
use super::key;
use crate::error::Error;
use crate::mac::Mac;
use crate::netlink::tuning::Tuning;

/// Where backups are if the configuration does not say it (the reference plugin's default).
const DIRECTORY: &str = "/run/cni/tuning";

/// Values by key. Go takes `null` for an empty text.
type Sysctls = BTreeMap<String, Option<String>>;

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "TuningConf", default)]
pub struct Conf {
    /// The directory of backups.
    #[serde(rename = "dataDir")]
    pub directory: Option<String>,
    /// Kernel parameters of the pod.
    pub sysctl: Option<Sysctls>,
    /// Hardware address.
    pub mac: Option<String>,
    /// The link becomes promiscuous; `false` leaves it as it is.
    pub promisc: bool,
    /// Bytes. Zero: left as it is.
    pub mtu: i64,
    /// Length of the transmit queue, in packets.
    #[serde(rename = "txQLen")]
    pub tx_queue: Option<i64>,
    /// The link receives all multicast, or not.
    pub allmulti: Option<bool>,
    /// What the runtime adds.
    #[serde(rename = "runtimeConfig")]
    pub runtime: Option<Runtime>,
    /// What the runtime adds by the older convention.
    pub args: Option<Args>,
}

/// What the runtime adds for a capability.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "", default)]
pub struct Runtime {
    /// Hardware address. Wins over the configuration's and that of `CNI_ARGS`.
    pub mac: Option<String>,
}

/// `args`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "", default)]
pub struct Args {
    /// `args.cni`: what it has wins over everything.
    pub cni: Option<Overrides>,
}

/// The same keys again. What is not given leaves the configuration's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "IPAMArgs", default)]
pub struct Overrides {
    /// Each key wins for itself.
    pub sysctl: Option<Sysctls>,
    /// "" is none.
    pub mac: Option<String>,
    /// As in [`Conf`].
    pub promisc: Option<bool>,
    /// As in [`Conf`].
    pub mtu: Option<i64>,
    /// As in [`Conf`].
    pub allmulti: Option<bool>,
    /// As in [`Conf`].
    #[serde(rename = "txQLen")]
    pub tx_queue: Option<i64>,
}

/// What a call says beside the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// `MAC` of `CNI_ARGS`; "" is none.
    pub env_mac: &'a str,
}

/// A kernel parameter and the value it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    /// Below [`key::TREE`].
    pub(super) path: String,
    pub(super) value: String,
}

/// A configuration that can be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub(super) ifname: String,
    pub(super) directory: PathBuf,
    pub(super) tuning: Tuning,
    /// The hardware address as the result says it: in the configuration's form.
    pub(super) mac_text: Option<String>,
    /// In the order in which they are written; no path twice.
    pub(super) parameters: Vec<Parameter>,
    /// As the configuration has them: the allow-list's patterns are about these.
    keys: Vec<String>,
}

impl Conf {
    /// The directory of backups: all that DEL needs of a configuration.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        PathBuf::from(self.directory.as_deref().filter(|path| !path.is_empty()).unwrap_or(DIRECTORY))
    }

    /// Puts together what the configuration and the runtime say.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the reference plugin's texts.
    pub fn validate(self, asked: &Asked<'_>) -> Result<Spec, Error> {
        let directory = self.directory();
        let args = self.args.and_then(|args| args.cni).unwrap_or_default();
        let (own, over) = (self.sysctl.unwrap_or_default(), args.sysctl.unwrap_or_default());
        let keys = own.keys().chain(over.keys()).cloned().collect();
        let ifname = asked.ifname;
        if ifname.contains('/') {
            return Err(Error::invalid(format!("Interface name ({ifname}) contains an invalid character /")));
        }
        let parameters = parameters(own, over, ifname)?;
        let runtime = self.runtime.and_then(|runtime| runtime.mac).filter(|mac| !mac.is_empty());
        let env = Some(asked.env_mac.to_owned()).filter(|mac| !mac.is_empty());
        let mac_text = args.mac.or(runtime).or(env).or(self.mac).filter(|mac| !mac.is_empty());
        let mac = match &mac_text {
            Some(text) => Some(
                text.parse::<Mac>().map_err(|e| Error::invalid(format!("invalid args {text} for MAC addr: {e}")))?,
            ),
            None => None,
        };
        let tuning = Tuning {
            mac,
            promiscuous: args.promisc.unwrap_or(self.promisc).then_some(true),
            mtu: Some(args.mtu.unwrap_or(self.mtu))
                .filter(|mtu| *mtu != 0)
                .map(|mtu| number("mtu", mtu))
                .transpose()?,
            all_multicast: args.allmulti.or(self.allmulti),
            tx_queue: args.tx_queue.or(self.tx_queue).map(|length| number("txQLen", length)).transpose()?,
            ..Tuning::default()
        };
        Ok(Spec { ifname: ifname.to_owned(), directory, tuning, mac_text, parameters, keys })
    }
}

/// By path, so that two keys of one parameter are one: then the runtime's value wins over the configuration's.
fn parameters(own: Sysctls, over: Sysctls, ifname: &str) -> Result<Vec<Parameter>, Error> {
    let mut by_path = BTreeMap::new();
    for (key, value) in own.into_iter().chain(over) {
        by_path.insert(key::path(&key, ifname)?, value.unwrap_or_default());
    }
    let mut parameters: Vec<_> = by_path.into_iter().map(|(path, value)| Parameter { path, value }).collect();
    parameters.sort_by(|a, b| key::order(&a.path).cmp(&key::order(&b.path)));
    Ok(parameters)
}

/// The kernel has these numbers in 32 bits; a larger or a negative one would be taken for another.
fn number(key: &str, value: i64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::invalid(format!("invalid {key} {value}: not between 0 and {}", u32::MAX)))
}

impl Spec {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tuning.is_empty() && self.parameters.is_empty()
    }

    /// Whether it changes the pod's link, and not only the kernel's parameters.
    #[must_use]
    pub fn changes_link(&self) -> bool {
        !self.tuning.is_empty()
    }

    /// Whether the node's owner allows it. The list is read only where there are parameters. CHECK does not ask: a list that was
    /// changed since makes nothing wrong that is there.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the reference plugin's texts; as [`AllowList::read`].
    pub fn permitted(&self) -> Result<(), Error> {
        if self.keys.is_empty() {
            return Ok(());
        }
        self.permitted_by(&AllowList::read(Path::new(ALLOW_LIST))?)
    }

    fn permitted_by(&self, allowed: &AllowList) -> Result<(), Error> {
        self.keys.iter().try_for_each(|key| allowed.permits(key))
    }

    /// What the result's `mac` becomes in every interface of this name, in the configuration's form, as with the reference plugin.
    #[must_use]
    pub fn result_mac(&self) -> Option<&str> {
        self.mac_text.as_deref()
    }

    /// The MTU that the pod's interface gets, in bytes.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        self.tuning.mtu
    }

    /// The name of the pod's interface.
    #[must_use]
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// The directory of backups.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const ASKED: Asked<'_> = Asked { ifname: "eth0", env_mac: "" };

    fn spec(text: &str, asked: Asked<'_>) -> Result<Spec, Error> {
        serde_json::from_str::<Conf>(text).unwrap().validate(&asked)
    }

    fn pairs(spec: &Spec) -> Vec<(&str, &str)> {
        spec.parameters.iter().map(|one| (one.path.as_str(), one.value.as_str())).collect()
    }

    #[test]
    fn nothing_asked_is_nothing_to_do() {
        for text in ["{}", r#"{"sysctl":{},"mac":"","promisc":false,"mtu":0,"txQLen":null,"args":{"cni":{"mac":""}}}"#]
        {
            let spec = spec(text, ASKED).unwrap();
            assert!(spec.is_idle(), "{text}");
            assert_eq!(spec.directory, PathBuf::from("/run/cni/tuning"));
        }
        for text in [r#"{"allmulti":false}"#, r#"{"txQLen":0}"#, r#"{"sysctl":{"net.ipv4.x":null}}"#] {
            assert!(!spec(text, ASKED).unwrap().is_idle(), "{text}");
        }
    }

    #[test]
    fn the_hardware_address_is_the_last_that_is_given() {
        let mac = |number: u8| format!("02-00-00-00-00-0{number}");
        let (conf, runtime) = (format!(r#""mac":"{}""#, mac(1)), format!(r#""runtimeConfig":{{"mac":"{}"}}"#, mac(3)));
        let args = format!(r#""args":{{"cni":{{"mac":"{}"}}}}"#, mac(4));
        let env = Asked { env_mac: &mac(2), ..ASKED };
        for (text, asked, expected) in [
            (format!("{{{conf}}}"), ASKED, Some(mac(1))),
            (format!("{{{conf}}}"), env, Some(mac(2))),
            (format!("{{{conf},{runtime}}}"), env, Some(mac(3))),
            (format!("{{{conf},{runtime},{args}}}"), env, Some(mac(4))),
            (format!(r#"{{{conf},{runtime},"args":{{"cni":{{"mac":""}}}}}}"#), env, None),
            (format!(r#"{{{conf},"runtimeConfig":{{"mac":""}}}}"#), ASKED, Some(mac(1))),
        ] {
            let spec = spec(&text, asked).unwrap();
            assert_eq!(spec.result_mac(), expected.as_deref(), "{text}");
            assert_eq!(spec.tuning.mac, expected.map(|mac| mac.parse().unwrap()));
        }
    }

    #[test]
    fn args_win_over_everything_and_need_no_sysctl_beside_them() {
        let text = r#"{"sysctl":{"net.ipv4.conf.IFNAME.x":"1","net.ipv4.y":"1"},"promisc":true,"mtu":1400,"txQLen":5,
            "allmulti":true,"args":{"cni":{"sysctl":{"net/ipv4/conf/eth0/x":"2"},"promisc":false,"mtu":0,"txQLen":6,
            "allmulti":false}}}"#;
        let over = spec(text, ASKED).unwrap();
        let tuning = Tuning { all_multicast: Some(false), tx_queue: Some(6), ..Tuning::default() };
        assert_eq!(over.tuning, tuning);
        assert_eq!(pairs(&over), [("ipv4/y", "1"), ("ipv4/conf/eth0/x", "2")]);
        let alone = spec(r#"{"args":{"cni":{"sysctl":{"net.ipv4.y":"3"}}}}"#, ASKED).unwrap();
        assert_eq!(pairs(&alone), [("ipv4/y", "3")]);
    }

    #[test]
    fn wrong_values_have_the_reference_texts() {
        for (text, expected) in [
            (r#"{"sysctl":{"kernel.x":"1"},"mac":"zz"}"#, "invalid net sysctl key: \"kernel/x\""),
            (r#"{"mac":"zz"}"#, "invalid args zz for MAC addr: address zz: invalid MAC address"),
            (r#"{"mtu":-1}"#, "invalid mtu -1: not between 0 and 4294967295"),
            (r#"{"txQLen":4294967296}"#, "invalid txQLen 4294967296: not between 0 and 4294967295"),
        ] {
            let error = spec(text, ASKED).unwrap_err();
            assert_eq!((error.chain().as_str(), error.kind()), (expected, ErrorKind::Invalid));
        }
        let error = spec("{}", Asked { ifname: "eth/0", ..ASKED }).unwrap_err();
        assert_eq!(error.chain(), "Interface name (eth/0) contains an invalid character /");
    }

    #[test]
    fn the_allow_list_is_asked_for_every_key() {
        let conf = |text: &str| serde_json::from_str::<Conf>(text).unwrap();
        let list = AllowList::Only(vec!["^net.ipv4.a$".to_owned()]);
        let refused = r#"{"args":{"cni":{"sysctl":{"net.ipv4.b":"3"}}}}"#;
        for (text, allowed) in
            [(r#"{"sysctl":{"net.ipv4.a":"3"}}"#, true), (refused, false), (r#"{"sysctl":{"net.ipv4.b":"3"}}"#, false)]
        {
            let spec = conf(text).validate(&ASKED).unwrap();
            assert_eq!(spec.permitted_by(&list).is_ok(), allowed, "{text}");
        }
    }
}
