//! One request from bytes to bytes: whose name it was executed under, which command, and the `match` on both.
//!
//! It decides who serves a request and nothing of how. Standard output is written here and nowhere else.

mod plug;
mod unrecorded;

use std::ffi::OsString;
use std::io::{self, Write};
use std::iter;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use backends::chained::{Chained, Fit, Spec, tuning};
use backends::{Entering, Kind, NetNs};
use serde_json::Map;

use crate::attach::from_journal;
use crate::cluster::{self, Arrival, Cluster, News, Supposed};
use crate::cni::version::{self, SUPPORTED};
use crate::cni::{CniError, CniResult, Code, Command, Invocation, Request, Version, gojson};
use crate::config::{self, Config, META_TYPES, NativePolicy, Policy};
use crate::detach::{self, Departure, Told};
use crate::devices::Allotment;
use crate::job::Job;
use crate::journal::{self, Held, Key, PodName, Record};
use crate::log::{self, warn};
use crate::native::{self, Verdict};
use crate::phase::{Executed, Phase};
use crate::place::{Place, Served, timed};
use crate::plan::{self, Call, Node, Plan, Wanted};
use crate::refer::{self, Asked};
use crate::sources::{Manifests, Pod};
use crate::unwritten::Unwritten;
use crate::{account, attach, chain, check, claims, collect, convert, deleter, gather, homecoming, readiness};
pub use plug::{Plug, serve_plug, undo_plug};

/// What a person reads who runs the program by hand.
const ABOUT: &str = "plexus-cni attaches pods to their networks; a container runtime executes it (CNI)";

/// Who serves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The meta-plugin: all of a pod's networks.
    Meta,
    /// One kind, in the reference plugin's place.
    Kind(Kind),
    /// One plugin of a chain, in the reference plugin's place.
    Chained(Chained),
    /// The IPAM plugin host-local.
    HostLocal,
    /// The IPAM plugin static.
    Static,
}

impl Role {
    /// The role of a plugin type.
    pub fn of(plugin: &str) -> Option<Role> {
        match plugin {
            meta if META_TYPES.contains(&meta) => Some(Role::Meta),
            "host-local" => Some(Role::HostLocal),
            "static" => Some(Role::Static),
            other => Kind::of(other).map(Role::Kind).or_else(|| Chained::of(other).map(Role::Chained)),
        }
    }
}

/// The whole life of `plexus-cni`.
pub fn run(place: &dyn Place) -> ExitCode {
    let name = || std::env::args_os().next().map(|word| base_name(&word)).unwrap_or_default();
    run_as_deleter().or_else(say_version).unwrap_or_else(|| serve_as(&name(), place))
}

/// How Multus is asked for its version, in the words of Go's flags: installers try by it whether a program runs on the node.
fn say_version() -> Option<ExitCode> {
    let word = std::env::args_os().nth(1)?;
    ["-v", "--v", "-version", "--version"].iter().any(|known| word == *known).then(|| {
        let said = writeln!(io::stdout(), "plexus-cni version {}", env!("CARGO_PKG_VERSION"));
        if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

/// The life of the detached child, where this process is one.
pub fn run_as_deleter() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    let is_deleter = words.next().is_some_and(|word| word == deleter::NAME);
    is_deleter.then(|| deleter::run(words.next().and_then(|word| word.into_string().ok()).as_deref()))
}

fn base_name(word: &OsString) -> String {
    Path::new(word).file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned()
}

/// Serves the request in the environment under an executable's name; for a name that is no kind, the configuration's
/// `type` decides.
pub fn serve_as(name: &str, place: &dyn Place) -> ExitCode {
    let request = match Request::from_env(std::env::vars_os(), io::stdin().lock()) {
        Ok(Invocation::NoCommand) => {
            let _ = writeln!(io::stderr(), "{ABOUT}\n{}", version::supported_line(&SUPPORTED)); // nobody to tell
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Version) => return answer(Ok(Some(version::reply())), Version::CURRENT),
        Ok(Invocation::Call(request)) => request,
        Err(error) => return answer(Err(error), Version::CURRENT),
    };
    let _traced = log::traced(place.trace());
    let version = request.version;
    if cfg!(panic = "abort") {
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |why| {
            told(why);
            answer(Err(panicked()), version);
            std::process::exit(1)
        }));
    }
    let served = panic::catch_unwind(AssertUnwindSafe(|| serve(name, &request, place)));
    let served = served.unwrap_or_else(|_| Err(panicked()));
    let attached = request.command == Command::Add && served.is_ok();
    tell(served, version).unwrap_or_else(|_| {
        if attached {
            undo_unheard(name, *request, place);
        }
        ExitCode::FAILURE
    })
}

/// What ADD attached and nobody heard of is deleted again. The runtime was killed meanwhile, and containerd 1.7 sends no DEL
/// for a sandbox whose result it never got. Where DEL does come, it finds nothing and succeeds.
pub fn undo_unheard(name: &str, mut request: Request, place: &dyn Place) {
    request.command = Command::Del;
    if let Err(error) = serve(name, &request, place) {
        warn(&format!("nobody heard the result of ADD, and it could not be undone: {}", error.msg));
    }
}

/// A defect of plexus: the caller gets an error like any other, and the journal has what a DEL needs.
pub fn panicked() -> CniError {
    CniError::generic("plexus failed in a way it should not; the place is on standard error: please report it")
}

/// Answers a call that leaves nothing to undo when the caller has gone.
fn answer(served: Served, version: Version) -> ExitCode {
    tell(served, version).unwrap_or(ExitCode::FAILURE)
}

fn tell(served: Served, version: Version) -> io::Result<ExitCode> {
    let (bytes, code) = match served {
        Ok(bytes) => (bytes.unwrap_or_default(), ExitCode::SUCCESS),
        Err(error) => (error.to_json(version), ExitCode::FAILURE),
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(&bytes).and_then(|()| stdout.flush()).map(|()| code)
}

/// Serves one request.
///
/// # Errors
/// What the caller gets to read.
pub fn serve(name: &str, request: &Request, place: &dyn Place) -> Served {
    let (role, native) = match Role::of(name) {
        Some(role) if role != Role::Meta => (role, NativePolicy::Always),
        _ => (Role::of(plugin_type(&request.config)).unwrap_or(Role::Meta), NativePolicy::Auto),
    };
    let state_dir = PathBuf::from(config::STATE_DIR);
    let plugin = match role {
        Role::Kind(kind) => kind.name(),
        Role::Chained(chained) => chained.name(),
        Role::Meta | Role::HostLocal | Role::Static => "",
    };
    let mut job = Job { request, plugin, policy: Policy::unrestricted(native), state_dir, place };
    match role {
        Role::Meta => {
            let config = Config::parse(&request.config)?;
            job.state_dir.clone_from(&config.state_dir);
            job.policy = config.policy();
            log::begin(&config.log);
            account::begun(request);
            let served = refer(name, &config, &job).unwrap_or_else(|| {
                collect_older_boot(&job);
                serve_meta(&job, &config).inspect_err(|error| {
                    if !place.is_given_back() {
                        account::failed(request, error);
                    }
                })
            });
            served.inspect_err(|error| tell_stuck(&config, &job, error))
        }
        Role::Kind(_) | Role::Chained(_) => serve_direct(&job),
        Role::HostLocal | Role::Static => serve_ipam(&job, role),
    }
}

/// Has the daemon tell of the pod what its DEL left.
fn tell_stuck(config: &Config, job: &Job, error: &CniError) {
    let socket = config.daemon_socket.as_deref().filter(|_| job.place.asks_daemon());
    if let (Command::Del, Some(socket), Some(pod)) = (job.request.command, socket, cluster::pod_name(&job.request.args))
    {
        refer::tell_stuck(socket, config, job.request, pod, error);
    }
}

/// The daemon's answer, where one is configured and answers.
fn refer(name: &str, config: &Config, job: &Job) -> Option<Served> {
    let socket = config.daemon_socket.as_deref().filter(|_| job.place.asks_daemon())?;
    let is_add = job.request.command == Command::Add;
    match job.request.command {
        Command::Add | Command::Del => {}
        // Whatever the daemon does not see of the node is looked at here.
        Command::Status => return refer::ready(socket, config.fallback, job.request).err().map(Err),
        Command::Check | Command::Gc | Command::Version => return None,
    }
    // It is a file of the node, which the daemon need not see.
    if let (true, Err(error)) = (is_add, readiness::await_file(config)) {
        if let Some(pod) = cluster::pod_name(&job.request.args) {
            refer::tell_failed(socket, config, job.request, pod, &error);
        }
        return Some(Err(error));
    }
    match refer::ask(socket, config, job.request, &|| undo_unheard(name, job.request.clone(), job.place)) {
        Asked::Served(served) => Some(served),
        Asked::Here(knowledge) => {
            knowledge.into_iter().for_each(|knowledge| job.place.hand(knowledge));
            None
        }
    }
}

/// The first call of a boot collects what records of older boots hold: nothing of theirs is attached any more.
fn collect_older_boot(job: &Job) {
    let journal = job.journal();
    // Without it nothing is known to be old.
    let Ok(boot_id) = journal::boot_id() else { return };
    if journal.is_of_older_boot(boot_id) && collect::older_boots(&journal, &job.state_dir, boot_id).is_ok() {
        journal.settle(boot_id);
    }
}

fn serve_meta(job: &Job, config: &Config) -> Served {
    match job.request.command {
        Command::Add => {
            await_file(job, config)?;
            check_shim(job, config)?;
            let mut cluster = job.place.reach(config, job.request)?;
            let added = add(job, config, &mut *cluster);
            if let (Err(error), Some(pod)) = (&added, cluster::pod_name(&job.request.args))
                && !job.place.is_given_back()
            {
                cluster.tell(&pod, &News::Failed { error });
            }
            added
        }
        Command::Del => {
            // What it got while it ran; where that fails, the rest is tried all the same.
            let plugged = plug::unplug_all(job);
            match del_record(job)? {
                Found::Record => {}
                found => unrecorded::del(job, config, found == Found::Unreadable)?,
            }
            plugged.map(|()| None)
        }
        Command::Check => check::record(job).map(|()| None),
        Command::Gc => collect::network(job, Some(config)).map(|()| None),
        Command::Status => readiness::meta(job, config).map(|()| None),
        Command::Version => Ok(None),
    }
}

/// The file of `readinessindicatorfile`, where nobody else waits for it. That it does not come is told of the pod, as every failure is.
fn await_file(job: &Job, config: &Config) -> Result<(), CniError> {
    if job.place.is_daemon() || job.place.is_left(config, job.request) {
        return Ok(());
    }
    readiness::await_file(config).inspect_err(|error| {
        if let Some(pod) = cluster::pod_name(&job.request.args)
            && let Ok(mut cluster) = job.place.reach(config, job.request)
        {
            cluster.tell(&pod, &News::Failed { error });
        }
    })
}

/// The configuration of Multus' shim names no API server, because its daemon knows one. Without it a pod would get its default
/// network alone, and nobody would know.
fn check_shim(job: &Job, config: &Config) -> Result<(), CniError> {
    let is_shim = plugin_type(&job.request.config) == "multus-shim";
    if !is_shim
        || config.manifests.is_some()
        || job.place.has_api(config)
        || cluster::pod_name(&job.request.args).is_none()
    {
        return Ok(());
    }
    let msg = "type multus-shim: the API server that Multus' daemon knew is not known here: add \"kubeconfig\" to the \
               configuration, as `plexus install --from-multus --kubeconfig FILE` does, or start `plexus daemon` with --kubeconfig FILE";
    Err(CniError::new(Code::InvalidConfig, msg))
}

/// All of a pod's networks.
fn add(job: &Job, config: &Config, cluster: &mut dyn Cluster) -> Served {
    account::notes(config);
    let pod = enter_ahead(job);
    let asked = timed(job.place, Phase::Pod, || gather::asked(config, &job.asking(), cluster))?;
    for warning in &asked.warnings {
        warn(warning);
    }
    let path = config.search_path(&job.request.path);
    let mut plan = timed(job.place, Phase::Plan, || job.plan(asked.wanted, asked.pod, &path))?;
    claims::prefer(&mut plan, &asked.processors);
    if let Some(why) = plan.executed() {
        job.place.allow_execution(job.request, why)?;
    }
    let attached = attach_all(job, &mut plan, pod)?;
    account::added(&plan, &attached.results);
    if let Some(pod) = &plan.pod {
        let news = News::Attached { status: &attached.status, arrivals: arrivals(&plan, &attached) };
        timed(job.place, Phase::Status, || cluster.tell(pod, &news));
    }
    let result = attached.results.into_iter().next().unwrap_or_default();
    result.print(job.request.version).map(Some)
}

fn arrivals<'a>(plan: &'a Plan, attached: &attach::Attached) -> Vec<Arrival<'a>> {
    let one = |(attachment, result): (&'a plan::Attachment, &CniResult)| Arrival {
        network: &attachment.network,
        ifname: &attachment.ifname,
        addresses: result.ips.iter().map(|ip| ip.address).collect(),
    };
    let says_something = |(_, result): &(_, &CniResult)| !result.interfaces.is_empty() || !result.ips.is_empty();
    plan.attachments.iter().zip(&attached.results).filter(says_something).map(one).collect()
}

/// A plugin in the reference plugin's place.
fn serve_direct(job: &Job) -> Served {
    match job.request.command {
        Command::Add => {
            // A kind always goes into the pod; a plugin of a chain that has nothing to do passes on what it got, and that is all.
            let ahead = Kind::of(job.plugin).map(|_| enter_ahead(job));
            let mut plan = direct_plan(job)?;
            if plan.is_idle() {
                let previous = plan.attachments.into_iter().next().and_then(|attachment| attachment.previous);
                return previous.unwrap_or_default().print(job.request.version).map(Some);
            }
            collect_older_boot(job);
            let attached = attach_all(job, &mut plan, ahead.unwrap_or_else(|| enter_ahead(job)))?;
            let result = attached.results.into_iter().next().unwrap_or_default();
            result.print(job.request.version).map(Some)
        }
        Command::Del => {
            if del_record(job)? != Found::Record {
                del_by_configuration(job)?;
            }
            Ok(None)
        }
        Command::Check => check::configuration(job, &mut direct_plan(job)?).map(|()| None),
        Command::Gc => collect::network(job, None).map(|()| None),
        Command::Status => readiness::direct(job).map(|()| None),
        Command::Version => Ok(None),
    }
}

fn serve_ipam(job: &Job, role: Role) -> Served {
    let request = job.request;
    let around = job.around();
    let owner = ipam::Owner { sandbox: &request.container_id, ifname: &request.ifname };
    if role == Role::Static {
        // static keeps nothing: there is nothing to delete, whatever became of the configuration.
        if request.command == Command::Del {
            return Ok(None);
        }
        let addresses = native::static_addresses(&job.request.config, &around)?;
        return match request.command {
            Command::Add => convert::from_allocation(addresses.allocation()).print(job.request.version).map(Some),
            Command::Check => check::static_addresses(job, &addresses).map(|()| None),
            _ => Ok(None),
        };
    }
    let (pool, _) = native::host_local(&job.request.config, &around)?;
    match request.command {
        Command::Add => {
            let result = convert::from_allocation(pool.add(&owner).map_err(native::from_ipam)?);
            let printed = result.print(job.request.version);
            if printed.is_err() {
                pool.del(&owner).map_err(native::from_ipam)?;
            }
            printed.map(Some)
        }
        Command::Del => pool.del(&owner).map(|()| None).map_err(native::from_ipam),
        Command::Check => pool.check(&owner).map(|()| None).map_err(native::from_ipam),
        Command::Gc => collect::pool(job, &pool).map(|()| None),
        Command::Status => readiness::pool(&pool).map(|()| None),
        Command::Version => Ok(None),
    }
}

fn plugin_type(config: &Map<String, serde_json::Value>) -> &str {
    gojson::field(config, "type").and_then(serde_json::Value::as_str).unwrap_or_default()
}

/// Nothing is changed by entering: while the plan is made, it is done.
fn enter_ahead(job: &Job) -> Entering {
    backends::Pod::enter_ahead(job.place.opening(job.request))
}

fn attach_all(job: &Job, plan: &mut Plan, pod: Entering) -> Result<attach::Attached, CniError> {
    let boot_id = journal::boot_id().map_err(|e| from_journal(&e))?;
    attach::attach(plan, &job.journal(), boot_id.to_owned(), pod, job.request.netns_override, job.place)
}

/// The plan for a directly executed plugin.
fn direct_plan(job: &Job) -> Result<Plan, CniError> {
    if job.plugin == Chained::Tuning.name() {
        tuning::refuse_duplicates(&job.request.stdin).map_err(native::from_backend)?;
    }
    job.plan(vec![direct(job)?], None, &job.request.path)
}

/// The configuration of a directly executed plugin, as a network of one attachment.
fn direct(job: &Job) -> Result<Wanted, CniError> {
    let previous = gojson::field(&job.request.config, "prevResult");
    let previous = previous.map(|value| CniResult::parse_prev(value, job.request.version)).transpose()?;
    let ifname = if job.plugin == Kind::Loopback.name() { "lo" } else { job.request.ifname.as_str() };
    Ok(Wanted {
        network: job.request.network.clone(),
        list: Wanted::direct(&job.request.network, job.request.version, job.plugin, &job.request.config),
        ifname: ifname.to_owned(),
        default: true,
        allotment: Allotment::Unasked,
        selection: None,
        args: job.request.args.clone(),
        runtime: Map::new(),
        previous,
        direct: true,
    })
}

/// What a DEL found in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing: another DEL was here, or somebody else attached.
    Nothing,
    /// Something that says nothing.
    Unreadable,
    /// A record, and all it names is removed.
    Record,
}

/// Removes what the record says.
fn del_record(job: &Job) -> Result<Found, CniError> {
    let journal = job.journal();
    let held = match timed(job.place, Phase::Journal, || journal.hold(&job.key(), false)) {
        Err(e) if e.is_odd() => {
            warn(&format!("{}; it is put away", native::chain(&e)));
            journal.put_away(&job.key()).map_err(|e| from_journal(&e))?;
            return reclaim(job, true).map(|()| Found::Unreadable);
        }
        held => held.map_err(|e| from_journal(&e))?,
    };
    match held {
        Some(held) => del_held(job, &held),
        None => reclaim(job, false).map(|()| Found::Nothing),
    }
}

/// Devices that the record has claimed, and says nothing of.
fn reclaim(job: &Job, set_up: bool) -> Result<(), CniError> {
    homecoming::reclaim(&job.state_dir, &journal::file_name(&job.key()), set_up, || inside(job))
}

/// The same of one that is held.
fn del_held(job: &Job, held: &Held) -> Result<Found, CniError> {
    let records = held.records().map_err(|e| from_journal(&e))?;
    detach_records(job, &records)?;
    Unwritten::withdraw(&job.state_dir, &records);
    if records.is_empty() {
        warn("the record of this attachment says nothing: it was cut short, or is not plexus'");
        reclaim(job, held.has_lines().map_err(|e| from_journal(&e))?)?;
    }
    timed(job.place, Phase::Journal, || held.forget()).map_err(|e| from_journal(&e))?;
    Ok(if records.is_empty() { Found::Unreadable } else { Found::Record })
}

fn detach_records(job: &Job, records: &[Record]) -> Result<(), CniError> {
    if records.iter().any(|record| detach::executes(&record.intent)) {
        job.place.allow_execution(job.request, Executed::Record)?;
    }
    for record in records.iter().rev() {
        // First: nobody who cannot know it goes on.
        detach::is_of_this_boot(&record.intent)?;
        let netns = inside(job)?;
        let told = job.request.netns.as_deref().map(|path| Told { path, netns });
        let mut departure = detach::of_record(record, told, &job.state_dir)?;
        departure.may_be_own |= job.request.netns_override;
        departure.deletes = job.place.deletes();
        timed(job.place, Phase::Link, || detach::detach(departure))?;
        account::deleted(&record.intent);
    }
    Ok(())
}

/// What a reference plugin attached, or what has lost its record: the configuration says what there can be.
fn del_by_configuration(job: &Job) -> Result<(), CniError> {
    // A kind finds what it made by itself; who only changed it must be told what it was.
    let previous = Chained::of(job.plugin).and_then(|_| gojson::field(&job.request.config, "prevResult"));
    let previous = previous.and_then(|value| CniResult::parse_prev(value, job.request.version).ok());
    let mut attachment = detach::attachment_of(job.plugin, job.request);
    if is_elsewhere(job) {
        attachment.steps.iter_mut().for_each(|step| step.native = false);
    }
    del_attachments(job, &[attachment], previous)
}

/// Whether a chained plugin's configuration is one that plexus does not build, or not on this node, and there is another binary of
/// that name: then that one made what is to be removed.
fn is_elsewhere(job: &Job) -> bool {
    if Chained::of(job.plugin).is_none() || chain::find(job.plugin, &job.request.path).is_err() {
        return false;
    }
    match native::read(job.plugin, &job.request.config, &job.around()) {
        Ok(Verdict::Executed(_)) => true,
        Ok(Verdict::Chained(spec, _)) => matches!(spec.fit(), Ok(Fit::ElsewhereBecause(_))),
        _ => false,
    }
}

/// The namespace of this call, where there is one.
fn inside(job: &Job) -> Result<Option<NetNs>, CniError> {
    let opened = job.request.netns.is_some().then(|| detach::opened(job.place.opening(job.request)()));
    Ok(opened.transpose()?.flatten())
}

/// `result`: of the first, where the runtime told it.
fn del_attachments(job: &Job, attachments: &[journal::Attachment], result: Option<CniResult>) -> Result<(), CniError> {
    let inside = inside(job)?;
    detach::detach(unrecorded(job, attachments, result, inside))
}

fn unrecorded<'a>(
    job: &'a Job,
    attachments: &'a [journal::Attachment],
    result: Option<CniResult>,
    inside: Option<NetNs>,
) -> Departure<'a> {
    let results = [result].into_iter().chain(iter::repeat(None)).take(attachments.len()).collect();
    let deletes = job.place.deletes();
    Departure { results, deletes, ..Departure::unrecorded(job.request, &job.state_dir, attachments, inside) }
}

/// The plan for a pod under a meta-plugin's configuration. Nothing is touched.
///
/// # Errors
/// Every refusal of every attachment, as an ADD would have it.
pub fn explain(configuration: &[u8], manifests: &Manifests, pod: &Pod) -> Result<Plan, CniError> {
    let object =
        gojson::parse_object(configuration, "NetConf").map_err(|e| CniError::new(Code::Decode, e.to_string()))?;
    let config = Config::parse(&object)?;
    let Pod { namespace, name, uid, .. } = pod;
    let args = format!("IgnoreUnknown=true;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}");
    let asking = gather::Asking { args: &args, ifname: "eth0", sandbox: "explained" };
    let mut all = manifests.clone().over(cluster::manifests(&config)?);
    let name = PodName { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
    let asked = gather::of_pod(&config, pod, &asking, Some(name), &mut Supposed::new(&mut all))?;
    let path = config.search_path(&[]);
    let find = |plugin: &str| chain::find(plugin, &path);
    let fit = |spec: &Spec| spec.fit().map_err(native::from_backend);
    let node = Node { policy: &config.policy(), state_dir: &config.state_dir, find: &find, fit: &fit };
    let key = Key {
        network: String::new(),
        sandbox: "explained".to_owned(),
        ifname: "eth0".to_owned(),
        plugin: String::new(),
    };
    let call = Call { command: Command::Add, key, netns: PathBuf::new(), path: path.clone(), pod: asked.pod };
    let mut plan = plan::plan(call, asked.wanted, &node)?;
    plan.warnings.extend(config.notes());
    plan.warnings.extend(asked.warnings);
    Ok(plan)
}
