//! Whatever a runtime or a definition sends as configuration: lists, single configurations of each plugin, the meta-plugin's own.
#![no_main]

use std::path::Path;

use backends::chained::{Chained, tuning};
use backends::{Before, Kind};
use libfuzzer_sys::fuzz_target;
use plexus::cni::Version;
use plexus::cni::list::List;
use plexus::cni::{NetConf, gojson};
use plexus::config::Config;
use plexus::native::{self, Around};

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
        let _ = tuning::refuse_duplicates(bytes);
        let kinds = Kind::ALL.into_iter().map(Kind::name);
        for plugin in kinds.chain(Chained::ALL.into_iter().map(Chained::name)) {
            let around = Around {
                network: "net1",
                version: Version::V1_1_0,
                args: "",
                ifname: "eth0",
                state_dir: Path::new("/nowhere"),
                before: Before::Awaited,
            };
            let _ = native::read(plugin, &object, &around);
        }
    }
});
