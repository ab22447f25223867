//! One plugin configuration -> a step that plexus builds itself, or the reason why it is executed. Pure.
//!
//! A native kind is used where its configuration holds only keys that plexus knows; an unknown key may be a newer or a
//! patched plugin's, so the binary of that name is executed instead, where there is one. Knows nothing of other steps.

use std::net::IpAddr;
use std::path::Path;

use backends::chained::{self, Chained};
use backends::{Before, DnsRule, IpamRule, Kind, Mac, MacRule, Spec};
use ipam::Cidr;
use ipam::host_local::{self, Pool};
use ipam::static_::{self, Static, StaticRequests};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::asked;
use crate::cni::args::Args;
use crate::cni::conf::NetConf;
use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::cni::request::Command;
use crate::cni::result::Dns;
use crate::cni::version::Version;

/// Keys that any plugin configuration may hold (CNI spec section 1, libcni's injections).
const COMMON_KEYS: [&str; 16] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "ipam",
    "dns",
    "prevResult",
    "runtimeConfig",
    "args",
    "capabilities",
    "disableCheck",
    "disableGC",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
    // What a meta-plugin adds to every plugin of a network that has a device (Multus).
    "deviceID",
    "pciBusID",
];

/// What a virtual function may be asked for in CNI_ARGS.
const MAC_AND_GUID: &[&str] = &["MAC", "guid"];
/// A configuration without `ipam.type`, where one is required.
const NO_PLUGIN: &str = "no plugin name provided";
/// As above, in dummy's words.
const DUMMY_WITHOUT_IPAM: &str = "dummy interface requires an IPAM configuration";

/// Where a native step's addresses come from.
#[derive(Debug)]
pub enum Ipam {
    /// Layer 2 only.
    None,
    /// An earlier plugin of the chain found them.
    Previous,
    /// host-local's directory.
    HostLocal(Box<Pool>),
    /// The configuration itself.
    Static(Static),
    /// An IPAM plugin that plexus does not know is executed.
    Executed(String),
}

/// A step that plexus builds.
#[derive(Debug)]
pub struct Native {
    /// Which kind.
    pub kind: Kind,
    /// Its validated configuration.
    pub spec: Spec,
    /// The MAC that was asked for beside the configuration (CNI_ARGS, args.cni, runtimeConfig).
    pub mac: Option<Mac>,
    /// Its addresses.
    pub ipam: Ipam,
    /// What goes into the kernel's packet filter.
    pub rules: backends::nft::Rules,
    /// `dns` of the configuration, where it takes the place of the addresses' own.
    pub dns: Option<Dns>,
}

/// What [`read`] found.
#[derive(Debug)]
pub enum Verdict {
    /// Built in process. The keys that plexus does not know are listed: the caller decides what they mean.
    Native(Box<Native>, Vec<String>),
    /// The same for a plugin that changes what others before it attached.
    Chained(Box<chained::Spec>, Vec<String>),
    /// Executed, and why.
    Executed(String),
}

/// The surroundings of a configuration.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The network's name.
    pub network: &'a str,
    /// The version its plugins speak.
    pub version: Version,
    /// CNI_ARGS as this plugin gets them.
    pub args: &'a str,
    /// CNI_IFNAME; empty for commands that are about no attachment.
    pub ifname: &'a str,
    /// Where indexes and the journal are.
    pub state_dir: &'a Path,
    /// What ran before it.
    pub before: Before<'a>,
}

/// Reads one plugin configuration of type `plugin`.
///
/// # Errors
/// What the reference plugin of that name would refuse, in its words.
pub fn read(plugin: &str, conf: &Map<String, Value>, around: &Around) -> Result<Verdict, CniError> {
    if let Some(chained) = Chained::of(plugin) {
        return read_chained(chained, conf, around);
    }
    let Some(kind) = Kind::of(plugin) else {
        return Ok(Verdict::Executed(format!("plexus builds no `{plugin}`")));
    };
    // Before anything is made of a section that is none.
    let own = NetConf::from_object(conf.clone())?;
    let (spec, mut unknown, unsupported) = read_kind(kind, conf, around)?;
    if let Some(key) = unsupported {
        return Ok(Verdict::Executed(format!("plexus does not build `{key}` yet")));
    }
    let mac = requested_mac(kind, conf, around.args)?;
    let ipam = read_ipam(kind, conf, around, &mut unknown).map_err(|refusal| ipam_refusal(kind, refusal))?;
    let dns = match kind.rules().dns {
        DnsRule::Conf => Some(own.dns),
        DnsRule::ConfIfSet if own.dns_given => Some(own.dns),
        DnsRule::ConfWithIpam if !matches!(ipam, Ipam::None) => Some(own.dns),
        DnsRule::ConfIfSet | DnsRule::ConfWithIpam | DnsRule::Never => None,
    };
    Ok(Verdict::Native(Box::new(Native { kind, spec, mac, ipam, rules: rules(kind, conf), dns }), unknown))
}

/// Whether plexus builds it, as a kind or in a chain.
pub fn builds(plugin: &str) -> bool {
    Kind::of(plugin).is_some() || Chained::of(plugin).is_some()
}

/// The same as [`read`] for a plugin that is chained.
fn read_chained(chained: Chained, conf: &Map<String, Value>, around: &Around) -> Result<Verdict, CniError> {
    use backends::chained::{bandwidth, firewall, portmap, sbr, tuning, vrf};
    let (spec, unknown, unsupported) = match chained {
        Chained::Tuning => {
            let (own, unknown) = decode::<tuning::Conf>(conf)?;
            let args = parse_args(around.args, &["MAC"]).map_err(|e| CniError::new(Code::Generic, e.to_string()))?;
            let env_mac = args.get("MAC").unwrap_or_default();
            let asked = tuning::Asked { ifname: around.ifname, env_mac };
            (chained::Spec::Tuning(own.validate(&asked).map_err(from_backend)?), unknown, None)
        }
        Chained::Firewall => {
            let (own, unknown) = decode::<firewall::Conf>(conf)?;
            let unsupported = own.unsupported();
            (chained::Spec::Firewall(own.validate().map_err(from_backend)?), unknown, unsupported)
        }
        Chained::Sbr => {
            let (own, unknown) = decode::<sbr::Conf>(conf)?;
            (chained::Spec::Sbr(own.validate().map_err(from_backend)?), unknown, None)
        }
        Chained::Portmap => {
            let (own, unknown) = decode::<portmap::Conf>(conf)?;
            let unsupported = own.unsupported();
            let refused = |error| {
                let error = from_backend(error);
                CniError { msg: format!("failed to parse config: {}", error.msg), ..error }
            };
            (chained::Spec::Portmap(own.validate().map_err(refused)?), unknown, unsupported)
        }
        Chained::Vrf => {
            let (own, unknown) = decode::<vrf::Conf>(conf)?;
            (chained::Spec::Vrf(own.validate().map_err(from_backend)?), unknown, None)
        }
        Chained::Bandwidth => {
            let (own, unknown) = decode::<bandwidth::Conf>(conf)?;
            (chained::Spec::Bandwidth(own.validate().map_err(from_backend)?), unknown, None)
        }
        // It reads nothing of its configuration, so nothing in there is unknown to it.
        Chained::Passthru => (chained::Spec::Passthru, Vec::new(), None),
    };
    Ok(match unsupported {
        Some(key) => Verdict::Executed(format!("plexus does not build `{key}`")),
        None => Verdict::Chained(Box::new(spec), unknown),
    })
}

/// What a plugin of a chain says that no plugin ran before.
pub fn unchained(chained: Chained, command: Command) -> CniError {
    let text = match (chained, command) {
        (Chained::Portmap, Command::Add) | (Chained::Bandwidth, Command::Add) => "must be called as chained plugin",
        (Chained::Bandwidth, _) => "must be called as a chained plugin",
        (Chained::Sbr, _) => "This plugin must be called as chained plugin",
        (Chained::Firewall | Chained::Vrf, _) => "missing prevResult from earlier plugin",
        (Chained::Tuning | Chained::Portmap | Chained::Passthru, _) => "Required prevResult missing",
    };
    CniError::new(Code::Generic, text)
}

type KindRead = (Spec, Vec<String>, Option<&'static str>);

/// The table row of a kind: how its own section decodes and validates.
fn read_kind(kind: Kind, conf: &Map<String, Value>, around: &Around) -> Result<KindRead, CniError> {
    use backends::{bridge, dummy, host_device, ipvlan, loopback, macvlan, ptp, sriov, tap, vlan};
    let has_ipam = !ipam_type(conf).is_empty();
    Ok(match kind {
        Kind::Loopback => {
            let (_, unknown) = decode::<loopback::Conf>(conf)?;
            (Spec::Loopback, unknown, None)
        }
        Kind::Bridge => {
            let (own, unknown) = decode::<bridge::Conf>(conf)?;
            let unsupported = own.unsupported();
            (Spec::Bridge(own.validate(has_ipam).map_err(from_backend)?), unknown, unsupported)
        }
        Kind::Ptp => {
            let (own, unknown) = decode::<ptp::Conf>(conf)?;
            let unsupported = own.unsupported();
            (Spec::Ptp(own.validate().map_err(from_backend)?), unknown, unsupported)
        }
        Kind::Macvlan => {
            let (own, unknown) = decode::<macvlan::Conf>(conf)?;
            (Spec::Macvlan(own.validate().map_err(from_backend)?), unknown, None)
        }
        Kind::Ipvlan => {
            let (own, unknown) = decode::<ipvlan::Conf>(conf)?;
            (Spec::Ipvlan(own.validate(around.before).map_err(from_backend)?), unknown, None)
        }
        Kind::Vlan => {
            let (own, unknown) = decode::<vlan::Conf>(conf)?;
            (Spec::Vlan(own.validate().map_err(from_backend)?), unknown, None)
        }
        Kind::Dummy => {
            let (_, unknown) = decode::<dummy::Conf>(conf)?;
            (Spec::Dummy, unknown, None)
        }
        Kind::HostDevice => {
            let (own, unknown) = decode::<host_device::Conf>(conf)?;
            (Spec::HostDevice(own.validate().map_err(from_backend)?), unknown, None)
        }
        Kind::Sriov => {
            let (mut own, unknown) = decode::<sriov::Conf>(conf)?;
            // One that is not used may be whatever it is, as with sriov-cni.
            if requested_mac(kind, conf, around.args)?.is_some() {
                own.mac = None;
            }
            let args =
                parse_args(around.args, MAC_AND_GUID).map_err(|e| CniError::new(Code::Generic, e.to_string()))?;
            own.args.cni.guid = own.args.cni.guid.or_else(|| args.get("guid").map(str::to_owned));
            (Spec::Sriov(Box::new(own.validate().map_err(from_backend)?)), unknown, None)
        }
        Kind::Tap => {
            let (own, unknown) = decode::<tap::Conf>(conf)?;
            (Spec::Tap(own.validate().map_err(from_backend)?), unknown, None)
        }
    })
}

fn decode<T: DeserializeOwned>(conf: &Map<String, Value>) -> Result<(T, Vec<String>), CniError> {
    let decoded = gojson::decode::<T>(conf).map_err(|e| load_error(&e))?;
    let unknown = decoded.unknown.into_iter().filter(|key| !is_common(key)).collect();
    Ok((decoded.value, unknown))
}

fn is_common(key: &str) -> bool {
    let top = key.split(['.', '[']).next().unwrap_or(key);
    COMMON_KEYS.iter().any(|known| known.eq_ignore_ascii_case(key) || known.eq_ignore_ascii_case(top))
}

fn load_error(cause: &dyn std::fmt::Display) -> CniError {
    CniError::new(Code::Generic, format!("failed to load netconf: {cause}"))
}

/// The section of an address plugin, whose Go type is `go_type`.
fn ipam_section<'a>(conf: &'a Map<String, Value>, go_type: &str) -> Result<&'a Map<String, Value>, CniError> {
    let refused = |error: gojson::DecodeError| CniError::new(Code::Generic, error.to_string());
    let missing = || CniError::new(Code::Generic, "IPAM config missing 'ipam' key");
    let given = gojson::field(conf, "ipam").ok_or_else(missing)?;
    let own = given.as_object().ok_or_else(|| refused(gojson::mismatch(given, "struct field Net.ipam", go_type)))?;
    match gojson::field(own, "type").filter(|named| !named.is_string()) {
        Some(other) => Err(refused(gojson::mismatch(other, "struct field IPAMConfig.ipam.type", "string"))),
        None => Ok(own),
    }
}

/// A section that does not decode, in the words of the whole configuration: the path of a field begins at its top.
fn ipam_section_error(cause: &dyn std::fmt::Display) -> CniError {
    const FIELD: &str = "Go struct field ";
    let text = cause.to_string();
    let whole = text.split_once(FIELD).and_then(|(before, field)| {
        let (kind, path) = field.split_once('.')?;
        Some(format!("{before}{FIELD}{kind}.ipam.{path}"))
    });
    CniError::new(Code::Generic, whole.unwrap_or(text))
}

/// The rules that an attachment with this configuration has; of what is no configuration, those it can have.
pub fn rules(kind: Kind, conf: &Map<String, Value>) -> backends::nft::Rules {
    let is_set = |key: &str| gojson::field(conf, key).and_then(Value::as_bool) == Some(true);
    backends::nft::Rules {
        masquerade: matches!(kind, Kind::Bridge | Kind::Ptp) && is_set("ipMasq"),
        spoof_check: kind == Kind::Bridge && is_set("macspoofchk"),
    }
}

/// A backend's refusal in the protocol's words.
pub fn from_backend(error: backends::Error) -> CniError {
    let code = if error.kind() == backends::ErrorKind::Busy { Code::TryAgainLater } else { Code::Generic };
    CniError::new(code, chain(&error))
}

/// What a backend could not do, in the protocol's words.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: CniError,
    /// It may be done all the same, so that it is to be undone.
    pub is_in_doubt: bool,
}

/// Whether there may be something to undo.
pub fn may_be_done<T>(attempt: &Result<T, Failed>) -> bool {
    attempt.as_ref().map_or_else(|failed| failed.is_in_doubt, |_| true)
}

impl From<backends::Error> for Failed {
    fn from(error: backends::Error) -> Self {
        Failed { is_in_doubt: error.leaves_doubt(), error: from_backend(error) }
    }
}

impl From<CniError> for Failed {
    fn from(error: CniError) -> Self {
        Failed { error, is_in_doubt: false }
    }
}

/// An IPAM refusal in the protocol's words.
pub fn from_ipam(error: ipam::Error) -> CniError {
    let code = if error.kind() == ipam::ErrorKind::Busy { Code::TryAgainLater } else { Code::Generic };
    CniError::new(code, chain(&error))
}

/// An error and its sources in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        line.push_str(": ");
        line.push_str(&words(source));
        next = source.source();
    }
    line
}

/// A system call's error as Go prints it: in lower case, without its number.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
        Some(number) => text.trim_end_matches(&format!(" (os error {number})")).to_lowercase(),
        None => text,
    }
}

fn section<'a>(object: &'a Map<String, Value>, path: &[&str]) -> Option<&'a Map<String, Value>> {
    path.iter().try_fold(object, |object, key| gojson::field(object, key).and_then(Value::as_object))
}

/// The configuration's `ipam.type`; empty where there is none.
pub fn ipam_type(conf: &Map<String, Value>) -> &str {
    section(conf, &["ipam"]).and_then(|ipam| gojson::field(ipam, "type")).and_then(Value::as_str).unwrap_or_default()
}

fn parse_args(text: &str, known: &[&str]) -> Result<Args, crate::cni::args::ArgsError> {
    let args = Args::parse(text)?;
    args.only(known)?;
    Ok(args)
}

/// CNI_ARGS `MAC` < `args.cni.mac` < `runtimeConfig.mac` (reference bridge and macvlan).
fn requested_mac(kind: Kind, conf: &Map<String, Value>, args: &str) -> Result<Option<Mac>, CniError> {
    let rule = kind.rules().mac;
    if rule == MacRule::Never {
        return Ok(None);
    }
    let known = if kind == Kind::Sriov { MAC_AND_GUID } else { &["MAC"] };
    let args = parse_args(args, known).map_err(|e| CniError::new(Code::Generic, e.to_string()))?;
    let macs = asked::macs(conf, rule == MacRule::ArgsThenConfArgsThenRuntime).map_err(|e| load_error(&e))?;
    let by_args = args.get("MAC").unwrap_or_default().to_owned();
    let asked = [macs.runtime, macs.args, by_args].into_iter().find(|mac| !mac.is_empty());
    let refuse = |mac: &str| {
        let act = match kind {
            Kind::Macvlan | Kind::Tap | Kind::Sriov => format!("invalid args {mac} for MAC addr"),
            _ => "failed to make veth pair".to_owned(),
        };
        CniError::new(Code::Generic, format!("{act}: address {mac}: invalid MAC address"))
    };
    asked.map(|mac| mac.parse().map_err(|_| refuse(&mac))).transpose()
}

/// What went wrong with a kind's addresses, in the words of the reference plugin of that kind.
pub fn ipam_refusal(kind: Kind, refusal: CniError) -> CniError {
    match kind {
        Kind::Vlan => CniError { msg: format!("failed to execute IPAM delegate: {}", refusal.msg), ..refusal },
        Kind::Dummy if refusal.msg == NO_PLUGIN => CniError { msg: DUMMY_WITHOUT_IPAM.to_owned(), ..refusal },
        _ => refusal,
    }
}

fn read_ipam(
    kind: Kind,
    conf: &Map<String, Value>,
    around: &Around,
    unknown: &mut Vec<String>,
) -> Result<Ipam, CniError> {
    if kind == Kind::Loopback {
        return Ok(Ipam::None);
    }
    match ipam_type(conf) {
        "" if kind.rules().ipam == IpamRule::OptionalWithPrevResult && around.before != Before::Nothing => {
            Ok(Ipam::Previous)
        }
        "" if matches!(kind.rules().ipam, IpamRule::Required | IpamRule::OptionalWithPrevResult) => {
            Err(CniError::new(Code::Generic, NO_PLUGIN))
        }
        "" => Ok(Ipam::None),
        "host-local" => {
            let (pool, ignored) = host_local(conf, around)?;
            pool.check_requests().map_err(from_ipam)?;
            unknown.extend(ignored);
            Ok(Ipam::HostLocal(Box::new(pool)))
        }
        "static" => Ok(Ipam::Static(static_addresses(conf, around)?)),
        other => Ok(Ipam::Executed(other.to_owned())),
    }
}

/// host-local's pool of a configuration, and the keys of its section that plexus does not know.
///
/// # Errors
/// host-local's own texts.
pub fn host_local(conf: &Map<String, Value>, around: &Around) -> Result<(Pool, Vec<String>), CniError> {
    let own = ipam_section(conf, "allocator.IPAMConfig")?;
    let decoded = gojson::decode::<host_local::Section>(own).map_err(|e| ipam_section_error(&e))?;
    let args = parse_args(around.args, &["IP"]).map_err(|e| CniError::new(Code::Generic, e.to_string()))?;
    let asked = args.get("IP").filter(|ip| !ip.is_empty());
    let is_address = |ip: &str| Cidr::parse(ip).is_some() || ip.parse::<IpAddr>().is_ok();
    if let Some(ip) = asked.filter(|ip| !is_address(ip)) {
        let text = format!("ARGS: error parsing value of pair \"IP={ip}\": invalid IP address {ip}");
        return Err(CniError::new(Code::Generic, text));
    }
    let mut ips: Vec<String> = asked.map(str::to_owned).into_iter().collect();
    let refused = |error: gojson::DecodeError| CniError::new(Code::Generic, error.to_string());
    let addresses = asked::host_local(conf).map_err(refused)?;
    ips.extend(addresses.args.into_iter().chain(addresses.runtime));
    let runtime_ranges = asked::ranges(conf).map_err(refused)?;
    let requests = host_local::Requests { runtime_ranges, ips, one_per_family: one_per_family(around) };
    let pool = Pool::new(decoded.value, around.network, &requests, around.state_dir).map_err(from_ipam)?;
    let unknown = decoded.unknown.into_iter().filter(|key| key != "type").map(|key| format!("ipam.{key}")).collect();
    Ok((pool, unknown))
}

/// Before 0.3.0 a result holds one address of each family.
fn one_per_family(around: &Around) -> Option<String> {
    (around.version < Version::V0_3_0).then(|| around.version.to_string())
}

/// static's addresses of a configuration.
///
/// # Errors
/// static's own texts.
pub fn static_addresses(conf: &Map<String, Value>, around: &Around) -> Result<Static, CniError> {
    let own = ipam_section(conf, "main.IPAMConfig")?;
    let addresses = asked::r#static(conf).map_err(|e| CniError::new(Code::Generic, e.to_string()))?;
    let decoded = gojson::decode::<static_::Section>(own).map_err(|e| ipam_section_error(&e))?;
    let args = parse_args(around.args, &["IP", "GATEWAY"]).map_err(|e| CniError::new(Code::Generic, e.to_string()))?;
    let requests = StaticRequests {
        cni_args_ip: args.get("IP").map(str::to_owned),
        cni_args_gateway: args.get("GATEWAY").map(str::to_owned),
        args_ips: addresses.args,
        runtime_ips: addresses.runtime,
        one_per_family: one_per_family(around),
    };
    Static::new(decoded.value, &requests).map_err(from_ipam)
}
