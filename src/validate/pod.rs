//! One pod, or what pods are made from, against the definitions.

use serde_json::{Value, json};

use super::blame::{self, Mistake};
use super::ground::{self, Ground};
use super::objects::Pod;
use super::written::Written;
use super::{Finding, Level, words};
use crate::cni::gojson;
use crate::marks::{Path, Step};
use crate::select::{self, DEFAULT_NETWORK, NETWORKS, Selection};
use crate::sources;

/// Networks of one pod that are looked at one by one; more are refused as a whole.
const NETWORKS_MAX: usize = 128;
/// Keys that are read and that nobody should write: an older name, and what only the node may say.
const NOT_SUGGESTED: [&str; 2] = ["interfaceRequest", "deviceID"];

fn suggested() -> impl Iterator<Item = &'static str> {
    select::KEYS.into_iter().filter(|key| !NOT_SUGGESTED.contains(key))
}

/// One of both annotations: its value as JSON, where the short form is a list of texts.
struct Annotation<'a> {
    key: &'static str,
    written: Written<'a>,
    value: Value,
    /// Of the short form: where each network begins.
    starts: Option<Vec<usize>>,
}

/// A pod's annotations, and the findings about them.
struct Reader<'a> {
    pod: &'a Pod<'a>,
    ground: &'a Ground,
    annotations: Vec<Annotation<'a>>,
    findings: &'a mut Vec<Finding>,
}

/// Checks one.
pub(super) fn check(pod: &Pod, ground: &Ground, findings: &mut Vec<Finding>) {
    let mut reader = Reader { pod, ground, annotations: Vec::new(), findings };
    for key in [NETWORKS, DEFAULT_NETWORK] {
        if let Some(written) = pod.annotation(key)
            && let Some(annotation) = reader.read(key, written)
        {
            reader.annotations.push(annotation);
        }
    }
    let wrong: Vec<Path> = (0..reader.annotations.len()).flat_map(|index| reader.networks(index)).collect();
    reader.together(&wrong);
}

impl<'a> Annotation<'a> {
    /// The way into the document of both.
    fn path(&self) -> Path {
        Path::of("").join(self.key)
    }

    /// Where a network, or something in it, stands.
    fn place(&self, inner: &Path) -> (usize, usize) {
        match (&self.starts, inner.0.first()) {
            (None, _) => self.written.place_of(inner),
            (Some(starts), Some(Step::Index(index))) => {
                self.written.place_at(starts.get(*index).copied().unwrap_or_default())
            }
            (Some(_), _) => self.written.place_at(0),
        }
    }
}

/// An annotation's text.
fn text_of(value: &Value) -> String {
    let texts = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    // A list of nothing but texts is the short form: the other one has objects.
    texts.map_or_else(|| value.to_string(), |texts| texts.join(","))
}

impl<'a> Reader<'a> {
    fn tell(&mut self, annotation: usize, inner: &Path, level: Level, what: &str, instead: &str) {
        let Some(annotation) = self.annotations.get(annotation) else { return };
        let key = if inner.0.is_empty() { annotation.key.to_owned() } else { format!("{}: {inner}", annotation.key) };
        let what = what.strip_prefix(&format!("annotation {}: ", annotation.key)).unwrap_or(what);
        let finding = self.pod.object.inside(annotation.place(inner), key, level, what);
        self.findings.push(Finding { instead: instead.to_owned(), ..finding });
    }

    /// An annotation, or what is wrong with its JSON.
    fn read(&mut self, key: &'static str, written: Written<'a>) -> Option<Annotation<'a>> {
        let text = written.text;
        if !text.contains(['[', '{', '"']) {
            let starts = || {
                text.split(',').scan(0, |at, item| {
                    let start = *at + item.len() - item.trim_start().len();
                    *at += item.len() + 1;
                    Some(start)
                })
            };
            let items: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(',').collect() };
            return Some(Annotation { key, value: json!(items), starts: Some(starts().collect()), written });
        }
        match gojson::parse(text.as_bytes()) {
            Ok(value) => Some(Annotation { key, written, value, starts: None }),
            Err(e) => {
                let why = e.to_string();
                let place = written.place_at(gojson::place_of_error(text.as_bytes()).unwrap_or_default());
                let finding = self.pod.object.inside(place, key.to_owned(), Level::Error, format!("no JSON: {why}"));
                self.findings.push(Finding { instead: words::of_json(&why).to_owned(), ..finding });
                None
            }
        }
    }

    /// Both annotations as one value.
    fn document(&self) -> Value {
        self.annotations.iter().map(|annotation| (annotation.key.to_owned(), annotation.value.clone())).collect()
    }

    /// What an ADD would say of such annotations.
    fn ask(&self, document: &Value) -> Option<String> {
        let mut annotations = self.pod.annotations.clone();
        for key in [NETWORKS, DEFAULT_NETWORK] {
            annotations.remove(key);
            if let Some(value) = document.get(key) {
                annotations.insert(key.to_owned(), text_of(value));
            }
        }
        let pod = sources::Pod { namespace: self.pod.namespace.clone(), annotations, ..sources::Pod::default() };
        self.ground.of_pod(&pod).err().map(|refusal| ground::words_of(&refusal))
    }

    /// The networks of one annotation, each alone: the ways in the document to those with mistakes, the last one first.
    fn networks(&mut self, index: usize) -> Vec<Path> {
        let Some(annotation) = self.annotations.get(index) else { return Vec::new() };
        let (key, path) = (annotation.key, annotation.path());
        let items =
            annotation.value.as_array().filter(|items| items.len() <= NETWORKS_MAX).cloned().unwrap_or_default();
        let mut wrong = Vec::new();
        for (at, item) in items.iter().enumerate().rev() {
            let alone = json!({key: [item]});
            let (found, _) = blame::mistakes(&alone, &|value| self.ask(value), &self.ground.budget);
            if found.is_empty() {
                if let Some(selection) = self.selection(key, item) {
                    self.known(index, at, &selection);
                }
                continue;
            }
            wrong.push(path.join(at));
            for Mistake { why, path } in found {
                // The annotation's key, and the only index.
                let inner = Path(path.0.iter().skip(2).cloned().collect());
                let last = inner.last_key().unwrap_or_default().to_owned();
                self.tell(index, &Path::default().join(at).then(&inner), Level::Error, &why, &instead(&last, &why));
            }
        }
        wrong
    }

    fn selection(&self, key: &str, item: &Value) -> Option<Selection> {
        let text = text_of(&json!([item]));
        if key == DEFAULT_NETWORK {
            return select::parse_default_network(&text, &self.ground.config.multus_namespace).ok();
        }
        select::parse_networks(&text, &self.pod.namespace).ok()?.pop()
    }

    /// What is asked for may be elsewhere, or be spelt otherwise.
    fn known(&mut self, index: usize, at: usize, selection: &Selection) {
        let item = Path::default().join(at);
        if !self.ground.has(&(selection.namespace.clone(), selection.name.clone())) {
            let what = format!("no file here defines the network {}: the cluster must have it", selection.full_name());
            let other = self.ground.namesake(&selection.name);
            let instead =
                other.map(|(namespace, name)| format!("{namespace}/{name}, if that is meant")).unwrap_or_default();
            self.tell(index, &item.join("name"), Level::Warning, &what, &instead);
        }
        for key in &selection.unknown {
            // The older name of a key (network CRD standard 1.0).
            let known = if key == "gateway" { Some("default-route") } else { words::nearest(key, suggested()) };
            let near = known.map(|known| format!("\"{known}\"")).unwrap_or_default();
            self.tell(index, &item.join(key.as_str()), Level::Warning, "nobody knows this key: it is ignored", &near);
        }
    }

    /// What is wrong with all networks together, but for those that are wrong themselves.
    fn together(&mut self, wrong: &[Path]) {
        let mut document = self.document();
        wrong.iter().for_each(|path| drop(blame::remove(&mut document, path)));
        for annotation in &self.annotations {
            let left = document.get(annotation.key).and_then(Value::as_array);
            // Nothing that was meant to be asked for is left.
            if left.is_some_and(Vec::is_empty) && annotation.value.as_array().is_some_and(|all| !all.is_empty()) {
                blame::remove(&mut document, &annotation.path());
            }
        }
        let (found, _) = blame::mistakes(&document, &|value| self.ask(value), &self.ground.budget);
        for Mistake { why, path } in found {
            let path = blame::original(&path, wrong);
            let is_of = |annotation: &Annotation| path.0.first() == Some(&Step::from(annotation.key));
            let index = self.annotations.iter().position(is_of).unwrap_or_default();
            let inner = Path(path.0.iter().skip(1).cloned().collect());
            let last = inner.last_key().unwrap_or_default().to_owned();
            self.tell(index, &inner, Level::Error, &why, &instead(&last, &why));
        }
    }
}

fn instead(key: &str, why: &str) -> String {
    if why.contains("no plugin of it has the capability") {
        let capability = if key == "infiniband-guid" { "infinibandGUID" } else { key };
        return format!(
            "\"capabilities\": {{\"{capability}\": true}} in a plugin of the definition that takes it; or not this key"
        );
    }
    if why.contains("namespace isolation") {
        return "a network of the pod's own namespace, or of one that the node's globalNamespaces lists".to_owned();
    }
    let right = words::of_refusal(why);
    if right.is_empty() { words::right_for(key).to_owned() } else { right.to_owned() }
}
