//! Which programs of user space have functions that are bound to vfio-pci. Only looks: to open a group's file as [`super::binding`] does would keep
//! a program from it that starts in that instant.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Serialize;

use super::binding::{GROUPS, VFIO, group_names};
use crate::sysfs::{PciAddress, Sysfs};

/// Where the kernel shows what processes have open (proc_pid_fd(5)).
const PROC: &str = "/proc";
/// More than a node has processes, and more than any one of them has files.
const PROCESSES_MAX: usize = 1 << 16;
const FILES_MAX: usize = 1 << 16;
/// Bytes of a process' name that are shown; the kernel keeps 15 (`TASK_COMM_LEN`, include/linux/sched.h).
const NAME_BYTES_MAX: usize = 64;

/// Who has a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Its process; none where it cannot be seen from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its number.
    pub id: u32,
    /// What it is called, by itself.
    pub name: String,
}

/// The files of vfio that programs have open, as they were when it was asked for.
#[derive(Clone, Debug)]
pub struct Users {
    dir: PathBuf,
    processes: BTreeMap<PathBuf, Process>,
}

impl Users {
    /// Looks through all processes that can be seen.
    #[must_use]
    pub fn look() -> Self {
        Self::look_in(Path::new(GROUPS), Path::new(PROC))
    }

    /// The same of other places than a node has: `dir` for `/dev/vfio`.
    #[must_use]
    pub fn look_in(dir: &Path, proc: &Path) -> Self {
        let mut processes = BTreeMap::new();
        for entry in entries(proc, PROCESSES_MAX) {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            for file in entries(&entry.path().join("fd"), FILES_MAX) {
                let Ok(path) = fs::read_link(file.path()) else { continue };
                if path.starts_with(dir) && is_same_file(&file.path(), &path) && !is_place(&entry.path(), &file) {
                    processes.entry(path).or_insert_with(|| Process { id, name: name_of(&entry.path()) });
                }
            }
        }
        Self { dir: dir.to_owned(), processes }
    }

    /// Who has a function; none where nobody has, or where its driver is another one.
    #[must_use]
    pub fn of(&self, sysfs: &Sysfs, address: &PciAddress) -> Option<User> {
        if sysfs.driver(address).as_deref() != Some(VFIO) {
            return None;
        }
        let groups = sysfs.iommu_group(address).map(group_names).into_iter().flatten();
        // With iommufd a program opens the file of the device, and none of its group.
        let devices = sysfs.vfio_devices(address).into_iter().map(|name| format!("devices/{name}"));
        let process = groups.chain(devices).find_map(|name| self.processes.get(&self.dir.join(name)));
        let user = User { process: process.cloned() };
        (user.process.is_some() || sysfs.is_enabled(address)).then_some(user)
    }
}

fn entries(dir: &Path, most: usize) -> impl Iterator<Item = DirEntry> {
    fs::read_dir(dir).into_iter().flatten().take(most).filter_map(Result::ok)
}

/// Whether what a process has open is what has that path here: in a container a path may lead to something else.
fn is_same_file(open: &Path, path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|about| about.rdev());
    matches!((device(open), device(path)), (Ok(open), Ok(here)) if open == here)
}

/// Whether a process has but the place of a file (`O_PATH`, open(2)): that keeps nobody from the device, and nobody who may make a node is kept
/// from it.
fn is_place(process: &Path, file: &DirEntry) -> bool {
    let about = fs::read_to_string(process.join("fdinfo").join(file.file_name())).unwrap_or_default();
    let flags = about.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| OFlag::from_bits_retain(flags).contains(OFlag::O_PATH))
}

/// A process calls itself what it likes, in any bytes.
fn name_of(process: &Path) -> String {
    let name = fs::read(process.join("comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    let plain = name.trim_end().chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' });
    plain.take(NAME_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{OpenOptionsExt, symlink};

    use super::*;
    use crate::sysfs::tests::Tree;

    #[test]
    fn who_has_a_function_is_the_process_that_has_its_group_or_its_device_open() {
        let tree = Tree::new("users").with_functions(1);
        let (sysfs, address) = (tree.sysfs(), "0000:01:10.0".parse().unwrap());
        let (device, dir) = (tree.0.join("bus/pci/devices/0000:01:10.0"), tree.0.join("vfio"));
        fs::create_dir_all(dir.join("devices")).unwrap();
        fs::create_dir_all(device.join("vfio-dev/vfio3")).unwrap();
        let user = || Users::look_in(&dir, Path::new(PROC)).of(&sysfs, &address);
        for name in ["8", "noiommu-8", "devices/vfio3"] {
            fs::write(dir.join(name), "").unwrap();
            let open = fs::File::open(dir.join(name)).unwrap();
            assert_eq!(user(), None, "{name}: it is bound to another driver");
            fs::remove_file(device.join("driver")).unwrap();
            symlink("/x/drivers/vfio-pci", device.join("driver")).unwrap();
            let process = user().unwrap().process.unwrap();
            assert_eq!((process.id, process.name), (std::process::id(), name_of(Path::new("/proc/self"))), "{name}");
            drop(open);
            let place =
                fs::OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(dir.join(name)).unwrap();
            assert_eq!(user(), None, "{name}: nobody has it open");
            drop(place);
            fs::remove_file(device.join("driver")).unwrap();
            symlink("/x/drivers/igbvf", device.join("driver")).unwrap();
        }
    }

    #[test]
    fn one_whose_process_cannot_be_seen_is_had_all_the_same() {
        let tree = Tree::new("unseen").with_functions(1);
        let device = tree.0.join("bus/pci/devices/0000:01:10.0");
        fs::remove_file(device.join("driver")).unwrap();
        symlink("/x/drivers/vfio-pci", device.join("driver")).unwrap();
        let nowhere = tree.0.join("no such folder");
        let user = || Users::look_in(&nowhere, &nowhere).of(&tree.sysfs(), &"0000:01:10.0".parse().unwrap());
        fs::write(device.join("enable"), "0\n").unwrap();
        assert_eq!(user(), None);
        fs::write(device.join("enable"), "1\n").unwrap();
        assert_eq!(user(), Some(User { process: None }));
    }

    #[test]
    fn what_a_process_calls_itself_is_shown_in_plain_characters() {
        let tree = Tree::new("names");
        let folder = tree.0.join("7");
        fs::create_dir_all(&folder).unwrap();
        for (comm, shown) in [
            (&b"dpdk-testpmd\n"[..], "dpdk-testpmd"),
            (b"a\xffb\n", "a?b"),
            ("a\u{202e}b\u{200b}\n".as_bytes(), "a?b?"),
            (b"a\x1b[2Jb\n", "a?[2Jb"),
            (&[b'x'; 4096], &"x".repeat(NAME_BYTES_MAX)),
            (b"", ""),
        ] {
            fs::write(folder.join("comm"), comm).unwrap();
            assert_eq!(name_of(&folder), shown);
        }
    }

    #[test]
    fn what_vanishes_while_it_is_looked_at_is_passed_over() {
        let tree = Tree::new("vanished").with_functions(1);
        let (proc, dir) = (tree.0.join("proc"), tree.0.join("vfio"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("8"), "").unwrap();
        let device = tree.0.join("bus/pci/devices/0000:01:10.0");
        fs::remove_file(device.join("driver")).unwrap();
        symlink("/x/drivers/vfio-pci", device.join("driver")).unwrap();
        for name in ["self/fd", "1", "2/fd", "3/fd", "4294967296/fd", "-5/fd", "6/fd"] {
            fs::create_dir_all(proc.join(name)).unwrap();
        }
        // No link, a file that is gone, one that is no folder of files, another's of the same name, and numbers that are no process'.
        fs::write(proc.join("2/fd/0"), "").unwrap();
        symlink(dir.join("9"), proc.join("3/fd/0")).unwrap();
        fs::write(proc.join("1/fd"), "").unwrap();
        for place in ["4294967296/fd/0", "-5/fd/0", "self/fd/0"] {
            symlink(dir.join("8"), proc.join(place)).unwrap();
        }
        let user = || Users::look_in(&dir, &proc).of(&tree.sysfs(), &"0000:01:10.0".parse().unwrap());
        assert_eq!(user(), None);
        // Its name cannot be read any more.
        symlink(dir.join("8"), proc.join("6/fd/0")).unwrap();
        assert_eq!(user(), Some(User { process: Some(Process { id: 6, name: String::new() }) }));
    }
}
