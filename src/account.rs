//! What the node's log says of a request: a line for each attachment that came or went, in Multus' form, and one for a failure.
//! It does not know where lines go.

use std::path::Path;

use crate::cluster;
use crate::cni::error::CniError;
use crate::cni::request::Request;
use crate::cni::result::CniResult;
use crate::config::Config;
use crate::journal::{self, Intent, PodName};
use crate::log;
use crate::plan::{Attachment, Plan};

/// `namespace:name:uid`, with which a line of an attachment begins.
fn pod(name: Option<&PodName>) -> String {
    name.map_or_else(|| "::".to_owned(), |pod| format!("{}:{}:{}", pod.namespace, pod.name, pod.uid))
}

/// All of a plan is attached.
pub fn added(plan: &Plan, results: &[CniResult]) {
    for (attachment, result) in plan.attachments.iter().zip(results) {
        let Attachment { network, cni_name, ifname, version, .. } = attachment;
        let shown = || result.to_value(*version).map(|value| value.to_string()).unwrap_or_default();
        log::verbose(|| format!("Add: {}:{network}({cni_name}):{ifname} {}", pod(plan.pod.as_ref()), shown()));
    }
}

/// All of a record is gone.
pub fn deleted(intent: &Intent) {
    for journal::Attachment { network, cni_name, ifname, .. } in intent.attachments.iter().rev() {
        log::verbose(|| format!("Del: {}:{network}({cni_name}):{ifname}", pod(intent.pod.as_ref())));
    }
}

/// A request came.
pub fn begun(request: &Request) {
    log::debug(|| {
        let netns = request.netns.as_deref().unwrap_or(Path::new("")).display();
        format!(
            "{} {} {} of network {} in {netns}",
            request.command.as_str(),
            request.container_id,
            request.ifname,
            request.network
        )
    });
}

/// A request failed.
pub fn failed(request: &Request, error: &CniError) {
    let pod =
        cluster::pod_name(&request.args).map(|pod| format!("{}/{} ", pod.namespace, pod.name)).unwrap_or_default();
    let Request { command, container_id, ifname, .. } = request;
    log::error(&format!("{} {pod}{container_id} {ifname}: {}", command.as_str(), error.msg));
}

/// What a person should know of the configuration, once after each start of the node.
pub fn notes(config: &Config) {
    let notes = config.notes();
    let said = |boot_id: &str| !log::is_first(&config.state_dir, boot_id, &notes.join("\n"));
    if notes.is_empty() || journal::boot_id().is_ok_and(said) {
        return;
    }
    notes.iter().for_each(|note| log::warn(note));
}
