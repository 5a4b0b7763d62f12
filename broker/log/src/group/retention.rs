//! Retention: whole closed segments go from the front of a log, by age or by size.

use plimsoll_protocol::ids::{LogId, LogIndex, Offset};

use super::GroupLog;
use super::front::Front;
use crate::entry::{Change, Start};
use crate::segment::SegmentInfo;

/// How much of a log is kept. `None` does not limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Segments whose last append is older than this go, in milliseconds.
    pub max_age_ms: Option<u64>,
    /// Segments go from the front while the log has more bytes than this.
    pub max_bytes: Option<u64>,
}

/// What retention took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetainOutcome {
    /// Segments that went.
    pub segments: u32,
    /// Their bytes. The space is free after the second checkpoint from now.
    pub bytes: u64,
    /// First offset that can be read now.
    pub log_start_offset: Offset,
}

/// How far retention may go at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetainLimit {
    /// Records before this offset may go.
    pub offset: Offset,
    /// Entries up to and with this one may go: entries without records have no offsets of their own.
    pub last: LogIndex,
}

impl From<Offset> for RetainLimit {
    /// Only records are to be kept.
    fn from(offset: Offset) -> Self {
        Self { offset, last: LogIndex(u64::MAX) }
    }
}

impl GroupLog {
    /// Takes segments from the front that `policy` no longer wants: closed ones, and the last one
    /// where all of it has expired. Never goes beyond `limit`, nor beyond what was applied,
    /// nor touches a quarantined group. The front of the log moves at once; files are removed once no
    /// kept checkpoint names them.
    pub fn retain(
        &self,
        policy: &Retention,
        now_ms: i64,
        limit: impl Into<RetainLimit>,
    ) -> RetainOutcome {
        let back = self.back_as_it_is();
        let front = self.front.lock();
        let (outcome, dropped) = plan(&front, back, policy, now_ms, limit.into());
        if let Some(start) = dropped {
            let mut front = front;
            let change = Change::Start(start);
            front.marks.apply(&change);
            self.push(front, change, None);
        }
        outcome
    }

    /// The last entry that [`GroupLog::retain`] would take, and a limit that lets it take just as much.
    #[must_use]
    pub fn retention_end(
        &self,
        policy: &Retention,
        now_ms: i64,
        limit: RetainLimit,
    ) -> Option<(LogId, RetainLimit)> {
        let back = self.back_as_it_is();
        let (_, dropped) = plan(&self.front.lock(), back, policy, now_ms, limit);
        dropped.map(|start| {
            (start.dropped, RetainLimit { offset: start.offset, last: start.dropped.index })
        })
    }

    /// Bytes of the segments that hold this entry and those behind it. Never waits for the disk.
    #[must_use]
    pub fn bytes_from(&self, index: LogIndex) -> u64 {
        let back = self.back.lock();
        let held = back.segments.iter().filter(|slot| slot.info.end_index() > index);
        held.map(|slot| slot.info.end_bytes).sum()
    }

    fn back_as_it_is(&self) -> (Vec<SegmentInfo>, u64) {
        let back = self.back.lock();
        (back.segments.iter().map(|slot| slot.info).collect(), back.generation)
    }

    /// First index whose entry is still kept, purged or not.
    #[must_use]
    pub fn first_kept_index(&self) -> LogIndex {
        self.front.lock().marks.start_index
    }
}

/// What retention takes, and where the log begins then.
fn plan(
    front: &Front,
    (segments, generation): (Vec<SegmentInfo>, u64),
    policy: &Retention,
    now_ms: i64,
    limit: RetainLimit,
) -> (RetainOutcome, Option<Start>) {
    let mut outcome =
        RetainOutcome { log_start_offset: front.marks.start_offset, ..Default::default() };
    // A log that is being installed, emptied or compacted has other segments.
    if front.quarantined.is_some() || front.deleted || front.generation != generation {
        return (outcome, None);
    }
    let oldest_ms =
        policy.max_age_ms.map(|age| now_ms.saturating_sub(i64::try_from(age).unwrap_or(i64::MAX)));
    let start = front.marks.start_index;
    let kept: Vec<_> =
        segments.iter().filter(|info| info.last.is_some_and(|l| l.index >= start)).collect();
    let mut bytes: u64 = kept.iter().map(|info| info.end_bytes).sum();
    let mut dropped = None;
    for (at, info) in kept.iter().enumerate() {
        let closed = info.sealed || at + 1 < kept.len();
        // Blank and membership entries carry no time. A closed segment of only those has no age that could ever
        // be over, and nothing to keep: it goes when its turn comes, or all behind it would stay for good.
        let expired = match info.max_append_ms > 0 {
            true => oldest_ms.is_some_and(|oldest| info.max_append_ms < oldest),
            false => oldest_ms.is_some() && closed,
        };
        let oversize = closed && policy.max_bytes.is_some_and(|max| bytes > max);
        let last = info.last.expect("empty segments were left out");
        let is_safe = info.end_offset <= limit.offset
            && last.index <= limit.last
            && front.is_written_and_applied(last.index)
            && front.marks.last.is_some_and(|end| last.index <= end.index);
        if !(expired || oversize) || !is_safe {
            break;
        }
        bytes -= info.end_bytes;
        dropped = Some(Start { offset: info.end_offset, dropped: last });
        outcome.segments += 1;
        outcome.bytes += info.end_bytes;
        outcome.log_start_offset = info.end_offset;
    }
    (outcome, dropped)
}
