//! Descriptions of devices for the runtime (Container Device Interface 0.5): a file for each resource. Devices without a node are
//! not in it, for a description of nothing is refused.
//!
//! A device that two files describe is refused by the runtime: files of resources that there are no more are removed. Ours is what is
//! called as we call it, and describes what its name says.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use backends::sysfs::PciAddress;
use serde_json::{Value, json};

use super::answer::{Node, share};
use super::stock::Shelf;
use crate::config::devices::Resource;
use crate::durable;
use crate::journal::fnv1a_128;

/// The first version that takes names that begin with a digit, and paths of the host.
const VERSION: &str = "0.5.0";
/// The class of all of them: the SR-IOV network device plugin's.
const CLASS: &str = "net-pci";
/// Whoever writes such files begins their names in its own way.
const BEGIN: &str = "plexus-";
const END: &str = ".json";
/// Begins annotations that runtimes read.
const ANNOTATION: &str = "cdi.k8s.io";
/// What follows that has so many bytes at most (names of Kubernetes' annotations, which the runtimes' library checks).
const ANNOTATION_BYTES_MAX: usize = 63;
/// What is left of a longer name before its hash.
const ANNOTATION_BYTES_KEPT: usize = ANNOTATION_BYTES_MAX - 33;
/// In bytes: a description of all devices of a node.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// How many files of the folder are looked at.
const FILES_MAX: usize = 4096;

/// A device as the runtime finds it.
pub(super) fn device(resource: &Resource, address: &PciAddress) -> String {
    format!("{}={address}", kind(&resource.prefix))
}

/// The annotation that names devices of a resource: one each, for of a name that a container gets twice the kubelet takes the first.
pub(super) fn annotation(resource: &Resource) -> String {
    let name = format!("{}_{}", resource.prefix, resource.name);
    if name.len() <= ANNOTATION_BYTES_MAX {
        return format!("{ANNOTATION}/{name}");
    }
    let kept: String = name.chars().take(ANNOTATION_BYTES_KEPT).collect();
    format!("{ANNOTATION}/{kept}_{:032x}", fnv1a_128(name.as_bytes()))
}

fn kind(prefix: &str) -> String {
    format!("{prefix}/{CLASS}")
}

fn file(dir: &Path, resource: &Resource) -> PathBuf {
    // No domain has the sign between: of two resources one would overwrite the other's.
    dir.join(format!("{BEGIN}{}_{CLASS}_{}{END}", resource.prefix, resource.name))
}

/// Removes what was written of resources that are not among these.
///
/// # Errors
/// The folder cannot be read, or a file not removed.
pub(super) fn tidy(dir: &Path, shelves: &[Shelf]) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let kept: BTreeSet<PathBuf> = shelves.iter().map(|shelf| file(dir, &shelf.resource)).collect();
    for entry in entries.take(FILES_MAX) {
        let path = entry?.path();
        if !kept.contains(&path) && is_own(&path) {
            durable::remove(&path)?;
        }
    }
    Ok(())
}

/// Whether a file is one of ours, by its name and by what it says.
fn is_own(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(END));
    let Some(named) = name.and_then(|name| name.strip_prefix(BEGIN)) else { return false };
    let says = said(path).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let prefix = says.as_ref().and_then(|says| says["kind"].as_str()?.strip_suffix(&format!("/{CLASS}")));
    prefix.is_some_and(|prefix| named.starts_with(&format!("{prefix}_{CLASS}_")))
}

/// What a file says; none where it is no file, or larger than one of ours: others have this folder, too, and whoever reads a FIFO waits.
fn said(path: &Path) -> Option<Vec<u8>> {
    let is_small = fs::symlink_metadata(path).is_ok_and(|file| file.is_file() && file.len() <= FILE_BYTES_MAX);
    is_small.then(|| fs::read(path).ok()).flatten()
}

/// What the runtime is told of a resource; none: there is nothing to tell.
fn description(shelf: &Shelf, node: &dyn Node) -> Option<Value> {
    let devices: Vec<Value> = shelf
        .devices
        .iter()
        .filter_map(|(address, device)| {
            let nodes = share(shelf, address, device, node).nodes.into_iter();
            let nodes: Vec<Value> =
                nodes.map(|(host, inside)| json!({"path": inside, "hostPath": host, "permissions": "rw"})).collect();
            let edits = json!({"deviceNodes": nodes});
            (!nodes.is_empty()).then(|| json!({"name": address, "containerEdits": edits}))
        })
        .collect();
    let kind = kind(&shelf.resource.prefix);
    (!devices.is_empty()).then(|| json!({"cdiVersion": VERSION, "kind": kind, "devices": devices}))
}

/// Describes a resource as it is now.
///
/// # Errors
/// The file cannot be read or written.
pub(super) fn write(dir: &Path, shelf: &Shelf, node: &dyn Node) -> io::Result<()> {
    let path = file(dir, &shelf.resource);
    let Some(description) = description(shelf, node) else {
        // Looked for: a folder that cannot be written needs not be where there is nothing to say.
        let is_absent = fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        return if is_absent { Ok(()) } else { durable::remove(&path) };
    };
    let text = description.to_string();
    if said(&path).is_some_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    durable::replace(&path, text.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use backends::sysfs::Reach;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::super::fixture::{devices, function};
    use super::super::stock::Stock;
    use super::*;

    /// Functions of a driver.
    struct Bound(RefCell<&'static str>);

    impl Node for Bound {
        fn reach(&self, _: &PciAddress) -> Reach {
            Reach { driver: Some((*self.0.borrow()).to_owned()), group: Some((8, false)), ..Reach::default() }
        }

        fn has(&self, _: &str) -> bool {
            false
        }
    }

    #[test]
    fn a_file_says_what_there_is_to_say() {
        let dir = std::env::temp_dir().join(format!("plexus-cdi-{}", std::process::id()));
        let resources = devices(&json!([{"resourceName": "vf", "selectors": {"vendors": ["8086"]}}])).resources;
        let stock = Stock::of(&resources, &[function(0)], &[], (&Stock::default(), None));
        let node = Bound(RefCell::new("vfio-pci"));
        let path = dir.join("plexus-a.b_net-pci_vf.json");
        write(&dir, &stock.shelves[0], &node).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let nodes =
            ["/dev/vfio/vfio", "/dev/vfio/8"].map(|at| json!({"path": at, "hostPath": at, "permissions": "rw"}));
        assert_eq!(
            written,
            json!({"cdiVersion": "0.5.0", "kind": "a.b/net-pci",
                "devices": [{"name": "0000:01:10.0", "containerEdits": {"deviceNodes": nodes}}]})
        );
        node.0.replace("igbvf");
        write(&dir, &stock.shelves[0], &node).unwrap();
        assert!(!path.exists());
        write(&dir, &stock.shelves[0], &node).unwrap();
        // Others write here, too: a FIFO in the file's place is not waited for.
        node.0.replace("vfio-pci");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        write(&dir, &stock.shelves[0], &node).unwrap();
        let replaced = fs::symlink_metadata(&path).unwrap().is_file();
        fs::remove_dir_all(&dir).unwrap();
        assert!(replaced);
    }

    #[test]
    fn annotation_and_file_are_a_resources_own_and_no_longer_than_may_be() {
        let of = |prefix: &str, name: &str| {
            let all = json!([{"resourceName": name, "resourcePrefix": prefix, "selectors": {"vendors": ["8086"]}}]);
            annotation(&devices(&all).resources[0])
        };
        assert_eq!(of("a.b", "vf"), "cdi.k8s.io/a.b_vf");
        let long = "x".repeat(63);
        let keys =
            [of("a.b", &long), of("a.b", &format!("{}y", &long[1..])), of(&format!("{}.y", "a.".repeat(100)), "vf")];
        for key in &keys {
            let name = key.strip_prefix("cdi.k8s.io/").unwrap();
            let is_outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            assert!(name.len() <= 63 && is_outer(name.chars().next()) && is_outer(name.chars().last()), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{name}");
        }
        assert_eq!(BTreeSet::from(keys).len(), 3);
        let place = |prefix: &str, name: &str| {
            let all = json!([{"resourceName": name, "resourcePrefix": prefix, "selectors": {"vendors": ["8086"]}}]);
            file(Path::new("/"), &devices(&all).resources[0])
        };
        assert_ne!(place("a-net-pci-b", "c"), place("a", "b-net-pci-c"));
    }

    #[test]
    fn only_what_was_written_here_is_removed() {
        let dir = std::env::temp_dir().join(format!("plexus-cdi-tidy-{}", std::process::id()));
        tidy(&dir, &[]).unwrap();
        fs::create_dir_all(&dir).unwrap();
        let own = json!({"cdiVersion": VERSION, "kind": "a.b/net-pci", "devices": []}).to_string();
        for (name, text) in [
            ("plexus-a.b_net-pci_old.json", own.as_str()),
            ("plexus-a.b_net-pci_vf.json", &own),
            ("plexus-a.b_net-pci_empty.json", ""),
            ("plexus-c.d_net-pci_old.json", &own),
            ("plexus-a.b_net-pci_old.yaml", &own),
            ("other-a.b_net-pci_old.json", &own),
        ] {
            fs::write(dir.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("plexus-a.b_net-pci_vf.json", dir.join("plexus-a.b_net-pci_link.json")).unwrap();
        let resource =
            devices(&json!([{"resourceName": "vf", "selectors": {"vendors": ["8086"]}}])).resources.remove(0);
        tidy(&dir, &[Shelf { resource, devices: std::collections::BTreeMap::new() }]).unwrap();
        let left: BTreeSet<String> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        fs::remove_dir_all(&dir).unwrap();
        assert!(left.len() == 6 && !left.contains("plexus-a.b_net-pci_old.json"), "{left:?}");
    }
}
