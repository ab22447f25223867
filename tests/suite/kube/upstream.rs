//! Connections to the real server: TLS over the Unix socket of the serving process. It does not know who asks, nor what.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http_body_util::combinators::BoxBody;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::server::SOCKET;

/// A request's or an answer's bytes, whoever makes them.
pub(crate) type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The certificates that clients have, by their names in the server's directory.
const CLIENTS: [&str; 3] = ["client", "client-next", "client-expired"];

/// The real server, as a process in any network namespace reaches it.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    folder: PathBuf,
}

impl Upstream {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// A file of the server's directory: `ca.crt`, `client.key`, ...
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A connection, with the certificate `client` if one is named. It waits until the server is ready.
    pub(crate) async fn connect(&self, client: Option<&str>) -> io::Result<SendRequest<Body>> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.authority());
        let config = match client {
            Some(name) => {
                let (chain, key) = self.identity(name);
                config.with_client_auth_cert(chain, key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let socket = UnixStream::connect(self.file(SOCKET)).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Its failure is the failure of the request that waits on it.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// What a client says goes to the real server, and the other way, until one of them ends.
    pub(crate) async fn pass_through(&self, mut client: TcpStream) {
        // The end of a connection is the client's business.
        if let Ok(mut server) = UnixStream::connect(self.file(SOCKET)).await {
            drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
        }
    }

    /// Who may sign certificates of servers and clients.
    pub(crate) fn authority(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.file("ca.crt"))).unwrap();
        Arc::new(roots)
    }

    /// The certificate `name` and its key.
    pub(crate) fn identity(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key"))).unwrap();
        (vec![certificate(&self.file(&format!("{name}.crt")))], key)
    }

    /// The name of a certificate that a client has shown.
    pub(crate) fn name_of(&self, shown: &CertificateDer<'_>) -> Option<&'static str> {
        CLIENTS.into_iter().find(|name| certificate(&self.file(&format!("{name}.crt"))) == *shown)
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
