//! A veth pair between host and pod, created in one message on the host: the pod's end appears in the pod under its final name.
//! Knows no bridge's rules and no address.

use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::error::{Error, ErrorKind};
use crate::mac::{Mac, random_bytes};
use crate::netlink::link::Link;
use crate::netlink::{NewLink, Shape};
use crate::pod::{Host, Pod};
use crate::sysctl::Tree;
use crate::{Interface, Target};

/// How many random names are tried for the host's end.
const NAME_ATTEMPTS: u32 = 10;

/// A pair to create.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) mtu: Option<u32>,
    /// The bridge that the host's end becomes a port of.
    pub(crate) controller: Option<u32>,
}

/// A pair that exists. The host's end is up, the pod's end down.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) pod: Link,
    pub(crate) host_index: u32,
    pub(crate) host_name: String,
    pub(crate) host_mac: Mac,
}

impl Ends {
    /// The host's end in a result.
    pub(crate) fn host_interface(&self) -> Interface {
        Interface { name: self.host_name.clone(), mac: self.host_mac.to_string(), in_pod: false, mtu: None }
    }
}

impl Pair {
    /// Creates the pair. The host's end gets a hardware address of our choice: nobody changes one that was set.
    pub(crate) fn create(self, host: &mut Host, pod: &mut Pod, target: &Target<'_>) -> Result<Ends, Error> {
        let mut last = String::new();
        for _ in 0..NAME_ATTEMPTS {
            let (host_name, host_mac) = (random_name(), Mac::random());
            let failure = match host.side.apply(self.link(pod, target, &host_name, host_mac).request()) {
                Ok(()) => return Self::created(host, pod, target, host_name, host_mac),
                Err(failure) => failure,
            };
            if failure.errno() != Some(Errno::EEXIST) {
                return Err(Error::kernel("failed to make veth pair", "", failure));
            }
            if pod.side.link(target.ifname)?.is_some() {
                return Err(Error::new(
                    ErrorKind::NameTaken,
                    format!(
                        "container veth name (\"{}\") peer provided (\"{host_name}\") already exists",
                        target.ifname
                    ),
                ));
            }
            last = host_name;
        }
        Err(Error::at(ErrorKind::NameTaken, "find a free name for the host's end of", target.ifname.to_owned())
            .because_of(format!("{NAME_ATTEMPTS} random names were taken, the last {last}")))
    }

    fn link<'a>(self, pod: &'a Pod, target: &Target<'a>, host_name: &'a str, host_mac: Mac) -> NewLink<'a> {
        let peer = NewLink {
            mtu: self.mtu,
            mac: target.mac,
            group: target.group,
            netns: Some(pod.netns().as_fd()),
            ..NewLink::new(target.ifname, Shape::Peer)
        };
        NewLink {
            mtu: self.mtu,
            mac: Some(host_mac),
            controller: self.controller,
            up: true,
            ..NewLink::new(host_name, Shape::Veth(Box::new(peer)))
        }
    }

    fn created(
        host: &mut Host,
        pod: &mut Pod,
        target: &Target<'_>,
        host_name: String,
        host_mac: Mac,
    ) -> Result<Ends, Error> {
        // As with the reference plugins a router's advertisements are not for the host's end, and a failure to say so is
        // none: a kernel without IPv6 has no such parameter.
        drop(host.side.sysctls.write(Tree::V6, &host_name, "accept_ra", "0"));
        let missing = || Error::at(ErrorKind::LinkMissing, "find the new link", target.ifname);
        let pod = pod.side.link(target.ifname)?.ok_or_else(missing)?;
        let host_index = pod.parent.ok_or_else(missing)?;
        Ok(Ends { pod, host_index, host_name, host_mac })
    }
}

/// `veth` and eight hexadecimal digits: the form the reference plugins use, so that tools recognise it.
pub(crate) fn random_name() -> String {
    let [a, b, c, d, ..] = random_bytes();
    format!("veth{a:02x}{b:02x}{c:02x}{d:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_known_form_and_differ() {
        let (a, b) = (random_name(), random_name());
        assert_ne!(a, b);
        assert_eq!(a.len(), 12);
        assert!(a.strip_prefix("veth").unwrap().chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()));
    }
}
