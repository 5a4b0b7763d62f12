//! Admission: the leader's check of a batch before it is proposed.
//!
//! The offset of an entry counts the records before it, so a duplicate must never enter the log:
//! it is recognised here, against the fold of the committed log *and* the batches that this leader
//! has proposed and that are not applied yet.
//!
//! Order of calls: [`Admission::admit`]; on `Accept`, [`Admission::proposed`] before the next
//! `admit`; [`Admission::applied`] for every entry that the fold took, in log order. When the
//! outcome of a proposal is unknown or it did not enter the log, [`Admission::reset`], and admit
//! nothing until the group has applied its whole log.

use std::collections::{BTreeMap, VecDeque};

use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::ids::ProducerId;

use crate::producers::{Numbering, Place, ProducerTable, Verdict, sequence_after};

/// Names one proposal in flight, so that a retry of it can wait for its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalToken(pub u64);

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// As if everything in flight were stored.
    Verdict(Verdict),
    /// The same batch is in flight: share its outcome.
    InFlightDuplicate(ProposalToken),
}

/// A proposed batch that is not applied yet.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    epoch: u32,
    base_sequence: u64,
    record_count: u32,
    token: ProposalToken,
}

/// The batches in flight of one group in one term.
///
/// Invariant: per producer, the batches are in proposal order, which is log order.
#[derive(Debug, Default)]
pub struct Admission {
    in_flight: BTreeMap<ProducerId, VecDeque<InFlight>>,
    next_token: u64,
}

impl Admission {
    /// Nothing in flight.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges a batch against the committed table and what is in flight.
    #[must_use]
    pub fn admit(&self, committed: &ProducerTable, header: &BatchHeader) -> Admitted {
        let Some(queue) = self.in_flight.get(&header.producer_id) else {
            return Admitted::Verdict(committed.check(header));
        };
        let last = queue.back().expect("a producer without batches in flight is removed");
        let position = Numbering {
            epoch: last.epoch,
            next_sequence: last.base_sequence.saturating_add(u64::from(last.record_count)),
        };
        match position.place(header) {
            Place::Next => Admitted::Verdict(Verdict::Accept),
            Place::Refused(verdict) => Admitted::Verdict(verdict),
            Place::Earlier => {
                let same = queue.iter().find(|b| {
                    b.epoch == header.producer_epoch
                        && b.base_sequence == header.base_sequence
                        && b.record_count == header.record_count
                });
                if let Some(same) = same {
                    return Admitted::InFlightDuplicate(same.token);
                }
                Admitted::Verdict(match committed.check(header) {
                    stored @ Verdict::Duplicate { .. } => stored,
                    _ => Verdict::DuplicateUnknown,
                })
            }
        }
    }

    /// Notes an accepted batch that is now being proposed.
    pub fn proposed(&mut self, header: &BatchHeader) -> ProposalToken {
        let token = ProposalToken(self.next_token);
        self.next_token += 1;
        if header.producer_id.is_some() {
            self.in_flight.entry(header.producer_id).or_default().push_back(InFlight {
                epoch: header.producer_epoch,
                base_sequence: header.base_sequence,
                record_count: header.record_count,
                token,
            });
        }
        token
    }

    /// Notes an entry that the fold has taken. Returns its token if it was in flight here.
    pub fn applied(&mut self, header: &BatchHeader) -> Option<ProposalToken> {
        let queue = self.in_flight.get_mut(&header.producer_id)?;
        let front = queue.front()?;
        let same = front.epoch == header.producer_epoch
            && front.base_sequence == header.base_sequence
            && sequence_after(header)
                == front.base_sequence.saturating_add(u64::from(front.record_count));
        if !same {
            return None;
        }
        let token = front.token;
        queue.pop_front();
        if queue.is_empty() {
            self.in_flight.remove(&header.producer_id);
        }
        Some(token)
    }

    /// Forgets everything in flight: a new term, or a proposal whose outcome is unknown. Tokens
    /// stay unique.
    pub fn reset(&mut self) {
        self.in_flight.clear();
    }

    /// Batches in flight that are de-duplicated.
    #[must_use]
    pub fn len(&self) -> usize {
        self.in_flight.values().map(VecDeque::len).sum()
    }

    /// Whether no de-duplicated batch is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }
}
