//! What is written of devices: what is read of it, and what is told of what cannot be meant.

use serde_json::json;

use super::*;
use crate::config::daemon::DaemonConfig;

fn parse(devices: &Value) -> Result<Devices, String> {
    let text = json!({"devices": devices}).to_string();
    let config = DaemonConfig::parse(text.as_bytes()).map_err(|e| e.msg)?;
    assert!(config.unknown.is_empty(), "{:?}", config.unknown);
    Ok(config.devices.unwrap())
}

fn resource(more: &Value) -> Value {
    let mut resource = json!({"resourceName": "vf", "selectors": {"vendors": ["8086"]}});
    resource.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"resourceList": [resource]})
}

#[test]
fn the_other_plugins_file_is_read_as_it_is() {
    let mut devices = parse(&json!({"resourcePrefix": "example.com", "useCdi": true})).unwrap();
    let file = json!({"resourceList": [
        {"resourceName": "intel_sriov_netdevice", "selectors": {"vendors": ["8086"], "devices": ["154c", "10ed"],
            "drivers": ["i40evf", "igbvf"], "pfNames": ["enp0s0f0", "enp2s2f1#0,2-7,9"]}},
        {"resourceName": "mlnx_rdma", "resourcePrefix": "mellanox.com", "deviceType": "netDevice",
            "selectors": [{"vendors": ["15b3"], "isRdma": true}, {"rootDevices": ["0000:86:00.0#1"], "needVhostNet": true}],
            "additionalInfo": {"*": {"token": "t"}}, "excludeTopology": true, "more": 1}]});
    devices.add_file(Ok(file.to_string().into_bytes()));
    assert_eq!(devices.faults, Vec::<String>::new());
    let [first, second] = devices.resources.as_slice() else { panic!("{devices:?}") };
    assert_eq!(
        [first.full_name(), second.full_name()],
        ["example.com/intel_sriov_netdevice", "mellanox.com/mlnx_rdma"]
    );
    let ranges = Some(vec![0..=0, 2..=7, 9..=9]);
    let cards =
        [OfCard { name: "enp0s0f0".into(), indexes: None }, OfCard { name: "enp2s2f1".into(), indexes: ranges }];
    assert_eq!(first.selectors[0].pf_names, cards);
    assert!(second.selectors[0].is_rdma && second.selectors[1].needs_vhost_net && second.exclude_topology);
    assert_eq!(second.additional_info["*"]["token"], "t");
    assert_eq!(devices.warnings, ["devices: unknown key more of a resource is ignored"]);
    assert_eq!(devices.cdi_dir, Some(PathBuf::from(CDI_DIR)));
    assert_eq!(devices.plugin_dir, PathBuf::from(PLUGIN_DIR));
}

#[test]
fn what_only_the_other_plugin_offers_is_left_out_of_its_file() {
    let mut devices = parse(&json!({})).unwrap();
    let file = json!({"resourceList": [
        {"resourceName": "gpu", "deviceType": "accelerator", "selectors": {"vendors": ["8086"]}},
        {"resourceName": "vf", "selectors": {"vendors": ["8086"]}},
        {"resourceName": "vf", "selectors": {"vendors": ["15b3"]}},
        {"resourceName": "sf", "selectors": {"auxTypes": ["sf"]}}]});
    devices.add_file(Ok(file.to_string().into_bytes()));
    let names: Vec<String> = devices.resources.iter().map(Resource::full_name).collect();
    assert_eq!(names, ["intel.com/vf"]);
    let told = devices.faults.join("; ");
    let parts = [
        "resourceList[0] of the file, gpu,",
        "resourceList[2] of the file, vf, is not offered: intel.com/vf is there twice",
        "[3] of the file, sf,",
    ];
    assert!(parts.iter().all(|part| told.contains(part)) && told.contains("auxTypes"), "{told}");
}

#[test]
fn what_cannot_be_meant_is_told_and_hides_nothing_else() {
    let selectors = |selectors: &Value| resource(&json!({"selectors": selectors}));
    let good = json!({"resourceName": "good", "resourcePrefix": "x.org", "selectors": {"vendors": ["8086"]}});
    let twice = [resource(&json!({})), resource(&json!({}))].map(|one| one["resourceList"][0].clone());
    for (devices, part) in [
        (
            resource(&json!({"resourceName": ""})),
            "resourceList[0] of the configuration, without a name, is not offered: resourceName is not given",
        ),
        (resource(&json!({"resourceName": "a/b"})), "intel.com/a/b is no name"),
        (resource(&json!({"resourcePrefix": ".x"})), "is no name of a resource"),
        (resource(&json!({"deviceType": "accelerator"})), "vf: deviceType accelerator is not offered"),
        (resource(&json!({"selectors": null})), "selectors: 1 to 64 are needed, and 0 given"),
        (resource(&json!({"additionalInfo": {"*": 7}})), "additionalInfo: texts"),
        (
            json!({"useCdi": true, "resourcePrefix": "3c.com", "resourceList": [resource(&json!({}))["resourceList"][0]]}),
            "3c.com/vf: useCdi: a name of who makes devices begins with a letter",
        ),
        (selectors(&json!({})), "would offer every card"),
        (selectors(&json!([{"vendors": ["x"]}, {"needVhostNet": true}])), "would offer every card"),
        (selectors(&json!({"ddpProfiles": ["gtp"]})), "ddpProfiles: nothing is chosen by that"),
        (selectors(&json!({"pKeys": ["7"]})), "\"7\" is no partition key"),
        (selectors(&json!({"vdpaType": "vduse"})), "\"vduse\" is neither virtio nor vhost"),
        (selectors(&json!({"pfNames": ["eth0#"]})), "\"eth0#\" is no card with functions"),
        (selectors(&json!({"pfNames": ["eth0#3-1"]})), "\"eth0#3-1\" is no card"),
        (selectors(&json!({"rootDevices": ["#1"]})), "\"#1\" is no card"),
        (selectors(&json!({"pfNames": [format!("eth0#{}1", "1,".repeat(1024))]})), "eth0: more than 1024 words"),
        (selectors(&json!({"vendors": "8086"})), "vendors"),
        (
            json!({"resourceList": twice}),
            "resourceList[1] of the configuration, vf, is not offered: intel.com/vf is there twice",
        ),
        (json!({"virtualFunctions": [{"pf": "eth0"}]}), "eth0: count is 1 to 4096"),
        (json!({"virtualFunctions": [{"pf": "eth0", "count": 0}]}), "count is 1 to"),
        (json!({"virtualFunctions": [{"count": 4}]}), "pf is not given"),
        (json!({"virtualFunctions": [{"pf": "eth0", "count": 4, "x": 1}]}), "unknown key x"),
        (
            json!({"virtualFunctions": [{"pf": "e0", "count": 4}, {"pf": "e0", "count": 2}]}),
            "virtualFunctions[1]: e0 is there twice",
        ),
        (
            json!({"virtualFunctions": [{"pf": "0:a:0.0", "count": 4}, {"pf": "0:A:0.0", "count": 4}]}),
            "0:A:0.0 is there twice",
        ),
    ] {
        let mut with = devices.clone();
        with["resourceList"].as_array_mut().into_iter().for_each(|list| list.push(good.clone()));
        let read = parse(&with).unwrap();
        let [fault] = read.faults.as_slice() else { panic!("{devices}: {:?}", read.faults) };
        assert!(fault.starts_with("devices: ") && fault.contains(part), "{devices}: {fault}");
        let goods = read.resources.iter().filter(|resource| resource.full_name() == "x.org/good").count();
        assert_eq!(goods, usize::from(devices.get("resourceList").is_some()), "{devices}");
    }
    assert!(parse(&json!({"pluginDir": "x"})).unwrap_err().contains("no absolute path"));
    let cards = parse(
        &json!({"virtualFunctions": [{"pf": ""}, {"pf": "e0", "count": 4}, {"pf": "E0", "count": 2}, {"pf": "e0", "count": 1}]}),
    );
    let cards = cards.unwrap().functions.into_iter().map(|one| (one.pf, one.count)).collect::<Vec<_>>();
    assert_eq!(cards, [("e0".to_owned(), 4), ("E0".to_owned(), 2)]);
}

#[test]
fn of_a_file_that_is_none_nothing_is_offered_and_that_is_said() {
    let absent = Err("no such file or directory".to_owned());
    let texts = ["", "[]", "{}", r#"{"resourceList": {}}"#].map(|text| Ok(text.as_bytes().to_vec()));
    for text in texts.into_iter().chain([absent]) {
        let mut devices = parse(&json!({"configFile": "/x/config.json"})).unwrap();
        devices.add_file(text.clone());
        assert_eq!(devices.resources, [], "{text:?}");
        let [fault] = devices.faults.as_slice() else { panic!("{text:?}: {:?}", devices.faults) };
        assert!(fault.starts_with("devices: no resource of /x/config.json is offered: "), "{fault}");
    }
}

#[test]
fn of_too_many_resources_the_first_are_offered_and_that_is_said() {
    let named = |number: usize| json!({"resourceName": format!("r{number}"), "selectors": {"vendors": ["8086"]}});
    let many = |count: usize| json!({"resourceList": (0..count).map(named).collect::<Vec<_>>()});
    let full = parse(&many(RESOURCES_MAX)).unwrap();
    assert_eq!((full.resources.len(), full.faults.len()), (RESOURCES_MAX, 0));
    let more = parse(&many(RESOURCES_MAX + 3)).unwrap();
    assert_eq!(more.resources, full.resources);
    let said = |place: &str, more: usize, from: usize| {
        [format!(
            "devices: resourceList of {place}: {more} resources, from r{from} on, are not offered: there may be 64"
        )]
    };
    assert_eq!(more.faults, said("the configuration", 3, 64));
    let mut of_file = parse(&json!({})).unwrap();
    of_file.add_file(Ok(many(RESOURCES_MAX + 1).to_string().into_bytes()));
    assert_eq!((&of_file.resources, of_file.faults), (&full.resources, said("the file", 1, 64).to_vec()));
    // What is wrong takes no room.
    let mut list = many(RESOURCES_MAX);
    list["resourceList"][3] = json!({});
    list["resourceList"].as_array_mut().unwrap().push(named(90));
    let one_wrong = parse(&list).unwrap();
    assert_eq!((one_wrong.resources.len(), one_wrong.faults.len()), (RESOURCES_MAX, 1));
    let mut both = full;
    both.add_file(Ok(json!({"resourceList": [named(90)]}).to_string().into_bytes()));
    assert_eq!((both.resources.len(), both.faults), (RESOURCES_MAX, said("the file", 1, 90).to_vec()));
}

#[test]
fn every_key_of_the_tables_is_read() {
    let plain = parse(&json!({"useCdi": true})).unwrap();
    for key in DEVICES_KEYS {
        let example: Value = serde_json::from_str(key.example).unwrap();
        let mut with = json!({"useCdi": true});
        with[key.name] = if key.name == "useCdi" { json!(false) } else { example };
        let with = parse(&with).unwrap();
        assert_ne!(with, plain, "{}", key.name);
    }
    let one = |devices: &Value| parse(devices).unwrap().resources.pop();
    let plain = one(&resource(&json!({})));
    for key in RESOURCE_KEYS {
        let example: Value = serde_json::from_str(key.example).unwrap();
        assert_ne!(one(&resource(&json!({key.name: example}))), plain, "{}", key.name);
        if let Some(unset) = key.unset.json() {
            assert_eq!(one(&resource(&json!({key.name: unset}))), plain, "{}", key.name);
        }
    }
    for key in SELECTOR_KEYS {
        let example: Value = serde_json::from_str(key.example).unwrap();
        let with = json!({"selectors": {"vendors": ["8086"], key.name: example}});
        assert!(one(&resource(&with)).is_some_and(|with| Some(with) != plain), "{}", key.name);
    }
}
