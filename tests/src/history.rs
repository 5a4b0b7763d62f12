//! What was sent and what became of it, and the check of a log against it.
//!
//! A writer numbers its records in each partition from 0 and sends them in that order. So a partition's
//! log must hold, of each writer, rising numbers: every acknowledged one at the offset that was
//! acknowledged, none twice, none that was certainly refused, nothing that nobody sent. A record whose
//! outcome is unknown may be there or not.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plimsoll_client::SendError;
use tokio::sync::watch;

use crate::wait::PATIENCE;

/// A writer's records in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream {
    /// The topic.
    pub topic: &'static str,
    /// The partition.
    pub partition: u32,
    /// The writer.
    pub writer: u32,
}

/// What is known of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was sent; or its outcome is unknown for good.
    Unknown,
    /// It was acknowledged, at this offset where one was named.
    Acked(Option<u64>),
    /// It is certainly not stored.
    Refused,
}

/// How many records came to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sent.
    pub sent: u64,
    /// Acknowledged.
    pub acked: u64,
    /// Certainly not stored.
    pub refused: u64,
    /// Sent, and neither acknowledged nor refused.
    pub unknown: u64,
}

/// All records of all writers.
#[derive(Debug)]
pub struct History {
    state: Mutex<State>,
    acked: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    streams: BTreeMap<Stream, Vec<Outcome>>,
    writers: u32,
    failures: Vec<String>,
    last_ack: Instant,
    longest_gap: Duration,
}

impl Default for History {
    fn default() -> Self {
        let state = State {
            streams: BTreeMap::new(),
            writers: 0,
            failures: Vec::new(),
            last_ack: Instant::now(),
            longest_gap: Duration::ZERO,
        };
        Self { state: Mutex::new(state), acked: watch::Sender::new(0) }
    }
}

impl History {
    /// A number that no other writer has.
    pub fn new_writer(&self) -> u32 {
        let mut state = self.state();
        state.writers += 1;
        state.writers
    }

    /// Notes that a record is about to be sent, and returns its number.
    pub fn sending(&self, stream: Stream) -> u64 {
        let mut state = self.state();
        let outcomes = state.streams.entry(stream).or_default();
        outcomes.push(Outcome::Unknown);
        outcomes.len() as u64 - 1
    }

    /// Notes an acknowledgement.
    ///
    /// # Panics
    /// When the record was not sent, or was settled before.
    pub fn acked(&self, stream: Stream, sequence: u64, offset: Option<u64>) {
        let mut state = self.state();
        state.settle(stream, sequence, Outcome::Acked(offset));
        let now = Instant::now();
        state.longest_gap = state.longest_gap.max(now - state.last_ack);
        state.last_ack = now;
        drop(state);
        self.acked.send_modify(|acked| *acked += 1);
    }

    /// Notes that a record was given up.
    pub fn failed(&self, stream: Stream, sequence: u64, error: &SendError) {
        let mut state = self.state();
        if error.is_definite() {
            state.settle(stream, sequence, Outcome::Refused);
        }
        state.failures.push(format!("{stream:?}, record {sequence}: {error}"));
    }

    /// Acknowledged records of all streams.
    pub fn acked_in_all(&self) -> u64 {
        *self.acked.borrow()
    }

    /// Waits until `more` records are acknowledged than now.
    ///
    /// # Panics
    /// When they are not within [`PATIENCE`].
    pub async fn wait_for_acks(&self, more: u64) {
        let target = self.acked_in_all() + more;
        let mut acked = self.acked.subscribe();
        let reached = acked.wait_for(|acked| *acked >= target);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "no {more} acknowledgements within {PATIENCE:?}");
    }

    /// How many records came to what.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for outcome in self.state().streams.values().flatten() {
            totals.sent += 1;
            match outcome {
                Outcome::Unknown => totals.unknown += 1,
                Outcome::Acked(_) => totals.acked += 1,
                Outcome::Refused => totals.refused += 1,
            }
        }
        totals
    }

    /// What went wrong with records that were given up.
    pub fn failures(&self) -> Vec<String> {
        self.state().failures.clone()
    }

    /// The longest time between two acknowledgements of any records.
    pub fn longest_gap(&self) -> Duration {
        self.state().longest_gap
    }

    /// Compares the log of a partition, from offset 0 on, with what was sent. Each entry is a record's
    /// writer and number.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn check(
        &self,
        topic: &'static str,
        partition: u32,
        log: &[(u32, u64)],
    ) -> Result<(), String> {
        let state = self.state();
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        for (offset, (writer, sequence)) in (0..).zip(log) {
            let stream = Stream { topic, partition, writer: *writer };
            let due = next.entry(*writer).or_default();
            if sequence < due {
                return Err(format!("{stream:?}, offset {offset}: {sequence} again, or late"));
            }
            state.none_acked(stream, *due..*sequence)?;
            *due = sequence + 1;
            match state.outcome(stream, *sequence) {
                None => {
                    return Err(format!("{stream:?}, offset {offset}: {sequence} was not sent"));
                }
                Some(Outcome::Refused) => {
                    return Err(format!("{stream:?}, offset {offset}: {sequence} was refused"));
                }
                Some(Outcome::Acked(Some(acked))) if acked != offset => {
                    return Err(format!(
                        "{stream:?}: {sequence} is at {offset}, acknowledged at {acked}"
                    ));
                }
                Some(Outcome::Acked(_) | Outcome::Unknown) => {}
            }
        }
        for (stream, outcomes) in &state.streams {
            if (stream.topic, stream.partition) == (topic, partition) {
                let stored = next.get(&stream.writer).copied().unwrap_or_default();
                state.none_acked(*stream, stored..outcomes.len() as u64)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn outcome(&self, stream: Stream, sequence: u64) -> Option<Outcome> {
        let index = usize::try_from(sequence).ok()?;
        self.streams.get(&stream)?.get(index).copied()
    }

    fn settle(&mut self, stream: Stream, sequence: u64, outcome: Outcome) {
        let outcomes = self.streams.get_mut(&stream).expect("it was sent");
        let index = usize::try_from(sequence).expect("an index");
        assert_eq!(outcomes[index], Outcome::Unknown, "{stream:?}, {sequence}: settled twice");
        outcomes[index] = outcome;
    }

    fn none_acked(&self, stream: Stream, missing: std::ops::Range<u64>) -> Result<(), String> {
        for sequence in missing {
            if let Some(Outcome::Acked(offset)) = self.outcome(stream, sequence) {
                return Err(format!("{stream:?}: {sequence}, acknowledged at {offset:?}, is lost"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const STREAM: Stream = Stream { topic: "t", partition: 0, writer: 1 };

    /// Records 0 to 4: 0 and 2 acknowledged, 1 and 4 unknown, 3 refused.
    fn history() -> History {
        let history = History::default();
        for sequence in 0..5 {
            assert_eq!(history.sending(STREAM), sequence);
        }
        history.acked(STREAM, 0, Some(0));
        history.acked(STREAM, 2, Some(1));
        history.failed(STREAM, 3, &SendError::Closed);
        history.failed(STREAM, 4, &SendError::OutcomeUnknown { reason: Arc::from("lost") });
        history
    }

    #[test]
    fn what_is_acknowledged_must_be_there_and_what_is_unknown_may() {
        let history = history();
        assert_eq!(history.check("t", 0, &[(1, 0), (1, 2)]), Ok(()));
        assert_eq!(history.check("t", 0, &[(1, 0), (1, 2), (1, 4)]), Ok(()));
        assert_eq!(history.totals(), Totals { sent: 5, acked: 2, refused: 1, unknown: 2 });
        assert_eq!(history.failures().len(), 2);
    }

    #[test]
    fn each_way_to_break_the_promise_is_seen() {
        let history = history();
        let broken = |log: &[(u32, u64)]| history.check("t", 0, log).unwrap_err();
        assert!(broken(&[(1, 0)]).contains("is lost"), "the end is missing");
        assert!(broken(&[(1, 2)]).contains("is lost"), "the begin is missing");
        assert!(broken(&[(1, 0), (1, 0), (1, 2)]).contains("again"));
        assert!(broken(&[(1, 0), (1, 2), (1, 1)]).contains("again, or late"));
        assert!(broken(&[(1, 0), (1, 1), (1, 2)]).contains("acknowledged at 1"));
        assert!(broken(&[(1, 0), (1, 2), (1, 3)]).contains("was refused"));
        assert!(broken(&[(1, 0), (1, 2), (1, 5)]).contains("was not sent"));
        assert!(broken(&[(1, 0), (1, 2), (2, 0)]).contains("was not sent"));
    }
}
