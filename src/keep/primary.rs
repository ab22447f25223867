//! Which file is the default network's. Pure. It knows nothing of what is made of it.

use std::path::{Path, PathBuf};

use super::{ASIDE, Found, GONE_GRACE, Keep, SETTLED, Seen, Source};
use crate::cni::list::List;
use crate::confdir::Fate;
use crate::install::{self, compose};

/// What was found.
pub(super) struct Primary<'a> {
    /// The file.
    pub(super) path: &'a Path,
    /// The network.
    pub(super) list: &'a List,
}

/// What was found, or why nothing is to be changed now; and what a person should know.
pub(super) fn choose<'a>(seen: &'a Seen, conf: &Keep, says: &mut Vec<String>) -> Result<Primary<'a>, String> {
    let all: Vec<&Found> = seen.networks.iter().filter(|file| is_candidate(file)).collect();
    let found = match &conf.primary {
        Some(name) => named(&conf.networks.join(name), &all, seen, says),
        None => first(&all, seen, conf, says),
    }?;
    let list = found.list().ok_or_else(|| format!("{} is no network", found.path.display()))?;
    Ok(Primary { path: &found.path, list })
}

/// Neither plexus' nor Multus' own, nor what a runtime's package brings for the loopback interface.
fn is_candidate(file: &Found) -> bool {
    let name = file.path.file_name().unwrap_or_default().as_encoded_bytes();
    let is_own = install::is_ours(&file.path) || name.starts_with(b"00-multus") || compose::is_meta(&file.fate);
    let is_loopback =
        file.list().is_some_and(|list| list.plugins.iter().all(|plugin| plugin.plugin_type == "loopback"));
    file.fate != Fate::NotRead && !is_own && !is_loopback
}

fn half(file: &Found) -> Option<String> {
    match &file.fate {
        Fate::Broken(why) => Some(format!("{} cannot be read, it may be half written: {why}", file.path.display())),
        _ => None,
    }
}

/// The one that `multusMasterCNI` names, wherever it went.
fn named<'a>(path: &Path, all: &[&'a Found], seen: &Seen, says: &mut Vec<String>) -> Result<&'a Found, String> {
    let place = path.display();
    if let Some(file) = all.iter().find(|file| file.path == path) {
        return half(file).map_or(Ok(*file), Err);
    }
    let loading = || all.iter().filter(|file| !file.is_aside() && file.list().is_some());
    let is_form = |file: &&&Found| file.path.file_stem() == path.file_stem();
    let network = seen.last.as_ref().and_then(|last| last.source.as_ref());
    let is_same = |file: &&&Found| network.is_some_and(|source| is_network(file, source));
    let aside = ASIDE.iter().map(|suffix| with(path, suffix));
    let aside = || aside.clone().find_map(|path| all.iter().find(|file| file.path == path && file.list().is_some()));
    let found = loading().find(is_form).or_else(|| loading().find(is_same)).or_else(aside);
    let found = found.ok_or_else(|| format!("{place}, the default network's file, is not there"))?;
    says.push(format!("{place}, the default network's file, is not there: {} is taken for it", found.path.display()));
    Ok(found)
}

/// The first that loads, unless a file is being written before it or another is being replaced.
fn first<'a>(all: &[&'a Found], seen: &Seen, conf: &Keep, says: &mut Vec<String>) -> Result<&'a Found, String> {
    let all: Vec<&Found> = all.iter().copied().filter(|file| !file.is_aside()).collect();
    let source = seen.last.as_ref().and_then(|last| last.source.as_ref());
    let is_current = |file: &&&Found| source.is_some_and(|source| is_of(file, source));
    let first = all.iter().find(|file| file.list().is_some()).copied();
    let before = all.iter().take_while(|file| first.is_none_or(|first| file.path < first.path));
    for file in before {
        let Some(why) = half(file) else { continue };
        if file.unchanged >= SETTLED && !is_current(&file) {
            says.push(format!("{why}; it is passed over"));
            continue;
        }
        let current = all.iter().filter(is_current).find(|file| file.list().is_some());
        let current = current.ok_or_else(|| why.clone())?;
        says.push(why);
        return Ok(current);
    }
    let Some(first) = first else { return Err(format!("no network is in {}", conf.networks.display())) };
    let (Some(source), false) = (source, all.iter().any(|file| is_current(&file) && file.list().is_some())) else {
        return Ok(first);
    };
    if let Some(why) = all.iter().filter(is_current).find_map(|file| half(file)) {
        // What sorts before it is whole, and a runtime would take that.
        return if source.path.as_deref().is_some_and(|path| first.path < *path) { Ok(first) } else { Err(why) };
    }
    let is_followed = source.path.as_deref().is_some_and(|path| {
        let is_aside = ASIDE.iter().any(|suffix| seen.networks.iter().any(|file| file.path == with(path, suffix)));
        is_aside || first.path < *path
    });
    if is_followed || seen.gone >= GONE_GRACE {
        return Ok(first);
    }
    let grace = GONE_GRACE.as_secs();
    Err(format!("network {:?} is gone: {} is taken in {grace} s if it stays so", source.network, first.path.display()))
}

/// Where its path is not known, it may be any that cannot be read now.
fn is_of(file: &Found, source: &Source) -> bool {
    let is_path = source.path.as_deref().map_or(half(file).is_some(), |path| *path == file.path);
    is_path || is_network(file, source)
}

fn is_network(file: &Found, source: &Source) -> bool {
    !source.network.is_empty() && file.list().is_some_and(|list| list.name == source.network)
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether what plexus' file was made of is there, in whatever state: where it is not, the time runs that it is gone.
pub(super) fn is_there(networks: &[Found], source: &Source) -> bool {
    networks.iter().filter(|file| is_candidate(file) && !file.is_aside()).any(|file| is_of(file, source))
}

/// The name of a default network's file that was put aside, where no other is there.
pub(super) fn put_aside(networks: &[Found]) -> Option<String> {
    let all = || networks.iter().filter(|file| is_candidate(file) && file.list().is_some());
    if all().any(|file| !file.is_aside()) {
        return None;
    }
    let name = |file: &Found| {
        let name = file.path.file_name()?.to_str()?;
        ASIDE.iter().find_map(|suffix| name.strip_suffix(suffix)).map(str::to_owned)
    };
    all().find_map(name)
}
