//! Values in memory that a watch keeps fresh, and that know how fresh they are.
//!
//! - All keys are loaded by a scan, then the watch behind it brings each change. As long as no key was left
//!   out for want of room, a key that is not here has no value.
//! - Beyond the bound the keys that were used least recently go, and are asked for when they are wanted.
//! - A value that was asked for is kept only where the watch is not ahead of the answer: else it could be older
//!   than what the watch has told already.
//! - A watch that misses something ends; everything is loaded anew.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval, sleep};

use super::watch::{Watch, WatchItem};
use super::{Entry, Kv, KvError, KvEvent, LookedUp, Revision, WatchFrom};
use crate::consumer::standing::Standing;

/// How a [`NearCache`] behaves.
#[derive(Debug, Clone)]
pub struct NearCacheOptions {
    /// Keys that are kept at most, at least 1. Default 100,000. More takes memory; fewer asks the cluster more
    /// often.
    pub entries_max: usize,
    /// A watch that was silent for so long is stale, and so is one that is broken. Default 5 s. Its nodes are asked
    /// for a sign of life four times in that time.
    pub stale_after: Duration,
    /// What is done then. Default: the cluster is asked.
    pub when_stale: WhenStale,
}

impl Default for NearCacheOptions {
    fn default() -> Self {
        Self {
            entries_max: 100_000,
            stale_after: Duration::from_secs(5),
            when_stale: WhenStale::Ask,
        }
    }
}

/// What a [`NearCache`] does while it is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenStale {
    /// The cluster is asked.
    Ask,
    /// What is here is given, as [`Freshness::Stale`].
    Serve,
}

/// How fresh a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// From memory. The watch stands, and its nodes gave a sign of life within this time. It may miss what was
    /// acknowledged since, and a node that is cut off from its cluster seems alive.
    Live {
        /// Since the last sign of the node that is silent longest.
        age: Duration,
    },
    /// From memory. The watch is broken, or was silent for too long.
    Stale {
        /// Since the last sign of the node that is silent longest.
        age: Duration,
    },
    /// The cluster was asked just now.
    Asked,
}

/// What a key has, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// Its value; none: it has none.
    pub entry: Option<Entry>,
    /// How far that can be relied on.
    pub freshness: Freshness,
}

/// Values in memory. Cloning is cheap; the watch ends with the last clone.
#[derive(Clone)]
pub struct NearCache {
    inner: Arc<Inner>,
}

struct Inner {
    kv: Kv,
    prefix: Bytes,
    options: NearCacheOptions,
    store: Arc<Store>,
    keeper: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// What the cache and its keeper have in common.
struct Store {
    state: Mutex<State>,
    loaded: watch::Sender<bool>,
}

struct State {
    shelf: Shelf,
    /// Per partition, the revision behind the last change that was taken in.
    behind: BTreeMap<u32, Revision>,
    standings: Vec<Arc<Standing>>,
    is_loaded: bool,
    /// Since when there is nothing, while there is nothing.
    cleared: Instant,
}

/// Keys that are kept, and in which order they were used.
struct Shelf {
    entries_max: usize,
    slots: HashMap<Bytes, Slot>,
    by_use: BTreeMap<u64, Bytes>,
    uses: u64,
    /// No key was left out: what is not here has no value.
    is_complete: bool,
}

struct Slot {
    /// None: the key has no value.
    entry: Option<Entry>,
    revision: Revision,
    expires: Option<Instant>,
    used: u64,
}

impl NearCache {
    pub(super) fn start(kv: Kv, prefix: Bytes, options: NearCacheOptions) -> Self {
        let store = Arc::new(Store::new(options.entries_max));
        let keeping = keep(kv.clone(), prefix.clone(), options.stale_after, Arc::clone(&store));
        let keeper = tokio::spawn(keeping).abort_handle();
        Self { inner: Arc::new(Inner { kv, prefix, options, store, keeper }) }
    }

    /// The value of a key: from memory where it is there and fresh, else from the cluster, as
    /// [`NearCacheOptions::when_stale`] says.
    ///
    /// # Errors
    /// As [`Kv::get`], where the cluster is asked.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Cached, KvError> {
        let (inner, key) = (&self.inner, key.as_ref());
        let is_ours = key.starts_with(&inner.prefix);
        if is_ours && let Some(cached) = self.look(key) {
            return Ok(cached);
        }
        let asked = inner.kv.look_up(key).await?;
        let entry = asked.found.clone();
        if is_ours {
            inner.store.state().asked(key, asked);
        }
        Ok(Cached { entry, freshness: Freshness::Asked })
    }

    /// How fresh what is in memory is.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.freshness_of(&self.inner.store.state())
    }

    /// Waits until everything is loaded.
    pub async fn loaded(&self) {
        let mut loaded = self.inner.store.loaded.subscribe();
        // The sender lives in `self`: waiting cannot fail.
        let _ = loaded.wait_for(|loaded| *loaded).await;
    }

    /// Keys that are in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.store.state().shelf.slots.len()
    }

    /// Whether no key is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What memory says of a key; `None`: the cluster is to be asked.
    fn look(&self, key: &[u8]) -> Option<Cached> {
        let mut state = self.inner.store.state();
        let freshness = self.freshness_of(&state);
        let serves = self.inner.options.when_stale == WhenStale::Serve;
        if !state.is_loaded || (matches!(freshness, Freshness::Stale { .. }) && !serves) {
            return None;
        }
        let entry = state.shelf.look(key, Instant::now())?;
        Some(Cached { entry, freshness })
    }

    fn freshness_of(&self, state: &State) -> Freshness {
        let mut stands = state.is_loaded;
        let mut age = if stands { Duration::ZERO } else { state.cleared.elapsed() };
        for standing in &state.standings {
            let (is_up, heard_at) = standing.look();
            stands &= is_up;
            age = age.max(heard_at.elapsed());
        }
        match stands && age <= self.inner.options.stale_after {
            true => Freshness::Live { age },
            false => Freshness::Stale { age },
        }
    }
}

impl Store {
    fn new(entries_max: usize) -> Self {
        let shelf = Shelf::new(entries_max);
        let state = State {
            shelf,
            behind: BTreeMap::new(),
            standings: Vec::new(),
            is_loaded: false,
            cleared: Instant::now(),
        };
        Self { state: Mutex::new(state), loaded: watch::Sender::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// Forgets everything: it is loaded anew.
    fn clear(&self) {
        let mut state = self.state();
        state.shelf = Shelf::new(state.shelf.entries_max);
        state.behind.clear();
        state.standings.clear();
        (state.is_loaded, state.cleared) = (false, Instant::now());
        self.loaded.send_replace(false);
    }
}

impl State {
    fn changed(&mut self, event: KvEvent) {
        let behind = self.behind.entry(event.partition).or_insert(Revision(0));
        *behind = (*behind).max(event.revision.next());
        let KvEvent { key, value, revision, written_ms, ttl_left, is_present, .. } = event;
        let entry =
            value.map(|value| Entry { key: key.clone(), value, revision, written_ms, ttl_left });
        self.shelf.changed(key, entry, revision, is_present, Instant::now());
    }

    /// The cluster has told what a key has.
    fn asked(&mut self, key: &[u8], asked: LookedUp) {
        let behind = self.behind.get(&asked.partition).copied().unwrap_or(Revision(0));
        if self.is_loaded && behind.0 <= asked.upto.0 {
            let revision = match &asked.found {
                Some(entry) => entry.revision,
                None => Revision(asked.upto.0.saturating_sub(1)),
            };
            let key = Bytes::copy_from_slice(key);
            self.shelf.keep(key, asked.found, revision, Instant::now());
        }
    }
}

impl Shelf {
    fn new(entries_max: usize) -> Self {
        Self {
            entries_max: entries_max.max(1),
            slots: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            is_complete: true,
        }
    }

    /// What a key has: `None` where that is not known.
    fn look(&mut self, key: &[u8], now: Instant) -> Option<Option<Entry>> {
        let Some(slot) = self.slots.get_mut(key) else {
            return self.is_complete.then_some(None);
        };
        if slot.expires.is_some_and(|expires| expires <= now) {
            // By this machine's clock: the leader knows.
            return None;
        }
        self.uses += 1;
        if let Some(key) = self.by_use.remove(&slot.used) {
            self.by_use.insert(self.uses, key);
        }
        slot.used = self.uses;
        let mut entry = slot.entry.clone();
        if let (Some(entry), Some(expires)) = (&mut entry, slot.expires) {
            entry.ttl_left = Some(expires - now);
        }
        Some(entry)
    }

    /// A key was changed, or was there when it was loaded. Where keys are left out already, only those that are
    /// wanted are kept.
    fn changed(
        &mut self,
        key: Bytes,
        entry: Option<Entry>,
        revision: Revision,
        is_present: bool,
        now: Instant,
    ) {
        let is_known = self.slots.contains_key(&key);
        if self.is_complete && entry.is_none() {
            self.forget(&key);
        } else if is_known
            || self.is_complete
            || (is_present && self.slots.len() < self.entries_max)
        {
            self.keep(key, entry, revision, now);
        }
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some(slot) = self.slots.remove(key) {
            self.by_use.remove(&slot.used);
        }
    }

    /// Keeps what a key has, unless something later is kept.
    fn keep(&mut self, key: Bytes, entry: Option<Entry>, revision: Revision, now: Instant) {
        if self.slots.get(&key).is_some_and(|slot| slot.revision > revision) {
            return;
        }
        self.forget(&key);
        while self.slots.len() >= self.entries_max
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.slots.remove(&oldest);
            self.is_complete = false;
        }
        self.uses += 1;
        let expires = entry.as_ref().and_then(|entry| now.checked_add(entry.ttl_left?));
        self.by_use.insert(self.uses, key.clone());
        self.slots.insert(key, Slot { entry, revision, expires, used: self.uses });
    }
}

/// Loads and watches, again and again.
async fn keep(kv: Kv, prefix: Bytes, stale_after: Duration, store: Arc<Store>) {
    let mut backoff = kv.inner.shared.backoff();
    // What is loaded from a replica that is behind could be behind the watch.
    let kv = Kv { any_replica: false, ..kv };
    loop {
        let began = Instant::now();
        let error = match kv.watch(&prefix, WatchFrom::Present).await {
            Ok(watch) => follow(watch, stale_after, &store).await,
            Err(error) => error,
        };
        store.clear();
        if began.elapsed() > Duration::from_secs(10) {
            backoff.reset();
        }
        tracing::debug!(topic = kv.topic(), %error, "a cache is loaded anew");
        sleep(backoff.next_pause()).await;
    }
}

/// Takes in what the watch tells until it ends.
async fn follow(mut watch: Watch, stale_after: Duration, store: &Store) -> KvError {
    let silent = (stale_after / 4).max(Duration::from_millis(10));
    let mut look = interval(silent);
    loop {
        let item = tokio::select! {
            biased;
            item = watch.next_item() => item,
            _ = look.tick() => {
                watch.standings().iter().for_each(|standing| standing.ask_if_silent(silent));
                continue;
            }
        };
        match item {
            Some(Ok(WatchItem::Event(event))) => store.state().changed(event),
            Some(Ok(WatchItem::Loaded)) => {
                let mut state = store.state();
                state.standings = watch.standings().to_vec();
                state.is_loaded = true;
                store.loaded.send_replace(true);
            }
            Some(Err(error)) => return error,
            None => return KvError::Unknown { reason: "the watch has ended".into() },
        }
    }
}

impl std::fmt::Debug for NearCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NearCache").field("prefix", &self.inner.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::Offset;

    use super::*;

    fn entry(key: &str, revision: u64) -> Entry {
        Entry {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::from(format!("{key}{revision}")),
            revision: Revision(revision),
            written_ms: 0,
            ttl_left: None,
        }
    }

    fn event(key: &str, revision: u64, is_deleted: bool) -> KvEvent {
        let mut event = KvEvent::of_entry(0, entry(key, revision));
        event.is_present = false;
        if is_deleted {
            event.value = None;
        }
        event
    }

    fn loaded(entries_max: usize) -> Store {
        let store = Store::new(entries_max);
        store.state().is_loaded = true;
        store
    }

    fn look(store: &Store, key: &str) -> Option<Option<u64>> {
        let found = store.state().shelf.look(key.as_bytes(), Instant::now());
        found.map(|entry| entry.map(|entry| entry.revision.0))
    }

    #[tokio::test]
    async fn while_nothing_was_left_out_what_is_not_here_has_no_value() {
        let store = loaded(10);
        store.state().changed(event("a", 1, false));
        assert_eq!((look(&store, "a"), look(&store, "b")), (Some(Some(1)), Some(None)));
        store.state().changed(event("a", 2, true));
        assert_eq!(look(&store, "a"), Some(None));
        assert!(store.state().shelf.slots.is_empty(), "a deletion takes no room");
    }

    #[tokio::test]
    async fn what_was_used_least_recently_goes_and_is_asked_for() {
        let store = loaded(2);
        store.state().changed(event("a", 1, false));
        store.state().changed(event("b", 2, false));
        assert_eq!(look(&store, "a"), Some(Some(1)));
        store.state().changed(event("c", 3, false));
        assert_eq!((look(&store, "b"), look(&store, "x")), (None, None), "neither is known");
        assert_eq!((look(&store, "a"), look(&store, "c")), (Some(Some(1)), Some(Some(3))));
        store.state().changed(event("d", 4, false));
        assert_eq!(look(&store, "d"), None, "nobody wanted it");
        store.state().changed(event("a", 5, true));
        assert_eq!(look(&store, "a"), Some(None), "its deletion is known");
    }

    #[tokio::test]
    async fn an_answer_that_the_watch_has_overtaken_is_not_kept() {
        let store = loaded(1);
        store.state().changed(event("a", 1, false));
        store.state().changed(event("b", 2, false));
        let answer =
            |found: Option<Entry>, upto| LookedUp { found, partition: 0, upto: Offset(upto) };
        store.state().asked(b"a", answer(Some(entry("a", 1)), 2));
        assert_eq!(look(&store, "a"), None, "the watch is at 3");
        store.state().asked(b"a", answer(Some(entry("a", 1)), 3));
        assert_eq!(look(&store, "a"), Some(Some(1)));
        store.state().changed(event("a", 4, false));
        assert_eq!(look(&store, "a"), Some(Some(4)));
        store.state().asked(b"z", answer(None, 9));
        store.state().changed(event("z", 7, false));
        assert_eq!(look(&store, "z"), Some(None), "the answer knew of that change");
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_is_asked_for() {
        let store = loaded(10);
        let mut short = event("a", 1, false);
        short.ttl_left = Some(Duration::from_secs(1));
        store.state().changed(short);
        assert_eq!(look(&store, "a"), Some(Some(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(look(&store, "a"), None);
    }
}
