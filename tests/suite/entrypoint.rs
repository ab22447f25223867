//! The command line of Multus' thin DaemonSet, taken as it is: `thin_entrypoint` and its flags, on a folder as its container sees the
//! node's. It knows what Multus' manifests say, and no cluster.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::case::Case;
use crate::daemon::mount_account;
use crate::program::{plexus, text};
use crate::testbed::{Testbed, files_below};

const CONF_DIR: &str = "/run/scratch/host/etc/cni/net.d";
const BIN_DIR: &str = "/run/scratch/host/opt/cni/bin";
const OURS: &str = "00-0-plexus.conflist";
const KUBECONFIG: &str = "multus.d/multus.kubeconfig";
/// The arguments of Multus' own manifest (deployments/multus-daemonset.yml), with the case's folders.
const MANIFEST: [&str; 3] = [
    "--multus-conf-file=auto",
    "--multus-autoconfig-dir=/run/scratch/host/etc/cni/net.d",
    "--cni-conf-dir=/run/scratch/host/etc/cni/net.d",
];
/// Small programs in the place of those of the debugging build, and the runtime's plugins where the container sees them.
const PROGRAMS: [&str; 2] =
    ["--multus-bin-file=/run/scratch/programs/multus", "--cni-bin-dir=/run/scratch/host/opt/cni/bin"];
/// Whatever is awaited comes at once, or something is very wrong.
const LIMIT: Duration = Duration::from_secs(60);

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("entrypoint::the_manifest_of_the_thin_daemonset", &[], manifest),
        Case::new("entrypoint::d21_a_token_that_is_renewed_reaches_the_node", &[], renewed),
        Case::new("entrypoint::a_configuration_that_a_person_wrote", &[], written),
        Case::new("entrypoint::cleanup_config_on_exit", &[], cleanup),
        Case::new("entrypoint::rename_conf_file", &[], renamed),
        Case::new("entrypoint::cni_version", &[], version),
        Case::new("entrypoint::d28_each_flag_that_is_a_key", &[], keys),
        Case::new("entrypoint::override_network_name_and_master_file", &[], named),
        Case::new("entrypoint::programs_or_none", &[], programs),
        Case::new("entrypoint::d28_what_cannot_be_is_one_line_and_a_code", &[], refused),
        Case::new("entrypoint::beside_multus_own_file_and_back", &[], beside_multus),
        Case::new("entrypoint::the_init_container_of_multus_daemonsets", &[], init_container),
        Case::new("entrypoint::go_writes_truth_values_so", &[], truth),
    ]
}

fn node() -> Testbed {
    let bed = Testbed::new();
    for folder in [CONF_DIR, BIN_DIR] {
        fs::create_dir_all(folder).unwrap();
    }
    for name in ["plexus", "plexus-cni"] {
        bed.file(&format!("programs/{name}"), name);
    }
    symlink(env!("CARGO_BIN_EXE_plexus"), "/run/scratch/thin_entrypoint").unwrap();
    bed
}

fn put(name: &str, network: &str, version: &str) {
    let list = json!({"cniVersion": version, "name": network, "plugins": [{"type": "bridge", "bridge": "cni0"}]});
    fs::write(Path::new(CONF_DIR).join(name), list.to_string()).unwrap();
}

/// What a file of the folder says; nothing where there is none.
fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(Path::new(CONF_DIR).join(name)).unwrap_or_default()).unwrap_or_default()
}

fn plugin() -> Value {
    read(OURS)["plugins"][0].clone()
}

fn default_network() -> Value {
    plugin()["delegates"][0]["name"].clone()
}

fn names() -> Vec<String> {
    files_below(Path::new(CONF_DIR)).into_iter().map(|(path, _)| path.display().to_string()).collect()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}: {}", said());
        std::thread::yield_now();
    }
}

fn said() -> String {
    fs::read_to_string("/run/scratch/said").unwrap()
}

/// The container's process. It ends with the case.
struct Entrypoint(Child);

impl Entrypoint {
    /// Under Multus' name for it, in a pod with a service account.
    fn start(words: &[&str]) -> Self {
        let mut command = Command::new("/run/scratch/thin_entrypoint");
        command
            .args(words)
            .args(PROGRAMS)
            .env("KUBERNETES_SERVICE_HOST", "10.96.0.1")
            .env("KUBERNETES_SERVICE_PORT", "443");
        Self::launch(command)
    }

    fn launch(mut command: Command) -> Self {
        let log = fs::File::create("/run/scratch/said").unwrap();
        command.current_dir("/run/scratch").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // The thread's namespace becomes the child's.
        std::thread::scope(|scope| {
            let started = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                mount_account("token-one");
                command.spawn().unwrap()
            });
            Self(started.join().unwrap())
        })
    }

    /// A file of its service account.
    fn account(&self, name: &str, text: &str) {
        let root = Path::new("/proc").join(self.0.id().to_string()).join("root");
        fs::write(root.join("run/secrets/kubernetes.io/serviceaccount").join(name), text).unwrap();
    }

    /// Its code and what it said, once it is told to end.
    fn stop(self) -> (Option<i32>, String) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.ended()
    }

    /// The same where it ends by itself.
    fn ended(mut self) -> (Option<i32>, String) {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return (status.code(), said());
            }
            assert!(begin.elapsed() < LIMIT, "it does not end: {}", said());
            std::thread::yield_now();
        }
    }
}

impl Drop for Entrypoint {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// One that writes the configuration and goes on; then it is told to end.
fn once(words: &[&str]) -> String {
    fs::remove_file(Path::new(CONF_DIR).join(OURS)).ok();
    let entrypoint = Entrypoint::start(&[&MANIFEST, words].concat());
    until("the configuration is there", || Path::new(CONF_DIR).join(OURS).exists());
    let (code, said) = entrypoint.stop();
    assert_eq!(code, Some(0), "{said}");
    said
}

fn manifest() {
    let _node = node();
    put("10-calico.conflist", "calico", "1.0.0");
    let entrypoint = Entrypoint::start(&MANIFEST);
    until("it follows the default network", || default_network() == "calico");
    let (whole, plugin) = (read(OURS), plugin());
    assert_eq!((&whole["cniVersion"], &plugin["type"]), (&json!("1.0.0"), &json!("plexus-cni")));
    assert_eq!(plugin["kubeconfig"], "/etc/cni/net.d/multus.d/multus.kubeconfig", "as the node sees it");
    assert_eq!(plugin["daemonSocketDir"], "", "there is no daemon");
    let kubeconfig = read(KUBECONFIG);
    assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], "https://10.96.0.1:443");
    assert_eq!(kubeconfig["users"][0]["user"]["token"], "token-one");
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&format!("{CONF_DIR}/{KUBECONFIG}")), 0o600);
    for name in ["plexus", "plexus-cni"] {
        let path = format!("{BIN_DIR}/{name}");
        assert_eq!((fs::read_to_string(&path).unwrap(), mode(&path)), (name.to_owned(), 0o755));
    }
    // Without --cleanup-config-on-exit, too, it goes on looking.
    put("10-calico.conflist", "cilium", "1.0.0");
    until("a change is followed", || default_network() == "cilium");
    fs::remove_file(Path::new(CONF_DIR).join(OURS)).unwrap();
    until("it is put back", || default_network() == "cilium");
    let (code, said) = entrypoint.stop();
    assert_eq!((code, default_network()), (Some(0), json!("cilium")), "it stays: {said}");
    assert!(!said.contains("--"), "nothing is warned of: {said}");
}

fn renewed() {
    let _node = node();
    put("10-calico.conflist", "calico", "1.0.0");
    let entrypoint = Entrypoint::start(&[&MANIFEST[..], &["--skip-tls-verify"]].concat());
    until("the configuration is there", || default_network() == "calico");
    assert_eq!(read(KUBECONFIG)["clusters"][0]["cluster"]["insecure-skip-tls-verify"], true);
    entrypoint.account("token", "token-two");
    // Something happens in the folder: it does not wait for its timer.
    put("20-other.conflist", "other", "1.0.0");
    until("the token is that of now", || read(KUBECONFIG)["users"][0]["user"]["token"] == "token-two");
    assert_eq!(entrypoint.stop().0, Some(0));
}

fn written() {
    let bed = node();
    let conf = json!({"cniVersion": "0.3.1", "name": "mine", "type": "multus", "kubeconfig": "/etc/mine",
        "delegates": [{"cniVersion": "0.3.1", "name": "own", "type": "bridge"}]});
    let file = bed.file("multus-conf/70-multus.conf", &conf.to_string());
    let words = [&MANIFEST[1..], &["--multus-conf-file", file.to_str().unwrap(), "--override-network-name"]].concat();
    let entrypoint = Entrypoint::start(&words);
    let ours = || read("00-0-plexus.conf");
    until("the configuration is there", || ours()["type"] == "plexus-cni");
    assert_eq!((&ours()["name"], &ours()["kubeconfig"]), (&json!("mine"), &json!("/etc/mine")));
    fs::write(&file, conf.to_string().replace("\"own\"", "\"changed\"")).unwrap();
    put("20-other.conflist", "other", "1.0.0");
    until("it is followed", || ours()["delegates"][0]["name"] == "changed");
    let (code, said) = entrypoint.stop();
    assert_eq!(code, Some(0));
    for flag in ["--override-network-name: ", "--multus-autoconfig-dir: "] {
        assert!(said.contains(flag) && said.contains("names /run/scratch/multus-conf/70-multus.conf"), "{said}");
    }
    fs::remove_file(format!("{CONF_DIR}/00-0-plexus.conf")).unwrap();
    for broken in ["{", r#"{"name": "x", "type": "bridge"}"#] {
        fs::write(&file, broken).unwrap();
        let (code, said) = Entrypoint::start(&words).ended();
        assert!(code == Some(1) && said.contains("70-multus.conf"), "{code:?} {said}");
        assert!(!names().iter().any(|name| name.contains("plexus")), "{:?}", names());
    }
}

fn cleanup() {
    let _node = node();
    put("10-calico.conflist", "calico", "1.0.0");
    let said = once(&["--cleanup-config-on-exit=true"]);
    assert!(said.contains("pods get their default network alone"), "{said}");
    assert_eq!(names(), ["10-calico.conflist", KUBECONFIG], "what deletes pods goes on reaching the API server");
    once(&["--cleanup-config-on-exit=false"]);
    assert!(names().contains(&OURS.to_owned()));
}

fn renamed() {
    let _node = node();
    put("10-calico.conflist", "calico", "1.0.0");
    let said = once(&["--rename-conf-file=true", "--skip-config-watch"]);
    assert!(names().contains(&"10-calico.conflist".to_owned()), "{:?}", names());
    for flag in ["--rename-conf-file: ", "--skip-config-watch: "] {
        assert_eq!(said.lines().filter(|line| line.contains(flag)).count(), 1, "{said}");
    }
    // As Multus leaves a node.
    fs::rename(format!("{CONF_DIR}/10-calico.conflist"), format!("{CONF_DIR}/10-calico.conflist.old")).unwrap();
    once(&["--rename-conf-file=true"]);
    assert_eq!(default_network(), "calico");
}

fn version() {
    let _node = node();
    put("10-calico.conflist", "calico", "0.4.0");
    let (code, said) = Entrypoint::start(&[&MANIFEST[..], &["--cni-version=1.0.0"]].concat()).ended();
    assert_eq!(code, Some(1), "{said}");
    for part in ["--cni-version", "1.0.0", "0.4.0", "10-calico.conflist"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(names(), ["10-calico.conflist", KUBECONFIG]);
    once(&["--cni-version", "0.4.0"]);
    assert_eq!(read(OURS)["cniVersion"], "0.4.0");
    once(&["--cni-version", "1.0.0", "--force-cni-version"]);
    assert_eq!(
        (&read(OURS)["cniVersion"], &plugin()["delegates"][0]["cniVersion"]),
        (&json!("1.0.0"), &json!("1.0.0"))
    );
    assert_eq!(read("10-calico.conflist")["cniVersion"], "0.4.0", "its own file is not touched");
}

fn keys() {
    let _node = node();
    put("10-calico.conflist", "calico", "1.0.0");
    let words = "--readiness-indicator-file=/run/ready --additional-bin-dir /opt/more/bin --namespace-isolation=true \
        --global-namespaces default,kube-system --multus-log-level=verbose --multus-log-file /var/log/multus.log \
        --multus-log-to-stderr=false --multus-cni-conf-dir=/host/etc/cni/multus/other \
        --multus-kubeconfig-file-host=/var/lib/rancher/k3s/agent/etc/cni/net.d/multus.d/multus.kubeconfig";
    let said = once(&words.split_whitespace().collect::<Vec<_>>());
    let plugin = plugin();
    for (key, value) in [
        ("readinessindicatorfile", json!("/run/ready")),
        ("binDir", json!("/opt/more/bin")),
        ("namespaceIsolation", json!(true)),
        ("globalNamespaces", json!("default,kube-system")),
        ("logLevel", json!("verbose")),
        ("logFile", json!("/var/log/multus.log")),
        ("logToStderr", json!(false)),
        ("confDir", json!("/etc/cni/multus/other")),
        ("kubeconfig", json!("/var/lib/rancher/k3s/agent/etc/cni/net.d/multus.d/multus.kubeconfig")),
    ] {
        assert_eq!(plugin[key], value, "{key}");
    }
    assert_eq!(read(KUBECONFIG)["users"][0]["user"]["token"], "token-one", "as the container sees it");
    assert!(!said.contains("--"), "nothing is warned of: {said}");
    // An empty value is none.
    once(&["--readiness-indicator-file=", "--additional-bin-dir=", "--global-namespaces", "", "--multus-log-level="]);
    let empty = ["readinessindicatorfile", "binDir", "globalNamespaces", "logLevel"];
    until("they are gone", || empty.iter().all(|key| self::plugin().get(key).is_none()));
}

fn named() {
    let _node = node();
    put("05-first.conflist", "first", "1.0.0");
    put("10-calico.conflist", "calico", "1.0.0");
    once(&["--multus-master-cni-file-name=10-calico.conflist", "--override-network-name=true"]);
    assert_eq!((default_network(), &read(OURS)["name"]), (json!("calico"), &json!("calico")));
}

fn programs() {
    let _node = node();
    put("10-calico.conflist", "calico", "1.0.0");
    once(&["--skip-multus-binary-copy"]);
    assert!(files_below(Path::new(BIN_DIR)).is_empty());
    fs::remove_dir_all(BIN_DIR).unwrap();
    once(&["--skip-multus-binary-copy=true"]);
    let (code, said) = Entrypoint::start(&MANIFEST).ended();
    assert!(code == Some(1) && said.contains(BIN_DIR), "{code:?} {said}");
}

fn refused() {
    let _node = node();
    put("10-calico.conflist", "calico", "1.0.0");
    for (words, code, part) in [
        (&["--frobnicate=true"][..], 2, "'--frobnicate'"),
        (&["--namespace-isolation=perhaps"], 2, "it is true or false"),
        (&["--cni-version"], 2, "--cni-version"),
        (&["--multus-log-level=loud"], 1, "there is no level \"loud\""),
        (&["--cni-version=one"], 1, "\"one\" is no version"),
        (&["--cni-conf-dir=/run/nowhere"], 1, "/run/nowhere is no folder"),
        (&["--multus-conf-file=/run/nowhere.conf"], 1, "/run/nowhere.conf"),
        (&["--multus-master-cni-file-name=../x"], 1, "is no file's name"),
    ] {
        // The flag that is wrong comes last.
        let words = [&PROGRAMS, &MANIFEST[..1], &MANIFEST[2..], words].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        command.arg("thin-entrypoint").args(words);
        command.env("KUBERNETES_SERVICE_HOST", "10.96.0.1").env("KUBERNETES_SERVICE_PORT", "443");
        let (ended, said) = Entrypoint::launch(command).ended();
        let reason = said.lines().filter(|line| line.contains(part)).count();
        assert_eq!((ended, reason, said.lines().count()), (Some(code), 1, 1), "{part}: {said}");
        assert!(!names().iter().any(|name| name.contains("plexus")), "{part}: {:?}", names());
    }
    // Not in a pod: nobody could be asked by what would be written.
    let output = Command::new("/run/scratch/thin_entrypoint").args(MANIFEST).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("KUBERNETES_SERVICE_HOST"), "{}", text(&output.stderr));
    let help = Command::new("/run/scratch/thin_entrypoint").arg("--help").output().unwrap();
    assert!(help.status.success() && text(&help.stdout).contains("--multus-conf-file"));
}

/// A node whose pods Multus attached until now: its file stays, plexus' is read before it; and the way back.
fn beside_multus() {
    let _node = node();
    put("10-calico.conflist", "calico", "1.0.0");
    let multus = json!({"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus", "cniDir": "/run/scratch/cni",
        "delegates": [{"cniVersion": "1.0.0", "name": "calico", "plugins": [{"type": "bridge"}]}]});
    fs::write(format!("{CONF_DIR}/00-multus.conf"), multus.to_string()).unwrap();
    fs::write(format!("{BIN_DIR}/multus"), "multus").unwrap();
    once(&[]);
    assert_eq!(default_network(), "calico");
    assert_eq!(names(), [OURS, "00-multus.conf", "10-calico.conflist", KUBECONFIG], "a runtime takes the first");
    let output = plexus(&["install", "--to-multus", "--conf-dir", CONF_DIR, "--bin-dir", BIN_DIR]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(names(), ["00-multus.conf", "10-calico.conflist", KUBECONFIG]);
    assert_eq!(read("00-multus.conf"), multus);
}

/// Its initContainer has the same image.
fn init_container() {
    let _node = node();
    // As in the image: a link to plexus, and plexus-cni beside that.
    symlink(env!("CARGO_BIN_EXE_plexus"), "/run/scratch/install_multus").unwrap();
    let install = |words: &[&str]| {
        let output = Command::new("/run/scratch/install_multus").args(words).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    assert_eq!(install(&["--type", "thin", "-d", BIN_DIR]), (Some(0), String::new()));
    for (name, program) in [("plexus", env!("CARGO_BIN_EXE_plexus")), ("plexus-cni", env!("CARGO_BIN_EXE_plexus-cni"))]
    {
        let length = |path: &Path| fs::metadata(path).unwrap().len();
        assert_eq!(length(&Path::new(BIN_DIR).join(name)), length(Path::new(program)), "{name}");
    }
    for (words, code, part) in [
        (&["-d", BIN_DIR][..], 2, "--type"),
        (&["--type=medium"], 2, "medium"),
        (&["-t", "thick", "--dest-dir=/run/nowhere"], 1, "/run/nowhere"),
    ] {
        let (ended, said) = install(words);
        assert!(ended == Some(code) && said.contains(part) && said.lines().count() == 1, "{words:?}: {ended:?} {said}");
    }
}

/// `--flag`, and what stands after it is no value; the last of several holds; 1, t and T are true.
fn truth() {
    let _node = node();
    put("10-calico.conflist", "calico", "1.0.0");
    let said = once(&["--namespace-isolation", "false", "--override-network-name=T", "--override-network-name=0"]);
    assert_eq!((&plugin()["namespaceIsolation"], &read(OURS)["name"]), (&json!(true), &json!("plexus")));
    assert!(said.contains("\"false\": it is no flag's value"), "{said}");
}
