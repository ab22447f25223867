//! Pods of a cluster: the pod and its definitions are asked of a real API server, and its status goes there. plexus executes
//! `plexus oneshot`; the Go side is Multus as a thin plugin. Knows no statistics.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::rest::settle;
use crate::rows::{Stage, Times, milliseconds};
use crate::side::{Call, Outcome, Programs, Side};
use crate::world::{PARENT, Pod, STATE, remove_link};

/// Who may do what both sides need (tests/k8s/objects.yaml).
pub(crate) const TOKEN: &str = "plexus-token";

/// Where the server answers.
pub(crate) const PORT: u16 = 6443;

/// Where the server's files and the programs of `tests/k8s/build` are.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Certificates and admin.conf.
    pub(crate) files: PathBuf,
    /// kubectl and multus.
    pub(crate) programs: PathBuf,
}

/// What a runtime says of a pod of a Kubernetes namespace, with its UID.
pub(crate) fn environment(
    command: &str,
    (namespace, pod, uid): (&str, &Pod, &str),
    path: &Path,
) -> Vec<(&'static str, String)> {
    let id = &pod.id;
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={id};K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}"
    );
    vec![
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", id.clone()),
        ("CNI_NETNS", pod.path.display().to_string()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_PATH", path.display().to_string()),
        ("CNI_ARGS", args),
        ("PATH", Programs::PATH.to_owned()),
    ]
}

/// One side's pods of one row.
pub(crate) struct Members {
    server: Server,
    /// Kubernetes namespace, bridge of the default network, and prefix of all names.
    name: String,
    definitions: u8,
    conf: Value,
    program: PathBuf,
    path: PathBuf,
    made: u32,
    /// Takes connections and says nothing, as a server that hangs.
    silent: TcpListener,
    used: Vec<Pod>,
}

impl Members {
    pub(crate) fn prepare(stage: &mut Stage<'_>, side: Side, definitions: u8) -> Outcome<Self> {
        let server = stage.server.clone().ok_or("no API server: tests/bench/run --cluster")?;
        let path = stage.programs.directory(side).ok_or("no programs")?.to_owned();
        let subnet = stage.world.subnet()?;
        let name = format!("n{}", subnet.number());
        let mut objects = vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})];
        for number in 0..definitions {
            let subnet = stage.world.subnet()?;
            let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet.text4()}]]});
            // As on the pages of Multus: mostly macvlan.
            let config = json!({"cniVersion": "1.0.0", "name": format!("{name}-{number}"), "type": "macvlan",
                "master": PARENT, "ipam": ipam});
            objects.push(json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                "metadata": {"name": format!("d{number}"), "namespace": name}, "spec": {"config": config.to_string()}}));
        }
        server.create(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
        let kubeconfig = server.kubeconfig(&stage.files, "kubeconfig", PORT)?;
        let silent = TcpListener::bind("127.0.0.1:0")?;
        server.kubeconfig(&stage.files, &format!("{name}.silent"), silent.local_addr()?.port())?;
        let program = match side {
            Side::Go => server.programs.join("multus"),
            _ => path.join("plexus-cni"),
        };
        let bridge = json!({"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": name, "isGateway": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet.text4()}]], "routes": [{"dst": "0.0.0.0/0"}]}});
        let conf = json!({"cniVersion": "1.0.0", "name": "node", "type": "multus", "kubeconfig": kubeconfig,
            "binDir": path, "cniDir": format!("{STATE}/multus"), "delegates": [bridge]});
        Ok(Self { server, name, definitions, conf, program, path, made: 0, silent, used: Vec::new() })
    }

    /// ADD and DEL of a fresh pod.
    pub(crate) fn round(&mut self, stage: &mut Stage<'_>) -> Outcome<Times> {
        let mut pod = stage.world.pod()?;
        let uid = self.make(&pod.id)?;
        let before = self.server.requests()?;
        let start = Instant::now();
        self.call("ADD", &pod, &uid, &self.conf).run(&stage.watch)?;
        let add = milliseconds(start);
        settle()?;
        let between = self.server.requests()?;
        let addresses = pod.addresses()?;
        if addresses.len() != usize::from(self.definitions) + 1 {
            return Err(format!("after ADD, {} has {addresses:?}", pod.id).into());
        }
        let start = Instant::now();
        self.call("DEL", &pod, &uid, &self.conf).run(&stage.watch)?;
        let del = milliseconds(start);
        settle()?;
        let after = self.server.requests()?;
        if !pod.addresses()?.is_empty() {
            return Err(format!("after DEL, {} has addresses", pod.id).into());
        }
        self.used.push(pod);
        let hanging = self.del_while_it_hangs(stage)?;
        Ok(vec![
            ("ADD", add),
            ("DEL", del),
            ("DEL, server hangs", hanging),
            ("ADD, API requests", between - before),
            ("DEL, API requests", after - between),
        ])
    }

    /// DEL of one more pod, by a node that reaches a server which says nothing.
    fn del_while_it_hangs(&mut self, stage: &mut Stage<'_>) -> Outcome<f64> {
        let mut pod = stage.world.pod()?;
        let uid = self.make(&pod.id)?;
        self.call("ADD", &pod, &uid, &self.conf).run(&stage.watch)?;
        settle()?;
        let mut conf = self.conf.clone();
        if let Some(object) = conf.as_object_mut() {
            object.insert("kubeconfig".to_owned(), json!(stage.files.join(format!("{}.silent", self.name))));
        }
        let start = Instant::now();
        self.call("DEL", &pod, &uid, &conf).run(&stage.watch)?;
        let time = milliseconds(start);
        settle()?;
        if !pod.addresses()?.is_empty() {
            return Err(format!("after DEL while the server hangs, {} has addresses", pod.id).into());
        }
        self.used.push(pod);
        Ok(time)
    }

    /// The pod's object; its UID.
    fn make(&mut self, pod: &str) -> Outcome<String> {
        self.made += 1;
        let networks: Vec<String> = (0..self.definitions).map(|number| format!("d{number}")).collect();
        let made = self.server.create(&json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "namespace": self.name,
                "annotations": {"k8s.v1.cni.cncf.io/networks": networks.join(",")}},
            "spec": {"nodeName": "node", "containers": [{"name": "main", "image": "none"}]}}))?;
        Ok(made.pointer("/metadata/uid").and_then(Value::as_str).ok_or("a pod without UID")?.to_owned())
    }

    fn call(&self, command: &str, pod: &Pod, uid: &str, conf: &Value) -> Call {
        let environment = environment(command, (&self.name, pod, uid), &self.path);
        let input = conf.to_string().into_bytes();
        Call { program: self.program.clone(), arguments: Vec::new(), environment, input }
    }

    pub(crate) fn finish(self) -> Outcome<()> {
        drop(self.silent);
        remove_link(&self.name)
    }
}

impl Server {
    fn kubectl(&self, words: &[&str], input: &str) -> Outcome<String> {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.arg("--kubeconfig").arg(self.files.join("admin.conf")).args(words).env("HOME", &self.files);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().ok_or("no pipe")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        Err(format!("kubectl {words:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
    }

    fn create(&self, object: &Value) -> Outcome<Value> {
        Ok(self.create_all(object)?.pop().unwrap_or(Value::Null))
    }

    /// Makes the objects of a list; each as it was made.
    pub(crate) fn create_all(&self, list: &Value) -> Outcome<Vec<Value>> {
        let made = self.kubectl(&["create", "-o", "json", "-f", "-"], &list.to_string())?;
        Ok(serde_json::Deserializer::from_str(&made).into_iter().collect::<Result<_, _>>()?)
    }

    /// Removes all objects of this kind at once.
    pub(crate) fn remove_all(&self, path: &str) -> Outcome<()> {
        self.kubectl(&["delete", "--raw", path], "").map(drop)
    }

    pub(crate) fn kubeconfig(&self, folder: &Path, name: &str, port: u16) -> Outcome<PathBuf> {
        let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": self.files.join("ca.crt")}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}]});
        let path = folder.join(name);
        fs::write(&path, text.to_string())?;
        Ok(path)
    }

    /// How many requests the server has answered that the plugins make: of pods, definitions and events, those of this program
    /// left out.
    pub(crate) fn requests(&self) -> Outcome<f64> {
        let metrics = self.kubectl(&["get", "--raw", "/metrics"], "")?;
        let counts = |line: &&str| {
            line.starts_with("apiserver_request_total{")
                && ["\"pods\"", "\"network-attachment-definitions\"", "\"events\""]
                    .iter()
                    .any(|what| line.contains(what))
        };
        let number = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0);
        Ok(metrics.lines().filter(counts).map(number).sum())
    }
}
