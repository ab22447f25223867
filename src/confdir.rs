//! A directory of network configurations as a container runtime sees it: in the order of names, and of all that load the first is
//! the one (libcni's ConfFiles; containerd with its max_conf_num of 1, CRI-O without a default network).

use std::fs;
use std::path::{Path, PathBuf};

use crate::cni::list::List;
use crate::sources;

/// Where runtimes look unless they are told otherwise.
pub const DIRECTORY: &str = "/etc/cni/net.d";
/// What else is in the directory is no configuration.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// More files than any directory of configurations has.
const FILES_MAX: usize = 1000;

/// What becomes of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// Pods are attached by it.
    Chosen(Box<List>),
    /// One before it is chosen.
    Ignored(Box<List>),
    /// It does not load.
    Broken(String),
    /// Its name does not end as a configuration's.
    NotRead,
}

/// A file of the directory.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What becomes of it.
    pub fate: Fate,
}

/// Every file of the directory, sorted.
///
/// # Errors
/// The directory cannot be listed, or has more files than a thousand.
pub fn read(dir: &Path) -> Result<Vec<File>, String> {
    let entries = fs::read_dir(dir).map_err(|e| e.to_string())?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.retain(|path| !path.is_dir());
    if paths.len() > FILES_MAX {
        return Err(format!("{} files are more than {FILES_MAX}", paths.len()));
    }
    paths.sort();
    let mut chosen = false;
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let fate = match load(&path) {
            None => Fate::NotRead,
            Some(Err(why)) => Fate::Broken(why),
            Some(Ok(list)) if chosen => Fate::Ignored(Box::new(list)),
            Some(Ok(list)) => {
                chosen = true;
                Fate::Chosen(Box::new(list))
            }
        };
        files.push(File { path, fate });
    }
    Ok(files)
}

/// None where the name says that it is no configuration.
fn load(path: &Path) -> Option<Result<List, String>> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if !ENDINGS.contains(&ending) {
        return None;
    }
    let parsed = sources::read(path).and_then(|bytes| {
        let list = if ending == "conflist" { List::parse(&bytes) } else { List::from_conf(&bytes) };
        let list = list.map_err(|e| e.msg)?;
        list.require_plugins().map_err(|e| e.msg)?;
        Ok(list)
    });
    Some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_loads_is_chosen() {
        let dir = std::env::temp_dir().join(format!("plexus-confdir-{}", std::process::id()));
        fs::create_dir_all(dir.join("20-folder.conflist")).unwrap();
        for (name, text) in [
            ("00-broken.conflist", "{"),
            ("05-empty.conflist", r#"{"cniVersion":"1.0.0","name":"none","plugins":[]}"#),
            ("10-first.conflist", r#"{"cniVersion":"1.0.0","name":"first","plugins":[{"type":"bridge"}]}"#),
            ("30-second.conf", r#"{"cniVersion":"1.0.0","name":"second","type":"ptp"}"#),
            ("40-note.txt", "not one"),
        ] {
            fs::write(dir.join(name), text).unwrap();
        }
        let files = read(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let fate = |file: &File| match &file.fate {
            Fate::Chosen(list) => format!("chosen {}", list.name),
            Fate::Ignored(list) => format!("ignored {}", list.name),
            Fate::Broken(_) => "broken".to_owned(),
            Fate::NotRead => "not read".to_owned(),
        };
        let fates: Vec<String> = files.iter().map(fate).collect();
        assert_eq!(fates, ["broken", "broken", "chosen first", "ignored second", "not read"]);
        assert!(read(&dir).is_err());
    }
}
