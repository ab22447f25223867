//! How the node reaches the API server while the daemon is away: a kubeconfig of the daemon's own service account. The kubelet
//! renews the token, so each look compares. It does not know who reads the file.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::durable;
use crate::install;
use crate::sources;
use crate::takeover::base64;

/// Where a pod's service account is.
const FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Who has the token is the daemon.
const MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Where `token` and `ca.crt` are.
    pub folder: PathBuf,
    /// The API server's address.
    pub server: String,
    /// Whoever answers there is believed: its certificate is not looked at.
    pub insecure: bool,
}

impl Account {
    /// The pod's own, where it has one. `variable`: what the environment says.
    pub fn of_pod(variable: &dyn Fn(&str) -> Option<String>) -> Option<Account> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let (host, port) = (given("KUBERNETES_SERVICE_HOST")?, given("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Some(Account { folder: PathBuf::from(FOLDER), server: format!("https://{host}:{port}"), insecure: false })
    }

    /// Looks whether the token and the authority are there.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        self.kubeconfig().map(drop)
    }

    /// Brings the file up to date. Whether it was not.
    ///
    /// # Errors
    /// A sentence; then the file is as it was.
    pub(super) fn renew(&self, path: &Path) -> Result<bool, String> {
        let bytes = self.kubeconfig()?;
        let is_private =
            fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o777 == MODE);
        if is_private && fs::read(path).is_ok_and(|found| found == bytes) {
            return Ok(false);
        }
        let refused = |e: std::io::Error| format!("{}: {e}", path.display());
        let folder = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(refused)?;
        // While a DaemonSet is rolled out two may write it: what one has not finished must not get the name by the other.
        let _held = install::hold(folder)?;
        durable::replace(path, &bytes, MODE).map_err(refused)?;
        Ok(true)
    }

    /// In JSON, which is YAML: nothing in it needs to be quoted otherwise.
    fn kubeconfig(&self) -> Result<Vec<u8>, String> {
        let token = self.text("token")?;
        let token = token.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("{}: it is no token", self.folder.join("token").display()));
        }
        let cluster = match self.insecure {
            true => json!({"server": self.server, "insecure-skip-tls-verify": true}),
            false => json!({"server": self.server, "certificate-authority-data": self.authority()?}),
        };
        let whole = json!({"apiVersion": "v1", "kind": "Config", "current-context": "plexus",
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": "plexus", "user": {"token": token}}],
            "contexts": [{"name": "plexus", "context": {"cluster": "local", "user": "plexus"}}]});
        let mut bytes = serde_json::to_vec_pretty(&whole).map_err(|e| e.to_string())?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn authority(&self) -> Result<String, String> {
        let authority = self.text("ca.crt")?;
        if !authority.contains("-----BEGIN CERTIFICATE-----") || !authority.contains("-----END CERTIFICATE-----") {
            return Err(format!("{}: it is no certificate", self.folder.join("ca.crt").display()));
        }
        Ok(base64::encode(authority.as_bytes()))
    }

    fn text(&self, name: &str) -> Result<String, String> {
        let path = self.folder.join(name);
        let refused = |why: String| format!("{}: {why}", path.display());
        let bytes = sources::read(&path).map_err(refused)?;
        String::from_utf8(bytes).map_err(|e| refused(e.to_string()))
    }
}
