//! Namespaces and the sides an attachment lies between.

use std::path::Path;

use backends::{ErrorKind, NetNs, Pod};

use crate::Case;
use crate::world::{World, in_pod, ip};

pub(crate) const CASES: &[Case] = &[
    ("namespaces::a_thread_enters_and_ends", a_thread_enters_and_ends),
    ("namespaces::a_panic_inside_is_an_error", a_panic_inside_is_an_error),
    ("namespaces::a_file_of_another_file_system_is_none", a_file_of_another_file_system_is_none),
    ("namespaces::an_id_is_the_same_for_every_path", an_id_is_the_same_for_every_path),
    ("namespaces::a_socket_inside_sees_the_pod_only", a_socket_inside_sees_the_pod_only),
];

fn a_thread_enters_and_ends(world: &mut World) {
    let pod = world.pod();
    assert!(!pod.netns().is_current().unwrap());
    assert!(pod.netns().run(|| pod.netns().is_current().unwrap()).unwrap());
    assert!(!pod.netns().is_current().unwrap());
}

fn a_panic_inside_is_an_error(world: &mut World) {
    let pod = world.pod();
    let error = pod.netns().run(|| -> () { panic!("on purpose: {}", 7) }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.chain().ends_with("on purpose: 7"), "{}", error.chain());
}

fn a_file_of_another_file_system_is_none(_: &mut World) {
    // What a namespace's path is after its mount went: an empty file on a tmpfs.
    std::fs::write("/run/stale", "").unwrap();
    let error = Pod::enter(match NetNs::open(Path::new("/run/stale")) {
        Ok(netns) => netns,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotNetns);
            assert_eq!(
                error.chain(),
                "failed to open netns \"/run/stale\": unknown FS magic on \"/run/stale\": 1021994"
            );
            return;
        }
    });
    panic!("{error:?}");
}

fn an_id_is_the_same_for_every_path(world: &mut World) {
    let pod = world.pod();
    let inside = pod.netns().run(|| NetNs::open(Path::new("/proc/thread-self/ns/net")).unwrap().id()).unwrap();
    assert_eq!(inside, pod.netns().id());
    assert_ne!(inside, NetNs::open(Path::new("/proc/thread-self/ns/net")).unwrap().id());
}

fn a_socket_inside_sees_the_pod_only(world: &mut World) {
    let mut pod = world.pod();
    ip("link add here type bridge");
    in_pod(&pod, "link add there type bridge");
    assert!(!backends::exists(&mut pod, "here").unwrap());
    assert!(backends::exists(&mut pod, "there").unwrap());
}
