//! A pod of which nobody kept anything: neither a record nor Multus' caches. host-local writes container and interface into each lease, and
//! the lease's directory is named as the network: by these its links are found in the namespace, and on the host what Go's plugins name by
//! network, container and interface. What leaves no such trace cannot be had: addresses of other IPAM plugins, devices, an unknown plugin's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use backends::{Kind, NetNs, Pod};
use ipam::host_local;
use ipnetwork::IpNetwork;
use serde_json::{Map, json};

use super::cache::{Cache, RUNTIMES_ROOT};
use super::{NOT_NOTED, of_name};
use crate::cni::error::{CniError, Code};
use crate::cni::names;
use crate::cni::result::{CniResult, Interface, Ip};
use crate::config::Config;
use crate::detach::{self, DATA_DIR, Departure};
use crate::job::Job;
use crate::journal::{Attachment, Pool, Step};
use crate::log::warn;
use crate::native;

/// More networks than a node has, in one of host-local's directories.
const NETWORKS_MAX: usize = 1 << 14;

/// What the call knows beside the leases.
pub struct Asked<'a> {
    /// The default networks' attachments: their configurations say more than a lease.
    pub defaults: &'a dyn Fn() -> Vec<Attachment>,
    /// The namespace of the call, where there is one.
    pub inside: &'a dyn Fn() -> Result<Option<NetNs>, CniError>,
}

/// Removes all that leases of the container lead to, and the leases. Those of an interface that a record of plexus or a runtime's own note
/// names are somebody's who will delete them. Returns the interfaces that had some.
///
/// # Errors
/// Everything that could not be removed.
pub fn detach(job: &Job, config: &Config, asked: &Asked) -> Result<BTreeSet<String>, CniError> {
    let sandbox = job.request.container_id.as_str();
    let mut found = leases(Path::new(DATA_DIR), sandbox, &job.state_dir)?;
    if found.is_empty() {
        return Ok(BTreeSet::new());
    }
    let others = others(job)?;
    found.retain(|(_, ifname), _| !others.contains(ifname));
    if found.is_empty() {
        return Ok(BTreeSet::new());
    }
    let ifnames = found.keys().map(|(_, ifname)| ifname.clone()).collect();
    let names: Vec<String> = found.keys().map(|(network, ifname)| format!("{ifname} of {network:?}")).collect();
    warn(&format!(
        "no record of plexus and no cache of Multus says what this container had; its leases name {}: these are released, with what is found \
         by them",
        names.join(", ")
    ));
    let defaults = (asked.defaults)();
    let path = config.search_path(&job.request.path);
    let mut pod = (asked.inside)()?.and_then(|netns| Pod::enter(netns).ok());
    let mut failures = Vec::new();
    // The default network last, as it came first.
    let is_default = |ifname: &str| ifname == job.request.ifname;
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|((_, ifname), _)| is_default(ifname));
    for ((network, ifname), addresses) in found {
        let kind = pod.as_mut().and_then(|pod| kind_of(pod, &ifname, &addresses));
        let known = defaults.iter().find(|known| known.cni_name == network && known.ifname == ifname).cloned();
        let mut attachment = known.unwrap_or_else(|| attachment(&network, &ifname, &job.request.args, kind.as_deref()));
        for index in 0..attachment.steps.len() {
            super::settle(&mut attachment, index, job, &path);
        }
        // A plugin of somebody else is not told what nobody knows.
        let result = attachment.steps.iter().all(|step| step.native).then(|| result(&ifname, &addresses, job.netns()));
        let inside = if kind.is_some() { (asked.inside)()? } else { None };
        failures.extend(
            detach::detach(Departure {
                path: &path,
                results: vec![result],
                ..Departure::unrecorded(job.request, &job.state_dir, std::slice::from_ref(&attachment), inside)
            })
            .err(),
        );
    }
    detach::join(failures).map(|()| ifnames)
}

/// The container's addresses by network and interface, in one of host-local's directories.
pub(super) fn leases(
    data_dir: &Path,
    sandbox: &str,
    state_dir: &Path,
) -> Result<BTreeMap<(String, String), Vec<IpAddr>>, CniError> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for network in networks(data_dir)? {
        let held = host_local::held(data_dir, &network, state_dir).unwrap_or_else(|e| {
            warn(&format!("leases of network {network:?} cannot be looked at: {}", native::chain(&e)));
            Vec::new()
        });
        for lease in held.into_iter().filter(|lease| lease.sandbox == sandbox) {
            found.entry((network.clone(), lease.ifname)).or_default().push(lease.address);
        }
    }
    Ok(found)
}

fn networks(data_dir: &Path) -> Result<Vec<String>, CniError> {
    let failed = |e: std::io::Error| CniError::new(Code::Io, format!("listing {}: {e}", data_dir.display()));
    let entries = match fs::read_dir(data_dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut networks = Vec::new();
    for entry in entries.take(NETWORKS_MAX) {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().ok().filter(|name| names::validate_network_name(name).is_ok());
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        networks.extend(name.filter(|_| is_folder));
    }
    Ok(networks)
}

/// Interfaces of the container that somebody else will be asked to delete: who has a record, and what the runtime itself attached beside this
/// network.
fn others(job: &Job) -> Result<BTreeSet<String>, CniError> {
    let request = job.request;
    let listing = job.journal().all().map_err(|e| CniError::new(Code::Io, native::chain(&e)))?;
    let of_sandbox = listing.records.into_iter().filter(|record| record.intent.key.sandbox == request.container_id);
    let mut others: BTreeSet<String> =
        of_sandbox.flat_map(|record| record.intent.attachments).map(|attachment| attachment.ifname).collect();
    let noted = Cache::new(Path::new(RUNTIMES_ROOT)).read(&request.container_id)?;
    others.extend(noted.entries.into_iter().map(|entry| entry.ifname).filter(|ifname| *ifname != request.ifname));
    Ok(others)
}

/// What the kernel calls the pod's link of this name, if it has one of these addresses: then it is what they were leased for.
fn kind_of(pod: &mut Pod, ifname: &str, addresses: &[IpAddr]) -> Option<String> {
    let present = backends::addresses(pod, ifname).ok()??;
    if !present.iter().any(|address| addresses.contains(address)) {
        return None;
    }
    let links = backends::links(pod).ok()?;
    links.into_iter().find(|link| link.name == ifname).map(|link| link.kind)
}

/// What Go's plugins can have made of an attachment: the link, and on the host rules, ports and limits.
fn attachment(network: &str, ifname: &str, args: &str, kind: Option<&str>) -> Attachment {
    let pool = Pool { data_dir: PathBuf::from(DATA_DIR), network: network.to_owned() };
    let step = |plugin: &str, conf: serde_json::Value, pool: Option<Pool>| Step {
        plugin: plugin.to_owned(),
        native: true,
        conf: conf.as_object().cloned().unwrap_or_else(Map::new),
        pool,
        device: None,
        function: None,
        ipam_delegate: None,
    };
    let plugin = match kind {
        // A pair may be of ptp too: of both it is the pod's end that leaves, and the same rules. Of one that is gone rules stay.
        Some("veth") | None => Kind::Bridge.name(),
        Some("tun") => Kind::Tap.name(),
        Some(kind @ ("macvlan" | "ipvlan" | "vlan" | "dummy")) => kind,
        // A device of the host goes back by itself when its namespace dies.
        Some(_) => "",
    };
    let asked =
        |capability: &str| json!({"capabilities": {capability: true}, "runtimeConfig": {capability: NOT_NOTED}});
    let steps = vec![
        step(plugin, json!({"ipMasq": true, "macspoofchk": true}), Some(pool)),
        // Its backup file; what it says is of no use to a link that leaves.
        step("tuning", json!({"mtu": NOT_NOTED}), None),
        step("portmap", asked("portMappings"), None),
        step("firewall", json!({}), None),
        step("bandwidth", asked("bandwidth"), None),
    ];
    Attachment { steps, ..of_name(network, ifname, args) }
}

/// What ADD must have said of addresses: rules are found by them, without a prefix.
fn result(ifname: &str, addresses: &[IpAddr], netns: &str) -> CniResult {
    let interface = Interface { name: ifname.to_owned(), sandbox: netns.to_owned(), ..Interface::default() };
    let ips =
        addresses.iter().map(|address| Ip { address: IpNetwork::from(*address), gateway: None, interface: Some(0) });
    CniResult { interfaces: vec![interface], ips: ips.collect(), ..CniResult::default() }
}
