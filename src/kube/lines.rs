//! An answer that has no end, as lines: each is an event of a watch. It does not know what they say.

use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;

use super::call::Failure;

/// More than any object: etcd's own bound is 1.5 MiB, and JSON can say it in twice as much.
const LINE_BYTES_MAX: usize = 4 << 20;
/// What is kept to read the next lines into: one large object does not stay.
const KEPT_BYTES_MAX: usize = 32 << 10;

/// Lines that come in while they are read.
pub(super) struct Lines {
    body: Body,
    /// Its address, for people.
    server: String,
    buffer: Vec<u8>,
    /// Up to here there is no end of a line.
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Body, server: String) -> Lines {
        Lines { body, server, buffer: Vec::new(), searched: 0 }
    }

    /// The next line; none when the server has ended. Half a line at the end is none. `idle`: how long nothing may come.
    ///
    /// # Errors
    /// The connection broke, nothing came, or a line has no end.
    pub(super) async fn next(&mut self, idle: Duration) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(line) = self.taken() {
                return Ok(Some(line));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(Failure::Lasting(format!("{} sent an event beyond {LINE_BYTES_MAX} bytes", self.server)));
            }
            let broken = |why: String| Failure::Passing(format!("{}: watching: {why}", self.server));
            let frame = tokio::time::timeout(idle, self.body.frame()).await;
            match frame.map_err(|_| broken(format!("nothing came within {} s", idle.as_secs())))? {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.map_err(|e| broken(e.to_string()))?;
                    // Trailers say nothing here.
                    self.buffer.extend(frame.into_data().unwrap_or_default());
                }
            }
        }
    }

    fn taken(&mut self) -> Option<Vec<u8>> {
        let found = self.buffer.iter().skip(self.searched).position(|byte| *byte == b'\n');
        let Some(found) = found else {
            self.searched = self.buffer.len();
            return None;
        };
        let rest = self.buffer.split_off(self.searched + found + 1);
        let line = std::mem::replace(&mut self.buffer, rest);
        self.searched = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BYTES_MAX {
            self.buffer = Vec::new();
        }
        Some(line)
    }
}
