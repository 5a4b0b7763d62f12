//! openraft's log storage over a group's log.
//!
//! All writes go through the node's journal in the order in which they are called, so nothing here
//! waits for an earlier write but [`LogStore::save_vote`], whose contract is to return only when
//! the vote, and with it everything queued before, is on stable storage.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds, RangeInclusive};
use std::sync::Arc;

use futures_util::{Stream, stream};
use openraft::OptionalSend;
use openraft::alias::{LeaderIdOf, LogIdOf, VoteOf};
use openraft::errors::LeaderChanged;
use openraft::storage::{
    IOFlushed, LeaderBoundedStreamError, LeaderBoundedStreamResult, LogState, RaftLogReader,
    RaftLogStorage,
};
use plimsoll_log::{Completion, FatalError, GroupLog, LogEntry};
use plimsoll_protocol::ids::{LogId, LogIndex, Offset};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::group::abandon;
use crate::shared::Shared;
use crate::types::{
    Entry, RaftLogId, RaftVote, Types, from_raft, to_raft, vote_from_raft, vote_to_raft,
};

/// Most bytes of entries that are read at once, whatever is asked for; one entry may exceed it.
const READ_BYTES_MAX: usize = 4 << 20;

/// The node's storage ended before the write was durable.
#[derive(Debug, Error)]
#[error("the write did not become durable: {0}")]
struct NotDurable(Arc<FatalError>);

/// The replicas of a group do not hold the same records.
#[derive(Debug, Error)]
#[error("entry {entry} begins at offset {expected} here and at {found} on its leader")]
struct OffsetDiffers {
    entry: LogId,
    found: Offset,
    expected: Offset,
}

/// Entries are asked for that retention has dropped.
#[derive(Debug, Error)]
#[error("entry {from} is gone; the log begins at entry {first}")]
struct Gone {
    from: u64,
    first: u64,
}

/// The group's leader lacks entries that are applied here.
#[derive(Debug, Error)]
#[error("the leader goes on from before entry {applied}, which is applied here")]
struct Overtaken {
    applied: LogId,
}

fn durable(outcome: Result<(), Arc<FatalError>>) -> Result<(), io::Error> {
    outcome.map_err(|error| io::Error::other(NotDurable(error)))
}

/// A write whose end nobody waits for: what follows it in the journal is durable after it, and a
/// failure is told by the store to the node and fails whatever comes later.
pub(crate) fn unawaited() -> Completion {
    Box::new(|_| {})
}

/// A group's log, as openraft writes it.
#[derive(Debug)]
pub(crate) struct LogStore {
    log: Arc<GroupLog>,
    shared: Arc<Shared>,
}

impl LogStore {
    pub(crate) fn new(log: Arc<GroupLog>, shared: Arc<Shared>) -> Self {
        Self { log, shared }
    }
}

impl LogStore {
    /// openraft takes back what is applied here. `Group::taken_back` refuses whatever would make it, and
    /// says what it is; this is the guard behind it.
    fn overtaken(&self, applied: LogId) -> Overtaken {
        let group = self.log.id();
        tracing::warn!(%group, %applied, "openraft takes back what is applied here");
        abandon(&self.log, &self.shared);
        Overtaken { applied }
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let bounds = self.log.bounds();
        Ok(LogState {
            last_purged_log_id: bounds.purged.map(to_raft),
            last_log_id: bounds.last.map(to_raft),
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { log: self.log.clone() }
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        // A replica that is damaged does not vote.
        if let Some(quarantined) = self.log.is_quarantined() {
            return Err(io::Error::other(quarantined));
        }
        let (sender, receiver) = oneshot::channel();
        let done: Completion = Box::new(move |outcome| {
            let _ = sender.send(outcome);
        });
        self.log.save_vote(vote_from_raft(vote), done);
        receiver.await.map_or_else(
            |_| Err(io::Error::other("the group was closed before its vote was durable")),
            durable,
        )
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log.save_committed(from_raft(&committed));
        }
        Ok(())
    }

    /// Nothing where the log no longer holds the entry: a group without durability may have lost
    /// entries that were committed.
    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>, io::Error> {
        let held = |id: &LogId| self.log.term_at(id.index) == Some(id.term);
        Ok(self.log.committed().filter(held).map(to_raft))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut expected = self.log.bounds().log_end_offset;
        let mut taken = Vec::new();
        for entry in entries {
            let fed = entry.has_offset();
            let entry = LogEntry::from(entry);
            if fed && entry.header.base_offset != expected {
                let (entry, found) = (entry.id(), entry.header.base_offset);
                self.log.set_quarantined("its leader gives an entry another offset than this log");
                return Err(io::Error::other(OffsetDiffers { entry, found, expected }));
            }
            expected = Offset(expected.0 + u64::from(entry.header.record_count));
            taken.push(entry);
        }
        let done: Completion = Box::new(move |outcome| callback.io_completed(durable(outcome)));
        self.log.append(taken, done).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let kept = last.map(|id| LogIndex(id.index));
        if let Some(applied) = self.shared.applied().filter(|applied| kept < Some(applied.index)) {
            return Err(io::Error::other(self.overtaken(applied)));
        }
        if kept >= self.log.bounds().last.map(|id| id.index) {
            return Ok(());
        }
        self.log.truncate_after(kept, unawaited()).map_err(io::Error::other)
    }

    /// Past the end of the log, after a snapshot was installed or entries were lost of a group without
    /// durability, the log is begun anew behind the purged entry. A durable log that ends before its state
    /// is quarantined when it wakes, and does not get here.
    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        let upto = from_raft(&upto);
        let bounds = self.log.bounds();
        if bounds.last.is_some_and(|last| last.index >= upto.index) {
            self.log.purge(upto, unawaited());
            return Ok(());
        }
        let progress = self.shared.progress();
        let offset = if progress.applied == Some(upto) {
            progress.high_watermark
        } else {
            bounds.log_end_offset
        };
        self.log.reset_to(upto, offset, unawaited());
        Ok(())
    }
}

/// A group's log, as openraft reads it.
#[derive(Debug, Clone)]
pub(crate) struct LogReader {
    log: Arc<GroupLog>,
}

impl LogReader {
    /// What of the asked range the log holds.
    fn held(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let bounds = self.log.bounds();
        let first = bounds.purged.map_or(0, |id| id.index.0 + 1);
        let end = bounds.last.map_or(0, |id| id.index.0 + 1);
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        from.max(first)..to.min(end)
    }

    /// The beginning of the range, bounded by bytes; nothing only if the range is empty, or no longer there.
    fn read(&self, range: Range<u64>) -> Result<Vec<LogEntry>, io::Error> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let read = self.log.read_entries(range.clone(), READ_BYTES_MAX);
        if self.held(&range).start != range.start || self.held(&range).is_empty() {
            // It was cut, or dropped, meanwhile: who asked has to look at the log anew. As an error it would
            // end the group's Raft instance.
            return Ok(Vec::new());
        }
        let entries = read.map_err(io::Error::other)?;
        assert!(
            entries.first().is_some_and(|entry| entry.header.index.0 == range.start),
            "a range of a log that is not empty begins with its first entry"
        );
        Ok(entries)
    }

    /// Entries of the range one by one, read piece by piece. `check` is asked after each piece was
    /// read and before any of it is given out.
    fn stream<E: From<io::Error>>(
        &self,
        range: Range<u64>,
        check: impl Fn(&GroupLog) -> Result<(), E>,
    ) -> impl Stream<Item = Result<Entry, E>> {
        let start = (self.clone(), range, VecDeque::new(), check, false);
        stream::unfold(start, |(reader, mut range, mut piece, check, ended)| async move {
            if ended {
                return None;
            }
            if piece.is_empty() && !range.is_empty() {
                let read = reader.read(range.clone()).map_err(E::from);
                match read.and_then(|entries| check(&reader.log).map(|()| entries)) {
                    Ok(entries) => {
                        range.start += entries.len() as u64;
                        piece = entries.into();
                    }
                    Err(error) => return Some((Err(error), (reader, range, piece, check, true))),
                }
            }
            let entry = piece.pop_front()?;
            Some((Ok(Entry::from(entry)), (reader, range, piece, check, false)))
        })
    }
}

impl RaftLogReader<Types> for LogReader {
    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderIdOf<Types>,
        range: RB,
    ) -> impl Stream<Item = LeaderBoundedStreamResult<Types>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let led = move |log: &GroupLog| {
            let vote = log.vote().map(vote_to_raft);
            match vote {
                Some(vote) if vote.leader_id == leader && vote.committed => Ok(()),
                vote => Err(LeaderBoundedStreamError::from(LeaderChanged::new(leader, vote))),
            }
        };
        let before = led(&self.log);
        let entries = self.stream(self.held(&range), led);
        let (refused, entries) = match before {
            Ok(()) => (None, Some(entries)),
            Err(changed) => (Some(Err(changed)), None),
        };
        Box::pin(futures_util::StreamExt::chain(
            stream::iter(refused),
            futures_util::StreamExt::flatten(stream::iter(entries)),
        ))
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Box::pin(self.stream(self.held(&range), |_| Ok(())))
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let mut range = self.held(&range);
        let mut entries = Vec::new();
        while !range.is_empty() {
            let piece = self.read(range.clone())?;
            if piece.is_empty() {
                break;
            }
            range.start += piece.len() as u64;
            entries.extend(piece.into_iter().map(Entry::from));
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let held = self.held(&(start..end));
        if held.start > start {
            // openraft would take a later range for the one that a member lacks.
            return Err(io::Error::other(Gone { from: start, first: held.start }));
        }
        let entries = self.read(held)?;
        Ok(entries.into_iter().map(Entry::from).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.log.vote().map(vote_to_raft))
    }

    /// The last entry of each term, found by halving with the log's own knowledge of terms.
    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<RaftLogId>,
    ) -> Result<Vec<RaftLogId>, io::Error> {
        let (first, last) = (from_raft(range.start()), from_raft(range.end()));
        let mut ids = Vec::new();
        let mut from = first;
        while from.term < last.term {
            let end = last_of_term(&self.log, from, last)?;
            ids.push(to_raft(end));
            let next = LogIndex(end.index.0 + 1);
            from = LogId::new(term_at(&self.log, next)?, next);
        }
        ids.push(to_raft(last));
        Ok(ids)
    }
}

/// The last entry of the term of `from`; the entry `last` has a later term.
fn last_of_term(log: &GroupLog, from: LogId, last: LogId) -> Result<LogId, io::Error> {
    let (mut inside, mut outside) = (from.index.0, last.index.0);
    while outside - inside > 1 {
        let middle = inside + (outside - inside) / 2;
        if term_at(log, LogIndex(middle))? == from.term {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    Ok(LogId::new(from.term, LogIndex(inside)))
}

fn term_at(log: &GroupLog, index: LogIndex) -> Result<plimsoll_protocol::ids::Term, io::Error> {
    log.term_at(index).ok_or_else(|| {
        io::Error::other(format!("entry {index} lies within the log and cannot be read"))
    })
}
