//! kill -9 at any instant of an ADD or a DEL: the DEL that follows brings the function back.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::Case;
use crate::card::{Card, ip, kept_of, netns, until};

pub(crate) const CASES: &[Case] = &[
    ("crash::s3_killed_while_addresses_are_asked_for", s3_killed_while_addresses_are_asked_for),
    ("crash::s4_killed_and_its_name_wanted_by_another", s4_killed_and_its_name_wanted_by_another),
    ("crash::nothing_is_lost_at_any_step", nothing_is_lost_at_any_step),
    ("crash::nor_where_it_is_bound_to_another_driver", nor_where_it_is_bound_to_another_driver),
];

/// How many cycles instead of [`CYCLES`]; 200 is the long run.
const CYCLES_VARIABLE: &str = "PLEXUS_CRASH_CYCLES";
const CYCLES: u32 = 24;
/// The seed of an earlier run, to repeat its instants.
const SEED_VARIABLE: &str = "PLEXUS_CRASH_SEED";

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Marsaglia's xorshift: any instants do, as long as they can be repeated.
fn next(state: &mut u64) -> f64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    f64::from(u32::try_from(*state >> 32).unwrap()) / f64::from(u32::MAX)
}

/// A plugin that says that it runs, and does not end.
const ENDLESS: &str =
    "[ $CNI_COMMAND = ADD ] || exit 0; echo $$ >/run/endless.part; mv /run/endless.part /run/endless; exec sleep 1000";
const ENDLESS_RUNS: &str = "/run/endless";

/// Kills an ADD while it waits for the plugin that does not end, and ends that.
fn kill_at_plugin(card: &Card, plugin: &str, conf: &Value) {
    let mut child = card.begin_of(plugin, "ADD", "one", conf);
    until("the plugin", || Path::new(ENDLESS_RUNS).exists().then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let running = fs::read_to_string(ENDLESS_RUNS).unwrap();
    fs::remove_file(ENDLESS_RUNS).unwrap();
    assert!(Command::new("kill").arg(running.trim()).status().unwrap().success());
}

fn s3_killed_while_addresses_are_asked_for(card: &Card) {
    let before = card.state();
    card.script("endless", ENDLESS);
    let conf = card.conf(0, json!({"vlan": 100, "mac": "02:00:00:00:00:07", "ipam": {"type": "endless"}}));
    for lost in [false, true] {
        ip("netns add one");
        kill_at_plugin(card, "sriov", &conf);
        assert!(!card.left().is_empty(), "there is a record");
        if lost {
            ip("netns del one");
        }
        card.del("one", if lost { "" } else { "/run/netns/one" }, &conf);
        card.assert_state(&before, "after DEL");
        assert_eq!(card.left(), Vec::<String>::new());
        if !lost {
            ip("netns del one");
        }
    }
}

/// What an ADD that was killed left in the pod has the name that the next one wants.
fn s4_killed_and_its_name_wanted_by_another(card: &Card) {
    let before = card.state();
    card.script("endless", ENDLESS);
    let own = card.conf(0, json!({"vlan": 100, "mac": "02:00:00:00:00:07"}));
    let list = json!({"cniVersion": "1.1.0", "name": "sriov-test", "plugins": [own, {"type": "endless"}]});
    let node = json!({"cniVersion": "1.1.0", "name": "node", "type": "plexus-cni", "delegates": [list]});
    ip("netns add one");
    kill_at_plugin(card, "plexus-cni", &node);
    let (port, link) = (card.port(0), kept_of("one", "net1"));
    assert_eq!((&link[1], &port["vlan_list"][0]["vlan"]), (&json!(card.functions[0].pci), &json!(100)));
    let second = card.conf(1, json!({"vlan": 200, "mac": "02:00:00:00:00:08"}));
    let refused = card.call_in("ADD", "two", &netns("one"), &second);
    assert!(!refused.success && refused.json["msg"].as_str().unwrap().contains("net1"), "{}", refused.json);
    assert_eq!((card.port(0), kept_of("one", "net1")), (port, link), "nobody touched it");
    let now = card.state();
    assert_eq!((&now["ports"][1], &now["links"][1]), (&before["ports"][1], &before["links"][1]));
    let answer = card.call_of("plexus-cni", "DEL", "one", &node);
    assert!(answer.success, "{} {}", answer.json, answer.log);
    card.assert_state(&before, "after DEL");
    ip("netns del one");
}

fn nothing_is_lost_at_any_step(card: &Card) {
    let conf =
        card.conf(0, json!({"vlan": 100, "mac": "02:00:00:00:00:07", "trust": "on", "max_tx_rate": 200, "mtu": 1400}));
    cycles(card, &conf);
}

fn nor_where_it_is_bound_to_another_driver(card: &Card) {
    cycles(card, &card.conf(0, json!({"vlan": 100, "mac": "02:00:00:00:00:07", "trust": "on", "driver": "vfio-pci"})));
}

fn cycles(card: &Card, conf: &Value) {
    let before = card.state();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = variable(SEED_VARIABLE).unwrap_or_else(|| u64::from(now)) | 1;
    let mut random = seed;
    let usual = undisturbed(card, conf);
    let cycles = variable(CYCLES_VARIABLE).and_then(|cycles| cycles.try_into().ok()).unwrap_or(CYCLES);
    let (mut hit, mut changed) = (0, 0);
    for cycle in 0..cycles {
        let (command, lost) = [("ADD", false), ("ADD", true), ("DEL", false), ("DEL", true)][(cycle % 4) as usize];
        ip("netns add one");
        if command == "DEL" {
            card.add("one", conf);
        }
        let after = usual.mul_f64(1.1 * next(&mut random));
        if kill_after(card, command, conf, after) {
            hit += 1;
            // A claim that is there is of an ADD that had begun, or of a DEL that had not ended.
            changed += u32::from(!card.left().is_empty());
        }
        if lost {
            ip("netns del one");
        }
        let netns = if lost { String::new() } else { netns("one") };
        card.del("one", &netns, conf);
        let when =
            format!("cycle {cycle}, {command} killed after {after:?}, namespace lost: {lost}, {SEED_VARIABLE}={seed}");
        assert_eq!(card.left(), Vec::<String>::new(), "{when}");
        card.assert_state(&before, &when);
        if !lost {
            ip("netns del one");
        }
    }
    eprintln!("{hit} of {cycles} calls were killed before they ended, {changed} of them with something written down");
    assert!(hit > 0, "every call had ended when it was killed: nothing was shown, {SEED_VARIABLE}={seed}");
    assert!(changed > 0, "no call had begun anything when it was killed, {SEED_VARIABLE}={seed}");
}

/// How long an ADD takes.
fn undisturbed(card: &Card, conf: &Value) -> Duration {
    ip("netns add one");
    let begin = Instant::now();
    card.add("one", conf);
    let usual = begin.elapsed();
    card.del("one", &netns("one"), conf);
    ip("netns del one");
    usual
}

/// Whether the call was still under way when it was killed.
fn kill_after(card: &Card, command: &str, conf: &Value, after: Duration) -> bool {
    let begin = Instant::now();
    let mut child = card.begin(command, "one", conf);
    while begin.elapsed() < after {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap().signal() == Some(Signal::SIGKILL as i32)
}
