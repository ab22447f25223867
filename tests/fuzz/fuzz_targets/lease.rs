//! host-local's directory may hold anything: no file of it makes plexus panic, give an address that is held, or lose one.
//!
//! The first byte says which file has the other bytes: a lease, the last reserved address, the index, or a file of a strange name.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ipam::Owner;
use ipam::host_local::{self, Pool, Requests, Section};
use libfuzzer_sys::fuzz_target;

/// A directory of this process, in memory where there is such a place.
static GROUND: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    place.join(format!("plexus-fuzz-lease-{}", std::process::id()))
});

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, content)) = bytes.split_first() else { return };
    let (data, state) = (GROUND.join("data"), GROUND.join("state"));
    let net = data.join("net");
    let _ = fs::remove_dir_all(&*GROUND);
    fs::create_dir_all(&net).expect("a directory");
    let section: Section = serde_json::from_value(serde_json::json!({
        "subnet": "10.0.0.0/28", "dataDir": data.to_str(),
    }))
    .expect("a section");
    let pool = Pool::new(section, "net", &Requests::default(), &state).expect("a pool");
    let owner = |sandbox| Owner { sandbox, ifname: "eth0" };
    let first = pool.add(&owner("first")).expect("nothing is in the way yet");
    let target = match which % 4 {
        0 => net.join("10.0.0.3"),
        1 => net.join("last_reserved_ip.0"),
        2 => match files_below(&state).pop() {
            Some(index) => index,
            None => return,
        },
        _ => net.join(String::from_utf8_lossy(content).replace(['/', '\0'], "_").chars().take(60).collect::<String>()),
    };
    if fs::write(&target, content).is_err() {
        return; // `.`, `..`, or a name that cannot be
    }
    // A lease that nothing was written to is nobody's: a kill between making and filling it leaves that.
    let held = net.join("10.0.0.3").exists() && !content.trim_ascii().is_empty();
    if let Ok(second) = pool.add(&owner("second")) {
        let given = second.addresses[0].address.ip().to_string();
        assert_ne!(given, first.addresses[0].address.ip().to_string(), "given twice");
        assert!(!(held && given == "10.0.0.3"), "held by whatever the file says");
        assert!(net.join(&given).exists(), "nothing says that it is held");
        assert_eq!(pool.held_by(&owner("second")).map(|all| all.len()).ok(), Some(1));
    }
    let _ = (pool.usage(), host_local::held(&data, "net", &state));
    if pool.del(&owner("second")).is_ok() {
        assert_eq!(pool.held_by(&owner("second")).map(|all| all.len()).unwrap_or_default(), 0);
    }
    let _ = pool.retain(&|owner| owner.sandbox == "first");
});
