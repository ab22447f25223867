//! A pod that lives against its record: whether its links are there and as they were made, and its addresses still leased to it.
//! Nothing is changed. It does not know when to look.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use backends::{NetNs, Pod};
use ipam::host_local::{self, Held};

use super::{Became, Changed, What, mend, text_of};
use crate::alive::{self, Observer};
use crate::attach::from_journal;
use crate::check::{self, Extent, Listed};
use crate::cni::error::CniError;
use crate::cni::request::Request;
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::config::{NativePolicy, Policy};
use crate::job::Job;
use crate::journal::{self, Attachment, Intent, Journal, Key, Outcome, Record};
use crate::native;
use crate::place::OfFiles;
use crate::survey::{self, Places};

/// What of a pod is not as its record says.
pub(super) type Differences = Vec<(What, String)>;

/// What pods share, read once for all that are looked at.
#[derive(Debug, Default)]
pub(super) struct Shared {
    leases: Leases,
    listed: Listed,
}

/// What is leased, by directory: each is read once.
#[derive(Debug, Default)]
struct Leases(BTreeMap<(PathBuf, String), Option<Vec<Held>>>);

impl Leases {
    /// None where it cannot be read: what it holds nobody knows.
    fn of(&mut self, pool: &journal::Pool, places: &Places) -> Option<&[Held]> {
        let key = (pool.data_dir.clone(), pool.network.clone());
        let read = || host_local::held(&pool.data_dir, &pool.network, &places.state_dir).ok();
        self.0.entry(key).or_insert_with(read).as_deref()
    }
}

/// Whether a record's pod uses one of these links of the host: as the other end of a pair, as bridge, or as lower device.
pub(super) fn uses(record: &Record, changed: &Changed) -> bool {
    let is_named = |name: &str| changed.names.contains(name);
    let outcomes = || record.commitment.iter().flat_map(|done| &done.outcomes);
    let mut steps = record.intent.attachments.iter().flat_map(|attachment| &attachment.steps);
    outcomes().filter_map(|outcome| outcome.made?.parent).any(|index| changed.indices.contains(&index))
        || outcomes().flat_map(|outcome| alive::host_links(&outcome.result)).any(|name| is_named(&name))
        || steps.any(|step| {
            let bridge = survey::bridge_of(&step.plugin, &step.conf);
            bridge.is_some_and(|name| is_named(&name)) || text_of(&step.conf, "master").is_some_and(is_named)
        })
}

/// What is to be made anew of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mends {
    /// Rules that are missing.
    pub(super) rules: bool,
    /// What firewalld was told, which has forgotten it.
    pub(super) firewalld: bool,
}

/// What a pod was like, and became.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    pub(super) found: Vec<(What, Became, String)>,
    /// What could not be made anew.
    pub(super) failures: Vec<String>,
    /// Something was made anew, and is not right all the same.
    pub(super) is_mended_in_vain: bool,
}

/// As [`differences`], while nobody can be at work on the record; none where somebody is. Rules that are missing are made anew, unless a
/// link or an address is missing, too: then a DEL has got half way, or others may have what was the pod's.
///
/// # Errors
/// As [`differences`]; the record cannot be read.
pub(super) fn confirmed(key: &Key, observer: &Observer, places: &Places, mends: Mends) -> Result<Confirmed, CniError> {
    let held = match Journal::new(&places.state_dir).hold_within(key, false, Duration::ZERO) {
        Err(e) if e.is_held() => return Ok(Confirmed::default()),
        held => held.map_err(|e| from_journal(&e))?,
    };
    let Some(held) = held else { return Ok(Confirmed::default()) };
    let records = held.records().map_err(|e| from_journal(&e))?;
    let Some(last) = records.last() else { return Ok(Confirmed::default()) };
    let told = |(what, line)| (what, Became::Reported, line);
    let found = differences(last, observer, places, &mut Shared::default())?;
    let has = |sought: What| found.iter().any(|(what, _)| *what == sought);
    let is_leaving = has(What::LinkMissing) || has(What::LeaseMissing);
    let differs = mends.rules && has(What::LinkChanged) && mend::has_rules(last);
    if is_leaving || !(differs || mends.firewalld && mend::has_firewall(last)) {
        return Ok(Confirmed { found: found.into_iter().map(told).collect(), ..Confirmed::default() });
    }
    let mended = mend::rules(last, observer, places, mends)?;
    let left =
        if mended.told.is_empty() { found } else { differences(last, observer, places, &mut Shared::default())? };
    let is_mended_in_vain = differs && left.iter().any(|(what, _)| *what == What::LinkChanged);
    let again = mended.told.into_iter().map(|line| (What::RulesMissing, Became::Repaired, line));
    Ok(Confirmed {
        found: again.chain(left.into_iter().map(told)).collect(),
        failures: mended.failures,
        is_mended_in_vain,
    })
}

/// What differs; nothing of a pod that cannot be looked into from here, or whose ADD has not ended.
///
/// # Errors
/// The pod cannot be looked into although its namespace is there.
pub(super) fn differences(
    record: &Record,
    observer: &Observer,
    places: &Places,
    shared: &mut Shared,
) -> Result<Differences, CniError> {
    let intent = &record.intent;
    let Some(done) = &record.commitment else { return Ok(Vec::new()) };
    let Some(netns) = observer.reach(intent) else { return Ok(Vec::new()) };
    let request = request_in(record, &netns);
    let job = job_of(&request, places);
    let mut pod = Pod::enter(netns).map_err(native::from_backend)?;
    let links = backends::links(&mut pod).map_err(native::from_backend)?;
    let checked = check::attachments(&job, record, Extent::Kernel, &mut shared.listed)?;
    let mut found = Vec::new();
    for ((attachment, outcome), checked) in intent.attachments.iter().zip(&done.outcomes).zip(checked) {
        let is_there = links.iter().any(|link| link.name == attachment.ifname);
        let subject = subject(intent, attachment);
        if attachment.disable_check {
            continue;
        } else if outcome.made.is_some() && !is_there {
            found.push((What::LinkMissing, format!("{subject} is gone: its pod has to be made anew")));
        } else if let Err(differs) = checked {
            found.push((What::LinkChanged, format!("{subject} is not as it was attached: {}", differs.msg)));
        }
        let missing = unleased(intent, attachment, outcome, places, &mut shared.leases);
        found.extend(missing.map(|told| (What::LeaseMissing, format!("{subject} has {told}"))));
    }
    Ok(found)
}

/// What a runtime would ask of a record whose namespace is there.
pub(super) fn request_in(record: &Record, netns: &NetNs) -> Request {
    Request { netns: Some(netns.path().to_owned()), ..check::request_of(record) }
}

pub(super) fn job_of<'a>(request: &'a Request, places: &Places) -> Job<'a> {
    Job {
        request,
        plugin: "",
        policy: Policy::unrestricted(NativePolicy::Auto),
        state_dir: places.state_dir.clone(),
        place: &OfFiles,
    }
}

pub(super) fn subject(intent: &Intent, attachment: &Attachment) -> String {
    let pod = intent.pod.as_ref().map(|pod| format!("pod {}/{}, ", pod.namespace, pod.name)).unwrap_or_default();
    format!("{pod}container {}: {} of network {:?}", intent.key.sandbox, attachment.ifname, attachment.network)
}

/// The addresses of an attachment that its pool does not hold for it. Where plugins were executed the result has also theirs.
fn unleased(
    intent: &Intent,
    attachment: &Attachment,
    outcome: &Outcome,
    places: &Places,
    leases: &mut Leases,
) -> Option<String> {
    let pool = attachment.steps.iter().find_map(|step| step.pool.as_ref())?;
    if attachment.steps.iter().any(|step| !step.native) {
        return None;
    }
    let (result, _) = CniResult::parse(&outcome.result, Version::V1_1_0).ok()?;
    let held = leases.of(pool, places)?;
    let is_own = |held: &&Held| {
        held.sandbox == intent.key.sandbox && (held.ifname.is_empty() || held.ifname == attachment.ifname)
    };
    let own: Vec<_> = held.iter().filter(is_own).map(|held| held.address).collect();
    let missing: Vec<String> = (result.ips.iter().map(|ip| ip.address.ip()))
        .filter(|address| !own.contains(address))
        .map(|address| address.to_string())
        .collect();
    let place = pool.data_dir.join(&pool.network);
    (!missing.is_empty()).then(|| format!("{}, which {} does not hold for it", missing.join(", "), place.display()))
}
