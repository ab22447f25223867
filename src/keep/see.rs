//! What is there now, and how long it has been so. It decides nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Found, Keep, Seen, primary};
use crate::cni::gojson;
use crate::cni::list::{List, PluginConf};
use crate::confdir::{self, Fate};
use crate::config::daemon::Origin;
use crate::sources;

/// A file's state, as far as it can change while somebody writes it: device, inode, length, and when it was changed last.
type Stamp = (u64, u64, u64, i64, i64);

/// Since when files are as they are.
#[derive(Debug, Default)]
pub(super) struct Ages {
    since: BTreeMap<PathBuf, (Stamp, Instant)>,
    gone: Option<Instant>,
}

/// Looks. What of the last file is known, the caller adds.
///
/// # Errors
/// A sentence: a folder cannot be listed.
pub(super) fn look(conf: &Keep, ages: &mut Ages, mut seen: Seen, now: Instant) -> Result<Seen, String> {
    let files = confdir::read(&conf.dir).map_err(|why| format!("{}: {why}", conf.dir.display()))?;
    // The folder of the networks alone may be gone: that is no reason not to put plexus' file back.
    let networks =
        if conf.networks == conf.dir { files.clone() } else { confdir::read(&conf.networks).unwrap_or_default() };
    seen.networks = networks.into_iter().map(|file| whole(found(file))).collect();
    seen.files = files.into_iter().map(found).collect();
    ages.note(&mut seen, now);
    if let Origin::File(path) = &conf.origin {
        let parse = |bytes: Vec<u8>| gojson::parse_object(&bytes, "NetConf").map_err(|e| e.to_string());
        seen.given = Some(sources::read(path).and_then(parse));
    }
    Ok(seen)
}

fn found(file: confdir::File) -> Found {
    Found { path: file.path, fate: file.fate, unchanged: Duration::ZERO }
}

/// A network with the plugins of its folder (libcni); one that was put aside, as if it were not.
fn whole(mut file: Found) -> Found {
    if file.is_aside() {
        let parse = |bytes: Vec<u8>| List::parse_either(&bytes).map_err(|e| e.msg);
        match sources::read(&file.path).and_then(parse) {
            Ok(list) => file.fate = Fate::Ignored(Box::new(list)),
            Err(_) => return file,
        }
    }
    if let Fate::Chosen(list) | Fate::Ignored(list) = &mut file.fate
        && let Err(why) = append(list, &file.path)
    {
        file.fate = Fate::Broken(why);
    }
    file
}

fn append(list: &mut List, path: &Path) -> Result<(), String> {
    if list.load_only_inlined || crate::cni::names::validate_network_name(&list.name).is_err() {
        return Ok(());
    }
    for more in sources::chain_files(path, &list.name).map_err(|e| e.to_string())? {
        list.plugins.push(PluginConf::parse(&more.bytes).map_err(|e| format!("{}: {}", more.path.display(), e.msg))?);
    }
    Ok(())
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    Ok((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

impl Ages {
    fn note(&mut self, seen: &mut Seen, now: Instant) {
        let mut since = BTreeMap::new();
        for file in seen.networks.iter_mut().filter(|file| matches!(file.fate, Fate::Broken(_))) {
            let Ok(stamp) = stamp(&file.path) else { continue };
            let known = self.since.get(&file.path).filter(|(known, _)| *known == stamp).map(|(_, at)| *at);
            let at = known.unwrap_or(now);
            file.unchanged = now.saturating_duration_since(at);
            since.insert(file.path.clone(), (stamp, at));
        }
        self.since = since;
        let source = seen.last.as_ref().and_then(|last| last.source.as_ref());
        let is_gone = source.is_some_and(|source| !primary::is_there(&seen.networks, source));
        self.gone = is_gone.then(|| self.gone.unwrap_or(now));
        seen.gone = self.gone.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
    }
}
