//! What a daemon says of itself: metrics, health, readiness, STATUS, its log. It knows the page's names, not how they are counted.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::api::{Member, NETWORKS};
use crate::call::{Answer, Call, Side};
use crate::case::Case;
use crate::kube::{Door, Fault};
use crate::meta::{Node, node};
use crate::need::Need;
use crate::testbed::{LEASES, RECORDS, files_below};

/// Where a daemon of a case has its sockets.
const DIR: &str = "/run/plexus";
/// CNI spec 1.1, STATUS: "the plugin is not available (i.e. cannot service ADD requests)".
const NOT_AVAILABLE: u64 = 50;
/// Whatever is awaited comes at once, or something is very wrong.
const LIMIT: Duration = Duration::from_secs(30);

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("observe::metrics_show_what_was_served_and_what_was_none", &[Need::Macvlan], metrics),
        Case::new("observe::d31_the_page_is_nobody_elses", &[], nobody_elses),
        Case::new("observe::readyz_without_the_daemons_socket", &[], without_socket),
        Case::new("observe::a_new_daemon_shows_its_page_when_the_old_one_has_ended", &[], successor),
        Case::new("observe::status_with_and_without_a_daemon", &[], status),
        Case::new("observe::the_api_server_away_is_named", &[Need::Macvlan, Need::ApiServer], away),
        Case::new("observe::one_trace_in_the_log_and_the_record", &[], trace),
        Case::new("observe::one_trace_in_the_log_and_the_event", &[Need::Macvlan, Need::ApiServer], trace_of_event),
        Case::new("observe::the_api_server_is_watched_from_the_start", &[Need::Macvlan, Need::ApiServer], watched),
        Case::new("observe::a_status_that_is_not_written_is_counted", &[Need::Macvlan, Need::ApiServer], unwritten),
        Case::new("observe::a_page_does_not_wait_for_a_pool_that_is_locked", &[], locked_pool),
        Case::new("observe::findings_and_what_is_given_back_are_counted", &[], counted),
        Case::new("observe::the_state_is_where_the_configuration_says", &[Need::Macvlan], state_dirs),
        Case::new("observe::what_can_never_be_read_or_written_ends_the_start", &[], never),
        Case::new("observe::a_log_file_that_cannot_be_written_is_told", &[], unwritable_log),
        Case::new("observe::the_log_of_a_daemon_may_go_to_standard_output", &[], log_on_output),
    ]
}

/// A daemon; it ends with the case.
pub(crate) struct Daemon(Child);

impl Daemon {
    fn start(words: &[&str]) -> Self {
        Self::start_with(words, &[])
    }

    /// With these variables besides.
    pub(crate) fn start_with(words: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        command.args(["daemon", "--socket-dir", DIR]).args(words).stdin(Stdio::null()).stderr(Stdio::null());
        command.envs(variables.iter().copied());
        let daemon = Self(command.spawn().unwrap());
        until(|| UnixStream::connect(format!("{DIR}/plexus.sock")).is_ok(), "the daemon listens");
        daemon
    }

    pub(crate) fn end(&mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn until(mut holds: impl FnMut() -> bool, what: &str) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::yield_now();
    }
}

/// Status and body of a page.
fn get(path: &str) -> Option<(String, String)> {
    let mut stream = UnixStream::connect(format!("{DIR}/metrics.sock")).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: plexus\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.to_owned(), body.to_owned()))
}

/// Waits until the page has a line.
pub(crate) fn has(line: &str) {
    let mut page = String::new();
    let begin = Instant::now();
    while begin.elapsed() < LIMIT {
        page = get("/metrics").map_or(page, |(_, body)| body);
        if page.lines().any(|found| found == line) {
            return;
        }
    }
    panic!("no {line} in\n{page}");
}

/// How many lines of the page begin so.
pub(crate) fn series(start: &str) -> usize {
    get("/metrics").unwrap().1.lines().filter(|line| line.starts_with(start)).count()
}

fn referring(mut node: Node) -> Node {
    node.conf["daemonSocketDir"] = json!(DIR);
    node.conf["fallback"] = json!("fail");
    node
}

/// The metrics of a daemon that has a bit of everything behind it.
pub(crate) fn page() -> String {
    let mut member = Member::new();
    member.node = referring(member.node);
    fs::create_dir_all(format!("{RECORDS}/journal")).unwrap();
    fs::write(format!("{RECORDS}/journal/cluster:torn:eth0.jsonl"), "").unwrap();
    let _daemon = Daemon::start(&[]);
    has(r#"plexus_reconcile_findings_total{what="torn",became="repaired"} 1"#);
    let uid = member.add("a", "blue").0;
    has(r#"plexus_request_seconds_count{verb="ADD",outcome="done"} 1"#);
    until(|| get("/readyz").is_some_and(|(code, _)| code == "200"), "definitions have come");
    member.add("b", "blue").1.ok();
    member.call("DEL", "a", &uid).run().ok();
    member.call("DEL", "a", &uid).run().ok();
    has(r#"plexus_requests_given_back_total{reason="no_record"} 1"#);
    let mut stranger = UnixStream::connect(format!("{DIR}/plexus.sock")).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    has(r#"plexus_requests_refused_total{reason="frame"} 2"#);
    get("/metrics").unwrap().1
}

fn metrics() {
    let node = referring(node());
    let _daemon = Daemon::start(&[]);
    node.add("a", "blue,green");
    has(r#"plexus_request_seconds_count{verb="ADD",outcome="done"} 1"#);
    for phase in ["queue", "pod", "plan", "journal", "lease", "link", "address", "status"] {
        has(&format!(r#"plexus_phase_seconds_count{{verb="ADD",phase="{phase}"}} 1"#));
    }
    has(r#"plexus_attachment_seconds_count{kind="bridge"} 2"#);
    has(r#"plexus_attachment_seconds_count{kind="macvlan"} 1"#);
    has("plexus_journal_records 1");
    has(r#"plexus_leases_held{network="blue"} 1.0"#);
    has(r#"plexus_leases_free{network="blue"} 252.0"#);
    let mut stranger = UnixStream::connect(format!("{DIR}/plexus.sock")).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let ended = stranger.read(&mut [0]);
    assert!(
        ended.as_ref().is_ok_and(|read| *read == 0) || ended.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
    );
    // One of them only looked whether somebody listens.
    has(r#"plexus_requests_refused_total{reason="frame"} 2"#);
    node.pod("b", &[(NETWORKS, "none")]);
    assert!(!node.call("ADD", "b").run().succeeded());
    has(r#"plexus_request_seconds_count{verb="ADD",outcome="failed"} 1"#);
    node.call("DEL", "a").run().ok();
    has(r#"plexus_request_seconds_count{verb="DEL",outcome="done"} 1"#);
    has("plexus_journal_records 0");
    has("plexus_requests_under_way 0");
    assert_eq!(get("/healthz").unwrap(), ("200".to_owned(), "ok\n".to_owned()));
    assert_eq!(get("/readyz").unwrap(), ("200".to_owned(), "ok\n".to_owned()));
}

/// A Unix socket of root's, and no profiles behind it; an address that others reach is refused, and a port is this machine's own.
fn nobody_elses() {
    use std::os::unix::fs::PermissionsExt;
    let mut daemon = Daemon::start(&[]);
    until(|| get("/healthz").is_some(), "its page");
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&format!("{DIR}/metrics.sock")), 0o600);
    for path in ["/debug/pprof/", "/debug/pprof/heap", "/"] {
        let (code, body) = get(path).unwrap();
        assert_eq!((code.as_str(), body.contains("pprof")), ("404", false), "{path}: {body}");
    }
    daemon.end();
    drop(daemon);
    for address in ["0.0.0.0:9091", "[::]:9091", "192.0.2.1:9091"] {
        let words = ["daemon", "--socket-dir", DIR, "--metrics", address];
        let refused = Command::new(env!("CARGO_BIN_EXE_plexus")).args(words).output().unwrap();
        assert!(!refused.status.success(), "{address}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("not a loopback address"), "{refused:?}");
    }
}

/// Whoever asks for the page hears that nobody else can ask for anything: the socket was taken away, or something else lies there.
fn without_socket() {
    let node = referring(node());
    let mut daemon = Daemon::start(&[]);
    let socket = format!("{DIR}/plexus.sock");
    let unready = || {
        let (code, body) = get("/readyz").unwrap();
        code == "503" && body.contains(&format!("nobody listens on the daemon's socket {socket}"))
    };
    let ready = || get("/readyz").is_some_and(|(code, _)| code == "200");
    until(ready, "its page");
    node.pod("a", &[]);
    for put in [None, Some("")] {
        fs::remove_file(&socket).unwrap();
        put.iter().for_each(|text| fs::write(&socket, text).unwrap());
        until(|| fs::symlink_metadata(&socket).is_ok_and(|found| found.file_type().is_socket()), "it is made again");
        until(ready, "and is ready");
        node.call("ADD", "a").run().ok();
        node.call("DEL", "a").run().ok();
    }
    fs::remove_file(format!("{DIR}/metrics.sock")).unwrap();
    until(ready, "the page is made again, too");
    // Where it cannot be made, that is said.
    fs::remove_file(&socket).unwrap();
    fs::create_dir(&socket).unwrap();
    until(unready, "it is told");
    assert_eq!(get("/healthz").unwrap().0, "200", "what it serves it still serves");
    assert!(!node.call("ADD", "a").run().succeeded());
    fs::remove_dir(&socket).unwrap();
    daemon.end();
    let _next = Daemon::start(&[]);
    until(|| get("/readyz").is_some_and(|(code, body)| code == "200" && body == "ok\n"), "the next one's page");
    node.call("ADD", "a").run().ok();
}

fn successor() {
    let node = referring(node());
    let mut first = Daemon::start(&[]);
    node.add("a", "");
    has(r#"plexus_request_seconds_count{verb="ADD",outcome="done"} 1"#);
    let second = Daemon::start(&[]);
    node.add("b", "");
    first.end();
    node.add("c", "");
    until(|| get("/healthz").is_some_and(|(code, _)| code == "200"), "the second one shows its page");
    has("plexus_journal_records 3");
    drop(second);
    let words = ["daemon", "--metrics", "192.0.2.1:9090"];
    let refused = Command::new(env!("CARGO_BIN_EXE_plexus")).args(words).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not a loopback address"), "{refused:?}");
}

/// As a runtime sends it.
fn asked(node: &Node) -> Answer {
    let call = node.bed.call(Side::Plexus, "plexus-cni").command("STATUS").conf(&node.conf);
    call.without("CNI_CONTAINERID").without("CNI_IFNAME").run()
}

fn mount(words: &str) {
    assert!(Command::new("mount").args(words.split(' ')).status().unwrap().success(), "mount {words}");
}

fn status() {
    let mut node = referring(node());
    node.conf["cniVersion"] = json!("1.1.0");
    for fallback in ["fail", "wait"] {
        node.conf["fallback"] = json!(fallback);
        asked(&node).fails(NOT_AVAILABLE, "the daemon at /run/plexus/plexus.sock does not answer");
    }
    node.conf["fallback"] = json!("oneshot");
    let answer = asked(&node);
    answer.ok();
    assert!(answer.stderr.contains("does not answer") && answer.stderr.contains("attaches by itself"), "{answer:?}");
    let mut daemon = Daemon::start(&[]);
    let answer = asked(&node);
    assert_eq!((answer.rc, answer.stdout.trim(), answer.stderr.trim()), (Some(0), "", ""), "STATUS has no result");
    has(r#"plexus_request_seconds_count{verb="STATUS",outcome="done"} 1"#);
    fs::create_dir_all(RECORDS).unwrap();
    mount(&format!("--bind {RECORDS} {RECORDS}"));
    mount(&format!("-o remount,bind,ro {RECORDS}"));
    asked(&node).fails(NOT_AVAILABLE, "the daemon is not ready: the state directory");
    let (code, body) = get("/readyz").unwrap();
    assert!(code == "503" && body.contains("read-only file system"), "{code} {body}");
    assert!(Command::new("umount").arg(RECORDS).status().unwrap().success());
    asked(&node).ok();
    // Somebody listens there who never answers: that is not waited for long.
    daemon.end();
    let silent = UnixListener::bind(format!("{DIR}/plexus.sock")).unwrap();
    node.conf["fallback"] = json!("fail");
    asked(&node).fails(NOT_AVAILABLE, "does not answer");
    drop(silent);
    assert_eq!(node.bed.links(""), ["lo", "up0"], "nothing was made to find out");
}

fn away() {
    let mut member = Member::new();
    member.node.conf["cniVersion"] = json!("1.1.0");
    member.node = referring(member.node);
    let _daemon = Daemon::start(&[]);
    member.add("a", "blue").1.ok();
    until(|| get("/readyz").is_some_and(|(code, _)| code == "200"), "definitions have come");
    has(r#"plexus_cache_objects{cache="pod"} 0"#);
    has(r#"plexus_cache_misses_total{cache="pod"} 1"#);
    member.cluster.door(Door::Refused);
    until(|| get("/readyz").is_some_and(|(code, body)| code == "200" && body.contains("API server: ")), "it is away");
    assert_eq!(get("/healthz").unwrap().0, "200", "a new daemon would not bring it back");
    asked(&member.node).ok();
    member.cluster.door(Door::Open);
    until(|| get("/readyz").is_some_and(|(_, body)| body.trim() == "ok"), "it is back");
    asked(&member.node).ok();
}

fn trace_of_event() {
    let mut member = Member::new();
    member.node = referring(member.node);
    let own = "/run/scratch/daemon.log";
    let _daemon = Daemon::start(&["--log-level", "verbose", "--log-file", own]);
    let events = || {
        let path = format!("/api/v1/namespaces/{}/events", member.cluster.namespace());
        let list = member.cluster.get(&path)["items"].as_array().unwrap().clone();
        list.into_iter().map(|event| event["metadata"]["annotations"]["plexus/trace"].clone()).collect::<Vec<_>>()
    };
    let uid = member.pod("a", &[(NETWORKS, "nowhere")]);
    assert!(!member.call("ADD", "a", &uid).run().succeeded());
    until(|| events().len() == 1, "the event");
    let log = fs::read_to_string(own).unwrap();
    let first = events()[0].as_str().unwrap().to_owned();
    assert!(log.contains(&format!("trace={first} ADD ")), "{first}: {log}");
    // Said again it has the trace of the last request.
    let call = member.call("ADD", "a", &uid).env("TRACEPARENT", format!("00-{TRACE}-b7ad6b7169203331-01"));
    assert!(!call.run().succeeded());
    until(|| events() == [json!(TRACE)], "the last one's trace");
}

/// With a configuration of its own the daemon knows the server before anybody asks.
fn watched() {
    let mut member = Member::new();
    member.node = referring(member.node);
    let kubeconfig = member.node.conf["kubeconfig"].as_str().unwrap().to_owned();
    member.cluster.door(Door::Refused);
    let _daemon = Daemon::start(&["--kubeconfig", &kubeconfig]);
    until(|| get("/readyz").is_some_and(|(code, body)| code == "503" && body.contains("API server: ")), "it is away");
    // Nothing was ever known.
    member.node.conf["cniVersion"] = json!("1.1.0");
    asked(&member.node).fails(NOT_AVAILABLE, "the daemon is not ready: API server: ");
    member.cluster.door(Door::Open);
    until(|| get("/readyz").is_some_and(|(code, _)| code == "200"), "definitions have come");
    let known = |page: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(r#"plexus_cache_objects{cache="definition"} "#));
        line.is_some_and(|number| number.parse::<u64>().unwrap() >= 2)
    };
    assert!(known(&get("/metrics").unwrap().1), "those of this case, and what others have on the same server");
    member.cluster.seen();
    // The requests' configuration waits for other times: it is watched by these.
    member.add("a", "blue").1.ok();
    until(|| get("/readyz").is_some_and(|(code, _)| code == "200"), "definitions are there still");
    let before = member.cluster.count("GET", "/network-attachment-definitions/");
    member.add("b", "blue").1.ok();
    assert_eq!(member.cluster.count("GET", "/network-attachment-definitions/"), before, "it is known");
}

/// A page does not wait for whoever has a pool.
fn locked_pool() {
    let node = referring(node());
    let _daemon = Daemon::start(&[]);
    node.add("a", "");
    let held = "plexus_leases_held{";
    let all = |what: &str| get("/metrics").unwrap().1.lines().any(|line| line.starts_with(what));
    until(|| all(held), "the pool is counted");
    let pool = fs::read_dir(LEASES)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.join("lock").exists())
        .unwrap();
    let file = fs::File::open(pool.join("lock")).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    // Each page but the first one shows at once what was counted last; ten of them would be a hundred seconds of waiting.
    for _ in 0..10 {
        assert!(all(held));
    }
    drop(lock);
    node.call("DEL", "a").run().ok();
}

fn unwritten() {
    let mut member = Member::new();
    member.node = referring(member.node);
    let _daemon = Daemon::start(&[]);
    has("plexus_status_writes_failed_total 0");
    member.cluster.fail("", "/status", usize::MAX, Fault::Status(403));
    member.add("a", "blue").1.ok();
    assert_eq!(member.node.addresses("a", "net1"), ["10.2.0.2/24"]);
    has("plexus_status_writes_failed_total 1");
    has(r#"plexus_api_calls_total{verb="patch",outcome="failed"} 1"#);
    let failed = || {
        let (_, page) = get("/metrics").unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix("plexus_status_writes_failed_total "));
        value.unwrap().parse::<u64>().unwrap()
    };
    let (uid, answer) = member.add("b", "blue");
    answer.ok();
    until(|| failed() >= 2, "it rises with each that fails");
    member.del("b", &uid);
    assert_eq!(member.cluster.network_status("a"), Value::Null);
}

fn counted() {
    let node = referring(node());
    fs::create_dir_all(format!("{RECORDS}/journal")).unwrap();
    let torn = format!("{RECORDS}/journal/cluster:torn:eth0.jsonl");
    fs::write(&torn, "").unwrap();
    let _daemon = Daemon::start(&[]);
    has(r#"plexus_reconcile_findings_total{what="torn",became="repaired"} 1"#);
    assert!(!fs::exists(torn).unwrap());
    node.script("noted", r#"conf=$(cat); [ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#);
    node.add("a", "chained");
    has(r#"plexus_requests_given_back_total{reason="type"} 1"#);
    node.call("DEL", "a").run().ok();
    has(r#"plexus_requests_given_back_total{reason="record"} 1"#);
    node.call("DEL", "a").run().ok();
    has(r#"plexus_requests_given_back_total{reason="no_record"} 1"#);
}

/// As `--config` says, and as the configurations of requests do.
fn state_dirs() {
    let mut node = referring(node());
    let [told, other] = ["/run/scratch/told", "/run/scratch/other"];
    let config = "/run/scratch/daemon-config.json";
    let written = json!({"cniConfigDir": "/run/scratch/net.d", "socketDir": DIR, "stateDir": told, "logLevel": "error",
        "logFile": "/run/scratch/daemon.log"});
    fs::write(config, written.to_string()).unwrap();
    fs::create_dir_all(format!("{told}/journal")).unwrap();
    let torn = format!("{told}/journal/cluster:torn:eth0.jsonl");
    fs::write(&torn, "").unwrap();
    let _daemon = Daemon::start(&["--config", config]);
    until(|| !fs::exists(&torn).unwrap(), "the first round is where the configuration says");
    node.conf["stateDir"] = json!(other);
    node.add("a", "six");
    node.bed.ip("-n a link del net1");
    let said = || fs::read_to_string("/run/scratch/daemon.log").unwrap_or_default();
    until(|| said().contains("net1 of network") && said().contains("is gone"), "it is looked for where requests say");
    node.call("DEL", "a").run().ok();
}

/// A kubeconfig that is not there may come: another container writes it.
fn never() {
    let _node = node();
    for words in
        [["--kubeconfig", "/"], ["--kubeconfig", "/etc/passwd/k"], ["--log-file", "/"], ["--log-file", "/etc/passwd/l"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        command.args(["daemon", "--socket-dir", DIR]).args(words).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut daemon = Daemon(command.spawn().unwrap());
        until(|| daemon.0.try_wait().unwrap().is_some(), "it ends");
        let mut said = String::new();
        daemon.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(daemon.0.wait().unwrap().code(), Some(1), "{words:?}: {said}");
        let told = said.contains(&words.join(" ")) && said.contains("; name a ") && said.trim().lines().count() == 1;
        assert!(told, "{words:?}: {said}");
    }
    let later = "/run/scratch/later";
    let _daemon = Daemon::start(&["--kubeconfig", later]);
    let is_missing = |code: &str, body: &str| code == "503" && body.contains("/run/scratch/later: No such file");
    until(|| get("/readyz").is_some_and(|(code, body)| is_missing(&code, &body)), "it is told");
    // Half of it, as long as it is being written: nothing of it is shown.
    fs::write(later, "users:\n- user:\n    token: hidden\n  - x: [").unwrap();
    let half = || get("/readyz").filter(|(_, body)| body.contains("kubeconfig YAML"));
    until(|| half().is_some(), "it is read");
    assert!(!half().unwrap().1.contains("hidden"), "{:?}", half());
}

/// As `--config` names it, in the words of another daemon that never minded.
fn unwritable_log() {
    let _node = node();
    let config = "/run/scratch/daemon-config.json";
    let written = json!({"cniConfigDir": "/run/scratch/net.d", "socketDir": DIR, "logFile": "/run/scratch/log"});
    fs::write(config, written.to_string()).unwrap();
    fs::create_dir("/run/scratch/log").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
    command.args(["daemon", "--socket-dir", DIR, "--config", config]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut daemon = Daemon(command.spawn().unwrap());
    let line = "the log file /run/scratch/log cannot be written: Is a directory";
    until(|| get("/readyz").is_some_and(|(code, body)| code == "200" && body.contains(line)), "its page says it");
    fs::remove_dir("/run/scratch/log").unwrap();
    until(|| get("/readyz").is_some_and(|(_, body)| body == "ok\n"), "it is written again");
    daemon.end();
    let mut said = String::new();
    daemon.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains(line), "{said}");
}

/// A pipe, as a container's is, and a file; the latter is never put aside: nobody would open it again.
fn log_on_output() {
    let node = referring(node());
    let path = "/run/scratch/output";
    let words = ["daemon", "--socket-dir", DIR, "--log-level", "verbose", "--log-file", "/dev/stdout"];
    for output in [Stdio::piped(), fs::File::create(path).unwrap().into()] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
        let mut daemon = Daemon(command.args(words).stdout(output).stderr(Stdio::null()).spawn().unwrap());
        until(|| UnixStream::connect(format!("{DIR}/plexus.sock")).is_ok(), "the daemon listens");
        node.add("a", "");
        node.call("DEL", "a").run().ok();
        let piped = daemon.0.stdout.take();
        daemon.end();
        let mut text = fs::read_to_string(path).unwrap_or_default();
        piped.map(|mut output| output.read_to_string(&mut text).unwrap());
        assert!(text.contains("Add: default:a:") && text.contains("the daemon ends"), "{text}");
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn trace() {
    let mut node = referring(node());
    let (own, other) = ("/run/scratch/daemon.log", "/run/scratch/node.log");
    node.conf["logFile"] = json!(other);
    node.conf["logLevel"] = json!("verbose");
    let _daemon = Daemon::start(&["--log-level", "debug", "--log-file", own]);
    let traced = |call: Call| call.env("TRACEPARENT", format!("00-{TRACE}-b7ad6b7169203331-01")).run().ok();
    node.pod("a", &[]);
    traced(node.call("ADD", "a"));
    node.add("b", "");
    let lines = || fs::read_to_string(own).unwrap_or_default();
    until(|| lines().matches("Add: ").count() == 2, "both are written down");
    let of_trace = |line: &&str| line.contains(&format!("] trace={TRACE} "));
    let log = lines();
    let adds: Vec<&str> = log.lines().filter(|line| line.contains("Add: ")).collect();
    assert!(of_trace(&adds[0]) && adds[0].contains("default:a:"), "{adds:?}");
    assert!(!of_trace(&adds[1]) && adds[1].contains("] trace="), "one of its own: {adds:?}");
    assert!(!fs::read_to_string(other).unwrap_or_default().contains("Add: "), "the daemon's options decide");
    let traces: Vec<Value> = files_below(format!("{RECORDS}/journal").as_ref())
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|end| end == "jsonl"))
        .map(|(_, bytes)| serde_json::from_slice::<Value>(bytes.split(|byte| *byte == b'\n').next().unwrap()).unwrap())
        .map(|intent| intent["trace"].clone())
        .collect();
    assert_eq!(traces.len(), 2);
    assert!(traces.contains(&json!(TRACE)) && traces.iter().all(|one| one.as_str().is_some_and(|id| id.len() == 32)));
}
