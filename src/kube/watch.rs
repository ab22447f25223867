//! Objects of one kind, kept as the API server has them: listed once, streamed where the server does so, and watched from there on.
//! It does not know what they mean, nor who reads them.

use std::collections::BTreeSet;
use std::path::Path;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch::Receiver;

use super::cache::{Change, Kept, Table};
use super::call::{Calls, Failure, of_status};
use super::limit::{End, Limit};
use super::lines::Lines;
use super::objects::{Named, Page, Refusal, is_version};
use super::shelf::Shelf;
use super::wire::Wire;
use crate::cluster::Name;
use crate::log::warn;

/// The first pause before another attempt; it doubles up to the other. Of each pause, up to half is left out: a server that comes
/// back is not asked by all nodes at once.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A watch that lasted as long was none that fails.
const LASTED: Duration = Duration::from_secs(5);
/// How long a list may take, and the beginning of a watch.
const OPEN_TIME: Duration = Duration::from_secs(30);
/// When the server ends a watch, in seconds; and when it should have.
const WATCH_SECONDS: u64 = 300;
const WATCH_IDLE: Duration = Duration::from_secs(WATCH_SECONDS + 30);
/// How long a watch is believed after it was begun, whatever becomes of other calls: one that the server does not answer is a reason
/// to begin the watch again, which shows whether the server is there, and not more often than this.
const BELIEVED: Duration = Duration::from_secs(10);
/// How long nothing may come while a list is streamed.
const LIST_IDLE: Duration = Duration::from_secs(30);
/// Objects of a page: whole pods are large, and only one page is in memory.
const PAGE_ITEMS: usize = 100;
/// Pages of a list: more than any cluster has definitions.
const PAGES_MAX: usize = 500;
/// At the end of a streamed list the server sets it (Kubernetes API concepts, "Streaming lists").
const END_OF_LIST: &str = "k8s.io/initial-events-end";

/// Why objects are not known to be as the API server has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Since when.
    pub since: SystemTime,
    /// What the last attempt came to.
    pub why: String,
    /// The server, or the way to it, is not able to answer; otherwise it answers that it will not.
    pub is_away: bool,
}

/// How far what is known can be relied on.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// The whole list has come once.
    pub(super) is_synced: bool,
    /// When all of it was right for the last time, this daemon's or the one's before it.
    pub(super) confirmed: Option<SystemTime>,
    pub(super) trouble: Option<Trouble>,
}

impl Standing {
    pub(super) fn is_away(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.is_away)
    }
}

/// All objects of a kind.
pub(super) struct Collection<T> {
    /// Where they are, for parameters to follow.
    path: String,
    table: RwLock<Table<T>>,
    shelf: Shelf<T>,
    standing: Mutex<Standing>,
}

/// How far a watch has come.
struct Progress {
    /// From where it goes on; none: from the beginning.
    version: Option<String>,
    /// The server has not refused to stream a list, nor broken off.
    streams: bool,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl<T: Kept> Collection<T> {
    /// What was known last, from the disk.
    pub(super) fn new(path: String, state_dir: &Path) -> Collection<T> {
        let shelf = Shelf::new(state_dir);
        let mut table = Table::new();
        for (name, item) in shelf.load() {
            table.put(name, item);
        }
        let standing = Standing { confirmed: shelf.confirmed(), ..Standing::default() };
        Collection { path, table: RwLock::new(table), shelf, standing: Mutex::new(standing) }
    }

    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn table(&self) -> RwLockReadGuard<'_, Table<T>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Table<T>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps them as the server has them, until it is dropped. `restarted` is called before each further attempt,
    /// with whether the one before failed.
    pub(super) async fn follow(&self, wire: &Wire, restarted: impl Fn(bool)) {
        let mut progress = Progress { version: None, streams: true };
        let mut pause = PAUSE_MIN;
        loop {
            let began = Instant::now();
            let ended = self.round(&mut progress, wire).await;
            let has_lasted = began.elapsed() >= LASTED;
            if has_lasted {
                pause = PAUSE_MIN;
            }
            restarted(ended.is_err());
            match ended {
                // The server ends each after its time.
                Ok(()) if has_lasted => continue,
                Ok(()) => {}
                Err(Failure::Expired(_)) => progress.version = None,
                Err(_) => wire.renew().await,
            }
            tokio::time::sleep(varied(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn round(&self, progress: &mut Progress, wire: &Wire) -> Result<(), Failure> {
        loop {
            let opened =
                async { self.open(progress, &wire.calls(End::after(Limit::own(OPEN_TIME))).await?).await }.await;
            let (mut lines, mut listed) = opened.inspect_err(|failure| self.fails(failure))?;
            let ended = self.take_all(&mut lines, progress, &mut listed, wire.doubts()).await;
            if listed.is_none() {
                return ended;
            }
            // Not every server that takes the parameters can stream a list (one before an etcd without progress, above all): from
            // now on lists come in pages, and if it was something else, that will say so.
            progress.streams = false;
        }
    }

    /// Event after event, until the server ends, or it is doubtful whether it is there.
    async fn take_all(
        &self,
        lines: &mut Lines,
        progress: &mut Progress,
        listed: &mut Option<BTreeSet<Name>>,
        doubts: Receiver<()>,
    ) -> Result<(), Failure> {
        let mut doubted = pin!(doubted(doubts, varied(BELIEVED)));
        loop {
            let idle = if listed.is_some() { LIST_IDLE } else { WATCH_IDLE };
            let line = tokio::select! {
                line = lines.next(idle) => line?,
                () = &mut doubted, if listed.is_none() => return Ok(()),
            };
            let Some(line) = line else { return Ok(()) };
            self.read(&line, progress, listed)?;
        }
    }

    /// The next attempt could come too late for those who ask meanwhile: from now on what is known is the last known.
    fn fails(&self, failure: &Failure) {
        // What is too old is read anew: the server does answer.
        if matches!(failure, Failure::Expired(_)) {
            return;
        }
        let why = match failure {
            Failure::Missing => format!("it knows no {}: a cluster learns what they are from deployments/crd", T::KIND),
            other => other.to_string(),
        };
        let mut standing = self.standing();
        if standing.trouble.is_none() {
            warn(&format!("{} are not watched for the moment: {why}", T::KIND));
        }
        let since = standing.trouble.as_ref().map_or_else(SystemTime::now, |trouble| trouble.since);
        standing.trouble = Some(Trouble { since, why, is_away: failure.is_passing() });
    }

    /// A watch, and where it begins with the list, which names have come so far.
    async fn open(&self, progress: &mut Progress, calls: &Calls) -> Result<(Lines, Option<BTreeSet<Name>>), Failure> {
        let path = &self.path;
        let watch = format!("{path}&watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}");
        if progress.version.is_none() && progress.streams {
            let list = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
            match calls.follow(&format!("{watch}{list}")).await {
                // A server that does not know it, or where it is disabled, refuses the parameters (422).
                Err(Failure::Lasting(_)) => progress.streams = false,
                opened => {
                    let lines = opened?;
                    self.change().forget_gaps();
                    return Ok((lines, Some(BTreeSet::new())));
                }
            }
        }
        let version = match &progress.version {
            Some(version) => version.clone(),
            None => self.list(calls).await?,
        };
        let lines = calls.follow(&format!("{watch}&resourceVersion={version}")).await?;
        progress.version = Some(version);
        self.standing().trouble = None;
        Ok((lines, None))
    }

    /// A page after the other; from where on the list can be watched.
    async fn list(&self, calls: &Calls) -> Result<String, Failure> {
        let mut listed = BTreeSet::new();
        let mut next = String::new();
        self.change().forget_gaps();
        for _ in 0..PAGES_MAX {
            let path = format!("{}&limit={PAGE_ITEMS}{next}", self.path);
            let page: Page<T::Object> = calls.list(&path).await?;
            if !page.is(T::LIST) {
                return Err(calls.foreign());
            }
            let more = page.next().map(|next| format!("&continue={next}"));
            let version = page.version().map(str::to_owned);
            for object in page.items {
                if let Some(name) = self.put(object) {
                    listed.insert(name);
                }
            }
            match (more, version) {
                (Some(more), _) => next = more,
                (None, Some(version)) => {
                    self.complete(&listed);
                    return Ok(version);
                }
                (None, None) => break,
            }
        }
        Err(Failure::Lasting(format!("a list of {} that has no end, or no version", T::KIND)))
    }

    /// One event.
    fn read(&self, line: &[u8], progress: &mut Progress, listed: &mut Option<BTreeSet<Name>>) -> Result<(), Failure> {
        let odd = |e: serde_json::Error| Failure::Lasting(format!("an event that is none: {e}"));
        let event: Event = serde_json::from_slice(line).map_err(odd)?;
        let text = event.object.get();
        if event.kind == "ERROR" {
            let Refusal { code, message } = serde_json::from_str(text).unwrap_or_default();
            return Err(of_status(code, &message));
        }
        let Named { metadata } = serde_json::from_str(text).map_err(odd)?;
        let name = (metadata.namespace, metadata.name);
        match event.kind {
            "ADDED" | "MODIFIED" => {
                match serde_json::from_str::<T::Object>(text) {
                    Ok(object) => drop(self.put(object)),
                    // One that cannot be read is no one's excuse: who needs it asks for it, and is told.
                    Err(_) => self.remove(&name),
                }
                if let Some(listed) = listed {
                    listed.insert(name);
                }
            }
            "DELETED" => {
                self.remove(&name);
                if let Some(listed) = listed {
                    listed.remove(&name);
                }
            }
            "BOOKMARK" => {
                let has_ended =
                    metadata.annotations.is_some_and(|all| all.get(END_OF_LIST).is_some_and(|v| v == "true"));
                match listed.take_if(|_| has_ended) {
                    Some(listed) => self.complete(&listed),
                    None if listed.is_none() => self.confirm(),
                    None => {}
                }
            }
            _ => {}
        }
        if listed.is_none() && is_version(&metadata.resource_version) {
            progress.version = Some(metadata.resource_version);
        }
        Ok(())
    }

    fn put(&self, object: T::Object) -> Option<Name> {
        let meta = T::meta(&object);
        let name = (meta.namespace.clone(), meta.name.clone());
        if name.1.is_empty() {
            return None;
        }
        let item = T::trimmed(object);
        let change = self.change().put(name.clone(), item.clone());
        match change {
            Change::Same => {}
            Change::New => self.shelf.put(&name, &item),
            Change::NoRoom => {
                self.shelf.remove(&name);
                warn(&format!("{} {}/{} is asked for each time: there is no room to keep it", T::KIND, name.0, name.1));
            }
        }
        Some(name)
    }

    fn remove(&self, name: &Name) {
        if self.change().remove(name) {
            self.shelf.remove(name);
        }
    }

    /// The whole list has come: what is not in it is gone.
    fn complete(&self, listed: &BTreeSet<Name>) {
        let gone = self.table().absent_from(listed);
        for name in &gone {
            self.remove(name);
        }
        self.confirm();
        let mut standing = self.standing();
        (standing.is_synced, standing.trouble) = (true, None);
    }

    /// Up to now all of it is right.
    fn confirm(&self) {
        self.shelf.confirm();
        self.standing().confirmed = Some(SystemTime::now());
    }
}

/// Until a call is not answered, and not before `believed` is over.
async fn doubted(mut doubts: Receiver<()>, believed: Duration) {
    if tokio::join!(doubts.changed(), tokio::time::sleep(believed)).0.is_err() {
        std::future::pending::<()>().await; // nobody calls any more
    }
}

/// A pause that is not that of others, between half of it and all.
pub(super) fn varied(pause: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    pause / 2 + pause / 2 * (nanos % 1000) / 1000
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kube::cache::KeptDefinition;

    fn object(name: &str, version: &str, config: &Value) -> Value {
        json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name, "namespace": "default", "resourceVersion": version}, "spec": {"config": config}})
    }

    #[test]
    fn a_streamed_list_is_whole_at_its_end_and_watched_from_there() {
        let dir = std::env::temp_dir().join(format!("plexus-watch-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let all = Collection::<KeptDefinition>::new(String::new(), &dir);
        let mut progress = Progress { version: None, streams: true };
        let mut listed = Some(BTreeSet::new());
        let mut read = |kind: &str, object: &Value| {
            let line = json!({"type": kind, "object": object}).to_string();
            let done = all.read(line.as_bytes(), &mut progress, &mut listed);
            let names: Vec<String> = all.table().iter().map(|((_, name), _)| name.clone()).collect();
            done.map(|()| (names.join(" "), progress.version.clone(), all.standing().is_synced))
        };
        let version = |version: &str| Some(version.to_owned());
        let bookmark = |version: &str, end: &str| json!({"metadata": {"resourceVersion": version, "creationTimestamp": null, "annotations": {END_OF_LIST: end}}});
        read("ADDED", &object("old", "1", &json!("{}"))).unwrap();
        read("ADDED", &object("a", "2", &json!("{}"))).unwrap();
        // One that a request would be told of.
        assert_eq!(read("ADDED", &object("odd", "3", &json!(5))).unwrap(), ("a old".to_owned(), None, false));
        read("DELETED", &object("old", "4", &json!("{}"))).unwrap();
        assert_eq!(read("BOOKMARK", &bookmark("5", "false")).unwrap(), ("a".to_owned(), None, false));
        assert_eq!(read("BOOKMARK", &bookmark("6", "true")).unwrap(), ("a".to_owned(), version("6"), true));
        assert_eq!(read("ADDED", &object("b", "7", &json!("{}"))).unwrap(), ("a b".to_owned(), version("7"), true));
        assert_eq!(read("MODIFIED", &object("b", "8", &json!(5))).unwrap(), ("a".to_owned(), version("8"), true));
        assert_eq!(read("BOOKMARK", &bookmark("../9", "x")).unwrap().1, version("8"), "what is no version is none");
        assert_eq!(read("PERHAPS", &json!({})).unwrap().1, version("8"));
        let gone = read("ERROR", &json!({"kind": "Status", "code": 410, "message": "too old"}));
        assert!(matches!(gone, Err(Failure::Expired(_))), "{gone:?}");
        assert!(matches!(read("ERROR", &json!({"code": 500})), Err(Failure::Passing(_))));
        assert!(matches!(read("ADDED", &json!("x")), Err(Failure::Lasting(_))));
        let kept = Collection::<KeptDefinition>::new(String::new(), &dir);
        std::fs::remove_dir_all(&dir).unwrap();
        let names: Vec<&str> = ["a"].to_vec();
        assert_eq!(kept.table().iter().map(|((_, name), _)| name.as_str()).collect::<Vec<_>>(), names);
        assert!(kept.standing().confirmed.is_some() && !kept.standing().is_synced);
    }
}
