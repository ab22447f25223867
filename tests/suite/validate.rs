//! `plexus validate`: what it prints for files, its exit codes; and that what Multus' own pages show is right.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::api::Member;
use crate::case::Case;
use crate::meta::{self, node};
use crate::need::Need;
use crate::program::{plexus, text};
use crate::testbed::Testbed;
use crate::tools;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("validate::what_the_pages_of_multus_show_is_right", &[], pages),
        Case::new("validate::a_finding_has_place_object_and_remedy", &[], finding),
        Case::new("validate::an_annotation_is_a_text", &[], no_text),
        Case::new("validate::a_card_s_keys_are_known", &[], card),
        Case::new("validate::the_node_s_configuration_counts", &[], configuration),
        Case::new("validate::standard_input_and_directories_are_read", &[], places),
        Case::new("validate::a_file_that_cannot_be_read_hides_no_other", &[], unreadable),
        Case::new("validate::what_explain_refuses_is_found", &[], explained),
        Case::new("validate::doctor_names_definitions_that_share_a_pool", &[], shared),
        Case::new("validate::doctor_asks_the_server_for_them", &[Need::Macvlan, Need::ApiServer], listed),
    ]
}

/// A folder with these files.
fn folder(bed: &Testbed, files: &[(&str, &str)]) -> PathBuf {
    let paths = files.iter().map(|(name, text)| bed.file(&format!("validate/{name}"), text));
    paths.last().unwrap().parent().unwrap().to_owned()
}

/// The exit code, and the findings.
fn told(words: &[&str]) -> (i32, Vec<Value>) {
    let output = plexus(&[&["validate", "-o", "json"], words].concat());
    let shown: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}{}", text(&output.stdout), text(&output.stderr)));
    (output.status.code().unwrap(), shown.as_array().unwrap().clone())
}

fn definition(name: &str, annotations: &str, config: &str) -> String {
    let config = config.replace('\n', "\n    ");
    format!(
        "---\napiVersion: \"k8s.cni.cncf.io/v1\"\nkind: NetworkAttachmentDefinition\nmetadata:\n  name: {name}\n{annotations}spec:\n  config: '{config}'\n"
    )
}

fn pod(name: &str, networks: &str) -> String {
    // No deeper than its key, as those pages have it.
    let networks = networks.replace('\n', "\n    ");
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations:\n    k8s.v1.cni.cncf.io/networks: {networks}\nspec:\n  containers: [{{name: a, image: b}}]\n"
    )
}

/// macvlan with host-local in the long form.
fn macvlan(subnet: &str) -> String {
    format!(
        "{{\n  \"cniVersion\": \"0.3.0\", \"type\": \"macvlan\", \"master\": \"eth1\", \"mode\": \"bridge\",\n  \"ipam\": {{\"type\": \"host-local\",\n    \"ranges\": [[{{\"subnet\": \"{subnet}.0.0/16\", \"rangeStart\": \"{subnet}.1.20\", \"rangeEnd\": \"{subnet}.3.50\"}}]]}}\n}}"
    )
}

/// The shapes of how-to-use, configuration, quickstart and the folder of examples (multus-cni), written anew.
fn pages() {
    let bed = Testbed::new();
    let short = "{\"cniVersion\": \"0.3.0\", \"type\": \"macvlan\", \"master\": \"eth0\", \"mode\": \"bridge\",\n  \"ipam\": {\"type\": \"host-local\", \"subnet\": \"192.168.2.0/24\", \"rangeStart\": \"192.168.2.200\",\n    \"rangeEnd\": \"192.168.2.216\", \"routes\": [{\"dst\": \"0.0.0.0/0\"}], \"gateway\": \"192.168.2.1\"}}";
    let chained = "{\"cniVersion\": \"0.3.1\", \"plugins\": [\n  {\"type\": \"macvlan\", \"capabilities\": {\"ips\": true}, \"master\": \"eth0\", \"mode\": \"bridge\",\n   \"ipam\": {\"type\": \"static\", \"routes\": [{\"dst\": \"0.0.0.0/0\", \"gw\": \"10.1.1.1\"}]}},\n  {\"capabilities\": {\"mac\": true}, \"type\": \"tuning\"}]}";
    let sriov = "{\"type\": \"sriov\", \"vlan\": 1000, \"ipam\": {\"type\": \"host-local\", \"subnet\": \"10.56.217.0/24\",\n  \"rangeStart\": \"10.56.217.171\", \"rangeEnd\": \"10.56.217.181\", \"routes\": [{\"dst\": \"0.0.0.0/0\"}],\n  \"gateway\": \"10.56.217.1\"}}";
    let resource = "  annotations:\n    k8s.v1.cni.cncf.io/resourceName: intel.com/sriov\n";
    let device = "{\"cniVersion\": \"1.0.0\", \"type\": \"host-device\"}";
    let in_file = "---\napiVersion: \"k8s.cni.cncf.io/v1\"\nkind: NetworkAttachmentDefinition\nmetadata:\n  name: macvlan-conf-2\n";
    let elsewhere = definition("macvlan-conf-3", "  namespace: testns1\n", &macvlan("12.10"));
    let all = [
        definition("macvlan-conf-1", "", &macvlan("10.10")),
        in_file.to_owned(),
        elsewhere,
        definition("macvlan-conf", "", short),
        definition("chained", "", chained),
        definition("sriov-net-a", resource, sriov),
        definition("device", resource, device),
        pod("pod-case-01", "macvlan-conf-1, macvlan-conf-2"),
        pod("pod-case-02", "testns1/macvlan-conf-3"),
        pod("pod-case-03", "macvlan-conf-1@macvlan1"),
        pod("pod-case-04", "'[\n  { \"name\" : \"macvlan-conf-1\" },\n  { \"name\" : \"macvlan-conf-2\" }\n]'"),
        pod("pod-case-05", "'[\n  { \"name\" : \"macvlan-conf-3\",\n    \"namespace\": \"testns1\" }\n]'"),
        pod(
            "pod-case-06",
            "'[\n  { \"name\" : \"macvlan-conf-1\",\n    \"interface\": \"macvlan1\" },\n  { \"name\" : \"macvlan-conf-2\" }\n]'",
        ),
        pod("default-route", "'[{\n  \"name\": \"macvlan-conf\",\n  \"default-route\": [\"192.168.2.1\"]\n}]'"),
        pod("ips", "'[ { \"name\": \"chained\", \"ips\": [ \"10.1.1.101/24\" ], \"mac\": \"c2:b0:57:49:47:f1\" } ]'"),
        pod("testpod1", "sriov-net-a, device"),
    ];
    let dir = folder(&bed, &[("all.yaml", &all.concat())]);
    let (code, findings) = told(&[&dir.join("all.yaml").display().to_string()]);
    assert_eq!((code, findings.len()), (0, 0), "no plugin is executed: {findings:#?}");
}

fn finding() {
    let bed = Testbed::new();
    let wrong = definition("lan", "", &macvlan("10.10").replace("bridge", "sideways"));
    let dir = folder(&bed, &[("lan.yaml", &wrong)]);
    let path = dir.join("lan.yaml").display().to_string();
    let (code, findings) = told(&[&path]);
    let expected = json!([{
        "file": path, "line": 8, "column": 67, "level": "error",
        "object": "NetworkAttachmentDefinition default/lan", "key": "spec.config: mode",
        "what": findings[0]["what"], "instead": findings[0]["instead"],
    }]);
    assert_eq!((code, json!(findings)), (5, expected));
    assert!(findings[0]["what"].as_str().unwrap().contains("sideways"));
    assert!(findings[0]["instead"].as_str().unwrap().contains("\"vepa\""));
    let output = plexus(&["validate", &path]);
    let (shown, summary) = (text(&output.stdout), text(&output.stderr));
    assert!(shown.starts_with("PLACE") && shown.contains(&format!("{path}:8:67   error")), "{shown}");
    assert!(summary.contains("1 definition(s), 0 pod(s): errors: 1") && summary.contains("1 mistake(s)"), "{summary}");
}

/// As YAML has it where the quotes are forgotten.
fn no_text() {
    let bed = Testbed::new();
    let files = [pod("list", "\n      - name: a"), pod("number", "5"), pod("none", "")];
    let dir = folder(&bed, &[("pods.yaml", &files.concat())]);
    let (code, findings) = told(&[&dir.join("pods.yaml").display().to_string()]);
    let shown = |index: usize, key: &str| findings[index][key].as_str().unwrap();
    assert_eq!((code, findings.len()), (5, 2), "{findings:#?}");
    assert!(shown(0, "object").ends_with("/list") && shown(0, "instead").contains("k8s.v1.cni.cncf.io/networks: |"));
    assert_eq!(shown(1, "instead"), "k8s.v1.cni.cncf.io/networks: \"5\"");
    assert!((0..2).all(|index| shown(index, "what").contains("is no text")), "{findings:#?}");
}

/// The refusal is told of the key that it is about, and not of one that is left out to find out.
fn card() {
    let bed = Testbed::new();
    let conf = "{\"cniVersion\": \"1.0.0\", \"type\": \"sriov\", \"deviceID\": \"0000:01:10.0\", \"vlan\": 4095}";
    let dir = folder(&bed, &[("vf.yaml", &definition("vf", "", conf))]);
    let (code, findings) = told(&[&dir.join("vf.yaml").display().to_string()]);
    assert_eq!((code, findings.len()), (5, 1), "{findings:#?}");
    assert_eq!(findings[0]["key"], "spec.config: vlan");
}

fn configuration() {
    let bed = Testbed::new();
    let conf = json!({"cniVersion": "1.0.0", "name": "node", "plugins": [{"type": "multus", "namespaceIsolation": true,
        "globalNamespaces": "shared", "allowedDelegates": [], "clusterNetwork": "/etc/cni/net.d/10-a.conflist"}]});
    let files = [
        definition("ovs", "", "{\"cniVersion\": \"0.3.1\", \"type\": \"ovs\"}"),
        pod("near", "shared/a"),
        pod("far", "other/a"),
    ];
    let dir = folder(&bed, &[("all.yaml", &files.concat()), ("node.conflist", &conf.to_string())]);
    let [all, node] = ["all.yaml", "node.conflist"].map(|name| dir.join(name).display().to_string());
    let (code, findings) = told(&[&all, "--config", &node]);
    let errors: Vec<&str> = findings
        .iter()
        .filter(|finding| finding["level"] == "error")
        .map(|finding| finding["object"].as_str().unwrap())
        .collect();
    assert_eq!(
        (code, errors),
        (5, vec!["NetworkAttachmentDefinition default/ovs", "Pod default/far"]),
        "{findings:#?}"
    );
    let (code, findings) = told(&[&all]);
    assert_eq!((code, findings.iter().filter(|finding| finding["level"] == "error").count()), (0, 0));
    assert_eq!(plexus(&["validate", &all, "--config", &all]).status.code(), Some(1), "no configuration");
}

fn places() {
    let bed = Testbed::new();
    let lan = definition("lan", "", &macvlan("10.10"));
    let broken = pod("a", "'[{\"name\": \"lan\", \"ips\": 5}]'");
    let dir = folder(&bed, &[("lan.yaml", &lan), ("pod.yml", &broken), ("notes.txt", "]"), (".hidden.yaml", "]")]);
    let (code, findings) = told(&[&dir.display().to_string()]);
    assert_eq!((code, findings.len()), (5, 1), "{findings:#?}");
    assert_eq!((&findings[0]["line"], &findings[0]["column"]), (&json!(7), &json!(52)));
    let mut child = Command::new(env!("CARGO_BIN_EXE_plexus"))
        .args(["validate", "-", "-o", "json", "-n", "shop"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(broken.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&shown[0]["file"], &shown[0]["object"]), (&json!("-"), &json!("Pod shop/a")), "{shown}");
    assert_eq!(plexus(&["validate", "/run/scratch/none.yaml"]).status.code(), Some(1));
    assert_eq!(plexus(&["validate"]).status.code(), Some(2));
}

fn unreadable() {
    let bed = Testbed::new();
    let dir = folder(&bed, &[("lan.yaml", &definition("lan", "", &macvlan("10.10").replace("bridge", "sideways")))]);
    fs::write(dir.join("bytes.yaml"), b"a: b\n# \xc3\xa9t\xe9\n").unwrap();
    nix::unistd::mkfifo(&dir.join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let all = dir.display().to_string();
    for files in [&[all.as_str()][..], &[&path("bytes.yaml"), &path("lan.yaml"), &path("pipe.yaml")]] {
        let (code, findings) = told(files);
        let places: Vec<Value> =
            findings.iter().map(|f| json!([f["file"], f["line"], f["column"], f["level"]])).collect();
        let expected = [
            json!([path("bytes.yaml"), 2, 5, "error"]),
            json!([path("lan.yaml"), 8, 67, "error"]),
            json!([path("pipe.yaml"), 1, 1, "error"]),
        ];
        assert_eq!((code, places), (5, expected.to_vec()), "{findings:#?}");
        assert!(findings[0]["what"].as_str().unwrap().contains("UTF-8"), "{findings:#?}");
        assert!(findings[2]["what"].as_str().unwrap().contains("not a regular file"), "{findings:#?}");
        assert!([0, 2].iter().all(|index| findings[*index]["instead"] != ""), "{findings:#?}");
    }
}

/// Whatever ADD's plan refuses has a finding with the same words.
fn explained() {
    let bed = Testbed::new();
    let lan = definition("lan", "", &macvlan("10.10"));
    let conf = json!({"cniVersion": "1.0.0", "name": "node", "type": "multus",
        "delegates": [{"cniVersion": "1.0.0", "name": "d", "type": "dummy", "ipam": {"type": "static"}}]});
    for networks in [
        "lan@x,lan@x",
        "lan@sixteen-bytes-xx",
        "'[{\"name\": \"lan\", \"ips\": [\"10.99.0.1\"]}]'",
        "'[{\"name\": \"lan\", \"mac\": \"02:00\"}]'",
        "'[{\"name\": \"lan\", \"bandwidth\": {\"ingressRate\": 5, \"ingressBurst\": 5}}]'",
        "'[{\"name\": \"lan\", \"default-route\": [\"10.10.0.1\"]}, {\"name\": \"lan\", \"default-route\": [\"10.10.0.1\"]}]'",
    ] {
        let pod = pod("a", networks);
        let dir = folder(&bed, &[("lan.yaml", &lan), ("pod.yaml", &pod)]);
        let mut conf = conf.clone();
        conf["manifests"] = json!(dir);
        fs::write(dir.join("node.conf"), conf.to_string()).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        let explained = plexus(&["explain", &path("pod.yaml"), "--config", &path("node.conf")]);
        let refusal = text(&explained.stderr);
        assert_eq!(explained.status.code(), Some(1), "{networks}: {refusal}");
        let (code, findings) = told(&[&dir.display().to_string(), "--config", &path("node.conf")]);
        assert_eq!(code, 5, "{networks}: {refusal}");
        let what = findings[0]["what"].as_str().unwrap();
        let last = what.rsplit(": ").next().unwrap();
        assert!(refusal.contains(last), "{refusal}\n{what}");
    }
}

fn pools() -> Vec<Value> {
    let (_, shown) = tools::told(&["doctor", "--conf-dir=/run/scratch/net.d"]);
    let is_of = |row: &&Value| row["area"] == "pool" && row["what"].as_str().unwrap().starts_with("definition");
    shown.as_array().unwrap().iter().filter(is_of).cloned().collect()
}

fn shared() {
    let node = node();
    node.bed.file("net.d/00-plexus.conf", &node.conf.to_string());
    let of = |subnet: &str| {
        json!({"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "up0",
            "ipam": {"type": "host-local", "subnet": subnet}})
        .to_string()
    };
    meta::definition(&node.bed, "shop", "lan", &of("10.9.0.0/24"));
    meta::definition(&node.bed, "store", "lan", &of("10.9.0.0/24"));
    assert_eq!(pools(), Vec::<Value>::new(), "copies are one network");
    meta::definition(&node.bed, "till", "lan", &of("10.8.0.0/24"));
    let found = pools();
    assert_eq!(
        (found.len(), &found[0]["what"], &found[0]["state"]),
        (1, &json!("definition till/lan"), &json!("wrong"))
    );
    let detail = found[0]["detail"].as_str().unwrap();
    assert!(detail.contains("shop/lan") && detail.contains("10.8.0.1-10.8.0.254 and 10.9.0.1-10.9.0.254"), "{detail}");
    meta::definition(&node.bed, "till", "lan", &of("10.9.0.0/24").replace("up0", "up1"));
    let found = pools();
    let detail = found[0]["detail"].as_str().unwrap();
    assert!(
        found.len() == 1 && detail.contains("shop/lan") && detail.contains("up0") && detail.contains("up1"),
        "{detail}"
    );
}

fn listed() {
    let member = Member::new();
    member.node.bed.file("net.d/00-plexus.conf", &member.node.conf.to_string());
    let found = pools();
    assert_eq!(
        member.cluster.count("GET", "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions?"),
        1,
        "{found:#?}"
    );
    let is_note = |row: &&Value| row["state"] == "note";
    assert_eq!(found.iter().filter(is_note).count(), 0, "they were looked at: {found:#?}");
    let other = member.cluster.another_namespace();
    let config = json!({"cniVersion": "1.0.0", "name": "blue", "type": "macvlan", "master": "up0",
        "ipam": {"type": "host-local", "dataDir": format!("/run/{other}"), "subnet": "10.2.0.0/24"}});
    member.cluster.definition_in(&other, "blue", &config.to_string(), &[]);
    let mut wider = config;
    wider["ipam"]["subnet"] = json!("10.2.0.0/16");
    member.cluster.definition_in(&other, "wider", &wider.to_string(), &[]);
    let found = pools();
    let own =
        |row: &&Value| row["what"] == format!("definition {other}/wider") || row["what"].to_string().contains(" more ");
    assert!(found.iter().any(|row| own(&row)), "{found:#?}");
}
