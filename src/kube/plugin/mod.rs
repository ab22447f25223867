//! The node's devices are offered to its kubelet (device plugin API, v1beta1): a socket for each resource, at which the kubelet is
//! told what there is and asks for it. Where another device plugin offers a resource, that one is left to it, and it is said.
//!
//! A kubelet that begins anew has forgotten its plugins and removed their sockets: they are looked for, and made again. It does
//! not know what a device is.

mod door;
mod service;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::client::Grpc;

use self::door::{Door, Identity, is_alive};
use self::service::Service;
use super::again::{self, Rest};
use super::grpc::{call, connect, said};
use super::kubelet;
use super::proto::deviceplugin::{REGISTER, RegisterRequest, VERSION};
use crate::log::{verbose, warn};
use crate::supply::{Clerk, Stock};

/// The kubelet's own socket in the folder of device plugins.
const KUBELET: &str = "kubelet.sock";
/// The folder beside it with sockets of plugins that the kubelet finds by itself.
const REGISTRY: &str = "plugins_registry";
/// How often it is looked whether the kubelet is the same: one that begins anew lets pods in at once, and refuses those whose devices
/// it does not know yet.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long registering may take.
const REGISTER_TIME: Duration = Duration::from_secs(5);
/// A kubelet that was registered with listens at once; longer than this without is another's doing, or none is there.
const LISTEN_WAIT: Duration = Duration::from_secs(10);
/// The pause after what did not work; it doubles up to the other.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often it is asked whether another one still offers a resource, and how long that one may be away: it is replaced in less.
const OTHER_EVERY: Duration = Duration::from_secs(5);
const OTHER_AWAY: Duration = Duration::from_secs(30);
/// Looks that must find the same before it counts: a kubelet needs a moment to see that a plugin has gone.
const SIGHTINGS: u32 = 2;
/// A socket's path has so many bytes at most (sockaddr_un).
const PATH_BYTES_MAX: usize = 107;
/// Threads for what takes a moment; they end when there is nothing.
const BLOCKING_THREADS_MAX: usize = 2;

/// What is offered.
#[derive(Debug)]
pub struct Offer {
    /// Whole names of the resources.
    pub resources: Vec<String>,
    /// The kubelet's folder of device plugins.
    pub dir: PathBuf,
    /// Who gives.
    pub clerk: Clerk,
}

/// Offers while it lives.
#[derive(Debug)]
pub struct Plugins {
    stock: watch::Sender<Arc<Stock>>,
    /// Dropped: the thread ends.
    _alive: oneshot::Sender<()>,
}

impl Plugins {
    /// Starts a thread that goes on by itself, whether or not there is a kubelet.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(offer: Offer) -> std::io::Result<Plugins> {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()?;
        let (alive, ended) = oneshot::channel();
        let (stock, seen) = watch::channel(Arc::new(Stock::default()));
        std::thread::Builder::new().name("devices".to_owned()).spawn(move || {
            again::drive(&runtime, ended, Rest::USUAL, &AtomicBool::new(false), || offer_all(&offer, &seen));
            // Without waiting for what hangs in it.
            runtime.shutdown_background();
        })?;
        Ok(Plugins { stock, _alive: alive })
    }

    /// What there is now. Whether anybody still wants to know.
    pub fn publish(&self, stock: &Stock) -> bool {
        self.stock.send_if_modified(|now| {
            let is_new = now.as_ref() != stock;
            if is_new {
                *now = Arc::new(stock.clone());
            }
            is_new
        });
        !self.stock.is_closed()
    }
}

async fn offer_all(offer: &Offer, stock: &watch::Receiver<Arc<Stock>>) {
    let clerk = Arc::new(offer.clerk.clone());
    let mut all = JoinSet::new();
    for resource in &offer.resources {
        let listening = Arc::new(AtomicUsize::new(0));
        let service =
            Service { resource: resource.as_str().into(), stock: stock.clone(), clerk: Arc::clone(&clerk), listening };
        match Plugin::new(&offer.dir, service) {
            Ok(plugin) => drop(all.spawn(plugin.keep())),
            Err(why) => warn(&format!("{resource} is not offered: {why}")),
        }
    }
    // None of them ends but by a panic, which is this work's own.
    while let Some(ended) = all.join_next().await {
        if let Err(e) = ended
            && e.is_panic()
        {
            std::panic::resume_unwind(e.into_panic());
        }
    }
    std::future::pending::<()>().await;
}

/// A resource that is kept offered.
struct Plugin {
    dir: PathBuf,
    endpoint: String,
    /// Where the other device plugin has its sockets of this resource.
    others: [PathBuf; 2],
    service: Service,
    door: Option<Door>,
    /// The one that was there last.
    kubelet: Option<Identity>,
    /// The kubelet that knows of it, and since when.
    registered: Option<(Identity, Instant)>,
    /// A daemon that is newer has taken the socket over.
    is_superseded: bool,
    /// When somebody else who offers it was last seen, and how often in a row.
    other: Option<Instant>,
    sightings: u32,
    /// Nothing is tried before.
    not_before: Instant,
    pause: Duration,
    /// What was said last, and still holds.
    said: String,
}

impl Plugin {
    fn new(dir: &Path, service: Service) -> Result<Plugin, String> {
        let name = service.resource.replace('/', "_");
        let endpoint = format!("plexus-{name}.sock");
        if dir.join(&endpoint).as_os_str().len() > PATH_BYTES_MAX {
            return Err(format!("the path of its socket {endpoint} in {} is too long", dir.display()));
        }
        let other = format!("{name}.sock");
        let registry = dir.parent().unwrap_or(dir).join(REGISTRY);
        Ok(Plugin {
            others: [dir.join(&other), registry.join(other)],
            dir: dir.to_owned(),
            endpoint,
            service,
            door: None,
            kubelet: None,
            registered: None,
            is_superseded: false,
            other: None,
            sightings: 0,
            not_before: Instant::now(),
            pause: PAUSE_MIN,
            said: String::new(),
        })
    }

    async fn keep(mut self) {
        loop {
            self.turn().await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// One look, and what follows from it.
    async fn turn(&mut self) {
        let is_empty = self.service.stock.borrow().shelf(&self.service.resource).is_none_or(|s| s.devices.is_empty());
        if is_empty {
            return;
        }
        let Some(kubelet) = Identity::of(&self.dir.join(KUBELET)) else {
            return self.tell(format!("there is no kubelet's socket in {}", self.dir.display()));
        };
        // What an earlier one did not answer, a new one does.
        if self.kubelet.replace(kubelet) != Some(kubelet) {
            (self.not_before, self.pause) = (Instant::now(), PAUSE_MIN);
        }
        if Instant::now() < self.not_before {
            return;
        }
        if self.is_offered(kubelet) {
            if self.is_listened_to() {
                self.pause = PAUSE_MIN;
            }
            return;
        }
        if let Some(who) = self.other().await {
            self.yield_to(&who);
        } else if self.other.is_some_and(|seen| seen.elapsed() < OTHER_AWAY) {
            self.not_before = Instant::now() + OTHER_EVERY;
        } else if self.sightings > 0 {
            self.not_before = Instant::now() + PAUSE_MIN;
        } else {
            self.offer(kubelet).await;
        }
    }

    /// The kubelet knows of it, and listens or is about to.
    fn is_offered(&self, kubelet: Identity) -> bool {
        let is_known = self
            .registered
            .is_some_and(|(with, since)| with == kubelet && (self.is_listened_to() || since.elapsed() < LISTEN_WAIT));
        is_known && self.door.as_ref().is_some_and(Door::is_there)
    }

    fn is_listened_to(&self) -> bool {
        self.service.listening.load(Ordering::Relaxed) > 0
    }

    /// Who else offers this resource. At the start a daemon that is older gives way; later another daemon is a newer one.
    async fn other(&mut self) -> Option<String> {
        let own = self.dir.join(&self.endpoint);
        let is_own_there = self.door.as_ref().is_some_and(Door::is_there);
        let is_replaced = self.door.is_some() && !is_own_there && is_alive(&own).await;
        if is_replaced || (self.is_superseded && is_alive(&own).await) {
            self.is_superseded = true;
            return Some("another plexus".to_owned());
        }
        self.is_superseded = false;
        for other in &self.others {
            if is_alive(other).await {
                return Some(format!("another device plugin ({})", other.display()));
            }
        }
        // One whose socket has some other name: the kubelet has its devices, and nobody asks here.
        let is_older_one = self.door.is_none() && is_alive(&own).await;
        let has = if self.is_listened_to() || is_older_one {
            None
        } else {
            kubelet::has(self.dir.parent().unwrap_or(&self.dir), &self.service.resource, REGISTER_TIME).await
        };
        self.sightings = if has == Some(true) { self.sightings + 1 } else { 0 };
        (self.sightings >= SIGHTINGS).then(|| "another device plugin".to_owned())
    }

    fn yield_to(&mut self, who: &str) {
        self.door = None;
        self.registered = None;
        self.other = Some(Instant::now());
        self.not_before = Instant::now() + OTHER_EVERY;
        self.tell(format!("{who} offers it to the kubelet: it is left to that one"));
    }

    async fn offer(&mut self, kubelet: Identity) {
        (self.other, self.registered) = (None, None);
        match self.try_offer().await {
            Ok(()) => {
                self.registered = Some((kubelet, Instant::now()));
                self.said.clear();
                verbose(|| format!("{} is offered to the kubelet", self.service.resource));
            }
            Err(why) => self.tell(why),
        }
        // Also where it worked: one that takes it and does not listen is not asked in a storm.
        self.not_before = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    async fn try_offer(&mut self) -> Result<(), String> {
        if !self.door.as_ref().is_some_and(Door::is_there) {
            let path = self.dir.join(&self.endpoint);
            let opened = Door::open(&path, self.service.clone());
            self.door = Some(opened.map_err(|e| format!("listening on {}: {e}", path.display()))?);
        }
        let request = RegisterRequest {
            version: VERSION.to_owned(),
            endpoint: self.endpoint.clone(),
            resource_name: self.service.resource.to_string(),
        };
        let socket = self.dir.join(KUBELET);
        let registering = async {
            let mut client = Grpc::new(connect(socket).await.map_err(|e| said(&e))?);
            let answer = call(&mut client, REGISTER, request.encode_to_vec()).await;
            answer.map(drop).map_err(|status| status.message().to_owned())
        };
        let registered = timeout(REGISTER_TIME, registering).await;
        let why = registered.unwrap_or_else(|_| Err(format!("no answer within {} s", REGISTER_TIME.as_secs())));
        why.map_err(|why| format!("registering with the kubelet: {why}"))
    }

    /// Once, until something else is to be said.
    fn tell(&mut self, what: String) {
        if self.said != what {
            warn(&format!("devices of {}: {what}", self.service.resource));
            self.said = what;
        }
    }
}
