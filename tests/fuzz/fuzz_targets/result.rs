//! What a delegate prints, and prevResult: read in any version, printed in every one without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plexus::cni::version::SUPPORTED;
use plexus::cni::{CniResult, Version};

fuzz_target!(|bytes: &[u8]| {
    if let Ok((result, _)) = CniResult::parse_output(bytes, Version::CURRENT) {
        for version in SUPPORTED {
            let _ = result.print(version);
        }
        let value = result.to_value(Version::CURRENT).expect("the newest version holds every result");
        let (again, _) = CniResult::parse(&value, Version::CURRENT).expect("what was printed reads back");
        assert_eq!(again, result);
    }
});
