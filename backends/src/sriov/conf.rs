//! What the configuration of a virtual function says. The keys are sriov-cni's, and a few more. Knows no kernel.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::cards::Cards;
use crate::error::Error;
use crate::guid::Guid;
use crate::mac::Mac;
use crate::netlink::vf::PROTO_8021Q;
use crate::sysfs::PciAddress;

/// The highest VLAN (IEEE 802.1Q, 9.6: 4095 is reserved). Some drivers take that one too.
const VLAN_MAX: i64 = 4094;
/// The highest priority in a tag (IEEE 802.1Q, 9.6).
const QOS_MAX: i64 = 7;
/// A provider's tag (`ETH_P_8021AD`).
const PROTO_8021AD: u16 = 0x88a8;
/// The link is as the card's (`IFLA_VF_LINK_STATE_AUTO`).
pub(super) const LINK_AUTO: u32 = 0;
/// No link, whatever the card has (`IFLA_VF_LINK_STATE_DISABLE`).
pub(super) const LINK_DISABLED: u32 = 2;
/// sriov-cni's.
const LOG_LEVELS: [&str; 5] = ["panic", "error", "warning", "info", "debug"];
/// The smallest and the largest MTU that any card takes, in bytes (RFC 791; `ETH_MAX_MTU`).
const MTU: std::ops::RangeInclusive<i64> = 68..=65_535;

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct Conf {
    /// The function's address on the PCI bus.
    #[serde(rename = "deviceID")]
    pub device_id: Option<String>,
    /// The physical functions of which it must be of one: names of their interfaces, or their addresses on the PCI bus. Without a function
    /// a free one of these cards is chosen.
    pub pf: Cards,
    /// The VLAN that its frames are tagged with, outside of the pod. 0: none.
    pub vlan: Option<i64>,
    /// The priority in those tags.
    #[serde(rename = "vlanQoS")]
    pub vlan_qos: Option<i64>,
    /// "802.1q" or "802.1ad".
    #[serde(rename = "vlanProto")]
    pub vlan_proto: Option<String>,
    /// The hardware address; a requested one wins over it.
    pub mac: Option<String>,
    /// "on": frames of a foreign source address are dropped.
    pub spoofchk: Option<String>,
    /// "on": the pod may change what only the administrator may.
    pub trust: Option<String>,
    /// Mbit/s that it is promised; 0 is none.
    pub min_tx_rate: Option<i64>,
    /// Mbit/s that it is held to; 0 is none.
    pub max_tx_rate: Option<i64>,
    /// "auto", "enable" or "disable".
    pub link_state: Option<String>,
    /// Bytes. Zero: left as it is.
    pub mtu: i64,
    /// What the card may refuse: then it is left as it is.
    pub optional: Vec<String>,
    /// What the function must be bound to: "netdev" or "vfio-pci".
    pub driver: Option<String>,
    /// What sriov-cni's own log has: "panic", "error", "warning", "info" or "debug". There is no such log here.
    #[serde(rename = "logLevel")]
    pub log_level: Option<String>,
    /// Where that is. It is not written: who may write definitions would say to which of the node's files.
    #[serde(rename = "logFile")]
    pub log_file: Option<String>,
    /// What the runtime adds.
    #[serde(rename = "runtimeConfig")]
    pub runtime_config: RuntimeConfig,
    /// What the pod or the network asks for.
    pub args: Args,
}

/// The part of `runtimeConfig` that is a function's. Its `mac` is a request, which is read with all others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct RuntimeConfig {
    /// The function that a device plugin has reserved for the pod.
    #[serde(rename = "deviceID")]
    pub device_id: Option<String>,
    /// The requested hardware address.
    pub mac: Option<String>,
    /// The requested identifier of an InfiniBand function.
    #[serde(rename = "infinibandGUID")]
    pub infiniband_guid: Option<String>,
}

/// Other requests, beside the configuration's own keys (`args`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct Args {
    /// The part that is for plugins.
    pub cni: CniArgs,
}

/// As above.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct CniArgs {
    /// As `infinibandGUID`, which wins over it.
    pub guid: Option<String>,
}

/// A VLAN with what else is in its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vlan {
    pub(super) id: u32,
    pub(super) qos: u32,
    pub(super) proto: u16,
}

/// What a card may refuse without harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    SpoofCheck,
    Trust,
    MinRate,
    MaxRate,
    LinkState,
    Mtu,
}

impl Attribute {
    const ALL: [Self; 6] = [Self::SpoofCheck, Self::Trust, Self::MinRate, Self::MaxRate, Self::LinkState, Self::Mtu];

    /// Its key in the configuration.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::SpoofCheck => "spoofchk",
            Self::Trust => "trust",
            Self::MinRate => "min_tx_rate",
            Self::MaxRate => "max_tx_rate",
            Self::LinkState => "link_state",
            Self::Mtu => "mtu",
        }
    }
}

/// What a function must be bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Binding {
    /// A driver that makes an interface of it.
    #[serde(rename = "netdev")]
    Interface,
    /// vfio-pci.
    #[serde(rename = "vfio-pci")]
    Vfio,
}

/// A configuration that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    device: Option<String>,
    pub(super) pf: Vec<String>,
    /// The processors that it should be near, where that is known.
    pub(super) near: BTreeSet<u32>,
    pub(super) vlan: Option<Vlan>,
    pub(super) mac: Option<Mac>,
    pub(super) spoof_check: Option<bool>,
    pub(super) trust: Option<bool>,
    pub(super) min_rate: Option<u32>,
    pub(super) max_rate: Option<u32>,
    pub(super) link_state: Option<u32>,
    pub(super) mtu: Option<u32>,
    pub(super) optional: Vec<Attribute>,
    pub(super) binding: Option<Binding>,
    pub(super) guid: Option<Guid>,
    pub(super) told: Vec<String>,
}

impl Conf {
    /// Parses the configuration. What sysfs and the kernel know is looked up later.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with what is wrong.
    pub fn validate(self) -> Result<Spec, Error> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let mut told = Vec::new();
        let device = given(self.runtime_config.device_id).or(given(self.device_id));
        let pf = self.pf.validate()?;
        let guid = given(self.runtime_config.infiniband_guid).or(given(self.args.cni.guid));
        if device.is_none() && pf.is_empty() {
            let text =
                "deviceID, the PCI address of a virtual function, is missing, and so is pf, of which one is chosen";
            return Err(Error::invalid(text));
        }
        log(given(self.log_level), given(self.log_file), &mut told);
        let vlan = vlan(self.vlan, self.vlan_qos, given(self.vlan_proto))?;
        let link_state = match given(self.link_state).as_deref() {
            None => None,
            Some("auto") => Some(LINK_AUTO),
            Some("enable") => Some(1),
            Some("disable") => Some(LINK_DISABLED),
            Some(other) => {
                return Err(Error::invalid(format!("link_state \"{other}\" is not auto, enable or disable")));
            }
        };
        let (min_rate, max_rate) = (rate("min_tx_rate", self.min_tx_rate)?, rate("max_tx_rate", self.max_tx_rate)?);
        if let (Some(min), Some(max @ 1..)) = (min_rate, max_rate)
            && min > max
        {
            return Err(Error::invalid(format!("min_tx_rate {min} is more than max_tx_rate {max}")));
        }
        Ok(Spec {
            device,
            pf,
            near: BTreeSet::new(),
            vlan,
            mac: given(self.mac).map(|text| own_mac(&text)).transpose()?,
            spoof_check: given(self.spoofchk).map(|text| switch("spoofchk", &text, &mut told)),
            trust: given(self.trust).map(|text| switch("trust", &text, &mut told)),
            min_rate,
            max_rate,
            link_state,
            mtu: mtu(self.mtu)?,
            optional: self.optional.iter().map(|key| attribute(key)).collect::<Result<_, _>>()?,
            binding: given(self.driver).map(|text| binding(&text)).transpose()?,
            guid: guid.map(|text| text.parse().map_err(|e| Error::invalid("infinibandGUID").because(e))).transpose()?,
            told,
        })
    }
}

impl Spec {
    /// The function, by what a device plugin calls it: its address on the PCI bus, if anything can be made of it. None where one of
    /// the card is still to be chosen.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// The cards of which a function must be of one, where the configuration says so.
    #[must_use]
    pub fn cards(&self) -> &[String] {
        &self.pf
    }

    /// Of several cards, one near these processors is taken first.
    pub fn prefer(&mut self, processors: &BTreeSet<u32>) {
        self.near.clone_from(processors);
    }

    /// The identifier of an InfiniBand function, where one is asked for.
    #[must_use]
    pub fn guid(&self) -> Option<String> {
        self.guid.map(|guid| guid.to_string())
    }

    /// What of the configuration is taken otherwise than it is written, a sentence each, which begins with the key.
    #[must_use]
    pub fn told(&self) -> &[String] {
        &self.told
    }

    /// Means the function of that address from now on.
    pub fn choose(&mut self, device: &str) {
        self.device = Some(device.to_owned());
    }

    /// Its address. Read when it is attached: a plan that is only shown may have something in its place.
    pub(super) fn address(&self) -> Result<PciAddress, Error> {
        let unchosen = || Error::invalid("no virtual function of pf was chosen");
        self.device.as_ref().ok_or_else(unchosen)?.parse().map_err(|e| Error::invalid("deviceID").because(e))
    }

    /// Whether a card may refuse it.
    pub(super) fn may_lack(&self, attribute: Attribute) -> bool {
        self.optional.contains(&attribute)
    }
}

fn vlan(id: Option<i64>, qos: Option<i64>, proto: Option<String>) -> Result<Option<Vlan>, Error> {
    let Some(id) = id else {
        let alone = [("vlanQoS", qos.is_some()), ("vlanProto", proto.is_some())].into_iter().find(|(_, given)| *given);
        return match alone {
            Some((key, _)) => Err(Error::invalid(format!("{key} says nothing without vlan"))),
            None => Ok(None),
        };
    };
    let within = |key: &str, number: i64, most: i64| {
        let number = Some(number).filter(|number| (0..=most).contains(number)).and_then(|n| u32::try_from(n).ok());
        number.ok_or_else(|| Error::invalid(format!("{key} is not in the range 0 to {most}")))
    };
    let (id, qos) = (within("vlan", id, VLAN_MAX)?, within("vlanQoS", qos.unwrap_or_default(), QOS_MAX)?);
    let proto = match proto.as_deref().unwrap_or("802.1q").to_ascii_lowercase().as_str() {
        "802.1q" => PROTO_8021Q,
        "802.1ad" => PROTO_8021AD,
        other => return Err(Error::invalid(format!("vlanProto \"{other}\" is neither 802.1q nor 802.1ad"))),
    };
    if id == 0 && (qos != 0 || proto != PROTO_8021Q) {
        return Err(Error::invalid("vlanQoS and vlanProto 802.1ad need a vlan that is not 0"));
    }
    Ok(Some(Vlan { id, qos, proto }))
}

fn rate(key: &str, given: Option<i64>) -> Result<Option<u32>, Error> {
    let wrong = || Error::invalid(format!("{key} is no number of Mbit/s"));
    given.map(|number| u32::try_from(number).map_err(|_| wrong())).transpose()
}

fn mtu(given: i64) -> Result<Option<u32>, Error> {
    let wrong = || Error::invalid(format!("mtu {given} is not in the range {} to {}", MTU.start(), MTU.end()));
    match given {
        0 => Ok(None),
        _ => {
            Some(given).filter(|mtu| MTU.contains(mtu)).and_then(|mtu| mtu.try_into().ok()).map(Some).ok_or_else(wrong)
        }
    }
}

fn own_mac(text: &str) -> Result<Mac, Error> {
    let mac = text.parse::<Mac>().map_err(|e| Error::invalid("mac").because(e))?;
    check_mac(mac)?;
    Ok(mac)
}

/// A hardware address that one interface alone can have.
pub(super) fn check_mac(mac: Mac) -> Result<(), Error> {
    let [first, ..] = mac.octets();
    match mac.is_zero() || first & 1 == 1 {
        true => Err(Error::invalid(format!("mac {mac} is no address that one interface can have"))),
        false => Ok(()),
    }
}

/// sriov-cni takes whatever is not "on" for "off", and so do the networks that are written for it.
fn switch(key: &str, text: &str, told: &mut Vec<String>) -> bool {
    if !matches!(text, "on" | "off") {
        told.push(format!("{key} \"{text}\" is neither on nor off: it is taken for off"));
    }
    text == "on"
}

/// A level is sriov-cni's business, which takes any; where what it would write to a file is to be found instead is said.
fn log(level: Option<String>, file: Option<String>, told: &mut Vec<String>) {
    if let Some(level) = level.filter(|level| !LOG_LEVELS.contains(&level.as_str())) {
        told.push(format!("logLevel \"{level}\" is none of {}, and says nothing", LOG_LEVELS.join(", ")));
    }
    if let Some(file) = file {
        told.push(format!("logFile {file} is not written: what is said of this attachment is in the log of plexus"));
    }
}

fn attribute(key: &str) -> Result<Attribute, Error> {
    let known = Attribute::ALL.into_iter().find(|attribute| attribute.key() == key);
    let all = || Attribute::ALL.map(Attribute::key).join(", ");
    known.ok_or_else(|| Error::invalid(format!("optional: \"{key}\" is none of {}", all())))
}

fn binding(text: &str) -> Result<Binding, Error> {
    match text {
        "netdev" => Ok(Binding::Interface),
        "vfio-pci" => Ok(Binding::Vfio),
        other => Err(Error::invalid(format!("driver \"{other}\" is neither netdev nor vfio-pci"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(rest: &str) -> Result<Spec, String> {
        let text = format!(r#"{{"deviceID":"0000:01:10.0"{rest}}}"#);
        serde_json::from_str::<Conf>(&text).unwrap().validate().map_err(|e| e.chain())
    }

    #[test]
    fn the_function_that_the_runtime_names_wins() {
        let text = r#"{"deviceID":"0000:01:10.0","runtimeConfig":{"deviceID":"0000:01:10.2"}}"#;
        let spec = serde_json::from_str::<Conf>(text).unwrap().validate().unwrap();
        assert_eq!(spec.device(), Some("0000:01:10.2"));
        let missing = serde_json::from_str::<Conf>("{}").unwrap().validate().unwrap_err().chain();
        let said = "deviceID, the PCI address of a virtual function, is missing, and so is pf, of which one is chosen";
        assert_eq!(missing, said);
        let mut spec = serde_json::from_str::<Conf>(r#"{"pf":"eth0"}"#).unwrap().validate().unwrap();
        assert_eq!(
            (spec.device(), spec.cards(), spec.address().is_err()),
            (None, ["eth0".to_owned()].as_slice(), true)
        );
        spec.choose("0000:01:10.2");
        assert_eq!(spec.address().unwrap().as_str(), "0000:01:10.2");
        let text = r#"{"deviceID":"../0000:01:10.0"}"#;
        let wrong = serde_json::from_str::<Conf>(text).unwrap().validate().unwrap().address().unwrap_err().chain();
        assert_eq!(wrong, "deviceID: \"../0000:01:10.0\" is no PCI address, as \"0000:01:10.0\"");
    }

    #[test]
    fn everything_is_read() {
        let all = r#","pf":"eth0","vlan":100,"vlanQoS":3,"vlanProto":"802.1AD","mac":"02:00:00:00:00:07","spoofchk":"off","trust":"on",
            "min_tx_rate":0,"max_tx_rate":200,"link_state":"disable","mtu":9000,"optional":["trust","mtu"],"driver":"netdev",
            "logLevel":"debug","logFile":"/x","runtimeConfig":{"mac":"02:00:00:00:00:08"},"args":{"cni":{"guid":"c2:11:22:33:44:55:66:77"}}"#;
        let expected = Spec {
            device: Some("0000:01:10.0".to_owned()),
            pf: vec!["eth0".to_owned()],
            near: BTreeSet::new(),
            vlan: Some(Vlan { id: 100, qos: 3, proto: PROTO_8021AD }),
            mac: Some(Mac::new([2, 0, 0, 0, 0, 7])),
            spoof_check: Some(false),
            trust: Some(true),
            min_rate: Some(0),
            max_rate: Some(200),
            link_state: Some(2),
            mtu: Some(9000),
            optional: vec![Attribute::Trust, Attribute::Mtu],
            binding: Some(Binding::Interface),
            guid: Some(Guid::new(0xc211_2233_4455_6677)),
            told: vec!["logFile /x is not written: what is said of this attachment is in the log of plexus".to_owned()],
        };
        assert_eq!(spec(all), Ok(expected));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let cases = [
            (r#","vlan":4095"#, "vlan is not in the range 0 to 4094"),
            (r#","vlan":-1"#, "vlan is not in the range 0 to 4094"),
            (r#","vlanQoS":0"#, "vlanQoS says nothing without vlan"),
            (r#","vlanProto":"802.1q""#, "vlanProto says nothing without vlan"),
            (r#","vlan":1,"vlanQoS":8"#, "vlanQoS is not in the range 0 to 7"),
            (r#","vlan":0,"vlanQoS":1"#, "vlanQoS and vlanProto 802.1ad need a vlan that is not 0"),
            (r#","vlan":0,"vlanProto":"802.1ad""#, "vlanQoS and vlanProto 802.1ad need a vlan that is not 0"),
            (r#","vlan":1,"vlanProto":"qinq""#, "vlanProto \"qinq\" is neither 802.1q nor 802.1ad"),
            (r#","mac":"x""#, "mac: address x: invalid MAC address"),
            (r#","mac":"01:00:00:00:00:01""#, "mac 01:00:00:00:00:01 is no address that one interface can have"),
            (r#","mac":"00:00:00:00:00:00""#, "mac 00:00:00:00:00:00 is no address that one interface can have"),
            (r#","min_tx_rate":-1"#, "min_tx_rate is no number of Mbit/s"),
            (r#","max_tx_rate":4294967296"#, "max_tx_rate is no number of Mbit/s"),
            (r#","min_tx_rate":3,"max_tx_rate":2"#, "min_tx_rate 3 is more than max_tx_rate 2"),
            (r#","link_state":"up""#, "link_state \"up\" is not auto, enable or disable"),
            (r#","mtu":67"#, "mtu 67 is not in the range 68 to 65535"),
            (
                r#","optional":["vlan"]"#,
                "optional: \"vlan\" is none of spoofchk, trust, min_tx_rate, max_tx_rate, link_state, mtu",
            ),
            (
                r#","runtimeConfig":{"infinibandGUID":"0"}"#,
                "infinibandGUID: \"0\" is no GUID, as \"c2:11:22:33:44:55:66:77\"",
            ),
            (r#","driver":"igb_uio""#, "driver \"igb_uio\" is neither netdev nor vfio-pci"),
        ];
        for (text, said) in cases {
            assert_eq!(spec(text).unwrap_err(), said, "{text}");
        }
        assert!(spec(r#","min_tx_rate":3,"max_tx_rate":0"#).is_ok(), "no limit");
    }

    #[test]
    fn a_switch_that_is_neither_on_nor_off_is_off_and_said() {
        let spec = spec(r#","spoofchk":"ON","trust":"true""#).unwrap();
        assert_eq!((spec.spoof_check, spec.trust), (Some(false), Some(false)));
        let told = [
            "spoofchk \"ON\" is neither on nor off: it is taken for off",
            "trust \"true\" is neither on nor off: it is taken for off",
        ];
        assert_eq!(spec.told, told);
    }

    #[test]
    fn a_level_that_is_none_is_said() {
        assert_eq!(spec(r#","logLevel":"info","logFile":"""#).unwrap().told, Vec::<String>::new());
        let told = spec(r#","logLevel":"verbose""#).unwrap().told;
        assert_eq!(told, ["logLevel \"verbose\" is none of panic, error, warning, info, debug, and says nothing"]);
    }
}
