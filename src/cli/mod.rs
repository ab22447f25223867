//! The commands of `plexus`: their arguments, and which function serves each. It knows neither CNI nor the kernel.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

#[cfg(feature = "api")]
mod approver;
mod check;
mod completions;
#[cfg(feature = "api")]
mod daemon;
mod demo;
mod devices;
mod doctor;
mod explain;
mod failure;
mod gc;
mod install;
mod leave;
mod list;
mod oneshot;
mod output;
mod table;
mod thin_entrypoint;
mod validate;

use output::{Format, Out};
use plexus::survey::Places;
use plexus::{alive, confdir, takeover};

/// `plexus oneshot`, which no other command's arguments have to be known for.
pub(crate) fn oneshot() -> ExitCode {
    oneshot::run()
}

/// Runs what the command line says; the name that this program was started by may say it.
pub(crate) fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words = thin_entrypoint::by_name(words.collect());
    match Cli::try_parse_from(&words) {
        Ok(cli) => cli.run(),
        Err(error) => thin_entrypoint::misused(&words, &error),
    }
}

/// Where the journal and the indexes are where no configuration says otherwise.
const STATE_DIR: &str = "/var/lib/cni/plexus";
/// Where host-local's leases are where no configuration says otherwise.
const DATA_DIR: &str = "/var/lib/cni/networks";
/// Longer than a kubelet waits for a pod's networks.
const MIN_AGE_S: u64 = 600;
/// Where the runtimes look for plugins unless they are told otherwise.
const BIN_DIR: &str = "/opt/cni/bin";
/// Where sysfs is; in a container that of the node may be elsewhere.
const SYSFS: &str = "/sys";

/// Attaches Kubernetes pods to their networks, in process, over netlink.
#[derive(Debug, Parser)]
#[command(name = "plexus", version, after_help = failure::EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Three pods with four interfaces each, pings between them, and proof that nothing is left; needs no root
    Demo {
        /// How the tables are written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// What is attached on this node, an attachment a row, read from the journal
    List {
        /// The cards with virtual functions (SR-IOV) instead, and who holds which
        #[arg(long)]
        devices: bool,
        /// Where the node's sysfs is
        #[arg(long, value_name = "DIR", default_value = SYSFS)]
        sysfs: PathBuf,
        /// The directory that holds the journal
        #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
        state_dir: PathBuf,
        /// How the rows are written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Whether what is attached is still as it was attached; nothing is touched
    Check {
        /// namespace/name, a name, or the beginning of a sandbox's id; all where none is given
        pod: Option<String>,
        /// This process sees every network namespace of the node: what it cannot find is gone
        #[arg(long)]
        on_node: bool,
        /// The directory that holds the journal
        #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
        state_dir: PathBuf,
        /// How the rows are written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Removes attachments, leases and rules of pods that have ended without a DEL
    Gc {
        /// Only say what would be removed
        #[arg(short = 'n', long)]
        dry_run: bool,
        /// Also leases and rules that neither the journal nor the runtimes' cache knows
        #[arg(long)]
        unrecorded: bool,
        #[command(flatten)]
        places: PlaceArgs,
        /// How the rows are written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// What this kernel and node can do, and what is wrong; nothing is touched
    Doctor {
        /// The directory of the runtime's plugins
        #[arg(long, value_name = "DIR", default_value = BIN_DIR)]
        bin_dir: PathBuf,
        /// Where the node's sysfs is
        #[arg(long, value_name = "DIR", default_value = SYSFS)]
        sysfs: PathBuf,
        #[command(flatten)]
        places: PlaceArgs,
        /// How the rows are written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// What an ADD would do for a pod; nothing is touched
    Explain {
        /// The pod's manifest, YAML or JSON
        #[arg(value_name = "POD.yaml")]
        pod: PathBuf,
        /// The configuration that the runtime would send
        #[arg(long, value_name = "CONF")]
        config: PathBuf,
        /// How the plan is written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Puts plexus on this node: its programs, and a configuration for the runtime
    Install(install::Install),
    /// Takes plexus off this node: what was there before comes back; pods that are attached stay deletable
    Uninstall(install::Uninstall),
    /// What the entrypoint of Multus' thin DaemonSet does, by the same flags: brings the programs, and keeps the configuration until SIGTERM
    #[command(args_override_self = true)]
    ThinEntrypoint(Box<thin_entrypoint::Flags>),
    /// What the initContainer of Multus' DaemonSets does, by the same flags: brings the programs
    #[command(hide = true, args_override_self = true)]
    InstallMultus(thin_entrypoint::Programs),
    /// Whether definitions and pods would work, before they are applied: what is wrong, where, and what to write instead
    Validate {
        /// YAML or JSON; of a directory every file that is one; `-` is standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// The node's configuration: what pods may name (namespaceIsolation, allowedDelegates), and where networks are (confDir)
        #[arg(long, value_name = "CONF")]
        config: Option<PathBuf>,
        /// The namespace of objects that name none
        #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
        namespace: String,
        /// How the findings are written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Serves the requests of this node's plexus-cni, until SIGTERM
    #[cfg(feature = "api")]
    Daemon(daemon::DaemonArgs),
    /// Approves nodes' requests for certificates of their own (perNodeCertificate), and denies what only looks like one, until SIGTERM
    #[cfg(feature = "api")]
    CertApprover(approver::ApproverArgs),
    /// Serves one CNI request, as plexus-cni does: environment and standard input in, result out
    Oneshot,
    /// A completion script for a shell, on standard output
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Where what is held is looked for.
#[derive(Debug, clap::Args)]
struct PlaceArgs {
    /// The directory that holds the journal
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// The directory of the runtime's network configurations
    #[arg(long, value_name = "DIR", default_value = confdir::DIRECTORY)]
    conf_dir: PathBuf,
    /// Where the runtimes note what they attached (libcni's cache); beside them, where the configuration has Multus' own
    #[arg(long, value_name = "DIR", default_values = alive::CACHE_DIRS)]
    cache_dir: Vec<PathBuf>,
    /// host-local's directory; others are known from the journal
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// This process sees every network namespace of the node: what it cannot find is gone
    #[arg(long)]
    on_node: bool,
    /// A lease without a record that is younger may be of an ADD under way, and is let be
    #[arg(long, value_name = "SECONDS", default_value_t = MIN_AGE_S)]
    min_age: u64,
}

impl PlaceArgs {
    /// Where nobody says otherwise, beside what a command has places for.
    fn usual(state_dir: &Path, conf_dir: &Path) -> PlaceArgs {
        PlaceArgs {
            state_dir: state_dir.to_owned(),
            conf_dir: conf_dir.to_owned(),
            cache_dir: alive::CACHE_DIRS.iter().map(PathBuf::from).collect(),
            data_dir: PathBuf::from(DATA_DIR),
            on_node: false,
            min_age: MIN_AGE_S,
        }
    }
}

impl From<PlaceArgs> for Places {
    fn from(args: PlaceArgs) -> Places {
        let PlaceArgs { state_dir, conf_dir, cache_dir: mut cache_dirs, data_dir, on_node, min_age } = args;
        cache_dirs.extend(
            takeover::configured(&conf_dir)
                .into_iter()
                .filter(|dir| !alive::CACHE_DIRS.iter().any(|known| dir == Path::new(known))),
        );
        let (bridges, min_age) = (BTreeSet::new(), Duration::from_secs(min_age));
        Places { state_dir, cache_dirs, data_dirs: [data_dir].into(), bridges, on_node, min_age }
    }
}

impl Cli {
    /// Runs the command; a failure is printed here, once, as one line.
    fn run(self) -> ExitCode {
        let mut out = Out::stdout();
        let done = match self.command {
            Command::Demo { output } => demo::run(output, &mut out),
            Command::List { devices: true, sysfs, state_dir, output } => {
                devices::run(&sysfs, &state_dir, output, &mut out)
            }
            Command::List { state_dir, output, .. } => list::run(&state_dir, output, &mut out),
            Command::Check { pod, on_node, state_dir, output } => {
                check::run(&state_dir, pod.as_deref(), on_node, output, &mut out)
            }
            Command::Gc { dry_run, unrecorded, places, output } => {
                gc::run(&places.into(), dry_run, unrecorded, output, &mut out)
            }
            Command::Doctor { bin_dir, sysfs, places, output } => {
                let conf_dir = places.conf_dir.clone();
                let around = doctor::Surroundings { places: places.into(), conf_dir, bin_dir, sysfs };
                doctor::run(around, output, &mut out)
            }
            Command::Explain { pod, config, output } => explain::run(&pod, &config, output, &mut out),
            Command::Install(args) => install::run(args, &mut out),
            Command::Uninstall(args) => install::uninstall(args, &mut out),
            Command::InstallMultus(args) => thin_entrypoint::install(args),
            Command::ThinEntrypoint(flags) => thin_entrypoint::run(&flags),
            Command::Validate { files, config, namespace, output } => {
                validate::run(&files, config.as_deref(), &namespace, output, &mut out)
            }
            #[cfg(feature = "api")]
            Command::Daemon(args) => daemon::run(args),
            #[cfg(feature = "api")]
            Command::CertApprover(args) => approver::run(args),
            Command::Oneshot => return oneshot(),
            Command::Completions { shell } => completions::run(shell, &mut out),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                output::complain(&failure);
                failure.exit().into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_asked_for_is_what_is_parsed() {
        let cli = Cli::try_parse_from(["plexus", "list", "--state-dir", "/x", "-o", "json"]).unwrap();
        let Command::List { state_dir, output, devices: false, .. } = cli.command else {
            panic!("another command: {cli:?}")
        };
        assert_eq!((state_dir, output), (PathBuf::from("/x"), Format::Json));
        let wrong = Cli::try_parse_from(["plexus", "explain", "pod.yaml"]).unwrap_err();
        assert_eq!(wrong.exit_code(), 2, "a missing --config is wrong usage: {wrong}");
    }
}
