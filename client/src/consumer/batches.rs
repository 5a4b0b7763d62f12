//! The payload of a frame: whole batches, taken apart batch by batch or record by record.

use bytes::Bytes;
use plimsoll_protocol::batch::{BatchError, Record, RecordBatch, RecordIter};
use plimsoll_protocol::ids::Offset;

/// Batches that are being handed out.
pub(crate) struct Batches {
    rest: Bytes,
    /// The first offset that is wanted.
    pub(crate) from: Offset,
    /// The offset after the last one that is.
    pub(crate) until: Offset,
    /// Where reading goes on when all were taken: behind the last record, and behind the offsets at the end
    /// that have none any more, because they were compacted.
    pub(crate) next: Offset,
    opened: Option<(RecordIter, i64)>,
}

/// A record of a batch.
pub(crate) struct TakenRecord {
    pub(crate) offset: Offset,
    pub(crate) append_time_ms: i64,
    pub(crate) record: Record,
}

impl Batches {
    pub(crate) fn new(payload: Bytes, from: Offset, until: Offset, next: Offset) -> Self {
        Self { rest: payload, from, until, next, opened: None }
    }

    /// The next record that is wanted; `None` when all were taken. Nothing is to be taken after an error:
    /// a gap would go unnoticed.
    pub(crate) fn next_record(
        &mut self,
        decompressed_max: usize,
    ) -> Option<Result<TakenRecord, BatchError>> {
        loop {
            if let Some((records, append_time_ms)) = &mut self.opened {
                match records.next() {
                    Some(Ok(delivered)) if delivered.offset < self.until => {
                        let (offset, record) = (delivered.offset, delivered.record);
                        let append_time_ms = *append_time_ms;
                        return Some(Ok(TakenRecord { offset, append_time_ms, record }));
                    }
                    Some(Err(error)) => return Some(Err(error)),
                    Some(Ok(_)) | None => self.opened = None,
                }
            }
            if self.rest.is_empty() {
                return None;
            }
            if let Err(error) = self.open(decompressed_max) {
                return Some(Err(error));
            }
        }
    }

    fn open(&mut self, decompressed_max: usize) -> Result<(), BatchError> {
        let (batch, rest) = RecordBatch::parse(std::mem::take(&mut self.rest))?;
        let mut records = batch.records(decompressed_max)?;
        records.skip_to(self.from)?;
        (self.rest, self.opened) = (rest, Some((records, batch.header.append_time_ms)));
        Ok(())
    }

    /// The next whole batch; `None` when all were taken.
    pub(crate) fn next_batch(&mut self) -> Option<Result<RecordBatch, BatchError>> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = RecordBatch::parse(std::mem::take(&mut self.rest));
        Some(parsed.map(|(batch, rest)| {
            self.rest = rest;
            batch
        }))
    }
}
