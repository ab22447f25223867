//! Whatever a runtime or a definition sends as configuration: lists, single configurations, the meta-plugin's own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plexus::cni::list::List;
use plexus::cni::{NetConf, gojson};
use plexus::config::Config;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(list) = List::parse_either(bytes) {
        for plugin in &list.plugins {
            let injected = list.inject(plugin, &Default::default());
            assert!(gojson::parse_object(&injected.bytes, "x").is_ok(), "what goes to a plugin is JSON");
        }
    }
    let _ = NetConf::parse(bytes);
    if let Ok(object) = gojson::parse_object(bytes, "x") {
        let _ = Config::parse(&object);
    }
});
