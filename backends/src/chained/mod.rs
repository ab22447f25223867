//! One module per plugin that is chained: it changes what plugins before it attached. Knows no CNI JSON lists and no results.
//!
//! Each has a `Conf` (as it arrives), which is validated into a `Spec` (nothing looked up), and functions that add, check and
//! remove what the spec says. Adding undoes itself when it fails; removing succeeds whatever is gone.

mod ahead;
pub mod bandwidth;
pub mod firewall;
mod lock;
mod moved;
pub mod portmap;
pub mod sbr;
pub mod tuning;
pub mod vrf;

pub use moved::tables;

use serde::{Deserialize, Serialize};

use crate::default_route::Family;
use crate::error::{Error, ErrorKind};
use crate::nft::{Filter, Listed, Owner};
use crate::pod::{Host, Pod};
use crate::removal::Spawn;
use crate::{Address, Interface, Route};

/// A plugin that is chained and built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chained {
    /// Kernel parameters of the pod, and attributes of its link.
    Tuning,
    /// Ports of the host that lead to the pod.
    Portmap,
    /// Limits of the rate of its traffic.
    Bandwidth,
    /// Traffic of the pod passes the host's filter.
    Firewall,
    /// Routing by source address.
    Sbr,
    /// A routing domain of its own.
    Vrf,
    /// Nothing: the first step of a chain that changes what others attached, and attaches nothing itself (Multus).
    Passthru,
}

impl Chained {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Tuning, Self::Portmap, Self::Bandwidth, Self::Firewall, Self::Sbr, Self::Vrf, Self::Passthru];

    /// The one of this `type`.
    #[must_use]
    pub fn of(plugin_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|chained| chained.name() == plugin_type)
    }

    /// The `type` in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tuning => "tuning",
            Self::Portmap => "portmap",
            Self::Bandwidth => "bandwidth",
            Self::Firewall => "firewall",
            Self::Sbr => "sbr",
            Self::Vrf => "vrf",
            Self::Passthru => "passthru",
        }
    }

    /// Whether it must come after another plugin.
    #[must_use]
    pub const fn needs_previous(self) -> bool {
        !matches!(self, Self::Passthru)
    }

    /// Whether what it makes is in the host's packet filter, and nowhere else; the others make something in the pod.
    #[must_use]
    pub const fn is_in_filter(self) -> bool {
        matches!(self, Self::Portmap | Self::Firewall)
    }
}

/// What the plugins before it in the chain attached: the result that a chained plugin gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Previous {
    /// In the order of the result.
    pub interfaces: Vec<Interface>,
    /// In the order of the result, each with the position of its interface where the result tells it.
    pub addresses: Vec<(Address, Option<usize>)>,
    /// In the order of the result.
    pub routes: Vec<Route>,
}

/// Where a chained plugin works, and on what.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The host's side.
    pub host: &'a mut Host,
    /// The pod's side.
    pub pod: &'a mut Pod,
    /// Whose attachment it is.
    pub owner: Owner<'a>,
    /// What is attached so far.
    pub previous: &'a Previous,
    /// The device group of the pod's links, where there are several.
    pub group: Option<u32>,
}

/// What an attachment's result gains.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gain {
    /// The hardware address that the pod's interface has now, in the configuration's form.
    pub mac: Option<String>,
    /// Interfaces that were made, after all others.
    pub interfaces: Vec<Interface>,
    /// What is known only now and helps to undo it.
    pub original: Option<Original>,
}

/// What was there before a plugin changed it: enough to put it back, whatever became of the plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Original {
    /// tuning's.
    Tuning(tuning::Original),
    /// firewall's: what it was about to add, and by what that is found once it is there.
    Firewall(firewall::Resolved, Option<firewall::Handles>),
    /// sbr's.
    Sbr(sbr::Original),
    /// vrf's.
    Vrf(vrf::Original),
}

/// A validated configuration of any of them.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    /// tuning.
    Tuning(tuning::Spec),
    /// firewall.
    Firewall(firewall::Spec),
    /// bandwidth.
    Bandwidth(bandwidth::Spec),
    /// portmap.
    Portmap(portmap::Spec),
    /// sbr.
    Sbr(sbr::Spec),
    /// vrf.
    Vrf(vrf::Spec),
    /// passthru.
    Passthru,
}

/// What was found, and is about to be changed.
#[derive(Debug)]
pub enum Looked<'s> {
    /// tuning.
    Tuning(&'s tuning::Spec, Box<tuning::Looked>),
    /// firewall.
    Firewall(firewall::Resolved),
    /// bandwidth.
    Bandwidth(&'s bandwidth::Spec, Box<bandwidth::Place>),
    /// portmap.
    Portmap(&'s portmap::Spec),
    /// sbr.
    Sbr(Box<sbr::Resolved>),
    /// vrf.
    Vrf(Box<vrf::Resolved>),
    /// passthru.
    Passthru,
}

impl Looked<'_> {
    /// What must be written down before it is changed. `None`: nothing that was there is changed.
    #[must_use]
    pub fn original(&self) -> Option<Original> {
        match self {
            Self::Tuning(_, looked) => Some(Original::Tuning(looked.original().clone())),
            Self::Firewall(resolved) => Some(Original::Firewall(resolved.clone(), None)),
            Self::Portmap(_) | Self::Bandwidth(..) | Self::Passthru => None,
            Self::Sbr(resolved) => Some(Original::Sbr(resolved.original().clone())),
            Self::Vrf(resolved) => Some(Original::Vrf(resolved.original().clone())),
        }
    }

    /// Does what was decided.
    ///
    /// # Errors
    /// Those of the kernel; then nothing of it stays.
    pub fn carry_out(self, scene: &mut Scene<'_>) -> Result<Gain, Error> {
        let mut gain = Gain::default();
        match self {
            Self::Tuning(spec, looked) => gain.mac = tuning::add(Some(scene.host), scene.pod, spec, &looked)?.mac,
            Self::Firewall(resolved) => {
                let handles = firewall::add(&mut Filter::open()?, &scene.owner, &resolved)?;
                gain.original = Some(Original::Firewall(resolved, Some(handles)));
            }
            Self::Bandwidth(spec, place) => {
                let ifb = bandwidth::add(scene.host, scene.pod, spec, &place, &scene.owner, scene.group)?;
                gain.interfaces.extend(ifb);
            }
            Self::Portmap(spec) => {
                portmap::add(scene.host, &mut Filter::open()?, spec, &scene.owner, scene.previous)?;
            }
            Self::Sbr(resolved) => sbr::add(scene.pod, *resolved)?,
            Self::Vrf(resolved) => vrf::add(scene.pod, *resolved)?,
            Self::Passthru => {}
        }
        Ok(gain)
    }
}

/// Whether this node lets plexus do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// It does.
    Here,
    /// The reference plugin must do it: something else keeps the node's rules. The reason.
    ElsewhereBecause(String),
}

impl Spec {
    /// Which plugin.
    #[must_use]
    pub const fn chained(&self) -> Chained {
        match self {
            Self::Tuning(_) => Chained::Tuning,
            Self::Firewall(_) => Chained::Firewall,
            Self::Bandwidth(_) => Chained::Bandwidth,
            Self::Portmap(_) => Chained::Portmap,
            Self::Sbr(_) => Chained::Sbr,
            Self::Vrf(_) => Chained::Vrf,
            Self::Passthru => Chained::Passthru,
        }
    }

    /// firewall with a policy: without it, and with each that a bridge can have. What is said of a bridge is for all of its pods, and the
    /// last one says it.
    #[must_use]
    pub fn policies(&self) -> Option<[Self; 3]> {
        let Self::Firewall(spec) = self else { return None };
        spec.policies().map(|all| all.map(Self::Firewall))
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Tuning(spec) => spec.is_idle(),
            Self::Bandwidth(spec) => spec.is_idle(),
            Self::Portmap(spec) => spec.is_idle(),
            Self::Firewall(_) | Self::Sbr(_) | Self::Vrf(_) => false,
            Self::Passthru => true,
        }
    }

    /// Asks the node whether it may be done, and here. Changes nothing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] if the node's owner does not allow it.
    pub fn fit(&self) -> Result<Fit, Error> {
        match self {
            Self::Tuning(spec) => spec.permitted().map(|()| Fit::Here),
            Self::Firewall(spec) => {
                let reason = firewall::detect(spec);
                Ok(reason.map_or(Fit::Here, |reason| Fit::ElsewhereBecause(reason.to_string())))
            }
            Self::Bandwidth(_) | Self::Portmap(_) | Self::Sbr(_) | Self::Vrf(_) | Self::Passthru => Ok(Fit::Here),
        }
    }

    /// Whether the kernel can do it. Changes nothing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Refused`] with what it lacks; those of the kernel.
    pub fn ready(&self) -> Result<(), Error> {
        let (what, is_there) = match self {
            Self::Portmap(_) | Self::Firewall(_) => ("nftables", crate::nft::supported()?),
            Self::Vrf(_) => ("links of kind vrf", vrf::supported(&mut Host::open()?)?),
            Self::Tuning(_) | Self::Bandwidth(_) | Self::Sbr(_) | Self::Passthru => return Ok(()),
        };
        if is_there { Ok(()) } else { Err(Error::new(ErrorKind::Refused, format!("this kernel has no {what}"))) }
    }

    /// Looks whether what it wants of the host is somebody else's, before anything of the chain is done. Changes nothing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::PortTaken`] with whose it is; those of the kernel.
    pub fn claim(&self, owner: &Owner<'_>) -> Result<(), Error> {
        match self {
            Self::Portmap(spec) if !spec.is_idle() => {
                portmap::look(&mut Filter::open()?, spec, owner, &[Family::V4, Family::V6])
            }
            _ => Ok(()),
        }
    }

    /// Looks up what it will change. Changes nothing.
    ///
    /// # Errors
    /// Those of the kernel, and what the plugin refuses of what is there.
    pub fn look(&self, scene: &mut Scene<'_>) -> Result<Looked<'_>, Error> {
        match self {
            Self::Tuning(spec) => {
                let looked = tuning::look(Some(scene.host), scene.pod, spec, &scene.owner)?;
                Ok(Looked::Tuning(spec, Box::new(looked)))
            }
            Self::Firewall(spec) => spec.resolve(scene.previous).map(Looked::Firewall),
            Self::Sbr(spec) => {
                let resolved = sbr::look(scene.pod, spec, scene.owner.ifname, scene.previous)?;
                Ok(Looked::Sbr(Box::new(resolved)))
            }
            Self::Bandwidth(spec) => {
                let place = bandwidth::look(scene.host, scene.pod, spec, &scene.owner, scene.previous)?;
                Ok(Looked::Bandwidth(spec, Box::new(place)))
            }
            Self::Portmap(spec) => Ok(Looked::Portmap(spec)),
            Self::Vrf(spec) => {
                vrf::look(scene.pod, spec, scene.owner.ifname).map(|resolved| Looked::Vrf(Box::new(resolved)))
            }
            Self::Passthru => Ok(Looked::Passthru),
        }
    }

    /// Compares it with the kernel. `listed`: what checks of others have listed already.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Mismatch`] with what differs; those of the kernel.
    pub fn check(&self, scene: &mut Scene<'_>, listed: &mut Listed) -> Result<(), Error> {
        match self {
            Self::Tuning(spec) => {
                let has_link = scene.previous.interfaces.iter().any(|link| link.name == scene.owner.ifname);
                if !has_link && !spec.changes_link() {
                    return tuning::parameters(scene.pod, spec, &scene.owner);
                }
                tuning::check(scene.pod, spec, &scene.owner)
            }
            Self::Firewall(spec) => firewall::check(listed, &scene.owner, &spec.resolve(scene.previous)?),
            Self::Bandwidth(spec) => bandwidth::check(scene.host, scene.pod, spec, &scene.owner, scene.previous),
            Self::Portmap(spec) => portmap::check(&mut Filter::open()?, spec, &scene.owner, scene.previous),
            Self::Sbr(spec) => sbr::check(scene.pod, spec, scene.owner.ifname, scene.previous),
            Self::Vrf(spec) => vrf::check(scene.pod, spec, scene.owner.ifname),
            Self::Passthru => Ok(()),
        }
    }
}

/// What is left to remove something with.
pub struct Remains<'a> {
    /// A way to the host's packet filter.
    pub filter: &'a mut Filter,
    /// The host's side.
    pub host: &'a mut Host,
    /// The pod's side, where its namespace still is.
    pub pod: Option<&'a mut Pod>,
    /// Whose attachment it was.
    pub owner: Owner<'a>,
    /// What was attached, where somebody knows.
    pub previous: Option<&'a Previous>,
    /// The configuration, where it can still be read.
    pub spec: Option<&'a Spec>,
    /// What was there before, where it was noted.
    pub original: Option<&'a Original>,
    /// The pod's interface lives on.
    pub link_stays: bool,
    /// Starts a process that waits for the kernel.
    pub spawn: Option<&'a Spawn<'a>>,
}

/// Removes what a plugin made; what is gone is no error. Returns what could not be put back and keeps nothing from ending.
///
/// # Errors
/// Those of the kernel.
pub fn remove(chained: Chained, remains: &mut Remains<'_>) -> Result<Vec<Error>, Error> {
    let Remains { owner, previous, spec, original, link_stays, .. } = *remains;
    match chained {
        Chained::Tuning => {
            let original = if let Some(Original::Tuning(original)) = original { Some(original) } else { None };
            let directory = match spec {
                Some(Spec::Tuning(spec)) => spec.directory().to_owned(),
                _ => tuning::Conf::default().directory(),
            };
            // What goes with its link need not be put back first.
            let goes = !link_stays && original.is_some_and(|original| !original.outlives_link());
            let pod = remains.pod.as_deref_mut().filter(|_| !goes);
            Ok(tuning::remove(Some(remains.host), pod, &owner, &directory, original))
        }
        Chained::Firewall => {
            let (noted, handles) = match original {
                Some(Original::Firewall(resolved, handles)) => (Some(resolved.clone()), handles.as_ref()),
                _ => (None, None),
            };
            let of_result = || match (spec, previous) {
                (Some(Spec::Firewall(spec)), Some(previous)) => spec.resolve(previous).ok(),
                _ => None,
            };
            let resolved = noted.or_else(of_result);
            let removed = firewall::remove(remains.host, remains.filter, &owner, resolved.as_ref(), handles);
            removed.map(|()| Vec::new())
        }
        Chained::Sbr => {
            let original = if let Some(Original::Sbr(original)) = original { Some(original) } else { None };
            let table = if let Some(Spec::Sbr(spec)) = spec { spec.table() } else { None };
            let attached = sbr::Attached { ifname: owner.ifname, table, previous, original, link_stays };
            match sbr::remove(remains.pod.as_deref_mut(), &attached) {
                // The pod may have changed its link so that no route can come back: it must not keep DEL from ending by that.
                Err(error) if link_stays => {
                    let attached = sbr::Attached { link_stays: false, ..attached };
                    sbr::remove(remains.pod.as_deref_mut(), &attached).map(|()| vec![error])
                }
                other => other.map(|()| Vec::new()),
            }
        }
        Chained::Portmap => {
            let spec = if let Some(Spec::Portmap(spec)) = spec { Some(spec) } else { None };
            portmap::remove_of(remains.filter, spec, &owner, remains.previous).map(|()| Vec::new())
        }
        Chained::Vrf => {
            let original = if let Some(Original::Vrf(original)) = original { Some(original) } else { None };
            // A configuration that names no VRF never made one.
            let Some(Spec::Vrf(spec)) = spec else { return Ok(Vec::new()) };
            let attached = vrf::Attached { ifname: owner.ifname, vrf: spec.name(), original, link_stays };
            vrf::remove(remains.pod.as_deref_mut(), &attached).map(|()| Vec::new())
        }
        Chained::Bandwidth => {
            // A pair that goes takes its limits along; what its traffic was redirected to does not.
            let pod = remains.pod.as_deref_mut().filter(|_| link_stays);
            bandwidth::remove(remains.host, pod, &owner, remains.spawn).map(|()| Vec::new())
        }
        Chained::Passthru => Ok(Vec::new()),
    }
}

/// After the links have gone: what two DELs at once each left for the other.
///
/// # Errors
/// Those of the kernel.
pub fn settle(spec: &Spec, filter: &mut Filter) -> Result<(), Error> {
    match spec {
        Spec::Firewall(spec) if spec.isolates() => firewall::remove_idle_isolation(&mut Host::open()?, filter),
        _ => Ok(()),
    }
}

/// GC: removes what a plugin made on the host for a network's attachments that are none of the valid ones: pairs of container id
/// and interface name. Without `by_ifname` the container id alone decides. What does not tell its network stays.
///
/// # Errors
/// Those of the kernel.
pub fn retain(chained: Chained, network: &str, valid: &[(&str, &str)], by_ifname: bool) -> Result<(), Error> {
    match chained {
        Chained::Portmap => portmap::retain(&mut Filter::open()?, network, valid, by_ifname),
        Chained::Firewall => {
            let mut filter = Filter::open()?;
            firewall::retain(&mut filter, network, valid, by_ifname)?;
            firewall::remove_idle_isolation(&mut Host::open()?, &mut filter)
        }
        Chained::Bandwidth => {
            let mut host = Host::open()?;
            let is_valid = |noted: &bandwidth::Noted| {
                valid.iter().any(|(sandbox, ifname)| {
                    let ifname = if by_ifname { ifname } else { noted.ifname.as_str() };
                    noted.can_be_of(&Owner { network, sandbox, ifname })
                })
            };
            let mut ended = bandwidth::noted(&mut host)?;
            ended.retain(|noted| noted.network == network && !is_valid(noted));
            bandwidth::remove_noted(&mut host, &ended)
        }
        Chained::Tuning => {
            let is_valid = |owner: &Owner<'_>| {
                let is_it = |(sandbox, ifname): &(&str, &str)| {
                    *sandbox == owner.sandbox && (!by_ifname || *ifname == owner.ifname)
                };
                valid.iter().any(is_it)
            };
            let backups = tuning::backups(&tuning::Conf::default().directory())?;
            let ended = |backup: &&tuning::Backup| {
                backup.owner().is_some_and(|owner| owner.network == network && !is_valid(&owner))
            };
            backups.iter().filter(ended).try_for_each(tuning::Backup::remove)
        }
        Chained::Sbr | Chained::Vrf | Chained::Passthru => Ok(()),
    }
}
