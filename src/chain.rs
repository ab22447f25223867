//! What every step of a chain needs, whoever does it: the environment of a delegate, and results as plain values.
//!
//! Knows the protocol, not the kernel, and not which command it serves.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cni::error::{CniError, Code};
use crate::cni::exec::{self, CallEnv, DELEGATE_DEADLINE_S, Delegate};
use crate::cni::gojson;
use crate::cni::request::Command;
use crate::cni::result::CniResult;
use crate::cni::version::Version;

/// A plugin that has not answered by then is killed with everything it started.
pub const DELEGATE_DEADLINE: Duration = Duration::from_secs(DELEGATE_DEADLINE_S);

/// The same for a DEL that undoes a failed ADD: the ADD has used up its time, and the runtime sends a DEL of its own.
pub const UNDO_DEADLINE: Duration = Duration::from_secs(10);

/// The environment of an executed plugin.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// CNI_CONTAINERID.
    pub sandbox: &'a str,
    /// CNI_NETNS; empty where the namespace is gone.
    pub netns: &'a str,
    /// CNI_IFNAME.
    pub ifname: &'a str,
    /// CNI_ARGS.
    pub args: &'a str,
    /// CNI_PATH.
    pub path: &'a [PathBuf],
    /// The version its configuration speaks.
    pub version: Version,
    /// How long it may take.
    pub deadline: Duration,
}

impl Caller<'_> {
    /// Executes `plugin` with `conf`; its result, where it printed one.
    ///
    /// # Errors
    /// A plugin that is not found, fails, or does not answer in time.
    pub fn execute(
        &self,
        command: Command,
        plugin: &str,
        conf: &Map<String, Value>,
        previous: Option<&CniResult>,
    ) -> Result<Option<Value>, CniError> {
        let binary = find(plugin, self.path)?;
        let mut conf = conf.clone();
        if let Some(previous) = previous {
            conf.insert("prevResult".to_owned(), previous.to_value(self.version)?);
        }
        let stdin = serde_json::to_vec(&conf).map_err(|e| CniError::new(Code::Decode, e.to_string()))?;
        let env = CallEnv {
            command,
            container_id: self.sandbox,
            netns: Some(Path::new(self.netns)).filter(|netns| !netns.as_os_str().is_empty()),
            ifname: self.ifname,
            args: self.args,
            path: self.path,
        };
        let output = Delegate { path: binary, env: env.to_vars(), stdin, deadline: self.deadline }.run()?;
        if command != Command::Add || output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let answer = gojson::read(&output.stdout);
        answer.map(Some).map_err(|e| CniError::new(Code::Decode, format!("plugin {plugin}: result is no JSON: {e}")))
    }

    /// The same for the IPAM plugin of a native step, which gets the step's own configuration.
    ///
    /// # Errors
    /// As [`Caller::execute`].
    pub fn execute_ipam(
        &self,
        command: Command,
        plugin: &str,
        conf: &Map<String, Value>,
    ) -> Result<Option<Value>, CniError> {
        self.execute(command, plugin, conf, None)
    }
}

/// The programs that serve requests, which lie beside each other: what one of them would execute, the other one may be.
const PROGRAMS: [&str; 2] = ["plexus-cni", "plexus"];

/// The binary of a plugin type, never plexus itself under that name: neither the program that runs nor the one beside it, or ADD by
/// `plexus oneshot` would note a step as executed that DEL by plexus-cni finds nobody for.
///
/// # Errors
/// The reference library's text, with the path that was searched.
pub fn find(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, CniError> {
    let file = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let beside = std::env::current_exe().ok().into_iter().flat_map(|own| PROGRAMS.map(|name| own.with_file_name(name)));
    let own: Vec<_> = beside.chain([PathBuf::from("/proc/self/exe")]).filter_map(|path| file(&path)).collect();
    let is_own = |found: &Path| file(found).is_some_and(|found| own.contains(&found));
    let elsewhere: Vec<PathBuf> = path.iter().filter(|dir| !is_own(&dir.join(plugin))).cloned().collect();
    Ok(exec::find(plugin, &elsewhere)?)
}
