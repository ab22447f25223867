//! Rules of pods that somebody else removes from the packet filter, while a daemon is there. It knows how a node's rules are lost, and
//! not how they are made anew.

use std::fs;
use std::time::{Duration, Instant};

use backends::nft::Taken;
use plexus::reconcile::{Cause, Changed, Reconciler, What, watch_host};
use serde_json::json;

use crate::case::Case;
use crate::meta::{Node, node};
use crate::need::Need;
use crate::reconcile::{found, places, round, started};
use crate::tools::CACHE;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let rules = &[Need::Nft];
    vec![
        Case::new("mend::rules_that_others_removed_are_made_anew", rules, removed),
        Case::new("mend::half_of_the_rules_becomes_all_of_them", rules, half),
        Case::new("mend::of_pods_that_leave_nothing_is_made", rules, leaving),
        Case::new("mend::what_others_have_by_now_stays_theirs", rules, others),
        Case::new("mend::a_del_that_got_half_way_is_not_a_living_pod", rules, half_gone),
        Case::new("mend::what_cannot_be_mended_is_tried_once", rules, in_vain),
        Case::new("mend::an_executed_firewall_is_executed_again_after_a_reload", rules, executed),
        Case::new("mend::a_daemon_hears_of_it", rules, daemon),
    ]
}

/// What ends something that is bound to happen.
const LIMIT: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(200);

/// Every kind of rule that a pod can have.
fn ruled() -> Node {
    let mut node = node();
    let mut bridge = node.conf["delegates"][0].clone();
    (bridge["ipMasq"], bridge["macspoofchk"]) = (json!(true), json!(true));
    node.conf["delegates"][0] = json!({"cniVersion": "1.0.0", "name": "cluster", "plugins": [bridge,
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall", "backend": "iptables", "ingressPolicy": "same-bridge"}]});
    node.conf["capabilities"] = json!({"portMappings": true});
    fs::create_dir_all(CACHE).unwrap();
    node
}

fn add(node: &mut Node, id: &str, port: u16) {
    node.conf["runtimeConfig"] = json!({"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]});
    node.add(id, "");
}

/// Every rule of a pod, and every element of a set.
fn listed(node: &Node) -> Vec<String> {
    let mut lines = crate::nft::leftovers(&node.bed);
    lines.sort();
    lines
}

fn rules_gone() -> Cause {
    Cause::Changed { links: Changed::default(), taken: Taken { rules: true, firewalld: false } }
}

fn removed() {
    let mut node = ruled();
    add(&mut node, "a", 8080);
    add(&mut node, "b", 8081);
    let before = listed(&node);
    assert_eq!(found(&round(&rules_gone())), [], "nothing is missing");
    node.bed.tool("nft", &["flush", "ruleset"], "").unwrap();
    node.call("CHECK", "a").run().fails(999, "");
    let report = round(&rules_gone());
    let told = found(&report);
    assert!(told.iter().all(|(what, line)| *what == What::RulesMissing && line.contains("made anew")), "{told:?}");
    for of in ["default/a", "default/b"] {
        assert_eq!(told.iter().filter(|(_, line)| line.contains(of)).count(), 3, "bridge, portmap, firewall: {told:?}");
    }
    assert_eq!(report.failures, Vec::<String>::new());
    assert_eq!(listed(&node), before);
    for (id, port) in [("a", 8080), ("b", 8081)] {
        node.conf["runtimeConfig"]["portMappings"][0]["hostPort"] = json!(port);
        node.call("CHECK", id).run().ok();
        node.call("DEL", id).run().ok();
    }
    node.assert_clean();
}

fn half() {
    let mut node = ruled();
    add(&mut node, "a", 8080);
    let before = listed(&node);
    let masquerade = ["inet", "cni_plugins_masquerade", "masq_checks"];
    let text = node.bed.tool("nft", &[&["-a", "list", "chain"][..], &masquerade].concat(), "").unwrap();
    let rule = text.lines().find(|line| line.contains("ip6 saddr")).unwrap();
    let handle = rule.rsplit(' ').next().unwrap();
    node.bed.tool("nft", &[&["delete", "rule"][..], &masquerade, &["handle", handle]].concat(), "").unwrap();
    let report = round(&Cause::Timer);
    assert_eq!(found(&report).iter().map(|(what, _)| *what).collect::<Vec<_>>(), [What::RulesMissing], "{report:?}");
    assert_eq!(listed(&node), before, "none twice");
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// A record that somebody holds is being worked on, and one whose pod has ended has nothing to be made.
fn leaving() {
    let mut node = ruled();
    add(&mut node, "a", 8080);
    node.bed.lose_pod("a");
    node.bed.tool("nft", &["flush", "ruleset"], "").unwrap();
    let report = round(&rules_gone());
    assert!(!found(&report).iter().any(|(what, _)| *what == What::RulesMissing), "{report:?}");
    assert_eq!(crate::nft::leftovers(&node.bed), Vec::<String>::new());
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// A port that another pod was given since, and a bridge's policy that a later pod has set.
fn others() {
    let mut node = ruled();
    add(&mut node, "a", 8080);
    node.bed.tool("nft", &["delete", "table", "ip", "plexus_portmap"], "").unwrap();
    node.bed.tool("nft", &["delete", "table", "ip6", "plexus_portmap"], "").unwrap();
    node.conf["delegates"][0]["plugins"][2]["ingressPolicy"] = json!("isolated");
    add(&mut node, "b", 8080);
    let text = || node.bed.tool("nft", &["-a", "list", "chain", "ip", "filter", "CNI-FORWARD"], "").unwrap();
    let rule = text().lines().find(|line| line.contains("ip saddr 10.1.0.2")).unwrap().to_owned();
    let handle = rule.rsplit(' ').next().unwrap();
    let stage = || node.bed.tool("nft", &["list", "chain", "ip", "filter", "CNI-ISOLATION-STAGE-1"], "").unwrap();
    let isolated = stage();
    node.bed.tool("nft", &["delete", "rule", "ip", "filter", "CNI-FORWARD", "handle", handle], "").unwrap();
    let report = round(&rules_gone());
    assert!(text().contains("ip saddr 10.1.0.2"), "{report:?}");
    assert_eq!(stage(), isolated, "what b says of the bridge");
    assert_eq!(report.failures.len(), 1, "the port is b's: {report:?}");
    assert!(report.failures[0].contains("8080") && report.failures[0].contains("default/a"), "{report:?}");
    let ports = node.bed.tool("nft", &["list", "map", "ip", "plexus_portmap", "ports"], "").unwrap();
    assert!(ports.contains("10.1.0.3") && !ports.contains("10.1.0.2"), "{ports}");
    for id in ["a", "b"] {
        node.call("DEL", id).run().ok();
    }
    node.assert_clean();
}

/// Its address may be another pod's already.
fn half_gone() {
    let mut node = ruled();
    add(&mut node, "a", 8080);
    node.bed.tool("nft", &["flush", "ruleset"], "").unwrap();
    node.bed.ip("-n a link del eth0");
    let report = round(&rules_gone());
    assert!(found(&report).iter().all(|(what, _)| *what == What::LinkMissing), "{report:?}");
    assert_eq!(listed(&node), listed(&node).into_iter().filter(|left| !left.contains("id-a")).collect::<Vec<_>>());
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// Nobody repeats for ever what does not help: what mending removes and adds is announced, too.
fn in_vain() {
    let mut node = ruled();
    add(&mut node, "a", 8080);
    node.bed.ip("-n a link set eth0 address 02:00:00:00:77:77");
    let chain = ["chain", "inet", "cni_plugins_masquerade", "masq_checks"];
    let mut reconciler = Reconciler::default();
    let mut mended = || {
        node.bed.tool("nft", &[&["flush"][..], &chain].concat(), "").unwrap();
        let report = reconciler.round(&places(), &rules_gone(), &|_, _| None);
        found(&report).iter().filter(|(what, _)| *what == What::RulesMissing).count()
    };
    assert_eq!((mended(), mended()), (1, 0), "the link differs still: not again before the next whole round");
    assert!(
        found(&reconciler.round(&places(), &Cause::Timer, &|_, _| None))
            .iter()
            .any(|(what, _)| *what == What::RulesMissing)
    );
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// As where firewalld keeps the rules: the plugin alone knows what it told.
fn executed() {
    let mut node = node();
    fs::create_dir_all(CACHE).unwrap();
    let bridge = node.conf["delegates"][0].clone();
    node.conf["delegates"][0] = json!({"cniVersion": "1.0.0", "name": "cluster", "plugins": [bridge,
        {"type": "firewall", "backend": "firewalld"}]});
    let body = "echo $CNI_COMMAND >>/run/scratch/calls; conf=$(cat); [ ! -e /run/scratch/fail ] || exit 1
         [ $CNI_COMMAND != ADD ] || printf '%s' \"$conf\" | jq .prevResult";
    node.script("firewall", body);
    node.add("a", "");
    let calls = || fs::read_to_string("/run/scratch/calls").unwrap().split_whitespace().count();
    assert_eq!((found(&round(&Cause::Timer)), found(&round(&rules_gone()))), (vec![], vec![]));
    assert_eq!(calls(), 1, "nobody executes a plugin where its rules are still there");
    let reload = Cause::Changed { links: Changed::default(), taken: Taken { rules: false, firewalld: true } };
    let report = round(&reload);
    let told = found(&report);
    assert_eq!((told.len(), calls()), (1, 2), "{report:?}");
    assert!(told[0].0 == What::RulesMissing && told[0].1.contains("firewall executed again"), "{told:?}");
    // What could not be told is told in the next round, whatever that is for.
    fs::write("/run/scratch/fail", "").unwrap();
    let mut reconciler = Reconciler::default();
    let mut again = |cause: &Cause| reconciler.round(&places(), cause, &|_, _| None);
    let report = again(&reload);
    assert_eq!((found(&report), report.failures.len()), (vec![], 1), "{report:?}");
    fs::remove_file("/run/scratch/fail").unwrap();
    assert_eq!(again(&Cause::Timer).found.len(), 1);
    assert_eq!(again(&Cause::Timer).found.len(), 0);
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

fn daemon() {
    let mut node = ruled();
    add(&mut node, "a", 8080);
    let mut watch = watch_host().unwrap();
    node.bed
        .tool("nft", &["-f", "-"], "table inet mine {\n chain c {\n counter\n }\n}\ndelete table inet mine\n")
        .unwrap();
    assert_eq!(watch.wait(Instant::now() + QUIET, QUIET).unwrap(), None, "a table of others");
    let before = listed(&node);
    let (mut daemon, mut lines) = started();
    let deadline = Instant::now() + LIMIT;
    // As a reload of firewalld's iptables backend does it: one table after the other.
    for table in ["filter", "nat"] {
        drop(node.bed.tool("nft", &["delete", "table", "ip", table], ""));
    }
    let told = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("made anew"))).unwrap().unwrap();
    assert!(told.contains("reconcile: pod default/a, container id-a: eth0"), "{told}");
    while listed(&node) != before {
        assert!(Instant::now() < deadline, "{:#?}", listed(&node));
    }
    let cause = watch.wait(Instant::now() + LIMIT, QUIET).unwrap();
    assert!(matches!(cause, Some(Cause::Changed { taken: Taken { rules: true, .. }, .. })), "{cause:?}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}
