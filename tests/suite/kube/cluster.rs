//! The API server as a case sees it: namespaces of its own, objects in them, files to log in with, and what goes wrong on the
//! way. Objects are JSON: what is tested is what plexus reads, not how a client of this suite would.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use serde_json::{Value, json};

use super::fault::{Door, Fault, Rule, Seen};
use super::front::Front;
use super::login::{self, Login};
use super::server::FOLDER;
use super::upstream::{Body, Upstream};
use crate::testbed::Testbed;

/// The server may still be starting when the first case asks.
const ASK_LIMIT: Duration = Duration::from_secs(90);

/// The name that the network CRD standard gives to status.
const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// See the module.
pub(crate) struct Cluster {
    namespace: String,
    upstream: Upstream,
    front: Front,
}

impl Cluster {
    /// The server of this run, from the host's namespace of `bed`, with a fresh Kubernetes namespace.
    pub(crate) fn of(bed: &Testbed) -> Arc<Self> {
        let folder = std::env::var_os(FOLDER).expect("the suite's own process starts the server");
        let upstream = Upstream::new(PathBuf::from(folder));
        bed.ip("link set lo up");
        let cluster = Self { namespace: unused(), front: Front::open(upstream.clone()), upstream };
        cluster.make_namespace(&cluster.namespace);
        Arc::new(cluster)
    }

    /// The Kubernetes namespace of this case.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// One more Kubernetes namespace that no other case uses.
    pub(crate) fn another_namespace(&self) -> String {
        let name = unused();
        self.make_namespace(&name);
        name
    }

    fn make_namespace(&self, name: &str) {
        self.create("/api/v1/namespaces", &json!({"metadata": {"name": name}}));
    }

    /// Where clients find the server: `https://127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("https://{}", self.front.address)
    }

    /// A file of the rig: `ca.crt`, `client.crt`, `client.key`, `client-next.*`, `client-expired.*`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.upstream.file(name)
    }

    /// Writes a kubeconfig, and returns its path.
    pub(crate) fn kubeconfig(&self, bed: &Testbed, login: &Login) -> PathBuf {
        let text = login::kubeconfig(&self.address(), &self.file("ca.crt"), login, &self.namespace);
        bed.file("kubeconfig", &text)
    }

    /// Writes the files of a service account, and returns the environment that goes with them.
    pub(crate) fn service_account(&self, token: &str) -> [(&'static str, String); 2] {
        login::service_account(&self.file("ca.crt"), token, &self.namespace);
        let address = self.front.address;
        [("KUBERNETES_SERVICE_HOST", address.ip().to_string()), ("KUBERNETES_SERVICE_PORT", address.port().to_string())]
    }

    /// Makes a pod in this case's namespace that is bound to the node `node`; its UID.
    pub(crate) fn pod(&self, name: &str, annotations: &[(&str, &str)]) -> String {
        let annotations: serde_json::Map<String, Value> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        self.create_pod(&json!({"metadata": {"name": name, "annotations": annotations}}))
    }

    /// As [`Cluster::pod`], from an object of one's own: what a pod must have is put in where it is missing.
    pub(crate) fn create_pod(&self, pod: &Value) -> String {
        let mut pod = pod.clone();
        let spec = pod.as_object_mut().unwrap().entry("spec").or_insert_with(|| json!({}));
        let spec = spec.as_object_mut().unwrap();
        spec.entry("nodeName").or_insert_with(|| json!("node"));
        spec.entry("containers").or_insert_with(|| json!([{"name": "main", "image": "none"}]));
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or(&self.namespace).to_owned();
        let made = self.create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod);
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Makes a definition in this case's namespace.
    pub(crate) fn definition(&self, name: &str, config: &Value) -> Value {
        self.definition_in(&self.namespace, name, &config.to_string(), &[])
    }

    /// Makes a definition: `config` as text (empty: none), and annotations.
    pub(crate) fn definition_in(
        &self,
        namespace: &str,
        name: &str,
        config: &str,
        annotations: &[(&str, &str)],
    ) -> Value {
        let annotations: serde_json::Map<String, Value> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let spec = if config.is_empty() { json!({}) } else { json!({"config": config}) };
        let object = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name, "annotations": annotations}, "spec": spec});
        self.create(&definitions(namespace, ""), &object)
    }

    /// Deletes a definition of this case's namespace.
    pub(crate) fn delete_definition(&self, name: &str) {
        self.delete(&definitions(&self.namespace, name));
    }

    /// Deletes a pod of this case's namespace at once, as the kubelet does in the end.
    pub(crate) fn delete_pod(&self, name: &str) {
        self.delete(&format!("{}?gracePeriodSeconds=0", self.pod_path(name)));
    }

    /// A pod of this case's namespace as the server has it; null if it has not.
    pub(crate) fn get_pod(&self, name: &str) -> Value {
        self.get(&self.pod_path(name))
    }

    /// Sets annotations of a pod.
    pub(crate) fn annotate(&self, name: &str, annotations: &Value) {
        self.patch(&self.pod_path(name), &json!({"metadata": {"annotations": annotations}}));
    }

    /// The network-status of a pod, parsed; null if it has none.
    pub(crate) fn network_status(&self, name: &str) -> Value {
        let pod = self.get_pod(name);
        pod["metadata"]["annotations"][STATUS].as_str().map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
    }

    /// Reason and message of each event in this case's namespace, sorted.
    pub(crate) fn events(&self) -> Vec<(String, String)> {
        let list = self.get(&format!("/api/v1/namespaces/{}/events", self.namespace));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let items = list["items"].as_array().unwrap().iter();
        let mut events: Vec<_> = items.map(|event| (text(&event["reason"]), text(&event["message"]))).collect();
        events.sort();
        events
    }

    fn pod_path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/pods/{name}", self.namespace)
    }

    /// An object by its path; null if there is none.
    pub(crate) fn get(&self, path: &str) -> Value {
        match self.ask("GET", path, None) {
            (200, object) => object,
            (404, _) => Value::Null,
            (code, object) => panic!("GET {path}: {code} {object}"),
        }
    }

    /// Makes an object in the collection at `path`.
    pub(crate) fn create(&self, path: &str, object: &Value) -> Value {
        let (code, made) = self.ask("POST", path, Some(("application/json", object)));
        assert_eq!(code, 201, "POST {path}: {made}");
        made
    }

    /// Merges `change` into an object.
    pub(crate) fn patch(&self, path: &str, change: &Value) -> Value {
        let (code, object) = self.ask("PATCH", path, Some(("application/merge-patch+json", change)));
        assert_eq!(code, 200, "PATCH {path}: {object}");
        object
    }

    /// Deletes the object at `path`, which is there.
    pub(crate) fn delete(&self, path: &str) {
        let (code, object) = self.ask("DELETE", path, None);
        assert_eq!(code, 200, "DELETE {path}: {object}");
    }

    /// A request of the case's own to the real server, as its administrator: the front neither counts nor fails it.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> (u16, Value) {
        self.ask_as(login::ADMIN, method, path, body)
    }

    /// As [`Cluster::ask`], by whoever has this token.
    pub(crate) fn ask_as(&self, token: &str, method: &str, path: &str, body: Option<(&str, &Value)>) -> (u16, Value) {
        self.ask_by(&[(AUTHORIZATION.as_str(), &format!("Bearer {token}"))], method, path, body)
    }

    /// The same by whoever these headers say.
    pub(crate) fn ask_by(
        &self,
        who: &[(&str, &str)],
        method: &str,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        for (name, value) in who {
            request = request.header(*name, *value);
        }
        if let Some((kind, _)) = body {
            request = request.header(CONTENT_TYPE, kind);
        }
        let text = body.map(|(_, value)| value.to_string()).unwrap_or_default();
        let body: Body = Full::from(text).map_err(|never| match never {}).boxed();
        let request = request.body(body).unwrap();
        let asked = async {
            let response = self.upstream.connect(None).await.unwrap().send_request(request).await.unwrap();
            let code = response.status().as_u16();
            (code, response.into_body().collect().await.unwrap().to_bytes())
        };
        let limited = async { tokio::time::timeout(ASK_LIMIT, asked).await };
        let (code, bytes) = self.front.runtime.block_on(limited).expect("the server answers");
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
    }

    /// Changes how the front takes connections; those that are open end.
    pub(crate) fn door(&self, door: Door) {
        self.front.set(door);
    }

    /// The next `times` requests of `method` (empty: any) whose path contains `path` meet `fault`.
    pub(crate) fn fail(&self, method: &str, path: &str, times: usize, fault: Fault) {
        let rule = Rule { method: method.to_owned(), path: path.to_owned(), times, fault };
        self.front.orders.lock().unwrap().rules.push(rule);
    }

    /// Each request of `method` whose path contains `path` finds that `act` was done before it, `times` times.
    pub(crate) fn before(&self, method: &str, path: &str, times: usize, act: impl Fn() + Send + Sync + 'static) {
        self.fail(method, path, times, Fault::First(Arc::new(act)));
    }

    /// No fault any more: the door is open, no rule is left, every token is good.
    pub(crate) fn heal(&self) {
        {
            let mut orders = self.front.orders.lock().unwrap();
            orders.rules.clear();
            orders.revoked.clear();
        }
        self.front.set(Door::Open);
    }

    /// This token is refused from now on (401), as after a rotation.
    pub(crate) fn revoke(&self, token: &str) {
        self.front.orders.lock().unwrap().revoked.insert(token.to_owned());
    }

    /// Takes the requests that the front saw since the last time, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.front.orders.lock().unwrap().seen)
    }

    /// How many requests of `method` (empty: any) on paths that begin with `prefix` the front saw since [`Cluster::seen`].
    pub(crate) fn count(&self, method: &str, prefix: &str) -> usize {
        let orders = self.front.orders.lock().unwrap();
        let met = |seen: &&Seen| (method.is_empty() || seen.method == method) && seen.path.starts_with(prefix);
        orders.seen.iter().filter(met).count()
    }
}

/// The path of a definition, or of all in a namespace.
pub(crate) fn definitions(namespace: &str, name: &str) -> String {
    let collection = format!("/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions");
    if name.is_empty() { collection } else { format!("{collection}/{name}") }
}

/// A name that nobody has used in this run.
fn unused() -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    format!("case-{}", &random[..13])
}
