//! What a DEL brings back where the namespace has gone, is not named, or has another pod's function.

use std::fs;

use serde_json::{Value, json};

use crate::Case;
use crate::card::{ALIAS, Card, ip, ip_json, kept_of, link_of, netns, until};

pub(crate) const CASES: &[Case] = &[
    ("detach::s6_after_the_namespace_has_gone", s6_after_the_namespace_has_gone),
    (
        "detach::s6_after_the_namespace_and_under_a_name_of_the_kernels",
        s6_after_the_namespace_and_under_a_name_of_the_kernels,
    ),
    ("detach::s5_without_a_namespace", s5_without_a_namespace),
    ("detach::whatever_it_is_called_in_the_pod", whatever_it_is_called_in_the_pod),
    ("detach::a_name_that_is_taken_on_the_host_is_not_waited_for", a_name_that_is_taken_on_the_host_is_not_waited_for),
    ("detach::an_alternative_name_that_is_taken_is_told", an_alternative_name_that_is_taken_is_told),
    ("detach::a_failed_add_tells_which_name_was_taken", a_failed_add_tells_which_name_was_taken),
    ("detach::with_its_name_as_an_alternative_one", with_its_name_as_an_alternative_one),
    ("detach::an_old_one_leaves_the_next_pod_alone", an_old_one_leaves_the_next_pod_alone),
    ("detach::one_that_is_home_is_free_whatever_else_failed", one_that_is_home_is_free_whatever_else_failed),
    ("detach::s8_gc_brings_back_what_no_pod_has", s8_gc_brings_back_what_no_pod_has),
    ("detach::functions_that_are_no_more", functions_that_are_no_more),
    ("detach::what_a_record_said_that_is_lost", what_a_record_said_that_is_lost),
    ("detach::a_pod_chooses_no_name_of_the_hosts", a_pod_chooses_no_name_of_the_hosts),
    ("detach::a_pods_alternative_names_stay_behind", a_pods_alternative_names_stay_behind),
];

fn conf(card: &Card) -> Value {
    card.conf(0, json!({"vlan": 100, "mac": "02:00:00:00:00:07", "trust": "on", "spoofchk": "off", "mtu": 1400}))
}

/// The name that a function has on the host, once the kernel has given it back.
fn name_on_host(card: &Card) -> String {
    let of = |link: &&Value| link["parentdev"] == card.functions[0].pci;
    until("the function", || {
        ip_json("-d link").as_array().unwrap().iter().find(of).map(|link| link["ifname"].as_str().unwrap().to_owned())
    })
}

fn s6_after_the_namespace_has_gone(card: &Card) {
    let before = card.state();
    ip("netns add one");
    card.add("one", &conf(card));
    ip("netns del one");
    card.del("one", "", &conf(card));
    card.assert_state(&before, "after DEL");
    // And where it is there under the pod's name before.
    ip("netns add one");
    card.add("one", &conf(card));
    ip("netns del one");
    assert_eq!(name_on_host(card), "net1");
    card.del("one", &netns("one"), &conf(card));
}

fn s6_after_the_namespace_and_under_a_name_of_the_kernels(card: &Card) {
    ip("netns add one");
    card.add("one", &conf(card));
    ip("link add net1 type dummy");
    ip("netns del one");
    assert!(name_on_host(card).starts_with("dev"));
    card.del("one", "", &conf(card));
    assert_eq!(ip_json("-d link show net1")[0]["linkinfo"]["info_kind"], "dummy");
    ip("link del net1");
}

fn s5_without_a_namespace(card: &Card) {
    ip("netns add one");
    card.add("one", &conf(card));
    card.del("one", "", &conf(card));
    ip("netns del one");
}

fn whatever_it_is_called_in_the_pod(card: &Card) {
    ip("netns add one");
    card.add("one", &conf(card));
    ip("-n one link set net1 down");
    ip("-n one link set net1 name other");
    ip("-n one link set other alias mine");
    ip("-n one link add net1 type dummy");
    card.del("one", &netns("one"), &conf(card));
    assert_eq!(link_of("one", "net1")["linkinfo"]["info_kind"], "dummy");
    ip("netns del one");
}

/// Its name on the host goes to another link while a pod has the function, and the pod ends in each of these ways.
fn a_name_that_is_taken_on_the_host_is_not_waited_for(card: &Card) {
    let name = &card.functions[0].name;
    let before = card.state();
    for (lost, taken) in [(false, "type dummy"), (true, "type dummy"), (false, "other")] {
        ip("netns add one");
        card.add("one", &conf(card));
        let taker = if taken == "other" {
            ip("link add other type dummy");
            ip(&format!("link property add dev other altname {name}"));
            "other"
        } else {
            ip(&format!("link add {name} {taken}"));
            name
        };
        if lost {
            ip("netns del one");
        }
        let answer = card.call_in("DEL", "one", if lost { "" } else { "/run/netns/one" }, &conf(card));
        let said = format!("another link has its name there, {name}");
        assert!(answer.success && answer.log.contains(&said), "{} {}", answer.json, answer.log);
        let now = name_on_host(card);
        assert!(&now != name && answer.log.contains(&now), "{now}: {}", answer.log);
        assert_eq!(card.state()["ports"], before["ports"], "it is home");
        let link = ip_json(&format!("-d link show {now}"))[0].clone();
        assert_eq!((&link["mtu"], &link["ifalias"]), (&before["links"][0][2], &before["links"][0][4]));
        assert_eq!(card.left(), Vec::<String>::new());
        ip(&format!("link del {taker}"));
        ip(&format!("link set {now} down name {name}"));
        card.assert_state(&before, "but for its name");
        if !lost {
            ip("netns del one");
        }
    }
}

fn an_alternative_name_that_is_taken_is_told(card: &Card) {
    ip("netns add one");
    // The names that it has in the pod are not the host's.
    card.add("one", &conf(card));
    ip("-n one link property del dev net1 altname vf-of-a-card");
    ip("link add taker type dummy");
    ip("link property add dev taker altname vf-of-a-card");
    let answer = card.call("DEL", "one", &conf(card));
    let said = "without its alternative name vf-of-a-card";
    assert!(answer.success && answer.log.contains(said), "{} {}", answer.json, answer.log);
    ip("link del taker");
    ip(&format!("link property add dev {} altname vf-of-a-card", card.functions[0].name));
    ip("netns del one");
}

/// A plugin after it takes the name, and fails.
fn a_failed_add_tells_which_name_was_taken(card: &Card) {
    let name = &card.functions[0].name;
    let before = card.state();
    card.script("takes-a-name", &format!("[ $CNI_COMMAND != ADD ] || {{ ip link add {name} type dummy; exit 1; }}"));
    ip("netns add one");
    let list = json!({"cniVersion": "1.1.0", "name": "sriov-test", "plugins": [conf(card), {"type": "takes-a-name"}]});
    let node = json!({"cniVersion": "1.1.0", "name": "node", "type": "plexus-cni", "delegates": [list]});
    let answer = card.call_of("plexus-cni", "ADD", "one", &node);
    let said = format!("another link has its name there, {name}");
    assert!(!answer.success && answer.log.contains(&said), "{} {}", answer.json, answer.log);
    assert!(!answer.json["msg"].as_str().unwrap().contains("undoing"), "{}", answer.json);
    assert_eq!((&card.state()["ports"], card.left()), (&before["ports"], Vec::new()));
    ip(&format!("link del {name}"));
    ip(&format!("link set {} down name {name}", name_on_host(card)));
    ip("netns del one");
}

/// What names devices on the host gives the old name back as an alternative one, before DEL comes.
fn with_its_name_as_an_alternative_one(card: &Card) {
    let name = &card.functions[0].name;
    ip("netns add one");
    card.add("one", &conf(card));
    ip("netns del one");
    ip(&format!("link property add dev {} altname {name}", name_on_host(card)));
    card.del("one", "", &conf(card));
}

fn an_old_one_leaves_the_next_pod_alone(card: &Card) {
    for pod in ["one", "two"] {
        ip(&format!("netns add {pod}"));
    }
    card.add("one", &conf(card));
    let second = card.conf(0, json!({"vlan": 200, "mac": "02:00:00:00:00:08"}));
    let refused = card.call("ADD", "two", &second);
    assert_eq!(refused.json["code"], 11, "{}", refused.json);
    ip("netns del one");
    name_on_host(card);
    card.add("two", &second);
    let port = card.port(0);
    card.del("one", "", &conf(card));
    assert_eq!((card.port(0), &link_of("two", "net1")["address"]), (port, &json!("02:00:00:00:00:08")));
    card.del("two", &netns("two"), &second);
    ip("netns del two");
}

fn one_that_is_home_is_free_whatever_else_failed(card: &Card) {
    let before = card.state();
    for pod in ["one", "two"] {
        ip(&format!("netns add {pod}"));
    }
    let mut ill = conf(card);
    ill["ipam"] = json!({"type": "ill"});
    let of_two = |when: &str| {
        card.add("two", &conf(card));
        card.del("two", &netns("two"), &conf(card));
        card.assert_state(&before, when);
    };
    // An ADD that fails, and its addresses cannot be given back.
    card.script("ill", "exit 3");
    assert!(!card.call("ADD", "one", &ill).success);
    of_two("after an ADD that failed");
    card.script("ill", "exit 0");
    card.del("one", &netns("one"), &ill);
    // A DEL that fails for the same reason.
    let address = r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.9/24"}]}"#;
    card.script("ill", &format!("echo '{address}'"));
    card.add("one", &ill);
    card.script("ill", "exit 3");
    assert!(!card.call("DEL", "one", &ill).success);
    of_two("after a DEL that failed");
    card.script("ill", "exit 0");
    card.del("one", &netns("one"), &ill);
    for pod in ["one", "two"] {
        ip(&format!("netns del {pod}"));
    }
}

fn s8_gc_brings_back_what_no_pod_has(card: &Card) {
    let before = card.state();
    let second = card.conf(1, json!({"vlan": 200, "mac": "02:00:00:00:00:08"}));
    for lost in [false, true] {
        for pod in ["one", "two"] {
            ip(&format!("netns add {pod}"));
        }
        card.add("one", &conf(card));
        card.add("two", &second);
        if lost {
            ip("netns del one");
        }
        let (port, link) = (card.port(1), kept_of("two", "net1"));
        let mut valid = conf(card);
        valid["cni.dev/valid-attachments"] = json!([{"containerID": "two", "ifname": "net1"}]);
        let answer = card.call_in("GC", "", "", &valid);
        assert!(answer.success, "{} {}", answer.json, answer.log);
        let now = card.state();
        assert_eq!((&now["ports"][0], &now["links"][0]), (&before["ports"][0], &before["links"][0]), "{lost}");
        assert_eq!((card.port(1), kept_of("two", "net1")), (port, link), "nobody touched it");
        let of_one = |path: &String| !path.contains("two") && path.contains(".jsonl");
        assert!(!card.left().iter().any(of_one), "{:?}", card.left());
        card.del("two", &netns("two"), &second);
        card.assert_state(&before, "after all");
        ip("netns del two");
        if !lost {
            ip("netns del one");
        }
    }
}

fn functions_that_are_no_more(card: &Card) {
    ip("netns add one");
    card.add("one", &conf(card));
    card.renew(|| card.del("one", &netns("one"), &conf(card)));
    // Those that came before DEL are set up as those before were.
    card.add("one", &conf(card));
    card.renew(|| ());
    card.del("one", &netns("one"), &conf(card));
    ip("netns del one");
}

/// Nobody knows what the function was; it is nobody's at least, and in nobody's network.
fn what_a_record_said_that_is_lost(card: &Card) {
    let before = card.state();
    let name = &card.functions[0].name;
    for (damaged, lost, user_space) in
        [(true, false, false), (true, true, false), (false, false, false), (true, false, true), (false, true, false)]
    {
        ip("netns add one");
        let mut conf = conf(card);
        if user_space {
            conf["driver"] = json!("vfio-pci");
        }
        card.add("one", &conf);
        let record = card.left().into_iter().find(|path| path.contains(".jsonl")).unwrap();
        if damaged {
            fs::write(&record, "{\"key\": 5}\n").unwrap();
        } else {
            fs::remove_file(&record).unwrap();
        }
        if lost {
            ip("netns del one");
        }
        let answer = card.call_in("DEL", "one", if lost { "" } else { "/run/netns/one" }, &conf);
        assert!(answer.success && answer.log.contains("is lost with record"), "{} {}", answer.json, answer.log);
        let port = card.port(0);
        assert_eq!(
            (&port["vlan_list"][0]["vlan"], &port["address"]),
            (&Value::Null, &json!("00:00:00:00:00:00")),
            "{port}"
        );
        assert_eq!((&port["trust"], &port["spoofchk"]), (&json!(false), &json!(true)), "{port}");
        assert_eq!(card.left(), Vec::<String>::new());
        // What had to be lost.
        ip(&format!("link set {} vf 0 mac 02:00:00:00:01:00", card.name));
        if user_space {
            crate::user_space::bind(&card.functions[0].pci, "");
        }
        assert_eq!(&name_on_host(card), name);
        ip(&format!("link property add dev {name} altname vf-of-a-card"));
        assert_eq!(&name_on_host(card), name, "{}", answer.log);
        ip(&format!("link set {name} alias {ALIAS}"));
        ip(&format!("link set {name} mtu 1500 up"));
        ip(&format!("link set {name} down"));
        card.assert_state(&before, "but for what was lost");
        if !lost {
            ip("netns del one");
        }
    }
    // What never came to a record was never touched, and neither is it now.
    ip(&format!("link set {} vf 0 vlan 7", card.name));
    let conf = conf(card);
    ip("netns add one");
    card.add("one", &conf);
    let left = card.left();
    let find = |part: &str| left.iter().find(|path| path.contains(part)).unwrap().clone();
    let (record, claim) = (find(".jsonl"), find("/devices/"));
    let leads_to = fs::read_link(&claim).unwrap();
    card.del("one", &netns("one"), &conf);
    fs::write(record, "").unwrap();
    std::os::unix::fs::symlink(leads_to, &claim).unwrap();
    card.del("one", &netns("one"), &conf);
    assert_eq!((&card.port(0)["vlan_list"][0]["vlan"], card.left()), (&json!(7), Vec::new()));
    ip(&format!("link set {} vf 0 vlan 0", card.name));
    ip("netns del one");
}

/// A pod may write what it likes to the interface that it has. Where its record is lost, that is all that is known of it.
fn a_pod_chooses_no_name_of_the_hosts(card: &Card) {
    let (name, others) = (&card.functions[0].name, &card.functions[1].name);
    let other = card.conf(1, json!({"vlan": 200}));
    for (said, lost) in [(others.as_str(), false), ("docker0", false), ("docker0", true), ("eth%d", true)] {
        for pod in ["one", "two"] {
            ip(&format!("netns add {pod}"));
        }
        card.add("one", &conf(card));
        let record = card.left().into_iter().find(|path| path.contains(".jsonl")).unwrap();
        // Its name is free on the host, and a record's.
        card.add("two", &other);
        ip(&format!("-n one link set net1 alias plexus:device:{said}"));
        ip("-n one link property add dev net1 altname cni0");
        fs::remove_file(&record).unwrap();
        if lost {
            ip("netns del one");
        }
        let answer = card.call_in("DEL", "one", if lost { "" } else { "/run/netns/one" }, &conf(card));
        assert!(answer.success && answer.log.contains("is not believed"), "{} {}", answer.json, answer.log);
        let now = name_on_host(card);
        let link = ip_json(&format!("-d link show {now}"))[0].clone();
        assert!(now.starts_with("dev") && link["altnames"].is_null(), "{said}: {link}");
        card.del("two", &netns("two"), &other);
        assert_eq!(ip_json(&format!("-d link show {others}"))[0]["parentdev"], card.functions[1].pci);
        // What had to be lost.
        ip(&format!("link set {} vf 0 mac 02:00:00:00:01:00", card.name));
        ip(&format!("link set {now} name {name} mtu 1500 alias {ALIAS}"));
        ip(&format!("link property add dev {name} altname vf-of-a-card"));
        ip(&format!("link set {name} up"));
        ip(&format!("link set {name} down"));
        ip("netns del two");
        if !lost {
            ip("netns del one");
        }
    }
}

fn a_pods_alternative_names_stay_behind(card: &Card) {
    let before = card.state();
    for lost in [false, true] {
        ip("netns add one");
        card.add("one", &conf(card));
        ip("-n one link property add dev net1 altname docker0");
        if lost {
            ip("netns del one");
        } else {
            ip("link add docker0 type dummy");
        }
        card.del("one", if lost { "" } else { "/run/netns/one" }, &conf(card));
        card.assert_state(&before, "after DEL");
        if !lost {
            ip("link del docker0");
            ip("netns del one");
        }
    }
}
