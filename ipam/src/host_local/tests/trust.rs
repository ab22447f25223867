//! When the index is trusted, when it is not, and that nobody notices the difference but by time.

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use nix::errno::Errno;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

use super::*;
use crate::fault::fail_at;

/// Changes the directory and sets its modification time back to what it was.
pub(super) fn behind_its_back<T>(dir: &Path, change: impl FnOnce() -> T) -> T {
    let before = fs::metadata(dir).unwrap();
    let value = change();
    let file = fs::File::open(dir).unwrap();
    // Kernels before 6.13 count change times in ticks of up to 4 ms: set the time until the tick is another one.
    loop {
        futimens(&file, &TimeSpec::UTIME_OMIT, &TimeSpec::new(before.mtime(), before.mtime_nsec())).unwrap();
        let now = file.metadata().unwrap();
        assert_eq!((now.mtime(), now.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
        if (now.ctime(), now.ctime_nsec()) != (before.ctime(), before.ctime_nsec()) {
            return value;
        }
    }
}

#[test]
fn nothing_is_listed_while_the_index_is_right() {
    let ground = Ground::new();
    let pool = ground.pool(&json!({ "ranges": [[{ "subnet": "10.0.0.0/16" }], [{ "subnet": "fd00::/64" }]] }));
    let (_, listings) = listings_of(|| add(&pool, "first").unwrap());
    assert_eq!(listings, 1, "there is no index yet");
    let (_, listings) = listings_of(|| {
        for nth in 0..300 {
            add(&pool, &format!("c{nth}")).unwrap();
        }
        for nth in 0..300 {
            let sandbox = format!("c{nth}");
            pool.check(&owner(&sandbox)).unwrap();
            assert!(pool.add(&owner(&sandbox)).is_err());
            if nth % 3 == 0 {
                pool.del(&owner(&sandbox)).unwrap();
                pool.del(&owner(&sandbox)).unwrap();
                assert!(pool.check(&owner(&sandbox)).is_err());
            }
        }
        assert_eq!(pool.usage().unwrap().sets[0].used, 201);
        release(&ground.data(), "net", &owner("c1"), &ground.state()).unwrap();
    });
    assert_eq!(listings, 0);
    assert_eq!(ground.leases().len(), 400);
}

#[test]
fn a_call_that_changes_nothing_writes_nothing() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/24"));
    add(&pool, "c").unwrap();
    let times = |path: &Path| {
        fs::metadata(path).map(|metadata| (metadata.ctime(), metadata.ctime_nsec(), metadata.ino())).unwrap()
    };
    let before = (times(&ground.dir()), times(&ground.index_file()));
    pool.check(&owner("c")).unwrap();
    pool.del(&owner("unknown")).unwrap();
    assert!(add(&pool, "c").is_err());
    pool.usage().unwrap();
    assert_eq!((times(&ground.dir()), times(&ground.index_file())), before);
}

#[test]
fn a_full_pool_is_listed_before_it_is_called_full() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/30"));
    add(&pool, "a").unwrap();
    let (_, listings) = listings_of(|| add(&pool, "b").unwrap_err());
    assert_eq!(listings, 1);
    // An address lost by the index is found so.
    behind_the_index(&ground, || fs::remove_file(ground.dir().join("10.0.0.2")).unwrap());
    assert_eq!(add(&pool, "b"), Ok(vec!["10.0.0.2".into()]));
}

/// Changes the directory so that the index is trusted although it is wrong.
fn behind_the_index<T>(ground: &Ground, change: impl FnOnce() -> T) -> T {
    let value = change();
    let directory = directory::Directory::open(&ground.dir(), Absent::Leave).unwrap().unwrap();
    let seen = directory.stamp().unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(ground.index_file()).unwrap();
    crate::index::trust_for_test(&file, seen);
    value
}

#[test]
fn a_trusted_index_that_is_wrong_is_found_out() {
    let section = one_range("10.0.0.0/24");
    // Knows a lease too few: the exclusive create decides.
    let ground = Ground::new();
    let pool = ground.pool(&section);
    add(&pool, "a").unwrap();
    behind_the_index(&ground, || ground.put("10.0.0.3", "x\r\neth0"));
    let (got, listings) = listings_of(|| add(&pool, "b"));
    assert_eq!((got, listings), (Ok(vec!["10.0.0.4".into()]), 1));
    // The same for a requested one; and then it is known.
    behind_the_index(&ground, || ground.put("10.0.0.9", "y\r\neth0"));
    let asked = ground.asking(&section, &["10.0.0.9"]);
    let (got, listings) = listings_of(|| add(&asked, "c"));
    assert!(got.unwrap_err().contains("is not available"));
    assert_eq!(listings, 1);
    let (held, listings) = listings_of(|| pool.held_by(&owner("y")).unwrap());
    assert_eq!((held.len(), listings), (1, 0));
    // A lease too many: its file is not there, or another's.
    behind_the_index(&ground, || fs::remove_file(ground.dir().join("10.0.0.2")).unwrap());
    let (got, listings) = listings_of(|| pool.check(&owner("a")));
    assert_eq!((got.is_err(), listings), (true, 1));
    behind_the_index(&ground, || ground.put("10.0.0.4", "z\r\neth0"));
    let (got, listings) = listings_of(|| pool.del(&owner("b")));
    assert_eq!((got.is_ok(), listings), (true, 1));
    assert_eq!(ground.leases()["10.0.0.4"], "z\r\neth0");
    let (held, listings) = listings_of(|| pool.held_by(&owner("z")).unwrap());
    assert_eq!((held.len(), listings), (1, 0));
    // A requested address that the index believes to be taken.
    behind_the_index(&ground, || fs::remove_file(ground.dir().join("10.0.0.4")).unwrap());
    assert_eq!(add(&ground.asking(&section, &["10.0.0.4"]), "d"), Ok(vec!["10.0.0.4".into()]));
    let (held, listings) = listings_of(|| pool.held_by(&owner("d")).unwrap());
    assert_eq!((held.len(), listings), (1, 1), "such an index is not kept");
}

#[test]
fn every_foreign_change_is_seen() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/24"));
    add(&pool, "a").unwrap();
    let seen = |change: &dyn Fn()| {
        change();
        let (_, listings) = listings_of(|| pool.held_by(&owner("x")).unwrap());
        let (_, again) = listings_of(|| pool.held_by(&owner("x")).unwrap());
        (listings, again)
    };
    let dir = ground.dir();
    assert_eq!(seen(&|| ground.put("10.0.0.77", "x\r\neth0")), (1, 0));
    assert_eq!(pool.held_by(&owner("x")).unwrap().len(), 1);
    assert_eq!(seen(&|| behind_its_back(&dir, || fs::remove_file(dir.join("10.0.0.77")).unwrap())), (1, 0));
    assert_eq!(pool.held_by(&owner("x")).unwrap().len(), 0);
    // Another directory in its place.
    let moved = ground.root.join("moved");
    let replace = || {
        fs::rename(&dir, &moved).unwrap();
        ground.put("10.0.0.78", "x\r\neth0");
    };
    assert_eq!(seen(&replace), (1, 0));
    assert_eq!(pool.held_by(&owner("x")).unwrap().len(), 1);
    assert_eq!(add(&pool, "b"), Ok(vec!["10.0.0.2".into()]));
}

#[test]
fn an_index_of_another_boot_is_not_trusted() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/24"));
    add(&pool, "a").unwrap();
    let directory = directory::Directory::open(&ground.dir(), Absent::Leave).unwrap().unwrap();
    let seen = directory.seen().unwrap();
    drop(directory);
    let file = fs::OpenOptions::new().read(true).write(true).open(ground.index_file()).unwrap();
    crate::index::trust_for_test(&file, crate::index::Seen { boot: seen.boot ^ 1, ..seen });
    let (_, listings) = listings_of(|| pool.check(&owner("a")).unwrap());
    assert_eq!(listings, 1);
}

#[test]
fn an_index_of_somebody_else_is_not_trusted() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/24"));
    add(&pool, "a").unwrap();
    let index = ground.index_file();
    fs::set_permissions(&index, fs::Permissions::from_mode(0o666)).unwrap();
    let (_, listings) = listings_of(|| pool.check(&owner("a")).unwrap());
    assert_eq!((listings, mode(&index)), (1, 0o600));
    let elsewhere = ground.root.join("elsewhere");
    fs::rename(&index, &elsewhere).unwrap();
    symlink(&elsewhere, &index).unwrap();
    let (_, listings) = listings_of(|| pool.check(&owner("a")).unwrap());
    assert_eq!(listings, 1);
    assert!(fs::symlink_metadata(&index).unwrap().is_file() && elsewhere.exists());
}

#[test]
fn without_an_index_everything_works() {
    for obstacle in ["state is a file", "index is a file", "the index is a folder", "the new index is a folder"] {
        let ground = Ground::new();
        let pool = ground.pool(&json!({ "ranges": [[{ "subnet": "10.0.0.0/29" }], [{ "subnet": "fd00::/64" }]] }));
        match obstacle {
            "state is a file" => fs::write(ground.state(), "").unwrap(),
            "index is a file" => {
                fs::create_dir(ground.state()).unwrap();
                fs::write(ground.state().join("index"), "").unwrap();
            }
            "the index is a folder" => {
                add(&pool, "a").unwrap();
                let index = ground.index_file();
                fs::remove_file(&index).unwrap();
                fs::create_dir_all(index.join("x")).unwrap();
            }
            _ => {
                add(&pool, "a").unwrap();
                let index = ground.index_file();
                fs::create_dir_all(
                    index.with_file_name(format!("{}.new/x", index.file_name().unwrap().to_str().unwrap())),
                )
                .unwrap();
                fs::remove_file(&index).unwrap();
            }
        }
        let before = ground.leases().len() / 2;
        for nth in before..5 {
            let (got, listings) = listings_of(|| add(&pool, &format!("c{nth}")));
            assert_eq!(
                (got, listings),
                (Ok(vec![format!("10.0.0.{}", nth + 2), format!("fd00::{}", nth + 2)]), 1),
                "{obstacle}"
            );
        }
        assert!(add(&pool, "more").unwrap_err().contains("no IP addresses"));
        pool.check(&owner("c3")).unwrap();
        pool.del(&owner("c3")).unwrap();
        assert!(pool.check(&owner("c3")).is_err());
        assert_eq!(pool.usage().unwrap().sets[0].used, 4);
        assert_eq!(add(&pool, "again").unwrap()[0], "10.0.0.5");
    }
}

#[test]
fn an_index_that_cannot_be_written_is_not_trusted() {
    for step in ["index block", "index file", "index header", "index rename", "directory time"] {
        let ground = Ground::new();
        let pool = ground.pool(&one_range("10.0.0.0/24"));
        add(&pool, "a").unwrap();
        fail_at(Some((step, Errno::ENOSPC)));
        assert_eq!(add(&pool, "b"), Ok(vec!["10.0.0.3".into()]), "{step}");
        ground.put("10.0.0.4", "x\r\neth0");
        assert_eq!(add(&pool, "c"), Ok(vec!["10.0.0.5".into()]), "{step}");
        pool.del(&owner("b")).unwrap();
        fail_at(None);
        assert_eq!(pool.held_by(&owner("b")).unwrap().len(), 0);
        pool.check(&owner("c")).unwrap();
        assert_eq!(ground.leases().len(), 3);
        let left: Vec<_> = fs::read_dir(ground.state().join("index")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

#[test]
fn two_networks_and_changing_ranges_share_nothing_they_should_not() {
    let ground = Ground::new();
    let wide = ground.pool(&one_range("10.0.0.0/16"));
    for nth in 0..20 {
        add(&wide, &format!("w{nth}")).unwrap();
    }
    // Another configuration of the same directory: its own order from the shared file, the same leases.
    let narrow = ground.pool(
        &json!({ "ranges": [[{ "subnet": "10.0.0.0/24", "rangeStart": "10.0.0.10", "rangeEnd": "10.0.0.40" }]] }),
    );
    let (got, listings) = listings_of(|| add(&narrow, "n"));
    assert_eq!((got, listings), (Ok(vec!["10.0.0.22".into()]), 0));
    let (_, listings) = listings_of(|| narrow.del(&owner("w3")).unwrap());
    assert_eq!(listings, 0);
    let v6 = ground.pool(&json!({ "ranges": [[{ "subnet": "10.0.0.0/16" }], [{ "subnet": "fd00:1::/64", "rangeStart": "fd00:1::ffff" }]] }));
    assert_eq!(listings_of(|| add(&v6, "v")), (Ok(vec!["10.0.0.23".into(), "fd00:1::ffff".into()]), 0));

    let section: Section =
        serde_json::from_value(json!({ "dataDir": ground.data(), "subnet": "10.0.0.0/16" })).unwrap();
    let other = Pool::new(section, "other", &Requests::default(), &ground.state()).unwrap();
    assert_eq!(add(&other, "w1"), Ok(vec!["10.0.0.2".into()]));
    assert_eq!(fs::read_dir(ground.state().join("index")).unwrap().count(), 2);
}

#[test]
fn any_damage_to_the_file_is_survived() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/24"));
    for nth in 0..40 {
        add(&pool, &format!("c{nth}")).unwrap();
    }
    let whole = fs::read(ground.index_file()).unwrap();
    let write = |bytes: &[u8]| {
        fs::OpenOptions::new().write(true).open(ground.index_file()).unwrap().write_all_at(bytes, 0).unwrap()
    };
    for at in (0..whole.len()).step_by(97) {
        let mut damaged = fs::read(ground.index_file()).unwrap();
        damaged[at] ^= 0x41;
        write(&damaged);
        pool.check(&owner("c7")).unwrap();
        assert!(pool.check(&owner("nobody")).is_err());
    }
    for length in [0, 1, 127, 128, 511, 512, 5000] {
        fs::OpenOptions::new().write(true).open(ground.index_file()).unwrap().set_len(length).unwrap();
        pool.check(&owner("c7")).unwrap();
        assert_eq!(fs::metadata(ground.index_file()).unwrap().len(), whole.len() as u64);
    }
    assert_eq!(add(&pool, "next"), Ok(vec!["10.0.0.42".into()]));
}
