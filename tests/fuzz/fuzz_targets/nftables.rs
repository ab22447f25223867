//! Answers of the kernel about rules and chains: reading any bytes ends, and never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| backends::fuzzing::nftables(bytes));
