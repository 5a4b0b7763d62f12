//! Which keys a partition has, and where the last record of each lies: a fold of its committed records.
//!
//! How long a record lives: [`BatchHeader::expiry_of`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use plimsoll_protocol::batch::{BatchError, BatchHeader, RecordIter, RecordView};
use plimsoll_protocol::ids::Offset;

/// What a key costs besides its bytes, about: its place in the map.
const KEY_OVERHEAD_BYTES: usize = 112;
/// What one whose time ends costs more.
const EXPIRY_OVERHEAD_BYTES: usize = 64;

/// Where the value of a key lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The record: the key's revision.
    pub(crate) offset: Offset,
    /// When the leader took it, in milliseconds since 1970 (UTC).
    pub(crate) written_ms: i64,
    /// When its time is over, in milliseconds since 1970 (UTC), if ever.
    pub(crate) expires_ms: Option<i64>,
    /// Size of the value.
    pub(crate) value_bytes: u32,
}

/// What a reader takes for there: its clock, and where the log starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Horizon {
    /// Milliseconds since 1970 (UTC): what expired by then is not there.
    pub(crate) now_ms: i64,
    /// What retention took is not there.
    pub(crate) log_start: Offset,
}

impl Slot {
    pub(crate) fn is_live(&self, horizon: Horizon) -> bool {
        self.offset >= horizon.log_start && !self.is_expired(horizon.now_ms)
    }

    /// Whether its time is over.
    pub(crate) fn is_expired(&self, now_ms: i64) -> bool {
        self.expires_ms.is_some_and(|at| at <= now_ms)
    }
}

/// What a page of keys holds at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageMax {
    /// Keys.
    pub(crate) count: usize,
    /// Bytes of keys and values; one key comes in any case.
    pub(crate) bytes: usize,
    /// Whether values count.
    pub(crate) with_values: bool,
}

/// Keys in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Page {
    /// With their slots.
    pub(crate) keys: Vec<(Bytes, Slot)>,
    /// Whether there are more behind them.
    pub(crate) has_more: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Index {
    slots: BTreeMap<Bytes, Slot>,
    /// Those whose time ends, by when it does.
    expiring: BTreeSet<(i64, Bytes)>,
    bytes: usize,
}

impl Index {
    /// Folds at most `most` of the batch's records, in the order of their offsets. Whether there are more.
    ///
    /// # Errors
    /// Where the records cannot be read.
    pub(crate) fn take(
        &mut self,
        header: &BatchHeader,
        records: &mut RecordIter,
        most: usize,
    ) -> Result<bool, BatchError> {
        for _ in 0..most {
            let Some(record) = records.next_view() else { return Ok(false) };
            let (offset, view) = record?;
            self.take_record(header, offset, &view);
        }
        Ok(true)
    }

    fn take_record(&mut self, header: &BatchHeader, offset: Offset, record: &RecordView<'_>) {
        // Records from before the topic was compacted may have none.
        let Some(key) = record.key else { return };
        let Some(value) = record.value else { return self.remove(key) };
        let slot = Slot {
            offset,
            written_ms: header.append_time_ms,
            expires_ms: header.expiry_of(record),
            value_bytes: u32::try_from(value.len()).unwrap_or(u32::MAX),
        };
        // Found again, a key keeps its bytes; they are its own, not a share of the batch's.
        let known = self.slots.get_key_value(key).map(|(key, _)| key.clone());
        let key = known.unwrap_or_else(|| Bytes::copy_from_slice(key));
        if let Some(at) = slot.expires_ms {
            self.expiring.insert((at, key.clone()));
        }
        self.bytes += cost(&key, &slot);
        if let Some(old) = self.slots.insert(key.clone(), slot) {
            self.bytes -= cost(&key, &old);
            if let Some(at) = old.expires_ms.filter(|_| old.expires_ms != slot.expires_ms) {
                self.expiring.remove(&(at, key));
            }
        }
    }

    fn remove(&mut self, key: &[u8]) {
        let Some((key, old)) = self.slots.remove_entry(key) else { return };
        self.bytes -= cost(&key, &old);
        if let Some(at) = old.expires_ms {
            self.expiring.remove(&(at, key));
        }
    }

    /// Forgets what retention took.
    pub(crate) fn drop_below(&mut self, log_start: Offset) {
        let gone = self.slots.iter().filter(|(_, slot)| slot.offset < log_start);
        let gone: Vec<Bytes> = gone.map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    /// The last record of a key, expired or not.
    pub(crate) fn last(&self, key: &[u8]) -> Option<Slot> {
        self.slots.get(key).copied()
    }

    /// What a key has, for a reader.
    pub(crate) fn live(&self, key: &[u8], horizon: Horizon) -> Option<Slot> {
        self.last(key).filter(|slot| slot.is_live(horizon))
    }

    /// Keys that begin with `prefix`, behind `after`.
    pub(crate) fn page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        horizon: Horizon,
        max: PageMax,
    ) -> Page {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let found = self.slots.range::<[u8], _>((from, Bound::Unbounded));
        let found = found.take_while(|(key, _)| key.starts_with(prefix));
        let mut page = Page::default();
        let mut bytes = 0_usize;
        for (key, slot) in found.filter(|(_, slot)| slot.is_live(horizon)) {
            let value = if max.with_values { slot.value_bytes as usize } else { 0 };
            bytes = bytes.saturating_add(key.len() + value);
            let is_full = page.keys.len() >= max.count || bytes > max.bytes;
            if is_full && !page.keys.is_empty() {
                page.has_more = true;
                break;
            }
            page.keys.push((key.clone(), *slot));
        }
        page
    }

    /// Keys whose time is over, with their revisions; at most `most`.
    pub(crate) fn expired(&self, now_ms: i64, most: usize) -> Vec<(Bytes, Offset)> {
        let due = self.expiring.iter().take_while(|(at, _)| *at <= now_ms).take(most);
        due.filter_map(|(_, key)| Some((key.clone(), self.slots.get(key)?.offset))).collect()
    }

    /// Whether the time of any key ends.
    pub(crate) fn has_expiring(&self) -> bool {
        !self.expiring.is_empty()
    }

    /// What it takes of memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn cost(key: &Bytes, slot: &Slot) -> usize {
    let expiry = if slot.expires_ms.is_some() { EXPIRY_OVERHEAD_BYTES } else { 0 };
    key.len() + KEY_OVERHEAD_BYTES + expiry
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::batch::{
        BatchBuilder, BatchLimits, Compression, PushOutcome, Record, RecordBatch,
    };
    use plimsoll_protocol::ids::ProducerId;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    const ALL: PageMax = PageMax { count: usize::MAX, bytes: usize::MAX, with_values: true };

    fn batch(base_offset: u64, append_time_ms: i64, records: &[Record]) -> RecordBatch {
        let mut builder = BatchBuilder::new(BatchLimits::default());
        for record in records {
            assert_eq!(builder.push(record).unwrap(), PushOutcome::Added);
        }
        let bytes = builder.finish(ProducerId::NONE, 0, 0, Compression::None);
        let (mut batch, _) = RecordBatch::parse(bytes).unwrap();
        batch.header.base_offset = Offset(base_offset);
        batch.header.append_time_ms = append_time_ms;
        batch
    }

    fn take(index: &mut Index, batch: &RecordBatch) {
        let mut records = batch.records(usize::MAX).unwrap();
        while index.take(&batch.header, &mut records, 2).unwrap() {}
    }

    fn at(now_ms: i64) -> Horizon {
        Horizon { now_ms, log_start: Offset(0) }
    }

    fn put(key: &str, value: &str) -> Record {
        Record::new(value.to_owned()).with_key(key.to_owned())
    }

    fn delete(key: &str) -> Record {
        Record { value: None, ..put(key, "") }
    }

    fn keys(page: &Page) -> Vec<&[u8]> {
        page.keys.iter().map(|(key, _)| &**key).collect()
    }

    #[test]
    fn the_last_record_of_a_key_counts_and_a_tombstone_removes_it() {
        let mut index = Index::default();
        take(&mut index, &batch(0, 5, &[put("a", "1"), put("b", "2"), put("a", "33")]));
        let slot = index.live(b"a", at(0)).unwrap();
        assert_eq!((slot.offset, slot.written_ms, slot.value_bytes), (Offset(2), 5, 2));
        take(&mut index, &batch(3, 6, &[delete("a"), delete("c")]));
        assert_eq!(index.live(b"a", at(0)), None);
        assert_eq!(index.live(b"b", at(0)).unwrap().offset, Offset(1));
        take(&mut index, &batch(5, 6, &[delete("b")]));
        assert_eq!(index.bytes(), 0);
    }

    #[test]
    fn a_life_counts_from_when_the_leader_took_the_record_whatever_the_producers_clock_says() {
        let mut index = Index::default();
        let record =
            Record { expires_at_ms: Some(9_000_100), ..put("a", "1").with_timestamp_ms(9_000_000) };
        take(&mut index, &batch(0, 1000, &[record]));
        assert!(index.live(b"a", at(1099)).is_some());
        assert!(index.live(b"a", at(1100)).is_none());
        assert!(index.last(b"a").is_some());
        assert_eq!(index.expired(1099, 10), []);
        assert_eq!(index.expired(1100, 10), [(Bytes::from("a"), Offset(0))]);
        take(&mut index, &batch(1, 1050, &[put("a", "2")]));
        assert!(!index.has_expiring());
        assert!(index.live(b"a", at(i64::MAX)).is_some());
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended_and_hold_no_more_than_asked() {
        let mut index = Index::default();
        let records: Vec<_> =
            ["a/1", "a/2", "a/3", "b/1", "a"].iter().map(|key| put(key, "12345")).collect();
        take(&mut index, &batch(0, 0, &records));
        let two = PageMax { count: 2, ..ALL };
        let first = index.page(b"a/", None, at(0), two);
        assert_eq!((keys(&first), first.has_more), (vec![&b"a/1"[..], b"a/2"], true));
        let second = index.page(b"a/", Some(b"a/2"), at(0), two);
        assert_eq!((keys(&second), second.has_more), (vec![&b"a/3"[..]], false));
        let tiny = PageMax { bytes: 1, ..ALL };
        let one = index.page(b"", Some(b"a/3"), at(0), tiny);
        assert_eq!((keys(&one), one.has_more), (vec![&b"b/1"[..]], false));
        assert_eq!(keys(&index.page(b"", None, at(0), tiny)), [b"a"]);
        let names = PageMax { bytes: 4, with_values: false, ..ALL };
        assert_eq!(keys(&index.page(b"", None, at(0), names)), [&b"a"[..], b"a/1"]);
    }

    #[test]
    fn what_retention_took_is_not_there() {
        let mut index = Index::default();
        take(&mut index, &batch(0, 0, &[put("a", "1"), put("b", "2")]));
        let horizon = Horizon { now_ms: 0, log_start: Offset(1) };
        assert_eq!(index.live(b"a", horizon), None);
        assert!(index.live(b"b", horizon).is_some());
        index.drop_below(Offset(1));
        assert_eq!(index.last(b"a"), None);
        assert!(index.last(b"b").is_some());
    }

    #[derive(Debug, Clone)]
    struct Written {
        key: Option<u8>,
        value: Option<Vec<u8>>,
        life_ms: Option<u8>,
    }

    fn written() -> impl Strategy<Value = Written> {
        let value = option::weighted(0.8, vec(any::<u8>(), 0..4));
        (option::weighted(0.9, 0..6_u8), value, option::weighted(0.3, any::<u8>()))
            .prop_map(|(key, value, life_ms)| Written { key, value, life_ms })
    }

    fn record(written: &Written) -> Record {
        Record {
            key: written.key.map(|key| Bytes::from(vec![key; usize::from(key)])),
            value: written.value.clone().map(Bytes::from),
            timestamp_ms: 77,
            expires_at_ms: written.life_ms.map(|life| 77 + i64::from(life)),
            ..Record::default()
        }
    }

    proptest! {
        /// Against a twin that looks for the last record of each key in all of them.
        #[test]
        fn it_says_what_a_look_through_the_whole_log_says(
            batches in vec(vec(written(), 1..8), 1..12),
            now_ms in 0..400_i64,
        ) {
            let (mut index, mut log, mut offset) = (Index::default(), Vec::new(), 0);
            for (time, batch_of) in (0_i64..).map(|n| n * 10).zip(&batches) {
                let records: Vec<_> = batch_of.iter().map(record).collect();
                take(&mut index, &batch(offset, time, &records));
                log.extend(batch_of.iter().map(|written| (time, written)));
                offset += batch_of.len() as u64;
            }
            let mut expected = Vec::new();
            for key in 0..6_u8 {
                let last = log.iter().enumerate().rfind(|(_, (_, w))| w.key == Some(key));
                if let Some((offset, (time, Written { value: Some(value), life_ms, .. }))) = last
                    && life_ms.is_none_or(|life| time + i64::from(life) > now_ms)
                {
                    let key = Bytes::from(vec![key; usize::from(key)]);
                    expected.push((key, Offset(offset as u64), value.len() as u32));
                }
            }
            expected.sort();
            let page = index.page(b"", None, at(now_ms), ALL);
            let found: Vec<_> =
                page.keys.into_iter().map(|(key, s)| (key, s.offset, s.value_bytes)).collect();
            prop_assert_eq!(found, expected);
            let all_expired = index.expired(i64::MAX, usize::MAX);
            for (key, revision) in &all_expired {
                prop_assert_eq!(index.last(key).unwrap().offset, *revision);
            }
            index.drop_below(Offset(u64::MAX));
            prop_assert_eq!((index.bytes(), index.has_expiring()), (0, false));
        }
    }
}
