//! A client certificate of the node's own (`perNodeCertificate`, as Multus' daemon has it): asked for by a login that is there
//! already, kept in a folder, renewed before it ends. Beside it is a kubeconfig that names it, by which this daemon and the node's
//! `plexus oneshot` log in. It does not know who uses it.

mod request;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use self::request::{Refused, Signing};
use self::store::{Pair, Store};
use super::again::{self, Rest};
use super::call::{Calls, Failure};
use super::connect;
use super::limit::{End, Limit};
use super::objects;
use super::signing::ORGANIZATION;
use super::watch::varied;
use crate::config::daemon::{Certificate, KUBECONFIG};
use crate::log::{verbose, warn};
use crate::sources::SourceError;

/// Of a hundred parts of its time, after how many a certificate is renewed: between these (client-go renews at 70 % to 90 %), another
/// time for every certificate, so that not all nodes of a cluster come at once.
const RENEW_FROM: i64 = 70;
const RENEW_SPREAD: u64 = 20;
const WHOLE: i64 = 100;

/// How often what is in the folder is looked at: another may have renewed it, and clocks are set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often the server is asked whether it still takes it: who signs may have become another.
const PROBE_EVERY: Duration = Duration::from_secs(600);
const PROBE_TIME: Duration = Duration::from_secs(10);

/// The first pause after an attempt without success; it doubles up to the other.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// How long one call may take, and reading a kubeconfig with what it names.
const CALL_TIME: Limit = Limit::own(Duration::from_secs(10));
/// Name servers, above all.
const BLOCKING_THREADS_MAX: usize = 4;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    node: String,
    /// A kubeconfig by which it is asked for.
    bootstrap: PathBuf,
    dir: PathBuf,
    life: Duration,
}

impl Wanted {
    /// As the configuration says; none: it wants none. `node`: the name of this node, where it is known.
    ///
    /// # Errors
    /// A sentence: without one of them there is none to be had.
    pub fn of(certificate: &Certificate, node: Option<String>) -> Result<Option<Wanted>, String> {
        if !certificate.enabled {
            return Ok(None);
        }
        let needed = |key: &str, path: &Option<PathBuf>| {
            path.clone().ok_or_else(|| format!("perNodeCertificate.{key} is not given, and nothing stands for it"))
        };
        let bootstrap = needed("bootstrapKubeconfig", &certificate.bootstrap_kubeconfig)?;
        let dir = needed("certDir", &certificate.dir)?;
        let node = node.ok_or(
            "perNodeCertificate: the node's name is not known: its pod has it as MULTUS_NODE_NAME or NODE_NAME (spec.nodeName)",
        )?;
        objects::checked("node", &node).map_err(|e| e.to_string())?;
        Ok(Some(Wanted { node, bootstrap, dir, life: certificate.duration }))
    }
}

/// Keeps a certificate while it lives.
#[derive(Debug)]
pub struct Enrolment {
    /// Dropped: the thread ends.
    _alive: oneshot::Sender<()>,
}

impl Enrolment {
    /// Starts a thread that goes on by itself, whether or not there is a certificate to be had.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(wanted: Wanted) -> std::io::Result<Enrolment> {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()?;
        let (alive, ended) = oneshot::channel();
        let keeper = Keeper::new(wanted);
        std::thread::Builder::new().name("certificate".to_owned()).spawn(move || {
            again::drive(&runtime, ended, Rest::USUAL, &AtomicBool::new(false), || keeper.keep());
            // Without waiting for what hangs in it.
            runtime.shutdown_background();
        })?;
        Ok(Enrolment { _alive: alive })
    }
}

/// How what is in the folder stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// It can be used, and is to be renewed at this time, in seconds.
    Good { renew_at: i64 },
    /// It cannot: why.
    Useless(String),
    /// There is none.
    None,
}

fn standing(found: &Result<Option<Pair>, String>, common_name: &str, now: Timestamp) -> Standing {
    let pair = match found {
        Ok(Some(pair)) => pair,
        Ok(None) => return Standing::None,
        Err(why) => return Standing::Useless(why.clone()),
    };
    let leaf = &pair.leaf;
    if !leaf.is_of(common_name, ORGANIZATION) {
        let name = leaf.common_name();
        return Standing::Useless(format!("the certificate is of {name:?} and not of {common_name} ({ORGANIZATION})"));
    }
    if leaf.end <= now {
        return Standing::Useless(format!("the certificate was valid until {}", leaf.end));
    }
    let more = i64::try_from(pair.number() % (RENEW_SPREAD + 1)).unwrap_or_default();
    Standing::Good { renew_at: leaf.at(RENEW_FROM + more, WHOLE) }
}

/// Who logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    /// The node, by its certificate.
    Own,
    Bootstrap,
}

/// What is remembered from one round to the next.
struct Rounds {
    pause: Duration,
    /// What still may be approved.
    pending: Option<Signing>,
    /// When the server was asked last whether it takes the certificate.
    probed: Option<Instant>,
    /// Why the kubeconfig could not be written: said once.
    unwritten: Option<String>,
}

impl Default for Rounds {
    fn default() -> Rounds {
        Rounds { pause: RETRY_MIN, pending: None, probed: None, unwritten: None }
    }
}

impl Rounds {
    /// How long the next attempt is waited for.
    fn back_off(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY_MAX);
        varied(pause)
    }
}

struct Keeper {
    wanted: Wanted,
    common_name: String,
    store: Store,
}

impl Keeper {
    fn new(wanted: Wanted) -> Keeper {
        let common_name = format!("{ORGANIZATION}:{}", wanted.node);
        let store = Store::new(&wanted.dir);
        Keeper { wanted, common_name, store }
    }

    /// Without an end.
    async fn keep(&self) {
        let mut rounds = Rounds::default();
        loop {
            let rest = self.round(&mut rounds).await;
            tokio::time::sleep(rest).await;
        }
    }

    /// Looks, and does what is to be done; how long it may rest then.
    async fn round(&self, rounds: &mut Rounds) -> Duration {
        let unwritten = self.write_kubeconfig().err();
        if let Some(why) = unwritten.as_ref().filter(|_| unwritten != rounds.unwritten) {
            warn(&format!("perNodeCertificate: the kubeconfig of the node's certificate is not written: {why}"));
        }
        rounds.unwritten = unwritten;
        let now = Timestamp::now();
        let standing = standing(&self.store.current(), &self.common_name, now);
        let is_useful = match &standing {
            Standing::Good { renew_at } => {
                let is_refused = self.is_refused(rounds).await;
                let left = renew_at.saturating_sub(now.as_second());
                if let (false, Some(left)) = (is_refused, u64::try_from(left).ok().filter(|left| *left > 0)) {
                    (rounds.pause, rounds.pending) = (RETRY_MIN, None);
                    return Duration::from_secs(left).min(LOOK_EVERY);
                }
                !is_refused
            }
            Standing::Useless(why) => {
                warn(&format!("perNodeCertificate: another certificate is asked for: {why}"));
                false
            }
            Standing::None => false,
        };
        let logins: &[Login] = if is_useful { &[Login::Own, Login::Bootstrap] } else { &[Login::Bootstrap] };
        match self.obtain(rounds, logins).await {
            Ok(pair) => {
                let (name, end) = (&self.common_name, pair.leaf.end);
                verbose(|| format!("perNodeCertificate: the certificate of {name} is valid until {end}"));
                rounds.probed = Some(Instant::now());
                // What was issued may be over at once: only a round that finds it good ends the pauses.
                rounds.back_off()
            }
            Err(why) => {
                let pause = rounds.back_off();
                warn(&format!("perNodeCertificate: {why}; the next attempt is in {} s", pause.as_secs()));
                pause
            }
        }
    }

    /// Whether the server does not know who signed it.
    async fn is_refused(&self, rounds: &mut Rounds) -> bool {
        if rounds.probed.is_some_and(|at| at.elapsed() < PROBE_EVERY) {
            return false;
        }
        rounds.probed = Some(Instant::now());
        let Ok(calls) = self.calls(Login::Own).await else { return false };
        let answer = calls.within(PROBE_TIME).get::<IgnoredAny>("/api").await;
        if let Err(Failure::Login(why)) = answer {
            // Once more at the next round: it may have been the server's own certificate.
            rounds.probed = None;
            warn(&format!("perNodeCertificate: another certificate is asked for: {why}"));
            return true;
        }
        false
    }

    /// The first of these who is heard asks for it.
    async fn obtain(&self, rounds: &mut Rounds, logins: &[Login]) -> Result<Pair, String> {
        let mut signing = match rounds.pending.take() {
            Some(signing) => signing,
            None => Signing::new(&self.common_name, self.wanted.life)?,
        };
        let mut unheard = Vec::new();
        for login in logins {
            let carried_out = match self.calls(*login).await {
                Ok(calls) => signing.carry_out(&calls).await,
                Err(e) => Err(Refused::Unheard(e.to_string())),
            };
            match carried_out {
                Ok(pair) => {
                    let kept = self.store.put(&pair, &signing.key_pem(), Timestamp::now());
                    return kept
                        .map(|()| pair)
                        .map_err(|why| format!("a certificate was issued, and is not kept: {why}"));
                }
                Err(Refused::Ended(why)) => return Err(why),
                Err(Refused::Late(why)) => {
                    rounds.pending = Some(signing);
                    return Err(why);
                }
                Err(Refused::Unheard(why)) => unheard.push(match login {
                    Login::Own => format!("by the node's certificate: {why}"),
                    Login::Bootstrap => format!("by {}: {why}", self.wanted.bootstrap.display()),
                }),
            }
        }
        rounds.pending = Some(signing);
        Err(unheard.join("; "))
    }

    async fn calls(&self, login: Login) -> Result<Calls, SourceError> {
        let kubeconfig = match login {
            Login::Own => kubeconfig(&self.wanted.dir),
            Login::Bootstrap => self.wanted.bootstrap.clone(),
        };
        let connected = connect::within(Some(kubeconfig), CALL_TIME).await?;
        Ok(Calls::new(connected, CALL_TIME, End::after(CALL_TIME)))
    }

    /// Where the bootstrap kubeconfig's server is, and the certificate beside it: by a relative path, which everybody reads from the
    /// kubeconfig's folder.
    fn write_kubeconfig(&self) -> Result<(), String> {
        let cluster = connect::cluster_of(&self.wanted.bootstrap)?;
        let user = json!({"client-certificate": Store::name(), "client-key": Store::name()});
        let whole = json!({"apiVersion": "v1", "kind": "Config", "current-context": "plexus",
            "clusters": [{"name": "local", "cluster": cluster}], "users": [{"name": "plexus", "user": user}],
            "contexts": [{"name": "plexus", "context": {"cluster": "local", "user": "plexus"}}]});
        let mut bytes = serde_json::to_vec_pretty(&whole).map_err(|e| e.to_string())?;
        bytes.push(b'\n');
        self.store.write(KUBECONFIG, &bytes)
    }
}

/// The kubeconfig in a folder of certificates.
fn kubeconfig(dir: &Path) -> PathBuf {
    dir.join(KUBECONFIG)
}
