//! Device-info files (network CRD standard, device information specification 1.1): what a device plugin says of a device, copied
//! to where the plugin of an attachment finds and may change it, and read for the network-status.
//!
//! Names of networks and resources are their authors' to choose: each becomes one part of a file name, whatever it holds.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use backends::sysfs::{Vdpa, VdpaUse};
use nix::fcntl::OFlag;
use serde_json::{Map, Value, json};

use crate::cni::gojson;
use crate::journal::Allotted;

/// Where both sides look.
const PLACE: &str = "/var/run/k8s.cni.cncf.io/devinfo";
/// Of the specification.
const VERSION: &str = "1.1.0";
/// In bytes: a few addresses and paths.
const BYTES_MAX: u64 = 64 << 10;
/// What the specification has; the rest is not passed on.
const KEYS: [&str; 6] = ["type", "version", "pci", "vdpa", "vhost-user", "memif"];

/// The device plugin's file.
fn of_device(device: &Allotted) -> PathBuf {
    let Allotted { resource, id } = device;
    Path::new(PLACE).join("dp").join(format!("{}-{}-device.json", part(resource), part(id)))
}

/// The attachment's file: the capability `CNIDeviceInfoFile`.
pub fn of_attachment(network: &str, sandbox: &str, ifname: &str) -> PathBuf {
    Path::new(PLACE).join("cni").join(format!("{}-{}_{}", part(network), part(sandbox), part(ifname)))
}

fn part(text: &str) -> String {
    text.replace('/', "-")
}

/// What is known of a function of the PCI bus, besides its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Its RDMA devices.
    pub rdma: Vec<String>,
    /// It is given as a vDPA device.
    pub vdpa: Option<Vdpa>,
}

/// Copies the device plugin's file, where there is one. What an earlier attempt of the same attachment left is replaced.
///
/// # Errors
/// It cannot be read or written.
pub fn publish(device: &Allotted, to: &Path) -> io::Result<()> {
    copy(&of_device(device), to)
}

/// Writes an attachment's file, for a function that no device plugin describes.
///
/// # Errors
/// It cannot be written.
pub fn publish_own(device: &Allotted, known: &Known, to: &Path) -> io::Result<()> {
    put(told(device, known).to_string().as_bytes(), to)
}

/// Writes the device plugin's file, for a function of the PCI bus.
///
/// # Errors
/// It cannot be written.
pub fn describe(device: &Allotted, known: &Known) -> io::Result<()> {
    put(told(device, known).to_string().as_bytes(), &of_device(device))
}

fn told(device: &Allotted, known: &Known) -> Value {
    let mut told = Map::from_iter([("pci-address".to_owned(), Value::from(device.id.clone()))]);
    let Some(vdpa) = &known.vdpa else {
        if !known.rdma.is_empty() {
            told.insert("rdma-device".to_owned(), known.rdma.join(",").into());
        }
        return json!({"type": "pci", "version": VERSION, "pci": told});
    };
    let driver = match vdpa.usage {
        VdpaUse::Virtio => "virtio",
        VdpaUse::Vhost => "vhost",
    };
    told.insert("parent-device".to_owned(), vdpa.name.clone().into());
    told.insert("driver".to_owned(), driver.into());
    told.extend(vdpa.path.clone().map(|path| ("path".to_owned(), path.into())));
    json!({"type": "vdpa", "version": VERSION, "vdpa": told})
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    match read(from)? {
        Some(bytes) => put(&bytes, to),
        None => Ok(()),
    }
}

fn put(bytes: &[u8], to: &Path) -> io::Result<()> {
    remove(to)?;
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let written = file.write_all(bytes).and_then(|()| file.set_permissions(Permissions::from_mode(0o444)));
    written.inspect_err(|_| _ = remove(to))
}

/// What an attachment's file says; none where there is none.
///
/// # Errors
/// It cannot be read, or is no description.
pub fn load(path: &Path) -> io::Result<Option<Map<String, Value>>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let odd = |why: String| io::Error::new(ErrorKind::InvalidData, why);
    let mut all: Map<String, Value> = gojson::read(&bytes).map_err(|e| odd(e.to_string()))?;
    all.retain(|key, _| KEYS.contains(&key.as_str()));
    if !all.get("type").is_some_and(Value::is_string) {
        return Err(odd("it says no type".to_owned()));
    }
    Ok(Some(all))
}

/// Removes an attachment's file; one that is gone is removed.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidData, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > BYTES_MAX) {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("more than {BYTES_MAX} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        let device = Allotted { resource: "intel.com/vf".into(), id: "0000:01:10.0".into() };
        let place = "/var/run/k8s.cni.cncf.io/devinfo";
        assert_eq!(of_device(&device).to_str().unwrap(), format!("{place}/dp/intel.com-vf-0000:01:10.0-device.json"));
        assert_eq!(of_attachment("ns/net", "abc", "net1").to_str().unwrap(), format!("{place}/cni/ns-net-abc_net1"));
    }

    #[test]
    fn a_description_is_copied_and_read_and_what_is_none_is_refused() {
        let dir = std::env::temp_dir().join(format!("plexus-description-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("cni/to"));
        assert!(copy(&from, &to).is_ok() && load(&to).unwrap().is_none());
        fs::write(&from, r#"{"type":"pci","version":"1.1.0","pci":{"pci-address":"x"},"more":1}"#).unwrap();
        copy(&from, &to).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o7777, 0o444);
        let keys: Vec<String> = load(&to).unwrap().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["pci", "type", "version"]);
        for text in ["", "[]", "{}", r#"{"type": 1}"#, &format!(r#"{{"type":"{}"}}"#, "x".repeat(70_000))] {
            fs::write(&from, text).unwrap();
            assert!(load(&from).is_err(), "{:.20}", text);
        }
        remove(&to).unwrap();
        remove(&to).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &to).unwrap();
        let followed = load(&to);
        fs::remove_dir_all(&dir).unwrap();
        assert!(followed.is_err());
    }

    #[test]
    fn every_kind_of_device_is_passed_on_whole() {
        let file = std::env::temp_dir().join(format!("plexus-description-kinds-{}", std::process::id()));
        let kinds = [
            json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": "0000:01:10.0", "vhost-net": "/dev/vhost-net",
                "rdma-device": "mlx5_3", "pf-pci-address": "0000:01:00.0", "representor-device": "eth3"}}),
            json!({"type": "vdpa", "version": "1.1.0", "vdpa": {"parent-device": "vdpa1", "driver": "vhost", "path": "/dev/vhost-vdpa-1",
                "pci-address": "0000:01:10.1", "pf-pci-address": "0000:01:00.0", "representor-device": "eth4"}}),
            json!({"type": "vhost-user", "version": "1.1.0", "vhost-user": {"mode": "server", "path": "/run/vhost/a.sock"}}),
            json!({"type": "memif", "version": "1.1.0", "memif": {"role": "slave", "path": "/run/memif.sock", "mode": "ethernet"}}),
        ];
        for told in kinds {
            fs::write(&file, told.to_string()).unwrap();
            assert_eq!(load(&file).unwrap().map(Value::Object), Some(told));
        }
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_function_is_described_as_the_specification_has_it() {
        let device = Allotted { resource: "a.b/vf".into(), id: "0000:01:10.0".into() };
        assert_eq!(of_device(&device), Path::new(PLACE).join("dp/a.b-vf-0000:01:10.0-device.json"));
        let plain = json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": "0000:01:10.0"}});
        assert_eq!(told(&device, &Known::default()), plain);
        let rdma = vec!["mlx5_0".to_owned(), "mlx5_1".to_owned()];
        let both = told(&device, &Known { rdma, vdpa: None });
        assert_eq!(both["pci"]["rdma-device"], "mlx5_0,mlx5_1");
        let path = "/dev/vhost-vdpa-1".to_owned();
        let vdpa = Some(Vdpa { name: "vdpa1".to_owned(), usage: VdpaUse::Vhost, path: Some(path.clone()) });
        let vdpa = told(&device, &Known { rdma: Vec::new(), vdpa });
        let expected =
            json!({"parent-device": "vdpa1", "driver": "vhost", "path": path, "pci-address": "0000:01:10.0"});
        assert_eq!(vdpa, json!({"type": "vdpa", "version": "1.1.0", "vdpa": expected}));
    }

    proptest! {
        #[test]
        fn no_name_leads_elsewhere(network in "\\PC{0,30}", sandbox in "\\PC{0,30}", ifname in "\\PC{0,15}") {
            let path = of_attachment(&network, &sandbox, &ifname);
            prop_assert!(path.parent() == Some(&Path::new(PLACE).join("cni")));
        }
    }
}
