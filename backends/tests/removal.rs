//! Removing links by a process of its own, and from here.

use std::cell::Cell;
use std::process::{Command, Stdio};
use std::{fs, io};

use backends::{Deleter, Deletion, Doomed, NetNs, Pod, Removed, remove, remove_now};
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::AsRawFd;

use crate::Case;
use crate::world::{World, host_links, in_pod, ip, pod_links};

pub(crate) const CASES: &[Case] = &[
    ("removal::a_group_is_announced_gone", a_group_is_announced_gone),
    ("removal::names_and_indexes_leave_together", names_and_indexes_leave_together),
    ("removal::what_was_announced_and_lost_is_looked_for", what_was_announced_and_lost_is_looked_for),
    ("removal::what_is_not_there_is_no_error", what_is_not_there_is_no_error),
    ("removal::without_a_deleter_it_deletes_itself", without_a_deleter_it_deletes_itself),
    ("removal::a_refusal_is_said", a_refusal_is_said),
    ("removal::the_other_namespace_is_untouched", the_other_namespace_is_untouched),
];

/// Sends the request from a thread and reads the answer, as the detached process does.
pub(crate) fn sent_by_a_thread(deletion: Deletion) -> io::Result<Box<dyn Deleter>> {
    Ok(Box::new(std::thread::spawn(move || {
        let Deletion { socket, message } = deletion;
        send(socket.as_raw_fd(), &message, MsgFlags::empty()).unwrap();
        let mut answer = [0; 4096];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
        assert_eq!((length >= 20, &answer[16..20]), (true, &[0; 4][..]), "an acknowledgement");
    })))
}

fn never(_: Deletion) -> io::Result<Box<dyn Deleter>> {
    panic!("there is nothing to delete")
}

fn three_links(pod: &Pod) {
    for (name, group) in [("net1", 7), ("net2", 7), ("net3", 8)] {
        in_pod(pod, &format!("link add {name} group {group} type veth peer name {name}-far"));
    }
}

fn a_group_is_announced_gone(world: &mut World) {
    let mut pod = world.pod();
    three_links(&pod);
    let removed = remove(&mut pod, &[Doomed::Group(7)], &sent_by_a_thread, &mut |_| {}).unwrap();
    assert_eq!(removed.names, ["net1", "net2"]);
    let mut left = pod_links(&pod);
    left.sort();
    assert_eq!(left, ["lo", "net3", "net3-far"]);
    // The socket is as good as before.
    assert!(backends::exists(&mut pod, "net3").unwrap());
    assert_eq!(remove(&mut pod, &[Doomed::Group(7)], &never, &mut |_| {}).unwrap(), Removed::default());
}

fn names_and_indexes_leave_together(world: &mut World) {
    let mut pod = world.pod();
    three_links(&pod);
    let index = backends::links(&mut pod).unwrap().iter().find(|link| link.name == "net3").unwrap().index;
    let times = Cell::new(0);
    let spawn = |deletion: Deletion| {
        times.set(times.get() + 1);
        sent_by_a_thread(deletion)
    };
    let doomed = [Doomed::Name("net1".to_owned()), Doomed::Index(index), Doomed::Name("nope".to_owned())];
    let mut names = remove(&mut pod, &doomed, &spawn, &mut |_| {}).unwrap().names;
    names.sort();
    assert_eq!((names.join(" ").as_str(), times.get()), ("net1 net3", 1));
    assert_eq!(pod_links(&pod).iter().filter(|name| name.starts_with("net2")).count(), 2);
    assert!(!pod_links(&pod).iter().any(|name| name.starts_with("net1") || name.starts_with("net3")));
}

/// More is announced than a socket holds unread.
fn what_was_announced_and_lost_is_looked_for(world: &mut World) {
    let mut pod = world.pod();
    three_links(&pod);
    let aliases: String = (0..2000).map(|number| format!("link set lo alias a{number}\n")).collect();
    fs::write("/run/aliases", aliases).unwrap();
    let inside = NetNs::open(pod.netns().path()).unwrap();
    let heard = Cell::new(0);
    for doomed in [vec![Doomed::Group(7)], vec![Doomed::Name("net3".to_owned())]] {
        let spawn = |deletion: Deletion| {
            inside.run(|| ip("-batch /run/aliases")).unwrap();
            sent_by_a_thread(deletion)
        };
        remove(&mut pod, &doomed, &spawn, &mut |_| heard.set(heard.get() + 1)).unwrap();
    }
    assert_eq!((pod_links(&pod), heard.get()), (vec!["lo".to_owned()], 3));
}

fn what_is_not_there_is_no_error(world: &mut World) {
    let mut pod = world.pod();
    let doomed = [Doomed::Name("eth0".to_owned()), Doomed::Index(99), Doomed::Group(5)];
    assert_eq!(remove(&mut pod, &doomed, &never, &mut |_| {}).unwrap(), Removed::default());
    assert_eq!(remove_now(&mut pod, &doomed).unwrap(), Removed::default());
    assert_eq!(remove(&mut pod, &[], &never, &mut |_| {}).unwrap(), Removed::default());
}

fn without_a_deleter_it_deletes_itself(world: &mut World) {
    let mut pod = world.pod();
    let fails = |_: Deletion| Err(io::Error::from(io::ErrorKind::NotFound));
    let idle = |_: Deletion| -> io::Result<Box<dyn Deleter>> {
        Ok(Box::new(Command::new("true").stdin(Stdio::null()).spawn()?))
    };
    let spawns: [&backends::Spawn<'_>; 2] = [&fails, &idle];
    for spawn in spawns {
        three_links(&pod);
        let removed = remove(&mut pod, &[Doomed::Group(7), Doomed::Group(8)], spawn, &mut |_| {}).unwrap();
        assert_eq!(removed.names, ["net1", "net2", "net3"]);
        assert_eq!(pod_links(&pod), ["lo"]);
    }
    three_links(&pod);
    assert_eq!(remove_now(&mut pod, &[Doomed::Name("net1".to_owned())]).unwrap().names, ["net1"]);
    assert_eq!(remove_now(&mut pod, &[Doomed::Group(7), Doomed::Group(8)]).unwrap().names, ["net2", "net3"]);
}

fn a_refusal_is_said(world: &mut World) {
    // A tunnel's fallback device cannot be deleted; where there is none, there is nothing to see.
    let mut pod = world.pod();
    let device = backends::links(&mut pod).unwrap().into_iter().find(|link| link.kind == "sit" || link.kind == "ipip");
    if let Some(device) = device {
        let error = remove_now(&mut pod, &[Doomed::Index(device.index)]).unwrap_err();
        assert!(error.chain().starts_with("delete link "), "{}", error.chain());
    }
}

fn the_other_namespace_is_untouched(world: &mut World) {
    let mut pod = world.pod();
    world.lower("net1");
    ip("link set net1 group 7");
    three_links(&pod);
    remove(&mut pod, &[Doomed::Group(7)], &sent_by_a_thread, &mut |_| {}).unwrap();
    assert!(host_links().contains(&"net1".to_owned()));
}
