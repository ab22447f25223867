//! Manifests before they are applied: what an ADD would refuse, and what it would do otherwise than was meant. Pure: texts in,
//! findings out, each with its line and column.
//!
//! Nothing here knows what a configuration may say: the parsers of ADD are asked ([`crate::gather`], [`crate::plan`]), and what is
//! to blame for their answer is found by leaving one thing out after the other (`blame`). What a node has (links, plugins,
//! addresses that are held) is not looked at.

mod blame;
mod definition;
mod ground;
mod objects;
mod pod;
mod pools;
mod words;
mod written;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::config::{Config, META_TYPES};

pub use pools::{Shared, shared_pools};

/// Findings beyond these are counted and not told.
const FINDINGS_MAX: usize = 1000;

/// Keys of one kind that are told of one object, and plugins of one list that are looked at for misspelt keys.
const KEYS_MAX: usize = 16;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// What it is called in findings.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// An ADD would fail, or pods would get what belongs to others.
    Error,
    /// It works, and may not be what was meant.
    Warning,
    /// What must be true of the nodes.
    Note,
}

impl Level {
    /// Its name.
    pub const fn word(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// How bad it is.
    pub level: Level,
    /// `Pod default/web`, or empty where the file itself is meant.
    pub object: String,
    /// Where in the object; inside a configuration or an annotation from there on: `spec.config: plugins[0].mtu`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead; empty where nobody can say.
    pub instead: String,
}

impl Finding {
    /// A file that cannot be read, so that nothing of it is checked. `place`: line and column.
    pub fn unreadable(file: String, place: (usize, usize), what: String, instead: &str) -> Finding {
        let ((line, column), level) = (place, Level::Error);
        let (object, key) = (String::new(), String::new());
        Finding { file, line, column, level, object, key, what, instead: instead.to_owned() }
    }
}

/// What is known besides the files.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's configuration.
    config: Config,
    /// Whether somebody gave it: then its confDir is the node's.
    is_given: bool,
    /// The namespace of objects that name none.
    namespace: String,
}

impl Settings {
    /// `configuration`: what the runtime sends to the node's meta-plugin, a list with it, or its daemon's; without one nothing is
    /// forbidden. `namespace`: that of objects which name none.
    ///
    /// # Errors
    /// What the meta-plugin would say of its configuration.
    pub fn of(configuration: Option<&[u8]>, namespace: &str) -> Result<Settings, CniError> {
        let refuse = |error: gojson::DecodeError| CniError::new(Code::Decode, error.to_string());
        let given = configuration.map(|bytes| gojson::parse_object(bytes, "NetConf").map_err(refuse)).transpose()?;
        let is_given = given.is_some();
        let mut object = given.map(of_list).unwrap_or_default();
        if ["clusterNetwork", "delegates"].iter().all(|key| gojson::field(&object, key).is_none()) {
            object.insert("clusterNetwork".to_owned(), "default".into());
        }
        Ok(Settings { config: Config::parse(&object)?, is_given, namespace: namespace.to_owned() })
    }
}

/// The meta-plugin's configuration in a list, or the configuration itself.
fn of_list(object: Map<String, Value>) -> Map<String, Value> {
    let plugins = object.get("plugins").and_then(Value::as_array).into_iter().flatten();
    let is_meta = |plugin: &&Map<String, Value>| {
        plugin.get("type").and_then(Value::as_str).is_some_and(|name| META_TYPES.contains(&name))
    };
    plugins.filter_map(Value::as_object).find(is_meta).cloned().unwrap_or(object)
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By file and place.
    pub findings: Vec<Finding>,
    /// How many definitions were looked at.
    pub definitions: usize,
    /// How many pods and templates of pods.
    pub pods: usize,
    /// How many findings are not in the list.
    pub untold: usize,
}

impl Report {
    /// How many of a level there are.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// The same with what was found before anything was checked.
    #[must_use]
    pub fn with(mut self, more: Vec<Finding>) -> Report {
        self.findings.extend(more);
        self.findings.sort();
        self.findings.dedup();
        self.untold += self.findings.len().saturating_sub(FINDINGS_MAX);
        self.findings.truncate(FINDINGS_MAX);
        self
    }
}

/// Checks all definitions and pods of the texts, the pods against the definitions.
pub fn check(texts: &[Text], settings: &Settings) -> Report {
    let files: Vec<written::File> = texts.iter().map(written::File::read).collect();
    let mut findings = Vec::new();
    let found = objects::find(&files, &settings.namespace, &mut findings);
    let mut ground = ground::Ground::new(&settings.config, objects::definitions(&found.definitions));
    let mut lists = Vec::new();
    for definition in &found.definitions {
        let told = definition::check(definition, &ground, settings, &mut findings);
        match told {
            Some(list) => lists.push((definition, list)),
            None => ground.distrust(&definition.name),
        }
    }
    findings.extend(pools::check(&lists));
    for pod in &found.pods {
        pod::check(pod, &ground, &mut findings);
    }
    let report = Report { definitions: found.definitions.len(), pods: found.pods.len(), ..Report::default() };
    report.with(findings)
}

#[cfg(test)]
mod tests;
