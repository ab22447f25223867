//! `plexus demo`: three pods with four interfaces each, pings between all of them over every network, and proof that
//! nothing is left. Without root, without a cluster, without any plugin binary: it executes itself as the runtime would.
//!
//! Everything happens in namespaces of this process, so nothing is left behind even where it is killed half-way.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

mod namespace;
mod ping;
mod plugin;
mod report;
mod sandbox;
mod world;

pub(crate) use sandbox::Refusal;

use super::failure::Failure;
use super::list;
use super::output::{Format, Out, Progress};
use namespace::{Namespace, interfaces, links_inside};
use plugin::{Verb, call};
use report::{Attachment, Count, Ping, Report, Request, Status};
use world::NETWORKS;

/// Pings that have not begun by then are not sent: something is thoroughly wrong.
const PINGS_DEADLINE: Duration = Duration::from_secs(20);
/// Directories below host-local's that are counted; it has one for each network.
const LEASE_DIRS_MAX: usize = 64;

/// Runs the demo and prints what it saw.
///
/// # Errors
/// The machine forbids it, plexus refuses a request, or the demo did not show what it should.
pub(super) fn run(output: Format, out: &mut Out) -> Result<(), Failure> {
    let progress = Progress::start();
    progress.step("namespaces of our own: user, network, mount");
    sandbox::enter()?;
    progress.step("three pods and three definitions, as manifests");
    world::write()?;
    let report = perform(&progress)?;
    match output {
        Format::Table => out.text(&report.tables())?,
        Format::Json => out.json(&report)?,
    }
    report.verdict()
}

fn perform(progress: &Progress) -> Result<Report, Failure> {
    // Mounts that came along from outside are hidden, and not of this demo.
    let foreign = sandbox::mounted(Path::new(world::NAMESPACES))?;
    progress.step("the host's uplink");
    let neighbour = Namespace::make(world::NEIGHBOUR)?;
    call(Verb::Add, &neighbour, &world::uplink())?;
    let pods = world::PODS.iter().map(|(name, _)| Namespace::make(name)).collect::<Result<Vec<_>, _>>()?;

    let configuration = world::configuration();
    let mut requests = Vec::new();
    for pod in &pods {
        progress.step(&format!("ADD {}", pod.name()));
        requests.push(Request { pod: pod.name().to_owned(), add: call(Verb::Add, pod, &configuration)?, del: None });
    }
    let attachments = observe(&pods)?;
    let everyone: Vec<&Namespace> = pods.iter().chain([&neighbour]).collect();
    let mut attached = count(&everyone)?;

    progress.step("pings from every pod to every other, over every network");
    let pings = ping_all(&pods, &attachments)?;
    let network_status = status()?;

    for (pod, request) in pods.iter().zip(&mut requests) {
        progress.step(&format!("DEL {}", pod.name()));
        request.del = Some(call(Verb::Del, pod, &configuration)?);
    }
    progress.step("the uplink goes, then what is left is counted");
    call(Verb::Del, &neighbour, &world::uplink())?;
    let mut left = count(&everyone)?;
    for namespace in pods.into_iter().chain([neighbour]) {
        namespace.dissolve()?;
    }
    left.namespaces = sandbox::mounted(Path::new(world::NAMESPACES))?;
    for present in [&mut attached, &mut left] {
        present.namespaces = present.namespaces.saturating_sub(foreign);
    }
    Ok(Report { attachments, pings, network_status, requests, left: Count::compare(&attached, &left) })
}

/// What the kernel shows in every pod.
fn observe(pods: &[Namespace]) -> Result<Vec<Attachment>, Failure> {
    let mut attachments = Vec::new();
    let (rows, _) = list::read(Path::new(super::STATE_DIR))?;
    for pod in pods {
        let mut found = pod.inside(interfaces)??;
        for network in &NETWORKS {
            let interface = found.remove(network.interface).unwrap_or_default();
            let row = rows.iter().find(|row| row.pod == pod.name() && row.interface == network.interface);
            attachments.push(Attachment {
                pod: pod.name().to_owned(),
                interface: network.interface,
                network: network.name,
                kind: network.kind,
                families: network.families,
                mac: interface.mac,
                addresses: interface.addresses,
                took: Duration::from_micros(row.map_or(0, |row| row.add_micros)),
            });
        }
    }
    Ok(attachments)
}

/// Every pod to every other, over every network, in every family that the network should have.
fn ping_all(pods: &[Namespace], attachments: &[Attachment]) -> Result<Vec<Ping>, Failure> {
    let start = Instant::now();
    let mut pings = Vec::new();
    for (family, to) in attachments.iter().flat_map(|to| to.families.iter().map(move |family| (*family, to))) {
        for from in pods.iter().filter(|from| from.name() != to.pod) {
            let address = to.addresses.iter().map(IpNetwork::ip).find(|address| family.has(*address));
            let id = u16::try_from(pings.len()).unwrap_or(u16::MAX);
            let answer = match address {
                None => Err("there is no address to ping".to_owned()),
                Some(_) if start.elapsed() > PINGS_DEADLINE => Err("not sent: others took too long".to_owned()),
                Some(address) => from.inside(move || ping::ping(address, id))?.map_err(|e| e.to_string()),
            };
            let (from, to_pod) = (from.name().to_owned(), to.pod.clone());
            pings.push(Ping { network: to.network, family, from, to: to_pod, address, answer });
        }
    }
    Ok(pings)
}

/// The annotation of the first pod, as the journal keeps it for the API server.
fn status() -> Result<Status, Failure> {
    let (rows, _) = list::read(Path::new(super::STATE_DIR))?;
    let pod = world::PODS.first().map_or("", |(name, _)| name);
    let row = rows.into_iter().find(|row| row.pod == pod);
    let annotation = row.and_then(|row| row.network_status);
    Ok(Status { pod: format!("{}/{pod}", world::NAMESPACE), annotation })
}

/// What there is at one moment.
#[derive(Debug)]
struct Present {
    host_links: usize,
    pod_links: usize,
    leases: usize,
    records: usize,
    namespaces: usize,
}

fn count(namespaces: &[&Namespace]) -> Result<Present, Failure> {
    let is_counted = |link: &&String| !sandbox::is_born_with(link) && !world::BRIDGES.contains(&link.as_str());
    let mut pod_links = 0;
    for namespace in namespaces {
        pod_links += links_inside(namespace)?;
    }
    let (records, unreadable) = list::read(Path::new(super::STATE_DIR))?;
    Ok(Present {
        host_links: sandbox::links()?.iter().filter(is_counted).count(),
        pod_links,
        leases: leases(Path::new(world::LEASES))?,
        records: records.len() + usize::from(unreadable.is_some()),
        namespaces: sandbox::mounted(Path::new(world::NAMESPACES))?,
    })
}

/// host-local's lease files, `<dataDir>/<network>/<address>`; its lock and its last_reserved_ip files stay for ever.
fn leases(dir: &Path) -> Result<usize, Failure> {
    let mut found = 0;
    for network in names(dir)?.into_iter().take(LEASE_DIRS_MAX) {
        found += names(&dir.join(network))?.iter().filter(|name| name.parse::<IpAddr>().is_ok()).count();
    }
    Ok(found)
}

fn names(dir: &Path) -> Result<Vec<String>, Failure> {
    let act = || format!("listing {}", dir.display());
    match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other
            .map_err(Failure::system(act()))?
            .map(|entry| Ok(entry.map_err(Failure::system(act()))?.file_name().to_string_lossy().into_owned()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_files_named_by_an_address() {
        let dir = std::env::temp_dir().join(format!("plexus-demo-leases-{}", std::process::id()));
        assert_eq!(leases(&dir).unwrap(), 0);
        fs::create_dir_all(dir.join("lan")).unwrap();
        for name in ["10.0.0.2", "fd00::2", "lock", "last_reserved_ip.0"] {
            fs::write(dir.join("lan").join(name), "").unwrap();
        }
        let found = leases(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found.unwrap(), 2);
    }
}
