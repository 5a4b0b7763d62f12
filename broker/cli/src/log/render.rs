//! What an inspection found, as tables for people and JSON for scripts.

use std::fmt;

use plimsoll_log::inspect::{
    BatchReport, BlockReport, CheckpointReport, GroupReport, JournalFileReport, PlacedReport,
    Report, SegmentReport, Verdict,
};
use plimsoll_log::{Durability, RecordKind};
use plimsoll_protocol::batch::{BatchHeader, Compression, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogId};
use serde::Serialize;

use super::verify::{DamageJson, damage_line};
use crate::clock::time_text;
use crate::failure::Failure;
use crate::output::Output;
use crate::quantity::bytes_text;
use crate::table::Table;

/// Everything but blocks and batches, for people. `whole`: also what belongs to no group.
pub(super) fn lines(report: &Report, groups: &[GroupId], whole: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if whole {
        lines.push(format!("cluster    {}", hex(&report.cluster_id)));
        lines.push(format!("node       {}", report.node_id));
        lines.push(format!("format     {}", report.format_version));
        lines.push(String::new());
        lines.extend(checkpoints(&report.checkpoints).lines());
        lines.push(String::new());
        lines.extend(journal(&report.journal).lines());
        let (blocks, bytes) = (report.replay_blocks, bytes_text(report.replay_bytes));
        lines.push(format!("\nan opening would replay {blocks} journal blocks, {bytes}"));
        lines.push(String::new());
    }
    let chosen = || groups.iter().filter_map(|group| report.groups.get(group));
    lines.extend(group_table(chosen()).lines());
    if !whole {
        for group in chosen() {
            lines.push(String::new());
            lines.extend(segments(&group.segments).lines());
        }
    }
    lines.extend(report.quarantined.iter().map(|path| format!("put aside as damaged: {path}")));
    lines.extend(report.damaged.iter().map(|place| format!("damaged: {}", damage_line(place))));
    lines
}

fn checkpoints(found: &[CheckpointReport]) -> Table {
    let mut table =
        Table::new(&["CHECKPOINT", ">GROUPS", ">SIZE", ">JOURNAL FILE", ">BYTE", "NOTE"]);
    for checkpoint in found {
        let note = match (&checkpoint.damage, checkpoint.closed) {
            (Some(damage), _) => format!("damaged: {damage}"),
            (None, true) => "made when the node ended".to_owned(),
            (None, false) => String::new(),
        };
        table.row(vec![
            checkpoint.path.clone(),
            checkpoint.groups.to_string(),
            bytes_text(checkpoint.bytes),
            checkpoint.journal_file.to_string(),
            checkpoint.journal_offset.to_string(),
            note,
        ]);
    }
    table
}

fn journal(files: &[JournalFileReport]) -> Table {
    let mut table =
        Table::new(&["JOURNAL FILE", ">SIZE", ">USED", ">BLOCKS", ">FIRST", ">LAST", "NOTE"]);
    for file in files {
        let note = match (&file.damage, file.needed) {
            (Some(damage), _) => format!("damaged: {damage}"),
            (None, true) => "needed".to_owned(),
            (None, false) => String::new(),
        };
        table.row(vec![
            file.path.clone(),
            bytes_text(file.bytes),
            bytes_text(file.used_bytes),
            file.blocks.to_string(),
            text_of(file.first_block),
            text_of(file.last_block),
            note,
        ]);
    }
    table
}

fn group_table<'a>(groups: impl Iterator<Item = &'a GroupReport>) -> Table {
    let mut table = Table::new(&[
        ">GROUP",
        "DURABILITY",
        ">LAST ENTRY",
        ">COMMITTED",
        ">LOG START",
        ">LOG END",
        ">SEGMENTS",
        ">SIZE",
        ">TO REPLAY",
    ]);
    for group in groups {
        let bytes = group.segments.iter().map(|segment| segment.end_bytes).sum();
        table.row(vec![
            group.group.to_string(),
            durability(group.options.durability).to_owned(),
            text_of(group.last),
            text_of(group.committed),
            group.log_start_offset.to_string(),
            group.log_end_offset.to_string(),
            group.segments.len().to_string(),
            bytes_text(bytes),
            bytes_text(group.replayed_bytes),
        ]);
    }
    table
}

fn segments(segments: &[SegmentReport]) -> Table {
    let mut table = Table::new(&[
        "SEGMENT",
        ">FROM ENTRY",
        ">FROM OFFSET",
        ">END OFFSET",
        ">SIZE",
        "NEWEST RECORD",
        "NOTE",
    ]);
    for segment in segments {
        table.row(vec![
            segment.path.clone(),
            segment.base_index.to_string(),
            segment.base_offset.to_string(),
            segment.end_offset.to_string(),
            bytes_text(segment.end_bytes),
            segment.max_timestamp_ms.map(time_text).unwrap_or_default(),
            if segment.sealed { "sealed".to_owned() } else { String::new() },
        ]);
    }
    table
}

/// Titles above [`batch_line`].
pub(super) const BATCH_TITLES: &str = "\
TERM.INDEX  KIND  OFFSETS  RECORDS  SIZE  COMPRESSION  PRODUCER.EPOCH@SEQUENCE  FILE:BYTE  VERDICT";

/// One batch on one line; columns are not aligned, because there may be millions.
pub(super) fn batch_line(batch: &BatchReport) -> String {
    let place = format!("{}:{}", batch.path, batch.position);
    let verdict = verdict(&batch.verdict);
    let Some(header) = &batch.header else { return format!("?  {place}  {verdict}") };
    format!(
        "{}  {}  {}..{}  {}  {} B  {}  {}  {place}  {verdict}",
        header.log_id(),
        entry_text(header),
        header.base_offset,
        header.end_offset(),
        records_text(header),
        header.batch_length,
        compression(header.compression),
        producer_text(header),
    )
}

fn entry_text(header: &BatchHeader) -> &'static str {
    if header.compacted { "compacted" } else { entry_kind(header.kind) }
}

/// How many records; of a compacted batch the header says only how many there are at most.
fn records_text(header: &BatchHeader) -> String {
    let most = if header.compacted { "<=" } else { "" };
    format!("{most}{}", header.record_count)
}

/// Who made the batch; of a compacted one, from when on its tombstones may go.
fn producer_text(header: &BatchHeader) -> String {
    if !header.compacted {
        let BatchHeader { producer_id, producer_epoch, base_sequence, .. } = header;
        return format!("{producer_id}.{producer_epoch}@{base_sequence}");
    }
    match header.tombstone_horizon_ms() {
        Some(horizon_ms) => format!("tombstones-until={}", time_text(horizon_ms)),
        None => "-".to_owned(),
    }
}

/// One journal block on one line.
pub(super) fn block_line(block: &BlockReport) -> String {
    let records: Vec<_> = block
        .records
        .iter()
        .map(|(group, kind)| format!("{}:{group}", record_kind(*kind)))
        .collect();
    let placed = block.placed.iter().map(placed_text);
    let records: Vec<_> = records.into_iter().chain(placed).collect();
    format!(
        "{}  {}  {}  {} B  {}",
        block.block,
        block.path,
        block.position,
        block.bytes,
        records.join(" ")
    )
}

/// `[10..13 of 7 in segments/7-0.segment:4096..8192]`: the first index, and the one after the last.
fn placed_text(placed: &PlacedReport) -> String {
    let PlacedReport { group, path, from, to, first, last, .. } = placed;
    format!("[{first}..{} of {group} in {path}:{from}..{to}]", last.index.0 + 1)
}

/// Everything but blocks and batches, for scripts.
pub(super) fn json(
    output: &mut Output,
    report: &Report,
    groups: &[GroupId],
    whole: bool,
) -> Result<(), Failure> {
    if whole {
        output.json(&StoreJson {
            kind: "store",
            cluster_id: hex(&report.cluster_id),
            node_id: report.node_id.0,
            format_version: report.format_version,
            replay_blocks: report.replay_blocks,
            replay_bytes: report.replay_bytes,
            quarantined: &report.quarantined,
        })?;
        for checkpoint in &report.checkpoints {
            output.json(&CheckpointJson::of(checkpoint))?;
        }
        for file in &report.journal {
            output.json(&JournalFileJson::of(file))?;
        }
    }
    for group in groups.iter().filter_map(|group| report.groups.get(group)) {
        output.json(&GroupJson::of(group))?;
        for segment in &group.segments {
            output.json(&SegmentJson::of(group.group, segment))?;
        }
    }
    report.damaged.iter().try_for_each(|place| output.json(&DamageJson::of(place)))
}

#[derive(Debug, Serialize)]
struct StoreJson<'a> {
    kind: &'static str,
    cluster_id: String,
    node_id: u64,
    format_version: u32,
    replay_blocks: u64,
    replay_bytes: u64,
    quarantined: &'a [String],
}

#[derive(Debug, Serialize)]
struct CheckpointJson<'a> {
    kind: &'static str,
    path: &'a str,
    damage: Option<&'a str>,
    seq: u64,
    closed: bool,
    groups: u64,
    bytes: u64,
    journal_file: u64,
    journal_offset: u64,
    next_block: u64,
}

impl<'a> CheckpointJson<'a> {
    fn of(checkpoint: &'a CheckpointReport) -> Self {
        Self {
            kind: "checkpoint",
            path: &checkpoint.path,
            damage: checkpoint.damage.as_deref(),
            seq: checkpoint.seq,
            closed: checkpoint.closed,
            groups: checkpoint.groups,
            bytes: checkpoint.bytes,
            journal_file: checkpoint.journal_file,
            journal_offset: checkpoint.journal_offset,
            next_block: checkpoint.next_block,
        }
    }
}

#[derive(Debug, Serialize)]
struct JournalFileJson<'a> {
    kind: &'static str,
    path: &'a str,
    damage: Option<&'a str>,
    seq: u64,
    bytes: u64,
    used_bytes: u64,
    blocks: u64,
    first_block: Option<u64>,
    last_block: Option<u64>,
    needed: bool,
}

impl<'a> JournalFileJson<'a> {
    fn of(file: &'a JournalFileReport) -> Self {
        Self {
            kind: "journal-file",
            path: &file.path,
            damage: file.damage.as_deref(),
            seq: file.seq,
            bytes: file.bytes,
            used_bytes: file.used_bytes,
            blocks: file.blocks,
            first_block: file.first_block,
            last_block: file.last_block,
            needed: file.needed,
        }
    }
}

#[derive(Debug, Serialize)]
struct LogIdJson {
    term: u64,
    index: u64,
}

impl From<LogId> for LogIdJson {
    fn from(id: LogId) -> Self {
        Self { term: id.term.0, index: id.index.0 }
    }
}

#[derive(Debug, Serialize)]
struct GroupJson {
    kind: &'static str,
    group: u64,
    durability: &'static str,
    segment_bytes: u64,
    vote_term: Option<u64>,
    voted_for: Option<u64>,
    last: Option<LogIdJson>,
    committed: Option<LogIdJson>,
    purged: Option<LogIdJson>,
    log_start_offset: u64,
    log_end_offset: u64,
    segments: usize,
    bytes: u64,
    replayed_entries: u64,
    replayed_bytes: u64,
    state_applied: Option<LogIdJson>,
    state_bytes: Option<u64>,
}

impl GroupJson {
    fn of(group: &GroupReport) -> Self {
        Self {
            kind: "group",
            group: group.group.0,
            durability: durability(group.options.durability),
            segment_bytes: group.options.segment_bytes,
            vote_term: group.vote.map(|vote| vote.term.0),
            voted_for: group.vote.map(|vote| vote.voted_for.0),
            last: group.last.map(LogIdJson::from),
            committed: group.committed.map(LogIdJson::from),
            purged: group.purged.map(LogIdJson::from),
            log_start_offset: group.log_start_offset.0,
            log_end_offset: group.log_end_offset.0,
            segments: group.segments.len(),
            bytes: group.segments.iter().map(|segment| segment.end_bytes).sum(),
            replayed_entries: group.replayed_entries,
            replayed_bytes: group.replayed_bytes,
            state_applied: group.state.as_ref().map(|state| state.applied.into()),
            state_bytes: group.state.as_ref().map(|state| state.bytes),
        }
    }
}

#[derive(Debug, Serialize)]
struct SegmentJson<'a> {
    kind: &'static str,
    group: u64,
    segment: u64,
    path: &'a str,
    base_index: u64,
    base_offset: u64,
    last: Option<LogIdJson>,
    end_offset: u64,
    end_bytes: u64,
    sealed: bool,
    max_timestamp_ms: Option<i64>,
    max_append_ms: Option<i64>,
}

impl<'a> SegmentJson<'a> {
    fn of(group: GroupId, segment: &'a SegmentReport) -> Self {
        Self {
            kind: "segment",
            group: group.0,
            segment: segment.segment,
            path: &segment.path,
            base_index: segment.base_index.0,
            base_offset: segment.base_offset.0,
            last: segment.last.map(LogIdJson::from),
            end_offset: segment.end_offset.0,
            end_bytes: segment.end_bytes,
            sealed: segment.sealed,
            max_timestamp_ms: segment.max_timestamp_ms,
            max_append_ms: segment.max_append_ms,
        }
    }
}

/// A journal block in JSON.
#[derive(Debug, Serialize)]
pub(super) struct BlockJson<'a> {
    kind: &'static str,
    path: &'a str,
    position: u64,
    block: u64,
    durable_through: u64,
    bytes: u64,
    records: Vec<BlockRecordJson>,
    placed: Vec<PlacedJson<'a>>,
}

#[derive(Debug, Serialize)]
struct BlockRecordJson {
    group: u64,
    kind: &'static str,
}

/// Entries that lie in a segment.
#[derive(Debug, Serialize)]
struct PlacedJson<'a> {
    group: u64,
    path: &'a str,
    from: u64,
    to: u64,
    entries: u32,
    first_index: u64,
}

impl<'a> PlacedJson<'a> {
    fn of(placed: &'a PlacedReport) -> Self {
        Self {
            group: placed.group.0,
            path: &placed.path,
            from: placed.from,
            to: placed.to,
            entries: placed.entries,
            first_index: placed.first.0,
        }
    }
}

impl<'a> BlockJson<'a> {
    pub(super) fn of(block: &'a BlockReport) -> Self {
        let record = |&(group, kind): &(GroupId, Option<RecordKind>)| BlockRecordJson {
            group: group.0,
            kind: record_kind(kind),
        };
        Self {
            kind: "block",
            path: &block.path,
            position: block.position,
            block: block.block,
            durable_through: block.durable_through,
            bytes: block.bytes,
            records: block.records.iter().map(record).collect(),
            placed: block.placed.iter().map(PlacedJson::of).collect(),
        }
    }
}

/// A batch in JSON. Of a header that cannot be read there is only the place.
#[derive(Debug, Serialize)]
pub(super) struct BatchJson<'a> {
    kind: &'static str,
    group: u64,
    path: &'a str,
    position: u64,
    damage: Option<&'a str>,
    #[serde(flatten)]
    header: Option<HeaderJson>,
}

#[derive(Debug, Serialize)]
struct HeaderJson {
    entry: &'static str,
    term: u64,
    index: u64,
    base_offset: u64,
    end_offset: u64,
    /// Of a compacted batch not in its header.
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<u32>,
    offsets: u32,
    compacted: bool,
    bytes: u32,
    records_bytes: u32,
    compression: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    producer_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    producer_epoch: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_sequence: Option<u64>,
    /// From when on tombstones of a compacted batch may go.
    #[serde(skip_serializing_if = "Option::is_none")]
    tombstone_horizon_ms: Option<i64>,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    append_time_ms: i64,
}

impl<'a> BatchJson<'a> {
    pub(super) fn of(group: GroupId, batch: &'a BatchReport) -> Self {
        Self {
            kind: "batch",
            group: group.0,
            path: &batch.path,
            position: batch.position,
            damage: match &batch.verdict {
                Verdict::Right => None,
                Verdict::Damaged(what) => Some(what),
            },
            header: batch.header.as_ref().map(HeaderJson::of),
        }
    }
}

impl HeaderJson {
    fn of(header: &BatchHeader) -> Self {
        let is_as_made = !header.compacted;
        Self {
            entry: entry_kind(header.kind),
            term: header.term.0,
            index: header.index.0,
            base_offset: header.base_offset.0,
            end_offset: header.end_offset().0,
            records: is_as_made.then_some(header.record_count),
            offsets: header.record_count,
            compacted: header.compacted,
            bytes: header.batch_length,
            records_bytes: header.records_bytes,
            compression: compression(header.compression),
            producer_id: is_as_made.then_some(header.producer_id.0),
            producer_epoch: is_as_made.then_some(header.producer_epoch),
            base_sequence: is_as_made.then_some(header.base_sequence),
            tombstone_horizon_ms: header.tombstone_horizon_ms(),
            base_timestamp_ms: header.base_timestamp_ms,
            max_timestamp_ms: header.max_timestamp_ms,
            append_time_ms: header.append_time_ms,
        }
    }
}

fn verdict(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Right => "right",
        Verdict::Damaged(what) => what,
    }
}

fn entry_kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Records => "records",
        EntryKind::Blank => "blank",
        EntryKind::Membership => "membership",
        EntryKind::Control => "control",
    }
}

fn compression(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
    }
}

fn record_kind(kind: Option<RecordKind>) -> &'static str {
    match kind {
        Some(RecordKind::Entry) => "entry",
        Some(RecordKind::Vote) => "vote",
        Some(RecordKind::Committed) => "committed",
        Some(RecordKind::Cut) => "cut",
        Some(RecordKind::Purge) => "purge",
        Some(RecordKind::Start) => "start",
        Some(RecordKind::Reset) => "reset",
        Some(RecordKind::Install) => "install",
        Some(RecordKind::Compacted) => "compacted",
        Some(RecordKind::Create) => "create",
        Some(RecordKind::Options) => "options",
        Some(RecordKind::Delete) => "delete",
        Some(RecordKind::Placed) => "placed",
        None => "unknown",
    }
}

fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Durable => "durable",
        Durability::Memory => "memory",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text_of(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_protocol::ids::{LogIndex, Offset, ProducerId, Term};

    fn batch() -> BatchReport {
        BatchReport {
            path: "segments/7-0.segment".to_owned(),
            position: 4_096,
            header: Some(BatchHeader {
                batch_length: 200,
                term: Term(2),
                index: LogIndex(5),
                base_offset: Offset(10),
                record_count: 3,
                producer_id: ProducerId(9),
                base_sequence: 4,
                ..BatchHeader::default()
            }),
            verdict: Verdict::Right,
        }
    }

    #[test]
    fn batch_is_one_line_with_its_place() {
        assert_eq!(
            batch_line(&batch()),
            "2.5  records  10..13  3  200 B  none  9.0@4  segments/7-0.segment:4096  right"
        );
        let unreadable = BatchReport {
            header: None,
            verdict: Verdict::Damaged("not a header".to_owned()),
            ..batch()
        };
        assert_eq!(batch_line(&unreadable), "?  segments/7-0.segment:4096  not a header");
    }

    #[test]
    fn compacted_batch_shows_no_count_of_records_and_no_sequence() {
        let header = BatchHeader {
            compacted: true,
            producer_id: ProducerId(0),
            base_sequence: 1_795_250_000_250,
            ..batch().header.unwrap()
        };
        let compacted = BatchReport { header: Some(header), ..batch() };
        assert_eq!(
            batch_line(&compacted),
            "2.5  compacted  10..13  <=3  200 B  none  tombstones-until=2026-11-21T08:33:20.250Z  \
             segments/7-0.segment:4096  right"
        );
        let json = serde_json::to_value(BatchJson::of(GroupId(7), &compacted)).unwrap();
        assert_eq!((json.get("records"), json.get("base_sequence")), (None, None));
        assert_eq!((&json["offsets"], &json["compacted"]), (&3.into(), &true.into()));
        assert_eq!(json["tombstone_horizon_ms"], 1_795_250_000_250_i64);
        let none = BatchHeader { base_sequence: 0, ..header };
        assert!(
            batch_line(&BatchReport { header: Some(none), ..batch() }).contains("  -  segments")
        );
    }

    #[test]
    fn batch_in_json_has_its_header_beside_its_place() {
        let json = serde_json::to_value(BatchJson::of(GroupId(7), &batch())).unwrap();
        assert_eq!(json["end_offset"], 13);
        assert_eq!(json["damage"], serde_json::Value::Null);
        let unreadable = BatchReport { header: None, ..batch() };
        let json = serde_json::to_value(BatchJson::of(GroupId(7), &unreadable)).unwrap();
        assert_eq!(json.get("term"), None);
        assert_eq!(json["position"], 4_096);
    }
}
