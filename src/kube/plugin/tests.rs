//! Who stands back for whom, between daemons and beside another device plugin. It knows no kubelet.

use std::fs;

use super::*;

/// A folder of device plugins that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let root = std::env::temp_dir().join(format!("plexus-plugin-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        fs::create_dir_all(root.join("device-plugins")).unwrap();
        Folder(root)
    }

    fn plugin(&self) -> Plugin {
        let (_, stock) = watch::channel(Arc::new(Stock::default()));
        let (resource, clerk) = ("a.b/vf".into(), Arc::new(Clerk::default()));
        Plugin::new(&self.0.join("device-plugins"), Service { resource, stock, clerk, listening: Arc::default() })
            .unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn open(plugin: &Plugin) -> Door {
    Door::open(&plugin.dir.join(&plugin.endpoint), plugin.service.clone()).unwrap()
}

fn block_on(test: impl Future<Output = ()>) {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn an_older_daemon_gives_way_and_does_not_come_back_while_the_newer_one_is_there() {
    let folder = Folder::new("older");
    block_on(async {
        let (mut old, mut new) = (folder.plugin(), folder.plugin());
        old.door = Some(open(&old));
        assert_eq!((old.other().await, new.other().await), (None, None), "the newer one finds the older, and goes on");
        new.door = Some(open(&new));
        for _ in 0..2 {
            let who = old.other().await;
            assert_eq!((who.as_deref(), new.other().await), (Some("another plexus"), None));
            old.yield_to(&who.unwrap());
        }
        new.door = None;
        assert_eq!(old.other().await, None, "its socket's file is there, and nobody behind it");
    });
}

#[test]
fn the_other_plugins_sockets_count_while_somebody_listens() {
    let folder = Folder::new("other");
    block_on(async {
        let mut plugin = folder.plugin();
        for place in ["device-plugins/a.b_vf.sock", "plugins_registry/a.b_vf.sock"] {
            let path = folder.0.join(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            assert!(plugin.other().await.unwrap().contains(place));
            drop(listener);
            assert_eq!(plugin.other().await, None, "{place}");
        }
    });
}

#[test]
fn a_path_that_no_socket_can_have_is_refused() {
    let (_, stock) = watch::channel(Arc::new(Stock::default()));
    let resource = format!("a.b/{}", "x".repeat(60)).as_str().into();
    let service = Service { resource, stock, clerk: Arc::new(Clerk::default()), listening: Arc::default() };
    let refused = Plugin::new(Path::new("/var/lib/somewhere/else/device-plugins"), service).err().unwrap();
    assert!(refused.contains("too long"), "{refused}");
}
