//! The list of all cases, and one process per case. It does not know what a case does.

use std::process::{Command, ExitCode};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::need::Need;
use crate::{
    admission, api, capability, chains, check, config, cookbook, crash, daemon, defects, deploy, devices, entrypoint,
    examples, gc, image, install, interop, known, kube, leave, lists, mend, meta, multus, neighbours, nft, observe,
    odd, oracle, own_node, plugins, pool, process, program, reconcile, rendered, status, taint, takeover, tools,
    traces, validate, world,
};

/// One test: its name, what it needs, and what it does in its own process and namespaces. It fails by panicking.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) needs: Vec<Need>,
    pub(crate) run: Box<dyn Fn() + Send + Sync>,
}

impl Case {
    /// A case that needs `needs` besides namespaces.
    pub(crate) fn new(name: impl Into<String>, needs: &[Need], run: impl Fn() + Send + Sync + 'static) -> Self {
        Self { name: name.into(), needs: needs.to_vec(), run: Box::new(run) }
    }
}

/// Every case, or of `only` one at least that one. A module of cases adds itself here.
fn all(only: Option<&str>) -> Vec<Case> {
    let mut cases = oracle::cases(only);
    cases.extend(interop::cases());
    cases.extend(nft::cases());
    cases.extend(crash::cases());
    cases.extend(daemon::cases());
    cases.extend(pool::cases());
    cases.extend(plugins::cases());
    cases.extend(lists::cases());
    cases.extend(mend::cases());
    cases.extend(meta::cases());
    cases.extend(defects::cases());
    cases.extend(deploy::cases());
    cases.extend(rendered::cases());
    cases.extend(own_node::cases());
    cases.extend(image::cases());
    cases.extend(api::cases());
    cases.extend(examples::cases());
    cases.extend(cookbook::cases());
    cases.extend(capability::cases());
    cases.extend(config::cases());
    cases.extend(status::cases());
    cases.extend(taint::cases());
    cases.extend(devices::cases());
    cases.extend(neighbours::cases());
    cases.extend(check::cases());
    cases.extend(chains::cases());
    cases.extend(odd::cases());
    cases.extend(observe::cases());
    cases.extend(traces::cases());
    cases.extend(program::cases());
    cases.extend(tools::cases());
    cases.extend(validate::cases());
    cases.extend(admission::cases());
    cases.extend(gc::cases());
    cases.extend(reconcile::cases());
    cases.extend(kube::cases());
    cases.extend(known::cases());
    cases.extend(takeover::cases());
    cases.extend(install::cases());
    cases.extend(entrypoint::cases());
    cases.extend(leave::cases());
    cases.extend(multus::cases());
    cases
}

/// How long one case may take before it counts as hung. The long crash run sets more by its own number of cycles.
const CASE_LIMIT: Duration = Duration::from_secs(1200);

/// The cases as libtest's trials; what the filter leaves is probed for, the rest is not.
pub(crate) fn trials(arguments: &Arguments) -> Vec<Trial> {
    let trial = |case: Case| {
        let name = case.name.clone();
        let asks_server = case.needs.contains(&Need::ApiServer);
        let trial = Trial::test(case.name.clone(), move || in_own_process(&name, asks_server));
        if arguments.is_filtered_out(&trial) {
            return trial;
        }
        let needs = std::iter::once(Need::Namespaces).chain(case.needs);
        let name = case.name;
        match needs.filter_map(Need::missing).next() {
            Some(reason) => {
                if !arguments.list {
                    oracle::table::ignored(&name, &reason);
                }
                trial.with_kind(reason).with_ignored_flag(true)
            }
            None => {
                // Others run while it comes up.
                if asks_server && !arguments.list {
                    kube::server::folder();
                }
                trial
            }
        }
    };
    all(None).into_iter().map(trial).collect()
}

fn in_own_process(name: &str, asks_server: bool) -> Result<(), Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    if asks_server {
        command.env(kube::server::FOLDER, kube::server::folder());
    }
    let ended = process::run(command.args(["--case", name]), &[], CASE_LIMIT);
    if ended.status.success() {
        return Ok(());
    }
    let end = if ended.killed { "killed: it took too long".to_owned() } else { ended.status.to_string() };
    Err(format!("{end}\n{}{}", ended.stdout, ended.stderr).into())
}

/// The process of one case.
pub(crate) fn run_here(name: &str) -> ExitCode {
    let cases = all(Some(name));
    let case = cases.iter().find(|case| case.name == name).expect("a case of this name");
    if let Err(reason) = world::enter() {
        eprintln!("{reason}");
        return ExitCode::FAILURE;
    }
    (case.run)();
    ExitCode::SUCCESS
}
