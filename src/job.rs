//! A request with what its configuration says about where things are: what every command starts from.
//!
//! It does not know the commands.

use std::path::{Path, PathBuf};

use backends::Before;
use backends::chained::Spec;

use crate::chain::{self, Caller, DELEGATE_DEADLINE};
use crate::cni::version::Version;
use crate::cni::{CniError, Request};
use crate::config::Policy;
use crate::gather::Asking;
use crate::journal::{Journal, Key, PodName};
use crate::log::warn;
use crate::native::{self, Around};
use crate::place::Place;
use crate::plan::{self, Call, Node, Plan, Wanted};

/// See the module.
pub struct Job<'a> {
    /// The request.
    pub request: &'a Request,
    /// The kind that was executed directly; empty for everything else.
    pub plugin: &'static str,
    /// What is built in process, and what may be executed.
    pub policy: Policy,
    /// Where journal and indexes are.
    pub state_dir: PathBuf,
    /// Where it is served.
    pub place: &'a dyn Place,
}

impl Job<'_> {
    /// The journal of this configuration.
    pub fn journal(&self) -> Journal {
        Journal::new(&self.state_dir)
    }

    /// Which attachment the runtime means.
    pub fn key(&self) -> Key {
        Key {
            network: self.request.network.clone(),
            sandbox: self.request.container_id.clone(),
            ifname: self.request.ifname.clone(),
            plugin: self.plugin.to_owned(),
        }
    }

    /// CNI_NETNS as it was told.
    pub fn netns(&self) -> &str {
        self.request.netns.as_deref().and_then(Path::to_str).unwrap_or_default()
    }

    /// What the request says of the pod.
    pub fn asking(&self) -> Asking<'_> {
        let Request { args, ifname, container_id, .. } = self.request;
        Asking { args, ifname, sandbox: container_id }
    }

    /// The surroundings of the request's own configuration.
    pub fn around(&self) -> Around<'_> {
        Around {
            network: &self.request.network,
            version: self.request.version,
            args: &self.request.args,
            ifname: &self.request.ifname,
            state_dir: &self.state_dir,
            before: Before::Nothing,
        }
    }

    /// A plugin of this request's attachment to execute.
    pub fn caller<'a>(&'a self, ifname: &'a str, path: &'a [PathBuf], version: Version) -> Caller<'a> {
        Caller {
            sandbox: &self.request.container_id,
            netns: self.netns(),
            ifname,
            args: &self.request.args,
            path,
            version,
            deadline: DELEGATE_DEADLINE,
        }
    }

    /// Decides what is to be done, and says aloud what a person should know.
    ///
    /// # Errors
    /// Every refusal of every attachment.
    pub fn plan(&self, wanted: Vec<Wanted>, pod: Option<PodName>, path: &[PathBuf]) -> Result<Plan, CniError> {
        let find = |plugin: &str| match self.place.executes() {
            true => chain::find(plugin, path),
            // Where it is executed other files may be seen than here.
            false => Ok(PathBuf::from(plugin)),
        };
        let fit = |spec: &Spec| spec.fit().map_err(native::from_backend);
        let node = Node { policy: &self.policy, state_dir: &self.state_dir, find: &find, fit: &fit };
        let netns = self.request.netns.clone().unwrap_or_default();
        let command = self.request.command;
        let call = Call { command, key: self.key(), netns, path: path.to_vec(), pod };
        let plan = plan::plan(call, wanted, &node)?;
        for warning in &plan.warnings {
            warn(warning);
        }
        Ok(plan)
    }
}
