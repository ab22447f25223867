//! One definition: what an ADD that names it would be refused for, and what would be executed or ignored.

use std::collections::BTreeMap;
use std::net::IpAddr;

use backends::chained::Chained;
use backends::sysfs::PciAddress;
use backends::{Before, Kind};
use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use super::blame::{self, Mistake};
use super::ground::{self, Ground};
use super::objects::{Definition, Object};
use super::written::Written;
use super::{Finding, KEYS_MAX, Level, Settings, words};
use crate::cni::error::CniError;
use crate::cni::gojson;
use crate::cni::list::{List, PluginConf};
use crate::marks::Path;
use crate::native::{self, Around, Ipam, Verdict};
use crate::plan::{Attachment, How, Step};
use crate::sources;

/// Below them no Ethernet link goes, and above none of the kinds here (ETH_MIN_MTU, ETH_MAX_MTU).
const MTU_MIN: i64 = 68;
const MTU_MAX: i64 = 65_535;
/// What a list may say beside its plugins (libcni).
const LIST_KEYS: [&str; 7] =
    ["cniVersion", "cniVersions", "name", "plugins", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"];

/// A definition's configuration, with what is found about it.
struct Reader<'a> {
    object: &'a Object<'a>,
    written: &'a Written<'a>,
    findings: &'a mut Vec<Finding>,
}

impl Reader<'_> {
    fn tell(&mut self, path: &Path, level: Level, what: impl std::fmt::Display, instead: impl std::fmt::Display) {
        let place = self.written.place_of(path);
        self.tell_at(place, path, level, what, instead);
    }

    fn tell_at(
        &mut self,
        place: (usize, usize),
        path: &Path,
        level: Level,
        what: impl std::fmt::Display,
        instead: impl std::fmt::Display,
    ) {
        let key = if path.0.is_empty() { "spec.config".to_owned() } else { format!("spec.config: {path}") };
        let finding = self.object.inside(place, key, level, what.to_string());
        self.findings.push(Finding { instead: instead.to_string(), ..finding });
    }
}

/// Checks one; its configuration, where it is one.
pub(super) fn check(
    definition: &Definition,
    ground: &Ground,
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Option<List> {
    let Some(written) = definition.config.as_ref().filter(|written| !written.text.trim().is_empty()) else {
        in_conf_dir(definition, settings, findings);
        return None;
    };
    let mut reader = Reader { object: &definition.object, written, findings };
    let bytes = written.text.as_bytes();
    let parsed = match gojson::parse(bytes) {
        Ok(parsed) => parsed,
        Err(e) => {
            let why = e.to_string();
            let place = written.place_at(gojson::place_of_error(bytes).unwrap_or_default());
            reader.tell_at(place, &Path::default(), Level::Error, format!("no JSON: {why}"), words::of_json(&why));
            return None;
        }
    };
    for path in written.repeated().into_iter().take(KEYS_MAX) {
        reader.tell(&path, Level::Warning, "the key is there twice: the last one counts", "one of the two");
    }
    let annotations = &definition.annotations;
    let attach = |config: &Value| {
        let changed = sources::Definition { annotations: annotations.clone(), config: config.to_string() };
        ground.of_definition(&definition.name, &changed)
    };
    let ask = |config: &Value| attach(config).err().map(|refusal| plain(&ground::words_of(&refusal), &definition.name));
    let is_right = ask(&parsed).is_none();
    let rest = mistakes(&parsed, &ask, ground, &mut reader)?;
    let attachment = attach(&rest).ok()?;
    surprises(&rest, &attachment, ground, &mut reader);
    is_right.then(|| list_of(&attachment))
}

/// The list that an attachment came from, as far as pools need it.
pub(super) fn list_of(attachment: &Attachment) -> List {
    let plugin = |step: &Step| PluginConf {
        plugin_type: step.plugin.clone(),
        capabilities: BTreeMap::new(),
        object: step.conf.clone(),
        raw: String::new(),
    };
    List {
        name: attachment.cni_name.clone(),
        cni_version: attachment.version,
        disable_check: attachment.disable_check,
        disable_gc: false,
        load_only_inlined: true,
        plugins: attachment.steps.iter().map(plugin).collect(),
    }
}

/// Without a configuration of its own, a file of every node has it.
fn in_conf_dir(definition: &Definition, settings: &Settings, findings: &mut Vec<Finding>) {
    let dir = &settings.config.conf_dir;
    if definition.is_broken || !settings.is_given || sources::network_by_name(dir, &definition.name.1).is_ok() {
        return;
    }
    let what = format!("it has no spec.config: a file in {} of every node must have it; here none does", dir.display());
    let finding = definition.object.finding(&Path::of("spec.config"), Level::Note, what);
    findings.push(Finding { instead: format!("a file there with \"name\": {:?}", definition.name.1), ..finding });
}

/// A refusal without what is said of the network: that is known.
fn plain(msg: &str, name: &(String, String)) -> String {
    let full = format!("{}/{}", name.0, name.1);
    let msg = msg.strip_prefix(&format!("network {full:?}: ")).unwrap_or(msg);
    msg.strip_prefix(&format!("definition {full}: ")).unwrap_or(msg).to_owned()
}

/// Every mistake that ADD would refuse; what is left without them, if nothing else is wrong.
fn mistakes(parsed: &Value, ask: &blame::Ask, ground: &Ground, reader: &mut Reader) -> Option<Value> {
    if let Some(first) = ask(parsed)
        && let Some((path, key)) = misspelt(parsed, &first, ask)
    {
        reader.tell(&path, Level::Error, format!("{first}: nobody knows the key"), format!("\"{key}\""));
        return None;
    }
    let (found, rest) = blame::mistakes(parsed, ask, &ground.budget);
    for Mistake { why, path } in found {
        let right = words::of_refusal(&why);
        let right = if right.is_empty() { words::right_for(path.last_key().unwrap_or_default()) } else { right };
        reader.tell(&path, Level::Error, &why, right);
    }
    rest
}

/// A key that is nearly one that is known, where the refusal is another one with that.
fn misspelt(config: &Value, why: &str, ask: &blame::Ask) -> Option<(Path, &'static str)> {
    let mut objects = vec![Path::default()];
    let plugins = config.get("plugins").and_then(Value::as_array).map_or(0, Vec::len);
    objects.extend((0..plugins.min(KEYS_MAX)).map(|index| Path::of("plugins").join(index)));
    objects.extend(objects.clone().into_iter().map(|path| path.join("ipam")));
    objects.into_iter().find_map(|path| {
        let object = blame::at(config, &path)?.as_object()?;
        let unknown = object.keys().filter(|key| !words::KEYS.iter().any(|known| known.eq_ignore_ascii_case(key)));
        unknown.take(KEYS_MAX).find_map(|key| {
            let near = words::nearest(key, words::KEYS)?;
            let renamed = renamed(config, &path, key, near)?;
            (ask(&renamed).as_deref() != Some(why)).then(|| (path.join(key.as_str()), near))
        })
    })
}

/// The same with another key, where that is not there already.
fn renamed(config: &Value, path: &Path, key: &str, other: &str) -> Option<Value> {
    let mut changed = config.clone();
    let object = blame::at_mut(&mut changed, path)?.as_object_mut()?;
    let value = object.remove(key)?;
    object.insert(other.to_owned(), value).is_none().then_some(changed)
}

/// What works, and perhaps not as it was meant.
fn surprises(config: &Value, attachment: &Attachment, ground: &Ground, reader: &mut Reader) {
    let is_list =
        config.get("plugins").is_some() && config.get("type").is_none_or(|plugin| plugin.is_null() || plugin == "");
    if is_list {
        let keys = config.as_object().into_iter().flat_map(|object| object.keys());
        for key in keys.filter(|key| !LIST_KEYS.contains(&key.as_str())) {
            let near = words::nearest(key, LIST_KEYS).map(|near| format!("\"{near}\"")).unwrap_or_default();
            let what = "a list has no such key: it is ignored";
            let instead = if near.is_empty() { "put it into the plugin that it is for".to_owned() } else { near };
            reader.tell(&Path::of("").join(key.as_str()), Level::Warning, what, instead);
        }
    }
    for (index, step) in attachment.steps.iter().enumerate() {
        let base = if is_list { Path::of("plugins").join(index) } else { Path::default() };
        executed(step, &base, ground, reader);
        unknown(attachment, index, &base, reader);
        mtu(step, &base, reader);
        device((step, attachment), config, &base, reader);
        settings(step, &base, reader);
        gateways(step, &base, reader);
    }
}

/// What is no part of plexus must be on every node.
fn executed(step: &Step, base: &Path, ground: &Ground, reader: &mut Reader) {
    let place = |plugin: &str| ground.config.bin_dir.join(plugin).display().to_string();
    let mut tell = |path: Path, plugin: &str| {
        let native = Kind::ALL.into_iter().map(Kind::name).chain(Chained::ALL.into_iter().map(Chained::name));
        let near = words::nearest(plugin, native.chain(["host-local", "static", "dhcp", "whereabouts", "ib-sriov"]));
        let what = format!("{plugin} is executed: {} must be on every node", place(plugin));
        match near {
            Some(near) => reader.tell(&path, Level::Warning, what, format!("\"{near}\", if that is meant")),
            None => reader.tell(&path, Level::Note, what, ""),
        }
    };
    match &step.how {
        How::Executed(_) if !native::builds(&step.plugin) => tell(base.join("type"), &step.plugin),
        How::Native(native) => {
            if let Ipam::Executed(ipam) = &native.ipam {
                tell(base.join("ipam").join("type"), ipam);
            }
        }
        How::Executed(_) | How::Chained(_) => {}
    }
}

/// Keys that plexus does not know, and keys for which it executes the plugin of that name.
fn unknown(attachment: &Attachment, index: usize, base: &Path, reader: &mut Reader) {
    let Some(step) = attachment.steps.get(index) else { return };
    let around = Around {
        network: &attachment.cni_name,
        version: attachment.version,
        args: &attachment.args,
        ifname: &attachment.ifname,
        state_dir: std::path::Path::new("/nowhere"),
        before: if index > 0 { Before::Awaited } else { Before::Nothing },
    };
    let read = |conf: &Map<String, Value>| native::read(&step.plugin, conf, &around);
    let keys = match read(&step.conf) {
        Ok(Verdict::Native(_, keys) | Verdict::Chained(_, keys)) => keys,
        Ok(Verdict::Executed(reason)) if native::builds(&step.plugin) => {
            let what = format!("{reason}: the plugin {} is executed, and must be on every node", step.plugin);
            reader.tell(&base.join("type"), Level::Note, what, "");
            return;
        }
        _ => return,
    };
    for path in keys.iter().take(KEYS_MAX).map(|key| Path::of(key)) {
        let what = format!(
            "plexus does not know this key of {}: the plugin of that name is executed where a node has it, else the key is ignored",
            step.plugin
        );
        let near = meant(&step.conf, &path, &read);
        let instead = near.map_or_else(|| "nothing, if no plugin needs it".to_owned(), |near| format!("\"{near}\""));
        reader.tell(&base.then(&path), Level::Warning, what, instead);
    }
}

/// Reads a plugin's configuration.
type Read<'a> = dyn Fn(&Map<String, Value>) -> Result<Verdict, CniError> + 'a;

/// The known key that an unknown one is nearly, if the plugin knows it.
fn meant(conf: &Map<String, Value>, path: &Path, read: &Read) -> Option<&'static str> {
    let key = path.last_key()?;
    let parent = Path(path.0.split_last()?.1.to_vec());
    let conf = Value::Object(conf.clone());
    words::near(key, words::KEYS).into_iter().find(|near| {
        let Some(Value::Object(conf)) = renamed(&conf, &parent, key, near) else { return false };
        match read(&conf) {
            Ok(Verdict::Native(_, keys) | Verdict::Chained(_, keys)) => !keys.contains(&parent.join(*near).to_string()),
            Ok(Verdict::Executed(_)) => false,
            // The value is another mistake, of a key that is known.
            Err(_) => true,
        }
    })
}

/// Which MTU a link can have the kernel knows; which one none can have everybody does. Some plugins pass over negative ones.
fn mtu(step: &Step, base: &Path, reader: &mut Reader) {
    let given = gojson::field(&step.conf, "mtu").and_then(Value::as_i64).filter(|mtu| *mtu != 0);
    let Some(mtu) = given.filter(|mtu| !(MTU_MIN..=MTU_MAX).contains(mtu) && native::builds(&step.plugin)) else {
        return;
    };
    let is_ignored = mtu < 0 && ["bridge", "ptp", "ipvlan"].contains(&step.plugin.as_str());
    let (level, what) = match is_ignored {
        true => (Level::Warning, format!("{} ignores the MTU {mtu}", step.plugin)),
        false => (Level::Error, format!("the kernel refuses the MTU {mtu}: no link has it")),
    };
    reader.tell(&base.join("mtu"), level, what, words::right_for("mtu"));
}

/// A device that the configuration names itself: by its address on the PCI bus, as the kernel writes it.
fn device((step, attachment): (&Step, &Attachment), config: &Value, base: &Path, reader: &mut Reader) {
    let key = match Kind::of(&step.plugin) {
        Some(Kind::Sriov) => "deviceID",
        Some(Kind::HostDevice) => "pciBusID",
        _ => return,
    };
    let path = base.join(key);
    // As it is written: a step's own may be what its pod was given.
    let Some(text) = blame::at(config, &path).and_then(Value::as_str).filter(|text| !text.is_empty()) else { return };
    let Err(why) = text.parse::<PciAddress>() else { return };
    let is_given = attachment.device.as_ref().is_some_and(|device| !device.resource.is_empty());
    if key == "deviceID" && is_given {
        let what = format!("{why}; nobody uses it: the pod gets a device of the resource that the definition names");
        reader.tell(&path, Level::Warning, what, "nothing");
    } else {
        reader.tell(&path, Level::Error, why, "the address of a device, as \"0000:01:10.0\" (`plexus list --devices`)");
    }
}

/// What a virtual function's configuration says and is taken otherwise, as sriov-cni takes it.
fn settings(step: &Step, base: &Path, reader: &mut Reader) {
    let How::Native(native) = &step.how else { return };
    let backends::Spec::Sriov(spec) = &native.spec else { return };
    for what in spec.told() {
        let key = what.split(' ').next().unwrap_or_default();
        let level = if key.starts_with("log") { Level::Note } else { Level::Warning };
        reader.tell(&base.join(key), level, what, words::right_for(key));
    }
}

/// host-local gives out any gateway; one that is in no subnet of the pod nobody reaches without more routes.
fn gateways(step: &Step, base: &Path, reader: &mut Reader) {
    let Some(ipam) = step.conf.get("ipam").filter(|_| native::ipam_type(&step.conf) == "host-local") else { return };
    let sets = ipam.get("ranges").and_then(Value::as_array).into_iter().flatten().enumerate();
    let ranges = sets.flat_map(|(set, ranges)| {
        let ranges = ranges.as_array().into_iter().flatten().enumerate();
        ranges.map(move |(index, range)| (Path::of("ipam.ranges").join(set).join(index), range))
    });
    for (path, range) in std::iter::once((Path::of("ipam"), ipam)).chain(ranges) {
        let text = |key: &str| range.as_object().and_then(|range| gojson::field(range, key)).and_then(Value::as_str);
        let (Some(subnet), Some(gateway)) = (text("subnet"), text("gateway")) else { continue };
        let (Ok(net), Ok(address)) = (subnet.parse::<IpNetwork>(), gateway.parse::<IpAddr>()) else { continue };
        if !net.contains(address) {
            let what = format!("the gateway {gateway} is not in {subnet}: pods cannot reach it by this network alone");
            reader.tell(&base.then(&path).join("gateway"), Level::Warning, what, words::right_for("gateway"));
        }
    }
}
