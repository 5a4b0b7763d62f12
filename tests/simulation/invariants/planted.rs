//! What the tests of the invariants share: events as a broken product would cause them.

use plimsoll_log::Vote;
use plimsoll_protocol::batch::EntryKind;
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, NodeId, Term};

use super::{Entry, Event, Invariant, Ledger, Life};
use crate::history::RecordName;

pub(super) const GROUP: GroupId = GroupId(1);

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term(term), LogIndex(index))
}

pub(super) fn life(node: u64, life: u32) -> Life {
    Life { node, life }
}

pub(super) fn entry(id: LogId, base_offset: u64, record_count: u32) -> Entry {
    Entry {
        id,
        kind: EntryKind::Records,
        base_offset,
        record_count,
        producer: (7, 0, base_offset),
        body_crc: 1,
        bytes: 100,
    }
}

pub(super) fn vote(term: u64, node: u64, committed: bool) -> Vote {
    Vote { term: Term(term), voted_for: NodeId(node), committed }
}

pub(super) fn name(number: u64) -> RecordName {
    RecordName { producer: 0, number }
}

/// A ledger of one partition in which these entries were committed; records are named by their
/// offsets.
pub(super) fn ledger(entries: &[Entry]) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.partitions.insert(0, GROUP);
    let committed = ledger.groups.entry(GROUP).or_default();
    for entry in entries {
        for offset in entry.base_offset..entry.base_offset + u64::from(entry.record_count) {
            committed.records.push(name(offset));
            committed.offsets.entry(name(offset)).or_default().push(offset);
        }
        committed.entries.push(entry.clone());
    }
    committed.first_index = entries.first().map_or(0, |entry| entry.id.index.0);
    ledger
}

/// All of `fine` pass, and the last event does not.
pub(super) fn assert_fires(
    mut invariant: impl Invariant,
    ledger: &Ledger,
    fine: &[Event<'_>],
    broken: &Event<'_>,
) {
    for event in fine {
        invariant.judge(event, ledger).unwrap();
    }
    assert!(invariant.judge(broken, ledger).is_err(), "{broken:?} passed");
}
