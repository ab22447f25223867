//! A node's configuration, definitions, a pod and what happens to them, as values. It does not know who plays it.

use serde_json::{Value, json};

use super::play::Stage;

/// Namespace, name, configuration, and annotations.
pub(crate) type Definition = (&'static str, &'static str, String, Vec<(&'static str, &'static str)>);

/// Stands for the Kubernetes namespace of the pod, and for another one, in every text of a scene.
pub(crate) const OWN: &str = "{own}";
pub(crate) const OTHER: &str = "{other}";

/// One scene: ADD, what happens then, DEL, DEL.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// Keys of the node's configuration beside those that every scene has; null removes one.
    pub(crate) node: Value,
    /// Namespace, name, `spec.config` (empty: none), annotations.
    pub(crate) definitions: Vec<Definition>,
    pub(crate) annotations: Vec<(&'static str, &'static str)>,
    /// What the runtime sends as `runtimeConfig`.
    pub(crate) runtime: Value,
    pub(crate) before: fn(&Stage),
    pub(crate) between: fn(&Stage),
    /// The thick one cannot be configured so, or does otherwise in what is nobody's aim.
    pub(crate) thin_only: bool,
    /// The server is slow on purpose.
    pub(crate) is_slow: bool,
}

impl Scene {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            node: json!({}),
            definitions: vec![],
            annotations: vec![],
            runtime: Value::Null,
            before: |_| {},
            between: |_| {},
            thin_only: false,
            is_slow: false,
        }
    }

    /// The pod's networks annotation.
    pub(crate) fn networks(self, networks: &'static str) -> Self {
        self.annotation("k8s.v1.cni.cncf.io/networks", networks)
    }

    pub(crate) fn annotation(mut self, key: &'static str, value: &'static str) -> Self {
        self.annotations.push((key, value));
        self
    }

    /// A definition in the pod's namespace.
    pub(crate) fn definition(self, name: &'static str, config: &Value) -> Self {
        self.definition_in(OWN, name, config)
    }

    pub(crate) fn definition_in(mut self, namespace: &'static str, name: &'static str, config: &Value) -> Self {
        let config = if config.is_null() { String::new() } else { config.to_string() };
        self.definitions.push((namespace, name, config, vec![]));
        self
    }

    pub(crate) fn node(mut self, node: Value) -> Self {
        self.node = node;
        self
    }

    pub(crate) fn runtime(mut self, runtime: Value) -> Self {
        self.runtime = runtime;
        self
    }

    pub(crate) fn before(mut self, before: fn(&Stage)) -> Self {
        self.before = before;
        self
    }

    pub(crate) fn between(mut self, between: fn(&Stage)) -> Self {
        self.between = between;
        self
    }

    pub(crate) fn slow(mut self) -> Self {
        self.is_slow = true;
        self
    }

    pub(crate) fn thin_only(mut self) -> Self {
        self.thin_only = true;
        self
    }
}
