//! The page `docs/configuration.md`, made of the tables of all keys. It does not know what becomes of a value.

use std::fmt::Write as _;

use super::daemon::{CERTIFICATE_KEYS, DAEMON_KEYS, FILE};
use super::devices::{DEVICES_KEYS, RESOURCE_KEYS, SELECTOR_KEYS};
use super::keys::{ACCEPTED, KEYS, Key, LOG_KEYS};

const TOP: &str = "# The configuration of plexus

Made of the tables in `src/config/`; a test fails when it is not what they say. To write it anew:

```sh
PLEXUS_WRITE_DOCS=1 cargo test --test tidy -- configuration
```

A node's network configuration, such as `/etc/cni/net.d/00-multus.conf`, is read under the names that Multus reads: the file of a
node that ran Multus works as it is. Keys match without regard to case, `null` and an empty text mean that a key is not given, a
value of another type is refused in Go's words. A key that is in no table is ignored, and said once after each start of the node.

*From* says whose key it is: of the CNI specification, of Multus, of Multus' daemon, or of plexus alone.
";

/// The whole page.
pub fn configuration() -> String {
    let mut page = TOP.to_owned();
    section(&mut page, "Keys", "", KEYS);
    section(&mut page, "`logOptions`", LOG, LOG_KEYS);
    page.push_str("\n## Accepted\n\nKeys that are no mistake, and that the meta-plugin itself makes nothing of.\n\n");
    page.push_str("| key | type | from | why |\n| --- | --- | --- | --- |\n");
    for Key { name, kind, origin, text, .. } in ACCEPTED {
        let _ = writeln!(page, "| `{name}` | {kind} | {} | {text} |", origin.word()); // a String takes everything
    }
    let daemon = format!(
        "\nThe file of Multus' daemon, usually `{FILE}`. It is read so that a node that runs the daemon can be taken over. Every key of \
         the first table may be in it too, and then holds over the one in the network configuration; `logToStderr` is no then, \
         unless it says otherwise.\n"
    );
    section(&mut page, "`daemon-config.json`", &daemon, DAEMON_KEYS);
    section(&mut page, "`perNodeCertificate`", CERTIFICATE, CERTIFICATE_KEYS);
    section(&mut page, "`devices`", DEVICES, DEVICES_KEYS);
    section(&mut page, "`resourceList`", "", RESOURCE_KEYS);
    section(&mut page, "`selectors`", SELECTORS, SELECTOR_KEYS);
    page
}

const LOG: &str = "\nWhere `logFile` is a regular file, it is put aside when it is full, under its name with the time in it, as \
                   `multus-2026-01-31T12-00-00.000.log`. Anything else that it may be, such as a FIFO, is written to as it is.\n";

const CERTIFICATE: &str = "
A certificate of the user `system:multus:NODE` in the group `system:multus`, of the signer `kubernetes.io/kube-apiserver-client`. It is asked for with \
the bootstrap kubeconfig, of which the server's address and authority are taken too, and renewed with itself. `plexus cert-approver` \
approves ([deployments/cert-approver.yaml](../deployments/cert-approver.yaml)), or `kubectl certificate approve`. Roles: \
[deployments/certificates.yaml](../deployments/certificates.yaml). Where the daemon keeps the node's \
configuration (`--config`), that names `plexus.kubeconfig` of `certDir`, unless `kubeconfig` is given: so `fallback`, CHECK and GC on the node log \
in by the same certificate, where `certDir` is a folder of the node's at the same path (or below `/host`). It is the daemon's login in the place of \
`--kubeconfig`.
";

const DEVICES: &str = "
The device side of SR-IOV, in the daemon: what is written here is registered with the kubelet, and plexus' own attachments take what the kubelet \
gives to a pod. How it works: [devices.md](devices.md).
";

const SELECTORS: &str = "
A device is chosen where it is as all lists that are given say; of a list one word is enough. A card is offered itself where it has no virtual \
function and no default route of the host leaves by it.
";

fn section(page: &mut String, title: &str, words: &str, keys: &[Key]) {
    let _ = write!(page, "\n## {title}\n{words}\n| key | type | not given | example | from | what it does |\n");
    page.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for key in keys {
        let unset = key.unset.json().map(|value| format!("`{value}`")).unwrap_or_default();
        let Key { name, kind, origin, example, text, .. } = key;
        let _ = writeln!(page, "| `{name}` | {kind} | {unset} | `{example}` | {} | {text} |", origin.word());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_row_and_no_text_breaks_the_table() {
        let page = configuration();
        for key in KEYS
            .iter()
            .chain(LOG_KEYS)
            .chain(ACCEPTED)
            .chain(DAEMON_KEYS)
            .chain(CERTIFICATE_KEYS)
            .chain(DEVICES_KEYS)
            .chain(RESOURCE_KEYS)
            .chain(SELECTOR_KEYS)
        {
            let rows = page.lines().filter(|line| line.starts_with(&format!("| `{}` |", key.name))).count();
            assert!(rows >= 1, "{}", key.name);
            assert!(!key.text.contains('|') && key.text.ends_with('.'), "{}", key.name);
        }
    }
}
