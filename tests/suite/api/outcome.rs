//! What the cluster is told: network-status, events, and what becomes of them when they cannot be told.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use super::*;
use crate::testbed::RECORDS;

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("api::outcome::the_status_says_every_interface", needs, status),
        Case::new("api::outcome::the_status_has_the_mtu_of_a_result", &[Need::ApiServer], mtu),
        Case::new("api::outcome::other_writers_lose_nothing", needs, writers),
        Case::new("api::outcome::conflicts_and_pods_of_the_same_name", needs, conflicts),
        Case::new("api::outcome::a_role_without_patch_is_enough", needs, no_patch),
        Case::new("api::outcome::a_role_without_patch_costs_two_requests_more", needs, cost_without_patch),
        Case::new("api::outcome::d16_a_status_that_cannot_be_written_fails_no_pod", needs, unwritten),
        Case::new("api::outcome::a_pod_that_ends_takes_its_unwritten_status_back", needs, withdrawn),
        Case::new("api::outcome::a_pod_that_is_collected_takes_its_unwritten_status_back", needs, collected),
        Case::new("api::outcome::an_older_status_is_never_written_over_a_newer_one", needs, overtaken),
        Case::new("api::outcome::a_failure_is_one_event_however_often", needs, one_event),
        Case::new("api::outcome::events_that_cannot_be_told_fail_no_pod", needs, no_events),
    ]
}

fn status() {
    let member = Member::new();
    member.cluster.definition(
        "routed",
        &json!({"cniVersion": "1.1.0", "name": "r", "type": "bridge", "bridge": "green0", "isGateway": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.8.0.0/24"}]]},
            "dns": {"nameservers": ["10.8.0.1"]}}),
    );
    member.add("a", r#"[{"name": "blue"}, {"name": "routed", "default-route": ["10.8.0.1"]}]"#).1.ok();
    let status = member.cluster.network_status("a");
    let [first, blue, routed] = [&status[0], &status[1], &status[2]];
    assert_eq!(
        (&first["name"], &first["default"], &first["interface"]),
        (&json!("cluster"), &json!(true), &json!("eth0"))
    );
    assert_eq!(
        (&blue["name"], &blue["default"]),
        (&json!(format!("{}/blue", member.cluster.namespace())), &json!(false))
    );
    assert_eq!((&blue["ips"], &blue["dns"]), (&json!(["10.2.0.2"]), &json!({})));
    assert_eq!(routed["default-route"], json!(["10.8.0.1"]));
    assert_eq!(routed["dns"], json!({"nameservers": ["10.8.0.1"]}));
    assert!(first["mac"].as_str().is_some_and(|mac| mac.len() == 17), "{first}");
    let events = member.cluster.events();
    assert_eq!(events.len(), 3, "{events:?}");
    let of_blue = format!("Add net1 [10.2.0.2/24] from {}/blue", member.cluster.namespace());
    assert!(events.contains(&("AddedInterface".to_owned(), of_blue)), "{events:?}");
}

/// A result has it since CNI 1.1: of a plugin that says it.
const SIZED: &str = r#"cat >/dev/null
[ "$CNI_COMMAND" != ADD ] || echo "{\"cniVersion\": \"1.1.0\", \"interfaces\":
    [{\"name\": \"$CNI_IFNAME\", \"mtu\": 1400, \"sandbox\": \"$CNI_NETNS\"}]}""#;

fn mtu() {
    let member = Member::new();
    member.node.script("sized", SIZED);
    member.cluster.definition("sized", &json!({"cniVersion": "1.1.0", "name": "sized", "type": "sized", "mtu": 1400}));
    member.add("a", "sized").1.ok();
    let status = member.cluster.network_status("a");
    assert_eq!((&status[0]["mtu"], &status[1]["mtu"]), (&Value::Null, &json!(1400)), "{status}");
}

fn writers() {
    let member = Member::new();
    let cluster = Arc::clone(&member.cluster);
    member.cluster.before("PATCH", "/status", 1, move || cluster.annotate("a", &json!({"theirs": "kept"})));
    member.add("a", "blue").1.ok();
    let annotations = &member.cluster.get_pod("a")["metadata"]["annotations"];
    assert_eq!((&annotations["theirs"], &annotations[NETWORKS]), (&json!("kept"), &json!("blue")));
    assert_eq!(member.cluster.network_status("a")[1]["interface"], "net1");
}

/// A conflict is tried again; one of identity means that nobody waits for the status.
fn conflicts() {
    let member = Member::new();
    member.cluster.fail("PATCH", "/status", 2, Fault::Status(409));
    member.add("a", "blue").1.ok();
    assert_eq!(member.cluster.network_status("a")[1]["interface"], "net1");
    let cluster = Arc::clone(&member.cluster);
    member.cluster.before("PATCH", "/status", 1, move || {
        cluster.delete_pod("b");
        cluster.pod("b", &[]);
    });
    let (uid, answer) = member.add("b", "blue");
    answer.ok();
    assert_eq!(member.cluster.network_status("b"), Value::Null, "the new pod of the name is another");
    assert!(!Path::new(RECORDS).join("unwritten").join(&uid).exists());
    member.del("b", &uid);
}

/// What Multus' own role allows: to read pods, and to put their status.
fn no_patch() {
    let member = Member::new();
    member.cluster.fail("PATCH", "/status", usize::MAX, Fault::Status(403));
    let cluster = Arc::clone(&member.cluster);
    member.cluster.before("PUT", "/status", 2, move || cluster.annotate("a", &json!({"theirs": uuid()})));
    member.add("a", "blue").1.ok();
    let annotations = &member.cluster.get_pod("a")["metadata"]["annotations"];
    assert!(annotations["theirs"].is_string(), "{annotations}");
    assert_eq!(member.cluster.network_status("a")[1]["interface"], "net1", "after two conflicts");
}

/// One that is refused, and then the whole object, read and put; the next process knows nothing of it.
fn cost_without_patch() {
    let member = Member::new();
    let all = |pod: &str| {
        let (_, answer) = member.add(pod, "blue");
        answer.ok();
        let seen = member.cluster.seen().into_iter().filter(|seen| !seen.path.contains("/events"));
        seen.map(|seen| seen.method).collect::<Vec<_>>()
    };
    let usual = all("a");
    assert_eq!(usual, ["GET", "GET", "PATCH"]);
    member.cluster.fail("PATCH", "/status", usize::MAX, Fault::Status(403));
    for pod in ["b", "c"] {
        assert_eq!(all(pod), [usual.as_slice(), &["GET".to_owned(), "PUT".to_owned()]].concat());
        let status = member.cluster.network_status(pod);
        assert_eq!((&status[0]["interface"], &status[1]["interface"]), (&json!("eth0"), &json!("net1")));
    }
}

fn uuid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap()
}

/// A sandbox that has ended has no status, and what one that came after it has stays noted.
fn withdrawn() {
    let member = Member::new();
    let noted = || fs::read_dir(format!("{RECORDS}/unwritten")).map_or(0, Iterator::count);
    member.cluster.fail("", "/status", usize::MAX, Fault::Status(403));
    let (uid, answer) = member.add("a", "blue");
    answer.ok();
    assert_eq!(noted(), 1);
    let (other, answer) = member.add("b", "blue");
    answer.ok();
    let path = format!("{RECORDS}/unwritten/{other}");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("net1", "net7")).unwrap();
    member.del("b", &other);
    assert!(fs::exists(&path).unwrap(), "it is another's by now");
    fs::write(&path, text).unwrap();
    member.del("a", &uid);
    assert!(!fs::exists(format!("{RECORDS}/unwritten/{uid}")).unwrap());
}

/// The runtime's GC, in the place of a DEL: what a later request wrote of that sandbox would be of interfaces that are gone.
fn collected() {
    let member = Member::new();
    member.cluster.fail("", "/status", usize::MAX, Fault::Status(403));
    let (_, answer) = member.add("a", "blue");
    answer.ok();
    assert_eq!(fs::read_dir(format!("{RECORDS}/unwritten")).unwrap().count(), 1);
    let mut gc = member.node.conf.clone();
    gc["cniVersion"] = json!("1.1.0");
    gc["cni.dev/valid-attachments"] = json!([]);
    member.call("GC", "a", "").conf(&gc).run().ok();
    assert_eq!(fs::read_dir(format!("{RECORDS}/unwritten")).unwrap().count(), 0);
    member.cluster.heal();
    member.add("b", "blue").1.ok();
    assert_eq!(member.cluster.network_status("a"), Value::Null);
}

/// While another request writes what is noted of a pod, that pod gets another sandbox, and a newer status.
fn overtaken() {
    let member = Member::new();
    member.cluster.fail("PATCH", "/status", 1, Fault::Status(403));
    member.cluster.fail("PUT", "/status", 1, Fault::Status(403));
    let (uid, answer) = member.add("a", "blue");
    answer.ok();
    assert!(Path::new(RECORDS).join("unwritten").join(&uid).exists());
    let mut again = Command::new(env!("CARGO_BIN_EXE_plexus-cni"));
    let conf = member.node.bed.file("again.conf", &member.node.conf.to_string());
    again.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("CNI_PATH", member.node.bed.bin(Side::Plexus));
    again.envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "second"), ("CNI_IFNAME", "eth0")]);
    let namespace = member.cluster.namespace();
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=a;K8S_POD_UID={uid}");
    member.node.bed.pod("second");
    again.env("CNI_ARGS", args).env("CNI_NETNS", member.node.bed.netns("second"));
    let again = Mutex::new(again);
    member.cluster.before("PATCH", "/pods/a/status", 1, move || {
        let ended = again.lock().unwrap().stdin(fs::File::open(&conf).unwrap()).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
    });
    let (_, answer) = member.add("b", "blue");
    answer.ok();
    assert_eq!(member.cluster.network_status("b")[1]["ips"], json!(["10.2.0.3"]));
    assert_eq!(member.cluster.network_status("a")[1]["ips"], json!(["10.2.0.4"]), "of the sandbox that came later");
    assert!(!Path::new(RECORDS).join("unwritten").join(&uid).exists());
}

fn unwritten() {
    let mut member = Member::new();
    member.node.conf["apiDeadlineMs"] = json!(1500);
    let noted = || fs::read_dir(format!("{RECORDS}/unwritten")).map_or(0, Iterator::count);
    for (pod, fault) in [("a", Fault::Status(403)), ("b", Fault::Status(500)), ("c", Fault::Hang)] {
        member.cluster.fail("", "/status", usize::MAX, fault.clone());
        let (_, answer) = member.add(pod, "blue");
        assert!(answer.succeeded(), "{fault:?}: {}", answer.stdout);
        assert_eq!(member.cluster.network_status(pod), Value::Null);
        member.cluster.heal();
    }
    assert_eq!(noted(), 3);
    let events = member.cluster.events();
    assert!(events.iter().any(|(reason, _)| reason == "NetworkStatusNotWritten"), "{events:?}");
    member.add("d", "blue").1.ok();
    for pod in ["a", "b", "c", "d"] {
        assert_eq!(member.cluster.network_status(pod)[1]["interface"], "net1", "{pod}: the next request writes it");
    }
    assert_eq!(noted(), 0);
    // What is no note is swept.
    fs::write(Path::new(RECORDS).join("unwritten/torn"), "{\"namesp").unwrap();
    member.add("e", "blue").1.ok();
    assert_eq!(noted(), 0);
}

fn one_event() {
    let member = Member::new();
    let (uid, answer) = member.add("a", "nowhere");
    refused(&answer, 7);
    for _ in 0..2 {
        refused(&member.call("ADD", "a", &uid).run(), 7);
    }
    let path = format!("/api/v1/namespaces/{}/events", member.cluster.namespace());
    let list = member.cluster.get(&path);
    let items = list["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["count"], &items[0]["type"]), (1, &json!(3), &json!("Warning")), "{items:?}");
    assert_eq!(items[0]["involvedObject"]["uid"], uid);
    let message = items[0]["message"].as_str().unwrap();
    assert!(message.ends_with("create it, or correct the pod's annotation"), "{message}");
}

fn no_events() {
    let member = Member::new();
    member.cluster.fail("POST", "/events", usize::MAX, Fault::Status(403));
    let (uid, answer) = member.add("a", "blue");
    answer.ok();
    assert_eq!(member.cluster.network_status("a")[1]["interface"], "net1");
    member.del("a", &uid);
    member.assert_clean();
}
