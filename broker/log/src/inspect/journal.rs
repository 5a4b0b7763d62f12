//! The journal, as an inspection sees it.

use std::sync::Arc;

use plimsoll_protocol::ids::{GroupId, LogId, LogIndex};

use super::report::{GroupReport, PlacedCheck, Report};
use super::{DamagedPlace, InspectError};
use crate::checkpoint::GroupRecord;
use crate::disk::Disk;
use crate::entry::{Change, Marks, Placed};
use crate::header::{HEADER_BYTES, Identity};
use crate::journal::record::Record;
use crate::journal::replay::{FileScan, ReadBlock, ReplayError, replay};
use crate::journal::{FileSeq, JournalPosition, file, record};
use crate::segment::SegmentName;

/// One journal file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalFileReport {
    /// The file.
    pub path: String,
    /// Why it cannot be used; the fields below are zero then.
    pub damage: Option<String>,
    /// Its number.
    pub seq: u64,
    /// Its size.
    pub bytes: u64,
    /// Bytes up to the end of its last block.
    pub used_bytes: u64,
    /// Blocks of its present life.
    pub blocks: u64,
    /// Number of the first one.
    pub first_block: Option<u64>,
    /// Number of the last one.
    pub last_block: Option<u64>,
    /// The newest checkpoint needs it, or it comes after what that needs.
    pub needed: bool,
}

/// One block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockReport {
    /// The file.
    pub path: String,
    /// Where it begins.
    pub position: u64,
    /// Its number.
    pub block: u64,
    /// Every block up to this one was durable when it was built.
    pub durable_through: u64,
    /// Bytes, without padding.
    pub bytes: u64,
    /// Its records, in order: the group and the kind.
    pub records: Vec<(GroupId, Option<crate::RecordKind>)>,
    /// Where the entries lie to which it refers, in the order of its records of that kind.
    pub placed: Vec<PlacedReport>,
}

/// Entries that lie in a segment, and to which a block only refers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedReport {
    /// The group.
    pub group: GroupId,
    /// The segment's file.
    pub path: String,
    /// Where in it the first one begins.
    pub from: u64,
    /// Where the last one ends.
    pub to: u64,
    /// How many.
    pub entries: u32,
    /// Index of the first one.
    pub first: LogIndex,
    /// The last one.
    pub last: LogId,
}

impl PlacedReport {
    fn of(group: GroupId, placed: &Placed) -> Self {
        let &Placed { from, to, entries, first, last, .. } = placed;
        let path = SegmentName { group, id: placed.segment }.path();
        Self { group, path, from, to, entries, first, last }
    }
}

impl BlockReport {
    fn of(block: &ReadBlock) -> Self {
        let kind = |kind| crate::RecordKind::from_u8(kind);
        let placed = block.records.iter().filter_map(|raw| {
            let payload = block.bytes.slice(raw.payload.clone());
            match record::decode(raw.kind, &payload) {
                Ok(Record::Placed(placed)) => Some(PlacedReport::of(GroupId(raw.group), &placed)),
                _ => None,
            }
        });
        Self {
            path: file::path(block.file),
            position: block.offset,
            block: block.header.seq.0,
            durable_through: block.header.durable.0,
            bytes: u64::from(block.header.length),
            records: block.records.iter().map(|r| (GroupId(r.group), kind(r.kind))).collect(),
            placed: placed.collect(),
        }
    }
}

fn failed(error: ReplayError) -> InspectError {
    let path = file::DIRECTORY.to_owned();
    InspectError::Medium { operation: "reading", path, source: std::io::Error::other(error) }
}

/// Follows the blocks of one file.
fn follow(
    disk: &dyn Disk,
    identity: &Identity,
    seq: FileSeq,
    visit: &mut dyn FnMut(&ReadBlock),
) -> Result<JournalFileReport, InspectError> {
    let path = file::path(seq);
    let mut report = JournalFileReport {
        path: path.clone(),
        damage: None,
        seq: seq.0,
        bytes: 0,
        used_bytes: 0,
        blocks: 0,
        first_block: None,
        last_block: None,
        needed: false,
    };
    let opened = file::open(disk, identity, seq).map_err(InspectError::medium("reading", &path))?;
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => {
            report.damage = Some(error.to_string());
            return Ok(report);
        }
    };
    report.bytes = opened.header.file_bytes;
    report.used_bytes = HEADER_BYTES as u64;
    let mut scan = FileScan::new(opened);
    let mut next = None;
    while let Some(block) = scan.block_at(report.used_bytes).map_err(failed)? {
        if next.is_some_and(|next| next != block.header.seq) {
            break;
        }
        visit(&block);
        report.used_bytes += block.header.padded();
        report.blocks += 1;
        report.first_block = report.first_block.or(Some(block.header.seq.0));
        report.last_block = Some(block.header.seq.0);
        next = Some(block.header.seq.next());
    }
    Ok(report)
}

pub(super) fn visit_blocks(
    disk: &dyn Disk,
    identity: &Identity,
    visit: &mut dyn FnMut(&BlockReport),
) -> Result<(), InspectError> {
    let listed = file::list(disk).map_err(InspectError::medium("listing", file::DIRECTORY))?;
    for seq in listed {
        follow(disk, identity, seq, &mut |block| visit(&BlockReport::of(block)))?;
    }
    Ok(())
}

/// Lists the files, and applies what an opening would replay to the groups of the report.
pub(super) fn look(
    disk: &Arc<dyn Disk>,
    identity: &Identity,
    start: Option<JournalPosition>,
    report: &mut Report,
) -> Result<(), InspectError> {
    let listed = file::list(&**disk).map_err(InspectError::medium("listing", file::DIRECTORY))?;
    for seq in listed {
        let mut found = follow(&**disk, identity, seq, &mut |_| {})?;
        found.needed = start.is_none_or(|start| seq >= start.file);
        if let Some(damage) = &found.damage {
            let place = DamagedPlace::new(found.path.clone(), Some(0), damage.clone());
            report.damaged.push(place);
        }
        report.journal.push(found);
    }
    let outcome = replay(disk, identity, start, |block| {
        report.replay_blocks += 1;
        report.replay_bytes += u64::from(block.header.length);
        apply(&block, report);
        Ok::<(), ReplayError>(())
    });
    match outcome {
        Ok(_) => {}
        Err(ReplayError::Medium { path, source }) => {
            return Err(InspectError::Medium { operation: "reading", path, source });
        }
        Err(error) => {
            let (path, position) = match &error {
                ReplayError::Damaged { path, position, .. } => (path.clone(), Some(*position)),
                ReplayError::Header { path, .. } | ReplayError::Missing { path } => {
                    (path.clone(), Some(0))
                }
                ReplayError::Medium { .. } => unreachable!("handled above"),
            };
            let known = report.damaged.iter().any(|place| place.path == path);
            if !known {
                report.damaged.push(DamagedPlace::new(path, position, error.to_string()));
            }
        }
    }
    Ok(())
}

/// Takes in what a block says of the groups, and notes what does not fit.
fn apply(block: &ReadBlock, report: &mut Report) {
    let misfit = |what: String| DamagedPlace::new(file::path(block.file), Some(block.offset), what);
    for raw in &block.records {
        let id = GroupId(raw.group);
        let payload = block.bytes.slice(raw.payload.clone());
        let change = match record::decode(raw.kind, &payload) {
            Ok(Record::Change(change)) => change,
            Ok(Record::Placed(placed)) => {
                apply_placed(block, id, placed, report);
                continue;
            }
            Err(error) => {
                report.damaged.push(misfit(format!("a record of group {id}: {error}")));
                continue;
            }
        };
        match (&change, report.groups.get_mut(&id)) {
            (Change::Create(options), None) => {
                report.groups.insert(id, GroupReport::with(id, Marks::new(*options)));
            }
            (Change::Delete, Some(_)) => {
                report.groups.remove(&id);
                report.installed.remove(&id);
                report.swaps.retain(|(group, _)| *group != id);
            }
            (Change::Install(install), Some(group)) => {
                if let Err(problem) = install.check() {
                    report.damaged.push(misfit(format!("the log of group {id} {problem}")));
                }
                group.apply(&change);
                let (marks, segments) = (group.marks, install.segments.clone());
                let next_segment = install.next_segment;
                let record = GroupRecord { group: id, marks, next_segment, segments };
                report.installed.insert(id, record);
                // What lay in the log before is not part of it.
                report.placed.retain(|check| check.group != id);
                report.swaps.retain(|(group, _)| *group != id);
            }
            (Change::Compacted(swap), Some(group)) => {
                group.apply_swap(swap);
                let done = report.installed.get_mut(&id).map(|record| record.swap(swap));
                match done {
                    Some(true) => {}
                    Some(false) => report.damaged.push(misfit(format!(
                        "replaces segments of group {id} that are not there"
                    ))),
                    None => report.swaps.push((id, swap.clone())),
                }
            }
            (Change::Create(_), Some(_)) => {
                report.damaged.push(misfit(format!("creates group {id}, which is there")));
            }
            (_, None) => {
                report.damaged.push(misfit(format!("changes group {id}, which is not there")));
            }
            (Change::Entries(entries), Some(group)) => {
                let header = &entries[0].header;
                let continues = header.index == group.marks.next_index()
                    && header.base_offset == group.marks.end_offset;
                if !continues {
                    report.damaged.push(misfit(format!(
                        "entry {} of group {id} stands where entry {} is expected",
                        header.index,
                        group.marks.next_index()
                    )));
                } else if !header.check_body_crc(&entries[0].body) {
                    report.damaged.push(misfit(format!(
                        "entry {} of group {id} was journaled with a wrong body checksum",
                        header.index
                    )));
                }
                group.apply(&change);
            }
            (_, Some(group)) => group.apply(&change),
        }
    }
}

/// Takes in entries that lie in a segment; whether they do is for a verification to say.
fn apply_placed(block: &ReadBlock, id: GroupId, placed: Placed, report: &mut Report) {
    let misfit = |what: String| DamagedPlace::new(file::path(block.file), Some(block.offset), what);
    let Some(group) = report.groups.get_mut(&id) else {
        report.damaged.push(misfit(format!("refers to entries of group {id}, which is not there")));
        return;
    };
    if placed.first != group.marks.next_index() {
        report.damaged.push(misfit(format!(
            "entry {} of group {id} is referred to where entry {} is expected",
            placed.first,
            group.marks.next_index()
        )));
    }
    let (previous, base_offset) = (group.marks.last, group.marks.end_offset);
    report.placed.push(PlacedCheck { group: id, placed, previous, base_offset });
    group.apply_placed(&placed);
}
