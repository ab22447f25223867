//! The kubelet on this node: which devices it gave to a pod, asked of its socket (`v1.PodResourcesLister`). `Get` asks for one pod;
//! a kubelet that does not serve it is asked for all pods.
//!
//! It does not know what a device is for.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::proto::podresources::{GET, GetRequest, GetResponse, LIST, ListRequest, ListResponse, PodResources};
use crate::devices::Devices;
use crate::journal::PodName;
use crate::sources::SourceError;

/// Below the kubelet's directory.
const SOCKET: &str = "pod-resources/kubelet.sock";
/// In bytes, of an answer: all devices of a node with two hundred pods have had more than the 16 MiB of other clients.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// In bytes, of an answer that may be under way: HTTP/2's own 64 KiB make a long list a thousand round trips.
const WINDOW_BYTES: u32 = 8 << 20;
/// The authority that the kubelet's server expects over a Unix socket.
const AUTHORITY: &str = "http://localhost";

/// The devices of a pod; none in the outer sense where the kubelet has no socket. `limit`: of each call.
///
/// # Errors
/// The kubelet does not answer in time, or with what it should not.
pub(super) async fn devices(kubelet: &Path, pod: &PodName, limit: Duration) -> Result<Option<Devices>, SourceError> {
    let socket = kubelet.join(SOCKET);
    let refuse = |why: String| SourceError::Api {
        act: format!("asking the kubelet ({}) for the devices of pod {}/{}", socket.display(), pod.namespace, pod.name),
        why,
        transient: true,
    };
    if !socket.try_exists().map_err(|e| refuse(e.to_string()))? {
        return Ok(None);
    }
    // Without the time: where the deadline cuts it short, what is said again is the same event.
    let in_time = |why: &str| refuse(format!("{why} in time; see apiCallTimeoutMs and apiDeadlineMs"));
    let connected = timeout(limit, connect(socket.clone())).await.map_err(|_| in_time("no connection"))?;
    let mut client = Grpc::new(connected.map_err(|e| refuse(said(&e)))?).max_decoding_message_size(ANSWER_BYTES_MAX);
    let asked = timeout(limit, get(&mut client, pod)).await.map_err(|_| in_time("no answer"))?;
    let found = match asked {
        Ok(found) => found,
        // It has gone on to something else: the next call would find nobody either.
        Err(status) if status.code() == Code::Unavailable => return Err(refuse(status.message().to_owned())),
        // Older ones do not know the call, or have it disabled, and say so in several ways.
        Err(_) => {
            let listed = timeout(limit, list(&mut client, pod)).await.map_err(|_| in_time("no answer"))?;
            listed.map_err(|status| refuse(status.message().to_owned()))?
        }
    };
    let mut devices = Devices::default();
    for given in found.into_iter().flat_map(|pod| pod.containers).flat_map(|container| container.devices) {
        given.ids.iter().try_for_each(|id| devices.add(&given.resource, id)).map_err(&refuse)?;
    }
    Ok(Some(devices))
}

async fn connect(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let dial = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    let endpoint = Endpoint::from_static(AUTHORITY)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    endpoint.connect_with_connector(dial).await
}

/// An error with its sources.
fn said(error: &dyn std::error::Error) -> String {
    crate::native::chain(error)
}

async fn get(client: &mut Grpc<Channel>, pod: &PodName) -> Result<Option<PodResources>, Status> {
    let request = GetRequest { name: pod.name.clone(), namespace: pod.namespace.clone() };
    let answer: GetResponse = call(client, GET, request).await?;
    Ok(answer.pod.filter(|found| is(found, pod)))
}

async fn list(client: &mut Grpc<Channel>, pod: &PodName) -> Result<Option<PodResources>, Status> {
    let answer: ListResponse = call(client, LIST, ListRequest {}).await?;
    Ok(answer.pods.into_iter().find(|found| is(found, pod)))
}

fn is(found: &PodResources, pod: &PodName) -> bool {
    found.name == pod.name && found.namespace == pod.namespace
}

async fn call<Q, A>(client: &mut Grpc<Channel>, path: &'static str, request: Q) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    client.ready().await.map_err(|e| Status::unavailable(said(&e)))?;
    let path = PathAndQuery::from_static(path);
    client.unary(Request::new(request), path, ProstCodec::default()).await.map(tonic::Response::into_inner)
}
