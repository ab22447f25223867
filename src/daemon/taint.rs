//! A taint that keeps pods off a node until plexus can attach them: whoever registers the node gives it, and the node's daemon takes it off
//! once. It does not know when.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::page::Board;
use crate::log::warn;

/// Between two attempts, which have a deadline of their own; it doubles up to the other.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Bounds of a key's parts (Kubernetes: a qualified name).
const PREFIX_BYTES_MAX: usize = 253;
const NAME_BYTES_MAX: usize = 63;

/// The taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Whose it is.
    pub node: String,
    /// Its key; whatever its value and effect are.
    pub key: String,
}

impl Taint {
    /// Whether it can be the key of one.
    pub fn is_key(text: &str) -> bool {
        let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
        let is_part = |part: &str, most: usize| {
            let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
            let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            part.len() <= most && ends(part.bytes().next()) && ends(part.bytes().last()) && part.bytes().all(is_inner)
        };
        is_part(name, NAME_BYTES_MAX) && prefix.is_none_or(|prefix| is_part(prefix, PREFIX_BYTES_MAX))
    }

    /// Takes it off, in a thread of its own that ends when that is done.
    ///
    /// # Errors
    /// No thread.
    pub(super) fn remove(self, board: Arc<Board>) -> io::Result<()> {
        thread::Builder::new().name("taint".to_owned()).spawn(move || self.run(&board)).map(drop)
    }

    fn run(&self, board: &Board) {
        let Taint { node, key } = self;
        let (mut pause, mut said) = (PAUSE_MIN, String::new());
        loop {
            // It is watched from the start, or from the first request on that names a pod.
            let why = match board.known().map(|known| known.remove_taint(node, key)) {
                Some(Ok(true)) => return warn(&format!("the taint {key} is taken off the node {node}")),
                Some(Ok(false)) => return,
                Some(Err(error)) => error.to_string(),
                None => {
                    format!("taking the taint {key} off the node {node}: nothing says how the API server is reached")
                }
            };
            if why != said {
                warn(&format!("{why}; no pod comes to this node that does not tolerate it; it is tried again"));
                said = why;
            }
            thread::park_timeout(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_taint_can_be_called_is_no_key() {
        for key in ["plexus/not-ready", "not-ready", "a.b.c/D_e.f"] {
            assert!(Taint::is_key(key), "{key}");
        }
        let long = format!("plexus/{}", "x".repeat(NAME_BYTES_MAX + 1));
        for key in ["", "/", "plexus/", "/not-ready", "a/b/c", "not ready", "-x", "plexus/not-ready=:NoSchedule", &long]
        {
            assert!(!Taint::is_key(key), "{key}");
        }
    }
}
