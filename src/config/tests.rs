//! Every row of the table is read, and what cannot be meant is refused.

use std::path::Path;

use serde_json::json;

use super::keys::{ACCEPTED, KEYS, Key, LOG_KEYS};
use super::*;

fn parse(value: Value) -> Result<Config, CniError> {
    Config::parse(value.as_object().unwrap())
}

#[test]
fn defaults_are_those_of_multus() {
    let config =
        parse(json!({"name": "n", "type": "multus", "delegates": [{"type": "bridge"}], "logLevel": "debug"})).unwrap();
    assert_eq!(config.conf_dir, Path::new("/etc/cni/multus/net.d"));
    assert_eq!(config.global_namespaces, ["default"]);
    assert_eq!(config.multus_namespace, "kube-system");
    assert!(config.unknown.is_empty());
    assert_eq!(config.search_path(&["/a".into(), "/opt/cni/bin".into()]), [Path::new("/opt/cni/bin"), Path::new("/a")]);
}

#[test]
fn cluster_network_wins_and_something_must_be_there() {
    let config = parse(json!({"clusterNetwork": "main", "delegates": [{}], "globalNamespaces": "a, b"})).unwrap();
    assert_eq!(config.primary, Primary::Cluster("main".into(), Vec::new()));
    assert_eq!(config.global_namespaces, ["a", "b"]);
    let text = "LoadNetConf: at least one delegate/clusterNetwork must be specified";
    assert_eq!(parse(json!({})).unwrap_err().msg, text);
    assert_eq!(parse(json!({"delegates": []})).unwrap_err().msg, text);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (conf, part) in [
        (json!({"clusterNetwork": "a", "stateDir": "relative"}), "stateDir"),
        (json!({"clusterNetwork": "a", "native": "yes"}), "native"),
        (json!({"delegates": [1]}), "object"),
        (json!({"delegates": vec![json!({}); 65]}), "65"),
    ] {
        assert!(parse(conf).unwrap_err().msg.contains(part));
    }
}

#[test]
fn strangers_are_told() {
    let config = parse(json!({"clusterNetwork": "a", "cniConfs": "/x", "logOptions": {"maxsize": 3, "maxLines": 2},
        "native": ["bridge"], "CNIVersion": "1.0.0"}))
    .unwrap();
    assert_eq!(config.unknown, ["cniConfs", "logOptions.maxLines"]);
    assert_eq!(config.native, NativePolicy::Kinds(vec!["bridge".into()]));
}

fn with(key: &Key, value: Value) -> Config {
    let mut object = json!({"clusterNetwork": "/etc/a.conflist"});
    match LOG_KEYS.iter().any(|of| of.name == key.name) {
        true => object["logOptions"] = json!({key.name: value}),
        false => object[key.name] = value,
    }
    // Without it the delegates would count for nothing.
    if key.name == "delegates" {
        object["clusterNetwork"] = Value::Null;
    }
    parse(object).unwrap_or_else(|e| panic!("{}: {}", key.name, e.msg))
}

#[test]
fn every_key_of_the_table_is_read_and_its_default_is_what_the_table_says() {
    let plain = parse(json!({"clusterNetwork": "/etc/a.conflist"})).unwrap();
    for key in KEYS.iter().chain(LOG_KEYS) {
        let example: Value = serde_json::from_str(key.example).unwrap();
        let config = with(key, example);
        assert!(config.unknown.is_empty(), "{}", key.name);
        assert_ne!(config, plain, "{}: its example changes nothing", key.name);
        if let Some(unset) = key.unset.json() {
            assert_eq!(with(key, unset), plain, "{}: its default is another", key.name);
        }
    }
    for key in ACCEPTED {
        assert_eq!(with(key, json!("anything")), plain, "{}", key.name);
    }
}

#[test]
fn numbers_have_bounds() {
    for (conf, part) in [
        (json!({"apiCallTimeoutMs": 0}), "apiCallTimeoutMs: 0 is not between 1 and 300000 milliseconds"),
        (json!({"readinessWaitMs": 300_001}), "readinessWaitMs: 300001"),
        (json!({"appearWaitMs": -1}), "cannot unmarshal number -1"),
        (json!({"logOptions": {"maxSize": "5"}}), "LogOptions.logOptions.maxSize of type int"),
        (json!({"allowedDelegates": vec!["a"; 1001]}), "1001 types"),
    ] {
        let mut conf = conf;
        conf["clusterNetwork"] = json!("a");
        let error = parse(conf).unwrap_err().msg;
        assert!(error.contains(part), "{error}");
    }
    let log = parse(json!({"clusterNetwork": "a", "logOptions": {"maxSize": 0, "maxAge": -1, "maxBackups": 1}}));
    let log = log.unwrap().log;
    assert_eq!((log.max_size_mb, log.max_age_days, log.max_backups), (100, 0, 1));
}

#[test]
fn what_the_installer_of_multus_writes_is_read_and_said() {
    let config = parse(json!({"clusterNetwork": "a", "cniConf": "/host/etc/cni/multus/net.e"})).unwrap();
    assert_eq!(config.conf_dir, Path::new("/etc/cni/multus/net.e"));
    assert_eq!(config.warnings, [r#"cniConf is read as confDir "/etc/cni/multus/net.e": please write that"#]);
    let config = parse(json!({"clusterNetwork": "a", "cniConf": "/hosts", "confDir": "/b"})).unwrap();
    assert_eq!(config.conf_dir, Path::new("/b"));
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn a_level_is_found_whatever_its_case_and_a_wrong_one_is_told() {
    let config = parse(json!({"clusterNetwork": "a", "logLevel": "Verbose"})).unwrap();
    assert_eq!(config.log.level, Level::Verbose);
    let config = parse(json!({"clusterNetwork": "a", "logLevel": "warn"})).unwrap();
    assert_eq!(config.log.level, Level::Panic);
    assert!(config.warnings[0].contains("\"warn\""), "{:?}", config.warnings);
}
