//! What the tests of the invariants share: events as a broken product would cause them.

use plimsoll_delivery::command::{Acquired, Buried, QueueCommand, Reason, Released};
use plimsoll_delivery::offsets::Run;
use plimsoll_log::Vote;
use plimsoll_protocol::batch::EntryKind;
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, NodeId, Offset, Term};

use super::{Entry, Event, Invariant, Ledger, Life};
use crate::history::RecordName;
use crate::judged::Round;
use crate::lock::LockNews;
use crate::messages::{Delivered, Receiver};

pub(super) const GROUP: GroupId = GroupId(1);
pub(super) const LOCK: Round = Round { place: 0, number: 0 };

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

/// A ledger of one partition of the queue with so many messages, of which even offsets have key 0 and odd
/// ones key 1, and these commands.
pub(super) fn queue_ledger(messages: u32, commands: &[(LogId, QueueCommand)]) -> Ledger {
    let mut ledger = ledger(&[entry(id(1, 1), 0, messages)]);
    ledger.queue.insert(0, GROUP);
    let committed = ledger.groups.entry(GROUP).or_default();
    for offset in 0..u64::from(messages) {
        committed.by_key.entry(offset % 2).or_default().push(offset);
    }
    for (id, command) in commands {
        committed.worked.fold(*id, command);
    }
    ledger
}

impl Ledger {
    /// Says when a message is to be delivered, and when it expires.
    pub(super) fn set_times(
        &mut self,
        group: GroupId,
        offset: u64,
        deliver_at: Option<i64>,
        expires_at: Option<i64>,
    ) {
        let committed = self.groups.entry(group).or_default();
        committed.deliver_at.extend(deliver_at.map(|at| (offset, at)));
        committed.expires_at.extend(expires_at.map(|at| (offset, at)));
    }
}

/// The message that is named by its offset.
pub(super) fn delivered(to: Receiver, offset: u64, attempt: u32) -> Delivered {
    Delivered { to, partition: 0, offset, attempt, message: name(offset), key: None }
}

fn one(offset: u64) -> Run {
    Run::one(Offset(offset))
}

pub(super) fn settle(offsets: impl IntoIterator<Item = u64>) -> QueueCommand {
    QueueCommand::Settle { runs: offsets.into_iter().map(one).collect() }
}

pub(super) fn acquire(offset: u64, attempt: u32) -> QueueCommand {
    QueueCommand::Acquire { items: vec![Acquired { run: one(offset), attempt }] }
}

pub(super) fn release(offset: u64, attempt: u32) -> QueueCommand {
    let offset = Offset(offset);
    QueueCommand::Release { items: vec![Released { offset, attempt, delayed_until: None }] }
}

pub(super) fn bury(offset: u64, reason: Reason) -> QueueCommand {
    QueueCommand::DeadLetter { items: vec![Buried { run: one(offset), attempts: 1, reason }] }
}

/// The first process of a node leads.
pub(super) fn leads(node: u64, term: u64) -> Event<'static> {
    let (at, term) = (life(node, 1), Term(term));
    Event::Leads { at, group: GROUP, term, last: None, term_at_committed: None }
}

pub(super) fn leads_no_more(node: u64) -> Event<'static> {
    Event::LeadsNoMore { at: life(node, 1), group: GROUP }
}

/// A client was told at `at_ms` of a grant that it asked for at `invoked`.
pub(super) fn granted(request: u64, token: u64, invoked: u64, at_ms: u64) -> Event<'static> {
    let news = LockNews::Granted { lock: LOCK, request, token, invoked, guards: true };
    Event::Lock { at_ms, news }
}

/// The record of this number is sent under a token.
pub(super) fn writing(number: u64, token: u64) -> Event<'static> {
    let news = LockNews::Writing { record: name(number), lock: LOCK, token };
    Event::Lock { at_ms: 0, news }
}

/// It is in the log.
pub(super) fn stored(number: u64) -> Event<'static> {
    Event::FencedWrite { partition: 0, offset: number, record: name(number) }
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
