//! The runtime's configurations, which of them it takes, and how full the pools of all of them are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use backends::Before;
use plexus::cluster::Cluster;
use plexus::cni::list::{Injection, List, PluginConf};
use plexus::confdir::{self, Fate, File};
use plexus::config::{Config, NativePolicy};
use plexus::native::{self, Around, Ipam, Verdict};
use plexus::validate::{self, Shared};
use plexus::{gather, readiness, survey};

use super::{Finding, State, Surroundings};
use crate::cli::oneshot;

/// How many files of the runtime's directory get a row, and how many definitions.
const FILES_SHOWN_MAX: usize = 10;
/// A pool that is this full will soon be: parts of a hundred.
const NEARLY_FULL_PERCENT: u128 = 90;

/// Also notes in `around` where these networks keep leases and which bridges they use.
pub(super) fn findings(around: &mut Surroundings) -> Vec<Finding> {
    let what = around.conf_dir.display().to_string();
    let files = match confdir::read(&around.conf_dir) {
        Ok(files) => files,
        Err(why) => {
            let text = format!("cannot be listed: {why}; the runtime attaches no pod");
            return vec![Finding::new("net.d", what, State::Wrong, text)];
        }
    };
    let mut findings: Vec<Finding> = Vec::new();
    let mut lists: Vec<List> = Vec::new();
    let chosen = files.iter().position(|file| matches!(file.fate, Fate::Chosen(_)));
    let rows = files.iter().enumerate();
    let rows =
        rows.map(|(index, file)| file_finding(file, chosen.is_none_or(|chosen| index < chosen), &around.bin_dir));
    findings.extend(on_one_screen(rows.collect()));
    lists.extend(files.iter().filter_map(|file| match &file.fate {
        Fate::Chosen(list) | Fate::Ignored(list) => Some((**list).clone()),
        _ => None,
    }));
    if chosen.is_none() {
        let text = "no network configuration loads: the runtime attaches no pod, and the node is not ready";
        findings.push(Finding::new("net.d", what, State::Wrong, text));
    }
    let own = |list: &List| Used {
        list: list.clone(),
        path: vec![around.bin_dir.clone()],
        native: NativePolicy::Auto,
        is_delegate: false,
    };
    let mut used: Vec<Used> = lists.iter().take(usize::from(chosen.is_some())).map(own).collect();
    for plugin in lists.iter().flat_map(|list| &list.plugins).filter(|plugin| is_meta(plugin)) {
        let config = match Config::parse(&plugin.object) {
            Ok(config) => config,
            Err(e) => {
                findings.push(Finding::new(
                    "net.d",
                    format!("{}'s configuration", plugin.plugin_type),
                    State::Wrong,
                    e.msg,
                ));
                continue;
            }
        };
        let mut known = oneshot::open(&config);
        findings.extend(known.as_mut().ok().map(|known| shared_pools(&config, &mut **known)).into_iter().flatten());
        match known.and_then(|mut known| gather::default_lists(&config, &mut *known)) {
            Ok(more) => used.extend(more.into_iter().map(|list| Used::delegate(list, &config, &around.bin_dir))),
            Err(e) => findings.push(Finding::new("net.d", "default networks", State::Wrong, e.msg)),
        }
        findings.extend(
            config
                .unknown
                .iter()
                .map(|key| Finding::new("net.d", format!("key {key}"), State::Note, "nobody knows it: it is ignored")),
        );
    }
    findings.extend(used.iter().flat_map(|used| unready(used, around)));
    lists.extend(used.into_iter().map(|used| used.list));
    let mut seen = BTreeSet::new();
    for list in &lists {
        for plugin in &list.plugins {
            around.places.bridges.extend(survey::bridge_of(&plugin.plugin_type, &plugin.object));
            findings.extend(pool(list, plugin, around, &mut seen));
        }
    }
    findings
}

/// Definitions that share a pool of addresses, and should not.
fn shared_pools(config: &Config, known: &mut dyn Cluster) -> Vec<Finding> {
    const WHAT: &str = "definitions";
    let definitions = match known.definitions() {
        Ok(definitions) => definitions,
        Err(e) => return vec![Finding::new("pool", WHAT, State::Note, format!("not looked at: {e}"))],
    };
    let name = |index: usize| {
        definitions.get(index).map_or_else(String::new, |((namespace, name), _)| format!("{namespace}/{name}"))
    };
    let shared = validate::shared_pools(config, &definitions);
    let more = shared.len().saturating_sub(FILES_SHOWN_MAX);
    let more = (more > 0).then(|| {
        let text = "`plexus validate` with the definitions in files tells them all";
        Finding::new("pool", format!("{more} more definitions"), State::Wrong, text)
    });
    let finding = |shared: Shared| {
        let what = format!("definition {}", name(shared.index));
        let detail = format!("it shares with {} {}", name(shared.first), shared.what);
        Finding::new("pool", what, State::Wrong, detail)
            .mended_by("give definitions of other ranges or lower devices names of their own (`name` in spec.config)")
    };
    shared.into_iter().map(finding).take(FILES_SHOWN_MAX).chain(more).collect()
}

/// Whether a plugin is a meta-plugin, this one or the one in whose place it is.
fn is_meta(plugin: &PluginConf) -> bool {
    let keys = ["delegates", "clusterNetwork"].iter().any(|key| plugin.object.contains_key(*key));
    keys || ["plexus", "multus"].iter().any(|name| plugin.plugin_type.starts_with(name))
}

/// A network that is used.
struct Used {
    list: List,
    /// Where its plugins are searched.
    path: Vec<PathBuf>,
    /// Which of them are built in process.
    native: NativePolicy,
    /// The meta-plugin's; the runtime's own plugins are looked for with its file.
    is_delegate: bool,
}

impl Used {
    fn delegate(list: List, config: &Config, bin_dir: &PathBuf) -> Used {
        let path = config.search_path(std::slice::from_ref(bin_dir));
        Used { list, path, native: config.native.clone(), is_delegate: true }
    }
}

/// Whether each plugin of a network that is used could serve an ADD.
fn unready(used: &Used, around: &Surroundings) -> Vec<Finding> {
    let Used { list, path, native, is_delegate } = used;
    let is_missing = |plugin: &str| *is_delegate && readiness::installed(plugin, path).is_err();
    let places = || path.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
    let wrong = |plugin: &PluginConf, text: String| {
        Finding::new("net.d", format!("network {}: {}", list.name, plugin.plugin_type), State::Wrong, text)
    };
    let mut findings = Vec::new();
    for (index, plugin) in list.plugins.iter().enumerate().filter(|(_, plugin)| !is_meta(plugin)) {
        let conf = list.inject(plugin, &Injection::default()).object;
        let before = if index > 0 { Before::Awaited } else { Before::Nothing };
        let state_dir = &around.places.state_dir;
        let surroundings =
            Around { network: &list.name, version: list.cni_version, args: "", ifname: "", state_dir, before };
        if *is_delegate && !native.allows(&plugin.plugin_type) {
            let missing = readiness::installed(&plugin.plugin_type, path).err();
            findings.extend(missing.map(|e| wrong(plugin, format!("the configuration says `native`, and {}", e.msg))));
            continue;
        }
        match native::read(&plugin.plugin_type, &conf, &surroundings) {
            Err(e) => findings.push(wrong(plugin, e.msg)),
            Ok(Verdict::Native(native, _)) => {
                findings.extend(readiness::kernel(&native).err().map(|e| wrong(plugin, e.msg)));
                if let Ipam::Executed(name) = &native.ipam {
                    findings.extend(readiness::installed(name, path).err().map(|e| wrong(plugin, e.msg)));
                }
            }
            Ok(Verdict::Chained(..)) => {}
            Ok(Verdict::Executed(why)) if is_missing(&plugin.plugin_type) => {
                findings.push(wrong(plugin, format!("{why}, and there is no plugin of that name in {}", places())));
            }
            Ok(Verdict::Executed(_)) => {}
        }
    }
    findings
}

/// The first files, and how many more there are: as bad as the worst of them.
fn on_one_screen(mut rows: Vec<Finding>) -> Vec<Finding> {
    let more = rows.split_off(rows.len().min(FILES_SHOWN_MAX));
    if let Some(worst) = more.iter().map(|row| row.state).max() {
        let text = "`plexus doctor` reads them too; the first that loads is used";
        rows.push(Finding::new("net.d", format!("and {} more", more.len()), worst, text));
    }
    rows
}

fn file_finding(file: &File, before_chosen: bool, bin_dir: &Path) -> Finding {
    let what = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let named = |list: &List| {
        let types: Vec<&str> = list.plugins.iter().map(|plugin| plugin.plugin_type.as_str()).collect();
        format!("network {}: {}", list.name, types.join(", "))
    };
    match &file.fate {
        Fate::Chosen(list) => {
            let mut types = list.plugins.iter().map(|plugin| plugin.plugin_type.as_str());
            match types.find(|name| !bin_dir.join(name).exists()) {
                None => Finding::new("net.d", what, State::Ok, format!("used; {}", named(list))),
                Some(plugin) => {
                    let text = format!("used, but there is no plugin {plugin} in {}", bin_dir.display());
                    Finding::new("net.d", what, State::Wrong, text)
                        .mended_by(format!("install {plugin}, or name it otherwise"))
                }
            }
        }
        Fate::Ignored(list) => {
            Finding::new("net.d", what, State::Note, format!("ignored, one before it is used; {}", named(list)))
        }
        Fate::NotRead => Finding::new("net.d", what, State::Ok, "not read: it ends in none of .conf .conflist .json"),
        Fate::Broken(why) if before_chosen => {
            let text = format!("does not load: {why}; containerd uses nothing after it, CRI-O passes over it");
            Finding::new("net.d", what, State::Wrong, text).mended_by(format!("mend or remove {}", file.path.display()))
        }
        Fate::Broken(why) => Finding::new("net.d", what, State::Note, format!("does not load, and is not used: {why}")),
    }
}

/// How full the pool of a plugin's configuration is, once for each directory.
fn pool(list: &List, plugin: &PluginConf, around: &mut Surroundings, seen: &mut BTreeSet<PathBuf>) -> Vec<Finding> {
    let conf = list.inject(plugin, &Injection::default()).object;
    if native::ipam_type(&conf) != "host-local" {
        return Vec::new();
    }
    let state_dir = around.places.state_dir.clone();
    let surroundings = Around {
        network: &list.name,
        version: list.cni_version,
        args: "",
        ifname: "",
        state_dir: &state_dir,
        before: Before::Nothing,
    };
    let pool = match native::host_local(&conf, &surroundings) {
        Ok((pool, _)) => pool,
        Err(e) => return vec![Finding::new("pool", &list.name, State::Wrong, e.msg)],
    };
    if !seen.insert(pool.directory().to_owned()) {
        return Vec::new();
    }
    around.places.data_dirs.extend(pool.directory().parent().map(Path::to_owned));
    match pool.usage() {
        Err(e) => vec![Finding::new("pool", &list.name, State::Note, native::from_ipam(e).msg)],
        Ok(usage) => usage.sets.iter().map(|set| fullness(&list.name, &set.ranges, set.used, set.total)).collect(),
    }
}

fn fullness(network: &str, ranges: &str, used: u128, total: u128) -> Finding {
    let state = if used >= total {
        State::Wrong
    } else if used.saturating_mul(100) >= total.saturating_mul(NEARLY_FULL_PERCENT) {
        State::Note
    } else {
        State::Ok
    };
    let text = format!("{used} of {total} addresses are held");
    let finding = Finding::new("pool", format!("{network} {ranges}"), state, text);
    let remedy = format!("give network {network} more addresses, or release what is held by nobody");
    if state == State::Wrong { finding.mended_by(remedy) } else { finding }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_is_wrong_and_a_nearly_full_one_is_to_be_known() {
        let state = |used, total| fullness("n", "10.0.0.2-10.0.0.11", used, total).state;
        assert_eq!(
            [state(0, 10), state(8, 10), state(9, 10), state(10, 10)],
            [State::Ok, State::Ok, State::Note, State::Wrong]
        );
        assert_eq!(state(1, u128::MAX), State::Ok);
    }
}
