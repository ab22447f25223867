//! A word to end early, from whoever does not wait any more to whoever works for it. It does not know why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// What is told to whom it is said.
pub(super) const CANCELLED: &str = "cancelled: its DEL came, or its time is over";

/// Whether somebody still waits for a request. Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    is_cancelled: AtomicBool,
    waiting: Notify,
}

impl Cancel {
    /// Nobody waits any more: what waits for the cluster ends at once. Said twice it is said once.
    pub fn cancel(&self) {
        self.shared.is_cancelled.store(true, Ordering::SeqCst);
        self.shared.waiting.notify_waiters();
    }

    /// Whether it was said.
    pub fn is_cancelled(&self) -> bool {
        self.shared.is_cancelled.load(Ordering::SeqCst)
    }

    /// Ends when it is said.
    pub async fn cancelled(&self) {
        let mut told = std::pin::pin!(self.shared.waiting.notified());
        // Listening first, and looking then: what is said in between is heard.
        told.as_mut().enable();
        if !self.is_cancelled() {
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_before_and_while_somebody_listens_is_heard() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cancel = Cancel::default();
        let said = cancel.clone();
        assert!(!cancel.is_cancelled());
        runtime.block_on(async {
            let listening = tokio::spawn(async move { cancel.cancelled().await });
            tokio::task::yield_now().await;
            assert!(!listening.is_finished());
            said.cancel();
            listening.await.unwrap();
            said.cancelled().await;
        });
        assert!(said.is_cancelled());
    }
}
