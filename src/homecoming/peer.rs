//! What sriov-cni kept of the functions that it attached: enough to bring one back. Read, and removed when it is; written only for pods
//! that sriov-cni is to delete, when the node goes back to it.
//!
//! `<place>/<container>-<interface>` is what it knew of an attachment; `<place>/pci/<address>` holds the path of the namespace of who
//! has a function. Both outlive the boot, and what they say does not.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backends::Mac;
use backends::host_device::Device;
use backends::sriov::{Function, OnHost, Settings};
use backends::sysfs::{PciAddress, Sysfs};
use nix::fcntl::OFlag;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cni::gojson;
use crate::durable;

/// Where sriov-cni keeps what it knows.
pub const PLACE: &str = "/var/lib/cni/sriov";
/// The largest file that is read, in bytes: it holds one configuration, which has a few hundred.
const BYTES_MAX: u64 = 1 << 20;
/// How many attachments are looked at: a node has no more functions.
const ENTRIES_MAX: usize = 65_536;
/// The kernel's own numbers, among them when it was started.
const STAT: &str = "/proc/stat";
/// Readable by root alone, as sriov-cni writes them.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
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

/// The namespace of the pod that has a function from sriov-cni; none where that has none, or what it noted cannot be read.
pub fn holder(place: &Path, device: &str) -> Option<PathBuf> {
    noted(place, device).ok()?
}

/// The same for whoever shows it.
///
/// # Errors
/// What it noted cannot be read.
pub fn noted(place: &Path, device: &str) -> io::Result<Option<PathBuf>> {
    let Ok(address) = device.parse::<PciAddress>() else { return Ok(None) };
    let found = read(&place.join("pci").join(address.as_str()))?;
    let found = found.filter(|(_, written)| !is_older(*written)).map(|(text, _)| PathBuf::from(text.trim()));
    Ok(found.filter(|path| path.is_absolute()))
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
            node_guid: None,
            port_guid: None,
        };
        let on_host = || OnHost {
            device: Device {
                name: state.host_name.clone(),
                alias: String::new(),
                keeps_alias: true,
                mac: mac(&state.effective_mac),
                permanent: None,
                kind: String::new(),
                bus: Some(device.clone()),
                alt_names: None,
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
            group: None,
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

    /// Whether it says nothing of the function any more: it is of another boot, or sriov-cni gave the function to another pod since. A
    /// DEL that comes late must not touch it.
    pub fn is_outdated(&self) -> bool {
        if is_older(self.written) {
            return true;
        }
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

/// What sriov-cni would have kept of an attachment.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    /// The container id.
    pub sandbox: &'a str,
    /// The interface in the pod.
    pub ifname: &'a str,
    /// The path of its namespace.
    pub netns: &'a str,
    /// The configuration of its plugin.
    pub conf: &'a Map<String, Value>,
    /// The function as it was before.
    pub function: &'a Function,
    /// The interface of its physical function, by whose name sriov-cni finds it.
    pub card: &'a str,
    /// The hardware address that the pod got.
    pub mac: &'a str,
}

/// Writes it down. Whatever has the names is replaced.
///
/// # Errors
/// What cannot be written.
pub fn keep(place: &Path, keep: &Keep) -> io::Result<()> {
    let Keep { function, .. } = keep;
    let held = place.join("pci");
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&held)?;
    let kept = keep.to_value().to_string();
    durable::replace(&place.join(format!("{}-{}", keep.sandbox, keep.ifname)), kept.as_bytes(), FILE_MODE)?;
    durable::replace(&held.join(function.address.as_str()), keep.netns.as_bytes(), FILE_MODE)
}

impl Keep<'_> {
    /// The configuration, with what was found before the first change.
    fn to_value(self) -> Value {
        let Function { settings, interface, .. } = self.function;
        // Go finds keys in any case, and the last one of a name wins.
        let own = ["deviceID", "mac", "mtu", "master", "vfid", "origVfState", "prevResult"];
        let is_own = |key: &String| own.iter().any(|own| own.eq_ignore_ascii_case(key));
        let others = self.conf.iter().filter(|(key, _)| !is_own(key));
        let mut kept: Map<String, Value> = others.map(|(key, value)| (key.clone(), value.clone())).collect();
        if gojson::field(self.conf, "vlan").is_some() {
            for (key, usual) in [("vlanQoS", json!(0)), ("vlanProto", json!("802.1q"))] {
                if gojson::field(self.conf, key).is_none() {
                    kept.insert(key.to_owned(), usual);
                }
            }
        }
        let host_name = interface.as_ref().map(|on_host| on_host.device.name.as_str()).unwrap_or_default();
        let mtu = interface.as_ref().map_or(0, |on_host| on_host.mtu);
        let effective = interface.as_ref().and_then(|on_host| on_host.device.mac).map(|mac| mac.to_string());
        let state = json!({
            "HostIFName": host_name, "SpoofChk": settings.spoof_check.unwrap_or_default(), "Trust": settings.trust.unwrap_or_default(),
            "AdminMAC": settings.mac.to_string(), "EffectiveMAC": effective.unwrap_or_default(), "Vlan": settings.vlan,
            "VlanQoS": settings.qos, "VlanProto": settings.proto, "MinTxRate": settings.min_rate, "MaxTxRate": settings.max_rate,
            "LinkState": settings.link_state, "MTU": mtu,
        });
        let more = [
            ("deviceID", json!(self.function.address)),
            ("VFID", json!(self.function.index)),
            ("Master", json!(self.card)),
            ("MAC", json!(self.mac)),
            ("MTU", json!(mtu)),
            ("OrigVfState", state),
        ];
        kept.extend(more.map(|(key, value)| (key.to_owned(), value)));
        Value::Object(kept)
    }
}

/// Whether a file was written before the kernel was started, by the clock as it goes now.
fn is_older(written: SystemTime) -> bool {
    let stat = fs::read_to_string(STAT).unwrap_or_default();
    let started = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    started.is_some_and(|seconds| written < UNIX_EPOCH + Duration::from_secs(seconds))
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

        /// A file that is so many seconds younger than now.
        fn write(&self, name: &str, text: &str, seconds: u64) {
            self.write_at(name, text, SystemTime::now() + Duration::from_secs(seconds));
        }

        fn write_at(&self, name: &str, text: &str, when: SystemTime) {
            fs::write(self.0.join(name), text).unwrap();
            let file = OpenOptions::new().write(true).open(self.0.join(name)).unwrap();
            file.set_modified(when).unwrap();
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
            "interface": {"device": {"name": "eth1", "mac": "02:00:00:00:01:01", "bus": "0000:01:10.2", "keepsAlias": true}, "ifindex": 0, "mtu": 1500},
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
    fn what_is_of_another_boot_says_nothing() {
        let place = Place::new("boot");
        place.write("c1-net1", TEXT, 0);
        place.write("pci/0000:01:10.2", "/run/netns/a", 0);
        assert!(!find(&place.0, "c1", "net1").unwrap().unwrap().is_outdated());
        assert!(holder(&place.0, "0000:01:10.2").is_some());
        let before = UNIX_EPOCH + Duration::from_secs(5);
        place.write_at("c1-net1", TEXT, before);
        place.write_at("pci/0000:01:10.2", "/run/netns/a", before);
        assert!(find(&place.0, "c1", "net1").unwrap().unwrap().is_outdated());
        assert!(holder(&place.0, "0000:01:10.2").is_none());
    }

    #[test]
    fn what_is_kept_for_it_is_read_as_it_wrote_it() {
        let place = Place::new("kept");
        place.write("c1-net1", TEXT, 0);
        let sysfs = place.sysfs();
        let function = find(&place.0, "c1", "net1").unwrap().unwrap().function(&sysfs).unwrap();
        let conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "sriov", "vlan": 300, "mtu": 9000, "Mac": "02:00:00:00:00:09",
            "pf": "eth0", "runtimeConfig": {"deviceID": "0000:01:10.2", "mac": "02:00:00:00:00:07"}});
        let conf = conf.as_object().unwrap();
        let netns = "/run/netns/a";
        let (card, mac) = ("eth0", "02:00:00:00:00:07");
        let one = Keep { sandbox: "c2", ifname: "net1", netns, conf, function: &function, card, mac };
        keep(&place.0, &one).unwrap();
        let attached = find(&place.0, "c2", "net1").unwrap().unwrap();
        assert_eq!(attached.function(&sysfs).as_ref(), Some(&function));
        assert_eq!((attached.netns(), attached.is_outdated()), (Some(PathBuf::from(netns)), false));
        // But for what only some versions write, what it keeps of its own.
        let read = |name: &str| -> Map<String, Value> {
            serde_json::from_str(&fs::read_to_string(place.0.join(name)).unwrap()).unwrap()
        };
        let (own, theirs) = (read("c2-net1"), read("c1-net1"));
        assert_eq!(own["OrigVfState"], theirs["OrigVfState"]);
        for key in ["MAC", "MTU", "Master", "VFID", "deviceID", "vlan", "name", "type", "cniVersion"] {
            assert_eq!(own[key], theirs[key], "{key}");
        }
        assert_eq!((&own["vlanQoS"], &own["vlanProto"]), (&json!(0), &json!("802.1q")));
        assert!(!own.contains_key("mtu") && !own.contains_key("Mac"), "one of a name is enough");
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
