//! Keys in their order over all partitions: pages of each, merged.
//!
//! Each page says up to where it knows its partition's log. A watch that goes on behind a scan begins at the
//! first page's and leaves out what the page of a key has seen.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter, unfold};
use plimsoll_protocol::api::{KvScanRequest, KvScanResponse};
use plimsoll_protocol::ids::{Offset, PartitionIndex};

use super::{Entry, Kv, KvError, Revision};
use crate::pulse::Owed;

/// Pages that are asked for at once.
const ASKED_AT_ONCE: usize = 32;
/// Entries that wait in all partitions together.
const ENTRIES_WAITING_MAX: u32 = 8192;

/// The keys of a map, with their values, in the order of the keys.
pub struct Scan {
    kv: Kv,
    prefix: Bytes,
    keys_only: bool,
    /// Only these partitions; none: all.
    only: Option<u32>,
    /// `None` until it begins.
    cursors: Option<Vec<Cursor>>,
}

/// How far a partition is read.
struct Cursor {
    partition: u32,
    ready: VecDeque<Entry>,
    after: Option<Bytes>,
    has_more: bool,
    seen: Seen,
}

/// What a scan has seen of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Per page: its last key (none: it was the last page), and up to where it knew the log.
    pages: Vec<(Option<Bytes>, Offset)>,
}

impl Seen {
    /// Where a watch begins that misses nothing.
    pub(super) fn start(&self) -> Option<Offset> {
        self.pages.iter().map(|(_, upto)| *upto).min()
    }

    /// Whether the page of this key has seen the revision.
    pub(super) fn has(&self, key: &[u8], revision: Revision) -> bool {
        let ends_before = |page: &(Option<Bytes>, Offset)| {
            page.0.as_ref().is_some_and(|last| last.as_ref() < key)
        };
        let page = self.pages.partition_point(ends_before);
        self.pages.get(page).is_some_and(|(_, upto)| revision.0 < upto.0)
    }
}

impl Scan {
    pub(super) fn new(kv: Kv, prefix: Bytes) -> Self {
        Self { kv, prefix, keys_only: false, only: None, cursors: None }
    }

    /// Leaves the values out. To be said before the first key is taken.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// Only of this partition.
    #[must_use]
    pub(super) fn partition(mut self, partition: u32) -> Self {
        self.only = Some(partition);
        self
    }

    /// The next key. `None` when all were taken. May be cancelled.
    ///
    /// # Errors
    /// As [`Kv::get`]; the next call tries again.
    pub async fn next(&mut self) -> Option<Result<Entry, KvError>> {
        let next = self.next_placed().await?;
        Some(next.map(|(_, entry)| entry))
    }

    /// The keys as a stream. It ends behind an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Entry, KvError>> {
        unfold(Some(self), |scan| async {
            let mut scan = scan?;
            let next = scan.next().await?;
            let rest = next.is_ok().then_some(scan);
            Some((next, rest))
        })
    }

    /// The same, with the key's partition.
    pub(super) async fn next_placed(&mut self) -> Option<Result<(u32, Entry), KvError>> {
        if let Err(error) = self.fill().await {
            return Some(Err(error));
        }
        let cursors = self.cursors.as_mut()?;
        let heads = cursors.iter_mut().filter(|cursor| !cursor.ready.is_empty());
        let first = heads.min_by(|one, other| {
            let key = |cursor: &Cursor| cursor.ready.front().map(|entry| entry.key.clone());
            key(one).cmp(&key(other))
        })?;
        first.ready.pop_front().map(|entry| Ok((first.partition, entry)))
    }

    /// What was seen of each partition. To be asked for when all was taken.
    pub(super) fn seen(&self) -> Vec<(u32, Seen)> {
        let cursors = self.cursors.iter().flatten();
        cursors.map(|cursor| (cursor.partition, cursor.seen.clone())).collect()
    }

    /// Fetches the next page of each partition that has none.
    async fn fill(&mut self) -> Result<(), KvError> {
        let partitions = self.kv.map().await?.partitions;
        let cursors = self.cursors.get_or_insert_with(|| {
            let all = (0..partitions).filter(|at| self.only.is_none_or(|only| only == *at));
            all.map(Cursor::new).collect()
        });
        let wanting = cursors.iter().enumerate().filter(|(_, cursor)| cursor.is_wanting());
        let wanting: Vec<(usize, u32, Option<Bytes>)> =
            wanting.map(|(place, it)| (place, it.partition, it.after.clone())).collect();
        if wanting.is_empty() {
            return Ok(());
        }
        let count_max = (ENTRIES_WAITING_MAX / partitions).clamp(16, 1024);
        let (kv, prefix, keys_only) = (&self.kv, &self.prefix, self.keys_only);
        let asked = wanting.into_iter().map(|(place, partition, after)| async move {
            let page = page(kv, partition, prefix, after, count_max, keys_only).await?;
            Ok::<_, KvError>((place, page))
        });
        let pages: Vec<_> = iter(asked).buffer_unordered(ASKED_AT_ONCE).try_collect().await?;
        for (place, page) in pages {
            cursors[place].take(page);
        }
        Ok(())
    }
}

async fn page(
    kv: &Kv,
    partition: u32,
    prefix: &Bytes,
    after: Option<Bytes>,
    count_max: u32,
    keys_only: bool,
) -> Result<KvScanResponse, KvError> {
    let map = kv.map().await?;
    let partition = PartitionIndex(partition);
    let (isolation, any_replica) = kv.reading();
    let request = KvScanRequest {
        topic: map.topic.clone(),
        partition,
        prefix: prefix.clone(),
        after,
        count_max,
        keys_only,
        isolation,
        any_replica,
    };
    let (page, _) = if any_replica {
        map.shared.request_replica(&map.topic, partition, request, Owed::Answer).await?
    } else {
        map.shared.request_leader(&map.topic, partition, request, Owed::Answer).await?
    };
    Ok(page)
}

impl Cursor {
    fn new(partition: u32) -> Self {
        Self {
            partition,
            ready: VecDeque::new(),
            after: None,
            has_more: true,
            seen: Seen::default(),
        }
    }

    fn is_wanting(&self) -> bool {
        self.ready.is_empty() && self.has_more
    }

    fn take(&mut self, page: KvScanResponse) {
        let last = page.entries.last().map(|entry| entry.key.clone());
        // An empty page that promises more would be asked for again for ever.
        self.has_more = page.has_more && last.is_some();
        self.seen.pages.push((last.clone().filter(|_| self.has_more), page.upto));
        self.after = last;
        let entries = page.entries.into_iter();
        self.ready.extend(entries.map(|entry| Entry::new(entry.key, entry.value, &entry.meta)));
    }
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_was_seen_by_the_page_of_its_key() {
        let key = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let seen = Seen {
            pages: vec![(key("f"), Offset(10)), (key("m"), Offset(20)), (None, Offset(30))],
        };
        assert_eq!(seen.start(), Some(Offset(10)));
        for (key, revision, expected) in [
            ("a", 9, true),
            ("f", 10, false),
            ("g", 10, true),
            ("g", 20, false),
            ("m", 19, true),
            ("z", 29, true),
            ("z", 30, false),
        ] {
            assert_eq!(seen.has(key.as_bytes(), Revision(revision)), expected, "{key} {revision}");
        }
        assert!(!Seen::default().has(b"a", Revision(0)));
    }
}
