//! What a pod's author writes: both grammars, both annotations. What is accepted has names that cannot leave a path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plexus::select;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for selection in select::parse_networks(text, "default").into_iter().flatten() {
        assert!(!selection.name.contains('/') && !selection.namespace.contains('/'));
        assert!(selection.ifname.is_none_or(|name| name.len() < 16 && !name.contains('/')));
    }
    let _ = select::parse_default_network(text, "kube-system");
});
