//! What a node's configuration says, and what of it can be seen: the log, the readiness file, keys that nobody knows, the last
//! network of every pod. It knows the keys, not how they are read.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::call::Side;
use crate::case::Case;
use crate::meta::{Node, definition, node, statuses};
use crate::world;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("config::d12_what_is_no_list_or_no_object_is_an_error", &[], d12),
        Case::new("config::d20_status_does_not_wait_for_the_readiness_file", &[], d20),
        Case::new("config::add_waits_for_the_readiness_file_and_the_others_do_not", &[], awaited),
        Case::new("config::d28_log_options_take_effect", &[], d28_log_options),
        Case::new("config::d28_what_the_installer_calls_conf_dir_is_read", &[], d28_conf_dir),
        Case::new("config::d29_an_error_keeps_its_cause_and_says_it_once", &[], d29),
        Case::new("config::a_line_for_each_attachment_and_no_configuration_in_it", &[], lines),
        Case::new("config::no_log_file_keeps_a_call_from_ending_well", &[], odd_log_files),
        Case::new("config::a_log_on_standard_output_is_not_in_the_answer", &[], log_on_output),
        Case::new("config::many_calls_write_one_log", &[], many),
        Case::new("config::an_unknown_key_is_said_once_a_boot", &[], unknown_keys),
        Case::new("config::every_key_of_multus_at_once", &[], every_key),
        Case::new("config::a_chain_of_the_node_comes_after_all_others", &[], auxiliary),
        Case::new("config::a_chain_of_the_node_that_cannot_be_used_is_said", &[], auxiliary_broken),
        Case::new("config::passthru_passes_on_what_it_got", &[], passthru),
    ]
}

const LOG: &str = "/run/scratch/log/plexus.log";
const READY: &str = "/run/scratch/ready";
/// How long the node's gzip may take beside other work.
const PACKED_LIMIT: Duration = Duration::from_secs(60);

fn set(node: &mut Node, keys: Value) {
    let Value::Object(keys) = keys else { panic!("keys are an object") };
    node.conf.as_object_mut().unwrap().extend(keys);
}

fn logged() -> Vec<String> {
    fs::read_to_string(LOG).unwrap().lines().map(str::to_owned).collect()
}

/// Of each line what comes after the time, which must be one.
fn untimed(lines: &[String]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            assert!(time.len() == 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{line}");
            rest
        })
        .collect()
}

fn d12() {
    let mut node = node();
    let inline = node.conf["delegates"].clone();
    let green = json!({"cniVersion": "1.0.0", "name": "g", "type": "bridge", "bridge": "green0"});
    let with = |key: &str, value: Value| {
        let mut conf = green.clone();
        conf[key] = value;
        conf
    };
    for (name, conf) in [
        ("l1", json!({"cniVersion": "1.0.0", "name": "l1", "plugins": []})),
        ("l2", json!({"cniVersion": "1.0.0", "name": "l2", "plugins": [{}]})),
        ("l3", json!({"cniVersion": "1.0.0", "name": "l3", "plugins": {}})),
        ("l4", json!({"cniVersion": "1.0.0", "name": "l4", "plugins": [null]})),
        ("a1", with("args", json!([]))),
        ("a2", with("args", json!("x"))),
        ("a3", with("args", json!({"cni": 5}))),
    ] {
        definition(&node.bed, "default", name, &conf.to_string());
        let asked = json!([{"name": name, "cni-args": {"a": 1}}]).to_string();
        node.pod(name, &[("k8s.v1.cni.cncf.io/networks", &asked)]);
        let answer = node.call("ADD", name).run();
        let error = answer.json();
        assert!(answer.rc == Some(1) && error["code"] != 999, "{name}: {:?} {error}", answer.rc);
        assert!(!answer.stderr.contains("panicked"), "{name}: {}", answer.stderr);
        assert_eq!(node.bed.links(name), ["lo"], "{name}");
        // The same as the node's own default network.
        if name.starts_with('l') {
            node.conf["delegates"] = json!([conf]);
            for command in ["ADD", "STATUS", "DEL"] {
                let answer = node.call(command, name).run();
                assert!(answer.rc.is_some() && !answer.stderr.contains("panicked"), "{name} {command}: {answer:?}");
                assert!(command == "DEL" || answer.json()["code"].is_u64(), "{name} {command}: {}", answer.stdout);
            }
            node.conf["delegates"] = inline.clone();
        }
    }
    node.assert_clean();
}

fn d20() {
    let mut node = node();
    // A wait would end this case: no call may take as long.
    set(&mut node, json!({"cniVersion": "1.1.0", "readinessindicatorfile": READY, "readinessWaitMs": 300_000}));
    node.pod("a", &[]);
    node.call("STATUS", "a").run().fails(50, READY);
    node.bed.file("ready", "");
    node.call("STATUS", "a").run().ok();
}

fn awaited() {
    let mut node = node();
    // Its log is a FIFO: a line in it says that the call has begun.
    let fifo = "/run/scratch/fifo";
    mkfifo(fifo, Mode::S_IRWXU).unwrap();
    let reader = fs::OpenOptions::new().read(true).write(true).open(fifo).unwrap();
    set(
        &mut node,
        json!({"cniVersion": "1.1.0", "readinessindicatorfile": READY, "readinessWaitMs": 0,
            "cni.dev/valid-attachments": []}),
    );
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "green")]);
    let text = format!(
        "have you checked that your default network is ready? still waiting for readinessindicatorfile @ {READY}. \
         pollimmediate error: timed out waiting for the condition"
    );
    node.call("ADD", "a").run().fails(11, &text);
    assert_eq!(node.bed.links("a"), ["lo"]);
    set(&mut node, json!({"readinessWaitMs": 300_000, "logFile": fifo, "logLevel": "debug"}));
    let child = node.call("ADD", "a").start();
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    assert!(line.contains("[debug] ADD id-a eth0"), "{line}");
    assert!(!node.bed.links("a").contains(&"eth0".to_owned()), "it waits");
    node.bed.file("ready", "");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    fs::remove_file(READY).unwrap();
    for command in ["CHECK", "GC", "DEL"] {
        let answer = node.call(command, "a").run();
        assert!(!answer.stdout.contains("readinessindicatorfile"), "{command}: {}", answer.stdout);
    }
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

fn d28_log_options() {
    let mut node = node();
    let options = json!({"maxSize": 1, "maxBackups": 2, "maxAge": 1, "compress": true});
    set(&mut node, json!({"logFile": LOG, "logLevel": "verbose", "logToStderr": false, "logOptions": options}));
    node.bed.file("log/plexus-2020-02-30T00-00-00.000.log", "too old");
    node.bed.file("log/plexus-of-somebody-else.log", "a stranger");
    let full_line = "x".repeat((1 << 20) - 10);
    for pod in ["a", "b", "c", "d"] {
        fs::write(LOG, &full_line).unwrap();
        node.pod(pod, &[]);
        node.call("ADD", pod).run().ok();
        assert_eq!(logged().len(), 1, "the full file was put aside before the line");
    }
    let names: Vec<String> = fs::read_dir("/run/scratch/log")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let full = names.iter().filter(|name| name.starts_with("plexus-2")).map(|name| name.replace(".gz", ""));
    let mut full: Vec<String> = full.collect();
    full.sort();
    full.dedup(); // while gzip works there are both
    assert_eq!(full.len(), 2, "{names:?}");
    assert!(names.contains(&"plexus-of-somebody-else.log".to_owned()) && !names.iter().any(|n| n.contains("2020")));
    let begun = Instant::now();
    while !fs::read_dir("/run/scratch/log")
        .unwrap()
        .any(|one| one.unwrap().path().extension().is_some_and(|e| e == "gz"))
    {
        assert!(begun.elapsed() < PACKED_LIMIT, "no full file is packed");
        thread::yield_now();
    }
    // By age alone.
    set(&mut node, json!({"logOptions": {"maxSize": 1, "maxBackups": 0, "maxAge": 1}}));
    node.bed.file("log/plexus-2020-02-30T00-00-00.000.log", "too old");
    fs::write(LOG, &full_line).unwrap();
    node.pod("e", &[]);
    node.call("ADD", "e").run().ok();
    assert!(!Path::new("/run/scratch/log/plexus-2020-02-30T00-00-00.000.log").exists());
}

fn d28_conf_dir() {
    let mut node = node();
    let list = json!({"cniVersion": "1.0.0", "name": "main", "plugins": [{"type": "bridge", "bridge": "main0"}]});
    node.bed.file("conf/50-main.conflist", &list.to_string());
    node.conf.as_object_mut().unwrap().remove("delegates");
    set(&mut node, json!({"clusterNetwork": "main", "cniConf": "/host/run/scratch/conf"}));
    node.pod("a", &[]);
    let answer = node.call("ADD", "a").run();
    answer.ok();
    assert!(answer.stderr.contains("cniConf is read as confDir \"/run/scratch/conf\""), "{}", answer.stderr);
    assert_eq!(node.call("DEL", "a").run().stderr, "");
    // What is written as it should be wins.
    set(&mut node, json!({"confDir": "/run/scratch/conf", "cniConf": "/nowhere"}));
    let answer = node.call("ADD", "a").run();
    answer.ok();
    assert!(answer.stderr.contains("cniConf is ignored"), "{}", answer.stderr);
}

fn d29() {
    let mut node = node();
    node.conf.as_object_mut().unwrap().remove("delegates");
    node.bed.file("conf/00-torn.conf", "{ torn");
    let secret = "9f86d081884c7d65";
    set(&mut node, json!({"clusterNetwork": "nope", "confDir": "/run/scratch/conf", "unknownKey": secret}));
    node.pod("a", &[]);
    let answer = node.call("ADD", "a").run();
    let msg = answer.json()["msg"].as_str().unwrap().to_owned();
    for part in ["clusterNetwork \"nope\"", "kube-system", "/run/scratch/conf", "00-torn.conf", "line 1 column"] {
        assert!(msg.contains(part), "{part} is missing: {msg}");
    }
    assert!(!answer.stdout.contains(secret) && !answer.stderr.contains(secret), "no configuration is echoed");
    // A plugin of a list is named, with its network, and its failure is told once.
    set(&mut node, json!({"clusterNetwork": "/run/scratch/conf/list.conflist", "logLevel": "debug", "logFile": LOG}));
    let list = json!({"cniVersion": "1.0.0", "name": "main", "plugins": [{"type": "nowhere"}]});
    node.bed.file("conf/list.conflist", &list.to_string());
    let answer = node.call("ADD", "a").run();
    let msg = answer.json()["msg"].as_str().unwrap().to_owned();
    assert_eq!(msg.matches("nowhere").count(), 1, "{msg}");
    let lines = logged();
    assert_eq!(lines.iter().filter(|line| line.contains(&msg)).count(), 1, "{lines:#?}");
    let failures: Vec<_> = untimed(&lines).into_iter().filter(|line| line.starts_with("[error] ADD")).collect();
    assert_eq!(failures, [format!("[error] ADD default/a id-a eth0: {msg}")]);
    assert!(lines.iter().all(|line| !line.contains(secret)));
}

fn lines() {
    let mut node = node();
    let secret = "d14a028c2a3a2bc9";
    let conf = json!({"cniVersion": "1.0.0", "name": "kept", "type": "keeps", "password": secret,
        "ipam": {"type": "static", "addresses": [{"address": "10.8.0.2/24"}]}});
    definition(&node.bed, "default", "kept", &conf.to_string());
    node.script("keeps", r#"cat >/dev/null; [ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.0.0"}'"#);
    set(&mut node, json!({"logFile": LOG, "logLevel": "debug", "logToStderr": false}));
    node.add("a", "green@data0,kept");
    node.call("DEL", "a").run().ok();
    let lines = logged();
    let lines = untimed(&lines);
    let line = |begin: &str| *lines.iter().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{lines:#?}"));
    let added = line("[verbose] Add: default:a:uid-a:default/green(green):data0 {");
    let result: Value = serde_json::from_str(added.split_once("data0 ").unwrap().1).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.3.0.2/24");
    line("[verbose] Add: default:a:uid-a:cluster(cluster):eth0 {");
    line("[verbose] Add: default:a:uid-a:default/kept(kept):net2 {");
    for (network, ifname) in
        [("cluster(cluster)", "eth0"), ("default/green(green)", "data0"), ("default/kept(kept)", "net2")]
    {
        line(&format!("[verbose] Del: default:a:uid-a:{network}:{ifname}"));
    }
    assert!(lines.iter().all(|line| !line.contains(secret) && !line.contains("password")), "{lines:#?}");
    // Less where less is wanted, and nothing by default.
    fs::remove_file(LOG).unwrap();
    for (level, written) in [("error", 0), ("panic", 0), ("verbose", 3)] {
        set(&mut node, json!({"logLevel": level}));
        node.add("b", "green,kept");
        let lines = if written > 0 { logged().len() } else { usize::from(fs::exists(LOG).unwrap()) };
        assert_eq!(lines, written, "{level}");
        node.call("DEL", "b").run().ok();
    }
    // The same lines on standard error, which is the default.
    set(&mut node, json!({"logToStderr": null}));
    node.pod("c", &[]);
    let answer = node.call("ADD", "c").run();
    assert!(answer.stderr.contains("Z [verbose] Add: default:c:uid-c:cluster(cluster):eth0 {"), "{}", answer.stderr);
}

/// Whatever the file is, the pod is attached, and what must be known is on standard error.
fn odd_log_files() {
    let mut node = node();
    mkfifo("/run/scratch/fifo", Mode::S_IRWXU).unwrap();
    symlink("/run/scratch/circle", "/run/scratch/circle").unwrap();
    node.bed.file("file", "");
    set(&mut node, json!({"logLevel": "debug", "logToStderr": false, "strange": 1}));
    for (index, file) in [
        "/run/scratch/fifo",
        "/run/scratch",
        "/run/scratch/circle",
        "/dev/full",
        "/run/scratch/file/log",
        "/proc/none/log",
    ]
    .into_iter()
    .enumerate()
    {
        set(&mut node, json!({"logFile": file, format!("strange{index}"): 1}));
        let pod = format!("p{index}");
        node.pod(&pod, &[]);
        let answer = node.call("ADD", &pod).run();
        answer.ok();
        assert!(answer.stderr.contains("plexus: warning: unknown key strange"), "{file}: {}", answer.stderr);
        node.call("DEL", &pod).run().ok();
    }
    // Where the file has the warning, and standard error is not wanted, it is in the file.
    set(&mut node, json!({"logFile": LOG, "another": 1}));
    node.pod("z", &[]);
    let answer = node.call("ADD", "z").run();
    answer.ok();
    assert_eq!(answer.stderr, "");
    let lines = logged();
    assert!(untimed(&lines).contains(&"[error] warning: unknown key another is ignored"), "{lines:#?}");
}

fn log_on_output() {
    let mut node = node();
    set(&mut node, json!({"logLevel": "debug", "logToStderr": false}));
    let cases = ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"];
    for (index, file) in cases.into_iter().enumerate() {
        set(&mut node, json!({"logFile": file}));
        let pod = format!("p{index}");
        node.pod(&pod, &[]);
        for command in ["ADD", "DEL"] {
            let answer = node.call(command, &pod).run();
            answer.ok();
            if command == "ADD" {
                let result: Value =
                    serde_json::from_str(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {}", answer.stdout));
                assert!(result["interfaces"].is_array(), "{file}: {result}");
            } else {
                assert_eq!(answer.stdout, "", "{file}: {command}");
            }
            assert_eq!(
                answer.stderr.matches("nothing is written to the logFile").count(),
                1,
                "{file}: {}",
                answer.stderr
            );
        }
    }
}

fn many() {
    let mut node = node();
    let options = json!({"maxSize": 1, "maxBackups": 0, "compress": false});
    set(&mut node, json!({"logFile": LOG, "logLevel": "verbose", "logToStderr": false, "logOptions": options}));
    node.bed.file("log/plexus.log", &format!("{}\n", "x".repeat((1 << 20) - 2000)));
    let pods: Vec<String> = (0..12).map(|number| format!("p{number}")).collect();
    let children: Vec<_> = pods
        .iter()
        .map(|pod| {
            node.pod(pod, &[]);
            node.call("ADD", pod).start()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let mut all = String::new();
    for entry in fs::read_dir("/run/scratch/log").unwrap() {
        fs::File::open(entry.unwrap().path()).unwrap().read_to_string(&mut all).unwrap();
    }
    let mut added: Vec<String> = all
        .lines()
        .filter_map(|line| line.split_once("[verbose] Add: default:"))
        .filter_map(|(_, rest)| {
            let (pod, rest) = rest.split_once(':')?;
            serde_json::from_str::<Value>(rest.split_once("eth0 ")?.1).ok().map(|_| pod.to_owned())
        })
        .collect();
    added.sort();
    let mut expected = pods.clone();
    expected.sort();
    assert_eq!(added, expected, "each line is there once, and whole");
}

fn unknown_keys() {
    let mut node = node();
    let warns = |node: &Node, pod: &str| {
        node.pod(pod, &[]);
        let answer = node.call("ADD", pod).run();
        answer.ok();
        node.call("DEL", pod).run().ok();
        answer.stderr.matches("unknown key").count()
    };
    set(&mut node, json!({"strange": 1, "logOptions": {"maxLines": 1}}));
    assert_eq!(warns(&node, "a"), 2);
    assert_eq!(warns(&node, "b"), 0, "it has been said");
    set(&mut node, json!({"stranger": 1}));
    assert_eq!(warns(&node, "c"), 3, "other keys");
    assert_eq!(warns(&node, "d"), 0);
    // After a start of the node, and where nothing can be remembered.
    let said = "/var/lib/cni/plexus/said";
    let text = fs::read_to_string(said).unwrap();
    fs::write(said, text.replacen(text.lines().next().unwrap(), "an older boot", 1)).unwrap();
    assert_eq!(warns(&node, "e"), 3);
    fs::remove_file(said).unwrap();
    fs::create_dir(said).unwrap();
    assert_eq!((warns(&node, "f"), warns(&node, "g")), (3, 3));
}

/// A file as Multus' own pages have it: nothing in it is unknown, and the pod is attached.
fn every_key() {
    let mut node = node();
    set(
        &mut node,
        json!({"type": "multus", "name": "multus-cni-network", "capabilities": {"portMappings": true}, "confDir": "/run/scratch/conf",
            "cniDir": "/run/scratch/multus", "logFile": LOG, "logLevel": "debug", "logToStderr": false,
            "logOptions": {"maxAge": 5, "maxSize": 100, "maxBackups": 5, "compress": true},
            "readinessindicatorfile": "/run/scratch", "namespaceIsolation": false, "globalNamespaces": "default,foo",
            "systemNamespaces": ["kube-system"], "multusNamespace": "kube-system", "retryDeleteOnError": true,
            "daemonSocketDir": "/run/multus/", "allowTryDeleteOnErr": true, "defaultNetworks": [], "clusterNetwork": "",
            "auxiliaryCNIChainName": "", "kubeconfig": ""}),
    );
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "green")]);
    let answer = node.call("ADD", "a").run();
    answer.ok();
    assert_eq!(answer.stderr, "");
    assert!(logged().iter().all(|line| !line.contains("warning")), "{:#?}", logged());
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// A node whose default network is a file, with a chain beside it.
fn with_chain() -> Node {
    let mut node = node();
    let main = node.conf["delegates"][0].clone();
    node.bed.file("net.d/10-main.conf", &main.to_string());
    node.conf.as_object_mut().unwrap().remove("delegates");
    set(&mut node, json!({"clusterNetwork": "/run/scratch/net.d/10-main.conf", "auxiliaryCNIChainName": "late"}));
    node
}

fn auxiliary() {
    let node = with_chain();
    let args = json!([{"name": "green", "interface": "net2"}]).to_string();
    // Without a folder there is no chain.
    node.add("none", &args);
    let entries = |index: usize| statuses()[index].as_array().unwrap().len();
    assert_eq!(entries(0), 2);
    node.call("DEL", "none").run().ok();
    let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}});
    node.bed.file("net.d/late/10-tuning.conf", &tuning.to_string());
    node.bed.file("net.d/late/20-noted.conf", r#"{"type": "noted"}"#);
    node.bed.file("net.d/late/30-no.conflist", "[");
    node.script(
        "noted",
        r#"conf=$(cat); echo "$CNI_COMMAND $CNI_IFNAME" >>/run/scratch/noted
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq .prevResult"#,
    );
    // What the pod itself names is taken by nobody else.
    let result = node.add("a", &args);
    assert_eq!(result["ips"].as_array().unwrap().len(), 2, "the result is the default network's");
    let mut links = node.bed.links("a");
    links.sort();
    assert_eq!(links, ["eth0", "lo", "net2"]);
    let filter = || fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/arp_filter").unwrap();
    assert_eq!(world::inside(&node.bed.netns("a"), filter).trim(), "1");
    assert_eq!(entries(0), 2, "what has no interface is in no status");
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "a").run().ok();
    assert_eq!(fs::read_to_string("/run/scratch/noted").unwrap(), "ADD net3\nCHECK net3\nDEL net3\n");
    node.assert_clean();
}

fn auxiliary_broken() {
    let mut node = with_chain();
    node.bed.file("net.d/late/10-torn.conf", "{ torn");
    node.bed.file("net.d/late/20-vrf.conf", r#"{"type": "tuning"}"#);
    node.pod("a", &[]);
    let answer = node.call("ADD", "a").run();
    answer.ok();
    for part in ["auxiliaryCNIChainName \"late\" is left out", "10-torn.conf"] {
        assert!(answer.stderr.contains(part), "{part}: {}", answer.stderr);
    }
    node.call("DEL", "a").run().ok();
    for (name, text) in [
        ("main", "auxiliary chain used but ClusterNetwork must be a path, and it is not a path: main"),
        ("", "auxiliary chain used but ClusterNetwork must be a path, and it is not a path: "),
    ] {
        set(
            &mut node,
            json!({"cniVersion": "1.1.0", "confDir": "/run/scratch/net.d", "clusterNetwork": name,
            "delegates": [{"cniVersion": "1.0.0", "name": "main", "type": "bridge", "bridge": "cni0"}]}),
        );
        let named = json!({"cniVersion": "1.0.0", "name": "main", "type": "bridge", "bridge": "cni0"});
        node.bed.file("net.d/20-main.conf", &named.to_string());
        node.call("ADD", "a").run().fails(7, text);
        node.call("STATUS", "a").run().fails(7, text);
    }
    set(&mut node, json!({"clusterNetwork": "/run/scratch/net.d/20-main.conf", "auxiliaryCNIChainName": "../late"}));
    let answer = node.call("ADD", "a").run();
    answer.ok();
    assert!(answer.stderr.contains("\"../late\" is left out"), "{}", answer.stderr);
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

fn passthru() {
    let node = node();
    node.bed.pod("p");
    let call = |command: &str, conf: &Value| {
        node.bed.call(Side::Plexus, "passthru").command(command).pod("p").conf(conf).run()
    };
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let conf = json!({"cniVersion": version, "name": "n", "type": "passthru", "anything": 1});
        let mut empty = json!({"cniVersion": version});
        if version < "1.0.0" {
            empty["dns"] = json!({});
        }
        assert_eq!(call("ADD", &conf).ok(), empty);
        if version >= "0.4.0" {
            call("CHECK", &conf).ok();
        }
        call("DEL", &conf).ok();
    }
    let result = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/p"}],
        "ips": [{"address": "10.0.0.2/24", "interface": 0}]});
    let conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "passthru", "prevResult": result});
    assert_eq!(call("ADD", &conf).ok(), result);
    call("CHECK", &conf).ok();
    call("DEL", &conf).ok();
    assert_eq!(node.bed.links("p"), ["lo"]);
    // As a network of a pod it gives no interface, and takes no name from those that do.
    definition(&node.bed, "default", "pass", r#"{"cniVersion": "1.0.0", "name": "pass", "type": "passthru"}"#);
    node.add("a", "pass,green");
    let mut links = node.bed.links("a");
    links.sort();
    assert_eq!(links, ["eth0", "lo", "net2"]);
    let names: Vec<Value> = statuses()[0].as_array().unwrap().iter().map(|entry| entry["name"].clone()).collect();
    assert_eq!(names, ["cluster", "default/green"]);
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}
