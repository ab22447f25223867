//! Pods and definitions from a directory of Kubernetes manifests; network files from confDir. Impure only by reading files.
//!
//! One broken file never hides another: it is remembered, and named where something is not found.
//! What a configuration means is not known here, but for whether it is one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cni::gojson;
use crate::cni::list::List;
use crate::yaml;

/// Bounds of a directory of manifests.
const FILES_MAX: usize = 1000;
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A pod, as far as networks go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, where the manifest has one.
    pub uid: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Pod {
    /// Whether it is the pod the runtime means: names are given out again, UIDs are not.
    ///
    /// # Errors
    /// Its UID is another; a static pod's is never compared (its API object has another).
    pub fn check_uid(&self, expected: &str) -> Result<(), SourceError> {
        let is_static = self.annotations.get("kubernetes.io/config.source").is_some_and(|source| source != "api");
        if is_static || expected.is_empty() || self.uid.is_empty() || self.uid == expected {
            return Ok(());
        }
        Err(SourceError::Uid { expected: expected.to_owned(), found: self.uid.clone() })
    }
}

/// A NetworkAttachmentDefinition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// `spec.config`: a CNI configuration as text; empty: a file in confDir has it.
    pub config: String,
}

/// Why a source could not be read, or does not have what was asked of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A file or directory.
    #[error("{act} {path}: {why}")]
    File {
        /// What was being done.
        act: &'static str,
        /// To what.
        path: String,
        /// What came of it.
        why: String,
    },
    /// Two manifests say different things of one object.
    #[error("{kind} {name} is in {first} and in {second}, and they differ")]
    Twice {
        /// Pod or definition.
        kind: &'static str,
        /// `namespace/name`.
        name: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// A definition that is nowhere.
    #[error("cannot find a network-attachment-definition ({name}) in namespace ({namespace}){hint}")]
    NoDefinition {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Files that could not be read and may have it.
        hint: String,
    },
    /// The pod has been replaced by another of the same name.
    #[error("expected pod UID {expected:?} but the cluster has {found:?}")]
    Uid {
        /// What the runtime says.
        expected: String,
        /// What the cluster says.
        found: String,
    },
    /// A pod that the cluster does not have (any more).
    #[error("pod {namespace}/{name} is not in the cluster: it was deleted, or is not there yet")]
    NoPod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The API server, or what leads to it.
    #[error("{act}: {why}")]
    Api {
        /// What was being done, to what.
        act: String,
        /// What came of it, and what to do.
        why: String,
        /// Another attempt may succeed.
        transient: bool,
    },
    /// A network that no file in confDir has.
    #[error("no network {name:?} in {dir}{hint}")]
    NoNetworkFile {
        /// Its CNI name.
        name: String,
        /// confDir.
        dir: String,
        /// Files that could not be read and may have it.
        hint: String,
    },
}

impl SourceError {
    /// Another attempt may succeed without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            SourceError::Api { transient, .. } => *transient,
            SourceError::NoPod { .. } => true,
            _ => false,
        }
    }
}

type Named<T> = BTreeMap<(String, String), (T, PathBuf)>;

/// Everything a directory of manifests says.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    pods: Named<Pod>,
    definitions: Named<Definition>,
    broken: Vec<String>,
}

impl Manifests {
    /// Reads every YAML and JSON file of `dir`, hidden ones and subdirectories left out.
    ///
    /// # Errors
    /// A directory that cannot be listed or is too large; two different objects of one name.
    pub fn load(dir: &Path) -> Result<Manifests, SourceError> {
        let mut found = Manifests::default();
        for path in manifest_files(dir)? {
            match documents(&path) {
                Ok(documents) => {
                    for document in &documents {
                        found.take(document, &path)?;
                    }
                }
                Err(why) => found.broken.push(format!("{}: {why}", path.display())),
            }
        }
        Ok(found)
    }

    /// What one text says, as if it were a file of a directory.
    ///
    /// # Errors
    /// It does not parse, or says two things of one object.
    pub fn of_text(text: &str, path: &Path) -> Result<Manifests, SourceError> {
        let error = |why| SourceError::File { act: "reading the manifest", path: path.display().to_string(), why };
        let mut found = Manifests::default();
        for document in &parse_manifests(text).map_err(error)? {
            found.take(document, path)?;
        }
        Ok(found)
    }

    /// Everything that is in either; what is here wins.
    #[must_use]
    pub fn over(mut self, mut other: Manifests) -> Manifests {
        other.pods.append(&mut self.pods);
        other.definitions.append(&mut self.definitions);
        other.broken.append(&mut self.broken);
        other
    }

    /// The first pod by namespace and name.
    pub fn first_pod(&self) -> Option<&Pod> {
        self.pods.values().next().map(|(pod, _)| pod)
    }

    fn take(&mut self, document: &Value, path: &Path) -> Result<(), SourceError> {
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("/kind").ends_with("List") {
            let items = document.get("items").and_then(Value::as_array).into_iter().flatten();
            return items
                .take(FILES_MAX)
                .filter(|item| item.get("items").is_none())
                .try_for_each(|i| self.take(i, path));
        }
        let namespace = Some(text("/metadata/namespace")).filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let key = (namespace.clone(), text("/metadata/name"));
        let annotations = document.pointer("/metadata/annotations").and_then(Value::as_object);
        let annotations =
            annotations.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())));
        let annotations = annotations.collect();
        match (text("/apiVersion").as_str(), text("/kind").as_str()) {
            ("v1", "Pod") => {
                let pod = Pod { namespace, name: key.1.clone(), uid: text("/metadata/uid"), annotations };
                insert(&mut self.pods, "pod", key, pod, path)
            }
            ("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition") => {
                let definition = Definition { annotations, config: text("/spec/config") };
                insert(&mut self.definitions, "definition", key, definition, path)
            }
            _ => Ok(()),
        }
    }

    /// The pod, where a manifest has it.
    ///
    /// # Errors
    /// As [`Pod::check_uid`].
    pub fn pod(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<&Pod>, SourceError> {
        let Some((pod, _)) = self.pods.get(&(namespace.to_owned(), name.to_owned())) else { return Ok(None) };
        pod.check_uid(uid).map(|()| Some(pod))
    }

    /// All definitions, by namespace and name.
    pub fn definitions(&self) -> impl Iterator<Item = (&(String, String), &Definition)> {
        self.definitions.iter().map(|(name, (definition, _))| (name, definition))
    }

    /// The definition.
    ///
    /// # Errors
    /// No manifest has it.
    pub fn definition(&self, namespace: &str, name: &str) -> Result<&Definition, SourceError> {
        let found = self.definitions.get(&(namespace.to_owned(), name.to_owned())).map(|(definition, _)| definition);
        found.ok_or_else(|| SourceError::NoDefinition {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            hint: hint(&self.broken),
        })
    }
}

/// The manifests of a directory, sorted; hidden files and subdirectories left out.
///
/// # Errors
/// A directory that cannot be listed, or has too many.
pub fn manifest_files(dir: &Path) -> Result<Vec<PathBuf>, SourceError> {
    files(dir, &["yaml", "yml", "json"], "listing the manifests")
}

/// What cannot be read may be what was looked for.
fn hint(broken: &[String]) -> String {
    match broken.first() {
        None => String::new(),
        Some(first) => format!("; {} file(s) cannot be used, the first: {first}", broken.len()),
    }
}

fn insert<T: PartialEq>(
    into: &mut Named<T>,
    kind: &'static str,
    key: (String, String),
    value: T,
    path: &Path,
) -> Result<(), SourceError> {
    match into.get(&key) {
        Some((other, first)) if *other != value => Err(SourceError::Twice {
            kind,
            name: format!("{}/{}", key.0, key.1),
            first: first.display().to_string(),
            second: path.display().to_string(),
        }),
        _ => {
            into.insert(key, (value, path.to_owned()));
            Ok(())
        }
    }
}

/// The files of a directory with one of these endings, sorted, hidden ones left out.
fn files(dir: &Path, endings: &[&str], act: &'static str) -> Result<Vec<PathBuf>, SourceError> {
    let error = |why: String| SourceError::File { act, path: dir.display().to_string(), why };
    let entries = fs::read_dir(dir).map_err(|e| error(e.to_string()))?;
    let wanted = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(".");
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        !name.starts_with('.') && endings.contains(&ending)
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(wanted).collect();
    if paths.len() > FILES_MAX {
        return Err(error(format!("{} files are more than {FILES_MAX}", paths.len())));
    }
    paths.sort();
    Ok(paths)
}

/// A whole regular file, bounded. Symbolic links are followed: that is how ConfigMaps are mounted. Nothing that is no file can
/// make the opening wait.
///
/// # Errors
/// In one line, without the path.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(|e| e.to_string())?;
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("not a regular file".to_owned());
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(format!("{} bytes are more than {FILE_BYTES_MAX}", meta.len()));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn documents(path: &Path) -> Result<Vec<Value>, String> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|e| e.to_string())?;
    parse_manifests(text)
}

/// The documents of a manifest file, YAML or JSON.
///
/// # Errors
/// The parser's, in one line.
pub fn parse_manifests(text: &str) -> Result<Vec<Value>, String> {
    if text.trim_start().starts_with('{')
        && let Ok(one) = serde_json::from_str(text)
    {
        return Ok(vec![one]);
    }
    yaml::documents(text)
}

/// The bytes of a network's configuration, and those of the `.conf` files that continue its list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFile {
    /// Where it was found.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A network's file, where it can be used: one of a list without plugins is, if files of its folder continue it.
fn usable(path: PathBuf) -> Result<(NetworkFile, String), String> {
    let place = |e: String| format!("{}: {e}", path.display());
    let bytes = read(&path).map_err(place)?;
    // Which line and column it is that is no JSON.
    gojson::read::<Map<String, Value>>(&bytes).map_err(|e| place(e.to_string()))?;
    let list = List::parse_either(&bytes).map_err(|e| place(e.msg))?;
    let goes_on = || !list.load_only_inlined && chain_files(&path, &list.name).is_ok_and(|files| !files.is_empty());
    if list.plugins.is_empty() && !goes_on() {
        list.require_plugins().map_err(|e| place(e.msg))?;
    }
    Ok((NetworkFile { path, bytes }, list.name))
}

/// A network by its CNI name in confDir. Lists come before single configurations (network CRD standard 3.4.1).
///
/// # Errors
/// No file that can be used has that name.
pub fn network_by_name(conf_dir: &Path, name: &str) -> Result<NetworkFile, SourceError> {
    let mut broken = Vec::new();
    for endings in [&["conflist", "configlist"][..], &["conf", "config", "json"][..]] {
        let paths = files(conf_dir, endings, "listing the network files").unwrap_or_default();
        for path in paths {
            match usable(path) {
                Ok((file, found)) if found == name => return Ok(file),
                Ok(_) => {}
                Err(why) => broken.push(why),
            }
        }
    }
    Err(SourceError::NoNetworkFile { name: name.to_owned(), dir: conf_dir.display().to_string(), hint: hint(&broken) })
}

/// A network by path: a file, or a directory whose first network file that can be used is taken (Multus' clusterNetwork).
///
/// # Errors
/// There is none.
pub fn network_at(path: &Path) -> Result<NetworkFile, SourceError> {
    let error = |why: String| SourceError::File { act: "reading the network", path: path.display().to_string(), why };
    if path.is_dir() {
        let all = files(path, &["conf", "json", "conflist"], "listing the network files")?;
        let mut broken = Vec::new();
        for path in all {
            match usable(path) {
                Ok((file, _)) => return Ok(file),
                Err(why) => broken.push(why),
            }
        }
        return Err(error(format!("no network file{}", hint(&broken))));
    }
    read(path).map(|bytes| NetworkFile { path: path.to_owned(), bytes }).map_err(error)
}

/// The `.conf` files of `<folder of the list>/<name>/`, which continue a list (libcni).
///
/// # Errors
/// One cannot be read.
pub fn chain_files(list: &Path, name: &str) -> Result<Vec<NetworkFile>, SourceError> {
    let Some(folder) = list.parent().map(|folder| folder.join(name)) else { return Ok(Vec::new()) };
    match fs::metadata(&folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Ok(meta) if !meta.is_dir() => return Ok(Vec::new()),
        _ => {}
    }
    let one = |path: PathBuf| {
        let bytes = read(&path).map_err(|why| SourceError::File {
            act: "reading the plugin",
            path: path.display().to_string(),
            why,
        })?;
        Ok(NetworkFile { path, bytes })
    };
    files(&folder, &["conf"], "listing the list's plugins")?.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("plexus-sources-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        for (file, text) in files {
            fs::write(dir.join(file), text).unwrap();
        }
        dir
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  uid: u1\n  annotations:\n    a: 'b'\n";

    #[test]
    fn documents_lists_and_json_are_read_and_the_rest_is_ignored() {
        let list = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"k8s.cni.cncf.io/v1","kind":"NetworkAttachmentDefinition","metadata":{"name":"n","namespace":"x"},"spec":{"config":"{}"}}]}"#;
        let text = format!("# one\n{POD}---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\n---\n");
        let dir = folder("read", &[("a.yaml", &text), ("b.json", list), (".hidden.yaml", "]"), ("notes.txt", "]")]);
        let found = Manifests::load(&dir).unwrap();
        assert_eq!(found.pod("default", "p", "u1").unwrap().unwrap().annotations["a"], "b");
        assert_eq!(found.definition("x", "n").unwrap().config, "{}");
        assert_eq!(found.pod("default", "other", "").unwrap(), None);
    }

    #[test]
    fn a_pod_of_another_uid_is_another_pod() {
        let dir = folder("uid", &[("a.yaml", POD)]);
        let found = Manifests::load(&dir).unwrap();
        let text = found.pod("default", "p", "u2").unwrap_err().to_string();
        assert!(text.contains("expected pod UID \"u2\""), "{text}");
        assert!(found.pod("default", "p", "").unwrap().is_some(), "a runtime that does not say the UID");
    }

    #[test]
    fn a_broken_file_hides_nothing_and_is_named_when_something_is_missing() {
        let dir = folder("broken", &[("a.yaml", "a: [}"), ("b.yaml", POD), ("c.yaml", "\u{1}")]);
        let found = Manifests::load(&dir).unwrap();
        assert!(found.pod("default", "p", "").unwrap().is_some());
        let text = found.definition("default", "n").unwrap_err().to_string();
        assert!(text.contains("cannot find a network-attachment-definition (n) in namespace (default)"), "{text}");
        assert!(text.contains("2 file(s)") && text.contains("a.yaml"), "{text}");
    }

    #[test]
    fn two_files_must_not_differ_about_one_object() {
        let other = POD.replace("'b'", "'c'");
        let dir = folder("twice", &[("a.yaml", POD), ("b.yaml", POD)]);
        assert!(Manifests::load(&dir).is_ok());
        fs::write(dir.join("b.yaml"), other).unwrap();
        assert!(Manifests::load(&dir).unwrap_err().to_string().contains("they differ"));
    }

    #[test]
    fn hostile_yaml_ends_in_an_error() {
        let bomb: String = std::iter::once("a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned())
            .chain((b'b'..=b'i').map(|c| {
                let (name, before) = (char::from(c), char::from(c - 1));
                format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(","))
            }))
            .collect();
        for text in [
            bomb.as_str(),
            &"[".repeat(100_000),
            &"{a: ".repeat(50_000),
            "%YAML 9\n---\n!!x {",
            "? ? ? ?",
            "- - - : : :",
        ] {
            let _ = parse_manifests(text); // an end and no panic is all that is asked
        }
        assert!(parse_manifests(&bomb).is_err(), "a document of 9^9 nodes is refused");
    }

    #[test]
    fn a_network_is_found_by_name_past_broken_files_and_lists_come_first() {
        let dir = folder(
            "conf",
            &[
                ("00.conf", "{"),
                ("10.conf", r#"{"name":"n","type":"a"}"#),
                ("15.conflist", r#"{"name":"n"}"#),
                ("20.conflist", r#"{"name":"n","plugins":[{"type":"a"}]}"#),
            ],
        );
        assert!(network_by_name(&dir, "n").unwrap().path.ends_with("20.conflist"));
        let text = network_by_name(&dir, "m").unwrap_err().to_string();
        assert!(text.contains("2 file(s) cannot be used, the first") && text.contains("15.conflist"), "{text}");
        assert!(network_at(&dir).unwrap().path.ends_with("10.conf"), "a directory: the first that can be used");
        assert!(network_at(&dir.join("none.conf")).is_err());
        fs::create_dir_all(dir.join("n")).unwrap();
        fs::write(dir.join("n/b.conf"), "{}").unwrap();
        fs::write(dir.join("n/a.conf"), "{}").unwrap();
        let chain: Vec<_> = chain_files(&dir.join("20.conflist"), "n").unwrap();
        assert_eq!(chain.len(), 2);
        assert!(chain[0].path.ends_with("a.conf"));
        assert!(network_by_name(&dir, "n").unwrap().path.ends_with("15.conflist"), "its folder continues it");
    }
}
