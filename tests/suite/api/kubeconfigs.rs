//! What a kubeconfig may say, and a client of Go's library reads: servers without a scheme, programs that log in, proxies, what is
//! empty and what is not used. Nothing secret of it is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("api::kubeconfigs::a_server_without_a_scheme", needs, schemeless),
        Case::new("api::kubeconfigs::a_server_that_is_none_is_refused", needs, no_server),
        Case::new("api::kubeconfigs::what_an_address_has_before_its_host_is_not_told", needs, userinfo),
        Case::new("api::kubeconfigs::only_the_current_context_is_judged", needs, unused),
        Case::new("api::kubeconfigs::what_is_empty_is_not_said", needs, empty),
        Case::new("api::kubeconfigs::a_program_logs_in", needs, program),
        Case::new("api::kubeconfigs::a_program_that_fails_tells_no_secret", needs, failing_program),
        Case::new("api::kubeconfigs::a_program_without_an_end_leaves_nothing", needs, endless_program),
        Case::new("api::kubeconfigs::a_proxy_is_asked_for_a_tunnel", needs, proxied),
        Case::new("api::kubeconfigs::a_name_that_a_kubeconfig_gives_its_server_is_looked_for", needs, named),
    ]
}

/// Nobody may read it in an answer.
const SECRET: &str = "hush-hush-hush";

/// A member whose kubeconfig is changed.
struct Changed {
    member: Member,
    path: PathBuf,
    whole: Value,
    uid: String,
}

impl Changed {
    fn new() -> Self {
        let mut member = Member::new();
        member.node.conf["apiCallTimeoutMs"] = json!(1000);
        member.node.conf["apiDeadlineMs"] = json!(3000);
        let path = member.cluster.kubeconfig(&member.node.bed, &Login::usual());
        let whole = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let uid = member.pod("a", &[(NETWORKS, "blue")]);
        Self { member, path, whole, uid }
    }

    /// One ADD with the kubeconfig as it is after this; whatever came of it is undone.
    fn add(&self, change: impl FnOnce(&mut Value)) -> Answer {
        let mut text = self.whole.clone();
        change(&mut text);
        fs::write(&self.path, text.to_string()).unwrap();
        let answer = self.member.call("ADD", "a", &self.uid).run();
        assert!(!format!("{}{}", answer.stdout, answer.stderr).contains("panicked"), "{}", answer.stderr);
        fs::write(&self.path, self.whole.to_string()).unwrap();
        self.member.del("a", &self.uid);
        answer
    }

    /// One that is refused; nothing secret is in what it says.
    fn refused(&self, change: impl FnOnce(&mut Value)) -> String {
        let answer = self.add(change);
        let msg = refused(&answer, 11);
        for text in [&answer.stdout, &answer.stderr] {
            assert!(!text.contains(SECRET), "{text}");
        }
        assert!(!msg.contains('\n'), "{msg}");
        msg
    }

    /// A program beside the kubeconfig.
    fn program(&self, body: &str) {
        let file = self.path.with_file_name("login");
        fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn cluster_of(whole: &mut Value) -> &mut Value {
    &mut whole["clusters"][0]["cluster"]
}

fn with_program(whole: &mut Value) {
    whole["users"][0]["user"] = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login",
        "args": ["one", SECRET], "env": [{"name": "LOGIN_SECRET", "value": SECRET}], "interactiveMode": "Never",
        "provideClusterInfo": true}});
}

fn schemeless() {
    let changed = Changed::new();
    // With who signed for it, TLS is meant; without, none is.
    let address = changed.member.cluster.address().replace("https://", "");
    assert!(changed.add(|whole| cluster_of(whole)["server"] = json!(address)).succeeded());
    // It has one object for every question.
    let mut pod = changed.member.cluster.get_pod("a");
    pod["metadata"]["annotations"] = json!({});
    let (plain, _) = plain::serve("127.0.0.1", 200, &pod);
    for server in [plain.to_string(), format!("localhost:{}", plain.port()), format!("http://{plain}/")] {
        changed
            .add(|whole| {
                *cluster_of(whole) = json!({"server": server});
                whole["users"][0]["user"] = json!({});
            })
            .ok();
    }
}

fn no_server() {
    let changed = Changed::new();
    for server in ["", "/x", "https:///x", "h:99999", "https://h:99999", "https://h:x", "ftp://h", "h:1/x", "http://"] {
        let msg = changed.refused(|whole| cluster_of(whole)["server"] = json!(server));
        assert!(msg.contains("kubeconfig") && msg.contains("server"), "{server}: {msg}");
    }
    assert_eq!(changed.member.cluster.seen(), []);
}

fn userinfo() {
    let changed = Changed::new();
    for server in [
        format!("https://a:{SECRET}@127.0.0.1:1"),
        format!("a:{SECRET}@127.0.0.1:1"),
        format!("https://a:{SECRET}@127.0.0.1:99999"),
        format!("https://a:{SECRET}/@127.0.0.1"),
        format!("https://{SECRET}@"),
    ] {
        changed.refused(|whole| cluster_of(whole)["server"] = json!(server));
    }
    for proxy in ["http", "https", "socks5", "ftp"] {
        changed.refused(|whole| cluster_of(whole)["proxy-url"] = json!(format!("{proxy}://u:{SECRET}@127.0.0.1:1")));
    }
}

fn unused() {
    let changed = Changed::new();
    for user in [
        json!({"token": "\n"}),
        json!({"tokenFile": "/dev/zero"}),
        json!({"client-certificate": "/run/scratch", "client-key": "/run/scratch"}),
    ] {
        changed
            .add(|whole| {
                let users = whole["users"].as_array_mut().unwrap();
                users.insert(0, json!({"name": "other", "user": user}));
                let others = json!({"server": "/x", "certificate-authority": "/run", "proxy-url": "ftp://x"});
                let clusters = whole["clusters"].as_array_mut().unwrap();
                clusters.insert(0, json!({"name": "other", "cluster": others}));
            })
            .ok();
    }
}

fn empty() {
    let changed = Changed::new();
    let authority = changed.member.cluster.file("ca.crt");
    changed
        .add(|whole| {
            cluster_of(whole)["certificate-authority-data"] = json!("");
            cluster_of(whole)["certificate-authority"] = json!(authority);
            cluster_of(whole)["proxy-url"] = json!("");
        })
        .ok();
    let token = changed.member.node.bed.file("token", TOKEN);
    changed.add(|whole| whole["users"][0]["user"] = json!({"token": "", "tokenFile": token})).ok();
    let (certificate, key) = (changed.member.cluster.file("client.crt"), changed.member.cluster.file("client.key"));
    changed
        .add(|whole| {
            whole["users"][0]["user"] = json!({"token": "", "username": "", "password": "",
                "client-certificate-data": "", "client-key-data": "",
                "client-certificate": certificate, "client-key": key});
        })
        .ok();
}

fn credential(status: &Value) -> String {
    json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}).to_string()
}

fn program() {
    let changed = Changed::new();
    // By a token, in JSON and in YAML; the program is told where the cluster is.
    let server = changed.member.cluster.address();
    changed.program(&format!(
        "case \"$KUBERNETES_EXEC_INFO\" in *'\"server\":\"{server}'*) ;; *) exit 5;; esac\n\
         test \"$1 $LOGIN_SECRET\" = 'one {SECRET}' || exit 6\necho '{}'",
        credential(&json!({"token": TOKEN, "expirationTimestamp": "2099-01-01T00:00:00Z"}))
    ));
    changed.add(with_program).ok();
    changed.program(&format!(
        "printf 'apiVersion: client.authentication.k8s.io/v1\\nkind: ExecCredential\\nstatus:\\n  token: {TOKEN}\\n'"
    ));
    changed.add(with_program).ok();
    // By a certificate.
    let text = |name: &str| fs::read_to_string(changed.member.cluster.file(name)).unwrap();
    let pair = json!({"clientCertificateData": text("client.crt"), "clientKeyData": text("client.key")});
    changed.member.node.bed.file("answer", &credential(&pair));
    changed.program("cat /run/scratch/answer");
    changed.add(with_program).ok();
}

fn failing_program() {
    let changed = Changed::new();
    let torn = format!("printf '{{\"status\": {{\"token\": \"{SECRET}\"'");
    let wrong = credential(&json!({"token": [SECRET]}));
    let stern = format!("echo {SECRET}; echo no such login >&2; echo {SECRET} >&2; exit 3");
    let odd = format!("echo '{}'", credential(&json!({"token": format!("{SECRET}\u{1}")})).replace('\\', "\\\\"));
    for (body, told) in [
        (stern, "exit status: 3: no such login"),
        (torn, "answer"),
        (format!("echo {SECRET}"), "answer"),
        (format!("echo '{wrong}'"), "answer"),
        (odd, ""),
        (format!("echo '{}'", credential(&json!({}))), "neither a token nor a certificate"),
    ] {
        changed.program(&body);
        let msg = changed.refused(with_program);
        assert!(msg.contains("login") && msg.contains(told), "{body}: {msg}");
    }
    let msg = changed.refused(|whole| {
        with_program(whole);
        whole["users"][0]["user"]["exec"]["command"] = json!("./missing");
    });
    assert!(msg.contains("missing"), "{msg}");
}

/// Of this process and of what it executes, in bytes: less than what an endless program says until the deadline.
const MEMORY_MAX: u64 = 256 << 20;

fn endless_program() {
    let changed = Changed::new();
    let own = std::process::id().to_string();
    let limit = Command::new("prlimit").args(["--pid", &own, &format!("--data={MEMORY_MAX}")]).status().unwrap();
    assert!(limit.success());
    for body in ["sleep 301 & echo $! >>/run/scratch/pids; wait", "yes"] {
        changed.program(&format!("echo $$ >>/run/scratch/pids\n{body}"));
        let msg = changed.refused(with_program);
        assert!(msg.contains("login") && msg.contains("killed"), "{body}: {msg}");
    }
    let pids = fs::read_to_string("/run/scratch/pids").unwrap();
    assert!(pids.lines().count() >= 3, "{pids}");
    for pid in pids.lines() {
        // One that is killed has no command line left, whoever is to reap it.
        let line = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
        assert!(line.is_empty(), "{pid}: {}", String::from_utf8_lossy(&line));
    }
}

/// What a proxy was asked for, one text each.
type Heard = Arc<Mutex<Vec<String>>>;

/// A proxy that makes tunnels.
fn proxy() -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, heard) = (listener.local_addr().unwrap(), Heard::default());
    let log = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let log = Arc::clone(&log);
            std::thread::spawn(move || tunnel(stream.unwrap(), &log));
        }
    });
    (address, heard)
}

fn tunnel(mut client: TcpStream, heard: &Heard) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|length| length == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    heard.lock().unwrap().push(head);
    let server = TcpStream::connect(target).unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    relay(client, server);
}

fn relay(mut client: TcpStream, mut server: TcpStream) {
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    // Either side may have gone.
    drop(std::io::copy(&mut server, &mut client));
}

fn proxied() {
    let changed = Changed::new();
    let (address, heard) = proxy();
    let server = changed.member.cluster.address().replace("https://", "");
    for (proxy, authorization) in [
        (format!("http://{address}"), None),
        // Base64 of `u:p@ss`.
        (format!("http://u:p%40ss@{address}/"), Some("basic dtpwqhnz")),
    ] {
        changed.add(|whole| cluster_of(whole)["proxy-url"] = json!(proxy)).ok();
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        assert!(!heard.is_empty(), "{proxy}");
        for head in heard {
            assert!(head.starts_with(&format!("CONNECT {server} ")), "{head}");
            let head = head.to_lowercase();
            assert_eq!(head.contains("proxy-authorization"), authorization.is_some(), "{head}");
            assert!(authorization.is_none_or(|value| head.contains(value)), "{head}");
        }
    }
    for proxy in ["socks5://127.0.0.1:1", "ftp://127.0.0.1:1", "/x"] {
        let msg = changed.refused(|whole| cluster_of(whole)["proxy-url"] = json!(proxy));
        assert!(msg.contains("proxy-url") && msg.contains("http://"), "{proxy}: {msg}");
    }
}

/// The server at an address that its certificate does not have (`tls-server-name`).
fn named() {
    let changed = Changed::new();
    let server = changed.member.cluster.address().replace("https://", "");
    let listener = TcpListener::bind("127.0.0.9:0").unwrap();
    let elsewhere = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let server = TcpStream::connect(&server).unwrap();
            std::thread::spawn(move || relay(client.unwrap(), server));
        }
    });
    let at = |whole: &mut Value, name: Value| {
        cluster_of(whole)["server"] = json!(elsewhere);
        cluster_of(whole)["tls-server-name"] = name;
    };
    for name in ["localhost", "kubernetes.default.svc", "127.0.0.1"] {
        changed.add(|whole| at(whole, json!(name))).ok();
    }
    changed.member.cluster.seen();
    for name in [json!(null), json!(""), json!("other.example"), json!("127.0.0.9")] {
        let msg = refused(&changed.add(|whole| at(whole, name.clone())), 7);
        assert!(msg.contains("certificate not valid for name"), "{name}: {msg}");
    }
    let other = changed.add(|whole| cluster_of(whole)["tls-server-name"] = json!("other.example"));
    assert!(refused(&other, 7).contains("certificate not valid for name \"other.example\""));
    changed.refused(|whole| at(whole, json!("no name")));
    assert_eq!(changed.member.cluster.seen(), [], "nothing was asked of a server that is not proven");
}
