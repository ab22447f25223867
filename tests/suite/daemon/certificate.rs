//! A node with a client certificate of its own: asked for, used, renewed. The case approves and signs, as a cluster's controllers
//! would; who the daemon is, the real API server says.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use super::{DIR, Daemon, until, until_within};
use crate::api::{Member, NETWORKS};
use crate::case::Case;
use crate::kube::{Cluster, Door, Fault, Login};
use crate::multus::programs;
use crate::need::Need;
use crate::process;
use crate::testbed::Testbed;

const ROLES: &str = include_str!("../../../deployments/certificates.yaml");
const SIGN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/k8s/sign");
const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/k8s/certificates");
pub(super) const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// Where the daemon keeps it.
const STORE: &str = "/run/scratch/certs";
pub(super) const CURRENT: &str = "/run/scratch/certs/multus-client-current.pem";
const CONFIG: &str = "/run/scratch/daemon-config.json";
/// The runtime's configurations.
const NET_D: &str = "/run/scratch/net.d";
/// The Go daemon's of the same, and what it wrote.
const MULTUS_D: &str = "/run/scratch/multus.d";
const MULTUS_LOG: &str = "/run/scratch/multus.log";
/// The kubelet's, which may ask for certificates and read no definition.
const KUBELET: &str = "node-token";
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// A daemon waits two minutes for a decision.
const DECISION_LIMIT: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(200);

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    let both = &[Need::Macvlan, Need::ApiServer, Need::Multus];
    vec![
        Case::new("daemon::certificate_is_asked_for_used_and_renewed", needs, life),
        Case::new("daemon::certificate_that_is_denied_is_asked_for_again", needs, denied),
        Case::new("daemon::certificate_that_is_broken_or_of_strangers_is_replaced", needs, useless),
        Case::new("daemon::certificate_that_multus_left_is_used", needs, inherited),
        Case::new("daemon::certificate_whose_login_may_not_ask_is_asked_for_by_the_other", needs, forbidden),
        Case::new("daemon::certificate_that_nobody_signs_in_time_is_still_waited_for", needs, undecided),
        Case::new("daemon::certificate_serves_a_node_whose_daemon_serves_no_request", needs, thin),
        Case::new("daemon::certificate_changes_hands_with_the_go_multus", both, handed),
        Case::new("daemon::certificate_without_a_login_is_no_start", &[], unconfigured),
    ]
}

/// A node whose daemon is to have a certificate.
pub(super) struct Node {
    pub(super) member: Member,
    /// Who decides about requests decides about all of the server's.
    _turn: Flock<File>,
}

impl Node {
    fn new() -> Node {
        Node::among(FlockArg::LockShared, |_| Login::Token(KUBELET.to_owned()))
    }

    /// While no other case has requests; its kubelet has its name, too.
    pub(super) fn alone() -> Node {
        Node::among(FlockArg::LockExclusive, |cluster| {
            let [key, certificate] = ["kubelet.key", "kubelet.crt"].map(|name| Path::new("/run/scratch").join(name));
            openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key.to_str().unwrap()], b"");
            let subject = format!("/O=system:nodes/CN=system:node:{}", cluster.namespace());
            let request = openssl(&["req", "-new", "-key", key.to_str().unwrap(), "-subj", &subject], b"");
            fs::write(&certificate, sign(&cluster.file(""), "1 hour ago", "5 hours", request.as_bytes())).unwrap();
            Login::Files(certificate, key)
        })
    }

    fn among(others: FlockArg, kubelet: fn(&Cluster) -> Login) -> Node {
        let mut member = Member::new();
        let cluster = &member.cluster;
        let turn = File::options().create(true).append(true).open(cluster.file("requests.lock")).unwrap();
        let turn = Flock::lock(turn, others).unwrap();
        for object in plexus::yaml::documents(ROLES).unwrap() {
            let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
            let made = cluster.ask(
                "POST",
                &format!("/apis/rbac.authorization.k8s.io/v1/{plural}"),
                Some(("application/json", &object)),
            );
            // Another case may have been here.
            assert!([201, 409].contains(&made.0), "{made:?}");
        }
        cluster.door(Door::Through);
        let bootstrap = cluster.kubeconfig(&member.node.bed, &kubelet(cluster));
        fs::create_dir_all(NET_D).unwrap();
        let network =
            json!({"cniVersion": "1.0.0", "name": "cluster", "plugins": [{"type": "bridge", "bridge": "cni0"}]});
        fs::write(format!("{NET_D}/10-cluster.conflist"), network.to_string()).unwrap();
        let config = json!({"cniConfigDir": NET_D, "logLevel": "verbose", "logToStderr": true,
            "perNodeCertificate": {"enabled": true, "bootstrapKubeconfig": bootstrap, "certDir": STORE,
                "certDuration": "30m"}});
        fs::write(CONFIG, config.to_string()).unwrap();
        let conf = member.node.conf.as_object_mut().unwrap();
        conf.insert("kubeconfig".to_owned(), json!(format!("{STORE}/plexus.kubeconfig")));
        conf.insert("daemonSocketDir".to_owned(), json!(DIR));
        conf.insert("fallback".to_owned(), json!("fail"));
        Node { member, _turn: turn }
    }

    /// A name that no other case's node has.
    pub(super) fn name(&self) -> &str {
        self.member.cluster.namespace()
    }

    pub(super) fn user(&self) -> String {
        format!("system:multus:{}", self.name())
    }

    pub(super) fn start(&self) -> Daemon {
        Daemon::start_on(self.name(), &["--config", CONFIG])
    }

    /// All requests for this node's certificate, the first one first.
    pub(super) fn requests(&self) -> Vec<Value> {
        let list = self.member.cluster.get(REQUESTS);
        let subject = format!("CN={},O=system:multus", self.user());
        let is_own = |request: &&Value| subject_of(request) == subject;
        let mut own: Vec<Value> = list["items"].as_array().unwrap().iter().filter(is_own).cloned().collect();
        let version = |request: &Value| request["metadata"]["creationTimestamp"].as_str().unwrap().to_owned();
        own.sort_by_key(version);
        own
    }

    /// Waits for so many requests; the last one that nobody has decided about.
    fn request(&self, number: usize) -> Value {
        let mut found = Vec::new();
        until("the request", || {
            found = self.requests();
            found.len() >= number
        });
        assert_eq!(found.len(), number, "{found:?}");
        found.retain(|request| request["status"].get("conditions").is_none());
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    fn decide(&self, request: &Value, condition: &str) {
        let mut decided = request.clone();
        decided["status"]["conditions"] = json!([{"type": condition, "status": "True", "reason": "Tests",
            "message": "as the case wants it"}]);
        self.put(&decided, "approval");
    }

    fn put(&self, request: &Value, part: &str) {
        let path = format!("{REQUESTS}/{}/{part}", request["metadata"]["name"].as_str().unwrap());
        let (code, answer) = self.member.cluster.ask("PUT", &path, Some(("application/json", request)));
        assert_eq!(code, 200, "{answer}");
    }

    /// As an approver and the signer do it: valid from now on, until `end`.
    fn sign(&self, request: &Value, end: &str) {
        self.decide(request, "Approved");
        self.issue(request, end);
    }

    /// As the signer does it, of what is approved.
    pub(super) fn issue(&self, request: &Value, end: &str) {
        let path = format!("{REQUESTS}/{}", request["metadata"]["name"].as_str().unwrap());
        let mut approved = self.member.cluster.get(&path);
        let folder = self.member.cluster.file("");
        let signed = sign(&folder, "now", end, &text(request));
        approved["status"]["certificate"] = json!(BASE64.encode(signed));
        self.put(&approved, "status");
    }

    /// A pod that reads definitions and has its status written, which the kubelet's login may not.
    pub(super) fn attach(&self, name: &str) {
        let pod = json!({"metadata": {"name": name, "annotations": {NETWORKS: "blue,green"}},
            "spec": {"nodeName": self.name()}});
        self.member.node.bed.pod(name);
        let uid = self.member.cluster.create_pod(&pod);
        self.member.call("ADD", name, &uid).run().ok();
        until("the status", || self.member.cluster.network_status(name)[2]["interface"] == "net2");
        self.member.del(name, &uid);
    }
}

/// The text of a request in PEM.
fn text(request: &Value) -> Vec<u8> {
    BASE64.decode(request["spec"]["request"].as_str().unwrap()).unwrap()
}

pub(super) fn openssl(words: &[&str], stdin: &[u8]) -> String {
    let mut command = Command::new("openssl");
    let ended = process::run(command.args(words), stdin, LIMIT);
    assert!(ended.status.success(), "{words:?}: {}", ended.stderr);
    ended.stdout
}

fn subject_of(request: &Value) -> String {
    let shown = openssl(&["req", "-noout", "-verify", "-subject", "-nameopt", "RFC2253"], &text(request));
    shown.trim().trim_start_matches("subject=").to_owned()
}

fn sign(authority: &Path, begin: &str, end: &str, request: &[u8]) -> String {
    let mut command = Command::new(SIGN);
    let ended = process::run(command.arg(authority).args([begin, end]), request, LIMIT);
    assert!(ended.status.success(), "{}", ended.stderr);
    ended.stdout
}

/// A pair as Multus leaves it, signed by the authority in this folder: a key in the older form, a link by its whole path.
fn leave(authority: &Path, user: &str) {
    leave_between(authority, user, ["1 hour ago", "5 hours"]);
}

fn leave_between(authority: &Path, user: &str, [begin, end]: [&str; 2]) {
    fs::create_dir_all(STORE).unwrap();
    let key = openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout"], b"");
    assert!(key.contains("BEGIN EC PRIVATE KEY"), "{key}");
    fs::write("/run/scratch/left.key", &key).unwrap();
    let subject = format!("/O=system:multus/CN={user}");
    let request = openssl(&["req", "-new", "-key", "/run/scratch/left.key", "-subj", &subject], b"");
    let signed = sign(authority, begin, end, request.as_bytes());
    let path = format!("{STORE}/multus-client-2026-01-31-12-00-00.pem");
    fs::write(&path, signed + &key).unwrap();
    fs::remove_file(CURRENT).ok();
    symlink(&path, CURRENT).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The certificate that is used, as text.
pub(super) fn serial() -> Option<String> {
    let bytes = fs::read(CURRENT).ok()?;
    Some(openssl(&["x509", "-noout", "-serial", "-enddate"], &bytes))
}

fn life() {
    let node = Node::new();
    let daemon = node.start();
    let first = node.request(1);
    let spec = &first["spec"];
    assert_eq!(spec["signerName"], "kubernetes.io/kube-apiserver-client");
    assert_eq!(spec["usages"], json!(["digital signature", "client auth"]));
    assert_eq!(spec["expirationSeconds"], 1800);
    assert_eq!(spec["username"], "system:node:node");
    node.sign(&first, "20 seconds");
    until("the certificate is kept", || Path::new(CURRENT).exists());
    let target = fs::read_link(CURRENT).unwrap();
    let name = target.to_str().unwrap();
    assert!(name.starts_with("multus-client-2") && !name.contains('/'), "{name}");
    for file in ["multus-client-current.pem", "plexus.kubeconfig"] {
        assert_eq!(mode(&Path::new(STORE).join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(Path::new(STORE)), 0o700);
    let before = serial();
    node.attach("a");
    // It is asked for with the certificate itself.
    let second = node.request(2);
    assert_eq!(second["spec"]["username"], json!(node.user()));
    assert!(second["spec"]["groups"].as_array().unwrap().contains(&json!("system:multus")));
    assert_ne!(second["spec"]["request"], first["spec"]["request"], "a key of its own");
    node.sign(&second, "2 hours");
    until("it is renewed", || serial() != before);
    node.attach("b");
    let is_over = |text: &Option<String>| {
        let end = text.as_deref().and_then(|text| text.split("notAfter=").nth(1)).unwrap().trim().to_owned();
        let ended = process::run(Command::new("date").args(["+%s", "-d", &end]), b"", LIMIT);
        let end: u64 = ended.stdout.trim().parse().unwrap();
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() > end
    };
    until("the first one is over", || is_over(&before));
    node.attach("c");
    // The same request from the node itself, while the daemon is away: by the same file.
    assert_eq!(node.requests().len(), 2);
    daemon.stop();
    let written = fs::read_dir(NET_D).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let kubeconfig = format!("{STORE}/plexus.kubeconfig");
    assert!(written.into_iter().any(|text| text.contains(&kubeconfig)), "the node's configuration names it");
    let mut node = node;
    node.member.node.conf["fallback"] = json!("oneshot");
    node.attach("d");
}

/// What Multus' kubeconfig_generator does for the thin one: the daemon keeps certificate and kubeconfig, and plexus-cni serves by what the
/// node's configuration says then.
fn thin() {
    let mut node = Node::new();
    let mut config: Value = serde_json::from_slice(&fs::read(CONFIG).unwrap()).unwrap();
    config["daemonSocketDir"] = json!("");
    fs::write(CONFIG, config.to_string()).unwrap();
    let daemon = node.start();
    node.sign(&node.request(1), "2 hours");
    until("the certificate is kept", || Path::new(CURRENT).exists());
    let mut written = Value::Null;
    until("the node's configuration is written", || {
        let files = fs::read_dir(NET_D).unwrap().map(|entry| entry.unwrap().path());
        let mut own = files.filter(|path| path.to_string_lossy().contains("plexus.conf"));
        written = own.next().map_or(Value::Null, |path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap());
        !written.is_null()
    });
    let plugin = &written["plugins"][0];
    for key in ["kubeconfig", "daemonSocketDir"] {
        node.member.node.conf[key] = plugin[key].clone();
    }
    assert_eq!(node.member.node.conf["daemonSocketDir"], "");
    node.attach("a");
    daemon.stop();
    node.attach("b");
}

fn denied() {
    let node = Node::new();
    let daemon = node.start();
    let first = node.request(1);
    // Until there is one, a pod does not start without its networks.
    let uid =
        node.member.cluster.create_pod(&json!({"metadata": {"name": "early"}, "spec": {"nodeName": node.name()}}));
    node.member.node.bed.pod("early");
    node.member.call("ADD", "early", &uid).run().fails(11, "multus-client-current.pem");
    node.decide(&first, "Denied");
    until("it is said", || {
        let said = daemon.said();
        said.contains("was denied (Tests: as the case wants it)") && said.contains("the next attempt is in")
    });
    let second = node.request(2);
    assert_ne!(second["spec"]["request"], first["spec"]["request"]);
    node.sign(&second, "2 hours");
    until("the certificate is kept", || Path::new(CURRENT).exists());
    node.attach("a");
    daemon.stop();
}

fn useless() {
    let node = Node::new();
    fs::create_dir_all(STORE).unwrap();
    fs::write(CURRENT, "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    let daemon = node.start();
    let first = node.request(1);
    let said = daemon.said();
    assert!(said.contains("multus-client-current.pem"), "{said}");
    node.sign(&first, "2 hours");
    until("it is replaced", || fs::symlink_metadata(CURRENT).unwrap().is_symlink());
    node.attach("a");
    daemon.stop();
    // The same name, and an authority that this server does not know.
    let strangers = PathBuf::from("/run/scratch/strangers");
    assert!(Command::new(CERTIFICATES).arg(&strangers).status().unwrap().success());
    leave(&strangers, &node.user());
    let before = serial();
    let daemon = node.start();
    let second = node.request(2);
    assert_eq!(second["spec"]["username"], "system:node:node", "by the bootstrap login");
    node.sign(&second, "2 hours");
    until("it is replaced", || serial() != before);
    node.attach("b");
    daemon.stop();
}

fn inherited() {
    let node = Node::new();
    leave(&node.member.cluster.file(""), &node.user());
    let before = serial();
    let daemon = node.start();
    until("the kubeconfig is written", || Path::new(STORE).join("plexus.kubeconfig").exists());
    node.attach("a");
    assert_eq!((node.requests().len(), serial()), (0, before));
    daemon.stop();
}

/// The certificate is to be renewed, and who has it may not ask for another (403): the bootstrap login is heard then.
fn forbidden() {
    let node = Node::new();
    let cluster = &node.member.cluster;
    // Here the front is in between, which knows no certificate of this node: the real server takes who shows it for a stranger.
    cluster.door(Door::Open);
    cluster.fail("GET", "/api", 1, Fault::Answer(200, "{}".to_owned()));
    leave_between(&cluster.file(""), &node.user(), ["9 hours ago", "10 minutes"]);
    let before = serial();
    cluster.seen();
    let daemon = node.start();
    let first = node.request(1);
    assert_eq!(first["spec"]["username"], "system:node:node", "by the bootstrap login");
    assert_eq!(cluster.count("POST", REQUESTS), 2, "the node's own is tried first");
    node.sign(&first, "2 hours");
    until("it is replaced", || serial() != before);
    cluster.door(Door::Through);
    node.attach("a");
    daemon.stop();
}

/// An approver that is away for longer than is waited for at once: that is said, and it is the same request afterwards.
fn undecided() {
    let node = Node::new();
    let daemon = node.start();
    let first = node.request(1);
    until_within("it is said", DECISION_LIMIT, || {
        thread::park_timeout(LOOK);
        let said = daemon.said();
        said.contains("is not approved and signed within 120 s") && said.contains("it is still waited for")
    });
    node.sign(&node.request(1), "2 hours");
    until("the certificate is kept", || Path::new(CURRENT).exists());
    let all = node.requests();
    assert_eq!((all.len(), &all[0]["metadata"]["uid"]), (1, &first["metadata"]["uid"]));
    node.attach("a");
    daemon.stop();
}

/// The Go daemon, which has started when it has written the runtime's configuration: by then it has listed pods and definitions with
/// the node's certificate. It is killed afterwards.
fn multus(node: &Node, meanwhile: impl FnOnce()) {
    let own: Value = serde_json::from_slice(&fs::read(CONFIG).unwrap()).unwrap();
    let config = json!({"socketDir": "/run/multus/", "daemonSocketDir": "/run/multus/", "cniConfigDir": MULTUS_D,
        "multusConfigFile": "auto", "multusAutoconfigDir": NET_D, "multusMasterCNI": "10-cluster.conflist",
        "cniVersion": "1.0.0", "logToStderr": true, "logLevel": "verbose",
        "perNodeCertificate": own["perNodeCertificate"]});
    let file = node.member.node.bed.file("multus-daemon-config.json", &config.to_string());
    drop(fs::remove_dir_all(MULTUS_D));
    for folder in [MULTUS_D, "/run/multus"] {
        fs::create_dir_all(folder).unwrap();
    }
    let log = File::create(MULTUS_LOG).unwrap();
    let mut command = Command::new(programs().unwrap().join("multus-daemon"));
    command.arg("-config").arg(file).env_clear().env("MULTUS_NODE_NAME", node.name());
    command.envs(node.member.cluster.service_account("nobody-token")).stdin(Stdio::null());
    let mut daemon = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    meanwhile();
    let written = Path::new(MULTUS_D).join("00-multus.conf");
    until("the Go daemon is there", || {
        let said = || fs::read_to_string(MULTUS_LOG).unwrap();
        assert!(daemon.try_wait().unwrap().is_none(), "it has ended: {}", said());
        written.exists()
    });
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

fn handed() {
    let node = Node::new();
    multus(&node, || node.sign(&node.request(1), "2 hours"));
    let before = serial();
    assert!(before.is_some());
    let daemon = node.start();
    until("the kubeconfig is written", || Path::new(STORE).join("plexus.kubeconfig").exists());
    node.attach("a");
    daemon.stop();
    assert_eq!((node.requests().len(), serial()), (1, before.clone()));
    // And the other way.
    for file in fs::read_dir(STORE).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let daemon = node.start();
    node.sign(&node.request(2), "2 hours");
    until("the certificate is kept", || Path::new(CURRENT).exists());
    daemon.stop();
    let own = serial();
    assert_ne!(own, before);
    multus(&node, || ());
    assert_eq!((node.requests().len(), serial()), (2, own));
}

fn unconfigured() {
    let _bed = Testbed::new();
    for (certificate, part) in [
        (json!({"enabled": true}), "perNodeCertificate.bootstrapKubeconfig is not given"),
        (json!({"enabled": true, "bootstrapKubeconfig": "/b"}), "perNodeCertificate.certDir is not given"),
        (json!({"enabled": true, "bootstrapKubeconfig": "/b", "certDir": "/c"}), "MULTUS_NODE_NAME"),
        (json!({"enabled": true, "certDuration": "5m"}), "certDuration"),
    ] {
        fs::write(CONFIG, json!({"perNodeCertificate": certificate}).to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        command.args(["daemon", "--config", CONFIG]).env_clear();
        let ended = process::run(&mut command, b"", LIMIT);
        assert!(!ended.status.success() && !ended.killed && ended.stderr.contains(part), "{ended:?}");
    }
}
