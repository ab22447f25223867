//! A look at the cards that is never due by the clock: whatever it sees anew, the kernel has told it of.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use plexus::config::daemon::DaemonConfig;
use plexus::supply::{self, Clerk, Lookout, Stock};
use serde_json::{Value, json};

/// As if there were no intervals: no test takes as long.
const NEVER: Duration = Duration::from_secs(86_400);
/// How long the kernel may take to tell, and the machine to look.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is seen: of each resource, and of all of them one after the other, its devices and whether each is healthy.
type Seen = Vec<(String, bool)>;

pub(crate) struct Looks(Receiver<Seen>);

impl Looks {
    /// Looks for this (`devices` of a daemon's configuration), in the namespace of the calling thread.
    pub(crate) fn start(devices: &Value) -> Looks {
        let conf = DaemonConfig::parse(json!({"devices": devices}).to_string().as_bytes()).unwrap();
        let lookout = Lookout::new(conf.devices.unwrap(), Clerk::default());
        let (tell, told) = channel();
        let seen = |stock: &Stock| -> Seen {
            let devices = stock.shelves.iter().flat_map(|shelf| &shelf.devices);
            devices.map(|(id, device)| (id.to_string(), device.ailment.is_none())).collect()
        };
        thread::spawn(move || supply::run(lookout, NEVER, |stock| tell.send(seen(stock)).is_ok()));
        Looks(told)
    }

    /// Waits until the devices are these.
    pub(crate) fn until(&self, what: &str, expected: &[(&str, bool)]) {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let seen = self.0.recv_timeout(left);
            assert!(seen.is_ok(), "{what} is not seen; last: {last:?}");
            let seen = seen.unwrap();
            if seen.iter().map(|(id, healthy)| (id.as_str(), *healthy)).eq(expected.iter().copied()) {
                return;
            }
            last = Some(seen);
        }
    }
}
