//! Records of the log, for the delivery machine and for consumers. Batches that were just committed or
//! read are kept for a while: most messages are delivered right after.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;

use bytes::Bytes;
use plimsoll_delivery::dispatch::Message;
use plimsoll_delivery::time::UnixMs;
use plimsoll_log::LogCursor;
use plimsoll_protocol::batch::{
    BATCH_HEADER_BYTES, BatchError, BatchHeader, RecordBatch, RecordView,
};
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::ids::Offset;
use plimsoll_replication::Group;

use crate::native::{Chunk, step};
use crate::refusals;

/// Bytes of records that are kept, besides those of the last read.
const KEPT_BYTES: usize = 16 << 20;
/// Batches that are.
const KEPT_BATCHES: usize = 4096;
/// Places from which reading goes on without a search.
const CURSORS: usize = 3;
/// Bytes that one read asks for.
const READ_BYTES: usize = 64 << 10;
/// A compressed batch that is larger was refused when it was produced.
pub(crate) const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

/// The batches of a read: several in one piece where they lie in a map, or header and body each in its own
/// where they were just taken in.
pub(crate) fn batches(pieces: Vec<Bytes>) -> impl Iterator<Item = Result<RecordBatch, BatchError>> {
    let mut pieces = pieces.into_iter();
    let mut rest = Bytes::new();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            rest = pieces.next()?;
        }
        let bytes = std::mem::take(&mut rest);
        let header = match BatchHeader::parse(&bytes) {
            Ok(header) => header,
            Err(error) => return Some(Err(error)),
        };
        if bytes.len() == BATCH_HEADER_BYTES && header.batch_length as usize > bytes.len() {
            return Some(Ok(RecordBatch { header, body: pieces.next().unwrap_or_default() }));
        }
        Some(RecordBatch::parse(bytes).map(|(batch, following)| {
            rest = following;
            batch
        }))
    })
}

/// One record, with what the machine must know of it.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) message: Message,
    range: Range<usize>,
}

/// A batch, taken apart.
#[derive(Debug)]
pub(super) struct Batch {
    section: Bytes,
    base_timestamp_ms: i64,
    /// Without a gap, from the batch's first offset on.
    records: Vec<Placed>,
}

/// A record as it goes to a consumer.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) base_timestamp_ms: i64,
    pub(super) record: Bytes,
}

impl Batch {
    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.records.iter().map(|record| &record.message)
    }

    fn find(&self, offset: Offset) -> Option<Found> {
        let first = self.records.first()?.message.offset;
        let at = usize::try_from(offset.0.checked_sub(first.0)?).ok()?;
        let record = self.records.get(at)?;
        Some(Found {
            base_timestamp_ms: self.base_timestamp_ms,
            record: self.section.slice(record.range.clone()),
        })
    }
}

/// See the module.
pub(super) struct Records {
    /// By their first offset.
    kept: BTreeMap<Offset, Batch>,
    kept_bytes: usize,
    /// Where the last reads ended: at the tail, in the middle.
    cursors: Vec<LogCursor>,
    /// Keys count, and are hashed by this.
    keys: Option<RandomState>,
}

impl Records {
    pub(super) fn new(keyed: bool) -> Self {
        let keys = keyed.then(RandomState::new);
        Self { kept: BTreeMap::new(), kept_bytes: 0, cursors: Vec::new(), keys }
    }

    /// The record at `offset`, if it is at hand.
    pub(super) fn find(&self, offset: Offset) -> Option<Found> {
        self.kept.range(..=offset).next_back()?.1.find(offset)
    }

    /// Reads whole batches on from `from` that end at or before `upto`, where something is committed: some,
    /// or none where there are none. The first may begin before `from`. They are kept; the answer is their
    /// first offsets.
    ///
    /// # Errors
    /// Where the log cannot be read there, or what lies there are no records.
    pub(super) async fn read(
        &mut self,
        group: &Group,
        from: Offset,
        upto: Offset,
    ) -> Result<Vec<Offset>, ErrorResponse> {
        let place = self.cursors.iter().position(|cursor| cursor.next_offset() == from);
        let mut cursor = match place {
            Some(at) => self.cursors.swap_remove(at),
            None => group.log().cursor(from),
        };
        let Some(Chunk { payload, .. }) = step(group, &mut cursor, upto, READ_BYTES).await? else {
            return Ok(Vec::new());
        };
        if self.cursors.len() == CURSORS {
            self.cursors.remove(0);
        }
        self.cursors.push(cursor);
        let mut firsts = Vec::new();
        for batch in batches(payload) {
            let batch = batch.and_then(|batch| self.take_apart(&batch));
            let batch =
                batch.map_err(|error| refusals::bug(&format!("a stored batch: {error}")))?;
            if let Some(first) = batch.records.first().map(|record| record.message.offset) {
                self.keep(first, batch);
                firsts.push(first);
            }
        }
        self.make_room(&firsts);
        Ok(firsts)
    }

    /// A batch of those that the last [`Records::read`] named.
    pub(super) fn batch(&self, first: Offset) -> Option<&Batch> {
        self.kept.get(&first)
    }

    fn take_apart(&self, batch: &RecordBatch) -> Result<Batch, BatchError> {
        let header = &batch.header;
        let mut records = batch.records(DECOMPRESSED_BYTES_MAX)?;
        let mut placed = Vec::with_capacity(header.record_count as usize);
        while let Some(record) = records.next_placed() {
            let (offset, range, view) = record?;
            let message = self.message(offset, &view, header, range.len());
            placed.push(Placed { message, range });
        }
        Ok(Batch {
            section: records.section().clone(),
            base_timestamp_ms: header.base_timestamp_ms,
            records: placed,
        })
    }

    fn message(
        &self,
        offset: Offset,
        view: &RecordView<'_>,
        header: &BatchHeader,
        bytes: usize,
    ) -> Message {
        let key = || Some(self.keys.as_ref()?.hash_one(view.group_key.or(view.key)?));
        #[cfg(feature = "planted")]
        let is_forgotten =
            plimsoll_log::planted::is_planted_at(plimsoll_log::planted::Bug::ForgetKey, offset);
        #[cfg(feature = "planted")]
        let key = || key().filter(|_| !is_forgotten);
        Message {
            offset,
            key: key(),
            priority: view.priority.unwrap_or(0),
            deliver_at: view.deliver_at_ms.map(UnixMs),
            expires_at: view.expires_at_ms.map(UnixMs),
            appended_at: UnixMs(header.append_time_ms),
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        }
    }

    fn keep(&mut self, first: Offset, batch: Batch) {
        self.kept_bytes += batch.section.len();
        if let Some(old) = self.kept.insert(first, batch) {
            self.kept_bytes -= old.section.len();
        }
    }

    /// Forgets batches at both ends, but for those that were just read.
    fn make_room(&mut self, read: &[Offset]) {
        let (Some(first), Some(last)) = (read.first(), read.last()) else { return };
        let is_read = |at: &Offset| first <= at && at <= last;
        while self.kept.len() > KEPT_BATCHES || self.kept_bytes > KEPT_BYTES {
            let ends = [self.kept.keys().next(), self.kept.keys().next_back()];
            let Some(gone) = ends.into_iter().flatten().copied().find(|at| !is_read(at)) else {
                return;
            };
            if let Some(batch) = self.kept.remove(&gone) {
                self.kept_bytes -= batch.section.len();
            }
        }
    }
}
