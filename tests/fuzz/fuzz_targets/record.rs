//! A record on disk may hold anything: reading it never panics, and what reads as a record writes as one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plexus::journal;

fuzz_target!(|bytes: &[u8]| {
    for record in journal::parse(bytes) {
        let line = serde_json::to_vec(&record.intent).expect("an intent is plain values");
        let again = journal::parse(&[line.as_slice(), b"\n"].concat()).pop().expect("what was written reads back");
        assert_eq!(again.intent, record.intent);
    }
});
