//! `plexus thin-entrypoint` and `plexus install-multus`, and this program under the names `thin_entrypoint` and `install_multus`: the command
//! lines of Multus' thin DaemonSet, taken as they are. It knows what each flag became; programs are brought by the installation, the
//! configuration is kept by the daemon's keeper.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::error::ErrorKind;
use plexus::config::Level;
use plexus::config::daemon::{DaemonConfig, Origin};
use plexus::install::{self, Places, Wish, compose};
use plexus::keep::{Account, Keep, Keeper, Login};
use serde_json::{Map, Value, json};

use super::STATE_DIR;
use super::failure::Failure;
use super::leave::Ended;
use super::table::printable;

/// What Multus' image calls a command, and what plexus does.
const NAMES: [(&str, &str); 2] = [("thin_entrypoint", "thin-entrypoint"), ("install_multus", "install-multus")];
/// Wrong usage, as clap has it.
const USAGE: u8 = 2;
/// Where Multus' container sees the runtime's plugins.
const BIN_DIR: &str = "/host/opt/cni/bin";
/// Where it sees the runtime's configurations.
const CONF_DIR: &str = "/host/etc/cni/net.d";
/// How the node names the kubeconfig that Multus' container writes.
const KUBECONFIG: &str = "/etc/cni/net.d/multus.d/multus.kubeconfig";
/// The same below `--cni-conf-dir`, as the container sees it.
const KUBECONFIG_BELOW: &str = "multus.d/multus.kubeconfig";
/// The configuration is made of the default network's.
const AUTO: &str = "auto";
/// Without a change that is seen: a token that was renewed, a folder made anew.
const INTERVAL: Duration = Duration::from_secs(30);
/// Between two looks: another plugin that undoes each of them is not answered in a storm.
const PAUSE: Duration = Duration::from_millis(200);

/// Multus' flags (cmd/thin_entrypoint). An empty value is none.
#[derive(Args, Debug)]
pub(super) struct Flags {
    /// Where plexus and plexus-cni are put: the runtime's plugins
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    cni_bin_dir: Option<String>,
    /// Where the configuration is written: the runtime's configurations
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    cni_conf_dir: Option<String>,
    /// The version that the default network must have
    #[arg(long, value_name = "VERSION", allow_hyphen_values = true)]
    cni_version: Option<String>,
    /// A configuration that is taken as it is; `auto`: it is made of the default network's
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    multus_conf_file: Option<String>,
    /// A file beside plexus and plexus-cni; beside this program where they are not there
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    multus_bin_file: Option<String>,
    /// No program is put anywhere
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    skip_multus_binary_copy: Option<bool>,
    /// `confDir`: networks that are files
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    multus_cni_conf_dir: Option<String>,
    /// How the node names the kubeconfig that is written below --cni-conf-dir
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    multus_kubeconfig_file_host: Option<String>,
    /// The name of the default network's file; not given: the first
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    multus_master_cni_file_name: Option<String>,
    /// Where the default network's file is
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    multus_autoconfig_dir: Option<String>,
    /// `namespaceIsolation`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    namespace_isolation: Option<bool>,
    /// `globalNamespaces`
    #[arg(long, value_name = "NAMES", allow_hyphen_values = true)]
    global_namespaces: Option<String>,
    /// `logToStderr`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    multus_log_to_stderr: Option<bool>,
    /// `logLevel`
    #[arg(long, value_name = "LEVEL", allow_hyphen_values = true)]
    multus_log_level: Option<String>,
    /// `logFile`
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    multus_log_file: Option<String>,
    /// The configuration is named as the default network
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    override_network_name: Option<bool>,
    /// The configuration goes with this process: pods that start then get their default network alone
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    cleanup_config_on_exit: Option<bool>,
    /// Read, and nothing more: the configuration is always watched
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    skip_config_watch: Option<bool>,
    /// The default network's file is taken where Multus put it aside; it is not put aside
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    rename_conf_file: Option<bool>,
    /// `readinessindicatorfile`
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    readiness_indicator_file: Option<String>,
    /// `binDir`
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    additional_bin_dir: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    force_cni_version: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    skip_tls_verify: Option<bool>,
    /// What is no flag: Multus passes over it
    #[arg(hide = true)]
    rest: Vec<String>,
}

/// What Go takes for a truth value (strconv.ParseBool).
fn boolean(word: &str) -> Result<bool, String> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it is true or false".to_owned()),
    }
}

/// What Multus' initContainer gives (cmd/install_multus).
#[derive(Args, Debug)]
pub(super) struct Programs {
    /// Which of both Multus is to be there: the programs of plexus are the same
    #[arg(short, long, value_name = "TYPE", value_parser = ["thin", "thick"], required = true)]
    r#type: String,
    /// Where plexus and plexus-cni are put: the runtime's plugins
    #[arg(short, long, value_name = "DIR", default_value = BIN_DIR)]
    dest_dir: PathBuf,
}

/// The command line, with the name that the program was started by as a command of plexus'.
pub(super) fn by_name(mut words: Vec<OsString>) -> Vec<OsString> {
    let called = words.first().and_then(|first| Path::new(first).file_name()).unwrap_or_default();
    if let Some((_, command)) = NAMES.iter().find(|(name, _)| called == *name) {
        words.insert(1, command.into());
    }
    words
}

/// What is said of a command line that is none. A DaemonSet's log has one line for a reason; a person's terminal has the usage too.
pub(super) fn misused(words: &[OsString], error: &clap::Error) -> ExitCode {
    let is_asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let command = NAMES.iter().map(|(_, command)| command).find(|command| words.get(1).is_some_and(|w| w == *command));
    let Some(command) = command.filter(|_| !is_asked) else { error.exit() };
    let text = error.render().to_string();
    let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    tell(&format!("{command}: {}; see {command} --help", lines.join(" ").trim_start_matches("error: ")));
    ExitCode::from(USAGE)
}

fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "plexus: {}", printable(line)); // nobody to tell
}

/// A value that was given.
fn given(value: Option<&String>) -> Option<&str> {
    value.map(String::as_str).filter(|text| !text.is_empty())
}

fn refused(act: impl Into<String>) -> impl FnOnce(String) -> Failure {
    let act = act.into();
    move |why| Failure::Input { act, why }
}

/// Brings the programs, and keeps the configuration until SIGTERM.
///
/// # Errors
/// What the flags ask for cannot be, or the system refuses something.
pub(super) fn run(flags: &Flags) -> Result<(), Failure> {
    let keep = flags.keep()?;
    flags.notes(&keep).iter().for_each(|note| tell(note));
    let ended = Ended::listen()?;
    if flags.skip_multus_binary_copy != Some(true) {
        flags.bring()?;
    }
    watch(keep, &ended)
}

/// Brings the programs, as Multus' initContainer does.
///
/// # Errors
/// The system refuses something.
pub(super) fn install(args: Programs) -> Result<(), Failure> {
    bring(args.dest_dir, own_folder()?)
}

/// Where this program is: plexus-cni is beside it.
fn own_folder() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(Failure::system("looking for plexus' own program"))?;
    Ok(own.parent().unwrap_or(Path::new("/")).to_owned())
}

fn bring(bin_dir: PathBuf, programs: PathBuf) -> Result<(), Failure> {
    let act = format!("bringing the programs to {}", bin_dir.display());
    let (conf_dir, state_dir) = (PathBuf::new(), STATE_DIR.into()); // neither is looked at
    let places = Places { conf_dir, bin_dir, state_dir, programs, daemon_config: None };
    let report = install::carry_out(&Wish::Programs, &places).map_err(refused(act.clone()))?;
    report.failure.map_or(Ok(()), |why| Err(refused(act)(why)))
}

fn watch(keep: Keep, ended: &Ended) -> Result<(), Failure> {
    let act = format!("keeping the configuration in {}", keep.dir.display());
    // What a person wrote is there from the beginning; a default network comes when its own pods do.
    let mut must_be = matches!(keep.origin, Origin::File(_));
    let mut keeper = Keeper::new(keep).map_err(Failure::system(act.clone()))?;
    loop {
        let lines = keeper.look(true);
        if std::mem::take(&mut must_be) && !keeper.is_in_place() {
            return Err(refused(act)(lines.join("; ")));
        }
        lines.iter().for_each(|line| tell(line));
        if let Some(why) = keeper.refused() {
            return Err(refused("--cni-version")(format!("{why}: give that, or leave the flag out")));
        }
        if ended.within(Some(INTERVAL), keeper.watch_descriptor())? || ended.within(Some(PAUSE), None)? {
            keeper.stop().iter().for_each(|line| tell(line));
            return Ok(());
        }
    }
}

impl Flags {
    fn conf_dir(&self) -> &Path {
        Path::new(given(self.cni_conf_dir.as_ref()).unwrap_or(CONF_DIR))
    }

    /// The configuration that a person wrote.
    fn file(&self) -> Option<&str> {
        given(self.multus_conf_file.as_ref()).filter(|file| *file != AUTO)
    }

    /// Brings the programs; of the folder of `--multus-bin-file`, where they are there.
    fn bring(&self) -> Result<(), Failure> {
        let has_both = |folder: &&Path| ["plexus", "plexus-cni"].iter().all(|name| folder.join(name).is_file());
        let file = given(self.multus_bin_file.as_ref()).map(Path::new);
        let programs = match file.and_then(Path::parent).filter(has_both) {
            Some(folder) => folder.to_owned(),
            None => own_folder()?,
        };
        if file.is_some_and(|file| file.parent() != Some(&programs)) {
            tell(&format!("--multus-bin-file: plexus' own programs are taken, of {}", programs.display()));
        }
        bring(given(self.cni_bin_dir.as_ref()).unwrap_or(BIN_DIR).into(), programs)
    }

    /// What is to be kept, as the daemon would be told it.
    fn keep(&self) -> Result<Keep, Failure> {
        let act = || refused("reading the flags");
        let conf_dir = self.conf_dir();
        if !conf_dir.is_dir() {
            return Err(refused("--cni-conf-dir")(format!("{} is no folder that is there", conf_dir.display())));
        }
        let bytes = Value::Object(self.daemon_config()?).to_string();
        let daemon = DaemonConfig::parse(bytes.as_bytes()).map_err(|e| act()(e.msg))?;
        let account = self.account()?;
        let mut keep = Keep::of(&daemon, Some(account), Path::new("")).map_err(act())?;
        // It is the node's, and this container need not see it: each ADD waits for it.
        if let Some(file) = given(self.readiness_indicator_file.as_ref()) {
            keep.own.insert("readinessindicatorfile".to_owned(), file.into());
        }
        keep.readiness = None;
        keep.exact_version = true;
        keep.cleanup = self.cleanup_config_on_exit == Some(true);
        let on_node = given(self.multus_kubeconfig_file_host.as_ref()).unwrap_or(KUBECONFIG).into();
        keep.login = Some(Login { seen: conf_dir.join(KUBECONFIG_BELOW), on_node });
        if self.rename_conf_file == Some(true) && keep.primary.is_none() {
            keep.primary = keep.put_aside();
        }
        Ok(keep)
    }

    /// Who this pod is: the node's kubeconfig is made of it, and its token renewed.
    fn account(&self) -> Result<Account, Failure> {
        let act = || refused("reading the pod's service account");
        let account = Account::of_pod(&|name| std::env::var(name).ok());
        let mut account = account.ok_or_else(|| {
            let why = "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT do not say where the API server is";
            act()(why.to_owned())
        })?;
        account.insecure = self.skip_tls_verify == Some(true);
        account.check().map_err(act())?;
        Ok(account)
    }

    /// The flags under the names of a daemon-config.json.
    fn daemon_config(&self) -> Result<Map<String, Value>, Failure> {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let level = given(self.multus_log_level.as_ref());
        if let Some(word) = level.filter(|word| Level::of(word).is_none()) {
            let why = format!("there is no level {word:?}: it is panic, error, verbose or debug");
            return Err(refused("--multus-log-level")(why));
        }
        let networks = given(self.multus_autoconfig_dir.as_ref()).unwrap_or(CONF_DIR);
        let conf_dir = given(self.multus_cni_conf_dir.as_ref()).map(|dir| compose::strip(dir).unwrap_or(dir));
        // No socket: nobody is asked.
        let mut keys = Map::from_iter([
            ("cniConfigDir".to_owned(), json!(absolute(self.conf_dir()))),
            ("multusAutoconfigDir".to_owned(), json!(absolute(Path::new(networks)))),
            ("daemonSocketDir".to_owned(), json!("")),
        ]);
        let file = self.file().map(|file| absolute(Path::new(file)).display().to_string());
        let texts = [
            ("multusConfigFile", file.as_deref()),
            ("multusMasterCNI", given(self.multus_master_cni_file_name.as_ref())),
            ("cniVersion", given(self.cni_version.as_ref())),
            ("confDir", conf_dir),
            ("binDir", given(self.additional_bin_dir.as_ref())),
            ("globalNamespaces", given(self.global_namespaces.as_ref())),
            ("logLevel", level),
            ("logFile", given(self.multus_log_file.as_ref())),
        ];
        let flags = [
            ("overrideNetworkName", self.override_network_name),
            ("forceCNIVersion", self.force_cni_version),
            ("namespaceIsolation", self.namespace_isolation),
            ("logToStderr", self.multus_log_to_stderr),
        ];
        keys.extend(texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?.into()))));
        keys.extend(flags.into_iter().filter_map(|(key, flag)| Some((key.to_owned(), flag?.into()))));
        Ok(keys)
    }

    /// What makes nothing, and why.
    fn notes(&self, keep: &Keep) -> Vec<String> {
        let plain = [
            (
                self.rename_conf_file == Some(true),
                "--rename-conf-file: the default network's file keeps its name; plexus' is read before it, and the \
                 node has its network again when plexus goes",
            ),
            (
                self.skip_config_watch == Some(true),
                "--skip-config-watch: the configuration is watched all the same: it follows the default network's",
            ),
            (
                self.force_cni_version == Some(true) && self.cni_version.is_none(),
                "--force-cni-version: there is no --cni-version",
            ),
        ];
        let mut notes: Vec<String> =
            plain.iter().filter(|(holds, _)| *holds).map(|(_, note)| note.to_string()).collect();
        if let Origin::File(file) = &keep.origin {
            let of_network = [
                ("--multus-autoconfig-dir", self.multus_autoconfig_dir.is_some()),
                ("--multus-master-cni-file-name", self.multus_master_cni_file_name.is_some()),
                ("--override-network-name", self.override_network_name == Some(true)),
                ("--cni-version", self.cni_version.is_some()),
            ];
            let file = file.display();
            let unused = of_network.into_iter().filter(|(_, is_given)| *is_given);
            notes.extend(unused.map(|(flag, _)| format!("{flag}: --multus-conf-file names {file}, which says it")));
        }
        notes.extend(
            self.rest.iter().map(|word| format!("{word:?}: it is no flag's value (a flag is set by --flag=false)")),
        );
        notes
    }
}
