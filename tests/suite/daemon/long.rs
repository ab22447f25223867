//! Many pods one after the other: the daemon is at the end what it was after the first of them.

use std::fs::File;
use std::os::fd::AsFd;

use serde_json::Value;

use super::frame::{Said, ask, of_sandbox};
use super::{Daemon, left, node, records};
use crate::case::Case;
use crate::crash::variable;
use crate::need::Need;
use crate::world::lose_netns;

pub(super) fn cases() -> Vec<Case> {
    vec![Case::new("daemon::many_pods_leave_it_as_it_was", &[Need::Macvlan], many)]
}

/// How many instead of [`CYCLES`]; 20,000 is the long run.
const CYCLES_VARIABLE: &str = "PLEXUS_DAEMON_CYCLES";
const CYCLES: u64 = 200;
/// What its memory may differ by, in kB: its allocator keeps a little for each of 36 threads that was at work once; 2,300 were seen.
const MEMORY_MAX_KB: u64 = 4096;

fn many() {
    let node = node("fail");
    let daemon = Daemon::start();
    node.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue,green,six")]);
    node.bed.lose_pod("a");
    let stdin = node.conf.to_string();
    let cycles = variable(CYCLES_VARIABLE).unwrap_or(CYCLES);
    let (mut memory, mut descriptors) = (0, 0);
    for number in 0..cycles {
        // A sandbox and a namespace of its own each: what is kept by either would show.
        let path = node.bed.pod("a");
        let netns = File::open(&path).unwrap();
        let [add, del] =
            ["ADD", "DEL"].map(|command| of_sandbox(&node, command, ("a", &format!("id-{number}")), stdin.as_bytes()));
        let said = ask(&add, &[netns.as_fd()]);
        assert!(matches!(&said, Said::Result(result) if result["ips"].is_array()), "ADD {number}: {said:?}");
        assert_eq!(ask(&del, &[netns.as_fd()]), Said::Result(Value::Null), "DEL {number}");
        lose_netns(&path);
        node.bed.forget_pod("a");
        if number == cycles / 10 {
            (memory, descriptors) = (daemon.memory(), daemon.descriptors());
        }
    }
    assert_eq!((left(&node), records()), (vec![], 0));
    daemon.awaits_descriptors(descriptors);
    let at_end = daemon.memory();
    eprintln!("{cycles} pods: {memory} kB after a tenth, {at_end} kB at the end");
    assert!(at_end.abs_diff(memory) <= MEMORY_MAX_KB, "{memory} kB after a tenth, {at_end} kB at the end");
    daemon.stop();
}
