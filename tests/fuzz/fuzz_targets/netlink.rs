//! Answers of the kernel about links, addresses, routes and VLANs: reading any bytes ends, and never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| backends::fuzzing::netlink(bytes));
