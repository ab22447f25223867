//! What the kubelet asks of a device plugin, and is answered. It knows no socket.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use http::{Request as HttpRequest, Response as HttpResponse};
use hyper::body::Incoming;
use prost::Message;
use prost::bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status};

use super::super::grpc::Plain;
use super::super::proto::deviceplugin::{
    ALLOCATE, AllocateRequest, AllocateResponse, ContainerResponse, Device, DeviceSpec, HEALTHY, LIST_AND_WATCH,
    ListAndWatchResponse, NumaNode, OPTIONS, PRE_START, PREFERRED, Topology, UNHEALTHY,
};
use crate::log::{verbose, warn};
use crate::supply::{Answer, Clerk, Stock};

/// In bytes, of what is asked: all devices of a node.
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// How long giving may take: a few files of sysfs, and of a file system in memory.
const GIVE_TIME: Duration = Duration::from_secs(10);
/// Of what is asked for, so many ids are told, and of each so much.
const SHOWN_MAX: usize = 16;
const SHOWN_CHARS_MAX: usize = 64;
/// A container's devices cgroup lets it do this.
const PERMISSIONS: &str = "rw";

type Lists = Pin<Box<dyn Stream<Item = Result<Vec<u8>, Status>> + Send>>;

/// One resource, as it is offered.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) resource: Arc<str>,
    pub(super) stock: watch::Receiver<Arc<Stock>>,
    pub(super) clerk: Arc<Clerk>,
    /// How many listen to what devices there are.
    pub(super) listening: Arc<AtomicUsize>,
}

/// Somebody listens.
struct Listening(Arc<AtomicUsize>);

impl Listening {
    fn begin(count: &Arc<AtomicUsize>) -> Listening {
        count.fetch_add(1, Ordering::Relaxed);
        Listening(Arc::clone(count))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Service {
    pub(super) async fn answer(self, request: HttpRequest<Incoming>) -> Result<HttpResponse<Body>, Infallible> {
        let mut grpc = Grpc::new(Plain).max_decoding_message_size(REQUEST_BYTES_MAX);
        let path = request.uri().path().to_owned();
        Ok(match path.as_str() {
            LIST_AND_WATCH => {
                let list = tower::service_fn(move |_: Request<Bytes>| {
                    let lists = self.lists();
                    async move { Ok::<_, Status>(Response::new(lists)) }
                });
                grpc.server_streaming(list, request).await
            }
            ALLOCATE => {
                let allocate = tower::service_fn(move |asked: Request<Bytes>| {
                    let service = self.clone();
                    async move { service.allocate(asked.into_inner()).await.map(Response::new) }
                });
                grpc.unary(allocate, request).await
            }
            // No option is set, nothing is preferred, nothing is done before a container starts: all of that is an empty message.
            OPTIONS | PREFERRED | PRE_START => {
                let nothing = |_: Request<Bytes>| async { Ok::<_, Status>(Response::new(Vec::new())) };
                grpc.unary(tower::service_fn(nothing), request).await
            }
            _ => Status::unimplemented("no call of a device plugin").into_http(),
        })
    }

    /// The devices now, and again whenever they are others.
    fn lists(&self) -> Lists {
        let state = (self.stock.clone(), Arc::clone(&self.resource), None, Listening::begin(&self.listening));
        Box::pin(unfold(state, |(mut stock, resource, last, listening)| async move {
            loop {
                let list = listed(&stock.borrow_and_update(), &resource);
                if last.as_ref() != Some(&list) {
                    return Some((Ok(list.clone()), (stock, resource, Some(list), listening)));
                }
                stock.changed().await.ok()?;
            }
        }))
    }

    async fn allocate(&self, asked: Bytes) -> Result<Vec<u8>, Status> {
        let asked = AllocateRequest::decode(asked).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let containers: Vec<Vec<String>> = asked.containers.into_iter().map(|container| container.ids).collect();
        let (stock, clerk) = (Arc::clone(&self.stock.borrow()), Arc::clone(&self.clerk));
        let (resource, told) = (Arc::clone(&self.resource), shown(&containers));
        let work = tokio::task::spawn_blocking(move || clerk.give(&stock, &resource, &containers));
        let given = match timeout(GIVE_TIME, work).await {
            Ok(Ok(given)) => given,
            Ok(Err(_)) => Err("giving them panicked".to_owned()),
            Err(_) => Err(format!("the node's files have not answered within {} s", GIVE_TIME.as_secs())),
        };
        let given = given.map_err(|why| {
            warn(&format!("devices {told} of {} are not given: {why}", self.resource));
            Status::failed_precondition(why)
        })?;
        verbose(|| format!("devices {told} of {} are given", self.resource));
        let containers = given.into_iter().map(container).collect();
        Ok(AllocateResponse { containers }.encode_to_vec())
    }
}

/// The ids that are asked for, as far as a line has room for them.
fn shown(containers: &[Vec<String>]) -> String {
    let all = || containers.iter().flatten();
    let some: Vec<String> = all().take(SHOWN_MAX).map(|id| format!("{id:.SHOWN_CHARS_MAX$}")).collect();
    let more = match all().count().saturating_sub(SHOWN_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{some:?}{more}")
}

fn listed(stock: &Stock, resource: &str) -> Vec<u8> {
    let devices = stock.shelf(resource).into_iter().flat_map(|shelf| &shelf.devices);
    let devices = devices.map(|(address, device)| Device {
        id: address.to_string(),
        health: if device.ailment.is_none() { HEALTHY } else { UNHEALTHY }.to_owned(),
        topology: device.numa_node.map(|node| Topology { nodes: vec![NumaNode { id: node.into() }] }),
    });
    ListAndWatchResponse { devices: devices.collect() }.encode_to_vec()
}

fn container(answer: Answer) -> ContainerResponse {
    let nodes = answer.nodes.into_iter();
    let devices = nodes.map(|(host_path, container_path)| DeviceSpec {
        container_path,
        host_path,
        permissions: PERMISSIONS.to_owned(),
    });
    ContainerResponse { envs: answer.variables, devices: devices.collect(), annotations: answer.annotations }
}
