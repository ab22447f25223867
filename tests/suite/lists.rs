//! What becomes of a network's list before a plugin is executed for it, as libcni and Multus have it: the folder that continues it, its
//! versions, its flags, and CNI_ARGS. It knows what plugins are sent.

use std::fs;

use serde_json::{Value, json};

use crate::call::Side;
use crate::case::Case;
use crate::meta::{Node, definition, node};
use crate::program::text;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("lists::a_folder_of_its_name_continues_a_list_unless_it_says_not", &[], folder),
        Case::new("lists::the_highest_known_of_its_versions_is_spoken", &[], versions),
        Case::new("lists::a_network_without_gc_is_not_swept", &[], without_gc),
        Case::new("lists::arguments_are_in_multus_order", &[], arguments),
        Case::new("lists::the_pods_arguments_reach_every_plugin_and_win", &[], merged),
        Case::new("lists::a_failed_add_deletes_the_failed_one_and_all_before_it", &[], undone),
        Case::new("lists::an_empty_default_route_is_the_networks_own", &[], own_default_route),
        Case::new("lists::a_person_can_ask_for_the_version", &[], version),
    ]
}

/// Keeps what it is sent and CNI_ARGS, and passes on the result it got.
const KEEPS: &str = r#"mkdir -p /run/scratch/sent; conf=$(cat)
printf '%s' "$conf" >"/run/scratch/sent/${0##*/}-$CNI_COMMAND"
printf '%s' "$CNI_ARGS" >"/run/scratch/sent/${0##*/}-$CNI_COMMAND.args"
[ "$CNI_COMMAND" != ADD ] || printf '%s' "$conf" | jq '.prevResult // {"cniVersion": .cniVersion}'"#;

fn keeping(plugins: &[&str]) -> Node {
    let node = node();
    plugins.iter().for_each(|plugin| node.script(plugin, KEEPS));
    node
}

fn sent(name: &str) -> Option<String> {
    fs::read_to_string(format!("/run/scratch/sent/{name}")).ok()
}

fn bridge() -> Value {
    json!({"type": "bridge", "bridge": "green0", "ipam": {"type": "host-local", "subnet": "10.5.0.0/24"}})
}

/// A list in a file, as the default network and as a definition without a configuration.
fn folder() {
    let mut node = keeping(&["first", "second", "note"]);
    node.conf["confDir"] = json!("/run/scratch/conf");
    node.conf.as_object_mut().unwrap().remove("delegates");
    definition(&node.bed, "default", "filed", "");
    node.bed.file("conf/filed/20-b.conf", r#"{"type": "second"}"#);
    node.bed.file("conf/filed/10-a.conf", r#"{"type": "first"}"#);
    node.bed.file("conf/filed/30-c.json", r#"{"type": "note"}"#);
    for (flag, is_continued) in
        [(json!(null), true), (json!("false"), true), (json!("true"), false), (json!(true), false)]
    {
        let mut list = json!({"cniVersion": "1.0.0", "name": "filed", "plugins": [bridge()]});
        list["loadOnlyInlinedPlugins"] = flag.clone();
        list.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        node.bed.file("conf/50-filed.conflist", &list.to_string());
        for (main, networks) in [("/run/scratch/conf/50-filed.conflist", ""), ("filed", ""), ("filed", "filed")] {
            node.conf["clusterNetwork"] = json!(main);
            node.add("a", networks);
            assert_eq!(sent("second-ADD").is_some(), is_continued, "{flag} {main} {networks}");
            if let Some(conf) = sent("second-ADD") {
                let conf: Value = serde_json::from_str(&conf).unwrap();
                assert_eq!((&conf["name"], &conf["cniVersion"]), (&json!("filed"), &json!("1.0.0")));
                assert!(conf["prevResult"]["ips"].is_array() && sent("first-ADD").is_some(), "{conf}");
            }
            assert_eq!(sent("note-ADD"), None, "only .conf files");
            node.call("DEL", "a").run().ok();
            let _ = fs::remove_dir_all("/run/scratch/sent");
        }
    }
    node.assert_clean();
}

fn versions() {
    let node = keeping(&["first"]);
    for (given, spoken) in [
        (json!({"cniVersions": ["0.4.0", "1.0.0", "99.0.0"]}), "1.0.0"),
        (json!({"cniVersion": "0.3.1", "cniVersions": ["0.4.0"]}), "0.4.0"),
        (json!({"cniVersion": "1.0.0", "cniVersions": ["0.4.0"]}), "1.0.0"),
        (json!({}), "0.1.0"),
    ] {
        let mut list = json!({"name": "spoken", "plugins": [{"type": "first"}]});
        list.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        definition(&node.bed, "default", "spoken", &list.to_string());
        node.add("a", "spoken");
        let conf: Value = serde_json::from_str(&sent("first-ADD").unwrap()).unwrap();
        assert_eq!(conf["cniVersion"], spoken, "{given}");
        node.call("DEL", "a").run().ok();
    }
    node.assert_clean();
}

fn without_gc() {
    let mut node = keeping(&["first"]);
    node.conf["cniVersion"] = json!("1.1.0");
    for (flag, is_asked) in [(json!(false), true), (json!("true"), false), (json!(true), false)] {
        node.conf["delegates"] =
            json!([{"cniVersion": "1.1.0", "name": "cluster", "disableGC": flag, "plugins": [{"type": "first"}]}]);
        let mut conf = node.conf.clone();
        conf["cni.dev/valid-attachments"] = json!([]);
        node.bed.call(Side::Plexus, "plexus-cni").command("GC").conf(&conf).run().ok();
        assert_eq!(sent("first-GC").is_some(), is_asked, "{flag}");
        let _ = fs::remove_dir_all("/run/scratch/sent");
    }
}

/// The pod's identity, what else the runtime said, and the wishes as older plugins read them; in DEL, too.
fn arguments() {
    let node = keeping(&["first"]);
    let conf = json!({"cniVersion": "1.0.0", "name": "told", "type": "first"});
    definition(&node.bed, "default", "told", &conf.to_string());
    let wish = json!([{"name": "told", "mac": "02:00:00:00:00:07", "ips": ["10.5.0.7/24", "fd00::7/64"]}]).to_string();
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", &wish)]);
    let given = "K8S_POD_NAME=a;IgnoreUnknown=1;COLOUR=blue;K8S_POD_UID=uid-a;IP=10.1.0.9;K8S_POD_NAMESPACE=default";
    node.call("ADD", "a").args(given).run().ok();
    let identity =
        "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=id-a;K8S_POD_UID=uid-a";
    let expected = format!("{identity};COLOUR=blue;MAC=02:00:00:00:00:07;IP=10.5.0.7/24,fd00::7/64");
    assert_eq!(sent("first-ADD.args").unwrap(), expected);
    node.call("DEL", "a").args(given).run().ok();
    assert_eq!(sent("first-DEL.args").unwrap(), expected);
    node.assert_clean();
}

/// `cni-args` of the annotation in `args.cni` of each plugin, over what the definition has there.
fn merged() {
    let node = keeping(&["first", "second"]);
    let own = json!({"cni": {"colour": "red", "size": 1}, "other": true});
    let conf =
        json!({"cniVersion": "1.0.0", "name": "told", "plugins": [{"type": "first", "args": own}, {"type": "second"}]});
    definition(&node.bed, "default", "told", &conf.to_string());
    node.add("a", r#"[{"name": "told", "cni-args": {"colour": "blue", "deep": {"a": [1]}}}]"#);
    node.call("DEL", "a").run().ok();
    for command in ["ADD", "DEL"] {
        let args = |plugin: &str| {
            let conf: Value = serde_json::from_str(&sent(&format!("{plugin}-{command}")).unwrap()).unwrap();
            conf["args"].clone()
        };
        let asked = json!({"colour": "blue", "deep": {"a": [1]}, "size": 1});
        assert_eq!(args("first"), json!({"cni": asked, "other": true}), "{command}");
        assert_eq!(args("second"), json!({"cni": {"colour": "blue", "deep": {"a": [1]}}}), "{command}");
    }
    node.assert_clean();
}

/// In reverse; a DEL that fails on the way keeps none of the others from theirs.
fn undone() {
    let node = node();
    let script = |name: &str, end: &str| {
        let notes = r#"cat >/dev/null; echo "$CNI_COMMAND ${0##*/} $CNI_IFNAME" >>/run/scratch/order"#;
        node.script(name, &format!("{notes}\n{end}"));
        let conf = json!({"cniVersion": "1.0.0", "name": name, "type": name});
        definition(&node.bed, "default", name, &conf.to_string());
    };
    let made = r#"[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.0.0"}'"#;
    let refused = r#"echo '{"cniVersion": "1.0.0", "code": 117, "msg": "no luck today"}'; exit 1"#;
    script("first", made);
    script("second", &format!(r#"if [ "$CNI_COMMAND" = DEL ]; then {refused}; fi; {made}"#));
    script("third", &format!(r#"if [ "$CNI_COMMAND" != DEL ]; then {refused}; fi"#));
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "first,second,third")]);
    node.call("ADD", "a").run().fails(117, "no luck today");
    let order = fs::read_to_string("/run/scratch/order").unwrap();
    let expected =
        ["ADD first net1", "ADD second net2", "ADD third net3", "DEL third net3", "DEL second net2", "DEL first net1"];
    assert_eq!(order.lines().collect::<Vec<_>>(), expected);
    // What could not be deleted is on record, and DEL tries it again.
    node.call("DEL", "a").run().fails(117, "no luck today");
    script("second", made);
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// The network that is asked for has the pod's default route as its own configuration says, and no other network keeps one.
fn own_default_route() {
    let node = node();
    let mut gateway = bridge();
    gateway["isDefaultGateway"] = json!(true);
    let conf = json!({"cniVersion": "1.0.0", "name": "gate", "plugins": [gateway]});
    definition(&node.bed, "default", "gate", &conf.to_string());
    node.add("a", r#"[{"name": "gate", "default-route": []}]"#);
    let routes = |family: &str| node.bed.ip(&format!("-n a {family} route show default"));
    assert_eq!(routes("-4").trim(), "default via 10.5.0.1 dev net1");
    assert!(routes("-6").contains("dev eth0"), "the other family is the default network's still: {}", routes("-6"));
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// As of Multus: in the words of Go's flags, whatever the environment; installers try programs by it.
fn version() {
    let node = node();
    for word in ["-v", "--v", "-version", "--version"] {
        let program = node.bed.bin(Side::Plexus).join("plexus-cni");
        let output = std::process::Command::new(program).arg(word).env("CNI_COMMAND", "ADD").output().unwrap();
        assert_eq!(text(&output.stdout), format!("plexus-cni version {}\n", env!("CARGO_PKG_VERSION")), "{word}");
        assert!(output.status.success() && output.stderr.is_empty(), "{word}: {}", text(&output.stderr));
    }
}
