//! What sriov-cni kept of the functions that it attached: enough to bring one back. Read, and removed when it is; never written.
//!
//! `<place>/<container>-<interface>` is what it knew of an attachment; `<place>/pci/<address>` holds the path of the namespace of who
//! has a function.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use backends::Mac;
use backends::host_device::Device;
use backends::sriov::{Function, OnHost, Settings};
use backends::sysfs::{PciAddress, Sysfs};
use nix::fcntl::OFlag;
use serde::Deserialize;

/// Where sriov-cni keeps what it knows.
pub const PLACE: &str = "/var/lib/cni/sriov";
/// The largest file that is read, in bytes: it holds one configuration, which has a few hundred.
const BYTES_MAX: u64 = 1 << 20;
/// How many attachments are looked at: a node has no more functions.
const ENTRIES_MAX: usize = 65_536;
/// `ETH_P_8021Q`, which old versions leave out.
const PROTO_8021Q: u16 = 0x8100;

/// The configuration as it was kept, with what was found before the first change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Kept {
    #[serde(rename = "deviceID")]
    device: PciAddress,
    #[serde(rename = "VFID")]
    index: u32,
    #[serde(rename = "OrigVfState")]
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct State {
    #[serde(rename = "HostIFName")]
    host_name: String,
    spoof_chk: Option<bool>,
    trust: Option<bool>,
    #[serde(rename = "AdminMAC")]
    admin_mac: String,
    #[serde(rename = "EffectiveMAC")]
    effective_mac: String,
    vlan: u32,
    #[serde(rename = "VlanQoS")]
    qos: u32,
    vlan_proto: u16,
    min_tx_rate: u32,
    max_tx_rate: u32,
    link_state: u32,
    #[serde(rename = "MTU")]
    mtu: u32,
}

/// An attachment that sriov-cni made.
#[derive(Debug)]
pub struct Attached {
    place: PathBuf,
    file: PathBuf,
    written: SystemTime,
    kept: Kept,
}

/// What sriov-cni kept of an attachment; none where there is nothing.
///
/// # Errors
/// It cannot be read, or is not what sriov-cni writes.
pub fn find(place: &Path, sandbox: &str, ifname: &str) -> io::Result<Option<Attached>> {
    let file = place.join(format!("{sandbox}-{ifname}"));
    let Some((text, written)) = read(&file)? else { return Ok(None) };
    let odd = |e: serde_json::Error| {
        let text = format!("{} is not what sriov-cni writes: {e}", file.display());
        io::Error::new(ErrorKind::InvalidData, text)
    };
    let kept = serde_json::from_str(&text).map_err(odd)?;
    Ok(Some(Attached { place: place.to_owned(), file, written, kept }))
}

/// The namespace of the pod that has a function from sriov-cni; none where that has none.
pub fn holder(place: &Path, device: &str) -> Option<PathBuf> {
    let address: PciAddress = device.parse().ok()?;
    let (text, _) = read(&place.join("pci").join(address.as_str())).ok()??;
    Some(PathBuf::from(text.trim())).filter(|path| path.is_absolute())
}

impl Attached {
    /// The function as it was.
    pub fn function(&self, sysfs: &Sysfs) -> Option<Function> {
        let Kept { device, index, state } = &self.kept;
        let now = sysfs.virtual_function(device).ok().filter(|now| now.index == *index)?;
        let mac = |text: &str| text.parse::<Mac>().ok();
        let settings = Settings {
            mac: mac(&state.admin_mac).unwrap_or(Mac::new([0; 6])),
            vlan: state.vlan,
            qos: state.qos,
            proto: if state.vlan_proto == 0 { PROTO_8021Q } else { state.vlan_proto },
            min_rate: state.min_tx_rate,
            max_rate: state.max_tx_rate,
            spoof_check: state.spoof_chk,
            trust: state.trust,
            link_state: state.link_state,
        };
        let on_host = || OnHost {
            device: Device {
                name: state.host_name.clone(),
                alias: String::new(),
                mac: mac(&state.effective_mac),
                permanent: None,
                kind: String::new(),
                bus: Some(device.clone()),
            },
            ifindex: 0,
            mtu: state.mtu,
            alt_names: Vec::new(),
        };
        let interface = (!state.host_name.is_empty()).then(on_host);
        Some(Function {
            address: device.clone(),
            pf: now.pf,
            index: *index,
            driver: now.driver,
            rebound: None,
            settings,
            interface,
        })
    }

    /// The function's address.
    pub fn device(&self) -> &PciAddress {
        &self.kept.device
    }

    /// Where its namespace was.
    pub fn netns(&self) -> Option<PathBuf> {
        holder(&self.place, self.kept.device.as_str())
    }

    /// Whether sriov-cni gave the function to another pod since: a DEL that comes late must not touch it.
    pub fn is_outdated(&self) -> bool {
        let Ok(entries) = fs::read_dir(&self.place) else { return false };
        let files = entries.take(ENTRIES_MAX).filter_map(|entry| Some(entry.ok()?.path()));
        files.filter(|path| *path != self.file).any(|path| match read(&path) {
            Ok(Some((text, written))) if written > self.written => {
                serde_json::from_str::<Kept>(&text).is_ok_and(|kept| kept.device == self.kept.device)
            }
            _ => false,
        })
    }

    /// It is no more. `whole`: the function is nobody else's.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn forget(&self, whole: bool) -> io::Result<()> {
        let held = self.place.join("pci").join(self.kept.device.as_str());
        let files = [Some(held).filter(|_| whole), Some(self.file.clone())];
        files.into_iter().flatten().try_for_each(|file| match fs::remove_file(file) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        })
    }
}

/// A regular file and when it was written; none where there is none.
fn read(path: &Path) -> io::Result<Option<(String, SystemTime)>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file: File = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let about = file.metadata()?;
    if !about.is_file() || about.len() > BYTES_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("{} is no file of sriov-cni", path.display())));
    }
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(Some((text, about.modified()?)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    const TEXT: &str = r#"{"DPDKMode":false,"MAC":"02:00:00:00:00:07","MTU":1500,"Master":"eth0","OrigVfState":{"AdminMAC":"02:00:00:00:01:00",
        "EffectiveMAC":"02:00:00:00:01:01","HostIFName":"eth1","LinkState":0,"MTU":1500,"MaxTxRate":9,"MinTxRate":0,"SpoofChk":true,"Trust":false,
        "Vlan":7,"VlanProto":33024,"VlanQoS":1},"VFID":1,"cniVersion":"1.0.0","deviceID":"0000:01:10.2","name":"n","type":"sriov","vlan":300}"#;

    struct Place(PathBuf);

    impl Drop for Place {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    impl Place {
        fn new(name: &str) -> Self {
            let place = std::env::temp_dir().join(format!("plexus-sriov-cni-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&place));
            fs::create_dir_all(place.join("pci")).unwrap();
            Self(place)
        }

        fn write(&self, name: &str, text: &str, seconds: u64) {
            fs::write(self.0.join(name), text).unwrap();
            let file = OpenOptions::new().write(true).open(self.0.join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        }

        /// sysfs with that function as the second of its card.
        fn sysfs(&self) -> Sysfs {
            let devices = self.0.join("sys/bus/pci/devices");
            for (name, link, to) in [
                ("0000:01:00.0", "virtfn0", "../0000:01:10.0"),
                ("0000:01:00.0", "virtfn1", "../0000:01:10.2"),
                ("0000:01:10.2", "physfn", "../0000:01:00.0"),
                ("0000:01:10.2", "driver", "../igbvf"),
            ] {
                fs::create_dir_all(devices.join(name)).unwrap();
                symlink(to, devices.join(name).join(link)).unwrap();
            }
            Sysfs::at(&self.0.join("sys"))
        }
    }

    #[test]
    fn what_it_kept_is_a_function_as_it_was() {
        let place = Place::new("whole");
        place.write("c1-net1", TEXT, 5);
        place.write("pci/0000:01:10.2", "/run/netns/a\n", 5);
        let attached = find(&place.0, "c1", "net1").unwrap().unwrap();
        let function = attached.function(&place.sysfs()).unwrap();
        let text = serde_json::to_value(&function).unwrap();
        let expected = serde_json::json!({
            "address": "0000:01:10.2", "pf": "0000:01:00.0", "index": 1, "driver": "igbvf",
            "settings": {"mac": "02:00:00:00:01:00", "vlan": 7, "qos": 1, "proto": 33024, "minRate": 0, "maxRate": 9,
                "spoofCheck": true, "trust": false, "linkState": 0},
            "interface": {"device": {"name": "eth1", "mac": "02:00:00:00:01:01", "bus": "0000:01:10.2"}, "ifindex": 0, "mtu": 1500},
        });
        assert_eq!(text, expected);
        assert_eq!(attached.netns().unwrap(), Path::new("/run/netns/a"));
        attached.forget(true).unwrap();
        assert!(find(&place.0, "c1", "net1").unwrap().is_none() && holder(&place.0, "0000:01:10.2").is_none());
        attached.forget(true).unwrap();
    }

    #[test]
    fn one_of_user_space_has_no_interface_and_an_old_cache_no_protocol() {
        let place = Place::new("dpdk");
        let text = TEXT.replace("\"HostIFName\":\"eth1\",", "\"HostIFName\":\"\",").replace("\"VlanProto\":33024,", "");
        place.write("c1-net1", &text, 5);
        let function = find(&place.0, "c1", "net1").unwrap().unwrap().function(&place.sysfs()).unwrap();
        assert_eq!((function.interface, function.settings.proto), (None, PROTO_8021Q));
    }

    #[test]
    fn a_function_that_another_pod_got_since_is_not_this_ones() {
        let place = Place::new("outdated");
        place.write("c1-net1", TEXT, 5);
        place.write("c2-net1", TEXT, 4);
        place.write("c3-net1", &TEXT.replace("01:10.2", "01:10.4"), 9);
        place.write("c4-net1", "no cache", 9);
        assert!(!find(&place.0, "c1", "net1").unwrap().unwrap().is_outdated());
        place.write("c2-net1", TEXT, 6);
        assert!(find(&place.0, "c1", "net1").unwrap().unwrap().is_outdated());
    }

    #[test]
    fn what_it_never_wrote_is_refused() {
        let place = Place::new("odd");
        for text in [
            "",
            "{}",
            r#"{"deviceID":"../x","VFID":0,"OrigVfState":{}}"#,
            r#"{"deviceID":"0000:01:10.2","VFID":-1,"OrigVfState":{}}"#,
        ] {
            place.write("c1-net1", text, 5);
            assert!(find(&place.0, "c1", "net1").is_err(), "{text}");
        }
        fs::remove_file(place.0.join("c1-net1")).unwrap();
        symlink("/etc/passwd", place.0.join("c1-net1")).unwrap();
        assert!(find(&place.0, "c1", "net1").is_err());
        assert!(find(&place.0, "c2", "net1").unwrap().is_none());
    }
}
