//! A range of offsets, and a list of ranges as control entries carry it.

use plimsoll_protocol::ids::Offset;

/// Offsets from `from` (inclusive) to `upto` (exclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The first offset.
    pub from: Offset,
    /// The offset behind the last one. Invariant: `from <= upto`.
    pub upto: Offset,
}

impl Run {
    /// The run of one offset.
    ///
    /// # Panics
    /// For the offset `u64::MAX`, which no record has.
    #[must_use]
    pub fn one(offset: Offset) -> Self {
        let upto = offset.0.checked_add(1).expect("offsets end below u64::MAX");
        Self { from: offset, upto: Offset(upto) }
    }

    /// How many offsets it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.upto.0.saturating_sub(self.from.0)
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.upto <= self.from
    }

    /// Whether `offset` is one of them.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        (self.from..self.upto).contains(&offset)
    }

    /// Its offsets, in order.
    pub fn offsets(&self) -> impl Iterator<Item = Offset> + use<> {
        (self.from.0..self.upto.0).map(Offset)
    }
}

/// Runs in rising order that do not touch: one way to write each set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Runs(Vec<Run>);

impl Runs {
    /// Takes runs in any order; they may overlap.
    #[must_use]
    pub fn from_unsorted(mut runs: Vec<Run>) -> Self {
        runs.retain(|run| !run.is_empty());
        runs.sort_unstable();
        runs.dedup_by(|next, last| {
            let touches = next.from <= last.upto;
            if touches {
                last.upto = last.upto.max(next.upto);
            }
            touches
        });
        Self(runs)
    }

    /// Takes runs that a decoder has checked.
    pub(super) fn from_checked(runs: Vec<Run>) -> Self {
        Self(runs)
    }

    /// The runs, from the lowest.
    pub fn iter(&self) -> impl Iterator<Item = Run> + '_ {
        self.0.iter().copied()
    }

    /// How many runs there are.
    #[must_use]
    pub fn run_count(&self) -> usize {
        self.0.len()
    }

    /// How many offsets are in them.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().fold(0, |sum, run| sum.saturating_add(run.len()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Run> for Runs {
    fn from_iter<I: IntoIterator<Item = Run>>(runs: I) -> Self {
        Self::from_unsorted(runs.into_iter().collect())
    }
}

impl FromIterator<Offset> for Runs {
    fn from_iter<I: IntoIterator<Item = Offset>>(offsets: I) -> Self {
        offsets.into_iter().map(Run::one).collect()
    }
}
