//! DEL of what has no record, or one that cannot be read: what Multus kept of it, what leases say, what the configuration says. It asks no
//! API server.

use std::collections::BTreeSet;
use std::slice;

use serde_json::Map;

use super::{del_attachments, inside, unrecorded};
use crate::cluster;
use crate::cni::{CniError, Request};
use crate::config::Config;
use crate::detach;
use crate::gather;
use crate::job::Job;
use crate::journal;
use crate::log::warn;
use crate::phase::Executed;
use crate::takeover::{self, Asker, lost};

/// What has no record: Multus may have attached it. `attached`: there was a record, and it could not be read.
pub(super) fn del(job: &Job, config: &Config, attached: bool) -> Result<(), CniError> {
    job.place.allow_execution(job.request, Executed::NoRecord)?;
    let Request { container_id: sandbox, ifname, args, .. } = job.request;
    let remains = takeover::find(job, config, &Asker { sandbox, ifname, args, runtime: &config.runtime })?;
    remains.detach(job, config, sandbox, inside(job)?)?;
    let attached = attached || remains.has_damaged_list();
    // Without either another DEL was here, or all is lost: what names the container is found, the rest has gone with its namespace.
    let is_own = !remains.has(ifname) && (attached || inside(job)?.is_some());
    let asked = lost::Asked { defaults: &|| defaults(job, config), inside: &|| inside(job) };
    let done = lost::detach(job, config, &asked)?;
    remains.release(job, config, sandbox, &done)?;
    let is_told = tell_named(job, &remains, &done)?;
    if is_own {
        del_defaults(job, config, (!attached).then_some(&done))?;
    }
    if is_own && !attached && !is_told {
        tell_unknown(job)?;
    }
    remains.forget()
}

/// The default networks of a pod whose record cannot be read, as the configuration says them.
fn defaults(job: &Job, config: &Config) -> Vec<journal::Attachment> {
    // DEL asks no API server.
    let lists = cluster::manifests(config).and_then(|mut local| gather::default_lists(config, &mut local));
    let lists = lists.unwrap_or_else(|e| {
        warn(&format!("the default networks cannot be looked up either: {e}"));
        Vec::new()
    });
    let request = job.request;
    let name = |index: usize| if index == 0 { request.ifname.clone() } else { format!("net{index}") };
    let none = Map::new();
    let of_list = |(index, list)| {
        let runtime = if index == 0 { &config.runtime } else { &none };
        detach::attachment_of_list(list, &name(index), &request.args, runtime)
    };
    lists.iter().enumerate().map(of_list).collect()
}

/// Removes them. `done`: there was no record; then a link leaves only if its address is leased to it, and these interfaces are
/// done already.
fn del_defaults(job: &Job, config: &Config, done: Option<&BTreeSet<String>>) -> Result<(), CniError> {
    let attachments = defaults(job, config);
    let Some(done) = done else { return del_attachments(job, &attachments, None) };
    let mut pod = inside(job)?.and_then(|netns| backends::Pod::enter(netns).ok());
    let mut failures = Vec::new();
    for attachment in attachments.iter().rev().filter(|attachment| !done.contains(&attachment.ifname)) {
        let is_ours = |pod| detach::is_leased(pod, attachment, &job.request.container_id, &job.state_dir);
        let inside = if pod.as_mut().is_some_and(is_ours) { inside(job)? } else { None };
        let departure = unrecorded(job, slice::from_ref(attachment), None, inside);
        failures.extend(detach::detach(departure).err());
    }
    detach::join(failures)
}

/// Says of links that are known by name alone that they stay: no lease showed whose they are. Whether there is one.
fn tell_named(job: &Job, remains: &takeover::Remains, done: &BTreeSet<String>) -> Result<bool, CniError> {
    let mut named = remains.named(done).filter(|(_, ifname)| *ifname != job.request.ifname).peekable();
    if named.peek().is_none() {
        return Ok(false);
    }
    let Some(mut pod) = inside(job)?.and_then(|netns| backends::Pod::enter(netns).ok()) else { return Ok(false) };
    let mut is_told = false;
    for (network, ifname) in named {
        if backends::exists(&mut pod, ifname).unwrap_or(false) {
            is_told = true;
            warn(&format!(
                "{ifname} of {network:?} stays: a name is all that Multus kept of it, and no lease says that it is this pod's; it leaves \
                 with the pod's namespace"
            ));
        }
    }
    Ok(is_told)
}

/// Says that a link stays which nobody knows.
fn tell_unknown(job: &Job) -> Result<(), CniError> {
    let mut pod = inside(job)?.and_then(|netns| backends::Pod::enter(netns).ok());
    // The name that a pod's first own network has, unless its annotation says another.
    if pod.as_mut().is_some_and(|pod| backends::exists(pod, "net1").unwrap_or(false)) {
        warn(
            "nothing says who attached net1 to this pod: no record of plexus, no cache of Multus, no lease; it leaves with the pod's \
             namespace",
        );
    }
    Ok(())
}
