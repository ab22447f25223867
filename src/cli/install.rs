//! `plexus install` and `plexus uninstall`: shows what will be done, or does it and shows what was.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use plexus::confdir;
use plexus::install::{self, Places, Report, Wish};

use super::failure::Failure;
use super::leave;
use super::output::{Format, Out};
use super::table::{Table, or_none, printable};
use super::{BIN_DIR, STATE_DIR};

/// Where everything is.
#[derive(Debug, Args)]
pub(super) struct PlaceArgs {
    /// The directory of the runtime's network configurations
    #[arg(long, value_name = "DIR", default_value = confdir::DIRECTORY)]
    conf_dir: PathBuf,
    /// The directory of the runtime's plugins
    #[arg(long, value_name = "DIR", default_value = BIN_DIR)]
    bin_dir: PathBuf,
    /// The directory that holds the journal, where no configuration says it
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// How it is told
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// `plexus install`.
#[derive(Debug, Args)]
pub(super) struct Install {
    /// In Multus' place: its configuration with the same meaning, its own kept beside it
    #[arg(long, conflicts_with = "to_multus")]
    from_multus: bool,
    /// Multus in plexus' place again: its configuration as it was, and what it needs to delete the pods that are attached
    #[arg(long)]
    to_multus: bool,
    /// The programs and nothing else: `plexus daemon --config` writes the runtime's configuration
    #[arg(long, conflicts_with_all = ["from_multus", "to_multus", "kubeconfig"])]
    only_programs: bool,
    /// The names `multus` and `multus-shim` lead to plexus too
    #[arg(long, requires = "from_multus")]
    multus_names: bool,
    /// The configuration of Multus' daemon, where it is not at its usual place
    #[arg(long, value_name = "FILE", requires = "from_multus")]
    daemon_config: Option<PathBuf>,
    /// How the API server is reached
    #[arg(long, value_name = "FILE", conflicts_with = "to_multus")]
    kubeconfig: Option<PathBuf>,
    /// Where plexus and plexus-cni are that are installed; beside this program where it is not given
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    #[command(flatten)]
    places: PlaceArgs,
}

/// # Errors
/// The node is not as it should be, and nothing was touched; or a step failed, and those before it are done.
pub(super) fn run(args: Install, out: &mut Out) -> Result<(), Failure> {
    let Install { from_multus, to_multus, only_programs, multus_names: names, .. } = args;
    let Install { daemon_config, kubeconfig, programs, places, .. } = args;
    let kubeconfig = kubeconfig.map(|file| absolute(&file));
    let wish = match (from_multus, to_multus) {
        (true, _) => Wish::FromMultus { names, kubeconfig },
        (_, true) => Wish::ToMultus,
        _ if only_programs => Wish::Programs,
        _ => Wish::Install { kubeconfig },
    };
    fulfil(&wish, places, (programs, daemon_config), out)
}

/// `plexus uninstall`.
#[derive(Debug, Args)]
pub(super) struct Uninstall {
    /// Again and again until no pod is attached by plexus any more; then wait for SIGTERM: for a DaemonSet
    #[arg(long, conflicts_with = "dry_run")]
    until_done: bool,
    #[command(flatten)]
    places: PlaceArgs,
}

/// # Errors
/// As [`run`].
pub(super) fn uninstall(args: Uninstall, out: &mut Out) -> Result<(), Failure> {
    let Uninstall { until_done, places } = args;
    if !until_done {
        return fulfil(&Wish::Uninstall, places, (None, None), out);
    }
    let PlaceArgs { conf_dir, bin_dir, state_dir, .. } = places;
    let held = super::PlaceArgs::usual(&state_dir, &conf_dir).into();
    let programs = bin_dir.clone();
    leave::until_done(&Places { conf_dir, bin_dir, state_dir, programs, daemon_config: None }, &held)
}

/// `sources`: where the programs are, and the configuration of Multus' daemon.
fn fulfil(
    wish: &Wish,
    args: PlaceArgs,
    sources: (Option<PathBuf>, Option<PathBuf>),
    out: &mut Out,
) -> Result<(), Failure> {
    let (programs, daemon_config) = sources;
    let PlaceArgs { conf_dir, bin_dir, state_dir, dry_run, output } = args;
    let own = std::env::current_exe().map_err(Failure::system("looking for plexus' own program"))?;
    let programs = programs.unwrap_or_else(|| own.parent().unwrap_or(Path::new("/")).to_owned());
    let [conf_dir, bin_dir, state_dir, programs] =
        [conf_dir, bin_dir, state_dir, programs].map(|folder| absolute(&folder));
    let places = Places { conf_dir, bin_dir, state_dir, programs, daemon_config };
    let act = match wish {
        Wish::Uninstall => "uninstalling",
        _ => "installing",
    };
    let refused = |why: String| Failure::Input { act: act.to_owned(), why: format!("{why}; nothing was changed") };
    let report = match dry_run {
        true => install::plan(wish, &places).map(|plan| plan.show()),
        false => install::carry_out(wish, &places),
    };
    let report = report.map_err(refused)?;
    match output {
        Format::Json => out.json(&report)?,
        Format::Table => out.text(&tables(&report))?,
    }
    if output == Format::Table {
        for note in &report.notes {
            let _ = writeln!(io::stderr(), "plexus: {}", printable(note)); // nobody to tell
        }
    }
    report.failure.map_or(Ok(()), |why| Err(Failure::Input { act: act.to_owned(), why }))
}

/// What is written is read in another folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn tables(report: &Report) -> String {
    let mut steps = Table::new(["WHAT", "WHERE", "STATE", "WHY"]);
    for step in &report.steps {
        steps.row([step.what, or_none(&step.path), step.state.word(), &step.why]);
    }
    let mut text = steps.render();
    if !report.keys.is_empty() {
        let mut keys = Table::new(["KEY", "WHAT IT IS NOW"]);
        for meaning in &report.keys {
            keys.row([meaning.key.as_str(), &meaning.meaning]);
        }
        text.push('\n');
        text.push_str(&keys.render());
    }
    text
}
