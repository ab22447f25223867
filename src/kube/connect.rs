//! From a configuration to a client: the kubeconfig, or what a pod has of its cluster. HTTP/2 is offered, which kube's own stack
//! does not do: with it the calls of a request share one connection and one handshake.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::config::{AuthInfo, Kubeconfig};
use kube::{Client, Config as KubeConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::{BoxError, Service, ServiceBuilder};

use super::address;
use super::certificate::{self, Term};
use super::limit::Limit;
use super::program;
use crate::journal::fnv1a_128;
use crate::log::warn;
use crate::sources::SourceError;

/// A token, a key, a certificate with its issuers, all authorities of the world.
const LOGIN_BYTES_MAX: u64 = 4 << 20;
/// How each part of a PEM text begins, and one that is a certificate (RFC 7468).
const PEM_BEGIN: &str = "-----BEGIN ";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Where tunnels to the server are asked for, and what is said there of who asks.
type Proxy = (Uri, Option<HeaderValue>);

/// Of how many parts of the time for all of it so many are a program's.
const PROGRAM_PART: (u32, u32) = (9, 10);

fn refuse(act: &str, why: impl ToString) -> SourceError {
    // Whoever renews the file may be about to.
    SourceError::Api { act: act.to_owned(), why: why.to_string(), transient: true }
}

/// A client that outlives its server must notice that it has gone: a connection on which nothing comes is asked whether it is one.
const PING_EVERY: Duration = Duration::from_secs(15);
/// How long the answer may take.
const PING_LIMIT: Duration = Duration::from_secs(10);
/// Idle connections that are kept, where the server does not speak HTTP/2.
const IDLE_MAX: usize = 4;

/// Somebody to ask.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) client: Client,
    /// The server's address.
    pub(super) server: String,
    /// Until when how it is logged in is valid, as far as that can be seen from here.
    pub(super) term: Option<Term>,
    /// This role has been refused a patch of a pod's status.
    pub(super) patch_is_refused: Arc<AtomicBool>,
    /// Another number for another login, as far as files say it; none where a program does.
    pub(super) login: Option<u128>,
    /// What of the login this server is not told, and why.
    pub(super) withheld: Option<String>,
}

/// By a kubeconfig, or by what a pod has of its cluster, within a time: files that are named may be no files, and a program may hang.
///
/// # Errors
/// What is named cannot be read, or not in time, or says nothing that can be connected to.
pub(super) async fn within(kubeconfig: Option<PathBuf>, limit: Limit) -> Result<Connected, SourceError> {
    // It is killed before nobody waits for it any more.
    let (part, of) = PROGRAM_PART;
    let until = Instant::now() + limit.time() * part / of;
    let Ok(connected) = tokio::time::timeout(limit.time(), client(kubeconfig, until)).await else {
        let why = format!("the kubeconfig, or what it names, is not read within {limit}");
        return Err(refuse("preparing to ask the API server", why));
    };
    connected
}

/// Away from the thread that keeps the time: a file may take long.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    // A library's defect is no reason to wait for a file.
    let panicked = || refuse("preparing to ask the API server", "the kubeconfig is such that reading it panicked");
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(panicked()))
}

async fn client(kubeconfig: Option<PathBuf>, until: Instant) -> Result<Connected, SourceError> {
    let found = aside(move || {
        let ((mut found, proxy), act) = match kubeconfig.as_deref() {
            Some(path) => (of_file(path)?, format!("logging in as the kubeconfig {} says", path.display())),
            None => {
                let act = "reading what this pod has of its cluster (service account)".to_owned();
                ((KubeConfig::incluster_env().map_err(|e| refuse(&act, e))?, None), act)
            }
        };
        let login = number_of(&found.auth_info);
        let withheld = withhold(&mut found);
        Ok((found, proxy, act, login, withheld))
    });
    let (mut found, proxy, act, login, withheld) = found.await?;
    let said = program::log_in(&mut found.auth_info, until).await.map_err(|why| refuse(&act, why))?;
    aside(move || {
        let server = found.cluster_url.to_string().trim_end_matches('/').to_owned();
        let term = said.or_else(|| term(&found.auth_info));
        let act = format!("preparing to connect to {server}");
        let client = stack(found, proxy).map_err(|e| refuse(&act, unquoted(&e.to_string())))?;
        Ok(Connected { client, server, term, patch_is_refused: Arc::default(), login, withheld })
    })
    .await
}

/// Of all that it says and of the files that it names.
fn number_of(login: &AuthInfo) -> Option<u128> {
    if login.exec.is_some() || login.auth_provider.is_some() {
        return None;
    }
    let mut all = serde_json::to_vec(login).ok()?;
    for path in [&login.token_file, &login.client_certificate, &login.client_key].into_iter().flatten() {
        all.extend(crate::sources::read(Path::new(path)).ok()?);
        all.push(0);
    }
    Some(fnv1a_128(&all))
}

/// Everybody on the way to a server without TLS could read a token, and be plexus from then on (client-go sends it). One on this machine is
/// where it is: `kubectl proxy`, above all. Whoever asks for no login is asked all the same.
fn withhold(found: &mut KubeConfig) -> Option<String> {
    if found.cluster_url.scheme() != Some(&Scheme::HTTP) || is_own(found.cluster_url.host()?) {
        return None;
    }
    let login = &mut found.auth_info;
    let secrets = [
        ("token", login.token.take().is_some() | login.token_file.take().is_some()),
        ("password", login.password.take().is_some() | login.username.take().is_some()),
        ("token of its program", login.exec.take().is_some() | login.auth_provider.take().is_some()),
    ];
    let (what, _) = secrets.iter().find(|(_, has)| *has)?;
    let server = found.cluster_url.to_string();
    let server = server.trim_end_matches('/');
    let why = format!(
        "the {what} of the kubeconfig is not sent to {server}: everybody on the way could read it; the server is to be https://"
    );
    warn(&why);
    Some(why)
}

/// Whether a host is this machine.
fn is_own(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// A clock may be wrong: who has an expired certificate is not refused here, but told of it when the server refuses.
fn term(login: &AuthInfo) -> Option<Term> {
    let which = login.client_certificate.as_deref();
    let pem = match (&login.client_certificate_data, which) {
        (Some(data), _) => certificate::text_of(data)?,
        (None, Some(path)) => String::from_utf8(crate::sources::read(Path::new(path)).ok()?).ok()?,
        (None, None) => return None,
    };
    Term::of(&pem, which.unwrap_or("the kubeconfig"))
}

/// A file that has both, as client-go's certificate store makes them, is read once: a moment later it may be another. And each
/// certificate in it is shown once. One that cannot be read is told of by whoever needs it.
fn split_pair(login: &mut AuthInfo) {
    let Some(path) = login.client_certificate.as_ref().filter(|path| login.client_key.as_ref() == Some(*path)) else {
        return;
    };
    if login.client_certificate_data.is_some() || login.client_key_data.is_some() {
        return;
    }
    if let Some(text) = crate::sources::read(Path::new(path)).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
        let (certificates, rest): (Vec<&str>, Vec<&str>) = blocks(&text).partition(|block| block.contains(CERTIFICATE));
        login.client_certificate_data = Some(certificate::base64(certificates.concat().as_bytes()));
        login.client_key_data = Some(certificate::base64(rest.concat().as_bytes()).into());
    }
}

/// A token as tools write it has a line's end after it, which no header may have (client-go trims it).
fn trim_token(login: &mut AuthInfo) -> Result<(), String> {
    let shown = serde_json::to_value(&*login).unwrap_or_default();
    let inline = shown.get("token").and_then(Value::as_str).filter(|token| !token.is_empty());
    let (token, which) = match (inline, &login.token_file) {
        (Some(token), _) => (token.to_owned(), "its token".to_owned()),
        (None, Some(path)) => {
            let bytes = crate::sources::read(Path::new(path)).map_err(|why| format!("{path}: {why}"))?;
            (String::from_utf8(bytes).map_err(|e| format!("{path}: {e}"))?, format!("the token in {path}"))
        }
        (None, None) => return Ok(()),
    };
    let trimmed = token.trim();
    if trimmed.is_empty() {
        return Err(format!("{which} is empty"));
    }
    if trimmed.chars().any(|c| c.is_control() || !c.is_ascii()) {
        return Err(format!("{which} is no token: it has characters that none has"));
    }
    // A file that is as it should be stays one, and is read again from time to time.
    if trimmed.len() != token.len() {
        (login.token, login.token_file) = (Some(trimmed.to_owned().into()), None);
    }
    Ok(())
}

/// What a PEM text consists of: each with its end.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let starts: Vec<usize> = text.match_indices(PEM_BEGIN).map(|(at, _)| at).collect();
    let ends: Vec<usize> = starts.iter().copied().skip(1).chain([text.len()]).collect();
    starts.into_iter().zip(ends).filter_map(|(from, to)| text.get(from..to))
}

/// Files that a kubeconfig names are read by others, who wait for whatever they are (a FIFO), and read all of it (a device).
fn check_files(kubeconfig: &Kubeconfig) -> Result<(), String> {
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let logins = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let of_login =
        |login: &'_ AuthInfo| [login.client_certificate.clone(), login.client_key.clone(), login.token_file.clone()];
    let authorities = clusters.map(|cluster| cluster.certificate_authority.clone());
    let paths = authorities.chain(logins.flat_map(of_login)).flatten().filter(|path| !path.is_empty());
    for path in paths {
        // Where it is missing, whoever needs it says so.
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if !meta.is_file() || meta.len() > LOGIN_BYTES_MAX {
            return Err(format!("{path} is no file of at most {LOGIN_BYTES_MAX} bytes"));
        }
    }
    Ok(())
}

/// What a parser says without the lines that it quotes: secrets may be in them, and this is written to logs.
fn unquoted(why: &str) -> &str {
    why.lines().next().unwrap_or_default()
}

/// What the current context of a kubeconfig names, ready to be used.
fn current(path: &Path) -> Result<Kubeconfig, String> {
    let text = String::from_utf8(crate::sources::read(path)?).map_err(|e| e.to_string())?;
    let mut kubeconfig = Kubeconfig::from_yaml(&text).map_err(|e| unquoted(&e.to_string()).to_owned())?;
    absolute(&mut kubeconfig, path.parent().unwrap_or(Path::new("/")));
    narrow(&mut kubeconfig);
    check_files(&kubeconfig)?;
    reach(&mut kubeconfig)?;
    Ok(kubeconfig)
}

/// Leaves the current context and what it names: nobody needs what it does not, whatever that is. Where anything is missing, whoever
/// needs it says so.
fn narrow(kubeconfig: &mut Kubeconfig) {
    let wanted = kubeconfig.current_context.clone().unwrap_or_default();
    let Kubeconfig { contexts, clusters, auth_infos, .. } = kubeconfig;
    contexts.retain(|named| named.name == wanted);
    let context = contexts.first().and_then(|named| named.context.clone()).unwrap_or_default();
    clusters.retain(|named| named.name == context.cluster);
    auth_infos.retain(|named| Some(&named.name) == context.user.as_ref());
    // Of several of one name the first counts.
    clusters.truncate(1);
    auth_infos.truncate(1);
    for cluster in clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        without_empty(cluster);
    }
    for login in auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        without_empty(login);
    }
}

/// An empty text says nothing, as if it were not there (client-go): beside an empty `certificate-authority-data` the file counts.
fn without_empty<T: Serialize + DeserializeOwned>(said: &mut T) {
    let Ok(Value::Object(mut all)) = serde_json::to_value(&*said) else { return };
    all.retain(|_, value| value.as_str() != Some(""));
    if let Ok(left) = serde_json::from_value(Value::Object(all)) {
        *said = left;
    }
}

/// Its server's address, as client-go completes it.
fn reach(kubeconfig: &mut Kubeconfig) -> Result<(), String> {
    let login = kubeconfig.auth_infos.first().and_then(|named| named.auth_info.as_ref());
    let has_certificate =
        login.is_some_and(|login| login.client_certificate.is_some() || login.client_certificate_data.is_some());
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        let has_authority = cluster.certificate_authority.is_some() || cluster.certificate_authority_data.is_some();
        let is_tls = has_certificate || has_authority || cluster.insecure_skip_tls_verify == Some(true);
        let server = cluster.server.as_deref().unwrap_or_default();
        cluster.server = Some(address::of_server(server, is_tls)?);
    }
    Ok(())
}

fn of_file(path: &Path) -> Result<(KubeConfig, Option<Proxy>), SourceError> {
    let act = format!("reading the kubeconfig {}", path.display());
    let mut kubeconfig = current(path).map_err(|why| refuse(&act, why))?;
    for login in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        split_pair(login);
        trim_token(login).map_err(|why| refuse(&act, why))?;
    }
    let mut proxy = None;
    // One at most is left: that of the current context.
    if let Some(cluster) = kubeconfig.clusters.first().and_then(|named| named.cluster.as_ref()) {
        let said = cluster.proxy_url.as_deref().map(address::of_proxy).transpose();
        proxy = said.map_err(|why| refuse(&act, why))?;
    }
    let mut found = KubeConfig::try_from(kubeconfig).map_err(|e| refuse(&act, unquoted(&e.to_string())))?;
    let asks_nobody = found.accept_invalid_certs || found.cluster_url.scheme_str() == Some("http");
    if asks_nobody && found.root_cert.is_none() {
        // The machine's own authorities, hundreds of files, need not be read for that, and in an image there are none.
        found.root_cert = Some(Vec::new());
    }
    // What the runtime's environment says (HTTPS_PROXY) is how images are fetched, not how the node reaches its API server.
    found.proxy_url = None;
    Ok((found, proxy))
}

/// Where a kubeconfig's cluster is, as a kubeconfig beside another login has it: who signed for the server is in it, and no file.
///
/// # Errors
/// A sentence: it cannot be read, or names no cluster.
pub(super) fn cluster_of(path: &Path) -> Result<Value, String> {
    let told = |why: String| format!("{}: {why}", path.display());
    let kubeconfig = current(path).map_err(told)?;
    let wanted = kubeconfig.current_context.as_deref().unwrap_or_default();
    let context =
        kubeconfig.contexts.iter().find(|named| named.name == wanted).and_then(|named| named.context.as_ref());
    let context = context.ok_or_else(|| told(format!("its current context {wanted:?} is not in it")))?;
    let named = kubeconfig.clusters.iter().find(|named| named.name == context.cluster);
    let mut cluster = named
        .and_then(|named| named.cluster.clone())
        .ok_or_else(|| told(format!("its cluster {:?} is not in it", context.cluster)))?;
    if let Some(file) = cluster.certificate_authority.take().filter(|file| !file.is_empty())
        && cluster.certificate_authority_data.is_none()
    {
        let bytes = crate::sources::read(Path::new(&file)).map_err(|why| format!("{file}: {why}"))?;
        cluster.certificate_authority_data = Some(certificate::base64(&bytes));
    }
    serde_json::to_value(&cluster).map_err(|e| told(e.to_string()))
}

/// Paths in a kubeconfig are relative to it (client-go).
fn absolute(kubeconfig: &mut Kubeconfig, folder: &Path) {
    let fix = |path: &mut Option<String>| {
        if let Some(path) = path.as_mut().filter(|path| !path.is_empty()) {
            *path = folder.join(&*path).display().to_string();
        }
    };
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        fix(&mut cluster.certificate_authority);
    }
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        fix(&mut user.client_certificate);
        fix(&mut user.client_key);
        fix(&mut user.token_file);
        // What has no slash is looked for in PATH.
        if let Some(exec) =
            user.exec.as_mut().filter(|exec| exec.command.as_ref().is_some_and(|text| text.contains('/')))
        {
            fix(&mut exec.command);
        }
    }
}

fn stack(config: KubeConfig, proxy: Option<Proxy>) -> Result<Client, BoxError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(PING_EVERY));
    tcp.set_keepalive_interval(Some(PING_LIMIT));
    match proxy {
        None => over(&config, tcp),
        Some((uri, None)) => over(&config, Tunnel::new(uri, tcp)),
        Some((uri, Some(authorization))) => over(&config, Tunnel::new(uri, tcp).with_auth(authorization)),
    }
}

/// Over whatever makes connections.
fn over<C>(config: &KubeConfig, connector: C) -> Result<Client, BoxError>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + Connection + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let tls = config.rustls_client_config()?;
    let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let builder = match config.tls_server_name.clone() {
        Some(name) => builder.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name.try_into()?)),
        None => builder,
    };
    let https = builder.enable_all_versions().wrap_connector(connector);
    let http = hyper_util::client::legacy::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_max_idle_per_host(IDLE_MAX)
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_LIMIT)
        .build::<_, Body>(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_kubeconfig_is_told() {
        let path = std::env::temp_dir().join(format!("plexus-connect-{}", std::process::id()));
        for user in
            ["token: hush, token: hush", "token: [hush]", "exec: hush", "hush", "token: hush, exec: {env: hush}"]
        {
            let text = format!("current-context: c\nusers:\n- name: u\n  user: {{{user}}}\n");
            std::fs::write(&path, text).unwrap();
            let told = [cluster_of(&path).unwrap_err(), of_file(&path).unwrap_err().to_string()];
            assert!(told.iter().all(|why| !why.contains("hush") && why.lines().count() == 1), "{user}: {told:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
