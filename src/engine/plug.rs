//! An interface more in a pod that runs, or one less: what clients of Multus' `/delegate` ask for. One plugin's configuration, or a
//! list, comes with each request; the pod's other interfaces are left as they are.
//!
//! Unlike Multus, what was attached is in the journal: the pod's DEL removes it, and GC knows whose it is.

use serde_json::{Map, Value};

use super::{attach_all, del_attachments, del_held, detach_records, enter_ahead};
use crate::account;
use crate::attach::from_journal;
use crate::check::{self, Extent, Listed};
use crate::cluster;
use crate::cni::list::List;
use crate::cni::{CniError, Code, Command, Request, gojson};
use crate::config::Config;
use crate::detach;
use crate::gather;
use crate::job::Job;
use crate::journal::{HOT, Held, Journal, Key, Record};
use crate::log::warn;
use crate::phase::Phase;
use crate::place::{Place, Served, timed};
use crate::readiness;
use crate::select::Selection;

/// Keys that say which networks every pod gets: here one comes with the request.
const PRIMARIES: [&str; 4] = ["delegates", "clusterNetwork", "defaultNetworks", "auxiliaryCNIChainName"];

/// What comes beside such a request.
#[derive(Clone, Debug, Default)]
pub struct Plug {
    /// The addresses, the MAC and the arguments that are wished for.
    pub wish: Selection,
    /// The keys of the node's configuration: where the journal is, where plugins are, what may be executed.
    pub own: Map<String, Value>,
}

impl Plug {
    /// The node's configuration as if the request's network were its only one.
    fn config(&self, request: &Request) -> Result<Config, CniError> {
        let mut object = self.own.clone();
        object.retain(|key, _| !PRIMARIES.iter().any(|primary| gojson::folds_to(key, primary)));
        object.insert("delegates".to_owned(), Value::Array(vec![Value::Object(request.config.clone())]));
        Config::parse(&object)
    }
}

/// Serves one: ADD, DEL, CHECK or STATUS of the interface that it names.
///
/// # Errors
/// What the caller gets to read; another command.
pub fn serve_plug(request: &Request, plug: &Plug, place: &dyn Place) -> Served {
    let config = plug.config(request)?;
    let state_dir = config.state_dir.clone();
    let job = |request| Job { request, plugin: HOT, policy: config.policy(), state_dir: state_dir.clone(), place };
    account::begun(request);
    let served = match request.command {
        Command::Add => {
            let own = Journal::new(&state_dir).own_record(&request.container_id).map_err(|e| from_journal(&e))?;
            let request = of_pod(request, own.as_ref());
            add(&job(&request), &config, plug)
        }
        Command::Del => del(&job(request)).map(|()| None),
        Command::Check => check(&job(request)).map(|()| None),
        Command::Status => readiness::meta(&job(request), &config).map(|()| None),
        Command::Gc | Command::Version => {
            let msg = format!("/delegate serves no {}", request.command.as_str());
            Err(CniError::new(Code::InvalidEnvironment, msg))
        }
    };
    served.inspect_err(|error| account::failed(request, error))
}

/// What ADD attached and nobody heard of is deleted again.
pub fn undo_plug(mut request: Request, plug: &Plug, place: &dyn Place) {
    request.command = Command::Del;
    if let Err(error) = serve_plug(&request, plug, place) {
        warn(&format!("nobody heard the result of ADD, and it could not be undone: {}", error.msg));
    }
}

/// The request under the name of the network that its pod came by, which GC asks for; and with the pod's own path to plugins.
fn of_pod(request: &Request, own: Option<&Record>) -> Request {
    let mut request = request.clone();
    // Of a pod that somebody else attached, no GC of any network is.
    request.network = own.map(|record| record.intent.key.network.clone()).unwrap_or_default();
    if let Some(record) = own {
        request.path.clone_from(&record.intent.path);
    }
    request
}

fn add(job: &Job, config: &Config, plug: &Plug) -> Served {
    let (journal, key) = (job.journal(), job.key());
    let pod = enter_ahead(job);
    let conf = serde_json::to_vec(&job.request.config).unwrap_or_default();
    let wanted = gather::plugged(config, &conf, &plug.wish, &job.asking())?;
    let path = config.search_path(&job.request.path);
    let mut plan =
        timed(job.place, Phase::Plan, || job.plan(vec![wanted], cluster::pod_name(&job.request.args), &path))?;
    if let Some(why) = plan.executed() {
        job.place.allow_execution(job.request, why)?;
    }
    journal.plug(&key).map_err(|e| from_journal(&e))?;
    let attached = attach_all(job, &mut plan, pod).inspect_err(|_| forget_undone(&journal, &key))?;
    account::added(&plan, &attached.results);
    let result = attached.results.into_iter().next().unwrap_or_default();
    result.print(job.request.version).map(Some)
}

/// After an undo that left nothing. What it did leave has its record, and that is found.
fn forget_undone(journal: &Journal, key: &Key) {
    let is_gone = matches!(journal.hold_plugged(&key.sandbox, &key.ifname), Ok(None));
    if is_gone && let Err(error) = journal.unplug(&key.sandbox, &key.ifname) {
        warn(&error.to_string()); // it leads nowhere, and the pod's DEL removes it
    }
}

/// Success, whatever of it is gone. An interface that the pod's own request made is taken out of its record. What another network's is
/// stays: a client that could not add an interface asks for its removal too, whoever has the name.
fn del(job: &Job) -> Result<(), CniError> {
    let Request { container_id: sandbox, ifname, network, .. } = job.request;
    let journal = job.journal();
    if let Some(held) = journal.hold_plugged(sandbox, ifname).map_err(|e| from_journal(&e))? {
        let records = held.records().map_err(|e| from_journal(&e))?;
        let stays = records.iter().any(|record| is_of_other(record, ifname, network));
        return if stays { Ok(()) } else { forget(job, &journal, &held, ifname) };
    }
    if let Some(record) = own_record(&journal, sandbox, ifname)? {
        if is_of_other(&record, ifname, network) {
            return Ok(());
        }
        // As one that may be written.
        let held = journal.hold(&record.intent.key, true).map_err(|e| from_journal(&e))?;
        return held.map_or(Ok(()), |held| del_own(job, held, ifname));
    }
    let list = List::parse_either(&serde_json::to_vec(&job.request.config).unwrap_or_default())?;
    let mut attachment = detach::attachment_of_list(&list, ifname, &job.request.args, &Map::new());
    attachment.default = false;
    del_attachments(job, &[attachment], None)?;
    journal.unplug(sandbox, ifname).map_err(|e| from_journal(&e))
}

/// Whether an interface is recorded for another network than the one that a DEL names; then that is said.
fn is_of_other(record: &Record, ifname: &str, network: &str) -> bool {
    let one = record.intent.attachments.iter().find(|attachment| attachment.ifname == ifname);
    let other = one.filter(|attachment| attachment.cni_name != network);
    if let Some(other) = other {
        warn(&format!("{ifname} is of network {:?}, and not of {network:?}: it stays", other.cni_name));
    }
    other.is_some()
}

fn forget(job: &Job, journal: &Journal, held: &Held, ifname: &str) -> Result<(), CniError> {
    del_held(job, held)?;
    journal.unplug(&job.request.container_id, ifname).map_err(|e| from_journal(&e))
}

/// The record of the pod's own request, where that has the interface.
fn own_record(journal: &Journal, sandbox: &str, ifname: &str) -> Result<Option<Record>, CniError> {
    let own = journal.own_record(sandbox).map_err(|e| from_journal(&e))?;
    Ok(own.filter(|record| record.only(ifname).is_some()))
}

fn del_own(job: &Job, mut held: Held, ifname: &str) -> Result<(), CniError> {
    let records = held.records().map_err(|e| from_journal(&e))?;
    if records.iter().any(|record| record.intent.key.ifname == ifname) {
        let msg = format!("{ifname} is the interface that the runtime asked for: it leaves with its pod");
        return Err(CniError::new(Code::InvalidEnvironment, msg));
    }
    if records.is_empty() {
        // The pod's own DEL was here meanwhile.
        return held.forget().map_err(|e| from_journal(&e));
    }
    let ones: Vec<Record> = records.iter().filter_map(|record| record.only(ifname)).collect();
    detach_records(job, &ones)?;
    held.unplugged(ifname).map_err(|e| from_journal(&e))
}

fn check(job: &Job) -> Result<(), CniError> {
    let Request { container_id: sandbox, ifname, .. } = job.request;
    let journal = job.journal();
    let records = match journal.hold_plugged(sandbox, ifname).map_err(|e| from_journal(&e))? {
        Some(held) => held.records().map_err(|e| from_journal(&e))?,
        None => own_record(&journal, sandbox, ifname)?.into_iter().collect(),
    };
    let Some(record) = records.iter().rev().find_map(|record| record.only(ifname)) else {
        let msg = format!("no interface {ifname} of sandbox {sandbox} is recorded");
        return Err(CniError::new(Code::UnknownContainer, msg));
    };
    check::attachments(job, &record, Extent::All, &mut Listed::default())?.into_iter().collect()
}

/// What a pod got while it ran leaves with it: called by its DEL.
///
/// # Errors
/// What could not be removed; it stays recorded.
pub(super) fn unplug_all(job: &Job) -> Result<(), CniError> {
    let Request { container_id: sandbox, network, .. } = job.request;
    let journal = job.journal();
    let mut failures = Vec::new();
    for ifname in journal.plugged(sandbox).map_err(|e| from_journal(&e))? {
        failures.extend(unplug(job, &journal, sandbox, &ifname, network).err());
    }
    detach::join(failures)
}

fn unplug(job: &Job, journal: &Journal, sandbox: &str, ifname: &str, network: &str) -> Result<(), CniError> {
    let Some(held) = journal.hold_plugged(sandbox, ifname).map_err(|e| from_journal(&e))? else {
        return journal.unplug(sandbox, ifname).map_err(|e| from_journal(&e));
    };
    let records = held.records().map_err(|e| from_journal(&e))?;
    // A sandbox may have several networks of a runtime's: each takes its own.
    let is_ours = |record: &Record| ["", network].contains(&record.intent.key.network.as_str());
    if !records.iter().all(is_ours) {
        return Ok(());
    }
    forget(job, journal, &held, ifname)
}
