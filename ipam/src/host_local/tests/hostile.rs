//! Files in a pool's directory that no host-local made, and disks that are full.

use std::os::unix::fs::symlink;

use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::directory::wait_for_lock;
use super::*;
use crate::fault::fail_at;

#[test]
fn del_removes_lease_files_only() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/24"));
    add(&pool, "c").unwrap();
    let content = "c\r\neth0";
    ground.put("notes.txt", content);
    ground.put("FD00::2", content);
    ground.put("10.0.0.3.bak", content);
    fs::create_dir(ground.dir().join("sub")).unwrap();
    fs::write(ground.dir().join("sub/10.0.0.9"), content).unwrap();
    pool.del(&owner("c")).unwrap();
    assert!(!ground.dir().join("10.0.0.2").exists());
    for name in ["notes.txt", "FD00::2", "10.0.0.3.bak", "sub/10.0.0.9"] {
        assert_eq!(fs::read_to_string(ground.dir().join(name)).unwrap(), content, "{name}");
    }
}

#[test]
fn what_is_no_file_is_taken_and_left_alone() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/29"));
    fs::create_dir_all(ground.dir()).unwrap();
    let outside = ground.root.join("outside");
    fs::write(&outside, "c\r\neth0").unwrap();
    symlink(&outside, ground.dir().join("10.0.0.2")).unwrap();
    nix::unistd::mkfifo(&ground.dir().join("10.0.0.3"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(ground.dir().join("10.0.0.4")).unwrap();
    fs::write(ground.dir().join("10.0.0.5"), "c\r\neth0".repeat(1000)).unwrap();
    pool.del(&owner("c")).unwrap();
    assert!(outside.exists() && fs::symlink_metadata(ground.dir().join("10.0.0.2")).is_ok());
    assert_eq!(add(&pool, "c"), Ok(vec!["10.0.0.6".into()]));
    assert!(add(&pool, "d").unwrap_err().contains("no IP addresses available"));
    let asked = ground.asking(&one_range("10.0.0.0/29"), &["10.0.0.2"]);
    assert!(add(&asked, "d").unwrap_err().contains("is not available"));
    assert_eq!(pool.retain(&|_| false).unwrap().len(), 1);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "c\r\neth0");
}

#[test]
fn the_last_reserved_address_is_not_written_through_a_link() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/29"));
    fs::create_dir_all(ground.dir()).unwrap();
    let outside = ground.root.join("outside");
    fs::write(&outside, "precious").unwrap();
    symlink(&outside, ground.dir().join("last_reserved_ip.0")).unwrap();
    let error = pool.add(&owner("c")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
    assert_eq!(fs::read_dir(ground.dir()).unwrap().count(), 2, "the lease was given back");
}

#[test]
fn an_empty_file_is_what_a_killed_call_left() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/29"));
    ground.put("10.0.0.2", "");
    assert_eq!(add(&pool, "c"), Ok(vec!["10.0.0.2".into()]));
    assert_eq!(ground.leases()["10.0.0.2"], "c\r\neth0");
    ground.put("10.0.0.3", "");
    let asked = ground.asking(&one_range("10.0.0.0/29"), &["10.0.0.3"]);
    assert_eq!(add(&asked, "d"), Ok(vec!["10.0.0.3".into()]));
    // Emptied behind the index' back: its owner has lost it, and a listing finds it free.
    fs::write(ground.dir().join("10.0.0.3"), "").unwrap();
    pool.del(&owner("d")).unwrap();
    assert_eq!(ground.leases()["10.0.0.3"], "");
    for (sandbox, ip) in [("e", 4), ("f", 5), ("g", 6), ("h", 3)] {
        assert_eq!(add(&pool, sandbox), Ok(vec![format!("10.0.0.{ip}")]));
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let ground = Ground::new();
    let pool = ground.pool(&json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64" }]] }));
    add(&pool, "a").unwrap();
    let before = ground.leases();
    for step in ["create lease", "write lease", "hint"] {
        fail_at(Some((step, Errno::ENOSPC)));
        let error = pool.add(&owner("b")).unwrap_err();
        fail_at(None);
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().starts_with("failed to allocate for range 0: "), "{error}");
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(ground.leases(), before, "{step}");
    }
    assert_eq!(add(&pool, "b"), Ok(vec!["10.0.0.3".into(), "fd00::3".into()]));
}

#[test]
fn a_failed_undo_is_reported_too() {
    let ground = Ground::new();
    let full = json!([{ "subnet": "fd00::/64", "rangeStart": "fd00::1", "rangeEnd": "fd00::1" }]);
    let pool = ground.pool(&json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }], full] }));
    fail_at(Some(("remove lease", Errno::EIO)));
    let error = pool.add(&owner("c")).unwrap_err();
    fail_at(None);
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert_eq!(error.undo().unwrap().kind(), ErrorKind::Io);
    assert!(error.to_string().contains("; and undoing it failed: removing the lease /"), "{error}");
    // The lease is still the owner's, so DEL finds it.
    assert_eq!(pool.held_by(&owner("c")).unwrap().len(), 1);
    pool.del(&owner("c")).unwrap();
    assert_eq!(ground.leases(), BTreeMap::new());
}

#[test]
fn a_lease_that_cannot_be_removed_is_reported_after_the_others_are() {
    let ground = Ground::new();
    let pool = ground.pool(&json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64" }]] }));
    add(&pool, "c").unwrap();
    fail_at(Some(("remove lease", Errno::EIO)));
    let error = pool.del(&owner("c")).unwrap_err();
    fail_at(None);
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(pool.held_by(&owner("c")).unwrap().len(), 2);
    pool.del(&owner("c")).unwrap();
    assert_eq!(ground.leases(), BTreeMap::new());
}

#[test]
fn a_lock_that_is_never_given_back_is_waited_for_no_longer_than_that() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/24"));
    add(&pool, "a").unwrap();
    let open = || fs::File::open(ground.dir().join("lock")).unwrap();
    let other = Flock::lock(open(), FlockArg::LockExclusive).unwrap();
    assert!(wait_for_lock(open(), Duration::from_millis(1)).unwrap().is_none());
    drop(other);
    // The one that gave up gives the lock back too: nobody is kept out.
    assert!(wait_for_lock(open(), Duration::from_secs(60)).unwrap().is_some());
}

#[test]
fn a_file_in_the_place_of_the_pool_holds_nothing() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/24"));
    fs::create_dir_all(ground.dir().parent().unwrap()).unwrap();
    fs::write(ground.dir(), "").unwrap();
    pool.del(&owner("a")).unwrap();
    assert_eq!(pool.add(&owner("a")).unwrap_err().kind(), ErrorKind::Io);
}
