//! What no API server does, and something at its address may: answers to other questions, answers without an end, files that
//! are none. What is asserted is how a call ends and what it leaves.

use std::path::Path;
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;
use crate::kube::Endless;
use crate::testbed::RECORDS;

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("api::strange::answers_that_are_not_the_object", needs, foreign),
        Case::new("api::strange::a_status_that_somebody_else_took_is_kept", needs, status_elsewhere),
        Case::new("api::strange::answers_without_an_end", needs, endless),
        Case::new("api::strange::files_of_a_kubeconfig_that_are_none", needs, odd_files),
        Case::new("api::strange::notes_that_are_none_and_the_longest_untried_first", needs, notes),
        Case::new("api::strange::an_expired_client_certificate_and_its_renewal", needs, certificate),
        Case::new("api::strange::a_mac_in_three_groups", needs, dotted_mac),
    ]
}

fn foreign() {
    let member = Member::new();
    let other = member.cluster.definition("other", &json!({"cniVersion": "1.0.0", "type": "bridge"})).to_string();
    let elsewhere = member.cluster.another_namespace();
    let namesake =
        member.cluster.definition_in(&elsewhere, "blue", r#"{"cniVersion": "1.0.0", "type": "bridge"}"#, &[]);
    let page = "<!doctype html><title>Log in</title>";
    let answers = [
        (200, "{}"),
        (200, r#"{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 200}"#),
        (200, "[]"),
        (200, "null"),
        (200, ""),
        (200, page),
        (302, "{}"),
        (302, other.as_str()),
        (200, other.as_str()),
        (200, &namesake.to_string()),
    ];
    for (index, (code, text)) in answers.into_iter().enumerate() {
        for (kind, path) in [("pod", "/pods/"), ("definition", "network-attachment-definitions")] {
            let pod = format!("{}{index}", &kind[..1]);
            // Once: whoever asks again gets the object.
            member.cluster.fail("GET", path, 1, Fault::Answer(code, text.to_owned()));
            let (uid, answer) = member.add(&pod, "blue");
            let msg = refused(&answer, 7);
            assert!(msg.contains(&format!("asking the API server for {kind}")), "{code} {text}: {msg}");
            assert!(msg.contains("not the object that was asked for") || msg.contains("302"), "{code} {text}: {msg}");
            assert!(!msg.contains("<title>"), "a page is nobody's message: {msg}");
            assert_eq!(member.asked("GET").iter().filter(|path| path.contains(kind)).count(), 1, "not asked again");
            assert_eq!(member.node.bed.links(&pod), ["lo"], "{code} {text}");
            member.del(&pod, &uid);
        }
    }
    // Of several definitions, which are asked for together, each is looked at.
    member.cluster.fail("GET", "network-attachment-definitions/green", usize::MAX, Fault::Answer(200, other));
    refused(&member.add("z", "blue,green").1, 7);
    assert_eq!(member.node.bed.links("z"), ["lo"]);
    member.assert_clean();
}

/// Whatever says 200 at the server's address has not written the status: it is written as soon as the server is back.
fn status_elsewhere() {
    let member = Member::new();
    for (pod, code, text) in [("a", 200, "{}"), ("b", 200, "<html>"), ("c", 302, "")] {
        member.cluster.fail("PATCH", "/status", usize::MAX, Fault::Answer(code, text.to_owned()));
        member.add(pod, "blue").1.ok();
        member.cluster.heal();
        assert_eq!(member.cluster.network_status(pod), Value::Null);
    }
    member.add("d", "blue").1.ok();
    for pod in ["a", "b", "c", "d"] {
        assert_eq!(member.cluster.network_status(pod)[1]["interface"], "net1", "{pod}");
    }
}

/// Of this process and of what it executes, in bytes: less than what comes over the wire until the deadline.
const MEMORY_MAX: u64 = 128 << 20;

fn endless() {
    let mut member = Member::new();
    member.node.conf["apiCallTimeoutMs"] = json!(1000);
    member.node.conf["apiDeadlineMs"] = json!(1500);
    let own = std::process::id().to_string();
    let limit = Command::new("prlimit").args(["--pid", &own, &format!("--data={MEMORY_MAX}")]).status().unwrap();
    assert!(limit.success());
    let mut number = 0;
    for is_http_2 in [false, true] {
        for what in [Endless::Continue, Endless::Fields, Endless::Body] {
            let pod = format!("p{number}");
            number += 1;
            let uid = member.pod(&pod, &[(NETWORKS, "blue")]);
            member.cluster.door(Door::Endless(what, is_http_2));
            let answer = member.call("ADD", &pod, &uid).run();
            // A body is read up to an object's bound, where it comes that far within the deadline.
            let is_beyond = what == Endless::Body && answer.json()["code"] == 7;
            let msg = refused(&answer, if is_beyond { 7 } else { 11 });
            assert!(msg.contains("asking the API server for pod"), "{what:?} {is_http_2}: {msg}");
            assert_eq!(msg.contains("beyond"), is_beyond, "{what:?} {is_http_2}: {msg}");
            assert_eq!(member.node.bed.links(&pod), ["lo"]);
            member.del(&pod, &uid);
            member.cluster.door(Door::Open);
        }
    }
    member.assert_clean();
}

fn odd_files() {
    let mut member = Member::new();
    let fifo = "/run/scratch/fifo";
    mkfifo(fifo, Mode::S_IRWXU).unwrap();
    let token = member.node.bed.file("token", TOKEN);
    let path = member.cluster.kubeconfig(&member.node.bed, &Login::TokenFile(token.clone()));
    let whole = fs::read_to_string(&path).unwrap();
    member.node.conf["kubeconfig"] = json!(path);
    let uid = member.pod("a", &[(NETWORKS, "blue")]);
    let with = |file: &str, key: &str| {
        let mut conf: Value = serde_json::from_str(&whole).unwrap();
        match key {
            "tokenFile" | "client-certificate" | "client-key" => conf["users"][0]["user"][key] = json!(file),
            _ => {
                conf["clusters"][0]["cluster"].as_object_mut().unwrap().remove("certificate-authority-data");
                conf["clusters"][0]["cluster"][key] = json!(file);
            }
        }
        fs::write(&path, conf.to_string()).unwrap();
    };
    for key in ["tokenFile", "client-certificate", "client-key", "certificate-authority"] {
        for file in [fifo, "/dev/zero", "/run/scratch"] {
            with(file, key);
            let msg = refused(&member.call("ADD", "a", &uid).run(), 11);
            assert!(msg.contains("kubeconfig") && msg.contains(file), "{key} {file}: {msg}");
        }
    }
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let msg = refused(&member.call("ADD", "a", &uid).run(), 11);
    assert!(msg.contains("not a regular file"), "{msg}");
    assert_eq!(member.cluster.seen(), []);
    fs::remove_file(&path).unwrap();
    fs::write(&path, whole).unwrap();
    member.call("ADD", "a", &uid).run().ok();
    member.del("a", &uid);
    member.assert_clean();
}

fn notes() {
    let member = Member::new();
    let folder = Path::new(RECORDS).join("unwritten");
    fs::create_dir_all(folder.join("a-folder/in/it")).unwrap();
    mkfifo(&folder.join("a-fifo"), Mode::S_IRWXU).unwrap();
    // In the place of a pod's own note.
    for (pod, is_fifo) in [("a", true), ("b", false)] {
        let uid = member.pod(pod, &[(NETWORKS, "blue")]);
        if is_fifo {
            mkfifo(&folder.join(&uid), Mode::S_IRWXU).unwrap()
        } else {
            fs::create_dir(folder.join(&uid)).unwrap()
        }
        member.call("ADD", pod, &uid).run().ok();
        assert_eq!(member.cluster.network_status(pod)[1]["interface"], "net1");
        assert_eq!(folder.join(&uid).exists(), !is_fifo, "a folder is not plexus'");
    }
    assert!(folder.join("a-folder").exists() && !folder.join("a-fifo").exists());
    // Six that nobody may write, the first tried last.
    let now = std::time::SystemTime::now();
    let uids: Vec<String> = (0..6).map(|number| member.cluster.pod(&format!("n{number}"), &[])).collect();
    for (number, uid) in uids.iter().enumerate() {
        let note =
            json!({"namespace": member.cluster.namespace(), "name": format!("n{number}"), "uid": uid, "status": "[]"});
        fs::write(folder.join(uid), note.to_string()).unwrap();
        let age = Duration::from_secs(3600 + 60 * u64::try_from(number).unwrap());
        fs::File::open(folder.join(uid)).unwrap().set_modified(now - age).unwrap();
        member.cluster.fail("", &format!("/pods/n{number}"), usize::MAX, Fault::Status(403));
    }
    for (pod, expected) in [("c", ["n5", "n4", "n3", "n2"]), ("d", ["n1", "n0", "n5", "n4"])] {
        member.cluster.seen();
        member.add(pod, "blue").1.ok();
        let asked = member.asked("GET");
        let tried = asked.iter().filter_map(|path| path.strip_prefix("pods/")).filter(|name| name.starts_with('n'));
        let tried: Vec<&str> = tried.collect();
        assert_eq!(tried, expected, "those that were tried longest ago come first");
    }
    member.cluster.heal();
    member.add("e", "blue").1.ok();
    member.add("f", "blue").1.ok();
    assert!(uids.iter().all(|uid| !folder.join(uid).exists()));
}

fn certificate() {
    let member = Member::new();
    let copy = |name: &str| {
        for ending in ["crt", "key"] {
            fs::copy(member.cluster.file(&format!("{name}.{ending}")), format!("/run/scratch/own.{ending}")).unwrap();
        }
    };
    copy("client-expired");
    let login = Login::Files("/run/scratch/own.crt".into(), "/run/scratch/own.key".into());
    let path = member.cluster.kubeconfig(&member.node.bed, &login);
    let uid = member.pod("a", &[(NETWORKS, "blue")]);
    let expired = |answer: &Answer, which: &str| {
        let msg = refused(answer, 7);
        assert!(msg.contains("401") && msg.contains(&format!("certificate expired: that of {which}")), "{msg}");
        assert!(msg.contains("has to be renewed"), "{msg}");
        assert_eq!(member.asked("GET").len(), 1, "it is not asked again");
    };
    let conf = |path: &Path| {
        let mut conf = member.node.conf.clone();
        conf["kubeconfig"] = json!(path);
        conf
    };
    let call = |path: &Path| member.call("ADD", "a", &uid).conf(&conf(path)).run();
    expired(&call(&path), "/run/scratch/own.crt");
    // Whoever renews it writes the files: each request reads them.
    copy("client-next");
    call(&path).ok();
    let file = |name: &str| member.cluster.file(name);
    let inline = Login::Inline(file("client-expired.crt"), file("client-expired.key"));
    let path = member.cluster.kubeconfig(&member.node.bed, &inline);
    member.cluster.seen();
    expired(&call(&path), "the kubeconfig");
    member.del("a", &uid);
}

fn dotted_mac() {
    let member = Member::new();
    let config = json!({"cniVersion": "1.0.0", "type": "bridge", "bridge": "green0", "capabilities": {"mac": true}});
    member.cluster.definition("addressed", &config);
    member.add("a", r#"[{"name": "addressed", "mac": "0200.5e00.5301"}]"#).1.ok();
    assert_eq!(member.cluster.network_status("a")[1]["mac"], "02:00:5e:00:53:01");
    for wrong in
        ["0200.5e00", "0200.5e00.53", "0200.5e00.5301.0000", "0200.5e00:5301", "02.00.5e.00.53.01", "0100.5e00.5301"]
    {
        let annotation = json!([{"name": "addressed", "mac": wrong}]).to_string();
        let answer = member.add(&format!("w{}", wrong.len()), &annotation).1;
        assert!(!answer.succeeded(), "{wrong}");
        member.cluster.delete_pod(&format!("w{}", wrong.len()));
    }
}
