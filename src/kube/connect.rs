//! From a configuration to a client: the kubeconfig, or what a pod has of its cluster. HTTP/2 is offered, which kube's own stack
//! does not do: with it the calls of a request share one connection and one handshake.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config as KubeConfig};
use tower::{BoxError, ServiceBuilder};

use crate::sources::SourceError;

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

/// A client and the server's address, within a time: files that are named may be no files, and a program may hang.
///
/// # Errors
/// What is named cannot be read, or not in time, or says nothing that can be connected to.
pub(super) async fn within(kubeconfig: Option<PathBuf>, limit: Duration) -> Result<(Client, String), SourceError> {
    let handle = tokio::runtime::Handle::current();
    let connecting = tokio::task::spawn_blocking(move || handle.block_on(client(kubeconfig.as_deref())));
    match tokio::time::timeout(limit, connecting).await {
        Ok(Ok(connected)) => connected,
        _ => {
            let why = "the kubeconfig, or what it names, is not read within apiDeadlineMs";
            Err(refuse("preparing to ask the API server", why))
        }
    }
}

async fn client(kubeconfig: Option<&Path>) -> Result<(Client, String), SourceError> {
    let found = match kubeconfig {
        Some(path) => of_file(path).await?,
        None => KubeConfig::incluster_env()
            .map_err(|e| refuse("reading what this pod has of its cluster (service account)", e))?,
    };
    let server = found.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = stack(found).map_err(|e| refuse(&format!("preparing to connect to {server}"), e))?;
    Ok((client, server))
}

async fn of_file(path: &Path) -> Result<KubeConfig, SourceError> {
    let act = format!("reading the kubeconfig {}", path.display());
    let text = crate::sources::read(path).map_err(|why| refuse(&act, why))?;
    let text = String::from_utf8(text).map_err(|e| refuse(&act, e))?;
    let mut kubeconfig = Kubeconfig::from_yaml(&text).map_err(|e| refuse(&act, e))?;
    absolute(&mut kubeconfig, path.parent().unwrap_or(Path::new("/")));
    let has_proxy =
        kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref()).any(|c| c.proxy_url.is_some());
    let found = KubeConfig::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut found = found.map_err(|e| refuse(&act, e))?;
    if found.accept_invalid_certs && found.root_cert.is_none() {
        // Nobody is trusted and everybody is let in: the machine's own authorities, hundreds of files, need not be read for that.
        found.root_cert = Some(Vec::new());
    }
    if !has_proxy {
        // What the runtime's environment says (HTTPS_PROXY) is how images are fetched, not how the node reaches its API server.
        found.proxy_url = None;
    }
    Ok(found)
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
    }
}

fn stack(config: KubeConfig) -> Result<Client, BoxError> {
    if config.proxy_url.is_some() {
        return Ok(Client::try_from(config)?);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(PING_EVERY));
    tcp.set_keepalive_interval(Some(PING_LIMIT));
    let tls = config.rustls_client_config()?;
    let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let builder = match config.tls_server_name.clone() {
        Some(name) => builder.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name.try_into()?)),
        None => builder,
    };
    let https = builder.enable_all_versions().wrap_connector(tcp);
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
