//! Descriptions of devices for the runtime (Container Device Interface 0.5): a file for each resource. Devices without a node are
//! not in it, for a description of nothing is refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use backends::sysfs::PciAddress;
use serde_json::{Value, json};

use super::answer::{Node, share};
use super::stock::Shelf;
use crate::config::devices::Resource;
use crate::durable;

/// The first version that takes names that begin with a digit, and paths of the host.
const VERSION: &str = "0.5.0";
/// The class of all of them: the SR-IOV network device plugin's.
const CLASS: &str = "net-pci";
/// Whoever writes such files begins their names in its own way.
const BEGIN: &str = "plexus-";
/// Begins annotations that runtimes read.
const ANNOTATION: &str = "cdi.k8s.io";

/// A device as the runtime finds it.
pub(super) fn device(resource: &Resource, address: &PciAddress) -> String {
    format!("{}/{CLASS}={address}", resource.prefix)
}

/// The annotation that names devices.
pub(super) fn annotation(resource: &Resource) -> String {
    format!("{ANNOTATION}/{}_{CLASS}", resource.prefix)
}

fn file(dir: &Path, resource: &Resource) -> PathBuf {
    dir.join(format!("{BEGIN}{}-{CLASS}-{}.json", resource.prefix, resource.name))
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
    let kind = format!("{}/{CLASS}", shelf.resource.prefix);
    (!devices.is_empty()).then(|| json!({"cdiVersion": VERSION, "kind": kind, "devices": devices}))
}

/// Describes a resource as it is now.
///
/// # Errors
/// The file cannot be read or written.
pub(super) fn write(dir: &Path, shelf: &Shelf, node: &dyn Node) -> io::Result<()> {
    let path = file(dir, &shelf.resource);
    let Some(description) = description(shelf, node) else {
        return durable::remove(&path);
    };
    let text = description.to_string();
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    durable::replace(&path, text.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use backends::sysfs::Reach;

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
        let path = dir.join("plexus-a.b-net-pci-vf.json");
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
        fs::remove_dir_all(&dir).unwrap();
    }
}
