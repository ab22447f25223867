//! The rules of the decision by value, and a keeper on a real folder, with a reader that looks as a runtime does. Time is what the
//! tests say.

mod hostile;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;
use crate::confdir;

/// A folder that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("plexus-keep-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn delete(&self, name: &str) {
        fs::remove_file(self.0.join(name)).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.0.join(from), self.0.join(to)).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What the runtime would run: the file's name and the network that plexus would attach by default.
    fn runtime(&self) -> Option<(String, String)> {
        chosen(&self.0)
    }

    fn keeper(&self, daemon: &Value) -> Keeper {
        Keeper::new(self.keep(daemon)).unwrap()
    }

    fn keep(&self, daemon: &Value) -> Keep {
        let mut daemon = daemon.clone();
        daemon["cniConfigDir"] = json!(self.0);
        Keep::of(&DaemonConfig::parse(daemon.to_string().as_bytes()).unwrap(), None, Path::new("/host/run/plexus"))
            .unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn chosen(dir: &Path) -> Option<(String, String)> {
    let files = confdir::read(dir).unwrap();
    files.into_iter().find_map(|file| {
        let Fate::Chosen(list) = file.fate else { return None };
        let name = file.path.file_name().unwrap().to_str().unwrap().to_owned();
        let network = match compose::check(&list) {
            Ok(_) => decide::read_back(&list, dir).map_or("?".to_owned(), |source| source.network),
            Err(_) => "not plexus".to_owned(),
        };
        Some((name, network))
    })
}

fn network(name: &str) -> String {
    json!({"cniVersion": "1.0.0", "name": name, "plugins": [
        {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}},
        {"type": "portmap", "capabilities": {"portMappings": true, "other": false}}]})
    .to_string()
}

const OURS: &str = "00-0-plexus.conflist";

fn ours(name: &str) -> Option<(String, String)> {
    Some((OURS.to_owned(), name.to_owned()))
}

fn read(dir: &Dir, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.0.join(name)).unwrap()).unwrap()
}

#[test]
fn it_is_made_of_the_default_network_once_plexus_is_ready_and_not_before() {
    let dir = Dir::new("ready");
    dir.put("10-calico.conflist", &network("calico"));
    dir.put("05-loopback.conf", r#"{"cniVersion":"1.0.0","name":"lo","type":"loopback"}"#);
    let mut keeper = dir.keeper(&json!({"namespaceIsolation": true, "socketDir": "/host/run/multus",
        "readinessindicatorfile": "/run/x"}));
    let told = keeper.look(false);
    assert!(told.len() == 1 && told[0].contains("not ready"), "{told:?}");
    assert_eq!((keeper.look(false).len(), dir.names().len()), (0, 2), "each thing is said once");
    let told = keeper.look(true);
    assert!(told[0].contains(r#"network "calico""#), "{told:?}");
    assert_eq!(dir.runtime(), ours("calico"));
    let whole = read(&dir, OURS);
    let plugin = &whole["plugins"][0];
    assert_eq!((&whole["name"], &whole["cniVersion"]), (&json!("plexus"), &json!("1.0.0")));
    assert_eq!(plugin["capabilities"], json!({"portMappings": true}));
    assert_eq!(plugin["delegates"][0], serde_json::from_str::<Value>(&network("calico")).unwrap());
    assert_eq!((&plugin["daemonSocketDir"], &plugin["namespaceIsolation"]), (&json!("/run/plexus"), &json!(true)));
    assert_eq!(plugin.get("readinessindicatorfile"), None, "the daemon has waited for it");
    let before = fs::metadata(dir.0.join(OURS)).unwrap();
    assert_eq!(before.permissions().mode() & 0o777, 0o600);
    assert!(keeper.look(true).is_empty() && keeper.look(false).is_empty());
    assert_eq!(fs::metadata(dir.0.join(OURS)).unwrap().modified().unwrap(), before.modified().unwrap());
    keeper.stop();
    assert_eq!(dir.runtime(), ours("calico"), "the daemon ends and the configuration stays");
}

#[test]
fn the_decision_is_of_what_was_seen_and_of_nothing_else() {
    let list = |name: &str| Fate::Ignored(Box::new(List::parse(network(name).as_bytes()).unwrap()));
    let found = |name: &str, fate: Fate, unchanged| Found { path: Path::new("/n").join(name), fate, unchanged };
    let broken = || Fate::Broken("half".to_owned());
    let keep =
        Keep::of(&DaemonConfig::parse(br#"{"cniConfigDir": "/n"}"#).unwrap(), None, Path::new("/host/run/plexus"))
            .unwrap();
    let seen = |networks: Vec<Found>, last: Option<&Last>, gone| {
        let files = networks.clone();
        Seen { files, networks, last: last.cloned(), gone, name: "plexus".to_owned(), ..Seen::default() }
    };
    let zero = Duration::ZERO;
    let whole = seen(vec![found("10-a.conflist", list("a"), zero)], None, zero);
    let early = decide(&whole, &keep, false);
    assert!(matches!(early.action, Action::Wait { .. }) && early.file.is_none());
    let first = decide(&whole, &keep, true);
    let last = first.file.unwrap();
    assert_eq!(first.action, Action::Write { path: Path::new("/n").join(OURS), bytes: last.bytes.clone() });
    let network = |seen: &Seen| decide(seen, &keep, true).file.and_then(|file| Some(file.source?.network));
    let named = |name: &str| Some(name.to_owned());
    let half = |age| vec![found("05-b.conflist", broken(), age), found("50-c.conflist", list("c"), zero)];
    assert_eq!(network(&seen(half(zero), None, zero)), None, "nothing of its own is there: it waits for the first");
    assert_eq!(network(&seen(half(SETTLED), None, zero)), named("c"));
    assert_eq!(network(&seen(half(SETTLED), Some(&last), zero)), named("a"));
    assert_eq!(network(&seen(half(SETTLED), Some(&last), GONE_GRACE)), named("c"));
    assert_eq!(network(&seen(vec![], Some(&last), GONE_GRACE * 99)), named("a"), "what was there is put back");
    let own = |fate| vec![found(OURS, fate, zero), found("10-a.conflist", list("a"), zero)];
    let made = Fate::Chosen(Box::new(List::parse(&last.bytes).unwrap()));
    assert_eq!(decide(&seen(own(made), Some(&last), zero), &keep, true).action, Action::Nothing);
    for other in [broken(), list("other"), Fate::NotRead] {
        assert_eq!(decide(&seen(own(other), Some(&last), zero), &keep, true).action, first.action);
    }
}

#[test]
fn it_is_removed_at_the_end_only_where_somebody_wants_that() {
    let dir = Dir::new("cleanup");
    dir.put("10-a.conflist", &network("a"));
    let mut keeper = Keeper::new(Keep { cleanup: true, ..dir.keep(&json!({})) }).unwrap();
    keeper.look(true);
    assert_eq!(dir.runtime(), ours("a"));
    assert_eq!(keeper.stop().len(), 1);
    assert_eq!(dir.names(), ["10-a.conflist"]);
}

#[test]
fn half_a_default_network_changes_nothing_however_long_it_stays_so() {
    let dir = Dir::new("half");
    let mut keeper = dir.keeper(&json!({}));
    let start = Instant::now();
    dir.put("10-a.conflist", "{\"name\":");
    dir.put("87-podman.conflist", &network("podman"));
    keeper.look_at(true, start);
    assert_eq!(dir.runtime(), Some(("87-podman.conflist".to_owned(), "not plexus".to_owned())), "it waits for 10-a");
    dir.put("10-a.conflist", &network("a"));
    keeper.look_at(true, start);
    assert_eq!(dir.runtime(), ours("a"));
    for text in ["", "{", "[]", r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#] {
        dir.put("10-a.conflist", text);
        keeper.look_at(true, start);
        let told = keeper.look_at(true, start + GONE_GRACE * 3);
        assert_eq!(dir.runtime(), ours("a"), "{text}: {told:?}");
        dir.delete(OURS);
        keeper.look_at(true, start + GONE_GRACE * 4);
        assert_eq!(dir.runtime(), ours("a"), "put back, although {text:?}");
    }
    dir.put("10-a.conflist", &network("b"));
    keeper.look_at(true, start);
    assert_eq!(dir.runtime(), ours("b"), "replaced");
}

#[test]
fn a_file_that_is_never_finished_is_passed_over_at_last() {
    let dir = Dir::new("junk");
    dir.put("01-junk.conf", "junk");
    dir.put("10-a.conflist", &network("a"));
    let mut keeper = dir.keeper(&json!({}));
    let start = Instant::now();
    keeper.look_at(true, start);
    assert_eq!(dir.names().len(), 2);
    let told = keeper.look_at(true, start + SETTLED);
    assert!(told.iter().any(|line| line.contains("passed over")), "{told:?}");
    assert_eq!(dir.runtime(), ours("a"));
    dir.put("02-new.conflist", "{");
    keeper.look_at(true, start + SETTLED);
    assert_eq!(dir.runtime(), ours("a"));
    dir.put("02-new.conflist", &network("new"));
    keeper.look_at(true, start + SETTLED);
    assert_eq!(dir.runtime(), ours("new"), "what sorts first is what the runtime would take");
}

#[test]
fn a_network_that_is_gone_stays_until_another_is_there_for_good() {
    let dir = Dir::new("gone");
    dir.put("10-a.conflist", &network("a"));
    let mut keeper = dir.keeper(&json!({}));
    let start = Instant::now();
    keeper.look_at(true, start);
    dir.delete("10-a.conflist");
    let told = keeper.look_at(true, start);
    assert!(told[0].contains("no network is in") && told[0].contains("stays as it is"), "{told:?}");
    keeper.look_at(true, start + GONE_GRACE * 9);
    assert_eq!(dir.runtime(), ours("a"));
    dir.put("10-a.conflist", &network("a"));
    keeper.look_at(true, start);
    dir.put("87-podman.conflist", &network("podman"));
    dir.delete("10-a.conflist");
    keeper.look_at(true, start);
    keeper.look_at(true, start + GONE_GRACE / 2);
    assert_eq!(dir.runtime(), ours("a"), "an upgrade may be under way");
    keeper.look_at(true, start + GONE_GRACE);
    assert_eq!(dir.runtime(), ours("podman"));
}

#[test]
fn a_network_that_is_renamed_is_followed() {
    let dir = Dir::new("renamed");
    dir.put("10-a.conflist", &network("a"));
    let mut keeper = dir.keeper(&json!({}));
    keeper.look(true);
    dir.put("50-z.conflist", &network("z"));
    dir.rename("10-a.conflist", "20-a.conflist");
    let told = keeper.look_at(true, Instant::now() + GONE_GRACE * 2);
    assert!(told.is_empty() && dir.runtime() == ours("a"), "{told:?}");
    dir.rename("20-a.conflist", "10-a.conflist");
    keeper.look(true);
    // Cilium comes: whatever is there is put aside, plexus' own, too.
    dir.rename("10-a.conflist", "10-a.conflist.cilium_bak");
    dir.rename("50-z.conflist", "50-z.conflist.cilium_bak");
    dir.rename(OURS, &format!("{OURS}.cilium_bak"));
    dir.put("05-cilium.conflist", &network("cilium"));
    let told = keeper.look(true);
    assert_eq!(dir.runtime(), ours("cilium"), "{told:?}");
    dir.rename(OURS, &format!("{OURS}.cilium_bak"));
    let told = keeper.look(true);
    assert!(told.iter().any(|line| line.contains("Cilium")), "{told:?}");
    assert_eq!(dir.runtime(), ours("cilium"));
    dir.rename("05-cilium.conflist", "05-cilium.conflist.old");
    dir.put("20-next.conflist", &network("next"));
    keeper.look(true);
    assert_eq!(dir.runtime(), ours("next"), "put aside on purpose: at once");
}

#[test]
fn the_named_default_network_is_found_wherever_it_went() {
    let dir = Dir::new("named");
    dir.put("05-other.conflist", &network("other"));
    let mut keeper = dir.keeper(&json!({"multusMasterCNI": "10-a.conf"}));
    keeper.look(true);
    assert_eq!(dir.names(), ["05-other.conflist"], "no other is taken for it");
    dir.put("10-a.conf", r#"{"cniVersion":"0.3.1","name":"a","type":"bridge"}"#);
    keeper.look(true);
    assert_eq!(dir.runtime(), ours("a"));
    dir.delete("10-a.conf");
    dir.put("10-a.conflist", &network("list"));
    keeper.look(true);
    assert_eq!(dir.runtime(), ours("list"), "the same name, the other form");
    dir.rename("10-a.conflist", "70-b.conflist");
    keeper.look(true);
    assert_eq!(dir.runtime(), ours("list"));
    dir.delete("70-b.conflist");
    let told = keeper.look_at(true, Instant::now() + GONE_GRACE * 2);
    assert_eq!(dir.runtime(), ours("list"), "{told:?}");
    let dir = Dir::new("aside");
    dir.put("10-a.conflist.cilium_bak", &network("a"));
    let told = dir.keeper(&json!({"multusMasterCNI": "10-a.conflist"})).look(true);
    assert_eq!(dir.runtime(), ours("a"), "{told:?}");
}

#[test]
fn what_others_do_to_it_is_undone_and_what_they_chain_to_it_stays() {
    let dir = Dir::new("undone");
    dir.put("10-a.conflist", &network("a"));
    let mut keeper = dir.keeper(&json!({}));
    keeper.look(true);
    let good = fs::read(dir.0.join(OURS)).unwrap();
    for text in [
        "",
        "{",
        &network("hostile"),
        r#"{"cniVersion":"1.0.0","name":"plexus","plugins":[{"type":"plexus-cni",
        "clusterNetwork":"/nowhere/x.conf"}]}"#,
    ] {
        dir.put(OURS, text);
        keeper.look(true);
        assert_eq!(fs::read(dir.0.join(OURS)).unwrap(), good, "{text}");
    }
    dir.put("00-0-plexus.conf", r#"{"cniVersion":"1.0.0","name":"x","type":"plexus-cni"}"#);
    keeper.look(true);
    assert_eq!(dir.names(), [OURS, "10-a.conflist"], "one form is enough");
    let mut chained = read(&dir, OURS);
    chained["plugins"].as_array_mut().unwrap().push(json!({"type": "istio-cni", "log_level": "info"}));
    dir.put(OURS, &chained.to_string());
    assert!(keeper.look(true).is_empty());
    assert_eq!(read(&dir, OURS), chained);
    dir.put("10-a.conflist", &network("b"));
    keeper.look(true);
    assert_eq!(dir.runtime(), ours("b"));
    assert_eq!(read(&dir, OURS)["plugins"][1]["type"], "istio-cni");
    chained["plugins"][1]["type"] = json!("multus");
    dir.put(OURS, &chained.to_string());
    keeper.look(true);
    assert_eq!(read(&dir, OURS)["plugins"].as_array().unwrap().len(), 1, "two of them would do all twice");
}

#[test]
fn a_file_that_sorts_before_it_is_named_and_passed() {
    let dir = Dir::new("before");
    dir.put("10-a.conflist", &network("a"));
    let mut keeper = dir.keeper(&json!({"multusMasterCNI": "10-a.conflist"}));
    keeper.look(true);
    dir.put("00-0-early.conf", r#"{"cniVersion":"1.0.0","name":"early","type":"bridge"}"#);
    let told = keeper.look(true);
    assert!(told.iter().any(|line| line.contains("00-0-early.conf sorts before")), "{told:?}");
    assert_eq!(dir.runtime(), Some(("00--plexus.conflist".to_owned(), "a".to_owned())));
    assert_eq!(dir.names().len(), 3, "{:?}", dir.names());
    dir.delete("00-0-early.conf");
    assert!(keeper.look(true).is_empty(), "nothing moves back: the runtime would reload for nothing");
    dir.put("00--a.conf", "{");
    keeper.look(true);
    assert_eq!(dir.runtime(), Some(("0--plexus.conflist".to_owned(), "a".to_owned())));
    dir.put("!first.conf", "{");
    let told = keeper.look(true);
    assert!(told.iter().any(|line| line.contains("may read it and not plexus")), "{told:?}");
    let mut again = dir.keeper(&json!({"multusMasterCNI": "10-a.conflist"}));
    dir.delete("!first.conf");
    again.look(true);
    assert_eq!(dir.runtime(), Some(("0--plexus.conflist".to_owned(), "a".to_owned())), "the next daemon finds it");
}

#[test]
fn the_next_daemon_takes_up_what_is_there() {
    let dir = Dir::new("next");
    dir.put("10-a.conflist", &network("a"));
    dir.put(
        OURS,
        r#"{"cniVersion":"0.4.0","name":"multus-cni-network","plugins":[{"type":"plexus-cni",
        "clusterNetwork":"/etc/cni/net.d/10-a.conflist"}]}"#,
    );
    let mut keeper = dir.keeper(&json!({}));
    keeper.look(true);
    assert_eq!(dir.runtime(), ours("a"));
    assert_eq!(read(&dir, OURS)["name"], "multus-cni-network", "pods were attached under that name");
    drop(keeper);
    dir.rename("10-a.conflist", "gone");
    dir.put("87-podman.conflist", &network("podman"));
    let start = Instant::now();
    let mut keeper = dir.keeper(&json!({}));
    keeper.look_at(true, start);
    assert_eq!(dir.runtime(), ours("a"));
    dir.put("10-a.conflist", "{");
    keeper.look_at(true, start + GONE_GRACE * 2);
    assert_eq!(dir.runtime(), ours("a"), "it may be the one that is being written");
    dir.delete(OURS);
    keeper.look_at(true, start + GONE_GRACE * 2);
    assert_eq!(dir.runtime(), ours("a"), "put back as it was found");
}

#[test]
fn versions_and_names_are_what_the_daemon_says() {
    let dir = Dir::new("keys");
    let old = network("a").replace("1.0.0", "0.3.1");
    dir.put("10-a.conflist", &old);
    let mut keeper = dir.keeper(&json!({"cniVersion": "1.1.0", "overrideNetworkName": true}));
    keeper.look(true);
    let whole = read(&dir, OURS);
    let delegate = |whole: &Value| whole["plugins"][0]["delegates"][0]["cniVersion"].clone();
    assert_eq!((&whole["cniVersion"], &whole["name"]), (&json!("1.1.0"), &json!("a")));
    assert_eq!(delegate(&whole), json!("0.3.1"));
    dir.keeper(&json!({"cniVersion": "1.1.0", "forceCNIVersion": true})).look(true);
    assert_eq!(delegate(&read(&dir, OURS)), json!("1.1.0"));
    assert_eq!(fs::read_to_string(dir.0.join("10-a.conflist")).unwrap(), old, "another's file is never changed");
    dir.keeper(&json!({"defaultNetworks": ["storage"]})).look(true);
    let plugin = read(&dir, OURS)["plugins"][0].clone();
    assert_eq!(plugin["clusterNetwork"], json!(dir.0.join("10-a.conflist")), "further networks go with a path only");
    dir.keeper(&json!({"delegates": [{"cniVersion":"1.0.0","name":"own","type":"ptp"}]})).look(true);
    assert_eq!(dir.runtime(), ours("own"));
    let daemon = DaemonConfig::parse(br#"{"cniVersion": "9"}"#).unwrap();
    assert!(Keep::of(&daemon, None, Path::new("/host/run/plexus")).unwrap_err().contains("cniVersion"));
}

#[test]
fn plugins_of_the_networks_folder_are_taken_in() {
    let dir = Dir::new("folder");
    dir.put("10-a.conflist", &network("a"));
    fs::create_dir(dir.0.join("a")).unwrap();
    dir.put("a/10-more.conf", r#"{"type":"tuning"}"#);
    dir.keeper(&json!({})).look(true);
    assert_eq!(read(&dir, OURS)["plugins"][0]["delegates"][0]["plugins"][2]["type"], "tuning");
}

#[test]
fn d13_a_file_that_a_person_wrote_is_watched_as_the_network_is() {
    let dir = Dir::new("given");
    let file = std::env::temp_dir().join(format!("plexus-keep-given-{}.conf", std::process::id()));
    let text = |level: &str| {
        json!({"cniVersion": "1.0.0", "name": "mine", "type": "multus-shim", "logLevel": level, "kubeconfig": "/k",
            "delegates": [{"cniVersion": "1.0.0", "name": "d", "type": "bridge"}]})
        .to_string()
    };
    let account = Some(Account { folder: dir.0.join("account"), server: "https://s".to_owned(), insecure: false });
    let daemon = json!({"multusConfigFile": file, "cniConfigDir": dir.0}).to_string();
    let keep = Keep::of(&DaemonConfig::parse(daemon.as_bytes()).unwrap(), account, Path::new("/run/plexus")).unwrap();
    let mut keeper = Keeper::new(keep).unwrap();
    keeper.look(true);
    assert_eq!(dir.runtime(), None, "it is not there yet");
    fs::write(&file, text("error")).unwrap();
    keeper.look(true);
    let whole = read(&dir, "00-0-plexus.conf");
    assert_eq!(
        (&whole["type"], &whole["name"], &whole["kubeconfig"]),
        (&json!("plexus-cni"), &json!("mine"), &json!("/k"))
    );
    for broken in ["{", &network("no meta-plugin")] {
        fs::write(&file, broken).unwrap();
        keeper.look(true);
        assert_eq!(read(&dir, "00-0-plexus.conf"), whole);
    }
    fs::write(&file, text("debug")).unwrap();
    keeper.look(true);
    assert_eq!(read(&dir, "00-0-plexus.conf")["logLevel"], "debug");
    fs::remove_file(&file).unwrap();
    dir.delete("00-0-plexus.conf");
    keeper.look(true);
    assert_eq!(read(&dir, "00-0-plexus.conf")["logLevel"], "debug");
}

#[test]
fn the_nodes_kubeconfig_has_the_token_of_now() {
    let dir = Dir::new("account");
    dir.put("10-a.conflist", &network("a"));
    let account = dir.0.join("account");
    fs::create_dir(&account).unwrap();
    let write = |token: &str| fs::write(account.join("token"), token).unwrap();
    fs::write(account.join("ca.crt"), "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n").unwrap();
    write("one\n");
    let server = Account::of_pod(&|name| Some(if name.ends_with("PORT") { "6443" } else { "fd00::1" }.to_owned()));
    let server = server.unwrap().server;
    assert_eq!(server, "https://[fd00::1]:6443");
    let keep =
        Keep { account: Some(Account { folder: account.clone(), server, insecure: false }), ..dir.keep(&json!({})) };
    let path = keep.kubeconfig();
    let mut keeper = Keeper::new(keep).unwrap();
    keeper.look(true);
    assert_eq!(read(&dir, OURS)["plugins"][0]["kubeconfig"], json!(path));
    let token =
        || serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).unwrap()["users"][0]["user"]["token"].clone();
    assert_eq!((token(), fs::metadata(&path).unwrap().permissions().mode() & 0o777), (json!("one"), 0o600));
    assert!(keeper.look(true).is_empty());
    write("two");
    keeper.look(true);
    assert_eq!(token(), "two");
    for half in ["", "two words"] {
        write(half);
        assert!(keeper.look(true)[0].contains("stays as it is: "));
        assert_eq!(token(), "two");
        write("two");
        assert!(keeper.look(true).is_empty());
    }
    write("two");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    keeper.look(true);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    keeper.look(true);
    assert_eq!(token(), "two");
    let held = crate::install::hold(path.parent().unwrap()).unwrap();
    write("three");
    assert!(keeper.look(true)[0].contains("another installation"), "another of it is writing");
    assert_eq!(token(), "two");
    drop(held);
    keeper.look(true);
    assert_eq!(token(), "three");
}

#[test]
fn a_login_of_another_place_is_written_there_and_named_as_the_node_sees_it() {
    let dir = Dir::new("login");
    dir.put("10-a.conflist", &network("a"));
    fs::create_dir(dir.0.join("account")).unwrap();
    fs::write(dir.0.join("account/token"), "one").unwrap();
    let account = Account { folder: dir.0.join("account"), server: "https://s".to_owned(), insecure: true };
    let login = Login { seen: dir.0.join("multus.d/k"), on_node: PathBuf::from("/var/lib/k") };
    let keep = Keep { account: Some(account), login: Some(login), ..dir.keep(&json!({})) };
    Keeper::new(keep).unwrap().look(true);
    assert_eq!(read(&dir, OURS)["plugins"][0]["kubeconfig"], "/var/lib/k");
    let cluster = &read(&dir, "multus.d/k")["clusters"][0]["cluster"];
    assert_eq!(*cluster, json!({"server": "https://s", "insecure-skip-tls-verify": true}), "no authority is needed");
    assert!(!dir.0.join("plexus.d").exists());
}

#[test]
fn a_version_that_the_default_network_has_not_is_refused_where_it_must_have_it() {
    let dir = Dir::new("exact");
    dir.put("10-a.conflist", &network("a"));
    let keeper = |version: &str, exact_version, force_version| {
        let keep = Keep { exact_version, force_version, ..dir.keep(&json!({"cniVersion": version})) };
        Keeper::new(keep).unwrap()
    };
    let mut exact = keeper("0.4.0", true, false);
    exact.look(true);
    assert!(exact.refused().is_some_and(|why| why.contains("to be 0.4.0") && why.contains("is 1.0.0")));
    assert_eq!((dir.names().len(), exact.is_in_place()), (1, false));
    dir.put("10-a.conflist", &network("a").replace("1.0.0", "0.4.0"));
    exact.look(true);
    assert_eq!((exact.refused(), dir.runtime()), (None, ours("a")));
    dir.put("10-a.conflist", &network("b"));
    exact.look(true);
    assert_eq!((exact.refused().is_some(), dir.runtime()), (true, ours("a")), "what works stays");
    for (version, exact_version, force_version) in
        [("0.4.0", false, false), ("0.4.0", true, true), ("1.0.0", true, false)]
    {
        dir.delete(OURS);
        let mut other = keeper(version, exact_version, force_version);
        other.look(true);
        assert_eq!((other.refused(), dir.runtime()), (None, ours("b")), "{version}");
    }
}

#[test]
fn a_network_that_was_put_aside_is_known_by_its_name_before_where_there_is_no_other() {
    let dir = Dir::new("aside");
    dir.put("10-a.conflist.old", &network("a"));
    dir.put("200-loopback.conf", r#"{"cniVersion":"1.0.0","name":"lo","type":"loopback"}"#);
    dir.put("00-multus.conf.old", r#"{"cniVersion":"1.0.0","name":"m","type":"multus","delegates":[{"type":"x"}]}"#);
    let keep = dir.keep(&json!({}));
    assert_eq!(keep.put_aside().as_deref(), Some("10-a.conflist"));
    let mut keeper = Keeper::new(Keep { primary: keep.put_aside(), ..keep.clone() }).unwrap();
    keeper.look(true);
    assert_eq!(dir.runtime(), ours("a"));
    dir.put("50-b.conflist", &network("b"));
    assert_eq!(keep.put_aside(), None);
}

#[test]
fn the_folder_may_be_made_anew() {
    let dir = Dir::new("anew");
    dir.put("10-a.conflist", &network("a"));
    let mut keeper = dir.keeper(&json!({}));
    keeper.look(true);
    let is_told = |keeper: &Keeper| {
        let descriptor = keeper.watch_descriptor().unwrap();
        let mut polled = [nix::poll::PollFd::new(descriptor, nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO).unwrap() == 1
    };
    keeper.look(true);
    assert!(!is_told(&keeper), "its own changes are not told for ever");
    fs::remove_dir_all(&dir.0).unwrap();
    assert!(is_told(&keeper));
    keeper.look(true);
    assert_eq!(dir.runtime(), ours("a"));
    keeper.look(true);
    assert!(!is_told(&keeper));
    dir.delete(OURS);
    assert!(is_told(&keeper), "the new folder is watched");
    keeper.look(true);
    assert_eq!(dir.runtime(), ours("a"));
}

#[test]
fn whoever_installs_is_not_disturbed() {
    let dir = Dir::new("held");
    dir.put("10-a.conflist", &network("a"));
    let mut keeper = dir.keeper(&json!({}));
    let held = crate::install::hold(&dir.0).unwrap();
    assert!(keeper.look(true)[0].contains("another installation"));
    assert_eq!(dir.names(), ["10-a.conflist"]);
    drop(held);
    keeper.look(true);
    assert_eq!(dir.runtime(), ours("a"));
}
