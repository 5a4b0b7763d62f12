//! Entries with content that can be told apart: index, term and a seed are in every byte sequence.

use bytes::Bytes;
use plimsoll_log::LogEntry;
use plimsoll_log::disk::sim::SplitMix;
use plimsoll_protocol::batch::{
    BatchBuilder, BatchLimits, Compression, EntryKind, PushOutcome, RecordBatch, RecordView,
};
use plimsoll_protocol::ids::{LogId, ProducerId};

/// A batch of 1 to 4 records with `bytes` bytes of values in all.
pub(crate) fn records(
    random: &mut SplitMix,
    id: LogId,
    bytes: usize,
    append_time_ms: i64,
) -> LogEntry {
    let count = 1 + random.below(4) as usize;
    let mut builder = BatchBuilder::new(BatchLimits::default());
    for record in 0..count {
        let value = noise(random, id, bytes / count + record);
        let outcome = builder.push(RecordView::new(&value)).expect("it is small");
        assert_eq!(outcome, PushOutcome::Added);
    }
    let batch = builder.finish(ProducerId(1), 0, id.index.0, Compression::None);
    let (batch, _) = RecordBatch::parse(batch).expect("it was just built");
    let mut entry = LogEntry { header: batch.header, body: batch.body };
    entry.header.term = id.term;
    entry.header.index = id.index;
    entry.header.append_time_ms = append_time_ms;
    entry
}

/// An entry without records.
pub(crate) fn other(random: &mut SplitMix, id: LogId, bytes: usize) -> LogEntry {
    let kinds = [EntryKind::Blank, EntryKind::Membership, EntryKind::Control];
    let kind = kinds[random.below(3) as usize];
    let body = if kind == EntryKind::Blank { Bytes::new() } else { noise(random, id, bytes) };
    LogEntry::new(kind, id, body)
}

/// Bytes that begin with the entry's id.
pub(crate) fn noise(random: &mut SplitMix, id: LogId, bytes: usize) -> Bytes {
    let mut noise = format!("{id} ").into_bytes();
    while noise.len() < bytes {
        noise.extend_from_slice(&random.number().to_le_bytes());
    }
    noise.truncate(bytes.max(4));
    noise.into()
}
