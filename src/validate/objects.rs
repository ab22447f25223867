//! The documents of files -> definitions, pods and templates of pods, and what is wrong with their outside.

use std::collections::BTreeMap;

use serde_json::Value;

use super::blame::at;
use super::written::{File, Written};
use super::{Finding, KEYS_MAX, Level, words};
use crate::devices::RESOURCE_NAME;
use crate::marks::{Mark, Path};
use crate::select::{DEFAULT_NETWORK, NETWORKS};
use crate::sources;

/// The definitions' group; there is one version.
const GROUP: &str = "k8s.cni.cncf.io/";
const VERSION: &str = "k8s.cni.cncf.io/v1";
const KIND: &str = "NetworkAttachmentDefinition";
/// Annotations that mean something to somebody, beside those that are read here.
const KNOWN: [&str; 6] = [
    NETWORKS,
    DEFAULT_NETWORK,
    RESOURCE_NAME,
    "k8s.v1.cni.cncf.io/network-status",
    "k8s.v1.cni.cncf.io/networks-status",
    "k8s.v1.cni.cncf.io/nodeSelector",
];
/// Where workloads have the metadata of their pods.
const TEMPLATES: [&str; 3] = ["spec.template.metadata", "spec.jobTemplate.spec.template.metadata", "template.metadata"];

/// An object of a file.
pub(super) struct Object<'a> {
    file: &'a File<'a>,
    /// Kind, namespace and name.
    pub(super) title: String,
    value: &'a Value,
    mark: &'a Mark,
}

/// A NetworkAttachmentDefinition.
pub(super) struct Definition<'a> {
    pub(super) object: Object<'a>,
    /// Namespace and name.
    pub(super) name: (String, String),
    pub(super) annotations: BTreeMap<String, String>,
    /// `spec.config`; none: there is none, or it is no text.
    pub(super) config: Option<Written<'a>>,
    /// `spec.config` is there and no text.
    pub(super) is_broken: bool,
}

/// A pod, or what pods are made from.
pub(super) struct Pod<'a> {
    pub(super) object: Object<'a>,
    pub(super) namespace: String,
    pub(super) annotations: BTreeMap<String, String>,
    metadata: Path,
}

/// Everything that was found.
#[derive(Default)]
pub(super) struct Found<'a> {
    pub(super) definitions: Vec<Definition<'a>>,
    /// By namespace and name: the first of them.
    first: BTreeMap<(String, String), usize>,
    pub(super) pods: Vec<Pod<'a>>,
}

impl<'a> Object<'a> {
    /// A finding about what is at the end of a way, or about the nearest that is there.
    pub(super) fn finding(&self, path: &Path, level: Level, what: impl Into<String>) -> Finding {
        let (key, _) = self.mark.nearest(path);
        Finding { object: self.title.clone(), key: path.to_string(), ..self.file.finding(key.start, level, what) }
    }

    /// A finding about what is inside of a text at `place`: a line and a column.
    pub(super) fn inside(&self, place: (usize, usize), key: String, level: Level, what: impl Into<String>) -> Finding {
        let (line, column) = place;
        Finding { line, column, key, ..self.finding(&Path::default(), level, what) }
    }

    /// The text at the end of a way.
    pub(super) fn written(&self, path: &Path) -> Option<Written<'a>> {
        let text = at(self.value, path)?.as_str()?;
        Some(Written::of(self.file, self.mark.at(path)?.spot, text))
    }

    fn annotations(&self, metadata: &Path) -> BTreeMap<String, String> {
        let all = at(self.value, &metadata.join("annotations")).and_then(Value::as_object);
        all.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    }
}

impl<'a> Pod<'a> {
    /// An annotation, where it stands.
    pub(super) fn annotation(&self, key: &str) -> Option<Written<'a>> {
        self.object.written(&self.metadata.join("annotations").join(key))
    }
}

/// Everything in the files; `namespace` is that of objects which name none.
pub(super) fn find<'a>(files: &'a [File<'a>], namespace: &str, findings: &mut Vec<Finding>) -> Found<'a> {
    let mut found = Found::default();
    for file in files {
        match &file.documents {
            Err((offset, why)) => {
                let finding = file.finding(*offset, Level::Error, format!("no YAML: {why}"));
                findings.push(Finding { instead: words::of_yaml(why).to_owned(), ..finding });
            }
            Ok(documents) => {
                for (value, mark) in documents {
                    for (value, mark) in items(value, mark) {
                        take(file, value, mark, namespace, &mut found, findings);
                    }
                }
            }
        }
    }
    found
}

/// The definitions as the cluster would have them.
pub(super) fn definitions(found: &[Definition]) -> BTreeMap<(String, String), sources::Definition> {
    let definition = |found: &Definition| {
        let config = found.config.as_ref().map_or("", |config| config.text).to_owned();
        (found.name.clone(), sources::Definition { annotations: found.annotations.clone(), config })
    };
    found.iter().map(definition).collect()
}

/// The objects of a `List`, or the one object.
fn items<'a>(value: &'a Value, mark: &'a Mark) -> Vec<(&'a Value, &'a Mark)> {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match (value.get("items").and_then(Value::as_array), mark.at(&Path::of("items"))) {
        (Some(values), Some(marks)) if is_list => {
            values.iter().zip(marks.below.iter().map(|(_, _, mark)| mark)).collect()
        }
        _ => vec![(value, mark)],
    }
}

fn take<'a>(
    file: &'a File<'a>,
    value: &'a Value,
    mark: &'a Mark,
    namespace: &str,
    found: &mut Found<'a>,
    findings: &mut Vec<Finding>,
) {
    let text = |path: &str| at(value, &Path::of(path)).and_then(Value::as_str).unwrap_or_default();
    let given = |text: &str, or: &str| if text.is_empty() { or.to_owned() } else { text.to_owned() };
    let (version, kind) = (text("apiVersion"), text("kind"));
    let name = given(text("metadata.name"), text("metadata.generateName"));
    let namespace = given(text("metadata.namespace"), namespace);
    let object = Object { file, title: format!("{kind} {namespace}/{name}"), value, mark };
    if kind == KIND || version.starts_with(GROUP) {
        if (kind, version) != (KIND, VERSION) {
            let key = if kind == KIND { "apiVersion" } else { "kind" };
            let finding = object.finding(&Path::of(key), Level::Error, format!("{version} {kind} is no definition"));
            findings.push(Finding { instead: format!("apiVersion: {VERSION}, kind: {KIND}"), ..finding });
            return;
        }
        if name.is_empty() {
            let what = "a definition without a name";
            findings.push(object.finding(&Path::of("metadata"), Level::Error, what));
            return;
        }
        definition(object, (namespace, name), found, findings);
        return;
    }
    let own = Path::of("metadata");
    let is_pod = (version, kind) == ("v1", "Pod");
    let template = TEMPLATES.iter().map(|path| Path::of(path)).find(|path| {
        path.0.split_last().is_some_and(|(_, before)| at(value, &Path(before.to_vec())).is_some_and(Value::is_object))
    });
    let metadata = if is_pod { Some(own.clone()) } else { template };
    let Some(metadata) = metadata else { return };
    let annotations = object.annotations(&metadata);
    if !is_pod {
        misplaced(&object, &own, &metadata, findings);
    }
    misspelt(&object, &metadata, &annotations, findings);
    found.pods.push(Pod { object, namespace, annotations, metadata });
}

/// A workload's own annotations do not come to its pods.
fn misplaced(object: &Object, own: &Path, metadata: &Path, findings: &mut Vec<Finding>) {
    for key in [NETWORKS, DEFAULT_NETWORK] {
        if object.annotations(own).contains_key(key) {
            let path = own.join("annotations").join(key);
            let what = "the annotation is the workload's own, and its pods do not get it";
            let finding = object.finding(&path, Level::Warning, what);
            findings.push(Finding { instead: format!("put it under {metadata}.annotations"), ..finding });
        }
    }
}

/// Annotations that are no texts, which the API server takes of none, and those that are nearly one that is read.
fn misspelt(object: &Object, metadata: &Path, annotations: &BTreeMap<String, String>, findings: &mut Vec<Finding>) {
    let all = at(object.value, &metadata.join("annotations")).and_then(Value::as_object);
    let odd = all.into_iter().flatten().filter(|(_, value)| !value.is_string() && !value.is_null());
    for (key, value) in odd.take(KEYS_MAX) {
        let path = metadata.join("annotations").join(key.as_str());
        let finding =
            object.finding(&path, Level::Error, format!("the annotation {key} is no text: the API server refuses it"));
        let instead = if value.is_object() || value.is_array() {
            format!("{key}: | and below it, indented, the JSON")
        } else {
            format!("{key}: \"{value}\"")
        };
        findings.push(Finding { instead, ..finding });
    }
    let others = annotations.keys().filter(|key| !KNOWN.contains(&key.as_str()));
    for (key, near) in others.filter_map(|key| Some((key, words::nearest(key, KNOWN)?))).take(KEYS_MAX) {
        let path = metadata.join("annotations").join(key.as_str());
        let finding = object.finding(&path, Level::Warning, format!("nobody reads the annotation {key}"));
        findings.push(Finding { instead: near.to_owned(), ..finding });
    }
}

fn definition<'a>(object: Object<'a>, name: (String, String), found: &mut Found<'a>, findings: &mut Vec<Finding>) {
    let path = Path::of("spec.config");
    let annotations = object.annotations(&Path::of("metadata"));
    misspelt(&object, &Path::of("metadata"), &annotations, findings);
    let given = at(object.value, &path).filter(|config| !config.is_null());
    let is_broken = given.is_some_and(|config| !config.is_string());
    if is_broken {
        let what = "spec.config is no text: a definition holds its configuration as JSON in a text";
        let finding = object.finding(&path, Level::Error, what);
        findings.push(Finding { instead: "config: | and below it, indented, the JSON".to_owned(), ..finding });
    }
    let spec = at(object.value, &Path::of("spec")).and_then(Value::as_object);
    for key in spec.into_iter().flat_map(|spec| spec.keys()).filter(|key| key.as_str() != "config").take(KEYS_MAX) {
        let what = format!("a definition's spec has no {key:?}");
        let finding = object.finding(&Path::of("spec").join(key.as_str()), Level::Warning, what);
        findings.push(Finding { instead: "config".to_owned(), ..finding });
    }
    let config = object.written(&path);
    let text = |config: &Option<Written>| config.as_ref().map_or("", |config| config.text).to_owned();
    let next = found.definitions.len();
    let first = *found.first.entry(name.clone()).or_insert(next);
    if let Some(other) = found.definitions.get(first)
        && (text(&other.config) != text(&config) || other.annotations != annotations)
    {
        let first = other.object.finding(&Path::of("metadata.name"), Level::Error, "");
        let what = format!("it is in {}:{} too, and says something else there", first.file, first.line);
        let finding = object.finding(&Path::of("metadata.name"), Level::Error, what);
        findings.push(Finding { instead: "another name, or one of the two".to_owned(), ..finding });
    }
    found.definitions.push(Definition { object, name, annotations, config, is_broken });
}
