//! Files by which a client finds the server and says who it is. It does not know who reads them.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// May do what plexus needs, and no more: see `tests/k8s/objects.yaml`.
pub(crate) const TOKEN: &str = "plexus-token";
/// The same user's, after a rotation.
pub(crate) const NEXT_TOKEN: &str = "plexus-next-token";
/// May do everything.
pub(crate) const ADMIN: &str = "admin-token";
/// Is known, and may do nothing.
pub(crate) const NOBODY: &str = "nobody-token";

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/run/secrets/kubernetes.io/serviceaccount";

/// How a kubeconfig says who asks.
#[derive(Debug, Clone)]
pub(crate) enum Login {
    /// A token in the kubeconfig itself.
    Token(String),
    /// A token in a file of its own.
    TokenFile(PathBuf),
    /// The files of a client certificate and its key.
    Files(PathBuf, PathBuf),
    /// The certificate and its key in the kubeconfig itself, from these files.
    Inline(PathBuf, PathBuf),
}

impl Login {
    /// plexus by its usual token.
    pub(crate) fn usual() -> Self {
        Self::Token(TOKEN.to_owned())
    }

    fn user(&self) -> Value {
        match self {
            Self::Token(token) => json!({"token": token}),
            Self::TokenFile(path) => json!({"tokenFile": path}),
            Self::Files(certificate, key) => json!({"client-certificate": certificate, "client-key": key}),
            Self::Inline(certificate, key) => {
                json!({"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)})
            }
        }
    }
}

/// A kubeconfig's text: JSON is YAML.
pub(crate) fn kubeconfig(server: &str, authority: &Path, login: &Login, namespace: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "tests",
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "plexus", "namespace": namespace}}],
        "clusters": [{"name": "tests", "cluster": {"server": server, "certificate-authority-data": encoded(authority)}}],
        "users": [{"name": "plexus", "user": login.user()}]})
    .to_string()
}

/// Writes the files that a pod's process finds in its cluster.
pub(crate) fn service_account(authority: &Path, token: &str, namespace: &str) {
    let folder = Path::new(SERVICE_ACCOUNT);
    fs::create_dir_all(folder).unwrap();
    fs::copy(authority, folder.join("ca.crt")).unwrap();
    fs::write(folder.join("token"), token).unwrap();
    fs::write(folder.join("namespace"), namespace).unwrap();
}

fn encoded(path: &Path) -> String {
    BASE64.encode(fs::read(path).unwrap())
}
