//! DEL and GC: from a record, never from definitions or pods; and from a bare configuration where there is no record.
//!
//! Every step is tried, whatever the others say; the record stays until every step is known done.
//! Links leave before their leases do: an address that is free again must not still answer.

use std::io;
use std::path::{Path, PathBuf};

use backends::{Deleter, Deletion, Doomed, ErrorKind, Kind, NetNs, Pod};
use ipam::{Owner, host_local};

use crate::chain::Caller;
use crate::cni::error::CniError;
use crate::cni::gojson;
use crate::cni::request::{Command, Request};
use crate::cni::result::CniResult;
use crate::cni::version::Version;
use crate::deleter;
use crate::journal::{Attachment, Pool, Record, Step};
use crate::native;

/// Everything that must go.
#[derive(Debug)]
pub struct Departure<'a> {
    /// The container id.
    pub sandbox: &'a str,
    /// The pod's namespace; none where it is gone or the runtime did not say.
    pub netns: Option<&'a Path>,
    /// Where delegates are searched.
    pub path: &'a [PathBuf],
    /// The device group of the native links, where there are several.
    pub group: Option<u32>,
    /// In the order of ADD.
    pub attachments: &'a [Attachment],
    /// Their results, same order, where ADD had come that far.
    pub results: Vec<Option<CniResult>>,
    /// Where indexes are.
    pub state_dir: &'a Path,
}

/// The departure that a record describes.
pub fn of_record<'a>(record: &'a Record, netns: Option<&'a Path>, state_dir: &'a Path) -> Departure<'a> {
    let intent = &record.intent;
    let parsed = |index: usize| {
        let outcome = record.commitment.as_ref()?.outcomes.get(index)?;
        CniResult::parse(&outcome.result, Version::V1_1_0).ok().map(|(result, _)| result)
    };
    Departure {
        sandbox: &intent.key.sandbox,
        netns,
        path: &intent.path,
        group: intent.group,
        attachments: &intent.attachments,
        results: (0..intent.attachments.len()).map(parsed).collect(),
        state_dir,
    }
}

/// host-local's directory where its configuration names none.
const DATA_DIR: &str = "/var/lib/cni/networks";

/// What a configuration of a directly executed kind can have attached: for a DEL without a record, because the reference
/// plugin did the ADD or the record is lost. It asks less of the configuration than ADD did.
pub fn attachment_of(kind: Kind, request: &Request) -> Attachment {
    let conf = &request.config;
    let ipam = gojson::field(conf, "ipam").and_then(serde_json::Value::as_object);
    let data_dir = ipam.and_then(|ipam| gojson::field(ipam, "dataDir")).and_then(serde_json::Value::as_str);
    let data_dir = PathBuf::from(data_dir.filter(|dir| !dir.is_empty()).unwrap_or(DATA_DIR));
    let pool = Pool { data_dir, network: request.network.clone() };
    let (pool, ipam_delegate) = match native::ipam_type(conf) {
        "host-local" => (Some(pool), None),
        "" | "static" => (None, None),
        other => (None, Some(other.to_owned())),
    };
    let step = Step { plugin: kind.name().to_owned(), native: true, conf: conf.clone(), pool, ipam_delegate };
    Attachment {
        network: request.network.clone(),
        cni_name: request.network.clone(),
        cni_version: request.version.to_string(),
        ifname: if kind == Kind::Loopback { "lo".to_owned() } else { request.ifname.clone() },
        args: request.args.clone(),
        default: true,
        disable_check: false,
        steps: vec![step],
    }
}

/// The namespace of a record, where its path still leads to it: a path may be another pod's by now.
pub fn netns_of(record: &Record) -> Option<PathBuf> {
    let path = PathBuf::from(&record.intent.netns);
    let netns = NetNs::open(&path).ok()?;
    (netns.id() == record.intent.netns_id).then_some(path)
}

/// Removes all of it.
///
/// # Errors
/// Everything that could not be removed, in one error; what is already gone is none.
pub fn detach(departure: &Departure) -> Result<(), CniError> {
    let mut failures: Vec<CniError> = Vec::new();
    let mut keep = |outcome: Result<(), CniError>| failures.extend(outcome.err());
    for (attachment, result) in departure.attachments.iter().zip(&departure.results).rev() {
        for step in attachment.steps.iter().rev().filter(|step| !step.native) {
            keep(departure.execute(attachment, &step.plugin, step, result.as_ref()));
        }
    }
    let links = departure.remove_links();
    let removed = links.is_ok();
    keep(links);
    if removed {
        for (attachment, result) in departure.attachments.iter().zip(&departure.results).rev() {
            for step in attachment.steps.iter().rev().filter(|step| step.native) {
                keep(departure.release(attachment, step, result.as_ref()));
            }
        }
    }
    join(failures)
}

/// Removes one link of the pod and waits for the kernel's answer: for an ADD that failed, which nobody measures.
///
/// # Errors
/// What the kernel says; a link that is not there is none.
pub fn remove_link_now(pod: &mut Pod, ifname: &str) -> Result<(), CniError> {
    backends::remove_now(pod, &[Doomed::Name(ifname.to_owned())]).map(|_| ()).map_err(native::from_backend)
}

/// Several failures in one line.
pub fn join(failures: Vec<CniError>) -> Result<(), CniError> {
    let mut failures = failures.into_iter();
    let Some(mut first) = failures.next() else { return Ok(()) };
    for next in failures {
        first.msg = format!("{}; {}", first.msg, next.msg);
    }
    Err(first)
}

impl Departure<'_> {
    fn caller<'a>(&'a self, attachment: &'a Attachment) -> Caller<'a> {
        Caller {
            sandbox: self.sandbox,
            netns: self.netns.and_then(Path::to_str).unwrap_or_default(),
            ifname: &attachment.ifname,
            args: &attachment.args,
            path: self.path,
            version: Version::parse(&attachment.cni_version).unwrap_or(Version::CURRENT),
        }
    }

    fn execute(
        &self,
        attachment: &Attachment,
        plugin: &str,
        step: &Step,
        result: Option<&CniResult>,
    ) -> Result<(), CniError> {
        let caller = self.caller(attachment);
        let result = result.filter(|_| caller.version.del_has_prev_result());
        caller.execute(Command::Del, plugin, &step.conf, result).map(|_| ()).map_err(|mut e| {
            e.msg = format!("plugin {plugin:?} of network {:?} failed (delete): {}", attachment.network, e.msg);
            e
        })
    }

    fn release(&self, attachment: &Attachment, step: &Step, result: Option<&CniResult>) -> Result<(), CniError> {
        if let Some(plugin) = &step.ipam_delegate {
            return self.execute(attachment, plugin, step, result);
        }
        let Some(pool) = &step.pool else { return Ok(()) };
        let owner = Owner { sandbox: self.sandbox, ifname: &attachment.ifname };
        let released = host_local::release(&pool.data_dir, &pool.network, &owner, self.state_dir);
        released.map(|_| ()).map_err(native::from_ipam)
    }

    /// Every native link of the pod, by one message where there are several.
    fn remove_links(&self) -> Result<(), CniError> {
        let kinds = |kind: fn(&Kind) -> bool| {
            let makes = move |step: &&Step| step.native && Kind::of(&step.plugin).as_ref().is_some_and(kind);
            self.attachments.iter().filter(move |a| a.steps.iter().any(|step| makes(&step)))
        };
        let mut doomed: Vec<Doomed> = match self.group {
            Some(group) => vec![Doomed::Group(group)],
            None => kinds(|kind| *kind != Kind::Loopback).map(|a| Doomed::Name(a.ifname.clone())).collect(),
        };
        doomed.extend(kinds(|kind| *kind == Kind::Loopback).map(|_| Doomed::Name("lo".to_owned())));
        let Some(mut pod) = self.pod(&doomed)? else { return Ok(()) };
        let spawn = |deletion: Deletion| -> io::Result<Box<dyn Deleter>> {
            Ok(Box::new(deleter::spawn(deletion.socket, &deletion.message)?))
        };
        backends::remove(&mut pod, &doomed, &spawn).map(|_| ()).map_err(native::from_backend)
    }

    /// The pod's namespace, unless there is nothing to do in it or it is gone. What is no namespace any more (a bind mount
    /// that was taken away leaves a plain file) is gone too: DEL must not fail for ever (CNI spec, DEL).
    fn pod(&self, doomed: &[Doomed]) -> Result<Option<Pod>, CniError> {
        let Some(path) = self.netns.filter(|_| !doomed.is_empty()) else { return Ok(None) };
        match NetNs::open(path) {
            Err(e) if matches!(e.kind(), ErrorKind::NetnsMissing | ErrorKind::NotNetns) => Ok(None),
            Err(e) => Err(native::from_backend(e)),
            Ok(netns) => {
                if netns.is_current().map_err(native::from_backend)? {
                    return Err(CniError::same_netns());
                }
                Pod::enter_to_remove(netns).map(Some).map_err(native::from_backend)
            }
        }
    }
}
