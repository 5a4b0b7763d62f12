//! Neighbouring segments written anew as one: which records stay, and how what is left of neighbouring
//! batches is put together.

use bytes::Bytes;
use plimsoll_protocol::batch::{
    BatchHeader, CompactedBatchBuilder, CompactedFrom, Compression, EntryKind, RecordBatch,
    RecordIter, RecordView,
};
use plimsoll_protocol::ids::{LogId, Offset};

use super::CompactError;
use super::newest::Newest;
use super::output::Output;
use super::run::CompactionStep;
use super::source::Source;
use crate::group::GroupLog;
use crate::segment::SegmentInfo;

/// Batches are put together up to so many bytes of records.
const MERGED_BYTES_MAX: usize = 64 * 1024;

/// And up to so many offsets, so that a reader in the middle of a batch need not skip more.
const MERGED_OFFSETS_MAX: u64 = 1_000_000;

/// A batch of at least this size from which nothing goes is copied as it is.
const COPIED_BYTES_MIN: u32 = 32 * 1024;

/// A tombstone with this horizon stays: what it deletes may not all have gone yet.
const HORIZON_OPEN: i64 = i64::MAX;

/// What decides which records stay.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) newest: Newest,
    /// Records before this offset are in the map, or were when they were rewritten before.
    pub(super) clean_to: Offset,
    pub(super) now_ms: i64,
    pub(super) tombstone_ms: u64,
}

/// One group of segments on its way into one.
#[derive(Debug)]
pub(super) struct Rewrite {
    pub(super) sources: Vec<SegmentInfo>,
    /// How many of them were read to their end.
    done: usize,
    source: Option<Source>,
    output: Output,
    pending: Option<Pending>,
    /// The earliest horizon of a tombstone that stays.
    horizon_ms: Option<i64>,
    pub(super) removed: u64,
    pub(super) kept: u64,
}

/// A batch that may still grow. It stands also for the entries without records behind it, so it is written
/// when the next one comes.
#[derive(Debug)]
struct Pending {
    batch: Growing,
    /// The last entry that it stands for.
    last: LogId,
}

#[derive(Debug)]
enum Growing {
    /// As it is.
    Copied(Box<BatchHeader>, Bytes),
    /// Of what was kept.
    Built {
        builder: CompactedBatchBuilder,
        compression: Compression,
        horizon_ms: Option<i64>,
        append_time_ms: i64,
        max_timestamp_ms: i64,
    },
}

/// What is to become of a batch.
struct Verdict {
    kept: u32,
    removed: u32,
    /// The horizon of the tombstones that stay; `None` where none does.
    horizon_ms: Option<i64>,
}

impl Rules {
    /// The horizon that tombstones of this batch have from now on.
    fn horizon(&self, header: &BatchHeader) -> i64 {
        match header.tombstone_horizon_ms() {
            Some(horizon_ms) if horizon_ms != HORIZON_OPEN => horizon_ms,
            _ if header.end_offset() <= self.clean_to => {
                self.now_ms.saturating_add_unsigned(self.tombstone_ms)
            }
            _ => HORIZON_OPEN,
        }
    }

    fn keeps(&self, header: &BatchHeader, offset: Offset, record: &RecordView<'_>) -> bool {
        let Some(key) = record.key else { return true };
        let has_expired = record.value.is_none()
            && header.tombstone_horizon_ms().is_some_and(|horizon_ms| horizon_ms <= self.now_ms);
        !has_expired && !self.newest.is_superseded(key, offset)
    }
}

impl Rewrite {
    /// Begins. Blocks.
    pub(super) fn begin(
        group: &GroupLog,
        sources: &[SegmentInfo],
        now_ms: i64,
    ) -> Result<Self, CompactError> {
        let needed = sources.iter().map(|info| info.end_bytes).sum();
        Ok(Self {
            output: Output::create(group, &sources[0], needed, now_ms)?,
            sources: sources.to_vec(),
            done: 0,
            source: None,
            pending: None,
            horizon_ms: None,
            removed: 0,
            kept: 0,
        })
    }

    /// Reads and rewrites one batch; true once all of it is on stable storage under its name. Blocks.
    pub(super) fn step(
        &mut self,
        group: &GroupLog,
        rules: &Rules,
        step: &mut CompactionStep,
    ) -> Result<bool, CompactError> {
        let mut source = match self.source.take() {
            Some(source) => source,
            None => Source::open(group, &self.sources[self.done])?,
        };
        match source.next()? {
            Some(batch) => {
                step.read += u64::from(batch.header.batch_length);
                self.take_in(&source, batch, rules, step)?;
                self.source = Some(source);
                return Ok(false);
            }
            None => self.done += 1,
        }
        if self.done < self.sources.len() {
            return Ok(false);
        }
        self.flush(step)?;
        step.written += self.output.finish(&self.sources, rules.clean_to, self.horizon_ms)?;
        Ok(true)
    }

    /// The segment that was made.
    pub(super) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    fn take_in(
        &mut self,
        source: &Source,
        batch: RecordBatch,
        rules: &Rules,
        step: &mut CompactionStep,
    ) -> Result<(), CompactError> {
        let header = batch.header;
        if header.kind != EntryKind::Records {
            // Who comes first stands for it too: the next batch, where none was before it.
            if let Some(pending) = &mut self.pending {
                pending.last = header.log_id();
            }
            return Ok(());
        }
        let unreadable = |error| CompactError::from(source.unreadable(&batch, error));
        let records = batch.records(header.records_bytes as usize).map_err(unreadable)?;
        let verdict = judge(records.clone(), &header, rules).map_err(unreadable)?;
        self.removed += u64::from(verdict.removed);
        self.kept += u64::from(verdict.kept);
        if let Some(horizon_ms) = verdict.horizon_ms {
            self.horizon_ms = Some(self.horizon_ms.map_or(horizon_ms, |h| h.min(horizon_ms)));
        }
        let is_as_it_was = verdict.removed == 0
            && (verdict.horizon_ms.is_none()
                || verdict.horizon_ms == header.tombstone_horizon_ms());
        if is_as_it_was && header.batch_length >= COPIED_BYTES_MIN {
            self.flush(step)?;
            let copied = Growing::Copied(Box::new(header), batch.body);
            self.pending = Some(Pending { batch: copied, last: header.log_id() });
            return Ok(());
        }
        // What the map does not hold yet stays in batches as small as they are: the next run takes whole
        // batches into a map that may be small.
        let may_join = header.base_offset < rules.clean_to;
        if !(may_join && self.pending.as_ref().is_some_and(|p| p.takes(&header, &verdict))) {
            self.flush(step)?;
        }
        let pending = self.pending.get_or_insert_with(|| Pending::new(&header));
        pending.take_in(records, &header, &verdict, rules).map_err(unreadable)
    }

    /// Writes the batch that was growing.
    fn flush(&mut self, step: &mut CompactionStep) -> Result<(), CompactError> {
        if let Some(pending) = self.pending.take() {
            let batch = pending.finish();
            step.written += self.output.push(batch.header, &batch.body)?;
        }
        Ok(())
    }
}

fn judge(
    mut records: RecordIter,
    header: &BatchHeader,
    rules: &Rules,
) -> Result<Verdict, plimsoll_protocol::batch::BatchError> {
    let mut verdict = Verdict { kept: 0, removed: 0, horizon_ms: None };
    while let Some(found) = records.next_view() {
        let (offset, record) = found?;
        if !rules.keeps(header, offset, &record) {
            verdict.removed += 1;
            continue;
        }
        verdict.kept += 1;
        if record.value.is_none() {
            verdict.horizon_ms = Some(rules.horizon(header));
        }
    }
    Ok(verdict)
}

impl Pending {
    /// One that begins with what is left of this batch.
    fn new(header: &BatchHeader) -> Self {
        let builder = CompactedBatchBuilder::new(header.base_offset)
            .with_base_timestamp_ms(header.base_timestamp_ms);
        let batch = Growing::Built {
            builder,
            compression: header.compression,
            horizon_ms: None,
            append_time_ms: header.append_time_ms,
            max_timestamp_ms: header.max_timestamp_ms,
        };
        Self { batch, last: header.log_id() }
    }

    /// Whether what is left of the next batch may join it.
    fn takes(&self, next: &BatchHeader, verdict: &Verdict) -> bool {
        let Growing::Built { builder, compression, horizon_ms, .. } = &self.batch else {
            return false;
        };
        let offsets = next.end_offset().0 - builder.base_offset().0;
        let is_alike = verdict.kept == 0
            || builder.kept() == 0
            || *compression == next.compression
                && builder.bytes() + next.records_bytes as usize <= MERGED_BYTES_MAX;
        let is_of_one_horizon = horizon_ms.is_none()
            || verdict.horizon_ms.is_none()
            || *horizon_ms == verdict.horizon_ms;
        offsets <= MERGED_OFFSETS_MAX && is_alike && is_of_one_horizon
    }

    /// Adds what is left of a batch.
    fn take_in(
        &mut self,
        mut records: RecordIter,
        header: &BatchHeader,
        verdict: &Verdict,
        rules: &Rules,
    ) -> Result<(), plimsoll_protocol::batch::BatchError> {
        let Growing::Built { builder, compression, horizon_ms, append_time_ms, max_timestamp_ms } =
            &mut self.batch
        else {
            unreachable!("only one that is built takes more")
        };
        if builder.kept() == 0 {
            *compression = header.compression;
        }
        while verdict.kept > 0
            && let Some(found) = records.next_view()
        {
            let (offset, record) = found?;
            if rules.keeps(header, offset, &record) {
                let expires_at_ms = header.expiry_of(&record);
                builder.keep(offset, RecordView { expires_at_ms, ..record });
            }
        }
        builder.covers_to(header.end_offset());
        *horizon_ms = horizon_ms.or(verdict.horizon_ms);
        *append_time_ms = header.append_time_ms;
        *max_timestamp_ms = (*max_timestamp_ms).max(header.max_timestamp_ms);
        self.last = header.log_id();
        Ok(())
    }

    fn finish(self) -> RecordBatch {
        let last = self.last;
        match self.batch {
            Growing::Copied(header, body) => {
                let header = BatchHeader { term: last.term, index: last.index, ..*header };
                RecordBatch { header, body }
            }
            Growing::Built {
                builder,
                compression,
                horizon_ms,
                append_time_ms,
                max_timestamp_ms,
            } => {
                let tombstone_horizon_ms = horizon_ms.unwrap_or_default();
                let from =
                    CompactedFrom { last, append_time_ms, max_timestamp_ms, tombstone_horizon_ms };
                builder.finish(from, compression)
            }
        }
    }
}
