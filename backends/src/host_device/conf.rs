//! What a host-device's configuration says, and which device that means: by a name, or by what sysfs says of a bus. Knows no pod.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, ErrorKind};
use crate::mac::Mac;
use crate::netlink::link::Link;
use crate::pod::Host;

/// Devices of the PCI bus, by their address (Documentation/ABI/testing/sysfs-bus-pci).
const PCI: &str = "/sys/bus/pci/devices";
/// Devices of the auxiliary bus, such as subfunctions of a network card.
const AUXILIARY: &str = "/sys/bus/auxiliary/devices";
/// A device bound to one of these belongs to a program of user space (DPDK): it has no interface to move.
const USER_SPACE: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// How many interfaces or virtio devices of one device are looked at. No device has more functions by far.
const ENTRIES_MAX: usize = 1024;

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct Conf {
    /// Its name on the host, or an alternative one.
    pub device: Option<String>,
    /// Its hardware address.
    pub hwaddr: Option<String>,
    /// Its directory below /sys/devices.
    pub kernelpath: Option<String>,
    /// Its address on the PCI bus.
    #[serde(rename = "pciBusID")]
    pub pci_bus_id: Option<String>,
    /// It belongs to a program of user space. Where there is a PCI address, its driver decides instead.
    #[serde(rename = "DPDKMode")]
    pub dpdk_mode: bool,
    /// What the runtime adds.
    #[serde(rename = "runtimeConfig")]
    pub runtime_config: RuntimeConfig,
}

/// The part of `runtimeConfig` that is a host-device's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct RuntimeConfig {
    /// A device on the PCI or the auxiliary bus, which a device plugin has reserved for the pod.
    #[serde(rename = "deviceID")]
    pub device_id: Option<String>,
}

/// A configuration that can be built. The order is that of precedence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    device: Option<String>,
    hwaddr: Option<String>,
    kernelpath: Option<String>,
    pci_bus_id: Option<String>,
    dpdk_mode: bool,
    device_id: Option<String>,
}

/// The one thing a device is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    Name(String),
    Hardware(String),
    /// The directory of its interfaces in sysfs.
    Directory(PathBuf),
    Kernel(String),
    Pci(String),
}

impl Conf {
    /// Parses the configuration. What sysfs knows is looked up later.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the reference plugin's texts.
    pub fn validate(self) -> Result<Spec, Error> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let spec = Spec {
            device: given(self.device),
            hwaddr: given(self.hwaddr),
            kernelpath: given(self.kernelpath),
            pci_bus_id: given(self.pci_bus_id),
            dpdk_mode: self.dpdk_mode,
            device_id: given(self.runtime_config.device_id),
        };
        let all = [&spec.device, &spec.hwaddr, &spec.kernelpath, &spec.pci_bus_id, &spec.device_id];
        if all.iter().all(|one| one.is_none()) {
            return Err(Error::invalid("specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\""));
        }
        Ok(spec)
    }
}

impl Spec {
    /// The one thing the device is found by; `None`: it stays, because it belongs to a program of user space. Reads sysfs.
    pub(super) fn settle(self) -> Result<Option<Choice>, Error> {
        let (mut pci, mut auxiliary) = (self.pci_bus_id, None);
        if let Some(id) = self.device_id {
            if is_there(PCI, &id) {
                pci = Some(id);
            } else if is_there(AUXILIARY, &id) {
                (pci, auxiliary) = (None, Some(id));
            } else {
                return Err(Error::invalid(format!("runtime config DeviceID {id} not found or unsupported")));
            }
        }
        let in_user_space = match &pci {
            Some(id) => has_user_space_driver(id)?,
            None => self.dpdk_mode,
        };
        if in_user_space {
            return Ok(None);
        }
        let choices = [
            self.device.map(Choice::Name),
            self.hwaddr.map(Choice::Hardware),
            self.kernelpath.map(Choice::Kernel),
            pci.map(Choice::Pci),
            auxiliary.map(|id| Choice::Directory(Path::new(AUXILIARY).join(id).join("net"))),
        ];
        let none = || Error::new(ErrorKind::LinkMissing, "failed to find physical interface");
        choices.into_iter().flatten().next().ok_or_else(none).map(Some)
    }
}

impl Choice {
    /// The device, and its name on the host: its own, whichever of its names it was found by.
    pub(super) fn find(&self, host: &mut Host) -> Result<(Link, String), Error> {
        let found = match self {
            // The kernel looks among alternative names as well: no two links share one of either.
            Self::Name(name) => match host.side.link(name)? {
                None => return lost(host, name).map(|link| (link, name.clone())),
                Some(link) => Ok(link),
            },
            Self::Hardware(text) => {
                let mac: Mac = text
                    .parse()
                    .map_err(|e| Error::invalid(format!("failed to parse MAC address \"{text}\"")).because(e))?;
                let none = || Error::new(ErrorKind::LinkMissing, "failed to find physical interface");
                host.side.links()?.into_iter().find(|link| link.mac == Some(mac)).ok_or_else(none)
            }
            Self::Kernel(path) => {
                let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
                if !path.starts_with("/sys/devices/") || !Path::new(path).components().all(plain) {
                    let text = format!("kernel device path \"{path}\" must be absolute and begin with /sys/devices/");
                    return Err(Error::invalid(text));
                }
                first_interface(host, &Path::new(path).join("net"))
            }
            Self::Pci(id) => first_interface(host, &pci_interfaces(id)?),
            Self::Directory(path) => first_interface(host, path),
        };
        found.map(|link| (link.clone(), link.name))
    }
}

fn missing() -> Error {
    Error::new(ErrorKind::LinkMissing, "Link not found")
}

/// A pod that was lost with its device inside leaves it down, under the pod's name for it, and its alias says its name here. What somebody
/// uses is not it, whatever its alias; and of two that say the same nobody knows which is.
fn lost(host: &mut Host, name: &str) -> Result<Link, Error> {
    let mut all = host.side.links()?.into_iter().filter(|link| link.alias == name);
    match (all.next(), all.next()) {
        (Some(link), None) if !link.up => Ok(link),
        _ => Err(missing()),
    }
}

/// Whether a bus has a device of this name. A path is none.
fn is_there(bus: &str, id: &str) -> bool {
    is_name(id) && Path::new(bus).join(id).exists()
}

fn is_name(id: &str) -> bool {
    !id.is_empty() && id != "." && id != ".." && !id.contains('/')
}

/// Whether a PCI device is bound to a driver that serves user space.
fn has_user_space_driver(id: &str) -> Result<bool, Error> {
    let refused = |path: &Path| {
        let text = format!("error with host device: lstat {}: no such file or directory", path.display());
        Error::new(ErrorKind::LinkMissing, text)
    };
    let own = Path::new(PCI).join(id);
    if !is_name(id) {
        return Err(refused(&own));
    }
    let device = own.canonicalize().map_err(|_| refused(&own))?;
    let driver = device.join("driver").canonicalize().map_err(|_| refused(&device.join("driver")))?;
    Ok(driver.file_name().and_then(|name| name.to_str()).is_some_and(serves_user_space))
}

/// Whether what is bound to a driver belongs to a program of user space.
pub(crate) fn serves_user_space(driver: &str) -> bool {
    USER_SPACE.contains(&driver)
}

/// The directory of a PCI device's interfaces; a virtio card has a device of its own in between.
fn pci_interfaces(id: &str) -> Result<PathBuf, Error> {
    let device = Path::new(PCI).join(id);
    let own = device.join("net");
    if own.symlink_metadata().is_ok() {
        return Ok(own);
    }
    let is_virtio = |name: &OsString| name.to_str().is_some_and(|name| name.starts_with("virtio"));
    let inner = names(&device).unwrap_or_default().into_iter().filter(is_virtio);
    let net = inner.map(|name| device.join(name).join("net")).find(|net| net.exists());
    net.ok_or_else(|| Error::new(ErrorKind::LinkMissing, format!("no net directory under pci device {id}")))
}

/// The first interface, by its name, of a directory in sysfs.
fn first_interface(host: &mut Host, directory: &Path) -> Result<Link, Error> {
    let names = names(directory).map_err(|e| {
        let words = crate::netlink::Refusal { errno: nix::errno::Errno::from_raw(e), text: None };
        let place = directory.display();
        let text = format!("failed to read directory {place}: \"open {place}: {words}\"");
        Error::new(ErrorKind::LinkMissing, text)
    })?;
    let Some(name) = names.first().and_then(|name| name.to_str()) else {
        let text = format!("failed to find network device in path {}", directory.display());
        return Err(Error::new(ErrorKind::LinkMissing, text));
    };
    host.side.link(name)?.ok_or_else(missing)
}

/// The names in a directory, sorted; or the error's number.
fn names(directory: &Path) -> Result<Vec<OsString>, i32> {
    let entries = directory.read_dir().map_err(|e| e.raw_os_error().unwrap_or_default())?;
    let mut names: Vec<OsString> =
        entries.take(ENTRIES_MAX).filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<Spec, Error> {
        serde_json::from_str::<Conf>(text).unwrap().validate()
    }

    fn choice(text: &str) -> Option<Choice> {
        spec(text).unwrap().settle().unwrap()
    }

    #[test]
    fn something_must_be_said() {
        for text in ["{}", r#"{"device":"","hwaddr":null,"runtimeConfig":{"deviceID":""}}"#] {
            let error = spec(text).unwrap_err();
            assert_eq!(
                error.chain(),
                "specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"",
                "{text}"
            );
        }
    }

    #[test]
    fn the_first_in_order_is_taken() {
        let text = r#"{"device":"eth5","hwaddr":"02:00:00:00:00:01","kernelpath":"/sys/devices/x"}"#;
        assert_eq!(choice(text), Some(Choice::Name("eth5".to_owned())));
        let text = r#"{"hwaddr":"02:00:00:00:00:01","kernelpath":"/sys/devices/x"}"#;
        assert_eq!(choice(text), Some(Choice::Hardware("02:00:00:00:00:01".to_owned())));
        assert_eq!(choice(r#"{"device":"eth5","DPDKMode":true}"#), None);
    }

    #[test]
    fn no_name_leads_out_of_a_bus() {
        for id in ["..", "../../../etc", "no-such-device"] {
            let error = spec(&format!(r#"{{"runtimeConfig":{{"deviceID":"{id}"}}}}"#)).unwrap().settle().unwrap_err();
            assert_eq!(error.chain(), format!("runtime config DeviceID {id} not found or unsupported"));
            let error = spec(&format!(r#"{{"pciBusID":"{id}"}}"#)).unwrap().settle().unwrap_err();
            assert!(error.chain().starts_with("error with host device: lstat /sys/bus/pci"), "{}", error.chain());
        }
        let mut host = Host::open().unwrap();
        for path in ["/sys/class/net", "sys/devices/x", "/sys/devices/../class/net/lo"] {
            let error = Choice::Kernel(path.to_owned()).find(&mut host).unwrap_err();
            let text = format!("kernel device path \"{path}\" must be absolute and begin with /sys/devices/");
            assert_eq!(error.chain(), text);
        }
    }
}
