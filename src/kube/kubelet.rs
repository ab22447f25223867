//! The kubelet on this node: which devices it gave to a pod, asked of its socket (`v1.PodResourcesLister`). `Get` asks for one pod;
//! a kubelet that does not serve it is asked for all pods. Where there is no socket its checkpoint is read.
//!
//! It does not know what a device is for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::call::Calls;
use super::grpc::{call, connect, said};
use super::limit::Turn;
use super::proto::podresources::{self, ALLOCATABLE, GET, GetRequest, LIST};
use crate::devices::{Devices, checkpoint};
use crate::journal::PodName;
use crate::sources::SourceError;

/// Below the kubelet's directory.
const SOCKET: &str = "pod-resources/kubelet.sock";
/// In bytes, of an answer, of which one is in memory: all devices of a node with two hundred pods have had more than the 16 MiB of other
/// clients; five hundred pods of ten containers with a hundred devices each have half of this.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// In bytes, of an answer that is looked through at once: others wait for the same thread.
const ANSWER_BYTES_SMALL: usize = 64 << 10;

/// Whether the kubelet has devices of a resource to give: somebody offers them. Nobody knows where it has no socket or does not say.
pub(super) async fn has(kubelet: &Path, resource: &str, time: Duration) -> Option<bool> {
    let socket = kubelet.join(SOCKET);
    if !socket.try_exists().unwrap_or(false) {
        return None;
    }
    let asked = async {
        let mut client = Grpc::new(connect(socket).await.ok()?).max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = call(&mut client, ALLOCATABLE, Vec::new()).await.ok()?;
        podresources::has(&answer, resource).ok()
    };
    timeout(time, asked).await.ok().flatten()
}

/// The devices of a pod, within the time of `calls`.
///
/// # Errors
/// The kubelet does not answer in time, or with what it should not; the same of its checkpoint.
pub(super) async fn devices(kubelet: &Path, pod: &PodName, calls: &Calls) -> Result<Devices, SourceError> {
    let socket = kubelet.join(SOCKET);
    let act =
        || format!("asking the kubelet ({}) for the devices of pod {}/{}", socket.display(), pod.namespace, pod.name);
    let refuse = |why: String| SourceError::Api { act: act(), why, transient: true };
    if !socket.try_exists().map_err(|e| refuse(e.to_string()))? {
        let (folder, uid) = (kubelet.to_owned(), pod.uid.clone());
        let read = aside(calls.turn(), "its checkpoint is not read", move || checkpoint::devices(&folder, &uid)).await;
        return read.map_err(refuse)?;
    }
    of_socket(socket.clone(), pod, calls).await.map_err(refuse)
}

async fn of_socket(socket: PathBuf, pod: &PodName, calls: &Calls) -> Result<Devices, String> {
    let turn = calls.turn();
    let connected = timeout(turn.time(), connect(socket)).await.map_err(|_| turn.late("no connection"))?;
    let mut client = Grpc::new(connected.map_err(|e| said(&e))?).max_decoding_message_size(ANSWER_BYTES_MAX);
    let request = GetRequest { name: pod.name.clone(), namespace: pod.namespace.clone() };
    let asked = ask(&mut client, GET, request.encode_to_vec(), pod, calls).await?;
    let found = match asked {
        Ok(found) => found,
        // It has gone on to something else: the next call would find nobody either.
        Err(status) if status.code() == Code::Unavailable => return Err(status.message().to_owned()),
        // Older ones do not know the call, or have it disabled, and say so in several ways.
        Err(of_get) => {
            let listed = ask(&mut client, LIST, Vec::new(), pod, calls).await?;
            // What it said first is the reason why it was asked again, and may be what is wrong with it.
            listed.map_err(|of_list| match (of_list.message(), of_get.message()) {
                (list, get) if list == get => list.to_owned(),
                (list, get) => format!("{list}; and of Get alone: {get}"),
            })?
        }
    };
    Ok(found.unwrap_or_default())
}

/// What one call says of the pod; in the inner sense, what the kubelet says instead of an answer.
async fn ask(
    client: &mut Grpc<Channel>,
    path: &'static str,
    request: Vec<u8>,
    pod: &PodName,
    calls: &Calls,
) -> Result<Result<Option<Devices>, Status>, String> {
    let turn = calls.turn();
    if turn.is_over() {
        return Err(turn.late("no answer"));
    }
    let answer = match timeout(turn.time(), call(client, path, request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(status)) => return Ok(Err(status)),
        Err(_) => return Err(turn.late("no answer")),
    };
    let method = path.rsplit('/').next().unwrap_or_default();
    let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
    let is_small = answer.len() <= ANSWER_BYTES_SMALL;
    let look = move || podresources::devices(&answer, &namespace, &name);
    let found = if is_small {
        look()
    } else {
        aside(calls.turn(), &format!("its answer to {method} is not read"), look).await?
    };
    found.map(Ok).map_err(|why| format!("its answer to {method} is no message of a kubelet: {why}"))
}

/// Work that takes a processor for a while, or hangs with a disk, beside the thread that others wait for. What is late goes on to its end,
/// which is bounded as what it reads is.
async fn aside<T: Send + 'static>(
    turn: Turn,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    match timeout(turn.time(), tokio::task::spawn_blocking(work)).await {
        Ok(done) => done.map_err(|_| format!("{what}: that panicked")),
        Err(_) => Err(turn.late(what)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::super::limit::{End, Limit};
    use super::*;

    #[test]
    fn who_decodes_for_longer_than_there_is_time_is_not_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let whole = End::after(Limit::own(Duration::from_secs(60)));
        let turn = Turn::now(Limit::of("apiCallTimeoutMs", Duration::from_millis(20)), whole);
        let (go, gone) = channel::<()>();
        let late = runtime.block_on(aside(turn, "its answer is not read", move || gone.recv().is_ok()));
        assert!(
            late.unwrap_err().starts_with("its answer is not read in time: one call has 20 ms (apiCallTimeoutMs), ")
        );
        drop(go);
        let turn = Turn::now(Limit::own(Duration::from_secs(60)), whole);
        assert_eq!(runtime.block_on(aside(turn, "", || 7)), Ok(7));
    }
}
