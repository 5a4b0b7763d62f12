//! Which messages are settled: a floor below which all are, and a set of those above it.
//!
//! Invariant: the floor itself is not settled, and the set has nothing below it. Memory is bounded as
//! [`OffsetSet`] says: by one bit per offset between the floor and the highest settled offset, and by a
//! few items for any number of settled messages around a few that are not.

use bytes::BytesMut;
use plimsoll_protocol::ids::Offset;

use crate::codec::{Cursor, DecodeQueueError, invalid, put_u64};
use crate::offsets::{OffsetSet, Run, decode_set, encode_set};

/// The settled messages of one queue in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    floor: Offset,
    above: OffsetSet,
}

impl Settled {
    /// Everything below `floor` is settled and nothing else.
    #[must_use]
    pub fn new(floor: Offset) -> Self {
        Self { floor, above: OffsetSet::new() }
    }

    /// The lowest offset that is not settled. What lies below it, the queue needs no more.
    #[must_use]
    pub fn floor(&self) -> Offset {
        self.floor
    }

    /// How many messages above the floor are settled.
    #[must_use]
    pub fn above_floor(&self) -> u64 {
        self.above.len()
    }

    /// Whether `offset` is settled.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        offset < self.floor || self.above.contains(offset)
    }

    /// The lowest offset at `at` or above that is not settled.
    #[must_use]
    pub fn next_unsettled(&self, at: Offset) -> Offset {
        self.above.next_absent(at.max(self.floor))
    }

    /// The lowest offset at `at` or above that is settled.
    #[must_use]
    pub fn next_settled(&self, at: Offset) -> Option<Offset> {
        if at < self.floor { Some(at) } else { self.above.next_in(at) }
    }

    /// How many offsets of `run` are not settled.
    #[must_use]
    pub fn unsettled_in(&self, run: Run) -> u64 {
        let from = run.from.max(self.floor);
        if from >= run.upto {
            return 0;
        }
        let settled = self.above.count_below(run.upto) - self.above.count_below(from);
        run.upto.0 - from.0 - settled
    }

    /// Settles the offsets of `run`; says how many were not settled.
    pub fn settle(&mut self, run: Run) -> u64 {
        let from = run.from.max(self.floor);
        if from >= run.upto {
            return 0;
        }
        if from > self.floor {
            return self.above.insert_run(Run { from, upto: run.upto });
        }
        let floor = self.above.next_absent(run.upto);
        let were_settled = self.above.remove_below(floor);
        let new = floor.0 - self.floor.0 - were_settled;
        self.floor = floor;
        new
    }

    /// Bytes of memory, near enough for a metric.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.above.memory_bytes()
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        put_u64(out, self.floor.0);
        encode_set(&self.above, out);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeQueueError> {
        let floor = Offset(cursor.u64()?);
        let above = decode_set(cursor)?;
        if above.first().is_some_and(|first| first <= floor) {
            return invalid("the floor is not settled, and nothing below it is noted");
        }
        Ok(Self { floor, above })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn settled_is_what_a_naive_set_is(runs in proptest::collection::vec((0..9_000u64, 1..5_000u64), 1..20)) {
            let mut settled = Settled::default();
            let mut naive = BTreeSet::new();
            for (from, len) in runs {
                let run = Run { from: Offset(from), upto: Offset(from + len) };
                let unsettled = (from..from + len).filter(|o| !naive.contains(o)).count() as u64;
                prop_assert_eq!(settled.unsettled_in(run), unsettled);
                prop_assert_eq!(settled.settle(run), unsettled);
                naive.extend(from..from + len);
                let floor = (0..).find(|offset| !naive.contains(offset)).unwrap();
                prop_assert_eq!(settled.floor(), Offset(floor));
                prop_assert_eq!(settled.above_floor(), naive.range(floor..).count() as u64);
                for at in (0..15_000).step_by(501) {
                    prop_assert_eq!(settled.contains(Offset(at)), naive.contains(&at));
                    let next = (at..).find(|offset| !naive.contains(offset)).unwrap();
                    prop_assert_eq!(settled.next_unsettled(Offset(at)), Offset(next));
                }
            }
        }
    }

    #[test]
    fn one_message_unsettled_under_ten_million_costs_next_to_nothing() {
        let mut settled = Settled::default();
        for offset in 1..10_000_000u64 {
            settled.settle(Run::one(Offset(offset)));
        }
        assert_eq!((settled.floor(), settled.above_floor()), (Offset(0), 9_999_999));
        assert!(settled.memory_bytes() < 500, "{} bytes", settled.memory_bytes());
        settled.settle(Run::one(Offset(0)));
        assert_eq!((settled.floor(), settled.above_floor()), (Offset(10_000_000), 0));
    }
}
