//! Pods with one or more interfaces: what each side is asked, and what must be there afterwards. Knows no statistics.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::attachment::Attachment;
use crate::figures::median;
use crate::resident::Resident;
use crate::rest::settle;
use crate::rows::{Kind, Stage, Times, milliseconds};
use crate::side::{Call, Outcome, Programs, Side, Watch};
use crate::world::{Pod, World, make_bridge, make_device, remove_link};

/// The name of the pod in its manifest.
const POD_NAME: &str = "p";

/// One side's pods of one row.
pub(crate) struct Pods {
    side: Side,
    attachments: Vec<Attachment>,
    /// Programs of this side: plugins, or the floor.
    programs: PathBuf,
    /// Where the pod's manifests are: only the meta-plugin reads them.
    manifests: Option<PathBuf>,
    /// Who serves the meta-plugin, and where it is asked.
    daemon: Option<(Resident, PathBuf)>,
    parallel: usize,
    /// Number of the last address that the floor gave to a pod.
    hosts: u16,
    /// Kept until the row ends: a namespace that goes away makes the kernel work.
    used: Vec<Pod>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    Del,
}

impl Pods {
    pub(crate) fn prepare(
        stage: &mut Stage<'_>,
        side: Side,
        kinds: &[Kind],
        v6: bool,
        parallel: usize,
        keys: &str,
    ) -> Outcome<Self> {
        let keys: Map<String, Value> = serde_json::from_str(keys)?;
        let mut attachments = Vec::new();
        for (position, &kind) in kinds.iter().enumerate() {
            let subnet = stage.world.subnet()?;
            let attachment = Attachment { keys: keys.clone(), ..Attachment::new(kind, position, subnet, v6) };
            if side == Side::Floor && kind == Kind::Bridge {
                make_bridge(&attachment.network, subnet)?;
            }
            if kind == Kind::HostDevice {
                make_device(&attachment.network)?;
            }
            attachments.push(attachment);
        }
        let programs = stage.programs.directory(side).unwrap_or_else(|| stage.programs.floor()).to_owned();
        let is_whole_pod = side == Side::Daemon || (side == Side::Plexus && attachments.len() > 1);
        let manifests = is_whole_pod.then(|| write_manifests(&stage.files, &attachments)).transpose()?;
        let name = attachments.first().map(|first| first.network.clone()).unwrap_or_default();
        let daemon = (side == Side::Daemon).then(|| Resident::plexus(stage.programs, &name)).transpose()?;
        Ok(Self { side, attachments, programs, manifests, daemon, parallel, hosts: 1, used: Vec::new() })
    }

    /// ADD and DEL of fresh pods, each followed by a look into them.
    pub(crate) fn round(&mut self, stage: &mut Stage<'_>) -> Outcome<Times> {
        let mut pods = self.make_pods(&mut stage.world)?;
        let names: &[&'static str; 3] =
            if self.parallel > 1 { &["ADD wall", "DEL wall", ""] } else { &["ADD", "DEL", "DEL, all at rest"] };
        let [add_name, del_name, rest_name] = *names;
        let mut times = Times::new();

        let calls = self.calls(Verb::Add, &pods)?;
        let (wall, each) = run(&calls, &stage.watch)?;
        times.push((add_name, wall));
        times.extend(median(&each).filter(|_| self.parallel > 1).map(|ms| ("ADD p50", ms)));
        settle()?;
        let expected = self.attachments.iter().map(|attachment| if attachment.v6 { 2 } else { 1 }).sum();
        look(&mut pods, expected, "ADD")?;

        let calls = self.calls(Verb::Del, &pods)?;
        let start = Instant::now();
        let (wall, each) = run(&calls, &stage.watch)?;
        settle()?;
        let at_rest = milliseconds(start);
        times.push((del_name, wall));
        times.extend(median(&each).filter(|_| self.parallel > 1).map(|ms| ("DEL p50", ms)));
        if self.parallel == 1 {
            times.push((rest_name, at_rest));
        }
        look(&mut pods, 0, "DEL")?;
        self.used.append(&mut pods);
        Ok(times)
    }

    fn make_pods(&self, world: &mut World) -> Outcome<Vec<Pod>> {
        (0..self.parallel).map(|_| world.pod()).collect()
    }

    /// The calls for each pod, one after another.
    fn calls(&mut self, verb: Verb, pods: &[Pod]) -> Outcome<Vec<Vec<Call>>> {
        let mut calls = Vec::new();
        for pod in pods {
            calls.push(match self.side {
                Side::Floor => vec![self.floor_call(verb, pod)?],
                _ => self.plugin_calls(verb, pod),
            });
        }
        Ok(calls)
    }

    fn floor_call(&mut self, verb: Verb, pod: &Pod) -> Outcome<Call> {
        let netns = pod.path.display().to_string();
        let arguments = match verb {
            Verb::Add => {
                self.hosts = self.hosts.checked_add(1).ok_or("no address is left")?;
                let specs = self.attachments.iter().map(|attachment| attachment.spec(self.hosts));
                ["add".to_owned(), netns].into_iter().chain(specs).collect()
            }
            Verb::Del => vec!["del".to_owned(), netns, self.attachments.len().to_string()],
        };
        Ok(Call { program: self.programs.clone(), arguments, environment: Vec::new(), input: Vec::new() })
    }

    fn plugin_calls(&self, verb: Verb, pod: &Pod) -> Vec<Call> {
        if let (Some(manifests), Some(first)) = (&self.manifests, self.attachments.first()) {
            let mut input = json!({"cniVersion": "1.0.0", "name": "node", "type": "plexus-cni",
                "manifests": manifests, "delegates": [first.configuration()]});
            if let (Some((_, folder)), Some(input)) = (&self.daemon, input.as_object_mut()) {
                // Nobody else answers: what is measured is the daemon.
                input.extend([("daemonSocketDir".to_owned(), json!(folder)), ("fallback".to_owned(), json!("fail"))]);
            }
            return vec![self.plugin_call(verb, pod, "plexus-cni", "eth0", &input)];
        }
        let mut calls: Vec<Call> = self
            .attachments
            .iter()
            .map(|one| self.plugin_call(verb, pod, one.plugin(), &one.ifname, &one.configuration()))
            .collect();
        if verb == Verb::Del {
            calls.reverse();
        }
        calls
    }

    fn plugin_call(&self, verb: Verb, pod: &Pod, plugin: &str, ifname: &str, configuration: &Value) -> Call {
        let id = &pod.id;
        let environment = vec![
            ("CNI_COMMAND", if verb == Verb::Add { "ADD" } else { "DEL" }.to_owned()),
            ("CNI_CONTAINERID", id.clone()),
            ("CNI_NETNS", pod.path.display().to_string()),
            ("CNI_IFNAME", ifname.to_owned()),
            ("CNI_PATH", self.programs.display().to_string()),
            (
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={POD_NAME};K8S_POD_INFRA_CONTAINER_ID={id}"
                ),
            ),
            ("PATH", Programs::PATH.to_owned()),
        ];
        let input = configuration.to_string().into_bytes();
        Call { program: self.programs.join(plugin), arguments: Vec::new(), environment, input }
    }

    /// No address may be left in a pool.
    pub(crate) fn finish(self) -> Outcome<()> {
        for attachment in &self.attachments {
            if matches!(attachment.kind, Kind::Bridge | Kind::HostDevice) {
                remove_link(&attachment.network)?;
            }
            if self.side == Side::Floor {
                continue;
            }
            attachment.pool_is_empty()?;
        }
        Ok(())
    }
}

/// The pod and the definitions of its further networks. JSON is YAML.
fn write_manifests(files: &Path, attachments: &[Attachment]) -> Outcome<PathBuf> {
    let further = attachments.iter().skip(1);
    let networks: Vec<&str> = further.clone().map(|attachment| attachment.network.as_str()).collect();
    let own = attachments.first().map(|first| first.network.as_str()).unwrap_or_default();
    let dir = files.join(format!("manifests-{own}"));
    fs::create_dir_all(&dir)?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD_NAME, "namespace": "default",
        "annotations": {"k8s.v1.cni.cncf.io/networks": networks.join(",")}}});
    fs::write(dir.join("pod.yaml"), pod.to_string())?;
    for attachment in further {
        let definition = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": attachment.network, "namespace": "default"},
            "spec": {"config": attachment.configuration().to_string()}});
        fs::write(dir.join(format!("{}.yaml", attachment.network)), definition.to_string())?;
    }
    Ok(dir)
}

/// Runs the calls of all pods at once, those of one pod one after another. The time from the first start to the last end,
/// and the time of each pod, in milliseconds.
pub(crate) fn run(calls: &[Vec<Call>], watch: &Watch) -> Outcome<(f64, Vec<f64>)> {
    let ready = Barrier::new(calls.len());
    let one_pod = |calls: &[Call]| -> Outcome<(Instant, Instant)> {
        ready.wait();
        let start = Instant::now();
        for call in calls {
            call.run(watch)?;
        }
        Ok((start, Instant::now()))
    };
    let spans = if let [only] = calls {
        vec![one_pod(only)?]
    } else {
        std::thread::scope(|scope| {
            let threads: Vec<_> = calls.iter().map(|calls| scope.spawn(|| one_pod(calls))).collect();
            let ended: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            ended.into_iter().map(|span| span.map_err(|_| "a thread panicked")?).collect::<Outcome<Vec<_>>>()
        })?
    };
    let first = spans.iter().map(|(start, _)| *start).min().ok_or("no pod")?;
    let last = spans.iter().map(|(_, end)| *end).max().ok_or("no pod")?;
    let each = spans.iter().map(|(start, end)| (*end - *start).as_secs_f64() * 1e3);
    Ok(((last - first).as_secs_f64() * 1e3, each.collect()))
}

/// A plugin that does nothing is not fast: it fails here.
fn look(pods: &mut [Pod], expected: usize, after: &str) -> Outcome<()> {
    for pod in pods {
        let addresses = pod.addresses()?;
        if addresses.len() != expected {
            return Err(format!("after {after}, {} has {addresses:?}, not {expected} addresses", pod.id).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_fails_fails_its_round() {
        let call = |script: &str| Call {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: Vec::new(),
            input: Vec::new(),
        };
        let calls = [vec![call("exit 0")], vec![call("exit 0"), call("exit 7")]];
        let failure = run(&calls, &Watch::default()).unwrap_err().to_string();
        assert!(failure.contains("exit status: 7"), "{failure}");
        let (wall, each) = run(&calls[..1], &Watch::default()).unwrap();
        assert_eq!(each, [wall]);
    }
}
