//! What happens to keys: a subscription that must see each change, behind a scan or from a revision on.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use plimsoll_protocol::api::{Isolation, StartPosition};
use plimsoll_protocol::ids::Offset;

use super::scan::{Scan, Seen};
use super::{Kv, KvError, KvEvent, Revision};
use crate::consumer::standing::Standing;
use crate::consumer::{Consumer, ConsumerBuilder};

/// Where a watch begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchFrom {
    /// With the first change after everything that was acknowledged before.
    Now,
    /// With what is there, key by key in their order, then all changes: nothing is missed between.
    Present,
    /// With the first change that has this revision or a later one, in each partition: for a single key, or a
    /// topic with one partition.
    Revision(Revision),
    /// With these revisions of these partitions, as [`Watch::positions`] gave them; the others are not watched.
    Positions(Vec<(u32, Revision)>),
}

/// Changes of keys, those of each key in their order.
///
/// It reconnects by itself and goes on. It ends with the first error; with [`KvError::Compacted`] when changes
/// that it has not seen are gone.
pub struct Watch {
    kv: Kv,
    filter: Filter,
    phase: Phase,
    /// Per partition, what the scan before has seen.
    seen: BTreeMap<u32, Seen>,
    has_ended: bool,
}

/// Which keys.
enum Filter {
    Prefix(Bytes),
    Key(Bytes),
}

enum Phase {
    Present(Scan),
    Changes(Consumer),
}

/// What a watch comes to next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// A change of a key, or what it has.
    Event(KvEvent),
    /// Everything that was there has been told: changes come from here on. Once, of a watch that begins with
    /// [`WatchFrom::Present`].
    Loaded,
}

impl Filter {
    fn takes(&self, key: &[u8]) -> bool {
        match self {
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Key(wanted) => key == wanted,
        }
    }
}

impl Watch {
    pub(super) async fn of_prefix(kv: Kv, prefix: Bytes, from: WatchFrom) -> Result<Self, KvError> {
        let scan = kv.scan(&prefix);
        Self::begin(kv, Filter::Prefix(prefix), scan, None, from).await
    }

    pub(super) async fn of_key(kv: Kv, key: Bytes, from: WatchFrom) -> Result<Self, KvError> {
        let partition = kv.partition_of(&key).await?;
        let scan = kv.scan(&key).partition(partition);
        Self::begin(kv, Filter::Key(key), scan, Some(partition), from).await
    }

    async fn begin(
        kv: Kv,
        filter: Filter,
        scan: Scan,
        only: Option<u32>,
        from: WatchFrom,
    ) -> Result<Self, KvError> {
        let mut changes = changes(&kv);
        if let Some(partition) = only {
            changes = changes.partitions([partition]);
        }
        let phase = match from {
            WatchFrom::Present => Phase::Present(scan),
            WatchFrom::Now => Phase::Changes(changes.from(StartPosition::Latest).build().await?),
            WatchFrom::Revision(revision) => {
                let start = StartPosition::Offset(revision.into());
                Phase::Changes(changes.from(start).build().await?)
            }
            WatchFrom::Positions(positions) => {
                let starts: Vec<(u32, Offset)> =
                    positions.into_iter().map(|(at, revision)| (at, revision.into())).collect();
                Phase::Changes(from_these(changes, &starts).build().await?)
            }
        };
        Ok(Self { kv, filter, phase, seen: BTreeMap::new(), has_ended: false })
    }

    /// The next change; waits for one. `None` when the watch has ended. May be cancelled.
    ///
    /// # Errors
    /// What ended it.
    pub async fn next(&mut self) -> Option<Result<KvEvent, KvError>> {
        loop {
            match self.next_item().await? {
                Ok(WatchItem::Event(event)) => return Some(Ok(event)),
                Ok(WatchItem::Loaded) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The changes as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<KvEvent, KvError>> {
        unfold(self, |mut watch| async { Some((watch.next().await?, watch)) })
    }

    /// Where another watch goes on behind what this one has told: of each partition, the first revision that
    /// it has not told. Empty while it tells what is present.
    #[must_use]
    pub fn positions(&self) -> Vec<(u32, Revision)> {
        let Phase::Changes(consumer) = &self.phase else { return Vec::new() };
        let at = |(partition, position): (u32, Option<Offset>)| Some((partition, position?.into()));
        let progress = consumer.progress().iter();
        progress.map(|one| (one.partition, one.position)).filter_map(at).collect()
    }

    /// Whether everything that was there has been told, and changes come from here on.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        matches!(self.phase, Phase::Changes(_))
    }

    /// Of each partition, whether its changes come; empty before changes do.
    pub(super) fn standings(&self) -> &[std::sync::Arc<Standing>] {
        match &self.phase {
            Phase::Present(_) => &[],
            Phase::Changes(consumer) => consumer.standings(),
        }
    }

    /// As [`Watch::next`], and tells where the present ends.
    ///
    /// # Errors
    /// What ended it.
    pub async fn next_item(&mut self) -> Option<Result<WatchItem, KvError>> {
        if self.has_ended {
            return None;
        }
        let next = self.advance().await;
        self.has_ended = !matches!(next, Some(Ok(_)));
        next
    }

    async fn advance(&mut self) -> Option<Result<WatchItem, KvError>> {
        loop {
            match &mut self.phase {
                Phase::Present(scan) => match scan.next_placed().await {
                    Some(Ok((partition, entry))) => {
                        if self.filter.takes(&entry.key) {
                            let event = KvEvent::of_entry(partition, entry);
                            return Some(Ok(WatchItem::Event(event)));
                        }
                    }
                    Some(Err(error)) => return Some(Err(error)),
                    None => {
                        let seen = scan.seen();
                        return Some(self.go_on_behind(seen).await.map(|()| WatchItem::Loaded));
                    }
                },
                Phase::Changes(consumer) => {
                    let consumed = match consumer.next().await? {
                        Ok(consumed) => consumed,
                        Err(error) => return Some(Err(error.into())),
                    };
                    let (partition, offset) = (consumed.partition, consumed.offset);
                    let written_ms = consumed.append_time_ms;
                    let event = KvEvent::of_record(partition, offset, written_ms, consumed.record);
                    let Some(event) = event.filter(|event| self.filter.takes(&event.key)) else {
                        continue;
                    };
                    let seen = self.seen.get(&partition);
                    if !seen.is_some_and(|seen| seen.has(&event.key, event.revision)) {
                        return Some(Ok(WatchItem::Event(event)));
                    }
                }
            }
        }
    }

    async fn go_on_behind(&mut self, seen: Vec<(u32, Seen)>) -> Result<(), KvError> {
        let start = |(partition, seen): &(u32, Seen)| Some((*partition, seen.start()?));
        let starts: Vec<(u32, Offset)> = seen.iter().filter_map(start).collect();
        let consumer = from_these(changes(&self.kv), &starts).build().await?;
        (self.phase, self.seen) = (Phase::Changes(consumer), seen.into_iter().collect());
        Ok(())
    }
}

/// A consumer of every change. What is not asked of the leader's majority could begin before what was
/// acknowledged already.
fn changes(kv: &Kv) -> ConsumerBuilder {
    kv.consumer().isolation(Isolation::Linearizable).every_change()
}

fn from_these(changes: ConsumerBuilder, starts: &[(u32, Offset)]) -> ConsumerBuilder {
    let partitions = starts.iter().map(|(partition, _)| *partition);
    changes.partitions(partitions).starts(starts.iter().copied())
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("topic", &self.kv.topic()).finish_non_exhaustive()
    }
}
