//! The node's daemon attaches a function, and takes it back.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::json;

use crate::Case;
use crate::card::{Card, ip, link_of, until};

pub(crate) const CASES: &[Case] = &[("daemon::it_attaches_and_brings_back", it_attaches_and_brings_back)];

/// What the daemon says of itself.
fn page(folder: &Path) -> String {
    let mut stream = UnixStream::connect(folder.join("metrics.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn it_attaches_and_brings_back(card: &Card) {
    let before = card.state();
    let folder = std::env::temp_dir().join(format!("plexus-sriov-daemon-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut daemon = card.plexus().args(["daemon", "--socket-dir"]).arg(&folder).spawn().unwrap();
    until("the daemon", || UnixStream::connect(folder.join("metrics.sock")).is_ok().then_some(()));
    let own = card.conf(0, json!({"vlan": 100, "mac": "02:00:00:00:00:07", "trust": "on", "mtu": 1400}));
    let node = json!({"cniVersion": "1.1.0", "name": "node", "type": "plexus-cni", "delegates": [own], "daemonSocketDir": folder,
        "fallback": "fail"});
    for round in 1..=2 {
        ip("netns add one");
        let answer = card.call_of("plexus-cni", "ADD", "one", &node);
        assert!(answer.success, "{} {}", answer.json, answer.log);
        assert_eq!(link_of("one", "net1")["parentdev"], card.functions[0].pci);
        assert_eq!(card.port(0)["vlan_list"][0]["vlan"], 100);
        let said = page(&folder);
        let count = format!("plexus_attachment_seconds_count{{kind=\"sriov\"}} {round}");
        assert!(said.contains(&count), "it was not the daemon: {said}");
        // The second time without the namespace.
        let lost = round == 2;
        if lost {
            ip("netns del one");
        }
        let answer = card.call_of("plexus-cni", "DEL", "one", &node);
        assert!(answer.success, "{} {}", answer.json, answer.log);
        card.assert_state(&before, "after DEL");
        assert_eq!(card.left(), Vec::<String>::new());
        if !lost {
            ip("netns del one");
        }
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    fs::remove_dir_all(folder).unwrap();
}
