//! A program by which a kubeconfig logs in: a credential plugin of Go's library (client.authentication.k8s.io). kube's own way to run
//! one has no end, keeps whatever it prints, and puts its arguments, its environment and its output into errors.

use std::process::Command;
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::certificate::{self, Term};
use crate::cni::exec::{self, Stop};

/// What it may print: a token, or a certificate with its issuers and a key.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// How much of what it complains about is told.
const COMPLAINT_CHARS_MAX: usize = 200;
/// Versions of its protocol.
const VERSIONS: [&str; 2] = ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];
const KIND: &str = "ExecCredential";

/// One at a time in this process: whoever hangs is not started again beside itself.
static TURN: Semaphore = Semaphore::const_new(1);

/// How somebody logs in.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Credential {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// Runs the program of a login, where it has one and nothing else, and puts what it says in its place; until when that is valid.
///
/// # Errors
/// A sentence, with nothing of what it was given or what it printed but its first complaint.
pub(super) async fn log_in(login: &mut AuthInfo, until: Instant) -> Result<Option<Term>, String> {
    if login.auth_provider.as_ref().is_some_and(|provider| provider.config.contains_key("cmd-path")) {
        return Err("the program of its auth-provider is not executed: user.exec takes its place".to_owned());
    }
    let has_other = login.token.is_some() || login.token_file.is_some() || login.password.is_some();
    let Some(exec) = login.exec.take().filter(|_| !has_other) else { return Ok(None) };
    let which = format!("the program {}, by which the kubeconfig logs in,", name(&exec));
    let turn = TURN.acquire().await.map_err(|e| e.to_string())?;
    let run = tokio::task::spawn_blocking(move || {
        let _until_it_is_dead = turn;
        run(&exec, until)
    });
    let run = run.await.unwrap_or_else(|_| Err("could not be executed".to_owned()));
    let Credential { expiration_timestamp, token, client_certificate_data, client_key_data } =
        run.map_err(|why| format!("{which} {why}"))?;
    let end = expiration_timestamp.map(|end| end.parse::<Timestamp>()).transpose();
    let end = end.map_err(|_| format!("{which} says until when its answer is valid, and that is no time"))?;
    let what = if token.is_some() { "token" } else { "certificate" };
    login.token = token.map(Into::into);
    if let (Some(certificate), Some(key)) = (client_certificate_data, client_key_data) {
        (login.client_certificate, login.client_key) = (None, None);
        login.client_certificate_data = Some(certificate::base64(certificate.as_bytes()));
        login.client_key_data = Some(certificate::base64(key.as_bytes()).into());
    }
    Ok(end.map(|end| Term::between(what, Timestamp::now(), end, which.trim_end_matches(','))))
}

fn name(exec: &ExecConfig) -> &str {
    exec.command.as_deref().unwrap_or_default()
}

fn run(exec: &ExecConfig, until: Instant) -> Result<Credential, String> {
    let version = exec.api_version.as_deref().unwrap_or_default();
    if !VERSIONS.contains(&version) {
        return Err(format!("is of version {version:?}, not one of {}", VERSIONS.join(", ")));
    }
    if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
        return Err("wants somebody to talk to (interactiveMode: Always), and there is nobody".to_owned());
    }
    let begun = Instant::now();
    let ended = exec::run_program(&mut command(exec, version), OUTPUT_BYTES_MAX, until).map_err(|stop| match stop {
        Stop::Deadline => {
            let time = until.saturating_duration_since(begun).as_millis();
            format!("did not end within {time} ms and was killed")
        }
        Stop::TooLarge => format!("printed more than {OUTPUT_BYTES_MAX} bytes and was killed"),
        Stop::Io(why) => format!("could not be executed: {why}"),
    })?;
    if !ended.status.success() {
        return Err(format!("failed: {}{}", ended.status, complaint(&ended.stderr)));
    }
    answer(&ended.stdout, version)
}

fn command(exec: &ExecConfig, version: &str) -> Command {
    let cluster = exec.cluster.as_ref().filter(|_| exec.provide_cluster_info);
    let spec = match cluster {
        Some(cluster) => json!({"interactive": false, "cluster": cluster}),
        None => json!({"interactive": false}),
    };
    let info = json!({"kind": KIND, "apiVersion": version, "spec": spec});
    let mut command = Command::new(name(exec));
    command.args(exec.args.iter().flatten());
    let pairs = exec.env.iter().flatten().filter_map(|pair| pair.get("name").zip(pair.get("value")));
    command.envs(pairs).env("KUBERNETES_EXEC_INFO", info.to_string());
    command
}

/// The first line that says anything, as far as a person reads it.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line: String = line.chars().filter(|c| !c.is_control()).take(COMPLAINT_CHARS_MAX).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

/// Nothing of it is in an error: a token may be anywhere.
fn answer(stdout: &[u8], version: &str) -> Result<Credential, String> {
    let none = || format!("gave an answer that is no {KIND}");
    let text = std::str::from_utf8(stdout).map_err(|_| none())?;
    // Programs print JSON; Go's library takes YAML too.
    let whole = serde_json::from_str::<Value>(text).ok();
    let whole = whole.or_else(|| crate::yaml::documents(text).ok()?.into_iter().next()).ok_or_else(none)?;
    if whole.get("kind").and_then(Value::as_str) != Some(KIND) {
        return Err(none());
    }
    if whole.get("apiVersion").and_then(Value::as_str) != Some(version) {
        return Err(format!("gave an answer of another version than {version}"));
    }
    let status = whole.get("status").cloned().unwrap_or_default();
    let mut found: Credential = serde_json::from_value(status).map_err(|_| none())?;
    for text in [&mut found.token, &mut found.client_certificate_data, &mut found.client_key_data] {
        *text = text.take().filter(|text| !text.trim().is_empty());
    }
    found.token = found.token.map(|token| token.trim().to_owned());
    if found.token.iter().any(|token| token.chars().any(|c| c.is_control() || !c.is_ascii())) {
        return Err("gave a token with characters that none has".to_owned());
    }
    match (&found.token, &found.client_certificate_data, &found.client_key_data) {
        (_, Some(_), None) | (_, None, Some(_)) => {
            Err("gave an answer with one of a certificate and its key, and not the other".to_owned())
        }
        (None, None, None) => Err("gave an answer with neither a token nor a certificate".to_owned()),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(test: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("plexus-program-{}-{test}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Dir(path)
        }

        fn login(&self, body: &str) -> AuthInfo {
            let path = self.0.join("login");
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            login(&path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn login(command: &Path) -> AuthInfo {
        serde_json::from_value(json!({"exec": {"apiVersion": VERSIONS[1], "command": command}})).unwrap()
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn what_it_says_takes_its_place() {
        let dir = Dir::new("place");
        let text = json!({"kind": KIND, "apiVersion": VERSIONS[1], "status": {"token": "t", "expirationTimestamp":
            "2020-01-01T00:00:00Z", "clientCertificateData": "c", "clientKeyData": "k"}});
        let mut login = dir.login(&format!("test \"$(cat)\" = '' && echo '{text}'"));
        let term = wait(log_in(&mut login, late())).unwrap().unwrap();
        assert!(term.expired(Timestamp::now()).unwrap().starts_with("token expired: that of the program "));
        let shown = serde_json::to_value(&login).unwrap();
        assert_eq!(shown, json!({"token": "t", "client-certificate-data": "Yw==", "client-key-data": "aw=="}));
    }

    #[test]
    fn who_has_another_login_needs_no_program() {
        for key in ["token", "tokenFile", "password"] {
            let mut login = login(Path::new("/nonexistent"));
            let mut shown = serde_json::to_value(&login).unwrap();
            shown[key] = json!("x");
            login.clone_from(&serde_json::from_value(shown).unwrap());
            assert_eq!(wait(log_in(&mut login, late())), Ok(None));
        }
    }

    #[test]
    fn one_is_executed_at_a_time() {
        let dir = Dir::new("turn");
        let (own, log) = (dir.0.join("own"), dir.0.join("log"));
        let body = format!(
            "mkdir {0} || echo two >>{1}; sleep 0.1; rmdir {0}; echo end >>{1}; exit 1",
            own.display(),
            log.display()
        );
        let all: Vec<AuthInfo> = (0..4).map(|_| dir.login(&body)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let all: Vec<_> = all
            .into_iter()
            .map(|mut login| runtime.spawn(async move { log_in(&mut login, late()).await.unwrap_err() }))
            .collect();
        for one in all {
            assert!(runtime.block_on(one).unwrap().contains("failed: exit status: 1"));
        }
        assert_eq!(fs::read_to_string(&log).unwrap(), "end\n".repeat(4));
    }

    #[test]
    fn an_answer_that_is_none_is_not_told() {
        let of = |kind: &str, version: &str, status: Value| {
            answer(json!({"kind": kind, "apiVersion": version, "status": status}).to_string().as_bytes(), VERSIONS[0])
        };
        for wrong in [
            of(KIND, VERSIONS[1], json!({"token": "hush"})),
            of("hush", VERSIONS[0], json!({"token": "hush"})),
            of(KIND, VERSIONS[0], json!("hush")),
            of(KIND, VERSIONS[0], json!({"token": {"hush": 1}})),
            of(KIND, VERSIONS[0], json!({"clientKeyData": "hush"})),
            of(KIND, VERSIONS[0], Value::Null),
            answer(b"\xFFhush", VERSIONS[0]),
            answer(b"hush: [", VERSIONS[0]),
            answer(b"", VERSIONS[0]),
        ] {
            assert!(!wrong.unwrap_err().contains("hush"));
        }
        assert_eq!(of(KIND, VERSIONS[0], json!({"token": "x"})).unwrap().token.as_deref(), Some("x"));
    }

    #[test]
    fn a_complaint_is_short() {
        assert_eq!(complaint(b" \n\n no\x1b[0m login \nhush"), ": no[0m login");
        assert_eq!(complaint(b""), "");
        assert_eq!(complaint(&[b'x'; 4096]).len(), COMPLAINT_CHARS_MAX + 2);
    }
}
