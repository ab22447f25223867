//! A file of Kubernetes manifests, YAML or JSON, several documents.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plexus::sources;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = sources::parse_manifests(text);
    }
});
