//! Admission against a naive twin that remembers every batch for ever.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::ids::{LogIndex, Offset, ProducerId, Term};
use plimsoll_state::admission::{Admission, Admitted, ProposalToken};
use plimsoll_state::partition::PartitionState;
use plimsoll_state::producers::{RECENT_BATCHES, Verdict};
use proptest::prelude::*;

/// One step of a producer or of the group.
#[derive(Debug, Clone)]
enum Step {
    /// A batch that continues its producer's numbering, `skew` sequences off.
    Send { producer: u64, newer_epochs: u32, skew: i64, count: u32 },
    /// A batch that was accepted earlier, counted from the newest, again.
    Retry { back: usize },
    /// So many entries are applied.
    Apply { entries: usize },
    /// Everything is applied, then the outcome of some proposal is declared unknown.
    Doubt,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4_u64, prop_oneof![8 => Just(0_u32), 1 => 1..3_u32],
              prop_oneof![8 => Just(0_i64), 2 => -6..6_i64], 1..4_u32)
            .prop_map(|(producer, newer_epochs, skew, count)| Step::Send { producer, newer_epochs, skew, count }),
        4 => (0..30_usize).prop_map(|back| Step::Retry { back }),
        4 => (0..12_usize).prop_map(|entries| Step::Apply { entries }),
        1 => Just(Step::Doubt),
    ]
}

/// A batch that entered the log.
#[derive(Debug, Clone, Copy)]
struct Taken {
    header: BatchHeader,
    token: ProposalToken,
}

#[derive(Default)]
struct Twin {
    log: Vec<Taken>,
    applied: usize,
}

impl Twin {
    fn of<'a>(
        &'a self,
        header: &BatchHeader,
    ) -> impl DoubleEndedIterator<Item = (usize, &'a Taken)> + use<'a> {
        let id = header.producer_id;
        self.log.iter().enumerate().filter(move |(_, taken)| taken.header.producer_id == id)
    }

    fn judge(&self, header: &BatchHeader) -> Admitted {
        let Some((_, last)) = self.of(header).next_back() else {
            let first = header.base_sequence == 0;
            return Admitted::Verdict(if first {
                Verdict::Accept
            } else {
                Verdict::UnknownProducer
            });
        };
        let (epoch, current) = (header.producer_epoch, last.header.producer_epoch);
        if epoch < current {
            return Admitted::Verdict(Verdict::StaleEpoch { current });
        }
        let after = |h: &BatchHeader| h.base_sequence + u64::from(h.record_count);
        let expected = if epoch > current { 0 } else { after(&last.header) };
        if header.base_sequence == expected {
            return Admitted::Verdict(Verdict::Accept);
        }
        if after(header) > expected {
            return Admitted::Verdict(Verdict::OutOfOrder { expected });
        }
        let mut of_epoch = self.of(header).filter(|(_, t)| t.header.producer_epoch == epoch);
        let same = of_epoch.rfind(|(_, t)| {
            t.header.base_sequence == header.base_sequence
                && t.header.record_count == header.record_count
        });
        let Some((at, same)) = same else {
            return Admitted::Verdict(Verdict::DuplicateUnknown);
        };
        if at >= self.applied {
            return Admitted::InFlightDuplicate(same.token);
        }
        let newer = self
            .of(header)
            .filter(|(i, t)| *i > at && *i < self.applied && t.header.producer_epoch == epoch)
            .count();
        // A newer epoch that is applied makes the table forget the batches of the older one; that
        // the epoch is still `current` was checked above.
        Admitted::Verdict(if newer < RECENT_BATCHES {
            Verdict::Duplicate {
                base_offset: same.header.base_offset,
                append_time_ms: same.header.append_time_ms,
            }
        } else {
            Verdict::DuplicateUnknown
        })
    }
}

#[derive(Default)]
struct Group {
    state: PartitionState,
    admission: Admission,
    twin: Twin,
    end_offset: u64,
}

impl Group {
    fn hand_in(&mut self, header: BatchHeader) {
        let admitted = self.admission.admit(self.state.producers(), &header);
        assert_eq!(admitted, self.twin.judge(&header), "{header:?}");
        if admitted != Admitted::Verdict(Verdict::Accept) {
            return;
        }
        let token = self.admission.proposed(&header);
        let index = self.twin.log.len() as u64;
        let header = BatchHeader {
            term: Term(1),
            index: LogIndex(index),
            base_offset: Offset(self.end_offset),
            append_time_ms: 1_000 + index.cast_signed(),
            ..header
        };
        self.end_offset = header.end_offset().0;
        self.twin.log.push(Taken { header, token });
    }

    fn apply(&mut self, entries: usize) {
        for _ in 0..entries {
            let Some(taken) = self.twin.log.get(self.twin.applied) else { return };
            self.state.apply(&taken.header, &Bytes::new());
            let token = self.admission.applied(&taken.header);
            assert!(token.is_none_or(|token| token == taken.token));
            self.twin.applied += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn admission_agrees_with_a_twin_that_forgets_nothing(steps in prop::collection::vec(step(), 1..120)) {
        let mut group = Group::default();
        for step in steps {
            match step {
                Step::Send { producer, newer_epochs, skew, count } => {
                    let mut header = BatchHeader {
                        producer_id: ProducerId(producer),
                        record_count: count,
                        ..BatchHeader::default()
                    };
                    if let Some((_, last)) = group.twin.of(&header).next_back() {
                        let last = last.header;
                        header.producer_epoch = last.producer_epoch + newer_epochs;
                        if newer_epochs == 0 {
                            header.base_sequence =
                                last.base_sequence + u64::from(last.record_count);
                        }
                    }
                    header.base_sequence = header.base_sequence.saturating_add_signed(skew);
                    group.hand_in(header);
                }
                Step::Retry { back } => {
                    if let Some(taken) = group.twin.log.iter().rev().nth(back) {
                        let h = taken.header;
                        group.hand_in(BatchHeader {
                            producer_id: h.producer_id,
                            producer_epoch: h.producer_epoch,
                            base_sequence: h.base_sequence,
                            record_count: h.record_count,
                            ..BatchHeader::default()
                        });
                    }
                }
                Step::Apply { entries } => group.apply(entries),
                Step::Doubt => {
                    group.apply(usize::MAX);
                    group.admission.reset();
                }
            }
        }
        group.apply(usize::MAX);
        prop_assert!(group.admission.is_empty());
    }
}
