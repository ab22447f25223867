//! tap: a link of the pod whose frames a program there reads and writes, such as a virtual machine. Knows no host.
//!
//! The kernel makes such a link by an ioctl on /dev/net/tun and by nothing else (net/tun.c, tun_validate: "creation via rtnetlink
//! is not supported"), and an ioctl is `unsafe`. So `ip` from iproute2 makes it, as the reference plugin has it in most cases;
//! everything after that is one message.

use std::io::{ErrorKind as IoErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;

use crate::check::{self, Expected};
use crate::error::{Error, ErrorKind};
use crate::layer3::{self, Detection, Layer3, Manners};
use crate::mac::Mac;
use crate::netlink::link::{self, Link};
use crate::pod::Pod;
use crate::{Built, Interface, Made, Target};

/// Makes and deletes such links.
const IP: &str = "ip";
/// How long it may take: it waits for the same lock as every other change of links.
const IP_TIMEOUT_MS: u64 = 10_000;
/// How much of what it says is kept, in bytes.
const WORDS_BYTES_MAX: usize = 4096;

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct Conf {
    /// Several programs, or threads, may read and write.
    #[serde(rename = "multiQueue")]
    pub multi_queue: bool,
    /// Bytes. Zero: the kernel's default.
    pub mtu: i64,
    /// The hardware address; a requested one wins over it.
    pub mac: Option<String>,
    /// The user who may open it.
    pub owner: Option<u32>,
    /// The group that may open it.
    pub group: Option<u32>,
    /// The SELinux label of who makes it, which becomes its own.
    #[serde(rename = "selinuxContext")]
    pub selinux_context: Option<String>,
    /// A bridge in the pod that it becomes a port of.
    pub bridge: Option<String>,
}

/// A configuration that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    multi_queue: bool,
    mtu: Option<u32>,
    mac: Option<Mac>,
    owner: Option<u32>,
    group: Option<u32>,
    label: Option<String>,
    bridge: Option<String>,
}

impl Conf {
    /// Parses the configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an MTU or hardware address that is none.
    pub fn validate(self) -> Result<Spec, Error> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let mac = match given(self.mac) {
            Some(text) => {
                Some(text.parse().map_err(|e| Error::invalid(format!("invalid args {text} for MAC addr: {e}")))?)
            }
            None => None,
        };
        let mtu = u32::try_from(self.mtu).map_err(|_| Error::invalid(format!("invalid MTU {}", self.mtu)))?;
        Ok(Spec {
            multi_queue: self.multi_queue,
            mtu: Some(mtu).filter(|mtu| *mtu > 0),
            mac,
            owner: self.owner,
            group: self.group,
            label: given(self.selinux_context),
            bridge: given(self.bridge),
        })
    }
}

/// A spec with the bridge it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    spec: Spec,
    bridge: Option<u32>,
}

impl Spec {
    pub(crate) fn resolve(self, pod: Option<&mut Pod>) -> Result<Resolved, Error> {
        let bridge = match (&self.bridge, pod) {
            (Some(name), Some(pod)) => {
                let missing = || Error::at(ErrorKind::LinkMissing, "failed to get bridge", name.clone());
                Some(pod.side.link(name)?.ok_or_else(|| missing().because_of("Link not found"))?.index)
            }
            (None, _) => None,
            (Some(_), None) => return Err(Error::invalid("a tap needs the pod's namespace to look for its bridge in")),
        };
        Ok(Resolved { spec: self, bridge })
    }

    /// What `ip` is told. With both an owner and a group the reference plugin makes the link itself, with other properties:
    /// a header for offloading before each frame (`IFF_VNET_HDR`), and without several queues one that names the protocol.
    fn words(&self, ifname: &str) -> Vec<String> {
        let mut words: Vec<String> = ["tuntap", "add", "mode", "tap", "name", ifname].map(str::to_owned).to_vec();
        if self.multi_queue {
            words.push("multi_queue".to_owned());
        }
        for (word, id) in [("user", self.owner), ("group", self.group)] {
            words.extend(id.into_iter().flat_map(|id| [word.to_owned(), id.to_string()]));
        }
        if self.owner.is_some() && self.group.is_some() && self.label.is_none() {
            words.push("vnet_hdr".to_owned());
            if !self.multi_queue {
                words.push("pi".to_owned());
            }
        }
        words
    }
}

impl Resolved {
    pub(crate) fn build(&self, pod: &mut Pod, target: &Target<'_>, l3: Layer3) -> Result<Built, Error> {
        let entries = l3.entries()?;
        let link = self.create(pod, target.ifname)?;
        let configured = self.configure(pod, target, &link).and_then(|()| {
            let manners = Manners {
                detection: Detection::Optimistic,
                announce_v4: !l3.is_empty(),
                announce_v6: !l3.is_empty(),
                connected_routes: true,
                late_carrier: false,
                by_driver: false,
            };
            layer3::configure(&mut pod.side, &link, manners, &l3.addresses, &entries)
        });
        let refreshed = configured.and_then(|()| {
            let missing = || Error::at(ErrorKind::LinkMissing, "find the new link", target.ifname);
            pod.side.link_at(link.index)?.ok_or_else(missing)
        });
        match refreshed {
            Ok(link) => Ok(Built {
                interfaces: vec![Interface::in_pod(&link)],
                address_interface: Some(0),
                made: Some(Made::of(&link, true)),
                host_ifindex: None,
                told: Vec::new(),
                layer3: l3,
            }),
            Err(error) => Err(error.after_undo(pod.side.delete(link.index, &link.name))),
        }
    }

    /// The name is looked for first: what `ip` says of one that is taken is not of use.
    fn create(&self, pod: &mut Pod, ifname: &str) -> Result<Link, Error> {
        if pod.side.link(ifname)?.is_some() {
            return Err(Error::at(ErrorKind::NameTaken, "create link", ifname).because_of("file exists"));
        }
        let (words, label) = (self.spec.words(ifname), self.spec.label.as_deref());
        let guard = pod.guard().map_err(|e| Error::at(ErrorKind::Io, "guard the making of", ifname).because(e))?;
        pod.netns().run(|| execute(&words, label, guard))??;
        pod.side.link(ifname)?.ok_or_else(|| Error::at(ErrorKind::LinkMissing, "find the new link", ifname))
    }

    fn configure(&self, pod: &mut Pod, target: &Target<'_>, link: &Link) -> Result<(), Error> {
        let mac = target.mac.or(self.spec.mac);
        let request = link::set_properties(link.index, self.spec.mtu, mac, target.group, self.bridge);
        let place = target.ifname;
        pod.side
            .apply(request)
            .map_err(|e| Error::kernel("failed to set MTU, hardware address or bridge of tap", place, e))
    }
}

/// Executes `ip` in the calling thread's namespace and waits for its end. It keeps the guard open, as its standard input.
fn execute(words: &[String], label: Option<&str>, guard: Option<OwnedFd>) -> Result<(), Error> {
    let failed = || Error::at(ErrorKind::Io, "execute", format!("{IP} {}", words.join(" ")));
    if let Some(label) = label {
        // Of this thread, which then ends; what it executes gets the label (selinux(8), setexeccon).
        std::fs::write(Path::new("/proc/thread-self/attr/exec"), label)
            .map_err(|e| Error::new(ErrorKind::Io, "failed set socket label").because(e))?;
    }
    let child = Command::new(IP)
        .args(words)
        .stdin(guard.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|e| failed().because(e))?;
    let said = match listen(&mut child) {
        Ok(said) => said,
        Err(why) => {
            child.kill().and_then(|()| child.wait()).map_err(|e| failed().because(e))?;
            return Err(failed().because_of(why));
        }
    };
    let status = child.wait().map_err(|e| failed().because(e))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, format!("failed to run command {}", said.trim())).because_of(status.to_string()))
}

/// What the process says until it closes its standard error, which is when it ends.
fn listen(child: &mut Child) -> Result<String, String> {
    let Some(mut stderr) = child.stderr.take() else { return Ok(String::new()) };
    let deadline = Instant::now() + Duration::from_millis(IP_TIMEOUT_MS);
    let (mut said, mut chunk) = (Vec::new(), [0; 512]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("it did not end within {IP_TIMEOUT_MS} ms"));
        }
        let mut readable = [PollFd::new(stderr.as_fd(), PollFlags::POLLIN)];
        match poll(&mut readable, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.desc().to_lowercase()),
        }
        match stderr.read(&mut chunk) {
            Ok(0) => return Ok(String::from_utf8_lossy(&said).into_owned()),
            Ok(count) => {
                said.extend_from_slice(chunk.get(..count).unwrap_or_default());
                said.truncate(WORDS_BYTES_MAX);
            }
            Err(error) if error.kind() == IoErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// CHECK of one tap. Its hardware address is its program's matter, as with the reference plugin.
pub(crate) fn check(pod: &mut Pod, ifname: &str, expected: &Expected) -> Result<(), Error> {
    let nameless = |interface: &Interface| Interface { mac: String::new(), ..interface.clone() };
    let interfaces = expected.interfaces.iter().map(nameless).collect();
    let link =
        check::pod_interface(pod, ifname, "tun", &Expected { interfaces, made: expected.made, ..Expected::default() })?;
    check::layer3(pod, &link, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<Spec, Error> {
        serde_json::from_str::<Conf>(text).unwrap().validate()
    }

    #[test]
    fn the_properties_are_those_of_the_reference_plugin() {
        const START: &str = "tuntap add mode tap name eth0";
        for (text, expected) in [
            ("{}", ""),
            (r#"{"multiQueue":true,"mtu":1400,"mac":"02:00:00:00:00:01","bridge":"br0"}"#, " multi_queue"),
            (r#"{"owner":0}"#, " user 0"),
            (r#"{"group":7,"multiQueue":true}"#, " multi_queue group 7"),
            (r#"{"owner":5,"group":7}"#, " user 5 group 7 vnet_hdr pi"),
            (r#"{"owner":5,"group":7,"multiQueue":true}"#, " multi_queue user 5 group 7 vnet_hdr"),
            (r#"{"owner":5,"group":7,"selinuxContext":"a:b:c:d"}"#, " user 5 group 7"),
        ] {
            assert_eq!(spec(text).unwrap().words("eth0").join(" "), format!("{START}{expected}"), "{text}");
        }
    }

    #[test]
    fn wrong_values_are_refused_before_anything_is_made() {
        assert_eq!(spec(r#"{"mtu":-1}"#).unwrap_err().chain(), "invalid MTU -1");
        let error = spec(r#"{"mac":"zz"}"#).unwrap_err();
        assert_eq!(error.chain(), "invalid args zz for MAC addr: address zz: invalid MAC address");
    }
}
