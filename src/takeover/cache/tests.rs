//! What is read of whole, damaged and hostile caches. It knows the form of the files.

use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;
use serde_json::json;

use super::*;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("plexus-cache-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join(RESULTS)).unwrap();
        Place(dir)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn read(&self) -> Notes {
        Cache::new(&self.0).read("c1").unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn conf(name: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": name, "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}})
}

fn delegate(name: &str) -> Value {
    json!({"Conf": conf(name), "ConfList": {"plugins": null}, "Name": name, "ifnameRequest": "if0", "macRequest": "02:00:00:00:00:01",
        "Bytes": base64::encode(conf(name).to_string().as_bytes())})
}

fn note(sandbox: &str, ifname: &str) -> Value {
    json!({"kind": "cniCacheV1", "containerId": sandbox, "ifName": ifname, "networkName": "blue", "netns": "/run/netns/x",
        "cniArgs": [["IgnoreUnknown", "true"], ["K8S_POD_NAME", "a"]], "capabilityArgs": {"mac": "02:00:00:00:00:02"},
        "config": base64::encode(conf("blue").to_string().as_bytes()),
        "result": {"cniVersion": "1.0.0", "interfaces": [{"name": ifname, "sandbox": "/run/netns/x"}]}})
}

#[test]
fn both_caches_say_what_they_know() {
    let place = Place::new("both");
    place.write("c1", &json!([delegate("blue")]).to_string());
    place.write("results/blue-c1-net1", &note("c1", "net1").to_string());
    // What the kernel took Multus may have made: it has to go, too.
    let odd = "a\u{1b}b";
    place.write(&format!("results/blue-c2-{odd}"), &note("c2", odd).to_string());
    let other = Cache::new(&place.0).read("c2").unwrap();
    assert_eq!((other.entries.len(), other.entries[0].ifname.as_str()), (1, odd));
    fs::remove_file(place.0.join(format!("results/blue-c2-{odd}"))).unwrap();
    let notes = place.read();
    let first = notes.delegates[0].as_ref().unwrap();
    assert_eq!((first.list.name.as_str(), first.ifname.as_deref()), ("blue", Some("if0")));
    assert_eq!(first.asked, *json!({"mac": "02:00:00:00:00:01"}).as_object().unwrap());
    let entry = &notes.entries[0];
    assert_eq!((entry.network.as_str(), entry.ifname.as_str()), ("blue", "net1"));
    assert_eq!(entry.args, "IgnoreUnknown=true;K8S_POD_NAME=a");
    assert_eq!(entry.result.as_ref().unwrap().interfaces[0].name, "net1");
    assert!(notes.damaged.is_empty() && !notes.has_damaged_list());
    assert_eq!(Cache::new(&place.0).sandboxes().unwrap(), BTreeSet::from(["c1".to_owned()]));
    notes.forget().unwrap();
    assert!(place.read().is_empty());
    notes.forget().unwrap();
}

#[test]
fn whatever_the_list_is_it_is_no_more_than_damage() {
    let place = Place::new("list");
    let whole = json!([delegate("blue")]).to_string();
    let many = json!(vec![json!(null); 257]).to_string();
    let deep = "[".repeat(100_000);
    for text in [
        "",
        "[]",
        "null",
        "{}",
        "garbage",
        &whole[..whole.len() / 2],
        "[null]",
        "[{}]",
        &many,
        &deep,
        "[{\"Bytes\":\"e30=\"}]",
    ] {
        place.write("c1", text);
        let notes = place.read();
        assert!(notes.has_damaged_list() && !notes.damaged.is_empty(), "{} bytes: {notes:?}", text.len());
        assert!(!notes.is_empty());
    }
    // Half of it is better than nothing, and each keeps its place.
    place.write("c1", &json!([null, delegate("blue")]).to_string());
    let notes = place.read();
    assert!(notes.delegates[0].is_none() && notes.delegates[1].is_some() && notes.has_damaged_list());
}

#[test]
fn what_multus_parsed_serves_where_the_bytes_are_damaged() {
    let place = Place::new("bytes");
    for bytes in [json!("%%%"), json!(""), json!(base64::encode(b"{\"type\":")), Value::Null] {
        let mut damaged = delegate("blue");
        damaged["Bytes"] = bytes;
        place.write("c1", &json!([damaged]).to_string());
        assert_eq!(place.read().delegates[0].as_ref().unwrap().list.plugins[0].plugin_type, "bridge");
    }
    let list = json!({"cniVersion": "9.9.9", "name": "n", "plugins": [{"type": "ptp"}, {"type": "tuning"}]});
    place.write("c1", &json!([{"Conf": {"type": ""}, "ConfList": list}]).to_string());
    let notes = place.read();
    assert_eq!(
        notes.delegates[0].as_ref().unwrap().list.plugins.len(),
        2,
        "a version that nobody speaks matters to no DEL"
    );
}

#[test]
fn of_a_damaged_note_its_name_is_left() {
    let place = Place::new("notes");
    let whole = note("c1", "net1").to_string();
    let other_kind = whole.replace("cniCacheV1", "cniCacheV9");
    let no_config =
        json!({"kind": "cniCacheV1", "containerId": "c1", "ifName": "net1", "networkName": "blue"}).to_string();
    let odd_name = whole.replace("\"net1\"", "\"../../etc\"");
    for text in ["", "{}", "[]", "null", &whole[..100], &other_kind, &no_config, &odd_name] {
        place.write("results/blue-c1-net1", text);
        let notes = place.read();
        let entry = &notes.entries[0];
        let named = (entry.network.as_str(), entry.ifname.as_str(), entry.list.is_none());
        assert_eq!((named, notes.damaged.len()), (("blue", "net1", true), 1), "{text}");
    }
}

#[test]
fn what_is_another_s_is_let_be() {
    let place = Place::new("other");
    let mut runtimes = note("c1", "eth0");
    runtimes["config"] = json!(base64::encode(json!({"name": "n", "type": "multus"}).to_string().as_bytes()));
    let other = place.write("results/blue-c1-net1", &note("c2", "net1").to_string());
    place.write("results/blue-c1-eth0", &runtimes.to_string());
    let notes = place.read();
    assert!(notes.is_empty() && notes.damaged.is_empty(), "{notes:?}");
    notes.forget().unwrap();
    assert!(other.exists());
}

#[test]
fn odd_files_are_neither_followed_nor_waited_for() {
    let place = Place::new("odd");
    let outside = place.write("outside", &json!([delegate("blue")]).to_string());
    symlink(&outside, place.0.join("c1")).unwrap();
    nix::unistd::mkfifo(&place.0.join("results/fifo-c1-net1"), Mode::S_IRWXU).unwrap();
    fs::create_dir(place.0.join("results/folder-c1-net2")).unwrap();
    File::create(place.0.join("results/large-c1-net3")).unwrap().set_len(100 << 20).unwrap();
    place.write("results/a name-c1-with/spaces".replace('/', "_").replace("results_", "results/").as_str(), "{}");
    fs::write(place.0.join(RESULTS).join(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"n\xff-c1-net4")), "{}")
        .unwrap();
    let notes = place.read();
    let names: Vec<&str> = notes.entries.iter().map(|entry| entry.network.as_str()).collect();
    assert_eq!(names, ["fifo", "folder", "large"]);
    assert!(notes.has_damaged_list(), "a link is no list");
    notes.forget().unwrap();
    assert!(outside.exists() && !place.0.join("c1").is_symlink() && !place.0.join("results/fifo-c1-net1").exists());
}

#[test]
fn more_than_a_pod_has_is_an_error() {
    let place = Place::new("many");
    for number in 0..=ATTACHMENTS_MAX {
        place.write(&format!("results/n{number}-c1-eth0"), "");
    }
    assert!(Cache::new(&place.0).read("c1").unwrap_err().msg.contains("256"));
    assert!(Cache::new(Path::new("/nowhere/at/all")).read("c1").unwrap().is_empty());
}

#[test]
fn a_device_s_file_is_removed_only_where_those_are() {
    let file = Path::new("/x");
    for (path, taken) in [
        ("/var/run/k8s.cni.cncf.io/devinfo/cni/blue-c1-net1-device.json", true),
        ("/var/run/k8s.cni.cncf.io/devinfo/cni/blue-c2-net1-device.json", false),
        ("/var/run/k8s.cni.cncf.io/devinfo/cni/../c1", false),
        ("/etc/c1", false),
    ] {
        let mut note = note("c1", "net1");
        note["capabilityArgs"]["CNIDeviceInfoFile"] = json!(path);
        let entry = entry(note.to_string().as_bytes(), "c1", file).unwrap().unwrap();
        assert_eq!(entry.device.is_some(), taken, "{path}");
    }
}
