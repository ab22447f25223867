//! Many at once on one pool: threads, processes, and one that does as the Go plugin does.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;

use nix::fcntl::{Flock, FlockArg};

use super::*;

const ROUNDS: u32 = 60;

/// The Go plugin's way, for one set that is a /24: walk, exclusive create, last reserved address.
fn go_add(dir: &Path, content: &str) -> String {
    fs::create_dir_all(dir).unwrap();
    let file =
        fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join("lock")).unwrap();
    let _lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    let last = fs::read_to_string(dir.join("last_reserved_ip.0")).unwrap_or_default();
    let last: u32 = last.rsplit('.').next().and_then(|end| end.parse().ok()).unwrap_or(1);
    for nth in 0..254 {
        let host = (last + nth) % 254 + 1;
        let ip = format!("10.0.0.{host}");
        if host != 1 && fs::OpenOptions::new().write(true).create_new(true).open(dir.join(&ip)).is_ok() {
            fs::write(dir.join(&ip), content).unwrap();
            fs::write(dir.join("last_reserved_ip.0"), &ip).unwrap();
            return ip;
        }
    }
    panic!("full");
}

fn go_del(dir: &Path, content: &str) {
    let _lock = Flock::lock(fs::File::open(dir.join("lock")).unwrap(), FlockArg::LockExclusive).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if fs::read_to_string(&path).unwrap() == content {
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn threads_and_the_go_plugin_share_a_pool() {
    let ground = Ground::new();
    let held = Mutex::new(BTreeSet::new());
    let take = |ip: &str| assert!(held.lock().unwrap().insert(ip.to_owned()), "{ip} was given out twice");
    let give = |ip: &str| assert!(held.lock().unwrap().remove(ip));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (ground, take, give) = (&ground, &take, &give);
            scope.spawn(move || {
                let pool = ground.pool(&one_range("10.0.0.0/24"));
                for round in 0..ROUNDS {
                    let [one, two] = [0, 1].map(|nth| format!("t{thread}-{round}-{nth}"));
                    for sandbox in [&one, &two] {
                        take(&add(&pool, sandbox).unwrap()[0]);
                    }
                    let ip = pool.held_by(&owner(&one)).unwrap()[0].to_string();
                    give(&ip);
                    pool.del(&owner(&one)).unwrap();
                    if round % 2 == 0 {
                        give(&pool.held_by(&owner(&two)).unwrap()[0].to_string());
                        pool.del(&owner(&two)).unwrap();
                    }
                }
            });
        }
        scope.spawn(|| {
            for round in 0..ROUNDS {
                let content = format!("go-{round}\r\neth0");
                let ip = go_add(&ground.dir(), &content);
                take(&ip);
                give(&ip);
                go_del(&ground.dir(), &content);
            }
        });
    });
    let left: BTreeSet<String> = ground.leases().into_keys().collect();
    assert_eq!(left, *held.lock().unwrap());
    assert_eq!(left.len(), 4 * 30);
}

/// Not a test of its own: what each process of the next one does.
#[test]
fn process() {
    let Ok(setting) = std::env::var("IPAM_TEST_PROCESS") else { return };
    let (root, name) = setting.split_once('|').unwrap();
    let section = json!({ "dataDir": format!("{root}/data"), "ranges": [[{ "subnet": "10.0.0.0/16" }], [{ "subnet": "fd00::/64" }]] });
    let section: Section = serde_json::from_value(section).unwrap();
    let pool = Pool::new(section, "net", &Requests::default(), &Path::new(root).join("state")).unwrap();
    for round in 0..ROUNDS {
        let sandbox = format!("{name}-{round}");
        let got = add(&pool, &sandbox).unwrap();
        let mut held: Vec<_> = pool.held_by(&owner(&sandbox)).unwrap().iter().map(ToString::to_string).collect();
        held.sort();
        assert_eq!(held, got);
        if round % 3 == 0 {
            pool.del(&owner(&sandbox)).unwrap();
        }
    }
}

#[test]
fn processes_share_a_pool() {
    let ground = Ground::new();
    let mut children: Vec<_> = (0..4)
        .map(|nth| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "host_local::tests::crowd::process", "--quiet"])
                .env("IPAM_TEST_PROCESS", format!("{}|p{nth}", ground.root.display()))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    assert!(children.iter_mut().map(|child| child.wait().unwrap()).all(|status| status.success()));
    let leases = ground.leases();
    assert_eq!(leases.len(), 4 * 40 * 2);
    let owners: BTreeSet<_> = leases.values().collect();
    assert_eq!(owners.len(), 4 * 40);
}
