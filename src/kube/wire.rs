//! One client for as long as a daemon lives. Its credentials and its server's address are read again when they are not accepted any
//! more: whoever wrote them has written others, or will.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch::{self, Receiver, Sender};

use super::call::{Calls, Failure};
use super::certificate::Term;
use super::connect::{self, Connected};
use super::limit::{End, Limit};

/// How often what it was made of is read again, at most.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// The way to the API server.
pub(super) struct Wire {
    kubeconfig: Option<PathBuf>,
    per_call: Limit,
    /// How long reading the kubeconfig, and what it names, may take.
    limit: Limit,
    connected: Mutex<Option<Connected>>,
    /// When it was read for the last time. Held while it is being read: one is enough.
    renewed: tokio::sync::Mutex<Option<Instant>>,
    /// A call was not answered.
    doubts: Sender<()>,
}

impl Wire {
    pub(super) fn new(kubeconfig: Option<PathBuf>, per_call: Limit, limit: Limit) -> Wire {
        let (connected, renewed) = (Mutex::new(None), tokio::sync::Mutex::new(None));
        Wire { kubeconfig, per_call, limit, connected, renewed, doubts: watch::channel(()).0 }
    }

    /// Hears of each call from now on that the server does not answer.
    pub(super) fn doubts(&self) -> Receiver<()> {
        self.doubts.subscribe()
    }

    /// Calls that have all ended by then.
    ///
    /// # Errors
    /// There has never been a client: why.
    pub(super) async fn calls(&self, end: End) -> Result<Calls, Failure> {
        loop {
            if let Some(connected) = self.connected() {
                if connected.term.as_ref().is_some_and(|term| term.is_ageing(Timestamp::now())) {
                    self.renew_certificate(connected.term.as_ref()).await;
                }
                let connected = self.connected().unwrap_or(connected);
                return Ok(Calls::new(connected, self.per_call, end).telling(self.doubts.clone()));
            }
            self.read(&mut *self.renewed.lock().await).await?;
        }
    }

    /// Reads again what the client was made of, where that is not just done.
    pub(super) async fn renew(&self) {
        let mut renewed = self.renewed.lock().await;
        if renewed.is_none_or(|at| at.elapsed() >= RENEW_EVERY) {
            // What cannot be read now leaves the client that there is.
            let _ = self.read(&mut renewed).await;
        }
    }

    /// A certificate that ends soon may have been replaced: connections with the other one are made before the server refuses this.
    async fn renew_certificate(&self, used: Option<&Term>) {
        let mut renewed = self.renewed.lock().await;
        if renewed.is_none_or(|at| at.elapsed() >= RENEW_EVERY) {
            *renewed = Some(Instant::now());
            if let Ok(made) = connect::within(self.kubeconfig.clone(), self.limit).await
                && made.term.as_ref() != used
            {
                self.put(made);
            }
        }
    }

    async fn read(&self, renewed: &mut Option<Instant>) -> Result<(), Failure> {
        let made = connect::within(self.kubeconfig.clone(), self.limit).await;
        *renewed = Some(Instant::now());
        let made = made.map_err(|e| Failure::Passing(e.to_string()))?;
        self.put(made);
        Ok(())
    }

    fn put(&self, made: Connected) {
        *self.connected.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
    }

    fn connected(&self) -> Option<Connected> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
