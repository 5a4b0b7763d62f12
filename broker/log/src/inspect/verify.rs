//! Checking every byte of the segments that a checkpoint vouches for.

use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader};
use plimsoll_protocol::ids::{GroupId, LogId};

use super::report::{BatchReport, PlacedCheck, Verdict};
use super::{InspectError, Inspector};
use crate::disk::Mode;
use crate::header::HeaderError;
use crate::segment::file::{Segment, SegmentError};
use crate::segment::header::{DIRECTORY, EXTENSION, FIRST_BATCH_AT};
use crate::segment::index::{self, SparseIndex};
use crate::segment::scan::{Fault, check_header, check_placed};
use crate::segment::{SegmentInfo, SegmentName};

const WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// A place that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPlace {
    /// The file, relative to the data directory.
    pub path: String,
    /// Where in the file; `None` where the file as a whole is meant.
    pub position: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl DamagedPlace {
    pub(super) fn new(path: String, position: Option<u64>, what: String) -> Self {
        Self { path, position, what }
    }
}

/// What was checked, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// Groups that were checked.
    pub groups: u64,
    /// Segments that were checked.
    pub segments: u64,
    /// Batches that were checked.
    pub batches: u64,
    /// Bytes that were checked.
    pub bytes: u64,
    /// Journal blocks that were checked.
    pub blocks: u64,
    /// Batches that were checked because the journal after the newest checkpoint refers to them.
    pub placed: u64,
    /// Everything that is not as it was written.
    pub damaged: Vec<DamagedPlace>,
    /// What is odd and costs nothing: indexes that will be made again, files that will be removed.
    pub notes: Vec<String>,
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Segments that were checked.
    pub segments: u64,
    /// Segments there are.
    pub segments_total: u64,
    /// Bytes that were checked.
    pub bytes: u64,
    /// Bytes there are.
    pub bytes_total: u64,
}

pub(super) fn verify(
    inspector: &Inspector,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<Verification, InspectError> {
    let report = inspector.report();
    let mut found = Verification {
        damaged: report.damaged.clone(),
        blocks: report.journal.iter().map(|file| file.blocks).sum(),
        ..Verification::default()
    };
    for path in &report.quarantined {
        found.notes.push(format!("{path} was damaged and put aside; it is never deleted"));
    }
    let segments = || inspector.records.values().flat_map(|record| &record.segments);
    let mut now = VerifyProgress {
        segments: 0,
        segments_total: segments().count() as u64,
        bytes: 0,
        bytes_total: segments().map(|info| info.end_bytes).sum(),
    };
    for record in inspector.records.values() {
        found.groups += 1;
        let mut before: Option<&SegmentInfo> = None;
        for info in &record.segments {
            let path = SegmentName { group: record.group, id: info.id }.path();
            let follows = before.is_none_or(|before| {
                before.end_index() == info.base_index
                    && before.end_offset == info.base_offset
                    && before.sealed
            });
            if !follows {
                let what = "it does not continue the segment before it".to_owned();
                found.damaged.push(DamagedPlace::new(path.clone(), Some(0), what));
            }
            verify_segment(inspector, record.group, info, &mut found)?;
            before = Some(info);
            found.segments += 1;
            now.segments += 1;
            now.bytes += info.end_bytes;
            progress(now);
        }
        let ends = before.is_none_or(|last| {
            last.end_index() == record.marks.next_index()
                && last.end_offset == record.marks.end_offset
        });
        if !ends {
            let newest = inspector.report().checkpoints.first();
            let path = newest.map(|checkpoint| checkpoint.path.clone()).unwrap_or_default();
            let what = format!(
                "it says that group {} ends at entry {}, its segments end elsewhere",
                record.group,
                record.marks.next_index()
            );
            found.damaged.push(DamagedPlace::new(path, None, what));
        }
    }
    for check in &report.placed {
        verify_placed(inspector, check, &mut found)?;
    }
    note_leftovers(inspector, &mut found)?;
    Ok(found)
}

/// Checks entries of which the journal only says where they lie.
fn verify_placed(
    inspector: &Inspector,
    check: &PlacedCheck,
    found: &mut Verification,
) -> Result<(), InspectError> {
    let PlacedCheck { group, placed, previous, base_offset } = check;
    let name = SegmentName { group: *group, id: placed.segment };
    let (disk, identity) = (&*inspector.disk, &inspector.identity);
    let checked = Segment::open_headed(disk, identity, name, FIRST_BATCH_AT).and_then(|segment| {
        if segment.header().salt != placed.salt {
            let fault = Fault::FileHeader(HeaderError::Misplaced);
            return Err(SegmentError::Damaged(segment.damage(0, fault)));
        }
        check_placed(&segment, placed, *previous, *base_offset)
    });
    match checked {
        Ok(headers) => {
            found.placed += headers.len() as u64;
            found.bytes += placed.to - placed.from;
        }
        Err(SegmentError::Damaged(damage)) => {
            let (path, position) = (damage.path, Some(damage.position));
            found.damaged.push(DamagedPlace::new(path, position, damage.fault.to_string()));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn verify_segment(
    inspector: &Inspector,
    group: GroupId,
    info: &SegmentInfo,
    found: &mut Verification,
) -> Result<(), InspectError> {
    let segment = match inspector.segment(group, info)? {
        Ok(segment) => segment,
        Err(damage) => {
            let (path, position) = (damage.path, Some(damage.position));
            found.damaged.push(DamagedPlace::new(path, position, damage.fault.to_string()));
            return Ok(());
        }
    };
    let (batches, damaged) = (&mut found.batches, &mut found.damaged);
    visit_batches(&segment, info, &mut |batch| {
        *batches += 1;
        if let Verdict::Damaged(what) = &batch.verdict {
            let place = DamagedPlace::new(batch.path.clone(), Some(batch.position), what.clone());
            damaged.push(place);
        }
    })?;
    found.bytes += info.end_bytes;
    if info.sealed {
        check_index(inspector, group, info, found);
    }
    Ok(())
}

fn check_index(
    inspector: &Inspector,
    group: GroupId,
    info: &SegmentInfo,
    found: &mut Verification,
) {
    let name = SegmentName { group, id: info.id };
    let path = name.index_path();
    let disk = &inspector.disk;
    if !disk.exists(&path).unwrap_or(false) {
        return;
    }
    let bytes = disk.open(&path, Mode::Buffered).and_then(|file| {
        let mut bytes = vec![0; file.len()? as usize];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    });
    let problem = match bytes {
        Err(error) => error.to_string(),
        Ok(bytes) => match SparseIndex::decode(&inspector.identity, name, info, &bytes) {
            Ok(_) => return,
            Err(error) => error.to_string(),
        },
    };
    found.notes.push(format!("{path} is not used and will be made again: {problem}"));
}

/// Files that the newest checkpoint does not name: an opening takes them up or removes them.
fn note_leftovers(inspector: &Inspector, found: &mut Verification) -> Result<(), InspectError> {
    let names =
        inspector.disk.list(DIRECTORY).map_err(InspectError::medium("listing", DIRECTORY))?;
    for file_name in names {
        let segment = SegmentName::parse(&file_name, EXTENSION);
        if let Some(name) = segment.or_else(|| SegmentName::parse(&file_name, index::EXTENSION)) {
            let named = inspector
                .records
                .get(&name.group)
                .is_some_and(|record| record.segments.iter().any(|info| info.id == name.id))
                || inspector
                    .report()
                    .placed
                    .iter()
                    .any(|check| check.group == name.group && check.placed.segment == name.id);
            if !named && segment.is_some() {
                found.notes.push(format!("{} is not named by the newest checkpoint", name.path()));
            }
        } else {
            found.notes.push(format!("{DIRECTORY}/{file_name} is not a file of this store"));
        }
    }
    Ok(())
}

/// Shows every batch of a segment to `visit`.
pub(super) fn visit_batches(
    segment: &Segment,
    info: &SegmentInfo,
    visit: &mut dyn FnMut(&BatchReport),
) -> Result<(), InspectError> {
    let path = segment.name().path();
    let end = info.end_bytes;
    let mapping = segment.mapping(end)?;
    let mut expected = Expected::at(info);
    let mut position = FIRST_BATCH_AT;
    while position < end {
        let upto = (position + WINDOW_BYTES).min(end);
        segment.populate(&mapping, position..upto)?;
        let mut window = mapping.clone().slice(position..upto);
        let mut at = 0;
        while at < window.len() {
            let here = position + at as u64;
            let mut report = BatchReport {
                path: path.clone(),
                position: here,
                header: None,
                verdict: Verdict::Right,
            };
            let rest = &window[at..];
            if rest.len() < BATCH_HEADER_BYTES && upto < end {
                break;
            }
            let header = match check_header(rest, segment.crc_start(), here, end) {
                Ok(header) => header,
                Err(fault) => {
                    report.verdict = Verdict::Damaged(fault.to_string());
                    visit(&report);
                    return Ok(());
                }
            };
            let length = header.batch_length as usize;
            if length > rest.len() {
                if at > 0 {
                    break;
                }
                // One batch that is larger than a window.
                segment.populate(&mapping, here..here + length as u64)?;
                window = mapping.clone().slice(here..here + length as u64);
            }
            let body = &window[at + BATCH_HEADER_BYTES..at + length];
            report.header = Some(header);
            if !header.check_body_crc(body) {
                report.verdict = Verdict::Damaged(Fault::BodyChecksum.to_string());
            } else if let Some(fault) = expected.fault(&header) {
                report.verdict = Verdict::Damaged(fault.to_string());
            }
            visit(&report);
            expected.note(&header);
            at += length;
        }
        position += at as u64;
    }
    if !expected.is_end(info) {
        let what =
            format!("its last entry is {:?}, the checkpoint says {:?}", expected.last, info.last);
        let verdict = Verdict::Damaged(what);
        visit(&BatchReport { path, position: end, header: None, verdict });
    }
    Ok(())
}

/// What the next batch must be.
struct Expected {
    info: SegmentInfo,
    last: Option<LogId>,
}

impl Expected {
    fn at(info: &SegmentInfo) -> Self {
        let mut start = *info;
        start.last = None;
        start.end_offset = info.base_offset;
        start.end_bytes = FIRST_BATCH_AT;
        Self { info: start, last: None }
    }

    fn fault(&self, header: &BatchHeader) -> Option<Fault> {
        let before = self.last.or(self.info.previous);
        let follows =
            self.info.is_next(header) && before.is_none_or(|before| header.term >= before.term);
        (!follows).then(|| Fault::Sequence {
            found: header.log_id(),
            offset: header.base_offset,
            expected: self.info.end_index(),
        })
    }

    fn note(&mut self, header: &BatchHeader) {
        self.last = Some(header.log_id());
        self.info.last = self.last;
        self.info.end_offset = header.end_offset();
    }

    fn is_end(&self, info: &SegmentInfo) -> bool {
        self.last == info.last && self.info.end_offset == info.end_offset
    }
}
