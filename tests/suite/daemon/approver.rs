//! `plexus cert-approver` on the real API server, by the service account of its manifest, with requests of real keys from whoever asks. Who
//! asks is what the server says, to whom `kubectl --as` speaks for others. The case signs what is approved, as a cluster's controllers would.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::certificate::{CURRENT, LIMIT, Node, REQUESTS, openssl, serial};
use super::until;
use crate::case::Case;
use crate::kube::{Cluster, Door, Fault, Login, login, server};
use crate::need::Need;
use crate::own_node::{applied, token_of};
use crate::process;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/cert-approver.yaml");
const ACCOUNT: &str = "plexus-cert-approver";
const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const KEY: &str = "/run/scratch/asked.key";
/// Who asks.
const ASKERS: [&str; 5] =
    ["system:node:NODE", "system:multus:NODE", "system:node:other", "system:node:NODE_1", "somebody"];
/// A request is sent so often, and given up then.
const TRIES: usize = 5;
/// Requests at once.
const MANY: usize = 500;

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("daemon::approver_lets_a_node_have_its_certificate_and_renew_it", needs, life),
        Case::new("daemon::approver_denies_what_only_looks_like_a_nodes", needs, rules),
        Case::new("daemon::d32_a_denial_takes_effect", needs, denial),
        Case::new("daemon::approver_leaves_what_is_not_its_own_to_others", needs, others),
        Case::new("daemon::approver_that_is_killed_goes_on_where_it_was", needs, killed),
        Case::new("daemon::approver_tries_again_and_reads_what_others_wrote", needs, again),
        Case::new("daemon::approver_decides_about_hundreds_at_once", needs, many),
        Case::new("daemon::approver_may_approve_for_its_signer_alone", needs, rights),
        Case::new("daemon::approver_is_a_pod_without_rights_on_its_node", &[], modest),
    ]
}

/// A cluster with the objects of the manifest.
struct Ground {
    node: Node,
    token: String,
}

impl Ground {
    fn new() -> Ground {
        let node = Node::alone();
        let cluster = &node.member.cluster;
        applied(cluster, &[MANIFEST]);
        // Whether they may ask is not what is looked at here.
        let name = format!("asks-{}", cluster.namespace());
        let users = ASKERS.map(|user| {
            let user = user.replace("NODE", cluster.namespace());
            json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user})
        });
        let role = json!({"metadata": {"name": name},
            "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"], "verbs": ["create"]}]});
        cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role);
        let binding = json!({"metadata": {"name": name}, "subjects": users,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}});
        cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding);
        openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", KEY], b"");
        let token = token_of(cluster, ACCOUNT, None);
        Ground { node, token }
    }

    fn cluster(&self) -> &Arc<Cluster> {
        &self.node.member.cluster
    }

    fn start(&self) -> Approver {
        Approver::start(self.cluster(), &self.token)
    }

    /// Sends one; its name.
    fn ask(&self, asked: &Asked) -> String {
        let (cluster, name) = (self.cluster(), format!("{}-{}", asked.name, self.node.name()));
        let subject = asked.subject.replace("NODE", self.node.name());
        let extension = if asked.extension.is_empty() { vec![] } else { vec!["-addext", asked.extension] };
        let pem = openssl(&[&["req", "-new", "-key", KEY, "-subj", &subject], extension.as_slice()].concat(), b"");
        let pem = format!("{}{pem}", asked.before);
        let mut spec = json!({"request": BASE64.encode(pem), "signerName": asked.signer, "usages": asked.usages});
        if let Some(seconds) = asked.seconds {
            spec["expirationSeconds"] = json!(seconds);
        }
        let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name}, "spec": spec});
        let user = asked.user.replace("NODE", self.node.name());
        let mut command = Command::new(server::programs().unwrap().join("kubectl"));
        command.env_clear().env("HOME", "/run/scratch").arg("--kubeconfig").arg(self.admin());
        command.args(["create", "--as", &user, "-f", "-"]);
        command.args(asked.groups.iter().flat_map(|group| ["--as-group", group]));
        // A role is known to the server a moment later.
        let mut complaint = String::new();
        let is_made = (0..100).any(|_| {
            let ended = process::run(&mut command, object.to_string().as_bytes(), LIMIT);
            complaint = ended.stderr;
            ended.status.success()
        });
        assert!(is_made, "{complaint}");
        let made = cluster.get(&format!("{REQUESTS}/{}", escaped(&name)));
        assert_eq!(made["spec"]["username"], json!(user));
        name
    }

    /// The kubeconfig of who may speak for others.
    fn admin(&self) -> PathBuf {
        let (address, authority) = (self.cluster().address(), self.cluster().file("ca.crt"));
        let text = login::kubeconfig(&address, &authority, &Login::Token(login::ADMIN.to_owned()), "default");
        self.node.member.node.bed.file("admin.kubeconfig", &text)
    }

    fn conditions(&self, name: &str) -> Vec<Value> {
        let object = self.cluster().get(&format!("{REQUESTS}/{}", escaped(name)));
        assert_eq!(object["metadata"]["name"], json!(name));
        object["status"]["conditions"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until it is decided: how, and why.
    fn decided(&self, name: &str) -> (String, String, String) {
        let mut found = Vec::new();
        until("it is decided", || {
            found = self.conditions(name);
            !found.is_empty()
        });
        assert_eq!(found.len(), 1, "{found:?}");
        let text = |key: &str| found[0][key].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("status"), "True");
        (text("type"), text("reason"), text("message"))
    }

    #[track_caller]
    fn is_approved(&self, name: &str) {
        let (kind, reason, message) = self.decided(name);
        assert_eq!((kind.as_str(), reason.as_str()), ("Approved", "NodeCertificate"), "{message}");
    }

    fn decide(&self, name: &str, condition: &str) {
        let mut object = self.cluster().get(&format!("{REQUESTS}/{name}"));
        object["status"]["conditions"] =
            json!([{"type": condition, "status": "True", "reason": "Another", "message": ""}]);
        let path = format!("{REQUESTS}/{name}/approval");
        let (code, answer) = self.cluster().ask("PUT", &path, Some(("application/json", &object)));
        assert_eq!(code, 200, "{answer}");
    }
}

/// A request, as a node sends it unless it says otherwise.
#[derive(Clone)]
struct Asked {
    name: &'static str,
    user: &'static str,
    groups: &'static [&'static str],
    subject: &'static str,
    /// What else it asks for; empty: nothing.
    extension: &'static str,
    usages: &'static [&'static str],
    seconds: Option<u64>,
    signer: &'static str,
    /// What stands before the request in its text.
    before: &'static str,
}

const OWN: Asked = Asked {
    name: "own",
    user: "system:node:NODE",
    groups: &["system:nodes"],
    subject: "/O=system:multus/CN=system:multus:NODE",
    extension: "",
    usages: &["digital signature", "client auth"],
    seconds: Some(365 * 24 * 3600),
    signer: SIGNER,
    before: "",
};

/// As its pod runs it. It is killed when it is dropped; a failed case shows what it wrote.
struct Approver {
    child: Child,
    log: PathBuf,
}

impl Approver {
    fn start(cluster: &Cluster, token: &str) -> Approver {
        let number = fs::read_dir("/run/scratch").map_or(0, Iterator::count);
        let log = PathBuf::from(format!("/run/scratch/approver-{number}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        command.args(words(&container()["args"])).env_clear().envs(cluster.service_account(token)).current_dir("/");
        let stderr = File::create_new(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        Approver { child, log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// SIGTERM, and its end, which is a good one.
    fn stop(mut self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said());
    }
}

impl Drop for Approver {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            eprintln!("---- the approver wrote\n{}", self.said());
        }
    }
}

/// A name as a part of a path.
fn escaped(name: &str) -> String {
    name.replace('?', "%3F").replace(' ', "%20")
}

/// How the manifest runs it.
fn pod() -> Value {
    let objects = plexus::yaml::documents(&fs::read_to_string(MANIFEST).unwrap()).unwrap();
    let object = objects.into_iter().find(|object| object["kind"] == "Deployment").unwrap();
    assert_eq!(
        (&object["spec"]["replicas"], object["spec"]["template"]["spec"]["serviceAccountName"].as_str()),
        (&json!(1), Some(ACCOUNT))
    );
    object["spec"]["template"]["spec"].clone()
}

fn container() -> Value {
    pod()["containers"][0].clone()
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn modest() {
    let (pod, container) = (pod(), container());
    for absent in ["volumes", "hostPID", "hostIPC", "initContainers", "shareProcessNamespace"] {
        assert!(pod.get(absent).is_none(), "{absent}");
    }
    let (all, own) = (&pod["securityContext"], &container["securityContext"]);
    assert_eq!((&all["runAsNonRoot"], &all["seccompProfile"]["type"]), (&json!(true), &json!("RuntimeDefault")));
    assert_ne!(all["runAsUser"], 0);
    assert_eq!(own["capabilities"], json!({"drop": ["ALL"]}));
    for (key, value) in [("privileged", false), ("allowPrivilegeEscalation", false), ("readOnlyRootFilesystem", true)] {
        assert_eq!(own[key], value, "{key}");
    }
    assert!(container.get("ports").is_none() && container["resources"]["limits"]["memory"].is_string());
}

fn life() {
    let ground = Ground::new();
    let node = &ground.node;
    let approver = ground.start();
    let daemon = node.start();
    let nth = |number: usize| {
        until("the request", || node.requests().len() >= number);
        let request = node.requests().swap_remove(number - 1);
        ground.is_approved(request["metadata"]["name"].as_str().unwrap());
        request
    };
    let first = nth(1);
    assert_eq!(first["spec"]["username"], json!(format!("system:node:{}", node.name())));
    node.issue(&first, "20 seconds");
    until("the certificate is kept", || Path::new(CURRENT).exists());
    node.attach("a");
    let before = serial();
    let second = nth(2);
    assert_eq!(second["spec"]["username"], json!(node.user()), "by its own certificate");
    node.issue(&second, "2 hours");
    until("it is renewed", || serial() != before);
    node.attach("b");
    daemon.stop();
    approver.stop();
    assert_eq!(node.requests().len(), 2);
}

fn rules() {
    let ground = Ground::new();
    let approver = ground.start();
    let day = 24 * 3600;
    for (rule, asked) in [
        ("Requester", Asked { name: "requester", user: "somebody", groups: &[], ..OWN }),
        (
            "Requester",
            Asked {
                name: "organization-alone",
                user: "somebody",
                groups: &[],
                subject: "/O=system:multus/CN=x",
                ..OWN
            },
        ),
        ("NodeName", Asked { name: "node-name", user: "system:node:NODE_1", ..OWN }),
        ("Usages", Asked { name: "usages-less", usages: &["client auth"], ..OWN }),
        (
            "Usages",
            Asked { name: "usages-more", usages: &["client auth", "digital signature", "key encipherment"], ..OWN },
        ),
        ("Groups", Asked { name: "groups", groups: &["system:nodes", "system:bootstrappers"], ..OWN }),
        ("CommonName", Asked { name: "common-name", user: "system:node:other", ..OWN }),
        ("CommonName", Asked { name: "name-less", subject: "/O=system:multus", ..OWN }),
        ("CommonName", Asked { name: "names", subject: "/O=system:multus/CN=system:multus:NODE/CN=admin", ..OWN }),
        ("Organization", Asked { name: "organization-less", subject: "/CN=system:multus:NODE", ..OWN }),
        (
            "Organization",
            Asked { name: "organizations", subject: "/O=system:multus/O=plexus/CN=system:multus:NODE", ..OWN },
        ),
        ("Groups", Asked { name: "group-less", groups: &[], ..OWN }),
        ("Groups", Asked { name: "group-of-others", groups: &["system:multus"], ..OWN }),
        ("Subject", Asked { name: "parts", subject: "/O=system:multus/OU=plexus/CN=system:multus:NODE", ..OWN }),
        ("Attributes", Asked { name: "names-beside", extension: "subjectAltName=DNS:kubernetes.default.svc", ..OWN }),
        ("Attributes", Asked { name: "authority", extension: "basicConstraints=critical,CA:TRUE", ..OWN }),
        ("Expiration", Asked { name: "life-less", seconds: None, ..OWN }),
        ("Expiration", Asked { name: "life-long", seconds: Some(366 * day), ..OWN }),
        ("Requester", Asked { name: "..a?b=c d", user: "somebody", groups: &[], ..OWN }),
    ] {
        let name = ground.ask(&asked);
        let (kind, reason, message) = ground.decided(&name);
        assert_eq!((kind.as_str(), reason.as_str()), ("Denied", rule), "{name}: {message}");
        assert!(message.starts_with("plexus cert-approver: "), "{message}");
    }
    for asked in [
        OWN,
        Asked { name: "renewed", user: "system:multus:NODE", groups: &["system:multus"], ..OWN },
        Asked { name: "short", seconds: Some(600), ..OWN },
    ] {
        ground.is_approved(&ground.ask(&asked));
    }
    let said = approver.said();
    assert!(said.contains("(Groups)") && said.contains("approved the request"), "{said}");
    approver.stop();
}

/// What Multus' approver writes of a denial is not kept by the server, and the node waits in vain.
fn denial() {
    let ground = Ground::new();
    // To the approver it is another node's.
    let name = ground.ask(&Asked { user: "system:node:other", ..OWN });
    let approver = ground.start();
    assert_eq!(ground.decided(&name).0, "Denied");
    let object = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Later"}]}});
    let path = format!("{REQUESTS}/{name}/approval");
    let later = ground.cluster().ask("PATCH", &path, Some(("application/merge-patch+json", &object)));
    assert_eq!(later.0, 422, "nobody takes it back: {}", later.1);
    approver.stop();
}

fn others() {
    let ground = Ground::new();
    let refused = ground.ask(&Asked { name: "refused", ..OWN });
    ground.decide(&refused, "Denied");
    let early = ground.ask(&Asked { name: "early", subject: "/O=plexus/CN=early", ..OWN });
    let approver = ground.start();
    let foreign = [
        early,
        ground.ask(&Asked { name: "admins", user: "somebody", groups: &[], subject: "/CN=somebody", ..OWN }),
        ground.ask(&Asked { name: "like-it", subject: "/O=system:multus:x/CN=system:multus", ..OWN }),
        ground.ask(&Asked { name: "other-signer", signer: "example.org/any", ..OWN }),
        // Go's reader begins where a PEM does, wherever that is.
        ground.ask(&Asked { name: "more-text", before: "of whom\n", ..OWN }),
    ];
    // Requests come in order: when this one is decided, those have been looked at.
    ground.is_approved(&ground.ask(&OWN));
    for name in foreign {
        assert_eq!(ground.conditions(&name), [Value::Null; 0], "{name}");
    }
    assert_eq!(ground.decided(&refused).1, "Another");
    approver.stop();
}

fn killed() {
    let ground = Ground::new();
    let cluster = ground.cluster();
    cluster.door(Door::Open);
    cluster.fail("PUT", "/approval", 1, Fault::Hang);
    let first = ground.ask(&Asked { name: "first", ..OWN });
    cluster.seen();
    let approver = ground.start();
    until("it is about to decide", || cluster.count("PUT", REQUESTS) == 1);
    // SIGKILL
    drop(approver);
    assert_eq!(ground.conditions(&first), [Value::Null; 0]);
    cluster.fail("PUT", "/approval", 1, Fault::Lost);
    let second = ground.ask(&Asked { name: "second", user: "system:node:other", ..OWN });
    let approver = ground.start();
    ground.is_approved(&first);
    assert_eq!(ground.decided(&second).0, "Denied");
    drop(approver);
    let third = ground.ask(&Asked { name: "third", ..OWN });
    let approver = ground.start();
    ground.is_approved(&third);
    approver.stop();
}

fn again() {
    let ground = Ground::new();
    let cluster = ground.cluster();
    cluster.door(Door::Open);
    let approver = ground.start();
    let puts = |name: &str| cluster.count("PUT", &format!("{REQUESTS}/{name}/approval"));
    cluster.fail("PUT", "/approval", 2, Fault::Status(409));
    cluster.fail("PUT", "/approval", 2, Fault::Status(500));
    let late = ground.ask(&Asked { name: "late", ..OWN });
    ground.is_approved(&late);
    assert_eq!(puts(&late), TRIES);
    // Somebody else is faster: what that one says stays.
    let (path, decided) = (format!("{REQUESTS}/faster-{}", ground.node.name()), Arc::clone(cluster));
    cluster.before("PUT", "/faster-", 1, move || {
        let mut object = decided.get(&path);
        object["status"]["conditions"] = json!([{"type": "Denied", "status": "True", "reason": "Another"}]);
        decided.ask("PUT", &format!("{path}/approval"), Some(("application/json", &object)));
    });
    let faster = ground.ask(&Asked { name: "faster", ..OWN });
    let next = ground.ask(&Asked { name: "next", ..OWN });
    ground.is_approved(&next);
    assert_eq!((ground.decided(&faster).1.as_str(), puts(&faster)), ("Another", 1));
    // It is given up, and keeps no other waiting.
    cluster.fail("PUT", "/never-", usize::MAX, Fault::Status(409));
    let never = ground.ask(&Asked { name: "never", ..OWN });
    until("it is said", || approver.said().contains("is not decided"));
    assert_eq!(puts(&never), TRIES);
    ground.is_approved(&ground.ask(&Asked { name: "last", ..OWN }));
    assert_eq!(ground.conditions(&never), [Value::Null; 0]);
    approver.stop();
}

/// As after a restart of all nodes at once: half are there before it, half come while it works.
fn many() {
    let ground = Ground::new();
    let own = ground.cluster().get(&format!("{REQUESTS}/{}", ground.ask(&OWN)));
    let name = |number: usize| format!("many-{number}-{}", ground.node.name());
    let send = |number: usize| {
        // Of who is no node: no other may be named by who sends them.
        let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name(number)}, "spec": {"request": own["spec"]["request"], "signerName": SIGNER,
            "usages": OWN.usages, "expirationSeconds": 600}});
        ground.cluster().create(REQUESTS, &object);
    };
    (0..MANY / 2).for_each(send);
    let approver = ground.start();
    (MANY / 2..MANY).for_each(send);
    (0..MANY).for_each(|number| assert_eq!(ground.decided(&name(number)).0, "Denied"));
    ground.is_approved(own["metadata"]["name"].as_str().unwrap());
    approver.stop();
}

/// The role of the manifest: what is asked for with its token, the server refuses but for this one signer.
fn rights() {
    let ground = Ground::new();
    let names = [ground.ask(&OWN), ground.ask(&Asked { name: "other-signer", signer: "example.org/any", ..OWN })];
    let codes = names.map(|name| {
        let mut object = ground.cluster().get(&format!("{REQUESTS}/{name}"));
        object["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "Tests"}]);
        let ask =
            |path: &str| ground.cluster().ask_as(&ground.token, "PUT", path, Some(("application/json", &object))).0;
        let path = format!("{REQUESTS}/{name}");
        [ask(&path), ask(&format!("{path}/status")), ask(&format!("{path}/approval"))]
    });
    assert_eq!(codes, [[403, 403, 200], [403, 403, 403]]);
}
