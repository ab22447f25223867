//! host-local: leases in the Go plugin's own directory, in its order, with its texts, beside it at any time.
//!
//! A [`Section`] of configuration and the [`Requests`] of one call become a [`Pool`], in which everything is validated;
//! the pool adds, deletes and checks. What the Go plugin gets wrong is done right: an owner never holds two addresses
//! of one set, a failed ADD undoes only its own work, DEL removes only lease files, and there are GC and STATUS.
//! Knows no CNI results; where leases are on disk is known by `directory`, how they are found by `leases`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

mod directory;
mod leases;
mod order;

use crate::gotext::{ip_with_or_without_prefix, optional_ip};
use crate::number::{Number, address, number};
use crate::range::{Range, RangeSection, RangeSet, range_sets};
use crate::{Allocation, Cidr, Dns, Error, ErrorKind, Owner, Route, resolv};
use directory::Absent;
use leases::{Contents, Leases, Place, addresses};
use order::Order;

/// Where pools are if the configuration does not say: the Go plugin's place.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The `ipam` object of a host-local configuration, its own keys only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "IPAMConfig", rename_all = "camelCase", default)]
pub struct Section {
    /// The old way to name one range, together with the next three; it comes before `ranges`.
    pub subnet: Option<Cidr>,
    /// The old way's first address.
    #[serde(deserialize_with = "optional_ip")]
    pub range_start: Option<IpAddr>,
    /// The old way's last address.
    #[serde(deserialize_with = "optional_ip")]
    pub range_end: Option<IpAddr>,
    /// The old way's gateway.
    #[serde(deserialize_with = "optional_ip")]
    pub gateway: Option<IpAddr>,
    /// Range sets: one address is given out of each.
    pub ranges: Vec<Vec<RangeSection>>,
    /// Handed on.
    pub routes: Vec<Route>,
    /// A file in the format of `resolv.conf`, read by ADD.
    pub resolv_conf: Option<String>,
    /// Where pools are; [`DEFAULT_DATA_DIR`] if absent or empty.
    pub data_dir: Option<String>,
}

/// What one call asks for beyond the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// Capability `ipRanges`: range sets before those of the configuration.
    pub runtime_ranges: Vec<Vec<RangeSection>>,
    /// Requested addresses of every source, in the order CNI_ARGS `IP`, `args.cni.ips`, capability `ips`. A prefix is
    /// ignored.
    pub ips: Vec<String>,
    /// The configuration's version where that is below 0.3.0 and allows one address of each family.
    pub one_per_family: Option<String>,
}

/// How much of a range set is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetUsage {
    /// The set's ranges, `first-last`, joined by commas.
    pub ranges: String,
    /// Addresses held.
    pub used: u128,
    /// Addresses that can be held: without gateways.
    pub total: u128,
}

/// How much of each range set of a pool is held, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// One entry for each set.
    pub sets: Vec<SetUsage>,
}

impl Usage {
    /// The first set from which nothing can be given out: with it every ADD fails.
    #[must_use]
    pub fn full(&self) -> Option<&SetUsage> {
        self.sets.iter().find(|set| set.used >= set.total)
    }
}

/// A validated configuration of host-local for one network and one call.
#[derive(Debug, Clone)]
pub struct Pool {
    place: Place,
    network: String,
    sets: Vec<RangeSet>,
    requested: Vec<Number>,
    routes: Vec<Route>,
    resolv_conf: Option<PathBuf>,
}

impl Pool {
    /// Validates configuration and requests together. Touches no file.
    ///
    /// The index of the pool is kept under `state_dir`; nothing is lost with it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] with the Go plugin's text.
    pub fn new(section: Section, network: &str, requests: &Requests, state_dir: &Path) -> Result<Self, Error> {
        let refuse = |text| Error::refused(ErrorKind::InvalidConfig, "reading the configuration of", network, text);
        validate_network(network)?;
        let requested = requests.ips.iter().map(|text| ip_with_or_without_prefix(text).map(number));
        let requested: Vec<Number> = requested.collect::<Result<_, _>>().map_err(refuse)?;

        let mut sections = requests.runtime_ranges.clone();
        if section.subnet.is_some() {
            let Section { subnet, range_start, range_end, gateway, .. } = section;
            sections.push(vec![RangeSection { subnet, range_start, range_end, gateway }]);
        }
        sections.extend(section.ranges);
        let sets = range_sets(&sections, requests.one_per_family.as_deref()).map_err(refuse)?;

        let data_dir = section.data_dir.filter(|dir| !dir.is_empty()).unwrap_or_else(|| DEFAULT_DATA_DIR.to_owned());
        Ok(Self {
            place: Place::new(Path::new(&data_dir), network, state_dir),
            network: network.to_owned(),
            sets,
            requested,
            routes: section.routes,
            resolv_conf: section.resolv_conf.filter(|path| !path.is_empty()).map(PathBuf::from),
        })
    }

    /// The pool's directory, `<dataDir>/<network>`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.place.path
    }

    /// The range sets, as the Go plugin prints them.
    #[must_use]
    pub fn ranges(&self) -> String {
        self.sets.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// Takes one address of every range set.
    ///
    /// The whole call holds the pool's lock: the Go plugin takes it once for each set, so that two dual-stack ADDs can
    /// interleave, but an observer of either way sees only what the other may also do.
    ///
    /// # Errors
    /// With the Go plugin's texts: [`ErrorKind::Duplicate`], [`ErrorKind::Exhausted`], [`ErrorKind::Unavailable`],
    /// [`ErrorKind::InvalidConfig`] for a request that no set can serve; or a failure of the file system. What this
    /// call took by then is given back, and nothing else.
    pub fn add(&self, owner: &Owner<'_>) -> Result<Allocation, Error> {
        let contents = Contents::of(owner)?;
        let dns = self.resolv_conf.as_deref().map_or_else(|| Ok(Dns::default()), resolv::read)?;
        let requests = self.requests_by_set()?;
        let leases = Leases::open(&self.place, Absent::Create)?;
        let Some(mut leases) = leases else { return Err(self.vanished()) };

        let order = Order { network: &self.network, owner, contents: &contents };
        let addresses = order.serve(&mut leases, &self.sets, &requests);
        leases.finish();
        Ok(Allocation { addresses: addresses?, routes: self.routes.clone(), dns })
    }

    /// Whether every requested address is in a range. [`Pool::add`] does it too; this touches no file.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] with the Go plugin's text.
    pub fn check_requests(&self) -> Result<(), Error> {
        self.requests_by_set().map(|_| ())
    }

    /// Which requested address each set serves: the first one that it contains and no earlier set took.
    fn requests_by_set(&self) -> Result<Vec<Option<Number>>, Error> {
        let mut left: Vec<Number> = Vec::new();
        for at in &self.requested {
            if !left.contains(at) {
                left.push(*at);
            }
        }
        let mut serve = |set: &RangeSet| {
            let position = left.iter().position(|at| set.range_of(*at).is_some())?;
            Some(left.remove(position))
        };
        let served = self.sets.iter().map(&mut serve).collect();
        if left.is_empty() {
            return Ok(served);
        }
        let names: Vec<String> = left.iter().map(|at| address(*at).to_string()).collect();
        Err(self
            .refused(ErrorKind::InvalidConfig, format!("failed to allocate all requested IPs: {}", names.join(" "))))
    }

    /// Releases what the owner holds in this pool's directory; nothing held, or no directory, is success.
    ///
    /// # Errors
    /// A failure of the file system.
    pub fn del(&self, owner: &Owner<'_>) -> Result<(), Error> {
        release_in(&self.place, owner).map(|_| ())
    }

    /// The addresses that the owner holds in this pool's directory, in any range.
    ///
    /// # Errors
    /// A failure of the file system.
    pub fn held_by(&self, owner: &Owner<'_>) -> Result<Vec<IpAddr>, Error> {
        let contents = Contents::of(owner)?;
        let Some(mut leases) = Leases::open(&self.place, Absent::Leave)? else { return Ok(Vec::new()) };
        let held = leases.held(&contents);
        leases.finish();
        held.map(addresses)
    }

    /// Whether the owner holds anything here at all, which is all that the Go plugin checks. Whether it is what the
    /// result says, the caller knows from [`Pool::held_by`].
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] with the Go plugin's text, or a failure of the file system.
    pub fn check(&self, owner: &Owner<'_>) -> Result<(), Error> {
        if self.held_by(owner)?.is_empty() {
            let text = format!("host-local: Failed to find address added by container {}", owner.sandbox);
            return Err(Error::refused(ErrorKind::Mismatch, "checking", &self.network, text));
        }
        Ok(())
    }

    /// Those of the addresses that are in a range of this pool and that the owner does not hold.
    ///
    /// # Errors
    /// A failure of the file system.
    pub fn missing(&self, owner: &Owner<'_>, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        let held = self.held_by(owner)?;
        let is_ours = |ip: &&IpAddr| self.sets.iter().any(|set| set.range_of(number(**ip)).is_some());
        Ok(addresses.iter().filter(is_ours).filter(|ip| !held.contains(ip)).copied().collect())
    }

    /// How much of each range set is held.
    ///
    /// # Errors
    /// A failure of the file system.
    pub fn usage(&self) -> Result<Usage, Error> {
        let stretches: Vec<_> =
            self.sets.iter().map(|set| set.ranges().iter().flat_map(Range::stretches).collect()).collect();
        let used = match Leases::open(&self.place, Absent::Leave)? {
            None => vec![0; stretches.len()],
            Some(mut leases) => {
                let used = leases.used(&stretches);
                leases.finish();
                used?
            }
        };
        let sets = self.sets.iter().zip(used).map(|(set, used)| SetUsage {
            ranges: set.to_string(),
            used,
            total: set.ranges().iter().map(Range::size).sum(),
        });
        Ok(Usage { sets: sets.collect() })
    }

    /// GC: releases every lease in the directory whose owner is not valid, and says which. A lease of the old format
    /// has an owner without interface. Reads every lease.
    ///
    /// `valid` is called with the pool locked: it must not come back to the pool.
    ///
    /// # Errors
    /// A failure of the file system; what could be released is released.
    pub fn retain(&self, valid: &dyn Fn(&Owner<'_>) -> bool) -> Result<Vec<IpAddr>, Error> {
        retain_in(&self.place, valid)
    }

    fn refused(&self, kind: ErrorKind, text: String) -> Error {
        Error::refused(kind, "allocating from", &self.network, text)
    }

    fn vanished(&self) -> Error {
        self.refused(ErrorKind::Unstable, format!("the directory {} vanished", self.place.path.display()))
    }
}

/// A lease as its file tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The address.
    pub address: IpAddr,
    /// The container id; empty in a file that nothing was written to.
    pub sandbox: String,
    /// The interface; empty in the old form of the file.
    pub ifname: String,
}

/// Everything that is held in a pool, by directory alone. Reads every lease.
///
/// # Errors
/// A network name that is no name, or a failure of the file system.
pub fn held(data_dir: &Path, network: &str, state_dir: &Path) -> Result<Vec<Held>, Error> {
    validate_network(network)?;
    let place = Place::new(data_dir, network, state_dir);
    let Some(mut leases) = Leases::open(&place, Absent::Leave)? else { return Ok(Vec::new()) };
    let all = leases.all();
    leases.finish();
    all
}

/// As [`Pool::retain`], by directory alone.
///
/// # Errors
/// As [`held`]; what could be released is released.
pub fn retain(
    data_dir: &Path,
    network: &str,
    state_dir: &Path,
    valid: &dyn Fn(&Owner<'_>) -> bool,
) -> Result<Vec<IpAddr>, Error> {
    validate_network(network)?;
    retain_in(&Place::new(data_dir, network, state_dir), valid)
}

fn retain_in(place: &Place, valid: &dyn Fn(&Owner<'_>) -> bool) -> Result<Vec<IpAddr>, Error> {
    let Some(mut leases) = Leases::open(place, Absent::Leave)? else { return Ok(Vec::new()) };
    let released = leases.retain(valid);
    leases.finish();
    released.map(addresses)
}

/// Releases what the owner holds in a pool, by directory alone: DEL knows no ranges. Says which addresses those were.
///
/// # Errors
/// A network name that is no name, or a failure of the file system.
pub fn release(data_dir: &Path, network: &str, owner: &Owner<'_>, state_dir: &Path) -> Result<Vec<IpAddr>, Error> {
    validate_network(network)?;
    release_in(&Place::new(data_dir, network, state_dir), owner)
}

fn release_in(place: &Place, owner: &Owner<'_>) -> Result<Vec<IpAddr>, Error> {
    let contents = Contents::of(owner)?;
    let Some(mut leases) = Leases::open(place, Absent::Leave)? else { return Ok(Vec::new()) };
    let released = leases.release(&contents);
    leases.finish();
    released.map(addresses)
}

/// The name becomes the name of a directory (CNI spec: `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`).
fn validate_network(network: &str) -> Result<(), Error> {
    let refuse = |text: &str| {
        Err(Error::refused(ErrorKind::InvalidConfig, "reading the configuration of", network, text.to_owned()))
    };
    if network.is_empty() {
        return refuse("missing network name");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !network.bytes().all(allowed) || !network.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return refuse("invalid characters found in network name");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
